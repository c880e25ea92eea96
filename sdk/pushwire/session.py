"""The client as a state machine: frames and time in, frames and notes out.

Owns the connection's state and the order of things; its parts own theirs (publisher, settlements, roster, credentials,
liveness). No I/O, no clock, no tasks: the shell in client.py moves bytes and hands in `now` (seconds on a monotonic
clock), and a test can do the same without either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

from .backoff import Loss, Reason, Reconnector
from .consumer import Consumer
from .credentials import Credentials, final_error
from .errors import ClientClosed, NotConnected, PushwireError
from .exchange import Exchange
from .liveness import INFINITY, Liveness
from .publisher import Outgoing, Publisher, Waiter
from .resumption import Resumption
from .roster import Roster
from .settlements import Settlements
from .states import Drop, Effect, Note, State, StateChange
from .wire.frames import Error, Gap, Goodbye, Malformed, Messages, Ok, Ping, Pong, Tailed, Welcome
from .wire.jsonv1 import JsonClientCodec

FRAME_BYTES_MAX = 1024 * 1024 + 16 * 1024
MESSAGE_BYTES_MAX = 1024 * 1024
"""What v1 allows at most, where a gateway does not say."""
HEAD_BYTES = 512
"""Allowance for what a publish operation has around its messages: the longest topic, the ref, brackets."""


class Session:
    """State of one client, over all its connections."""

    def __init__(
        self,
        reconnector: Reconnector,
        random: Callable[[], float],
        wake: Callable[[], None],
        *,
        refreshable: bool = False,
        connect_timeout_s: float = 10.0,
        resume_grace_s: float = 0.0,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._reconnector = reconnector
        self._wake = wake
        self._connect_timeout_s = connect_timeout_s
        self._codec = JsonClientCodec()
        self.state = State.NEW
        self.error: PushwireError | None = None
        """Why the client is closed, where nobody asked for it."""
        self.closing = False
        """Closed by this side: the shell sends what is left, then closes the link."""
        self.effects: list[Effect] = []
        """For the shell to take and act on."""
        self.limits: dict[str, int] = {}
        self._exchange = Exchange(random, wake, self._due)
        self.publisher = Publisher(random, on_room)
        self.settlements = Settlements(wake)
        self.roster = Roster(self._exchange, self.settlements, lambda: self.credentials)
        self.credentials = Credentials(
            self._exchange, self.effects, self._on_renewed, self.fail, refreshable=refreshable
        )
        self.liveness = Liveness()
        self._resumption = Resumption(resume_grace_s)
        self.settlements.remembers = resume_grace_s > 0
        self._watchers: list[tuple[Callable[[], bool], Waiter]] = []
        self._open = False
        self._goodbye: Goodbye | None = None
        self._connect_at = -INFINITY
        self._soonest = INFINITY

    @property
    def connected(self) -> bool:
        """From the gateway's welcome to the end of the connection."""
        return self._exchange.connected

    # --- the link ----------------------------------------------------------------------------------------------

    def next_attempt(self) -> tuple[float, Reason] | None:
        """When to connect, and why a token is needed; None: never again."""
        if self.state is State.CLOSED or self.closing:
            return None
        if self.state is State.NEW:
            self._change(State.CONNECTING)
        return self._connect_at, self._reconnector.reason

    def opened(self, now: float, token: str | None = None) -> None:
        """The WebSocket is open; the gateway speaks first. `token`: what it was opened with."""
        self._open = True
        self._resumption.opened(token)
        self.liveness.opened(now, self._connect_timeout_s)
        self._due(self.liveness.due_at())

    def receive(self, data: bytes | str, now: float) -> None:
        """One WebSocket message."""
        self.liveness.heard(now)
        for frame in self._codec.feed(data):
            self._handlers[type(frame)](self, frame, now)
            if not self._open:
                break  # it has ended the client
        if self._watchers:
            self._check_watchers()

    def lost(self, loss: Loss, now: float) -> None:
        """The link is gone, or none came about. Everything that was leased is void, unless the session may be resumed;
        what was published and not answered will be sent again."""
        if self.state is State.CLOSED:
            return
        # One that ended before the welcome never served the session: what the gateway said is about that one alone.
        goodbye = self._goodbye if self.connected else None
        self._open = False
        self.liveness.ended()
        self.credentials.lost()
        self._exchange.lost(now)
        self.publisher.link_lost()
        if not self.closing and loss.fatal is None and self._resumption.lost(goodbye, now):
            self.settlements.hold()
            self.roster.hold()
            self._due(self._resumption.until)
        else:
            self._void()
        if self.closing:
            self._finish(None)
        else:
            self._come_back(loss, now)
        self._check_watchers()

    def _void(self) -> None:
        """Every lease is gone."""
        self._resumption.over()
        unsent = self.settlements.void()
        if unsent:
            self._note(logging.WARNING, f"{unsent} settlements were not sent before the connection was lost")
        self.roster.lost()

    def _come_back(self, loss: Loss, now: float) -> None:
        verdict = self._reconnector.down(loss, self._goodbye, now)
        self._goodbye = None
        if isinstance(verdict, PushwireError):
            self._finish(verdict)
            return
        self._connect_at = verdict
        why = NotConnected(loss.reason or f"the connection was lost ({loss.code})")
        self.publisher.last_failure = why
        keep = self.state is State.CONNECTING or self.state is State.DRAINING
        self._change(self.state if keep else State.RECONNECTING, why, verdict - now)

    def close(self) -> None:
        """Stop for good: iteration ends, callers are told, the shell sends what is left and closes the link."""
        if self.closing or self.state is State.CLOSED:
            return
        self.closing = True
        self.publisher.fail(ClientClosed("the client was closed"))
        if self._resumption.grace_s and self.connected:
            self.roster.abandon()
        self.roster.end_all(None)
        self._wake()

    def fail(self, error: PushwireError, now: float) -> None:
        """Nothing can help: as if the gateway had ended it."""
        self._drop(str(error))
        self.lost(Loss(fatal=error), now)

    def _finish(self, error: PushwireError | None) -> None:
        self.error = error
        self.publisher.fail(error or ClientClosed("the client was closed"))
        self.roster.end_all(error)
        self._change(State.CLOSED, error)

    def _change(self, state: State, error: Exception | None = None, retry_in_s: float | None = None) -> None:
        if state is not self.state or error is not None:
            self.effects.append(StateChange(state, self.state, error, retry_in_s))
            self.state = state

    def _note(self, level: int, text: str) -> None:
        self.effects.append(Note(level, text))

    def _drop(self, why: str) -> None:
        if self._open:
            self.liveness.ended()
            self.effects.append(Drop(why))

    # --- time --------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When `handle_timer` must be called at the latest. May be early: then that finds the exact time."""
        return self._soonest

    def _due(self, at: float) -> None:
        self._soonest = min(self._soonest, at)

    def handle_timer(self, now: float) -> None:
        """Everything that happens because time passes."""
        self._soonest = INFINITY
        verdict = self.liveness.check(now)
        if verdict == "ask":
            self._exchange.send(Ping())
        elif verdict:
            self._drop(verdict)
        self._exchange.run_due(now)
        if now >= self._resumption.until:
            self._void()
        soonest = min(self.liveness.due_at(), self._exchange.due_at(), self.roster.tick(now))
        soonest = min(soonest, self.publisher.expire(now, connected=self.connected))
        retry_at = self.publisher.due_at()
        if retry_at > now:
            soonest = min(soonest, retry_at)
        else:
            self._wake()  # the flush takes it; without a connection, the next one's first flush does
        self._due(min(soonest, self._resumption.until))
        self._check_watchers()

    # --- out ---------------------------------------------------------------------------------------------------

    def data_to_send(self, now: float) -> list[bytes]:
        """WebSocket messages to send now, each as full as the gateway allows."""
        if not self._open:
            return []
        frames = self._exchange.take_first()
        if self.connected:
            if not self._exchange.resuming:
                frames += self.settlements.frames(self._exchange.next_ref, now)
            if self.credentials.authorised and self._goodbye is None:
                frames += self._publishes(now)
            frames += self._exchange.take_last()
        if self._watchers:
            self._check_watchers()
        return self._pack([self._codec.encode(frame) for frame in frames]) if frames else []

    def _publishes(self, now: float) -> list[Any]:
        message_max = self.limits.get("message_bytes_max", MESSAGE_BYTES_MAX)
        op_max = self._frame_bytes_max() - HEAD_BYTES
        return list(self.publisher.frames(now, self._exchange.next_ref, op_max, message_max))

    def _frame_bytes_max(self) -> int:
        return self.limits.get("frame_bytes_max", FRAME_BYTES_MAX)

    def _pack(self, lines: list[bytes]) -> list[bytes]:
        limit = self._frame_bytes_max()
        packed: list[bytes] = []
        part: list[bytes] = []
        size_bytes = 0
        for line in lines:
            if part and size_bytes + len(line) > limit:
                packed.append(self._codec.join(part))
                part, size_bytes = [], 0
            part.append(line)
            size_bytes += len(line) + 1
        packed.append(self._codec.join(part))
        return packed

    # --- publish and drain -------------------------------------------------------------------------------------

    def publish(self, entry: Outgoing) -> None:
        """Send it, now or once there is a connection. Its waiter gets the receipt or the error."""
        self.publisher.add(entry)
        self._due(entry.deadline)
        self._wake()

    def drain(self, waiter: Waiter) -> None:
        """Take no more messages; `waiter` is told when every handler is done, every settlement confirmed, every
        publish answered. Call `drained` after it, however it ended."""
        if self.state is not State.CLOSED:
            self._change(State.DRAINING)
        for consumer in self.roster.consumers.values():
            self.roster.stop(consumer)
        for follower in self.roster.followers.values():
            follower.drain()
        self._await_quiet(lambda: not self.roster.handed() and not self.publisher.messages, waiter)

    def drain_one(self, consumer: Consumer, waiter: Waiter) -> None:
        """The same for one subscription, without the publishes."""
        self.roster.stop(consumer)
        self._await_quiet(lambda: not consumer.handed(), waiter)

    def _await_quiet(self, done: Callable[[], bool], waiter: Waiter) -> None:
        self.settlements.confirming += 1
        self._watchers.append((lambda: done() and self.settlements.quiet(), waiter))
        self._check_watchers()

    def drained(self) -> None:
        self.settlements.confirming -= 1

    def _check_watchers(self) -> None:
        waiting = []
        for predicate, waiter in self._watchers:
            if waiter.done():
                continue
            if predicate():
                waiter.set_result(None)
            else:
                waiting.append((predicate, waiter))
        self._watchers = waiting

    # --- frames ------------------------------------------------------------------------------------------------

    def _on_welcome(self, frame: Welcome, now: float) -> None:
        self._exchange.connected = True
        self._exchange.epoch = frame.epoch
        self.limits = frame.limits
        pong_s = frame.pong_timeout_ms / 1000
        self.liveness.welcomed(frame.heartbeat_ms / 1000 + pong_s, pong_s)
        self._due(self.liveness.due_at())
        self._reconnector.up(now)
        self.credentials.welcomed(frame.expires_in_ms, now)
        self._change(self.state if self.state is State.DRAINING else State.CONNECTED)
        if self._resumption.possible:
            self._resume(now)
        else:
            self.roster.restore()
        self._wake()

    def _resume(self, _now: float) -> None:
        """Ask for the leases of before, and that those to come outlive their connection."""
        self._exchange.resuming = True
        self._exchange.request(self._resumption.request, self._resumed)

    def _resumed(self, frame: Ok | Error | None, now: float) -> None:
        if frame is None:
            return
        if isinstance(frame, Error) and frame.retryable:
            self._exchange.at(self._exchange.retry_at(frame, now), self._resume)
            return
        if isinstance(frame, Error) and (error := final_error(frame)) is not None:
            self.fail(error, now)
            return
        held = None
        if isinstance(frame, Error):
            self._note(logging.WARNING, f"no session can be resumed: {frame.code}")
        elif frame.session is not None:
            self._resumption.answered(frame.session)
            held = frame.subs if frame.resumed else None
        self._exchange.resuming = False
        if held is None:
            self._void()
        else:
            self.roster.resumed(held)
        self.roster.restore()
        self._wake()

    def _on_renewed(self) -> None:
        """A fresh token was accepted."""
        self.roster.restore()
        self._wake()

    def _on_messages(self, frame: Messages, now: float) -> None:
        self._due(self.roster.deliver(frame, now))

    def _on_shown(self, frame: Tailed | Gap, _now: float) -> None:
        self.roster.show(frame)

    def _on_ok(self, frame: Ok, now: float) -> None:
        ref = frame.ref
        if not isinstance(ref, int) or self.publisher.reply(ref, frame, now) or self.settlements.reply(ref, frame):
            return
        self._exchange.reply(ref, frame, now)

    def _on_error(self, frame: Error, now: float) -> None:
        ref = frame.ref
        if not isinstance(ref, int):
            self._on_trouble(frame, now)
        elif frame.code == "unauthorized" and self.credentials.refreshable and self.publisher.hold_back(ref):
            self.credentials.refused(now)
        elif self.publisher.reply(ref, frame, now):
            self._due(self.publisher.due_at())
            self._wake()
        elif not self.settlements.reply(ref, frame):
            self._exchange.reply(ref, frame, now)

    def _on_trouble(self, frame: Error, now: float) -> None:
        """An error that answers no request."""
        if frame.sub is not None:
            self.roster.trouble(frame.sub, frame, now)
        elif frame.leases is not None:
            self._note(logging.WARNING, f"{len(frame.leases)} settlements came too late and had no effect")
        else:
            self._note(logging.WARNING, f"the gateway reports {frame.code}: {frame.message}")

    def _on_goodbye(self, frame: Goodbye, _now: float) -> None:
        self._goodbye = frame
        self._exchange.leaving = True

    def _on_ping(self, frame: Ping, _now: float) -> None:
        self._exchange.send(Pong(frame.ref))

    def _on_nothing(self, _frame: Pong, _now: float) -> None:
        """Hearing it was all."""

    def _on_malformed(self, frame: Malformed, _now: float) -> None:
        """A newer gateway says more than this client knows; v1 lets it."""
        self._note(logging.DEBUG, f"skipped what cannot be read: {frame.message}")

    _handlers: ClassVar[dict[type, Any]] = {
        Messages: _on_messages,
        Ok: _on_ok,
        Error: _on_error,
        Welcome: _on_welcome,
        Ping: _on_ping,
        Pong: _on_nothing,
        Tailed: _on_shown,
        Gap: _on_shown,
        Goodbye: _on_goodbye,
        Malformed: _on_malformed,
    }
