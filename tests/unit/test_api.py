"""The HTTP API: publishing with receipts, problems with the socket's codes, health."""

from __future__ import annotations

import asyncio
import base64
import logging

import httpx
import pytest

from pushwire.wire.codec import dumps
from pushwire.wire.codes import ERRORS
from pushwire_gateway.api import make_app
from pushwire_gateway.auth import UnknownKey
from pushwire_gateway.problems import raw_response
from pushwire_gateway.refusal import Refusal
from pushwire_gateway.rights import Principal
from pushwire_gateway.settings import load
from support.port import SmallGateway, SteppedClock, open_port

PATH = "/v1/topics/orders/messages"


@pytest.fixture
def gateway() -> SmallGateway:
    return SmallGateway(load(http_batch_max=3), SteppedClock())


@pytest.fixture
async def client(gateway):
    transport = httpx.ASGITransport(make_app(gateway), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {gateway.token('ann')}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test", headers=headers) as client:
        yield client


def check_problem(response: httpx.Response, status: int, code: str) -> dict:
    """Check the shape of a problem document; returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:pushwire:error:{code}"
    assert body["title"] == ERRORS[code].message
    assert type(body["retryable"]) is bool
    return body


# --- publishing


async def test_one_message_with_everything(client, gateway):
    response = await client.post(
        PATH,
        json={
            "data": {"id": 7, "text": "ä"},
            "id": "m-1",
            "key": "order-7",
            "priority": 3,
            "headers": {"traceparent": "00-a-b-01"},
            "content_type": "application/vnd.order+json",
            "topic": "elsewhere",
            "unknown": True,
        },
    )
    assert response.status_code == 200
    assert response.json() == {"receipts": [{"id": "m-1", "seq": 1, "duplicate": False}]}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    ((subject, topic, (message,), size_bytes),) = gateway.published
    assert (subject, topic) == ("ann", "orders")
    assert size_bytes == len(response.request.content)
    assert (message.id, message.data) == ("m-1", '{"id":7,"text":"ä"}'.encode())
    assert (message.key, message.priority) == ("order-7", 3)
    assert message.headers == b'{"traceparent":"00-a-b-01"}'
    assert message.content_type == "application/vnd.order+json"


@pytest.mark.parametrize(
    ("field", "value", "attribute", "stored"),
    [("key", "k", "key", "k"), ("priority", 3, "priority", 3), ("headers", {"a": "b"}, "headers", b'{"a":"b"}')],
)
async def test_one_field_beside_id_and_data_counts(field, value, attribute, stored, client, gateway):
    assert (await client.post(PATH, json={"data": 1, "id": "m-1", field: value})).status_code == 200
    (message,) = gateway.published[0][2]
    assert getattr(message, attribute) == stored


async def test_a_batch_has_a_receipt_each_in_order(client, gateway):
    binary = base64.b64encode(b"\x00\xff").decode()
    messages = [{"data": 1}, {"id": "b", "data_text": "two"}, {"data_b64": binary}]
    response = await client.post(PATH, json={"messages": messages})
    assert response.json() == {
        "receipts": [
            {"id": "made-1", "seq": 1, "duplicate": False},
            {"id": "b", "seq": 2, "duplicate": False},
            {"id": "made-3", "seq": 3, "duplicate": False},
        ]
    }
    assert [message.data for message in gateway.published[0][2]] == [b"1", b"two", b"\x00\xff"]


async def test_the_answer_comes_after_the_commit_and_tells_a_duplicate(client, gateway):
    gateway.held = []
    answering = asyncio.create_task(client.post(PATH, json={"data": 1, "id": "m"}))
    await gateway.was_published.wait()
    assert not answering.done()
    gateway.published[0][2][0].duplicate = True
    gateway.held[0](None)
    assert (await answering).json() == {"receipts": [{"id": "m", "seq": 1, "duplicate": True}]}


async def test_a_commit_that_failed_is_its_problem(client, gateway):
    gateway.held = []
    answering = asyncio.create_task(client.post(PATH, json={"data": 1}))
    await gateway.was_published.wait()
    gateway.held[0](Refusal("id_conflict", "m"))
    body = check_problem(await answering, 409, "id_conflict")
    assert (body["retryable"], body["detail"]) == (False, "m")


@pytest.mark.parametrize("code", sorted(ERRORS))
async def test_every_code_of_the_socket_has_its_status(code, client, gateway):
    gateway.answer = Refusal(code, "why", retry_after_ms=1001)
    response = await client.post(PATH, json={"data": 1})
    body = check_problem(response, ERRORS[code].http_status, code)
    assert (body["retryable"], body["retry_after_ms"], body["detail"]) == (ERRORS[code].retryable, 1001, "why")
    assert response.headers["retry-after"] == "2"
    assert ("www-authenticate" in response.headers) is (code == "unauthorized")


async def test_a_refusal_that_is_final_says_so(client, gateway):
    gateway.answer = Refusal("rate_limited", final=True)
    response = await client.post(PATH, json={"data": 1})
    assert check_problem(response, 429, "rate_limited")["retryable"] is False
    assert "retry-after" not in response.headers


BAD_BODIES = {
    "empty": (b"", "bad_request", 400),
    "no json": (b"{data:1}", "bad_request", 400),
    "no utf-8": (b'{"data":"\xff"}', "bad_request", 400),
    "an array": (b"[]", "bad_request", 400),
    "a bare value": (b'"hello"', "bad_request", 400),
    "no envelope": (b'{"hi":1}', "bad_request", 400),
    "two bodies": (b'{"data":1,"data_text":"1"}', "bad_request", 400),
    "bad base64": (b'{"data_b64":"*"}', "bad_request", 400),
    "integer beyond 2^53": (b'{"data":9007199254740993}', "bad_request", 400),
    "integer beyond 2^64": (b'{"data":123456789012345678901234567890}', "bad_request", 400),
    "deep": (b'{"data":' + b"[" * 5000 + b"]" * 5000 + b"}", "bad_request", 400),
    "bad id": (b'{"data":1,"id":"a b"}', "bad_request", 400),
    "bad priority": (b'{"data":1,"priority":4}', "bad_request", 400),
    "bad headers": (b'{"data":1,"headers":{"a":1}}', "bad_request", 400),
    "bad delay": (b'{"data":1,"delay_ms":-5}', "bad_request", 400),
    "no messages": (b'{"messages":[]}', "bad_request", 400),
    "messages no list": (b'{"messages":{"data":1}}', "bad_request", 400),
    "one bad message": (b'{"messages":[{"data":1},{}]}', "bad_request", 400),
    "too many messages": (b'{"messages":[{"data":1},{"data":1},{"data":1},{"data":1}]}', "batch_too_large", 413),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_bad_body_publishes_nothing(name, client, gateway):
    body, code, status = BAD_BODIES[name]
    response = await client.post(PATH, content=body, headers={"content-type": "application/json"})
    problem = check_problem(response, status, code)
    assert problem["retryable"] is False
    assert gateway.published == []


async def test_a_message_that_is_wrong_is_named(client):
    response = await client.post(PATH, json={"messages": [{"data": 1}, {"data": 1, "priority": 9}]})
    assert check_problem(response, 400, "bad_request")["detail"].startswith("messages[1].priority ")


@pytest.mark.parametrize("topic", ["a%20b", "a*", "x" * 256, "%C3%A4", "a%00b", "%0d%0aX:1"])
async def test_a_bad_topic(topic, client, gateway):
    response = await client.post(f"/v1/topics/{topic}/messages", json={"data": 1})
    check_problem(response, 400, "bad_topic")
    assert gateway.published == []


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/json; charset=utf-16",
        "multipart/form-data; boundary=x",
    ],
)
async def test_only_json_is_taken(content_type, client, gateway):
    headers = {} if content_type is None else {"content-type": content_type}
    response = await client.post(PATH, content=b'{"data":1}', headers=headers)
    assert "application/json" in check_problem(response, 415, "unsupported_media_type")["detail"]
    assert gateway.published == []


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", 'APPLICATION/JSON;charset="UTF-8"', "application/json ;"]
)
async def test_json_by_other_spellings(content_type, client):
    response = await client.post(PATH, content=b'{"data":1}', headers={"content-type": content_type})
    assert response.status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x"])
async def test_a_compressed_body_is_refused_unread(coding, client, gateway):
    headers = {"content-type": "application/json", "content-encoding": coding}
    response = await client.post(PATH, content=b'{"data":1}', headers=headers)
    check_problem(response, 415, "unsupported_media_type")
    assert gateway.published == []


async def test_a_body_that_is_too_large_where_no_port_stands_before_us(client):
    response = await client.post(PATH, json={"data": "x" * 1024 * 1050})
    assert "1064960" in check_problem(response, 413, "message_too_large")["detail"]


# --- who may


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer x.y.z", "Basic YTpi", "bearer"])
async def test_without_a_good_token_nothing_is_said_but_that(authorization, client, gateway):
    client.headers.pop("authorization")
    headers = {} if authorization is None else {"authorization": authorization}
    response = await client.post(PATH, json={"data": 1}, headers=headers)
    assert "detail" not in check_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert gateway.published == []


async def test_an_expired_token(client, gateway):
    gateway.clock.step(900 + 31)
    check_problem(await client.post(PATH, json={"data": 1}), 401, "unauthorized")


async def test_two_authorization_headers_and_tokens_elsewhere_are_refused(client, gateway):
    token = gateway.token()
    twice = [("authorization", f"Bearer {token}")] * 2
    check_problem(await client.post(PATH, json={"data": 1}, headers=twice), 401, "unauthorized")
    client.headers.pop("authorization")
    elsewhere = {"sec-websocket-protocol": f"bearer.{token}"}
    check_problem(await client.post(f"{PATH}?token={token}", json={"data": 1}, headers=elsewhere), 401, "unauthorized")


async def test_the_token_is_looked_at_before_the_body(client):
    client.headers["authorization"] = "Bearer x.y.z"
    check_problem(await client.post(PATH, content=b"\x00", headers={"content-encoding": "gzip"}), 401, "unauthorized")


# --- other addresses


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/topics/orders", f"{PATH}/", "/v2/ws", "/livez/", "//livez"])
async def test_unknown_paths(path, client):
    response = await client.get(f"http://gateway.test{path}")
    check_problem(response, 404, "not_found")
    assert "location" not in response.headers


@pytest.mark.parametrize(("method", "path"), [("GET", PATH), ("DELETE", PATH), ("POST", "/livez"), ("PUT", "/readyz")])
async def test_wrong_methods(method, path, client):
    response = await client.request(method, path)
    check_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"]


async def test_the_websockets_address_without_an_upgrade(client):
    response = await client.get("/v1/ws")
    assert response.status_code == 426
    assert response.headers["upgrade"] == "websocket"
    assert response.json()["code"] == "bad_request"


async def test_livez_asks_nobody(client, gateway):
    gateway.ready = lambda: 1 / 0
    response = await client.get("/livez")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert (await client.head("/livez")).status_code == 200


async def test_readyz(client, gateway):
    response = await client.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ok", "store": "3.53.4"})
    gateway.draining = True
    assert (await client.get("/readyz")).status_code == 503
    gateway.draining = False
    gateway.ready = lambda: {"status": "broken"}
    response = await client.get("/readyz")
    assert (response.status_code, response.json()) == (503, {"status": "broken"})


async def test_a_bug_of_ours_says_nothing_of_itself(client, gateway):
    gateway.publish = lambda *_: 1 / 0
    response = await client.post(PATH, json={"data": 1})
    body = check_problem(response, 500, "internal")
    assert body["retryable"] is True
    assert "division" not in response.text


# --- over a socket


def request(body: bytes, token: str, path: str = PATH) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def test_pipelined_publishes_are_stored_and_answered_in_order():
    async with open_port() as port, await port.client() as client:
        token = port.gateway.token()
        await client.send(b"".join(request(dumps({"data": n, "id": f"m{n}"}), token) for n in range(8)))
        for n in range(8):
            status, _, body = await client.response()
            assert (status, body["receipts"][0]["id"]) == (200, f"m{n}")
        assert [messages[0].data for _, _, messages, _ in port.gateway.published] == [b"%d" % n for n in range(8)]


async def test_a_chunked_publish():
    async with open_port() as port, await port.client() as client:
        head, _, body = request(b'{"data":1}', port.gateway.token()).partition(b"\r\n\r\n")
        head = head.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked")
        await client.send(head + b"\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert (await client.response())[0] == 200


async def test_a_client_that_goes_away_does_not_take_its_publish_with_it(caplog):
    async with open_port() as port:
        port.gateway.held = []
        client = await port.client()
        await client.send(request(b'{"data":1}', port.gateway.token()))
        await port.gateway.was_published.wait()
        client.reset()
        await port.until_alone()
        port.gateway.held[0](None)  # the commit comes; nobody is there to be told, and nothing breaks
        async with await port.client() as other:
            await other.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await other.response())[0] == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_client_that_goes_away_inside_its_body_publishes_nothing(caplog):
    async with open_port() as port:
        client = await port.client()
        await client.send(request(b'{"data":1}', port.gateway.token())[:-1])
        async with await port.client() as other:
            await other.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await other.response())[0] == 200
        client.reset()
        await port.until_alone()
        assert port.gateway.published == []
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_raw_refusal_is_a_whole_response():
    head, _, body = raw_response(Refusal("rate_limited", retry_after_ms=1), extra={"X-More": "1"}).partition(
        b"\r\n\r\n"
    )
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 429 Too Many Requests"
    assert {"retry-after: 1", "connection: close", f"content-length: {len(body)}", "X-More: 1"} <= set(lines)
    assert raw_response(Refusal("bad_request"), 431).startswith(b"HTTP/1.1 431 ")


async def test_a_key_published_a_moment_ago_is_asked_for(client, gateway, monkeypatch):
    good = gateway.verifier.verify

    def unknown(_token: str | bytes, _now: float) -> Principal:
        raise UnknownKey("new")

    async def asked(token: str | bytes, now: float) -> Principal:
        return good(token, now)

    monkeypatch.setattr(gateway.verifier, "verify", unknown)
    check_problem(await client.post(PATH, json={"data": 1}), 401, "unauthorized")  # nobody is there to be asked
    monkeypatch.setattr(gateway.verifier, "verify_token", asked)
    assert (await client.post(PATH, json={"data": 1})).status_code == 200
