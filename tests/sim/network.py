"""The virtual network: connections that are slow, out of step with each other, cut, silent, or not read from.

Owns what happens to bytes between a client and the gateway. `ServerEnd` does for a session what connection.py does
over a socket, with the same outbox and the same stall rule; it must not know what a frame means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from pushwire.wire.jsonv1 import codec_for
from pushwire_gateway.auth import Unauthorized
from pushwire_gateway.caps import Admission
from pushwire_gateway.outbox import Outbox, StallWatch
from pushwire_gateway.session import Session
from pushwire_storage.base import Message

from .world import World

if TYPE_CHECKING:
    from .node import Node

KERNEL_BYTES = 1024
"""What a client that does not read still takes in, in place of a kernel's hundreds of kilobytes."""
HIGH_BYTES, LOW_BYTES = 1024, 256
"""Marks of the transport's buffer, in place of asyncio's 64 KiB."""
CHECK_S = 0.3

Item = bytes | int | None
"""What travels: a WebSocket message, the code of a close frame, or None: the connection is gone."""


class ClientEnd(Protocol):
    """What a client is told by its connection."""

    def on_item(self, wire: Wire, item: Item) -> None: ...


class Pipe:
    """One direction: in order, each thing after a latency of its own."""

    def __init__(self, world: World, latency_s: float, deliver: Callable[[Item], None]) -> None:
        self.silent = False  # what is sent vanishes, and nobody is told
        self._world = world
        self._latency_s = latency_s
        self._deliver = deliver
        self._free_at = world.clock_s + latency_s  # the handshake comes first
        self._cut = 0

    def send(self, item: Item) -> None:
        if self.silent:
            return
        world = self._world
        self._free_at = max(self._free_at, world.clock_s + self._latency_s * world.between(0.3, 2.0))
        cut = self._cut
        world.at(self._free_at - world.clock_s, lambda: self._deliver(item) if cut == self._cut else None)

    def cut(self) -> None:
        """What is under way is lost."""
        self._cut += 1


class Wire:
    """One connection, seen by its client."""

    def __init__(self, world: World, node: Node, client: ClientEnd, cid: str, token: str | None) -> None:
        latency_s = world.rng.choice((0.0003, 0.002, 0.02, 0.08))
        self.world = world
        self.cid = cid
        self.up = Pipe(world, latency_s, self._arrives)
        self.down = Pipe(world, latency_s, lambda item: self._reaches(client, item))
        self.boot = 0  # which life of the gateway accepted it
        self.server: ServerEnd | None = None
        self.unread: deque[Item] | None = None  # the client has stopped reading: what its kernel holds
        self._client = client
        self._gone = False
        world.at(latency_s * 0.9, lambda: self._accepted(node, token))

    def _accepted(self, node: Node, token: str | None) -> None:
        self.boot = node.boot
        if self._gone or not node.accept(self, token):
            self.down.send(None)

    def _arrives(self, item: Item) -> None:
        if self.server is not None:
            self.server.arrives(item)

    def _reaches(self, client: ClientEnd, item: Item) -> None:
        if self._gone:
            return
        if self.unread is not None:
            self.unread.append(item)
            return
        if item is None:
            self._gone = True
        client.on_item(self, item)

    # --- what the client does -------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        if not self._gone:
            self.up.send(message)

    def close(self) -> None:
        """The client goes, and says so."""
        self._gone = True
        self.up.send(None)

    def stop_reading(self) -> None:
        if self.unread is None:
            self.unread = deque()

    def read_again(self) -> None:
        unread, self.unread = self.unread, None
        if self.server is not None:
            self.server.client_reads()
        for item in unread or ():
            self._reaches(self._client, item)

    # --- what befalls it ------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """The connection breaks: what is under way is lost; each side learns of it in its own time."""
        self.up.cut()
        self.down.cut()
        if self.world.chance(0.8):
            self.up.send(None)
        self.up.silent = True
        if self.world.chance(0.8):
            self.down.send(None)
        self.down.silent = True

    def fall_silent(self) -> None:
        """Half-open: one direction or both carry nothing any more, and nobody is told."""
        which = self.world.rng.randrange(3)
        self.up.silent = self.up.silent or which != 0
        self.down.silent = self.down.silent or which != 1


