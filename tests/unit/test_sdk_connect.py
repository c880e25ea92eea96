"""Connecting over real sockets: refused upgrades, redirects, silence, tokens."""

from __future__ import annotations

import http
import logging

import pytest

from pushwire import Backoff, Client, Forbidden, NotConnected, ProtocolError, State, Unauthorized
from pushwire.wire import frames
from support.sdk_peer import Peer
from support.sdk_server import client_of, serving

# --- the upgrade -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (http.HTTPStatus.UNAUTHORIZED, Unauthorized),
        (http.HTTPStatus.FORBIDDEN, Forbidden),
        (http.HTTPStatus.NOT_FOUND, ProtocolError),
    ],
)
async def test_a_refused_upgrade_that_is_final(status, kind):
    async with serving() as server:
        server.answer = lambda connection, _request: connection.respond(status, "no")
        async with client_of(server) as client:
            with pytest.raises(kind, match=str(status.value)):
                await client.wait_connected(5)


async def test_a_gateway_that_is_busy_is_tried_again():
    async with serving() as server:

        def answer(connection, _request):
            if len(server.requests) < 3:
                response = connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "later")
                response.headers["Retry-After"] = "0"
                return response
            return None

        server.answer = answer
        async with client_of(server) as client:
            await client.wait_connected(5)
            assert len(server.requests) == 3


async def test_a_redirect_is_not_followed_with_the_token():
    async with serving() as elsewhere, serving() as server:

        def answer(connection, _request):
            response = connection.respond(http.HTTPStatus.FOUND, "there")
            response.headers["Location"] = elsewhere.url + "/v1/ws"
            return response

        server.answer = answer
        async with client_of(server) as client:
            with pytest.raises(ProtocolError):
                await client.wait_connected(5)
        assert elsewhere.requests == []


async def test_a_server_of_another_protocol_is_refused():
    async with serving(subprotocol="other.v1") as server, client_of(server) as client:
        with pytest.raises(ProtocolError):
            await client.wait_connected(5)


async def test_a_server_that_names_no_protocol_is_refused():
    async with serving(subprotocol=None) as server, client_of(server) as client:
        with pytest.raises(ProtocolError, match=r"pushwire\.v1"):
            await client.wait_connected(5)


async def test_nobody_there():
    async with serving() as server:
        url = server.url
    async with Client(url, reconnect=Backoff(0.01, 0.01)) as client:
        with pytest.raises(NotConnected) as caught:
            await client.publish("orders", 1, timeout_s=0.3)
        assert caught.value.__cause__ is not None
        assert client.state is State.CONNECTING


async def test_a_gateway_that_accepts_and_says_nothing():
    peer = Peer()
    peer.greets = False
    async with serving(peer) as server, client_of(server, connect_timeout_s=0.05) as client:
        await server.until(lambda: len(peer.links) >= 2)
        assert client.state is State.CONNECTING


# --- tokens ----------------------------------------------------------------------------------------------------


async def test_a_token_callable_is_told_why():
    reasons = []

    async def token(reason):
        reasons.append(reason)
        return f"token-{len(reasons)}"

    async with serving(Peer(expires_in_ms=1)) as server, client_of(server, token) as client:
        await server.until(lambda: bool(server.peer.link.of(frames.Auth)) if server.peer.links else False)
        assert server.peer.link.of(frames.Auth)[0].token == "token-2"
        server.peer.welcome["expires_in_ms"] = 3_600_000
        server.cut()
        await server.until(lambda: len(server.peer.links) == 2)
        await client.wait_connected(5)
        assert reasons[:2] == ["connect", "expiring"]
        assert reasons[-1] == "connect"


async def test_a_rejected_token_is_fetched_once_more():
    reasons = []

    def token(reason):
        reasons.append(reason)
        return reason

    async with serving() as server:
        server.answer = lambda connection, request: (
            None
            if request.headers["Authorization"] == "Bearer rejected"
            else connection.respond(http.HTTPStatus.UNAUTHORIZED, "no")
        )
        async with client_of(server, token) as client:
            await client.wait_connected(5)
        assert reasons == ["connect", "rejected"]


async def test_unauthorized_from_the_callable_stops_the_client():
    def token(reason):
        raise Unauthorized("logged out")

    async with serving() as server, client_of(server, token) as client:
        with pytest.raises(Unauthorized, match="logged out"):
            await client.publish("orders", 1)
        assert server.requests == []


async def test_unauthorized_at_a_refresh_stops_the_client_too():
    def token(reason):
        if reason == "expiring":
            raise Unauthorized("logged out")
        return "good"

    async with serving(Peer(expires_in_ms=50)) as server, client_of(server, token) as client:
        events = client.events()
        changes = [change async for change in events]
        assert changes[-1].state is State.CLOSED
        assert type(changes[-1].error) is Unauthorized
        with pytest.raises(Unauthorized, match="logged out"):
            await client.publish("orders", 1)


async def test_a_callable_that_fails_is_asked_again_and_its_failure_logged(caplog):
    calls = []

    def token(reason):
        calls.append(reason)
        if len(calls) < 3:
            raise ConnectionError("identity provider down")
        return "good"

    async with serving() as server, client_of(server, token) as client:
        await client.wait_connected(5)
        assert calls == ["connect"] * 3
        assert sum("no token" in record.message for record in caplog.records) >= 2


@pytest.mark.parametrize("bad", ["two\r\nlines", "", "a b", 7, b"bytes", None])
async def test_what_is_no_token_never_reaches_a_header(bad):
    async with serving() as server, client_of(server, lambda reason: bad) as client:
        with pytest.raises(Unauthorized) as caught:
            await client.wait_connected(5)
        assert not bad or str(bad) not in str(caught.value)
        assert server.requests == []


async def test_the_token_is_in_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    async with serving() as server, client_of(server) as client:
        await client.publish("orders", 1)
        server.cut()
        await server.until(lambda: len(server.peer.links) == 2)
    ours = [record for record in caplog.records if record.name.startswith("pushwire")]
    assert ours
    assert not [record for record in ours if "secret-token" in record.getMessage()]
