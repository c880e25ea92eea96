"""The verdict of the history checker: what must hold once the whole history is known.

Owns the invariants of single messages, and hands orders and times to judges.py. checker.py has read the events into
what it looks at here. Standard library only, and no knowledge of how the gateway works.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from . import judges
from .judges import FOREVER
from .records import Event, Lease, Limits, Pub, Report, Settle, Span, Where


class Verdict:
    """All that was read, and the judgement of it."""

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

    def _content(self, how: str, e: Event) -> None:
        """What comes out was put in."""
        raise NotImplementedError

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
        for (q, seq), (own, mid) in self.second_lives.items():
            if own is not None and (q, mid) in self.pubs:
                self._judge_fate((q, own, seq), mid, self.pubs[q, mid], owed=True)

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
        due, expires = 0, FOREVER
        if second and self.topics.get(where[0], {}).get("age_ns", 0) > 0:
            expires = 0  # it ages from when it was redriven, and nothing tells when that was
        elif pub is not None and not second:
            due, expires = pub.schedule.due_max, pub.schedule.expires_min
        # So often delivered, it may have died without a word: a letter that a crash kept from being written.
        often = min(self.limits.max_failures, self.limits.max_deliveries)
        ends = [lease.granted if lease.attempt >= often else lease.ended for lease in life]
        # Its last delivery may have been one that no client saw, and a crash then forgot the letter.
        ends += [a.returned for a, b in pairwise(life) if a.attempt == often - 1 and a.con.boot < b.con.boot]
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
        self.seen["dead_after_kill"] += len({x.con.boot for x in leases}) > 1
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
        topic = self.topics.get(where[0], {})
        mortal = topic.get("age_ns", 0) > 0 if second else pub.schedule.expires_min < self.end_t
        if topic.get("expired") == "drop" and mortal:
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
