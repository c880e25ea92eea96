"""A message in user code: what it carries, `async with`, the verbs, lost leases, coalesced settlements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from pushwire import AlreadySettled, LeaseLost, Message, Reject, RequestTimeout, Retry, SettleError
from pushwire.consumer import HELD_MESSAGES_MAX, Consumer
from pushwire.wire import frames
from support.sdk_memory import MemoryClient, turns
from support.sdk_pair import Pair, Told
from support.sdk_peer import Peer


def held(count: int = 1, **options) -> tuple[Pair, list[Message], Consumer]:
    """A pair with so many messages in the user's hands."""
    pair = Pair()
    pair.peer.fill("orders", count)
    consumer, _ = pair.subscribe(prefetch=max(count, 1), **options)
    return pair, pair.take(consumer, count), consumer


def settled(pair: Pair) -> list[tuple[str, int]]:
    pair.pump()
    return [(verb, seq) for verb, _, seq in pair.peer.settled]


# --- what it carries -------------------------------------------------------------------------------------------


def test_a_message_carries_what_was_published():
    pair = Pair()
    pair.publish(
        {"n": 7}, id="a-1", key="k é", priority=3, headers={"traceparent": "00-x"}, content_type="application/json"
    )
    pair.pump()
    consumer, _ = pair.subscribe()
    (message,) = pair.take(consumer)
    assert (message.topic, message.id, message.seq, message.attempt) == ("orders", "a-1", 1, 1)
    assert (message.key, message.priority, message.headers) == ("k é", 3, {"traceparent": "00-x"})
    assert (message.content_type, message.encoding, message.redelivered) == ("application/json", "json", False)
    assert (message.data, message.json(), message.text) == (b'{"n":7}', {"n": 7}, '{"n":7}')
    assert message.expires_at == pair.now + 30
    assert "a-1" in repr(message)
    assert '"n"' not in repr(message)


def test_a_plain_message_has_no_extras():
    pair, (message,), _ = held()
    assert (message.key, message.headers, message.content_type, message.priority) == (None, {}, None, 1)
    assert message.published_at_ms == 1_700_000_000_001
    assert message.published_at == datetime(2023, 11, 14, 22, 13, 20, 1000, tzinfo=UTC)
    assert message.lease in pair.link.subs["s1"].held


def test_bodies_of_every_kind():
    pair = Pair()
    for data in (b"\x00\xff", "text"):
        pair.publish(data)
    pair.pump()
    consumer, _ = pair.subscribe()
    binary, string = pair.take(consumer, 2)
    assert (binary.data, binary.encoding) == (b"\x00\xff", "binary")
    with pytest.raises(UnicodeDecodeError):
        _ = binary.text
    with pytest.raises(ValueError):
        binary.json()
    assert (string.json(), string.data) == ("text", b'"text"')


# --- async with ------------------------------------------------------------------------------------------------


async def test_success_acks():
    pair, (message,), _ = held()
    async with message as same:
        assert same is message
    assert message.settled
    assert settled(pair) == [("ack", 1)]


async def test_an_exception_nacks_and_comes_out():
    pair, (message,), _ = held()
    with pytest.raises(ZeroDivisionError):
        async with message:
            _ = 1 / 0
    assert settled(pair)[0] == ("nack", 1)
    nack = pair.link.of(frames.Nack)[0]
    assert (nack.delay_ms, nack.error) == (None, "ZeroDivisionError: division by zero")


async def test_an_error_text_is_cut_and_made_sendable():
    pair, (message,), _ = held()
    with pytest.raises(RuntimeError):
        async with message:
            raise RuntimeError("\udcff" + "x" * 5000)
    pair.pump()
    assert len(pair.link.of(frames.Nack)[0].error) == 1024


async def test_a_cancellation_releases_and_comes_out():
    pair, (message,), _ = held()
    with pytest.raises(asyncio.CancelledError):
        async with message:
            raise asyncio.CancelledError
    assert settled(pair)[0] == ("release", 1)


