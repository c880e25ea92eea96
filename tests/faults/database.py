"""What a stopped gateway left on its disk, read directly: rows for the checker, and the file's own consistency.

Owns a copy: the files themselves are never opened, because whoever opens a database after a crash recovers its log
and thereby does what the gateway is to be tested for. Knows the schema, not the code that writes it.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.history import fingerprint
from pushwire_storage.planning import SCHEDULED, SEQ_BITS, SEQ_MAX, TOPIC_SHIFT

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
    """Everything a checker wants to know of one moment. Rows at or below a topic's floor are purged, or of a topic that
    was deleted: they are nobody's any more, and may lie there until the store has come to them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection
        topics = connection.execute("SELECT id, name, last_seq, floor FROM topics").fetchall()
        self.topics = {topic: name for topic, name, _, _ in topics}
        self.last_seqs = {name: last_seq for _, name, last_seq, _ in topics}
        self._floors = {topic: floor for topic, _, _, floor in topics}
        groups = connection.execute("SELECT id, topic_id, name, start_seq FROM groups").fetchall()
        self.groups = {group: (self.topics[topic], name, start) for group, topic, name, start in groups}
        places = {row[0] for row in connection.execute("SELECT pos FROM messages") if self._kept(row[0])}
        self.scheduled = {pos ^ SCHEDULED for pos in places if pos & SCHEDULED}
        """Where messages will lie once they are due."""
        self.positions = {pos & ~SCHEDULED for pos in places}
        """Of all messages, scheduled or not."""
        self.twice = len(places) - len(self.positions)
        self.settled = {row for row in connection.execute("SELECT pos, group_id FROM settled") if self._kept(row[0])}

    def _kept(self, pos: int) -> bool:
        return pos & SEQ_MAX > self._floors.get(pos >> TOPIC_SHIFT, 0)

    def integrity(self) -> str:
        answer: str = self._sql.execute("PRAGMA integrity_check").fetchone()[0]
        return answer

    def counts(self) -> list[Row]:
        """Committed counters of messages not yet settled."""
        rows = []
        for lane, pos, deliveries, failures in self._sql.execute("SELECT lane, pos, deliveries, failures FROM retries"):
            if lane >> 2 not in self.groups:
                continue  # an orphan
            q, grp, _ = self.groups[lane >> 2]
            rows.append({"q": q, "grp": grp, "seq": pos & SEQ_MAX, "deliveries": deliveries, "failures": failures})
        return rows

    def owed(self) -> list[Row]:
        """Messages that some group has not settled, one row a group; those that are not due yet too."""
        rows = []
        select = "SELECT pos, id, key, encoding, data FROM messages"
        for pos, mid, key, encoding, data in self._sql.execute(select):
            if not self._kept(pos):
                continue
            topic, seq, place = self.topics[pos >> TOPIC_SHIFT], pos & SEQ_MAX, pos & ~SCHEDULED
            sha = fingerprint(ENCODINGS[encoding], data)
            rows += [
                {"q": topic, "grp": name, "seq": seq, "mid": mid, "key": key, "sha": sha}
                for group, (q, name, start) in self.groups.items()
                if q == topic and seq > start and (place, group) not in self.settled
            ]
        return rows

    def dead(self) -> list[Row]:
        select = (
            "SELECT topic_id, group_name, pos, id, key, encoding, data, reason, deliveries, failures FROM dead_letters"
        )
        rows = []
        for topic, grp, pos, mid, key, encoding, data, reason, deliveries, failures in self._sql.execute(select):
            rows.append({
                "q": self.topics[topic], "grp": grp, "seq": pos & SEQ_MAX, "mid": mid, "key": key,
                "sha": fingerprint(ENCODINGS[encoding], data), "reason": reason, "deliveries": deliveries,
                "failures": failures,
            })  # fmt: skip
        return rows

    def orphans(self) -> list[str]:
        """Rows without the message they belong to, and counters that do not say what is there."""
        found = []
        for lane, pos in self._sql.execute("SELECT lane, pos FROM retries"):
            wrong = self._wrong_retry(lane, pos)
            if wrong:
                found.append(f"retry of lane {lane} for a message {wrong}, seq {pos & SEQ_MAX}")
        found += [f"settled twice over: seq {pos & SEQ_MAX}" for pos, _ in self.settled if pos not in self.positions]
        found += [f"settled before it was due: seq {pos & SEQ_MAX}" for pos, _ in self.settled if pos in self.scheduled]
        found += [f"{self.twice} messages are both scheduled and due"] * bool(self.twice)
        stored = Counter(pos >> TOPIC_SHIFT for pos in self.positions)
        waiting = Counter(pos >> TOPIC_SHIFT for pos in self.scheduled)
        dead = dict(self._sql.execute("SELECT topic_id, count(*) FROM dead_letters GROUP BY topic_id"))
        select = "SELECT id, name, messages, scheduled, dead_letters FROM topics"
        for topic, name, *counted in self._sql.execute(select):
            there = (stored[topic], waiting[topic], dead.get(topic, 0))
            for what, said, is_ in zip(("messages", "scheduled", "dead letters"), counted, there, strict=True):
                if said != is_:
                    found.append(f"topic {name} counts {said} {what}, {is_} are there")
        return found

    def _wrong_retry(self, lane: int, pos: int) -> str:
        if pos not in self.positions:
            return "that is gone"
        if (pos, lane >> 2) in self.settled:
            return "that is settled"
        if pos in self.scheduled:
            return "that is not due yet"
        if (pos >> SEQ_BITS) & 3 != lane & 3:
            return "of another priority"
        return "" if lane >> 2 in self.groups else "of a group that is gone"

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
