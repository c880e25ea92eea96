"""Every SQL statement the store runs, by name. Text only: it runs nothing and decides nothing.

`Bulk` holds the statements that take many rows at once. The hot path knows no executemany: one step per statement
means one release of the interpreter lock per statement, and a multi-row INSERT is the faster one besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from . import seals

BULK_ROWS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Rows per prepared statement: any number of rows takes few statements (fifty 3, where steps of four took 5), and all
sizes stay in the statement cache. 256 rows of the widest statement are 3,072 variables, far below SQLite's 32,766.
Larger ones were not faster."""

STATEMENTS_CACHED = 384
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
    def interrupt(self) -> None: ...
    def close(self) -> None: ...


Execute = Callable[..., Cursor]
"""execute(sql, parameters=()) of an open connection."""


class Bulk:
    """One statement over a list of rows: `head row,row,... tail`. Values come flat, row after row."""

    __slots__ = ("_texts", "width")

    def __init__(self, head: str, row: str, tail: str = "") -> None:
        self.width = row.count("?")
        self._texts = [(n * self.width, head + ",".join([row] * n) + tail) for n in BULK_ROWS]

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
QUICK_CHECK = "PRAGMA quick_check(1)"
CHECKPOINT_AND_EMPTY = "PRAGMA wal_checkpoint(TRUNCATE)"
WAIT_FOR_NOBODY = "PRAGMA busy_timeout = 0"

# -- registry

SELECT_META = "SELECT value FROM meta WHERE name = ?"
SET_META = "INSERT INTO meta(name, value) VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value"
SELECT_TOPICS = """
    SELECT id, tenant, name, last_seq, messages, bytes, dead_letters, scheduled, ids, floor, config
    FROM topics WHERE deleted = 0 ORDER BY id"""
SELECT_DELETED = "SELECT id, last_seq, ids FROM topics WHERE tenant = ? AND name = ? AND deleted = 1"
SELECT_GROUPS = "SELECT id, topic_id, name, start_seq, paused, owner, inactive_ttl FROM groups ORDER BY id"
INSERT_TOPIC = "INSERT INTO topics(tenant, name, config) VALUES (?, ?, ?) RETURNING id"
REVIVE_TOPIC = "UPDATE topics SET deleted = 0, config = ? WHERE id = ?"
LAST_TOPIC_ID = "SELECT seq FROM sqlite_sequence WHERE name = 'topics'"
COUNT_NAMES = "SELECT count(*) FROM (SELECT 1 FROM topics WHERE tenant = ? LIMIT ?)"
CONFIGURE_TOPIC = "UPDATE topics SET config = ? WHERE id = ?"
DELETE_TOPIC = """
    UPDATE topics SET deleted = 1, last_seq = ?1, floor = ?1, ids = ?2,
        messages = 0, bytes = 0, dead_letters = 0, scheduled = 0 WHERE id = ?3"""
FORGET_IDS_OF_DELETED = "UPDATE topics SET ids = ids - ? WHERE id = ? AND deleted = 1"
INSERT_GROUP = """
    INSERT INTO groups(topic_id, name, start_seq, owner, inactive_ttl) VALUES (?, ?, ?, ?, ?) RETURNING id"""
PAUSE_GROUP = "UPDATE groups SET paused = ? WHERE id = ?"
MOVE_GROUP = "UPDATE groups SET start_seq = ? WHERE id = ?"
RAISE_GROUPS = "UPDATE groups SET start_seq = ? WHERE topic_id = ? AND start_seq < ?"
DELETE_GROUP = "DELETE FROM groups WHERE id = ?"
DELETE_GROUPS = "DELETE FROM groups WHERE topic_id = ?"
UPDATE_TOPICS = Bulk(
    "UPDATE topics SET last_seq = v.column2, messages = v.column3, bytes = v.column4, dead_letters = v.column5,"
    " scheduled = v.column6, ids = v.column7, floor = v.column8, seal = "
    + seals.topic_seal("topics.id", *(f"v.column{n}" for n in range(2, 9)))
    + " FROM (VALUES ",
    "(?,?,?,?,?,?,?,?)",
    ") AS v WHERE topics.id = v.column1",
)

# -- chores

INSERT_CHORE = "INSERT INTO chores(kind, topic_id, after_pos, through_pos) VALUES (?, ?, ?, ?) RETURNING number"
UPDATE_CHORE = "UPDATE chores SET after_pos = ? WHERE number = ?"
DELETE_CHORE = "DELETE FROM chores WHERE number = ?"
SELECT_CHORES = "SELECT number, kind, topic_id, after_pos, through_pos FROM chores ORDER BY number"

