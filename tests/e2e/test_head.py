"""What comes before a request is complete: heads that never end, that are too large, that hide another request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from bench import framing
from support import http_client
from support.http_client import HttpClient, parse_response, request_bytes

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
OPEN_TIMEOUT_S = 5.0
HEAD_BYTES_MAX = 16 * 1024


async def _closed_after(port: int, begin: bytes, drip: bytes) -> tuple[float, bytes]:
    """Seconds from connecting until the server closes, with a byte of `drip` every 0.2 s; and what it said."""
    client = await HttpClient.connect(port)
    began = time.monotonic()
    await client.send(begin)
    rest = asyncio.ensure_future(client.rest(timeout_s=10))
    for at in range(len(drip)):
        done, _ = await asyncio.wait([rest], timeout=0.2)
        if done:
            break
        await client.send(drip[at : at + 1])
    said = await rest
    return time.monotonic() - began, said


UNFINISHED = {
    "silent": (b"", b""),
    "stopped in the middle": (b"GET /livez HTTP/1.1\r\nHost: a\r\n", b""),
    "dripping": (b"GET /livez HTTP/1.1\r\nX-A: ", b"b" * 60),
    "without its last line": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n", b"\r"),
}


async def test_an_unfinished_head_is_dropped_after_5_seconds(gateway):
    ends = [asyncio.ensure_future(_closed_after(gateway.port, *how)) for how in UNFINISHED.values() for _ in range(3)]
    await asyncio.sleep(0)
    # Others are served meanwhile.
    assert (await http_client.request(gateway.port, "GET", "/livez", timeout_s=1)).status == 200
    for took_s, said in await asyncio.gather(*ends):
        assert OPEN_TIMEOUT_S - 0.2 <= took_s <= OPEN_TIMEOUT_S + 0.6
        assert not said or parse_response(said)[0].status == 408


async def test_a_head_of_more_than_16_kib_is_refused_before_it_ends(gateway):
    client = await HttpClient.connect(gateway.port)
    head = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
    filler = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(40))
    began = time.monotonic()
    await client.send((head + filler)[: HEAD_BYTES_MAX + 1])
    response = await client.response()
    assert time.monotonic() - began < 1.0
    assert response.status == 431
    assert await client.rest() == b""
    # Just below the limit it is a request as any other.
    fits = head + (b"X-A: " + b"a" * (HEAD_BYTES_MAX - len(head) - 12)) + b"\r\n\r\n"
    assert len(fits) < HEAD_BYTES_MAX
    other = await HttpClient.connect(gateway.port)
    await other.send(fits)
    assert (await other.response()).status == 200
    other.close()


def test_a_head_without_end_takes_no_memory(gateway):
    before_kib = gateway.memory_kib()
    with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
        sock.settimeout(5)
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(b"GET / HTTP/1.1\r\nX-A: ")
            while time.monotonic() < began + 10:
                sock.sendall(b"a" * 65536)
    # What is sent after the refusal is thrown away unread, for as long as a close may take.
    assert time.monotonic() - began < 4.0
    assert gateway.memory_kib() - before_kib < 4096


def _upgrade(token: str) -> bytes:
    return framing.upgrade_request("127.0.0.1", "/v1/ws", KEY, "pushwire.v1", token)


@pytest.mark.parametrize("first", ["publish", "livez", "unknown"])
async def test_a_request_pipelined_before_an_upgrade_never_reaches_the_socket(gateway, first):
    token = gateway.token()
    ahead = {
        "publish": request_bytes("POST", "/v1/topics/orders/messages", b'{"data":1}', token=token),
        "livez": request_bytes("GET", "/livez"),
        "unknown": request_bytes("GET", "/nowhere"),
    }[first]
    client = await HttpClient.connect(gateway.port)
    await client.send(ahead + _upgrade(token))
    answer = await client.response()
    assert answer.status == (404 if first == "unknown" else 200)
    said = await client.rest()
    # Either the upgrade is refused, or all of the answer had been sent before the socket began.
    assert not said.startswith(b"HTTP/1.1 101"), "the upgrade was taken with an answer pending"
    assert not said or parse_response(said)[0].status >= 400


async def test_operations_sent_behind_the_upgrade_are_not_lost(gateway):
    client = await HttpClient.connect(gateway.port)
    await client.send(_upgrade(gateway.token()) + framing.encode(b'{"op":"ping","ref":7}'))
    said = b""
    async with asyncio.timeout(5):
        while b'"pong"' not in said:
            said += await client._reader.read(4096)
    rest = framing.read_upgrade(said, KEY, "pushwire.v1")
    assert rest is not None
    payloads = [payload for _, payload in framing.Reader().feed(rest)]
    assert b'"welcome"' in payloads[0]
    assert any(b'"ref":7' in payload for payload in payloads)
    client.close()
