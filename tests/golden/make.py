"""Make the golden file of a schema: a database as a gateway of its time left it, and what its clients had been told.

Owns the story that is told to that gateway. Run it once, when a schema is released: `make golden`. A file that is
there is never made again.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from support.gateway_process import GatewayProcess
from support.ws_client import Op, WsClient

GOLDEN = Path(__file__).resolve().parent
TOPIC, GROUPS = "golden.orders", ("main", "audit")
MESSAGES = 60
ACKED, NACKED, REJECTED = range(20), range(20, 25), range(25, 28)
"""By their place, in group main; audit acks every other one."""


def drafts() -> list[Op]:
    """Every encoding, with and without key, headers and priority, small and over several pages."""
    found: list[Op] = []
    for number in range(MESSAGES):
        kinds: list[Op] = [
            {"data": {"n": number, "text": "é\u2028" * (number % 7)}}, {"data_text": f"text {number} ☃"},
            {"data_b64": "AAEC/w=="}, {"data": "x" * 9_000},
        ]  # fmt: skip
        row = {"id": f"g-{number}", **kinds[number % 4 if number % 20 else 3]}
        if number % 3 == 0:
            row["key"] = f"key-{number}"
        if number % 5 == 0:
            row["headers"] = {"traceparent": f"00-{number:032x}"}
        if number % 4 == 1:
            row["priority"] = number % 3 + 1
        found.append(row)
    return found


def content(row: Op) -> Op:
    """What of a delivery must be as it was published."""
    return {name: row[name] for name in ("data", "data_text", "data_b64", "key", "headers", "priority") if name in row}


async def story(gateway: GatewayProcess) -> dict[str, Any]:
    """Publish, settle some, leave the rest. Returns what a later version must still know."""
    client = await WsClient.open(gateway.port, gateway.token())
    for group in GROUPS:
        await client.subscribe(TOPIC, group=group, sub=group, prefetch=200, start="earliest")
    rows = drafts()
    receipts = (await client.ok({"op": "publish", "topic": TOPIC, "messages": rows}))["receipts"]
    leases: dict[tuple[str, str], str] = {}
    whole: dict[str, Op] = {}
    for row in await client.take(len(GROUPS) * MESSAGES):
        leases[row["sub"], row["id"]] = row["lease"]
        whole[row["id"]] = content(row)
    ids = [row["id"] for row in rows]
    main = {"ack": ACKED, "nack": NACKED, "reject": REJECTED}
    for kind, places in main.items():
        await client.ok({"op": kind, "leases": [leases["main", ids[place]] for place in places]})
    await client.ok({"op": "ack", "leases": [leases["audit", id_] for id_ in ids[::2]]})
    client.abort()
    gone = {ids[place] for place in (*ACKED, *REJECTED)}
    return {
        "receipts": {receipt["id"]: receipt["seq"] for receipt in receipts},
        "published": rows,
        "delivered": whole,
        "owed": {"main": [id_ for id_ in ids if id_ not in gone], "audit": ids[1::2]},
        "dead": [ids[place] for place in REJECTED],
    }


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        gateway = GatewayProcess(Path(name))
        try:
            gateway.start()
            told = asyncio.run(story(gateway))
            assert gateway.terminate() == 0, gateway.last_words()
        finally:
            gateway.stop()
        with closing(sqlite3.connect(gateway.database())) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        target = GOLDEN / f"schema-{version}.db.gz"
        if target.exists():
            print(f"{target.name} is there already: a golden file is never made again")
            return 1
        target.write_bytes(gzip.compress(gateway.database().read_bytes(), 9, mtime=0))
    text = json.dumps(told, indent=1, ensure_ascii=True, sort_keys=True)
    (GOLDEN / f"schema-{version}.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"made {target.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
