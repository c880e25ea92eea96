"""The benchmark's own tools must be right before its numbers can be: framing, ids, ledger, percentiles, verdicts."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol

from bench import document, framing, naive, report
from bench.dialects import Answer, Delivered, Done, PushwireV1, Receipt
from bench.framing import FramingError, Reader
from bench.links import LoadError
from bench.run import chosen, plan
from bench.scenarios import backlog
from bench.scenarios.base import Case, Metric
from bench.stats import Ids, Ledger, median, percentile
from pushwire.wire import frames
from pushwire.wire.encode import encode
from pushwire.wire.jsonv1 import JsonServerCodec

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3, with its answer below
SIZES = (0, 1, 125, 126, 65535, 65536, 200_000)


def served(*, extension: bool = False) -> tuple[ServerProtocol, bytes]:
    """websockets' own server side of an opened connection, and its answer to our handshake."""
    server = ServerProtocol(subprotocols=[frames.SUBPROTOCOL], max_size=None)  # type: ignore[list-item]  # a NewType of str
    server.receive_data(framing.upgrade_request("127.0.0.1:1", "/v1/ws", KEY, frames.SUBPROTOCOL, "a.b.c"))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    assert request.headers["Authorization"] == "Bearer a.b.c"
    response = server.accept(request)
    if extension:
        response.headers["Sec-WebSocket-Extensions"] = "permessage-deflate"
    server.send_response(response)
    return server, b"".join(server.data_to_send())


# ---- framing


def test_the_answer_to_a_key_is_that_of_the_rfc() -> None:
    assert framing.accept_of(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_handshake_is_read_whole_and_what_follows_it_is_kept() -> None:
    server, answer = served()
    server.send_text(b"welcome")
    answer += b"".join(server.data_to_send())
    end = answer.index(b"\r\n\r\n") + 4
    assert framing.read_upgrade(answer[: end - 1], KEY, frames.SUBPROTOCOL) is None
    rest = framing.read_upgrade(answer, KEY, frames.SUBPROTOCOL)
    assert rest is not None
    assert Reader().feed(rest) == [(framing.TEXT, b"welcome")]


def test_a_wrong_handshake_is_refused() -> None:
    _, answer = served()
    for damaged in (
        answer.replace(b"101", b"401"),
        answer.replace(b"s3pP", b"s3pQ"),
        answer.replace(b"pushwire.v1", b"pushwire.v2"),
        served(extension=True)[1],
        b"HTTP/1.1 101 " + b"x" * framing.HEAD_BYTES_MAX,
    ):
        with pytest.raises(FramingError):
            framing.read_upgrade(damaged, KEY, frames.SUBPROTOCOL)


@pytest.mark.parametrize("size", SIZES)
def test_a_server_reads_what_we_frame(size: int) -> None:
    server, _ = served()
    server.receive_data(framing.encode(b"x" * size) + framing.encode(b"hello", framing.PONG))
    text, pong = server.events_received()
    assert (text.opcode, text.data, text.fin) == (framing.TEXT, b"x" * size, True)
    assert (pong.opcode, pong.data) == (framing.PONG, b"hello")


@given(
    payloads=st.lists(st.sampled_from((0, 1, 125, 126, 700)).map(lambda size: b"y" * size), min_size=1, max_size=5),
    cut=st.integers(1, 1000),
)
@example(payloads=[b"y" * 65535, b"y" * 65536, b"y" * 200_000], cut=9973)
def test_we_read_what_a_server_frames_however_it_is_cut(payloads: list[bytes], cut: int) -> None:
    server, _ = served()
    for payload in payloads:
        server.send_text(payload)
        server.send_ping(b"there?")
    stream = b"".join(server.data_to_send())
    reader = Reader()
    got = [message for at in range(0, len(stream), cut) for message in reader.feed(stream[at : at + cut])]
    assert got == [pair for p in payloads for pair in ((framing.TEXT, p), (framing.PING, b"there?"))]


def test_fragments_are_joined_around_a_ping() -> None:
    server, _ = served()
    server.send_text(b"one ", fin=False)
    server.send_ping(b"")
    server.send_continuation(b"two ", fin=False)
    server.send_continuation(b"three", fin=True)
    server.send_binary(b"\0")
    stream = b"".join(server.data_to_send())
    reader = Reader()
    got = [message for byte in stream for message in reader.feed(bytes((byte,)))]
    assert got == [(framing.PING, b""), (framing.TEXT, b"one two three"), (framing.BINARY, b"\0")]


@pytest.mark.parametrize(
    "stream",
    [
        b"\x81\x81\0\0\0\0x",  # masked
        b"\xc1\x00",  # compressed, which nobody negotiated
        b"\x80\x00",  # nothing to continue
        b"\x01\x01a\x81\x01b",  # a new message inside another
        b"\x83\x00",  # an opcode that does not exist
        b"\x09\x00",  # a ping in fragments
        b"\x89\x7e\x00\x7e" + b"p" * 126,  # a ping of 126 bytes
        b"\x81\x7f" + (framing.FRAME_BYTES_MAX + 1).to_bytes(8, "big"),
    ],
)
def test_what_the_rfc_forbids_is_an_error(stream: bytes) -> None:
    with pytest.raises(FramingError):
        Reader().feed(stream)


# ---- percentiles


def test_percentiles_are_nearest_rank() -> None:
    hundred = list(range(1, 101))
    assert [percentile(hundred, share) for share in (0.07, 0.5, 0.99, 0.999, 1)] == [7, 50, 99, 100, 100]
    assert percentile([5.0], 0.01) == 5.0
    assert percentile([1, 2], 0.5) == 1


@given(values=st.lists(st.integers(-1000, 1000), min_size=1), thousandths=st.integers(1, 1000))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values: list[int], thousandths: int) -> None:
    ordered = sorted(values)
    got = percentile(ordered, thousandths / 1000)
    assert sum(value <= got for value in ordered) * 1000 >= thousandths * len(ordered)
    assert sum(value < got for value in ordered) * 1000 < thousandths * len(ordered)


