"""The writer: every statement that changes the file, every checkpoint, every scan of a lane, one after the other.

Owns the transaction from BEGIN to COMMIT and what an error in it means. It must not know threads or an event loop:
whoever drives it (a thread, or a simulator's step) calls one method at a time and takes the answer on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from . import changes, chores, dead, highwater, ledger, loading, scheduling, seals
from .appending import append_all
from .base import Append, Batch, Dead, Message, Refused, StoreBroken, StoreBusy, StoreError, StoreFull, Topic
from .planning import Limits, Outcome, reset
from .queries import (
    BEGIN,
    CHECKPOINT,
    CHECKPOINT_AND_EMPTY,
    COMMIT,
    ROLLBACK,
    SELECT_META,
    WAIT_FOR_NOBODY,
    Connection,
    Execute,
)
from .scanning import Scanner, tolerantly
from .scans import Passing, Scan, Scanned
from .settling import settle_all
from .space import Space
from .txn import State, Surprise, Txn

log = logging.getLogger("pushwire.storage")

T = TypeVar("T")

PAGE_BYTES = 4096
PAGES_PER_COMMIT = 3
"""What every commit writes, beside a page of messages per lane and one per topic: the counters, the ids, and now and
then a page above those."""


WAL_TOLD_BYTES = 64 << 20
"""A log that keeps so much although it was checkpointed is told of."""


class Hooks(Protocol):
    """Named points of a transaction, for tests that crash there. Called on the writer's thread."""

    def point(self, name: str) -> None:
        """`before_begin`, `before_commit`, `after_commit`, `before_done`."""


class NoHooks:
    """Nothing happens at any point."""

    def point(self, name: str) -> None:
        pass


