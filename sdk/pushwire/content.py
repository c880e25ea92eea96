"""What a message carries, however it came: under a lease or in a tail.

Owns how a producer's fields are shown to user code. Knows no lease and no subscription.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from .wire.codec import loads
from .wire.frames import MessageLike

_ENCODINGS = ("json", "text", "binary")


class Content:
    """A message's id, place, headers and body."""

    __slots__ = ("_draft",)

    _draft: MessageLike

    @property
    def id(self) -> str:
        """The producer's id: the same at every delivery. Act on a message idempotently by it."""
        return self._draft.id

    @property
    def seq(self) -> int:
        """Position in the topic."""
        return self._draft.seq

    @property
    def priority(self) -> int:
        """0 (lowest) to 3."""
        return self._draft.priority

    @property
    def key(self) -> str | None:
        return self._draft.key

    @property
    def redriven(self) -> bool:
        """It was a dead letter, and was put back. Its `seq` is new, its id is not."""
        return self._draft.redriven

    @property
    def headers(self) -> dict[str, str]:
        """A fresh dict at each access."""
        packed = self._draft.headers
        headers: dict[str, str] = loads(packed) if packed else {}
        return headers

    @property
    def content_type(self) -> str | None:
        return self._draft.content_type

    @property
    def published_at(self) -> datetime:
        """When the gateway took it, by its clock; aware, UTC."""
        return datetime.fromtimestamp(self.published_at_ms / 1000, UTC)

    @property
    def published_at_ms(self) -> int:
        """The same in milliseconds since 1970."""
        return self._draft.published_at_ms

    @property
    def encoding(self) -> str:
        """How it was published: "json", "text" or "binary"."""
        return _ENCODINGS[self._draft.encoding]

    @property
    def data(self) -> bytes:
        """The body: JSON as text in UTF-8 (equal as JSON to what was published, not byte for byte), text in UTF-8, or
        the bytes."""
        return self._draft.data

    @property
    def text(self) -> str:
        """`data` as UTF-8. Raises UnicodeDecodeError for bytes that are none."""
        return self.data.decode()

    def json(self) -> Any:
        """The body parsed as JSON. Raises ValueError when a text or binary body is none."""
        return loads(self.data)
