"""The files of the SQLite store: who may open them, what is refused, how they are made, what is checked."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.harness import START_MS, Ears, World
from pushwire_storage import schema, sqlite
from pushwire_storage.base import StoreBroken, StoreLocked, StoreRefused
from pushwire_storage.highwater import MARK
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.lock import FileLock
from pushwire_storage.sqlite import DATABASE, LOCK, SqliteStore, filesystem_of


def opened(path: Path, **settings: object) -> InlineSqliteStore:
    store = InlineSqliteStore(path, **settings)
    store.start(Ears(World("inline", path)), START_MS)
    return store


def foreign(path: Path, *statements: str) -> None:
    """Change the file as another program would, while no store has it open."""
    connection = sqlite3.connect(path / DATABASE, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def value(store: InlineSqliteStore, sql: str) -> object:
    assert store._writing is not None
    return store._writing.execute(sql).fetchone()[0]


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        store = opened(tmp_path / "new" / "data")
        names = {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK, MARK}
        files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "new" / "data").iterdir()}
        assert files == dict.fromkeys(names, 0o600)
        assert stat.S_IMODE((tmp_path / "new" / "data").stat().st_mode) == 0o700
    finally:
        os.umask(before)
    store.stop()
    assert {each.name for each in (tmp_path / "new" / "data").iterdir()} == {DATABASE, LOCK, MARK}


def test_a_file_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    opened(tmp_path).stop()
    (tmp_path / DATABASE).chmod(0o644)
    store = opened(tmp_path)
    assert stat.S_IMODE((tmp_path / DATABASE).stat().st_mode) == 0o600
    store.stop()


async def test_a_second_opener_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path)
    await first.open(Ears(World("sqlite", tmp_path)), START_MS)
    with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        await SqliteStore(tmp_path).open(Ears(World("sqlite", tmp_path)), START_MS)
    with pytest.raises(StoreLocked):
        opened(tmp_path)
    await first.close()
    opened(tmp_path).stop()


def test_the_lock_of_another_process_counts_and_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pushwire_storage.lock import FileLock\n"
        "FileLock(Path(sys.argv[1])).take(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / LOCK)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(StoreLocked, match=f"process {owner.pid}"):
            FileLock(tmp_path / LOCK).take()
        owner.kill()
        owner.wait(10)
    lock = FileLock(tmp_path / LOCK)
    lock.take()
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    lock.release()
    lock.release()


def test_a_directory_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreBroken, match="cannot use the directory"):
        opened(tmp_path / "file" / "data")


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).stop()
    foreign(tmp_path, f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(StoreRefused, match="newer"):
        opened(tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == before


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    foreign(tmp_path, "CREATE TABLE customers (name)")
    with pytest.raises(StoreRefused, match="another program"):
        opened(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"plain text, much longer than the header of a database file " * 20)
    with pytest.raises(StoreRefused, match="no database"):
        opened(tmp_path)


async def test_a_refusal_leaves_no_thread_and_no_lock(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"plain text, much longer than the header of a database file " * 20)
    store = SqliteStore(tmp_path)
    with pytest.raises(StoreRefused):
        await store.open(Ears(World("sqlite", tmp_path)), START_MS)
    await store.close()
    (tmp_path / DATABASE).unlink()
    again = SqliteStore(tmp_path)
    await again.open(Ears(World("sqlite", tmp_path)), START_MS)
    await again.close()
    await again.close()


def test_migrations_are_applied_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    epoch = store.epoch
    assert value(store, "PRAGMA user_version") == len(schema.MIGRATIONS)
    assert value(store, "PRAGMA application_id") == schema.APPLICATION_ID
    store.stop()
    store = opened(tmp_path)
    assert store.epoch == epoch
    assert len(epoch) == 16
    store.stop()


def test_each_database_has_its_epoch(tmp_path: Path) -> None:
    one, two = opened(tmp_path / "one"), opened(tmp_path / "two")
    assert one.epoch != two.epoch
    one.stop()
    two.stop()


def test_a_migration_that_fails_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).stop()
    broken = ("CREATE TABLE half (a)", "CREATE TABLE half (b)")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(StoreBroken):
        opened(tmp_path)
    monkeypatch.undo()
    store = opened(tmp_path)
    assert value(store, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'") == 0
    store.stop()


def test_a_later_migration_runs_on_an_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).stop()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE more (a)",)))
    for _ in range(2):
        store = opened(tmp_path)
        assert value(store, "PRAGMA user_version") == len(schema.MIGRATIONS)
        store.stop()


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("relaxed", 1)])
def test_the_promise_rests_on_these(tmp_path: Path, durability: str, synchronous: int) -> None:
    store = opened(tmp_path, durability=durability)
    wanted = {
        "journal_mode": "wal",
        "synchronous": synchronous,
        "wal_autocheckpoint": 0,
        "foreign_keys": 0,
        "temp_store": 2,
        "busy_timeout": 2000,
    }
    assert {name: value(store, f"PRAGMA {name}") for name in wanted} == wanted
    store.stop()


def test_a_pragma_that_does_not_take_is_a_refusal(tmp_path: Path) -> None:
    class Deaf(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            return super().execute("SELECT 1" if sql == "PRAGMA synchronous = full" else sql, parameters)

    opened(tmp_path).stop()
    options = sqlite.options_of(tmp_path, {})
    connection = sqlite3.connect(tmp_path / DATABASE, isolation_level=None, factory=Deaf)
    connection.execute("PRAGMA synchronous = off")
    with pytest.raises(StoreRefused, match="synchronous"):
        sqlite.prepare(connection, options)
    connection.close()


def test_a_network_filesystem_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "filesystem_of", lambda path: "nfs4")
    with pytest.raises(StoreRefused, match="nfs4"):
        opened(tmp_path)


def test_the_filesystem_is_known_where_proc_tells(tmp_path: Path) -> None:
    assert filesystem_of(tmp_path) not in sqlite.NETWORK_FILESYSTEMS
    if Path("/proc/self/mountinfo").exists():
        assert filesystem_of(Path("/proc")) == "proc"


@pytest.mark.parametrize(
    "settings",
    [{"durability": "off"}, {"driver": "mysql"}, {"quota_message": 3}, {"sync": True}],
    ids=lambda settings: next(iter(settings)),
)
def test_unknown_settings_are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        SqliteStore(tmp_path, **settings)


async def test_another_driver_carries_the_same_store(tmp_path: Path) -> None:
    pytest.importorskip("pysqlite3", reason="the optional driver is not installed")
    world = World("sqlite", tmp_path, driver="pysqlite3")
    await world.open()
    topic = await world.topic()
    await world.publish(topic, "a")
    assert "pysqlite3" in world.store.version
    await world.close()
