"""An event stream over a real socket: chunks by hand, as nothing but a test needs to see them.

Owns one connection and one GET. It never reconnects, and reads only when it is asked to.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

from .asgi_client import parse_events
from .http_client import TIMEOUT_S, parse_head, request_bytes


class EventClient:
    """One stream. `events` are read from its beginning on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        """The last chunk has come: the gateway ended the stream in good order."""

    @classmethod
    async def open(
        cls,
        port: int,
        path: str,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        receive_bytes: int | None = None,
    ) -> EventClient:
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            client = cls(*await asyncio.open_connection(sock=sock, limit=receive_bytes or 65536))
        except BaseException:
            sock.close()
            raise
        client._writer.write(request_bytes("GET", path, token=token, headers=headers))
        async with asyncio.timeout(TIMEOUT_S):
            head = await client._reader.readuntil(b"\r\n\r\n")
        client.status, client.headers = parse_head(head[:-4])
        return client

    async def _chunk(self) -> None:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        data = await self._reader.readexactly(size + 2)
        self.body += data[:-2]
        self.ended = not size

    async def events(self, count: int, timeout_s: float = TIMEOUT_S) -> list[tuple[str, str, Any]]:
        """The first `count` events. Raises EOFError when the stream ends before."""
        async with asyncio.timeout(timeout_s):
            while len(found := parse_events(self.body)) < count:
                if self.ended:
                    raise EOFError(self.body)
                await self._chunk()
        return found

    async def end(self, timeout_s: float = TIMEOUT_S) -> list[tuple[str, str, Any]]:
        """All events, once the gateway has ended the stream."""
        async with asyncio.timeout(timeout_s):
            while not self.ended:
                await self._chunk()
        return parse_events(self.body)

    async def cut(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Whether the connection ends without a last chunk."""
        async with asyncio.timeout(timeout_s):
            try:
                while not self.ended:
                    await self._chunk()
            except (asyncio.IncompleteReadError, ConnectionError):
                return True
        return False

    def close(self) -> None:
        self._writer.transport.abort()
