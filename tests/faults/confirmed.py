"""Traffic whose every confirmation can be found again in the bytes that left the gateway.

Owns one gateway's clients: producers that retry blindly, consumers of two groups that ack, nack and reject. Each
request carries a number of its own in `ref`, and `Told` reads from the journal which of them were answered before any
point of it. It judges nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench import framing
from faults import journal
from support.gateway_process import GatewayProcess
from support.ws_client import Closed, Refused, WsClient

TOPIC = "faults.power"
GROUPS = ("main", "audit")
SLOTS = 4
"""Publishes under way at once."""
PREFETCH = 200
ANSWER_S = 8.0
KNOCK_S = 0.02
NACK_SHARE, REJECT_SHARE, KEEP_SHARE = 0.05, 0.03, 0.15
"""Of deliveries: nacked, rejected, left unsettled (they stay in the window, so the run ends when it is full)."""
LARGE_BYTES, LARGE_SHARE = 9_000, 0.03
"""Bodies that fill pages of their own."""
UNCLEAR = (Closed, Refused, OSError, TimeoutError)

Meaning = tuple[Any, ...]


@dataclass
class Traffic:
    """What was asked of a gateway over one or several lives of it."""

    gateway: GatewayProcess
    seed: int
    topic: str = TOPIC
    meanings: dict[int, Meaning] = field(default_factory=dict)
    settling: set[tuple[str, int]] = field(default_factory=set)
    """(group, seq) that some ack or reject has been sent for, answered or not."""
    receipts: dict[str, int] = field(default_factory=dict)
    told_s: dict[str, float] = field(default_factory=dict)
    """When the first receipt of an id came, on the monotonic clock."""
    refusals: dict[str, int] = field(default_factory=dict)
    bodies: dict[str, Any] = field(default_factory=dict)
    duplicates: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._refs = itertools.count(1)
        self._ids = itertools.count()
        self._again: list[list[str]] = []
        self.settled_now = 0

    # -- one operation

    async def ask(self, client: WsClient, meaning: Meaning, op: dict[str, Any]) -> dict[str, Any]:
        """Send it under a number of its own. Raises UNCLEAR."""
        ref = next(self._refs)
        self.meanings[ref] = meaning
        if not client.is_open:
            raise Closed(0)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        client._replies[ref] = reply
        client.send({**op, "ref": ref})
        return await asyncio.wait_for(reply, ANSWER_S)

    async def publish(self, client: WsClient, ids: list[str]) -> dict[str, Any]:
        messages = [{"id": id_, "data": self.bodies[id_]} for id_ in ids]
        fields = messages[0] if len(messages) == 1 else {"messages": messages}
        answer = await self.ask(client, ("published", ids), {"op": "publish", "topic": self.topic, **fields})
        if answer["op"] == "ok":
            for receipt in answer["receipts"]:
                first = self.receipts.setdefault(receipt["id"], receipt["seq"])
                self.told_s.setdefault(receipt["id"], time.monotonic())
                if first != receipt["seq"]:
                    raise AssertionError(f"{receipt['id']}: seq {receipt['seq']} after {first}")
                self.duplicates += receipt["duplicate"]
        else:
            self._refused(answer)
        return answer

    def draft(self) -> list[str]:
        """Ids of new messages, mostly one."""
        count = self.rng.randrange(2, 6) if self.rng.random() < 0.2 else 1
        ids = [f"m{next(self._ids)}" for _ in range(count)]
        for id_ in ids:
            size = LARGE_BYTES if self.rng.random() < LARGE_SHARE else self.rng.randrange(0, 300)
            self.bodies[id_] = {"id": id_, "pad": "x" * size}
        return ids

    # -- clients

    async def live(self, publishes: int, after: Any = None) -> None:
        """One life of the gateway: consumers subscribe, then so many publishes go through, or the gateway dies.
        `after`: called when half of them have."""
        token = self.gateway.token("power", ttl_s=3600)
        clients: list[WsClient] = []
        try:
            clients += [await self.consumer(token, group) for group in GROUPS]
            producer = await WsClient.open(self.gateway.port, token)
            clients.append(producer)
            left = iter(range(publishes))
            slots = [self._slot(producer, left, after, publishes) for _ in range(SLOTS)]
            for end in await asyncio.gather(*slots, return_exceptions=True):
                if isinstance(end, BaseException) and not isinstance(end, UNCLEAR):
                    raise end
        except UNCLEAR:
            return  # it was killed before it had begun: that is the caller's to know
        finally:
            for client in clients:
                if client.is_open:
                    client.abort()

    async def consumer(self, token: str, group: str) -> WsClient:
        client = await WsClient.open(self.gateway.port, token)
        client.on_deliveries = lambda rows: self._delivered(client, group, rows)
        op = {"op": "subscribe", "topic": self.topic, "group": group, "sub": group, "prefetch": PREFETCH}
        while (answer := await self.ask(client, ("subscribed", group), {**op, "start": "earliest"}))["op"] != "ok":
            assert answer["retryable"], answer
            self._refused(answer)
            await asyncio.sleep(KNOCK_S)
        return client

    def _refused(self, answer: dict[str, Any]) -> None:
        self.refusals[answer["code"]] = self.refusals.get(answer["code"], 0) + 1

    def _delivered(self, client: WsClient, group: str, rows: list[dict[str, Any]]) -> None:
        kinds: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            draw = self.rng.random()
            if draw < NACK_SHARE:
                kinds.setdefault("nack", []).append(row)
            elif draw < NACK_SHARE + REJECT_SHARE:
                kinds.setdefault("reject", []).append(row)
            elif draw < 1 - KEEP_SHARE:
                kinds.setdefault("ack", []).append(row)
        for kind, chosen in kinds.items():
            seqs = [row["seq"] for row in chosen]
            ref = next(self._refs)
            self.meanings[ref] = (kind, group, seqs)
            if kind != "nack":
                self.settling.update((group, seq) for seq in seqs)
            client.send({"op": kind, "leases": [row["lease"] for row in chosen], "ref": ref})

    async def _slot(self, client: WsClient, left: Iterator[int], after: Any, total: int) -> None:
        for number in left:
            if after is not None and number == total // 2:
                after()
            ids = self._again.pop() if self._again else self.draft()
            try:
                answer = await self.publish(client, ids)
            except UNCLEAR:
                self._again.append(ids)  # the next life begins with it
                raise
            if answer["op"] != "ok":
                self._again.append(ids)
                await asyncio.sleep(KNOCK_S)


@dataclass
class Told:
    """What clients have been told up to some point of the journal."""

    meanings: dict[int, Meaning]
    receipts: dict[str, int] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    settled: set[tuple[str, int]] = field(default_factory=set)
    dead: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._readers: dict[int, framing.Reader | None] = {}

    def feed(self, record: journal.Record) -> None:
        if record.kind == journal.CONNECTION:
            self._readers[record.file] = None
        elif record.kind == journal.BOOT:
            self._readers.clear()
        elif record.kind == journal.SEND:
            data = record.data
            if self._readers.get(record.file) is None:
                end = data.find(b"\r\n\r\n")
                if end < 0 or not data.startswith(b"HTTP/1.1 101"):
                    raise AssertionError(f"not the answer to a handshake: {data[:80]!r}")
                self._readers[record.file] = framing.Reader()
                data = data[end + 4 :]
            reader = self._readers[record.file]
            assert reader is not None
            for opcode, payload in reader.feed(data):
                if opcode == framing.TEXT:
                    for line in payload.split(b"\n"):
                        self._op(line)

    def _op(self, line: bytes) -> None:
        if b'"ref"' not in line:
            return
        op = json.loads(line)
        if op["op"] != "ok" or "ref" not in op:
            return
        kind, *what = self.meanings[op["ref"]]
        if kind == "published":
            self.receipts.update((receipt["id"], receipt["seq"]) for receipt in op["receipts"])
        elif kind == "subscribed":
            self.groups.add(what[0])
        elif kind in ("ack", "reject"):
            told = {(what[0], seq) for seq in what[1]}
            self.settled |= told
            if kind == "reject":
                self.dead |= told
