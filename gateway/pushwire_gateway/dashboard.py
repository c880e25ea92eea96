"""`/`: the built files of the dashboard, with headers that keep them harmless.

Owns which paths are files and what a browser may do with them. Knows nothing of messages or tokens: the page asks the
API like any other client. A gateway whose dashboard was not built says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from .problems import SAFE_HEADERS

ICON: Final = "favicon.svg"

_POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",  # the WebSocket of this very origin included (CSP 3)
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",  # no text ever becomes markup: not by mistake either
    "trusted-types": "'none'",
}
HEADERS: Final = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
REVALIDATE: Final = "no-cache"
"""The page names the others by their hashes, so it must be the newest; its ETag makes that cheap."""
FOREVER: Final = "public, max-age=31536000, immutable"
"""The name of an asset holds the hash of what is in it."""

MISSING: Final = "The dashboard is not built into this gateway. In a checkout, `make web` builds it.\n"


def dashboard_routes(folder: Path | None) -> list[BaseRoute]:
    """The page, its icon and its assets. `folder`: where they lie, None when there are none."""
    if folder is None:
        return [Route("/", _missing, methods=["GET"], include_in_schema=False)]
    top = _Files(folder, REVALIDATE)

    async def page(request: Request) -> Response:
        return await top.get_response("index.html", request.scope)

    async def icon(request: Request) -> Response:
        return await top.get_response(ICON, request.scope)

    return [
        Route("/", page, methods=["GET"], include_in_schema=False),
        Route(f"/{ICON}", icon, methods=["GET"], include_in_schema=False),
        Mount("/assets", _Files(folder / "assets", FOREVER)),
    ]


async def _missing(_request: Request) -> Response:
    return PlainTextResponse(MISSING, 404, SAFE_HEADERS)


class _Files(StaticFiles):
    """Starlette's static files (ETag, 304, no way out of the folder), with our headers on each of them. Whole: of a
    Range that it does not like it says so in an answer of its own, without any of our headers."""

    def __init__(self, folder: Path, cache_control: str) -> None:
        super().__init__(directory=folder)
        self._headers = {**HEADERS, "cache-control": cache_control}

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        # RFC 9110 §14.2: a server may ignore the Range of any request.
        scope["headers"] = [line for line in scope["headers"] if line[0] != b"range"]
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update({**self._headers, "accept-ranges": "none"})
        return response
