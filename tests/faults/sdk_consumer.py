"""A consumer of a fault run that is a user of the Python SDK: it knows messages, not connections.

Owns one client over all gateway restarts and records what its user sees. What the SDK does by itself (reconnect,
subscribe again, give up leases) is not recorded: the checker treats an unanswered settlement as one that may or may
not have happened.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pushwire
from faults.history import Recorder, fingerprint

CONCURRENCY = 32
RECONNECT = pushwire.Backoff(0.05, 0.2)
"""Quicker than a user would: the gateway lives for a second at most."""
CONNECTION_CHARS = len("n1.") + 16
"""Of a lease, which begins with the node and 12 random bytes that are the connection's: the user of an SDK sees nothing
else of its connections."""
UNCONFIRMED_SHARE, FAIL_SHARE = 0.1, 0.03


class Failure(Exception):
    """What a user's handler raises."""


class SdkConsumer:
    """Handles messages side by side, and settles each once."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.name, self.q, self.grp = job["name"], job["topic"], job["group"]
        self._rng = random.Random(job["seed"])
        self._record = Recorder(Path(job["history"]))
        self._url, self._token = f"ws://127.0.0.1:{job['port']}", job["token"]
        self._ops = itertools.count()
        self._cid = ""
        self._seen_at = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        slots = asyncio.Semaphore(CONCURRENCY)
        async with (
            pushwire.Client(self._url, token=self._token, name=self.name, reconnect=RECONNECT) as client,
            client.subscribe(self.q, group=self.grp, prefetch=CONCURRENCY) as subscription,
        ):
            over = asyncio.ensure_future(self._end(stop, subscription))
            async for message in subscription:
                self._delivered(message)
                await slots.acquire()
                task = asyncio.ensure_future(self._handle(message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(lambda _: slots.release())
            await over
            await asyncio.gather(*self._tasks)

    async def _end(self, stop: asyncio.Event, subscription: Any) -> None:
        await stop.wait()
        if self._cid:
            self._record("con_close", cid=self._cid)  # before the messages not handed out go back
        await subscription.drain()

    def _delivered(self, message: pushwire.Message) -> None:
        cid = f"{self.name}.{message.lease[:CONNECTION_CHARS]}"
        now = time.monotonic_ns()
        if cid != self._cid:
            if self._cid:
                self._record("con_close", cid=self._cid, since=self._seen_at)
            self._cid = cid
            self._record("con_open", cid=cid)
            self._record("sub_inv", cid=cid, sub="s", q=self.q, grp=self.grp)
            self._record("sub_ok", cid=cid, sub="s", q=self.q, grp=self.grp)
        self._seen_at = now
        expires_s = message.expires_at - asyncio.get_running_loop().time()
        self._record(
            "dlv", cid=cid, sub="s", q=message.topic, grp=self.grp, seq=message.seq, mid=message.id,
            sha=fingerprint(message.encoding, message.data), lease=message.lease, attempt=message.attempt,
            redelivered=message.redelivered, expires_ns=int(expires_s * 1e9), key=message.key,
        )  # fmt: skip

    async def _handle(self, message: pushwire.Message) -> None:
        chance = self._rng.random()
        op = f"{self.name}.{next(self._ops)}"
        kind = "nack" if chance < FAIL_SHARE else "ack"
        self._record("set_inv", op=op, kind=kind, leases=[message.lease])
        try:
            if chance < UNCONFIRMED_SHARE:
                async with message:
                    if kind == "nack":
                        raise Failure
            else:
                await message.ack_confirmed()
                self._record("set_ok", op=op, leases=[message.lease])
        except (Failure, pushwire.LeaseLost, pushwire.RequestTimeout):
            return  # nothing is known of it: not recorded


async def main(job: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await SdkConsumer(job).run(stop)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
