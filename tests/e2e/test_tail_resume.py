"""Over real sockets and files: a tail that goes on where it was, also after a restart; a session that comes back."""

from __future__ import annotations

import asyncio
import base64

from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

TOPIC = "prices"
RIGHTS = ["publish:*", "consume:*@*", "create:*@*", "replay:*", "admin:*"]


async def _client(gateway: GatewayProcess, subject: str = "ann") -> WsClient:
    return await WsClient.open(gateway.port, gateway.token(subject, RIGHTS))


async def _publish(client: WsClient, count: int) -> None:
    rows = [{"data": {"n": number}} for number in range(count)]
    await client.ok({"op": "publish", "topic": TOPIC, "messages": rows})


async def test_a_tail_that_is_cut_off_again_and_again_sees_every_seq_once_and_in_order(gateway):
    writer, reader = await _client(gateway, "writer"), await _client(gateway)
    granted = await reader.ok({"op": "subscribe", "topic": TOPIC, "tail": True, "sub": "p"})
    seen: list[int] = []
    for number in range(20):
        await _publish(writer, 30)
        seen += [row["seq"] for row in await reader.take(1 + number)]
        reader.abort()
        await reader.close_code()
        await _publish(writer, 10)
        reader = await _client(gateway)
        last = seen[-1] if seen else granted["seq"]
        where = {"epoch": granted["epoch"], "after_seq": last}
        assert (await reader.ok({"op": "subscribe", "topic": TOPIC, "tail": True, **where}))["seq"] == last
    seen += [row["seq"] for row in await reader.take(20 * 40 - len(seen))]
    assert seen == list(range(1, 801))
    assert reader.notices.qsize() == 1  # the welcome: no gap, no error


async def test_a_tail_goes_on_after_a_restart_of_the_gateway(gateway):
    writer, reader = await _client(gateway, "writer"), await _client(gateway)
    granted = await reader.ok({"op": "subscribe", "topic": TOPIC, "tail": True})
    await _publish(writer, 5)
    assert [row["seq"] for row in await reader.take(3)] == [1, 2, 3]
    await asyncio.to_thread(gateway.stop)
    await asyncio.to_thread(gateway.start)
    reader = await _client(gateway)
    where = {"epoch": granted["epoch"], "after_seq": 3}
    await reader.ok({"op": "subscribe", "topic": TOPIC, "tail": True, **where})
    assert [row["seq"] for row in await reader.take(2)] == [4, 5]


async def test_tails_that_catch_up_on_large_messages_do_not_cost_a_client_that_reads_its_connection(make_gateway):
    """Each has more behind it than an outbox holds (1 MiB here), and bytes grow by a third on their way."""
    gateway = make_gateway(settings={"outbox_bytes_max": str(1 << 20)})
    writer, reader = await _client(gateway, "writer"), await _client(gateway)
    body = base64.b64encode(bytes(60_000)).decode()
    for _ in range(40):
        await writer.ok({"op": "publish", "topic": TOPIC, "data_b64": body})
    names = [f"t{number}" for number in range(5)]
    for name in names:
        reader.send({"op": "subscribe", "topic": TOPIC, "tail": True, "sub": name, "from": "earliest"})
    reader.send(*[{"op": "ping"} for _ in range(20)])
    seen: dict[str, list[int]] = {}
    for row in await reader.take(5 * 40):
        seen.setdefault(row["sub"], []).append(row["seq"])
    assert seen == {name: list(range(1, 41)) for name in names}
    assert (reader.is_open, reader.goodbye) == (True, None)


async def test_a_client_that_lost_its_connection_goes_on_with_what_it_held(gateway):
    writer, holder, other = await _client(gateway, "writer"), await _client(gateway), await _client(gateway, "eve")
    await _publish(writer, 3)
    await holder.ok({"op": "auth", "token": gateway.token("ann", RIGHTS), "resume_grace_ms": 20_000})
    await holder.ok({"op": "subscribe", "topic": TOPIC, "group": "g", "sub": "s", "prefetch": 3})
    leases = [row["lease"] for row in await holder.take(3)]
    await other.ok({"op": "subscribe", "topic": TOPIC, "group": "g"})
    holder.abort()
    await holder.close_code()
    back = await _client(gateway)
    auth = {"op": "auth", "token": gateway.token("ann", RIGHTS), "session": holder.welcome["session"]}
    resumed = await back.ok(auth)
    assert (resumed["resumed"], resumed["subs"]) == (True, {"s": leases})
    await back.ok({"op": "ack", "leases": leases})
    await writer.publish(TOPIC, "after")
    first = [asyncio.ensure_future(client.take(1)) for client in (back, other)]
    done, pending = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    [row] = done.pop().result()
    assert (row["seq"], row["attempt"]) == (4, 1)


async def test_the_numbers_of_the_tenant_come_once_a_second(gateway):
    watcher = await _client(gateway)
    await watcher.ok({"op": "subscribe", "topic": "$sys.stats", "tail": True})
    await watcher.publish(TOPIC, 1)
    first, second, third = await watcher.take(3)
    assert third["data"]["published"] == 1
    assert third["data"]["tails"] == 1
    assert first["seq"] < second["seq"] < third["seq"]
    assert 0.8 < third["at"] - second["at"] < 1.5
