"""A store in the hands of a test: batches awaited, arrivals recorded, nothing slept for. It checks nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pushwire_storage.base import (
    Append,
    Arrivals,
    Batch,
    Counts,
    CreateGroup,
    CreateTopic,
    Done,
    Group,
    Message,
    Settlement,
    Topic,
)
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.memory import MemoryStore
from pushwire_storage.sqlite import SqliteStore

START_MS = 1_700_000_000_000
KINDS = ("sqlite", "inline", "memory")
AnyStore = SqliteStore | InlineSqliteStore | MemoryStore


def message(id: str, data: bytes = b'{"n":1}', priority: int = 1, **fields: Any) -> Message:
    return Message(id, data, START_MS, priority=priority, **fields)


class World:
    """One store of one kind, opened as often as the test likes."""

    def __init__(self, kind: str, path: Path, **settings: Any) -> None:
        self.kind = kind
        self.path = path
        self.settings = settings
        self.now_ms = START_MS
        self.arrived: list[tuple[str, int, int, tuple[int, int]]] = []
        """(group, priority, seq, counts) in the order of arrival."""
        self.messages: dict[tuple[str, int], Message] = {}
        """(group, seq) -> the message as it arrived last."""
        self.on_arrivals: Arrivals | None = None

    @property
    def persistent(self) -> bool:
        return self.kind != "memory"

    async def open(self, **settings: Any) -> None:
        self.settings |= settings
        if self.kind == "memory":
            limits = {name: value for name, value in self.settings.items() if name not in {"hooks", "busy_timeout_s"}}
            self.store: AnyStore = MemoryStore(**limits)
        elif self.kind == "sqlite":
            self.store = SqliteStore(self.path, **self.settings)
        else:
            self.store = InlineSqliteStore(self.path, **self.settings)
        await self.store.open(self._arrived, self.now_ms)

    async def reopen(self, **settings: Any) -> None:
        await self.store.close()
        await self.open(**settings)

    async def close(self) -> None:
        await self.store.close()

    def _arrived(self, group: Group, priority: int, messages: Sequence[Message], counts: Counts | None) -> None:
        for index, each in enumerate(messages):
            self.arrived.append((group.name, priority, each.seq, tuple(counts[index]) if counts else (0, 0)))
            self.messages[(group.name, each.seq)] = each
        if self.on_arrivals is not None:
            self.on_arrivals(group, priority, messages, counts)

    # -- batches

    def give(self, batch: Batch, done: Callable[[Batch], None] | None = None) -> asyncio.Future[Batch]:
        """Write the batch without waiting for it."""
        over: asyncio.Future[Batch] = asyncio.get_running_loop().create_future()
        batch.now_ms = batch.now_ms or self.now_ms

        def finished(batch: Batch) -> None:
            over.set_result(batch)
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

    async def topic(self, name: str = "orders", tenant: str = "t") -> Topic:
        change = CreateTopic(tenant, name)
        batch = await self.over(self.give(Batch(changes=[change])))
        assert batch.error is None
        assert change.result is not None
        return change.result

    async def group(self, topic: Topic, name: str = "g", start: str | None = None) -> Group:
        change = CreateGroup(topic, name, start)
        batch = await self.over(self.give(Batch(changes=[change])))
        assert batch.error is None
        assert change.result is not None
        return change.result

    async def publish(self, topic: Topic, *ids: str, priority: int = 1, data: bytes = b'{"n":1}') -> list[Message]:
        messages = [message(id_, data, priority) for id_ in ids]
        append = Append(topic, messages)
        batch = await self.commit(append)
        assert batch.error is None
        assert append.refused is None
        return messages

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
        return [each.seq for each in await self.store.read(topic, 0, 1_000_000)]
