"""Every limit of the wire at its last good value and one beyond; and JSON's dark corners, each with one outcome."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushwire.wire.codec import INTEGER_MAX, BadJson, dumps, loads, quote
from pushwire.wire.decode import (
    ACK_TIMEOUT_MS_MAX,
    ACK_TIMEOUT_MS_MIN,
    DELAY_MS_MAX,
    EPOCH_CHARS_MAX,
    ERROR_TEXT_MAX,
    HEADERS_BYTES_MAX,
    HEADERS_MAX,
    INACTIVE_TTL_MS_MAX,
    INACTIVE_TTL_MS_MIN,
    KEY_BYTES_MAX,
    LEASE_CHARS_MAX,
    PREFETCH_MAX,
    RESUME_GRACE_MS_MAX,
    SCHEDULE_MS_MAX,
    SESSION_CHARS_MAX,
    TOKEN_CHARS_MAX,
)
from pushwire.wire.frames import BINARY, LEASES_PER_OP_MAX, MESSAGES_PER_OP_MAX, TEXT, Malformed, Ping
from pushwire.wire.jsonv1 import JsonClientCodec, JsonServerCodec
from support.wire_frames import json_values

GATEWAY = JsonServerCodec()
CLIENT = JsonClientCodec()


def feed(op: dict[str, Any] | str | bytes) -> Any:
    [frame] = GATEWAY.feed(op if isinstance(op, (str, bytes)) else json.dumps(op))
    return frame


def code_of(op: dict[str, Any] | str | bytes) -> str | None:
    """The code of the Malformed frame that this becomes; None for a good frame."""
    frame = feed(op)
    return frame.code if type(frame) is Malformed else None


def publish(**fields: Any) -> dict[str, Any]:
    return {"op": "publish", "topic": "t", "data": 1, **fields}


def publish_raw(body: str) -> str:
    return f'{{"op":"publish","topic":"t","data":{body}}}'


def subscribe(**fields: Any) -> dict[str, Any]:
    return {"op": "subscribe", "topic": "t", **fields}


def headers_of_bytes(size: int) -> dict[str, str]:
    return {"h": "x" * (size - len(dumps({"h": ""})))}


NACK = {"op": "nack", "leases": ["l"]}
# what is good at its limit, what is not just beyond it, and the code
LIMITS: dict[str, tuple[Any, Any, str]] = {
    "topic": (subscribe(topic="t" * 255), subscribe(topic="t" * 256), "bad_topic"),
    "topic_publish": (publish(topic="t" * 255), publish(topic="t" * 256), "bad_topic"),
    "topic_dots": (subscribe(topic="..."), subscribe(topic=".."), "bad_topic"),
    "topic_dot": (publish(topic=".a"), publish(topic="."), "bad_topic"),
    "topic_newline": (publish(topic="t"), publish(topic="t\n"), "bad_topic"),
    "group": (subscribe(group="g" * 255), subscribe(group="g" * 256), "bad_group"),
    "sub": (subscribe(sub="s" * 255), subscribe(sub="s" * 256), "bad_request"),
    "ref": ({"op": "ping", "ref": "r" * 255}, {"op": "ping", "ref": "r" * 256}, "bad_request"),
    "ref_integer": ({"op": "ping", "ref": INTEGER_MAX}, {"op": "ping", "ref": INTEGER_MAX + 1}, "bad_request"),
    "id": (publish(id="i" * 128), publish(id="i" * 129), "bad_request"),
    "key": (publish(key="k" * KEY_BYTES_MAX), publish(key="k" * (KEY_BYTES_MAX + 1)), "bad_request"),
    "key_utf8": (publish(key="ü" * 127 + "k"), publish(key="ü" * 128), "bad_request"),
    "key_emoji": (publish(key="\U0001f600" * 63), publish(key="\U0001f600" * 64), "bad_request"),
    "key_empty": (publish(key=" "), publish(key=""), "bad_request"),
    "headers": (
        publish(headers={f"h{n}": "" for n in range(HEADERS_MAX)}),
        publish(headers={f"h{n}": "" for n in range(HEADERS_MAX + 1)}),
        "bad_request",
    ),
    "headers_bytes": (
        publish(headers=headers_of_bytes(HEADERS_BYTES_MAX)),
        publish(headers=headers_of_bytes(HEADERS_BYTES_MAX + 1)),
        "bad_request",
    ),
    "header_name": (publish(headers={"h" * 255: ""}), publish(headers={"h" * 256: ""}), "bad_request"),
    "header_name_empty": (publish(headers={"h": ""}), publish(headers={"": ""}), "bad_request"),
    "content_type": (publish(content_type="c" * 127), publish(content_type="c" * 128), "bad_request"),
    "content_type_empty": (publish(content_type="c"), publish(content_type=""), "bad_request"),
    "content_type_control": (publish(content_type="a/b; c=~"), publish(content_type="a/b\r\nx: y"), "bad_request"),
    "priority": (publish(priority=3), publish(priority=4), "bad_request"),
    "priority_low": (publish(priority=0), publish(priority=-1), "bad_request"),
    "messages": (
        {"op": "publish", "topic": "t", "messages": [{"data": 1}] * MESSAGES_PER_OP_MAX},
        {"op": "publish", "topic": "t", "messages": [{"data": 1}] * (MESSAGES_PER_OP_MAX + 1)},
        "batch_too_large",
    ),
    "lease": (
        {"op": "ack", "lease": "l" * LEASE_CHARS_MAX},
        {"op": "ack", "lease": "l" * (LEASE_CHARS_MAX + 1)},
        "bad_request",
    ),
    "lease_through": (
        {"op": "ack", "ack_through": "l" * LEASE_CHARS_MAX},
        {"op": "ack", "ack_through": "l" * (LEASE_CHARS_MAX + 1)},
        "bad_request",
    ),
    "delay": ({**NACK, "delay_ms": DELAY_MS_MAX}, {**NACK, "delay_ms": DELAY_MS_MAX + 1}, "bad_request"),
    "delay_low": ({**NACK, "delay_ms": 0}, {**NACK, "delay_ms": -1}, "bad_request"),
    "error": ({**NACK, "error": "ü" * ERROR_TEXT_MAX}, {**NACK, "error": "e" * (ERROR_TEXT_MAX + 1)}, "bad_request"),
    "prefetch": (subscribe(prefetch=PREFETCH_MAX), subscribe(prefetch=PREFETCH_MAX + 1), "bad_request"),
    "prefetch_low": (subscribe(prefetch=0), subscribe(prefetch=-1), "bad_request"),
    "flow": (
        {"op": "flow", "sub": "s", "prefetch": PREFETCH_MAX},
        {"op": "flow", "sub": "s", "prefetch": PREFETCH_MAX + 1},
        "bad_request",
    ),
    "ack_timeout": (
        subscribe(ack_timeout_ms=ACK_TIMEOUT_MS_MAX),
        subscribe(ack_timeout_ms=ACK_TIMEOUT_MS_MAX + 1),
        "bad_request",
    ),
    "ack_timeout_low": (
        subscribe(ack_timeout_ms=ACK_TIMEOUT_MS_MIN),
        subscribe(ack_timeout_ms=ACK_TIMEOUT_MS_MIN - 1),
        "bad_request",
    ),
    "start": (subscribe(start="earliest"), subscribe(start="latest"), "bad_request"),
    "start_new": (subscribe(start="new"), subscribe(start=""), "bad_request"),
    "start_seq": (subscribe(start={"seq": 1}), subscribe(start={"seq": 0}), "bad_request"),
    "start_seq_high": (
        subscribe(start={"seq": INTEGER_MAX}),
        subscribe(start={"seq": INTEGER_MAX + 1}),
        "bad_request",
    ),
    "start_time": (subscribe(start={"time_ms": 1}), subscribe(start={"time_ms": 0}), "bad_request"),
    "from": (subscribe(tail=True, **{"from": {"seq": 1}}), subscribe(tail=True, **{"from": {"seq": 0}}), "bad_request"),
    "after_seq": (
        subscribe(tail=True, epoch="e", after_seq=INTEGER_MAX),
        subscribe(tail=True, epoch="e", after_seq=INTEGER_MAX + 1),
        "bad_request",
    ),
    "after_seq_low": (
        subscribe(tail=True, epoch="e", after_seq=0),
        subscribe(tail=True, epoch="e", after_seq=-1),
        "bad_request",
    ),
    "epoch": (
        subscribe(tail=True, epoch="e" * EPOCH_CHARS_MAX, after_seq=0),
        subscribe(tail=True, epoch="e" * (EPOCH_CHARS_MAX + 1), after_seq=0),
        "bad_request",
    ),
    "client_id": (
        subscribe(private=True, client_id="c" * 255),
        subscribe(private=True, client_id="c" * 256),
        "bad_request",
    ),
    "inactive_ttl": (
        subscribe(inactive_ttl_ms=INACTIVE_TTL_MS_MAX),
        subscribe(inactive_ttl_ms=INACTIVE_TTL_MS_MAX + 1),
        "bad_request",
    ),
    "inactive_ttl_low": (
        subscribe(inactive_ttl_ms=INACTIVE_TTL_MS_MIN),
        subscribe(inactive_ttl_ms=INACTIVE_TTL_MS_MIN - 1),
        "bad_request",
    ),
    "delay_ms": (publish(delay_ms=SCHEDULE_MS_MAX), publish(delay_ms=SCHEDULE_MS_MAX + 1), "bad_request"),
    "delay_ms_low": (publish(delay_ms=0), publish(delay_ms=-1), "bad_request"),
    "ttl_ms": (publish(ttl_ms=SCHEDULE_MS_MAX), publish(ttl_ms=SCHEDULE_MS_MAX + 1), "bad_request"),
    "ttl_ms_low": (publish(ttl_ms=1), publish(ttl_ms=0), "bad_request"),
    "deliver_at_ms": (publish(deliver_at_ms=INTEGER_MAX), publish(deliver_at_ms=INTEGER_MAX + 1), "bad_request"),
    "deliver_at_ms_low": (publish(deliver_at_ms=0), publish(deliver_at_ms=-1), "bad_request"),
    "session": (
        {"op": "auth", "token": "t", "session": "s" * SESSION_CHARS_MAX},
        {"op": "auth", "token": "t", "session": "s" * (SESSION_CHARS_MAX + 1)},
        "bad_request",
    ),
    "session_empty": (
        {"op": "auth", "token": "t", "session": "s"},
        {"op": "auth", "token": "t", "session": ""},
        "bad_request",
    ),
    "resume_grace": (
        {"op": "auth", "token": "t", "resume_grace_ms": RESUME_GRACE_MS_MAX},
        {"op": "auth", "token": "t", "resume_grace_ms": RESUME_GRACE_MS_MAX + 1},
        "bad_request",
    ),
    "token": (
        {"op": "auth", "token": "t" * TOKEN_CHARS_MAX},
        {"op": "auth", "token": "t" * (TOKEN_CHARS_MAX + 1)},
        "bad_request",
    ),
}


@pytest.mark.parametrize(("good", "beyond", "code"), LIMITS.values(), ids=LIMITS)
def test_the_limit_is_good_and_one_beyond_is_not(good: Any, beyond: Any, code: str) -> None:
    assert code_of(good) is None
    assert code_of(beyond) == code


@pytest.mark.parametrize("op", ["ack", "nack", "reject", "release", "extend"])
def test_a_settlement_takes_a_whole_window(op: str) -> None:
    assert len(feed({"op": op, "leases": ["l"] * LEASES_PER_OP_MAX}).leases) == LEASES_PER_OP_MAX
    assert code_of({"op": op, "leases": ["l"] * (LEASES_PER_OP_MAX + 1)}) == "batch_too_large"
    assert PREFETCH_MAX <= LEASES_PER_OP_MAX


@pytest.mark.parametrize("token", ["", "t" * (TOKEN_CHARS_MAX + 1), 7, None])
def test_the_refusal_of_a_token_says_what_one_is(token: Any) -> None:
    assert (
        feed({"op": "auth", "token": token}).message == f"token must be a string of 1 to {TOKEN_CHARS_MAX} characters"
    )


@pytest.mark.parametrize(
    "message", [{"priority": 4}, {"ttl_ms": 0}, {"key": ""}, {"id": "a b"}, {"data_text": "two bodies"}]
)
def test_a_message_of_a_batch_is_named_by_its_place(message: dict[str, Any]) -> None:
    frame = feed({"op": "publish", "topic": "t", "messages": [{"data": 1}, {"data": 1, **message}]})
    assert frame.message.startswith("messages[1]")


GOOD_INTEGERS = [INTEGER_MAX, -INTEGER_MAX]
LOSSY_INTEGERS = [
    *(sign * number for number in (2**53, 2**53 + 1, 10**17, 10**18 - 1, 10**18) for sign in (1, -1)),
    2**63 - 1,
    -(2**63),
    -(2**63) - 1,
    2**64 - 1,
    2**64,
    10**30,
    -(10**400),
]
# As text: Python turns no integer of more than 4300 digits into a string.
INTEGERS = [(str(number), True) for number in GOOD_INTEGERS] + [(str(number), False) for number in LOSSY_INTEGERS]
INTEGERS += [("9" * 5000, False), ("-" + "9" * 5000, False)]
PLACES = ["%s", "[%s]", '{"a":[{"b":%s}]}', '[1.5,"x\\\\",%s ,"\\""]', '["a\\"",\t%s]', "[\r%s\r]", '{"1":%s,"1":%s}']


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("digits", "good"), INTEGERS, ids=[digits[:24] for digits, _ in INTEGERS])
def test_integers_that_would_lose_digits_are_refused_wherever_they_stand(digits: str, good: bool, place: str) -> None:
    body = place.replace("%s", digits)
    assert (code_of(publish_raw(body)) is None) is good
    quoted = place.replace("%s", f'"{digits}"')
    assert code_of(publish_raw(quoted)) is None


@given(value=json_values, place=st.integers(0, 40), digits=st.integers(19, 60))
def test_long_runs_of_digits_inside_strings_are_only_text(value: Any, place: int, digits: int) -> None:
    raw = json.dumps([value, "\\\"'"[place % 3] * place + "9" * digits, value])
    assert loads(raw) == json.loads(raw)
    with pytest.raises(BadJson, match="2\\^53"):
        loads(json.dumps([value, int("9" * digits), value]))
    with pytest.raises(BadJson, match="2\\^53"):
        loads(json.dumps({"\\" * place: -int("9" * digits), '"': value}))


@pytest.mark.parametrize(
    "text",
    [
        "1234567890123456789.5",
        "0.1234567890123456789",
        "1234567890123456789e3",
        "1234567890123456789E3",
        "1E-1234567890123456789",
        "12e+30",
    ],
)
def test_long_digits_of_a_fraction_or_exponent_are_a_double(text: str) -> None:
    assert loads(text) == float(text)
    assert loads(f"[{text}, {text}]") == [float(text)] * 2
    assert code_of(publish_raw(text)) is None


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**64, 10**30])
def test_dumps_refuses_what_loads_refuses(number: int) -> None:
    with pytest.raises(BadJson):
        dumps({"n": [number]})
    assert loads(dumps(INTEGER_MAX)) == INTEGER_MAX


@pytest.mark.parametrize("number", [2**53, 2**64, 10**30])
def test_integers_in_headers_are_no_strings(number: int) -> None:
    assert code_of(publish(headers={"h": number})) == "bad_request"
    assert feed(publish(headers={"h": str(number)})).messages[0].headers == dumps({"h": str(number)})


def nested(depth: int, opening: str, closing: str) -> str:
    return publish_raw(opening * depth + "1" + closing * depth)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_of_100_is_a_body_and_of_1000_or_100000_is_refused(opening: str, closing: str) -> None:
    depth = 100 // (opening.count("[") + opening.count("{"))
    assert code_of(nested(depth, opening, closing)) is None
    assert code_of(nested(1_000, opening, closing)) == "bad_request"
    assert code_of(nested(100_000, opening, closing)) == "bad_request"
    assert code_of(opening * 100_000) == "bad_request"
    assert code_of('{"op":"ping","x":%s}' % (opening * 100_000)) == "bad_request"


def test_the_promised_128_levels_are_a_body_that_comes_back() -> None:
    frame = feed(nested(128, "[", "]"))
    assert frame.messages[0].data == b"[" * 128 + b"1" + b"]" * 128


# JSON text that some reader accepts, and its one outcome here: None is refused, else the stored body.
CORNERS: list[tuple[str, bytes | None]] = [
    ("NaN", None),
    ("Infinity", None),
    ("-Infinity", None),
    ("nan", None),
    ("1e400", None),
    ("-1e400", None),
    ("[1e309]", None),
    ("1e308", b"1e+308"),
    ("1e-400", b"0.0"),
    ("-0", b"0"),
    ("-0.0", b"-0.0"),
    ("01", None),
    ("+1", None),
    (".5", None),
    ("1.", None),
    ("0x10", None),
    ("1_000", None),
    ("'a'", None),
    ("[1,]", None),
    ('{"a":1,}', None),
    ("{a:1}", None),
    ("/*x*/1", None),
    ("1 2", None),
    ("True", None),
    ("undefined", None),
    ("", None),
    ('{"a":1,"a":2}', b'{"a":2}'),
    ('{"a":1,"\\u0061":3}', b'{"a":3}'),
    ('"\\ud800"', None),
    ('"\\udc00\\ud800"', None),
    ('"\\ud83d\\ude00"', b'"\xf0\x9f\x98\x80"'),
    ('"\\u0000"', b'"\\u0000"'),
    ('"\x00"', None),
    ('"\t"', None),
    ('"\x7f"', b'"\x7f"'),
    ('"\\x41"', None),
    ('"\\u12"', None),
    ("\ufeff1", None),
    ("\u00a01", None),
    ("\x0c1", None),
    ('"\u2028"', b'"\xe2\x80\xa8"'),
    ('"\\/"', b'"/"'),
    ('{"":{"":0}}', b'{"":{"":0}}'),
    ('{"__proto__":{"a":1}}', b'{"__proto__":{"a":1}}'),
]


@pytest.mark.parametrize(("text", "stored"), CORNERS, ids=[ascii(text) for text, _ in CORNERS])
def test_dark_corners_of_json(text: str, stored: bytes | None) -> None:
    frame = feed(publish_raw(text))
    if stored is None:
        assert type(frame) is Malformed
        assert frame.code == "bad_request"
    else:
        assert frame.messages[0].data == stored


@pytest.mark.parametrize(
    "raw",
    [
        b'\xef\xbb\xbf{"op":"ping"}',
        '\ufeff{"op":"ping"}',
        b'{"op":"ping","x":"\xff"}',
        b'{"op":"ping","x":"\xc0\x80"}',
        b'{"op":"ping","x":"\xed\xa0\x80"}',
        '{"op":"ping","x":"\ud800"}',
        b'{"op":"ping"}\x00',
        b'\x00{"op":"ping"}',
        '{"op":"ping"}'.encode("utf-16"),
        b'{"op":"ping"',
        b'{"op":"ping"}{"op":"ping"}',
        b'{"op":"ping"},',
    ],
)
def test_bytes_that_are_no_utf8_json_object_are_one_malformed_frame(raw: bytes | str) -> None:
    for codec in (GATEWAY, CLIENT):
        [frame] = codec.feed(raw)
        assert type(frame) is Malformed
        assert frame.code == "bad_request"


@pytest.mark.parametrize("raw", [b"", "", b" ", " \t", b"\r\n", "\n"])
def test_an_empty_message_is_an_empty_line_and_says_nothing(raw: bytes | str) -> None:
    for codec in (GATEWAY, CLIENT):
        assert codec.feed(raw) == []


def test_duplicate_keys_of_an_operation_let_the_last_count() -> None:
    assert feed('{"op":"auth","op":"ping","ref":1,"ref":2}') == Ping(2)
    assert code_of('{"op":"ping","ref":1,"ref":[]}') == "bad_request"


def test_nul_and_huge_keys_are_like_any_unknown_field() -> None:
    assert feed('{"op":"ping","\\u0000":1}') == Ping()
    assert feed('{"op":"ping","%s":1}' % ("k" * 1_000_000)) == Ping()
    assert code_of(publish(headers={"k" * 1_000_000: ""})) == "bad_request"
    assert code_of(publish(topic="t\0")) == "bad_topic"
    body = feed({"op": "publish", "topic": "t", "data_text": "a\0b", "key": "\0"}).messages[0]
    assert (body.data, body.encoding, body.key) == (b"a\0b", TEXT, "\0")


@pytest.mark.parametrize("name", ["a b", "ä", "a/b", "a*", ">", "#", "a\n", "\n", "a\0", "%2e", "..\\", "\uff11"])
def test_names_of_other_alphabets_are_refused(name: str) -> None:
    assert code_of(subscribe(topic=name)) == "bad_topic"
    assert code_of(publish(topic=name)) == "bad_topic"
    assert code_of(subscribe(group=name)) == "bad_group"
    assert code_of(subscribe(sub=name)) == "bad_request"
    assert code_of(publish(id=name)) == "bad_request"
    assert code_of(publish(headers={name: "v"})) == "bad_request"


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AA",
        "AAA",
        "AA=",
        "AA==AA==",
        "A A=",
        "AA==\n",
        "\nAAAA",
        "-_-_",
        "ÄÄÄÄ",
        "====",
        "AAAA=",
        "AAAA====",
        "AB==",
    ],
)
def test_base64_is_strict(text: str) -> None:
    assert code_of({"op": "publish", "topic": "t", "data_b64": text}) == "bad_request"


@pytest.mark.parametrize(("text", "data"), [("", b""), ("AA==", b"\0"), ("+/+/", b"\xfb\xff\xbf"), ("/w==", b"\xff")])
def test_base64_gives_bytes(text: str, data: bytes) -> None:
    message = feed({"op": "publish", "topic": "t", "data_b64": text}).messages[0]
    assert (message.data, message.encoding) == (data, BINARY)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks_are_written_as_null_as_browsers_do(number: float) -> None:
    assert dumps({"n": number}) == b'{"n":null}'


@pytest.mark.parametrize("value", [{1: 2}, {1, 2}, b"bytes", object(), "\ud800", ["\udfff"], {"\ud800": 1}])
def test_dumps_refuses_what_is_no_json(value: Any) -> None:
    with pytest.raises(BadJson):
        dumps(value)


def test_dumps_refuses_a_list_that_holds_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(BadJson, match="deep"):
        dumps(endless)


@example("\ud800 of an undecodable file name \udcff")
@given(text=st.text(st.characters(categories=["L", "C"])))
def test_quote_writes_any_text_on_one_line(text: str) -> None:
    line = quote(text)
    assert "\n" not in line
    assert json.loads(line) == re.sub("[\ud800-\udfff]", "?", text)