# -- messages

# Most messages have no key, no headers and no content type. Binding a NULL costs the driver half a microsecond
# (it looks for an adapter), so these get a statement of their own.
INSERT_PLAIN = Bulk("INSERT INTO messages(pos, id, encoding, published_at, crc, data) VALUES ", "(?,?,?,?,?,?)")
INSERT_FULL = Bulk(
    "INSERT INTO messages(pos, id, encoding, published_at, crc, data, key, headers, content_type, due, expires, seal)"
    " VALUES ",
    "(?,?,?,?,?,?,?,?,?,?,?,?)",
)
_COLUMNS = "pos, id, key, encoding, content_type, headers, published_at, crc, data, due, expires, redriven, seal"
_NAMED = {
    "COLUMNS_OF_M": ", ".join(f"m.{name}" for name in _COLUMNS.split(", ")),
    "LETTER": "TIMES, number, group_id, group_name, reason, error, deliveries, failures, at, attempts, "
    + seals.LETTER_SOUND,
    "COLUMNS": _COLUMNS,
    "TIMES": _COLUMNS.replace(", seal", ", times"),
    "BYTES": "length(data) + ifnull(length(headers), 0) + ifnull(length(key), 0)",  # as `Message.size_bytes`
    "UNSETTLED": "NOT EXISTS (SELECT 1 FROM settled AS s WHERE s.pos = m.pos AND s.group_id = ?"
    f" AND s.seal = {seals.mark_seal('s.pos', 's.group_id')})",
}


def _named(text: str) -> str:
    """The statement with its lists of columns put in: they are written down once, in the order that
    `planning.message_of` reads."""
    for name, part in _NAMED.items():
        text = text.replace(name, part)
    return text


DELETE_MESSAGES = Bulk("DELETE FROM messages WHERE pos IN (", "?", ")")
DELETE_MESSAGES_BETWEEN = "DELETE FROM messages WHERE pos BETWEEN ? AND ?"
SELECT_KEPT = Bulk("SELECT pos FROM messages WHERE pos IN (", "?", ")")
SELECT_MESSAGE = _named("SELECT COLUMNS FROM messages WHERE pos = ?")
SELECT_RANGE = _named("SELECT COLUMNS FROM messages WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT ?")
SELECT_OLDEST = "SELECT pos FROM messages WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT 1"
# The last of the next n rows: what bounds the work of a scan that skips rows.
SELECT_NTH = "SELECT pos FROM messages WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT 1 OFFSET ?"
SELECT_NTH_OF_KEY = "SELECT pos FROM messages WHERE key = ? AND pos > ? AND pos <= ? ORDER BY pos LIMIT 1 OFFSET ?"
# The backlog of a lane of which some rows are settled by this group or wait for their retry: lane, range, then the
# horizon (due, pos) above which a row is left to `SELECT_DUE`; if it has a key, it is named without its body.
_WITH_RETRY = _named("""
    SELECT COLUMNS_OF_M, r.deliveries, r.failures, r.due
    FROM messages AS m LEFT JOIN retries AS r ON r.lane = ? AND r.pos = m.pos""")
SELECT_BACKLOG = (
    _WITH_RETRY.replace("m.data", "CASE WHEN (r.due, r.pos) > (?, ?) THEN NULL ELSE m.data END")
    + " WHERE m.pos > ? AND m.pos <= ? AND (m.key IS NOT NULL OR r.due IS NULL OR (r.due, r.pos) <= (?, ?))"
    + _named(" AND UNSETTLED ORDER BY m.pos LIMIT ?")
)
SELECT_BY_KEY = (
    _WITH_RETRY
    + " WHERE m.key = ? AND m.pos > ? AND m.pos <= ? AND (r.due IS NULL OR (r.due, r.pos) <= (?, ?))"
    + _named(" AND UNSETTLED ORDER BY m.pos LIMIT ?")
)
SELECT_FLOOR = "SELECT floor FROM topics WHERE id = ?"
SELECT_PUBLISHED_FROM = "SELECT pos, published_at FROM messages WHERE pos >= ? AND pos <= ? ORDER BY pos LIMIT 1"

# -- time: scheduled messages, TTLs, retention, purges

