"""What every store decides the same way: positions, checksums, a topic's books, the fate of one append.

Owns arithmetic and policy. It must not touch a database, a file or an event loop: the writer of a store calls it
with what it has read and stores what comes back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any
from zlib import crc32

from . import seals
from .base import (
    PRIORITIES,
    Append,
    Batch,
    Group,
    Message,
    Refused,
    StoreError,
    Topic,
)

# A message's place in the store is one integer: topic id (18 bits), a bit for scheduled messages, priority (2 bits),
# seq (42 bits). So the backlog of one lane is one range of the primary key and needs no index, and what is not due lies
# outside it. When it falls due the row loses the bit.
SEQ_BITS = 42
SCHEDULED = 1 << SEQ_BITS + 2
SEQ_MAX = (1 << SEQ_BITS) - 1
TOPIC_SHIFT = SEQ_BITS + 3
TOPIC_ID_MAX = (1 << 63 - TOPIC_SHIFT) - 1

ID_BYTES = 64
"""What one remembered id counts against its topic's bytes: a dedupe row of a 36-character id on a 4/5 full page."""

_U32 = 0xFFFFFFFF
# A start value per (priority, encoding), so that both are covered by the checksum without being fed to it.
SEEDS = tuple(tuple(1 + priority * 4 + encoding for encoding in range(3)) for priority in range(PRIORITIES))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a store refuses, remembers and keeps. A benchmark that raises one says so."""

    quota_messages: int = 1_000_000
    quota_bytes: int = 1 << 30
    dedupe_window_s: float = 600.0
    dead_letters_max: int = 100_000
    """Per topic; the oldest go first."""
    dead_letters_keep_s: float = 7 * 86_400.0

    @classmethod
    def of(cls, numbers: Mapping[str, float]) -> Limits:
        """The defaults with these put in their place. Raises TypeError for a name that is none of them."""
        limits = cls()
        unknown = ", ".join(sorted(numbers.keys() - {known.name for known in fields(cls)}))
        if unknown:
            raise TypeError(f"unknown limit: {unknown}")
        return replace(limits, **{name: type(getattr(limits, name))(value) for name, value in numbers.items()})


class TopicBook:
    """The writer's own copy of a topic's counters, groups and configuration. Replaced as a whole by a commit, never
    changed after. `marked`: rows in `settled` may exist although only one group is left. `floor`: messages up to this
    seq are purged, whatever the disk still holds."""

    __slots__ = (
        "bytes",
        "config",
        "dead_letters",
        "floor",
        "groups",
        "ids",
        "last_seq",
        "marked",
        "messages",
        "plain",
        "scheduled",
        "start_of",
        "starts",
        "topic",
    )

    def __init__(self, topic: Topic, ids: int = 0, floor: int = 0, *, marked: bool = False) -> None:
        self.topic = topic
        self.last_seq = topic.last_seq
        self.messages = topic.messages
        self.bytes = topic.bytes
        self.dead_letters = topic.dead_letters
        self.scheduled = topic.scheduled
        self.ids = ids
        self.floor = floor
        self.marked = marked
        self.config = topic.config
        self.start_of = {group.id: group.start_seq for group in topic.groups.values()}
        """group id -> start. Not `Group.start_seq`, which belongs to the loop."""
        self.set_groups(dict(topic.groups), self.start_of)

    def copy(self) -> TopicBook:
        twin = TopicBook.__new__(TopicBook)
        twin.topic = self.topic
        twin.config = self.config
        twin.last_seq = self.last_seq
        twin.messages = self.messages
        twin.bytes = self.bytes
        twin.dead_letters = self.dead_letters
        twin.scheduled = self.scheduled
        twin.ids = self.ids
        twin.floor = self.floor
        twin.marked = self.marked
        twin.plain = self.plain
        twin.groups = self.groups
        twin.start_of = self.start_of
        twin.starts = self.starts
        return twin

    def set_groups(self, groups: dict[str, Group], start_of: dict[int, int]) -> None:
        """These are the topic's groups now, each with its start."""
        self.groups = groups
        self.start_of = start_of
        self.starts = sorted(start_of.values())
        self.replan()

    def add_group(self, group: Group, start_seq: int) -> None:
        self.set_groups({**self.groups, group.name: group}, {**self.start_of, group.id: start_seq})

    def remove_group(self, group: Group) -> None:
        """The one group that may remain may have settled some messages that others had not."""
        self.marked = True
        groups = {name: each for name, each in self.groups.items() if each.id != group.id}
        self.set_groups(groups, {id_: start for id_, start in self.start_of.items() if id_ != group.id})

    def move_group(self, group_id: int, start_seq: int) -> None:
        self.set_groups(self.groups, {**self.start_of, group_id: start_seq})

    def replan(self) -> None:
        """Whether a settled message simply goes: one group, nothing retained, no marks of others."""
        self.plain: bool = len(self.starts) == 1 and not self.config.retain_ms and not self.marked

    def needed(self, seq: int) -> int:
        """How many groups are owed the message; that many must settle it before it goes."""
        return bisect_left(self.starts, seq)

    def owners(self, seq: int) -> list[Group]:
        """The groups that are owed the message, or have settled it."""
        return [group for group in self.groups.values() if self.start_of[group.id] < seq]

    def retains(self, published_at_ms: int, now_ms: int) -> bool:
        """Whether a message that nobody is owed stays for now."""
        return published_at_ms + self.config.retain_ms > now_ms

    def excess_bytes(self) -> int:
        """How many bytes of messages are kept beyond what the topic retains; 0 or less: none."""
        limit = self.config.retain_bytes
        return 0 if limit is None else self.bytes - self.ids * ID_BYTES - limit

    def publish(self) -> None:
        """Show the committed counters to the loop. Runs there."""
        topic = self.topic
        topic.last_seq = self.last_seq
        topic.messages = self.messages
        topic.bytes = self.bytes
        topic.dead_letters = self.dead_letters
        topic.scheduled = self.scheduled


