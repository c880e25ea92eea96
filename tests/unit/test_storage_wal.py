"""The write-ahead log: how long it gets, who empties it, and that opening costs what the log holds, not the backlog."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from conformance.harness import START_MS, Ears, World, message
from pushwire_storage.base import Append
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.sqlite import DATABASE, WAL_BYTES_MAX


def wal_bytes(world: World) -> int:
    return (world.path / f"{DATABASE}-wal").stat().st_size


async def test_the_wal_stays_near_its_limit(tmp_path: Path) -> None:
    world = World("inline", tmp_path, durability="relaxed")
    await world.open()
    topic = await world.topic()
    group = await world.group(topic)
    for size, count in ((1, 600), (50, 60), (500, 20)):
        for batch in range(count):
            ids = [f"{size}-{batch}-{n}" for n in range(size)]
            await world.ack(group, *await world.publish(topic, *ids, data=b"x" * 300))
            assert wal_bytes(world) < 2 * WAL_BYTES_MAX
    topics = [await world.topic(str(n)) for n in range(200)]
    for batch in range(20):
        await world.commit(*(Append(topic, [message(f"{batch}")]) for topic in topics))
        assert wal_bytes(world) < 2 * WAL_BYTES_MAX
    assert (await world.store.stats()).wal_bytes == wal_bytes(world) > WAL_BYTES_MAX // 2
    await world.close()
    assert not (tmp_path / f"{DATABASE}-wal").exists()


async def test_a_huge_transaction_does_not_leave_a_huge_wal(tmp_path: Path) -> None:
    world = World("inline", tmp_path, durability="relaxed", wal_bytes_max=1 << 18)
    await world.open()
    topic = await world.topic()
    await world.publish(topic, *map(str, range(40)), data=b"x" * 100_000)
    assert wal_bytes(world) > 8 << 18
    await world.publish(topic, "small")
    await world.publish(topic, "smaller")
    assert wal_bytes(world) <= 4 << 18
    await world.close()


async def test_a_reader_that_stays_does_not_stop_the_writer(tmp_path: Path) -> None:
    world = World("inline", tmp_path, durability="relaxed", wal_bytes_max=1 << 16)
    await world.open()
    topic = await world.topic()
    await world.publish(topic, "a")
    reader = sqlite3.connect(f"file:{tmp_path / DATABASE}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    for n in range(100):
        await world.publish(topic, f"b{n}", data=b"x" * 2000)
    assert reader.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    reader.execute("ROLLBACK")
    reader.close()
    assert topic.messages == 101
    assert world.store.broken is None
    await world.close()


async def test_a_crash_leaves_the_wal_and_the_next_open_reads_it(tmp_path: Path) -> None:
    world = World("inline", tmp_path)
    await world.open()
    await world.publish(await world.topic(), "a", "b")
    assert isinstance(world.store, InlineSqliteStore)
    world.store.crash()
    assert wal_bytes(world) > 0
    await world.open()
    assert await world.kept(world.store.topics[("t", "orders")]) == [1, 2]
    await world.close()


async def test_opening_reads_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("inline", tmp_path)
    await world.open()
    topic = await world.topic()
    await world.group(topic)
    await world.publish(topic, "a", "b")
    await world.close()
    statements: list[str] = []
    store = InlineSqliteStore(tmp_path)
    connect = store._options.driver.connect

    def traced(*arguments: Any) -> Any:
        connection: Any = connect(*arguments)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(store._options.driver, "connect", traced)
    store.start(Ears(world), START_MS)
    assert any("FROM topics" in sql for sql in statements)
    looks = [sql for sql in statements if "messages" in sql and "FROM topics" not in sql]
    assert store._writing is not None
    plans = [row[3] for sql in looks for row in store._writing.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert plans, "it asks when the first one falls due, and when the first one expires"
    assert all("SEARCH messages USING COVERING INDEX messages_by_" in plan for plan in plans), "from an index alone"
    store.stop()
