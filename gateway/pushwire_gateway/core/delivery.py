"""The delivery core: who gets which message, for how long, and what becomes of it.

A pure state machine. Time comes in as `now` (seconds, never going back), random numbers through a callable; effects
go out through `effects()` after each call. It reads no clock, does no I/O and never awaits, so each call is one
whole step: nothing can come between an assertion and the line that relies on it.

Every message a store handed in is in exactly one place: a lane, a lease, or gone with a settlement (conservation;
the simulator checks it after each step through `census`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import lanes, leases
from .dispatch import Dispatcher
from .model import Counted, Died, Group, Pending, Retried, Session, Settled, Subscription
from .retry import RetryPolicy


class Delivery(Dispatcher):
    """All groups with members, on one node."""

    def __init__(
        self,
        random: Callable[[], float],
        *,
        retry: RetryPolicy | None = None,
        ready_bytes_max: int = 64 << 20,
        release_hold_s: float = 1.0,
        lease_age_s_max: float = 43_200.0,
    ) -> None:
        super().__init__(ready_bytes_max)
        self._random = random
        self._retry = retry or RetryPolicy()
        self._release_hold_s = release_hold_s
        self._lease_age_s_max = lease_age_s_max

    # --- members -----------------------------------------------------------------------------------------------

    def subscribe(
        self, session: Session, name: str, handle: Any, prefetch: int, ack_timeout_s: float, now: float
    ) -> Subscription:
        """A session joins a group. The name must be new to the session."""
        assert name not in session.subs
        group = self._groups.get(handle)
        if group is None:
            group = self._groups[handle] = Group(handle)
        sub = Subscription(name, session, group, prefetch, ack_timeout_s, leases.subscription_prefix(session))
        self._join(sub)
        self._freed(sub)
        self._dispatch(group, now)
        return sub

    def unsubscribe(self, session: Session, subs: Sequence[Subscription], now: float, *, drained: bool = False) -> None:
        """Members leave. Their leases go back at once, to their places; `drained`: without counting as delivered.

        All of them leave before anything is handed out again, so that nothing goes to one that is leaving too.
        """
        groups: dict[Group, None] = {}
        returned = [(sub.group, self._leave(sub)) for sub in subs]
        for group, held in returned:
            groups[group] = None
            for pending in held:
                if drained:
                    pending.deliveries -= 1
                self._give_back(group, pending, counted=not drained)
            self.counters.returned += len(held)
        self._feed_starved(session, now)
        for group in groups:
            if group.members:
                self._dispatch(group, now)
            else:
                self._close(group)

    def disconnect(self, session: Session, now: float, *, drained: bool = False) -> None:
        """A session ends: it leaves every group it is in."""
        self.unsubscribe(session, list(session.subs.values()), now, drained=drained)

    def flow(self, sub: Subscription, prefetch: int, now: float) -> None:
        """Change a member's window. Leases above a smaller one are kept until they end."""
        sub.group.prefetch_sum += prefetch - sub.prefetch
        sub.prefetch = prefetch
        self._freed(sub)
        self._dispatch(sub.group, now)

    # --- messages come in --------------------------------------------------------------------------------------

    def arrived(
        self,
        handle: Any,
        priority: int,
        messages: Sequence[Any],
        counts: Sequence[tuple[int, int]] | None,
        now: float,
    ) -> None:
        """Durable messages that are ours to deliver, from a commit, a backlog or a back-off that is over."""
        group = self._groups.get(handle)
        if group is None:
            return  # the last member left while they were on their way; the store was told to forget them
        lane = group.lanes[priority]
        lane.wanted = max(0, lane.wanted - len(messages))
        for index, message in enumerate(messages):
            pending = Pending(message) if counts is None else Pending(message, *counts[index])
            if pending.deliveries and (reason := self._retry.verdict(pending.deliveries, pending.failures)):
                self._die(group, pending, reason, None)
                continue
            self._ready.add(message.size_bytes)
            lanes.insert(group, lane, pending)
        self._dispatch(group, now)
        lanes.regulate(self._ready, self._groups, self._effects)

    # --- settlements -------------------------------------------------------------------------------------------

    def ack(self, session: Session, tokens: Sequence[str], now: float) -> list[str]:
        """These are done. Returns the stale tokens, which had no effect."""
        found, stale = leases.find(session, tokens, remove=True)
        for sub, held in found:
            self._end_leases(session, held)
            self._effects.settlements.append(Settled(sub.group.handle, [pending.message for pending in held]))
            self.counters.acked += len(held)
            self._freed(sub)
        self._after(session, found, stale, now)
        return stale

    def ack_through(self, session: Session, token: str, now: float) -> list[str]:
        """Every lease of the token's subscription granted up to this one is done."""
        return self.ack(session, leases.through(session, token), now)

    def nack(
        self, session: Session, tokens: Sequence[str], delay_s: float | None, error: str | None, now: float
    ) -> list[str]:
        """These failed: they wait `delay_s` (default: the back-off) without occupying the window, or die."""
        found, stale = leases.find(session, tokens, remove=True)
        for sub, held in found:
            self._end_leases(session, held)
            for pending in held:
                self._fail(sub.group, pending, delay_s, error, now)
            self.counters.nacked += len(held)
            self._freed(sub)
        self._after(session, found, stale, now)
        return stale

    def reject(self, session: Session, tokens: Sequence[str], error: str | None, now: float) -> list[str]:
        """These will never work: to the dead letters."""
        found, stale = leases.find(session, tokens, remove=True)
        for sub, held in found:
            self._end_leases(session, held)
            for pending in held:
                self._die(sub.group, pending, "rejected", error)
            self.counters.rejected += len(held)
            self._freed(sub)
        self._after(session, found, stale, now)
        return stale

    def release(self, session: Session, tokens: Sequence[str], now: float) -> list[str]:
        """These go back unworked, and not to the same session for a moment."""
        found, stale = leases.find(session, tokens, remove=True)
        for sub, held in found:
            self._end_leases(session, held)
            for pending in held:
                pending.held_for = session
                sub.group.held[session] = sub.group.held.get(session, 0) + 1
                self._holds.append((now + self._release_hold_s, sub.group, pending, session))
                self._give_back(sub.group, pending, counted=True)
            self.counters.released += len(held)
            self._freed(sub)
        self._after(session, found, stale, now)
        return stale

    def extend(self, session: Session, tokens: Sequence[str], now: float) -> tuple[float, list[str]]:
        """Renew these for one ack timeout. Returns the earliest new deadline and the stale tokens."""
        found, stale = leases.find(session, tokens, remove=False)
        deadline = float("inf")
        for sub, held in found:
            for pending in held:
                deadline = min(deadline, leases.extend(sub, pending, now, self._lease_age_s_max))
            self.counters.extended += len(held)
        self.counters.stale += len(stale)
        return deadline, stale

    # --- time --------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_timer` has to be called. It may be called earlier without harm."""
        lease = self._deadlines.next()
        hold = self._holds[0][0] if self._holds else None
        return hold if lease is None else lease if hold is None else min(lease, hold)

    def handle_timer(self, now: float) -> None:
        """Expired leases come back as failures; holds of released messages end."""
        for sub, late in self._deadlines.expired(now):
            self._end_leases(sub.session, late)
            for pending in late:
                self._fail(sub.group, pending, None, "ack timeout", now)
            self.counters.timed_out += len(late)
            self._freed(sub)
            self._feed_starved(sub.session, now)
            self._dispatch(sub.group, now)
        over: dict[tuple[Group, Session], None] = {}
        while self._holds and self._holds[0][0] <= now:
            _, group, pending, session = self._holds.popleft()
            group.held[session] -= 1
            if not group.held[session]:
                del group.held[session]
            if pending.held_for is session:
                pending.held_for = None
            over[(group, session)] = None
        for group, session in over:
            self._offer_again(group, session, now)

    def _offer_again(self, group: Group, session: Session, now: float) -> None:
        """Messages that the session had released may go to it again."""
        if self._groups.get(group.handle) is group:
            for sub in session.subs.values():
                if sub.group is group:
                    self._freed(sub)
            self._dispatch(group, now)

    # --- inside ------------------------------------------------------------------------------------------------

    def _fail(self, group: Group, pending: Pending, delay_s: float | None, error: str | None, now: float) -> None:
        pending.failures += 1
        reason = self._retry.verdict(pending.deliveries, pending.failures)
        if reason is not None:
            self._die(group, pending, reason, error)
            return
        wait = self._retry.backoff_s(pending.failures, self._random) if delay_s is None else delay_s
        self._effects.settlements.append(
            Retried(group.handle, pending.message, now + wait, pending.deliveries, pending.failures)
        )

    def _die(self, group: Group, pending: Pending, reason: str, error: str | None) -> None:
        self._effects.settlements.append(
            Died(group.handle, pending.message, reason, error, pending.deliveries, pending.failures)
        )
        self.counters.died += 1

    def _give_back(self, group: Group, pending: Pending, *, counted: bool) -> None:
        """Into its lane again, at its old place."""
        reason = self._retry.verdict(pending.deliveries, pending.failures) if counted else None
        if reason is not None:
            pending.held_for = None
            self._die(group, pending, reason, None)
            return
        if counted:
            self._effects.settlements.append(
                Counted(group.handle, pending.message, pending.deliveries, pending.failures)
            )
        self._ready.add(pending.message.size_bytes)
        lanes.insert(group, group.lanes[pending.message.priority], pending)

    def _after(
        self, session: Session, found: Sequence[tuple[Subscription, Any]], stale: Sequence[str], now: float
    ) -> None:
        self.counters.stale += len(stale)
        if found and session.starved:  # else no bytes came free
            self._feed_starved(session, now)
        for sub, _ in found:
            self._dispatch(sub.group, now)
