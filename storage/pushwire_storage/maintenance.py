"""Long work on the whole file, beside the running store: a copy of it, and a look for whatever is wrong with it.

Owns connections of its own, one per piece of work, that cannot write to the database. It must run neither on the loop
nor on the writer's thread. Memory is bounded: no row is kept, and findings are counted beyond the first few. While a
copy or the engine's own check is made, SQLite keeps one snapshot, so the WAL grows by what is written meanwhile.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import schema, seals
from .base import PRIORITIES, StoreError, StoreRefused
from .files import sync_directory, sync_file
from .planning import ID_BYTES, SEQ_MAX, TOPIC_SHIFT, bases, message_of
from .queries import (
    BEGIN_READ,
    CHECK_COUNTERS,
    CHECK_DEAD,
    CHECK_FILE,
    CHECK_IDS,
    CHECK_LETTERS,
    CHECK_MESSAGES,
    CHECK_NEXT_TOPIC,
    CHECK_ORPHANS,
    COPY_INTO,
    COUNT_RANGE,
    GENERATIONS,
    ROLLBACK,
    SET_META,
    Connection,
)

FINDINGS_MAX = 100
"""Findings reported one by one; a damaged file can have as many as rows."""
ROWS_PER_LOOK = 128
"""Rows read in one snapshot, with the interpreter's lock held for most of it: a few ms."""
PAUSE_S = 0.001
"""Rest after each look, so that a busy gateway gets its turn in between."""

Connect = Callable[[Path, str], Connection]
"""Open a database file in mode "ro" or "rw". Of the store's own driver: a second copy of SQLite in one process would
drop the first one's locks."""


class Job:
    """One piece of long work. `stop` may be called from any thread and ends it early, with StoreError."""

    def __init__(self, connect: Connect, pause_s: float = 0.0) -> None:
        self._connect = connect
        self._pause_s = pause_s
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._open: Connection | None = None

    @contextmanager
    def opened(self, path: Path, mode: str) -> Iterator[Connection]:
        """A connection of the job's own."""
        self.breathe()
        connection = self._connect(path, mode)
        try:
            with self._lock:
                self._open = connection
            yield connection
        finally:
            with self._lock:
                self._open = None
            connection.close()

    def breathe(self) -> None:
        """Between two steps: rest a little, or end if told to. Raises StoreError."""
        if self._stopped.wait(self._pause_s):
            raise StoreError("the store is closing")

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """End the work as soon as it can be ended, also inside a statement."""
        self._stopped.set()
        with self._lock:
            if self._open is not None:
                self._open.interrupt()


# -- copies


def backup(job: Job, database: Path, target: Path) -> None:
    """Copy the database, as of one commit, to a file that must not exist; readable by its owner only, checked and on
    the disk when this returns. The copy has an epoch of its own: whoever starts a gateway on it goes back in time, and
    clients must not take the seqs given out from there for those they know. Raises StoreError."""
    partial = target.with_name(f"{target.name}.partial")
    _create(target)  # empty until the copy is whole, so that nobody takes half of one for it
    try:
        partial.unlink(missing_ok=True)
        _create(partial)
        with job.opened(database, "ro") as connection:
            connection.execute(COPY_INTO, (str(partial),))
        with job.opened(partial, "rw") as connection:
            wrong = _integrity(connection)
            if wrong:
                raise StoreError(f"the copy is not whole, perhaps because the database is not: {wrong[0]}")
            connection.execute(SET_META, ("epoch", secrets.token_hex(8)))
        sync_file(partial)
        partial.replace(target)
        sync_directory(target.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"cannot write {target}: {error.strerror}") from error
        raise


