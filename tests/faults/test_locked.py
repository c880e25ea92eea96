"""Two gateways on one set of files: the second must not get anywhere near them."""

from __future__ import annotations

import math

from faults import locked

TRIES_MAX = 6
"""Most of it is the interpreter's own start, which others on the machine have made twice as long for seconds: one try
at the machine's own pace tells it."""


def test_a_second_gateway_leaves_at_once_and_says_who_has_the_files(tmp_path):
    took_s: list[float] = []
    while len(took_s) < TRIES_MAX and min(took_s, default=math.inf) > locked.TOOK_S_MAX:
        refusal = locked.run(tmp_path / str(len(took_s)))
        assert refusal.code == locked.EXIT_CONFIG
        assert refusal.names_owner, refusal.words
        assert refusal.first_still_works
        took_s.append(refusal.took_s)
    assert min(took_s) <= locked.TOOK_S_MAX
