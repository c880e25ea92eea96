"""Deleting settled messages as ranges: exactly those asked for go, whatever their order and gaps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pushwire_storage.queries import INSERT_PLAIN, Connection
from pushwire_storage.settling import RUN_ROWS_MIN, delete_messages, runs
from pushwire_storage.sqlite import Driver


@contextmanager
def table(positions: Iterable[int]) -> Iterator[Connection]:
    """A database with these messages."""
    connection = Driver("sqlite3").connect_to_memory()
    connection.execute("CREATE TABLE messages (pos INTEGER PRIMARY KEY, id, encoding, published_at, crc, data)")
    INSERT_PLAIN.run(connection.execute, [value for pos in positions for value in (pos, "id", 0, 0, 0, b"")])
    yield connection
    connection.close()


def stored(connection: Connection) -> set[int]:
    return {pos for (pos,) in connection.execute("SELECT pos FROM messages")}


@given(numbers=st.sets(st.integers(0, 60), min_size=1).map(sorted))
def test_runs_hold_every_number_once_and_no_other(numbers: list[int]) -> None:
    found = runs(numbers)
    assert [number for first, last in found for number in range(first, last + 1)] == numbers
    assert all(before[1] + 1 < after[0] for before, after in pairwise(found))


@given(gone=st.sets(st.integers(0, 99)).map(sorted), there=st.sets(st.integers(0, 99)))
def test_exactly_what_is_asked_for_is_deleted_and_counted(gone: list[int], there: set[int]) -> None:
    with table(there) as connection:
        assert delete_messages(connection.execute, gone) == len(there & set(gone))
        assert stored(connection) == there - set(gone)


def test_a_row_between_two_runs_stays() -> None:
    rows, kept = range(3 * RUN_ROWS_MIN), RUN_ROWS_MIN + 1
    with table(rows) as connection:
        assert delete_messages(connection.execute, [pos for pos in rows if pos != kept]) == len(rows) - 1
        assert stored(connection) == {kept}
