"""Hundreds of seeded runs of the driver against the model, over every store. A failure names its kind and seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.driver import Driver

STEPS = 120
SEEDS = {"inline": 40, "memory": 20, "sqlite": 6}
BLOCK = 5
"""Seeds per test; SEEDS counts blocks."""
BLOCKS = [(kind, first) for kind, blocks in SEEDS.items() for first in range(0, blocks * BLOCK, BLOCK)]


@pytest.mark.parametrize(("kind", "first"), BLOCKS, ids=[f"{kind}-{first}" for kind, first in BLOCKS])
async def test_random_use_agrees_with_the_model(kind: str, first: int, tmp_path: Path) -> None:
    arrivals = 0
    for seed in range(first, first + BLOCK):
        arrivals += (await run(kind, seed, tmp_path)).arrivals
    assert arrivals > 0, "nothing was done"


async def run(kind: str, seed: int, path: Path) -> Driver:
    driver = Driver(kind, path / str(seed), seed)
    try:
        await driver.run(STEPS)
    except BaseException as error:
        error.add_note(f"{kind}, seed {seed}")
        raise
    return driver
