"""What a million messages cost that merely lie in the store: memory, time to open, throughput beside them, a purge.

Owns its own process and children of itself: no gateway, no sockets. Run `python tests/bench/million.py [NAME...]`,
names of `MEASUREMENTS`; all by default. What is compared is measured in one run, in turns, by the clock and in
processor time (which other programs disturb less); memory in a fresh process each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.storage import BODIES, NOW_MS, uuid7_like
from pushwire_storage.base import (
    Append,
    Batch,
    ConfigureTopic,
    Counts,
    CreateGroup,
    CreateTopic,
    Done,
    Event,
    Group,
    Message,
    PurgeTopic,
    Settlement,
    Topic,
    TopicConfig,
)
from pushwire_storage.inline import InlineSqliteStore

MANY = 1_000_000
BATCH = 500
SLICE, TURNS = 10_000, 10
"""Messages of one turn, and turns a round: short ones, so that whatever else the machine does hits both alike."""
HOUR_MS = 3_600_000
QUOTA = 10 * MANY
"""Raised: the default quota is the very million."""
MIB = 1 << 20


class Rate(NamedTuple):
    """Messages a second of the clock, and of the processor."""

    wall: float
    busy: float


class Start:
    """Now, for a rate."""

    def __init__(self) -> None:
        self._wall, self._busy = time.perf_counter(), time.process_time()

    def rate(self, count: int) -> Rate:
        return Rate(count / (time.perf_counter() - self._wall), count / (time.process_time() - self._busy))


class Hands:
    """A consumer that takes what comes and settles it with the next batch."""

    def __init__(self) -> None:
        self.held: list[Message] = []

    def arrived(
        self, group: Group, priority: int, messages: Sequence[Message], counts: Counts | None, blocked: object
    ) -> None:
        self.held += messages

    def caught_up(self, *_: object) -> None: ...
    def arrived_key(self, *_: object) -> None: ...
    def tailed(self, *_: object) -> None: ...
    def expired(self, *_: object) -> None: ...
    def lapsed(self, *_: object) -> None: ...
    def turn_over(self) -> None: ...


class Bench:
    """One store with one topic and one group, driven on this thread."""

    def __init__(self, directory: Path, now_ms: int = NOW_MS, **settings: object) -> None:
        self.now_ms = now_ms
        self.hands = Hands()
        start = time.perf_counter()
        self.store = InlineSqliteStore(directory, quota_messages=QUOTA, quota_bytes=1 << 40, **settings)
        self.store.start(self.hands, now_ms)
        self.open_s = time.perf_counter() - start
        if not self.store.topics:
            made = CreateTopic("t", "bench")
            self.run(Batch(changes=[made]))
            assert made.result is not None
            self.run(Batch(changes=[CreateGroup(made.result, "g")]))
        self.topic: Topic = self.store.topics[("t", "bench")]
        self.group = self.topic.groups["g"]

    def run(self, batch: Batch) -> None:
        batch.now_ms = self.now_ms
        self.store.write(batch, lambda _: None)
        self.work()
        assert batch.error is None

    def work(self) -> None:
        while self.store.pending():
            self.store.step()

    def fill(self, count: int, **fields: Any) -> None:
        """Publish so many, nobody wanting them. Their ids are not remembered: those are forgotten after two windows in
        any case, and a million of them cost what comes after more than the messages do."""
        self.run(Batch(changes=[ConfigureTopic(self.topic, TopicConfig(dedupe=False))]))
        ids = uuid7_like(count, self.topic.last_seq)
        for first in range(0, count, BATCH):
            messages = [
                Message(id_, BODIES[index % 64], self.now_ms, **fields)
                for index, id_ in enumerate(ids[first : first + BATCH])
            ]
            self.run(Batch(appends=[Append(self.topic, messages)]))
        self.run(Batch(changes=[ConfigureTopic(self.topic, TopicConfig())]))

    def pass_through(self, count: int, ledger: str = "off") -> Rate:
        """Publish so many that are delivered and settled at once."""
        ids = uuid7_like(count, self.topic.last_seq)
        messages = [Message(id_, BODIES[index % 64], self.now_ms) for index, id_ in enumerate(ids)]
        batches = [messages[first : first + BATCH] for first in range(0, count, BATCH)]
        self.store.want(self.group, 1, BATCH)
        self.work()
        start = Start()
        for messages in batches:
            settlements, events = self._settled(), self._events(ledger)
            self.run(Batch(appends=[Append(self.topic, messages)], settlements=settlements, events=events))
            self.store.want(self.group, 1, BATCH)
        self.run(Batch(settlements=self._settled()))
        self.hands.held.clear()
        return start.rate(count)

    def drain(self, count: int) -> Rate:
        """Take so many from the backlog and settle them."""
        done = 0
        start = Start()
        while done < count:
            self.store.want(self.group, 1, BATCH)
            self.work()
            assert self.hands.held, "nothing more comes"
            done += len(self.hands.held)
            self.run(Batch(settlements=self._settled()))
            self.hands.held.clear()
        return start.rate(done)

    def _settled(self) -> list[Settlement]:
        return [Done(self.group, list(self.hands.held))] if self.hands.held else []

    def _events(self, ledger: str) -> list[Event]:
        held = self.hands.held
        events: list[Event] = []
        if ledger != "off":
            events = [
                Event(self.topic, each.seq, "g", self.now_ms, "acked", "worker-1", "0123456789abcdef", 1)
                for each in held
            ]
        held.clear()
        return events


# -- memory, in a process of its own


def rss_bytes() -> tuple[int, int]:
    """Resident now, and at most."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    now, most = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def child(directory: Path, count: int) -> None:
    """Open the store, pass `count` through beside what lies there, and print what it took."""
    before, _ = rss_bytes()
    bench = Bench(directory)
    after, _ = rss_bytes()
    first_s = time.perf_counter()
    bench.store.want(bench.group, 1, 1)
    bench.work()
    first_s = time.perf_counter() - first_s
    bench.hands.held.clear()
    bench.store.forget(bench.group)
    kept = bench.topic.messages
    rate = bench.drain(kept) if kept > bench.topic.scheduled else bench.pass_through(count)
    _, peak = rss_bytes()
    figures = {"open_s": bench.open_s, "first_s": first_s, "rate": rate.wall}
    print(json.dumps({**figures, "open_bytes": after - before, "peak_bytes": peak - before}))
    bench.store.stop()


