"""The store that keeps nothing on disk: the whole contract but durability, for tests and for trying things out.

Owns dictionaries. Policy comes from planning.py and the loop's side from front.py, as for every store; it must not
answer differently from the others in anything that `Capabilities` does not declare.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from .base import (
    PRIORITIES,
    Append,
    Arrivals,
    Batch,
    Capabilities,
    Change,
    Counted,
    CreateTopic,
    Dead,
    DeadLetter,
    Done,
    Group,
    Message,
    Refused,
    Retry,
    Settlement,
    StoreBroken,
    StoreError,
    StoreStats,
    Topic,
)
from .front import StoreFront
from .lanes import SCAN_BYTES_MAX, Mark, Scan, Scanned
from .planning import (
    ID_BYTES,
    SEQ_MAX,
    TOPIC_ID_MAX,
    Limits,
    Outcome,
    TopicBook,
    describe_holder,
    group_lane,
    new_group_start,
    plan_append,
    topic_lane,
)

T = TypeVar("T")

FORGET_IDS = 256
"""Ids forgotten per batch while an old generation is emptied, beside twice the new ones: no batch pays for all."""
SEQS_SLACK = 64
"""Seqs of deleted messages a shelf may carry, beside as many as it has messages, before it is tidied."""


class Shelf:
    """The kept messages of one priority of one topic, in seq order."""

    def __init__(self) -> None:
        self._seqs: list[int] = []
        self.messages: dict[int, Message] = {}

    def put(self, message: Message) -> None:
        self._seqs.append(message.seq)
        self.messages[message.seq] = message

    def drop(self, seq: int) -> None:
        del self.messages[seq]
        if len(self._seqs) > 2 * len(self.messages) + SEQS_SLACK:
            self._seqs = list(self.messages)

    def after(self, seq: int) -> Iterator[Message]:
        for index in range(bisect_right(self._seqs, seq), len(self._seqs)):
            message = self.messages.get(self._seqs[index])
            if message is not None:
                yield message


class Waiting:
    """The retries of one lane: counts by seq, and seqs by due."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, int, int]] = {}
        self.marks: list[Mark] = []

    def put(self, seq: int, due_ms: int, deliveries: int, failures: int) -> None:
        _, deliveries_before, failures_before = self.rows.get(seq, (0, 0, 0))
        self.drop(seq)
        self.rows[seq] = (due_ms, max(deliveries, deliveries_before), max(failures, failures_before))
        insort(self.marks, (due_ms, seq))

    def drop(self, seq: int) -> None:
        row = self.rows.pop(seq, None)
        if row is not None:
            del self.marks[bisect_left(self.marks, (row[0], seq))]


