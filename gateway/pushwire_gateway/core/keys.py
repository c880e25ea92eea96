"""Ordering keys: of the messages of one key in one lane one holds the key, the others wait beside the lane.

Owns which keyed message may be handed out. The holder is the lowest due seq; it keeps the key while it is leased or
backs off. The others are parked, so that they cost no window and hide nothing behind them; beyond a few per key their
bodies are dropped, and the store is asked for that key alone when it comes free. Of a dropped message nothing is kept,
however many there are: the store knows when its TTL ends, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from .memory import Ready
from .model import ENDED, WAITING, Effects, Group, KeyWant, Lane, MessageLike, Pending

PARKED_MAX = 32
"""Messages of one taken key kept in memory: a usual window, so that a key in steady use needs no extra read."""


class KeyQueue:
    """One key with a holder, or with messages waiting for one."""

    __slots__ = (
        "asking",
        "complete_through",
        "dropped_max",
        "head",
        "holder",
        "late_min",
        "out",
        "over",
        "parked",
        "seen",
    )

    def __init__(self, holder: int, head: Pending | None = None) -> None:
        self.holder = holder  # seq; 0: nobody, the store has been asked
        self.head = head  # the holder, while it lies in the lane
        self.out = False  # the holder is leased or backs off, so that nothing may take its place
        self.parked: list[Pending] = []  # heap by seq
        self.dropped_max = 0  # highest seq whose body was dropped; 0: none
        self.complete_through = 0  # with dropped ones: up to this seq none was dropped
        self.seen: set[int] = set()  # above it, but in memory or gone: not to be taken from the store again
        self.asking = False
        self.late_min = 0  # lowest seq dropped since it was asked: the answer may not know it; 0: none
        self.over: set[int] = set()  # while asking: dropped ones that ended since, which the answer may still bring

    def hold(self, pending: Pending) -> None:
        """It is the holder, and lies in the lane or is about to."""
        self.holder, self.head, self.out = pending.message.seq, pending, False

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
        if pending.place == ENDED:
            return  # its TTL ended while it waited; it was taken off then
        message = pending.message
        self.dropped_max = max(self.dropped_max, message.seq)
        if self.asking:
            self.late_min = min(self.late_min or message.seq, message.seq)
        self.seen.discard(message.seq)
        ready.remove(message.size_bytes)
        pending.place = ENDED

    def dropped(self, seq: int) -> bool:
        """Whether this one lies on disk only."""
        if not self.complete_through < seq <= self.dropped_max:
            return False
        return seq != self.holder and seq not in self.seen and seq not in self.over

    def precedes(self, seq: int) -> bool:
        """Whether everything that waits for the key comes after this."""
        if self.dropped_max and seq > self.complete_through:
            return False
        return not self.parked or seq < self.parked[0].message.seq


def arrive(group: Group, lane: Lane, pending: Pending, ready: Ready) -> Pending | None:
    """Who may join the lane when a keyed message comes in: it, or one that goes first, or nobody, if it has been put to
    wait."""
    message = pending.message
    seq = message.seq
    queue = lane.keys.get(message.key)
    if queue is None:
        lane.keys[message.key] = KeyQueue(seq, pending)
        return pending
    if queue.holder == seq:
        return given_back(lane, pending, ready)  # from its back-off
    if queue.holder == 0 and seq <= queue.complete_through:
        queue.hold(pending)  # before what the store is asked for
        return pending
    if queue.head is not None and seq < queue.holder and queue.precedes(seq):
        # A lower one became due. The one it replaces leaves the lane, but for an entry that is not looked for.
        replaced = queue.head
        queue.hold(pending)
        replaced.ghosts += 1
        group.ready -= 1
        queue.park(replaced, ready)
        return pending
    queue.park(pending, ready)
    return None


def handed_out(lane: Lane, pending: Pending) -> None:
    """The holder is leased."""
    queue = lane.keys[pending.message.key]
    queue.out, queue.head = True, None


def given_back(lane: Lane, pending: Pending, ready: Ready) -> Pending:
    """The holder waits again. Returns who joins the lane: a lower one may have become due meanwhile."""
    queue: KeyQueue = lane.keys[pending.message.key]
    while queue.parked and queue.parked[0].place != WAITING:
        heappop(queue.parked)
    if not queue.parked or pending < queue.parked[0]:
        queue.hold(pending)
        return pending
    first = heappop(queue.parked)
    queue.hold(first)
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


def known_through(lane: Lane, key: str, through: int) -> int:
    """Up to which seq the store's answer is all there is: below what was dropped while it was on its way, such as a
    retry that was due only after the question, or one that had been parked."""
    late_min = lane.keys[key].late_min
    return min(through, late_min - 1) if late_min else through


def news(lane: Lane, key: str, found: Sequence[Pending]) -> list[Pending]:
    """Those of the store's answer that are not in memory, nor gone."""
    queue = lane.keys[key]
    return [each for each in found if queue.dropped(each.message.seq)]


def answered(
    group: Group, lane: Lane, key: str, found: Sequence[Pending], through: int, ready: Ready, effects: Effects
) -> Pending | None:
    """The store's answer: what was found, is news and may live, waits. Returns the next holder, if there was none."""
    queue = lane.keys[key]
    queue.asking, queue.late_min = False, 0
    queue.over.clear()  # settled before the store is asked again
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
    queue.holder, queue.head, queue.out = 0, None, False
    while queue.parked:
        pending = heappop(queue.parked)
        if pending.place == WAITING:
            queue.hold(pending)
            return pending
    if not queue.dropped_max:
        del lane.keys[key]
    elif not queue.asking:
        queue.asking = True
        effects.key_wants.append(KeyWant(group.handle, lane.priority, key, queue.complete_through, PARKED_MAX))
    return None


# --- the end of a TTL, and of all


def is_parked(lane: Lane, pending: Pending) -> bool:
    """Whether a message that waits does so beside its lane."""
    queue = None if pending.message.key is None else lane.keys.get(pending.message.key)
    return queue is not None and any(parked is pending for parked in queue.parked)


def lapsed(lane: Lane, message: MessageLike) -> bool:
    """The TTL of a message that the store handed over is over. Whether it has to be ended now: it lies on disk only, so
    that nobody else will."""
    queue: KeyQueue | None = lane.keys.get(message.key)
    if queue is None or not queue.dropped(message.seq):
        return False
    if queue.asking:
        queue.over.add(message.seq)
    return True


def in_lane(lane: Lane) -> list[Pending]:
    """What lies in a lane and has not left it."""
    there: dict[Pending, None] = {}
    for pending in (*lane.fresh, *lane.returned):
        if pending.place == ENDED:
            continue  # of its key there may be nothing left
        left = pending.ghosts and lane.keys[pending.message.key].head is not pending
        if not left:
            there[pending] = None
    return list(there)
