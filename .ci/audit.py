"""Looks everything that is locked up among the known weaknesses: what pip installs, and what npm installs.

Usage: python .ci/audit.py PIP_AUDIT. Ends with 1 for a weakness that audit-exceptions.txt does not name, for an
exception whose day has passed, and for packages that could not be looked up: silence is no verdict. Changes nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXCEPTIONS = ROOT / ".ci" / "audit-exceptions.txt"
PIP_LISTS = ("constraints.txt", ".ci/tools.txt", ".ci/fuzz.txt")
NPM_FOLDERS = ("sdk/js", "web-demo")
TIMEOUT_S = 300
"""For one program: both ask an index over the network, package by package."""


class NoVerdict(Exception):
    """Something could not be looked up, so nothing is known of it."""


@dataclass(frozen=True)
class Excepted:
    """One line of the exceptions."""

    id: str
    manager: str
    package: str
    until: date
    why: str


def read_exceptions(text: str) -> list[Excepted]:
    """Raises ValueError for a line that is not `id | pip or npm | package | day | reason`."""
    found = []
    for line in (line for line in text.splitlines() if line.strip() and not line.startswith("#")):
        id_, manager, package, until, why = (field.strip() for field in line.split("|", 4))
        if manager not in ("pip", "npm"):
            raise ValueError(f"{id_}: {manager!r} is neither pip nor npm")
        found.append(Excepted(id_, manager, package, date.fromisoformat(until), why))
    return found


def run(command: list[str], folder: Path) -> tuple[int, str, str]:
    """What it ended with and said. Raises NoVerdict when it cannot run or does not end."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NoVerdict(f"{command[0]} did not run: {exc}") from exc
    return done.returncode, done.stdout, done.stderr


def audit_pip(program: str, name: str, excepted: list[Excepted]) -> list[str]:
    """What is known against the packages of a list. pip-audit's exit code does not tell failures from findings, but it
    writes its report only when all was looked up."""
    ignored = [argument for each in excepted for argument in ("--ignore-vuln", each.id)]
    command = [program, "--strict", "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    _, said, complaint = run([*command, "-r", name, *ignored], ROOT)
    report = _json(said, complaint)
    if not (isinstance(report.get("dependencies"), list) and report["dependencies"]):
        raise NoVerdict(_last_line(complaint))
    skipped = [f"{each['name']}: {each['skip_reason']}" for each in report["dependencies"] if "skip_reason" in each]
    if skipped:
        raise NoVerdict("; ".join(skipped))
    return [
        f"{vulnerability['id']} in {each['name']} {each['version']} (mended in {vulnerability.get('fix_versions')})"
        for each in report["dependencies"]
        for vulnerability in each["vulns"]
    ]


def audit_npm(folder: str, excepted: list[Excepted]) -> list[str]:
    """What is known against the packages that npm installs in a folder."""
    _, said, complaint = run(["npm", "audit", "--json", "--package-lock-only"], ROOT / folder)
    report = _json(said, complaint)
    if "error" in report or not isinstance(report.get("vulnerabilities"), dict):
        raise NoVerdict(str(report.get("message") or _last_line(complaint)))
    if not report.get("metadata", {}).get("dependencies", {}).get("total"):
        raise NoVerdict("it looked nothing up")
    ignored = {(each.id, each.package) for each in excepted}
    return [
        f"{id_} in {package}: {title}"
        for id_, package, title in sorted(set(_advisories(report["vulnerabilities"])))
        if (id_, package) not in ignored
    ]


def _advisories(vulnerabilities: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """An entry's reasons are advisories, or the names of other entries, which have their own."""
    for entry in vulnerabilities.values():
        for via in (via for via in entry["via"] if isinstance(via, dict)):
            yield str(via.get("url") or via["source"]).rpartition("/")[2], via["name"], via["title"]


def _json(said: str, complaint: str) -> dict[str, Any]:
    try:
        report = json.loads(said)
    except ValueError as exc:
        raise NoVerdict(_last_line(complaint)) from exc
    if not isinstance(report, dict):
        raise NoVerdict("its answer is no report")
    return report


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def main(pip_audit: str) -> int:
    """The exit code; everything is looked at, whatever has failed before."""
    exceptions = read_exceptions(EXCEPTIONS.read_text(encoding="utf-8"))
    today = datetime.now(UTC).date()
    bad = [
        f"the exception {each.id} ({each.package}) was to be looked at again by {each.until}"
        for each in exceptions
        if each.until < today
    ]
    for_pip = [each for each in exceptions if each.manager == "pip"]
    for_npm = [each for each in exceptions if each.manager == "npm"]
    audits: dict[str, Callable[[], list[str]]] = {
        **{f"pip, {name}": partial(audit_pip, pip_audit, name, for_pip) for name in PIP_LISTS},
        **{f"npm, {folder}": partial(audit_npm, folder, for_npm) for folder in NPM_FOLDERS},
    }
    for what, audit in audits.items():
        try:
            found = audit()
        except NoVerdict as exc:
            bad.append(f"{what}: could not be looked up, so nothing is known: {exc}")
            continue
        bad += [f"{what}: {each}" for each in found]
        print(f"audit: {what}: {f'{len(found)} known weaknesses' if found else 'nothing known against it'}", flush=True)
    for line in bad:
        print(f"audit: {line}", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
