"""Work that is too much for one transaction, done piece by piece: what purges and moved groups leave behind, and
retention.

Owns the `chores` table and the bounds of a piece. A chore outlives a restart; where retention stands does not, it
looks at everything once more then. It must not commit; it runs on the writer's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from heapq import merge
from itertools import islice, takewhile

from . import ledger
from .base import PRIORITIES
from .planning import (
    ID_BYTES,
    SCHEDULED,
    SEQ_BITS,
    SEQ_MAX,
    TopicBook,
    bases,
    lane_base,
)
from .queries import (
    COUNT_SETTLED,
    COUNT_SETTLED_RANGE,
    DELETE_CHORE,
    DELETE_RANGE,
    DELETE_SETTLED_RANGE,
    INSERT_CHORE,
    SELECT_CHORES,
    SELECT_NTH,
    SELECT_OLDEST,
    SELECT_PUBLISHED,
    SET_AGE,
    UPDATE_CHORE,
    Execute,
)
from .seals import SEAL_CHORE
from .txn import Chore, Trim, Txn

PIECE_ROWS = 2_000
"""Rows one transaction looks at for a chore or for retention: 3 to 6 ms of the writer's time."""
PURGED_ROW_BYTES = 400
"""What a row removed unread is guessed to add to the WAL: the page it lies on is written once more."""
SWEEP_PERIOD_MS = 1_000
"""Retention looks at a topic at most this often: a retained message goes up to so much late, and never early."""

TRIM_PAUSE_MS = 100
"""A look for bytes to give up goes on where its last step ended; what it has passed over because a group was owed it
is met by the next look. That begins so long after it for every PIECE_ROWS rows it looked at, and SWEEP_PERIOD_MS at
least: a long backlog that stays costs the writer a few parts in a hundred of its time."""
TRIM_ROWS_MIN = 64
"""Rows that one step looks at, beside twice as many as the topic has too many."""

PURGED, UNOWED, AGED, LEDGER = "purged", "unowed", "aged", "ledger"
"""Kinds: remove what lies below the topic's floor; remove what no group is owed any more; give messages another age
limit (`aged:<old>:<new>`); remove the ledger of a topic that was deleted."""


def load(execute: Execute) -> tuple[Chore, ...]:
    """The chores left over from before."""
    return tuple(Chore(*row) for row in execute(SELECT_CHORES))


def begin(txn: Txn, kind: str, topic_id: int, after_seq: int, through_seq: int) -> None:
    """Plan a chore over these seqs of a topic, all its lanes."""
    for base in bases(topic_id):
        low, high = base | after_seq, base | through_seq
        if txn.execute(SELECT_OLDEST, (low, high)).fetchone() is not None:
            number = txn.execute(INSERT_CHORE, (kind, topic_id, low, high)).fetchone()[0]
            txn.execute(SEAL_CHORE, (number,))
            txn.chores += (Chore(number, kind, topic_id, low, high),)


def begin_ledger(txn: Txn, topic_id: int) -> None:
    """Plan the removal of a deleted topic's ledger."""
    number = txn.execute(INSERT_CHORE, (LEDGER, topic_id, 0, 0)).fetchone()[0]
    txn.execute(SEAL_CHORE, (number,))
    txn.chores += (Chore(number, LEDGER, topic_id, 0, 0),)


def work(txn: Txn) -> None:
    """Do a piece of what is left, as far as the transaction has not yet done so."""
    while txn.chores and txn.chore_rows < PIECE_ROWS:
        rows = PIECE_ROWS - txn.chore_rows
        chore, *others = txn.chores
        if chore.kind == LEDGER:
            stop, seen = _ledger(txn, chore, rows)
        else:
            row = txn.execute(SELECT_NTH, (chore.after_pos, chore.through_pos, rows - 1)).fetchone()
            stop = row[0] if row else chore.through_pos
            seen = _do(txn, chore, stop)
        txn.chore_rows += seen + 1
        if stop >= chore.through_pos:
            txn.execute(DELETE_CHORE, (chore.number,))
            txn.chores = tuple(others)
        else:
            txn.execute(UPDATE_CHORE, (stop, chore.number))
            txn.execute(SEAL_CHORE, (chore.number,))
            txn.chores = (replace(chore, after_pos=stop), *others)


def _ledger(txn: Txn, chore: Chore, rows: int) -> tuple[int, int]:
    """Returns where the chore stands then, and the rows removed. Positions say nothing here, but that it is over."""
    removed = ledger.forget_topic(txn.execute, chore.topic_id, rows)
    return (chore.through_pos - 1 if removed == rows else chore.through_pos), removed


def _do(txn: Txn, chore: Chore, stop: int) -> int:
    """Do the chore up to this position. Returns the rows looked at."""
    execute, topic_id, low = txn.execute, chore.topic_id, chore.after_pos
    if chore.kind == PURGED:
        execute(DELETE_SETTLED_RANGE, (low & ~SCHEDULED, stop & ~SCHEDULED))
        removed = execute(DELETE_RANGE, (low, stop)).rowcount
        txn.payload_bytes += removed * PURGED_ROW_BYTES
        return removed
    if not txn.exists(topic_id):
        return 0
    book = txn.book(topic_id)
    low = max(low, low >> SEQ_BITS << SEQ_BITS | book.floor)
    if low >= stop:
        return 0
    if chore.kind == UNOWED:
        return _remove_unowed(txn, book, low, stop)
    _, old_ms, new_ms = chore.kind.split(":")
    txn.wake(0)
    return execute(SET_AGE, (int(old_ms), int(new_ms), low, stop)).rowcount


