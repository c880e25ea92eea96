"""Clients that come, misbehave and go, for as long as a soak lasts: in a process of their own.

Owns what each kind of visitor does; what they leave behind in the gateway is the soak's to look at. At SIGTERM it
writes how many visits of each kind went as they should, and fails if one ended in a way that it must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench import framing
from pushwire_gateway.auth import SigningKey, sign_token
from support.event_client import EventClient
from support.http_client import HttpClient
from support.ws_client import Closed, WsClient

TOPIC, FAT = "faults.visits", "faults.fat"
AT_ONCE = 6
PAUSE_S = 0.1
SHORT_S, LONG_S = 2, 3600
GONE_S = 8.0
"""The gateway ends a visit by itself within this time: a token of two seconds, a stall, a stranger's silence."""
FAT_BYTES = 60_000
ALLOW = ("publish:*", "consume:*@*", "create:*@*", "replay:*", "admin:*")


class Visitors:
    """All of them."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.port: int = job["port"]
        self._key = SigningKey("main", "HS256", job["secret"].encode())
        self._rng = random.Random(job["seed"])
        self.done: Counter[str] = Counter()
        self.kinds: list[Callable[[], Awaitable[None]]] = [
            self.expires, self.times_out, self.nacks, self.stops_reading, self.polls, self.follows, self.is_a_stranger,
            self.breaks_off, self.talks_nonsense, self.has_a_device, self.makes_a_topic, self.says_goodbye,
        ]  # fmt: skip

    def token(self, ttl_s: int = LONG_S) -> str:
        return sign_token(
            self._key, subject=f"visitor-{self._rng.randrange(1000)}", audience="pushwire", issuer="pushwire",
            now=time.time(), allow=ALLOW, ttl_s=ttl_s,
        )  # fmt: skip

    async def _in(self, ttl_s: int = LONG_S, *, sock: socket.socket | None = None) -> WsClient:
        return await WsClient.open(self.port, self.token(ttl_s), sock=sock)

    # --- the kinds ------------------------------------------------------------------------------------------

    async def expires(self) -> None:
        """Its token ends while it holds messages."""
        client = await self._in(SHORT_S)
        await client.subscribe(TOPIC, group="main", prefetch=4)
        assert await client.close_code(GONE_S) == 4401

    async def times_out(self) -> None:
        client = await self._in()
        await client.subscribe(TOPIC, group="main", prefetch=4, ack_timeout_ms=200)
        await asyncio.sleep(0.5)
        client.abort()

    async def nacks(self) -> None:
        client = await self._in()
        await client.subscribe(TOPIC, group="main", prefetch=4)
        row = (await client.take(1))[0]
        for op in ("nack", "ack"):  # the second is stale
            await client.ask({"op": op, "leases": [row["lease"]]})
        client.abort()

    async def stops_reading(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        client = await self._in(sock=sock)
        await client.subscribe(FAT, group=f"slow-{self._rng.randrange(4)}", prefetch=1000, start="earliest")
        client.transport.pause_reading()
        await asyncio.sleep(GONE_S / 2)
        client.transport.resume_reading()
        await client.close_code(GONE_S)

    async def polls(self) -> None:
        """Two answers of a long poll, of which it acks one."""
        client = await HttpClient.connect(self.port)
        path = f"/v1/topics/{TOPIC}/groups/main/messages?wait=2&max=2"
        session: dict[str, str] = {}
        token = self.token()
        for ack in (True, False):
            answer = await client.request("GET", path, token=token, headers=session)
            assert answer.status in (200, 204), answer
            session = {"Pushwire-Session": answer.headers["pushwire-session"]}
            rows = answer.json()["messages"] if answer.body else []
            if ack and rows:
                leases = {"leases": [row["lease"] for row in rows]}
                settled = await client.request("POST", "/v1/leases/ack", leases, token=token, headers=session)
                assert settled.status == 200, settled
        client.close()

    async def follows(self) -> None:
        """A stream of events, opened with a ticket, and cut."""
        http = await HttpClient.connect(self.port)
        answer = await http.request("POST", "/v1/tickets", {}, token=self.token())
        http.close()
        assert answer.status in (200, 201), answer
        stream = await EventClient.open(self.port, f"/v1/topics/{TOPIC}/tail?ticket={answer.json()['ticket']}")
        assert stream.status == 200, stream.status
        await stream.events(2)
        stream.close()

    async def is_a_stranger(self) -> None:
        client = await WsClient.open(self.port)
        assert await client.close_code(GONE_S) == 4408

    async def breaks_off(self) -> None:
        """In the middle of a request's head, of its body, of a frame."""
        token = self.token()
        for part in (
            b"GET /v1/ws HTTP/1.1\r\nHost: a\r\n",
            f"POST /v1/topics/{TOPIC}/messages HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode(),
            framing.upgrade_request("a", "/v1/ws", "dGhlIHNhbXBsZSBub25jZQ==", "pushwire.v1", token) + b"\x81\xfe\x10",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await reader.read()

    async def talks_nonsense(self) -> None:
        client = await self._in()
        for _ in range(20):
            client.send_raw(framing.encode(b'{"op":'))
        assert await client.close_code(GONE_S) == 4400

    async def has_a_device(self) -> None:
        """A private group that ends soon after it has left."""
        client = await self._in()
        fields = {"private": True, "client_id": f"d{self._rng.randrange(10**9)}", "inactive_ttl_ms": 1000}
        answer = await client.ask(
            {"op": "subscribe", "topic": TOPIC, "group": f"g{self._rng.randrange(10**9)}", **fields}
        )
        assert answer["op"] == "ok" or answer["code"] == "too_many_groups", answer
        client.abort()

    async def makes_a_topic(self) -> None:
        client = await HttpClient.connect(self.port)
        token, path = self.token(), f"/v1/admin/topics/visit.{self._rng.randrange(10**9)}"
        for method, good in (("PUT", (200, 201)), ("DELETE", (200, 204))):
            answer = await client.request(method, path, {} if method == "PUT" else b"", token=token)
            assert answer.status in good, answer
        client.close()

    async def says_goodbye(self) -> None:
        """A tail, then a close handshake."""
        client = await self._in()
        await client.subscribe(TOPIC, tail=True)
        await client.take(1)
        client.send_raw(framing.encode(b"\x03\xe8", framing.CLOSE))
        assert await client.close_code() == 1000

    # --- what they come for ---------------------------------------------------------------------------------

    async def publish(self) -> None:
        """Something to take, all the time; one that works, so that nothing piles up."""
        client = await self._in()
        client.on_deliveries = lambda rows: client.send({"op": "ack", "leases": [row["lease"] for row in rows]})
        await client.subscribe(TOPIC, group="main", prefetch=8)
        for number in range(10):
            await client.ok({"op": "publish", "topic": FAT, "id": f"fat-{number}", "data_text": "x" * FAT_BYTES})
        while True:
            await client.ok({"op": "publish", "topic": TOPIC, "data": {"pad": "x" * self._rng.randrange(500)}})
            await asyncio.sleep(0.01)

    async def come_and_go(self) -> None:
        while True:
            visit = self._rng.choice(self.kinds)
            try:
                await visit()
            except (OSError, Closed) as error:
                self.done[f"{visit.__name__}: {type(error).__name__} {error}"] += 1
            else:
                self.done[visit.__name__] += 1
            await asyncio.sleep(self._rng.random() * PAUSE_S)


async def main(job: dict[str, Any]) -> Counter[str]:
    visitors = Visitors(job)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tasks = [asyncio.ensure_future(visitors.publish())]
    tasks += [asyncio.ensure_future(visitors.come_and_go()) for _ in range(AT_ONCE)]
    over = asyncio.ensure_future(stop.wait())
    await asyncio.wait([*tasks, over], return_when=asyncio.FIRST_COMPLETED)
    over.cancel()
    for task in tasks:
        if task.done():
            task.result()  # none ends by itself: raise what ended it
        task.cancel()
    await asyncio.wait(tasks)
    return visitors.done


if __name__ == "__main__":
    what = json.loads(sys.argv[1])
    Path(what["report"]).write_text(json.dumps(asyncio.run(main(what))))
