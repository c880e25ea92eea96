"""Group commit: publishes, settlements and changes of many clients share one transaction.

Owns the open batch and the rule when it is written: at once when the writer is idle, else when the one before it has
committed. There is no timer: a lone message pays for one commit and nothing else, and under load the next group is
what piled up meanwhile. Knows no session, no lease and no SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pushwire_storage.base import (
    Append,
    Batch,
    Change,
    Done,
    Event,
    Settlement,
    Store,
    StoreBroken,
    StoreError,
)

from .clock import to_ms
from .histogram import Histogram

Callback = Callable[[StoreError | None], None]
Defer = Callable[[Callable[[], None]], object]
Later = Callable[[float, Callable[[], None]], object]

COMMIT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""From a disk that does not wait to one that hardly works."""
BATCH_BOUNDS_ROWS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Publishes' messages and settlements of one transaction, up to beyond the largest that is written."""
RETRY_S = 0.25
"""Pause after a batch that was rolled back (disk full, foreign writer): long enough not to spin, short enough to meet
the promise of recovering within 5 s."""


class Batcher:
    """Between the engine and the store's writer."""

    def __init__(  # noqa: PLR0913 - the seams of a pure part: store, clock, loop
        self,
        store: Store,
        now: Callable[[], float],
        defer: Defer,
        later: Later,
        on_broken: Callable[[StoreError], None],
        after: Callable[[], None],
        *,
        batch_messages_max: int,
        batch_bytes_max: int,
        waiting_messages_max: int,
        waiting_bytes_max: int,
    ) -> None:
        self._store = store
        self._now = now
        self._submitted_at = 0.0
        self._defer = defer
        self._later = later
        self._on_broken = on_broken
        self._after = after
        self._batch_messages_max = batch_messages_max
        self._batch_bytes_max = batch_bytes_max
        self._waiting_messages_max = waiting_messages_max
        self._waiting_bytes_max = waiting_bytes_max
        self._waiting: list[tuple[Append, int, Callback]] = []  # publishes not yet in a batch
        self._settlements: list[Settlement] = []
        self._events: list[Event] = []
        self._tick = False
        self._changes: list[tuple[Change, Callback]] = []
        self._callbacks: list[Callback] = []
        self._in_flight: Batch | None = None
        self._scheduled = False
        self._resting = False
        self._stopped = False
        self._relieved: dict[Callable[[], None], None] = {}
        self._settled_bytes = [0, 0]  # of settlements that wait, and of those in flight
        self.waiting_messages = 0
        self.waiting_bytes = 0
        self.broken: StoreError | None = None
        self.commits = 0
        self.failed = 0
        """Batches that were rolled back."""
        self.messages_committed = 0
        self.settlements_committed = 0
        self.events_committed = 0
        self.commit_s = Histogram(COMMIT_BOUNDS_S)
        self.batch_rows = Histogram(BATCH_BOUNDS_ROWS)

    # --- what goes in ------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Publishes must be refused `busy` and their sockets not be read until `when_relieved` calls: as much waits as
        may, counting what waits for its topic."""
        return (
            self.waiting_messages >= self._waiting_messages_max
            or self.waiting_bytes >= self._waiting_bytes_max
            or self.broken is not None
        )

    @property
    def _low(self) -> bool:
        """Half empty: far enough below the limit that refusing and accepting do not alternate with every batch."""
        return (
            self.waiting_messages <= self._waiting_messages_max // 2
            and self.waiting_bytes <= self._waiting_bytes_max // 2
            and self.settled_bytes <= self._waiting_bytes_max // 2
        )

    @property
    def settled_bytes(self) -> int:
        """Bytes of the messages whose settlement is not durable: they stay in memory until it is."""
        return sum(self._settled_bytes)

    @property
    def behind(self) -> bool:
        """So much is settled and not durable (a full disk, a slow one) that whoever settles more must not be read
        until `when_relieved` calls. Nothing is refused."""
        return self.settled_bytes >= self._waiting_bytes_max

    def append(self, append: Append, size_bytes: int, done: Callback) -> None:
        """Store this publish in the next batch that has room; `done` is called when its batch is over: see
        `append.refused` and the error."""
        self._waiting.append((append, size_bytes, done))
        self.reserve(len(append.messages), size_bytes)
        self._schedule()

    def reserve(self, messages: int, size_bytes: int) -> None:
        """Count these as waiting, although they cannot be appended yet. Undone by `unreserve`."""
        self.waiting_messages += messages
        self.waiting_bytes += size_bytes

    def unreserve(self, messages: int, size_bytes: int) -> None:
        self.waiting_messages -= messages
        self.waiting_bytes -= size_bytes

    def settle(self, settlements: Iterable[Settlement], size_bytes: int) -> None:
        """Persist these with the next batch; they keep so much memory until then. Never refused: losing settlements
        would make duplicates."""
        self._settlements.extend(settlements)
        self._settled_bytes[0] += size_bytes
        self._schedule()

    def note(self, events: Iterable[Event]) -> None:
        """Write these into the ledger with the next batch."""
        self._events.extend(events)
        self._schedule()

    def tick(self) -> None:
        """Write a batch although nothing waits: the store has work that was waiting for time."""
        self._tick = True
        self._schedule()

    @property
    def ticking(self) -> bool:
        """A batch that lets time pass for the store is on its way."""
        return self._tick or self._in_flight is not None

    def change(self, change: Change, done: Callback) -> None:
        self._changes.append((change, done))
        self._schedule()

    def after_commit(self, callback: Callback) -> None:
        """Call when everything settled so far is durable."""
        self._callbacks.append(callback)
        self._schedule()

    @property
    def settled(self) -> bool:
        """Whether every settlement given so far is durable."""
        return not self._settlements and not (self._in_flight and self._in_flight.settlements)

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call once, however often it is asked for, when there is room again, well below the limits."""
        self._relieved[callback] = None

    def forget_relief(self, callback: Callable[[], None]) -> None:
        """Whoever asked is gone. A disk may be full for hours, and clients come and go."""
        self._relieved.pop(callback, None)

    @property
    def idle(self) -> bool:
        return self._in_flight is None and not (
            self._waiting or self._settlements or self._changes or self._callbacks or self._events or self._tick
        )

    def end(self, error: StoreError) -> None:
        """The store can no longer be trusted: nothing is confirmed from here on. Told once, however often it is met."""
        if self.broken is None:
            self.broken = error
            self._on_broken(error)

    def stop(self) -> None:
        """The store is about to be closed: nothing more is written. The batch under way still has its end."""
        self._stopped = True

    # --- what comes out ----------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._in_flight is None and not self._scheduled:
            self._scheduled = True
            self._defer(self._submit)

    def _submit(self) -> None:
        """Write what is waiting. Deferred to the end of the loop turn, so that all sockets read in it share a group."""
        self._scheduled = False
        if self._in_flight is not None or self._resting or self._stopped or self.idle:
            return
        appends, self._waiting = self._cut()
        changes, self._changes = self._changes, []
        callbacks, self._callbacks = self._callbacks, []
        batch = Batch(
            changes=[change for change, _ in changes],
            appends=[append for append, _, _ in appends],
            settlements=self._settlements,
            events=self._events,
            now_ms=to_ms(self._now()),
        )
        self._settlements, self._events = [], []
        self._settled_bytes = [0, self._settled_bytes[0]]
        tick, self._tick = self._tick, False
        if not (tick or batch.changes or batch.appends or batch.settlements or batch.events):
            for callback in callbacks:
                callback(self.broken)
            self._after()  # what they had to say is still to be sent
            return
        done = [callback for _, callback in changes]
        done += [callback for _, _, callback in appends]
        self._in_flight = batch
        self._submitted_at = self._now()
        self._store.write(batch, lambda written: self._written(written, appends, done, callbacks))

    def _cut(self) -> tuple[list[tuple[Append, int, Callback]], list[tuple[Append, int, Callback]]]:
        """As many publishes as one transaction may hold, at least one."""
        count = total_bytes = 0
        for index, (append, size_bytes, _) in enumerate(self._waiting):
            count += len(append.messages)
            total_bytes += size_bytes
            if index and (count > self._batch_messages_max or total_bytes > self._batch_bytes_max):
                return self._waiting[:index], self._waiting[index:]
        return self._waiting, []

    def _written(
        self,
        batch: Batch,
        appends: list[tuple[Append, int, Callback]],
        done: list[Callback],
        confirmations: list[Callback],
    ) -> None:
        self._in_flight = None
        error = batch.error or self.broken  # after that nothing is confirmed, committed or not
        if error is None:
            self._settled_bytes[1] = 0
            self._count(batch)
        elif isinstance(error, StoreBroken) or not error.definite:
            self.end(error)
        else:
            self.failed += 1
            self._owe(batch, confirmations)
            confirmations = []
        for append, size_bytes, _ in appends:
            self.unreserve(len(append.messages), size_bytes)
        if self.broken is None:
            self._submit()  # the writer works on the next group while this one's receipts go out
        for callback in done:
            callback(error)
        for callback in confirmations:
            callback(error)
        if self._relieved and not self.broken and self._low:
            relieved, self._relieved = self._relieved, {}
            for relief in relieved:
                relief()
        self._after()

    def _count(self, batch: Batch) -> None:
        """One batch is durable. Numbers for people only."""
        self.commits += 1
        self.commit_s.observe(self._now() - self._submitted_at)
        messages = sum(len(append.messages) for append in batch.appends if append.refused is None)
        self.messages_committed += messages
        settled = sum(len(one.messages) if type(one) is Done else 1 for one in batch.settlements)
        self.settlements_committed += settled
        self.events_committed += len(batch.events)
        self.batch_rows.observe(messages + settled)

    def _owe(self, batch: Batch, confirmations: list[Callback]) -> None:
        """The batch was rolled back whole. Its settlements are still owed, and their confirmations with them: they go
        first into a later batch."""
        self._settlements[:0] = batch.settlements
        self._events[:0] = batch.events
        self._settled_bytes = [self.settled_bytes, 0]
        self._callbacks[:0] = confirmations
        self._resting = True
        self._later(RETRY_S, self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._schedule()
