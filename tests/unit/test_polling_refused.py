"""Long polls and settlements that are refused: by form, right, name, number and rate."""

from __future__ import annotations

from typing import Any

import pytest

from pushwire.wire.frames import Subscribe
from support.gateway_parts import cap
from support.poll_scene import PATH, Scene, tokens

# --- refusals


REFUSED = {
    "no token": ({"authorization": "Bearer x.y.z"}, PATH, 401, "unauthorized"),
    "bad topic": ({}, "/v1/topics/a*b/groups/g/messages", 400, "bad_topic"),
    "bad group": ({}, "/v1/topics/t/groups/a b/messages", 400, "bad_group"),
    "wait no number": ({}, PATH + "?wait=soon", 400, "bad_request"),
    "wait too long": ({}, PATH + "?wait=30.001", 400, "bad_request"),
    "wait below zero": ({}, PATH + "?wait=-1", 400, "bad_request"),
    "wait twice": ({}, PATH + "?wait=1&wait=1", 400, "bad_request"),
    "max none": ({}, PATH + "?max=0", 400, "bad_request"),
    "max too large": ({}, PATH + "?max=1001", 400, "bad_request"),
    "max no number": ({}, PATH + "?max=1.5", 400, "bad_request"),
    "ack_timeout too short": ({}, PATH + "?ack_timeout=0.05", 400, "bad_request"),
    "ack_timeout too long": ({}, PATH + "?ack_timeout=43201", 400, "bad_request"),
    "session too long": ({"pushwire-session": "x" * 65}, PATH, 400, "bad_request"),
    "session empty": ({"pushwire-session": ""}, PATH, 400, "bad_request"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_poll_that_is_wrong_is_refused_and_leases_nothing(name: str) -> None:
    headers, path, status, code = REFUSED[name]
    scene = await Scene.set()
    await scene.publish(b"1")
    call = await scene.caller().begin("GET", path, **headers).answer()
    assert (call.status, call.json()["code"]) == (status, code)
    assert call.headers["content-type"] == "application/problem+json"
    assert (scene.leases(), len(scene.parts.gateway.polls), scene.parts.gateway.polls.waiting) == (0, 0, 0)


@pytest.mark.parametrize(
    ("caps", "path", "status", "code"),
    [
        ([cap("publish")], PATH, 403, "forbidden"),
        ([cap("consume", groups="h")], PATH, 403, "forbidden"),
        ([cap("consume")], "/v1/topics/u/groups/g/messages", 404, "topic_not_found"),
        ([cap("consume")], "/v1/topics/t/groups/x/messages", 404, "group_not_found"),
        ([cap()], "/v1/topics/t/groups/mine/messages", 404, "group_not_found"),
    ],
)
async def test_rights_and_names_of_a_poll(caps: list[Any], path: str, status: int, code: str) -> None:
    scene = await Scene.set()
    await scene.producer.ok(Subscribe("t", "mine", "m", ref=1, client_id="phone"))
    call = await scene.caller("ann", *caps).begin("GET", path).answer()
    assert (call.status, call.json()["code"]) == (status, code)


async def test_too_many_topics_and_groups() -> None:
    scene = await Scene.set(topics_per_tenant=1, groups_per_topic=1)
    ann = scene.caller()
    for path, code in (("/v1/topics/u/groups/g/messages", "too_many_topics"), (PATH[:-10] + "h/messages", None)):
        answer = await ann.begin("GET", path.replace("groups/h", "groups/g2") if code else path).answer()
        assert answer.json()["code"] == (code or "too_many_groups")


async def test_polls_of_a_subject_and_in_total_are_bounded() -> None:
    scene = await Scene.set(polls_per_subject=2, polls_max=3)
    ann, bob = scene.caller(), scene.caller("bob")
    calls = [await scene.waiting(ann.poll(PATH, wait=30)) for _ in range(2)]
    calls.append(await scene.waiting(bob.poll(PATH, wait=30)))
    for caller in (ann, bob):
        answer = await caller.poll(PATH, wait=30).answer()
        assert (answer.status, answer.json()["code"]) == (503, "too_many_connections")
    scene.parts.step(30)
    for call in calls:
        assert (await call.answer()).status == 200
    assert scene.parts.gateway.polls.waiting == 0


async def test_polls_have_the_rate_of_control_operations_and_settlements_none() -> None:
    scene = await Scene.set(controls_per_s=1, controls_burst=2)
    ann = scene.caller()
    await scene.publish(b"1")
    got = await scene.get(ann)
    for _ in range(2):
        assert await scene.get(ann) == []
    answer = await ann.poll(PATH).answer()
    assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
    assert answer.headers["retry-after"] == "1"
    for _ in range(20):
        assert (await ann.settle("extend", tokens(got)))["settled"] == 1


SETTLED_BADLY = {
    "no session": ({"pushwire-session": None}, {"leases": ["a"]}, 400, "bad_request"),
    "no leases": ({}, {}, 400, "bad_request"),
    "none": ({}, {"leases": []}, 400, "bad_request"),
    "no list": ({}, {"leases": "a"}, 400, "bad_request"),
    "no strings": ({}, {"leases": [1]}, 400, "bad_request"),
    "too many": ({}, {"leases": ["a"] * 1001}, 413, "batch_too_large"),
    "a delay too long": ({}, {"leases": ["a"], "delay_ms": 900_001}, 400, "bad_request"),
    "the socket's form": ({}, {"lease": "a"}, 400, "bad_request"),
    "no object": ({}, [1], 400, "bad_request"),
    "no json": ({}, b"{", 400, "bad_request"),
}


@pytest.mark.parametrize("name", SETTLED_BADLY)
async def test_a_settlement_that_is_wrong_is_refused(name: str) -> None:
    headers, body, status, code = SETTLED_BADLY[name]
    scene = await Scene.set()
    ann = scene.caller()
    ann.session = None if "pushwire-session" in headers else "n1.x"
    call = await ann.ask("POST", "/v1/leases/nack", body)
    assert (call.status, call.json()["code"]) == (status, code)


async def test_a_head_leases_nothing() -> None:
    scene = await Scene.set()
    await scene.publish(b"1")
    call = await scene.caller().ask("HEAD", PATH)
    assert (call.status, scene.leases()) == (405, 0)
