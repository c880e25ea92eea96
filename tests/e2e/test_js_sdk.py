"""The TypeScript SDK, as it is built, in Node processes against a real gateway.

Needs `make js`, and fails without: a build that is missing must not pass for one that works.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.gateway_process import GatewayProcess

ROOT = Path(__file__).resolve().parent.parent.parent
SDK = ROOT / "sdk" / "js"
DRIVER = Path(__file__).with_name("js_client.mjs")
RIGHTS = ("publish:*", "consume:*@*", "create:*@*", "replay:*", "admin:*")
TIMEOUT_S = 15.0

pytestmark = pytest.mark.serial


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if shutil.which("node") is None:
        pytest.fail("no Node found: version 20 or newer is needed")
    if not (SDK / "dist" / "index.js").exists():
        pytest.fail("sdk/js is not built: `make js` does it")


class NodeClient:
    """One Node process with one client in it."""

    def __init__(self, gateway: GatewayProcess, subject: str, **options: Any) -> None:
        given = {"url": gateway.url, "token": gateway.token(subject, RIGHTS), **options}
        given.setdefault("backoff", {"baseMs": 50, "capMs": 200})
        self.process = subprocess.Popen(
            ["node", str(DRIVER), str(SDK), json.dumps(given)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        self.seen: list[dict[str, Any]] = []
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def say(self, verb: str, **more: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"verb": verb, **more}) + "\n")
        self.process.stdin.flush()

    def wait(self, event: str, **what: Any) -> dict[str, Any]:
        """The next such event; others are passed over. Raises AssertionError when it does not come."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"no {event} {what}; seen: {self.seen}"
            self.seen.append(line)
            if line["event"] == event and all(line.get(name) == value for name, value in what.items()):
                return line

    def ask(self, verb: str, answer: str, **more: Any) -> dict[str, Any]:
        self.say(verb, **more)
        return self.wait(answer)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


MakeNode = Callable[..., NodeClient]


@pytest.fixture
def node(gateway: GatewayProcess) -> Iterator[MakeNode]:
    made: list[NodeClient] = []

    def make(subject: str = "ann", **options: Any) -> NodeClient:
        made.append(NodeClient(gateway, subject, **options))
        return made[-1]

    yield make
    for client in made:
        client.end()


def test_what_is_published_arrives_as_it_was(node):
    ann, bob = node("ann"), node("bob", auth="subprotocol")
    receipt = ann.ask("publish", "receipt", topic="orders", data={"n": 1, "text": "zoë"}, key="k", priority=3,
                      headers={"traceparent": "00-1"})  # fmt: skip
    assert receipt["duplicate"] is False
    ann.ask("publish", "receipt", topic="orders", data="plain", text=True)
    ann.ask("publish", "receipt", topic="orders", bytes=[0, 255, 7])
    bob.ask("subscribe", "subscribed", topic="orders", group="g")
    got = {message["seq"]: message for message in (bob.wait("message") for _ in range(3))}
    first, *others = (got[seq] for seq in sorted(got))
    assert (first["data"], first["key"], first["priority"]) == ({"n": 1, "text": "zoë"}, "k", 3)
    assert (first["id"], first["headers"], first["attempt"]) == (receipt["id"], {"traceparent": "00-1"}, 1)
    assert [(each["encoding"], each["data"]) for each in others] == [("text", "plain"), ("binary", [0, 255, 7])]


def test_a_retried_id_is_stored_once_and_other_content_is_refused(node):
    ann = node()
    first = ann.ask("publish", "receipt", topic="orders", data=1, id="a-1")
    again = ann.ask("publish", "receipt", topic="orders", data=1, id="a-1")
    assert (again["seq"], again["duplicate"]) == (first["seq"], True)
    refused = ann.ask("publish", "error", topic="orders", data=2, id="a-1")
    assert (refused["code"], refused["stored"]) == ("id_conflict", "no")


def test_a_nack_comes_again_after_its_delay_and_a_reject_does_not(node):
    ann = node()
    ann.ask("subscribe", "subscribed", topic="orders", hold=True)
    ann.say("publishMany", topic="orders", drafts=[{"data": 1}, {"data": 2}])
    first, second = ann.wait("message"), ann.wait("message")
    ann.ask("settle", "settled", how="reject", seq=second["seq"], error="never")
    nacked_at = time.monotonic()
    ann.ask("settle", "settled", how="nack", seq=first["seq"], delayMs=300, error="later")
    again = ann.wait("message")
    assert (again["seq"], again["attempt"]) == (first["seq"], 2)
    assert time.monotonic() - nacked_at >= 0.29
    assert ann.ask("settle", "settled", how="ackConfirmed", seq=first["seq"])["how"] == "ackConfirmed"


def test_a_killed_client_gives_its_messages_to_another(node):
    ann, bob = node("ann"), node("bob")
    ann.ask("subscribe", "subscribed", topic="orders", hold=True)
    ann.ask("publish", "receipt", topic="orders", data="work")
    held = next((line for line in ann.seen if line["event"] == "message"), None) or ann.wait("message")
    bob.ask("subscribe", "subscribed", topic="orders")
    ann.end()
    again = bob.wait("message", seq=held["seq"])
    assert again["attempt"] == 2


