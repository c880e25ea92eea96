"""PROTOCOL.md tells the truth: its tables are those of the code, and every example is read by the real codecs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pushwire.wire import decode, frames, jsonv1
from pushwire.wire.codec import dumps, loads
from pushwire.wire.codes import CLOSES, DEFINITE_FAILURES, ERRORS
from pushwire.wire.frames import Delivery, Draft, Error, Malformed, Messages, Ok, Publish, TailBatch, Tailed
from pushwire_gateway.clock import AnchoredClock
from pushwire_gateway.gateway import Gateway
from pushwire_gateway.rights import VERBS, Limits
from pushwire_gateway.server import make_throttle
from pushwire_gateway.settings import Settings

DEFAULTS = Settings.model_construct()  # the defaults alone: no environment, no file
DOC = (Path(__file__).resolve().parents[2] / "sdk" / "PROTOCOL.md").read_text(encoding="utf-8")
GATEWAY = jsonv1.JsonServerCodec()
CLIENT = jsonv1.JsonClientCodec()
KINDS = {"json client", "json client broken", "json server", "json http-request", "json http-response"}
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(.*?)\n(.*?)\n```$", DOC, re.MULTILINE | re.DOTALL)
LINES = [(kind, line) for kind, text in BLOCKS for line in text.splitlines()]


def lines_of(kind: str) -> list[str]:
    return [line for found, line in LINES if found == kind]


def frames_of(kind: str) -> list[Any]:
    codec: Any = CLIENT if kind == "json server" else GATEWAY
    return [frame for line in lines_of(kind) for frame in codec.feed(line)]


def table(header: str) -> list[list[str]]:
    """The rows of the one table with this header, each a list of its cells."""
    assert DOC.count(f"\n{header}\n") == 1, header
    rows = DOC.partition(f"\n{header}\n")[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]


def section(number: int) -> str:
    return DOC.partition(f"\n## {number}. ")[2].partition("\n## ")[0]


# --- examples --------------------------------------------------------------------------------------------------


def test_every_fenced_block_is_an_example_of_a_known_kind() -> None:
    assert DOC.count("\n```") == 2 * len(BLOCKS)
    assert {kind for kind, _ in BLOCKS} == KINDS
    assert "~~~" not in DOC
    assert not re.search(r"^ {4,}\S.*[{}]", DOC, re.MULTILINE)  # no example hides in an indented block


@pytest.mark.parametrize("line", lines_of("json client"))
def test_a_clients_example_is_what_a_client_writes(line: str) -> None:
    [frame] = GATEWAY.feed(line)
    assert type(frame) is not Malformed, frame
    assert list(GATEWAY.feed(CLIENT.encode(frame))) == [frame]


@pytest.mark.parametrize("line", lines_of("json server"))
def test_a_gateways_example_is_byte_for_byte_what_a_gateway_writes(line: str) -> None:
    [frame] = CLIENT.feed(line)
    assert type(frame) is not Malformed, frame
    assert GATEWAY.encode(frame).decode() == line


def test_the_examples_show_every_operation_and_answer() -> None:
    shown = {type(frame) for frame in frames_of("json client") + frames_of("json client broken")}
    assert shown >= _members(frames.ClientFrame)
    answered = {type(frame) for frame in frames_of("json server")}
    assert answered >= _members(frames.ServerFrame) - {Malformed}


def _members(union: Any) -> set[type]:
    return set(union.__args__)


def test_unreadable_examples_get_the_answers_shown() -> None:
    [broken] = [text for kind, text in BLOCKS if kind == "json client broken"]
    answers = BLOCKS[BLOCKS.index(("json client broken", broken)) + 1][1].splitlines()
    shown = [frame for line in answers for frame in CLIENT.feed(line)]
    expected: list[Any] = []
    for frame in GATEWAY.feed(broken):
        if type(frame) is Malformed:
            code = ERRORS[frame.code]
            expected.append(Error(frame.code, f"{code.message}: {frame.message}", frame.ref, code.retryable))
        else:
            expected.append(frames.Pong(frame.ref))
    assert shown == expected


def test_every_error_shown_is_in_the_table_with_its_text_and_flag() -> None:
    errors = [frame for frame in frames_of("json server") if type(frame) is Error]
    assert errors
    for error in errors:
        assert error.message.startswith(ERRORS[error.code].message)
        assert error.retryable == ERRORS[error.code].retryable
    for goodbye in (frame for frame in frames_of("json server") if type(frame) is frames.Goodbye):
        assert (goodbye.reason, goodbye.reconnect) == CLOSES[goodbye.code]


def test_every_reply_shown_answers_a_request_shown() -> None:
    asked = {frame.ref for frame in frames_of("json client") + frames_of("json client broken")} - {None}
    for frame in frames_of("json server"):
        ref = getattr(frame, "ref", None)
        assert ref is None or ref in asked, frame


def test_receipts_shown_fit_the_publishes_shown() -> None:
    publishes = {frame.ref: frame for frame in frames_of("json client") if type(frame) is Publish}
    receipts = {frame.ref: frame.receipts for frame in frames_of("json server") if type(frame) is Ok and frame.receipts}
    assert set(receipts) == set(publishes)
    for ref, rows in receipts.items():
        ids = [draft.id for draft in publishes[ref].messages]
        assert [row.id if id else "" for id, row in zip(ids, rows, strict=True)] == ids


def test_http_requests_shown_are_accepted() -> None:
    requests = lines_of("json http-request")
    assert requests
    for line in requests:
        publish = decode.publish({**loads(line), "topic": "orders"}, None, Draft, len(line))
        assert publish.messages


def test_http_answers_shown_have_the_shape_promised() -> None:
    receipts, problem = map(loads, lines_of("json http-response"))
    [ok] = CLIENT.feed(dumps({"op": "ok", **receipts}))
    assert ok.receipts
    code = ERRORS[problem["code"]]
    assert problem["type"] == f"urn:pushwire:error:{problem['code']}"
    assert (problem["title"], problem["status"], problem["retryable"]) == (
        code.message,
        code.http_status,
        code.retryable,
    )
    assert set(problem) == {"type", "title", "status", "detail", "code", "retryable", "retry_after_ms"}


# --- tables ----------------------------------------------------------------------------------------------------


def test_the_error_table_is_that_of_the_code() -> None:
    yes_no = {True: "yes", False: "no"}
    assert table("| code | message | retryable | HTTP | stored |") == [
        [
            f"`{name}`",
            code.message,
            yes_no[code.retryable],
            str(code.http_status),
            "no" if name in DEFINITE_FAILURES else "maybe",
        ]
        for name, code in ERRORS.items()
    ]


def test_the_close_table_is_that_of_the_code() -> None:
    assert table("| code | reason | reconnect |") == [
        [str(number), close.reason, "yes" if close.reconnect else "no"] for number, close in CLOSES.items()
    ]


def fields_of(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


# What the table of operations calls by another name than the frame does.
ON_THE_WIRE = {
    "through": "ack_through",
    "from_seq": "from",
    "to_seq": "to",
    "deliveries": "messages",
    "batch": "messages",
}
IN_THE_ROWS = {"messages": {"topic", "expires_in_ms"}}
# An operation with two forms has two rows and two classes.
FORMS: dict[str, type] = {"subscribe tail": frames.SubscribeTail, "messages tail": frames.Tailed}
BESIDE = {"subscribe": {"private"}, "subscribe tail": {"tail"}}  # says which form it is


@pytest.mark.parametrize(
    ("header", "union"),
    [("| op | fields | what it does |", frames.ClientFrame), ("| op | fields | what it says |", frames.ServerFrame)],
    ids=["client", "gateway"],
)
def test_the_operations_and_their_fields_are_those_of_the_frames(header: str, union: Any) -> None:
    rows = {" ".join(re.findall(r"`(\w+)`", row[0])): fields_of(row[1]) for row in table(header)}
    kinds = {op: FORMS.get(op) or getattr(frames, op.capitalize()) for op in rows}
    assert set(kinds.values()) == _members(union) - {Malformed}
    for op, shown in rows.items():
        fields = {field.name for field in dataclasses.fields(kinds[op])}
        fields -= {"ref", "size_bytes"} | IN_THE_ROWS.get(op, set())
        names = {**ON_THE_WIRE, "start": "from"} if op == "subscribe tail" else ON_THE_WIRE
        assert shown == {names.get(name, name) for name in fields} | BESIDE.get(op, set()), op


def test_the_fields_of_messages_are_those_of_the_wire() -> None:
    names = re.findall(r"^\| `(\w+)` \| [\w ]+\??", section(4), re.MULTILINE)
    published, delivered = names[: names.index("topic")], names[names.index("topic") :]
    full: dict[str, Any] = {"id": "a", "priority": 1, "key": "k", "headers": {"h": "v"}, "content_type": "c"}
    bodies: list[dict[str, Any]] = [{"data": 1}, {"data_text": "t"}, {"data_b64": "AA=="}]
    times = {"delay_ms": 1, "deliver_at_ms": 1, "ttl_ms": 1}
    assert set(published) == set(full) | set(times) | {name for body in bodies for name in body}
    leased: set[str] = set()
    tailed: set[str] = set()
    for body, time in zip(bodies, times, strict=True):
        [publish] = GATEWAY.feed(dumps({"op": "publish", "topic": "t", **full, **body, time: 1}))
        [draft] = publish.messages
        assert (draft.due_ms, draft.expires_ms) == {
            "delay_ms": (-1, None),
            "deliver_at_ms": (1, None),
            "ttl_ms": (None, -1),
        }[time]
        draft.redriven, draft.due_ms = True, 1  # as stored
        leased |= set(loads(GATEWAY.encode(Messages("s", "t", 1, [Delivery("l", 1, draft)])))["messages"][0])
        tailed |= set(loads(GATEWAY.encode(Tailed("s", TailBatch("t", [draft]))))["messages"][0])
    assert leased == (set(published) - set(times) | set(delivered)) - {"due_ms"}
    assert tailed == leased - {"lease", "attempt", "redelivered", "expires_in_ms"} | {"due_ms"}


def _value(text: str) -> float:
    """The number at the start of a cell, in bytes or seconds."""
    match = re.match(r"(\d+)(?: (KiB|MiB|ms|s|min|h|d))?$", text)
    assert match, text
    units = {"KiB": 1024, "MiB": 1024**2, "ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86_400}
    return int(match[1]) * units.get(match[2], 1)


@pytest.mark.parametrize(("text", "name"), [(row[1], row[2].strip("`")) for row in table("| limit | value | name |")])
def test_a_limit_is_what_the_code_says(text: str, name: str) -> None:
    if name.isupper():
        source: Any = decode if hasattr(decode, name) else frames
        constant = getattr(source, name)
        assert _value(text) == (constant / 1000 if "_MS_" in name else constant)
    else:
        assert _value(text) == getattr(DEFAULTS, name)


def test_no_limit_of_the_wire_is_left_out() -> None:
    named = {row[2].strip("`") for row in table("| limit | value | name |")}
    limits = {name for module in (decode, frames) for name in vars(module) if re.search(r"_(MAX|MIN)$", name)}
    # Told where framing is described, or the bound of a bound: prefetch_max may not be set higher.
    assert limits - named == {"INTEGER_MAX", "PREFETCH_MAX"}


def test_what_welcome_announces_is_what_the_document_lists() -> None:
    principal: Any = SimpleNamespace(limits=Limits())
    gateway: Any = SimpleNamespace(settings=DEFAULTS, throttle=make_throttle(DEFAULTS, AnchoredClock()))
    announced = Gateway.announced_limits(gateway, principal)
    [welcome] = [frame for frame in frames_of("json server") if type(frame) is frames.Welcome]
    assert welcome.limits == announced
    assert fields_of(section(8).partition("\n|")[0]) == set(announced)


# --- sentences with numbers ------------------------------------------------------------------------------------


def test_sentences_say_the_numbers_of_the_settings() -> None:
    settings = DEFAULTS
    text = re.sub(r"\s+", " ", DOC)
    cap_s, cap_s_max = settings.backoff_cap_s, settings.backoff_cap_s_max
    for sentence in (
        f"within {settings.auth_timeout_s:.0f} s of the upgrade, else close 4408",
        f"More than {settings.malformed_per_minute} of these",
        f"after {jsonv1.MALFORMED_LINES_MAX} unreadable lines in one WebSocket message",
        f"a cap of {cap_s:.0f} s that doubles with each failure, to {cap_s_max / 60:.0f} min",
        f"(at most {decode.DELAY_MS_MAX // 60_000} min)",
        f"After {settings.max_failures} failures or {settings.max_deliveries} deliveries",
        f"not offered to this session for {settings.release_hold_s:.0f} s",
        f"published again within {settings.dedupe_window_s // 60} minutes",
        f"at most {decode.HEADERS_MAX} entries and {decode.HEADERS_BYTES_MAX // 1024} KiB as JSON",
        f"any text of 1 to {decode.KEY_BYTES_MAX} bytes of UTF-8",
        f"a text of at most {decode.ERROR_TEXT_MAX} characters",
        f"or up to {settings.http_batch_max} of them",
        f"at most {decode.SCHEDULE_MS_MAX // 86_400_000} d",
        f"`consumer_unhealthy`: {settings.unhealthy_timeouts} of its leases ran out",
        f"at most {settings.sessions_away_per_subject} sessions of a subject that are away",
    ):
        assert sentence in text, sentence


def test_the_rights_named_are_those_of_tokens() -> None:
    rights = {name for row in table("| operation | right |") for name in fields_of(row[1])}
    assert rights & VERBS == VERBS
    assert rights - VERBS == {"topic_not_found", "group_not_found"}


def test_every_code_named_in_the_text_exists() -> None:
    closes = {int(number) for number in re.findall(r"\b(?:close|with|second) (1\d{3}|4\d{3})\b", DOC)}
    assert {1003, 4001, 4400, 4401, 4408} <= closes <= set(CLOSES)
    codes = set(re.findall(r"(?:answered|is|refused,|refused as|settlements) `(\w+_?\w+)`", DOC))
    codes |= fields_of(section(3).partition("has ended that subscription.**")[2].partition("\n*")[0])
    named = {"unauthorized", "stale_lease", "id_conflict", "forbidden", "group_not_found", "consumer_unhealthy"}
    assert named <= codes <= set(ERRORS)
