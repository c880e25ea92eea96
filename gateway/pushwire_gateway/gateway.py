"""One gateway: what a publish, a settlement and a subscription do, and the parts they need.

Owns the order of checks (rights, size, limits, then the engine) so that WebSocket and HTTP cannot differ, and what
happens once a second. Holds no state of a client and does no I/O.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pushwire.wire.decode import SCHEDULE_MS_MAX
from pushwire.wire.frames import Ack, Extend, Nack, Reject, Release, Subscribe, SubscribeTail
from pushwire_storage.base import Append, CreateGroup, CreateTopic, Group, Message, Refused, StoreError, Topic

from .caps import Caps
from .clock import Clock, to_ms
from .engine import Engine, Loop
from .following import Batches
from .ids import uuid7
from .outbox import Outbox
from .polling import Polls
from .ports import Link, ServerCodec
from .refusal import Refusal
from .rights import Principal
from .session import Session
from .sessions import Held, Sessions
from .settings import Settings
from .streams import Streams
from .sysstats import TALLY_FIELDS, SysStats, Tally, numbers
from .throttle import Throttle, Verdict
from .tokens import Tokens
from .topics import Topics

Done = Callable[[Refusal | None], None]
TopicFound = Callable[[Topic | None, Refusal | None], None]
GroupFound = Callable[[Group | None, Refusal | None], None]
TailFound = Callable[[Topic | None, int, Refusal | None], None]

TICK_S = 1.0
"""Between two looks at what happens because time passes, and of `$sys.stats`."""


class Gateway:
    """The parts of one running gateway."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        engine: Engine,
        throttle: Throttle,
        tokens: Tokens,
        caps: Caps,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.engine = engine
        self.throttle = throttle
        self.tokens = self.verifier = tokens
        self.revocations = tokens.revocations
        self.caps = caps
        self.topics = Topics(engine)
        self.registry = Sessions(engine, self.topics, settings)
        self.stats = SysStats(engine, lambda tenant: numbers(self, tenant))
        self.batches = Batches()
        self.polls = Polls(self)
        self.streams = Streams(self)
        self.sessions: set[Session] = set()
        self.draining = False
        self._tallies: dict[str, Tally] = {}  # as many as tenants have shown a token
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: Loop | None = None
        self._timer: Any = None
        self._revocations_seen = 0
        self._tick_due = 0.0
        self.loop_lag_s = 0.0
        """How late the newest tick was: what everything else waits for as well."""

    # --- life --------------------------------------------------------------------------------------------------

    def start(self, loop: Loop) -> None:
        """The store is open."""
        self._loop = loop
        self.topics.opened()
        self._arm()

    def stop(self) -> None:
        """Nothing happens by itself any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None

    def drain(self, retry_after_ms: Callable[[], int]) -> None:
        """The gateway is going away: every session is told, and gives back what it holds."""
        self.draining = True
        for session in sorted(self.sessions, key=lambda session: session.id):
            session.drain(retry_after_ms())
        self.polls.drain(retry_after_ms)
        self.streams.drain()
        self.registry.end_away(lambda _: True, drained=True)
        self.engine.turn()

    def _arm(self) -> None:
        if self._loop is not None:
            self._tick_due = self.clock.now() + TICK_S
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        now = self.clock.now()
        self.loop_lag_s = max(0.0, now - self._tick_due)
        self._arm()
        self.batches.forget()
        self.topics.expire_groups(now)
        self.stats.tick(now)
        self.streams.tick(now)
        self.end_revoked()

    def end_revoked(self) -> None:
        """Tokens were revoked: what they hold goes back, whether a connection serves it or not."""
        if self.revocations.version != self._revocations_seen:
            self._revocations_seen = self.revocations.version
            for session in sorted(self.sessions, key=lambda session: session.id):
                session.check(self.clock.now())
            self.polls.end_revoked(self.revocations.affected)
            self.streams.end_revoked(self.revocations.affected)
            self.registry.end_away(self.revocations.affected)
        self.engine.turn()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        """A timer of the engine's loop, to be cancelled by who does not need it any more."""
        assert self._loop is not None  # nobody is served before the start or after the end
        return self._loop.call_later(delay_s, callback)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run this beside everything else. For what must wait for the store's reader."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        tally = self.tally(principal.tenant)
        now_ms = to_ms(self.clock.now())
        refusal = self._may_publish(principal, topic, messages, size_bytes, now_ms)
        if refusal is not None:
            tally.refused += 1
            return refusal
        for message in messages:
            message.published_at_ms = now_ms
            if not message.id:
                message.id = uuid7(now_ms)

        def written(append: Append, error: StoreError | None) -> None:
            refusal = _outcome(append, error)
            if refusal is None:
                tally.published += len(messages)
            else:
                tally.refused += 1
            done(refusal)

        def found(topic: Topic | None, refusal: Refusal | None) -> None:
            self.engine.batcher.unreserve(len(messages), size_bytes)
            if topic is None:
                tally.refused += 1
                done(refusal)
            else:
                self.engine.publish(topic, messages, size_bytes, written)

        known = self.topics.find(principal.tenant, topic)
        if known is not None:
            self.engine.publish(known, messages, size_bytes, written)
            return None
        refusal = self._may_create(principal, topic)
        if refusal is None:
            # Those that wait for their topic take the same room as those that wait for their commit.
            self.engine.batcher.reserve(len(messages), size_bytes)
            self._create_topic(principal, topic, found)
        else:
            tally.refused += 1
        return refusal

    def _may_publish(
        self, principal: Principal, topic: str, messages: Sequence[Message], size_bytes: int, now_ms: int
    ) -> Refusal | None:
        if not principal.may("publish", topic):
            return Refusal("forbidden")
        if self.draining:
            return Refusal("going_away", retry_after_ms=1000)
        size_max = self.settings.message_bytes_max
        for message in messages:
            if len(message.data) > size_max:
                return Refusal("message_too_large", f"at most {size_max} bytes of data")
            if (message.due_ms is not None or message.expires_ms is not None) and not _settle_times(
                message, now_ms, math.ceil(self.clock.now() * 1000)
            ):
                return Refusal("bad_request", "deliver_at_ms: at most 366 days from now")
        verdict = self.throttle.publish(
            principal.tenant, principal.subject, len(messages), size_bytes, principal.limits.publish_per_s
        )
        if not verdict.allowed:
            return _throttled(verdict)
        if self.engine.batcher.full:
            return Refusal("busy", retry_after_ms=100)
        return None

    # --- topics and groups -------------------------------------------------------------------------------------

    def find_topic(self, principal: Principal, name: str, found: TopicFound) -> None:
        """Call `found` with the topic, made where the principal may; else with why not."""
        known = self.topics.find(principal.tenant, name)
        if known is not None:
            found(known, None)
            return
        refusal = self._may_create(principal, name)
        if refusal is None:
            self._create_topic(principal, name, found)
        else:
            found(None, refusal)

    def _may_create(self, principal: Principal, name: str) -> Refusal | None:
        if not principal.may("create", name):
            return Refusal("topic_not_found")
        if self.topics.count(principal.tenant) >= self.settings.topics_per_tenant:
            return Refusal("too_many_topics")
        return None

    def _create_topic(self, principal: Principal, name: str, found: TopicFound) -> None:
        def created(change: CreateTopic, error: StoreError | None) -> None:
            if change.result is not None:
                found(change.result, None)
            else:
                found(None, failure(error or change.refused))

        self.topics.create(principal.tenant, name, None, created)

    def find_group(self, principal: Principal, wanted: Subscribe, found: GroupFound) -> None:
        """Call `found` with the group that a subscribe names, creating topic and group where the principal may; else
        with why not. A group private to somebody else is none."""

        def in_topic(topic: Topic | None, refusal: Refusal | None) -> None:
            if topic is None:
                found(None, refusal)
            else:
                self._find_in(principal, topic, wanted, found)

        self.find_topic(principal, wanted.topic, in_topic)

    def _find_in(self, principal: Principal, topic: Topic, wanted: Subscribe, found: GroupFound) -> None:
        owner = None if wanted.client_id is None else f"{principal.subject}/{wanted.client_id}"
        known = self.topics.find_group(topic, wanted.group)
        if known is not None:
            _give(known, owner, found)
        elif not principal.may("create", topic.name, wanted.group):
            found(None, Refusal("group_not_found"))
        elif not self.topics.may_add_group(topic, wanted.group, self.settings.groups_per_topic):
            found(None, Refusal("too_many_groups"))
        else:

            def created(made: Group | None, error: StoreError | None) -> None:
                if made is None:
                    found(None, failure(error))
                elif self.topics.find(topic.tenant, topic.name) is not topic:
                    found(None, Refusal("topic_not_found"))  # deleted meanwhile
                else:
                    _give(made, owner, found)

            change = CreateGroup(topic, wanted.group, wanted.start, owner, wanted.inactive_ttl_ms or 0)
            self.topics.create_group(change, created)

    def find_tail(self, principal: Principal, wanted: SubscribeTail, found: TailFound) -> None:
        """Call `found` with the topic that a tail names and the seq after which it begins; else with why not."""

        def in_topic(topic: Topic | None, refusal: Refusal | None) -> None:
            if topic is None:
                found(None, 0, refusal)
            elif wanted.epoch is not None:
                found(topic, min(wanted.after_seq, topic.last_seq), None)
            elif wanted.start == "new":
                found(topic, topic.last_seq, None)
            elif isinstance(wanted.start, int) and wanted.start > 0:
                found(topic, min(wanted.start - 1, topic.last_seq), None)
            else:
                # A time, or the oldest kept: what was dropped before that is no loss to this tail.
                since_ms = -wanted.start if isinstance(wanted.start, int) else 0
                self.spawn(self._find_seq(topic, since_ms, found))

        self.find_topic(principal, wanted.topic, in_topic)

    async def _find_seq(self, topic: Topic, since_ms: int, found: TailFound) -> None:
        try:
            seq = await self.engine.store.catalog().find_seq(topic, since_ms)
        except StoreError as error:
            found(None, 0, failure(error))
        else:
            if self.topics.find(topic.tenant, topic.name) is topic:
                found(topic, min(seq - 1, topic.last_seq), None)
            else:
                found(None, 0, Refusal("topic_not_found"))
        self.engine.turn()

    # --- settle ------------------------------------------------------------------------------------------------

    def settle(
        self, held: Held | None, frame: Ack | Nack | Reject | Release | Extend, now: float
    ) -> tuple[Sequence[str], float]:
        """Carry out a settlement or an extension. Returns the leases that were stale, and the earliest deadline of the
        extended ones. Confirm it after `engine.after_commit`."""
        leases = frame.leases
        if len(leases) > 1:
            leases = list(dict.fromkeys(leases))  # one that is named twice counts once
        if held is None:
            return ([frame.through] if isinstance(frame, Ack) and frame.through is not None else leases), now
        core, session, tally = self.engine.core, held.core, self.tally(held.principal.tenant)
        deadline = now
        if isinstance(frame, Ack):
            if frame.through is None:
                stale = core.ack(session, leases, now)
                tally.acked += len(leases) - len(stale)
            else:
                before = core.counters.acked
                stale = core.ack_through(session, frame.through, now)
                tally.acked += core.counters.acked - before
        elif isinstance(frame, Nack):
            delay_s = None if frame.delay_ms is None else frame.delay_ms / 1000
            stale = core.nack(session, leases, delay_s, frame.error, now)
            tally.nacked += len(leases) - len(stale)
        elif isinstance(frame, Reject):
            stale = core.reject(session, leases, frame.error, now)
            tally.rejected += len(leases) - len(stale)
        elif isinstance(frame, Release):
            stale = core.release(session, leases, now)
            tally.released += len(leases) - len(stale)
        else:
            deadline, stale = core.extend(session, leases, now)
            tally.extended += len(leases) - len(stale)
        tally.stale += len(stale)
        return stale, deadline

    def control(self, connection_id: str) -> Refusal | None:
        """Charge one control operation to this connection, or to those who share this name."""
        verdict = self.throttle.control(connection_id)
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
            "resume_grace_ms_max": int(settings.resume_grace_s_max * 1000),
            "publish_per_s": publish_per_s,
            "publish_burst": publish_burst,
        }

    def tally(self, tenant: str) -> Tally:
        """What is counted for a tenant."""
        tally = self._tallies.get(tenant)
        if tally is None:
            tally = self._tallies[tenant] = Tally()
        return tally

    def tallied(self) -> Tally:
        """What is counted, of all tenants together."""
        tallies = self._tallies.values()
        return Tally(*(sum(getattr(tally, name) for tally in tallies) for name in TALLY_FIELDS))

    def sessions_of(self, tenant: str) -> list[Session]:
        """The tenant's WebSockets, by id."""
        found = [one for one in self.sessions if one.principal is not None and one.principal.tenant == tenant]
        return sorted(found, key=lambda session: session.id)

    def ready(self) -> dict[str, Any]:
        """Whether this gateway can take work, for load balancers. Names nothing of a tenant."""
        broken = self.engine.batcher.broken
        status = "draining" if self.draining else "broken" if broken is not None else "ok"
        return {"status": status, "store": self.engine.store.version, "node": self.settings.node}


