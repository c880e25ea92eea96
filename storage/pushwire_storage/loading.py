"""What the writer knows when it begins: read once from the file. It changes nothing.

Owns no memory of its own; the work grows with topics, groups and lanes that have retries, not with messages.
"""

from __future__ import annotations

from . import chores, configs
from .base import Group, Topic
from .planning import TOPIC_SHIFT, TopicBook
from .queries import (
    GENERATIONS,
    SELECT_ANY_EVENT,
    SELECT_FIRST_LETTERS,
    SELECT_GROUPS,
    SELECT_META,
    SELECT_NEXT_EXPIRY,
    SELECT_NEXT_LANE,
    SELECT_NEXT_SCHEDULED,
    SELECT_NEXT_SETTLED,
    SELECT_TOPICS,
    Execute,
)
from .txn import State


def load(execute: Execute, now_ms: int) -> State:
    """The state of the writer, as of the last commit."""
    state = State(now_ms)
    generation = execute(SELECT_META, ("generation",)).fetchone()
    state.generation = generation[0] if generation else 0
    state.older_empty = execute(GENERATIONS[state.generation].any_older).fetchone() is None
    _load_books(execute, state)
    lane = -1
    while (row := execute(SELECT_NEXT_LANE, (lane,)).fetchone()) is not None:
        lane = row[0]
        state.retry_lanes.add(lane)
    state.chores = chores.load(execute)
    state.scheduled_ms = execute(SELECT_NEXT_SCHEDULED).fetchone()[0]
    expiry = execute(SELECT_NEXT_EXPIRY, state.expiry_mark).fetchone()
    state.expiry_ms = expiry[0] if expiry else None
    if execute(SELECT_FIRST_LETTERS, (1,)).fetchone() is not None:
        state.letters_ms = now_ms  # the first look finds out when the next is due
    state.ledger.holds = execute(SELECT_ANY_EVENT).fetchone() is not None
    retaining = [topic_id for topic_id, book in state.books.items() if book.config.retain_ms or book.excess_bytes() > 0]
    state.plan_sweeps(dict.fromkeys(retaining, now_ms))
    return state


def _load_books(execute: Execute, state: State) -> None:
    topics: dict[int, Topic] = {}
    kept: dict[int, tuple[int, int]] = {}
    for row in execute(SELECT_TOPICS):
        id_, tenant, name, last_seq, messages, size_bytes, dead_letters, scheduled, ids, floor, config = row
        topic = Topic(id_, tenant, name, last_seq, messages, size_bytes, dead_letters, scheduled)
        topic.config = configs.load(config)
        topics[id_] = topic
        kept[id_] = ids, floor
    for id_, topic_id, name, start_seq, paused, owner, inactive_ttl_ms in execute(SELECT_GROUPS):
        topic = topics[topic_id]
        topic.groups[name] = Group(id_, topic, name, start_seq, bool(paused), owner, inactive_ttl_ms)
    marked: set[int] = set()
    pos = -1
    while (row := execute(SELECT_NEXT_SETTLED, (pos,)).fetchone()) is not None:
        marked.add(row[0] >> TOPIC_SHIFT)
        pos = (row[0] >> TOPIC_SHIFT) + 1 << TOPIC_SHIFT
    for topic_id, topic in topics.items():
        state.books[topic_id] = TopicBook(topic, *kept[topic_id], marked=topic_id in marked)
        state.topic_ids[(topic.tenant, topic.name)] = topic_id
