"""A connection that has ended is gone at once: nothing of it waits for a garbage collection."""

from __future__ import annotations

import gc
from collections import Counter

import pytest

from bench import framing
from pushwire_gateway.caps import Admission
from pushwire_gateway.connection import Connection
from pushwire_gateway.outbox import Outbox
from pushwire_gateway.session import Session
from support.whole_gateway import WholeGateway, whole_gateway
from support.ws_client import WsClient

PARTS = (Connection, Session, Outbox, Admission)


def _left() -> Counter[str]:
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, PARTS))


async def _visit(gateway: WholeGateway, how: str) -> None:
    client = await WsClient.open(gateway.port, gateway.token("ann") if how != "stranger" else None)
    if how not in ("stranger", "nonsense"):
        await client.subscribe("t", group="g", sub="s")
        await client.subscribe("t", tail=True, sub="tail")
        await client.publish("t", 1)
        await client.take(2)
    if how == "closes":
        client.send_raw(framing.encode(b"\x03\xe8", framing.CLOSE))
        await client.close_code()
    elif how == "nonsense":
        client.send_raw(framing.encode(b"\xff"))
        await client.close_code()
    client.abort()
    await gateway.until(lambda: gateway.server.listener.connections == 0)
    await gateway.settled()


@pytest.mark.parametrize("how", ["vanishes", "closes", "nonsense", "stranger"])
async def test_nothing_of_a_connection_waits_for_a_collection(how: str) -> None:
    async with whole_gateway() as gateway:
        await _visit(gateway, how)
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                await _visit(gateway, how)
            assert _left() == {}
        finally:
            gc.enable()
