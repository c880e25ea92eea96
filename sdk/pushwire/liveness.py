"""Whether the other side is still there: silence, one question, then the verdict (PROTOCOL.md §3).

Owns the times of one connection. The gateway pings; a client only watches. Pure: `now` is handed in.
"""

from __future__ import annotations

from typing import Literal

INFINITY = float("inf")


class Liveness:
    """Watches one connection at a time."""

    def __init__(self) -> None:
        self._heard_at = 0.0
        self._asked_at = INFINITY
        self._silence_s = self._pong_s = INFINITY
        self._welcome_by = INFINITY

    def opened(self, now: float, welcome_timeout_s: float) -> None:
        """A fresh connection: the gateway speaks first, and within this time."""
        self._heard_at = now
        self._asked_at = self._silence_s = self._pong_s = INFINITY
        self._welcome_by = now + welcome_timeout_s

    def welcomed(self, silence_s: float, pong_s: float) -> None:
        """The gateway's own rhythm: so long a silence is odd; so long may the answer to a question take. 0: no rule."""
        self._welcome_by = INFINITY
        self._silence_s = silence_s or INFINITY
        self._pong_s = pong_s or silence_s

    def ended(self) -> None:
        self._welcome_by = self._silence_s = self._asked_at = INFINITY

    def heard(self, at: float) -> None:
        if at > self._heard_at:
            self._heard_at = at
            self._asked_at = INFINITY

    def check(self, now: float) -> Literal["", "ask", "no welcome in time", "the gateway has gone silent"]:
        """What to do now: nothing, send a ping, or give the connection up for this reason."""
        if now >= self._welcome_by:
            return "no welcome in time"
        if now >= self._asked_at + self._pong_s:
            return "the gateway has gone silent"
        if self._asked_at == INFINITY and now >= self._heard_at + self._silence_s:
            self._asked_at = now
            return "ask"
        return ""

    def due_at(self) -> float:
        """When `check` may have something to say."""
        if self._asked_at != INFINITY:
            return self._asked_at + self._pong_s
        return min(self._welcome_by, self._heard_at + self._silence_s)
