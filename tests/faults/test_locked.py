"""Two gateways on one set of files: the second must not get anywhere near them."""

from __future__ import annotations

from faults import locked


def test_a_second_gateway_leaves_at_once_and_says_who_has_the_files(tmp_path):
    refusal = locked.run(tmp_path)
    assert refusal.code == locked.EXIT_CONFIG
    assert refusal.names_owner, refusal.words
    assert refusal.first_still_works
    assert refusal.took_s <= 1.0
