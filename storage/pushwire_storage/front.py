"""The loop's side that all stores share: batches in, `done` and the consumer out, demand in between.

Owns the order of callbacks in the turn that learns of a commit. It must not know how the work is stored or on which
thread: a store gives it an engine (`run`, `scan`) and a way to have work done in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

from .base import Batch, Consumer, Group, Message, StoreBroken, StoreError, StoreStats, Topic
from .lanes import LaneFeed
from .planning import Outcome
from .scans import Passing, Scan, Scanned
from .txn import State

T = TypeVar("T")


class _Nobody:
    """The consumer of a store that is not open: nothing is said to it."""

    def arrived(self, *_: object) -> None: ...
    def caught_up(self, *_: object) -> None: ...
    def arrived_key(self, *_: object) -> None: ...
    def tailed(self, *_: object) -> None: ...
    def expired(self, *_: object) -> None: ...
    def lapsed(self, *_: object) -> None: ...
    def turn_over(self) -> None: ...


class Engine(Protocol):
    """What does the work. Never raises: each answer says what failed."""

    closing: bool

    @property
    def broken(self) -> StoreError | None: ...
    def run(self, batch: Batch, passing: Passing) -> Outcome: ...
    def scan(self, scan: Scan) -> Scanned: ...


class _Closed:
    """The engine of a store that is not open, or not any more."""

    closing = True

    def __init__(self, broken: StoreError | None = None) -> None:
        """`broken`: what had ended the engine before."""
        self.broken = broken

    def run(self, batch: Batch, passing: Passing) -> Outcome:
        batch.error = self.broken or StoreBroken("the store is not open")
        return Outcome(error=batch.error)

    def scan(self, scan: Scan) -> Scanned:
        return Scanned(failed=True, cursor=scan.cursor, horizon=scan.horizon)


class StoreFront(ABC):
    """The methods of `base.Store` that do not wait. Everything here runs on the loop."""

    epoch = ""
    version = ""

    def __init__(self) -> None:
        self.topics: dict[tuple[str, str], Topic] = {}
        self._engine: Engine = _Closed()
        self._consumer: Consumer = _Nobody()
        self._feed = LaneFeed(self._submit_scan, 0, self._consumer)
        self._outstanding = False
        self._watched: dict[int, Topic] = {}
        self._tick_ms: int | None = None
        self._scheduled_ms: int | None = None
        self._left = False
        self._returns = 0

    @property
    def broken(self) -> StoreError | None:
        """See `base.Store`."""
        return self._engine.broken

    @abstractmethod
    def _submit(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Do the work after all work submitted before, then call `then` with its answer on the loop: in the same
        order, and never from inside this call."""

    def _opened(self, engine: Engine, consumer: Consumer, now_ms: int, standing: Outcome) -> None:
        """`standing` says when time has work for the store."""
        self._engine = engine
        self._consumer = consumer
        self._feed = LaneFeed(self._submit_scan, now_ms, consumer)
        self._stand(standing)

    def _stand(self, outcome: Outcome) -> None:
        self._tick_ms, self._scheduled_ms, self._left = outcome.tick_ms, outcome.scheduled_ms, outcome.left

    def _shut(self) -> None:
        """Nothing is accepted from here on; what was accepted is still answered."""
        self._engine.closing = True
        self._engine = _Closed(self.broken)

    def _worked(self) -> None:
        """Something beside the batches and scans is over: if that has broken the store, nothing else would say so."""
        if self.broken is not None:
            self._consumer.turn_over()

    def write(self, batch: Batch, done: Callable[[Batch], None]) -> None:
        assert not self._outstanding, "at most one batch may be outstanding"
        self._outstanding = True
        engine, passing = self._engine, self._passing(batch)
        self._submit(lambda: engine.run(batch, passing), lambda outcome: self._written(batch, done, outcome))

    def _passing(self, batch: Batch) -> Passing:
        falls_due = self._scheduled_ms is not None and self._scheduled_ms <= max(batch.now_ms, self._feed.now_ms)
        look_again = self._returns != self._feed.returns
        self._returns = self._feed.returns
        return Passing(self._feed.open_lanes() if falls_due else (), look_again)

    def _written(self, batch: Batch, done: Callable[[Batch], None], outcome: Outcome) -> None:
        self._outstanding = False
        feed = self._feed
        outcome.apply(batch, self.topics)
        if outcome.error is not None:
            self._returns = -1  # whether it was looked at again is not known
            done(batch)
            self._consumer.turn_over()
            return
        self._stand(outcome)
        feed.now_ms = max(feed.now_ms, batch.now_ms)
        for group in outcome.closed:
            feed.gone(group)
        feed.settled(batch)
        try:
            done(batch)  # may well write the next batch, and say what is wanted
        finally:
            feed.fell_behind(outcome.behind)
            feed.promoted(outcome.promoted)
            feed.committed(outcome.fresh, expiring=outcome.expiring)
            feed.lapsed(outcome.lapsed)
            if self._watched:
                self._show(outcome)
            self._consumer.turn_over()

    def _show(self, outcome: Outcome) -> None:
        """Tell the watchers of a topic what is new in it."""
        news: dict[int, list[Message]] = {}
        for lanes in (outcome.fresh, outcome.apart):
            for key, messages in lanes.items():
                if key >> 2 in self._watched:
                    news.setdefault(key >> 2, []).extend(messages)
        for topic_id, messages in news.items():
            topic = self._watched.get(topic_id)
            if topic is None:
                continue  # a call before has ended it
            if self.topics.get((topic.tenant, topic.name)) is not topic:
                del self._watched[topic_id]  # it was deleted; its name came back
            else:
                self._consumer.tailed(topic, sorted(messages, key=lambda message: message.seq))

    def _submit_scan(self, scan: Scan) -> None:
        engine = self._engine
        self._submit(lambda: engine.scan(scan), lambda result: self._scanned(scan, result))

    def _scanned(self, scan: Scan, result: Scanned) -> None:
        for book in result.books:
            book.publish()
        self._feed.scanned(scan, result)
        self._consumer.turn_over()

    def want(self, group: Group, priority: int, count: int) -> None:
        self._feed.want(group, priority, count)

    def forget(self, group: Group) -> None:
        self._feed.forget(group)

    def want_key(self, group: Group, priority: int, key: str, after_seq: int, count: int) -> None:
        self._feed.want_key(group, priority, key, after_seq, count)

    def watch(self, topic: Topic, on: bool) -> None:
        if on:
            self._watched[topic.id] = topic
        else:
            self._watched.pop(topic.id, None)

    def next_tick_ms(self) -> int | None:
        if self._left and self._returns != self._feed.returns:
            return self._feed.now_ms
        return self._tick_ms

    def next_due_ms(self) -> int | None:
        return self._feed.next_due_ms()

    def due(self, now_ms: int) -> None:
        self._feed.due(now_ms)

    def _stats(self, state: State, *, corrupt_reads: int, file_bytes: int, wal_bytes: int) -> StoreStats:
        topics = self.topics.values()
        return StoreStats(
            topics=len(topics),
            groups=sum(len(topic.groups) for topic in topics),
            messages=sum(topic.messages for topic in topics),
            bytes=sum(topic.bytes for topic in topics),
            dead_letters=sum(topic.dead_letters for topic in topics),
            commits=state.commits,
            rows_committed=state.rows_committed,
            file_bytes=file_bytes,
            wal_bytes=wal_bytes,
            corrupt_rows=state.corrupt_rows + corrupt_reads,
            expired=state.expired,
        )
