"""The delivery core: who gets which message, for how long, and what becomes of it.

A pure state machine. Time comes in as `now` (seconds, never going back), random numbers through a callable; effects
go out through `effects()` after each call. It reads no clock, does no I/O and never awaits, so each call is one
whole step: nothing can come between an assertion and the line that relies on it.

Every message a store handed in is in exactly one place: a lane, beside it waiting for its key, a lease, or gone with a
settlement (conservation; the simulator checks it after each step through `census`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import keys, lanes, leases
from .endings import Endings
from .expiries import Expiries
from .model import OVERHEAD_BYTES, Group, Lane, Pending, Session, Settled, Subscription

UNHEALTHY_TIMEOUTS = 100
"""Leases in a row that run out before a member is shown the door; one settlement starts the count anew."""


class Delivery(Endings):
    """All groups with members, on one node."""

    def __init__(
        self,
        random: Callable[[], float],
        *,
        ready_bytes_max: int = 64 << 20,
        release_hold_s: float = 1.0,
        lease_age_s_max: float = 43_200.0,
        unhealthy_timeouts: int = UNHEALTHY_TIMEOUTS,
    ) -> None:
        super().__init__(ready_bytes_max, random)
        self._release_hold_s = release_hold_s
        self._lease_age_s_max = lease_age_s_max
        self._unhealthy_timeouts = unhealthy_timeouts
        self._expiries = Expiries()

    # --- messages come in --------------------------------------------------------------------------------------

    def arrived(
        self,
        handle: Any,
        priority: int,
        messages: Sequence[Any],
        counts: Sequence[tuple[int, int]] | None,
        now: float,
        blocked: Sequence[tuple[int, str]] = (),
    ) -> None:
        """Durable messages that are ours to deliver, from a commit, a backlog or a back-off that is over. `blocked`:
        (seq, key) of some that back off on disk and keep their keys."""
        group = self._groups.get(handle)
        if group is None:
            return  # the last member left while they were on their way; the store was told to forget them
        lane = group.lanes[priority]
        for seq, key in blocked:
            keys.block(lane, seq, key)
        lanes.served(group, lane, len(messages), self._effects)
        for index, message in enumerate(messages):
            pending = Pending(message) if counts is None else Pending(message, *counts[index])
            self._take_in(group, lane, pending, now)
        self._dispatch(group, now)
        lanes.regulate(self._ready, self._groups, self._effects)

    def caught_up(self, handle: Any, priority: int, yes: bool, now: float) -> None:
        """Whether the store has given all of a lane that is due, so that nobody need wait for it."""
        group = self._groups.get(handle)
        if group is not None:
            group.lanes[priority].behind = not yes
            self._dispatch(group, now)

    def arrived_key(
        self,
        handle: Any,
        priority: int,
        key: str,
        messages: Sequence[Any],
        counts: Sequence[tuple[int, int]] | None,
        through: int,
        now: float,
    ) -> None:
        """The store's answer to a KeyWant."""
        group = self._groups.get(handle)
        if group is None:
            return
        lane = group.lanes[priority]
        if key not in lane.keys or not lane.keys[key].asking:
            return
        through = keys.known_through(lane, key, through)
        all_ = [Pending(m) if counts is None else Pending(m, *counts[i]) for i, m in enumerate(messages)]
        found = keys.news(lane, key, [pending for pending in all_ if pending.message.seq <= through])
        found = [pending for pending in found if not self._is_over(group, pending, now)]
        head = keys.answered(group, lane, key, found, through, self._ready, self._effects)
        for pending in found:
            self._expiries.watch(group, pending)
        if head is not None:
            lanes.insert(group, lane, head)
        self._dispatch(group, now)

    def lapsed(self, handle: Any, messages: Sequence[Any], now: float) -> None:
        """The TTL of these, which have keys and had arrived, is over. What is here ends by its own timer, or with its
        lease; what was dropped, because its key is taken, ends now. The timer goes first: what it would end may be
        dropped a moment later, and is not spoken of again."""
        self._ttls_over(now)
        group = self._groups.get(handle)
        if group is not None:
            for message in messages:
                if keys.lapsed(group.lanes[message.priority], message):
                    self._expire(group, Pending(message))

    def vanished(self, handle: Any, priority: int, seqs: Sequence[int], now: float) -> None:
        """Messages that the store held back (for their retry) are gone for good: their keys come free."""
        group = self._groups.get(handle)
        if group is None:
            return
        lane, gone = group.lanes[priority], set(seqs)
        for key, queue in list(lane.keys.items()):
            if queue.holder in gone and queue.out:
                self._free(group, lane, key, queue.holder)
        self._dispatch(group, now)

    def _take_in(self, group: Group, lane: Lane, pending: Pending, now: float) -> None:
        message = pending.message
        if self._is_over(group, pending, now):
            return
        self._ready.add(message.size_bytes)
        first = pending if message.key is None else keys.arrive(group, lane, pending, self._ready)
        self._expiries.watch(group, pending)
        if first is not None:
            lanes.insert(group, lane, first)

    def _is_over(self, group: Group, pending: Pending, now: float) -> bool:
        """Whether a message that comes in ends at once: it was handed out too often already, or its TTL is over."""
        reason = group.policy.retry.verdict(pending.deliveries, pending.failures) if pending.deliveries else None
        if reason is not None:
            self._die(group, pending, reason, None)
            return True
        expires_ms = pending.message.expires_ms
        if expires_ms is not None and expires_ms / 1000 <= now:
            self._expire(group, pending)
            return True
        return False

    # --- settlements -------------------------------------------------------------------------------------------

    def ack(self, session: Session, tokens: Sequence[str], now: float) -> list[str]:
        """These are done. Returns the stale tokens, which had no effect."""
        found, stale = leases.find(session, tokens, remove=True)
        for sub, held in found:
            size_bytes = self._end_leases(session, held)
            group = sub.group
            for pending in held:
                if pending.message.key is not None:
                    self._free(group, group.lanes[pending.message.priority], pending.message.key, pending.message.seq)
            self._effects.settlements.append(Settled(group.handle, held, session))
            self._effects.settled_bytes += size_bytes + len(held) * OVERHEAD_BYTES
            self.counters.acked += len(held)
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
                self._fail(sub, pending, delay_s, "nacked", error, now)
            self.counters.nacked += len(held)
        self._after(session, found, stale, now)
        return stale

    def reject(self, session: Session, tokens: Sequence[str], error: str | None, now: float) -> list[str]:
        """These will never work: to the dead letters."""
        found, stale = leases.find(session, tokens, remove=True)
        for sub, held in found:
            self._end_leases(session, held)
            for pending in held:
                self._die(sub.group, pending, "rejected", error, "rejected", session)
            self.counters.rejected += len(held)
        self._after(session, found, stale, now)
        return stale

    def release(self, session: Session, tokens: Sequence[str], now: float) -> list[str]:
        """These go back unworked, and not to the same session for a moment."""
        found, stale = leases.find(session, tokens, remove=True)
        for sub, held in found:
            self._end_leases(session, held)
            for pending in held:
                pending.held_for = {session} if pending.held_for is None else pending.held_for | {session}
                sub.group.held[session] = sub.group.held.get(session, 0) + 1
                self._holds.append((now + self._release_hold_s, sub.group, pending, session))
                self._give_back(sub.group, pending, session, "released", now, counted=True)
            self.counters.released += len(held)
        self._after(session, found, stale, now)
        return stale

    def take_back(self, session: Session, tokens: Sequence[str], now: float) -> None:
        """These never reached the client: back to their places, as if they had not been handed out."""
        found, _ = leases.find(session, tokens, remove=True)
        for sub, held in found:
            self._end_leases(session, held)
            for pending in held:
                pending.deliveries -= 1
                self._give_back(sub.group, pending, session, "returned", now, counted=False)
            self.counters.returned += len(held)
            self._freed(sub)
        self._feed_starved(session, now)
        for sub, _ in found:
            self._dispatch(sub.group, now)

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
        times = [heap[0][0] for heap in (self._holds, self._away) if heap]
        times += [at for at in (self._deadlines.next(), self._expiries.next()) if at is not None]
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        """Expired leases come back as failures; holds, graces and TTLs end."""
        for sub, late in self._deadlines.expired(now):
            self._end_leases(sub.session, late)
            for pending in late:
                self._fail(sub, pending, None, "timed_out", "ack timeout", now)
            self.counters.timed_out += len(late)
            self._lax(sub, len(late))
            self._freed(sub)
            self._feed_starved(sub.session, now)
            self._dispatch(sub.group, now)
        self._graces_over(now)
        self._holds_over(now)
        self._ttls_over(now)

    def _ttls_over(self, now: float) -> None:
        while (over := self._expiries.pop(now)) is not None:
            group, pending = over
            if self._groups.get(group.handle) is group:
                self._expire_waiting(group, pending)
                self._dispatch(group, now)

    def _holds_over(self, now: float) -> None:
        over: dict[tuple[Group, Session], None] = {}
        while self._holds and self._holds[0][0] <= now:
            _, group, pending, session = self._holds.popleft()
            group.held[session] -= 1
            if not group.held[session]:
                del group.held[session]
            if pending.held_for is not None:
                pending.held_for = pending.held_for - {session} or None
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

    def _lax(self, sub: Subscription, count: int) -> None:
        before, sub.timeouts_in_a_row = sub.timeouts_in_a_row, sub.timeouts_in_a_row + count
        if before < self._unhealthy_timeouts <= sub.timeouts_in_a_row:
            self.counters.unhealthy += 1
            self._effects.unhealthy.append(sub)

    def _after(
        self, session: Session, found: Sequence[tuple[Subscription, Any]], stale: Sequence[str], now: float
    ) -> None:
        self.counters.stale += len(stale)
        for sub, _ in found:
            sub.timeouts_in_a_row = 0
            self._freed(sub)
        if found and session.starved:  # else no bytes came free
            self._feed_starved(session, now)
        for sub, _ in found:
            self._dispatch(sub.group, now)
