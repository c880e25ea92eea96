"""A recount of a closed SQLite store from its tables, beside the counters it keeps. It opens the file read-only."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pushwire_storage.planning import ID_BYTES
from pushwire_storage.sqlite import DATABASE

RECOUNT = f"""
    SELECT t.id, t.messages, t.bytes, t.dead_letters,
        (SELECT count(*) FROM messages WHERE pos >> 45 = t.id AND pos & 0x3ffffffffff > t.floor),
        (SELECT ifnull(sum(length(data) + ifnull(length(headers), 0) + ifnull(length(key), 0)), 0)
            FROM messages WHERE pos >> 45 = t.id AND pos & 0x3ffffffffff > t.floor)
        + {ID_BYTES} * ((SELECT count(*) FROM dedupe_a WHERE topic_id = t.id)
            + (SELECT count(*) FROM dedupe_b WHERE topic_id = t.id)),
        (SELECT count(*) FROM dead_letters WHERE topic_id = t.id)
    FROM topics AS t WHERE NOT t.deleted"""

ORPHANS = {
    "retries of no message": "SELECT count(*) FROM retries WHERE pos NOT IN (SELECT pos FROM messages)",
    "retries of no group": "SELECT count(*) FROM retries WHERE lane >> 2 NOT IN (SELECT id FROM groups)",
    "settlements of no message": "SELECT count(*) FROM settled WHERE pos NOT IN (SELECT pos FROM messages)",
    "retries of settled messages": "SELECT count(*) FROM retries AS r JOIN settled AS s"
    " ON s.pos = r.pos AND s.group_id = r.lane >> 2",
    "messages above the last seq": "SELECT count(*) FROM messages AS m JOIN topics AS t ON t.id = m.pos >> 45"
    " WHERE m.pos & 0x3ffffffffff > t.last_seq",
}


def check_tables(path: Path) -> None:
    connection = sqlite3.connect(f"file:{path / DATABASE}?mode=ro", uri=True)
    try:
        for topic_id, messages, size_bytes, dead, *counted in connection.execute(RECOUNT):
            assert [messages, size_bytes, dead] == counted, f"the counters of topic {topic_id} have drifted"
        for name, sql in ORPHANS.items():
            assert connection.execute(sql).fetchone() == (0,), name
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        connection.close()
