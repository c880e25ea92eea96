"""The history checker: judges what clients saw and what the disk holds, and knows nothing of how the gateway works.

Standard library only (with judges.py, for orders and times), for the simulator and for real processes. Events carry
`t` (ns of one clock) and `ev`; q is the topic with its tenant. What was not clearly answered may or may not have
happened, for ever.

    topic     q [expired: dead drop] [retain_ns] [age_ns]                  configured so before anything else
    pub_inv   op q mid sha [key] [delay_ns | due_ns] [ttl_ns]              one a message; `op` joins those of a frame
    pub_ok    op q mid seq dup      pub_fail  op q mid code (definite)     pub_info  op q mid (unknown)
    sub_inv   cid sub q grp [start] sub_ok    cid sub q grp
    unsub_inv cid sub               unsub_ok  cid sub                      unsub_end cid sub (ended by the gateway)
    dlv       cid sub q grp seq mid sha lease attempt redelivered expires_ns [key] [pri] [redriven]
              [granted: by the gateway's clock]
    set_inv   op kind leases [also] [delay_ns] [cid]   kind: ack nack reject release extend; `also`: by ack_through
    set_ok    op leases [expires_ns]       set_stale  op leases [cid]      (op None: no ref; the cid's last on it)
    con_open  cid [boot] [until] [may: [[q, grp], ...]]                    con_auth  cid until (a refresh is sent)
    con_close cid [since] [until]   when the gateway saw it, or the earliest moment at which it can have; its leases
                                    end then, or `until` a grace is over
    con_resume cid subs: {sub: [q, grp, leases]}                           took these over from another connection
    over      leases why            the gateway has ended these
    grp_reset q grp floor           moved or purged: a life of its own begins, owed nothing up to `floor` (grp None: all)
    grp_pause q grp                 confirmed               grp_go  q grp  is to be resumed
    redrive_inv q ids: [[grp, seq], ...]     redrive_ok  q seqs: [[grp, old seq, new seq, mid], ...]
    tail_ok   tid q seq [resumed]   tail_shown  tid q seq mid sha [key]    tail_gap  tid q from to
    srv_start boot                  srv_kill  boot                         srv_exit  boot (after a drain)
    final     kind, rows or done    db_dump (owed, unsettled), dlq, orphans, counts (also after a kill), drain
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from . import judges
from .judges import FOREVER, Schedule

Event = Mapping[str, Any]
Where = tuple[str, str, int]
SOMETIMES = frozenset({
    "ack_through", "backoff", "close", "dead_deliveries", "dead_expired", "dead_failures", "dead_rejected", "delayed",
    "delayed_nack", "dropped", "duplicate", "expiry", "expiry_extended", "gap", "id_conflict", "key_waited",
    "late_answer", "open_publish_kept", "open_publish_lost", "parted", "paused", "purged", "redelivery_after_kill",
    "redriven", "refused", "release", "resumed_lease_settled", "retry_after_kill", "reverted_ack", "sought", "stale",
    "tail_resumed", "token", "unsubscribe",
})  # fmt: skip
"""Rare states. A run that has not seen those it asked for proves little: it is invalid, not passed."""


@dataclass(frozen=True, slots=True)
class Limits:
    max_failures: int
    max_deliveries: int
    forgotten_max: int = 2  # deliveries of one message that a stop forgets: the last, one given back a moment before
    slack_ns: int = 50_000_000  # how far recorded times may be from the gateway's
    late_ns: int = 1_000_000_000  # delivery stops so soon after a token's end; or is seen so late without `granted`
    behind_ns: int = 5_000_000_000  # what fell due has joined its key by then, however slow the disk


@dataclass(slots=True)
class Pub:
    """One message id: what was asked (op -> content) and what was answered (op -> "" ok fail info)."""

    first_t: int
    floor: int  # highest seq of the topic that was confirmed before the first attempt
    ops: dict[Any, str] = field(default_factory=dict)
    shas: dict[Any, tuple[str, Any]] = field(default_factory=dict)
    attempts: int = 0
    seqs: set[int] = field(default_factory=set)
    fresh: int = 0
    ok_t: int = FOREVER
    schedule: Schedule = field(default_factory=Schedule)
    answered: dict[Any, int] = field(default_factory=dict)


@dataclass(slots=True)
class Settle:
    kind: str
    ids: tuple[Any, Any]  # op, cid
    t: int
    named: bool  # else ack_through may cover it
    delay_ns: int
    result: str = ""  # "" | ok | stale


@dataclass(slots=True)
class Span:
    """A connection or a subscription on one: why and when it may have ended."""

    ends: list[tuple[str, int]]
    boot: int = 0
    scope: Any = None
    closed: int = FOREVER


@dataclass(slots=True)
class Lease:
    token: str
    con: Span
    sub: Span
    attempt: int
    granted: int
    exact: bool
    expires: int
    settles: list[Settle]
    over: list[tuple[str, int]]
    key: Any = None
    pri: int = 1
    extended: bool = False

    @property
    def ended(self) -> int:
        """The first moment at which it may have been settled for good."""
        return min((s.t for s in self.settles if s.kind in {"ack", "reject"} and s.result != "stale"), default=FOREVER)

    def has(self, kind: str, *results: str) -> bool:
        return any(s.kind == kind and s.result in results for s in self.settles)


@dataclass(slots=True)
class Report:
    violations: list[tuple[str, str]]
    seen: Counter[str]
    missing: list[str]
    figures: dict[str, int]

    @property
    def passed(self) -> bool:
        return not self.violations and not self.missing


class Checker:
    """Feed it every event in order of time, then ask for the `report`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.violations: list[tuple[str, str]] = []
        self.seen: Counter[str] = Counter()
        self.pubs: dict[tuple[str, str], Pub] = {}
        self.top: dict[str, int] = defaultdict(int)
        self.mids: dict[tuple[str, int], str] = {}
        self.groups: dict[str, dict[str, list[Any]]] = defaultdict(dict)  # q -> grp -> [since, {start, ...}]
        self.subs: dict[tuple[str, str], Span] = {}
        self.cons: dict[str, Span] = {}
        self.leases: dict[str, Lease] = {}
        self.settles: dict[str, list[Settle]] = defaultdict(list)  # by lease, which may be seen later
        self.by_message: dict[Where, list[Lease]] = defaultdict(list)
        self.end_t = 0
        self.boots = 0
        self.stops: dict[int, int] = {}
        self.kills: list[int] = []
        self.counts: dict[Where, tuple[int, int, int]] = {}  # deliveries, failures, boot that left them
        self.dump: dict[Where, Event] | None = None
        self.letters: dict[Where, list[Event]] = defaultdict(list)
        self.drained = False
        self.topics: dict[str, Event] = {}
        self.owners: dict[str, tuple[Span, Span]] = {}  # lease -> connection and subscription that took it over
        self.over: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self.resets: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)  # (since, floor)
        self.floors: dict[str, int] = defaultdict(int)  # by topic: purged up to here
        self.pauses: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        self.redriven: dict[Where, Where | None] = {}  # a letter that was put back -> as what, if that is known
        self.redrives: dict[str, int] = {}  # q -> when the first was asked for
        self.second_lives: dict[tuple[str, int], tuple[str | None, str]] = {}  # (q, new seq) -> group, mid
        self.tails = judges.Tails(self.bad, self.seen)

    def bad(self, code: str, where: Any, text: str) -> None:
        self.violations.append((code, f"{where}: {text}"))

    def feed(self, e: Event) -> None:
        family, _, step = e["ev"].partition("_")
        self.end_t = max(self.end_t, e["t"])
        getattr(self, f"_{family}")(step, e)

    def _pub(self, step: str, e: Event) -> None:
        q, mid = e["q"], e["mid"]
        pub = self.pubs.setdefault((q, mid), Pub(e["t"], self.top[q]))
        self.seen["late_answer"] += step == "ok" and pub.ops[e["op"]] == "info"
        pub.ops[e["op"]] = "" if step == "inv" else step
        if step == "inv":
            pub.shas[e["op"]] = (e["sha"], e.get("key"))
            pub.attempts += 1
            pub.schedule.ask(e["op"], e["t"], e.get("delay_ns"), e.get("due_ns"), e.get("ttl_ns"))
        elif step == "fail":
            self.seen["id_conflict" if e["code"] == "id_conflict" else "refused"] += 1
        elif step == "ok":
            self._receipt(pub, q, mid, e["seq"], e["dup"])
            pub.ok_t = min(pub.ok_t, e["t"])
            pub.answered[e["op"]] = e["t"]

    def _receipt(self, pub: Pub, q: str, mid: str, seq: int, duplicate: bool) -> None:
        pub.fresh += not duplicate
        self.seen["duplicate"] += duplicate
        if duplicate and pub.attempts < 2:
            self.bad("S4", (q, mid), "duplicate, but published once")
        if seq <= pub.floor:
            self.bad("S10", (q, mid), f"seq {seq} was given after {pub.floor}")
        self.top[q] = max(self.top[q], seq)
        self._one_seq(pub, q, seq, mid)

    def _one_seq(self, pub: Pub, q: str, seq: int, mid: str) -> None:
        pub.seqs.add(seq)
        if self.mids.setdefault((q, seq), mid) != mid:
            self.bad("S10", (q, seq), f"given to {self.mids[q, seq]} and to {mid}")

    def _sub(self, step: str, e: Event) -> None:
        group = self.groups[e["q"]].setdefault(e["grp"], [FOREVER, set()])
        if step == "inv":
            group[1].add(e.get("start"))
        else:
            group[0] = min(group[0], e["t"])
            self.subs[e["cid"], e["sub"]] = Span([], scope=(e["q"], e["grp"]))

    def _unsub(self, step: str, e: Event) -> None:
        if sub := self.subs.get((e["cid"], e["sub"])):
            sub.ends.append(("unsubscribe" if step != "end" else "ended", e["t"]))
            if step != "inv":
                del self.subs[e["cid"], e["sub"]]

    def _dlv(self, _step: str, e: Event) -> None:
        where: Where = e["q"], e["grp"], e["seq"]
        token, con, sub = e["lease"], self.cons[e["cid"]], self.subs.get((e["cid"], e["sub"]))
        if sub is None or sub.scope != where[:2] or (con.scope is not None and [*where[:2]] not in con.scope):
            self.bad("S11", where, f"{token} delivered to {e['cid']} without subscription or right")
        if token in self.leases:
            self.bad("S6", where, f"{token} delivered twice")
        on_disk, _, boot = self.counts.get(where, (0, 0, 0))
        if bool(e["redelivered"]) != (e["attempt"] > 1) or (con.boot > boot and e["attempt"] <= on_disk):
            self.bad("S7", where, f"attempt {e['attempt']} after {on_disk} on disk, redelivered {e['redelivered']}")
        at = e.get("granted", e["t"])
        con, sub = self.owners.get(token, (con, sub))
        fields = sub or Span([]), e["attempt"], at, "granted" in e, at + e["expires_ns"], self.settles[token]
        lease = Lease(token, con, *fields, self.over[token], e.get("key"), e.get("pri", 1))
        self.leases[token] = lease
        self.by_message[where].append(lease)
        self._content("delivered", e)

    def _content(self, how: str, e: Event) -> None:
        """What comes out was put in: same id, same bytes, same key, and always under the same seq."""
        pub = self.pubs.get((e["q"], e["mid"]))
        if pub is None or (e["sha"], e.get("key")) not in pub.shas.values():
            self.bad("S2", (e["q"], e["mid"]), f"{how} as {e['sha']}, but not published so")
        if e.get("redriven"):
            self._second_life(e)
        elif pub is not None:
            self._one_seq(pub, e["q"], e["seq"], e["mid"])

    def _second_life(self, e: Event) -> None:
        """A redriven message has a new seq, and is the business of the group it died in alone."""
        grp = e.get("grp")
        known, mid = self.second_lives.get((e["q"], e["seq"]), (None, e["mid"]))
        self.second_lives[e["q"], e["seq"]] = (known or grp, mid)
        self.seen["redriven"] += 1
        other = grp not in {None, known} and known is not None and self._was_there(e["q"], str(grp))
        if mid != e["mid"] or other:
            self.bad("S8", (e["q"], e["seq"]), f"{e['mid']} in {grp}, but {mid} was put back for {known}")
        if self.mids.setdefault((e["q"], e["seq"]), mid) != mid:
            self.bad("S10", (e["q"], e["seq"]), f"given to {self.mids[e['q'], e['seq']]} and to {mid}")

    def _was_there(self, q: str, grp: str) -> bool:
        """Before anything of the topic was put back, and untouched since: else it is owed whatever is kept."""
        return self.groups[q][grp][0] < self.redrives.get(q, FOREVER) and not self.resets.get((q, grp))

    def _set(self, step: str, e: Event) -> None:
        if step != "inv":
            self._answered(step, e)
            return
        ids = e["op"], e.get("cid")
        for named, tokens in ((True, e["leases"]), (False, e.get("also", ()))):
            for token in tokens:
                self.settles[token].append(Settle(e["kind"], ids, e["t"], named, e.get("delay_ns", 0)))
        self.seen["ack_through"] += bool(e.get("also"))

    def _answered(self, step: str, e: Event) -> None:
        self.seen["stale"] += step == "stale"
        for token in e["leases"]:
            ids = (0, e["op"]) if e["op"] is not None else (1, e.get("cid"))
            open_ = [s for s in self.settles[token] if s.named and not s.result and s.ids[ids[0]] == ids[1]]
            for settle in open_[-1:]:  # without `op` the last one: what comes after one that counted is stale
                settle.result = step
                if settle.kind == "extend" and step == "ok" and (lease := self.leases.get(token)):
                    lease.expires = max(lease.expires, settle.t + e.get("expires_ns", 0))
                    lease.extended = True

    def _con(self, step: str, e: Event) -> None:
        con = self.cons.setdefault(e["cid"], Span([]))
        if step == "open":
            con.ends.append(("token", e.get("until", FOREVER)))
            con.boot, con.scope = e.get("boot", self.boots), e.get("may")
        elif step == "auth":
            con.ends += [("auth", e["t"]), ("token", e["until"])]
        elif step == "close":
            since = e.get("since", e["t"])
            con.closed = min(con.closed, since)
            con.ends.append(("close", e.get("until") or since))
        else:
            con.boot = con.boot or self.boots
            for name, (q, grp, leases) in e["subs"].items():
                sub = self.subs[e["cid"], name] = Span([], scope=(q, grp))
                for token in leases:
                    self.owners[token] = con, sub
                    if (lease := self.leases.get(token)) is not None:
                        lease.con, lease.sub = con, sub

    def _over(self, _: str, e: Event) -> None:
        for token in e["leases"]:
            self.over[token].append((e["why"], e["t"]))

    def _topic(self, _: str, e: Event) -> None:
        self.topics[e["q"]] = e

    def _grp(self, step: str, e: Event) -> None:
        where = e["q"], e["grp"]
        if step == "pause":
            self.pauses[where].append((e["t"], FOREVER))
            self.seen["paused"] += 1
        elif step == "go":
            if self.pauses[where] and self.pauses[where][-1][1] == FOREVER:
                self.pauses[where][-1] = (self.pauses[where][-1][0], e["t"])
        else:
            self.seen["purged" if e["grp"] is None else "sought"] += e["floor"] > 0
            if e["grp"] is None:
                self.floors[e["q"]] = max(self.floors[e["q"]], e["floor"])
            for grp in [e["grp"]] if e["grp"] is not None else list(self.groups[e["q"]]):
                self.resets[e["q"], grp].append((e["t"], e["floor"]))
            self.counts = {w: n for w, n in self.counts.items() if w[0] != e["q"] or e["grp"] not in {None, w[1]}}

    def _redrive(self, step: str, e: Event) -> None:
        if step == "inv":
            self.redrives.setdefault(e["q"], e["t"])
            for grp, seq in e["ids"]:
                self.redriven.setdefault((e["q"], grp, seq), None)
            return
        for grp, old, new, mid in e["seqs"]:
            self.redriven[e["q"], grp, old] = (e["q"], grp, new)
            self._second_life({**e, "grp": grp, "seq": new, "mid": mid})

    def _tail(self, step: str, e: Event) -> None:
        self.tails.feed(step, e)
        if step == "shown":
            self._content("shown", e)

    def _srv(self, step: str, e: Event) -> None:
        self.boots = e["boot"]
        if step != "start":
            self.stops[e["boot"]] = e["t"]
            self.kills += [e["t"]] * (step == "kill")

    def _final(self, _: str, e: Event) -> None:
        rows, kind = e.get("rows", ()), e["kind"]
        if kind == "drain":
            self.drained = e["done"]
            self.violations += [("L1", "the drain did not end in time")] * (not self.drained)
        elif kind == "db_dump":
            self.dump = {(row["q"], row["grp"], row["seq"]): row for row in rows}
        elif kind == "orphans":
            self.violations += [("S12", f"orphan: {row}") for row in rows]
        else:
            for row in rows:
                self._final_row(kind, (row["q"], row["grp"], row["seq"]), row)

    def _final_row(self, kind: str, where: Where, row: Event) -> None:
        if kind == "dlq":
            self.letters[where].append(row)
            return
        before = self.counts.get(where, (0, 0, 0))
        self.counts[where] = row["deliveries"], row["failures"], self.boots
        if row["deliveries"] < before[0] or row["failures"] < before[1]:
            self.bad("S7", where, f"counts on disk went from {before} to {self.counts[where]}")

    def report(self, required: Iterable[str] = ()) -> Report:
        """Judge the whole history. `required`: rare states that must have been seen."""
        for (q, _), pub in self.pubs.items():
            pub.schedule.settle(pub.answered, self.topics.get(q, {}).get("age_ns", 0))
        for where, leases in self.by_message.items():
            leases.sort(key=lambda lease: (lease.con.boot, lease.attempt, lease.granted))
            for life in self._lives(where, leases):
                self._judge_leases(where, life)
            self._judge_times(where, leases)
        for where, rows in self.letters.items():
            for row in rows:
                self._judge_letter(where, row)
            lives = [self._life(where, row.get("t", 0)) for row in rows]
            if len(set(lives)) < len(lives):
                self.bad("S8", where, f"{len(rows)} dead letters")
        for where, row in (self.dump or {}).items():
            self._content("stored", row)
            acked = any(lease.has("ack", "ok") for lease in self._last_life(where))
            if acked or (where in self.letters and not self.resets.get(where[:2])):
                self.bad("S12", where, f"{'confirmed as acked' if acked else 'dead'}, and still stored")
        self._judge_fates()
        self._judge_orders()
        missing = sorted(set(required) - {name for name, count in self.seen.items() if count})
        return Report(self.violations, self.seen, missing, self._figures())

    def _judge_fates(self) -> None:
        for (q, mid), pub in self.pubs.items():
            self._judge_publish((q, mid), pub)
            for seq in pub.seqs:
                for grp, (since, starts) in self.groups[q].items():
                    only = len(self.groups[q]) == 1 and starts <= {None, "earliest"} and since < FOREVER
                    still = since < pub.schedule.expires_min  # else it may have gone before anybody was owed it
                    owed = pub.ok_t < FOREVER and (since <= pub.first_t or (only and still))
                    self._judge_fate((q, grp, seq), mid, pub, owed)
        for (q, seq), (grp, mid) in self.second_lives.items():
            if grp is not None and (q, mid) in self.pubs:
                self._judge_fate((q, grp, seq), mid, self.pubs[q, mid], owed=True)

    # --- lives: a group that was moved or purged begins anew ------------------------------------------------------

    def _life(self, where: Where, t: int) -> int:
        return bisect_right(self.resets.get(where[:2], ()), (t, FOREVER))

    def _lives(self, where: Where, leases: list[Lease]) -> Iterable[list[Lease]]:
        lives: dict[int, list[Lease]] = defaultdict(list)
        for lease in leases:
            lives[self._life(where, lease.granted)].append(lease)
        return lives.values()

    def _last_life(self, where: Where) -> list[Lease]:
        last = len(self.resets.get(where[:2], ()))
        return [each for each in self.by_message.get(where, ()) if self._life(where, each.granted) == last]

    # --- judgement ------------------------------------------------------------------------------------------------

    def _judge_times(self, where: Where, leases: list[Lease]) -> None:
        mid = self.mids.get((where[0], where[2]))
        pub, slack = self.pubs.get((where[0], mid or "")), self.limits.slack_ns
        if pub is None or (where[0], where[2]) in self.second_lives:
            return
        schedule = pub.schedule
        for lease in leases:
            if lease.granted + slack < schedule.due_min:
                self.bad("S14", where, f"{lease.token} granted {schedule.due_min - lease.granted} ns before it was due")
            if lease.granted > schedule.expires_max + slack + (0 if lease.exact else self.limits.late_ns):
                self.bad("S15", where, f"{lease.token} granted {lease.granted - schedule.expires_max} ns after its end")
        self.seen["delayed"] += any(delay or due for _, delay, due, _ in schedule.asked.values())

    def _judge_orders(self) -> None:
        keys: dict[Any, list[judges.Keyed]] = defaultdict(list)
        grants: dict[tuple[str, str], list[int]] = defaultdict(list)
        newest: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for where, leases in self.by_message.items():
            q, grp, seq = where
            grants[q, grp] += [lease.granted for lease in leases]
            newest[q].append((seq, max(lease.granted for lease in leases)))
            if leases[0].key is None or not all(lease.exact for lease in leases):
                continue
            for life in self._lives(where, leases):
                name = q, grp, life[0].key, life[0].pri, self._life(where, life[0].granted)
                keys[name].append(self._keyed(where, life))
        for name, messages in keys.items():
            judges.judge_key(name, messages, self.limits.slack_ns, self.limits.behind_ns, self.bad)
            self.seen["key_waited"] += len(messages) > 1
        judges.judge_pauses(self.pauses, grants, self.limits.slack_ns, self.bad)
        kept: dict[str, list[int]] = defaultdict(list)
        for q, _, seq in self.dump or ():
            kept[q].append(seq)
        stored: dict[str, list[int]] = defaultdict(list)
        for q, seq in sorted({*self.mids, *self.second_lives}):
            stored[q].append(seq)
        for q, topic in self.topics.items():
            if topic.get("retain_ns", 0) >= FOREVER:
                mortal = {seq for (q2, seq), mid in self.mids.items() if q2 == q and self._mortal(q, mid)}
                kept[q] += [seq for seq in stored[q] if seq > self.floors[q] and seq not in mortal]
        for pairs in (*kept.values(), *newest.values()):
            pairs.sort()  # type: ignore[attr-defined]  # lists of one kind each
        self.tails.judge(stored, kept, newest, self.limits.slack_ns)

    def _mortal(self, q: str, mid: str) -> bool:
        """Whether it goes by itself one day."""
        pub = self.pubs.get((q, mid))
        return pub is None or pub.schedule.expires_min < FOREVER

    def _keyed(self, where: Where, life: list[Lease]) -> judges.Keyed:
        pub = self.pubs.get((where[0], self.mids.get((where[0], where[2]), "")))
        died = min((row.get("t", 0) for row in self.letters.get(where, ())), default=FOREVER)
        second = (where[0], where[2]) in self.second_lives
        due, expires = (0, FOREVER) if pub is None or second else (pub.schedule.due_max, pub.schedule.expires_min)
        # So often delivered, it may have died without a word: a letter that a crash kept from being written.
        often = min(self.limits.max_failures, self.limits.max_deliveries)
        ends = [lease.granted if lease.attempt >= often else lease.ended for lease in life]
        ended = min(died, self._gone_by(where), *ends)
        grants = sorted((lease.con.boot, lease.granted) for lease in life)
        return judges.Keyed(where[2], grants, ended, due, expires)

    def _gone_by(self, where: Where) -> int:
        """When a letter of it may have been put back: the letter itself is not there any more to tell when it died."""
        return 0 if where in self.redriven else FOREVER

    def _judge_publish(self, where: tuple[str, str], pub: Pub) -> None:
        answers = set(pub.ops.values())
        for wrong, code, text in (
            (len(pub.seqs) > 1, "S4", f"stored as {sorted(pub.seqs)}"),
            (pub.fresh > 1, "S4", f"{pub.fresh} answers without duplicate"),
            ("ok" in answers and not pub.fresh and answers <= {"ok", "fail"}, "S4", "duplicate of nothing"),
            (pub.seqs and answers == {"fail"}, "S3", "refused for certain, yet it is there"),
        ):
            if wrong:
                self.bad(code, where, text)
        if answers & {"info", ""}:
            self.seen["open_publish_kept" if pub.seqs else "open_publish_lost"] += 1

    def _judge_leases(self, where: Where, leases: list[Lease]) -> None:
        failures, last = 0, leases[-1]
        for before, after in pairwise(leases):
            failures += self._judge_pair(where, before, after)
        if failures >= self.limits.max_failures:
            self.bad("S7", where, f"delivered again after {failures} failures")
        top = max(lease.attempt for lease in leases)
        if len(leases) > top + len(self.stops) * self.limits.forgotten_max or top > self.limits.max_deliveries:
            self.bad("S7", where, f"{len(leases)} deliveries, {len(self.stops)} stops, yet attempt {top}")
        acked = [lease for lease in leases if lease.has("ack", "ok")]
        if len(acked) > 1:
            self.bad("S5", where, f"{[lease.token for lease in acked]} all confirmed as acked")
        elif acked and acked[0] is not last:
            self.bad("S5", where, f"delivered as {last.token} after the confirmed ack of {acked[0].token}")
        for lease in leases:
            ends, late, close_late = lease.con.ends, self.limits.late_ns, self.limits.slack_ns
            closed = lease.con.closed
            until = max((t for name, t in ends if name == "token"), default=FOREVER)
            if lease.granted > closed + (close_late if lease.exact else late) or lease.granted > until + late:
                self.bad("S11", where, f"{lease.token} delivered after its connection or token had ended")
        self.seen["reverted_ack"] += any(lease.has("ack", "") for lease in leases[:-1])
        self.seen["resumed_lease_settled"] += any(x.token in self.owners and x.has("ack", "ok") for x in leases)

    def _judge_pair(self, where: Where, before: Lease, after: Lease) -> bool:
        """Two deliveries in a row of one message. Returns whether the first certainly ended as a failure."""
        by, same_boot = after.granted + self.limits.slack_ns, before.con.boot == after.con.boot
        counted = same_boot or before.has("nack", "ok") or before.has("release", "ok")
        if counted and after.attempt <= before.attempt:
            self.bad("S7", where, f"{after.token} is attempt {after.attempt}, but {before.token} was {before.attempt}")
        stop = self.stops.get(before.con.boot, FOREVER)
        causes = [("expiry", before.expires), ("stop", stop), *before.con.ends, *before.sub.ends, *before.over]
        ends = {name for name, t in causes if t <= by}
        ends |= {s.kind for s in before.settles if s.t <= by and s.result != "stale" and s.kind != "extend"}
        if not ends:
            self.bad("S6", where, f"{after.token} granted while {before.token} was held")
        for nack in before.settles:
            if nack.kind == "nack" and nack.result == "ok":
                self.seen["delayed_nack" if nack.delay_ns else "backoff"] += 1
                self.seen["retry_after_kill"] += not same_boot
                if by < nack.t + nack.delay_ns:
                    self.bad("S13", where, f"{after.token} granted before the delay of a nack was over")
        self.seen["redelivery_after_kill"] += not same_boot
        named = ends - {"parted"} or ends  # the gateway says so too when a subscription or a token ends
        if same_boot and len(named) == 1:
            (end,) = named
            self.seen[end] += 1
            self.seen["expiry_extended"] += end == "expiry" and before.extended
        return same_boot and ends <= {"expiry", "nack"}

    def _judge_letter(self, where: Where, row: Event) -> None:
        reason, at = row["reason"], row.get("t", FOREVER)
        died = at + self.limits.slack_ns
        limits = {"failures": self.limits.max_failures, "deliveries": self.limits.max_deliveries}
        lives = {self._life(where, at), self._life(where, at + 1_000_000)}  # `at` is a millisecond
        leases = [x for x in self.by_message.get(where, ()) if self._life(where, x.granted) in lives or at == FOREVER]
        same_life = [x for x in leases[-1:] if self.stops.get(x.con.boot, FOREVER) >= at]
        pub = self.pubs.get((row["q"], row["mid"]))
        expires = 0 if pub is None or row.get("redriven") else pub.schedule.expires_min
        self.seen[f"dead_{reason}"] += 1
        self._content("dead", row)
        for wrong, text in (
            (reason not in {*limits, "rejected", "expired", "corrupt"}, f"unknown reason {reason}"),
            (reason in limits and row[reason] != limits[reason], f"dead after {row.get(reason)} {reason}"),
            (reason == "rejected" and not any(x.has("reject", "ok", "") for x in leases), "nobody rejected it"),
            (reason == "expired" and died < expires, "expired before its time"),
            (any(x.has("ack", "ok") for x in leases), "dead, yet confirmed as acked"),
            (any(x.exact and x.granted > died for x in leases), "delivered after its death"),
            # A drain may have ended the last lease, which does not count then.
            (
                any(x.attempt > row["deliveries"] + (reason == "expired") for x in same_life),
                f"not all of {same_life} counted",
            ),
        ):
            if wrong:
                self.bad("S8", where, text)

    def _judge_fate(self, where: Where, mid: str, pub: Pub, owed: bool) -> None:
        """What was confirmed, or once delivered, is acked, dead or still there; after a drain not there any more."""
        leases, dead = self._last_life(where), where in self.letters or where in self.redriven
        resets = self.resets.get(where[:2], ())
        if where[2] <= max((floor for _, floor in resets), default=0) or where[2] <= self.floors[where[0]]:
            return  # purged, or passed over
        if not dead and any(lease.has("reject", "ok") for lease in leases):
            self.bad("S8", where, f"{mid} was rejected, but is not with the dead letters")
        if resets and not leases:
            owed = owed and not any(x.has("ack", "ok", "") for x in self.by_message.get(where, ()))
        if not (leases or owed) or dead or (leases and leases[-1].has("ack", "ok", "")):
            return
        second = (where[0], where[2]) in self.second_lives
        if self.topics.get(where[0], {}).get("expired") == "drop" and not second:
            if pub.schedule.expires_min < self.end_t:
                self.seen["dropped"] += 1
                return
        if self.dump is not None and where in self.dump:
            if self.drained:
                self.bad("L1", where, f"{mid} is still there after the drain")
        elif self.dump is not None or self.drained:
            self.bad("S1'" if leases else "S1", where, f"{mid} is lost")

    def _figures(self) -> dict[str, int]:
        pubs = self.pubs.values()
        asked, told = sorted(p.first_t for p in pubs), sorted(p.ok_t for p in pubs)
        return {
            "messages": len(pubs),
            "confirmed": sum(p.ok_t < FOREVER for p in pubs),
            "deliveries": len(self.leases),
            "redeliveries": len(self.leases) - len(self.by_message),
            "dead": len(self.letters),
            "kills": len(self.kills),
            "kills_with_open_publishes": sum(bisect_right(asked, t) > bisect_right(told, t) for t in self.kills),
        }


def check(events: Iterable[Event | str], limits: Limits, required: Iterable[str] = ()) -> Report:
    """Judge a history: events, or their JSON lines, in any order (they are sorted by time, stably)."""
    checker = Checker(limits)
    parsed: list[Event] = [json.loads(event) if isinstance(event, str) else event for event in events]
    for event in sorted(parsed, key=lambda event: event["t"]):
        checker.feed(event)
    return checker.report(required)
