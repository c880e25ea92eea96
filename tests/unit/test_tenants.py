"""A stranger of another tenant tries every operation on what a victim has: he is answered as if it were not there.

Two gateways, one with the victim and one without. The stranger does the same on both, and what he is told must be the
same to the letter; afterwards the victim finds everything as it was. The admin API has the like in test_admin_api.py.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from pushwire.wire import decode
from support.http_client import HttpClient
from support.whole_gateway import WholeGateway, whole_gateway
from support.ws_client import WsClient

TOPIC, GROUP, SUB = "orders", "billing", "s"
MESSAGES = 4
GUESSES = 10_000
NOTHING = {"lease": "n1.AAAAAAAAAAAAAAAA00001", "session": "n1.AAAAAAAAAAAAAAAAAAAAAA"}


class Victim:
    """Has messages, a group with leases of every kind, remembered ids, a dead letter and a session to come back to."""

    def __init__(self, gateway: WholeGateway) -> None:
        self.gateway = gateway
        self.ws: WsClient
        self.rows: list[dict[str, Any]] = []

    async def move_in(self) -> dict[str, str]:
        """What the stranger has got hold of."""
        self.ws = await WsClient.open(self.gateway.port, self.gateway.token("ann", tenant="acme"))
        await self.ws.subscribe(TOPIC, group=GROUP, sub=SUB, start="earliest", prefetch=MESSAGES)
        for number in range(MESSAGES):
            await self.ws.publish(TOPIC, {"secret": number}, id=f"order-{number}")
        self.rows = await self.ws.take(MESSAGES)
        await self.ws.ok({"op": "reject", "lease": self.rows.pop()["lease"]})
        return {"lease": self.rows[0]["lease"], "session": self.ws.welcome["session"]}

    async def finds_everything_as_it_was(self) -> None:
        again = await self.ws.ok({"op": "publish", "topic": TOPIC, "data": {"secret": 0}, "id": "order-0"})
        assert again["receipts"][0]["duplicate"]
        assert self.ws.deliveries.empty()
        for op in ("extend", "ack"):
            await self.ws.ok({"op": op, "leases": [row["lease"] for row in self.rows]})
        token = self.gateway.token("ann", tenant="acme")
        info = await _http(self.gateway, "GET", f"/v1/admin/topics/{TOPIC}", token)
        assert info["body"]["group_count"] == 1
        dead = await _http(self.gateway, "GET", f"/v1/admin/topics/{TOPIC}/dead", token)
        assert len(dead["body"]["dead_letters"]) == 1


async def _http(gateway: WholeGateway, method: str, path: str, token: str, body: Any = b"", **headers: str) -> Any:
    client = await HttpClient.connect(gateway.port)
    answer = await client.request(method, path, body, token=token, headers=headers)
    client.close()
    return {"status": answer.status, "body": answer.json() if answer.body else None}


async def _over_the_socket(gateway: WholeGateway, loot: dict[str, str]) -> dict[str, Any]:
    """Every operation there is, on the victim's names, lease and session."""
    client = await WsClient.open(gateway.port, gateway.token("eve", tenant="evil"))
    lease = loot["lease"]
    ops: list[dict[str, Any]] = [
        {"op": "auth", "token": gateway.token("eve", tenant="evil"), "session": loot["session"]},
        {"op": "auth", "token": gateway.token("ann", tenant="evil"), "session": loot["session"]},
        {"op": "ack", "lease": lease}, {"op": "ack", "ack_through": lease}, {"op": "nack", "lease": lease},
        {"op": "reject", "lease": lease}, {"op": "release", "lease": lease}, {"op": "extend", "lease": lease},
        {"op": "flow", "sub": SUB, "prefetch": 0}, {"op": "unsubscribe", "sub": SUB}, {"op": "ping"}, {"op": "pong"},
        {"op": "subscribe", "topic": TOPIC, "tail": True, "from": "earliest", "sub": "t"},
        {"op": "subscribe", "topic": TOPIC, "group": GROUP, "start": "earliest", "sub": "mine"},
        {"op": "publish", "topic": TOPIC, "id": "order-0", "data": "squatted"},
        {"op": "publish", "topic": TOPIC, "id": "order-0", "data": "squatted"},
        {"op": "subscribe", "topic": "$sys.stats", "tail": True, "sub": "numbers"},
    ]  # fmt: skip
    assert {op["op"] for op in ops} == {*decode._DECODERS, "ack", "publish"}, "every operation is tried"
    said: dict[str, Any] = {}
    for number, op in enumerate(ops):
        said[f"{number} {op['op']}"] = None if op["op"] == "pong" else await client.ask(op)
    own = await client.take(2)
    assert {row["data"] for row in own} == {"squatted"}, "what he has published himself, by tail and group"
    assert client.deliveries.empty()
    said["deliveries"] = own
    client.abort()
    return said


async def _over_http(gateway: WholeGateway, loot: dict[str, str]) -> dict[str, Any]:
    token = gateway.token("eve", tenant="evil")
    stolen = {"Pushwire-Session": loot["session"]}
    poll = f"/v1/topics/{TOPIC}/groups/{GROUP}.2/messages?wait=0"
    said = {
        "publish": await _http(gateway, "POST", f"/v1/topics/{TOPIC}/messages", token, {"id": "order-1", "data": 1}),
        "history": await _http(gateway, "GET", f"/v1/topics/{TOPIC}/messages/1/history", token),
        "poll": await _http(gateway, "GET", poll, token, **stolen),
    }
    for op in ("ack", "nack", "reject", "release", "extend"):
        said[op] = await _http(gateway, "POST", f"/v1/leases/{op}", token, {"leases": [loot["lease"]]}, **stolen)
    return said


def _without_chance(said: Any) -> str:
    """What differs between any two gateways: random names and secrets, times, and the loot itself."""
    text = re.sub(r"n1\.[A-Za-z0-9_-]{16,}", "<lease or session>", repr(said))
    return re.sub(
        r"'(at|at_ms|published_at_ms|epoch|expires_in_ms|retry_after_ms)': ('[^']*'|[\d.]+)", r"'\1': <>", text
    )


async def test_every_operation_of_another_tenant_is_answered_as_if_nothing_was_there() -> None:
    answers = []
    for populated in (True, False):
        async with whole_gateway() as gateway:
            victim = Victim(gateway)
            loot = await victim.move_in() if populated else NOTHING
            answers.append([await _over_the_socket(gateway, loot), await _over_http(gateway, loot)])
            if populated:
                await victim.finds_everything_as_it_was()
                victim.ws.abort()
    with_victim, without = map(_without_chance, answers)
    assert with_victim == without


async def test_ten_thousand_guessed_leases_settle_nothing() -> None:
    """Also with the prefix of the victim's connection, which nobody else gets to see, half of the guesses."""
    async with whole_gateway() as gateway:
        victim = Victim(gateway)
        loot = await victim.move_in()
        prefix = loot["lease"][: len("n1.") + 16]
        client = await WsClient.open(gateway.port, gateway.token("ann", tenant="acme"))
        for batch in range(GUESSES // 1000):
            guesses = [f"{prefix}{number:05x}" for number in range(batch * 500, batch * 500 + 500)]
            guesses += [f"n1.{secrets.token_urlsafe(12)}{number:05x}" for number in range(500)]
            answer = await client.ask({"op": "ack", "leases": guesses})
            assert answer["code"] == "stale_lease"
            assert len(answer["leases"]) == len(guesses)
        client.abort()
        await victim.finds_everything_as_it_was()
        victim.ws.abort()