def _remove_unowed(txn: Txn, book: TopicBook, low: int, stop: int) -> int:
    """Remove what every group that is owed it has settled, or no group is owed, as far as it is not retained. Returns
    the rows looked at."""
    rows = txn.execute(SELECT_PUBLISHED, (low, stop, PIECE_ROWS)).fetchall()
    settled = dict(txn.execute(COUNT_SETTLED_RANGE, (low & ~SCHEDULED, stop & ~SCHEDULED)).fetchall())
    gone = {
        pos: size_bytes
        for pos, published_at_ms, size_bytes in rows
        if settled.get(pos & ~SCHEDULED, 0) >= book.needed(pos & SEQ_MAX)
        and not book.retains(published_at_ms, txn.now_ms)
    }
    txn.remove(book, gone, scheduled=sum(bool(pos & SCHEDULED) for pos in gone))
    return len(rows)


# -- retention


def retain(txn: Txn) -> None:
    """Look at the topic whose turn it is: what is older than it must be kept, and settled, goes."""
    state = txn.state
    if not state.sweeps or state.sweeps[0][0] > txn.now_ms:
        return
    topic_id = state.sweeps[0][1]
    txn.sweep_at[topic_id] = None
    if not txn.exists(topic_id):
        return
    book = txn.book(topic_id)
    times = (_retain_by_age(txn, book), _retain_by_bytes(txn, book))
    next_ms = min((at_ms for at_ms in times if at_ms is not None), default=None)
    if next_ms is not None:
        txn.sweep_at[topic_id] = next_ms


def _retain_by_age(txn: Txn, book: TopicBook) -> int | None:
    """Returns when to look again."""
    if not book.config.retain_ms or not book.groups:
        return None  # without a group everything waits for the first one
    rows, next_ms = PIECE_ROWS, None
    for priority in range(PRIORITIES):
        if rows <= 0:
            next_ms = txn.now_ms
            break
        seen, young_ms = _retain_lane(txn, book, priority, rows)
        rows -= seen
        if young_ms is not None:
            at_ms = max(young_ms + book.config.retain_ms, txn.now_ms + SWEEP_PERIOD_MS)
            next_ms = at_ms if next_ms is None else min(next_ms, at_ms)
    return next_ms


def _retain_lane(txn: Txn, book: TopicBook, priority: int, limit: int) -> tuple[int, int | None]:
    """Returns the rows looked at, and when the first was published that is too young."""
    topic_id = book.topic.id
    key, base = (topic_id, priority), lane_base(topic_id, priority)
    low = base | max(txn.swept.get(key, txn.state.swept.get(key, 0)), book.floor)
    rows = txn.execute(SELECT_PUBLISHED, (low, base | SEQ_MAX, limit)).fetchall()
    old = list(takewhile(lambda row: not book.retains(row[1], txn.now_ms), rows))  # in the order of publishing
    young_ms = rows[len(old)][1] if len(old) < len(rows) else None
    if not old:
        return len(rows), young_ms
    stop = old[-1][0]
    txn.swept[key] = stop & SEQ_MAX
    settled = dict(txn.execute(COUNT_SETTLED_RANGE, (low, stop)).fetchall())
    gone = {pos: size_bytes for pos, _, size_bytes in old if settled.get(pos, 0) >= book.needed(pos & SEQ_MAX)}
    txn.remove(book, gone)
    return len(rows), young_ms


def _retain_by_bytes(txn: Txn, book: TopicBook) -> int | None:
    """Remove what no group is owed, oldest first, while the topic keeps too many bytes. Returns when to look again."""
    excess_bytes, topic_id, now_ms = book.excess_bytes(), book.topic.id, txn.now_ms
    if excess_bytes <= 0:
        return None
    trim = txn.state.trims.get(topic_id)
    if trim is None or _following_ms(trim) <= now_ms:
        trim = txn.state.trims[topic_id] = Trim(now_ms)
    if trim.next_ms > now_ms:
        return trim.next_ms
    share = excess_bytes / (book.bytes - book.ids * ID_BYTES)
    limit = min(PIECE_ROWS, TRIM_ROWS_MIN + int(2 * book.messages * share))
    rows = _oldest(txn, topic_id, max(trim.seq, book.floor), limit)
    settled = dict(COUNT_SETTLED.fetch(txn.execute, [pos for pos, _, _ in rows]))
    gone: dict[int, int] = {}
    for pos, _, size_bytes in rows:
        if excess_bytes <= 0:
            break
        trim.seq = pos & SEQ_MAX
        trim.rows += 1
        if settled.get(pos, 0) >= book.needed(trim.seq):
            gone[pos] = size_bytes
            excess_bytes -= size_bytes
    txn.remove(book, gone)
    if excess_bytes <= 0:
        return None  # `Txn.grown` will say when it is too much again
    trim.next_ms = now_ms if len(rows) == limit else _following_ms(trim)
    return trim.next_ms


def _following_ms(trim: Trim) -> int:
    """When the look after this one may begin."""
    return trim.since_ms + max(SWEEP_PERIOD_MS, trim.rows * TRIM_PAUSE_MS // PIECE_ROWS)


def _oldest(txn: Txn, topic_id: int, after_seq: int, limit: int) -> Sequence[tuple[int, int, int]]:
    """The next rows of the topic in the order of their seqs, of all priorities: (pos, published_at, bytes)."""
    lanes = [
        txn.execute(SELECT_PUBLISHED, (base | after_seq, base | SEQ_MAX, limit))
        for base in bases(topic_id)[:PRIORITIES]  # what is scheduled stays
    ]
    try:
        return list(islice(merge(*lanes, key=lambda row: row[0] & SEQ_MAX), limit))
    finally:
        for lane in lanes:
            lane.close()
