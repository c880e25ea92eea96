"""The asyncio half of a client that needs no socket: clock, timer, notes of the session, and the verbs of the user.

Owns what turns the session's answers into awaitables. The connection is client.py's; decisions are the session's. No
method here calls user code, and none is called while user code waits for it to return.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from .backoff import Backoff, Reason, Reconnector
from .collector import Collector, Slot
from .consumer import Consumer, Phase
from .drafts import PublishItem, check_topic, make_draft
from .errors import ClientClosed, NotConnected, RequestTimeout, again
from .events import Events, EventStream
from .follower import Follower
from .options import (
    Start,
    ack_timeout_ms,
    check_name,
    check_prefetch,
    check_private,
    check_resume_grace,
    check_tail,
    inactive_ttl_ms,
    wire_start,
)
from .publisher import Outgoing
from .roster import Member
from .session import Session
from .states import Drop, Effect, Note, State, StateChange
from .subscription import Subscription
from .tail import Tail
from .wire.frames import Draft, Receipt

log = logging.getLogger("pushwire")

LEAVE_TIMEOUT_S = 2.0
"""For the gateway to confirm an unsubscribe; what it does not confirm, the end of the connection will say."""


class Shell:
    """A session with a clock. A subclass moves the bytes: it sets `_loop` when it starts, sends when `_output` is set,
    calls `_after` after everything it feeds to the session, and ends the link in `_drop`."""

    def __init__(
        self,
        reconnect: Backoff,
        *,
        refreshable: bool,
        connect_timeout_s: float,
        request_timeout_s: float,
        resume_grace_s: float = 0.0,
    ) -> None:
        self._request_timeout_s = request_timeout_s
        self._output = asyncio.Event()
        self._session = Session(
            Reconnector(reconnect, random.random, refreshable=refreshable),
            random.random,
            self._output.set,
            refreshable=refreshable,
            connect_timeout_s=connect_timeout_s,
            resume_grace_s=check_resume_grace(resume_grace_s),
            on_room=self._let_in,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events = Events()
        self._changes: list[asyncio.Future[None]] = []
        self._room_waiters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    # --- for the subclass --------------------------------------------------------------------------------------

    def _drop(self, why: str) -> None:
        """End the link without a handshake."""
        raise NotImplementedError

    def _heard_at(self) -> float:
        """When the link last brought bytes."""
        raise NotImplementedError

    def _want_token(self, reason: Reason) -> None:
        """Fetch a token, without waiting for it here, and hand it to the session."""
        raise NotImplementedError

    def _after(self) -> None:
        """Act on what the session noted, and see that its next deadline is met."""
        effects = self._session.effects
        while effects:
            self._apply(effects.pop(0))
        due = self._session.next_deadline()
        if due < self._timer_at:
            self._arm(due)

    def _apply(self, effect: Effect) -> None:
        if isinstance(effect, StateChange):
            self._changed(effect)
        elif isinstance(effect, Note):
            log.log(effect.level, "%s", effect.text)
        elif isinstance(effect, Drop):
            self._drop(effect.why)
        else:
            self._want_token(effect.reason)

    def _changed(self, change: StateChange) -> None:
        level = logging.INFO if change.error is None else logging.WARNING
        again_in = "" if change.retry_in_s is None else f", next attempt in {change.retry_in_s:.1f} s"
        log.log(level, "%s%s%s", change.state.value, f": {change.error}" if change.error else "", again_in)
        self._events.put(change)
        changes, self._changes = self._changes, []
        for waiter in changes:
            if not waiter.done():
                waiter.set_result(None)

    def _arm(self, at: float) -> None:
        """One timer. It may be early, never late: most deadlines move away before they come."""
        if self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        now = max(self._now(), self._timer_at)  # a loop may call a little early; the session would not notice
        self._timer, self._timer_at = None, float("inf")
        self._session.liveness.heard(self._heard_at())
        self._session.handle_timer(now)
        self._after()

    def _now(self) -> float:
        return 0.0 if self._loop is None else self._loop.time()

    def _check(self) -> asyncio.AbstractEventLoop:
        """The loop, while the client can be used. Raises what closed it."""
        if self._loop is None:
            raise RuntimeError("open the client with `async with` before using it")
        if self._session.state is State.CLOSED or self._session.closing:
            raise again(self._session.error or ClientClosed("the client is closed"))
        return self._loop

    async def _in_time(self, waiter: asyncio.Future[None], timeout_s: float) -> bool:
        """Whether a drain ended in time."""
        self._after()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
            return True
        except TimeoutError:
            return False
        finally:
            self._session.drained()

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._session.state

    @property
    def error(self) -> Exception | None:
        """What closed the client, where nobody asked for it."""
        return self._session.error

    def events(self) -> EventStream:
        """Changes of state from now on, as an async iterator that ends when the client is closed."""
        return self._events.open(ended=self._session.state is State.CLOSED)

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Until the gateway has said welcome. Raises NotConnected after `timeout_s` (None: no limit), or what closed
        the client."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._session.connected:
                    change: asyncio.Future[None] = self._check().create_future()
                    self._changes.append(change)
                    await change
        except TimeoutError:
            raise NotConnected(f"not connected within {timeout_s} s") from self._session.publisher.last_failure

    # --- publish -----------------------------------------------------------------------------------------------

    async def publish(  # noqa: PLR0913 - what a message may say, by name
        self,
        topic: str,
        data: Any,
        *,
        id: str | None = None,
        key: str | None = None,
        priority: int | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        delay_s: float | None = None,
        deliver_at: datetime | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Publish one message; returns once it is durable. `data`: bytes are sent as they are, `Text("…")` as text,
        everything else as a JSON value. `id`: the dedupe key; a fresh one by default.

        `delay_s`: groups get it so much later than the gateway took it; `deliver_at`: not before this time (with a
        zone; a past one means at once). `ttl_s`: expires, unless settled, so long after it became deliverable: into the
        dead letters, or away, as the topic says. Each at most 366 days. Tails see a message when it is stored.

        Retried with the same id, over reconnects and refusals that may pass, until `timeout_s` (the client's
        `request_timeout_s` by default; beyond the gateway's window of 10 minutes a retry could store it twice). A retry
        whose first try did arrive has a receipt that says `duplicate`. Calls of one turn of the event loop share an
        operation; their order is kept, except where one has to be retried.

        Raises PublishError and its kinds, Forbidden, RateLimited: not stored. NotConnected: never sent. RequestTimeout,
        ClientClosed: may or may not be stored."""
        loop = self._check()
        check_topic(topic)
        draft, size_bytes = make_draft(data, id, key, priority, headers, content_type, delay_s, deliver_at, ttl_s)
        deadline = loop.time() + (self._request_timeout_s if timeout_s is None else timeout_s)
        if not self._session.publisher.room():
            await self._room(deadline)
        waiter: asyncio.Future[Receipt] = loop.create_future()
        self._send(Outgoing(topic, draft, size_bytes, deadline, waiter))
        return await waiter

    async def publish_many(self, topic: str, items: Iterable[Any], *, timeout_s: float | None = None) -> list[Receipt]:
        """Publish many messages to one topic, as few operations as their sizes allow. An item is a message's data, or a
        PublishItem. Returns the receipts in order; what is retried, and until when, is as in `publish`, for each item
        from when it was its turn. Not atomic: when some are refused, raises BatchError, which has every outcome."""
        loop = self._check()
        check_topic(topic)
        drafts = [_item_draft(item) for item in items]
        if not drafts:
            return []
        whole: asyncio.Future[list[Receipt]] = loop.create_future()
        collector = Collector(len(drafts), whole)
        wait_s = self._request_timeout_s if timeout_s is None else timeout_s
        for index, (draft, size_bytes) in enumerate(drafts):
            deadline = loop.time() + wait_s
            slot = Slot(collector, index)
            try:
                while not self._session.publisher.room():
                    await self._room(deadline)
            except (NotConnected, RequestTimeout) as exc:
                slot.set_exception(exc)
                continue
            except asyncio.CancelledError:
                whole.cancel()  # what is under way has nobody left who waits for it
                raise
            self._send(Outgoing(topic, draft, size_bytes, deadline, slot))
        return await whole

    def _send(self, entry: Outgoing) -> None:
        self._session.publish(entry)
        self._after()

    async def _room(self, deadline: float) -> None:
        """Until the window of unconfirmed messages has room. Raises RequestTimeout or NotConnected."""
        try:
            while not self._session.publisher.room():
                waiter: asyncio.Future[None] = self._check().create_future()
                self._room_waiters.append(waiter)
                async with asyncio.timeout_at(deadline):
                    await waiter
            self._check()
        except TimeoutError:
            if self._session.connected:
                raise RequestTimeout("not sent: the window of unconfirmed messages stayed full") from None
            raise NotConnected("not sent: no connection in time") from self._session.publisher.last_failure
        finally:
            self._let_in()  # room for one more, or, if this one goes without, for the next

    def _let_in(self) -> None:
        """The window may have room: let the next caller look."""
        waiters = self._room_waiters
        while waiters and (self._session.closing or self._session.publisher.room()):
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    # --- subscribe ---------------------------------------------------------------------------------------------

    def subscribe(
        self,
        topic: str,
        group: str = "default",
        *,
        prefetch: int | None = None,
        ack_timeout_s: float | None = None,
        start: Start | None = None,
        private: bool = False,
        client_id: str | None = None,
        inactive_ttl_s: float | None = None,
        extend: bool = False,
    ) -> Subscription:
        """A member of `group`, to be opened by `async with`. `prefetch`: messages it may hold, 1 to 1000.
        `ack_timeout_s`: how long each may be held, 0.1 s to 12 h; the gateway may grant less of either.

        Where this creates the group: it begins at `start` (see Start; by default the first group of a topic at
        "earliest", later ones at "new"), is deleted `inactive_ttl_s` after its last member left (1 s to 366 days;
        default: never), and, with `private`, belongs to this subject and `client_id` (a name that outlives this
        process): durable delivery to one device.

        `extend`: renew the leases of everything that is held, queued here or in a handler, when a third of the ack
        timeout has passed, for handlers that may take long. Without it a message that has waited here for two thirds of
        its time is given back."""
        check_topic(topic)
        consumer = Consumer(
            self._session.settlements,
            self._session.roster.new_name(),
            topic,
            check_name("group", group),
            clock=self._now,
            prefetch=check_prefetch(prefetch),
            ack_timeout_ms=ack_timeout_ms(ack_timeout_s),
            start=None if start is None else wire_start("start", start),
            client_id=check_private(private, client_id),
            inactive_ttl_ms=inactive_ttl_ms(inactive_ttl_s),
            extend=extend,
            request_timeout_s=self._request_timeout_s,
        )
        return Subscription(self, consumer)

    def tail(
        self, topic: str, *, from_: Start | None = None, epoch: str | None = None, after_seq: int | None = None
    ) -> Tail:
        """Every message of a topic, without group and leases, to be opened by `async with`; needs the right `replay`
        (`$sys.stats`: `admin`). Begins at `from_` (see Start; default "new"), or goes on after `after_seq` of `epoch`,
        as a former tail's `position` said; then EpochChanged means that the database was restored meanwhile."""
        start = check_tail(topic, from_, epoch, after_seq)
        follower = Follower(self._session.roster.new_name(), topic, start, epoch, after_seq or 0)
        return Tail(self, follower)

    async def open(self, member: Member) -> None:
        """For Subscription and Tail: begin, and wait for the grant."""
        loop = self._check()
        if self._session.state is State.DRAINING:
            raise ClientClosed("the client is draining")
        if member.phase is not Phase.NEW:
            raise RuntimeError("a subscription is opened once")
        waiter: asyncio.Future[None] = loop.create_future()
        self._session.roster.add(member, waiter)
        self._after()
        try:
            async with asyncio.timeout(self._request_timeout_s):
                await waiter
        except BaseException as exc:
            self._session.roster.remove(member, loop.create_future())
            self._after()
            if not isinstance(exc, TimeoutError):
                raise
            if self._session.connected:
                raise RequestTimeout("the subscription was not granted in time") from None
            raise NotConnected("not subscribed: no connection in time") from self._session.publisher.last_failure

    async def leave(self, member: Member) -> None:
        """For Subscription and Tail: end it."""
        if self._loop is None:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._session.roster.remove(member, waiter)
        self._after()
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await waiter
        except TimeoutError:
            log.warning("the gateway did not confirm the end of a subscription to %s", member.topic)

    def refill(self, follower: Follower) -> None:
        """For Tail: its reader has caught up."""
        self._session.roster.refill(follower)
        self._after()

    async def drain_one(self, consumer: Consumer, timeout_s: float) -> bool:
        """For Subscription: drain it."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._session.drain_one(consumer, waiter)
        return await self._in_time(waiter, timeout_s)

    def set_flow(self, consumer: Consumer) -> None:
        """For Subscription: its window changed."""
        self._session.roster.set_flow(consumer)
        self._after()


def _item_draft(item: Any) -> tuple[Draft, int]:
    if isinstance(item, PublishItem):
        return make_draft(
            item.data,
            item.id,
            item.key,
            item.priority,
            item.headers,
            item.content_type,
            item.delay_s,
            item.deliver_at,
            item.ttl_s,
        )
    return make_draft(item)
