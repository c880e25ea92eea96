"""The house rules as functions from a source file to findings; it knows no test and changes no file.

A finding names the replacement. tests/test_tidy.py applies the rules to the repository and checks each rule
against a bad and a good snippet. The rules about imports are in tidy_imports.py.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FUNCTION_LINES_MAX = 60  # a function fits on a screen; docstrings do not count, explaining is free
CORE_FILE_LINES_MAX = 300
FILE_LINES_MAX = 500
CORE = "gateway/pushwire_gateway/core/"
CLOCK_MODULE = "gateway/pushwire_gateway/clock.py"
# Tests of these folders step a clock or wait for a signal.
STEPPED_TESTS = ("tests/unit/", "tests/conformance/", "tests/sim/")

Finding = tuple[int, str]
Rule = Callable[["Source"], Iterator[Finding]]


@dataclass(frozen=True)
class Source:
    """One file: its path from the repository's root, with slashes, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def comments(self) -> list[Finding]:
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a chain of names, else the empty string (or the known tail, as in `f().b`)."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    for node in source.nodes:
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def function_length(source: Source) -> Iterator[Finding]:
    for node in functions(source):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        first = node.body[0]
        if ast.get_docstring(node, clean=False) is not None:
            lines -= (first.end_lineno or first.lineno) - first.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield node.lineno, f"{node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}: split it"


def file_length(source: Source) -> Iterator[Finding]:
    lines = len(source.text.splitlines())
    limit = CORE_FILE_LINES_MAX if source.path.startswith(CORE) else FILE_LINES_MAX
    if lines > limit:
        yield lines, f"{lines} lines, at most {limit}: split the module"


def module_docstring(source: Source) -> Iterator[Finding]:
    words = (ast.get_docstring(source.tree) or "").split()
    if len(words) < 5:
        yield 1, "open with a docstring that says what the module owns and what it must not do"


def swallowed_exception(source: Source) -> Iterator[Finding]:
    broad = {"", "Exception", "BaseException"}
    for node in source.nodes:
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield node.lineno, "bare except: name the exception"
            elif dotted(node.type) in broad and all(_does_nothing(step) for step in node.body):
                yield node.lineno, "swallowed exception: name the one expected, handle it or let it rise"
    for call, name in calls(source):
        if name.endswith("suppress") and any(dotted(argument) in broad for argument in call.args):
            yield call.lineno, "suppress(Exception): name the exception expected"


def _does_nothing(step: ast.stmt) -> bool:
    constant = isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)
    return constant or isinstance(step, ast.Pass | ast.Continue)


_SILENCER = re.compile(
    r"#\s*(?P<kind>type:\s*ignore|noqa)(?P<codes>\[[\w\-, ]+\]|:\s*[A-Z]+[0-9]+(?:[, ]+[A-Z]+[0-9]+)*)?"
)


def silenced_without_reason(source: Source) -> Iterator[Finding]:
    for line, comment in source.comments:
        if re.search(r"#\s*(?:ruff:\s*noqa|flake8:\s*noqa|mypy:\s*(?:ignore|disable))", comment):
            yield line, "a whole file silenced: silence the line, with code and reason"
            continue
        found = list(_SILENCER.finditer(comment))
        reason = re.findall(r"[A-Za-z]{2,}", _SILENCER.sub("", comment))
        for silencer in found:
            if not silencer["codes"]:
                yield line, f"{silencer['kind']} without a code: name what is silenced"
            elif len(reason) < 2:
                yield line, f"{silencer['kind']} without a reason: write it after the code"


def postponed_work(source: Source) -> Iterator[Finding]:
    for line, comment in source.comments:
        if re.search(r"\b(?:TODO|FIXME|XXX|HACK)\b", comment):
            yield line, "postponed work: do it, or file it as an issue"


WALL_CLOCK = re.compile(r"(?:^|\.)(?:time\.time|time\.time_ns|datetime\.(?:now|utcnow|today)|date\.today)$")


def wall_clock(source: Source) -> Iterator[Finding]:
    if not source.path.startswith("gateway/") or source.path == CLOCK_MODULE:
        return
    for call, name in calls(source):
        if WALL_CLOCK.search(name):
            yield call.lineno, f"{name}() reads the wall clock: take `now`, or ask pushwire_gateway.clock"
    for node in source.nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            for alias in node.names:
                if alias.name in {"time", "time_ns"}:
                    yield node.lineno, "wall clock by name: take `now`, or ask pushwire_gateway.clock"


