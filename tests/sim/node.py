"""The gateway process of a simulation: real engine, sessions and store, a virtual loop, and a death at any moment.

Owns the life of a node: boot, crash, drain, restart on the same files, and when its disk answers. What server.py does
for a process is done here for a simulated one; no rule of the gateway is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pushwire_gateway import gateway as gateway_module
from pushwire_gateway import outbox as outbox_module
from pushwire_gateway import session as session_module
from pushwire_gateway import sessions as sessions_module
from pushwire_gateway import tails as tails_module
from pushwire_gateway.auth import TokenVerifier, VerifyKey, build_ring
from pushwire_gateway.caps import Caps
from pushwire_gateway.core import model as core
from pushwire_gateway.engine import Engine
from pushwire_gateway.gateway import Gateway
from pushwire_gateway.revocation import Revocations
from pushwire_gateway.rights import Principal
from pushwire_gateway.server import LateCatalog, make_throttle
from pushwire_gateway.session import Leases, Session
from pushwire_gateway.settings import Settings
from pushwire_gateway.tickets import Tickets
from pushwire_gateway.tokens import Tokens
from pushwire_storage.base import (
    Change,
    Counts,
    DeleteGroup,
    Group,
    Message,
    StoreBroken,
    StoreBusy,
    StoreError,
    StoreFull,
)
from support.judges import FOREVER
from support.tokens import AUDIENCE, ISSUER, SECRET

from .coroutines import Asyncio, SlowReads, Task
from .network import HIGH_BYTES, LOW_BYTES, ServerEnd, Wire
from .world import SeededSecrets, Timer, World, ns

VERIFIER_KEY = VerifyKey("HS256", "HS256", SECRET)
POINTS = ("before_begin", "before_commit", "after_commit", "before_done")


class Killed(BaseException):
    """The process dies here. Not an Exception, so that nothing of the gateway can catch it."""


@dataclass
class Faults:
    """What goes wrong in this node's disk, and how slow it is."""

    refuse: float = 0.0  # chance that a transaction is rolled back whole: disk full, or a foreign writer
    breaks: float = 0.0  # chance that a COMMIT's outcome cannot be told
    slow: float = 0.0  # chance that a step takes long
    step_s_max: float = 0.004  # how long one takes otherwise, at most
    kill_at: str | None = None  # the next time this point is reached, the process dies
    fired: dict[str, int] = field(default_factory=dict)


class WatchedSession(Session):
    """A session that notes when, by the gateway's own clock, it was handed messages and when it was gone."""

    __slots__ = ("cid", "world")
    cid: str
    world: World

    def push(self, sub: core.Subscription, deliveries: list[core.Pending], now: float) -> None:
        assert len(sub.leases) <= sub.prefetch, f"{sub.name} holds {len(sub.leases)} of {sub.prefetch}"
        for pending in deliveries:
            self.world.grants[pending.lease] = ns(now)
        super().push(sub, deliveries, now)

    def _resume_session(self, frame: Any, principal: Principal, now: float) -> Leases | None:
        leases = super()._resume_session(frame, principal, now)
        if leases is not None and self._held is not None:
            subs = {
                name: [f"{principal.tenant}/{sub.group.handle.topic.name}", sub.group.handle.name, list(sub.leases)]
                for name, sub in self._held.core.subs.items()
            }
            self.world.record("con_resume", cid=self.cid, subs=subs)
        return leases

    def _leave(self, *, drained: bool, grace: bool = False) -> None:
        held, known = self._held, not self.ended
        super()._leave(drained=drained, grace=grace)
        if known:
            away = None if held is None else held.core.away_until
            self.world.record("con_close", cid=self.cid, until=None if away is None else ns(away))


