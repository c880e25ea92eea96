"""Every command for those who look after a gateway, against a real one: what it prints, what it does, its exit code."""

from __future__ import annotations

import asyncio
import json

import pytest
from click.testing import CliRunner

from pushwire_gateway.cli import main
from support import http_client
from support.cli_process import Spawned, run
from support.gateway_process import until
from support.ws_client import WsClient

OK, FAILED, USAGE, CONFIG, AUTH, NOT_FOUND = 0, 1, 2, 3, 4, 5
ALL = ("publish:*", "consume:*@*", "create:*@*", "replay:*", "admin:*")


class Shell:
    """Commands against one gateway, with the token of its administrator."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.root = gateway.token("root", ALL)
        self.env = {"PUSHWIRE_URL": f"http://127.0.0.1:{gateway.port}", "PUSHWIRE_TOKEN": self.root}

    def run(self, *args, code=OK, token=None):
        """What a command prints, once it has ended with this code."""
        env = {**self.env, **({} if token is None else {"PUSHWIRE_TOKEN": token})}
        result = CliRunner(env=env).invoke(main, args)
        assert result.exit_code == code, (args, result.output, result.exception)
        return result.stdout if code == OK else result.stderr

    def json(self, *args):
        return json.loads(self.run(*args, "-o", "json"))

    def publish(self, topic, *bodies):
        for body in bodies:
            self.run("publish", topic, body)


@pytest.fixture
def shell(make_gateway, tmp_path):
    (tmp_path / "copies").mkdir()
    return Shell(make_gateway(settings={"backup_dir": str(tmp_path / "copies"), "max_failures": "1"}))


def test_topics(shell):
    made = shell.json("topic", "create", "orders", "retain_ms=1h", "weights=1,1,2,2", "ledger=full")
    assert made["config"]["retain_ms"] == 3_600_000
    assert "is there already" in shell.run("topic", "create", "orders", code=FAILED)
    assert shell.json("topic", "set", "orders", "strict=true", "retain_ms=0")["strict"] is True
    assert "strikt" in shell.run("topic", "set", "orders", "strikt=true", code=FAILED)
    shell.publish("orders", "1", "2", "3")
    header, row = shell.run("topic", "ls").splitlines()
    assert (header.split()[:2], row.split()[:2]) == (["TOPIC", "MESSAGES"], ["orders", "3"])
    assert [topic["last_seq"] for topic in shell.json("topic", "ls")] == [3]
    info = shell.json("topic", "info", "orders")
    assert (info["messages"], info["config"]["weights"], info["groups"]) == (3, [1, 1, 2, 2], [])
    assert "weights" in shell.run("topic", "info", "orders")
    assert shell.run("topic", "purge", "orders", "--through", "2", "--yes") == "2 messages removed\n"
    assert shell.run("topic", "purge", "orders", "--yes") == "1 messages removed\n"
    shell.run("topic", "rm", "orders", code=USAGE)  # nobody to ask
    shell.run("topic", "rm", "orders", "--yes")
    assert shell.json("topic", "ls") == []
    assert "no such topic" in shell.run("topic", "info", "orders", code=NOT_FOUND)


def test_groups(shell):
    shell.run("topic", "create", "t", "retain_ms=1h")
    shell.publish("t", "1", "2", "3")
    made = shell.json("group", "create", "t", "g", "--from", "2", "--inactive-ttl", "7d")
    assert (made["start_seq"], made["inactive_ttl_ms"]) == (1, 604_800_000)
    assert "is there already" in shell.run("group", "create", "t", "g", code=FAILED)
    assert shell.json("group", "pause", "t", "g")["paused"] is True
    assert shell.run("group", "ls", "t").splitlines()[1].split()[:2] == ["g", "yes"]
    assert shell.json("group", "resume", "t", "g")["paused"] is False
    consumed = shell.run("consume", "t", "--group", "g", "-n", "2")
    assert [json.loads(line)["seq"] for line in consumed.splitlines()] == [2, 3]
    assert shell.json("group", "seek", "t", "g", "earliest", "--yes")["start_seq"] == 0
    again = shell.run("consume", "t", "--group", "g", "-n", "3")
    assert [json.loads(line)["data"] for line in again.splitlines()] == [1, 2, 3]
    assert shell.json("group", "info", "t", "g")["members"] == []
    shell.run("group", "rm", "t", "g", "--yes")
    shell.run("group", "info", "t", "g", code=NOT_FOUND)


async def _fail_all(gateway, topic, count, op="nack", **fields):
    client = await WsClient.open(gateway.port, gateway.token("worker", ALL))
    await client.subscribe(topic, group="g", start="earliest", prefetch=count)
    for row in await client.take(count):
        await client.ok({"op": op, "leases": [row["lease"]], "error": "card service down", **fields})
    client.abort()


def test_dead_letters(shell):
    shell.run("group", "create", "nowhere", "g", code=NOT_FOUND)
    shell.publish("t", '{"n": 1}', '{"n": 2}')
    shell.run("publish", "t", '{"n": 3}', "--key", "k")
    asyncio.run(_fail_all(shell.gateway, "t", 3))  # max_failures is 1
    letters = shell.json("dead", "ls", "t")
    assert [(letter["reason"], letter["group"]) for letter in letters] == [("failures", "g")] * 3
    assert len(shell.run("dead", "ls", "t", "-n", "2").splitlines()) == 1 + 2
    (keyed,) = shell.json("dead", "ls", "t", "--key", "k")
    shown = shell.json("dead", "show", "t", str(keyed["id"]))
    assert (shown["message"]["data"], shown["attempts"][0]["error"]) == ({"n": 3}, "card service down")
    assert "card service down" in shell.run("dead", "show", "t", str(keyed["id"]))
    shell.run("dead", "show", "t", "999", code=NOT_FOUND)
    shell.run("dead", "redrive", "t", code=USAGE)  # nothing chosen
    shell.run("dead", "redrive", "t", "--all", "--reason", "failures", code=USAGE)  # twice, and not the same
    assert shell.run("dead", "redrive", "t", str(keyed["id"])) == "1 dead letter put back\n"
    (line,) = shell.run("consume", "t", "--group", "g", "-n", "1").splitlines()
    assert (json.loads(line)["data"], json.loads(line)["redriven"]) == ({"n": 3}, True)
    assert shell.run("dead", "discard", "t", str(letters[0]["id"]), "--yes") == "1 dead letter removed\n"
    assert shell.run("dead", "redrive", "t", "--all") == "1 dead letter put back\n"
    assert shell.json("dead", "ls", "t") == []


def test_what_a_consumer_makes_of_its_messages(shell):
    shell.run("group", "create", "t", "g", code=NOT_FOUND)
    shell.run("topic", "create", "t", "max_failures=2")  # the gateway's is 1
    shell.run("group", "create", "t", "g")
    shell.publish("t", '"bad"', '"later"')
    one = ("consume", "t", "--group", "g", "-n", "1", "--prefetch", "1")
    shell.run(*one, "--settle", "reject", "--error", "bad card")
    (letter,) = until(lambda: shell.json("dead", "ls", "t"), "the dead letter")  # settled, but not awaited
    assert (letter["reason"], letter["error"]) == ("rejected", "bad card")
    failed = json.loads(shell.run(*one, "--settle", "nack"))
    again = json.loads(shell.run(*one))
    assert (failed["data"], again["data"], again["attempt"]) == ("later", "later", failed["attempt"] + 1)
    shell.run(*one, "--error", "why", code=USAGE)  # an error of what succeeded


async def test_a_connection_is_kicked_and_its_messages_go_to_another(shell):
    gateway = shell.gateway
    client = await WsClient.open(gateway.port, gateway.token("ann", ALL))
    await client.subscribe("t", group="g")
    await asyncio.to_thread(shell.publish, "t", "1")
    await client.take(1)
    (row,) = await asyncio.to_thread(shell.json, "conn", "ls")
    assert (row["subject"], row["in_flight"]) == ("ann", 1)
    assert "ann" in await asyncio.to_thread(shell.run, "conn", "ls")
    await asyncio.to_thread(shell.run, "conn", "kick", row["id"])
    assert await client.close_code() == 4403
    assert await asyncio.to_thread(shell.json, "conn", "ls") == []
    other = await WsClient.open(gateway.port, gateway.token("bea", ALL))
    await other.subscribe("t", group="g")
    assert [(got["attempt"], got["redelivered"]) for got in await other.take(1)] == [(2, True)]
    other.abort()
    await asyncio.to_thread(shell.run, "conn", "kick", row["id"], code=NOT_FOUND)


async def test_a_revoked_subject_is_cut_off_and_stays_out_and_others_do_not(shell):
    gateway = shell.gateway
    token = gateway.token("ann", ALL)
    client = await WsClient.open(gateway.port, token)
    made = await asyncio.to_thread(shell.json, "revoke", "--sub", "ann")
    assert made["subject"] == "ann"
    assert await client.close_code() == 4401
    await asyncio.to_thread(shell.run, "topic", "ls", code=AUTH, token=token)
    await asyncio.to_thread(shell.run, "topic", "ls")
    await asyncio.to_thread(shell.run, "revoke", code=USAGE)
    gateway.kill()
    gateway.start()
    await asyncio.to_thread(shell.run, "topic", "ls", code=AUTH, token=token)  # it was on the disk


def test_a_copy_is_whole_and_so_is_the_original(shell, tmp_path):
    shell.publish("t", *map(str, range(20)))
    copy = shell.run("backup", "monday.db").strip()
    assert copy == str(tmp_path / "copies" / "monday.db")
    assert "is there already" in shell.run("backup", "monday.db", code=FAILED)
    assert "200 characters" in shell.run("backup", "../x", code=FAILED)
    assert shell.run("db", "check", copy) == "no faults found\n"
    shell.gateway.terminate()
    assert shell.run("db", "check", str(shell.gateway.data)) == "no faults found\n"
    broken = tmp_path / "broken.db"
    data = bytearray((tmp_path / "copies" / "monday.db").read_bytes())
    data[8192:12288] = b"\xff" * 4096
    broken.write_bytes(data)
    assert "pushwire: " in shell.run("db", "check", str(broken), code=FAILED)


def test_a_tail_shows_what_is_kept_and_says_where_it_stopped(shell):
    shell.publish("t", "1", "2", "3")
    done = run("tail", "t", "--from", "earliest", "-n", "2", env=shell.env)
    assert [json.loads(line)["data"] for line in done.stdout.splitlines()] == [1, 2]
    place = done.stderr.split("--after ")[1].strip()
    rest = run("tail", "t", "--after", place, "-n", "1", env=shell.env)
    assert [json.loads(line)["data"] for line in rest.stdout.splitlines()] == [3]
    assert (done.returncode, rest.returncode) == (OK, OK)


def test_the_numbers_of_the_second_are_tailed_and_the_same_over_http(shell):
    shell.publish("t", "1", "2")
    watching = Spawned("tail", "$sys.stats", "-n", "2", env=shell.env)
    try:
        shown = [json.loads(watching.line("{"))["data"] for _ in range(2)]
    finally:
        watching.end()
    assert 900 <= shown[1]["at_ms"] - shown[0]["at_ms"] <= 2500
    assert [(one["published"], one["topics"]) for one in shown] == [(2, 1)] * 2
    asked = asyncio.run(http_client.request(shell.gateway.port, "GET", "/v1/admin/stats", token=shell.root)).json()
    assert set(asked) == set(shown[0])
    moving = {"at_ms", "connections", "sessions", "tails", "subscriptions"}
    assert {name: asked[name] for name in asked if name not in moving} == {
        name: shown[1][name] for name in shown[1] if name not in moving
    }


def test_without_the_right_nothing_is_shown(shell):
    narrow = shell.gateway.token("eve", ("publish:*", "consume:*@*"))
    shell.publish("t", "1")
    for words in (
        ("topic", "info", "t"), ("topic", "purge", "t", "--yes"), ("group", "ls", "t"), ("dead", "ls", "t"),
        ("conn", "ls"), ("revoke", "--sub", "root"), ("backup", "x"), ("tail", "t"), ("tail", "$sys.stats"),
    ):  # fmt: skip
        assert "it needs" in shell.run(*words, code=AUTH, token=narrow), words
    assert [topic["messages"] for topic in shell.json("topic", "ls")] == [1]
    other = shell.gateway.token("root", ALL, tenant="other")
    assert json.loads(shell.run("topic", "ls", "-o", "json", token=other)) == []
    assert json.loads(shell.run("conn", "ls", "-o", "json", token=other)) == []
    shell.run("backup", "x", code=AUTH, token=other)


async def test_metrics_over_a_real_port(make_gateway):
    gateway = make_gateway(settings={"metrics_token": "a-token-for-prometheus", "log_format": "json"})
    client = await WsClient.open(gateway.port, gateway.token("ann", ALL))
    refused = await http_client.request(gateway.port, "GET", "/metrics")
    assert refused.status == 401
    response = await http_client.request(gateway.port, "GET", "/metrics", token="a-token-for-prometheus")
    lines = response.body.decode().splitlines()
    assert "pushwire_connections 1.0" in lines
    assert "pushwire_connections_opened_total 1.0" in lines
    size = next(float(line.split()[1]) for line in lines if line.startswith("pushwire_store_size_bytes "))
    assert size > 0
    client.abort()
    gateway.terminate()
    events = [json.loads(line) for line in gateway.log.splitlines() if line.startswith("{")]
    assert {"gateway started", "stopped"} <= {event["event"] for event in events}
    assert all({"event", "level", "ts", "logger"} <= set(event) for event in events)
    assert "a-token-for-prometheus" not in gateway.log