SELECT_SCHEDULED_DUE = "SELECT pos FROM messages WHERE due > 0 AND due <= ? ORDER BY due LIMIT ?"
SELECT_NEXT_SCHEDULED = "SELECT min(due) FROM messages WHERE due > 0"
PROMOTE = Bulk("UPDATE messages SET pos = pos - ?, due = -due WHERE pos IN (", "?", ")")
INSERT_PROMOTED = Bulk(
    "INSERT OR IGNORE INTO retries(lane, pos, due, deliveries, failures, seal)"
    " SELECT v.column1, v.column2, v.column3, 0, 0, "
    + seals.retry_seal("v.column1", "v.column2", "v.column3", "0", "0", "''")
    + " FROM (VALUES ",
    "(?,?,?)",
    ") AS v",
)
SELECT_EXPIRED = _named("""
    SELECT COLUMNS FROM messages
    WHERE expires IS NOT NULL AND (expires, pos) > (?, ?) AND expires <= ? ORDER BY expires, pos LIMIT ?""")
SELECT_NEXT_EXPIRY = """
    SELECT expires FROM messages
    WHERE expires IS NOT NULL AND (expires, pos) > (?, ?) ORDER BY expires, pos LIMIT 1"""
SELECT_PUBLISHED = _named("""
    SELECT pos, published_at, BYTES FROM messages WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT ?""")
COUNT_RANGE = _named("SELECT count(*), ifnull(sum(BYTES), 0) FROM messages WHERE pos > ? AND pos <= ?")
DELETE_RANGE = "DELETE FROM messages WHERE pos > ? AND pos <= ?"
# max_age became another: every message gets the earlier of its own TTL and the new age (0: none), where its TTL is not
# just the old age. Parameters: old age, new age, new age, range.
_AGED = """CASE
        WHEN expires IS NULL OR expires = max(published_at, abs(ifnull(due, 0))) + ?1
            THEN CASE WHEN ?2 > 0 THEN max(published_at, abs(ifnull(due, 0))) + ?2 END
        WHEN ?2 > 0 THEN min(expires, max(published_at, abs(ifnull(due, 0))) + ?2)
        ELSE expires END"""
SET_AGE = (
    f"UPDATE messages SET expires = {_AGED}, seal = {seals.message_seal(expires=_AGED)} WHERE pos > ?3 AND pos <= ?4"
)

# -- retries

_KEPT = (
    "max(deliveries, excluded.deliveries)",
    "max(failures, excluded.failures)",
    "CASE WHEN excluded.attempts = '' THEN attempts ELSE excluded.attempts END",
)
UPSERT_RETRIES = Bulk(
    "INSERT INTO retries(lane, pos, due, deliveries, failures, attempts, seal)"
    " SELECT v.column1, v.column2, v.column3, v.column4, v.column5, v.column6, "
    + seals.retry_seal(*(f"v.column{n}" for n in range(1, 7)))
    + " FROM (VALUES ",
    "(?,?,?,?,?,?)",
    # A settled or unknown message gets no row, or the row would stay for ever. Counts on disk never decrease.
    ") AS v JOIN messages AS m ON m.pos = v.column2"
    " WHERE NOT EXISTS (SELECT 1 FROM settled AS s WHERE s.pos = v.column2 AND s.group_id = v.column1 >> 2)"
    " ON CONFLICT(lane, pos) DO UPDATE SET due = excluded.due,"
    f" deliveries = {_KEPT[0]}, failures = {_KEPT[1]}, attempts = {_KEPT[2]},"
    f" seal = {seals.retry_seal('lane', 'pos', 'excluded.due', *_KEPT)}",
)
SELECT_ATTEMPTS = Bulk("SELECT pos, attempts FROM retries WHERE lane = ? AND pos IN (", "?", ")")
SELECT_RECORD = "SELECT deliveries, failures, attempts FROM retries WHERE lane = ? AND pos = ?"
DELETE_RETRIES = Bulk("DELETE FROM retries WHERE lane = ? AND pos IN (", "?", ")")
SELECT_RETRY = "SELECT due, deliveries, failures FROM retries WHERE lane = ? AND pos = ?"
SELECT_DUE = (
    "SELECT due, pos, deliveries, failures FROM retries WHERE lane = ? AND (due, pos) > (?, ?) AND due <= ?"
    " ORDER BY due, pos LIMIT ?"
)
SELECT_NEXT_DUE = "SELECT due FROM retries WHERE lane = ? AND (due, pos) > (?, ?) ORDER BY due, pos LIMIT 1"
SELECT_NEXT_LANE = "SELECT lane FROM retries WHERE lane > ? ORDER BY lane LIMIT 1"
DELETE_RETRIES_RANGE = "DELETE FROM retries WHERE lane = ? AND pos <= ?"
DELETE_RETRIES_OF = "DELETE FROM retries WHERE lane >= ? AND lane <= ?"
SELECT_HAS_RETRIES = "SELECT 1 FROM retries WHERE lane = ? LIMIT 1"

