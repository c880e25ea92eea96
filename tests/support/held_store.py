"""The store in memory with a hand on it: commits that wait, a failure to come, and a look at what was written.

It adds no rule of a store and tests nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pushwire_storage.base import READ_BYTES_MAX, Batch, Consumer, Message, Page, StoreError, Topic
from pushwire_storage.catalog import SqliteCatalog
from pushwire_storage.memory import MemoryStore

from .port import PATIENCE_S


class HeldStore(MemoryStore):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []
        self.reads = 0
        self.failing: StoreError | None = None
        """What the next batch, read or look-up meets."""
        self._held: list[Callable[[], None]] | None = None
        self._holding = asyncio.Event()

    async def open(self, consumer: Consumer, now_ms: int) -> None:
        await super().open(consumer, now_ms)
        self.epoch = "e1"  # to be known to tests

    def hold(self) -> None:
        """Commit nothing until `release`."""
        self._held = []
        self._holding.clear()

    async def holding(self) -> None:
        """A batch waits: what is asked for from here on is in a later one."""
        async with asyncio.timeout(PATIENCE_S):
            await self._holding.wait()

    def release(self) -> None:
        held, self._held = self._held or [], None
        for write in held:
            write()

    def write(self, batch: Batch, done: Callable[[Batch], None]) -> None:
        self.batches.append(batch)
        if self.failing is not None:
            batch.error, self.failing = self.failing, None
            asyncio.get_running_loop().call_soon(done, batch)
        elif self._held is not None:
            self._held.append(lambda: super(HeldStore, self).write(batch, done))
            self._holding.set()
        else:
            super().write(batch, done)

    async def read(self, topic: Topic, after_seq: int, limit: int, bytes_max: int = READ_BYTES_MAX) -> Page:
        self.reads += 1
        self._fail()
        return await super().read(topic, after_seq, limit, bytes_max)

    def catalog(self) -> SqliteCatalog:
        self._fail()
        return super().catalog()

    def _fail(self) -> None:
        if self.failing is not None:
            error, self.failing = self.failing, None
            raise error

    async def kept(self, tenant: str, name: str) -> list[Message]:
        """The messages of a topic, as they are stored."""
        return list((await super().read(self.topics[tenant, name], 0, 1000)).messages)
