"""What a stopped gateway left on its disk, read directly: rows for the checker, and the file's own consistency.

Owns a copy: the files themselves are never opened, because whoever opens a database after a crash recovers its log
and thereby does what the gateway is to be tested for. Knows the schema, not the code that writes it.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.history import fingerprint
from pushwire_storage.planning import SEQ_BITS, SEQ_MAX, TOPIC_SHIFT

ENCODINGS = ("json", "text", "binary")
Row = dict[str, Any]


@contextmanager
def opened(database: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the database and of its write-ahead log, opened."""
    with tempfile.TemporaryDirectory(dir=database.parent.parent) as folder:
        for suffix in ("", "-wal"):
            source = database.with_name(database.name + suffix)
            if source.exists():
                shutil.copyfile(source, Path(folder) / (database.name + suffix))
        connection = sqlite3.connect(Path(folder) / database.name)
        try:
            yield connection
        finally:
            connection.close()


class Dump:
    """Everything a checker wants to know of one moment."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection
        self.topics = {row[0]: row[1] for row in connection.execute("SELECT id, name FROM topics")}
        self.last_seqs = {row[0]: row[1] for row in connection.execute("SELECT name, last_seq FROM topics")}
        groups = connection.execute("SELECT id, topic_id, name, start_seq FROM groups").fetchall()
        self.groups = {group: (self.topics[topic], name, start) for group, topic, name, start in groups}
        self.positions = {row[0] for row in connection.execute("SELECT pos FROM messages")}
        self.settled = set(connection.execute("SELECT pos, group_id FROM settled"))

    def integrity(self) -> str:
        answer: str = self._sql.execute("PRAGMA integrity_check").fetchone()[0]
        return answer

    def counts(self) -> list[Row]:
        """Committed counters of messages not yet settled."""
        rows = []
        for lane, pos, deliveries, failures in self._sql.execute("SELECT lane, pos, deliveries, failures FROM retries"):
            q, grp, _ = self.groups[lane >> 2]
            rows.append({"q": q, "grp": grp, "seq": pos & SEQ_MAX, "deliveries": deliveries, "failures": failures})
        return rows

    def owed(self) -> list[Row]:
        """Messages that some group has not settled, one row a group."""
        rows = []
        select = "SELECT pos, id, key, encoding, data FROM messages"
        for pos, mid, key, encoding, data in self._sql.execute(select):
            topic, seq = self.topics[pos >> TOPIC_SHIFT], pos & SEQ_MAX
            sha = fingerprint(ENCODINGS[encoding], data)
            rows += [
                {"q": topic, "grp": name, "seq": seq, "mid": mid, "key": key, "sha": sha}
                for group, (q, name, start) in self.groups.items()
                if q == topic and seq > start and (pos, group) not in self.settled
            ]
        return rows

    def dead(self) -> list[Row]:
        select = "SELECT group_id, pos, id, key, encoding, data, reason, deliveries, failures FROM dead_letters"
        rows = []
        for group, pos, mid, key, encoding, data, reason, deliveries, failures in self._sql.execute(select):
            q, grp, _ = self.groups[group]
            rows.append({
                "q": q, "grp": grp, "seq": pos & SEQ_MAX, "mid": mid, "key": key,
                "sha": fingerprint(ENCODINGS[encoding], data), "reason": reason, "deliveries": deliveries,
                "failures": failures,
            })  # fmt: skip
        return rows

    def orphans(self) -> list[str]:
        """Rows without the message they belong to, and counters that do not say what is there."""
        found = []
        for lane, pos in self._sql.execute("SELECT lane, pos FROM retries"):
            if pos not in self.positions:
                found.append(f"retry of lane {lane} for a message that is gone, seq {pos & SEQ_MAX}")
            elif (pos, lane >> 2) in self.settled:
                found.append(f"retry of lane {lane} for a message that is settled, seq {pos & SEQ_MAX}")
            elif (pos >> SEQ_BITS) & 3 != lane & 3:
                found.append(f"retry of lane {lane} for a message of another priority, seq {pos & SEQ_MAX}")
        found += [f"settled twice over: seq {pos & SEQ_MAX}" for pos, _ in self.settled if pos not in self.positions]
        stored: dict[int, int] = {}
        for pos in self.positions:
            stored[pos >> TOPIC_SHIFT] = stored.get(pos >> TOPIC_SHIFT, 0) + 1
        dead = dict(self._sql.execute("SELECT topic_id, count(*) FROM dead_letters GROUP BY topic_id"))
        for topic, name, messages, letters in self._sql.execute("SELECT id, name, messages, dead_letters FROM topics"):
            if messages != stored.get(topic, 0):
                found.append(f"topic {name} counts {messages} messages, {stored.get(topic, 0)} are there")
            if letters != dead.get(topic, 0):
                found.append(f"topic {name} counts {letters} dead letters, {dead.get(topic, 0)} are there")
        return found

    def went_back(self, before: Dump) -> list[str]:
        """What is less than it was: a topic's last seq, or a message back from being settled for good."""
        found = [
            f"topic {name}: last seq {self.last_seqs.get(name)} after {seq}"
            for name, seq in before.last_seqs.items()
            if self.last_seqs.get(name, 0) < seq
        ]
        names = {name: topic for topic, name in before.topics.items()}
        for pos in self.positions - before.positions:
            name = self.topics[pos >> TOPIC_SHIFT]
            if name in names and pos & SEQ_MAX <= before.last_seqs[name]:
                found.append(f"topic {name}: seq {pos & SEQ_MAX} is back")
        for pos, group in before.settled - self.settled:
            if pos in self.positions:
                found.append(f"seq {pos & SEQ_MAX} is no longer settled for group {group}")
        return found