# -- settlements of messages owed to several groups

INSERT_SETTLED = Bulk(
    f"INSERT INTO settled(pos, group_id, seal) SELECT pos, ?1, {seals.mark_seal('pos', '?1')}"
    " FROM messages WHERE pos IN (",
    "?",
    # A mark that is damaged is none; it is made whole again.
    ") ON CONFLICT(pos, group_id) DO UPDATE SET seal = excluded.seal",
)
COUNT_SETTLED = Bulk(
    "SELECT pos, count(*) FROM settled WHERE pos IN (", "?", f") AND seal = {seals.mark_seal()} GROUP BY pos"
)
DELETE_SETTLED = Bulk("DELETE FROM settled WHERE pos IN (", "?", ")")
SELECT_SETTLED_BY = f"SELECT group_id FROM settled WHERE pos = ? AND seal = {seals.mark_seal()}"
COUNT_SETTLED_RANGE = (
    f"SELECT pos, count(*) FROM settled WHERE pos > ? AND pos <= ? AND seal = {seals.mark_seal()} GROUP BY pos"
)
DELETE_SETTLED_RANGE = "DELETE FROM settled WHERE pos > ? AND pos <= ?"
DELETE_SETTLED_OF = "DELETE FROM settled WHERE pos > ? AND pos <= ? AND group_id = ?"
SELECT_NEXT_SETTLED = "SELECT pos FROM settled WHERE pos > ? ORDER BY pos LIMIT 1"

# -- dead letters

DELETE_DEAD_OF_TOPIC = "DELETE FROM dead_letters WHERE topic_id = ?"
INSERT_DEAD = _named("""
    INSERT INTO dead_letters(TIMES, topic_id, group_id, group_name, reason, error, deliveries, failures, at, attempts)
    SELECT COLUMNS, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM messages AS m WHERE pos = ? AND UNSETTLED""")
DELETE_DEAD_OLDEST = """
    DELETE FROM dead_letters WHERE number IN (
        SELECT number FROM dead_letters WHERE topic_id = ? ORDER BY number LIMIT ?)"""
SELECT_FIRST_LETTERS = "SELECT number, topic_id, at FROM dead_letters ORDER BY number LIMIT ?"
DELETE_FIRST_LETTERS = Bulk("DELETE FROM dead_letters WHERE number IN (", "?", ")")
SELECT_LETTER = _named("SELECT LETTER FROM dead_letters WHERE number = ? AND topic_id = ?")
SELECT_LETTERS = _named("""
    SELECT LETTER FROM dead_letters
    WHERE topic_id = ?1 AND number > ?2 AND (?3 IS NULL OR group_name = ?3) AND (?4 IS NULL OR reason = ?4)
      AND (?5 IS NULL OR key = ?5) ORDER BY number LIMIT ?6""")
DELETE_LETTERS = Bulk("DELETE FROM dead_letters WHERE topic_id = ? AND number IN (", "?", ")")
INSERT_REDRIVEN = Bulk(
    "INSERT INTO messages(pos, id, key, encoding, content_type, headers, published_at, crc, data, expires, redriven,"
    " seal) VALUES ",
    "(?,?,?,?,?,?,?,?,?,?,1,?)",
)
INSERT_MARKS = Bulk(
    "INSERT INTO settled(pos, group_id, seal)"
    f" SELECT v.column1, v.column2, {seals.mark_seal('v.column1', 'v.column2')} FROM (VALUES ",
    "(?,?)",
    ") AS v",
)

# -- revocations

UPSERT_REVOCATION = """
    INSERT INTO revocations(issuer, jti, subject, issued_before, expires) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT(issuer, jti, subject) DO UPDATE SET
        issued_before = max(issued_before, excluded.issued_before), expires = max(expires, excluded.expires)"""
DELETE_REVOCATIONS = "DELETE FROM revocations WHERE expires <= ?"
SELECT_REVOCATIONS = (
    "SELECT issuer, jti, subject, issued_before, expires FROM revocations ORDER BY issuer, jti, subject"
)

# -- the ledger (see ledger.py)

