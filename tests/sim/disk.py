"""What a stopped gateway's files hold, read directly with SQLite: the `final` rows of a history.

Owns a second reading of the schema, so that what the store wrote is judged by somebody else. It must not use the
store's own code, and never opens a file that a running gateway uses.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEQ_BITS, TOPIC_SHIFT = 42, 45
SEQ_MASK = (1 << SEQ_BITS) - 1
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


class _Reader:
    def __init__(self, connection: sqlite3.Connection, fingerprint: Fingerprint) -> None:
        self.execute = connection.execute
        self.fingerprint = fingerprint
        self.topics = {
            row[0]: row
            for row in self.execute("SELECT id, tenant, name, last_seq, messages, bytes, dead_letters FROM topics")
        }
        self.groups = {row[0]: row for row in self.execute("SELECT id, topic_id, name, start_seq FROM groups")}
        self.of_topic: dict[int, list[Any]] = defaultdict(list)
        for row in self.groups.values():
            self.of_topic[row[1]].append(row)
        self.settled = set(self.execute("SELECT pos, group_id FROM settled"))
        self.messages = {
            row[0]: row
            for row in self.execute("SELECT pos, id, key, encoding, content_type, headers, data FROM messages")
        }
        self.retries = {
            (row[0], row[1]): row[2:]
            for row in self.execute("SELECT lane, pos, due, deliveries, failures FROM retries")
        }
        self.ids: dict[tuple[int, str], int] = {}
        for table in ("dedupe_a", "dedupe_b"):
            self.ids.update(((t, i), s) for t, i, s in self.execute(f"SELECT topic_id, id, seq FROM {table}"))

    def place(self, pos: int) -> tuple[str, int, int]:
        """Topic with its tenant, priority and seq."""
        topic_id = pos >> TOPIC_SHIFT
        _, tenant, name, *_ = self.topics.get(topic_id, (topic_id, "?", topic_id))
        return f"{tenant}/{name}", pos >> SEQ_BITS & 3, pos & SEQ_MASK

    def owed(self, pos: int) -> list[Any]:
        """The groups that have not settled the message."""
        groups = self.of_topic[pos >> TOPIC_SHIFT]
        return [g for g in groups if g[3] < pos & SEQ_MASK and (pos, g[0]) not in self.settled]

    def row(self, stored: Any, grp: str) -> dict[str, Any]:
        pos, id_, key, encoding, content_type, headers, data = stored
        q, priority, seq = self.place(pos)
        sha = self.fingerprint(encoding, bytes(data), headers, content_type, priority)
        return {"q": q, "grp": grp, "seq": seq, "mid": id_, "sha": sha, "key": key}

    def db_dump(self) -> list[dict[str, Any]]:
        return [self.row(stored, g[2]) for pos, stored in self.messages.items() for g in self.owed(pos)]

    def dlq(self) -> list[dict[str, Any]]:
        rows = self.execute(
            "SELECT pos, id, key, encoding, content_type, headers, data,"
            " group_id, reason, deliveries, failures, at FROM dead_letters"
        )
        return [
            self.row(row[:7], self.groups.get(row[7], (0, 0, f"? {row[7]}"))[2])
            | {"reason": row[8], "deliveries": row[9], "failures": row[10], "t": row[11] * 1_000_000}
            for row in rows
        ]

    def counts(self) -> list[dict[str, Any]]:
        found = []
        for (lane, pos), (_, deliveries, failures) in self.retries.items():
            if lane >> 2 in self.groups and pos >> TOPIC_SHIFT in self.topics:
                q, _, seq = self.place(pos)
                grp = self.groups[lane >> 2][2]
                found.append({"q": q, "grp": grp, "seq": seq, "deliveries": deliveries, "failures": failures})
        return found

    def orphans(self) -> Iterator[str]:
        for lane, pos in self.retries:
            if pos not in self.messages or lane & 3 != pos >> SEQ_BITS & 3:
                yield f"retry of nothing: lane {lane}, pos {pos}"
            elif lane >> 2 not in {g[0] for g in self.owed(pos)}:
                yield f"retry of what is settled: lane {lane}, pos {pos}"
        for pos, group_id in self.settled:
            if pos not in self.messages or group_id not in self.groups:
                yield f"settlement of nothing: pos {pos}, group {group_id}"
        for pos in self.messages:
            topic_id, seq = pos >> TOPIC_SHIFT, pos & SEQ_MASK
            if topic_id not in self.topics:
                yield f"message of no topic: pos {pos}"
            if not self.owed(pos) and any(g[3] < seq for g in self.of_topic[topic_id]):
                yield f"settled by all, and still stored: pos {pos}"
            if self.ids.get((topic_id, self.messages[pos][1])) != seq:
                yield f"id not remembered: pos {pos}"
        yield from self.books()

    def books(self) -> Iterator[str]:
        """The counters of each topic against what they count."""
        kept: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        for pos, (_, _, key, _, _, headers, data) in self.messages.items():
            totals = kept[pos >> TOPIC_SHIFT]
            totals[0] += 1
            totals[1] += len(data) + len(headers or b"") + len(key or "")
        for topic_id, _ in self.ids:
            kept[topic_id][1] += ID_BYTES
        for topic_id, count in self.execute("SELECT topic_id, count(*) FROM dead_letters GROUP BY topic_id"):
            kept[topic_id][2] = count
        for topic_id, (_, _, name, last_seq, *counters) in self.topics.items():
            if counters != kept[topic_id]:
                yield f"topic {name} counts {counters}, but holds {kept[topic_id]}"
            if any(seq > last_seq for (topic, _), seq in self.ids.items() if topic == topic_id):
                yield f"topic {name} has given seqs above {last_seq}"


def read_disk(database: Path, fingerprint: Fingerprint) -> Disk:
    """Everything that a checker wants to know of a database whose gateway has stopped, or died."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        reader = _Reader(connection, fingerprint)
        return Disk(reader.db_dump(), reader.dlq(), reader.counts(), list(reader.orphans()))
    finally:
        connection.close()
