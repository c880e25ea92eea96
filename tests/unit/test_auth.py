"""Good tokens: what verifies, from which second to which, what comes out of it, and where a handshake holds it."""

from __future__ import annotations

from typing import Any

import pytest

from pushwire.wire.decode import TOKEN_CHARS_MAX
from pushwire_gateway.auth import (
    REFUSED_TEXT,
    SigningKey,
    TokenVerifier,
    Unauthorized,
    mint,
    sign_token,
    token_from_headers,
)
from pushwire_gateway.key_material import Alg
from pushwire_gateway.rights import Cap, Limits, Principal
from pushwire_gateway.settings import ConfigError
from support import tokens
from support.tokens import ALGS, AUDIENCE, DROP, ISSUER, NOW, claims, header, signing_key, token, verifier

EXP, IAT = claims()["exp"], claims()["iat"]


def refusal(judge: TokenVerifier, text: str, now: float) -> str | None:
    """The reason of a refusal, None when the token is good at `now`."""
    try:
        judge.verify(text, now)
    except Unauthorized as refused:
        return refused.reason if str(refused) == REFUSED_TEXT else f"another text: {refused}"
    return None


@pytest.mark.parametrize("alg", ALGS)
@pytest.mark.parametrize("ring", [1, 3])
def test_a_good_token_becomes_its_principal(alg: Alg, ring: int) -> None:
    judge = verifier(*(ALGS if ring == 3 else (alg,)))
    limits = {"publish_per_s": 5, "prefetch": 8, "connections": 2}
    principal = judge.verify(token(alg, payload=claims(limits=limits)), NOW)
    assert principal == Principal(
        tenant="acme",
        subject="alice",
        issuer=ISSUER,
        jti="token-1",
        issued_at=IAT,
        expires_at=EXP,
        leeway_s=30,
        caps=(Cap(("orders.*",), ("default",), frozenset({"publish", "consume"})),),
        limits=Limits(5, 8, 2),
    )
    assert principal.valid_until == EXP + 30
    assert principal.may("publish", "orders.eu")
    assert not principal.may("create", "orders.eu")


@pytest.mark.parametrize(
    "head",
    [
        {"typ": DROP},
        {"typ": "jwt"},
        {"typ": "at+jwt"},
        {"typ": "AT+JWT"},
        {"kid": DROP},
        {"kid": DROP, "typ": DROP},
    ],
    ids=str,
)
def test_a_header_may_say_less(head: dict[str, Any]) -> None:
    assert verifier("HS256").verify(token(head=header("HS256", **head)), NOW).subject == "alice"


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"tenant": DROP}, "tenant", "default"),
        ({"tenant": "a.B:c-d_1"}, "tenant", "a.B:c-d_1"),
        ({"sub": "x" * 255}, "subject", "x" * 255),
        ({"sub": "Zo\u00eb \u6771\u4eac"}, "subject", "Zo\u00eb \u6771\u4eac"),
        ({"jti": "y" * 255}, "jti", "y" * 255),
        ({"caps": []}, "caps", ()),
        ({"limits": {}}, "limits", Limits()),
        ({"limits": {"prefetch": 2**31 - 1}}, "limits", Limits(prefetch=2**31 - 1)),
        ({"email": "a@example.org", "at_hash": "x", "azp": [1, {"a": None}], "big": 10**200}, "subject", "alice"),
        ({"nbf": NOW}, "subject", "alice"),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_claims_at_the_edge_of_what_is_good(changes: dict[str, Any], field: str, value: object) -> None:
    assert getattr(verifier("HS256").verify(token(payload=claims(**changes)), NOW), field) == value


def test_a_token_may_be_as_long_as_the_protocol_says() -> None:
    def padded(chars: int) -> str:
        return token(payload=claims(note="x" * chars))

    chars = next(count for count in range(4000, TOKEN_CHARS_MAX) if len(padded(count + 1)) > TOKEN_CHARS_MAX)
    judge = verifier("HS256")
    assert refusal(judge, padded(chars), NOW) is None
    assert refusal(judge, padded(chars + 1), NOW) == "malformed"


def test_bytes_are_as_good_as_text() -> None:
    judge = verifier("HS256")
    assert judge.verify(token().encode(), NOW) == judge.verify(token(), NOW)


@pytest.mark.parametrize("leeway_s", [0, 30, 7.5])
@pytest.mark.parametrize("alg", ALGS)
def test_the_end_is_exp_plus_leeway_by_the_given_clock(alg: Alg, leeway_s: float) -> None:
    judge, text = verifier(alg, leeway_s=leeway_s), token(alg)
    assert refusal(judge, text, EXP - 1) is None
    assert refusal(judge, text, EXP) == (None if leeway_s else "expired")
    assert refusal(judge, text, EXP - leeway_s) is None or not leeway_s
    assert refusal(judge, text, EXP + leeway_s - 0.001) is None
    assert refusal(judge, text, EXP + leeway_s) == "expired"
    assert refusal(judge, text, EXP + leeway_s + 0.001) == "expired"
    assert refusal(judge, text, EXP + 10**9) == "expired"


