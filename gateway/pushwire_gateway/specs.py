"""The two documents that describe the gateway to programs, served to everybody: they say nothing of what it holds.

Owns the routes; the documents are openapi.py's and asyncapi.py's. Built at the first request, once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pushwire.wire.codec import dumps

from . import asyncapi, openapi
from .api_base import JSON_TYPE
from .problems import SAFE_HEADERS
from .settings import Settings


def spec_routes(settings: Settings) -> list[Route]:
    """`/v1/openapi.json` and `/v1/asyncapi.json`."""
    return [
        _route("/v1/openapi.json", lambda: openapi.document(settings)),
        _route("/v1/asyncapi.json", asyncapi.document),
    ]


def _route(path: str, build: Callable[[], dict[str, Any]]) -> Route:
    text = cache(lambda: dumps(build()))

    async def serve(_request: Request) -> Response:
        return Response(text(), 200, {"content-type": JSON_TYPE, **SAFE_HEADERS})

    return Route(path, serve, methods=["GET"])
