"""The AsyncAPI document tells the truth: it has the wire's operations, fields, codes, and holds for every example."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from pushwire.wire import answers, decode, frames
from pushwire.wire.codes import CLOSES, ERRORS
from pushwire_gateway import asyncapi
from pushwire_gateway.spec_schemas import DRAFT_FIELDS

DOC = (Path(__file__).resolve().parents[2] / "sdk" / "PROTOCOL.md").read_text(encoding="utf-8")
DOCUMENT = asyncapi.document()
BLOCKS = re.findall(r"^```json (client|server)\n(.*?)\n```$", DOC, re.MULTILINE | re.DOTALL)
LINES = [(side, line) for side, text in BLOCKS for line in text.splitlines()]
TABLES = {"client": asyncapi.RECEIVED, "server": asyncapi.SENT}


class Recorded(dict):
    """An operation that remembers which of its fields were looked at."""

    def __init__(self, *args):
        super().__init__(*args)
        self.read = set()

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)


def form_of(side, op):
    """The form of an operation that it is."""
    name = op["op"]
    tail = op.get("tail") is True or (name == "messages" and not any("lease" in row for row in op["messages"]))
    return TABLES[side][f"{name}_tail" if tail else name]


@pytest.mark.parametrize(("side", "line"), LINES)
def test_every_example_of_the_protocol_is_valid_and_uses_no_field_that_is_not_described(side, line):
    op = json.loads(line)
    schema = form_of(side, op)
    assert not [error.message for error in Draft202012Validator(schema).iter_errors(op)]
    assert set(op) <= set(schema["properties"])
    for row in op.get("messages", ()):
        assert set(row) <= set(schema["properties"]["messages"]["items"]["properties"])


def test_every_operation_of_the_wire_is_described():
    described = {name.removesuffix("_tail") for name in asyncapi.RECEIVED}
    assert described == {*decode._DECODERS, "publish", "ack"}
    assert {name.removesuffix("_tail") for name in asyncapi.SENT} == set(answers._DECODERS)


NEEDED = {
    "auth": {"token": "t"}, "subscribe": {"topic": "t", "private": True, "client_id": "c"},
    "subscribe_tail": {"topic": "t", "tail": True, "epoch": "e", "after_seq": 1}, "unsubscribe": {"sub": "s"},
    "nack": {"leases": ["l"]}, "reject": {"leases": ["l"]}, "release": {"leases": ["l"]}, "extend": {"leases": ["l"]},
    "flow": {"sub": "s", "prefetch": 1}, "ping": {}, "pong": {}, "ack": {"leases": ["l"]},
}  # fmt: skip


@pytest.mark.parametrize("name", NEEDED)
def test_the_fields_that_the_gateway_reads_are_those_described(name):
    op = Recorded(NEEDED[name])
    table = {**decode._DECODERS, "ack": decode._ack}
    frame = table[name.removesuffix("_tail")](op, None)
    assert type(frame) is not frames.Malformed
    described = set(asyncapi.RECEIVED[name]["properties"]) - {"op", "ref"}
    other_form = {"subscribe": set(decode.TAIL_ONLY), "subscribe_tail": set(decode.GROUP_ONLY)}.get(name, set())
    assert op.read - other_form <= described
    # A resumed tail is not asked where it begins; of lease and leases one is looked at before the other.
    assert described - op.read <= {"from"}


def test_the_fields_of_a_message_that_the_gateway_reads_are_those_described():
    source = "".join(inspect.getsource(part) for part in (decode.message, decode._times, decode._body))
    read = set(re.findall(r'(?:_integer|_text)\(item, "(\w+)"', source)) | set(
        re.findall(r'item\.get\("(\w+)"\)', source)
    )
    assert read == set(DRAFT_FIELDS)
    bodies = {"data", "data_text", "data_b64"}
    assert set(asyncapi.RECEIVED["publish"]["properties"]) == {"op", "ref", "topic", "messages"} | read | bodies


@pytest.mark.parametrize("name", ["welcome", "ok", "error", "gap", "goodbye"])
def test_the_fields_that_a_client_reads_are_those_described(name):
    source = inspect.getsource(answers._DECODERS[name])
    read = set(re.findall(r'_(?:must|may|rows)\(op, "(\w+)"', source)) | set(re.findall(r'op\.get\("(\w+)"\)', source))
    assert read - {"ref"} == set(asyncapi.SENT[name]["properties"]) - {"op", "ref"}
    must = set(re.findall(r'_must\(op, "(\w+)"', source)) - {"subs"}
    assert must == set(asyncapi.SENT[name]["required"]) - {"op"}


def test_codes_are_the_wires():
    assert DOCUMENT["x-error-codes"] == {code: error._asdict() for code, error in ERRORS.items()}
    assert DOCUMENT["x-close-codes"] == {str(code): close._asdict() for code, close in CLOSES.items()}
    assert asyncapi.SENT["error"]["properties"]["code"]["enum"] == list(ERRORS)
    assert asyncapi.SENT["goodbye"]["properties"]["code"]["enum"] == list(CLOSES)


def test_every_reference_leads_somewhere():
    def walk(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                if name == "$ref":
                    place = DOCUMENT
                    for step in inner.removeprefix("#/").split("/"):
                        place = place[step]
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(DOCUMENT)
    assert len(DOCUMENT["operations"]) == len(asyncapi.RECEIVED) + len(asyncapi.SENT)
    for name, schema in {**asyncapi.RECEIVED, **asyncapi.SENT}.items():
        Draft202012Validator.check_schema(schema)
        assert schema["properties"]["op"]["const"] == name.removesuffix("_tail")
