"""What a transaction does because time has passed: scheduled messages become deliverable, TTLs end.

Owns the move of a due message into its lane, and the one look at each message whose TTL is over. It settles nothing
that a group is owed: that is for the gateway to say. It must not commit; it runs on the writer's thread.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .base import DUE_MAX, PRIORITIES, Group
from .planning import (
    SCHEDULED,
    SEQ_BITS,
    SEQ_MAX,
    TOPIC_SHIFT,
    Lapsed,
    TopicBook,
    group_lane,
    message_of,
)
from .queries import (
    DELETE_MESSAGES,
    INSERT_PROMOTED,
    PROMOTE,
    SELECT_EXPIRED,
    SELECT_NEXT_EXPIRY,
    SELECT_NEXT_SCHEDULED,
    SELECT_RETRY,
    SELECT_SCHEDULED_DUE,
)
from .txn import Txn

LATE_MAX = 2 * DUE_MAX
"""Rows in `retries` that one transaction's due messages may need: one per open group that has read past the place
of one. Their number, not only that of messages, is what costs time when many groups follow a topic."""
EXPIRED_MAX = 200
"""Messages whose TTL is over that one transaction looks at: 2 to 3 ms, and as many settlements in the next one."""
EXPIRED_BYTES_MAX = 1 << 20
"""And so many bytes of them, but at least one."""


def _lane_of(pos: int) -> tuple[int, int, int]:
    """(topic id, priority, seq) of a position."""
    return pos >> TOPIC_SHIFT, pos >> SEQ_BITS & PRIORITIES - 1, pos & SEQ_MAX


# -- scheduled messages


def promote(txn: Txn, open_lanes: Collection[int]) -> None:
    """Move the messages that are due by now into their lanes. An open lane may have passed their place: there they
    wait like retries, which are looked for below a lane's cursor too."""
    if txn.scheduled_ms is None or txn.scheduled_ms > txn.now_ms:
        return
    execute = txn.execute
    moving: list[int] = []
    gone: list[int] = []
    late: list[int] = []
    for (pos,) in execute(SELECT_SCHEDULED_DUE, (txn.now_ms, DUE_MAX)).fetchall():
        topic_id, priority, seq = _lane_of(pos)
        book = txn.book(topic_id) if txn.exists(topic_id) else None
        if book is None or seq <= book.floor:
            gone.append(pos)  # purged; a chore would have come across it later
            continue
        moving.append(pos)
        txn.sweep_from(book, priority, seq)
        book.scheduled -= 1
        for group in book.owners(seq) if open_lanes else ():
            lane = group_lane(group.id, priority)
            if lane in open_lanes:
                late += (lane, pos - SCHEDULED, txn.now_ms)
                txn.promoted.append((lane, seq, txn.now_ms))
        if len(late) >= 3 * LATE_MAX:
            break
    DELETE_MESSAGES.run(execute, gone)
    _move(txn, moving)
    if late:
        INSERT_PROMOTED.run(execute, late)
        txn.retries_written.update(late[::3])
    txn.scheduled_ms = execute(SELECT_NEXT_SCHEDULED).fetchone()[0]


def _move(txn: Txn, positions: list[int]) -> None:
    """Take the scheduled bit off these rows."""
    if positions:
        PROMOTE.run(txn.execute, positions, SCHEDULED)
        txn.rows += len(positions)


# -- TTLs


def expire(txn: Txn, *, look_again: bool) -> None:
    """Look at messages whose TTL ended since the last look. Those a group is owed are named, for the gateway to settle
    those that it has not in its hands; others go. `look_again`: also at those that it had in its hands before."""
    if look_again and txn.left:
        txn.left = False
        txn.expiry_mark, txn.expiry_ms = (0, 0), 0
    if txn.expiry_ms is None or txn.expiry_ms > txn.now_ms:
        return
    execute = txn.execute
    rows = execute(SELECT_EXPIRED, (*txn.expiry_mark, txn.now_ms, EXPIRED_MAX))
    size_bytes = 0
    found: list[Any] = []
    for row in rows:
        found.append(row)
        size_bytes += len(row[8])
        if size_bytes >= EXPIRED_BYTES_MAX:
            break
    rows.close()
    for row in found:
        _expire(txn, row)
        txn.expiry_mark = (row[10], row[0])
    following = execute(SELECT_NEXT_EXPIRY, txn.expiry_mark).fetchone()
    txn.expiry_ms = following[0] if following else None


def _expire(txn: Txn, row: Any) -> None:
    pos = row[0]
    topic_id, priority, seq = _lane_of(pos)
    book = txn.book(topic_id) if txn.exists(topic_id) else None
    if book is None or seq <= book.floor:
        DELETE_MESSAGES.run(txn.execute, [pos])
        return
    message = message_of(row)
    groups = txn.owed(book, pos & ~SCHEDULED, seq)
    unseen = bool(pos & SCHEDULED)
    if message is None:
        return  # damaged: whoever reads it next says so
    if not groups:
        if _goes(txn, book, row):
            txn.remove(book, {pos: message.size_bytes}, scheduled=unseen)
            txn.expired += 1
        return
    if unseen:
        # From here on it lies where settlements look for it; lanes leave it alone because it is expired.
        _move(txn, [pos])
        book.scheduled -= 1
    owed = [(group, _retry_due(txn, group, priority, pos & ~SCHEDULED)) for group in groups]
    txn.lapsed.append(Lapsed(message, owed, unseen))
    txn.left = True


def _goes(txn: Txn, book: TopicBook, row: Any) -> bool:
    """Whether an expired message that no group is owed goes now. In a topic with groups retention keeps it, as it
    keeps settled ones, but not beyond the topic's age limit."""
    published_at_ms, due_ms, config = row[6], abs(row[9] or 0), book.config
    if not book.groups or not book.retains(published_at_ms, txn.now_ms):
        return True
    return bool(config.max_age_ms) and max(published_at_ms, due_ms) + config.max_age_ms <= txn.now_ms


def _retry_due(txn: Txn, group: Group, priority: int, pos: int) -> int | None:
    lane = group_lane(group.id, priority)
    if not txn.has_retries(lane):
        return None
    row = txn.execute(SELECT_RETRY, (lane, pos)).fetchone()
    return row[0] if row else None
