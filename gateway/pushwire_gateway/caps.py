"""How many connections there may be: counters by address, by subject and in total.

Owns the counting and nothing else: no clock, no socket, no rate (throttle.py has those). Whatever takes a place gets
an object that gives it back, once: a place given back twice would let a client in that the limit keeps out.
"""

from __future__ import annotations

import resource
from collections.abc import Hashable
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, Literal

from .settings import Settings

DESCRIPTORS_RESERVED: Final = 512
"""File descriptors kept for the database, its readers, logs and the accept queue: under EMFILE old clients would live
on while the store could not open a file. The accept queue takes at most 128 of them in one loop turn."""

CONNECTIONS_MIN: Final = 16
"""However few descriptors there are, so many connections are tried: below that nothing works at all."""

IPV6_SITE_BITS: Final = 64
"""One client may own the lower 64 bits of an IPv6 address (RFC 6177 §2), so the upper 64 are what is counted."""

_MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"
"""::ffff:0:0/96, IPv4 as an IPv6 socket sees it (RFC 4291 §2.5.5.2)."""

PROXY: Final = "proxy"
"""What a connection is counted as that comes from a trusted proxy, until its head names a client: limits by address
say nothing about it."""

Scope = Literal["total", "address", "unauthenticated", "unauthenticated_address"]


def open_files_max() -> int:
    """File descriptors this process may have, after raising the soft limit to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return 2**20 if soft == resource.RLIM_INFINITY else soft
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def network_of(ip: str) -> bytes:
    """What an address counts as, for every limit by address: IPv4 itself (4 bytes), also in its IPv6 form; IPv6 its /64
    (8 bytes), in whatever zone; anything else as one (none)."""
    try:
        if ":" not in ip:
            return inet_pton(AF_INET, ip)
        packed = inet_pton(AF_INET6, ip.partition("%")[0])
    except (OSError, ValueError):  # ValueError: NUL or a lone surrogate
        return b""
    return packed[12:] if packed.startswith(_MAPPED_PREFIX) else packed[: IPV6_SITE_BITS // 8]


class _Counts:
    """A counter a key; keys at zero are forgotten, so memory follows the connections that exist."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def of(self, key: Hashable) -> int:
        return self._counts.get(key, 0)

    def add(self, key: Hashable) -> None:
        self._counts[key] = self._counts.get(key, 0) + 1

    def remove(self, key: Hashable) -> None:
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]


class Seat:
    """One connection's place among those of its subject."""

    __slots__ = ("_counts", "_key")

    def __init__(self, counts: _Counts, key: Hashable) -> None:
        self._counts: _Counts | None = counts
        self._key = key

    def release(self) -> None:
        """Give the place back. Only the first call has an effect."""
        counts, self._counts = self._counts, None
        if counts is not None:
            counts.remove(self._key)


class Admission:
    """One accepted connection's place: among all, among those of its address and, at first, among those that have
    shown no token."""

    __slots__ = ("_caps", "_unauthenticated", "network")

    def __init__(self, caps: Caps, network: Hashable) -> None:
        self._caps: Caps | None = caps
        self.network = network
        """What its address counts as; for rates, too."""
        self._unauthenticated = True

    def authenticated(self) -> None:
        """The client has shown a good token. Only the first call has an effect, and none after `release`."""
        if self._caps is not None and self._unauthenticated:
            self._unauthenticated = False
            self._caps.authenticate(self.network)

    def locate(self, ip: str) -> Scope | None:
        """The client's address, now that its proxy has named it. Returns the limit that is reached, and then counts
        as before."""
        caps, network = self._caps, network_of(ip)
        if caps is None or network == self.network:
            return None
        full = caps.full_at(network)
        if full is None:
            caps.move(self.network, network, unauthenticated=self._unauthenticated)
            self.network = network
        return full

    def release(self) -> None:
        """The connection is gone. Only the first call has an effect."""
        caps, self._caps = self._caps, None
        if caps is not None:
            if self._unauthenticated:
                caps.authenticate(self.network)
            caps.leave(self.network)


class Caps:
    """Every limit on how many."""

    def __init__(self, settings: Settings, descriptors: int | None = None) -> None:
        """`descriptors` is how many files the process may open; None: ask the system, raising the soft limit."""
        available = open_files_max() if descriptors is None else descriptors
        self.connections_max = min(settings.connections_max, max(CONNECTIONS_MIN, available - DESCRIPTORS_RESERVED))
        self._per_address_max = settings.connections_per_ip
        self._unauthenticated_max = settings.unauthenticated_max
        self._unauthenticated_per_address_max = settings.unauthenticated_per_ip
        self._by_address = _Counts()
        self._unauthenticated_by_address = _Counts()
        self._by_subject = _Counts()
        self.connections = 0
        self.unauthenticated = 0

    def connect(self, ip: str, *, proxied: bool = False) -> Admission | Scope:
        """A place for one more connection of this address, or the name of the limit that is reached. `proxied`: the
        address is a proxy's, and the client's comes later (`Admission.locate`)."""
        network = PROXY if proxied else network_of(ip)
        full = self._full(network)
        if full is not None:
            return full
        self.connections += 1
        self.unauthenticated += 1
        self._by_address.add(network)
        self._unauthenticated_by_address.add(network)
        return Admission(self, network)

    def _full(self, network: Hashable) -> Scope | None:
        # The address first: a client that may change something about its refusal should be told so.
        at = self.full_at(network)
        if at is not None:
            return at
        if self.connections >= self.connections_max:
            return "total"
        if self.unauthenticated >= self._unauthenticated_max:
            return "unauthenticated"
        return None

    def full_at(self, network: Hashable) -> Scope | None:
        """For Admission only: the limit of one address that is reached there."""
        if network == PROXY:
            return None
        if 0 < self._per_address_max <= self._by_address.of(network):  # 0: off
            return "address"
        if self._unauthenticated_by_address.of(network) >= self._unauthenticated_per_address_max:
            return "unauthenticated_address"
        return None

    def move(self, before: Hashable, after: Hashable, *, unauthenticated: bool) -> None:
        """For Admission only."""
        self._by_address.remove(before)
        self._by_address.add(after)
        if unauthenticated:
            self._unauthenticated_by_address.remove(before)
            self._unauthenticated_by_address.add(after)

    def take_subject(self, tenant: str, subject: str, limit: int) -> Seat | None:
        """A place among the connections of this subject, or None when it has `limit` of them."""
        key = (tenant, subject)
        if self._by_subject.of(key) >= limit:
            return None
        self._by_subject.add(key)
        return Seat(self._by_subject, key)

    def authenticate(self, network: Hashable) -> None:
        """For Admission only."""
        self.unauthenticated -= 1
        self._unauthenticated_by_address.remove(network)

    def leave(self, network: Hashable) -> None:
        """For Admission only."""
        self.connections -= 1
        self._by_address.remove(network)
