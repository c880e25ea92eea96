"""What `make mutants` breaks: every patch still fits and says who notices."""

from __future__ import annotations

import pytest

from faults import mutants, run

ALL = mutants.mutants()


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_the_patch_fits_and_somebody_is_to_notice(mutant, tmp_path):
    mutants.broken(mutant, tmp_path)
    tool, subject, *_ = mutant.by.split()
    assert subject in run.SCENARIOS if tool == "faults" else (mutants.ROOT / subject.partition("::")[0]).exists()


def test_none_is_lost():
    assert len(ALL) >= 14
