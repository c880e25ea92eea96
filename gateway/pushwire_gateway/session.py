"""Protocol state of one client: frames in, checks, engine; answers out through its outbox.

Owns who the client is, what it may do and when its token ends. Checks rights before limits and both before the
engine, never after the database. Knows no JSON and no socket: the codec and the connection do.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pushwire.wire.codes import CLOSES, ERRORS
from pushwire.wire.frames import (
    Ack,
    Auth,
    ClientFrame,
    Error,
    Extend,
    Flow,
    Goodbye,
    Malformed,
    Nack,
    Ok,
    Ping,
    Pong,
    Publish,
    Ref,
    Reject,
    Release,
    Subscribe,
    Unsubscribe,
    Welcome,
)
from pushwire_storage.base import Group

from .auth import Unauthorized
from .clock import to_ms
from .core import model as core
from .outbox import Outbox
from .ports import Link
from .refusal import Refusal
from .rights import Principal
from .settling import BUSY, UNSENT, Settler

if TYPE_CHECKING:
    from .gateway import Gateway

MINUTE_S = 60.0
SERVER = "pushwire/0.1"
"""Shown in `welcome`: enough to work around a version, not enough to pick an exploit."""


class Session(Settler):
    """One WebSocket client."""

    __slots__ = (
        "_auth_deadline",
        "_expired",
        "_expires_at",
        "_faults",
        "_heard_at",
        "_pinged_at",
        "_principal",
        "_seat",
        "_subs_coming",
        "_subs_named",
        "id",
    )

    def __init__(self, gateway: Gateway, link: Link, outbox: Outbox, principal: Principal | None, now: float) -> None:
        super().__init__(gateway, link, outbox)
        settings = gateway.settings
        self.id = f"{settings.node}.{secrets.token_urlsafe(16)}"
        self._principal = principal
        self._seat: Any = None  # this connection's place among those of its subject
        self._expires_at = float("inf")
        self._expired = False
        self._auth_deadline = now + settings.auth_timeout_s
        self._heard_at = now
        self._pinged_at = 0.0  # 0: no ping is waiting for an answer
        self._faults: deque[float] | None = None
        self._subs_named = 0  # names made for subscriptions
        # Subscriptions whose topic or group is being created, with what was asked of them meanwhile.
        self._subs_coming: dict[str, list[Unsubscribe | Flow]] = {}

    # --- what the connection calls -----------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """The WebSocket is open; with a token from the handshake the client is known already."""
        if self._principal is not None:
            self._admit(self._principal, None, now)
        self._gateway.engine.touch(self)
        self._gateway.engine.turn()

    def receive(self, frames: Sequence[ClientFrame], now: float) -> None:
        """Operations in the order in which they were sent."""
        self._heard_at = now
        self._pinged_at = 0.0
        for frame in frames:
            if self.ended:
                break
            _HANDLERS[type(frame)](self, frame, now)
            if self._principal is None and type(frame) not in _BEFORE_AUTH:
                self._fault(now)  # has been answered like any other; but a stranger is not answered for long
        engine = self._gateway.engine
        engine.touch(self)
        engine.turn()
        if self.outbox.above_high:
            self._pause(UNSENT)  # it asks for more than it reads

    def heard(self, now: float) -> None:
        """Any bytes are a sign of life: a large message on a slow line takes longer than a ping may."""
        self._heard_at = now
        self._pinged_at = 0.0

    def check(self, now: float) -> None:
        """Called a few times a second: everything that happens because time passes."""
        if self.ended:
            return
        settings = self._gateway.settings
        if self._principal is None or self._expired:
            if now >= self._auth_deadline:
                self._end(4401 if self._expired else 4408)
                self._gateway.engine.turn()
                return
        elif now >= self._expires_at:
            self._expire(now)
        if self._paused & ~UNSENT:
            self._heard_at = now  # it is we who do not listen
            self._pinged_at = 0.0
        if self._pinged_at:
            if now - self._pinged_at >= settings.pong_timeout_s:
                self._end(4001)
                self._gateway.engine.turn()
        elif now - self._heard_at >= settings.ping_interval_s:
            self._pinged_at = now
            self.outbox.send(Ping())
            self.outbox.flush()

    def writable(self, now: float) -> None:
        """The transport has drained."""
        self.outbox.flush()
        if self.outbox.below_low:
            self._resume(UNSENT)

    def closed(self, now: float) -> None:
        """The connection is gone: its leases go back at once."""
        self._leave(drained=False)
        self._gateway.engine.turn()

    # --- what the engine and the server call -------------------------------------------------------------------

    def drain(self, retry_after_ms: int) -> None:
        """The gateway is going away: nothing is handed out any more, and what was counts for nothing."""
        self._leave(drained=True)
        self._end(1012, retry_after_ms)

    def kick(self, code: int) -> None:
        """End the connection for a reason of ours."""
        self._leave(drained=False)
        self._end(code)

    # --- who the client is -------------------------------------------------------------------------------------

    def _admit(self, principal: Principal, ref: Ref | None, now: float) -> None:
        if self._gateway.draining:  # came in before, shows its token only now: nothing is handed out any more
            self._end(1012)
            return
        settings = self._gateway.settings
        limit = principal.limits.connections or settings.connections_per_subject
        self._seat = self._gateway.caps.take_subject(
            principal.tenant, principal.subject, min(limit, settings.connections_per_subject)
        )
        if self._seat is None:
            self._error("too_many_connections", ref, retry_after_ms=1000)
            self._end(4429)
            return
        self._principal = principal
        self._expires_at = principal.valid_until
        prefix = f"{settings.node}.{secrets.token_urlsafe(12)}"
        self._core = core.Session(self, prefix, settings.in_flight_bytes_max)
        self._link.authenticated()
        self._gateway.sessions.add(self)
        self.outbox.send(
            Welcome(
                session=self.id,
                server=SERVER,
                epoch=self._gateway.engine.store.epoch,
                heartbeat_ms=int(settings.ping_interval_s * 1000),
                pong_timeout_ms=int(settings.pong_timeout_s * 1000),
                expires_in_ms=self._expires_in_ms(now),
                limits=self._gateway.announced_limits(principal),
            )
        )
        if ref is not None:
            self.outbox.send(Ok(ref, expires_in_ms=self._expires_in_ms(now)))

    def _expires_in_ms(self, now: float) -> int:
        return max(0, to_ms(self._expires_at - now))

    def on_auth(self, frame: Auth, now: float) -> None:
        if not self._controls_allowed(frame.ref):  # first: a signature is by far the dearest thing to ask for
            return
        try:
            principal = self._gateway.verifier.verify(frame.token, now)
        except Unauthorized:
            self._error("unauthorized", frame.ref)
            if self._principal is None or self._expired:
                self._end(4401)
            return
        known = self._principal
        if known is None:
            self._admit(principal, frame.ref, now)
        elif (principal.tenant, principal.subject) != (known.tenant, known.subject):
            self._error("forbidden", frame.ref, detail="a refresh must name the same subject and tenant")
            self._fault(now)
        else:
            self._principal = principal
            self._expires_at = principal.valid_until
            self._expired = False
            self._drop_forbidden(principal)
            self.outbox.send(Ok(frame.ref, expires_in_ms=self._expires_in_ms(now)))

    def _drop_forbidden(self, principal: Principal) -> None:
        """Subscriptions that the new token no longer allows end."""
        assert self._core is not None  # set when the principal was
        lost = []
        for sub in self._core.subs.values():
            group: Group = sub.group.handle
            if not principal.may("consume", group.topic.name, group.name):
                lost.append(sub)
        self._end_subscriptions(lost, "forbidden")

    def _expire(self, now: float) -> None:
        """The token ended: delivery stops and the leases go back, now. A fresh token may still save the connection."""
        assert self._core is not None
        self._expired = True
        self._auth_deadline = now + self._gateway.settings.auth_timeout_s
        self._end_subscriptions(list(self._core.subs.values()), "unauthorized")
        self._gateway.engine.touch(self)
        self._gateway.engine.turn()

    def _end_subscriptions(self, subs: list[core.Subscription], code: str) -> None:
        if subs and self._core is not None:
            self._gateway.engine.unsubscribe(self._core, subs)
            for sub in subs:
                self._error(code, None, sub=sub.name)

    def _leave(self, *, drained: bool) -> None:
        if self._core is not None:
            self._gateway.engine.disconnect(self._core, drained=drained)
        if self._seat is not None:
            self._seat.release()
            self._seat = None
        self._gateway.sessions.discard(self)
        self._gateway.engine.batcher.forget_relief(self._relieved)
        self.ended = True

    def _end(self, code: int, retry_after_ms: int | None = None) -> None:
        """Say goodbye and close."""
        self._leave(drained=False)
        close = CLOSES[code]
        self.outbox.send(Goodbye(code, close.reason, close.reconnect, retry_after_ms))
        self.outbox.flush()
        self._link.close(code, close.reason)

    # --- answers -----------------------------------------------------------------------------------------------

    def _refuse(self, refusal: Refusal, ref: Ref | None) -> None:
        self.outbox.send(Error(refusal.code, refusal.message, ref, refusal.retryable, refusal.retry_after_ms))

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

    # --- operations --------------------------------------------------------------------------------------------

    def on_publish(self, frame: Publish, now: float) -> None:
        principal = self._known(frame.ref)
        if principal is None:
            return
        ref = frame.ref

        def done(refusal: Refusal | None) -> None:
            if self.ended:
                return
            if refusal is None:
                self.outbox.send(Ok(ref, frame.messages))
            else:
                self._refuse(refusal, ref)
            self._gateway.engine.touch(self)

        refusal = self._gateway.publish(principal, frame.topic, frame.messages, frame.size_bytes, done)
        if refusal is not None:
            self._refuse(refusal, ref)
            if refusal.code == "forbidden":
                self._fault(now)
            elif refusal.code == "busy":
                self._rest(BUSY)

    def on_subscribe(self, frame: Subscribe, now: float) -> None:
        principal = self._known(frame.ref)
        if principal is None or self._core is None or not self._controls_allowed(frame.ref):
            return
        settings = self._gateway.settings
        name = frame.sub or self._free_name(self._core)
        if name in self._core.subs or name in self._subs_coming:
            self._error("already_subscribed", frame.ref)
            return
        if len(self._core.subs) + len(self._subs_coming) >= settings.subscriptions_per_connection:
            self._error("too_many_subscriptions", frame.ref)
            return
        if not principal.may("consume", frame.topic, frame.group):
            self._error("forbidden", frame.ref)
            self._fault(now)
            return
        self._subs_coming[name] = []

        def ready(group: Group | None, refusal: Refusal | None) -> None:
            meanwhile = self._subs_coming.pop(name)
            if self.ended:
                return
            if group is None:
                self._refuse(refusal or Refusal("internal"), frame.ref)
            else:
                self._join(group, name, frame)
            for later in meanwhile:
                self._change(later, self._gateway.clock.now())
            self._gateway.engine.touch(self)

        self._gateway.find_group(principal, frame.topic, frame.group, frame.start, ready)

    def _join(self, group: Group, name: str, frame: Subscribe) -> None:
        settings = self._gateway.settings
        principal = self._known(frame.ref)
        if principal is None or self._core is None:
            return
        if not principal.may("consume", group.topic.name, group.name):  # a new token came while it was created
            self._error("forbidden", frame.ref)
            return
        prefetch_max = min(settings.prefetch_max, principal.limits.prefetch or settings.prefetch_max)
        prefetch = min(settings.prefetch if frame.prefetch is None else frame.prefetch, prefetch_max)
        ack_timeout_s = settings.ack_timeout_s if frame.ack_timeout_ms is None else frame.ack_timeout_ms / 1000
        ack_timeout_s = min(ack_timeout_s, settings.ack_timeout_s_max)
        self.outbox.send(Ok(frame.ref, sub=name, prefetch=prefetch, ack_timeout_ms=to_ms(ack_timeout_s)))
        self._gateway.engine.subscribe(self._core, name, group, prefetch, ack_timeout_s)

    def _free_name(self, held: core.Session) -> str:
        """A name for a subscription that the client gave none."""
        while True:
            self._subs_named += 1
            name = f"s{self._subs_named}"
            if name not in held.subs and name not in self._subs_coming:
                return name

    def on_unsubscribe(self, frame: Unsubscribe, now: float) -> None:
        self._on_change(frame, now)

    def on_flow(self, frame: Flow, now: float) -> None:
        self._on_change(frame, now)

    def _on_change(self, frame: Unsubscribe | Flow, now: float) -> None:
        if self._known(frame.ref) is None or not self._controls_allowed(frame.ref):
            return
        coming = self._subs_coming.get(frame.sub)
        if coming is None:
            self._change(frame, now)
        else:  # asked in the right order, so it is also done in that
            coming.append(frame)

    def _change(self, frame: Unsubscribe | Flow, now: float) -> None:
        principal = self._known(frame.ref)
        sub = None if self._core is None else self._core.subs.get(frame.sub)
        if principal is None:
            return
        if sub is None:
            self._error("unknown_subscription", frame.ref)
            return
        prefetch = None
        if type(frame) is Flow:
            prefetch_max = self._gateway.settings.prefetch_max
            prefetch = min(frame.prefetch, prefetch_max, principal.limits.prefetch or prefetch_max)
            self._gateway.engine.core.flow(sub, prefetch, now)
        else:
            self._gateway.engine.unsubscribe(sub.session, [sub])
        if frame.ref is not None:
            self.outbox.send(Ok(frame.ref, prefetch=prefetch))

    def on_ping(self, frame: Ping, now: float) -> None:
        self.outbox.send(Pong(frame.ref))

    def on_pong(self, frame: Pong, now: float) -> None:
        """Anything heard is a sign of life; `receive` has noted it."""

    def on_malformed(self, frame: Malformed, now: float) -> None:
        assert frame.code in ERRORS
        self._error(frame.code, frame.ref, detail=frame.message)
        self._fault(now)


_BEFORE_AUTH = frozenset({Auth, Malformed})
"""What a client may say before it is known, and what `_fault` counts anyway."""

_HANDLERS: dict[type, Any] = {
    Ack: Session.on_ack,
    Publish: Session.on_publish,
    Auth: Session.on_auth,
    Subscribe: Session.on_subscribe,
    Unsubscribe: Session.on_unsubscribe,
    Nack: Session.on_nack,
    Reject: Session.on_reject,
    Release: Session.on_release,
    Extend: Session.on_extend,
    Flow: Session.on_flow,
    Ping: Session.on_ping,
    Pong: Session.on_pong,
    Malformed: Session.on_malformed,
}
