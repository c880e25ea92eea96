"""What the SQLite store says when the disk fails, and what is on the disk after a crash at each point of a commit."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from conformance.harness import World, message
from pushwire_storage.base import Append, Batch, CreateGroup, Done, StoreBroken, StoreBusy, StoreError, StoreFull
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.queries import CHECKPOINT
from pushwire_storage.sqlite import DATABASE, Driver, SqliteStore, run_on

POINTS = ("before_begin", "before_commit", "after_commit", "before_done")


class Fault:
    """Raises once at a point."""

    def __init__(self) -> None:
        self.at: str | None = None
        self.error: BaseException = OSError("the disk is gone")

    def point(self, name: str) -> None:
        if name == self.at:
            self.at = None
            raise self.error


@pytest.fixture
def fault() -> Fault:
    return Fault()


@pytest_asyncio.fixture(params=["sqlite", "inline"])
async def world(request: pytest.FixtureRequest, tmp_path: Path, fault: Fault) -> AsyncIterator[World]:
    world = World(request.param, tmp_path, hooks=fault, busy_timeout_s=0.05)
    await world.open()
    yield world
    await world.close()


async def run_sql(world: World, sql: str) -> None:
    store = world.store
    if isinstance(store, InlineSqliteStore):
        assert store._writing is not None
        store._writing.execute(sql)
    else:
        assert isinstance(store, SqliteStore)
        connection = store._writing
        assert connection is not None
        await run_on(connection, lambda: connection._conn.execute(sql))


async def test_a_foreign_writer_makes_the_batch_busy_and_no_more(world: World) -> None:
    topic = await world.topic()
    foreign = sqlite3.connect(world.path / DATABASE, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    append = Append(topic, [message("a")])
    batch = await world.commit(append)
    assert isinstance(batch.error, StoreBusy)
    assert batch.error.definite
    assert (append.messages[0].seq, append.messages[0].duplicate) == (0, False)
    foreign.execute("ROLLBACK")
    foreign.close()
    assert (await world.commit(append)).error is None
    assert append.messages[0].seq == 1
    assert not append.messages[0].duplicate


async def test_a_full_disk_stores_nothing_and_recovers(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.want(group, 1, 1000)
    kept = await world.publish(topic, "a", "b", data=b"x" * 20_000)
    await run_sql(world, "PRAGMA max_page_count = 1")  # as many as there are
    append, made = Append(topic, [message("c", b"x" * 200_000)]), CreateGroup(topic, "late")
    batch = await world.over(world.give(Batch(changes=[made], appends=[append], settlements=[Done(group, kept[:1])])))
    assert isinstance(batch.error, StoreFull)
    assert batch.error.definite
    assert made.result is None
    assert append.messages[0].seq == 0
    assert (topic.last_seq, topic.messages, list(topic.groups)) == (2, 2, ["g"])
    assert await world.kept(topic) == [1, 2]
    await run_sql(world, "PRAGMA max_page_count = 1000000")
    await world.commit(append)
    assert append.messages[0].seq == 3
    assert world.seqs() == [1, 2, 3]
    await world.ack(group, *kept)
    assert await world.kept(topic) == [3]
    assert world.store.broken is None


@pytest.mark.parametrize("point", POINTS)
async def test_an_unknown_error_breaks_the_store_for_good(world: World, fault: Fault, point: str) -> None:
    topic = await world.topic()
    fault.at = point
    append = Append(topic, [message("a")])
    batch = await world.commit(append)
    assert isinstance(batch.error, StoreBroken)
    assert not batch.error.definite
    assert append.messages[0].seq == 0
    assert topic.last_seq == 0
    again = await world.commit(Append(topic, [message("b")]))
    assert again.error is batch.error, "nothing is tried again"
    assert world.store.broken is batch.error
    await world.reopen()
    stored = await world.kept(world.store.topics[("t", "orders")])
    assert stored == ([1] if point in {"after_commit", "before_done"} else [])


async def test_a_broken_store_still_answers_scans_and_closes(world: World, fault: Fault) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.publish(topic, "a")
    fault.at = "before_commit"
    await world.commit(Append(topic, [message("b")]))
    assert await world.want(group, 1, 9) == []
    world.store.want(group, 1, 5)
    await world.store.close()
    late = await world.commit(Append(topic, [message("c")]))
    assert isinstance(late.error, StoreBroken)


async def test_even_what_is_no_exception_ends_in_a_verdict(tmp_path: Path, fault: Fault) -> None:
    world = World("sqlite", tmp_path, hooks=fault)
    await world.open()
    topic = await world.topic()
    fault.at, fault.error = "before_commit", SystemExit(3)
    batch = await world.commit(Append(topic, [message("a")]))
    assert isinstance(batch.error, StoreBroken)
    assert "SystemExit" in str(batch.error)
    await world.close()


async def test_an_error_while_reading_is_a_store_error(world: World) -> None:
    topic = await world.topic()
    await world.publish(topic, "a")
    await run_sql(world, "ALTER TABLE messages RENAME TO elsewhere")
    if isinstance(world.store, SqliteStore):
        with pytest.raises(StoreBroken, match="no such table"):
            await world.store.read(topic, 0, 9)
    made = CreateGroup(topic, "g")
    await world.change(made)
    group = made.result
    assert group is not None
    assert await world.want(group, 1, 9) == []
    assert isinstance(world.store.broken, StoreBroken)
    await run_sql(world, "ALTER TABLE elsewhere RENAME TO messages")


async def test_a_checkpoint_that_fails_for_want_of_space_is_put_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await world.topic()
    writer = world.store._writer
    execute, asked = writer._execute, []

    def full(sql: str, *parameters: object) -> object:
        if sql == CHECKPOINT:
            asked.append(sql)
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        return execute(sql, *parameters)

    monkeypatch.setattr(writer, "_execute", full)
    monkeypatch.setattr(writer, "_wal_bytes_max", 1)
    await world.publish(topic, "a")
    await world.publish(topic, "b")
    await world.commit()
    assert asked
    assert world.store.broken is None
    assert await world.kept(topic) == [1, 2]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SQLITE_BUSY", StoreBusy),
        ("SQLITE_BUSY_SNAPSHOT", StoreBusy),
        ("SQLITE_LOCKED", StoreBusy),
        ("SQLITE_FULL", StoreFull),
        ("SQLITE_IOERR_FSYNC", StoreBroken),
        ("SQLITE_IOERR_WRITE", StoreBroken),
        ("SQLITE_CORRUPT", StoreBroken),
        ("SQLITE_NOTADB", StoreBroken),
        ("SQLITE_CANTOPEN", StoreBroken),
        ("SQLITE_READONLY", StoreBroken),
        ("SQLITE_ERROR", StoreBroken),
        (None, StoreBroken),
    ],
)
def test_what_errors_mean(name: str | None, kind: type[StoreError]) -> None:
    error = sqlite3.OperationalError("told by its name alone")
    if name is not None:
        error.sqlite_errorname = name
    verdict = Driver("sqlite3").classify(error)
    assert type(verdict) is kind
    assert verdict.definite is (kind is not StoreBroken)
    assert type(Driver("sqlite3").classify(ValueError("SQLITE_BUSY"))) is StoreBroken


CRASHING = """
import asyncio, os, sys
from pathlib import Path
from pushwire_storage.base import Append, Batch, CreateTopic, Message
from pushwire_storage.sqlite import SqliteStore

