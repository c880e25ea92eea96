"""The shape of the file: numbered, forward-only migrations, each one transaction. It opens nothing and keeps nothing.

`PRAGMA user_version` counts the migrations applied; it is written inside each one's transaction, so a crash leaves the
file before it or after it. A released migration is never edited: append another.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

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

MIGRATIONS: tuple[Sequence[str], ...] = (_FIRST,)


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
