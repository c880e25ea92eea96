"""The examples of both SDKs run as they are, in processes of their own, against a real gateway.

Those of the Web are in test_examples_web.py. The Node worker needs `make js`, and fails without.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.cli_process import Spawned
from support.gateway_process import GatewayProcess, clean_env, until

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "sdk" / "examples"
JS_EXAMPLES = EXAMPLES.parent / "js" / "examples"
LONG_S = 60.0
"""Longer than any test: a message that is worked on so long is in hand when its worker dies."""
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
        lines = [worker.line(f"begin {seq} ") for seq in (1, 4, 2)]
        assert worker.wait() == 0
    finally:
        worker.end()
    assert ["attempt 1" in lines[0], "attempt 1" in lines[1], "attempt 2" in lines[2]] == [True] * 3
    assert json.loads(lines[2].partition(": ")[2]) == {"fail": "retry"}
    # All four are settled for this group: nothing is left for another worker.
    another = _worker(env, "orders", "--group", "billing", "--count", "1")
    try:
        assert _publish(env, "orders", '{"n": 5}\n').returncode == 0
        assert json.loads(another.line("begin 5 ").partition(": ")[2]) == {"n": 5}
        assert another.wait() == 0
        assert len([line for line in another.lines if "attempt" in line]) == 1
    finally:
        another.end()


Start = Callable[..., Spawned]


@pytest.fixture(params=["python", "node"])
def start(request: pytest.FixtureRequest, gateway: GatewayProcess) -> Iterator[Start]:
    """Start a worker of the group `billing`, in one language or the other; `work_s`: how long a message takes."""
    started: list[Spawned] = []

    def start(work_s: float = 0.0) -> Spawned:
        env = _env(gateway)
        if request.param == "python":
            worker = _worker(env, "orders", "--group", "billing", "--work-s", str(work_s))
        else:
            assert (JS_EXAMPLES.parent / "dist" / "index.js").exists(), "sdk/js is not built: `make js` does it"
            program = ("node", str(JS_EXAMPLES / "worker.mjs"))
            env["WORK_MS"] = str(round(work_s * 1000))
            worker = Spawned("orders", "billing", env=env, command=program)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.end()


def _waiting(gateway: GatewayProcess) -> int:
    """How many messages the group has yet to settle."""
    token = gateway.token("root", ("admin:*",))
    with urllib.request.urlopen(
        urllib.request.Request(
            f"{gateway.url.replace('ws://', 'http://')}/v1/admin/topics/orders",
            headers={"Authorization": f"Bearer {token}"},
        ),
        timeout=10,
    ) as answer:
        return int(json.load(answer)["messages"])


def test_a_worker_acks_what_it_has_done(gateway, start):
    assert _publish(_env(gateway), "orders", '{"n": 1}\n{"n": 2}\n').returncode == 0
    worker = start()
    assert {worker.line("done ") for _ in range(2)} == {"done 1", "done 2"}
    until(lambda: _waiting(gateway) == 0, "both are acked")


def test_what_a_dead_worker_had_in_hand_is_done_by_another(gateway, start):
    assert _publish(_env(gateway), "orders", '{"n": 1}\n').returncode == 0
    first = start(LONG_S)
    assert "attempt 1" in first.line("begin 1 ")
    first.kill_group()
    second = start()
    assert "attempt 2 again" in second.line("begin 1 ")
    assert second.line("done") == "done 1"
    until(lambda: _waiting(gateway) == 0, "it is acked")
    assert "done 1" not in first.lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_drains_on_a_signal(gateway, start, number):
    """What is begun is finished and acked; what came later is left to others."""
    assert _publish(_env(gateway), "orders", '{"n": 1}\n').returncode == 0
    worker = start(0.5)
    worker.line("begin 1 ")
    worker.process.send_signal(number)
    assert worker.wait() == 0
    assert "done 1" in worker.lines
    assert not [line for line in worker.lines if "Traceback" in line or "Error" in line]
    assert _waiting(gateway) == 0
    assert _publish(_env(gateway), "orders", '{"n": 2}\n').returncode == 0
    assert _waiting(gateway) == 1


@pytest.mark.parametrize(
    ("args", "env", "says"),
    [
        ((), {}, "usage"),
        (("orders",), {}, "PUSHWIRE_TOKEN"),
        (("orders",), {"PUSHWIRE_TOKEN": "a.b.c"}, "unauthorized"),
    ],
)
def test_the_node_worker_says_what_is_missing(gateway, args, env, says):
    program = ["node", str(JS_EXAMPLES / "worker.mjs"), *args]
    given = {**clean_env(), "PUSHWIRE_URL": gateway.url, **env}
    done = subprocess.run(program, env=given, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert says in done.stderr


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
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"backend.py", "publish.py", "worker.py"}
    assert {path.name for path in JS_EXAMPLES.iterdir()} == {"desk", "react", "worker.mjs"}
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*example*"))
    for name in ("backend", "publish.py", "worker.py", "worker.mjs", "/desk/", "/react/"):
        assert name in tests
