"""What a client may try that has a token, or none: it gets its answer, and nobody else notices."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from bench import framing
from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

BYTES = 1024 * 1024
GROUPS_MAX = 5
NOTICED_S = 0.25
"""Longest answer a bystander may get during a flood: 8 ms are measured, 0.3 to 3.5 s before floods were taken in
turns. The machine may be busy."""


def flood(line: bytes) -> bytes:
    """The largest message, full of this operation."""
    return framing.encode(b"\n".join([line] * (BYTES // (len(line) + 1))))


async def slowest_answer_s(bystander: WsClient, until: asyncio.Future[int] | asyncio.Task[int]) -> float:
    slowest_s = 0.0
    while not until.done():
        asked_at = time.monotonic()
        await bystander.ask({"op": "ping"})
        slowest_s = max(slowest_s, time.monotonic() - asked_at)
    return slowest_s


async def count_replies(client: WsClient, count: int) -> int:
    """Wait for the answers to so many operations: stale acks in a row have one in common, which names them all."""
    answered = 0
    while answered < count:
        answered += len((await client.notices.get()).get("leases", ("",)))
    return answered


class Pongs(asyncio.Protocol):
    """Counts answers to pings without reading them: their JSON takes this process longer than the gateway, and the
    bystander is in it too."""

    PONG = b'"pong"'

    def __init__(self, count: int) -> None:
        self.all: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._count = count
        self._answered = 0
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        self._answered += data.count(self.PONG)
        self._tail = data[1 - len(self.PONG) :]
        if self._answered >= self._count and not self.all.done():
            self.all.set_result(self._answered)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.all.done():
            self.all.set_exception(ConnectionError(f"closed after {self._answered} answers"))


async def test_a_flood_of_the_smallest_operations_holds_up_nobody(gateway: GatewayProcess):
    bystander = await WsClient.open(gateway.port, gateway.token("bystander"))
    client = await WsClient.open(gateway.port, gateway.token("attacker"))
    await client.notice("welcome")
    lines = [b'{"op":"ping"}'] * (BYTES // 14)
    pongs = Pongs(len(lines))
    client.transport.set_protocol(pongs)
    client.send_raw(framing.encode(b"\n".join(lines)))
    assert await slowest_answer_s(bystander, pongs.all) < NOTICED_S
    assert pongs.all.result() == len(lines)
    client.transport.abort()


async def test_a_flood_of_stale_acks_holds_up_nobody(gateway: GatewayProcess):
    bystander = await WsClient.open(gateway.port, gateway.token("bystander"))
    client = await WsClient.open(gateway.port, gateway.token("attacker"))
    await client.notice("welcome")
    # A lease of its own each: stale acks in a row have one answer, in which the same lease would stand once.
    lines = [b'{"op":"ack","lease":"%05x"}' % number for number in range(BYTES // 29)]
    client.send_raw(framing.encode(b"\n".join(lines)))
    everything = asyncio.create_task(count_replies(client, len(lines)))
    assert await slowest_answer_s(bystander, everything) < NOTICED_S
    assert everything.result() >= len(lines)
    client.abort()


async def test_a_stranger_is_not_answered_for_long(gateway: GatewayProcess):
    for line in (b'{"op":"ping"}', b'{"op":"ack","lease":"x","ref":1}', b'{"op":"publish","topic":"t","data":1}'):
        client = await WsClient.open(gateway.port)
        client.send_raw(flood(line))
        assert await client.close_code() == 4400
        assert client.notices.qsize() <= 8


async def test_tokens_are_not_verified_faster_than_control_operations_may_come(make_gateway):
    gateway = make_gateway(settings={"controls_per_s": "1", "controls_burst": "10"})
    token = gateway.token("ann")
    client = await WsClient.open(gateway.port, token)
    bad = token[:-8] + "AAAAAAAA"
    answers = await asyncio.gather(*(client.ask({"op": "auth", "token": bad}) for _ in range(50)))
    codes = Counter(answer["code"] for answer in answers)
    assert codes["unauthorized"] <= 12
    assert codes["rate_limited"] >= 38


async def test_groups_asked_for_at_once_are_not_more_than_a_topic_may_have(make_gateway):
    gateway = make_gateway(settings={"groups_per_topic": str(GROUPS_MAX)})
    clients = [await WsClient.open(gateway.port, gateway.token("ann")) for _ in range(2)]
    await clients[0].publish("t", 1)
    asked = [clients[n % 2].ask({"op": "subscribe", "topic": "t", "group": f"g{n // 2}"}) for n in range(40)]
    answers = Counter(answer.get("code", "ok") for answer in await asyncio.gather(*asked))
    assert answers == {"ok": 2 * GROUPS_MAX, "too_many_groups": 40 - 2 * GROUPS_MAX}


async def test_a_token_with_less_rights_counts_for_what_is_being_created(gateway: GatewayProcess):
    client = await WsClient.open(gateway.port, gateway.token("ann"))
    weaker = gateway.token("ann", ("publish:*",))
    subscribed = client.asked({"op": "subscribe", "topic": "new", "sub": "n"})
    refreshed = client.asked({"op": "auth", "token": weaker})
    assert (await refreshed)["op"] == "ok"
    assert (await subscribed)["code"] == "forbidden"
    await client.publish("new", "secret")
    await client.ask({"op": "ping"})
    assert client.deliveries.empty()


async def test_what_follows_a_subscribe_waits_for_it(gateway: GatewayProcess):
    client = await WsClient.open(gateway.port, gateway.token("ann"))
    asked = [
        client.asked({"op": "subscribe", "topic": "new", "sub": "n"}),
        client.asked({"op": "flow", "sub": "n", "prefetch": 7}),
        client.asked({"op": "unsubscribe", "sub": "n"}),
    ]
    subscribed, changed, left = [await reply for reply in asked]
    assert (subscribed["op"], changed["prefetch"], left["op"]) == ("ok", 7, "ok")
    assert (await client.ask({"op": "unsubscribe", "sub": "n"}))["code"] == "unknown_subscription"


async def test_names_made_for_subscriptions_are_free(gateway: GatewayProcess):
    client = await WsClient.open(gateway.port, gateway.token("ann"))
    first = await client.subscribe("a")
    second = await client.subscribe("b")
    await client.ok({"op": "unsubscribe", "sub": first["sub"]})
    third = await client.subscribe("c")
    assert len({second["sub"], third["sub"]}) == 2
    await client.subscribe("d", sub="s4")
    assert (await client.subscribe("e"))["sub"] not in {second["sub"], third["sub"], "s4"}
