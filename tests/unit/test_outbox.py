"""The outbox: what is written when, its marks and its limit; and the stall verdict."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pushwire.wire.frames import Goodbye, Ok, Pong, ServerFrame
from pushwire.wire.jsonv1 import JsonServerCodec
from pushwire_gateway.outbox import Outbox, StallWatch

KIB = 1024


class Transport:
    """The Link of an outbox, with a transport whose buffer a test fills and drains."""

    ip = "192.0.2.1"

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.writes: list[Sequence[bytes]] = []
        self.closes: list[tuple[int, str]] = []

    def write(self, parts: Sequence[bytes]) -> None:
        self.writes.append(parts)

    def close(self, code: int, reason: str) -> None:
        self.closes.append((code, reason))

    def authenticated(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Sized(JsonServerCodec):
    """A codec whose `ok` frames are as long as their ref says."""

    def encode(self, frame: ServerFrame) -> bytes:
        return b"x" * frame.ref if isinstance(frame, Ok) else super().encode(frame)


@pytest.fixture
def link() -> Transport:
    return Transport()


@pytest.fixture
def outbox(link: Transport) -> Outbox:
    return Outbox(Sized(), link, 1024 * KIB)


def test_a_turn_is_one_write_of_everything_in_order(outbox, link):
    outbox.send(Ok(2))
    outbox.send(Pong(7))
    outbox.send_encoded(b"ready-made")
    assert link.writes == []
    outbox.flush()
    outbox.flush()
    assert link.writes == [[b"xx", b'{"op":"pong","ref":7}', b"ready-made"]]


def test_a_full_transport_is_given_nothing_until_it_has_drained(outbox, link):
    outbox.hold()
    outbox.send(Ok(5))
    outbox.flush()
    assert link.writes == []
    link.unsent_bytes = 100
    assert outbox.size_bytes == 105
    assert outbox.release()
    assert link.writes == [[b"xxxxx"]]


def test_release_tells_when_what_waited_filled_the_transport_again(outbox, link):
    class Narrow(Transport):
        def write(self, parts):
            super().write(parts)
            outbox.hold()

    outbox._link = Narrow()
    outbox.hold()
    outbox.send(Ok(5))
    assert outbox.release() is False
    outbox.send(Ok(3))
    outbox.flush()
    assert outbox.size_bytes == 3


def test_marks_are_apart_and_count_the_transport(outbox, link):
    link.unsent_bytes = 128 * KIB
    assert (outbox.above_high, outbox.below_low) == (False, False)
    outbox.send(Ok(1))
    assert outbox.above_high
    link.unsent_bytes = 32 * KIB - 1
    assert not outbox.above_high
    assert outbox.below_low


def test_a_small_limit_leaves_marks_that_the_transport_can_reach(link):
    small = Outbox(Sized(), link, 64 * KIB)
    link.unsent_bytes = 64 * KIB
    assert not small.above_high
    link.unsent_bytes = 16 * KIB  # where the transport says that it has drained
    assert small.below_low


def test_a_client_with_too_much_unsent_is_told_why_and_cut_off(outbox, link):
    outbox.hold()
    outbox.send(Ok(1000 * KIB))
    outbox.send(Ok(24 * KIB))  # at the limit
    outbox.send(Ok(1))  # beyond it, by as much as one frame
    assert not link.closes
    outbox.send(Ok(1))
    assert [code for code, _ in link.closes] == [4000]
    goodbye = JsonServerCodec().encode(Goodbye(4000, "slow consumer: the client stopped reading", reconnect=True))
    assert link.writes == [[goodbye]]  # the megabyte is dropped
    outbox.send(Ok(1))
    outbox.flush()
    assert len(link.writes) == len(link.closes) == 1


def test_one_frame_of_any_size_goes_to_a_client_that_has_read_everything(outbox, link):
    outbox.send(Ok(3000 * KIB))
    outbox.flush()
    assert not link.closes
    assert len(link.writes[0][0]) == 3000 * KIB


def test_finish_hands_over_even_to_a_full_transport_and_takes_nothing_more(outbox, link):
    outbox.hold()
    outbox.send(Ok(5))
    outbox.finish()
    outbox.send(Ok(5))
    outbox.flush()
    assert link.writes == [[b"xxxxx"]]


def test_drop_forgets(outbox, link):
    outbox.send(Ok(5))
    outbox.drop()
    outbox.flush()
    assert link.writes == []
    assert outbox.size_bytes == 0


# --- the stall verdict


def test_nothing_to_send_is_no_stall():
    watch = StallWatch()
    assert not any(watch.stalled(500, 0, now, 5) for now in (0, 100, 200))
    assert watch.settled == 500


def test_a_single_byte_that_cannot_leave_is_a_stall_after_the_limit():
    watch = StallWatch()
    assert not watch.stalled(15, 15, 100.0, 5)
    assert not watch.stalled(15, 15, 104.9, 5)
    assert watch.stalled(15, 15, 105.0, 5)


def test_more_to_send_does_not_hide_a_stall():
    watch = StallWatch()
    verdicts = [watch.stalled(1000 * now, 1000 * now - 10, now, 5) for now in range(1, 8)]
    assert verdicts == [False] * 5 + [True] * 2


def test_each_byte_that_leaves_starts_the_time_anew():
    watch = StallWatch()
    for now in range(100):
        assert not watch.stalled(1000, 900 - now, now * 4.9, 5)
    assert watch.stalled(1000, 801, 99 * 4.9 + 5, 5)


def test_a_pause_with_nothing_to_send_starts_it_anew():
    watch = StallWatch()
    watch.stalled(10, 10, 0, 5)
    watch.stalled(10, 0, 4, 5)
    assert not watch.stalled(20, 10, 6, 5)
    assert watch.stalled(20, 10, 11, 5)


def test_without_a_count_of_what_was_written_only_shrinking_shows_progress():
    watch = StallWatch()
    assert not watch.stalled(0, 100, 0, 5)
    assert not watch.stalled(0, 90, 4, 5)
    assert not watch.stalled(0, 95, 8, 5)
    assert watch.stalled(0, 95, 9, 5)
