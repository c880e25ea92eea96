"""The client over real sockets: a peer behind a WebSocket server in this process."""

from __future__ import annotations

import asyncio

import pytest

from pushwire import (
    Backoff,
    Client,
    ClientClosed,
    Kicked,
    LeaseLost,
    ProtocolError,
    RequestTimeout,
    State,
    Unauthorized,
    __version__,
)
from pushwire.wire import frames
from support.sdk_peer import Peer
from support.sdk_server import client_of, serving

# --- there and back --------------------------------------------------------------------------------------------


async def test_publish_subscribe_ack():
    async with serving() as server, client_of(server) as client:
        receipt = await client.publish("orders", {"id": 7}, key="order-7", headers={"a": "b"})
        assert (receipt.seq, receipt.duplicate) == (1, False)
        async with client.subscribe("orders", group="billing", prefetch=5) as sub:
            message = await anext(sub)
            async with message:
                assert message.json() == {"id": 7}
                assert (message.key, message.headers, message.id) == ("order-7", {"a": "b"}, receipt.id)
            await server.until(lambda: server.peer.acked() == [1])


async def test_the_handshake_carries_token_subprotocol_and_name():
    async with serving() as server, client_of(server, name="worker 7") as client:
        await client.wait_connected(5)
        headers = server.requests[0].headers
        assert headers["Authorization"] == "Bearer secret-token"
        assert headers["Sec-WebSocket-Protocol"] == "pushwire.v1"
        assert headers["User-Agent"] == f"pushwire/{__version__} (worker 7)"
        assert "Sec-WebSocket-Extensions" not in headers
        assert "secret-token" not in server.requests[0].path
        assert "secret-token" not in repr(client)


async def test_many_messages_in_few_writes():
    async with serving() as server, client_of(server) as client:
        receipts = await asyncio.gather(*(client.publish("orders", n) for n in range(500)))
        assert [receipt.seq for receipt in receipts] == list(range(1, 501))
        assert len(server.peer.link.messages) == 1
        got = []
        async with client.subscribe("orders", prefetch=100) as sub:
            async for message in sub:
                async with message:
                    got.append(message.json())
                if len(got) == 500:
                    break
        assert got == list(range(500))
        assert len(server.peer.link.of(frames.Ack)) <= 20
        assert len(server.peer.acked()) == 500


async def test_large_messages_both_ways():
    peer = Peer(limits={"message_bytes_max": 2**20, "frame_bytes_max": 2**20 + 2**14})
    async with serving(peer) as server, client_of(server) as client:
        bodies = [bytes([n]) * 700_000 for n in range(6)]
        await client.publish_many("big", bodies)
        async with client.subscribe("big", prefetch=6) as sub:
            assert [(await anext(sub)).data for _ in range(6)] == bodies


# --- lost connections ------------------------------------------------------------------------------------------


async def test_it_comes_back_and_restores_everything():
    async with serving() as server, client_of(server) as client:
        events = client.events()
        async with client.subscribe("orders") as sub:
            server.peer.fill("orders", 1)
            await server.flush()
            held = await anext(sub)
            server.cut()
            await held.lost.wait()
            again = await anext(sub)
            assert (again.seq, again.attempt) == (1, 2)
            async with again:
                pass
            with pytest.raises(LeaseLost):
                held.ack()
            await server.until(lambda: server.peer.acked() == [1])
        assert [(await anext(events)).state for _ in range(3)][-2:] == [State.CONNECTED, State.RECONNECTING]


async def test_a_receipt_lost_with_the_connection_is_asked_for_again():
    async with serving() as server, client_of(server) as client:
        server.peer.answers = False
        publishing = asyncio.create_task(client.publish("orders", 1))
        await server.until(lambda: "orders" in server.peer.stored)
        server.peer.answers = True
        server.cut()
        receipt = await publishing
        assert receipt.duplicate
        assert len(server.peer.stored["orders"]) == 1
        assert len(server.peer.links) == 2


async def test_goodbye_and_close_are_followed_by_a_new_connection():
    async with serving() as server, client_of(server) as client:
        await client.wait_connected(5)
        server.peer.link.goodbye(1012, retry_after_ms=1)
        await server.flush()
        await server.until(lambda: len(server.peer.links) == 2)
        assert (await client.publish("orders", 1)).seq == 1


async def test_a_silent_gateway_is_left_for_a_new_connection():
    peer = Peer(heartbeat_ms=50, pong_timeout_ms=50)
    async with serving(peer) as server, client_of(server) as client:
        await client.wait_connected(5)
        peer.answers = False
        await server.until(lambda: len(peer.links) >= 2)
        peer.answers = True
        peer.welcome["heartbeat_ms"] = 20_000
        server.cut()
        assert (await client.publish("orders", 1)).seq == 1


async def test_any_bytes_are_heard_not_only_messages():
    async with serving() as server, client_of(server) as client:
        await client.publish("orders", 1)
        before = client._heard_at()
        pong = await next(iter(server._open)).ping()
        await pong
        assert client._heard_at() > before


