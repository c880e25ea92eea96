"""The house rules about imports that no import contract can state; it imports no source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from support.tidy import CORE, Finding, Rule, Source, calls

# Each of these is replaceable in one file, because only that file knows it.
HOMES = {
    "websockets": ("gateway/pushwire_gateway/connection.py", "sdk/pushwire/client.py"),
    "aiosqlite": ("storage/pushwire_storage/sqlite.py",),
    "sqlite3": ("storage/pushwire_storage/sqlite.py",),
    "pysqlite3": ("storage/pushwire_storage/sqlite.py",),
    "orjson": ("sdk/pushwire/wire/codec.py",),
    "jose": ("gateway/pushwire_gateway/auth.py",),
    "limits": ("gateway/pushwire_gateway/throttle.py",),
    "prometheus_client": ("gateway/pushwire_gateway/metrics.py",),
}
PACKAGES = (
    "gateway/pushwire_gateway/",
    "storage/pushwire_storage/",
    "sdk/pushwire/",
    "web-demo/pushwire_web/",
)
WIRE = "sdk/pushwire/wire/"

# Data tools only: nothing here reads a clock, draws a random number or does I/O.
CORE_MAY_IMPORT = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "enum", "heapq", "itertools", "math", "typing",
}  # fmt: skip
# The wire is shared by client and gateway and must stay cheap to load and free of either.
WIRE_MAY_IMPORT = CORE_MAY_IMPORT | {"base64", "binascii", "functools", "json", "operator", "orjson", "re"}


def imported(source: Source) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) of every import, also of those that a call makes by name."""
    for node in source.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, _absolute(source.path, node)
    for call, name in calls(source):
        if name.endswith(("import_module", "__import__")) and call.args:
            first = call.args[0]
            if isinstance(first, ast.Constant):
                yield call.lineno, str(first.value)


def _absolute(path: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    # gateway/pushwire_gateway/core/model.py, level 1 -> pushwire_gateway.core
    above = path.split("/")[1 : -node.level]
    return ".".join([*above, node.module] if node.module else above)


def _inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def core_import(source: Source) -> Iterator[Finding]:
    if not source.path.startswith(CORE):
        return
    for line, module in imported(source):
        known = module.partition(".")[0] in CORE_MAY_IMPORT or _inside(module, "pushwire_gateway.core")
        if not known:
            yield line, f"the core may not import {module}: take it as an argument, or let the engine do it"


def wire_import(source: Source) -> Iterator[Finding]:
    if not source.path.startswith(WIRE):
        return
    for line, module in imported(source):
        known = module.partition(".")[0] in WIRE_MAY_IMPORT or _inside(module, "pushwire.wire")
        if not known:
            yield (
                line,
                f"the wire is a leaf and may not import {module}: move the code to the client or the gateway",
            )


def foreign_home(source: Source) -> Iterator[Finding]:
    if not source.path.startswith(PACKAGES):
        return
    for line, module in imported(source):
        homes = HOMES.get(module.partition(".")[0])
        if homes and source.path not in homes:
            yield line, f"{module} is imported only in {' and '.join(homes)}: use what that module offers"


IMPORT_RULES: tuple[Rule, ...] = (core_import, wire_import, foreign_home)
