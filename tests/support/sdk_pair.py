"""A client's session and a peer, with a fake wire between them and a clock that a test steps.

Owns the moving of bytes and time; no socket, no task, no event loop needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pushwire.backoff import Backoff, Loss, Reconnector
from pushwire.consumer import Consumer
from pushwire.drafts import make_draft
from pushwire.follower import Follower
from pushwire.message import Message
from pushwire.publisher import Outgoing
from pushwire.session import Session
from pushwire.states import Drop, StateChange, WantToken
from support.sdk_peer import Peer, PeerLink


class Told:
    """A waiter that remembers what it was told."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: Any = None
        self.gone = False
        """The caller went away: as a cancelled future."""
        self._done = False

    def done(self) -> bool:
        return self._done or self.gone

    def set_result(self, result: Any, /) -> None:
        assert not self.done()
        self._done, self.result = True, result

    def set_exception(self, error: BaseException, /) -> None:
        assert not self.done()
        self._done, self.error = True, error


def numbers(messages: Iterable[Message]) -> list[int]:
    """What `Peer.fill` put into them."""
    return [message.json()["n"] for message in messages]


class Pair:
    """One client, one peer. `jitter`: the random number that every draw gives."""

    def __init__(
        self,
        peer: Peer | None = None,
        *,
        refreshable: bool = False,
        jitter: float = 0.5,
        backoff: Backoff | None = None,
        resume_grace_s: float = 0.0,
        connect: bool = True,
    ) -> None:
        self.peer = peer or Peer()
        self.now = 1000.0
        self.wakes = 0
        self.session = Session(
            Reconnector(backoff or Backoff(), lambda: jitter, refreshable=refreshable),
            lambda: jitter,
            self._wake,
            refreshable=refreshable,
            resume_grace_s=resume_grace_s,
        )
        self.changes: list[StateChange] = []
        self.notes: list[Any] = []
        self.wanted: list[str] = []
        self.link: PeerLink | None = None
        if connect:
            self.connect()

    def _wake(self) -> None:
        self.wakes += 1

    # --- the link ----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """As the shell would: not before the session says so."""
        attempt = self.session.next_attempt()
        assert attempt is not None
        self.now = max(self.now, attempt[0])
        self.link = self.peer.connect()
        self.session.opened(self.now, "a-token")
        self.pump()

    def cut(self, code: int = 1006, **loss: Any) -> None:
        """The connection is gone; what is on its way is lost."""
        link, self.link = self.link, None
        if link is not None:
            link.disconnected()
        self.session.lost(Loss(code, **loss), self.now)
        self._effects()

    def pump(self, *, out: bool = True) -> None:
        """Move bytes both ways until there are none; `out`: the client's too."""
        moved = True
        while moved and (link := self.link) is not None:
            moved = False
            for message in self.session.data_to_send(self.now) if out else ():
                link.feed(message)
                moved = True
            data = link.take()
            if data is not None:
                self.session.receive(data, self.now)
                moved = True
            self._effects()
            if self.link is link and link.close_code is not None:
                self.cut(link.close_code)

    def step(self, seconds: float) -> None:
        """Time passes, with the timer called whenever the session asked for it."""
        until = self.now + seconds
        self.pump()
        for _ in range(10_000):
            due = self.session.next_deadline()
            if due > until:
                break
            self.now = max(self.now, due)
            self.session.handle_timer(self.now)
            self._effects()
            self.pump()
        else:
            raise AssertionError("the session's timer does not come to rest")
        self.now = until

    def _effects(self) -> None:
        for effect in self.session.effects:
            if isinstance(effect, StateChange):
                self.changes.append(effect)
            elif isinstance(effect, WantToken):
                self.wanted.append(effect.reason)
            else:
                self.notes.append(effect)
        self.session.effects.clear()
        if any(isinstance(note, Drop) for note in self.notes) and self.link is not None:
            self.notes = [note for note in self.notes if not isinstance(note, Drop)]
            self.cut(reason="dropped")

    # --- the user ----------------------------------------------------------------------------------------------

    def publish(self, data: Any = 1, *, topic: str = "orders", timeout_s: float = 30.0, **fields: Any) -> Told:
        told = Told()
        draft, size_bytes = make_draft(data, **fields)
        self.session.publish(Outgoing(topic, draft, size_bytes, self.now + timeout_s, told))
        return told

    def consumer(self, topic: str = "orders", group: str = "default", **options: Any) -> Consumer:
        name = self.session.roster.new_name()
        return Consumer(self.session.settlements, name, topic, group, clock=lambda: self.now, **options)

    def subscribe(self, topic: str = "orders", group: str = "default", **options: Any) -> tuple[Consumer, Told]:
        told = Told()
        consumer = self.consumer(topic, group, **options)
        self.session.roster.add(consumer, told)
        self.pump()
        return consumer, told

    def tail(self, topic: str = "orders", start: Any = "new", **place: Any) -> tuple[Follower, Told]:
        told = Told()
        follower = Follower(self.session.roster.new_name(), topic, start, **place)
        self.session.roster.add(follower, told)
        self.pump()
        return follower, told

    def take(self, consumer: Consumer, count: int = 1) -> list[Message]:
        return [consumer.queue.popleft() for _ in range(count)]
