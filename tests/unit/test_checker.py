"""The history checker against hand-made histories: for each invariant one it must refuse beside one it must pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.checker import SOMETIMES, Limits, Report, check

LIMITS = Limits(max_failures=3, max_deliveries=5, forgotten_max=1, slack_ns=0)
S = 1_000_000_000
Q, G = "acme/orders", "default"


class Story:
    """A history written down line by line; each line happens one second after the one before."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.now = 0
        self.op = 0
        self.add("srv_start", boot=1)

    def add(self, ev: str, **fields: Any) -> dict[str, Any]:
        self.now += S
        event = {"t": self.now, "ev": ev, **fields}
        self.events.append(event)
        return event

    def publish(
        self, mid: str, seq: int, *, dup: bool = False, sha: str = "h", answer: str = "ok", **fields: Any
    ) -> None:
        self.op += 1
        self.add("pub_inv", op=self.op, q=Q, mid=mid, sha=sha, **fields)
        answers: dict[str, dict[str, Any]] = {"ok": {"seq": seq, "dup": dup}, "fail": {"code": "busy"}, "info": {}}
        more = answers[answer]
        self.add(f"pub_{answer}", op=self.op, q=Q, mid=mid, **more)

    def join(self, cid: str, grp: str = G, **fields: Any) -> None:
        self.add("con_open", cid=cid, boot=1, **fields)
        self.add("sub_inv", cid=cid, sub="s", q=Q, grp=grp)
        self.add("sub_ok", cid=cid, sub="s", q=Q, grp=grp)

    def deliver(self, cid: str, seq: int, attempt: int, mid: str = "", **fields: Any) -> str:
        lease = f"{cid}-{seq}-{attempt}"
        known = {"grp": G, "sha": "h", "expires_ns": 100 * S, "redelivered": attempt > 1, "lease": lease}
        event = {"cid": cid, "sub": "s", "q": Q, "seq": seq, "mid": mid or f"m{seq}", "attempt": attempt}
        return str(self.add("dlv", **{**event, **known, **fields})["lease"])

    def settle(self, kind: str, lease: str, answer: str = "ok", **fields: Any) -> None:
        self.op += 1
        self.add("set_inv", op=self.op, kind=kind, leases=[lease], **fields)
        if answer:
            self.add(f"set_{answer}", op=self.op, leases=[lease], expires_ns=100 * S)

    def kill(self, boot: int) -> None:
        self.add("srv_kill", boot=boot)
        self.add("srv_start", boot=boot + 1)

    def final(self, *stored: dict[str, Any], dlq: tuple[dict[str, Any], ...] = (), drained: bool = True) -> None:
        self.add("final", kind="drain", done=drained)
        self.add("final", kind="db_dump", rows=stored)
        self.add("final", kind="dlq", rows=dlq)


def row(seq: int, mid: str = "", **fields: Any) -> dict[str, Any]:
    return {"q": Q, "grp": G, "seq": seq, "mid": mid or f"m{seq}", "sha": "h", **fields}


def letter(seq: int, reason: str, deliveries: int = 1, failures: int = 0, **fields: Any) -> dict[str, Any]:
    return row(seq, reason=reason, deliveries=deliveries, failures=failures, **fields)


def ordinary() -> Story:
    """One message, published, delivered and acked."""
    story = Story()
    story.join("c1")
    story.publish("m1", 1)
    story.settle("ack", story.deliver("c1", 1, 1))
    return story


def verdict(story: Story) -> Report:
    return check(story.events, LIMITS)


def codes(story: Story) -> set[str]:
    return {code for code, _ in verdict(story).violations}


# --- one message more, and what becomes of it: (what goes wrong, what is fine) --------------------------------------


