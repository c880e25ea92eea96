"""A foreign reader, files that cannot be written, copies under load: short."""

from __future__ import annotations

import random

import pytest

from faults import copies, preload, readers


@pytest.mark.slow
def test_a_long_reader_refuses_nobody_and_is_told_of(tmp_path):
    read = readers.long_reader(tmp_path)
    assert not read.problems, (read.text(), read.problems)


@pytest.mark.skipif(readers.missing() is not None, reason=str(readers.missing()))
def test_who_cannot_write_says_so_and_confirms_nothing(tmp_path):
    assert preload.missing() is None
    seen = readers.read_only(tmp_path)
    assert not seen.problems, seen.problems


@pytest.mark.slow
def test_a_copy_made_under_load_is_one_moment_and_can_be_served(tmp_path):
    copied = copies.run(tmp_path, count=3, seed=random.SystemRandom().randrange(1 << 32))
    assert not copied.problems, copied.problems
    assert copied.copies == 3
    assert copied.receipts
