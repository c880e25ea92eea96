"""Scenario `cuts`: one short session, cut after each of its bytes in turn, in both directions, by FIN and by RST.

Owns the session and what its client does afterwards, which is what any client must: connect again, publish again with
the same id, take what comes. The history of all of them is the checker's to judge: nothing lost, nothing stored twice,
nothing confirmed as acked twice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import database
from faults.bodies import sha_of_row
from faults.history import Recorder, stream
from faults.supervisor import LIMITS, SETTINGS
from faults.toxics import CutAfter, Direction, Proxy, Toxic
from support.checker import Report, check
from support.gateway_process import GatewayProcess
from support.ws_client import Closed, Op, Refused, WsClient

TOPIC, GROUP = "faults.cuts", "main"
ANSWER_S = 5.0
DRAIN_QUIET_S = 1.5
"""The end: nothing has come for longer than any back-off."""


@dataclass
class Swept:
    """What was seen."""

    cuts: int = 0
    sessions: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    duplicates: int = 0
    again: int = 0
    """Deliveries beyond the first of their message."""
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        return (
            f"a session of {self.up_bytes} bytes up and {self.down_bytes} down: {self.cuts} cuts, "
            f"{self.sessions} sessions, {self.duplicates} duplicate receipts, {self.again} redeliveries; "
            f"{len(self.problems)} violations"
        )


class Sessions:
    """Sessions of one client, one after the other, each recorded."""

    def __init__(self, record: Recorder, gateway: GatewayProcess) -> None:
        self._record = record
        self._token = gateway.token("cuts")
        self._cids, self._ops = itertools.count(), itertools.count()
        self.published: set[str] = set()
        self.settled: set[str] = set()
        """Messages whose ack was sent: confirmed, or nobody knows."""
        self.count = self.duplicates = 0

    async def one(self, port: int, mid: str) -> bool:
        """Publish `mid` if it has no receipt yet, and ack whatever comes until it came. False: it was cut."""
        cid = f"c{next(self._cids)}"
        self._record("con_open", cid=cid)
        self.count += 1
        client: WsClient | None = None
        try:
            client = await WsClient.open(port, self._token, timeout_s=ANSWER_S)
            await self._publish(client, mid)
            self._record("sub_inv", cid=cid, sub="s", q=TOPIC, grp=GROUP, start="earliest")
            await client.subscribe(TOPIC, group=GROUP, sub="s", start="earliest")
            self._record("sub_ok", cid=cid, sub="s", q=TOPIC, grp=GROUP)
            while mid not in self.settled:
                await self._take(client, cid)
        except (OSError, Closed, Refused, TimeoutError):
            return False
        finally:
            self._record("con_close", cid=cid)
            if client is not None:
                client.abort()
        return True

    async def _publish(self, client: WsClient, mid: str) -> None:
        if mid in self.published:
            return
        row: Op = {"id": mid, "data_text": mid}
        op = f"p{next(self._ops)}"
        self._record("pub_inv", op=op, q=TOPIC, mid=mid, sha=sha_of_row(row), key=None)
        try:
            (receipt,) = (await client.ok({"op": "publish", "topic": TOPIC, **row}, ANSWER_S))["receipts"]
        except (OSError, Closed, TimeoutError):
            self._record("pub_info", op=op, q=TOPIC, mid=mid)
            raise
        self._record("pub_ok", op=op, q=TOPIC, mid=mid, seq=receipt["seq"], dup=receipt["duplicate"])
        self.published.add(mid)
        self.duplicates += receipt["duplicate"]

    async def _take(self, client: WsClient, cid: str) -> None:
        """The next delivery, or the end of the connection; ack it with a confirmation."""
        coming = asyncio.ensure_future(client.deliveries.get())
        waiting: list[asyncio.Future[Any]] = [coming, client.closed]
        await asyncio.wait(waiting, timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            coming.cancel()
            raise Closed(1006) if client.closed.done() else TimeoutError
        row = coming.result()
        self._record(
            "dlv", cid=cid, sub="s", q=TOPIC, grp=GROUP, seq=row["seq"], mid=row["id"], sha=sha_of_row(row), key=None,
            lease=row["lease"], attempt=row["attempt"], redelivered=row["redelivered"],
            expires_ns=row["expires_in_ms"] * 1_000_000,
        )  # fmt: skip
        op = f"a{next(self._ops)}"
        self._record("set_inv", op=op, kind="ack", leases=[row["lease"]])
        self.settled.add(row["id"])
        answer = await client.ask({"op": "ack", "leases": [row["lease"]]}, ANSWER_S)
        self._record("set_ok" if answer["op"] == "ok" else "set_stale", op=op, leases=[row["lease"]])


async def _measured(sessions: Sessions, proxy: Proxy) -> dict[Direction, int]:
    """The bytes of a session in each direction. Later ones may be a few bytes longer: numbers grow."""
    before = proxy.bytes.copy()
    assert await sessions.one(proxy.port, "cut-none")
    sizes: dict[Direction, int] = {"up": 0, "down": 0}
    for direction in sizes:
        sizes[direction] = proxy.bytes[direction] - before[direction]
    return sizes


def _plan(sizes: dict[Direction, int], stride: int) -> Iterator[tuple[Direction, int, str]]:
    for direction, size in sizes.items():
        for count in range(0, size, stride):
            yield direction, count, "rst"
            yield direction, count, "fin"


async def _story(gateway: GatewayProcess, record: Recorder, stride: int, swept: Swept) -> None:
    sessions, proxy = Sessions(record, gateway), Proxy(gateway.port)
    await proxy.start()
    sizes = await _measured(sessions, proxy)
    swept.up_bytes, swept.down_bytes = sizes["up"], sizes["down"]
    for direction, count, how in _plan(sizes, stride):
        mid = f"cut-{direction}-{count}-{how}"
        proxy.put_on(CutAfter(count, direction, how))
        whole = await sessions.one(proxy.port, mid)
        swept.cuts += proxy.toxic.fired
        if whole and not proxy.toxic.fired:
            swept.problems.append(f"{mid}: was not cut")
        proxy.put_on(Toxic())
        while mid not in sessions.published or mid not in sessions.settled:
            if not await sessions.one(gateway.port, mid):
                swept.problems.append(f"{mid}: cut, though nothing was between")
                break
    await proxy.stop()
    await _drained(sessions, gateway, record)
    swept.sessions, swept.duplicates = sessions.count, sessions.duplicates


async def _drained(sessions: Sessions, gateway: GatewayProcess, record: Recorder) -> None:
    """Take what comes again because its ack was lost."""
    last = "cut-last"
    await sessions.one(gateway.port, last)
    try:
        async with asyncio.timeout(DRAIN_QUIET_S):
            sessions.settled.discard(last)  # it will not come again: only the time ends this
            await sessions.one(gateway.port, last)
    except TimeoutError:
        record("final", kind="drain", done=True)


def run(folder: Path, stride: int = 1) -> tuple[Swept, Report]:
    swept = Swept()
    gateway = GatewayProcess(folder / "gateway", settings=SETTINGS)
    record = Recorder(folder / "history" / "cuts.jsonl")
    try:
        record("srv_start", boot=1)
        gateway.start()
        asyncio.run(_story(gateway, record, stride, swept))
        if (code := gateway.terminate()) != 0:
            swept.problems.append(f"exit code {code}")
        record("srv_exit", boot=1)
        final: dict[str, Any] = {}
        with database.opened(gateway.database()) as connection:
            dump = database.Dump(connection)
            final = {"db_dump": dump.owed(), "dlq": dump.dead(), "orphans": dump.orphans()}
        for kind, rows in final.items():
            record("final", kind=kind, rows=rows)
        gateway.check_log()
    finally:
        gateway.stop()
    report = check(stream(folder / "history"), LIMITS)
    swept.problems += [f"{code} {text}" for code, text in report.violations]
    swept.again = report.figures["redeliveries"]
    return swept, report
