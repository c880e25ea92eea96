"""The shared vectors in Python: tables, both sides of the codec, whole conversations with a gateway in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pushwire.wire.codec import dumps, loads
from pushwire.wire.encode import encode
from pushwire.wire.frames import BINARY, JSON, TEXT, Draft, Malformed, Publish
from pushwire.wire.jsonv1 import JsonClientCodec, JsonServerCodec
from support.gateway_parts import Client, Parts
from vectors import generate

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
ENCODINGS = {"json": JSON, "text": TEXT, "binary": BINARY}


def _vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_bytes())


def _named(entries: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(entry, id=entry.get("name") or entry["verb"]) for entry in entries]


CLIENT = _vectors("client")


def _read(op: dict[str, Any]) -> Any:
    (frame,) = JsonServerCodec(Draft).feed(dumps(op))
    assert not isinstance(frame, Malformed), frame.message
    return frame


def test_the_tables_are_those_of_the_wire() -> None:
    assert loads(generate.CODES.read_bytes()) == generate.tables(), "run python tests/vectors/generate.py"


@pytest.mark.parametrize("vector", _named(CLIENT["publishes"]))
def test_the_gateway_reads_a_publish(vector: dict[str, Any]) -> None:
    frame = _read(vector["op"])
    assert isinstance(frame, Publish)
    assert frame.topic == vector["op"]["topic"]
    (draft,) = frame.messages
    reads = vector["reads"]
    assert draft.encoding == ENCODINGS[reads["encoding"]]
    body = bytes(vector["bytes"]) if "bytes" in vector else vector["data"]
    assert (loads(draft.data) if draft.encoding == JSON else draft.data) == (
        body.encode() if draft.encoding == TEXT else body
    )
    for name in reads.keys() - {"encoding"}:
        value = getattr(draft, name)
        assert (loads(value) if name == "headers" and value else value) == reads[name], name


@pytest.mark.parametrize("vector", _named(CLIENT["subscribes"] + CLIENT["settlements"]))
def test_the_gateway_reads_an_operation(vector: dict[str, Any]) -> None:
    frame = _read(vector["op"])
    reads = dict(vector["reads"])
    assert type(frame).__name__ == reads.pop("type")
    assert {name: getattr(frame, name) for name in reads} == reads


def _publish(text: str) -> Any:
    (frame,) = JsonServerCodec(Draft).feed(f'{{"op":"publish","topic":"orders","data":{text}}}')
    return frame


@pytest.mark.parametrize("vector", _named(CLIENT["refused"]))
def test_a_body_that_cannot_travel_is_refused(vector: dict[str, Any]) -> None:
    assert isinstance(_publish(vector["text"]), Malformed)


@pytest.mark.parametrize("vector", _named(CLIENT["accepted"]))
def test_a_body_that_only_looks_like_it_is_not_refused(vector: dict[str, Any]) -> None:
    frame = _publish(vector["text"])
    assert isinstance(frame, Publish)
    assert json.loads(frame.messages[0].data) == json.loads(vector["text"])


@pytest.mark.parametrize("vector", _named(_vectors("server")))
def test_a_client_reads_what_a_gateway_says(vector: dict[str, Any]) -> None:
    frames = [frame for frame in JsonClientCodec().feed(vector["text"]) if not isinstance(frame, Malformed)]
    assert [json.loads(encode(frame)) for frame in frames] == vector["ops"]


class Conversation:
    """One vector's client, as bytes, with the gateway behind it."""

    def __init__(self, parts: Parts, client: Client) -> None:
        self.parts = parts
        self.client = client
        self.bound: dict[str, Any] = {}

    def fill(self, value: Any) -> Any:
        """The value with every `$name` replaced; a new one is made up."""
        if isinstance(value, str) and value.startswith("$"):
            made = len(self.bound) + 1
            return self.bound.setdefault(value, made if value.startswith("$n") else f"v{made}")
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        return {name: self.fill(item) for name, item in value.items()} if isinstance(value, dict) else value

    def unify(self, expected: Any, got: Any) -> Any:
        """What was expected, with what is new taken from what came."""
        if isinstance(expected, str) and expected.startswith("$"):
            return self.bound.setdefault(expected, got)
        if isinstance(expected, dict) and isinstance(got, dict):
            return {name: self.unify(value, got.get(name)) for name, value in expected.items()}
        if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
            return [self.unify(*pair) for pair in zip(expected, got, strict=True)]
        return expected

    async def step(self, step: dict[str, Any]) -> None:
        if "client" in step:
            data = b"\n".join(dumps(self.fill(op)) for op in step["client"])
            codec = self.client._server_codec
            self.client.session.receive(codec.feed(data), self.parts.clock.now())
        elif "server" in step:
            for op in step["server"]:
                got = json.loads(encode(await self.client.next(object)))
                assert self.unify(op, got) == got
        elif "pass_ms" in step:
            await self.parts.elapse(step["pass_ms"] / 1000)


@pytest.mark.parametrize("vector", _named(_vectors("sequences")))
async def test_the_gateway_keeps_up_its_side(vector: dict[str, Any]) -> None:
    parts = await Parts().start()
    conversation = Conversation(parts, await parts.client())
    for step in vector["steps"]:
        await conversation.step(step)
    await parts.settled()
    assert conversation.client.seen == []
    assert conversation.client.closed is None
