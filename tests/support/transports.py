"""One way to consume, spoken over each transport: what the conformance table of the delivery contract is run on.

Owns the translation of its verbs into each transport's own. It tests nothing; what a transport cannot say in one step
(a push, over long polling) it does in the way its users would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import httpx

import pushwire

from .port import PATIENCE_S
from .whole_gateway import WholeGateway
from .ws_client import WsClient

TOPIC, GROUP = "orders", "default"


class Got(NamedTuple):
    """One delivery, whatever it came over."""

    data: Any
    attempt: int
    redelivered: bool
    handle: Any
    """What the transport settles it by."""


class Consumer(Protocol):
    """A consumer of TOPIC, member of GROUP."""

    async def begin(self, window: int, ack_timeout_s: float) -> None:
        """Join, with room for so many messages."""

    async def take(self, count: int) -> list[Got]:
        """The next `count` deliveries."""

    async def ack(self, *got: Got) -> bool:
        """Whether these were settled, durably; False: some lease was stale."""

    async def nack(self, got: Got, delay_s: float) -> None: ...

    async def reject(self, got: Got, error: str) -> None: ...

    async def release(self, got: Got) -> None: ...

    async def extend(self, got: Got) -> None: ...

    async def nothing(self) -> None:
        """Nothing more comes now. Asserts it."""

    async def lose(self) -> None:
        """It is gone without a word, and the gateway has noticed."""

    async def close(self) -> None:
        """The test is over."""


class WebSocket:
    """The wire, spoken by hand."""

    def __init__(self, gateway: WholeGateway, subject: str) -> None:
        self._gateway = gateway
        self._subject = subject

    async def begin(self, window: int, ack_timeout_s: float) -> None:
        self._client = await WsClient.open(self._gateway.port, self._gateway.token(self._subject))
        await self._client.subscribe(
            TOPIC, group=GROUP, prefetch=window, ack_timeout_ms=int(ack_timeout_s * 1000), start="earliest"
        )

    async def take(self, count: int) -> list[Got]:
        rows = await self._client.take(count)
        return [Got(row["data"], row["attempt"], row["redelivered"], row["lease"]) for row in rows]

    async def ack(self, *got: Got) -> bool:
        reply = await self._client.ask({"op": "ack", "leases": [one.handle for one in got]})
        assert reply["op"] == "ok" or reply["code"] == "stale_lease", reply
        return bool(reply["op"] == "ok")

    async def _settle(self, verb: str, got: Got, **fields: Any) -> None:
        await self._client.ok({"op": verb, "leases": [got.handle], **fields})

    async def nack(self, got: Got, delay_s: float) -> None:
        await self._settle("nack", got, delay_ms=int(delay_s * 1000))

    async def reject(self, got: Got, error: str) -> None:
        await self._settle("reject", got, error=error)

    async def release(self, got: Got) -> None:
        await self._settle("release", got)

    async def extend(self, got: Got) -> None:
        await self._settle("extend", got)

    async def nothing(self) -> None:
        await self._gateway.settled()
        await self._client.ask({"op": "ping"})  # whatever was on its way came before the answer
        assert self._client.deliveries.empty()

    async def lose(self) -> None:
        sessions = self._gateway.server.gateway.sessions
        before = len(sessions)
        self._client.abort()
        await self._gateway.until(lambda: len(sessions) < before)

    async def close(self) -> None:
        self._client.abort()


class LongPoll:
    """HTTP, one request after the other."""

    def __init__(self, gateway: WholeGateway, subject: str) -> None:
        self._gateway = gateway
        self._http = httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S, trust_env=False)
        self._headers = {"authorization": f"Bearer {gateway.token(subject)}"}
        self._ahead: list[Got] = []

    async def begin(self, window: int, ack_timeout_s: float) -> None:
        self._window, self._ack_timeout_s = window, ack_timeout_s
        self._held = 0
        await self._poll(1, 0)

    async def _poll(self, count: int, wait_s: float) -> list[Got]:
        query = {"max": count, "wait": wait_s, "ack_timeout": self._ack_timeout_s}
        answer = await self._http.get(
            f"/v1/topics/{TOPIC}/groups/{GROUP}/messages", params=query, headers=self._headers
        )
        assert answer.status_code == 200, answer.text
        self._headers["pushwire-session"] = answer.headers["pushwire-session"]
        rows = answer.json()["messages"]
        got = [Got(row["data"], row["attempt"], row["redelivered"], row["lease"]) for row in rows]
        self._ahead += got
        self._held += len(got)
        return got

    async def take(self, count: int) -> list[Got]:
        while len(self._ahead) < count:
            await self._poll(count - len(self._ahead), 5)
        got, self._ahead = self._ahead[:count], self._ahead[count:]
        return got

    async def _settle(self, verb: str, got: Sequence[Got], **fields: Any) -> Any:
        body = {"leases": [one.handle for one in got], **fields}
        answer = await self._http.post(f"/v1/leases/{verb}", json=body, headers=self._headers)
        assert answer.status_code == 200, answer.text
        settled = answer.json()
        assert settled["settled"] + len(settled["stale"]) == len(got)
        self._held -= settled["settled"] if verb != "extend" else 0
        return settled

    async def ack(self, *got: Got) -> bool:
        return not (await self._settle("ack", got))["stale"]

    async def nack(self, got: Got, delay_s: float) -> None:
        assert (await self._settle("nack", [got], delay_ms=int(delay_s * 1000)))["settled"] == 1

    async def reject(self, got: Got, error: str) -> None:
        assert (await self._settle("reject", [got], error=error))["settled"] == 1

    async def release(self, got: Got) -> None:
        assert (await self._settle("release", [got]))["settled"] == 1

    async def extend(self, got: Got) -> None:
        assert (await self._settle("extend", [got]))["settled"] == 1

    async def nothing(self) -> None:
        await self._gateway.settled()
        free = self._window - self._held  # its window is what it asks for
        if free:
            assert await self._poll(free, 0) == []
        assert self._ahead == []

    async def lose(self) -> None:
        await self._http.aclose()
        await self._gateway.step(self._ack_timeout_s)  # the session's end is the time of its last request plus this

    async def close(self) -> None:
        await self._http.aclose()


class Sdk:
    """The Python SDK's iterator."""

    def __init__(self, gateway: WholeGateway, subject: str) -> None:
        self._gateway = gateway
        self._client = pushwire.Client(gateway.url, token=gateway.token(subject))

    async def begin(self, window: int, ack_timeout_s: float) -> None:
        await self._client.__aenter__()
        self._subscription = self._client.subscribe(
            TOPIC, group=GROUP, prefetch=window, ack_timeout_s=ack_timeout_s, start="earliest"
        )
        await self._subscription.__aenter__()
        self._queue = aiter(self._subscription)

    async def take(self, count: int) -> list[Got]:
        async with asyncio.timeout(PATIENCE_S):
            messages = [await anext(self._queue) for _ in range(count)]
        return [Got(message.json(), message.attempt, message.redelivered, message) for message in messages]

    async def ack(self, *got: Got) -> bool:
        try:
            await asyncio.gather(*(one.handle.ack_confirmed() for one in got))
        except pushwire.LeaseLost:
            return False
        return True

    async def _sent(self) -> None:
        """What was said has reached the gateway and is durable."""
        await self._client.publish("elsewhere", None)
        await self._gateway.settled()

    async def nack(self, got: Got, delay_s: float) -> None:
        got.handle.nack(delay_s)
        await self._sent()

    async def reject(self, got: Got, error: str) -> None:
        got.handle.reject(error)
        await self._sent()

    async def release(self, got: Got) -> None:
        got.handle.release()
        await self._sent()

    async def extend(self, got: Got) -> None:
        got.handle.extend()
        await self._sent()

    async def nothing(self) -> None:
        await self._sent()
        early = asyncio.ensure_future(anext(self._queue))
        await asyncio.sleep(0)
        assert not early.done()
        early.cancel()

    async def lose(self) -> None:
        """By its link: a client that closes says so first."""
        sessions = self._gateway.server.gateway.sessions
        before = len(sessions)
        runner = self._client._runner
        assert runner is not None  # it was begun
        runner.cancel()
        await self._gateway.until(lambda: len(sessions) < before)

    async def close(self) -> None:
        await self._client.close()


TRANSPORTS: dict[str, Any] = {"websocket": WebSocket, "long poll": LongPoll, "sdk": Sdk}
