"""The documents say only what is there: every test they name exists, and every relative link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ("*.md", "docs/*.md", "gateway/*.md", "storage/*.md", "sdk/*.md", "sdk/*/README.md")
DOCUMENTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))


def names(document: Path) -> set[str]:
    return set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", document.read_text()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_named_in_a_document_exists(document):
    missing = []
    for name in names(document):
        file, _, function = name.partition("::")
        path = ROOT / file
        if not path.exists() or not re.search(rf"^(async )?def {function}\(", path.read_text(), re.MULTILINE):
            missing.append(name)
    assert not missing


def test_each_promise_names_a_test():
    rows = [line for line in (ROOT / "docs/guarantees.md").read_text().splitlines() if line.startswith("| ")]
    rows = rows[1:]  # the heading
    assert len(rows) >= 12
    assert [row for row in rows if "::" not in row] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []
