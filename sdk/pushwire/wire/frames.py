"""The operations of pushwire.v1 as data: plain slotted classes, shared by client and gateway.

Owns what an operation carries. Knows no bytes (codec.py turns frames into bytes and back) and no behaviour.
A frame may be looked at by both sides; `decode(encode(frame)) == frame` holds for each (a property test).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

SUBPROTOCOL = "pushwire.v1"

STATS_TOPIC = "$sys.stats"
"""A topic that is not stored: the gateway's numbers, once a second, to tails with the right `admin`. `$` is in no name,
so no topic of a user can be called like it."""

NAME = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9_.:\-]{1,255}", re.ASCII)
"""Topics, groups, subscription names, string refs. Safe inside JSON, URLs and logs without escaping; `.` and `..` are
none, because clients and proxies fold them out of a URL's path (RFC 3986 §5.2.4)."""
ID = re.compile(r"[A-Za-z0-9_.:\-]{1,128}", re.ASCII)
"""Message ids. 128 characters: four times a UUID, and small enough to remember a million of them."""

JSON, TEXT, BINARY = 0, 1, 2
"""Encodings of a body: `data`, `data_text` and `data_b64` on the wire."""

LEASES_PER_OP_MAX = 1000
"""Leases in one settlement: the largest prefetch, so one operation can settle a whole window."""
MESSAGES_PER_OP_MAX = 1000
"""Messages in one publish. A frame of 1 MiB holds about this many of 1 KB each."""

Ref = int | str
"""A client's own number or name for a request; the reply echoes it."""


class Draft:
    """A message as it is published: what the producer says of it, before (seq 0) or after (seq set) it is stored.

    `due_ms`: when it becomes deliverable, ms since 1970; below 0, so long from now (`deliver_at_ms`, `delay_ms`).
    `expires_ms`: when it expires; below 0, so long after it becomes deliverable (`ttl_ms`).
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
    )

    def __init__(  # noqa: PLR0913, PLR0917 - a row, made on the hot path
        self,
        id: str,
        data: bytes,
        published_at_ms: int = 0,
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
        self.headers = headers
        self.content_type = content_type
        self.due_ms = due_ms
        self.expires_ms = expires_ms
        self.redriven = False
        self.seq = 0
        self.duplicate = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Draft) and all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # mutable: compared by value, never a key

    def __repr__(self) -> str:
        return f"Draft({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class MessageLike(Protocol):
    """What the codec reads of a stored message; `Draft` and the gateway's own row both have it."""

    id: str
    data: bytes
    seq: int
    published_at_ms: int
    encoding: int
    priority: int
    key: str | None
    headers: bytes | None
    content_type: str | None
    due_ms: int | None
    expires_ms: int | None
    redriven: bool
    duplicate: bool


class DeliveryLike(Protocol):
    """What the codec reads of one delivery."""

    lease: str
    deliveries: int
    message: Any


@dataclass(slots=True)
class Delivery:
    """One message under one lease, as the consumer sees it. `deliveries` is the wire's `attempt`."""

    lease: str
    deliveries: int
    message: Draft

    @property
    def redelivered(self) -> bool:
        return self.deliveries > 1


# --- client to gateway ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Auth:
    """Authenticate a connection that came without a token, or refresh the token of a live one; and take over the
    session whose secret is given."""

    token: str = field(repr=False)
    ref: Ref | None = None
    session: str | None = field(default=None, repr=False)
    resume_grace_ms: int | None = None
    """How long this session's leases outlive its connection from now on. None: as before, at first not at all."""


Start = str | int
"""Where to begin: "earliest", "new", a seq (the first to deliver), or, below 0, minus a time in ms since 1970 (the
first published at or after it)."""


@dataclass(slots=True)
class Subscribe:
    """Join a group of a topic, creating either where the token allows it. None means the gateway's default."""

    topic: str
    group: str = "default"
    sub: str | None = None
    prefetch: int | None = None
    ack_timeout_ms: int | None = None
    start: Start | None = None
    """Where a group begins that this operation creates."""
    ref: Ref | None = None
    client_id: str | None = None
    """Given: the group is private to this subject and client id (`private` on the wire)."""
    inactive_ttl_ms: int | None = None
    """How long a group that this operation creates outlives its last member. None: for ever."""


@dataclass(slots=True)
class SubscribeTail:
    """See every message of a topic, without a group and without leases: a `subscribe` with `tail`. Begins at `start`,
    or, with `epoch`, goes on after `after_seq`."""

    topic: str
    sub: str | None = None
    start: Start = "new"
    epoch: str | None = None
    after_seq: int = 0
    ref: Ref | None = None


@dataclass(slots=True)
class Unsubscribe:
    """End a subscription; the leases held under it go back at once."""

    sub: str
    ref: Ref | None = None


@dataclass(slots=True)
class Publish:
    """Store these messages, all or none."""

    topic: str
    messages: Sequence[Any]
    ref: Ref | None = None
    size_bytes: int = field(default=0, compare=False)
    """Bytes of the operation as received: what the byte limit charges."""


