"""The subscriptions of one client: opened, restored after a reconnect, slowed, left.

Owns which exist and what the gateway knows of each. What a subscription holds is consumer.py's. Pure: `now` is handed
in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

from .consumer import Consumer, Phase
from .credentials import Credentials
from .errors import ClientClosed, PushwireError, SubscribeError, again, from_reply
from .exchange import Exchange
from .liveness import INFINITY
from .publisher import Waiter
from .settlements import Settlements
from .wire.frames import Error, Flow, Messages, Ok, Unsubscribe


class Roster:
    """All subscriptions, by name."""

    def __init__(self, exchange: Exchange, settlements: Settlements, credentials: Callable[[], Credentials]) -> None:
        self._exchange = exchange
        self._settlements = settlements
        self._credentials = credentials
        self.consumers: dict[str, Consumer] = {}
        self._names = itertools.count(1)
        self._subscribing: set[str] = set()
        self._leaving: set[str] = set()

    def new_name(self) -> str:
        """A name that this client has not used."""
        return f"s{next(self._names)}"

    # --- begin -------------------------------------------------------------------------------------------------

    def add(self, consumer: Consumer, waiter: Waiter) -> None:
        """Open it, now or once there is a connection, and again after each reconnect. `waiter` is told of the first
        grant or the refusal."""
        consumer.phase = Phase.OPENING
        consumer.opening = waiter
        self.consumers[consumer.name] = consumer
        self._subscribe(consumer)

    def restore(self) -> None:
        """There is a connection, or a right, that was not there before."""
        for consumer in self.consumers.values():
            self._subscribe(consumer)

    def _subscribe(self, consumer: Consumer, _now: float = 0.0) -> None:
        exchange = self._exchange
        if not exchange.connected or exchange.leaving or consumer.phase is not Phase.OPENING:
            return
        if consumer.name not in self._subscribing:
            self._subscribing.add(consumer.name)
            exchange.request(consumer.subscribe_frame, partial(self._subscribed, consumer))

    def _subscribed(self, consumer: Consumer, frame: Ok | Error | None, now: float) -> None:
        self._subscribing.discard(consumer.name)
        wanted = self.consumers.get(consumer.name) is consumer
        if isinstance(frame, Ok):
            if not wanted:  # given up while the request was under way
                self._leave(consumer.name, None)
                return
            consumer.granted(frame.prefetch, frame.ack_timeout_ms)
            self.set_flow(consumer, only_stopped=True)
            opening, consumer.opening = consumer.opening, None
            if opening is not None and not opening.done():
                opening.set_result(None)
        elif frame is not None and wanted:
            if frame.retryable:
                self._exchange.at(self._exchange.retry_at(frame, now), partial(self._subscribe, consumer))
            elif frame.code == "unauthorized" and self._credentials().refreshable:
                self._credentials().refused(now)
            else:
                error = from_reply(frame, SubscribeError)
                self.end(consumer, error, error)

    # --- in between --------------------------------------------------------------------------------------------

    def deliver(self, frame: Messages, now: float) -> float:
        """A push. When the first of what it brought is due."""
        consumer = self.consumers.get(frame.sub)
        if consumer is not None:
            consumer.deliver(frame, now)
            return consumer.due_at()
        if frame.sub not in self._leaving:
            # Not ours any more, and the gateway does not know: give back what came, and say so.
            self._settlements.release([delivery.lease for delivery in frame.deliveries])
            self._leave(frame.sub, None)
        return INFINITY

    def set_flow(self, consumer: Consumer, _now: float = 0.0, *, only_stopped: bool = False) -> None:
        """Tell the gateway the window this subscription wants now; before it is granted, the subscribe says it."""
        stopped = consumer.paused or consumer.phase is Phase.DRAINING
        granted = consumer.phase in (Phase.ACTIVE, Phase.DRAINING) and consumer.name not in self._subscribing
        if not self._exchange.connected or not granted or (only_stopped and not stopped):
            return
        if self.consumers.get(consumer.name) is consumer:
            prefetch = 0 if stopped else consumer.prefetch
            self._exchange.request(lambda ref: Flow(consumer.name, prefetch, ref), partial(self._flowed, consumer))

    def _flowed(self, consumer: Consumer, frame: Ok | Error | None, now: float) -> None:
        if isinstance(frame, Error) and frame.retryable:
            self._exchange.at(self._exchange.retry_at(frame, now), partial(self.set_flow, consumer))

    def stop(self, consumer: Consumer) -> None:
        """No more messages; what was not handed out goes back."""
        consumer.drain()
        self.set_flow(consumer)

    def handed(self) -> int:
        """Messages in the hands of handlers."""
        return sum(consumer.handed() for consumer in self.consumers.values())

    def tick(self, now: float) -> float:
        """Time passes; when something is due again."""
        soonest = INFINITY
        for consumer in self.consumers.values():
            consumer.tick(now)
            soonest = min(soonest, consumer.due_at())
        return soonest

    # --- end ---------------------------------------------------------------------------------------------------

    def lost(self) -> None:
        """The connection is gone, and every lease with it."""
        self._subscribing.clear()
        self._leaving.clear()
        for consumer in self.consumers.values():
            consumer.void()

    def remove(self, consumer: Consumer, waiter: Waiter) -> None:
        """Over, by the user: what was not settled goes back. `waiter` is told when the gateway knows."""
        known = self.consumers.get(consumer.name) is consumer
        self.end(consumer, None, ClientClosed("the subscription was closed"))
        if known and self._exchange.connected and consumer.name not in self._subscribing:
            self._leave(consumer.name, waiter)
        elif not waiter.done():
            waiter.set_result(None)

    def end(self, consumer: Consumer, error: PushwireError | None, told: PushwireError) -> None:
        """Over: iteration ends, with `error` if there is one; who still waits for it to begin is told."""
        self.consumers.pop(consumer.name, None)
        consumer.end(error)
        opening, consumer.opening = consumer.opening, None
        if opening is not None and not opening.done():
            opening.set_exception(again(told))

    def end_all(self, error: PushwireError | None) -> None:
        for consumer in list(self.consumers.values()):
            self.end(consumer, error, error or ClientClosed("the client was closed"))

    def trouble(self, name: str, frame: Error, now: float) -> None:
        """The gateway ended this subscription; its leases are gone."""
        consumer = self.consumers.get(name)
        if consumer is None:
            return
        if frame.code == "unauthorized" and self._credentials().refreshable:
            consumer.void()  # a fresh token brings it back
            self._credentials().refused(now)
        else:
            error = from_reply(frame, SubscribeError)
            self.end(consumer, error, error)

    def _leave(self, name: str, waiter: Waiter | None, _now: float = 0.0) -> None:
        self._leaving.add(name)
        self._exchange.request(lambda ref: Unsubscribe(name, ref), partial(self._left, name, waiter), last=True)

    def _left(self, name: str, waiter: Waiter | None, frame: Ok | Error | None, now: float) -> None:
        if isinstance(frame, Error) and frame.retryable:
            self._exchange.at(self._exchange.retry_at(frame, now), partial(self._leave, name, waiter))
            return
        self._leaving.discard(name)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
