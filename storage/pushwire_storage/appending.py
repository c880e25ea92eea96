"""The first half of a transaction: storing messages once each, and remembering their ids for a while.

Owns dedupe, its two generations, and the rows of new messages. It must not commit; it runs on the writer's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from .base import Append
from .planning import (
    ID_BYTES,
    SEEDS,
    content_crc,
    lane_base,
    over_quota,
    plan_append,
    row_crc,
    topic_lane,
)
from .queries import GENERATIONS, INSERT_FULL, INSERT_PLAIN, SET_META
from .txn import Surprise, Txn

FORGET_ROWS = 256
"""Ids forgotten per transaction while an old generation is emptied, beside twice the number of new ones: so that it
ends, and costs no transaction more than about 0.2 ms, where emptying the table at once takes 20 ms per million."""

_U32 = 0xFFFFFFFF


def append_all(txn: Txn, appends: Sequence[Append]) -> None:
    """Decide and store all appends of a batch. Raises Surprise unless careful."""
    _rotate(txn, sum([len(append.messages) for append in appends]))
    if txn.careful:
        _plan_careful(txn, appends)
    else:
        _plan(txn, appends)
    if txn.fresh:
        _store(txn)


def _plan(txn: Txn, appends: Sequence[Append]) -> None:
    """Give out seqs as if nothing were repeated and everything fitted; `_store` and the quota say otherwise."""
    limits, fresh = txn.limits, txn.fresh
    for append in appends:
        append.refused = None
        messages = append.messages
        count = len(messages)
        size_bytes = sum([message.size_bytes for message in messages])
        topic_id = append.topic.id
        book = txn.book(topic_id)
        if over_quota(book, count, size_bytes + count * ID_BYTES, limits):
            raise Surprise
        seq = book.last_seq
        for message in messages:
            seq += 1
            message.seq = seq
            message.duplicate = False
            key = topic_id << 2 | message.priority
            lane = fresh.get(key)
            if lane is None:
                fresh[key] = [message]
            else:
                lane.append(message)
        book.last_seq = seq
        book.messages += count
        book.bytes += size_bytes + count * ID_BYTES
        txn.payload_bytes += size_bytes


def _plan_careful(txn: Txn, appends: Sequence[Append]) -> None:
    """Look up every id first, then decide append by append."""
    known = _recall(txn, appends)
    for append in appends:
        topic_id = append.topic.id
        ids = known[topic_id]
        stored, remember = plan_append(append, txn.book(topic_id), ids.get, txn.limits, txn.holder)
        ids.update(remember)
        for message in stored:
            txn.fresh.setdefault(topic_lane(topic_id, message.priority), []).append(message)
            txn.payload_bytes += message.size_bytes


def _recall(txn: Txn, appends: Sequence[Append]) -> dict[int, dict[str, tuple[int, int]]]:
    """What is remembered of the ids of this batch: topic id -> id -> (seq, fingerprint)."""
    asked: dict[int, dict[str, None]] = {}
    for append in appends:
        asked.setdefault(append.topic.id, {}).update((message.id, None) for message in append.messages)
    generation = GENERATIONS[txn.generation]
    known: dict[int, dict[str, tuple[int, int]]] = {}
    for topic_id, ids in asked.items():
        rows = generation.recall.fetch(txn.execute, ids, topic_id)
        rows += generation.recall_older.fetch(txn.execute, ids, topic_id)
        known[topic_id] = {id_: (seq, print_) for id_, seq, print_ in rows}
    return known


def _store(txn: Txn) -> None:
    """Insert the rows of `txn.fresh`. Raises Surprise when an id was there already."""
    plain: list[Any] = []
    full: list[Any] = []
    ids: list[Any] = []
    count = 0
    for key, messages in txn.fresh.items():
        topic_id, priority = key >> 2, key & 3
        base, seeds = lane_base(topic_id, priority), SEEDS[priority]
        count += len(messages)
        for message in messages:
            data, id_ = message.data, message.id
            pos = base | message.seq
            published_at_ms = message.published_at_ms
            if message.key is None and message.headers is None and message.content_type is None:
                # `content_crc` and `row_crc`, written out: two calls less per message are 4 % of the writer's time.
                content = crc32(data, seeds[message.encoding])
                place = pos ^ published_at_ms
                crc = crc32(id_.encode(), content) ^ (place & _U32) ^ (place >> 32)
                # A bytearray goes to the driver as it is; for bytes it looks for an adapter first, which costs more
                # than this copy.
                plain += (pos, id_, message.encoding, published_at_ms, crc, bytearray(data))
            else:
                content = content_crc(message)
                crc = row_crc(message, content, pos)
                full += (pos, id_, message.encoding, published_at_ms, crc, bytearray(data))
                full += (message.key, message.headers, message.content_type)
            ids += (topic_id, id_, message.seq, content << 31 | message.size_bytes)
    generation = GENERATIONS[txn.generation]
    remember = generation.remember if txn.older_empty else generation.remember_unless_older
    if remember.run(txn.execute, ids) != count:
        assert not txn.careful, "an id was looked up, not found, and is there"
        raise Surprise
    if plain:
        INSERT_PLAIN.run(txn.execute, plain)
    if full:
        INSERT_FULL.run(txn.execute, full)
    txn.rows += count


def _rotate(txn: Txn, new_ids: int) -> None:
    """Once the current generation is as old as the window, everything in the older one is older: forget that, a
    slice per transaction, then change places."""
    window_ms = int(txn.limits.dedupe_window_s * 1000)
    if txn.now_ms - txn.generation_since_ms < window_ms:
        return
    generation = GENERATIONS[txn.generation]
    if not txn.older_empty:
        slice_rows = FORGET_ROWS + 2 * new_ids
        counts = txn.execute(generation.count_oldest, (slice_rows,)).fetchall()
        for topic_id, count in counts:
            txn.book(topic_id).bytes -= count * ID_BYTES
        found = sum(count for _, count in counts)
        if found:
            last = txn.execute(generation.last_of_oldest, (found - 1,)).fetchone()
            txn.execute(generation.forget, last)
        txn.older_empty = found < slice_rows
    if txn.older_empty:
        txn.generation = 1 - txn.generation
        txn.generation_since_ms = txn.now_ms
        txn.older_empty = False
        txn.execute(SET_META, ("generation", txn.generation))
