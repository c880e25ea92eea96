"""What the writer knows (`State`) and what one transaction would make of it (`Txn`).

Owns memory only: a `Txn` collects its changes beside the `State` and merges them when its COMMIT has returned, so a
rolled-back transaction leaves no trace. It must not decide anything, and lives on the writer's thread.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from .base import Group, Message
from .ledger import Ledger
from .planning import (
    SEQ_MAX,
    Lapsed,
    Limits,
    Outcome,
    Show,
    TopicBook,
    bases,
    describe_holder,
)
from .queries import (
    DELETE_MESSAGES,
    DELETE_SETTLED,
    SELECT_OLDEST,
    SELECT_SETTLED_BY,
    UPDATE_TOPICS,
    Execute,
)

SWEEPS_SLACK = 64
"""Entries that hold no longer in the heap of sweeps, beside one per topic, before it is built anew."""


class Surprise(Exception):
    """Something rare turned up (a repeated id, a settlement of what is gone, a full topic): roll back and run the
    batch again with `careful`, which looks before it writes. The common path pays nothing for it."""


@dataclass(frozen=True, slots=True)
class Chore:
    """A piece of work left over from a change: rows with `after_pos` < pos <= `through_pos` are still to be done."""

    number: int
    kind: str
    topic_id: int
    after_pos: int
    through_pos: int


@dataclass(slots=True)
class Trim:
    """How far a look through a topic has come that keeps it within its bytes. What a rolled-back transaction changed of
    it does no harm: what was passed over is met by the next look."""

    since_ms: int
    seq: int = 0
    rows: int = 0
    """Looked at so far."""
    next_ms: int = 0
    """The next step may be taken then."""


class State:
    """The writer's memory between transactions. Bounded by topics, groups and chores, never by messages."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.books: dict[int, TopicBook] = {}
        self.topic_ids: dict[tuple[str, str], int] = {}
        self.retry_lanes: set[int] = set()
        """Lanes that may have rows in `retries`. Settlements of any other lane leave that table alone."""
        self.generation = 0
        """Index of the current table of remembered ids."""
        self.generation_since_ms = now_ms
        self.older_empty = False
        self.ledger = Ledger()
        self.scheduled_ms: int | None = None
        """When the first scheduled message falls due."""
        self.expiry_mark = (0, 0)
        """(expires, pos): up to there expired messages were looked at."""
        self.expiry_ms: int | None = None
        """When the first message above the mark expires."""
        self.left = False
        """Some below it were left to the gateway, which had them in its hands."""
        self.letters_ms: int | None = None
        """When dead letters are to be looked at for old ones."""
        self.chores: tuple[Chore, ...] = ()
        self.sweep_at: dict[int, int] = {}
        """Topics with retention: id -> when something may go."""
        self.sweeps: list[tuple[int, int]] = []
        """Heap of those, and of entries that hold no longer; never at its head."""
        self.swept: dict[tuple[int, int], int] = {}
        """(topic id, priority) -> seq up to which retention has looked at everything, since this start."""
        self.trims: dict[int, Trim] = {}
        """By topic id, where there is a limit of bytes."""
        self.expired = 0
        """Messages that the store removed because their TTL was over and no group was owed them."""
        self.commits = 0
        self.rows_committed = 0
        self.corrupt_rows = 0

    def plan_sweeps(self, changes: Mapping[int, int | None]) -> None:
        """These topics are to be swept then, or not any more (None)."""
        for topic_id, at_ms in changes.items():
            if at_ms is None:
                self.sweep_at.pop(topic_id, None)
            else:
                self.sweep_at[topic_id] = at_ms
                heapq.heappush(self.sweeps, (at_ms, topic_id))
        while self.sweeps and self.sweep_at.get(self.sweeps[0][1]) != self.sweeps[0][0]:
            heapq.heappop(self.sweeps)
        if len(self.sweeps) > 2 * len(self.sweep_at) + SWEEPS_SLACK:
            self.sweeps = [(at_ms, topic_id) for topic_id, at_ms in self.sweep_at.items()]
            heapq.heapify(self.sweeps)

    def tick_ms(self) -> int | None:
        """When the next batch is due although nobody writes one."""
        if self.chores:
            return self.now_ms
        waiting = (self.scheduled_ms, self.expiry_ms, self.letters_ms, self.ledger.tick_ms())
        times = [at_ms for at_ms in waiting if at_ms is not None]
        if self.sweeps:
            times.append(self.sweeps[0][0])
        return min(times, default=None)


