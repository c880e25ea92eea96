"""What the SQLite store needs of aiosqlite's private door, `Connection._execute`. If one of these fails after an
upgrade, `run_on` in pushwire_storage/sqlite.py must be changed, and nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from functools import partial

import aiosqlite
import pytest
import pytest_asyncio

from pushwire_storage.sqlite import run_on


@pytest_asyncio.fixture
async def connection() -> AsyncIterator[aiosqlite.Connection]:
    connection = await aiosqlite.Connection(lambda: sqlite3.connect(":memory:", isolation_level=None), 64)
    yield connection
    await connection.close()


class Gate:
    """Holds the connection's thread until the test lets it go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.open.wait(10)
        return "through"


async def test_the_door_is_a_coroutine_function_that_takes_a_function(connection: aiosqlite.Connection) -> None:
    assert asyncio.iscoroutinefunction(connection._execute)
    assert await connection._execute(lambda: 7) == 7


async def test_the_function_runs_on_the_connections_thread(connection: aiosqlite.Connection) -> None:
    here = threading.get_ident()
    first = await run_on(connection, threading.get_ident)
    assert first != here
    assert await run_on(connection, threading.get_ident) == first


async def test_the_function_is_queued_at_once_without_a_turn_of_the_loop(connection: aiosqlite.Connection) -> None:
    started = threading.Event()
    future = run_on(connection, started.set)
    assert started.wait(10), "it ran although the loop has not"
    await future


async def test_functions_run_in_order(connection: aiosqlite.Connection) -> None:
    gate = Gate()
    order: list[int] = []
    first = run_on(connection, gate)
    later = [run_on(connection, partial(order.append, number)) for number in range(20)]
    gate.open.set()
    await asyncio.gather(first, *later)
    assert order == list(range(20))


async def test_errors_come_out_of_the_future(connection: aiosqlite.Connection) -> None:
    with pytest.raises(ZeroDivisionError):
        await run_on(connection, lambda: 1 // 0)
    assert await run_on(connection, lambda: 1) == 1


async def test_a_cancelled_caller_does_not_stop_the_function_or_the_next(connection: aiosqlite.Connection) -> None:
    gate, ran = Gate(), threading.Event()

    async def caller() -> None:
        await run_on(connection, gate)

    task = asyncio.ensure_future(caller())
    await asyncio.get_running_loop().run_in_executor(None, gate.entered.wait, 10)
    behind = run_on(connection, ran.set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open.set()
    async with asyncio.timeout(10):
        await behind
    assert ran.is_set()


async def test_a_whole_transaction_is_one_function(connection: aiosqlite.Connection) -> None:
    raw = connection._conn

    def transaction() -> int:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("CREATE TABLE t (a)")
        raw.execute("INSERT INTO t VALUES (1)")
        raw.execute("COMMIT")
        return int(raw.execute("SELECT count(*) FROM t").fetchone()[0])

    assert await run_on(connection, transaction) == 1
    assert not connection.in_transaction


async def test_a_callback_sent_from_the_function_runs_before_its_future(connection: aiosqlite.Connection) -> None:
    loop = asyncio.get_running_loop()
    order: list[str] = []

    def work() -> None:
        loop.call_soon_threadsafe(order.append, "callback")

    future = run_on(connection, work)
    future.add_done_callback(lambda _: order.append("future"))
    await future
    assert order == ["callback", "future"]


async def test_a_closed_connection_refuses(connection: aiosqlite.Connection) -> None:
    closed = await aiosqlite.Connection(lambda: sqlite3.connect(":memory:"), 64)
    await closed.close()
    with pytest.raises(ValueError, match="closed"):
        run_on(closed, lambda: 1)
