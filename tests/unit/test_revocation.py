"""Revocations: what an entry covers, that it is durable and in force, and that it is forgotten in time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushwire_gateway.auth import LEEWAY_S_MAX, LIFETIME_S_MAX, Unauthorized
from pushwire_gateway.refusal import Refusal
from pushwire_gateway.revocation import REVOCATION_KEPT_S, Revocations, Revoked
from pushwire_gateway.rights import Principal
from pushwire_storage.base import Revocation, StoreBroken
from support.tokens import ISSUER, NOW, KeptRevocations, claims, token, verifier

ALICE = Principal("acme", "alice", ISSUER, "token-1", NOW - 60, NOW + 840, 30, ())


def fresh(store: KeptRevocations | None = None, **limits: int) -> Revocations:
    return Revocations(store or KeptRevocations(), ISSUER, **limits)


async def test_a_revoked_token_is_refused_and_the_next_one_is_not():
    revocations = fresh()
    judge = verifier("HS256", revoked=revocations.affected)
    assert judge.verify(token(), NOW).jti == "token-1"
    entry = await revocations.revoke_token("acme", "token-1", NOW)
    assert entry == Revoked("jti", "token-1", 0, int((NOW + REVOCATION_KEPT_S) * 1000))
    with pytest.raises(Unauthorized) as refused:
        judge.verify(token(), NOW)
    assert refused.value.reason == "revoked"
    assert judge.verify(token(payload=claims(jti="token-2")), NOW).jti == "token-2"


@pytest.mark.parametrize(
    ("other", "covered"),
    [
        ({}, True),
        ({"jti": "token-2"}, False),
        ({"jti": "TOKEN-1"}, False),
        ({"jti": "token-1 "}, False),
        ({"issuer": "https://other.example"}, False),
        ({"tenant": "other"}, False),
        ({"subject": "bob"}, True),
        ({"issued_at": NOW + 10**6}, True),
    ],
    ids=str,
)
async def test_an_entry_of_a_jti_covers_that_token(other, covered):
    revocations = fresh()
    await revocations.revoke_token("acme", "token-1", NOW)
    assert revocations.affected(replace(ALICE, **other)) is covered


@pytest.mark.parametrize(
    ("other", "covered"),
    [
        ({}, True),
        ({"jti": "token-2"}, True),
        ({"issued_at": NOW}, True),  # in the second of the revocation: before it, for all we know
        ({"issued_at": NOW + 1}, False),
        ({"issued_at": -(10**300)}, True),
        ({"subject": "bob"}, False),
        ({"subject": "Alice"}, False),
        ({"issuer": "https://other.example"}, False),
        ({"tenant": "other"}, False),
    ],
    ids=str,
)
async def test_an_entry_of_a_subject_covers_what_was_issued_before(other, covered):
    revocations = fresh()
    await revocations.revoke_subject("acme", "alice", NOW + 0.5)
    assert revocations.affected(replace(ALICE, **other)) is covered


async def test_a_jti_that_looks_like_a_subject_is_none():
    revocations = fresh()
    await revocations.revoke_token("acme", "alice", NOW)
    await revocations.revoke_subject("acme", "token-9", NOW)
    assert not revocations.affected(ALICE)
    assert not revocations.affected(replace(ALICE, jti="token-9"))


async def test_no_tenant_reaches_or_sees_another():
    revocations = fresh()
    await revocations.revoke_subject("acme", "b/alice", NOW)
    await revocations.revoke_token("acme", "b/token-1", NOW)
    for tenant, subject, jti in [("b", "alice", "token-1"), ("acme", "alice", "token-1"), ("acme/b", "alice", "x")]:
        assert not revocations.affected(replace(ALICE, tenant=tenant, subject=subject, jti=jti))
    assert revocations.affected(replace(ALICE, subject="b/alice"))
    assert [entry.name for entry in revocations.of_tenant("acme")] == ["b/alice", "b/token-1"]
    assert revocations.of_tenant("b") == []


@pytest.mark.parametrize("before_s", [0, NOW - 60, NOW - 59, NOW + 1, NOW + 1 + LEEWAY_S_MAX])
async def test_a_subject_may_be_revoked_as_of_a_second(before_s):
    revocations = fresh()
    assert isinstance(await revocations.revoke_subject("acme", "alice", NOW, before_s), Revoked)
    assert revocations.affected(ALICE) is (ALICE.issued_at < before_s)


@pytest.mark.parametrize("before_s", [-1, NOW + 2 + LEEWAY_S_MAX, 10**12])
async def test_a_revocation_bans_nobody_for_the_future(before_s):
    store = KeptRevocations()
    revocations = fresh(store)
    refusal = await revocations.revoke_subject("acme", "alice", NOW, before_s)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "bad_request"
    assert not store.entries
    assert not revocations.affected(ALICE)


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "a\0", "\ud800", "\u202e"], ids=ascii)
async def test_a_name_that_no_token_can_have_is_refused(name):
    revocations = fresh()
    for answer in (
        await revocations.revoke_token("acme", name, NOW),
        await revocations.revoke_subject("acme", name, NOW),
    ):
        assert isinstance(answer, Refusal)
        assert answer.code == "bad_request"
    assert len(revocations) == 0


async def test_an_entry_never_covers_less_than_it_did():
    store = KeptRevocations()
    revocations = fresh(store)
    await revocations.revoke_subject("acme", "alice", NOW)
    await revocations.revoke_subject("acme", "alice", NOW, NOW - 3600)
    assert revocations.affected(ALICE)
    assert [one.issued_before_s for one in store.entries.values()] == [NOW + 1]
    assert len(revocations) == 1


async def test_an_entry_is_in_force_at_once_and_answered_when_durable():
    store = KeptRevocations()
    store.gate = asyncio.Event()
    revocations = fresh(store)
    seen = revocations.version
    adding = asyncio.create_task(revocations.revoke_token("acme", "token-1", NOW))
    async with asyncio.timeout(5):
        while revocations.version == seen:
            await asyncio.wait([adding], timeout=0)
    assert revocations.affected(ALICE)
    assert not store.entries
    assert not adding.done()
    store.gate.set()
    assert isinstance(await adding, Revoked)
    assert len(store.entries) == 1


async def test_a_failed_write_is_said_and_the_token_stays_out():
    store = KeptRevocations()
    store.broken = True
    revocations = fresh(store)
    with pytest.raises(StoreBroken):
        await revocations.revoke_token("acme", "token-1", NOW)
    assert revocations.affected(ALICE)
    store.broken = False
    assert isinstance(await revocations.revoke_token("acme", "token-1", NOW), Revoked)
    assert len(store.entries) == len(revocations) == 1


async def test_the_version_changes_with_every_entry_and_else_never():
    revocations = fresh()
    versions = [revocations.version]
    await revocations.revoke_token("acme", "token-1", NOW)
    versions.append(revocations.version)
    revocations.affected(ALICE)
    await revocations.revoke_token("acme", "", NOW)
    assert revocations.version == versions[-1]
    await revocations.revoke_subject("acme", "alice", NOW)
    versions.append(revocations.version)
    await revocations.revoke_subject("acme", "alice", NOW + 5)
    versions.append(revocations.version)
    assert len(set(versions)) == 4


async def test_entries_outlive_a_restart_and_expired_ones_do_not():
    store = KeptRevocations()
    before = fresh(store)
    await before.revoke_token("acme", "old", NOW - REVOCATION_KEPT_S)
    await before.revoke_subject("acme", "bob/x", NOW - 5)
    await before.revoke_token("acme", "token-1", NOW)
    after = fresh(store)
    assert not after.affected(ALICE)
    await after.load(NOW)
    assert after.of_tenant("acme") == before.of_tenant("acme")[-2:]
    assert after.affected(ALICE)
    assert after.affected(replace(ALICE, subject="bob/x", jti="token-2"))
    assert after.version != fresh().version


async def test_what_is_stored_is_loaded_however_much_it_is():
    store = KeptRevocations()
    before = fresh(store)
    for number in range(20):
        await before.revoke_token("acme", f"token-{number}", NOW)
    after = fresh(store, revocations_max=5, per_tenant_max=5)
    await after.load(NOW)
    assert len(after) == 20
    assert isinstance(await after.revoke_token("acme", "one-more", NOW), Refusal)


@pytest.mark.parametrize(("jti", "subject"), [("token-1", None), (None, "alice"), (None, None), ("", "")])
async def test_an_entry_of_another_make_stops_the_start(jti, subject):
    store = KeptRevocations()
    store.entries[ISSUER, jti, subject] = Revocation(ISSUER, jti, subject, 0, (NOW + 60) * 1000)
    with pytest.raises(ValueError, match="tenant"):
        await fresh(store).load(NOW)


async def test_entries_are_bounded_and_a_tenant_cannot_take_all():
    revocations = fresh(revocations_max=5, per_tenant_max=3)
    for number in range(3):
        assert isinstance(await revocations.revoke_token("acme", f"token-{number}", NOW), Revoked)
    full = await revocations.revoke_token("acme", "token-3", NOW)
    assert isinstance(full, Refusal)
    assert full.code == "insufficient_storage"
    assert isinstance(await revocations.revoke_token("acme", "token-0", NOW), Revoked)  # again is no new one
    for number in range(2):
        assert isinstance(await revocations.revoke_token("other", f"token-{number}", NOW), Revoked)
    assert isinstance(await revocations.revoke_token("third", "token-0", NOW), Refusal)
    later = NOW + REVOCATION_KEPT_S
    assert isinstance(await revocations.revoke_token("acme", "token-3", later), Revoked)
    assert len(revocations) == 1
    assert not revocations.affected(ALICE)


@given(
    lifetime_s=st.integers(1, LIFETIME_S_MAX),
    leeway_s=st.integers(0, LEEWAY_S_MAX),
    ahead_s=st.integers(-LIFETIME_S_MAX, LEEWAY_S_MAX),
    after_s=st.integers(0, 3 * LIFETIME_S_MAX),
)
@example(LIFETIME_S_MAX, LEEWAY_S_MAX, LEEWAY_S_MAX - 1, LIFETIME_S_MAX + 2 * LEEWAY_S_MAX - 2)
async def test_an_entry_is_kept_as_long_as_any_token_it_covers(lifetime_s, leeway_s, ahead_s, after_s):
    """Whatever the lifetime and leeway: once an entry is forgotten, no token it covered is good any more."""
    revocations = fresh()
    await revocations.revoke_subject("acme", "alice", NOW, NOW + LEEWAY_S_MAX)
    await revocations.revoke_token("acme", "token-1", NOW)
    iat = NOW + ahead_s
    later = NOW + after_s
    await revocations.revoke_token("acme", "something-else", later)  # forgets
    judge = verifier("HS256", leeway_s=leeway_s, lifetime_s_max=LIFETIME_S_MAX, revoked=revocations.affected)
    with pytest.raises(Unauthorized):
        judge.verify(token(payload=claims(iat=iat, exp=iat + lifetime_s)), later)
    if ahead_s < LEEWAY_S_MAX:
        with pytest.raises(Unauthorized):
            judge.verify(token(payload=claims(iat=iat, exp=iat + lifetime_s, jti="token-2")), later)
