"""Opening a WebSocket: who gets 101, who an HTTP status, who a close code."""

from __future__ import annotations

import asyncio
import gc
import types
from typing import Any

import pytest

from pushwire.wire.codec import dumps
from pushwire.wire.frames import Auth
from pushwire_gateway.auth import UnknownKey
from pushwire_gateway.rights import Principal
from pushwire_gateway.tickets import Ticket
from support.port import CLOSE, Port, open_port, upgrade_request


async def refused(port: Port, request: bytes) -> tuple[int, dict, dict]:
    """The HTTP answer to a handshake, after which the connection must end."""
    async with await port.client() as client:
        await client.send(request)
        answer = await client.response()
        assert await client.rest() == b""
    return answer


async def test_a_handshake_with_a_good_token_opens_a_session_of_its_principal():
    async with open_port() as port, await port.client() as client:
        await client.send(upgrade_request(authorization=f"Bearer {port.gateway.token('ann')}"))
        head = await client.head()
        assert head.startswith("HTTP/1.1 101 Switching Protocols\r\n")
        assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        assert "Sec-WebSocket-Protocol: pushwire.v1\r\n" in head
        assert "server:" not in head.lower()
        await port.gateway.opened.wait()
        assert port.session.principal.subject == "ann"
        assert port.session.calls == ["start"]
        assert port.session.link.ip == "127.0.0.1"


async def test_a_token_may_come_as_a_subprotocol_and_is_not_echoed():
    async with open_port() as port, await port.client() as client:
        token = port.gateway.token("bob")
        await client.send(upgrade_request(sec_websocket_protocol=f"pushwire.v1, bearer.{token}"))
        head = await client.head()
        assert "Sec-WebSocket-Protocol: pushwire.v1\r\n" in head
        assert token not in head
        await port.gateway.opened.wait()
        assert port.session.principal.subject == "bob"


async def test_without_a_token_the_session_starts_unauthenticated():
    async with open_port() as port, await port.client() as client:
        await client.send(upgrade_request())
        assert "101" in await client.head()
        await port.gateway.opened.wait()
        assert port.session.principal is None
        assert port.gateway.caps.unauthenticated == 1
        port.session.link.authenticated()
        assert port.gateway.caps.unauthenticated == 0


@pytest.mark.parametrize(
    "authorization", ["Bearer not.a.token", "Bearer", "Basic YTpi", "Bearer " + "x" * 5000], ids=range(4)
)
async def test_a_bad_token_in_the_header_is_401_with_one_text_for_all(authorization):
    async with open_port() as port:
        status, headers, body = await refused(port, upgrade_request(authorization=authorization))
        assert (status, body["code"], headers["www-authenticate"]) == (401, "unauthorized", "bearer")
        assert headers["content-type"] == "application/problem+json"
        assert "detail" not in body
        assert not port.gateway.sessions


async def test_two_tokens_are_401():
    async with open_port() as port:
        token = port.gateway.token()
        request = upgrade_request(
            authorization=f"Bearer {token}", sec_websocket_protocol=f"pushwire.v1, bearer.{token}"
        )
        assert (await refused(port, request))[0] == 401


async def test_a_bad_token_in_the_subprotocol_gets_goodbye_and_4401_which_a_browser_can_see():
    async with open_port() as port, await port.client() as client:
        await client.send(upgrade_request(sec_websocket_protocol="pushwire.v1, bearer.not.a.token"))
        assert "Sec-WebSocket-Protocol: pushwire.v1\r\n" in await client.head()
        goodbye = await client.receive_json()
        assert (goodbye["op"], goodbye["code"], goodbye["reconnect"]) == ("goodbye", 4401, True)
        assert await client.closed_with() == 4401
        assert not port.gateway.sessions


async def test_an_unknown_subprotocol_is_accepted_and_closed_with_4406():
    async with open_port() as port, await port.client() as client:
        await client.send(upgrade_request(sec_websocket_protocol="bearer.a.b.c, pushwire.v9, mqtt"))
        assert "Sec-WebSocket-Protocol: pushwire.v9\r\n" in await client.head()
        assert await client.closed_with() == 4406
        await client.frame((4406).to_bytes(2, "big"), CLOSE)
        assert await client.rest() == b""  # RFC 6455 §7.1.1: the server closes first
        await port.until_alone()
        assert not port.gateway.sessions


