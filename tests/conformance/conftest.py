"""The one fixture of the suite: a world per kind of store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from conformance.harness import KINDS, World


@pytest_asyncio.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    world = World(request.param, tmp_path / "data", busy_timeout_s=0.05)
    await world.open()
    yield world
    await world.close()
