"""What every store decides the same way: positions, checksums, a topic's books, the fate of one append.

Owns arithmetic and policy. It must not touch a database, a file or an event loop: the writer of a store calls it
with what it has read and stores what comes back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from zlib import crc32

from .base import (
    PRIORITIES,
    Append,
    Batch,
    Change,
    CreateGroup,
    CreateTopic,
    Group,
    Message,
    Refused,
    StoreError,
    Topic,
)

# A message's place in the store is one integer: topic id (18 bits), a bit for scheduled messages (always 0 so far),
# priority (2 bits), seq (42 bits). So the backlog of one lane is one range of the primary key and needs no index.
SEQ_BITS = 42
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
    """The writer's own copy of a topic's counters and groups. Replaced as a whole by a commit, never changed after."""

    __slots__ = ("bytes", "dead_letters", "groups", "last_seq", "messages", "starts", "topic")

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.last_seq = topic.last_seq
        self.messages = topic.messages
        self.bytes = topic.bytes
        self.dead_letters = topic.dead_letters
        self.groups: dict[str, Group] = dict(topic.groups)
        self.starts: list[int] = sorted(group.start_seq for group in self.groups.values())

    def copy(self) -> TopicBook:
        twin = TopicBook.__new__(TopicBook)
        twin.topic = self.topic
        twin.last_seq = self.last_seq
        twin.messages = self.messages
        twin.bytes = self.bytes
        twin.dead_letters = self.dead_letters
        twin.groups = self.groups
        twin.starts = self.starts
        return twin

    def add_group(self, group: Group) -> None:
        self.groups = {**self.groups, group.name: group}
        self.starts = sorted(group.start_seq for group in self.groups.values())

    def needed(self, seq: int) -> int:
        """How many groups are owed the message; that many must settle it before it goes."""
        return bisect_left(self.starts, seq)

    def publish(self) -> None:
        """Show the committed counters to the loop. Runs there."""
        topic = self.topic
        topic.last_seq = self.last_seq
        topic.messages = self.messages
        topic.bytes = self.bytes
        topic.dead_letters = self.dead_letters


@dataclass(slots=True)
class Outcome:
    """What one transaction did. The loop applies it in the turn that learns of the commit."""

    error: StoreError | None = None
    books: Sequence[TopicBook] = ()
    results: Sequence[tuple[Change, Topic | Group | Refused]] = ()
    fresh: dict[int, list[Message]] | None = None
    """New messages by topic lane (see `topic_lane`), in seq order."""

    def apply(self, batch: Batch, topics: dict[tuple[str, str], Topic]) -> None:
        """Make the registry and the batch show what is committed."""
        batch.error = self.error
        for book in self.books:
            book.publish()
        for change, result in self.results:
            if isinstance(change, CreateTopic):
                if isinstance(result, Topic):
                    change.result = topics.setdefault((result.tenant, result.name), result)
                elif isinstance(result, Refused):
                    change.refused = result
            elif isinstance(result, Group):
                change.result = result.topic.groups.setdefault(result.name, result)


def topic_lane(topic_id: int, priority: int) -> int:
    """Key of one priority of one topic."""
    return topic_id << 2 | priority


def group_lane(group_id: int, priority: int) -> int:
    """Key of one priority of one group; also the `lane` column of retries."""
    return group_id << 2 | priority


def lane_base(topic_id: int, priority: int) -> int:
    """The position just below the lane's first message."""
    return topic_id << TOPIC_SHIFT | priority << SEQ_BITS


def position(topic_id: int, message: Message) -> int:
    """Where a stored message lies."""
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


def fingerprint(message: Message) -> int:
    """Equal for equal content, whatever the id: what tells a retried publish from a reused id."""
    return content_crc(message) << 31 | message.size_bytes


def row_crc(message: Message, crc: int, pos: int) -> int:
    """The checksum kept with a row: the content's, then the id; place and time are folded in, so that a row that
    turns up under another key is noticed too."""
    place = pos ^ message.published_at_ms
    return crc32(message.id.encode(), crc) ^ (place & _U32) ^ (place >> 32)


def message_of(row: Sequence[Any]) -> Message | None:
    """The message of a stored row (pos, id, key, encoding, content_type, headers, published_at, crc, data), or None
    when it is not what was stored."""
    pos, id_, key, encoding, content_type, headers, published_at_ms, crc, data = row
    priority = pos >> SEQ_BITS & PRIORITIES - 1
    try:
        message = Message(id_, data, published_at_ms, encoding, priority, key, headers, content_type)
        if row_crc(message, content_crc(message), pos) != crc:
            return None
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError):
        return None  # damage can change a column's type; whatever fails on it is a mismatch
    message.seq = pos & SEQ_MAX
    return message


def new_group_start(book: TopicBook, change: CreateGroup) -> int:
    """Where a new group begins: `earliest` is before everything kept, `new` after everything so far."""
    start = change.start or ("new" if book.groups else "earliest")
    return 0 if start == "earliest" else book.last_seq


def plan_append(
    append: Append,
    book: TopicBook,
    recall: Callable[[str], tuple[int, int] | None],
    limits: Limits,
    holder: Callable[[TopicBook], str],
) -> tuple[list[Message], dict[str, tuple[int, int]]]:
    """Decide one append: returns the messages to store and the ids to remember as id -> (seq, fingerprint), having
    given each message its seq and charged the book; or fills `refused` and returns nothing. `recall` tells what an
    id was stored with earlier, appends before this one included."""
    fresh: list[Message] = []
    remember: dict[str, tuple[int, int]] = {}
    seq, size_bytes = book.last_seq, 0
    append.refused = None
    for message in append.messages:
        print_ = fingerprint(message)
        first = remember.get(message.id) or recall(message.id)
        message.duplicate = first is not None
        if first is None:
            seq += 1
            size_bytes += message.size_bytes + ID_BYTES
            message.seq = seq
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
    return fresh, remember


def over_quota(book: TopicBook, messages: int, size_bytes: int, limits: Limits) -> bool:
    """Whether so much more is too much."""
    return book.messages + messages > limits.quota_messages or book.bytes + size_bytes > limits.quota_bytes


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
