"""How fast the writer is by itself: groups of messages through the store, with plain sqlite3 beside it, round by round.

Owns its own process only: no gateway, no sockets. Run `python tests/bench/storage.py [--rounds N] [--messages N]`.
Every contestant writes the same 200-byte bodies under uuid7 ids with synchronous=FULL, in a fresh file.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pushwire_storage.base import Append, Batch, CreateGroup, CreateTopic, Done, Group, Message, Topic
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.sqlite import SqliteStore

BODY_BYTES = 200
NOW_MS = 1_700_000_000_000
GROUPS = (1, 10, 100, 500)


def uuid7_like(count: int, first: int = 0) -> list[str]:
    """Time-ordered ids as the SDK makes them: 48 bits of milliseconds, then randomness; 100 per millisecond.
    `first`: how many were made before."""
    ids = []
    for index in range(first, first + count):
        tail = secrets.token_hex(8)
        stamp = f"{NOW_MS + index // 100:012x}"
        ids.append(f"{stamp[:8]}-{stamp[8:]}-7{index % 100 * 40:03x}-8{tail[:3]}-{tail[3:15]}")
    return ids


def random_ids(count: int) -> list[str]:
    return [f"{(tail := secrets.token_hex(16))[:8]}-{tail[8:12]}-4{tail[13:16]}-8{tail[17:20]}-{tail[20:]}"
            for _ in range(count)]  # fmt: skip


BODIES = [secrets.token_bytes(BODY_BYTES) for _ in range(64)]


def grouped(ids: Sequence[str], size: int) -> list[list[Message]]:
    messages = [Message(id_, BODIES[index % 64], NOW_MS) for index, id_ in enumerate(ids)]
    return [messages[start : start + size] for start in range(0, len(messages), size)]


# -- contestants: each takes a directory, the ids and the size of a group, and returns the seconds it took


def plain(directory: Path, ids: Sequence[str], size: int) -> float:
    """A rowid table, executemany, no index, automatic checkpoints: what there is to lose."""
    return _plain(directory, ids, size, "CREATE TABLE m (seq INTEGER PRIMARY KEY, id TEXT, data BLOB)")


def plain_unique(directory: Path, ids: Sequence[str], size: int) -> float:
    """The same with a UNIQUE id: the simplest dedupe."""
    return _plain(directory, ids, size, "CREATE TABLE m (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, data BLOB)")


def _plain(directory: Path, ids: Sequence[str], size: int, table: str) -> float:
    connection = sqlite3.connect(directory / "plain.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("PRAGMA synchronous = full")
    connection.execute(table)
    rows = [(id_, BODIES[index % 64]) for index, id_ in enumerate(ids)]
    start = time.perf_counter()
    for first in range(0, len(rows), size):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT OR IGNORE INTO m(id, data) VALUES (?, ?)", rows[first : first + size])
        connection.execute("COMMIT")
    elapsed = time.perf_counter() - start
    connection.close()
    return elapsed


class Nobody:
    """A consumer that takes no notice."""

    def arrived(self, *_: object) -> None: ...
    def caught_up(self, *_: object) -> None: ...
    def arrived_key(self, *_: object) -> None: ...
    def tailed(self, *_: object) -> None: ...
    def expired(self, *_: object) -> None: ...
    def lapsed(self, *_: object) -> None: ...
    def turn_over(self) -> None: ...


class _Inline:
    """The writer, run on this thread."""

    def __init__(self, directory: Path, groups: int = 1) -> None:
        self.store = InlineSqliteStore(directory / "data")
        self.store.start(Nobody(), NOW_MS)
        make = CreateTopic("t", "bench")
        self.run(Batch(changes=[make]))
        assert make.result is not None
        self.topic: Topic = make.result
        changes = [CreateGroup(self.topic, f"g{number}") for number in range(groups)]
        self.run(Batch(changes=[*changes]))
        self.groups: list[Group] = [change.result for change in changes if change.result]

    def run(self, batch: Batch) -> None:
        batch.now_ms = NOW_MS
        self.store.write(batch, lambda _: None)
        self.store.step()
        assert batch.error is None


def writer(directory: Path, ids: Sequence[str], size: int) -> float:
    """The store's transaction alone: dedupe, checksums, quota, counters; checkpoints included."""
    inline, groups = _Inline(directory), grouped(ids, size)
    start = time.perf_counter()
    for messages in groups:
        inline.run(Batch(appends=[Append(inline.topic, messages)]))
    elapsed = time.perf_counter() - start
    assert inline.topic.messages == len(ids)
    inline.store.stop()
    return elapsed


