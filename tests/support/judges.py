"""The parts of the history checker that judge orders and times: ordering keys, delays and TTLs, tails, paused groups.

Owns invariants that need more than the deliveries of one message. checker.py reads the events and judges each message;
it hands over what it knows. Standard library only, and no knowledge of how the gateway works.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FOREVER = 1 << 62
Bad = Callable[[str, Any, str], None]


# --- S14, S15: nothing before it is due, nothing after it has expired -------------------------------------------------


@dataclass(slots=True)
class Schedule:
    """When a message may be delivered, as far as its producer can know: the gateway's clock said something in between.

    Each attempt to publish it adds what it asked for; which of them was stored is not known.
    """

    due_min: int = FOREVER
    due_max: int = 0
    expires_min: int = FOREVER
    expires_max: int = 0
    asked: dict[Any, tuple[int, int | None, int | None, int | None]] = field(default_factory=dict)
    """op -> moment, delay or None, absolute due or None, TTL or None."""

    def ask(self, op: Any, t: int, delay: int | None, due: int | None, ttl: int | None) -> None:
        self.asked[op] = t, delay, due, ttl

    def settle(self, answered: Mapping[Any, int], age_max: int) -> None:
        """Work out the bounds. `answered`: op -> when it was answered; without, it may be stored much later."""
        for op, (t, delay, due, ttl) in self.asked.items():
            until = answered.get(op, FOREVER)
            low = max(t, due) if due is not None else t + (delay or 0)
            high = max(until, due) if due is not None else until + (delay or 0)
            self.due_min, self.due_max = min(self.due_min, low), max(self.due_max, high)
            ends = [each for each in (ttl, age_max or None) if each is not None]
            self.expires_min = min(self.expires_min, low + min(ends, default=FOREVER))
            self.expires_max = max(self.expires_max, high + min(ends, default=FOREVER))


# --- S9: first deliveries of one key ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Keyed:
    """One message of a key in one group and priority, seen from outside."""

    seq: int
    grants: Sequence[tuple[int, int]]  # (boot, granted), in order
    ended: int  # when it was finally settled, or may have been: ack, reject, death; FOREVER: never
    due_max: int
    expires_min: int


def judge_key(name: Any, messages: Iterable[Keyed], slack: int, late: int, bad: Bad) -> None:
    """Between the first delivery of a message and its end no later one is delivered for the first time; nor before
    it, unless it became due later. `late`: a due message may take so long to come forward."""
    firsts = sorted(messages, key=lambda keyed: keyed.grants[0][1])
    known: list[int] = []  # seqs first delivered so far
    open_: dict[int, Keyed] = {}
    for keyed in firsts:
        boot, first = keyed.grants[0]
        for above in known[bisect_right(known, keyed.seq) :]:
            other = open_.get(above)
            before = FOREVER if other is None else other.grants[0][1]
            if before > keyed.due_max + late and before + slack < first:
                bad("S9", name, f"{above} was first delivered before {keyed.seq}, which was due")
        for seq in [seq for seq in open_ if seq < keyed.seq]:
            below = open_[seq]
            if below.ended > first + slack and below.expires_min > first:
                bad("S9", name, f"{keyed.seq} was first delivered while {seq} was not settled")
            elif any(b == boot and first + slack < t for b, t in below.grants):
                bad("S9", name, f"{keyed.seq} was first delivered before {seq} was delivered again")
        insort(known, keyed.seq)
        open_[keyed.seq] = keyed
        # What has ended for good, and was not delivered after that, cannot be in anybody's way.
        for seq in [s for s, k in open_.items() if k.ended < first and k.grants[-1][1] < first]:
            del open_[seq]


# --- S16: tails -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Follower:
    """One client's tail of one topic, through all of its connections."""

    q: str
    seq: int = -1  # where it stands; -1: nowhere yet
    began: int = 0
    shown: int = 0


