"""The work that messages cost, counted instead of timed: statements, syncs, frames, writes and allocations.

A bound is what was counted when it was written, with room for how messages happen to fall into groups. Whoever makes a
message dearer meets it here, on any machine; whoever makes it cheaper may lower it.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect

from bench import framing
from pushwire_gateway.connection import Connection
from pushwire_storage.sqlite import Driver
from support.whole_gateway import WholeGateway, whole_gateway

MESSAGES = 1000
PER_FRAME = 50
TEXT = "x" * 190


class Work:
    """What was done since the last `reset`."""

    def __init__(self) -> None:
        self.statements: Counter[str] = Counter()
        self.writes = 0
        self.frames = 0
        self._readers: dict[Any, framing.Reader] = {}

    def reset(self) -> None:
        self.statements.clear()
        self.writes = self.frames = 0

    def statement(self, text: str) -> None:
        self.statements[text.split(None, 1)[0].upper()] += 1

    def write(self, connection: Any, data: bytes) -> None:
        if data.startswith(b"HTTP/"):
            return
        self.writes += 1
        reader = self._readers.setdefault(connection, framing.Reader())
        self.frames += len(reader.feed(data))

    @property
    def syncs(self) -> int:
        """With synchronous=FULL each COMMIT that wrote something syncs the log once."""
        return self.statements["COMMIT"]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    counted = Work()
    connect_, transmit = Driver.connect, Connection._transmit

    def traced(driver: Driver, path: Path, mode: str, timeout_s: float) -> Any:
        connection: Any = connect_(driver, path, mode, timeout_s)
        if mode == "rw":
            connection.set_trace_callback(counted.statement)
        return connection

    def counting(connection: Connection, writes: list[bytes]) -> None:
        counted.write(connection, b"".join(writes))
        transmit(connection, writes)

    monkeypatch.setattr(Driver, "connect", traced)
    monkeypatch.setattr(Connection, "_transmit", counting)
    return counted


async def dial(gateway: WholeGateway, subject: str = "ann") -> ClientConnection:
    headers = {"Authorization": f"Bearer {gateway.token(subject)}"}
    url = f"ws://127.0.0.1:{gateway.port}/v1/ws"
    return await connect(url, subprotocols=["pushwire.v1"], additional_headers=headers, compression=None)  # type: ignore[list-item]  # a NewType of str


async def answers(socket: ClientConnection, done: Any) -> None:
    """Read until `done`, given each operation, says so."""
    async for text in socket:
        for line in str(text).split("\n"):
            if done(orjson.loads(line)):
                return


async def subscribe(socket: ClientConnection, group: str = "default") -> None:
    op = {"op": "subscribe", "topic": "t", "group": group, "prefetch": 1000, "start": "earliest", "ref": 1}
    await socket.send(orjson.dumps(op).decode())
    await answers(socket, lambda op: op["op"] == "ok" and op.get("ref") == 1)


async def publish(socket: ClientConnection, per_frame: int, first: int = 0) -> None:
    """MESSAGES messages in frames of so many, without waiting in between; returns when all are confirmed."""
    for at in range(0, MESSAGES, per_frame):
        rows = [{"id": f"m{first + at + n}", "data": TEXT} for n in range(per_frame)]
        await socket.send(orjson.dumps({"op": "publish", "topic": "t", "messages": rows, "ref": at + 10}).decode())
    left = MESSAGES

    def confirmed(op: Any) -> bool:
        nonlocal left
        left -= len(op.get("receipts", ()))
        return left == 0

    await answers(socket, confirmed)


async def consume(socket: ClientConnection, count: int = MESSAGES) -> None:
    """Acknowledge so many messages, those of one frame together, and wait until that is durable."""
    left, asked = count, 0
    async for text in socket:
        for line in str(text).split("\n"):
            op = orjson.loads(line)
            if op["op"] == "messages":
                left -= len(op["messages"])
                asked += 1
                leases = [row["lease"] for row in op["messages"]]
                await socket.send(orjson.dumps({"op": "ack", "leases": leases, "ref": 1000 + asked}).decode())
            elif op["op"] == "ok":
                asked -= 1
        if not left and not asked:
            return


async def test_statements_and_syncs_of_a_thousand_messages(tmp_path: Path, work: Work) -> None:
    async with whole_gateway(tmp_path) as gateway, await dial(gateway) as producer, await dial(gateway) as consumer:
        await subscribe(consumer)
        await gateway.settled()
        work.reset()
        await publish(producer, PER_FRAME)
        await consume(consumer)
        await gateway.settled()
    groups = MESSAGES // PER_FRAME
    # Never more groups than frames that publish and frames that acknowledge; usually far fewer.
    assert 1 <= work.syncs <= 2 * groups
    # Rows travel many to a statement; what a group costs beside them is its own few statements.
    assert sum(work.statements.values()) <= 0.12 * MESSAGES + 12 * work.syncs, work.statements


async def test_frames_and_writes_of_a_thousand_pushes(tmp_path: Path, work: Work) -> None:
    async with whole_gateway(tmp_path) as gateway, await dial(gateway) as producer:
        await publish(producer, PER_FRAME)  # a backlog, so that the pushes do not depend on when the commits came
        await gateway.settled()
        async with await dial(gateway, "bob") as consumer:
            work.reset()
            await subscribe(consumer)
            await consume(consumer)
            await gateway.settled()
    assert work.frames <= 1 + 2 * (MESSAGES // PER_FRAME), (work.frames, work.writes)
    assert work.writes <= work.frames + 1


async def test_a_fan_out_writes_once_for_each_subscriber_and_group(tmp_path: Path, work: Work) -> None:
    members = 20
    async with whole_gateway(tmp_path, connections_per_subject=100) as gateway, await dial(gateway) as producer:
        consumers = [await dial(gateway, f"sub{n}") for n in range(members)]
        for number, consumer in enumerate(consumers):
            await subscribe(consumer, f"g{number}")
        await gateway.settled()
        work.reset()
        await producer.send(orjson.dumps({"op": "publish", "topic": "t", "ref": 9, "id": "one", "data": TEXT}).decode())
        for consumer in consumers:
            await answers(consumer, lambda op: op["op"] == "messages")
        assert work.writes <= members + 1  # and the receipt
        for consumer in consumers:
            await consumer.close()


async def test_memory_left_by_a_thousand_messages_that_passed(tmp_path: Path) -> None:
    async def one(number: int) -> None:  # the writer's thread holds its last group until it gets another
        await producer.send(
            orjson.dumps({"op": "publish", "topic": "t", "ref": 9, "id": f"one{number}", "data": TEXT}).decode()
        )
        await answers(producer, lambda op: op.get("ref") == 9)
        await consume(consumer, 1)
        await gateway.settled()

    async with whole_gateway(tmp_path) as gateway, await dial(gateway) as producer, await dial(gateway) as consumer:
        await subscribe(consumer)
        for warm in range(2):
            await publish(producer, PER_FRAME, warm * MESSAGES)
            await consume(consumer)
        await gateway.settled()
        await one(1)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await publish(producer, PER_FRAME, 2 * MESSAGES)
            await consume(consumer)
            await gateway.settled()
            await one(2)
            await one(3)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # Settled messages leave nothing in the process: what they were is in the file. (A kept body alone would be 190 B.)
    assert (after - before) / MESSAGES <= 100
