"""What every transport shares: the checks of a publish and of a subscription, and the parts they need.

Owns the order of checks (rights, size, limits, then the engine) so that WebSocket and HTTP cannot differ. Holds no
state of a client and does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pushwire_storage.base import Append, Group, Message, Refused, StoreError, Topic

from .auth import TokenVerifier
from .caps import Caps
from .clock import Clock, to_ms
from .engine import Engine
from .ids import uuid7
from .outbox import Outbox
from .ports import Link, ServerCodec
from .refusal import Refusal
from .rights import Principal
from .session import Session
from .settings import Settings
from .throttle import Throttle, Verdict

Done = Callable[[Refusal | None], None]
GroupFound = Callable[[Group | None, Refusal | None], None]


class Gateway:
    """The parts of one running gateway."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        engine: Engine,
        throttle: Throttle,
        verifier: TokenVerifier,
        caps: Caps,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.engine = engine
        self.throttle = throttle
        self.verifier = verifier
        self.caps = caps
        self.sessions: set[Session] = set()
        self.draining = False

    def make_session(
        self, link: Link, codec: ServerCodec, outbox: Outbox, principal: Principal | None, now: float
    ) -> Session:
        """The session of a WebSocket that is about to open. The codec is the outbox's; sessions speak frames."""
        return Session(self, link, outbox, principal, now)

    # --- publish -----------------------------------------------------------------------------------------------

    def publish(
        self, principal: Principal, topic: str, messages: Sequence[Message], size_bytes: int, done: Done
    ) -> Refusal | None:
        """Store these messages, all or none. A refusal returned is final: nothing was stored and `done` is not
        called. Otherwise `done` is called later: with None once they are durable (each has its seq), else with why
        not."""
        refusal = self._may_publish(principal, topic, messages, size_bytes)
        if refusal is not None:
            return refusal
        now_ms = to_ms(self.clock.now())
        for message in messages:
            message.published_at_ms = now_ms
            if not message.id:
                message.id = uuid7(now_ms)

        def written(append: Append, error: StoreError | None) -> None:
            done(_outcome(append, error))

        known = self.engine.topic(principal.tenant, topic)
        if known is not None:
            self.engine.publish(known, messages, size_bytes, written)
            return None
        if not principal.may("create", topic):
            return Refusal("topic_not_found")
        if self.engine.topics_of(principal.tenant) >= self.settings.topics_per_tenant:
            return Refusal("too_many_topics")
        self.engine.publish_first(
            principal.tenant, topic, messages, size_bytes, written, lambda why: done(_failure(why))
        )
        return None

    def _may_publish(
        self, principal: Principal, topic: str, messages: Sequence[Message], size_bytes: int
    ) -> Refusal | None:
        if not principal.may("publish", topic):
            return Refusal("forbidden")
        if self.draining:
            return Refusal("going_away", retry_after_ms=1000)
        size_max = self.settings.message_bytes_max
        for message in messages:
            if len(message.data) > size_max:
                return Refusal("message_too_large", f"at most {size_max} bytes of data")
        verdict = self.throttle.publish(
            principal.tenant, principal.subject, len(messages), size_bytes, principal.limits.publish_per_s
        )
        if not verdict.allowed:
            return _throttled(verdict)
        if self.engine.batcher.full:
            return Refusal("busy", retry_after_ms=100)
        return None

    # --- subscribe ---------------------------------------------------------------------------------------------

    def find_group(self, principal: Principal, topic: str, group: str, start: str | None, found: GroupFound) -> None:
        """Call `found` with the group, creating topic and group where the principal may; else with why not."""
        known = self.engine.topic(principal.tenant, topic)
        if known is not None:
            self._find_in(principal, known, group, start, found)
        elif not principal.may("create", topic):
            found(None, Refusal("topic_not_found"))
        elif self.engine.topics_of(principal.tenant) >= self.settings.topics_per_tenant:
            found(None, Refusal("too_many_topics"))
        else:

            def created(made: Topic | None, why: StoreError | Refused | None) -> None:
                if made is None:
                    found(None, _failure(why))
                else:
                    self._find_in(principal, made, group, start, found)

            self.engine.create_topic(principal.tenant, topic, created)

    def _find_in(self, principal: Principal, topic: Topic, group: str, start: str | None, found: GroupFound) -> None:
        known = topic.groups.get(group)
        if known is not None:
            found(known, None)
        elif not principal.may("create", topic.name, group):
            found(None, Refusal("group_not_found"))
        elif not self.engine.may_add_group(topic, group, self.settings.groups_per_topic):
            found(None, Refusal("too_many_groups"))
        else:
            self.engine.create_group(
                topic, group, start, lambda made, error: found(made, None if made else _failure(error))
            )

    def control(self, session_id: str) -> Refusal | None:
        """Charge one control operation of a connection."""
        verdict = self.throttle.control(session_id)
        return None if verdict.allowed else _throttled(verdict)

    # --- what people and clients are told ------------------------------------------------------------------------

    def announced_limits(self, principal: Principal) -> dict[str, int]:
        """What `welcome` says of limits."""
        settings = self.settings
        publish_per_s, publish_burst = self.throttle.publish_limit(principal.limits.publish_per_s)
        return {
            "message_bytes_max": settings.message_bytes_max,
            "frame_bytes_max": settings.frame_bytes_max,
            "prefetch_max": min(settings.prefetch_max, principal.limits.prefetch or settings.prefetch_max),
            "in_flight_bytes_max": settings.in_flight_bytes_max,
            "subscriptions_max": settings.subscriptions_per_connection,
            "publish_per_s": publish_per_s,
            "publish_burst": publish_burst,
        }

    def ready(self) -> dict[str, Any]:
        """Whether this gateway can take work, for load balancers. Names nothing of a tenant."""
        broken = self.engine.batcher.broken
        status = "draining" if self.draining else "broken" if broken is not None else "ok"
        return {"status": status, "store": self.engine.store.version, "node": self.settings.node}


def _throttled(verdict: Verdict) -> Refusal:
    assert verdict.code is not None  # a refusal has one
    return Refusal(verdict.code, retry_after_ms=verdict.retry_after_ms, final=not verdict.retryable)


def _failure(why: StoreError | Refused | None) -> Refusal:
    if isinstance(why, Refused):
        return Refusal(why.code, why.detail)
    return Refusal("internal" if why is None else why.code, str(why or ""))


def _outcome(append: Append, error: StoreError | None) -> Refusal | None:
    if error is not None:
        return _failure(error)
    return None if append.refused is None else _failure(append.refused)
