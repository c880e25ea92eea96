"""What a stopped gateway's files hold, read directly with SQLite: the `final` rows of a history.

Owns a second reading of the schema, so that what the store wrote is judged by somebody else. It must not use the
store's own code, and never opens a file that a running gateway uses.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SEQ_BITS, TOPIC_SHIFT = 42, 45
SEQ_MASK = (1 << SEQ_BITS) - 1
SCHEDULED = 1 << 44
ID_BYTES = 64  # what a remembered id counts against its topic

Fingerprint = Callable[[int, bytes, "bytes | None", "str | None", int], str]
"""(encoding, data, headers, content_type, priority) -> the `sha` that producers and consumers record."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The rows of each kind of `final` event."""

    db_dump: list[dict[str, Any]]
    dlq: list[dict[str, Any]]
    counts: list[dict[str, Any]]
    orphans: list[str]

    def events(self, t: int) -> Iterator[dict[str, Any]]:
        for kind in ("counts", "db_dump", "dlq", "orphans"):
            yield {"t": t, "ev": "final", "kind": kind, "rows": getattr(self, kind)}


class _Topic(NamedTuple):
    id: int
    tenant: str
    name: str
    last_seq: int
    floor: int
    config: dict[str, Any]
    counters: dict[str, int]


class _Reader:
    def __init__(self, connection: sqlite3.Connection, fingerprint: Fingerprint) -> None:
        self.execute = connection.execute
        self.fingerprint = fingerprint
        self.topics: dict[int, _Topic] = {}
        for row in self.execute(
            "SELECT id, tenant, name, last_seq, floor, config, messages, bytes, dead_letters, scheduled, ids"
            " FROM topics WHERE NOT deleted"
        ):
            counters = dict(zip(("messages", "bytes", "dead_letters", "scheduled", "ids"), row[6:], strict=True))
            self.topics[row[0]] = _Topic(row[0], row[1], row[2], row[3], row[4], json.loads(row[5] or "{}"), counters)
        self.groups = {row[0]: row for row in self.execute("SELECT id, topic_id, name, start_seq FROM groups")}
        self.of_topic: dict[int, list[Any]] = defaultdict(list)
        for row in self.groups.values():
            self.of_topic[row[1]].append(row)
        self.settled = set(self.execute("SELECT pos, group_id FROM settled"))
        deleted = {topic_id for (topic_id,) in self.execute("SELECT id FROM topics WHERE deleted")}
        self.strays: list[int] = []  # of no topic
        self.messages: dict[int, Any] = {}
        self.scheduled: set[int] = set()
        for row in self.execute("SELECT pos, id, key, encoding, content_type, headers, data, redriven FROM messages"):
            pos = row[0] & ~SCHEDULED
            topic = self.topics.get(pos >> TOPIC_SHIFT)
            if topic is None and pos >> TOPIC_SHIFT not in deleted:
                self.strays.append(pos)
            if topic is None or pos & SEQ_MASK <= topic.floor:
                continue  # purged, or of a topic that is gone: a chore will come across it
            self.messages[pos] = (pos, *row[1:])
            if row[0] & SCHEDULED:
                self.scheduled.add(pos)
        self.retries = {
            (row[0], row[1]): row[2:]
            for row in self.execute("SELECT lane, pos, due, deliveries, failures FROM retries")
        }
        self.chores = {topic_id for (topic_id,) in self.execute("SELECT topic_id FROM chores")}
        self.ids: dict[tuple[int, str], int] = {}
        for table in ("dedupe_a", "dedupe_b"):
            self.ids.update(((t, i), s) for t, i, s in self.execute(f"SELECT topic_id, id, seq FROM {table}"))

    def place(self, pos: int) -> tuple[str, int, int]:
        """Topic with its tenant, priority and seq."""
        topic_id = pos >> TOPIC_SHIFT
        if topic_id not in self.topics:
            return f"?/{topic_id}", pos >> SEQ_BITS & 3, pos & SEQ_MASK
        topic = self.topics[topic_id]
        return f"{topic.tenant}/{topic.name}", pos >> SEQ_BITS & 3, pos & SEQ_MASK

    def owed(self, pos: int) -> list[Any]:
        """The groups that have not settled the message."""
        groups = self.of_topic[pos >> TOPIC_SHIFT]
        return [g for g in groups if g[3] < pos & SEQ_MASK and (pos, g[0]) not in self.settled]

    def row(self, stored: Any, grp: str) -> dict[str, Any]:
        pos, id_, key, encoding, content_type, headers, data, redriven = stored
        q, priority, seq = self.place(pos)
        sha = self.fingerprint(encoding, bytes(data), headers, content_type, priority)
        return {"q": q, "grp": grp, "seq": seq, "mid": id_, "sha": sha, "key": key, "redriven": bool(redriven)}

    def db_dump(self) -> list[dict[str, Any]]:
        return [self.row(stored, g[2]) for pos, stored in self.messages.items() for g in self.owed(pos)]

    def dlq(self) -> list[dict[str, Any]]:
        rows = self.execute(
            "SELECT pos, id, key, encoding, content_type, headers, data, redriven,"
            " group_name, reason, deliveries, failures, at, attempts FROM dead_letters"
        )
        return [
            self.row((row[0] & ~SCHEDULED, *row[1:8]), row[8])
            | {"reason": row[9], "deliveries": row[10], "failures": row[11], "t": row[12] * 1_000_000}
            | {"attempts": [json.loads(line)[1] for line in row[13].split("\n") if line]}
            for row in rows
        ]

    def counts(self) -> list[dict[str, Any]]:
        found = []
        for (lane, pos), (_, deliveries, failures) in self.retries.items():
            if lane >> 2 in self.groups and pos in self.messages:
                q, _, seq = self.place(pos)
                grp = self.groups[lane >> 2][2]
                found.append({"q": q, "grp": grp, "seq": seq, "deliveries": deliveries, "failures": failures})
        return found

    def orphans(self) -> Iterator[str]:
        """What belongs to nothing. Where a chore is still to pass, leftovers are its business."""
        for lane, pos in self.retries:
            if pos >> TOPIC_SHIFT in self.chores or pos & SEQ_MASK <= self._floor(pos):
                continue
            if pos not in self.messages or lane & 3 != pos >> SEQ_BITS & 3:
                yield f"retry of nothing: lane {lane}, pos {pos}"
            elif lane >> 2 not in {g[0] for g in self.owed(pos)}:
                yield f"retry of what is settled: lane {lane}, pos {pos}"
        for pos, group_id in self.settled:
            if pos >> TOPIC_SHIFT in self.chores or pos & SEQ_MASK <= self._floor(pos):
                continue
            if pos not in self.messages or group_id not in self.groups:
                yield f"settlement of nothing: pos {pos}, group {group_id}"
        yield from (f"message of no topic: pos {pos}" for pos in self.strays)
        for pos, stored in self.messages.items():
            yield from self._stray(pos, stored)
        yield from self.books()

    def _floor(self, pos: int) -> int:
        topic = self.topics.get(pos >> TOPIC_SHIFT)
        return SEQ_MASK if topic is None else topic.floor

    def _stray(self, pos: int, stored: Any) -> Iterator[str]:
        topic, seq = self.topics[pos >> TOPIC_SHIFT], pos & SEQ_MASK
        groups = self.of_topic[topic.id]
        kept = topic.config.get("retain_ms") or topic.id in self.chores
        if not kept and not self.owed(pos) and any(g[3] < seq for g in groups):
            yield f"settled by all, and still stored: pos {pos}"
        if not stored[7] and topic.config.get("dedupe", True) and self.ids.get((topic.id, stored[1])) != seq:
            yield f"id not remembered: pos {pos}"

    def books(self) -> Iterator[str]:
        """The counters of each topic against what they count."""
        kept: dict[int, Counter[str]] = defaultdict(Counter)
        for pos, (_, _, key, _, _, headers, data, _) in self.messages.items():
            totals = kept[pos >> TOPIC_SHIFT]
            totals["messages"] += 1
            totals["bytes"] += len(data) + len(headers or b"") + len(key or "")
            totals["scheduled"] += pos in self.scheduled
        for topic_id, _ in self.ids:
            kept[topic_id]["bytes"] += ID_BYTES
            kept[topic_id]["ids"] += 1
        for topic_id, count in self.execute("SELECT topic_id, count(*) FROM dead_letters GROUP BY topic_id"):
            kept[topic_id]["dead_letters"] = count
        for topic in self.topics.values():
            there = {name: kept[topic.id][name] for name in topic.counters}
            if topic.counters != there:
                yield f"topic {topic.name} counts {topic.counters}, but holds {there}"
            if any(seq > topic.last_seq for (topic_id, _), seq in self.ids.items() if topic_id == topic.id):
                yield f"topic {topic.name} has given seqs above {topic.last_seq}"


def read_disk(database: Path, fingerprint: Fingerprint) -> Disk:
    """Everything that a checker wants to know of a database whose gateway has stopped, or died."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        reader = _Reader(connection, fingerprint)
        return Disk(reader.db_dump(), reader.dlq(), reader.counts(), list(reader.orphans()))
    finally:
        connection.close()
