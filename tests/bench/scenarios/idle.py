"""What a connection costs that is subscribed and idle: memory of the broker, and how fast they come.

Owns the plan and the measurement. Memory is the growth of the broker's resident set from a state in which a few
connections have already warmed its caches; kernel socket buffers are not in it.
"""

from __future__ import annotations

import gc
from typing import Any

from bench.processes import rss_kib
from bench.roles import Consumer
from bench.scenarios.base import Case, Load, Meter, Metric
from bench.stats import Ids, Ledger

WARM = 50
"""Connections that are there before the first reading."""
TOPICS = 50
"""The subscribers share them in turn, so that the figure is a connection's and not a topic's."""


def cases(quick: bool) -> list[Case]:
    counts = (1000,) if quick else (1000, 5000)
    metrics = [Metric(f"memory at {count:,}", "KiB/connection", False, by_load=False) for count in counts]
    metrics += [Metric(f"connects to {count:,}", "1/s", True) for count in counts]
    total = WARM + counts[-1]
    return [Case("idle", "subscribed connections", {"counts": list(counts)}, metrics, fresh=True, connections=total)]


def measure(load: Load, params: dict[str, Any]) -> dict[str, float]:
    ledger = Ledger(Ids(load.seed))
    opened = 0

    def grow(count: int) -> None:
        nonlocal opened
        some = [Consumer(load.loop, load.talk(), f"idle {opened + n}", ledger, batched=False) for n in range(count)]
        load.connect(some)
        for number, consumer in enumerate(some):
            consumer.subscribe(f"{load.topic}.{(opened + number) % TOPICS}", "default", 32)
        load.wait(lambda: not any(consumer.waiting for consumer in some), "subscriptions")
        opened += count

    grow(WARM)
    base_kib = rss_kib(load.broker_pids)
    figures: dict[str, float] = {}
    share = 0.0
    for count in params["counts"]:
        gc.freeze()  # the load generator's own objects; a collection over them would only slow the next connects
        more = WARM + count - opened
        meter = Meter(load)
        grow(more)
        meter.stop()
        share = max(share, load.notes["load_cpu_share"])
        figures[f"memory at {count:,}"] = (rss_kib(load.broker_pids) - base_kib) / count
        figures[f"connects to {count:,}"] = more / meter.wall_s
    load.notes["load_cpu_share"] = share
    return figures