@pytest.mark.parametrize(
    ("code", "kind"), [(4403, Kicked), (4409, ClientClosed), (4400, ProtocolError), (4401, Unauthorized)]
)
async def test_a_final_close_is_raised_to_callers_and_iterators(code, kind):
    async with serving() as server:
        client = client_of(server)
        async with client, client.subscribe("orders") as sub:
            server.peer.answers = False
            waiting = asyncio.create_task(anext(sub))
            publishing = asyncio.create_task(client.publish("other", 1))
            await server.until(lambda: "other" in server.peer.stored)
            await server.close(code, "enough")
            outcomes = await asyncio.gather(waiting, publishing, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [kind, kind]
            assert client.state is State.CLOSED
            for use in (client.publish("orders", 1), client.wait_connected(1)):
                with pytest.raises(kind):
                    await use
        assert type(client.error) is kind


# --- the end ---------------------------------------------------------------------------------------------------


async def test_leaving_the_client_drains():
    async with serving() as server:
        finished = []
        async with client_of(server) as client:
            started = asyncio.Event()

            async def handle(message):
                started.set()
                await asyncio.get_running_loop().run_in_executor(None, lambda: None)
                finished.append(message.seq)

            async def work():
                async with client.subscribe("orders", prefetch=5) as sub:
                    await sub.run(handle, concurrency=2)

            server.peer.fill("orders", 5)
            working = asyncio.create_task(work())
            await started.wait()
        await working
        assert finished
        assert sorted(server.peer.acked()) == sorted(finished)
        assert [verb for verb, _, _ in server.peer.settled].count("release") == 5 - len(finished)
        acks = server.peer.link.of(frames.Ack)
        assert acks[-1].ref is not None
        assert client.state is State.CLOSED
        assert client.error is None


async def test_the_connection_is_closed_with_1000():
    codes = []
    async with serving() as server:
        async with client_of(server) as client:
            await client.wait_connected(5)
            connection = next(iter(server._open))
        await server.until(lambda: not server._open)
        codes.append(connection.close_code)
    assert codes == [1000]


async def test_an_exception_leaves_without_waiting_for_handlers():
    async with serving() as server:
        server.peer.fill("orders", 2)

        async def fail():
            async with client_of(server) as client, client.subscribe("orders") as sub:
                first, _second = await anext(sub), await anext(sub)
                first.ack()
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        await server.until(lambda: not server._open)
        assert server.peer.acked() == [1]
        assert server.peer.held() == 0


async def test_a_gateway_that_hangs_does_not_keep_the_client():
    async with serving() as server:
        client = client_of(server)
        await client.__aenter__()
        await client.wait_connected(5)
        server.peer.answers = False
        publishing = asyncio.create_task(client.publish("orders", 1))
        await server.until(lambda: "orders" in server.peer.stored)
        assert await client.drain(timeout_s=0.05) is False
        with pytest.raises(ClientClosed):
            await publishing
        assert await client.drain() is True


async def test_closed_while_it_dials_or_waits():
    async with serving() as server:
        url = server.url
    client = Client(url, reconnect=Backoff(60, 60))
    async with client:
        publishing = asyncio.create_task(client.publish("orders", 1))
        events = client.events()
        assert (await anext(events)).state is State.CONNECTING
        assert (await anext(events)).retry_in_s is not None
        await client.close()
        with pytest.raises(ClientClosed):
            await publishing
    with pytest.raises(ClientClosed):
        await client.publish("orders", 1)
    with pytest.raises(ClientClosed):
        await client.subscribe("orders").__aenter__()


async def test_a_client_is_entered_once_and_may_be_left_unused():
    async with serving() as server:
        client = client_of(server)
        async with client:
            with pytest.raises(RuntimeError, match="once"):
                await client.__aenter__()
        unused = client_of(server)
        await unused.close()
        assert await unused.drain() is True


async def test_a_failure_of_the_clients_own_is_told_to_everybody(monkeypatch, caplog):
    async with serving() as server, client_of(server) as client:
        await client.wait_connected(5)

        def broken(now):
            raise ZeroDivisionError

        monkeypatch.setattr(client._session, "data_to_send", broken)
        with pytest.raises(ProtocolError, match="ZeroDivisionError"):
            await client.publish("orders", 1)
        assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 65, "é"])
def test_a_name_must_fit_a_header(name):
    with pytest.raises(ValueError):
        Client("ws://localhost", name=name)


async def test_handlers_may_publish_and_the_read_loop_goes_on():
    async with serving() as server, client_of(server) as client:
        server.peer.fill("orders", 20)
        seen = []

        async def handle(message):
            receipt = await client.publish("results", message.seq)
            seen.append(receipt.seq)
            if len(seen) == 20:
                done.set()

        done = asyncio.Event()
        async with client.subscribe("orders") as sub:
            run = asyncio.create_task(sub.run(handle))
            async with asyncio.timeout(5):
                await done.wait()
            await sub.drain()
            await run
        assert sorted(seen) == list(range(1, 21))


async def test_timeouts_of_callers_do_not_disturb_the_connection():
    async with serving() as server, client_of(server) as client:
        await client.wait_connected(5)
        server.peer.answers = False
        with pytest.raises(RequestTimeout):
            await client.publish("orders", 1, timeout_s=0.05)
        server.peer.answers = True
        assert not (await client.publish("orders", 2)).duplicate
        assert len(server.peer.links) == 1