def test_a_session_ends_in_the_second_in_which_its_token_stops_verifying() -> None:
    judge = verifier("HS256")
    ends = judge.verify(token(), NOW).valid_until
    assert refusal(judge, token(), ends - 0.001) is None
    assert refusal(judge, token(), ends) == "expired"


@pytest.mark.parametrize(("claim", "reason"), [("iat", "issued_in_future"), ("nbf", "not_yet_valid")])
def test_the_start_allows_the_leeway(claim: str, reason: str) -> None:
    text = token(payload=claims(**{"iat": NOW - 600, "exp": NOW + 900, claim: NOW}))
    judge = verifier("HS256")
    assert refusal(judge, text, NOW - 30) is None
    assert refusal(judge, text, NOW - 30.001) == reason
    assert refusal(verifier("HS256", leeway_s=0), text, NOW - 0.001) == reason
    assert refusal(verifier("HS256", leeway_s=0), text, NOW) is None


@pytest.mark.parametrize("longest", [1, 900, 3600, 86400])
def test_the_lifetime_is_capped(longest: int) -> None:
    judge = verifier("HS256", lifetime_s_max=longest)
    assert refusal(judge, token(payload=claims(iat=NOW, exp=NOW + longest)), NOW) is None
    assert refusal(judge, token(payload=claims(iat=NOW, exp=NOW + longest + 1)), NOW) == "lifetime"


@pytest.mark.parametrize("then", [1_000, 4_000_000_000])
def test_no_other_clock_is_read(then: int) -> None:
    text = token(payload=claims(iat=then - 10, exp=then + 10, nbf=then - 10))
    assert refusal(verifier("HS256"), text, then) is None