def test_no_samples_and_wrong_shares_are_no_result() -> None:
    for values, share in (([], 0.5), ([1.0], 0.0), ([1.0], 1.1)):
        with pytest.raises(ValueError):
            percentile(values, share)
    with pytest.raises(ValueError):
        median([])
    assert (median([3, 1, 2]), median([4, 1, 3, 2])) == (2, 2.5)


# ---- ids and the ledger


def test_ids_are_unique_version_7_uuids_ascending_per_producer() -> None:
    ids = Ids(seed=1)
    now_ms = 1_700_000_000_000
    first, second = ids.take(500, now_ms, 1), ids.take(500, now_ms, 2)
    first += ids.take(500, now_ms, 1) + ids.take(500, now_ms + 1, 1) + ids.take(500, now_ms, 1)
    assert first == sorted(first)  # also when the clock goes back
    assert second == sorted(second)
    assert len({*first, *second}) == 2500
    assert first[0][:24] != second[0][:24]  # each producer draws a start of its own
    assert all(uuid.UUID(id).version == 7 and uuid.UUID(id).variant == uuid.RFC_4122 for id in first + second)
    assert all(frames.ID.fullmatch(id) and ids.known(id) for id in first + second)


def test_a_ledger_is_content_only_when_each_message_arrived_once() -> None:
    ids = Ids(seed=1)
    ledger = Ledger(ids)
    some = ids.take(10, 1_700_000_000_000)
    ledger.publish(some)
    ledger.arrive(some[:4])
    assert ledger.fault() == "6 of 10 messages did not arrive"
    ledger.arrive(some[4:])
    assert ledger.fault() is None
    assert (ledger.published, ledger.arrived, ledger.outstanding) == (10, 10, 0)


@pytest.mark.parametrize("repeat", [lambda some: [some[3]], lambda some: [some[3]] * 2])
def test_a_message_that_comes_again_is_found(repeat: Any) -> None:
    ids = Ids(seed=1)
    ledger = Ledger(ids)
    some = ids.take(10, 1_700_000_000_000)
    ledger.publish(some)
    ledger.arrive(some)
    again = repeat(some)
    ledger.arrive(again)
    assert ledger.fault() == f"{len(again)} messages arrived twice"


def test_twice_in_one_frame_and_foreign_messages_are_found() -> None:
    ids = Ids(seed=1, start=100)
    ledger = Ledger(ids)
    some = ids.take(2, 1_700_000_000_000)
    ledger.publish(some)
    ledger.arrive([some[0], some[0], some[1]])
    ledger.arrive(["not-one-of-ours", *Ids(seed=2).take(1, 1_700_000_000_000)])
    assert ledger.fault() == "1 messages arrived twice; 2 messages that were never published"


