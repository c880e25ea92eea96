"""One consumer of a fault run, in a process of its own: `steady` acks, `chaos` does everything else, `sdk` is a user.

Owns what the two raw kinds do and records every step of it; sdk_consumer.py has the third. Judges nothing. A chaos
consumer sometimes kills its own process in the middle of its work; the supervisor starts another.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from faults.bodies import sha_of_row
from faults.history import Recorder
from support.ws_client import Closed, Op, WsClient

KNOCK_S = 0.02
ANSWER_S = 4.0
LATE_S = 0.15
"""So long after its lease has run out a held message is acked: in vain."""
THROUGH_SHARE, UNCONFIRMED_SHARE = 0.1, 0.05
WHIM_S = (0.7, 2.0)
"""From one whim to the next, over connections and gateways. They come in turn and not by a chance per delivery, so that
a run of ten kills sees each of them; and not sooner, so that there are leases left that run out."""


class Consumer:
    """Connects for ever, acks every delivery with a confirmation."""

    ack_timeout_ms = 10_000
    prefetch = 32

    def __init__(self, job: dict[str, Any]) -> None:
        self.name, self.q, self.grp = job["name"], job["topic"], job["group"]
        self.rng = random.Random(job["seed"])
        self.record = Recorder(Path(job["history"]))
        self._port, self._token = job["port"], job["token"]
        self._connections = itertools.count()
        self._ops = itertools.count()
        self._subs = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self.client: WsClient
        self.cid = ""
        self.sub = ""
        self._subscribed = False
        self._left = ("", "")  # the connection and the subscription that were ended last
        self._open = False
        self._failure: Exception | None = None
        self.held: list[str] = []  # leases in the order in which they were granted
        self.heard_at = 0

    # --- connections ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            before = time.monotonic_ns()
            try:
                self.client = await WsClient.open(self._port, self._token, timeout_s=ANSWER_S)
            except (OSError, TimeoutError):
                await asyncio.sleep(KNOCK_S)
                continue
            self.cid = f"{self.name}.{os.getpid()}.{next(self._connections)}"
            # As of before connecting: by now the gateway may have died, and another may have started.
            self.record("con_open", t=before, cid=self.cid)
            self.heard_at = time.monotonic_ns()
            self.held = []
            self._open = True
            self.client.on_deliveries = self._delivered
            try:
                await self._subscribe()
                await self.client.closed
            except (Closed, TimeoutError):
                self.client.abort()
            finally:
                self.closing(since=self.heard_at)
                for task in self._tasks:
                    task.cancel()
            if self._failure is not None:
                raise self._failure

    async def _subscribe(self) -> None:
        self.sub = f"s{next(self._subs)}"
        self._subscribed = False
        self.record("sub_inv", cid=self.cid, sub=self.sub, q=self.q, grp=self.grp, start="earliest")
        await self.client.subscribe(
            self.q, group=self.grp, sub=self.sub, prefetch=self.prefetch, ack_timeout_ms=self.ack_timeout_ms,
            start="earliest",
        )  # fmt: skip
        self._note_subscribed()

    def _note_subscribed(self) -> None:
        if not self._subscribed:
            self._subscribed = True
            self.record("sub_ok", cid=self.cid, sub=self.sub, q=self.q, grp=self.grp)

    def closing(self, **since: int) -> None:
        """To be called before this side ends the connection, or once it is gone: the first call counts."""
        if self._open:
            self._open = False
            self.record("con_close", cid=self.cid, **since)

    # --- deliveries -----------------------------------------------------------------------------------------

    def _delivered(self, rows: list[Op]) -> None:
        if rows[0]["sub"] == self.sub:
            self._note_subscribed()  # a delivery can come in the same read as the answer to the subscribe
        self.heard_at = time.monotonic_ns()
        self.record.all([self._delivery(row) for row in rows])
        self.held += [row["lease"] for row in rows]
        self.spawn(self.handle([row["lease"] for row in rows]))

    def _delivery(self, row: Op) -> dict[str, Any]:
        return {
            "t": self.heard_at, "ev": "dlv", "cid": self.cid, "sub": row["sub"], "q": row["topic"], "grp": self.grp,
            "seq": row["seq"], "mid": row["id"], "sha": sha_of_row(row), "key": row.get("key"), "lease": row["lease"],
            "attempt": row["attempt"], "redelivered": row["redelivered"],
            "expires_ns": row["expires_in_ms"] * 1_000_000,
        }  # fmt: skip

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it until it is done or the connection is gone."""
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (Closed, TimeoutError):
            return  # without an answer the settlement may or may not have happened: the history says just that
        except Exception as error:
            self._failure = error
            self.client.abort()
            raise

    async def handle(self, leases: list[str]) -> None:
        """What becomes of deliveries that came together."""
        if self.rng.random() < THROUGH_SHARE:
            await self.ack_through(leases[-1])
        else:
            await self.settle("ack", leases)

    # --- settling -------------------------------------------------------------------------------------------

    async def settle(self, kind: str, leases: Sequence[str], *, confirmed: bool = True, **fields: Any) -> None:
        """One operation on these leases, recorded from begin to end."""
        op = f"{self.cid}.{next(self._ops)}"
        if kind != "extend":
            self.held = [lease for lease in self.held if lease not in leases]
        delay = {"delay_ns": fields["delay_ms"] * 1_000_000} if "delay_ms" in fields else {}
        self.record("set_inv", op=op, kind=kind, leases=list(leases), **delay)
        frame = {"op": kind, "leases": list(leases), **fields}
        if confirmed:
            self._answered(op, leases, await self.client.ask(frame, ANSWER_S))
        else:
            self.client.send(frame)

    async def ack_through(self, lease: str) -> None:
        """Ack this lease and every older one that this connection still holds."""
        op = f"{self.cid}.{next(self._ops)}"
        if lease not in self.held:
            return
        at = self.held.index(lease)
        also, self.held = self.held[:at], self.held[at + 1 :]
        self.record("set_inv", op=op, kind="ack", leases=[lease], also=also)
        self._answered(op, [lease], await self.client.ask({"op": "ack", "ack_through": lease}, ANSWER_S))

    def _answered(self, op: str, leases: Sequence[str], answer: Op) -> None:
        self.heard_at = time.monotonic_ns()
        if answer["op"] == "ok":
            expires = {"expires_ns": answer["expires_in_ms"] * 1_000_000} if "expires_in_ms" in answer else {}
            self.record("set_ok", op=op, leases=list(leases), **expires)
        elif answer["code"] == "stale_lease":
            stale = [lease for lease in leases if lease in answer["leases"]]
            self.record("set_stale", op=op, leases=stale)
            rest = [lease for lease in leases if lease not in stale]
            if rest:
                self.record("set_ok", op=op, leases=rest)
        elif answer["code"] not in ("unavailable", "going_away", "internal"):
            raise RuntimeError(f"{self.name}: settlement refused: {answer}")


