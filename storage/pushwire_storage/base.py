"""The contract between the gateway and whatever keeps its messages: `Store`, its records, its errors.

Owns words, not mechanics: every obligation a store takes on is stated here, and `tests/conformance` holds each
store to it. It must not import a driver, the gateway or the wire format.

Time: every `*_ms` stamp is milliseconds of the gateway's own anchored clock (wall clock read once at start, then
advanced by the monotonic clock), so a step of the machine's clock changes nothing until restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

# Encodings of a stored body. JSON bodies are kept re-serialised, hence free of newlines.
JSON, TEXT, BINARY = 0, 1, 2

PRIORITIES = 4
"""Lanes of one group: priority 0 (lowest) to 3."""


class StoreError(Exception):
    """Something the store could not do. `definite` says whether nothing at all was stored."""

    code = "unavailable"
    definite = False


class StoreBusy(StoreError):
    """Another process held the write lock for too long; the batch was rolled back whole."""

    code = "busy"
    definite = True


class StoreFull(StoreError):
    """The disk is full; the batch was rolled back whole."""

    code = "insufficient_storage"
    definite = True


class StoreBroken(StoreError):
    """An I/O error or damage: what the last batch stored is unknown. The process must stop confirming and end."""


class StoreLocked(StoreError):
    """Another process owns these files. Raised by `open`."""

    code = "locked"
    definite = True


class StoreRefused(StoreError):
    """The file is newer than this program, damaged, or on a filesystem that cannot keep the promise. From `open`."""

    code = "refused"
    definite = True


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
        "duplicate",
        "encoding",
        "headers",
        "id",
        "key",
        "priority",
        "published_at_ms",
        "seq",
        "size_bytes",
    )

    def __init__(
        self,
        id: str,
        data: bytes,
        published_at_ms: int,
        encoding: int = JSON,
        priority: int = 1,
        key: str | None = None,
        headers: bytes | None = None,
        content_type: str | None = None,
    ) -> None:
        self.id = id
        self.data = data
        self.published_at_ms = published_at_ms
        self.encoding = encoding
        self.priority = priority
        self.key = key
        self.headers = headers  # a JSON object of strings, re-serialised, or None
        self.content_type = content_type
        self.seq = 0
        self.duplicate = False
        # What counts against quotas and windows: the bytes a consumer is sent, without the envelope.
        self.size_bytes = len(data) + (len(headers) if headers else 0) + (len(key) if key else 0)


@dataclass(slots=True, eq=False)
class Group:
    """A named cursor over a topic. It is owed every message of the topic whose seq is above `start_seq`."""

    id: int
    topic: Topic
    name: str
    start_seq: int


@dataclass(slots=True, eq=False)
class Topic:
    """A named sequence of messages inside one tenant. The counters are those of the last commit."""

    id: int
    tenant: str
    name: str
    last_seq: int = 0
    messages: int = 0
    """Messages kept: not yet settled by every group that is owed them."""
    bytes: int = 0
    """Bytes kept, remembered ids included."""
    dead_letters: int = 0
    """Dead letters kept; outside the quota."""
    groups: dict[str, Group] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an append was not stored, or a topic not created. Definite: nothing of it was."""

    code: str  # "topic_full" | "id_conflict" | "insufficient_storage" | "busy" | "too_many_topics"
    detail: str


class Append:
    """One publish operation: all of its messages are stored, or none. The store fills `refused` or each seq."""

    __slots__ = ("messages", "refused", "topic")

    def __init__(self, topic: Topic, messages: Sequence[Message]) -> None:
        self.topic = topic
        self.messages = messages
        self.refused: Refused | None = None


@dataclass(slots=True)
class Done:
    """These messages are settled for this group, finally."""

    group: Group
    messages: Sequence[Message]


@dataclass(slots=True)
class Retry:
    """Not settled; offered again at `due_ms` (through `due`, not before), with these counts."""

    group: Group
    message: Message
    due_ms: int
    deliveries: int
    failures: int


@dataclass(slots=True)
class Counted:
    """Still in the gateway's hands; only its counts changed. After a restart it is due at once, with these counts."""

    group: Group
    message: Message
    deliveries: int
    failures: int


