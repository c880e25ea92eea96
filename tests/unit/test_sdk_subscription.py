"""Iterating and running: cancel-safe, fair, ended by drains and errors; and the waits of the shell around it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushwire import (
    Forbidden,
    NotConnected,
    Reject,
    RequestTimeout,
    Retry,
    SubscribeError,
    Subscription,
)
from pushwire.consumer import Phase
from pushwire.wire import frames
from support.sdk_memory import MemoryClient, turns

# --- cancellation: loses nothing, duplicates nothing -----------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("fill"), st.integers(1, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 3)),
        st.tuples(st.just("cancel all"), st.just(0)),
        st.tuples(st.just("turn"), st.integers(1, 6)),
    ),
    max_size=40,
)


async def take(sub: Subscription, got: list[int]) -> None:
    async for message in sub:
        got.append(message.seq)
        message.ack()


async def cancelled_at_random(plan: list[tuple[str, int]], workers: int) -> tuple[list[int], int]:
    """What the workers got, and how many messages there were."""
    async with MemoryClient() as client:
        got: list[int] = []
        async with client.subscribe("orders", prefetch=3) as sub:
            tasks = [asyncio.create_task(take(sub, got)) for _ in range(workers)]
            for step, number in plan:
                if step == "fill":
                    client.peer.fill("orders", number)
                    client.poke()
                elif step == "turn":
                    await turns(number)
                else:
                    chosen = range(workers) if step == "cancel all" else [number % workers]
                    for index in chosen:
                        tasks[index].cancel()
                        tasks[index] = asyncio.create_task(take(sub, got))
            for _ in range(200):
                if not client.peer.held() and not any(client.peer.waiting.values()):
                    break
                await turns(2)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert not sub._turnstile._waiters
        assert client.peer.held() == 0
        assert client.peer.acked() == got
        return got, len(client.peer.stored.get("orders", ()))


@settings(max_examples=80)
@given(steps, st.integers(1, 4))
def test_random_cancels_lose_and_duplicate_nothing(plan, workers):
    got, stored = asyncio.run(cancelled_at_random(plan, workers))
    assert sorted(got) == list(range(1, stored + 1))


async def test_a_waiter_cancelled_in_the_turn_it_was_told_passes_the_message_on():
    async with MemoryClient() as client, client.subscribe("orders") as sub:
        first, second = asyncio.create_task(anext(sub)), asyncio.create_task(anext(sub))
        await turns(2)
        client.peer.fill("orders", 1)
        client._session.receive(client.link.take() or b"", client._now())  # tells the first
        first.cancel()
        assert (await second).seq == 1
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_a_timeout_around_a_wait_loses_nothing():
    async with MemoryClient() as client, client.subscribe("orders") as sub:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(sub)
        client.peer.fill("orders", 1)
        client.poke()
        assert (await anext(sub)).seq == 1


# --- iterating -------------------------------------------------------------------------------------------------


async def test_messages_come_in_order_and_the_loop_ends_with_a_drain():
    async with MemoryClient() as client:
        client.peer.fill("orders", 100)
        got = []
        async with client.subscribe("orders", prefetch=7) as sub:
            async for message in sub:
                async with message:
                    got.append(message.seq)
                if message.seq == 100:
                    assert await sub.drain()
        assert got == list(range(1, 101))
        assert client.peer.acked() == got


async def test_iteration_goes_on_after_a_lost_connection():
    async with MemoryClient() as client:
        client.peer.fill("orders", 3)
        async with client.subscribe("orders", prefetch=2) as sub:
            lost = await anext(sub)
            client.cut()
            waiting = asyncio.create_task(anext(sub))
            await turns(3)
            assert not waiting.done()
            client.connect()
            again = await waiting
            assert (again.seq, again.attempt) == (1, 2)
            assert lost.lost.is_set()


async def test_what_ends_the_subscription_is_raised_to_every_iterator():
    async with MemoryClient() as client, client.subscribe("orders") as sub:
        waiting = [asyncio.create_task(anext(sub)) for _ in range(3)]
        await turns(2)
        client.link.say(frames.Error("forbidden", "no more", None, False, None, "s1"))
        client.poke()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Forbidden] * 3
        assert len({id(outcome) for outcome in outcomes}) == 3
        with pytest.raises(Forbidden):
            await anext(sub)


async def test_a_subscription_must_be_open_and_is_opened_once():
    async with MemoryClient() as client:
        sub = client.subscribe("orders")
        with pytest.raises(RuntimeError, match="async with"):
            await anext(sub)
        with pytest.raises(RuntimeError, match="async with"):
            await sub.run(lambda message: message.ack_confirmed())
        async with sub:
            assert sub.active
            with pytest.raises(RuntimeError, match="once"):
                await sub.__aenter__()
        with pytest.raises(StopAsyncIteration):
            await anext(sub)
        assert "ended" in repr(sub)


@pytest.mark.parametrize(
    "options",
    [{"prefetch": 0}, {"prefetch": 1001}, {"ack_timeout_s": 0.05}, {"ack_timeout_s": 50_000}, {"start": "old"},
     {"group": "a b"}],
)  # fmt: skip
async def test_options_out_of_bounds_are_refused_at_once(options):
    with pytest.raises(ValueError):
        MemoryClient().subscribe("orders", **options)


async def test_a_refused_subscription_raises_where_it_is_opened():
    async with MemoryClient() as client:
        client.peer.refuse = lambda op: frames.Error("topic_not_found", "no") if type(op) is frames.Subscribe else None
        with pytest.raises(SubscribeError) as caught:
            async with client.subscribe("orders"):
                pytest.fail("it was refused")
        assert caught.value.code == "topic_not_found"


async def test_a_subscription_not_granted_in_time_is_given_up():
    async with MemoryClient(request_timeout_s=0.02) as client:
        client.peer.answers = False
        sub = client.subscribe("orders")
        with pytest.raises(RequestTimeout):
            await sub.__aenter__()
        client.cut()
        with pytest.raises(NotConnected):
            await client.subscribe("orders").__aenter__()
        assert not client.session.roster.consumers


async def test_opening_can_be_cancelled():
    async with MemoryClient() as client:
        client.peer.answers = False
        opening = asyncio.create_task(client.subscribe("orders").__aenter__())
        await turns(3)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not client.session.roster.consumers


async def test_pause_hands_out_what_is_here_and_asks_for_no_more():
    async with MemoryClient() as client:
        client.peer.fill("orders", 4)
        async with client.subscribe("orders", prefetch=2) as sub:
            await turns(3)
            sub.pause()
            sub.pause()
            for _ in range(2):
                (await anext(sub)).ack()
            waiting = asyncio.create_task(anext(sub))
            await turns(5)
            assert not waiting.done()
            assert [op.prefetch for op in client.link.of(frames.Flow)] == [0]
            sub.resume()
            sub.resume()
            assert (await waiting).seq == 3


# --- run -------------------------------------------------------------------------------------------------------


async def test_run_handles_so_many_at_a_time_and_acks_each():
    async with MemoryClient() as client:
        client.peer.fill("orders", 20)
        running, most, done = 0, 0, []

        async def handle(message):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await turns(3)
            running -= 1
            done.append(message.seq)
            if len(done) == 20:
                asyncio.get_running_loop().call_soon(finished.set)

        finished = asyncio.Event()
        async with client.subscribe("orders", prefetch=10) as sub:
            run = asyncio.create_task(sub.run(handle, concurrency=4))
            await finished.wait()
            assert await sub.drain()
            await run
        assert most == 4
        assert sorted(client.peer.acked()) == list(range(1, 21))


async def test_a_handler_that_fails_is_logged_and_stops_nobody(caplog):
    async with MemoryClient() as client:
        client.peer.fill("orders", 4)
        worked, seen = set(), asyncio.Event()

        async def handle(message):
            if message.attempt == 1 and message.seq == 1:
                raise ValueError("first time")
            if message.seq == 2:
                raise Reject("never")
            if message.seq == 3 and message.attempt == 1:
                raise Retry
            worked.add(message.seq)
            if worked == {1, 3, 4}:
                asyncio.get_running_loop().call_soon(seen.set)

        async with client.subscribe("orders") as sub:
            run = asyncio.create_task(sub.run(handle, concurrency=1))
            await seen.wait()
            await sub.drain()
            await run
        verbs = [(verb, seq) for verb, _, seq in client.peer.settled]
        assert {("nack", 1), ("ack", 1), ("reject", 2), ("nack", 3), ("ack", 3), ("ack", 4)} <= set(verbs)
        failures = [record for record in caplog.records if record.exc_info]
        assert [str(record.exc_info[1]) for record in failures] == ["first time"]


async def test_a_lease_lost_in_a_handler_is_logged_and_the_message_comes_again(caplog):
    async with MemoryClient() as client:
        client.peer.fill("orders", 1)
        attempts, again = [], asyncio.Event()

        async def handle(message):
            attempts.append(message.attempt)
            if len(attempts) == 1:
                client.cut()
                client.connect()
            else:
                again.set()

        async with client.subscribe("orders") as sub:
            run = asyncio.create_task(sub.run(handle))
            await again.wait()
            await sub.drain()
            await run
        assert attempts == [1, 2]
        assert any("is gone" in record.message for record in caplog.records)
        assert client.peer.acked() == [1]


async def test_a_cancelled_run_releases_what_its_handlers_held():
    async with MemoryClient() as client:
        client.peer.fill("orders", 3)
        started = asyncio.Semaphore(0)

        async def handle(_message):
            started.release()
            await asyncio.get_running_loop().create_future()

        async with client.subscribe("orders", prefetch=2) as sub:
            run = asyncio.create_task(sub.run(handle, concurrency=2))
            await started.acquire()
            await started.acquire()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            await turns(2)
            assert [verb for verb, _, _ in client.peer.settled][:2] == ["release", "release"]


async def test_run_raises_what_ended_the_subscription_after_its_handlers_are_done():
    async with MemoryClient() as client:
        client.peer.fill("orders", 1)
        started, go_on = asyncio.Event(), asyncio.Event()
        finished = []

        async def handle(message):
            started.set()
            await go_on.wait()
            finished.append(message.seq)

        async with client.subscribe("orders") as sub:
            run = asyncio.create_task(sub.run(handle, concurrency=3))
            await started.wait()
            client.link.say(frames.Error("forbidden", "no more", None, False, None, "s1"))
            client.poke()
            await turns(5)
            assert not run.done()
            go_on.set()
            with pytest.raises(Forbidden):
                await run
            assert finished == [1]


async def test_run_wants_at_least_one_handler_at_a_time():
    async with MemoryClient() as client, client.subscribe("orders") as sub:
        with pytest.raises(ValueError):
            await sub.run(lambda message: message.ack_confirmed(), concurrency=0)


async def test_a_drain_that_takes_too_long_says_so():
    async with MemoryClient() as client:
        client.peer.fill("orders", 1)
        async with client.subscribe("orders") as sub:
            message = await anext(sub)
            assert await sub.drain(timeout_s=0.02) is False
            message.ack()
            assert await sub.drain() is True
            assert sub._consumer.phase is Phase.DRAINING


async def test_what_the_gateway_does_not_confirm_does_not_keep_the_user(caplog, monkeypatch):
    monkeypatch.setattr("pushwire.shell.LEAVE_TIMEOUT_S", 0.02)
    async with MemoryClient() as client:
        async with client.subscribe("orders"):
            client.peer.answers = False
        assert any("did not confirm" in record.message for record in caplog.records)
