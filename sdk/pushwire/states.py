"""What a client is doing, and the notes its state machine leaves for the shell around it.

Data only: the session makes these, the client acts on them or shows them to the user.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from .backoff import Reason


class State(enum.Enum):
    """What the client is doing."""

    NEW = "new"
    CONNECTING = "connecting"
    """Never connected so far."""
    CONNECTED = "connected"
    """Welcomed by the gateway."""
    RECONNECTING = "reconnecting"
    """The connection was lost; waiting for the next attempt, or trying."""
    DRAINING = "draining"
    """Takes no new messages, finishes what it has."""
    CLOSED = "closed"


class StateChange(NamedTuple):
    """One change of state."""

    state: State
    previous: State
    error: Exception | None = None
    """Why, where the change was not asked for."""
    retry_in_s: float | None = None
    """Seconds to the next attempt to connect."""


class WantToken(NamedTuple):
    """The shell is to fetch a token and hand it to the session."""

    reason: Reason


class Drop(NamedTuple):
    """The shell is to end the connection without a handshake: the other side is not there."""

    why: str


class Note(NamedTuple):
    """For the log. `level`: a level of the standard library's logging."""

    level: int
    text: str


Effect = StateChange | WantToken | Drop | Note
