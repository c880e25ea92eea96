"""The client's address behind proxies: what the socket says, or what proxies that we trust say.

Owns the rule of the right-most untrusted hop. Pure: no socket, no counting. A header can be written by anybody; each
proxy adds the address it was reached from at the end. So hops are read from the right, as long as those who vouch for
them are trusted, and what stands to the left of the first stranger is that stranger's word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, Literal

from .handshake import RawHeaders, values

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
ProxyHeader = Literal["x-forwarded-for", "forwarded"]

HOPS_MAX: Final = 16
"""Hops read, from the right. No chain of one's own proxies is longer, and a head could name four thousand."""

_PAIR: Final = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([!#$%&'*+.^_`|~0-9A-Za-z-]+|"(?:[^"\\]|\\.)*")[ \t]*(;|\Z)"""
)
"""One parameter of an element of a Forwarded header (RFC 7239 §4), and what ends it."""


class Proxies:
    """The proxies of this installation, and the one header in which they say whom they speak for."""

    __slots__ = ("_header", "_networks")

    def __init__(self, networks: Iterable[Network] = (), header: ProxyHeader = "x-forwarded-for") -> None:
        """Only one header is read. A proxy writes one and lets the other pass as the client sent it."""
        self._networks = tuple(networks)
        self._header = header

    def trusts(self, peer: str) -> bool:
        """Whether this peer is a proxy: then its address says nothing about the client, and caps by address have to
        wait for the head."""
        address = _address(peer.partition("%")[0])
        return address is not None and self._inside(address)

    def client_address(self, peer: str, headers: RawHeaders) -> str:
        """The address to count, limit and log: the right-most hop that is no trusted proxy; without one the
        left-most. A hop that is no address (`unknown`, nonsense) is not passed: then the proxy that named it is the
        last thing known for certain. `peer` is the socket's own; a peer that is no proxy is the client."""
        if not self._networks or not self.trusts(peer):
            return peer
        nearest = peer
        for hop in self._hops(headers):
            address = _address(hop)
            if address is None:
                break
            nearest = str(address)
            if not self._inside(address):
                break
        return nearest

    def _inside(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _hops(self, headers: RawHeaders) -> Sequence[str]:
        """What the header names, nearest first. Several lines are one list (RFC 9110 §5.3)."""
        text = ",".join(values(headers, self._header.encode()))
        if not text:
            return ()
        if self._header == "forwarded":
            return [_without_port(_for_of(element)) for element in _elements(text)]
        return [_without_port(hop.strip(" \t")) for hop in reversed(text.rsplit(",", HOPS_MAX)[-HOPS_MAX:])]


def _elements(text: str) -> list[str]:
    """The last elements of a Forwarded header, nearest first. Split from the right: quotes that a client left open
    must not swallow what a proxy wrote behind them."""
    found: list[str] = []
    end, quoted = len(text), False
    for at in range(len(text) - 1, -1, -1):
        if text[at] == '"' and not _escaped(text, at):
            quoted = not quoted
        elif text[at] == "," and not quoted:
            found.append(text[at + 1 : end])
            end = at
            if len(found) == HOPS_MAX:
                return found
    return [*found, text[:end]]


def _escaped(text: str, at: int) -> bool:
    """Whether the character there has an odd number of backslashes before it."""
    first = at
    while first and text[first - 1] == "\\":
        first -= 1
    return (at - first) % 2 == 1


def _for_of(element: str) -> str:
    """The `for` of an element; nothing if it has none or two, or breaks the grammar."""
    found: list[str] = []
    at = 0
    while True:
        pair = _PAIR.match(element, at)
        if pair is None:
            return ""
        name, value, end = pair.groups()
        if name.lower() == "for":
            found.append(re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value)
        if not end:
            return found[0] if len(found) == 1 else ""
        at = pair.end()


def _without_port(hop: str) -> str:
    """`192.0.2.1:80`, `[2001:db8::1]` and `[2001:db8::1]:80` as their address; anything else as it is."""
    if hop.startswith("["):
        address, bracket, port = hop[1:].partition("]")
        return address if bracket and (not port or _is_port(port)) and ":" in address else hop
    address, colon, port = hop.partition(":")
    return address if colon and _is_port(colon + port) and "." in address else hop


def _is_port(text: str) -> bool:
    return re.fullmatch(r":[0-9]{1,5}", text) is not None


def _address(text: str) -> Address | None:
    """IPv4 also where it comes in its IPv6 form, so that one network covers both. No zone: it names an interface of
    the machine that wrote it."""
    if "%" in text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
