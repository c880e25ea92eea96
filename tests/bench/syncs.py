"""Counts with strace what a contestant does on the disk for 500 messages a second: what it means by durable.

Owns one look at one contestant after the other; the finding is written by hand into `durable` of its module. No part
of `make bench`: a traced broker is slow. Needs strace and the right to trace.

    make bench-syncs
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.run import BUILD, CONTESTANTS, Bench
from bench.scenarios import latency
from bench.scenarios.base import Case

CALLS = "fsync,fdatasync,sync_file_range,msync,pwrite64"
SECONDS = 2.0
RATE_PER_S = 500
END_S = 10
_LINE = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)


def count(bench: Bench, name: str) -> str:
    """One line: the messages, and the calls while they went through."""
    contestant = next(one for one in bench.contestants if one.name == name)
    params = {"rate_per_s": RATE_PER_S, "warm_s": 0.2, "measure_s": SECONDS}
    case = Case("latency", "traced", params, latency.METRICS, connections=2)
    contestant.start()
    try:
        (pid,) = contestant.job()["broker_pids"]
        tracer = subprocess.Popen(
            ["strace", "-f", "-c", "-e", f"trace={CALLS}", "-p", str(pid)], stderr=subprocess.PIPE, text=True
        )
        assert tracer.stderr is not None
        tracer.stderr.readline()  # "attached"
        answer = bench.load(case, contestant)
        tracer.send_signal(2)
        _, said = tracer.communicate(timeout=END_S)
    finally:
        contestant.stop()
    calls = ", ".join(f"{found[2]} {found[1]}" for found in _LINE.finditer(said) if found[2] != "total")
    return f"{name}: {int(RATE_PER_S * (SECONDS + 0.2))} messages: {calls or 'no such call'} {answer.get('error', '')}"


def main() -> int:
    if shutil.which("strace") is None:
        print("no strace here", file=sys.stderr)
        return 1
    BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="syncs-", dir=BUILD))
    options = argparse.Namespace(unpinned=False, system=None, quick=False, only=None)
    bench = Bench(options, folder)
    try:
        for kind in CONTESTANTS:
            if not kind.name.startswith("bare-") and kind.name not in bench.missing:
                print(count(bench, kind.name), flush=True)
    finally:
        bench.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
