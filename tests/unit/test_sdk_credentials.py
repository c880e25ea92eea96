"""Tokens through the session: refreshed in band, refused, ended; what waits for a fresh one."""

from __future__ import annotations

import pytest

from pushwire import AuthError, Forbidden, State, Unauthorized
from pushwire.wire import frames
from support.sdk_pair import Pair, numbers
from support.sdk_peer import Peer


def test_a_token_is_refreshed_in_band_at_four_fifths_of_its_life():
    pair = Pair(Peer(expires_in_ms=100_000), refreshable=True)
    pair.step(79.9)
    assert pair.wanted == []
    pair.step(0.2)
    assert pair.wanted == ["expiring"]
    pair.session.credentials.renew("fresh")
    pair.pump()
    assert [op.token for op in pair.link.of(frames.Auth)] == ["fresh"]
    pair.step(79.8)
    assert pair.wanted == ["expiring"]
    pair.step(0.3)
    assert pair.wanted == ["expiring", "expiring"]


def test_a_token_that_cannot_change_is_not_refreshed():
    pair = Pair(Peer(expires_in_ms=100_000))
    pair.step(500)
    assert pair.wanted == []


def test_without_a_fresh_token_it_asks_again_in_half_the_time_left():
    pair = Pair(Peer(expires_in_ms=100_000), refreshable=True)
    pair.step(80.1)
    pair.session.credentials.none(pair.now)
    pair.step(9.8)
    assert len(pair.wanted) == 1
    pair.step(0.4)
    assert len(pair.wanted) == 2


def test_a_fresh_token_that_is_refused_is_fetched_once_more():
    pair = Pair(Peer(expires_in_ms=100_000), refreshable=True)
    pair.peer.refuse = lambda op: frames.Error("unauthorized", "no") if type(op) is frames.Auth else None
    pair.step(80.1)
    pair.session.credentials.renew("bad")
    pair.step(2)
    assert pair.wanted == ["expiring", "rejected"]
    assert pair.session.connected


@pytest.mark.parametrize(
    ("code", "kind"), [("bad_request", AuthError), ("forbidden", Forbidden), ("a_code_of_later", AuthError)]
)
@pytest.mark.parametrize("answered_with", [(), (frames.Welcome("s", "peer", "e1", 0, 0, 0, {}),)])
def test_a_fresh_token_that_is_refused_for_good_ends_the_client(code, kind, answered_with):
    pair = Pair(Peer(expires_in_ms=100_000), refreshable=True)
    pair.peer.refuse = lambda op: frames.Error(code, "the text") if type(op) is frames.Auth else None
    consumer, _ = pair.subscribe()
    pair.step(80.1)
    link, told = pair.link, pair.publish()
    pair.session.credentials.renew("fresh")
    for message in pair.session.data_to_send(pair.now):
        link.feed(message)
    for frame in answered_with:
        link.say(frame)
    pair.pump()
    assert pair.link is None
    assert pair.session.state is State.CLOSED
    assert pair.session.next_attempt() is None
    assert pair.wanted == ["expiring"]
    assert pair.changes[-1].error is pair.session.error
    with pytest.raises(kind) as caught:
        consumer.over()
    for error in (caught.value, told.error, pair.session.error):
        assert (type(error), error.code, error.retryable, str(error)) == (kind, code, False, "the text")


def test_a_fresh_token_for_a_connection_that_is_gone_is_ignored():
    pair = Pair(Peer(expires_in_ms=100_000), refreshable=True)
    pair.step(80.1)
    pair.cut()
    pair.session.credentials.renew("late, and not connected")
    pair.connect()
    pair.session.credentials.renew("late")
    pair.pump()
    assert not pair.link.of(frames.Auth)


def test_a_token_that_ended_holds_work_back_until_a_fresh_one():
    pair = Pair(refreshable=True)
    expired = True
    pair.peer.refuse = lambda op: (
        frames.Error("unauthorized", "expired") if expired and type(op) is frames.Publish else None
    )
    told = pair.publish()
    pair.pump()
    assert pair.wanted == ["rejected"]
    assert not told.done()
    later = pair.publish()
    pair.pump()
    assert len(pair.link.of(frames.Publish)) == 1
    expired = False
    pair.session.credentials.renew("fresh")
    pair.pump()
    assert (told.result.seq, later.result.seq) == (1, 2)


def test_a_subscription_ended_by_the_tokens_end_comes_back_with_a_fresh_one():
    pair = Pair(refreshable=True)
    pair.peer.fill("orders", 2)
    consumer, _ = pair.subscribe()
    (message,) = pair.take(consumer)
    pair.link._end(consumer.name)
    pair.link.say(frames.Error("unauthorized", "expired", None, False, None, consumer.name))
    pair.pump()
    assert pair.wanted == ["rejected"]
    assert message.lost.is_set()
    assert not consumer.over()
    pair.session.credentials.renew("fresh")
    pair.pump()
    assert numbers(list(consumer.queue)) == [1, 2]


def test_without_a_way_to_refresh_the_tokens_end_is_the_subscriptions():
    pair = Pair()
    consumer, _ = pair.subscribe()
    pair.link.say(frames.Error("unauthorized", "expired", None, False, None, consumer.name))
    pair.pump()
    with pytest.raises(Unauthorized):
        consumer.over()


def test_a_rejected_token_is_fetched_again_once_then_the_client_stops():
    pair = Pair(refreshable=True)
    told = pair.publish(timeout_s=1000)
    pair.session.data_to_send(pair.now)
    pair.cut(4401)
    attempt = pair.session.next_attempt()
    assert attempt[1] == "rejected"
    pair.now = attempt[0]
    pair.cut(4401)
    assert type(pair.session.error) is Unauthorized
    assert type(told.error) is Unauthorized


def test_a_client_that_fails_tells_everybody_and_drops_the_link():
    pair = Pair(refreshable=True)
    told = pair.publish()
    consumer, _ = pair.subscribe()
    pair.publish()
    pair.session.fail(Unauthorized("stop"), pair.now)
    pair._effects()
    assert pair.link is None
    assert told.result is not None
    with pytest.raises(Unauthorized):
        consumer.over()
    assert pair.session.state is State.CLOSED
