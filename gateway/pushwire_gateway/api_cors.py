"""CORS around the whole HTTP API: preflights are answered, foreign pages refused, allowed ones told so.

Owns where the decision of origins.py is applied: before anything else, and on every answer, errors included. Knows no
route and no rule.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .api_base import problem
from .origins import cors, is_preflight, preflight
from .refusal import Refusal


class Cors:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, origins: frozenset[str]) -> None:
        self.app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, secure = scope["headers"], scope.get("scheme") == "https"
        if is_preflight(scope["method"], headers):
            decision = preflight(headers, self._origins, secure=secure)
            if decision.allowed:
                await Response(status_code=204, headers=decision.headers)(scope, receive, send)
                return
        else:
            decision = cors(headers, self._origins, secure=secure)
        if not decision.allowed:
            # Before anything is done: a page would not see the answer, but the effect would be there.
            refused = problem(Refusal("forbidden", "this Origin may not use the gateway"), extra=decision.headers)
            await refused(scope, receive, send)
            return

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(decision.headers)
            await send(message)

        await self.app(scope, receive, told)
