"""The house rules, applied to every source file; and each rule, applied to a snippet that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.tidy import CODE_RULES, TEXT_RULES, Rule, Source, text_files
from support.tidy_imports import IMPORT_RULES

ROOT = Path(__file__).resolve().parent.parent
TEXTS = list(text_files(ROOT))
SOURCES = [source for source in TEXTS if source.path.endswith(".py")]
PYTHON_RULES = (*CODE_RULES, *IMPORT_RULES)

UNIT = "tests/unit/test_a.py"
GATEWAY = "gateway/pushwire_gateway/a.py"
CORE = "gateway/pushwire_gateway/core/a.py"
WIRE = "sdk/pushwire/wire/a.py"
DOC = '"""A module that owns one thing."""\n'
LONG_DOCSTRING = 'def f():\n    """A\n' + "\n" * 80 + '    """\n'

# rule, path, what must fire, what must not
CASES = [
    ("function_length", GATEWAY, "def f():\n" + "    a = 1\n" * 60, "def f():\n" + "    a = 1\n" * 59),
    ("function_length", GATEWAY, "async def f():\n" + "    a = 1\n" * 60, LONG_DOCSTRING),
    ("file_length", CORE, "a = 1\n" * 301, "a = 1\n" * 300),
    ("file_length", UNIT, "a = 1\n" * 501, "a = 1\n" * 500),
    ("module_docstring", GATEWAY, "a = 1\n", DOC),
    ("module_docstring", GATEWAY, '"""Settings."""\n', DOC),
    (
        "swallowed_exception",
        GATEWAY,
        "try:\n    f()\nexcept:\n    raise\n",
        "try:\n    f()\nexcept OSError:\n    pass\n",
    ),
    (
        "swallowed_exception",
        GATEWAY,
        "try:\n    f()\nexcept Exception:\n    pass\n",
        "with suppress(OSError):\n    f()\n",
    ),
    (
        "swallowed_exception",
        GATEWAY,
        "for a in b:\n    try:\n        f()\n    except Exception:\n        continue\n",
        DOC,
    ),
    ("swallowed_exception", GATEWAY, "with contextlib.suppress(Exception):\n    f()\n", DOC),
    (
        "silenced_without_reason",
        GATEWAY,
        "a = 1  # type: ignore\n",
        "a = 1  # type: ignore[misc]  # untyped in 1.2\n",
    ),
    ("silenced_without_reason", GATEWAY, "a = 1  # type: ignore[misc]\n", "a = '# type: ignore'\n"),
    ("silenced_without_reason", GATEWAY, "a = 1  # noqa\n", "a = 1  # noqa: S101, E501 - a table of codes\n"),
    ("silenced_without_reason", GATEWAY, "a = 1  # noqa: S101\n", "a = 1  # noqa: S101 because it is ours\n"),
    ("silenced_without_reason", GATEWAY, "# ruff: noqa: S101 - all of it is ours\n", "# ruff is happy\n"),
    ("postponed_work", GATEWAY, "a = 1  # TODO: later\n", "a = 'TODO'\n"),
    ("postponed_work", GATEWAY, "# FIXME this leaks\n", "# fixed\n"),
    ("wall_clock", GATEWAY, "import time\nnow = time.time()\n", "import time\nnow = time.monotonic()\n"),
    ("wall_clock", GATEWAY, "from time import time\n", "from time import monotonic\n"),
    ("wall_clock", GATEWAY, "now = datetime.datetime.now(UTC)\n", "now = clock.wall_ms()\n"),
    (
        "sleeping_test",
        UNIT,
        "async def test_a():\n    await asyncio.sleep(0)\n",
        "async def test_a():\n    await ready.wait()\n",
    ),
    ("sleeping_test", "tests/sim/world.py", "time.sleep(1)\n", "clock.step(1)\n"),
    (
        "skipped_without_reason",
        UNIT,
        "@pytest.mark.skip\ndef test_a(): ...\n",
        "@pytest.mark.skip(reason='a')\ndef test_a(): ...\n",
    ),
    (
        "skipped_without_reason",
        UNIT,
        "@pytest.mark.xfail(strict=True)\ndef test_a(): ...\n",
        "pytest.skip('no disk')\n",
    ),
    (
        "skipped_without_reason",
        UNIT,
        "pytest.importorskip('orjson')\n",
        "pytest.importorskip('a', reason='b')\n",
    ),
    ("test_without_check", UNIT, "def test_a():\n    f()\n", "def test_a():\n    assert f()\n"),
    (
        "test_without_check",
        UNIT,
        "class TestA:\n    def test_a(self):\n        assert True\n",
        "def f():\n    g()\n",
    ),
    (
        "test_without_check",
        UNIT,
        "async def test_a():\n    await f()\n",
        "async def test_a():\n    await link.expect_frame(1)\n",
    ),
    (
        "test_without_check",
        UNIT,
        "def test_a():\n    recheck()\n",
        "def test_a():\n    with pytest.raises(KeyError):\n        f()\n",
    ),
    ("core_import", CORE, "import time\n", "from collections.abc import Iterator\n"),
    (
        "core_import",
        CORE,
        "from pushwire_gateway import settings\n",
        "from pushwire_gateway.core.model import A\n",
    ),
    ("core_import", CORE, "from ..settings import A\n", "from .model import A\n"),
    ("core_import", CORE, "m = __import__('random')\n", "import heapq\n"),
    ("wire_import", WIRE, "from pushwire.client import Client\n", "from pushwire.wire import codes\n"),
    ("wire_import", WIRE, "import asyncio\n", "import orjson\n"),
    ("foreign_home", GATEWAY, "import orjson\n", "from pushwire.wire import codec\n"),
    ("foreign_home", "storage/pushwire_storage/queries.py", "import sqlite3\n", "import zlib\n"),
    (
        "foreign_home",
        "gateway/pushwire_gateway/api.py",
        "from jose import jwt\n",
        "from limits_of_ours import a\n",
    ),
    ("foreign_home", "sdk/pushwire/session.py", "from websockets.uri import parse_uri\n", "import struct\n"),
    ("machine_words", "README.md", "see /" + "home/ann/notes\n", "see GET /v1/topics/home/messages\n"),
    (
        "machine_words",
        "a.json",
        '"https://registry.' + 'npmjs.org/a.tgz"\n',
        '"https://example.org/wor' + 'k/a"\n',
    ),
    ("machine_words", "a.txt", "--find-" + "links x\n", "orjson==3.13.0\n"),
]
RULE_BY_NAME = {rule.__name__: rule for rule in (*PYTHON_RULES, *TEXT_RULES)}


def findings(rule: Rule, sources: list[Source]) -> list[str]:
    return [f"{source.path}:{line}: {text}" for source in sources for line, text in rule(source)]


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_python_sources_keep_the_rule(rule: Rule) -> None:
    assert not findings(rule, SOURCES)


@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: rule.__name__)
def test_every_text_keeps_the_rule(rule: Rule) -> None:
    assert not findings(rule, TEXTS)


@pytest.mark.parametrize(("name", "path", "bad", "good"), CASES, ids=[case[0] for case in CASES])
def test_the_rule_fires_on_the_bad_snippet_only(name: str, path: str, bad: str, good: str) -> None:
    rule = RULE_BY_NAME[name]
    assert findings(rule, [Source(path, bad)])
    assert not findings(rule, [Source(path, good)])


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(RULE_BY_NAME)


def test_the_walk_sees_every_source_root() -> None:
    roots = {source.path.partition("/")[0] for source in SOURCES}
    assert roots >= {"gateway", "storage", "sdk", "web-demo", "tests"}
    assert {"Makefile", "pyproject.toml", ".ci/run", "constraints.txt"} <= {source.path for source in TEXTS}


def test_nested_functions_and_methods_count() -> None:
    body = "        a = 1\n" * 61
    assert findings(RULE_BY_NAME["function_length"], [Source(GATEWAY, f"class A:\n    def f(self):\n{body}")])


def test_the_clock_module_may_read_the_wall_clock() -> None:
    text = "import time\nnow = time.time()\n"
    assert not findings(RULE_BY_NAME["wall_clock"], [Source("gateway/pushwire_gateway/clock.py", text)])
