"""One lane: where it stands, what it asks to be read next, and what it takes of what was read.

Owns the meaning of a lane's places: everything up to the `cursor` was handed over, or skipped because it was settled
or not yet due. Retries have a cursor of their own, the `horizon`, a (due, seq): waiting retries above it are known to
the disk only and come through due scans in that order; those at or below it that are not in the gateway's hands are in
`waiting`. It knows no other lane, queues nothing and says nothing to the gateway: that is `lanes.py`.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from .base import Group
from .planning import SEQ_MAX, topic_lane
from .scans import SCAN_MESSAGES_MAX, Mark, Scan, Scanned


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
        "lapsed",
        "next_on_disk_ms",
        "noted_ms",
        "owed_until_ms",
        "priority",
        "seen",
        "told",
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
        self.told = True
        """What the gateway knows of `caught_up`."""
        self.busy = False
        """A scan is queued or running. One at a time: the next one starts from what it brings."""
        self.seen = False
        """A scan has been back for it, or none was needed."""
        self.closed = False
        self.horizon: Mark = (now_ms, SEQ_MAX)
        self.waiting: dict[int, int] = {}
        """seq -> due_ms of retries at or below the horizon that are not in the gateway's hands. Numbers only, and at
        most as many as the gateway held: they were in its hands, and it takes none while it has no demand."""
        self.lapsed: set[int] = set()
        """Seqs of keyed messages in the gateway's hands that were said to have expired, and are not yet settled."""
        self.first_waiting_ms = 0
        """No later than the first due in `waiting`. All of those are due, so nothing hangs on its being exact."""
        self.next_on_disk_ms: int | None = None
        """Due of the first retry above the horizon; may be too early, never too late."""
        self.asked_until_ms: int | None = None
        """`due` was called: retries up to this are to be handed over."""
        self.owed_until_ms: int | None = None
        """Messages that the lane had passed were promoted while nobody wanted any: they go before its backlog."""
        self.noted_ms: int | None = None
        """Due of this lane's valid entry in the heap of dues."""

    def next_due_ms(self) -> int | None:
        if self.waiting:
            return self.first_waiting_ms
        return self.next_on_disk_ms

    # -- what is read

    def scan(self, now_ms: int) -> Scan:
        """What it wants read next."""
        limit = min(self.demand, SCAN_MESSAGES_MAX)
        waiting: Sequence[int] = ()
        if self.asked_until_ms is not None and self.waiting:
            waiting = heapq.nsmallest(limit, self.waiting, key=lambda seq: (self.waiting[seq], seq))
        return Scan(
            self,
            self.group,
            self.priority,
            self.cursor,
            self.horizon,
            limit,
            now_ms,
            self.asked_until_ms,
            tuple(waiting),
        )

    # -- what is handed over

    def waits_again(self, mark: Mark) -> None:
        """A message of the lane waits again. (Above the cursor it is left to the backlog scan, which sees it.)"""
        if mark <= self.horizon:
            self.first_waiting_ms = min(self.first_waiting_ms, mark[0]) if self.waiting else mark[0]
            self.waiting[mark[1]] = mark[0]
        elif self.next_on_disk_ms is None or mark[0] < self.next_on_disk_ms:
            self.next_on_disk_ms = mark[0]

    def in_hand(self, seq: int, due_ms: int | None) -> bool:
        """Whether the gateway has the message, while the lane is open; `due_ms` is that of its retry, if it has one."""
        if seq > self.cursor:
            return False
        if not due_ms:
            return True
        return (due_ms, seq) <= self.horizon and seq not in self.waiting

    def take(self, scan: Scan, result: Scanned) -> Sequence[int]:
        """Indexes of the found messages that still fit the demand, in seq order. The rest is left where it was."""
        taken = self._take_backlog(result) if scan.due_until_ms is None else self._take_due(scan, result)
        self.demand -= len(taken)
        return taken

    def _take_backlog(self, result: Scanned) -> Sequence[int]:
        found = len(result.messages)
        if found <= self.demand:
            self.cursor = result.cursor
            self.caught_up = self.caught_up or result.exhausted
            return range(found)
        if self.demand > 0:
            self.cursor = result.messages[self.demand - 1].seq
        return range(max(0, self.demand))

    def _take_due(self, scan: Scan, result: Scanned) -> Sequence[int]:
        taken: list[int] = []
        seqs = [message.seq for message in result.messages]
        missing = set(scan.waiting[: result.waiting_seen]).difference(seqs[: result.from_waiting])
        for seq in missing:
            self.waiting.pop(seq, None)  # settled meanwhile
        for index, seq in enumerate(seqs):
            if index < result.from_waiting and seq not in self.waiting:
                continue  # counted meanwhile: it is in the gateway's hands
            if len(taken) >= self.demand:
                break
            if index < result.from_waiting:
                del self.waiting[seq]
            else:
                self.horizon = result.marks[index]
            insort(taken, index, key=seqs.__getitem__)
        else:
            self.horizon = result.horizon
            if result.exhausted and not self.waiting:
                self.asked_until_ms = None
        return taken


@dataclass(frozen=True, slots=True, eq=False)
class KeyWant:
    """Messages of one key that a lane is asked for."""

    lane: Lane
    key: str
    after_seq: int
    count: int

    def scan(self, now_ms: int) -> Scan:
        lane = self.lane
        through = max(lane.cursor, self.after_seq)
        return Scan(
            lane,
            lane.group,
            lane.priority,
            self.after_seq,
            lane.horizon,
            self.count,
            now_ms,
            key=self.key,
            through=through,
        )
