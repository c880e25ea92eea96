"""How long one message takes at a fixed rate: far from saturation, and up to it.

Owns the paced measurement. receipt = publish -> the consumer has it (durable by then), confirm = publish -> the
producer has its confirmation. Messages leave by the clock, not by the answers, so a stall is seen by every message
that falls into it.
"""

from __future__ import annotations

import time
from typing import Any

from bench.links import TooSlow
from bench.roles import Consumer, Producer
from bench.scenarios.base import DRAIN_S, PREFETCH, Case, Load, Meter, Metric
from bench.stats import Ids, Ledger, percentile

RATES_PER_S = (500, 2000, 5000, 10_000, 20_000)
"""Up to what only the fastest keep: whoever does not gets no figure there, and the reason instead."""
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
UNCONFIRMED_MAX = 1000
"""Beyond this the broker does not keep the rate, and a percentile would only say how long the run was."""

METRICS = tuple(
    Metric(f"{stage} {name}", "us", higher_is_better=False) for stage in ("receipt", "confirm") for name in SHARES
)


def cases(quick: bool) -> list[Case]:
    times = {"warm_s": 0.2, "measure_s": 1.2} if quick else {"warm_s": 0.5, "measure_s": 8.0}
    return [
        Case("latency", f"{rate:,} messages/s, 1P/1C", {"rate_per_s": rate, **times}, METRICS, connections=2)
        for rate in (RATES_PER_S[:1] if quick else RATES_PER_S)
    ]


def measure(load: Load, params: dict[str, Any]) -> dict[str, float]:
    clock = time.perf_counter
    ids = Ids(load.seed)
    ledger = Ledger(ids)
    load.prepare(("default",), PREFETCH)
    producer = Producer(load.loop, load.talk(), load.topic, ids)
    consumer = Consumer(load.loop, load.talk(), "consumer", ledger, batched=False)
    load.connect([producer, consumer])
    consumer.subscribe(load.topic, "default", PREFETCH)
    load.wait(lambda: not consumer.waiting, "subscription")

    stamps: dict[str, float] = {}
    taken: dict[str, list[float]] = {"receipt": [], "confirm": []}

    def stamp(stage: str, arrived: list[str]) -> None:
        now, samples = clock(), taken[stage]
        samples.extend([now - stamps[id] for id in arrived if id in stamps])

    consumer.on_ids = lambda arrived: stamp("receipt", arrived)
    producer.on_receipt = lambda confirmed: stamp("confirm", confirmed)

    def pace(seconds: float, counted: bool) -> None:
        start, behind_s = clock(), 0.0
        for number in range(int(seconds * params["rate_per_s"])):
            due = start + number / params["rate_per_s"]
            while (wait_s := due - clock()) > 0:
                load.loop.turn_precise(wait_s)
            behind_s = max(behind_s, -wait_s)
            now = clock()
            (id,) = producer.publish(1, 1, (ledger,))
            if counted:
                stamps[id] = now
            load.loop.flush()
            if producer.in_flight > UNCONFIRMED_MAX:
                late = f"the load generator was {behind_s * 1e3:.0f} ms late"
                raise TooSlow(f"does not keep {params['rate_per_s']} messages/s; {late}")
        load.notes["behind_schedule_ms_max"] = behind_s * 1e3

    pace(params["warm_s"], counted=False)
    meter = Meter(load)
    pace(params["measure_s"], counted=True)
    meter.stop()
    load.wait(
        lambda: not (ledger.outstanding or producer.in_flight),
        lambda: f"{ledger.outstanding} messages and {producer.in_flight} receipts are missing",
        DRAIN_S,
    )
    load.check(ledger)
    figures = {}
    for stage, samples in taken.items():
        samples.sort()
        for name, share in SHARES.items():
            figures[f"{stage} {name}"] = percentile(samples, share) * 1e6
    load.notes["samples"] = len(stamps)
    return figures
