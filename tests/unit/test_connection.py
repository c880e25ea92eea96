"""An open WebSocket: messages in and out, how it ends, and what its session is told."""

from __future__ import annotations

import struct

import pytest
from websockets.frames import Frame

from pushwire.wire.codec import dumps
from pushwire.wire.frames import Ok, Ping
from pushwire_gateway.connection import CLOSING_BYTES_MAX, EMPTY_FRAMES_MAX
from pushwire_gateway.outbox import MESSAGE_BYTES_MAX
from support.port import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    SteppedClock,
    client_frame,
    echo,
    open_port,
)

PING_1 = b'{"op":"ping","ref":1}'


def close_payload(code: int, reason: str = "") -> bytes:
    return struct.pack("!H", code) + reason.encode()


# --- messages in


async def test_operations_of_one_read_reach_the_session_in_one_call_in_order():
    async with open_port() as port, await port.websocket() as client:
        lines = b"\n".join(dumps({"op": "ping", "ref": n}) for n in (1, 2, 3))
        await client.send(client_frame(lines) + client_frame(dumps({"op": "ping", "ref": 4})))
        await port.session.until(lambda: len(port.session.frames) == 4)
        assert [frame.ref for frame in port.session.frames] == [1, 2, 3, 4]
        assert port.session.calls.count("receive") == 1


async def test_the_answers_to_one_read_are_one_message():
    async with open_port() as port:
        port.gateway.on_receive = echo
        async with await port.websocket() as client:
            await client.send(client_frame(b'{"op":"ping","ref":1}\n{"op":"ping","ref":2}'))
            assert await client.receive() == (TEXT, b'{"op":"ok","ref":1}\n{"op":"ok","ref":2}')


@pytest.mark.parametrize("fin", [True, False])
async def test_a_binary_message_is_refused_with_1003(fin):
    async with open_port() as port, await port.websocket() as client:
        await client.frame(PING_1)
        await client.frame(PING_1, BINARY, fin=fin)
        assert await client.closed_with() == 1003
        await port.session.until_called("closed")
        assert port.session.frames == [Ping(1)]


async def test_a_message_in_fragments_with_pings_between_them():
    async with open_port() as port, await port.websocket() as client:
        await client.frame(PING_1[:5], fin=False)
        await client.frame(b"are you there", PING)
        assert await client.receive() == (PONG, b"are you there")
        for byte in PING_1[5:-1]:
            await client.frame(bytes([byte]), CONT, fin=False)
        await client.frame(b"", CONT, fin=False)
        await client.frame(PING_1[-1:], CONT)
        await port.session.until(lambda: port.session.frames == [Ping(1)])


async def test_a_message_of_exactly_the_largest_size_and_one_byte_more():
    async with open_port(frame_bytes_max=2048) as port, await port.websocket() as client:
        await client.frame(PING_1.ljust(2048))
        await port.session.until(lambda: port.session.frames == [Ping(1)])
        await client.frame(PING_1.ljust(2049))
        assert await client.closed_with() == 1009
        await port.session.until_called("closed")


async def test_a_size_that_is_only_claimed_is_refused_at_once():
    async with open_port() as port, await port.websocket() as client:
        await client.frame(b"", claim=2**62)
        assert await client.closed_with() == 1009
        assert await client.rest() == b""


async def test_fragments_count_together_against_the_largest_size():
    async with open_port(frame_bytes_max=1024) as port, await port.websocket() as client:
        await client.frame(b" " * 600, fin=False)
        await client.frame(b" " * 400, CONT, fin=False)
        await client.frame(b" " * 25, CONT, fin=False)
        assert await client.closed_with() == 1009
        assert port.session.frames == []


