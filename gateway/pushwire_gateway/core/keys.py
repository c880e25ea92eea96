"""Ordering keys: of the messages of one key in one lane one holds the key, the others wait beside the lane.

Owns which keyed message may be handed out. The holder is the lowest due seq; it keeps the key while it is leased or
backs off. The others are parked, so that they cost no window and hide nothing behind them; beyond a few per key their
bodies are dropped, and the store is asked for that key alone when it comes free.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from .memory import Ready
from .model import WAITING, Effects, Group, KeyWant, Lane, Pending

PARKED_MAX = 32
"""Messages of one taken key kept in memory: a usual window, so that a key in steady use needs no extra read."""


class KeyQueue:
    """One key with a holder, or with messages waiting for one."""

    __slots__ = ("asking", "complete_through", "dropped_max", "holder", "out", "parked", "seen")

    def __init__(self, holder: int) -> None:
        self.holder = holder  # seq; 0: nobody, the store has been asked
        self.out = False  # the holder is leased or backs off, so that nothing may take its place
        self.parked: list[Pending] = []  # heap by seq
        self.dropped_max = 0  # highest seq whose body was dropped; 0: none
        self.complete_through = 0  # with dropped ones: up to this seq none was dropped
        self.seen: set[int] = set()  # above it, but in memory or gone: not to be taken from the store again
        self.asking = False

    def park(self, pending: Pending, ready: Ready) -> None:
        """It waits for the key: here if there is room, else on disk."""
        seq = pending.message.seq
        if self.dropped_max and seq > self.complete_through:
            self._drop(pending, ready)
            return
        heappush(self.parked, pending)
        if len(self.parked) > PARKED_MAX:
            last = max(self.parked)
            self.parked.remove(last)
            heapify(self.parked)
            self.complete_through = max(self.parked).message.seq
            self._drop(last, ready)
            if self.holder > self.complete_through:
                self.seen.add(self.holder)

    def _drop(self, pending: Pending, ready: Ready) -> None:
        """The store has it still, and will be asked."""
        self.dropped_max = max(self.dropped_max, pending.message.seq)
        self.seen.discard(pending.message.seq)
        ready.forget(pending)


def admit(lane: Lane, pending: Pending, ready: Ready) -> Pending | None:
    """Who may join the lane when a keyed message comes in: it, or one that goes first, or nobody, if it has been put to
    wait."""
    message = pending.message
    seq = message.seq
    queue = lane.keys.get(message.key)
    if queue is None:
        lane.keys[message.key] = KeyQueue(seq)
        return pending
    if queue.holder == seq:
        return given_back(lane, pending, ready)  # from its back-off
    free = queue.holder == 0 and seq <= queue.complete_through
    if free or (queue.holder and not queue.out and seq < queue.holder):
        # A lower one became due. The one it replaces lies in the lane and is parked when it is met there.
        queue.holder, queue.out = seq, False
        return pending
    queue.park(pending, ready)
    return None


def handed_out(lane: Lane, pending: Pending) -> None:
    """The holder is leased."""
    lane.keys[pending.message.key].out = True


def given_back(lane: Lane, pending: Pending, ready: Ready) -> Pending:
    """The holder waits again. Returns who joins the lane: a lower one may have become due meanwhile."""
    queue: KeyQueue = lane.keys[pending.message.key]
    queue.out = False
    while queue.parked and queue.parked[0].place != WAITING:
        heappop(queue.parked)
    if not queue.parked or pending < queue.parked[0]:
        return pending
    first = heappop(queue.parked)
    queue.holder = first.message.seq
    queue.park(pending, ready)
    return first


def block(lane: Lane, seq: int, key: str) -> None:
    """A message that the store passed over, because it backs off, holds its key."""
    if key not in lane.keys:
        queue = lane.keys[key] = KeyQueue(seq)
        queue.out = True


def free(group: Group, lane: Lane, key: str, seq: int, effects: Effects) -> Pending | None:
    """The message is settled, whatever way. Returns the next holder, which is to join the lane; or the store is asked
    for it; or there is none."""
    queue = lane.keys.get(key)
    if queue is None or queue.holder != seq:
        return None
    return _next(group, lane, key, queue, effects)


def news(lane: Lane, key: str, found: Sequence[Pending]) -> list[Pending]:
    """Those of the store's answer that are not in memory, nor gone."""
    queue = lane.keys[key]
    return [each for each in found if each.message.seq != queue.holder and each.message.seq not in queue.seen]


def answered(
    group: Group, lane: Lane, key: str, found: Sequence[Pending], through: int, ready: Ready, effects: Effects
) -> Pending | None:
    """The store's answer: what was found, and is news, waits. Returns the next holder, if there was none."""
    queue = lane.keys[key]
    queue.asking = False
    for pending in found:
        heappush(queue.parked, pending)
        ready.add(pending.message.size_bytes)
    if through >= queue.dropped_max:
        queue.dropped_max = 0
        queue.seen.clear()
    else:
        queue.complete_through = through
    return None if queue.holder else _next(group, lane, key, queue, effects)


def _next(group: Group, lane: Lane, key: str, queue: KeyQueue, effects: Effects) -> Pending | None:
    queue.holder, queue.out = 0, False
    while queue.parked:
        pending = heappop(queue.parked)
        if pending.place == WAITING:
            queue.holder = pending.message.seq
            return pending
    if not queue.dropped_max:
        del lane.keys[key]
    elif not queue.asking:
        queue.asking = True
        effects.key_wants.append(KeyWant(group.handle, lane.priority, key, queue.complete_through, PARKED_MAX))
    return None
