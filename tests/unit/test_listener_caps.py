"""Who is let in: caps and rates before a byte is read, TLS, and addresses."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.typing import Origin, Subprotocol

from pushwire.wire.codec import dumps, loads
from pushwire_gateway.listener import SWEEP_SLICE, Listener, tls_context
from pushwire_gateway.settings import ConfigError, load
from support.port import (
    PATIENCE_S,
    Port,
    RawClient,
    SmallGateway,
    SteppedClock,
    echo,
    open_port,
    upgrade_request,
)

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


async def alive(client: RawClient) -> bool:
    await client.send(LIVEZ)
    return (await client.response())[0] == 200


async def turned_away(port: Port) -> tuple[int, dict, dict]:
    """What a new client is told that says nothing itself."""
    async with await port.client() as client:
        answer = await client.response()
        assert await client.rest() == b""
    return answer


async def test_the_total_refuses_before_anything_is_read_and_the_others_go_on():
    async with open_port(connections_max=2) as port, await port.client() as one, await port.client() as two:
        assert await alive(one)
        assert await alive(two)
        status, headers, body = await turned_away(port)
        assert (status, body["code"], headers["retry-after"]) == (503, "too_many_connections", "5")
        assert (body["retryable"], body["retry_after_ms"]) == (True, 5000)
        assert await alive(one)
        two.sock.close()
        await comes_in(port)
        assert port.listener.stats.refused["total"] >= 1


async def comes_in(port: Port) -> None:
    """A client comes in, as soon as the place that was given up is free."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with await port.client() as client:
                await client.send(LIVEZ)
                if (await client.response())[0] == 200:
                    return


async def test_clients_without_a_token_have_a_smaller_cap_that_a_token_lifts():
    async with open_port(unauthenticated_per_ip=2) as port, contextlib.AsyncExitStack() as clients:
        for _ in range(5):
            await clients.enter_async_context(await port.websocket())
            port.session.link.authenticated()
        for _ in range(2):
            client = await clients.enter_async_context(await port.client())
            assert await alive(client)
        assert (await turned_away(port))[0] == 503
        assert port.listener.stats.refused == {"unauthenticated_address": 1}
        # A request with a good token counts as one that has shown it, for the rest of its connection.
        token = port.gateway.token()
        body = b'{"data":1}'
        await client.send(
            b"POST /v1/topics/t/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (token.encode(), len(body), body)
        )
        assert (await client.response())[0] == 200
        assert await alive(await clients.enter_async_context(await port.client()))


async def test_every_way_to_end_gives_the_place_back_once():
    async with open_port() as port:
        for _ in range(3):
            async with await port.client() as client:
                assert await alive(client)
            async with await port.client() as client:
                await client.send(b"garbage\r\n\r\n")
                await client.rest()
            async with await port.client() as client:
                await client.send(upgrade_request(sec_websocket_key=""))
                await client.rest()
            async with await port.websocket():
                pass
            (await port.websocket()).reset()
        await port.until_alone()
        counts = port.gateway.caps
        assert (counts.connections, counts.unauthenticated) == (0, 0)
        assert len(counts._by_address) == 0


async def test_connects_are_limited_by_rate():
    clock = SteppedClock()
    async with open_port(clock, connects_per_s_per_ip=2, connects_burst_per_ip=3) as port:
        for _ in range(3):
            async with await port.client() as client:
                assert await alive(client)
        status, headers, body = await turned_away(port)
        assert (status, body["code"], headers["retry-after"]) == (429, "rate_limited", "1")
        assert body["retry_after_ms"] == 500
        clock.step(0.5)
        async with await port.client() as client:
            assert await alive(client)
        assert port.listener.stats.refused == {"rate": 1}
        assert port.gateway.caps.connections <= 1


async def test_a_check_that_fails_costs_its_connection_and_not_the_sweep(caplog):
    clock = SteppedClock()
    async with open_port(clock) as port, await port.client() as client, await port.websocket():
        assert await alive(client)
        http: Any = next(one for one in port.listener._hub.live if not hasattr(one, "ip"))
        http.check = lambda _now: 1 / 0
        await port.session.until(lambda: port.session.checks >= 2)
        assert await client.rest() == b""
        assert caplog.text.count("ZeroDivisionError") == 1


async def test_a_sweep_of_many_is_done_in_slices():
    class Counted:
        checks = 0

        def check(self, now):
            self.checks += 1

        def drain(self): ...
        def abort(self):
            port.listener._hub.leave(self)

    async with open_port() as port:
        port.listener._sweep_timer.cancel()
        port.listener._unswept.clear()
        many = [Counted() for _ in range(2 * SWEEP_SLICE + 1)]
        for one in many:
            port.listener._hub.join(one)
        for turn in (1, 2, 3):
            port.listener._sweep()
            port.listener._sweep_timer.cancel()
            assert sum(one.checks for one in many) == min(turn * SWEEP_SLICE, len(many))


