"""A store in the hands of a test: batches awaited, arrivals recorded, nothing slept for. It checks nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pushwire_storage.base import (
    Append,
    Batch,
    Change,
    Consumer,
    Counts,
    CreateGroup,
    CreateTopic,
    DeadFilter,
    DeadLetter,
    Done,
    Group,
    Message,
    Page,
    Settlement,
    Topic,
    TopicConfig,
)
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.memory import MemoryStore
from pushwire_storage.sqlite import SqliteStore

START_MS = 1_700_000_000_000
KINDS = ("sqlite", "inline", "memory")
AnyStore = SqliteStore | InlineSqliteStore | MemoryStore
Arrivals = Callable[[Group, int, Sequence[Message], Counts | None], None]


class Ears:
    """The consumer of a world: it notes everything that a store says, in order."""

    def __init__(self, world: World) -> None:
        self._world = world

    def arrived(
        self,
        group: Group,
        priority: int,
        messages: Sequence[Message],
        counts: Counts | None,
        blocked: Sequence[tuple[int, str]],
    ) -> None:
        world = self._world
        world.turn.append("arrived")
        for index, each in enumerate(messages):
            deliveries, failures = counts[index] if counts else (0, 0)
            world.arrived.append((group.name, priority, each.seq, (deliveries, failures)))
            world.messages[(group.name, each.seq)] = each
        world.blocked += [(group.name, priority, *each) for each in blocked]
        if world.on_arrivals is not None:
            world.on_arrivals(group, priority, messages, counts)

    def caught_up(self, group: Group, priority: int, yes: bool) -> None:
        self._world.caught_up[(group.name, priority)] = yes

    def arrived_key(
        self, group: Group, priority: int, key: str, messages: Sequence[Message], counts: Counts | None, through: int
    ) -> None:
        self._world.turn.append("arrived_key")
        self._world.keys.append((group.name, priority, key, [each.seq for each in messages], through))

    def tailed(self, topic: Topic, messages: Sequence[Message]) -> None:
        self._world.turn.append("tailed")
        self._world.tailed += [(topic.name, each.seq) for each in messages]

    def expired(self, group: Group, messages: Sequence[Message]) -> None:
        self._world.turn.append("expired")
        self._world.expired += [(group.name, each.seq) for each in messages]
        self._world.messages |= {(group.name, each.seq): each for each in messages}

    def lapsed(self, group: Group, messages: Sequence[Message]) -> None:
        self._world.turn.append("lapsed")
        self._world.lapsed += [(group.name, each.seq) for each in messages]

    def turn_over(self) -> None:
        self._world.turn.append("turn_over")


def message(id: str, data: bytes = b'{"n":1}', priority: int = 1, **fields: Any) -> Message:
    return Message(id, data, START_MS, priority=priority, **fields)


class World:
    """One store of one kind, opened as often as the test likes."""

    def __init__(self, kind: str, path: Path, **settings: Any) -> None:
        self.kind = kind
        self.path = path
        self.settings = settings
        self.now_ms = START_MS
        self.caught_up: dict[tuple[str, int], bool] = {}
        """(group, priority) -> whether nothing of it lies on the disk, as the store last said."""
        self.arrived: list[tuple[str, int, int, tuple[int, int]]] = []
        """(group, priority, seq, counts) in the order of arrival."""
        self.messages: dict[tuple[str, int], Message] = {}
        """(group, seq) -> the message as it arrived last."""
        self.blocked: list[tuple[str, int, int, str]] = []
        """(group, priority, seq, key)."""
        self.keys: list[tuple[str, int, str, list[int], int]] = []
        """(group, priority, key, seqs, through): the answers to `want_key`."""
        self.tailed: list[tuple[str, int]] = []
        self.expired: list[tuple[str, int]] = []
        self.lapsed: list[tuple[str, int]] = []
        self.turn: list[str] = []
        """The names of the calls, in order."""
        self.on_arrivals: Arrivals | None = None
        self.consumer: Consumer = Ears(self)
        self.on_batch: Callable[[Batch], None] | None = None
        """Called before the batch's own `done`."""
        self.given = Batch()
        """The last batch that was written."""

    @property
    def persistent(self) -> bool:
        return self.kind != "memory"

    async def open(self, **settings: Any) -> None:
        self.settings |= settings
        if self.kind == "memory":
            limits = {name: value for name, value in self.settings.items() if name != "busy_timeout_s"}
            self.store: AnyStore = MemoryStore(**limits)
        elif self.kind == "sqlite":
            self.store = SqliteStore(self.path, **self.settings)
        else:
            self.store = InlineSqliteStore(self.path, **self.settings)
        await self.store.open(self.consumer, self.now_ms)

    async def reopen(self, **settings: Any) -> None:
        await self.store.close()
        await self.open(**settings)

    async def close(self) -> None:
        await self.store.close()

    # -- batches

    def give(self, batch: Batch, done: Callable[[Batch], None] | None = None) -> asyncio.Future[Batch]:
        """Write the batch without waiting for it."""
        over: asyncio.Future[Batch] = asyncio.get_running_loop().create_future()
        batch.now_ms = batch.now_ms or self.now_ms
        self.given = batch

        def finished(batch: Batch) -> None:
            over.set_result(batch)
            if self.on_batch is not None:
                self.on_batch(batch)
            if done is not None:
                done(batch)

        self.store.write(batch, finished)
        return over

    def give_batch(self) -> asyncio.Future[Batch]:
        """An empty batch, behind everything queued so far."""
        return self.give(Batch())

    async def commit(self, *appends: Append, settle: Sequence[Settlement] = ()) -> Batch:
        return await self.over(self.give(Batch(appends=list(appends), settlements=list(settle))))

    async def over(self, given: asyncio.Future[Batch]) -> Batch:
        if isinstance(self.store, InlineSqliteStore):
            while self.store.pending():
                self.store.step()
        async with asyncio.timeout(20):
            return await given

    async def quiet(self) -> None:
        """Wait until every scan that anyone asked for is back: an empty batch goes behind those queued so far."""
        await self.commit()
        while self.store._feed._scans or self.store._feed._hungry:
            await self.commit()

    # -- shorthands

    async def topic(self, name: str = "orders", tenant: str = "t", **config: Any) -> Topic:
        change = CreateTopic(tenant, name, TopicConfig(**config))
        batch = await self.over(self.give(Batch(changes=[change])))
        assert batch.error is None
        assert change.result is not None
        return change.result

    async def change(self, *changes: Change) -> None:
        batch = await self.over(self.give(Batch(changes=[*changes])))
        assert batch.error is None

    async def tick(self, now_ms: int) -> None:
        """Let time pass: write empty batches as long as the store asks for them."""
        self.now_ms = max(self.now_ms, now_ms)
        await self.quiet()
        for _ in range(100):
            tick_ms = self.store.next_tick_ms()
            if tick_ms is None or tick_ms > self.now_ms:
                return
            await self.quiet()  # as the gateway does: what it is told is settled behind this
        raise AssertionError("the store never has enough")

    async def group(self, topic: Topic, name: str = "g", start: str | int | None = None) -> Group:
        change = CreateGroup(topic, name, start)
        batch = await self.over(self.give(Batch(changes=[change])))
        assert batch.error is None
        assert change.result is not None
        return change.result

    async def publish(self, topic: Topic, *ids: str, priority: int = 1, data: bytes = b'{"n":1}') -> list[Message]:
        return await self.send(topic, *(message(id_, data, priority) for id_ in ids))

    async def send(self, topic: Topic, *messages: Message) -> list[Message]:
        append = Append(topic, messages)
        batch = await self.commit(append)
        assert batch.error is None
        assert append.refused is None
        return list(messages)

    async def settle(self, *settlements: Settlement) -> Batch:
        batch = await self.commit(settle=settlements)
        assert batch.error is None
        return batch

    async def ack(self, group: Group, *messages: Message) -> None:
        await self.settle(Done(group, messages))

    async def want(self, group: Group, priority: int, count: int) -> list[int]:
        """Ask, wait, and return the seqs that came."""
        before = len(self.arrived)
        self.store.want(group, priority, count)
        await self.quiet()
        return self.seqs(before)

    async def due(self, now_ms: int) -> list[int]:
        self.now_ms = max(self.now_ms, now_ms)
        before = len(self.arrived)
        self.store.due(now_ms)
        await self.quiet()
        return self.seqs(before)

    def seqs(self, start: int = 0) -> list[int]:
        return [seq for _, _, seq, _ in self.arrived[start:]]

    async def kept(self, topic: Topic) -> list[int]:
        return [each.seq for each in (await self.page(topic)).messages]

    async def letters(self, topic: Topic, limit: int = 1_000) -> Sequence[DeadLetter]:
        return await self.store.catalog().dead_letters(topic, DeadFilter(), limit)

    async def page(self, topic: Topic, after_seq: int = 0) -> Page:
        return await self.store.read(topic, after_seq, 1_000_000)
