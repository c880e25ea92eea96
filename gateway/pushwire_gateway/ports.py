"""The seams between transport and protocol: what a session may ask of its connection, and both of the gateway.

Owns the obligations on each side and nothing else: no code runs here, so connection, session and gateway can be
written, tested and replaced without each other. Times are seconds of the gateway's anchored clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from pushwire.wire.codec import Codec
from pushwire.wire.frames import ClientFrame, ServerFrame

from .clock import Clock
from .refusal import Refusal
from .rights import Principal
from .settings import Settings
from .throttle import Verdict

if TYPE_CHECKING:
    from .caps import Caps
    from .outbox import Outbox

ServerCodec = Codec[ClientFrame, ServerFrame]

WAITS: Final = "waits"
"""In the state of an HTTP request: the end of what its client sends is to be taken for the end of its client."""

PublishDone = Callable[[Refusal | None], None]
"""None: durable, and every message has its `seq` and `duplicate`. A Refusal: see `refusal.py`."""


class Link(Protocol):
    """What a session and its outbox may ask of their connection. Nothing here raises or waits, also after the end."""

    @property
    def ip(self) -> str:
        """The client's address, without port: the socket's, or what a trusted proxy says."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes given to `write` that the transport still holds."""

    def write(self, parts: Sequence[bytes]) -> None:
        """Send encoded frames: as few WebSocket text messages as their size allows, one `transport.write` for all."""

    def authenticated(self) -> None:
        """The client has shown a good token: its connection no longer counts as unauthenticated. Idempotent."""

    def close(self, code: int, reason: str) -> None:
        """Flush the outbox, then send a close frame; cut the connection after `close_timeout_s` if the client does
        not answer. From here on nothing is received; `closed` is called in the next loop turn."""

    def abort(self) -> None:
        """Cut the connection at once, dropping what is unsent."""

    def pause_reading(self) -> None:
        """Stop reading this socket (back-pressure). What was read already may still arrive in this loop turn."""

    def resume_reading(self) -> None:
        """Read again. Harmless when reading is not paused or the connection is gone."""


class SessionLike(Protocol):
    """What a connection calls. Should one of these raise, the client gets close code 1011 and nobody else notices."""

    def start(self, now: float) -> None:
        """The WebSocket is open. Called once, before anything else."""

    def receive(self, frames: Sequence[ClientFrame], now: float) -> None:
        """Frames in the order in which they were sent; at least one. Never called after `closed`."""

    def heard(self, now: float) -> None:
        """Bytes have come since the last `check`, operations or parts of one. Called right before it."""

    def check(self, now: float) -> None:
        """Time has passed: called every 0.25 to 0.5 s while the WebSocket is open."""

    def writable(self, now: float) -> None:
        """The transport drained below its low mark and the outbox has been flushed."""

    def closed(self, now: float) -> None:
        """No more frames can come or go. Called exactly once, whatever the cause, and after `start`."""


class Throttled(Protocol):
    """What the listener asks of the rate limits."""

    def connect(self, network: Hashable) -> Verdict:
        """May the address that counts as this open one more connection?"""


class Verifier(Protocol):
    """What handshake and HTTP ask about tokens."""

    def verify(self, token: str | bytes, now: float) -> Principal:
        """The principal of a good token. Raises Unauthorized and nothing else; as UnknownKey when the issuer may have
        published its key a moment ago."""

    async def verify_token(self, token: str | bytes, now: float) -> Principal:
        """As `verify`, and asks the issuer for a key that it may have published a moment ago."""

    def redeem(self, ticket: str, origins: Collection[str], now: float) -> Principal:
        """The principal of a ticket, which is used up, if it was issued to one of these Origins or to none. Raises
        Unauthorized and nothing else."""

    def revoked(self, principal: Principal) -> bool:
        """Whether the token behind this principal has been revoked since it was verified."""


class Gateway(Protocol):
    """What the listener, its connections and the HTTP API need of the running gateway."""

    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def throttle(self) -> Throttled: ...
    @property
    def verifier(self) -> Verifier: ...
    @property
    def caps(self) -> Caps: ...
    @property
    def draining(self) -> bool: ...

    def make_session(
        self, link: Link, codec: ServerCodec, outbox: Outbox, principal: Principal | None, now: float
    ) -> SessionLike:
        """The session of a WebSocket that is about to open. None: the client must send an auth frame first."""

    def publish(
        self, principal: Principal, topic: str, messages: Sequence[Any], size_bytes: int, done: PublishDone
    ) -> Refusal | None:
        """Store these messages, all or none. A refusal returned is final and `done` is never called; otherwise
        `done` is called once, later."""

    def control(self, connection_id: str) -> Refusal | None:
        """Charge one control operation to this connection, or to those who share this name."""

    def ready(self) -> Mapping[str, Any]:
        """`status` is "ok" when this gateway can take work. Names nothing of a tenant."""
