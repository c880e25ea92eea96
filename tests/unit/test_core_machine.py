"""The core against a model written from the design's words, driven at random by Hypothesis, which shrinks its finds.

The model knows messages, leases and counts, and nothing of lanes, rings and heaps. The store is a list: it gives what
the core wants, in order, and brings back what has waited for its retry. What the simulator explores over a whole
gateway is explored here over the core alone, where a failure is a few calls long.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pushwire_gateway.core.delivery import Delivery
from pushwire_gateway.core.model import Counted, Died, Policy, Retried, Session, Settled, Subscription
from pushwire_gateway.core.retry import RetryPolicy

GROUP = "g"
HOLD_S = 1.0
FAILURES_MAX, DELIVERIES_MAX, CAP_S_MAX = 3, 5, 4.0
RETRY = RetryPolicy(max_failures=FAILURES_MAX, max_deliveries=DELIVERIES_MAX, cap_s=1.0, cap_s_max=CAP_S_MAX)
ON_DISK, WAITING, LEASED, RETRYING, ACKED, DEAD = "on disk", "waiting", "leased", "retrying", "acked", "dead"
OVER = (ACKED, DEAD)


@dataclass(eq=False)
class Row:
    seq: int
    key: str | None
    priority: int
    size_bytes: int
    expires_ms: int | None = None


@dataclass(eq=False)
class Client:
    session: Session
    sub: Subscription
    prefetch: int
    bytes_max: int
    ack_timeout_s: float
    here: bool = True


@dataclass(eq=False)
class Letter:
    """One message as the group knows it, by the design's rules."""

    row: Row
    state: str = ON_DISK
    deliveries: int = 0
    failures: int = 0
    lease: str = ""
    client: Client | None = None
    deadline: float = 0.0
    due: float = 0.0
    released: dict[Client, float] = field(default_factory=dict)
    """Who may not be offered it before when."""


def verdict(letter: Letter) -> str | None:
    """Why it is to be given up, if it is."""
    if letter.failures >= FAILURES_MAX:
        return "failures"
    return "deliveries" if letter.deliveries >= DELIVERIES_MAX else None


class CoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.chance = 0.5
        self.core = Delivery(lambda: self.chance, release_hold_s=HOLD_S)
        self.letters: dict[int, Letter] = {}
        self.clients: list[Client] = []
        self.tokens: list[str] = []
        self.leases: dict[str, Letter] = {}
        self.wants = [0, 0, 0, 0]
        self.paused = False
        self.names = itertools.count()
        self.seqs = itertools.count(1)
        self.settling: dict[str, tuple[str, float | None]] = {}
        """Leases that the call under way may end: how, and after which delay they come back."""

    # --- what the core says --------------------------------------------------------------------------------

    def look(self) -> None:
        """Take the effects and be the store for them, until there are none."""
        while effects := self.core.effects():
            assert not effects.key_wants, "so few messages of a key are all in memory"
            for settlement in effects.settlements:
                self.settled(settlement)
            for sub, queue in effects.pushes.items():
                for pending in queue:
                    self.pushed(sub, pending)
            for (_, priority), count in effects.wants.items():
                self.wants[priority] = count
            for priority, want in enumerate(self.wants):
                self.feed(priority, want)
        self.settling = {}

    def feed(self, priority: int, want: int) -> None:
        lane = [one for one in self.letters.values() if one.row.priority == priority and one.state == ON_DISK]
        given = lane[:want]
        if given:
            self.wants[priority] -= len(given)
            for letter in given:
                letter.state = WAITING
            self.core.arrived(GROUP, priority, [letter.row for letter in given], None, self.now)
        if len(given) == len(lane):
            self.core.caught_up(GROUP, priority, True, self.now)

    def settled(self, settlement: Settled | Retried | Counted | Died) -> None:
        if isinstance(settlement, Settled):
            for pending in settlement.held:
                letter = self.ended(pending.message.seq, "ack")
                letter.state = ACKED
            return
        letter = self.letters[settlement.message.seq]
        if isinstance(settlement, Died):
            self.died(letter, settlement)
            return
        how, delay_s = self.why(letter, settlement.how)
        self.ended(letter.row.seq, how)
        if isinstance(settlement, Counted):
            assert how in ("release", "leave"), how
            letter.state = WAITING
        else:
            assert how in ("nack", "timeout"), how
            letter.failures += 1
            cap_s = min(2.0 ** (letter.failures - 1), CAP_S_MAX)
            wait_s = settlement.due - self.now
            assert abs(wait_s - delay_s) < 1e-6 if delay_s is not None else 0 <= wait_s <= cap_s
            letter.state, letter.due = RETRYING, settlement.due
            letter.released.clear()  # it comes back as what has failed, not as what was released
        assert verdict(letter) is None, "has exhausted its failures or deliveries"
        assert (settlement.deliveries, settlement.failures) == (letter.deliveries, letter.failures)

    def why(self, letter: Letter, said: str | None) -> tuple[str, float | None]:
        """How the lease of this letter ended: as the call under way says, or by its time."""
        assert letter.state == LEASED, f"{letter.row.seq} was settled while {letter.state}"
        if letter.lease in self.settling:
            return self.settling[letter.lease]
        assert letter.deadline <= self.now, f"{letter.lease} ended before its time: {said}"
        return "timeout", None

    def ended(self, seq: int, how: str) -> Letter:
        letter = self.letters[seq]
        assert letter.state == LEASED, f"{how} of {seq}, which is {letter.state}"
        if how == "ack":
            assert self.settling[letter.lease][0] == "ack"
        if how == "release":
            assert letter.client is not None
            letter.released[letter.client] = self.now + HOLD_S
        letter.lease, letter.client = "", None
        return letter

    def died(self, letter: Letter, death: Died) -> None:
        expires = letter.row.expires_ms
        if letter.state == LEASED:
            how, _ = self.why(letter, death.how)
            letter.failures += how in ("nack", "timeout")
            exhausted = verdict(letter)
            good = {
                "rejected": how == "reject",
                "failures": exhausted == "failures",
                "deliveries": exhausted == "deliveries",
            }
        else:
            assert letter.state == WAITING, f"{letter.row.seq} died while {letter.state}"
            good = {}
        good["expired"] = expires is not None and expires / 1000 <= self.now
        assert good.get(death.reason), f"{letter.row.seq} died of {death.reason}"
        assert (death.deliveries, death.failures) == (letter.deliveries, letter.failures)
        letter.state, letter.lease, letter.client = DEAD, "", None

    def pushed(self, sub: Subscription, pending) -> None:
        client = next(one for one in self.clients if one.sub is sub)
        letter = self.letters[pending.message.seq]
        assert client.here, "a push to one that has left"
        assert not self.paused, "a push of a paused group"
        assert letter.state == WAITING, f"{letter.row.seq} was pushed while {letter.state}"
        assert pending.lease not in self.leases, "a lease that was there before"
        assert letter.row.expires_ms is None or letter.row.expires_ms / 1000 > self.now, "a push after its TTL"
        assert letter.released.get(client, 0) <= self.now, "a push to who has just released it"
        assert self.eligible(letter), "a push of one whose key is taken, or which is not its key's first"
        held = self.held(client)
        assert len(held) < client.prefetch, "a push beyond the window"
        size = sum(one.row.size_bytes for one in held) + letter.row.size_bytes
        assert not held or size <= client.bytes_max, "a push beyond the bytes in flight"
        letter.deliveries += 1
        assert (pending.deliveries, pending.failures) == (letter.deliveries, letter.failures)
        letter.state, letter.lease, letter.client = LEASED, pending.lease, client
        letter.deadline = self.now + client.ack_timeout_s
        self.leases[pending.lease] = letter
        self.tokens.append(pending.lease)

    def held(self, client: Client) -> list[Letter]:
        return [one for one in self.letters.values() if one.state == LEASED and one.client is client]

    def eligible(self, letter: Letter) -> bool:
        """The first of its key that is not over; nothing here is delayed, so all of them are due."""
        if letter.row.key is None:
            return True
        mine = (letter.row.key, letter.row.priority)
        return not any(
            (one.row.key, one.row.priority) == mine and one.row.seq < letter.row.seq and one.state not in OVER
            for one in self.letters.values()
        )

    def is_lease_of(self, token: str, client: Client) -> bool:
        letter = self.leases[token]
        return letter.state == LEASED and letter.lease == token and letter.client is client

    # --- what happens ---------------------------------------------------------------------------------------

    @initialize()
    def anchor(self) -> None:
        """A member that takes nothing, so that the group stays in memory when the others leave."""
        session = Session(None, "n1.anchor", 1)
        self.core.subscribe(session, "anchor", GROUP, 0, 30.0, self.now, Policy(retry=RETRY))
        self.look()

    @rule(
        key=st.sampled_from([None, "a", "a", "b"]),
        priority=st.sampled_from([1, 1, 1, 0, 2, 3]),
        size=st.sampled_from([100, 100, 600]),
        ttl_s=st.sampled_from([None, None, 2.0]),
    )
    def publish(self, key: str | None, priority: int, size: int, ttl_s: float | None) -> None:
        seq = next(self.seqs)
        expires_ms = None if ttl_s is None else int((self.now + ttl_s) * 1000)
        self.letters[seq] = Letter(Row(seq, key, priority, size, expires_ms))
        self.feed(priority, self.wants[priority])
        self.look()

    @rule(prefetch=st.integers(1, 4), bytes_max=st.sampled_from([700, 10_000]), timeout_s=st.sampled_from([5.0, 30.0]))
    def join(self, prefetch: int, bytes_max: int, timeout_s: float) -> None:
        number = next(self.names)
        session = Session(None, f"n1.{number:016d}", bytes_max)
        # The sub is not known before the call, and pushes are read after it.
        sub = self.core.subscribe(session, "s", GROUP, prefetch, timeout_s, self.now)
        self.clients.append(Client(session, sub, prefetch, bytes_max, timeout_s))
        self.look()

    @precondition(lambda self: any(client.here for client in self.clients))
    @rule(data=st.data(), at_once=st.booleans())
    def leave(self, data: st.DataObject, at_once: bool) -> None:
        """Unsubscribe, or lose the connection: the leases go back at once, and count as delivered."""
        client = data.draw(st.sampled_from([one for one in self.clients if one.here]))
        client.here = False
        self.settling = {one.lease: ("leave", None) for one in self.held(client)}
        if at_once:
            self.core.disconnect(client.session, self.now)
        else:
            self.core.unsubscribe(client.session, [client.sub], self.now)
        self.look()
        assert not self.held(client)

    @precondition(lambda self: self.tokens and self.clients)
    @rule(
        data=st.data(),
        how=st.sampled_from(["ack", "ack", "ack_through", "nack", "nack", "reject", "release", "extend"]),
        delay_s=st.sampled_from([None, None, 0.0, 3.0]),
    )
    def settle(self, data: st.DataObject, how: str, delay_s: float | None) -> None:
        """Any lease that ever was, by anybody: only that of its holder counts, and only while it is the newest."""
        client = data.draw(st.sampled_from(self.clients))
        newest_first = self.tokens[::-1]
        chosen = data.draw(st.lists(st.sampled_from(newest_first), min_size=1, max_size=3, unique=True))
        if how == "ack_through":
            self.through(client, chosen[0])
            return
        good = [token for token in chosen if self.is_lease_of(token, client)]
        if how == "extend":
            self.extend(client, chosen, good)
            return
        self.settling = dict.fromkeys(good, (how, delay_s if how == "nack" else None))
        call = getattr(self.core, how)
        more = {"nack": [delay_s, "error"], "reject": ["error"]}.get(how, [])
        stale = call(client.session, chosen, *more, self.now)
        assert set(stale) == set(chosen) - set(good)
        self.look()
        assert not any(self.is_lease_of(token, client) for token in good)

    def through(self, client: Client, token: str) -> None:
        good = self.is_lease_of(token, client)
        number = self.tokens.index(token)
        granted = [one for one in self.tokens[: number + 1] if good and self.is_lease_of(one, client)]
        self.settling = dict.fromkeys(granted, ("ack", None))
        stale = self.core.ack_through(client.session, token, self.now)
        assert bool(stale) is not good
        self.look()
        assert all(self.leases[one].state == ACKED for one in granted)

    def extend(self, client: Client, chosen: list[str], good: list[str]) -> None:
        _, stale = self.core.extend(client.session, chosen, self.now)
        assert set(stale) == set(chosen) - set(good)
        for token in good:
            self.leases[token].deadline = self.now + client.ack_timeout_s
        self.look()

    @precondition(lambda self: any(client.here for client in self.clients))
    @rule(data=st.data(), prefetch=st.integers(0, 4))
    def flow(self, data: st.DataObject, prefetch: int) -> None:
        client = data.draw(st.sampled_from([one for one in self.clients if one.here]))
        client.prefetch = prefetch
        self.core.flow(client.sub, prefetch, self.now)
        self.look()

    @rule()
    def pause(self) -> None:
        self.paused = not self.paused
        self.core.configure(GROUP, Policy(retry=RETRY, paused=self.paused), self.now)
        self.look()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 6.0, 40.0]), chance=st.floats(0, 0.999))
    def time_passes(self, seconds: float, chance: float) -> None:
        """Every timer at its time, and every retry when it is due."""
        self.chance = chance
        until = self.now + seconds
        while (at := self.next_moment()) is not None and at <= until:
            self.now = max(self.now, at)
            self.core.handle_timer(self.now)
            self.look()
            for letter in [one for one in self.letters.values() if one.state == RETRYING and one.due <= self.now]:
                letter.state = WAITING
                counts = [(letter.deliveries, letter.failures)]
                self.core.arrived(GROUP, letter.row.priority, [letter.row], counts, self.now)
                self.look()
        self.now = until
        self.core.handle_timer(self.now)
        self.look()

    def next_moment(self) -> float | None:
        times = [one.due for one in self.letters.values() if one.state == RETRYING]
        timer = self.core.next_deadline()
        return min([*times, *([] if timer is None else [timer])], default=None)

    # --- what holds all the time ----------------------------------------------------------------------------

    @invariant()
    def every_message_is_where_the_model_says(self) -> None:
        places = self.core.census().get(GROUP, {})
        leased = {one.row.seq for one in self.letters.values() if one.state == LEASED}
        waiting = {one.row.seq for one in self.letters.values() if one.state == WAITING}
        assert set(places.get("leased", [])) == leased
        assert len(places.get("leased", [])) == len(leased)
        assert sorted([*places.get("ready", []), *places.get("parked", [])]) == sorted(waiting)

    @invariant()
    def no_lease_outlives_its_time(self) -> None:
        late = [one.lease for one in self.letters.values() if one.state == LEASED and one.deadline < self.now]
        assert not late

    @invariant()
    def who_has_room_is_given_what_there_is(self) -> None:
        if self.paused:
            return
        for letter in self.letters.values():
            if letter.state in (WAITING, ON_DISK) and self.eligible(letter) and not self.is_expired(letter):
                takers = [one for one in self.clients if one.here and self.has_room(one, letter)]
                assert not takers, f"{letter.row.seq} ({letter.state}) waits, though somebody has room for it"

    def is_expired(self, letter: Letter) -> bool:
        return letter.row.expires_ms is not None and letter.row.expires_ms / 1000 <= self.now

    def has_room(self, client: Client, letter: Letter) -> bool:
        held = self.held(client)
        if len(held) >= client.prefetch or letter.released.get(client, 0) > self.now:
            return False
        # A large message at the head of the queue keeps its place: whoever has bytes for any of those that wait.
        largest = max(one.row.size_bytes for one in self.letters.values())
        return not held or sum(one.row.size_bytes for one in held) + largest <= client.bytes_max


def test_the_core_keeps_to_the_model() -> None:
    run_state_machine_as_test(CoreMachine, settings=settings(max_examples=200, stateful_step_count=40))
