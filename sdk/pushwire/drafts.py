"""What a producer says becomes a draft for the wire, or is refused here, before anything is sent.

Owns the producer's side of PROTOCOL.md §4. The wire splices names into frames unescaped, so what passes here must be a
name; and one malformed message would cost its whole batch. Sends nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .errors import refused
from .ids import uuid7
from .wire.codec import BadJson, dumps
from .wire.decode import CONTENT_TYPE, HEADERS_BYTES_MAX, HEADERS_MAX, KEY_BYTES_MAX, SCHEDULE_MS_MAX
from .wire.frames import BINARY, ID, JSON, NAME, TEXT, Draft

ANY_TEXT = re.compile(r".*", re.DOTALL)
FIELDS_BYTES = 160
"""Allowance for the names, quotes and numbers around a message's own fields in a publish operation."""


class Text(str):
    """Marks a string as a text body. A plain `str` is a JSON value, as every other plain value is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class PublishItem:
    """One message of a `publish_many` that needs more than its data."""

    data: Any
    id: str | None = None
    key: str | None = None
    priority: int | None = None
    headers: Mapping[str, str] | None = None
    content_type: str | None = None
    delay_s: float | None = None
    deliver_at: datetime | None = None
    ttl_s: float | None = None


def check_topic(topic: str) -> None:
    """Raises PublishError, code bad_topic."""
    if not _is(NAME, topic):
        raise refused("bad_topic", "1 to 255 of A-Z a-z 0-9 _ . : -, but not . or ..")


def make_draft(
    data: Any,
    id: str | None = None,
    key: str | None = None,
    priority: int | None = None,
    headers: Mapping[str, str] | None = None,
    content_type: str | None = None,
    delay_s: float | None = None,
    deliver_at: datetime | None = None,
    ttl_s: float | None = None,
) -> tuple[Draft, int]:
    """The draft, and the bytes it takes at most in a publish operation. Raises PublishError for what the gateway would
    refuse. Without an id it gets a time-ordered one."""
    if id is None:
        id = uuid7()
    elif not _is(ID, id):
        raise refused("bad_request", "an id is 1 to 128 of A-Z a-z 0-9 _ . : -")
    body, encoding, size_bytes = _body(data)
    size_bytes += len(id) + FIELDS_BYTES
    due_ms, expires_ms = _due(delay_s, deliver_at), _expires(ttl_s)
    if key is None and headers is None and content_type is None and priority is None:
        return Draft(id, body, 0, encoding, due_ms=due_ms, expires_ms=expires_ms), size_bytes
    if priority is None:
        priority = 1
    elif type(priority) is not int or not 0 <= priority <= 3:
        raise refused("bad_request", "priority is 0 to 3")
    if content_type is not None and not _is(CONTENT_TYPE, content_type):
        raise refused("bad_request", "content_type is 1 to 127 printable ASCII characters")
    packed = _headers(headers)
    # A key or content type may be escaped: six characters for one at most (RFC 8259 §7).
    size_bytes += len(packed or b"") + 6 * (len(key or "") + len(content_type or ""))
    draft = Draft(id, body, 0, encoding, priority, _key(key), packed, content_type, due_ms, expires_ms)
    return draft, size_bytes


def instant_ms(when: datetime) -> int:
    """Milliseconds since 1970. Raises ValueError for a time that does not say where it is meant (naive)."""
    if when.tzinfo is None:
        raise ValueError("a time needs its zone: datetime.now(UTC), or .astimezone() for the local one")
    return round(when.timestamp() * 1000)


def _due(delay_s: float | None, deliver_at: datetime | None) -> int | None:
    """As `Draft.due_ms` has it."""
    if deliver_at is not None:
        if delay_s is not None:
            raise refused("bad_request", "delay_s and deliver_at exclude each other")
        try:
            due_ms = instant_ms(deliver_at)
        except ValueError as exc:
            raise refused("bad_request", f"deliver_at: {exc}") from None
        if due_ms < 0:
            raise refused("bad_request", "deliver_at is after 1970")
        return due_ms
    return None if delay_s is None else -_span_ms("delay_s", delay_s, 0) or None


def _expires(ttl_s: float | None) -> int | None:
    """As `Draft.expires_ms` has it."""
    return None if ttl_s is None else -_span_ms("ttl_s", ttl_s, 1)


def _span_ms(name: str, seconds: float, low_ms: int) -> int:
    # Not a number compares false with everything.
    if low_ms <= seconds * 1000 <= SCHEDULE_MS_MAX:
        return round(seconds * 1000)
    raise refused("bad_request", f"{name} is {low_ms / 1000} to {SCHEDULE_MS_MAX // 1000} seconds")


def _is(pattern: re.Pattern[str], value: object) -> bool:
    """Whether it is a string of that shape; callers without a type checker pass anything."""
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _body(data: Any) -> tuple[bytes, int, int]:
    """The body, its encoding, and the bytes it takes on the wire."""
    try:
        if isinstance(data, bytes | bytearray | memoryview):
            body = bytes(data)
            return body, BINARY, (len(body) + 2) // 3 * 4
        if isinstance(data, Text):
            return data.encode(), TEXT, len(dumps(data))
        body = dumps(data)
        return body, JSON, len(body)
    except (BadJson, UnicodeEncodeError) as exc:
        raise refused("bad_request", f"data: {exc}") from None


def _key(key: str | None) -> str | None:
    if key is None:
        return None
    try:
        if _is(ANY_TEXT, key) and 1 <= len(key.encode()) <= KEY_BYTES_MAX:
            return key
    except UnicodeEncodeError as exc:
        raise refused("bad_request", f"key: {exc.reason}") from None
    raise refused("bad_request", f"a key is 1 to {KEY_BYTES_MAX} bytes of UTF-8")


def _headers(headers: Mapping[str, str] | None) -> bytes | None:
    if not headers:
        return None
    if len(headers) > HEADERS_MAX:
        raise refused("bad_request", f"at most {HEADERS_MAX} headers")
    for name, text in headers.items():
        if not _is(NAME, name) or not _is(ANY_TEXT, text):
            raise refused("bad_request", "headers map names to strings")
    try:
        packed = dumps(dict(headers))
    except BadJson as exc:
        raise refused("bad_request", f"headers: {exc}") from None
    if len(packed) > HEADERS_BYTES_MAX:
        raise refused("bad_request", f"headers are at most {HEADERS_BYTES_MAX} bytes as JSON")
    return packed
