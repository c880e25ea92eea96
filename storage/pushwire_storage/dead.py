"""Dead letters: how a message comes to lie among them, with the history of its attempts, and how it leaves them.

Owns the rows of `dead_letters` and the text in which attempts are kept. It must not commit; everything that writes
runs on the writer's thread, inside its transaction, so that a message is always in exactly one place.

The text: one JSON array a line, `[at_ms, how, subject, error]`, oldest first. Lines, because an attempt is then added
and the oldest dropped without reading what they say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import ATTEMPTS_KEPT, PRIORITIES, REDRIVE_MAX, Attempt, Dead, DeadLetter, Discard, Message, Redrive, Refused
from .planning import (
    SEQ_BITS,
    SEQ_MAX,
    TopicBook,
    content_crc,
    group_lane,
    message_of,
    over_quota,
    position,
    row_crc,
    topic_lane,
)
from .queries import (
    DELETE_FIRST_LETTERS,
    DELETE_LETTERS,
    INSERT_DEAD,
    INSERT_MARKS,
    INSERT_REDRIVEN,
    SELECT_ATTEMPTS,
    SELECT_FIRST_LETTERS,
    SELECT_LETTER,
    SELECT_RECORD,
)
from .seals import SEAL_LETTER, times_seal

if TYPE_CHECKING:
    from .txn import Txn

REDRIVE_BYTES_MAX = 16 << 20
"""Bytes one transaction may put back, but at least one message: they are in memory, and the writer is busy for about
50 ms with so many."""
FORGET_MAX = 500
"""Letters that one transaction looks at to forget old ones: each is a row and the pages of its body."""
FORGET_PERIOD_MS = 60_000
"""From one look to the next, where some are left that are not old: a letter goes up to so much late."""
LETTER_COLUMNS = 13
"""Columns of a letter that are its message's; see `planning.message_of`."""


# -- attempts


def line_of(attempt: Attempt | None) -> str:
    """One attempt as text; nothing for none."""
    if attempt is None:
        return ""
    return json.dumps([attempt.at_ms, attempt.how, attempt.subject, attempt.error], separators=(",", ":"))


def joined(*texts: str) -> str:
    """The last ATTEMPTS_KEPT of these, oldest first."""
    lines = "\n".join(text for text in texts if text).split("\n")
    return "\n".join(lines[-ATTEMPTS_KEPT:])


def attempts_of(text: str) -> tuple[Attempt, ...]:
    """What the text tells. Of a damaged one: the lines that can be read."""
    lines = text.split("\n") if text else ()
    return tuple(attempt for line in lines if (attempt := _attempt_of(line)) is not None)


def _attempt_of(line: str) -> Attempt | None:
    """None for a damaged one: dead letters are for people to look at, and a history with a hole is better than none."""
    try:
        at_ms, how, subject, error = json.loads(line)
        return Attempt(int(at_ms), str(how), str(subject), None if error is None else str(error))
    except (ValueError, TypeError):
        return None


def known_attempts(txn: Txn, added: Mapping[tuple[int, int], str]) -> dict[tuple[int, int], str]:
    """What is to be kept for each (lane, position) that gets attempts added: those on disk included."""
    asked: dict[int, list[int]] = {}
    for (lane, pos), text in added.items():
        if text and txn.has_retries(lane):
            asked.setdefault(lane, []).append(pos)
    kept = dict(added)
    for lane, positions in asked.items():
        for pos, text in SELECT_ATTEMPTS.fetch(txn.execute, positions, lane):
            kept[(lane, pos)] = joined(text, kept[(lane, pos)])
    return kept


# -- in


def bury(txn: Txn, dead: Dead, pos: int, waiting: tuple[int, int, str] = (0, 0, "")) -> bool:
    """Copy the message to the dead letters, with the highest counts and all attempts that are known: on disk, in this
    batch (`waiting`: deliveries, failures, attempts), in the settlement. False when the group had settled it before."""
    group = dead.group
    record: tuple[int, int, str] | None = None
    lane = group_lane(group.id, dead.message.priority)
    if txn.has_retries(lane):
        record = txn.execute(SELECT_RECORD, (lane, pos)).fetchone()
    before = record or (0, 0, "")
    deliveries = max(dead.deliveries, waiting[0], before[0])
    failures = max(dead.failures, waiting[1], before[1])
    attempts = joined(before[2], waiting[2], line_of(dead.last))
    why = (dead.reason, dead.error, deliveries, failures, dead.at_ms, attempts)
    values = (group.topic.id, group.id, group.name, *why, pos, group.id)
    if txn.execute(INSERT_DEAD, values).rowcount != 1:
        return False
    txn.execute(SEAL_LETTER)
    until_ms = keep_until(txn, dead.at_ms)
    txn.letters_ms = until_ms if txn.letters_ms is None else min(txn.letters_ms, until_ms)
    return True


def keep_until(txn: Txn, at_ms: int) -> int:
    """When a letter that died then has been kept long enough."""
    return at_ms + int(txn.limits.dead_letters_keep_s * 1000) + 1


# -- out


def forget_old(txn: Txn) -> None:
    """Remove letters that have been kept long enough, oldest first, a piece per transaction."""
    if txn.letters_ms is None or txn.letters_ms > txn.now_ms:
        return
    rows = txn.execute(SELECT_FIRST_LETTERS, (FORGET_MAX,)).fetchall()
    # Not only those before the first young one: the clock may have been set back between two starts.
    old = {number: topic_id for number, topic_id, at_ms in rows if keep_until(txn, at_ms) <= txn.now_ms}
    DELETE_FIRST_LETTERS.run(txn.execute, list(old))
    for topic_id in old.values():
        if txn.exists(topic_id):
            txn.book(topic_id).dead_letters -= 1
    young = [at_ms for number, _, at_ms in rows if number not in old]
    if young:
        txn.letters_ms = max(keep_until(txn, min(young)), txn.now_ms + FORGET_PERIOD_MS)
    else:
        txn.letters_ms = txn.now_ms if len(rows) == FORGET_MAX else None


