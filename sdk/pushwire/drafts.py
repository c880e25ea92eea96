"""What a producer says becomes a draft for the wire, or is refused here, before anything is sent.

Owns the producer's side of PROTOCOL.md §4. The wire splices names into frames unescaped, so what passes here must be a
name; and one malformed message would cost its whole batch. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import refused
from .ids import uuid7
from .wire.codec import BadJson, dumps
from .wire.decode import CONTENT_TYPE, HEADERS_BYTES_MAX, HEADERS_MAX, KEY_BYTES_MAX
from .wire.frames import BINARY, ID, JSON, NAME, TEXT, Draft

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


def check_topic(topic: str) -> None:
    """Raises PublishError, code bad_topic."""
    if not isinstance(topic, str) or not NAME.fullmatch(topic):
        raise refused("bad_topic", "1 to 255 of A-Z a-z 0-9 _ . : -, but not . or ..")


def make_draft(item: PublishItem) -> tuple[Draft, int]:
    """The draft, and the bytes it takes at most in a publish operation. Raises PublishError for what the gateway would
    refuse. Without an id it gets a time-ordered one."""
    id = uuid7() if item.id is None else item.id
    if item.id is not None and (not isinstance(id, str) or not ID.fullmatch(id)):
        raise refused("bad_request", "an id is 1 to 128 of A-Z a-z 0-9 _ . : -")
    data, encoding, size = _body(item.data)
    if item.key is None and item.headers is None and item.content_type is None and item.priority is None:
        return Draft(id, data, 0, encoding), size + len(id) + FIELDS_BYTES
    priority = 1 if item.priority is None else item.priority
    if type(priority) is not int or not 0 <= priority <= 3:
        raise refused("bad_request", "priority is 0 to 3")
    if item.content_type is not None and not CONTENT_TYPE.fullmatch(item.content_type):
        raise refused("bad_request", "content_type is 1 to 127 printable ASCII characters")
    headers = _headers(item.headers)
    draft = Draft(id, data, 0, encoding, priority, _key(item.key), headers, item.content_type)
    # A key or content type may be escaped: six characters for one at most (RFC 8259 §7).
    size += len(id) + len(headers or b"") + 6 * (len(item.key or "") + len(item.content_type or ""))
    return draft, size + FIELDS_BYTES


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
        if isinstance(key, str) and 1 <= len(key.encode()) <= KEY_BYTES_MAX:
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
        if not isinstance(name, str) or not NAME.fullmatch(name) or not isinstance(text, str):
            raise refused("bad_request", "headers map names to strings")
    try:
        packed = dumps(dict(headers))
    except BadJson as exc:
        raise refused("bad_request", f"headers: {exc}") from None
    if len(packed) > HEADERS_BYTES_MAX:
        raise refused("bad_request", f"headers are at most {HEADERS_BYTES_MAX} bytes as JSON")
    return packed
