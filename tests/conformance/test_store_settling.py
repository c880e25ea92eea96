"""What settles a message, over every store: who is owed it, counts, dead letters, books that never drift."""

from __future__ import annotations

from conformance.harness import START_MS, World, message
from pushwire_storage.base import Append, Counted, Dead, Done, Group, Message, Retry
from pushwire_storage.planning import ID_BYTES

BODY = b'{"n":1}'


def dead(group: Group, each: Message, reason: str = "rejected", at_ms: int = START_MS) -> Dead:
    return Dead(group, each, reason, "why", 3, 2, at_ms)


async def test_a_message_is_kept_until_every_group_has_settled_it(world: World) -> None:
    topic = await world.topic()
    one, two = await world.group(topic, "one", "earliest"), await world.group(topic, "two", "earliest")
    a, b = await world.publish(topic, "a", "b")
    await world.ack(one, a, b)
    assert await world.kept(topic) == [1, 2]
    await world.ack(two, a)
    assert await world.kept(topic) == [2]
    await world.settle(Done(one, [b]), Done(two, [b]))
    assert await world.kept(topic) == []
    assert (topic.messages, topic.bytes) == (0, 2 * ID_BYTES)


async def test_both_groups_may_settle_in_one_batch(world: World) -> None:
    topic = await world.topic()
    groups = [await world.group(topic, name, "earliest") for name in ("one", "two", "three")]
    sent = await world.publish(topic, *map(str, range(300)))
    await world.settle(*(Done(group, sent) for group in groups))
    assert topic.messages == 0
    assert await world.kept(topic) == []


async def test_where_groups_start(world: World) -> None:
    topic = await world.topic()
    await world.publish(topic, "a", "b")
    first = await world.group(topic, "first")
    later = await world.group(topic, "later")
    earliest = await world.group(topic, "earliest", "earliest")
    new = await world.group(topic, "new", "new")
    assert [group.start_seq for group in (first, later, earliest, new)] == [0, 2, 0, 2]
    lonely = await world.group(await world.topic("other"), "lonely", "new")
    assert lonely.start_seq == 0
    await world.publish(topic, "c")
    assert await world.want(first, 1, 9) == [1, 2, 3]
    assert await world.want(later, 1, 9) == [3]
    assert await world.want(earliest, 1, 9) == [1, 2, 3]


async def test_a_group_that_is_not_owed_a_message_cannot_settle_it(world: World) -> None:
    topic = await world.topic()
    old = await world.group(topic, "old")
    (a,) = await world.publish(topic, "a")
    young = await world.group(topic, "young")
    await world.settle(Done(young, [a]), Retry(young, a, START_MS, 1, 1), dead(young, a))
    assert await world.kept(topic) == [1]
    assert await world.letters(topic) == []
    await world.ack(old, a)
    assert await world.kept(topic) == []


