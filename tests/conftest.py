"""Settings that hold for every test; fixtures belong beside the tests that use them."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Folders whose tests start real processes: they come after the others. Those that hold timing bars get the machine for
# themselves; these files hold none that is tight, and mostly wait: two of them at a time.
SERIAL_FOLDERS = ("browser", "e2e", "faults")
PAIRED_FILES = {
    f"e2e/test_{name}.py"
    for name in ("canary", "cli", "cli_admin", "demo", "examples", "examples_web", "golden", "http", "tail_resume")
} | {f"faults/test_{name}.py" for name in ("drain", "migrating", "network", "readers", "sigterm")}

# No deadline: asyncio's debug mode and a busy machine make single examples slow. Under CI the examples are
# the same each time, so that a verdict belongs to the commit; elsewhere each run looks at new ones.
hypothesis.settings.register_profile("pushwire", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("pushwire")


@pytest.hookimpl(tryfirst=True)  # before pytest's own -m looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(tests)
        if path.as_posix() in PAIRED_FILES:
            item.add_marker("paired")
        elif path.parts[0] in SERIAL_FOLDERS:
            item.add_marker("serial")
        if item.get_closest_marker("serial"):
            item.add_marker(pytest.mark.xdist_group("serial"))  # one worker, should someone pass -n
