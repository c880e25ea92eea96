"""Message ids and back-off: the SDK's small pure parts."""

from __future__ import annotations

import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushwire import Backoff, Kicked, ProtocolError, Unauthorized
from pushwire.backoff import MIN_UPTIME_S, Loss, Reconnector
from pushwire.errors import ClientClosed, PushwireError
from pushwire.ids import uuid7
from pushwire.wire.codes import CLOSES
from pushwire.wire.frames import ID, Goodbye


def test_an_id_is_a_uuid_of_version_7_with_the_time_in_front():
    before_ms = time.time_ns() // 1_000_000
    made = uuid.UUID(uuid7())
    after_ms = time.time_ns() // 1_000_000
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert before_ms <= made.int >> 80 <= after_ms
    assert ID.fullmatch(str(made))


def test_ids_grow_within_a_millisecond():
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_grow_when_the_clock_goes_back(monkeypatch):
    first = uuid7()
    monkeypatch.setattr("pushwire.ids.time.time_ns", lambda: 1_000_000_000_000_000_000)  # 2001
    after = [uuid7() for _ in range(100)]
    assert [first, *after] == sorted({first, *after})
    assert {uuid.UUID(one).version for one in after} == {7}


def test_threads_never_make_the_same_id():
    made: list[list[str]] = [[], [], [], []]

    def make(mine: list[str]) -> None:
        mine.extend(uuid7() for _ in range(2000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len({one for mine in made for one in mine}) == 8000
    assert all(mine == sorted(mine) for mine in made)


@given(st.integers(0, 200), st.floats(0, 1, exclude_max=True))
def test_the_back_off_is_full_jitter_under_a_doubling_cap(attempt, draw):
    delay_s = Backoff(0.5, 20).delay_s(attempt, lambda: draw)
    assert delay_s == draw * min(20, 0.5 * 2 ** min(attempt, 10))


@pytest.mark.parametrize(("base_s", "cap_s"), [(-1, 1), (2, 1)])
def test_a_back_off_that_makes_no_sense_is_refused(base_s, cap_s):
    with pytest.raises(ValueError):
        Backoff(base_s, cap_s)


# --- the verdict on a lost connection --------------------------------------------------------------------------


def reconnector(*, refreshable: bool = True, draw: float = 0.5) -> Reconnector:
    return Reconnector(Backoff(0.5, 20), lambda: draw, refreshable=refreshable)


def test_the_wait_doubles_to_its_cap():
    again = reconnector()
    waits = [again.down(Loss(), None, 0.0) for _ in range(8)]
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 10, 10]


def test_only_a_connection_that_lasted_resets_the_wait():
    again = reconnector()
    again.down(Loss(), None, 0.0)
    again.up(10.0)
    assert again.down(Loss(), None, 10.0 + MIN_UPTIME_S - 0.01) == 10.0 + MIN_UPTIME_S - 0.01 + 0.5
    again.up(20.0)
    assert again.down(Loss(), None, 20.0 + MIN_UPTIME_S) == 20.0 + MIN_UPTIME_S + 0.25


def test_a_hint_is_a_minimum():
    assert reconnector().down(Loss(1013, retry_after_s=7.0), None, 0.0) == 7.0
    assert reconnector().down(Loss(), Goodbye(1012, "restarting", True, 800), 0.0) == 0.8
    again = reconnector(draw=0.9)
    for _ in range(4):
        again.down(Loss(), None, 0.0)
    assert again.down(Loss(), Goodbye(1012, "restarting", True, 800), 0.0) == 0.9 * 8


@pytest.mark.parametrize(("hint_ms", "wait_s"), [(2**53 - 1, 900), (900_001, 900), (-5, 0.25)])
def test_a_hint_that_makes_no_sense_keeps_nobody_away(hint_ms, wait_s):
    assert reconnector().down(Loss(), Goodbye(1012, "restarting", True, hint_ms), 0.0) == wait_s
    assert reconnector().down(Loss(1013, retry_after_s=hint_ms / 1000), None, 0.0) == wait_s


@pytest.mark.parametrize("code", sorted(CLOSES))
def test_every_close_code_is_obeyed(code):
    verdict = reconnector().down(Loss(code), None, 0.0)
    assert isinstance(verdict, PushwireError) is not CLOSES[code].reconnect


@pytest.mark.parametrize("code", [1006, 1014, 3000, 4999])
def test_a_code_nobody_knows_means_come_back(code):
    assert reconnector().down(Loss(code), None, 0.0) == 0.25


@pytest.mark.parametrize(
    ("code", "kind"), [(4403, Kicked), (4400, ProtocolError), (1009, ProtocolError), (4409, ClientClosed)]
)
def test_a_final_close_has_an_error_of_its_kind(code, kind):
    verdict = reconnector().down(Loss(code, "no more"), None, 0.0)
    assert type(verdict) is kind
    assert "no more" in str(verdict)
    assert not verdict.retryable


def test_what_goodbye_said_counts_when_the_close_frame_was_lost():
    assert type(reconnector().down(Loss(1006), Goodbye(4403, "kicked", False), 0.0)) is Kicked
    assert reconnector().down(Loss(1000), Goodbye(1012, "restarting", True), 0.0) == 0.25


def test_a_rejected_token_is_fetched_again_once():
    again = reconnector()
    reasons = [again.reason]
    assert again.down(Loss(4401), None, 0.0) == 0.25
    reasons.append(again.reason)
    assert reasons == ["connect", "rejected"]
    assert type(again.down(Loss(4401), None, 1.0)) is Unauthorized


def test_a_loss_in_between_does_not_make_a_second_rejection_the_first():
    again = reconnector()
    again.down(Loss(4401), None, 0.0)
    again.down(Loss(1006), None, 1.0)
    assert again.reason == "rejected"
    assert type(again.down(Loss(4401), None, 2.0)) is Unauthorized


def test_a_token_that_worked_may_be_rejected_once_more():
    again = reconnector()
    again.down(Loss(4401), None, 0.0)
    again.up(1.0)
    assert again.reason == "connect"
    assert again.down(Loss(4401), None, 1.0 + MIN_UPTIME_S) == 1.0 + MIN_UPTIME_S + 0.25


def test_a_token_that_cannot_change_is_not_tried_again():
    assert type(reconnector(refreshable=False).down(Loss(4401), None, 0.0)) is Unauthorized
