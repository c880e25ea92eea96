"""What the admin API shows, as types: the JSON objects of docs/http.md, field by field.

Owns no behaviour. A gateway may add fields; those listed are there.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, NotRequired, TypedDict


class TopicConfig(TypedDict, total=False):
    """What may be set for a topic. None, where it is allowed: the gateway's setting."""

    ack_timeout_ms: int | None
    max_failures: int | None
    max_deliveries: int | None
    weights: list[int]
    """Four, of priority 0 to 3."""
    strict: bool
    retain_ms: int
    max_age_ms: int
    retain_bytes: int | None
    quota_messages: int | None
    quota_bytes: int | None
    expired: Literal["dead", "drop"]
    ledger: Literal["off", "settled", "full"]
    dedupe: bool


class GroupInfo(TypedDict):
    """A group, without its members."""

    name: str
    topic: str
    start_seq: int
    paused: bool
    owner: str | None
    """`subject/client id` of a private one."""
    inactive_ttl_ms: int
    """0: never."""
    member_count: int
    in_flight: int
    ready: int
    """In the gateway's memory, waiting for a member; a backlog of any size stays on disk."""


class MemberInfo(TypedDict):
    """A subscription, as a member of a group."""

    sub: str
    subject: str
    connection: str | None
    prefetch: int
    in_flight: int
    ack_timeout_ms: int
    timeouts_in_a_row: int
    away: bool
    """Its connection was lost, and its session may still be resumed."""


class GroupDetail(GroupInfo):
    """A group with its members."""

    members: list[MemberInfo]


class TopicInfo(TypedDict):
    """A topic, without its groups."""

    name: str
    last_seq: int
    messages: int
    bytes: int
    scheduled: int
    dead_letters: int
    group_count: int
    member_count: int
    in_flight: int
    config: TopicConfig


class TopicDetail(TopicInfo):
    """A topic with its groups."""

    groups: list[GroupInfo]


class MessageInfo(TypedDict):
    """A stored message. With its body, where that is shown, in exactly one of the three last fields."""

    seq: int
    id: str
    priority: int
    published_at_ms: int
    size_bytes: int
    key: NotRequired[str]
    headers: NotRequired[dict[str, str]]
    content_type: NotRequired[str]
    due_ms: NotRequired[int]
    expires_ms: NotRequired[int]
    redriven: NotRequired[bool]
    data: NotRequired[Any]
    data_text: NotRequired[str]
    data_b64: NotRequired[str]


GapInfo = TypedDict("GapInfo", {"from": int, "to": int})
"""Stored once, not kept any more; both included."""


class Peek(TypedDict):
    """What is kept of a topic above a seq."""

    messages: list[MessageInfo]
    gaps: list[GapInfo]
    through: int
    """Everything up to here was looked at."""


class EventInfo(TypedDict):
    """One line of the delivery ledger."""

    at_ms: int
    event: str
    group: str
    subject: str
    attempt: int
    detail: str | None


class History(TypedDict):
    """The ledger of one message, oldest first."""

    seq: int
    ledger: Literal["off", "settled", "full"]
    events: list[EventInfo]


class AttemptInfo(TypedDict):
    """How one delivery ended."""

    at_ms: int
    how: str
    subject: str
    error: str | None


class DeadLetterInfo(TypedDict):
    """A dead letter, without body and attempts."""

    id: int
    topic: str
    group: str
    reason: str
    error: str | None
    deliveries: int
    failures: int
    at_ms: int
    message: MessageInfo


class DeadLetterDetail(DeadLetterInfo):
    """A dead letter, with the body in its message and the last attempts."""

    attempts: list[AttemptInfo]


class HeldInfo(TypedDict):
    """A subscription of a connection."""

    sub: str
    topic: str
    group: str
    prefetch: int
    in_flight: int


class ConnectionInfo(TypedDict):
    """A WebSocket that has shown its token."""

    id: str
    subject: str
    ip: str
    opened_at_ms: int
    expires_in_ms: int
    subscriptions: list[HeldInfo]
    tails: int
    refused: int
    in_flight: int
    in_flight_bytes: int
    unsent_bytes: int
    resume_grace_ms: int


class RevocationInfo(TypedDict):
    """One revoked token (`jti`), or all of a subject issued before a second."""

    jti: NotRequired[str]
    subject: NotRequired[str]
    issued_before_s: NotRequired[int]
    expires_at_ms: int
    """When it is forgotten, every token it concerns having expired by itself."""


class Redriven(NamedTuple):
    """What a redrive did."""

    redriven: int
    stopped: str | None
    """What stopped it before the end, as a code such as `topic_full`. The rest is still among the dead letters."""