@dataclass(slots=True)
class Dead:
    """Settled for this group by moving it to the dead letters, with its bytes, in the same transaction."""

    group: Group
    message: Message
    reason: str  # "failures" | "deliveries" | "rejected" | "expired"; the store itself adds "corrupt"
    error: str | None
    deliveries: int
    failures: int
    at_ms: int


Settlement = Done | Retry | Counted | Dead


@dataclass(slots=True)
class CreateTopic:
    """Create the topic if it is not there. `result` is the topic either way, unless the store refuses a new one."""

    tenant: str
    name: str
    result: Topic | None = None
    refused: Refused | None = None


@dataclass(slots=True)
class CreateGroup:
    """Create the group if it is not there. `start`: "earliest" | "new" | None (earliest for the first group of a
    topic, new for later ones). `result` is the group either way."""

    topic: Topic
    name: str
    start: str | None = None
    result: Group | None = None


Change = CreateTopic | CreateGroup


@dataclass(slots=True)
class Batch:
    """One transaction: changes first, then appends, then settlements, each in order. All durable, or none."""

    changes: list[Change] = field(default_factory=list)
    appends: list[Append] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    now_ms: int = 0
    error: StoreError | None = None
    """Filled by the store when the transaction failed as a whole."""


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


Counts = Sequence[tuple[int, int]]
"""(deliveries, failures) per message."""

Arrivals = Callable[[Group, int, Sequence[Message], Counts | None], None]
"""(group, priority, messages, counts): durable, unsettled and due. counts None: all zero. No messages: only
`next_due_ms` has changed."""


class Store(Protocol):
    """A durable set of topics. All methods are called from one event loop; none may be called before `open`.

    Obligations: a batch is durable before `done` is called (synchronous=FULL or the engine's equal); `done` and
    `arrivals` run on the loop, from the writer's own callback, in the order in which the batches were given; within
    one turn `arrivals` for the batch's new messages come right after its `done`. seq strictly increases within a
    topic and is never reused. The id of a message is remembered for at least `dedupe_window_s`.
    """

    capabilities: Capabilities
    epoch: str
    """Random per database; changes when a database is restored."""
    version: str
    """The engine and its version, for people."""
    topics: dict[tuple[str, str], Topic]
    """(tenant, name) -> topic, as of the last commit."""

    async def open(self, arrivals: Arrivals, now_ms: int) -> None:
        """Take the files. Raises StoreLocked, StoreRefused, StoreBroken."""

    def write(self, batch: Batch, done: Callable[[Batch], None]) -> None:
        """Run the batch as one transaction. At most one batch may be outstanding. Never raises for what the disk
        does: the batch carries `error`, and after StoreBroken every later batch fails the same way."""

    def want(self, group: Group, priority: int, count: int) -> None:
        """Absolute demand of one lane: at most `count` more messages may arrive. Per lane each unsettled message
        arrives once per open, in seq order, from commit and backlog alike; retries come in seq order when due.
        The first `want` opens the lane; 0 stops it without forgetting what has arrived."""

    def forget(self, group: Group) -> None:
        """Close all lanes of the group: what had arrived and was not settled will arrive again after the next
        `want`, with the counts of the last Counted or Retry. Settlements given in earlier batches are honoured."""

    def next_due_ms(self) -> int | None:
        """When the earliest retry of a lane with demand falls due; None if there is none."""

    def due(self, now_ms: int) -> None:
        """Let the retries that are due by now arrive, as far as they are wanted."""

    async def read(self, topic: Topic, after_seq: int, limit: int) -> Sequence[Message]:
        """Kept messages with seq above `after_seq`, in seq order; fewer than `limit` when they are large, none
        only when there are none. Never leases."""

    async def dead_letters(self, topic: Topic, limit: int) -> Sequence[DeadLetter]:
        """The newest dead letters of a topic, newest first."""

    async def stats(self) -> StoreStats: ...

    async def close(self) -> None:
        """Finish what was given, checkpoint, release the files. Harmless when repeated."""
