"""What has two forms on the wire is told apart, and a field of the one is refused in the other, never ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushwire.wire import frames
from pushwire.wire.frames import Malformed
from pushwire.wire.jsonv1 import JsonClientCodec, JsonServerCodec

CLIENT = JsonClientCodec()
GATEWAY = JsonServerCodec()
LEASED = {"lease": "l", "attempt": 1, "expires_in_ms": 1}
SHOWN = {"topic": "t", "seq": 1, "id": "a", "priority": 1, "published_at_ms": 1, "data": 1}


def check_malformed(codec: Any, op: dict[str, Any], code: str = "bad_request") -> None:
    [frame] = codec.feed(json.dumps({"ref": 1, **op}))
    assert type(frame) is Malformed, (op, frame)
    assert frame.code == code
    assert frame.ref == (1 if codec is GATEWAY else None)


def check_frame(codec: Any, op: dict[str, Any]) -> Any:
    [frame] = codec.feed(json.dumps(op))
    assert type(frame) is not Malformed, (op, frame)
    return frame


RESUMED = {"tail": True, "epoch": "e", "after_seq": 0}


@pytest.mark.parametrize(
    "fields",
    [
        *({"tail": True, field: value} for field in ("group", "client_id") for value in ("a",)),
        *(
            {"tail": True, field: value}
            for field in ("prefetch", "ack_timeout_ms", "inactive_ttl_ms")
            for value in (0, 9)
        ),
        {"tail": True, "start": "new"},
        {"tail": True, "private": False},
        {"from": "new"},
        {"tail": False, "from": "new"},
        {"epoch": "e", "after_seq": 1},
        {"after_seq": 0},
        {"private": True},
        {"private": False, "client_id": "a"},
        {"client_id": "a"},
        {"tail": True, "epoch": "e"},
        {"tail": True, "after_seq": 1},
        {**RESUMED, "from": "new"},
        {**RESUMED, "from": {"seq": 1}},
    ],
)
def test_a_field_of_the_other_form_is_refused_and_never_ignored(fields: dict[str, Any]) -> None:
    check_malformed(GATEWAY, {"op": "subscribe", "topic": "t", **fields})


def test_the_forms_of_subscribe_are_told_apart() -> None:
    base = {"op": "subscribe", "topic": "t"}
    assert check_frame(GATEWAY, {**base, "tail": True}) == frames.SubscribeTail("t")
    assert check_frame(GATEWAY, {**base, **RESUMED}) == frames.SubscribeTail("t", epoch="e")
    assert check_frame(GATEWAY, {**base, "tail": False}) == frames.Subscribe("t")
    private = {"private": True, "client_id": "c"}
    assert check_frame(GATEWAY, {**base, **private}) == frames.Subscribe("t", client_id="c")
    assert check_frame(GATEWAY, {**base, "start": {"time_ms": 5}}).start == -5
    assert check_frame(GATEWAY, {**base, "tail": True, "from": {"seq": 5}}).start == 5
    check_malformed(GATEWAY, {**base, "start": {"seq": "5"}})


def test_the_statistics_are_a_topic_for_tails_alone() -> None:
    stats = {"op": "subscribe", "topic": frames.STATS_TOPIC}
    assert check_frame(GATEWAY, {**stats, "tail": True}).topic == "$sys.stats"
    publish = {"op": "publish", "topic": frames.STATS_TOPIC, "data": 1}
    for op in (stats, {**stats, "tail": True, "topic": "$sys.other"}, publish):
        check_malformed(GATEWAY, op, "bad_topic")


def test_a_time_is_one_thing_at_a_time_and_below_zero_from_now_on() -> None:
    base = {"op": "publish", "topic": "t", "data": 1}
    check_malformed(GATEWAY, {**base, "delay_ms": 1, "deliver_at_ms": 1})
    check_malformed(GATEWAY, {**base, "delay_ms": 0, "deliver_at_ms": 0})
    later = check_frame(GATEWAY, {**base, "delay_ms": 5, "ttl_ms": 7}).messages[0]
    assert (later.due_ms, later.expires_ms) == (-5, -7)
    at = check_frame(GATEWAY, {**base, "deliver_at_ms": 5}).messages[0]
    assert (at.due_ms, at.expires_ms) == (5, None)
    assert check_frame(GATEWAY, {**base, "delay_ms": 0}).messages[0].due_ms is None


def test_a_row_with_anything_of_a_lease_is_a_delivery_and_needs_all_of_it() -> None:
    tail = {"op": "messages", "sub": "s", "messages": [SHOWN]}
    assert type(check_frame(CLIENT, tail)) is frames.Tailed
    assert type(check_frame(CLIENT, {**tail, "messages": [{**SHOWN, **LEASED}]})) is frames.Messages
    for field, value in LEASED.items():
        check_malformed(CLIENT, {**tail, "messages": [{**SHOWN, field: value}]})
    check_malformed(CLIENT, {**tail, "messages": [{**SHOWN, **LEASED}, SHOWN]})
