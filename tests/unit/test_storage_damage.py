"""Rows that are not what was stored: found by their checksum, never handed to a consumer, never gone in silence."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from conformance.harness import START_MS, World, message
from pushwire_storage.base import Append, Batch, Dead, Message, Retry
from pushwire_storage.planning import ID_BYTES
from pushwire_storage.sqlite import DATABASE


@pytest_asyncio.fixture(params=["sqlite", "inline"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    world = World(request.param, tmp_path, busy_timeout_s=0.05)
    await world.open()
    yield world
    await world.close()


async def damage(world: World, *statements: str) -> None:
    """Change rows behind the store's back."""
    await world.close()
    connection = sqlite3.connect(world.path / DATABASE, isolation_level=None)
    for statement in statements:
        assert connection.execute(statement).rowcount == 1, statement
    connection.close()
    await world.open()


SECOND = "pos & 0xffff = 2"
DAMAGES = {
    "data": f"UPDATE messages SET data = x'7b7d' WHERE {SECOND}",
    "one bit": f"UPDATE messages SET data = x'7b226e223a33' || x'7d' WHERE {SECOND}",
    "id": f"UPDATE messages SET id = 'other' WHERE {SECOND}",
    "id is no text": f"UPDATE messages SET id = cast(x'ff61' AS TEXT) WHERE {SECOND}",
    "key": f"UPDATE messages SET key = 'k' WHERE {SECOND}",
    "headers": f"UPDATE messages SET headers = x'00' WHERE {SECOND}",
    "content type": f"UPDATE messages SET content_type = 'a' WHERE {SECOND}",
    "encoding": f"UPDATE messages SET encoding = 2 WHERE {SECOND}",
    "encoding unknown": f"UPDATE messages SET encoding = 77 WHERE {SECOND}",
    "time": f"UPDATE messages SET published_at = published_at + 1 WHERE {SECOND}",
    "crc": f"UPDATE messages SET crc = crc + 1 WHERE {SECOND}",
    "types": f"UPDATE messages SET data = 7, encoding = 'x' WHERE {SECOND}",
}


@pytest.mark.parametrize("sql", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_damaged_message_goes_to_the_dead_letters(world: World, sql: str) -> None:
    topic = await world.topic()
    await world.group(topic)
    await world.publish(topic, "a", "b", "c")
    await damage(world, sql)
    topic = world.store.topics[("t", "orders")]
    group = topic.groups["g"]
    assert await world.kept(topic) == [1, 3]
    assert await world.want(group, 1, 9) == [1, 3]
    (letter,) = await world.letters(topic)
    assert (letter.group, letter.reason, letter.message.seq) == ("g", "corrupt", 2)
    assert letter.error
    assert (topic.messages, topic.dead_letters) == (2, 1)
    assert (await world.store.stats()).corrupt_rows >= 1
    assert await world.kept(topic) == [1, 3]
    await world.publish(topic, "d")
    assert world.seqs() == [1, 3, 4]


async def test_a_row_under_another_key_is_noticed(world: World) -> None:
    topic = await world.topic()
    await world.group(topic)
    await world.publish(topic, "a", "b", "c")
    await damage(world, f"UPDATE messages SET pos = pos + 6 WHERE {SECOND}")
    topic = world.store.topics[("t", "orders")]
    assert await world.want(topic.groups["g"], 1, 9) == [1, 3]
    assert [letter.message.seq for letter in await world.letters(topic)] == [8]


async def test_every_group_is_told_of_its_loss(world: World) -> None:
    topic = await world.topic()
    await world.group(topic, "one", "earliest")
    await world.group(topic, "two", "earliest")
    await world.publish(topic, "a", "b")
    await damage(world, DAMAGES["one bit"])
    topic = world.store.topics[("t", "orders")]
    for name in ("one", "two"):
        assert await world.want(topic.groups[name], 1, 9) == [1]
    letters = await world.letters(topic)
    assert [(letter.group, letter.reason) for letter in letters] == [("one", "corrupt"), ("two", "corrupt")]
    assert await world.kept(topic) == [1]
    body = len(message("a").data)
    assert (topic.messages, topic.bytes) == (1, body + 2 * ID_BYTES)


@pytest.mark.parametrize("open_first", [True, False])
async def test_a_damaged_retry_goes_to_the_dead_letters_with_its_counts(world: World, open_first: bool) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.publish(topic, "a", "b", "c")
    await world.want(group, 1, 9)
    await world.settle(*(Retry(group, each, START_MS + each.seq, each.seq, 1) for each in sent))
    await damage(world, DAMAGES["data"])
    topic = world.store.topics[("t", "orders")]
    group = topic.groups["g"]
    world.arrived.clear()
    if not open_first:
        world.now_ms = START_MS + 9
        await world.reopen()
        topic = world.store.topics[("t", "orders")]
        group = topic.groups["g"]
    await world.want(group, 1, 9)
    await world.due(START_MS + 9)
    assert world.seqs() == [1, 3]
    (letter,) = await world.letters(topic)
    assert (letter.reason, letter.deliveries, letter.failures) == ("corrupt", 2, 1)
    assert world.store.next_due_ms() is None


async def test_a_retry_damaged_while_it_waits_in_memory_is_found(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.publish(topic, "a", "b", "c")
    await world.want(group, 1, 9)
    await world.settle(*(Retry(group, each, START_MS, 1, 1) for each in sent))
    connection = sqlite3.connect(world.path / DATABASE, isolation_level=None)
    connection.execute(DAMAGES["data"])
    connection.close()
    assert await world.due(START_MS) == [1, 3]
    assert [letter.message.seq for letter in await world.letters(topic)] == [2]


async def test_a_damaged_message_waits_while_it_cannot_be_moved(world: World) -> None:
    topic = await world.topic()
    await world.group(topic)
    await world.publish(topic, "a", "b", "c")
    await damage(world, DAMAGES["data"])
    topic = world.store.topics[("t", "orders")]
    foreign = sqlite3.connect(world.path / DATABASE, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    world.store.want(topic.groups["g"], 1, 9)
    busy = world.give(Batch())
    await world.over(busy)
    assert world.seqs() == [1]
    foreign.execute("ROLLBACK")
    foreign.close()
    await world.publish(topic, "d")
    await world.quiet()
    assert world.seqs() == [1, 3, 4]
    assert [letter.message.seq for letter in await world.letters(topic)] == [2]


async def test_a_damaged_dead_letter_says_so(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    sent = [Message("a", b"\x01", START_MS, 2, 3, "k", b"{}"), Message("b", b"\x02", START_MS)]
    await world.commit(Append(topic, sent))
    await world.settle(*(Dead(group, each, "rejected", None, 1, 1, START_MS) for each in sent))
    await damage(world, "UPDATE dead_letters SET data = 'text' WHERE id = 'a'")
    topic = world.store.topics[("t", "orders")]
    damaged, sound = await world.letters(topic)
    assert (sound.reason, sound.message.data) == ("rejected", b"\x02")
    assert (damaged.reason, damaged.message.data, damaged.message.priority) == ("corrupt", b"text", 3)
