"""Whether a lost connection's leases can still be reclaimed: the secret of the session, and how long it is good.

Owns the secret and the time. Asks and acts through the session. Pure: `now` is handed in.
"""

from __future__ import annotations

from .liveness import INFINITY
from .wire.frames import Auth, Goodbye

STILL_OURS = frozenset({4000, 4001})
"""Closes by the gateway after which the session may be resumed: it lost us, and did not send us away."""


class Resumption:
    """One client's session, over its connections. `grace_s`: how long the leases are to outlive a connection; 0: not
    at all."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.secret: str | None = None
        """Of the session that holds, or held, the leases."""
        self.until = INFINITY
        """When what was held at the loss of the connection is gone; not set while nothing is held over."""
        self._token: str | None = None

    def opened(self, token: str | None) -> None:
        """A connection was authenticated by this token, which has to be shown once more to resume a session on it."""
        self._token = token

    def request(self, ref: int) -> Auth:
        """Take over the former session, if there is one, and keep the leases for the grace from now on."""
        assert self._token is not None  # `possible` said so
        return Auth(self._token, ref, self.secret, round(self.grace_s * 1000))

    @property
    def possible(self) -> bool:
        return self.grace_s > 0 and self._token is not None

    def lost(self, goodbye: Goodbye | None, now: float) -> bool:
        """The connection is gone. Whether its leases may be held over; counted from here, which is never later than
        the gateway counts from, but for what it noticed first: then resuming fails."""
        left = goodbye is not None and goodbye.code not in STILL_OURS
        if self.secret is None or left:
            self.over()
            return False
        self.until = min(self.until, now + self.grace_s)
        return True

    def answered(self, secret: str) -> None:
        """The gateway has said which session this connection serves."""
        self.secret = secret
        self.until = INFINITY

    def over(self) -> None:
        """Nothing is held over any more."""
        self.until = INFINITY
