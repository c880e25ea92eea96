"""Hundreds of seeded runs of the driver against the model, over every store. A failure names its kind and seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.driver import Driver

STEPS, STEPS_LONG = 120, 600
"""Some mistakes need a long past: a group deleted while its message waits, a topic of the same name, a redrive."""
SEEDS = {"inline": 40, "memory": 20, "sqlite": 6}
SEEDS_LONG = {"inline": 4, "memory": 4, "sqlite": 1}
BLOCK = 5
"""Seeds per test; SEEDS counts blocks."""
BLOCKS = [
    (kind, first, steps)
    for seeds, steps in ((SEEDS, STEPS), (SEEDS_LONG, STEPS_LONG))
    for kind, blocks in seeds.items()
    for first in range(0, blocks * BLOCK, BLOCK)
]


@pytest.mark.parametrize(("kind", "first", "steps"), BLOCKS, ids=[f"{each[0]}-{each[1]}-{each[2]}" for each in BLOCKS])
async def test_random_use_agrees_with_the_model(kind: str, first: int, steps: int, tmp_path: Path) -> None:
    arrivals = 0
    for seed in range(first, first + BLOCK):
        arrivals += (await run(kind, seed, steps, tmp_path)).arrivals
    assert arrivals > 0, "nothing was done"


async def run(kind: str, seed: int, steps: int, path: Path) -> Driver:
    driver = Driver(kind, path / str(seed), seed)
    try:
        await driver.run(steps)
    except BaseException as error:
        error.add_note(f"{kind}, seed {seed}, {steps} steps")
        raise
    return driver
