"""What the SQLite store keeps in memory of the work that it has done: nothing."""

from __future__ import annotations

import asyncio
import weakref
from pathlib import Path

from conformance.harness import START_MS, Ears, World
from pushwire_storage.base import Batch
from pushwire_storage.sqlite import SqliteStore


class WatchedBatch(Batch):
    """A batch that can be seen to be gone."""

    __slots__ = ("__weakref__",)


async def test_a_batch_is_let_go_when_it_is_done_and_not_when_the_next_one_comes(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open(Ears(World("sqlite", tmp_path)), START_MS)
    loop, done, gone = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    batch: Batch | None = WatchedBatch(now_ms=START_MS)
    assert batch is not None
    watch = weakref.ref(batch, lambda _: loop.call_soon_threadsafe(gone.set))  # it may go on the writer's thread
    store.write(batch, lambda _: done.set())
    batch = None
    await asyncio.wait_for(done.wait(), 10)
    await asyncio.wait_for(gone.wait(), 10)
    assert watch() is None
    await store.close()
