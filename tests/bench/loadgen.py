"""The load generator: one process, one measurement. A job as JSON on stdin, its figures as JSON on stdout.

Owns the process: its job, its verdict on itself (CPU share) and its exit. What is measured lies in scenarios/, what
is said in dialects.py, how bytes move in links.py. It is started on a core of its own by run.py.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from bench.dialects import Dialect, PushwireV1
from bench.links import LoadError, Loop, Target, TooSlow
from bench.protocols.mqtt import Mqtt
from bench.protocols.nats import Nats
from bench.protocols.resp import Redis
from bench.protocols.stomp import Stomp
from bench.scenarios import backlog, bare, fanout, growth, idle, latency, sdk, throughput
from bench.scenarios.base import Load

SCENARIOS: dict[str, ModuleType] = {
    "throughput": throughput,
    "latency": latency,
    "fan-out": fanout,
    "idle": idle,
    "backlog": backlog,
    "growth": growth,
    "sdk": sdk,
    "bare": bare,
}
DIALECTS: dict[str, Callable[[int], Dialect]] = {
    "pushwire.v1": PushwireV1,
    "stomp": Stomp,
    "mqtt": Mqtt,
    "nats": Nats,
    "resp": Redis,
}
"""By the name a job carries; made with the length of a body."""


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Figures and notes of one job, or `too_slow` or `error` with the reason why there are none."""
    dialect = DIALECTS[job["dialect"]](job["body_bytes"])
    loop = Loop(Target(job["host"], job["port"], job["path"], job["subprotocol"], dialect.opcode))
    load = Load(
        loop,
        dialect,
        job["topic"],
        itertools.chain(job["tokens"], itertools.repeat(None)),
        job["broker_pids"],
        job["seed"],
    )
    try:
        figures = SCENARIOS[job["scenario"]].measure(load, job["params"])
    except TooSlow as exc:
        return {"too_slow": str(exc), "notes": load.notes}
    except (LoadError, OSError) as exc:  # OSError: /proc of a broker that died
        return {"error": str(exc) or type(exc).__name__, "notes": load.notes}
    finally:
        loop.close()
    return {"figures": figures, "notes": load.notes}


if __name__ == "__main__":
    # Collections would show up as latency; what one measurement leaves behind is bounded and dies with the process.
    gc.disable()
    json.dump(measure(json.load(sys.stdin)), sys.stdout)
