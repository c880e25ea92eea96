"""Reading messages back: the backlog and the due retries of a lane, a topic's messages, its dead letters.

Owns the bounds of every read (rows looked at, messages, bytes) and the checksum: a row that is not what was stored is
told apart here, and never handed out. It writes nothing; the writer moves a damaged row to the dead letters.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .base import PRIORITIES, DeadLetter, Message, Topic
from .lanes import SCAN_BYTES_MAX, Scan, Scanned
from .planning import SEQ_MAX, group_lane, lane_base, message_of
from .queries import (
    BEGIN_READ,
    ROLLBACK,
    SELECT_BACKLOG,
    SELECT_DEAD,
    SELECT_DUE,
    SELECT_MESSAGE,
    SELECT_NEXT_DUE,
    SELECT_NTH,
    SELECT_RANGE,
    SELECT_RETRY,
    Connection,
    Execute,
)
from .txn import State

SCAN_ROWS_MIN, SCAN_ROWS_MAX = 256, 2_048
"""Rows one backlog scan may look at, where some of them are to be skipped: four times as many as are wanted, within
these bounds. The larger is about 2 ms of the writer's time."""
READ_BYTES_MAX = 8 << 20
"""Bytes one `read` or `dead_letters` may return, but at least one message."""

T = TypeVar("T")


def tolerantly(connection: Connection, work: Callable[[], T]) -> T:
    """Run a read; once more, with texts decoded whatever they hold, when one of them is not UTF-8: damage can do that,
    and the checksum then tells which row it was."""
    try:
        return work()
    except Exception as error:
        if "decode to UTF-8" not in str(error):
            raise
    if connection.in_transaction:
        connection.execute(ROLLBACK)
    connection.text_factory = lambda raw: raw.decode(errors="backslashreplace")
    try:
        return work()
    finally:
        connection.text_factory = str


class Scanner:
    """One scan of one lane. `damaged` is the row that stopped it, if one did: (seq, bytes, deliveries, failures)."""

    def __init__(self, state: State, execute: Execute, scan: Scan) -> None:
        self._state = state
        self._execute = execute
        self._scan = scan
        self._lane = group_lane(scan.group.id, scan.priority)
        self._base = lane_base(scan.group.topic.id, scan.priority)
        self._size_bytes = 0
        self.damaged: tuple[int, int, int, int] | None = None
        self.result = Scanned(cursor=scan.cursor, horizon=scan.horizon)

    def run(self) -> Scanned:
        if self._scan.due_until_ms is None:
            self._backlog()
        else:
            self._due(self._scan.due_until_ms)
        result = self.result
        if not any(deliveries or failures for deliveries, failures in result.counts):
            result.counts = []
        if self._lane in self._state.retry_lanes:
            due_ms, seq = result.horizon
            row = self._execute(SELECT_NEXT_DUE, (self._lane, due_ms, self._base | seq)).fetchone()
            result.next_due_ms = row[0] if row else None
        return result

    def _backlog(self) -> None:
        scan, result, base = self._scan, self.result, self._base
        book = self._state.books[scan.group.topic.id]
        low, high = base | scan.cursor, base | SEQ_MAX
        stop: int | None = None
        if self._lane in self._state.retry_lanes or len(book.starts) > 1:
            rows_max = min(max(SCAN_ROWS_MIN, 4 * scan.limit), SCAN_ROWS_MAX)
            nth = self._execute(SELECT_NTH, (low, high, rows_max - 1)).fetchone()
            stop = nth[0] if nth else None
            due_ms, seq = scan.horizon
            rows = self._execute(
                SELECT_BACKLOG, (self._lane, low, stop or high, due_ms, base | seq, scan.group.id, scan.limit)
            )
        else:
            rows = self._execute(SELECT_RANGE, (low, high, scan.limit))
        try:
            for row in rows:
                result.cursor = row[0] & SEQ_MAX
                counts = (row[9] or 0, row[10] or 0) if len(row) > 9 else (0, 0)
                if not self._take(row, counts) or self._full():
                    return
        finally:
            rows.close()  # a statement left open would keep its snapshot, and the next transaction would be inside it
        if stop is None:
            result.cursor = max(scan.cursor, book.last_seq)
            result.exhausted = True
        else:
            result.cursor = stop & SEQ_MAX

    def _due(self, until_ms: int) -> None:
        scan, result = self._scan, self.result
        for seq in scan.waiting:
            result.waiting_seen += 1
            row = self._execute(SELECT_RETRY, (self._lane, self._base | seq)).fetchone()
            if row is None:
                continue  # settled by a batch that ran before; what that put off the lane no longer waits for
            sound = self._fetch((row[0], seq), (row[1], row[2]))
            result.from_waiting = len(result.messages)
            if not sound:
                result.waiting_seen -= 1
            if not sound or self._full():
                return
        room = scan.limit - len(scan.waiting)
        if room > 0:
            self._due_on_disk(until_ms, room)

    def _due_on_disk(self, until_ms: int, room: int) -> None:
        result = self.result
        due_ms, seq = self._scan.horizon
        rows = self._execute(SELECT_DUE, (self._lane, due_ms, self._base | seq, until_ms, room)).fetchall()
        for due_ms, pos, deliveries, failures in rows:
            mark = (due_ms, pos & SEQ_MAX)
            # Above the cursor it is left to the backlog scan, which finds it below the horizon then.
            if mark[1] <= self._scan.cursor and not self._fetch(mark, (deliveries, failures)):
                return
            result.horizon = mark
            if self._full():
                return
        if len(rows) < room:
            result.horizon = (until_ms, SEQ_MAX)
            result.exhausted = True

    def _fetch(self, mark: tuple[int, int], counts: tuple[int, int]) -> bool:
        """Take the message of a retry; False when it is damaged."""
        row = self._execute(SELECT_MESSAGE, (self._base | mark[1],)).fetchone()
        if row is None or not self._take(row, counts):
            return row is None
        self.result.marks.append(mark)
        return True

    def _take(self, row: Sequence[Any], counts: tuple[int, int]) -> bool:
        """Take the row into the result; False when it is damaged, which ends the scan."""
        message = message_of(row[:9])
        if message is None:
            self.damaged = (row[0] & SEQ_MAX, _size_bytes(row), *counts)
            return False
        self.result.messages.append(message)
        self.result.counts.append(counts)
        self._size_bytes += message.size_bytes
        return True

    def _full(self) -> bool:
        return len(self.result.messages) >= self._scan.limit or self._size_bytes >= SCAN_BYTES_MAX


