"""Answers of a gateway held against the document that describes them.

Owns nothing: the schemas are those of `/v1/openapi.json`. Raises AssertionError with the place and what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from pushwire_gateway.openapi import document
from pushwire_gateway.settings import Settings

DOCUMENT = document(Settings.model_construct())
METHODS = ("get", "put", "post", "patch", "delete")


def errors(schema: Mapping[str, Any], value: Any) -> list[str]:
    """What is wrong with a value, by a schema of the document."""
    whole = {**schema, "components": DOCUMENT["components"]}
    return [
        f"{'/'.join(map(str, error.path))}: {error.message}" for error in Draft202012Validator(whole).iter_errors(value)
    ]


def check(name: str, value: Any) -> None:
    """The value is one of `#/components/schemas/<name>`."""
    wrong = errors({"$ref": f"#/components/schemas/{name}"}, value)
    assert not wrong, (name, value, wrong)


def operation(method: str, path: str) -> Mapping[str, Any]:
    """What the document says of a request to this path (without its query)."""
    found = [
        entry[method.lower()]
        for pattern, entry in sorted(DOCUMENT["paths"].items(), key=lambda item: item[0].count("{"))
        if method.lower() in entry and re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(pattern)), path)
    ]
    assert found, f"{method} {path} is not in the document"
    first: Mapping[str, Any] = found[0]
    return first


def check_answer(method: str, path: str, status: int, content_type: str, body: Any) -> None:
    """This is an answer that the document announces for the request. `body` is parsed, where it is JSON."""
    announced = operation(method, path)["responses"]
    assert str(status) in announced, f"{method} {path}: {status} is not announced: {body}"
    content = announced[str(status)].get("content")
    if content is None:
        assert not body, f"{method} {path}: {status} has no body"
        return
    media = content_type.partition(";")[0]
    assert media in content, f"{method} {path}: {status} is {content_type}"
    wrong = errors(content[media]["schema"], body)
    assert not wrong, f"{method} {path}: {status}: {wrong} in {body}"
