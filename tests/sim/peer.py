"""What all simulated clients share: connecting, tokens, requests that wait for answers, and giving up on silence.

Owns one client's connection and nothing of what it is for. Clients speak the real codec; they are state machines
driven by timers and by what arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from pushwire.wire.codes import should_reconnect
from pushwire.wire.frames import (
    Auth,
    ClientFrame,
    Error,
    Gap,
    Goodbye,
    Malformed,
    Messages,
    Ok,
    Ping,
    Pong,
    ServerFrame,
    Tailed,
    Welcome,
)
from pushwire.wire.jsonv1 import JsonClientCodec
from support import tokens

from .network import Item, Wire
from .node import Node
from .world import World, ns

Answer = Ok | Error | None
"""What became of a request; None: no answer came, and none will."""
Then = Callable[[Answer], None]

TICK_S = 0.25
CODEC = JsonClientCodec()


@cache
def signed(tenant: str, subject: str, topics: tuple[str, ...], groups: tuple[str, ...], iat: int, exp: int) -> str:
    caps = [{"topics": list(topics), "groups": list(groups), "allow": ["publish", "consume", "create", "replay"]}]
    claims = tokens.claims(sub=subject, tenant=tenant, caps=caps, iat=iat, exp=exp)
    return tokens.token("HS256", payload=claims)


class Peer:
    """A client that comes back whatever happens to its connection."""

    topics: tuple[str, ...] = ("*",)
    groups: tuple[str, ...] = ("*",)

    def __init__(self, world: World, node: Node, tenant: str, name: str) -> None:
        self.world = world
        self.node = node
        self.tenant = tenant
        self.name = name
        self.wire: Wire | None = None
        self.welcomed = False
        self.calm = False  # the faults are over: behave
        self.left = False  # never to come back
        self.mute = False  # answers no ping
        self.lifetime_s = 3600
        self.grace_ms: int | None = None  # asks for its session to be kept so long, and comes back to it
        self._secret: str | None = None  # of the session before
        self._serial = 0
        self._resumes = False  # has still to ask for its session
        self.asking = False  # does not know yet whether it was given back
        self._waiting: dict[int, Then] = {}
        self._heard_s = 0.0
        self._silence_s = 3.0
        self._until_s = float("inf")
        self._refreshing = False
        self._reduced = False  # the last token allows less than the client wants
        world.at(world.between(0.0, 0.3), self.connect)
        world.at(world.between(0.0, TICK_S), self._tick)

    # --- connection -----------------------------------------------------------------------------------------------

    def q(self, topic: str) -> str:
        return f"{self.tenant}/{topic}"

    def connect(self) -> None:
        if self.wire is not None or self.left:
            return
        self._serial += 1
        token = self._token()
        self._reduced = False
        in_handshake = self.world.chance(0.7)
        self.welcomed = False
        self._heard_s = self.world.clock_s
        cid = f"{self.name}.{self._serial}"
        wire = self.wire = Wire(self.world, self.node, self, cid, token if in_handshake else None)
        if not in_handshake:
            dawdles_s = self.world.rng.choice((0.0, 0.0, 0.1, 0.5))
            self.world.at(dawdles_s, lambda: self._introduce(wire, token))
        self._resumes = self.asking = self.grace_ms is not None

    def _introduce(self, wire: Wire, token: str) -> None:
        """The first frame of a client that had no token in its handshake."""
        if self.grace_ms is None:
            wire.send(CODEC.encode(Auth(token)))
        elif self.wire is wire:
            self._come_back(token)

    def _come_back(self, token: str) -> None:
        """Ask for the session before, and to be waited for the next time."""
        self._resumes = False
        self.request(Auth(token, None, self._secret, self.grace_ms), self._came_back)

    def _came_back(self, answer: Answer) -> None:
        if isinstance(answer, Ok):
            self._secret, self.asking = answer.session, False
            self.on_back(dict(answer.subs or {}))
        elif answer is not None:
            self.world.note("not resumed", name=self.name, code=answer.code)
            self.drop()

    def _token(self, groups: tuple[str, ...] = ()) -> str:
        now = int(self.world.clock_s)
        lifetime_s = 3600 if self.calm else self.lifetime_s
        self._until_s = now + lifetime_s + self.node.settings.token_leeway_s
        return signed(self.tenant, self.name, self.topics, groups or self.groups, now, now + lifetime_s)

    def patience(self, seconds: float) -> None:
        """How long silence is borne."""
        self._silence_s = seconds

    def drop(self) -> None:
        """Leave this connection, politely or without a word."""
        wire = self.wire
        if wire is not None:
            wire.close()
            self._lost()

    def _lost(self) -> None:
        self.wire = None
        self.welcomed = False
        waiting, self._waiting = self._waiting, {}
        for then in waiting.values():
            then(None)
        self.on_lost()
        delay_s = self.world.between(0.02, 0.2 if self.calm else 0.8)
        self.world.at(delay_s, self.connect)

    def _tick(self) -> None:
        """A few times a second: give up on a silent connection, renew the token."""
        now = self.world.clock_s
        wire = self.wire
        if wire is not None and now - self._heard_s > self._silence_s:
            self.world.note("gives up", cid=wire.cid)
            self.drop()
        elif wire is not None and self.welcomed:
            if self.calm and (self._reduced or now > self._until_s - 0.5):
                self.refresh()
            self.on_tick()
        if not self.left:
            self.world.at(TICK_S, self._tick)

    def refresh(self, groups: tuple[str, ...] = ()) -> None:
        """Renew the token on the live connection; with `groups`, for no others than these."""
        if self.wire is not None and not self._refreshing:
            self._refreshing = True
            self._reduced = bool(groups)
            token = self._token(groups)
            self.world.record("con_auth", cid=self.wire.cid, until=ns(self._until_s))
            self.request(Auth(token), self._refreshed)

    def _refreshed(self, answer: Answer) -> None:
        self._refreshing = False
        self._reduced = self._reduced or not isinstance(answer, Ok)  # which token counts is not known

    # --- frames ---------------------------------------------------------------------------------------------------

    def send(self, *frames: ClientFrame) -> None:
        if self.wire is not None:
            self.wire.send(CODEC.join([CODEC.encode(frame) for frame in frames]))

    def request(self, frame: Any, then: Then) -> int:
        """Send an operation with a ref; `then` gets the answer, or None when the connection ends first."""
        self._serial += 1
        frame.ref = self._serial
        self._waiting[self._serial] = then
        self.send(frame)
        return self._serial

    def on_item(self, wire: Wire, item: Item) -> None:
        if wire is not self.wire:
            return
        if isinstance(item, bytes):
            self._heard_s = self.world.clock_s
            for frame in CODEC.feed(item):
                self._frame(frame)
        else:
            self.world.note("lost", cid=wire.cid, code=item)
            assert item != 1011, "the session failed"
            self._lost()
            if item is not None and not should_reconnect(item):
                self.world.note("should not reconnect, does", name=self.name)

    def _frame(self, frame: ServerFrame) -> None:
        assert not isinstance(frame, Malformed), f"{self.name} cannot read what it was sent: {frame}"
        if self.wire is None:
            return
        if isinstance(frame, Messages):
            self.on_messages(self.wire.cid, frame)
        elif isinstance(frame, Ok | Error) and isinstance(frame.ref, int):
            then = self._waiting.pop(frame.ref, None)
            if then is not None:
                then(frame)
        elif isinstance(frame, Error):
            self.on_error(self.wire.cid, frame)
        elif isinstance(frame, Welcome):
            self._opened()
        elif isinstance(frame, Tailed):
            self.on_tailed(frame)
        elif isinstance(frame, Gap):
            self.on_gap(frame)
        elif isinstance(frame, Ping) and not self.mute:
            self.send(Pong(frame.ref))
        elif isinstance(frame, Goodbye):
            self.world.note("goodbye", cid=self.wire.cid, code=frame.code)

    def _opened(self) -> None:
        assert self.wire is not None
        self.welcomed = True
        may = None if self.groups == ("*",) else [[self.q(t), g] for t in self.topics for g in self.groups]
        until = ns(self._until_s)
        self.world.record("con_open", cid=self.wire.cid, boot=self.wire.boot, until=until, may=may)
        if self.grace_ms is None:
            self.on_welcome()
        elif self._resumes:
            token = self._token()  # a younger one than the handshake's
            self.world.record("con_auth", cid=self.wire.cid, until=ns(self._until_s))
            self._come_back(token)

    # --- what the kinds of client do ------------------------------------------------------------------------------

    def on_welcome(self) -> None: ...
    def on_messages(self, cid: str, frame: Messages) -> None: ...
    def on_error(self, cid: str, frame: Error) -> None: ...
    def on_tailed(self, frame: Tailed) -> None: ...
    def on_gap(self, frame: Gap) -> None: ...
    def on_back(self, subs: dict[str, Any]) -> None: ...
    def on_lost(self) -> None: ...
    def on_tick(self) -> None: ...
