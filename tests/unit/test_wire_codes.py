"""Every code that any source names is in the tables of codes.py; the tables are consistent in themselves."""

from __future__ import annotations

import ast
import http
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushwire.wire import codes, frames
from pushwire.wire.codes import CLOSES, DEFINITE_FAILURES, ERRORS, should_reconnect
from pushwire.wire.frames import SUBPROTOCOL
from pushwire.wire.jsonv1 import JsonServerCodec, codec_for
from pushwire_gateway import throttle
from pushwire_storage import base
from support.throttles import default_throttle

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *(ROOT / "gateway" / "pushwire_gateway").rglob("*.py"),
    *(ROOT / "storage" / "pushwire_storage").rglob("*.py"),
    *(ROOT / "sdk" / "pushwire" / "wire").rglob("*.py"),
]
SDK_SOURCES = [path for path in (ROOT / "sdk" / "pushwire").rglob("*.py") if "wire" not in path.parts]

# Calls whose argument of that place (or name) is a code of ERRORS.
CODE_AT = {"Error": 0, "Malformed": 0, "Refused": 0, "Refusal": 0, "Invalid": 1, "_error": 0, "_refused": 0, "_name": 2}
# Calls whose first argument is a code of CLOSES.
CLOSE_AT = {"Goodbye": 0, "_end": 0, "_end_now": 0, "kick": 0, "CloseReason": 0}
CODE_FIELD = "code"


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _values(node: ast.expr | None, kind: type) -> Iterator[typing.Any]:
    """The constants an expression may be: `"a" if x else "b"` is either."""
    if isinstance(node, ast.IfExp):
        yield from _values(node.body, kind)
        yield from _values(node.orelse, kind)
    elif isinstance(node, ast.BoolOp):
        for part in node.values:
            yield from _values(part, kind)
    elif isinstance(node, ast.Constant) and type(node.value) is kind:
        yield node.value


def _argument(call: ast.Call, place: int) -> ast.expr | None:
    named = [keyword.value for keyword in call.keywords if keyword.arg == CODE_FIELD]
    return named[0] if named else call.args[place] if place < len(call.args) else None


def error_codes(text: str) -> Iterator[tuple[int, str]]:
    """(line, code) of every string that a source uses as an error code."""
    for node in ast.walk(ast.parse(text)):
        found: list[ast.expr | None] = []
        if isinstance(node, ast.Call):
            named = any(keyword.arg == CODE_FIELD for keyword in node.keywords)
            if named or _called(node) in CODE_AT:
                found = [_argument(node, CODE_AT.get(_called(node), 0))]
        elif isinstance(node, ast.Compare) and getattr(node.left, "attr", getattr(node.left, "id", "")) == CODE_FIELD:
            found = [item for right in node.comparators for item in _items(right)]
        elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "ERRORS":
            found = [node.slice]
        for expression in found:
            for code in _values(expression, str):
                yield getattr(node, "lineno", 0), code


def _items(node: ast.expr) -> list[ast.expr | None]:
    return list(node.elts) if isinstance(node, ast.Tuple | ast.Set | ast.List) else [node]


