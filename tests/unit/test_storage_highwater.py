"""The mark outside the database: one that is gone, cut short or older than it is refused, never served in silence."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.harness import World, message
from pushwire_storage.base import Append, StoreBroken, StoreRefused
from pushwire_storage.highwater import MARK, HighWater, Mark
from pushwire_storage.maintenance import Job, backup
from pushwire_storage.sqlite import DATABASE, SqliteStore, options_of

WAL = f"{DATABASE}-wal"


def marked(world: World) -> Mark:
    mark = HighWater(world.path).read()
    assert mark is not None
    return mark


async def killed(tmp_path: Path) -> tuple[World, Path]:
    """The files as a killed process leaves them: what was published is in the log alone. Returns the world of them."""
    first = World("inline", tmp_path / "first")
    await first.open()
    topic = await first.topic()
    await first.publish(topic, "a", "b")
    assert first.store._writer is not None
    first.store._writer.remember()
    copy = tmp_path / "copy"
    shutil.copytree(first.path, copy)
    await first.close()
    return World("inline", copy), copy


DAMAGES: dict[str, Callable[[Path], object]] = {
    "log deleted": lambda folder: (folder / WAL).unlink(),
    "log emptied": lambda folder: (folder / WAL).write_bytes(b""),
    "log cut short": lambda folder: (folder / WAL).write_bytes((folder / WAL).read_bytes()[:-5000]),
    "a bit of the log's last commit": lambda folder: flip(folder / WAL, -2000),
    "everything but the mark deleted": lambda folder: [
        path.unlink() for path in folder.iterdir() if path.name.startswith(DATABASE)
    ],
}


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_what_is_missing_is_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    world, folder = await killed(tmp_path)
    damage(folder)
    with pytest.raises(StoreRefused, match=MARK):
        await world.open()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
async def test_a_mark_that_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    world, folder = await killed(tmp_path)
    (folder / MARK).unlink()
    make(folder / MARK)
    with pytest.raises(StoreRefused, match="is no file"):
        await world.open()


@pytest.mark.parametrize("marked_too", [True, False])
async def test_a_copy_beside_the_log_of_what_it_takes_the_place_of_is_refused(
    tmp_path: Path, *, marked_too: bool
) -> None:
    """SQLite would read the log into the copy: its epoch and number are then those of the mark."""
    first = World("inline", tmp_path / "first")
    await first.open()
    topic = await first.topic()
    await first.publish(topic, "a")
    options = options_of(first.path, {})
    backup(Job(options.connect), first.path / DATABASE, tmp_path / "monday.db")
    await first.close()
    world, folder = await killed(tmp_path / "second")
    shutil.copyfile(tmp_path / "monday.db", folder / DATABASE)
    if not marked_too:
        (folder / MARK).unlink()
    with pytest.raises(StoreRefused, match="log of another database"):
        await world.open()
    (folder / WAL).unlink()
    (folder / MARK).unlink(missing_ok=True)
    await world.open()
    assert world.store.topics[("t", "orders")].last_seq == 1
    await world.close()


async def test_the_files_as_they_were_are_taken(tmp_path: Path) -> None:
    world, _ = await killed(tmp_path)
    await world.open()
    assert world.store.topics[("t", "orders")].last_seq == 2
    await world.close()


async def test_an_older_copy_is_refused_and_taken_without_the_mark(tmp_path: Path) -> None:
    world = World("inline", tmp_path / "data")
    await world.open()
    topic = await world.topic()
    await world.publish(topic, "a")
    await world.close()
    shutil.copyfile(world.path / DATABASE, tmp_path / "older")
    await world.open()
    await world.publish(world.store.topics[("t", "orders")], "b")
    await world.close()
    shutil.copyfile(tmp_path / "older", world.path / DATABASE)
    with pytest.raises(StoreRefused, match="older"):
        await world.open()
    (world.path / MARK).unlink()
    await world.open()
    assert world.store.topics[("t", "orders")].last_seq == 1
    await world.close()


async def test_another_database_is_refused(tmp_path: Path) -> None:
    world, other = World("inline", tmp_path / "data"), World("inline", tmp_path / "other")
    for each in (world, other):
        await each.open()
        await each.close()
    shutil.copyfile(other.path / DATABASE, world.path / DATABASE)
    with pytest.raises(StoreRefused, match="not the database"):
        await world.open()


async def test_a_torn_mark_leaves_the_one_before(tmp_path: Path) -> None:
    water = HighWater(tmp_path)
    for number in (1, 2):
        water.write(Mark(number, "0123456789abcdef"))
    flip(water.path, 10)  # the slot of even numbers
    assert water.read() == Mark(1, "0123456789abcdef")
    flip(water.path, 4096 + 10)
    with pytest.raises(StoreRefused, match="damaged"):
        water.read()


async def test_a_mark_of_nothing_is_none(tmp_path: Path) -> None:
    assert HighWater(tmp_path).read() is None
    (tmp_path / MARK).write_bytes(bytes(512))  # made, and the power was cut before the first was written
    assert HighWater(tmp_path).read() is None


async def test_relaxed_never_marks_what_a_power_cut_may_take(tmp_path: Path) -> None:
    world = World("inline", tmp_path, durability="relaxed", busy_timeout_s=0.01)
    await world.open()
    topic = await world.topic()
    reader = sqlite3.connect(world.path / DATABASE, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM topics").fetchone()
    before = marked(world)
    await world.publish(topic, "a")
    assert world.store._writer is not None
    world.store._writer.remember()  # the reader keeps the checkpoint from its end
    assert marked(world) == before
    reader.close()
    world.store._writer.remember()
    assert marked(world).number > before.number
    await world.close()


async def test_idle_stores_write_no_marks(tmp_path: Path) -> None:
    world = World("inline", tmp_path)
    await world.open()
    topic = await world.topic()
    await world.publish(topic, "a")
    writer = world.store._writer
    assert writer is not None
    writer.remember()
    number = marked(world).number
    writer.remember()
    assert marked(world).number == number
    await world.close()


@pytest.mark.parametrize("name", [DATABASE, WAL])
async def test_files_removed_while_they_are_open_break_the_store(tmp_path: Path, name: str) -> None:
    world = World("sqlite", tmp_path)
    await world.open()
    topic = await world.topic()
    assert (await world.commit(Append(topic, [message("a")]))).error is None
    (world.path / name).unlink()
    assert isinstance(world.store, SqliteStore)
    world.store._mark()
    batch = await world.commit(Append(topic, [message("b")]))
    assert isinstance(batch.error, StoreBroken)
    assert "deleted or replaced" in str(batch.error)
    await world.close()


async def test_after_an_unclean_end_the_structure_is_checked_before_and_the_rest_behind(tmp_path: Path) -> None:
    _, folder = await killed(tmp_path)
    world = World("sqlite", folder)
    connection = sqlite3.connect(folder / DATABASE)
    connection.execute("UPDATE messages SET data = x'7b7d'")
    connection.commit()
    shutil.copytree(folder, tmp_path / "again")
    connection.close()
    world = World("sqlite", tmp_path / "again")
    await world.open()
    assert isinstance(world.store, SqliteStore)
    assert world.store._checking is not None
    await asyncio.wait_for(world.store._checking, 10)
    assert len([text for text in world.store.findings if "checksum" in text]) == 2
    await world.close()


async def test_a_damaged_structure_is_refused_after_an_unclean_end(tmp_path: Path) -> None:
    _, folder = await killed(tmp_path)
    connection = sqlite3.connect(folder / DATABASE)
    connection.execute("PRAGMA writable_schema = ON")
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'").fetchone()[0]
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("INSERT INTO meta(name, value) VALUES ('unclean', 1)")
    connection.commit()
    shutil.copytree(folder, tmp_path / "again")
    connection.close()
    path = tmp_path / "again" / DATABASE
    size = 4096
    raw = bytearray(path.read_bytes())
    raw[(root - 1) * size + 3 : (root - 1) * size + 5] = b"\xff\xff"  # more cells than a page can have
    path.write_bytes(raw)
    with pytest.raises(StoreRefused, match="damaged"):
        await World("sqlite", tmp_path / "again").open()