class Tails:
    """What tails were shown, event by event."""

    def __init__(self, bad: Bad, seen: dict[str, int]) -> None:
        self._bad = bad
        self._seen = seen
        self._followers: dict[str, Follower] = {}
        self.skipped: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
        """q -> (tail, from, to): passed over without a word. Nothing that was stored may be among them."""
        self.gaps: dict[str, list[tuple[str, int, int, int]]] = defaultdict(list)
        """q -> (tail, from, to, moment)."""

    def feed(self, step: str, e: Mapping[str, Any]) -> None:
        name = e["tid"]
        follower = self._followers.setdefault(name, Follower(e["q"]))
        if step == "ok":
            self._begin(name, follower, e)
        elif step == "gap":
            self._seen["gap"] = self._seen.get("gap", 0) + 1
            if not follower.seq < e["from"] <= e["to"]:
                self._bad("S16", name, f"gap {e['from']} to {e['to']}, standing at {follower.seq}")
            self._pass(name, follower, e["from"])
            self.gaps[follower.q].append((name, e["from"], e["to"], e["t"]))
            follower.seq = max(follower.seq, e["to"])
        elif step == "shown":
            if e["seq"] <= follower.seq:
                self._bad("S16", name, f"{e['seq']} shown, standing at {follower.seq}")
            self._pass(name, follower, e["seq"])
            follower.seq = max(follower.seq, e["seq"])
            follower.shown += 1

    def _begin(self, name: str, follower: Follower, e: Mapping[str, Any]) -> None:
        resumed = follower.seq >= 0 and e.get("resumed", False)
        if resumed and e["seq"] != follower.seq:
            self._bad("S16", name, f"resumed at {e['seq']}, had come to {follower.seq}")
        self._seen["tail_resumed"] = self._seen.get("tail_resumed", 0) + resumed
        follower.seq = e["seq"]

    def _pass(self, name: str, follower: Follower, seq: int) -> None:
        if seq > follower.seq + 1:
            self.skipped[follower.q].append((name, follower.seq + 1, seq - 1))

    def judge(
        self,
        stored: Mapping[str, Sequence[int]],
        kept: Mapping[str, Sequence[int]],
        granted: Mapping[str, Sequence[tuple[int, int]]],
        slack: int,
    ) -> None:
        """`stored`: seqs that were certainly stored, by topic, sorted; `kept`: those on disk at the end; `granted`:
        (seq, newest grant)."""
        for q, ranges in self.skipped.items():
            for name, low, high in ranges:
                for seq in _within(stored.get(q, ()), low, high):
                    self._bad("S16", name, f"{seq} was neither shown nor announced as lost")
        for q, gaps in self.gaps.items():
            for name, low, high, t in gaps:
                for seq in _within(kept.get(q, ()), low, high):
                    self._bad("S16", name, f"{seq} was announced as lost, and is there")
                pairs = granted.get(q, ())
                for seq, newest in pairs[bisect_left(pairs, (low, 0)) : bisect_left(pairs, (high + 1, 0))]:
                    if newest > t + slack:
                        self._bad("S16", name, f"{seq} was announced as lost, and delivered after that")


def _within(seqs: Sequence[int], low: int, high: int) -> Sequence[int]:
    return seqs[bisect_left(seqs, low) : bisect_right(seqs, high)]


# --- S17: paused groups -----------------------------------------------------------------------------------------------


def judge_pauses(
    spans: Mapping[tuple[str, str], Sequence[tuple[int, int]]],
    grants: Mapping[tuple[str, str], Sequence[int]],
    slack: int,
    bad: Bad,
) -> None:
    """Nothing is granted between the confirmation of a pause and the wish to resume."""
    for where, paused in spans.items():
        times = sorted(grants.get(where, ()))
        for since, until in paused:
            if times[bisect_right(times, since + slack) : bisect_left(times, until)]:
                bad("S17", where, "delivered while it was paused")
