"""A whole gateway without a port: real engine, sessions and codec over a store in memory, with a stepped clock.

Clients are objects that say frames and see frames, each through the bytes of the wire. It tests nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, TypeVar

from pushwire.wire.frames import Auth, ClientFrame, Error, Messages, Ok, Tailed
from pushwire.wire.jsonv1 import JsonClientCodec, JsonServerCodec
from pushwire_gateway.admin import Admin
from pushwire_gateway.caps import Caps
from pushwire_gateway.engine import Engine
from pushwire_gateway.gateway import Gateway
from pushwire_gateway.outbox import Outbox
from pushwire_gateway.revocation import Revocations
from pushwire_gateway.rights import Principal
from pushwire_gateway.server import LateCatalog, make_throttle
from pushwire_gateway.session import Session
from pushwire_gateway.settings import load
from pushwire_gateway.tickets import Tickets
from pushwire_gateway.tokens import Tokens
from pushwire_storage.base import Message, StoreError

from .held_store import HeldStore
from .port import PATIENCE_S, SteppedClock
from .tokens import ISSUER, claims, token, verifier

F = TypeVar("F")
ALL = ["publish", "consume", "create", "replay", "admin"]


def cap(*allow: str, topics: str = "*", groups: str = "*") -> dict[str, Any]:
    return {"topics": [topics], "groups": [groups], "allow": list(allow or ALL)}


class Timer:
    def __init__(self, run: Callable[[], None]) -> None:
        self.run: Callable[[], None] | None = run

    def cancel(self) -> None:
        self.run = None


class SteppedLoop:
    """The engine's loop: what is to run soon runs soon, what is to run later when the clock has been stepped there."""

    def __init__(self, clock: SteppedClock) -> None:
        self._clock = clock
        self._timers: list[tuple[float, int, Timer]] = []
        self._serial = 0

    def call_soon(self, callback: Callable[[], None]) -> object:
        return asyncio.get_running_loop().call_soon(callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        self._serial += 1
        heappush(self._timers, (self._clock.now() + delay_s, self._serial, timer))
        return timer

    def run_until(self, end: float) -> None:
        while self._timers and self._timers[0][0] <= end:
            at, _, timer = heappop(self._timers)
            self._clock.time = max(self._clock.time, at)
            if timer.run is not None:
                timer.run()
        self._clock.time = end


class Client:
    """One WebSocket client, and the connection between it and its session."""

    ip = "192.0.2.7"

    def __init__(self, parts: Parts, principal: Principal | None) -> None:
        self._parts = parts
        self._codec = JsonClientCodec()
        self._server_codec = JsonServerCodec(Message)
        self.seen: list[Any] = []
        """Frames that came and were not asked for yet."""
        self.writes = 0
        self.welcome: Any = None
        """What greeted it, where somebody has read that already."""
        self.closed: int | None = None
        self.unsent_bytes = 0
        self._changed = asyncio.Event()
        self.outbox = Outbox(self._server_codec, self, parts.gateway.settings.outbox_bytes_max)
        self.session: Session = parts.gateway.make_session(
            self, self._server_codec, self.outbox, principal, parts.clock.now()
        )
        self.session.start(parts.clock.now())

    # --- Link ---

    def write(self, parts: Sequence[bytes]) -> None:
        self.writes += 1
        self.seen.extend(self._codec.feed(self._server_codec.join(parts)))
        self._changed.set()

    def authenticated(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        self.outbox.finish()
        self.closed = code
        self._changed.set()

    def abort(self) -> None:
        self.closed = 1006

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    # --- what a test does ---

    def say(self, *frames: ClientFrame) -> None:
        for frame in frames:
            assert self.closed is None
            self.session.receive(self._server_codec.feed(self._codec.encode(frame)), self._parts.clock.now())

    async def next(self, kind: type[F]) -> F:
        """The next frame, which must be of this kind."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.seen:
                self._changed.clear()
                await self._changed.wait()
        frame = self.seen.pop(0)
        assert isinstance(frame, kind), frame
        return frame

    async def ok(self, frame: ClientFrame) -> Ok:
        """Say this and be told that it is done."""
        self.say(frame)
        return await self.next(Ok)

    async def error(self, frame: ClientFrame) -> Error:
        """Say this and be refused."""
        self.say(frame)
        return await self.next(Error)

    async def delivered(self, count: int = 1) -> list[Any]:
        """So many deliveries, in however many frames."""
        got: list[Any] = []
        while len(got) < count:
            got += (await self.next(Messages)).deliveries
        assert len(got) == count, got
        return got

    async def shown(self, count: int = 1) -> list[int]:
        """The seqs of so many messages of a tail."""
        got: list[int] = []
        while len(got) < count:
            got += [message.seq for message in (await self.next(Tailed)).batch.messages]
        assert len(got) == count, got
        return got

    def lose(self) -> None:
        """The connection is gone."""
        self.closed = 1006
        self.session.closed(self._parts.clock.now())

    def stop_reading(self, unsent_bytes: int = 2 << 20) -> None:
        self.unsent_bytes = unsent_bytes
        self.outbox.hold()

    def read_again(self) -> None:
        self.unsent_bytes = 0
        self.outbox.release()
        self.session.writable(self._parts.clock.now())


class Parts:
    """The gateway and its surroundings."""

    def __init__(self, clock: SteppedClock | None = None, **settings: Any) -> None:
        self.clock = clock or SteppedClock()
        self.loop = SteppedLoop(self.clock)
        self.store = HeldStore()
        self.broken: list[StoreError] = []
        quiet = {"publish_per_s": 0, "publish_bytes_per_s": 0, "controls_per_s": 0, "ping_interval_s": 300}
        chosen = load(**{**quiet, **settings})
        revocations = Revocations(LateCatalog(self.store), ISSUER)
        judge = verifier("HS256", revoked=revocations.affected)
        self.tokens = Tokens(judge, None, revocations, Tickets(chosen.node), self.clock.now)
        self.engine = Engine(self.store, self.clock, self.loop, chosen, self.broken.append, rng=lambda: 0.5)
        throttle = make_throttle(chosen, self.clock)
        self.gateway = Gateway(chosen, self.clock, self.engine, throttle, self.tokens, Caps(chosen, 4096))
        self.admin = Admin(self.gateway)

    async def start(self) -> Parts:
        await self.engine.start()
        await self.tokens.start()
        self.gateway.start(self.loop)
        return self

    def token(self, subject: str = "ann", *caps: dict[str, Any], life_s: int = 3000, **more: Any) -> str:
        now = int(self.clock.now())
        rights = list(caps) or [cap()]
        return token(payload=claims(sub=subject, caps=rights, iat=now, exp=now + life_s, **more))

    def principal(self, subject: str = "ann", *caps: dict[str, Any], **more: Any) -> Principal:
        return self.tokens.verify(self.token(subject, *caps, **more), self.clock.now())

    def connect(self, principal: Principal | None) -> Client:
        """A connection as the handshake leaves it."""
        return Client(self, principal)

    async def client(self, subject: str = "ann", *caps: dict[str, Any], **more: Any) -> Client:
        """A client that has read its welcome."""
        client = self.connect(self.principal(subject, *caps, **more))
        client.welcome = await client.next(object)
        return client

    async def back(self, secret: str, subject: str = "ann", **more: Any) -> tuple[Client, Ok]:
        """A new connection that asks for a former session."""
        client = await self.client(subject)
        return client, await client.ok(Auth(self.token(subject), 99, secret, **more))

    def step(self, seconds: float) -> None:
        """Time passes, and every timer and check happens."""
        self.loop.run_until(self.clock.now() + seconds)
        for session in list(self.gateway.sessions):
            session.check(self.clock.now())

    async def elapse(self, seconds: float) -> None:
        """The same, and what follows from it: a lease that runs out is stored before its retry is due."""
        self.step(seconds)
        for _ in range(3):
            await self.settled()
            self.step(0.02)

    async def settled(self) -> None:
        """Everything given to the store is durable, and whoever waits for it has been told."""
        await self.engine.settled(asyncio.get_running_loop().time() + PATIENCE_S)
