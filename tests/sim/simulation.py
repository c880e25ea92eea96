"""One simulation: a seed becomes a gateway, its clients, their troubles and a verdict.

Owns the plan (what is small, who takes part, what goes wrong when) and the end: faults off, drain, check. Everything
random comes from the seed.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pushwire_gateway.core import keys, lanes
from pushwire_gateway.settings import Settings
from pushwire_storage.sqlite import DATABASE
from support.checker import Limits, check

from . import invariants
from .consumer import TEMPERS, Consumer, Want
from .disk import Disk, read_disk
from .follower import Follower
from .node import POINTS, Node, StandIns
from .operator import Operator, configured
from .peer import Peer
from .producer import Producer, Style, fingerprint
from .world import START_S, World, ns

TROUBLE_S = 7.0
"""How long clients and faults do as they like."""
DRAIN_S = 60.0
"""How long the rest may take once everybody behaves: far above every timeout and back-off of the plan together."""
SLACK_NS = 2_000_000
DISK_CHECK = 0.15
"""Share of the quiet moments in which memory is compared with the disk."""


@dataclass
class Result:
    seed: int
    problems: list[str]
    seen: Counter[str] = field(default_factory=Counter)
    figures: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    world: World | None = None

    @property
    def trace(self) -> list[str]:
        assert self.world is not None, "the run was cut short"
        return self.world.trace or []

    def digest(self) -> str:
        """Equal for equal runs."""
        assert self.world is not None, "the run was cut short"
        return self.world.digest()


class Simulation:
    """Everything of one seed."""

    def __init__(self, seed: int, folder: Path, *, tracing: bool = False) -> None:
        self.world = world = World(seed, tracing=tracing)
        self.seed = seed
        rng = world.rng
        self.settings = _settings(world)
        limits: dict[str, Any] = {"dedupe_window_s": 600}
        if world.chance(0.15):
            limits["quota_messages"] = rng.choice((6, 20))
        self.node = Node(world, folder, self.settings, limits)
        self.node.on_stop = self._look_at_disk
        self.calm = False
        self.ready_max = rng.choice((4, 8, 64, 4096))
        self.parked_max = rng.choice((1, 2, 4, 32))
        self.producers: list[Producer] = []
        self.consumers: list[Consumer] = []
        self.followers: list[Follower] = []
        self.operator = Operator(world, self.node, rng.choice((0.0, 0.0, 0.5, 1.0)))
        self._slow = rng.choice((0.0, 0.02, 0.2))
        self._refuse = rng.choice((0.0, 0.0, 0.1, 0.3))
        self._breaks = rng.choice((0.0, 0.0, 0.01))
        self._violence = rng.choice((0.0, 0.5, 1.0, 2.0))

    # --- who takes part -------------------------------------------------------------------------------------------

    def _people(self) -> None:
        world, rng = self.world, self.world.rng
        tenants = ["acme"] if world.chance(0.7) else ["acme", "blue"]
        topics = ["orders", "mail", "jobs"][: rng.choice((1, 1, 2, 3))]
        self._configure(tenants, topics)
        style = Style(
            rng.choice((0.2, 0.2, 0.9)), rng.choice((1, 3)), rng.choice((0.0, 0.0, 0.3)), rng.choice((0.0, 0.0, 0.3))
        )
        for number in range(rng.choice((1, 2, 3))):
            tenant = rng.choice(tenants)
            count = rng.choice((6, 15, 30))
            self.producers.append(Producer(world, self.node, tenant, f"p{number}", topics, count, style))
        groups = ["default", "audit", "copy"][: rng.choice((1, 1, 2, 3))]
        for number in range(rng.choice((1, 2, 3, 4, 5))):
            wants = [self._want(topics, groups) for _ in range(rng.choice((1, 1, 2)))]
            if number == 0 and world.chance(0.1):
                wants.append(Want(topics[0], "own", 4, 600, client_id="phone", inactive_ttl_ms=rng.choice((300, 3000))))
            temper = rng.choice(list(TEMPERS))
            consumer = Consumer(world, self.node, rng.choice(tenants), f"c{number}", temper, wants)
            if world.chance(0.2):
                consumer.lifetime_s = rng.choice((1, 2, 4))
            if world.chance(0.4):
                consumer.grace_ms = rng.choice((200, 1000, 3000))
            self.consumers.append(consumer)
        for number in range(rng.choice((0, 0, 1, 2))):
            start = rng.choice(("new", "earliest", 1, 4))
            tail = Follower(world, self.node, rng.choice(tenants), f"t{number}", rng.choice(topics), start)
            self.followers.append(tail)

    def _configure(self, tenants: list[str], topics: list[str]) -> None:
        """Some topics are there before anybody comes; the disk behaves until then."""
        for tenant in tenants:
            for topic in topics:
                if self.world.chance(0.5):
                    self.operator.create(tenant, topic, configured(self.world))
        self.world.run(self.world.clock_s + 0.1, self._after)
        faults = self.node.faults
        faults.slow, faults.refuse, faults.breaks = self._slow, self._refuse, self._breaks

    def _want(self, topics: list[str], groups: list[str]) -> Want:
        rng = self.world.rng
        start = rng.choice((None, None, None, "earliest", "new"))
        timeout_ms = rng.choice((100, 250, 600, 1500))
        return Want(rng.choice(topics), rng.choice(groups), rng.choice((1, 2, 4, 10)), timeout_ms, start)

    @property
    def people(self) -> list[Peer]:
        return [*self.producers, *self.consumers, *self.followers]

    # --- what goes wrong ------------------------------------------------------------------------------------------

    def _trouble(self) -> None:
        """Now and then something befalls somebody."""
        if self.calm:
            return
        world = self.world
        if self._violence:
            self._befall(world.rng.choice(self.people), world.rng.random())
            self._endanger(world.rng.random())
        world.at(world.between(0.05, 0.6) / max(self._violence, 0.5), self._trouble)

    def _befall(self, peer: Peer, dice: float) -> None:
        world, wire = self.world, peer.wire
        if wire is None:
            return
        if dice < 0.10:
            world.note("cut", cid=wire.cid)
            wire.cut()
        elif dice < 0.14:
            world.note("half-open", cid=wire.cid)
            wire.fall_silent()
        elif dice < 0.20:
            world.note("stops reading", cid=wire.cid)
            wire.stop_reading()
            world.at(world.rng.choice((0.2, 0.8, 30.0)), wire.read_again)
        elif dice < 0.23:
            peer.mute = not peer.mute

    def _endanger(self, dice: float) -> None:
        node, world = self.node, self.world
        if not node.alive or node.gateway.draining:
            return
        if dice < 0.03:
            node.crash("kill")
        elif dice < 0.07:
            node.faults.kill_at = world.rng.choice(POINTS)
        elif dice < 0.09:
            node.drain(lambda: None)

    def _look_at_disk(self) -> None:
        """The node has stopped: what does the disk say? Then it starts again."""
        disk = self._read()
        self.world.record("final", kind="counts", rows=disk.counts)
        self.world.record("final", kind="orphans", rows=disk.orphans)
        if not self.finished:
            self.world.at(self.world.between(0.05, 0.6), self.node.start)

    def _read(self) -> Disk:
        return read_disk(self.node._path / DATABASE, fingerprint)

    # --- the run --------------------------------------------------------------------------------------------------

    finished = False
    _owed_after = (0, 0)  # the disk owed something after this commit, so it does until the next
    _drain_done = False

    def run(self) -> Result:
        problems: list[str] = []
        stand_ins = StandIns(self.seed, self.node)
        stand_ins.put_in(lanes, "READY_MAX", self.ready_max)
        stand_ins.put_in(keys, "PARKED_MAX", self.parked_max)
        try:
            with stand_ins:
                self._run()
        except AssertionError as error:
            problems.append(f"assertion: {error}")
        except Exception as error:  # noqa: BLE001 - whatever the gateway raises fails the seed, and the run goes on
            problems += [f"exception: {error!r}", *traceback.format_tb(error.__traceback__)[-4:]]
        finally:
            if self.node.alive:
                self.node.store.crash()
        world = self.world
        limits = Limits(
            self.settings.max_failures,
            self.settings.max_deliveries,
            forgotten_max=self.settings.max_deliveries,  # the disk may refuse for long; what it knew must be honoured
            slack_ns=SLACK_NS,
        )
        report = check(world.history, limits)
        # A run that was cut short has no end to judge.
        problems += [] if problems else [f"{code} {text}" for code, text in report.violations]
        return Result(self.seed, problems, report.seen, report.figures, world.steps, world)

    def _run(self) -> None:
        world = self.world
        self.node.start()
        self._people()
        world.at(0.2, self._trouble)
        world.run(START_S + TROUBLE_S, self._after)
        self._calm_down()
        world.run(world.clock_s + DRAIN_S, self._after_calm)
        world.record("final", kind="drain", done=self._drain_done)
        self.finished = True
        if self.node.alive:
            self.node.crash("end") if world.chance(0.5) else self.node.drain(lambda: None)
            world.run(world.clock_s + 5.0, lambda: self._after() or not self.node.alive)
        assert not self.node.alive, "the drain of the gateway does not end"
        world.history += self._read().events(ns(world.clock_s))

    def _calm_down(self) -> None:
        """The faults are over. Whoever is there behaves from now on; some make room for others who come afresh."""
        self.calm = True
        node, world = self.node, self.world
        node.faults.refuse = node.faults.breaks = node.faults.slow = 0.0
        node.faults.kill_at = None
        for peer in self.people:
            peer.calm, peer.mute = True, False
        self.operator.put_right()
        if world.chance(0.5):
            for consumer in list(self.consumers):
                fresh = Consumer(
                    world, node, consumer.tenant, f"f{consumer.name}", "good", list(consumer.wants.values())
                )
                fresh.calm = consumer.left = True
                consumer.drop()
                self.consumers.append(fresh)

    def _after(self) -> bool:
        """After every step of the world."""
        node = self.node
        if node.alive:
            node.tend()
            if node.engine.touched:
                node.engine.touched = False
                invariants.check_memory(node)
                if not node.store.pending() and self.world.chance(DISK_CHECK):
                    invariants.check_disk(node)
        return False

    def _after_calm(self) -> bool:
        self._after()
        self._drain_done = self._drained()
        return self._drain_done

    def _drained(self) -> bool:
        node = self.node
        if not node.alive or not all(producer.done for producer in self.producers):
            return False
        commits = (node.boot, node.engine.batcher.commits)
        if commits == self._owed_after or not node.engine.batcher.idle:
            return False
        self._owed_after = commits
        return invariants.owed_count(node) == 0


def _settings(world: World) -> Settings:
    """Small enough that every limit is met."""
    rng = world.rng
    changes: dict[str, Any] = {
        "max_failures": 3,
        "max_deliveries": 6,
        "backoff_cap_s": 0.2,
        "backoff_cap_s_max": 1.0,
        "release_hold_s": rng.choice((0.0, 0.3)),
        "lease_age_s_max": rng.choice((0.8, 43_200.0)),
        "in_flight_bytes_max": rng.choice((300, 1000, 100_000)),
        "ready_bytes_max": rng.choice((3000, 20_000, 1 << 20)),
        "ping_interval_s": 1.0,
        "pong_timeout_s": 0.8,
        "write_stall_s": 1.0,
        "close_timeout_s": 0.5,
        "auth_timeout_s": 0.8,
        "token_leeway_s": rng.choice((0, 1)),
        "outbox_bytes_max": rng.choice((1500, 1 << 20)),
        "publish_per_s": rng.choice((0, 20)),
        "publish_burst": 10,
        "controls_per_s": rng.choice((0, 2)),
        "controls_burst": 6,
        "unhealthy_timeouts": rng.choice((4, 100)),
        "sessions_away_max": rng.choice((1, 100)),
        "batch_messages_max": rng.choice((3, 4096)),
        "batcher_messages_max": rng.choice((6, 65_536)),
        "malformed_per_minute": 1000,
    }
    return Settings.model_construct(**changes)


def simulate(seed: int, *, tracing: bool = False, folder: Path | None = None) -> Result:
    """Run one seed in a folder of its own, in memory where the machine has such a filesystem."""
    base = folder or Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="pushwire-sim-", dir=base if base.is_dir() else None))
    enabled = gc.isenabled()
    gc.disable()  # one seed makes little garbage; cycles are collected between seeds
    try:
        return Simulation(seed, path, tracing=tracing).run()
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if enabled:
            gc.enable()
