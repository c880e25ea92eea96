"""The delivery ledger: every event of a message is told, for a day and as long as it is kept. For every store."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.catalog_harness import START_MS, Shelves, shelves
from pushwire_storage import ledger
from pushwire_storage.base import Append, DeleteTopic, Done, Event, Message, Topic

__all__ = ["shelves"]  # the fixture

DAY_MS = 86_400_000


def acked(topic: Topic, seq: int, at_ms: int = START_MS, **fields: object) -> Event:
    told = {"group": "a", "event": "acked", "subject": "ann", "session": "s1", "attempt": 1} | fields
    return Event(topic, seq, at_ms=at_ms, **told)  # type: ignore[arg-type]  # the fields of an Event


async def test_the_history_of_a_message_is_told_in_order(shelves: Shelves) -> None:
    topic = await shelves.topic()
    other = await shelves.topic("others")
    events = [
        acked(topic, 7, START_MS, event="delivered"),
        acked(topic, 7, START_MS, event="timed_out", detail="30 s"),
        acked(topic, 7, START_MS + 9, event="delivered", attempt=2, subject="bob", session="s2"),
        acked(topic, 7, START_MS + 9, attempt=2, subject="bob", session="s2"),
        acked(topic, 7, START_MS + 9, group="b", attempt=2, subject="bob", session="s2"),
    ]
    # Not in the order of time: what one batch holds comes from several turns.
    await shelves.write(events=[acked(topic, 6), acked(topic, 8), acked(other, 7), events[1], events[4], events[0]])
    await shelves.write(events=[events[3], events[2]])
    assert list(await shelves.catalog.history(topic, 7)) == [events[0], events[1], events[2], events[4], events[3]]
    assert list(await shelves.catalog.history(topic, 9)) == []
    assert list(await shelves.catalog.history(other, 7)) == [acked(other, 7)]


async def test_the_history_survives_a_restart(shelves: Shelves) -> None:
    topic = await shelves.topic()
    await shelves.write(events=[acked(topic, seq) for seq in range(1, 200)])
    if shelves.persistent:
        await shelves.reopen()
    topic = shelves.store.topics[("t", "orders")]
    for seq in (1, 63, 64, 199):
        assert list(await shelves.catalog.history(topic, seq)) == [acked(topic, seq)]


async def test_many_events_of_a_kind_share_rows(shelves: Shelves) -> None:
    topic = await shelves.topic()
    # Two consumers in turn, as they acknowledge one by one.
    events = [acked(topic, seq, subject=("ann", "bob")[seq % 2]) for seq in range(1, 1001)]
    await shelves.write(events=events)
    (rows,) = shelves.rows("SELECT count(*) FROM ledger")
    assert rows[0] <= 2 * (1000 // ledger.SPAN + 2)
    for seq in (1, 2, 500, 1000):
        assert list(await shelves.catalog.history(topic, seq)) == [events[seq - 1]]


TOLD = st.builds(
    lambda seq, at_ms, event, group, subject, attempt, detail: (seq, at_ms, event, group, subject, attempt, detail),
    st.integers(1, 200),
    st.integers(START_MS, START_MS + 1),
    st.sampled_from(ledger.EVENTS),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["ann", "bob"]),
    st.integers(1, 2),
    st.sampled_from([None, "x"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(TOLD, max_size=80, unique=True), max_size=4))
def test_any_events_are_told_each_with_its_message(
    batches: list[list[tuple[int, int, str, str, str, int, None]]],
) -> None:
    async def scenario() -> None:
        shelves = Shelves("memory", Path())
        await shelves.open()
        topic = await shelves.topic()
        wanted: dict[int, list[Event]] = {}
        for batch in batches:
            events = [
                Event(topic, seq, group, at_ms, event, subject, "s", attempt, detail)
                for seq, at_ms, event, group, subject, attempt, detail in batch
            ]
            await shelves.write(events=events)
            for event in events:
                wanted.setdefault(event.seq, []).append(event)
        for seq in range(1, 201):
            found = list(await shelves.catalog.history(topic, seq))
            assert sorted(map(repr, found)) == sorted(map(repr, wanted.get(seq, [])))
            assert [event.at_ms for event in found] == sorted(event.at_ms for event in found)
        await shelves.store.close()

    asyncio.run(scenario())


# -- how long


async def clean(shelves: Shelves) -> None:
    """Let as many batches pass as all entries of these tests need, in pieces."""
    for _ in range(2 + 500 // ledger.CLEAN_ROWS):
        await shelves.write()


async def test_entries_go_after_a_day_and_not_before(shelves: Shelves) -> None:
    topic = await shelves.topic()
    await shelves.write(events=[acked(topic, seq, START_MS + seq) for seq in range(1, 101)])
    shelves.now_ms = START_MS + DAY_MS
    await clean(shelves)
    assert shelves.rows("SELECT count(*) FROM ledger")[0][0] == 100
    shelves.now_ms = START_MS + DAY_MS + ledger.PASS_PAUSE_MS + 51
    await clean(shelves)
    assert list(await shelves.catalog.history(topic, 100)) == []
    assert shelves.rows("SELECT count(*) FROM ledger") == [(0,)]


async def test_only_what_is_old_goes(shelves: Shelves) -> None:
    topic = await shelves.topic()
    await shelves.write(events=[acked(topic, seq, START_MS + seq * 1000) for seq in range(1, 101)])
    shelves.now_ms = START_MS + DAY_MS + 50_000
    await clean(shelves)
    told = [seq for seq in range(1, 101) if await shelves.catalog.history(topic, seq)]
    assert told == list(range(50, 101))


async def test_entries_of_a_kept_message_stay_as_long_as_it_does(shelves: Shelves) -> None:
    topic = await shelves.topic()
    one, two = await shelves.group(topic, "a"), await shelves.group(topic, "b")
    messages = await shelves.publish(topic, *(f"m{n}" for n in range(150)))
    await shelves.write(settle=[Done(one, messages), Done(two, messages[:100])], events=[acked(topic, 100)])
    await shelves.write(events=[acked(topic, 101), acked(topic, 5)])
    shelves.now_ms += 2 * DAY_MS
    await clean(shelves)
    assert list(await shelves.catalog.history(topic, 100)) == []
    assert list(await shelves.catalog.history(topic, 5)) == []
    assert list(await shelves.catalog.history(topic, 101)) == [acked(topic, 101)]
    await shelves.write(settle=[Done(two, messages[100:])])
    shelves.now_ms += ledger.PASS_PAUSE_MS
    await clean(shelves)
    assert list(await shelves.catalog.history(topic, 101)) == []


async def test_cleaning_is_a_bounded_piece_of_each_batch(shelves: Shelves) -> None:
    topic = await shelves.topic()
    for start in range(0, 400, 100):
        await shelves.write(events=[acked(topic, start + seq, START_MS + seq) for seq in range(1, 101)])
    other = await shelves.topic("other")
    shelves.now_ms += 2 * DAY_MS
    left = 400
    while left:
        busy = [Append(other, [Message(f"m{left}", b"1", shelves.now_ms)])]
        await shelves.write(appends=busy, events=[acked(topic, 1000, shelves.now_ms)] if left > 380 else ())
        (now,) = shelves.rows(f"SELECT count(*) FROM ledger WHERE at < {shelves.now_ms}")
        assert left - ledger.CLEAN_ROWS - 2 <= now[0] < left
        left = now[0]


async def test_old_entries_go_although_nothing_else_happens(shelves: Shelves) -> None:
    topic = await shelves.topic()
    many = 2 * ledger.CLEAN_ROWS_IDLE
    await shelves.write(events=[acked(topic, 2 * seq, START_MS + seq) for seq in range(many)])
    if shelves.persistent:
        await shelves.reopen()
    shelves.now_ms += DAY_MS + many + 1
    pieces = 0
    while shelves.rows("SELECT count(*) FROM ledger") != [(0,)]:
        tick_ms = shelves.store.next_tick_ms()
        assert tick_ms is not None
        shelves.now_ms = max(shelves.now_ms, tick_ms)
        await shelves.write()
        pieces += 1
        assert pieces < 10
    assert pieces >= 2, "not all at once"
    for _ in range(2):
        shelves.now_ms += ledger.PASS_PAUSE_MS
        await shelves.write()
    assert shelves.store.next_tick_ms() is None


async def test_the_ledger_of_a_deleted_topic_goes_with_it(shelves: Shelves) -> None:
    topic = await shelves.topic()
    await shelves.write(events=[acked(topic, seq, START_MS + seq) for seq in range(1, 101)])
    await shelves.write(DeleteTopic(topic))
    await shelves.write()
    assert shelves.rows("SELECT count(*) FROM ledger") == [(0,)]
    assert list(await shelves.catalog.history(await shelves.topic(), 1)) == []
