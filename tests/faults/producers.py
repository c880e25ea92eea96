"""The producers of a fault run, all in one process: two over WebSocket, two over HTTP.

Owns publishing with blind retries: after any unclear answer the same ids and bytes go out again, until the answer is
definite. Everything is recorded; nothing is judged, except that a refusal that cannot be ends the process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faults.bodies import Draft
from faults.history import Recorder
from pushwire.wire.codes import DEFINITE_FAILURES, ERRORS
from support.http_client import BadResponse, HttpClient
from support.ws_client import WsClient

SLOTS = 3
"""Publishes of one producer under way at once."""
THINK_S = 0.008
"""Longest pause of a slot between two publishes: short enough that nearly every kill finds one in flight."""
KNOCK_S = 0.02
"""Pause between attempts to connect while the gateway is down."""
ANSWER_S = 4.0
"""No answer for this long is no answer."""
FINISH_S = 30.0
"""After the request to end, so long may the last publishes take to find a definite answer."""
BATCH_SHARE, AGAIN_SHARE, CONFLICT_SHARE = 0.15, 0.02, 0.005

UNCLEAR = (OSError, TimeoutError, BadResponse)
Answer = dict[str, Any]


class WsLane:
    """One WebSocket, shared by the slots of a producer, opened again when it is gone."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token
        self._client: WsClient | None = None
        self._lock = asyncio.Lock()

    async def connect(self) -> None:
        async with self._lock:
            if self._client is None or not self._client.is_open:
                self._client = await WsClient.open(self._port, self._token, timeout_s=ANSWER_S)

    async def publish(self, topic: str, drafts: Sequence[Draft]) -> Answer:
        assert self._client is not None
        fields = drafts[0].fields if len(drafts) == 1 else {"messages": [draft.fields for draft in drafts]}
        return await self._client.ask({"op": "publish", "topic": topic, **fields}, ANSWER_S)


class HttpLane:
    """One connection kept alive; a slot of an HTTP producer."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token
        self._client: HttpClient | None = None

    async def connect(self) -> None:
        if self._client is None:
            self._client = await HttpClient.connect(self._port)

    async def publish(self, topic: str, drafts: Sequence[Draft]) -> Answer:
        client, self._client = self._client, None
        assert client is not None
        body = drafts[0].fields if len(drafts) == 1 else {"messages": [draft.fields for draft in drafts]}
        path = f"/v1/topics/{topic}/messages"
        try:
            response = await client.request("POST", path, body, token=self._token, timeout_s=ANSWER_S)
        except BaseException:
            client.close()
            raise
        if response.headers.get("connection", "").lower() == "close":
            client.close()
        else:
            self._client = client
        answer: Answer = response.json()
        return {"op": "ok" if response.status == 200 else "error", **answer}


Lane = WsLane | HttpLane


class Producer:
    """One producer: a few slots that publish, wait for the answer and publish again."""

    def __init__(
        self, name: str, record: Recorder, topic: str, lanes: Sequence[Lane], seed: int, think_s: float
    ) -> None:
        self.name = name
        self._record = record
        self._topic = topic
        self._lanes = lanes
        self._rng = random.Random(seed)
        self._mids = itertools.count()
        self._ops = itertools.count()
        self._think_s = think_s
        self.stopping = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as slots:
            for lane in self._lanes:
                slots.create_task(self._slot(lane))

    async def _slot(self, lane: Lane) -> None:
        rng = self._rng
        while not self.stopping:
            count = rng.randrange(2, 8) if rng.random() < BATCH_SHARE else 1
            drafts = [Draft(f"{self.name}-{next(self._mids)}", rng) for _ in range(count)]
            await self._until_clear(lane, drafts)
            if rng.random() < AGAIN_SHARE:
                await self._until_clear(lane, drafts)
            if rng.random() < CONFLICT_SHARE:
                await self._until_clear(lane, [Draft(drafts[0].mid, rng)], conflict=True)
            await asyncio.sleep(rng.uniform(0, self._think_s))

    async def _until_clear(self, lane: Lane, drafts: Sequence[Draft], *, conflict: bool = False) -> None:
        while True:
            try:
                await lane.connect()
            except UNCLEAR:
                await asyncio.sleep(KNOCK_S)
                continue
            op = f"{self.name}.{next(self._ops)}"
            self._each("pub_inv", op, drafts, lambda draft: draft.recorded)
            try:
                answer = await lane.publish(self._topic, drafts)
            except UNCLEAR:
                self._each("pub_info", op, drafts, lambda _: {})
                continue
            if self._clear(answer, op, drafts, conflict):
                return
            await asyncio.sleep(answer.get("retry_after_ms", 0) / 1000 or KNOCK_S)

    def _clear(self, answer: Answer, op: str, drafts: Sequence[Draft], conflict: bool) -> bool:
        """Whether this was the last word. A refusal that no retry can change is a bug of somebody: raise it."""
        if answer["op"] == "ok":
            by_id = {receipt["id"]: receipt for receipt in answer["receipts"]}
            self._each("pub_ok", op, drafts, lambda d: {"seq": by_id[d.mid]["seq"], "dup": by_id[d.mid]["duplicate"]})
            return True
        code = answer["code"]
        if code in DEFINITE_FAILURES:
            self._each("pub_fail", op, drafts, lambda _: {"code": code})
        else:
            self._each("pub_info", op, drafts, lambda _: {})
        if not ERRORS[code].retryable and not (conflict and code == "id_conflict"):
            raise RuntimeError(f"{self.name}: refused for good: {answer}")
        return conflict and code == "id_conflict"

    def _each(self, ev: str, op: str, drafts: Sequence[Draft], fields: Any) -> None:
        for draft in drafts:
            self._record(ev, op=op, q=self._topic, mid=draft.mid, **fields(draft))


async def run(job: dict[str, Any]) -> None:
    """Publish until SIGTERM, then finish what is under way."""
    record = Recorder(Path(job["history"]))
    producers = []
    for number, (name, token) in enumerate(job["tokens"].items()):
        if number % 2:
            lanes: list[Lane] = [HttpLane(job["port"], token) for _ in range(SLOTS)]
        else:
            lanes = [WsLane(job["port"], token)] * SLOTS
        producers.append(Producer(name, record, job["topic"], lanes, job["seed"] + number, job.get("think_s", THINK_S)))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    running = asyncio.gather(*(producer.run() for producer in producers))
    over = asyncio.ensure_future(stop.wait())
    waiting: list[asyncio.Future[Any]] = [running, over]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    over.cancel()
    for producer in producers:
        producer.stopping = True
    await asyncio.wait_for(running, FINISH_S)


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
