"""What a message's own crc does not cover, damaged column by column: refused, reported or mended, never silent."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from conformance.harness import START_MS, World, message
from pushwire_storage import schema, seals
from pushwire_storage.base import Append, Attempt, Dead, Group, Message, Redrive, Retry, StoreRefused
from pushwire_storage.offline import open_for_check
from pushwire_storage.sqlite import DATABASE, SqliteStore


async def full(path: Path) -> World:
    """A store with two groups and something in every sealed table: messages 1 to 6; 2 settled by `g`, 3 waits, 4 is
    dead, 5 is scheduled, 6 has a TTL."""
    world = World("inline", path)
    await world.open()
    topic = await world.topic()
    group = await world.group(topic)
    await world.group(topic, "h", "earliest")
    sent = await world.publish(topic, "a", "b", "c", "d")
    later = [message("e", due_ms=START_MS + 5_000), message("f", expires_ms=START_MS + 9_000)]
    await world.send(topic, *later)
    assert await world.want(group, 1, 9) == [1, 2, 3, 4, 6]
    tried = Attempt(START_MS, "nacked", "me", "boom")
    await world.ack(group, sent[1])
    await world.settle(
        Retry(group, sent[2], START_MS + 50, 4, 3, tried),
        Dead(group, sent[3], "rejected", "no", 2, 1, START_MS, tried),
    )
    return world


async def hurt(world: World, *statements: str) -> None:
    await world.close()
    connection = sqlite3.connect(world.path / DATABASE, isolation_level=None)
    for statement in statements:
        assert connection.execute(statement).rowcount >= 1, statement
    connection.close()


def orders(world: World) -> tuple[Group, Group]:
    groups = world.store.topics[("t", "orders")].groups
    return groups["g"], groups["h"]


async def reported(world: World) -> int:
    return (await world.store.stats()).corrupt_rows


REGISTRY = {
    "topics": ("id", "tenant", "name", "last_seq", "messages", "bytes", "dead_letters", "scheduled", "ids", "floor",
               "config", "deleted", "seal", "about"),
    "groups": ("id", "topic_id", "name", "start_seq", "paused", "owner", "inactive_ttl", "seal"),
}  # fmt: skip


@pytest.mark.parametrize(("table", "column"), [(table, name) for table, names in REGISTRY.items() for name in names])
async def test_a_damaged_registry_is_refused(tmp_path: Path, table: str, column: str) -> None:
    world = await full(tmp_path)
    text = column in {"tenant", "name", "config", "owner"}
    flipped = f"ifnull({column}, '') || 'x'" if text else f"{column} + 8"
    await hurt(world, f"UPDATE {table} SET {column} = {flipped} WHERE {'id' if table == 'topics' else 'rowid'} = 1")
    with pytest.raises(StoreRefused, match="damaged"):
        await world.open()
    assert open_for_check(tmp_path)


@pytest.mark.parametrize("table", ["topics", "groups"])
async def test_a_registry_without_its_rows_is_refused(tmp_path: Path, table: str) -> None:
    """A bit of the number of rows in a page's head: what is left is whole, and nobody would be owed anything."""
    world = await full(tmp_path)
    await world.close()
    connection = sqlite3.connect(world.path / DATABASE)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    raw = bytearray((world.path / DATABASE).read_bytes())
    at = (root - 1) * page_bytes + 4  # the low byte of the number of cells
    raw[at] &= raw[at] - 1
    (world.path / DATABASE).write_bytes(raw)
    with pytest.raises(StoreRefused, match="damaged"):
        await world.open()


@pytest.mark.parametrize("column", ["lane", "pos", "due", "deliveries", "failures", "attempts", "seal"])
async def test_a_damaged_retry_is_dropped_and_its_message_delivered(tmp_path: Path, column: str) -> None:
    world = await full(tmp_path)
    value = "'x' || attempts" if column == "attempts" else f"{column} + (1 << 20)"
    await hurt(world, f"UPDATE retries SET {column} = {value}")
    assert open_for_check(tmp_path)
    await world.open()
    assert await reported(world) == 1
    assert 3 in await world.want(orders(world)[0], 1, 9), "whatever its due time had become"
    await world.close()
    assert open_for_check(tmp_path) == []


@pytest.mark.parametrize("column", ["pos", "group_id", "seal"])
async def test_a_damaged_mark_settles_nothing(tmp_path: Path, column: str) -> None:
    world = await full(tmp_path)
    first = {"pos": "pos - 1", "group_id": "group_id + 1", "seal": "seal + 1"}[column]
    await hurt(world, f"UPDATE settled SET {column} = {first} WHERE pos & 255 = 2")
    assert open_for_check(tmp_path)
    await world.open()
    g, h = orders(world)
    assert await world.want(g, 1, 9) == [1, 2, 6], "nothing is settled that was not"
    assert (await world.want(h, 1, 9))[:2] == [1, 2]
    for name in ("g", "h"):
        await world.ack(world.store.topics[("t", "orders")].groups[name], *(world.messages[name, n] for n in (1, 2)))
    assert await world.kept(world.store.topics[("t", "orders")]) == [3, 4, 5, 6], "made whole by the next settlement"
    await world.close()


