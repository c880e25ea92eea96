"""JSON as bytes, and what a codec is. The only module that knows orjson.

Owns: parsing and serialising JSON with the rules of pushwire.v1 (integers beyond 2^53 are refused, because a
browser would silently round them), and the `Codec` protocol every subprotocol implements. Knows no operation:
decode.py and encode.py do.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import orjson

F_in = TypeVar("F_in", covariant=True)
F_out = TypeVar("F_out", contravariant=True)

INTEGER_MAX = 2**53 - 1
"""Largest integer that every JSON reader keeps exact (RFC 8259 §6, IEEE 754 double)."""

# orjson turns an integer of more than 64 bits into a float without a word, so bytes with a run of 19 digits (the
# shortest such integer) are looked at once more. One table look-up a byte finds the runs.
_DIGITS = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_LONG_RUN = b"0" * 19
# An integer of that length between two tokens of valid JSON: neither a fraction nor an exponent follows it.
_LONG_INTEGER = re.compile(rb"(?:^|[\[,:\s])-?[0-9]{19,}+(?![.eE])")


class BadJson(ValueError):
    """Bytes that are not JSON as pushwire reads it. The text says why and holds nothing of the input."""


class Codec(Protocol[F_in, F_out]):
    """One connection's translator between WebSocket messages and frames.

    A frame may span messages, so it has state.
    """

    subprotocol: str

    def feed(self, data: bytes | str) -> Sequence[F_in]:
        """Frames completed by this WebSocket message.

        Never raises for what a peer can send: a `Malformed` frame stands for what cannot be read.
        """

    def parse(self, data: bytes | str) -> Iterator[F_in]:
        """As `feed`, but each frame is read when it is asked for. To be used up before the next message is given."""

    def encode(self, frame: F_out) -> bytes:
        """One frame as bytes, to be joined by `join` with others into one WebSocket message."""

    def join(self, parts: Sequence[bytes]) -> bytes:
        """Several encoded frames as one WebSocket message."""


def loads(data: bytes | str) -> Any:
    """Parse JSON. Raises BadJson, also for integers beyond 2^53 that would lose digits."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise BadJson(f"not JSON: {exc.msg}") from None
    raw = data if isinstance(data, bytes) else data.encode()
    if _LONG_RUN in raw.translate(_DIGITS) and _has_long_integer(raw):
        raise BadJson("an integer beyond 2^53 would lose digits: send it as a string")
    return value


def _has_long_integer(raw: bytes) -> bool:
    """Whether valid JSON holds an integer of 19 digits outside its strings (ids inside strings are common).

    No loop in Python: a peer chooses how often this runs, and on what.
    """
    without_escapes = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b'"'.join(without_escapes.split(b'"')[::2])
    return _LONG_RUN in outside.translate(_DIGITS) and _LONG_INTEGER.search(outside) is not None


def dumps(value: Any) -> bytes:
    """Serialise to JSON without newlines. Raises BadJson for what JSON or the 2^53 rule does not allow.

    NaN and the infinities become null, as with JavaScript's JSON.stringify.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
    except orjson.JSONEncodeError as exc:
        too_large = "53-bit" in str(exc)
        raise BadJson(
            "integer beyond 2^53: send it as a string" if too_large else "not JSON-serialisable or too deep"
        ) from None


def pack(value: Any) -> bytes:
    """As `dumps`, for what is kept. orjson writes into a buffer of kilobytes and cuts it down where it lies; what is
    cut off is of no use to the next one, so each small result that is kept keeps 4 or 8 KiB. The copy takes its own
    size (`bytes(x)` would be x itself)."""
    return b"%b" % dumps(value)


def pretty(value: Any) -> str:
    """Serialise for people: indented, keys in the order given."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def quote(text: str) -> str:
    """A JSON string literal. A lone surrogate, which UTF-8 cannot carry, becomes a question mark."""
    try:
        return orjson.dumps(text).decode()
    except orjson.JSONEncodeError:
        return orjson.dumps(text.encode(errors="replace").decode()).decode()


def b64encode(data: bytes) -> str:
    """Standard base64 (RFC 4648 §4), padded."""
    return base64.b64encode(data).decode("ascii")


def b64decode(text: str) -> bytes:
    """Standard base64 (RFC 4648 §4), padded, without line breaks. Raises BadJson."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadJson("not base64") from None
    # Versions of Python differ in what padding they let pass; one spelling per value does not (RFC 4648 §3.5).
    if b64encode(data) != text:
        raise BadJson("not base64")
    return data


def join_lines(parts: Iterable[bytes]) -> bytes:
    """Operations, one a line."""
    return b"\n".join(parts)
