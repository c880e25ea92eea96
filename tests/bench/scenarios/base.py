"""What a scenario is: cases that the bench plans, and one measurement that the load generator makes.

Owns the shared vocabulary and the CPU meter. A scenario module has `cases(quick)` and `measure(load, params)`, and
knows no contestant.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.dialects import HELLO, Dialect, Plan, Talk
from bench.links import LoadError, Loop
from bench.processes import cpu_s
from bench.roles import Peer
from bench.stats import Ledger

CONNECT_S = 30
"""Until all connections of a measurement are open: 5,000 with a token each on one core, four times over."""
SETUP_S = 10
PREFETCH = 100
DRAIN_S = 10
"""From the last publish to the last delivery and confirmation: the backlog is bounded by roles.BACKLOG_MAX."""


STAGE_S = 130
"""For a stage, which may move a million messages."""


@dataclass(frozen=True)
class Metric:
    """One figure of a case."""

    name: str
    unit: str
    higher_is_better: bool
    by_load: bool = True
    """Whether a saturated load generator voids it (a memory figure it does not)."""


@dataclass(frozen=True)
class Case:
    """One line of the plan. `params` is what `measure` gets; `metrics` is what it must return."""

    scenario: str
    name: str
    params: dict[str, Any]
    metrics: Sequence[Metric]
    fresh: bool = False
    """Whether each round needs a broker that has just started."""
    connections: int = 0
    """Connections it opens, so that tokens and file descriptors are there."""
    stages: Sequence[str] = ()
    """Measurements that make one round, the broker started anew on its data before each but the first. The scenario's
    `figures` puts them together."""
    systems: Sequence[str] = ()
    """Only these contestants: the others have no such thing. Empty: all that are no bare limit."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Settings beside the contestant's own, for a fresh broker."""


@dataclass
class Load:
    """What a measurement works with."""

    loop: Loop
    dialect: Dialect
    topic: str
    tokens: Iterator[str | None]
    broker_pids: list[int]
    seed: int
    notes: dict[str, float] = field(default_factory=dict)
    plan: Plan = field(init=False)

    def __post_init__(self) -> None:
        self.plan = Plan(self.topic, ("default",), PREFETCH)

    def talk(self) -> Talk:
        """A new connection's conversation, under the plan of the moment."""
        return self.dialect.talk(self.plan)

    def prepare(self, groups: Sequence[str], prefetch: int, members: int = 1, *, acked: bool = True) -> None:
        """Say what the measurement is about to use, and let the broker know if its protocol wants that."""
        self.plan = Plan(self.topic, groups, prefetch, members, acked)
        talk = self.talk()
        requests = talk.setup(itertools.count(HELLO + 1))
        if not requests:
            return
        peer = Peer(self.loop, talk, "setup")
        self.connect([peer])
        peer.waiting.update(range(HELLO + 1, HELLO + 1 + len(requests)))
        peer.link.send(requests)
        self.wait(lambda: not peer.waiting, "preparations")

    def connect(self, peers: Sequence[Peer]) -> None:
        deadline = time.monotonic() + CONNECT_S
        self.loop.connect([(peer.link, next(self.tokens)) for peer in peers], deadline)
        for peer in peers:
            peer.greet()
        self.wait(lambda: not any(peer.waiting for peer in peers), "greetings")

    def wait(self, done: Callable[[], bool], what: str | Callable[[], str], within_s: float = SETUP_S) -> None:
        self.loop.run_until(done, time.monotonic() + within_s, what)

    def check(self, ledger: Ledger) -> None:
        """Raises LoadError unless every message arrived exactly once."""
        fault = ledger.fault()
        if fault:
            raise LoadError(fault)


class Meter:
    """CPU and wall time between two moments: the load generator's own share and the broker's seconds."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._wall = time.perf_counter()
        self._own = time.process_time()
        self._broker = cpu_s(load.broker_pids)
        self.wall_s = 0.0
        self.broker_s = 0.0

    def stop(self) -> None:
        """Close the interval and note the shares, as fractions of one core."""
        own = time.process_time() - self._own
        self.broker_s = cpu_s(self._load.broker_pids) - self._broker
        self.wall_s = time.perf_counter() - self._wall
        self._load.notes["load_cpu_share"] = own / self.wall_s
        self._load.notes["broker_cpu_share"] = self.broker_s / self.wall_s
