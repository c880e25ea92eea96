"""The end of a store has a deadline: who is in its way is waited for once, and a drain leaves it the time for that."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from conformance.harness import World, message
from pushwire_gateway.hub import Checked
from pushwire_storage.base import Append, Batch, StoreBusy
from pushwire_storage.queries import BEGIN, CHECKPOINT_AND_EMPTY, WAIT_FOR_NOBODY
from pushwire_storage.sqlite import BUSY_TIMEOUT_S, DATABASE
from support.port import PATIENCE_S
from support.whole_gateway import WholeGateway


@contextmanager
def foreign(folder: Path, *statements: str) -> Iterator[None]:
    """Another process is in a transaction of its own."""
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()
        yield
        connection.execute("ROLLBACK")


async def opened(kind: str, folder: Path, **settings: Any) -> World:
    world = World(kind, folder, busy_timeout_s=0.05, **settings)
    await world.open()
    await world.publish(await world.topic(), "a")
    return world


def listened(world: World, patch: pytest.MonkeyPatch) -> list[str]:
    """What the writer asks of SQLite from here on."""
    writer = world.store._writer
    asked: list[str] = []
    assert writer is not None
    writer.unmarked = True
    execute = writer._execute

    def noted(sql: str, *more: Any) -> Any:
        asked.append(sql)
        return execute(sql, *more)

    patch.setattr(writer, "_execute", noted)
    return asked


@pytest.mark.parametrize("kind", ["sqlite", "inline"])
async def test_a_foreign_writer_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    world = await opened(kind, tmp_path)
    asked = listened(world, monkeypatch)
    with foreign(tmp_path, "BEGIN IMMEDIATE"):
        await world.close()
    assert asked == [BEGIN, WAIT_FOR_NOBODY, CHECKPOINT_AND_EMPTY]
    await world.open()
    assert await world.kept(world.store.topics["t", "orders"]) == [1]
    await world.close()


async def test_the_batch_under_way_is_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await opened("sqlite", tmp_path)
    asked = listened(world, monkeypatch)
    with foreign(tmp_path, "BEGIN IMMEDIATE"):
        given = world.give(Batch(appends=[Append(world.store.topics["t", "orders"], [message("b")])]))
        await world.close()
    assert isinstance((await given).error, StoreBusy)
    assert asked[:3] == [BEGIN, WAIT_FOR_NOBODY, BEGIN]
    assert asked[-1] == CHECKPOINT_AND_EMPTY


async def test_a_foreign_reader_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await opened("inline", tmp_path, durability="relaxed")
    asked = listened(world, monkeypatch)
    with foreign(tmp_path, "BEGIN", "SELECT count(*) FROM messages"):
        await world.close()
    assert asked[-3:] == [CHECKPOINT_AND_EMPTY, WAIT_FOR_NOBODY, CHECKPOINT_AND_EMPTY]


async def test_while_it_serves_it_waits_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await opened("inline", tmp_path)
    asked = listened(world, monkeypatch)
    with foreign(tmp_path, "BEGIN IMMEDIATE"):
        assert isinstance((await world.commit()).error, StoreBusy)
    assert asked == [BEGIN]
    await world.close()


async def test_a_drain_leaves_the_store_the_time_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = WholeGateway(None)
    await gateway.start()
    server = gateway.server
    deadlines: list[float] = []
    assert server.listener is not None

    async def waited(deadline: float) -> int:
        deadlines.append(deadline)
        return 0

    monkeypatch.setattr(server.engine, "settled", waited)
    monkeypatch.setattr(server.listener, "drain", waited)
    latest = asyncio.get_running_loop().time() + server.settings.drain_s
    assert await server.drain() == 0
    server.listener.abort()
    assert len(deadlines) == 2
    assert latest - max(deadlines) >= BUSY_TIMEOUT_S


class Deaf(Checked):
    """A connection whose transport never says that it is gone."""

    def check(self, now: float) -> None: ...
    def drain(self) -> None: ...
    def abort(self) -> None: ...


async def test_a_connection_that_never_ends_does_not_hold_up_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushwire_gateway.listener.ABORTED_S", 0)
    gateway = WholeGateway(None)
    await gateway.start()
    listener = gateway.server.listener
    assert listener is not None
    listener._hub.join(Deaf())
    async with asyncio.timeout(PATIENCE_S):
        assert await listener.drain(asyncio.get_running_loop().time()) == 1
    listener._hub.live.clear()
    listener._hub.empty.set()
    assert await gateway.server.drain() == 0
