"""A real listener on loopback with a small gateway behind it, and raw clients that say what no library would."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self

from pushwire.wire.codec import loads
from pushwire.wire.frames import ClientFrame, Ok
from pushwire_gateway.auth import SigningKey, TokenVerifier, VerifyKey, build_ring, sign_token
from pushwire_gateway.caps import Caps
from pushwire_gateway.clock import AnchoredClock, Clock
from pushwire_gateway.listener import Listener
from pushwire_gateway.outbox import Outbox
from pushwire_gateway.ports import Link, PublishDone, ServerCodec
from pushwire_gateway.refusal import Refusal
from pushwire_gateway.revocation import Revocations
from pushwire_gateway.rights import Principal
from pushwire_gateway.server import make_throttle
from pushwire_gateway.settings import Settings, load
from pushwire_gateway.tickets import Tickets
from pushwire_gateway.tokens import Tokens
from support.tokens import KeptRevocations

SECRET = secrets.token_bytes(32)
PATIENCE_S = 10  # a test that waits this long has failed
TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


class SteppedClock:
    """A clock that moves when it is told to."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.time = start

    def now(self) -> float:
        return self.time

    def step(self, seconds: float) -> None:
        self.time += seconds


class RecordingSession:
    """Notes what the connection tells it; acts when a test gives it something to do."""

    def __init__(self, link: Link, outbox: Outbox, principal: Principal | None) -> None:
        self.link = link
        self.outbox = outbox
        self.principal = principal
        self.calls: list[str] = []
        self.frames: list[ClientFrame] = []
        self.checks = 0
        self.on_receive: Callable[[RecordingSession, Sequence[ClientFrame]], None] | None = None
        self.changed = asyncio.Event()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.changed.set()

    def start(self, now: float) -> None:
        self._note("start")

    def receive(self, frames: Sequence[ClientFrame], now: float) -> None:
        self.frames.extend(frames)
        self._note("receive")
        if self.on_receive is not None:
            self.on_receive(self, frames)

    def heard(self, now: float) -> None:
        self._note("heard")

    def check(self, now: float) -> None:
        self.checks += 1
        self.changed.set()

    def writable(self, now: float) -> None:
        self._note("writable")

    def closed(self, now: float) -> None:
        self._note("closed")

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait for something this session is told."""
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                self.changed.clear()
                await self.changed.wait()

    async def until_called(self, call: str) -> None:
        await self.until(lambda: call in self.calls)


def echo(session: RecordingSession, frames: Sequence[ClientFrame]) -> None:
    """Answer every frame with an `ok`."""
    for frame in frames:
        session.outbox.send(Ok(frame.ref))
    session.outbox.flush()


class SmallGateway:
    """The gateway as the listener sees it, without store and engine."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.throttle = make_throttle(settings, clock)
        ring = build_ring([VerifyKey("main", "HS256", SECRET)])
        verifier = TokenVerifier(ring, audience="pushwire", issuer="pushwire")
        revocations = Revocations(KeptRevocations(), "pushwire")
        self.verifier = Tokens(verifier, None, revocations, Tickets(settings.node), clock.now)
        self.caps = Caps(settings, descriptors=4096)
        self.draining = False
        self.sessions: list[RecordingSession] = []
        self.opened = asyncio.Event()
        self.on_receive: Callable[[RecordingSession, Sequence[ClientFrame]], None] | None = None
        self.published: list[tuple[str, str, Sequence[Any], int]] = []
        self.answer: Refusal | None = None  # returned by publish at once
        self.held: list[PublishDone] | None = None  # a list: publishes wait in it for the test to finish them
        self.was_published = asyncio.Event()

    def make_session(
        self, link: Link, codec: ServerCodec, outbox: Outbox, principal: Principal | None, now: float
    ) -> RecordingSession:
        session = RecordingSession(link, outbox, principal)
        session.on_receive = self.on_receive
        self.sessions.append(session)
        self.opened.set()
        return session

    def publish(
        self, principal: Principal, topic: str, messages: Sequence[Any], size_bytes: int, done: PublishDone
    ) -> Refusal | None:
        if self.answer is not None:
            return self.answer
        self.published.append((principal.subject, topic, messages, size_bytes))
        for number, message in enumerate(messages, start=1):
            message.seq = number
            message.id = message.id or f"made-{number}"
        self.was_published.set()
        if self.held is not None:
            self.held.append(done)
        else:
            asyncio.get_running_loop().call_soon(done, None)
        return None

    def control(self, connection_id: str) -> None:
        """Every control operation is allowed."""

    def ready(self) -> dict[str, Any]:
        return {"status": "ok", "store": "3.53.4"}

    def token(self, subject: str = "ann", **more: Any) -> str:
        key = SigningKey("main", "HS256", SECRET)
        return sign_token(key, subject=subject, audience="pushwire", issuer="pushwire", now=self.clock.now(), **more)


