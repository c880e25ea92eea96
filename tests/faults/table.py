"""The result table of a fault run: rows of the matrix, and the page `docs/reliability.md` made of them.

Owns the page's form. It writes what it is given, failures included; a row whose fault did not fire is no pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BARS = re.compile(r"(?<!\\)\|")
HEAD = """\
# What the fault runs have shown

Made by `make faults ARGS='--table docs/reliability.md'`, the row of the soak by `make soak` with the same; not written
by hand. A real gateway, real sockets, real files. A row counts only if its fault fired; a fault that was not run again
keeps the row of its last run. What is promised, and which tests hold it, is in [guarantees.md](guarantees.md).

"""


@dataclass(frozen=True)
class Row:
    """One fault: what was done to the gateway, what had to hold, what was seen."""

    fault: str
    how: str
    target: str
    seen: str
    fired: bool
    passed: bool

    @property
    def verdict(self) -> str:
        if not self.fired:
            return "**invalid**: the fault did not fire"
        return "passed" if self.passed else "**FAILED**"


def page(rows: Sequence[Row], about: str) -> str:
    """The page. `about` says on what it was run."""
    lines = ["| fault | how | must hold | seen | verdict |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(map(_cell, (row.fault, row.how, row.target, row.seen, row.verdict)))} |" for row in rows]
    return f"{HEAD}{about}\n\n" + "\n".join(lines) + "\n"


def write(path: Path, rows: Sequence[Row], about: str) -> None:
    path.write_text(page(rows, about), encoding="utf-8")


def renew(path: Path, rows: Sequence[Row]) -> None:
    """Put these rows into the page at `path`, which goes on to say what it was run on."""
    about = path.read_text(encoding="utf-8").partition("\n\n| fault")[0].rpartition("\n\n")[2]
    write(path, merged(path, rows), about)


def merged(path: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows, and those of the page at `path` whose faults are not among them, in the page's order."""
    new = {row.fault: row for row in rows}
    old = _read(path) if path.exists() else []
    return [new.pop(row.fault, row) for row in old] + list(new.values())


def _read(path: Path) -> list[Row]:
    """The rows of a page."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().replace("\\|", "|").replace("<br>", "\n") for cell in _BARS.split(line)[1:-1]]
        if len(cells) == 5 and cells[0] != "fault" and cells[0].strip("-"):
            fault, how, target, seen, verdict = cells
            fired = "invalid" not in verdict
            found.append(Row(fault, how, target, seen, fired, verdict == "passed"))
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
