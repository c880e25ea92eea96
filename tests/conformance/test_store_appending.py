"""What a publish may rely on, over every store: receipts, duplicates, all or nothing, quotas."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.harness import START_MS, World, message
from pushwire_storage.base import Append, Batch, CreateGroup, CreateTopic, Done, Message, Topic
from pushwire_storage.planning import ID_BYTES

WINDOW_MS = 600_000


async def test_receipts_carry_rising_seqs_per_topic(world: World) -> None:
    orders, mails = await world.topic("orders"), await world.topic("mails")
    first = await world.publish(orders, "a", "b")
    other = await world.publish(mails, "a")
    second = await world.publish(orders, "c")
    assert [m.seq for m in first + second] == [1, 2, 3]
    assert [m.seq for m in other] == [1]
    assert not any(m.duplicate for m in first + other + second)
    assert (orders.last_seq, orders.messages) == (3, 3)
    assert orders.bytes == 3 * (len(b'{"n":1}') + ID_BYTES)


async def test_topics_and_groups_are_created_once(world: World) -> None:
    topic = await world.topic("orders")
    assert await world.topic("orders") is topic
    assert await world.topic("orders", tenant="other") is not topic
    group = await world.group(topic, "g")
    assert await world.group(topic, "g", "new") is group
    twice = [CreateTopic("t", "new"), CreateTopic("t", "new")]
    assert (await world.over(world.give(Batch(changes=[*twice])))).error is None
    assert twice[0].result is twice[1].result
    assert world.store.topics[("t", "new")] is twice[0].result
    assert topic.groups == {"g": group}


async def test_every_field_of_a_message_comes_back(world: World) -> None:
    topic = await world.topic()
    sent = [
        Message("plain", b"[1]", START_MS),
        Message("all", b"\x00\xff", START_MS + 5, 2, 3, "käy", b'{"a":"b"}', "image/png"),
        Message("key", "täxt".encode(), START_MS, 1, 0, key="k"),
        Message("empty", b"", START_MS, 2, 2, key="", headers=b"", content_type=""),
    ]
    await world.commit(Append(topic, sent))
    if world.persistent:
        await world.reopen()
        topic = world.store.topics[("t", "orders")]
    got = (await world.store.read(topic, 0, 10)).messages
    fields = ("id", "data", "published_at_ms", "encoding", "priority", "key", "headers", "content_type", "seq")
    for name in fields:
        assert [getattr(m, name) for m in got] == [getattr(m, name) for m in sent], name
    assert [m.size_bytes for m in got] == [m.size_bytes for m in sent]


async def test_a_retried_publish_is_stored_once(world: World) -> None:
    topic = await world.topic()
    await world.publish(topic, "a", "b")
    again = await world.publish(topic, "b", "c", "a")
    assert [(m.seq, m.duplicate) for m in again] == [(2, True), (3, False), (1, True)]
    assert await world.kept(topic) == [1, 2, 3]
    assert topic.messages == 3


async def test_a_settled_message_is_still_a_duplicate(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    (sent,) = await world.publish(topic, "a")
    await world.ack(group, sent)
    assert topic.messages == 0
    (again,) = await world.publish(topic, "a")
    assert (again.seq, again.duplicate) == (1, True)
    assert await world.kept(topic) == []


async def test_the_same_id_twice_in_one_batch_is_as_one_after_the_other(world: World) -> None:
    topic = await world.topic()
    one = Append(topic, [message("a"), message("a"), message("b")])
    two = Append(topic, [message("c"), message("b")])
    clash = Append(topic, [message("d"), message("b", b"other")])
    after = Append(topic, [message("d"), message("e")])
    await world.commit(one, two, clash, after)
    assert [(m.seq, m.duplicate) for m in one.messages] == [(1, False), (1, True), (2, False)]
    assert [(m.seq, m.duplicate) for m in two.messages] == [(3, False), (2, True)]
    assert clash.refused is not None
    assert clash.refused.code == "id_conflict"
    assert [(m.seq, m.duplicate) for m in after.messages] == [(4, False), (5, False)]
    assert topic.last_seq == 5


@pytest.mark.parametrize(
    "other",
    [
        {"data": b"2"},
        {"priority": 2},
        {"key": "k"},
        {"headers": b'{"a":"b"}'},
        {"content_type": "text/plain"},
        {"encoding": 1},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_the_same_id_with_other_content_is_a_conflict(world: World, other: dict[str, Any]) -> None:
    topic = await world.topic()
    await world.publish(topic, "a", data=b"1")
    append = Append(topic, [message("fresh"), message("a", **{"data": b"1", **other})])
    await world.commit(append)
    assert append.refused is not None
    assert append.refused.code == "id_conflict"
    assert "'a'" in append.refused.detail
    assert [(m.seq, m.duplicate) for m in append.messages] == [(0, False), (0, False)]
    assert await world.kept(topic) == [1]
    (fresh,) = await world.publish(topic, "fresh")
    assert (fresh.seq, fresh.duplicate) == (2, False)


async def test_a_conflict_within_one_append_refuses_it(world: World) -> None:
    topic = await world.topic()
    append = Append(topic, [message("a", b"1"), message("a", b"2")])
    await world.commit(append)
    assert append.refused is not None
    assert append.refused.code == "id_conflict"
    assert topic.messages == 0
    assert topic.bytes == 0


async def test_ids_belong_to_their_topic(world: World) -> None:
    one, two = await world.topic("one"), await world.topic("two")
    await world.publish(one, "a", data=b"1")
    (other,) = await world.publish(two, "a", data=b"2")
    assert (other.seq, other.duplicate) == (1, False)


async def test_an_id_is_remembered_for_a_window_and_forgotten_after_two(world: World) -> None:
    topic = await world.topic()
    await world.publish(topic, "a")
    world.now_ms += WINDOW_MS - 1
    assert (await world.publish(topic, "a"))[0].duplicate
    world.now_ms += 1  # the generation of "a" is no longer the current one
    await world.publish(topic, "b")
    assert (await world.publish(topic, "a"))[0].duplicate
    for step in range(4):
        world.now_ms += WINDOW_MS
        await world.publish(topic, f"later-{step}")
    (again,) = await world.publish(topic, "a")
    assert not again.duplicate
    assert again.seq == topic.last_seq


async def test_forgotten_ids_free_their_bytes(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    for batch in range(10):
        await world.ack(group, *await world.publish(topic, *(f"{batch}-{n}" for n in range(300))))
    assert topic.bytes == 3000 * ID_BYTES
    for _ in range(30):  # by slices
        world.now_ms += WINDOW_MS // 2
        await world.commit()
    assert topic.bytes == 0
    assert not (await world.publish(topic, "0-0"))[0].duplicate


async def test_a_full_topic_names_who_holds_it(world: World) -> None:
    await world.reopen(quota_messages=3)
    topic = await world.topic()
    append = Append(topic, [message(str(n)) for n in range(4)])
    await world.commit(append)
    assert append.refused is not None
    assert append.refused.code == "topic_full"
    assert topic.messages == 0
    sent = await world.publish(topic, "a", "b", "c")
    assert "no group" in await _refusal(world, topic)
    slow, quick = await world.group(topic, "slow", "earliest"), await world.group(topic, "quick", "earliest")
    await world.ack(quick, *sent)
    detail = await _refusal(world, topic)
    assert "'slow'" in detail
    assert "'quick'" not in detail
    assert "seq 1" in detail
    assert (await world.publish(topic, "a"))[0].duplicate, "a retry is answered even when the topic is full"
    await world.ack(slow, sent[0])
    assert (await world.publish(topic, "d"))[0].seq == 4


async def _refusal(world: World, topic: Topic) -> str:
    append = Append(topic, [message(f"too-much-{topic.last_seq}")])
    await world.commit(append)
    assert append.refused is not None
    assert append.refused.code == "topic_full"
    return append.refused.detail


async def test_a_topic_is_full_by_bytes_and_by_remembered_ids(world: World) -> None:
    settings = {"quota_bytes": 3 * (ID_BYTES + 100)}
    await world.reopen(**settings)
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.publish(topic, "a", "b", "c", data=b"x" * 100)
    assert topic.bytes == settings["quota_bytes"]
    assert "'g'" in await _refusal(world, topic)
    await world.ack(group, *sent)
    assert topic.bytes == 3 * ID_BYTES
    for n in range(4):
        await world.ack(group, *await world.publish(topic, f"small-{n}", data=b"1"))
    assert topic.messages == 0
    assert "ids" in await _refusal(world, topic)


async def test_one_append_refused_does_not_touch_the_others(world: World) -> None:
    await world.reopen(quota_messages=5)
    topic, other = await world.topic(), await world.topic("other")
    appends = [
        Append(topic, [message("a"), message("b"), message("c")]),
        Append(topic, [message("d"), message("e"), message("f")]),
        Append(other, [message("a")]),
        Append(topic, [message("g"), message("d")]),
    ]
    await world.commit(*appends)
    assert [append.refused.code if append.refused else None for append in appends] == [None, "topic_full", None, None]
    assert [m.seq for m in appends[3].messages] == [4, 5]
    assert await world.kept(topic) == [1, 2, 3, 4, 5]


async def test_a_batch_runs_changes_then_appends_then_settlements(world: World) -> None:
    topic = await world.topic()
    await world.publish(topic, "before")
    append, make = Append(topic, [message("a"), message("b")]), CreateGroup(topic, "g", "new")
    await world.over(world.give(Batch(changes=[make], appends=[append])))
    group = make.result
    assert group is not None
    assert group.start_seq == 1
    more = Append(topic, [message("c")])
    await world.commit(more, settle=[Done(group, [*append.messages, *more.messages])])
    assert await world.kept(topic) == [1]


async def test_done_runs_later_and_one_batch_at_a_time(world: World) -> None:
    topic = await world.topic()
    over = world.give(Batch(appends=[Append(topic, [message("a")])]))
    assert not over.done(), "never from inside write"
    with pytest.raises(AssertionError):
        world.store.write(Batch(), lambda _: None)
    await world.over(over)
    assert topic.last_seq == 1


async def test_a_batch_may_be_written_from_done(world: World) -> None:
    topic = await world.topic()
    second = Append(topic, [message("b")])
    chained = []
    first = world.give(
        Batch(appends=[Append(topic, [message("a")])]), lambda _: chained.append(world.give(Batch(appends=[second])))
    )
    await world.over(first)
    await world.over(chained[0])
    assert second.messages[0].seq == 2
