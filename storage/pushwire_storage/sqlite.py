"""The SQLite store: aiosqlite, the choice of driver, how a file is opened, and what its errors mean.

The only module that knows aiosqlite, sqlite3 and pysqlite3. It owns threads, connections and pragmas; no statement
about messages is here (queries.py), and no decision about them (transaction.py).
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiosqlite

from . import scanning, schema, seals
from .base import (
    READ_BYTES_MAX,
    Capabilities,
    Consumer,
    Page,
    StoreBroken,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreRefused,
    StoreStats,
    Topic,
)
from .catalog import SqliteCatalog
from .files import NETWORK_FILESYSTEMS, filesystem_of, refuse_foreign_log, sync_directory, sync_file
from .front import StoreFront
from .highwater import MARK_S, HighWater
from .lock import FileLock
from .places import ThreadedPlaces
from .planning import Limits
from .queries import QUICK_CHECK, STATEMENTS_CACHED, Connection
from .space import Space
from .transaction import Hooks, NoHooks, Writer

T = TypeVar("T")
log = logging.getLogger("pushwire.storage")

DATABASE, LOCK = "pushwire.db", "pushwire.lock"
CACHE_BYTES = 32 << 20
"""Pages kept by the writer: the leaves that a busy store writes again and again, and the ends of its indexes."""
WAL_BYTES_MAX = 4 << 20
"""WAL after which a checkpoint is due; see storage/DESIGN.md for what smaller and larger ones cost."""
BUSY_TIMEOUT_S = 2.0
"""How long a foreign process may hold the write lock before a batch fails with StoreBusy."""
QUICK_CHECK_BYTES_MAX = 256 << 20
"""Largest database whose structure is checked before it is served after an unclean end: a start must be quick. A larger
one is served at once; the whole check that runs beside covers both."""
SQLITE_VERSION_MIN = (3, 35, 0)  # RETURNING


class Driver:
    """One of the two modules that carry SQLite: `sqlite3` (Python's own) or `pysqlite3` (bundles a newer one)."""

    def __init__(self, name: str) -> None:
        if name not in {"sqlite3", "pysqlite3"}:
            raise ValueError(f"driver {name!r} is neither sqlite3 nor pysqlite3")
        self._module: Any = importlib.import_module(name)
        self.name = name
        self.version = f"SQLite {self._module.sqlite_version} ({name})"
        if self._module.sqlite_version_info < SQLITE_VERSION_MIN:
            raise StoreRefused(f"{self.version} is older than {'.'.join(map(str, SQLITE_VERSION_MIN))}")

    def connect(self, path: Path, mode: str, timeout_s: float) -> Connection:
        """Open `path` with mode rw or ro, in autocommit: every transaction is begun and ended by name."""
        connection: Connection = self._module.connect(
            f"file:{quote(str(path))}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=timeout_s,
            cached_statements=STATEMENTS_CACHED,
            check_same_thread=False,  # aiosqlite opens and uses it on its thread, and may close it from another
        )
        seals.register(connection)
        return connection

    def connect_to_memory(self) -> Connection:
        """A database of its own that no file holds."""
        connection: Connection = self._module.connect(
            ":memory:", isolation_level=None, cached_statements=STATEMENTS_CACHED
        )
        seals.register(connection)
        return connection

    def classify(self, error: Exception) -> StoreError:
        """What an error of the writer means. Unknown ones are the worst: what is stored cannot be told."""
        if isinstance(error, StoreError):
            return error
        name = getattr(error, "sqlite_errorname", None) or ""
        text = f"{error} [{name or type(error).__name__}]"
        if isinstance(error, self._module.Error):
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                return StoreBusy(text)
            if name == "SQLITE_FULL":
                return StoreFull(text)
        return StoreBroken(text)

    def is_fatal(self, error: Exception) -> bool:
        """Whether what a mere read has met says that the device fails, or that the file is damaged."""
        name = getattr(error, "sqlite_errorname", None) or ""
        return name.startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB"))

    def damage(self, error: Exception) -> StoreError:
        """What an error while opening means."""
        if getattr(error, "sqlite_errorname", None) in {"SQLITE_NOTADB", "SQLITE_CORRUPT"}:
            return StoreRefused(f"the file is damaged, or no database: {error}")
        verdict = self.classify(error)
        return (
            StoreLocked(f"another program is writing to the file: {error}") if type(verdict) is StoreBusy else verdict
        )


@dataclass(frozen=True, slots=True)
class Options:
    """How a file is opened. `durability` full: a commit is on the disk when it returns. relaxed: a commit survives
    the end of the process, not the loss of power."""

    path: Path
    durability: str
    driver: Driver
    busy_timeout_s: float
    wal_bytes_max: int
    limits: Limits
    hooks: Hooks
    free_bytes_min: int = 0
    ballast_bytes: int = 0

    @property
    def database(self) -> Path:
        return self.path / DATABASE

    def connect(self, path: Path, mode: str) -> Connection:
        """Open a database file, this one or another."""
        return self.driver.connect(path, mode, self.busy_timeout_s)


def options_of(path: Path | str, settings: dict[str, Any]) -> Options:
    """Options from the keyword arguments of a store. Raises TypeError or ValueError for what is none."""
    durability = settings.pop("durability", "full")
    if durability not in {"full", "relaxed"}:
        raise ValueError(f"durability {durability!r} is neither full nor relaxed")
    return Options(
        path=Path(path),
        durability=durability,
        driver=Driver(settings.pop("driver", "sqlite3")),
        busy_timeout_s=settings.pop("busy_timeout_s", BUSY_TIMEOUT_S),
        wal_bytes_max=settings.pop("wal_bytes_max", WAL_BYTES_MAX),
        hooks=settings.pop("hooks", None) or NoHooks(),
        free_bytes_min=settings.pop("free_bytes_min", 0),
        ballast_bytes=settings.pop("ballast_bytes", 0),
        limits=Limits.of(settings),
    )


# -- files


def take_files(options: Options) -> FileLock:
    """Make directory and file where needed, readable by their owner only, and lock them."""
    try:
        if not options.path.exists():
            options.path.mkdir(mode=0o700, parents=True)
            sync_directory(options.path.parent)
        filesystem = filesystem_of(options.path)
    except OSError as error:
        raise StoreBroken(f"cannot use the directory {options.path}: {error.strerror}") from error
    if filesystem in NETWORK_FILESYSTEMS:
        raise StoreRefused(f"{options.path} lies on {filesystem}: its locks and syncs are not to be relied on")
    lock = FileLock(options.path / LOCK)
    lock.take()
    try:
        # Made here, not by SQLite, for its mode; -wal and -shm take theirs from it.
        if not options.database.exists():
            options.database.touch(mode=0o600, exist_ok=False)
            sync_directory(options.path)
        options.database.chmod(0o600)
        refuse_foreign_log(options.database, wal_of(options))
        sync_left_over(options)
    except (StoreRefused, OSError) as error:
        lock.release()
        if isinstance(error, StoreRefused):
            raise
        raise StoreBroken(f"cannot create {options.database}: {error.strerror}") from error
    return lock


def sync_left_over(options: Options) -> None:
    """Make safe what the last owner of these files has written. One that was killed between writing a commit and
    syncing it leaves a commit that every reader sees and no disk has promised: it must be safe before anybody is told.
    Before SQLite opens the files: closing a descriptor later would drop its locks."""
    for path in (options.database, wal_of(options)):
        if path.exists():
            sync_file(path)


def wal_of(options: Options) -> Path:
    """The write-ahead log beside the database."""
    return options.path / f"{DATABASE}-wal"


# -- connections


def prepare(connection: Connection, options: Options) -> None:
    """Set what the promise rests on, see that it holds, and bring the schema up to date. Raises StoreRefused."""
    version = schema.check(connection.execute)
    HighWater(options.path).check(connection.execute, version)
    wanted: list[tuple[str, str | int, str | int]] = [  # name, as it is set, as it reads then
        ("journal_mode", "wal", "wal"),
        ("synchronous", *(("full", 2) if options.durability == "full" else ("normal", 1))),
        ("wal_autocheckpoint", 0, 0),  # ours come between batches, not inside a COMMIT
        ("busy_timeout", int(options.busy_timeout_s * 1000), int(options.busy_timeout_s * 1000)),
        ("foreign_keys", 0, 0),
        ("temp_store", "memory", 2),
        ("mmap_size", 0, 0),  # an I/O error on a mapping is a signal, not an error code
        ("cache_size", -CACHE_BYTES // 1024, -CACHE_BYTES // 1024),
        # What is deleted is overwritten where that costs no further page. Debian builds SQLite to do so always, and
        # with that rewrites every page it frees.
        ("secure_delete", "fast", 2),
        ("journal_size_limit", 4 * options.wal_bytes_max, 4 * options.wal_bytes_max),
    ]
    for name, value, reads in wanted:
        connection.execute(f"PRAGMA {name} = {value}").fetchall()
        row = connection.execute(f"PRAGMA {name}").fetchone()
        if row is not None and row[0] != reads:
            raise StoreRefused(f"SQLite set {name} to {row[0]!r}, not {reads!r}: what is stored would not be safe")
    schema.migrate(connection, version)


def open_writer(options: Options) -> Connection:
    """The connection that writes."""
    unclean = left_unclean(options)
    connection = options.driver.connect(options.database, "rw", options.busy_timeout_s)
    try:
        prepare(connection, options)
        if unclean and options.database.stat().st_size <= QUICK_CHECK_BYTES_MAX:
            (answer,) = connection.execute(QUICK_CHECK).fetchone()
            if answer != "ok":
                raise StoreRefused(f"the file is damaged: {answer}")
    except BaseException:
        connection.close()
        raise
    return connection


def left_unclean(options: Options) -> bool:
    """Whether the last owner of these files ended without closing them. To be asked before they are opened."""
    return sizes(options)[1] > 0


def open_reader(options: Options) -> Connection:
    """A connection that cannot write, for `read`."""
    connection = options.driver.connect(options.database, "ro", options.busy_timeout_s)
    schema.check(connection.execute)  # SQLite opens the file with the first statement: let it fail here, if at all
    return connection


def make_writer(connection: Connection, options: Options) -> Writer:
    """The writer over an opened connection."""
    writer = Writer(connection, options.driver.classify, options.limits, options.hooks, options.wal_bytes_max)
    writer.space = Space(options.path, options.free_bytes_min, options.ballast_bytes)
    writer.mark, writer.syncs = HighWater(options.path), options.durability == "full"
    return writer


def sizes(options: Options) -> tuple[int, int]:
    """Bytes of the database and of its WAL. `stat` alone: opening them would drop SQLite's locks."""
    wal = wal_of(options)
    return options.database.stat().st_size, wal.stat().st_size if wal.exists() else 0


def identity(options: Options) -> tuple[int, int]:
    """Which files the names lead to now; 0 where a name leads nowhere."""
    found = [path.stat().st_ino if path.exists() else 0 for path in (options.database, wal_of(options))]
    return found[0], found[1]


def run_on(connection: aiosqlite.Connection, function: Callable[[], T]) -> asyncio.Future[T]:
    """Queue a function for the connection's thread, now, behind everything queued before; returns its future.

    The one private door of aiosqlite that this project uses: `_execute` runs any function on the thread that owns the
    connection. Its coroutine queues the function in its first step, which is taken here, so neither a task nor a turn
    of the loop comes between. tests/unit/test_storage_aiosqlite.py holds it to that.
    """
    asked = connection._execute(function)  # type: ignore[no-untyped-call]  # noqa: SLF001 - see above
    try:
        future: asyncio.Future[T] = asked.send(None)
        future._asyncio_future_blocking = False  # noqa: SLF001 - whoever steps a coroutine takes its mark off the future
    finally:
        asked.close()
    return future


class SqliteStore(StoreFront):
    """Messages in one directory, on this machine's disk, for one process. See `base.Store`."""

    capabilities = Capabilities(shared=False, redelivers_after_crash_s=None, durable=True)

    def __init__(self, path: Path | str, **settings: Any) -> None:
        """`path` is a directory, made when it is not there. Settings: durability ("full" or "relaxed"), driver
        ("sqlite3" or "pysqlite3"), those of `Options` that have the same name, and those of `planning.Limits`."""
        super().__init__()
        self._options = options_of(path, settings)
        self.version = self._options.driver.version
        self._lock: FileLock | None = None
        self._writer: Writer | None = None
        self._writing: aiosqlite.Connection | None = None
        self._reading: aiosqlite.Connection | None = None
        self._browsing: aiosqlite.Connection | None = None
        self._places: ThreadedPlaces | None = None
        self._catalog: SqliteCatalog | None = None
        self._closing: asyncio.Future[None] | None = None
        self._corrupt_reads = 0
        self._marking: asyncio.TimerHandle | None = None
        self._checking: asyncio.Task[None] | None = None
        self._identity: tuple[int, int] = (0, 0)
        self.findings: Sequence[str] = ()
        """What the check after an unclean end has found wrong."""

    async def open(self, consumer: Consumer, now_ms: int) -> None:
        assert self._lock is None, "a store is opened once"
        options = self._options
        self._loop = asyncio.get_running_loop()
        self._lock = take_files(options)
        unclean = left_unclean(options)
        try:
            self._writing = await _connected(lambda: open_writer(options))
            writer = make_writer(self._writing._conn, options)  # noqa: SLF001 - used on its own thread only
            self.topics = await run_on(self._writing, lambda: writer.load(now_ms))
            self._writer = writer
            await run_on(self._writing, writer.remember)
            if writer.broken is not None:
                raise writer.broken
            self._reading = await _connected(lambda: open_reader(options))
            self._browsing = await _connected(lambda: open_reader(options))
        except Exception as error:
            await self._release()
            raise options.driver.damage(error) from error
        self.epoch = writer.epoch
        self._places = ThreadedPlaces(self._browse, self._tell, options.connect, options.driver.classify)
        self._catalog = SqliteCatalog(self._places, options.database, lambda: writer.state.now_ms)
        self._opened(writer, consumer, now_ms, writer.standing())
        self._identity = identity(options)
        self._marking = self._loop.call_later(MARK_S, self._mark)
        self._checking = self._loop.create_task(self._check(unclean=unclean))

    def _mark(self) -> None:
        """Once in MARK_S: note how far the database has come, and see that it is still the one in the directory."""
        writer = self._writer
        if writer is None or self._writing is None or self._closing is not None:
            return
        self._marking = self._loop.call_later(MARK_S, self._mark)
        if identity(self._options) != self._identity:
            # SQLite would go on, and confirm what no name leads to.
            writer.give_up(StoreBroken("the database or its log was deleted or replaced while it was open"))
            self._worked()
        if writer.unmarked or writer.hungry:
            run_on(self._writing, writer.remember).add_done_callback(self._surface)

    def _surface(self, future: asyncio.Future[None]) -> None:
        """Nothing is expected to fail here; what does is the loop's exception handler's."""
        self._worked()
        if not future.cancelled():
            future.result()

    async def _check(self, *, unclean: bool) -> None:
        """Beside the work: after an unclean end look at everything, else at what nothing reads until it is too late."""
        catalog = self.catalog()
        try:
            self.findings = await (catalog.check() if unclean else catalog.check_seals())
        except StoreError as error:
            if self._closing is None:
                log.exception("the check after the start has failed", exc_info=error)
        for finding in self.findings:
            log.error("found after the start: %s", finding)

    def _submit(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        loop, writer = self._loop, self._writer
        if writer is None or self._writing is None or self._closing is not None:
            loop.call_soon(lambda: then(work()))  # the engine of a closed store: it only says so
            return

        def job() -> None:
            nonlocal work, then
            try:
                answer = work()
            except BaseException as error:  # noqa: BLE001 - nothing may leave a batch without its verdict
                writer.give_up(StoreBroken(f"the writer stopped: {error!r}"), error)
                answer = work()  # says so
            # From here, not from the future below: that would be a turn of the loop later.
            loop.call_soon_threadsafe(then, answer)
            del work, then  # aiosqlite's thread holds this function, and with it a batch, until it has the next one
            writer.maintain()

        run_on(self._writing, job).add_done_callback(self._surface)

    async def read(self, topic: Topic, after_seq: int, limit: int, bytes_max: int = READ_BYTES_MAX) -> Page:
        # No further than the loop has heard: what is committed and not yet announced is announced by `tailed`.
        topic_id, last_seq = topic.id, topic.last_seq
        work = scanning.read
        page, damaged = await self._ask(
            lambda connection: work(connection, topic_id, after_seq, limit, last_seq, bytes_max)
        )
        self._corrupt_reads += damaged
        return page

    def catalog(self) -> SqliteCatalog:
        if self._catalog is None:
            raise StoreBroken("the store is not open")
        return self._catalog

    async def _ask(self, question: Callable[[Connection], T]) -> T:
        """Run a read for the gateway. Raises StoreError."""
        return await self._ask_on(self._reading, question)

    async def _browse(self, question: Callable[[Connection], T]) -> T:
        """Run a read for people, which tails are not to wait for. Raises StoreError."""
        return await self._ask_on(self._browsing, question)

    async def _ask_on(self, reading: aiosqlite.Connection | None, question: Callable[[Connection], T]) -> T:
        if reading is None or self._closing is not None:
            raise StoreBroken("the store is not open")
        try:
            return await run_on(reading, lambda: question(reading._conn))  # noqa: SLF001 - on its own thread
        except Exception as error:
            verdict = self._options.driver.classify(error)
            if isinstance(verdict, StoreBroken) and self._writer is not None and self._options.driver.is_fatal(error):
                self._writer.give_up(verdict, error)
                self._worked()
            raise verdict from error

    def _tell(self, work: Callable[[Writer], T]) -> Awaitable[T]:
        """Run something on the writer's thread, behind what is queued there."""
        writer = self._writer
        if writer is None or self._writing is None or self._closing is not None:
            raise StoreBroken("the store is not open")
        told = run_on(self._writing, lambda: work(writer))
        told.add_done_callback(lambda _: self._worked())  # before whoever waits for it goes on
        return told

    async def stats(self) -> StoreStats:
        if self._writer is None:
            raise StoreBroken("the store is not open")
        file_bytes, wal_bytes = sizes(self._options)
        return self._stats(
            self._writer.state, corrupt_reads=self._corrupt_reads, file_bytes=file_bytes, wal_bytes=wal_bytes
        )

    async def close(self) -> None:
        if self._lock is None:
            return
        if self._closing is None:
            self._shut()
            self._closing = asyncio.ensure_future(self._release())
        await asyncio.shield(self._closing)

    async def _release(self) -> None:
        """Close what is open, the reader first: the last connection to go removes the WAL."""
        readings, writing, lock = (self._reading, self._browsing), self._writing, self._lock
        self._reading = self._browsing = None
        if self._marking is not None:
            self._marking.cancel()
        try:
            if self._places is not None:
                await self._places.close()
            if self._checking is not None:
                await self._checking
            for reading in readings:
                if reading is not None:
                    await reading.close()
            if writing is not None:
                if self._writer is not None:
                    await run_on(writing, self._writer.finish)
                await writing.close()
        finally:
            self._writer = self._writing = self._lock = None
            if lock is not None:
                lock.release()


async def _connected(connector: Callable[[], Connection]) -> aiosqlite.Connection:
    """Open a connection on a thread of its own. When that fails the thread is over too: aiosqlite only tells it to end,
    and it would report that to a loop that may be gone by then."""
    connection = aiosqlite.Connection(connector, 64)  # type: ignore[arg-type]  # pysqlite3's is no sqlite3.Connection
    try:
        return await connection
    except BaseException:
        await asyncio.to_thread(connection._thread.join)  # noqa: SLF001 - nothing public waits for it
        raise