class Txn:
    """One transaction under way."""

    def __init__(self, state: State, execute: Execute, limits: Limits, *, now_ms: int, careful: bool) -> None:
        self.state = state
        self.execute = execute
        self.limits = limits
        self.now_ms = now_ms
        self.careful = careful
        self.books: dict[int, TopicBook] = {}
        self.removed: dict[int, tuple[str, str]] = {}
        """Topics deleted: id -> name."""
        self.moved: set[int] = set()
        """Groups moved: what else the batch settles for them was decided before, and is void."""
        self.shows: list[Show] = []
        self.closed: list[Group] = []
        self.fresh: dict[int, list[Message]] = {}
        """New messages by topic lane, for the lanes that wait for them."""
        self.apart: dict[int, list[Message]] = {}
        """Others, by topic lane: stored in this transaction, seen by tails at once, by lanes when a scan meets them."""
        self.behind: set[int] = set()
        """Topic lanes that got such messages in places that no cursor has passed: their open lanes have to scan."""
        self.promoted: list[tuple[int, int, int]] = []
        self.lapsed: list[Lapsed] = []
        self.retries_written: set[int] = set()
        self.retries_emptied: set[int] = set()
        self.generation = state.generation
        self.generation_since_ms = state.generation_since_ms
        self.older_empty = state.older_empty
        self.scheduled_ms = state.scheduled_ms
        self.expiry_mark = state.expiry_mark
        self.expiry_ms = state.expiry_ms
        self.left = state.left
        self.letters_ms = state.letters_ms
        self.chores = state.chores
        self.chore_rows = 0
        """Rows that chores have looked at."""
        self.sweep_at: dict[int, int | None] = {}
        self.swept: dict[tuple[int, int], int] = {}
        self.expiring = False
        self.expired = 0
        self.rows = 0
        self.payload_bytes = 0
        """Bytes of message bodies written or deleted: what the WAL's growth is guessed from."""
        self._holders: dict[int, str] = {}

    def book(self, topic_id: int) -> TopicBook:
        """A copy of the topic's books that this transaction may change. The topic must exist: see `exists`."""
        book = self.books.get(topic_id)
        if book is None:
            book = self.books[topic_id] = self.state.books[topic_id].copy()
        return book

    def exists(self, topic_id: int) -> bool:
        """Whether the topic is there: not deleted, also not by this transaction."""
        return topic_id in self.books or (topic_id in self.state.books and topic_id not in self.removed)

    def has_retries(self, lane: int) -> bool:
        """Whether the lane may have rows in `retries`."""
        return lane in self.state.retry_lanes or lane in self.retries_written

    def wake(self, at_ms: int, *, scheduled: bool = False) -> None:
        """A message falls due, or expires, then."""
        if scheduled:
            self.scheduled_ms = at_ms if self.scheduled_ms is None else min(self.scheduled_ms, at_ms)
        else:
            self.expiry_ms = at_ms if self.expiry_ms is None else min(self.expiry_ms, at_ms)
            # What expires behind the mark would not be looked at again.
            self.expiry_mark = min(self.expiry_mark, (at_ms, 0))

    def grown(self, book: TopicBook) -> None:
        """The topic got messages, or another configuration: retention will have to look at it."""
        if book.config.retain_ms:
            self.await_sweep(book.topic.id, self.now_ms + book.config.retain_ms)
        if book.excess_bytes() > 0:
            trimming = self.state.trims.get(book.topic.id)
            self.await_sweep(book.topic.id, self.now_ms if trimming is None else max(self.now_ms, trimming.next_ms))

    def await_sweep(self, topic_id: int, at_ms: int) -> None:
        """Retention looks at the topic then, or before if it was to do so before."""
        plans = self.sweep_at if topic_id in self.sweep_at else self.state.sweep_at
        before = plans.get(topic_id)
        if before is None or at_ms < before:
            self.sweep_at[topic_id] = at_ms

    def sweep_from(self, book: TopicBook, priority: int, seq: int) -> None:
        """Retention has to look at this message, which it may have passed."""
        if book.config.retain_ms:
            key = (book.topic.id, priority)
            passed = self.swept.get(key, self.state.swept.get(key, 0))
            self.swept[key] = min(passed, seq - 1)
            self.await_sweep(book.topic.id, self.now_ms)

    def remove(self, book: TopicBook, sizes: dict[int, int], *, scheduled: int = 0) -> None:
        """Delete these rows, position -> bytes, which are there, with the marks of who has settled them."""
        if not sizes:
            return
        positions = list(sizes)
        DELETE_MESSAGES.run(self.execute, positions)
        if not book.plain:
            DELETE_SETTLED.run(self.execute, positions)
        size_bytes = sum(sizes.values())
        book.messages -= len(positions)
        book.bytes -= size_bytes
        book.scheduled -= scheduled
        self.payload_bytes += size_bytes

    def owed(self, book: TopicBook, pos: int, seq: int) -> list[Group]:
        """The groups that have still to settle the message."""
        owners = book.owners(seq)
        if not owners or book.plain:
            return owners
        settled = {group_id for (group_id,) in self.execute(SELECT_SETTLED_BY, (pos,))}
        return [group for group in owners if group.id not in settled]

    def holder(self, book: TopicBook) -> str:
        """Why a full topic is full. Looked up once per transaction: a full topic is asked often."""
        topic_id = book.topic.id
        if topic_id not in self._holders:
            self._holders[topic_id] = self._find_holder(book)
        return self._holders[topic_id]

    def _find_holder(self, book: TopicBook) -> str:
        topic_id = book.topic.id
        oldest: list[int] = []
        for base in bases(topic_id):
            oldest += (pos for (pos,) in self.execute(SELECT_OLDEST, (base | book.floor, base | SEQ_MAX)))
        if not oldest:
            return describe_holder(None, ())
        pos = min(oldest, key=lambda pos: pos & SEQ_MAX)
        seq = pos & SEQ_MAX
        return describe_holder(seq, [group.name for group in self.owed(book, pos, seq)])

    def store_books(self) -> None:
        """Write the counters that changed: one row per touched topic."""
        values: list[int] = []
        before = self.state.books
        for topic_id, book in self.books.items():
            old = before.get(topic_id)
            if old is None or counters(old) != counters(book):
                values += (topic_id, *counters(book))
        if values:
            UPDATE_TOPICS.run(self.execute, values)

    def adopt(self) -> Outcome:
        """The COMMIT has returned: make this the state, and say what the loop is to know."""
        state = self.state
        for topic_id, name in self.removed.items():
            state.books.pop(topic_id, None)
            state.topic_ids.pop(name, None)
            state.trims.pop(topic_id, None)
        for topic_id, book in self.books.items():
            if topic_id not in state.books:
                state.topic_ids[(book.topic.tenant, book.topic.name)] = topic_id
            state.books[topic_id] = book
        state.retry_lanes |= self.retries_written
        state.retry_lanes -= self.retries_emptied
        state.generation = self.generation
        state.generation_since_ms = self.generation_since_ms
        state.older_empty = self.older_empty
        state.scheduled_ms, state.expiry_ms = self.scheduled_ms, self.expiry_ms
        state.expiry_mark, state.left = self.expiry_mark, self.left
        state.letters_ms = self.letters_ms
        state.chores = self.chores
        state.swept.update(self.swept)
        if self.sweep_at:
            state.plan_sweeps(self.sweep_at)
        state.now_ms = self.now_ms
        state.commits += 1
        state.rows_committed += self.rows
        state.expired += self.expired
        return Outcome(
            books=list(self.books.values()),
            shows=self.shows,
            fresh=self.fresh,
            expiring=self.expiring,
            apart=self.apart,
            behind=list(self.behind),
            promoted=self.promoted,
            lapsed=self.lapsed,
            closed=self.closed,
            tick_ms=state.tick_ms(),
            scheduled_ms=state.scheduled_ms,
            left=state.left,
        )


def counters(book: TopicBook) -> tuple[int, ...]:
    """What the row of the topic holds, in the order of `UPDATE_TOPICS`."""
    return (
        book.last_seq,
        book.messages,
        book.bytes,
        book.dead_letters,
        book.scheduled,
        book.ids,
        book.floor,
    )
