"""Scenario `backup`: copies are made under load, and each is what the gateway held at one moment.

Owns the comparison of a copy with the history: what had its receipt before the copy was asked for is there, with the
seq it was told; what nobody had by then taken is owed; nothing is there that nobody published. The last one is served.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import database, history
from faults.named_points import CrashingGateway
from faults.supervisor import GROUPS, TOPIC, Supervisor
from pushwire_storage.offline import open_for_check
from pushwire_storage.sqlite import DATABASE
from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

LIVED_S = 0.4


@dataclass
class Copied:
    """What was seen."""

    copies: int = 0
    receipts: int = 0
    """Known of before the last copy was asked for; each copy is looked through for those known of by then."""
    owed: int = 0
    """Over all copies: messages with a receipt that a group had not been given yet, and was to be owed."""
    restored: bool = False
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        served = "served" if self.restored else "not served"
        looked = f"{self.receipts} receipts and {self.owed} owed messages looked for"
        return f"{self.copies} copies, {looked}; the last {served}"


def run(folder: Path, count: int, seed: int) -> Copied:
    """So many copies under load."""
    copied = Copied()
    supervisor = Supervisor(folder, seed)
    gateway = supervisor.gateway = CrashingGateway(folder / "gateway")
    spans: list[tuple[int, int, Path]] = []
    try:
        supervisor.start_gateway()
        asyncio.run(supervisor.create_groups())
        supervisor.start_clients()
        for number in range(count):
            supervisor.watch(LIVED_S)
            asked = time.monotonic_ns()
            gateway.back_up(f"{number}.db")
            spans.append((asked, time.monotonic_ns(), folder / "gateway" / "backups" / f"{number}.db"))
        supervisor.watch(LIVED_S)
        supervisor.stop_clients()
        copied.problems += supervisor.finish(()).problems
        events = list(history.stream(folder / "history"))
        for asked, answered, path in spans:
            _compare(copied, events, asked, answered, path)
    finally:
        supervisor.close()
    if spans and not copied.problems:
        _restore(copied, spans[-1][2], folder / "restored")
    return copied


def _compare(copied: Copied, events: list[dict[str, Any]], asked: int, answered: int, path: Path) -> None:
    if not path.exists() or not path.stat().st_size:
        copied.problems.append(f"{path.name}: no copy was made")
        return
    copied.copies += 1
    copied.problems += [f"{path.name}: {finding}" for finding in open_for_check(path)]
    told = {e["mid"]: e["seq"] for e in events if e["ev"] == "pub_ok" and e["t"] < asked and e["q"] == TOPIC}
    tried = {e["mid"] for e in events if e["ev"] == "pub_inv" and e["t"] < answered}
    seen = {(e["grp"], e["mid"]) for e in events if e["ev"] == "dlv" and e["t"] < answered}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        ids = dict(connection.execute("SELECT id, seq FROM dedupe_a UNION ALL SELECT id, seq FROM dedupe_b"))
        dump = database.Dump(connection)
        kept = {(row["grp"], row["mid"]) for row in (*dump.owed(), *dump.dead())}
    lost = [mid for mid, seq in told.items() if ids.get(mid) != seq]
    owed = {(grp, mid) for grp in GROUPS for mid in told} - seen
    gone = sorted(owed - kept)
    copied.receipts = len(told)
    copied.owed += len(owed)
    late = [mid for mid, seq in ids.items() if seq > dump.last_seqs[TOPIC]]
    for what, found in (
        ("lost", lost),
        ("owed and gone", gone),
        ("invented", sorted(set(ids) - tried)),
        ("ahead", late),
    ):
        if found:
            copied.problems.append(f"{path.name}: {len(found)} {what}: {found[:3]}")


def _restore(copied: Copied, copy: Path, folder: Path) -> None:
    """A gateway starts on the copy and takes new messages above its last seq."""
    gateway = GatewayProcess(folder)
    gateway.data.mkdir(parents=True, mode=0o700)
    (gateway.data / DATABASE).write_bytes(copy.read_bytes())
    with database.opened(gateway.database()) as connection:
        last = database.Dump(connection).last_seqs[TOPIC]
    try:
        gateway.start()
        seq = asyncio.run(_publish(gateway))
        copied.restored = gateway.terminate() == 0 and seq == last + 1
    finally:
        gateway.stop()
    if not copied.restored:
        copied.problems.append(f"the restored copy gave seq {seq} after {last}")


async def _publish(gateway: GatewayProcess) -> int:
    client = await WsClient.open(gateway.port, gateway.token())
    try:
        return int((await client.publish(TOPIC, "after the restore"))["seq"])
    finally:
        client.abort()
