"""A store that breaks outside a batch: whoever runs on it learns of it in that turn, without a batch, and once."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pushwire.wire.frames import Draft, Publish, Subscribe
from pushwire_gateway.refusal import Refusal
from pushwire_gateway.server import EXIT_BROKEN
from pushwire_storage import scanning
from pushwire_storage.base import Message, StoreBroken, Topic
from pushwire_storage.highwater import HighWater
from pushwire_storage.queries import CHECKPOINT, UPSERT_REVOCATION
from pushwire_storage.sqlite import DATABASE, Driver, SqliteStore
from support.gateway_parts import Parts
from support.port import PATIENCE_S
from support.whole_gateway import WholeGateway

Break = Callable[["Idle", pytest.MonkeyPatch], Awaitable[object]]


def io_error() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
    return error


def failing(*_: object) -> Any:
    raise io_error()


class Idle(WholeGateway):
    """A gateway with one message and nothing to do."""

    async def start(self) -> None:
        await super().start()
        assert isinstance(self.server.store, SqliteStore)
        self.store = self.server.store
        assert await self.publish() is None

    @property
    def topic(self) -> Topic:
        [topic] = self.store.topics.values()
        return topic

    async def publish(self) -> Refusal | None:
        tokens, gateway = self.server.tokens, self.server.gateway
        principal = tokens.verify(self.token(), self.clock.now())
        over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        assert gateway.publish(principal, "orders", [Message("", b"1", 0)], 1, over.set_result) is None
        async with asyncio.timeout(PATIENCE_S):
            answer: Refusal | None = await over
        return answer

    def delete(self) -> None:
        Path(self.server.settings.data, DATABASE).unlink()

    def fail_at(self, statement: str, patch: pytest.MonkeyPatch) -> None:
        """This statement of the writer's meets an I/O error."""
        writer = self.store._writer
        assert writer is not None
        execute = writer._execute
        patch.setattr(writer, "_execute", lambda sql, *more: failing() if sql == statement else execute(sql, *more))


async def mark(idle: Idle, patch: pytest.MonkeyPatch) -> None:
    def unsynced(*_: object) -> None:
        raise OSError(errno.EIO, "the device is gone")

    assert idle.store._writer is not None
    idle.store._writer.unmarked = True  # the mark of its own timer may have been quicker
    patch.setattr(HighWater, "write", unsynced)
    idle.store._mark()


async def deletion(idle: Idle, patch: pytest.MonkeyPatch) -> None:
    idle.delete()
    idle.store._mark()


async def checkpoint(idle: Idle, patch: pytest.MonkeyPatch) -> None:
    """It comes after the batch, which may be confirmed or not: the two may reach the loop in one turn."""
    idle.fail_at(CHECKPOINT, patch)
    patch.setattr(idle.store._writer, "_wal_bytes_max", 1)
    answer = await idle.publish()
    assert answer is None or answer.code == "unavailable"


async def revocation(idle: Idle, patch: pytest.MonkeyPatch) -> None:
    idle.fail_at(UPSERT_REVOCATION, patch)
    with pytest.raises(StoreBroken):
        await idle.server.tokens.revocations.revoke_token("default", "a token", idle.clock.now())
    assert idle.server.engine.batcher.broken is not None, "before whoever asked is answered"


async def read(idle: Idle, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scanning, "read", failing)
    with pytest.raises(StoreBroken):
        await idle.store.read(idle.topic, 0, 9)
    assert idle.server.engine.batcher.broken is not None, "before whoever asked is answered"


@pytest_asyncio.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Idle]:
    gateway = Idle(tmp_path)
    await gateway.start()
    yield gateway
    await gateway.server.drain()


@pytest.mark.parametrize("broken", [mark, deletion, checkpoint, revocation, read])
async def test_an_idle_gateway_ends_without_a_batch(idle: Idle, monkeypatch: pytest.MonkeyPatch, broken: Break) -> None:
    server = idle.server
    written: list[str] = []
    await broken(idle, monkeypatch)
    monkeypatch.setattr(idle.store, "write", lambda *_: written.append("a batch"))
    await asyncio.wait_for(server.wait(), PATIENCE_S)
    assert (server.gateway.ready()["status"], written) == ("broken", [])
    assert await server.drain() == EXIT_BROKEN


async def test_a_read_that_fails_for_another_reason_ends_nothing(idle: Idle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "read", lambda *_: {}["a fault of ours"])
    with pytest.raises(StoreBroken):
        await idle.store.read(idle.topic, 0, 9)
    monkeypatch.undo()
    assert await idle.publish() is None
    assert idle.server.gateway.ready()["status"] == "ok"
    assert await idle.server.drain() == 0


async def test_a_scan_that_breaks_the_store_is_told_once_and_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = await Parts().start()
    ann = await parts.client()
    await ann.ok(Subscribe("orders", "g", "s", ref=1))
    ann.lose()
    bob = await parts.client("bob")
    await bob.ok(Publish("orders", [Draft("", b"1")], 1))
    await parts.settled()
    store, batches = parts.store, len(parts.store.batches)
    told: list[int] = []
    over, turn_over = asyncio.Event(), parts.engine.turn_over

    def noted() -> None:
        turn_over()
        told.append(len(parts.broken))
        over.set()

    monkeypatch.setattr(parts.engine, "turn_over", noted)
    monkeypatch.setattr(store._writer, "_scan", failing)
    await bob.ok(Subscribe("orders", "g", "s", ref=2))
    async with asyncio.timeout(PATIENCE_S):
        await over.wait()
    assert told[0] == 1, "in the turn of the scan"
    parts.step(3)
    assert parts.broken == [store.broken]
    assert len(store.batches) == batches
    assert parts.gateway.ready()["status"] == "broken"


async def test_a_close_breaks_nothing(tmp_path: Path) -> None:
    gateway = Idle(tmp_path)
    await gateway.start()
    assert await gateway.server.drain() == 0
    assert gateway.store.broken is None
    gateway.server.engine.turn()
    assert gateway.server.engine.batcher.broken is None


def test_what_ends_the_process_when_it_is_read() -> None:
    driver = Driver("sqlite3")
    for name, fatal in {"SQLITE_IOERR_READ": True, "SQLITE_CORRUPT": True, "SQLITE_NOTADB": True, "SQLITE_ERROR": False,
                        "SQLITE_BUSY": False, "SQLITE_INTERRUPT": False}.items():  # fmt: skip
        error = io_error()
        error.sqlite_errorname = name
        assert driver.is_fatal(error) is fatal, name
    assert not driver.is_fatal(KeyError("a fault of ours"))