# --- addresses


async def test_every_address_of_a_name_is_bound_to_one_port():
    async with open_port(host="localhost") as port:
        numbers = {number for _, number in port.listener.addresses}
        assert len(numbers) == 1
        for host, number in port.listener.addresses:
            _, writer = await asyncio.open_connection(host, number)
            writer.close()
            await writer.wait_closed()
        await port.until_alone()


async def test_an_ipv6_address_has_brackets_in_its_url_and_counts_by_site():
    async with open_port(host="::1", connections_per_ip=1) as port:
        assert port.url == f"http://[::1]:{port.address[1]}"
        reader, writer = await asyncio.open_connection(*port.address)
        writer.write(LIVEZ)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        other, second = await asyncio.open_connection(*port.address)
        assert (await other.readline()).startswith(b"HTTP/1.1 503")
        for one in (writer, second):
            one.close()
        assert port.listener.stats.refused == {"address": 1}


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open():
    async with open_port() as port:
        gateway = SmallGateway(load(port=port.address[1]), SteppedClock())
        with pytest.raises(OSError, match="in use"):
            await Listener(gateway).start()


# --- TLS


@pytest.fixture
def authority(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o600)
    for chain, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(tmp_path / "cert.pem", append=chain > 0)
    return authority


@pytest.fixture
def files(authority, tmp_path):
    return {"tls_cert_file": tmp_path / "cert.pem", "tls_key_file": tmp_path / "key.pem"}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_a_websocket_over_tls_talks_and_closes(authority, files):
    async with open_port(**files) as port:
        port.gateway.on_receive = echo
        url = port.url.replace("https://", "wss://") + "/v1/ws"
        async with connect(
            url,
            ssl=trusting(authority),
            subprotocols=[Subprotocol("pushwire.v1")],
            additional_headers={"Authorization": f"Bearer {port.gateway.token()}"},
            origin=Origin(port.url),
        ) as client:
            for ref in range(5):
                await client.send(dumps({"op": "ping", "ref": ref, "note": "x" * 200_000}).decode())
                assert loads(await client.recv()) == {"op": "ok", "ref": ref}
            await port.gateway.opened.wait()
            port.session.link.close(4403, "kicked")
            await asyncio.wait_for(client.wait_closed(), PATIENCE_S)
            assert client.close_code == 4403
        await port.until_alone()
        assert port.session.calls[-1] == "closed"
        assert port.gateway.caps.connections == 0


async def test_a_handshake_sent_with_the_end_of_tls_is_not_lost(authority, files):
    async with open_port(**files) as port:
        reader, writer = await asyncio.open_connection(*port.address, ssl=trusting(authority))
        writer.write(upgrade_request(origin=port.url.replace("http://", "https://"), host=port.url[8:]))
        assert (await reader.readline()).startswith(b"HTTP/1.1 101")
        await port.gateway.opened.wait()
        writer.transport.abort()
        await port.until_alone()


@pytest.mark.parametrize("scenario", ["talk", "early"])
def test_the_same_on_the_other_event_loop(scenario, authority, files):
    """uvloop reads before anybody could start TLS, and its TLS is its own."""
    uvloop = pytest.importorskip("uvloop", reason="not made for every platform")
    story = {
        "talk": test_a_websocket_over_tls_talks_and_closes,
        "early": test_a_handshake_sent_with_the_end_of_tls_is_not_lost,
    }[scenario](authority, files)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asyncio.wait_for(story, PATIENCE_S)) is None


async def test_what_is_no_tls_comes_to_nothing(authority, files):
    async with open_port(**files) as port:
        async with await port.client() as client:
            await client.send(LIVEZ)
            assert b"HTTP" not in await client.rest()
        reader, writer = await asyncio.open_connection(*port.address, ssl=trusting(authority))
        writer.write(LIVEZ)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()
        await port.until_alone()
        assert port.gateway.caps.connections == 0
        assert port.listener.stats.http_cut == {"tls": 1}