INSERT_EVENTS = Bulk(
    "INSERT INTO ledger(topic_id, group_name, at, event, subject, session, attempt, detail, seq, bits) VALUES ",
    "(?,?,?,?,?,?,?,?,?,?)",
)
SELECT_HISTORY = """
    SELECT group_name, at, event, subject, session, attempt, detail FROM ledger
    WHERE topic_id = ? AND seq BETWEEN ? AND ? AND bits >> (? - seq) & 1
    ORDER BY at, attempt, event, number LIMIT ?"""
SELECT_ANY_EVENT = "SELECT 1 FROM ledger LIMIT 1"
SELECT_EVENTS_FROM = "SELECT number, at, topic_id, seq, bits FROM ledger WHERE number > ? ORDER BY number LIMIT ?"
DELETE_EVENTS = Bulk("DELETE FROM ledger WHERE number IN (", "?", ")")
DELETE_EVENTS_OF_TOPIC = "DELETE FROM ledger WHERE number IN (SELECT number FROM ledger WHERE topic_id = ? LIMIT ?)"
SELECT_PLACES = "SELECT pos FROM messages WHERE pos BETWEEN ? AND ?"

# -- the whole file (see maintenance.py)

COPY_INTO = "VACUUM INTO ?"
CHECK_FILE = "PRAGMA integrity_check(100)"
CHECK_NEXT_TOPIC = "SELECT id FROM topics WHERE id > ? ORDER BY id LIMIT 1"
CHECK_COUNTERS = """
    SELECT tenant, name, floor, messages, bytes, dead_letters, scheduled, ids FROM topics
    WHERE id = ? AND NOT deleted"""
CHECK_IDS = """
    SELECT (SELECT count(*) FROM dedupe_a WHERE topic_id = ?) + (SELECT count(*) FROM dedupe_b WHERE topic_id = ?)"""
CHECK_DEAD = "SELECT count(*) FROM dead_letters WHERE topic_id = ?"
CHECK_MESSAGES = _named("SELECT pos, COLUMNS FROM messages WHERE pos > ? ORDER BY pos LIMIT ?")
CHECK_LETTERS = _named("SELECT number, TIMES FROM dead_letters WHERE number > ? ORDER BY number LIMIT ?")
_ORPHANS = (
    ("groups of no topic", "groups", "topics AS o WHERE o.id = t.topic_id"),
    ("dead letters of no topic", "dead_letters", "topics AS o WHERE o.id = t.topic_id"),
    ("messages of no topic", "messages", "topics AS o WHERE o.id = t.pos >> 45"),
    ("retries of no message", "retries", "messages AS o WHERE o.pos = t.pos"),
    ("retries of no group", "retries", "groups AS o WHERE o.id = t.lane >> 2"),
    ("settled marks of no message", "settled", "messages AS o WHERE o.pos = t.pos"),
    # A deleted topic's are left to a chore.
    (
        "settled marks of no group",
        "settled",
        "groups AS o WHERE o.id = t.group_id UNION ALL SELECT 1 FROM chores AS o WHERE o.topic_id = t.pos >> 45",
    ),
)
_COUNT_ORPHANS = "SELECT count(*) FROM TABLE_ AS t WHERE NOT EXISTS (SELECT 1 FROM OWNER)"
CHECK_ORPHANS = [
    (what, _COUNT_ORPHANS.replace("TABLE_", table).replace("OWNER", owner)) for what, table, owner in _ORPHANS
]


_FORGET_ONE = "DELETE FROM CURRENT WHERE topic_id = ? AND id = ?"


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
        # The next ids to forget, in key order: how many of each topic.
        self.count_oldest = named(
            "SELECT topic_id, count(*) FROM (SELECT topic_id FROM OLDER ORDER BY id, topic_id LIMIT ?)"
            " GROUP BY topic_id"
        )
        # The last one is not fetched: damage can have made of its id what is no text.
        self.forget = named(
            "DELETE FROM OLDER WHERE (id, topic_id) <="
            " (SELECT id, topic_id FROM OLDER ORDER BY id, topic_id LIMIT 1 OFFSET ?)"
        )
        self.forget_one = (named(_FORGET_ONE), named(_FORGET_ONE.replace("CURRENT", "OLDER")))
        # For a look at all of them, a piece at a time; ids as bytes, for the same reason.
        self.look = named(
            "SELECT CAST(id AS BLOB), topic_id, seq, fingerprint FROM CURRENT"
            " WHERE (id, topic_id) > (CAST(? AS TEXT), ?) ORDER BY id, topic_id LIMIT ?"
        )


GENERATIONS = (Generation("dedupe_a", "dedupe_b"), Generation("dedupe_b", "dedupe_a"))
