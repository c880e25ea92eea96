"""Messages a second end to end: published durably, pushed, acknowledged, each seen exactly once.

Owns the plan and the measurement of sustained throughput, one operation a frame or batched as the SDK does it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench.links import LoadError
from bench.roles import Consumer, Producer
from bench.scenarios.base import DRAIN_S, Case, Load, Meter, Metric
from bench.stats import Ids, Ledger

WINDOW = 256
"""Unconfirmed messages of one producer."""
MESSAGES_MAX = 4_000_000
"""End of one measurement, whatever the clock says."""

METRICS = (
    Metric("messages", "1/s", higher_is_better=True),
    Metric("broker CPU", "us/message", higher_is_better=False),
)
MODES = {
    "1 per frame": {"per_op": 1, "prefetch": 100, "batched": False},
    "batched": {"per_op": 50, "prefetch": 200, "batched": True},
}


def cases(quick: bool) -> list[Case]:
    times = {"warm_s": 0.2, "measure_s": 0.7} if quick else {"warm_s": 0.5, "measure_s": 4.0}
    return [
        Case(
            "throughput",
            f"{pairs}P/{pairs}C, {mode}",
            {"producers": pairs, "consumers": pairs, **MODES[mode], **times},
            METRICS,
            connections=2 * pairs,
        )
        for mode in MODES
        for pairs in (1, 4)
    ]


def measure(
    load: Load, params: dict[str, Any], groups: Sequence[str] = ("default",), ids: Ids | None = None
) -> dict[str, float]:
    ids = ids or Ids(load.seed)
    ledgers = [Ledger(ids) for _ in groups]
    load.prepare(groups, params["prefetch"], params["consumers"])
    producers = [Producer(load.loop, load.talk(), load.topic, ids, n) for n in range(params["producers"])]
    consumers = [
        Consumer(load.loop, load.talk(), f"consumer {n} of {group}", booked, params["batched"])
        for group, booked in zip(groups, ledgers, strict=True)
        for n in range(params["consumers"])
    ]
    load.connect([*producers, *consumers])
    for number, consumer in enumerate(consumers):
        consumer.subscribe(load.topic, groups[number // params["consumers"]], params["prefetch"])
    load.wait(lambda: not any(consumer.waiting for consumer in consumers), "subscriptions")
    return sustain(load, params, producers, consumers, ledgers)


def sustain(
    load: Load,
    params: dict[str, Any],
    producers: Sequence[Producer],
    consumers: Sequence[Consumer],
    ledgers: Sequence[Ledger],
) -> dict[str, float]:
    """Press, measure, and wait for the last message and its settlement. Everybody is connected and subscribed."""
    ledger = ledgers[0]  # the pace of the first group is the producers' pace

    def press(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end and ledger.published < MESSAGES_MAX:
            for producer in producers:
                producer.fill(WINDOW, params["per_op"], ledgers)
            load.loop.turn(0.01)

    press(params["warm_s"])
    before, meter = sum(each.arrived for each in ledgers), Meter(load)
    press(params["measure_s"])
    meter.stop()
    count = sum(each.arrived for each in ledgers) - before
    load.notes["backlog_messages"] = max(each.outstanding for each in ledgers)

    for consumer in consumers:
        consumer.confirm = True  # as the SDK does when it drains: the last ones must be durable before it leaves
    load.wait(
        lambda: (
            not (
                any(e.outstanding for e in ledgers)
                or any(p.in_flight for p in producers)
                or any(c.waiting for c in consumers)
            )
        ),
        lambda: (
            f"{sum(each.outstanding for each in ledgers)} messages and "
            f"{sum(p.in_flight for p in producers)} receipts are missing"
        ),
        DRAIN_S,
    )
    for each in ledgers:
        load.check(each)
    if not count:
        raise LoadError("no message arrived in the measured time")
    return {"messages": count / meter.wall_s, "broker CPU": meter.broker_s / count * 1e6}
