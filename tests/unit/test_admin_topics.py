"""The admin API's topics and groups: what it shows, what it changes, and whom it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from pushwire.wire.frames import Ack, Draft, Error, Publish, Subscribe, SubscribeTail
from pushwire_gateway import topic_config
from pushwire_gateway.refusal import Refused
from pushwire_storage.base import StoreFull, TopicConfig
from support.gateway_parts import Client, Parts, cap


async def refusal(awaitable: Any) -> str:
    with pytest.raises(Refused) as refused:
        await awaitable
    return refused.value.refusal.code


async def publish(parts: Parts, topic: str, count: int) -> Client:
    bob = await parts.client("bob")
    await bob.ok(Publish(topic, [Draft("", b'{"n":1}') for _ in range(count)], 1))
    return bob


async def test_a_topic_is_made_shown_configured_and_deleted() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    made = await parts.admin.create_topic(root, "orders", {"ack_timeout_ms": 5000, "ledger": "settled"})
    assert (made["name"], made["messages"], made["config"]["ack_timeout_ms"]) == ("orders", 0, 5000)
    await publish(parts, "orders", 3)
    shown = await parts.admin.topic(root, "orders")
    assert (shown["last_seq"], shown["messages"], shown["groups"]) == (3, 3, [])
    changed = await parts.admin.configure_topic(root, "orders", {"max_failures": 2})
    assert (changed["config"]["max_failures"], changed["config"]["ack_timeout_ms"]) == (2, 5000)
    replaced = await parts.admin.configure_topic(root, "orders", {"strict": True}, replace=True)
    assert replaced["config"] == topic_config.shown(TopicConfig(strict=True))
    await parts.admin.delete_topic(root, "orders")
    assert await refusal(parts.admin.topic(root, "orders")) == "topic_not_found"


async def test_a_tail_ends_when_its_topic_is_gone_for_certain_and_not_before() -> None:
    parts = await Parts().start()
    root, bob = parts.principal("root"), await publish(parts, "t", 1)
    await bob.ok(SubscribeTail("t", sub="s", ref=2))
    parts.store.failing = StoreFull("no room")
    assert await refusal(parts.admin.delete_topic(root, "t")) == "insufficient_storage"
    await parts.elapse(1)
    await bob.ok(Publish("t", [Draft("", b'{"n":2}')], 3))
    assert await bob.shown() == [2]
    await parts.admin.delete_topic(root, "t")
    ended = await bob.next(Error)
    assert (ended.code, ended.sub) == ("topic_not_found", "s")


async def test_what_is_there_is_not_made_again() -> None:
    parts = await Parts(topics_per_tenant=2, groups_per_topic=1).start()
    root = parts.principal("root")
    await parts.admin.create_topic(root, "t")
    assert await refusal(parts.admin.create_topic(root, "t")) == "conflict"
    await parts.admin.create_group(root, "t", "g", "earliest")
    assert await refusal(parts.admin.create_group(root, "t", "g")) == "conflict"
    assert await refusal(parts.admin.create_group(root, "t", "h")) == "too_many_groups"
    await parts.admin.create_topic(root, "u")
    assert await refusal(parts.admin.create_topic(root, "v")) == "too_many_topics"


async def test_two_who_make_one_topic_with_different_configurations_are_told_apart() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    parts.store.hold()
    bob = await parts.client("bob")
    bob.say(Publish("t", [Draft("", b"1")], 1))
    making = parts.admin.create_topic(root, "t", {"strict": True})
    parts.gateway.spawn(_release(parts))
    assert await refusal(making) == "conflict"


async def _release(parts: Parts) -> None:
    parts.store.release()


async def test_rights_are_checked_before_anything_is_told() -> None:
    parts = await Parts().start()
    await publish(parts, "t", 1)
    eve = parts.principal("eve", cap("publish", "consume", "create", "replay"), jti="eve")
    mine = parts.principal("mine", cap("admin", topics="t"), jti="mine")
    foreign = parts.principal("root", jti="foreign", tenant="other")
    admin = parts.admin
    for topic in ("t", "nothing"):
        for call in (admin.topic, admin.groups, admin.peek, admin.delete_topic, admin.purge_topic):
            assert await refusal(call(eve, topic)) == "forbidden"
    assert await refusal(admin.create_topic(eve, "made", {"strict": True})) == "forbidden"
    await admin.create_topic(eve, "made")
    assert await refusal(admin.create_topic(mine, "t2")) == "forbidden"
    assert await refusal(admin.create_group(mine, "t", "g")) == "forbidden"
    assert (await admin.topics(eve))["topics"] == []
    assert [topic["name"] for topic in (await admin.topics(mine))["topics"]] == ["t"]
    assert await refusal(admin.stats(mine)) == "forbidden"
    assert (await admin.topics(foreign))["topics"] == []
    assert await refusal(admin.topic(foreign, "t")) == "topic_not_found"
    root = parts.principal("root", jti="root")
    assert await refusal(admin.topic(root, "a b")) == "bad_topic"
    assert await refusal(admin.create_topic(root, "$sys.x")) == "bad_topic"
    assert await refusal(admin.create_group(root, "t", "a b")) == "bad_group"
    assert await refusal(admin.group(root, "t", "g")) == "group_not_found"


async def test_topics_come_in_pages() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    for name in ("b", "c", "a"):
        await parts.admin.create_topic(root, name)
    first = await parts.admin.topics(root, limit=2)
    assert ([topic["name"] for topic in first["topics"]], first["more"]) == (["a", "b"], True)
    rest = await parts.admin.topics(root, after="b")
    assert ([topic["name"] for topic in rest["topics"]], rest["more"]) == (["c"], False)
    assert await refusal(parts.admin.topics(root, limit=0)) == "bad_request"
    assert await refusal(parts.admin.topics(root, limit=1001)) == "bad_request"


async def test_a_group_is_shown_with_its_members_and_what_they_hold() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    await publish(parts, "t", 3)
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", "mine", prefetch=2, ref=1))
    await ann.delivered(2)
    shown = await parts.admin.group(root, "t", "g")
    assert (shown["member_count"], shown["in_flight"], shown["paused"]) == (1, 2, False)
    [member] = shown["members"]
    assert member == {
        "sub": "mine",
        "subject": "ann",
        "connection": ann.session.id,
        "prefetch": 2,
        "in_flight": 2,
        "ack_timeout_ms": 30_000,
        "timeouts_in_a_row": 0,
        "away": False,
    }
    assert ann.welcome.session not in str(shown)


async def test_seek_delivers_again_and_makes_leases_stale() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    await parts.admin.create_topic(root, "t", {"retain_ms": 3_600_000})
    await publish(parts, "t", 3)
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", ref=1))
    first = [delivery.lease for delivery in await ann.delivered(3)]
    await ann.ok(Ack(first[:2], ref=2))
    await parts.admin.seek_group(root, "t", "g", 2)
    again = await ann.delivered(2)
    assert [delivery.message.seq for delivery in again] == [2, 3]
    assert (await ann.error(Ack(first[2:], ref=3))).code == "stale_lease"
    await parts.admin.seek_group(root, "t", "g", "new")
    assert (await ann.error(Ack([again[0].lease], ref=4))).code == "stale_lease"


async def test_purge_removes_up_to_a_seq() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    await publish(parts, "t", 5)
    assert (await parts.admin.purge_topic(root, "t", 3))["removed"] == 3
    peeked = await parts.admin.peek(root, "t")
    assert [message["seq"] for message in peeked["messages"]] == [4, 5]
    assert peeked["gaps"] == [{"from": 1, "to": 3}]
    assert (await parts.admin.purge_topic(root, "t"))["removed"] == 2


async def test_peek_shows_messages_and_leases_none() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    bob = await publish(parts, "t", 1)
    await bob.ok(
        Publish(
            "t",
            [
                Draft("b", "täxt".encode(), 0, 1, 3, "k", b'{"h":"v"}', "text/plain", -60_000, -1000),
                Draft("c", b"\0\1", 0, 2),
            ],
            2,
        )
    )
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", prefetch=0, ref=1))
    first, second, third = (await parts.admin.peek(root, "t", 0, 10))["messages"]
    assert first["data"] == {"n": 1}
    assert (second["data_text"], second["key"], second["headers"], second["priority"]) == ("täxt", "k", {"h": "v"}, 3)
    assert second["due_ms"] == second["published_at_ms"] + 60_000 == second["expires_ms"] - 1000
    assert third["data_b64"] == "AAE="
    assert (await parts.admin.peek(root, "t", 2, 1))["through"] == 3
    assert await refusal(parts.admin.peek(root, "t", 0, 101)) == "bad_request"
    group = await parts.admin.group(root, "t", "g")
    assert group["in_flight"] == 0


async def test_history_tells_how_a_delivery_ended_also_to_who_may_replay() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    await parts.admin.create_topic(root, "t", {"ledger": "full"})
    await publish(parts, "t", 1)
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", ref=1))
    [delivery] = await ann.delivered(1)
    await ann.ok(Ack([delivery.lease], ref=2))
    for reader in (root, parts.principal("reader", cap("replay"), jti="reader")):
        history = await parts.admin.history(reader, "t", 1)
        assert history["ledger"] == "full"
        assert [(event["event"], event["group"], event["subject"]) for event in history["events"]] == [
            ("delivered", "g", "ann"),
            ("acked", "g", "ann"),
        ]
    assert await refusal(parts.admin.history(parts.principal("eve", cap("consume"), jti="e"), "t", 1)) == "forbidden"


@pytest.mark.parametrize(
    "config",
    [
        {"nonsense": 1},
        {"ack_timeout_ms": 99},
        {"ack_timeout_ms": True},
        {"max_failures": 0},
        {"weights": [1, 2, 4]},
        {"weights": [1, 2, 4, 0]},
        {"weights": "1248"},
        {"strict": 1},
        {"strict": None},
        {"retain_ms": -1},
        {"retain_ms": None},
        {"retain_ms": 10, "max_age_ms": 5},
        {"quota_bytes": 1},
        {"expired": "lost"},
        {"ledger": None},
    ],
    ids=str,
)
async def test_a_configuration_that_cannot_be_is_refused_by_name(config: dict[str, Any]) -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    with pytest.raises(Refused) as refused:
        await parts.admin.create_topic(root, "t", config)
    assert refused.value.refusal.code == "bad_config"
    assert next(iter(config)) in refused.value.refusal.detail
    assert parts.gateway.topics.find("acme", "t") is None


def test_what_is_shown_of_a_configuration_is_what_may_be_set() -> None:
    full = TopicConfig(1000, 1, 2, (4, 3, 2, 1), True, 5, 6, 9, 7, 1 << 20, "drop", "full", False)
    assert topic_config.changed(TopicConfig(), topic_config.shown(full)) == full
    assert topic_config.changed(full, {"ack_timeout_ms": None, "quota_bytes": None}).ack_timeout_ms is None
