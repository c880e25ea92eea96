"""The history checker: judges what clients saw and what the disk holds, and knows nothing of how the gateway works.

Standard library only (with records.py, verdict.py and judges.py), for simulator and real processes. Events carry
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
    grp_reset q grp floor           moved or purged: a life of its own begins, owed nothing to `floor` (grp None: all)
    grp_pause q grp                 confirmed               grp_go  q grp  is to be resumed
    redrive_inv q ids: [[grp, seq], ...]     redrive_ok  q seqs: [[grp, old seq, new seq, mid], ...]
    tail_ok   tid q seq [resumed]   tail_shown  tid q seq mid sha [key]    tail_gap  tid q from to
    srv_start boot                  srv_kill  boot                         srv_exit  boot (after a drain)
    final     kind, rows or done    db_dump (owed, unsettled), dlq, orphans, counts (also after a kill), drain
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from .judges import FOREVER
from .records import SOMETIMES, Event, Lease, Limits, Pub, Report, Settle, Span, Where
from .verdict import Verdict

__all__ = ["SOMETIMES", "Checker", "Limits", "Report", "check"]


class Checker(Verdict):
    """Feed it every event in order of time, then ask for the `report`."""

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


def check(events: Iterable[Event | str], limits: Limits, required: Iterable[str] = ()) -> Report:
    """Judge a history: events, or their JSON lines, in any order (they are sorted by time, stably)."""
    checker = Checker(limits)
    parsed: list[Event] = [json.loads(event) if isinstance(event, str) else event for event in events]
    for event in sorted(parsed, key=lambda event: event["t"]):
        checker.feed(event)
    return checker.report(required)
