"""Refusals over HTTP: RFC 9457 problem documents with the codes of the socket.

Owns what a refused request is answered, as the parts of a response (for the API) and as raw bytes (for the port,
which refuses before there is an API). Says nothing of the request beyond the refusal's detail, and nothing of us.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from pushwire.wire.codec import dumps
from pushwire.wire.codes import ERRORS

from .refusal import Refusal

MEDIA_TYPE: Final = "application/problem+json"

SAFE_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
"""On every answer: it may not be kept, not be read as anything but what it says it is, and should a browser be led to
show it, it runs nothing, loads nothing, stands in nobody's frame and tells nobody its address."""


def status_of(refusal: Refusal) -> int:
    """The HTTP status that goes with the refusal's code."""
    return ERRORS[refusal.code].http_status


def document(refusal: Refusal, status: int | None = None) -> bytes:
    """The problem document; `code`, `retryable` and `retry_after_ms` are what the socket would say."""
    body: dict[str, object] = {
        "type": f"urn:pushwire:error:{refusal.code}",
        "title": ERRORS[refusal.code].message,
        "status": status or status_of(refusal),
        "code": refusal.code,
        "retryable": refusal.retryable,
    }
    if refusal.detail:
        body["detail"] = refusal.detail
    if refusal.retry_after_ms is not None:
        body["retry_after_ms"] = refusal.retry_after_ms
    return dumps(body)


def headers_of(refusal: Refusal, status: int | None = None) -> dict[str, str]:
    """Headers of the answer, without Content-Length."""
    headers = {"content-type": MEDIA_TYPE, **SAFE_HEADERS}
    if refusal.retry_after_ms is not None:
        # RFC 9110 §10.2.3: whole seconds. Rounded up, so that nobody comes back too early.
        headers["retry-after"] = str(-(-refusal.retry_after_ms // 1000))
    if (status or status_of(refusal)) == 401:
        headers["www-authenticate"] = "Bearer"  # RFC 9110 §11.6.1; without an error code: every cause looks the same
    return headers


def raw_response(refusal: Refusal, status: int | None = None, extra: Mapping[str, str] | None = None) -> bytes:
    """A whole HTTP/1.1 response that ends its connection. `status` where no code of the wire fits (408, 431)."""
    status = status or status_of(refusal)
    body = document(refusal, status)
    headers = headers_of(refusal, status)
    headers.update(extra or {})
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(body)}", "connection: close", "", ""]
    return "\r\n".join(lines).encode("ascii") + body
