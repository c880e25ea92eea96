"""The session over a fake wire: reconnects, restored subscriptions, silence, goodbyes, tokens, drains."""

from __future__ import annotations

import logging

import pytest

from pushwire import Forbidden, Kicked, ProtocolError, PushwireError, State, SubscribeError
from pushwire.backoff import Backoff
from pushwire.consumer import Phase
from pushwire.wire import frames
from support.sdk_pair import Pair, Told, numbers
from support.sdk_peer import Peer


def states(pair: Pair) -> list[State]:
    return [change.state for change in pair.changes]


# --- connecting ------------------------------------------------------------------------------------------------


def test_the_first_connection_and_its_states():
    pair = Pair(connect=False)
    assert pair.session.state is State.NEW
    pair.session.next_attempt()
    pair._effects()
    assert states(pair) == [State.CONNECTING]
    pair.connect()
    assert pair.session.connected
    assert states(pair) == [State.CONNECTING, State.CONNECTED]


def test_nothing_is_said_before_the_welcome():
    pair = Pair(Peer(), connect=False)
    pair.peer.greets = False
    pair.publish()
    pair.subscribe()
    pair.connect()
    assert pair.link.ops == []
    pair.link.greet()
    pair.pump()
    assert [type(op) for op in pair.link.ops] == [frames.Subscribe, frames.Publish]


def test_a_gateway_that_does_not_greet_is_left():
    pair = Pair(connect=False)
    pair.peer.greets = False
    pair.connect()
    pair.step(9.9)
    assert pair.link is not None
    pair.step(0.2)
    assert pair.link is None


def test_attempts_that_fail_come_later_and_later_and_one_that_lasts_starts_afresh():
    pair = Pair(connect=False, backoff=Backoff(0.5, 20))
    waits = []
    for _ in range(8):
        pair.session.next_attempt()
        pair.cut(reason="refused")
        waits.append(pair.session.next_attempt()[0] - pair.now)
        pair.step(waits[-1])
    assert waits == pytest.approx([0.25, 0.5, 1, 2, 4, 8, 10, 10])
    pair.connect()
    pair.step(6)
    pair.cut()
    assert pair.session.next_attempt()[0] - pair.now == pytest.approx(0.25)
    assert pair.changes[-1].state is State.RECONNECTING
    assert pair.changes[-1].retry_in_s == pytest.approx(0.25)


def test_a_gateway_newer_than_this_client_is_understood_as_far_as_possible():
    pair = Pair()
    pair.session.receive(b'{"op":"hologram","x":1}\n{"op":"ping","ref":7,"new":[]}\n{"op":"messages"}', pair.now)
    pair.pump()
    assert pair.link.of(frames.Pong) == [frames.Pong(7)]
    assert pair.session.connected


def test_replies_to_nobody_are_ignored():
    pair = Pair()
    pair.session.receive(b'{"op":"ok","ref":99}\n{"op":"ok","ref":"x"}\n{"op":"pong"}', pair.now)
    pair.session.receive(b'{"op":"gap","sub":"s","from":1,"to":2}', pair.now)
    assert pair.session.connected


# --- silence ---------------------------------------------------------------------------------------------------


def test_silence_is_asked_about_and_then_ends_the_connection():
    pair = Pair()
    pair.peer.answers = False
    pair.step(29.9)
    assert not pair.link.of(frames.Ping)
    pair.step(0.2)
    assert len(pair.link.of(frames.Ping)) == 1
    pair.step(9.8)
    assert pair.link is not None
    pair.step(0.2)
    assert pair.link is None
    assert "dropped" in str(pair.changes[-1].error)


def test_an_answer_to_the_question_keeps_the_connection():
    pair = Pair()
    link = pair.link
    pair.step(120)
    assert pair.link is link
    assert len(link.of(frames.Ping)) == 4


def test_any_bytes_are_a_sign_of_life():
    pair = Pair()
    pair.peer.answers = False
    for _ in range(10):
        pair.step(20)
        pair.session.liveness.heard(pair.now)  # a part of a message
    assert pair.link is not None
    assert not pair.link.of(frames.Ping)


def test_a_gateway_without_a_heartbeat_is_not_watched():
    pair = Pair(Peer(heartbeat_ms=0, pong_timeout_ms=0))
    pair.step(10_000)
    assert pair.link is not None
    assert not pair.link.of(frames.Ping)


# --- the end of a connection -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "kind"), [(4403, Kicked), (4400, ProtocolError), (1009, ProtocolError)])
def test_a_final_close_ends_everything_with_its_error(code, kind):
    pair = Pair()
    consumer, _ = pair.subscribe()
    pair.cut(code)
    assert pair.session.state is State.CLOSED
    assert type(pair.session.error) is kind
    assert pair.session.next_attempt() is None
    with pytest.raises(PushwireError) as caught:
        consumer.over()
    assert type(caught.value) is kind


