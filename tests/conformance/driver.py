"""A seeded stream of everything a gateway may do to a store, with the model listening.

Owns the choices only. Work is left under way on purpose: demand changes, groups are forgotten and retries fall due
while batches and scans are queued, and the inline store is killed at every point of a transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from conformance.choices import TOPICS, Choices
from conformance.harness import World
from conformance.listener import Listener
from conformance.model import Model
from conformance.tables import check_tables
from pushwire_storage.base import Batch, Dead, DeleteGroup, DeleteTopic, Done, Group, Message, Settlement, Topic
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.memory import MemoryStore
from pushwire_storage.planning import SEQ_MAX, TOPIC_SHIFT
from pushwire_storage.sqlite import DATABASE

QUOTA_MESSAGES = 60
FAR_MS = 10**9
LETTERS = "SELECT number FROM dead_letters WHERE topic_id = ? ORDER BY number"
KEPT = "SELECT pos FROM messages WHERE pos > ? AND pos <= ?"


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
            dead_letters_keep_s=1e9,
            **({} if kind == "memory" else {"durability": "relaxed", "wal_bytes_max": 1 << 16}),
        )
        self.model = Model(QUOTA_MESSAGES)
        self.listener = Listener(self.model, self._arrived, self._expired)
        self._pass_time(0)
        self.world.consumer = self.listener
        self.world.on_batch = self._committed
        self.restless = True
        """Whether callbacks change the demand."""
        self.outstanding: asyncio.Future[Batch] | None = None
        self.batch = Batch()
        self.hands: dict[tuple[str, str, int], Message] = {}
        """(topic, group, seq) -> the message that arrived, to be settled some time."""
        self.lapsed: list[tuple[Group, Message]] = []
        """Said to have expired; to be settled soon."""
        self.frozen: set[tuple[str, str]] = set()
        """(topic, group) that a change under way concerns: their lanes stay closed."""
        self.failures: list[BaseException] = []
        self.arrivals = 0
        """Messages that arrived, in all."""
        self.choices = Choices(self.random, self)

    # -- what the store says

    def _arrived(self, group: Group, priority: int, messages: Sequence[Message]) -> None:
        self.arrivals += len(messages)
        for message in messages:
            self.hands[(group.topic.name, group.name, message.seq)] = message
        if self.restless and self.random.random() < 0.2:
            self.want(group)

    def _expired(self, group: Group, message: Message) -> None:
        self.lapsed.append((group, message))

    def _committed(self, batch: Batch) -> None:
        assert batch.error is None
        self._model_committed(batch, receipts=True)
        self.listener.committed()
        self._compare()
        self.frozen.clear()
        if self.restless and self.random.random() < 0.3:
            self.want()

    def _model_committed(self, batch: Batch, *, receipts: bool) -> None:
        before = set(self.model.topics)
        self.model.committed(batch, receipts=receipts)
        for name in before - set(self.model.topics):
            self.listener.dropped(name, None)
            self.listener.watched.discard(name)
        for change in batch.changes:
            for name, group in self.choices.concerns(change):
                self.listener.dropped(name, group)

    def _compare(self) -> None:
        """What the store keeps in fact."""
        for topic in self.topics():
            if topic.name in self.model.topics:
                floor = self.model.topics[topic.name].floor
                low, high = topic.id << TOPIC_SHIFT, (topic.id + 1 << TOPIC_SHIFT) - 1
                found = {pos & SEQ_MAX for (pos,) in self._rows(KEPT, (low, high))}
                letters = [number for (number,) in self._rows(LETTERS, (topic.id,))]
                self.model.found(topic.name, {seq for seq in found if seq > floor}, letters)

    def _rows(self, sql: str, values: tuple[int, ...]) -> list[tuple[int]]:
        store = self.world.store
        if isinstance(store, MemoryStore):
            assert store._connection is not None
            return list(store._connection.execute(sql, values))
        with closing(sqlite3.connect(f"file:{self.world.path / DATABASE}?mode=ro", uri=True)) as connection:
            return list(connection.execute(sql, values))

    # -- the run

    async def run(self, steps: int) -> None:
        asyncio.get_running_loop().set_exception_handler(self._failed)
        await self.world.open()
        self.outstanding = None
        for _ in range(steps):
            outcome = self.random.choice(self._actions())()
            if isinstance(outcome, Awaitable):
                await outcome
            self._check_callbacks()
        await self.settle_down()
        self._check_callbacks()
        await self.world.close()
        if self.world.persistent:
            check_tables(self.world.path)

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(context.get("exception") or AssertionError(context["message"]))

    def _check_callbacks(self) -> None:
        """What a callback raises does not come out of the store."""
        for failure in self.failures:
            raise failure

    def _actions(self) -> list[Callable[[], object]]:
        often = [self.write] * 5 + [self.want] * 4 + [self.move] * 4
        return [*often, self.want_key, self.forget, self.due, self.rest, self.reopen, self.watch]

    # -- actions

    def write(self) -> None:
        if self.outstanding is not None and not self.outstanding.done():
            return
        settlements = [*self._settle_lapsed(), *self.choices.settlements()]
        changes = self.choices.changes()
        for change in changes:
            for topic, group in self.choices.concerns(change):
                self._close(topic, group, gone=isinstance(change, DeleteGroup | DeleteTopic))
        appends = [self.choices.append(topic) for topic in self.topics() for _ in range(self.random.randrange(3))]
        self.batch = Batch(changes=changes, appends=appends, settlements=settlements)
        self.outstanding = self.world.give(self.batch)

    def _settle_lapsed(self, share: float = 0.7) -> list[Settlement]:
        now: list[tuple[Group, Message]] = []
        later: list[tuple[Group, Message]] = []
        for each in self.lapsed:
            (now if self.random.random() < share else later).append(each)
        self.lapsed = later
        return [
            Dead(group, message, "expired", None, 0, 0, self.model.now_ms)
            if self.random.random() < 0.5
            else Done(group, [message])
            for group, message in now
        ]

    def _close(self, topic: str, group: str, *, gone: bool) -> None:
        """As the gateway does before a change that moves or removes the group."""
        self.frozen.add((topic, group))
        store_topic = self.world.store.topics[("t", topic)]
        self._forget(store_topic.groups[group])
        if gone:
            self.lapsed = [each for each in self.lapsed if each[0] is not store_topic.groups[group]]

    def want(self, group: Group | None = None) -> None:
        group = group or self._group()
        if group is not None and (group.topic.name, group.name) not in self.frozen:
            priority, count = self.random.choice([0, 1, 1, 3]), self.random.choice([0, 1, 2, 5, 50])
            self.listener.want(group, priority, count)
            self.world.store.want(group, priority, count)

    def want_key(self) -> None:
        lanes = list(self.listener.lanes)
        if lanes:
            topic, name, priority = self.random.choice(lanes)
            group = self.world.store.topics[("t", topic)].groups[name]
            after_seq, count = self.random.randrange(20), self.random.randrange(1, 5)
            self.listener.ask(group, priority, "k", after_seq, count)
            self.world.store.want_key(group, priority, "k", after_seq, count)

    def watch(self) -> None:
        for topic in self.topics():
            on = self.random.random() < 0.5
            (self.listener.watched.add if on else self.listener.watched.discard)(topic.name)
            self.world.store.watch(topic, on)

    def forget(self) -> None:
        group = self._group()
        if group is not None:
            self._forget(group)
            if self.random.random() < 0.5:
                self.want(group)

    def _forget(self, group: Group) -> None:
        self.listener.forget(group)
        self.hands = {key: each for key, each in self.hands.items() if key[:2] != (group.topic.name, group.name)}
        self.world.store.forget(group)

    def due(self) -> None:
        self._pass_time(self.random.choice([0, 10, 30, 30, 1_500]))
        self.world.store.due(self.world.now_ms)

    def _pass_time(self, ms: int) -> None:
        self.world.now_ms += ms
        self.listener.now_ms = self.world.now_ms

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
        await self._quiet()
        if not self._restless_work():
            store = self.world.store
            self.listener.check_at_rest(store.next_due_ms(), store.next_tick_ms())
        for topic in self.topics():
            await self._read(topic)

    async def _quiet(self) -> None:
        if self.outstanding is not None:
            await self.world.over(self.outstanding)
        await self.world.quiet()

    async def _read(self, topic: Topic) -> None:
        """A page of the topic, gaps and all."""
        after_seq, limit = self.random.randrange(30), self.random.choice([1, 3, 100])
        page = await self.world.store.read(topic, after_seq, limit)
        model = self.model.topics[topic.name]
        there = sorted(seq for seq in model.kept if seq > after_seq)
        got = [message.seq for message in page.messages]
        assert got == there[:limit]
        assert page.through == (got[-1] if len(got) == limit else max(after_seq, model.last_seq))
        gaps = {seq for low, high in page.gaps for seq in range(low, high + 1)}
        assert gaps == set(range(after_seq + 1, page.through + 1)) - set(got)
        assert all(before[1] + 1 < after[0] for before, after in zip(page.gaps, page.gaps[1:], strict=False))

    def _restless_work(self) -> bool:
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
            batch = self.world.given
            if self.hook.at in {"after_commit", "before_done"}:
                self._model_committed(batch, receipts=False)
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
        self.listener.reopened()
        self.hands.clear()
        self.lapsed.clear()
        self.frozen.clear()
        await self.world.open()
        self._compare()

    # -- what there is

    def topics(self) -> list[Topic]:
        return [topic for name in TOPICS if (topic := self.world.store.topics.get(("t", name)))]

    def _group(self) -> Group | None:
        groups = [group for topic in self.topics() for group in topic.groups.values()]
        return self.random.choice(groups) if groups else None

    # -- the end

    async def settle_down(self) -> None:
        """Everything that is owed must come, once; then again after a fresh open; and the books must be right."""
        self.restless = False
        await self._quiet()
        await self._everything_arrives()
        if self.world.persistent:
            await self.world.close()
            check_tables(self.world.path)
            await self._back()
            await self._everything_arrives()
        for topic in self.topics():
            self.model.check_books(topic)
            letters = await self.world.letters(topic)
            got = [(letter.group, letter.message.seq) for letter in letters]
            assert got == [(letter.group, letter.seq) for letter in self.model.topics[topic.name].dead]

    async def _everything_arrives(self) -> None:
        lanes = [(group, p) for topic in self.topics() for group in topic.groups.values() for p in (0, 1, 3)]
        self.random.shuffle(lanes)
        self._pass_time(FAR_MS)
        await self._end_ttls()
        for group, priority in lanes:
            self.listener.want(group, priority, 10_000)
            self.world.store.want(group, priority, 10_000)
        for _ in range(2):
            await self._end_ttls()
            self.world.store.due(self.world.now_ms)
        await self._end_ttls()
        for group, priority in lanes:
            assert not self.listener.missing(group, priority)
        self.listener.check_at_rest(self.world.store.next_due_ms(), self.world.store.next_tick_ms())
        for topic in self.model.topics.values():
            retained = {seq for seq, kept in topic.kept.items() if kept.loose and not kept.looked_at}
            assert not retained, "what retention has let go of is still there"
            assert not topic.too_large() or not topic.spared(), "more bytes are kept than are retained"

    async def _end_ttls(self) -> None:
        """As the gateway does: settle what has expired, in its hands or not, until nothing is left to do."""
        await self.world.tick(self.world.now_ms)
        while self.lapsed:
            await self.world.settle(*self._settle_lapsed(1.0))
            await self.world.tick(self.world.now_ms)
