"""Reading messages back: the backlog, the due retries and the keys of a lane, and a topic's messages.

Owns the bounds of every read (rows looked at, messages, bytes) and the checksum: a row that is not what was stored is
told apart here, and never handed out. It writes nothing; the writer moves a damaged row to the dead letters.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .base import READ_BYTES_MAX, Message, Page
from .planning import SEQ_MAX, TopicBook, bases, group_lane, lane_base, message_of
from .queries import (
    BEGIN_READ,
    ROLLBACK,
    SELECT_BACKLOG,
    SELECT_BY_KEY,
    SELECT_DUE,
    SELECT_FLOOR,
    SELECT_MESSAGE,
    SELECT_NEXT_DUE,
    SELECT_NTH,
    SELECT_NTH_OF_KEY,
    SELECT_PUBLISHED_FROM,
    SELECT_RANGE,
    SELECT_RETRY,
    Connection,
    Execute,
)
from .scans import SCAN_BYTES_MAX, Scan, Scanned
from .txn import State

SCAN_ROWS_MIN, SCAN_ROWS_MAX = 256, 2_048
"""Rows one backlog scan may look at, where some of them are to be skipped: four times as many as are wanted, within
these bounds. The larger is about 2 ms of the writer's time."""
MESSAGE_COLUMNS = 13
"""Columns of a row that are its message's; see `planning.message_of`."""
TAKEN, EXPIRED, DAMAGED = range(3)
"""What a row that a scan came across was."""

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
        self._now_ms = max(scan.now_ms, state.now_ms)
        self._size_bytes = 0
        self.damaged: tuple[int, int, int, int] | None = None
        self.result = Scanned(cursor=scan.cursor, horizon=scan.horizon)

    def run(self) -> Scanned:
        result, scan = self.result, self._scan
        book = self._state.books.get(scan.group.topic.id)
        if book is None or scan.group.id not in book.start_of:
            result.exhausted = True  # deleted; the lane is about to be closed
            return result
        if scan.key is not None:
            self._by_key(scan.key, book.start_of[scan.group.id])
        elif scan.due_until_ms is None:
            self._backlog(book)
        else:
            self._due(scan.due_until_ms)
        if not any(deliveries or failures for deliveries, failures in result.counts):
            result.counts = []
        if self._lane in self._state.retry_lanes:
            due_ms, seq = result.horizon
            row = self._execute(SELECT_NEXT_DUE, (self._lane, due_ms, self._base | seq)).fetchone()
            result.next_due_ms = row[0] if row else None
        return result

    # -- the backlog

    def _backlog(self, book: TopicBook) -> None:
        scan, result, base = self._scan, self.result, self._base
        low, high = base | scan.cursor, base | SEQ_MAX
        if book.plain and self._lane not in self._state.retry_lanes:
            self._plain_backlog(low, high, book.last_seq)
            return
        rows_max = min(max(SCAN_ROWS_MIN, 4 * scan.limit), SCAN_ROWS_MAX)
        nth = self._execute(SELECT_NTH, (low, high, rows_max - 1)).fetchone()
        stop = nth[0] if nth else None
        mark = (scan.horizon[0], base | scan.horizon[1])
        values = (*mark, self._lane, low, stop or high, *mark, scan.group.id, SCAN_ROWS_MAX)
        rows = self._execute(SELECT_BACKLOG, values)
        seen = 0
        try:
            for row in rows:
                seen += 1
                result.cursor = row[0] & SEQ_MAX
                if not self._pass(row) or self._full():
                    return
        finally:
            rows.close()  # a statement left open would keep its snapshot, and the next transaction would be inside it
        if stop is not None:
            result.cursor = stop & SEQ_MAX
        elif seen < SCAN_ROWS_MAX:
            result.cursor = max(scan.cursor, book.last_seq)
            result.exhausted = True

    def _plain_backlog(self, low: int, high: int, last_seq: int) -> None:
        """The same where no row is to be skipped and none has counts: as little as can be done per row."""
        scan, result, now_ms = self._scan, self.result, self._now_ms
        found, limit, size_bytes, seen = result.messages, scan.limit, 0, 0
        rows = self._execute(SELECT_RANGE, (low, high, SCAN_ROWS_MAX))
        try:
            for row in rows:
                seen += 1
                message = message_of(row)
                if message is None:
                    result.cursor = row[0] & SEQ_MAX
                    self.damaged = (result.cursor, _size_bytes(row), 0, 0)
                    return
                size_bytes += message.size_bytes
                if message.expires_ms is not None and message.expires_ms <= now_ms:
                    result.expired.append(message)
                else:
                    found.append(message)
                if len(found) >= limit or size_bytes >= SCAN_BYTES_MAX:
                    result.cursor = message.seq
                    return
        finally:
            rows.close()
        if seen < SCAN_ROWS_MAX:
            result.cursor = max(scan.cursor, last_seq)
            result.exhausted = True
        else:
            result.cursor = row[0] & SEQ_MAX

    def _pass(self, row: Sequence[Any]) -> bool:
        """Come across a row of the backlog; False when it is damaged."""
        deliveries, failures, due_ms = row[MESSAGE_COLUMNS:]
        if due_ms is not None and (due_ms, row[0] & SEQ_MAX) > self._scan.horizon:
            self.result.blocked.append((row[0] & SEQ_MAX, row[2]))
            return True
        return self._take(row, (deliveries or 0, failures or 0)) != DAMAGED

    # -- one key

    def _by_key(self, key: str, start_seq: int) -> None:
        """What is deliverable of a key, in the part of the lane that the cursor has passed."""
        scan, result, base = self._scan, self.result, self._base
        low, high = base | max(scan.cursor, start_seq), base | scan.through
        nth = self._execute(SELECT_NTH_OF_KEY, (key, low, high, SCAN_ROWS_MAX - 1)).fetchone()
        stop = nth[0] if nth else high
        mark = (scan.horizon[0], base | scan.horizon[1])
        rows = self._execute(SELECT_BY_KEY, (self._lane, key, low, stop, *mark, scan.group.id, SCAN_ROWS_MAX))
        try:
            for row in rows:
                result.cursor = row[0] & SEQ_MAX
                taken = self._take(row, (row[MESSAGE_COLUMNS] or 0, row[MESSAGE_COLUMNS + 1] or 0))
                if taken == DAMAGED or self._full():
                    return
        finally:
            rows.close()
        result.cursor = stop & SEQ_MAX

    # -- retries

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
        if row is None:
            return True
        taken = self._take(row, counts)
        if taken == TAKEN:
            self.result.marks.append(mark)
        return taken != DAMAGED

    # -- one row

    def _take(self, row: Sequence[Any], counts: tuple[int, int]) -> int:
        """Take the row into the result, as what it is. A damaged one ends the scan."""
        message = message_of(row)
        if message is None:
            self.damaged = (row[0] & SEQ_MAX, _size_bytes(row), *counts)
            return DAMAGED
        self._size_bytes += message.size_bytes
        if message.expires_ms is not None and message.expires_ms <= self._now_ms:
            self.result.expired.append(message)
            return EXPIRED
        self.result.messages.append(message)
        self.result.counts.append(counts)
        return TAKEN

    def _full(self) -> bool:
        return len(self.result.messages) >= self._scan.limit or self._size_bytes >= SCAN_BYTES_MAX


