"""Topics and groups as things one manages, over every store: configure, purge, seek, pause, delete."""

from __future__ import annotations

import pytest

from conformance.harness import START_MS, World, message
from pushwire_storage import changes
from pushwire_storage.base import (
    Append,
    Batch,
    Change,
    ConfigureGroup,
    ConfigureTopic,
    CreateGroup,
    CreateTopic,
    Dead,
    DeleteGroup,
    DeleteTopic,
    Done,
    Group,
    PurgeTopic,
    Retry,
    SeekGroup,
    Topic,
    TopicConfig,
)
from pushwire_storage.chores import PIECE_ROWS
from pushwire_storage.planning import ID_BYTES


async def again(world: World) -> tuple[Topic, Group]:
    """The same topic and group, after a restart where there can be one."""
    if world.persistent:
        await world.reopen()
    topic = world.store.topics[("t", "orders")]
    return topic, topic.groups["g"]


# -- topics


async def test_one_tenant_does_not_use_up_the_numbers_of_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 16 numbers an eighth is 2, and half of them may go to anybody.
    monkeypatch.setattr(changes, "TOPIC_ID_MAX", 16)

    async def made(tenant: str, name: str) -> str | None:
        change = CreateTopic(tenant, name)
        await world.change(change)
        assert (change.result is None) == (change.refused is not None)
        return None if change.refused is None else change.refused.code

    for number in range(1, 9):
        assert await made("t", f"n{number}") is None
        await world.change(DeleteTopic(world.store.topics[("t", f"n{number}")]))
    assert await made("t", "new") == "too_many_topics"
    assert await made("t", "n3") is None  # a name that it has had
    for tenant in ("u", "v", "w", "x"):
        assert await made(tenant, "first") is None
        assert await made(tenant, "second") is None
        assert await made(tenant, "third") == "too_many_topics"
    assert await made("y", "first") == "too_many_topics"  # none is left, whoever asks


# -- configuration


async def test_configuration_is_kept(world: World) -> None:
    config = TopicConfig(
        ack_timeout_ms=9, weights=(1, 1, 2, 3), strict=True, ledger="full", quota_messages=7, retain_bytes=5
    )
    change = CreateTopic("t", "orders", config)
    await world.change(change)
    assert change.result is not None
    assert change.result.config == config
    create = CreateGroup(change.result, "g", owner="s/c", inactive_ttl_ms=5)
    await world.change(create)
    assert create.result is not None
    await world.change(ConfigureGroup(create.result, paused=True))
    assert create.result.paused
    topic, group = await again(world)
    assert topic.config == config
    assert (group.paused, group.owner, group.inactive_ttl_ms) == (True, "s/c", 5)
    await world.change(ConfigureTopic(topic, TopicConfig()), ConfigureGroup(group, paused=False))
    topic, group = await again(world)
    assert (topic.config, group.paused) == (TopicConfig(), False)


async def test_a_topic_has_quotas_of_its_own(world: World) -> None:
    topic = await world.topic(quota_messages=2)
    await world.publish(topic, "a", "b")
    refused = Append(topic, [message("c")])
    await world.commit(refused)
    assert refused.refused is not None
    assert refused.refused.code == "topic_full"
    await world.change(ConfigureTopic(topic, TopicConfig(quota_messages=3, quota_bytes=3 * ID_BYTES)))
    await world.commit(refused)
    assert refused.refused.code == "topic_full", "the bytes of the bodies are too many"
    await world.change(ConfigureTopic(topic, TopicConfig(quota_messages=3)))
    await world.commit(refused)
    assert refused.refused is None


async def test_a_topic_without_dedupe_stores_twice(world: World) -> None:
    topic = await world.topic(dedupe=False)
    await world.publish(topic, "a")
    (again_,) = await world.publish(topic, "a")
    assert (again_.seq, again_.duplicate) == (2, False)
    assert topic.bytes == 2 * len(b'{"n":1}')


# -- starts


