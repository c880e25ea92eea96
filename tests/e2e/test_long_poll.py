"""Long polls over real sockets: leases that cross transports, clients that go, and a thousand that wait."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from support import http_client
from support.gateway_process import GENEROUS, GatewayProcess
from support.http_client import HttpClient, Response, request_bytes
from support.ws_client import WsClient

PATH = "/v1/topics/orders/groups/workers/messages"
PUBLISH = "/v1/topics/orders/messages"


async def publish(gateway: GatewayProcess, *bodies: object) -> None:
    messages = {"messages": [{"data": body} for body in bodies]}
    response = await http_client.request(gateway.port, "POST", PUBLISH, messages, token=gateway.token("producer"))
    assert response.status == 200, response


def poll(token: str, session: str | None = None, **query: object) -> bytes:
    path = PATH + "?" + "&".join(f"{name}={value}" for name, value in query.items())
    return request_bytes("GET", path, token=token, headers={"Pushwire-Session": session} if session else None)


def messages(response: Response) -> list[dict]:
    assert response.status == 200, response
    return response.json()["messages"]


async def begin(gateway: GatewayProcess, token: str) -> tuple[HttpClient, str]:
    """A client whose session exists, and so does its group."""
    client = await HttpClient.connect(gateway.port)
    await client.send(poll(token))
    response = await client.response()
    assert messages(response) == []
    return client, response.headers["pushwire-session"]


async def test_one_poll_one_message_one_ack(gateway):
    token = gateway.token("ann")
    client, session = await begin(gateway, token)
    await client.send(poll(token, session, wait=10))
    await publish(gateway, {"n": 1})
    (row,) = messages(await client.response())
    assert (row["data"], row["attempt"]) == ({"n": 1}, 1)
    headers = {"Pushwire-Session": session}
    acked = await client.request("POST", "/v1/leases/ack", {"leases": [row["lease"]]}, token=token, headers=headers)
    assert acked.json() == {"settled": 1, "stale": []}
    again = await client.request("POST", "/v1/leases/ack", {"leases": [row["lease"]]}, token=token, headers=headers)
    assert again.json() == {"settled": 0, "stale": [row["lease"]]}
    client.close()


async def test_a_backlog_is_polled_to_its_end_without_a_wait(gateway):
    await publish(gateway, *range(100))
    token = gateway.token("ann")
    client, session = await HttpClient.connect(gateway.port), None
    got: list[int] = []
    while len(got) < 100:
        await client.send(poll(token, session, max=30))
        response = await client.response()
        session = response.headers["pushwire-session"]
        rows = messages(response)
        assert rows
        assert len(rows) <= 30
        got += [row["data"] for row in rows]
    assert got == list(range(100))
    client.close()


async def test_leases_cross_from_the_socket_to_http_and_back(gateway):
    token = gateway.token("ann")
    socket = await WsClient.open(gateway.port, token)
    await socket.subscribe("orders", group="workers", prefetch=1)
    await publish(gateway, 1, 2, 3)
    (one,) = await socket.take(1)
    session = socket.welcome["session"]
    client = await HttpClient.connect(gateway.port)
    headers = {"Pushwire-Session": session}
    acked = await client.request("POST", "/v1/leases/ack", {"leases": [one["lease"]]}, token=token, headers=headers)
    assert acked.json() == {"settled": 1, "stale": []}
    (two,) = await socket.take(1)
    await client.send(poll(token, session, max=1))
    response = await client.response()
    (three,) = messages(response)
    assert (two["data"], three["data"], response.headers["pushwire-session"]) == (2, 3, session)
    assert await socket.close_code() == 4409
    back = await WsClient.open(gateway.port, token)
    ok = await back.ok({"op": "auth", "token": token, "session": session})
    assert ok["resumed"] is True
    assert sorted(lease for leases in ok["subs"].values() for lease in leases) == sorted([two["lease"], three["lease"]])
    assert (await back.ok({"op": "ack", "leases": [two["lease"], three["lease"]]}))["op"] == "ok"
    back.abort()
    client.close()


async def test_a_client_that_asks_no_more_is_gone_after_its_ack_timeout(gateway):
    ann, bob = gateway.token("ann"), gateway.token("bob")
    client, session = await begin(gateway, ann)
    await publish(gateway, 1, 2, 3)
    await client.send(poll(ann, session, ack_timeout=1, wait=5))
    assert [row["data"] for row in messages(await client.response())] == [1, 2, 3]
    given = time.monotonic()
    other = await WsClient.open(gateway.port, bob)
    await other.subscribe("orders", group="workers")
    rows = await other.take(3)
    waited_s = rows[0]["at"] - given
    assert [(row["data"], row["attempt"]) for row in rows] == [(1, 2), (2, 2), (3, 2)]
    assert 0.9 < waited_s < 3, waited_s  # its end, at once: a timeout would be followed by a back-off each
    assert rows[2]["at"] - rows[0]["at"] < 0.2
    client.close()
    other.abort()


@pytest.mark.parametrize("how", ["while it waits", "with the message"])
async def test_a_request_whose_client_is_gone_loses_nothing(gateway, how):
    ann, bob = gateway.token("ann"), gateway.token("bob")
    client, session = await begin(gateway, ann)
    await client.send(poll(ann, session, wait=30))
    other = await WsClient.open(gateway.port, bob)
    if how == "while it waits":
        client.close()
        await other.subscribe("orders", group="workers")
        await publish(gateway, 1)
        (row,) = await other.take(1)
        assert row["attempt"] == 1
    else:
        # The answer crosses the reset: it may be given back, or die with the session. Nothing else may happen to it.
        producer = await HttpClient.connect(gateway.port)
        await producer.send(request_bytes("POST", PUBLISH, b'{"data":1}', token=gateway.token("producer")))
        client.close()
        await producer.response()
        await other.subscribe("orders", group="workers")
        ended = request_bytes("POST", "/v1/leases/ack", b'{"leases":["x"]}', token=ann)
        await producer.send(ended)  # without the session: refused, and keeps nothing alive
        assert (await producer.response()).status == 400
        (row,) = await other.take(1, timeout_s=40)
        producer.close()
    assert row["data"] == 1
    other.abort()


async def test_a_drain_answers_who_waits(make_gateway):
    gateway = make_gateway()
    token = gateway.token("ann")
    client, session = await begin(gateway, token)
    await client.send(poll(token, session, wait=30))
    probe = await http_client.request(gateway.port, "GET", "/livez")  # the poll came before
    assert probe.status == 200
    exit_code = asyncio.create_task(asyncio.to_thread(gateway.terminate))
    response = await client.response()
    assert (response.status, response.json()["code"], response.json()["retryable"]) == (503, "going_away", True)
    assert await exit_code == 0
    client.close()


def cpu_s(pid: int) -> float:
    """Processor time of a process (proc(5): stat, utime and stime in ticks of 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.serial
async def test_a_thousand_waiting_polls_cost_little_and_each_message_goes_to_one(make_gateway):
    count = 1000
    gateway = make_gateway(
        settings={**GENEROUS, "polls_per_subject": "2000", "poll_sessions_per_subject": "2000", "log_level": "info"}
    )
    token = gateway.token("ann")
    first, _ = await begin(gateway, token)
    before_kib = gateway.memory_kib()
    clients = []
    for _ in range(count):
        client = await HttpClient.connect(gateway.port)
        await client.send(poll(token, wait=30, max=1))
        clients.append(client)
    assert (await first.request("GET", "/livez")).status == 200
    used_s, began = cpu_s(gateway.pid), time.monotonic()
    with pytest.raises(TimeoutError):
        await clients[0].response(timeout_s=3)
    idle = (cpu_s(gateway.pid) - used_s) / (time.monotonic() - began)
    each_kib = (gateway.memory_kib() - before_kib) / count
    print(f"\n{each_kib:.1f} KiB each, {100 * idle:.1f} % of one core while {count} wait")
    assert each_kib < 100, each_kib
    assert idle < 0.1, idle
    for begin_at in range(0, count, 100):
        await publish(gateway, *range(begin_at, begin_at + 100))
    answers = [await client.response() for client in clients]
    got = [row["data"] for answer in answers for row in messages(answer)]
    assert sorted(got) == list(range(count))
    assert len({answer.headers["pushwire-session"] for answer in answers}) == count
    for client in (first, *clients):
        client.close()
