"""The admin API's live part: connections and their end, revocations, a copy of the file."""

from __future__ import annotations

from typing import Any

import pytest

from pushwire.wire.frames import Auth, Draft, Goodbye, Publish, Subscribe, SubscribeTail
from pushwire_gateway.auth import Unauthorized
from pushwire_gateway.refusal import Refused
from pushwire_storage.base import StoreFull
from support.gateway_parts import Parts, cap


async def refusal(awaitable: Any) -> str:
    with pytest.raises(Refused) as refused:
        await awaitable
    return refused.value.refusal.code


async def test_connections_are_shown_with_what_they_hold_and_without_secrets() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    ann = await parts.client()
    await ann.ok(Auth(parts.token(), 9, resume_grace_ms=5000))
    await ann.ok(Publish("t", [Draft("", b"12345")], 1))
    await ann.ok(Subscribe("t", "g", "s", prefetch=3, ref=2))
    await ann.delivered(1)
    await ann.ok(SubscribeTail("t", ref=3))
    for ref in (4, 5):
        assert (await ann.error(Publish("t", [Draft("", b'"%s"' % (b"x" * 100_000))], ref))).code == "message_too_large"
    other = await parts.client("eve", tenant="other")
    answer = await parts.admin.connections(root)
    [shown] = answer["connections"]
    expected = {
        "id": ann.session.id,
        "subject": "ann",
        "ip": "192.0.2.7",
        "tails": 1,
        "refused": 2,
        "in_flight": 1,
        "in_flight_bytes": 5,
        "resume_grace_ms": 5000,
        "subscriptions": [{"sub": "s", "topic": "t", "group": "g", "prefetch": 3, "in_flight": 1}],
    }
    assert {name: shown[name] for name in expected} == expected
    assert 0 < shown["expires_in_ms"] <= 3_030_000
    assert shown["opened_at_ms"] == int(parts.clock.now() * 1000)
    for secret in (ann.welcome.session, ann.welcome.session.partition(".")[2]):
        assert secret not in str(answer)
    assert other.session.id not in str(answer)


async def test_connections_come_in_pages_by_id() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    ids = sorted([(await parts.client()).session.id for _ in range(3)])
    first = await parts.admin.connections(root, limit=2)
    assert ([one["id"] for one in first["connections"]], first["more"]) == (ids[:2], True)
    rest = await parts.admin.connections(root, after=ids[1])
    assert ([one["id"] for one in rest["connections"]], rest["more"]) == (ids[2:], False)


async def test_a_kick_ends_one_connection_and_gives_its_leases_to_others_at_once() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    ann, eve = await parts.client(), await parts.client("eve")
    await ann.ok(Subscribe("t", "g", ref=1))
    await ann.ok(Publish("t", [Draft("", b"1")], 2))
    await ann.delivered(1)
    await eve.ok(Subscribe("t", "g", ref=1))
    assert (
        await refusal(parts.admin.kick(parts.principal("root", jti="o", tenant="other"), ann.session.id)) == "not_found"
    )
    assert await refusal(parts.admin.kick(parts.principal("a", cap("admin", topics="t"), jti="a"), "x")) == "forbidden"
    await parts.admin.kick(root, ann.session.id)
    goodbye = await ann.next(Goodbye)
    assert (goodbye.code, goodbye.reconnect) == (4403, False)
    await eve.delivered(1)
    assert await refusal(parts.admin.kick(root, ann.session.id)) == "not_found"


async def test_a_revoked_subject_loses_its_connections_at_once_and_comes_back_with_a_new_token_only() -> None:
    parts = await Parts().start()
    root = parts.principal("root", jti="root")
    ann, bob = await parts.client(), await parts.client("bob")
    other = await parts.client("ann", tenant="other")
    old = parts.token()
    shown = await parts.admin.revoke(root, subject="ann")
    assert shown["subject"] == "ann"
    assert (await ann.next(Goodbye)).code == 4401
    assert bob.closed is None
    assert other.closed is None
    with pytest.raises(Unauthorized):
        parts.tokens.verify(old, parts.clock.now())
    parts.step(1)
    assert (await parts.client()).closed is None
    assert await parts.admin.revocations(root) == {"revocations": [shown]}
    assert (await parts.admin.revocations(parts.principal("r", jti="r", tenant="other")))["revocations"] == []


async def test_one_token_is_revoked_by_its_jti() -> None:
    parts = await Parts().start()
    root = parts.principal("root", jti="root")
    ann, second = await parts.client(jti="first"), await parts.client(jti="second")
    shown = await parts.admin.revoke(root, jti="first")
    assert shown["jti"] == "first"
    assert (await ann.next(Goodbye)).code == 4401
    assert second.closed is None


async def test_what_is_revoked_is_said_in_one_way() -> None:
    parts = await Parts().start()
    root = parts.principal("root", jti="root")
    for more in ({}, {"jti": "a", "subject": "b"}, {"jti": "a", "issued_before_s": 5}, {"subject": ""}, {"jti": "a\n"}):
        assert await refusal(parts.admin.revoke(root, **more)) == "bad_request"
    eve = parts.principal("eve", cap("publish"), jti="eve")
    assert await refusal(parts.admin.revoke(eve, subject="root")) == "forbidden"
    assert await refusal(parts.admin.revocations(eve)) == "forbidden"


async def test_what_the_store_refuses_reaches_who_asked() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    await parts.admin.create_topic(root, "t")
    parts.store.failing = StoreFull("no room")
    assert await refusal(parts.admin.configure_topic(root, "t", {"strict": True})) == "insufficient_storage"
    assert (await parts.admin.topic(root, "t"))["config"]["strict"] is False
    parts.step(1)  # the rest after a batch that was rolled back
    parts.store.failing = StoreFull("no room")
    assert await refusal(parts.admin.delete_topic(root, "t")) == "insufficient_storage"
    assert (await parts.admin.topic(root, "t"))["name"] == "t"


async def test_a_store_without_a_file_cannot_be_copied(tmp_path: Any) -> None:
    parts = await Parts(backup_dir=tmp_path).start()
    assert await refusal(parts.admin.backup(parts.principal("root", tenant="default"), "copy")) == "unsupported"
    assert await refusal(parts.admin.backup(parts.principal("e", cap("consume")), "x")) == "forbidden"
