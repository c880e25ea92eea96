"""Scenario `power`: a real gateway's file operations are noted, and the power is cut at random points of the note.

Owns the runs, the cuts and what must hold after each: every receipt's message, every confirmed settlement, every
remembered id, a sound file. The same cuts under `durability=relaxed` must lose something: that shows that they cut.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults import database, journal
from faults.confirmed import TOPIC, UNCLEAR, Told, Traffic
from faults.preload import DIE, ON_SYNC, ON_WRITE, ShimmedGateway
from faults.reopened import unrecognised
from faults.supervisor import SETTINGS, FaultRunFailed
from pushwire_storage.planning import SEQ_MAX, TOPIC_SHIFT
from pushwire_storage.schema import MIGRATIONS
from pushwire_storage.sqlite import DATABASE
from support.ws_client import WsClient

CUTS_PER_RUN = 1_000
PUBLISHES_PER_LIFE = 150
LIVES = 3
"""Of one run: the first ends by SIGKILL, the second is killed between a write and its sync (so that the next one finds
a commit that no disk has promised to keep), the last one ends as it should, with an empty WAL."""
DIE_AT_MAX = 40
"""Fewer than a life's publishes need, however they share commits."""
AFTER_BOOT_SHARE, AFTER_BOOT_RECORDS = 0.25, 150
"""Of the cuts, and of the journal: what a start does with the files of the one before is a small part of a run."""
LOOK_CLOSELY_EVERY = 20
"""Every so many cuts SQLite's own integrity_check and the sums of the books are looked at too, and the store itself is
opened and asked whether it knows what it gave a receipt for: they take longest."""


@dataclass
class Outcome:
    """What the cuts of one durability have shown."""

    durability: str
    cuts: int = 0
    unsafe: int = 0
    """Cuts that met something not yet safe."""
    took_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    """Cuts by what was wrong after them."""
    lost_max: int = 0
    examples: list[str] = field(default_factory=list)
    receipts: int = 0
    settled: int = 0
    duplicates: int = 0
    syncs: int = 0
    reopened: int = 0

    def text(self) -> str:
        found = ", ".join(f"{kind} in {count}" for kind, count in sorted(self.kinds.items())) or "nothing lost"
        speed = f"{self.cuts / max(self.took_s, 0.001) * 60:,.0f} a minute"
        return (
            f"durability={self.durability}: {self.cuts} cuts ({self.unsafe} met unsynced writes, {speed}), "
            f"{self.receipts} receipts, {self.settled} settlements, {self.duplicates} duplicates, "
            f"{self.syncs} syncs, {self.reopened} reopened by the store: {found}"
            + (f"; at most {self.lost_max} messages" if self.lost_max else "")
        )

    @property
    def clean(self) -> bool:
        return not self.kinds


@dataclass
class Verdict:
    """Both outcomes, and why the run has not passed, if so."""

    outcomes: list[Outcome]
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "\n".join([*(one.text() for one in self.outcomes), *[f"PROBLEM {text}" for text in self.problems]])


