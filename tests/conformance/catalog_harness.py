"""A store in the hands of a test of its catalog: batches awaited, arrivals recorded. It checks nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pushwire_storage.base import (
    Append,
    Attempt,
    Batch,
    Catalog,
    Change,
    Counts,
    CreateGroup,
    CreateTopic,
    Dead,
    DeadFilter,
    DeadLetter,
    Event,
    Group,
    Message,
    Redrive,
    Settlement,
    Topic,
    TopicConfig,
)
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.memory import MemoryStore
from pushwire_storage.queries import Connection
from pushwire_storage.sqlite import DATABASE, Driver, SqliteStore
from support.idle_consumer import IdleConsumer

START_MS = 1_700_000_000_000
KINDS = ("sqlite", "inline", "memory")


class Recorder(IdleConsumer):
    """A consumer that writes down what it is given."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[str, Message, tuple[int, int]]] = []
        """(group, message, counts)"""
        self.tails: list[Message] = []

    def arrived(
        self,
        group: Group,
        priority: int,
        messages: Sequence[Message],
        counts: Counts | None,
        blocked: Sequence[tuple[int, str]],
    ) -> None:
        for index, message in enumerate(messages):
            deliveries, failures = counts[index] if counts else (0, 0)
            self.arrivals.append((group.name, message, (deliveries, failures)))

    def arrived_key(
        self, group: Group, priority: int, key: str, messages: Sequence[Message], counts: Counts | None, through: int
    ) -> None:
        self.arrived(group, priority, messages, counts, ())

    def tailed(self, topic: Topic, messages: Sequence[Message]) -> None:
        self.tails += messages

    def expired(self, group: Group, messages: Sequence[Message]) -> None:
        raise AssertionError("nothing expires here")

    def lapsed(self, group: Group, messages: Sequence[Message]) -> None:
        raise AssertionError("nothing expires here")

    def seqs(self, group: str) -> list[int]:
        return [message.seq for name, message, _ in self.arrivals if name == group]


class Shelves:
    """One store of one kind."""

    def __init__(self, kind: str, path: Path, **settings: Any) -> None:
        self.kind = kind
        self.path = path
        self.settings = settings
        self.now_ms = START_MS
        self.seen = Recorder()
        self.store: SqliteStore | InlineSqliteStore | MemoryStore

    @property
    def persistent(self) -> bool:
        return self.kind != "memory"

    @property
    def database(self) -> Path:
        return self.path / DATABASE

    @property
    def catalog(self) -> Catalog:
        return self.store.catalog()

    async def open(self) -> None:
        if self.kind == "memory":
            self.store = MemoryStore(**self.settings)
        elif self.kind == "sqlite":
            self.store = SqliteStore(self.path, **self.settings)
        else:
            self.store = InlineSqliteStore(self.path, **self.settings)
        self.seen = Recorder()
        await self.store.open(self.seen, self.now_ms)

    async def reopen(self) -> None:
        await self.store.close()
        await self.open()

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """The database itself, to look at or to damage."""
        if isinstance(self.store, MemoryStore):
            assert self.store._connection is not None
            yield self.store._connection
            return
        connection = Driver("sqlite3").connect(self.database, "rw", 5.0)
        try:
            yield connection
        finally:
            connection.close()

    def rows(self, sql: str) -> list[Any]:
        with self.connected() as connection:
            return connection.execute(sql).fetchall()

    # -- batches

    async def write(
        self,
        *changes: Change,
        appends: Sequence[Append] = (),
        settle: Sequence[Settlement] = (),
        events: Sequence[Event] = (),
    ) -> Batch:
        over: asyncio.Future[Batch] = asyncio.get_running_loop().create_future()
        batch = Batch([*changes], [*appends], [*settle], [*events], self.now_ms)
        self.store.write(batch, over.set_result)
        self.step()
        async with asyncio.timeout(20):
            await over
        assert batch.error is None
        return batch

    def step(self) -> None:
        if isinstance(self.store, InlineSqliteStore):
            while self.store.pending():
                self.store.step()

    async def quiet(self) -> None:
        """Wait until every scan that anyone asked for is back: an empty batch goes behind those queued so far."""
        await self.write()
        while self.store._feed._scans or self.store._feed._hungry:
            await self.write()

    async def topic(self, name: str = "orders", tenant: str = "t", **config: Any) -> Topic:
        change = CreateTopic(tenant, name, TopicConfig(**config))
        await self.write(change)
        assert change.result is not None
        return change.result

    async def group(self, topic: Topic, name: str = "a", start: str = "earliest") -> Group:
        change = CreateGroup(topic, name, start)
        await self.write(change)
        assert change.result is not None
        return change.result

    async def publish(self, topic: Topic, *ids: str, data: bytes = b'{"n":1}', **fields: Any) -> list[Message]:
        messages = [Message(id_, data, self.now_ms, **fields) for id_ in ids]
        append = Append(topic, messages)
        await self.write(appends=[append])
        assert append.refused is None
        return messages

    async def bury(
        self, group: Group, *messages: Message, reason: str = "failures", last: Attempt | None = None
    ) -> list[DeadLetter]:
        """Let these die, and return their letters."""
        before = await self.letters(group.topic)
        dead = [Dead(group, message, reason, "it broke", 3, 2, self.now_ms, last) for message in messages]
        await self.write(settle=dead)
        known = {letter.id for letter in before}
        return [letter for letter in await self.letters(group.topic) if letter.id not in known]

    async def letters(self, topic: Topic, **wanted: Any) -> list[DeadLetter]:
        """All of them, page by page."""
        found: list[DeadLetter] = []
        after_id = wanted.pop("after_id", 0)
        while page := await self.catalog.dead_letters(topic, DeadFilter(**wanted, after_id=after_id), 1000):
            found += page
            after_id = page[-1].id
        return found

    async def redrive(self, topic: Topic, *ids: int, appends: Sequence[Append] = ()) -> Redrive:
        change = Redrive(topic, ids)
        await self.write(change, appends=appends)
        return change


@pytest_asyncio.fixture(params=KINDS)
async def shelves(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shelves]:
    shelves = Shelves(request.param, tmp_path / "data")
    await shelves.open()
    yield shelves
    await shelves.store.close()
