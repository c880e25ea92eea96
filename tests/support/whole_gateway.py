"""The gateway as it is started, on a real port in this process, with a clock that a test steps.

Owns its start, its time and its end. It tests nothing. Everything is the product's own but the clock: no test sleeps
to see a lease run out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pushwire_gateway import server
from pushwire_gateway.auth import SigningKey, sign_token
from pushwire_gateway.settings import load

from .gateway_parts import SteppedLoop
from .port import PATIENCE_S, SteppedClock

SECRET = "a secret of the tests, longer than 32 bytes"
ALL = ("publish:*", "consume:*@*", "create:*@*", "replay:*", "admin:*")
QUIET = {
    "publish_per_s": 0,
    "publish_bytes_per_s": 0,
    "controls_per_s": 0,
    "connects_per_s_per_ip": 0,
    "connects_per_s": 0,
    "unauthenticated_per_ip": 1000,
    "connections_per_ip": 0,
    "ping_interval_s": 300,
}
"""Limits that would answer a test which steps the clock by minutes, and is none of theirs."""


class WholeGateway:
    """One running gateway."""

    def __init__(self, data: Path | None, **settings: Any) -> None:
        self.clock = SteppedClock()
        self._stepped = SteppedLoop(self.clock)
        chosen = load(
            port=0,
            data="memory:" if data is None else str(data),
            keys=[{"kid": "main", "alg": "HS256", "secret": SECRET}],
            **{**QUIET, **settings},
        )
        self.server = server.Server(chosen, clock=self.clock, loop=self._stepped)
        self.url = ""
        self.port = 0

    async def start(self) -> None:
        await self.server.start()
        self.url = self.server.url
        self.port = urlsplit(self.url).port or 0

    def token(self, subject: str = "ann", allow: Sequence[str] = ALL, *, ttl_s: int = 3600, **more: Any) -> str:
        key = SigningKey("main", "HS256", SECRET.encode())
        return sign_token(
            key, subject=subject, audience="pushwire", issuer="pushwire", now=self.clock.now(), allow=tuple(allow),
            ttl_s=ttl_s, **more,
        )  # fmt: skip

    async def step(self, seconds: float) -> None:
        """Time passes, every timer and check happens, and what follows from it is durable."""
        self._stepped.run_until(self.clock.now() + seconds)
        for session in list(self.server.gateway.sessions):
            session.check(self.clock.now())
        for _ in range(3):  # a lease that runs out is stored before its retry is due
            await self.settled()
            self._stepped.run_until(self.clock.now() + 0.02)

    async def settled(self) -> None:
        """Everything given to the store is durable, and whoever waits for it has been told."""
        await self.server.engine.settled(asyncio.get_running_loop().time() + PATIENCE_S)

    async def until(self, done: Callable[[], bool]) -> None:
        """Let the loop turn until this holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not done():  # noqa: ASYNC110 - see below
                await asyncio.sleep(0)  # a turn, no time: there is no event for what many parts do together


@asynccontextmanager
async def whole_gateway(data: Path | None = None, **settings: Any) -> AsyncIterator[WholeGateway]:
    """A gateway over this data directory; None: over a store in memory."""
    gateway = WholeGateway(data, **settings)
    await gateway.start()
    try:
        yield gateway
    finally:
        assert await asyncio.wait_for(gateway.server.drain(), PATIENCE_S) == 0
