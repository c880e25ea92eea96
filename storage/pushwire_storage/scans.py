"""What the loop tells and asks the writer, and what it answers. Plain records; they decide nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from .base import Group, Message
from .planning import TopicBook

SCAN_MESSAGES_MAX = 512
"""Messages per scan: about 2 ms of the writer's time, which the next batch may have to wait for."""
SCAN_BYTES_MAX = 1 << 20
"""Bytes per scan, but at least one message: large messages beat any count."""

Mark = tuple[int, int]
"""(due_ms, seq): the order in which retries of a lane are taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What a lane wants read."""

    lane: object
    """The loop's; the writer must not touch it."""
    group: Group
    priority: int
    cursor: int
    horizon: Mark
    limit: int
    now_ms: int
    due_until_ms: int | None = None
    """None: the backlog above `cursor`, retries above `horizon` left out. Else: `waiting`, then retries above the
    horizon and due by then, with seq up to the cursor."""
    waiting: Sequence[int] = ()
    key: str | None = None
    """Given: messages of that key above `cursor` up to `through`, retries above `horizon` left out."""
    through: int = 0


@dataclass(slots=True)
class Scanned:
    """What a scan found: messages in the order in which they are to be taken."""

    messages: list[Message] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)
    """(deliveries, failures) per message; empty when all are zero."""
    expired: list[Message] = field(default_factory=list)
    """Come across, and not to be given to anybody."""
    blocked: list[tuple[int, str]] = field(default_factory=list)
    """Backlog: (seq, key) of what was passed over because it waits for its retry."""
    cursor: int = 0
    """Backlog, key: seq up to which everything was looked at."""
    horizon: Mark = (0, 0)
    """Due scan: up to where retries were looked at."""
    marks: list[Mark] = field(default_factory=list)
    """Due scan: the mark of each message."""
    from_waiting: int = 0
    """Due scan: so many of the messages are from `Scan.waiting`,"""
    waiting_seen: int = 0
    """of which so many were looked for."""
    exhausted: bool = False
    """There is nothing more at present."""
    next_due_ms: int | None = None
    """Due of the first retry of the lane above the horizon."""
    failed: bool = False
    """The scan ended early on an error; the lane is looked at again after the next commit or `want`."""
    books: Sequence[TopicBook] = ()
    """Counters changed by moving damaged messages to the dead letters."""


@dataclass(frozen=True, slots=True)
class Passing:
    """What the writer has to know of the loop when a batch lets time pass."""

    open_lanes: Collection[int] = ()
    """Group lanes that may have passed the place of a message that falls due."""
    look_again: bool = False
    """Expired messages that were in the gateway's hands may be the store's again."""