async def test_the_known_subprotocol_is_chosen_wherever_it_stands():
    async with open_port() as port, await port.client() as client:
        await client.send(upgrade_request(sec_websocket_protocol="mqtt,pushwire.v9 ,  pushwire.v1"))
        assert "Sec-WebSocket-Protocol: pushwire.v1\r\n" in await client.head()


BAD_HANDSHAKES: dict[str, tuple[dict[str, Any], int]] = {
    "no subprotocol": ({"sec_websocket_protocol": ""}, 400),
    "only a token": ({"sec_websocket_protocol": "bearer.a.b.c"}, 400),
    "no token syntax": ({"sec_websocket_protocol": "<script>"}, 400),
    "no key": ({"sec_websocket_key": ""}, 400),
    "short key": ({"sec_websocket_key": "c2hvcnQ="}, 400),
    "no base64": ({"sec_websocket_key": "!!!"}, 400),
    "old version": ({"sec_websocket_version": "8"}, 400),
    "post": ({"method": "POST"}, 405),
    "other path": ({"path": "/v1/ws/"}, 404),
    "encoded path": ({"path": "/v1/%77s"}, 404),
    "upper case": ({"path": "/V1/WS"}, 404),
    "body": ({"content_length": "4", "body": b"1234"}, 400),
    "chunked body": ({"transfer_encoding": "chunked", "body": b"0\r\n\r\n"}, 400),
    "no host": ({"host": ""}, 400),
    "http/1.0": ({"version": "1.0"}, 505),
}


@pytest.mark.parametrize("name", BAD_HANDSHAKES)
async def test_a_bad_handshake_is_refused_over_http(name):
    changes, expected = BAD_HANDSHAKES[name]
    async with open_port() as port:
        status, headers, body = await refused(port, upgrade_request(**changes))
        assert (status, body["status"], headers["connection"]) == (expected, expected, "close")
        await port.until_alone()
        assert not port.gateway.sessions
        assert port.gateway.caps.connections == 0


async def test_while_draining_nobody_new_comes_in():
    async with open_port() as port:
        port.gateway.draining = True
        status, headers, body = await refused(port, upgrade_request())
        assert (status, body["code"], headers["retry-after"]) == (503, "going_away", "1")


async def test_compression_and_every_other_extension_is_ignored():
    async with open_port() as port, await port.client() as client:
        await client.send(
            upgrade_request(sec_websocket_extensions="permessage-deflate; client_max_window_bits, x-frame")
        )
        head = await client.head()
        assert "101" in head
        assert "extensions" not in head.lower()
        await client.send(b"\xc1\x80\x00\x00\x00\x00")  # RSV1: compressed
        assert await client.closed_with() == 1002


async def test_a_query_does_not_change_the_path():
    async with open_port() as port, await port.client() as client:
        await client.send(upgrade_request(path="/v1/ws?token=none&x=1"))
        assert "101" in await client.head()


async def test_frames_sent_right_behind_the_handshake_are_not_lost():
    async with open_port() as port, await port.client() as client:
        ops = b"".join(
            bytes([0x81, 0x80 | len(op)]) + bytes(4) + op for op in (dumps({"op": "ping", "ref": n}) for n in (1, 2))
        )
        await client.send(upgrade_request(body=ops))
        await port.gateway.opened.wait()
        await port.session.until(lambda: len(port.session.frames) == 2)
        assert port.session.calls[:2] == ["start", "receive"]
        assert [frame.ref for frame in port.session.frames] == [1, 2]


async def test_a_handshake_that_comes_byte_by_byte():
    async with open_port() as port, await port.client() as client:
        for byte in upgrade_request():
            await client.send(bytes([byte]))
        assert "101" in await client.head()


async def test_a_websocket_after_requests_on_the_same_connection():
    async with open_port() as port, await port.client() as client:
        await client.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response())[0] == 200
        await client.send(upgrade_request())
        assert "101" in await client.head()


async def test_the_request_does_not_stay_in_memory():
    """A token has no business in the heap of a connection that lives for hours."""
    async with open_port() as port:
        token = port.gateway.token()
        async with await port.websocket(authorization=f"Bearer {token}"):
            await port.gateway.opened.wait()
            connection = port.only()
            elsewhere = [port.listener._hub, connection._transport, port.session, port.gateway.caps]
            held = reachable(connection, elsewhere)
            assert len(held) > 50  # the walk does see the connection's parts
            assert any(type(one) is str and one == "127.0.0.1" for one in held)
            assert not [one for one in held if type(one) is str and token in one]
            assert not [one for one in held if type(one) in (bytes, bytearray) and token.encode() in one]


