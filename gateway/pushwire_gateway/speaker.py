"""Who a client is, and what it is told: the part of a session that every operation needs.

Owns the principal in force, the session its leases belong to, replies, and the count of faults. Knows no operation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pushwire.wire.frames import Error, Flow, Ref, Unsubscribe

from .core import model as core
from .following import Following
from .outbox import Outbox
from .ports import Link
from .refusal import Refusal
from .rights import Principal
from .sessions import Held

if TYPE_CHECKING:
    from .gateway import Gateway

MINUTE_S = 60.0

BUSY, UNSENT, UNCONFIRMED, BEHIND = 1, 2, 4, 8
"""Reasons not to read a socket: publishes are refused, the client does not read, its settlements wait for the disk,
those of all clients together do."""


class Speaker:
    """One WebSocket client, as far as it can be spoken to."""

    __slots__ = (
        "_coming",
        "_expired",
        "_faults",
        "_following",
        "_gateway",
        "_held",
        "_link",
        "_made",
        "_paused",
        "_principal",
        "_unconfirmed",
        "ended",
        "id",
        "outbox",
        "refused",
    )

    def __init__(self, gateway: Gateway, link: Link, outbox: Outbox, principal: Principal | None, id: str) -> None:
        self._gateway = gateway
        self._link = link
        self.outbox = outbox
        self.id = id
        """Of the connection, for people; no secret."""
        self._principal = principal
        self._held: Held | None = None
        self.refused = 0
        """Publish operations of this connection that were not stored, for whatever reason."""
        self._expired = False
        self._faults: deque[float] | None = None
        # Subscriptions that wait for the store, with what was asked of them meanwhile.
        self._coming: dict[str, list[Unsubscribe | Flow]] = {}
        self._made = 0  # names made for subscriptions
        self._paused = 0  # reasons why this socket is not read
        self._unconfirmed = 0  # settlements with `ref` whose commit is not over
        self._following = Following(gateway, outbox, partial(_tell_of_end, outbox))
        self.ended = False

    @abstractmethod
    def _end(self, code: int, retry_after_ms: int | None = None) -> None:
        """Say goodbye and close."""

    @property
    def _core(self) -> core.Session | None:
        return None if self._held is None else self._held.core

    # --- whether its socket is read ----------------------------------------------------------------------------

    def _pause(self, reason: int) -> None:
        self._paused |= reason
        self._link.pause_reading()

    def _resume(self, reason: int) -> None:
        if self._paused & reason:
            self._paused &= ~reason
            if not self._paused:
                self._link.resume_reading()

    def _relieved(self) -> None:
        """The batcher has room again."""
        self._resume(BUSY)
        self._resume(BEHIND)

    def _rest(self, reason: int) -> None:
        """Read nothing until the batcher has room again."""
        self._pause(reason)
        self._gateway.engine.batcher.when_relieved(self._relieved)

    # --- what it is told ---------------------------------------------------------------------------------------

    def _error(
        self,
        code: str,
        ref: Ref | None,
        *,
        detail: str = "",
        sub: str | None = None,
        leases: Sequence[str] | None = None,
    ) -> None:
        refusal = Refusal(code, detail)
        self.outbox.send(Error(code, refusal.message, ref, refusal.retryable, None, sub, leases))

    def _refuse(self, refusal: Refusal, ref: Ref | None) -> None:
        self.outbox.send(Error(refusal.code, refusal.message, ref, refusal.retryable, refusal.retry_after_ms))

    def _trouble(self, code: str, name: str) -> None:
        """A subscription has ended, and not by the client's wish."""
        _tell_of_end(self.outbox, code, name)

    def _fault(self, now: float) -> None:
        """Malformed or foreign operations: a few are a bug, many are an attack."""
        faults = self._faults
        if faults is None:
            faults = self._faults = deque()
        while faults and faults[0] <= now - MINUTE_S:
            faults.popleft()
        faults.append(now)
        if len(faults) > self._gateway.settings.malformed_per_minute:
            self._end(4400)

    def _known(self, ref: Ref | None) -> Principal | None:
        """The client's principal, or an error reply."""
        if self._principal is None or self._expired:
            self._error("unauthorized", ref)
            return None
        return self._principal

    def _controls_allowed(self, ref: Ref | None) -> bool:
        refusal = self._gateway.control(self.id)
        if refusal is not None:
            self._refuse(refusal, ref)
        return refusal is None

    def _new_name(self, asked: str | None, ref: Ref | None) -> str | None:
        """The name of a subscription to be, or an error reply."""
        assert self._held is not None  # the principal is known
        subs = self._held.core.subs
        if len(subs) + len(self._following) + len(self._coming) >= self._gateway.settings.subscriptions_per_connection:
            self._error("too_many_subscriptions", ref)
            return None
        name = asked
        while name is None or (asked is None and self._taken(name)):
            name = f"s{self._made}"
            self._made += 1
        if self._taken(name):
            self._error("already_subscribed", ref)
            return None
        return name

    def _taken(self, name: str) -> bool:
        assert self._held is not None  # as above
        return name in self._held.core.subs or name in self._following or name in self._coming


def _tell_of_end(outbox: Outbox, code: str, name: str) -> None:
    """Of a subscription, and not by the client's wish. Knows no session: what a session holds must not hold it, or each
    that has ended stays in memory until a collection."""
    refusal = Refusal(code)
    outbox.send(Error(code, refusal.message, None, refusal.retryable, None, name, None))
