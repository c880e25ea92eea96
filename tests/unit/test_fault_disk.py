"""The model of a disk that power cuts are made with: what was synced stays, anything else may go, names go in order."""

from __future__ import annotations

import random

import pytest

from faults.journal import CREATE, DIRSYNC, HEAD, RENAME, SYNC, TRUNCATE, UNLINK, WRITE, Disk, Record, read
from faults.table import Row, merged, page, renew


def fed(*records: tuple[int, int, int, bytes]) -> Disk:
    disk = Disk()
    for kind, file, offset, data in records:
        disk.feed(Record(kind, file, offset, 0, data))
    return disk


MADE = ((CREATE, 1, 0, b"a"), (DIRSYNC, 0, 0, b""))


def cuts(disk: Disk, count: int = 300) -> list[dict[str, bytes]]:
    return [disk.cut(random.Random(seed)) for seed in range(count)]


def test_what_was_synced_stays() -> None:
    disk = fed(*MADE, (WRITE, 1, 0, b"old"), (SYNC, 1, 0, b""))
    assert disk.unsafe == 0
    assert {cut["a"] for cut in cuts(disk, 50)} == {b"old"}


def test_what_was_not_may_be_there_in_any_part() -> None:
    disk = fed(*MADE, (WRITE, 1, 0, b"x" * 1024), (SYNC, 1, 0, b""), (WRITE, 1, 0, b"y" * 1024))
    found = {cut["a"] for cut in cuts(disk)}
    assert found == {first * 512 + second * 512 for first in (b"x", b"y") for second in (b"x", b"y")}
    assert disk.worst() == {"a": b"x" * 1024}


def test_a_later_write_may_be_there_without_an_earlier_one() -> None:
    disk = fed(*MADE, (WRITE, 1, 0, b"1" * 512), (WRITE, 1, 512, b"2" * 512))
    assert bytes(512) + b"2" * 512 in {cut["a"] for cut in cuts(disk)}


def test_sectors_are_those_of_the_file_not_of_the_write() -> None:
    disk = fed(*MADE, (WRITE, 1, 0, b"x" * 600), (SYNC, 1, 0, b""), (WRITE, 1, 500, b"y" * 24))
    tails = {cut["a"][500:524] for cut in cuts(disk)}
    assert tails == {left + right for left in (b"x" * 12, b"y" * 12) for right in (b"x" * 12, b"y" * 12)}


def test_a_truncation_is_as_unsafe_as_a_write() -> None:
    disk = fed(*MADE, (WRITE, 1, 0, b"abcd"), (SYNC, 1, 0, b""), (TRUNCATE, 1, 1, b""))
    assert {cut["a"] for cut in cuts(disk)} == {b"a", b"abcd"}


def test_names_are_safe_once_their_directory_is_and_change_in_order() -> None:
    disk = fed((CREATE, 1, 0, b"a"), (SYNC, 1, 0, b""), (RENAME, 0, 0, b"a\0b"), (CREATE, 2, 0, b"c"))
    assert {frozenset(cut) for cut in cuts(disk)} == {
        frozenset(), frozenset("a"), frozenset("b"), frozenset("bc"),
    }  # fmt: skip
    disk.feed(Record(DIRSYNC, 0, 0, 0, b""))
    disk.feed(Record(UNLINK, 0, 0, 0, b"b"))
    assert {frozenset(cut) for cut in cuts(disk)} == {frozenset("bc"), frozenset("c")}


def test_an_inode_that_comes_back_is_another_file() -> None:
    disk = fed(*MADE, (WRITE, 1, 0, b"old"), (SYNC, 1, 0, b""), (UNLINK, 0, 0, b"a"), (CREATE, 1, 0, b"a"))
    disk.feed(Record(DIRSYNC, 0, 0, 0, b""))
    assert {cut["a"] for cut in cuts(disk, 20)} == {b""}


def test_a_record_cut_off_is_left_out(tmp_path) -> None:
    whole = HEAD.pack(WRITE, 7, 3, 5, 2) + b"ab"
    (tmp_path / "journal").write_bytes(whole + HEAD.pack(WRITE, 7, 3, 5, 9) + b"abc")
    assert list(read(tmp_path / "journal")) == [Record(WRITE, 7, 3, 5, b"ab")]


@pytest.mark.parametrize(
    ("fired", "passed", "verdict"),
    [(True, True, "passed"), (True, False, "**FAILED**"), (False, True, "**invalid**: the fault did not fire")],
)
def test_a_row_counts_only_if_its_fault_fired(fired: bool, passed: bool, verdict: str) -> None:
    text = page([Row("f", "h", "t", "a | b", fired, passed)], "About.")
    assert f"| f | h | t | a \\| b | {verdict} |" in text


def test_a_row_that_was_not_run_again_stays(tmp_path):
    path = tmp_path / "page.md"
    rows = [
        Row("a", "how | that", "must", "1\n2", fired=True, passed=True),
        Row("b", "how", "must", "3", fired=True, passed=False),
        Row("c", "", "", "not run: no compiler", fired=False, passed=False),
    ]
    path.write_text(page(rows, "about"))
    assert merged(path, []) == rows
    again = Row("b", "how", "must", "4", fired=True, passed=True)
    new = Row("d", "how", "must", "5", fired=True, passed=True)
    assert merged(path, [new, again]) == [rows[0], again, rows[2], new]
    assert merged(tmp_path / "none.md", [new]) == [new]


def test_a_row_is_renewed_on_a_page_that_says_of_another_run_what_it_ran_on(tmp_path):
    path = tmp_path / "page.md"
    rows = [Row(name, "how", "must", "1", fired=True, passed=True) for name in "ab"]
    path.write_text(page(rows, "Python 3, seed 8."))
    renew(path, [Row("b", "how", "must", "2", fired=True, passed=False)])
    assert path.read_text() == page(
        [rows[0], Row("b", "how", "must", "2", fired=True, passed=False)], "Python 3, seed 8."
    )
