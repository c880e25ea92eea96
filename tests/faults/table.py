"""The result table of a fault run: rows of the matrix, and the page `docs/reliability.md` made of them.

Owns the page's form. It writes what it is given, failures included; a row whose fault did not fire is no pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HEAD = """\
# What the fault runs have shown

Made by `make faults ARGS='--table docs/reliability.md'`; not written by hand. A real gateway, real sockets, real files.
A row counts only if its fault fired. What is promised, and which tests hold it, is in [guarantees.md](guarantees.md).

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


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
