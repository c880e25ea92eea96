"""A consumer that dies, and one that goes silent: what it held reaches another one, in time and marked as such."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import pytest

from support.cli_process import Spawned
from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

TOPIC = "orders"
HELD = 32
BACKOFF_CAP_S = 1.0


async def _published(gateway: GatewayProcess, count: int) -> list[int]:
    """Seqs of `count` messages."""
    producer = await WsClient.open(gateway.port, gateway.token("producer"))
    rows = [{"data": {"n": number}} for number in range(count)]
    answer = await producer.ok({"op": "publish", "topic": TOPIC, "messages": rows})
    producer.abort()
    return [receipt["seq"] for receipt in answer["receipts"]]


async def test_all_32_leases_of_a_killed_consumer_reach_another_within_a_second_in_order(gateway):
    env = {"PUSHWIRE_URL": gateway.url, "PUSHWIRE_TOKEN": gateway.token("victim")}
    seqs = await _published(gateway, HELD)
    victim = Spawned("consume", TOPIC, "--settle", "hold", "--prefetch", str(HELD), env=env)
    try:
        lines = [await asyncio.to_thread(victim.line, "{") for _ in range(HELD)]
        other = await WsClient.open(gateway.port, gateway.token("other"))
        await other.subscribe(TOPIC, prefetch=HELD)
        assert other.deliveries.empty()
        killed_at = time.monotonic()
        victim.process.send_signal(signal.SIGKILL)
        rows = await other.take(HELD, timeout_s=5)
    finally:
        victim.end()
    first = [json.loads(line) for line in lines]
    assert [(row["seq"], row["attempt"], row["redelivered"]) for row in first] == [(seq, 1, False) for seq in seqs]
    assert [(row["seq"], row["attempt"], row["redelivered"]) for row in rows] == [(seq, 2, True) for seq in seqs]
    assert max(row["at"] for row in rows) - killed_at <= 1.0
    await other.ok({"op": "ack", "leases": [row["lease"] for row in rows]})
    other.abort()


async def test_leases_of_a_silent_consumer_reach_another_within_timeout_and_back_off(gateway):
    ack_timeout_s = 1.0
    seqs = await _published(gateway, 20)
    silent = await WsClient.open(gateway.port, gateway.token("silent"))
    await silent.subscribe(TOPIC, sub="s", prefetch=20, ack_timeout_ms=1000)
    held = await silent.take(20)
    await silent.ok({"op": "flow", "sub": "s", "prefetch": 0})  # else the silent one may get them again itself
    other = await WsClient.open(gateway.port, gateway.token("other"))
    await other.subscribe(TOPIC, prefetch=20)
    rows = await other.take(20)
    assert sorted(row["seq"] for row in rows) == seqs
    assert {(row["attempt"], row["redelivered"]) for row in rows} == {(2, True)}
    leased_at = held[0]["at"]
    waits = [row["at"] - leased_at for row in rows]
    assert min(waits) >= ack_timeout_s - 0.05
    assert max(waits) <= ack_timeout_s + BACKOFF_CAP_S + 0.1
    silent.abort()
    other.abort()


async def test_a_late_ack_is_stale_and_changes_nothing(gateway):
    (seq,) = await _published(gateway, 1)
    silent = await WsClient.open(gateway.port, gateway.token("silent"))
    await silent.subscribe(TOPIC, sub="s", prefetch=1, ack_timeout_ms=300)
    (held,) = await silent.take(1)
    await silent.ok({"op": "flow", "sub": "s", "prefetch": 0})
    other = await WsClient.open(gateway.port, gateway.token("other"))
    await other.subscribe(TOPIC, prefetch=1)
    (second,) = await other.take(1)

    late = await silent.ask({"op": "ack", "leases": [held["lease"]]})
    assert (late["op"], late["code"], late["leases"]) == ("error", "stale_lease", [held["lease"]])
    assert (await silent.ask({"op": "ping"}))["op"] == "pong"
    # Without a ref it is reported all the same.
    silent.send({"op": "ack", "leases": [held["lease"]]})
    assert (await silent.notice("error"))["code"] == "stale_lease"

    # Had the late ack settled anything, the message would not come back when its holder leaves.
    other.abort()
    third = await WsClient.open(gateway.port, gateway.token("third"))
    await third.subscribe(TOPIC, prefetch=1)
    (again,) = await third.take(1)
    assert (second["seq"], second["attempt"], again["seq"], again["attempt"]) == (seq, 2, seq, 3)
    await third.ok({"op": "ack", "leases": [again["lease"]]})
    silent.abort()
    third.abort()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
async def test_what_was_unacked_is_delivered_again_after_a_restart(make_gateway, signal_number):
    gateway = make_gateway()
    seqs = await _published(gateway, 10)
    consumer = await WsClient.open(gateway.port, gateway.token("consumer"))
    await consumer.subscribe(TOPIC, prefetch=10)
    rows = await consumer.take(10)
    await consumer.ok({"op": "ack", "leases": [row["lease"] for row in rows[:4]]})
    gateway.signal(signal_number)
    await asyncio.to_thread(gateway.wait)
    await consumer.close_code()

    await asyncio.to_thread(gateway.start)
    began = time.monotonic()
    again = await WsClient.open(gateway.port, gateway.token("consumer"))
    await again.subscribe(TOPIC, prefetch=10)
    back = await again.take(6)
    assert [row["seq"] for row in back] == seqs[4:]
    assert back[-1]["at"] - began <= 2.0
    await again.ok({"op": "ack", "leases": [row["lease"] for row in back]})
    again.abort()