def writer_singly(directory: Path, ids: Sequence[str], size: int) -> float:
    """As `writer`, each message an append of its own, as publishers that send one at a time make it."""
    inline, groups = _Inline(directory), grouped(ids, size)
    start = time.perf_counter()
    for messages in groups:
        inline.run(Batch(appends=[Append(inline.topic, [message]) for message in messages]))
    elapsed = time.perf_counter() - start
    inline.store.stop()
    return elapsed


def writer_settling(directory: Path, ids: Sequence[str], size: int) -> float:
    """Each group also settles the one before: the steady state of a queue that is kept empty."""
    return _settling(directory, ids, size, 1)


def writer_settling_twice(directory: Path, ids: Sequence[str], size: int) -> float:
    """The same with two consumer groups, each of which settles every message."""
    return _settling(directory, ids, size, 2)


def _settling(directory: Path, ids: Sequence[str], size: int, consumers: int) -> float:
    inline, groups = _Inline(directory, consumers), grouped(ids, size)
    before: Sequence[Message] = ()
    start = time.perf_counter()
    for messages in groups:
        settlements = [Done(group, before) for group in inline.groups if before]
        inline.run(Batch(appends=[Append(inline.topic, messages)], settlements=[*settlements]))
        before = messages
    elapsed = time.perf_counter() - start
    assert inline.topic.messages == len(groups[-1])
    inline.store.stop()
    return elapsed


def threaded(directory: Path, ids: Sequence[str], size: int) -> float:
    """The store as the gateway has it: on aiosqlite's thread, the next group written from `done`."""
    return asyncio.run(_threaded(directory, ids, size))


async def _threaded(directory: Path, ids: Sequence[str], size: int) -> float:
    store = SqliteStore(directory / "data")
    await store.open(Nobody(), NOW_MS)
    make = CreateTopic("t", "bench")
    groups = grouped(ids, size)[::-1]
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def following(batch: Batch) -> None:
        assert batch.error is None
        if not groups:
            over.set_result(None)
            return
        assert make.result is not None
        store.write(Batch(appends=[Append(make.result, groups.pop())], now_ms=NOW_MS), following)

    start = time.perf_counter()
    store.write(Batch(changes=[make], now_ms=NOW_MS), following)
    await over
    elapsed = time.perf_counter() - start
    await store.close()
    return elapsed


Contestant = Callable[[Path, Sequence[str], int], float]
CONTESTANTS: tuple[Contestant, ...] = (
    plain,
    plain_unique,
    writer,
    writer_singly,
    writer_settling,
    writer_settling_twice,
    threaded,
)


def measure(contestant: Contestant, ids: Sequence[str], size: int, base: str | None) -> float:
    directory = Path(tempfile.mkdtemp(prefix="pushwire-bench-", dir=base))
    try:
        return len(ids) / contestant(directory, ids, size)
    finally:
        shutil.rmtree(directory)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--messages", type=int, default=100_000, help="per round, for groups of 500; fewer for less")
    arguments.add_argument("--groups", type=int, nargs="*", default=GROUPS)
    arguments.add_argument("--only", nargs="*", help="names of contestants")
    arguments.add_argument("--random", action="store_true", help="random ids instead of time-ordered ones")
    arguments.add_argument("--directory", help="where the files go; the default is the system's temporary directory")
    options = arguments.parse_args()
    contestants = [each for each in CONTESTANTS if not options.only or each.__name__ in options.only]
    for size in options.groups:
        count = max(size, options.messages * min(500, 20 + size) // 520 // size * size)
        ids = (random_ids if options.random else uuid7_like)(count)
        rates: dict[str, list[float]] = {each.__name__: [] for each in contestants}
        for _ in range(options.rounds):
            for each in contestants:
                rates[each.__name__].append(measure(each, ids, size, options.directory))
        for name, found in rates.items():
            low, high = min(found), max(found)
            print(f"groups of {size:3}  {name:22} {statistics.median(found):9,.0f}/s  [{low:,.0f}..{high:,.0f}]")


if __name__ == "__main__":
    main()
