"""Checksums of what a message's own crc does not cover: remembered ids, times, counts, marks, letters, the registry.

Owns how each is computed, in SQL where SQL changes the row and in Python where Python reads it, and what is looked at
when a file is opened. A row whose columns are changed is sealed in the same transaction. It commits only what it mends.

Numbers are summed modulo a prime, each with a factor of its own: a bit that flips changes the sum, and rows that a
statement makes are sealed by that statement, without a value bound more. Texts go through crc32, a function registered
with each connection; only rows written rarely have any.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

from .errors import StoreRefused

PRIME = 2_147_483_647
"""2^31 - 1: no power of two is a multiple of it, so no single bit goes unnoticed, and 31 bits fit beside a crc."""
_FACTORS = (3, 5, 7, 11, 13, 17, 19, 23)
_NOTHING = 715_827_882
"""What counts for a column that is NULL: not 0, which one flipped bit of a row's header can make of it."""


def _sum(*columns: str) -> str:
    assert len(columns) <= len(_FACTORS), "a column without a factor would have no seal"
    terms = [f"ifnull({name}, {_NOTHING}) % {PRIME} * {by}" for name, by in zip(columns, _FACTORS, strict=False)]
    return f"(({' + '.join(terms)}) % {PRIME})"


def _texts(*columns: str) -> str:
    return f"pushwire_crc({', '.join(f'CAST({name} AS BLOB)' for name in columns)})"


def message_seal(due: str = "due", expires: str = "expires", redriven: str = "redriven") -> str:
    """SQL: the seal of a message's times. The sign of `due` is not in it: it changes when the message is due."""
    return _sum(f"abs({due})", expires, redriven)


def times_seal(due: Any, expires: Any, redriven: Any) -> int:
    """The same in Python. NULL stands for it where a message has none of the three."""
    if redriven not in {None, 1}:
        return -1  # the only numbers there are; a few large ones have the same remainder
    parts = (None if due is None else abs(due), expires, redriven)
    return sum((_NOTHING if part is None else part) % PRIME * by for part, by in zip(parts, _FACTORS, strict=False)) % (
        PRIME
    )


def topic_seal(*columns: str) -> str:
    """SQL: the seal of a topic's numbers: id, last_seq, messages, bytes, dead_letters, scheduled, ids, floor."""
    return _sum(*columns)


def mark_seal(pos: str = "pos", group_id: str = "group_id") -> str:
    """SQL: the seal of a row of `settled`. Short: it is made and compared for each message of several groups."""
    return f"({pos} % {PRIME} + {group_id} * 7)"


def retry_seal(*columns: str) -> str:
    """SQL: the seal of a row of `retries`: lane, pos, due, deliveries, failures, attempts."""
    *numbers, attempts = columns
    return f"({_sum(*numbers)} + CASE WHEN {attempts} = '' THEN 0 ELSE {_texts(attempts)} END)"


TOPIC_NUMBERS = ("id", "last_seq", "messages", "bytes", "dead_letters", "scheduled", "ids", "floor")
RETRY_COLUMNS = ("lane", "pos", "due", "deliveries", "failures", "attempts")

SEALS = {
    "topics": ("seal", topic_seal(*TOPIC_NUMBERS)),
    "topics about": ("about", f"({_sum('id', 'deleted')} + {_texts('tenant', 'name', 'config')})"),
    "groups": (
        "seal",
        f"({_sum('id', 'topic_id', 'start_seq', 'paused', 'inactive_ttl')} + {_texts('name', 'owner')})",
    ),
    "chores": ("seal", f"({_sum('number', 'topic_id', 'after_pos', 'through_pos')} + {_texts('kind')})"),
    "revocations": ("seal", f"({_sum('issued_before', 'expires')} + {_texts('issuer', 'jti', 'subject')})"),
    "settled": ("seal", mark_seal()),
    "retries": ("seal", retry_seal(*RETRY_COLUMNS)),
    "dead_letters": (
        "seal",
        (
            f"({_sum('number', 'topic_id', 'group_id', 'pos', 'deliveries', 'failures', 'at')}"
            f" + {_texts('group_name', 'reason', 'error', 'attempts')})"
        ),
    ),
}
"""By table: the column, and what must stand in it."""