def _size_bytes(row: Sequence[Any]) -> int:
    """What a damaged row counts in its topic's books: as `Message.size_bytes`, as far as it can be told."""
    return sum(len(part) for part in (row[2], row[5], row[8]) if isinstance(part, str | bytes))


def read(connection: Connection, topic: Topic, after_seq: int, limit: int) -> tuple[list[Message], int]:
    """Messages of all priorities merged by seq, and the number of damaged rows left out."""

    def work() -> tuple[list[Message], int]:
        execute = connection.execute
        found: list[Message] = []
        size_bytes = damaged = 0
        execute(BEGIN_READ)  # else one priority could be read before a commit and the next after it
        bases = [lane_base(topic.id, priority) for priority in range(PRIORITIES)]
        lanes = [execute(SELECT_RANGE, (base | after_seq, base | SEQ_MAX, limit)) for base in bases]
        try:
            for row in heapq.merge(*lanes, key=lambda row: row[0] & SEQ_MAX):
                message = message_of(row)
                if message is None:
                    damaged += 1
                    continue
                found.append(message)
                size_bytes += message.size_bytes
                if len(found) >= limit or size_bytes >= READ_BYTES_MAX:
                    break
        finally:
            for lane in lanes:
                lane.close()
            execute(ROLLBACK)
        return found, damaged

    return tolerantly(connection, work)


def dead_letters(connection: Connection, topic: Topic, limit: int) -> list[DeadLetter]:
    """The newest dead letters of the topic. One that is damaged is shown as it is, with the reason `corrupt`."""

    def work() -> list[DeadLetter]:
        found: list[DeadLetter] = []
        size_bytes = 0
        rows = connection.execute(SELECT_DEAD, (topic.id, limit))
        for row in rows:
            letter = _dead_letter(topic, row)
            found.append(letter)
            size_bytes += letter.message.size_bytes
            if size_bytes >= READ_BYTES_MAX:
                break
        rows.close()
        return found

    return tolerantly(connection, work)


def _dead_letter(topic: Topic, row: Sequence[Any]) -> DeadLetter:
    number, group, reason, error, deliveries, failures, at_ms = row[9:]
    message = message_of(row[:9])
    if message is None:
        reason = "corrupt"
        pos, id_, key, encoding, content_type, headers, published_at_ms, _, data = row[:9]
        body = data if isinstance(data, bytes) else str(data).encode()
        priority = pos >> SEQ_MAX.bit_length() & PRIORITIES - 1
        message = Message(str(id_), body, published_at_ms, encoding, priority, key, headers, content_type)
        message.seq = pos & SEQ_MAX
    return DeadLetter(number, topic.name, group, message, reason, error, deliveries, failures, at_ms)
