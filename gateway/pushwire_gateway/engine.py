"""The sole owner of the delivery core: clock in, effects out, one timer.

Owns the order of things: what the core decided is given to the batcher, the store and the sessions here and nowhere
else. Never awaits, so every entry point is one whole step that ends in `turn()`. Knows no frame, no right, no SQL.
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
    CreateGroup,
    CreateTopic,
    Dead,
    Done,
    Group,
    Message,
    Refused,
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
from .core.model import Counted, Effects, Pending, Retried, Session, Settled, Subscription
from .core.retry import RetryPolicy
from .settings import Settings

TIMER_SLACK_S = 0.0005
"""A timer armed at most this much too early is left alone; re-arming for less costs more than it gains."""


class Loop(Protocol):
    """What the engine needs of an event loop; the simulator has its own."""

    def call_soon(self, callback: Callable[[], None]) -> object: ...
    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any: ...


class Client(Protocol):
    """What the core's sessions are linked to."""

    def push(self, sub: Subscription, deliveries: list[Pending], now: float) -> None:
        """Send these; flushed at the end of the turn."""

    def flush(self) -> None:
        """Hand what was queued to the transport, in one write."""


TopicReady = Callable[[Topic | None, StoreError | Refused | None], None]
GroupReady = Callable[[Group | None, StoreError | None], None]
Outcome = Callable[[Append, StoreError | None], None]
Failed = Callable[[StoreError | Refused | None], None]


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
        self._clock = clock
        self._loop = loop
        self.core = Delivery(
            rng,
            retry=RetryPolicy(
                settings.max_failures, settings.max_deliveries, settings.backoff_cap_s, settings.backoff_cap_s_max
            ),
            ready_bytes_max=settings.ready_bytes_max,
            release_hold_s=settings.release_hold_s,
            lease_age_s_max=settings.lease_age_s_max,
        )
        self.batcher = Batcher(
            store,
            lambda: to_ms(clock.now()),
            loop.call_soon,
            loop.call_later,
            on_broken,
            self.turn,
            batch_messages_max=settings.batch_messages_max,
            batch_bytes_max=settings.batch_bytes_max,
            waiting_messages_max=settings.batcher_messages_max,
            waiting_bytes_max=settings.batcher_bytes_max,
        )
        self._timer: Any = None
        self._timer_at = float("inf")
        self._dirty: dict[Client, None] = {}
        self._opening: dict[Group, dict[int, int]] = {}  # groups whose first demand waits for older settlements
        self._open: set[Group] = set()
        self._topics_coming: dict[tuple[str, str], list[TopicReady]] = {}
        self._groups_coming: dict[tuple[int, str], list[GroupReady]] = {}
        self._topics_of_tenant: dict[str, int] = {}
        self._groups_coming_of: Counter[int] = Counter()  # by topic id

    async def start(self) -> None:
        """Open the store. Raises its errors."""
        await self.store.open(self._arrived, to_ms(self._clock.now()))
        for tenant, _ in self.store.topics:
            self._topics_of_tenant[tenant] = self._topics_of_tenant.get(tenant, 0) + 1

    # --- topics and groups -------------------------------------------------------------------------------------

    def topic(self, tenant: str, name: str) -> Topic | None:
        return self.store.topics.get((tenant, name))

    def topics_of(self, tenant: str) -> int:
        """Topics the tenant has, those being created included."""
        return self._topics_of_tenant.get(tenant, 0)

    def create_topic(self, tenant: str, name: str, ready: TopicReady) -> None:
        """Call `ready` with the topic, creating it first where needed. Callers of one topic are served in order."""
        coming = self._topics_coming.get((tenant, name))
        if coming is not None:
            coming.append(ready)
            return
        topic = self.topic(tenant, name)
        if topic is not None:
            ready(topic, None)
            return
        self._topics_coming[(tenant, name)] = [ready]
        self._topics_of_tenant[tenant] = self.topics_of(tenant) + 1
        change = CreateTopic(tenant, name)

        def done(error: StoreError | None) -> None:
            if change.result is None:
                self._topics_of_tenant[tenant] -= 1
            for waiting in self._topics_coming.pop((tenant, name)):
                waiting(change.result, error or change.refused)

        self.batcher.change(change, done)

    def may_add_group(self, topic: Topic, name: str, groups_max: int) -> bool:
        """Whether the topic may have one group more, those being created included; or is being given this one."""
        return (topic.id, name) in self._groups_coming or (
            len(topic.groups) + self._groups_coming_of[topic.id] < groups_max
        )

    def create_group(self, topic: Topic, name: str, start: str | None, ready: GroupReady) -> None:
        """Call `ready` with the group, creating it first where needed."""
        coming = self._groups_coming.get((topic.id, name))
        if coming is not None:
            coming.append(ready)
            return
        group = topic.groups.get(name)
        if group is not None:
            ready(group, None)
            return
        self._groups_coming[(topic.id, name)] = [ready]
        self._groups_coming_of[topic.id] += 1
        change = CreateGroup(topic, name, start)

        def done(error: StoreError | None) -> None:
            self._groups_coming_of[topic.id] -= 1
            if not self._groups_coming_of[topic.id]:
                del self._groups_coming_of[topic.id]
            for waiting in self._groups_coming.pop((topic.id, name)):
                waiting(change.result, error)

        self.batcher.change(change, done)

    # --- publish -----------------------------------------------------------------------------------------------

    def publish(self, topic: Topic, messages: Sequence[Message], size_bytes: int, done: Outcome) -> None:
        """Store these, all or none. `done` is called once the answer is durable, or the batch failed."""
        append = Append(topic, messages)

        def written(error: StoreError | None) -> None:
            done(append, error)

        self.batcher.append(append, size_bytes, written)

    def publish_first(
        self, tenant: str, name: str, messages: Sequence[Message], size_bytes: int, done: Outcome, failed: Failed
    ) -> None:
        """As `publish`, to a topic that has to be created first; `failed` is called instead if it cannot be. They wait
        as other publishes do, and take the same room."""
        self.batcher.reserve(len(messages), size_bytes)

        def created(topic: Topic | None, why: StoreError | Refused | None) -> None:
            self.batcher.unreserve(len(messages), size_bytes)
            if topic is None:
                failed(why)
            else:
                self.publish(topic, messages, size_bytes, done)

        self.create_topic(tenant, name, created)

    # --- consume -----------------------------------------------------------------------------------------------

    def subscribe(self, session: Session, name: str, group: Group, prefetch: int, ack_timeout_s: float) -> Subscription:
        return self.core.subscribe(session, name, group, prefetch, ack_timeout_s, self._clock.now())

    def unsubscribe(self, session: Session, subs: Sequence[Subscription]) -> None:
        self.core.unsubscribe(session, subs, self._clock.now())

    def disconnect(self, session: Session, *, drained: bool = False) -> None:
        """The session's leases go back at once."""
        self.core.disconnect(session, self._clock.now(), drained=drained)

    def after_commit(self, callback: Callable[[StoreError | None], None]) -> None:
        """Call when every settlement decided so far is durable."""
        self._drain()
        self.batcher.after_commit(callback)

    # --- the turn ----------------------------------------------------------------------------------------------

    def touch(self, client: Client) -> None:
        """The client has something to flush at the end of the turn."""
        self._dirty[client] = None

    def turn(self) -> None:
        """End of an entry point: carry out what the core decided, write once to each connection, arm the timer."""
        self._drain()
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for client in dirty:
                client.flush()
        self._arm()

    def _drain(self) -> None:
        effects = self.core.effects()
        if effects.pushes:
            now = self._clock.now()
            for sub, deliveries in effects.pushes.items():
                client: Client = sub.session.link
                client.push(sub, deliveries, now)
                self._dirty[client] = None
        if effects.settlements:
            self.batcher.settle(
                [self._settlement(settlement) for settlement in effects.settlements], effects.settled_bytes
            )
        if effects.forgets:
            self._forget(effects)
        if effects.wants:
            self._want(effects)

    def _settlement(self, effect: Any) -> Settlement:
        kind = type(effect)
        if kind is Settled:
            return Done(effect.group, effect.messages)
        if kind is Retried:
            return Retry(effect.group, effect.message, ceil(effect.due * 1000), effect.deliveries, effect.failures)
        if kind is Counted:
            return StoreCounted(effect.group, effect.message, effect.deliveries, effect.failures)
        return Dead(
            effect.group,
            effect.message,
            effect.reason,
            effect.error,
            effect.deliveries,
            effect.failures,
            to_ms(self._clock.now()),
        )

    def _forget(self, effects: Effects) -> None:
        for group in effects.forgets:
            self._open.discard(group)
            self._opening.pop(group, None)
            self.store.forget(group)

    def _want(self, effects: Effects) -> None:
        for (group, priority), count in effects.wants.items():
            if group in self._open:
                self.store.want(group, priority, count)
            elif group in self._opening:
                self._opening[group][priority] = count
            else:
                self._open_group(group, {priority: count})

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

    def _arrived(
        self, group: Group, priority: int, messages: Sequence[Message], counts: Sequence[tuple[int, int]] | None
    ) -> None:
        self.core.arrived(group, priority, messages, counts, self._clock.now())
        self.turn()

    # --- time --------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        deadline = self.core.next_deadline()
        due_ms = self.store.next_due_ms()
        if due_ms is not None:
            due = due_ms / 1000
            deadline = due if deadline is None or due < deadline else deadline
        if deadline is None or deadline >= self._timer_at - TIMER_SLACK_S:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - self._clock.now()), self._fire)

    def _fire(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        now = self._clock.now()
        self.core.handle_timer(now)
        due_ms = self.store.next_due_ms()
        if due_ms is not None and due_ms <= to_ms(now):
            self.store.due(to_ms(now))
        self.turn()

    def stop(self) -> None:
        """No timer any more. The batcher may still have work."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = float("-inf")

    async def settled(self, deadline: float) -> None:
        """Wait until everything given to the store is durable, at most until `deadline` (loop time)."""
        loop = asyncio.get_running_loop()
        while not self.batcher.idle and self.batcher.broken is None and loop.time() < deadline:
            over: asyncio.Future[None] = loop.create_future()

            def committed(_error: StoreError | None, over: asyncio.Future[None] = over) -> None:
                if not over.done():
                    over.set_result(None)

            self.batcher.after_commit(committed)
            await asyncio.wait([over], timeout=max(0.0, deadline - loop.time()))