def test_goodbye_says_when_to_come_back():
    pair = Pair()
    pair.link.goodbye(1012, retry_after_ms=5000)
    pair.pump()
    assert pair.session.state is State.RECONNECTING
    assert pair.session.next_attempt()[0] - pair.now == pytest.approx(5)


def test_goodbye_can_be_for_good():
    pair = Pair()
    pair.link.goodbye(4403, reconnect=False)
    pair.pump()
    assert type(pair.session.error) is Kicked


def test_after_goodbye_settlements_still_go_and_no_subscription_begins():
    pair = Pair()
    pair.peer.fill("orders", 1)
    consumer, _ = pair.subscribe()
    (message,) = pair.take(consumer)
    pair.link.say(frames.Goodbye(1012, "restarting", True, 500))
    pair.pump()
    message.ack()
    _, waiting = pair.subscribe(group="late")
    pair.pump()
    assert pair.peer.acked() == [1]
    assert not waiting.done()
    pair.cut(1012)
    pair.connect()
    assert waiting.done()


def test_closing_sends_what_is_left():
    pair = Pair()
    pair.peer.fill("orders", 2)
    consumer, _ = pair.subscribe()
    first, second = pair.take(consumer, 2)
    first.ack()
    pair.session.close()
    pair.pump()
    assert pair.peer.acked() == [1]
    assert consumer.over()
    assert second.lost.is_set()
    pair.cut(1000)
    assert pair.session.state is State.CLOSED
    assert pair.session.error is None
    assert pair.session.next_attempt() is None


# --- subscriptions ---------------------------------------------------------------------------------------------


def test_a_subscription_is_granted_and_fed_within_its_window():
    pair = Pair()
    pair.peer.fill("orders", 10)
    consumer, told = pair.subscribe(prefetch=4, ack_timeout_ms=5000, start="earliest")
    assert told.done()
    assert told.error is None
    assert (consumer.prefetch, consumer.ack_timeout_s, consumer.phase) == (4, 5.0, Phase.ACTIVE)
    assert len(consumer.queue) == 4
    asked = pair.link.of(frames.Subscribe)[0]
    assert (asked.topic, asked.group, asked.prefetch, asked.ack_timeout_ms, asked.start) == (
        "orders", "default", 4, 5000, "earliest",
    )  # fmt: skip


def test_subscriptions_are_restored_and_what_was_not_handed_out_comes_again():
    pair = Pair()
    pair.peer.fill("orders", 3)
    consumer, _ = pair.subscribe(prefetch=3)
    (message,) = pair.take(consumer)
    pair.cut()
    assert len(consumer.queue) == 0
    assert consumer.phase is Phase.OPENING
    assert message.lost.is_set()
    pair.connect()
    assert numbers(list(consumer.queue)) == [1, 2, 3]
    assert [one.attempt for one in consumer.queue] == [2, 2, 2]
    assert consumer.name == pair.link.of(frames.Subscribe)[0].sub


def test_several_subscriptions_have_names_of_their_own():
    pair = Pair()
    first, _ = pair.subscribe()
    second, _ = pair.subscribe(group="other")
    assert first.name != second.name
    pair.cut()
    pair.connect()
    assert {op.sub for op in pair.link.of(frames.Subscribe)} == {first.name, second.name}


@pytest.mark.parametrize(("code", "kind"), [("forbidden", Forbidden), ("group_not_found", SubscribeError)])
def test_a_refused_subscription_tells_its_caller(code, kind):
    pair = Pair()
    pair.peer.refuse = lambda op: frames.Error(code, "no") if type(op) is frames.Subscribe else None
    consumer, told = pair.subscribe()
    assert type(told.error) is kind
    assert told.error.code == code
    assert consumer.phase is Phase.ENDED
    assert not pair.session.roster.consumers


def test_a_busy_gateway_is_asked_again():
    pair = Pair()
    pair.peer.refuse = lambda op: (
        frames.Error("rate_limited", "slow", None, True, 700)
        if type(op) is frames.Subscribe and pair.now < 1001
        else None
    )
    _, told = pair.subscribe()
    pair.step(0.6)
    assert len(pair.link.of(frames.Subscribe)) == 1
    pair.step(1)
    assert told.done()
    assert told.error is None


def test_a_restored_subscription_may_be_refused():
    pair = Pair()
    consumer, _ = pair.subscribe()
    pair.peer.refuse = lambda op: frames.Error("forbidden", "no more") if type(op) is frames.Subscribe else None
    pair.cut()
    pair.connect()
    with pytest.raises(Forbidden):
        consumer.over()


def test_the_gateway_can_end_one_subscription():
    pair = Pair()
    pair.peer.fill("orders", 2)
    ended, _ = pair.subscribe()
    other, _ = pair.subscribe(group="other")
    (message,) = pair.take(ended)
    pair.link.say(frames.Error("forbidden", "no more", None, False, None, ended.name))
    pair.pump()
    assert message.lost.is_set()
    assert len(ended.queue) == 0
    with pytest.raises(Forbidden):
        ended.over()
    assert other.phase is Phase.ACTIVE


