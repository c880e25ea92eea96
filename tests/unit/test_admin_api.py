"""The admin API over the whole application in memory: every answer is one that the OpenAPI document announces."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from pushwire.wire.frames import Ack, Draft, Publish, Reject, Subscribe
from pushwire_gateway import admin_api
from pushwire_gateway.app import whole_app
from pushwire_gateway.hub import Stats
from support.gateway_parts import Parts, cap
from support.spec import check_answer

TOPICS = "/v1/admin/topics"


class Api:
    """A client of the application that checks every answer against the document."""

    def __init__(self, parts):
        self.parts = parts
        transport = httpx.ASGITransport(whole_app(parts.gateway, Stats), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway.test")
        self.root = parts.token("root")

    async def ask(self, method, path, body=None, *, token=None, status=200, code=None, **more):
        headers = {"authorization": f"Bearer {token or self.root}", **more.pop("headers", {})}
        content = {} if body is None else {"json": body}
        response = await self.http.request(method, path, headers=headers, **content, **more)
        kind = response.headers.get("content-type", "")
        value = response.json() if "json" in kind else response.text
        check_answer(method, response.request.url.path, response.status_code, kind, value)
        assert (response.status_code, value.get("code") if code else None) == (status, code), value
        assert response.headers["cache-control"] == "no-store"
        return value if response.status_code != 204 else None

    async def check_refused(self, status, code, method, path, body=None, **more):
        return await self.ask(method, path, body, status=status, code=code, **more)


@pytest.fixture
async def api():
    parts = await Parts(groups_per_topic=3).start()
    api = Api(parts)
    yield api
    await api.http.aclose()


async def dead_letters(parts, count, topic="orders", group="g"):
    """So many messages of a topic, published and rejected."""
    client = await parts.client("worker")
    await client.ok(Subscribe(topic, group, "s", ref=1))
    await client.ok(Publish(topic, [Draft(f"d-{n}", b"%d" % n, key=f"k{n}") for n in range(count)], 2))
    leases = [row.lease for row in await client.delivered(count)]
    await client.ok(Reject(leases, "no good", 3))
    client.lose()


# --- topics ----------------------------------------------------------------------------------------------------


async def test_a_topic_is_made_configured_listed_emptied_and_removed(api):
    made = await api.ask("PUT", f"{TOPICS}/orders", {"retain_ms": 5}, status=201)
    assert (made["name"], made["config"]["retain_ms"]) == ("orders", 5)
    again = await api.ask("PUT", f"{TOPICS}/orders", {"strict": True})
    assert (again["config"]["strict"], again["config"]["retain_ms"]) == (True, 0)  # replaced
    patched = await api.ask("PATCH", f"{TOPICS}/orders", {"ledger": "full"})
    assert (patched["config"]["strict"], patched["config"]["ledger"]) == (True, "full")
    assert (await api.ask("PATCH", f"{TOPICS}/orders"))["config"] == patched["config"]  # no body at all
    await api.ask("PUT", f"{TOPICS}/bills", status=201)
    await api.ask("POST", "/v1/topics/orders/messages", {"messages": [{"data": n} for n in range(4)]})
    listed = await api.ask("GET", TOPICS, params={"limit": 1})
    assert ([topic["name"] for topic in listed["topics"]], listed["more"]) == (["bills"], True)
    rest = await api.ask("GET", TOPICS, params={"after": "bills"})
    assert ([topic["name"] for topic in rest["topics"]], rest["more"]) == (["orders"], False)
    assert rest["topics"][0]["messages"] == 4
    assert await api.ask("POST", f"{TOPICS}/orders/purge", {"through_seq": 3}) == {"removed": 3}
    assert await api.ask("POST", f"{TOPICS}/orders/purge") == {"removed": 1}
    await api.ask("DELETE", f"{TOPICS}/orders", status=204)
    await api.check_refused(404, "topic_not_found", "GET", f"{TOPICS}/orders")


async def test_only_make_it(api):
    only = {"if-none-match": "*"}
    await api.ask("PUT", f"{TOPICS}/t", {}, headers=only, status=201)
    before = await api.ask("GET", f"{TOPICS}/t")
    document = await api.check_refused(412, "conflict", "PUT", f"{TOPICS}/t", {"strict": True}, headers=only)
    assert document["status"] == 412
    assert await api.ask("GET", f"{TOPICS}/t") == before
    await api.ask("PUT", f"{TOPICS}/t/groups/g", headers=only, status=201)
    await api.check_refused(412, "conflict", "PUT", f"{TOPICS}/t/groups/g", headers=only)
    kept = await api.ask("PUT", f"{TOPICS}/t/groups/g", {"start": "new", "inactive_ttl_ms": 5000})
    assert kept["inactive_ttl_ms"] == 0  # was there, and is as it was


async def test_peek_and_history_show_and_change_nothing(api):
    await api.ask("PUT", f"{TOPICS}/t", {"ledger": "full", "retain_ms": 3_600_000}, status=201)
    rows = [{"data": {"n": 1}, "key": "k", "headers": {"a": "b"}}, {"data_text": "two"}, {"data_b64": "AAE="}]
    await api.ask("POST", "/v1/topics/t/messages", {"messages": rows})
    page = await api.ask("GET", f"{TOPICS}/t/messages", params={"limit": 2})
    assert [row["seq"] for row in page["messages"]] == [1, 2]
    assert (page["messages"][0]["data"], page["through"]) == ({"n": 1}, 2)
    last = await api.ask("GET", f"{TOPICS}/t/messages", params={"after_seq": page["through"]})
    assert (last["messages"][0]["data_b64"], last["through"]) == ("AAE=", 3)
    past = await api.ask("GET", f"{TOPICS}/t/messages", params={"after_seq": 3})
    assert (past["messages"], past["through"]) == ([], 3)
    client = await api.parts.client()
    await client.ok(Subscribe("t", "g", "s", ref=1, start="earliest"))
    await client.ok(Ack([row.lease for row in await client.delivered(3)], ref=2))
    for path in (f"{TOPICS}/t/messages/1/history", "/v1/topics/t/messages/1/history"):
        history = await api.ask("GET", path)
        assert [(event["event"], event["group"]) for event in history["events"]] == [("delivered", "g"), ("acked", "g")]
    reader = api.parts.token("reader", cap("replay", topics="t"))
    assert (await api.ask("GET", "/v1/topics/t/messages/1/history", token=reader))["ledger"] == "full"
    await api.check_refused(403, "forbidden", "GET", f"{TOPICS}/t/messages", token=reader)


# --- groups ----------------------------------------------------------------------------------------------------


async def test_groups_are_made_paused_moved_and_removed(api):
    await api.ask("PUT", f"{TOPICS}/t", {"retain_ms": 3_600_000}, status=201)
    await api.ask("POST", "/v1/topics/t/messages", {"messages": [{"data": n} for n in range(5)]})
    made = await api.ask("PUT", f"{TOPICS}/t/groups/g", {"start": {"seq": 3}, "inactive_ttl_ms": 60_000}, status=201)
    assert (made["start_seq"], made["inactive_ttl_ms"]) == (2, 60_000)
    assert (await api.ask("POST", f"{TOPICS}/t/groups/g/pause"))["paused"] is True
    assert (await api.ask("POST", f"{TOPICS}/t/groups/g/resume", {}))["paused"] is False
    assert (await api.ask("POST", f"{TOPICS}/t/groups/g/seek", {"start": "earliest"}))["start_seq"] == 0
    client = await api.parts.client()
    await client.ok(Subscribe("t", "g", "s", prefetch=2, ref=1))
    await client.delivered(2)
    shown = await api.ask("GET", f"{TOPICS}/t/groups/g")
    assert (shown["member_count"], shown["in_flight"], shown["members"][0]["subject"]) == (1, 2, "ann")
    assert [group["name"] for group in (await api.ask("GET", f"{TOPICS}/t/groups"))["groups"]] == ["g"]
    await api.ask("DELETE", f"{TOPICS}/t/groups/g", status=204)
    await api.check_refused(404, "group_not_found", "GET", f"{TOPICS}/t/groups/g")
    for name in "abc":
        await api.ask("PUT", f"{TOPICS}/t/groups/{name}", status=201)
    await api.check_refused(429, "too_many_groups", "PUT", f"{TOPICS}/t/groups/d")


# --- dead letters ----------------------------------------------------------------------------------------------


async def test_dead_letters_are_listed_shown_put_back_and_thrown_away(api):
    await dead_letters(api.parts, 5)
    dead = f"{TOPICS}/orders/dead"
    page = await api.ask("GET", dead, params={"limit": 2, "group": "g", "reason": "rejected"})
    assert (len(page["dead_letters"]), page["more"]) == (2, True)
    rest = await api.ask("GET", dead, params={"after_id": page["dead_letters"][-1]["id"]})
    ids = [letter["id"] for letter in page["dead_letters"] + rest["dead_letters"]]
    assert (len(ids), rest["more"]) == (5, False)
    whole = await api.ask("GET", f"{dead}/{ids[3]}")
    assert (whole["message"]["data"], whole["attempts"][0]["error"]) == (3, "no good")
    assert await api.ask("POST", f"{dead}/redrive", {"match": {"key": "k0"}}) | {"before_ms": 0, "after_id": 0} == {
        "redriven": 1, "more": False, "after_id": 0, "before_ms": 0,
    }  # fmt: skip
    assert (await api.ask("POST", f"{dead}/redrive", {"ids": [ids[1], 10**6]}))["redriven"] == 1
    assert (await api.ask("POST", f"{dead}/discard", {"match": {}}))["discarded"] == 3
    await api.check_refused(404, "not_found", "GET", f"{dead}/{ids[3]}")


async def test_a_page_says_that_there_is_more_also_where_the_store_gives_less_than_is_asked(api, monkeypatch):
    await dead_letters(api.parts, 3)
    monkeypatch.setattr("pushwire_storage.catalog.LETTERS_BYTES_MAX", 1)
    seen, after_id, more = [], 0, True
    while more:
        page = await api.ask("GET", f"{TOPICS}/orders/dead", params={"after_id": after_id})
        more = page["more"]
        seen += [letter["message"]["id"] for letter in page["dead_letters"]]
        after_id = page["dead_letters"][-1]["id"]
    assert seen == ["d-0", "d-1", "d-2"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "bad_request"),
        ({"ids": [1], "match": {}}, "bad_request"),
        ({"ids": []}, "bad_request"),
        ({"ids": [True]}, "bad_request"),
        ({"ids": [0]}, "bad_request"),
        ({"ids": "1"}, "bad_request"),
        ({"match": []}, "bad_request"),
        ({"match": {"grup": "g"}}, "bad_request"),
        ({"match": {"reason": "bad luck"}}, "bad_request"),
        ({"match": {"group": "a b"}}, "bad_group"),
        ({"match": {"key": ""}}, "bad_request"),
        ({"match": {}, "before_ms": -1}, "bad_request"),
        ({"ids": list(range(1, 1002))}, "batch_too_large"),
    ],
)
async def test_what_is_no_choice_of_dead_letters_removes_nothing(api, body, code):
    await dead_letters(api.parts, 2)
    status = 413 if code == "batch_too_large" else 400
    for what in ("redrive", "discard"):
        await api.check_refused(status, code, "POST", f"{TOPICS}/orders/dead/{what}", body)
    assert len((await api.ask("GET", f"{TOPICS}/orders/dead"))["dead_letters"]) == 2


# --- what goes on ----------------------------------------------------------------------------------------------


async def test_a_connection_is_listed_and_ended(api):
    client = await api.parts.client()
    (shown,) = (await api.ask("GET", "/v1/admin/connections"))["connections"]
    assert shown["subject"] == "ann"
    await api.ask("DELETE", f"/v1/admin/connections/{shown['id']}", status=204)
    assert client.closed == 4403
    await api.check_refused(404, "not_found", "DELETE", f"/v1/admin/connections/{shown['id']}")


async def test_stats_are_those_of_the_tail(api):
    await dead_letters(api.parts, 2)
    stats = await api.ask("GET", "/v1/admin/stats")
    assert (stats["published"], stats["dead_letters"], stats["rejected"]) == (2, 2, 2)
    assert stats == await api.parts.admin.stats(api.parts.principal("root"))


async def test_tokens_are_revoked(api):
    made = await api.ask("POST", "/v1/admin/revocations", {"jti": "j1"}, status=201)
    assert made["jti"] == "j1"
    await api.ask("POST", "/v1/admin/revocations", {"subject": "eve", "issued_before_s": 5}, status=201)
    listed = (await api.ask("GET", "/v1/admin/revocations"))["revocations"]
    assert [one.get("jti", one.get("subject")) for one in listed] == ["j1", "eve"]
    for body in ({}, {"jti": 1}, {"jti": "a", "subject": "b"}, {"subject": "x", "issued_before_s": "1"}, {"jti": ""}):
        await api.check_refused(400, "bad_request", "POST", "/v1/admin/revocations", body)


async def test_a_backup_is_for_the_gateways_own_administrators_and_needs_a_folder_and_a_file(tmp_path):
    for settings in ({}, {"backup_dir": tmp_path}):
        api = Api(await Parts(**settings).start())
        default = api.parts.token("root", tenant="default")
        await api.check_refused(403, "forbidden", "POST", "/v1/admin/backup", {"path": "x"})
        await api.check_refused(501, "unsupported", "POST", "/v1/admin/backup", {"path": "x"}, token=default)
        for body in ({}, {"path": "a/b"}, {"path": ".."}, {"path": "a.partial"}, {"path": "a" * 201}, {"path": 1}):
            await api.check_refused(400, "bad_request", "POST", "/v1/admin/backup", body, token=default)
        await api.http.aclose()


# --- order of checks, form of requests --------------------------------------------------------------------------

EVERY = [
    ("GET", TOPICS + "/t"), ("PATCH", TOPICS + "/t"), ("DELETE", TOPICS + "/t"), ("POST", TOPICS + "/t/purge"),
    ("GET", TOPICS + "/t/messages"), ("GET", TOPICS + "/t/messages/1/history"), ("GET", TOPICS + "/t/groups"),
    ("GET", "/v1/topics/t/messages/1/history"), ("GET", TOPICS + "/t/groups/g"), ("DELETE", TOPICS + "/t/groups/g"),
    ("POST", TOPICS + "/t/groups/g/pause"), ("POST", TOPICS + "/t/groups/g/resume"), ("GET", TOPICS + "/t/dead"),
    ("GET", TOPICS + "/t/dead/1"), ("PUT", TOPICS + "/t"), ("PUT", TOPICS + "/t/groups/g"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), EVERY)
async def test_without_the_right_what_is_not_there_looks_like_what_is(api, method, path):
    eve = api.parts.token("eve", cap("publish", "consume"))
    missing = await api.check_refused(403, "forbidden", method, path, token=eve)
    await api.ask("PUT", f"{TOPICS}/t", status=201)
    await api.ask("PUT", f"{TOPICS}/t/groups/g", status=201)
    assert await api.check_refused(403, "forbidden", method, path, token=eve) == missing


@pytest.mark.parametrize(("method", "path"), EVERY)
async def test_what_belongs_to_another_tenant_is_not_there(api, method, path):
    other = api.parts.token("root", tenant="other")
    await api.ask("PUT", f"{TOPICS}/t", status=201)
    await api.ask("PUT", f"{TOPICS}/t/groups/g", status=201)
    if method == "PUT" and path.endswith("/t"):
        await api.ask(method, path, token=other, status=201)
    else:
        await api.check_refused(404, "topic_not_found", method, path, token=other)
    assert (await api.ask("GET", f"{TOPICS}/t"))["group_count"] == 1


@pytest.mark.parametrize(("method", "path"), [*EVERY, ("GET", TOPICS), ("GET", "/v1/admin/stats"), ("GET", "/metrics")])
async def test_without_a_token_nothing_is_said(api, method, path):
    await api.check_refused(401, "unauthorized", method, path, token="a.b.c")


async def test_a_bad_name_is_said_to_be_bad(api):
    await api.check_refused(400, "bad_topic", "GET", f"{TOPICS}/a%20b")
    await api.check_refused(400, "bad_topic", "PUT", f"{TOPICS}/{'x' * 256}")
    await api.ask("PUT", f"{TOPICS}/t", status=201)
    await api.check_refused(400, "bad_group", "PUT", f"{TOPICS}/t/groups/a%20b")
    await api.check_refused(400, "bad_group", "GET", f"{TOPICS}/t/groups/a%20b")
    await api.ask("PUT", f"{TOPICS}/a%3Ab", status=201)  # a colon may be escaped


@pytest.mark.parametrize("value", ["0", "-1", "1001", "1e3", "\uff11", "", " 5", "5_0", "9" * 30])
async def test_a_limit_that_is_none_is_refused(api, value):
    await api.check_refused(400, "bad_request", "GET", TOPICS, params={"limit": value})


async def test_the_form_of_a_body_is_checked(api):
    await api.ask("PUT", f"{TOPICS}/t", status=201)
    purge = f"{TOPICS}/t/purge"
    for content, kind, status, code in (
        (b"{", "application/json", 400, "bad_request"),
        (b"[]", "application/json", 400, "bad_request"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b'{"through_seq":true}', "application/json", 400, "bad_request"),
        (b'{"through_seq":null}', "application/json", 400, "bad_request"),
        (b'{"through_seq":9007199254740992}', "application/json", 400, "bad_request"),
        (b'{"before_seq":3}', "application/json", 400, "bad_request"),
        (b" " * (1 << 20) + b" " * (17 << 10), "application/json", 413, "message_too_large"),
    ):
        await api.check_refused(status, code, "POST", purge, content=content, headers={"content-type": kind})
    await api.check_refused(400, "bad_config", "PATCH", f"{TOPICS}/t", {"typo": 1})
    await api.check_refused(400, "bad_request", "POST", f"{TOPICS}/t/groups/g/seek", {})


async def test_another_method_is_answered_with_those_that_are_allowed(api):
    response = await api.http.request("POST", f"{TOPICS}/t", headers={"authorization": f"Bearer {api.root}"})
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "PUT", "PATCH", "DELETE"}


async def test_whose_a_private_group_is_is_shown_to_administrators_only(api):
    ann = await api.parts.client("ann")
    await ann.ok(Subscribe("t", "phone", client_id="c1", ref=1))
    path, maker = f"{TOPICS}/t/groups/phone", api.parts.token("eve", cap("create"))
    await api.check_refused(404, "group_not_found", "PUT", path, token=maker)
    await api.check_refused(412, "conflict", "PUT", path, token=maker, headers={"if-none-match": "*"})
    assert (await api.ask("PUT", path))["owner"] == "ann/c1"


async def test_of_a_repeated_key_the_last_counts(api):
    await api.ask("PUT", f"{TOPICS}/t", status=201)
    await api.ask("POST", "/v1/topics/t/messages", {"messages": [{"data": n} for n in range(3)]})
    raw = {"content": b'{"through_seq":3,"through_seq":1}', "headers": {"content-type": "application/json"}}
    assert await api.ask("POST", f"{TOPICS}/t/purge", **raw) == {"removed": 1}
    raw["content"] = b'{"start":{"seq":3,"seq":2},"start":"earliest","start":{"time_ms":5,"seq":2,"time_ms":null}}'
    made = await api.ask("PUT", f"{TOPICS}/t/groups/g", status=201, **raw)
    assert made["start_seq"] == 1  # owed from 2 on


async def test_reads_are_charged_to_their_subject_and_changes_are_not():
    parts = await Parts(controls_per_s=1, controls_burst=3).start()
    api = Api(parts)
    await api.ask("PUT", f"{TOPICS}/t", status=201)
    for path in (TOPICS, "/v1/admin/stats", "/v1/topics/t/messages/1/history"):
        await api.ask("GET", path)
    for path in (TOPICS, f"{TOPICS}/t/messages/1/history", "/v1/topics/t/messages/1/history", "/v1/admin/connections"):
        refused = await api.check_refused(429, "rate_limited", "GET", path)
        assert 0 < refused["retry_after_ms"] <= 1000
    await api.ask("PATCH", f"{TOPICS}/t", {"retain_ms": 1})
    await api.ask("GET", TOPICS, token=parts.token("other"))
    await api.ask("POST", "/v1/admin/revocations", {"subject": "other"}, status=201)
    parts.step(1)
    await api.ask("GET", TOPICS)
    await api.http.aclose()


async def test_so_many_long_operations_run_at_once_and_of_one_tenant_half_of_them():
    parts = await Parts(admin_long_max=3).start()
    api = Api(parts)
    await api.ask("PUT", f"{TOPICS}/t", status=201)
    other = parts.token("root", tenant="other")
    await api.ask("PUT", f"{TOPICS}/t", token=other, status=201)
    gate, began = asyncio.Event(), asyncio.Semaphore(0)
    whole = parts.store.read

    async def read(*args):
        began.release()
        await gate.wait()
        return await whole(*args)

    parts.store.read = read
    running = [asyncio.create_task(api.ask("GET", f"{TOPICS}/t/messages")) for _ in range(2)]
    for _ in running:
        await began.acquire()
    refused = await api.check_refused(503, "busy", "GET", f"{TOPICS}/t/messages")
    assert refused["retry_after_ms"] > 0
    running.append(asyncio.create_task(api.ask("GET", f"{TOPICS}/t/messages", token=other)))
    await began.acquire()
    await api.check_refused(503, "busy", "GET", f"{TOPICS}/t/messages", token=other)
    gate.set()
    assert [page["messages"] for page in await asyncio.gather(*running)] == [[], [], []]
    await api.ask("GET", f"{TOPICS}/t/messages")
    await api.http.aclose()


async def test_every_action_leaves_a_line_with_who_and_what_and_nothing_of_a_body(api, monkeypatch):
    lines = []

    class Log:
        def info(self, event, **fields):
            lines.append((event, fields))

    monkeypatch.setattr(admin_api, "log", Log())
    await api.ask("PUT", f"{TOPICS}/t", {"retain_ms": 4711}, status=201)
    await api.check_refused(404, "topic_not_found", "DELETE", f"{TOPICS}/u")
    await api.ask("GET", f"{TOPICS}/t")
    who = {"tenant": "acme", "subject": "root"}
    assert lines == [
        ("admin action", {"method": "PUT", "path": f"{TOPICS}/t", "outcome": "201", **who}),
        ("admin action", {"method": "DELETE", "path": f"{TOPICS}/u", "outcome": "topic_not_found", **who}),
    ]
