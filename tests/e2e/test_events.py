"""Event streams and tickets over real sockets."""

from __future__ import annotations

import asyncio
import time

from support import http_client
from support.event_client import EventClient
from support.gateway_process import GENEROUS, GatewayProcess
from support.http_client import HttpClient, request_bytes

PATH = "/v1/topics/prices/tail"
PUBLISH = "/v1/topics/prices/messages"
READ = ("replay:*",)


async def publish(gateway: GatewayProcess, *bodies: object) -> None:
    messages = {"messages": [{"data": body} for body in bodies]}
    response = await http_client.request(gateway.port, "POST", PUBLISH, messages, token=gateway.token("producer"))
    assert response.status == 200, response


async def test_a_stream_that_is_cut_again_and_again_shows_every_seq_once(gateway):
    await publish(gateway, 0)
    token = gateway.token("ann", READ)
    stop, seen, last = asyncio.Event(), [], "earliest"

    async def produce() -> None:
        number = 1
        while not stop.is_set():
            await publish(gateway, *range(number, number + 5))
            number += 5

    producing = asyncio.create_task(produce())
    headers: dict[str, str] = {}
    for _ in range(15):
        stream = await EventClient.open(gateway.port, f"{PATH}?from=earliest", token, headers)
        assert stream.status == 200
        events = await stream.events(7)
        stream.close()
        seen += [data["seq"] for _, _, data in events]
        last = events[-1][1]
        headers = {"Last-Event-ID": last}
    stop.set()
    await producing
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= 105


async def test_one_that_stops_reading_is_gone_within_7_s_and_another_does_not_care(make_gateway):
    gateway = make_gateway(settings={**GENEROUS})
    await publish(gateway, 0)
    slow = await EventClient.open(gateway.port, PATH, gateway.token("slow", READ), receive_bytes=8192)
    quick = await EventClient.open(gateway.port, PATH, gateway.token("quick", READ))
    for number in range(100):
        await publish(gateway, *[f"{number} " + "x" * 10_000] * 10)
    events = await quick.events(1000)
    assert [data["seq"] for _, _, data in events] == list(range(2, 1002))
    before, began = gateway.sockets(), time.monotonic()
    while gateway.sockets() >= before and time.monotonic() - began < 10:  # noqa: ASYNC110 - the other process tells nobody
        await asyncio.sleep(0.1)
    assert time.monotonic() - began < 7
    assert await slow.cut()
    slow.close()
    quick.close()


async def test_a_ticket_is_good_once_of_100_uses_at_the_same_time(make_gateway):
    gateway = make_gateway(settings={**GENEROUS, "streams_per_subject": "1000"})
    await publish(gateway, 0)
    token = gateway.token("ann", READ)
    clients = [await HttpClient.connect(gateway.port) for _ in range(100)]
    for _ in range(3):
        made = await http_client.request(gateway.port, "POST", "/v1/tickets", token=token)
        assert made.status == 201
        path = f"{PATH}?ticket={made.json()['ticket']}"
        streams = await asyncio.gather(*[EventClient.open(gateway.port, path) for _ in clients])
        assert sorted(stream.status for stream in streams) == [200] + [401] * 99
        for stream in streams:
            stream.close()
    for client in clients:
        client.close()


async def test_a_drain_ends_a_stream_in_good_order(make_gateway):
    gateway = make_gateway()
    await publish(gateway, 0)
    stream = await EventClient.open(gateway.port, f"{PATH}?from=earliest", gateway.token("ann", READ))
    await stream.events(1)
    exit_code = asyncio.create_task(asyncio.to_thread(gateway.terminate))
    (_, (kind, _, data)) = await stream.end()
    assert (kind, data["code"]) == ("end", "going_away")
    assert await exit_code == 0
    stream.close()


async def test_a_page_of_an_allowed_origin_may_read_and_a_foreign_one_does_nothing(make_gateway):
    gateway = make_gateway(settings={"origins": '["https://app.example"]'})
    token = gateway.token()
    client = await HttpClient.connect(gateway.port)
    foreign = {"Origin": "https://evil.example"}
    refused = await client.request("POST", PUBLISH, {"data": 1}, token=token, headers=foreign)
    assert (refused.status, refused.json()["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in refused.headers
    own = {"Origin": "https://app.example"}
    stored = await client.request("POST", PUBLISH, {"data": 1}, token=token, headers=own)
    assert stored.json()["receipts"][0]["seq"] == 1  # the foreign one was not stored
    assert stored.headers["access-control-allow-origin"] == "https://app.example"
    asked = {**own, "Access-Control-Request-Method": "POST"}
    await client.send(request_bytes("OPTIONS", PUBLISH, headers=asked))
    preflight = await client.response()
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (204, "https://app.example")
    client.close()


async def test_a_revoked_token_ends_its_poll_and_its_stream_and_gives_back_its_leases(gateway):
    await publish(gateway, 0)
    token = gateway.token("ann", ("replay:*", "consume:*@*", "create:*@*"))
    stream = await EventClient.open(gateway.port, PATH, token)
    poller, pull = await HttpClient.connect(gateway.port), "/v1/topics/prices/groups/g/messages"
    taken = await poller.request("GET", pull, token=token)
    (row,) = taken.json()["messages"]
    session = {"Pushwire-Session": taken.headers["pushwire-session"]}
    await poller.send(request_bytes("GET", f"{pull}?wait=30", token=token, headers=session))
    assert (await http_client.request(gateway.port, "GET", "/livez")).status == 200  # the poll came before
    began, admin = time.monotonic(), gateway.token("admin", ("admin:*",))
    revoked = await http_client.request(gateway.port, "POST", "/v1/admin/revocations", {"subject": "ann"}, token=admin)
    assert revoked.status == 201, revoked
    refused = await poller.response()
    assert (refused.status, refused.json()["code"]) == (401, "unauthorized")
    ((kind, _, data),) = await stream.end()
    assert (kind, data["code"]) == ("end", "unauthorized")
    assert time.monotonic() - began < 5
    again = await http_client.request(gateway.port, "GET", f"{pull}?wait=5", token=gateway.token("bob"))
    assert [(one["seq"], one["attempt"]) for one in again.json()["messages"]] == [(row["seq"], 2)]
    poller.close()
    stream.close()
