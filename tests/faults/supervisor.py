"""The one who runs a fault scenario: a real gateway, its clients in processes of their own, the history, the verdict.

Owns those processes and the folder they write to. Knows how to hurt the gateway and how to look at what is left; what
is done when is the scenario's. Ends only what it started.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import database, history
from faults.consumers import Consumer
from faults.times import NAMES, Times
from support.checker import Checker, Limits, Report
from support.gateway_process import EVERYTHING, GatewayProcess, clean_env
from support.ws_client import WsClient

TOPIC = "faults.load"
GROUPS = ("main", "audit")
CLIENT_STOP_S = 40.0
"""Longest time for a client to end after SIGTERM: a producer may still be waiting for its last answers."""
DRAIN_QUIET_S = 2.5
"""The drain is over once nothing has come for this long: more than any back-off, delay or hold of the run."""
DRAIN_S = 60.0
"""At most: a run whose messages still come after a minute of nothing but acks has a loop."""
SLACK_NS = 250_000_000
"""Times are noted by clients that wait for a processor: so far may they be from the gateway's."""
LIMITS = Limits(10, 50, slack_ns=SLACK_NS)
BETWEEN_S = 0.1
"""From the death of a gateway to the start of the next: longer than a client takes to note what it had received."""

SETTINGS: Mapping[str, str] = {
    "backoff_cap_s": "0.2",
    "backoff_cap_s_max": "1",
    "release_hold_s": "0.3",
}
"""Short waits, so that a run of seconds sees every state many times."""

CLIENTS: Mapping[str, tuple[str, str]] = {
    "steady-1": ("steady", "audit"),
    "chaos-1": ("chaos", "main"),
    "sdk-1": ("sdk", "main"),
    "sdk-2": ("sdk", "main"),
}
"""Consumers: name -> (kind, group)."""
CHAOS_ENDS = (-signal.SIGKILL, -signal.SIGTERM)
"""It kills itself; and its successor may be told to stop before it listens for that, and has recorded nothing then."""
PRODUCERS = ("ws-1", "http-1", "ws-2", "http-2")


class FaultRunFailed(Exception):
    """Something ended or stalled that should not have: no verdict is possible."""


@dataclass
class Verdict:
    """What a run has shown. `problems`: empty, or the reasons why it has not passed."""

    report: Report
    figures: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems

    def text(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.figures.items()]
        seen = ", ".join(f"{name} {count}" for name, count in sorted(self.report.seen.items()))
        lines += [f"seen: {seen}", *[f"PROBLEM {problem}" for problem in self.problems[:40]]]
        return "\n".join([*lines, f"verdict: {'passed' if self.passed else 'FAILED'}"])


