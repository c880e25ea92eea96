"""HTTP/1.1 over asyncio streams: one request and its response on a connection that is kept.

Owns bytes and their limits: what is sent, how a response is read (RFC 9112), when a connection may be used again. Knows
no route and no error of the gateway. The base install has no HTTP client, and the standard library's is for threads,
in which a request cannot be cancelled; what an API with small JSON bodies needs is small.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Mapping
from dataclasses import dataclass

from .address import HttpAddress

HEAD_BYTES_MAX = 64 * 1024
"""Status line and headers of a response: four times what a gateway takes of a request."""
BODY_BYTES_MAX = 256 * 1024 * 1024
"""A look into a topic: 100 messages of 1 MiB, as base64, and their headers."""
IDLE_S_MAX = 10.0
"""A connection that rested longer is not used again: gateways drop theirs after 15 s."""

CLOSE_TIMEOUT_S = 2.0
"""For TLS to say goodbye."""


class BadHttp(Exception):
    """What came back is no HTTP/1.1 response."""


class Dropped(Exception):
    """The connection ended before the response was whole. `begun`: after some of it had come."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__("the connection ended before the response did")
        self.begun = begun


@dataclass(slots=True)
class Response:
    """One response. `headers` by lower-case name, of repeated ones the last."""

    status: int
    headers: dict[str, str]
    body: bytes


class HttpLink:
    """One connection. Use it for one request at a time."""

    def __init__(self, address: HttpAddress, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._address = address
        self._reader = reader
        self._writer = writer
        self._idle_since = 0.0
        self.used = False
        """Has served a request before: the other side may have dropped it since, unheard."""
        self._kept = True

    @classmethod
    async def open(cls, address: HttpAddress, ssl: ssl_module.SSLContext | None) -> HttpLink:
        """Connect. Raises OSError."""
        secure = (ssl or ssl_module.create_default_context()) if address.secure else None
        reader, writer = await asyncio.open_connection(
            address.host,
            address.port,
            ssl=secure,
            server_hostname=address.host if secure else None,
            limit=HEAD_BYTES_MAX,
        )
        return cls(address, reader, writer)

    def usable(self, now: float) -> bool:
        """Whether another request may be sent here."""
        return self._kept and not self._reader.at_eof() and now < self._idle_since + IDLE_S_MAX

    def rest(self, now: float) -> None:
        """It waits for the next request."""
        self._idle_since = now

    def abort(self) -> None:
        """End it, without waiting for the other side."""
        self._kept = False
        self._writer.transport.abort()

    async def close(self) -> None:
        """End it in order."""
        self._kept = False
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()  # the other side has gone, or does not answer: nothing was under way

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        """Send it and read the answer. Raises Dropped, BadHttp, OSError. However it ends but well, the connection is
        not used again."""
        kept, self._kept = self._kept, False
        assert kept  # `usable` said so
        begun = False
        try:
            self._writer.write(self._head(method, path, headers, body) + (body or b""))
            await self._writer.drain()
            while True:
                status, fields = _parse(await self._reader.readuntil(b"\r\n\r\n"))
                begun = True
                if status >= 200:
                    break  # anything before is provisional (RFC 9110 §15.2)
            content = await self._body(status, fields)
        except asyncio.IncompleteReadError as exc:
            raise Dropped(begun=begun or bool(exc.partial)) from None
        except ConnectionError:
            raise Dropped(begun=begun) from None
        except asyncio.LimitOverrunError:
            raise BadHttp(f"a line or head of more than {HEAD_BYTES_MAX} bytes") from None
        self.used = True
        self._kept = "close" not in fields.get("connection", "").lower()
        return Response(status, fields, content)

    def _head(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        fields = {"host": self._address.authority, **headers}
        if body is not None:
            fields |= {"content-type": "application/json", "content-length": str(len(body))}
        elif method == "POST":
            fields["content-length"] = "0"
        lines = [
            f"{method} {self._address.prefix}{path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in fields.items()),
        ]
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    async def _body(self, status: int, headers: Mapping[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":  # not ours: a proxy's
            return await self._chunks()
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise BadHttp("a response without a length")
        return await self._reader.readexactly(_bounded(int(length)))

    async def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            line = (await self._reader.readuntil(b"\r\n")).partition(b";")[0].strip()
            try:
                size_bytes = int(line, 16)
            except ValueError:
                raise BadHttp("a chunk without a size") from None
            if not size_bytes:
                break
            _bounded(len(body) + size_bytes)
            body += await self._reader.readexactly(size_bytes)
            await self._reader.readuntil(b"\r\n")
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            """Trailers say nothing that is needed."""
        return bytes(body)


def _bounded(size_bytes: int) -> int:
    if not 0 <= size_bytes <= BODY_BYTES_MAX:
        raise BadHttp(f"a body of more than {BODY_BYTES_MAX} bytes")
    return size_bytes


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdecimal() or len(rest[:3]) != 3:
        raise BadHttp("no HTTP/1.1 status line")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(rest[:3]), headers
