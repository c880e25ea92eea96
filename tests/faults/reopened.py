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
from pushwire_storage.base import Append, Batch, Message, StoreError
from pushwire_storage.inline import InlineSqliteStore


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

    def expired(self, *_what: Any) -> None:
        pass

    def turn_over(self) -> None:
        pass


NOW_MS = 2_000_000_000_000
"""Later than anything in a run, as a start after a fault is; the window of ids starts afresh with it."""


def refusal(folder: Path) -> str | None:
    """Why the store does not open these files; None if it does."""
    store = InlineSqliteStore(folder)
    try:
        store.start(Nobody(), NOW_MS)
    except StoreError as error:
        return f"{type(error).__name__}: {error}"
    store.crash()
    return None


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
