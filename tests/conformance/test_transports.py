"""The delivery contract as one table over every transport and every store (docs/guarantees.md, guarantee 11).

A scenario speaks the verbs of `support.transports.Consumer` and knows neither how they travel nor where messages lie.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import pushwire
from support.transports import GROUP, TOPIC, TRANSPORTS, Consumer
from support.whole_gateway import WholeGateway, whole_gateway

ACK_TIMEOUT_S = 20.0
MARGIN_S = 3.0
"""More than the largest first back-off (1 s)."""


class Scene:
    """One gateway, one producer, and consumers of one transport."""

    def __init__(self, gateway: WholeGateway, transport: Callable[[WholeGateway, str], Consumer]) -> None:
        self.gateway = gateway
        self._transport = transport
        self._consumers: list[Consumer] = []
        self._producer = pushwire.Client(gateway.url, token=gateway.token("producer"))
        self.admin = pushwire.Admin(gateway.url, gateway.token("admin"))

    async def consumer(self, window: int = 10) -> Consumer:
        consumer = self._transport(self.gateway, f"consumer-{len(self._consumers)}")
        self._consumers.append(consumer)
        await consumer.begin(window, ACK_TIMEOUT_S)
        return consumer

    async def publish(self, *data: Any, **fields: Any) -> None:
        for one in data:
            await self._producer.publish(TOPIC, one, **fields)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Scene]:
        async with self._producer, self.admin:
            try:
                yield self
            finally:
                for consumer in self._consumers:
                    await consumer.close()


Scenario = Callable[[Scene], Awaitable[None]]


async def push(scene: Scene) -> None:
    """Every message comes once, in order, with its body, as attempt 1."""
    consumer = await scene.consumer()
    await scene.publish(1, {"a": [1, "ä"]}, None)
    got = await consumer.take(3)
    assert [(one.data, one.attempt, one.redelivered) for one in got] == [
        (1, 1, False),
        ({"a": [1, "ä"]}, 1, False),
        (None, 1, False),
    ]
    await consumer.nothing()


async def backlog(scene: Scene) -> None:
    """What was there before the consumer came is delivered first."""
    await scene.publish(1, 2)
    consumer = await scene.consumer()
    await scene.publish(3)
    assert [one.data for one in await consumer.take(3)] == [1, 2, 3]


async def acked_is_gone(scene: Scene) -> None:
    first = await scene.consumer()
    await scene.publish(1, 2)
    one, two = await first.take(2)
    assert await first.ack(one, two)
    await first.lose()
    second = await scene.consumer()
    await scene.gateway.step(ACK_TIMEOUT_S + MARGIN_S)
    await second.nothing()


async def nack_comes_again(scene: Scene) -> None:
    """After its delay and not before, as attempt 2; others are not held up."""
    consumer = await scene.consumer()
    await scene.publish("fails")
    (failed,) = await consumer.take(1)
    await consumer.nack(failed, 5)
    await scene.publish("next")
    (other,) = await consumer.take(1)
    assert other.data == "next"
    assert await consumer.ack(other)
    await scene.gateway.step(4)
    await consumer.nothing()
    await scene.gateway.step(2)
    (again,) = await consumer.take(1)
    assert (again.data, again.attempt, again.redelivered) == ("fails", 2, True)


async def expiry_goes_to_another(scene: Scene) -> None:
    """Who does not settle in time loses the lease; the late ack is stale and changes nothing."""
    silent = await scene.consumer(window=1)
    await scene.publish("slow")
    (late,) = await silent.take(1)
    await scene.gateway.step(ACK_TIMEOUT_S / 2)
    other = await scene.consumer()
    await scene.gateway.step(ACK_TIMEOUT_S / 2)
    await silent.close()
    await scene.gateway.step(MARGIN_S)
    (again,) = await other.take(1)
    assert (again.data, again.attempt) == ("slow", 2)
    assert late.attempt == 1
    assert await other.ack(again)


async def stale_lease(scene: Scene) -> None:
    """An ack by a lease that ran out is told so, and the message stays with whoever has it."""
    consumer = await scene.consumer(window=2)
    await scene.publish("slow")
    (late,) = await consumer.take(1)
    await scene.gateway.step(ACK_TIMEOUT_S + 0.1)
    assert not await consumer.ack(late)
    await scene.gateway.step(MARGIN_S)
    (again,) = await consumer.take(1)
    assert again.attempt == 2
    assert await consumer.ack(again)
    await scene.gateway.step(MARGIN_S)
    await consumer.nothing()


async def extend_keeps_it(scene: Scene) -> None:
    consumer = await scene.consumer(window=1)
    await scene.publish("long work")
    (got,) = await consumer.take(1)
    for _ in range(3):
        await scene.gateway.step(ACK_TIMEOUT_S * 0.8)
        await consumer.extend(got)
    assert await consumer.ack(got)


async def disconnect_gives_back(scene: Scene) -> None:
    """At once and to the original places: what a lost consumer held comes before what was published later."""
    lost = await scene.consumer(window=2)
    await scene.publish(1, 2, 3)
    assert [one.data for one in await lost.take(2)] == [1, 2]
    await lost.lose()
    other = await scene.consumer()
    got = await other.take(3)
    assert [(one.data, one.attempt) for one in got] == [(1, 2), (2, 2), (3, 1)]


async def window_bounds(scene: Scene) -> None:
    """No more than the window is ever in flight; a settlement makes room at once."""
    consumer = await scene.consumer(window=2)
    await scene.publish(1, 2, 3, 4)
    one, two = await consumer.take(2)
    await consumer.nothing()
    assert await consumer.ack(one)
    (three,) = await consumer.take(1)
    assert three.data == 3
    await consumer.nothing()
    assert await consumer.ack(two, three)
    assert [four.data for four in await consumer.take(1)] == [4]


async def reject_dies(scene: Scene) -> None:
    """To the dead letters, with its reason, and never to a consumer again."""
    consumer = await scene.consumer()
    await scene.publish({"bad": True})
    (bad,) = await consumer.take(1)
    await consumer.reject(bad, "no such order")
    await consumer.nothing()
    (letter,) = [letter async for letter in scene.admin.dead_letters(TOPIC)]
    assert (letter["group"], letter["reason"], letter["error"]) == (GROUP, "rejected", "no such order")


async def release_goes_to_another(scene: Scene) -> None:
    """Given back unworked: not to the same session for a second, to another at once."""
    first = await scene.consumer(window=1)
    await scene.publish("any")
    (got,) = await first.take(1)
    await first.release(got)
    await first.nothing()
    second = await scene.consumer(window=1)
    (again,) = await second.take(1)
    assert again.data == "any"
    assert await second.ack(again)


async def order_by_key(scene: Scene) -> None:
    """Of one key only one at a time is out; other keys go on."""
    consumer = await scene.consumer()
    await scene.publish("a1", "a2", key="a")
    await scene.publish("b1", key="b")
    first, other = await consumer.take(2)
    assert (first.data, other.data) == ("a1", "b1")
    await consumer.nothing()
    assert await consumer.ack(first)
    assert [one.data for one in await consumer.take(1)] == ["a2"]


async def delay_and_ttl(scene: Scene) -> None:
    """Not before its time, and not after its end."""
    consumer = await scene.consumer()
    await scene.publish("later", delay_s=5)
    await scene.publish("short", delay_s=5, ttl_s=1)
    await scene.gateway.step(4.9)
    await consumer.nothing()
    await consumer.lose()
    await scene.gateway.step(ACK_TIMEOUT_S)
    other = await scene.consumer()
    assert [one.data for one in await other.take(1)] == ["later"]
    await other.nothing()


async def exhausted_dies_once_and_comes_back(scene: Scene) -> None:
    """`max_failures` failures make exactly one dead letter, with the bytes that were stored; a redrive delivers it."""
    body = {"text": "ä\u2028", "n": [1, 2.5, None]}
    await scene.admin.create_topic(TOPIC, {"max_failures": 3})
    consumer = await scene.consumer()
    await scene.publish(body, key="k", headers={"trace": "1"})
    for attempt in (1, 2, 3):
        (failed,) = await consumer.take(1)
        assert failed.attempt == attempt
        await consumer.nack(failed, 1)
        await scene.gateway.step(1.1)
    await consumer.nothing()
    (letter,) = [letter async for letter in scene.admin.dead_letters(TOPIC)]
    assert (letter["reason"], letter["failures"], letter["deliveries"]) == ("failures", 3, 3)
    whole = await scene.admin.dead_letter(TOPIC, letter["id"])
    assert (whole["message"]["data"], whole["message"]["headers"]) == (body, {"trace": "1"})
    assert [attempt["how"] for attempt in whole["attempts"]] == ["nacked"] * 3
    await scene.admin.redrive(TOPIC, ids=[letter["id"]])
    (again,) = await consumer.take(1)
    assert (again.data, again.attempt) == (body, 1)
    assert await consumer.ack(again)
    assert [letter async for letter in scene.admin.dead_letters(TOPIC)] == []


SCENARIOS: list[Scenario] = [
    push,
    backlog,
    acked_is_gone,
    nack_comes_again,
    expiry_goes_to_another,
    stale_lease,
    extend_keeps_it,
    disconnect_gives_back,
    window_bounds,
    reject_dies,
    exhausted_dies_once_and_comes_back,
    release_goes_to_another,
    order_by_key,
    delay_and_ttl,
]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_the_contract_holds(scenario: Scenario, transport: str, store: str, tmp_path: Path) -> None:
    data = tmp_path / "data" if store == "sqlite" else None
    async with whole_gateway(data) as gateway, Scene(gateway, TRANSPORTS[transport]).open() as scene:
        await scenario(scene)
        assert gateway.server.engine.batcher.broken is None
