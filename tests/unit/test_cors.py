"""CORS over the whole HTTP API: who is let in by its Origin, what a preflight is told, and that errors say it too."""

from __future__ import annotations

import pytest

from pushwire_gateway.api import make_app
from pushwire_gateway.settings import load
from support.asgi_client import Caller
from support.port import SmallGateway, SteppedClock

APP = "https://app.example"
PATHS = [
    ("POST", "/v1/topics/orders/messages"),
    ("GET", "/v1/topics/orders/groups/g/messages"),
    ("POST", "/v1/leases/ack"),
    ("GET", "/v1/topics/orders/tail"),
    ("POST", "/v1/tickets"),
    ("GET", "/livez"),
    ("GET", "/nothing/here"),
    ("DELETE", "/livez"),
]


def gateway(*origins: str) -> SmallGateway:
    return SmallGateway(load(origins=origins), SteppedClock())


def caller(gateway: SmallGateway) -> Caller:
    return Caller(make_app(gateway), gateway.token())


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_a_foreign_page_is_refused_before_anything_is_done(method: str, path: str) -> None:
    for origins, origin in (((APP,), "https://evil.example"), ((), "https://evil.example"), (("*",), "null")):
        small = gateway(*origins)
        call = await caller(small).ask(method, path, {"data": 1}, origin=origin)
        assert (call.status, call.json()["code"]) == (403, "forbidden")
        assert not [name for name in call.headers if name.startswith("access-control")]
        assert call.headers["vary"] == "origin"
        assert small.published == []


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_an_allowed_page_may_read_every_answer(method: str, path: str) -> None:
    client = caller(gateway(APP))
    client.token = None  # whatever the answer is: most of these are errors
    call = await client.ask(method, path, origin=APP)
    assert call.headers["access-control-allow-origin"] == APP
    assert call.headers["access-control-expose-headers"] == "pushwire-session, retry-after"
    assert "access-control-allow-credentials" not in call.headers
    assert call.headers["vary"] == "origin"


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_a_preflight(method: str, path: str) -> None:
    client = caller(gateway(APP))
    client.token = None
    asked = {"access_control_request_method": method, "access_control_request_headers": "authorization"}
    call = await client.ask("OPTIONS", path, origin=APP, **asked)
    assert (call.status, call.body) == (204, b"")
    assert call.headers["access-control-allow-origin"] == APP
    assert method in call.headers["access-control-allow-methods"]
    assert {"authorization", "content-type", "last-event-id", "pushwire-session"} <= set(
        call.headers["access-control-allow-headers"].split(", ")
    )
    foreign = await client.ask("OPTIONS", path, origin="https://evil.example", **asked)
    assert foreign.status == 403
    assert not [name for name in foreign.headers if name.startswith("access-control")]


async def test_our_own_page_and_no_page_at_all() -> None:
    small = gateway()
    client = caller(small)
    for headers in ({}, {"origin": "http://gateway.test"}, {"origin": "https://gateway.test"}):
        call = await client.ask("POST", "/v1/topics/orders/messages", {"data": 1}, **headers)
        assert call.status == 200
    assert "access-control-allow-origin" not in (await client.ask("GET", "/livez")).headers
    assert len(small.published) == 3


async def test_a_bug_of_ours_may_be_read_too() -> None:
    small = gateway(APP)
    small.publish = lambda *_: 1 / 0
    call = caller(small).begin("POST", "/v1/topics/orders/messages", {"data": 1}, origin=APP)
    with pytest.raises(ZeroDivisionError):
        await call.answer()
    assert (call.status, call.headers["access-control-allow-origin"]) == (500, APP)
