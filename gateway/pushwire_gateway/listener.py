"""The port: sockets, who is let in, the sweep over all connections, and their end at the drain.

Owns accepting and refusing before a byte is parsed, TLS, and the one timer of all connections. Must not know what a
connection says: HTTP is http_protocol.py's, WebSockets are connection.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from email.utils import formatdate
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from .api import make_app
from .caps import Admission
from .http_protocol import HttpProtocol
from .hub import Checked, Hub, Stats
from .outbox import TRANSPORT_HIGH_BYTES, TRANSPORT_LOW_BYTES
from .ports import Gateway
from .problems import raw_response
from .refusal import BUSY_RETRY_MS, Refusal
from .settings import ConfigError, Settings, refuse_shared
from .tcp import tune_listening

ACCEPTS_PER_TURN_MAX: Final = 128
"""Connections accepted in one loop turn, and the kernel's queue of those that wait. They need descriptors before any
of them can be refused, so this must stay far below the reserve that caps.py keeps."""

SWEEP_S: Final = 0.4
"""Each connection is checked about this often. A stall is seen one check after it began, at the latest, and judged one
check after its 5 s: below 6 s together. Rarer costs less: a check is mostly cache misses, 2 us with 3,000 idle ones."""

SWEEP_SLICE: Final = 500
"""Connections checked in one loop turn, about 1 ms: all of 10,000 at once would delay every push by 20."""

TLS_HANDSHAKE_S: Final = 5.0
"""As the time for the HTTP head, which begins behind it."""

ABORTED_S: Final = 0.5
"""For connections that were cut off to report their end. The transports do it in the next turns, without any I/O; one
that does not must not keep the store from being closed in time."""

_log = logging.getLogger("pushwire.listener")


def _no_password() -> str:
    """OpenSSL would ask for it on the terminal, and a service would wait there for ever."""
    raise ValueError("the key is encrypted")


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The server's TLS, if the settings ask for it. Raises ConfigError."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for path in (settings.tls_cert_file, settings.tls_key_file):
        try:
            path.open("rb").close()
        except OSError as exc:  # which file it was, load_cert_chain would not say
            raise ConfigError(f"cannot read {path}: {exc.strerror}") from None
    # Debian keeps such keys readable by a group (ssl-cert), as mounts into containers do.
    refuse_shared("tls_key_file", settings.tls_key_file, group_may_read=True)
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, password=_no_password)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or str(exc)
        raise ConfigError(
            f"tls_cert_file {settings.tls_cert_file} and tls_key_file {settings.tls_key_file} "
            f"are no PEM chain and its key: {reason}"
        ) from None
    return context


class Listener:
    """The gateway's port. `start`, then at the end `stop_accepting`, `drain` (or `abort`)."""

    def __init__(self, gateway: Gateway, app: Any = None) -> None:
        """`app` is the ASGI application for everything but WebSockets; by default the API alone."""
        self._gateway = gateway
        self._app = app if app is not None else make_app(gateway)
        self._servers: list[asyncio.Server] = []
        self._tls: ssl.SSLContext | None = None
        self._handshakes: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references to tasks
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._unswept: list[Checked] = []
        self._state = ServerState()
        self.addresses: list[tuple[str, int]] = []

    @property
    def stats(self) -> Stats:
        """Counters since `start`."""
        return self._hub.stats

    @property
    def connections(self) -> int:
        """Connections alive, HTTP and WebSocket."""
        return len(self._hub.live)

    async def start(self) -> str:
        """Bind and accept. Returns the first address as a URL. Raises OSError when an address cannot be bound."""
        settings = self._gateway.settings
        self._loop = asyncio.get_running_loop()
        self._hub = Hub(self._gateway, self._loop)
        self._config = Config(
            self._app, interface="asgi3", http=HttpProtocol, ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, date_header=False, proxy_headers=False,
        )  # fmt: skip
        self._config.load()
        self._tls = tls_context(settings)
        for bound in await _bind(self._loop, settings.host, settings.port):
            server = await self._loop.create_server(lambda: _Gate(self), sock=bound, backlog=ACCEPTS_PER_TURN_MAX)
            self._servers.append(server)
            self.addresses.append(bound.getsockname()[:2])
        self._sweep()
        host, port = self.addresses[0]
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    # --- letting in ----------------------------------------------------------------------------------------------

    def admit(self, transport: asyncio.Transport) -> Admission | None:
        """A place for a new connection; or it has been refused, told so (not over TLS: it would not understand),
        and is closing. Nothing has been read from it yet."""
        stats, gateway = self._hub.stats, self._gateway
        peer = transport.get_extra_info("peername")
        ip = str(peer[0]) if peer else ""
        proxied = self._hub.proxies.trusts(ip)
        admission = gateway.caps.connect(ip, proxied=proxied)
        if isinstance(admission, str):
            stats.refused[admission] += 1
            self._turn_away(transport, Refusal("too_many_connections", retry_after_ms=BUSY_RETRY_MS))
            return None
        verdict = None if proxied else gateway.throttle.connect(admission.network)
        if verdict is not None and not verdict.allowed:
            admission.release()
            stats.refused["rate"] += 1
            self._turn_away(transport, Refusal("rate_limited", retry_after_ms=verdict.retry_after_ms))
            return None
        stats.accepted += 1
        return admission

    def _turn_away(self, transport: asyncio.Transport, refusal: Refusal) -> None:
        if self._tls is None:
            transport.write(raw_response(refusal))
            transport.close()
        else:
            transport.abort()

    def begin(self, transport: asyncio.Transport, admission: Admission) -> HttpProtocol:
        """HTTP takes over an admitted connection."""
        http = HttpProtocol(self._hub, self._config, self._state, admission)
        transport.set_protocol(http)
        http.connection_made(transport)
        return http

    def handshake(self, gate: _Gate, transport: asyncio.Transport, admission: Admission) -> None:
        """TLS first. The only task of a connection, gone when the handshake is."""

        def over(task: asyncio.Task[None]) -> None:
            self._handshakes.discard(task)
            failure = asyncio.CancelledError() if task.cancelled() else task.exception()
            if failure is not None:
                admission.release()
                transport.abort()
                self._hub.stats.http_cut["tls"] += 1
                if not isinstance(failure, OSError | TimeoutError | asyncio.CancelledError):
                    self._hub.stats.failures += 1
                    _log.error("TLS handshake failed in our code", exc_info=failure)

        task = self._loop.create_task(self._handshake(gate, transport, admission))
        self._handshakes.add(task)
        task.add_done_callback(over)

    async def _handshake(self, gate: _Gate, transport: asyncio.Transport, admission: Admission) -> None:
        """Raises OSError (ssl.SSLError is one) when the client fails, TimeoutError when it is too slow."""
        assert self._tls is not None  # or nobody would have called
        if transport.is_closing():
            raise ConnectionResetError
        gate.tls_begins(self._loop)
        secured = await self._loop.start_tls(
            transport, gate, self._tls, server_side=True, ssl_handshake_timeout=TLS_HANDSHAKE_S,
            ssl_shutdown_timeout=self._gateway.settings.close_timeout_s,
        )  # fmt: skip
        if secured is None or secured.is_closing():
            raise ConnectionResetError
        http = self.begin(secured, admission)
        if gate.early:
            http.data_received(bytes(gate.early))

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken here."""
        return self._tls is not None

    # --- looking after -------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """One slice of the round over all connections. Slices are spread over the round's time."""
        now = self._gateway.clock.now()
        if not self._unswept:
            self._unswept = list(self._hub.live)
            self._state.default_headers = [(b"date", formatdate(now, usegmt=True).encode("ascii"))]
        slices = max(1, -(-len(self._hub.live) // SWEEP_SLICE))
        due, self._unswept = self._unswept[:SWEEP_SLICE], self._unswept[SWEEP_SLICE:]
        live = self._hub.live
        for connection in due:
            if connection in live:
                self._check(connection, now)
        self._sweep_timer = self._loop.call_later(SWEEP_S / slices, self._sweep)

    def _check(self, connection: Checked, now: float) -> None:
        try:
            connection.check(now)
        except Exception:  # noqa: BLE001 - a bug of ours may cost this connection, never the sweep of all others
            self._hub.stats.failures += 1
            _log.exception("check of a connection failed")
            connection.abort()

    # --- the end -------------------------------------------------------------------------------------------------

    async def stop_accepting(self) -> None:
        """Close the listening sockets. Connections live on."""
        self._unlisten()

    def _unlisten(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._handshakes):
            task.cancel()

    async def drain(self, deadline: float) -> int:
        """Let every connection end by itself: idle ones at once, requests with their answer, WebSockets with a close
        handshake. Whatever is left at `deadline` (the loop's time, seconds) is cut off; returns how many were."""
        for connection in list(self._hub.live):
            connection.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._hub.empty.wait()
        cut = self.abort()
        try:
            async with asyncio.timeout(ABORTED_S):
                await self._hub.empty.wait()
        except TimeoutError:
            _log.error("%d connections that were cut off are still there", self.connections)
        return cut

    def abort(self) -> int:
        """Cut off every connection and stop. Returns how many there were."""
        self._unlisten()
        left = list(self._hub.live)
        for connection in left:
            connection.abort()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        return len(left)


class _Gate(asyncio.Protocol):
    """A connection between accept and HTTP: admission, and TLS where it is spoken."""

    __slots__ = ("_listener", "_raw", "_transport", "early")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._raw: bytearray | None = bytearray()  # read before TLS had the transport; None: it has it
        self.early = bytearray()  # decrypted before the handshake's task ran on; at most one read

    def connection_made(self, base: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", base)  # uvloop's transports have no base class
        self._transport = transport
        transport.set_write_buffer_limits(TRANSPORT_HIGH_BYTES, TRANSPORT_LOW_BYTES)
        admission = self._listener.admit(transport)
        if admission is None:
            return
        if self._listener.secure:
            transport.pause_reading()
            self._listener.handshake(self, transport, admission)
        else:
            self._listener.begin(transport, admission)

    def data_received(self, data: bytes) -> None:
        if self._raw is None:
            self.early += data
        elif self._transport is not None:
            # uvloop begins to read after connection_made, paused or not.
            self._raw += data
            self._transport.pause_reading()

    def tls_begins(self, loop: asyncio.AbstractEventLoop) -> None:
        """To be called right before `start_tls`: what was read too early gets to TLS before anything else does."""
        raw, self._raw = self._raw, None
        if raw:
            loop.call_soon(self._replay, raw)

    def _replay(self, raw: bytearray) -> None:
        assert self._transport is not None  # there was something to read
        # A buffered protocol by its methods, on every loop; uvloop's is none by its type.
        tls: Any = self._transport.get_protocol()
        if not self._transport.is_closing():
            tls.get_buffer(len(raw))[: len(raw)] = raw
            tls.buffer_updated(len(raw))


async def _bind(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address the host name has; with port 0 all get the first one's."""
    infos = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(infos):
            number = bound[0].getsockname()[1] if port == 0 and bound else address[1]
            bound.append(_listening(family, (address[0], number, *address[2:])))
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


def _listening(family: int, address: Any) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        tune_listening(one)
        try:
            one.bind(address)
        except OSError as exc:  # the system's own text does not say which address
            raise OSError(exc.errno, f"{address[0]} port {address[1]}: {exc.strerror}") from exc
        one.setblocking(False)
    except BaseException:
        one.close()
        raise
    return one
