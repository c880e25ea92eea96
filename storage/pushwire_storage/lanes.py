"""Demand and supply of every open lane: who is to be given what next, from commit, backlog and due retries.

Owns the loop's side of a store's promise "once per open, in seq order, never more than wanted, never before it is
due". It reads no disk and no clock: it asks for a `Scan`, which the store runs on its writer in the order of its
batches, and is told of every commit. That order is what makes it exact, so results must come back in it too.

A lane stands at a `cursor`: everything up to that seq was handed over, or skipped because it was settled or not yet
due. While it is caught up, commits feed it from memory; as soon as demand runs out it falls behind, and scans feed it.
Retries have a cursor of their own, the `horizon`, a (due, seq): waiting retries above it are known to the disk only
and come through due scans in that order; those at or below it that are not in the gateway's hands are in `waiting`.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .base import PRIORITIES, Arrivals, Batch, Done, Group, Message, Retry
from .planning import SEQ_MAX, TopicBook, group_lane, topic_lane

SCAN_MESSAGES_MAX = 512
"""Messages per scan: about 2 ms of the writer's time, which the next batch may have to wait for."""
SCAN_BYTES_MAX = 1 << 20
"""Bytes per scan, but at least one message: large messages beat any count."""
SCANS_QUEUED_MAX = 2
"""Scans given to the writer and not yet back. A batch waits behind these at most, however many lanes are hungry; two,
so that the writer has the next one at hand while the loop hands out the last."""
DUES_SLACK = 64
"""Stale entries the heap of dues may hold beside one per lane, before it is built anew."""

Mark = tuple[int, int]
"""(due_ms, seq): the order in which retries of a lane are taken."""


