"""Sessions and subscriptions come, go, and come back.

Owns who is a member of which group, and what a session that lost its connection keeps for how long. What becomes of
the messages a leaving member held is `_give_back`'s, in endings.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

from . import lanes, leases
from .dispatch import Dispatcher
from .model import Group, Lane, Pending, Policy, Session, Subscription


class Members(Dispatcher):
    """The core's register."""

    def __init__(self, ready_bytes_max: int) -> None:
        super().__init__(ready_bytes_max)
        self._away: list[tuple[float, int, Session]] = []  # heap: sessions that may still come back
        self._serial = 0

    @abstractmethod
    def _give_back(
        self, group: Group, pending: Pending, session: Session, how: str, now: float, *, counted: bool
    ) -> None: ...

    # --- subscriptions -----------------------------------------------------------------------------------------

    def subscribe(
        self,
        session: Session,
        name: str,
        handle: Any,
        prefetch: int,
        ack_timeout_s: float,
        now: float,
        policy: Policy | None = None,
    ) -> Subscription:
        """A session joins a group. The name must be new to the session. The policy counts for the first member."""
        assert name not in session.subs
        group = self._groups.get(handle)
        if group is None:
            group = self._groups[handle] = Group(handle, policy or Policy())
        sub = Subscription(name, session, group, prefetch, ack_timeout_s, leases.subscription_prefix(session))
        session.subs[name] = session.subs_by_prefix[sub.prefix] = sub
        group.members.add(sub)
        group.prefetch_sum += prefetch
        self._freed(sub)
        self._dispatch(group, now)
        return sub

    def unsubscribe(self, session: Session, subs: Sequence[Subscription], now: float, *, drained: bool = False) -> None:
        """Members leave. Their leases go back at once, to their places; `drained`: without counting as delivered.

        All of them leave before anything is handed out again, so that nothing goes to one that is leaving too.
        """
        groups: dict[Group, None] = {}
        left = [(sub.group, self._leave(sub)) for sub in subs]
        for group, held in left:
            groups[group] = None
            for pending in held:
                if drained:
                    pending.deliveries -= 1
                self._give_back(group, pending, session, "returned", now, counted=not drained)
            self.counters.returned += len(held)
        self._feed_starved(session, now)
        for group in groups:
            if group.members:
                self._dispatch(group, now)
            else:
                self._close(group)

    def flow(self, sub: Subscription, prefetch: int, now: float) -> None:
        """Change a member's window. Leases above a smaller one are kept until they end."""
        sub.group.prefetch_sum += prefetch - sub.prefetch
        sub.prefetch = prefetch
        self._freed(sub)
        self._dispatch(sub.group, now)

    def ask(self, sub: Subscription, count: int | None, now: float) -> None:
        """A member that takes messages only when it asks: give it `count` more, as they come and as far as its window
        allows. None: it takes whatever its window holds, as members do that never ask."""
        sub.asked = count
        self._freed(sub)
        self._dispatch(sub.group, now)

    def configure(self, handle: Any, policy: Policy, now: float) -> None:
        """The topic or the group was configured; harmless for a group without members."""
        group = self._groups.get(handle)
        if group is not None:
            group.policy = policy
            self._dispatch(group, now)

    def reset(self, handle: Any, now: float) -> None:
        """The group is about to be purged or moved: its leases become stale, and what it has in memory is forgotten.
        Nothing is handed out until `configure` is called."""
        group = self._groups.get(handle)
        if group is None:
            return
        for sub in group.members:
            self._effects.pushes.pop(sub, None)
            self._end_leases(sub.session, list(sub.leases.values()))
            sub.leases.clear()
        self._forget(group)
        group.lanes = [Lane(priority) for priority in range(len(group.lanes))]
        group.ready = 0
        group.turn = None
        group.policy = replace(group.policy, paused=True)
        for sub in sorted(group.members, key=lambda sub: sub.prefix):
            self._freed(sub)
            self._feed_starved(sub.session, now)  # in other groups

    def _leave(self, sub: Subscription) -> list[Pending]:
        """Take a member out of everything that could still hand it a message. Returns what it held."""
        group, session = sub.group, sub.session
        del session.subs[sub.name]
        del session.subs_by_prefix[sub.prefix]
        session.starved.pop(sub, None)
        group.members.discard(sub)
        group.prefetch_sum -= sub.prefetch
        self._out_of_ring(sub)
        self._effects.pushes.pop(sub, None)
        held = list(sub.leases.values())
        sub.leases.clear()
        self._deadlines.drop(sub)
        self._end_leases(session, held)
        return held

    def _out_of_ring(self, sub: Subscription) -> None:
        if sub.in_ring:
            sub.group.ring.remove(sub)
            sub.in_ring = False

    def _close(self, group: Group) -> None:
        """Nobody is left: the store keeps the messages, memory does not."""
        del self._groups[group.handle]
        self._forget(group)
        self._ready.dry.pop(group, None)
        lanes.regulate(self._ready, self._groups, self._effects)

    def _forget(self, group: Group) -> None:
        for lane in group.lanes:
            for pending in (*lane.fresh, *lane.returned, *(p for q in lane.keys.values() for p in q.parked)):
                self._ready.forget(pending)
            self._effects.wants.pop((group.handle, lane.priority), None)
        self._effects.key_wants = [want for want in self._effects.key_wants if want.group != group.handle]
        self._effects.forgets.append(group.handle)

    # --- sessions ----------------------------------------------------------------------------------------------

    def disconnect(self, session: Session, now: float, *, drained: bool = False) -> None:
        """A session's connection is gone. With a grace it keeps its leases for that long; else it ends."""
        if session.grace_s > 0 and session.subs and not drained:
            session.away_until = now + session.grace_s
            self._serial += 1
            heappush(self._away, (session.away_until, self._serial, session))
            session.starved.clear()
            for sub in session.subs.values():
                self._out_of_ring(sub)
            return
        self.end(session, now, drained=drained)

    def end(self, session: Session, now: float, *, drained: bool = False) -> None:
        """A session leaves every group it is in, whatever its grace."""
        session.away_until = None
        self.unsubscribe(session, list(session.subs.values()), now, drained=drained)
        self._effects.ended.append(session)

    def resume(self, session: Session, link: Any, now: float) -> bool:
        """The client is back on another connection. False: too late, the session has ended."""
        if session.away_until is None:
            return False
        session.away_until = None
        session.link = link
        self.counters.resumed += 1
        for sub in list(session.subs.values()):
            self._freed(sub)
            self._dispatch(sub.group, now)
        return True

    def _graces_over(self, now: float) -> None:
        while self._away and self._away[0][0] <= now:
            until, _, session = heappop(self._away)
            if session.away_until == until:
                self.end(session, now)
