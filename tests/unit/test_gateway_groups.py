"""Groups over a connection: where they begin, whose they are, when they end; and what ends a subscription."""

from __future__ import annotations

import asyncio

from pushwire.wire.frames import (
    Ack,
    Auth,
    Draft,
    Error,
    Flow,
    Messages,
    Ok,
    Publish,
    Start,
    Subscribe,
    SubscribeTail,
    Unsubscribe,
)
from pushwire_storage.base import StoreBusy, TopicConfig
from support.asgi_client import turns
from support.gateway_parts import Client, Parts, cap


async def publish(parts: Parts, *bodies: bytes, topic: str = "t") -> None:
    bob = await parts.client("publisher")
    await bob.ok(Publish(topic, [Draft("", body) for body in bodies], 1))
    bob.lose()


async def seqs(client: Client, count: int) -> list[int]:
    return sorted(delivery.message.seq for delivery in await client.delivered(count))


async def test_a_group_begins_where_it_is_told() -> None:
    parts = await Parts().start()
    await publish(parts, b"1", b"2")
    parts.step(10)
    noon_ms = int(parts.clock.now() * 1000)
    await publish(parts, b"3")
    starts: list[tuple[Start, list[int]]] = [("earliest", [1, 2, 3]), (2, [2, 3]), (-noon_ms, [3])]
    for number, (start, expected) in enumerate(starts):
        ann = await parts.client()
        await ann.ok(Subscribe("t", f"g{number}", start=start, ref=1))
        assert await seqs(ann, len(expected)) == expected
    ann = await parts.client()
    await ann.ok(Subscribe("t", "late", start="new", ref=1))
    await parts.settled()
    assert not ann.seen


async def test_a_private_group_is_there_for_its_owner_only() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    await ann.ok(Subscribe("t", "phone", client_id="c1", ref=1))
    group = parts.store.topics["acme", "t"].groups["phone"]
    assert group.owner == "ann/c1"
    same = await parts.client()
    await same.ok(Subscribe("t", "phone", client_id="c1", ref=1))
    for subject, client_id in (("ann", "c2"), ("ann", None), ("eve", "c1"), ("eve", None)):
        eve = await parts.client(subject)
        error = await eve.error(Subscribe("t", "phone", client_id=client_id, ref=1))
        assert error.code == "group_not_found"
        assert error.message == "there is no such group"


async def test_a_group_that_is_not_private_cannot_be_had_as_a_private_one() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    await ann.ok(Subscribe("t", "shared", ref=1))
    assert (await ann.error(Subscribe("t", "shared", client_id="c", ref=2))).code == "conflict"


async def test_two_who_make_the_same_private_group_at_once_do_not_share_it() -> None:
    parts = await Parts().start()
    ann, eve = await parts.client(), await parts.client("eve")
    await publish(parts, b"1")
    ann.say(Subscribe("t", "phone", client_id="c", ref=1))
    eve.say(Subscribe("t", "phone", client_id="c", ref=1))
    await ann.next(Ok)
    assert (await eve.next(Error)).code == "group_not_found"
    assert await seqs(ann, 1) == [1]


async def test_a_group_without_members_is_deleted_after_its_time() -> None:
    parts = await Parts(pong_timeout_s=300).start()
    await publish(parts, b"1")
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", "s", prefetch=0, inactive_ttl_ms=60_000, ref=1))
    groups = parts.store.topics["acme", "t"].groups
    parts.step(200)
    assert "g" in groups  # it has a member
    await ann.ok(Unsubscribe("s", 2))
    parts.step(59)
    await parts.settled()
    assert "g" in groups
    await ann.ok(Subscribe("t", "g", "s", prefetch=0, ref=3))  # back in time
    parts.step(61)  # what would have been its end
    assert "g" in groups
    ann.seen.clear()
    await ann.ok(Unsubscribe("s", 4))
    parts.step(62)
    await parts.settled()
    assert "g" not in groups


async def test_a_session_that_ends_leaves_its_groups_too() -> None:
    parts = await Parts().start()
    await publish(parts, b"1")
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", inactive_ttl_ms=5000, ref=1))
    ann.lose()
    parts.step(7)
    await parts.settled()
    assert "g" not in parts.store.topics["acme", "t"].groups