class Chaos(Consumer):
    """Fails, holds, extends, gives back, rejects, leaves, and dies."""

    ack_timeout_ms = 300
    prefetch = 16

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__(job)
        self._whims = itertools.cycle((self._leave_and_return, self._break_off))
        self._whim_at = time.monotonic() + self.rng.uniform(*WHIM_S)

    async def handle(self, leases: list[str]) -> None:
        if self.rng.random() < 0.0015:
            self.closing()
            os.kill(os.getpid(), signal.SIGKILL)
        elif time.monotonic() >= self._whim_at:
            self._whim_at = time.monotonic() + self.rng.uniform(*WHIM_S)
            await next(self._whims)()
        else:
            for lease in leases:
                self.spawn(self._one(lease))

    async def _break_off(self) -> None:
        self.closing()
        self.client.abort()

    async def _leave_and_return(self) -> None:
        sub = self.sub
        if self._left == (self.cid, sub):
            return  # it is leaving already: what came meanwhile goes back
        self._left = self.cid, sub
        self.record("unsub_inv", cid=self.cid, sub=sub)
        await self.client.ok({"op": "unsubscribe", "sub": sub}, ANSWER_S)
        self.record("unsub_ok", cid=self.cid, sub=sub)
        self.held = []
        await self._subscribe()

    async def _one(self, lease: str) -> None:
        rng = self.rng
        await asyncio.sleep(rng.uniform(0, 0.03))
        chance = rng.random()
        if chance < UNCONFIRMED_SHARE:
            await self.settle("ack", [lease], confirmed=False)
        elif chance < 0.13:
            await self.settle("nack", [lease], error="on purpose")
        elif chance < 0.17:
            await self.settle("nack", [lease], delay_ms=rng.randrange(0, 300))
        elif chance < 0.22:
            await self.settle("release", [lease])
        elif chance < 0.24:
            await self.settle("reject", [lease], error="cannot ever succeed")
        elif chance < 0.36:
            await asyncio.sleep(self.ack_timeout_ms / 1000 + LATE_S)
            await self.settle("ack", [lease])
        elif chance < 0.42:
            await asyncio.sleep(self.ack_timeout_ms / 2000)
            await self.settle("extend", [lease])
            await asyncio.sleep(self.ack_timeout_ms / 1000 + (0 if chance < 0.39 else LATE_S))
            await self.settle("ack", [lease])
        else:
            await self.settle("ack", [lease])


KINDS = {"steady": Consumer, "chaos": Chaos}


async def until_sigterm(consumer: Consumer) -> None:
    """Consume until SIGTERM, then drop the connection."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    running = asyncio.ensure_future(consumer.run())
    over = asyncio.ensure_future(stop.wait())
    await asyncio.wait([running, over], return_when=asyncio.FIRST_COMPLETED)
    over.cancel()
    if running.done():
        running.result()  # it never ends by itself: raise what ended it
    consumer.closing()
    running.cancel()
    await asyncio.wait([running])


if __name__ == "__main__":
    what = json.loads(sys.argv[1])
    asyncio.run(until_sigterm(KINDS[what["kind"]](what)))
