"""Positions, checksums and limits: the arithmetic every store shares."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.harness import message
from pushwire_storage.base import Group, Message, Topic
from pushwire_storage.planning import (
    SCHEDULED,
    SEQ_MAX,
    TOPIC_ID_MAX,
    Limits,
    TopicBook,
    bases,
    content_crc,
    group_lane,
    lane_base,
    message_of,
    position,
    row_crc,
    topic_lane,
)
from pushwire_storage.seals import times_seal

TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
MESSAGES = st.builds(
    Message,
    id=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    data=st.binary(max_size=50),
    published_at_ms=st.integers(0, 2**45),
    encoding=st.integers(0, 2),
    priority=st.integers(0, 3),
    key=TEXT,
    headers=st.none() | st.binary(max_size=9),
    content_type=TEXT,
    due_ms=st.none() | st.integers(1, 2**45),
    expires_ms=st.none() | st.integers(1, 2**45),
)
CHECKED = 12
"""Columns under a checksum: the row's, or the seal of its times."""
SEQS = st.integers(1, SEQ_MAX)
IDS = st.integers(1, TOPIC_ID_MAX)


def row(each: Message, pos: int) -> tuple:
    crc = row_crc(each, content_crc(each), pos)
    return (
        pos,
        each.id,
        each.key,
        each.encoding,
        each.content_type,
        each.headers,
        each.published_at_ms,
        crc,
        each.data,
        each.due_ms,
        each.expires_ms,
        each.redriven or None,
        times_seal(each.due_ms, each.expires_ms, each.redriven or None),
    )


@given(IDS, st.integers(0, 3), SEQS, st.integers(0, 3), SEQS)
def test_a_lane_is_one_range_of_positions(topic_id: int, priority: int, seq: int, other: int, high: int) -> None:
    each, later = message("a", priority=priority), message("b", priority=other)
    each.seq, later.seq = seq, high
    pos = position(topic_id, each)
    assert 0 < pos < 2**63
    assert lane_base(topic_id, priority) < pos <= lane_base(topic_id, priority) + SEQ_MAX
    assert (pos < position(topic_id, later)) is ((priority, seq) < (other, high))
    assert pos < lane_base(topic_id + 1, 0)


@given(IDS, st.integers(0, 3), SEQS)
def test_what_is_scheduled_lies_beside_every_lane_of_its_topic(topic_id: int, priority: int, seq: int) -> None:
    each = message("a", priority=priority)
    each.seq = seq
    later = position(topic_id, each) | SCHEDULED
    assert lane_base(topic_id, priority, scheduled=True) < later < lane_base(topic_id + 1, 0)
    assert later - SCHEDULED == position(topic_id, each)
    holders = [base for base in bases(topic_id) if base < later <= base + SEQ_MAX]
    assert holders == [lane_base(topic_id, priority, scheduled=True)]


@given(MESSAGES, IDS, SEQS)
def test_falling_due_leaves_the_checksum_good(each: Message, topic_id: int, seq: int) -> None:
    each.seq = seq
    columns = list(row(each, position(topic_id, each) | (SCHEDULED if each.due_ms else 0)))
    before = message_of(columns)
    columns[0] &= ~SCHEDULED
    columns[9] = None if each.due_ms is None else -each.due_ms
    after = message_of(columns)
    assert before is not None
    assert after is not None
    assert after.due_ms == before.due_ms == each.due_ms


def test_lane_keys_are_apart() -> None:
    keys = list(itertools.product(range(1, 9), range(4)))
    assert len({topic_lane(*key) for key in keys}) == len(keys)
    assert len({group_lane(*key) for key in keys}) == len(keys)


@given(MESSAGES, IDS, SEQS)
def test_a_row_comes_back_as_it_was(each: Message, topic_id: int, seq: int) -> None:
    each.seq = seq
    got = message_of(row(each, position(topic_id, each) | (SCHEDULED if each.due_ms else 0)))
    assert got is not None
    for name in Message.__slots__:
        assert getattr(got, name) == getattr(each, name)


