"""`make faults`: the fault scenarios on real gateways, at full length. ARGS: `kill --cycles 200 --seed 7`.

Owns the command line and the printout; each scenario is a module beside this one. Exit code 0: all passed.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from faults import (
    clock,
    connections,
    copies,
    crashing,
    cuts,
    damage,
    drain,
    full,
    io_faults,
    kill,
    locked,
    migrating,
    named_points,
    netns,
    network,
    pause,
    power,
    preload,
    rare,
    rates,
    readers,
    times,
)
from faults.table import Row, merged, write
from support.bounded import exit_on_sigterm

KILL_CYCLES, DRAIN_CYCLES, POWER_CUTS, DAMAGES, POINT_TIMES, BACKUPS = 200, 30, 10_000, 1_800, 5, 20
"""Damages: so many that 1,000 of them change something, besides those of a log younger than its mark."""


def _said(text: str, problems: list[str]) -> None:
    print("\n".join([text, *[f"PROBLEM {problem}" for problem in problems[:40]]]))


def _every(stride: int, what: str) -> str:
    return f"every {what}" if stride == 1 else f"one {what} in {stride}"


def _kill(folder: Path, options: argparse.Namespace) -> list[Row]:
    verdict = kill.run(folder, options.cycles or KILL_CYCLES, options.seed)
    print(verdict.text())
    options.seen.update(verdict.report.seen)
    options.seen.update({name: verdict.figures[name] for name in times.NAMES})
    figures = verdict.figures
    late = [problem for problem in verdict.problems if problem.startswith("ready after")]
    wrong = len(verdict.problems) - len(late)
    met = figures["deaths that met a publish in flight"]
    seen = (
        f"{figures['kills']} kills, {met} met a publish in flight; {figures['confirmed']} receipts; {wrong} violations"
    )
    target = "0 lost, 0 stored twice, 0 second acks, counts on disk never decrease"
    how = "SIGKILL at random under load"
    ready = f"half within {figures['ready s median']:.2f} s, the longest {figures['ready s max']:.2f} s"
    return [
        Row("process killed", how, target, seen, figures["kills"] > 0, not wrong),
        Row("start after a kill", how, "ready within 2 s", ready, figures["kills"] > 0, not late),
    ]


def _drain(folder: Path, options: argparse.Namespace) -> list[Row]:
    verdict = drain.run(folder, options.cycles or DRAIN_CYCLES, options.seed)
    print(verdict.text())
    target = "exit 0 within 10 s, nothing acknowledged lost"
    seen = f"{options.cycles or DRAIN_CYCLES} drains, the longest {verdict.figures['drain s max']} s"
    return [Row("drain", "SIGTERM under load", target, seen, True, verdict.passed)]


def _migration(folder: Path, options: argparse.Namespace) -> list[Row]:
    migrated = migrating.run(folder, options.stride, options.seed)
    _said(migrated.text(), migrated.problems)
    how = "SIGKILL before each statement of each migration, from the golden file of each older schema"
    target = "the next start completes it, and makes of the file what an undisturbed one makes"
    fired = migrated.kills > 0 and migrated.before > 0
    return [Row("migration killed", how, target, migrated.text(), fired, not migrated.problems)]


def _named(folder: Path, options: argparse.Namespace) -> list[Row]:
    count = options.cycles or POINT_TIMES
    verdict, killed = named_points.run(folder, count, options.seed)
    print(verdict.text())
    reached = sum(killed[name] == count for name in crashing.POINTS)
    seen = (
        f"{killed.total()} kills, {reached} of {len(crashing.POINTS)} points {count} times each "
        f"({', '.join(crashing.POINTS)}); {verdict.figures['confirmed']} receipts; {len(verdict.problems)} violations"
    )
    target = "0 lost, 0 stored twice, 0 second acks, counts on disk never decrease"
    how = "the gateway kills itself at each named point of its work, under load"
    return [Row("killed at named points", how, target, seen, reached == len(crashing.POINTS), not verdict.problems)]


def _reader(folder: Path, options: argparse.Namespace) -> list[Row]:
    read = readers.long_reader(folder)
    options.seen["log_kept_by_reader"] += read.warned
    _said(read.text(), read.problems)
    how = "a foreign process holds a read transaction while the log grows"
    target = "no refusal; the log is told of, and at most 16 MiB after it has gone"
    return [Row("long reader", how, target, read.text(), read.warned, not read.problems)]


def _writer(folder: Path, options: argparse.Namespace) -> list[Row]:
    wrote = readers.foreign_writer(folder)
    _said(wrote.text(), wrote.problems)
    options.seen["store_busy"] += wrote.refused
    how = "a foreign process holds the write lock for longer than the gateway waits"
    target = "refused as retryable after 2 s and not stored; accepted at once when the lock is free"
    return [Row("foreign writer", how, target, wrote.text(), wrote.refused > 0, not wrote.problems)]


def _read_only(folder: Path, _options: argparse.Namespace) -> list[Row]:
    seen = readers.read_only(folder)
    _said(seen.text(), seen.problems)
    how = "directory and database mounted read-only at the start; every write EROFS in a running gateway"
    target = "exit 3 with the reason at the start, exit 74 and no confirmation later; nothing lost"
    return [Row("read-only files", how, target, seen.text(), len(seen.ends) == 3, not seen.problems)]


def _backup(folder: Path, options: argparse.Namespace) -> list[Row]:
    copied = copies.run(folder, options.cycles or BACKUPS, options.seed)
    _said(copied.text(), copied.problems)
    how = "copies made under load, one after the other"
    target = "each holds what was confirmed before it was asked for, and nothing invented; it can be served"
    return [Row("backup under load", how, target, copied.text(), copied.copies > 0, not copied.problems)]


def _locked(folder: Path, _options: argparse.Namespace) -> list[Row]:
    # Most of the time is the interpreter's own start; the best of three is the machine at its own pace.
    refusals = [locked.run(folder / str(number)) for number in range(3)]
    fastest_s = min(refusal.took_s for refusal in refusals)
    seen = f"exit code {refusals[0].code} after {fastest_s:.2f} s, the fastest of {len(refusals)}"
    print(f"second gateway: {seen}: {refusals[0].words.strip()}")
    good = fastest_s <= locked.TOOK_S_MAX and all(
        refusal.code == locked.EXIT_CONFIG and refusal.names_owner and refusal.first_still_works for refusal in refusals
    )
    target = "the second leaves within 1 s and names the first, which goes on"
    return [Row("two gateways on one file", "started twice, three times", target, seen, True, good)]


def _pause(folder: Path, options: argparse.Namespace) -> list[Row]:
    report = pause.run(folder)
    print(f"figures: {report.figures}; seen: {dict(report.seen)}")
    for code, text in report.violations:
        print(f"PROBLEM {code} {text}")
    options.seen["stale_after_pause"] += report.seen["stale"]
    target = "a late ack is taken or stale, never both; no two holders"
    return [
        Row(
            "process paused",
            "SIGSTOP beyond the ack timeout",
            target,
            f"{report.seen['stale']} late acks stale",
            report.seen["stale"] > 0,
            report.passed,
        )
    ]


def _power(folder: Path, options: argparse.Namespace) -> list[Row]:
    verdict = power.run(folder, options.cuts or POWER_CUTS, options.seed)
    print(verdict.text())
    full, relaxed = verdict.outcomes
    retried, wrong = power.lone_retry(folder / "retry")
    options.seen["duplicate_after_unsynced_kill"] += retried.duplicates
    print(f"a publish answered as a duplicate after a kill before its sync: {wrong or 'kept'}")
    how = "file operations noted, power cut at random points, unsynced sectors kept or dropped"
    return [
        Row("power loss", how, "0 receipts, settlements or ids lost; the file is sound", full.text(), full.unsafe > 0,
            full.clean and not verdict.problems),
        Row("the same with `durability=relaxed`", how, "must lose some (else the cuts prove nothing), damage none",
            relaxed.text(), relaxed.unsafe > 0, relaxed.kinds["lost"] > 0 and not relaxed.kinds["damaged"]),
        Row("power loss after a kill", "killed between a write and its sync, restarted, asked again",
            "what is called a duplicate is safe", f"{len(wrong)} lost", retried.duplicates > 0, not wrong),
    ]  # fmt: skip


def _io(folder: Path, options: argparse.Namespace) -> list[Row]:
    sweep = io_faults.run(folder, options.stride, options.seed)
    options.seen["exit_after_io_error"] += sweep.ends["exit 74"]
    print(sweep.text())
    how = f"EIO and ENOSPC, once and for good, {_every(options.stride, 'operation')} of a start and of a short run"
    target = "nothing confirmed after an I/O error, exit 74 within 1 s, clean restart; full disk: back within 5 s"
    return [Row("n-th file operation fails", how, target, sweep.summary(), sweep.fired > 0, not sweep.problems)]


def _points(folder: Path, options: argparse.Namespace) -> list[Row]:
    sweep = io_faults.kill_everywhere(folder, options.stride, options.seed)
    print(sweep.text())
    how = f"SIGKILL instead of {_every(options.stride, 'operation')} of a start and of a short run"
    target = "nothing confirmed is lost, with the power or without; clean restart"
    return [Row("killed at each point", how, target, sweep.summary(), sweep.fired > 0, not sweep.problems)]


def _clock(folder: Path, _options: argparse.Namespace) -> list[Row]:
    stepped = clock.run(folder)
    _said(stepped.text(), stepped.problems)
    how = "the wall clock of the process stepped by ±1 h and ±10 years and back, then strobed"
    target = "no lease early, none stuck, nobody cut off, rate limits unchanged, seqs rise"
    return [Row("clock steps", how, target, stepped.text(), stepped.refused > 0, not stepped.problems)]


def _damage(folder: Path, options: argparse.Namespace) -> list[Row]:
    damaged = damage.run(folder, options.damages or DAMAGES, options.seed)
    print(damaged.text())
    options.seen["corrupt_reported"] += damaged.ends["reported at delivery"]
    options.seen["damage_refused"] += damaged.ends["refused"]
    how = "bits and bytes of database and log, cut, deleted, replaced by older ones"
    target = "refused, reported or without effect; never silent"
    return [Row("damaged files", how, target, damaged.table_text(), damaged.done > 0, not damaged.problems)]


def _full(folder: Path, options: argparse.Namespace) -> list[Row]:
    filled = full.run(folder)
    options.seen["insufficient_storage"] += filled.refused_early
    options.seen["ballast_used"] += filled.ballast_used
    _said(filled.text(), filled.problems)
    target = "publishes refused in good time, acks go on, accepted again within 5 s"
    how = "a filesystem of 120 MiB filled to 32 MiB free, then to none, then emptied"
    return [Row("disk full", how, target, filled.text(), filled.ballast_used, not filled.problems)]


def _connections(folder: Path, options: argparse.Namespace) -> list[Row]:
    crowded = connections.run(folder, seed=options.seed)
    _said(crowded.text(), crowded.problems)
    how = "clients that follow a tail at one publish a second, 1 % of them leaves and comes back each second"
    target = "0 unexpected closes, at most 30 KiB of the gateway each, p99 of a push below 500 ms"
    return [Row("10,000 connections", how, target, crowded.text(), crowded.churned > 0, not crowded.problems)]


def _storm(folder: Path, options: argparse.Namespace) -> list[Row]:
    seen = connections.storm(folder, seed=options.seed)
    _said(seen.text(), seen.problems)
    how = "SIGKILL and a new start under clients that come back by the SDK's rules"
    target = "all back within 30 s, none sooner than its jitter, all served again"
    return [Row("reconnect storm", how, target, seen.text(), seen.attempts >= seen.count, not seen.problems)]


def _rates(folder: Path, _options: argparse.Namespace) -> list[Row]:
    limited = rates.run(folder)
    _said(limited.text(), limited.problems)
    how = "10 times the rate from 20 sockets of one subject, another beside it, the wall clock stepped meanwhile"
    target = "accepted = rate x time + burst within 1 % for both; 100,000 keys in 50 MiB and 5 % of a core"
    return [Row("rate limits", how, target, limited.text(), limited.steps > 0, not limited.problems)]


def _network(folder: Path, options: argparse.Namespace) -> list[Row]:
    hurt = network.run(folder, seed=options.seed)
    print(hurt.verdict.text())
    how = "a proxy with latency, bandwidth, slices of 1 to 7 bytes, resets, half-open links, a reader that stops"
    target = "0 lost, 0 stored twice, 0 second acks; everything comes to others"
    return [Row("network", how, target, hurt.text(), all(hurt.fired.values()), hurt.verdict.passed)]


def _cuts(folder: Path, options: argparse.Namespace) -> list[Row]:
    swept, _ = cuts.run(folder, options.stride)
    _said(swept.text(), swept.problems)
    how = f"a session cut after {_every(options.stride, 'byte')} of either direction, by FIN and by RST"
    target = "after reconnecting nothing is lost, stored twice or confirmed as acked twice"
    return [Row("connection cut", how, target, swept.text(), swept.cuts > 0, not swept.problems)]


def _netns(folder: Path, _options: argparse.Namespace) -> list[Row]:
    parted = netns.run(folder)
    _said(parted.text(), parted.problems)
    how = "a network of the client's own, its link down without a word until the gateway gives up, then up again"
    target = "what it held is with others 32 s later; the SDK is back by itself within 35 s"
    return [Row("link down", how, target, parted.text(), parted.down_s > 0, not parted.problems)]


SCENARIOS: dict[str, Callable[[Path, argparse.Namespace], list[Row]]] = {
    "power": _power,
    "io": _io,
    "points": _points,
    "full": _full,
    "damage": _damage,
    "kill": _kill,
    "drain": _drain,
    "migration": _migration,
    "named": _named,
    "reader": _reader,
    "writer": _writer,
    "read-only": _read_only,
    "backup": _backup,
    "locked": _locked,
    "pause": _pause,
    "clock": _clock,
    "network": _network,
    "cuts": _cuts,
    "netns": _netns,
    "rates": _rates,
    "connections": _connections,
    "storm": _storm,
}
MISSING = {
    "power": preload.missing,
    "io": preload.missing,
    "points": preload.missing,
    "clock": preload.missing,
    "full": full.missing,
    "read-only": lambda: readers.missing() or preload.missing(),
    "netns": netns.missing,
    "rates": preload.missing,
    "connections": connections.missing,
    "storm": connections.missing,
}
"""Why a scenario cannot be run here; None if it can."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Hurt a real gateway and judge what it did.")
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument(
        "--cycles",
        type=int,
        help=f"kills ({KILL_CYCLES}), drains ({DRAIN_CYCLES}), deaths a point ({POINT_TIMES}) or copies ({BACKUPS})",
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", type=Path, help="write histories and logs here and keep them")
    parser.add_argument("--cuts", type=int, help=f"of the power ({POWER_CUTS})")
    parser.add_argument("--damages", type=int, help=f"of files ({DAMAGES})")
    parser.add_argument("--stride", type=int, default=1, help="every so many-th operation, statement or byte (1)")
    parser.add_argument("--table", type=Path, help="the result table to renew, such as docs/reliability.md")
    options = parser.parse_args(argv)
    options.seen = Counter()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    ran: list[str] = []
    for name in options.scenarios or SCENARIOS:
        rows += _scenario(name, options)
        ran.append(name)
        if set(ran) == set(SCENARIOS):  # of a part of them the page keeps what the last whole run has seen
            rows.append(rare.row(options.seen, ran))
        if options.table is not None:  # after each: a run that is cut short has shown something too
            versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
            about = f"{versions}, last run with seed {options.seed}."
            write(options.table, merged(options.table, rows), about)
    seen = rare.row(options.seen, ran)
    print(f"rare states: {seen.seen}: {'passed' if seen.passed else 'INVALID'}")
    return 0 if seen.passed and all(row.fired and row.passed for row in rows) else 1


def _scenario(name: str, options: argparse.Namespace) -> list[Row]:
    folder = options.keep / name if options.keep else Path(tempfile.mkdtemp(prefix=f"pushwire-{name}-"))
    began = time.monotonic()
    print(f"== {name} (seed {options.seed})", flush=True)
    reason = MISSING[name]() if name in MISSING else None
    if reason is not None:
        print(f"== {name}: NOT RUN: {reason}", flush=True)
        return [Row(name, "", "", f"not run: {reason}", fired=False, passed=False)]
    rows = SCENARIOS[name](folder, options)
    good = all(row.fired and row.passed for row in rows)
    print(f"== {name}: {'passed' if good else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    if good and not options.keep:
        shutil.rmtree(folder)
    elif not good:
        print(f"histories and logs: {folder}")
    return rows


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
