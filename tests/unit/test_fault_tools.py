"""The tools of the fault runs: what they record, find again, and call a hit. No gateway here."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter

import pytest

from faults import rare, run
from faults.bodies import Draft, sha_of_row
from faults.database import Dump
from faults.history import OUT_OF_ORDER_MAX, Recorder, fingerprint, stream
from faults.supervisor import Flights
from faults.times import Times
from pushwire_storage import seals
from pushwire_storage.planning import SCHEDULED, SEQ_BITS, TOPIC_SHIFT
from pushwire_storage.schema import migrate


def test_a_stream_is_every_event_of_every_file_by_time(tmp_path):
    rng = random.Random(1)
    one, two = Recorder(tmp_path / "one.jsonl"), Recorder(tmp_path / "two.jsonl")
    times = list(range(1000))
    for at in range(0, 1000, OUT_OF_ORDER_MAX // 2):
        late = times[at : at + OUT_OF_ORDER_MAX // 2]
        rng.shuffle(late)
        times[at : at + OUT_OF_ORDER_MAX // 2] = late
    for t in times:
        (one if t % 3 else two)("con_open", t=t, cid=str(t))
    assert [event["t"] for event in stream(tmp_path)] == list(range(1000))


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    record = Recorder(tmp_path / "one.jsonl")
    record("con_open", cid="a")
    with (tmp_path / "one.jsonl").open("ab") as file:
        file.write(b'{"t": 5, "ev": "con_cl')
    assert [event["cid"] for event in stream(tmp_path)] == ["a"]


@pytest.mark.parametrize("seed", range(50))
def test_a_draft_is_recognised_in_the_shape_it_comes_back_in(seed):
    draft = Draft("m-1", random.Random(seed))
    row = json.loads(json.dumps(draft.fields))
    assert sha_of_row(row) == draft.sha
    if "data" in row:
        assert fingerprint("json", json.dumps(row["data"], indent=1).encode()) == draft.sha
        row["data"]["n"][1] += 1
        assert sha_of_row(row) != draft.sha


def test_text_json_and_bytes_of_the_same_look_differ():
    assert len({fingerprint(kind, b'"a"') for kind in ("json", "text", "binary")}) == 3


@pytest.mark.parametrize(
    ("asked", "answered", "met"),
    [(150, 250, True), (150, None, True), (150, 190, False), (90, 250, False), (210, 250, False)],
    ids=["answered later", "never answered", "answered before", "sent in an earlier life", "sent after"],
)
def test_a_kill_counts_only_with_a_publish_of_that_life_in_flight(asked, answered, met):
    flights = Flights()
    flights.feed({"ev": "pub_inv", "op": "1", "t": asked})
    if answered is not None:
        flights.feed({"ev": "pub_ok", "op": "1", "t": answered})
    assert flights.met((100, 200)) is met


def times_of(published, *delivered, stops=()):
    """The verdict on a message published at 100 and confirmed at 110, delivered at these times."""
    times = Times(early_ns=5, late_ns=10)
    about = {"q": "q", "mid": "m"}
    events = [
        {"ev": "pub_inv", "op": "1", "t": 100, **about, **published},
        {"ev": "pub_ok", "op": "1", "t": 110, **about},
    ]
    events += [{"ev": "dlv", "grp": "g", "t": t, **about} for t in delivered]
    events += [{"ev": "srv_kill", "t": t} for t in stops]
    for event in sorted(events, key=lambda event: event["t"]):
        times.feed(event)
    return times


@pytest.mark.parametrize(
    ("published", "at", "wrong"),
    [
        ({"delay_ns": 50}, 150, False),
        ({"delay_ns": 50}, 146, False),
        ({"delay_ns": 50}, 144, True),
        ({"ttl_ns": 50}, 170, False),
        ({"ttl_ns": 50}, 171, True),
        ({"delay_ns": 50, "ttl_ns": 50}, 220, False),
        ({"delay_ns": 50, "ttl_ns": 50}, 221, True),
        ({"delay_ns": 50, "ttl_ns": 50}, 120, True),
        ({}, 100_000, False),
    ],
)
def test_a_message_comes_between_its_times(published, at, wrong):
    assert len(times_of(published, at).problems) == wrong


def test_what_was_delayed_over_a_stop_is_counted_once_a_group():
    assert times_of({"delay_ns": 50}, 160, 170, stops=[120]).seen == {"delayed": 1, "delayed_over_stop": 1}
    assert times_of({"delay_ns": 50}, 160, stops=[105, 155]).seen["delayed_over_stop"] == 0
    assert times_of({}, 160, stops=[120]).seen == {}


@pytest.fixture
def dump():
    """A dump of a small database, after these statements."""
    opened = []

    def make(*statements):
        opened.append(_database(statements))
        return Dump(opened[-1])

    yield make
    for connection in opened:
        connection.close()


def _database(statements):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    seals.register(connection)
    migrate(connection, 0)
    connection.execute("INSERT INTO topics(id, tenant, name, last_seq, messages) VALUES (1, 't', 'q', 9, 2)")
    connection.execute("INSERT INTO groups(id, topic_id, name, start_seq) VALUES (1, 1, 'a', 0), (2, 1, 'b', 7)")
    for seq in (7, 8):
        row = (1 << TOPIC_SHIFT | 1 << SEQ_BITS | seq, f"m-{seq}", 0, 0, 0, b"1")
        connection.execute("INSERT INTO messages(pos, id, encoding, published_at, crc, data) VALUES (?,?,?,?,?,?)", row)
    for statement in statements:
        connection.executescript(statement)
    return connection


RETRY = "INSERT INTO retries(lane, pos, due, deliveries, failures) VALUES"
MESSAGE = "INSERT INTO messages(pos, id, encoding, published_at, crc, data) VALUES"
POS = 1 << TOPIC_SHIFT | 1 << SEQ_BITS | 7
GONE = POS + 100
LATER = (
    f"UPDATE messages SET pos = {POS + 1 | SCHEDULED}, due = 9 WHERE pos = {POS + 1}; UPDATE topics SET scheduled = 1"
)
PURGED = "UPDATE topics SET floor = 7, messages = 1"


def test_a_dump_says_what_is_owed_to_whom():
    dump = Dump(_database([f"INSERT INTO settled VALUES ({POS}, 1, NULL)", f"{RETRY} (5, {POS + 1}, 0, 3, 2)"]))
    assert [(row["grp"], row["seq"], row["mid"]) for row in dump.owed()] == [("a", 8, "m-8"), ("b", 8, "m-8")]
    assert dump.counts() == [{"q": "q", "grp": "a", "seq": 8, "deliveries": 3, "failures": 2}]
    assert dump.orphans() == []
    assert dump.integrity() == "ok"


@pytest.mark.parametrize(
    "statement",
    [
        f"{RETRY} (5, {GONE}, 0, 1, 0)",
        f"{RETRY} (6, {POS}, 0, 1, 0)",
        f"INSERT INTO settled VALUES ({GONE}, 1, NULL)",
        "UPDATE topics SET messages = 3",
        "UPDATE topics SET dead_letters = 1",
        "UPDATE topics SET scheduled = 1",
        f"{RETRY} (13, {POS}, 0, 1, 0)",
        LATER + f"; {RETRY} (5, {POS + 1}, 0, 1, 0)",
        LATER + f"; INSERT INTO settled VALUES ({POS + 1}, 1, NULL)",
        f"{MESSAGE} ({POS + 1 | SCHEDULED}, 'm-8', 0, 0, 0, x'31'); UPDATE topics SET scheduled = 1",
    ],
)
def test_a_dump_finds_what_does_not_belong(dump, statement):
    assert len(dump(statement).orphans()) == 1


def test_a_message_that_is_scheduled_is_owed_and_belongs(dump):
    later = dump(LATER)
    assert later.orphans() == []
    assert [(row["grp"], row["seq"]) for row in later.owed()] == [("a", 7), ("a", 8), ("b", 8)]
    assert (dump().went_back(later), later.went_back(dump())) == ([], []), "it falls due, and is the same message"


def test_what_was_purged_is_nobodys(dump):
    purged = dump(f"INSERT INTO settled VALUES ({POS}, 1, NULL)", PURGED)
    assert purged.orphans() == []
    assert [(row["grp"], row["seq"]) for row in purged.owed()] == [("a", 8), ("b", 8)]
    assert purged.went_back(dump(f"INSERT INTO settled VALUES ({POS}, 1, NULL)")) == []


def test_a_topic_that_was_deleted_leaves_its_last_seq_and_nothing_else(dump):
    deleted = dump("DELETE FROM groups", "UPDATE topics SET deleted = 1, floor = last_seq, messages = 0")
    assert (deleted.orphans(), deleted.owed(), deleted.went_back(dump())) == ([], [], [])
    assert len(dump("DELETE FROM groups; DELETE FROM messages; DELETE FROM topics").went_back(deleted)) == 1


def test_a_dead_letter_outlives_its_group(dump):
    columns = "topic_id, group_id, group_name, pos, id, encoding, published_at, crc, reason, deliveries, failures, at"
    values = f"1, 1, 'a', {POS}, 'm-7', 0, 0, 0, 'rejected', 3, 2, 0, x'31'"
    letter = f"INSERT INTO dead_letters({columns}, data) VALUES ({values})"
    left = dump(letter, "DELETE FROM groups WHERE id = 1", "UPDATE topics SET dead_letters = 1")
    assert [(row["q"], row["grp"], row["seq"], row["reason"], row["deliveries"]) for row in left.dead()] == [
        ("q", "a", 7, "rejected", 3)
    ]
    assert left.orphans() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE topics SET last_seq = 8",
        f"{MESSAGE} ({POS - 1}, 'm-6', 0, 0, 0, x'31')",
        "DELETE FROM settled",
    ],
    ids=["a seq", "a message", "a settlement"],
)
def test_a_dump_sees_what_went_back(dump, statement):
    settled = f"INSERT INTO settled VALUES ({POS}, 1, NULL)"
    before = dump(settled)
    assert dump(settled).went_back(before) == []
    assert len(dump(settled, statement).went_back(before)) == 1


def test_a_run_that_did_not_see_a_rare_state_is_invalid():
    whole = Counter(dict.fromkeys(rare.STATES, 1))
    ran = set(rare.STATES.values())
    assert ran <= set(run.SCENARIOS)
    assert rare.row(whole, ran).passed
    for state, scenario in rare.STATES.items():
        row = rare.row(whole - Counter({state: 1}), ran)
        assert "invalid" in row.verdict
        assert f"NEVER SEEN: {state}" in row.seen
        assert rare.row(whole - Counter({state: 1}), ran - {scenario}).passed
