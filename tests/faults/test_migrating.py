"""Killed in a migration, at each statement of each: the next start completes it."""

from __future__ import annotations

import random

from faults import migrating
from pushwire_storage import schema


def test_a_migration_killed_anywhere_is_completed_by_the_next_start(tmp_path):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    migrated = migrating.run(tmp_path, stride=8, seed=seed)
    assert not migrated.problems, migrated.problems
    assert migrated.kills >= sum(map(len, schema.MIGRATIONS[1:])) // 8
    assert migrated.before