class WatchedEngine(Engine):
    """An engine that tells when it has been at work: only then is there something new to look at."""

    touched = False
    world: World
    _full: frozenset[tuple[Group, int]] = frozenset()

    def turn(self) -> None:
        self.touched = True
        super().turn()
        # By now the store has been told how much is wanted; within a turn every lane may still be given its share.
        core = self.core
        self._full = frozenset(
            (handle, lane.priority)
            for handle, group in (core._groups.items() if core._ready.tight else ())
            for lane in group.lanes
            if len(lane)
        )

    def watch_changes(self) -> None:
        """A group that is deleted, perhaps by itself, owes nothing any more; one of the same name begins anew. So does
        one that the core lets go of."""
        change, reset = self.batcher.change, self.core.reset

        def let_go(group: Group, now: float) -> None:
            self.world.record("grp_reset", q=f"{group.topic.tenant}/{group.topic.name}", grp=group.name, floor=0)
            reset(group, now)

        vars(self.core)["reset"] = let_go

        def noted(what: Change, done: Callable[[StoreError | None], None]) -> None:
            if isinstance(what, DeleteGroup):
                q = f"{what.group.topic.tenant}/{what.group.topic.name}"
                self.world.record("grp_reset", q=q, grp=what.group.name, floor=FOREVER)
            change(what, done)

        vars(self.batcher)["change"] = noted

    def unsubscribe(self, session: core.Session, subs: Sequence[core.Subscription]) -> None:
        leases = [lease for sub in subs for lease in sub.leases]
        if leases:
            self.world.record("over", leases=leases, why="parted")
        super().unsubscribe(session, subs)

    def arrived(
        self,
        group: Group,
        priority: int,
        messages: Sequence[Message],
        counts: Counts | None,
        blocked: Sequence[tuple[int, str]],
    ) -> None:
        full = (group, priority) in self._full
        assert not full or not messages, f"{len(messages)} more for a lane of {group.name}, and memory is full"
        super().arrived(group, priority, messages, counts, blocked)


