"""What the disk and the database driver give by themselves, measured in the same run as the contestants.

Owns the bare limits: no gateway, no network. One process, one measurement; figures as JSON on stdout.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosqlite

SCHEMA = "CREATE TABLE messages (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, body BLOB)"
INSERT = "INSERT INTO messages (id, body) VALUES (?, ?)"
ROWS = 1000
"""Rows of a transaction of the plain driver: beyond this the rate hardly grows."""


def row(number: int, body: bytes) -> tuple[str, bytes]:
    return f"0190f3c2-7abc-7def-8abc-{number:012x}", body


async def three_hops(folder: Path, seconds: float, body: bytes) -> float:
    """Rows a second through aiosqlite when BEGIN, INSERT and commit are awaited one by one."""
    async with aiosqlite.connect(folder / "three-hops.db", isolation_level=None) as db:
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute("PRAGMA synchronous = FULL")
        await db.execute(SCHEMA)
        number, start = 0, time.perf_counter()
        while (now := time.perf_counter()) - start < seconds:
            await db.execute("BEGIN IMMEDIATE")
            await db.execute(INSERT, row(number, body))
            await db.commit()
            number += 1
    return number / (now - start)


def plain(folder: Path, seconds: float, body: bytes) -> float:
    """Rows a second through the standard driver in large transactions, each synced."""
    db = sqlite3.connect(folder / "plain.db", isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(SCHEMA)
        number, start = 0, time.perf_counter()
        while (now := time.perf_counter()) - start < seconds:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(INSERT, [row(number + n, body) for n in range(ROWS)])
            db.execute("COMMIT")
            number += ROWS
    finally:
        db.close()
    return number / (now - start)


BOUNDS: dict[str, Callable[[Path, float, bytes], float]] = {
    "aiosqlite, BEGIN + INSERT + commit awaited": lambda *given: asyncio.run(three_hops(*given)),
    f"sqlite3, {ROWS:,} rows a transaction": plain,
}
THREE_HOPS = next(iter(BOUNDS))


def measure(job: dict[str, Any]) -> dict[str, float]:
    body = b"x" * job["body_bytes"]
    return {name: bound(Path(job["folder"]), job["seconds"], body) for name, bound in BOUNDS.items()}


if __name__ == "__main__":
    json.dump(measure(json.load(sys.stdin)), sys.stdout)
