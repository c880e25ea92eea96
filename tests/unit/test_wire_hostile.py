"""Whatever bytes a peer sends, decoding ends in frames or in Malformed with a known code; it never raises."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushwire.wire import frames
from pushwire.wire.codes import ERRORS
from pushwire.wire.frames import Malformed
from pushwire.wire.jsonv1 import MALFORMED_LINES_MAX, JsonClientCodec, JsonServerCodec

CLIENT = JsonClientCodec()
GATEWAY = JsonServerCodec()

# One value of each JSON type that JSON or Python might take for another: true is no 1, 1.0 no integer, "1" no number.
VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    "small": [0, 1],
    "large": [7],
    "negative": [-1],
    "float": [1.0, 1.5, 1e300],
    "name": ["a", "1", "true"],
    "ascii": ["two words", 'quote"'],
    "text": ["\u2028", "ü"],
    "empty": [""],
    "list": [[], [1], ["a", 1], [None], [{}]],
    "names": [["a"], ["a", "b"]],
    "object": [{}, {"a": 1}, {"a": None}, {"a": ["b"]}],
    "texts": [{"a": "b"}],
    "seq": [{"seq": 1}, {"time_ms": 1}, {"seq": None, "time_ms": 7}],
    "no_seq": [{"seq": 0}, {"time_ms": 0}, {"seq": 1, "time_ms": 1}, {"seq": True}, {"seq": 1.0}],
}
STRING = {"name", "ascii", "text", "empty"}
NATURAL = {"small", "large"}
LEASE = {"name", "ascii"}

MESSAGE_FIELDS = {
    "id": {"name"},
    "priority": {"small"},
    "key": {"name", "ascii", "text"},
    "headers": {"texts", "object:{}"},
    "content_type": {"name", "ascii"},
    "data_text": STRING,
    "data_b64": {"empty", 'name:"true"'},
    "delay_ms": NATURAL,
    "deliver_at_ms": NATURAL,
    "ttl_ms": {"large", "small:1"},
}
# op -> (a valid operation, its fields and what each takes, those it cannot do without)
CLIENT_OPS: dict[str, tuple[dict[str, Any], dict[str, set[str]], set[str]]] = {
    "auth": (
        {"token": "t"},
        {"token": {"name", "ascii", "text"}, "session": LEASE, "resume_grace_ms": NATURAL},
        {"token"},
    ),
    "subscribe": (
        {"topic": "t"},
        {
            "topic": {"name"},
            "group": {"name"},
            "sub": {"name"},
            "prefetch": NATURAL,
            "ack_timeout_ms": set(),
            "start": {"seq"},
            "inactive_ttl_ms": set(),
        },
        {"topic"},
    ),
    "subscribe private": (
        {"topic": "t", "private": True, "client_id": "c"},
        {"private": {"bool:true"}, "client_id": {"name"}},
        {"private", "client_id"},
    ),
    "subscribe tail": (
        {"topic": "t", "tail": True},
        {"topic": {"name"}, "tail": {"bool"}, "sub": {"name"}, "from": {"seq"}},
        {"topic"},
    ),
    "subscribe resumed": (
        {"topic": "t", "tail": True, "epoch": "e", "after_seq": 1},
        {"epoch": LEASE, "after_seq": NATURAL},
        {"epoch", "after_seq"},
    ),
    "unsubscribe": ({"sub": "s"}, {"sub": {"name"}}, {"sub"}),
    "publish": ({"topic": "t", "data": 1}, {"topic": {"name"}, "messages": set()}, {"topic"}),
    "ack": ({"leases": ["l"]}, {"leases": {"names"}, "ack_through": LEASE, "lease": LEASE}, {"leases"}),
    "nack": (
        {"leases": ["l"]},
        {"leases": {"names"}, "delay_ms": NATURAL, "error": STRING, "lease": LEASE},
        {"leases"},
    ),
    "reject": ({"leases": ["l"]}, {"leases": {"names"}, "error": STRING, "lease": LEASE}, {"leases"}),
    "release": ({"leases": ["l"]}, {"leases": {"names"}, "lease": LEASE}, {"leases"}),
    "extend": ({"leases": ["l"]}, {"leases": {"names"}, "lease": LEASE}, {"leases"}),
    "flow": ({"sub": "s", "prefetch": 1}, {"sub": {"name"}, "prefetch": NATURAL}, {"sub", "prefetch"}),
    "ping": ({}, {}, set()),
    "pong": ({}, {}, set()),
}
LEASED = {"lease", "attempt", "expires_in_ms"}
DELIVERY = {
    "lease": "l",
    "topic": "t",
    "expires_in_ms": 1,
    "seq": 1,
    "id": "a",
    "attempt": 1,
    "redelivered": False,
    "priority": 1,
    "published_at_ms": 1,
    "data": 1,
}
SHOWN = {name: value for name, value in DELIVERY.items() if name not in LEASED | {"redelivered"}}
ANY_INT = {*NATURAL, "negative"}
ANY_TEXTS = {"texts", "object:{}"}
SERVER_OPS: dict[str, tuple[dict[str, Any], dict[str, set[str]], set[str]]] = {
    "welcome": (
        {
            "session": "s",
            "server": "x",
            "epoch": "e",
            "heartbeat_ms": 1,
            "pong_timeout_ms": 1,
            "expires_in_ms": 1,
            "limits": {},
        },
        {
            "session": STRING,
            "server": STRING,
            "epoch": STRING,
            "heartbeat_ms": ANY_INT,
            "pong_timeout_ms": ANY_INT,
            "expires_in_ms": ANY_INT,
            "limits": {"object", "texts", "seq", "no_seq"},
        },
        {"session", "server", "epoch", "heartbeat_ms", "pong_timeout_ms", "expires_in_ms", "limits"},
    ),
    "ok": (
        {"ref": 1},
        {
            "receipts": {"list:[]"},
            "sub": STRING,
            "prefetch": ANY_INT,
            "ack_timeout_ms": ANY_INT,
            "expires_in_ms": ANY_INT,
            "epoch": STRING,
            "seq": ANY_INT,
            "session": STRING,
            "resumed": {"bool"},
            "subs": {'object:{"a": ["b"]}', "object:{}"},
        },
        set(),
    ),
    "error": (
        {"code": "busy", "message": "m", "retryable": True},
        {
            "code": STRING,
            "message": STRING,
            "retryable": {"bool"},
            "retry_after_ms": ANY_INT,
            "sub": STRING,
            "leases": {"names", "list:[]"},
        },
        {"code", "message", "retryable"},
    ),
    "messages": ({"sub": "s", "messages": [DELIVERY]}, {"sub": STRING, "messages": set()}, {"sub", "messages"}),
    "messages tail": ({"sub": "s", "messages": [SHOWN]}, {"sub": STRING, "messages": set()}, {"sub", "messages"}),
    "gap": ({"sub": "s", "from": 1, "to": 2}, {"sub": STRING, "from": ANY_INT, "to": ANY_INT}, {"sub", "from", "to"}),
    "goodbye": (
        {"code": 1012, "reason": "r", "reconnect": True},
        {"code": ANY_INT, "reason": STRING, "reconnect": {"bool"}, "retry_after_ms": ANY_INT},
        {"code", "reason", "reconnect"},
    ),
    "ping": ({}, {}, set()),
    "pong": ({}, {}, set()),
}


def _taken(value: Any, tag: str, taken: set[str]) -> bool:
    return tag in taken or f"{tag}:{json.dumps(value)}" in taken


def _wrong(taken: set[str]) -> list[Any]:
    return [value for tag, values in VALUES.items() for value in values if not _taken(value, tag, taken)]


def _right(taken: set[str]) -> list[Any]:
    return [value for tag, values in VALUES.items() for value in values if _taken(value, tag, taken)]


def _fields(ops: dict[str, Any]) -> list[Any]:
    return [pytest.param(op, field, id=f"{op}-{field}") for op, (_, fields, _) in ops.items() for field in fields]


def op_of(case: str) -> dict[str, str]:
    return {"op": case.split(maxsplit=1)[0]}


def check_malformed(codec: Any, op: dict[str, Any], ref: Any = None) -> Malformed:
    [frame] = codec.feed(json.dumps(op))
    assert type(frame) is Malformed, (op, frame)
    assert frame.code in ERRORS
    assert frame.message
    assert "\n" not in frame.message
    assert frame.ref == ref
    return frame


def check_frame(codec: Any, op: dict[str, Any]) -> Any:
    [frame] = codec.feed(json.dumps(op))
    assert type(frame) is not Malformed, (op, frame)
    return frame


WIRE_NAMES = {"through": "ack_through", "from_seq": "from", "to_seq": "to"}
# The forms of one operation have classes of their own, or fields that need each other.
FORMS: dict[str, type] = {
    "subscribe private": frames.Subscribe,
    "subscribe tail": frames.SubscribeTail,
    "subscribe resumed": frames.SubscribeTail,
    "messages tail": frames.Tailed,
}
BESIDE = {"lease", "private", "tail"}  # other ways to say what a field says


def wire_name(kind: type, name: str) -> str:
    return "from" if (kind, name) == (frames.SubscribeTail, "start") else WIRE_NAMES.get(name, name)


@pytest.mark.parametrize("ops", [CLIENT_OPS, SERVER_OPS], ids=["client", "gateway"])
def test_the_table_has_every_field_of_every_operation(ops: dict[str, Any]) -> None:
    tried: dict[type, set[str]] = {}
    for op, (_, fields, _) in ops.items():
        kind = FORMS.get(op) or getattr(frames, op.capitalize())
        tried.setdefault(kind, set()).update(set(fields) - BESIDE)
    assert set(tried) == set((frames.ClientFrame if ops is CLIENT_OPS else frames.ServerFrame).__args__) - {Malformed}
    for kind, fields in tried.items():
        named = {wire_name(kind, field.name) for field in dataclasses.fields(kind)} - {"ref", "size_bytes"}
        in_rows = {frames.Messages: {"topic", "expires_in_ms", "deliveries"}, frames.Tailed: {"batch"}}.get(kind)
        assert fields == (named - (in_rows or set())) | ({"messages"} if in_rows else set()), kind
    assert len(VALUES) == len(set(VALUES))


@pytest.mark.parametrize(("op", "field"), _fields(CLIENT_OPS))
def test_a_wrong_value_from_a_client_is_malformed_and_answers_its_ref(op: str, field: str) -> None:
    valid, fields, _ = CLIENT_OPS[op]
    # The ways to name a lease exclude each other.
    base = {**op_of(op), "ref": 9, **({} if field in {"ack_through", "lease"} else valid)}
    for value in _wrong(fields[field]):
        check_malformed(GATEWAY, {**base, field: value}, ref=9)
    for value in _right(fields[field]):
        check_frame(GATEWAY, {**base, field: value})


@pytest.mark.parametrize(("op", "field"), _fields(SERVER_OPS))
def test_a_wrong_value_from_a_gateway_is_malformed(op: str, field: str) -> None:
    valid, fields, _ = SERVER_OPS[op]
    for value in _wrong(fields[field]):
        check_malformed(CLIENT, {**op_of(op), **valid, field: value})
    for value in _right(fields[field]):
        check_frame(CLIENT, {**op_of(op), **valid, field: value})


@pytest.mark.parametrize(("codec", "ops"), [(GATEWAY, CLIENT_OPS), (CLIENT, SERVER_OPS)], ids=["client", "gateway"])
def test_null_is_absent_and_what_is_needed_is_missed(codec: Any, ops: dict[str, Any]) -> None:
    for op, (valid, fields, needed) in ops.items():
        base = {**op_of(op), **valid}
        for field in fields:
            without = {name: value for name, value in base.items() if name != field}
            if field in needed:
                check_malformed(codec, without)
                check_malformed(codec, {**without, field: None})
            else:
                assert check_frame(codec, {**base, field: None}) == check_frame(codec, without)


@pytest.mark.parametrize("where", ["one", "many"])
@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_a_wrong_value_in_a_published_message_is_malformed(field: str, where: str) -> None:
    for value in _wrong(MESSAGE_FIELDS[field]):
        body = {} if field.startswith("data") else {"data": 1}
        message = {**body, field: value}
        op = message if where == "one" else {"messages": [{"id": "a", "data": 1}, message]}
        check_malformed(GATEWAY, {"op": "publish", "topic": "t", "ref": "r", **op}, ref="r")
    for value in _right(MESSAGE_FIELDS[field]):
        body = {} if field.startswith("data") else {"data": 1}
        check_frame(GATEWAY, {"op": "publish", "topic": "t", **body, field: value})


@pytest.mark.parametrize("field", DELIVERY)
def test_a_wrong_value_in_a_delivery_is_malformed(field: str) -> None:
    kinds = {"lease": STRING, "topic": STRING, "id": STRING, "data": set(VALUES), "redelivered": set(VALUES)}
    taken = kinds.get(field, ANY_INT)
    for value in [*_wrong(taken), None]:
        if field not in {"data", "redelivered"}:
            check_malformed(CLIENT, {"op": "messages", "sub": "s", "messages": [{**DELIVERY, field: value}]})
    rest = {name: value for name, value in DELIVERY.items() if name != field}
    if field != "redelivered":  # said twice for people; attempt says it already
        check_malformed(CLIENT, {"op": "messages", "sub": "s", "messages": [rest]})
    check_frame(CLIENT, {"op": "messages", "sub": "s", "messages": [{**DELIVERY, "key": None, "headers": None}]})


@pytest.mark.parametrize(
    ("field", "taken"),
    [
        ("key", STRING),
        ("headers", ANY_TEXTS),
        ("content_type", STRING),
        ("redriven", {"bool"}),
        ("data_text", STRING),
        ("data_b64", MESSAGE_FIELDS["data_b64"]),
    ],
)
def test_a_wrong_optional_value_in_a_delivery_is_malformed(field: str, taken: set[str]) -> None:
    rest = {name: value for name, value in DELIVERY.items() if not (name == "data" and field.startswith("data"))}
    for value in _wrong(taken):
        check_malformed(CLIENT, {"op": "messages", "sub": "s", "messages": [{**rest, field: value}]})
    for value in _right(taken):
        check_frame(CLIENT, {"op": "messages", "sub": "s", "messages": [{**rest, field: value}]})


def test_a_limit_of_a_kind_this_client_does_not_know_is_ignored() -> None:
    welcome = {"op": "welcome", **SERVER_OPS["welcome"][0]}
    odd = {f"x{n}": value for n, value in enumerate(_wrong(ANY_INT))}
    assert check_frame(CLIENT, {**welcome, "limits": {"prefetch_max": 7, **odd}}).limits == {"prefetch_max": 7}


@pytest.mark.parametrize("field", ["id", "seq", "duplicate"])
def test_a_wrong_value_in_a_receipt_is_malformed(field: str) -> None:
    receipt = {"id": "a", "seq": 1, "duplicate": False}
    taken = {"id": STRING, "seq": ANY_INT, "duplicate": {"bool"}}[field]
    for value in [*_wrong(taken), None]:
        check_malformed(CLIENT, {"op": "ok", "receipts": [{**receipt, field: value}]})
    check_malformed(CLIENT, {"op": "ok", "receipts": [{k: v for k, v in receipt.items() if k != field}]})
    check_frame(CLIENT, {"op": "ok", "receipts": [receipt]})


@pytest.mark.parametrize("op", CLIENT_OPS)
def test_a_ref_of_the_wrong_kind_is_refused_without_ref(op: str) -> None:
    for value in [*_wrong({*NATURAL, "name"}), 2**53, ".", ".."]:
        check_malformed(GATEWAY, {**op_of(op), **CLIENT_OPS[op][0], "ref": value})
    for value in _right({*NATURAL, "name"}):
        assert check_frame(GATEWAY, {**op_of(op), **CLIENT_OPS[op][0], "ref": value}).ref == value


def test_a_ref_of_the_wrong_kind_from_a_gateway_is_refused() -> None:
    for op, value in itertools.product(("ok", "ping", "pong"), _wrong(ANY_INT | STRING)):
        check_malformed(CLIENT, {"op": op, "ref": value})


@pytest.mark.parametrize("codec", [GATEWAY, CLIENT], ids=["gateway", "client"])
@pytest.mark.parametrize("name", [*_wrong(set()), None, "PING", "ping ", "acknowledge", "__class__", "messages\0"])
def test_an_operation_that_is_none_is_unknown_and_keeps_its_ref(codec: Any, name: Any) -> None:
    known_ref = 3 if codec is GATEWAY else None  # a gateway's refs are answers, there is nothing to answer
    assert check_malformed(codec, {"op": name, "ref": 3}, ref=known_ref).code == "unknown_op"


@pytest.mark.parametrize(
    "op",
    [
        {"op": "publish", "topic": "t"},
        {"op": "publish", "topic": "t", "data": 1, "data_text": "a"},
        {"op": "publish", "topic": "t", "data": None, "data_b64": ""},
        {"op": "publish", "topic": "t", "messages": []},
        {"op": "publish", "topic": "t", "messages": [{}]},
        {"op": "ack"},
        {"op": "ack", "leases": ["a"], "ack_through": "b"},
        {"op": "ack", "lease": "a", "ack_through": "b"},
        {"op": "ack", "lease": "a", "leases": ["b"]},
        {"op": "release", "lease": "a", "leases": ["b"]},
    ],
)
def test_fields_that_contradict_each_other_are_refused(op: dict[str, Any]) -> None:
    assert check_malformed(GATEWAY, {"ref": 1, **op}, ref=1).code == "bad_request"


def test_data_null_is_a_body() -> None:
    publish = check_frame(GATEWAY, {"op": "publish", "topic": "t", "data": None})
    assert publish.messages[0].data == b"null"
    many = check_frame(GATEWAY, {"op": "publish", "topic": "t", "messages": None, "data": None})
    assert many == publish


@pytest.mark.parametrize("codec", [GATEWAY, CLIENT], ids=["gateway", "client"])
@given(raw=st.binary(max_size=200) | st.text(max_size=200) | st.text(st.characters(), max_size=20))
def test_random_input_never_raises(codec: Any, raw: bytes | str) -> None:
    for frame in codec.feed(raw):
        assert type(frame) is not Malformed or frame.code in ERRORS


SEEDS = [
    (GATEWAY, json.dumps({**op_of(op), "ref": 1, **valid}).encode()) for op, (valid, _, _) in CLIENT_OPS.items()
] + [(CLIENT, json.dumps({**op_of(op), "ref": 1, **valid}).encode()) for op, (valid, _, _) in SERVER_OPS.items()]
SPLICES = [
    b"", b"\n", b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"-", b"1e999", b"\xff",
    b"\x00", b"\xef\xbb\xbf", b"\\ud800", b"9" * 19, b"9" * 40, b"0.0", b'"a":', b"{}", b"[]", b"\xf0\x9f\x98\x80",
]  # fmt: skip


def _mutant(source: random.Random, raw: bytes) -> bytes:
    """Bytes cut out and put in, anywhere; or a field set to something else, which leaves the JSON whole."""
    if source.random() < 0.3:
        op = json.loads(raw)
        op[source.choice([*op, "x"])] = source.choice(source.choice(list(VALUES.values())))
        return json.dumps(op).encode()
    for _ in range(source.randint(1, 3)):
        start = source.randrange(len(raw) + 1)
        stop = min(len(raw), start + source.choice((0, 0, 1, 2, 8)))
        raw = raw[:start] + source.choice((*SPLICES, bytes([source.randrange(256)]))) + raw[stop:]
    return raw


def test_twenty_thousand_mutants_never_raise() -> None:
    source = random.Random(20_000)
    outcomes = {True: 0, False: 0}
    for number in range(20_000):
        codec, valid = SEEDS[number % len(SEEDS)]
        for frame in codec.feed(_mutant(source, valid)):
            malformed = type(frame) is Malformed
            assert not malformed or frame.code in ERRORS
            outcomes[malformed] += 1
    # Both kinds in number: mutants that are all refused at the first byte would test nothing.
    assert min(outcomes.values()) > 1000


def test_the_bytes_of_a_message_full_of_bad_lines_are_not_all_read() -> None:
    good = b'{"op":"ping"}'
    found = GATEWAY.feed(b"\n".join([good, *[b"{}"] * (MALFORMED_LINES_MAX - 1), good]))
    assert [type(frame) for frame in found].count(Malformed) == MALFORMED_LINES_MAX - 1
    assert type(found[-1]) is frames.Ping
    found = GATEWAY.feed(b"\n".join([good, *[b"{}"] * 5000, good]))
    assert len(found) == 1 + MALFORMED_LINES_MAX
    assert "not read" in found[-1].message
