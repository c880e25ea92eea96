"""Scenario `damage`: a stopped gateway's files are damaged at random, and a gateway is started on them.

Owns the damages and what must hold: each is refused, reported or without effect. A message with a receipt that is
neither delivered whole nor reported in any way is a failure, unless its receipt is younger than the mark promises: such
are counted apart. An id that is forgotten without a word is a failure too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import power
from faults.confirmed import GROUPS, TOPIC, Traffic
from faults.reopened import Taker, unrecognised
from faults.supervisor import SETTINGS
from pushwire_storage.base import StoreError
from pushwire_storage.highwater import MARK, MARK_S
from pushwire_storage.offline import open_for_check
from pushwire_storage.sqlite import DATABASE
from support.gateway_process import GatewayProcess

WAL = f"{DATABASE}-wal"
PUBLISHES = 120
KINDS = ("flip in body", "flip in id", "flip in database", "flip in log", "burst in database", "log cut",
         "database cut", "log deleted", "database deleted", "older database", "older log", "older both")  # fmt: skip
WEIGHTS = (15, 15, 40, 25, 15, 5, 3, 2, 2, 3, 3, 2)
OF_LOG = ("flip in log", "log cut", "log deleted", "older log")
BURST_BYTES = 64
BODY = re.compile(rb'"id":"(m\d+)","pad":"x*"')
ID = re.compile(rb'(?<!")\bm\d+\b(?!")|(?<=[^\w"])m\d+')
"""Outside of bodies: of messages, and of the ids that are remembered."""
YOUNG_S = MARK_S + 0.5
"""Before the kill: what got its receipt then may be younger than the mark. Half a second is the machine's own pace."""


@dataclass
class Damaged:
    """What the damages have shown."""

    done: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    young: Counter[str] = field(default_factory=Counter)
    """Damages of a log that was written until the kill, by their end."""
    young_missing: int = 0
    forgotten: int = 0
    """Damages after which some id is not remembered any more, without a report."""
    problems: list[str] = field(default_factory=list)

    def table_text(self) -> str:
        ends = ", ".join(f"{name} {count}" for name, count in sorted(self.ends.items()))
        young = ", ".join(f"{name} {count}" for name, count in sorted(self.young.items())) or "none"
        return (
            f"{self.done} damages: {ends}; in {self.forgotten} of them an id was forgotten in silence. Of a log "
            f"younger than {MARK_S:.0f} s: {young}; at most {self.young_missing} messages of that second missing in "
            "silence"
        )

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
    bodies: dict[str, Any]
    young: frozenset[str] = frozenset()
    """Ids whose receipt may be younger than the last mark."""

    @property
    def owed(self) -> set[str]:
        """Ids that some group has not settled."""
        return {id_ for id_, seq in self.receipts.items() if any((group, seq) not in self.settling for group in GROUPS)}


def run(folder: Path, count: int, seed: int) -> Damaged:
    """So many damages of three snapshots: one with a full log, one closed as it should be, one killed under traffic."""
    rng, result = random.Random(seed), Damaged()
    older, killed, closed, young = asyncio.run(_snapshots(folder, seed))
    logging.getLogger("pushwire.storage").setLevel(logging.CRITICAL)  # a thousand damages, each well described
    for number in range(count):
        snapshot = (closed, killed, killed, young)[number % 4]
        kind = rng.choice(OF_LOG) if snapshot is young else rng.choices(KINDS, WEIGHTS)[0]
        files = _damaged(kind, snapshot.files, older.files, snapshot.owed, rng)
        if files is None or files == snapshot.files:
            continue
        with power.laid_out(files) as place:
            end, missing, forgotten = _served(place, snapshot)
        if snapshot is young:
            result.young[end] += 1
            result.young_missing = max(result.young_missing, sum(id_ in young.young for id_ in missing))
            missing = {id_: text for id_, text in missing.items() if id_ not in young.young}
        else:
            result.done += 1
            result.forgotten += forgotten
            result.ends[end] += 1
            result.by_kind.setdefault(kind, Counter())[end] += 1
        if forgotten and snapshot is not young:
            result.problems.append(f"seed {seed}, damage {number} ({kind}): {end}, an id is forgotten in silence")
        if missing:
            what = f"{len(missing)} missing: {list(missing.values())[:3]}"
            result.problems.append(f"seed {seed}, damage {number} ({kind}): {end}, {what}")
    if result.done < count * 0.5:
        result.problems.append(f"only {result.done} of {count} damages changed anything")
    if not result.young:
        result.problems.append("no damage of a young log")
    for wanted in ("refused", "reported at delivery"):
        if not result.ends[wanted]:
            result.problems.append(f"no damage was {wanted}: the run proves nothing")
    return result


