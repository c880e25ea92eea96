"""Publishing over HTTP as curl would: single and batch, what is refused and how, and TLS."""

from __future__ import annotations

import base64
import ssl

import pytest
import trustme

from support import http_client
from support.http_client import Response, request_bytes
from support.ws_client import WsClient

PATH = "/v1/topics/orders/messages"


def _check_problem(response: Response, status: int, code: str, *, retryable: bool = False) -> None:
    body = response.json()
    assert (response.status, body["status"], body["code"]) == (status, status, code), response
    assert response.headers["content-type"] == "application/problem+json"
    assert body["type"] == f"urn:pushwire:error:{code}"
    assert body["retryable"] is retryable
    assert body["title"]


async def test_one_message_is_stored_and_pushed(gateway):
    token = gateway.token()
    body = {"data": {"order": 17}, "id": "a-1", "key": "k", "priority": 2, "headers": {"traceparent": "00-1"}}
    first = await http_client.request(gateway.port, "POST", PATH, body, token=token)
    again = await http_client.request(gateway.port, "POST", PATH, body, token=token)
    assert (first.status, first.json()) == (200, {"receipts": [{"id": "a-1", "seq": 1, "duplicate": False}]})
    assert (again.status, again.json()) == (200, {"receipts": [{"id": "a-1", "seq": 1, "duplicate": True}]})
    assert first.headers["content-type"] == "application/json"
    consumer = await WsClient.open(gateway.port, token)
    await consumer.subscribe("orders")
    (row,) = await consumer.take(1)
    assert (row["data"], row["key"], row["priority"], row["headers"]) == (
        {"order": 17},
        "k",
        2,
        {"traceparent": "00-1"},
    )
    consumer.abort()


async def test_a_batch_is_stored_whole_and_in_order(gateway):
    token = gateway.token()
    rows = [{"data": 1}, {"data_text": "two"}, {"data_b64": base64.b64encode(b"\0three").decode()}, {"data": None}]
    response = await http_client.request(gateway.port, "POST", PATH, {"messages": rows}, token=token)
    receipts = response.json()["receipts"]
    assert [receipt["duplicate"] for receipt in receipts] == [False] * 4
    seqs = [receipt["seq"] for receipt in receipts]
    assert seqs == sorted(set(seqs))
    consumer = await WsClient.open(gateway.port, token)
    await consumer.subscribe("orders")
    got = await consumer.take(4)
    assert [row["seq"] for row in got] == seqs
    assert (got[0]["data"], got[1]["data_text"], got[3]["data"]) == (1, "two", None)
    assert base64.b64decode(got[2]["data_b64"]) == b"\0three"
    consumer.abort()


async def test_refusals_are_problems_with_the_codes_of_the_socket(gateway):
    token = gateway.token()
    reader = gateway.token("reader", ["consume:orders"])
    stranger = gateway.token("stranger", ["publish:orders"])
    ask = http_client.request
    port = gateway.port
    _check_problem(await ask(port, "POST", PATH, {"data": 1}), 401, "unauthorized")
    _check_problem(await ask(port, "POST", PATH, {"data": 1}, token=token[:-4] + "AAAA"), 401, "unauthorized")
    _check_problem(await ask(port, "POST", PATH, {"data": 1}, token=reader), 403, "forbidden")
    _check_problem(await ask(port, "POST", PATH, {"data": 1}, token=stranger), 404, "topic_not_found")
    _check_problem(await ask(port, "POST", PATH, b'{"data":', token=token), 400, "bad_request")
    _check_problem(await ask(port, "POST", PATH, b"[1]", token=token), 400, "bad_request")
    _check_problem(await ask(port, "POST", PATH, {"nothing": 1}, token=token), 400, "bad_request")
    _check_problem(await ask(port, "POST", PATH, {"data": 2**60}, token=token), 400, "bad_request")
    _check_problem(await ask(port, "POST", PATH, {"data": 1, "delay_ms": -5}, token=token), 400, "bad_request")
    _check_problem(await ask(port, "POST", PATH, {"data": "x" * 70_000}, token=token), 413, "message_too_large")
    batch = {"messages": [{"data": 1}] * 101}
    _check_problem(await ask(port, "POST", PATH, batch, token=token), 413, "batch_too_large")
    wild = "/v1/topics/or*ders/messages"
    _check_problem(await ask(port, "POST", wild, {"data": 1}, token=token), 400, "bad_topic")
    _check_problem(await ask(port, "GET", PATH, token=token), 405, "method_not_allowed")
    _check_problem(await ask(port, "GET", "/nothing/here"), 404, "not_found")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    _check_problem(await ask(port, "POST", PATH, b"a=1", token=token, headers=form), 415, "unsupported_media_type")
    # Nothing of all that was stored.
    stored = await ask(port, "POST", PATH, {"data": "first"}, token=token)
    assert stored.json()["receipts"][0]["seq"] == 1


