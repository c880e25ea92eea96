"""What becomes of messages because time passes while no consumer has them in hand."""

from __future__ import annotations

import pytest

from pushwire.wire.frames import Ack, Draft, Publish, Subscribe
from pushwire_storage.base import DeadFilter, DeadLetter, TopicConfig
from support.gateway_parts import Client, Parts


async def topic_with_group(expired: str) -> tuple[Parts, Client]:
    """A topic whose group has a member that has no room for anything."""
    parts = await Parts(pong_timeout_s=300).start()
    root = parts.principal("root")
    await parts.admin.create_topic(root, "t", {"expired": expired, "ledger": "settled"})
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", "s", prefetch=0, ref=1))
    return parts, ann


async def letters(parts: Parts) -> list[DeadLetter]:
    return list(await parts.store.catalog().dead_letters(parts.store.topics["acme", "t"], DeadFilter(), 10))


@pytest.mark.parametrize("expired", ["dead", "drop"])
async def test_what_expires_on_the_disk_goes_where_the_topic_says(expired: str) -> None:
    parts, ann = await topic_with_group(expired)
    assert parts.store.topics["acme", "t"].config == TopicConfig(expired=expired, ledger="settled")
    await ann.ok(Publish("t", [Draft("a", b"1", expires_ms=-1000), Draft("b", b"2")], 2))
    await parts.elapse(2)
    assert not parts.broken
    assert [message.id for message in await parts.store.kept("acme", "t")] == ["b"]
    gone = [(letter.message.id, letter.reason, letter.deliveries) for letter in await letters(parts)]
    assert gone == ([("a", "expired", 0)] if expired == "dead" else [])
    (event,) = await parts.store.catalog().history(parts.store.topics["acme", "t"], 1)
    assert (event.event, event.group, event.attempt, event.detail) == ("dead", "g", 0, "expired")
    assert parts.engine.batcher.settled_bytes == 0


async def test_what_expires_on_the_disk_counts_until_it_is_settled() -> None:
    parts, ann = await topic_with_group("dead")
    await ann.ok(Publish("t", [Draft("a", b"12345", expires_ms=-1000)], 2))
    held_bytes: list[int] = []
    settle = parts.engine.batcher.settle

    def counted(settlements: object, size_bytes: int) -> None:
        held_bytes.append(size_bytes)
        settle(settlements, size_bytes)

    parts.engine.batcher.settle = counted
    await parts.elapse(2)
    (size_bytes,) = held_bytes
    assert size_bytes > 5


async def test_a_message_comes_when_it_is_due_and_not_before() -> None:
    parts, _ = await topic_with_group("dead")
    bob = await parts.client("bob")
    await bob.ok(Subscribe("t", "g", ref=1))
    await bob.ok(Publish("t", [Draft("late", b"1", due_ms=-5000), Draft("soon", b"2")], 2))
    (first,) = await bob.delivered()
    assert first.message.id == "soon"
    await bob.ok(Ack([first.lease], None, 3))
    await parts.elapse(4)
    assert bob.seen == []
    await parts.elapse(1)
    (second,) = await bob.delivered()
    assert (second.message.id, second.deliveries) == ("late", 1)


@pytest.mark.parametrize("retain_ms", [0, 60_000])
async def test_what_waits_for_a_taken_key_beyond_memory_expires_with_its_body(retain_ms: int) -> None:
    parts = await Parts(pong_timeout_s=300).start()
    await parts.admin.create_topic(parts.principal("root"), "t", {"retain_ms": retain_ms})
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", "s", ack_timeout_ms=60_000, ref=1))
    many = [Draft("first", b"0", key="k"), *(Draft(f"m{n}", b"%d" % n, key="k", expires_ms=-5000) for n in range(99))]
    await ann.ok(Publish("t", many, 2))
    (held,) = await ann.delivered()
    await parts.elapse(6)
    assert not parts.broken
    expired = {letter.message.id: letter.message.data for letter in await letters(parts)}
    assert (len(expired), expired["m0"], expired.get("m9")) == (10, b"0", b"9"), "a page of them"
    assert parts.store.topics["acme", "t"].dead_letters == 99
    await ann.ok(Ack([held.lease], None, 3))
    await parts.elapse(1)
    assert ann.seen == []
    assert parts.engine.core.ready_bytes() == 0
