"""The dashboard in a real browser against a real gateway: each `*.test.mjs` beside this file, run by Node's own runner.

Owns the gateways, their tokens, and where Node and Chromium are found. The scenarios are in the files. `make web` and
`make chromium` make what is needed; in `make test` its absence is a failure, elsewhere these tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from pushwire_web import static_dir
from support.gateway_control import controlled
from support.gateway_process import GatewayProcess

HERE = Path(__file__).resolve().parent
SCENARIOS = sorted((path.name for path in HERE.glob("*.test.mjs")), reverse=True)
ROOT_RIGHTS = ("publish:*", "consume:*@*", "create:*@*", "replay:*", "admin:*")
USER_RIGHTS = ("publish:mine", "consume:mine", "replay:mine")
NODE_TIMEOUT_S = 80
"""Of one file. Less than what its test waits, so that a file that hangs says how far it came."""
TIMEOUT_S = 100
AT_ONCE = 3
ALONE = {"load.test.mjs"}
"""Files that measure how fast it goes: the others wait."""
SETTINGS = {"outage.test.mjs": {"token_leeway_s": "0", "ping_interval_s": "2.5", "pong_timeout_s": "1"}}
"""Of the gateways of single files."""
REQUIRED = "BROWSER_TESTS_REQUIRED"


def _missing() -> str:
    if shutil.which("node") is None:
        return "no Node: install it to test the dashboard"
    if shutil.which("chromium") is None:
        return "no Chromium: `make chromium` installs it"
    if static_dir() is None or not (HERE.parents[1] / "web-demo" / "node_modules" / "playwright-core").is_dir():
        return "the dashboard is not built: `make web` builds it"
    return ""


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    missing = _missing()
    if missing and REQUIRED in os.environ:
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[str]]]:
    """What each file said, or how it failed. Browsers mostly wait, so AT_ONCE of them share the machine."""
    chosen = [
        name for name in SCENARIOS if any(item.name == f"test_scenarios[{name}]" for item in request.session.items)
    ]
    with ThreadPoolExecutor(1) as alone:
        first = {name: alone.submit(run, name, tmp_path_factory.mktemp("browser")) for name in chosen if name in ALONE}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rest = [name for name in chosen if name not in ALONE]
        yield first | {name: pool.submit(run, name, tmp_path_factory.mktemp("browser")) for name in rest}


def run(name: str, folder: Path) -> str:
    """One file, with a gateway of its own: the numbers of all connections and tails are then its own."""
    gateway = GatewayProcess(folder, settings={"connections_per_subject": "64", **SETTINGS.get(name, {})})
    gateway.start()
    try:
        with controlled(gateway, ROOT_RIGHTS) as control:
            said = _node(name, gateway, control)
    finally:
        gateway.stop()
    gateway.check_log()
    return said


def _node(name: str, gateway: GatewayProcess, control: str) -> str:
    given = {
        "control": control,
        "url": gateway.url.replace("ws://", "http://"),
        "tokens": {"root": gateway.token("root", ROOT_RIGHTS), "user": gateway.token("user", USER_RIGHTS)},
    }
    environment = os.environ | {
        "PUSHWIRE_BROWSER_TEST": json.dumps(given),
        "PUSHWIRE_CHROMIUM": shutil.which("chromium") or "",
        "PUSHWIRE_PROFILE": str(gateway.folder / "profile"),
    }
    return node(["--test", "--test-reporter=spec", str(HERE / name)], environment, NODE_TIMEOUT_S)


def node(arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> str:
    """What Node said. One that fails or hangs fails with the end of what it had said."""
    with subprocess.Popen(
        ["node", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            out, err = started.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            started.kill()
            out, err = started.communicate()
            pytest.fail(f"not done after {timeout_s} s:\n{(out + err)[-8000:]}")
    assert started.returncode == 0, (out + err)[-8000:]
    return out


def test_a_file_that_hangs_says_how_far_it_came() -> None:
    assert NODE_TIMEOUT_S < TIMEOUT_S
    with pytest.raises(pytest.fail.Exception, match="came this far"):
        node(["-e", "console.log('came this far'); setInterval(() => 0, 1000)"], os.environ, 2)


def test_there_are_scenarios() -> None:
    assert set(SCENARIOS) >= {
        "worker.test.mjs",
        "operate.test.mjs",
        "hostile.test.mjs",
        "looks.test.mjs",
        "freeze.test.mjs",
        "outage.test.mjs",
        "load.test.mjs",
        "line.test.mjs",
    }


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios(name: str, runs: dict[str, Future[str]]) -> None:
    said = runs[name].result(TIMEOUT_S)
    if name in ALONE:
        print(*re.findall(r"^.* (?:a second|ms|more heap).*$", said, re.MULTILINE), sep="\n")
    [passed] = re.findall(r"pass (\d+)", said)
    assert int(passed) > 0, said
