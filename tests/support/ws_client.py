"""A raw pushwire.v1 client for tests: operations as dicts, no retry, no help, everything that happens visible.

Owns one connection. Shares nothing with the SDK (whoever tests the wire with the code under test tests nothing)
except the framing that the load generator also speaks. Answers pings, because a silent client is another test.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from bench import framing
from support.http_client import Response, parse_response

TIMEOUT_S = 10.0
SUBPROTOCOL = "pushwire.v1"
NO_CLOSE_FRAME = 1006
OPEN: set[WsClient] = set()
"""Every client whose connection has not ended: for a fixture that cleans up behind failed tests."""

Op = dict[str, Any]


class Refused(ConnectionError):
    """The upgrade was answered with something else than 101."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"upgrade refused: {response.status} {response.body[:200]!r}")
        self.response = response


class Closed(ConnectionError):
    """The connection ended. `code` is the gateway's close code, 1006 when there was none."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"connection closed: {code} {reason}")
        self.code = code


class WsClient(asyncio.Protocol):
    """One WebSocket. `deliveries` are the rows of `messages` operations, each with `sub` and `at` (monotonic s);
    `notices` is every other operation that answers nothing."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.deliveries: asyncio.Queue[Op] = asyncio.Queue()
        self.notices: asyncio.Queue[Op] = asyncio.Queue()
        self.on_deliveries: Callable[[list[Op]], None] | None = None
        self.welcome: Op = {}
        self.goodbye: Op | None = None
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[int] = loop.create_future()
        self._welcomed: asyncio.Future[None] = loop.create_future()
        self._refs = itertools.count(1)
        self._replies: dict[Any, asyncio.Future[Op]] = {}
        self._reader = framing.Reader()
        self._head: bytes | None = b""
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._code = NO_CLOSE_FRAME
        self._transport: asyncio.Transport | None = None

    # --- opening --------------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        port: int,
        token: str | None = None,
        *,
        offered: str = SUBPROTOCOL,
        sock: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> WsClient:
        """Connect and finish the handshake; with a token, `welcome` has come too. Raises Refused, Closed, OSError."""
        loop = asyncio.get_running_loop()
        where: dict[str, Any] = {"sock": sock} if sock else {"host": "127.0.0.1", "port": port}
        if tls is not None:
            where.update(ssl=tls, server_hostname="localhost")
        async with asyncio.timeout(timeout_s):
            _, client = await loop.create_connection(cls, **where)
            try:
                client.send_raw(framing.upgrade_request(f"127.0.0.1:{port}", "/v1/ws", client._key, offered, token))
                await client.opened
                if token is not None or "bearer." in offered:
                    await client._welcomed
            except BaseException:
                client.abort()
                raise
        return client

    # --- the transport --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        OPEN.add(self)

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            rest = self._handshake(self._head)
            if rest is None:
                return
            data, self._head = rest, None
        at = time.monotonic()
        for opcode, payload in self._reader.feed(data):
            if opcode == framing.TEXT:
                for line in payload.split(b"\n"):
                    self._received(json.loads(line), at)
            elif opcode == framing.PING:
                self.send_raw(framing.encode(payload, framing.PONG))
            elif opcode == framing.CLOSE:
                self._code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
                self.send_raw(framing.encode(payload[:2], framing.CLOSE))
                self.transport.close()

    def _handshake(self, head: bytes) -> bytes | None:
        if b"\r\n\r\n" not in head:
            return None
        if not head.startswith(b"HTTP/1.1 101 "):
            found = parse_response(head)
            if found is not None and not self.opened.done():
                self.opened.set_exception(Refused(found[0]))
            return None
        rest = framing.read_upgrade(head, self._key, SUBPROTOCOL)
        self.opened.set_result(None)
        return rest

    def connection_lost(self, exc: Exception | None) -> None:
        OPEN.discard(self)
        error = Closed(self._code)
        waiting: list[asyncio.Future[Any]] = [self.opened, self._welcomed, *self._replies.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever awaits it sees it; nobody else needs a warning
        self._replies.clear()
        if not self.closed.done():
            self.closed.set_result(self._code)

    def _received(self, op: Op, at: float) -> None:
        kind = op["op"]
        if kind == "messages":
            rows = [{"sub": op["sub"], "at": at, **row} for row in op["messages"]]
            if self.on_deliveries is not None:
                self.on_deliveries(rows)
            else:
                for row in rows:
                    self.deliveries.put_nowait(row)
        elif kind == "ping":
            self.send({"op": "pong", **({"ref": op["ref"]} if "ref" in op else {})})
        elif "ref" in op and op["ref"] in self._replies:
            reply = self._replies.pop(op["ref"])
            if not reply.done():
                reply.set_result(op)
        else:
            self._noticed(kind, op)

    def _noticed(self, kind: str, op: Op) -> None:
        if kind == "welcome":
            self.welcome = op
            if not self._welcomed.done():
                self._welcomed.set_result(None)
        elif kind == "goodbye":
            self.goodbye = op
        self.notices.put_nowait(op)

    # --- what a test does -----------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return not self.closed.done()

    def send_raw(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def send(self, *ops: Op) -> None:
        """All of them in one WebSocket message."""
        self.send_raw(framing.encode(b"\n".join([json.dumps(op).encode() for op in ops])))

    def asked(self, op: Op) -> asyncio.Future[Op]:
        """Send with a fresh ref; the future is its reply, or Closed."""
        ref = next(self._refs)
        reply: asyncio.Future[Op] = asyncio.get_running_loop().create_future()
        if self.closed.done() or self.transport.is_closing():
            reply.set_exception(Closed(self._code))
            return reply
        self._replies[ref] = reply
        self.send({**op, "ref": ref})
        return reply

    async def ask(self, op: Op, timeout_s: float = TIMEOUT_S) -> Op:
        """The reply to an operation, `ok` or `error`. Raises Closed, TimeoutError."""
        return await asyncio.wait_for(self.asked(op), timeout_s)

    async def ok(self, op: Op, timeout_s: float = TIMEOUT_S) -> Op:
        """As `ask`, and the reply must be `ok`."""
        reply = await self.ask(op, timeout_s)
        assert reply["op"] == "ok", reply
        return reply

    async def publish(self, topic: str, data: Any, **fields: Any) -> Op:
        """The receipt of one message."""
        reply = await self.ok({"op": "publish", "topic": topic, "data": data, **fields})
        receipt: Op = reply["receipts"][0]
        return receipt

    async def subscribe(self, topic: str, **fields: Any) -> Op:
        return await self.ok({"op": "subscribe", "topic": topic, **fields})

    async def take(self, count: int, timeout_s: float = TIMEOUT_S) -> list[Op]:
        """The next `count` deliveries."""
        async with asyncio.timeout(timeout_s):
            return [await self.deliveries.get() for _ in range(count)]

    async def notice(self, kind: str, timeout_s: float = TIMEOUT_S) -> Op:
        """The next notice of this kind; others before it are dropped."""
        async with asyncio.timeout(timeout_s):
            while True:
                op = await self.notices.get()
                if op["op"] == kind:
                    return op

    async def close_code(self, timeout_s: float = TIMEOUT_S) -> int:
        """The close code, once the connection is over."""
        return await asyncio.wait_for(asyncio.shield(self.closed), timeout_s)

    def abort(self) -> None:
        """Cut the connection without a word."""
        self.transport.abort()
