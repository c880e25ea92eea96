"""The SDKs as a user has them: one process publishes and consumes, the broker on the other core.

Owns the plan and the measurement end to end, through the async iterator (in Python with `async with message`) and
through the callback form. What is measured is the client's core, so a busy load generator voids nothing here.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.links import LoadError
from bench.scenarios.base import DRAIN_S, Case, Load, Meter, Metric
from pushwire import Client

BURST = 500
"""Messages of one publish_many; two are under way at once."""
PREFETCH = 500
PAIR = Path(__file__).parents[1] / "js_pair.mjs"
JS = Path(__file__).parents[3] / "sdk" / "js"
METRICS = (Metric("messages", "1/s", higher_is_better=True, by_load=False),)


def cases(quick: bool) -> list[Case]:
    times = {"measure_s": 0.8 if quick else 4.0}
    return [
        Case(
            "sdk", f"{language}, {form}", {"language": language, "form": form, **times}, METRICS,
            connections=2, systems=("pushwire",),
        )
        for language in ("Python", "TypeScript")
        for form in ("async iterator", "callback")
    ]  # fmt: skip


def measure(load: Load, params: dict[str, Any]) -> dict[str, float]:
    if params["language"] == "TypeScript":
        return _node(load, params)
    gc.enable()  # the load generator has turned it off; a user has it on
    return asyncio.run(_measure(load, params))


def _node(load: Load, params: dict[str, Any]) -> dict[str, float]:
    """One Node process does all; `make js` has built what it runs."""
    node = shutil.which("node")
    if node is None or not (JS / "dist" / "index.js").exists():
        raise LoadError("no Node here, or the TypeScript SDK is not built (`make js`)")
    target = load.loop.target
    job = {
        "url": f"ws://{target.host}:{target.port}", "tokens": [next(load.tokens), next(load.tokens)],
        "topic": load.topic, "form": params["form"], "burst": BURST, "prefetch": PREFETCH,
        "measureS": params["measure_s"], "drainS": DRAIN_S,
    }  # fmt: skip
    command = [node, str(PAIR), str(JS), json.dumps(job)]
    within_s = params["measure_s"] + DRAIN_S + 10
    meter, before = Meter(load), os.times()
    done = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)
    meter.stop()
    after = os.times()
    node_s = after.children_user + after.children_system - before.children_user - before.children_system
    load.notes["load_cpu_share"] = node_s / meter.wall_s  # the load generator itself only waits
    answer = json.loads(done.stdout) if done.stdout else {"error": done.stderr[-300:]}
    if "error" in answer:
        raise LoadError(answer["error"])
    return {"messages": answer["messages"] / answer["seconds"]}


class Seen:
    """Each message by its number: that it came, and came once."""

    def __init__(self) -> None:
        self.published = 0
        self.numbers = bytearray()
        self.arrived = 0
        self.twice = 0
        self.grown = asyncio.Event()

    def take(self, count: int) -> range:
        self.numbers += bytes(count)
        self.published += count
        return range(self.published - count, self.published)

    def arrive(self, number: int) -> None:
        if self.numbers[number]:
            self.twice += 1  # not raised: what a handler raises ends up in its subscription's log
            return
        self.numbers[number] = 1
        self.arrived += 1
        self.grown.set()


async def _measure(load: Load, params: dict[str, Any]) -> dict[str, float]:
    target, seen, text = load.loop.target, Seen(), "x" * 190
    url = f"ws://{target.host}:{target.port}"
    async with Client(url, next(load.tokens)) as producer, Client(url, next(load.tokens)) as consumer:  # noqa: SIM117 - one needs the other
        async with consumer.subscribe(load.topic, group="default", prefetch=PREFETCH, start="earliest") as subscription:
            consume = asyncio.create_task(_consume(subscription, params["form"], seen))
            meter = Meter(load)
            end = time.perf_counter() + params["measure_s"]

            async def press() -> None:
                while time.perf_counter() < end and not consume.done():
                    await producer.publish_many(load.topic, [[number, text] for number in seen.take(BURST)])

            await asyncio.gather(press(), press())
            async with asyncio.timeout(DRAIN_S):
                while seen.arrived < seen.published and not consume.done():
                    seen.grown.clear()
                    await asyncio.wait(
                        {consume, asyncio.ensure_future(seen.grown.wait())}, return_when="FIRST_COMPLETED"
                    )
            meter.stop()
            if consume.done():
                consume.result()  # raises what ended it
            consume.cancel()
            await asyncio.gather(consume, return_exceptions=True)
    if seen.twice:
        raise LoadError(f"{seen.twice} messages arrived twice")
    return {"messages": seen.arrived / meter.wall_s}


async def _consume(subscription: Any, form: str, seen: Seen) -> None:
    if form == "async iterator":
        async for message in subscription:
            async with message:
                seen.arrive(message.json()[0])
        return

    async def handle(message: Any) -> None:
        seen.arrive(message.json()[0])

    await subscription.run(handle)
