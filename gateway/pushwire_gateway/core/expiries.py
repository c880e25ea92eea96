"""TTLs of messages in memory, earliest first.

Owns when one of them ends next. What becomes of the message is delivery.py's; those on disk are the store's.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from .model import ENDED, WAITING, Group, Pending

ENTRIES_MIN = 256
"""Entries before the heap is first looked through for messages that have ended."""


class Expiries:
    """One entry for each message with a TTL, from its arrival on, unless it was dropped at once.

    An entry outlives a message that is settled before its TTL ends, which is what nearly all are. So the heap is built
    anew without those whenever it has doubled: what it keeps alive is at most as much again as is in memory.
    """

    __slots__ = ("_heap", "_rebuild_at", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Group, Pending]] = []
        self._rebuild_at = ENTRIES_MIN
        self._serial = 0

    def __len__(self) -> int:
        return len(self._heap)

    def watch(self, group: Group, pending: Pending) -> None:
        """The message is held from now on, if it was not dropped: end it in time, if it has a TTL."""
        expires_ms = pending.message.expires_ms
        if expires_ms is None or pending.place == ENDED:
            return
        if len(self._heap) >= self._rebuild_at:
            self._heap = [entry for entry in self._heap if entry[3].place != ENDED]
            heapify(self._heap)
            self._rebuild_at = max(ENTRIES_MIN, 2 * len(self._heap))
        self._serial += 1
        heappush(self._heap, (expires_ms / 1000, self._serial, group, pending))

    def next(self) -> float | None:
        """When the next one ends. May be early: its message may have ended before."""
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> tuple[Group, Pending] | None:
        """A message that waits although its TTL is over; one that is leased is judged when its lease ends."""
        while self._heap and self._heap[0][0] <= now:
            _, _, group, pending = heappop(self._heap)
            if pending.place == WAITING:
                return group, pending
        return None
