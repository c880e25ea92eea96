"""Where a gateway is: the URL a user gives, made into the one to connect to.

Owns what may stand in it. A token never does: URLs end up in logs and histories.
"""

from __future__ import annotations

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
