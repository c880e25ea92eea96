"""The web examples as they are, against a real gateway: the FastAPI back end, and in Chromium both of its pages.

Needs `make js`, `make web` (for the driver of the browser) and Chromium; run by `make`, it fails without.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pushwire import Client, Forbidden
from support.cli_process import Spawned
from support.gateway_process import GatewayProcess, free_port, until

ROOT = Path(__file__).resolve().parent.parent.parent
JS = ROOT / "sdk" / "js"
ANN = ("ann", "ann's long password")
BOB = ("bob@shop.example", "bob's long password")
TIMEOUT_S = 100
REQUIRED = "BROWSER_TESTS_REQUIRED"


@dataclass
class Shop:
    """The back end, its gateway, and somebody who is signed in."""

    url: str
    gateway: GatewayProcess
    process: Spawned
    ann: httpx.Client

    @property
    def http(self) -> str:
        return self.gateway.url.replace("ws://", "http://")

    def order(self, item: str = "soup", key: str | None = None) -> httpx.Response:
        return self.ann.post("/orders", json={"item": item}, headers={"Idempotency-Key": key} if key else {})


def _key_pair(folder: Path) -> tuple[Path, Path]:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    secret = folder / "private.pem"
    secret.touch(0o600)
    secret.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public = folder / "public.pem"
    public.write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return secret, public


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One for all tests: each takes it as another has left it, and the one that ends it is the last."""
    tmp_path = tmp_path_factory.mktemp("shop")
    secret, public = _key_pair(tmp_path)
    url = f"http://127.0.0.1:{free_port()}"
    gateway = GatewayProcess(tmp_path / "gateway", settings={"origins": json.dumps([url])})
    keys = json.loads(gateway.settings["keys"])
    gateway.settings["keys"] = json.dumps([*keys, {"kid": "shop", "alg": "ES256", "pem_file": str(public)}])
    gateway.start()
    environment = {
        "PUSHWIRE_URL": gateway.url, "SIGNING_KEY_FILE": str(secret), "SIGNING_KEY_ID": "shop",
        "EXAMPLE_USERS": json.dumps(dict([ANN, BOB])), "PUBLISH_TIMEOUT_S": "1",
    }  # fmt: skip
    folder = str(ROOT / "sdk" / "examples")
    port = url.rpartition(":")[2]
    process = Spawned("backend:app", "--app-dir", folder, "--port", port, module="uvicorn", env=environment)
    try:
        process.line("INFO:     Uvicorn running")
        with httpx.Client(base_url=url, auth=ANN, timeout=10) as ann:
            yield Shop(url, gateway, process, ann)
    finally:
        process.end()
        gateway.stop()
    gateway.check_log()
    assert "Traceback" not in "\n".join(process.lines)


def test_who_is_not_signed_in_gets_neither_token_nor_order(shop):
    for auth in (None, (ANN[0], "a guess"), ("nobody", "")):
        with httpx.Client(base_url=shop.url, auth=auth) as stranger:
            assert stranger.post("/push-token").status_code == 401
            assert stranger.post("/orders", json={"item": "soup"}).status_code == 401


def test_an_order_is_stored_once_however_often_it_is_sent(shop):
    first, again, other = shop.order(key="once"), shop.order(key="once"), shop.order()
    assert [answer.status_code for answer in (first, again, other)] == [202] * 3
    assert first.json()["duplicate"] is False
    assert again.json() == {**first.json(), "duplicate": True}
    assert other.json() == {"seq": first.json()["seq"] + 1, "duplicate": False}
    assert shop.order("bread", key="once").status_code == 422
    assert shop.order("").status_code == 422


@pytest.mark.parametrize("key", ["with a blank", 'say "what"', "k" * 200])
def test_whatever_the_user_and_the_key_are_called_an_order_is_stored_once(shop, key):
    with httpx.Client(base_url=shop.url, auth=BOB) as bob:
        first, again = (bob.post("/orders", json={"item": "soup"}, headers={"Idempotency-Key": key}) for _ in range(2))
    assert (first.status_code, again.json()) == (202, {**first.json(), "duplicate": True})
    assert shop.order(key=key).json() == {"seq": first.json()["seq"] + 1, "duplicate": False}


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_that_cannot_be_one_is_refused_and_nothing_is_stored(shop, key):
    before = shop.order().json()["seq"]
    refused = shop.ann.post("/orders", json={"item": "soup"}, headers={"Idempotency-Key": key})
    assert refused.status_code == 422
    assert shop.order().json()["seq"] == before + 1


async def test_the_token_takes_orders_and_makes_none(shop):
    shop.order()
    given = shop.ann.post("/push-token")
    assert given.headers["cache-control"] == "no-store"
    async with Client(given.json()["url"], given.json()["token"]) as client:
        with pytest.raises(Forbidden):
            await client.publish("orders", {"item": "for nothing"})
        async with client.subscribe("orders", "desk") as desk, await anext(desk) as message:
            assert message.json() == {"item": "soup", "count": 1, "by": "ann"}


def test_while_the_gateway_is_away_it_says_when_to_come_again_and_then_takes_the_order_once(shop):
    before = shop.order().json()["seq"]
    shop.gateway.kill()
    away = shop.order(key="away")
    assert (away.status_code, int(away.headers["retry-after"]) >= 1) == (503, True)
    shop.gateway.start()
    until(lambda: shop.order(key="away").status_code == 202, "the order is taken")
    assert shop.order(key="away").json() == {"seq": before + 1, "duplicate": True}


def _missing() -> str:
    if shutil.which("node") is None or not (JS / "dist" / "index.js").exists():
        return "the SDK is not built: `make js` builds it"
    if not (ROOT / "web-demo" / "node_modules" / "playwright-core").is_dir():
        return "nothing drives the browser: `make web` installs it"
    return "" if shutil.which("chromium") else "no Chromium: `make chromium` installs it"


def test_the_pages_in_a_browser(shop):
    missing = _missing()
    if missing and REQUIRED in os.environ:
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    subprocess.run(["node", "scripts/example.mjs"], cwd=JS, check=True, timeout=TIMEOUT_S)
    token = shop.gateway.token("root", ("admin:*",))
    purged = httpx.post(
        f"{shop.http}/v1/admin/topics/orders/purge", json={}, headers={"Authorization": f"Bearer {token}"}
    )
    assert purged.status_code == 200
    given = {
        "pages": shop.url, "gateway": shop.http, "user": ANN[0], "password": ANN[1],
        "token": token, "executablePath": shutil.which("chromium"),
    }  # fmt: skip
    ran = subprocess.run(
        ["node", "--test", "--test-reporter=spec", str(Path(__file__).with_name("example_pages.mjs"))],
        env=os.environ | {"EXAMPLE_PAGES": json.dumps(given)},
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-8000:]
    [passed] = re.findall(r"pass (\d+)", ran.stdout)
    assert int(passed) == 6


def test_sigterm_drains(shop):
    assert shop.order().status_code == 202
    shop.process.process.send_signal(signal.SIGTERM)
    shop.process.line("INFO:     Application shutdown complete")
    # uvicorn ends by the signal it was sent, once all is done.
    assert shop.process.wait() in {0, -signal.SIGTERM}
