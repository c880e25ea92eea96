"""`make demo`'s program: prints how to join in, makes traffic, ends by itself with 0 and leaves nothing running."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from support.cli_process import Spawned, run
from support.gateway_process import free_port


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _asked(env: dict[str, str], path: str) -> dict[str, Any]:
    request = Request(env["PUSHWIRE_URL"].replace("ws", "http", 1) + path)
    request.add_header("authorization", f"Bearer {env['PUSHWIRE_TOKEN']}")
    with urlopen(request, timeout=10) as answer:
        value: dict[str, Any] = json.load(answer)
    return value


def test_the_demo_shows_traffic_that_a_stranger_can_watch(tmp_path):
    port = free_port()
    demo = Spawned(
        "--seconds", "8", "--port", str(port), "--data", str(tmp_path / "demo"), module="pushwire_gateway.demo"
    )  # fmt: skip
    try:
        assert demo.line("URL").split()[1] == f"http://127.0.0.1:{port}"
        demo.line("token")
        exports = demo.line("export PUSHWIRE_URL=").strip()
        demo.line("curl")
        env = dict(word.split("=", 1) for word in shlex.split(exports)[1:])
        watched = run("consume", "demo.orders", "--group", "watcher", "-n", "2", env=env)
        assert [set(json.loads(line)["data"]) for line in watched.stdout.splitlines()] == [{"order", "amount"}] * 2
        counts = demo.line("demo traffic: ")
        stats = _asked(env, "/v1/admin/stats")
        connections = _asked(env, "/v1/admin/connections")["connections"]
        children = _children_of(demo.process.pid)
        assert children
        assert demo.wait() == 0, "\n".join(demo.lines)
    finally:
        demo.end()
    numbers = {what: int(count) for count, what in re.findall(r"(\d+) ([a-z ]+)", counts)}
    assert numbers["published"] >= 10
    assert numbers["acked"] >= 5
    assert numbers["published in a hurry"] >= 2
    assert stats["refused"] > 0
    refused = {one["subject"]: one["refused"] for one in connections}
    assert refused["customer-in-a-hurry"] > 0
    assert refused["demo"] == 0
    workers = [sub for one in connections for sub in one["subscriptions"] if sub["group"] == "billing"]
    assert 1 <= len(workers) <= 3  # some may be dead just now
    assert not [line for line in demo.lines if "Traceback" in line]
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_a_gateway_that_is_killed_is_started_again_and_the_traffic_goes_on(tmp_path):
    demo = Spawned("--port", str(free_port()), "--data", str(tmp_path / "demo"), module="pushwire_gateway.demo")
    try:
        pid = int(re.findall(r"process (\d+)", demo.line("demo: the gateway is process"))[0])
        demo.line("demo traffic: ")
        assert pid in _children_of(demo.process.pid)
        os.kill(pid, signal.SIGKILL)
        demo.line("demo: the gateway was killed")
        demo.line("URL")
        demo.line("demo traffic: ")
        demo.process.send_signal(signal.SIGTERM)
        assert demo.wait() == 0, "\n".join(demo.lines)
    finally:
        demo.end()
    assert not [line for line in demo.lines if "Traceback" in line]
