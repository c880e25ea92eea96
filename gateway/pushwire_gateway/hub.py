"""What all connections of one listener share: the gateway, the set of those alive, and counters.

Owns membership and counting. Must not act on a connection: the listener's sweep and drain do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from .ports import Gateway
from .proxies import Proxies


class Checked(Protocol):
    """A connection that the sweep looks after: a WebSocket, or HTTP."""

    def check(self, now: float) -> None:
        """Time has passed. Called every 0.25 to 0.5 s; must not raise."""

    def drain(self) -> None:
        """The gateway is going away: end when what is being done is done, at once if nothing is."""

    def abort(self) -> None:
        """Cut the connection at once."""


@dataclass(slots=True)
class Stats:
    """What happened at one port, as plain counters that a scrape may read."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # at accept, by the cap reached, or "rate"
    http_cut: Counter[str] = field(default_factory=Counter)  # HTTP connections ended by us, by cause
    websockets_opened: int = 0
    websockets_closed: Counter[int] = field(default_factory=Counter)  # by close code; 1006: without one
    stalled: int = 0
    failures: int = 0  # exceptions in our own code that ended a connection


class Hub:
    """One listener's connections."""

    __slots__ = ("empty", "gateway", "live", "loop", "origins", "proxies", "stats")

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        self.gateway = gateway
        self.loop = loop
        self.origins = frozenset(gateway.settings.origins)
        self.proxies = Proxies(gateway.settings.trusted_proxies, gateway.settings.proxy_header)
        self.stats = Stats()
        self.live: set[Checked] = set()
        self.empty = asyncio.Event()  # set while no connection is alive
        self.empty.set()

    def join(self, connection: Checked) -> None:
        """A connection is alive from here on."""
        self.live.add(connection)
        self.empty.clear()

    def leave(self, connection: Checked) -> None:
        """It is gone. Harmless when repeated."""
        self.live.discard(connection)
        if not self.live:
            self.empty.set()