@given(MESSAGES, IDS, SEQS, st.data())
def test_a_flipped_bit_anywhere_is_seen(each: Message, topic_id: int, seq: int, data: st.DataObject) -> None:
    each.seq = seq
    columns = list(row(each, position(topic_id, each)))
    index = data.draw(st.sampled_from([i for i, value in enumerate(columns[:CHECKED]) if value not in {None, "", b""}]))
    value = columns[index]
    if isinstance(value, int):
        columns[index] = value ^ 1 << data.draw(st.integers(0, 40 if index else 43))
    else:
        raw = bytearray(value.encode() if isinstance(value, str) else value)
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        columns[index] = raw.decode(errors="backslashreplace") if isinstance(value, str) else bytes(raw)
    assert message_of(columns) is None


@pytest.mark.parametrize("column", range(1, CHECKED))
@pytest.mark.parametrize("value", [None, -1, 3.5, "text", b"bytes", 2**62], ids=repr)
def test_a_column_of_another_type_is_seen(column: int, value: object) -> None:
    each = Message("id", b"data", 7, 1, 2, "key", b"{}", "text/plain", 8, 9)
    each.seq, each.redriven = 5, True
    columns = list(row(each, position(3, each) | SCHEDULED))
    assert message_of(columns) is not None
    columns[column] = value
    assert message_of(columns) is None


def test_fingerprints_tell_content_apart_and_ignore_the_id() -> None:
    variants = [
        Message("x", b"ab", 1),
        Message("x", b"ba", 1),
        Message("x", b"ab", 1, 1),
        Message("x", b"ab", 1, 0, 2),
        Message("x", b"ab", 1, 0, 1, "k"),
        Message("x", b"ab", 1, 0, 1, None, b"k"),
        Message("x", b"ab", 1, 0, 1, None, None, "k"),
        Message("x", b"ab", 1, 0, 1, "k", b"k"),
        Message("x", b"ab", 1, 0, 1, "kk", b""),
        Message("x", b"ab", 1, 0, 1, "", b"kk"),
        Message("x", b"ab", 1, 0, 1, "", b"k", "k"),
        Message("x", b"abk", 1),
    ]
    prints = [content_crc(each) for each in variants]
    assert len(set(prints)) == len(variants)
    assert all(0 <= print_ < 2**32 for print_ in prints)
    assert content_crc(Message("y", b"ab", 99)) == prints[0]


def test_needed_counts_the_groups_that_began_before() -> None:
    topic = Topic(1, "t", "orders")
    for number, start in enumerate([0, 5, 5, 9]):
        topic.groups[str(number)] = Group(number, topic, str(number), start)
    book = TopicBook(topic)
    assert [book.needed(seq) for seq in (1, 5, 6, 9, 10)] == [1, 1, 3, 3, 4]
    assert [each.name for each in book.owners(6)] == ["0", "1", "2"]


def test_a_copied_book_does_not_share_what_changes() -> None:
    topic = Topic(1, "t", "orders", 7, 3, 100, 2)
    book = TopicBook(topic)
    twin = book.copy()
    twin.add_group(Group(1, topic, "g", 0), 0)
    twin.messages += 1
    assert (book.groups, book.starts, book.messages) == ({}, [], 3)
    assert topic.messages == 3
    twin.publish()
    assert topic.messages == 4


def test_limits_take_numbers_by_name() -> None:
    limits = Limits.of({"quota_messages": 5.0, "dedupe_window_s": 3})
    assert (limits.quota_messages, limits.dedupe_window_s) == (5, 3.0)
    assert isinstance(limits.quota_messages, int)
    assert limits.quota_bytes == 1 << 30
    with pytest.raises(TypeError, match="quota"):
        Limits.of({"quota": 1})
