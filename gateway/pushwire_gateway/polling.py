"""Long polling: sessions whose client asks for messages, request by request.

Owns which request waits for what, and how long such a session lives: one ack timeout from its last request on. What it
is given it has asked for, so nothing is ever leased that no request carries. Knows no HTTP; leases are the core's.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pushwire.wire import encode
from pushwire.wire.frames import Messages
from pushwire_storage.base import Group

from .clock import to_ms
from .core.model import Pending, Subscription
from .core.model import Session as CoreSession
from .refusal import Refusal, Refused
from .rights import Principal
from .sessions import Held

if TYPE_CHECKING:
    from .engine import Engine
    from .gateway import Gateway

LOOK_S_MAX = 1.0
"""A request that need not wait does wait until the store has been read for its group, or `wait=0` would find nothing
however much there is; but no longer than this, when the disk is slow or memory is short."""

END_EARLY_S = 0.005
"""The session ends this much before the last of its leases would: whoever asks no more is gone, which is no failure of
what was handed to it. More than timers differ by, less than anybody settles in."""

FULL_RETRY_MS = 1000
"""What a client refused for a limit is told to wait: polls and sessions come free all the time."""

Owner = tuple[str, str]


class Poll:
    """One request that waits for messages."""

    __slots__ = ("answered", "count", "leases", "principal", "session", "sub", "timer")

    def __init__(self, session: PollSession, sub: Subscription, count: int, principal: Principal) -> None:
        self.session = session
        self.sub = sub
        self.count = count
        self.principal = principal
        self.leases: list[str] = []
        self.timer: Any = None
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """The deliveries, encoded, with commas between them; perhaps none. Or a Refused."""

    def give(self, deliveries: bytes = b"") -> None:
        """Its answer."""
        self._over()
        if not self.answered.done():
            self.answered.set_result(deliveries)

    def refuse(self, refusal: Refusal) -> None:
        """Its answer, when it gets nothing."""
        self._over()
        if not self.answered.done():
            self.answered.set_exception(Refused(refusal))
            self.answered.exception()  # whoever asked may be gone, and nobody else needs to hear of it

    def _over(self) -> None:
        self.session.engine.forget_looking(self.looked)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def looked(self) -> None:
        """There is nothing for a request that need not wait."""
        if not self.answered.done():
            self.session.forget(self)
            self.give()

    def out_of_time(self) -> None:
        """Its wait is over, or its token is."""
        if self.answered.done():
            return
        self.session.forget(self)
        if self.session.clock_now() >= self.principal.valid_until:
            self.refuse(Refusal("unauthorized"))
        else:
            self.give()
        self.session.turn()


class PollSession:
    """One long-polling client: the Holder of its session."""

    __slots__ = (
        "_ack_timeout_s",
        "_armed_at",
        "_gateway",
        "_polls",
        "_silenced",
        "_timer",
        "_waiting",
        "ends_at",
        "held",
        "requests",
        "told",
    )

    def __init__(self, polls: Polls, gateway: Gateway) -> None:
        self._polls = polls
        self._gateway = gateway
        self._ack_timeout_s = gateway.settings.ack_timeout_s  # of the newest poll
        self.held: Held | None = None
        """None: it has ended, or another connection serves it."""
        self._waiting: dict[Subscription, deque[Poll]] = {}
        self._silenced: dict[Subscription, None] = {}  # a WebSocket's, which had this session before: they never ask
        self._timer: Any = None
        self._armed_at = 0.0
        self.ends_at = 0.0
        """Unless another request comes before."""
        self.requests = 0
        """Being served."""
        self.told = False
        """The client knows its secret."""

    @property
    def idle(self) -> bool:
        """Nothing is lost when it ends."""
        subs = () if self.held is None else self.held.core.subs.values()
        return not self.requests and not any(sub.leases for sub in subs)

    def clock_now(self) -> float:
        return self._gateway.clock.now()

    @property
    def engine(self) -> Engine:
        return self._gateway.engine

    def turn(self) -> None:
        """End of an entry point."""
        self._gateway.engine.turn()

    # --- requests ----------------------------------------------------------------------------------------------

    def serve(self, held: Held) -> None:
        """It is this session from here on."""
        self.held = held
        self._silenced = {sub: None for sub in held.core.subs.values() if sub.asked is None}

    def admit(self, principal: Principal) -> None:
        """A request begins, perhaps with a newer token. Subscriptions that this one does not allow end."""
        assert self.held is not None  # it was found by its secret
        self.held.principal = principal
        lost = []
        for sub in self.held.core.subs.values():
            group: Group = sub.group.handle
            if not principal.may("consume", group.topic.name, group.name):
                lost.append(sub)
        self._part(lost, "forbidden")
        self.requests += 1

    def leave(self) -> None:
        """A request is over: from now on the session waits for the next one."""
        self.requests -= 1
        if self.held is None:
            return
        if not self.told and not self.requests:
            self.end(Refusal("unauthorized"))  # nobody knows its secret, so nobody can come back
            self.turn()
            return
        self._touch()

    def begin(self, group: Group, count: int, wait_s: float, ack_timeout_s: float, principal: Principal) -> Poll:
        """A request asks for up to `count` messages. Raises Refused."""
        assert self.held is not None  # as above
        gateway, now = self._gateway, self.clock_now()
        most = min(gateway.settings.prefetch_max, principal.limits.prefetch or gateway.settings.prefetch_max)
        sub = self._find(group, ack_timeout_s)
        if sub is None:
            sub = self._join(group, ack_timeout_s)
        if sub.prefetch != most:
            gateway.engine.core.flow(sub, most, now)
        self._ack_timeout_s = ack_timeout_s
        poll = Poll(self, sub, min(count, most), principal)
        queue = self._waiting.setdefault(sub, deque())
        queue.append(poll)
        if len(queue) == 1:
            gateway.engine.core.ask(sub, poll.count, now)
        self.turn()
        if not poll.answered.done():
            if wait_s == 0 and gateway.engine.coming(group):
                gateway.engine.when_looked(group, poll.looked)
                wait_s = LOOK_S_MAX
            left_s = min(wait_s, principal.valid_until - now)
            if left_s <= 0:
                poll.out_of_time()
            else:
                poll.timer = gateway.call_later(left_s, poll.out_of_time)
        return poll

    def _find(self, group: Group, ack_timeout_s: float) -> Subscription | None:
        assert self.held is not None  # as above
        for sub in self.held.core.subs.values():
            if sub.group.handle is group and sub.ack_timeout_s == ack_timeout_s and sub not in self._silenced:
                return sub
        return None

    def _join(self, group: Group, ack_timeout_s: float) -> Subscription:
        assert self.held is not None  # as above
        subs = self.held.core.subs
        if len(subs) >= self._gateway.settings.subscriptions_per_connection:
            unused = [sub for sub in subs.values() if not sub.leases and sub not in self._waiting]
            if not unused:
                raise Refused(Refusal("too_many_subscriptions"))
            self._gateway.registry.part(self.held, unused)
        name = next(name for name in (f"h{number}" for number in range(len(subs) + 1)) if name not in subs)
        # Without a window until it can ask, or it would be handed messages as any other member.
        sub = self._gateway.registry.join(self.held, name, group, 0, ack_timeout_s)
        self._gateway.engine.core.ask(sub, 0, self.clock_now())
        return sub

    def forget(self, poll: Poll) -> None:
        """The request waits no more. Harmless when repeated."""
        queue = self._waiting.get(poll.sub)
        if queue is not None and poll in queue:
            queue.remove(poll)
            self._ask_next(poll.sub)

    def abandon(self, poll: Poll) -> None:
        """The client went before it had its answer: what that held goes back, as if it had not been handed out."""
        self.forget(poll)
        poll.give()
        if self.held is not None and poll.leases:
            self._gateway.engine.core.take_back(self.held.core, poll.leases, self.clock_now())
        self.turn()

    def _ask_next(self, sub: Subscription) -> None:
        queue = self._waiting.get(sub)
        if not queue:
            self._waiting.pop(sub, None)
        self._gateway.engine.core.ask(sub, queue[0].count if queue else 0, self.clock_now())

    # --- how long it lives -------------------------------------------------------------------------------------

    def _touch(self) -> None:
        assert self.held is not None  # the caller has looked
        subs = self.held.core.subs.values()
        kept_s = max([self._ack_timeout_s, *(sub.ack_timeout_s for sub in subs if sub.leases)])
        self.ends_at = min(self.clock_now() + kept_s - END_EARLY_S, self.held.principal.valid_until)
        if self._timer is None or self.ends_at < self._armed_at:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at = self.ends_at
        self._timer = self._gateway.call_later(max(0.0, self.ends_at - self.clock_now()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self.held is None or self.requests:
            return  # the end of the request arms it again
        if self.clock_now() < self.ends_at:
            self._arm()
            return
        self.end(Refusal("unauthorized"))
        self.turn()

    def end(self, refusal: Refusal, *, drained: bool = False) -> None:
        """The session is over; its leases go back at once. `refusal`: for requests that wait."""
        held = self._let_go(refusal)
        if held is not None:
            self._gateway.registry.leave(held, self.clock_now(), grace=False, drained=drained)

    def _let_go(self, refusal: Refusal) -> Held | None:
        held, self.held = self.held, None
        waiting, self._waiting = self._waiting, {}
        for queue in waiting.values():
            for poll in queue:
                poll.refuse(refusal)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._polls.left(self)
        return held

    def refuse_revoked(self, affected: Callable[[Principal], bool]) -> None:
        """Requests with these tokens end; with the newest one the session does."""
        if self.held is not None and affected(self.held.principal):
            self.end(Refusal("unauthorized"))
            return
        for poll in [poll for queue in self._waiting.values() for poll in queue if affected(poll.principal)]:
            self.forget(poll)
            poll.refuse(Refusal("unauthorized"))

    def _part(self, subs: list[Subscription], code: str) -> None:
        if subs and self.held is not None:
            self._gateway.registry.part(self.held, subs)
            for sub in subs:
                self.dismissed(sub, code)

    # --- what the engine and the register call (Holder) --------------------------------------------------------

    def push(self, sub: Subscription, deliveries: list[Pending], now: float) -> None:
        leases = [pending.lease for pending in deliveries]
        queue = self._waiting.get(sub)
        if not queue:  # it went in the turn in which this was handed out
            self._gateway.engine.core.take_back(sub.session, leases, now)
            return
        poll = queue.popleft()
        group: Group = sub.group.handle
        poll.leases = leases
        self._gateway.tally(poll.principal.tenant).pushed(deliveries, now)
        # Now: a moment later a delivery may have ended, and be somebody else's.
        poll.give(encode.delivered(Messages(sub.name, group.topic.name, to_ms(sub.ack_timeout_s), deliveries)))
        self._ask_next(sub)

    def flush(self) -> None:
        """The request that waits writes its own answer."""

    def unhealthy(self, sub: Subscription) -> None:
        self._part([sub], "consumer_unhealthy")

    def dismissed(self, sub: Subscription, code: str) -> None:
        self._silenced.pop(sub, None)
        for poll in self._waiting.pop(sub, ()):
            poll.refuse(Refusal(code))

    def session_over(self, session: CoreSession) -> None:
        """It was ended from here."""

    def moved(self, held: Held) -> None:
        """A WebSocket serves the session now. What it had subscribed before takes messages again; what requests asked
        through does not: nobody would expect them there."""
        silenced, self._silenced = self._silenced, {}
        self._let_go(Refusal("conflict", "another connection has taken the session over"))
        for sub in silenced:
            self._gateway.engine.core.ask(sub, None, self.clock_now())


class Polls:
    """Every long-polling client of one gateway. Bounded: sessions and waiting requests, each of one subject and in
    total."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._sessions: dict[Owner, dict[PollSession, None]] = {}  # the one that asked last is the last
        self._owners: dict[PollSession, Owner] = {}
        self._waiting_of: Counter[Owner] = Counter()
        self.waiting = 0
        """Requests that have a place."""

    def __len__(self) -> int:
        return len(self._owners)

    # --- requests ----------------------------------------------------------------------------------------------

    def take_place(self, principal: Principal) -> None:
        """A place among the requests that may wait; given back by `leave_place`. Raises Refused."""
        settings, owner = self._gateway.settings, _owner(principal)
        if self.waiting >= settings.polls_max or self._waiting_of[owner] >= settings.polls_per_subject:
            raise Refused(Refusal("too_many_connections", "too many long polls", FULL_RETRY_MS))
        self.waiting += 1
        self._waiting_of[owner] += 1

    def leave_place(self, principal: Principal) -> None:
        owner = _owner(principal)
        self.waiting -= 1
        self._waiting_of[owner] -= 1
        if not self._waiting_of[owner]:
            del self._waiting_of[owner]

    def session(self, secret: str | None, principal: Principal) -> PollSession:
        """The session of this secret, taken over from a WebSocket if need be; a new one where the secret is none of
        this principal's. Raises Refused."""
        registry, gateway = self._gateway.registry, self._gateway
        held = None if secret is None else registry.find(secret, principal)
        if held is not None and isinstance(held.holder, PollSession):
            session = held.holder
            mine = self._sessions[_owner(principal)]
            mine[session] = mine.pop(session)
            return session
        self._make_room(_owner(principal))
        session = PollSession(self, gateway)
        if held is None:
            held = registry.open(session, principal)
            session.serve(held)
        else:
            now = gateway.clock.now()
            if not held.away:
                gateway.engine.turn()  # what is being pushed goes to the connection it was pushed for
            session.serve(held)
            for sub in held.core.subs.values():  # before it is back: it would be handed messages
                gateway.engine.core.ask(sub, 0, now)
            registry.take_over(held, session, principal, now)
            session.told = True
        self._owners[session] = _owner(principal)
        self._sessions.setdefault(_owner(principal), {})[session] = None
        return session

    def _make_room(self, owner: Owner) -> None:
        settings, mine = self._gateway.settings, self._sessions.get(owner, {})
        if len(mine) >= settings.poll_sessions_per_subject or len(self) >= settings.poll_sessions_max:
            # Clients that never name their session leave one behind with each request.
            spare = next((session for session in mine if session.idle), None)
            if spare is None:
                raise Refused(Refusal("too_many_connections", "too many sessions", FULL_RETRY_MS))
            spare.end(Refusal("unauthorized"))

    def left(self, session: PollSession) -> None:
        """The session has ended, or is somebody else's."""
        owner = self._owners.pop(session, None)
        if owner is not None:
            mine = self._sessions[owner]
            del mine[session]
            if not mine:
                del self._sessions[owner]

    # --- ends --------------------------------------------------------------------------------------------------

    def end_revoked(self, affected: Callable[[Principal], bool]) -> None:
        """Whoever is here by one of these tokens goes."""
        for session in list(self._owners):
            session.refuse_revoked(affected)

    def drain(self, retry_after_ms: Callable[[], int]) -> None:
        """The gateway is going away: requests are told, and what was handed out counts for nothing."""
        for session in list(self._owners):
            session.end(Refusal("going_away", retry_after_ms=retry_after_ms()), drained=True)


def _owner(principal: Principal) -> Owner:
    return principal.tenant, principal.subject
