"""The first half of a transaction: storing messages once each, and remembering their ids for a while.

Owns dedupe, its two generations, and the rows of new messages. It must not commit; it runs on the writer's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from zlib import crc32

from .base import Append, Message, Refused
from .planning import (
    ID_BYTES,
    SCHEDULED,
    SEEDS,
    SEQ_BITS,
    TopicBook,
    content_crc,
    lane_base,
    over_quota,
    plan_append,
    row_crc,
    topic_lane,
)
from .queries import FORGET_IDS_OF_DELETED, GENERATIONS, INSERT_FULL, INSERT_PLAIN, SET_META
from .seals import PRIME, SEAL_TOPIC, is_sound, times_seal
from .txn import Surprise, Txn

log = logging.getLogger("pushwire.storage")

FORGET_ROWS = 256
"""Ids forgotten per transaction while an old generation is emptied, beside twice the number of new ones: so that it
ends, and costs no transaction more than about 0.2 ms, where emptying the table at once takes 20 ms per million."""

_U32 = 0xFFFFFFFF


def append_all(txn: Txn, appends: Sequence[Append]) -> None:
    """Decide and store all appends of a batch. Raises Surprise unless careful."""
    _rotate(txn, sum([len(append.messages) for append in appends]))
    later: dict[int, list[Message]] = {}
    if txn.careful:
        _plan_careful(txn, appends, later)
    else:
        _plan(txn, appends, later)
    if txn.fresh:
        _store(txn, txn.fresh)
    if later:
        _store(txn, later, scheduled=True)
        for lane, messages in later.items():
            txn.apart.setdefault(lane, []).extend(messages)  # behind what was redriven


def _plan(txn: Txn, appends: Sequence[Append], later: dict[int, list[Message]]) -> None:
    """Give out seqs as if nothing were repeated and everything fitted; `_store` and the quota say otherwise."""
    limits, fresh, now_ms = txn.limits, txn.fresh, txn.now_ms
    for append in appends:
        append.refused = None
        messages = append.messages
        topic_id = append.topic.id
        if not txn.exists(topic_id):
            raise Surprise
        book = txn.book(topic_id)
        count = len(messages)
        ids = count if book.config.dedupe else 0
        payload_bytes = sum([message.size_bytes for message in messages])
        size_bytes = payload_bytes + ids * ID_BYTES
        if over_quota(book, count, size_bytes, limits):
            raise Surprise
        seq, priority = book.last_seq, -1
        lane: list[Message] = []
        for message in messages:
            seq += 1
            message.seq = seq
            message.duplicate = False
            if message.due_ms is not None and message.due_ms > now_ms:
                later.setdefault(topic_lane(topic_id, message.priority), []).append(message)
                book.scheduled += 1
                continue
            if message.priority != priority:  # mostly the next one is like the last
                priority = message.priority
                lane = fresh.setdefault(topic_lane(topic_id, priority), [])
            lane.append(message)
        book.last_seq = seq
        book.messages += count
        book.bytes += size_bytes
        book.ids += ids
        txn.grown(book)
        txn.payload_bytes += payload_bytes


def _plan_careful(txn: Txn, appends: Sequence[Append], later: dict[int, list[Message]]) -> None:
    """Look up every id first, then decide append by append."""
    known = _recall(txn, appends)
    for append in appends:
        topic_id = append.topic.id
        if not txn.exists(topic_id):
            append.refused = Refused("topic_not_found", f"topic {append.topic.name!r} was deleted")
            continue
        ids = known[topic_id]
        book = txn.book(topic_id)
        stored, remember = plan_append(append, book, ids.get, txn.limits, txn.holder, txn.now_ms)
        txn.grown(book)
        ids.update(remember)
        for message in stored:
            scheduled = message.due_ms is not None and message.due_ms > txn.now_ms
            into = later if scheduled else txn.fresh
            into.setdefault(topic_lane(topic_id, message.priority), []).append(message)
            txn.payload_bytes += message.size_bytes


def _recall(txn: Txn, appends: Sequence[Append]) -> dict[int, dict[str, tuple[int, int]]]:
    """What is remembered of the ids of this batch: topic id -> id -> (seq, content crc)."""
    asked: dict[int, dict[str, None]] = {}
    for append in appends:
        asked.setdefault(append.topic.id, {}).update((message.id, None) for message in append.messages)
    generation = GENERATIONS[txn.generation]
    known: dict[int, dict[str, tuple[int, int]]] = {}
    for topic_id, ids in asked.items():
        rows = generation.recall.fetch(txn.execute, ids, topic_id)
        rows += generation.recall_older.fetch(txn.execute, ids, topic_id)
        known[topic_id] = {}
        for id_, seq, print_ in rows:
            if is_sound(topic_id, id_.encode(), seq, print_):
                known[topic_id][id_] = seq, print_ >> 31
            else:
                _forget_damaged(txn, topic_id, id_)
    return known


def _forget_damaged(txn: Txn, topic_id: int, id_: str) -> None:
    """What is remembered of an id is not what was stored: as what, and with which seq, cannot be told. The message is
    stored again, which at worst delivers it twice; a receipt for something else might lose it."""
    log.error("a remembered id of topic number %d is damaged: it is taken for a new one", topic_id)
    for sql in GENERATIONS[txn.generation].forget_one:
        _forget(txn, topic_id, txn.execute(sql, (topic_id, id_)).rowcount)
    txn.state.corrupt_rows += 1


def _store(txn: Txn, lanes: dict[int, list[Message]], *, scheduled: bool = False) -> None:
    """Insert these rows, by topic lane. Raises Surprise when an id was there already."""
    plain: list[Any] = []
    full: list[Any] = []
    ids: list[Any] = []
    for key, messages in lanes.items():
        topic_id, priority = key >> 2, key & 3
        base, seeds = lane_base(topic_id, priority), SEEDS[priority]
        book = txn.book(topic_id)
        if book.config.max_age_ms:
            _age(book, messages)
        remembered = book.config.dedupe
        bound = topic_id << SEQ_BITS
        txn.rows += len(messages)
        for message in messages:
            data, id_, seq, encoding = message.data, message.id, message.seq, message.encoding
            pos = base | seq
            published_at_ms = message.published_at_ms
            if (
                message.key is None
                and message.headers is None
                and message.content_type is None
                and message.due_ms is None
                and message.expires_ms is None
            ):
                # `content_crc` and `row_crc`, written out: two calls less per message are 4 % of the writer's time.
                content = crc32(data, seeds[encoding])
                place = pos ^ published_at_ms
                named = crc32(id_.encode(), content)
                crc = named ^ (place & _U32) ^ (place >> 32)
                # A bytearray goes to the driver as it is; for bytes it looks for an adapter first, which costs more
                # than this copy.
                plain += (pos, id_, encoding, published_at_ms, crc, bytearray(data))
            else:
                content = content_crc(message)
                named = crc32(id_.encode(), content)
                full += _full_row(txn, message, pos, content, scheduled=scheduled)
            if remembered:
                # `seals.print_of`, written out.
                ids += (topic_id, id_, seq, content << 31 | (named ^ (bound | seq)) % PRIME)
    generation = GENERATIONS[txn.generation]
    remember = generation.remember if txn.older_empty else generation.remember_unless_older
    if remember.run(txn.execute, ids) != len(ids) // 4:
        assert not txn.careful, "an id was looked up, not found, and is there"
        raise Surprise
    if plain:
        INSERT_PLAIN.run(txn.execute, plain)
    if full:
        INSERT_FULL.run(txn.execute, full)


def _full_row(txn: Txn, message: Message, pos: int, content: int, *, scheduled: bool) -> tuple[Any, ...]:
    """A row of `INSERT_FULL`; and the store will wake when its time comes."""
    due_ms = message.due_ms
    if due_ms is not None:
        if scheduled:
            txn.wake(due_ms, scheduled=True)
        else:
            due_ms = -due_ms  # only to be shown: it was over when the message came
    if message.expires_ms is not None:
        txn.wake(message.expires_ms)
        txn.expiring = True
    return (
        pos | SCHEDULED if scheduled else pos,
        message.id,
        message.encoding,
        message.published_at_ms,
        row_crc(message, content, pos),
        bytearray(message.data),
        message.key,
        message.headers,
        message.content_type,
        due_ms,
        message.expires_ms,
        times_seal(due_ms, message.expires_ms, None),
    )


def _age(book: TopicBook, messages: Sequence[Message]) -> None:
    """The topic's age limit is a TTL, counted from when a message can be delivered."""
    for message in messages:
        over_ms = max(message.published_at_ms, message.due_ms or 0) + book.config.max_age_ms
        message.expires_ms = over_ms if message.expires_ms is None else min(over_ms, message.expires_ms)


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
            _forget(txn, topic_id, count)
        found = sum(count for _, count in counts)
        if found:
            txn.execute(generation.forget, (found - 1,))
        txn.older_empty = found < slice_rows
    if txn.older_empty:
        txn.generation = 1 - txn.generation
        txn.generation_since_ms = txn.now_ms
        txn.older_empty = False
        txn.execute(SET_META, ("generation", txn.generation))


def _forget(txn: Txn, topic_id: int, ids: int) -> None:
    """So many ids of the topic are not remembered any more."""
    if txn.exists(topic_id):
        book = txn.book(topic_id)
        book.bytes -= ids * ID_BYTES
        book.ids -= ids
    else:  # deleted; if the name comes back, so do the ids that are still remembered
        txn.execute(FORGET_IDS_OF_DELETED, (ids, topic_id))
        txn.execute(SEAL_TOPIC, (topic_id,))
