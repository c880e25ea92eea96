"""The changes of a batch: topics and groups made, configured, moved, emptied and removed.

Owns the registry's rows and what a change means for messages and marks. What concerns many messages is left to
`chores.py`, so that no change stops the writer. It must not commit; it runs on the writer's thread.
"""

from __future__ import annotations

from functools import singledispatch

from . import chores, configs, dead
from .base import (
    PRIORITIES,
    Change,
    ConfigureGroup,
    ConfigureTopic,
    CreateGroup,
    CreateTopic,
    DeleteGroup,
    DeleteTopic,
    Discard,
    Group,
    PurgeTopic,
    Redrive,
    Refused,
    SeekGroup,
    Topic,
)
from .planning import (
    ID_BYTES,
    SEQ_MAX,
    TOPIC_ID_MAX,
    Registry,
    TopicBook,
    bases,
    group_lane,
    lane_base,
)
from .queries import (
    CONFIGURE_TOPIC,
    COUNT_NAMES,
    COUNT_RANGE,
    DELETE_DEAD_OF_TOPIC,
    DELETE_GROUP,
    DELETE_GROUPS,
    DELETE_RETRIES_OF,
    DELETE_RETRIES_RANGE,
    DELETE_SETTLED_OF,
    DELETE_TOPIC,
    INSERT_GROUP,
    INSERT_TOPIC,
    LAST_TOPIC_ID,
    MOVE_GROUP,
    PAUSE_GROUP,
    RAISE_GROUPS,
    REVIVE_TOPIC,
    SELECT_DELETED,
)
from .scanning import first_published
from .seals import SEAL_GROUP, SEAL_GROUPS_OF, SEAL_TOPIC
from .txn import Txn


@singledispatch
def apply(change: Change, txn: Txn) -> None:  # noqa: ARG001 - its siblings, registered below, take it
    """Carry out one change."""
    raise TypeError(f"no change: {change!r}")


# -- topics


@apply.register
def _create_topic(change: CreateTopic, txn: Txn) -> None:
    name = (change.tenant, change.name)
    topic_id = txn.state.topic_ids.get(name)
    if topic_id is None or topic_id in txn.removed:
        topic_id = next((id_ for id_, book in txn.books.items() if _name(book) == name), None)
    if topic_id is not None:
        _show_topic(txn, change, txn.book(topic_id).topic)
        return
    config = change.config or configs.DEFAULT
    text = configs.dump(config)
    deleted = txn.execute(SELECT_DELETED, name).fetchone()
    if deleted is not None:
        topic_id, last_seq, ids = deleted
        txn.execute(REVIVE_TOPIC, (text, topic_id))
        txn.execute(SEAL_TOPIC, (topic_id,))
    elif used_up := _used_up(change.tenant, txn):
        txn.shows.append(lambda _: setattr(change, "refused", Refused("too_many_topics", used_up)))
        return
    else:
        topic_id, last_seq, ids = txn.execute(INSERT_TOPIC, (*name, text)).fetchone()[0], 0, 0
        txn.execute(SEAL_TOPIC, (topic_id,))
    # Ids that are remembered from a former life of the name still are: a publish that is retried was meant for that.
    topic = Topic(topic_id, *name, last_seq=last_seq, bytes=ids * ID_BYTES, config=config)
    txn.books[topic_id] = TopicBook(topic, ids, floor=last_seq)
    _show_topic(txn, change, topic)


def _used_up(tenant: str, txn: Txn) -> str:
    """Why no number is given to a new name. They do not come back (a name that was deleted keeps its own), so once half
    of them are gone, nobody who has used an eighth gets more: one tenant must not use up everybody's."""
    (given,) = txn.execute(LAST_TOPIC_ID).fetchone() or (0,)
    if given >= TOPIC_ID_MAX:
        return f"{TOPIC_ID_MAX} topics were created in this store: no number is left"
    share = TOPIC_ID_MAX // 8
    if given >= TOPIC_ID_MAX // 2 and txn.execute(COUNT_NAMES, (tenant, share)).fetchone()[0] == share:
        return f"{share} names are used up by this tenant, those of deleted topics included"
    return ""


def _name(book: TopicBook) -> tuple[str, str]:
    return book.topic.tenant, book.topic.name


def _show_topic(txn: Txn, change: CreateTopic, topic: Topic) -> None:
    def show(topics: Registry) -> None:
        change.result = topics.setdefault((topic.tenant, topic.name), topic)

    txn.shows.append(show)


