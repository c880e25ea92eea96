"""The shape of the file: numbered, forward-only migrations, each one transaction. It opens nothing and keeps nothing.

`PRAGMA user_version` counts the migrations applied; it is written inside each one's transaction, so a crash leaves the
file before it or after it. A released migration is never edited: append another.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from . import seals
from .base import StoreRefused
from .queries import BEGIN, COMMIT, ROLLBACK, SET_META, Connection, Cursor, Execute

APPLICATION_ID = 0x50574952
"""\"PWIR\": tells a file of ours from any other SQLite database."""

_FIRST = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    # AUTOINCREMENT: an id is part of every position and lane, so it must never come back.
    """CREATE TABLE topics (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        last_seq INTEGER NOT NULL DEFAULT 0,
        messages INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0,
        dead_letters INTEGER NOT NULL DEFAULT 0,
        UNIQUE (tenant, name))""",
    """CREATE TABLE groups (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        topic_id INTEGER NOT NULL,
        name TEXT NOT NULL,
        start_seq INTEGER NOT NULL,
        UNIQUE (topic_id, name))""",
    # pos: see planning.py. due and expires are for scheduled and expiring messages. data comes last, so that reading
    # the rest never touches the overflow pages of a large body.
    """CREATE TABLE messages (
        pos INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        key TEXT,
        encoding INTEGER NOT NULL,
        content_type TEXT,
        headers BLOB,
        published_at INTEGER NOT NULL,
        due INTEGER,
        expires INTEGER,
        crc INTEGER NOT NULL,
        data BLOB NOT NULL)""",
    # lane is group id << 2 | priority. due 0: in the gateway's hands, or due as soon as the lane is opened again.
    """CREATE TABLE retries (
        lane INTEGER NOT NULL,
        pos INTEGER NOT NULL,
        due INTEGER NOT NULL,
        deliveries INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        PRIMARY KEY (lane, pos)) WITHOUT ROWID""",
    "CREATE INDEX retries_by_due ON retries (lane, due, pos)",
    # Who has settled a message that is owed to several groups, until the last of them has.
    """CREATE TABLE settled (
        pos INTEGER NOT NULL,
        group_id INTEGER NOT NULL,
        PRIMARY KEY (pos, group_id)) WITHOUT ROWID""",
    # id first: ids that rise with time then go to one end of the table, however many topics they are spread over.
    *(
        f"""CREATE TABLE dedupe_{generation} (
            topic_id INTEGER NOT NULL,
            id TEXT NOT NULL,
            seq INTEGER NOT NULL,
            fingerprint INTEGER NOT NULL,
            PRIMARY KEY (id, topic_id)) WITHOUT ROWID"""
        for generation in "ab"
    ),
    """CREATE TABLE dead_letters (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        topic_id INTEGER NOT NULL,
        group_id INTEGER NOT NULL,
        pos INTEGER NOT NULL,
        id TEXT NOT NULL,
        key TEXT,
        encoding INTEGER NOT NULL,
        content_type TEXT,
        headers BLOB,
        published_at INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        reason TEXT NOT NULL,
        error TEXT,
        deliveries INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        at INTEGER NOT NULL,
        data BLOB NOT NULL)""",
    "CREATE INDEX dead_letters_by_topic ON dead_letters (topic_id, number)",
)

