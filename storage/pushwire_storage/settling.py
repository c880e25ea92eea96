"""The second half of a transaction: what became of messages, group by group.

Owns the rows of `retries`, `settled` and `dead_letters`, and the deletion of messages that every group has settled.
Everything here is idempotent: what is settled already, unknown, or not owed to the group changes nothing. It must not
commit; it runs on the writer's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from .base import Counted, Dead, Done, Group, Message, Retry, Settlement
from .dead import bury, joined, known_attempts, line_of
from .planning import SEQ_BITS, SEQ_MAX, TOPIC_SHIFT, TopicBook, group_lane, position
from .queries import (
    COUNT_SETTLED,
    DELETE_DEAD_OLDEST,
    DELETE_MESSAGES,
    DELETE_MESSAGES_BETWEEN,
    DELETE_RETRIES,
    DELETE_SETTLED,
    INSERT_SETTLED,
    SELECT_HAS_RETRIES,
    SELECT_KEPT,
    UPSERT_RETRIES,
    Execute,
)
from .txn import Surprise, Txn

RUN_ROWS_MIN = 8
"""Messages in a row that are deleted as a range. Below that a statement of their own costs more than their places in
the list of a common one."""


def settle_all(txn: Txn, settlements: Sequence[Settlement]) -> None:
    """Apply the settlements of a batch, in order. Raises Surprise unless careful."""
    if settlements:
        _Settling(txn).run(settlements)


class _Settling:
    """The settlements of one transaction, gathered so that each table is written in bulk."""

    def __init__(self, txn: Txn) -> None:
        self._txn = txn
        self._gone: dict[int, dict[int, int]] = {}
        """topic id -> position -> bytes: settled by the one group that was owed it."""
        self._shared: dict[int, dict[int, int]] = {}
        """group id -> position -> bytes: settled by one of several groups."""
        self._retained: set[int] = set()
        """Positions that stay for their topic's retention, whoever has settled them."""
        self._waiting: dict[tuple[int, int], tuple[int, int, int, str]] = {}
        """(lane, position) -> (due, deliveries, failures, attempts) to write."""
        self._over: dict[int, list[int]] = {}
        """lane -> positions whose row in `retries` goes."""
        self._buried: dict[int, None] = {}
        """Topics that got dead letters."""

    def run(self, settlements: Sequence[Settlement]) -> None:
        for settlement in settlements:
            group = settlement.group
            if not self._txn.exists(group.topic.id) or group.id in self._txn.moved:
                continue
            book = self._txn.book(group.topic.id)
            if group.id not in book.start_of:
                continue  # deleted
            if isinstance(settlement, Done):
                self._done(group, book, settlement.messages)
            elif isinstance(settlement, Dead):
                self._dead(settlement, book)
            else:
                self._wait(settlement, book)
        self._write_retries()
        if self._shared:
            self._write_shared()
        self._delete()
        for topic_id in self._buried:
            self._trim(self._txn.book(topic_id))

    # -- gathering

    def _done(self, group: Group, book: TopicBook, messages: Sequence[Message]) -> None:
        topic_id, start = group.topic.id, book.start_of[group.id]
        high = topic_id << TOPIC_SHIFT
        self._txn.rows += len(messages)
        if self._waiting or any(self._txn.has_retries(group.id << 2 | priority) for priority in range(4)):
            for message in messages:
                self._end_wait(group, message)
        if book.plain:
            gone = self._gone.setdefault(topic_id, {})
            for message in messages:
                if message.seq > start:
                    gone[high | message.priority << SEQ_BITS | message.seq] = message.size_bytes
            return
        for message in messages:
            if message.seq > start:
                self._settled(group, book, message)

    def _settled(self, group: Group, book: TopicBook, message: Message) -> None:
        topic_id = group.topic.id
        pos = position(topic_id, message)
        retained = book.retains(message.published_at_ms, self._txn.now_ms)
        if retained:
            self._retained.add(pos)
        alone = book.needed(message.seq) == 1 and not retained
        where = self._gone.setdefault(topic_id, {}) if alone else self._shared.setdefault(group.id, {})
        where[pos] = message.size_bytes

    def _is_settled(self, group: Group, pos: int) -> bool:
        """Whether an earlier settlement of this batch has done so."""
        return pos in self._gone.get(group.topic.id, ()) or pos in self._shared.get(group.id, ())

    def _end_wait(self, group: Group, message: Message) -> None:
        lane, pos = group_lane(group.id, message.priority), position(group.topic.id, message)
        self._waiting.pop((lane, pos), None)
        if self._txn.has_retries(lane):
            self._over.setdefault(lane, []).append(pos)

    def _wait(self, settlement: Retry | Counted, book: TopicBook) -> None:
        group, message = settlement.group, settlement.message
        pos = position(group.topic.id, message)
        if message.seq <= book.start_of[group.id] or self._is_settled(group, pos):
            return
        key = (group_lane(group.id, message.priority), pos)
        due_ms = settlement.due_ms if isinstance(settlement, Retry) else 0
        _, deliveries, failures, attempts = self._waiting.get(key, (0, 0, 0, ""))
        if settlement.last is not None:
            attempts = joined(attempts, line_of(settlement.last))
        counts = (max(deliveries, settlement.deliveries), max(failures, settlement.failures))
        self._waiting[key] = (due_ms, *counts, attempts)
        self._txn.rows += 1

    def _dead(self, dead: Dead, book: TopicBook) -> None:
        group, message = dead.group, dead.message
        topic_id, pos = group.topic.id, position(group.topic.id, message)
        if message.seq <= book.start_of[group.id] or self._is_settled(group, pos):
            return
        waiting = self._waiting.get((group_lane(group.id, message.priority), pos), (0, 0, 0, ""))
        if not bury(self._txn, dead, pos, waiting[1:]):
            return  # settled before, or unknown: dead once, or not at all
        book.dead_letters += 1
        self._buried[topic_id] = None
        self._txn.rows += 1
        self._txn.payload_bytes += message.size_bytes
        self._end_wait(group, message)
        self._settled(group, book, message)

    # -- writing

    def _write_retries(self) -> None:
        txn = self._txn
        if self._waiting:
            attempts = known_attempts(txn, {key: row[3] for key, row in self._waiting.items()})
            values = list(chain.from_iterable((*key, *row[:3], attempts[key]) for key, row in self._waiting.items()))
            UPSERT_RETRIES.run(txn.execute, values)
            txn.retries_written.update(lane for lane, _ in self._waiting)
        for lane, positions in self._over.items():
            DELETE_RETRIES.run(txn.execute, positions, lane)
            if txn.execute(SELECT_HAS_RETRIES, (lane,)).fetchone() is None:
                txn.retries_emptied.add(lane)

    def _write_shared(self) -> None:
        """Note who has settled what, and let go of what the last group has."""
        txn = self._txn
        sizes: dict[int, int] = {}
        for group_id, positions in self._shared.items():
            INSERT_SETTLED.run(txn.execute, list(positions), group_id)
            sizes.update(positions)
        complete: list[int] = []
        for pos, settled in COUNT_SETTLED.fetch(txn.execute, sizes):
            topic_id = pos >> TOPIC_SHIFT
            if pos not in self._retained and settled >= txn.book(topic_id).needed(pos & SEQ_MAX):
                complete.append(pos)
                self._gone.setdefault(topic_id, {})[pos] = sizes[pos]
        DELETE_SETTLED.run(txn.execute, complete)

    def _delete(self) -> None:
        """Delete what nobody is owed any more, and take it off the books: exactly what was there."""
        txn = self._txn
        if txn.careful:
            asked = list(chain.from_iterable(self._gone.values()))
            kept = {pos for (pos,) in SELECT_KEPT.fetch(txn.execute, asked)}
            for gone in self._gone.values():
                for pos in [pos for pos in gone if pos not in kept]:
                    del gone[pos]
        positions = sorted(chain.from_iterable(self._gone.values()))
        if delete_messages(txn.execute, positions) != len(positions):
            assert not txn.careful, "a message was looked up and is not there"
            raise Surprise
        for topic_id, gone in self._gone.items():
            book = txn.book(topic_id)
            size_bytes = sum(gone.values())
            if book.marked or book.config.retain_ms:  # it may have been settled and kept before
                DELETE_SETTLED.run(txn.execute, list(gone))
            book.messages -= len(gone)
            book.bytes -= size_bytes
            txn.payload_bytes += size_bytes

    def _trim(self, book: TopicBook) -> None:
        """Keep the topic's dead letters within their number. (Their age is `dead.forget_old`'s.)"""
        txn, limits, topic_id = self._txn, self._txn.limits, book.topic.id
        too_many = book.dead_letters - limits.dead_letters_max
        if too_many > 0:
            book.dead_letters -= txn.execute(DELETE_DEAD_OLDEST, (topic_id, too_many)).rowcount


def delete_messages(execute: Execute, positions: Sequence[int]) -> int:
    """Delete the rows at these positions, which are sorted and all different. Returns how many were there.

    Most are settled in the order in which they were stored, and a range takes a quarter of the time of a list."""
    if not positions:
        return 0
    deleted = 0
    scattered: list[int] = []
    for first, last in runs(positions):
        if last - first < RUN_ROWS_MIN - 1:
            scattered += range(first, last + 1)
        else:
            deleted += execute(DELETE_MESSAGES_BETWEEN, (first, last)).rowcount
    return deleted + DELETE_MESSAGES.run(execute, scattered)


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Runs without a gap, (first, last), of sorted and different numbers."""
    first, last = numbers[0], numbers[-1]
    if last - first == len(numbers) - 1:
        return [(first, last)]
    found = []
    previous = first
    for number in numbers:
        if number > previous + 1:
            found.append((first, previous))
            first = number
        previous = number
    found.append((first, previous))
    return found
