"""The Python SDK against a real gateway: sessions that come back, tails that go on, schedules, places to begin."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from pushwire import Backoff, Client, EpochChanged, Forbidden, Gap, SubscribeError, TailMessage

RIGHTS = ["publish:*", "consume:*@*", "create:*@*", "replay:*", "admin:*"]
TIMEOUT_S = 10.0


def _client(gateway, subject="ann", rights=tuple(RIGHTS), **options):
    return Client(gateway.url, gateway.token(subject, list(rights)), reconnect=Backoff(0, 0.05), **options)


async def _cut(client):
    """The connection is gone without a word, and back."""
    assert client._link is not None
    changes = client.events()
    client._link.transport.abort()
    async with asyncio.timeout(TIMEOUT_S):
        while (await anext(changes)).state.value != "connected":
            """Reconnecting comes first."""


async def _next(stream, count=1):
    async with asyncio.timeout(TIMEOUT_S):
        return [await anext(stream) for _ in range(count)]


async def test_a_handler_that_outlives_its_connection_acks_and_nobody_else_gets_the_message(gateway):
    async with _client(gateway, resume_grace_s=20) as client, _client(gateway, "eve") as other:
        await client.publish_many("orders", range(6))
        async with (
            client.subscribe("orders", "g", prefetch=3) as sub,
            other.subscribe("orders", "g", prefetch=1) as eves,
        ):
            first, second, third = await _next(sub, 3)
            (fourth,) = await _next(eves)
            await _cut(client)
            assert not any(message.lost.is_set() for message in (first, second, third))
            await first.ack_confirmed()
            second.ack()
            await _cut(client)
            await third.ack_confirmed()
            await fourth.ack_confirmed()
            rest = await _next(sub, 2)
            assert sorted(message.json() for message in rest) == [4, 5]
            assert all(message.attempt == 1 for message in (first, second, third, fourth, *rest))


async def test_acks_written_into_a_dying_connection_count(gateway):
    async with _client(gateway, resume_grace_s=20) as client:
        await client.publish_many("orders", range(300))
        seen: list[int] = []
        async with client.subscribe("orders", prefetch=20) as sub:
            while len(seen) < 300:
                for message in await _next(sub, 10):
                    seen.append(message.json())
                    message.ack()
                await _cut(client)  # in the turn in which the acks are written, or before
        assert seen == list(range(300))


async def test_without_a_grace_the_messages_come_again(gateway):
    async with _client(gateway) as client, client.subscribe("orders") as sub:
        await client.publish("orders", 1)
        (message,) = await _next(sub)
        await _cut(client)
        assert message.lost.is_set()
        (again,) = await _next(sub)
        assert again.attempt == 2


async def test_a_closed_client_with_a_grace_leaves_nothing_behind(gateway):
    async with _client(gateway, "eve") as other, other.subscribe("orders", "g") as eves:
        other_ready = await other.publish("warm", 1)
        assert other_ready.seq == 1
        async with _client(gateway, resume_grace_s=60) as client, client.subscribe("orders", "g") as sub:
            eves.pause()
            await other.publish("orders", 1)
            (message,) = await _next(sub)
            eves.resume()
            await client.close()
        (again,) = await _next(eves)
        assert again.id == message.id


async def test_a_tail_sees_every_seq_once_over_many_cuts(gateway):
    async with _client(gateway, "writer") as writer, _client(gateway) as client, client.tail("prices") as tail:
        seen: list[TailMessage | Gap] = []
        for number in range(15):
            await writer.publish_many("prices", range(20))
            seen += await _next(tail, 1 + number)
            await _cut(client)
        seen += await _next(tail, 15 * 20 - len(seen))
        assert [entry.seq for entry in seen if isinstance(entry, TailMessage)] == list(range(1, 301))
        place = tail.position
    async with _client(gateway) as client:
        await client.publish("prices", "new")
        async with client.tail("prices", epoch=place.epoch, after_seq=place.seq) as tail:
            assert [entry.json() for entry in await _next(tail)] == ["new"]


async def test_a_slow_reader_of_a_long_topic_is_left_and_taken_up_again(gateway, monkeypatch):
    monkeypatch.setattr("pushwire.follower.TAIL_MESSAGES_MAX", 64)
    async with _client(gateway, "writer") as writer:
        await writer.publish_many("prices", ["x" * 500] * 3000)
    async with _client(gateway) as client, client.tail("prices", from_="earliest") as tail:
        async with asyncio.timeout(TIMEOUT_S):
            while tail.active:
                await client.publish("elsewhere", 1)  # each answer is a chance for what is under way to arrive
        assert [entry.seq for entry in await _next(tail, 3000)] == list(range(1, 3001))


async def test_a_tail_begins_at_a_seq_or_a_time_and_not_in_another_database(gateway):
    async with _client(gateway) as client:
        await client.publish_many("prices", range(4))
        async with client.tail("prices", from_=3) as tail:
            assert [entry.seq for entry in await _next(tail, 2)] == [3, 4]
        async with client.tail("prices", from_=datetime.now(UTC) - timedelta(hours=1)) as tail:
            assert [entry.seq for entry in await _next(tail, 4)] == [1, 2, 3, 4]
        with pytest.raises(EpochChanged) as caught:
            await client.tail("prices", epoch="another", after_seq=2).__aenter__()
        assert caught.value.epoch == tail.position.epoch


async def test_a_tail_needs_the_right_to_replay(gateway):
    async with _client(gateway, rights=["consume:*@*", "create:*@*"]) as client:
        with pytest.raises(Forbidden):
            await client.tail("prices").__aenter__()


async def test_the_numbers_of_the_gateway_come_by_the_second(gateway):
    async with _client(gateway) as client, client.tail("$sys.stats") as tail:
        first, second = await _next(tail, 2)
        assert second.seq > first.seq
        assert first.json()["connections"] == 1


async def test_a_scheduled_message_comes_when_it_is_due(gateway):
    async with _client(gateway) as client, client.subscribe("orders") as sub, client.tail("orders") as tail:
        begun = time.monotonic()
        await client.publish("orders", "later", delay_s=0.4)
        await client.publish("orders", "at", deliver_at=datetime.now(UTC) + timedelta(seconds=0.2))
        await client.publish("orders", "now")
        assert [entry.json() for entry in await _next(tail, 3)] == ["later", "at", "now"]
        assert [message.json() for message in await _next(sub, 3)] == ["now", "at", "later"]
        assert 0.39 <= time.monotonic() - begun <= 3


async def test_a_message_that_expired_is_not_delivered(gateway):
    async with _client(gateway) as client:
        async with client.subscribe("orders"):
            """The group exists from here on."""
        await client.publish("orders", "old", ttl_s=0.05)
        await asyncio.sleep(0.3)
        await client.publish("orders", "new")
        async with client.subscribe("orders") as sub:
            assert [message.json() for message in await _next(sub)] == ["new"]


async def test_a_group_begins_where_it_is_told(gateway):
    async with _client(gateway) as client:
        await client.publish_many("orders", range(5))
        async with client.subscribe("orders", "a", start="earliest") as sub:
            assert [message.seq for message in await _next(sub, 5)] == [1, 2, 3, 4, 5]
        async with client.subscribe("orders", "b", start=4) as sub:
            assert [message.seq for message in await _next(sub, 2)] == [4, 5]
        async with client.subscribe("orders", "c", start="new") as sub:
            await client.publish("orders", 9)
            assert [message.seq for message in await _next(sub)] == [6]


async def test_a_private_group_is_its_clients_alone(gateway):
    async with _client(gateway) as client, _client(gateway, "eve") as other:
        async with client.subscribe("inbox", "box", private=True, client_id="phone", inactive_ttl_s=60) as sub:
            await client.publish("inbox", 1)
            assert [message.json() for message in await _next(sub)] == [1]
        for stranger in (
            client.subscribe("inbox", "box", private=True, client_id="laptop"),
            other.subscribe("inbox", "box", private=True, client_id="phone"),
            other.subscribe("inbox", "box"),
        ):
            with pytest.raises(SubscribeError) as caught:
                await stranger.__aenter__()
            assert caught.value.code == "group_not_found"
