"""A token that must never be seen again: every way to hand one over, then a search through all that was written.

The gateways of all end-to-end tests run at DEBUG and are searched too (conftest.py); here every path is driven on
purpose, refused ones included, and answers and files are searched as well as logs.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

import pytest

from bench import framing
from support import http_client
from support.cli_process import COMMAND
from support.gateway_process import GatewayProcess, clean_env
from support.http_client import HttpClient, request_bytes
from support.ws_client import Closed, Refused, WsClient

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
PATH = "/v1/topics/orders/messages"
PLAIN = "canary-that-is-no-jwt-0123456789abcdefghijklmnopqrstuvwxyz"
BODY = "canary-body-of-a-message"


class Canaries:
    """What must not be found, and everything that was said to clients."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.texts = [PLAIN, BODY]
        self.said: list[bytes] = []

    def token(self, name: str, **options) -> str:
        token = self.gateway.token(f"canary-{name}", **options)
        return self.watch(token)

    def watch(self, token: str) -> str:
        """The whole token, its payload and its signature."""
        self.texts += [token, *token.split(".")[1:]]
        return token

    def bad_tokens(self) -> list[str]:
        good = self.token("bad")
        head, payload, signature = good.split(".")
        return [
            self.watch(f"{head}.{payload}.{signature[:-6]}canary"),
            self.watch(f"{head}.{payload}A.{signature}"),
            self.token("expired", now=time.time() - 7200),
            self.token("future", now=time.time() + 7200),
            good + "!!!!",
            PLAIN,
            PLAIN * 100,
        ]

    def found(self, where: str, data: bytes) -> list[str]:
        return [f"{text[:12]}… in {where}" for text in self.texts if text.encode() in data]


async def _socket_paths(canaries: Canaries) -> None:
    port = canaries.gateway.port
    by_header = await WsClient.open(port, canaries.token("header"))
    canaries.said.append(str(await by_header.publish("orders", BODY)).encode())
    # A refresh that is taken, one of another subject, and one that is no token.
    for token in (canaries.token("header"), canaries.token("somebody"), PLAIN):
        canaries.said.append(str(await by_header.ask({"op": "auth", "token": token})).encode())
    by_protocol = await WsClient.open(port, offered=f"pushwire.v1, bearer.{canaries.token('protocol')}")
    by_frame = await WsClient.open(port)
    canaries.said.append(str(await by_frame.ask({"op": "auth", "token": canaries.token("frame")})).encode())
    # Frames that hold a token where none belongs, or are broken in the middle of it.
    by_frame.send({"op": canaries.token("op")}, {"op": "auth", "token": [canaries.token("list")]})
    by_frame.send_raw(framing.encode(b'{"op":"auth","ref":1,"token":"' + canaries.token("cut").encode()))
    for _ in range(3):
        canaries.said.append(str(await by_frame.notice("error")).encode())
    for client in (by_header, by_protocol, by_frame):
        canaries.said.append(str(client.welcome).encode())
        client.abort()


async def _refused_sockets(canaries: Canaries) -> None:
    port = canaries.gateway.port
    codes = []
    for token in canaries.bad_tokens():
        for offered, header in (("pushwire.v1", token), (f"pushwire.v1, bearer.{token}", None)):
            try:
                client = await WsClient.open(port, header, offered=offered)
                raise AssertionError(f"a bad token was taken: {client.welcome}")
            except Refused as refused:
                canaries.said.append(refused.response.body + str(refused.response.headers).encode())
            except Closed as closed:
                codes.append(closed.code)
        client = await WsClient.open(port)
        reply = client.asked({"op": "auth", "token": token})
        await client.closed
        canaries.said.append(str([reply, client.goodbye]).encode())
    assert set(codes) == {4401}  # a browser cannot see why its upgrade was refused, so it is told afterwards


