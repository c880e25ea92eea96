"""Scenario `full`: the disk of a running gateway fills up for real, and is emptied again.

Owns a small filesystem in memory (root alone may mount one) and what must hold: publishes are refused in good time,
settlements go on, first in the room kept and then in the ballast, and everything works again once there is space.
"""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults import database
from pushwire_storage.space import BALLAST, Space
from support.gateway_process import GatewayProcess, until_async
from support.ws_client import WsClient

MIB = 1 << 20
DISK_BYTES, FREE_BYTES_MIN, BALLAST_BYTES = 120 * MIB, 64 * MIB, 16 * MIB
TOPIC, MESSAGES = "faults.full", 400
RECOVER_S_MAX = 5.0
FILLS_MAX = 100


@dataclass
class Filled:
    """What was seen."""

    refused_early: int = 0
    acked_low: int = 0
    acked_full: int = 0
    ballast_used: bool = False
    recovered_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        used = "used" if self.ballast_used else "not used"
        return (
            f"{self.refused_early} publishes refused early, {self.acked_low} acks confirmed then, {self.acked_full} on "
            f"the full disk, ballast {used}; accepted {self.recovered_s:.2f} s after space returned"
        )


def missing() -> str | None:
    """Why it cannot be run here; None if it can."""
    return None if os.geteuid() == 0 and Path("/proc/mounts").exists() else "only root may mount a small filesystem"


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def run(folder: Path) -> Filled:
    filled = Filled()
    with _disk(folder / "disk") as disk:
        settings = {"free_bytes_min": str(FREE_BYTES_MIN), "ballast_bytes": str(BALLAST_BYTES)}
        gateway = GatewayProcess(folder / "gateway", settings=settings, data=str(disk / "data"))
        try:
            gateway.start()
            asyncio.run(_fill(gateway, disk, filled))
            if (code := gateway.terminate()) != 0:
                filled.problems.append(f"exit code {code}")
            gateway.check_log()
            with database.opened(gateway.database()) as connection:
                if owed := database.Dump(connection).owed():
                    filled.problems.append(f"{len(owed)} confirmed settlements are owed again")
        finally:
            gateway.stop()
    if not (filled.refused_early and filled.acked_low and filled.acked_full and filled.ballast_used):
        filled.problems.append(f"not everything was seen: {filled.text()}")
    return filled


async def _fill(gateway: GatewayProcess, disk: Path, filled: Filled) -> None:
    client = await WsClient.open(gateway.port, gateway.token())
    await client.subscribe(TOPIC, group="main", sub="s", prefetch=MESSAGES, start="earliest")
    for number in range(MESSAGES):
        await client.publish(TOPIC, {"n": number, "pad": "x" * 500})
    leases = [row["lease"] for row in await client.take(MESSAGES)]
    ballast = disk / "data" / BALLAST
    await until_async(ballast.exists, "a ballast", RECOVER_S_MAX)
    _leave(disk, FREE_BYTES_MIN // 2)
    for _ in range(5):
        answer = await client.ask({"op": "publish", "topic": TOPIC, "data": "x"})
        filled.refused_early += answer.get("code") == "insufficient_storage" and answer["retryable"]
    for lease in leases[: MESSAGES // 2]:
        await client.ok({"op": "ack", "leases": [lease]})
        filled.acked_low += 1
    _leave(disk, 0)
    for lease in leases[MESSAGES // 2 :]:
        await client.ok({"op": "ack", "leases": [lease]}, timeout_s=5.0)
        filled.acked_full += 1
    filled.ballast_used = not ballast.exists()
    (disk / "filler").unlink()
    began = time.monotonic()
    while (answer := await client.ask({"op": "publish", "topic": TOPIC, "data": "y"}))["op"] != "ok":
        if time.monotonic() - began > RECOVER_S_MAX:
            filled.problems.append(f"not accepted {RECOVER_S_MAX} s after space returned: {answer}")
            break
    filled.recovered_s = time.monotonic() - began
    (row,) = await client.take(1)
    await client.ok({"op": "ack", "leases": [row["lease"]]})
    await until_async(ballast.exists, "the ballast again", RECOVER_S_MAX)
    client.abort()


def _leave(disk: Path, free_bytes: int) -> None:
    """Take space until no more is left than this. The gateway writes meanwhile, so what is free is asked again."""
    space = Space(disk, 0, 0)
    with (disk / "filler").open("ab") as filler:
        for _ in range(FILLS_MAX):
            taken = space.free_bytes() - free_bytes
            if taken <= 0:
                return
            try:
                os.posix_fallocate(filler.fileno(), 0, filler.seek(0, os.SEEK_END) + taken)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    raise TimeoutError(f"the disk was not full after {FILLS_MAX} attempts")