class Port:
    """A listener, its gateway, and the means to talk to it."""

    def __init__(self, listener: Listener, gateway: SmallGateway, url: str) -> None:
        self.listener = listener
        self.gateway = gateway
        self.url = url

    @property
    def address(self) -> tuple[str, int]:
        return self.listener.addresses[0]

    def step(self, seconds: float) -> None:
        """Move a stepped clock and check every connection, as the sweep would."""
        assert isinstance(self.gateway.clock, SteppedClock)
        self.gateway.clock.step(seconds)
        for connection in list(self.listener._hub.live):
            self.listener._check(connection, self.gateway.clock.now())

    async def client(self, *, receive_bytes: int | None = None) -> RawClient:
        """A TCP connection. `receive_bytes` sets a small receive buffer, so that it is full soon."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.address)
        except OSError:
            sock.close()
            raise
        return RawClient(sock)

    async def websocket(self, *, receive_bytes: int | None = None, **headers: str) -> RawClient:
        """An open WebSocket, with a token unless `authorization` says otherwise."""
        client = await self.client(receive_bytes=receive_bytes)
        fields: dict[str, Any] = {"authorization": f"Bearer {self.gateway.token()}", **headers}
        await client.send(upgrade_request(**fields))
        head = await client.head()
        assert head.startswith("HTTP/1.1 101 "), head
        return client

    def only(self) -> Any:
        """The one connection alive."""
        (connection,) = self.listener._hub.live
        return connection

    async def until_alone(self) -> None:
        """Wait until no connection is left."""
        async with asyncio.timeout(PATIENCE_S):
            await self.listener._hub.empty.wait()

    @property
    def session(self) -> RecordingSession:
        """The newest one."""
        return self.gateway.sessions[-1]


@contextlib.asynccontextmanager
async def open_port(clock: Clock | None = None, *, app: Any = None, **settings: Any) -> AsyncIterator[Port]:
    """A listener on a free port of loopback."""
    chosen = {"port": 0, "connects_per_s_per_ip": 0, "connects_per_s": 0, **settings}
    gateway = SmallGateway(load(**chosen), clock or AnchoredClock())
    listener = Listener(gateway, app)
    url = await listener.start()
    try:
        yield Port(listener, gateway, url)
    finally:
        await listener.drain(asyncio.get_running_loop().time())


class RawClient:
    """Bytes to and from one socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._loop.sock_sendall(self.sock, data)

    async def frame(self, payload: bytes | str = b"", opcode: int = TEXT, *, fin: bool = True, **more: Any) -> None:
        await self.send(client_frame(payload, opcode, fin=fin, **more))

    def end(self) -> None:
        """Half-close: nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def _more(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            data = await self._loop.sock_recv(self.sock, 65536)
        self._buffer += data
        return bool(data)

    async def take(self, count: int) -> bytes:
        """Exactly so many bytes. Raises EOFError."""
        while len(self._buffer) < count:
            if not await self._more():
                raise EOFError(self._buffer)
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    async def head(self) -> str:
        """Up to and with an empty line. Raises EOFError."""
        while b"\r\n\r\n" not in self._buffer:
            if not await self._more():
                raise EOFError(self._buffer)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head.decode("latin-1") + "\r\n\r\n"

    async def response(self) -> tuple[int, dict[str, str], Any]:
        """One HTTP response with a Content-Length: status, headers, and the body parsed as JSON."""
        lines = (await self.head()).split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = await self.take(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, loads(body) if body else None

    async def rest(self) -> bytes:
        """Everything until the other side ends. A reset is an end too."""
        with contextlib.suppress(ConnectionResetError):
            while await self._more():
                pass
        data, self._buffer = self._buffer, b""
        return data

    async def receive(self) -> tuple[int, bytes]:
        """(opcode, payload) of one WebSocket frame. Raises EOFError."""
        first, second = await self.take(2)
        length = second
        if second == 126:
            (length,) = struct.unpack("!H", await self.take(2))
        elif second == 127:
            (length,) = struct.unpack("!Q", await self.take(8))
        return first & 15, await self.take(length)

    async def receive_json(self) -> Any:
        opcode, payload = await self.receive()
        assert opcode == TEXT, (opcode, payload)
        return loads(payload)

    async def closed_with(self) -> int:
        """The code of the close frame, after whatever comes before it; 1006 if there is none."""
        try:
            while True:
                opcode, payload = await self.receive()
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2], "big")
        except (EOFError, ConnectionResetError):
            return 1006


def client_frame(
    payload: bytes | str, opcode: int = TEXT, *, fin: bool = True, mask: bool = True, claim: int | None = None
) -> bytes:
    """A frame as a client sends it. `claim`: another length than it has."""
    data = payload.encode() if isinstance(payload, str) else payload
    length = len(data) if claim is None else claim
    head = bytes([(128 if fin else 0) | opcode])
    flag = 128 if mask else 0
    if length < 126:
        head += bytes([flag | length])
    elif length < 65536:
        head += struct.pack("!BH", flag | 126, length)
    else:
        head += struct.pack("!BQ", flag | 127, length)
    if not mask:
        return head + data
    key = secrets.token_bytes(4)
    return head + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(data))


def upgrade_request(
    *, method: str = "GET", path: str = "/v1/ws", version: str = "1.1", body: bytes = b"", **headers: str
) -> bytes:
    """A handshake; a header given as "" is left out."""
    lines = {
        "Host": "gateway.test",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "pushwire.v1",
    }
    known = {name.lower(): name for name in lines}
    for name, value in headers.items():
        dashed = name.replace("_", "-")
        lines[known.get(dashed.lower(), dashed)] = value
    head = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in lines.items() if value)]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body
