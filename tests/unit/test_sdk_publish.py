"""Publishing through the session: coalescing, fair refusals, retries with the same id, the window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushwire import (
    BatchError,
    ClientClosed,
    Forbidden,
    IdConflict,
    Kicked,
    MessageTooLarge,
    NotConnected,
    ProtocolError,
    PublishError,
    RateLimited,
    RequestTimeout,
    TopicFull,
)
from pushwire.collector import Collector, Slot
from pushwire.publisher import WINDOW_BYTES_MAX, WINDOW_MESSAGES_MAX, Publisher
from pushwire.wire.codes import ERRORS
from pushwire.wire.frames import Error, Goodbye, Publish, Receipt
from support.sdk_pair import Pair, Told
from support.sdk_peer import Peer


def refusal(code: str, retry_after_ms: int | None = None) -> Error:
    return Error(code, ERRORS[code].message, None, ERRORS[code].retryable, retry_after_ms)


def refuse_if(pair: Pair, guilty, code: str, retry_after_ms: int | None = None) -> None:
    """Refuse every publish that has a message for which `guilty` is true."""

    def refuse(op):
        bad = type(op) is Publish and any(guilty(draft) for draft in op.messages)
        return refusal(code, retry_after_ms) if bad else None

    pair.peer.refuse = refuse


# --- coalescing ------------------------------------------------------------------------------------------------


def test_publishes_of_one_turn_share_an_operation_and_a_websocket_message():
    pair = Pair()
    told = [pair.publish(n) for n in range(50)]
    pair.pump()
    assert len(pair.link.messages) == 1
    (op,) = pair.link.of(Publish)
    assert [draft.data for draft in op.messages] == [b"%d" % n for n in range(50)]
    assert [one.result.seq for one in told] == list(range(1, 51))
    assert [one.result.id for one in told] == [draft.id for draft in op.messages]


def test_topics_do_not_share_an_operation_but_do_share_a_message():
    pair = Pair()
    for n in range(6):
        pair.publish(n, topic=f"t{n % 2}")
    pair.pump()
    assert [(op.topic, len(op.messages)) for op in pair.link.messages[0]] == [("t0", 3), ("t1", 3)]


@pytest.mark.parametrize(("count", "size", "ops"), [(2500, 1, 3), (40, 60_000, 3)])
def test_an_operation_stays_within_the_limits(count, size, ops):
    pair = Pair()
    told = [pair.publish("x" * size) for _ in range(count)]
    sent = pair.session.data_to_send(pair.now)
    assert all(len(message) <= pair.session.limits["frame_bytes_max"] for message in sent)
    for message in sent:
        pair.link.feed(message)
    pair.pump()
    assert len(pair.link.of(Publish)) == ops
    assert [one.result.seq for one in told] == list(range(1, count + 1))


def test_a_message_too_large_is_refused_here_and_costs_the_others_nothing():
    pair = Pair()
    before, large, after = pair.publish("a"), pair.publish("x" * 70_000), pair.publish("b")
    pair.pump()
    assert type(large.error) is MessageTooLarge
    assert "70002" in str(large.error)
    assert (before.result.seq, after.result.seq) == (1, 2)


def test_one_message_too_large_for_a_frame_never_leaves():
    pair = Pair(Peer(limits={"message_bytes_max": 10_000_000, "frame_bytes_max": 2000}))
    large, small = pair.publish("x" * 3000), pair.publish("y")
    pair.pump()
    assert large.error.code == "message_too_large"
    assert small.result.seq == 1
    assert all(len(op.messages) == 1 for op in pair.link.of(Publish))


# --- refusals --------------------------------------------------------------------------------------------------


def test_the_guilty_one_of_a_shared_operation_is_refused_alone():
    pair = Pair()
    refuse_if(pair, lambda draft: draft.data == b"13", "id_conflict")
    told = [pair.publish(n) for n in range(40)]
    pair.pump()
    assert type(told[13].error) is IdConflict
    assert all(one.result is not None for n, one in enumerate(told) if n != 13)
    assert [len(op.messages) for op in pair.link.of(Publish)] == [40] + [1] * 40


@pytest.mark.parametrize("code", ["forbidden", "topic_not_found", "bad_topic", "unsupported", "too_many_topics"])
def test_a_refusal_of_the_topic_is_one_for_all_and_not_asked_twice(code):
    pair = Pair()
    refuse_if(pair, lambda _draft: True, code)
    told = [pair.publish(n) for n in range(5)]
    other = pair.publish(topic="other")
    pair.pump()
    assert {one.error.code for one in told} == {code}
    assert isinstance(told[0].error, Forbidden if code == "forbidden" else PublishError)
    assert len({id(one.error) for one in told}) == 5
    assert len(pair.link.of(Publish)) == 2
    assert other.error.code == code


def sizes(pair: Pair) -> list[int]:
    return [len(op.messages) for op in pair.link.of(Publish)]


def test_a_rate_limit_is_waited_for_as_long_as_it_says():
    pair = Pair()
    refuse_if(pair, lambda draft: pair.now < 1000.15, "rate_limited", 200)
    told = [pair.publish(n) for n in range(8)]
    pair.pump()
    assert pair.session.next_deadline() == pytest.approx(1000.2)
    pair.step(0.19)
    assert sizes(pair) == [8]
    pair.step(0.02)
    assert sizes(pair) == [8, 8]
    assert [one.result.seq for one in told] == list(range(1, 9))


def test_a_batch_that_no_waiting_lets_in_is_halved():
    pair = Pair()
    pair.peer.refuse = lambda op: refusal("rate_limited", 200) if len(getattr(op, "messages", ())) > 4 else None
    told = [pair.publish(n) for n in range(8)]
    pair.step(2)
    assert sizes(pair) == [8, 8, 8, 8, 4, 4]
    assert sorted(one.result.seq for one in told) == list(range(1, 9))


def test_a_batch_larger_than_the_gateway_takes_is_cut_and_the_next_ones_too():
    pair = Pair()
    pair.peer.refuse = lambda op: refusal("batch_too_large") if len(getattr(op, "messages", ())) > 200 else None
    told = [pair.publish(n) for n in range(500)]
    pair.step(0)
    assert sizes(pair) == [500, 250, 250, 125, 125, 125, 125]
    told += [pair.publish(n) for n in range(500)]
    pair.step(0)
    assert sizes(pair)[7:] == [125] * 4
    assert sorted(one.result.seq for one in told) == list(range(1, 1001))


def test_a_quota_lets_in_what_fits():
    pair = Pair()
    pair.peer.refuse = lambda op: (
        refusal("topic_full", 10)
        if type(op) is Publish and len(op.messages) + len(pair.peer.stored.get("orders", ())) > 5
        else None
    )
    told = [pair.publish(n, timeout_s=1) for n in range(8)]
    pair.step(1.1)
    assert sorted(one.result.seq for one in told if one.result) == [1, 2, 3, 4, 5]
    assert {type(one.error) for one in told if one.error} == {TopicFull}


def test_a_hint_beyond_the_deadline_is_not_waited_for():
    pair = Pair()
    refuse_if(pair, lambda draft: True, "rate_limited", 60_000)
    told = pair.publish(timeout_s=30)
    pair.pump()
    assert type(told.error) is RateLimited
    assert told.error.retry_after_s == 60


def test_a_hint_that_makes_no_sense_is_no_reason_to_hurry():
    pair = Pair()
    refuse_if(pair, lambda draft: True, "busy", -5)
    told = pair.publish(timeout_s=30)
    pair.step(1)
    assert not told.done()
    assert len(pair.link.of(Publish)) < 10


def test_a_refusal_that_may_pass_is_retried_until_it_does():
    pair = Pair()
    refuse_if(pair, lambda draft: pair.now < 1002, "busy")
    told = [pair.publish(n) for n in range(3)]
    pair.step(1.9)
    assert not any(one.done() for one in told)
    pair.step(2)
    assert [one.result.seq for one in told] == [1, 2, 3]
    tries = pair.link.of(Publish)
    assert len(tries) > 2
    assert len({tuple(draft.id for draft in op.messages) for op in tries}) == 1


def test_the_last_refusal_says_more_than_a_timeout():
    pair = Pair()
    refuse_if(pair, lambda draft: True, "topic_full")
    told = pair.publish(timeout_s=3)
    pair.step(3.1)
    assert type(told.error) is TopicFull


def test_receipts_that_do_not_fit_are_a_protocol_error():
    pair = Pair()
    told = [pair.publish(n) for n in range(2)]
    pair.session.data_to_send(pair.now)
    pair.session.receive(b'{"op":"ok","ref":1,"receipts":[{"id":"a","seq":1,"duplicate":false}]}', pair.now)
    assert [type(one.error) for one in told] == [ProtocolError, ProtocolError]


@given(st.sets(st.integers(0, 29)), st.sampled_from(["id_conflict", "bad_request", "message_too_large", "new_code"]))
def test_whoever_is_guilty_each_caller_gets_the_own_outcome(guilty, code):
    pair = Pair()
    bad = {b"%d" % n for n in guilty}
    pair.peer.refuse = lambda op: (
        Error(code, "no") if type(op) is Publish and any(draft.data in bad for draft in op.messages) else None
    )
    told = [pair.publish(n) for n in range(30)]
    pair.pump()
    assert {n for n, one in enumerate(told) if one.error is not None} == guilty
    assert {one.error.code for one in told if one.error is not None} <= {code}
    assert sorted(int(draft.data) for draft in pair.peer.stored.get("orders", ())) == sorted(set(range(30)) - guilty)
    assert pair.session.publisher.messages == 0


# --- lost connections ------------------------------------------------------------------------------------------


def test_a_publish_cut_before_it_arrived_is_sent_again_with_its_id():
    pair = Pair()
    told = pair.publish({"n": 1})
    pair.session.data_to_send(pair.now)  # on its way, and lost
    pair.cut()
    assert not told.done()
    pair.connect()
    assert told.result.duplicate is False
    assert len(pair.peer.stored["orders"]) == 1


def test_a_publish_cut_before_its_receipt_is_stored_once():
    pair = Pair()
    pair.peer.answers = False
    told = [pair.publish(n) for n in range(3)]
    pair.pump()
    assert len(pair.peer.stored["orders"]) == 3
    pair.cut()
    pair.peer.answers = True
    pair.connect()
    assert [(one.result.seq, one.result.duplicate) for one in told] == [(1, True), (2, True), (3, True)]
    assert len(pair.peer.stored["orders"]) == 3
    first, second = pair.peer.links[0].of(Publish), pair.peer.links[1].of(Publish)
    assert [draft.id for draft in first[0].messages] == [draft.id for draft in second[0].messages]


def test_what_was_sent_goes_again_before_what_was_not():
    pair = Pair()
    pair.publish("first")
    pair.session.data_to_send(pair.now)
    pair.publish("second")
    pair.cut()
    pair.publish("third")
    pair.connect()
    assert [draft.data for draft in pair.peer.stored["orders"]] == [b'"first"', b'"second"', b'"third"']


def test_what_was_held_back_goes_in_its_old_order():
    pair = Pair(refreshable=True)
    pair.peer.refuse = lambda op: (
        refusal("unauthorized") if type(op) is Publish and op.messages[0].data in (b"1", b"2") else None
    )
    told = []
    sent = []
    for n in (1, 2, 3):
        told.append(pair.publish(n))
        sent += pair.session.data_to_send(pair.now)
    for message in sent[:2]:
        pair.link.feed(message)
    pair.pump()  # the third is on its way, and lost
    assert not any(one.done() for one in told)
    pair.cut()
    pair.peer.refuse = lambda op: None
    pair.connect()
    assert [one.result.seq for one in told] == [1, 2, 3]


def test_without_a_connection_it_waits_then_says_so():
    pair = Pair(connect=False)
    told = pair.publish(timeout_s=5)
    pair.session.next_attempt()
    pair.cut(reason="connection refused")
    pair.step(4.9)
    assert not told.done()
    pair.step(0.2)
    assert type(told.error) is NotConnected
    assert "connection refused" in str(told.error.__cause__)
    assert pair.session.publisher.messages == 0


def test_without_an_answer_the_outcome_is_unknown():
    pair = Pair()
    pair.peer.answers = False
    told = pair.publish(timeout_s=5)
    pair.step(5.1)
    assert type(told.error) is RequestTimeout
    assert told.error.retryable


def test_an_answer_that_comes_too_late_is_nobodys():
    pair = Pair()
    told = pair.publish(timeout_s=5)
    sent = pair.session.data_to_send(pair.now)
    pair.now += 6
    pair.session.handle_timer(pair.now)
    assert type(told.error) is RequestTimeout
    pair.link.feed(sent[0])
    pair.pump()
    assert told.result is None
    assert pair.session.publisher.messages == 0


def test_a_gateway_that_never_answers_leaves_nothing_behind():
    pair = Pair()
    pair.peer.answers = False
    stays, gone = pair.publish(timeout_s=5), pair.publish(timeout_s=5)
    pair.pump()
    gone.gone = True
    pair.step(6)
    assert type(stays.error) is RequestTimeout
    assert not pair.session.publisher._inflight
    assert (pair.session.publisher.messages, pair.session.publisher.size_bytes) == (0, 0)


def test_deadlines_are_kept_in_any_order():
    pair = Pair(connect=False)
    told = {timeout_s: pair.publish(timeout_s=timeout_s) for timeout_s in (9, 2, 5)}
    ended: dict[int, float] = {}
    for _ in range(100):
        pair.step(0.1)
        for timeout_s, one in told.items():
            if one.done():
                ended.setdefault(timeout_s, round(pair.now - 1000, 1))
    assert ended == {2: pytest.approx(2.05, abs=0.1), 5: pytest.approx(5.05, abs=0.1), 9: pytest.approx(9.05, abs=0.1)}


def test_after_goodbye_nothing_new_is_published_on_this_connection():
    pair = Pair()
    pair.link.say(Goodbye(1012, "restarting", True, 500))
    pair.pump()
    told = pair.publish()
    pair.pump()
    assert not pair.link.of(Publish)
    pair.cut(1012)
    pair.connect()
    assert told.result.seq == 1


def test_a_caller_who_left_costs_nothing():
    pair = Pair(connect=False)
    gone, stays = pair.publish("gone"), pair.publish("stays")
    gone.gone = True
    pair.connect()
    assert [draft.data for draft in pair.peer.stored["orders"]] == [b'"stays"']
    assert stays.result.seq == 1
    assert pair.session.publisher.messages == 0


def test_a_retry_after_a_split_keeps_every_id_over_a_reconnect():
    pair = Pair()
    pair.peer.refuse = lambda op: refusal("rate_limited", 1000) if len(getattr(op, "messages", ())) > 4 else None
    told = [pair.publish(n) for n in range(10)]
    pair.pump()
    pair.cut()
    pair.connect()
    pair.step(5)
    assert sorted(one.result.seq for one in told) == list(range(1, 11))
    assert len(pair.peer.stored["orders"]) == 10


def test_closed_for_good_everybody_is_told_the_same():
    pair = Pair()
    pair.peer.answers = False
    sent, waiting = pair.publish(), None
    pair.pump()
    waiting = pair.publish()
    pair.cut(4403, reason="kicked")
    assert type(sent.error) is type(waiting.error) is Kicked
    assert sent.error is not waiting.error


def test_closed_by_the_user_callers_are_told():
    pair = Pair(connect=False)
    told = pair.publish()
    pair.session.close()
    assert type(told.error) is ClientClosed


# --- the window ------------------------------------------------------------------------------------------------


def test_the_window_counts_what_is_unconfirmed():
    made = []
    publisher = Publisher(lambda: 0.5, lambda: made.append(1), window_messages_max=3, window_bytes_max=10_000)
    pair = Pair()
    pair.session.publisher = publisher
    pair.publish()
    pair.publish()
    assert publisher.room()
    pair.publish()
    assert not publisher.room()
    pair.pump()
    assert publisher.room()
    assert len(made) == 3
    pair.publish("x" * 20_000)
    assert not publisher.room()
    pair.pump()
    assert (publisher.messages, publisher.size_bytes) == (0, 0)


def test_the_window_has_limits_by_default():
    pair = Pair(connect=False)
    for _ in range(WINDOW_MESSAGES_MAX):
        assert pair.session.publisher.room()
        pair.publish()
    assert not pair.session.publisher.room()
    assert WINDOW_BYTES_MAX < 2**24


# --- many for one caller ---------------------------------------------------------------------------------------


def receipt(seq: int) -> Receipt:
    return Receipt(f"m{seq}", seq, duplicate=False)


def test_a_collector_waits_for_the_last_and_keeps_the_order():
    whole = Told()
    collector = Collector(3, whole)
    slots = [Slot(collector, n) for n in range(3)]
    slots[2].set_result(receipt(3))
    slots[0].set_result(receipt(1))
    assert not whole.done()
    assert slots[2].done()
    assert not slots[1].done()
    slots[1].set_result(receipt(2))
    assert [one.seq for one in whole.result] == [1, 2, 3]


def test_a_collector_with_a_failure_has_every_outcome():
    whole = Told()
    collector = Collector(2, whole)
    Slot(collector, 1).set_exception(IdConflict("other content"))
    Slot(collector, 0).set_result(receipt(1))
    assert type(whole.error) is BatchError
    assert whole.error.outcomes[0] == receipt(1)
    assert type(whole.error.outcomes[1]) is IdConflict
    assert whole.error.code == "id_conflict"
    assert "1 of 2" in str(whole.error)


def test_when_its_caller_left_a_collector_tells_the_slots():
    whole = Told()
    slot = Slot(Collector(2, whole), 0)
    whole.gone = True
    assert slot.done()