async def _http_paths(canaries: Canaries) -> None:
    port = canaries.gateway.port
    tokens: Sequence[str] = [canaries.token("http"), *canaries.bad_tokens()]
    for token in tokens:
        answer = await http_client.request(port, "POST", PATH, {"data": BODY}, token=token)
        canaries.said.append(answer.body + str(answer.headers).encode())
    token = canaries.token("misplaced")
    for target in (f"{PATH}?token={token}", f"/v1/ws?ticket={token}", f"/v1/topics/{token}/messages", f"/{token}"):
        answer = await http_client.request(port, "GET", target, headers={"Cookie": f"token={token}", "X-Token": token})
        canaries.said.append(answer.body + str(answer.headers).encode())
    for raw in (
        request_bytes("POST", PATH, b"{}", headers={"Authorization": f"Basic {token}"}),
        request_bytes("POST", PATH, b"{}", token=token, headers={"authorization": f"Bearer {PLAIN}"}),
        b"GET /livez HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + token.encode() + b"\x00\r\n\r\n",
        b"BREW " + token.encode() + b"\r\n\r\n",
        framing.upgrade_request("a", f"/v1/ws?token={token}", KEY, "pushwire.v1", None),
        framing.upgrade_request("a", "/v1/ws", "short", "pushwire.v1", token),
    ):
        client = await HttpClient.connect(port)
        await client.send(raw)
        canaries.said.append(str(await client.response()).encode())
        client.close()
    for path in ("/livez", "/readyz", "/metrics", "/"):
        answer = await http_client.request(port, "GET", path, token=token)
        canaries.said.append(answer.body + str(answer.headers).encode())


async def test_no_token_and_no_body_is_in_any_log_answer_or_file(make_gateway):
    gateway = make_gateway(settings={"log_level": "debug", "malformed_per_minute": "100"})
    canaries = Canaries(gateway)
    await _socket_paths(canaries)
    await _refused_sockets(canaries)
    await _http_paths(canaries)
    while_running = {path: path.read_bytes() for path in gateway.data.rglob("*") if path.is_file()}
    assert gateway.terminate() == 0
    canaries.texts.append(gateway.secret)

    log = gateway.log_file.read_bytes()
    assert log
    hits = canaries.found("the log", log)
    hits += canaries.found("an answer", b"\n".join(canaries.said))
    # The database holds bodies, that is its purpose; tokens it must not hold.
    canaries.texts.remove(BODY)
    for path, data in (*while_running.items(), *((p, p.read_bytes()) for p in gateway.data.rglob("*") if p.is_file())):
        hits += canaries.found(path.name, data)
    hits += canaries.found("the ready file", gateway.ready_file.read_bytes())
    assert not hits


CLIENT = """
import asyncio, logging, sys
import pushwire
logging.basicConfig(level=logging.DEBUG)
async def main():
    url, token = sys.stdin.read().split()
    async with pushwire.Client(url, token=token) as client, client.subscribe("orders") as subscription:
        await client.publish("orders", 1)
        async for message in subscription:
            message.ack()
            break
    try:
        async with pushwire.Client(url, token=token[:-6] + "canary") as client:
            await client.publish("orders", 1)
    except pushwire.Unauthorized as error:
        logging.exception("refused: %r", error)
asyncio.run(main(), debug=True)
"""


async def test_no_token_is_in_the_log_of_a_client_at_debug(gateway):
    token = gateway.token("canary")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, env=clean_env(),
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(f"{gateway.url} {token}".encode()), 30)
    text = out.decode()
    assert process.returncode == 0, text
    assert "DEBUG" in text
    assert "refused" in text
    for part in token.split(".")[1:]:
        assert part not in text
        assert part[:-6] not in text


@pytest.mark.parametrize("command", [("publish", "orders", "1"), ("consume", "orders")])
async def test_no_token_is_in_what_a_failing_command_prints(gateway, command):
    token = gateway.token("canary")[:-6] + "canary"
    env = {**clean_env(), "PUSHWIRE_URL": gateway.url, "PUSHWIRE_TOKEN": token}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, env=env,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 4, out
    assert out.splitlines()[-1].startswith(b"pushwire: ")
    assert not [part for part in token.split(".")[1:] if part in out.decode()]
