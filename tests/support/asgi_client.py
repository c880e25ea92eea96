"""Requests straight into the ASGI application: begun, awaited, left halfway, read piece by piece, or not read.

Owns one call of the application each. It adds nothing that a server would: what a test does not say is not there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .port import PATIENCE_S


class Call:
    """One request and what has come of it."""

    def __init__(self, app: Any, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self.reads = True
        """False: the transport is full, and what is sent waits."""
        self._left = False
        self._asked = False
        self._request_body = body
        self._changed = asyncio.Event()
        bare, _, query = path.partition("?")
        lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": bare, "raw_path": quote(bare).encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(b"host", b"gateway.test"), *lines], "client": ("192.0.2.7", 1), "server": ("gateway.test", 80),
            "state": {},
        }  # fmt: skip
        self.task = asyncio.get_running_loop().create_task(app(scope, self._receive, self._send))

    # --- ASGI ---

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._request_body, "more_body": False}
        await self._until(lambda: self._left or self.complete)
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self._until(lambda: self.reads or self._left)
        if self._left:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]
            self.complete = not message.get("more_body", False)
        self._changed.set()

    async def _until(self, what: Any) -> None:
        while not what():
            changed = self._changed
            await changed.wait()
            if not what():
                changed.clear()

    # --- what a test does ---

    @property
    def waits(self) -> bool:
        """There is no answer yet."""
        return not self.status and not self.task.done()

    async def answer(self) -> Call:
        """This call, once the application is done with it."""
        async with asyncio.timeout(PATIENCE_S):
            await self.task
        return self

    def json(self) -> Any:
        return json.loads(self.body)

    def leave(self) -> None:
        """The client is gone."""
        self._left = True
        self._changed.set()

    def read(self, *, on: bool = True) -> None:
        """Whether the client takes what is sent."""
        self.reads = on
        self._changed.set()

    async def events(self, count: int) -> list[tuple[str, str, Any]]:
        """So many (event, id, data) of a stream, from its beginning; comments and events without data are left out."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := parse_events(self.body)) < count:
                if self.task.done():
                    raise EOFError(self.body)
                self._changed.clear()
                await self._changed.wait()
        return found


async def turns(count: int = 50) -> None:
    """So many turns of the loop: whatever was ready has run, and no time has passed."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turned: asyncio.Future[None] = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


def parse_events(body: bytes) -> list[tuple[str, str, Any]]:
    """The events in the bytes of a stream that are complete."""
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "data" in fields:
            found.append((fields.get("event", "message"), fields.get("id", ""), json.loads(fields["data"])))
    return found


class Caller:
    """One client's way of asking: its token, and the session it was given."""

    def __init__(self, app: Any, token: str | None = None) -> None:
        self.app = app
        self.token = token
        self.session: str | None = None
        self.extra: dict[str, str] = {}

    def begin(self, method: str, path: str, body: Any = None, **headers: str) -> Call:
        """A request whose answer is not waited for."""
        lines = {**self.extra, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.token is not None:
            lines.setdefault("authorization", f"Bearer {self.token}")
        if self.session is not None:
            lines.setdefault("pushwire-session", self.session)
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if body is not None:
            lines.setdefault("content-type", "application/json")
        return Call(self.app, method, path, lines, raw)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Call:
        """A request and its answer; a session that comes with it is kept."""
        return self._keep(await self.begin(method, path, body, **headers).answer())

    def poll(self, path: str, **query: Any) -> Call:
        """A long poll that is not waited for."""
        return self.begin("GET", path + "?" + "&".join(f"{name}={value}" for name, value in query.items()))

    async def polled(self, call: Call) -> list[dict[str, Any]]:
        """What a poll brought."""
        answer = self._keep(await call.answer())
        assert answer.status == 200, answer.body
        messages: list[dict[str, Any]] = answer.json()["messages"]
        return messages

    async def settle(self, how: str, leases: list[str], **more: Any) -> dict[str, Any]:
        answer = await self.ask("POST", f"/v1/leases/{how}", {"leases": leases, **more})
        assert answer.status == 200, answer.body
        shown: dict[str, Any] = answer.json()
        return shown

    def _keep(self, answer: Call) -> Call:
        self.session = answer.headers.get("pushwire-session", self.session)
        return answer