async def test_a_group_starts_where_it_is_told(world: World) -> None:
    topic = await world.topic()
    await world.group(topic, "keeper")
    for n in range(5):
        world.now_ms = START_MS + n
        await world.send(topic, message(str(n)))
        topic_messages = (await world.page(topic)).messages
        assert len(topic_messages) == n + 1
    starts: list[tuple[str | int, list[int]]] = [("earliest", [1, 2, 3, 4, 5]), ("new", []), (3, [3, 4, 5]), (99, [])]
    for start, seqs in starts:
        group = await world.group(topic, f"from-{start}", start)
        assert await world.want(group, 1, 9) == seqs
    for published_at_ms, seqs in [(START_MS, [1, 2, 3, 4, 5]), (START_MS + 1, [])]:
        group = await world.group(topic, f"at-{published_at_ms}", -published_at_ms)
        assert await world.want(group, 1, 9) == seqs


# -- seek


async def test_seeking_back_owes_what_is_kept_again(world: World) -> None:
    topic = await world.topic(retain_ms=100_000)
    group = await world.group(topic)
    sent = await world.publish(topic, *"abcd")
    await world.want(group, 1, 9)
    await world.settle(Done(group, sent[:3]), Retry(group, sent[3], START_MS + 50, 3, 2))
    world.store.forget(group)
    await world.change(SeekGroup(group, 2))
    assert group.start_seq == 1
    before = len(world.arrived)
    assert await world.want(group, 1, 9) == [2, 3, 4]
    assert {counts for _, _, _, counts in world.arrived[before:]} == {(0, 0)}, "counts and back-offs are forgotten"
    assert world.store.next_due_ms() is None


async def test_seeking_forward_lets_go_of_what_only_this_group_was_owed(world: World) -> None:
    topic = await world.topic()
    one, two = await world.group(topic, "one"), await world.group(topic, "two", "earliest")
    (a, b, c, _) = await world.publish(topic, *"abcd")
    await world.ack(two, a, c)
    await world.change(SeekGroup(one, 4))
    assert await world.kept(topic) == [2, 4]
    assert await world.want(one, 1, 9) == [4]
    await world.ack(two, b)
    assert await world.kept(topic) == [4]
    await world.change(SeekGroup(one, "new"), SeekGroup(two, "new"))
    assert (topic.messages, one.start_seq) == (0, 4)


async def test_what_was_settled_before_a_seek_in_its_batch_is_owed_again(world: World) -> None:
    topic = await world.topic(retain_ms=100_000)
    group = await world.group(topic)
    (a, b) = await world.publish(topic, "a", "b")
    await world.want(group, 1, 9)
    world.store.forget(group)
    await world.over(
        world.give(Batch(changes=[SeekGroup(group, "earliest")], settlements=[Done(group, [a]), Done(group, [b])]))
    )
    assert await world.want(group, 1, 9) == [1, 2]


# -- purge


