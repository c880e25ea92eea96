"""Protocol state of one client: frames in, checks, engine; answers out through its outbox.

Owns the life of a connection's session: who the client is, when its token ends, whether it is alive, what it resumes
and what it leaves. Checks rights before limits and both before the engine, never after the database. Knows no JSON and
no socket: the codec and the connection do.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pushwire.wire.codes import CLOSES
from pushwire.wire.frames import (
    Ack,
    Auth,
    ClientFrame,
    Extend,
    Flow,
    Goodbye,
    Malformed,
    Messages,
    Nack,
    Ok,
    Ping,
    Pong,
    Publish,
    Ref,
    Reject,
    Release,
    Subscribe,
    SubscribeTail,
    Unsubscribe,
    Welcome,
)
from pushwire_storage.base import Group

from .auth import Unauthorized, UnknownKey
from .clock import to_ms
from .core import model as core
from .operations import Operations
from .outbox import Outbox
from .ports import Link
from .rights import Principal
from .sessions import Held
from .speaker import UNSENT
from .sysstats import Tally

if TYPE_CHECKING:
    from .gateway import Gateway

SERVER = "pushwire/0.1"
"""Shown in `welcome`: enough for a client to work around a version, not enough to pick an exploit."""

LOST = frozenset({4000, 4001})
"""Closes that are a lost connection in all but name: what the session holds may wait for it."""

Leases = Mapping[str, Sequence[str]]


class Session(Operations):
    """One WebSocket client."""

    __slots__ = (
        "_auth_deadline",
        "_expires_at",
        "_heard_at",
        "_pinged_at",
        "_revocations_seen",
        "_seat",
        "_tally",
        "_verifying",
        "opened_at",
    )

    def __init__(self, gateway: Gateway, link: Link, outbox: Outbox, principal: Principal | None, now: float) -> None:
        settings = gateway.settings
        super().__init__(gateway, link, outbox, principal, f"{settings.node}.{secrets.token_hex(8)}")
        self._seat: Any = None  # this connection's place among those of its subject
        self._tally = Tally()  # of its tenant, once that is known
        self._expires_at = float("inf")
        self._auth_deadline = now + settings.auth_timeout_s
        self._heard_at = now
        self._pinged_at = 0.0  # 0: no ping is waiting for an answer
        self._revocations_seen = 0
        self._verifying = False  # an auth waits for the issuer's keys
        self.opened_at = now

    @property
    def principal(self) -> Principal | None:
        """Who it is, once that is known."""
        return self._principal

    @property
    def held(self) -> Held | None:
        """The session that this connection serves."""
        return self._held

    @property
    def tails(self) -> int:
        """How many tails it follows."""
        return len(self._following)

    @property
    def ip(self) -> str:
        """The address of its peer."""
        return self._link.ip

    @property
    def expires_at(self) -> float:
        """When its token ends."""
        return self._expires_at

    # --- what the connection calls -----------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """The WebSocket is open; with a token from the handshake the client is known already."""
        principal, self._principal = self._principal, None
        if principal is not None:
            self._admit(principal, None, now)
        self._gateway.engine.touch(self)
        self._gateway.engine.turn()

    def receive(self, frames: Sequence[ClientFrame], now: float) -> None:
        """Operations in the order in which they were sent. Acks in a row that need no answer are one: most clients send
        each by itself, and each would be a step of the core and a settlement of its own."""
        self._heard_at = now
        self._pinged_at = 0.0
        acked: list[str] = []
        for frame in frames:
            if self.ended:
                break
            if type(frame) is Ack and frame.ref is None and frame.through is None and self._principal is not None:
                acked += frame.leases
                continue
            if acked:
                self.on_settle(Ack(acked), now)
                acked = []
            _HANDLERS[type(frame)](self, frame, now)
            if self._principal is None and type(frame) not in _BEFORE_AUTH:
                self._fault(now)  # has been answered like any other; but a stranger is not answered for long
        if acked:
            self.on_settle(Ack(acked), now)
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
                self._end_now(4401 if self._expired else 4408)
                return
        elif now >= self._expires_at:
            self._expire(now)
        elif self._revoked(self._principal):
            self._end_now(4401)
            return
        if self._paused & ~UNSENT:
            self._heard_at = now  # it is we who do not listen
            self._pinged_at = 0.0
        if self._pinged_at:
            if now - self._pinged_at >= settings.pong_timeout_s:
                self._end_now(4001)
        elif now - self._heard_at >= settings.ping_interval_s:
            self._pinged_at = now
            self.outbox.send(Ping())
            self.outbox.flush()

    def writable(self, now: float) -> None:
        """The transport has drained."""
        self.outbox.flush()
        self._following.catch_up()
        if self.outbox.below_low:
            self._resume(UNSENT)

    def closed(self, now: float) -> None:
        """The connection is gone: its leases go back, at once or after the session's grace."""
        self._leave(drained=False, grace=True)
        self._gateway.engine.turn()

    # --- what the engine, the register and the server call -----------------------------------------------------

    def push(self, sub: core.Subscription, deliveries: list[core.Pending], now: float) -> None:
        group: Group = sub.group.handle
        expires_in_ms = to_ms(sub.ack_timeout_s)
        self._tally.pushed(deliveries, now)
        self.outbox.send(Messages(sub.name, group.topic.name, expires_in_ms, deliveries))

    def unhealthy(self, sub: core.Subscription) -> None:
        """It lets lease after lease run out: others shall have its messages."""
        if self._held is not None:
            self._gateway.registry.part(self._held, [sub])
            self.dismissed(sub, "consumer_unhealthy")

    def dismissed(self, sub: core.Subscription, code: str) -> None:
        self._trouble(code, sub.name)
        self._gateway.engine.touch(self)

    def session_over(self, session: core.Session) -> None:
        """It ended with this connection, which knows."""

    def moved(self, held: Held) -> None:
        """Another connection serves the session now."""
        self._held = None
        self._end(4409)

    def drain(self, retry_after_ms: int) -> None:
        """The gateway is going away: nothing is handed out any more, and what was counts for nothing."""
        self._leave(drained=True)
        self._end(1012, retry_after_ms)

    def kick(self, code: int) -> None:
        """End the connection for a reason of ours; its leases go back at once."""
        self._leave(drained=False)
        self._end(code)

    # --- who the client is -------------------------------------------------------------------------------------

    def on_auth(self, frame: Auth, now: float) -> None:
        if not self._controls_allowed(frame.ref):  # first: a signature is by far the dearest thing to ask for
            return
        try:
            principal = self._gateway.verifier.verify(frame.token, now)
        except UnknownKey:
            self._verify_late(frame)
        except Unauthorized:
            self._not_accepted(frame.ref)
        else:
            self._verified(principal, frame, now)

    def _verify_late(self, frame: Auth) -> None:
        """Signed with a key that the issuer may have published a moment ago."""
        if self._verifying:
            self._error("unauthorized", frame.ref)
            return
        self._verifying = True

        def done(principal: Principal | None) -> None:
            self._verifying = False
            if self.ended:
                return
            if principal is None:
                self._not_accepted(frame.ref)
            else:
                self._verified(principal, frame, self._gateway.clock.now())
            self._gateway.engine.touch(self)
            self._gateway.engine.turn()

        self._gateway.tokens.verify_late(frame.token, done)

    def _not_accepted(self, ref: Ref | None) -> None:
        self._error("unauthorized", ref)
        if self._principal is None or self._expired:
            self._end(4401)

    def _verified(self, principal: Principal, frame: Auth, now: float) -> None:
        known = self._principal
        if known is None:
            self._admit(principal, frame, now)
        elif (principal.tenant, principal.subject) != (known.tenant, known.subject):
            self._error("forbidden", frame.ref, detail="a refresh must name the same subject and tenant")
            self._fault(now)
        else:
            self._refresh(principal, frame, now)

    def _admit(self, principal: Principal, frame: Auth | None, now: float) -> None:
        """The client has shown its first token, in the handshake or in this frame."""
        if self._gateway.draining:  # came in before, shows its token only now: nothing is handed out any more
            self._end(1012)
            return
        settings, ref = self._gateway.settings, None if frame is None else frame.ref
        subs = self._resume_session(
            frame, principal, now
        )  # before the seat: the connection that had it gives up its own
        limit = min(principal.limits.connections or settings.connections_per_subject, settings.connections_per_subject)
        self._seat = self._gateway.caps.take_subject(principal.tenant, principal.subject, limit)
        if self._seat is None:
            self._error("too_many_connections", ref)
            self._leave(drained=False, grace=True)
            self._end(4429)
            return
        if self._held is None:
            self._held = self._gateway.registry.open(self, principal)
        self._accept(principal)
        self._tally = self._gateway.tally(principal.tenant)
        self._link.authenticated()
        self._gateway.sessions.add(self)
        self._welcome(now)
        if frame is not None and (ref is not None or _about_session(frame)):
            self._confirm_auth(frame, subs, now)

    def _welcome(self, now: float) -> None:
        assert self._held is not None  # it has just been admitted
        assert self._principal is not None  # (as above)
        settings = self._gateway.settings
        self.outbox.send(
            Welcome(
                session=self._held.secret,
                server=SERVER,
                epoch=self._gateway.engine.store.epoch,
                heartbeat_ms=to_ms(settings.ping_interval_s),
                pong_timeout_ms=to_ms(settings.pong_timeout_s),
                expires_in_ms=self._expires_in_ms(now),
                limits=self._gateway.announced_limits(self._principal),
            )
        )

    def _refresh(self, principal: Principal, frame: Auth, now: float) -> None:
        """A new token of the same client; perhaps it names a session to go on with."""
        assert self._held is not None  # the client is known
        if frame.session not in (None, self._held.secret) and (
            self._held.core.subs or self._coming or len(self._following)
        ):
            self._error("conflict", frame.ref, detail="a session is resumed before the first subscription")
            return
        lost = self._part_forbidden(self._held, principal)
        subs = self._resume_session(frame, principal, now)
        self._accept(principal)
        self._confirm_auth(frame, subs, now)
        for sub in lost:
            self._trouble("forbidden", sub.name)
        self._following.drop_forbidden(principal)

    def _accept(self, principal: Principal) -> None:
        assert self._held is not None  # both callers have seen to it
        self._principal = self._held.principal = principal
        self._expires_at = principal.valid_until
        self._expired = False
        self._revocations_seen = self._gateway.revocations.version  # the verifier has just asked

    def _confirm_auth(self, frame: Auth, subs: Leases | None, now: float) -> None:
        assert self._held is not None  # the client is known
        if frame.resume_grace_ms is not None:
            self._held.core.grace_s = min(frame.resume_grace_ms / 1000, self._gateway.settings.resume_grace_s_max)
        ok = Ok(frame.ref, expires_in_ms=self._expires_in_ms(now))
        if _about_session(frame):
            ok.session, ok.resumed, ok.subs = self._held.secret, subs is not None, subs
        self.outbox.send(ok)

    def _resume_session(self, frame: Auth | None, principal: Principal, now: float) -> Leases | None:
        """Take over the session that the frame names. Returns the leases it holds by subscription; None when there is
        none to take over: no secret, a foreign one, or too late."""
        if frame is None or frame.session is None:
            return None
        registry = self._gateway.registry
        found, own = registry.find(frame.session, principal), self._held
        if found is None or found is own:
            return None
        if not found.away:
            self._gateway.engine.turn()  # what is being pushed goes to the connection it was pushed for
        self._part_forbidden(found, principal)  # the client learns of these by missing them in the answer
        subs = {name: list(sub.leases) for name, sub in found.core.subs.items()}
        if own is not None:
            registry.leave(own, now, grace=False)
        self._held = found
        registry.take_over(found, self, principal, now)
        return subs

    def _part_forbidden(self, held: Held, principal: Principal) -> list[core.Subscription]:
        """Subscriptions that the new token does not allow end."""
        lost = []
        for sub in held.core.subs.values():
            group: Group = sub.group.handle
            if not principal.may("consume", group.topic.name, group.name):
                lost.append(sub)
        if lost:
            self._gateway.registry.part(held, lost)
        return lost

    def _expires_in_ms(self, now: float) -> int:
        return max(0, to_ms(self._expires_at - now))

    def _expire(self, now: float) -> None:
        """The token ended: delivery stops and the leases go back, now. A fresh token may still save the connection."""
        self._expired = True
        self._auth_deadline = now + self._gateway.settings.auth_timeout_s
        if self._held is not None:
            subs = list(self._held.core.subs.values())
            self._gateway.registry.part(self._held, subs)
            for sub in subs:
                self._trouble("unauthorized", sub.name)
        self._following.stop_all("unauthorized")
        self._gateway.engine.touch(self)
        self._gateway.engine.turn()

    def _revoked(self, principal: Principal) -> bool:
        revocations = self._gateway.revocations
        if revocations.version == self._revocations_seen:
            return False
        self._revocations_seen = revocations.version
        return revocations.affected(principal)

    # --- the end -----------------------------------------------------------------------------------------------

    def _leave(self, *, drained: bool, grace: bool = False) -> None:
        """Nothing is handed out to this connection any more. `grace`: its client may come back for what it holds."""
        self._following.stop_all()
        held, self._held = self._held, None
        if held is not None:
            self._gateway.registry.leave(held, self._gateway.clock.now(), grace=grace, drained=drained)
        if self._seat is not None:
            self._seat.release()
            self._seat = None
        self._gateway.sessions.discard(self)
        self._gateway.engine.batcher.forget_relief(self._relieved)
        self.ended = True

    def _end(self, code: int, retry_after_ms: int | None = None) -> None:
        self._leave(drained=False, grace=code in LOST)
        close = CLOSES[code]
        self.outbox.send(Goodbye(code, close.reason, close.reconnect, retry_after_ms))
        self.outbox.flush()
        self._link.close(code, close.reason)

    def _end_now(self, code: int) -> None:
        self._end(code)
        self._gateway.engine.turn()


def _about_session(frame: Auth) -> bool:
    return frame.session is not None or frame.resume_grace_ms is not None


_BEFORE_AUTH = frozenset({Auth, Malformed})
"""What a client may say before it is known, and what `_fault` counts anyway."""

_HANDLERS: dict[type, Any] = {
    Ack: Session.on_settle,
    Publish: Session.on_publish,
    Auth: Session.on_auth,
    Subscribe: Session.on_subscribe,
    SubscribeTail: Session.on_subscribe_tail,
    Unsubscribe: Session.on_unsubscribe,
    Nack: Session.on_settle,
    Reject: Session.on_settle,
    Release: Session.on_settle,
    Extend: Session.on_extend,
    Flow: Session.on_flow,
    Ping: Session.on_ping,
    Pong: Session.on_pong,
    Malformed: Session.on_malformed,
}