async def test_the_ack_timeout_is_that_of_the_topic_unless_asked_and_capped() -> None:
    parts = await Parts(ack_timeout_s_max=100).start()
    await publish(parts, b"1")
    topic = parts.store.topics["acme", "t"]
    parts.gateway.topics.configure(topic, TopicConfig(ack_timeout_ms=12_345), lambda _error: None)
    await parts.settled()
    ann = await parts.client()
    assert (await ann.ok(Subscribe("t", "a", prefetch=0, ref=1))).ack_timeout_ms == 12_345
    assert (await ann.ok(Subscribe("u", "a", ref=2))).ack_timeout_ms == 30_000
    assert (await ann.ok(Subscribe("t", "b", ack_timeout_ms=200, prefetch=0, ref=3))).ack_timeout_ms == 200
    assert (await ann.ok(Subscribe("t", "c", ack_timeout_ms=200_000, prefetch=0, ref=4))).ack_timeout_ms == 100_000


async def test_a_paused_group_may_be_joined_and_waits() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    await parts.admin.create_topic(root, "t")
    await parts.admin.create_group(root, "t", "g")
    await parts.admin.pause_group(root, "t", "g", paused=True)
    await publish(parts, b"1")
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", ref=1))
    await parts.settled()
    assert not ann.seen
    await parts.admin.pause_group(root, "t", "g", paused=False)
    assert await seqs(ann, 1) == [1]


async def test_a_consumer_that_lets_every_lease_run_out_is_unsubscribed_and_another_gets_the_messages() -> None:
    parts = await Parts(unhealthy_timeouts=3, ack_timeout_s=10, backoff_cap_s=0.01).start()
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", "s", prefetch=1, ref=1))
    await publish(parts, b"1")
    for _ in range(3):
        await ann.delivered(1)
        await parts.elapse(10.1)
    trouble = await ann.next(Error)
    assert (trouble.code, trouble.sub, trouble.ref, trouble.retryable) == ("consumer_unhealthy", "s", None, False)
    eve = await parts.client("eve")
    await eve.ok(Subscribe("t", "g", ref=1))
    assert [delivery.deliveries for delivery in await eve.delivered(1)] == [4]
    assert not ann.seen
    assert ann.closed is None


async def test_one_settlement_starts_the_count_anew() -> None:
    parts = await Parts(unhealthy_timeouts=2, ack_timeout_s=10, backoff_cap_s=0.01).start()
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", "s", prefetch=1, ref=1))
    await publish(parts, b"1", b"2")
    for _ in range(4):
        [delivery] = await ann.delivered(1)
        await parts.elapse(10.1)
        [delivery] = await ann.delivered(1)
        ann.say(Ack([delivery.lease]))
        await publish(parts, b"3")
    assert not [frame for frame in ann.seen if isinstance(frame, Error)]


async def test_deleting_a_group_or_its_topic_ends_subscriptions_and_tails() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    await publish(parts, b"1", b"2")
    ann, eve = await parts.client(), await parts.client("eve")
    await ann.ok(Subscribe("t", "g", "one", ref=1))
    leases = [delivery.lease for delivery in await ann.delivered(2)]
    await eve.ok(Subscribe("t", "h", "two", start="new", ref=1))
    await eve.ok(SubscribeTail("t", "tail", ref=2))
    await parts.admin.delete_group(root, "t", "g")
    trouble = await ann.next(Error)
    assert (trouble.code, trouble.sub, trouble.ref) == ("group_not_found", "one", None)
    assert (await ann.error(Ack(leases, ref=2))).code == "stale_lease"
    await parts.admin.delete_topic(root, "t")
    troubles = {(frame.sub, frame.code) for frame in (await eve.next(Error), await eve.next(Error))}
    assert troubles == {("two", "group_not_found"), ("tail", "topic_not_found")}
    assert (await ann.error(Flow("one", 3, 3))).code == "unknown_subscription"
    await publish(parts, b"3")
    assert parts.store.topics["acme", "t"].last_seq == 3  # a new topic of that name goes on with its seqs


async def test_who_subscribes_while_the_group_is_being_deleted_gets_a_new_one() -> None:
    parts = await Parts().start()
    await publish(parts, b"1")
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", "one", ref=1))
    await ann.delivered(1)
    topic = parts.store.topics["acme", "t"]
    old = topic.groups["g"]
    parts.store.hold()
    parts.gateway.topics.delete_group(old, lambda _subs: None, lambda _error: None)
    ann.say(Subscribe("t", "g", "again", ref=2))
    parts.store.release()
    await parts.settled()
    assert (await ann.next(Ok)).sub == "again"
    assert topic.groups["g"] is not old
    await publish(parts, b"2")
    assert await seqs(ann, 1) == [2]  # what only the deleted one was owed went with it


