"""Who may open a WebSocket, as far as the request's headers tell: path and subprotocols. Origins have origins.py.

Owns the rules that are ours and need no WebSocket library; connection.py joins them to the library's. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from pushwire.wire.frames import SUBPROTOCOL

PATH: Final = b"/v1/ws"

SUBPROTOCOLS: Final = (SUBPROTOCOL,)
"""What we speak, in order of preference."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # RFC 9110 §5.6.2; longer names are none of ours

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Header lines as they came, names in lower case."""


class UpgradeRequest(NamedTuple):
    """A request that asks to become a WebSocket."""

    method: str
    target: bytes
    version: str
    headers: RawHeaders


def values(headers: RawHeaders, name: bytes) -> list[str]:
    """Every line of one header, in order. Latin-1 loses no byte (RFC 9110 §5.5)."""
    return [value.decode("latin-1") for key, value in headers if key == name]


def offered_subprotocols(headers: RawHeaders) -> list[str]:
    """Subprotocols offered that may be shown: tokens by their syntax, and not the one that carries a JWT."""
    lines = values(headers, b"sec-websocket-protocol")
    names = (item.strip(" \t") for line in lines for item in line.split(","))
    return [name for name in names if _TOKEN.fullmatch(name) and not name.lower().startswith("bearer.")]
