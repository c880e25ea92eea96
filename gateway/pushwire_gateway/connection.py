"""One WebSocket as an asyncio protocol over the Sans-I/O ServerProtocol of websockets, which only this file knows.

Owns the handshake's checks, the assembly of messages, what is written when, and the end of a connection. Knows no
operation: frames go to the session as its codec made them. Starts no task and no timer: the listener's sweep calls
`check`, and everything else happens when the socket says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as WebSocketRequest
from websockets.http11 import Response as WebSocketResponse
from websockets.protocol import State
from websockets.server import ServerProtocol

from pushwire.wire.codes import CLOSES
from pushwire.wire.frames import SUBPROTOCOL, Auth, ClientFrame, Goodbye
from pushwire.wire.jsonv1 import codec_for
from pushwire_storage.base import Message

from .auth import Unauthorized
from .caps import Admission
from .entrance import NOBODY, Shown, who
from .handshake import PATH, SUBPROTOCOLS, UpgradeRequest, offered_subprotocols, values
from .hub import Hub
from .intake import Intake, is_utf8
from .origins import origin_allowed
from .outbox import MESSAGE_BYTES_MAX, TRANSPORT_HIGH_BYTES, TRANSPORT_LOW_BYTES, Outbox, StallWatch, grouped
from .ports import Gateway, ServerCodec, SessionLike
from .problems import raw_response
from .refusal import Refusal
from .tcp import held_back_bytes

OPERATIONS_PER_TURN_MAX: Final = 256
"""Operations given to the session in one loop turn: 1 or 2 ms of small ones. A message may hold 75,000."""

EMPTY_FRAMES_MAX: Final = 1000
"""Frames that complete no message (pings, pongs, fragments) taken between two checks: about 6 ms of work. Browsers
send hardly any, and a library that fragments at 4 KiB needs 256 for the largest message."""

CLOSING_BYTES_MAX: Final = 64 * 1024
"""Bytes parsed for the client's close frame after ours: what a client may have had on its way. More is discarded
unread, and the connection ends by EOF or by the close timeout."""

CLOSE_REASON_BYTES_MAX: Final = 123  # RFC 6455 §5.5: 125 bytes of a control frame, less the code

_FAIL_AT_ONCE: Final = frozenset({1002, 1003, 1007, 1009, 1011, 4000, 4400})
"""Closes after which nothing the client says matters: its close frame is not waited for (RFC 6455 §7.1.7)."""

_HANDSHAKE_HEADERS: Final = frozenset({b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version"})

_log = logging.getLogger("pushwire.connection")

# The library logs whole frames at DEBUG and a line per connection at INFO. Neither may ever happen.
_library_log = logging.getLogger("pushwire.websockets")
_library_log.setLevel(logging.WARNING)


# ---- the handshake


class Handshake(NamedTuple):
    """What was agreed: the 101 response, and who is at the other end or why the connection closes at once."""

    response: bytes
    protocol: ServerProtocol
    codec: ServerCodec | None
    shown: Shown
    close: int | None


def negotiate(gateway: Gateway, request: UpgradeRequest, origins: frozenset[str], *, secure: bool) -> Handshake | bytes:
    """Check a handshake. Returns what was agreed, or the HTTP response that refuses it.

    A browser shows its page nothing of a refused handshake. So what its user may have to know (token not accepted,
    version not spoken) is said by accepting and closing with a code whenever only the subprotocol header was used;
    clients that can set an Authorization header can read an HTTP status. Without any subprotocol: 400.
    """
    if request.target.partition(b"?")[0] != PATH:
        return raw_response(Refusal("not_found"))
    if gateway.draining:
        return raw_response(Refusal("going_away", retry_after_ms=1000))
    if not origin_allowed(request.headers, origins, secure=secure):
        return raw_response(Refusal("forbidden", "this Origin may not connect"))
    # Open from the start: its parser then waits for frames and keeps nothing of the request (with the token in it).
    protocol = ServerProtocol(state=State.OPEN, max_size=gateway.settings.frame_bytes_max, logger=_library_log)
    answer = _accept(protocol, request)
    if answer.status_code != 101:
        extra = {name: answer.headers[name] for name in ("Allow", "Upgrade") if name in answer.headers}
        extra["Sec-WebSocket-Version"] = "13"
        return raw_response(Refusal("bad_request", "not a WebSocket handshake"), answer.status_code, extra)
    offered = offered_subprotocols(request.headers)
    if not offered:
        return raw_response(Refusal("bad_request", f"offer the subprotocol {SUBPROTOCOL}"))
    spoken = next((name for name in SUBPROTOCOLS if name in offered), None)
    # A browser fails the connection, and sees no code of ours, unless it gets back one of the names it offered.
    answer.headers["Sec-WebSocket-Protocol"] = spoken or offered[0]
    if spoken is None:
        return Handshake(answer.serialize(), protocol, None, NOBODY, 4406)
    codec: ServerCodec = codec_for(spoken, Message)
    try:
        shown = who(gateway, request, secure=secure)
    except Unauthorized:
        if values(request.headers, b"authorization"):
            return raw_response(Refusal("unauthorized"))
        return Handshake(answer.serialize(), protocol, codec, NOBODY, 4401)
    return Handshake(answer.serialize(), protocol, codec, shown, None)


def _accept(protocol: ServerProtocol, request: UpgradeRequest) -> WebSocketResponse:
    """The library's part of the handshake, with the headers it judges and no other: no token, and no extensions,
    because compressing a message costs more than everything else that is done with it."""
    headers = Headers()
    for name, value in request.headers:
        if name in _HANDSHAKE_HEADERS:
            headers[name.decode("ascii")] = value.decode("latin-1")
    return protocol.accept(WebSocketRequest("/", headers, request.method, f"HTTP/{request.version}"))


# ---- the connection


class Connection(asyncio.Protocol):
    """One open WebSocket: the Link of its session."""

    __slots__ = (
        "_admission",
        "_close_at",
        "_closing_bytes",
        "_codec",
        "_empty_frames",
        "_events",
        "_heard",
        "_hub",
        "_intake",
        "_open",
        "_opened_at",
        "_operations",
        "_outbox",
        "_partial",
        "_pong",
        "_protocol",
        "_session",
        "_socket",
        "_transport",
        "_watch",
        "_written",
        "ip",
    )

    def __init__(
        self, hub: Hub, transport: asyncio.Transport, handshake: Handshake, admission: Admission, ip: str
    ) -> None:
        self._hub = hub
        self._transport = transport
        self._protocol = handshake.protocol
        self._codec = handshake.codec
        self._admission = admission
        self._socket = transport.get_extra_info("socket")
        self.ip = ip
        self._session: SessionLike | None = None
        self._outbox: Outbox | None = None
        self._open = True  # frames may come and go
        self._opened_at = hub.gateway.clock.now()
        self._close_at = float("inf")  # when the connection is cut, whatever the client does
        self._closing_bytes = 0  # received after our close frame
        self._empty_frames = 0  # frames without a message since the last check
        self._partial: bytearray | None = None  # a message whose last fragment has not come
        self._pong = b""  # answer to the newest ping, while the transport is full
        self._events: list[Frame] = []  # received and not taken yet, the next one last
        self._operations: Iterator[ClientFrame] | None = None  # of the message that is being taken
        self._intake = Intake(hub.loop, transport, self._parse, self._work, self._busy)
        self._heard = False  # something was received since the last check
        self._watch = StallWatch()
        self._written = 0  # bytes ever handed to the transport

    def start(self, handshake: Handshake, *, full: bool) -> None:
        """Answer the handshake and begin. `full`: the transport is above its high mark."""
        gateway = self._hub.gateway
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(TRANSPORT_HIGH_BYTES, TRANSPORT_LOW_BYTES)
        self._hub.join(self)
        self._hub.stats.websockets_opened += 1
        if self._codec is not None:
            self._outbox = Outbox(self._codec, self, gateway.settings.outbox_bytes_max)
            if full:
                self._outbox.hold()
        self._transmit([handshake.response])
        if handshake.close is not None:
            self._refuse(handshake.close)
        elif self._outbox is not None and self._codec is not None:
            self._ask(self._start_session, self._codec, self._outbox, handshake.shown)

    def _start_session(self, codec: ServerCodec, outbox: Outbox, shown: Shown) -> None:
        gateway = self._hub.gateway
        now = gateway.clock.now()
        self._session = gateway.make_session(self, codec, outbox, shown.principal, now)
        self._session.start(now)
        if shown.late is not None:
            self._session.receive([Auth(shown.late)], now)

    def _refuse(self, code: int) -> None:
        close = CLOSES[code]
        if self._outbox is not None:
            self._outbox.send(Goodbye(code, close.reason, close.reconnect))
        self.close(code, close.reason)

    # --- what the session asks (Link) ----------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        transport = self._transport
        return 0 if transport.is_closing() else transport.get_write_buffer_size()

    def write(self, parts: Sequence[bytes]) -> None:
        protocol = self._protocol
        if protocol.state is not State.OPEN or self._codec is None:
            return
        size = sum(map(len, parts)) + len(parts)
        # As protocol.send_text does, for a protocol that has no extensions.
        for group in (parts,) if size <= MESSAGE_BYTES_MAX else grouped(parts, MESSAGE_BYTES_MAX):
            protocol.writes.append(_text_frame(self._codec.join(group)))
        self._flush()

    def authenticated(self) -> None:
        self._admission.authenticated()

    def close(self, code: int, reason: str) -> None:
        if not self._open:
            return
        if self._outbox is not None:
            self._outbox.finish()
        self._open = False
        protocol = self._protocol
        if protocol.state is State.OPEN:
            text = reason.encode()[:CLOSE_REASON_BYTES_MAX].decode(errors="ignore")
            if code in _FAIL_AT_ONCE:
                protocol.fail(code, text)
            else:
                protocol.send_close(code, text)
            self._flush()
        self._close_within_timeout()
        self.resume_reading()  # to see the client's close frame
        # Not now: the session is most likely in the middle of the call that led here.
        self._hub.loop.call_soon(self._end)

    def drain(self) -> None:
        """The session has said goodbye already, if it could; whoever is left is closed like this."""
        self.close(1012, CLOSES[1012].reason)

    def abort(self) -> None:
        self._open = False
        self._transport.abort()

    def pause_reading(self) -> None:
        self._intake.pause()

    def resume_reading(self) -> None:
        self._intake.resume()

    # --- what the socket says ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._intake.take(data)

    def _parse(self, chunk: bytes) -> None:
        """The next bytes. Called only when all that came before has been taken."""
        protocol = self._protocol
        if not self._open:
            self._closing_bytes += len(chunk)
            if self._closing_bytes > CLOSING_BYTES_MAX and not protocol.eof_sent:
                protocol.fail(1002, "data after close")  # sends no second close frame, only EOF
        protocol.receive_data(chunk)
        events: list[Frame] = protocol.events_received()  # type: ignore[assignment]  # no Request: it was never CONNECTING
        events.reverse()
        self._events = events
        self._work()

    def _forget(self) -> None:
        self._partial = None
        self._operations = None
        self._events = []

    def _busy(self) -> bool:
        return bool(self._events) or self._operations is not None

    def _work(self) -> None:
        """Some of the operations that have come; after the last of them, what else the protocol wants."""
        if self._open and self._busy():
            self._ask(self._take)
        if not self._open:
            self._forget()
        elif self._busy():
            return
        if self._protocol.state is State.OPEN:
            if self._protocol.writes:
                self._answer_pings()
        else:
            self._end()
            self._flush()

    def _take(self) -> None:
        """As many operations as one turn may have, to the session in one call."""
        codec = self._codec
        frames: list[ClientFrame] = []
        while codec is not None and self._open:
            if self._operations is None:
                if not self._events:
                    break
                event = self._events.pop()
                # Nearly all frames are a whole message in ASCII; the others take the longer way.
                plain = event.opcode is Opcode.TEXT and event.fin and event.data.isascii()  # type: ignore[union-attr]  # it unmasks to bytes
                message: bytes | None = event.data if plain else self._complete(event)  # type: ignore[assignment]  # see above
                if message is None:
                    continue
                self._operations = codec.parse(message)
            count = len(frames)
            frames.extend(islice(self._operations, OPERATIONS_PER_TURN_MAX - count))
            if len(frames) == OPERATIONS_PER_TURN_MAX:
                break
            self._operations = None
            if len(frames) == count:
                self._count_empty()
        if frames and self._session is not None:
            self._session.receive(frames, self._hub.gateway.clock.now())

    def _count_empty(self) -> None:
        self._empty_frames += 1
        if self._empty_frames > EMPTY_FRAMES_MAX:
            self._fail(4400, "too many frames without a message")

    def _complete(self, frame: Frame) -> bytes | None:
        """The message that is complete with this frame, if one is. The connection may be over then."""
        opcode = frame.opcode
        data = frame.data
        if opcode is Opcode.BINARY:
            self._fail(1003, "binary")  # every subprotocol spoken here is text; reading it all the same would bind us
            return None
        if opcode is Opcode.CONT and self._partial is not None:
            # One growing buffer, not a list: fragments of no bytes take no memory.
            self._partial += data
            if frame.fin:
                data, self._partial = self._partial, None
        elif not frame.fin:
            self._partial = bytearray(data)
        if opcode in _CONTROL or not frame.fin:
            self._count_empty()
            return None
        message = bytes(data)
        if not is_utf8(message):
            self._fail(1007, "not UTF-8")
            return None
        return message

    def _fail(self, code: int, reason: str) -> None:
        """RFC 6455 §7.1.7. What came before still counts; `_work` sends the close frame and tells the session."""
        self._open = False
        self._protocol.fail(code, reason)

    def _answer_pings(self) -> None:
        """Pongs, which the library has made. While the client does not read, only the newest is kept, so that a flood
        of pings takes no memory (RFC 6455 §5.5.3 allows to answer the most recent one)."""
        if self._transport.get_write_buffer_size() <= TRANSPORT_HIGH_BYTES:
            self._flush()
        else:
            self._pong = self._protocol.data_to_send()[-1]

    def eof_received(self) -> None:
        """The client sends no more. WebSocket knows no half-closed state, so the transport may close, and does."""
        self._intake.finish()
        self._protocol.receive_eof()
        self._end()
        self._flush()
        self._close_within_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._admission.release()
        self._hub.leave(self)
        close = self._protocol.close_sent or self._protocol.close_rcvd
        code = 1006 if close is None else int(close.code)
        self._hub.stats.websockets_closed[code] += 1
        seconds = self._hub.gateway.clock.now() - self._opened_at
        _log.info("websocket closed code=%d ip=%s seconds=%.1f", code, self.ip, seconds)
        self._intake.stop()
        self._outbox = None
        # Its traceback holds the parser, which holds the protocol: a cycle that only a collection would find.
        self._protocol.parser_exc = None

    def pause_writing(self) -> None:
        if self._outbox is not None:
            self._outbox.hold()

    def resume_writing(self) -> None:
        if self._pong:
            pong, self._pong = self._pong, b""
            if self._open:
                self._transmit([pong])
        if self._outbox is not None and self._outbox.release() and self._session is not None and self._open:
            self._ask(self._session.writable, self._hub.gateway.clock.now())

    # --- what time does ------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        self._empty_frames = 0
        if now >= self._close_at:
            self.abort()
        elif self._written != self._watch.settled and self._stalled(now):
            self._hub.stats.stalled += 1
            self.abort()
        elif self._open and self._session is not None:
            try:  # as `_ask`, without its calls: this runs for every connection, several times a second
                if self._heard:
                    self._heard = False
                    self._session.heard(now)
                self._session.check(now)
            except Exception:  # noqa: BLE001 - see `_ask`
                self._failed()

    def _stalled(self, now: float) -> bool:
        transport = self._transport
        unsent = transport.get_write_buffer_size()
        if not transport.is_closing():
            unsent += held_back_bytes(self._socket)
        return self._watch.stalled(self._written, unsent, now, self._hub.gateway.settings.write_stall_s)

    # --- the end -------------------------------------------------------------------------------------------------

    def _ask(self, call: Callable[..., None], *arguments: object) -> None:
        """Call the session. What it raises is a bug of ours: it costs this client its connection, is none of its
        business (no details), and reaches nobody else."""
        try:
            call(*arguments)
        except Exception:  # noqa: BLE001 - see above; logged with its traceback
            self._failed()

    def _failed(self) -> None:
        self._hub.stats.failures += 1
        _log.exception("session failed")
        self.close(1011, CLOSES[1011].reason)

    def _end(self) -> None:
        """No more frames can come or go: tell the session, once."""
        self._open = False
        self._forget()
        session, self._session = self._session, None
        if self._outbox is not None:
            self._outbox.drop()
        if session is not None:
            self._ask(session.closed, self._hub.gateway.clock.now())

    def _close_within_timeout(self) -> None:
        settings, clock = self._hub.gateway.settings, self._hub.gateway.clock
        self._close_at = min(self._close_at, clock.now() + settings.close_timeout_s)

    # --- writing -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        writes = self._protocol.data_to_send()
        if writes:
            self._transmit(writes)

    def _transmit(self, writes: list[bytes]) -> None:
        """Everything in one write. An empty item at the end is the library's sign for EOF."""
        transport = self._transport
        if transport.is_closing():
            return
        data = writes[0] if len(writes) == 1 else b"".join(writes)
        if data:
            self._written += len(data)
            transport.write(data)
        if not writes[-1]:
            # Only our half, if the client has not closed yet: closing now, with unread bytes in the kernel, would send
            # RST, and the client might never read why. TLS has no half; there the transport sees to it.
            self._close_within_timeout()
            if self._protocol.close_rcvd is None and transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()


_newest = [b"", b""]  # a payload, known by being the same object, and its frame


def _text_frame(payload: bytes) -> bytes:
    """In a frame of ours: not masked, no extensions (RFC 6455 §5.1). What goes to many is made a frame once."""
    if payload is not _newest[0]:
        _newest[:] = payload, Frame(Opcode.TEXT, payload).serialize(mask=False)
    return _newest[1]


_CONTROL: Final = frozenset({Opcode.PING, Opcode.PONG, Opcode.CLOSE})