def redrive(txn: Txn, change: Redrive) -> list[int] | Refused:
    """Store dead letters again, each for the group it died in only. Returns the new seq per id, in their order; 0: it
    stays (unknown, damaged, or its group is gone). Fewer seqs than ids: those beyond would have been too much for one
    transaction; they stay too."""
    if not txn.exists(change.topic.id):
        return []
    book = txn.book(change.topic.id)
    letters, asked = _letters(txn, book, change.ids[:REDRIVE_MAX])
    size_bytes = sum([message.size_bytes for message, _ in letters.values()])
    if letters and over_quota(book, len(letters), size_bytes, txn.limits):
        return Refused("topic_full", f"topic {book.topic.name!r} is full: {txn.holder(book)}")
    seqs = _put_back(txn, book, letters)
    return [seqs.pop(number, 0) for number in change.ids[:asked]]


def _put_back(txn: Txn, book: TopicBook, letters: Mapping[int, tuple[Message, int]]) -> dict[int, int]:
    """Store these, and return their new seqs by id."""
    topic_id, max_age_ms = book.topic.id, book.config.max_age_ms
    rows: list[Any] = []
    marks: list[int] = []
    seqs: dict[int, int] = {}
    for number, (message, group_id) in letters.items():
        book.last_seq += 1
        seqs[number] = message.seq = book.last_seq
        # Its second life begins now, for what is kept for a time; nor would seqs be in the order of time otherwise.
        message.published_at_ms = txn.now_ms
        message.due_ms = None
        message.expires_ms = txn.now_ms + max_age_ms if max_age_ms else None
        message.redriven = True
        pos = position(topic_id, message)
        rows += _row(message, pos)
        for other in book.owners(message.seq):
            if other.id != group_id:
                marks += (pos, other.id)
        lane = topic_lane(topic_id, message.priority)
        txn.apart.setdefault(lane, []).append(message)  # not `fresh`: other groups' lanes are not to be given it
        txn.behind.add(lane)
        if message.expires_ms is not None:
            txn.wake(message.expires_ms)
            txn.expiring = True
        book.messages += 1
        book.bytes += message.size_bytes
        txn.payload_bytes += message.size_bytes
    if seqs:
        txn.grown(book)
    INSERT_REDRIVEN.run(txn.execute, rows)
    INSERT_MARKS.run(txn.execute, marks)
    book.dead_letters -= DELETE_LETTERS.run(txn.execute, list(seqs), topic_id)
    txn.rows += len(seqs)
    return seqs


def _row(message: Message, pos: int) -> tuple[Any, ...]:
    crc = row_crc(message, content_crc(message), pos)
    seal = times_seal(None, message.expires_ms, 1)
    place = (pos, message.id, message.key, message.encoding, message.content_type, message.headers)
    return (*place, message.published_at_ms, crc, message.data, message.expires_ms, seal)


def _letters(txn: Txn, book: TopicBook, ids: Sequence[int]) -> tuple[dict[int, tuple[Message, int]], int]:
    """The letters that can be put back: id -> (message, group id); and how many of the ids were looked at."""
    found: dict[int, tuple[Message, int]] = {}
    size_bytes = 0
    for asked, number in enumerate(ids):
        if size_bytes >= REDRIVE_BYTES_MAX:
            return found, asked
        row = txn.execute(SELECT_LETTER, (number, book.topic.id)).fetchone()
        if row is None or number in found:
            continue
        message, group_id = message_of(row[:LETTER_COLUMNS]), row[LETTER_COLUMNS + 1]
        if message is not None and row[-1] and group_id in book.start_of:
            found[number] = (message, group_id)
            size_bytes += message.size_bytes
    return found, len(ids)


def discard(txn: Txn, change: Discard) -> int:
    """Remove dead letters, of the first REDRIVE_MAX of the ids. Returns how many there were."""
    if not txn.exists(change.topic.id):
        return 0
    ids = list(dict.fromkeys(change.ids[:REDRIVE_MAX]))
    removed = DELETE_LETTERS.run(txn.execute, ids, change.topic.id)
    txn.book(change.topic.id).dead_letters -= removed
    txn.rows += removed
    return removed


def letter_of(topic_name: str, row: Sequence[Any]) -> DeadLetter:
    """A stored letter. One that is damaged is shown as it is, with the reason `corrupt`."""
    number, _, group, reason, error, deliveries, failures, at_ms, attempts, sound = row[LETTER_COLUMNS:]
    message = message_of(row[:LETTER_COLUMNS])
    if message is None or not sound:
        reason = "corrupt"
    if message is None:
        pos, id_, key, encoding, content_type, headers, published_at_ms, _, data = row[:9]
        body = data if isinstance(data, bytes) else str(data).encode()
        priority = pos >> SEQ_BITS & PRIORITIES - 1
        message = Message(str(id_), body, published_at_ms, encoding, priority, key, headers, content_type)
        message.seq = pos & SEQ_MAX
    return DeadLetter(
        number, topic_name, group, message, reason, error, deliveries, failures, at_ms, attempts_of(attempts)
    )
