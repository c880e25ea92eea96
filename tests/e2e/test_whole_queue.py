"""The whole queue over real sockets and files: shares of lanes, a key that blocks, tails that come and go, delays that
outlive a restart."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import Any

import pytest

import pushwire
from pushwire.admin_shapes import TopicConfig
from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

TOPIC = "orders"
RIGHTS = ["publish:*", "consume:*@*", "create:*@*", "replay:*", "admin:*"]
CHUNK = 1000
WEIGHTS = (1, 2, 4, 8)


async def connected(gateway: GatewayProcess, subject: str = "ann") -> WsClient:
    return await WsClient.open(gateway.port, gateway.token(subject, RIGHTS))


async def publish(client: WsClient, rows: list[dict[str, Any]]) -> None:
    for at in range(0, len(rows), CHUNK):
        await client.ok({"op": "publish", "topic": TOPIC, "messages": rows[at : at + CHUNK]})


async def configured(gateway: GatewayProcess, config: TopicConfig) -> None:
    async with pushwire.Admin(gateway.url, gateway.token("admin", RIGHTS)) as admin:
        await admin.create_topic(TOPIC, config)


# --- lanes


async def served(gateway: GatewayProcess, count: int, prefetch: int) -> list[int]:
    """The priorities of the first `count` deliveries to one consumer that acks each frame at once."""
    consumer = await connected(gateway, "consumer")
    lanes: list[int] = []
    enough = asyncio.Event()

    def took(rows: list[dict[str, Any]]) -> None:
        lanes.extend(row["priority"] for row in rows)
        consumer.send({"op": "ack", "leases": [row["lease"] for row in rows]})
        if len(lanes) >= count:
            enough.set()

    consumer.on_deliveries = took
    await consumer.subscribe(TOPIC, prefetch=prefetch, start="earliest")
    await asyncio.wait_for(enough.wait(), 30)
    consumer.abort()
    return lanes[:count]


async def test_saturated_lanes_are_served_1_2_4_8(gateway: GatewayProcess) -> None:
    count, backlog = 10_000, 6000
    writer = await connected(gateway, "writer")
    for priority in range(4):
        await publish(writer, [{"data": n, "priority": priority} for n in range(backlog)])
    lanes = await served(gateway, count, 100)
    for priority, weight in enumerate(WEIGHTS):
        fair = count * weight / sum(WEIGHTS)
        assert abs(lanes.count(priority) - fair) <= 0.02 * fair
    # The bound on the lowest lane's wait: in any 15 deliveries in a row there is one of it.
    lowest = [at for at, priority in enumerate(lanes) if priority == 0]
    assert max(after - before for before, after in itertools.pairwise(lowest)) <= sum(WEIGHTS)
    assert lowest[0] < sum(WEIGHTS)


async def test_under_strict_no_lower_lane_passes_a_higher(gateway: GatewayProcess) -> None:
    await configured(gateway, {"strict": True})
    writer = await connected(gateway, "writer")
    rows = [{"data": n, "priority": random.Random(n).randrange(4)} for n in range(10_000)]
    await publish(writer, rows)
    lanes = await served(gateway, len(rows), 100)
    assert lanes == sorted(lanes, reverse=True)


# --- keys


async def test_a_blocked_key_at_the_head_holds_up_nobody_else(gateway: GatewayProcess) -> None:
    blocked, behind = 5000, 15_000
    writer, holder = await connected(gateway, "writer"), await connected(gateway, "holder")
    await publish(writer, [{"data": n, "key": "blocked"} for n in range(blocked)])
    await holder.subscribe(TOPIC, prefetch=10, start="earliest")
    (first,) = await holder.take(1)
    assert (first["seq"], first["key"]) == (1, "blocked")
    await publish(writer, [{"data": n, "key": f"k{n % 50}"} for n in range(behind)])
    order: dict[str, list[int]] = {}
    enough = asyncio.Event()

    def took(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            order.setdefault(row["key"], []).append(row["seq"])
        holder.send({"op": "ack", "leases": [row["lease"] for row in rows]})
        if sum(map(len, order.values())) >= behind:
            enough.set()

    early = [holder.deliveries.get_nowait() for _ in range(holder.deliveries.qsize())]
    holder.on_deliveries = took
    if early:
        took(early)
    await asyncio.wait_for(enough.wait(), 30)
    assert "blocked" not in order
    assert all(seqs == sorted(seqs) for seqs in order.values())
    holder.on_deliveries = None
    await holder.ok({"op": "ack", "leases": [first["lease"]]})
    (second,) = await holder.take(1)
    assert (second["seq"], second["key"]) == (2, "blocked")


# --- tails


class Follower:
    """A tail that is cut off again and again, and notes what it saw and what it was told is missing."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self.seen: list[int] = []
        self.gaps: list[tuple[int, int]] = []
        self._client: WsClient | None = None

    async def connect(self) -> None:
        """From where it stopped; at first from before the first message, whether that is still there or not."""
        self._client = await connected(self._gateway, "follower")
        at = {"epoch": self._client.welcome["epoch"], "after_seq": self.last}
        await self._client.ok({"op": "subscribe", "topic": TOPIC, "tail": True, **at})

    async def read(self, through: int) -> None:
        """Up to this seq at least."""
        assert self._client is not None
        deliveries, notices = self._client.deliveries, self._client.notices
        while self.last < through:
            row = asyncio.ensure_future(deliveries.get())
            notice = asyncio.ensure_future(notices.get())
            await asyncio.wait({row, notice}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            assert row.done() or notice.done()
            self._note([row.result()] if row.done() else [], notice.result() if notice.done() else None)
            row.cancel()
            notice.cancel()

    def cut(self) -> None:
        """Without a word; what has come by now counts."""
        assert self._client is not None
        rows = [self._client.deliveries.get_nowait() for _ in range(self._client.deliveries.qsize())]
        notices = [self._client.notices.get_nowait() for _ in range(self._client.notices.qsize())]
        self._note(rows, None)
        for notice in notices:
            self._note([], notice)
        self._client.abort()

    @property
    def last(self) -> int:
        return max(self.seen[-1] if self.seen else 0, self.gaps[-1][1] if self.gaps else 0)

    def _note(self, rows: list[dict[str, Any]], notice: dict[str, Any] | None) -> None:
        self.seen.extend(row["seq"] for row in rows)
        if notice is not None and notice["op"] != "welcome":
            assert notice["op"] == "gap", notice
            self.gaps.append((notice["from"], notice["to"]))


@pytest.mark.parametrize("retained", [True, False], ids=["retained", "dropped when settled"])
async def test_a_tail_that_comes_back_1000_times_during_100_000_publishes(
    gateway: GatewayProcess, retained: bool
) -> None:
    rounds, each = 1000, 100
    await configured(gateway, {"retain_ms": 3_600_000 if retained else 0})
    writer, worker = await connected(gateway, "writer"), await connected(gateway, "worker")
    worker.on_deliveries = lambda rows: worker.send({"op": "ack", "leases": [row["lease"] for row in rows]})
    await worker.subscribe(TOPIC, prefetch=1000, start="earliest")
    follower = Follower(gateway)
    chosen = random.Random(1)
    rows = [{"data": n} for n in range(each)]
    for number in range(rounds):
        await publish(writer, rows)
        await follower.connect()
        await follower.read(min((number + 1) * each, follower.last + chosen.randrange(1, 2 * each)))
        follower.cut()
    await follower.connect()
    await follower.read(rounds * each)
    gone = [seq for low, high in follower.gaps for seq in range(low, high + 1)]
    assert follower.seen == sorted(follower.seen)
    assert gone == sorted(gone)
    assert sorted(follower.seen + gone) == list(range(1, rounds * each + 1))  # each once: seen, or announced as gone
    if retained:
        assert follower.gaps == []
    else:
        assert follower.gaps


# --- delays


async def test_delays_outlive_a_restart_and_end_in_time(gateway: GatewayProcess) -> None:
    delays_ms = [2500, 3000, 3500, 4000]
    writer = await connected(gateway, "writer")
    published_at = {}
    for delay_ms in delays_ms:
        await writer.publish(TOPIC, delay_ms, delay_ms=delay_ms)
        published_at[delay_ms] = time.monotonic()
    await asyncio.to_thread(gateway.kill)
    await asyncio.to_thread(gateway.start)
    consumer = await connected(gateway)
    await consumer.subscribe(TOPIC, start="earliest")
    rows = await consumer.take(len(delays_ms))
    assert [row["data"] for row in rows] == delays_ms
    for row in rows:
        late_s = row["at"] - published_at[row["data"]] - row["data"] / 1000
        assert -0.010 <= late_s <= 0.1, late_s  # `published_at` is taken a moment after the gateway's own clock