# ---- pushwire.v1 as the load generator speaks it


def test_the_gateway_understands_the_load_generator() -> None:
    codec, dialect = JsonServerCodec(), PushwireV1(200)
    (one,) = codec.feed(dialect.publish("bench.a", ["id-1"], 1))
    (many,) = codec.feed(dialect.publish("bench.a", ["id-1", "id-2", "id-3"], 2))
    assert isinstance(one, frames.Publish)
    assert isinstance(many, frames.Publish)
    assert [draft.id for draft in (*one.messages, *many.messages)] == ["id-1", "id-1", "id-2", "id-3"]
    assert {len(draft.data) for draft in (*one.messages, *many.messages)} == {200}
    assert (one.ref, many.ref, one.topic) == (1, 2, "bench.a")
    (subscribe,) = codec.feed(dialect.subscribe("bench.a", "g", 100, 3))
    assert subscribe == frames.Subscribe("bench.a", "g", None, 100, None, "earliest", 3)
    asked, unasked = codec.feed(dialect.ack(["a", "b"], 4) + b"\n" + dialect.ack(["a"], None))
    assert (asked, unasked) == (frames.Ack(["a", "b"], None, 4), frames.Ack(["a"], None, None))


def test_the_load_generator_understands_the_gateway() -> None:
    draft = frames.Draft("id-1", b'"x"', 1)
    said = [
        frames.Messages("s", "bench.a", 30_000, [frames.Delivery("lease-1", 1, draft)]),
        frames.Ok(7, receipts=[frames.Receipt("id-1", 1, False)]),
        frames.Ok(8, sub="s"),
        frames.Welcome("s1"),
        frames.Ping(9),
    ]
    events = PushwireV1(200).events(b"\n".join(encode(frame) for frame in said))
    assert events == [Delivered(["id-1"], ["lease-1"]), Receipt(7, ["id-1"]), Done(8), Answer(encode(frames.Pong(9)))]


@pytest.mark.parametrize(
    "said",
    [
        frames.Error("rate_limited", "too many", 1, True, 100),
        frames.Goodbye(1001, "going away", True),
        frames.Ok(1, receipts=[frames.Receipt("id-1", 1, True)]),  # called a duplicate, so not stored
    ],
)
def test_a_refusal_voids_the_measurement(said: frames.ServerFrame) -> None:
    with pytest.raises(LoadError):
        PushwireV1(200).events(encode(said))


# ---- the yardstick

NAIVE_SHA256 = "19978389424b326e59b1e92206b7fa8913fb997f871186abc921ca6e8f4bc7f7"


def test_the_naive_gateway_is_frozen() -> None:
    # Ratios of different days compare only against one and the same source.
    assert hashlib.sha256(Path(naive.__file__).read_bytes()).hexdigest() == NAIVE_SHA256


# ---- what may be quoted

RATE = Metric("messages", "1/s", higher_is_better=True)
MEMORY = Metric("memory", "KiB", higher_is_better=False, by_load=False)
CASE = Case("throughput", "1P/1C", {"producers": 1, "per_op": 1}, (RATE, MEMORY))


def results(share: float = 0.5, **rates: list[float]) -> report.Results:
    made = report.Results(list(rates), [CASE])
    for system, values in rates.items():
        cell = made.cell(CASE, system)
        for value in values:
            cell.rounds.append({"messages": value, "memory": 10.0})
            cell.notes.append({"load_cpu_share": 0.2})
        cell.notes[-1]["load_cpu_share"] = share
    return made


def test_a_figure_is_the_median_of_its_rounds() -> None:
    assert results(pushwire=[1.0, 9.0, 2.0]).quoted(CASE, "pushwire", RATE) == 2.0


def test_a_saturated_load_generator_is_not_quoted_but_memory_is() -> None:
    at_limit, above = results(share=0.95, pushwire=[1.0, 2.0, 3.0]), results(share=0.951, pushwire=[1.0, 2.0, 3.0])
    assert at_limit.quoted(CASE, "pushwire", RATE) == 2.0
    assert above.quoted(CASE, "pushwire", RATE) is None
    assert above.quoted(CASE, "pushwire", MEMORY) == 10.0
    assert "not quoted: load generator at 95%" in report.table(above)


