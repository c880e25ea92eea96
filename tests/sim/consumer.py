"""A simulated consumer: settles what it is given in every right and wrong way, and writes both sides into the history.

Owns one client's subscriptions and leases as the client sees them. Temper decides; nothing here knows the gateway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pushwire.wire.frames import (
    Ack,
    Delivery,
    Error,
    Extend,
    Flow,
    Messages,
    Nack,
    Ok,
    Ping,
    Reject,
    Release,
    Subscribe,
    Unsubscribe,
)

from .node import Node
from .peer import Answer, Peer
from .producer import sha
from .world import World

TEMPERS: dict[str, dict[str, int]] = {
    "good": {"ack": 20, "ack_later": 6, "through": 4, "extend": 1, "nack": 1},
    "flaky": {"ack": 6, "ack_later": 5, "nack": 5, "nack_delay": 3, "release": 3, "extend": 3, "through": 2},
    "silent": {"ack": 2, "hold": 8, "ack_later": 2, "extend": 2},
    "angry": {"nack": 8, "reject": 3, "nack_delay": 3, "release": 4, "ack": 3},
    "wrong": {"ack": 4, "twice": 3, "ack_late": 4, "foreign": 3, "mixed": 3, "hold": 2},
    "bouncer": {"release": 12, "ack": 1},
}
LEASES_SEEN_MAX = 200


@dataclass
class Want:
    """A subscription the client keeps up."""

    topic: str
    group: str
    prefetch: int
    ack_timeout_ms: int
    start: str | None = None
    client_id: str | None = None
    inactive_ttl_ms: int | None = None


@dataclass
class Held:
    """A lease as the client knows it."""

    sub: str
    lease: str
    settled: bool = False


@dataclass
class Member:
    """An open subscription: what it holds, in the order in which it was given."""

    want: Want
    held: dict[str, Held] = field(default_factory=dict)
    paused: bool = False


class Consumer(Peer):
    """Keeps its subscriptions up, and treats what comes according to its temper."""

    def __init__(
        self, world: World, node: Node, tenant: str, name: str, temper: str | dict[str, int], wants: Sequence[Want]
    ) -> None:
        super().__init__(world, node, tenant, name)
        self.topics = tuple(sorted({want.topic for want in wants}))
        self.groups = tuple(sorted({want.group for want in wants}))
        self.wants = {f"s{index}": want for index, want in enumerate(wants)}
        actions = TEMPERS[temper] if isinstance(temper, str) else temper
        self._actions = list(actions)
        self._weights = list(actions.values())
        self._members: dict[str, Member] = {}
        self._kept: dict[str, Member] = {}  # of the session that may be gone on with
        self._coming: set[str] = set()
        self._ending: set[str] = set()
        self._old: list[str] = []  # leases that should count no more
        self._ops = 0

    # --- subscriptions --------------------------------------------------------------------------------------------

    def on_welcome(self) -> None:
        for name in self.wants:
            self._join(name)

    def on_back(self, subs: dict[str, Any]) -> None:
        """The session before goes on with these subscriptions and leases, or there was none to go on with."""
        kept, self._kept = self._kept, {}
        for name, leases in subs.items():
            if name not in self.wants:
                continue
            member = self._members[name] = kept.pop(name) if name in kept else Member(self.wants[name])
            self._old += [lease for lease in member.held if lease not in leases]
            unknown = [lease for lease in leases if lease not in member.held]
            member.held = {lease: member.held.get(lease) or Held(name, lease) for lease in leases}
            for held in member.held.values():
                held.settled = False  # what was asked before may have been lost on its way
            if unknown:
                self._settle("release", member, unknown, ref=True)
            self._go_on(member, unknown)
        for member in kept.values():
            self._old += member.held
        for name in self.wants:
            if name not in self._members:
                self._join(name)

    def _go_on(self, member: Member, unknown: Sequence[str]) -> None:
        for lease, held in member.held.items():
            if lease not in unknown and not self.calm:
                self._decide(member, held)
        if self.calm:
            self._clear(member)

    def _join(self, name: str) -> None:
        want = self.wants[name]
        assert self.wire is not None
        cid, q = self.wire.cid, self.q(want.topic)
        self._coming.add(name)
        self.world.record("sub_inv", cid=cid, sub=name, q=q, grp=want.group, start=want.start)

        def then(answer: Answer) -> None:
            self._coming.discard(name)
            if isinstance(answer, Ok):
                self._members[name] = Member(want)
                self.world.record("sub_ok", cid=cid, sub=name, q=q, grp=want.group)

        self.request(
            Subscribe(
                want.topic,
                want.group,
                name,
                want.prefetch,
                want.ack_timeout_ms,
                want.start,
                client_id=want.client_id,
                inactive_ttl_ms=want.inactive_ttl_ms,
            ),
            then,
        )

    def _leave(self, name: str) -> None:
        assert self.wire is not None
        cid = self.wire.cid
        self._ending.add(name)
        self.world.record("unsub_inv", cid=cid, sub=name)

        def then(answer: Answer) -> None:
            self._ending.discard(name)
            if isinstance(answer, Ok):
                self.world.record("unsub_ok", cid=cid, sub=name)
                self._forget(name)

        self.request(Unsubscribe(name), then)

    def _forget(self, name: str) -> None:
        member = self._members.pop(name, None)
        if member is not None:
            self._old += member.held

    def on_lost(self) -> None:
        if self.grace_ms is not None:
            self._kept.update(self._members)
            self._members.clear()
        for name in list(self._members):
            self._forget(name)
        self._coming.clear()
        self._ending.clear()
        self._old = self._old[-LEASES_SEEN_MAX:]

    def on_error(self, cid: str, frame: Error) -> None:
        if frame.sub is not None:
            self.world.record("unsub_end", cid=cid, sub=frame.sub)
            self._forget(frame.sub)
        elif frame.leases is not None:
            self.world.record("set_stale", op=None, leases=list(frame.leases), cid=cid)

    # --- deliveries -----------------------------------------------------------------------------------------------

    def on_messages(self, cid: str, frame: Messages) -> None:
        member = self._members.get(frame.sub)
        want = self.wants[frame.sub]
        for delivery in frame.deliveries:
            assert isinstance(delivery, Delivery)
            self._record(cid, frame, want, delivery)
            if member is not None:
                held = member.held[delivery.lease] = Held(frame.sub, delivery.lease)
                if not self.calm:
                    self._decide(member, held)
        if self.calm and member is not None:
            self._clear(member)

    def _record(self, cid: str, frame: Messages, want: Want, delivery: Delivery) -> None:
        draft = delivery.message
        self.world.record(
            "dlv",
            cid=cid,
            sub=frame.sub,
            q=self.q(frame.topic),
            grp=want.group,
            seq=draft.seq,
            mid=draft.id,
            sha=sha(draft),
            key=draft.key,
            pri=draft.priority,
            redriven=draft.redriven,
            lease=delivery.lease,
            attempt=delivery.deliveries,
            redelivered=delivery.redelivered,
            expires_ns=frame.expires_in_ms * 1_000_000,
            granted=self.world.grants[delivery.lease],
        )

    def _clear(self, member: Member) -> None:
        """Done with everything: ack it, and wait for the confirmation."""
        leases = [lease for lease, held in member.held.items() if not held.settled]
        if leases:
            self._settle("ack", member, leases, ref=True)

    def _decide(self, member: Member, held: Held) -> None:
        world = self.world
        (action,) = world.rng.choices(self._actions, self._weights)
        if action == "hold":
            return
        timeout_s = member.want.ack_timeout_ms / 1000
        if action == "ack_late":
            delay_s = timeout_s * world.between(1.05, 2.0)
        elif action in {"ack_later", "extend"}:
            delay_s = timeout_s * world.between(0.3, 0.9)
        else:
            delay_s = world.rng.choice((0.0, 0.001, 0.02, 0.1, 0.3))
        world.at(delay_s, lambda: self._act(action, member, held))

    def _act(self, action: str, member: Member, held: Held) -> None:
        if self.wire is None or not self.welcomed or self.calm or self.left:
            return
        ref = self.world.chance(0.6)
        if held.settled and action != "ack_late":
            return
        leases = [held.lease]
        if action in {"ack", "ack_later", "ack_late"}:
            more = [h.lease for h in member.held.values() if not h.settled and self.world.chance(0.2)]
            self._settle("ack", member, list(dict.fromkeys(leases + more)), ref=ref)
        elif action == "twice":
            self._settle("ack", member, leases, ref=ref)
            self._settle(self.world.rng.choice(("ack", "nack", "reject")), member, leases, ref=self.world.chance(0.5))
        elif action == "foreign":
            foreign = self.world.rng.choice(list(self.world.grants)[-50:])
            if foreign not in member.held:
                self._settle(self.world.rng.choice(("ack", "nack", "reject", "extend")), member, [foreign], ref=ref)
        elif action == "mixed":
            self._settle("ack", member, leases + self._old[-1:], ref=ref)
        elif action == "through":
            self._through(member, held, ref=ref)
        elif action == "extend":
            self._settle("extend", member, leases, ref=ref)
            if self.world.chance(0.6):  # else it expires after all
                self.world.at(member.want.ack_timeout_ms / 1000 * 0.7, lambda: self._act("ack", member, held))
        elif action == "nack_delay":
            self._settle("nack", member, leases, ref=ref, delay_ms=self.world.rng.choice((0, 50, 300, 1200)))
        else:
            self._settle(action, member, leases, ref=ref)

    def _through(self, member: Member, held: Held, *, ref: bool) -> None:
        """Settle everything that this subscription was given up to this lease."""
        also = []
        for lease in member.held:
            if lease == held.lease:
                break
            also.append(lease)
        self._settle("ack", member, [held.lease], ref=ref, also=[a for a in also if not member.held[a].settled])

    def _settle(
        self,
        kind: str,
        member: Member,
        leases: list[str],
        *,
        ref: bool,
        delay_ms: int | None = None,
        also: Sequence[str] = (),
    ) -> None:
        world = self.world
        self._ops += 1
        op = f"{self.name}:{self._ops}"
        if kind != "extend":
            for lease in (*leases, *also):
                if lease in member.held:
                    member.held[lease].settled = True
        cid, delay_ns = self.wire and self.wire.cid, (delay_ms or 0) * 1_000_000
        world.record("set_inv", op=op, kind=kind, leases=leases, also=also, delay_ns=delay_ns, cid=cid)
        frame: Any
        if kind == "ack":
            frame = Ack((), leases[0]) if also else Ack(leases)
        elif kind == "nack":
            frame = Nack(leases, delay_ms, "no luck")
        else:
            frame = {"reject": Reject, "release": Release, "extend": Extend}[kind](leases)
        if ref:
            self.request(frame, lambda answer: self._settled(op, leases, answer))
        else:
            self.send(frame)

    def _settled(self, op: str, leases: list[str], answer: Answer) -> None:
        stale: list[str] = []
        if answer is None:
            return
        if isinstance(answer, Error):
            if answer.code != "stale_lease":
                self.world.note("settlement unclear", op=op, code=answer.code)
                return
            stale = list(answer.leases or ())
            assert set(stale) <= set(leases), f"{stale} are stale of {leases}"
            self.world.record("set_stale", op=op, leases=stale)
        done = [lease for lease in leases if lease not in stale]
        if done:
            expires_ms = 0 if isinstance(answer, Error) else answer.expires_in_ms or 0
            self.world.record("set_ok", op=op, leases=done, expires_ns=expires_ms * 1_000_000)

    # --- moods ----------------------------------------------------------------------------------------------------

    def on_tick(self) -> None:
        if self.asking:
            return
        for name in self.wants:
            if name not in self._members and name not in self._coming:
                self._join(name)
        if self.calm:
            self._behave()
        elif self._members:
            name = self.world.rng.choice(list(self._members))
            self._misbehave(name, self._members[name])

    def _behave(self) -> None:
        for name, member in self._members.items():
            if member.paused:
                member.paused = False
                self._flow(name, member, member.want.prefetch)
            self._clear(member)

    def _flow(self, name: str, member: Member, prefetch: int) -> None:
        def then(answer: Answer) -> None:
            if not isinstance(answer, Ok):
                member.paused = True  # as far as we know; asked again when calm

        self.request(Flow(name, prefetch), then)

    def _misbehave(self, name: str, member: Member) -> None:
        world = self.world
        dice = world.rng.random()
        if dice < 0.02 and name not in self._ending:
            self._leave(name)
        elif dice < 0.05:
            member.paused = True
            self._flow(name, member, world.rng.choice((0, 1, member.want.prefetch + 2)))
        elif dice < 0.07 and member.held:
            waiting = [lease for lease, held in member.held.items() if not held.settled]
            if waiting:
                self._settle("release", member, waiting, ref=world.chance(0.5))
        elif dice < 0.09:
            self.request(Ping(), lambda _: None)
        elif dice < 0.11 and self._old:
            self._settle(world.rng.choice(("ack", "nack", "release")), member, self._old[-1:], ref=world.chance(0.5))
        elif dice < 0.12 and not self._refreshing:
            self.refresh((world.rng.choice(self.groups),) if world.chance(0.3) else ())
        elif dice < 0.14:
            self._trespass(member.want.topic)
        elif dice < 0.155:
            self.drop()

    def _trespass(self, topic: str) -> None:
        """Ask for a group that the token does not allow."""

        def then(answer: Answer) -> None:
            assert not isinstance(answer, Ok), f"{self.name} may join a group that its token does not name"

        self.request(Subscribe(topic, "secret", "x"), then)