class Lane:
    """One priority of one group that somebody has asked for."""

    __slots__ = (
        "asked_until_ms",
        "busy",
        "caught_up",
        "closed",
        "cursor",
        "demand",
        "first_waiting_ms",
        "group",
        "horizon",
        "next_on_disk_ms",
        "noted_ms",
        "priority",
        "topic_lane",
        "waiting",
    )

    def __init__(self, group: Group, priority: int, now_ms: int) -> None:
        self.group = group
        self.priority = priority
        self.topic_lane = topic_lane(group.topic.id, priority)
        self.demand = 0
        self.cursor = group.start_seq
        self.caught_up = False
        self.busy = False
        """A scan is queued or running. One at a time: the next one starts from what it brings."""
        self.closed = False
        self.horizon: Mark = (now_ms, SEQ_MAX)
        self.waiting: dict[int, int] = {}
        """seq -> due_ms of retries at or below the horizon that are not in the gateway's hands. Numbers only, and at
        most as many as the gateway held: they were in its hands, and it takes none while it has no demand."""
        self.first_waiting_ms = 0
        """No later than the first due in `waiting`. All of those are due, so nothing hangs on its being exact."""
        self.next_on_disk_ms: int | None = None
        """Due of the first retry above the horizon; may be too early, never too late."""
        self.asked_until_ms: int | None = None
        """`due` was called: retries up to this are to be handed over."""
        self.noted_ms: int | None = None
        """Due of this lane's valid entry in the heap of dues."""

    def next_due_ms(self) -> int | None:
        if self.waiting:
            return self.first_waiting_ms
        return self.next_on_disk_ms


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What a lane wants read. For the writer: it must not touch `lane`, which belongs to the loop."""

    lane: Lane
    group: Group
    priority: int
    cursor: int
    horizon: Mark
    limit: int
    due_until_ms: int | None
    """None: the backlog above `cursor`, retries above `horizon` left out. Else: `waiting`, then retries above the
    horizon and due by then, with seq up to the cursor."""
    waiting: Sequence[int] = ()


@dataclass(slots=True)
class Scanned:
    """What a scan found: messages in the order in which they are to be taken."""

    messages: list[Message] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)
    """(deliveries, failures) per message; empty when all are zero."""
    cursor: int = 0
    """Backlog: seq up to which everything was looked at."""
    horizon: Mark = (0, 0)
    """Due scan: up to where retries were looked at."""
    marks: list[Mark] = field(default_factory=list)
    """Due scan: the mark of each message."""
    from_waiting: int = 0
    """Due scan: so many of the messages are from `Scan.waiting`,"""
    waiting_seen: int = 0
    """of which so many were looked for."""
    exhausted: bool = False
    """There is nothing more at present."""
    next_due_ms: int | None = None
    """Due of the first retry of the lane above the horizon."""
    failed: bool = False
    """The scan ended early on an error; the lane is looked at again after the next commit or `want`."""
    books: Sequence[TopicBook] = ()
    """Counters changed by moving damaged messages to the dead letters."""


class LaneFeed:
    """All open lanes of one store. Every method runs on the loop."""

    def __init__(self, submit: Callable[[Scan], None], now_ms: int, arrivals: Arrivals) -> None:
        self.now_ms = now_ms
        self._submit = submit
        self._arrivals = arrivals
        self._lanes: dict[int, Lane] = {}
        self._live: dict[int, dict[Lane, None]] = {}
        """Caught-up lanes by topic lane: those a commit has to look at, however many others exist."""
        self._hungry: deque[Lane] = deque()
        """Lanes whose scan waits for its turn."""
        self._stalled: dict[Lane, None] = {}
        """Lanes whose last scan failed."""
        self._scans = 0
        self._dues: list[tuple[int, int, Lane]] = []
        self._pushes = 0

    # -- what the gateway says

    def want(self, group: Group, priority: int, count: int) -> None:
        key = group_lane(group.id, priority)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(group, priority, self.now_ms)
        lane.demand = count
        if count > 0:
            self._feed(lane)

    def forget(self, group: Group) -> None:
        for priority in range(PRIORITIES):
            lane = self._lanes.pop(group_lane(group.id, priority), None)
            if lane is not None:
                lane.closed = True
                self._leave(lane)

    def due(self, now_ms: int) -> None:
        self.now_ms = max(self.now_ms, now_ms)
        while (due_ms := self.next_due_ms()) is not None and due_ms <= now_ms:
            lane = heapq.heappop(self._dues)[2]
            lane.noted_ms = None
            lane.asked_until_ms = now_ms
            self._feed(lane)

    def next_due_ms(self) -> int | None:
        """Lanes being served already do not count: they come back by themselves."""
        dues = self._dues
        while dues:
            due_ms, _, lane = dues[0]
            if lane.noted_ms == due_ms and self._waits(lane) and lane.next_due_ms() == due_ms:
                return due_ms
            heapq.heappop(dues)
            if lane.noted_ms == due_ms:
                lane.noted_ms = None
                self._note(lane)
        return None

    # -- what the store says, in the order of its work

    def settled(self, batch: Batch) -> None:
        """The batch's settlements are durable."""
        lanes = self._lanes
        for settlement in batch.settlements:
            if isinstance(settlement, Done):
                self._gone(settlement.group, settlement.messages)
                continue
            message = settlement.message
            lane = lanes.get(group_lane(settlement.group.id, message.priority))
            if lane is None:
                continue
            if lane.waiting:
                lane.waiting.pop(message.seq, None)
            if isinstance(settlement, Retry) and message.seq <= lane.cursor:
                self._retry(lane, (settlement.due_ms, message.seq))

    def _gone(self, group: Group, messages: Sequence[Message]) -> None:
        for priority in range(PRIORITIES):
            lane = self._lanes.get(group_lane(group.id, priority))
            if lane is not None and lane.waiting:
                for message in messages:
                    if message.priority == priority:
                        lane.waiting.pop(message.seq, None)

    def _retry(self, lane: Lane, mark: Mark) -> None:
        """A message of the lane waits again. (Above the cursor it is left to the backlog scan, which sees it.)"""
        if mark <= lane.horizon:
            lane.first_waiting_ms = min(lane.first_waiting_ms, mark[0]) if lane.waiting else mark[0]
            lane.waiting[mark[1]] = mark[0]
        elif lane.next_on_disk_ms is None or mark[0] < lane.next_on_disk_ms:
            lane.next_on_disk_ms = mark[0]
        self._note(lane)

    def committed(self, fresh: dict[int, list[Message]]) -> None:
        """New messages are durable: hand them to the lanes that wait for nothing else."""
        for key, messages in fresh.items():
            for lane in list(self._live.get(key, ())):
                if not lane.closed and lane.caught_up:  # an arrival before may have changed that
                    self._hand_fresh(lane, messages)
        if self._stalled:
            stalled, self._stalled = self._stalled, {}
            for lane in stalled:
                self._feed(lane)

    def _hand_fresh(self, lane: Lane, messages: Sequence[Message]) -> None:
        count = min(lane.demand, len(messages))
        if count < len(messages):
            lane.caught_up = False
            self._leave(lane)
            messages = messages[:count]
        if count > 0:
            lane.cursor = messages[-1].seq
            lane.demand -= count
            self._arrivals(lane.group, lane.priority, messages, None)

    def scanned(self, scan: Scan, result: Scanned) -> None:
        """A scan is back. What no longer fits the demand is left where it was."""
        self._scans -= 1
        lane = scan.lane
        lane.busy = False
        if lane.closed:
            self._pump()
            return
        due_before_ms = self.next_due_ms()
        backlog = scan.due_until_ms is None
        taken = self._take_backlog(lane, result) if backlog else self._take_due(lane, scan, result)
        lane.demand -= len(taken)
        if result.failed:
            lane.asked_until_ms = None
            self._stalled[lane] = None
        else:
            if lane.horizon == result.horizon:  # else something it found was left, above the horizon
                lane.next_on_disk_ms = result.next_due_ms
            self._feed(lane)
        self._pump()
        # Without messages: the scan met a retry, and whoever keeps the timer must hear of it.
        if taken or self.next_due_ms() != due_before_ms:
            counts = [result.counts[index] for index in taken] if result.counts else None
            self._arrivals(lane.group, lane.priority, [result.messages[index] for index in taken], counts)

    def _take_backlog(self, lane: Lane, result: Scanned) -> Sequence[int]:
        found = len(result.messages)
        if found <= lane.demand:
            lane.cursor = result.cursor
            if result.exhausted:
                lane.caught_up = True
                self._live.setdefault(lane.topic_lane, {})[lane] = None
            return range(found)
        if lane.demand > 0:
            lane.cursor = result.messages[lane.demand - 1].seq
        return range(max(0, lane.demand))

    def _take_due(self, lane: Lane, scan: Scan, result: Scanned) -> Sequence[int]:
        taken: list[int] = []
        seqs = [message.seq for message in result.messages]
        missing = set(scan.waiting[: result.waiting_seen]).difference(seqs[: result.from_waiting])
        for seq in missing:
            lane.waiting.pop(seq, None)  # settled meanwhile
        for index, seq in enumerate(seqs):
            if index < result.from_waiting and seq not in lane.waiting:
                continue  # counted meanwhile: it is in the gateway's hands
            if len(taken) >= lane.demand:
                break
            if index < result.from_waiting:
                del lane.waiting[seq]
            else:
                lane.horizon = result.marks[index]
            insort(taken, index, key=seqs.__getitem__)
        else:
            lane.horizon = result.horizon
            if result.exhausted and not lane.waiting:
                lane.asked_until_ms = None
        return taken

    # -- scans

    def _feed(self, lane: Lane) -> None:
        """Queue the scan the lane needs, if it needs one."""
        if lane.demand <= 0:
            lane.asked_until_ms = None  # `next_due_ms` will tell again once there is demand
        if lane.busy or lane.closed or lane.demand <= 0:
            return
        if lane.asked_until_ms is not None or not lane.caught_up:
            lane.busy = True
            self._hungry.append(lane)
            self._pump()
        self._note(lane)

    def _pump(self) -> None:
        while self._hungry and self._scans < SCANS_QUEUED_MAX:
            lane = self._hungry.popleft()
            if lane.closed or lane.demand <= 0:
                lane.busy = False
                continue
            self._scans += 1
            self._submit(self._scan(lane))

    def _scan(self, lane: Lane) -> Scan:
        limit = min(lane.demand, SCAN_MESSAGES_MAX)
        waiting: Sequence[int] = ()
        if lane.asked_until_ms is not None and lane.waiting:
            waiting = heapq.nsmallest(limit, lane.waiting, key=lambda seq: (lane.waiting[seq], seq))
        return Scan(
            lane, lane.group, lane.priority, lane.cursor, lane.horizon, limit, lane.asked_until_ms, tuple(waiting)
        )

    def _leave(self, lane: Lane) -> None:
        """The lane is fed by commits no longer."""
        live = self._live.get(lane.topic_lane)
        if live is not None:
            live.pop(lane, None)
            if not live:
                del self._live[lane.topic_lane]

    # -- dues

    def _waits(self, lane: Lane) -> bool:
        return lane.demand > 0 and lane.asked_until_ms is None and not lane.closed

    def _note(self, lane: Lane) -> None:
        """Put the lane's next due into the heap, where it is not there already."""
        due_ms = lane.next_due_ms()
        if due_ms is None or due_ms == lane.noted_ms or not self._waits(lane):
            return
        lane.noted_ms = due_ms
        self._pushes += 1  # ties go in order; lanes do not compare
        heapq.heappush(self._dues, (due_ms, self._pushes, lane))
        if len(self._dues) > 2 * len(self._lanes) + DUES_SLACK:
            self._dues = [entry for entry in self._dues if entry[2].noted_ms == entry[0] and not entry[2].closed]
            heapq.heapify(self._dues)