Registry = dict[tuple[str, str], Topic]
Show = Callable[[Registry], None]
"""Makes the loop's registry and a change's result show what is committed."""


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A message whose TTL is over, and who is owed it: (group, due of its retry if it has one)."""

    message: Message
    owed: Sequence[tuple[Group, int | None]]
    unseen: bool
    """It was still scheduled: no lane has come across it, wherever its cursor is."""


@dataclass(slots=True)
class Outcome:
    """What one transaction did. The loop applies it in the turn that learns of the commit."""

    error: StoreError | None = None
    books: Sequence[TopicBook] = ()
    shows: Sequence[Show] = ()
    fresh: dict[int, list[Message]] = field(default_factory=dict)
    """New messages by topic lane (see `topic_lane`), in seq order."""
    expiring: bool = False
    """Some of them have a TTL."""
    apart: dict[int, list[Message]] = field(default_factory=dict)
    """New messages that reach no lane from memory, by topic lane: scheduled, redriven."""
    behind: Sequence[int] = ()
    """Topic lanes that got messages which only a scan finds."""
    promoted: Sequence[tuple[int, int, int]] = ()
    """(group lane, seq, due) of messages that were scheduled, for the lanes that were open."""
    lapsed: Sequence[Lapsed] = ()
    closed: Sequence[Group] = ()
    """Groups that were deleted or moved: their lanes are over."""
    tick_ms: int | None = None
    """When a batch is to be written for time's sake."""
    scheduled_ms: int | None = None
    """When the next scheduled message falls due."""
    left: bool = False
    """Expired messages were passed over, because they are in the gateway's hands."""

    def apply(self, batch: Batch, topics: Registry) -> None:
        """Make the registry and the batch show what is committed."""
        batch.error = self.error
        for book in self.books:
            book.publish()
        for show in self.shows:
            show(topics)


def topic_lane(topic_id: int, priority: int) -> int:
    """Key of one priority of one topic."""
    return topic_id << 2 | priority


def group_lane(group_id: int, priority: int) -> int:
    """Key of one priority of one group; also the `lane` column of retries."""
    return group_id << 2 | priority


def lane_base(topic_id: int, priority: int, *, scheduled: bool = False) -> int:
    """The position just below the first message of the lane, or of what is to enter it later."""
    return topic_id << TOPIC_SHIFT | (SCHEDULED if scheduled else 0) | priority << SEQ_BITS


def bases(topic_id: int) -> list[int]:
    """All of a topic's ranges: those of its lanes, then those of what is scheduled."""
    return [lane_base(topic_id, each, scheduled=later) for later in (False, True) for each in range(PRIORITIES)]


def position(topic_id: int, message: Message) -> int:
    """Where a stored message lies, unless it is scheduled."""
    return topic_id << TOPIC_SHIFT | message.priority << SEQ_BITS | message.seq


def content_crc(message: Message) -> int:
    """A checksum over everything a consumer is given except id, seq and time."""
    crc = crc32(message.data, SEEDS[message.priority][message.encoding])
    if message.key is None and message.headers is None and message.content_type is None:
        return crc
    for part in (message.key, message.headers, message.content_type):
        raw = part.encode() if isinstance(part, str) else part
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        crc = crc32(b"-" if raw is None else b"%d:%b" % (len(raw), raw), crc)
    return crc