class MemoryEngine:
    """What the writer is to SQLite. Nothing here can fail half-way, so nothing is rolled back."""

    broken: StoreError | None = None

    def __init__(self, limits: Limits, now_ms: int) -> None:
        self._limits = limits
        self._now_ms = now_ms
        self._books: dict[int, TopicBook] = {}
        self._topic_ids: dict[tuple[str, str], int] = {}
        self._groups = 0
        self.shelves: dict[int, Shelf] = {}
        self._waiting: dict[int, Waiting] = {}
        self._settled: dict[tuple[int, int], set[int]] = {}
        """(topic id, seq) -> groups that have settled it, where more than one must."""
        self._ids: list[dict[tuple[int, str], tuple[int, int]]] = [{}, {}]
        """Remembered ids, the current generation first."""
        self._generation_since_ms = now_ms
        self.dead: dict[int, deque[DeadLetter]] = {}
        self._letters = 0
        self.commits = 0
        self.rows = 0

    def run(self, batch: Batch) -> Outcome:
        self._now_ms = max(self._now_ms, batch.now_ms)
        touched: dict[int, None] = {}
        results = [(change, self._change(change)) for change in batch.changes]
        self._rotate(batch, touched)
        fresh: dict[int, list[Message]] = {}
        for append in batch.appends:
            touched[append.topic.id] = None
            self._append(append, fresh)
        for settlement in batch.settlements:
            touched[settlement.group.topic.id] = None
            self._settle(settlement)
        self.commits += 1
        return Outcome(books=[self._books[topic_id] for topic_id in touched], results=results, fresh=fresh)

    def _change(self, change: Change) -> Topic | Group | Refused:
        if isinstance(change, CreateTopic):
            name = (change.tenant, change.name)
            topic_id = self._topic_ids.get(name)
            if topic_id is not None:
                return self._books[topic_id].topic
            if len(self._books) >= TOPIC_ID_MAX:
                return Refused("too_many_topics", f"{TOPIC_ID_MAX} topics were created in this store")
            topic = Topic(len(self._books) + 1, *name)
            self._topic_ids[name] = topic.id
            self._books[topic.id] = TopicBook(topic)
            return topic
        book = self._books[change.topic.id]
        existing = book.groups.get(change.name)
        if existing is not None:
            return existing
        self._groups += 1
        group = Group(self._groups, book.topic, change.name, new_group_start(book, change))
        book.add_group(group)
        return group

    # -- appends

    def _append(self, append: Append, fresh: dict[int, list[Message]]) -> None:
        topic_id = append.topic.id
        current, older = self._ids

        def recall(id_: str) -> tuple[int, int] | None:
            key = (topic_id, id_)
            return current.get(key) or older.get(key)

        stored, remember = plan_append(append, self._books[topic_id], recall, self._limits, self._holder)
        current.update(((topic_id, id_), row) for id_, row in remember.items())
        for message in stored:
            key = topic_lane(topic_id, message.priority)
            self.shelves.setdefault(key, Shelf()).put(message)
            fresh.setdefault(key, []).append(message)
        self.rows += len(stored)

    def _holder(self, book: TopicBook) -> str:
        topic_id = book.topic.id
        shelves = [self.shelves.get(topic_lane(topic_id, priority)) for priority in range(PRIORITIES)]
        oldest = min((next(iter(shelf.messages)) for shelf in shelves if shelf and shelf.messages), default=None)
        if oldest is None:
            return describe_holder(None, ())
        settled = self._settled.get((topic_id, oldest), ())
        groups = [group for group in book.groups.values() if group.start_seq < oldest and group.id not in settled]
        return describe_holder(oldest, [group.name for group in groups])

    def _rotate(self, batch: Batch, touched: dict[int, None]) -> None:
        """As appending.py does it: empty the older generation by slices, then change places."""
        if self._now_ms - self._generation_since_ms < int(self._limits.dedupe_window_s * 1000):
            return
        older = self._ids[1]
        new_ids = sum(len(append.messages) for append in batch.appends)
        for key in list(islice(older, FORGET_IDS + 2 * new_ids)):
            del older[key]
            self._books[key[0]].bytes -= ID_BYTES
            touched[key[0]] = None
        if not older:
            self._ids.reverse()
            self._generation_since_ms = self._now_ms

    # -- settlements

    def _settle(self, settlement: Settlement) -> None:
        group = settlement.group
        if isinstance(settlement, Done):
            self.rows += len(settlement.messages)
            for message in settlement.messages:
                self._done(group, message)
        elif self._owed(group, settlement.message):
            message = settlement.message
            self.rows += 1
            if isinstance(settlement, Dead):
                self._bury(settlement)
                self._done(group, message)
            elif isinstance(settlement, Retry | Counted):
                due_ms = settlement.due_ms if isinstance(settlement, Retry) else 0
                waiting = self._waiting.setdefault(group_lane(group.id, message.priority), Waiting())
                waiting.put(message.seq, due_ms, settlement.deliveries, settlement.failures)

    def _owed(self, group: Group, message: Message) -> bool:
        """Whether the group has still to settle the message."""
        topic_id, seq = group.topic.id, message.seq
        shelf = self.shelves.get(topic_lane(topic_id, message.priority))
        if shelf is None or seq not in shelf.messages or seq <= group.start_seq:
            return False
        return group.id not in self._settled.get((topic_id, seq), ())

    def _done(self, group: Group, message: Message) -> None:
        if not self._owed(group, message):
            return
        topic_id, seq = group.topic.id, message.seq
        book = self._books[topic_id]
        waiting = self._waiting.get(group_lane(group.id, message.priority))
        if waiting is not None:
            waiting.drop(seq)
        settled = self._settled.setdefault((topic_id, seq), set())
        settled.add(group.id)
        if len(settled) >= book.needed(seq):
            del self._settled[(topic_id, seq)]
            self.shelves[topic_lane(topic_id, message.priority)].drop(seq)
            book.messages -= 1
            book.bytes -= message.size_bytes

    def _bury(self, dead: Dead) -> None:
        topic = dead.group.topic
        book, limits = self._books[topic.id], self._limits
        self._letters += 1
        letters = self.dead.setdefault(topic.id, deque())
        letters.append(
            DeadLetter(
                self._letters,
                topic.name,
                dead.group.name,
                dead.message,
                dead.reason,
                dead.error,
                dead.deliveries,
                dead.failures,
                dead.at_ms,
            )
        )
        expired_ms = self._now_ms - int(limits.dead_letters_keep_s * 1000)
        while len(letters) > limits.dead_letters_max or letters[0].at_ms < expired_ms:
            letters.popleft()
        book.dead_letters = len(letters)

    # -- scans

    def scan(self, scan: Scan) -> Scanned:
        waiting = self._waiting.get(group_lane(scan.group.id, scan.priority)) or Waiting()
        shelf = self.shelves.get(topic_lane(scan.group.topic.id, scan.priority)) or Shelf()
        result = Scanned(cursor=scan.cursor, horizon=scan.horizon)
        if scan.due_until_ms is None:
            self._backlog(scan, shelf, waiting, result)
        else:
            _due(scan, scan.due_until_ms, shelf, waiting, result)
        following = bisect_right(waiting.marks, result.horizon)
        result.next_due_ms = waiting.marks[following][0] if following < len(waiting.marks) else None
        return result

    def _backlog(self, scan: Scan, shelf: Shelf, waiting: Waiting, result: Scanned) -> None:
        topic_id = scan.group.topic.id
        size_bytes = 0
        for message in shelf.after(scan.cursor):
            seq = message.seq
            due_ms, *counts = waiting.rows.get(seq, (0, 0, 0))
            if (due_ms, seq) > scan.horizon or scan.group.id in self._settled.get((topic_id, seq), ()):
                continue
            result.messages.append(message)
            result.counts.append((counts[0], counts[1]))
            result.cursor = seq
            size_bytes += message.size_bytes
            if len(result.messages) >= scan.limit or size_bytes >= SCAN_BYTES_MAX:
                return
        result.cursor = max(scan.cursor, self._books[topic_id].last_seq)
        result.exhausted = True


