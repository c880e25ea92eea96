"""`make demo`: a development gateway in a process of its own, with traffic that shows what it does.

Owns the demonstration only. One client publishes orders, three workers of the group `billing` share them; a worker now
and then fails an order (nack, delivered again after a back-off), meets a poisoned one (a dead letter), or dies holding
some (its leases move to the others at once). A customer whose token limits it publishes as fast as it can: the gateway
refuses what is too much, its client waits as long as it is told, and the dashboard shows both. The topic writes down
every delivery, so the dashboard can show the life of each order. Ends only the processes it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import count
from pathlib import Path

import click

import pushwire
from pushwire.admin_shapes import TopicConfig
from pushwire.wire import codec

from .cli import DEV_DATA, DEV_RIGHTS, DEV_TTL_S, dev_flags, sign
from .rights import Limits
from .settings import load

TOPIC, GROUP = "demo.orders", "billing"
PUBLISH_EVERY_S = 0.25
REPORT_EVERY_S = 5.0
WORKER_LIFE_S = (8.0, 20.0)
FAIL_SHARE = 0.05
POISON_EVERY = 40
"""Of so many orders one can never succeed."""
HURRIED, HURRIED_PER_S = "customer-in-a-hurry", 2
"""Subject and limit of the client that runs into it: slow enough for three workers, whatever it tries."""
CONFIG: TopicConfig = {"ledger": "full", "retain_ms": 15 * 60_000}
READY_TIMEOUT_S = 20.0
WATCH_EVERY_S = 0.25


async def publish_orders(url: str, data: str, counts: Counter[str]) -> None:
    """One order every so often, for ever."""
    number = 0
    async with pushwire.Admin(url, dev_traffic_token(data)) as admin:
        await admin.configure_topic(TOPIC, CONFIG, replace=True)
    async with pushwire.Client(url, token=lambda _reason: dev_traffic_token(data)) as client:
        while True:
            number += 1
            await client.publish(TOPIC, {"order": number, "amount": random.randint(5, 500)})
            counts["published"] += 1
            await asyncio.sleep(PUBLISH_EVERY_S)


async def hurry(url: str, data: str, counts: Counter[str]) -> None:
    """Order without a pause, with a token that allows only so many a second."""

    def token(_reason: object) -> str:
        return dev_traffic_token(data, HURRIED, Limits(publish_per_s=HURRIED_PER_S))

    async with pushwire.Client(url, token=token, name=HURRIED) as client:
        for number in count(1):
            # Beside the numbers of the others, and never a poisoned one.
            await client.publish(TOPIC, {"order": 1_000_000 + number * POISON_EVERY + 1, "amount": 5})
            counts["published in a hurry"] += 1


async def work(url: str, data: str, name: str, counts: Counter[str]) -> None:
    """A worker that handles orders, and dies now and then without a word."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(*WORKER_LIFE_S)):
                await handle_orders(url, data, name, counts)
        counts["workers died"] += 1


async def handle_orders(url: str, data: str, name: str, counts: Counter[str]) -> None:
    """Handle orders until cancelled, which closes the connection at once: what is held goes to the other worker."""
    async with (
        pushwire.Client(url, token=lambda _reason: dev_traffic_token(data), name=name) as client,
        client.subscribe(TOPIC, group=GROUP, prefetch=4) as subscription,
    ):
        async for message in subscription:
            await asyncio.sleep(random.uniform(0.05, 0.3))
            if message.redelivered:
                counts["redelivered"] += 1
            try:
                if message.json()["order"] % POISON_EVERY == 0:
                    message.reject("no such product")
                    counts["rejected"] += 1
                elif random.random() < FAIL_SHARE:
                    message.nack(error="card declined")
                    counts["nacked"] += 1
                else:
                    message.ack()
                    counts["acked"] += 1
            except pushwire.LeaseLost:  # the connection broke meanwhile: it is delivered again
                counts["lost"] += 1


def dev_traffic_token(data: str, subject: str = "demo", limits: Limits | None = None) -> str:
    """A fresh token of the development gateway."""
    return sign(load(**dev_flags(data)), subject, DEV_RIGHTS, DEV_TTL_S, "default", limits)


async def report(counts: Counter[str]) -> None:
    """A line of totals now and then."""
    while True:
        await asyncio.sleep(REPORT_EVERY_S)
        click.echo("demo traffic: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))


async def traffic(url: str, data: str) -> None:
    """All of it, until cancelled."""
    counts: Counter[str] = Counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publish_orders(url, data, counts))
        tasks.create_task(hurry(url, data, counts))
        tasks.create_task(work(url, data, "worker-1", counts))
        tasks.create_task(work(url, data, "worker-2", counts))
        tasks.create_task(work(url, data, "worker-3", counts))
        tasks.create_task(report(counts))


def start_gateway(data: str, port: int, ready: Path) -> subprocess.Popen[bytes]:
    """The gateway as `pushwire serve --dev` runs it; what it prints goes where ours goes."""
    command = [sys.executable, "-m", "pushwire_gateway", "serve", "--dev"]
    command += ["--data", data, "--port", str(port), "--ready-file", str(ready)]
    gateway = subprocess.Popen(command)
    click.echo(f"demo: the gateway is process {gateway.pid}; after `kill -9 {gateway.pid}` it is started again")
    return gateway


async def wait_ready(gateway: subprocess.Popen[bytes], ready: Path) -> str:
    """The URL of the gateway, once it serves."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        while not ready.exists():
            if gateway.poll() is not None:
                raise SystemExit(gateway.returncode)
            await asyncio.sleep(0.05)
    url: str = codec.loads(ready.read_bytes())["url"]
    return url


async def run(data: str, port: int, seconds: float | None) -> int:
    """Gateway and traffic until Ctrl-C, SIGTERM, or `seconds` are over."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="pushwire-demo-") as folder:
        ready = Path(folder) / "ready.json"
        gateway = start_gateway(data, port, ready)
        busy: asyncio.Future[None] | None = None
        over = asyncio.ensure_future(stop.wait())
        ends_at = None if seconds is None else loop.time() + seconds
        try:
            busy = asyncio.ensure_future(traffic(await wait_ready(gateway, ready), data))
            while not (over.done() or busy.done() or (ends_at is not None and loop.time() >= ends_at)):
                await asyncio.wait([busy, over], timeout=WATCH_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                if gateway.poll() is not None and not over.done():
                    gateway = await start_again(gateway, data, port, ready)
        finally:
            over.cancel()
            if busy is not None:
                busy.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await busy
            if gateway.poll() is None:
                gateway.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(gateway.wait)


async def start_again(gateway: subprocess.Popen[bytes], data: str, port: int, ready: Path) -> subprocess.Popen[bytes]:
    """Another gateway in the place of one that was killed. One that ended by itself ends the demo."""
    if gateway.returncode >= 0:
        raise SystemExit(gateway.returncode)
    click.echo(f"demo: the gateway was killed (signal {-gateway.returncode}); starting it again")
    ready.unlink()
    again = start_gateway(data, port, ready)
    await wait_ready(again, ready)
    return again


@click.command()
@click.option("--data", default=DEV_DATA, show_default=True, help="directory of the database")
@click.option("--port", default=int(os.environ.get("PUSHWIRE_PORT", "8080")), show_default=True)
@click.option("--seconds", type=float, help="end by itself after this long")
def main(data: str, port: int, seconds: float | None) -> None:
    """A development gateway with demo traffic."""
    raise SystemExit(asyncio.run(run(data, port, seconds)))


if __name__ == "__main__":
    main()
