"""A foreign process holds the write lock of the database: what is under way waits for it, a drain too."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

TOPIC = "faults.foreign"
DRAIN_S = 10.0
"""The promise, and the default of `drain_s`."""


@pytest.fixture
def gateway(tmp_path):
    gateway = GatewayProcess(tmp_path)
    gateway.start()
    yield gateway
    gateway.stop()


@contextmanager
def locked(gateway: GatewayProcess) -> Iterator[None]:
    """As a command line tool would that writes to the file of a running gateway."""
    foreign = sqlite3.connect(gateway.database(), isolation_level=None)
    try:
        foreign.execute("BEGIN IMMEDIATE")
        yield
        foreign.execute("ROLLBACK")
    finally:
        foreign.close()


async def _read_by_the_gateway(client: WsClient) -> None:
    """What was sent before has been read: this is answered at once, without the store."""
    answer = await client.ask({"op": "publish", "topic": "no topic*", "data": 0})
    assert answer["code"] == "bad_topic"


async def test_a_publish_under_way_is_answered_before_the_end(gateway):
    client = await WsClient.open(gateway.port, gateway.token())
    await client.publish(TOPIC, 0)
    with locked(gateway):
        under_way = client.asked({"op": "publish", "topic": TOPIC, "data": 1})
        await _read_by_the_gateway(client)
        gateway.signal(signal.SIGTERM)
        await asyncio.wait([under_way], timeout=0.3)
        assert not under_way.done()
        assert client.is_open
    assert (await asyncio.wait_for(under_way, 5))["op"] == "ok"
    assert (await client.notice("goodbye"))["reconnect"]
    assert await asyncio.to_thread(gateway.wait) == 0


async def test_it_waits_its_time_then_refuses_and_goes_on(gateway):
    client = await WsClient.open(gateway.port, gateway.token())
    await client.publish(TOPIC, 0)
    with locked(gateway):
        answer = await client.ask({"op": "publish", "topic": TOPIC, "data": 1})
        assert answer["op"] == "error"
        assert answer["retryable"]
        await _read_by_the_gateway(client)  # the loop was never held up
    assert (await client.publish(TOPIC, 2))["seq"] == 2
    client.abort()
    gateway.check_log()


@pytest.mark.slow
async def test_a_drain_ends_in_time_whoever_holds_the_lock(gateway):
    """What is owed to the disk then, a settlement, waits for its whole time; nothing may wait as long again."""
    client = await WsClient.open(gateway.port, gateway.token())
    await client.subscribe(TOPIC, group="g", sub="s", start="earliest")
    await client.publish(TOPIC, 0)
    [delivery] = await client.take(1)
    with locked(gateway):
        acked = client.asked({"op": "ack", "leases": [delivery["lease"]]})
        await _read_by_the_gateway(client)
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway.wait) == 0, gateway.last_words()
        assert time.monotonic() - began <= DRAIN_S
    await asyncio.wait([acked], timeout=5)
    assert acked.exception() is not None, "an ack that is not stored is not confirmed"
    gateway.check_log()
    await asyncio.to_thread(gateway.start)
    again = await WsClient.open(gateway.port, gateway.token())
    await again.subscribe(TOPIC, group="g", sub="s")
    assert [row["data"] for row in await again.take(1)] == [0], "it was not confirmed, so it comes again"
    again.abort()