async def test_an_id_with_other_content_is_a_conflict(gateway):
    token = gateway.token()
    await http_client.request(gateway.port, "POST", PATH, {"id": "a", "data": 1}, token=token)
    response = await http_client.request(gateway.port, "POST", PATH, {"id": "a", "data": 2}, token=token)
    _check_problem(response, 409, "id_conflict")


async def test_too_fast_is_429_with_retry_after_and_stores_nothing(make_gateway):
    gateway = make_gateway(settings={"publish_per_s": "1", "publish_burst": "5"})
    token = gateway.token()
    fit = await http_client.request(gateway.port, "POST", PATH, {"messages": [{"data": 1}] * 5}, token=token)
    assert fit.status == 200
    refused = await http_client.request(gateway.port, "POST", PATH, {"messages": [{"data": 1}] * 3}, token=token)
    _check_problem(refused, 429, "rate_limited", retryable=True)
    wait_ms = refused.json()["retry_after_ms"]
    assert 0 < wait_ms <= 3000
    assert int(refused.headers["retry-after"]) == -(-wait_ms // 1000)
    # Larger than its own burst: no wait can help.
    never = await http_client.request(gateway.port, "POST", PATH, {"messages": [{"data": 1}] * 6}, token=token)
    assert (never.status, never.json()["retryable"]) == (413, False)
    consumer = await WsClient.open(gateway.port, token)
    await consumer.subscribe("orders")
    assert [row["seq"] for row in await consumer.take(5)] == [1, 2, 3, 4, 5]
    assert consumer.deliveries.empty()
    consumer.abort()


async def test_a_connection_serves_request_after_request(gateway):
    token = gateway.token()
    client = await http_client.HttpClient.connect(gateway.port)
    seqs = [
        (await client.request("POST", PATH, {"data": n}, token=token)).json()["receipts"][0]["seq"] for n in range(3)
    ]
    assert seqs == [1, 2, 3]
    # Two at once, answered in order.
    await client.send(request_bytes("POST", PATH, b'{"data":4}', token=token) + request_bytes("GET", "/livez"))
    assert (await client.response()).json()["receipts"][0]["seq"] == 4
    assert (await client.response()).json() == {"status": "ok"}
    client.close()


async def test_alive_and_ready(gateway):
    assert (await http_client.request(gateway.port, "GET", "/livez")).status == 200
    ready = await http_client.request(gateway.port, "GET", "/readyz")
    assert (ready.status, ready.json()["status"]) == (200, "ok")
    assert "SQLite" in ready.json()["store"]


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


async def test_tls_for_requests_and_sockets(make_gateway, authority, tmp_path):
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o600)
    gateway = make_gateway(
        settings={"tls_cert_file": str(tmp_path / "cert.pem"), "tls_key_file": str(tmp_path / "key.pem")}
    )
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    token = gateway.token()
    stored = await http_client.request(gateway.port, "POST", PATH, {"data": 1}, token=token, tls=trusting)
    assert stored.status == 200
    consumer = await WsClient.open(gateway.port, token, tls=trusting)
    await consumer.subscribe("orders")
    assert (await consumer.take(1))[0]["data"] == 1
    consumer.abort()
    # Plain text on this port gets nothing.
    plain = await http_client.HttpClient.connect(gateway.port)
    await plain.send(request_bytes("GET", "/livez"))
    assert await plain.nothing_or_end(within_s=0.5)
    plain.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await http_client.request(gateway.port, "GET", "/livez", tls=ssl.create_default_context())
