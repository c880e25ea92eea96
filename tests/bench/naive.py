"""The gateway one writes first, as the yardstick of the benchmark. FROZEN: only a bug that breaks a run is fixed.

Owns the least that a durable push needs: websockets' asyncio server with one task a connection, aiosqlite with WAL and
synchronous=FULL, JSON by the standard library, INSERT + commit for each message before it is pushed and its producer
answered, UPDATE + commit for each acknowledgement. Speaks as much of pushwire.v1 as the load generator says. Has no
rights, limits, windows, timeouts or batching, and must not get any.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import aiosqlite
from websockets.asyncio.server import ServerConnection, serve

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, grp TEXT, id TEXT, body TEXT, acked INTEGER DEFAULT 0
)
"""
INSERT = "INSERT INTO messages (topic, grp, id, body) VALUES (?, ?, ?, ?)"
ACK = "UPDATE messages SET acked = 1 WHERE seq = ?"
UNACKED = "SELECT seq, id, body FROM messages WHERE topic = ? AND grp = ? AND acked = 0"


class Naive:
    """One database connection, and the members of each (topic, group)."""

    def __init__(self, db: aiosqlite.Connection) -> None:
        self.db = db
        # One transaction at a time on the shared connection, else one task's commit would hold another's half.
        self.transaction = asyncio.Lock()
        self.members: dict[tuple[str, str], list[ServerConnection]] = {}
        self.groups: dict[str, list[str]] = {}

    async def handle(self, ws: ServerConnection) -> None:
        try:
            async for text in ws:
                op = json.loads(text)
                if op["op"] == "publish":
                    await self.publish(ws, op)
                elif op["op"] == "ack":
                    await self.ack(ws, op)
                elif op["op"] == "subscribe":
                    await self.subscribe(ws, op)
        finally:
            for members in self.members.values():
                if ws in members:
                    members.remove(ws)

    async def publish(self, ws: ServerConnection, op: dict[str, Any]) -> None:
        topic = op["topic"]
        receipts = []
        for message in op.get("messages") or [op]:
            body = json.dumps(message["data"])
            pushes = []
            async with self.transaction:
                for group in self.groups.get(topic) or ["default"]:
                    cursor = await self.db.execute(INSERT, (topic, group, message["id"], body))
                    pushes.append((group, cursor.lastrowid))
                await self.db.commit()
            for group, seq in pushes:
                await self.push(topic, group, seq, message["id"], body)
            receipts.append({"id": message["id"], "seq": pushes[0][1], "duplicate": False})
        await ws.send(json.dumps({"op": "ok", "ref": op["ref"], "receipts": receipts}))

    async def push(self, topic: str, group: str, seq: int | None, id: str, body: str) -> None:
        members = self.members.get((topic, group))
        if members:
            members.append(members.pop(0))  # in turn
            row = {"lease": str(seq), "topic": topic, "seq": seq, "id": id, "attempt": 1, "data": json.loads(body)}
            await members[-1].send(json.dumps({"op": "messages", "sub": group, "messages": [row]}))

    async def ack(self, ws: ServerConnection, op: dict[str, Any]) -> None:
        for lease in op["leases"]:
            async with self.transaction:
                await self.db.execute(ACK, (int(lease),))
                await self.db.commit()
        if "ref" in op:
            await ws.send(json.dumps({"op": "ok", "ref": op["ref"]}))

    async def subscribe(self, ws: ServerConnection, op: dict[str, Any]) -> None:
        topic, group = op["topic"], op["group"]
        groups = self.groups.setdefault(topic, [])
        if group not in groups:
            groups.append(group)
        members = self.members.setdefault((topic, group), [])
        members.append(ws)
        await ws.send(json.dumps({"op": "ok", "ref": op["ref"], "sub": group}))
        if len(members) == 1:  # deliver again what nobody acknowledged
            async with self.db.execute(UNACKED, (topic, group)) as rows:
                async for seq, id, body in rows:
                    await self.push(topic, group, seq, id, body)


async def main(database: Path, ready_file: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with aiosqlite.connect(database) as db:
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute("PRAGMA synchronous = FULL")
        await db.execute(SCHEMA)
        await db.execute("CREATE INDEX IF NOT EXISTS unacked ON messages (topic, grp) WHERE acked = 0")
        await db.commit()
        naive = Naive(db)
        protocols = ["pushwire.v1"]
        async with serve(naive.handle, "127.0.0.1", 0, subprotocols=protocols, backlog=1024) as server:  # type: ignore[arg-type]  # a list of Subprotocol, which is a str
            port = next(iter(server.sockets)).getsockname()[1]
            part = ready_file.with_suffix(".part")
            part.write_text(json.dumps({"url": f"ws://127.0.0.1:{port}/v1/ws", "pid": os.getpid(), "port": port}))
            part.rename(ready_file)
            await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.database, arguments.ready_file))
