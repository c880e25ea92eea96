"""Two gateways on one set of files: the second must not get anywhere near them."""

from __future__ import annotations

from faults import locked


def test_a_second_gateway_leaves_at_once_and_says_who_has_the_files(tmp_path):
    refusals = [locked.run(tmp_path / str(number)) for number in range(3)]
    for refusal in refusals:
        assert refusal.code == locked.EXIT_CONFIG
        assert refusal.names_owner, refusal.words
        assert refusal.first_still_works
    # Most of it is the interpreter's own start; the best of three is the machine at its own pace.
    assert min(refusal.took_s for refusal in refusals) <= locked.TOOK_S_MAX
