"""Scenarios `reader` and `read-only`: a foreign process reads for long, and files that cannot be written.

Owns both: nobody is refused because of a reader, the log says that it grows, and is short again once the reader has
gone; who cannot write says so at the start, and confirms nothing when that happens later.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults.confirmed import UNCLEAR
from faults.preload import FOR_GOOD, TAKES_SPACE, ShimmedGateway
from pushwire_storage.sqlite import DATABASE
from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

TOPIC = "faults.reader"
BODY = "x" * 60_000
PUBLISHES = 1_300
"""Of BODY: a log longer than what it warns of."""
LOG_BYTES_MAX = 16 << 20
"""To which SQLite cuts the log when it begins anew; see `journal_size_limit`."""
EXIT_CONFIG, EXIT_BROKEN = 3, 74
EXIT_S_MAX = 3.0
"""From the order that writes fail: a client has to connect and publish. From the error it is 1 s (io_faults.py)."""


@dataclass
class Read:
    """What was seen."""

    grown_bytes: int = 0
    left_bytes: int = 0
    warned: bool = False
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        mib = 1 << 20
        told = "told of" if self.warned else "not told of"
        return (
            f"{PUBLISHES} publishes accepted; the log at {self.grown_bytes / mib:.0f} MiB, {told}, "
            f"{self.left_bytes / mib:.0f} MiB after the reader had gone"
        )


def long_reader(folder: Path) -> Read:
    """A snapshot is held while the log grows far beyond what a checkpoint would leave."""
    read = Read()
    settings = {"publish_bytes_per_s": str(1 << 30), "publish_bytes_burst": str(1 << 30)}
    gateway = GatewayProcess(folder, settings=settings)
    try:
        gateway.start()
        asyncio.run(_read(gateway, read))
        if (code := gateway.terminate()) != 0:
            read.problems.append(f"exit code {code}")
        gateway.check_log()
        read.warned = "read transaction" in gateway.log
    finally:
        gateway.stop()
    if not read.warned or read.grown_bytes <= 2 * LOG_BYTES_MAX:
        read.problems.append("the log did not grow, or nobody was told")
    if read.left_bytes > LOG_BYTES_MAX:
        read.problems.append(f"the log keeps {read.left_bytes} bytes")
    return read


async def _read(gateway: GatewayProcess, read: Read) -> None:
    client = await WsClient.open(gateway.port, gateway.token())
    await client.subscribe(TOPIC, group="main", sub="s", prefetch=1000, start="earliest")
    await client.publish(TOPIC, 0)
    log = gateway.data / f"{DATABASE}-wal"
    with closing(sqlite3.connect(f"file:{gateway.database()}?mode=ro", uri=True, isolation_level=None)) as foreign:
        foreign.execute("BEGIN")
        foreign.execute("SELECT count(*) FROM messages").fetchall()
        for _ in range(PUBLISHES // 10):
            await client.ok({"op": "publish", "topic": TOPIC, "messages": [{"data": BODY}] * 10})
            rows = [client.deliveries.get_nowait() for _ in range(client.deliveries.qsize())]
            if rows:
                await client.ok({"op": "ack", "leases": [row["lease"] for row in rows]})
        read.grown_bytes = log.stat().st_size
        foreign.execute("ROLLBACK")
    for _ in range(30):
        await client.ok({"op": "publish", "topic": TOPIC, "messages": [{"data": BODY}] * 10})
        rows = [client.deliveries.get_nowait() for _ in range(client.deliveries.qsize())]
        if rows:
            await client.ok({"op": "ack", "leases": [row["lease"] for row in rows]})
    read.left_bytes = log.stat().st_size
    client.abort()


# -- a writer


@dataclass
class Wrote:
    """What was seen."""

    refused: int = 0
    took_s: float = 0.0
    back_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        return (
            f"{self.refused} refused, after {self.took_s:.1f} s; accepted {self.back_s:.2f} s after the lock had gone"
        )


def foreign_writer(folder: Path) -> Wrote:
    """The write lock is held until a publish has been refused."""
    wrote = Wrote()
    gateway = GatewayProcess(folder)
    try:
        gateway.start()
        asyncio.run(_write(gateway, wrote))
        if (code := gateway.terminate()) != 0:
            wrote.problems.append(f"exit code {code}")
        gateway.check_log()
    finally:
        gateway.stop()
    return wrote


async def _write(gateway: GatewayProcess, wrote: Wrote) -> None:
    client = await WsClient.open(gateway.port, gateway.token())
    first = (await client.publish(TOPIC, 0))["seq"]
    with closing(sqlite3.connect(gateway.database(), isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        answer = await client.ask({"op": "publish", "topic": TOPIC, "data": 1})
        wrote.took_s = time.monotonic() - began
        wrote.refused += answer["op"] == "error" and bool(answer["retryable"])
        foreign.execute("ROLLBACK")
    began = time.monotonic()
    if (await client.publish(TOPIC, 2))["seq"] != first + 1:
        wrote.problems.append("what was refused was stored")
    wrote.back_s = time.monotonic() - began
    client.abort()


# -- read-only


@dataclass
class ReadOnly:
    """How starts and a running gateway ended."""

    ends: dict[str, tuple[int, float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        return ", ".join(f"{name}: exit {code} after {took_s:.1f} s" for name, (code, took_s) in self.ends.items())


def missing() -> str | None:
    """Why it cannot be run here; None if it can."""
    return None if os.geteuid() == 0 else "only root may mount a directory so that root cannot write to it"


@contextmanager
def _read_only(path: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def read_only(folder: Path) -> ReadOnly:
    """A directory and a database that cannot be written at the start; a disk that turns read-only later."""
    seen = ReadOnly()
    gateway = GatewayProcess(folder / "start")
    try:
        gateway.start()
        asyncio.run(_publish(gateway, 20))
        assert gateway.terminate() == 0
        for name, path in (("directory", gateway.data), ("database", gateway.database())):
            before = len(gateway.log)
            with _read_only(path):
                began = time.monotonic()
                gateway.spawn()
                seen.ends[name] = gateway.wait(), time.monotonic() - began
            words = gateway.log[before:]
            if seen.ends[name][0] != EXIT_CONFIG or "read-only" not in words.lower() or str(path) not in words:
                seen.problems.append(f"{name}: {seen.ends[name]}: {words[-400:]}")
            if "Traceback" in words:
                seen.problems.append(f"{name}: unhandled: {words[-800:]}")
        gateway.start()
        if asyncio.run(_publish(gateway, 1)) != 21:
            seen.problems.append("something is missing after the read-only starts")
    finally:
        gateway.stop()
    _turns_read_only(folder / "running", seen)
    return seen


def _turns_read_only(folder: Path, seen: ReadOnly) -> None:
    gateway = ShimmedGateway(folder)
    try:
        gateway.start()
        last = asyncio.run(_publish(gateway, 20))
        gateway.control.arm(FOR_GOOD, 1, errno.EROFS, TAKES_SPACE)
        began = time.monotonic()
        if asyncio.run(_confirmed(gateway)):
            seen.problems.append("a publish was confirmed on a read-only disk")
        seen.ends["running"] = gateway.wait(), time.monotonic() - began
        if seen.ends["running"][0] != EXIT_BROKEN or seen.ends["running"][1] > EXIT_S_MAX:
            seen.problems.append(f"running: {seen.ends['running']}: {gateway.last_words()[-400:]}")
        gateway.control.disarm()
        gateway.start()
        if asyncio.run(_publish(gateway, 1)) < last + 1:
            seen.problems.append("a confirmed message is missing after the read-only disk")
    finally:
        gateway.stop()


async def _confirmed(gateway: GatewayProcess) -> bool:
    """Whether a publish gets a receipt."""
    try:
        client = await WsClient.open(gateway.port, gateway.token())
        return bool((await client.ask({"op": "publish", "topic": TOPIC, "data": 1}))["op"] == "ok")
    except UNCLEAR:
        return False  # it has gone


async def _publish(gateway: GatewayProcess, count: int) -> int:
    """The last seq."""
    client = await WsClient.open(gateway.port, gateway.token())
    try:
        for _ in range(count):
            seq = int((await client.publish(TOPIC, 1))["seq"])
        return seq
    finally:
        client.abort()