async def _snapshots(folder: Path, seed: int) -> tuple[Snapshot, ...]:
    """One that will be too old; one after SIGKILL, with a full log and a mark after the last receipt; one closed; one
    after SIGKILL under traffic."""
    gateway = GatewayProcess(folder / "gateway", settings=SETTINGS)
    traffic = Traffic(gateway, seed)
    taken = []
    try:
        for number in range(4):
            await asyncio.to_thread(gateway.start)
            await traffic.live(PUBLISHES)
            if number in {1, 3}:
                if number == 1:  # what is younger than the last mark is not missed
                    await asyncio.sleep(2 * MARK_S)
                gateway.kill()
            else:
                assert await asyncio.to_thread(gateway.terminate) == 0
            killed_s = time.monotonic()
            young = frozenset(id_ for id_, told_s in traffic.told_s.items() if told_s > killed_s - YOUNG_S)
            taken.append(
                Snapshot(_files(gateway.data), dict(traffic.receipts), set(traffic.settling), traffic.bodies, young)
            )
    finally:
        gateway.stop()
    shutil.rmtree(folder / "gateway")
    return tuple(taken)


def _files(data: Path) -> Files:
    names = (DATABASE, WAL, MARK)
    return {name: (data / name).read_bytes() for name in names if (data / name).exists()}


def _damaged(kind: str, files: Files, older: Files, owed: Container[str], rng: random.Random) -> Files | None:
    """The files with this damage; None where there is nothing to damage so."""
    what, _, where = kind.partition(" in ")
    new = dict(files)
    if where:
        name = WAL if where == "log" else DATABASE
        raw = bytearray(files.get(name, b""))
        if not raw:
            return None
        spans = [(0, len(raw))]
        if where == "id":
            spans = [found.span() for found in ID.finditer(raw)]
        if where == "body":
            spans = [found.span() for found in BODY.finditer(raw) if found[1].decode() in owed]
        if not spans:
            return None
        at = rng.randrange(*rng.choice(spans))
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


def _served(place: Path, snapshot: Snapshot) -> tuple[str, dict[str, str], bool]:
    """Start on the files and take everything out. Returns how it ended, what is missing without any report, and whether
    some id is not remembered any more."""
    taker = Taker(place)
    try:
        taker.open()
    except StoreError:
        return "refused", {}, False
    try:
        trusted = taker.take_all(TOPIC)
        reported, buried = taker.reported, taker.buried
    finally:
        taker.close()
    if not trusted:
        return "ended by the store", {}, False
    missing = _unreported(dict(_missing(snapshot, taker.taken)), buried, set(snapshot.receipts.values()))
    whole = {id_: seq for id_, seq in snapshot.receipts.items() if id_ not in snapshot.young}
    told = _found_by_check(place)  # before the next start: that one stores again what it does not know
    forgotten = not told and bool(unrecognised(place, whole, snapshot.bodies))
    if not missing:
        return ("reported at delivery" if reported else "without effect"), {}, forgotten
    if told:
        return ("found by the check behind" if WAL in snapshot.files else "found by `db check`"), {}, False
    return "missing in silence", dict(missing.values()), forgotten


Place = tuple[str, int]
"""A group, and a seq that it is owed."""


def _unreported(
    missing: dict[Place, tuple[str, str]], buried: Collection[Place], seqs: Collection[int]
) -> dict[Place, tuple[str, str]]:
    """What is missing and not among the corrupt dead letters of its group. A letter whose seq was never given, because
    the damage hit that, stands for one of them."""
    left = {place: what for place, what in missing.items() if place not in buried}
    strange = Counter(group for group, seq in buried if seq not in seqs)
    return {place: what for place, what in left.items() if not _spend(strange, place[0])}


def _spend(counts: Counter[str], name: str) -> bool:
    counts[name] -= 1
    return counts[name] >= 0


def _missing(
    snapshot: Snapshot, taken: Mapping[str, Mapping[int, tuple[str, bytes]]]
) -> Iterator[tuple[Place, tuple[str, str]]]:
    """Messages owed to a group and not handed to it as they were published: their places, ids, and what to say of
    each."""
    for id_, seq in snapshot.receipts.items():
        for group in GROUPS:
            if (group, seq) in snapshot.settling:
                continue
            found = taken.get(group, {}).get(seq)
            if found != (id_, json.dumps(snapshot.bodies[id_], separators=(",", ":")).encode()):
                yield (group, seq), (id_, f"{id_}, seq {seq} for {group}")


def _found_by_check(place: Path) -> bool:
    """Whether the check tells that runs beside the work after an unclean end, and that anybody may run."""
    try:
        return bool(open_for_check(place))
    except StoreError:
        return True
