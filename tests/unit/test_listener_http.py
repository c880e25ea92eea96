"""HTTP at the port: size and time of head and body, pipelining, keep-alive, and the way to a WebSocket."""

from __future__ import annotations

import asyncio

import pytest

from pushwire_gateway.clock import AnchoredClock
from pushwire_gateway.http_protocol import PIPELINE_MAX
from support.port import Port, RawClient, SteppedClock, open_port, upgrade_request

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
NO_WORDS = b""


class App:
    """An ASGI app that echoes a request once the test lets it."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.started = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.disconnected = asyncio.Event()
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope, receive, send):
        self.started.set()
        if scope["path"] == "/early":
            await self.answer(send, b'"early"')
            return
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                self.disconnected.set()
                return
            body += event["body"]
            if not event["more_body"]:
                break
        self.headers = list(scope["headers"])
        self.requests.append((scope["path"], body))
        await self.may_answer.wait()
        await self.answer(send, b'"%b"' % scope["path"].encode())

    async def answer(self, send, body):
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def cut(client: RawClient) -> int | None:
    """The status of the last answer before the other side ends; None if it says nothing."""
    answer = await client.rest()
    return int(answer.split()[1]) if answer else None


# --- the head


async def test_a_client_that_says_nothing_is_cut_off():
    clock = SteppedClock()
    async with open_port(clock, open_timeout_s=5) as port, await port.client() as client:
        await accepted(port)
        port.step(4.9)
        assert not port.listener.stats.http_cut
        port.step(0.2)
        assert await cut(client) == 408


async def accepted(port: Port, count: int = 1) -> None:
    """Wait until the listener has accepted so many: each new client of ours is accepted after those before it."""
    async with await port.client() as last:
        await last.send(LIVEZ)
        await last.head()
        assert port.listener.stats.accepted >= count + 1


async def test_a_dripped_head_is_cut_however_it_is_dripped():
    clock = SteppedClock()
    async with open_port(clock, open_timeout_s=5) as port, await port.client() as client:
        dripped = 0
        for byte in LIVEZ[:-1]:
            await client.send(bytes([byte]))
            await accepted(port)
            port.step(0.3)
            dripped += 1
            if port.listener.stats.http_cut["head_timeout"]:
                break
        assert dripped == 17
        assert await cut(client) == 408


async def test_a_late_first_byte_brings_no_new_time():
    clock = SteppedClock()
    async with open_port(clock, open_timeout_s=5) as port, await port.client() as client:
        await accepted(port)
        port.step(4)
        await client.send(LIVEZ[:-4])
        await accepted(port)
        port.step(1.1)
        assert await cut(client) == 408


async def test_a_dripped_second_head_is_cut_as_well():
    clock = SteppedClock()
    async with open_port(clock, open_timeout_s=5, keep_alive_s=60) as port, await port.client() as client:
        await client.send(LIVEZ)
        assert (await client.response())[0] == 200
        port.step(50)
        await client.send(b"\r\n")
        await accepted(port)
        port.step(4.9)
        await client.send(b"\r\n")
        await accepted(port)
        port.step(0.2)
        assert await cut(client) == 408


async def test_the_real_clock_cuts_a_dripped_head():
    async with open_port(AnchoredClock(), open_timeout_s=0.2) as port, await port.client() as client:
        started = asyncio.get_running_loop().time()
        await client.send(LIVEZ[:-2])
        assert await cut(client) == 408
        assert 0.2 <= asyncio.get_running_loop().time() - started < 2


@pytest.mark.parametrize("filler", ["one header", "many headers", "url", "blank lines"])
async def test_a_head_that_is_too_large_is_refused(filler):
    async with open_port(head_bytes_max=4096) as port, await port.client() as client:
        head = {
            "one header": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 4096,
            "many headers": b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"X-Filler: 0123456789\r\n" * 190,
            "url": b"GET /livez?" + b"x" * 4096,
            "blank lines": b"\r\n" * 2049,
        }[filler]
        await client.send(head)
        assert await cut(client) == 431


async def test_a_head_of_sixteen_kib_in_small_pieces():
    async with open_port() as port, await port.client() as client:
        await client.send(b"GET /livez HTTP/1.1\r\nHost: a\r\nX: ")
        for _ in range(100):
            await client.send(b"x" * 1000)
        client.end()
        assert await cut(client) == 431
        assert port.listener.stats.http_cut == {"head_size": 1}


async def test_a_large_head_in_one_read_is_refused_even_if_it_is_complete():
    async with open_port(head_bytes_max=4096) as port, await port.client() as client:
        for size, status in ((4000, 200), (4096, 431)):
            await client.send(b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * size + b"\r\n\r\n")
            assert (await client.response())[0] == status
        assert await client.rest() == NO_WORDS


async def test_sixty_four_header_lines_and_one_more():
    async with open_port() as port, await port.client() as client:
        for count, status in ((63, 200), (64, 431)):
            lines = b"".join(b"X-%d: 1\r\n" % n for n in range(count))
            await client.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
            assert (await client.response())[0] == status


async def test_an_idle_connection_is_closed_without_a_word():
    clock = SteppedClock()
    async with open_port(clock, keep_alive_s=15) as port, await port.client() as client:
        for _ in range(3):
            await client.send(LIVEZ)
            assert (await client.response())[0] == 200
            port.step(14.9)
        port.step(0.2)
        assert await client.rest() == NO_WORDS
        await port.until_alone()


# --- the body


async def test_a_body_of_the_largest_size_and_one_byte_more():
    app = App()
    async with open_port(app=app, http_body_bytes_max=100_000) as port, await port.client() as client:
        await client.send(post("/a", b"x" * 100_000))
        assert (await client.response())[2] == "/a"
        assert app.requests == [("/a", b"x" * 100_000)]
        await client.send(post("/b", b"x" * 100_001))
        status, _, body = await client.response()
        assert (status, body["code"]) == (413, "message_too_large")
        assert await client.rest() == NO_WORDS
        assert len(app.requests) == 1


async def test_a_chunked_body_is_one_request_and_is_counted():
    app = App()
    async with open_port(app=app, http_body_bytes_max=1024) as port, await port.client() as client:
        head = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + b"3\r\nabc\r\n2;name=value\r\nde\r\n0\r\nAuthorization: trailer\r\n\r\n" + head)
        assert (await client.response())[2] == "/a"
        assert app.requests == [("/a", b"abcde")]
        assert b"authorization" not in dict(app.headers)
        await client.send(b"200\r\n" + b"x" * 512 + b"\r\n201\r\n" + b"x" * 513)
        assert await cut(client) == 413
        await app.disconnected.wait()
        assert len(app.requests) == 1
        assert b"authorization" not in dict(app.headers)


async def test_what_surrounds_chunks_is_bounded_too():
    app = App()
    async with open_port(app=app, http_body_bytes_max=4096) as port, await port.client() as client:
        await client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"1;" + b"x" * 40_000)
        assert await cut(client) == 413


@pytest.mark.parametrize("head", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_a_dripped_body_is_cut(head):
    clock, app = SteppedClock(), App()
    async with open_port(clock, app=app, http_body_timeout_s=10) as port, await port.client() as client:
        await client.send(b"POST /a HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n")
        await app.started.wait()
        for _ in range(3):
            await client.send(b"1")
            await accepted_by(port, app)
            port.step(3)
        port.step(1.1)
        assert await cut(client) == 408
        await app.disconnected.wait()
        assert not [path for path, _ in app.requests if path == "/a"]


async def accepted_by(port: Port, app: App) -> None:
    """A request of somebody else has been answered, so everything sent before it has been read."""
    async with await port.client() as other:
        await other.send(b"GET /early HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await other.response())[0] == 200


async def test_an_app_that_is_slow_is_not_the_clients_fault():
    clock, app = SteppedClock(), App()
    app.may_answer.clear()
    async with open_port(clock, app=app) as port, await port.client() as client:
        await client.send(post("/a", b"1"))
        await app.started.wait()
        for _ in range(10):
            port.step(60)
        app.may_answer.set()
        assert (await client.response())[2] == "/a"


async def test_an_answer_before_the_body_is_the_only_one():
    app = App()
    async with open_port(app=app, http_body_bytes_max=1024) as port, await port.client() as client:
        await client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await client.response())[2] == "early"
        await client.send(b"800\r\n" + b"x" * 2048)
        assert await client.rest() == NO_WORDS


async def test_expect_100_continue():
    app = App()
    async with open_port(app=app) as port, await port.client() as client:
        await client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.head()).startswith("HTTP/1.1 100 ")
        await client.send(b"hi")
        assert (await client.response())[2] == "/a"


# --- pipelining


async def test_pipelined_posts_are_answered_in_their_order():
    app = App()
    async with open_port(app=app) as port, await port.client() as client:
        await client.send(b"".join(post(f"/{n}", b"x" * n) for n in range(10)))
        for n in range(10):
            assert (await client.response())[2] == f"/{n}"
        assert app.requests == [(f"/{n}", b"x" * n) for n in range(10)]


async def test_a_pipeline_has_an_end():
    app = App()
    async with open_port(app=app) as port, await port.client() as client:
        await client.send(LIVEZ * (PIPELINE_MAX + 50))
        answers = (await client.rest()).count(b"HTTP/1.1 200")
        assert answers == PIPELINE_MAX + 1


@pytest.mark.parametrize(
    "broken",
    [
        b"\x00\x01\x02 garbage\r\n\r\n",
        b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n",
        b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n",
        b"GET /b HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    ],
    ids=["garbage", "too large", "bad chunk", "large head"],
)
async def test_an_error_does_not_overtake_the_answer_before_it(broken):
    app = App()
    app.may_answer.clear()
    async with open_port(app=app) as port, await port.client() as client:
        await client.send(post("/a", b"1") + broken)
        await app.started.wait()
        await accepted_by(port, app)
        app.may_answer.set()
        status, _, body = await client.response()
        assert (status, body) == (200, "/a")
        assert await client.rest() == NO_WORDS
        assert app.requests == [("/a", b"1")]


async def test_half_closed_after_the_request_is_still_answered():
    app = App()
    app.may_answer.clear()
    async with open_port(app=app) as port, await port.client() as client:
        await client.send(post("/a", b"1"))
        await app.started.wait()
        client.end()
        await accepted_by(port, app)
        app.may_answer.set()
        assert (await client.response())[2] == "/a"
        assert await client.rest() == NO_WORDS


async def test_half_closed_inside_the_body_is_an_error():
    app = App()
    async with open_port(app=app) as port, await port.client() as client:
        await client.send(post("/a", b"123")[:-1])
        await app.started.wait()
        client.end()
        assert await cut(client) == 400
        await app.disconnected.wait()
        assert app.requests == []


async def test_a_head_that_waits_behind_a_slow_answer_is_given_its_time():
    """Reading is paused then; a client cannot finish a head that nobody reads."""
    clock, app = SteppedClock(), App()
    app.may_answer.clear()
    async with open_port(clock, app=app, open_timeout_s=5) as port, await port.client() as client:
        third = post("/c", b"3")
        await client.send(post("/a", b"1"))
        while not app.requests:
            await accepted_by(port, app)
        await client.send(post("/b", b"2") + third[:20])
        await accepted_by(port, app)
        for _ in range(10):
            port.step(4.9)
        app.may_answer.set()
        assert (await client.response())[2] == "/a"
        assert (await client.response())[2] == "/b"
        await client.send(third[20:])
        assert (await client.response())[2] == "/c"


async def test_a_stream_that_is_not_read_ends_even_if_the_kernel_has_all_of_it():
    class Stream(App):
        async def answer(self, send, body):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * 8192, "more_body": True})
            self.disconnected.set()
            await asyncio.Event().wait()

    clock, app = SteppedClock(), Stream()
    async with open_port(clock, app=app, write_stall_s=5) as port, await port.client(receive_bytes=4096) as client:
        await client.send(post("/a", b"1"))
        await app.disconnected.wait()
        port.step(1)
        assert port.only().transport.get_write_buffer_size() == 0
        port.step(4.9)
        assert port.listener.connections == 1
        port.step(0.2)
        await port.until_alone()
        for task in port.listener._state.tasks:
            task.cancel()


class Large(App):
    async def answer(self, send, body):
        await super().answer(send, b"x" * 1024 * 1024)


async def test_a_websocket_behind_a_large_answer_starts_with_a_full_transport():
    app = Large()
    async with open_port(app=app) as port, await port.client(receive_bytes=4096) as client:
        await client.send(post("/a", b"1"))
        assert (await client.head()).startswith("HTTP/1.1 200")
        await client.send(upgrade_request())
        await port.gateway.opened.wait()
        port.session.outbox.send_encoded(b"held")
        port.session.outbox.flush()
        assert port.session.outbox.size_bytes == port.session.link.unsent_bytes + 4
        await client.take(1024 * 1024)
        assert "101" in await client.head()
        assert await client.receive() == (1, b"held")


async def test_a_client_that_does_not_read_its_answer_is_cut_off():
    clock, app = SteppedClock(), Large()
    async with open_port(clock, app=app, write_stall_s=5) as port, await port.client(receive_bytes=4096) as client:
        await client.send(post("/a", b"1"))
        await app.started.wait()
        await client.head()
        port.step(1)
        port.step(4.9)
        assert port.listener.connections == 1
        port.step(0.2)
        await port.until_alone()
        assert port.listener.stats.stalled == 1


# --- upgrades


async def test_an_upgrade_behind_an_unanswered_request_is_dropped_and_the_request_answered():
    app = App()
    app.may_answer.clear()
    async with open_port(app=app) as port, await port.client() as client:
        await client.send(post("/a", b"1") + upgrade_request())
        await app.started.wait()
        await accepted_by(port, app)
        app.may_answer.set()
        assert (await client.response())[2] == "/a"
        assert await client.rest() == NO_WORDS
        assert not port.gateway.sessions
        assert port.listener.stats.http_cut == {"upgrade_pipelined": 1}


async def test_an_upgrade_to_something_else_is_ignored_with_its_body_intact():
    """What java.net.http sends with its first request."""
    app = App()
    async with open_port(app=app) as port, await port.client() as client:
        wish = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        await client.send(post("/a", smuggled, *wish)[:-5])
        await client.send(smuggled[-5:])
        assert (await client.response())[2] == "/a"
        await client.send(post("/b", b"", "Connection: close, upgrade", "Upgrade: h2c"))
        assert (await client.response())[2] == "/b"
        assert await client.rest() == NO_WORDS
        assert app.requests == [("/a", smuggled), ("/b", b"")]


async def test_connect_is_refused():
    async with open_port(app=App()) as port, await port.client() as client:
        await client.send(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await client.rest()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b" 405 " in answer


# --- the drain


async def test_a_drain_closes_idle_connections_at_once_and_lets_requests_finish():
    app = App()
    app.may_answer.clear()
    async with open_port(app=app) as port, await port.client() as idle, await port.client() as busy:
        await idle.send(b"GET /early HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await idle.response())[0] == 200
        await busy.send(post("/a", b"1"))
        while not app.requests:
            await accepted_by(port, app)
        await port.listener.stop_accepting()
        drained = asyncio.create_task(port.listener.drain(asyncio.get_running_loop().time() + 5))
        assert await idle.rest() == NO_WORDS
        assert not drained.done()
        app.may_answer.set()
        status, headers, _ = await busy.response()
        assert (status, headers["connection"]) == (200, "close")
        assert await drained == 0
        with pytest.raises(ConnectionRefusedError):
            await port.client()


async def test_a_drain_ends_at_its_deadline_with_whoever_is_left():
    app = App()
    app.may_answer.clear()
    async with open_port(app=app) as port, await port.client() as busy, await port.websocket():
        await busy.send(post("/a", b"1"))
        while not app.requests:
            await accepted_by(port, app)
        started = asyncio.get_running_loop().time()
        assert await port.listener.drain(started + 0.2) == 2
        assert asyncio.get_running_loop().time() - started < 1
        assert port.session.calls == ["start", "closed"]
        app.may_answer.set()
