"""Applying the patches of tests/mutants to a copy of the sources: each breaks the gateway on purpose, in a few lines.

Owns a strict reading of unified diffs: a hunk must fit in exactly one place, wherever that has moved, and a patch that
fits nowhere is an error. It never touches the sources themselves.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

CHANGED_LINES_MAX = 5
ROOTS = ("gateway", "storage", "sdk")


class BadPatch(Exception):
    """The patch does not fit the sources, or is no small patch."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One changed file: text -> text per hunk. `story` says what is broken."""

    story: str
    path: str
    hunks: tuple[tuple[str, str], ...]
    changed_lines: int


def read_patch(text: str) -> Patch:
    """Read a patch: lines that tell its story, then a unified diff of one file. Raises BadPatch."""
    story, mark, diff = text.partition("--- a/")
    if not story.strip() or not mark or "\n--- a/" in diff:
        raise BadPatch("a patch is a line or two of what it breaks, then a diff of one file")
    _, _, target = diff.partition("\n+++ b/")
    path, _, body = target.partition("\n")
    hunks = []
    changed = 0
    for hunk in body.split("\n@@ ") if body.startswith("@@ ") else []:
        lines = hunk.splitlines()[1:]
        changed += sum(line[:1] in {"+", "-"} for line in lines)
        old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
        new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
        hunks.append((old, new))
    if not hunks or not 0 < changed <= CHANGED_LINES_MAX:
        raise BadPatch(f"{changed} changed lines, not 1 to {CHANGED_LINES_MAX}")
    return Patch(story.strip(), path, tuple(hunks), changed)


def apply_patch(patch: Patch, root: Path) -> None:
    """Change the file below `root`. Raises BadPatch unless every hunk fits in exactly one place."""
    target = root / patch.path
    text = target.read_text() if target.is_file() else ""
    for old, new in patch.hunks:
        places = text.count(old)
        if places != 1:
            raise BadPatch(f"{patch.path}: a hunk fits in {places} places:\n{old}")
        text = text.replace(old, new)
    target.write_text(text)


def copy_sources(repository: Path, target: Path) -> None:
    """The Python sources of the gateway, the store and the wire."""
    for root in ROOTS:
        shutil.copytree(repository / root, target / root, ignore=_not_python)


def _not_python(folder: str, names: list[str]) -> list[str]:
    here = Path(folder)
    return [
        n for n in names if n in {"js", "examples", "__pycache__"} or not ((here / n).is_dir() or n.endswith(".py"))
    ]
