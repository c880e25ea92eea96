"""Revocations, times, copies and checks: what the catalog does beside dead letters and the ledger. For every store."""

from __future__ import annotations

import asyncio
import random
import stat
import threading
from pathlib import Path

import pytest

from conformance.catalog_harness import START_MS, Shelves, shelves
from pushwire_storage import maintenance, offline
from pushwire_storage.base import (
    Append,
    DeleteGroup,
    Done,
    Message,
    PurgeTopic,
    Retry,
    Revocation,
    StoreError,
    StoreRefused,
    Topic,
)
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.sqlite import DATABASE, SqliteStore

__all__ = ["shelves"]  # the fixture


def of_token(jti: str, expires_ms: int = START_MS + 1000) -> Revocation:
    return Revocation("us", jti, None, 5, expires_ms)


def of_subject(subject: str, before_s: int, expires_ms: int = START_MS + 1000) -> Revocation:
    return Revocation("us", None, subject, before_s, expires_ms)


# -- revocations


async def test_revocations_are_kept_once_each(shelves: Shelves) -> None:
    for revocation in (of_token("t1"), of_subject("ann", 7), of_token("t1"), of_subject("ann", 6)):
        await shelves.catalog.revoke(revocation)
    if shelves.persistent:
        await shelves.reopen()
    assert set(await shelves.catalog.revocations()) == {of_token("t1"), of_subject("ann", 7)}


async def test_a_revocation_is_forgotten_when_no_token_lives_that_it_concerns(shelves: Shelves) -> None:
    await shelves.catalog.revoke(of_token("t1", START_MS + 10))
    await shelves.catalog.revoke(of_token("t2", START_MS + 11))
    shelves.now_ms += 10
    await shelves.write()
    await shelves.catalog.revoke(of_token("t3"))
    assert set(await shelves.catalog.revocations()) == {of_token("t2", START_MS + 11), of_token("t3")}


# -- times


async def test_the_first_seq_of_a_time_is_found(shelves: Shelves) -> None:
    topic = await shelves.topic()
    group = await shelves.group(topic)
    chance = random.Random(3)
    messages: list[Message] = []
    for number in range(60):
        shelves.now_ms += chance.choice((0, 1, 5))
        due_ms = shelves.now_ms + 500_000 if chance.random() < 0.2 else None
        messages += await shelves.publish(topic, f"m{number}", priority=chance.randrange(4), due_ms=due_ms)
    gone = [message for message in messages if message.due_ms is None and chance.random() < 0.4]
    await shelves.write(settle=[Done(group, gone)])
    await shelves.write(PurgeTopic(topic, 9))
    kept = [message for message in messages if message not in gone and message.seq > 9]
    for at_ms in range(START_MS - 1, shelves.now_ms + 3):
        wanted = min((message.seq for message in kept if message.published_at_ms >= at_ms), default=61)
        assert await shelves.catalog.find_seq(topic, at_ms) == wanted


# -- copies


async def test_a_copy_is_whole_private_and_has_its_own_epoch(shelves: Shelves, tmp_path: Path) -> None:
    group = await shelves.group(await shelves.topic())
    await shelves.bury(group, *await shelves.publish(group.topic, "m"))
    await shelves.publish(group.topic, "n", "o")
    target = tmp_path / "restored" / DATABASE
    target.parent.mkdir()
    await shelves.catalog.backup(str(target))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in target.parent.iterdir()] == [DATABASE]
    assert offline.open_for_check(target) == []
    copy = Shelves("inline", target.parent)
    await copy.open()
    topic = copy.store.topics[("t", "orders")]
    assert (topic.messages, topic.dead_letters, topic.last_seq) == (2, 1, 3)
    assert copy.store.epoch != shelves.store.epoch
    await copy.store.close()