def _create(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError as error:
        raise StoreRefused(f"{path} exists already") from error
    except OSError as error:
        raise StoreRefused(f"cannot create {path}: {error.strerror}") from error


def _integrity(connection: Connection) -> list[str]:
    rows = connection.execute(CHECK_FILE).fetchall()
    return [] if rows == [("ok",)] else [f"file: {text}" for (text,) in rows]


# -- checks


def check(job: Job, database: Path, *, whole: bool = True) -> list[str]:
    """What is wrong with the file: structure, counters, rows that belong to nothing, checksums. Nothing is good. Not
    `whole`: only checksums of what no reader comes across, such as the ids that are remembered.
    Raises StoreRefused when it is not a database of ours."""
    with job.opened(database, "ro") as connection:
        # Damage may be in a text; the checksum tells, and the rest is to be looked at as well.
        connection.text_factory = lambda raw: raw.decode(errors="backslashreplace")
        looking = _Looking(job, connection)
        looking.run(whole)
        return looking.found()


class _Looking:
    """One check of one file."""

    def __init__(self, job: Job, connection: Connection) -> None:
        self._job = job
        self._connection = connection
        self._execute = connection.execute
        self._found: list[str] = []
        self._more = 0

    def run(self, whole: bool) -> None:
        unread: Sequence[tuple[str, Callable[[], None]]] = (  # checksums of rows that nothing reads in time
            ("seals", self._seals),
            ("remembered ids", self._ids),
        )
        parts: Sequence[tuple[str, Callable[[], None]]] = (
            ("file", lambda: self._report(*_integrity(self._connection))),
            ("counters", self._counters),
            ("orphans", self._orphans),
            *unread,
            ("messages", self._messages),
            ("dead letters", self._letters),
        )
        try:
            schema.check_current(self._execute)
        except StoreRefused:
            raise
        except Exception as error:
            raise StoreRefused(f"the file is damaged, or no database: {error}") from error
        for name, part in parts if whole else unread:
            try:
                part()
            except Exception as error:
                if self._job.stopped:
                    raise StoreError("the store is closing") from error
                self._report(f"{name}: cannot be read: {error}")
            if self._connection.in_transaction:
                self._execute(ROLLBACK)

    def found(self) -> list[str]:
        return self._found + ([f"and {self._more} more"] if self._more else [])

    def _report(self, *findings: str) -> None:
        for finding in findings:
            if len(self._found) < FINDINGS_MAX:
                self._found.append(finding)
            else:
                self._more += 1

    # -- parts

    def _counters(self) -> None:
        """Each topic's row, against what there is; one topic per snapshot."""
        topic_id = 0
        while (row := self._execute(CHECK_NEXT_TOPIC, (topic_id,)).fetchone()) is not None:
            topic_id = row[0]
            self._job.breathe()
            self._execute(BEGIN_READ)
            try:
                self._topic(topic_id)
            finally:
                self._execute(ROLLBACK)

    def _topic(self, topic_id: int) -> None:
        row = self._execute(CHECK_COUNTERS, (topic_id,)).fetchone()
        if row is None:
            return  # deleted meanwhile
        tenant, name, floor, *told = row
        counts = [self._execute(COUNT_RANGE, (base | floor, base | SEQ_MAX)).fetchone() for base in bases(topic_id)]
        ids = self._number(CHECK_IDS, topic_id, topic_id)
        there = [
            sum(messages for messages, _ in counts),
            sum(size_bytes for _, size_bytes in counts) + ids * ID_BYTES,
            self._number(CHECK_DEAD, topic_id),
            sum(messages for messages, _ in counts[PRIORITIES:]),
            ids,
        ]
        for what, kept, counted in zip(
            ("messages", "bytes", "dead letters", "scheduled messages", "remembered ids"), told, there, strict=True
        ):
            if kept != counted:
                self._report(f"topic {name!r} of tenant {tenant!r}: {kept} {what} on the books, {counted} there")

    def _number(self, sql: str, *values: Any) -> int:
        return int(self._execute(sql, values).fetchone()[0])

    def _orphans(self) -> None:
        for what, sql in CHECK_ORPHANS:
            self._job.breathe()
            count = self._number(sql)
            if count:
                self._report(f"{count} {what}")

    def _seals(self) -> None:
        for what, sql in seals.CHECK_SEALS:
            self._job.breathe()
            count = self._number(sql)
            if count:
                self._report(f"{count} rows of {what} do not match their checksum")

    def _ids(self) -> None:
        for generation in GENERATIONS:
            last: tuple[bytes, Any] = (b"", -1)
            while rows := self._execute(generation.look, (*last, ROWS_PER_LOOK)).fetchall():
                for id_, topic_id, seq, print_ in rows:
                    if not seals.is_sound(topic_id, id_, seq, print_):
                        self._report(f"a remembered id of topic number {topic_id}: its checksum does not match")
                if (rows[-1][0], rows[-1][1]) == last:
                    break  # out of order: the engine's own check says so
                last = rows[-1][0], rows[-1][1]
                self._job.breathe()

    def _messages(self) -> None:
        for pos, *row in self._rows(CHECK_MESSAGES):
            message = message_of(row)
            if message is None:
                self._report(f"message {_place(pos)}: its checksum does not match")

    def _letters(self) -> None:
        for row in self._rows(CHECK_LETTERS):
            if message_of(row[1:]) is None:
                self._report(f"dead letter {row[0]}, message {_place(row[1])}: its checksum does not match")

    def _rows(self, sql: str) -> Iterator[Sequence[Any]]:
        """All rows, a look at a time."""
        last = 0
        while True:
            count = 0
            rows = self._execute(sql, (last, ROWS_PER_LOOK))
            try:
                for row in rows:
                    count += 1
                    last = row[0]
                    yield row
            finally:
                rows.close()
            if count < ROWS_PER_LOOK:
                return
            self._job.breathe()


def _place(pos: int) -> str:
    return f"seq {pos & SEQ_MAX} of topic number {pos >> TOPIC_SHIFT}"