def row_crc(message: Message, crc: int, pos: int) -> int:
    """The checksum kept with a row: the content's, then the id; place and time are folded in, so that a row that
    turns up under another key is noticed too. (Not the scheduled bit, which changes.)"""
    place = (pos & ~SCHEDULED) ^ message.published_at_ms
    return crc32(message.id.encode(), crc) ^ (place & _U32) ^ (place >> 32)


def message_of(row: Sequence[Any]) -> Message | None:
    """The message of a stored row (the columns of `queries._COLUMNS`, then any others), or None when it is not what was
    stored."""
    pos, id_, key, encoding, content_type, headers, published_at_ms, crc, data, due, expires, redriven, seal = row[:13]
    priority = pos >> SEQ_BITS & PRIORITIES - 1
    try:
        message = Message(id_, data, published_at_ms, encoding, priority, key, headers, content_type)
        if key is None and headers is None and content_type is None:
            # `content_crc` and `row_crc`, written out: a backlog is read row by row.
            content = crc32(data, SEEDS[priority][encoding])
            place = (pos & ~SCHEDULED) ^ published_at_ms
            if crc32(id_.encode(), content) ^ (place & _U32) ^ (place >> 32) != crc:
                return None
        elif row_crc(message, content_crc(message), pos) != crc:
            return None
        if (due is not None or expires is not None or redriven is not None or seal is not None) and seals.times_seal(
            due, expires, redriven
        ) != seal:
            return None
        if bool(pos & SCHEDULED) != (due is not None and due > 0):
            return None  # nothing would bring it into its lane, or something would move it once more
        if due is not None:
            message.due_ms = abs(due)
        if expires is not None:
            message.expires_ms = int(expires)
        if redriven is not None:
            message.redriven = bool(redriven)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError):
        return None  # damage can change a column's type; whatever fails on it is a mismatch
    message.seq = pos & SEQ_MAX
    return message


def plan_append(
    append: Append,
    book: TopicBook,
    recall: Callable[[str], tuple[int, int] | None],
    limits: Limits,
    holder: Callable[[TopicBook], str],
    now_ms: int,
) -> tuple[list[Message], dict[str, tuple[int, int]]]:
    """Decide one append: returns the messages to store and the ids to remember as id -> (seq, content crc), having
    given each message its seq and charged the book; or fills `refused` and returns nothing. `recall` tells what an
    id was stored with earlier, appends before this one included."""
    fresh: list[Message] = []
    remembered = book.config.dedupe
    id_bytes = ID_BYTES if remembered else 0
    scheduled = 0
    remember: dict[str, tuple[int, int]] = {}
    seq, size_bytes = book.last_seq, 0
    append.refused = None
    for message in append.messages:
        print_ = content_crc(message)
        first = (remember.get(message.id) or recall(message.id)) if remembered else None
        message.duplicate = first is not None
        if first is None:
            seq += 1
            size_bytes += message.size_bytes + id_bytes
            message.seq = seq
            scheduled += message.due_ms is not None and message.due_ms > now_ms
            if remembered:
                remember[message.id] = (seq, print_)
            fresh.append(message)
        elif first[1] == print_:
            message.seq = first[0]
        else:
            append.refused = Refused("id_conflict", f"id {message.id!r} was used before, with other content")
            break
    if append.refused is None and fresh and over_quota(book, len(fresh), size_bytes, limits):
        append.refused = Refused("topic_full", f"topic {book.topic.name!r} is full: {holder(book)}")
    if append.refused is not None:
        reset([append])
        return [], {}
    book.last_seq = seq
    book.messages += len(fresh)
    book.bytes += size_bytes
    book.ids += len(remember)
    book.scheduled += scheduled
    return fresh, remember


def over_quota(book: TopicBook, messages: int, size_bytes: int, limits: Limits) -> bool:
    """Whether so much more is too much."""
    config = book.config
    messages_max = limits.quota_messages if config.quota_messages is None else config.quota_messages
    bytes_max = limits.quota_bytes if config.quota_bytes is None else config.quota_bytes
    return book.messages + messages > messages_max or book.bytes + size_bytes > bytes_max


def describe_holder(seq: int | None, names: Sequence[str]) -> str:
    """Why the oldest message of a full topic is still there, for a person who wants it to go."""
    if seq is None:
        return "it keeps no message, only the ids of recent ones"
    if names:
        return f"its oldest message, seq {seq}, waits for group " + ", ".join(repr(name) for name in sorted(names))
    return f"its oldest message, seq {seq}, is owed to no group"


def reset(appends: Sequence[Append]) -> None:
    """Take back what planning wrote into the messages: nothing of them is stored."""
    for append in appends:
        for message in append.messages:
            message.seq = 0
            message.duplicate = False
