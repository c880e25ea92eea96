"""Where a gateway is: the URL a user gives, made into the one to connect to.

Owns what may stand in it. A token never does: URLs end up in logs and histories.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

PATH = "/v1/ws"
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def websocket_url(url: str) -> str:
    """`ws(s)://host[:port][/prefix]`, with the path of the protocol at its end. Raises ValueError."""
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ValueError("the URL of a gateway is ws://host[:port] or wss://host[:port]")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the URL of a gateway holds no user, query or fragment; give the token by itself")
    _ = parts.port  # raises ValueError for what is none
    path = parts.path.rstrip("/")
    return urlunsplit((scheme, parts.netloc, path if path.endswith(PATH) else path + PATH, "", ""))


class HttpAddress(NamedTuple):
    """The same gateway's HTTP API."""

    host: str
    port: int
    secure: bool
    authority: str
    """As the Host header has it."""
    prefix: str
    """Before `/v1/...`, where a proxy serves the gateway below a path; else empty."""


def http_address(url: str) -> HttpAddress:
    """Where the HTTP API of the gateway is that a client finds at this URL. Raises ValueError."""
    parts = urlsplit(websocket_url(url))
    secure = parts.scheme == "wss"
    assert parts.hostname is not None  # websocket_url has looked
    port = parts.port or (443 if secure else 80)
    return HttpAddress(parts.hostname, port, secure, parts.netloc, parts.path.removesuffix(PATH))
