"""A disk that is really full, and has space again."""

from __future__ import annotations

import pytest

from faults import full


@pytest.mark.skipif(full.missing() is not None, reason=str(full.missing()))
@pytest.mark.slow
def test_a_full_disk_refuses_early_goes_on_acking_and_recovers(tmp_path):
    filled = full.run(tmp_path)
    assert not filled.problems, filled.text()