_WHOLE_QUEUE = (
    # A topic that was deleted stays as a row, so that its name goes on with its seqs. floor: messages up to this seq
    # were purged; chores remove them. bytes include `ids` remembered ids. config: JSON, see configs.py.
    "ALTER TABLE topics ADD COLUMN scheduled INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE topics ADD COLUMN ids INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE topics ADD COLUMN floor INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE topics ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE topics ADD COLUMN config TEXT",
    """UPDATE topics SET ids = counted.ids FROM (
        SELECT topic_id, count(*) AS ids FROM (
            SELECT topic_id FROM dedupe_a UNION ALL SELECT topic_id FROM dedupe_b) GROUP BY topic_id) AS counted
        WHERE counted.topic_id = topics.id""",
    "ALTER TABLE groups ADD COLUMN paused INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE groups ADD COLUMN owner TEXT",
    "ALTER TABLE groups ADD COLUMN inactive_ttl INTEGER NOT NULL DEFAULT 0",
    # due: above 0 while the message is scheduled, its negative afterwards. expires: the sender's TTL or the topic's
    # max_age, whichever ends first. redriven, NULL or 1, may stand behind data: neither takes a byte beyond the header.
    "ALTER TABLE messages ADD COLUMN redriven INTEGER",
    # Partial ones: a message without key, delay and TTL is in none of them. A rowid table's index ends in the rowid, so
    # that one key of one lane is one range of messages_by_key.
    "CREATE INDEX messages_by_due ON messages (due) WHERE due > 0",
    "CREATE INDEX messages_by_expiry ON messages (expires, pos) WHERE expires IS NOT NULL",
    "CREATE INDEX messages_by_key ON messages (key) WHERE key IS NOT NULL",
    # attempts: see dead.py.
    "ALTER TABLE retries ADD COLUMN attempts TEXT NOT NULL DEFAULT ''",
    # Work left over from changes that concern many messages, done piece by piece: see chores.py.
    """CREATE TABLE chores (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        topic_id INTEGER NOT NULL,
        after_pos INTEGER NOT NULL,
        through_pos INTEGER NOT NULL)""",
    # Made anew, so that data still comes last. The message as it lay in its topic, checksum included, and what became
    # of it. The group by name too, because it may be deleted before its letters are. No number comes back.
    "ALTER TABLE dead_letters RENAME TO dead_letters_before",
    "DROP INDEX dead_letters_by_topic",
    """CREATE TABLE dead_letters (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        topic_id INTEGER NOT NULL,
        group_id INTEGER NOT NULL,
        group_name TEXT NOT NULL,
        pos INTEGER NOT NULL,
        id TEXT NOT NULL,
        key TEXT,
        encoding INTEGER NOT NULL,
        content_type TEXT,
        headers BLOB,
        published_at INTEGER NOT NULL,
        due INTEGER,
        expires INTEGER,
        redriven INTEGER,
        crc INTEGER NOT NULL,
        reason TEXT NOT NULL,
        error TEXT,
        deliveries INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        at INTEGER NOT NULL,
        attempts TEXT NOT NULL DEFAULT '',
        data BLOB NOT NULL)""",
    """INSERT INTO sqlite_sequence(name, seq)
        SELECT 'dead_letters', seq FROM sqlite_sequence WHERE name = 'dead_letters_before'""",
    """INSERT INTO dead_letters(number, topic_id, group_id, group_name, pos, id, key, encoding, content_type, headers,
            published_at, crc, reason, error, deliveries, failures, at, data)
        SELECT number, d.topic_id, group_id, ifnull(g.name, ''), pos, d.id, key, encoding, content_type, headers,
            published_at, crc, reason, error, deliveries, failures, at, data
        FROM dead_letters_before AS d LEFT JOIN groups AS g ON g.id = d.group_id ORDER BY number""",
    "DROP TABLE dead_letters_before",
    "CREATE INDEX dead_letters_by_topic ON dead_letters (topic_id, number)",
    # bits: of which messages it tells, from `seq` on; see ledger.py.
    """CREATE TABLE ledger (
        number INTEGER PRIMARY KEY,
        topic_id INTEGER NOT NULL,
        group_name TEXT NOT NULL,
        at INTEGER NOT NULL,
        event INTEGER NOT NULL,
        subject TEXT NOT NULL,
        session TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        detail TEXT,
        seq INTEGER NOT NULL,
        bits INTEGER NOT NULL)""",
    "CREATE INDEX ledger_by_seq ON ledger (topic_id, seq)",
    # '' where there is none: a key column that is NULL is equal to nothing.
    """CREATE TABLE revocations (
        issuer TEXT NOT NULL,
        jti TEXT NOT NULL,
        subject TEXT NOT NULL,
        issued_before INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        PRIMARY KEY (issuer, jti, subject)) WITHOUT ROWID""",
)

_SEALED = (
    # See seals.py. A message without due time, TTL and second life needs no seal, and most have none. A letter has two:
    # `times`, which it brought with it, and its own.
    "ALTER TABLE messages ADD COLUMN seal INTEGER",
    f"""UPDATE messages SET seal = {seals.message_seal()}
        WHERE due IS NOT NULL OR expires IS NOT NULL OR redriven IS NOT NULL""",
    "ALTER TABLE dead_letters ADD COLUMN times INTEGER",
    f"""UPDATE dead_letters SET times = {seals.message_seal()}
        WHERE due IS NOT NULL OR expires IS NOT NULL OR redriven IS NOT NULL""",
    "ALTER TABLE topics ADD COLUMN about INTEGER",
    *(f"ALTER TABLE {name} ADD COLUMN seal INTEGER" for name in seals.SEALS if " " not in name),
    *(f"UPDATE {name.split()[0]} SET {column} = {text}" for name, (column, text) in seals.SEALS.items()),
    # The crc of the content stays where it was; the size below it makes room for what binds the row.
    *(
        f"""UPDATE dedupe_{generation} SET
            fingerprint = pushwire_print(topic_id, CAST(id AS BLOB), seq, fingerprint >> 31)"""
        for generation in "ab"
    ),
)

MIGRATIONS: tuple[Sequence[str], ...] = (_FIRST, _WHOLE_QUEUE, _SEALED)


def _number(cursor: Cursor) -> int:
    return int(cursor.fetchone()[0])


def check(execute: Execute) -> int:
    """Return the file's version; 0 for an empty one. Raises StoreRefused for a file that is not ours, or newer."""
    application_id = _number(execute("PRAGMA application_id"))
    version = _number(execute("PRAGMA user_version"))
    tables = _number(execute("SELECT count(*) FROM sqlite_schema"))
    if application_id != APPLICATION_ID and (application_id or version or tables):
        raise StoreRefused("the file is a SQLite database of another program")
    if version > len(MIGRATIONS):
        raise StoreRefused(
            f"the file has schema version {version}, this program knows up to {len(MIGRATIONS)}: a newer one wrote it"
        )
    return version


def check_current(execute: Execute) -> None:
    """For those who cannot migrate the file. Raises StoreRefused unless it has the newest version."""
    version = check(execute)
    if version != len(MIGRATIONS):
        wanted = f"this program wants {len(MIGRATIONS)}: start the gateway on it once, which brings it up to date"
        raise StoreRefused(f"the file has schema version {version}, {wanted}" if version else "the database is empty")


def migrate(connection: Connection, version: int) -> None:
    """Bring the file from `version` to the newest, one transaction per step."""
    execute = connection.execute
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        execute(BEGIN)
        try:
            for statement in statements:
                execute(statement)
            if number == 1:
                execute(SET_META, ("epoch", secrets.token_hex(8)))
                execute(f"PRAGMA application_id = {APPLICATION_ID}")
            execute(f"PRAGMA user_version = {number}")
            execute(COMMIT)
        finally:
            if connection.in_transaction:  # a full disk has rolled back by itself
                execute(ROLLBACK)
