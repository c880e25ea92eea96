"""A session that comes back within its grace: what is held stays valid, what was said is said, the rest is given up."""

from __future__ import annotations

import json

import pytest

from pushwire import AuthError, LeaseLost, State
from pushwire import settlements as module
from pushwire.consumer import Phase
from pushwire.wire import frames
from support.sdk_memory import MemoryClient, turns
from support.sdk_pair import Pair, Told, numbers

GRACE_S = 30.0


@pytest.fixture
def pair():
    pair = Pair(resume_grace_s=GRACE_S)
    pair.peer.fill("orders", 6)
    return pair


def _auths(link):
    return [(op.session, op.resume_grace_ms) for op in link.of(frames.Auth)]


def refuse_auth(pair: Pair, code: str, *, retryable: bool = False) -> None:
    """The gateway answers every `auth` so."""
    pair.peer.refuse = lambda op: frames.Error(code, "no", retryable=retryable) if type(op) is frames.Auth else None


def test_the_grace_is_asked_for_with_the_token_before_the_first_subscription(pair):
    pair.subscribe()
    (auth,) = pair.link.of(frames.Auth)
    assert (auth.token, auth.session, auth.resume_grace_ms) == ("a-token", None, 30_000)
    kinds = [type(op) for op in pair.link.ops]
    assert kinds.index(frames.Auth) < kinds.index(frames.Subscribe)
    assert "a-token" not in repr(auth)


def test_without_a_grace_nothing_is_asked():
    pair = Pair()
    pair.subscribe()
    assert not pair.link.of(frames.Auth)


def test_messages_in_hand_stay_valid_and_are_acked_after_the_return(pair):
    consumer, _ = pair.subscribe(prefetch=3)
    held = pair.take(consumer, 2)
    pair.cut()
    assert not any(message.lost.is_set() for message in held)
    held[0].ack()
    pair.connect()
    held[1].ack()
    pair.pump()
    assert _auths(pair.link) == [("secret-0", 30_000)]
    assert not pair.link.of(frames.Subscribe)
    assert pair.peer.acked() == [1, 2]
    assert not pair.link.of(frames.Release)
    assert all(message.settled for message in held)
    assert consumer.phase is Phase.ACTIVE
    assert numbers(pair.take(consumer, 3)) == [3, 4, 5]


def test_nothing_of_leases_is_said_before_the_session_is_back(pair):
    consumer, _ = pair.subscribe()
    message = pair.take(consumer)[0]
    pair.cut()
    refuse_auth(pair, "busy", retryable=True)
    pair.connect()
    message.ack()
    pair.subscribe("other")
    assert {type(op) for op in pair.link.ops} == {frames.Auth}
    pair.peer.refuse = lambda _op: None
    pair.step(1)
    assert pair.peer.acked() == [1]
    assert [op.topic for op in pair.link.of(frames.Subscribe)] == ["other"]


def test_a_session_that_is_asked_for_in_a_way_that_is_refused_for_good_ends_the_client(pair):
    consumer, _ = pair.subscribe()
    message = pair.take(consumer)[0]
    pair.cut()
    refuse_auth(pair, "bad_request")
    pair.connect()
    assert pair.session.state is State.CLOSED
    assert message.lost.is_set()
    with pytest.raises(AuthError, match="no"):
        consumer.over()


def test_a_session_whose_token_is_not_accepted_any_more_begins_anew(pair):
    consumer, _ = pair.subscribe()
    message = pair.take(consumer)[0]
    pair.cut()
    refuse_auth(pair, "unauthorized")
    pair.connect()
    assert message.lost.is_set()
    assert pair.session.connected
    assert pair.link.of(frames.Subscribe)


def test_a_second_loss_before_the_return_keeps_the_first_deadline(pair):
    pair.peer.ack_timeout_ms = 600_000
    consumer, _ = pair.subscribe()
    message = pair.take(consumer)[0]
    pair.cut()
    pair.step(GRACE_S - 10)
    pair.cut(reason="no connection")
    assert not message.lost.is_set()
    pair.step(11)
    assert message.lost.is_set()
    assert not consumer.queue


def test_a_failed_dial_does_not_lose_what_is_held(pair):
    consumer, _ = pair.subscribe()
    message = pair.take(consumer)[0]
    for _ in range(3):
        pair.cut()
    pair.connect()
    message.ack()
    pair.pump()
    assert pair.peer.acked() == [1]


