"""The client's side of WebSocket framing for the load generator, by hand: as little work per frame as Python allows.

Owns bytes <-> frames and the opening handshake (RFC 6455 §4-5). Knows no socket, no clock and no operation of any
protocol; it is no client for users, because it masks with key 0 (legal on the wire, but no protection of proxies,
which loopback has not).
"""

from __future__ import annotations

import base64
import hashlib

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
CONTINUATION = 0x0
FRAME_BYTES_MAX = 16 * 1024 * 1024
"""Larger than any frame a contestant has reason to send; a length above it is a lost frame boundary."""
HEAD_BYTES_MAX = 16 * 1024
"""A handshake answer is a few hundred bytes."""

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NO_MASK = b"\0\0\0\0"


class FramingError(Exception):
    """The peer sent what RFC 6455 does not allow, or refused the handshake."""


def encode(payload: bytes, opcode: int = TEXT) -> bytes:
    """One final client frame. The masking key is 0, so the payload goes out as it is."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b%b" % (0x80 | opcode, 0x80 | size, _NO_MASK, payload)
    if size < 65536:
        return b"%c\xfe%b%b%b" % (0x80 | opcode, size.to_bytes(2, "big"), _NO_MASK, payload)
    return b"%c\xff%b%b%b" % (0x80 | opcode, size.to_bytes(8, "big"), _NO_MASK, payload)


def upgrade_request(host: str, path: str, key: str, subprotocol: str | None, token: str | None) -> bytes:
    """The opening request. `key` is 16 random bytes in base64."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    if subprotocol:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def accept_of(key: str) -> str:
    """What the server must answer to `key` (RFC 6455 §4.2.2)."""
    # The RFC prescribes SHA-1; nothing secret depends on it.
    return base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def read_upgrade(data: bytes, key: str, subprotocol: str | None) -> bytes | None:
    """The bytes that follow a complete, correct answer, or None while the head is incomplete.
    Raises FramingError when the handshake was refused or is wrong."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > HEAD_BYTES_MAX:
            raise FramingError("the answer to the handshake has no end")
        return None
    status, *lines = data[:end].decode("latin-1").split("\r\n")
    if not status.startswith("HTTP/1.1 101"):
        raise FramingError(f"handshake refused: {status} {data[end + 4 : end + 300].decode('latin-1')}".strip())
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("sec-websocket-accept") != accept_of(key):
        raise FramingError("Sec-WebSocket-Accept is wrong")
    if headers.get("sec-websocket-protocol") != subprotocol:
        raise FramingError(f"subprotocol {headers.get('sec-websocket-protocol')!r} instead of {subprotocol!r}")
    if "sec-websocket-extensions" in headers:
        raise FramingError("an extension nobody asked for")
    return data[end + 4 :]


class Reader:
    """Bytes in, whole messages out: (opcode, payload). Fragments are joined; control frames come as they are."""

    __slots__ = ("_fragments", "_opcode", "_rest")

    def __init__(self, rest: bytes = b"") -> None:
        self._rest = rest
        self._fragments: list[bytes] = []
        self._opcode = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Messages completed by `data`. Raises FramingError."""
        if self._rest:
            data = self._rest + data
        messages: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while end - at >= 2:
            first, size, body = data[at], data[at + 1], at + 2
            if size > 127:
                raise FramingError("a masked frame from a server")
            if size >= 126:
                body = at + (4 if size == 126 else 10)
                if end < body:
                    break
                size = int.from_bytes(data[at + 2 : body], "big")
                if size > FRAME_BYTES_MAX:
                    raise FramingError(f"a frame of {size} bytes")
            if body + size > end:
                break
            at = body + size
            if 0x81 <= first <= 0x82 and not self._fragments:  # the common shape: one final frame
                messages.append((first & 0x0F, data[body:at]))
            else:
                self._other(first, data[body:at], messages)
        self._rest = data[at:]
        return messages

    def _other(self, first: int, payload: bytes, messages: list[tuple[int, bytes]]) -> None:
        opcode, final = first & 0x0F, first & 0x80
        if first & 0x70:
            raise FramingError("reserved bits are set")
        if opcode in (CLOSE, PING, PONG):
            if not final or len(payload) > 125:
                raise FramingError("a control frame that is fragmented or too long")
            messages.append((opcode, payload))
            return
        if opcode not in (CONTINUATION, TEXT, BINARY) or (opcode == CONTINUATION) != bool(self._fragments):
            raise FramingError(f"opcode {opcode} out of place")
        if opcode != CONTINUATION:
            self._opcode = opcode
        self._fragments.append(payload)
        if sum(map(len, self._fragments)) > FRAME_BYTES_MAX:
            raise FramingError("a fragmented message without end")
        if final:
            messages.append((self._opcode, b"".join(self._fragments)))
            self._fragments = []
