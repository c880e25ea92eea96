"""Every SQL statement the store runs, by name. Text only: it runs nothing and decides nothing.

`Bulk` holds the statements that take many rows at once. The hot path knows no executemany: one step per statement
means one release of the interpreter lock per statement, and a multi-row INSERT is the faster one besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

BULK_ROWS = (256, 64, 16, 4, 1)
"""Rows per prepared statement. Few sizes, so that all stay in the statement cache; 256 rows of the widest statement
are 2,304 variables, far below SQLite's 32,766. Larger ones were not faster."""

STATEMENTS_CACHED = 256
"""Prepared statements kept per connection: all of this module's, every size."""


class Cursor(Protocol):
    """As much of a driver's cursor as the store uses."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...
    def close(self) -> object: ...


class Connection(Protocol):
    """As much of a driver's connection as the store uses."""

    text_factory: Any

    @property
    def in_transaction(self) -> bool: ...
    @property
    def execute(self) -> Execute: ...
    def close(self) -> None: ...


Execute = Callable[..., Cursor]
"""execute(sql, parameters=()) of an open connection."""


class Bulk:
    """One statement over a list of rows: `head row,row,... tail`. Values come flat, row after row."""

    __slots__ = ("_texts", "_width")

    def __init__(self, head: str, row: str, tail: str = "") -> None:
        self._width = row.count("?")
        self._texts = [(n * self._width, head + ",".join([row] * n) + tail) for n in BULK_ROWS]

    def chunks(self, values: list[Any]) -> Iterator[tuple[str, list[Any]]]:
        """Yield (sql, values) per statement to run."""
        start, left = 0, len(values)
        for size, text in self._texts:
            while left >= size:
                yield text, values[start : start + size]
                start += size
                left -= size

    def run(self, execute: Execute, values: list[Any], *first: Any) -> int:
        """Run it over all rows, `first` before the values of each statement. Returns the rows changed."""
        changed = 0
        for text, chunk in self.chunks(values):
            changed += execute(text, [*first, *chunk] if first else chunk).rowcount
        return changed

    def fetch(self, execute: Execute, values: Iterable[Any], *first: Any) -> list[Any]:
        """Run it over all rows and collect what it selects."""
        found: list[Any] = []
        for text, chunk in self.chunks(list(values)):
            found += execute(text, [*first, *chunk])
        return found


# -- transactions

BEGIN = "BEGIN IMMEDIATE"  # a deferred one fails at its first write, without waiting, when another came between
BEGIN_READ = "BEGIN"  # several SELECTs, one snapshot
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"
CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
CHECKPOINT_AND_EMPTY = "PRAGMA wal_checkpoint(TRUNCATE)"

# -- registry

SELECT_META = "SELECT value FROM meta WHERE name = ?"
SET_META = "INSERT INTO meta(name, value) VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value"
SELECT_TOPICS = "SELECT id, tenant, name, last_seq, messages, bytes, dead_letters FROM topics ORDER BY id"
SELECT_GROUPS = "SELECT id, topic_id, name, start_seq FROM groups ORDER BY id"
INSERT_TOPIC = "INSERT INTO topics(tenant, name) VALUES (?, ?) RETURNING id"
DELETE_TOPIC = "DELETE FROM topics WHERE id = ?"
INSERT_GROUP = "INSERT INTO groups(topic_id, name, start_seq) VALUES (?, ?, ?) RETURNING id"
UPDATE_TOPICS = Bulk(
    "UPDATE topics SET last_seq = v.column2, messages = v.column3, bytes = v.column4, dead_letters = v.column5"
    " FROM (VALUES ",
    "(?,?,?,?,?)",
    ") AS v WHERE topics.id = v.column1",
)

# -- messages

# Most messages have no key, no headers and no content type. Binding a NULL costs the driver half a microsecond
# (it looks for an adapter), so these get a statement of their own.
INSERT_PLAIN = Bulk("INSERT INTO messages(pos, id, encoding, published_at, crc, data) VALUES ", "(?,?,?,?,?,?)")
INSERT_FULL = Bulk(
    "INSERT INTO messages(pos, id, encoding, published_at, crc, data, key, headers, content_type) VALUES ",
    "(?,?,?,?,?,?,?,?,?)",
)
DELETE_MESSAGES = Bulk("DELETE FROM messages WHERE pos IN (", "?", ")")
SELECT_KEPT = Bulk("SELECT pos FROM messages WHERE pos IN (", "?", ")")
SELECT_MESSAGE = """
    SELECT pos, id, key, encoding, content_type, headers, published_at, crc, data FROM messages WHERE pos = ?"""
SELECT_RANGE = """
    SELECT pos, id, key, encoding, content_type, headers, published_at, crc, data
    FROM messages WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT ?"""
SELECT_OLDEST = "SELECT pos FROM messages WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT 1"
# The last of the next n rows: what bounds the work of a scan that skips rows.
SELECT_NTH = "SELECT pos FROM messages WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT 1 OFFSET ?"
# The backlog of a lane of which some rows are settled by this group or wait for their retry: group id, lane, range,
# then the horizon (due, pos) above which a row is left to `SELECT_DUE`.
SELECT_BACKLOG = """
    SELECT m.pos, m.id, m.key, m.encoding, m.content_type, m.headers, m.published_at, m.crc, m.data,
           r.deliveries, r.failures
    FROM messages AS m LEFT JOIN retries AS r ON r.lane = ? AND r.pos = m.pos
    WHERE m.pos > ? AND m.pos <= ?
      AND (r.due IS NULL OR (r.due, r.pos) <= (?, ?))
      AND NOT EXISTS (SELECT 1 FROM settled AS s WHERE s.pos = m.pos AND s.group_id = ?)
    ORDER BY m.pos LIMIT ?"""

