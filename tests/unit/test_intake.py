"""A client that sends as much as it can, as small as it can, gets its turn like everybody else."""

from __future__ import annotations

import asyncio

from pushwire.wire.frames import Ping
from pushwire_gateway.connection import EMPTY_FRAMES_MAX, OPERATIONS_PER_TURN_MAX
from support.port import CLOSE, PING, PONG, SteppedClock, client_frame, open_port

COUNT = 3 * OPERATIONS_PER_TURN_MAX + 7
PINGS = b"\n".join(b'{"op":"ping","ref":%d}' % number for number in range(COUNT))


def refs(session):
    return [frame.ref for frame in session.frames]


async def test_a_message_of_many_operations_is_taken_in_turns_and_in_order():
    async with open_port() as port, await port.websocket() as client:
        sizes = []
        port.session.on_receive = lambda _, frames: sizes.append(len(frames))
        await client.frame(PINGS)
        await port.session.until(lambda: len(port.session.frames) == COUNT)
        assert refs(port.session) == list(range(COUNT))
        assert max(sizes) == OPERATIONS_PER_TURN_MAX


async def test_others_are_served_between_the_turns():
    async with open_port() as port, await port.websocket() as client, await port.websocket() as other:
        flooded, served = port.gateway.sessions
        turns = []

        def send_once(session, frames):
            turns.append("flood")
            if len(turns) == 1:
                asyncio.get_running_loop().call_soon(turns.append, "other")

        flooded.on_receive = send_once
        await client.frame(PINGS)
        await flooded.until(lambda: len(flooded.frames) == COUNT)
        assert turns.index("other") == 1
        await other.frame(b'{"op":"ping"}')
        await served.until_called("receive")


async def test_small_frames_of_one_read_are_taken_in_turns_and_in_order():
    async with open_port() as port, await port.websocket() as client:
        await client.send(b"".join(client_frame(b'{"op":"ping","ref":%d}' % number) for number in range(COUNT)))
        await port.session.until(lambda: len(port.session.frames) == COUNT)
        assert refs(port.session) == list(range(COUNT))
        assert port.session.calls.count("receive") >= 4


async def test_operations_before_a_close_count_however_many_they_are():
    async with open_port() as port, await port.websocket() as client:
        await client.send(client_frame(PINGS) + client_frame(b"\x03\xe8", CLOSE))
        assert await client.closed_with() == 1000
        await port.session.until_called("closed")
        assert len(port.session.frames) == COUNT
        assert port.session.calls[-1] == "closed"


async def test_operations_before_a_protocol_error_count_however_many_they_are():
    async with open_port() as port, await port.websocket() as client:
        await client.send(client_frame(PINGS) + client_frame(b"\xff"))
        assert await client.closed_with() == 1007
        assert len(port.session.frames) == COUNT


async def test_operations_before_a_half_close_count():
    async with open_port() as port, await port.websocket() as client:
        await client.frame(PINGS)
        client.end()
        await port.session.until_called("closed")
        assert len(port.session.frames) == COUNT


async def test_a_session_that_pauses_gets_no_more_of_a_message_until_it_resumes():
    async with open_port() as port, await port.websocket() as client, await port.websocket() as other:
        first, second = port.gateway.sessions

        def pause_once(session, frames):
            if session.calls.count("receive") == 1:
                session.link.pause_reading()

        first.on_receive = pause_once
        await client.frame(PINGS)
        await first.until_called("receive")
        await other.frame(b'{"op":"ping"}')
        await second.until_called("receive")  # loop turns have gone by
        assert len(first.frames) == OPERATIONS_PER_TURN_MAX
        first.link.resume_reading()
        await first.until(lambda: len(first.frames) == COUNT)
        await client.frame(b'{"op":"ping"}')
        await first.until(lambda: first.frames[-1] == Ping(None))  # the socket is read again


async def test_a_session_that_ends_in_a_turn_gets_nothing_of_the_next():
    async with open_port() as port, await port.websocket() as client:
        port.session.on_receive = lambda session, _: session.link.close(4400, "too much")
        await client.frame(PINGS)
        assert await client.closed_with() == 4400
        assert len(port.session.frames) == OPERATIONS_PER_TURN_MAX


async def test_a_flood_of_messages_without_an_operation_ends_the_connection():
    async with open_port(SteppedClock()) as port, await port.websocket() as client:
        await client.send(client_frame(b"\n") * (EMPTY_FRAMES_MAX + 1))
        assert await client.closed_with() == 4400


async def test_bytes_without_an_operation_are_a_sign_of_life():
    async with open_port(SteppedClock()) as port, await port.websocket() as client:
        await client.frame(b"still here", PING)
        assert await client.receive() == (PONG, b"still here")
        for _ in range(2):
            port.step(0.4)
        assert port.session.calls == ["start", "heard"]
