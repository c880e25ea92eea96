"""The store without a file: the SQLite writer over a database in memory, for tests and `--store memory:`.

Owns the turns in which the work is done: there is no thread, each batch or scan is a turn of the loop of its own. It
must add no behaviour of its own, nor lack any that `Capabilities` does not declare.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from . import scanning, schema
from .base import READ_BYTES_MAX, Capabilities, Consumer, Page, StoreBroken, StoreStats, Topic
from .catalog import SqliteCatalog
from .front import StoreFront
from .places import InlinePlaces, Lent
from .planning import Limits
from .queries import Connection
from .sqlite import Driver
from .transaction import Hooks, NoHooks, Writer

T = TypeVar("T")

MEMORY = Path(":memory:")

NO_LOG_BYTES_MAX = 1 << 62
"""There is no write-ahead log to move anywhere, however much is written."""


class MemoryStore(StoreFront):
    """See `base.Store`. Everything is gone when it is closed."""

    capabilities = Capabilities(shared=False, redelivers_after_crash_s=None, durable=False)

    def __init__(self, *, hooks: Hooks | None = None, **limits: Any) -> None:
        """Takes the fields of `planning.Limits`."""
        super().__init__()
        self._driver = Driver("sqlite3")
        self.version = f"memory, {self._driver.version}"
        self._limits = Limits.of(limits)
        self._hooks = hooks or NoHooks()
        self._connection: Connection | None = None
        self._writer: Writer | None = None
        self._queue: deque[Callable[[], None]] = deque()
        self._opened_once = False

    async def open(self, consumer: Consumer, now_ms: int) -> None:
        assert not self._opened_once, "a store is opened once"
        self._opened_once = True
        self._loop = asyncio.get_running_loop()
        self._connection = self._driver.connect_to_memory()
        schema.migrate(self._connection, 0)
        writer = Writer(self._connection, self._driver.classify, self._limits, self._hooks, NO_LOG_BYTES_MAX)
        self.topics = writer.load(now_ms)
        self._writer = writer
        self.epoch = writer.epoch
        self._opened(writer, consumer, now_ms, writer.standing())

    def _submit(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        self._queue.append(lambda: then(work()))
        self._loop.call_soon(self._step)

    def _step(self) -> None:
        if self._queue:  # `close` may have been quicker
            self._queue.popleft()()

    def _memory(self) -> tuple[Connection, Writer]:
        if self._connection is None or self._writer is None:
            raise StoreBroken("the store is not open")
        return self._connection, self._writer

    async def read(self, topic: Topic, after_seq: int, limit: int, bytes_max: int = READ_BYTES_MAX) -> Page:
        connection, writer = self._memory()
        page, damaged = scanning.read(connection, topic.id, after_seq, limit, topic.last_seq, bytes_max)
        writer.state.corrupt_rows += damaged
        return page

    def catalog(self) -> SqliteCatalog:
        connection, writer = self._memory()
        places = InlinePlaces(connection, writer, self._connect, self._driver.classify, self._worked)
        return SqliteCatalog(places, MEMORY, lambda: writer.state.now_ms)

    def _connect(self, path: Path, mode: str) -> Connection:
        """A file, such as a copy; or the database itself, which nothing else can open."""
        return Lent(self._memory()[0]) if path == MEMORY else self._driver.connect(path, mode, 0.0)

    async def stats(self) -> StoreStats:
        _, writer = self._memory()
        return self._stats(writer.state, corrupt_reads=0, file_bytes=0, wal_bytes=0)

    async def close(self) -> None:
        while self._queue:
            self._step()
        self._shut()
        if self._connection is not None:
            self._connection.close()
        self._connection = self._writer = None