def _due(scan: Scan, until_ms: int, shelf: Shelf, waiting: Waiting, result: Scanned) -> None:
    size_bytes = 0

    def take(seq: int, mark: Mark) -> bool:
        """Take the message; False when the scan is full."""
        nonlocal size_bytes
        message, row = shelf.messages[seq], waiting.rows[seq]
        result.messages.append(message)
        result.counts.append((row[1], row[2]))
        result.marks.append(mark)
        size_bytes += message.size_bytes
        return len(result.messages) < scan.limit and size_bytes < SCAN_BYTES_MAX

    for seq in scan.waiting:
        result.waiting_seen += 1
        row = waiting.rows.get(seq)
        if row is None:
            continue
        more = take(seq, (row[0], seq))
        result.from_waiting = len(result.messages)
        if not more:
            return
    if len(scan.waiting) >= scan.limit:
        return
    start = bisect_right(waiting.marks, scan.horizon)
    for mark in waiting.marks[start : bisect_right(waiting.marks, (until_ms, SEQ_MAX))]:
        result.horizon = mark
        if mark[1] <= scan.cursor and not take(mark[1], mark):
            return
    result.horizon = (until_ms, SEQ_MAX)
    result.exhausted = True


class MemoryStore(StoreFront):
    """See `base.Store`. The work is done on the loop, in turns of its own."""

    capabilities = Capabilities(shared=False, redelivers_after_crash_s=None, durable=False)

    def __init__(self, **limits: Any) -> None:
        """Takes the fields of `planning.Limits`."""
        super().__init__()
        self.version = "memory"
        self._limits = Limits.of(limits)
        self._memory: MemoryEngine | None = None
        self._queue: deque[Callable[[], None]] = deque()

    async def open(self, arrivals: Arrivals, now_ms: int) -> None:
        assert self._memory is None, "a store is opened once"
        self._loop = asyncio.get_running_loop()
        self._memory = MemoryEngine(self._limits, now_ms)
        self.epoch = secrets.token_hex(8)
        self._opened(self._memory, arrivals, now_ms)

    def _submit(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        self._queue.append(lambda: then(work()))
        self._loop.call_soon(self._step)

    def _step(self) -> None:
        if self._queue:  # `close` may have been quicker
            self._queue.popleft()()

    def _opened_memory(self) -> MemoryEngine:
        if self._memory is None:
            raise StoreBroken("the store is not open")
        return self._memory

    async def read(self, topic: Topic, after_seq: int, limit: int) -> Sequence[Message]:
        shelves = self._opened_memory().shelves
        lanes = [shelves.get(topic_lane(topic.id, priority)) for priority in range(PRIORITIES)]
        merged = heapq.merge(*(lane.after(after_seq) for lane in lanes if lane), key=lambda message: message.seq)
        return list(islice(merged, limit))

    async def dead_letters(self, topic: Topic, limit: int) -> Sequence[DeadLetter]:
        letters = self._opened_memory().dead.get(topic.id, ())
        return list(islice(reversed(letters), limit))

    async def stats(self) -> StoreStats:
        memory = self._opened_memory()
        return self._stats(commits=memory.commits, rows=memory.rows, corrupt_rows=0, file_bytes=0, wal_bytes=0)

    async def close(self) -> None:
        while self._queue:
            self._step()
        self._shut()
