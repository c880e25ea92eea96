"""The load generator against brokers that are right and brokers that are wrong: it must tell them apart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from websockets.asyncio.server import serve

from bench import naive
from bench.loadgen import measure
from bench.naive import Naive
from bench.scenarios import fanout, latency, throughput

SINGLE = {"producers": 2, "consumers": 3, **throughput.MODES["1 per frame"], "warm_s": 0, "measure_s": 0.15}
BATCHED = {**SINGLE, **throughput.MODES["batched"]}


class Twice(Naive):
    """Pushes one message twice."""

    done = False

    async def push(self, topic: str, group: str, seq: int | None, id: str, body: str) -> None:
        await super().push(topic, group, seq, id, body)
        if not self.done:
            self.done = True
            await super().push(topic, group, seq, id, body)


class Losing(Naive):
    """Confirms a message that it never pushes."""

    done = False

    async def push(self, topic: str, group: str, seq: int | None, id: str, body: str) -> None:
        if self.done:
            await super().push(topic, group, seq, id, body)
        self.done = True


class Foreign(Naive):
    """Pushes a message nobody published."""

    done = False

    async def push(self, topic: str, group: str, seq: int | None, id: str, body: str) -> None:
        await super().push(topic, group, seq, id, body)
        if not self.done:
            self.done = True
            await super().push(topic, group, seq, id[:-12] + "ffffffffffff", body)


class Silent(Naive):
    """Stores and pushes, and never answers the producer."""

    async def publish(self, ws: Any, op: dict[str, Any]) -> None:
        for message in op.get("messages") or [op]:
            await self.push(op["topic"], "default", 1, message["id"], '"x"')


class Leaving(Naive):
    """Closes the connection of whoever publishes."""

    async def publish(self, ws: Any, op: dict[str, Any]) -> None:
        await ws.close(1011, "no more")


Measure = Callable[..., Awaitable[dict[str, Any]]]


@asynccontextmanager
async def broker(kind: type[Naive], folder: Path) -> AsyncIterator[Measure]:
    async with aiosqlite.connect(folder / "naive.db") as db:
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute("PRAGMA synchronous = OFF")  # what is tested is the load generator, not this disk
        await db.execute(naive.SCHEMA)
        await db.commit()
        made = kind(db)
        async with serve(made.handle, "127.0.0.1", 0, subprotocols=["pushwire.v1"]) as server:  # type: ignore[list-item]  # a NewType of str
            port = next(iter(server.sockets)).getsockname()[1]

            async def run(scenario: str, params: dict[str, Any], **changes: Any) -> dict[str, Any]:
                job = {
                    "host": "127.0.0.1", "port": port, "path": "/v1/ws", "subprotocol": "pushwire.v1",
                    "dialect": "pushwire.v1", "broker_pids": [os.getpid()], "scenario": scenario, "params": params,
                    "topic": "bench.t", "body_bytes": 200, "seed": 1, "tokens": [], **changes,
                }  # fmt: skip
                return await asyncio.to_thread(measure, job)

            yield run


@pytest.fixture(autouse=True)
def _short_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a broker lost never comes: long enough for what does come, short enough to wait it out.
    for module in (throughput, latency, fanout):
        monkeypatch.setattr(module, "DRAIN_S", 1.5)


@pytest.mark.parametrize("params", [SINGLE, BATCHED], ids=["single", "batched"])
async def test_an_honest_broker_is_measured(tmp_path: Path, params: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(throughput, "DRAIN_S", 20)  # four windows, one message after the other
    async with broker(Naive, tmp_path) as run:
        answer = await run("throughput", params)
    assert answer["figures"]["messages"] > 0
    assert answer["notes"]["load_cpu_share"] > 0


@pytest.mark.parametrize(
    ("kind", "finding"),
    [
        (Twice, "1 messages arrived twice"),
        (Foreign, "1 messages that were never published"),
        (Losing, "1 messages and 0 receipts are missing"),
        (Silent, "0 messages and 50 receipts are missing"),
        (Leaving, "closed by the broker, 1011 no more"),
    ],
)
async def test_a_wrong_broker_gets_no_figure(tmp_path: Path, monkeypatch: Any, kind: type[Naive], finding: str) -> None:
    monkeypatch.setattr(throughput, "WINDOW", 50)
    monkeypatch.setattr(throughput, "MESSAGES_MAX", 1)  # one operation of the one producer
    async with broker(kind, tmp_path) as run:
        answer = await run("throughput", {**BATCHED, "producers": 1, "consumers": 1})
    assert "figures" not in answer
    assert finding in answer["error"]


async def test_latency_stamps_every_message_of_the_measured_time(tmp_path: Path) -> None:
    async with broker(Naive, tmp_path) as run:
        answer = await run("latency", {"rate_per_s": 100, "warm_s": 0.1, "measure_s": 0.3})
    figures = answer["figures"]
    assert answer["notes"]["samples"] == 30
    assert set(figures) == {metric.name for metric in latency.METRICS}
    assert 0 < figures["receipt p50"] <= figures["receipt p99"] <= figures["receipt p99.9"]


async def test_fan_out_counts_every_delivery_once(tmp_path: Path) -> None:
    async with broker(Naive, tmp_path) as run:
        answer = await run(
            "fan-out", {"subscribers": 5, "outstanding": 2, "acked": True, "warm_s": 0.05, "measure_s": 0.2}
        )
    assert answer["figures"]["deliveries"] > 0


async def test_fan_out_finds_the_message_that_one_subscriber_did_not_get(tmp_path: Path) -> None:
    async with broker(Losing, tmp_path) as run:
        answer = await run(
            "fan-out", {"subscribers": 5, "outstanding": 2, "acked": True, "warm_s": 0.05, "measure_s": 0.2}
        )
    assert "1 deliveries and 0 receipts are missing" in answer["error"]


async def test_idle_connections_are_opened_and_weighed(tmp_path: Path) -> None:
    async with broker(Naive, tmp_path) as run:
        answer = await run("idle", {"counts": [100, 150]})
    assert set(answer["figures"]) == {"memory at 100", "memory at 150", "connects to 100", "connects to 150"}
    assert answer["figures"]["connects to 150"] > 0


async def test_a_refused_handshake_is_reported_with_its_reason(tmp_path: Path) -> None:
    async with broker(Naive, tmp_path) as run:
        answer = await run("throughput", SINGLE, subprotocol="mqtt")
    assert "subprotocol" in answer["error"]
