"""Requests that two parsers could read differently: never a second request served, never a crash.

Each vector is sent whole and byte by byte. `/smuggled` is the request that must not be seen; a connection may serve
`/a` or refuse it, and is judged by what the application got.
"""

from __future__ import annotations

import contextlib
import logging

import pytest

from support.port import open_port

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
LENGTH = str(len(SMUGGLED)).encode()
CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)


def post(*lines: bytes, body: bytes = SMUGGLED, start: bytes = b"POST /a HTTP/1.1", end: bytes = b"\r\n") -> bytes:
    return end.join([start, b"Host: a", *lines, b"", b""]) + body


VECTORS = {
    # Content-Length and Transfer-Encoding at once (RFC 9112 §6.3)
    "CL.TE": post(b"Content-Length: " + LENGTH, b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "TE.CL": post(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=CHUNK),
    "TE.CL0": post(b"Transfer-Encoding: chunked", b"Content-Length: 0", body=SMUGGLED),
    # two lengths, or one that is none
    "two lengths": post(b"Content-Length: 0", b"Content-Length: " + LENGTH),
    "two lengths in one": post(b"Content-Length: 0, " + LENGTH),
    "same length twice": post(b"Content-Length: 0", b"Content-Length: 0"),
    "negative length": post(b"Content-Length: -1"),
    "signed length": post(b"Content-Length: +0"),
    "hexadecimal length": post(b"Content-Length: 0x" + b"%x" % len(SMUGGLED)),
    "length with a space inside": post(b"Content-Length: 0 " + LENGTH),
    "length beyond 64 bits": post(b"Content-Length: 18446744073709551616"),
    "empty length": post(b"Content-Length:"),
    # codings that some read as chunked
    "coding in quotes": post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n" + SMUGGLED),
    "unknown coding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "chunked is not last": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + SMUGGLED),
    "chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=CHUNK),
    "gzip and chunked": post(b"Transfer-Encoding: gzip, chunked", body=CHUNK),
    "coding with a control character": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "coding in HTTP/1.0": post(b"Transfer-Encoding: chunked", start=b"POST /a HTTP/1.0", body=CHUNK),
    # names that some trim
    "space before the colon": post(b"Content-Length : " + LENGTH),
    "tab before the colon": post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "leading space": post(b" Content-Length: " + LENGTH),
    "NUL in a name": post(b"Content-Length\x00: " + LENGTH),
    "underscore": post(b"Content_Length: " + LENGTH, b"Content-Length: 5", body=b"12345"),
    # lines that end otherwise
    "bare LF": post(b"Content-Length: 0", end=b"\n", body=SMUGGLED),
    "LF inside a header": post(b"X: 1\nContent-Length: " + LENGTH, b"Content-Length: 0"),
    "bare CR": post(b"X: 1\rContent-Length: " + LENGTH, b"Content-Length: 0"),
    "LF LF ends the head": b"POST /a HTTP/1.1\r\nHost: a\r\nX: y\n\n" + SMUGGLED,
    "folded line": post(b"X: 1", b" Content-Length: " + LENGTH, body=SMUGGLED),
    "folded coding": post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n" + SMUGGLED),
    # chunks
    "chunk size with a sign": post(b"Transfer-Encoding: chunked", body=b"+0\r\n\r\n" + SMUGGLED),
    "chunk size with 0x": post(b"Transfer-Encoding: chunked", body=b"0x0\r\n\r\n" + SMUGGLED),
    "chunk size of 17 digits": post(b"Transfer-Encoding: chunked", body=b"10000000000000000\r\n" + SMUGGLED),
    "chunk that ends with LF": post(b"Transfer-Encoding: chunked", body=b"1\nx\n0\n\n" + SMUGGLED),
    "LF in a chunk extension": post(b"Transfer-Encoding: chunked", body=b"0;a\n\r\n" + SMUGGLED),
    "chunk longer than its size": post(b"Transfer-Encoding: chunked", body=b"1\r\nxx\r\n0\r\n\r\n" + SMUGGLED),
    # after the end
    "after Connection: close": post(b"Content-Length: 0", b"Connection: close"),
    "after HTTP/1.0": post(b"Content-Length: 0", start=b"POST /a HTTP/1.0"),
    # upgrades end the parsing of HTTP
    "body behind an upgrade": post(b"Content-Length: " + LENGTH, b"Connection: upgrade", b"Upgrade: h2c"),
    "body behind an upgrade to WebSocket": post(
        b"Content-Length: " + LENGTH, b"Connection: upgrade", b"Upgrade: websocket"
    ),
    "two hosts": post(b"Host: b", b"Content-Length: " + LENGTH),
    "no host": b"POST /a HTTP/1.1\r\nContent-Length: " + LENGTH + b"\r\n\r\n" + SMUGGLED,
    "request line with two spaces": post(b"Content-Length: " + LENGTH, start=b"POST  /a  HTTP/1.1"),
    "version 1.2": post(b"Content-Length: " + LENGTH, start=b"POST /a HTTP/1.2"),
    "version 2.0": post(b"Content-Length: " + LENGTH, start=b"POST /a HTTP/2.0"),
    "version 0.9": post(b"Content-Length: " + LENGTH, start=b"POST /a HTTP/0.9"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
    "path that is no ASCII": post(b"Content-Length: " + LENGTH, start=b"POST /\xc3\xa4 HTTP/1.1"),
    "target that is no URL": post(b"Content-Length: " + LENGTH, start=b"POST http://:80x/ HTTP/1.1"),
}
SERVED = {
    "underscore", "body behind an upgrade", "after Connection: close", "after HTTP/1.0",
    "request line with two spaces",
}  # fmt: skip
"""Vectors that are plain requests for us. All others must be refused."""


class Seen:
    """An ASGI app that notes what reaches it."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope, receive, send):
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            if not event["more_body"]:
                break
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


@pytest.mark.parametrize("piece_bytes", [65536, 1], ids=["whole", "bytewise"])
@pytest.mark.parametrize("name", VECTORS)
async def test_no_second_request(name, piece_bytes, caplog):
    app = Seen()
    async with open_port(app=app) as port, await port.client() as client:
        vector = VECTORS[name]
        with contextlib.suppress(OSError):  # refused before the end
            for start in range(0, len(vector), piece_bytes):
                await client.send(vector[start : start + piece_bytes])
            client.end()
        answer = await client.rest()
        await port.until_alone()
    assert "/smuggled" not in app.paths
    statuses = [int(part.split()[0]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert len(statuses) <= 1
    if name in SERVED:
        assert app.paths == ["/a"]
        assert statuses == [200]
    else:
        assert app.paths == []
        assert all(400 <= status < 600 for status in statuses)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert port.listener.stats.failures == 0
