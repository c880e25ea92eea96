"""Dead letters: what is kept with them, how they are found, and how they come back or go. For every store."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.catalog_harness import START_MS, Shelves, shelves
from pushwire_storage import dead
from pushwire_storage.base import (
    ATTEMPTS_KEPT,
    REDRIVE_MAX,
    Append,
    Attempt,
    Counted,
    Dead,
    DeleteGroup,
    DeleteTopic,
    Discard,
    Done,
    Message,
    Redrive,
    Retry,
)

__all__ = ["shelves"]  # the fixture


WEEK_MS = 7 * 86_400_000


def nack(number: int, error: str | None = None) -> Attempt:
    return Attempt(START_MS + number, "nacked", "ann", error or f"error {number}")


# -- attempts and counts


async def test_the_last_attempts_are_kept_oldest_first(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    (message,) = await shelves.publish(group.topic, "m")
    for number in range(12):
        await shelves.write(settle=[Retry(group, message, START_MS + 60_000, number + 1, number + 1, nack(number))])
    (letter,) = await shelves.bury(group, message, last=Attempt(START_MS + 99, "rejected", "bob"))
    assert letter.attempts == (
        *[nack(number) for number in range(12)][-ATTEMPTS_KEPT + 1 :],
        Attempt(START_MS + 99, "rejected", "bob", None),
    )


async def test_attempts_of_one_batch_and_of_earlier_ones_are_joined(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    (message,) = await shelves.publish(group.topic, "m")
    await shelves.write(settle=[Counted(group, message, 1, 0, nack(1))])
    if shelves.persistent:
        await shelves.reopen()
        group = shelves.store.topics[("t", "orders")].groups["a"]
    text = 'in two\nlines, "quoted", ümläut, \U0001f680'
    retries = [Retry(group, message, START_MS + 1, number, number, nack(number)) for number in (2, 3)]
    dying = Dead(group, message, "failures", None, 4, 4, START_MS, nack(4, text))
    await shelves.write(settle=[*retries, dying])
    (letter,) = await shelves.letters(group.topic)
    assert letter.attempts == (nack(1), nack(2), nack(3), nack(4, text))
    assert not shelves.rows("SELECT * FROM retries")


async def test_a_settlement_without_an_attempt_forgets_none(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    (message,) = await shelves.publish(group.topic, "m")
    await shelves.write(settle=[Retry(group, message, START_MS, 1, 1, nack(1))])
    await shelves.write(settle=[Counted(group, message, 2, 1)])
    (letter,) = await shelves.bury(group, message)
    assert letter.attempts == (nack(1),)


async def test_counts_of_a_dead_letter_are_the_highest_known(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    first, second = await shelves.publish(group.topic, "m", "n")
    await shelves.write(settle=[Retry(group, first, START_MS, 7, 5)])
    expiring = [Dead(group, message, "expired", None, 0, 0, START_MS) for message in (first, second)]
    await shelves.write(settle=[Counted(group, second, 4, 2), *expiring])
    assert [(letter.deliveries, letter.failures) for letter in await shelves.letters(group.topic)] == [(7, 5), (4, 2)]


# -- finding them


async def test_dead_letters_are_found_by_group_reason_key_and_id(shelves: Shelves) -> None:
    topic = await shelves.topic()
    one, two = await shelves.group(topic, "a"), await shelves.group(topic, "b")
    messages = [*await shelves.publish(topic, "k1", "k2", key="k"), *await shelves.publish(topic, "plain")]
    (first,) = await shelves.bury(one, messages[0], reason="rejected")
    (second,) = await shelves.bury(two, messages[1])
    (third,) = await shelves.bury(one, messages[2])

    async def found(limit: int = 10, **wanted: object) -> list[int]:
        return [letter.id for letter in (await shelves.letters(topic, **wanted))[:limit]]

    assert await found() == [first.id, second.id, third.id]
    assert await found(group="a") == [first.id, third.id]
    assert await found(reason="rejected") == [first.id]
    assert await found(key="k") == [first.id, second.id]
    assert await found(key="k", group="b", reason="failures") == [second.id]
    assert await found(after_id=first.id) == [second.id, third.id]
    assert await found(group="nobody") == []
    assert topic.dead_letters == 3


async def test_a_dead_letter_is_seen_in_its_own_topic_only(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    other = await shelves.topic(tenant="someone else")
    (letter,) = await shelves.bury(group, *await shelves.publish(group.topic, "m", headers=b'{"h":"1"}', priority=3))
    again = await shelves.catalog.dead_letter(group.topic, letter.id)
    assert again is not None
    assert (again.message.data, again.message.headers, again.message.priority) == (b'{"n":1}', b'{"h":"1"}', 3)
    assert (again.group, again.reason, again.error, again.message.seq) == ("a", "failures", "it broke", 1)
    assert await shelves.catalog.dead_letter(other, letter.id) is None
    assert await shelves.catalog.dead_letter(group.topic, letter.id + 1) is None
    assert await shelves.letters(other) == []
    redrive = await shelves.redrive(other, letter.id)
    assert redrive.seqs == [0]
    discard = Discard(other, [letter.id])
    await shelves.write(discard)
    assert discard.removed == 0
    assert (group.topic.dead_letters, other.dead_letters) == (1, 0)


# -- back into the topic


async def test_a_redriven_message_comes_last_whole_and_to_its_group_only(shelves: Shelves) -> None:
    topic = await shelves.topic()
    one, two = await shelves.group(topic, "a"), await shelves.group(topic, "b")
    shelves.store.watch(topic, on=True)
    messages = await shelves.publish(topic, "m", key="k", headers=b'{"h":"1"}', content_type="text/x")
    messages += await shelves.publish(topic, "n")
    (letter,) = await shelves.bury(one, messages[0])
    await shelves.write(settle=[Done(one, messages[1:]), Done(two, messages)])
    for group in (one, two):
        shelves.store.want(group, 1, 100)
    await shelves.quiet()  # both lanes have caught up, and take what is new from memory
    shelves.now_ms += 5
    fresh = Append(topic, [Message("fresh", b"2", shelves.now_ms)])
    redrive = await shelves.redrive(topic, letter.id, appends=[fresh])
    await shelves.quiet()
    assert redrive.seqs == [3]
    assert shelves.seen.seqs("a") == [3, 4]
    assert shelves.seen.seqs("b") == [4]
    back, counts = next((message, counts) for group, message, counts in shelves.seen.arrivals if group == "a")
    assert counts == (0, 0)
    assert (back.id, back.data, back.key, back.headers, back.content_type) == (
        "m",
        b'{"n":1}',
        "k",
        b'{"h":"1"}',
        "text/x",
    )
    assert (back.redriven, back.published_at_ms, back.due_ms, back.expires_ms) == (True, shelves.now_ms, None, None)
    assert [message.seq for message in shelves.seen.tails] == [1, 2, 3, 4]
    assert [message.redriven for message in shelves.seen.tails] == [False, False, True, False]
    assert (topic.messages, topic.dead_letters, topic.last_seq) == (2, 0, 4)
    await shelves.write(settle=[Done(one, [back, *fresh.messages]), Done(two, fresh.messages)])
    assert topic.messages == 0
    assert await shelves.catalog.check() == []


async def test_redriven_messages_reach_only_their_group_after_a_restart(shelves: Shelves) -> None:
    if not shelves.persistent:
        pytest.skip("keeps nothing")
    topic = await shelves.topic()
    one, two = await shelves.group(topic, "a"), await shelves.group(topic, "b")
    messages = await shelves.publish(topic, "m", "n")
    letters = await shelves.bury(one, *messages)
    await shelves.write(settle=[Done(two, messages)])
    await shelves.redrive(topic, *[letter.id for letter in letters])
    await shelves.reopen()
    topic = shelves.store.topics[("t", "orders")]
    for group in topic.groups.values():
        shelves.store.want(group, 1, 10)
    await shelves.quiet()
    assert (shelves.seen.seqs("a"), shelves.seen.seqs("b")) == ([3, 4], [])
    assert all(message.redriven for _, message, _ in shelves.seen.arrivals)


async def test_one_group_needs_no_marks(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    (letter,) = await shelves.bury(group, *await shelves.publish(group.topic, "m"))
    await shelves.redrive(group.topic, letter.id)
    assert shelves.rows("SELECT * FROM settled") == []


async def test_a_redriven_message_may_die_again(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    (letter,) = await shelves.bury(group, *await shelves.publish(group.topic, "m"), last=nack(1))
    await shelves.redrive(group.topic, letter.id)
    shelves.store.want(group, 1, 10)
    await shelves.quiet()
    (second,) = await shelves.bury(group, shelves.seen.arrivals[0][1], last=nack(2))
    assert second.id > letter.id
    assert second.message.redriven
    assert second.attempts == (nack(2),)
    assert group.topic.messages == 0
    assert (await shelves.redrive(group.topic, second.id)).seqs == [3]


async def test_what_cannot_be_redriven_stays(shelves: Shelves) -> None:
    topic = await shelves.topic()
    one, two = await shelves.group(topic, "a"), await shelves.group(topic, "b")
    messages = await shelves.publish(topic, "m")
    (stays,) = await shelves.bury(one, *messages)
    (goes,) = await shelves.bury(two, *messages)
    await shelves.write(DeleteGroup(one))
    await shelves.group(topic, "a")  # the name is back, the group is not
    redrive = await shelves.redrive(topic, 99, stays.id, goes.id, goes.id)
    assert redrive.seqs == [0, 0, 2, 0]
    (left,) = await shelves.letters(topic)
    assert (left.id, left.group) == (stays.id, "a")
    assert (topic.messages, topic.dead_letters) == (1, 1)


async def test_a_full_topic_takes_nothing_back(shelves: Shelves) -> None:
    topic = await shelves.topic(quota_messages=2)
    group = await shelves.group(topic)
    letters = await shelves.bury(group, *await shelves.publish(topic, "m", "n"))
    await shelves.publish(topic, "o")
    redrive = await shelves.redrive(topic, *[letter.id for letter in letters])
    assert redrive.refused is not None
    assert redrive.refused.code == "topic_full"
    assert "'a'" in redrive.refused.detail
    assert redrive.seqs == []
    assert (topic.messages, topic.dead_letters, topic.last_seq) == (1, 2, 3)
    assert (await shelves.redrive(topic, letters[1].id)).seqs == [4]


async def test_the_id_of_a_redriven_message_stays_remembered(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    (letter,) = await shelves.bury(group, *await shelves.publish(group.topic, "m"))
    bytes_before = group.topic.bytes
    await shelves.redrive(group.topic, letter.id)
    assert group.topic.bytes == bytes_before + letter.message.size_bytes
    (again,) = await shelves.publish(group.topic, "m")
    assert (again.duplicate, again.seq) == (True, 1)


async def test_redriving_is_bounded_in_messages_and_bytes(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    large = await shelves.publish(group.topic, *(f"m{n}" for n in range(18)), data=bytes(1 << 20))
    letters = await shelves.bury(group, *large)
    redrive = await shelves.redrive(group.topic, *(letter.id for letter in letters))
    assert redrive.seqs == list(range(19, 19 + dead.REDRIVE_BYTES_MAX // (1 << 20)))
    assert [letter.id for letter in await shelves.letters(group.topic)] == [letters[-2].id, letters[-1].id]
    unknown = await shelves.redrive(group.topic, *range(10_000, 10_001 + REDRIVE_MAX))
    assert unknown.seqs == [0] * REDRIVE_MAX


async def test_a_topic_deleted_with_a_redrive_gives_no_seq_twice(shelves: Shelves) -> None:
    topic = await shelves.topic()
    group = await shelves.group(topic)
    (letter,) = await shelves.bury(group, *await shelves.publish(topic, "a"))
    redrive = Redrive(topic, [letter.id])
    await shelves.write(redrive, DeleteTopic(topic))
    assert redrive.seqs == [2]
    (again,) = await shelves.publish(await shelves.topic(), "b")
    assert again.seq == 3


async def test_letters_go_after_a_week_although_nothing_else_happens(shelves: Shelves) -> None:
    topic, other = await shelves.topic(), await shelves.topic("other")
    group, elsewhere = await shelves.group(topic), await shelves.group(other)
    old = await shelves.publish(topic, "a", "b")
    await shelves.bury(group, *old)
    shelves.now_ms += 1000
    await shelves.bury(elsewhere, *await shelves.publish(other, "c"))
    if shelves.persistent:
        await shelves.reopen()
        await shelves.write()
    topic, other = (shelves.store.topics[("t", name)] for name in ("orders", "other"))
    tick_ms = shelves.store.next_tick_ms()
    assert tick_ms == START_MS + WEEK_MS + 1
    shelves.now_ms = START_MS + WEEK_MS
    await shelves.write()
    assert topic.dead_letters == 2, "a whole week"
    shelves.now_ms = tick_ms
    await shelves.write()
    assert await shelves.letters(topic) == []
    assert (topic.dead_letters, other.dead_letters) == (0, 1)
    tick_ms = shelves.store.next_tick_ms()
    assert tick_ms == START_MS + WEEK_MS + 1 + dead.FORGET_PERIOD_MS, "looks are rare"
    shelves.now_ms = tick_ms
    await shelves.write()
    assert other.dead_letters == 0
    assert shelves.store.next_tick_ms() is None


async def test_many_old_letters_go_in_bounded_pieces(shelves: Shelves) -> None:
    topic = await shelves.topic()
    group = await shelves.group(topic)
    messages = await shelves.publish(topic, *map(str, range(dead.FORGET_MAX + 20)))
    await shelves.bury(group, *messages)
    shelves.now_ms += WEEK_MS + 1
    await shelves.write()
    assert topic.dead_letters == 20
    assert shelves.store.next_tick_ms() == shelves.now_ms
    await shelves.write()
    assert topic.dead_letters == 0


async def test_discarded_letters_are_gone(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    letters = await shelves.bury(group, *await shelves.publish(group.topic, "m", "n", "o"))
    discard = Discard(group.topic, [letters[0].id, letters[2].id, letters[2].id, 99])
    await shelves.write(discard)
    assert discard.removed == 2
    assert [letter.id for letter in await shelves.letters(group.topic)] == [letters[1].id]
    assert group.topic.dead_letters == 1


async def test_a_deleted_topic_has_none(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    letters = await shelves.bury(group, *await shelves.publish(group.topic, "m"))
    topic = group.topic
    await shelves.write(DeleteTopic(topic))
    redrive, discard = Redrive(topic, [letters[0].id]), Discard(topic, [letters[0].id])
    await shelves.write(redrive, discard)
    assert (redrive.seqs, discard.removed) == ([], 0)
    assert await shelves.letters(await shelves.topic()) == []
    assert await shelves.catalog.check() == []


async def test_a_damaged_letter_is_shown_and_not_redriven(shelves: Shelves) -> None:
    group = await shelves.group(await shelves.topic())
    letters = await shelves.bury(group, *await shelves.publish(group.topic, "m", "n"))
    with shelves.connected() as connection:
        connection.execute("UPDATE dead_letters SET data = x'00' WHERE number = ?", (letters[0].id,))
        connection.execute("UPDATE dead_letters SET key = CAST(x'ff' AS TEXT) WHERE number = ?", (letters[1].id,))
    shown = await shelves.letters(group.topic)
    assert [letter.reason for letter in shown] == ["corrupt", "corrupt"]
    assert shown[0].message.data == b"\0"
    assert len(await shelves.catalog.check()) == 2
    ids = [letter.id for letter in letters]
    assert (await shelves.redrive(group.topic, ids[0])).seqs == [0]
    discard = Discard(group.topic, ids)
    await shelves.write(discard)
    assert (discard.removed, await shelves.catalog.check()) == (2, [])


# -- together or not at all


class _Crash(BaseException):
    """The process ends here."""


class _Crashing:
    """Hooks that end the process at a point."""

    def __init__(self) -> None:
        self.at: str | None = None

    def point(self, name: str) -> None:
        if name == self.at:
            raise _Crash


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
async def test_a_crash_while_redriving_leaves_the_message_in_one_place(tmp_path: Path, point: str) -> None:
    hooks = _Crashing()
    shelves = Shelves("inline", tmp_path / "data", hooks=hooks)
    await shelves.open()
    topic = await shelves.topic()
    one, _ = await shelves.group(topic, "a"), await shelves.group(topic, "b")
    letters = await shelves.bury(one, *await shelves.publish(topic, "m", "n"))
    hooks.at = point
    with pytest.raises(_Crash):
        await shelves.redrive(topic, *[letter.id for letter in letters])
    shelves.store.crash()
    hooks.at = None
    await shelves.open()
    topic = shelves.store.topics[("t", "orders")]
    happened = point == "after_commit"
    assert (topic.messages, topic.dead_letters) == ((4, 0) if happened else (2, 2))
    assert len(await shelves.letters(topic)) == topic.dead_letters
    assert await shelves.catalog.check() == []
    await shelves.store.close()