def close_codes(text: str) -> Iterator[tuple[int, int]]:
    """(line, code) of every number that a source closes a connection with."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and _called(node) in CLOSE_AT:
            for code in _values(_argument(node, 0), int):
                yield node.lineno, code
        elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "CLOSES":
            for code in _values(node.slice, int):
                yield node.lineno, code


SNIPPETS: list[tuple[str, list[str]]] = [
    ('Error("a", "text")', ["a"]),
    ('frames.Error(code="b", message="text")', ["b"]),
    ('Malformed("c" if x else "d", "text")', ["c", "d"]),
    ('raise Invalid("text", "e")', ["e"]),
    ('raise Invalid("text")', []),
    ('self._error("f", ref, sub=None)', ["f"]),
    ('if refusal.code == "g": pass', ["g"]),
    ('if code in {"h", "i"}: pass', ["h", "i"]),
    ('ERRORS["j"]', ["j"]),
    ('Verdict(allowed=False, code="k")', ["k"]),
    ('Refusal(verdict.code or "l")', ["l"]),
    ('_name(op, "topic", "m")', ["m"]),
    ('print("n")', []),
]


@pytest.mark.parametrize(("text", "expected"), SNIPPETS)
def test_the_scan_sees_codes_in_every_shape(text: str, expected: list[str]) -> None:
    assert sorted(code for _, code in error_codes(text)) == expected


def test_the_scan_sees_close_codes() -> None:
    text = "Goodbye(4000, '', True); self._end(4401 if a else 4408); s.kick(4403); CLOSES[1012]; f(7)"
    assert sorted(code for _, code in close_codes(text)) == [1012, 4000, 4401, 4403, 4408]


def test_every_error_code_named_by_a_source_is_in_the_table() -> None:
    found = [(path, line, code) for path in SOURCES for line, code in error_codes(path.read_text())]
    assert [f"{path.relative_to(ROOT)}:{line}: {code}" for path, line, code in found if code not in ERRORS] == []
    assert {code for *_, code in found} >= {"bad_request", "unknown_op", "unsupported", "bad_topic", "bad_group"}


def test_every_close_code_named_by_a_source_is_in_the_table() -> None:
    found = [(path, line, code) for path in SOURCES for line, code in close_codes(path.read_text())]
    assert [f"{path.relative_to(ROOT)}:{line}: {code}" for path, line, code in found if code not in CLOSES] == []
    assert {code for *_, code in found} >= {1012, 4001, 4400, 4401, 4408}


def test_every_error_code_is_named_somewhere() -> None:
    """A code that nothing sends is a promise that nobody keeps; those of later parts are listed here."""
    named = {code for path in [*SOURCES, *SDK_SOURCES] for _, code in error_codes(path.read_text())}
    strings = {
        node.value
        for path in SOURCES
        if path.name != "codes.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    http_only = {"not_found", "method_not_allowed", "unsupported_media_type"}  # the HTTP API's
    assert set(ERRORS) - named - strings <= http_only


def test_what_a_store_may_raise_after_it_is_open_is_a_code_of_the_wire() -> None:
    at_start = {"locked", "refused"}  # from `open`: there is no connection yet that could be told
    errors = {error for error in vars(base).values() if isinstance(error, type) and issubclass(error, base.StoreError)}
    assert {error.code for error in errors} - at_start <= set(ERRORS)
    for error in errors:
        if error.code in ERRORS:
            assert error.definite == (error.code in DEFINITE_FAILURES), error
            assert ERRORS[error.code].retryable


def test_what_the_throttle_says_is_a_code_of_the_wire_with_its_flag() -> None:
    assert set(typing.get_args(throttle.Code)) <= set(ERRORS)
    assert throttle.BATCH_TOO_LARGE.code in ERRORS
    assert throttle.BATCH_TOO_LARGE.retryable is ERRORS["batch_too_large"].retryable
    verdict = default_throttle(lambda: 1.0, publish_per_s=1, publish_burst=1)
    first, second = (verdict.publish("t", "s", 1, 1) for _ in range(2))
    assert first.allowed
    assert second.code == "rate_limited"
    assert second.retryable is ERRORS["rate_limited"].retryable


# --- the tables themselves -------------------------------------------------------------------------------------


def test_errors_that_may_pass_are_those_of_load_and_of_the_gateway() -> None:
    retryable = {name for name, code in ERRORS.items() if code.retryable}
    assert retryable == {
        "too_many_connections",
        "topic_full",
        "insufficient_storage",
        "rate_limited",
        "rate_limited_bytes",
        "busy",
        "unavailable",
        "going_away",
        "internal",
    }


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_told_alike_over_both_transports(name: str) -> None:
    code = ERRORS[name]
    assert name == name.lower()
    assert name.replace("_", "").isalnum()
    assert 400 <= http.HTTPStatus(code.http_status) < 600
    # A server's fault may pass; a client's passes only where it is told to slow down.
    if code.http_status != 501:
        assert code.retryable == (code.http_status >= 500 or name.startswith("rate_limited"))
    assert "\n" not in code.message
    assert '"' not in code.message
    assert code.message[0].islower()
    assert not code.message.endswith(".")


def test_definite_failures_are_codes_and_leave_out_what_may_have_been_stored() -> None:
    assert set(ERRORS) > DEFINITE_FAILURES
    assert {"unavailable", "internal"} <= set(ERRORS) - DEFINITE_FAILURES
    # What may have been stored has to be tried again, so it must be allowed to.
    assert all(ERRORS[name].retryable for name in set(ERRORS) - DEFINITE_FAILURES)


def test_messages_tell_the_codes_apart() -> None:
    texts = [code.message for code in ERRORS.values()]
    assert len(set(texts)) == len(texts)
    reasons = [close.reason for close in CLOSES.values()]
    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("number", CLOSES)
def test_a_close_code_may_be_sent_and_its_reason_fits(number: int) -> None:
    # RFC 6455 §7.4: 1004 to 1006 and 1015 never travel; 3000-3999 are registered, 4000-4999 are for private use.
    assert number in {*range(1000, 1004), *range(1007, 1015)} or 4000 <= number <= 4999
    assert 0 < len(CLOSES[number].reason.encode()) <= 123  # RFC 6455 §5.5: 125 bytes, two of them the code


def test_should_reconnect_follows_the_table_and_trusts_the_unknown() -> None:
    for number, close in CLOSES.items():
        assert should_reconnect(number) is close.reconnect
    for number in (1005, 1006, 1014, 1015, 3000, 3999, 4002, 4499, 4999):
        assert number not in CLOSES
        assert should_reconnect(number)
    stops = {number for number in CLOSES if not should_reconnect(number)}
    assert stops == {1000, 1002, 1003, 1007, 1009, 4400, 4403, 4406, 4409}


def test_codes_are_written_once() -> None:
    """A key given twice in a dict display is silently the last one."""
    tree = ast.parse(Path(codes.__file__).read_text())
    displays = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    assert len(displays) == 2
    for keys in ([key.value for key in node.keys if isinstance(key, ast.Constant)] for node in displays):
        assert len(keys) == len(set(keys)) > 10


def test_codes_are_in_reading_order() -> None:
    assert list(CLOSES) == sorted(CLOSES)


# --- what else names a frame -----------------------------------------------------------------------------------


def test_the_codec_of_a_subprotocol_that_is_not_offered_is_a_key_error() -> None:
    assert isinstance(codec_for(SUBPROTOCOL, lambda *fields: fields), JsonServerCodec)
    with pytest.raises(KeyError):
        codec_for("pushwire.v2", lambda *fields: fields)


def test_encodings_of_wire_and_store_are_the_same_numbers() -> None:
    names = ("JSON", "TEXT", "BINARY")
    assert [getattr(frames, name) for name in names] == [getattr(base, name) for name in names] == [0, 1, 2]


def test_the_stores_message_takes_what_the_codec_makes() -> None:
    codec = JsonServerCodec(base.Message)
    line = (
        '{"op":"publish","topic":"t","messages":[{"id":"a","data":1},{"data_text":"x","key":"k","headers":{"h":"v"}}]}'
    )
    [publish] = codec.feed(line)
    first, second = publish.messages
    assert (first.id, first.data, first.encoding, first.priority, first.key) == ("a", b"1", base.JSON, 1, None)
    assert (second.id, second.data, second.encoding, second.key) == ("", b"x", base.TEXT, "k")
    assert second.headers == b'{"h":"v"}'


def test_secrets_do_not_show_in_reprs() -> None:
    secret = "s3cret"
    shown = [
        repr(frames.Auth(secret, session=secret)),
        repr(frames.Welcome(secret)),
        repr(frames.Ok(None, session=secret)),
    ]
    assert not any(secret in text for text in shown)
