"""Scenario `pause`: the gateway stands still (SIGSTOP) for twice the ack timeout, then goes on (SIGCONT).

Owns the story: when it wakes, leases have run out while acks for them lie in its sockets. Each lease is settled or
stale, never both, and no message is confirmed as acked to two holders.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

from faults import database
from faults.bodies import sha_of_row
from faults.consumers import Consumer
from faults.history import Recorder, stream
from faults.supervisor import SETTINGS, SLACK_NS
from support.checker import Limits, Report, check
from support.gateway_process import GatewayProcess, until_async
from support.ws_client import Op, WsClient

TOPIC, GROUP = "faults.pause", "main"
ACK_TIMEOUT_MS = 500
MESSAGES = 60
HELD = 30
"""Leases that the first consumer holds when the gateway stops; the rest goes to the second one."""


class Holder(Consumer):
    """Holds what it gets until told what to ack."""

    ack_timeout_ms = ACK_TIMEOUT_MS
    prefetch = HELD

    async def handle(self, leases: list[str]) -> None:
        return


class Worker(Consumer):
    """Acks everything at once."""

    ack_timeout_ms = ACK_TIMEOUT_MS


async def _publish(gateway: GatewayProcess, record: Recorder) -> None:
    client = await WsClient.open(gateway.port, gateway.token("producer"))
    rows: list[Op] = [{"id": f"m-{number}", "data_text": f"body {number}"} for number in range(MESSAGES)]
    for row in rows:
        record("pub_inv", op="1", q=TOPIC, mid=row["id"], sha=sha_of_row(row), key=None)
    answer = await client.ok({"op": "publish", "topic": TOPIC, "messages": rows})
    for receipt in answer["receipts"]:
        record("pub_ok", op="1", q=TOPIC, mid=receipt["id"], seq=receipt["seq"], dup=receipt["duplicate"])
    client.abort()


def _consumer(kind: type[Consumer], folder: Path, gateway: GatewayProcess, name: str, seed: int) -> Consumer:
    job: dict[str, Any] = {
        "name": name, "group": GROUP, "topic": TOPIC, "seed": seed, "port": gateway.port,
        "token": gateway.token(name), "history": str(folder / "history" / f"{name}.jsonl"),
    }  # fmt: skip
    return kind(job)


async def _story(folder: Path, gateway: GatewayProcess, record: Recorder) -> None:
    holder = _consumer(Holder, folder, gateway, "holder", 1)
    worker = _consumer(Worker, folder, gateway, "worker", 2)
    running = [asyncio.ensure_future(holder.run())]
    await until_async(lambda: holder.cid, "the holder subscribes")
    await _publish(gateway, record)
    await until_async(lambda: len(holder.held) == HELD, "the holder has its leases")
    running.append(asyncio.ensure_future(worker.run()))
    await until_async(lambda: worker.cid and not worker.held, "the worker is done with the rest")

    gateway.signal(signal.SIGSTOP)
    await asyncio.sleep(2 * ACK_TIMEOUT_MS / 1000)
    late = list(holder.held)[: HELD // 2]
    acks = asyncio.ensure_future(holder.settle("ack", late))
    await asyncio.sleep(0.05)  # the acks lie in the gateway's socket before it wakes
    gateway.signal(signal.SIGCONT)
    await acks
    holder.closing()
    holder.client.abort()
    running[0].cancel()
    heard = -1
    while heard != worker.heard_at:  # until nothing has come for longer than any back-off
        heard = worker.heard_at
        await asyncio.sleep(1.5)
    record("final", kind="drain", done=True)
    worker.closing()
    running[1].cancel()
    await asyncio.wait(running)


def run(folder: Path) -> Report:
    """The story once, judged by the checker."""
    gateway = GatewayProcess(folder / "gateway", settings=SETTINGS)
    record = Recorder(folder / "history" / "supervisor.jsonl")
    try:
        record("srv_start", boot=1)
        gateway.start()
        asyncio.run(_story(folder, gateway, record))
        assert gateway.terminate() == 0, gateway.last_words()
        record("srv_exit", boot=1)
        with database.opened(gateway.database()) as connection:
            dump = database.Dump(connection)
            record("final", kind="db_dump", rows=dump.owed())
            record("final", kind="dlq", rows=dump.dead())
            record("final", kind="orphans", rows=dump.orphans())
        gateway.check_log()
    finally:
        gateway.stop()
    return check(stream(folder / "history"), Limits(10, 50, slack_ns=SLACK_NS))
