"""What a user may ask of a subscription or a tail, checked before anything is sent.

Owns the SDK's side of PROTOCOL.md §5: places to begin, windows, times, names. Raises ValueError for a mistake of the
program; sends nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from .drafts import check_topic, instant_ms
from .wire.codec import INTEGER_MAX
from .wire.decode import (
    ACK_TIMEOUT_MS_MAX,
    ACK_TIMEOUT_MS_MIN,
    EPOCH_CHARS_MAX,
    INACTIVE_TTL_MS_MAX,
    INACTIVE_TTL_MS_MIN,
    PREFETCH_MAX,
    RESUME_GRACE_MS_MAX,
)
from .wire.frames import NAME, STATS_TOPIC
from .wire.frames import Start as WireStart

Start = Literal["earliest", "new"] | int | datetime
"""A place in a topic: what is kept from the beginning; only what comes; a seq (the first to get); or a time with a zone
(the first published at or after it)."""


def wire_start(name: str, start: Start) -> WireStart:
    """The place as the wire has it."""
    if isinstance(start, datetime):
        start_ms = instant_ms(start)
        if start_ms < 1:
            raise ValueError(f"{name} is after 1970")
        return -start_ms
    if isinstance(start, str) and start in ("earliest", "new"):
        return start
    if type(start) is int and 1 <= start <= INTEGER_MAX:
        return start
    raise ValueError(f'{name} is "earliest", "new", a seq from 1, or a datetime with a zone')


def check_name(what: str, name: str) -> str:
    """A name of the wire."""
    if not NAME.fullmatch(name):
        raise ValueError(f"a {what} is 1 to 255 of A-Z a-z 0-9 _ . : -, but not . or ..")
    return name


def check_prefetch(prefetch: int | None) -> int | None:
    """A window, in messages."""
    if prefetch is not None and not 1 <= prefetch <= PREFETCH_MAX:
        raise ValueError(f"prefetch is 1 to {PREFETCH_MAX}")
    return prefetch


def ack_timeout_ms(seconds: float | None) -> int | None:
    """An ack timeout as the wire has it."""
    return _milliseconds("ack_timeout_s", seconds, ACK_TIMEOUT_MS_MIN, ACK_TIMEOUT_MS_MAX)


def inactive_ttl_ms(seconds: float | None) -> int | None:
    """How long a group outlives its last member, as the wire has it."""
    return _milliseconds("inactive_ttl_s", seconds, INACTIVE_TTL_MS_MIN, INACTIVE_TTL_MS_MAX)


def check_private(private: bool, client_id: str | None) -> str | None:
    """The client id of a private group; None for a shared one."""
    if private != (client_id is not None):
        raise ValueError("private and client_id go together: the group belongs to this subject and that client")
    return None if client_id is None else check_name("client_id", client_id)


def check_resume_grace(seconds: float) -> float:
    """How long leases may outlive their connection."""
    if not 0 <= seconds * 1000 <= RESUME_GRACE_MS_MAX:
        raise ValueError(f"resume_grace_s is 0 to {RESUME_GRACE_MS_MAX // 1000}")
    return seconds


def check_tail(topic: str, from_: Start | None, epoch: str | None, after_seq: int | None) -> WireStart:
    """Where a tail begins, unless it goes on at `epoch` and `after_seq`. Raises PublishError for a topic that is none,
    as everything that names a topic does."""
    if topic != STATS_TOPIC:
        check_topic(topic)
    if (epoch is None) != (after_seq is None):
        raise ValueError("epoch and after_seq go together")
    if epoch is None or after_seq is None:
        return wire_start("from_", "new" if from_ is None else from_)
    if from_ is not None:
        raise ValueError("a tail begins at from_, or goes on at epoch and after_seq")
    if not (epoch and epoch.isascii() and len(epoch) <= EPOCH_CHARS_MAX):
        raise ValueError(f"an epoch is 1 to {EPOCH_CHARS_MAX} ASCII characters, as a tail's position says")
    if not (type(after_seq) is int and 0 <= after_seq <= INTEGER_MAX):
        raise ValueError("after_seq is a seq, or 0")
    return "new"


def _milliseconds(name: str, seconds: float | None, low_ms: int, high_ms: int) -> int | None:
    if seconds is None:
        return None
    if not low_ms <= seconds * 1000 <= high_ms:
        raise ValueError(f"{name} is {low_ms / 1000} to {high_ms // 1000}")
    return round(seconds * 1000)