@apply.register
def _configure_topic(change: ConfigureTopic, txn: Txn) -> None:
    topic, config = change.topic, change.config
    if not txn.exists(topic.id):
        return
    book = txn.book(topic.id)
    before, book.config = book.config, config
    # What was retained may carry marks although only one group is owed it.
    book.marked = book.marked or bool(before.retain_ms)
    book.replan()
    txn.execute(CONFIGURE_TOPIC, (configs.dump(config), topic.id))
    txn.execute(SEAL_TOPIC, (topic.id,))
    if config.retain_ms:
        # What the sweep has passed may be retained again, and let go of later.
        for priority in range(PRIORITIES):
            txn.sweep_from(book, priority, book.floor + 1)
    elif before.retain_ms and book.groups:
        chores.begin(txn, chores.UNOWED, topic.id, book.floor, book.last_seq)
    if config.max_age_ms != before.max_age_ms:
        kind = f"{chores.AGED}:{before.max_age_ms}:{config.max_age_ms}"
        chores.begin(txn, kind, topic.id, book.floor, book.last_seq)
    txn.grown(book)
    txn.shows.append(lambda _: setattr(topic, "config", config))


@apply.register
def _delete_topic(change: DeleteTopic, txn: Txn) -> None:
    topic = change.topic
    if not txn.exists(topic.id):
        return
    book = txn.books.pop(topic.id, None) or txn.state.books[topic.id]
    execute = txn.execute
    # As this transaction has left them: what was redriven before has used up seqs.
    execute(DELETE_TOPIC, (book.last_seq, book.ids, topic.id))
    txn.execute(SEAL_TOPIC, (topic.id,))
    execute(DELETE_GROUPS, (topic.id,))
    for group in book.groups.values():
        _forget_retries(txn, group)
    execute(DELETE_DEAD_OF_TOPIC, (topic.id,))
    chores.begin(txn, chores.PURGED, topic.id, 0, book.last_seq)
    chores.begin_ledger(txn, topic.id)
    txn.removed[topic.id] = _name(book)
    txn.sweep_at[topic.id] = None
    txn.closed += book.groups.values()
    txn.shows.append(lambda topics: _drop(topics, topic))


def _drop(topics: Registry, topic: Topic) -> None:
    if topics.get((topic.tenant, topic.name)) is topic:
        del topics[(topic.tenant, topic.name)]


@apply.register
def _purge_topic(change: PurgeTopic, txn: Txn) -> None:
    topic = change.topic
    if not txn.exists(topic.id):
        return
    book = txn.book(topic.id)
    through = book.last_seq if change.through_seq is None else min(change.through_seq, book.last_seq)
    txn.closed += book.groups.values()  # also where nothing is left to purge: the caller has let go of everything
    if through <= book.floor:
        return
    messages, size_bytes, scheduled = _count(txn, book, through)
    book.messages -= messages
    book.bytes -= size_bytes
    book.scheduled -= scheduled
    for group in book.groups.values():
        for priority in range(PRIORITIES):
            high = lane_base(topic.id, priority) | through
            txn.execute(DELETE_RETRIES_RANGE, (group_lane(group.id, priority), high))
    txn.execute(RAISE_GROUPS, (through, topic.id, through))
    txn.execute(SEAL_GROUPS_OF, (topic.id,))
    starts = {id_: max(start, through) for id_, start in book.start_of.items()}
    chores.begin(txn, chores.PURGED, topic.id, book.floor, through)
    book.floor = through
    book.set_groups(book.groups, starts)

    def show(_: Registry) -> None:
        change.removed = messages
        for group in topic.groups.values():
            group.start_seq = max(group.start_seq, through)

    txn.shows.append(show)


def _count(txn: Txn, book: TopicBook, through: int) -> tuple[int, int, int]:
    """What a purge removes: messages, bytes, and how many of the messages are scheduled."""
    if through == book.last_seq:
        return book.messages, book.bytes - book.ids * ID_BYTES, book.scheduled
    counts = [txn.execute(COUNT_RANGE, (base | book.floor, base | through)).fetchone() for base in bases(book.topic.id)]
    scheduled = sum(count for count, _ in counts[PRIORITIES:])
    return sum(count for count, _ in counts), sum(size_bytes for _, size_bytes in counts), scheduled


# -- groups


