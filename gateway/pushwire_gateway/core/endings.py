"""How a delivery ends other than by an ack: back into the lane, to the store until a retry, to the dead letters.

Owns the settlement effects and what they free: a key, the place of a message whose TTL is over.
"""

from __future__ import annotations

from collections.abc import Callable

from . import keys, lanes
from .members import Members
from .model import (
    ENDED,
    OVERHEAD_BYTES,
    WAITING,
    Counted,
    Died,
    Group,
    Lane,
    Pending,
    Retried,
    Session,
    Subscription,
)


class Endings(Members):
    """The part of the core that gives up on deliveries."""

    def __init__(self, ready_bytes_max: int, random: Callable[[], float]) -> None:
        super().__init__(ready_bytes_max)
        self._random = random

    def _settle(self, settlement: Retried | Counted | Died) -> None:
        self._effects.settlements.append(settlement)
        self._effects.settled_bytes += settlement.message.size_bytes + OVERHEAD_BYTES

    def _fail(
        self, sub: Subscription, pending: Pending, delay_s: float | None, how: str, error: str | None, now: float
    ) -> None:
        group, session = sub.group, sub.session
        pending.failures += 1
        expires_ms = pending.message.expires_ms
        if expires_ms is not None and expires_ms / 1000 <= now:
            self._expire(group, pending, error, how, session)
            return
        retry = group.policy.retry
        reason = retry.verdict(pending.deliveries, pending.failures)
        if reason is not None:
            self._die(group, pending, reason, error, how, session)
            return
        wait = retry.backoff_s(pending.failures, self._random) if delay_s is None else delay_s
        self._settle(
            Retried(
                group.handle,
                pending.message,
                now + wait,
                pending.deliveries,
                pending.failures,
                how,
                error,
                session,
            )
        )

    def _expire(
        self,
        group: Group,
        pending: Pending,
        error: str | None = None,
        how: str | None = None,
        session: Session | None = None,
    ) -> None:
        """Its TTL is over; `how`, `error` and `session` tell of the delivery that ended with it, if one did."""
        self.counters.expired += 1
        self._die(group, pending, "expired", error, how, session, drop=not group.policy.expired_dead)

    def _expire_waiting(self, group: Group, pending: Pending) -> None:
        """Its TTL ended while it waited: what still points at it lets it go when it comes by."""
        lane = group.lanes[pending.message.priority]
        self._ready.forget(pending)
        group.ready -= not keys.is_parked(lane, pending)
        self._expire(group, pending)

    def _die(
        self,
        group: Group,
        pending: Pending,
        reason: str,
        error: str | None,
        how: str | None = None,
        session: Session | None = None,
        *,
        drop: bool = False,
    ) -> None:
        pending.place = ENDED
        self._settle(
            Died(
                group.handle,
                pending.message,
                reason,
                error,
                pending.deliveries,
                pending.failures,
                how,
                session,
                drop,
            )
        )
        self.counters.died += not drop
        key = pending.message.key
        if key is not None:
            self._free(group, group.lanes[pending.message.priority], key, pending.message.seq)

    def _free(self, group: Group, lane: Lane, key: str, seq: int) -> None:
        head = keys.free(group, lane, key, seq, self._effects)
        if head is not None:
            lanes.insert(group, lane, head)

    def _give_back(
        self, group: Group, pending: Pending, session: Session, how: str, now: float, *, counted: bool
    ) -> None:
        """Into its lane again, at its old place."""
        expires_ms = pending.message.expires_ms
        if expires_ms is not None and expires_ms / 1000 <= now:
            pending.held_for = None
            if counted:
                self._expire(group, pending, None, how, session)
            else:
                self._expire(group, pending)
            return
        reason = group.policy.retry.verdict(pending.deliveries, pending.failures) if counted else None
        if reason is not None:
            pending.held_for = None
            self._die(group, pending, reason, None, how, session)
            return
        if counted:
            self._settle(Counted(group.handle, pending.message, pending.deliveries, pending.failures, how, session))
        pending.place = WAITING
        lane = group.lanes[pending.message.priority]
        self._ready.add(pending.message.size_bytes)
        first = pending if pending.message.key is None else keys.given_back(lane, pending, self._ready)
        lanes.insert(group, lane, first)
