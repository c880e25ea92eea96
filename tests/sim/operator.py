"""A simulated administrator: configures topics, pauses, moves and purges groups, puts dead letters back.

Owns what is asked of the gateway's register of topics, and records it for the checker; it asks as the admin API does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from pushwire_storage.base import (
    CreateTopic,
    DeadFilter,
    DeadLetter,
    Discard,
    Group,
    PurgeTopic,
    Redrive,
    StoreError,
    Topic,
    TopicConfig,
)
from support.judges import FOREVER

from .node import Node
from .world import World

ALWAYS_MS = 10 * 366 * 24 * 3600 * 1000
LETTERS_MAX = 10


class Operator:
    """Acts now and then, until it is told to put everything right."""

    def __init__(self, world: World, node: Node, busy: float) -> None:
        self.world = world
        self.node = node
        self._busy = busy
        self._paused: dict[tuple[str, str, str], bool] = {}  # (tenant, topic, group) -> as it should be
        self._asked: Counter[tuple[str, str, str]] = Counter()
        if busy:
            world.at(1.0, self._work)

    def create(self, tenant: str, topic: str, config: TopicConfig) -> None:
        """Before anybody else comes: the topic is there, configured so."""
        q = f"{tenant}/{topic}"
        retain = FOREVER if config.retain_ms >= ALWAYS_MS else config.retain_ms * 1_000_000
        age = config.max_age_ms * 1_000_000
        self.world.record("topic", q=q, expired=config.expired, retain_ns=retain, age_ns=age)

        def ready(change: CreateTopic, error: StoreError | None) -> None:
            assert change.result is not None, f"the topic cannot be created: {error}"

        self.node.gateway.topics.create(tenant, topic, config, ready)

    def put_right(self) -> None:
        """Nothing stays paused. Again and again, until it is so: the gateway may be down, or its disk full."""
        self._busy = 0.0
        for (tenant, topic, name), paused in list(self._paused.items()):
            if not paused:
                continue
            found = self._find(tenant, topic, name) if self._ready() else None
            if found is not None:
                self._pause(found, paused=False)
        if any(self._paused.values()):
            self.world.at(0.5, self.put_right)

    def _ready(self) -> bool:
        return self.node.alive and not self.node.gateway.draining

    def _find(self, tenant: str, topic: str, name: str) -> Group | None:
        found = self.node.gateway.topics.find(tenant, topic)
        return None if found is None else self.node.gateway.topics.find_group(found, name)

    def _work(self) -> None:
        world = self.world
        if not self._busy:
            return
        if self._ready():
            topics = sorted(self.node.store.topics.values(), key=lambda topic: topic.id)
            if topics:
                self._act(world.rng.choice(topics), world.rng.random())
        world.at(world.between(0.1, 1.2) / self._busy, self._work)

    def _act(self, topic: Topic, dice: float) -> None:
        known = self.node.gateway.topics
        groups = [known.find_group(topic, name) for name in sorted(topic.groups)]
        group = self.world.rng.choice(groups) if groups else None
        if dice < 0.2:
            self._letters(topic, self._redrive)
        elif dice < 0.25:
            self._letters(topic, self._discard)
        elif dice < 0.32:
            self._purge(topic)
        elif group is None:
            return
        elif dice < 0.42:
            self._seek(group)
        elif dice < 0.7:
            key = (topic.tenant, topic.name, group.name)
            self._pause(group, paused=not self._paused.get(key, False))

    def _q(self, topic: Topic) -> str:
        return f"{topic.tenant}/{topic.name}"

    def _pause(self, group: Group, *, paused: bool) -> None:
        q, key = self._q(group.topic), (group.topic.tenant, group.topic.name, group.name)
        self._asked[key] += 1
        asked = self._asked[key]
        if paused:
            self._paused[key] = True
        else:
            self.world.record("grp_go", q=q, grp=group.name)

        def changed(error: StoreError | None) -> None:
            if error is not None or asked != self._asked[key]:
                return  # or the contrary has been asked for meanwhile
            if paused:
                self.world.record("grp_pause", q=q, grp=group.name)
            else:
                self._paused[key] = False

        self.node.gateway.topics.pause(group, paused, changed)

    def _seek(self, group: Group) -> None:
        last = group.topic.last_seq
        start = self.world.rng.randint(max(1, last - 8), last + 1)
        self.world.record("grp_reset", q=self._q(group.topic), grp=group.name, floor=start - 1)
        self.node.gateway.topics.seek(group, start, _whatever)

    def _purge(self, topic: Topic) -> None:
        through = self.world.rng.randint(0, topic.last_seq)
        self.world.record("grp_reset", q=self._q(topic), grp=None, floor=through)
        self.node.gateway.topics.purge(PurgeTopic(topic, through), _whatever)

    def _letters(self, topic: Topic, then: Callable[[Topic, list[DeadLetter]], None]) -> None:
        question = self.node.store.catalog().dead_letters(topic, DeadFilter(), LETTERS_MAX)
        letters: list[DeadLetter] = list(_answer(question))
        if letters:
            kept = self.world.rng.randint(1, len(letters))
            self.world.record("redrive_inv", q=self._q(topic), ids=[[x.group, x.message.seq] for x in letters[:kept]])
            then(topic, letters[:kept])

    def _redrive(self, topic: Topic, letters: list[DeadLetter]) -> None:
        change = Redrive(topic, [letter.id for letter in letters])

        def changed(error: StoreError | None) -> None:
            if error is None:
                pairs = zip(letters, change.seqs, strict=False)
                seqs = [[x.group, x.message.seq, seq, x.message.id] for x, seq in pairs if seq]
                self.world.record("redrive_ok", q=self._q(topic), seqs=seqs)

        self.node.gateway.topics.redrive(change, changed)

    def _discard(self, topic: Topic, letters: list[DeadLetter]) -> None:
        self.node.gateway.topics.discard(Discard(topic, [letter.id for letter in letters]), _whatever)


def configured(world: World) -> TopicConfig:
    """A topic's configuration: mostly none."""
    rng = world.rng
    changes: dict[str, Any] = {}
    if world.chance(0.2):
        changes["strict"] = True
    if world.chance(0.2):
        changes["weights"] = rng.choice(((1, 1, 1, 1), (8, 4, 2, 1)))
    if world.chance(0.3):
        changes["expired"] = "drop"
    if world.chance(0.3):
        changes["retain_ms"] = rng.choice((500, 3000, ALWAYS_MS))
    elif world.chance(0.15):
        changes["max_age_ms"] = rng.choice((1500, 6000))
    changes["ledger"] = rng.choice(("off", "off", "settled", "full"))
    return TopicConfig(**changes)


def _whatever(error: StoreError | None) -> None:
    """What became of it shows in what is delivered."""


def _answer(question: Any) -> Any:
    """The value of a coroutine that never waits."""
    try:
        question.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the simulated catalog waited for an event loop")
