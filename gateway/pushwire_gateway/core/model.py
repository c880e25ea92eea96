"""The things the delivery core moves about: pending messages, subscriptions, sessions, groups, and its effects.

Pure data. Owns no rule: lanes.py chooses, leases.py grants and ends, delivery.py ties them together. Plain slotted
classes rather than dataclasses where there is one per message, because their construction is the hot path.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from .retry import RetryPolicy

OVERHEAD_BYTES = 512
"""What one pending message costs in memory beside its body: the row, its slots here and the containers' share."""


WAITING, LEASED, ENDED = 0, 1, 2
"""Where a pending message is: in its lane or beside it; with a member; settled, left to the store, or expired (then
whoever still meets it lets it go)."""


class MessageLike(Protocol):
    """What the core reads of a durable message. It never changes one."""

    seq: int
    priority: int
    size_bytes: int
    key: str | None
    expires_ms: int | None


class Pending:
    """One message as one group knows it: waiting in a lane, or leased. The wire reads lease, deliveries, message."""

    __slots__ = (
        "deadline",
        "deliveries",
        "failures",
        "ghosts",
        "granted_at",
        "held_for",
        "lease",
        "lease_no",
        "message",
        "place",
    )

    def __init__(self, message: Any, deliveries: int = 0, failures: int = 0) -> None:
        self.message = message
        self.deliveries = deliveries  # leases granted so far, this one included
        self.failures = failures  # nacks and timeouts so far
        self.lease = ""
        self.lease_no = 0  # order in which this session's leases were granted
        self.granted_at = 0.0
        self.deadline = 0.0
        self.place = WAITING
        self.ghosts = 0  # entries of its lane that it has left, to be skipped by whoever meets them
        self.held_for: set[Session] | None = None  # released by these a moment ago: not offered to them again yet

    def __lt__(self, other: Pending) -> bool:
        return self.message.seq < other.message.seq  # type: ignore[no-any-return]  # message is duck-typed


class Lane:
    """The messages of one (topic, group, priority) that are in memory, by seq."""

    __slots__ = ("behind", "credit", "fresh", "keys", "priority", "returned", "tail_seq", "wanted")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.fresh: deque[Pending] = deque()
        self.returned: list[Pending] = []  # heap by seq: came back from a consumer or from a back-off
        self.tail_seq = 0  # highest seq that ever came in as fresh
        self.wanted = 0  # demand the store still has to serve
        self.behind = False  # the store has, or may have, messages of it that are not here
        self.credit = 0  # of the weighted round robin
        self.keys: dict[Any, Any] = {}  # ordering key -> keys.KeyQueue, for keys that are taken or have some waiting

    def __len__(self) -> int:
        return len(self.fresh) + len(self.returned)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a topic's configuration says to the core."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    weights: tuple[int, ...] = (1, 2, 4, 8)
    """Shares of priorities 0 to 3 while all are busy."""
    strict: bool = False
    """A lower priority waits while a higher one has anything."""
    paused: bool = False
    expired_dead: bool = True
    """A message whose TTL is over goes to the dead letters; else it is dropped."""


class Session:
    """One client: what its leases are called and how many bytes it may hold. Leases belong to it, not to a socket."""

    __slots__ = (
        "away_until",
        "bytes_in_flight",
        "bytes_max",
        "grace_s",
        "lease_count",
        "lease_prefix",
        "link",
        "starved",
        "subject",
        "subs",
        "subs_by_prefix",
    )

    def __init__(self, link: Any, lease_prefix: str, bytes_max: int, subject: str = "") -> None:
        self.link = link  # the shell's own handle; opaque here
        self.lease_prefix = lease_prefix  # random, hence unguessable from outside
        self.bytes_max = bytes_max
        self.subject = subject  # who it is, for attempt histories and the ledger
        self.grace_s = 0.0  # how long its leases outlive its connection
        self.away_until: float | None = None  # disconnected, but may still come back until then
        self.bytes_in_flight = 0
        self.lease_count = 0
        self.subs: dict[str, Subscription] = {}
        self.subs_by_prefix: dict[str, Subscription] = {}
        self.starved: dict[Subscription, None] = {}  # subscriptions with a free window that the byte limit stopped