def sleeping_test(source: Source) -> Iterator[Finding]:
    if source.path.startswith(STEPPED_TESTS):
        for call, name in calls(source):
            if name.rpartition(".")[2] == "sleep":
                yield call.lineno, f"{name}(): step the clock, or wait for an event with a timeout"


_MARKS = ("pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail")
_SKIPS = ("pytest.skip", "pytest.xfail", "pytest.importorskip")


def skipped_without_reason(source: Source) -> Iterator[Finding]:
    called = set()
    for call, name in calls(source):
        if name in _MARKS or name in _SKIPS:
            called.add(id(call.func))
            by_name = any(keyword.arg in {"reason", "msg"} for keyword in call.keywords)
            by_place = name in {"pytest.skip", "pytest.xfail", "pytest.mark.skip"} and call.args
            if not (by_name or by_place):
                yield call.lineno, f"{name} without a reason: say why, and what would end it"
    for node in source.nodes:
        if isinstance(node, ast.Attribute) and id(node) not in called and dotted(node) in _MARKS:
            yield node.lineno, f"{dotted(node)} without a reason: say why, and what would end it"


_CHECKS = {"pytest.raises", "pytest.warns", "run_state_machine_as_test"}
_HELPER = re.compile(r"(?:^|\.)_?(?:assert|check|expect)_\w+$")


def test_without_check(source: Source) -> Iterator[Finding]:
    if not source.path.rpartition("/")[2].startswith("test_"):
        return
    for node in functions(source):
        if node.name.startswith("test_") and not any(_checks(step) for step in ast.walk(node)):
            yield node.lineno, f"{node.name} cannot fail: assert what must hold"


test_without_check.__test__ = False  # type: ignore[attr-defined]  # a rule whose name looks like a test


def _checks(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return not isinstance(node.test, ast.Constant)
    name = dotted(node.func) if isinstance(node, ast.Call) else ""
    return name in _CHECKS or bool(_HELPER.search(name))


# Written with one letter in brackets, so that this file does not trip over itself.
_TEXT_PATTERNS = (
    (re.compile(r"(?<![\w.~$})/:-])/(?:wor[k]|hom[e]|roo[t]|Use[r]s|mn[t])/\w"), "a path of one machine"),
    (re.compile(r"/opt/(?:whee[l]s|py[p]i)"), "a path of one machine"),
    (re.compile(r"(?:test\.)?py[p]i\.(?:org|python)|python[h]osted\.org"), "a download address"),
    (
        re.compile(r"registry\.(?:np[m]js|yarnp[k]g)\.|deb\.de[b]ian\.org|prox[y]\.golang\."),
        "a download address",
    ),
    (re.compile(r"--(?:extra-)?inde[x]-url|--find-lin[k]s|index-ur[l]\s*="), "a download address"),
)


def machine_words(source: Source) -> Iterator[Finding]:
    """Fire on words that are true on one machine only; for every text file, not only for Python."""
    for number, line in enumerate(source.text.splitlines(), start=1):
        for pattern, what in _TEXT_PATTERNS:
            if pattern.search(line):
                yield number, f"{what}: leave it to the configuration of whoever builds"


CODE_RULES: tuple[Rule, ...] = (
    function_length,
    file_length,
    module_docstring,
    swallowed_exception,
    silenced_without_reason,
    postponed_work,
    wall_clock,
    sleeping_test,
    skipped_without_reason,
    test_without_check,
)
TEXT_RULES: tuple[Rule, ...] = (machine_words,)

_SKIPPED_FOLDERS = {"node_modules", "dist", "build", "static", "__pycache__", "htmlcov", "results", "test-results"}
_HIDDEN_KEPT = {".ci", ".gitignore", ".npmrc", ".dockerignore", ".github"}
_TEXT_SUFFIXES = {
    ".cfg", ".css", ".html", ".ini", ".js", ".json", ".lock", ".md", ".mjs", ".py", ".sh", ".sql", ".toml",
    ".ts", ".tsx", ".txt", ".yaml", ".yml", "",
}  # fmt: skip


def text_files(root: Path) -> Iterator[Source]:
    """Yield the repository's own text files; needs no git, so an unpacked source archive will do."""
    for path in sorted(root.iterdir()):
        name = path.name
        if name in _SKIPPED_FOLDERS or (name.startswith(".") and name not in _HIDDEN_KEPT):
            continue
        if path.is_dir():
            for source in text_files(path):
                yield Source(f"{name}/{source.path}", source.text)
        elif path.suffix in _TEXT_SUFFIXES and name != "LICENSE":
            yield Source(name, path.read_text(encoding="utf-8"))