def in_child(directory: Path, count: int) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, "--child", str(directory), str(count)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return dict(json.loads(answer.stdout))


# -- measurements: each takes a directory and prints its lines


def scheduled(directory: Path, rounds: int) -> None:
    """A million messages that fall due in an hour or later: memory, and the rate of what passes beside them."""
    Bench(directory / "empty").store.stop()
    many = Bench(directory / "many", durability="relaxed")
    start = time.perf_counter()
    for part in range(10):
        many.fill(MANY // 10, due_ms=NOW_MS + HOUR_MS + part * 60_000)
    print(f"scheduled: {MANY / (time.perf_counter() - start):,.0f}/s stored")
    assert many.topic.scheduled == MANY
    many.store.stop()
    _memory("scheduled", directory, 100_000)
    # One alone already keeps what passes from lying at the very end of the table, where SQLite appends faster.
    benches = {name: Bench(directory / name) for name in ("empty", "one", "many")}
    benches["one"].fill(1, due_ms=NOW_MS + HOUR_MS)
    _compare("scheduled", rounds * TURNS, benches, lambda _, bench: bench.pass_through(SLICE))
    falling = Bench(directory / "many", NOW_MS + HOUR_MS - 1)
    falling.now_ms += 1
    start = time.perf_counter()
    batches = 0
    while (tick_ms := falling.store.next_tick_ms()) is not None and tick_ms <= falling.now_ms:
        falling.run(Batch())
        batches += 1
    elapsed = time.perf_counter() - start
    moved = MANY - falling.topic.scheduled
    print(f"scheduled: {moved:,} fall due at once: {moved / elapsed:,.0f}/s, {elapsed / batches * 1e3:.1f} ms a batch")
    falling.store.stop()


def backlog(directory: Path, rounds: int) -> None:
    """A backlog of a million: time to open, memory, and the rate at which it is drained."""
    Bench(directory / "empty").store.stop()
    _make_backlog(directory / "many")
    rates: dict[str, list[Rate]] = {"empty queue": [], "backlog": []}
    for _ in range(rounds):
        empty = Bench(directory / "empty")
        rates["empty queue"].append(empty.pass_through(100_000))
        empty.store.stop()
        shutil.copytree(directory / "many", directory / "copy")
        copy = Bench(directory / "copy")
        rates["backlog"].append(copy.drain(100_000))
        copy.store.stop()
        shutil.rmtree(directory / "copy")
    _print_ratio("backlog", rates)
    _memory("backlog", directory, 100_000)


def ledger(directory: Path, rounds: int) -> None:
    """What the ledger costs at `settled`, the making of its events included."""
    benches = {kind: Bench(directory / kind) for kind in ("off", "settled")}
    for kind, bench in benches.items():
        bench.run(Batch(changes=[ConfigureTopic(bench.topic, TopicConfig(ledger=kind))]))
    _compare("ledger", rounds * TURNS, benches, lambda kind, bench: bench.pass_through(SLICE, kind))


def purge(directory: Path, rounds: int) -> None:
    """The purge of a million: how long its own batch takes, how long the rest goes on, and what others notice."""
    del rounds  # once: the file is made for it
    _make_backlog(directory / "many")
    bench = Bench(directory / "many")
    start = time.perf_counter()
    change = PurgeTopic(bench.topic)
    bench.run(Batch(changes=[change]))
    first_s = time.perf_counter() - start
    assert change.removed == MANY
    assert bench.topic.messages == 0
    took: list[float] = []
    while (tick_ms := bench.store.next_tick_ms()) is not None and tick_ms <= bench.now_ms:
        before = time.perf_counter()
        bench.run(Batch(appends=[Append(bench.topic, [Message(f"beside-{len(took)}", BODIES[0], NOW_MS)])]))
        took.append(time.perf_counter() - before)
    elapsed = time.perf_counter() - start
    slow = sorted(took)[len(took) * 99 // 100] * 1e3
    print(f"purge: its own batch {first_s * 1e3:.1f} ms; all gone after {elapsed:.1f} s and {len(took)} batches")
    print(f"purge: a batch beside it {statistics.median(took) * 1e3:.1f} ms, 99 of 100 below {slow:.1f} ms")
    bench.store.stop()


def _make_backlog(directory: Path) -> None:
    many = Bench(directory, durability="relaxed")
    many.fill(MANY)
    many.store.stop()


def _memory(name: str, directory: Path, count: int) -> None:
    empty, many = in_child(directory / "empty", count), in_child(directory / "many", count)
    more = {key: (many[key] - empty[key]) / MIB for key in ("open_bytes", "peak_bytes")}
    print(
        f"{name}: opened in {many['open_s'] * 1e3:.0f} ms, first message after {many['first_s'] * 1e3:.1f} ms more;"
        f" {more['open_bytes']:+.1f} MiB opened, {more['peak_bytes']:+.1f} MiB at most, beside an empty store's"
    )
    print(f"{name}: in those processes {many['rate']:,.0f}/s, {many['rate'] / empty['rate']:.0%} of the empty store's")


def _compare(name: str, rounds: int, benches: dict[str, Bench], measure: Callable[[str, Bench], Rate]) -> None:
    """Measure these in turns, the first of each round another one every time."""
    rates: dict[str, list[Rate]] = {kind: [] for kind in benches}
    for number in range(rounds):
        for kind, bench in list(benches.items())[:: -1 if number % 2 else 1]:
            rates[kind].append(measure(kind, bench))
    _print_ratio(name, rates)
    for bench in benches.values():
        bench.store.stop()


def _print_ratio(name: str, rates: dict[str, list[Rate]]) -> None:
    told = ", ".join(f"{kind} {statistics.median(each.wall for each in found):,.0f}/s" for kind, found in rates.items())
    print(f"{name}: {told}")
    first, *others = rates
    for other in others:
        pairs = list(zip(rates[first], rates[other], strict=True))
        wall, busy = (_spread([getattr(two, kind) / getattr(one, kind) for one, two in pairs]) for kind in Rate._fields)
        print(f"{name}: {other} / {first}, turn by turn {wall}, by processor time {busy}")


def _spread(shares: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(shares, n=4)
    return f"{middle:.1%} [{low:.1%}..{high:.1%} in half of the turns]"


Measurement = Callable[[Path, int], None]
MEASUREMENTS: tuple[Measurement, ...] = (scheduled, backlog, ledger, purge)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", help=", ".join(each.__name__ for each in MEASUREMENTS))
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--directory", help="where the files go; the default is the system's temporary directory")
    arguments.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    random.seed(1)
    if options.child:
        child(Path(options.child[0]), int(options.child[1]))
        return
    for each in MEASUREMENTS:
        if options.names and each.__name__ not in options.names:
            continue
        directory = Path(tempfile.mkdtemp(prefix="pushwire-bench-", dir=options.directory))
        try:
            each(directory, options.rounds)
        finally:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