class ServerEnd:
    """The gateway's side of a connection: the Link of its session."""

    def __init__(self, node: Node, wire: Wire, admission: Admission) -> None:
        self.ip = "192.0.2.1"
        self.wire = wire
        self.cid = wire.cid
        self.reading_paused = False
        self._node = node
        self._admission = admission
        self._codec = codec_for("pushwire.v1", Message)
        self.outbox = Outbox(self._codec, self, node.settings.outbox_bytes_max)
        self.session: Session | None = None
        self._open = True
        self._ended = False
        self._close_at = float("inf")
        self._held: deque[bytes] = deque()  # written, but the client does not read
        self._held_bytes = 0
        self._kernel_bytes = 0
        self._written = 0
        self._watch = StallWatch()
        self._inbox: deque[bytes] = deque()  # arrived while reading was paused

    def start(self, token: str | None) -> None:
        node, now = self._node, self._node.now()
        try:
            principal = None if token is None else node.gateway.tokens.verify(token, now)
        except Unauthorized:
            self.close(4401, "token not accepted")
            return
        self.session = node.make_session(self, principal, now)
        self.session.start(now)
        node.later(CHECK_S, self._check)

    # --- Link -----------------------------------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        return self._held_bytes

    def write(self, parts: Sequence[bytes]) -> None:
        message = self._codec.join(parts)
        self._written += len(message)
        full = self._kernel_bytes + len(message) > KERNEL_BYTES
        if self._held or (self.wire.unread is not None and full):
            self._held.append(message)
            self._held_bytes += len(message)
            if self._held_bytes > HIGH_BYTES:
                self.outbox.hold()
            return
        self._kernel_bytes += len(message)
        self.wire.down.send(message)

    def authenticated(self) -> None:
        self._admission.authenticated()

    def close(self, code: int, reason: str) -> None:
        if self._open:
            self.outbox.finish()
            self._open = False
            self.wire.down.send(code)
            self._close_at = self._node.now() + self._node.settings.close_timeout_s
            self._node.soon(self._end)

    def abort(self) -> None:
        self._open = False
        self.wire.cut()
        self._node.soon(self._end)

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False
        self._node.soon(self._read_on)  # as a socket does: in a turn of its own

    def _read_on(self) -> None:
        while self._inbox and not self.reading_paused:
            self._receive(self._inbox.popleft())

    # --- what the network says ------------------------------------------------------------------------------------

    def arrives(self, item: Item) -> None:
        if item is None:
            self._end()
        elif isinstance(item, bytes):
            if self.reading_paused:
                self._inbox.append(item)
            else:
                self._receive(item)

    def _receive(self, message: bytes) -> None:
        if self._open and self.session is not None:
            self.session.receive(self._codec.feed(message), self._node.now())

    def client_reads(self) -> None:
        """The client has taken everything: the transport drains."""
        self._kernel_bytes = 0
        while self._held:
            self.wire.down.send(self._held.popleft())
        self._held_bytes = 0
        if self._open and self.outbox.release() and self.session is not None:
            self.session.writable(self._node.now())

    def _check(self) -> None:
        if self._ended:
            return
        now = self._node.now()
        if now >= self._close_at:
            self.abort()
        elif self._watch.stalled(self._written, self._held_bytes, now, self._node.settings.write_stall_s):
            self._node.world.note("stalled", cid=self.cid)
            self.abort()
        elif self._open and self.session is not None:
            self.session.check(now)
        self._node.later(CHECK_S, self._check)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._open = False
        self.outbox.drop()
        self._admission.release()
        self._node.ends.pop(self.cid, None)
        if self.session is not None:
            self.session.closed(self._node.now())

    def lose(self) -> None:
        """The process is gone: its kernel says so to the client."""
        self.wire.server = None
        self.wire.down.send(None)