class Subscription:
    """One member of a group: its window and its leases, oldest deadline first (one timeout a subscription makes
    insertion order deadline order; an extended lease moves to the end)."""

    __slots__ = (
        "ack_timeout_s",
        "armed",
        "asked",
        "group",
        "in_ring",
        "leases",
        "name",
        "prefetch",
        "prefix",
        "session",
        "timeouts_in_a_row",
    )

    def __init__(
        self, name: str, session: Session, group: Group, prefetch: int, ack_timeout_s: float, prefix: str
    ) -> None:
        self.name = name
        self.session = session
        self.group = group
        self.prefetch = prefetch
        self.ack_timeout_s = ack_timeout_s
        self.prefix = prefix
        self.leases: dict[str, Pending] = {}
        self.armed: list[Any] | None = None  # its entry in the heap of deadlines
        self.in_ring = False  # waits in its group's ring for messages
        self.asked: int | None = None  # may be given so many more, whatever its window; None: as many as that holds
        self.timeouts_in_a_row = 0  # leases that ran out since it last settled anything


class Group:
    """A group with at least one member: its members, its lanes, and the ring of members with a free window."""

    __slots__ = ("handle", "held", "lanes", "members", "policy", "prefetch_sum", "ready", "ring", "turn")

    def __init__(self, handle: Any, policy: Policy) -> None:
        self.handle = handle  # the store's record; opaque here
        self.policy = policy
        self.members: set[Subscription] = set()
        self.prefetch_sum = 0
        self.lanes = [Lane(priority) for priority in range(4)]
        self.ready = 0  # messages in all lanes
        self.turn: Lane | None = None  # the lane that is to be served next, while its messages are on their way
        self.held: dict[Session, int] = {}  # messages that each session released a moment ago
        self.ring: deque[Subscription] = deque()


@dataclass(slots=True)
class Settled:
    """Acked: tell the store that these are done for the group."""

    group: Any
    held: list[Pending]
    session: Session


@dataclass(slots=True)
class Retried:
    """Failed: the store keeps it until `due` (core time, seconds) and lets it arrive again."""

    group: Any
    message: Any
    due: float
    deliveries: int
    failures: int
    how: str
    error: str | None
    session: Session


@dataclass(slots=True)
class Counted:
    """Back in its lane; only the counts changed."""

    group: Any
    message: Any
    deliveries: int
    failures: int
    how: str
    session: Session


@dataclass(slots=True)
class Died:
    """To the dead letters; `drop`: for good."""

    group: Any
    message: Any
    reason: str
    error: str | None
    deliveries: int
    failures: int
    how: str | None = None
    session: Session | None = None
    drop: bool = False


@dataclass(frozen=True, slots=True)
class KeyWant:
    """Ask the store for messages of one key."""

    group: Any
    priority: int
    key: str
    after_seq: int
    count: int


@dataclass(slots=True)
class Effects:
    """What the shell has to do after a call. Order between the fields does not matter; within one it does."""

    pushes: dict[Subscription, list[Pending]] = field(default_factory=dict)
    settlements: list[Settled | Retried | Counted | Died] = field(default_factory=list)
    settled_bytes: int = 0
    """Memory that the settlements keep until they are durable: their messages, overhead included."""
    wants: dict[tuple[Any, int], int] = field(default_factory=dict)
    """(group handle, priority) -> absolute demand."""
    key_wants: list[KeyWant] = field(default_factory=list)
    forgets: list[Any] = field(default_factory=list)
    """Group handles without members: the store takes their messages back."""
    unhealthy: list[Subscription] = field(default_factory=list)
    """Members that let lease after lease run out: the shell ends their subscriptions."""
    ended: list[Session] = field(default_factory=list)
    """Sessions whose grace is over."""

    def __bool__(self) -> bool:
        return bool(
            self.pushes
            or self.settlements
            or self.wants
            or self.key_wants
            or self.forgets
            or self.unhealthy
            or self.ended
        )


@dataclass(slots=True)
class Counters:
    """Plain integers, read at scrape."""

    delivered: int = 0
    redelivered: int = 0
    acked: int = 0
    nacked: int = 0
    rejected: int = 0
    released: int = 0
    extended: int = 0
    timed_out: int = 0
    returned: int = 0
    died: int = 0
    expired: int = 0
    resumed: int = 0
    unhealthy: int = 0
    served: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Deliveries by priority."""
    contended: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Of those, what was chosen while a lane of another priority had something too: the measured shares."""
    stale: int = 0