class Supervisor:
    """One run."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        settings: Mapping[str, str] | None = None,
        *,
        limits: Limits = LIMITS,
        think_s: float | None = None,
    ) -> None:
        """`think_s`: the longest pause of a producer's slot, for a load that is less than all it can."""
        self.folder = folder
        self.seed = seed
        self._limits = limits
        self._think_s = think_s
        self.phase = 0
        """How often the clients were started: their names are their phase's."""
        self.rng = random.Random(seed)
        self.gateway = GatewayProcess(folder / "gateway", settings={**SETTINGS, **(settings or {})})
        self.record = history.Recorder(folder / "history" / "supervisor.jsonl")
        self.client_port: int | None = None
        """Where the clients connect to: something between them and the gateway. None: the gateway itself."""
        self.boot = 0
        self.ready_s: list[float] = []
        self.drain_s: list[float] = []
        self.lives: list[tuple[int, int]] = []  # (ready, killed or told to stop), ns
        self.problems: list[str] = []
        self.ready_at = 0
        self._before: database.Dump | None = None
        self._clients: dict[str, subprocess.Popen[bytes]] = {}
        self._chaos_deaths = 0

    # --- the gateway ----------------------------------------------------------------------------------------

    def start_gateway(self) -> None:
        self.boot += 1
        self.record("srv_start", boot=self.boot)
        self.gateway.start()
        self.ready_at = time.monotonic_ns()
        self.ready_s.append(self.gateway.ready_s)

    def kill_gateway(self) -> None:
        """SIGKILL, then a look at what is on the disk."""
        at = time.monotonic_ns()
        if not self.gateway.alive:
            raise FaultRunFailed(f"the gateway ended by itself: {self.gateway.last_words()}")
        self.record("srv_kill", t=at, boot=self.boot)
        self.gateway.kill()
        self.lives.append((self.ready_at, at))
        self.look()

    def died_gateway(self) -> None:
        """To be called once it has killed itself: as `kill_gateway`, a little before now."""
        at = time.monotonic_ns()
        self.record("srv_kill", t=at, boot=self.boot)
        self.lives.append((self.ready_at, at))
        self.look()

    def exited_gateway(self) -> None:
        """To be called once it has ended as it was told to."""
        self.record("srv_exit", boot=self.boot)
        self.look()

    def look(self) -> None:
        """Compare the disk with the last look: what was committed only grows."""
        with database.opened(self.gateway.database()) as connection:
            dump = database.Dump(connection)
            self.record("final", kind="counts", rows=dump.counts())
            self.problems += dump.orphans()
            if self._before is not None:
                self.problems += dump.went_back(self._before)
            self._before = dump

    # --- the clients ----------------------------------------------------------------------------------------

    async def create_groups(self) -> None:
        """So that each group is owed everything the run publishes."""
        token = self.gateway.token("setup")
        for group in GROUPS:
            client = await WsClient.open(self.gateway.port, token)
            self.record("con_open", cid=f"setup.{group}")
            self.record("sub_inv", cid=f"setup.{group}", sub="s", q=TOPIC, grp=group, start="earliest")
            await client.subscribe(TOPIC, group=group, sub="s", prefetch=0, start="earliest")
            self.record("sub_ok", cid=f"setup.{group}", sub="s", q=TOPIC, grp=group)
            self.record("con_close", cid=f"setup.{group}")
            client.abort()

    def start_clients(self) -> None:
        self.phase += 1
        tokens = {self._named(name): self.gateway.token(name, EVERYTHING, ttl_s=3600) for name in PRODUCERS}
        pace = {} if self._think_s is None else {"think_s": self._think_s}
        self._spawn("producers", "faults.producers", {"tokens": tokens, **pace})
        for name in CLIENTS:
            self._spawn_consumer(name)

    def spawn_visitors(self, report: Path) -> None:
        """Those that misbehave (visitors.py): past whatever is between the other clients and the gateway."""
        job = {"port": self.gateway.port, "secret": self.gateway.secret, "report": str(report)}
        self._spawn("visitors", "faults.visitors", job)

    def _named(self, name: str) -> str:
        return name if self.phase == 1 else f"{name}.{self.phase}"

    def _spawn_consumer(self, name: str) -> None:
        kind, group = CLIENTS[name]
        module = "faults.sdk_consumer" if kind == "sdk" else "faults.consumers"
        job = {"name": self._named(name), "kind": kind, "group": group, "token": self.gateway.token(name, ttl_s=3600)}
        self._spawn(name, module, job)

    def _spawn(self, name: str, module: str, job: dict[str, Any]) -> None:
        tests = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
        job = {
            "port": self.client_port or self.gateway.port, "topic": TOPIC, "seed": self.rng.getrandbits(32),
            "history": str(self.folder / "history" / f"{self._named(name)}.jsonl"), **job,
        }  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            self._clients[name] = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(job)], env={**clean_env(), "PYTHONPATH": path},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def watch(self, seconds: float) -> None:
        """Let the run go on for so long; a chaos consumer that killed itself gets a successor."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
            for name, process in self._clients.items():
                if process.poll() is None:
                    continue
                if process.returncode == -signal.SIGKILL and name.startswith("chaos"):
                    self._chaos_deaths += 1
                    self._spawn_consumer(name)
                    break
                raise FaultRunFailed(f"{name} ended with {process.returncode}: {self.client_log(name)[-2000:]}")

    def pid_of(self, name: str) -> int:
        return self._clients[name].pid

    def client_log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop_clients(self) -> None:
        """Producers first: their last publishes need a gateway, and the consumers' messages an end."""
        visitors = [name for name in self._clients if name == "visitors"]
        for names in (visitors, ["producers"], list(CLIENTS)):
            for name in names:
                self._clients[name].send_signal(signal.SIGTERM)
            for name in names:
                code = self._clients[name].wait(CLIENT_STOP_S)
                if code and not (name.startswith("chaos") and code in CHAOS_ENDS):
                    raise FaultRunFailed(f"{name} ended with {code}: {self.client_log(name)[-2000:]}")
        self._clients.clear()

    def close(self) -> None:
        """End whatever still runs."""
        for process in self._clients.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self.gateway.stop()

    # --- the end --------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Fresh consumers, one a group, ack what is left."""
        consumers = []
        for group in GROUPS:
            job = {
                "name": f"drain-{group}", "group": group, "token": self.gateway.token("drain"),
                "port": self.gateway.port, "topic": TOPIC, "seed": self.rng.getrandbits(32),
                "history": str(self.folder / "history" / f"drain-{group}.jsonl"),
            }  # fmt: skip
            consumers.append(Consumer(job))
        tasks = [asyncio.ensure_future(consumer.run()) for consumer in consumers]
        began = time.monotonic()
        while True:
            await asyncio.wait(tasks, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
            now = time.monotonic()
            heard = max([began, *[consumer.heard_at / 1e9 for consumer in consumers]])
            if now - heard > DRAIN_QUIET_S or now - began > DRAIN_S:
                break
        self.record("final", kind="drain", done=now - began <= DRAIN_S)
        for consumer, task in zip(consumers, tasks, strict=True):
            consumer.closing()
            task.cancel()
        await asyncio.wait(tasks)

    def finish(self, required: Iterable[str]) -> Verdict:
        """Drain, stop, read the disk, and judge."""
        asyncio.run(self.drain())
        code = self.gateway.terminate()
        if code != 0:
            self.problems.append(f"the last gateway ended with {code}")
        self.exited_gateway()
        with database.opened(self.gateway.database()) as connection:
            dump = database.Dump(connection)
            self.record("final", kind="db_dump", rows=[row for row in dump.owed() if row["q"] == TOPIC])
            self.record("final", kind="dlq", rows=[row for row in dump.dead() if row["q"] == TOPIC])
            self.record("final", kind="orphans", rows=dump.orphans())
            if (answer := dump.integrity()) != "ok":
                self.problems.append(f"integrity_check: {answer}")
        try:
            self.gateway.check_log()
        except AssertionError as error:
            self.problems.append(str(error))
        return self._judge(required)

    def _judge(self, required: Iterable[str]) -> Verdict:
        checker = Checker(self._limits)
        flights = Flights()
        times = Times(self._limits.slack_ns, checker.limits.late_ns)
        count = 0
        for event in history.stream(self.folder / "history"):
            checker.feed(event)
            flights.feed(event)
            times.feed(event)
            count += 1
        required = set(required)
        report = checker.report(required - NAMES)
        self.problems += times.problems
        self.problems += [f"{code} {text}" for code, text in report.violations]
        missing = [*report.missing, *sorted(name for name in required & NAMES if not times.seen[name])]
        self.problems += [f"never seen: {name}" for name in missing]
        figures = {
            "seed": self.seed,
            **report.figures,
            **times.seen,
            "deaths that met a publish in flight": sum(map(flights.met, self.lives)),
            "consumers that killed themselves": self._chaos_deaths,
            "ready s max": round(max(self.ready_s), 3),
            "ready s median": round(sorted(self.ready_s)[len(self.ready_s) // 2], 3),
            "events": count,
        }
        return Verdict(report, figures, self.problems)


class Flights:
    """When which publish operation was under way."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._answered: dict[str, int] = {}
        self._ordered: list[tuple[int, int]] = []

    def feed(self, event: Mapping[str, Any]) -> None:
        if event["ev"] == "pub_inv":
            self._asked.setdefault(event["op"], event["t"])
        elif event["ev"] in ("pub_ok", "pub_fail", "pub_info"):
            self._answered.setdefault(event["op"], event["t"])

    def met(self, life: tuple[int, int]) -> bool:
        """Whether this life of a gateway ended with a publish in flight that was sent in that life."""
        if not self._ordered:
            self._ordered = sorted((t, self._answered.get(op, 1 << 62)) for op, t in self._asked.items())
        ready, ended = life
        first, last = bisect_left(self._ordered, (ready, 0)), bisect_right(self._ordered, (ended, 0))
        return any(answered > ended for _, answered in self._ordered[first:last])
