"""The SQLite store without threads or loop: the same writer, run one step at a time by whoever holds it.

Owns the queue of work not yet done, for a simulator that decides when the disk answers and when the process dies. It
must add no behaviour of its own: what `SqliteStore` does on its thread, `step` does here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from . import scanning
from .base import READ_BYTES_MAX, Capabilities, Consumer, Page, StoreBroken, StoreStats, Topic
from .catalog import SqliteCatalog
from .front import StoreFront
from .lock import FileLock
from .places import InlinePlaces
from .queries import Connection
from .sqlite import make_writer, open_reader, open_writer, options_of, sizes, take_files
from .transaction import Writer

T = TypeVar("T")


class InlineSqliteStore(StoreFront):
    """`SqliteStore`, driven by `step`. The coroutines of `base.Store` are there too and never suspend."""

    capabilities = Capabilities(shared=False, redelivers_after_crash_s=None, durable=True)

    def __init__(self, path: Path | str, **settings: Any) -> None:
        """As `SqliteStore`."""
        super().__init__()
        self._options = options_of(path, settings)
        self.version = self._options.driver.version
        self._queue: deque[Callable[[], None]] = deque()
        self._lock: FileLock | None = None
        self._writing: Connection | None = None
        self._reading: Connection | None = None
        self._writer: Writer | None = None

    def start(self, consumer: Consumer, now_ms: int) -> None:
        """`open`, without a loop."""
        assert self._lock is None, "a store is opened once"
        options = self._options
        self._lock = take_files(options)
        try:
            self._writing = open_writer(options)
            self._writer = make_writer(self._writing, options)
            self.topics = self._writer.load(now_ms)
            self._writer.remember()
            if self._writer.broken is not None:
                raise self._writer.broken
            self._reading = open_reader(options)
        except Exception as error:
            self._release()
            raise options.driver.damage(error) from error
        self.epoch = self._writer.epoch
        self._opened(self._writer, consumer, now_ms, self._writer.standing())

    def pending(self) -> bool:
        """Whether there is a batch or a scan to run."""
        return bool(self._queue)

    def step(self) -> None:
        """Run the next batch or scan and call its callbacks. What a hook raises beyond Exception comes out here, the
        transaction as it was: call `crash` then."""
        self._queue.popleft()()

    def crash(self) -> None:
        """As if the process had been killed: what is queued is lost, a transaction under way is not committed, and
        the WAL stays for the next open to recover."""
        self._queue.clear()
        self._shut()
        # The writer first. The last connection to close would empty the WAL, but this one cannot write.
        self._release()

    def stop(self) -> None:
        """`close`, without a loop: finish what was given, checkpoint, release the files."""
        while self._queue:
            self.step()
        self._shut()
        if self._reading is not None:
            self._reading.close()
            self._reading = None
        if self._writer is not None:
            self._writer.finish()
        self._release()

    def _submit(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        writer = self._writer

        def job() -> None:
            then(work())
            if writer is not None:
                writer.maintain()
            self._worked()

        self._queue.append(job)

    def _release(self) -> None:
        for connection in (self._writing, self._reading):
            if connection is not None:
                connection.close()
        if self._lock is not None:
            self._lock.release()
        self._writing = self._reading = self._writer = self._lock = None

    def catalog(self) -> SqliteCatalog:
        reading, writer, options = self._reading, self._writer, self._options
        if reading is None or writer is None:
            raise StoreBroken("the store is not open")
        places = InlinePlaces(reading, writer, options.connect, options.driver.classify, self._worked)
        return SqliteCatalog(places, options.database, lambda: writer.state.now_ms)

    # -- the coroutines of `base.Store`

    async def open(self, consumer: Consumer, now_ms: int) -> None:
        self.start(consumer, now_ms)

    async def read(self, topic: Topic, after_seq: int, limit: int, bytes_max: int = READ_BYTES_MAX) -> Page:
        assert self._reading is not None, "the store is not open"
        return scanning.read(self._reading, topic.id, after_seq, limit, topic.last_seq, bytes_max)[0]

    async def stats(self) -> StoreStats:
        assert self._writer is not None, "the store is not open"
        file_bytes, wal_bytes = sizes(self._options)
        return self._stats(self._writer.state, corrupt_reads=0, file_bytes=file_bytes, wal_bytes=wal_bytes)

    async def close(self) -> None:
        self.stop()
