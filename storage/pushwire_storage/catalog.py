"""What is kept beside the messages, as people and other programs ask for it: see `base.Catalog`.

Owns the reads of dead letters, ledger and revocations, each bounded, and the revocations themselves. It must not know
threads: whoever makes one says where reads, the writer's work and long work are done (`Places`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from . import ledger, maintenance
from .base import DeadFilter, DeadLetter, Event, Revocation, Topic
from .dead import letter_of
from .queries import (
    BEGIN_READ,
    DELETE_REVOCATIONS,
    ROLLBACK,
    SELECT_FLOOR,
    SELECT_LETTER,
    SELECT_LETTERS,
    SELECT_REVOCATIONS,
    UPSERT_REVOCATION,
    Connection,
    Execute,
)
from .scanning import first_published, tolerantly
from .seals import SEAL_REVOCATION

T = TypeVar("T")

LETTERS_MAX = 1000
"""Dead letters of one answer: as many as one batch can put back."""
LETTERS_BYTES_MAX = 8 << 20
"""Bytes of one answer, but at least one letter."""


class Places(Protocol):
    """Where a catalog's work is done. All raise StoreError."""

    async def read(self, question: Callable[[Connection], T]) -> T:
        """On a connection that cannot write and that nobody else waits for."""

    async def change(self, work: Callable[[Execute], T]) -> T:
        """On the writer, in a transaction of its own: durable when this returns."""

    async def apart(self, work: Callable[[maintenance.Job], T]) -> T:
        """On a thread of its own, ended early when the store closes."""


class SqliteCatalog:
    """See `base.Catalog`."""

    def __init__(self, places: Places, database: Path, now_ms: Callable[[], int]) -> None:
        """`now_ms`: the time of the last batch."""
        self._places = places
        self._database = database
        self._now_ms = now_ms

    async def dead_letters(self, topic: Topic, wanted: DeadFilter, limit: int) -> Sequence[DeadLetter]:
        return await self._places.read(lambda connection: dead_letters(connection, topic, wanted, limit))

    async def dead_letter(self, topic: Topic, id: int) -> DeadLetter | None:
        return await self._places.read(lambda connection: dead_letter(connection, topic, id))

    async def history(self, topic: Topic, seq: int) -> Sequence[Event]:
        return await self._places.read(lambda connection: ledger.history(connection, topic, seq))

    async def revoke(self, revocation: Revocation) -> None:
        await self._places.change(lambda execute: revoke(execute, revocation, self._now_ms()))

    async def revocations(self) -> Sequence[Revocation]:
        return await self._places.read(revocations)

    async def find_seq(self, topic: Topic, published_at_ms: int) -> int:
        return await self._places.read(lambda connection: find_seq(connection, topic, published_at_ms))

    async def backup(self, path: str) -> None:
        target = Path(path)
        await self._places.apart(lambda job: maintenance.backup(job, self._database, target))

    async def check(self) -> Sequence[str]:
        return await self._places.apart(lambda job: maintenance.check(job, self._database))

    async def check_seals(self) -> Sequence[str]:
        """The part of `check` that looks at what nothing reads until it is too late."""
        return await self._places.apart(lambda job: maintenance.check(job, self._database, whole=False))


# -- reads, on a reader


def dead_letters(connection: Connection, topic: Topic, wanted: DeadFilter, limit: int) -> list[DeadLetter]:
    """Dead letters of the topic, oldest first."""
    values = (topic.id, wanted.after_id, wanted.group, wanted.reason, wanted.key, min(limit, LETTERS_MAX))

    def work() -> list[DeadLetter]:
        found: list[DeadLetter] = []
        size_bytes = 0
        rows = connection.execute(SELECT_LETTERS, values)
        try:
            for row in rows:
                letter = letter_of(topic.name, row)
                found.append(letter)
                size_bytes += letter.message.size_bytes
                if size_bytes >= LETTERS_BYTES_MAX:
                    break
        finally:
            rows.close()
        return found

    return tolerantly(connection, work)


def dead_letter(connection: Connection, topic: Topic, id: int) -> DeadLetter | None:
    """One of them."""

    def work() -> DeadLetter | None:
        row = connection.execute(SELECT_LETTER, (id, topic.id)).fetchone()
        return None if row is None else letter_of(topic.name, row)

    return tolerantly(connection, work)


def find_seq(connection: Connection, topic: Topic, published_at_ms: int) -> int:
    """See `base.Catalog`."""
    execute, last_seq = connection.execute, topic.last_seq
    execute(BEGIN_READ)
    try:
        row = execute(SELECT_FLOOR, (topic.id,)).fetchone()
        found = first_published(execute, topic.id, last_seq, published_at_ms, row[0] if row else 0)
    finally:
        execute(ROLLBACK)
    return last_seq + 1 if found is None else found


def revocations(connection: Connection) -> list[Revocation]:
    """All that have not been forgotten."""
    rows: list[Any] = connection.execute(SELECT_REVOCATIONS).fetchall()
    return [
        Revocation(issuer, jti or None, subject or None, issued_before_s, expires_ms)
        for issuer, jti, subject, issued_before_s, expires_ms in rows
    ]


# -- changes, on the writer


def revoke(execute: Execute, revocation: Revocation, now_ms: int) -> None:
    """Remember it, and forget those that concern no living token any more."""
    execute(DELETE_REVOCATIONS, (now_ms,))
    who = (revocation.issuer, revocation.jti or "", revocation.subject or "")
    execute(UPSERT_REVOCATION, (*who, revocation.issued_before_s, revocation.expires_ms))
    execute(SEAL_REVOCATION, who)
