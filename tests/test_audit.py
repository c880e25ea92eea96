"""The exceptions of `make audit`: each names a pinned package, has a day to be looked at again, and a reason."""

from __future__ import annotations

import re
import subprocess
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AUDIT = ROOT / ".ci" / "audit"


def exceptions() -> list[list[str]]:
    lines = (ROOT / ".ci/audit-exceptions.txt").read_text().splitlines()
    return [[field.strip() for field in line.split("|")] for line in lines if not line.startswith("#")]


def test_each_exception_is_written_out():
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for id_, package, until, why in exceptions():
        assert re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+", id_)
        assert package in pinned
        assert date.fromisoformat(until).isoformat() == until
        assert len(why.split()) >= 5


@pytest.mark.parametrize(("until", "code"), [("2001-01-01", 1), ("9999-12-31", 0)])
def test_an_exception_ends_on_its_day(tmp_path, until, code):
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/audit").write_text(AUDIT.read_text())
    (tmp_path / ".ci/audit-exceptions.txt").write_text(f"# a comment\nCVE-1-2 | some | {until} | why not\n")
    ran = subprocess.run(["bash", ".ci/audit", "echo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert ("--ignore-vuln CVE-1-2" in ran.stdout) == (code == 0)
    assert ("--strict" in ran.stdout) == (code == 0)
    assert ("CVE-1-2" in ran.stderr) == (code == 1)