@pytest.mark.parametrize(("column", "seq"), [("due", 5), ("expires", 6), ("expires", 1), ("redriven", 1), ("seal", 6)])
async def test_a_damaged_time_makes_a_dead_letter(tmp_path: Path, column: str, seq: int) -> None:
    world = await full(tmp_path)
    value = 0 if seq == 1 else f"{column} + 1"
    await hurt(world, f"UPDATE messages SET {column} = {value} WHERE pos & 255 = {seq}")
    assert any("checksum" in finding for finding in open_for_check(tmp_path))
    world.now_ms = START_MS + 5_001
    await world.open()
    await world.tick(world.now_ms)
    await world.want(orders(world)[1], 1, 9)
    await world.due(world.now_ms)
    letters = await world.letters(world.store.topics[("t", "orders")])
    assert [(each.message.seq, each.group) for each in letters if each.reason == "corrupt"] == [(seq, "h")]
    await world.close()


LETTER = ("topic_id", "group_id", "group_name", "reason", "error", "deliveries", "failures", "at", "attempts", "times",
          "seal")  # fmt: skip


@pytest.mark.parametrize("column", LETTER[1:])
async def test_a_damaged_letter_says_so_and_is_not_redriven(tmp_path: Path, column: str) -> None:
    world = await full(tmp_path)
    text = column in {"group_name", "reason", "error", "attempts"}
    value = f"{column} || 'x'" if text else f"ifnull({column}, 0) + 1"
    await hurt(world, f"UPDATE dead_letters SET {column} = {value}")
    assert open_for_check(tmp_path)
    await world.open()
    topic = world.store.topics[("t", "orders")]
    (letter,) = await world.letters(topic)
    assert letter.reason == "corrupt"
    redrive = Redrive(topic, [letter.id])
    await world.change(redrive)
    assert redrive.seqs == [0]
    await world.close()


async def again(world: World, ids: Sequence[str]) -> list[Message]:
    append = Append(world.store.topics[("t", "orders")], [message(id_) for id_ in ids])
    await world.commit(append)
    assert append.refused is None
    return list(append.messages)


@pytest.mark.parametrize("column", ["seq", "fingerprint", "topic_id", "id"])
async def test_a_damaged_id_is_never_answered_with_something_else(tmp_path: Path, column: str) -> None:
    world = await full(tmp_path)
    value = "'z'" if column == "id" else f"{column} + 1"
    await hurt(world, f"UPDATE dedupe_a SET {column} = {value} WHERE id = 'c'")
    assert any("remembered id" in finding for finding in open_for_check(tmp_path))
    await world.open()
    a, b, c = await again(world, ["a", "b", "c"])
    assert [(a.seq, a.duplicate), (b.seq, b.duplicate)] == [(1, True), (2, True)]
    assert (c.seq, c.duplicate) == (7, False), "its receipt would be for something else"
    assert await reported(world) == (column in {"seq", "fingerprint"}), "of the others the check behind the start tells"
    assert (await again(world, ["c"]))[0].duplicate
    await world.close()


async def test_a_clean_start_looks_for_damaged_ids_behind_the_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await hurt(await full(tmp_path), "UPDATE dedupe_a SET id = CAST(x'ff61' AS TEXT) WHERE id = 'c'")
    world = World("sqlite", tmp_path)
    await world.open()
    store = world.store
    assert isinstance(store, SqliteStore)
    assert store._checking is not None
    await store._checking
    assert [text for text in store.findings if "remembered id" in text]
    assert "found after the start" in caplog.text
    await world.close()


async def test_an_id_that_is_no_text_any_more_is_forgotten_like_the_others(tmp_path: Path) -> None:
    await hurt(await full(tmp_path), "UPDATE dedupe_a SET id = CAST(x'ff61' AS TEXT) WHERE id = 'c'")
    world = World("inline", tmp_path, dedupe_window_s=1)
    await world.open()
    for _ in range(8):
        world.now_ms += 1_001
        await world.commit(Append(world.store.topics[("t", "orders")], []))
    topic = world.store.topics[("t", "orders")]
    assert topic.bytes == sum(each.size_bytes for each in (await world.page(topic)).messages)
    await world.close()


def test_every_flipped_bit_of_a_number_changes_a_seal() -> None:
    connection = sqlite3.connect(":memory:")
    seals.register(connection)
    sealed = seals.mark_seal("?1", "?2")
    for number in (0, 1, 5, 1 << 45 | 7, (1 << 62) + 3):
        (sound,) = connection.execute(f"SELECT {sealed}", (number, 3)).fetchone()
        flipped = {connection.execute(f"SELECT {sealed}", (number ^ 1 << bit, 3)).fetchone()[0] for bit in range(63)}
        assert sound not in flipped
        assert (
            seals.times_seal(number, None, 1)
            == connection.execute(f"SELECT {seals.message_seal('?1', 'NULL', '1')}", (number,)).fetchone()[0]
        )


def test_what_is_sealed_is_what_is_migrated() -> None:
    """The third migration is frozen: whoever changes how a seal is made makes another migration."""
    text = "\n".join(schema.MIGRATIONS[2])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "446e4cbe1c63af5d"
