"""Everything that makes a Principal, together: a fresh key, a revoked token, a ticket; and nothing of them is shown."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pushwire_gateway.auth import REFUSED_TEXT, SigningKey, Unauthorized, UnknownKey, mint
from pushwire_gateway.jwks import KEYS_AGE_S_MAX, REFETCH_S
from pushwire_gateway.key_material import Alg
from pushwire_gateway.revocation import Revoked
from pushwire_gateway.rights import Principal
from pushwire_gateway.settings import ConfigError, load
from pushwire_gateway.tickets import Ticket
from pushwire_gateway.tokens import Tokens, make_jwks, make_tokens, make_verifier
from pushwire_storage.base import Revocation
from support.key_server import Gate, KeyServer, ec_jwk, key_server, key_set, response, rsa_jwk
from support.port import SteppedClock
from support.tokens import AUDIENCE, ISSUER, NOW, claims, header, token

PATIENCE_S = 10
HS_KEY = {"kid": "HS256", "alg": "HS256", "secret": "a shared secret of more than 32 bytes"}
APP = "https://app.example.com"


class Kept:
    """What a catalog keeps of revocations."""

    def __init__(self) -> None:
        self.entries: list[Revocation] = []

    async def revoke(self, revocation: Revocation) -> None:
        self.entries.append(revocation)

    async def revocations(self) -> Sequence[Revocation]:
        return self.entries


@asynccontextmanager
async def tokens_of(store: Kept | None = None, **settings: Any) -> AsyncIterator[tuple[Tokens, SteppedClock]]:
    clock = SteppedClock(NOW)
    chosen = load(audience=AUDIENCE, issuer=ISSUER, **settings)
    tokens = make_tokens(chosen, store or Kept(), clock.now)
    await tokens.start()
    try:
        yield tokens, clock
    finally:
        await asyncio.wait_for(tokens.close(), PATIENCE_S)


def published_by(server: KeyServer) -> dict[str, Any]:
    return {"jwks_url": server.url, "jwks_allow_http_loopback": True}


def good(alg: Alg, clock: SteppedClock, **changes: Any) -> str:
    now = int(clock.now())
    return token(alg, payload=claims(iat=now - 10, exp=now + 890, **changes))


def own(clock: SteppedClock) -> str:
    """A token signed with the configured secret."""
    now = int(clock.now())
    return mint(SigningKey("HS256", "HS256", HS_KEY["secret"].encode()), claims(iat=now - 10, exp=now + 890))


# ---- a key that was published a moment ago


async def test_a_token_of_a_fresh_key_is_good_after_one_fetch():
    async with key_server() as server, tokens_of(**published_by(server)) as (tokens, clock):
        clock.step(REFETCH_S)
        server.publish(rsa_jwk(), ec_jwk())
        fresh = good("ES256", clock)
        with pytest.raises(UnknownKey):
            tokens.verify(fresh, clock.now())
        assert (await tokens.verify_token(fresh, clock.now())).subject == "alice"
        assert tokens.verify(fresh, clock.now()).subject == "alice"
        assert (await tokens.verify_token(good("RS256", clock), clock.now())).subject == "alice"
        assert len(server.requests) == 2


async def test_a_token_of_no_key_is_refused_like_any_other():
    async with key_server() as server, tokens_of(**published_by(server)) as (tokens, clock):
        clock.step(REFETCH_S)
        for text in (good("ES256", clock), "junk", token("RS256", header("RS256", kid="x"))):
            with pytest.raises(Unauthorized) as refused:
                await tokens.verify_token(text, clock.now())
            assert str(refused.value) == REFUSED_TEXT
            assert not isinstance(refused.value, UnknownKey)
            assert refused.value.__cause__ is None
        assert len(server.requests) == 2


async def test_a_token_is_judged_by_the_time_at_which_its_key_came():
    async with key_server() as server, tokens_of(**published_by(server)) as (tokens, clock):
        clock.step(REFETCH_S)
        text = good("ES256", clock)
        server.answer = gate = Gate(response(key_set(ec_jwk())))
        server.asked.clear()
        asked = asyncio.create_task(tokens.verify_token(text, clock.now()))
        await asyncio.wait_for(server.asked.wait(), PATIENCE_S)
        clock.step(890 + 30)
        gate.open.set()
        with pytest.raises(Unauthorized) as refused:
            await asyncio.wait_for(asked, PATIENCE_S)
        assert refused.value.reason == "expired"


async def test_who_cannot_wait_is_called():
    async with key_server() as server, tokens_of(**published_by(server)) as (tokens, clock):
        clock.step(REFETCH_S)
        server.publish(ec_jwk())
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Principal | None]] = [loop.create_future() for _ in range(3)]
        for text, answer in zip([good("ES256", clock), good("RS256", clock), "junk"], answers, strict=True):
            tokens.verify_late(text, answer.set_result)
            assert not answer.done()
        fresh, gone, junk = await asyncio.wait_for(asyncio.gather(*answers), PATIENCE_S)
        assert fresh is not None
        assert fresh.subject == "alice"
        assert gone is not None  # judged before the fetch, by the keys of that moment
        assert junk is None
        assert len(server.requests) == 2


async def test_whoever_waits_at_the_end_is_refused():
    clock = SteppedClock(NOW)
    async with key_server() as server:
        chosen = load(audience=AUDIENCE, issuer=ISSUER, **published_by(server))
        tokens = make_tokens(chosen, Kept(), clock.now)
        await tokens.start()
        clock.step(REFETCH_S)
        server.answer = Gate()
        server.asked.clear()
        answer: asyncio.Future[Principal | None] = asyncio.get_running_loop().create_future()
        tokens.verify_late(good("ES256", clock), answer.set_result)
        await asyncio.wait_for(server.asked.wait(), PATIENCE_S)
        await asyncio.wait_for(tokens.close(), PATIENCE_S)
        assert answer.result() is None
        # Also whoever has come so late that nothing was begun.
        last: asyncio.Future[Principal | None] = asyncio.get_running_loop().create_future()
        tokens.verify_late(good("ES256", clock), last.set_result)
        async with asyncio.timeout(PATIENCE_S):  # in this very task: another would give that client its turn
            await tokens.close()
        assert last.result() is None
        await tokens.close()


async def test_verifying_renews_old_keys_without_waiting():
    async with key_server() as server, tokens_of(**published_by(server)) as (tokens, clock):
        clock.step(KEYS_AGE_S_MAX)
        server.answer = gate = Gate(response(key_set(ec_jwk())))
        server.asked.clear()
        assert tokens.verify(good("RS256", clock), clock.now()).subject == "alice"
        await asyncio.wait_for(server.asked.wait(), PATIENCE_S)
        assert tokens.verify(good("RS256", clock), clock.now()).subject == "alice"
        gate.open.set()
        assert (await tokens.verify_token(good("ES256", clock), clock.now())).subject == "alice"
        with pytest.raises(UnknownKey):
            tokens.verify(good("RS256", clock), clock.now())


async def test_a_gateway_starts_without_its_issuer_and_takes_its_own_keys():
    async with key_server() as server:
        server.answer = b""
        async with tokens_of(keys=(HS_KEY,), **published_by(server)) as (tokens, clock):
            assert tokens.verify(own(clock), clock.now()).subject == "alice"
            with pytest.raises(UnknownKey):
                tokens.verify(good("RS256", clock), clock.now())


async def test_no_header_of_a_token_makes_anybody_call():
    async with key_server() as server, key_server() as evil, tokens_of(**published_by(server)) as (tokens, clock):
        clock.step(REFETCH_S)
        evil.publish(rsa_jwk(kid="evil"))
        heads: list[dict[str, Any]] = [
            {"jku": evil.url}, {"x5u": evil.url}, {"jku": evil.url, "kid": "evil"}, {"jwk": rsa_jwk(kid="evil")},
            {"x5c": ["AA"]}, {"kid": evil.url}, {"kid": "evil", "iss": evil.url},
        ]  # fmt: skip
        for change in heads:
            with pytest.raises(Unauthorized):
                await tokens.verify_token(token("RS256", header("RS256", **change)), clock.now())
        with pytest.raises(Unauthorized):
            await tokens.verify_token(token("RS256", payload=claims(iss=evil.url)), clock.now())
        assert evil.connections == 0
        assert len(server.requests) == 2  # for the kid that looks like an address, and it went to the issuer


# ---- revocation


async def test_a_revoked_session_is_seen_by_its_version_and_its_token_refused():
    store = Kept()
    async with tokens_of(store, keys=(HS_KEY,)) as (tokens, clock):
        text = own(clock)
        principal, seen = tokens.verify(text, clock.now()), tokens.revocations.version
        assert not tokens.revoked(principal)
        assert isinstance(await tokens.revocations.revoke_token("acme", "token-1", clock.now()), Revoked)
        assert tokens.revocations.version != seen
        assert tokens.revoked(principal)
        with pytest.raises(Unauthorized):
            await tokens.verify_token(text, clock.now())
    async with tokens_of(store, keys=(HS_KEY,)) as (tokens, clock):
        with pytest.raises(Unauthorized) as refused:
            tokens.verify(text, clock.now())
        assert refused.value.reason == "revoked"


# ---- tickets


async def test_a_ticket_stands_for_its_token_and_ends_with_its_revocation():
    async with tokens_of(keys=(HS_KEY,)) as (tokens, clock):
        principal = tokens.verify(own(clock), clock.now())
        tickets = [tokens.issue_ticket(principal, APP, clock.now()) for _ in range(3)]
        assert all(isinstance(ticket, Ticket) for ticket in tickets)
        texts = [ticket.text for ticket in tickets if isinstance(ticket, Ticket)]
        assert tokens.redeem(texts[0], {APP}, clock.now()) == principal
        for text, origins, reason in [(texts[0], {APP}, "ticket"), (texts[1], {"https://evil.io"}, "ticket")]:
            with pytest.raises(Unauthorized) as refused:
                tokens.redeem(text, origins, clock.now())
            assert (refused.value.reason, str(refused.value)) == (reason, REFUSED_TEXT)
        await tokens.revocations.revoke_subject("acme", "alice", clock.now())
        with pytest.raises(Unauthorized) as refused:
            tokens.redeem(texts[2], {APP}, clock.now())
        assert refused.value.reason == "revoked"


async def test_ticket_limits_are_the_settings():
    async with tokens_of(keys=(HS_KEY,), node="n9", ticket_lifetime_s=5, tickets_per_subject=1) as (tokens, clock):
        principal = tokens.verify(own(clock), clock.now())
        ticket = tokens.issue_ticket(principal, None, clock.now())
        assert isinstance(ticket, Ticket)
        assert (ticket.text[:3], ticket.expires_in_ms) == ("n9.", 5000)
        assert not isinstance(tokens.issue_ticket(principal, None, clock.now()), Ticket)


# ---- from the settings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "no keys"),
        ({"jwks_url": "http://issuer.example/keys"}, "only https"),
        ({"jwks_url": "http://127.0.0.1:1/keys"}, "only https"),
        ({"jwks_url": "http://issuer.example/keys", "jwks_allow_http_loopback": True}, "only https"),
        ({"jwks_url": "https://issuer.example/", "jwks_file": Path("keys.json")}, "one of jwks_url and jwks_file"),
        ({"keys": (HS_KEY, HS_KEY)}, "same kid"),
    ],
    ids=str,
)
async def test_settings_that_let_nobody_or_anybody_in_are_refused(settings, text):
    with pytest.raises(ConfigError, match=text):
        make_tokens(load(**settings), Kept(), SteppedClock().now)


async def test_a_file_that_takes_a_configured_kid_stops_the_start(tmp_path):
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(rsa_jwk(), ec_jwk(kid="HS256")))
    tokens = make_tokens(load(keys=(HS_KEY,), jwks_file=file), Kept(), SteppedClock().now)
    with pytest.raises(ConfigError, match="HS256"):
        await tokens.start()


async def test_without_a_set_nothing_is_fetched():
    chosen = load(keys=(HS_KEY,))
    assert make_jwks(chosen, make_verifier(chosen), SteppedClock().now) is None
    async with tokens_of(keys=(HS_KEY,)) as (tokens, clock):
        with pytest.raises(Unauthorized) as refused:
            await tokens.verify_token(good("RS256", clock), clock.now())
        assert not isinstance(refused.value, UnknownKey)


# ---- nothing is shown


def parts_of(text: str) -> list[str]:
    """Every stretch of 12 characters: enough to be no accident, short enough to see a cut-off secret."""
    return [text[start : start + 12] for start in range(len(text) - 11)]


async def test_no_part_of_a_token_or_ticket_is_shown(caplog):
    caplog.set_level(logging.DEBUG)
    secrets_shown: list[str] = []
    said: list[str] = []

    def failed(error: Exception) -> None:
        said.extend(
            [repr(error), str(error), "".join(traceback.format_exception(error)), repr(vars(error).get("reason"))]
        )

    async with key_server() as server, tokens_of(**published_by(server)) as (tokens, clock):
        asyncio.get_running_loop().set_debug(True)
        for bad in (b"", response(b"{"), response(b"", "302 Found", "Location: http://127.0.0.1:1/"), b"SSH-2.0\r\n"):
            clock.step(REFETCH_S)
            server.answer = bad
            text = token("RS256", header("RS256", kid="canary-of-a-kid-that-nobody-has"))
            secrets_shown += [text, "canary-of-a-kid-that-nobody-has"]
            with pytest.raises(Unauthorized) as refused:
                await tokens.verify_token(text, clock.now())
            failed(refused.value)
        text = good("RS256", clock)
        principal = await tokens.verify_token(text, clock.now())
        ticket = tokens.issue_ticket(principal, APP, clock.now())
        assert isinstance(ticket, Ticket)
        with pytest.raises(Unauthorized) as refused:
            tokens.redeem(ticket.text, {"https://evil.io"}, clock.now())
        failed(refused.value)
        await tokens.revocations.revoke_subject("acme", "alice", clock.now() + 60)
        secrets_shown += [text, ticket.text[3:]]
        said += [repr(tokens), repr(ticket), f"{ticket}", repr(principal), json.dumps(server.requests, default=repr)]
    records = [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
    haystack = "\n".join([*records, *said])
    assert "not renewed" in haystack
    assert "alice" in haystack
    assert not [part for secret in secrets_shown for part in parts_of(secret) if part in haystack]
