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


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an append was not stored, or a topic not created. Definite: nothing of it was."""

    code: str  # "topic_full" | "id_conflict" | "topic_not_found" | "too_many_topics"
    detail: str


class Append:
    """One publish operation: all of its messages are stored, or none. The store fills `refused` or each seq."""

    __slots__ = ("messages", "refused", "topic")

    def __init__(self, topic: Topic, messages: Sequence[Message]) -> None:
        self.topic = topic
        self.messages = messages
        self.refused: Refused | None = None


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
    last: Attempt | None = None


@dataclass(slots=True)
class Counted:
    """Still in the gateway's hands; only its counts changed. After a restart it is due at once, with these counts."""

    group: Group
    message: Message
    deliveries: int
    failures: int
    last: Attempt | None = None


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
    last: Attempt | None = None


Settlement = Done | Retry | Counted | Dead


@dataclass(slots=True)
class CreateTopic:
    """Create the topic if it is not there. `result` is the topic either way, unless the store refuses a new one.
    A name that was deleted goes on with its seqs."""

    tenant: str
    name: str
    config: TopicConfig | None = None
    result: Topic | None = None
    refused: Refused | None = None


@dataclass(slots=True)
class ConfigureTopic:
    """Replace the topic's configuration."""

    topic: Topic
    config: TopicConfig


@dataclass(slots=True)
class DeleteTopic:
    """Remove the topic with its messages, groups, dead letters and ledger. The caller has closed its lanes."""

    topic: Topic


@dataclass(slots=True)
class PurgeTopic:
    """Remove every message up to `through_seq` (None: all), for all groups; dead letters stay. `removed` counts.
    The caller has closed the lanes of the topic's groups (`Store.forget`) and reopens them."""

    topic: Topic
    through_seq: int | None = None
    removed: int = 0


@dataclass(slots=True)
class CreateGroup:
    """Create the group if it is not there. `start`: "earliest" | "new" | a seq (the first to deliver) | a negative
    number (minus the published_at_ms of the oldest to deliver) | None (earliest for the first group of a topic, new
    for later ones). `result` is the group either way."""

    topic: Topic
    name: str
    start: str | int | None = None
    owner: str | None = None
    inactive_ttl_ms: int = 0
    result: Group | None = None


@dataclass(slots=True)
class ConfigureGroup:
    """Pause or resume the group."""

    group: Group
    paused: bool


@dataclass(slots=True)
class SeekGroup:
    """Owe the group what is kept from `start` on (as in CreateGroup), settled before or not, and nothing below it;
    its counts and back-offs are forgotten. The caller has closed its lanes."""

    group: Group
    start: str | int


@dataclass(slots=True)
class DeleteGroup:
    """Remove the group; messages that only it was owed go. The caller has closed its lanes."""

    group: Group


@dataclass(slots=True)
class Redrive:
    """Store these dead letters (by id, at most `REDRIVE_MAX` a batch) again, each for the group it died in only, at
    the end of its topic, marked `redriven`, and remove them from the dead letters. `seqs` are the new ones."""

    topic: Topic
    ids: Sequence[int]
    seqs: list[int] = field(default_factory=list)
    refused: Refused | None = None


@dataclass(slots=True)
class Discard:
    """Remove these dead letters for good."""

    topic: Topic
    ids: Sequence[int]
    removed: int = 0


REDRIVE_MAX = 1000
"""Dead letters one batch may put back: as large as a publish."""

Change = (
    CreateTopic
    | ConfigureTopic
    | DeleteTopic
    | PurgeTopic
    | CreateGroup
    | ConfigureGroup
    | SeekGroup
    | DeleteGroup
    | Redrive
    | Discard
)


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


@dataclass(slots=True)
class Batch:
    """One transaction: changes first, then appends, then settlements, each in order. All durable, or none.

    Each batch, also an empty one, first lets time pass for the store: scheduled messages that are due by `now_ms`
    become deliverable (at most `DUE_MAX` a batch), and retention does a bounded piece of its work.
    """

    changes: list[Change] = field(default_factory=list)
    appends: list[Append] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    now_ms: int = 0
    error: StoreError | None = None
    """Filled by the store when the transaction failed as a whole."""


DUE_MAX = 1000
"""Scheduled messages that become due in one transaction: 4 to 8 ms of the writer's time."""


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


