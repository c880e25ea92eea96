"""The sole owner of the delivery core: clock in, effects out, one timer.

Owns the order of things: what the core decided is given to the batcher, the store and the sessions here and nowhere
else. Never awaits (but for the end), so every entry point is one whole step that ends in `turn()`. Knows no frame, no
right, no SQL.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil
from random import random
from typing import Any, Protocol

from pushwire_storage.base import (
    Append,
    Attempt,
    Dead,
    Done,
    Event,
    Group,
    Message,
    Retry,
    Settlement,
    Store,
    StoreError,
    Topic,
)
from pushwire_storage.base import Counted as StoreCounted

from .batcher import Batcher
from .clock import Clock, to_ms
from .core.delivery import Delivery
from .core.model import (
    OVERHEAD_BYTES,
    Counted,
    Died,
    Effects,
    KeyWant,
    Pending,
    Policy,
    Retried,
    Session,
    Settled,
    Subscription,
)
from .core.retry import RetryPolicy
from .settings import Settings
from .tails import Tails

TIMER_SLACK_S = 0.0005
"""A timer armed at most this much too early is left alone; re-arming for less costs more than it gains."""


class Loop(Protocol):
    """What the engine needs of an event loop; the simulator has its own."""

    def call_soon(self, callback: Callable[[], None]) -> object: ...
    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any: ...


class Flushed(Protocol):
    """Whoever has something to hand to a transport at the end of a turn."""

    def flush(self) -> None:
        """Hand what was queued to the transport, in one write."""


class Client(Flushed, Protocol):
    """What the core's sessions are linked to."""

    def push(self, sub: Subscription, deliveries: list[Pending], now: float) -> None:
        """Send these; flushed at the end of the turn."""

    def unhealthy(self, sub: Subscription) -> None:
        """The subscription lets lease after lease run out: end it."""

    def session_over(self, session: Session) -> None:
        """The session has ended, with its connection or with its grace; nothing of it is left."""


Outcome = Callable[[Append, StoreError | None], None]


