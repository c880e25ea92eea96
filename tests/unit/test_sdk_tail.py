"""Tails: order, gaps, place after place over reconnects, and a reader that falls behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from pushwire import ClientClosed, EpochChanged, Forbidden, Gap, Position, SubscribeError, TailMessage
from pushwire import follower as module
from pushwire.consumer import Phase
from pushwire.wire import frames
from support.sdk_memory import MemoryClient, turns
from support.sdk_pair import Pair


def _seqs(follower):
    """Everything that is there, as seqs and (from, to)."""
    found = []
    while follower.queue:
        entry = follower.take()
        found.append((entry.from_seq, entry.to_seq) if isinstance(entry, Gap) else entry.seq)
    return found


def test_a_new_tail_shows_what_comes_and_knows_where_it_stands():
    pair = Pair()
    pair.peer.fill("orders", 3)
    follower, told = pair.tail()
    assert told.done()
    assert told.error is None
    assert follower.position == Position("e1", 3)
    pair.peer.fill("orders", 2)
    pair.pump()
    assert follower.position == Position("e1", 3)
    assert _seqs(follower) == [4, 5]
    assert follower.position == Position("e1", 5)


@pytest.mark.parametrize(("start", "expected"), [("earliest", [1, 2, 3]), (2, [2, 3]), ("new", [])])
def test_a_tail_begins_where_it_is_told(start, expected):
    pair = Pair()
    pair.peer.fill("orders", 3)
    follower, _ = pair.tail(start=start)
    pair.pump()
    assert _seqs(follower) == expected


def test_a_tail_goes_on_after_a_position():
    pair = Pair()
    pair.peer.fill("orders", 5)
    follower, _ = pair.tail(epoch="e1", after_seq=3)
    pair.pump()
    assert _seqs(follower) == [4, 5]
    (asked,) = pair.link.of(frames.SubscribeTail)
    assert (asked.epoch, asked.after_seq) == ("e1", 3)


def test_a_tail_resumes_from_what_came_not_from_what_was_read():
    pair = Pair()
    follower, _ = pair.tail()
    pair.peer.fill("orders", 3)
    pair.pump()
    pair.cut()
    assert follower.phase is Phase.OPENING
    pair.peer.fill("orders", 2)
    pair.connect()
    pair.pump()
    (asked,) = pair.link.of(frames.SubscribeTail)
    assert (asked.epoch, asked.after_seq) == ("e1", 3)
    assert _seqs(follower) == [1, 2, 3, 4, 5]


def test_a_tail_that_saw_nothing_yet_misses_nothing_while_away():
    pair = Pair()
    pair.peer.fill("orders", 7)
    follower, _ = pair.tail()
    pair.cut()
    pair.peer.fill("orders", 1)
    pair.connect()
    pair.pump()
    assert _seqs(follower) == [8]


def test_what_retention_dropped_is_announced_in_its_place():
    pair = Pair()
    follower, _ = pair.tail()
    pair.peer.fill("orders", 2)
    pair.pump()
    pair.cut()
    pair.peer.fill("orders", 6)
    pair.peer.dropped["orders"] = 6
    pair.connect()
    pair.pump()
    assert [follower.take().seq, follower.take().seq] == [1, 2]
    gap = follower.take()
    assert gap == Gap("orders", 3, 6)
    assert follower.position == Position("e1", 6)
    assert _seqs(follower) == [7, 8]


def test_many_reconnects_show_every_seq_once_in_order():
    rng = random.Random(7)
    pair = Pair()
    follower, _ = pair.tail()
    seen = []
    for _ in range(300):
        pair.peer.fill("orders", rng.randrange(4))
        pair.pump()
        if rng.random() < 0.5:
            seen += _seqs(follower)
        if rng.random() < 0.4:
            pair.cut()
            pair.peer.fill("orders", rng.randrange(3))
            pair.connect()
    pair.pump()
    seen += _seqs(follower)
    assert seen == list(range(1, len(pair.peer.stored["orders"]) + 1))


def test_repeated_messages_and_known_gaps_are_not_shown_again():
    pair = Pair()
    follower, _ = pair.tail()
    pair.peer.fill("orders", 4)
    pair.pump()
    pair.link.say(frames.Tailed(follower.name, frames.TailBatch("orders", pair.peer.stored["orders"][1:])))
    pair.link.say(frames.Gap(follower.name, 2, 6))
    pair.link.say(frames.Gap(follower.name, 3, 5))
    pair.pump()
    assert _seqs(follower) == [1, 2, 3, 4, (5, 6)]


def test_a_restored_database_ends_the_tail_with_its_new_epoch():
    pair = Pair()
    follower, _ = pair.tail()
    pair.peer.fill("orders", 2)
    pair.pump()
    pair.cut()
    pair.peer.welcome["epoch"] = "e2"
    pair.connect()
    assert _seqs(follower) == [1, 2]
    with pytest.raises(EpochChanged) as caught:
        follower.over()
    assert caught.value.epoch == "e2"
    assert not caught.value.retryable
    assert not pair.session.roster.followers


def test_the_gateway_may_end_a_tail():
    pair = Pair()
    follower, _ = pair.tail()
    pair.link.say(frames.Error("topic_not_found", "deleted", sub=follower.name))
    pair.pump()
    with pytest.raises(SubscribeError) as caught:
        follower.over()
    assert caught.value.code == "topic_not_found"


def test_a_tail_whose_store_was_busy_is_taken_up_again():
    pair = Pair()
    follower, _ = pair.tail()
    pair.link.tails.clear()
    pair.link.say(frames.Error("busy", "busy", retryable=True, sub=follower.name))
    pair.pump()
    pair.peer.fill("orders", 2)
    pair.step(1)
    assert _seqs(follower) == [1, 2]


def test_a_refused_tail_says_why():
    pair = Pair()
    pair.peer.refuse = lambda op: frames.Error("forbidden", "no") if type(op) is frames.SubscribeTail else None
    _, told = pair.tail()
    assert type(told.error) is Forbidden


def test_a_reader_that_falls_behind_costs_a_bounded_queue_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(module, "TAIL_MESSAGES_MAX", 20)
    pair = Pair()
    pair.peer.page = 8
    follower, _ = pair.tail()
    first = follower.name
    pair.peer.fill("orders", 200)
    pair.pump()
    assert follower.stalled
    assert 20 < len(follower.queue) <= 28
    assert first not in pair.link.tails
    seen: list[int] = []
    while len(seen) < 200:
        seen.append(follower.take().seq)
        if follower.relieved():
            pair.session.roster.refill(follower)
            pair.pump()
        assert len(follower.queue) <= 28
    assert seen == list(range(1, 201))
    assert follower.name != first


def test_large_bodies_stall_a_tail_by_their_bytes(monkeypatch):
    monkeypatch.setattr(module, "TAIL_BYTES_MAX", 1000)
    pair = Pair()
    pair.peer.page = 1
    follower, _ = pair.tail()
    for _ in range(10):
        pair.publish("x" * 400)
    pair.pump()
    assert follower.stalled
    assert len(follower.queue) == 3
    follower.take()
    assert not follower.relieved()
    follower.take()
    assert follower.relieved()


def test_a_stalled_tail_stays_so_over_a_reconnect(monkeypatch):
    monkeypatch.setattr(module, "TAIL_MESSAGES_MAX", 10)
    pair = Pair()
    follower, _ = pair.tail()
    pair.peer.fill("orders", 50)
    pair.pump()
    held = len(follower.queue)
    pair.cut()
    pair.connect()
    pair.pump()
    assert not pair.link.of(frames.SubscribeTail)
    assert len(follower.queue) == held


def test_a_tail_nobody_knows_is_left():
    pair = Pair()
    pair.peer.fill("orders", 1)
    pair.link.say(frames.Tailed("ghost", frames.TailBatch("orders", pair.peer.stored["orders"])))
    pair.pump()
    assert [op.sub for op in pair.link.of(frames.Unsubscribe)] == ["ghost"]


# --- as the user sees it ---------------------------------------------------------------------------------------


async def test_a_tail_is_iterated_and_left():
    async with MemoryClient() as client:
        client.peer.fill("orders", 2)
        async with client.tail("orders", from_="earliest") as tail:
            assert tail.active
            first = await anext(tail)
            assert isinstance(first, TailMessage)
            assert (first.topic, first.seq, first.json(), first.redriven, first.due_at) == (
                "orders", 1, {"n": 1}, False, None,
            )  # fmt: skip
            assert tail.position == Position("e1", 1)
            assert (await anext(tail)).seq == 2
        assert not client.link.tails
        with pytest.raises(StopAsyncIteration):
            await anext(tail)


async def test_a_cancelled_wait_loses_nothing():
    async with MemoryClient() as client, client.tail("orders") as tail:
        for _ in range(20):
            waiting = asyncio.create_task(anext(tail))
            await turns(2)
            client.peer.fill("orders", 1)
            client.poke()
            if len(client.peer.stored["orders"]) % 2:
                await turns(1)
            waiting.cancel()
            await asyncio.wait([waiting])
            entry = await anext(tail) if waiting.cancelled() else waiting.result()
            assert entry.seq == len(client.peer.stored["orders"])


async def test_a_slow_iteration_sees_all_of_a_long_topic(monkeypatch):
    monkeypatch.setattr(module, "TAIL_MESSAGES_MAX", 16)
    async with MemoryClient() as client:
        client.peer.fill("orders", 300)
        client.peer.page = 5
        async with client.tail("orders", from_="earliest") as tail:
            seqs = [(await anext(tail)).seq for _ in range(300)]
    assert seqs == list(range(1, 301))


async def test_closing_the_client_ends_the_iteration():
    client = MemoryClient()
    async with client, client.tail("orders") as tail:
        waiting = asyncio.create_task(anext(tail))
        await turns(2)
        client.session.close()
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_a_draining_client_hands_out_what_has_come():
    async with MemoryClient() as client, client.tail("orders") as tail:
        client.peer.fill("orders", 2)
        client.poke()
        await turns(3)
        client.session.drain(asyncio.get_running_loop().create_future())
        assert [entry.seq async for entry in tail] == [1, 2]
        with pytest.raises(ClientClosed):
            await client.tail("orders").__aenter__()


def test_a_drained_tail_takes_nothing_new():
    pair = Pair()
    follower, _ = pair.tail()
    pair.peer.fill("orders", 1)
    pair.pump()
    follower.drain()
    pair.peer.fill("orders", 2)
    pair.pump()
    assert _seqs(follower) == [1]


async def test_a_wait_that_is_cancelled_after_it_was_told_tells_the_next():
    async with MemoryClient() as client, client.tail("orders") as tail:
        first, second = asyncio.create_task(anext(tail)), asyncio.create_task(anext(tail))
        await turns(2)
        client.peer.fill("orders", 1)
        client.session.receive(client.link.take(), 0)  # tells the first, whose turn has not come yet
        first.cancel()
        async with asyncio.timeout(5):
            assert (await second).seq == 1
        assert first.cancelled()


async def test_a_tail_must_be_open_to_be_read():
    async with MemoryClient() as client:
        tail = client.tail("orders")
        with pytest.raises(RuntimeError):
            await anext(tail)
        with pytest.raises(RuntimeError):
            tail.position  # noqa: B018 - the property raises


async def test_a_scheduled_message_says_when_it_is_due():
    async with MemoryClient() as client, client.tail("orders") as tail:
        await client.publish("orders", 1)
        client.peer.stored["orders"][0].due_ms = 1_800_000_000_000
        client.peer.stored["orders"][0].redriven = True
        again = client.tail("orders", epoch="e1", after_seq=0)
        async with again:
            shown = await anext(again)
        assert shown.due_at.timestamp() == 1_800_000_000
        assert shown.redriven
        assert (await anext(tail)).seq == 1


@pytest.mark.parametrize(
    "place",
    [{"from_": 0}, {"from_": "latest"}, {"epoch": "e1"}, {"after_seq": 1}, {"epoch": "e1", "after_seq": -1},
     {"epoch": "", "after_seq": 1}, {"from_": "new", "epoch": "e1", "after_seq": 1}, {"from_": True}],
)  # fmt: skip
async def test_a_place_that_is_none_is_refused_at_once(place):
    async with MemoryClient() as client:
        with pytest.raises(ValueError):
            client.tail("orders", **place)


async def test_the_numbers_of_the_gateway_are_a_tail():
    async with MemoryClient() as client, client.tail("$sys.stats") as tail:
        assert tail.topic == "$sys.stats"
        assert [op.topic for op in client.link.of(frames.SubscribeTail)] == ["$sys.stats"]