class Consumer(Protocol):
    """What a store calls, on the loop. `turn_over` ends every series of calls of one turn."""

    def arrived(
        self,
        group: Group,
        priority: int,
        messages: Sequence[Message],
        counts: Counts | None,
        blocked: Sequence[tuple[int, str]],
    ) -> None:
        """Durable, unsettled, due and wanted. counts None: all zero. `blocked`: (seq, key) of keyed messages that the
        store passed over because they wait for their retry; until they arrive, later messages of that key wait."""

    def caught_up(self, group: Group, priority: int, yes: bool) -> None:
        """Whether all of an open lane that is due has been handed over, so that only what is new can follow; said when
        it changes, after what led to it has arrived; no is said first, when the lane is opened."""

    def arrived_key(
        self, group: Group, priority: int, key: str, messages: Sequence[Message], counts: Counts | None, through: int
    ) -> None:
        """The answer to `want_key`: what is deliverable of that key, in seq order; everything up to seq `through` was
        looked at."""

    def tailed(self, topic: Topic, messages: Sequence[Message]) -> None:
        """New messages of a watched topic, all priorities, in seq order."""

    def expired(self, group: Group, messages: Sequence[Message]) -> None:
        """The TTL of these is over, and nobody has them in hand: settle them (`Dead` or `Done`, as the topic says)."""

    def turn_over(self) -> None:
        """Nothing more comes in this turn."""


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


class Catalog(Protocol):
    """What is kept beside the messages: dead letters, ledger, revocations; and the care of the file."""

    async def dead_letters(self, topic: Topic, wanted: DeadFilter, limit: int) -> Sequence[DeadLetter]:
        """Oldest first, after `wanted.after_id`."""

    async def dead_letter(self, topic: Topic, id: int) -> DeadLetter | None: ...

    async def history(self, topic: Topic, seq: int) -> Sequence[Event]:
        """The ledger of one message, oldest first. Entries are kept 24 h, or as long as the message if longer."""

    async def revoke(self, revocation: Revocation) -> None:
        """Durable when it returns."""

    async def revocations(self) -> Sequence[Revocation]: ...

    async def find_seq(self, topic: Topic, published_at_ms: int) -> int:
        """The first kept seq published at or after this; the seq after the last if there is none."""

    async def backup(self, path: str) -> None:
        """A whole copy of the database as of one moment, under load, to a file that must not exist yet."""

    async def check(self) -> Sequence[str]:
        """What is wrong with the file: nothing is good."""


class Store(Protocol):
    """A durable set of topics. All methods are called from one event loop; none may be called before `open`.

    Obligations: a batch is durable before `done` is called (synchronous=FULL or the engine's equal); `done` and the
    consumer's methods run on the loop, from the writer's own callback, in the order in which the batches were given;
    within one turn a batch's `done` comes first, then what of it arrives, then `turn_over`. seq strictly increases
    within a topic and is never reused. The id of a message is remembered for at least `dedupe_window_s`.
    """

    capabilities: Capabilities
    epoch: str
    """Random per database; changes when a database is restored."""
    version: str
    """The engine and its version, for people."""
    topics: dict[tuple[str, str], Topic]
    """(tenant, name) -> topic, as of the last commit."""

    async def open(self, consumer: Consumer, now_ms: int) -> None:
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

    def want_key(self, group: Group, priority: int, key: str, after_seq: int, count: int) -> None:
        """Ask for up to `count` messages of one key above `after_seq` in an open lane, outside its demand. Answered
        once by `arrived_key`, unless the group is forgotten before."""

    def watch(self, topic: Topic, on: bool) -> None:
        """Whether `tailed` is called for the topic."""

    def next_due_ms(self) -> int | None:
        """When to call `due`: the earliest retry of a lane with demand; None if there is none."""

    def due(self, now_ms: int) -> None:
        """Let the retries that are due by now arrive, as far as they are wanted."""

    def next_tick_ms(self) -> int | None:
        """When a batch should be written even if it is empty: a scheduled message falls due, one expires, or
        retention has work. None if nothing waits for time."""

    async def read(self, topic: Topic, after_seq: int, limit: int) -> Page:
        """Kept messages of all priorities with seq above `after_seq`, in seq order; fewer than `limit` when they are
        large. Never leases."""

    def catalog(self) -> Catalog:
        """What is kept beside the messages."""

    async def stats(self) -> StoreStats: ...

    async def close(self) -> None:
        """Finish what was given, checkpoint, release the files. Harmless when repeated."""