def test_a_token_that_is_refused_on_the_way_back_does_not_lose_what_is_held():
    pair = Pair(resume_grace_s=GRACE_S, refreshable=True)
    pair.peer.fill("orders", 1)
    consumer, _ = pair.subscribe()
    message = pair.take(consumer)[0]
    pair.cut()
    assert pair.session.next_attempt() is not None
    pair.session.opened(pair.now, "a-token-that-has-ended")
    refusal = {"op": "goodbye", "code": 4401, "reason": "unauthorized", "reconnect": True}
    pair.session.receive(json.dumps(refusal), pair.now)
    pair.cut(4401)
    assert not message.lost.is_set()
    pair.connect()
    message.ack()
    pair.pump()
    assert pair.peer.acked() == [1]


def test_a_session_that_is_gone_loses_its_messages(pair):
    consumer, _ = pair.subscribe(prefetch=2)
    held = pair.take(consumer, 2)
    pair.cut()
    held[0].ack()
    pair.peer.end_grace()
    pair.connect()
    pair.pump()
    assert held[1].lost.is_set()
    with pytest.raises(LeaseLost):
        held[1].ack()
    assert pair.peer.acked() == []
    assert numbers(pair.take(consumer, 2)) == [1, 2]
    assert any("1 settlements were not sent" in note.text for note in pair.notes)


def test_a_lease_that_ended_meanwhile_is_lost_and_the_others_are_not(pair):
    consumer, _ = pair.subscribe(prefetch=3)
    held = pair.take(consumer, 3)
    pair.cut()
    (subs,) = pair.peer.away.values()
    (sub,) = subs.values()
    del sub.held[held[1].lease]
    pair.connect()
    assert [message.lost.is_set() for message in held] == [False, True, False]


def test_a_subscription_that_is_gone_loses_its_messages_and_is_asked_for_again(pair):
    pair.peer.fill("prices", 1)
    consumer, _ = pair.subscribe(prefetch=1)
    other, _ = pair.subscribe("prices", prefetch=1)
    (message,), (kept,) = pair.take(consumer), pair.take(other)
    pair.cut()
    (subs,) = pair.peer.away.values()
    sub = subs.pop(consumer.name)
    pair.peer.take_back(sub.key, list(sub.held.values()))
    pair.connect()
    pair.pump()
    assert (message.lost.is_set(), kept.lost.is_set()) == (True, False)
    assert [op.sub for op in pair.link.of(frames.Subscribe)] == [consumer.name]
    assert [again.attempt for again in pair.take(consumer)] == [2]


def test_deliveries_that_never_arrived_are_given_back(pair):
    consumer, _ = pair.subscribe(prefetch=4)
    assert len(pair.take(consumer, 4)) == 4
    pair.link.subs[consumer.name].prefetch = 6
    pair.link.push()
    pair.link.out.clear()  # leased, and lost on the way
    pair.cut()
    pair.connect()
    pair.pump()
    assert sorted(seq for verb, _, seq in pair.peer.settled if verb == "release") == [5, 6]
    assert not any(message.lost.is_set() for message in consumer.leases.values())


def test_what_was_said_on_the_dying_connection_is_said_again(pair):
    consumer, _ = pair.subscribe(prefetch=5)
    acked, nacked, rejected, kept, confirmed = pair.take(consumer, 5)
    told = Told()
    acked.ack()
    nacked.nack(delay_s=2, error="later")
    rejected.reject("never")
    consumer.ack_confirmed(confirmed.lease, told)
    assert pair.session.data_to_send(pair.now)  # written, and lost with the connection
    pair.cut()
    pair.connect()
    pair.pump()
    assert pair.peer.settled == [
        ("ack", "default", 1),
        ("ack", "default", 5),
        ("nack", "default", 2),
        ("reject", "default", 3),
    ]
    assert told.done()
    assert told.error is None
    (nack,) = pair.link.of(frames.Nack)
    assert (nack.delay_ms, nack.error) == (2000, "later")
    assert not kept.lost.is_set()


def test_a_confirmed_ack_whose_answer_was_lost_is_not_claimed(pair):
    consumer, _ = pair.subscribe(prefetch=1)
    message = pair.take(consumer)[0]
    told = Told()
    consumer.ack_confirmed(message.lease, told)
    pair.peer.answers = False
    pair.pump()
    assert pair.peer.acked() == [1]
    pair.cut()
    assert not told.done()
    pair.peer.answers = True
    pair.connect()
    assert type(told.error) is LeaseLost
    assert pair.peer.acked() == [1]


def test_what_is_remembered_is_bounded(pair, monkeypatch):
    monkeypatch.setattr(module, "SENT_LEASES_MAX", 3)
    consumer, _ = pair.subscribe()
    for message in pair.take(consumer, 6):
        message.ack()
    pair.pump()
    assert len(pair.session.settlements._sent) == 3