async def test_retry_and_reject_steer_and_stay_inside():
    pair, (first, second), _ = held(2)
    async with first:
        raise Retry(1.5, "later")
    async with second:
        raise Reject("bad card")
    assert settled(pair)[:2] == [("nack", 1), ("reject", 2)]
    assert (pair.link.of(frames.Nack)[0].delay_ms, pair.link.of(frames.Nack)[0].error) == (1500, "later")
    assert pair.link.of(frames.Reject)[0].error == "bad card"


@pytest.mark.parametrize("raised", [None, ValueError, Retry, Reject])
async def test_a_verb_inside_wins(raised):
    pair, (message,), _ = held()
    caught = None
    try:
        async with message:
            message.release()
            if raised is not None:
                raise raised
    except ValueError as exc:
        caught = exc
    assert (caught is not None) == (raised is ValueError)
    assert settled(pair)[:1] == [("release", 1)]
    assert not pair.link.of(frames.Nack) + pair.link.of(frames.Reject) + pair.link.of(frames.Ack)


async def test_a_lease_lost_meanwhile_is_not_silent():
    pair, (message,), _ = held()
    with pytest.raises(LeaseLost):
        async with message:
            pair.cut()
    assert not message.settled


def block(pair: Pair) -> None:
    """The handler has held up the event loop until the lease ran out."""
    pair.now += 30


async def lose_and_raise(
    pair: Pair, message: Message, lose: Callable[[Pair], None], raised: type[BaseException]
) -> None:
    async with message:
        lose(pair)
        raise raised


@pytest.mark.parametrize("lose", [Pair.cut, block])
@pytest.mark.parametrize("raised", [ValueError, asyncio.CancelledError])
async def test_a_failure_matters_more_than_a_lost_lease(raised, lose):
    pair, (message,), _ = held()
    with pytest.raises(raised):
        await lose_and_raise(pair, message, lose, raised)
    assert not message.settled
    assert settled(pair) == []


@pytest.mark.parametrize("raised", [Retry, Reject])
async def test_what_cannot_be_steered_any_more_says_so(raised):
    pair, (message,), _ = held()
    with pytest.raises(LeaseLost):
        await lose_and_raise(pair, message, Pair.cut, raised)


# --- verbs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["ack", "nack", "reject", "release", "extend"])
def test_settled_once_is_settled(verb):
    _, (message,), _ = held()
    message.ack()
    with pytest.raises(AlreadySettled):
        getattr(message, verb)()


@pytest.mark.parametrize("verb", ["ack", "nack", "reject", "release", "extend"])
def test_after_the_connection_the_lease_is_void(verb):
    pair, (message,), _ = held()
    pair.cut()
    assert message.lost.is_set()
    with pytest.raises(LeaseLost) as caught:
        getattr(message, verb)()
    assert isinstance(caught.value, SettleError)
    assert caught.value.code == "stale_lease"
    pair.connect()
    with pytest.raises(LeaseLost):
        getattr(message, verb)()


@pytest.mark.parametrize("delay_s", [-0.001, 900.001])
def test_a_delay_out_of_bounds_settles_nothing(delay_s):
    pair, (message,), _ = held()
    with pytest.raises(ValueError):
        message.nack(delay_s)
    message.ack()
    assert settled(pair) == [("ack", 1)]


def test_settlements_of_one_turn_are_lists_in_one_message():
    pair, messages, _ = held(60)
    for message in messages[:50]:
        message.ack()
    messages[50].nack(1.0, "a")
    messages[51].nack(1.0, "a")
    messages[52].nack(2.0, "a")
    messages[53].reject("b")
    messages[54].release()
    messages[55].extend()
    pair.pump()
    (ops,) = [ops for ops in pair.link.messages if any(type(op) is frames.Ack for op in ops)]
    assert [(type(op).__name__, len(op.leases)) for op in ops] == [
        ("Extend", 1), ("Ack", 50), ("Nack", 2), ("Nack", 1), ("Reject", 1), ("Release", 1),
    ]  # fmt: skip
    assert all(op.ref is None for op in ops if type(op) is not frames.Extend)


