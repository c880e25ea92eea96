"""A delivered message in the hands of user code: what it carries, and the verbs that end its lease.

Owns the life of one lease as the user sees it: held, settled or lost. Sends nothing: verbs are noted with the holder
and leave, together with the others of the same turn of the event loop, in one frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from .content import Content
from .errors import AlreadySettled, LeaseLost, RequestTimeout
from .publisher import Waiter
from .wire.decode import DELAY_MS_MAX, ERROR_TEXT_MAX
from .wire.frames import DeliveryLike

_HELD, _SETTLED, _LOST = 0, 1, 2


class Retry(Exception):
    """Raised inside `async with message`: nack it, with this delay and text, and go on. `delay_s`: seconds, at most
    15 minutes; None leaves the back-off to the gateway."""

    def __init__(self, delay_s: float | None = None, error: str | None = None) -> None:
        super().__init__(error or "retry")
        self.delay_s = delay_s
        self.error = error


class Reject(Exception):
    """Raised inside `async with message`: to the dead letters, with this reason, and go on."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or "reject")
        self.reason = reason


class Holder(Protocol):
    """What a message needs of the subscription that holds its lease."""

    topic: str
    request_timeout_s: float
    now: Callable[[], float]
    """The clock of `expires_at`."""

    def ack(self, lease: str) -> None: ...
    def ack_confirmed(self, lease: str, waiter: Waiter, /) -> None: ...
    def nack(self, lease: str, delay_ms: int | None, error: str | None) -> None: ...
    def reject(self, lease: str, error: str | None) -> None: ...
    def release(self, lease: str) -> None: ...
    def extend(self, message: Message) -> None: ...


