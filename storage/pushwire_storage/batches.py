"""What one transaction is asked to do: changes, appends, settlements, events, and where its answers go.

Plain data and no decision; each record states what the store does with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .errors import StoreError
from .records import Attempt, Event, Group, Message, Topic, TopicConfig


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an append was not stored, or a topic not created. Definite: nothing of it was."""

    code: str  # "topic_full" | "id_conflict" | "topic_not_found" | "too_many_topics" | "insufficient_storage"
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
