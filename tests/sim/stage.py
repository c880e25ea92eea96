"""A stage for scenarios: one gateway of usual size, plain clients in any number, and faults that a scenario chooses.

Owns the set-up that all scenarios share, and bulk clients that do one thing. What is shown, scenarios.py says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

from pushwire.wire.frames import JSON, Ack, Draft, Messages, Ok, Publish, Subscribe
from pushwire_gateway.settings import Settings
from pushwire_storage.base import TopicConfig
from support.checker import Checker, Limits, Report

from . import network, peer
from .node import Node, StandIns
from .operator import Operator
from .peer import Answer, Peer
from .producer import sha, times_of
from .simulation import SLACK_NS
from .world import World

TENANT, TOPIC = "acme", "orders"
Q = f"{TENANT}/{TOPIC}"


class Stage:
    """A world, a node and a checker that hears every event as it happens."""

    def __init__(self, seed: int, folder: Path, limits: dict[str, Any], **settings: Any) -> None:
        quiet = {"publish_per_s": 0, "controls_per_s": 0, "token_lifetime_s_max": 86_400, "release_hold_s": 0.0}
        self.world = World(seed)
        self.settings = Settings.model_construct(**{**quiet, **settings})
        self.node = Node(self.world, folder, self.settings, limits)
        self.node.on_stop = self._start_again
        self.operator = Operator(self.world, self.node, 0.0)
        self.checker = Checker(
            Limits(self.settings.max_failures, self.settings.max_deliveries, 10**6, slack_ns=SLACK_NS)
        )
        self.world.sink = self.checker.feed

    def _start_again(self) -> None:
        self.world.at(0.3, self.node.start)

    def open(self, config: TopicConfig | None = None) -> None:
        """The gateway starts; the topic is there, configured."""
        self.node.start()
        self.operator.create(TENANT, TOPIC, config or TopicConfig())
        self.run(0.1)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, at most so long. Returns whether `until` came true."""

        def after() -> bool:
            if self.node.alive:
                self.node.tend()
            return until()

        self.world.run(self.world.clock_s + seconds, after)
        return until()

    def report(self) -> Report:
        return self.checker.report()


@contextmanager
def staged(seed: int, *, slow: bool = False, limits: dict[str, Any] | None = None, **settings: Any) -> Iterator[Stage]:
    """A stage on files of its own. `slow`: clients and connections look up once a minute, for simulated days."""
    base = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="pushwire-stage-", dir=base if base.is_dir() else None))
    stage = Stage(seed, folder, {"dedupe_window_s": 600, **(limits or {})}, **settings)
    stand_ins = StandIns(seed, stage.node, small=False)
    stand_ins.put_in(network, "KERNEL_BYTES", 1 << 20)
    stand_ins.put_in(network, "HIGH_BYTES", 1 << 16)
    if slow:
        stand_ins.put_in(network, "CHECK_S", 60.0)
        stand_ins.put_in(peer, "TICK_S", 60.0)
    try:
        with stand_ins:
            yield stage
    finally:
        if stage.node.alive:
            stage.node.store.crash()
        rmtree(folder, ignore_errors=True)


class Source(Peer):
    """Publishes drafts in order, a batch at a time, again until each is confirmed."""

    def __init__(self, stage: Stage, name: str, drafts: Iterator[Draft], batch: int, pause_s: float = 0.0) -> None:
        super().__init__(stage.world, stage.node, TENANT, name)
        self.lifetime_s = 86_400
        self.confirmed = 0
        self.done = False
        self.after_batch: Callable[[], None] = lambda: None
        self._drafts = drafts
        self._batch = batch
        self._pause_s = pause_s
        self._sent: list[Draft] = []
        self._number = 0
        self._busy = False

    def on_welcome(self) -> None:
        self._go_on()

    def on_lost(self) -> None:
        self._busy = False

    def _go_on(self) -> None:
        if not self.welcomed or self._busy or self.done:
            return
        if not self._sent:
            self._sent = [draft for _, draft in zip(range(self._batch), self._drafts, strict=False)]
            self.done = not self._sent
            if self.done:
                return
        self._busy = True
        self._number += 1
        op = f"{self.name}:{self._number}"
        for draft in self._sent:
            self.world.record("pub_inv", op=op, q=Q, mid=draft.id, sha=sha(draft), key=draft.key, **times_of(draft))
        self.request(Publish(TOPIC, self._sent), lambda answer: self._answered(op, answer))

    def _answered(self, op: str, answer: Answer) -> None:
        self._busy = False
        if isinstance(answer, Ok):
            assert answer.receipts is not None
            for draft, receipt in zip(self._sent, answer.receipts, strict=True):
                self.world.record("pub_ok", op=op, q=Q, mid=draft.id, seq=receipt.seq, dup=receipt.duplicate)
            self.confirmed += len(self._sent)
            self._sent = []
            self.after_batch()
        else:
            for draft in self._sent:
                self.world.record("pub_info", op=op, q=Q, mid=draft.id)
        self.world.at(self._pause_s, self._go_on)


class Sink(Peer):
    """One member of a group that acks what it is given after a while, and tells somebody of each."""

    def __init__(
        self, stage: Stage, name: str, prefetch: int, works_s: float, told: Callable[[Any, int], bool], grp: str = "g"
    ) -> None:
        """`told(draft, granted_ns)` says whether the message is to be acked."""
        super().__init__(stage.world, stage.node, TENANT, name)
        self.lifetime_s = 86_400
        self.subscribed = False
        self._prefetch = prefetch
        self._works_s = works_s
        self._told = told
        self._grp = grp

    def on_welcome(self) -> None:
        self.subscribed = False
        self.request(Subscribe(TOPIC, self._grp, "s", self._prefetch, 900_000), self._joined)

    def _joined(self, answer: Answer) -> None:
        self.subscribed = isinstance(answer, Ok)

    def on_lost(self) -> None:
        self.subscribed = False

    def on_messages(self, cid: str, frame: Messages) -> None:
        grants = self.world.grants
        leases = [x.lease for x in frame.deliveries if self._told(x.message, grants[x.lease])]
        if leases:
            self.world.at(self._works_s, lambda: self.send(Ack(leases)))


def text(mid: str, **fields: Any) -> Draft:
    """A small message."""
    return Draft(mid, b'"%b"' % mid.encode(), 0, JSON, **fields)
