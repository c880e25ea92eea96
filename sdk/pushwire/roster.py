"""The subscriptions and tails of one client: opened, restored after a reconnect, slowed, left.

Owns which exist and what the gateway knows of each. What a subscription holds is consumer.py's, where a tail stands
follower.py's. Pure: `now` is handed in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from .consumer import Consumer, Phase
from .credentials import Credentials
from .errors import ClientClosed, PushwireError, SubscribeError, again, from_reply
from .exchange import Exchange
from .follower import Follower
from .liveness import INFINITY
from .publisher import Waiter
from .settlements import Settlements
from .wire.frames import Error, Flow, Gap, Messages, Ok, Tailed, Unsubscribe

Member = Consumer | Follower


class Roster:
    """All subscriptions, by name."""

    def __init__(self, exchange: Exchange, settlements: Settlements, credentials: Callable[[], Credentials]) -> None:
        self._exchange = exchange
        self._settlements = settlements
        self._credentials = credentials
        self.consumers: dict[str, Consumer] = {}
        self.followers: dict[str, Follower] = {}
        self._names = itertools.count(1)
        self._subscribing: set[str] = set()
        self._leaving: set[str] = set()

    def new_name(self) -> str:
        """A name that this client has not used."""
        return f"s{next(self._names)}"

    def _members(self) -> Iterator[Member]:
        yield from self.consumers.values()
        yield from self.followers.values()

    def _find(self, name: str) -> Member | None:
        return self.consumers.get(name) or self.followers.get(name)

    def _put(self, member: Member) -> None:
        if isinstance(member, Consumer):
            self.consumers[member.name] = member
        else:
            self.followers[member.name] = member

    # --- begin -------------------------------------------------------------------------------------------------

    def add(self, member: Member, waiter: Waiter) -> None:
        """Open it, now or once there is a connection, and again after each reconnect. `waiter` is told of the first
        grant or the refusal."""
        member.phase = Phase.OPENING
        member.opening = waiter
        self._put(member)
        self._subscribe(member)

    def restore(self) -> None:
        """There is a connection, or a right, that was not there before."""
        for member in self._members():
            self._subscribe(member)

    def _subscribe(self, member: Member, _now: float = 0.0) -> None:
        exchange = self._exchange
        if not exchange.connected or exchange.leaving or exchange.resuming or member.phase is not Phase.OPENING:
            return
        if isinstance(member, Follower) and member.stalled:
            return
        if member.name not in self._subscribing:
            self._subscribing.add(member.name)
            exchange.request(member.subscribe_frame, partial(self._subscribed, member, member.name))

    def _subscribed(self, member: Member, name: str, frame: Ok | Error | None, now: float) -> None:
        self._subscribing.discard(name)
        wanted = self._find(name) is member
        if isinstance(frame, Ok):
            if not wanted:  # given up while the request was under way
                self._leave(name, None)
                return
            member.granted(frame)
            if isinstance(member, Consumer):
                self.set_flow(member, only_stopped=True)
            opening, member.opening = member.opening, None
            if opening is not None and not opening.done():
                opening.set_result(None)
        elif frame is not None and wanted:
            if frame.retryable:
                self._exchange.at(self._exchange.retry_at(frame, now), partial(self._subscribe, member))
            elif frame.code == "unauthorized" and self._credentials().refreshable:
                self._credentials().refused(now)
            else:
                error = from_reply(frame, SubscribeError)
                self.end(member, error, error)

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

    def show(self, frame: Tailed | Gap) -> None:
        """What a tail is shown, or has lost."""
        follower = self.followers.get(frame.sub)
        if follower is None:
            if frame.sub not in self._leaving:
                self._leave(frame.sub, None)
        elif isinstance(frame, Tailed):
            follower.show(frame)
            if follower.overflows():
                self._stall(follower)
        else:
            follower.gap(frame)

    def _stall(self, follower: Follower) -> None:
        """Nobody reads it: no more of it until somebody has."""
        del self.followers[follower.name]
        self._leave(follower.name, None)
        follower.stall(self.new_name())
        self._put(follower)

    def refill(self, follower: Follower) -> None:
        """There is room again in a tail that was left."""
        follower.stalled = False
        self._subscribe(follower)

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
        for member in self._members():
            member.void()

    def hold(self) -> None:
        """The connection is gone; the session may be resumed, and the leases with it."""
        self._subscribing.clear()
        self._leaving.clear()
        for consumer in self.consumers.values():
            consumer.hold()
        for follower in self.followers.values():
            follower.void()

    def resumed(self, subs: Mapping[str, Sequence[str]]) -> None:
        """The session was taken over, with these leases by subscription. Call `restore` after it."""
        unknown: list[str] = []
        for name, leases in subs.items():
            consumer = self.consumers.get(name)
            if consumer is not None and consumer.away:
                unknown += consumer.resumed(leases)
                self.set_flow(consumer, only_stopped=True)
            else:
                # Left meanwhile, or granted while the connection died: the gateway is to forget it, with its leases,
                # before it is asked for again.
                self._exchange.request(partial(Unsubscribe, name), _ignore)
        for consumer in self.consumers.values():
            if consumer.away:
                consumer.void()
        self._settlements.resumed(unknown)

    def abandon(self) -> None:
        """Give up every subscription at the gateway, so that what is held goes back at once: a session that may be
        resumed would keep it for a while."""
        for consumer in self.consumers.values():
            if consumer.phase in (Phase.ACTIVE, Phase.DRAINING):
                self._exchange.request(partial(Unsubscribe, consumer.name), _ignore, last=True)

    def remove(self, member: Member, waiter: Waiter) -> None:
        """Over, by the user: what was not settled goes back. `waiter` is told when the gateway knows."""
        known = self._find(member.name) is member
        stalled = isinstance(member, Follower) and member.stalled
        self.end(member, None, ClientClosed("the subscription was closed"))
        if known and not stalled and self._exchange.connected and member.name not in self._subscribing:
            self._leave(member.name, waiter)
        elif not waiter.done():
            waiter.set_result(None)

    def end(self, member: Member, error: PushwireError | None, told: PushwireError) -> None:
        """Over: iteration ends, with `error` if there is one; who still waits for it to begin is told."""
        self.consumers.pop(member.name, None)
        self.followers.pop(member.name, None)
        if isinstance(member, Follower):
            member.end(error, self._exchange.epoch)
        else:
            member.end(error)
        opening, member.opening = member.opening, None
        if opening is not None and not opening.done():
            opening.set_exception(again(told))

    def end_all(self, error: PushwireError | None) -> None:
        for member in list(self._members()):
            self.end(member, error, error or ClientClosed("the client was closed"))

    def trouble(self, name: str, frame: Error, now: float) -> None:
        """The gateway ended this subscription; its leases are gone."""
        member = self._find(name)
        if member is None:
            return
        if frame.code == "unauthorized" and self._credentials().refreshable:
            member.void()  # a fresh token brings it back
            self._credentials().refused(now)
        elif frame.retryable and isinstance(member, Follower):
            member.void()  # its store could not be read now; nothing is lost by reading on later
            self._exchange.at(self._exchange.retry_at(frame, now), partial(self._subscribe, member))
        else:
            error = from_reply(frame, SubscribeError)
            self.end(member, error, error)

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


def _ignore(_frame: Ok | Error | None, _now: float) -> None:
    """Whatever the gateway says: it does not know the subscription any more, or the connection ends."""
