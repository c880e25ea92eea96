"""HTTP: publishing, and whether this gateway is alive and ready.

Owns what a request must look like and what it is answered. Decodes with the wire's own validators and hands on to the
gateway, so that rights, limits and guarantees are those of the socket. A request's body is JSON, either one message
as its own object (`{"data": …, "id"?, "key"?, "priority"?, "headers"?, "content_type"?}`, or `data_text`/`data_b64`)
or `{"messages": [<such objects>]}`; a body that is not of that shape is refused, never taken for a message.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from pushwire.wire import decode
from pushwire.wire.codec import BadJson
from pushwire_storage.base import Message

from .api_base import Gone, answer, body_of, check_still, object_of, principal_of, problem
from .api_consume import consume_routes
from .api_cors import Cors
from .api_watch import watch_routes
from .handshake import PATH
from .ports import Gateway
from .refusal import Refusal, Refused

if TYPE_CHECKING:
    from .gateway import Gateway as RunningGateway


def make_app(gateway: Gateway, *routes: BaseRoute) -> ASGIApp:
    """The HTTP API, followed by the routes of others."""
    api = _Api(gateway)
    running = cast("RunningGateway", gateway)  # the port asks less of it, and tests of the port have no more
    app = Starlette(
        routes=[
            Route("/v1/topics/{topic}/messages", api.publish, methods=["POST"]),
            *consume_routes(running),
            *watch_routes(running),
            Route(PATH.decode(), api.websocket_only),
            Route("/livez", api.livez),
            Route("/readyz", api.readyz),
            *routes,
        ],
        exception_handlers={Refused: _refused, Gone: _gone, HTTPException: _http_error, Exception: _internal},
    )
    # A redirect would be built from the Host header, which anybody can choose.
    app.router.redirect_slashes = False
    return Cors(app, frozenset(gateway.settings.origins))


class _Api:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def publish(self, request: Request) -> Response:
        """Store one message or a batch, all or none. Answers 200 with receipts once they are durable."""
        principal = await principal_of(self._gateway, request)
        body = await body_of(request, self._gateway.settings.http_body_bytes_max)
        check_still(self._gateway, principal)
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
            raise Refused(refusal)
        receipts = [{"id": m.id, "seq": m.seq, "duplicate": m.duplicate} for m in frame.messages]
        return answer({"receipts": receipts})

    def _decode(self, topic: str, body: bytes) -> Any:
        settings = self._gateway.settings
        value = object_of(body, 'a JSON object: a message, or {"messages": [...]}')
        try:
            many = value.get("messages")
            if type(many) is list and len(many) > settings.http_batch_max:
                raise decode.Invalid(f"at most {settings.http_batch_max} messages in one request", "batch_too_large")
            return decode.publish({**value, "op": "publish", "topic": topic}, None, Message, len(body))
        except decode.Invalid as exc:
            raise Refused(Refusal(exc.code, str(exc))) from None
        except BadJson as exc:
            raise Refused(Refusal("bad_request", str(exc))) from None

    async def websocket_only(self, request: Request) -> Response:
        """`/v1/ws` without a wish to upgrade: somebody's browser, or a proxy that strips the headers."""
        refusal = Refusal("bad_request", "this address speaks WebSocket: the request has to ask for the upgrade")
        return problem(refusal, 426, {"upgrade": "websocket", "connection": "upgrade"})

    async def livez(self, request: Request) -> Response:
        """The event loop turns. Asks nothing else."""
        return answer({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Whether to send work here."""
        state = self._gateway.ready()
        ready = state["status"] == "ok" and not self._gateway.draining
        return answer(state, 200 if ready else 503)


async def _refused(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, Refused)
    return problem(exc.refusal)


async def _gone(_request: Request, _exc: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def _http_error(_request: Request, exc: Exception) -> Response:
    """What Starlette refuses: an unknown path, a wrong method."""
    assert isinstance(exc, HTTPException)
    codes = {HTTPStatus.NOT_FOUND: "not_found", HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed"}
    code = codes.get(HTTPStatus(exc.status_code), "bad_request")
    return problem(Refusal(code), exc.status_code, exc.headers)


async def _internal(_request: Request, _exc: Exception) -> Response:
    """A bug of ours. Starlette raises it again after this answer, and the port logs it."""
    return problem(Refusal("internal"))
