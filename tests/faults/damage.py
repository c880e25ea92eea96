"""Scenario `damage`: a stopped gateway's files are damaged at random, and a gateway is started on them.

Owns the damages and what must hold: each is refused, reported or without effect. A message with a receipt that is
neither delivered nor reported in any way is a failure. Everything in the files is older than the last mark.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from faults import power
from faults.confirmed import GROUPS, TOPIC, Traffic
from faults.reopened import Taker
from faults.supervisor import SETTINGS
from pushwire_storage.base import StoreError
from pushwire_storage.highwater import MARK, MARK_S
from pushwire_storage.offline import open_for_check
from pushwire_storage.sqlite import DATABASE
from support.gateway_process import GatewayProcess

WAL = f"{DATABASE}-wal"
PUBLISHES = 120
KINDS = ("flip in database", "flip in log", "burst in database", "log cut", "database cut", "log deleted",
         "database deleted", "older database", "older log", "older both")  # fmt: skip
WEIGHTS = (40, 25, 15, 5, 3, 2, 2, 3, 3, 2)
BURST_BYTES = 64


@dataclass
class Damaged:
    """What the damages have shown."""

    done: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def table_text(self) -> str:
        ends = ", ".join(f"{name} {count}" for name, count in sorted(self.ends.items()))
        return f"{self.done} damages: {ends}"

    def text(self) -> str:
        lines = [self.table_text()]
        for kind, counts in sorted(self.by_kind.items()):
            lines.append(f"  {kind}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
        return "\n".join([*lines, *[f"PROBLEM {problem}" for problem in self.problems[:40]]])


Files = Mapping[str, bytes]


@dataclass
class Snapshot:
    """The files of a killed gateway, and what its clients were told by then."""

    files: Files
    receipts: dict[str, int]
    settling: set[tuple[str, int]]


def run(folder: Path, count: int, seed: int) -> Damaged:
    """So many damages of two snapshots: one with a full log, one closed as it should be."""
    rng, result = random.Random(seed), Damaged()
    older, killed, closed = asyncio.run(_snapshots(folder, seed))
    logging.getLogger("pushwire.storage").setLevel(logging.CRITICAL)  # a thousand damages, each well described
    for number in range(count):
        snapshot = closed if number % 3 == 0 else killed
        kind = rng.choices(KINDS, WEIGHTS)[0]
        files = _damaged(kind, snapshot.files, older.files, rng)
        if files is None or files == snapshot.files:
            continue
        result.done += 1
        result.kinds[kind] += 1
        with power.laid_out(files) as place:
            end, missing = _served(place, snapshot)
        result.ends[end] += 1
        result.by_kind.setdefault(kind, Counter())[end] += 1
        if missing:
            what = f"{len(missing)} missing: {missing[:3]}"
            result.problems.append(f"seed {seed}, damage {number} ({kind}): {end}, {what}")
    if result.done < count * 0.7:
        result.problems.append(f"only {result.done} of {count} damages changed anything")
    for wanted in ("refused", "reported at delivery"):
        if not result.ends[wanted]:
            result.problems.append(f"no damage was {wanted}: the run proves nothing")
    return result


async def _snapshots(folder: Path, seed: int) -> tuple[Snapshot, Snapshot, Snapshot]:
    """One that will be too old; one after SIGKILL, with a full log and a mark after the last receipt; one closed."""
    gateway = GatewayProcess(folder / "gateway", settings=SETTINGS)
    traffic = Traffic(gateway, seed)
    taken = []
    try:
        for number in range(3):
            await asyncio.to_thread(gateway.start)
            await traffic.live(PUBLISHES)
            if number == 1:
                await asyncio.sleep(2 * MARK_S)  # what is younger than the last mark would not be missed
                gateway.kill()
            else:
                assert await asyncio.to_thread(gateway.terminate) == 0
            taken.append(Snapshot(_files(gateway.data), dict(traffic.receipts), set(traffic.settling)))
    finally:
        gateway.stop()
    shutil.rmtree(folder / "gateway")
    return taken[0], taken[1], taken[2]


def _files(data: Path) -> Files:
    names = (DATABASE, WAL, MARK)
    return {name: (data / name).read_bytes() for name in names if (data / name).exists()}


def _damaged(kind: str, files: Files, older: Files, rng: random.Random) -> Files | None:
    """The files with this damage; None where there is nothing to damage so."""
    what, _, where = kind.partition(" in ")
    new = dict(files)
    if where:
        name = DATABASE if where == "database" else WAL
        raw = bytearray(files.get(name, b""))
        if not raw:
            return None
        at = rng.randrange(len(raw))
        if what == "flip":
            raw[at] ^= 1 << rng.randrange(8)
        else:
            raw[at : at + BURST_BYTES] = rng.randbytes(len(raw[at : at + BURST_BYTES]))
        new[name] = bytes(raw)
        return new
    names = {"log cut": [WAL], "log deleted": [WAL], "database cut": [DATABASE], "database deleted": [DATABASE],
             "older database": [DATABASE], "older log": [WAL], "older both": [DATABASE, WAL]}[kind]  # fmt: skip
    for name in names:
        if kind.startswith("older"):
            new[name] = older.get(name, b"")
        elif kind.endswith("deleted"):
            new.pop(name, None)
        elif new.get(name):
            new[name] = new[name][: rng.randrange(len(new[name]))]
    return new


def _served(place: Path, snapshot: Snapshot) -> tuple[str, list[str]]:
    """Start on the files and take everything out. Returns how it ended, and what is missing without any report."""
    taker = Taker(place)
    try:
        taker.open()
    except StoreError:
        return "refused", []
    try:
        trusted = taker.take_all(TOPIC)
        reported = taker.reported
    finally:
        taker.close()
    if not trusted:
        return "ended by the store", []
    missing = list(_missing(snapshot, taker.taken))
    if len(missing) <= reported:
        return ("reported at delivery" if reported else "without effect"), []
    if _found_by_check(place):
        return ("found by the check behind" if WAL in snapshot.files else "found by `db check`"), []
    return "SILENT", missing


def _missing(snapshot: Snapshot, taken: Mapping[str, Mapping[int, str]]) -> Iterator[str]:
    """Messages owed to a group and not handed to it."""
    for id_, seq in snapshot.receipts.items():
        for group in GROUPS:
            if (group, seq) not in snapshot.settling and taken.get(group, {}).get(seq) != id_:
                yield f"{id_}, seq {seq} for {group}"


def _found_by_check(place: Path) -> bool:
    """Whether the check tells that runs beside the work after an unclean end, and that anybody may run."""
    try:
        return bool(open_for_check(place))
    except StoreError:
        return True