class Writer:
    """The one connection that writes. After a StoreBroken it refuses everything: what the disk holds is unknown."""

    def __init__(
        self,
        connection: Connection,
        classify: Callable[[Exception], StoreError],
        limits: Limits,
        hooks: Hooks,
        wal_bytes_max: int,
    ) -> None:
        self.connection = connection
        self.broken: StoreError | None = None
        self.epoch = ""
        self.state = State(0)
        self._execute = connection.execute
        self._classify = classify
        self._limits = limits
        self._hooks = hooks
        self._wal_bytes_max = wal_bytes_max
        self._wal_bytes = 0
        """A guess at what has been written to the WAL since the last checkpoint."""
        self._tell_bytes = WAL_TOLD_BYTES
        self.wal_pages_seen = 0
        """Pages in the WAL at the last checkpoint, as SQLite counted them."""
        self.mark: highwater.HighWater | None = None
        self.space: Space | None = None
        self.hungry = True
        """Whether there may be a ballast to be made."""
        self.syncs = True
        """Whether a commit is safe when it returns. If not, only a checkpoint makes it so."""
        self.unmarked = True
        """Whether something was committed since the last mark."""
        self.closing = False
        """Whether the end has been asked for. It has a deadline, so who is in the way is then waited for once more."""

    def load(self, now_ms: int) -> dict[tuple[str, str], Topic]:
        """Read the registry; the backlog stays where it is. Returns the topics."""
        execute = self._execute
        self.epoch = execute(SELECT_META, ("epoch",)).fetchone()[0]
        seals.refuse_damaged(execute)
        dropped = seals.drop_damaged_retries(self.connection)
        self.state = loading.load(execute, now_ms)
        if dropped:
            self.state.corrupt_rows += dropped
            log.error("%d damaged retries: their messages are delivered as if they had never been", dropped)
        return {(book.topic.tenant, book.topic.name): book.topic for book in self.state.books.values()}

    def standing(self) -> Outcome:
        """When time has work for the store, as of now."""
        state = self.state
        return Outcome(tick_ms=state.tick_ms(), scheduled_ms=state.scheduled_ms, left=state.left)

    # -- transactions

    def run(self, batch: Batch, passing: Passing | None) -> Outcome:
        """Run the batch as one transaction: durable when this returns, or `error` says why nothing is known to be.
        Without `passing` no time passes."""
        if self.broken is not None:
            return Outcome(error=self.broken)
        try:
            try:
                outcome = self._attempt(batch, passing, careful=False)
            except Surprise:
                self._execute(ROLLBACK)
                outcome = self._attempt(batch, passing, careful=True)
            self._hooks.point("before_done")
            return outcome
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch must end with a verdict
            return Outcome(error=self._failed(error, batch))

    def _attempt(self, batch: Batch, passing: Passing | None, *, careful: bool) -> Outcome:
        point = self._hooks.point
        now_ms = max(self.state.now_ms, batch.now_ms)
        txn = Txn(self.state, self._execute, self._limits, now_ms=now_ms, careful=careful)
        point("before_begin")
        self._execute(BEGIN)
        if passing is not None:
            scheduling.promote(txn, passing.open_lanes)
            chores.retain(txn)
            dead.forget_old(txn)
        for change in batch.changes:
            changes.apply(change, txn)
            chores.work(txn)  # a small change is over before the next one
        chores.work(txn)
        append_all(txn, self._with_room(batch.appends))
        settle_all(txn, batch.settlements)
        ledger.write(txn, batch.events, idle=not (batch.appends or batch.settlements or batch.events))
        if passing is not None:
            # Last, so that it sees what the batch has settled.
            scheduling.expire(txn, look_again=passing.look_again)
        txn.store_books()
        point("before_commit")
        self._execute(COMMIT)
        self.unmarked = True
        point("after_commit")
        # Rows come with about a quarter of their page left free, and a settled one is written once more.
        pages = PAGES_PER_COMMIT + len(txn.fresh) + len(txn.books)
        self._wal_bytes += pages * PAGE_BYTES + (txn.payload_bytes + 100 * txn.rows) * 5 // 4
        return txn.adopt()

    def _with_room(self, appends: Sequence[Append]) -> Sequence[Append]:
        """Those that may be stored: none, while the last room on the disk is kept for settlements."""
        if not appends or self.space is None or not self.space.short():
            return appends
        for append in appends:
            append.refused = Refused("insufficient_storage", "the disk is nearly full: nothing new is stored")
        return ()

    def transact(self, work: Callable[[Execute], T]) -> T:
        """Run something beside the messages as a transaction of its own: durable when this returns. Raises
        StoreError."""
        if self.broken is not None:
            raise self.broken
        try:
            self._execute(BEGIN)
            answer = work(self._execute)
            self._execute(COMMIT)
        except Exception as error:
            raise self._failed(error) from error
        self.unmarked = True
        return answer

    def _failed(self, error: Exception, batch: Batch | None = None) -> StoreError:
        """Roll back, and say what the error means for the batch and for the store."""
        verdict = error if isinstance(error, StoreError) else self._classify(error)
        try:
            if self.connection.in_transaction:  # SQLite has rolled back a full disk by itself
                self._execute(ROLLBACK)
        except Exception as second:  # noqa: BLE001 - without a rollback nothing can be said about what is stored
            verdict = StoreBroken(f"{error}; and the rollback failed: {second}")
        if batch is not None:
            reset(batch.appends)
            for append in batch.appends:
                append.refused = None
        if isinstance(verdict, StoreFull) and self.space is not None:
            self.space.release()
            self.hungry = True
        if isinstance(verdict, StoreBusy):
            self._waited()
        if isinstance(verdict, StoreBroken):
            self.give_up(verdict, error)
        return verdict

    def _waited(self) -> None:
        """Another process was in the way for as long as one is waited for: at the end the next one is not."""
        if self.closing:
            self._execute(WAIT_FOR_NOBODY).fetchone()

    def give_up(self, verdict: StoreBroken, error: BaseException | None = None) -> None:
        """Nothing is written any more. From any thread; the first reason is the one that is kept."""
        if self.broken is None:
            log.error("the store is broken: %s", verdict, exc_info=error)
            self.broken = verdict

    # -- scans

    def scan(self, scan: Scan) -> Scanned:
        """Read for one lane. Never raises: a scan that failed says so, and the next batch carries the reason."""
        if self.broken is not None:
            return Scanned(failed=True, cursor=scan.cursor, horizon=scan.horizon)
        try:
            scanner, result = tolerantly(self.connection, lambda: self._scan(scan))
        except Exception as error:  # noqa: BLE001 - classified; a broken store refuses every later batch
            self._failed(error)
            return Scanned(failed=True, cursor=scan.cursor, horizon=scan.horizon)
        if scanner.damaged is not None:
            self._bury(scan, scanner.damaged, result)
        return result

    def _scan(self, scan: Scan) -> tuple[Scanner, Scanned]:
        scanner = Scanner(self.state, self._execute, scan)
        return scanner, scanner.run()

    def _bury(self, scan: Scan, damaged: tuple[int, int, int, int], result: Scanned) -> None:
        """Move a damaged message to the dead letters of the group, at once: it must not reach a consumer, and must
        not vanish either."""
        seq, size_bytes, deliveries, failures = damaged
        message = Message("", b"", 0, priority=scan.priority)
        message.seq, message.size_bytes = seq, size_bytes
        error = "the stored bytes do not match their checksum"
        burial = Dead(scan.group, message, "corrupt", error, deliveries, failures, self.state.now_ms)
        log.error("damaged message seq %d of topic %s: moved to the dead letters", seq, scan.group.topic.name)
        outcome = self.run(Batch(settlements=[burial]), None)
        self.state.corrupt_rows += outcome.error is None
        result.books = outcome.books
        if outcome.error is not None:
            result.failed = True
            if scan.due_until_ms is None:
                result.cursor = seq - 1  # what is below it was looked at; it is met again

    # -- the write-ahead log

    def maintain(self) -> None:
        """Between batches: move the WAL into the database once it has grown. PASSIVE: waits for no reader, and leaves
        the WAL's file as it is, to be written again from its start."""
        if self._wal_bytes < self._wal_bytes_max or self.broken is not None:
            return
        self._wal_bytes = 0
        try:
            _, self.wal_pages_seen, moved = self._execute(CHECKPOINT).fetchone()
            self._tell_of_readers((self.wal_pages_seen - moved) * PAGE_BYTES)
        except Exception as error:  # noqa: BLE001 - classified; only a broken store cannot go on with a long WAL
            verdict = self._failed(error)
            log.warning("checkpoint put off: %s", verdict)

    def _tell_of_readers(self, kept_bytes: int) -> None:
        """What a checkpoint had to leave in the log: more than ours can hold up means a foreign reader. Said once for
        each time it doubles."""
        if kept_bytes < self._tell_bytes:
            if kept_bytes == 0:
                self._tell_bytes = WAL_TOLD_BYTES
            return
        self._tell_bytes = 2 * kept_bytes
        log.warning("the write-ahead log keeps %d bytes: another process holds a read transaction", kept_bytes)

    def remember(self) -> None:
        """Note outside the database how far it has come (see highwater.py), and have a ballast where there is room."""
        if self.broken is not None:
            return
        try:
            if self.space is not None and self.hungry:
                self.hungry = self.space.refill()
            if self.mark is None or not self.unmarked:
                return
            number = highwater.advance(self._execute)
            safe = self.syncs or self._execute(CHECKPOINT_AND_EMPTY).fetchone()[0] == 0
            if safe:  # a checkpoint that a reader stopped has made nothing safe
                self.mark.write(highwater.Mark(number, self.epoch))
                self.unmarked = False
            else:
                self._waited()
        except Exception as error:  # noqa: BLE001 - classified; a broken store refuses every later batch
            log.warning("no mark: %s", self._failed(error))

    def finish(self) -> None:
        """The last act before closing: leave everything in the database itself, as far as nobody is in the way."""
        self.closing = True
        self.remember()
        if self.broken is None:
            try:
                self._execute(CHECKPOINT_AND_EMPTY).fetchone()
            except Exception as error:  # noqa: BLE001 - the WAL keeps what was committed; the next open replays it
                verdict = self._classify(error)
                if not isinstance(verdict, StoreBusy):
                    log.warning("the last checkpoint failed, the WAL stays: %s", verdict)
