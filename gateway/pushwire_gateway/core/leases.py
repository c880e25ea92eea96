"""Who holds what until when: granting, finding, extending and expiring leases.

Owns the lease tokens and the deadlines. Decides nothing about what becomes of a message whose lease ended:
endings.py does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from .model import LEASED, Pending, Session, Subscription

PREFIX_DIGITS = 3
"""Base-32 digits of a subscription's number inside its session's lease prefix: 32,768 at once, above any cap."""
LEFT_MAX = 64
"""Entries of subscriptions that have left, beside as many as there are others, before the heap is built anew: so that
each one's removal costs no more than its push."""
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def subscription_prefix(session: Session) -> str:
    """The lease prefix of a session's next subscription: the lowest number not in use. A number may be used again,
    because the counter behind the prefix runs for the whole session: no token ever comes twice."""
    number = 0
    while True:
        text = "".join(_ALPHABET[number >> shift & 31] for shift in (10, 5, 0))
        prefix = session.lease_prefix + text
        if prefix not in session.subs_by_prefix:
            return prefix
        number += 1


class Deadlines:
    """One heap entry for each subscription that holds leases: the deadline its oldest lease had when it was armed.

    An entry outlives the leases it was made for, by up to one ack timeout. It must not keep a subscription alive that
    has left, and with it a whole connection: consumers that come and go would fill the memory for many minutes.
    """

    __slots__ = ("_heap", "_left", "_serial")

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []  # [deadline, serial, Subscription, or None once it has left]
        self._left = 0  # entries whose subscription has left
        self._serial = 0

    def arm(self, sub: Subscription, deadline: float) -> None:
        if sub.armed is None:
            self._serial += 1
            sub.armed = [deadline, self._serial, sub]
            heappush(self._heap, sub.armed)

    def drop(self, sub: Subscription) -> None:
        """The subscription has left, and holds nothing any more."""
        if sub.armed is None:
            return
        sub.armed[2] = None
        sub.armed = None
        self._left += 1
        if self._left > len(self._heap) // 2 + LEFT_MAX:
            self._heap = [entry for entry in self._heap if entry[2] is not None]
            heapify(self._heap)
            self._left = 0

    def next(self) -> float | None:
        """When to call `expired`. May be early: the lease that armed an entry may have been settled since."""
        return self._heap[0][0] if self._heap else None

    def expired(self, now: float) -> list[tuple[Subscription, list[Pending]]]:
        """Take every lease whose deadline has come out of its subscription."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            sub: Subscription | None = heappop(self._heap)[2]
            if sub is None:
                self._left -= 1
                continue
            sub.armed = None
            late = []
            for pending in sub.leases.values():
                if pending.deadline > now:
                    break
                late.append(pending)
            for pending in late:
                del sub.leases[pending.lease]
            if sub.leases:
                self.arm(sub, next(iter(sub.leases.values())).deadline)
            if late:
                found.append((sub, late))
        return found


def grant(sub: Subscription, messages: Sequence[Pending], now: float, deadlines: Deadlines) -> None:
    """Lease these to the subscription. The caller has checked its window."""
    session = sub.session
    prefix = sub.prefix
    leases = sub.leases
    deadline = now + sub.ack_timeout_s
    number = session.lease_count
    size_bytes = 0
    for pending in messages:
        number += 1
        pending.lease_no = number
        pending.lease = lease = f"{prefix}{number:x}"
        pending.deliveries += 1
        pending.granted_at = now
        pending.deadline = deadline
        pending.place = LEASED
        leases[lease] = pending
        size_bytes += pending.message.size_bytes
    session.lease_count = number
    session.bytes_in_flight += size_bytes
    deadlines.arm(sub, deadline)


def find(
    session: Session, leases: Iterable[str], remove: bool
) -> tuple[list[tuple[Subscription, list[Pending]]], list[str]]:
    """The pending messages behind these lease tokens, by subscription, and the tokens that hold nothing any more."""
    found: dict[Subscription, list[Pending]] = {}
    stale: list[str] = []
    prefix_chars = len(session.lease_prefix) + PREFIX_DIGITS
    subs = session.subs_by_prefix
    for token in leases:
        sub = subs.get(token[:prefix_chars])
        pending = None if sub is None else sub.leases.pop(token, None) if remove else sub.leases.get(token)
        if sub is None or pending is None:
            stale.append(token)
        elif (held := found.get(sub)) is not None:
            held.append(pending)
        else:
            found[sub] = [pending]
    return list(found.items()), stale


def through(session: Session, token: str) -> list[str]:
    """The tokens of every lease the token's subscription was granted up to this one; only itself when it is stale."""
    sub = session.subs_by_prefix.get(token[: len(session.lease_prefix) + PREFIX_DIGITS])
    last = None if sub is None else sub.leases.get(token)
    if sub is None or last is None:
        return [token]
    return [lease for lease, pending in sub.leases.items() if pending.lease_no <= last.lease_no]


def extend(sub: Subscription, pending: Pending, now: float, age_s_max: float) -> float:
    """Renew for one ack timeout, unless the lease has lived so long that only what it has is left. Returns the
    deadline. The renewed lease moves to the end, which keeps the order of deadlines."""
    deadline = now + sub.ack_timeout_s
    if deadline <= pending.granted_at + age_s_max:
        pending.deadline = deadline
        del sub.leases[pending.lease]
        sub.leases[pending.lease] = pending
    return pending.deadline