class Nobody:
    def turn_over(self):
        pass

class Crash:
    at = None
    def point(self, name):
        if name == self.at:
            os._exit(9)

async def main(path, point):
    crash = Crash()
    store = SqliteStore(path, hooks=crash)
    await store.open(Nobody(), 0)
    made = CreateTopic("t", "orders")
    loop = asyncio.get_running_loop()
    for number in range(3):
        over = loop.create_future()
        batch = Batch(changes=[made])
        if number:
            batch = Batch(appends=[Append(made.result, [Message(f"{number}", b"1", 0)])])
        if number == 2:
            crash.at = point
        store.write(batch, over.set_result)
        await over

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def crashed(path: Path, point: str) -> int:
    """Run a process that dies at this point of its last commit."""
    return subprocess.run(
        [sys.executable, "-c", CRASHING, str(path), point],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    ).returncode


@pytest.mark.parametrize("point", POINTS)
async def test_a_process_that_dies_has_stored_all_or_nothing(tmp_path: Path, point: str) -> None:
    assert crashed(tmp_path, point) == 9
    world = World("sqlite", tmp_path)
    await world.open()
    topic = world.store.topics[("t", "orders")]
    committed = point in {"after_commit", "before_done"}
    assert await world.kept(topic) == ([1, 2] if committed else [1])
    assert (topic.last_seq, topic.messages) == ((2, 2) if committed else (1, 1))
    again = await world.publish(topic, "x")
    assert again[0].seq == topic.last_seq
    await world.close()