class Loop:
    """The event loop of one incarnation: what it was to run dies with it."""

    def __init__(self, world: World) -> None:
        self.alive = True
        self._world = world

    def call_soon(self, callback: Callable[[], None]) -> Timer:
        return self.call_later(0.0, callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return self._world.at(delay_s, lambda: callback() if self.alive else None)

    def create_task(self, work: Any) -> Task:
        return Task(self, work)


class Node:
    """One gateway over one directory, through all its lives."""

    def __init__(self, world: World, path: Path, settings: Settings, store_limits: dict[str, Any]) -> None:
        self.world = world
        self.settings = settings
        self.boot = 0
        self.alive = False
        self.loop = Loop(world)
        self.faults = Faults()
        self.ends: dict[str, ServerEnd] = {}
        self.on_stop: Callable[[], None] = lambda: None  # the files lie still: look at them
        self._path = path
        self._store_limits = store_limits
        self._step: Timer | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process starts on the files as they are."""
        self.boot += 1
        self.world.record("srv_start", boot=self.boot)
        self.loop = Loop(self.world)
        self.store = SlowReads(self.world, self._path, durability="relaxed", hooks=self, **self._store_limits)
        self.store.failing = self.faults.breaks > 0
        clock, settings = self.world, self.settings
        self.engine = WatchedEngine(self.store, clock, self.loop, settings, self._broken, self.world.rng.random)
        self.engine.world = self.world
        self.engine.watch_changes()
        _finish(self.engine.start())
        throttle = make_throttle(settings, clock)
        tokens = self._tokens()
        _finish(tokens.start())
        self.gateway = Gateway(settings, clock, self.engine, throttle, tokens, Caps(settings, 4096))
        self.gateway.start(self.loop)
        self.alive = True

    def _tokens(self) -> Tokens:
        settings = self.settings
        revocations = Revocations(LateCatalog(self.store), ISSUER)
        verifier = TokenVerifier(
            build_ring([VERIFIER_KEY]),
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway_s=settings.token_leeway_s,
            lifetime_s_max=settings.token_lifetime_s_max,
            revoked=revocations.affected,
        )
        return Tokens(verifier, None, revocations, Tickets(settings.node), self.world.now)

    def crash(self, why: str) -> None:
        """The process dies, its queued work with it."""
        if not self.alive:
            return
        self.world.record("srv_kill", boot=self.boot, why=why)
        self._gone()
        self.store.crash()
        self.on_stop()

    def drain(self, then: Callable[[], None]) -> None:
        """What `Server.drain` does: goodbye to all, finish what was promised, close the files."""
        self.gateway.drain(lambda: 0)
        self._finish_drain(then)

    def _finish_drain(self, then: Callable[[], None]) -> None:
        if not self.engine.batcher.idle and self.engine.batcher.broken is None:
            self.later(0.01, lambda: self._finish_drain(then))
            return
        self.gateway.stop()
        self.engine.stop()
        _finish(self.store.close())
        self.world.record("srv_exit", boot=self.boot)
        self._gone()
        self.on_stop()
        then()

    def _gone(self) -> None:
        self.alive = self.loop.alive = False
        self.faults.kill_at = None
        ends, self.ends = self.ends, {}
        for end in ends.values():
            end.lose()

    def _broken(self, error: StoreError) -> None:
        """The store can no longer be trusted: the process ends, in its next turn."""
        self.world.note("broken", error=error)
        self.soon(lambda: self.crash("broken"))

    # --- its loop and its disk ------------------------------------------------------------------------------------

    def now(self) -> float:
        return self.world.clock_s

    def soon(self, callback: Callable[[], None]) -> None:
        self.loop.call_soon(callback)

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.loop.call_later(delay_s, callback)

    def tend(self) -> None:
        """After each callback: the disk has work, and will be done with it in its own time."""
        if self.alive and self._step is None and self.store.pending():
            world = self.world
            slow = self.faults.slow and world.chance(self.faults.slow)
            delay_s = world.between(0.05, 0.4) if slow else world.between(0.0001, self.faults.step_s_max)
            loop = self.loop
            self._step = world.at(delay_s, lambda: self._do_step(loop))

    def _do_step(self, loop: Loop) -> None:
        self._step = None
        if not loop.alive:
            return
        try:
            self.engine.touched = True
            self.store.step()
        except Killed as death:
            self.crash(str(death))

    def point(self, name: str) -> None:
        """The store's hook: here transactions fail, and processes die."""
        faults, world = self.faults, self.world
        if name == faults.kill_at:
            raise Killed(name)
        if name in {"before_begin", "before_commit"} and faults.refuse and world.chance(faults.refuse):
            raise StoreFull("disk full") if world.chance(0.5) else StoreBusy("locked")
        if name in {"before_commit", "after_commit"} and faults.breaks and world.chance(faults.breaks):
            raise StoreBroken("I/O error")

    # --- connections ----------------------------------------------------------------------------------------------

    def accept(self, wire: Wire, token: str | None) -> bool:
        """A client connects. False: nobody listens, or there are too many."""
        if not self.alive or self.gateway.draining:
            return False
        admission = self.gateway.caps.connect("192.0.2.1")
        if isinstance(admission, str):
            return False
        end = wire.server = self.ends[wire.cid] = ServerEnd(self, wire, admission)
        end.start(token)
        return True

    def make_session(self, end: ServerEnd, principal: Principal | None, now: float) -> Session:
        session = WatchedSession(self.gateway, end, end.outbox, principal, now)
        session.cid, session.world = end.cid, self.world
        return session


def _finish(coroutine: Any) -> None:
    """Run a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the simulated store waited for an event loop")


class StandIns:
    """Module globals of the gateway that a simulation replaces while it runs: chance, the loop, and (`small`) limits
    that a few messages reach."""

    def __init__(self, seed: int, node: Node, *, small: bool = True) -> None:
        loop = Asyncio(lambda: node.loop)
        secrets = SeededSecrets(seed)
        self._new: list[tuple[Any, str, Any]] = [
            (session_module, "secrets", secrets),
            (sessions_module, "secrets", secrets),
            (tails_module, "asyncio", loop),
            (gateway_module, "asyncio", loop),
        ]
        if small:
            self._new += self._limits()
        self._old: list[tuple[Any, str, Any]] = []

    def _limits(self) -> list[tuple[Any, str, Any]]:
        return [
            (tails_module, "PAGE_MESSAGES_MAX", 5),
            (outbox_module, "TRANSPORT_HIGH_BYTES", HIGH_BYTES),
            (outbox_module, "TRANSPORT_LOW_BYTES", LOW_BYTES),
        ]

    def put_in(self, module: Any, name: str, value: Any) -> None:
        """One more, before the run."""
        self._new.append((module, name, value))

    def __enter__(self) -> None:
        for module, name, value in self._new:
            self._old.append((module, name, vars(module)[name]))
            vars(module)[name] = value

    def __exit__(self, *_: object) -> None:
        while self._old:
            module, name, value = self._old.pop()
            vars(module)[name] = value