@pytest.mark.parametrize("code", [1012, 4401, 4409])
def test_a_gateway_that_sent_us_away_keeps_nothing(pair, code):
    consumer, _ = pair.subscribe()
    message = pair.take(consumer)[0]
    pair.link.goodbye(code)
    pair.pump()
    assert message.lost.is_set()


def test_a_gateway_that_lost_us_does(pair):
    consumer, _ = pair.subscribe()
    message = pair.take(consumer)[0]
    pair.link.goodbye(4001)
    pair.pump()
    assert not message.lost.is_set()


def test_a_subscription_left_while_away_is_left_at_the_gateway(pair):
    consumer, _ = pair.subscribe(prefetch=2)
    pair.take(consumer, 2)
    pair.cut()
    pair.session.roster.remove(consumer, Told())
    pair.connect()
    pair.pump()
    assert [op.sub for op in pair.link.of(frames.Unsubscribe)] == [consumer.name]
    assert pair.peer.held() == 0


def test_a_subscription_that_was_being_granted_is_asked_for_anew(pair):
    first, _ = pair.subscribe(prefetch=1)
    pair.peer.answers = False
    consumer, told = pair.subscribe("other")
    assert not told.done()
    pair.cut()
    pair.peer.answers = True
    pair.connect()
    pair.pump()
    kinds = [type(op) for op in pair.link.ops if getattr(op, "sub", None) == consumer.name]
    assert kinds == [frames.Unsubscribe, frames.Subscribe]
    assert told.done()
    assert told.error is None
    assert first.phase is Phase.ACTIVE


def test_a_lease_runs_out_while_away(pair):
    pair.peer.ack_timeout_ms = 5000
    consumer, _ = pair.subscribe(prefetch=1)
    message = pair.take(consumer)[0]
    pair.cut()
    pair.step(4.9)
    assert not message.lost.is_set()
    pair.step(0.2)
    assert message.lost.is_set()


def test_an_extension_is_not_claimed_while_nobody_hears_it(pair):
    pair.peer.ack_timeout_ms = 9000
    consumer, _ = pair.subscribe(prefetch=1, extend=True)
    message = pair.take(consumer)[0]
    ends = message.expires_at
    pair.cut()
    pair.step(8)
    assert message.expires_at == ends
    pair.step(2)
    assert message.lost.is_set()


def test_a_drain_waits_for_the_return(pair):
    consumer, _ = pair.subscribe(prefetch=2)
    message = pair.take(consumer)[0]
    pair.cut()
    told = Told()
    pair.session.drain(told)
    message.ack()
    assert not told.done()
    pair.connect()
    pair.pump()
    assert told.done()
    assert pair.peer.acked() == [1]


def test_a_paused_subscription_is_paused_after_the_return(pair):
    consumer, _ = pair.subscribe(prefetch=1)
    pair.cut()
    consumer.paused = True
    pair.connect()
    pair.pump()
    assert [op.prefetch for op in pair.link.of(frames.Flow)] == [0]


def test_closing_gives_everything_back_at_once(pair):
    pair.subscribe(prefetch=4)
    pair.session.close()
    pair.pump()
    assert pair.peer.held() == 0
    pair.cut()
    assert not pair.peer.away


def test_a_gateway_of_before_knows_no_sessions():
    pair = Pair(resume_grace_s=GRACE_S, connect=False)
    pair.peer.fill("orders", 1)
    pair.peer.refuse = lambda op: frames.Ok(op.ref, expires_in_ms=1000) if type(op) is frames.Auth else None
    pair.connect()
    consumer, _ = pair.subscribe()
    message = pair.take(consumer)[0]
    pair.cut()
    assert message.lost.is_set()
    pair.connect()
    assert message.lost.is_set()
    assert len(pair.link.of(frames.Subscribe)) == 1


async def test_a_handler_that_outlives_the_connection_acks():
    async with MemoryClient(resume_grace_s=30) as client, client.subscribe("orders", prefetch=2) as sub:
        client.peer.fill("orders", 2)
        client.poke()
        message = await anext(sub)
        client.cut()
        client.connect()
        async with message:
            await turns(2)
        await turns(4)
        assert client.peer.acked() == [1]
        assert (await anext(sub)).seq == 2


@pytest.mark.parametrize("grace_s", [-1, 61])
def test_a_grace_beyond_the_protocol_is_refused(grace_s):
    with pytest.raises(ValueError):
        MemoryClient(resume_grace_s=grace_s)
