"""Which web pages may use this gateway: the Origin rule, and what a browser is told of it (CORS).

Owns every decision that depends on an Origin header, over WebSocket and HTTP alike. Pure functions of header lines:
no settings object, no route, no token. It never allows credentials: cookies authenticate nobody here, so a page
needs a token, and a token is all it needs.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .handshake import RawHeaders, values

CORS_METHODS: Final = "GET, POST, PUT, PATCH, DELETE"
CORS_REQUEST_HEADERS: Final = "authorization, content-type, last-event-id, pushwire-session"
CORS_EXPOSED_HEADERS: Final = "pushwire-session, retry-after"
CORS_AGE_S: Final = 600
"""How long a browser may remember what a preflight was told: longer than that and a changed list takes effect late."""


def origin_allowed(headers: RawHeaders, origins: frozenset[str], *, secure: bool) -> bool:
    """Whether a page of this Origin may use us. Absent: not a page of another site, allowed. Exact match, nothing else.

    With no list, the page must come from where we are: Origin and Host agree. Without TLS of our own there may be a
    proxy that has it, so both schemes count. `null` (a sandboxed frame, a local file) is nobody, even for `*`.
    """
    given = values(headers, b"origin")
    if not given:
        return True
    if len(given) > 1 or given[0] == "null":
        return False
    if origins:
        return "*" in origins or given[0] in origins
    return given[0] in _own(headers, secure=secure)


def origin_of(headers: RawHeaders) -> str | None:
    """The Origin that a request names, if it names one. To be asked once `origin_allowed` has said yes."""
    given = values(headers, b"origin")
    return given[0] if given else None


def origins_of(headers: RawHeaders, *, secure: bool) -> frozenset[str]:
    """The Origins that a request may come from, for what was bound to one of them. The Origin it names; and if it
    names none, our own: of all requests that a page's script can read the answer to, browsers leave the header out
    of a GET to the page's own origin only (Fetch standard, "append a request Origin header"), an EventSource's too.
    """
    given = values(headers, b"origin")
    return frozenset(given) if given else _own(headers, secure=secure)


def _own(headers: RawHeaders, *, secure: bool) -> frozenset[str]:
    """The Origins of a page that this very address has served, as far as the request's Host tells."""
    hosts = [host.lower() for host in values(headers, b"host")]
    if len(hosts) != 1 or not hosts[0]:
        return frozenset()
    schemes = ("https",) if secure else ("http", "https")
    return frozenset(f"{scheme}://{hosts[0]}" for scheme in schemes)


# ---- CORS


class Cors(NamedTuple):
    """What the Origin of a request means for its answer."""

    allowed: bool
    """False: answer `forbidden`, without having done anything. A page would not see the answer of a request that
    succeeded, but its effect would be there."""
    headers: dict[str, str]
    """To be added to the answer, whatever it is."""


def cors(headers: RawHeaders, origins: frozenset[str], *, secure: bool) -> Cors:
    """The decision for a request that is no preflight."""
    if not origin_allowed(headers, origins, secure=secure):
        return Cors(False, {"vary": "origin"})
    origin = origin_of(headers)
    # Vary also without an Origin: a cache must not give a page what was answered to somebody who named none.
    answer = {"vary": "origin"}
    if origin is not None:
        answer["access-control-allow-origin"] = origin
        answer["access-control-expose-headers"] = CORS_EXPOSED_HEADERS
    return Cors(True, answer)


def is_preflight(method: str, headers: RawHeaders) -> bool:
    """Whether a browser asks, by OPTIONS, what a page may do (Fetch standard, "CORS-preflight request")."""
    return method == "OPTIONS" and bool(
        values(headers, b"origin") and values(headers, b"access-control-request-method")
    )


def preflight(headers: RawHeaders, origins: frozenset[str], *, secure: bool) -> Cors:
    """The decision for a preflight. The answer is the same whatever was asked for: the browser compares, and the
    route refuses what it does not take."""
    decision = cors(headers, origins, secure=secure)
    if not decision.allowed:
        return decision
    answer = {
        **decision.headers,
        "access-control-allow-methods": CORS_METHODS,
        "access-control-allow-headers": CORS_REQUEST_HEADERS,
        "access-control-max-age": str(CORS_AGE_S),
    }
    answer.pop("access-control-expose-headers", None)
    return Cors(True, answer)
