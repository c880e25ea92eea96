"""The SDK's examples run as they are, in processes of their own, against a real gateway."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.cli_process import Spawned
from support.gateway_process import GatewayProcess, clean_env

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "sdk" / "examples"
REFUSED = 1


def _env(gateway: GatewayProcess, *allow: str) -> dict[str, str]:
    token = gateway.token("example", allow) if allow else gateway.token("example")
    return {"PUSHWIRE_URL": gateway.url, "PUSHWIRE_TOKEN": token}


def _publish(env: dict[str, str], topic: str, lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "publish.py"), topic], env={**clean_env(), **env}, input=lines,
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def _worker(env: dict[str, str], *args: str) -> Spawned:
    return Spawned(*args, env=env, script=EXAMPLES / "worker.py")


def test_the_producer_shows_a_receipt_for_each_line(gateway):
    done = _publish(_env(gateway), "orders", '{"order": 1}\n\nplain text\n[2]\n')
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["1", "2", "3"]


def test_the_producer_says_what_was_refused_and_ends_with_1(gateway):
    done = _publish(_env(gateway, "publish:orders"), "orders", "1\n")
    assert (done.returncode, done.stdout) == (REFUSED, "")
    assert "topic_not_found" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_worker_acks_retries_and_rejects(gateway):
    env = _env(gateway)
    assert _publish(env, "orders", '{"n": 1}\n{"fail": "retry"}\nnot for this worker\n{"n": 2}\n').returncode == 0
    worker = _worker(env, "orders", "--group", "billing", "--count", "3")
    try:
        lines = [worker.line(number) for number in ("1 ", "4 ", "2 ")]
        assert worker.wait() == 0
    finally:
        worker.end()
    assert ["attempt 1" in lines[0], "attempt 1" in lines[1], "attempt 2" in lines[2]] == [True] * 3
    assert json.loads(lines[2].partition(": ")[2]) == {"fail": "retry"}
    # All four are settled for this group: nothing is left for another worker.
    another = _worker(env, "orders", "--group", "billing", "--count", "1")
    try:
        assert _publish(env, "orders", '{"n": 5}\n').returncode == 0
        assert json.loads(another.line("5 ").partition(": ")[2]) == {"n": 5}
        assert another.wait() == 0
        assert len([line for line in another.lines if "attempt" in line]) == 1
    finally:
        another.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_worker_drains_on_a_signal(gateway, number):
    env = _env(gateway)
    worker = _worker(env, "orders")
    try:
        assert _publish(env, "orders", '{"n": 1}\n').returncode == 0
        worker.line("1 ")
        worker.process.send_signal(number)
        assert worker.wait() == 0
        assert not [line for line in worker.lines if "Traceback" in line]
    finally:
        worker.end()


@pytest.mark.parametrize("name", ["publish.py", "worker.py"])
@pytest.mark.parametrize(
    ("env", "says"),
    [({}, "PUSHWIRE_TOKEN"), ({"PUSHWIRE_TOKEN": "a.b.c", "PUSHWIRE_URL": "127.0.0.1:1"}, "ws://")],
)
def test_an_example_without_a_token_or_with_a_wrong_url_says_so_at_once(name, env, says):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "orders"], env={**clean_env(), **env}, input="1\n",
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_there_is_a_test_for_every_example():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"publish.py", "worker.py"}
