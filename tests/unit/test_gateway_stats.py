"""`$sys.stats`: who sees which numbers, how often, and what a client that does not read gets of them."""

from __future__ import annotations

import json
from typing import Any

from pushwire.wire.frames import (
    Ack,
    Auth,
    Draft,
    Error,
    Extend,
    Nack,
    Ok,
    Publish,
    Subscribe,
    SubscribeTail,
    Tailed,
    Unsubscribe,
)
from pushwire_gateway import sysstats
from support.gateway_parts import Client, Parts, cap


async def numbers_of(client: Client) -> dict[str, Any]:
    frame = await client.next(Tailed)
    assert frame.batch.topic == "$sys.stats"
    [message] = frame.batch.messages
    value: dict[str, Any] = json.loads(message.data)
    return value


async def test_the_numbers_come_once_a_second_and_rise_in_seq() -> None:
    parts = await Parts().start()
    ann, bob = await parts.client(), await parts.client("bob")
    ok = await ann.ok(SubscribeTail("$sys.stats", "s", ref=1))
    assert (ok.sub, ok.epoch) == ("s", "e1")
    await bob.ok(Publish("t", [Draft("", b"1") for _ in range(3)], 1))
    await bob.ok(Subscribe("t", "g", prefetch=2, ref=2))
    await bob.delivered(2)
    parts.step(1)
    first = await ann.next(Tailed)
    parts.step(1)
    second = await ann.next(Tailed)
    assert second.batch.messages[0].seq == first.batch.messages[0].seq + 1
    seen = json.loads(second.batch.messages[0].data)
    assert seen == await parts.admin.stats(parts.principal("root"))
    expected = {
        "topics": 1,
        "groups": 1,
        "messages": 3,
        "connections": 2,
        "subscriptions": 1,
        "tails": 1,
        "in_flight": 2,
        "ready": 1,
    }
    assert {name: seen[name] for name in expected} == expected
    assert (seen["published"], seen["delivered"], seen["acked"]) == (3, 2, 0)
    assert seen["by_topic"]["t"]["last_seq"] == 3


async def test_a_lease_that_one_operation_names_twice_is_settled_once_and_counted_once() -> None:
    parts = await Parts().start()
    bob = await parts.client("bob")
    await bob.ok(Subscribe("t", "g", ref=1))
    await bob.ok(Publish("t", [Draft("", b"1") for _ in range(3)], 2))
    one, two, three = [delivery.lease for delivery in await bob.delivered(3)]
    assert (await bob.ok(Extend([three, three], 3))).expires_in_ms == 30_000
    assert (await bob.ok(Ack([one, two, one], None, 4))).ref == 4
    assert (await bob.ok(Nack([three, three], None, None, 5))).ref == 5
    twice = await bob.error(Ack([one, "n1.none", one], None, 6))
    assert (twice.code, twice.leases) == ("stale_lease", [one, "n1.none"])
    seen = await parts.admin.stats(parts.principal("root"))
    assert [seen[name] for name in ("extended", "acked", "nacked", "stale")] == [1, 2, 1, 2]


async def test_pushes_are_counted_by_how_long_their_newest_message_took() -> None:
    parts = await Parts().start()
    bob = await parts.client("bob")
    await bob.ok(Subscribe("t", "g", prefetch=1, ref=1))
    await bob.ok(Publish("t", [Draft("", b"1"), Draft("", b"2")], 2))
    [first] = await bob.delivered(1)
    parts.step(0.05)
    bob.say(Ack([first.lease]))
    [second] = await bob.delivered(1)
    bob.say(Nack([second.lease], delay_ms=0, ref=3))
    assert (await bob.next(Ok)).ref == 3
    parts.step(0.01)
    await bob.delivered(1)
    seen = await parts.admin.stats(parts.principal("root"))
    assert (seen["delivered"], seen["redelivered"]) == (3, 1)
    by_bound = dict(map(tuple, seen["push_ms"]))
    assert (by_bound[1], by_bound[35], by_bound[60], by_bound[None]) == (1, 1, 2, 2)  # the redelivery says nothing


async def test_it_needs_admin_on_the_whole_tenant() -> None:
    parts = await Parts().start()
    for rights in (cap("replay"), cap("admin", topics="t"), cap("admin", topics="x*")):
        ann = await parts.client("ann", rights)
        assert (await ann.error(SubscribeTail("$sys.stats", ref=1))).code == "forbidden"
    root = await parts.client("root", cap("admin"))
    await root.ok(SubscribeTail("$sys.stats", "s", ref=1))
    root.say(Auth(parts.token("root", cap("replay")), 2))
    assert (await root.next(Ok)).expires_in_ms
    trouble = await root.next(Error)
    assert (trouble.code, trouble.sub) == ("forbidden", "s")
    parts.step(2)
    assert not root.seen


async def test_a_tenant_sees_nothing_of_another() -> None:
    parts = await Parts().start()
    ann, eve = await parts.client(), await parts.client("eve", tenant="other")
    await eve.ok(Publish("secret", [Draft("", b"1")], 1))
    await eve.ok(Subscribe("secret", ref=2))
    await eve.delivered(1)
    await ann.ok(SubscribeTail("$sys.stats", ref=1))
    parts.step(1)
    seen = await numbers_of(ann)
    counted = {name: value for name, value in seen.items() if name not in {"at_ms", "by_topic"} and value}
    assert not any(count for _bound, count in counted.pop("push_ms"))
    assert counted == {"connections": 1, "sessions": 1, "tails": 1}
    assert seen["by_topic"] == {}


async def test_a_client_that_does_not_read_gets_the_newest_numbers_later_not_all_of_them() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    await ann.ok(SubscribeTail("$sys.stats", ref=1))
    ann.stop_reading()
    for _ in range(50):
        parts.step(1)
    ann.read_again()
    parts.step(1)
    assert len(ann.seen) == 1


async def test_unsubscribe_stops_it_and_nothing_is_counted_for_nobody(monkeypatch: Any) -> None:
    parts = await Parts().start()
    ann = await parts.client()
    await ann.ok(SubscribeTail("$sys.stats", "a", ref=1))
    await ann.ok(SubscribeTail("$sys.stats", "b", ref=2))
    parts.step(1)
    assert {(await ann.next(Tailed)).sub, (await ann.next(Tailed)).sub} == {"a", "b"}
    await ann.ok(Unsubscribe("a", 3))
    parts.step(1)
    assert (await ann.next(Tailed)).sub == "b"
    ann.lose()
    asked: list[str] = []

    def numbers_of(tenant: str) -> dict[str, Any]:
        asked.append(tenant)
        return {}

    parts.gateway.stats._numbers_of = numbers_of
    parts.step(2)
    assert not asked


async def test_only_the_topics_that_keep_most_are_listed(monkeypatch: Any) -> None:
    monkeypatch.setattr(sysstats, "TOPICS_SHOWN_MAX", 2)
    parts = await Parts().start()
    ann = await parts.client()
    for number in range(4):
        await ann.ok(Publish(f"t{number}", [Draft("", b"1") for _ in range(number + 1)], number))
    seen = await parts.admin.stats(parts.principal("root"))
    assert list(seen["by_topic"]) == ["t3", "t2"]
    assert seen["messages"] == 10
