"""The client: a shell with a connection, over the `websockets` package.

Owns the socket, the tasks that read and write it, and when a token is fetched; decides nothing that the session can
decide. The only module of the SDK that knows websockets. The read loop never awaits user code.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl as ssl_module
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from .address import websocket_url
from .backoff import NO_CLOSE_FRAME, REJECTED, Backoff, Loss, Reason
from .errors import Forbidden, ProtocolError, Unauthorized
from .shell import Shell
from .states import State
from .subscription import DRAIN_TIMEOUT_S
from .token_source import TokenSource, fetch_token
from .version import __version__
from .wire.frames import SUBPROTOCOL

log = logging.getLogger("pushwire")
# At DEBUG the package logs request headers, tokens included; so it does not inherit that level from the user's root.
_wire_log = logging.getLogger("pushwire.websockets")
_wire_log.setLevel(logging.INFO)

RECONNECT = Backoff(0.5, 20.0)
CLOSE_TIMEOUT_S = 2.0
"""For our last frames and the closing handshake. A gateway that needs longer is cut off, which costs redeliveries."""
IN_BYTES_MAX = 16 * 1024 * 1024
"""One WebSocket message from the gateway: a whole window of 8 MiB in flight, the most it may be set to, as base64."""
OVERLOADED = 1013
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Link(ClientConnection):
    """A connection that knows when it last heard anything, be it only a part of a message."""

    heard_at = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        super().data_received(data)


class _Dial(connect):
    """Connects where it is told. A redirect would carry the token to an address the user did not name."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Client(Shell):
    """A connection to a gateway that comes back by itself. Use it as an async context manager; entering starts to
    connect and does not wait, leaving drains.

    `url`: `ws(s)://host[:port]`. `token`: see TokenSource. `name`: shown to the gateway's operator. Timeouts in
    seconds; `request_timeout_s` is the default for how long a publish is retried. `ssl`: a context for `wss`.

    `resume_grace_s`: 0 to 60. After a lost connection the gateway keeps the leases of this client for so long, and a
    client that is back by then goes on with them: messages in the hands of handlers stay valid, what was said of them
    meanwhile is sent. 0 (the default): they go back at once, to whoever is there. The price is that after a crash of
    this program others get its messages that much later. It needs a token.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource = None,
        *,
        name: str | None = None,
        connect_timeout_s: float = 10.0,
        request_timeout_s: float = 30.0,
        reconnect: Backoff = RECONNECT,
        resume_grace_s: float = 0.0,
        ssl: ssl_module.SSLContext | None = None,
    ) -> None:
        if name is not None and not re.fullmatch(r"[\x20-\x7e]{1,64}", name):
            raise ValueError("name is 1 to 64 printable ASCII characters")
        super().__init__(
            reconnect,
            refreshable=callable(token),
            connect_timeout_s=connect_timeout_s,
            request_timeout_s=request_timeout_s,
            resume_grace_s=resume_grace_s,
        )
        self._url = websocket_url(url)
        self._token = token
        self._agent = f"pushwire/{__version__}" + (f" ({name})" if name else "")
        self._connect_timeout_s = connect_timeout_s
        self._ssl = ssl
        self._runner: asyncio.Task[None] | None = None
        self._renewer: asyncio.Task[None] | None = None
        self._link: _Link | None = None

    # --- life --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            raise RuntimeError("a client is entered once")
        self._loop = asyncio.get_running_loop()
        self._runner = self._loop.create_task(self._run(), name="pushwire-client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self.drain()
        else:
            await self.close()

    async def drain(self, timeout_s: float = DRAIN_TIMEOUT_S) -> bool:
        """Take no more messages, end all iterations, give back what was not handed out, wait for handlers, settlements
        and publishes, then close. True when all of that was done in time. Not from inside a handler, which would wait
        for itself."""
        if self._loop is None or self._session.closing or self._session.state is State.CLOSED:
            await self.close()
            return True
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._session.drain(waiter)
        try:
            return await self._in_time(waiter, timeout_s)
        finally:
            await self.close()

    async def close(self) -> None:
        """Send the settlements given so far and close, waiting for nobody. Leases still held go back at once."""
        self._session.close()
        self._after()
        runner = self._runner
        try:
            if runner is not None:
                if self._link is None:
                    runner.cancel()  # it waits, or dials: nothing to finish
                await asyncio.wait([runner], timeout=CLOSE_TIMEOUT_S)
        finally:
            for task in (runner, self._renewer):
                if task is not None:
                    task.cancel()
            self._drop("closed")
            self._session.lost(Loss(), self._now())
            self._after()
            if self._timer is not None:
                self._timer.cancel()

    # --- the connection ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connect, serve, wait, again: until the session says never."""
        session = self._session
        try:
            while (attempt := session.next_attempt()) is not None:
                connect_at, reason = attempt
                self._after()
                await asyncio.sleep(max(0.0, connect_at - self._now()))
                loss = await self._attempt(reason)
                session.lost(loss, self._now())
                self._after()
        except Exception as exc:
            log.exception("the client failed")
            session.fail(ProtocolError(f"the client failed: {exc!r}"), self._now())
            self._after()

    async def _attempt(self, reason: Reason) -> Loss:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                token = await fetch_token(self._token, reason)
        except Unauthorized as exc:
            return Loss(fatal=exc)
        except Exception as exc:
            log.exception("no token could be had")
            return Loss(reason=f"no token: {exc!r}")
        try:
            link = await self._dial(token)
        except (OSError, TimeoutError, WebSocketException) as exc:
            return _loss_of(exc)
        return await self._serve(link, token)

    async def _dial(self, token: str | None) -> _Link:
        secure: dict[str, Any] = {"ssl": self._ssl} if self._ssl is not None else {}
        link = await _Dial(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {token}"} if token is not None else None,
            user_agent_header=self._agent,
            compression=None,
            open_timeout=self._connect_timeout_s,
            ping_interval=None,  # the gateway pings; silence is the session's to judge
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=IN_BYTES_MAX,
            logger=_wire_log,
            create_connection=_Link,
            **secure,
        )
        assert isinstance(link, _Link)  # create_connection above
        return link

    async def _serve(self, link: _Link, token: str | None) -> Loss:
        """Until the connection ends, however it ends."""
        session = self._session
        if link.subprotocol != SUBPROTOCOL:
            link.transport.abort()
            return Loss(fatal=ProtocolError(f"the other side does not speak {SUBPROTOCOL}"))
        self._link = link
        session.opened(self._now(), token)
        self._after()
        writer = asyncio.create_task(self._write(link), name="pushwire-writer")
        try:
            while True:
                data = await link.recv(decode=False)
                session.receive(data, self._now())
                self._after()
        except ConnectionClosed:
            return Loss(link.close_code or NO_CLOSE_FRAME, link.close_reason or "")
        finally:
            self._link = None
            writer.cancel()
            link.transport.abort()
            await asyncio.wait([writer])
            if not writer.cancelled():
                writer.result()  # a failure of ours while writing is one of the client's

    async def _write(self, link: _Link) -> None:
        """Everything of one turn of the event loop in one write; while the socket is full, of many turns."""
        session = self._session
        try:
            while True:
                self._output.clear()
                for message in session.data_to_send(self._now()):
                    await link.send(message, text=True)
                if self._output.is_set():
                    continue
                if session.closing:
                    await link.close()
                    return
                await self._output.wait()
        except ConnectionClosed:
            log.debug("the connection ended while writing")  # the reader knows, and says so
        except Exception:
            link.transport.abort()  # wakes the reader, which ends the client with this
            raise

    def _drop(self, why: str) -> None:
        if self._link is not None:
            log.debug("dropping the connection: %s", why)
            self._link.transport.abort()

    def _heard_at(self) -> float:
        return 0.0 if self._link is None else self._link.heard_at

    def _want_token(self, reason: Reason) -> None:
        self._renewer = asyncio.ensure_future(self._renew(reason))

    async def _renew(self, reason: Reason) -> None:
        credentials = self._session.credentials
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                token = await fetch_token(self._token, reason)
        except Unauthorized as exc:
            self._session.fail(exc, self._now())
        except Exception:
            log.exception("no token could be had")
            credentials.none(self._now())
        else:
            credentials.renew(token or "")
        self._after()

    def __repr__(self) -> str:
        return f"Client({self._url!r}, state={self._session.state.value!r})"


def _loss_of(exc: Exception) -> Loss:
    """Why no connection came about."""
    if isinstance(exc, InvalidStatus):
        return _loss_of_status(exc.response.status_code, exc.response.headers.get("Retry-After"))
    if isinstance(exc, OSError | TimeoutError | InvalidMessage | ConnectionClosed):
        return Loss(reason=str(exc) or exc.__class__.__name__)
    return Loss(fatal=ProtocolError(f"no WebSocket to be had there: {exc}"))


def _loss_of_status(status: int, retry_after: str | None) -> Loss:
    """A refused upgrade."""
    text = f"HTTP {status}"
    if status == 401:
        return Loss(REJECTED, text)
    if status == 403:
        return Loss(fatal=Forbidden(f"the gateway refused the connection: {text}"))
    if status in _TRANSIENT_STATUS:
        wait_s = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
        return Loss(OVERLOADED, text, wait_s)
    return Loss(fatal=ProtocolError(f"no gateway to be had there: {text}"))