def test_tls_is_version_1_2_or_newer_and_asked_for_by_two_files(files):
    assert tls_context(load()) is None
    context = tls_context(load(**files))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    files["tls_key_file"].write_text("no key")
    with pytest.raises(ConfigError, match="tls_key_file"):
        tls_context(load(**files))


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602])
def test_a_tls_key_that_others_can_read_is_refused(mode, files):
    files["tls_key_file"].chmod(mode)
    with pytest.raises(ConfigError, match=r"tls_key_file: key\.pem .*chmod 640"):
        tls_context(load(**files))
    files["tls_key_file"].chmod(0o640)
    files["tls_cert_file"].chmod(0o644)  # everybody may see that one: it is sent to everybody
    assert tls_context(load(**files)) is not None


async def test_tls_connections_count_before_their_handshake(files):
    async with open_port(**files, connections_max=1) as port, await port.client() as silent:
        async with await port.client() as other:
            assert await other.rest() == b""
        assert port.listener.stats.refused == {"total": 1}
        silent.sock.close()
        await asyncio.wait(port.listener._handshakes, timeout=2)
        assert port.gateway.caps.connections == 0


async def test_a_drain_does_not_wait_for_tls_handshakes(files):
    async with open_port(**files) as port, await port.client() as silent:
        async with asyncio.timeout(PATIENCE_S):
            while not port.listener._handshakes:
                await asyncio.wait_for(_turn(), 1)
        await port.listener.stop_accepting()
        assert await port.listener.drain(asyncio.get_running_loop().time() + 5) == 0
        assert await silent.rest() == b""
        assert port.gateway.caps.connections == 0


async def _turn() -> None:
    ready = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(ready.set_result, None)
    await ready


async def test_the_answers_have_a_date_and_no_banner():
    clock = SteppedClock(dt.datetime(2026, 11, 24, 1, 2, 3, tzinfo=dt.UTC).timestamp())
    async with open_port(clock) as port, await port.client() as client:
        await client.send(LIVEZ)
        _, headers, _ = await client.response()
        assert headers == {
            "date": "tue, 24 nov 2026 01:02:03 gmt",
            "vary": "origin",
            "content-type": "application/json",
            "content-length": "15",
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
            "referrer-policy": "no-referrer",
        }


# --- behind proxies


def forwarded(for_: str, **more: str) -> bytes:
    return upgrade_request(x_forwarded_for=for_, **more)


async def test_behind_a_trusted_proxy_each_client_counts_by_its_own_address():
    async with open_port(trusted_proxies=["127.0.0.0/8"], unauthenticated_per_ip=1, connects_burst_per_ip=9) as port:
        async with await port.client() as ann, await port.client() as bob, await port.client() as second:
            await ann.send(forwarded("192.0.2.1"))
            assert "101" in await ann.head()
            await bob.send(forwarded("10.1.1.1, 192.0.2.2"))
            assert "101" in await bob.head()
            await port.gateway.sessions[-1].until_called("start")
            assert [session.link.ip for session in port.gateway.sessions] == ["192.0.2.1", "192.0.2.2"]
            await second.send(forwarded("192.0.2.1"))
            status, _, body = await second.response()
            assert (status, body["code"]) == (503, "too_many_connections")
            assert port.listener.stats.refused["unauthenticated_address"] == 1
        await port.until_alone()
        assert port.gateway.caps.connections == 0
        async with await port.client() as again:
            await again.send(forwarded("192.0.2.1"))
            assert "101" in await again.head()


@pytest.mark.parametrize(
    ("first", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.3"),
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.3"),
        ("2001:db8:1:2::1", "2001:db8:1:2:3::9", "2001:db8:1:3::1"),
    ],
)
async def test_the_rate_of_new_connections_counts_for_the_client_behind_the_proxy(first, same, other):
    async with (
        open_port(trusted_proxies=["127.0.0.0/8"], connects_burst_per_ip=1, connects_per_s_per_ip=1) as port,
        await port.client() as one,
        await port.client() as two,
        await port.client() as three,
    ):
        await one.send(forwarded(first))
        assert "101" in await one.head()
        await two.send(forwarded(same))
        assert (await two.response())[2]["code"] == "rate_limited"
        await three.send(forwarded(other))
        assert "101" in await three.head()


async def test_a_stranger_cannot_choose_its_address():
    async with open_port(trusted_proxies=["10.0.0.0/8"]) as port, await port.client() as client:
        await client.send(forwarded("192.0.2.1"))
        assert "101" in await client.head()
        await port.gateway.opened.wait()
        assert port.session.link.ip == "127.0.0.1"


async def test_requests_of_a_proxy_are_not_counted_by_its_address():
    async with (
        open_port(trusted_proxies=["127.0.0.0/8"], connections_per_ip=1, unauthenticated_per_ip=1) as port,
        await port.client() as one,
        await port.client() as two,
    ):
        assert await alive(one)
        assert await alive(two)
