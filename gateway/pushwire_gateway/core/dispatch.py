"""Ready messages meet free windows.

Owns the groups, the rings of members with room, and the push effects. Knows nothing of settlements: delivery.py
builds on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from . import keys, lanes, leases
from .memory import Ready
from .model import ENDED, Counters, Effects, Group, Pending, Session, Subscription

HELD_MAX = 128
"""Messages a session may have released within the hold time and still be offered others of the group. Whoever looks
for it has to step over them, so without a bound every operation would cost as much as all that was released."""


class Dispatcher:
    """The half of the core that hands out."""

    def __init__(self, ready_bytes_max: int) -> None:
        self.counters = Counters()
        self._groups: dict[Any, Group] = {}
        self._ready = Ready(ready_bytes_max)
        self._deadlines = leases.Deadlines()
        self._holds: deque[tuple[float, Group, Pending, Session]] = deque()  # one hold time: in order of its end
        self._effects = Effects()

    def effects(self) -> Effects:
        """What there is to do since the last call."""
        effects, self._effects = self._effects, Effects()
        return effects

    def _end_leases(self, session: Session, held: Sequence[Pending]) -> int:
        """Returns the bytes of their messages."""
        size_bytes = 0
        for pending in held:
            size_bytes += pending.message.size_bytes
            pending.place = ENDED  # unless it goes back to its lane
        session.bytes_in_flight -= size_bytes
        return size_bytes

    def _freed(self, sub: Subscription) -> None:
        """The subscription may have room: it waits in its group's ring."""
        if not sub.in_ring and len(sub.leases) < sub.prefetch and sub.asked != 0 and sub.session.away_until is None:
            sub.in_ring = True
            sub.group.ring.append(sub)

    def _feed_starved(self, session: Session, now: float) -> None:
        """Bytes came free: subscriptions that waited for them are members like others again."""
        starved, session.starved = session.starved, {}
        for sub in starved:
            self._freed(sub)
            self._dispatch(sub.group, now)

    def _dispatch(self, group: Group, now: float) -> None:
        """Hand out evenly: each waiting member gets its share of what is there, in rounds."""
        ring = group.ring
        idle: list[Subscription] = []  # members that were offered everything and may take nothing of it yet
        served: list[Subscription] = []  # members that had their share of this round
        while group.ready and (ring or served) and not group.policy.paused:
            if not ring:
                for waiting in served:
                    self._freed(waiting)
                served = []
                continue
            sub = ring.popleft()
            sub.in_ring = False
            free = sub.prefetch - len(sub.leases)
            if sub.asked is not None:
                free = min(free, sub.asked)
            if free <= 0 or (group.held and group.held.get(sub.session, 0) >= HELD_MAX):
                continue  # back in the ring when a lease ends, or when the holds do
            share = min(free, -(-group.ready // (len(ring) + 1)))
            taken = lanes.take(group, share, sub.session, self._ready, self.counters.contended)
            if taken:
                self._push(sub, taken, now)
                served.append(sub)
            elif group.turn is not None:
                idle.append(sub)
            elif group.ready and sub.session.bytes_in_flight and not self._all_held(group, sub.session):
                sub.session.starved[sub] = None
            else:
                idle.append(sub)
            if group.turn is not None:
                break  # what comes next is on its way from the store
        for sub in (*served, *idle):
            self._freed(sub)
        lanes.replenish(group, self._ready, self._effects)

    def _all_held(self, group: Group, session: Session) -> bool:
        """Whether everything ready in the group was just released by this session."""
        return bool(self._holds) and all(
            pending.held_for is not None and session in pending.held_for
            for lane in group.lanes
            for pending in (*lane.fresh, *lane.returned)
        )

    def _push(self, sub: Subscription, taken: list[Pending], now: float) -> None:
        leases.grant(sub, taken, now, self._deadlines)
        if sub.asked is not None:
            sub.asked -= len(taken)
        counters = self.counters
        served = counters.served
        for pending in taken:
            self._ready.remove(pending.message.size_bytes)
            served[pending.message.priority] += 1
            if pending.deliveries > 1:
                counters.redelivered += 1
        counters.delivered += len(taken)
        queued = self._effects.pushes.get(sub)
        if queued is None:
            self._effects.pushes[sub] = taken
        else:
            queued.extend(taken)

    def census(self) -> dict[Any, dict[str, list[int]]]:
        """Where every message is, for the simulator: group handle -> place -> seqs."""
        return {
            handle: {
                "ready": [p.message.seq for lane in group.lanes for p in keys.in_lane(lane)],
                "leased": [p.message.seq for sub in group.members for p in sub.leases.values()],
                "parked": [
                    p.message.seq
                    for lane in group.lanes
                    for queue in lane.keys.values()
                    for p in queue.parked
                    if p.place != ENDED
                ],
            }
            for handle, group in self._groups.items()
        }

    def ready_bytes(self) -> int:
        """Bodies and overhead held ready, bytes; bounded by `ready_bytes_max` plus one arrival."""
        return self._ready.bytes

    def coming(self, handle: Any) -> bool:
        """Whether a lane of this group is empty here and not in the store, which was asked for it."""
        group = self._groups.get(handle)
        return group is not None and any(lanes.coming(lane, self._ready) for lane in group.lanes)

    def group(self, handle: Any) -> Group | None:
        """The group, if it has members."""
        return self._groups.get(handle)