def test_a_failed_round_voids_the_figure_and_is_shown() -> None:
    failed = results(pushwire=[1.0, 2.0, 3.0], naive=[1.0, 1.0, 1.0])
    failed.cell(CASE, "pushwire").failures.append("3 of 9 messages did not arrive")
    assert failed.quoted(CASE, "pushwire", RATE) is None
    shown = report.table(failed)
    assert "failed in 1 of 4 rounds" in shown
    assert "pushwire FAILED: 3 of 9 messages did not arrive" in shown
    row = report.rows(failed, {"pushwire": {}, "naive": {}}, {"pushwire": {}, "naive": {}})[0]
    assert (row["value"], row["rounds"], row["void"]) == (None, 3, "failed in 1 of 4 rounds")


def test_who_is_too_slow_has_no_figure_and_has_not_failed() -> None:
    slow = results(pushwire=[1.0, 2.0, 3.0], naive=[1.0, 1.0])
    slow.cell(CASE, "naive").slow.append("does not keep 9 messages/s")
    assert slow.quoted(CASE, "naive", RATE) is None
    assert "too slow: does not keep 9 messages/s" in report.table(slow)
    assert "FAILED" not in report.table(slow)


def test_the_table_says_how_many_times_better_or_worse() -> None:
    assert report.factor(RATE, 50.0, 2.0) == "25.0 x better"
    assert report.factor(RATE, 2.0, 50.0) == "25.0 x worse"
    assert report.factor(MEMORY, 5.0, 20.0) == "4.0 x better"
    assert report.factor(MEMORY, None, 20.0) == "-"


def test_the_naive_gateway_is_held_against_its_drivers_rate() -> None:
    measured = results(pushwire=[9.0], naive=[300.0, 310.0, 290.0])
    assert measured.naive_share("three hops") is None  # unknown is not passed
    measured.bounds["three hops"] = [1000.0, 1200.0, 900.0]
    assert measured.naive_share("three hops") == 0.3


def test_the_page_says_where_pushwire_is_behind() -> None:
    def row(system: str, *values: float, metric: str = "rate") -> dict[str, Any]:
        value = median(values) if values else None
        return {
            "scenario": "s", "metric": metric, "system": system, "value": value, "values": values,
            "higher_is_better": metric == "rate", "failures": [], "void": "not measured",
        }  # fmt: skip

    rows = [row("pushwire", 2.0), row("slower", 1.0), row("unsure", 1.0, 4.0, 9.0), row("nats", 8.0)]
    rows += [row("pushwire", metric="memory"), row("nats", 8.0, metric="memory")]
    rows += [row("pushwire", 6.0, metric="time"), row("nats", 3.0, metric="time")]
    assert document.behind(rows)[-3:] == [
        "| s | rate | nats 4.00, unsure 2.00~ |",
        "| s | memory | *not measured* |",
        "| s | time | nats 2.00 |",
    ]


def test_a_backlog_is_checked_message_by_message():
    seen = backlog.Seen(3)
    ids = [f"0190f3c2-7abc-7def-8abc-{number:012x}" for number in range(4)]
    seen.arrive(ids[:2])
    assert (seen.outstanding, seen.fault() is None) == (1, False)
    seen.arrive([ids[2]])
    assert (seen.outstanding, seen.fault()) == (0, None)
    seen.arrive([ids[2], ids[3]])
    assert (seen.duplicates, seen.foreign) == (1, 1)
    assert seen.fault() is not None


def test_stages_of_a_backlog_become_one_row():
    stages = {
        "fill": {"ready_s": 0.0},
        "drain": {"ready_s": 0.9, "rate": 80_000.0, "peak_kib": 81_920.0},
        "empty": {"ready_s": 0.2, "rate": 64_000.0, "peak_kib": 71_680.0},
    }
    row = backlog.figures(stages)
    assert set(row) == {metric.name for metric in backlog.METRICS}
    assert (row["ready after restart"], row["peak memory above empty"], row["drained : empty queue"]) == (0.9, 10, 1.25)


def test_cases_are_chosen_by_any_of_several_texts():
    cases = plan(quick=False)
    assert [case for case in cases if chosen(case, None)] == cases
    some = {f"{case.scenario}: {case.name}" for case in cases if chosen(case, ["throughput", "latency: 500"])}
    assert len(some) == 5
    assert "latency: 500 messages/s, 1P/1C" in some
    assert not any(chosen(case, ["no such"]) for case in cases)
