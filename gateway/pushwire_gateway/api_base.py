"""What every HTTP route shares: who asks, what came with the request, and how it is answered.

Owns the form of requests and answers. Knows no route: api*.py do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pushwire.wire.codec import BadJson, dumps, loads

from .auth import Unauthorized, token_from_headers
from .ports import Gateway
from .problems import SAFE_HEADERS, document, headers_of, status_of
from .refusal import Refusal, Refused
from .rights import Principal

JSON_TYPE: Final = "application/json"


class Gone(Exception):
    """The client left before its request was complete: nobody is there to answer, and nothing was done."""


async def principal_of(gateway: Gateway, request: Request) -> Principal:
    """Who asks, by the bearer token. Waits for nothing unless its key may have been published a moment ago. Raises
    Refused."""
    # A subprotocol can carry a token as well, but here it would be a second place to look.
    lines = [line for line in request.headers.raw if line[0] == b"authorization"]
    try:
        token, _ = token_from_headers(lines)
        if token is None:
            raise Unauthorized("transport")
        principal = await gateway.verifier.verify_token(token, gateway.clock.now())
    except Unauthorized:
        raise Refused(Refusal("unauthorized")) from None
    known(request)
    return principal


def check_rate(gateway: Gateway, principal: Principal, session: str | None = None) -> None:
    """For what a socket would be charged for, or costs more than that: requests that name no session share one
    allowance of their subject, or each would bring its own. Raises Refused."""
    key = f"http {principal.tenant} {principal.subject}" if session is None else f"http {session}"
    refusal = gateway.control(key)
    if refusal is not None:
        raise Refused(refusal)


def check_still(gateway: Gateway, principal: Principal) -> None:
    """To be asked after every wait, before anything is done: the token may have been revoked meanwhile, or have ended,
    and what begins then is seen by nobody who ends what tokens hold. Raises Refused."""
    if gateway.verifier.revoked(principal) or gateway.clock.now() >= principal.valid_until:
        raise Refused(Refusal("unauthorized"))


def known(request: Request) -> None:
    """The client has shown who it is: its connection no longer counts among the strangers of its address."""
    admission = request.scope.get("state", {}).get("admission")
    if admission is not None:
        admission.authenticated()


async def body_of(request: Request, bytes_max: int) -> bytes:
    """The body of a request that must have one. Raises Refused, Gone."""
    _check_media(request)
    try:
        body = await request.body()
    except ClientDisconnect:
        raise Gone from None
    if len(body) > bytes_max:
        raise Refused(Refusal("message_too_large", f"a body of at most {bytes_max} bytes"))
    return body


def object_of(body: bytes, what: str = "a JSON object") -> dict[str, Any]:
    """The JSON object in a body. Raises Refused."""
    try:
        value = loads(body)
    except BadJson as exc:
        raise Refused(Refusal("bad_request", str(exc))) from None
    if type(value) is not dict:
        raise Refused(Refusal("bad_request", f"the body is {what}"))
    return value


def _check_media(request: Request) -> None:
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise Refused(Refusal("unsupported_media_type", "a body must not be compressed"))
    given = request.headers.get("content-type", "")
    media, _, parameters = given.partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media.strip().lower() != JSON_TYPE or charset not in ("", "charset=utf-8"):
        raise Refused(Refusal("unsupported_media_type", f"send content-type: {JSON_TYPE}"))


def answer(value: Mapping[str, Any], status: int = 200, extra: Mapping[str, str] | None = None) -> Response:
    """JSON, kept by nobody on the way."""
    return Response(dumps(value), status, {"content-type": JSON_TYPE, **SAFE_HEADERS, **(extra or {})})


def problem(refusal: Refusal, status: int | None = None, extra: Mapping[str, str] | None = None) -> Response:
    """A refusal as RFC 9457 has it."""
    headers = {**headers_of(refusal, status), **(extra or {})}
    return Response(document(refusal, status), status or status_of(refusal), headers)
