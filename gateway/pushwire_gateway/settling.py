"""What a client is sent to work on and what it does with it: ack, nack, reject, release, extend.

Owns deliveries, the answers to settlements, and why a socket is not read. Decides nothing about a message:
the core does. Knows no token and no subscription; session.py builds on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pushwire.wire.frames import Ack, Error, Extend, Messages, Nack, Ok, Ref, Reject, Release
from pushwire_storage.base import Group, StoreError

from .clock import to_ms
from .core import model as core
from .outbox import Outbox
from .ports import Link
from .refusal import Refusal

if TYPE_CHECKING:
    from .gateway import Gateway

BUSY, UNSENT, UNCONFIRMED, BEHIND = 1, 2, 4, 8
"""Reasons not to read a socket: publishes are refused, the client does not read, its settlements wait for the disk,
those of all clients together do."""

UNCONFIRMED_MAX = 4096
"""Settlements of one client that wait for their commit before its socket is not read: as many as the largest
transaction has messages. A disk that is full makes them wait for as long as it is."""


class Settler:
    """The half of a session that ends leases."""

    __slots__ = ("_core", "_gateway", "_link", "_paused", "_unconfirmed", "ended", "outbox")

    def __init__(self, gateway: Gateway, link: Link, outbox: Outbox) -> None:
        self._gateway = gateway
        self._link = link
        self.outbox = outbox
        self._core: core.Session | None = None  # set once the client is known
        self._paused = 0  # reasons why this socket is not read
        self._unconfirmed = 0  # settlements with `ref` whose commit is not over
        self.ended = False

    # --- what the engine calls -----------------------------------------------------------------------------------

    def push(self, sub: core.Subscription, deliveries: list[core.Pending], now: float) -> None:
        group: Group = sub.group.handle
        self.outbox.send(Messages(sub.name, group.topic.name, to_ms(sub.ack_timeout_s), deliveries))

    def flush(self) -> None:
        self.outbox.flush()

    # --- answers ------------------------------------------------------------------------------------------------

    def _pause(self, reason: int) -> None:
        self._paused |= reason
        self._link.pause_reading()

    def _resume(self, reason: int) -> None:
        if self._paused & reason:
            self._paused &= ~reason
            if not self._paused:
                self._link.resume_reading()

    def _error(
        self,
        code: str,
        ref: Ref | None,
        *,
        detail: str = "",
        retry_after_ms: int | None = None,
        sub: str | None = None,
        leases: Sequence[str] | None = None,
        final: bool = False,
    ) -> None:
        refusal = Refusal(code, detail, retry_after_ms, final)
        self.outbox.send(Error(code, refusal.message, ref, refusal.retryable, retry_after_ms, sub, leases))

    def on_ack(self, frame: Ack, now: float) -> None:
        held, core_ = self._core, self._gateway.engine.core
        if frame.through is not None:
            stale: Sequence[str] = [frame.through] if held is None else core_.ack_through(held, frame.through, now)
        else:
            stale = frame.leases if held is None else core_.ack(held, frame.leases, now)
        self._confirm(frame.ref, stale)

    def on_nack(self, frame: Nack, now: float) -> None:
        delay_s = None if frame.delay_ms is None else frame.delay_ms / 1000
        held, nack = self._core, self._gateway.engine.core.nack
        stale = frame.leases if held is None else nack(held, frame.leases, delay_s, frame.error, now)
        self._confirm(frame.ref, stale)

    def on_reject(self, frame: Reject, now: float) -> None:
        held, reject = self._core, self._gateway.engine.core.reject
        stale = frame.leases if held is None else reject(held, frame.leases, frame.error, now)
        self._confirm(frame.ref, stale)

    def on_release(self, frame: Release, now: float) -> None:
        held, release = self._core, self._gateway.engine.core.release
        stale = frame.leases if held is None else release(held, frame.leases, now)
        self._confirm(frame.ref, stale)

    def on_extend(self, frame: Extend, now: float) -> None:
        stale: Sequence[str] = frame.leases
        deadline = now
        if self._core is not None:
            deadline, stale = self._gateway.engine.core.extend(self._core, frame.leases, now)
        if stale:
            self._error("stale_lease", frame.ref, leases=stale)
        elif frame.ref is not None:
            self.outbox.send(Ok(frame.ref, expires_in_ms=max(0, to_ms(deadline - now))))

    def _relieved(self) -> None:
        """The batcher has room again."""
        self._resume(BUSY)
        self._resume(BEHIND)

    def _rest(self, reason: int) -> None:
        """Read nothing until the batcher has room again."""
        self._pause(reason)
        self._gateway.engine.batcher.when_relieved(self._relieved)

    def _confirm(self, ref: Ref | None, stale: Sequence[str]) -> None:
        """Without ref: only what had no effect is reported, at once. With ref: one reply, after the COMMIT."""
        if self._gateway.engine.batcher.behind:
            self._rest(BEHIND)
        if ref is None:
            if stale:
                self._error("stale_lease", None, leases=stale)
            return

        self._unconfirmed += 1
        if self._unconfirmed > UNCONFIRMED_MAX:
            self._pause(UNCONFIRMED)

        def committed(error: StoreError | None) -> None:
            if self.ended:
                return
            self._unconfirmed -= 1
            if self._unconfirmed <= UNCONFIRMED_MAX // 2:
                self._resume(UNCONFIRMED)
            if error is not None:
                self._error(error.code, ref)
            elif stale:
                self._error("stale_lease", ref, leases=stale)
            else:
                self.outbox.send(Ok(ref))
            self._gateway.engine.touch(self)

        self._gateway.engine.after_commit(committed)