async def test_settling_is_idempotent_in_every_order(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    a, b, c, d = await world.publish(topic, "a", "b", "c", "d")
    await world.settle(Done(group, [a, a]), Done(group, [a]), dead(group, a), Retry(group, a, START_MS, 1, 1))
    await world.settle(Done(group, [a, b]), dead(group, b))
    await world.settle(dead(group, c), dead(group, c), Done(group, [c]))
    await world.settle(dead(group, c), Counted(group, c, 9, 9))
    unknown = message("never stored")
    unknown.seq = 77
    await world.settle(Done(group, [unknown, d]), dead(group, unknown), Retry(group, unknown, START_MS, 1, 1))
    assert await world.kept(topic) == []
    assert (topic.messages, topic.bytes, topic.dead_letters) == (0, 4 * ID_BYTES, 1)
    assert [letter.message.id for letter in await world.letters(topic)] == ["c"]
    assert await world.want(group, 1, 9) == []


async def test_settling_twice_with_two_groups_does_not_drift(world: World) -> None:
    topic = await world.topic()
    one, two = await world.group(topic, "one"), await world.group(topic, "two")
    (a,) = await world.publish(topic, "a")
    await world.ack(one, a)
    await world.ack(one, a, a)
    assert topic.messages == 1
    await world.ack(two, a)
    await world.ack(two, a)
    await world.ack(one, a)
    assert (topic.messages, topic.bytes) == (0, ID_BYTES)
    await world.settle(dead(one, a), Retry(two, a, START_MS, 1, 1))
    assert await world.letters(topic) == []


async def test_a_dead_letter_keeps_bytes_and_history(world: World) -> None:
    topic = await world.topic()
    one, two = await world.group(topic, "one"), await world.group(topic, "two")
    sent = Message("a", b"\x00\xff", START_MS - 5, 2, 3, "key", b'{"h":"v"}', "image/png")
    await world.commit(Append(topic, [sent]))
    await world.settle(Dead(one, sent, "failures", "boom", 50, 10, START_MS + 7))
    assert await world.kept(topic) == [1], "the other group is still owed it"
    await world.settle(Dead(two, sent, "expired", None, 0, 0, START_MS + 8))
    assert await world.kept(topic) == []
    if world.persistent:
        await world.reopen()
        topic = world.store.topics[("t", "orders")]
    oldest, newest = await world.letters(topic)
    assert (newest.group, newest.reason, newest.error, newest.at_ms) == ("two", "expired", None, START_MS + 8)
    assert (oldest.topic, oldest.group, oldest.reason, oldest.error) == ("orders", "one", "failures", "boom")
    assert (oldest.deliveries, oldest.failures, oldest.at_ms) == (50, 10, START_MS + 7)
    for letter in (newest, oldest):
        got = letter.message
        assert (got.id, got.data, got.seq, got.priority, got.key) == ("a", b"\x00\xff", 1, 3, "key")
        assert (got.headers, got.content_type, got.encoding) == (b'{"h":"v"}', "image/png", 2)
        assert got.published_at_ms == START_MS - 5
    assert topic.dead_letters == 2
    assert [letter.id for letter in await world.letters(topic, 1)] == [oldest.id]


async def test_dead_letters_are_bounded_by_number_and_age(world: World) -> None:
    limits = {"dead_letters_max": 3, "dead_letters_keep_s": 100.0}
    await world.reopen(**limits)
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.publish(topic, *map(str, range(6)))
    await world.settle(*(dead(group, each, at_ms=START_MS + each.seq) for each in sent[:5]))
    assert topic.dead_letters == 3
    assert [letter.message.seq for letter in await world.letters(topic)] == [3, 4, 5]
    world.now_ms = START_MS + 100_005
    await world.settle(dead(group, sent[5], at_ms=world.now_ms))
    assert [letter.message.seq for letter in await world.letters(topic)] == [5, 6]
    assert topic.dead_letters == 2
    assert (await world.store.stats()).dead_letters == 2


async def test_a_retry_comes_back_when_due_with_its_counts(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    a, b = await world.publish(topic, "a", "b")
    assert await world.want(group, 1, 9) == [1, 2]
    await world.settle(Retry(group, a, START_MS + 100, 1, 1))
    assert world.store.next_due_ms() == START_MS + 100
    assert await world.due(START_MS + 99) == []
    assert await world.due(START_MS + 100) == [1]
    assert world.arrived[-1] == ("g", 1, 1, (1, 1))
    assert world.store.next_due_ms() is None
    assert await world.due(START_MS + 500) == [], "once"
    await world.settle(Retry(group, a, START_MS + 900, 2, 2), Done(group, [b]))
    assert await world.due(START_MS + 900) == [1]
    assert world.arrived[-1] == ("g", 1, 1, (2, 2))
    await world.ack(group, a)
    assert await world.kept(topic) == []


async def test_counts_never_decrease(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    (a,) = await world.publish(topic, "a")
    await world.want(group, 1, 9)
    await world.settle(Counted(group, a, 5, 3))
    await world.settle(Retry(group, a, START_MS + 1, 4, 2))
    assert await world.due(START_MS + 1) == [1]
    assert world.arrived[-1][3] == (5, 3)


async def test_a_counted_message_stays_in_the_gateways_hands(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    (a,) = await world.publish(topic, "a")
    assert await world.want(group, 1, 9) == [1]
    await world.settle(Counted(group, a, 3, 1))
    assert world.store.next_due_ms() is None
    assert await world.due(START_MS + 10**9) == []
    world.store.forget(group)
    assert await world.want(group, 1, 9) == [1]
    assert world.arrived[-1] == ("g", 1, 1, (3, 1))
    if world.persistent:
        await world.reopen()
        group = world.store.topics[("t", "orders")].groups["g"]
        assert await world.want(group, 1, 9) == [1]
        assert world.arrived[-1] == ("g", 1, 1, (3, 1))


async def test_retries_of_settled_messages_leave_no_trace(world: World) -> None:
    topic = await world.topic()
    group, other = await world.group(topic), await world.group(topic, "other")
    a, b, c = await world.publish(topic, "a", "b", "c")
    await world.want(group, 1, 9)
    await world.settle(
        Retry(group, a, START_MS + 5, 1, 1), Counted(group, b, 1, 0), Retry(group, c, START_MS + 5, 1, 1)
    )
    await world.settle(Done(group, [a, b]), Retry(group, b, START_MS + 5, 2, 1))
    await world.settle(Retry(group, a, START_MS + 5, 2, 1))
    await world.ack(other, a, b, c)
    assert await world.kept(topic) == [3]
    assert await world.due(START_MS + 5) == [3]
    await world.ack(group, c)
    assert (topic.messages, topic.bytes) == (0, 3 * ID_BYTES)
    assert world.store.next_due_ms() is None
    if world.persistent:
        assert not world.store._writer.state.retry_lanes, "settling costs what it did before"


async def test_stats_count_what_there_is(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.publish(topic, "a", "b", "c")
    await world.settle(dead(group, sent[0]))
    stats = await world.store.stats()
    assert (stats.topics, stats.groups, stats.messages, stats.dead_letters) == (1, 1, 2, 1)
    assert stats.bytes == 2 * len(BODY) + 3 * ID_BYTES
    assert stats.commits == 4
    assert stats.rows_committed == 4
    assert stats.corrupt_rows == 0
    assert (stats.file_bytes > 0) is world.persistent
