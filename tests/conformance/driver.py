"""A seeded stream of everything a gateway may do to a store, with the model listening.

Owns the choices only. Work is left under way on purpose: demand changes, groups are forgotten and retries fall due
while batches and scans are queued, and the inline store is killed at every point of a transaction.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from conformance.harness import START_MS, World
from conformance.model import Model
from conformance.tables import check_tables
from pushwire_storage.base import (
    Append,
    Batch,
    Counted,
    CreateGroup,
    CreateTopic,
    Dead,
    Done,
    Group,
    Message,
    Retry,
    Settlement,
    Topic,
)
from pushwire_storage.inline import InlineSqliteStore

QUOTA_MESSAGES = 60
FAR_MS = START_MS + 10**9
TOPICS = ("one", "two")
GROUPS = ("a", "b", "c")


class Killed(BaseException):
    """The process ends here."""


class KillHook:
    """Ends the process when a transaction comes to the point named in `at`."""

    at: str | None = None

    def point(self, name: str) -> None:
        if name == self.at:
            raise Killed


class Driver:
    """One run."""

    def __init__(self, kind: str, path: Path, seed: int) -> None:
        self.random = Random(seed)
        self.hook = KillHook()
        # The window is longer than the run: forgetting has tests of its own.
        self.world = World(
            kind,
            path,
            hooks=self.hook,
            quota_messages=QUOTA_MESSAGES,
            dedupe_window_s=1e9,
            **({} if kind == "memory" else {"durability": "relaxed", "wal_bytes_max": 1 << 16}),
        )
        self.model = Model(QUOTA_MESSAGES)
        self.model.now_ms = START_MS
        self.world.on_arrivals = self._arrived
        self.restless = True
        """Whether callbacks change the demand."""
        self.outstanding: asyncio.Future[Batch] | None = None
        self.batch = Batch()
        self.sent: dict[str, list[Message]] = {name: [] for name in TOPICS}
        self.hands: dict[tuple[str, str, int], Message] = {}
        """(topic, group, seq) -> the message that arrived, to be settled some time."""

    def _arrived(self, group: Group, priority: int, messages: list[Message], counts: object) -> None:
        self.model.arrived(group, priority, messages, counts)
        for message in messages:
            self.hands[(group.topic.name, group.name, message.seq)] = message
        if self.restless and self.random.random() < 0.2:
            self.want(group)

    async def run(self, steps: int) -> None:
        await self.world.open()
        self.outstanding = None
        for _ in range(steps):
            actions = (
                [self.write] * 5 + [self.want] * 4 + [self.move] * 4 + [self.forget, self.due, self.rest, self.reopen]
            )
            outcome = self.random.choice(actions)()
            if outcome is not None:
                await outcome
        await self.settle_down()
        await self.world.close()

    # -- actions

    def write(self) -> None:
        if self.outstanding is not None and not self.outstanding.done():
            return
        self.batch = batch = Batch(
            changes=self._changes(),
            appends=[self._append(topic) for topic in self.topics() for _ in range(self.random.randrange(3))],
            settlements=[self._settlement() for _ in range(self.random.randrange(4)) if self.hands],
        )
        self.outstanding = self.world.give(batch, self._committed)

    def _committed(self, batch: Batch) -> None:
        assert batch.error is None
        self.model.committed(batch)
        if self.restless and self.random.random() < 0.3:
            self.want()

    def want(self, group: Group | None = None) -> None:
        group = group or self._group()
        if group is not None:
            priority, count = self.random.choice([0, 1, 1, 3]), self.random.choice([0, 1, 2, 5, 50])
            self.model.want(group, priority, count)
            self.world.store.want(group, priority, count)

    def forget(self) -> None:
        group = self._group()
        if group is not None:
            self.model.forget(group)
            self._drop(lambda topic, name: (topic, name) == (group.topic.name, group.name))
            self.world.store.forget(group)
            if self.random.random() < 0.5:
                self.want(group)

    def due(self) -> None:
        self.model.now_ms += self.random.randrange(30)
        self.world.now_ms = self.model.now_ms
        self.world.store.due(self.model.now_ms)

    async def move(self) -> None:
        """Let some of the work be done."""
        store = self.world.store
        if isinstance(store, InlineSqliteStore):
            for _ in range(self.random.randrange(4)):
                if store.pending():
                    await self._step(store)
                    if store is not self.world.store:
                        return  # killed
        elif self.outstanding is not None and self.random.random() < 0.7:
            await self.world.over(self.outstanding)

    async def rest(self) -> None:
        """Let all of it be done."""
        if self.outstanding is not None:
            await self.world.over(self.outstanding)
        await self.world.quiet()
        if not self.restless_work():
            self.model.check_at_rest(self.world.store.next_due_ms())

    def restless_work(self) -> bool:
        """Whether a callback of the last work has asked for more."""
        feed = self.world.store._feed
        return bool(feed._scans or feed._hungry)

    async def _step(self, store: InlineSqliteStore) -> None:
        self.hook.at = self.random.choice(
            [None] * 12 + ["before_begin", "before_commit", "after_commit", "before_done"]
        )
        try:
            store.step()
        except Killed:
            store.crash()
            if self.hook.at in {"after_commit", "before_done"}:
                self.model.committed(self.batch, receipts=False)
            await self._back()
        finally:
            self.hook.at = None

    async def reopen(self) -> None:
        if not self.world.persistent or self.random.random() < 0.7:
            return
        if isinstance(self.world.store, InlineSqliteStore) and self.random.random() < 0.5:
            self.world.store.crash()  # with work queued: it is lost
        else:
            await self.world.close()
        await self._back()

    async def _back(self) -> None:
        self.hook.at = None
        self.outstanding = None
        self.model.reopened()
        self.hands.clear()
        await self.world.open()

    # -- choices

    def topics(self) -> list[Topic]:
        return [topic for name in TOPICS if (topic := self.world.store.topics.get(("t", name)))]

    def _group(self) -> Group | None:
        groups = [group for topic in self.topics() for group in topic.groups.values()]
        return self.random.choice(groups) if groups else None

    def _changes(self) -> list[CreateTopic | CreateGroup]:
        changes: list[CreateTopic | CreateGroup] = []
        if self.random.random() < 0.2 or not self.topics():
            changes.append(CreateTopic("t", self.random.choice(TOPICS)))
        if self.topics() and self.random.random() < 0.2:
            start = self.random.choice(["earliest", "new", None])
            changes.append(CreateGroup(self.random.choice(self.topics()), self.random.choice(GROUPS), start))
        return changes

    def _append(self, topic: Topic) -> Append:
        messages = []
        for _ in range(self.random.randrange(1, 4)):
            old = self.sent[topic.name]
            if old and self.random.random() < 0.15:
                first = self.random.choice(old)
                data = first.data if self.random.random() < 0.8 else b"other"
                message = Message(first.id, data, START_MS, first.encoding, first.priority, first.key)
            else:
                id_ = f"{len(old)}-{self.random.randrange(1000)}"
                key = self.random.choice([None, None, "k"])
                message = Message(id_, b"x" * self.random.randrange(9), START_MS, 1, self.random.choice([0, 1, 3]), key)
                old.append(message)
            messages.append(message)
        return Append(topic, messages)

    def _settlement(self) -> Settlement:
        (topic, name, seq), message = self.random.choice(list(self.hands.items()))
        group = self.world.store.topics[("t", topic)].groups[name]
        now_ms = self.model.now_ms
        attempts = self.random.randrange(1, 9)
        kind = self.random.random()
        if kind < 0.2:
            due_ms = now_ms + self.random.randrange(-20, 60)
            del self.hands[(topic, name, seq)]
            return Retry(group, message, due_ms, attempts, attempts // 2)
        if kind < 0.3:
            return Counted(group, message, attempts, attempts // 2)
        if kind < 0.4:
            return Dead(group, message, "rejected", None, attempts, 0, now_ms)
        several = [each for key, each in self.hands.items() if key[:2] == (topic, name)]
        return Done(group, several[: self.random.randrange(1, 6)] + [message] * self.random.randrange(2))

    def _drop(self, matches: object) -> None:
        self.hands = {key: each for key, each in self.hands.items() if not matches(key[0], key[1])}

    # -- the end

    async def settle_down(self) -> None:
        """Everything that is owed must come, once; then again after a fresh open; and the books must be right."""
        self.restless = False
        if self.outstanding is not None:
            await self.world.over(self.outstanding)
        await self._everything_arrives()
        if self.world.persistent:
            await self.world.close()
            check_tables(self.world.path)
            await self._back()
            await self._everything_arrives()
        for topic in self.topics():
            self.model.check_books(topic)
            kept = await self.world.store.read(topic, 0, 10_000)
            assert [message.seq for message in kept] == sorted(self.model.topics[topic.name].kept)
            letters = await self.world.store.dead_letters(topic, 10_000)
            got = [(letter.group, letter.message.seq) for letter in reversed(letters)]
            assert got == self.model.topics[topic.name].dead

    async def _everything_arrives(self) -> None:
        lanes = [(group, p) for topic in self.topics() for group in topic.groups.values() for p in (0, 1, 3)]
        self.random.shuffle(lanes)
        self.model.now_ms = self.world.now_ms = FAR_MS
        for group, priority in lanes:
            self.model.want(group, priority, 10_000)
            self.world.store.want(group, priority, 10_000)
        for _ in range(2):
            await self.world.quiet()
            self.world.store.due(FAR_MS)
        await self.world.quiet()
        for group, priority in lanes:
            assert not self.model.missing(group, priority)
        self.model.check_at_rest(self.world.store.next_due_ms())
