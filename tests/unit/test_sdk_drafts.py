"""What a producer may say: drafts, addresses, errors."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushwire import MessageTooLarge, PublishError, RateLimited, Text, errors
from pushwire.address import websocket_url
from pushwire.drafts import check_topic, make_draft
from pushwire.wire import frames
from pushwire.wire.encode import encode
from pushwire.wire.jsonv1 import JsonServerCodec

headers_of = st.dictionaries(st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True), st.text(max_size=30), max_size=5)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
bodies = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), texts, st.binary(max_size=200), texts.map(Text),
    st.lists(texts, max_size=5), st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=5),
)  # fmt: skip


@given(
    bodies,
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    st.none() | st.integers(0, 3),
    st.none() | headers_of,
    st.none() | st.from_regex(r"[ -~]{1,127}", fullmatch=True),
)
def test_what_passes_here_passes_there_and_is_no_larger_than_said(data, key, priority, headers, content_type):
    draft, size_bytes = make_draft(data, None, key, priority, headers, content_type)
    line = encode(frames.Publish("orders", [draft], 1))
    assert len(line) <= size_bytes + 100  # the operation around it
    (op,) = JsonServerCodec().feed(line)
    assert isinstance(op, frames.Publish), op
    assert op.messages == [draft]


@given(st.lists(bodies, min_size=2, max_size=6))
def test_several_in_one_operation_are_no_larger_than_said(items):
    drafts = [make_draft(item) for item in items]
    line = encode(frames.Publish("orders", [draft for draft, _ in drafts], 1))
    assert len(line) <= sum(size_bytes for _, size_bytes in drafts) + 100


@pytest.mark.parametrize("key", ["\x01" * 255, '"' * 255, "é" * 127])
def test_escapes_are_counted(key):
    draft, size_bytes = make_draft(1, None, key, None, None, "\\" * 127)
    assert len(encode(frames.Publish("t", [draft], 1))) <= size_bytes + 100


def test_a_string_is_json_text_is_text_and_bytes_are_bytes():
    assert (make_draft("a")[0].data, make_draft("a")[0].encoding) == (b'"a"', frames.JSON)
    assert (make_draft(Text("a"))[0].data, make_draft(Text("a"))[0].encoding) == (b"a", frames.TEXT)
    for data in (b"a", bytearray(b"a"), memoryview(b"a")):
        assert (make_draft(data)[0].data, make_draft(data)[0].encoding) == (b"a", frames.BINARY)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"data": {1, 2}}, "data"),
        ({"data": 2**53}, "2^53"),
        ({"data": "\ud800"}, "data"),
        ({"data": Text("\ud800")}, "data"),
        ({"data": 1, "id": "a b"}, "id"),
        ({"data": 1, "id": ""}, "id"),
        ({"data": 1, "id": 7}, "id"),
        ({"data": 1, "id": 'x","topic":"other'}, "id"),
        ({"data": 1, "key": ""}, "key"),
        ({"data": 1, "key": "é" * 128}, "key"),
        ({"data": 1, "key": "\ud800"}, "key"),
        ({"data": 1, "priority": 4}, "priority"),
        ({"data": 1, "priority": True}, "priority"),
        ({"data": 1, "headers": {"a b": "c"}}, "headers"),
        ({"data": 1, "headers": {"a": 1}}, "headers"),
        ({"data": 1, "headers": {"a": "\ud800"}}, "headers"),
        ({"data": 1, "headers": {f"h{n}": "" for n in range(33)}}, "headers"),
        ({"data": 1, "headers": {"a": "x" * 8192}}, "headers"),
        ({"data": 1, "content_type": "a\nb"}, "content_type"),
        ({"data": 1, "content_type": ""}, "content_type"),
    ],
)
def test_what_the_gateway_would_refuse_is_refused_here(fields, named):
    with pytest.raises(PublishError, match=named.replace("^", r"\^")) as caught:
        make_draft(**fields)
    assert caught.value.code == "bad_request"
    assert not caught.value.retryable


@pytest.mark.parametrize("topic", ["", ".", "..", "a b", "a/b", 'a"', "a" * 256, None, 7, "é"])
def test_a_topic_that_is_no_name_is_refused_here(topic):
    with pytest.raises(PublishError) as caught:
        check_topic(topic)
    assert caught.value.code == "bad_topic"


@pytest.mark.parametrize(
    ("given_url", "used"),
    [
        ("ws://h", "ws://h/v1/ws"),
        ("wss://h:8443/", "wss://h:8443/v1/ws"),
        ("https://h/push", "wss://h/push/v1/ws"),
        ("http://[::1]:8080", "ws://[::1]:8080/v1/ws"),
        ("ws://h/v1/ws", "ws://h/v1/ws"),
    ],
)
def test_a_gateway_is_named_by_host_and_port(given_url, used):
    assert websocket_url(given_url) == used


@pytest.mark.parametrize(
    "url", ["h:8080", "ftp://h", "ws://", "ws://u:p@h", "ws://h?token=x", "ws://h#x", "ws://h:99999"]
)
def test_an_address_that_is_none_or_would_leak_is_refused(url):
    with pytest.raises(ValueError):
        websocket_url(url)


# --- errors ----------------------------------------------------------------------------------------------------


def every_error() -> list[type[errors.PushwireError]]:
    found, left = [], [errors.PushwireError]
    while left:
        kind = left.pop()
        found.append(kind)
        left += kind.__subclasses__()
    return found


def test_every_error_has_a_code_and_says_whether_to_retry():
    for kind in every_error():
        assert isinstance(kind.code, str), kind
        assert isinstance(kind.retryable, bool), kind
    assert issubclass(errors.RequestTimeout, TimeoutError)


def test_a_refusal_keeps_what_the_gateway_said():
    error = errors.from_reply(frames.Error("rate_limited", "slow down", 1, True, 250), PublishError)
    assert type(error) is RateLimited
    assert (error.code, str(error), error.retryable, error.retry_after_s) == ("rate_limited", "slow down", True, 0.25)
    unknown = errors.from_reply(frames.Error("new_code", "whatever", 1, True), PublishError)
    assert type(unknown) is PublishError
    assert (unknown.code, unknown.retryable) == ("new_code", True)


def test_a_copy_of_an_error_is_the_same_and_another():
    original = errors.BatchError([MessageTooLarge("big"), frames.Receipt("a", 1, duplicate=False)])
    copy = errors.again(original)
    assert copy is not original
    assert (type(copy), str(copy), copy.code, copy.outcomes) == (
        errors.BatchError, str(original), "message_too_large", original.outcomes,
    )  # fmt: skip
    timeout = errors.again(errors.RequestTimeout("late"))
    assert (str(timeout), timeout.code) == ("late", "timeout")


def test_bodies_come_back_equal_as_json():
    value = {"a": [1, 2.5, None, True, "é"], "b": {}}
    assert json.loads(make_draft(value)[0].data) == value
