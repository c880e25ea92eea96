"""What must be shown at size, as scenarios with figures: lanes, keys, delays, tails. Each fails on any broken promise.

Owns the stories and what is measured in them. The gateway is the real one, in virtual time; see stage.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

from pushwire.wire.frames import Draft
from pushwire_storage.base import TopicConfig

from .consumer import Consumer, Want
from .follower import Follower
from .operator import ALWAYS_MS
from .stage import TENANT, TOPIC, Q, Sink, Source, Stage, staged, text
from .world import ns

WEIGHTS = (1, 2, 4, 8)
WARM_UP = 64
"""Deliveries before shares are counted: those that go out while the lanes are still being read for the first time."""


@dataclass
class Shown:
    """What came of a scenario."""

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def demand(self, fine: bool, otherwise: str) -> None:
        if not fine:
            self.problems.append(otherwise)

    def judge(self, stage: Stage) -> None:
        """Nothing that the checker knows of was broken."""
        report = stage.report()
        self.problems += [f"{code} {what}" for code, what in report.violations[:10]]
        self.figures |= {name: report.figures[name] for name in ("messages", "kills")}


# --- 1: lanes ---------------------------------------------------------------------------------------------------------


def lanes(messages: int = 10_000, seed: int = 1) -> Shown:
    """Four saturated lanes: shares of the weights, and no long wait for the lowest."""
    shown = Shown("lanes 1:2:4:8")
    order: list[int] = []

    def told(draft: Any, _: int) -> bool:
        order.append(draft.priority)
        return True

    with staged(seed) as stage:
        stage.open()
        total = sum(WEIGHTS)
        counts = [messages * weight // total + WARM_UP + 100 for weight in WEIGHTS]
        drafts = [text(f"m{p}-{n}", priority=p) for p, count in enumerate(counts) for n in range(count)]
        Random(seed).shuffle(drafts)
        source = Source(stage, "p", iter(drafts), 500)
        shown.demand(stage.run(60, lambda: source.done), "the backlog was not stored")
        Sink(stage, "c", 32, 0.001, told)
        shown.demand(stage.run(600, lambda: len(order) >= messages + WARM_UP), "too few deliveries")
        counted = order[WARM_UP : WARM_UP + messages]
        for priority, weight in enumerate(WEIGHTS):
            share, due = counted.count(priority) / messages, weight / total
            shown.figures[f"share of {priority}"] = f"{share:.4f} (due {due:.4f})"
            shown.demand(abs(share - due) <= 0.02 * due, f"lane {priority} has {share:.4f}, not {due:.4f}")
            wait = _longest_wait(counted, priority)
            shown.figures[f"most deliveries from one of {priority} to the next"] = wait
            bound = -(-total // weight)
            shown.demand(wait <= bound, f"lane {priority} waited for {wait} deliveries, {bound} at most")
        stage.run(60, lambda: len(order) >= len(drafts))
        shown.judge(stage)
    return shown


def _longest_wait(order: list[int], priority: int) -> int:
    places = [place for place, each in enumerate(order) if each == priority]
    return max((after - before for before, after in pairwise(places)), default=0)


def strict(messages: int = 3000, seed: int = 1) -> Shown:
    """Strict lanes with messages coming in all the while: none passes one above that was there to be delivered."""
    shown = Shown("lanes, strict")
    open_: list[dict[str, int]] = [{} for _ in range(4)]  # id -> when it was certainly stored, by priority
    passed: list[str] = []
    seen: set[str] = set()
    waited = [0]

    def told(draft: Any, granted: int) -> bool:
        for above in range(draft.priority + 1, 4):
            passed.extend(mid for mid, stored in open_[above].items() if stored < granted)
        open_[draft.priority].pop(draft.id, None)
        seen.add(draft.id)
        waited[0] = max(waited[0], sum(map(len, open_)))
        return True

    with staged(seed) as stage:
        stage.open(TopicConfig(strict=True))
        rng = Random(seed)
        drafts = [text(f"m{n}", priority=rng.randrange(4)) for n in range(messages)]
        source = Source(stage, "p", iter(drafts), 20, pause_s=0.005)
        pending = iter(drafts)

        def stored() -> None:
            for _, draft in zip(range(20), pending, strict=False):
                if draft.id not in seen:
                    open_[draft.priority][draft.id] = ns(stage.world.clock_s)

        source.after_batch = stored
        stage.run(0.3)
        # A window of one: each choice is made when the one before has ended. Slower than what comes in.
        Sink(stage, "c", 1, 0.01, told)
        shown.demand(stage.run(600, lambda: len(seen) >= messages), f"{len(seen)} delivered of {messages}")
        shown.figures |= {"passed": len(passed), "waiting at once": waited[0]}
        shown.demand(waited[0] >= 50, "hardly anything had to wait: the story shows nothing")
        shown.demand(not passed, f"{passed[:5]} were passed by lower ones")
        shown.judge(stage)
    return shown


# --- 2: keys ----------------------------------------------------------------------------------------------------------


def keys(messages: int = 100_000, seed: int = 1) -> Shown:
    """50 keys, 8 consumers that nack, let leases run out and lose their connections, a gateway that is killed."""
    shown = Shown("ordering keys")
    rng = Random(seed)
    temper = {"ack": 60, "through": 10, "ack_later": 10, "nack": 3, "nack_delay": 2, "release": 2, "hold": 1}
    with staged(seed, max_failures=30, max_deliveries=300, backoff_cap_s=0.05, backoff_cap_s_max=0.3) as stage:
        stage.open()
        drafts = (text(f"m{n}", key=f"k{rng.randrange(50)}") for n in range(messages))
        source = Source(stage, "p", drafts, 100, pause_s=0.05)
        wants = [Want(TOPIC, "g", 64, 500, "earliest")]
        people = [Consumer(stage.world, stage.node, TENANT, f"c{n}", temper, wants) for n in range(8)]
        for person in people:
            person.grace_ms = rng.choice((None, 500))

        def trouble() -> None:
            if source.done:
                return
            dice = rng.random()
            person = rng.choice(people)
            if dice < 0.2 and stage.node.alive:
                stage.node.crash("kill")
            elif dice < 0.9 and person.wire is not None:
                person.wire.cut()
            stage.world.at(0.6 * rng.random(), trouble)

        stage.world.at(1.0, trouble)
        shown.demand(stage.run(3600, lambda: source.done), "not everything was stored")
        for person in people:
            person.calm = True
        shown.demand(stage.run(600, lambda: _all_settled(stage)), "not everything was settled")
        shown.judge(stage)
        sooner = [what for code, what in stage.checker.violations if code == "S9"]
        shown.figures |= {
            "inversions": len(sooner),
            "deliveries": len(stage.checker.leases),
            "redelivered": _redelivered(stage),
        }
    return shown


def blocked_key(head: int = 5000, behind: int = 15_000, seed: int = 1) -> Shown:
    """A whole backlog of one key, whose first message is held, does not hide what lies behind it."""
    shown = Shown("one blocked key at the head")
    stuck: list[str] = []
    flowed: set[str] = set()

    def told(draft: Any, _: int) -> bool:
        if draft.key == "stuck":
            stuck.append(draft.id)
            return False
        flowed.add(draft.id)
        return True

    with staged(seed) as stage:
        stage.open()
        drafts = [text(f"s{n}", key="stuck") for n in range(head)]
        drafts += [text(f"m{n}", key=f"k{n % 49}" if n % 3 else None) for n in range(behind)]
        source = Source(stage, "p", iter(drafts), 500)
        shown.demand(stage.run(60, lambda: source.done), "the backlog was not stored")
        Sink(stage, "c", 32, 0.001, told)
        began = stage.world.clock_s
        shown.demand(stage.run(300, lambda: len(flowed) >= behind), f"{len(flowed)} of {behind} came through")
        shown.figures |= {"flowed": len(flowed), "virtual s": round(stage.world.clock_s - began, 2)}
        shown.figures["of the blocked key"] = len(stuck)
        shown.demand(stuck == ["s0"], f"{len(stuck)} of the blocked key were delivered")
        shown.judge(stage)
    return shown


def _all_settled(stage: Stage) -> bool:
    node = stage.node
    if not node.alive or not node.engine.batcher.idle:
        return False
    return all(topic.messages == 0 for topic in node.store.topics.values())


def _redelivered(stage: Stage) -> int:
    return len(stage.checker.leases) - len(stage.checker.by_message)


# --- 3: delays --------------------------------------------------------------------------------------------------------


def delays(messages: int = 400, seed: int = 1, longest_s: float = 86_400.0, stops: int = 4) -> Shown:
    """Delays from 10 ms to a day, through stops and kills of the gateway: each fires within 5 ms of its time."""
    shown = Shown("delays of 10 ms to 24 h")
    fired: dict[str, int] = {}
    due: dict[str, tuple[int, int]] = {}  # id -> its time, by the earliest and the latest reading of the clock
    late: dict[str, float] = {}
    back = [0]  # when the consumer was last ready to take something

    def told(draft: Any, granted: int) -> bool:
        if draft.id in fired:
            return True  # its ack was lost
        fired[draft.id] = granted
        earliest, latest = due[draft.id]
        late[draft.id] = (granted - max(latest, back[0])) / 1e6
        shown.demand(granted >= earliest, f"{draft.id} fired {(earliest - granted) / 1e6:.2f} ms early")
        return True

    def make() -> Iterator[Draft]:
        for number in range(messages):
            delay_ms = int(10 * (longest_s * 100) ** (number / (messages - 1)))
            at_ms = int(stage.world.clock_s * 1000) + 5000 + delay_ms
            absolute = number % 3 == 0
            mid = f"m{number}"
            due[mid] = (at_ms * 1_000_000, at_ms * 1_000_000) if absolute else (0, delay_ms)
            yield text(mid, due_ms=at_ms if absolute else -delay_ms, priority=number % 4)

    with staged(seed, slow=True, ping_interval_s=300, max_deliveries=50) as stage:
        stage.node.faults.step_s_max = 0.001
        stage.open()
        consumer = Sink(stage, "c", 1000, 0.0, told)
        consumer.patience(600.0)
        stage.run(2, lambda: consumer.subscribed)
        source = Source(stage, "p", make(), 1)
        asked: dict[str, int] = {}
        record = stage.world.record

        def noted(ev: str, **fields: Any) -> None:
            if ev == "pub_inv":
                asked.setdefault(fields["mid"], ns(stage.world.clock_s))
            elif ev == "pub_ok" and not due[fields["mid"]][0]:
                delay = due[fields["mid"]][1] * 1_000_000
                due[fields["mid"]] = asked[fields["mid"]] + delay, ns(stage.world.clock_s) + delay
            record(ev, **fields)

        vars(stage.world)["record"] = noted
        shown.demand(stage.run(60, lambda: source.done), "not everything was stored")
        _stop_now_and_then(stage, consumer, longest_s, stops, back)
        stage.run(longest_s, lambda: len(fired) >= messages)
        shown.demand(len(fired) == messages, f"{len(fired)} of {messages} fired")
        worst = max(late.values(), default=0.0)
        shown.figures |= {"worst ms late": round(worst, 3), "stops": stops, "fired": len(fired)}
        shown.demand(worst <= 5.0, f"{sum(each > 5.0 for each in late.values())} fired up to {worst:.2f} ms late")
        shown.judge(stage)
    return shown


def _stop_now_and_then(stage: Stage, consumer: Sink, longest_s: float, stops: int, back: list[int]) -> None:
    """The gateway stops, by turns in order and not, and starts again; its consumer comes back."""
    for number in range(stops):
        stage.run(longest_s / (2.0 ** (stops - number)) / 2)
        stop: Callable[[], object] = (
            (lambda: stage.node.drain(lambda: None)) if number % 2 else (lambda: stage.node.crash("kill"))
        )
        stop()
        stage.run(5.0, lambda: not consumer.subscribed)
        stage.run(30.0, lambda: consumer.subscribed)
        back[0] = ns(stage.world.clock_s)


# --- 5: tails ---------------------------------------------------------------------------------------------------------


def tails(messages: int = 100_000, reconnects: int = 1000, seed: int = 1, *, retained: bool = True) -> Shown:
    """A tail that reconnects again and again while messages are published and settled: each seq once, in order, and
    gaps that say exactly what was dropped."""
    shown = Shown("a tail that reconnects, " + ("retained" if retained else "not retained"))
    settled_at: dict[int, int] = {}

    def told(draft: Any, granted: int) -> bool:
        settled_at[draft.seq] = granted
        return True

    with staged(seed) as stage:
        stage.open(TopicConfig(retain_ms=ALWAYS_MS if retained else 0))
        Sink(stage, "c", 500, 0.0, told)
        tail = Follower(stage.world, stage.node, TENANT, "t", TOPIC, 1)
        events: list[tuple[str, int, int, int]] = []
        feed = stage.world.sink

        def hear(event: dict[str, Any]) -> None:
            if event["ev"] == "tail_shown":
                events.append(("shown", event["seq"], event["seq"], event["t"]))
            elif event["ev"] == "tail_gap":
                events.append(("gap", event["from"], event["to"], event["t"]))
            feed(event)

        stage.world.sink = hear
        tail.calm = True
        stage.run(2)
        batch = max(1, messages * 3 // (reconnects * 4))
        source = Source(stage, "p", (text(f"m{n}") for n in range(messages)), batch, pause_s=0.4)
        cuts = [0]

        def cut() -> None:
            wire = tail.wire
            if wire is None or not tail.following or cuts[0] >= reconnects:
                return
            cuts[0] += 1
            if stage.world.chance(0.5):
                tail.drop()
                return
            for pipe in (wire.up, wire.down):  # what is under way is lost, and both sides learn of it
                pipe.cut()
                pipe.send(None)

        def cut_soon() -> None:
            stage.world.at(stage.world.between(0.0, 0.35), cut)

        source.after_batch = cut_soon
        shown.demand(stage.run(36_000, lambda: source.done), "not everything was stored")
        there = stage.run(60, lambda: tail.seq >= messages and tail.resumed >= cuts[0])
        shown.demand(there, f"it came to {tail.seq} of {messages}")
        _account(shown, events, settled_at, messages, retained=retained)
        shown.figures |= {"reconnects": cuts[0], "resumed": tail.resumed}
        shown.demand(tail.resumed >= reconnects, f"only {tail.resumed} reconnects")
        shown.judge(stage)
    return shown


def _account(
    shown: Shown, events: list[tuple[str, int, int, int]], settled_at: dict[int, int], messages: int, *, retained: bool
) -> None:
    """Every seq is shown or announced, once and in order; what is announced was settled, and so dropped, by then."""
    at = 0
    lost = 0
    for kind, low, high, t in events:
        shown.demand(low == at + 1, f"{kind} {low} follows {at}")
        at = high
        if kind == "gap":
            lost += high - low + 1
            kept = [seq for seq in range(low, high + 1) if settled_at.get(seq, t + 1) > t]
            shown.demand(not kept, f"{kept[:5]} were announced as lost, and not dropped")
    shown.demand(at == messages, f"the tail ends at {at}, not {messages}")
    shown.demand(not (retained and lost), f"{lost} are lost though all is retained")
    shown.demand(retained or lost > 0, "nothing was lost: the story shows nothing")
    shown.figures |= {"shown": sum(e[0] == "shown" for e in events), "announced as lost": lost, "topic": Q}


FULL: dict[str, Callable[[], Shown]] = {
    "lanes": lanes,
    "strict": strict,
    "keys": keys,
    "blocked-key": blocked_key,
    "delays": delays,
    "tail-retained": tails,
    "tail-gaps": lambda: tails(retained=False),
}
"""At the size that must be shown."""

SMALL: dict[str, Callable[[], Shown]] = {
    "lanes": lanes,
    "strict": lambda: strict(600),
    "keys": lambda: keys(10_000),
    "blocked-key": lambda: blocked_key(1000, 3000),
    "delays": lambda: delays(150, longest_s=3600.0),
    "tail-retained": lambda: tails(3000, 100),
    "tail-gaps": lambda: tails(3000, 100, retained=False),
}
"""For the suite."""
