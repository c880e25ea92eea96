"""Requests that have shown a token and then wait: what they ask for is not done once that token is worth nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pushwire_gateway.app import whole_app
from pushwire_gateway.hub import Stats
from support.asgi_client import Call, turns
from support.gateway_parts import Parts
from support.poll_scene import PATH, Scene

SLOW = [
    ("POST", "/v1/topics/t/messages", {"data": 1}),
    ("POST", "/v1/leases/ack", {"leases": ["n1.x"]}),
    ("PUT", "/v1/admin/topics/t", {"retain_ms": 1}),
    ("POST", "/v1/admin/topics/t/purge", {"through_seq": 1}),
    ("POST", "/v1/admin/revocations", {"subject": "bob"}),
]


class SlowBody(Call):
    """A request whose body comes when the test says so."""

    def __init__(self, parts: Parts, method: str, path: str, body: Any) -> None:
        self.sent = asyncio.Event()
        self.asked = asyncio.Event()
        app = whole_app(parts.gateway, Stats)
        lines = {"authorization": f"Bearer {parts.token('ann')}", "content-type": "application/json"}
        raw = json.dumps(body).encode()
        lines |= {"pushwire-session": "n1.none", "content-length": str(len(raw))}
        super().__init__(app, method, path, lines, raw)

    async def _receive(self) -> dict[str, Any]:
        self.asked.set()
        await self.sent.wait()
        return await super()._receive()


async def end_token(parts: Parts, how: str) -> None:
    if how == "revoked":
        await parts.admin.revoke(parts.principal("admin"), subject="ann")
    else:
        parts.step(100_000)


@pytest.mark.parametrize("how", ["revoked", "over"])
@pytest.mark.parametrize(("method", "path", "body"), SLOW)
async def test_a_body_that_comes_after_the_end_of_its_token_changes_nothing(
    how: str, method: str, path: str, body: Any
) -> None:
    parts = await Parts().start()
    call = SlowBody(parts, method, path, body)
    await call.asked.wait()
    await end_token(parts, how)
    before = len(parts.store.batches)
    call.sent.set()
    answer = await call.answer()
    assert (answer.status, answer.json()["code"]) == (401, "unauthorized")
    assert len(parts.store.batches) == before


@pytest.mark.parametrize("how", ["revoked", "over"])
async def test_a_poll_whose_token_ends_while_its_group_is_made_gets_nothing(how: str) -> None:
    scene = await Scene.set()
    await scene.publish(b"1")
    scene.parts.store.hold()
    ann = scene.caller()
    call = ann.poll(PATH.replace("/g/", "/new/"), wait=30)
    await turns()
    ended = asyncio.ensure_future(end_token(scene.parts, how))
    await turns()
    scene.parts.store.release()
    await ended
    answer = await call.answer()
    assert (answer.status, answer.json()["code"]) == (401, "unauthorized")
    assert scene.leases() == 0
    assert len(scene.parts.gateway.polls) == 0