def test_pause_and_resume_are_the_window_and_survive_a_reconnect():
    pair = Pair()
    pair.peer.fill("orders", 4)
    consumer, _ = pair.subscribe(prefetch=2)
    consumer.paused = True
    pair.session.roster.set_flow(consumer)
    pair.pump()
    assert pair.link.of(frames.Flow)[-1].prefetch == 0
    pair.cut()
    pair.connect()
    assert pair.link.of(frames.Subscribe)[0].prefetch == 0
    assert len(consumer.queue) == 0
    consumer.paused = False
    pair.session.roster.set_flow(consumer)
    pair.pump()
    assert pair.link.of(frames.Flow)[-1].prefetch == 2
    assert len(consumer.queue) == 2


def test_a_window_change_that_came_too_fast_is_repeated():
    pair = Pair()
    consumer, _ = pair.subscribe()
    pair.peer.refuse = lambda op: (
        frames.Error("rate_limited", "slow", None, True, 100) if type(op) is frames.Flow and pair.now < 1000.5 else None
    )
    consumer.paused = True
    pair.session.roster.set_flow(consumer)
    pair.step(1)
    assert pair.link.subs[consumer.name].prefetch == 0


@pytest.mark.parametrize(("hint_ms", "soonest_s", "latest_s"), [(2**53 - 1, 899, 901), (-5, 0.1, 1)])
def test_a_request_refused_with_a_hint_that_makes_no_sense_is_repeated_all_the_same(hint_ms, soonest_s, latest_s):
    pair = Pair()
    consumer, _ = pair.subscribe()
    refusal = frames.Error("busy", "no", None, True, hint_ms)
    pair.peer.refuse = lambda op: refusal if type(op) is frames.Flow else None
    pair.session.roster.set_flow(consumer)
    pair.pump()
    pair.peer.refuse = lambda op: None
    pair.step(soonest_s)
    assert len(pair.link.of(frames.Flow)) == 1
    pair.step(latest_s - soonest_s)
    assert len(pair.link.of(frames.Flow)) == 2


def test_a_lease_that_is_said_twice_is_one_delivery():
    pair = Pair()
    pair.peer.fill("orders", 1)
    consumer, _ = pair.subscribe()
    (delivery,) = pair.link.subs[consumer.name].held.values()
    pair.link.say(frames.Messages(consumer.name, "orders", 30_000, [delivery, delivery]))
    pair.pump()
    (message,) = pair.take(consumer, 1)
    assert (consumer.handed(), len(consumer.queue)) == (1, 0)
    message.ack()
    pair.pump()
    assert pair.peer.acked() == [1]


def test_leaving_sends_settlements_first_and_gives_the_rest_back():
    pair = Pair()
    pair.peer.fill("orders", 3)
    consumer, _ = pair.subscribe()
    first, second = pair.take(consumer, 2)
    first.ack()
    told = Told()
    pair.session.roster.remove(consumer, told)
    pair.pump()
    assert told.done()
    assert pair.peer.acked() == [1]
    assert second.lost.is_set()
    assert [type(op) for op in pair.link.messages[-1]] == [frames.Ack, frames.Unsubscribe]
    assert [delivery.message.seq for delivery in pair.peer.waiting["orders", "default"]] == [2, 3]
    assert not [note for note in pair.notes if note.level >= logging.WARNING]


def test_a_subscription_given_up_while_it_was_asked_for_is_left_once_granted():
    pair = Pair()
    consumer = pair.consumer()
    pair.session.roster.add(consumer, Told())
    sent = pair.session.data_to_send(pair.now)
    pair.session.roster.remove(consumer, Told())
    pair.link.feed(sent[0])
    pair.pump()
    assert pair.link.of(frames.Unsubscribe)[0].sub == consumer.name
    assert not pair.link.subs


def test_a_subscription_under_way_is_not_asked_for_twice():
    pair = Pair(Peer(expires_in_ms=100_000), refreshable=True)
    pair.step(80.1)
    pair.peer.answers = False
    _, told = pair.subscribe()
    assert not told.done()
    pair.peer.answers = True
    pair.session.credentials.renew("fresh")
    pair.pump()
    assert len(pair.link.of(frames.Subscribe)) == 1


def test_the_end_of_the_connection_is_the_end_of_a_subscription_being_left():
    pair = Pair()
    consumer, _ = pair.subscribe()
    told = Told()
    pair.session.roster.remove(consumer, told)
    assert not told.done()
    pair.cut()
    assert told.done()


def test_messages_of_a_subscription_nobody_has_are_given_back():
    pair = Pair()
    pair.peer.fill("orders", 2)
    pair.link._subscribe(frames.Subscribe("orders", sub="ghost"))
    pair.link.push()
    pair.pump()
    assert [(verb, seq) for verb, _, seq in pair.peer.settled] == [("release", 1), ("release", 2)]
    assert pair.link.of(frames.Unsubscribe)[0].sub == "ghost"