def failure(why: StoreError | Refused | None) -> Refusal:
    """What a store's error is to whoever asked."""
    if isinstance(why, Refused):
        return Refusal(why.code, why.detail)
    return Refusal("internal" if why is None else why.code, str(why or ""))


def _settle_times(message: Message, now_ms: int, next_ms: int) -> bool:
    """Turn times that count from now into times. False: too far ahead. A delay counts from `next_ms`, the first whole
    millisecond that is not over: from `now_ms`, which is cut off, it would end up to a millisecond early."""
    due_ms = message.due_ms
    if due_ms is not None:
        if due_ms < 0:
            due_ms = next_ms - due_ms
        if due_ms > now_ms + SCHEDULE_MS_MAX:
            return False
        message.due_ms = due_ms = due_ms if due_ms > now_ms else None
    if message.expires_ms is not None and message.expires_ms < 0:
        message.expires_ms = (due_ms or now_ms) - message.expires_ms
    return True


def _give(group: Group, owner: str | None, found: GroupFound) -> None:
    """Hand the group to whoever may know of it."""
    if group.owner == owner:
        found(group, None)
    elif group.owner is None:
        found(None, Refusal("conflict", "the group is there and not private"))
    else:
        found(None, Refusal("group_not_found"))


def _throttled(verdict: Verdict) -> Refusal:
    assert verdict.code is not None  # a refusal has one
    return Refusal(verdict.code, retry_after_ms=verdict.retry_after_ms, final=not verdict.retryable)


def _outcome(append: Append, error: StoreError | None) -> Refusal | None:
    if error is not None:
        return failure(error)
    return None if append.refused is None else failure(append.refused)
