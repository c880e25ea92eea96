"""What the writer knows (`State`) and what one transaction would make of it (`Txn`).

Owns memory only: a `Txn` collects its changes beside the `State` and merges them when its COMMIT has returned, so a
rolled-back transaction leaves no trace. It must not decide anything, and lives on the writer's thread.
"""

from __future__ import annotations

from .base import Change, Group, Message, Refused, Topic
from .planning import SEQ_MAX, Limits, Outcome, TopicBook, describe_holder, lane_base
from .queries import SELECT_OLDEST, SELECT_SETTLED_BY, UPDATE_TOPICS, Execute


class Surprise(Exception):
    """Something rare turned up (a repeated id, a settlement of what is gone, a full topic): roll back and run the
    batch again with `careful`, which looks before it writes. The common path pays nothing for it."""


class State:
    """The writer's memory between transactions. Bounded by topics and groups, never by messages."""

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
        self.commits = 0
        self.rows_committed = 0
        self.corrupt_rows = 0


class Txn:
    """One transaction under way."""

    def __init__(self, state: State, execute: Execute, limits: Limits, *, now_ms: int, careful: bool) -> None:
        self.state = state
        self.execute = execute
        self.limits = limits
        self.now_ms = now_ms
        self.careful = careful
        self.books: dict[int, TopicBook] = {}
        self.created: dict[tuple[str, str], TopicBook] = {}
        self.results: list[tuple[Change, Topic | Group | Refused]] = []
        self.fresh: dict[int, list[Message]] = {}
        self.retries_written: set[int] = set()
        self.retries_emptied: set[int] = set()
        self.generation = state.generation
        self.generation_since_ms = state.generation_since_ms
        self.older_empty = state.older_empty
        self.rows = 0
        self.payload_bytes = 0
        """Bytes of message bodies written or deleted: what the WAL's growth is guessed from."""
        self._holders: dict[int, str] = {}

    def book(self, topic_id: int) -> TopicBook:
        """A copy of the topic's books that this transaction may change."""
        book = self.books.get(topic_id)
        if book is None:
            book = self.books[topic_id] = self.state.books[topic_id].copy()
        return book

    def has_retries(self, lane: int) -> bool:
        """Whether the lane may have rows in `retries`."""
        return lane in self.state.retry_lanes or lane in self.retries_written

    def holder(self, book: TopicBook) -> str:
        """Why a full topic is full. Looked up once per transaction: a full topic is asked often."""
        topic_id = book.topic.id
        if topic_id not in self._holders:
            self._holders[topic_id] = self._find_holder(book)
        return self._holders[topic_id]

    def _find_holder(self, book: TopicBook) -> str:
        topic_id = book.topic.id
        oldest: list[int] = []
        for priority in range(4):
            base = lane_base(topic_id, priority)
            oldest += (pos for (pos,) in self.execute(SELECT_OLDEST, (base, base + SEQ_MAX)))
        if not oldest:
            return describe_holder(None, ())
        pos = min(oldest, key=lambda pos: pos & SEQ_MAX)
        seq = pos & SEQ_MAX
        settled = {group_id for (group_id,) in self.execute(SELECT_SETTLED_BY, (pos,))}
        names = [group.name for group in book.groups.values() if group.start_seq < seq and group.id not in settled]
        return describe_holder(seq, names)

    def store_books(self) -> None:
        """Write the counters that changed: one row per touched topic."""
        values: list[int] = []
        before = self.state.books
        for topic_id, book in self.books.items():
            old = before.get(topic_id)
            if old is None or not same_counters(old, book):
                values += (topic_id, book.last_seq, book.messages, book.bytes, book.dead_letters)
        if values:
            UPDATE_TOPICS.run(self.execute, values)

    def adopt(self) -> Outcome:
        """The COMMIT has returned: make this the state, and say what the loop is to know."""
        state = self.state
        state.books.update(self.books)
        for name, book in self.created.items():
            state.topic_ids[name] = book.topic.id
        state.retry_lanes |= self.retries_written
        state.retry_lanes -= self.retries_emptied
        state.generation = self.generation
        state.generation_since_ms = self.generation_since_ms
        state.older_empty = self.older_empty
        state.now_ms = self.now_ms
        state.commits += 1
        state.rows_committed += self.rows
        return Outcome(books=list(self.books.values()), results=self.results, fresh=self.fresh)


def same_counters(one: TopicBook, other: TopicBook) -> bool:
    """Whether the row of the topic would be written as it is."""
    return (
        one.last_seq == other.last_seq
        and one.messages == other.messages
        and one.bytes == other.bytes
        and one.dead_letters == other.dead_letters
    )