SEAL_TOPIC = f"UPDATE topics SET seal = {SEALS['topics'][1]}, about = {SEALS['topics about'][1]} WHERE id = ?"
SEAL_GROUP = f"UPDATE groups SET seal = {SEALS['groups'][1]} WHERE id = ?"
SEAL_GROUPS_OF = f"UPDATE groups SET seal = {SEALS['groups'][1]} WHERE topic_id = ?"
SEAL_CHORE = f"UPDATE chores SET seal = {SEALS['chores'][1]} WHERE number = ?"
SEAL_LETTER = f"UPDATE dead_letters SET seal = {SEALS['dead_letters'][1]} WHERE number = last_insert_rowid()"
LETTER_SOUND = f"seal IS {SEALS['dead_letters'][1]}"
SEAL_REVOCATION = (
    f"UPDATE revocations SET seal = {SEALS['revocations'][1]} WHERE issuer = ? AND jti = ? AND subject = ?"
)
_BROKEN = "SELECT count(*) FROM {} WHERE {} IS NOT {}"
CHECK_SEALS = [(name, _BROKEN.format(name.split()[0], *seal)) for name, seal in SEALS.items()]
_DROP_RETRIES = "DELETE FROM retries WHERE seal IS NOT " + SEALS["retries"][1]
_REGISTRY = ("topics", "topics about", "groups", "chores", "revocations")
CHECK_ROWS = [f"PRAGMA integrity_check({table})" for table in ("topics", "groups")]
"""A row that is gone has no checksum that could be wrong: one bit of a page's header makes all of its rows go. The
index of the names still has them, on a page of its own."""


# -- remembered ids


def print_of(topic_id: int, id_: bytes, seq: int, content: int) -> int:
    """What is kept with a remembered id: the crc of the content, and below it 31 bits that bind all of the row."""
    return content << 31 | (crc32(id_, content) ^ (topic_id << 42 | seq)) % PRIME


def is_sound(topic_id: Any, id_: bytes, seq: Any, print_: Any) -> bool:
    """Whether a remembered id is as it was stored."""
    try:
        return bool(print_ == print_of(topic_id, id_, seq, print_ >> 31))
    except (TypeError, ValueError, OverflowError):
        return False  # damage can change a column's type


# -- connections and files


def _crc(*parts: bytes | None) -> int:
    crc = 0
    for part in parts:
        crc = crc32(b"-" if part is None else b"%d:%b" % (len(part), part), crc)
    return crc


def _print(topic_id: int, id_: bytes, seq: int, content: int) -> int:
    return print_of(topic_id, id_, seq, content & 0xFFFFFFFF)


def register(connection: Any) -> None:
    """Give a connection the functions that seals need."""
    connection.create_function("pushwire_crc", -1, _crc, deterministic=True)
    connection.create_function("pushwire_print", 4, _print, deterministic=True)


def refuse_damaged(execute: Any) -> None:
    """To be asked before anything is read from a file. Raises StoreRefused where the registry is not what was stored:
    where a group or a topic stands cannot be guessed, and a wrong guess loses messages in silence."""
    for sql in CHECK_ROWS:
        if (answer := execute(sql).fetchone()[0]) != "ok":
            raise StoreRefused(f"the file is damaged: {answer}. Put a backup back")
    for name, sql in CHECK_SEALS:
        if name in _REGISTRY and (count := execute(sql).fetchone()[0]):
            raise StoreRefused(
                f"the file is damaged: {count} rows of {name} do not match their checksum. Put a backup back"
            )


def drop_damaged_retries(connection: Any) -> int:
    """A retry that is not what was stored goes: its message is whole, and is delivered at once, as one that was never
    tried. Its due time might never come. Returns how many."""
    (count,) = connection.execute(dict(CHECK_SEALS)["retries"]).fetchone()
    return int(connection.execute(_DROP_RETRIES).rowcount) if count else 0
