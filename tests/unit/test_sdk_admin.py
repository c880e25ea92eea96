"""The admin client over a real socket: every route, every shape, and what becomes of a refusal or a broken link."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import pytest

import pushwire
from pushwire import Admin, AdminError, BadConfig, Conflict, Forbidden, NotConnected, NotFound, ProtocolError
from pushwire import admin_shapes as shapes
from pushwire.http_link import IDLE_S_MAX
from support.admin_server import TOKEN, Refused, admin_server

DOC = Path(__file__).resolve().parents[2] / "docs" / "http.md"


@pytest.fixture
def server():
    with admin_server() as server:
        server.admin.add_topic("orders")
        server.admin.add_group("orders", "billing")
        yield server


@pytest.fixture
async def admin(server):
    async with Admin(server.url, TOKEN) as admin:
        yield admin


def _raw(status, body=b"", *headers):
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


# --- routes ----------------------------------------------------------------------------------------------------


async def test_topics_are_listed_over_pages(server, admin):
    for name in ("a", "b", "c", "d"):
        server.admin.add_topic(name)
    assert [topic["name"] async for topic in admin.topics()] == ["a", "b", "c", "d", "orders"]
    assert [query for _, _, query, _ in server.admin.requests] == [{}, {"after": "b"}, {"after": "d"}]


async def test_a_topic_is_made_once_configured_and_removed(server, admin):
    made = await admin.create_topic("new", {"strict": True})
    assert (made["name"], made["config"]["strict"], made["config"]["retain_ms"]) == ("new", True, 0)
    with pytest.raises(Conflict) as caught:
        await admin.create_topic("new")
    assert (caught.value.status, caught.value.code) == (412, "conflict")
    changed = await admin.configure_topic("new", {"retain_ms": 5})
    assert (changed["config"]["strict"], changed["config"]["retain_ms"]) == (True, 5)
    replaced = await admin.configure_topic("new", {"retain_ms": 6}, replace=True)
    assert (replaced["config"]["strict"], replaced["config"]["retain_ms"]) == (False, 6)
    with pytest.raises(BadConfig, match="'typo' is no field of it"):
        await admin.configure_topic("new", {"typo": 1})
    await admin.delete_topic("new")
    with pytest.raises(NotFound) as gone:
        await admin.topic("new")
    assert gone.value.code == "topic_not_found"


async def test_a_topic_is_looked_into_and_emptied(admin):
    assert (await admin.topic("orders"))["groups"][0]["name"] == "billing"
    found = await admin.peek("orders", 4, limit=1)
    assert (found["messages"][0]["seq"], found["gaps"], found["through"]) == (5, [{"from": 1, "to": 2}], 5)
    assert (await admin.history("orders", 7))["events"][0]["event"] == "acked"
    assert await admin.purge_topic("orders", through_seq=2) == 2
    assert await admin.purge_topic("orders") == 3


async def test_groups_are_managed(server, admin):
    made = await admin.create_group("orders", "audit", start="earliest", inactive_ttl_s=60)
    assert made["inactive_ttl_ms"] == 60_000
    assert server.admin.requests[-1][3] == {"start": "earliest", "inactive_ttl_ms": 60_000}
    with pytest.raises(Conflict):
        await admin.create_group("orders", "audit")
    assert [group["name"] for group in await admin.groups("orders")] == ["audit", "billing"]
    assert (await admin.pause_group("orders", "audit"))["paused"]
    assert not (await admin.resume_group("orders", "audit"))["paused"]
    assert (await admin.seek_group("orders", "audit", 5))["start_seq"] == 4
    assert (await admin.group("orders", "audit"))["members"][0]["subject"] == "ann"
    await admin.delete_group("orders", "audit")
    with pytest.raises(NotFound):
        await admin.group("orders", "audit")


async def test_dead_letters_are_read_and_put_back_until_none_is_left(server, admin):
    server.admin.add_dead("orders", 8)
    server.admin.add_dead("orders", 2, group="audit")
    assert [letter["id"] async for letter in admin.dead_letters("orders", group="audit")] == [9, 10]
    assert [letter["id"] async for letter in admin.dead_letters("orders")] == list(range(1, 11))
    whole = await admin.dead_letter("orders", 3)
    assert (whole["message"]["data"], whole["attempts"][0]["how"]) == ({"n": 1}, "nacked")
    server.admin.requests.clear()
    assert await admin.redrive("orders", group="billing") == shapes.Redriven(8, None)
    bodies = [body for _, _, _, body in server.admin.requests]
    assert bodies == [
        {"match": {"group": "billing"}},
        {"match": {"group": "billing", "after_id": 3}, "before_ms": 5000},
        {"match": {"group": "billing", "after_id": 6}, "before_ms": 5000},
    ]
    assert await admin.discard("orders", [9, 10, 11]) == 2
    assert await admin.redrive("orders") == shapes.Redriven(0, None)


async def test_a_redrive_that_is_stopped_says_by_what(server, admin):
    answer = b'{"redriven":4,"more":true,"after_id":4,"before_ms":1,"stopped":"topic_full"}'
    server.admin.faults = lambda _method, path: _raw(200, answer) if path.endswith("redrive") else None
    assert await admin.redrive("orders", reason="rejected") == shapes.Redriven(4, "topic_full")
    assert len(server.admin.requests) == 1


async def test_connections_are_listed_and_ended(server, admin):
    for id in ("n1.a", "n1.b", "n1.c"):
        server.admin.add_connection(id)
    assert [one["id"] async for one in admin.connections()] == ["n1.a", "n1.b", "n1.c"]
    await admin.kick("n1.b")
    with pytest.raises(NotFound):
        await admin.kick("n1.b")
    assert (await admin.stats())["topics"] == 1


async def test_tokens_are_revoked(server, admin):
    assert (await admin.revoke(jti="j1"))["jti"] == "j1"
    assert (await admin.revoke(subject="ann", issued_before_s=5))["issued_before_s"] == 5
    assert [one.get("jti", one.get("subject")) for one in await admin.revocations()] == ["j1", "ann"]
    assert await admin.backup("monday.db") == "backups/monday.db"


@pytest.mark.parametrize(
    "call",
    [
        lambda admin: admin.topic("a/b"),
        lambda admin: admin.delete_topic(".."),
        lambda admin: admin.group("orders", ""),
        lambda admin: admin.seek_group("orders", "billing", "latest"),
        lambda admin: admin.redrive("orders", []),
        lambda admin: admin.discard("orders", [1], group="billing"),
        lambda admin: admin.revoke(),
        lambda admin: admin.revoke(jti="j", subject="s"),
        lambda admin: admin.revoke(jti="j", issued_before_s=1),
    ],
)
async def test_what_is_no_request_is_not_sent(server, admin, call):
    with pytest.raises(ValueError):
        await call(admin)
    assert not server.admin.requests


# --- the page that both sides are built from -------------------------------------------------------------------

SHAPES = {
    "TopicConfig": shapes.TopicConfig,
    "TopicInfo": shapes.TopicInfo,
    "GroupInfo": shapes.GroupInfo,
    "MessageInfo": shapes.MessageInfo,
    "Peek": shapes.Peek,
    "History": shapes.History,
    "DeadLetterInfo": shapes.DeadLetterInfo,
    "ConnectionInfo": shapes.ConnectionInfo,
    "RevocationInfo": shapes.RevocationInfo,
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_documented_fields_are_those_of_the_types(name):
    (line,) = re.findall(rf"^\| \*\*{name}\*\* \| (.*) \|$", DOC.read_text(), re.MULTILINE)
    own = re.sub(r"\[\{.*?\}\]|\{.*?\}|\(.*?\)", "", line)
    documented = set(re.findall(r"`([a-z_0-9]+)`", own))
    assert documented == set(SHAPES[name].__annotations__)


async def test_every_documented_admin_route_is_one_that_the_client_calls(server, admin):
    server.admin.add_dead("orders", 2)
    server.admin.add_connection("c1")
    [topic async for topic in admin.topics()]
    await admin.configure_topic("orders", {})
    for call in (
        admin.topic("orders"), admin.create_topic("t2"), admin.purge_topic("orders"), admin.peek("orders"),
        admin.history("orders", 1), admin.groups("orders"), admin.group("orders", "billing"),
        admin.create_group("orders", "g2"), admin.pause_group("orders", "g2"), admin.resume_group("orders", "g2"),
        admin.seek_group("orders", "g2", "new"), admin.delete_group("orders", "g2"), admin.dead_letter("orders", 1),
        admin.redrive("orders", [1]), admin.discard("orders", [2]), admin.stats(), admin.revocations(),
        admin.revoke(jti="j"), admin.backup("b"), admin.kick("c1"), admin.delete_topic("t2"),
    ):  # fmt: skip
        await call
    [letter async for letter in admin.dead_letters("orders")]
    [connection async for connection in admin.connections()]
    documented = set(re.findall(r"^\| `(GET|PUT|PATCH|POST|DELETE) (/v1/admin/[^`]*)`", DOC.read_text(), re.MULTILINE))
    patterns = {(method, re.sub(r"\{\w+\}", "[^/]+", path)) for method, path in documented}
    called = {(method, path) for method, path, _, _ in server.admin.requests}

    def covers(pattern, call):
        return pattern[0] == call[0] and re.fullmatch(pattern[1], call[1]) is not None

    assert len(documented) >= 25
    assert [call for call in called if not any(covers(pattern, call) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(covers(pattern, call) for call in called)] == []


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(403, "forbidden", Forbidden), (404, "group_not_found", NotFound), (409, "conflict", Conflict),
     (507, "topic_full", pushwire.TopicFull), (501, "unsupported", AdminError), (500, "internal", AdminError)],
)  # fmt: skip
async def test_a_problem_becomes_its_error(server, admin, status, code, kind):
    def refuse(**_):
        raise Refused(status, code, "because")

    server.admin.get_stats = refuse
    with pytest.raises(kind, match="because") as caught:
        await admin.stats()
    assert type(caught.value) is kind
    assert caught.value.code == code


async def test_a_rate_limit_says_when_to_come_back(server, admin):
    def refuse(**_):
        raise Refused(429, "rate_limited", retry_after_ms=1500)

    server.admin.get_stats = refuse
    with pytest.raises(pushwire.RateLimited) as caught:
        await admin.stats()
    assert (caught.value.retryable, caught.value.retry_after_s) == (True, 1.5)


async def test_a_proxys_refusal_has_its_status_and_its_hint(server, admin):
    server.admin.faults = lambda *_: _raw("503 Busy", b"<html>", "Retry-After: 7")
    with pytest.raises(AdminError) as caught:
        await admin.stats()
    assert (caught.value.status, caught.value.retryable, caught.value.retry_after_s) == (503, True, 7.0)


async def test_a_token_function_is_asked_again_once(server):
    reasons = []

    def token(reason):
        reasons.append(reason)
        return "stale" if reason == "connect" else TOKEN

    async with Admin(server.url, token) as admin:
        assert await admin.purge_topic("orders") == 5
        await admin.stats()
    assert reasons == ["connect", "rejected"]
    assert [method for method, *_ in server.admin.requests] == ["POST", "POST", "GET"]


async def test_a_token_that_is_refused_twice_is_refused(server):
    async with Admin(server.url, lambda _reason: "stale") as admin:
        with pytest.raises(pushwire.Unauthorized):
            await admin.stats()
    assert len(server.admin.requests) == 2


async def test_a_fixed_token_is_not_tried_twice(server):
    async with Admin(server.url, "stale") as admin:
        with pytest.raises(pushwire.Unauthorized):
            await admin.stats()
    assert len(server.admin.requests) == 1


# --- connections -----------------------------------------------------------------------------------------------


async def test_a_connection_is_kept(server, admin):
    for _ in range(5):
        await admin.stats()
    assert server.admin.opened == 1
    await admin.close()
    await admin.stats()
    assert server.admin.opened == 2


async def test_requests_at_once_share_a_few_connections(server, admin):
    await asyncio.gather(*(admin.stats() for _ in range(20)))
    assert 1 <= server.admin.opened <= 4


async def test_a_connection_that_rested_long_is_not_used(server, admin):
    await admin.stats()
    admin._http._idle[0]._idle_since -= IDLE_S_MAX
    await admin.stats()
    assert server.admin.opened == 2


async def test_a_connection_dropped_while_it_rested_is_no_failure_of_a_read(server, admin):
    await admin.stats()
    drops = [b""]
    server.admin.faults = lambda *_: drops.pop() if drops else None
    assert (await admin.stats())["topics"] == 1
    assert len(server.admin.requests) == 3


async def test_a_write_is_not_sent_twice(server, admin):
    await admin.stats()
    server.admin.faults = lambda *_: b""
    with pytest.raises(AdminError) as caught:
        await admin.purge_topic("orders")
    assert (caught.value.code, caught.value.retryable) == ("unavailable", True)
    assert [method for method, *_ in server.admin.requests] == ["GET", "POST"]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", b"HTTP/1.1 200 OK\r\ncont"])
async def test_half_an_answer_is_not_asked_for_again(server, admin, answer):
    await admin.stats()
    server.admin.faults = lambda *_: answer
    with pytest.raises(AdminError) as caught:
        await admin.stats()
    assert caught.value.code == "unavailable"
    assert len(server.admin.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-x\r\n\r\n", _raw(200, b"<html>"), b"HTTP/1.1 200 OK\r\n\r\n", _raw("302 Found", b"", "Location: x"),
     b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
     b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
async def test_what_is_no_gateway_is_said_to_be_none(server, admin, answer):
    server.admin.faults = lambda *_: answer
    with pytest.raises(ProtocolError):
        await admin.stats()


async def test_a_proxy_may_send_in_chunks_and_say_continue(server, admin):
    server.admin.faults = lambda *_: (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'5;x=1\r\n{"at_\r\n7\r\nms": 1}\r\n0\r\nTrailer: x\r\n\r\n'
    )
    assert await admin.stats() == {"at_ms": 1}


async def test_nobody_there():
    with admin_server() as server:
        url = server.url
    with pytest.raises(NotConnected):
        await Admin(url, TOKEN).stats()


async def test_a_request_that_takes_too_long(server):
    slow = threading.Event()
    server.admin.get_stats = lambda **_: (200, {"waited": slow.wait(5)})
    async with Admin(server.url, TOKEN, timeout_s=0.05) as admin:
        with pytest.raises(pushwire.RequestTimeout):
            await admin.stats()
        slow.set()
        assert await admin.stats() == {"waited": True}
        assert server.admin.opened == 2


def test_the_address_of_the_api_is_that_of_the_socket():
    from pushwire.address import http_address

    assert http_address("wss://push.example.org")[:3] == ("push.example.org", 443, True)
    assert http_address("ws://[::1]:8080/v1/ws")[:4] == ("::1", 8080, False, "[::1]:8080")
    assert http_address("https://example.org/push/").prefix == "/push"
    with pytest.raises(ValueError):
        http_address("ftp://example.org")