@pytest.mark.parametrize("now", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_clock_lets_nobody_in(now: float) -> None:
    assert refusal(verifier("HS256"), token(), now) in {"expired", "issued_in_future"}


def test_revocation_is_asked_by_claims_never_by_text() -> None:
    asked: list[tuple[str, str, str, str, int]] = []

    def revoked(whose: Principal) -> bool:
        asked.append((whose.tenant, whose.issuer, whose.jti, whose.subject, whose.issued_at))
        return whose.jti == "token-1"

    judge = verifier("HS256", revoked=revoked)
    assert refusal(judge, token(), NOW) == "revoked"
    assert refusal(judge, token(payload=claims(jti="token-2")), NOW) is None
    assert refusal(judge, token(payload=claims(exp=NOW - 31, iat=NOW - 90)), NOW) == "expired"
    assert asked == [("acme", ISSUER, "token-1", "alice", IAT), ("acme", ISSUER, "token-2", "alice", IAT)]


def test_a_broken_revocation_list_fails_closed() -> None:
    def revoked(whose: Principal) -> bool:
        raise RuntimeError(f"no list for {whose}")

    judge = verifier("HS256", revoked=revoked)
    with pytest.raises(Unauthorized) as refused:
        judge.verify(token(), NOW)
    assert refused.value.reason == "internal"
    assert str(refused.value) == REFUSED_TEXT
    assert refused.value.__context__ is None


@pytest.mark.parametrize(
    "options",
    [
        {"audience": ""},
        {"issuer": ""},
        {"leeway_s": -1},
        {"leeway_s": 121},
        {"leeway_s": float("nan")},
        {"lifetime_s_max": 0},
        {"lifetime_s_max": 86401},
    ],
    ids=str,
)
def test_a_verifier_refuses_loose_settings(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TokenVerifier(verifier("HS256")._ring, **{"audience": AUDIENCE, "issuer": ISSUER, **options})


@pytest.mark.parametrize("alg", ALGS)
def test_a_minted_token_verifies(alg: Alg) -> None:
    def made() -> str:
        return sign_token(
            signing_key(alg),
            subject="bob",
            audience=AUDIENCE,
            issuer=ISSUER,
            now=NOW + 0.9,
            allow=["publish:orders.*", "consume:orders.*", "consume:orders.*@billing", "publish:orders.*"],
            tenant="acme",
            ttl_s=60,
            limits=Limits(prefetch=4),
        )

    judge = verifier(alg)
    first, second = judge.verify(made(), NOW), judge.verify(made(), NOW)
    assert first.jti != second.jti
    assert len(first.jti) >= 22
    assert (first.subject, first.tenant, first.issued_at, first.expires_at) == ("bob", "acme", NOW, NOW + 60)
    assert first.limits == Limits(prefetch=4)
    assert first.caps == (
        Cap(("orders.*",), ("default",), frozenset({"publish", "consume"})),
        Cap(("orders.*",), ("billing",), frozenset({"consume"})),
    )


def test_mint_signs_what_it_is_given() -> None:
    given = claims(sub="carol")
    text = mint(signing_key("ES256"), given)
    assert verifier("ES256").verify(text, NOW).subject == "carol"
    assert given == claims(sub="carol")
    assert refusal(verifier("ES256"), mint(signing_key("ES256"), {"sub": "carol"}), NOW) == "missing_claim"


@pytest.mark.parametrize(
    "options",
    [
        {"ttl_s": 0},
        {"ttl_s": 86401},
        {"subject": ""},
        {"subject": "x" * 256},
        {"subject": "a\nb"},
        {"audience": ""},
        {"issuer": "\0"},
        {"tenant": "a/b"},
        {"tenant": ""},
        {"limits": Limits(prefetch=0)},
        {"allow": ["publish"]},
        {"allow": ["publish:a@b"]},
        {"allow": [f"publish:{'x' * 200}.{number}" for number in range(40)]},
        {"key": SigningKey("k", "HS256", b"short")},
        {"key": SigningKey("k", "RS256", tokens.SECRET)},
        {"key": SigningKey("k", "RS256", signing_key("ES256").secret_or_pem)},
        {"key": SigningKey("k", "ES256", signing_key("RS256").secret_or_pem)},
        {"key": SigningKey("k", "RS256", tokens.public_bytes("RS256"))},
        {"key": SigningKey("", "HS256", tokens.SECRET)},
    ],
    ids=lambda options: f"{options!r:.60}",
)
def test_minting_refuses_what_no_verifier_would_take(options: dict[str, Any]) -> None:
    good = {"key": signing_key("HS256"), "subject": "bob", "audience": AUDIENCE, "issuer": ISSUER, "now": NOW}
    arguments = {**good, **options}
    with pytest.raises(ConfigError):
        sign_token(arguments.pop("key"), **arguments)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], (None, [])),
        ([("Host", "example.org")], (None, [])),
        ([("Authorization", "Bearer a.b.c")], ("a.b.c", [])),
        ([("authorization", "bearer a.b.c")], ("a.b.c", [])),
        ([("AUTHORIZATION", " BEARER  a.b.c ")], ("a.b.c", [])),
        ([(b"authorization", b"Bearer a.b.c")], ("a.b.c", [])),
        ({"Authorization": "Bearer a.b.c", "Host": "x"}, ("a.b.c", [])),
        ([("Sec-WebSocket-Protocol", "pushwire.v1")], (None, ["pushwire.v1"])),
        ([("Sec-WebSocket-Protocol", "pushwire.v1, bearer.a.b.c")], ("a.b.c", ["pushwire.v1"])),
        ([("Sec-WebSocket-Protocol", "bearer.a.b.c ,,\tpushwire.v1,")], ("a.b.c", ["pushwire.v1"])),
        ([("Sec-WebSocket-Protocol", "Bearer.a.b.c,mqtt")], ("a.b.c", ["mqtt"])),
        ([("sec-websocket-protocol", "mqtt"), ("sec-websocket-protocol", "bearer.a.b.c")], ("a.b.c", ["mqtt"])),
        ([("Authorization", "Bearer a"), ("Sec-WebSocket-Protocol", "pushwire.v1")], ("a", ["pushwire.v1"])),
        ([("Sec-WebSocket-Protocol", "bearer, bearers.x")], (None, ["bearer", "bearers.x"])),
        ([("Proxy-Authorization", "Basic x"), ("Cookie", "token=a.b.c"), (":path", "/?token=a.b.c")], (None, [])),
    ],
    ids=lambda value: f"{value!r:.60}",
)
def test_where_a_handshake_holds_the_token(headers: Any, expected: tuple[str | None, list[str]]) -> None:
    assert token_from_headers(headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer a.b.c"), ("Authorization", "Bearer a.b.c")],
        [("Authorization", "Bearer a.b.c"), ("authorization", "Basic eA==")],
        [("Authorization", "Basic eA==")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer\ta.b.c")],
        [("Authorization", "")],
        [("Authorization", "a.b.c")],
        [("Authorization", "Bearer a.b.c"), ("Sec-WebSocket-Protocol", "pushwire.v1,bearer.a.b.c")],
        [("Sec-WebSocket-Protocol", "pushwire.v1,bearer.a.b.c,bearer.a.b.c")],
        [("Sec-WebSocket-Protocol", "bearer.a.b.c"), ("Sec-WebSocket-Protocol", "BEARER.d.e.f")],
        [("Sec-WebSocket-Protocol", "pushwire.v1,bearer.")],
        {"Authorization": "Digest x"},
    ],
    ids=lambda value: f"{value!r:.60}",
)
def test_a_handshake_with_a_doubtful_token_is_refused(headers: Any) -> None:
    with pytest.raises(Unauthorized) as refused:
        token_from_headers(headers)
    assert (str(refused.value), refused.value.reason) == (REFUSED_TEXT, "transport")


def test_what_two_authorization_headers_make_when_joined_is_no_token() -> None:
    joined, _ = token_from_headers([("Authorization", f"Bearer {token()}, Bearer {token()}")])
    assert joined is not None
    assert refusal(verifier("HS256"), joined, NOW) == "malformed"