def _start(txn: Txn, book: TopicBook, start: str | int | None) -> int:
    """The seq below the first one that a group is owed."""
    if start is None:
        start = "new" if book.groups else "earliest"
    if start == "earliest":
        return book.floor
    if isinstance(start, str):
        return book.last_seq
    if start < 0:
        start = first_published(txn.execute, book.topic.id, book.last_seq, -start) or book.last_seq + 1
    return max(book.floor, min(start - 1, book.last_seq))


@apply.register
def _create_group(change: CreateGroup, txn: Txn) -> None:
    topic = change.topic
    if not txn.exists(topic.id):
        return
    book = txn.book(topic.id)
    group = book.groups.get(change.name)
    if group is None:
        start_seq = _start(txn, book, change.start)
        row = (topic.id, change.name, start_seq, change.owner, change.inactive_ttl_ms)
        (group_id,) = txn.execute(INSERT_GROUP, row).fetchone()
        txn.execute(SEAL_GROUP, (group_id,))
        group = Group(group_id, topic, change.name, start_seq, False, change.owner, change.inactive_ttl_ms)
        book.add_group(group, start_seq)
        if book.config.retain_ms:
            txn.await_sweep(topic.id, txn.now_ms)
    made = group

    def show(_: Registry) -> None:
        change.result = topic.groups.setdefault(made.name, made)

    txn.shows.append(show)


@apply.register
def _configure_group(change: ConfigureGroup, txn: Txn) -> None:
    group = change.group
    if _has(txn, group):
        txn.execute(PAUSE_GROUP, (change.paused, group.id))
        txn.execute(SEAL_GROUP, (group.id,))
        txn.shows.append(lambda _: setattr(group, "paused", change.paused))


@apply.register
def _seek_group(change: SeekGroup, txn: Txn) -> None:
    group = change.group
    if not _has(txn, group):
        return
    book = txn.book(group.topic.id)
    before, start_seq = book.start_of[group.id], _start(txn, book, change.start)
    _release(txn, book, group)
    txn.execute(MOVE_GROUP, (start_seq, group.id))
    txn.execute(SEAL_GROUP, (group.id,))
    book.move_group(group.id, start_seq)
    if start_seq > before:
        _let_go(txn, book, before, start_seq)
    txn.closed.append(group)
    txn.moved.add(group.id)
    txn.shows.append(lambda _: setattr(group, "start_seq", start_seq))


@apply.register
def _delete_group(change: DeleteGroup, txn: Txn) -> None:
    group = change.group
    if not _has(txn, group):
        return
    topic = group.topic
    book = txn.book(topic.id)
    before = book.start_of[group.id]
    _release(txn, book, group)
    txn.execute(DELETE_GROUP, (group.id,))
    book.remove_group(group)
    _let_go(txn, book, before, book.last_seq)
    txn.closed.append(group)

    def show(_: Registry) -> None:
        if topic.groups.get(group.name) is group:
            del topic.groups[group.name]

    txn.shows.append(show)


def _has(txn: Txn, group: Group) -> bool:
    return txn.exists(group.topic.id) and group.id in txn.book(group.topic.id).start_of


def _release(txn: Txn, book: TopicBook, group: Group) -> None:
    """Forget what the group has settled, and its retries."""
    _forget_retries(txn, group)
    if not book.plain:
        for base in bases(book.topic.id)[:PRIORITIES]:
            txn.execute(DELETE_SETTLED_OF, (base | book.floor, base | SEQ_MAX, group.id))


def _forget_retries(txn: Txn, group: Group) -> None:
    low, high = group_lane(group.id, 0), group_lane(group.id, PRIORITIES - 1)
    txn.execute(DELETE_RETRIES_OF, (low, high))


def _let_go(txn: Txn, book: TopicBook, after_seq: int, through_seq: int) -> None:
    """A group is not owed these any more: those that no other one is owed go."""
    chores.begin(txn, chores.UNOWED, book.topic.id, max(after_seq, book.floor), through_seq)


# -- dead letters


@apply.register
def _redrive(change: Redrive, txn: Txn) -> None:
    answer = dead.redrive(txn, change)

    def show(_: Registry) -> None:
        if isinstance(answer, Refused):
            change.refused = answer
        else:
            change.seqs = answer

    txn.shows.append(show)


@apply.register
def _discard(change: Discard, txn: Txn) -> None:
    removed = dead.discard(txn, change)
    txn.shows.append(lambda _: setattr(change, "removed", removed))
