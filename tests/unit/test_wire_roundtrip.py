"""What is encoded decodes to the same frame, whatever it carries; and no frame can break the line it stands on."""

from __future__ import annotations

import json
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushwire.wire import frames
from pushwire.wire.codec import INTEGER_MAX, Codec, dumps
from pushwire.wire.frames import (
    JSON,
    TEXT,
    Ack,
    Delivery,
    Draft,
    Malformed,
    Messages,
    Ping,
    Publish,
    Subscribe,
    SubscribeTail,
    TailBatch,
    Tailed,
)
from pushwire.wire.jsonv1 import JsonClientCodec, JsonServerCodec
from support.wire_frames import CLIENT_FRAMES, NASTY, SERVER_FRAMES, deliveries, json_values

CLIENT = JsonClientCodec()
GATEWAY = JsonServerCodec()
# (who writes, who reads, what is written)
WAYS: list[Any] = [
    pytest.param(CLIENT, GATEWAY, strategy, id=f"client-{kind.__name__}") for kind, strategy in CLIENT_FRAMES.items()
] + [pytest.param(GATEWAY, CLIENT, strategy, id=f"gateway-{kind.__name__}") for kind, strategy in SERVER_FRAMES.items()]
BOTH: list[Any] = [
    pytest.param(CLIENT, GATEWAY, st.one_of(*CLIENT_FRAMES.values()), id="client"),
    pytest.param(GATEWAY, CLIENT, st.one_of(*SERVER_FRAMES.values()), id="gateway"),
]
AnyCodec = Codec[Any, Any]


def _classes(union: Any) -> set[type]:
    return set(typing.get_args(union)) - {Malformed}


def test_every_frame_class_is_tried() -> None:
    assert set(CLIENT_FRAMES) == _classes(frames.ClientFrame)
    assert set(SERVER_FRAMES) == _classes(frames.ServerFrame)


