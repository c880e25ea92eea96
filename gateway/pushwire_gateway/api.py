"""HTTP: publishing, and whether this gateway is alive and ready.

Owns what a request must look like and what it is answered. Decodes with the wire's own validators and hands on to the
gateway, so that rights, limits and guarantees are those of the socket. A request's body is JSON, either one message
as its own object (`{"data": …, "id"?, "key"?, "priority"?, "headers"?, "content_type"?}`, or `data_text`/`data_b64`)
or `{"messages": [<such objects>]}`; a body that is not of that shape is refused, never taken for a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pushwire.wire import decode
from pushwire.wire.codec import BadJson, dumps, loads
from pushwire_storage.base import Message

from .auth import Unauthorized, token_from_headers
from .handshake import PATH
from .ports import Gateway
from .problems import SAFE_HEADERS, document, headers_of, status_of
from .refusal import Refusal
from .rights import Principal

JSON_TYPE: Final = "application/json"


class _Refused(Exception):
    """A request that is answered with a problem document."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


def make_app(gateway: Gateway, *routes: Route) -> Starlette:
    """The HTTP API, followed by the routes of others."""
    api = _Api(gateway)
    app = Starlette(
        routes=[
            Route("/v1/topics/{topic}/messages", api.publish, methods=["POST"]),
            Route(PATH.decode(), api.websocket_only),
            Route("/livez", api.livez),
            Route("/readyz", api.readyz),
            *routes,
        ],
        exception_handlers={_Refused: _refused, HTTPException: _http_error, Exception: _internal},
    )
    # A redirect would be built from the Host header, which anybody can choose.
    app.router.redirect_slashes = False
    return app


class _Api:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def publish(self, request: Request) -> Response:
        """Store one message or a batch, all or none. Answers 200 with receipts once they are durable."""
        principal = self._principal(request)
        _check_media(request)
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it, and nothing was published
        frame = self._decode(request.path_params["topic"], body)
        done: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()

        def answered(refusal: Refusal | None) -> None:
            # Cancelled: the server is being torn down. The commit does not depend on this request.
            if not done.cancelled():
                done.set_result(refusal)

        refusal = self._gateway.publish(principal, frame.topic, frame.messages, len(body), answered)
        if refusal is None:
            refusal = await done
        if refusal is not None:
            raise _Refused(refusal)
        receipts = [{"id": m.id, "seq": m.seq, "duplicate": m.duplicate} for m in frame.messages]
        return _json({"receipts": receipts})

    def _principal(self, request: Request) -> Principal:
        # A subprotocol can carry a token as well, but here it would be a second place to look.
        lines = [line for line in request.headers.raw if line[0] == b"authorization"]
        try:
            token, _ = token_from_headers(lines)
            if token is None:
                raise Unauthorized("transport")
            principal = self._gateway.verifier.verify(token, self._gateway.clock.now())
        except Unauthorized:
            raise _Refused(Refusal("unauthorized")) from None
        admission = request.scope.get("state", {}).get("admission")
        if admission is not None:
            admission.authenticated()
        return principal

    def _decode(self, topic: str, body: bytes) -> Any:
        settings = self._gateway.settings
        if len(body) > settings.http_body_bytes_max:
            raise _Refused(Refusal("message_too_large", f"a body of at most {settings.http_body_bytes_max} bytes"))
        try:
            value = loads(body)
            if type(value) is not dict:
                raise decode.Invalid('the body is a JSON object: a message, or {"messages": [...]}')
            many = value.get("messages")
            if type(many) is list and len(many) > settings.http_batch_max:
                raise decode.Invalid(f"at most {settings.http_batch_max} messages in one request", "batch_too_large")
            return decode.publish({**value, "topic": topic}, None, Message, len(body))
        except decode.Invalid as exc:
            raise _Refused(Refusal(exc.code, str(exc))) from None
        except BadJson as exc:
            raise _Refused(Refusal("bad_request", str(exc))) from None

    async def websocket_only(self, request: Request) -> Response:
        """`/v1/ws` without a wish to upgrade: somebody's browser, or a proxy that strips the headers."""
        refusal = Refusal("bad_request", "this address speaks WebSocket: the request has to ask for the upgrade")
        return _problem(refusal, 426, {"upgrade": "websocket", "connection": "upgrade"})

    async def livez(self, request: Request) -> Response:
        """The event loop turns. Asks nothing else."""
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Whether to send work here."""
        state = self._gateway.ready()
        ready = state["status"] == "ok" and not self._gateway.draining
        return _json(state, 200 if ready else 503)


def _check_media(request: Request) -> None:
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise _Refused(Refusal("unsupported_media_type", "a body must not be compressed"))
    given = request.headers.get("content-type", "")
    media, _, parameters = given.partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media.strip().lower() != JSON_TYPE or charset not in ("", "charset=utf-8"):
        raise _Refused(Refusal("unsupported_media_type", f"send content-type: {JSON_TYPE}"))


def _json(value: Mapping[str, Any], status: int = 200) -> Response:
    return Response(dumps(value), status, {"content-type": JSON_TYPE, **SAFE_HEADERS})


def _problem(refusal: Refusal, status: int | None = None, extra: Mapping[str, str] | None = None) -> Response:
    headers = {**headers_of(refusal, status), **(extra or {})}
    return Response(document(refusal, status), status or status_of(refusal), headers)


async def _refused(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, _Refused)
    return _problem(exc.refusal)


async def _http_error(_request: Request, exc: Exception) -> Response:
    """What Starlette refuses: an unknown path, a wrong method."""
    assert isinstance(exc, HTTPException)
    codes = {HTTPStatus.NOT_FOUND: "not_found", HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed"}
    code = codes.get(HTTPStatus(exc.status_code), "bad_request")
    return _problem(Refusal(code), exc.status_code, exc.headers)


async def _internal(_request: Request, _exc: Exception) -> Response:
    """A bug of ours. Starlette raises it again after this answer, and the port logs it."""
    return _problem(Refusal("internal"))