def run(folder: Path, cuts: int, seed: int, relaxed_cuts: int | None = None) -> Verdict:
    """So many cuts of a gateway that syncs, and some of one that does not."""
    outcomes = []
    for durability, count in (("full", cuts), ("relaxed", cuts // 10 if relaxed_cuts is None else relaxed_cuts)):
        outcome = Outcome(durability)
        for number in range(max(1, -(-count // CUTS_PER_RUN))):
            share = min(CUTS_PER_RUN, count - number * CUTS_PER_RUN)
            _run(folder / f"{durability}-{number}", durability, share, seed + number, outcome)
        outcomes.append(outcome)
    verdict = Verdict(outcomes)
    full, relaxed = outcomes
    verdict.problems += full.examples[:20]
    if not full.clean and not full.examples:
        verdict.problems.append("something was lost")
    if not relaxed.kinds["lost"]:
        verdict.problems.append("relaxed has lost nothing: the cuts prove nothing")
    if relaxed.kinds["damaged"] or relaxed.kinds["refused"]:
        verdict.problems.append("relaxed promises a consistent file that opens")
    for outcome in outcomes:
        if outcome.unsafe < outcome.cuts / 20:
            verdict.problems.append(f"{outcome.durability}: hardly a cut met an unsynced write")
    if not full.duplicates:
        verdict.problems.append("no publish was answered as a duplicate: the retries after a kill prove nothing")
    return verdict


def _run(folder: Path, durability: str, cuts: int, seed: int, outcome: Outcome) -> None:
    gateway = ShimmedGateway(folder, settings={**SETTINGS, "durability": durability})
    traffic = Traffic(gateway, seed)
    try:
        for life in range(LIVES):
            gateway.start()
            last = life == LIVES - 1
            if life == 1:
                nth = traffic.rng.randrange(3, DIE_AT_MAX)
                # One that hardly ever syncs dies at a write instead.
                gateway.control.arm(DIE, nth, mask=ON_SYNC if durability == "full" else ON_WRITE)
            asyncio.run(traffic.live(PUBLISHES_PER_LIFE, gateway.running.kill if life == 0 else None))
            if life == 1 and not gateway.control.fired:
                gateway.kill()  # it has hardly synced, which the cuts will show
            gateway.control.disarm()
            if last:
                assert gateway.terminate() == 0, gateway.last_words()
            elif gateway.wait() != -signal.SIGKILL:
                raise FaultRunFailed(f"the gateway ended by itself: {gateway.last_words()}")
    finally:
        gateway.stop()
    outcome.duplicates += traffic.duplicates
    began = time.monotonic()
    judge = Judge(traffic, outcome, random.Random(seed), f"seed {seed}")
    judge.cut_all(list(journal.read(gateway.journal)), cuts)
    outcome.took_s += time.monotonic() - began


async def _one(traffic: Traffic, ids: list[str]) -> bool:
    """Whether this publish got a receipt."""
    client = await WsClient.open(traffic.gateway.port, traffic.gateway.token("power"))
    try:
        return bool((await traffic.publish(client, ids))["op"] == "ok")
    except UNCLEAR:
        return False
    finally:
        client.abort()


def lone_retry(folder: Path) -> tuple[Traffic, list[tuple[str, str]]]:
    """A gateway is killed between writing a commit and syncing it; the next one is asked for the same publish, answers
    that it is a duplicate, and then the power fails with everything unsynced. Returns what is wrong then."""
    gateway = ShimmedGateway(folder, settings=SETTINGS)
    traffic = Traffic(gateway, 0)
    try:
        gateway.start()
        assert asyncio.run(_one(traffic, traffic.draft()))
        gateway.control.arm(DIE, 1, mask=ON_SYNC)
        ids = traffic.draft()
        assert not asyncio.run(_one(traffic, ids))
        assert gateway.wait() == -signal.SIGKILL
        gateway.control.disarm()
        gateway.start()
        assert asyncio.run(_one(traffic, ids))
        gateway.kill()
    finally:
        gateway.stop()
    disk, told = journal.Disk(), Told(traffic.meanings)
    for record in journal.read(gateway.journal):
        disk.feed(record)
        told.feed(record)
    with laid_out(disk.worst()) as place:
        return traffic, list(check(place, told, traffic, closely=True))


class Judge:
    """Cuts one journal and looks at what is left."""

    def __init__(self, traffic: Traffic, outcome: Outcome, rng: random.Random, label: str) -> None:
        self._traffic = traffic
        self._outcome = outcome
        self._rng = rng
        self._label = label

    def cut_all(self, records: list[journal.Record], cuts: int) -> None:
        disk, told = journal.Disk(), Told(self._traffic.meanings)
        boots = [number for number, record in enumerate(records) if record.kind == journal.BOOT]
        at = Counter(self._where(len(records), boots) for _ in range(cuts))
        for number, record in enumerate(records):
            disk.feed(record)
            told.feed(record)
            self._outcome.syncs += record.kind == journal.SYNC
            for _ in range(at[number]):
                self._cut(disk, told, number)
        self._outcome.receipts += len(told.receipts)
        self._outcome.settled += len(told.settled)

    def _where(self, count: int, boots: list[int]) -> int:
        if self._rng.random() < AFTER_BOOT_SHARE:
            return min(count - 1, self._rng.choice(boots) + self._rng.randrange(AFTER_BOOT_RECORDS))
        return self._rng.randrange(count)

    def _cut(self, disk: journal.Disk, told: Told, number: int) -> None:
        outcome = self._outcome
        closely = outcome.cuts % LOOK_CLOSELY_EVERY == 0
        outcome.cuts += 1
        outcome.unsafe += disk.unsafe > 0
        with laid_out(disk.cut(self._rng)) as folder:
            found = list(check(folder, told, self._traffic, closely=closely))
            if closely:
                outcome.reopened += 1
                again = unrecognised(folder, told.receipts, self._traffic.bodies)
                found += [("lost", f"{text} by the store") for text in again]
        for kind in {kind for kind, _ in found}:
            outcome.kinds[kind] += 1
        lost = sum(kind == "lost" for kind, _ in found)
        outcome.lost_max = max(outcome.lost_max, lost)
        if found and len(outcome.examples) < 20:
            kind, text = found[0]
            outcome.examples.append(f"{self._label}, cut at record {number}: {kind}: {text}")


@contextmanager
def laid_out(files: Mapping[str, bytes]) -> Iterator[Path]:
    """The files in a folder of their own, in memory where that can be had."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        for file, content in files.items():
            (Path(name) / file).write_bytes(content)
        yield Path(name)


def check(folder: Path, told: Told, traffic: Traffic, *, closely: bool) -> Iterator[tuple[str, str]]:
    """What is wrong: (kind, text). Kinds: lost, undone, damaged."""
    path = folder / DATABASE
    if not path.exists() or (path.stat().st_size == 0 and not (folder / f"{DATABASE}-wal").exists()):
        if told.receipts or told.groups:
            yield "lost", "the database is not there"
        return
    connection = sqlite3.connect(path)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == len(MIGRATIONS):
            yield from _against(connection, told, traffic, closely=closely)
        elif told.receipts or told.groups:
            yield "lost", f"the database has schema version {version}"
        elif connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
            yield "damaged", f"in the middle of a migration, version {version}"
    except sqlite3.DatabaseError as error:
        yield "damaged", str(error)
    finally:
        connection.close()


def _against(
    connection: sqlite3.Connection, told: Told, traffic: Traffic, *, closely: bool
) -> Iterator[tuple[str, str]]:
    dump = database.Dump(connection)
    if closely:
        answer = dump.integrity()
        if answer != "ok":
            yield "damaged", answer
        for text in dump.orphans():
            yield "damaged", text
    groups = {name: group for group, (topic, name, _) in dump.groups.items() if topic == TOPIC}
    for name in told.groups - groups.keys():
        yield "lost", f"group {name}"
    stored = {pos & SEQ_MAX for pos in dump.positions if dump.topics[pos >> TOPIC_SHIFT] == TOPIC}
    ids = dict(connection.execute("SELECT id, seq FROM dedupe_a UNION ALL SELECT id, seq FROM dedupe_b"))
    settled = {(group, pos & SEQ_MAX) for pos, group in dump.settled}
    dead = {(letter["grp"], letter["seq"]) for letter in dump.dead()}
    for id_, seq in told.receipts.items():
        if ids.get(id_) != seq:
            yield "lost", f"{id_}, seq {seq}: not remembered"
        elif seq not in stored and any((name, seq) not in traffic.settling for name in groups):
            yield "lost", f"{id_}, seq {seq}: not there, and nobody has settled it"
    for name, seq in told.settled:
        if seq in stored and (groups.get(name), seq) not in settled:
            yield "undone", f"seq {seq} is owed to group {name} again"
    for name, seq in told.dead:
        if (name, seq) not in dead:
            yield "lost", f"dead letter seq {seq} of group {name}"
