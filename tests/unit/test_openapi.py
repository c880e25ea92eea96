"""The OpenAPI document tells the truth: its routes are those served, its codes, limits and fields those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from pushwire.wire import decode
from pushwire.wire.codes import ERRORS
from pushwire_gateway import openapi, spec_schemas, topic_config
from pushwire_gateway.app import whole_app
from pushwire_gateway.handshake import PATH
from pushwire_gateway.hub import Stats
from pushwire_gateway.refusal import Refused
from pushwire_gateway.settings import Settings
from pushwire_storage.base import Message, TopicConfig
from support.gateway_parts import Parts
from support.spec import DOCUMENT, METHODS, errors

DOC = (Path(__file__).resolve().parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
OPERATIONS = {
    (method.upper(), path): entry[method]
    for path, entry in DOCUMENT["paths"].items()
    for method in METHODS
    if method in entry
}
CODES = re.compile(r"`([a-z_]+)`")


def test_it_is_a_valid_document():
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


async def test_the_routes_served_are_those_described():
    app = whole_app((await Parts().start()).gateway, Stats)
    served = {
        (method, route.path)
        for route in app.app.routes  # inside what answers for CORS
        if isinstance(route, Route)
        and route.include_in_schema  # not the files of the dashboard
        and route.path != PATH.decode()  # the socket: asyncapi.py describes it
        for method in route.methods or {"GET"}
        if method not in ("HEAD", "OPTIONS")
    }
    assert served == set(OPERATIONS)


def test_the_routes_described_are_those_of_the_page():
    rows = set()
    for line in DOC.splitlines():
        if line.startswith("| `") and re.match(r"\| `(GET|PUT|PATCH|POST|DELETE) ", line):
            rows |= {
                tuple(route.split(" ", 1)) for route in re.findall(r"`((?:GET|PUT|PATCH|POST|DELETE) /[^`]*)`", line)
            }
    assert rows == set(OPERATIONS)


def test_the_page_and_the_document_agree_on_what_is_refused():
    rows = re.findall(r"^\| `(GET|PUT|PATCH|POST|DELETE) (/[^`]*)` \|(.*)\|$", DOC, re.MULTILINE)
    assert len(rows) > 30
    everywhere, wrong = set(openapi.ANY_ROUTE), []
    table = {(one.method, one.path): one for one in openapi.operations(Settings.model_construct())}
    for method, path, cells in rows:
        last = cells.rsplit("|", 1)[-1] if cells.count("|") > 1 else ""
        said = {code for code in CODES.findall(last) if code in ERRORS}
        missing = said - set(table[method, path].refusals) - everywhere
        if missing:
            wrong.append((method, path, missing))
    assert not wrong


def test_whatever_writes_to_the_store_may_find_it_full():
    writes = {(method, path) for method, path in OPERATIONS if method != "GET" and path.startswith("/v1/admin/")}
    writes -= {("DELETE", "/v1/admin/connections/{id}")}
    groups = "/v1/topics/{topic}/groups/{group}/messages"
    writes |= {("POST", "/v1/topics/{topic}/messages"), ("GET", groups), ("GET", "/v1/topics/{topic}/tail")}
    full = {route for route, operation in OPERATIONS.items() if "507" in operation["responses"]}
    assert full == writes


def test_every_refusal_has_its_codes_status():
    for (method, path), operation in OPERATIONS.items():
        for status, response in operation["responses"].items():
            problem = response.get("content", {}).get("application/problem+json")
            if problem is not None:
                for code in problem["schema"]["allOf"][1]["properties"]["code"]["enum"]:
                    assert str(ERRORS[code].http_status) == status or (status, code) == ("412", "conflict"), (
                        method,
                        path,
                    )


def test_every_operation_has_a_name_of_its_own_and_no_route_is_open_by_mistake():
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)
    unlocked = {path for (_, path), operation in OPERATIONS.items() if operation.get("security") == []}
    assert unlocked == {"/livez", "/readyz", "/v1/openapi.json", "/v1/asyncapi.json"}


def test_the_batch_of_a_publish_is_that_of_the_settings():
    settings = Settings.model_construct(http_batch_max=7, prefetch_max=9)
    paths = openapi.document(settings)["paths"]
    body = paths["/v1/topics/{topic}/messages"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["oneOf"][1]["properties"]["messages"]["maxItems"] == 7
    pulled = paths["/v1/topics/{topic}/groups/{group}/messages"]["get"]["parameters"]
    assert next(one for one in pulled if one["name"] == "max")["schema"]["maximum"] == 9


# --- schemas against the code that holds to them ------------------------------------------------------------------


def accepted(name, value):
    try:
        topic_config.changed(TopicConfig(), {name: value})
    except Refused:
        return False
    return True


VALUES = [
    None, True, False, -1, 0, 1, 99, 100, 1.5, "dead", "drop", "off", "settled", "full", "x", [1, 1, 1, 1],
    [0, 1, 1, 1], [1, 1, 1], [1000] * 4, [1001] * 4, [True] * 4, 64 * 1024 - 1, 64 * 1024, 12 * 3600 * 1000,
    12 * 3600 * 1000 + 1, 1000, 1001, 10_000, 10_001, 10**9, 10**9 + 1, 1024**4, 1024**4 + 1,
    topic_config.AGE_MS_MAX, topic_config.AGE_MS_MAX + 1,
]  # fmt: skip


@pytest.mark.parametrize("name", spec_schemas.CONFIG_FIELDS)
def test_a_field_of_a_configuration_takes_what_its_schema_says(name):
    schema = spec_schemas.CONFIG_FIELDS[name]
    taken = [value for value in VALUES if accepted(name, value)]
    assert [value for value in VALUES if not errors(schema, value)] == taken
    assert taken


def test_every_field_of_a_configuration_is_described():
    assert list(spec_schemas.CONFIG_FIELDS) == list(topic_config.shown(TopicConfig()))
    assert not errors(DOCUMENT["components"]["schemas"]["TopicConfig"], topic_config.shown(TopicConfig()))


DRAFTS = [
    {}, {"data": None}, {"data": 1, "data_text": "x"}, {"data_text": 1}, {"data_b64": "AAE="}, {"data": 1, "more": 1},
    {"data": 1, "id": "a b"}, {"data": 1, "id": "a" * 128}, {"data": 1, "id": "a" * 129}, {"data": 1, "id": ""},
    {"data": 1, "priority": 3}, {"data": 1, "priority": 4}, {"data": 1, "priority": -1}, {"data": 1, "priority": True},
    {"data": 1, "key": ""}, {"data": 1, "key": "k"}, {"data": 1, "key": "k" * 256}, {"data": 1, "key": 5},
    {"data": 1, "headers": {"a": "b"}}, {"data": 1, "headers": {"a b": "c"}}, {"data": 1, "headers": {"a": 1}},
    {"data": 1, "headers": {f"h{n}": "" for n in range(33)}}, {"data": 1, "headers": []},
    {"data": 1, "content_type": "text/plain"}, {"data": 1, "content_type": "ä"}, {"data": 1, "content_type": ""},
    {"data": 1, "delay_ms": 0}, {"data": 1, "delay_ms": -1}, {"data": 1, "delay_ms": decode.SCHEDULE_MS_MAX + 1},
    {"data": 1, "deliver_at_ms": 2**53 - 1}, {"data": 1, "deliver_at_ms": 2**53}, {"data": 1, "ttl_ms": 0},
    {"data": 1, "ttl_ms": 1}, {"data": 1, "ttl_ms": "1"},
]  # fmt: skip


@pytest.mark.parametrize("draft", DRAFTS, ids=str)
def test_a_message_is_taken_when_its_schema_says_so(draft):
    try:
        decode.message(draft, Message, "message")
        taken = True
    except decode.Invalid:
        taken = False
    assert (not errors(DOCUMENT["components"]["schemas"]["Draft"], draft)) == taken
