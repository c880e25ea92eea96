"""A simulated producer: publishes, and repeats with the same id whatever was not clearly answered.

Owns what was asked and what was answered, and writes both into the history; judges nothing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass

from pushwire.wire.codes import DEFINITE_FAILURES
from pushwire.wire.frames import BINARY, JSON, TEXT, Draft, Error, Publish
from pushwire_gateway.clock import to_ms

from .node import Node
from .peer import Answer, Peer
from .world import World

OPEN_MAX = 3
"""Publishes without an answer yet."""


def fingerprint(encoding: int, data: bytes, headers: bytes | None, content_type: str | None, priority: int) -> str:
    """What must come out as it went in, except the key, which the history has beside it."""
    return hashlib.sha1(repr((encoding, data, headers, content_type, priority)).encode()).hexdigest()[:12]


def sha(draft: Draft) -> str:
    return fingerprint(draft.encoding, draft.data, draft.headers, draft.content_type, draft.priority)


@dataclass(frozen=True, slots=True)
class Style:
    """What the messages of a simulation are like: shares of them that have a key, a delay, a TTL."""

    keyed: float = 0.2
    keys: int = 3
    delayed: float = 0.0
    mortal: float = 0.0


class Batch:
    """Messages published together, under the ids they keep."""

    __slots__ = ("drafts", "topic")

    def __init__(self, topic: str, drafts: list[Draft]) -> None:
        self.topic = topic
        self.drafts = drafts


def times_of(draft: Draft) -> dict[str, int]:
    """When it may be delivered, as its producer asks for it."""
    times: dict[str, int] = {}
    if draft.due_ms is not None:
        times["delay_ns" if draft.due_ms < 0 else "due_ns"] = abs(draft.due_ms) * 1_000_000
    if draft.expires_ms is not None:
        times["ttl_ns"] = -draft.expires_ms * 1_000_000
    return times


class Producer(Peer):
    """Publishes `count` messages, and keeps at nearly every one until it has a clear answer."""

    def __init__(
        self, world: World, node: Node, tenant: str, name: str, topics: list[str], count: int, style: Style
    ) -> None:
        super().__init__(world, node, tenant, name)
        self._style = style
        self._own_topics = topics
        self._left_to_make = count
        self._made = 0
        self._again: deque[Batch] = deque()
        self._open = 0
        self._confirmed: list[tuple[str, Draft]] = []
        self._ops = 0
        world.at(world.between(0.05, 0.5), self._work)

    @property
    def done(self) -> bool:
        return not (self._again or self._open or (self._left_to_make and not self.calm))

    # --- what to say ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self.left:
            return
        if self.welcomed and self._open < OPEN_MAX and (batch := self._next()):
            self._publish(batch)
        self.world.at(self.world.between(0.01, 0.15 if self.calm else 0.4), self._work)

    def _next(self) -> Batch | None:
        world = self.world
        if self._again and (self.calm or world.chance(0.8)):
            return self._split(self._again.popleft())
        if self.calm:
            return None
        if self._confirmed and world.chance(0.12):
            return self._repeat()
        if self._left_to_make <= 0:
            return None
        count = min(self._left_to_make, world.rng.choice((1, 1, 2, 3, 6)))
        self._left_to_make -= count
        drafts = [self._make() for _ in range(count)]
        if world.chance(0.03):
            drafts.append(drafts[0])  # the same message twice in one frame
        return Batch(world.rng.choice(self._own_topics), drafts)

    def _split(self, batch: Batch) -> Batch:
        """What is repeated need not be repeated together."""
        if len(batch.drafts) > 1 and self.world.chance(0.3):
            self._again.append(Batch(batch.topic, batch.drafts[1:]))
            return Batch(batch.topic, batch.drafts[:1])
        return batch

    def _repeat(self) -> Batch:
        """An id that was confirmed long ago: with the same content, or wrongly with other."""
        topic, draft = self.world.rng.choice(self._confirmed)
        if self.world.chance(0.3):
            draft = Draft(draft.id, b'"other"', 0, JSON, draft.priority)
        return Batch(topic, [draft])

    def _make(self) -> Draft:
        world, rng = self.world, self.world.rng
        self._made += 1
        mid = f"{self.name}-{self._made}"
        size = rng.choice((4, 20, 60, 200, 700))
        text = f"{mid}:" + "x" * size
        encoding = rng.choice((JSON, JSON, JSON, TEXT, BINARY))
        data = b'"%b"' % text.encode() if encoding == JSON else text.encode()
        draft = Draft(mid, data, 0, encoding, rng.choice((0, 1, 1, 1, 2, 3)))
        style = self._style
        if world.chance(style.keyed):
            draft.key = f"k{rng.randrange(style.keys)}"
        if world.chance(style.delayed):
            delay_ms = rng.choice((10, 100, 700, 3000))
            draft.due_ms = -delay_ms if world.chance(0.7) else to_ms(world.clock_s) + delay_ms
        if world.chance(style.mortal):
            draft.expires_ms = -rng.choice((20, 300, 2000))
        if world.chance(0.1):
            draft.headers = b'{"trace":"%d"}' % self._made
        return draft

    # --- what is asked and answered -------------------------------------------------------------------------------

    def _publish(self, batch: Batch) -> None:
        self._open += 1
        self._ops += 1
        op = f"{self.name}:{self._ops}"
        q = self.q(batch.topic)
        for draft in batch.drafts:
            self.world.record("pub_inv", op=op, q=q, mid=draft.id, sha=sha(draft), key=draft.key, **times_of(draft))
        waiting = [True]

        def timeout() -> None:
            if waiting[0]:
                waiting[0] = False
                self._unclear(op, batch)

        def then(answer: Answer) -> None:
            if answer is not None:
                self._answered(op, batch, answer, late=not waiting[0])
            elif waiting[0]:
                self._unclear(op, batch)
            waiting[0] = False

        self.request(Publish(batch.topic, batch.drafts), then)
        self.world.at(self.world.between(0.2, 1.5), timeout)

    def _unclear(self, op: str, batch: Batch) -> None:
        self._open -= 1
        for draft in batch.drafts:
            self.world.record("pub_info", op=op, q=self.q(batch.topic), mid=draft.id)
        if self.calm or not self.world.chance(0.08):  # some give up, and never know
            self._again.append(batch)

    def _answered(self, op: str, batch: Batch, answer: Answer, *, late: bool) -> None:
        """A late answer counts too; the batch is being repeated already."""
        q = self.q(batch.topic)
        if not late:
            self._open -= 1
        if isinstance(answer, Error):
            definite = answer.code in DEFINITE_FAILURES
            for draft in batch.drafts:
                ev = "pub_fail" if definite else "pub_info"
                self.world.record(ev, op=op, q=q, mid=draft.id, code=answer.code)
            hopeless = self.calm and answer.code == "topic_full"  # a topic without groups stays full
            if (answer.retryable or not definite) and not (late or hopeless):
                self._again.append(batch)
            return
        assert answer is not None
        assert answer.receipts is not None, f"a publish was answered with {answer}"
        for draft, receipt in zip(batch.drafts, answer.receipts, strict=True):
            assert receipt.id == draft.id, "receipts come in the order of the messages"
            self.world.record("pub_ok", op=op, q=q, mid=draft.id, seq=receipt.seq, dup=receipt.duplicate)
            self._confirmed.append((batch.topic, draft))
