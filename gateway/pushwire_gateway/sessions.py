"""Sessions as things that outlive their connections: who holds which leases, under which secret.

Owns the register of sessions by secret, which connection serves each, and how long one that lost its connection may
still come back. Knows no frame; what becomes of leases is the core's.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from pushwire_storage.base import Group

from .core.model import Pending, Subscription
from .core.model import Session as CoreSession
from .engine import Client, Engine
from .rights import Principal
from .settings import Settings
from .topics import Topics

RESUME_LEASES_MAX = 16_384
"""Leases that an answer to a resume can list: about 700 KB, in a frame of at most 1 MiB. A session that holds more (of
tiny messages, under many subscriptions) does not stay when its connection goes."""


class Holder(Client, Protocol):
    """Whoever serves a session: a WebSocket, or the requests of one long-polling client."""

    def moved(self, held: Held) -> None:
        """Another connection has taken the session over. Its leases are none of this one's business any more."""

    def dismissed(self, sub: Subscription, code: str) -> None:
        """The subscription has ended, and not by its client's wish."""


class Held:
    """One session: what its leases belong to, whichever connection serves it."""

    __slots__ = ("away", "core", "groups", "holder", "principal", "secret")

    def __init__(self, secret: str, core: CoreSession, holder: Holder, principal: Principal) -> None:
        self.secret = secret
        self.core = core
        self.holder = holder
        self.principal = principal  # of the newest token
        self.groups: tuple[Group, ...] = ()  # whose member it was when its connection went
        self.away = False  # no connection serves it


class Sessions:
    """All sessions of one gateway. Bounded: those with a connection by the connections, those away by two limits."""

    def __init__(self, engine: Engine, topics: Topics, settings: Settings) -> None:
        self._engine = engine
        self._topics = topics
        self._settings = settings
        self._by_secret: dict[str, Held] = {}
        self._away: dict[Held, None] = {}
        self._away_of: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._by_secret)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._by_secret.values())

    def open(self, holder: Holder, principal: Principal) -> Held:
        """A session for a client that brings none."""
        node = self._settings.node
        core = CoreSession(
            holder, f"{node}.{secrets.token_urlsafe(12)}", self._settings.in_flight_bytes_max, principal.subject
        )
        held = Held(f"{node}.{secrets.token_urlsafe(16)}", core, holder, principal)
        self._by_secret[held.secret] = held
        return held

    def find(self, secret: str, principal: Principal) -> Held | None:
        """The session with this secret, if it is this principal's: the same tenant and subject."""
        held = self._by_secret.get(secret)
        if held is None or _owner(held.principal) != _owner(principal):
            return None
        return held

    # --- subscriptions -----------------------------------------------------------------------------------------

    def join(self, held: Held, name: str, group: Group, prefetch: int, ack_timeout_s: float) -> Subscription:
        """The session becomes a member of a group."""
        sub = self._engine.subscribe(held.core, name, group, prefetch, ack_timeout_s)
        self._topics.joined(group)
        return sub

    def part(self, held: Held, subs: Sequence[Subscription]) -> None:
        """These memberships end; their leases go back at once."""
        groups = {sub.group.handle for sub in subs}
        self._engine.unsubscribe(held.core, subs)
        for group in groups:
            self._topics.left(group)

    # --- connections come and go -------------------------------------------------------------------------------

    def leave(self, held: Held, now: float, *, grace: bool, drained: bool = False) -> None:
        """The session's connection is gone. With `grace` it may come back, if it asked for that and there is room; else
        it ends, and its leases go back at once."""
        core = held.core
        held.groups = tuple({sub.group.handle for sub in core.subs.values()})
        asked_s = core.grace_s
        # A token's end is the end of its leases, whoever holds them.
        core.grace_s = min(asked_s, held.principal.valid_until - now) if grace and self._room_for(held) else 0.0
        if core.grace_s <= 0 or not core.subs or drained:
            self._drop(held)
            self._engine.disconnect(core, drained=drained)
            self._parted(held)
            return
        held.away = True
        self._away[held] = None
        self._away_of[_owner(held.principal)] += 1
        core.link = held.holder = Absent(self, held)
        self._engine.disconnect(core)
        core.grace_s = asked_s

    def take_over(self, held: Held, holder: Holder, principal: Principal, now: float) -> None:
        """Another connection serves the session from here on. One that still did is told."""
        before, held.holder, held.principal = held.holder, holder, principal
        if held.away:
            self._came_back(held)
            self._engine.core.resume(held.core, holder, now)
        else:
            before.moved(held)
            held.core.link = holder

    def over(self, held: Held) -> None:
        """The session's grace has ended. Harmless when repeated."""
        if self._drop(held):
            self._parted(held)

    def end_away(self, condemned: Callable[[Principal], bool], *, drained: bool = False) -> None:
        """Sessions without a connection that these are the principals of end now."""
        for held in [held for held in self._away if condemned(held.principal)]:
            self._drop(held)
            self._engine.core.end(held.core, self._engine.clock.now(), drained=drained)
            self._parted(held)

    def _room_for(self, held: Held) -> bool:
        settings = self._settings
        return (
            len(self._away) < settings.sessions_away_max
            and self._away_of[_owner(held.principal)] < settings.sessions_away_per_subject
            and sum(len(sub.leases) for sub in held.core.subs.values()) <= RESUME_LEASES_MAX
        )

    def _came_back(self, held: Held) -> None:
        held.away = False
        del self._away[held]
        owner = _owner(held.principal)
        self._away_of[owner] -= 1
        if not self._away_of[owner]:
            del self._away_of[owner]

    def _drop(self, held: Held) -> bool:
        """Forget the secret. Returns whether it was known."""
        if held.away:
            self._came_back(held)
        return self._by_secret.pop(held.secret, None) is not None

    def _parted(self, held: Held) -> None:
        for group in held.groups:
            self._topics.left(group)

    # --- for people --------------------------------------------------------------------------------------------

    def of(self, tenant: str) -> Iterator[Held]:
        """The tenant's sessions."""
        return (held for held in self._by_secret.values() if held.principal.tenant == tenant)


class Absent:
    """Serves a session that may still come back."""

    __slots__ = ("_held", "_sessions")

    def __init__(self, sessions: Sessions, held: Held) -> None:
        self._sessions = sessions
        self._held = held

    def push(self, sub: Subscription, deliveries: list[Pending], now: float) -> None:
        """Leased in the turn in which the connection went: the client is told of them when it comes back."""

    def unhealthy(self, sub: Subscription) -> None:
        self._sessions.part(self._held, [sub])

    def session_over(self, session: CoreSession) -> None:
        self._sessions.over(self._held)

    def moved(self, held: Held) -> None:
        """Whoever came back serves it now."""

    def dismissed(self, sub: Subscription, code: str) -> None:
        """Missing in the list of what is still held, when the client comes back."""

    def flush(self) -> None:
        """Nothing is queued for somebody who is not there."""


def _owner(principal: Principal) -> tuple[str, str]:
    return principal.tenant, principal.subject
