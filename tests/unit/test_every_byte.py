"""A handshake and a message, wrong at each of their bytes in turn: an answer or a documented close, and nobody else's
business. Changed in place, and cut short there, on a real port."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter

from bench import framing
from pushwire.wire.codes import CLOSES
from support.port import PATIENCE_S
from support.whole_gateway import WholeGateway, whole_gateway

FLIPS = (0x01, 0x80, 0xFF)
SILENCE_S = 0.1
"""So long is waited for an answer that may be none, because the other side waits for the rest of a frame."""
RFC_CLOSES = {1000, 1002, 1003, 1007, 1009}
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MESSAGE = framing.encode(
    b"\n".join(
        json.dumps(op).encode()
        for op in (
            {"op": "publish", "topic": "t", "id": "a", "ref": 1, "data": {"n": [1.5, None, "\u00e9"]}},
            {"op": "ack", "leases": ["n1.x"], "ref": 2},
        )
    )
)
PING = framing.encode(b'{"op":"ping","ref":3}')


class Raw:
    """One connection, whatever is said on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._frames = framing.Reader()
        self._head = b""

    @classmethod
    async def open(cls, gateway: WholeGateway, request: bytes) -> Raw:
        raw = cls(*await asyncio.open_connection("127.0.0.1", gateway.port))
        raw._writer.write(request)
        return raw

    async def head(self, patience_s: float = PATIENCE_S) -> str:
        """The status of the answer, or how it ended without."""
        try:
            async with asyncio.timeout(patience_s):
                self._head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return "closed"
        except TimeoutError:
            return "waits"
        return self._head[9:12].decode()

    async def outcome(self, data: bytes) -> str:
        """What comes of these bytes: answered (the ping behind them was), closed with which code, or nothing yet."""
        self._writer.write(data)
        try:
            async with asyncio.timeout(SILENCE_S):
                while received := await self._reader.read(65536):
                    for opcode, payload in self._frames.feed(received):
                        if opcode == framing.CLOSE:
                            return f"close {int.from_bytes(payload[:2], 'big')}"
                        if opcode == framing.TEXT and b'"op":"pong"' in payload:
                            return "answered"
        except ConnectionError:
            return "close 1006"
        except TimeoutError:
            return "waits"
        return "close 1006"

    def abort(self) -> None:
        self._writer.transport.abort()


def _flipped(whole: bytes) -> list[bytes]:
    return [whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :] for at in range(len(whole)) for flip in FLIPS]


def _request(token: str) -> bytes:
    return framing.upgrade_request("a", "/v1/ws", KEY, "pushwire.v1", token)


async def _bystander_is_served(gateway: WholeGateway) -> None:
    raw = await Raw.open(gateway, _request(gateway.token("bystander")))
    assert await raw.head() == "101"
    assert await raw.outcome(PING) == "answered"
    raw.abort()


async def test_a_message_that_is_wrong_at_any_byte_is_answered_or_ends_its_connection(caplog):
    seen: Counter[str] = Counter()
    async with whole_gateway(connections_per_subject=1000) as gateway:
        token = gateway.token("mallory")
        for mutant in _flipped(MESSAGE):
            raw = await Raw.open(gateway, _request(token))
            assert await raw.head() == "101"
            seen[await raw.outcome(mutant + PING)] += 1
            raw.abort()
        for cut in range(1, len(MESSAGE)):  # and gone in the middle of it
            raw = await Raw.open(gateway, _request(token) + MESSAGE[:cut])
            assert await raw.head() == "101"
            raw.abort()
        await _bystander_is_served(gateway)
        assert gateway.server.listener.stats.failures == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    codes = {int(outcome.split()[1]) for outcome in seen if outcome.startswith("close")}
    assert codes <= RFC_CLOSES | set(CLOSES), seen
    assert {1002, 1007} <= codes
    assert seen["answered"] > 100, "a line that is refused costs nothing but itself"


async def test_a_handshake_that_is_wrong_at_any_byte_is_refused_or_taken(caplog):
    seen: Counter[str] = Counter()
    async with whole_gateway(connections_per_subject=1000) as gateway:
        request = _request(gateway.token("mallory"))
        for at in range(len(request)):
            raw = await Raw.open(gateway, request[:at] + bytes([request[at] ^ 0x01]) + request[at + 1 :])
            seen[await raw.head(SILENCE_S)] += 1
            raw.abort()
        await _bystander_is_served(gateway)
        assert gateway.server.listener.stats.failures == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert set(seen) <= {"101", "400", "401", "403", "404", "405", "426", "431", "501", "505", "closed", "waits"}, seen
    assert seen["401"] > 100, "a token that is wrong at any byte is no token"
