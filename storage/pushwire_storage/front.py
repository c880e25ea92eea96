"""The loop's side that all stores share: batches in, `done` and `arrivals` out, demand in between.

Owns the order of callbacks in the turn that learns of a commit. It must not know how the work is stored or on which
thread: a store gives it an engine (`run`, `scan`) and a way to have work done in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

from .base import Arrivals, Batch, Group, StoreBroken, StoreError, StoreStats, Topic
from .lanes import LaneFeed, Scan, Scanned
from .planning import Outcome

T = TypeVar("T")


class Engine(Protocol):
    """What does the work. Never raises: each answer says what failed."""

    @property
    def broken(self) -> StoreError | None: ...
    def run(self, batch: Batch) -> Outcome: ...
    def scan(self, scan: Scan) -> Scanned: ...


class _Closed:
    """The engine of a store that is not open."""

    broken = StoreBroken("the store is not open")

    def run(self, batch: Batch) -> Outcome:
        batch.error = self.broken
        return Outcome(error=self.broken)

    def scan(self, scan: Scan) -> Scanned:
        return Scanned(failed=True, cursor=scan.cursor, horizon=scan.horizon)


class StoreFront(ABC):
    """The methods of `base.Store` that do not wait. Everything here runs on the loop."""

    epoch = ""
    version = ""

    def __init__(self) -> None:
        self.topics: dict[tuple[str, str], Topic] = {}
        self._engine: Engine = _Closed()
        self._feed = LaneFeed(self._submit_scan, 0, lambda *_: None)
        self._outstanding = False

    @property
    def broken(self) -> StoreError | None:
        """The error after which the store refuses everything, if there was one."""
        return self._engine.broken

    @abstractmethod
    def _submit(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Do the work after all work submitted before, then call `then` with its answer on the loop: in the same
        order, and never from inside this call."""

    def _opened(self, engine: Engine, arrivals: Arrivals, now_ms: int) -> None:
        self._engine = engine
        self._feed = LaneFeed(self._submit_scan, now_ms, arrivals)

    def _shut(self) -> None:
        """Nothing is accepted from here on; what was accepted is still answered."""
        self._engine = _Closed()

    def write(self, batch: Batch, done: Callable[[Batch], None]) -> None:
        assert not self._outstanding, "at most one batch may be outstanding"
        self._outstanding = True
        engine = self._engine
        self._submit(lambda: engine.run(batch), lambda outcome: self._written(batch, done, outcome))

    def _written(self, batch: Batch, done: Callable[[Batch], None], outcome: Outcome) -> None:
        self._outstanding = False
        feed = self._feed
        outcome.apply(batch, self.topics)
        if outcome.error is not None:
            done(batch)
            return
        feed.now_ms = max(feed.now_ms, batch.now_ms)
        feed.settled(batch)
        try:
            done(batch)  # may well write the next batch, and say what is wanted
        finally:
            feed.committed(outcome.fresh or {})

    def _submit_scan(self, scan: Scan) -> None:
        engine = self._engine
        self._submit(lambda: engine.scan(scan), lambda result: self._scanned(scan, result))

    def _scanned(self, scan: Scan, result: Scanned) -> None:
        for book in result.books:
            book.publish()
        self._feed.scanned(scan, result)

    def want(self, group: Group, priority: int, count: int) -> None:
        self._feed.want(group, priority, count)

    def forget(self, group: Group) -> None:
        self._feed.forget(group)

    def next_due_ms(self) -> int | None:
        return self._feed.next_due_ms()

    def due(self, now_ms: int) -> None:
        self._feed.due(now_ms)

    def _stats(self, *, commits: int, rows: int, corrupt_rows: int, file_bytes: int, wal_bytes: int) -> StoreStats:
        topics = self.topics.values()
        return StoreStats(
            topics=len(topics),
            groups=sum(len(topic.groups) for topic in topics),
            messages=sum(topic.messages for topic in topics),
            bytes=sum(topic.bytes for topic in topics),
            dead_letters=sum(topic.dead_letters for topic in topics),
            commits=commits,
            rows_committed=rows,
            file_bytes=file_bytes,
            wal_bytes=wal_bytes,
            corrupt_rows=corrupt_rows,
        )