class Message(Content):
    """One delivery of one message. Settle it exactly once, before `expires_at`:

    * `async with message:` acks on success, nacks on an exception (and lets it out), releases on cancellation;
      `Retry` and `Reject` steer and stay inside; a verb called inside wins;
    * or call one of `ack`, `nack`, `reject`, `release` yourself.

    The verbs return at once and are sent in the next turn of the event loop. A verb raises LeaseLost when the lease is
    gone (the connection was lost, or its time ran out), AlreadySettled when the message was settled before.
    """

    __slots__ = ("_delivery", "_expires_at", "_holder", "_lost_event", "_state")

    def __init__(self, holder: Holder, delivery: DeliveryLike, expires_at: float) -> None:
        self._holder = holder
        self._delivery = delivery
        self._draft = delivery.message
        self._expires_at = expires_at
        self._state = _HELD
        self._lost_event: asyncio.Event | None = None

    # --- what it carries ---------------------------------------------------------------------------------------

    @property
    def topic(self) -> str:
        return self._holder.topic

    @property
    def attempt(self) -> int:
        """1 for the first delivery to this group. A dead letter that was put back begins again at 1."""
        return self._delivery.deliveries

    @property
    def redelivered(self) -> bool:
        return self._delivery.deliveries > 1

    @property
    def lease(self) -> str:
        """The lease's token; opaque, for logs."""
        return self._delivery.lease

    # --- its lease ---------------------------------------------------------------------------------------------

    @property
    def expires_at(self) -> float:
        """When the lease ends, on the clock of `loop.time()` (seconds)."""
        return self._expires_at

    @property
    def settled(self) -> bool:
        return self._state == _SETTLED

    @property
    def lost(self) -> asyncio.Event:
        """Set once the lease is gone: a long handler may stop. Made on first use, as most are never looked at."""
        event = self._lost_event
        if event is None:
            event = self._lost_event = asyncio.Event()
            if self._state == _LOST:
                event.set()
        return event

    def ack(self) -> None:
        """Done: never deliver this again. Not confirmed: an ack that a crash swallows means one more delivery."""
        if not self._is_held():
            self._refuse()
        self._state = _SETTLED
        self._holder.ack(self._delivery.lease)

    async def ack_confirmed(self) -> None:
        """As `ack`, and returns after the gateway committed it. Raises LeaseLost when it did not or cannot be known,
        RequestTimeout after the client's `request_timeout_s`. Cancelled, the ack still stands."""
        if not self._is_held():
            self._refuse()
        self._state = _SETTLED
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holder.ack_confirmed(self._delivery.lease, waiter)
        try:
            async with asyncio.timeout(self._holder.request_timeout_s):
                await waiter
        except TimeoutError:
            raise RequestTimeout("the ack was sent and not confirmed in time") from None

    def nack(self, delay_s: float | None = None, error: str | None = None) -> None:
        """Failed: deliver it again, after the gateway's back-off, or after `delay_s` seconds (at most 15 minutes). The
        failure counts; `error` is kept with the dead letter should it become one."""
        if not self._is_held():
            self._refuse()
        delay_ms = None if delay_s is None else round(delay_s * 1000)
        if delay_ms is not None and not 0 <= delay_ms <= DELAY_MS_MAX:
            raise ValueError(f"delay_s must be 0 to {DELAY_MS_MAX // 1000}")
        self._state = _SETTLED
        self._holder.nack(self._delivery.lease, delay_ms, _clip(error))

    def reject(self, error: str | None = None) -> None:
        """It can never succeed: to the dead letters, with `error` as the reason."""
        if not self._is_held():
            self._refuse()
        self._state = _SETTLED
        self._holder.reject(self._delivery.lease, _clip(error))

    def release(self) -> None:
        """Give it back unworked, to its old position. No failure is counted; this client does not get it again for a
        second."""
        if not self._is_held():
            self._refuse()
        self._state = _SETTLED
        self._holder.release(self._delivery.lease)

    def extend(self) -> None:
        """Hold it for one more ack timeout, from now. `expires_at` changes once it was sent."""
        if not self._is_held():
            self._refuse()
        self._holder.extend(self)

    def _is_held(self) -> bool:
        """Neither settled nor lost; by the clock too, as timers are late where something has blocked the event loop."""
        return self._state == _HELD and self._holder.now() < self._expires_at

    def _refuse(self) -> None:
        if self._state == _SETTLED:
            raise AlreadySettled(f"message {self.seq} of {self.topic} was settled before")
        raise LeaseLost(f"the lease of message {self.seq} of {self.topic} is gone; it will be delivered again")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._state == _SETTLED:
            return isinstance(error, Retry | Reject)
        if error is None:
            self.ack()
        elif isinstance(error, Retry):
            self.nack(error.delay_s, error.error)
            return True
        elif isinstance(error, Reject):
            self.reject(error.reason)
            return True
        elif self._is_held():  # with the lease gone there is nothing to say; the handler's own error goes on
            if isinstance(error, Exception):
                self.nack(error=f"{type(error).__name__}: {error}")
            else:
                self.release()
        return False

    def _lose(self) -> None:
        """The lease is gone, for a reason other than a verb."""
        self._state = _LOST
        if self._lost_event is not None:
            self._lost_event.set()

    def _take_back(self) -> None:
        """The subscription gave it back before user code saw it."""
        self._state = _SETTLED

    def _renew(self, expires_at: float) -> bool:
        """Set a new end of the lease; False when it is not held any more."""
        if self._state != _HELD:
            return False
        self._expires_at = expires_at
        return True

    def __repr__(self) -> str:
        return f"Message(topic={self.topic!r}, seq={self.seq}, id={self.id!r}, attempt={self.attempt})"


# For the subscription that holds the lease; not for users, hence not among the public methods.
lose = Message._lose  # noqa: SLF001 - the other half of this module
take_back = Message._take_back  # noqa: SLF001 - (as above)
renew = Message._renew  # noqa: SLF001 - (as above)


def _clip(error: str | None) -> str | None:
    """An error text as the wire takes it: short, and without the lone surrogates that odd file names put in."""
    return error if error is None else error[:ERROR_TEXT_MAX].encode(errors="replace").decode()
