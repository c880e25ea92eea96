"""An issuer's web server on loopback, as good or as bad as a test wants it, and the JWK sets it publishes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from support.tokens import b64, private_key

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def integer(value: int, size_bytes: int | None = None) -> str:
    return b64(value.to_bytes(size_bytes or -(-value.bit_length() // 8) or 1, "big"))


def rsa_jwk(key: rsa.RSAPrivateKey | None = None, /, **changes: Any) -> dict[str, Any]:
    """The tests' RS256 key as an issuer would publish it; None as a value leaves a member out."""
    numbers = (key or private_key("RS256")).public_key().public_numbers()
    assert isinstance(numbers, rsa.RSAPublicNumbers)
    members = {"kty": "RSA", "kid": "RS256", "use": "sig", "alg": "RS256", "n": integer(numbers.n), "e": "AQAB"}
    return {name: value for name, value in {**members, **changes}.items() if value is not None}


def ec_jwk(key: ec.EllipticCurvePrivateKey | None = None, /, **changes: Any) -> dict[str, Any]:
    """The tests' ES256 key, the same way."""
    numbers = (key or private_key("ES256")).public_key().public_numbers()
    assert isinstance(numbers, ec.EllipticCurvePublicNumbers)
    size = -(-numbers.curve.key_size // 8)
    point = {"x": integer(numbers.x, size), "y": integer(numbers.y, size)}
    members = {"kty": "EC", "kid": "ES256", "use": "sig", "alg": "ES256", "crv": "P-256", **point}
    return {name: value for name, value in {**members, **changes}.items() if value is not None}


def key_set(*entries: Any) -> bytes:
    return json.dumps({"keys": list(entries)}).encode()


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class KeyServer:
    """Answers every request with `answer` (bytes, after which it closes; or a coroutine). Notes what it was sent."""

    def __init__(self) -> None:
        self.answer: bytes | Answer = response(key_set(rsa_jwk()))
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"

    def publish(self, *entries: Any) -> None:
        self.answer = response(key_set(*entries))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            self.asked.set()
            if isinstance(self.answer, bytes):
                writer.write(self.answer)
                await writer.drain()
            else:
                await self.answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError) as gone:
            self.requests.append(f"the client has gone: {type(gone).__name__}".encode())
        finally:
            writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def key_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[KeyServer]:
    server = KeyServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        server.cut()
        await listening.wait_closed()


class Gate:
    """An answer that waits until it is opened."""

    def __init__(self, *parts: bytes) -> None:
        self.open = asyncio.Event()
        self._parts: Sequence[bytes] = parts

    async def __call__(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.open.wait()
        for part in self._parts:
            writer.write(part)
        await writer.drain()
