"""HTTP/1.1 by hand for tests: exactly the bytes a test wants to send, and what came back, byte for byte.

Owns reading responses and the smallest client on top. Must not repair anything: a test of a server wants to see what
the server did, and needs to send what no library would.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 10.0
OPEN: set[HttpClient] = set()
"""Every client not closed yet: for a fixture that cleans up behind failed tests."""


class BadResponse(Exception):
    """Bytes that are no complete HTTP/1.1 response."""


@dataclass
class Response:
    """One response. `headers` by lower-case name; of repeated ones the last."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers of a response head, without its empty line."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    if version != "HTTP/1.1" or not rest[:3].isdigit():
        raise BadResponse(f"no status line: {status_line[:100]!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadResponse(f"no header: {line[:100]!r}")
        headers[name.strip().lower()] = value.strip()
    return int(rest[:3]), headers


def parse_response(data: bytes) -> tuple[Response, bytes] | None:
    """The first response in `data` and what follows it; None while it is incomplete. Needs a Content-Length (what
    this project's API always sends), except where a response has no body."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    status, headers = parse_head(data[:end])
    rest = data[end + 4 :]
    if status < 200 or status in (204, 304):
        return Response(status, headers, b""), rest
    if "content-length" not in headers:
        raise BadResponse(f"a response without Content-Length: {data[:200]!r}")
    size = int(headers["content-length"])
    if len(rest) < size:
        return None
    return Response(status, headers, rest[:size]), rest[size:]


def request_bytes(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A request as curl would send it."""
    lines = {"Host": "127.0.0.1", "User-Agent": "test"}
    if token is not None:
        lines["Authorization"] = f"Bearer {token}"
    if body or method == "POST":
        lines["Content-Type"] = "application/json"
        lines["Content-Length"] = str(len(body))
    lines.update(headers or {})
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + b"\r\n" + body


class HttpClient:
    """One connection, kept alive between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""
        OPEN.add(self)

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> HttpClient:
        name = "localhost" if tls else None
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name))

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def response(self, timeout_s: float = TIMEOUT_S) -> Response:
        """The next response. Raises ConnectionError when the server closes instead."""
        async with asyncio.timeout(timeout_s):
            while True:
                found = parse_response(self._rest)
                if found is not None:
                    response, self._rest = found
                    return response
                data = await self._reader.read(65536)
                if not data:
                    raise ConnectionResetError(f"closed after {self._rest[:200]!r}")
                self._rest += data

    async def rest(self, timeout_s: float = TIMEOUT_S) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(timeout_s):
            try:
                self._rest += await self._reader.read()
            except ConnectionResetError:
                return self._rest  # closed with our bytes unread: what came before still counts
            return self._rest

    async def nothing_or_end(self, within_s: float) -> bool:
        """Whether the server says nothing for so long, or closes without a word."""
        try:
            return not await asyncio.wait_for(self._reader.read(65536), within_s)
        except (TimeoutError, ConnectionResetError):
            return True

    async def request(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.send(request_bytes(method, path, raw, token=token, headers=headers))
        return await self.response(timeout_s)

    def close(self) -> None:
        OPEN.discard(self)
        self._writer.transport.abort()


async def request(port: int, method: str, path: str, body: Any = b"", **options: Any) -> Response:
    """One request on a connection of its own."""
    tls = options.pop("tls", None)
    client = await HttpClient.connect(port, tls)
    try:
        return await client.request(method, path, body, **options)
    finally:
        client.close()