def lost(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    if not bad:
        story.settle("ack", story.deliver("c1", 2, 1))
    story.final()


def lost_late(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    lease = story.deliver("c1", 2, 1)
    story.settle("ack", lease, "stale" if bad else "")  # without an answer it may have been acked
    story.final()


def phantom(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("ack", story.deliver("c1", 2, 1, mid="m3" if bad else "m2"))


def changed(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("ack", story.deliver("c1", 2, 1, sha="other" if bad else "h"))


def aborted(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2, answer="fail")
    if not bad:
        story.publish("m2", 2)
    story.settle("ack", story.deliver("c1", 2, 1))


def stored_twice(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2, answer="info")
    story.publish("m2", 2, dup=True)
    story.settle("ack", story.deliver("c1", 2, 1))
    if bad:
        story.settle("ack", story.deliver("c1", 3, 1, mid="m2"))


def fresh_twice(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.publish("m2", 2, dup=not bad)
    story.settle("ack", story.deliver("c1", 2, 1))


def duplicate_of_nothing(story: Story, *, bad: bool) -> None:
    if not bad:
        story.publish("m2", 2, answer="info")
    story.publish("m2", 2, dup=True)
    story.settle("ack", story.deliver("c1", 2, 1))


def two_acks(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("ack", story.deliver("c1", 2, 1), "ok" if bad else "")  # unconfirmed, it may be lost in the crash
    story.kill(1)
    story.add("con_open", cid="c2", boot=2)
    story.add("sub_ok", cid="c2", sub="s", q=Q, grp=G)
    story.settle("ack", story.deliver("c2", 2, 1, redelivered=False))


def delivered_after_ack(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    first = story.deliver("c1", 2, 1, expires_ns=0)
    if bad:
        story.settle("ack", first)
    story.deliver("c1", 2, 2)
    story.settle("ack", first, "stale")


def two_holders(story: Story, *, bad: bool) -> None:
    story.join("c2")
    story.publish("m2", 2)
    story.deliver("c1", 2, 1)
    if not bad:
        story.add("con_close", cid="c1")
    story.settle("ack", story.deliver("c2", 2, 2))


def extended_and_given_away(story: Story, *, bad: bool) -> None:
    story.join("c2")
    story.publish("m2", 2)
    first = story.deliver("c1", 2, 1, expires_ns=4 * S)
    story.settle("extend", first, "ok" if bad else "stale")
    story.now += 4 * S
    story.settle("ack", story.deliver("c2", 2, 2))


def same_attempt(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("release", story.deliver("c1", 2, 1))
    story.settle("ack", story.deliver("c1", 2, 1 if bad else 2, lease="again"))


def flag(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("ack", story.deliver("c1", 2, 1, redelivered=bad))


def too_many_failures(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    for attempt in range(1, 4 if bad else 3):
        story.settle("nack", story.deliver("c1", 2, attempt))
    story.settle("ack", story.deliver("c1", 2, 4 if bad else 3))


def more_repeats_than_stops(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.deliver("c1", 2, 1)
    if bad:
        story.settle("release", "c1-2-1")
        story.deliver("c1", 2, 2)
    story.kill(1)
    story.add("con_open", cid="c2", boot=2)
    story.add("sub_ok", cid="c2", sub="s", q=Q, grp=G)
    story.settle("release", story.deliver("c2", 2, 1))
    story.settle("ack", story.deliver("c2", 2, 2))


def count_forgotten(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("release", story.deliver("c1", 2, 1), "ok" if bad else "")
    story.kill(1)
    story.add("con_open", cid="c2", boot=2)
    story.add("sub_ok", cid="c2", sub="s", q=Q, grp=G)
    story.settle("ack", story.deliver("c2", 2, 1))


def counts_ignored(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("release", story.deliver("c1", 2, 1))
    story.deliver("c1", 2, 2)
    story.add("srv_kill", boot=1)
    story.add("final", kind="counts", rows=[row(2, deliveries=2 if bad else 1, failures=0)])
    story.add("con_open", cid="c2", boot=2)
    story.add("sub_ok", cid="c2", sub="s", q=Q, grp=G)
    story.settle("ack", story.deliver("c2", 2, 2))


def counts_went_back(story: Story, *, bad: bool) -> None:
    story.add("final", kind="counts", rows=[row(1, deliveries=2, failures=2)])
    story.add("final", kind="counts", rows=[row(1, deliveries=2, failures=1 if bad else 2)])


def died_too_early(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    for attempt in (1, 2, 3):
        story.settle("nack", story.deliver("c1", 2, attempt))
    story.final(dlq=(letter(2, "failures", 3, 2 if bad else 3),))


def overtaken(story: Story, *, bad: bool) -> None:
    """3 came before 2, which is right if 2 had died of a delivery that no client saw, and a crash forgot the letter."""

    def deliver(cid: str, seq: int, attempt: int) -> str:
        return story.deliver(cid, seq, attempt, key="k", granted=story.now + 1)

    story.publish("m2", 2, key="k")
    story.publish("m3", 3, key="k")
    for attempt in (1,) if bad else (1, 2):
        story.settle("nack", deliver("c1", 2, attempt))
    deliver("c1", 3, 1)
    story.kill(1)
    story.add("con_open", cid="c2", boot=2)
    story.add("sub_ok", cid="c2", sub="s", q=Q, grp=G)
    story.settle("ack", deliver("c2", 2, 2 if bad else 3))
    story.settle("ack", deliver("c2", 3, 1))


def never_rejected(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("release" if bad else "reject", story.deliver("c1", 2, 1))
    story.final(dlq=(letter(2, "rejected"),))


def rejected_and_gone(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("reject", story.deliver("c1", 2, 1))
    story.final(dlq=() if bad else (letter(2, "rejected"),))


def two_letters(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("reject", story.deliver("c1", 2, 1))
    story.final(dlq=(letter(2, "rejected"),) * 1 + ((letter(2, "rejected"),) if bad else ()))


def delivered_after_death(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("reject", story.deliver("c1", 2, 1))
    died = story.now
    if bad:
        story.deliver("c1", 2, 2, granted=story.now + S)
    story.final(dlq=(letter(2, "rejected", 2, t=died),))


def seq_reused(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("ack", story.deliver("c1", 2, 1))
    story.kill(1)
    story.publish("m3", 2 if bad else 3)
    story.add("final", kind="db_dump", rows=[row(2 if bad else 3, "m3")])


def seq_went_back(story: Story, *, bad: bool) -> None:
    story.publish("m5", 5)
    story.publish("m4", 4 if bad else 6)


def after_unsubscribe(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.add("unsub_inv", cid="c1", sub="s")
    if bad:
        story.add("unsub_ok", cid="c1", sub="s")
    story.deliver("c1", 2, 1)


def after_close(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.add("con_close", cid="c1")
    story.deliver("c1", 2, 1, granted=story.now + (S if bad else -S))


def after_token_end(story: Story, *, bad: bool) -> None:
    story.join("c2", until=story.now + 3 * S)
    story.publish("m2", 2)
    if not bad:
        story.add("con_auth", cid="c2", until=story.now + 60 * S)
    story.now += 3 * S
    story.settle("ack", story.deliver("c2", 2, 1, granted=story.now))


def not_allowed(story: Story, *, bad: bool) -> None:
    story.join("c2", may=[[Q, "other" if bad else G]])
    story.publish("m2", 2)
    story.settle("ack", story.deliver("c2", 2, 1))


def acked_and_stored(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.final(row(1 if bad else 2), drained=False)


def orphan(story: Story, *, bad: bool) -> None:
    story.final()
    story.add("final", kind="orphans", rows=["retry 7 of nothing"] if bad else [])


def too_soon(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.settle("nack", story.deliver("c1", 2, 1), delay_ns=(3 if bad else 2) * S)
    story.settle("ack", story.deliver("c1", 2, 2))


def stuck(story: Story, *, bad: bool) -> None:
    story.publish("m2", 2)
    story.final(*([row(2)] if bad else []))
    if not bad:
        story.settle("ack", story.deliver("c1", 2, 1))


CASES: list[tuple[str, Callable[..., None]]] = [
    ("S1", lost),
    ("S1'", lost_late),
    ("S2", phantom),
    ("S2", changed),
    ("S3", aborted),
    ("S4", stored_twice),
    ("S4", fresh_twice),
    ("S4", duplicate_of_nothing),
    ("S5", two_acks),
    ("S5", delivered_after_ack),
    ("S6", two_holders),
    ("S6", extended_and_given_away),
    ("S7", same_attempt),
    ("S7", flag),
    ("S7", too_many_failures),
    ("S7", more_repeats_than_stops),
    ("S7", count_forgotten),
    ("S7", counts_ignored),
    ("S7", counts_went_back),
    ("S8", died_too_early),
    ("S8", never_rejected),
    ("S8", rejected_and_gone),
    ("S8", two_letters),
    ("S8", delivered_after_death),
    ("S9", overtaken),
    ("S10", seq_reused),
    ("S10", seq_went_back),
    ("S11", after_unsubscribe),
    ("S11", after_close),
    ("S11", after_token_end),
    ("S11", not_allowed),
    ("S12", acked_and_stored),
    ("S12", orphan),
    ("S13", too_soon),
    ("L1", stuck),
]


@pytest.mark.parametrize(("code", "case"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_bad_history_is_caught(code: str, case: Callable[..., None]) -> None:
    story = ordinary()
    case(story, bad=True)
    assert code in codes(story)


@pytest.mark.parametrize(("code", "case"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_good_history_passes(code: str, case: Callable[..., None]) -> None:
    story = ordinary()
    case(story, bad=False)
    assert codes(story) - ({"L1"} if case is acked_and_stored else set()) == set()


def test_every_invariant_has_a_case() -> None:
    assert {code for code, _ in CASES} == {f"S{n}" for n in range(1, 14)} | {"S1'", "L1"}


def test_a_drain_that_did_not_end_is_a_violation() -> None:
    story = ordinary()
    story.final(drained=False)
    assert codes(story) == {"L1"}


def test_json_lines_in_any_order_are_judged_like_events() -> None:
    story = ordinary()
    lost(story, bad=True)
    lines = [json.dumps(event) for event in reversed(story.events)]
    assert check(lines, LIMITS).violations == verdict(story).violations != []


def test_a_run_without_the_rare_states_asked_for_is_invalid() -> None:
    story = ordinary()
    fresh_twice(story, bad=False)
    report = check(story.events, LIMITS, {"duplicate", "stale"})
    assert report.missing == ["stale"]
    assert not report.passed
    assert check(story.events, LIMITS, {"duplicate"}).passed
    assert {"duplicate", "stale"} <= SOMETIMES


def test_ack_through_confirms_only_the_lease_it_names() -> None:
    story = ordinary()
    story.publish("m2", 2)
    story.publish("m3", 3)
    first, last = story.deliver("c1", 2, 1, expires_ns=0), story.deliver("c1", 3, 1)
    story.settle("ack", last, also=[first])
    story.settle("ack", story.deliver("c1", 2, 2))
    assert codes(story) == set()
    assert verdict(story).seen["ack_through"] == 1


def test_the_figures_count_kills_that_hit_an_open_publish() -> None:
    story = ordinary()
    story.kill(1)
    story.add("pub_inv", op="x", q=Q, mid="m9", sha="h")
    story.kill(2)
    figures = verdict(story).figures
    assert (figures["kills"], figures["kills_with_open_publishes"]) == (2, 1)


def test_an_event_of_unknown_kind_is_an_error() -> None:
    with pytest.raises(AttributeError):
        check([{"t": 1, "ev": "nonsense"}], LIMITS)
