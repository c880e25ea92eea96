"""HTTP for those who watch: tails as streams of events, tickets to open them with, and what became of a message.

Owns what such a request must look like and what it is answered. What a stream shows is streams.py's.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pushwire.wire import decode
from pushwire.wire.codec import INTEGER_MAX
from pushwire.wire.frames import NAME, STATS_TOPIC, SubscribeTail
from pushwire_storage.base import Topic

from .admin import Admin
from .api_base import answer, check_rate, known, principal_of
from .api_consume import one, only_get
from .api_wait import Presence
from .auth import Unauthorized
from .origins import origin_of, origins_of
from .problems import SAFE_HEADERS
from .refusal import Refusal, Refused
from .rights import Principal
from .streams import EventStream
from .tickets import ticket_from_query

if TYPE_CHECKING:
    from .gateway import Gateway

LAST_EVENT_ID: Final = "last-event-id"

_PLACE: Final = re.compile(r"(seq|time_ms):([1-9][0-9]{0,15})")
_EVENT_ID: Final = re.compile(rf"([\x21-\x39\x3b-\x7e]{{1,{decode.EPOCH_CHARS_MAX}}}):(0|[1-9][0-9]{{0,15}})")
_SEQ: Final = re.compile(r"[1-9][0-9]{0,15}")


def watch_routes(gateway: Gateway) -> list[Route]:
    """The routes of this module."""
    watcher = _Watcher(gateway)
    return only_get(
        [
            Route("/v1/topics/{topic}/tail", watcher.tail, methods=["GET"]),
            Route("/v1/topics/{topic}/messages/{seq}/history", watcher.history, methods=["GET"]),
            Route("/v1/tickets", watcher.ticket, methods=["POST"]),
        ]
    )


class _Watcher:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    # --- tails -------------------------------------------------------------------------------------------------

    async def tail(self, request: Request) -> Response:
        """A topic as it grows, as a stream of events, until the client leaves or its token ends."""
        gateway = self._gateway
        principal = await self._by_ticket_or_token(request)
        topic = request.path_params["topic"]
        stats = topic == STATS_TOPIC
        if not (principal.may("admin", None) if stats else principal.may("replay", topic)):
            raise Refused(Refusal("forbidden" if stats or NAME.fullmatch(topic) else "bad_topic"))
        wanted = _wanted(request, topic)
        if gateway.draining:
            raise Refused(Refusal("going_away", retry_after_ms=1000))
        check_rate(gateway, principal)
        epoch = gateway.engine.store.epoch
        if wanted.epoch not in (None, epoch) and not stats:
            raise Refused(Refusal("epoch_changed", epoch))
        stream = gateway.streams.open(principal)
        presence = Presence(request, stream.close)
        if stats:  # numbers of now: there is nothing to be found first
            stream.follow_stats()
            return _Streaming(gateway, stream, presence)
        try:
            found, seq = await self._topic(presence, principal, wanted)
            if not stream.ended:
                stream.follow(found, seq)
        except BaseException:
            presence.close()
            gateway.streams.leave(stream)
            raise
        return _Streaming(gateway, stream, presence)

    async def _by_ticket_or_token(self, request: Request) -> Principal:
        """An EventSource can send no header, and a token must not stand in a URL."""
        gateway, headers = self._gateway, request.headers.raw
        try:
            ticket = ticket_from_query(request.scope["query_string"])
            if ticket is None:
                return await principal_of(gateway, request)
            if "authorization" in request.headers:
                raise Unauthorized("transport")
            origins = origins_of(headers, secure=request.url.scheme == "https")
            principal = gateway.tokens.redeem(ticket, origins, gateway.clock.now())
        except Unauthorized:
            raise Refused(Refusal("unauthorized")) from None
        known(request)
        return principal

    async def _topic(self, presence: Presence, principal: Principal, wanted: SubscribeTail) -> tuple[Topic, int]:
        found: asyncio.Future[tuple[Topic | None, int, Refusal | None]] = asyncio.get_running_loop().create_future()

        def ready(topic: Topic | None, seq: int, refusal: Refusal | None) -> None:
            if not found.done():
                found.set_result((topic, seq, refusal))

        self._gateway.find_tail(principal, wanted, ready)
        await presence.wait(found)
        topic, seq, refusal = found.result()
        if topic is None:
            raise Refused(refusal or Refusal("internal"))
        return topic, seq

    # --- tickets and histories ---------------------------------------------------------------------------------

    async def ticket(self, request: Request) -> Response:
        """A credential for one URL, good once and for seconds."""
        gateway = self._gateway
        principal = await principal_of(gateway, request)
        check_rate(gateway, principal)
        made = gateway.tokens.issue_ticket(principal, origin_of(request.headers.raw), gateway.clock.now())
        if isinstance(made, Refusal):
            raise Refused(made)
        return answer({"ticket": made.text, "expires_in_ms": made.expires_in_ms}, 201)

    async def history(self, request: Request) -> Response:
        """Who was given a message when, and how it ended."""
        principal = await principal_of(self._gateway, request)
        check_rate(self._gateway, principal)
        topic, seq = request.path_params["topic"], request.path_params["seq"]
        if not _SEQ.fullmatch(seq) or int(seq) > INTEGER_MAX:
            raise Refused(Refusal("bad_request", "a seq is a number from 1 on"))
        return answer(await Admin(self._gateway).history(principal, topic, int(seq)))


class _Streaming(Response):
    """What a stream has to say, until its end."""

    media_type = "text/event-stream"

    def __init__(self, gateway: Gateway, stream: EventStream, presence: Presence) -> None:
        super().__init__(b"", 200, {**SAFE_HEADERS, "x-accel-buffering": "no"})
        del self.headers["content-length"]  # nobody knows it
        self._gateway = gateway
        self._stream = stream
        self._presence = presence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream, presence = self._stream, self._presence
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(stream.pieces()) as pieces:
                async for piece in pieces:
                    # Waits while the transport is full. Who does not read at all is cut off by the port.
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            if not presence.gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            presence.close()
            self._gateway.streams.leave(stream)


def _wanted(request: Request, topic: str) -> SubscribeTail:
    """Where a tail begins. What the browser remembers counts more than what its page said when it began."""
    text = one(request, "from") or "new"
    place = _PLACE.fullmatch(text)
    if place is None and text not in ("earliest", "new"):
        raise Refused(Refusal("bad_request", "from is earliest, new, seq:n or time_ms:t"))
    lines = request.headers.getlist(LAST_EVENT_ID) or [one(request, "last_event_id") or ""]
    if lines != [""]:
        mark = _EVENT_ID.fullmatch(lines[0])
        if len(lines) > 1 or mark is None or int(mark[2]) > INTEGER_MAX:
            raise Refused(Refusal("bad_request", f"{LAST_EVENT_ID} is epoch:seq"))
        return SubscribeTail(topic, None, "new", mark[1], int(mark[2]))
    if place is None:
        return SubscribeTail(topic, None, "earliest" if text == "earliest" else "new")
    number = int(place[2])
    if number > INTEGER_MAX:
        raise Refused(Refusal("bad_request", f"from: at most {INTEGER_MAX}"))
    return SubscribeTail(topic, None, number if place[1] == "seq" else -number)
