"""Non-blocking sockets under one epoll: the engine of the load generator.

Owns connecting, the handshake, reading, writing and waiting with a deadline. Knows no operation of a protocol: a
role gets whole payloads through `on_payload` (of a raw target: whatever one read gave) and sends whole payloads. One
write per connection and loop turn.
"""

from __future__ import annotations

import base64
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable

from bench import framing

RECV_BYTES = 256 * 1024
"""One read takes what a broker can put into a socket buffer between two turns."""
SEND_BYTES_MAX = 16 * 1024 * 1024
"""Unsent bytes of one connection: two windows of 256 messages of 32 KiB. More is a broker that stopped reading."""
CONNECTING_MAX = 64
"""Handshakes under way at once; below every listener's backlog."""

OnPayload = Callable[[bytes], None]


class LoadError(Exception):
    """The measurement is void: the contestant refused, failed or stalled. The text says what and where."""


class TooSlow(LoadError):
    """It works, and does not keep the rate that was asked of it: no figure, and no failure of the run either."""


class Link:
    """One connection. `on_payload` gets each text or binary message, or of a raw target the bytes as they come."""

    __slots__ = ("_key", "_out", "_reader", "_request", "_waiting", "loop", "name", "on_payload", "open", "sock")

    def __init__(self, loop: Loop, name: str, on_payload: OnPayload) -> None:
        self.loop = loop
        self.name = name
        self.on_payload = on_payload
        self.open = False
        self._key = ""
        self._request = b""
        self._out = bytearray()
        self._waiting = False
        self._reader = framing.Reader()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self, token: str | None) -> None:
        target = self.loop.target
        if target.opcode is not None:
            self._upgrade(token)
        self.sock.connect_ex((target.host, target.port))
        self._waiting = True
        self.loop.watch(self, select.EPOLLIN | select.EPOLLOUT)

    def _upgrade(self, token: str | None) -> None:
        target = self.loop.target
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._out += framing.upgrade_request(
            f"{target.host}:{target.port}", target.path, self._key, target.subprotocol, token
        )

    def send(self, payloads: Iterable[bytes]) -> None:
        """Queue one frame per payload; they leave in one write at the end of this loop turn."""
        if not self._out:
            self.loop.dirty.append(self)
        opcode = self.loop.target.opcode
        if opcode is None:
            self._out += b"".join(payloads)
        else:
            for payload in payloads:
                self._out += framing.encode(payload, opcode)
        if len(self._out) > SEND_BYTES_MAX:
            raise LoadError(f"{self.name}: the broker stopped reading")

    def writable(self) -> None:
        if not self.open and self.loop.target.opcode is None:  # connected is all that a raw link waits for
            self._opened()
            self._waiting = False
            self.loop.watch(self, select.EPOLLIN)
        self.flush()

    def _opened(self) -> None:
        self.open = True
        self.loop.opened += 1

    def flush(self) -> None:
        if not self._out:
            return
        try:
            sent = self.sock.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise LoadError(f"{self.name}: {exc}") from exc
        del self._out[:sent]
        if bool(self._out) != self._waiting:
            self._waiting = bool(self._out)
            self.loop.watch(self, select.EPOLLIN | (select.EPOLLOUT if self._waiting else 0))

    def readable(self) -> None:
        try:
            data = self.sock.recv(RECV_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            raise LoadError(f"{self.name}: {exc}") from exc
        if not data:
            raise LoadError(f"{self.name}: closed by the broker without a close frame")
        if self.loop.target.opcode is None:
            self.on_payload(data)
            return
        try:
            if not self.open:
                data = self._handshake(data)
            messages = self._reader.feed(data)
            if self.loop.target.opcode == framing.BINARY and all(opcode == framing.BINARY for opcode, _ in messages):
                # The peers' binary protocols are byte streams: frames mean nothing, and one call costs less than many.
                self.on_payload(b"".join([payload for _, payload in messages]))
                return
            for opcode, payload in messages:
                self._message(opcode, payload)
        except framing.FramingError as exc:
            raise LoadError(f"{self.name}: {exc}") from exc

    def _handshake(self, data: bytes) -> bytes:
        self._request += data
        rest = framing.read_upgrade(self._request, self._key, self.loop.target.subprotocol)
        if rest is None:
            return b""
        self._request = b""
        self._opened()
        return rest

    def _message(self, opcode: int, payload: bytes) -> None:
        if opcode in (framing.TEXT, framing.BINARY):
            self.on_payload(payload)
        elif opcode == framing.PING:
            if not self._out:
                self.loop.dirty.append(self)
            self._out += framing.encode(payload, framing.PONG)
        elif opcode == framing.CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            raise LoadError(f"{self.name}: closed by the broker, {code} {payload[2:].decode('utf-8', 'replace')}")


class Target:
    """Where the broker listens, and how bytes travel there: in text frames, in binary frames, or (None) in none."""

    def __init__(
        self, host: str, port: int, path: str, subprotocol: str | None, opcode: int | None = framing.TEXT
    ) -> None:
        self.host = host
        self.port = port
        self.path = path
        self.subprotocol = subprotocol
        self.opcode = opcode


class Loop:
    """One epoll over all links."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.links: dict[int, Link] = {}
        self.dirty: list[Link] = []
        self.opened = 0
        self._epoll = select.epoll()
        self._masks: dict[int, int] = {}

    def watch(self, link: Link, mask: int) -> None:
        fd = link.sock.fileno()
        if fd in self._masks:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
            self.links[fd] = link
        self._masks[fd] = mask

    def connect(self, roles: Iterable[tuple[Link, str | None]], deadline: float) -> None:
        """Open all links, a bounded number at a time. Raises LoadError when one is refused or time runs out."""
        waiting = deque(roles)
        started, wanted = self.opened, self.opened + len(waiting)
        while self.opened < wanted:
            while waiting and started - self.opened < CONNECTING_MAX:
                link, token = waiting.popleft()
                link.start(token)
                started += 1
            if time.monotonic() > deadline:
                raise LoadError(f"{wanted - self.opened} connections did not open in time")
            self.turn(0.1)

    def turn(self, timeout_s: float) -> None:
        """Wait at most `timeout_s`, read what came, write what is queued."""
        self.flush()
        links = self.links
        for fd, mask in self._epoll.poll(timeout_s):
            link = links[fd]
            if mask & ~select.EPOLLOUT:  # also errors and hang-ups: the read says what happened
                link.readable()
            if mask & select.EPOLLOUT:
                link.writable()
        self.flush()

    def turn_precise(self, timeout_s: float) -> None:
        """As `turn`, with a wait of microseconds: epoll's own timeout is rounded up to a millisecond."""
        self.flush()
        select.select([self._epoll.fileno()], [], [], max(0.0, timeout_s))
        self.turn(0)

    def flush(self) -> None:
        if self.dirty:
            dirty, self.dirty = self.dirty, []
            for link in dirty:
                link.flush()

    def run_until(self, done: Callable[[], bool], deadline: float, what: str | Callable[[], str]) -> None:
        """Turn until `done()`. Raises LoadError at the deadline; `what` says what is still missing."""
        while not done():
            if time.monotonic() > deadline:
                raise LoadError(f"no end in time: {what if isinstance(what, str) else what()}")
            self.turn(0.05)

    def close(self) -> None:
        """Drop every connection without ceremony."""
        for link in self.links.values():
            link.sock.close()
        self.links.clear()
        self._epoll.close()
