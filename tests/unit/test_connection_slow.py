"""Clients that do not read: what they cost, when they are gone, and that nobody else notices."""

from __future__ import annotations

import asyncio

import pytest

from pushwire.wire.frames import Ok
from pushwire_gateway.clock import AnchoredClock
from pushwire_gateway.outbox import TRANSPORT_HIGH_BYTES
from support.port import PATIENCE_S, PING, PONG, Port, RawClient, SteppedClock, client_frame, echo, open_port

SMALL = 4096  # bytes of receive buffer: the kernel takes a few KiB of what is sent and no more
PING_1 = b'{"op":"ping","ref":1}'


def push(session, size_bytes: int) -> None:
    session.outbox.send_encoded(b"m" * size_bytes)
    session.outbox.flush()


async def open_slow(port: Port) -> RawClient:
    client = await port.websocket(receive_bytes=SMALL)
    await port.gateway.opened.wait()
    return client


@pytest.mark.parametrize("size_bytes", [8 * 1024, 1024 * 1024], ids=["8 KiB", "1 MiB"])
async def test_a_client_that_never_reads_is_gone_after_the_stall_time_and_the_others_are_served(size_bytes):
    clock = SteppedClock()
    async with open_port(clock, write_stall_s=5) as port:
        port.gateway.on_receive = echo
        async with await port.websocket() as reader, await open_slow(port):
            stalled = port.session
            push(stalled, size_bytes)
            for _ in range(19):
                port.step(0.25)
                await reader.frame(PING_1)
                assert (await reader.receive())[1] == b'{"op":"ok","ref":1}'
            assert "closed" not in stalled.calls
            port.step(0.5)
            await stalled.until_called("closed")
            await reader.frame(PING_1)
            assert (await reader.receive())[1] == b'{"op":"ok","ref":1}'
            assert port.listener.stats.stalled == 1
            assert port.listener.connections == 1


async def test_what_it_sends_does_not_keep_it_alive():
    clock = SteppedClock()
    async with open_port(clock, write_stall_s=5) as port, await open_slow(port) as client:
        push(port.session, 16 * 1024)
        for count in range(1, 24):
            port.step(0.25)
            await client.frame(PING_1)
            await until_frames(port, count)
            if _closed(port):
                break
        assert 20 <= count <= 22


async def until_frames(port: Port, count: int) -> None:
    await port.session.until(lambda: len(port.session.frames) >= count or _closed(port))


def _closed(port: Port) -> bool:
    return "closed" in port.session.calls


async def test_a_lone_ping_that_cannot_leave_counts():
    """The window was closed by data that was sent; nothing waits but a few bytes."""
    clock = SteppedClock()
    async with open_port(clock, write_stall_s=5) as port, await open_slow(port):
        connection = port.only()
        while not connection._stalled(clock.now()) and not _held(connection):
            push(port.session, 256)
        assert connection.unsent_bytes == 0  # the transport has handed over everything
        push(port.session, 15)
        port.step(1)
        port.step(4.9)
        assert not _closed(port)
        port.step(0.2)
        await port.session.until_called("closed")


def _held(connection) -> bool:
    return connection._watch._since >= 0


async def test_a_client_that_reads_slowly_is_kept():
    clock = SteppedClock()
    async with open_port(clock, write_stall_s=5) as port, await open_slow(port) as client:
        push(port.session, 256 * 1024)
        port.step(1)
        read = 0
        while read < 256 * 1024:
            read += len(await asyncio.get_running_loop().sock_recv(client.sock, 16 * 1024))
            port.step(4)
        assert port.session.calls.count("closed") == 0
        await port.session.until_called("writable")


async def test_an_idle_connection_is_no_stall():
    clock = SteppedClock()
    async with open_port(clock, write_stall_s=5) as port, await port.websocket():
        for _ in range(10):
            port.step(100)
        assert port.session.checks >= 10
        assert port.session.calls == ["start"]


async def test_a_full_transport_holds_the_outbox_and_goes_on_when_it_has_drained():
    async with open_port() as port, await open_slow(port) as client:
        push(port.session, 1024 * 1024)
        for ref in (1, 2, 3):
            port.session.outbox.send(Ok(ref))
            port.session.outbox.flush()
        assert port.session.link.unsent_bytes > TRANSPORT_HIGH_BYTES
        assert port.session.outbox.size_bytes == port.session.link.unsent_bytes + 3 * len(b'{"op":"ok","ref":1}')
        assert len((await client.receive())[1]) == 1024 * 1024
        # What had waited comes in one message.
        assert await client.receive() == (1, b'{"op":"ok","ref":1}\n{"op":"ok","ref":2}\n{"op":"ok","ref":3}')
        await port.session.until_called("writable")


async def test_more_than_the_outbox_may_hold_ends_the_connection_with_4000():
    async with open_port(outbox_bytes_max=256 * 1024) as port, await open_slow(port) as client:
        for _ in range(8):
            push(port.session, 64 * 1024)
        await port.session.until_called("closed")
        assert port.session.outbox.size_bytes < 320 * 1024
        assert await client.closed_with() == 4000


async def test_a_client_that_pings_and_does_not_read_takes_no_memory():
    clock = SteppedClock()
    async with open_port(clock) as port, await open_slow(port) as client:
        push(port.session, 512 * 1024)
        held = port.session.link.unsent_bytes
        assert held > TRANSPORT_HIGH_BYTES
        for number in range(20):
            await client.send(client_frame(b"%05d" % number * 20, PING) * 500)
            await client.frame(PING_1)
            await until_frames(port, number + 1)
            port.step(0.1)
        assert port.session.link.unsent_bytes <= held
        await client.receive()
        assert await client.receive() == (PONG, b"00019" * 20)  # the newest one, RFC 6455 §5.5.3


async def test_a_client_that_closes_but_does_not_read_is_cut_off():
    clock = SteppedClock()
    async with open_port(clock, close_timeout_s=2, write_stall_s=5) as port, await open_slow(port) as client:
        push(port.session, 1024 * 1024)
        client.end()
        await port.session.until_called("closed")
        port.step(1.9)
        assert port.listener.connections == 1
        port.step(0.2)
        await port.until_alone()


async def test_the_sweep_does_all_this_by_itself():
    """With the real clock and nobody stepping."""
    async with open_port(AnchoredClock(), write_stall_s=0.3) as port, await open_slow(port):
        push(port.session, 1024 * 1024)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await port.session.until_called("closed")
        assert 0.3 <= loop.time() - started < PATIENCE_S / 2
        assert port.session.checks >= 1