class Engine:
    """Everything between the sessions and the store."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        loop: Loop,
        settings: Settings,
        on_broken: Callable[[StoreError], None],
        rng: Callable[[], float] = random,
    ) -> None:
        self.store = store
        self.clock = clock
        self._loop = loop
        self._settings = settings
        self.core = Delivery(
            rng,
            ready_bytes_max=settings.ready_bytes_max,
            release_hold_s=settings.release_hold_s,
            lease_age_s_max=settings.lease_age_s_max,
            unhealthy_timeouts=settings.unhealthy_timeouts,
        )
        self.batcher = Batcher(
            store,
            clock.now,
            loop.call_soon,
            loop.call_later,
            on_broken,
            self.turn,
            batch_messages_max=settings.batch_messages_max,
            batch_bytes_max=settings.batch_bytes_max,
            waiting_messages_max=settings.batcher_messages_max,
            waiting_bytes_max=settings.batcher_bytes_max,
        )
        self.tails = Tails(store, self)
        self.died: Counter[str] = Counter()
        """Dead letters made, by reason."""
        self.expired_on_disk = 0
        """Messages whose TTL ended in nobody's hands, one for each group."""
        self._timer: Any = None
        self._timer_at = float("inf")
        self._dirty: dict[Flushed, None] = {}
        self._opening: dict[Group, dict[int, int]] = {}  # groups whose first demand waits for older settlements
        self._open: set[Group] = set()
        self._looking: dict[Callable[[], None], Group] = {}  # who waits for what the store has now

    async def start(self) -> None:
        """Open the store. Raises its errors."""
        await self.store.open(self, to_ms(self.clock.now()))

    # --- publish and consume -----------------------------------------------------------------------------------

    def publish(self, topic: Topic, messages: Sequence[Message], size_bytes: int, done: Outcome) -> None:
        """Store these, all or none. `done` is called once the answer is durable, or the batch failed."""
        append = Append(topic, messages)

        def written(error: StoreError | None) -> None:
            done(append, error)

        self.batcher.append(append, size_bytes, written)

    def subscribe(self, session: Session, name: str, group: Group, prefetch: int, ack_timeout_s: float) -> Subscription:
        """A session joins a group."""
        now = self.clock.now()
        return self.core.subscribe(session, name, group, prefetch, ack_timeout_s, now, self.policy(group))

    def unsubscribe(self, session: Session, subs: Sequence[Subscription]) -> None:
        """Members leave; their leases go back at once."""
        self.core.unsubscribe(session, subs, self.clock.now())

    def disconnect(self, session: Session, *, drained: bool = False) -> None:
        """The session's connection is gone: its leases go back, at once or after its grace."""
        self.core.disconnect(session, self.clock.now(), drained=drained)

    def after_commit(self, callback: Callable[[StoreError | None], None]) -> None:
        """Call when every settlement decided so far is durable."""
        self._drain()
        self.batcher.after_commit(callback)

    def policy(self, group: Group) -> Policy:
        """The core's rules for a group, from its topic's configuration and the settings."""
        settings, config = self._settings, group.topic.config
        retry = RetryPolicy(
            config.max_failures or settings.max_failures,
            config.max_deliveries or settings.max_deliveries,
            settings.backoff_cap_s,
            settings.backoff_cap_s_max,
        )
        return Policy(retry, config.weights, config.strict, group.paused, config.expired == "dead")

    def reconfigure(self, group: Group) -> None:
        """The group or its topic was configured, or moved."""
        self.core.configure(group, self.policy(group), self.clock.now())

    # --- the turn ----------------------------------------------------------------------------------------------

    def coming(self, group: Group) -> bool:
        """Whether the store is being asked for messages that it has of this group."""
        return group in self._opening or self.core.coming(group)

    def when_looked(self, group: Group, callback: Callable[[], None]) -> None:
        """Call once at the end of a turn, when nothing is coming any more and what came was handed out. The callback
        must not end a turn itself."""
        self._looking[callback] = group

    def forget_looking(self, callback: Callable[[], None]) -> None:
        """Whoever asked waits no more."""
        self._looking.pop(callback, None)

    def touch(self, client: Flushed) -> None:
        """The client has something to flush at the end of the turn."""
        self._dirty[client] = None

    def turn(self) -> None:
        """End of an entry point: carry out what the core decided, write once to each connection, arm the timer."""
        if self.store.broken is not None:
            self.batcher.end(self.store.broken)
        self._drain()
        for callback, group in list(self._looking.items()):
            if callback in self._looking and not self.coming(group):
                del self._looking[callback]
                callback()
                self._drain()
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for client in dirty:
                client.flush()
        self._arm()

    def _drain(self) -> None:
        while effects := self.core.effects():
            if effects.pushes:
                self._push(effects)
            if effects.settlements:
                self._settle(effects)
            for group in effects.forgets:
                self._open.discard(group)
                self._opening.pop(group, None)
                self.store.forget(group)
            if effects.wants:
                self._want(effects)
            for want in effects.key_wants:
                self._want_key(want)
            for sub in effects.unhealthy:
                sub.session.link.unhealthy(sub)
            for session in effects.ended:
                session.link.session_over(session)

    def _push(self, effects: Effects) -> None:
        now = self.clock.now()
        for sub, deliveries in effects.pushes.items():
            client: Client = sub.session.link
            client.push(sub, deliveries, now)
            self._dirty[client] = None
            if sub.group.handle.topic.config.ledger == "full":
                self._note(sub.group.handle, deliveries, "delivered", sub.session)

    def _settle(self, effects: Effects) -> None:
        settlements: list[Settlement] = []
        for effect in effects.settlements:
            group: Group = effect.group
            if type(effect) is Settled:
                settlements.append(Done(group, [pending.message for pending in effect.held]))
                if group.topic.config.ledger != "off":
                    self._note(group, effect.held, "acked", effect.session)
            else:
                settlements.append(self._ended(group, effect))
        self.batcher.settle(settlements, effects.settled_bytes)

    def _ended(self, group: Group, effect: Any) -> Settlement:
        """A delivery, or a wait, that ended other than by an ack."""
        now_ms = to_ms(self.clock.now())
        last = None
        error = getattr(effect, "error", None)
        if effect.how is not None:
            last = Attempt(now_ms, effect.how, effect.session.subject, error)
        if group.topic.config.ledger != "off":
            dead = type(effect) is Died
            event = "dead" if dead else effect.how
            subject = effect.session.subject if effect.session is not None else ""
            detail = effect.reason if dead else error
            self.batcher.note(
                [
                    Event(
                        group.topic,
                        effect.message.seq,
                        group.name,
                        now_ms,
                        event,
                        subject,
                        "",
                        effect.deliveries,
                        detail,
                    )
                ]
            )
        message, deliveries, failures = effect.message, effect.deliveries, effect.failures
        if type(effect) is Retried:
            return Retry(group, message, ceil(effect.due * 1000), deliveries, failures, last)
        if type(effect) is Counted:
            return StoreCounted(group, message, deliveries, failures, last)
        if effect.drop:
            return Done(group, [message])
        self.died[effect.reason] += 1
        return Dead(group, message, effect.reason, error, deliveries, failures, now_ms, last)

    def _note(self, group: Group, held: Sequence[Pending], event: str, session: Session) -> None:
        now_ms = to_ms(self.clock.now())
        self.batcher.note(
            [
                Event(group.topic, p.message.seq, group.name, now_ms, event, session.subject, "", p.deliveries)
                for p in held
            ]
        )

    def _want(self, effects: Effects) -> None:
        for (group, priority), count in effects.wants.items():
            if group in self._open:
                self.store.want(group, priority, count)
            elif group in self._opening:
                self._opening[group][priority] = count
            else:
                self._open_group(group, {priority: count})

    def _want_key(self, want: KeyWant) -> None:
        """The store will read what the core let go of; what was said of it before must be durable by then."""

        def ask(error: StoreError | None) -> None:
            if error is None and want.group in self._open:
                self.store.want_key(want.group, want.priority, want.key, want.after_seq, want.count)

        if self.batcher.settled:
            ask(None)
        else:
            self.batcher.after_commit(ask)

    def _open_group(self, group: Group, demand: dict[int, int]) -> None:
        """The store will read the group from the beginning. What was settled before must be durable by then, or it
        would be read, delivered, and perhaps acked, a second time."""
        self._opening[group] = demand
        if self.batcher.settled:
            self._opened(group, demand)
        else:
            self.batcher.after_commit(lambda error: None if error else self._opened(group, demand))

    def _opened(self, group: Group, demand: dict[int, int]) -> None:
        if self._opening.get(group) is not demand:
            return  # forgotten, and perhaps opened again, meanwhile
        del self._opening[group]
        self._open.add(group)
        for priority, count in demand.items():
            self.store.want(group, priority, count)
        self._arm()

    # --- what the store says -----------------------------------------------------------------------------------

    def arrived(
        self,
        group: Group,
        priority: int,
        messages: Sequence[Message],
        counts: Sequence[tuple[int, int]] | None,
        blocked: Sequence[tuple[int, str]],
    ) -> None:
        """See `Consumer` in pushwire_storage.base, as for the next six."""
        self.core.arrived(group, priority, messages, counts, self.clock.now(), blocked)

    def caught_up(self, group: Group, priority: int, yes: bool) -> None:
        self.core.caught_up(group, priority, yes, self.clock.now())

    def arrived_key(
        self,
        group: Group,
        priority: int,
        key: str,
        messages: Sequence[Message],
        counts: Sequence[tuple[int, int]] | None,
        through: int,
    ) -> None:
        self.core.arrived_key(group, priority, key, messages, counts, through, self.clock.now())

    def tailed(self, topic: Topic, messages: Sequence[Message]) -> None:
        self.tails.committed(topic, messages)

    def expired(self, group: Group, messages: Sequence[Message]) -> None:
        """Nobody has these in hand, so the core knows nothing of them, but that they may hold keys."""
        now = self.clock.now()
        now_ms = to_ms(now)
        size_bytes = sum([message.size_bytes + OVERHEAD_BYTES for message in messages])
        self.expired_on_disk += len(messages)
        if group.topic.config.expired == "drop":
            settlements: list[Settlement] = [Done(group, messages)]
        else:
            self.died["expired"] += len(messages)
            settlements = [Dead(group, message, "expired", None, 0, 0, now_ms) for message in messages]
        self.batcher.settle(settlements, size_bytes)
        if group.topic.config.ledger != "off":
            over = [Event(group.topic, m.seq, group.name, now_ms, "dead", "", "", 0, "expired") for m in messages]
            self.batcher.note(over)
        for priority in {message.priority for message in messages}:
            seqs = [message.seq for message in messages if message.priority == priority]
            self.core.vanished(group, priority, seqs, now)

    def lapsed(self, group: Group, messages: Sequence[Message]) -> None:
        self.core.lapsed(group, messages, self.clock.now())

    def turn_over(self) -> None:
        self.turn()

    # --- time --------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        deadline = self.core.next_deadline()
        tick_ms = None if self.batcher.ticking else self.store.next_tick_ms()
        for at_ms in (self.store.next_due_ms(), tick_ms):
            if at_ms is not None and (deadline is None or at_ms / 1000 < deadline):
                deadline = at_ms / 1000
        if deadline is None or deadline >= self._timer_at - TIMER_SLACK_S:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - self.clock.now()), self._fire)

    def _fire(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        now = self.clock.now()
        now_ms = to_ms(now)
        self.core.handle_timer(now)
        due_ms = self.store.next_due_ms()
        if due_ms is not None and due_ms <= now_ms:
            self.store.due(now_ms)
        tick_ms = self.store.next_tick_ms()
        if tick_ms is not None and tick_ms <= now_ms:
            self.batcher.tick()
        self.turn()

    # --- the end -----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """No timer any more, and no batch after the one under way."""
        self.batcher.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = float("-inf")

    async def settled(self, deadline: float) -> None:
        """Wait until everything given to the store is durable, at most until `deadline` (loop time)."""
        loop = asyncio.get_running_loop()
        while not self.batcher.idle and self.batcher.broken is None and loop.time() < deadline:
            await self.committed(deadline)

    async def committed(self, deadline: float) -> None:
        """Wait for the batch under way and for the next one, at most until `deadline` (loop time): what was asked for
        up to now has its answer then, unless more waits than a batch may hold."""
        if self.batcher.idle or self.batcher.broken is not None:
            return
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def committed(_error: StoreError | None) -> None:
            if not over.done():
                over.set_result(None)

        self.batcher.after_commit(committed)
        await asyncio.wait([over], timeout=max(0.0, deadline - loop.time()))