# -- retries

UPSERT_RETRIES = Bulk(
    "INSERT INTO retries(lane, pos, due, deliveries, failures)"
    " SELECT v.column1, v.column2, v.column3, v.column4, v.column5 FROM (VALUES ",
    "(?,?,?,?,?)",
    # A settled or unknown message gets no row, or the row would stay for ever. Counts on disk never decrease.
    ") AS v JOIN messages AS m ON m.pos = v.column2"
    " WHERE NOT EXISTS (SELECT 1 FROM settled AS s WHERE s.pos = v.column2 AND s.group_id = v.column1 >> 2)"
    " ON CONFLICT(lane, pos) DO UPDATE SET due = excluded.due,"
    " deliveries = max(deliveries, excluded.deliveries), failures = max(failures, excluded.failures)",
)
DELETE_RETRIES = Bulk("DELETE FROM retries WHERE lane = ? AND pos IN (", "?", ")")
SELECT_RETRY = "SELECT due, deliveries, failures FROM retries WHERE lane = ? AND pos = ?"
SELECT_DUE = (
    "SELECT due, pos, deliveries, failures FROM retries WHERE lane = ? AND (due, pos) > (?, ?) AND due <= ?"
    " ORDER BY due, pos LIMIT ?"
)
SELECT_NEXT_DUE = "SELECT due FROM retries WHERE lane = ? AND (due, pos) > (?, ?) ORDER BY due, pos LIMIT 1"
SELECT_NEXT_LANE = "SELECT lane FROM retries WHERE lane > ? ORDER BY lane LIMIT 1"
SELECT_HAS_RETRIES = "SELECT 1 FROM retries WHERE lane = ? LIMIT 1"

# -- settlements of messages owed to several groups

INSERT_SETTLED = Bulk(
    "INSERT OR IGNORE INTO settled(pos, group_id) SELECT pos, ? FROM messages WHERE pos IN (", "?", ")"
)
COUNT_SETTLED = Bulk("SELECT pos, count(*) FROM settled WHERE pos IN (", "?", ") GROUP BY pos")
DELETE_SETTLED = Bulk("DELETE FROM settled WHERE pos IN (", "?", ")")
SELECT_SETTLED_BY = "SELECT group_id FROM settled WHERE pos = ?"
SELECT_ANY_SETTLED = "SELECT 1 FROM settled LIMIT 1"

# -- dead letters

INSERT_DEAD = """
    INSERT INTO dead_letters(topic_id, group_id, pos, id, key, encoding, content_type, headers, published_at, crc,
                             data, reason, error, deliveries, failures, at)
    SELECT ?, ?, pos, id, key, encoding, content_type, headers, published_at, crc, data, ?, ?, ?, ?, ?
    FROM messages AS m
    WHERE pos = ? AND NOT EXISTS (SELECT 1 FROM settled AS s WHERE s.pos = m.pos AND s.group_id = ?)"""
DELETE_DEAD_OLDEST = """
    DELETE FROM dead_letters WHERE number IN (
        SELECT number FROM dead_letters WHERE topic_id = ? ORDER BY number LIMIT ?)"""
# Only among the oldest few: a look at all of them would cost more with every one kept.
DELETE_DEAD_EXPIRED = """
    DELETE FROM dead_letters WHERE number IN (
        SELECT number FROM (SELECT number, at FROM dead_letters WHERE topic_id = ? ORDER BY number LIMIT ?)
        WHERE at < ?)"""
SELECT_DEAD = """
    SELECT d.pos, d.id, d.key, d.encoding, d.content_type, d.headers, d.published_at, d.crc, d.data,
           d.number, g.name, d.reason, d.error, d.deliveries, d.failures, d.at
    FROM dead_letters AS d JOIN groups AS g ON g.id = d.group_id
    WHERE d.topic_id = ? ORDER BY d.number DESC LIMIT ?"""


class Generation:
    """The statements of one of the two tables of remembered ids, `current` while the other is `older`."""

    def __init__(self, current: str, older: str) -> None:
        def named(text: str) -> str:
            return text.replace("CURRENT", current).replace("OLDER", older)

        row = "(?,?,?,?)"
        self.remember = Bulk(named("INSERT OR IGNORE INTO CURRENT(topic_id, id, seq, fingerprint) VALUES "), row)
        self.remember_unless_older = Bulk(
            named("INSERT OR IGNORE INTO CURRENT(topic_id, id, seq, fingerprint) SELECT * FROM (VALUES "),
            row,
            named(
                ") AS v WHERE NOT EXISTS (SELECT 1 FROM OLDER AS o WHERE o.topic_id = v.column1 AND o.id = v.column2)"
            ),
        )
        recall = "SELECT id, seq, fingerprint FROM CURRENT WHERE topic_id = ? AND id IN ("
        self.recall = Bulk(named(recall), "?", ")")
        self.recall_older = Bulk(named(recall.replace("CURRENT", "OLDER")), "?", ")")
        self.any_older = named("SELECT 1 FROM OLDER LIMIT 1")
        # The next ids to forget, in key order: how many of each topic, and the last of them.
        self.count_oldest = named(
            "SELECT topic_id, count(*) FROM (SELECT topic_id FROM OLDER ORDER BY id, topic_id LIMIT ?)"
            " GROUP BY topic_id"
        )
        self.last_of_oldest = named("SELECT id, topic_id FROM OLDER ORDER BY id, topic_id LIMIT 1 OFFSET ?")
        self.forget = named("DELETE FROM OLDER WHERE (id, topic_id) <= (?, ?)")


GENERATIONS = (Generation("dedupe_a", "dedupe_b"), Generation("dedupe_b", "dedupe_a"))
