"""One HTTP connection: uvicorn's parser and request cycle, with the limits it lacks and the way to a WebSocket.

Owns what a client may send before anything of ours runs: size and time of head and body, how many requests it may
pipeline, how an upgrade leaves HTTP. Must not know a route: complete requests go to the ASGI app, upgrades to
connection.py. A refusal never overtakes the answer to an earlier request on the same connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from .caps import Admission
from .connection import Connection, negotiate
from .handshake import UpgradeRequest, values
from .hub import Hub
from .outbox import TRANSPORT_HIGH_BYTES, TRANSPORT_LOW_BYTES, StallWatch
from .ports import WAITS
from .problems import raw_response
from .refusal import BUSY_RETRY_MS, Refusal
from .tcp import held_back_bytes

HEADERS_MAX: Final = 64
"""Header lines of one request. Browsers send about 20; each costs objects before it can be judged."""

PIPELINE_MAX: Final = 16
"""Requests that may wait behind the one being answered. Each is an object graph of about 2 KiB, and 256 KiB of small
requests come in one read. Nobody but a benchmark pipelines more."""

RAW_BODY_FACTOR: Final = 2
"""Bytes on the wire a body may take, in body limits: chunk sizes, extensions and trailers are not counted by the
parser, and a trailer is buffered by it."""

# Where a connection is in its requests. Ordered: from LAST_ANSWER on, nothing more is read from it.
IDLE, HEAD, BODY, ANSWER, LAST_ANSWER, LINGER, UPGRADED = range(7)

_log = logging.getLogger("pushwire.http")


class _Refused(Exception):
    """Ends parsing from inside a callback of the parser; the refusal has been said."""


class HttpProtocol(HttpToolsProtocol):
    """From accept to the end, or to the upgrade."""

    def __init__(self, hub: Hub, config: Config, state: ServerState, admission: Admission) -> None:
        super().__init__(config, state, {}, hub.loop)
        self._hub = hub
        self._limits = hub.gateway.settings
        self._admission = admission  # a WebSocket takes it along
        self._secure = False  # TLS: cannot be half-closed
        self._phase = IDLE
        self._deadline = float("inf")  # of the phase
        self._served: RequestResponseCycle | None = None  # the request the app works on; self.cycle is the newest
        self._head_bytes = 0  # as they came
        self._counted_bytes = 0  # of the head, by the parser's callbacks: exact, but late
        self._body_bytes = 0
        self._raw_bytes = 0  # of the body as it came
        self._watch = StallWatch()

    # --- the connection's life -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """The connection has been let in: begin to read requests."""
        self._hub.join(self)
        super().connection_made(transport)
        self._secure = transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(TRANSPORT_HIGH_BYTES, TRANSPORT_LOW_BYTES)
        # The first head has its time from the accept on: a client that sends nothing is cut off just the same.
        self._expect(HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        self._admission.release()
        self._hub.leave(self)
        self._phase = LINGER
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's closes at once, answer or not
        """The client sends no more, but may be waiting for its answer (`shutdown(SHUT_WR)` behind the request); not
        where an answer takes long: there it is taken to be gone, as most then are."""
        if self._phase == BODY:
            self._refuse("eof", Refusal("bad_request", "the request ended before its body"))
        elif self._phase < LAST_ANSWER and not self._answered() and not self._waits():
            self._last_answer(self.cycle)
        return self._phase == LAST_ANSWER and not self._secure

    def _waits(self) -> bool:
        return self._served is not None and bool(self._served.scope["state"].get(WAITS))

    def check(self, now: float) -> None:
        """The sweep: deadlines, and who does not read."""
        if self.flow.read_paused and self._phase in (HEAD, BODY):
            self._expect(self._phase)  # it is we who keep the client waiting
        elif now >= self._deadline:
            self._overdue()
        elif self._stalled(now):
            self._hub.stats.stalled += 1
            self.abort()

    def drain(self) -> None:
        """Finish the requests that have come, then close; at once if there are none."""
        if self._answered():
            self._close()
        else:
            self.cycle.keep_alive = False

    def abort(self) -> None:
        self._phase = LINGER
        self.transport.abort()

    def _stalled(self, now: float) -> bool:
        unsent = self.transport.get_write_buffer_size()
        if not self._answered() and not self.transport.is_closing():
            unsent += held_back_bytes(self.transport.get_extra_info("socket"))
        return self._watch.stalled(0, unsent, now, self._limits.write_stall_s)

    def _expect(self, phase: int) -> None:
        """Enter a phase, with its time limit."""
        limits = self._limits
        allowed_s = {
            HEAD: limits.open_timeout_s,
            BODY: limits.http_body_timeout_s,
            IDLE: limits.keep_alive_s,
            LINGER: limits.close_timeout_s,
        }.get(phase)
        self._phase = phase
        now = self._hub.gateway.clock.now()
        self._deadline = float("inf") if allowed_s is None else now + allowed_s

    def _overdue(self) -> None:
        if self._phase == LINGER:
            self.abort()
        elif self._phase == IDLE:
            self._close()
        else:
            part = "head" if self._phase == HEAD else "body"
            self._refuse(part + "_timeout", Refusal("bad_request", f"the request's {part} did not arrive in time"), 408)

    def _answered(self) -> bool:
        """Every request so far has its response. The newest has it last."""
        none_yet = self.cycle is None  # uvicorn's type has no None, its value has
        return none_yet or self.cycle.response_complete

    # --- reading -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._phase < LAST_ANSWER:
            if self._phase == IDLE:
                self._expect(HEAD)
                self._head_bytes = 0
            if self._phase == HEAD:
                # Never more at once than the head may still have, so that the parser cannot buffer more than that.
                count = self._limits.head_bytes_max - self._head_bytes
                if count <= 0:
                    self._refuse_head("head_size")
                    return
                piece = rest[:count]
            else:
                piece = rest
            rest = rest[len(piece) :]
            self._parse(piece, rest)

    def _parse(self, piece: memoryview, rest: memoryview) -> None:
        phase, request = self._phase, self.cycle
        try:
            self.parser.feed_data(piece)
        except HttpParserUpgrade as upgrade:
            self._upgrade(bytes(piece[upgrade.args[0] :]) + bytes(rest))
            return
        except HttpParserError as error:
            if self._phase < LAST_ANSWER:
                self._unreadable(error)
            return
        if self._phase != phase or self.cycle is not request:
            return  # another request, or another part of this one: its counters started there
        if phase == HEAD:
            self._head_bytes += len(piece)
        elif phase == BODY:
            self._raw_bytes += len(piece)
            if self._raw_bytes > RAW_BODY_FACTOR * self._limits.http_body_bytes_max:
                self._refuse_body()

    def _unreadable(self, error: HttpParserError) -> None:
        cause = error.__context__
        if cause and not isinstance(cause, HttpParserError | UnicodeError):
            # A callback of ours or of uvicorn's failed on input the parser accepts.
            self._hub.stats.failures += 1
            _log.error("HTTP parser callback failed", exc_info=cause)
        self._refuse("unreadable", Refusal("bad_request", "not a valid HTTP request"))

    # --- callbacks of the parser ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # A route may tell the port that the client has shown a good token.
        self.scope["state"]["admission"] = self._admission
        if self._phase != HEAD:
            self._expect(HEAD)
            self._head_bytes = 0
        self._counted_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase != HEAD:
            return  # a trailer: uvicorn would add it to the headers of a request that is judged already
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)
        if len(self.headers) > HEADERS_MAX:
            self._refuse_head("head_count")
            raise _Refused

    def _count(self, size_bytes: int) -> None:
        self._counted_bytes += size_bytes
        if self._counted_bytes > self._limits.head_bytes_max:
            self._refuse_head("head_size")
            raise _Refused

    def on_headers_complete(self) -> None:
        refusal, status = self._judge_head()
        if refusal is not None:
            self._refuse("head", refusal, status)
            raise _Refused
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            self.scope["http_version"] = self.parser.get_http_version()
            return
        super().on_headers_complete()
        self._expect(BODY)
        self._body_bytes = self._raw_bytes = 0

    def _judge_head(self) -> tuple[Refusal | None, int | None]:
        """Why this head may not become a request, and the status where no code has it."""
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            return Refusal("bad_request", "only HTTP 1.1 and 1.0 are spoken here"), 505
        hosts = len(values(self.headers, b"host"))
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return Refusal("bad_request", "exactly one Host header, please"), None  # RFC 9112 §3.2
        codings = values(self.headers, b"transfer-encoding")
        if codings and (version == "1.0" or [coding.lower() for coding in codings] != ["chunked"]):
            return Refusal("unsupported", "chunked is the one transfer coding, in HTTP/1.1"), None
        lengths = values(self.headers, b"content-length")
        if lengths and int(lengths[0]) > self._limits.http_body_bytes_max:
            return Refusal("message_too_large", f"a body of at most {self._limits.http_body_bytes_max} bytes"), None
        if len(self.pipeline) >= PIPELINE_MAX:
            return Refusal("busy", f"at most {PIPELINE_MAX} requests at once"), None
        return None, None

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.http_body_bytes_max:
            self._refuse_body()
            raise _Refused
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._expect(IDLE if self.cycle.response_complete else ANSWER)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """As uvicorn's, but the time an idle connection is kept is a deadline of the sweep, not a timer each."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._phase == ANSWER:
            self._expect(IDLE)

    # --- refusing ------------------------------------------------------------------------------------------------

    def _refuse_head(self, cause: str) -> None:
        self._refuse(cause, Refusal("bad_request", "the request's head is too large"), 431)

    def _refuse_body(self) -> None:
        limit = self._limits.http_body_bytes_max
        self._refuse("body_size", Refusal("message_too_large", f"a body of at most {limit} bytes"))

    def _refuse(self, cause: str, refusal: Refusal, status: int | None = None) -> None:
        """Answer the request that is being read, and end the connection. Requests before it get their answers first,
        and then it gets none: an error that came early would be taken for the answer to one of them."""
        self._hub.stats.http_cut[cause] += 1
        response = raw_response(refusal, status)
        if self._phase == BODY and self.cycle.response_complete:
            self._linger()  # the app has answered already, without the body
        elif self._answered():
            self._linger(response)
        elif self._phase != BODY:
            self._last_answer(self.cycle)
        elif self.cycle is self._served and not self.cycle.response_started:
            # The app has the request already, and waits for its body.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._linger(response)
        elif self.cycle is self._served:
            self._last_answer(self.cycle)
        else:
            self.pipeline.popleft()
            self._last_answer(self.pipeline[0][0] if self.pipeline else self._served)

    def _last_answer(self, cycle: RequestResponseCycle | None) -> None:
        """Read no more; close after this request's answer."""
        assert cycle is not None  # only called while an answer is owed
        self._expect(LAST_ANSWER)
        cycle.keep_alive = False

    def _linger(self, response: bytes = b"") -> None:
        """Say the last words, then wait for the client's end. Closing at once, with bytes of its unread, would send
        RST, and the client might never see them."""
        transport = self.transport
        self._expect(LINGER)
        if transport.is_closing():
            return
        self.flow.resume_reading()
        if response:
            transport.write(response)
        if self._secure:
            transport.close()
        else:
            transport.write_eof()

    def _close(self) -> None:
        self._expect(LINGER)
        if not self.transport.is_closing():
            self.transport.close()

    # --- leaving HTTP --------------------------------------------------------------------------------------------

    def _upgrade(self, rest: bytes) -> None:
        """The head is complete and asks for another protocol; `rest` is what came behind it."""
        if not self._answered():
            # An earlier request waits for its response, which must not land inside a WebSocket stream.
            self._hub.stats.http_cut["upgrade_pipelined"] += 1
            self._last_answer(self.cycle)
        elif self.scope["method"] == "CONNECT":
            self._refuse("connect", Refusal("method_not_allowed"))
        elif [wish.lower() for wish in values(self.headers, b"upgrade")] != ["websocket"]:
            self._ignore_upgrade(rest)
        elif values(self.headers, b"transfer-encoding") or values(self.headers, b"content-length") not in ([], ["0"]):
            # The parser takes an upgrade to have no body: what was sent as one would be read as frames.
            self._refuse("upgrade_body", Refusal("bad_request", "an upgrade has no body"))
        else:
            self._open_websocket(rest)

    def _locate(self, ip: str) -> Refusal | None:
        """Now that a proxy has named its client: may this address have one more?"""
        stats, gateway = self._hub.stats, self._hub.gateway
        full = self._admission.locate(ip)
        if full is not None:
            stats.refused[full] += 1
            return Refusal("too_many_connections", retry_after_ms=BUSY_RETRY_MS)
        verdict = gateway.throttle.connect(self._admission.network)
        if not verdict.allowed:
            stats.refused["rate"] += 1
            return Refusal("rate_limited", retry_after_ms=verdict.retry_after_ms)
        return None

    def _open_websocket(self, rest: bytes) -> None:
        hub, transport = self._hub, self.transport
        peer = str(self.client[0]) if self.client else ""
        ip = hub.proxies.client_address(peer, self.headers)
        refusal = self._locate(ip) if hub.proxies.trusts(peer) else None
        if refusal is not None:
            self._linger(raw_response(refusal))
            return
        request = UpgradeRequest(self.scope["method"], self.url, self.scope["http_version"], self.headers)
        handshake = negotiate(hub.gateway, request, hub.origins, secure=self._secure)
        if isinstance(handshake, bytes):
            self._hub.stats.http_cut["upgrade"] += 1
            self._linger(handshake)
            return
        self._phase = UPGRADED
        self.connections.discard(self)
        self.parser = None  # type: ignore[assignment]  # breaks the cycle of parser and callbacks, as uvicorn does
        connection = Connection(hub, transport, handshake, self._admission, ip)
        hub.join(connection)
        hub.leave(self)
        connection.start(handshake, full=self.flow.write_paused)
        if rest:
            connection.data_received(rest)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """RFC 9110 §7.8: an upgrade we do not know (h2c, which some clients ask for with every first request) is
        ignored. The parser cannot: it has taken the body for foreign data. So it starts over, without the wish."""
        hop = {b"upgrade", b"connection", b"http2-settings"}
        lines = [b"%b %b HTTP/%b" % (self.scope["method"].encode(), self.url, self.scope["http_version"].encode())]
        lines += [b"%b: %b" % line for line in self.headers if line[0] not in hop]
        tokens = [token.strip() for value in values(self.headers, b"connection") for token in value.lower().split(",")]
        lines += [b"connection: " + token.encode() for token in ("close", "keep-alive") if token in tokens]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._expect(IDLE)
        self.data_received(b"\r\n".join([*lines, b"", rest]))
