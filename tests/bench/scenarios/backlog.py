"""A backlog that outgrows memory by far: how soon a broker that holds it is ready, what that takes, how fast it drains.

Owns stages, each with a broker that has just started on the same data: `fill` publishes without a consumer; `drain`
takes everything; `empty` is the yardstick, the rate of a queue that never fills, in a process that began with an empty
one; `beside` is that rate while a million messages wait for their time. (Their ids are remembered as well.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench.dialects import PushwireV1
from bench.links import LoadError
from bench.processes import peak_kib
from bench.roles import Consumer, Producer
from bench.scenarios import throughput
from bench.scenarios.base import Case, Load, Meter, Metric
from bench.stats import Ids, Ledger

STAGES = ("fill", "drain", "empty")
SCHEDULED_STAGES = ("empty", "fill", "beside")
DELAY_MS = 24 * 3600 * 1000
MESSAGES = 1_000_000
"""As many as a topic may hold."""
PER_OP = 1000
"""Messages of one publish while it fills: that is not what is measured."""
WINDOW = 8000
"""Unconfirmed messages while it fills: two transactions of the gateway's largest."""
FILL_S = 120
CONFIRMED = 400
"""Messages at the end of a drain whose acknowledgements are asked about: two windows, so that there are some."""
DRAIN_S = 120
"""A million messages at less than a sixth of the rates seen: slower is a failure, not a figure."""

METRICS = (
    Metric("ready after restart", "s", higher_is_better=False, by_load=False),
    Metric("peak memory above empty", "MiB", higher_is_better=False, by_load=False),
    Metric("drained", "1/s", higher_is_better=True),
    Metric("empty queue", "1/s", higher_is_better=True),
    Metric("drained : empty queue", "", higher_is_better=True),
)
SCHEDULED = (
    Metric("ready after restart", "s", higher_is_better=False, by_load=False),
    Metric("peak memory above empty", "MiB", higher_is_better=False, by_load=False),
    Metric("others beside them", "1/s", higher_is_better=True),
    Metric("empty store", "1/s", higher_is_better=True),
    Metric("beside them : empty store", "", higher_is_better=True),
    Metric("CPU of a message, beside : empty", "", higher_is_better=False),
)
TOPIC = "bench.backlog"


def cases(quick: bool) -> list[Case]:
    """None in a quick run: a fill takes twenty seconds."""
    if quick:
        return []
    name = f"{MESSAGES:,} messages"
    backlog = {"messages": MESSAGES, "delay_ms": 0}
    scheduled = {"messages": MESSAGES, "delay_ms": DELAY_MS}
    return [
        Case("backlog", name, backlog, METRICS, connections=2, stages=STAGES, fresh=True, systems=("pushwire",)),
        Case(
            "backlog",
            f"{name}, scheduled",
            scheduled,
            SCHEDULED,
            connections=2,
            stages=SCHEDULED_STAGES,
            fresh=True,
            systems=("pushwire",),
        ),
    ]


def figures(stages: dict[str, dict[str, float]]) -> dict[str, float]:
    """What the stages say together."""
    if "beside" in stages:
        return _beside(stages["beside"], stages["empty"])
    drain, empty = stages["drain"], stages["empty"]
    return {
        "ready after restart": drain["ready_s"],
        "peak memory above empty": (drain["peak_kib"] - empty["peak_kib"]) / 1024,
        "drained": drain["rate"],
        "empty queue": empty["rate"],
        "drained : empty queue": drain["rate"] / empty["rate"],
    }


def _beside(beside: dict[str, float], empty: dict[str, float]) -> dict[str, float]:
    return {
        "ready after restart": beside["ready_s"],
        "peak memory above empty": (beside["peak_kib"] - empty["peak_kib"]) / 1024,
        "others beside them": beside["rate"],
        "empty store": empty["rate"],
        "beside them : empty store": beside["rate"] / empty["rate"],
        "CPU of a message, beside : empty": beside["cpu_us"] / empty["cpu_us"],
    }


def measure(load: Load, params: dict[str, Any]) -> dict[str, float]:
    stage = params["stage"]
    if stage == "fill":
        return _fill(load, params["messages"], params["delay_ms"])
    figures = {"rate": _drain(load, params["messages"])} if stage == "drain" else _empty(load)
    return {**figures, "peak_kib": peak_kib(load.broker_pids)}


class Seen(Ledger):
    """Whether each of so many numbered messages arrived once. The numbers are the ends of their ids."""

    def __init__(self, count: int) -> None:
        super().__init__(Ids(0))
        self.published = count
        self._seen = bytearray(count)

    def arrive(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            number = int(id_[-12:], 16)
            if number >= len(self._seen):
                self.foreign += 1
            elif self._seen[number]:
                self.duplicates += 1
            else:
                self._seen[number] = 1
                self.arrived += 1

    @property
    def outstanding(self) -> int:
        return self.published - self.arrived


def _fill(load: Load, count: int, delay_ms: int) -> dict[str, float]:
    if delay_ms:
        if not isinstance(load.dialect, PushwireV1):
            raise LoadError("only pushwire's protocol knows delays")
        load.dialect.delay(delay_ms)
    ids = Ids(load.seed)
    consumer = Consumer(load.loop, load.talk(), "the group's first", Ledger(ids), batched=True)
    producer = Producer(load.loop, load.talk(), TOPIC, ids)
    load.connect([consumer, producer])
    consumer.subscribe(TOPIC, "default", 0)
    load.wait(lambda: not consumer.waiting, "subscription")
    end = time.monotonic() + FILL_S
    while producer.confirmed < count:
        if time.monotonic() > end:
            raise LoadError(f"{producer.confirmed:,} of {count:,} messages stored in {FILL_S} s")
        while ids.made < count and producer.in_flight + PER_OP <= WINDOW:
            producer.publish(min(PER_OP, count - ids.made), PER_OP, ())
        load.loop.turn(0.05)
    return {}


def _drain(load: Load, count: int) -> float:
    seen = Seen(count)
    consumer = Consumer(load.loop, load.talk(), "consumer", seen, batched=True)
    load.connect([consumer])
    meter = Meter(load)
    consumer.subscribe(TOPIC, "default", throughput.MODES["batched"]["prefetch"])
    done = count - CONFIRMED
    load.wait(lambda: seen.arrived + seen.duplicates >= done, lambda: f"{seen.outstanding:,} messages", DRAIN_S)
    consumer.confirm = True  # when these are durable, so are all before them
    load.wait(
        lambda: seen.arrived + seen.duplicates >= count and not consumer.waiting,
        lambda: f"{seen.outstanding:,} messages, {len(consumer.waiting)} confirmations",
    )
    meter.stop()
    load.check(seen)
    return count / meter.wall_s


def _empty(load: Load) -> dict[str, float]:
    params = {"producers": 1, "consumers": 1, **throughput.MODES["batched"], "warm_s": 1.0, "measure_s": 5.0}
    figures = throughput.measure(load, params)
    return {"rate": figures["messages"], "cpu_us": figures["broker CPU"]}
