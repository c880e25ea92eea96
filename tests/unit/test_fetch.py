"""One GET: where it may go, what counts as an answer, and that no server can hold it, swell it or send it elsewhere."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from pushwire_gateway import fetch as fetching
from pushwire_gateway.fetch import BODY_BYTES_MAX, HEAD_BYTES_MAX, Address, FetchFailed, fetch, parse_address
from pushwire_gateway.settings import ConfigError
from support.key_server import KeyServer, key_server, response

BODY = b'{"keys": []}'


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://issuer.example/keys", Address(True, "issuer.example", 443, "/keys")),
        ("https://issuer.example", Address(True, "issuer.example", 443, "/")),
        ("https://issuer.example:8443/a/b?c=d&e", Address(True, "issuer.example", 8443, "/a/b?c=d&e")),
        ("HTTPS://Issuer.Example/Keys", Address(True, "issuer.example", 443, "/Keys")),
        ("https://[2001:db8::1]:8443/keys", Address(True, "2001:db8::1", 8443, "/keys")),
        ("https://127.0.0.1/keys", Address(True, "127.0.0.1", 443, "/keys")),
    ],
)
def test_an_https_address_is_read(url, address):
    assert parse_address(url) == address


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_http_is_for_this_machine_and_only_when_allowed(host):
    url = f"http://{host}:8000/keys"
    assert parse_address(url, allow_http_loopback=True).secure is False
    with pytest.raises(ConfigError, match="only https"):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    ["http://issuer.example/keys", "http://127.0.0.1.evil.io/", "http://localhost.evil.io/", "http://10.0.0.1/",
     "http://169.254.169.254/latest/meta-data", "http://[::ffff:10.0.0.1]/", "http://0.0.0.0/", "http://2130706433/",
     "ftp://issuer.example/", "file:///etc/passwd", "gopher://127.0.0.1/", "//issuer.example/", "issuer.example", "",
     "https://", "https:///keys", "https://user@issuer.example/", "https://user:word@issuer.example/",
     "https://:word@issuer.example/", "https://issuer.example/#keys", "https://issuer.example:0/",
     "https://issuer.example:99999/", "https://issuer.example:port/", "https://issuer.example/a b",
     "https://issuer.example/\r\nX-Evil: 1", "https://issuer.example/\x7f", "https://issuer\u3002example/",
     "https://127.0.0.1\\@evil.io/", "https://[::1/", "https://[evil]/", "javascript:alert(1)"],
)  # fmt: skip
def test_any_other_address_is_refused(url):
    with pytest.raises(ConfigError, match="jwks_url"):
        parse_address(url, allow_http_loopback=True)


def of(server: KeyServer, secure: bool = False, path: str = "/keys?secret=1") -> Address:
    return Address(secure, "127.0.0.1", server.port, path)


def test_logs_see_no_query():
    assert str(Address(True, "issuer.example", 443, "/keys?key=canary")) == "https://issuer.example/keys"
    assert str(Address(False, "::1", 8000, "/?key=canary")) == "http://[::1]:8000/"


async def test_the_request_is_plain_and_the_body_comes_back():
    async with key_server() as server:
        server.answer = response(BODY)
        assert await fetch(of(server), None) == BODY
        head, *lines = server.requests[0].decode().strip().split("\r\n")
        assert head == "GET /keys?secret=1 HTTP/1.1"
        assert f"Host: 127.0.0.1:{server.port}" in lines
        assert "Connection: close" in lines
        assert not [line for line in lines if line.lower().startswith(("authorization", "cookie", "referer"))]


HEAD = b"HTTP/1.1 200 OK\r\n"
IN_CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKED = IN_CHUNKS + b"6\r\n%b\r\n6\r\n%b\r\n0\r\n\r\n" % (BODY[:6], BODY[6:])


@pytest.mark.parametrize(
    "answer",
    [
        response(BODY),
        CHUNKED,
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY,  # ends with the connection
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
        response(BODY, "200 OK", "Content-Encoding: identity", "Content-Type: text/plain", "Set-Cookie: a=b"),
        response(BODY, "200 OK", *[f"X-{number}: {'a' * 100}" for number in range(200)]),
    ],
)
async def test_an_answer_may_be_framed_in_each_of_the_three_ways(answer):
    async with key_server() as server:
        server.answer = answer
        assert await fetch(of(server), None) == BODY


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirects_are_not_followed(status):
    async with key_server() as target, key_server() as server:
        server.answer = response(b"", status, f"Location: {target.url}")
        with pytest.raises(FetchFailed, match="redirects are not followed"):
            await fetch(of(server), None)
        assert target.connections == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200", "without an answer"),
        (HEAD + b"Content-Le", "without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
        (b"HTTP/9.9 200 OK\r\n\r\n", "no HTTP"),
        (b"\x16\x03\x01\x02\x00", "no HTTP"),
        (b"GET / HTTP/1.1\r\n\r\n", "no HTTP"),
        (response(BODY, "404 Not Found"), "status 404"),
        (response(BODY, "500 Oops"), "status 500"),
        (response(b"", "204 No Content"), "status 204"),
        (response(b"", "304 Not Modified"), "status 304"),
        (response(BODY, "206 Partial Content"), "status 206"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + response(BODY), "status 100"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", "status 101|another protocol"),
        (response(BODY, "200 OK", "Content-Encoding: gzip"), "compressed"),
        (response(BODY, "200 OK", "content-encoding: br"), "compressed"),
        (HEAD + b"Content-Length: 99\r\n\r\n" + BODY, "before its end"),
        (CHUNKED[:-5], "before its end"),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 12\r\n\r\n" + BODY, "no HTTP"),
        (HEAD + b"Content-Length: -1\r\n\r\n" + BODY, "no HTTP"),
        (HEAD + b"Content-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY, "no HTTP"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP"),
        (HEAD + b"A" * (HEAD_BYTES_MAX + 70_000), "too large|no HTTP"),
        (HEAD + b"".join(b"X-%d: a\r\n" % number for number in range(30_000)), "too large"),
    ],
)
async def test_what_is_no_good_answer_is_a_failure(answer, why):
    async with key_server() as server:
        server.answer = answer
        with pytest.raises(FetchFailed, match=why) as failed:
            await fetch(of(server), None)
        assert failed.value.__cause__ is None


@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
async def test_a_body_of_1_mib_is_read_and_not_a_byte_more(framing):
    def answer(size: int) -> bytes:
        body = b"a" * size
        if framing == "length":
            return response(body)
        return HEAD + b"\r\n" + body if framing == "eof" else IN_CHUNKS + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)

    async with key_server() as server:
        server.answer = answer(BODY_BYTES_MAX)
        assert len(await fetch(of(server), None)) == BODY_BYTES_MAX
        server.answer = answer(BODY_BYTES_MAX + 1)
        with pytest.raises(FetchFailed, match="too large"):
            await fetch(of(server), None)


async def test_an_endless_answer_is_cut_off():
    sent = 0

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(IN_CHUNKS)
        while True:
            writer.write(b"1;" + b"x" * 1000 + b"\r\na\r\n")  # extensions, which no body limit counts
            sent += 1007
            await writer.drain()

    async with key_server() as server:
        server.answer = pour
        with pytest.raises(FetchFailed, match="too large"):
            await fetch(of(server), None)
        assert sent < 16 * BODY_BYTES_MAX


@pytest.mark.parametrize("part", [b"", HEAD, HEAD + b"Content-Length: 12\r\n\r\n{"])
async def test_a_server_that_stops_talking_is_left(part, monkeypatch):
    monkeypatch.setattr(fetching, "FETCH_TIMEOUT_S", 0.1)

    async def say_no_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(part)
        assert await reader.read() == b""  # until the client has gone

    async with key_server() as server:
        server.answer = say_no_more
        with pytest.raises(FetchFailed, match=r"within 0\.1 s"):
            await asyncio.wait_for(fetch(of(server), None), 5)


async def test_a_server_that_drips_is_left_just_the_same(monkeypatch):
    monkeypatch.setattr(fetching, "FETCH_TIMEOUT_S", 0.2)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"a")
            gone = asyncio.create_task(reader.read())
            await asyncio.wait([gone], timeout=0.02)
            if gone.done():
                return
            gone.cancel()
            await asyncio.wait([gone])

    async with key_server() as server:
        server.answer = drip
        with pytest.raises(FetchFailed, match=r"within 0\.2 s"):
            await asyncio.wait_for(fetch(of(server), None), 5)


async def test_nobody_there_is_a_failure():
    async with key_server() as server:
        address = of(server)
    with pytest.raises(FetchFailed, match="no connection"):
        await fetch(address, None)
    with pytest.raises(FetchFailed, match="https without TLS"):
        await fetch(Address(True, "127.0.0.1", 1, "/"), None)


async def test_tls_is_checked_against_the_authorities_and_the_name():
    ours, theirs = trustme.CA(), trustme.CA()
    trusting = ssl.create_default_context()
    ours.configure_trust(trusting)
    cases = [(ours, "127.0.0.1", True), (theirs, "127.0.0.1", False), (ours, "issuer.example", False)]
    for authority, name, good in cases:
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(serving)
        async with key_server(serving) as server:
            server.answer = response(BODY)
            if good:
                assert await fetch(of(server, secure=True), trusting) == BODY
                continue
            with pytest.raises(FetchFailed, match="TLS failed"):
                await fetch(of(server, secure=True), trusting)
            assert server.requests == []


async def test_an_https_address_never_gets_plain_http():
    async with key_server() as server:
        with pytest.raises(FetchFailed):
            await fetch(of(server, secure=True), ssl.create_default_context())
        assert not [request for request in server.requests if b"GET" in request]
