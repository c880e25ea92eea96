"""What time does to messages, over every store: schedule, TTL, retention. Time is the batches' `now_ms`, stepped."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.harness import START_MS, World, message
from pushwire_storage.base import (
    DUE_MAX,
    Append,
    Batch,
    ConfigureTopic,
    Dead,
    Done,
    Message,
    PurgeTopic,
    Retry,
    SeekGroup,
    TopicConfig,
)
from pushwire_storage.chores import PIECE_ROWS, SWEEP_PERIOD_MS
from pushwire_storage.planning import ID_BYTES
from pushwire_storage.scheduling import EXPIRED_MAX

DAY_MS = 86_400_000


def later(id_: str, ms: int, **fields: Any) -> Message:
    return message(id_, due_ms=START_MS + ms, **fields)


def short(id_: str, ms: int, **fields: Any) -> Message:
    return message(id_, expires_ms=START_MS + ms, **fields)


# -- schedule


async def test_a_scheduled_message_arrives_when_it_is_due_and_once(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.want(group, 1, 9)
    sent = await world.send(topic, message("a"), later("b", 50), message("c"), later("d", 50))
    assert [each.seq for each in sent] == [1, 2, 3, 4]
    assert world.seqs() == [1, 3]
    assert (topic.messages, topic.scheduled) == (4, 2)
    assert world.store.next_tick_ms() == START_MS + 50
    await world.tick(START_MS + 49)
    assert world.seqs() == [1, 3]
    await world.tick(START_MS + 50)
    assert world.seqs() == [1, 3, 2, 4], "below the lane's cursor, and above it"
    assert world.messages[("g", 2)].due_ms == START_MS + 50
    assert topic.scheduled == 0
    assert world.store.next_tick_ms() is None
    await world.ack(group, *(world.messages[("g", seq)] for seq in (1, 2, 3, 4)))
    assert topic.messages == 0
    assert await world.due(START_MS + 99) == []


async def test_what_falls_due_respects_demand(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.send(topic, *(later(str(n), 10) for n in range(5)), message("now"))
    assert await world.want(group, 1, 1) == [6]
    await world.tick(START_MS + 10)
    assert world.seqs() == [6], "nobody wants more"
    await world.send(topic, message("above"))
    assert await world.want(group, 1, 2) == [1, 2], "before what lies above them"
    await world.want(group, 1, 9)
    await world.due(START_MS + 10)
    assert sorted(world.seqs()) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_due_time_in_the_past_is_none_and_survives_a_restart(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.send(topic, later("a", -5), later("b", 500))
    assert await world.want(group, 1, 9) == [1]
    if world.persistent:
        world.now_ms = START_MS + 500
        await world.reopen()
        topic = world.store.topics[("t", "orders")]
        assert topic.scheduled == 1
        assert world.store.next_tick_ms() == START_MS + 500
        await world.tick(START_MS + 500)
        assert sorted(await world.want(topic.groups["g"], 1, 9)) == [1, 2]


async def test_many_fall_due_in_bounded_pieces(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.want(group, 1, 10_000)
    await world.send(topic, *(later(str(n), 10) for n in range(DUE_MAX + 5)))
    world.now_ms = START_MS + 10
    await world.commit()
    assert topic.scheduled == 5
    assert (world.store.next_tick_ms() or 0) <= world.now_ms
    await world.tick(START_MS + 10)
    assert sorted(world.seqs()) == list(range(1, DUE_MAX + 6))


async def test_a_group_that_is_closed_gets_what_fell_due_from_the_backlog(world: World) -> None:
    topic = await world.topic()
    one, two = await world.group(topic, "one"), await world.group(topic, "two", "earliest")
    await world.want(one, 1, 9)
    await world.send(topic, later("a", 10), message("b"))
    await world.tick(START_MS + 10)
    assert world.arrived == [("one", 1, 2, (0, 0)), ("one", 1, 1, (0, 0))]
    assert await world.want(two, 1, 9) == [1, 2], "it had read nothing: in order"
    await world.settle(Retry(one, world.messages[("one", 1)], START_MS + 20, 1, 1))
    assert await world.due(START_MS + 20) == [1]
    assert world.arrived[-1] == ("one", 1, 1, (1, 1))


# -- TTL


async def test_an_expired_message_is_said_to_be_so_once_and_never_arrives(world: World) -> None:
    topic = await world.topic()
    one, two = await world.group(topic, "one"), await world.group(topic, "two", "earliest")
    (a, b) = await world.send(topic, short("a", 50), message("b"))
    assert world.store.next_tick_ms() == START_MS + 50
    await world.want(two, 1, 9)
    await world.tick(START_MS + 50)
    assert world.expired == [("one", 1)], "the other has it in its hands, and knows itself"
    await world.commit()
    await world.tick(START_MS + 60)
    assert world.expired == [("one", 1)]
    assert await world.want(one, 1, 9) == [2]
    assert world.expired == [("one", 1)], "not even where its settlement is late"
    await world.settle(Dead(one, a, "expired", None, 0, 0, START_MS + 60))
    await world.ack(two, a, b)
    assert [(each.group, each.reason) for each in await world.letters(topic)] == [("one", "expired")]
    assert await world.kept(topic) == [2]
    assert world.store.next_tick_ms() == START_MS + 60 + 7 * DAY_MS + 1, "nothing but the letter waits for its end"


async def test_what_a_closed_group_had_in_hand_expires_with_the_store(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.send(topic, short("a", 50))
    assert await world.want(group, 1, 9) == [1]
    await world.tick(START_MS + 50)
    assert world.expired == []
    world.store.forget(group)
    assert world.store.next_tick_ms() is not None
    await world.tick(START_MS + 50)
    assert world.expired == [("g", 1)]


async def test_a_message_that_waits_for_its_retry_expires_with_the_store(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    (a, b) = await world.send(topic, short("a", 50), short("b", 50))
    await world.want(group, 1, 9)
    await world.settle(Retry(group, a, START_MS + 99, 1, 1))
    await world.tick(START_MS + 50)
    assert world.expired == [("g", 1)]
    await world.settle(Retry(group, b, START_MS + 99, 1, 1))
    await world.tick(START_MS + 50)
    assert world.expired == [("g", 1), ("g", 2)], "given back when its time was over already"
    await world.settle(Done(group, [a, b]))
    assert topic.messages == 0
    assert await world.due(START_MS + 200) == []


@pytest.mark.parametrize("through_seq", [0, 1])
async def test_what_was_said_before_a_purge_is_said_again(world: World, through_seq: int) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.send(topic, message("a"), short("b", 10))
    await world.tick(START_MS + 10)
    assert world.expired == [("g", 2)]
    world.store.forget(group)
    await world.change(PurgeTopic(topic, through_seq))  # and what the gateway was about to settle is forgotten
    await world.tick(START_MS + 11)
    assert world.expired == [("g", 2), ("g", 2)]


async def test_what_was_said_before_a_seek_is_said_again(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.send(topic, message("a"), short("b", 10))
    await world.tick(START_MS + 10)
    await world.change(SeekGroup(group, "earliest"))
    await world.tick(START_MS + 11)
    assert world.expired == [("g", 2), ("g", 2)]


async def test_a_message_that_comes_too_late_is_not_handed_over(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.want(group, 1, 9)
    await world.send(topic, message("a"), short("b", 0), message("c"))
    assert world.seqs() == [1, 3]
    assert world.expired == [("g", 2)]


async def test_a_scheduled_message_can_expire_before_it_is_due(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.want(group, 1, 9)
    (late, _) = await world.send(topic, later("a", 90, expires_ms=START_MS + 50), message("b"))
    await world.tick(START_MS + 50)
    assert world.expired == [("g", 1)]
    await world.settle(Dead(group, late, "expired", None, 0, 0, START_MS + 50))
    assert (topic.messages, topic.scheduled, topic.dead_letters) == (1, 0, 1)
    await world.tick(START_MS + 90)
    assert world.seqs() == [2]


async def test_without_a_group_an_expired_message_is_removed(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, short("a", 50), message("b"), *(short(str(n), 60) for n in range(EXPIRED_MAX + 3)))
    await world.tick(START_MS + 60)
    assert await world.kept(topic) == [2]
    assert (topic.messages, topic.dead_letters) == (1, 0)
    assert (await world.store.stats()).expired == EXPIRED_MAX + 4


# -- retention


async def test_a_settled_message_is_retained_and_goes_in_time(world: World) -> None:
    topic = await world.topic(retain_ms=5_000)
    group = await world.group(topic)
    (a, b, c) = await world.publish(topic, "a", "b", "c")
    await world.want(group, 1, 9)
    await world.ack(group, a, b)
    assert await world.kept(topic) == [1, 2, 3]
    assert topic.messages == 3
    world.store.forget(group)
    assert await world.want(group, 1, 9) == [3], "settled is settled"
    await world.tick(START_MS + 4_999)
    assert await world.kept(topic) == [1, 2, 3]
    await world.tick(START_MS + 5_000 + SWEEP_PERIOD_MS)
    assert await world.kept(topic) == [3], "unsettled: it stays until it is settled"
    await world.ack(group, c)
    assert topic.messages == 0
    assert world.store.next_tick_ms() is None


async def test_no_group_no_loss_whatever_the_retention(world: World) -> None:
    topic = await world.topic(retain_ms=5_000)
    await world.publish(topic, "a", "b")
    await world.tick(START_MS + 99_000)
    group = await world.group(topic)
    await world.tick(START_MS + 199_000)
    assert await world.want(group, 1, 9) == [1, 2]


async def test_retention_that_is_switched_off_lets_go(world: World) -> None:
    topic = await world.topic(retain_ms=1_000_000)
    one, two = await world.group(topic, "one"), await world.group(topic, "two", "earliest")
    (a, b, c) = await world.publish(topic, "a", "b", "c")
    await world.ack(one, a, b)
    await world.ack(two, a, c)
    await world.change(ConfigureTopic(topic, TopicConfig()))
    assert await world.kept(topic) == [2, 3]
    assert topic.config == TopicConfig()
    await world.ack(one, c)
    await world.ack(two, b)
    assert topic.messages == 0


async def test_age_is_a_ttl_for_old_and_new_messages(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    (old, mine, _) = await world.send(topic, message("a"), short("b", 30), later("c", 500))
    await world.change(ConfigureTopic(topic, TopicConfig(max_age_ms=100)))
    (new,) = await world.send(topic, message("d"))
    assert new.expires_ms == START_MS + 100
    await world.tick(START_MS + 100)
    assert world.expired == [("g", 2), ("g", 1), ("g", 4)]
    await world.settle(*(Dead(group, each, "expired", None, 0, 0, START_MS + 100) for each in (old, mine, new)))
    await world.tick(START_MS + 500)
    assert await world.want(group, 1, 9) == [3], "counted from when it could be delivered"
    await world.change(ConfigureTopic(topic, TopicConfig()))
    assert (await world.page(topic)).messages[0].expires_ms is None


async def test_a_settled_message_leaves_with_its_age(world: World) -> None:
    topic = await world.topic(retain_ms=10_000, max_age_ms=20_000)
    group = await world.group(topic)
    (a, _) = await world.publish(topic, "a", "b")
    await world.ack(group, a)
    await world.tick(START_MS + 10_000 + SWEEP_PERIOD_MS)
    assert await world.kept(topic) == [2]
    await world.tick(START_MS + 20_000)
    assert world.expired == [("g", 2)]


async def test_an_empty_batch_lets_time_pass(world: World) -> None:
    topic = await world.topic()
    append = Append(topic, [later("a", 10)])
    await world.over(world.give(Batch(appends=[append])))
    batch = await world.over(world.give(Batch(now_ms=START_MS + 10)))
    assert batch.error is None
    assert topic.scheduled == 0


# -- retention by bytes

BODY_BYTES = len(message("a").data)


async def test_what_nobody_is_owed_leaves_when_there_are_too_many_bytes(world: World) -> None:
    topic = await world.topic(retain_ms=1_000_000, retain_bytes=5 * BODY_BYTES)
    group = await world.group(topic)
    sent = await world.publish(topic, *"abcdefgh")
    await world.ack(group, *sent[2:])
    await world.tick(world.now_ms)
    await world.tick(world.now_ms + SWEEP_PERIOD_MS)
    assert await world.kept(topic) == [1, 2, 6, 7, 8], "oldest first; what the group is owed stays"
    assert (topic.messages, topic.bytes) == (5, 5 * BODY_BYTES + 8 * ID_BYTES)
    await world.publish(topic, "i", priority=3)
    await world.tick(world.now_ms + SWEEP_PERIOD_MS)
    assert await world.kept(topic) == [1, 2, 7, 8, 9]
    page = await world.page(topic)
    assert page.gaps == [(3, 6)]


async def test_bytes_of_what_a_group_is_owed_are_for_the_quota_to_bound(world: World) -> None:
    topic = await world.topic(retain_ms=1_000_000, retain_bytes=2 * BODY_BYTES)
    group = await world.group(topic)
    sent = await world.publish(topic, *"abcd")
    await world.tick(world.now_ms)
    assert await world.kept(topic) == [1, 2, 3, 4]
    tick_ms = world.store.next_tick_ms()
    assert tick_ms is not None
    assert tick_ms > world.now_ms, "it does not look again and again"
    await world.ack(group, *sent[1:])
    await world.tick(world.now_ms + SWEEP_PERIOD_MS)
    assert await world.kept(topic) == [1, 4], "what was passed over is met by a later look"


async def test_without_a_group_the_bytes_bound_what_tails_can_read(world: World) -> None:
    topic = await world.topic(retain_bytes=3 * BODY_BYTES)
    for name in "abcdef":
        await world.publish(topic, name)
    await world.send(topic, later("g", 50))
    await world.tick(world.now_ms)
    assert await world.kept(topic) == [5, 6, 7]
    assert topic.scheduled == 1
    group = await world.group(topic)
    assert await world.want(group, 1, 9) == [5, 6]


async def test_another_limit_of_bytes_counts_at_once_and_after_a_restart(world: World) -> None:
    topic = await world.topic(retain_bytes=9 * BODY_BYTES)
    await world.publish(topic, *"abcdef")
    await world.change(ConfigureTopic(topic, TopicConfig(retain_bytes=4 * BODY_BYTES)))
    if world.persistent:
        await world.reopen()
    await world.tick(world.now_ms)
    assert await world.kept(world.store.topics[("t", "orders")]) == [3, 4, 5, 6]


async def test_many_bytes_leave_in_bounded_pieces(world: World) -> None:
    topic = await world.topic(retain_bytes=BODY_BYTES)
    await world.publish(topic, *map(str, range(PIECE_ROWS + 500)))
    await world.commit()
    assert topic.messages == 500
    await world.tick(world.now_ms)
    assert topic.messages == 1