def test_more_settlements_than_one_operation_holds():
    pair = Pair()
    pair.peer.fill("orders", 1500)
    first, _ = pair.subscribe(prefetch=1000)
    second, _ = pair.subscribe(prefetch=1000)
    for message in pair.take(first, 1000) + pair.take(second, 500):
        message.ack()
    pair.pump()
    assert [len(op.leases) for op in pair.link.of(frames.Ack)] == [1000, 500]
    assert sorted(pair.peer.acked()) == list(range(1, 1501))


async def test_a_lease_extended_and_acked_in_one_turn():
    pair, (message,), _ = held()
    message.extend()
    message.ack()
    assert settled(pair) == [("ack", 1)]
    assert not pair.link.of(frames.Extend)
    assert not pair.notes


def test_settlements_lost_with_the_connection_are_noted():
    pair, (message,), _ = held()
    message.ack()
    pair.cut()
    assert "1 settlements were not sent" in pair.notes[0].text


def test_a_stale_ack_is_noted():
    pair, (message,), _ = held()
    pair.link.expire(message.lease)
    message.ack()
    pair.pump()
    assert "1 settlements came too late" in pair.notes[0].text


# --- confirmed -------------------------------------------------------------------------------------------------


async def test_a_confirmed_ack_returns_after_the_gateways_word():
    async with MemoryClient() as client:
        client.peer.fill("orders", 2)
        async with client.subscribe("orders") as sub:
            first, second = await anext(sub), await anext(sub)
            await asyncio.gather(first.ack_confirmed(), second.ack_confirmed())
            assert client.peer.acked() == [1, 2]
            assert [len(op.leases) for op in client.link.of(frames.Ack)] == [2]
            with pytest.raises(AlreadySettled):
                await first.ack_confirmed()


