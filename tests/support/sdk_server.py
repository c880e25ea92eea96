"""A peer behind a real WebSocket server on loopback, in this process.

Owns the sockets and what a gateway does around its frames: HTTP answers, closes, cuts. The rules are the peer's.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from pushwire import Backoff, Client, TokenSource
from support.sdk_peer import Peer, PeerLink

Answer = Callable[[ServerConnection, Request], Response | None]


class PeerServer:
    """Serves one peer. `answer` may refuse an upgrade; `requests` are the upgrades seen."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.requests: list[Request] = []
        self.answer: Answer = lambda _connection, _request: None
        self.arrived = asyncio.Condition()
        """Notified when a connection was made, a message was handled, or a connection ended."""
        self._server: Server | None = None
        self._open: dict[ServerConnection, PeerLink] = {}

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = next(iter(self._server.sockets)).getsockname()[:2]
        return f"ws://{host}:{port}"

    async def until(self, predicate: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait for something to become true of the peer."""
        async with asyncio.timeout(timeout_s), self.arrived:
            await self.arrived.wait_for(predicate)

    async def flush(self) -> None:
        """Send what the peer has to say."""
        for connection, link in list(self._open.items()):
            data = link.take()
            if data is not None:
                await connection.send(data, text=True)
            if link.close_code is not None:
                await connection.close(link.close_code)

    async def close(self, code: int, reason: str = "") -> None:
        """Close every connection with this code."""
        for connection in list(self._open):
            await connection.close(code, reason)

    def cut(self) -> None:
        """Every connection is gone without a word."""
        for connection in self._open:
            connection.transport.abort()

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        refused = self.answer(connection, request)
        if refused is None and request.path != "/v1/ws":
            return connection.respond(http.HTTPStatus.NOT_FOUND, "not here")
        return refused

    async def _handle(self, connection: ServerConnection) -> None:
        link = self.peer.connect()
        self._open[connection] = link
        try:
            await self.flush()
            await self._notify()
            async for message in connection:
                link.feed(message)
                await self.flush()
                await self._notify()
        except ConnectionClosed:
            assert connection.close_code is not None
        finally:
            del self._open[connection]
            link.disconnected()
            with contextlib.suppress(ConnectionClosed):
                await self.flush()
            await self._notify()

    async def _notify(self) -> None:
        async with self.arrived:
            self.arrived.notify_all()


@contextlib.asynccontextmanager
async def serving(peer: Peer | None = None, subprotocol: str | None = "pushwire.v1") -> AsyncIterator[PeerServer]:
    server = PeerServer(peer or Peer())
    serving_it = serve(
        server._handle,
        "127.0.0.1",
        0,
        subprotocols=None if subprotocol is None else [Subprotocol(subprotocol)],
        compression=None,
        max_size=2**21,
        process_request=server._check,
        close_timeout=1,
    )
    with _without_proxies():
        async with serving_it as served:
            server._server = served
            yield server


@contextlib.contextmanager
def _without_proxies() -> Iterator[None]:
    """A proxy that the environment names is not there for loopback."""
    names = [name for name in os.environ if name.lower().endswith("_proxy")]
    saved = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(saved)


def client_of(server: PeerServer, token: TokenSource = "secret-token", **options: Any) -> Client:
    """A client that comes back at once."""
    return Client(server.url, token, **({"reconnect": Backoff(0, 0)} | options))
