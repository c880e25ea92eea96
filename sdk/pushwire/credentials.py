"""The token of a live connection: when a fresh one is wanted, and what its refusal means.

Owns refresh; never sees how tokens are made, and never logs one. Pure: `now` is handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from .backoff import Reason
from .errors import AuthError, PushwireError, from_reply
from .exchange import Exchange
from .liveness import INFINITY
from .states import Effect, Note, WantToken
from .wire.frames import Auth, Error, Ok

REFRESH_AT = 0.8
"""Of a token's life: late enough to use it, early enough for a few tries."""
REFRESH_RETRY_S_MIN = 1.0
"""Between two tokens asked for, so that a gateway that refuses them all is not a busy loop."""


def final_error(frame: Error) -> PushwireError | None:
    """The error of an answer to `auth` that would come each time. A token that is not accepted is none: another one may
    be (PROTOCOL.md §1)."""
    return None if frame.retryable or frame.code == "unauthorized" else from_reply(frame, AuthError)


class Credentials:
    """Keeps one client authorised."""

    def __init__(
        self,
        exchange: Exchange,
        effects: list[Effect],
        on_renewed: Callable[[], None],
        on_final: Callable[[PushwireError, float], None],
        *,
        refreshable: bool,
    ) -> None:
        self._exchange = exchange
        self._effects = effects
        self._on_renewed = on_renewed
        self._on_final = on_final
        self.refreshable = refreshable
        """Whether asking for another token can give another one."""
        self.authorised = False
        self._asking = False  # the shell is fetching a token
        self._asked_at = -INFINITY
        self._ends_at = INFINITY

    def welcomed(self, expires_in_ms: int | None, now: float) -> None:
        self.authorised = True
        self._asking = False
        self._ends_at = INFINITY
        if expires_in_ms and self.refreshable:
            self._ends_at = now + expires_in_ms / 1000
            self._exchange.at(now + expires_in_ms / 1000 * REFRESH_AT, partial(self._want, "expiring"))

    def lost(self) -> None:
        self.authorised = self._asking = False

    def refused(self, now: float) -> None:
        """The token ended before the refresh: a fresh one may still save the connection. What needs it waits."""
        self.authorised = False
        self._want("rejected", now)

    def renew(self, token: str) -> None:
        """The token that was wanted. Ignored when the connection for which it was wanted is gone."""
        if self._asking and self._exchange.connected:
            self._exchange.request(lambda ref: Auth(token, ref), self._answered)
        self._asking = False

    def none(self, now: float) -> None:
        """No token could be had now. Asked again in half the time that is left."""
        self._asking = False
        if self._exchange.connected:
            left_s = self._ends_at - now
            wait_s = max(REFRESH_RETRY_S_MIN, left_s / 2 if left_s < INFINITY else 0.0)
            self._exchange.at(now + wait_s, partial(self._want, "expiring"))

    def _want(self, reason: Reason, now: float) -> None:
        if self._asking or not self.refreshable:
            return
        if now < self._asked_at + REFRESH_RETRY_S_MIN:
            self._exchange.at(self._asked_at + REFRESH_RETRY_S_MIN, partial(self._want, reason))
            return
        self._asking = True
        self._asked_at = now
        self._effects.append(WantToken(reason))

    def _answered(self, frame: Ok | Error | None, now: float) -> None:
        if isinstance(frame, Ok):
            self.welcomed(frame.expires_in_ms, now)
            self._on_renewed()
        elif frame is not None and (error := final_error(frame)) is not None:
            self._on_final(error, now)
        elif frame is not None:
            # The old token may still have time. When it has none, the gateway closes, and the reconnect decides.
            self._effects.append(Note(logging.WARNING, f"the token could not be refreshed: {frame.code}"))
            self._exchange.at(self._exchange.retry_at(frame, now), partial(self._want, "rejected"))