PROTOCOL_ERRORS = {
    "unmasked": (client_frame(PING_1, mask=False), 1002),
    "reserved bit": (b"\xb1\x80\x00\x00\x00\x00", 1002),
    "reserved opcode": (b"\x83\x80\x00\x00\x00\x00", 1002),
    "fragmented ping": (client_frame(b"", PING, fin=False), 1002),
    "long ping": (client_frame(b"x" * 126, PING), 1002),
    "continuation of nothing": (client_frame(b"", CONT), 1002),
    "new message inside another": (client_frame(b"a", fin=False) + client_frame(b"b"), 1002),
    "close code of one byte": (client_frame(b"\x03", CLOSE), 1002),
    "close code that may not be sent": (client_frame(close_payload(1006), CLOSE), 1002),
    "close reason that is no UTF-8": (client_frame(close_payload(1000) + b"\xff", CLOSE), 1007),
    "close inside a message": (client_frame(b"a", fin=False) + client_frame(b"", CLOSE), 1002),
    "text that is no UTF-8": (client_frame(b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80"), 1007),
    "text that ends inside a character": (client_frame(b"\xf0\x9f\x98"), 1007),
    "fragments that are no UTF-8": (
        client_frame(b"\xf0\x9f", fin=False) + client_frame(b"\x98\x80\xff", CONT), 1007,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOL_ERRORS)
async def test_a_protocol_error_ends_the_connection_with_its_code(name):
    data, code = PROTOCOL_ERRORS[name]
    async with open_port() as port, await port.websocket() as client:
        await client.send(client_frame(PING_1) + data + client_frame(PING_1))
        assert await client.closed_with() == code
        assert await client.rest() == b""
        await port.session.until_called("closed")
        # What came before the error counts, what came after does not.
        assert port.session.frames == [Ping(1)]


async def test_a_character_split_over_fragments_is_whole():
    async with open_port() as port, await port.websocket() as client:
        text = '{"op":"ping","ref":1,"note":"\U0001f600"}'.encode()
        cut = text.index(b"\xf0") + 2
        await client.send(client_frame(text[:cut], fin=False) + client_frame(text[cut:], CONT))
        await port.session.until_called("receive")
        assert port.session.frames == [Ping(1)]


async def test_what_is_no_operation_is_the_sessions_business():
    async with open_port() as port, await port.websocket() as client:
        await client.frame(b"[]")
        await client.frame(b"")  # is none, and nobody's
        await client.frame(b" ")
        await client.frame(b"{}x")
        await port.session.until(lambda: len(port.session.frames) == 2)
        assert [type(frame).__name__ for frame in port.session.frames] == ["Malformed"] * 2


# --- messages out


async def test_frames_are_joined_up_to_the_largest_message_and_a_larger_one_is_sent_alone():
    async with open_port() as port, await port.websocket() as client:
        await port.gateway.opened.wait()
        half, large = b"h" * (MESSAGE_BYTES_MAX // 2), b"l" * (MESSAGE_BYTES_MAX + 1)
        port.session.link.write([b"a", b"b"])
        port.session.link.write([half, half, b"c", large, b"d"])
        assert await client.receive() == (TEXT, b"a\nb")
        sizes = [len((await client.receive())[1]) for _ in range(4)]
        assert sizes == [len(half), len(half) + 2, len(large), 1]


async def test_a_payload_for_many_connections_is_made_a_frame_once(monkeypatch):
    made = []
    original = Frame.serialize
    monkeypatch.setattr(Frame, "serialize", lambda frame, **how: made.append(frame.data) or original(frame, **how))
    async with open_port() as port, await port.websocket() as client:
        await port.gateway.opened.wait()
        shared, other = b"x" * 70_000, b"x" * 70_000 + b"y"
        for payload in (shared, shared, other, shared):
            port.session.link.write([payload])
        assert [await client.receive() for _ in range(4)] == [(TEXT, each) for each in (shared, shared, other, shared)]
    assert [each for each in made if len(each) > 1000] == [shared, other, shared]


# --- the end


async def test_a_client_that_closes_gets_its_code_back_and_the_session_hears_of_it_once():
    # A clock that stands still: no timeout helps.
    async with open_port(SteppedClock()) as port, await port.websocket() as client:
        await client.frame(close_payload(1000, "bye"), CLOSE)
        assert await client.receive() == (CLOSE, close_payload(1000, "bye"))
        await port.until_alone()  # RFC 6455 §7.1.1: the server closes first
        assert await client.rest() == b""
        assert port.session.calls == ["start", "closed"]
        assert port.listener.stats.websockets_closed == {1000: 1}
        assert (port.gateway.caps.connections, port.gateway.caps.unauthenticated) == (0, 0)


async def test_operations_before_a_close_in_the_same_read_count():
    async with open_port() as port, await port.websocket() as client:
        await client.send(client_frame(PING_1) + client_frame(close_payload(1001), CLOSE))
        assert await client.closed_with() == 1001
        await port.session.until_called("closed")
        assert port.session.calls == ["start", "receive", "closed"]


async def test_our_close_follows_what_was_written_and_waits_for_the_clients():
    async with open_port() as port, await port.websocket() as client:
        await port.gateway.opened.wait()
        port.session.outbox.send(Ok(1))
        port.session.link.close(4401, "token expired")
        port.session.link.close(1011, "a second one")
        port.session.outbox.send(Ok(2))
        port.session.outbox.flush()
        assert await client.receive() == (TEXT, b'{"op":"ok","ref":1}')
        assert await client.receive() == (CLOSE, close_payload(4401, "token expired"))
        await port.session.until_called("closed")
        await client.send(client_frame(PING_1) + client_frame(close_payload(4401), CLOSE))
        assert await client.rest() == b""
        await port.until_alone()
        assert port.session.calls == ["start", "closed"]
        assert port.listener.stats.websockets_closed == {4401: 1}


async def test_a_close_from_inside_receive_does_not_call_the_session_while_it_works():
    async with open_port() as port:

        def end(session, frames):
            session.link.close(4403, "kicked")
            session.calls.append("still in receive")

        port.gateway.on_receive = end
        async with await port.websocket() as client:
            await client.send(client_frame(PING_1) + client_frame(PING_1))
            assert await client.closed_with() == 4403
            await port.session.until_called("closed")
            assert port.session.calls == ["start", "receive", "still in receive", "closed"]


async def test_a_client_that_does_not_answer_our_close_is_cut_off():
    clock = SteppedClock()
    async with open_port(clock, close_timeout_s=2) as port, await port.websocket() as client:
        await port.gateway.opened.wait()
        port.session.link.close(1000, "finished")
        assert await client.receive() == (CLOSE, close_payload(1000, "finished"))
        port.step(1.9)
        assert port.listener.connections == 1
        port.step(0.2)
        await port.until_alone()
        assert await client.rest() == b""


async def test_a_long_reason_is_cut_at_a_character():
    async with open_port() as port, await port.websocket() as client:
        await port.gateway.opened.wait()
        port.session.link.close(1000, "ä" * 100)
        assert await client.receive() == (CLOSE, close_payload(1000, "ä" * 61))


async def test_half_closed_is_gone():
    async with open_port() as port, await port.websocket() as client:
        await client.frame(PING_1)
        client.end()
        await port.until_alone()
        assert port.session.calls == ["start", "receive", "closed"]
        assert await client.closed_with() == 1006


async def test_a_reset_is_gone_too():
    async with open_port() as port:
        client = await port.websocket()
        await port.gateway.opened.wait()
        client.reset()
        await port.until_alone()
        assert port.session.calls == ["start", "closed"]
        assert port.listener.stats.websockets_closed == {1006: 1}
        # Whatever the session still says is harmless.
        port.session.outbox.send(Ok(1))
        port.session.outbox.flush()
        port.session.link.pause_reading()
        port.session.link.resume_reading()
        port.session.link.authenticated()
        port.session.link.close(1000, "late")
        port.session.link.abort()
        assert port.session.link.unsent_bytes == 0
        assert port.gateway.caps.connections == 0


async def test_abort_is_at_once():
    async with open_port() as port, await port.websocket() as client:
        await port.gateway.opened.wait()
        port.session.link.abort()
        await port.until_alone()
        assert await client.closed_with() == 1006
        assert port.session.calls == ["start", "closed"]


@pytest.mark.parametrize("where", ["receive", "check", "closed", "start"])
async def test_a_session_that_raises_costs_its_own_client_1011_and_is_logged_once(where, caplog):
    clock = SteppedClock()
    async with open_port(clock) as port, await port.websocket() as bystander:
        await port.gateway.opened.wait()
        other = port.session
        made = port.gateway.make_session

        def make(*arguments):
            session = made(*arguments)
            setattr(session, where, lambda *_: 1 / 0)
            return session

        port.gateway.make_session = make
        async with await port.websocket() as client:
            await client.frame(close_payload(1000), CLOSE) if where == "closed" else await client.frame(PING_1)
            if where == "check":
                await port.session.until_called("receive")
                port.step(0.1)
            assert await client.closed_with() == (1000 if where == "closed" else 1011)
        await bystander.frame(PING_1)
        await other.until_called("receive")
        assert caplog.text.count("ZeroDivisionError") == 1
        assert port.listener.stats.failures == 1


async def test_reading_pauses_and_goes_on():
    async with open_port() as port:

        def pause_once(session, frames):
            if frames[0].ref == 1:
                session.link.pause_reading()
                session.link.pause_reading()

        port.gateway.on_receive = pause_once
        async with await port.websocket() as client, await port.websocket() as other:
            first, second = port.gateway.sessions
            await client.frame(PING_1)
            await first.until_called("receive")
            await client.frame('{"op":"ping","ref":2}')
            await other.frame('{"op":"ping","ref":2}')
            await second.until_called("receive")  # the other's socket was looked at, the first one's not
            assert [frame.ref for frame in first.frames] == [1]
            first.link.resume_reading()
            first.link.resume_reading()
            await first.until(lambda: [frame.ref for frame in first.frames] == [1, 2])


async def test_a_paused_connection_still_sees_the_close_handshake():
    async with open_port(SteppedClock()) as port, await port.websocket() as client:
        await port.gateway.opened.wait()
        port.session.link.pause_reading()
        port.session.link.close(1012, "restarting")
        assert await client.closed_with() == 1012
        await client.frame(close_payload(1012), CLOSE)
        await port.until_alone()
        assert await client.rest() == b""


# --- floods


@pytest.mark.parametrize(("payload", "opcode", "fin"), [(b"", PING, True), (b"", PONG, True), (b"", CONT, False)])
async def test_a_flood_of_frames_without_a_message_ends_the_connection(payload, opcode, fin):
    clock = SteppedClock()
    async with open_port(clock) as port, await port.websocket() as client:
        if opcode == CONT:
            await client.frame(b"", fin=False)
        await client.send(client_frame(payload, opcode, fin=fin) * (EMPTY_FRAMES_MAX + 1))
        assert await client.closed_with() == 4400
        await port.session.until_called("closed")


async def test_pings_at_any_usual_pace_are_answered():
    clock = SteppedClock()
    async with open_port(clock) as port, await port.websocket() as client:
        for _ in range(3):
            await client.send(client_frame(b"p", PING) * (EMPTY_FRAMES_MAX - 1))
            for _ in range(EMPTY_FRAMES_MAX - 1):
                assert await client.receive() == (PONG, b"p")
            port.step(0.25)


async def test_data_after_our_close_is_not_parsed_for_long():
    async with open_port() as port, await port.websocket() as client:
        await port.gateway.opened.wait()
        port.session.link.close(1000, "finished")
        await client.send(client_frame(b"x" * 1000) * (CLOSING_BYTES_MAX // 1000 + 2))
        assert await client.closed_with() == 1000
        assert await client.rest() == b""  # EOF although we have not sent a close frame
        assert port.only()._protocol.eof_sent
