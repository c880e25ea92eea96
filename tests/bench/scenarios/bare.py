"""What WebSocket in Python gives without a queue: frames received, frames sent, and websockets.broadcast.

Owns the plan and the measurements against bench/bare.py; the figures are the yardsticks of the others in the same run.
"""

from __future__ import annotations

import time
from typing import Any

from bench.links import Link, LoadError
from bench.scenarios.base import CONNECT_S, SETUP_S, Case, Load, Meter, Metric

FRAMES, BROADCAST = "bare-frames", "bare-broadcast"
OPERATION_BYTES = 300
"""A publish of 200 B with its names and id; an acknowledgement is shorter."""
AHEAD = 2000
"""Frames that are under way at once: never so few that the server waits."""


def cases(quick: bool) -> list[Case]:
    measure_s = 0.4 if quick else 2.0
    params = {"measure_s": measure_s, "size": OPERATION_BYTES}
    found = [
        Case("bare", f"frames {way}", {**params, "way": way}, (Metric("frames", "1/s", True),), systems=(FRAMES,))
        for way in ("received", "sent")
    ]
    return found + [
        Case(
            "bare", f"broadcast to {count:,}, {label}", {**params, "way": "cast", "peers": count, "outstanding": ahead},
            (Metric("deliveries", "1/s", True),), connections=count, systems=(BROADCAST,),
        )
        for count in ((100,) if quick else (100, 1000))
        for label, ahead in (("one at a time", 1), ("8 outstanding", 8))
    ]  # fmt: skip


class Counter:
    """What came over one link, in frames; an answer to what was received counts as many as it names."""

    def __init__(self, load: Load, name: str) -> None:
        self.link = Link(load.loop, name, self._payload)
        self.frames = 0
        self.answered = 0

    def _payload(self, payload: bytes) -> None:
        self.frames += 1
        if len(payload) < 10:
            self.answered += int(payload)


def measure(load: Load, params: dict[str, Any]) -> dict[str, float]:
    counters = [Counter(load, f"bare {n}") for n in range(params.get("peers", 1))]
    load.loop.connect([(counter.link, None) for counter in counters], time.monotonic() + CONNECT_S)
    way = {"received": _received, "sent": _sent, "cast": _cast}[params["way"]]
    meter = Meter(load)
    count = way(load, counters, params, time.perf_counter() + params["measure_s"])
    meter.stop()
    if not count:
        raise LoadError("no frame in the measured time")
    return {"deliveries" if params["way"] == "cast" else "frames": count / meter.wall_s}


def _received(load: Load, counters: list[Counter], params: dict[str, Any], end: float) -> int:
    (counter,) = counters
    body, sent = [b"x" * params["size"]] * 100, 0
    while time.perf_counter() < end:
        while sent - counter.answered < AHEAD:
            counter.link.send(body)
            sent += len(body)
        load.loop.turn(0.01)
    load.wait(lambda: counter.answered == sent, "frames", SETUP_S)
    return counter.answered


def _sent(load: Load, counters: list[Counter], params: dict[str, Any], end: float) -> int:
    (counter,) = counters
    asked = 0
    while time.perf_counter() < end:
        if asked - counter.frames <= AHEAD:
            asked += AHEAD
            counter.link.send([b"send %d %d" % (AHEAD, params["size"])])
        load.loop.turn(0.01)
    load.wait(lambda: counter.frames == asked, "frames", SETUP_S)
    return counter.frames


def _cast(load: Load, counters: list[Counter], params: dict[str, Any], end: float) -> int:
    asked, per_turn = 0, params["outstanding"]
    while time.perf_counter() < end:
        asked += per_turn
        counters[0].link.send([b"cast %d %d" % (per_turn, params["size"])])
        load.wait(lambda asked=asked: all(c.frames == asked for c in counters), "frames", SETUP_S)  # type: ignore[misc]  # a default binds the loop's value
    return asked * len(counters)
