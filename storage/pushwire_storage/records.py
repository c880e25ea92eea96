"""What a store keeps and tells of: messages, topics, groups, their configuration, dead letters, the ledger.

Plain data and no decision. A record that the store fills or changes says so; all others belong to whoever made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# Encodings of a stored body. JSON bodies are kept re-serialised, hence free of newlines.
JSON, TEXT, BINARY = 0, 1, 2
PRIORITIES = 4
"""Lanes of one group: priority 0 (lowest) to 3."""
READ_BYTES_MAX = 8 << 20
"""Bytes one `Store.read` returns unless it is asked for fewer, but at least one message."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What differs between stores, declared instead of branched on."""

    shared: bool
    """Several nodes may use it at once."""
    redelivers_after_crash_s: float | None
    """A dead node's leases come back on other nodes after this long; None: when this node starts again."""
    durable: bool
    """A receipt survives the end of the process."""


class Message:
    """One message: a draft until its batch is committed, then the durable row. Shared by all groups; never copied.

    The producer's side fills everything but `seq` and `duplicate`, which the store sets when it commits.
    """

    __slots__ = (
        "content_type",
        "data",
        "due_ms",
        "duplicate",
        "encoding",
        "expires_ms",
        "headers",
        "id",
        "key",
        "priority",
        "published_at_ms",
        "redriven",
        "seq",
        "size_bytes",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - one plain constructor on the hot path
        self,
        id: str,
        data: bytes,
        published_at_ms: int,
        encoding: int = JSON,
        priority: int = 1,
        key: str | None = None,
        headers: bytes | None = None,
        content_type: str | None = None,
        due_ms: int | None = None,
        expires_ms: int | None = None,
    ) -> None:
        self.id = id
        self.data = data
        self.published_at_ms = published_at_ms
        self.encoding = encoding
        self.priority = priority
        self.key = key
        self.headers = headers  # a JSON object of strings, re-serialised, or None
        self.content_type = content_type
        self.due_ms = due_ms  # no group is given it before; None: at once. Tails see it when it is stored
        self.expires_ms = expires_ms  # no group is given it from then on; None: never
        self.redriven = False  # came out of the dead letters
        self.seq = 0
        self.duplicate = False
        # What counts against quotas and windows: the bytes a consumer is sent, without the envelope.
        self.size_bytes = len(data) + (len(headers) if headers else 0) + (len(key) if key else 0)


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """What an operator may set for one topic. None: the gateway's setting."""

    ack_timeout_ms: int | None = None
    max_failures: int | None = None
    max_deliveries: int | None = None
    weights: tuple[int, int, int, int] = (1, 2, 4, 8)
    strict: bool = False
    """A lower priority waits while a higher one has anything."""
    retain_ms: int = 0
    """A message is kept at least so long after it was published, settled or not. 0: until it is settled."""
    max_age_ms: int = 0
    """Older messages leave: settled ones for good, unsettled ones into the dead letters (`expired`). 0: never."""
    retain_bytes: int | None = None
    """What no group is owed leaves, oldest first and also before `retain_ms` is over, while the messages kept have more
    bytes than this. What a group is owed stays: that is for the quota to bound. None: no such limit."""
    quota_messages: int | None = None
    quota_bytes: int | None = None
    expired: str = "dead"
    """What becomes of a message whose TTL is over: "dead" (letters) or "drop"."""
    ledger: str = "off"
    """"off" | "settled" (how each delivery ended) | "full" (each delivery too)."""
    dedupe: bool = True
    """Whether ids are remembered. Without, a publish that is retried may store twice."""


@dataclass(slots=True, eq=False)
class Group:
    """A named cursor over a topic. It is owed every message of the topic whose seq is above `start_seq`."""

    id: int
    topic: Topic
    name: str
    start_seq: int
    paused: bool = False
    owner: str | None = None
    """Private to this (subject, client id), written `subject/client`; None: to nobody."""
    inactive_ttl_ms: int = 0
    """Deleted so long after its last member left. 0: never."""


@dataclass(slots=True, eq=False)
class Topic:
    """A named sequence of messages inside one tenant. The counters are those of the last commit."""

    id: int
    tenant: str
    name: str
    last_seq: int = 0
    messages: int = 0
    """Messages kept: not yet settled by every group that is owed them, or retained."""
    bytes: int = 0
    """Bytes kept, remembered ids included."""
    dead_letters: int = 0
    """Dead letters kept; outside the quota."""
    scheduled: int = 0
    """Of `messages`, those whose `due_ms` has not come."""
    groups: dict[str, Group] = field(default_factory=dict)
    config: TopicConfig = field(default_factory=TopicConfig)


ATTEMPTS_KEPT = 10
"""Ended attempts remembered with a message that waits or died: as many as `max_failures` allows by default."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one delivery of a message ended, kept with it until it is settled, and with its dead letter."""

    at_ms: int
    how: str  # "nacked" | "timed_out" | "returned" | "released" | "rejected"
    subject: str
    error: str | None = None


@dataclass(slots=True)
class Event:
    """One line of the delivery ledger."""

    topic: Topic
    seq: int
    group: str
    at_ms: int
    event: str  # "delivered" | "acked" | "nacked" | "released" | "returned" | "timed_out" | "dead"
    subject: str
    session: str
    attempt: int
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Numbers for people and metrics. `rows_committed` counts messages appended and settlements applied."""

    topics: int
    groups: int
    messages: int
    bytes: int
    dead_letters: int
    commits: int
    rows_committed: int
    file_bytes: int
    wal_bytes: int
    corrupt_rows: int = 0
    """Rows met since `open` whose checksum did not match; none of them reached a consumer."""
    expired: int = 0
    """Messages removed since `open` because their TTL was over, that no group was owed."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter as it lies in the store; `message.seq` is the seq it had in its topic."""

    id: int
    topic: str
    group: str
    message: Message
    reason: str
    error: str | None
    deliveries: int
    failures: int
    at_ms: int
    attempts: Sequence[Attempt] = ()
    """The last ATTEMPTS_KEPT, oldest first."""


Counts = Sequence[tuple[int, int]]
"""(deliveries, failures) per message."""


@dataclass(frozen=True, slots=True)
class Page:
    """What `read` found between `after_seq` and `through`."""

    messages: Sequence[Message]
    gaps: Sequence[tuple[int, int]]
    """(from, to), both inclusive: stored once, not kept any more."""
    through: int
    """Everything up to this seq was looked at; the next read starts here."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Tokens that are no longer accepted: one (`jti`), or all of a subject issued before `issued_before_s`."""

    issuer: str
    jti: str | None
    subject: str | None
    issued_before_s: int
    expires_ms: int
    """When every token it concerns has expired by itself, and it can be forgotten."""


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters: all given conditions hold."""

    group: str | None = None
    reason: str | None = None
    key: str | None = None
    after_id: int = 0
    """Ids above it, oldest first."""
