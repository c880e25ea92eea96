"""The store itself on what a fault has left of its files: does it open, and what does it say?

Owns a consumer that takes nothing and one question: whether publishes repeated with their ids are recognised. The
files are the caller's, a copy, and are changed by it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faults.confirmed import TOPIC
from pushwire_storage.base import PRIORITIES, Append, Batch, Group, Message, StoreError
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.planning import SEQ_MAX

CORRUPT_LETTERS = "SELECT group_name, pos & ? FROM dead_letters WHERE reason = 'corrupt'"


class Nobody:
    """A consumer that wants nothing; see `pushwire_storage.base.Consumer`."""

    def arrived(self, *what: Any) -> None:
        raise AssertionError(f"nobody asked for {what}")

    def arrived_key(self, *what: Any) -> None:
        raise AssertionError(f"nobody asked for {what}")

    def caught_up(self, *_what: Any) -> None:
        pass

    def tailed(self, *_what: Any) -> None:
        pass

    def lapsed(self, *_what: Any) -> None:
        pass

    def expired(self, *_what: Any) -> None:
        pass

    def turn_over(self) -> None:
        pass


NOW_MS = 2_000_000_000_000
"""Later than anything in a run, as a start after a fault is; the window of ids starts afresh with it."""


class Taker(Nobody):
    """A consumer that takes everything and settles nothing."""

    def __init__(self, folder: Path) -> None:
        self._store = InlineSqliteStore(folder)
        self.taken: dict[str, dict[int, tuple[str, bytes]]] = {}

    def open(self) -> None:
        """Raises StoreError."""
        self._store.start(self, NOW_MS)

    def close(self) -> None:
        self._store.crash()

    def arrived(self, group: Group, _priority: int, messages: Sequence[Message], *_: Any) -> None:
        self.taken.setdefault(group.name, {}).update(
            (message.seq, (message.id, bytes(message.data))) for message in messages
        )

    def take_all(self, name: str) -> bool:
        """Everything that each group of the topic is owed. Whether the store can be trusted still."""
        store = self._store
        topic = store.topics.get(("default", name))
        for group in topic.groups.values() if topic is not None else ():
            for priority in range(PRIORITIES):
                store.want(group, priority, 1 << 20)
        self._work()
        store.due(NOW_MS)
        self._work()
        return store._writer is not None and store._writer.broken is None

    def _work(self) -> None:
        while self._store.pending():
            self._store.step()

    @property
    def buried(self) -> set[tuple[str, int]]:
        """(group, seq) of those that are with the dead letters because of it."""
        assert self._store._writer is not None
        rows = self._store._writer.connection.execute(CORRUPT_LETTERS, (SEQ_MAX,))
        return {(group, seq) for group, seq in rows}

    @property
    def reported(self) -> int:
        """Messages that the store has found damaged and put aside."""
        return self._store._writer.state.corrupt_rows if self._store._writer is not None else 0


def unrecognised(folder: Path, receipts: Mapping[str, int], bodies: Mapping[str, Any]) -> list[str]:
    """Publishes with a receipt that the store, asked again, does not answer as the duplicates they are; or why it does
    not open."""
    store = InlineSqliteStore(folder)
    try:
        store.start(Nobody(), NOW_MS)
    except StoreError as error:
        return [f"does not open: {error}"]
    try:
        topic = store.topics.get(("default", TOPIC))
        if topic is None:
            return [f"topic {TOPIC} is gone"] if receipts else []
        messages = [Message(id_, json.dumps(bodies[id_], separators=(",", ":")).encode(), NOW_MS) for id_ in receipts]
        return _asked(store, [Append(topic, [message]) for message in messages], receipts)
    finally:
        store.crash()


def _asked(store: InlineSqliteStore, appends: Sequence[Append], receipts: Mapping[str, int]) -> list[str]:
    over: list[Batch] = []
    store.write(Batch(appends=list(appends), now_ms=NOW_MS), over.append)
    while store.pending():
        store.step()
    if over[0].error is not None:
        return [f"cannot write: {over[0].error}"]
    found = []
    for append in appends:
        message = append.messages[0]
        if append.refused is not None or not message.duplicate or message.seq != receipts[message.id]:
            found.append(f"{message.id}, seq {receipts[message.id]}: answered {append.refused or message.seq}")
    return found