def reachable(root: object, without: list[object]) -> list[object]:
    """Every object that hangs on `root`, not through those excluded nor through code."""
    seen = {id(one) for one in without}
    found, waiting = [], [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(one))
        found.append(one)
        waiting.extend(gc.get_referents(one))
    return found


async def test_a_foreign_origin_is_403_and_a_listed_one_comes_in():
    async with open_port(origins=("https://app.example.com",)) as port:
        status, _, body = await refused(port, upgrade_request(origin="https://evil.io"))
        assert (status, body["code"]) == (403, "forbidden")
        async with await port.client() as client:
            await client.send(upgrade_request(origin="https://app.example.com"))
            assert "101" in await client.head()


async def test_a_session_that_cannot_be_made_costs_its_client_1011_and_nobody_else(caplog):
    async with open_port() as port, await port.websocket() as other:
        await asyncio.wait_for(port.gateway.opened.wait(), 5)
        made = port.gateway.make_session
        setattr(port.gateway, "make_session", lambda *_: 1 / 0)  # noqa: B010 - a fault put in; its type is wrong
        async with await port.websocket() as client:
            assert await client.closed_with() == 1011
        setattr(port.gateway, "make_session", made)  # noqa: B010 - as above
        await other.frame('{"op":"ping","ref":1}')
        await port.session.until_called("receive")
        assert caplog.text.count("ZeroDivisionError") == 1
        assert port.listener.stats.failures == 1


# --- tickets and keys that come late


async def ticket(port: Port, origin: str | None = None) -> str:
    now = port.gateway.clock.now()
    principal = port.gateway.verifier.verify(port.gateway.token("ann"), now)
    issued = port.gateway.verifier.issue_ticket(principal, origin, now)
    assert isinstance(issued, Ticket)
    return issued.text


async def test_a_ticket_in_the_url_opens_one_session_of_its_principal():
    async with open_port() as port:
        path = f"/v1/ws?ticket={await ticket(port)}"
        async with await port.client() as first, await port.client() as second:
            await first.send(upgrade_request(path=path))
            assert "101" in await first.head()
            await port.gateway.opened.wait()
            assert port.session.principal.subject == "ann"
            await second.send(upgrade_request(path=path))
            assert "101" in await second.head()
            assert await second.closed_with() == 4401


async def test_a_ticket_beside_a_token_is_refused_and_used_up_by_nobody():
    async with open_port() as port:
        path = f"/v1/ws?ticket={await ticket(port)}"
        request = upgrade_request(path=path, authorization=f"Bearer {port.gateway.token('bob')}")
        assert (await refused(port, request))[0] == 401
        async with await port.client() as client:
            await client.send(upgrade_request(path=path))
            assert "101" in await client.head()
            await port.gateway.opened.wait()
            assert port.session.principal.subject == "ann"


@pytest.mark.parametrize("query", ["ticket=", "ticket=a&ticket=b", "ticket=n1.none", "ticket=" + "x" * 2000])
async def test_a_ticket_that_is_none_closes_with_4401(query):
    async with open_port() as port, await port.client() as client:
        await client.send(upgrade_request(path=f"/v1/ws?{query}"))
        assert "101" in await client.head()
        assert await client.closed_with() == 4401
        assert not port.gateway.sessions


async def test_a_ticket_of_another_origin_opens_nothing():
    async with open_port(origins=["https://a.example", "https://b.example"]) as port, await port.client() as client:
        path = f"/v1/ws?ticket={await ticket(port, 'https://a.example')}"
        await client.send(upgrade_request(path=path, origin="https://b.example"))
        assert "101" in await client.head()
        assert await client.closed_with() == 4401


async def test_a_token_whose_key_may_come_opens_a_session_that_asks_for_it(monkeypatch):
    async with open_port() as port, await port.client() as client:

        def unknown(_token: str | bytes, _now: float) -> Principal:
            raise UnknownKey("new")

        monkeypatch.setattr(port.gateway.verifier, "verify", unknown)
        token = port.gateway.token("ann")
        await client.send(upgrade_request(authorization=f"Bearer {token}"))
        assert "101" in await client.head()
        await port.gateway.opened.wait()
        await port.session.until(lambda: bool(port.session.frames))
        assert port.session.principal is None
        assert [(type(frame), frame.token) for frame in port.session.frames] == [(Auth, token)]