async def test_a_purge_and_a_configuration_reach_a_group_that_is_made_just_before_them() -> None:
    parts = await Parts().start()
    await publish(parts, b"1", b"2")
    ann = await parts.client()
    topic = parts.store.topics["acme", "t"]
    parts.store.hold()
    ann.say(Subscribe("t", "g", "s", ref=1))  # in the batch before the changes
    purge = asyncio.create_task(parts.admin.purge_topic(parts.principal("root"), "t"))
    await turns(1)
    change = TopicConfig(strict=True)
    parts.gateway.topics.configure(topic, change, lambda _error: None)
    parts.store.release()
    await ann.next(Ok)
    assert (await purge)["removed"] == 2
    await parts.settled()
    active = parts.engine.core.group(topic.groups["g"])
    assert active is not None
    assert active.policy.strict
    assert not ann.seen
    await publish(parts, b"3")
    assert await seqs(ann, 1) == [3]


async def test_limits_of_topics_and_groups_count_those_that_are_being_made() -> None:
    parts = await Parts(topics_per_tenant=2, groups_per_topic=2).start()
    ann = await parts.client()
    ann.say(*(Subscribe(f"t{number}", ref=number) for number in range(3)))
    await parts.settled()
    codes = sorted(frame.code for frame in ann.seen if isinstance(frame, Error))
    assert codes == ["too_many_topics"]
    ann.seen.clear()
    ann.say(*(Subscribe("t0", f"g{number}", ref=number) for number in range(3)))
    await parts.settled()
    assert sorted(frame.code for frame in ann.seen if isinstance(frame, Error)) == ["too_many_groups"] * 2


async def test_names_made_by_the_gateway_never_collide() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    first = (await ann.ok(Subscribe("t", "a", ref=1))).sub
    second = (await ann.ok(Subscribe("t", "b", ref=2))).sub
    await ann.ok(Unsubscribe(first or "", 3))
    third = (await ann.ok(Subscribe("t", "c", ref=4))).sub
    taken = (await ann.ok(Subscribe("t", "d", "s3", ref=5))).sub
    fourth = (await ann.ok(Subscribe("t", "e", ref=6))).sub
    assert len({second, third, taken, fourth}) == 4


async def test_a_right_that_a_refresh_took_away_while_the_group_was_made_is_refused() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    parts.store.hold()
    ann.say(Subscribe("t", "g", "s", ref=1))
    ann.say(Auth(parts.token("ann", cap("publish")), 2))
    assert (await ann.next(Ok)).ref == 2
    parts.store.release()
    await parts.settled()
    assert (await ann.next(Error)).code == "forbidden"
    assert not [frame for frame in ann.seen if isinstance(frame, Messages)]


async def test_what_is_being_created_counts_against_the_limits_until_it_is_there_or_refused() -> None:
    parts = await Parts(topics_per_tenant=3, groups_per_topic=2).start()
    topics = parts.gateway.topics
    ann = await parts.client()
    await publish(parts, b"1")
    parts.store.hold()
    ann.say(*(Publish(f"t{number}", [Draft("", b"1")], number) for number in (1, 2, 3)))
    ann.say(*(Subscribe("t", f"g{number}", prefetch=0, ref=10 + number) for number in (1, 2, 3)))
    refused = [await ann.next(Error), await ann.next(Error)]
    assert [(error.code, error.ref) for error in refused] == [("too_many_topics", 3), ("too_many_groups", 13)]
    assert topics.count("acme") == 3
    parts.store.release()
    await parts.settled()
    assert topics.count("acme") == 3
    assert set(parts.store.topics["acme", "t"].groups) == {"g1", "g2"}
    assert (topics._topics_coming_of, topics._groups_coming_of) == ({}, {})


async def test_what_could_not_be_created_does_not_count() -> None:
    parts = await Parts(topics_per_tenant=1).start()
    ann = await parts.client()
    parts.store.failing = StoreBusy("somebody writes")
    assert (await ann.error(Publish("t", [Draft("", b"1")], 1))).code == "busy"
    assert parts.gateway.topics.count("acme") == 0
    assert parts.gateway.topics._topics_coming_of == {}
    parts.step(1)  # the batcher rests after a failure
    await ann.ok(Publish("other", [Draft("", b"1")], 2))