def test_a_suspended_page_gives_everything_back_and_takes_up_work_again_when_restored(node):
    ann, bob = node("ann"), node("bob")
    ann.ask("subscribe", "subscribed", topic="orders", hold=True)
    ann.say("publish", topic="orders", data="work")
    held = ann.wait("message")
    bob.ask("subscribe", "subscribed", topic="orders", hold=True)
    ann.say("suspend")
    ann.wait("state", state="suspended")
    assert bob.wait("message", seq=held["seq"])["data"] == "work"
    ann.ask("settle", "lost", how="ack", seq=held["seq"])
    bob.say("suspend")
    ann.say("restore")
    ann.wait("state", state="connected")
    assert ann.wait("message", seq=held["seq"])["attempt"] > 1


def test_a_resumed_session_keeps_its_leases(node):
    ann, bob = node("ann", resumeGraceMs=20_000), node("bob")
    ann.ask("subscribe", "subscribed", topic="orders", hold=True)
    ann.say("publish", topic="orders", data="work")
    held = ann.wait("message")
    bob.ask("subscribe", "subscribed", topic="orders")
    ann.say("cut")
    ann.wait("state", state="reconnecting")
    ann.wait("state", state="connected")
    assert ann.ask("settle", "settled", how="ackConfirmed", seq=held["seq"])["seq"] == held["seq"]
    bob.ask("publish", "receipt", topic="orders", data="next")
    ann_or_bob = {line["seq"] for line in bob.seen if line["event"] == "message"}
    assert held["seq"] not in ann_or_bob


def test_a_tail_goes_on_where_it_was_when_the_gateway_comes_back(gateway, node):
    ann, bob = node("ann"), node("bob")
    ann.ask("publish", "receipt", topic="prices", data=0)
    bob.ask("tail", "tailing", topic="prices", **{"from": "new"})
    ann.ask("publish", "receipt", topic="prices", data=1)
    assert bob.wait("message")["data"] == 1
    gateway.kill()
    bob.wait("state", state="reconnecting")
    ann.say("publish", topic="prices", data=2)  # waits for a connection, and is stored once
    gateway.start()
    assert ann.wait("receipt")["duplicate"] is False
    assert bob.wait("message")["data"] == 2


def test_a_drain_confirms_and_ends(node):
    ann = node()
    ann.ask("subscribe", "subscribed", topic="orders", hold=False)
    ann.ask("publish", "receipt", topic="orders", data=1)
    ann.ask("drain", "drained")
    assert {"event": "state", "state": "closed"} in ann.seen


def test_ten_thousand_messages_through_one_client(node):
    ann, bob = node("ann"), node("bob")
    for batch in range(10):
        drafts = [{"data": batch * 1000 + index} for index in range(1000)]
        ann.ask("publishMany", "receipts", topic="orders", drafts=drafts)
    counted = bob.ask("count", "counted", topic="orders", prefetch=100, messages=10_000)
    assert counted["messages"] == 10_000
    assert counted["messages"] / counted["seconds"] >= 3000, counted


def test_the_long_poll_has_the_same_contract(node):
    ann, bob = node("ann", transport="poll"), node("bob")
    ann.ask("subscribe", "subscribed", topic="orders", hold=True, start={"seq": 1})
    receipt = ann.ask("publish", "receipt", topic="orders", data={"n": 1}, id="a-1", key="k")
    assert ann.ask("publish", "receipt", topic="orders", data={"n": 1}, id="a-1", key="k")["duplicate"] is True
    held = next((line for line in ann.seen if line["event"] == "message"), None) or ann.wait("message")
    assert (held["seq"], held["data"], held["key"], held["attempt"]) == (receipt["seq"], {"n": 1}, "k", 1)
    ann.ask("settle", "settled", how="nack", seq=held["seq"], delayMs=100)
    assert ann.wait("message", seq=held["seq"])["attempt"] == 2
    ann.ask("settle", "settled", how="extend", seq=held["seq"])
    ann.ask("settle", "settled", how="ackConfirmed", seq=held["seq"])
    second = bob.ask("publish", "receipt", topic="orders", data=2)
    ann.wait("message", seq=second["seq"])
    bob.ask("subscribe", "subscribed", topic="orders", hold=True)
    ann.say("suspend")  # gives back what it holds, without waiting for a timeout
    assert bob.wait("message", seq=second["seq"])["data"] == 2
    ann.ask("settle", "lost", how="ack", seq=second["seq"])


def test_a_tail_over_http_goes_on_where_it_was(gateway, node):
    ann, bob = node("ann"), node("bob", transport="poll")
    ann.ask("publish", "receipt", topic="prices", data=0)
    bob.ask("tail", "tailing", topic="prices", **{"from": "earliest"})
    assert bob.wait("message")["data"] == 0
    gateway.kill()
    bob.wait("state", state="reconnecting")
    ann.say("publish", topic="prices", data=1)
    gateway.start()
    ann.wait("receipt")
    assert bob.wait("message")["data"] == 1


def test_a_refused_topic_is_refused_over_the_long_poll_too(gateway, node):
    ann = node("ann", transport="poll", token=gateway.token("ann", ("consume:orders@*",)))
    ann.say("subscribe", topic="secret")
    assert ann.wait("closed")["code"] == "forbidden"


def test_blocked_web_sockets_are_got_round(node):
    ann = node("ann", blocked=True)
    ann.ask("subscribe", "subscribed", topic="orders")
    ann.ask("publish", "receipt", topic="orders", data="here")
    message = next((line for line in ann.seen if line["event"] == "message"), None) or ann.wait("message")
    assert message["data"] == "here"