def _size_bytes(row: Sequence[Any]) -> int:
    """What a damaged row counts in its topic's books: as `Message.size_bytes`, as far as it can be told."""
    return sum(len(part) for part in (row[2], row[5], row[8]) if isinstance(part, str | bytes))


def first_published(execute: Execute, topic_id: int, last_seq: int, published_at_ms: int, floor: int = 0) -> int | None:
    """The first kept seq above the topic's floor published at or after this. Within a lane, times do not fall as seqs
    rise, so each is halved; where the machine's clock was set back between two starts, it is one of the places where
    they cross."""
    found = (_first(execute, base, floor + 1, last_seq, published_at_ms) for base in bases(topic_id))
    return min((seq for seq in found if seq is not None), default=None)


def _first(execute: Execute, base: int, low: int, high: int, published_at_ms: int) -> int | None:
    first = None
    while low <= high:
        middle = (low + high) // 2
        row = execute(SELECT_PUBLISHED_FROM, (base | middle, base | high)).fetchone()
        if row is None:
            high = middle - 1
        elif row[1] < published_at_ms:
            low = (row[0] & SEQ_MAX) + 1
        else:
            first, high = row[0] & SEQ_MAX, middle - 1
    return first


def read(
    connection: Connection, topic_id: int, after_seq: int, limit: int, last_seq: int, bytes_max: int = READ_BYTES_MAX
) -> tuple[Page, int]:
    """Messages of all priorities, scheduled ones too, merged by seq, up to `last_seq`; and the number of damaged rows
    left out. The message that makes `bytes_max` is the last. No seq is ever left out by the store, so what is not there
    has gone."""

    def work() -> tuple[Page, int]:
        execute = connection.execute
        found: list[Message] = []
        size_bytes = damaged = 0
        through = max(after_seq, last_seq)
        execute(BEGIN_READ)  # else one priority could be read before a commit and the next after it
        row = execute(SELECT_FLOOR, (topic_id,)).fetchone()
        low = max(after_seq, row[0] if row else 0)
        lanes = [execute(SELECT_RANGE, (base | low, base | last_seq, limit)) for base in bases(topic_id)]
        try:
            for row in heapq.merge(*lanes, key=lambda row: row[0] & SEQ_MAX) if low < last_seq else ():
                message = message_of(row)
                if message is None:
                    damaged += 1
                    continue
                found.append(message)
                size_bytes += message.size_bytes
                if len(found) >= limit or size_bytes >= bytes_max:
                    through = message.seq
                    break
        finally:
            for lane in lanes:
                lane.close()
            execute(ROLLBACK)
        return Page(found, _gaps(after_seq, [message.seq for message in found], through), through), damaged

    return tolerantly(connection, work)


def _gaps(after_seq: int, seqs: Sequence[int], through: int) -> list[tuple[int, int]]:
    """The ranges between `after_seq` and `through` of which nothing is there."""
    gaps: list[tuple[int, int]] = []
    expected = after_seq + 1
    for seq in (*seqs, through + 1):
        if seq > expected:
            gaps.append((expected, seq - 1))
        expected = seq + 1
    return gaps