async def test_a_stale_one_among_confirmed_acks_is_told_alone():
    async with MemoryClient() as client:
        client.peer.fill("orders", 2)
        async with client.subscribe("orders") as sub:
            stale, good = await anext(sub), await anext(sub)
            client.link.expire(stale.lease)
            outcomes = await asyncio.gather(stale.ack_confirmed(), good.ack_confirmed(), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [LeaseLost, type(None)]
            assert client.peer.acked() == [2]


async def test_a_confirmation_lost_with_the_connection_is_an_error():
    async with MemoryClient() as client:
        client.peer.fill("orders", 1)
        async with client.subscribe("orders") as sub:
            message = await anext(sub)
            client.peer.answers = False
            confirming = asyncio.create_task(message.ack_confirmed())
            await turns(5)
            assert client.peer.acked() == [1]
            client.cut()
            with pytest.raises(LeaseLost, match="before the ack was confirmed"):
                await confirming


async def test_a_confirmation_that_does_not_come_times_out():
    async with MemoryClient() as client:
        client.peer.fill("orders", 1)
        async with client.subscribe("orders") as sub:
            message = await anext(sub)
            client.peer.answers = False
            sub._consumer.request_timeout_s = 0.01
            with pytest.raises(RequestTimeout):
                await message.ack_confirmed()
            client.peer.answers = True


async def test_an_error_without_a_list_is_for_all():
    async with MemoryClient() as client:
        client.peer.fill("orders", 1)
        async with client.subscribe("orders") as sub:
            message = await anext(sub)
            client.peer.refuse = lambda op: (
                frames.Error("unavailable", "unknown", None, True) if type(op) is frames.Ack else None
            )
            with pytest.raises(SettleError) as caught:
                await message.ack_confirmed()
            assert caught.value.code == "unavailable"


# --- time ------------------------------------------------------------------------------------------------------


def test_a_lease_that_ran_out_is_lost_to_its_handler():
    pair, (message,), _ = held()
    pair.step(29.9)
    assert not message.lost.is_set()
    pair.step(0.2)
    assert message.lost.is_set()
    with pytest.raises(LeaseLost):
        message.ack()


@pytest.mark.parametrize("extend", [False, True])
async def test_what_ran_out_while_the_loop_was_blocked_is_lost_to_every_verb(extend):
    pair, (first, second), _ = held(2, extend=extend)
    pair.now += 29.999
    first.ack()
    pair.now += 0.001  # no timer has run since
    for verb in (second.ack, second.nack, second.reject, second.release, second.extend):
        with pytest.raises(LeaseLost):
            verb()
    with pytest.raises(LeaseLost):
        await second.ack_confirmed()
    with pytest.raises(AlreadySettled):
        first.ack()
    assert not second.settled
    pair.step(0)
    assert second.lost.is_set()
    assert settled(pair) == [("ack", 1)]
    assert not pair.link.of(frames.Extend)


async def test_success_that_blocked_the_loop_for_too_long_is_not_silent():
    pair, (message,), _ = held()
    with pytest.raises(LeaseLost):
        async with message:
            pair.now += 30


def test_what_waited_too_long_here_is_given_back_uncounted():
    pair = Pair()
    pair.peer.fill("orders", 3)
    consumer, _ = pair.subscribe()
    (message,) = pair.take(consumer)
    pair.step(19.9)
    assert len(consumer.queue) == 2
    pair.step(0.2)
    # the peer pushes them again at once, as a gateway would after its hold
    assert settled(pair) == [("release", 2), ("release", 3)]
    assert [one.attempt for one in consumer.queue] == [2, 2]
    message.ack()
    assert settled(pair)[-1] == ("ack", 1)


def test_extend_renews_everything_held_at_a_third_of_its_time():
    pair, (message,), consumer = held(1, extend=True)
    pair.peer.fill("orders", 2)
    pair.step(9.9)
    assert not pair.link.of(frames.Extend)
    pair.step(0.2)
    assert [op.leases for op in pair.link.of(frames.Extend)] == [[message.lease]]
    assert message.expires_at == pytest.approx(pair.now + 30, abs=0.2)
    pair.step(300)
    assert not message.lost.is_set()
    assert len(pair.link.of(frames.Extend)) == 31
    message.ack()
    assert settled(pair)[-1] == ("ack", 1)
    assert consumer.due_at() == pytest.approx(pair.now + 10, abs=1)


def test_a_lease_lost_in_the_local_queue_is_not_handed_out():
    pair = Pair()
    pair.peer.fill("orders", 3)
    consumer, _ = pair.subscribe(prefetch=3, extend=True)
    stale = consumer.queue[1]
    pair.link.expire(stale.lease)
    pair.link.subs[consumer.name].prefetch = 2
    pair.step(11)
    assert stale.lost.is_set()
    assert [message.seq for message in consumer.queue] == [1, 3]


def test_an_extension_that_came_too_late_loses_only_its_own():
    pair, (stale, good), _ = held(2)
    pair.link.expire(stale.lease)
    stale.extend()
    good.extend()
    pair.pump()
    assert stale.lost.is_set()
    assert not good.lost.is_set()
    good.ack()
    assert ("ack", 2) in settled(pair)


def test_extended_by_hand_a_lease_lives_for_one_more_timeout():
    pair, (message, other), _ = held(2)
    pair.step(20)
    message.extend()
    pair.pump()
    pair.step(29)
    assert other.lost.is_set()
    assert not message.lost.is_set()
    pair.step(2)
    assert message.lost.is_set()


async def test_the_flag_is_made_on_first_use_and_tells_who_waits():
    pair, (looked_at, never), _ = held(2)
    assert looked_at._lost_event is None
    waiting = asyncio.create_task(looked_at.lost.wait())
    await turns()
    pair.cut()
    assert await waiting
    assert never._lost_event is None
    assert never.lost.is_set()


def test_a_gateway_that_ignores_the_window_cannot_fill_the_memory():
    pair = Pair(Peer())
    consumer, _ = pair.subscribe(prefetch=1000)
    pair.link.subs[consumer.name].prefetch = HELD_MESSAGES_MAX + 500
    pair.peer.fill("orders", HELD_MESSAGES_MAX)
    pair.pump()
    pair.peer.fill("orders", 10)
    pair.session.receive(pair.link.take() or b"", pair.now)
    assert len(consumer.queue) == HELD_MESSAGES_MAX


def test_a_waiter_who_left_is_not_told():
    pair, (message,), _ = held()
    told = Told()
    told.gone = True
    message._holder.ack_confirmed(message.lease, told)
    pair.pump()
    assert told.result is None
    assert pair.peer.acked() == [1]