@pytest.mark.parametrize(("writer", "reader", "strategy"), WAYS)
@given(data=st.data())
def test_decode_of_encode_is_the_frame_and_one_line_of_json_to_others(
    writer: AnyCodec, reader: AnyCodec, strategy: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    frame = data.draw(strategy)
    line = writer.encode(frame)
    assert list(reader.feed(line)) == [frame]
    assert list(reader.feed(line.decode())) == [frame]
    assert b"\n" not in line
    assert b"\r" not in line
    assert type(json.loads(line)["op"]) is str


@pytest.mark.parametrize(("writer", "reader", "strategy"), WAYS)
@settings(max_examples=25)
@given(data=st.data())
def test_every_prefix_is_one_malformed_frame(
    writer: AnyCodec, reader: AnyCodec, strategy: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    line = writer.encode(data.draw(strategy))
    assert list(reader.feed(b"")) == []
    for length in range(1, len(line)):
        [frame] = reader.feed(line[:length])
        assert type(frame) is Malformed
        assert frame.code == "bad_request"


# Objects whose keys are the user's, not the protocol's: an unknown field there would be content.
USER_OBJECTS = {"data", "headers", "limits", "subs"}


def _grown(value: Any, unknown: Any) -> Any:
    """The same operation as a newer peer might send it: a field more, first and last, in each protocol object."""
    if isinstance(value, list):
        return [_grown(item, unknown) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {name: item if name in USER_OBJECTS else _grown(item, unknown) for name, item in value.items()}
    return {"newer_field": unknown, **inner, "x": unknown}


@pytest.mark.parametrize(("writer", "reader", "strategy"), BOTH)
@given(data=st.data(), unknown=json_values)
def test_unknown_fields_at_every_level_change_nothing(
    writer: AnyCodec, reader: AnyCodec, strategy: st.SearchStrategy[Any], data: st.DataObject, unknown: Any
) -> None:
    frame = data.draw(strategy)
    grown = _grown(json.loads(writer.encode(frame)), unknown)
    assert list(reader.feed(json.dumps(grown))) == [frame]


@pytest.mark.parametrize(("writer", "reader", "strategy"), BOTH)
@given(data=st.data())
def test_many_frames_in_one_message(
    writer: AnyCodec, reader: AnyCodec, strategy: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    many = data.draw(st.lists(strategy, min_size=1, max_size=5))
    joined = writer.join([writer.encode(frame) for frame in many])
    assert list(reader.feed(joined)) == many
    assert list(reader.feed(b"\n \n" + joined.replace(b"\n", b"\r\n\n") + b"\r\n")) == many


BAD_LINES = [b"x", b"{", b"[]", b"null", b"7", b"{}", b'{"op":1}', b'{"op":"teleport"}', b"\xff", b'{"op":"ping"} {}']


@pytest.mark.parametrize(("writer", "reader", "strategy"), BOTH)
@given(data=st.data(), bad=st.sampled_from(BAD_LINES))
def test_a_bad_line_costs_only_itself(
    writer: AnyCodec, reader: AnyCodec, strategy: st.SearchStrategy[Any], bad: bytes, data: st.DataObject
) -> None:
    before, after = data.draw(strategy), data.draw(strategy)
    first, lost, last = reader.feed(b"\n".join([writer.encode(before), bad, writer.encode(after)]))
    assert (first, last) == (before, after)
    assert type(lost) is Malformed


@given(value=json_values, spaced=st.booleans(), ascii_only=st.booleans())
def test_a_json_body_is_kept_equal_as_json_and_without_newlines(value: Any, spaced: bool, ascii_only: bool) -> None:
    op = {"op": "publish", "topic": "t", "data": value}
    text = json.dumps(op, indent=None, separators=(" , ", " : ") if spaced else None, ensure_ascii=ascii_only)
    [frame] = GATEWAY.feed(text)
    stored = frame.messages[0].data
    assert stored == dumps(value)
    assert json.loads(stored) == value


@given(delivery=deliveries(), value=json_values)
def test_a_spliced_body_reaches_the_consumer_as_it_was_stored(delivery: Delivery, value: Any) -> None:
    delivery.message.data, delivery.message.encoding = dumps(value), JSON
    line = GATEWAY.encode(Messages("s", "t", 1, [delivery]))
    assert delivery.message.data in line
    assert json.loads(line)["messages"][0]["data"] == value


def test_a_tail_is_encoded_once_for_all_that_follow_it() -> None:
    class Counted(Draft):
        """Counts how often its body is looked at."""

        __slots__ = ("reads",)

        @property
        def data(self) -> bytes:
            self.reads += 1
            return b"1"

        @data.setter
        def data(self, data: bytes) -> None:
            self.reads = 0

    message = Counted("a", b"")
    batch = TailBatch("t", [message])
    lines = {GATEWAY.encode(Tailed(f"s{number}", batch)) for number in range(1000)}
    assert message.reads == 1
    assert len(lines) == 1000
    read = [frame for line in lines for frame in CLIENT.feed(line)]
    assert {frame.sub for frame in read} == {f"s{number}" for number in range(1000)}


HOSTILE_TEXTS = [
    *NASTY,
    'a","op":"auth","token":"b',
    'x"}\n{"op":"ping","ref":1}',
    "\r\n\r\nHTTP/1.1 200 OK",
    "</script>\u2028\u2029",
    "'; DROP TABLE message; --",
    "\u202egnp.exe",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "nul\0nul",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_text_travels_through_the_gateway_unchanged(text: str) -> None:
    draft = Draft("a", text.encode(), 0, TEXT, 1, text, dumps({"h": text}), None)
    [publish] = GATEWAY.feed(CLIENT.encode(Publish("t", [draft, draft])))
    assert publish == Publish("t", [draft, draft])
    line = GATEWAY.encode(Messages("s", "t", 1, [Delivery("l", 1, draft) for draft in publish.messages]))
    assert b"\n" not in line
    [arrived] = CLIENT.feed(line)
    assert [delivery.message for delivery in arrived.deliveries] == [draft, draft]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
@pytest.mark.parametrize("field", ["code_text", "nack", "lease", "goodbye"])
def test_hostile_text_in_errors_and_leases_cannot_leave_its_string(field: str, text: str) -> None:
    frame: Any = {
        "code_text": frames.Error("bad_request", text, "r"),
        "nack": frames.Nack(["a"], None, text),
        "lease": frames.Error("stale_lease", "stale", 1, leases=[text]),
        "goodbye": frames.Goodbye(1012, text, reconnect=True),
    }[field]
    writer, reader = (CLIENT, GATEWAY) if field == "nack" else (GATEWAY, CLIENT)
    line = typing.cast("AnyCodec", writer).encode(frame)
    assert b"\n" not in line
    assert list(reader.feed(line)) == [frame]


@given(text=st.text(max_size=20) | st.text(NASTY, min_size=1, max_size=8))
def test_what_a_user_passes_as_a_name_cannot_break_the_clients_own_frame(text: str) -> None:
    for frame in (
        Publish(text, [Draft("a", b"1")]),
        Publish("t", [Draft(text, b"1")]),
        Publish("t", [Draft("a", b"1"), Draft(text, b"1", 0, TEXT)]),
        Ack((), text),
        Ack([text]),
        Subscribe(text),
        Subscribe("t", client_id=text),
        SubscribeTail(text),
        SubscribeTail("t", epoch=text),
        frames.Auth("t", None, text),
        Ping(text),
    ):
        line = CLIENT.encode(frame)
        assert b"\n" not in line
        json.loads(line)
        [decoded] = GATEWAY.feed(line)
        assert decoded == frame or (type(decoded) is Malformed and decoded.code in {"bad_request", "bad_topic"})


class Topic(str):
    """A user's own kind of string: written by its value, whatever it claims to look like."""

    __slots__ = ()

    def __format__(self, _spec: str) -> str:
        return 'formatted"'

    def __str__(self) -> str:
        return 'shown"'


def test_subclasses_of_str_are_written_by_value() -> None:
    plain, strange = "orders", Topic("orders")
    for make in (
        lambda text: Publish(text, [Draft(text, b"1", 0, JSON, 1, text, None, text)], text),
        lambda text: Subscribe(text, text, text, client_id=text),
        lambda text: SubscribeTail(text, text, text),
        lambda text: SubscribeTail(text, text, epoch=text),
        lambda text: Ack((), text, text),
        lambda text: Ack([text], None, text),
        lambda text: frames.Auth(text, text, text),
    ):
        assert CLIENT.encode(make(strange)) == CLIENT.encode(make(plain))


def test_the_largest_numbers_of_the_contract_survive() -> None:
    delivery = Delivery("l", INTEGER_MAX, Draft("a", b"1", INTEGER_MAX))
    delivery.message.seq = INTEGER_MAX
    pushed = Messages("s", "t", INTEGER_MAX, [delivery])
    assert list(CLIENT.feed(GATEWAY.encode(pushed))) == [pushed]


def test_codecs_join_nothing_into_one_frame() -> None:
    ping = GATEWAY.encode(Ping())
    assert GATEWAY.join([ping]) == ping == b'{"op":"ping"}'
    assert CLIENT.join([ping, ping]) == ping + b"\n" + ping
