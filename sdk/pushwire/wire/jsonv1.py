"""The JSON codec of subprotocol `pushwire.v1`, for each side of a connection.

One WebSocket message holds one or more operations, a line each (JSON text has no raw newline inside). Owns
nothing but the framing; decode.py, answers.py and encode.py own the operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import answers, decode
from .codec import join_lines
from .encode import encode
from .frames import SUBPROTOCOL, ClientFrame, Draft, Malformed, ServerFrame

MALFORMED_LINES_MAX = 100
"""Unreadable lines of one WebSocket message; what follows the last of them is not read. Refusing a line of two bytes
costs as much as reading one of a hundred, so a message full of them would hold the gateway up for most of a second;
a hundred is more than the gateway forgives in a minute."""


def _lines(data: bytes | str) -> Sequence[bytes]:
    # A str with a lone surrogate is no UTF-8; it becomes bytes that the parser refuses.
    raw = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    if b"\n" not in raw:  # nearly every message; an empty one is an empty line
        return () if not raw or raw.isspace() else (raw,)
    return [line for line in raw.split(b"\n") if line.strip()]


class JsonServerCodec:
    """The gateway's side: feeds on what clients send, encodes what the gateway says."""

    subprotocol = SUBPROTOCOL
    __slots__ = ("_make_message",)

    def __init__(self, make_message: decode.MakeMessage = Draft) -> None:
        self._make_message = make_message

    def feed(self, data: bytes | str) -> Sequence[ClientFrame]:
        return list(self.parse(data))

    def parse(self, data: bytes | str) -> Iterator[ClientFrame]:
        malformed = 0
        for line in _lines(data):
            frame = decode.decode_line(line, self._make_message)
            if type(frame) is Malformed:
                malformed += 1
                if malformed == MALFORMED_LINES_MAX:
                    frame.message += "; the rest of this WebSocket message was not read"
                    yield frame
                    return
            yield frame

    def encode(self, frame: ServerFrame) -> bytes:
        return encode(frame)

    def join(self, parts: Sequence[bytes]) -> bytes:
        return parts[0] if len(parts) == 1 else join_lines(parts)


class JsonClientCodec:
    """The client's side."""

    subprotocol = SUBPROTOCOL
    __slots__ = ()

    def feed(self, data: bytes | str) -> Sequence[ServerFrame]:
        return list(self.parse(data))

    def parse(self, data: bytes | str) -> Iterator[ServerFrame]:
        return map(answers.decode_line, _lines(data))

    def encode(self, frame: ClientFrame) -> bytes:
        return encode(frame)

    def join(self, parts: Sequence[bytes]) -> bytes:
        return parts[0] if len(parts) == 1 else join_lines(parts)


def codec_for(subprotocol: str, make_message: decode.MakeMessage) -> Any:
    """The gateway's codec of a negotiated subprotocol. Raises KeyError for one not offered."""
    return {SUBPROTOCOL: JsonServerCodec}[subprotocol](make_message)