async def test_a_purge_removes_messages_for_all_groups_and_keeps_the_dead(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    (a, *_) = await world.publish(topic, *"abcd")
    await world.send(topic, message("e", due_ms=START_MS + 50))
    await world.want(group, 1, 1)
    await world.settle(Dead(group, a, "rejected", None, 1, 0, START_MS))
    world.store.forget(group)
    part = PurgeTopic(topic, 3)
    await world.change(part)
    assert part.removed == 2
    assert (topic.messages, topic.dead_letters, topic.scheduled) == (2, 1, 1)
    assert topic.bytes == 2 * len(b'{"n":1}') + 5 * ID_BYTES
    page = await world.page(topic)
    assert ([each.seq for each in page.messages], page.gaps) == ([4, 5], [(1, 3)])
    assert await world.want(group, 1, 9) == [4]
    world.store.forget(group)
    rest = PurgeTopic(topic)
    await world.change(rest)
    assert rest.removed == 2
    assert (topic.messages, topic.scheduled, topic.bytes) == (0, 0, 5 * ID_BYTES)
    await world.tick(START_MS + 99)
    (new,) = await world.publish(topic, "new")
    assert new.seq == 6
    assert await world.want(group, 1, 9) == [6]


async def test_a_large_purge_is_done_piece_by_piece(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    count = 2 * PIECE_ROWS + 50
    await world.publish(topic, *map(str, range(count)))
    purge = PurgeTopic(topic, count - 1)
    await world.change(purge)
    assert purge.removed == count - 1
    assert topic.messages == 1
    assert await world.kept(topic) == [count], "what is still on the disk shows nowhere"
    assert world.store.next_tick_ms() is not None
    topic, group = await again(world)
    await world.tick(START_MS)
    assert world.store.next_tick_ms() is None
    assert await world.want(group, 1, 9) == [count]
    await world.change(PurgeTopic(topic))
    assert (topic.messages, await world.kept(topic)) == (0, [])


# -- delete


async def test_deleting_a_group_lets_go_of_what_only_it_was_owed(world: World) -> None:
    topic = await world.topic()
    one, two = await world.group(topic, "one"), await world.group(topic, "two", "earliest")
    (a, b, c) = await world.publish(topic, "a", "b", "c")
    await world.ack(one, a)
    await world.settle(Retry(two, b, START_MS + 9, 1, 1))
    await world.change(DeleteGroup(two))
    assert topic.groups == {"one": one}
    assert await world.kept(topic) == [2, 3]
    await world.settle(Done(two, [b, c]))
    assert await world.kept(topic) == [2, 3], "nobody any more"
    fresh = await world.group(topic, "two", "earliest")
    assert fresh is not two
    assert await world.want(fresh, 1, 9) == [2, 3]
    await world.ack(one, b, c)
    await world.change(DeleteGroup(fresh))
    assert topic.messages == 0


async def test_a_deleted_topic_is_gone_and_its_name_goes_on(world: World) -> None:
    topic = await world.topic(retain_ms=9)
    group = await world.group(topic)
    (a, *_) = await world.publish(topic, "a", "b", "c")
    await world.settle(Dead(group, a, "rejected", None, 1, 0, START_MS))
    await world.send(topic, message("d", due_ms=START_MS + 50, expires_ms=START_MS + 60))
    await world.change(DeleteTopic(topic))
    assert world.store.topics == {}
    late = Append(topic, [message("late")])
    await world.commit(late, settle=[Done(group, [a])])
    assert late.refused is not None
    assert late.refused.code == "topic_not_found"
    if world.persistent:
        await world.reopen()
    assert world.store.topics == {}
    again_ = await world.topic()
    assert again_ is not topic
    assert (again_.last_seq, again_.messages, again_.dead_letters) == (4, 0, 0)
    assert (again_.groups, again_.config) == ({}, TopicConfig())
    assert list(await world.letters(again_)) == []
    (new,) = await world.publish(again_, "new")
    assert new.seq == 5
    await world.tick(START_MS + 100)
    page = await world.page(again_)
    assert ([each.seq for each in page.messages], page.gaps) == ([5], [(1, 4)])
    assert await world.want(await world.group(again_), 1, 9) == [5]


async def test_a_name_comes_back_while_its_old_messages_are_still_being_removed(world: World) -> None:
    topic = await world.topic()
    await world.publish(topic, *map(str, range(2 * PIECE_ROWS + 9)))
    batch = Batch(changes=[DeleteTopic(topic), CreateTopic("t", "orders")])
    await world.over(world.give(batch))
    topic = world.store.topics[("t", "orders")]
    group = await world.group(topic)
    (new,) = await world.publish(topic, "new")
    await world.tick(START_MS)
    assert world.store.next_tick_ms() is None
    assert await world.kept(topic) == [new.seq]
    assert await world.want(group, 1, 9) == [new.seq]


async def test_changes_of_what_is_gone_change_nothing(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    other = await world.topic("other")
    gone: list[Change] = [DeleteGroup(group), DeleteTopic(topic)]
    await world.change(*gone)
    create, purge = CreateGroup(topic, "x"), PurgeTopic(topic)
    await world.change(
        *gone, SeekGroup(group, 1), ConfigureGroup(group, paused=True), ConfigureTopic(topic, TopicConfig(strict=True)),
        create, purge,
    )  # fmt: skip
    assert (create.result, purge.removed, list(world.store.topics)) == (None, 0, [("t", "other")])
    assert other.messages == 0