@dataclass(slots=True)
class Ack:
    """Settle these leases, or every lease of the subscription granted up to and including `through`."""

    leases: Sequence[str] = ()
    through: str | None = None
    ref: Ref | None = None


@dataclass(slots=True)
class Nack:
    """These failed: deliver them again after the back-off, or after `delay_ms`. `error` is kept for a dead letter."""

    leases: Sequence[str]
    delay_ms: int | None = None
    error: str | None = None
    ref: Ref | None = None


@dataclass(slots=True)
class Reject:
    """These can never succeed: put them with the dead letters, with `error` as what went wrong."""

    leases: Sequence[str]
    error: str | None = None
    ref: Ref | None = None


@dataclass(slots=True)
class Release:
    """Give these back unworked: no failure is counted."""

    leases: Sequence[str]
    ref: Ref | None = None


@dataclass(slots=True)
class Extend:
    """Hold these for one more ack timeout from now."""

    leases: Sequence[str]
    ref: Ref | None = None


@dataclass(slots=True)
class Flow:
    """Change the window of a subscription. 0 pauses it; leases held are kept."""

    sub: str
    prefetch: int
    ref: Ref | None = None


@dataclass(slots=True)
class Ping:
    """Asks for a Pong with the same `ref`."""

    ref: Ref | None = None


@dataclass(slots=True)
class Pong:
    """Answers a Ping."""

    ref: Ref | None = None


@dataclass(slots=True)
class Malformed:
    """A line that is no operation: never sent, only what `feed` makes of bytes it cannot read."""

    code: str
    message: str
    ref: Ref | None = None


# --- gateway to client ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Welcome:
    """The connection is authenticated; the first frame a gateway sends. Durations are milliseconds."""

    session: str = field(repr=False)
    server: str = ""
    epoch: str = ""
    heartbeat_ms: int = 0
    pong_timeout_ms: int = 0
    expires_in_ms: int = 0
    limits: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Receipt:
    """What became of one message: durable under `seq`, now or (`duplicate`) by an earlier publish of that id."""

    id: str
    seq: int
    duplicate: bool


@dataclass(slots=True)
class Ok:
    """The request is done, and durable where it changes anything.

    `receipts` answers a publish; `sub`, `prefetch` and `ack_timeout_ms` a subscribe; `sub`, `epoch` and `seq` (where it
    stands) that of a tail; `prefetch` a flow; `expires_in_ms` an auth (the token's) or an extend (the leases');
    `session` and `resumed` an auth that named a session or a grace, with `subs` (the leases still held, by
    subscription) when it was resumed.
    """

    ref: Ref | None
    receipts: Sequence[Any] | None = None
    sub: str | None = None
    prefetch: int | None = None
    ack_timeout_ms: int | None = None
    expires_in_ms: int | None = None
    epoch: str | None = None
    seq: int | None = None
    session: str | None = field(default=None, repr=False)
    resumed: bool | None = None
    subs: Mapping[str, Sequence[str]] | None = None


@dataclass(slots=True)
class Error:
    """The request had no effect, except where `leases` lists the part that had none. The connection lives on.

    With `sub` and no `ref`: the gateway ended that subscription.
    """

    code: str
    message: str
    ref: Ref | None = None
    retryable: bool = False
    retry_after_ms: int | None = None
    sub: str | None = None
    leases: Sequence[str] | None = None


@dataclass(slots=True)
class Messages:
    """Deliveries of one subscription. All are of one topic and were leased at one moment."""

    sub: str
    topic: str
    expires_in_ms: int
    deliveries: Sequence[DeliveryLike]


@dataclass(slots=True)
class TailBatch:
    """Messages of one topic, shown to all of its tails: encoded once, by whichever comes first."""

    topic: str
    messages: Sequence[Any]
    encoded: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    """Subprotocol -> what its codec made of the messages; the codecs fill it."""
    named: tuple[str, bytes] | None = field(default=None, repr=False, compare=False)
    """The newest frame of it, and for a tail of which name: most have the same, and then it is the same object."""


@dataclass(slots=True)
class Tailed:
    """Messages of one tail, without leases: a `messages` on the wire."""

    sub: str
    batch: TailBatch


@dataclass(slots=True)
class Gap:
    """Messages `from_seq` to `to_seq` were dropped by retention before this tail could read them."""

    sub: str
    from_seq: int
    to_seq: int


@dataclass(slots=True)
class Goodbye:
    """The gateway is about to close the connection with `code`."""

    code: int
    reason: str
    reconnect: bool
    retry_after_ms: int | None = None


Settlement = Ack | Nack | Reject | Release | Extend
ClientFrame = Auth | Subscribe | SubscribeTail | Unsubscribe | Publish | Settlement | Flow | Ping | Pong | Malformed
ServerFrame = Welcome | Ok | Error | Messages | Tailed | Gap | Goodbye | Ping | Pong | Malformed
