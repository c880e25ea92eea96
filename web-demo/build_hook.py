"""Refuses to build a wheel without the dashboard, so that none is ever shipped by mistake. Builds nothing itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE = Path("web-demo", "pushwire_web", "static", "index.html")
WAIVER = "PUSHWIRE_WITHOUT_DASHBOARD"


class DashboardHook(BuildHookInterface):  # type: ignore[type-arg]  # generic for type checkers only
    """Asked by hatchling before it builds a wheel. An editable install takes the files where they are, if they are."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or os.environ.get(WAIVER) or (Path(self.root) / PAGE).is_file():
            return
        raise RuntimeError(
            f"{PAGE} is missing: run `make web` first, or set {WAIVER}=1 for a gateway without a dashboard"
        )