async def test_a_file_that_is_there_is_left_alone(shelves: Shelves, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    with pytest.raises(StoreRefused, match="exists already"):
        await shelves.catalog.backup(str(target))
    assert target.read_text() == "mine"
    with pytest.raises(StoreRefused, match="cannot create"):
        await shelves.catalog.backup(str(tmp_path / "nowhere" / "copy"))


async def test_a_copy_that_is_ended_leaves_nothing(shelves: Shelves, tmp_path: Path) -> None:
    target = tmp_path / "copies" / "copy"
    target.parent.mkdir()

    def fail(job: maintenance.Job) -> None:
        job.stop()
        maintenance.backup(job, shelves.database, target)

    with pytest.raises(StoreError):
        await shelves.store.catalog()._places.apart(fail)
    assert list(target.parent.iterdir()) == []


async def test_a_copy_under_load_is_a_prefix_of_the_commits(tmp_path: Path) -> None:
    shelves = Shelves("sqlite", tmp_path / "data")
    await shelves.open()
    topic = await shelves.topic()
    await shelves.publish(topic, *(f"old{number}" for number in range(2000)), data=bytes(500))
    over, given = asyncio.Event(), 2000

    async def load() -> None:
        nonlocal given
        while not over.is_set():
            messages = [Message(f"m{given + index}", bytes(500), START_MS) for index in range(10)]
            await shelves.write(appends=[Append(topic, messages)])
            given += 10

    writing = asyncio.create_task(load())
    copies = []
    for number in range(3):
        low = given
        target = tmp_path / f"copy{number}"
        await shelves.catalog.backup(str(target))
        copies.append((low, given, target))
    over.set()
    await writing
    assert given > 2000
    for low, high, target in copies:
        assert offline.open_for_check(target) == []
        copy = Shelves("inline", target.parent / f"restored{target.name}")
        copy.path.mkdir()
        target.rename(copy.database)
        await copy.open()
        page = await copy.store.read(copy.store.topics[("t", "orders")], 0, 1_000_000)
        seqs = [message.seq for message in page.messages]
        assert seqs == list(range(1, len(seqs) + 1))
        assert low <= len(seqs) <= high + 10
        assert len(seqs) % 10 == 0
        await copy.store.close()
    assert await shelves.catalog.check() == []
    await shelves.store.close()


# -- checks


async def busy(shelves: Shelves) -> Topic:
    """A topic with something of everything."""
    topic = await shelves.topic(ledger="full")
    one, two = await shelves.group(topic, "a"), await shelves.group(topic, "b")
    messages = await shelves.publish(topic, *(f"m{n}" for n in range(300)), priority=2, key="k", headers=b"{}")
    await shelves.publish(topic, "later", due_ms=START_MS + 50_000, expires_ms=START_MS + 90_000)
    await shelves.bury(one, *messages[:3])
    await shelves.write(settle=[Done(two, messages[:2]), Retry(one, messages[5], START_MS, 1, 1)])
    await shelves.redrive(topic, 1)
    return topic


async def test_a_good_database_has_nothing_wrong(shelves: Shelves) -> None:
    topic = await busy(shelves)
    assert await shelves.catalog.check() == []
    await shelves.write(PurgeTopic(topic, 5), DeleteGroup(topic.groups["b"]))
    assert await shelves.catalog.check() == []


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("UPDATE topics SET messages = messages + 1", "on the books"),
        ("UPDATE topics SET bytes = bytes - 1", "bytes on the books"),
        ("UPDATE topics SET scheduled = 0", "0 scheduled messages on the books, 1 there"),
        ("UPDATE topics SET ids = 0", "remembered ids"),
        ("DELETE FROM dead_letters WHERE number = 2", "dead letters on the books"),
        ("INSERT INTO retries VALUES (4, 1, 0, 0, 0, '', NULL)", "1 retries of no message"),
        ("DELETE FROM groups WHERE name = 'b'", "settled marks of no group"),
        ("INSERT INTO groups(topic_id, name, start_seq) VALUES (9, 'x', 0)", "1 groups of no topic"),
        ("UPDATE messages SET data = x'7b7d' WHERE id = 'm7'", "message seq 8 of topic number 1"),
        ("UPDATE messages SET published_at = 1 WHERE id = 'm7'", "message seq 8 of topic number 1"),
        ("UPDATE messages SET due = NULL WHERE due > 0", "its checksum does not match"),
        ("UPDATE messages SET due = 5 WHERE id = 'm7'", "its checksum does not match"),
        ("UPDATE dead_letters SET id = CAST(x'ff' AS TEXT) WHERE number = 3", "dead letter 3"),
    ],
)
async def test_what_is_wrong_is_told(shelves: Shelves, damage: str, finding: str) -> None:
    await busy(shelves)
    with shelves.connected() as connection:
        connection.execute(damage)
    assert any(finding in found for found in await shelves.catalog.check())


async def test_what_is_told_is_bounded(shelves: Shelves) -> None:
    await busy(shelves)
    with shelves.connected() as connection:
        connection.execute("UPDATE messages SET data = x'00'")
    found = await shelves.catalog.check()
    assert len(found) == maintenance.FINDINGS_MAX + 1
    assert found[-1] == "and 201 more"


async def test_closing_ends_long_work(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data")
    shelves = Shelves("sqlite", tmp_path / "data")
    shelves.store = store
    await store.open(shelves.seen, START_MS)
    begun = threading.Event()

    def endless(job: maintenance.Job) -> None:
        with job.opened(shelves.database, "ro") as connection:
            begun.set()
            connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
            ).fetchone()

    work = asyncio.create_task(store.catalog()._places.apart(endless))
    assert await asyncio.to_thread(begun.wait, 10)
    async with asyncio.timeout(10):
        await store.close()
        with pytest.raises(StoreError, match="closing"):
            await work


# -- checks of a database that perhaps nobody runs


async def test_a_database_is_checked_running_stopped_and_killed(tmp_path: Path) -> None:
    shelves = Shelves("inline", tmp_path / "data")
    await shelves.open()
    await busy(shelves)
    assert offline.open_for_check(shelves.path) == []
    assert isinstance(shelves.store, InlineSqliteStore)
    shelves.store.crash()
    assert (shelves.path / f"{DATABASE}-wal").stat().st_size > 0
    assert offline.open_for_check(shelves.path) == []
    await shelves.open()
    assert shelves.store.topics[("t", "orders")].messages > 0
    await shelves.store.close()
    before = shelves.database.read_bytes()
    assert offline.open_for_check(shelves.path) == []
    assert shelves.database.read_bytes() == before


async def test_a_torn_page_is_told(tmp_path: Path) -> None:
    shelves = Shelves("inline", tmp_path / "data")
    await shelves.open()
    await busy(shelves)
    await shelves.store.close()
    raw = bytearray(shelves.database.read_bytes())
    page = next(start for start in range(0, len(raw), 4096) if raw[start : start + 4096].count(b'{"n":1}') > 10)
    raw[page : page + 64] = bytes(64)
    shelves.database.write_bytes(raw)
    found = offline.open_for_check(shelves.path)
    assert found[0].startswith("file: ")
    assert any(finding.startswith("messages: cannot be read") for finding in found)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="no database"):
        offline.open_for_check(tmp_path)
    (tmp_path / DATABASE).write_bytes(b"something else entirely" * 500)
    with pytest.raises(StoreRefused, match="damaged, or no database"):
        offline.open_for_check(tmp_path)
