"""The waits of the shell around a session: publishes, the window, events, connections."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pushwire import BatchError, ClientClosed, NotConnected, PublishItem, RequestTimeout
from pushwire.publisher import Publisher
from pushwire.wire import frames
from support.sdk_memory import MemoryClient, turns


async def test_publishes_of_one_turn_are_one_message_of_one_operation():
    async with MemoryClient() as client:
        receipts = await asyncio.gather(*(client.publish("orders", {"n": n}) for n in range(50)))
        assert [receipt.seq for receipt in receipts] == list(range(1, 51))
        assert [[len(op.messages) for op in ops] for ops in client.link.messages] == [[50]]


async def test_publish_many_keeps_order_and_options():
    async with MemoryClient() as client:
        items = [{"n": 0}, PublishItem({"n": 1}, id="own", key="k", priority=3), b"bytes"]
        receipts = await client.publish_many("orders", items)
        assert [receipt.seq for receipt in receipts] == [1, 2, 3]
        stored = client.peer.stored["orders"]
        assert (stored[1].id, stored[1].key, stored[1].priority) == ("own", "k", 3)
        assert await client.publish_many("orders", []) == []


async def test_publish_many_says_what_became_of_each():
    async with MemoryClient() as client:
        await client.publish("orders", 0, id="taken")
        client.peer.refuse = lambda op: (
            frames.Error("id_conflict", "taken")
            if type(op) is frames.Publish and any(draft.id == "taken" for draft in op.messages)
            else None
        )
        with pytest.raises(BatchError) as caught:
            await client.publish_many("orders", [1, PublishItem(2, id="taken"), 3])
        assert [getattr(outcome, "seq", None) for outcome in caught.value.outcomes] == [2, None, 3]


async def test_a_full_window_makes_callers_wait_in_turn():
    async with MemoryClient() as client:
        client.session.publisher = Publisher(lambda: 0.5, client._let_in, window_messages_max=4)
        receipts = await client.publish_many("orders", range(50))
        assert [receipt.seq for receipt in receipts] == list(range(1, 51))
        assert max(len(op.messages) for op in client.link.of(frames.Publish)) <= 4
        client.peer.answers = False
        full = [asyncio.create_task(client.publish("orders", n)) for n in range(4)]
        await turns(5)
        with pytest.raises(RequestTimeout, match="window"):
            await client.publish("orders", "no room", timeout_s=0.02)
        waiting = [asyncio.create_task(client.publish("orders", n)) for n in range(6)]
        await turns(5)
        waiting[0].cancel()
        client.cut()
        client.peer.answers = True
        client.connect()
        assert len({receipt.seq for receipt in await asyncio.gather(*full, *waiting[1:])}) == 9


async def test_without_a_connection_a_full_window_says_not_connected():
    async with MemoryClient() as client:
        client.session.publisher = Publisher(lambda: 0.5, client._let_in, window_messages_max=1)
        client.cut()
        first = asyncio.create_task(client.publish("orders", 1, timeout_s=0.05))
        await turns(2)
        with pytest.raises(BatchError) as caught:
            await client.publish_many("orders", [2], timeout_s=0.02)
        assert type(caught.value.outcomes[0]) is NotConnected
        with pytest.raises(NotConnected):
            await first


async def test_a_cancelled_publish_many_leaves_nothing_behind():
    async with MemoryClient() as client:
        client.session.publisher = Publisher(lambda: 0.5, client._let_in, window_messages_max=2)
        client.peer.answers = False
        many = asyncio.create_task(client.publish_many("orders", range(10)))
        await turns(5)
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
        client.cut()
        client.connect()
        await turns(5)
        assert client.session.publisher.messages == 0


async def test_closed_while_callers_wait_for_room():
    async with MemoryClient() as client:
        client.session.publisher = Publisher(lambda: 0.5, client._let_in, window_messages_max=1)
        client.peer.answers = False
        waiting = [asyncio.create_task(client.publish("orders", n)) for n in range(5)]
        await turns(3)
        client.session.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClientClosed] * 5


async def test_before_it_is_entered_a_client_is_of_no_use():
    client = MemoryClient()
    with pytest.raises(RuntimeError, match="async with"):
        await client.publish("orders", 1)


async def test_events_are_bounded_and_end_with_the_client(caplog):
    caplog.set_level(logging.ERROR)
    async with MemoryClient() as client:
        events = client.events()
        for _ in range(100):
            client.cut()
            client.connect()
            await turns(2)
        assert events.missed > 0
    got = [change.state.value async for change in events]
    assert len(got) == 64
    assert got[-3:] == ["reconnecting", "connected", "closed"]
    assert [change async for change in client.events()] == []


async def test_a_reader_of_events_waits_and_may_be_cancelled():
    async with MemoryClient() as client:
        await client.wait_connected(1)
        events = client.events()
        cancelled, stays = asyncio.create_task(anext(events)), asyncio.create_task(anext(events))
        await turns(2)
        cancelled.cancel()
        client.cut()
        assert (await stays).state.value == "reconnecting"


async def test_waiting_for_a_connection():
    async with MemoryClient() as client:
        await client.wait_connected(1)
        client.cut()
        with pytest.raises(NotConnected):
            await client.wait_connected(0.02)
        waiting = asyncio.create_task(client.wait_connected())
        await turns(2)
        client.connect()
        await waiting
    with pytest.raises(ClientClosed):
        await client.wait_connected(1)
