"""A file of the first schema, as it was shipped, and what becomes of it: nothing of it may be lost."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest
import pytest_asyncio

from conformance.harness import START_MS, World, message
from conformance.tables import check_tables
from pushwire_storage import schema
from pushwire_storage.base import Append, Dead, Redrive, StoreBroken, StoreRefused
from pushwire_storage.offline import open_for_check
from pushwire_storage.sqlite import DATABASE

_DEDUPE = """CREATE TABLE dedupe_{} (
            topic_id INTEGER NOT NULL,
            id TEXT NOT NULL,
            seq INTEGER NOT NULL,
            fingerprint INTEGER NOT NULL,
            PRIMARY KEY (id, topic_id)) WITHOUT ROWID"""
FIRST = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
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
    """CREATE TABLE retries (
        lane INTEGER NOT NULL,
        pos INTEGER NOT NULL,
        due INTEGER NOT NULL,
        deliveries INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        PRIMARY KEY (lane, pos)) WITHOUT ROWID""",
    "CREATE INDEX retries_by_due ON retries (lane, due, pos)",
    """CREATE TABLE settled (
        pos INTEGER NOT NULL,
        group_id INTEGER NOT NULL,
        PRIMARY KEY (pos, group_id)) WITHOUT ROWID""",
    *(_DEDUPE.format(generation) for generation in "ab"),
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
EPOCH = "00112233445566aa"
BIG = bytes(range(256)) * 40
"""A body with overflow pages."""

# topic id, priority, seq, id, key, encoding, content type, headers, data
ROWS = [
    (1, 1, 3, "plain", None, 0, None, None, b'{"n":3}'),
    (1, 3, 4, "full", "k", 2, "a/b", b'{"h":"v"}', BIG),
    (1, 1, 5, "tried", None, 0, None, None, b'{"n":5}'),
    (1, 0, 6, "counted", "k", 1, None, None, b"text"),
    (1, 1, 7, "half", None, 0, None, None, b'{"n":7}'),
    (2, 1, 1, "plain", None, 0, None, None, b'{"other":1}'),
]
# number, group id, then a row of another message
LETTERS = [
    (2, 1, (1, 1, 1, "dead", "k", 2, "a/b", b'{"h":"v"}', BIG)),
    (3, 2, (1, 3, 2, "dead too", None, 0, None, None, b'{"n":2}')),
]
FORGOTTEN = 7
"""Number of the last letter there ever was."""


def pos_of(topic_id: int, priority: int, seq: int) -> int:
    return topic_id << 45 | priority << 42 | seq


def content(priority: int, key: str | None, encoding: int, kind: str | None, headers: bytes | None, data: bytes) -> int:
    crc = crc32(data, 1 + priority * 4 + encoding)
    if key is None and headers is None and kind is None:
        return crc
    for part in (key, headers, kind):
        raw = part.encode() if isinstance(part, str) else part
        crc = crc32(b"-" if raw is None else b"%d:%b" % (len(raw), raw), crc)
    return crc


def stored(row: tuple) -> tuple:
    topic_id, priority, seq, id_, key, encoding, kind, headers, data = row
    pos = pos_of(topic_id, priority, seq)
    place = pos ^ START_MS
    crc = crc32(id_.encode(), content(priority, key, encoding, kind, headers, data))
    return pos, id_, key, encoding, kind, headers, START_MS, crc ^ (place & 0xFFFFFFFF) ^ (place >> 32), data


def size_of(row: tuple) -> int:
    return len(row[8]) + len(row[7] or b"") + len(row[4] or "")


def fingerprint(row: tuple) -> int:
    _, priority, _, _, key, encoding, kind, headers, data = row
    return content(priority, key, encoding, kind, headers, data) << 31 | size_of(row)


def make_old_file(path: Path) -> None:
    path.mkdir()
    with closing(sqlite3.connect(path / DATABASE, isolation_level=None)) as connection:
        run = connection.execute
        run("PRAGMA journal_mode = wal")
        run("BEGIN")
        for statement in FIRST:
            run(statement)
        run("INSERT INTO meta VALUES ('epoch', ?), ('generation', 1)", (EPOCH,))
        sizes = [sum(size_of(row) for row in ROWS if row[0] == topic_id) for topic_id in (1, 2)]
        run("INSERT INTO topics VALUES (1, 't', 'orders', 9, 5, ?, 2)", (sizes[0] + 6 * 64,))
        run("INSERT INTO topics VALUES (2, 'u', 'orders', 1, 1, ?, 0)", (sizes[1] + 64,))
        run("INSERT INTO groups VALUES (1, 1, 'a', 0), (2, 1, 'b', 2), (3, 2, 'a', 0)")
        marks = ",".join("?" * 9)
        columns = "pos, id, key, encoding, content_type, headers, published_at, crc, data"
        for number, row in enumerate(ROWS):
            run(f"INSERT INTO messages({columns}) VALUES ({marks})", stored(row))
            ids = (row[0], row[3], row[2], fingerprint(row))
            run(f"INSERT INTO dedupe_{'ab'[number % 2]} VALUES (?,?,?,?)", ids)
        run("INSERT INTO dedupe_a VALUES (1, 'gone', 8, 77)")
        run("INSERT INTO settled VALUES (?, 1)", (pos_of(1, 1, 7),))
        run("INSERT INTO retries VALUES (?, ?, ?, 4, 3)", (1 << 2 | 1, pos_of(1, 1, 5), START_MS + 50))
        run("INSERT INTO retries VALUES (?, ?, 0, 2, 0)", (2 << 2, pos_of(1, 0, 6)))
        for number, group_id, row in LETTERS:
            why = (number, row[0], group_id, "failures", "boom", 12, 10, START_MS - 5)
            run(
                "INSERT INTO dead_letters(number, topic_id, group_id, reason, error, deliveries, failures, at,"
                f" {columns}) VALUES (?,?,?,?,?,?,?,?,{marks})",
                (*why, *stored(row)),
            )
        run("UPDATE sqlite_sequence SET seq = ? WHERE name = 'dead_letters'", (FORGOTTEN,))
        run(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        run("PRAGMA user_version = 1")
        run("COMMIT")


@pytest_asyncio.fixture(params=["sqlite", "inline"])
async def old(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    make_old_file(tmp_path / "data")
    world = World(request.param, tmp_path / "data")
    await world.open()
    yield world
    await world.close()
    check_tables(tmp_path / "data")


def test_what_was_shipped_is_not_edited() -> None:
    assert schema.MIGRATIONS[0] == FIRST


async def test_the_registry_and_its_counters_are_there(old: World) -> None:
    assert old.store.epoch == EPOCH
    assert old.store.topics.keys() == {("t", "orders"), ("u", "orders")}
    topic = old.store.topics[("t", "orders")]
    assert (topic.id, topic.last_seq, topic.messages, topic.dead_letters, topic.scheduled) == (1, 9, 5, 2, 0)
    assert {name: (each.id, each.start_seq, each.paused) for name, each in topic.groups.items()} == {
        "a": (1, 0, False),
        "b": (2, 2, False),
    }
    assert await old.store.catalog().check() == []


async def test_every_message_is_there_with_its_bytes(old: World) -> None:
    topic = old.store.topics[("t", "orders")]
    page = await old.page(topic)
    got = [
        (1, each.priority, each.seq, each.id, each.key, each.encoding, each.content_type, each.headers, each.data)
        for each in page.messages
    ]
    assert got == [row for row in ROWS if row[0] == 1]
    assert {(each.published_at_ms, each.due_ms, each.expires_ms, each.redriven) for each in page.messages} == {
        (START_MS, None, None, False)
    }
    assert (await old.store.stats()).corrupt_rows == 0


async def test_groups_go_on_where_they_were(old: World) -> None:
    topic = old.store.topics[("t", "orders")]
    a, b = topic.groups["a"], topic.groups["b"]
    assert await old.want(a, 1, 9) == [3]  # 5 waits, 7 is settled
    assert await old.want(b, 1, 9) == [3, 5, 7]
    assert await old.want(b, 0, 9) == [6]
    assert old.arrived[-1] == ("b", 0, 6, (2, 0))
    assert old.store.next_due_ms() == START_MS + 50
    assert await old.due(START_MS + 50) == [5]
    assert old.arrived[-1] == ("a", 1, 5, (4, 3))
    await old.ack(b, old.messages[("b", 7)])
    assert await old.kept(topic) == [3, 4, 5, 6]


async def test_ids_are_remembered_and_seqs_go_on(old: World) -> None:
    topic = old.store.topics[("t", "orders")]
    again = Append(topic, [message("plain", b'{"n":3}')])
    other = Append(topic, [message("tried", b"something else")])
    new = Append(topic, [message("new")])
    await old.commit(again, other, new)
    assert (again.messages[0].seq, again.messages[0].duplicate) == (3, True)
    assert other.refused is not None
    assert other.refused.code == "id_conflict"
    assert new.messages[0].seq == 10


async def test_dead_letters_are_there_and_can_be_redriven(old: World) -> None:
    topic = old.store.topics[("t", "orders")]
    letters = await old.letters(topic)
    assert [(each.id, each.group, each.message.seq, each.message.id) for each in letters] == [
        (2, "a", 1, "dead"),
        (3, "b", 2, "dead too"),
    ]
    first = letters[0]
    assert (first.message.data, first.message.headers, first.message.key) == (BIG, b'{"h":"v"}', "k")
    assert (first.reason, first.error, first.deliveries, first.failures) == ("failures", "boom", 12, 10)
    assert (first.at_ms, first.attempts) == (START_MS - 5, ())
    redrive = Redrive(topic, [2])
    await old.change(redrive)
    assert redrive.seqs == [10]
    assert await old.want(topic.groups["a"], 1, 9) == [3, 10]
    await old.settle(Dead(topic.groups["a"], old.messages[("a", 10)], "rejected", None, 1, 0, START_MS))
    assert [each.id for each in await old.letters(topic)] == [3, FORGOTTEN + 1], "no number comes back"


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path / DATABASE)) as connection:
        return [*connection.iterdump(), str(connection.execute("PRAGMA user_version").fetchone())]


@pytest.mark.parametrize("done", range(len(schema.MIGRATIONS[1]) + 1))
async def test_a_migration_that_is_cut_short_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    make_old_file(tmp_path / "data")
    before = dump(tmp_path / "data")
    cut = (*schema.MIGRATIONS[1][:done], "the process ends here")
    monkeypatch.setattr(schema, "MIGRATIONS", (schema.MIGRATIONS[0], cut))
    with pytest.raises(StoreBroken):
        await World("inline", tmp_path / "data").open()
    assert dump(tmp_path / "data") == before


def test_a_check_asks_for_the_migration_first(tmp_path: Path) -> None:
    make_old_file(tmp_path / "data")
    with pytest.raises(StoreRefused, match=r"schema version 1.*start the gateway"):
        open_for_check(tmp_path / "data")
