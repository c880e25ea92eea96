"""`make audit`: what it lets pass is written out and ends on its day, and silence is never called clean."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIELDS = 5
ADVISORY = {"url": "https://github.com/advisories/GHSA-aaaa-bbbb-cccc", "name": "inner", "title": "It falls over"}
NPM_CLEAN = {"vulnerabilities": {}, "metadata": {"dependencies": {"total": 7}}}
NPM_FOUND = {
    "vulnerabilities": {"inner": {"via": [ADVISORY]}, "outer": {"via": ["inner"]}},
    "metadata": {"dependencies": {"total": 7}},
}
PIP_CLEAN = {"dependencies": [{"name": "thing", "version": "1.0", "vulns": []}], "fixes": []}
PIP_FOUND = {
    "dependencies": [{"name": "thing", "version": "1.0", "vulns": [{"id": "PYSEC-1-2", "fix_versions": ["1.1"]}]}]
}
PIP_SKIPPED = {"dependencies": [*PIP_CLEAN["dependencies"], {"name": "other", "skip_reason": "not found"}]}


def exceptions() -> list[list[str]]:
    lines = (ROOT / ".ci/audit-exceptions.txt").read_text().splitlines()
    return [[field.strip() for field in line.split("|")] for line in lines if not line.startswith("#")]


def locked(manager: str) -> set[str]:
    if manager == "npm":
        names = [
            json.loads((ROOT / name / "package-lock.json").read_text())["packages"] for name in ("sdk/js", "web-demo")
        ]
        return {path.rpartition("node_modules/")[2] for packages in names for path in packages}
    lists = [(ROOT / name).read_text() for name in ("constraints.txt", ".ci/tools.txt", ".ci/fuzz.txt")]
    return {name for text in lists for name in re.findall(r"^([a-z0-9.-]+)", text, re.MULTILINE)}


def test_each_exception_is_written_out():
    for fields in exceptions():
        assert len(fields) == FIELDS
        id_, manager, package, until, why = fields
        assert re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+", id_)
        assert package in locked(manager)
        assert date.fromisoformat(until).isoformat() == until
        assert len(why.split()) >= 5


class Desk:
    """A tree of the audit's own, with programs in the place of pip-audit and npm that say what a test gives them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".ci").mkdir()
        shutil.copy(ROOT / ".ci/audit.py", folder / ".ci/audit.py")
        for name in ("sdk/js", "web-demo", "bin"):
            (folder / name).mkdir(parents=True)

    def program(self, name: str, says: Any, complains: str = "") -> Path:
        path = self.folder / "bin" / name
        said = says if isinstance(says, str) else json.dumps(says)
        (self.folder / f"{name}.says").write_text(said)
        # What it is asked is kept: `--ignore-vuln` is pip-audit's to obey.
        path.write_text(
            f'#!/bin/sh\necho "$@" >> "{self.folder}/{name}.asked"\necho "{complains}" >&2\n'
            f'/bin/cat "{self.folder}/{name}.says"\nexit 1\n'
        )
        path.chmod(0o755)
        return path

    def audit(self, pip: Any = PIP_CLEAN, npm: Any = NPM_CLEAN, excepted: str = "") -> subprocess.CompletedProcess[str]:
        (self.folder / ".ci/audit-exceptions.txt").write_text(f"# a comment\n{excepted}\n")
        pip_audit = self.program("pip-audit", pip, "ERROR: no such index")
        if npm is not None:
            self.program("npm", npm)
        return subprocess.run(
            [sys.executable, str(self.folder / ".ci/audit.py"), str(pip_audit)],
            env={**os.environ, "PATH": str(self.folder / "bin")},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def asked(self, name: str) -> str:
        return (self.folder / f"{name}.asked").read_text()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_is_clean_is_said_to_be(desk):
    ran = desk.audit()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("nothing known against it") == 5
    assert "--strict" in desk.asked("pip-audit")
    for name in ("constraints.txt", ".ci/tools.txt", ".ci/fuzz.txt"):
        assert f"-r {name}" in desk.asked("pip-audit")


@pytest.mark.parametrize(
    ("pip", "npm", "says"),
    [
        ("", NPM_CLEAN, "ERROR: no such index"),
        (PIP_SKIPPED, NPM_CLEAN, "other: not found"),
        ({"dependencies": []}, NPM_CLEAN, "nothing is known"),
        (PIP_CLEAN, "", "nothing is known"),
        (PIP_CLEAN, {"message": "405 Method Not Allowed", "error": {"summary": ""}}, "405 Method Not Allowed"),
        (PIP_CLEAN, {**NPM_CLEAN, "error": {"summary": "half of it"}}, "nothing is known"),
        (PIP_CLEAN, {"vulnerabilities": {}, "metadata": {"dependencies": {"total": 0}}}, "it looked nothing up"),
        (PIP_CLEAN, None, "npm did not run"),
    ],
)
def test_what_cannot_be_looked_up_fails_and_is_not_called_clean(desk, pip, npm, says):
    ran = desk.audit(pip, npm)
    assert ran.returncode == 1
    assert "could not be looked up, so nothing is known" in ran.stderr
    assert says in ran.stderr
    assert ran.stdout.count("nothing known") == (2 if npm is NPM_CLEAN else 3), "the rest is looked at all the same"


def test_a_weakness_fails_the_audit(desk):
    ran = desk.audit(PIP_FOUND, NPM_FOUND)
    assert ran.returncode == 1
    assert "PYSEC-1-2 in thing 1.0" in ran.stderr
    assert "npm, web-demo: GHSA-aaaa-bbbb-cccc in inner: It falls over" in ran.stderr
    assert "nothing known" not in ran.stdout


def test_an_npm_exception_covers_its_advisory_in_its_package_only(desk):
    line = "{} | npm | {} | 9999-12-31 | only ever run by us, on our own input"
    assert desk.audit(npm=NPM_FOUND, excepted=line.format("GHSA-aaaa-bbbb-cccc", "inner")).returncode == 0
    assert desk.audit(npm=NPM_FOUND, excepted=line.format("GHSA-aaaa-bbbb-cccc", "outer")).returncode == 1
    assert desk.audit(npm=NPM_FOUND, excepted=line.format("GHSA-aaaa-bbbb-dddd", "inner")).returncode == 1
    assert "--ignore-vuln" not in desk.asked("pip-audit")


@pytest.mark.parametrize(("until", "code"), [("2001-01-01", 1), ("9999-12-31", 0)])
def test_an_exception_ends_on_its_day(desk, until, code):
    ran = desk.audit(excepted=f"CVE-1-2 | pip | some | {until} | why not")
    assert ran.returncode == code
    assert "--ignore-vuln CVE-1-2" in desk.asked("pip-audit")
    assert ("CVE-1-2" in ran.stderr) == (code == 1)
