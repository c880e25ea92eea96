"""One publish to many subscribers, each with a connection of its own: in a group of its own, acknowledging, or
following the topic's tail, which is never acknowledged.

Owns the plan and the measurement of deliveries a second, with one message outstanding and with eight.
"""

from __future__ import annotations

import time
from typing import Any

from bench.links import LoadError
from bench.roles import Consumer, Producer
from bench.scenarios.base import DRAIN_S, PREFETCH, Case, Load, Meter, Metric
from bench.stats import Ids, Ledger

SUBSCRIBERS = (100, 1000)
"""The second takes a second of connecting, so a quick run has the first only."""
TAILS = ("pushwire", "nats", "nats-always")
"""Those that store a message and show it to whoever follows, without acknowledgements."""
METRICS = (
    Metric("deliveries", "1/s", higher_is_better=True),
    Metric("broker CPU", "us/delivery", higher_is_better=False),
)


def cases(quick: bool) -> list[Case]:
    times = {"warm_s": 0.1, "measure_s": 0.5} if quick else {"warm_s": 0.5, "measure_s": 4.0}
    return [
        Case(
            "fan-out",
            f"to {count:,}{kind}, {label}",
            {"subscribers": count, "outstanding": outstanding, "acked": not systems, **times},
            METRICS,
            connections=count + 1,
            systems=systems,
        )
        for kind, systems in (("", ()), (" tails", TAILS))
        for count in (SUBSCRIBERS[:1] if quick else SUBSCRIBERS)
        for label, outstanding in (("one at a time", 1), ("8 outstanding", 8))
    ]


def measure(load: Load, params: dict[str, Any]) -> dict[str, float]:
    ids = Ids(load.seed)
    count = params["subscribers"]
    ledgers = [Ledger(ids) for _ in range(count)]
    groups = [f"device-{number}" for number in range(count)]
    load.prepare(groups, PREFETCH, acked=params["acked"])
    producer = Producer(load.loop, load.talk(), load.topic, ids)
    consumers = [
        Consumer(load.loop, load.talk(), f"subscriber {n}", ledger, batched=True) for n, ledger in enumerate(ledgers)
    ]
    load.connect([producer, *consumers])
    for group, consumer in zip(groups, consumers, strict=True):
        consumer.subscribe(load.topic, group, PREFETCH)
    load.wait(lambda: not any(consumer.waiting for consumer in consumers), "subscriptions")

    missing: dict[str, int] = {}  # id -> subscribers that have not got it
    delivered = 0

    def arrived(some: list[str]) -> None:
        nonlocal delivered
        delivered += len(some)
        for id in some:
            left = missing.get(id, 0) - 1
            if left > 0:
                missing[id] = left
            else:  # got by all; one too many is the ledgers' finding
                missing.pop(id, None)

    for consumer in consumers:
        consumer.on_ids = arrived

    def press(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            free = params["outstanding"] - len(missing)
            if free > 0:
                for id in producer.publish(free, 1, ledgers):
                    missing[id] = count
            load.loop.turn(0.01)

    press(params["warm_s"])
    before, meter = delivered, Meter(load)
    press(params["measure_s"])
    meter.stop()
    got = delivered - before
    load.wait(
        lambda: not (missing or producer.in_flight),
        lambda: f"{sum(missing.values())} deliveries and {producer.in_flight} receipts are missing",
        DRAIN_S,
    )
    for ledger in ledgers:
        load.check(ledger)
    if not got:
        raise LoadError("no message arrived in the measured time")
    return {"deliveries": got / meter.wall_s, "broker CPU": meter.broker_s / got * 1e6}
