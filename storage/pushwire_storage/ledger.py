"""The delivery ledger: who got which message when, and how it ended, for a day and as long as the message is kept.

Owns the table `ledger`. One row holds every event of a batch that differs in nothing but the message: a row per event
cost the writer 30 % of its throughput, these cost it a few. It must not commit; all but `history` runs on the writer's
thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Event, Topic
from .planning import SEQ_MAX, bases
from .queries import (
    DELETE_EVENTS,
    DELETE_EVENTS_OF_TOPIC,
    INSERT_EVENTS,
    SELECT_EVENTS_FROM,
    SELECT_HISTORY,
    SELECT_OLDEST,
    SELECT_PLACES,
    Connection,
    Execute,
)

if TYPE_CHECKING:
    from .txn import Txn

SPAN = 63
"""Consecutive seqs that one row can tell of, a bit each: what SQLite's integer has above its sign."""
KEEP_MS = 86_400_000
"""Every entry is kept at least so long: the day that people look back on when somebody asks."""
PASS_PAUSE_MS = 3_600_000
"""From the end of one look through the old entries to the next: what stays because its messages do is looked at again
then, so this bounds that work, and how much longer than needed an entry is kept."""
CLEAN_ROWS, CLEAN_ROWS_IDLE = 16, 1_000
"""Old rows looked at per batch beside twice the new ones: so that it ends, and costs no batch more than its own did.
More in a batch that has nothing else to do."""
HISTORY_ROWS_MAX = 10_000
"""Entries of one message that `history` returns, oldest first: 100 groups, 50 deliveries each, a start and an end."""

EVENTS = ("delivered", "acked", "nacked", "released", "returned", "timed_out", "dead")
"""By number, as stored; in the order in which those of one attempt and millisecond happened."""
_NUMBERS = {name: number for number, name in enumerate(EVENTS)}


class Ledger:
    """How far the look through the old entries has come. What a rolled-back transaction changed of it does no harm:
    rows passed over are met by the next look."""

    __slots__ = ("cursor", "holds", "next_ms")

    def __init__(self) -> None:
        self.cursor = 0
        self.next_ms = 0
        self.holds = False
        """There may be entries."""

    def tick_ms(self) -> int | None:
        """When the next piece of the cleaning is due, whether anything else happens or not."""
        return self.next_ms if self.holds else None


def write(txn: Txn, events: Sequence[Event], *, idle: bool) -> None:
    """Note the events, and do a piece of the cleaning. Part of every batch, with or without events."""
    values = gathered(events) if events else []
    cleaning = txn.state.ledger
    if values:
        txn.rows += INSERT_EVENTS.run(txn.execute, values)
        cleaning.holds = True
    if txn.now_ms >= cleaning.next_ms:
        _clean(txn, cleaning, (CLEAN_ROWS_IDLE if idle else CLEAN_ROWS) + 2 * len(values) // INSERT_EVENTS.width)


def gathered(events: Sequence[Event]) -> list[Any]:
    """The values of the rows that tell of these events."""
    values: list[Any] = []
    runs: dict[tuple[Any, ...], list[int]] = {}
    topic = group = kind = subject = session = detail = None
    at_ms = attempt = -1
    run: list[int] = []
    for event in events:
        # Mostly the next one is like the last: these comparisons cost a third of making the key.
        if not (
            event.subject == subject
            and event.event == kind
            and event.attempt == attempt
            and event.at_ms == at_ms
            and event.group == group
            and event.topic is topic
            and event.session == session
            and event.detail == detail
        ):
            topic, group, kind, at_ms = event.topic, event.group, event.event, event.at_ms
            subject, session, attempt, detail = event.subject, event.session, event.attempt, event.detail
            key = (topic.id, group, at_ms, _NUMBERS[kind], subject, session, attempt, detail)
            run = runs.setdefault(key, [event.seq, 0])
        offset = event.seq - run[0]
        if 0 <= offset < SPAN:
            run[1] |= 1 << offset
        else:
            values += (*key, *run)
            run[:] = event.seq, 1
    for key, run in runs.items():
        values += (*key, *run)
    return values


def forget_topic(execute: Execute, topic_id: int, rows_max: int) -> int:
    """Remove so many rows of a deleted topic. Returns how many there were; fewer than that: none is left."""
    return execute(DELETE_EVENTS_OF_TOPIC, (topic_id, rows_max)).rowcount


def history(connection: Connection, topic: Topic, seq: int) -> list[Event]:
    """The entries of one message, oldest first. Runs on a reader."""
    rows = connection.execute(SELECT_HISTORY, (topic.id, seq - SPAN + 1, seq, seq, HISTORY_ROWS_MAX)).fetchall()
    return [
        Event(topic, seq, group, at_ms, EVENTS[event], subject, session, attempt, detail)
        for group, at_ms, event, subject, session, attempt, detail in rows
    ]


# -- cleaning


def _clean(txn: Txn, cleaning: Ledger, rows_max: int) -> None:
    """Remove what is more than a day old and tells of no message that is still kept, oldest rows first."""
    rows = txn.execute(SELECT_EVENTS_FROM, (cleaning.cursor, rows_max)).fetchall()
    old_ms = txn.now_ms - KEEP_MS
    old = [row for row in rows if row[1] < old_ms]  # of one batch some may be, where its events took their time
    kept = _Kept(txn)
    gone = [number for number, _, topic_id, seq, bits in old if not kept.any(topic_id, seq, bits)]
    DELETE_EVENTS.run(txn.execute, gone)
    if old:
        cleaning.cursor = old[-1][0]
    if len(old) < rows_max:
        cleaning.holds = cleaning.cursor > 0 or bool(rows)
        cleaning.cursor = 0
        cleaning.next_ms = txn.now_ms + PASS_PAUSE_MS


class _Kept:
    """Whether messages are still kept, for the rows of one piece of cleaning."""

    def __init__(self, txn: Txn) -> None:
        self._txn = txn
        self._oldest: dict[int, int] = {}
        """topic id -> the oldest seq it keeps. Most entries are of messages long gone and need no other look."""

    def any(self, topic_id: int, seq: int, bits: int) -> bool:
        oldest = self._oldest.get(topic_id)
        if oldest is None:
            oldest = self._oldest[topic_id] = self._find_oldest(topic_id)
        if seq + SPAN <= oldest:
            return False
        for base in bases(topic_id):
            for (pos,) in self._txn.execute(SELECT_PLACES, (base | seq, base | seq + SPAN - 1)).fetchall():
                if bits >> ((pos & SEQ_MAX) - seq) & 1:
                    return True
        return False

    def _find_oldest(self, topic_id: int) -> int:
        ranges = [(base, base | SEQ_MAX) for base in bases(topic_id)]
        rows = [self._txn.execute(SELECT_OLDEST, limits).fetchone() for limits in ranges]
        return min((row[0] & SEQ_MAX for row in rows if row), default=SEQ_MAX + SPAN)
