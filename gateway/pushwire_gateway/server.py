"""The composition root: store, engine, listener, signals, drain.

Owns the life of one gateway process from start to exit code. No rule lives here.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from pushwire_storage.base import Revocation, Store, StoreError
from pushwire_storage.memory import MemoryStore
from pushwire_storage.sqlite import SqliteStore

from .app import whole_app
from .caps import Caps
from .clock import AnchoredClock, Clock
from .engine import Engine, Loop
from .gateway import Gateway
from .listener import Listener
from .settings import Settings
from .throttle import Throttle
from .tokens import make_tokens

log = structlog.get_logger("pushwire")

EXIT_OK, EXIT_CONFIG, EXIT_BROKEN = 0, 3, 74
"""74 is EX_IOERR of sysexits: the disk failed, nothing was confirmed after it, start again."""
GOODBYE_SPREAD_MS = 3000
"""Clients told to come back are spread over this long, so that a restart is no stampede."""
ANSWER_SHARE = 0.25
"""Of a drain: the longest wait for the commit under way before anybody is told. Longer, by default, than a foreign
writer may hold the database (`BUSY_TIMEOUT_S`)."""
CLOSING_SHARE = 0.3
"""Of a drain: what is kept back from everybody else for the end of the store. While that is closed, a foreign writer is
waited for once more; by default this is longer than that by a second, for the disk and for connections that are cut."""

COLLECT_AFTER = (10_000, 5, 2)
"""Objects made and not yet gone after which the youngest are looked at, and how many such rounds for the older ones.
What is in flight comes and goes by thousands of objects without any garbage: with the usual 700 every swing is a
round, and the tenth of the tenth of them walks every topic, subscription and connection there is. A WebSocket that has
ended leaves nothing to be found."""


class _Loop:
    """The event loop as the engine knows it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.call_soon: Callable[[Callable[[], None]], object] = loop.call_soon
        self.call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle] = loop.call_later


def make_store(settings: Settings) -> Store:
    """The store that the settings name."""
    window_s = settings.dedupe_window_s
    messages, bytes_ = settings.topic_messages_max, settings.topic_bytes_max
    if settings.data == "memory:":
        return MemoryStore(dedupe_window_s=window_s, quota_messages=messages, quota_bytes=bytes_)
    return SqliteStore(
        Path(settings.data),
        durability=settings.durability,
        free_bytes_min=settings.free_bytes_min,
        ballast_bytes=settings.ballast_bytes,
        dedupe_window_s=window_s,
        quota_messages=messages,
        quota_bytes=bytes_,
    )


def make_throttle(settings: Settings, clock: Clock) -> Throttle:
    """The rate limits that the settings name."""
    return Throttle(
        clock.now,
        publish_per_s=settings.publish_per_s,
        publish_burst=settings.publish_burst,
        publish_per_s_max=settings.publish_per_s_max,
        publish_bytes_per_s=settings.publish_bytes_per_s,
        publish_bytes_burst=settings.publish_bytes_burst,
        connects_per_s_per_ip=settings.connects_per_s_per_ip,
        connects_burst_per_ip=settings.connects_burst_per_ip,
        connects_per_s=settings.connects_per_s,
        connects_burst=settings.connects_burst,
        controls_per_s=settings.controls_per_s,
        controls_burst=settings.controls_burst,
    )


class LateCatalog:
    """The revocations' part of a store's catalog, for who is made before the store is open."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def revoke(self, revocation: Revocation) -> None:
        await self._store.catalog().revoke(revocation)

    async def revocations(self) -> Sequence[Revocation]:
        return await self._store.catalog().revocations()


class Server:
    """One gateway: `start`, then `wait`, then `drain`."""

    def __init__(
        self, settings: Settings, store: Store | None = None, clock: Clock | None = None, loop: Loop | None = None
    ) -> None:
        """`loop` runs the gateway's own timers, on the time of `clock`; None: the event loop does."""
        self.settings = settings
        self.clock = clock or AnchoredClock()
        self._loop = loop
        self.store = store or make_store(settings)
        self.tokens = make_tokens(settings, LateCatalog(self.store), self.clock.now)
        self._stopping = asyncio.Event()
        self._failure: StoreError | None = None
        self.listener: Listener | None = None
        self.url = ""

    async def start(self) -> None:
        """Open the store, then the port. Raises StoreError, OSError."""
        loop = self._loop or _Loop()
        self.engine = Engine(self.store, self.clock, loop, self.settings, self._broken)
        await self.engine.start()
        await self.tokens.start()
        self.gateway = Gateway(
            self.settings,
            self.clock,
            self.engine,
            make_throttle(self.settings, self.clock),
            self.tokens,
            Caps(self.settings),
        )
        self.gateway.start(loop)
        listener = self.listener = Listener(self.gateway, whole_app(self.gateway, lambda: listener.stats))
        self.url = await listener.start()
        gc.collect()
        gc.freeze()  # what exists now lives as long as the process: no collection needs to look at it again
        log.info("gateway started", url=self.url, store=self.store.version, epoch=self.store.epoch)

    def _broken(self, error: StoreError) -> None:
        """The store can no longer be trusted: nothing is confirmed any more, and the process ends."""
        if self._failure is None:
            self._failure = error
            log.critical("store broken", error=str(error))
            self._stopping.set()

    def request_stop(self) -> None:
        """Begin the drain. Harmless when repeated."""
        self._stopping.set()

    def catch_signals(self) -> None:
        """SIGTERM, SIGINT and SIGHUP begin the drain; not the last under `nohup`, which asks to outlive its terminal.
        To be called before `start`: whoever reads that the gateway is ready may stop it at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.request_stop)

    async def wait(self) -> None:
        """Until a signal or a failure asks for the end."""
        await self._stopping.wait()

    async def drain(self) -> int:
        """Stop accepting, tell the clients, finish what was promised, close. Returns the exit code."""
        assert self.listener is not None  # `start` has returned
        if self._failure is not None:
            self.listener.abort()
            await self.tokens.close()
            await self.store.close()
            return EXIT_BROKEN
        log.info("draining", connections=len(self.gateway.sessions))
        self.gateway.draining = True
        began = asyncio.get_running_loop().time()
        deadline = began + self.settings.drain_s * (1 - CLOSING_SHARE)
        await self.listener.stop_accepting()
        # A goodbye ends the connection, so whoever waits for a receipt is answered first.
        await self.engine.committed(began + self.settings.drain_s * ANSWER_SHARE)
        self.gateway.drain(lambda: int(random.random() * GOODBYE_SPREAD_MS))
        await self.engine.settled(deadline)
        await self.listener.drain(deadline if self._exit_code() == EXIT_OK else began)
        self.gateway.stop()
        self.engine.stop()
        await self.tokens.close()
        await self.store.close()
        log.info("stopped")
        return self._exit_code()

    async def abandon(self) -> None:
        """Give up what `start` has taken: no drain, because nobody was served yet."""
        if self.listener is not None:
            self.listener.abort()
        await self.tokens.close()
        await self.store.close()

    def _exit_code(self) -> int:
        return EXIT_OK if self._failure is None else EXIT_BROKEN


async def serve(settings: Settings, ready: Callable[[Server], None] | None = None) -> int:
    """Run a gateway until it is told to stop. Returns the exit code; raises what `start` and `ready` raise."""
    gc.set_threshold(*COLLECT_AFTER)  # this process is ours alone; one that embeds a `Server` keeps its own
    server = Server(settings)
    server.catch_signals()
    try:
        await server.start()
        if ready is not None:
            ready(server)
    except BaseException:
        await server.abandon()
        raise
    await server.wait()
    return await server.drain()
