"""Which pages may use the gateway: the Origin rule, what a ticket is bound to, and what browsers are told."""

from __future__ import annotations

import pytest

from pushwire_gateway.origins import Cors, cors, is_preflight, origin_allowed, origin_of, origins_of, preflight
from pushwire_gateway.settings import ConfigError, load

SAME = ((b"host", b"Gateway.test:8080"),)
APP = "https://app.example.com"
LISTED = frozenset({APP})


def from_page(origin: str, *more: tuple[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    return (*SAME, (b"origin", origin.encode()), *more)


CASES = [
    (None, (), False, True),
    (None, (APP,), False, True),
    (APP, (APP,), False, True),
    ("http://app.example.com", (APP,), False, False),
    ("https://app.example.com:8443", (APP,), False, False),
    ("https://app.example.com:443", (APP,), False, False),
    ("https://app.example.com.evil.io", (APP,), False, False),
    ("https://evil-app.example.com", (APP,), False, False),
    ("https://sub.app.example.com", (APP,), False, False),
    ("https://app.example.com.", (APP,), False, False),
    ("https://APP.example.com", (APP,), False, False),
    ("https://app.example.com/", (APP,), False, False),
    ("https://app.example.com@evil.io", (APP,), False, False),
    ("https://app.example.com https://evil.io", (APP,), False, False),
    ("https://evil.io, https://app.example.com", (APP,), False, False),
    ("https://app\u0435.example.com", (APP,), False, False),
    (" https://app.example.com", (APP,), False, False),
    ("null", (APP,), False, False),
    ("null", ("*",), False, False),
    ("null", ("null",), False, False),
    ("null", (), False, False),
    ("", (APP,), False, False),
    ("https://any.example", ("*",), False, True),
    ("http://gateway.test:8080", (), False, True),
    ("https://gateway.test:8080", (), False, True),
    ("http://gateway.test:8080", (), True, False),
    ("https://gateway.test:8080", (), True, True),
    ("http://gateway.test", (), False, False),
    ("http://gateway.test:8080.evil.io", (), False, False),
    ("ftp://gateway.test:8080", (), False, False),
    ("gateway.test:8080", (), False, False),
    ("://", (), False, False),
    ("http://gateway.test:8080", (APP,), False, False),
]


@pytest.mark.parametrize(("origin", "listed", "secure", "allowed"), CASES)
def test_the_origin_rule(origin, listed, secure, allowed):
    headers = SAME if origin is None else from_page(origin)
    assert origin_allowed(headers, frozenset(listed), secure=secure) is allowed
    decision = cors(headers, frozenset(listed), secure=secure)
    assert decision.allowed is allowed
    named = decision.headers.get("access-control-allow-origin")
    assert named == (origin if allowed else None)
    assert decision.headers["vary"] == "origin"
    # A page cannot lend us a user's cookies, whatever it is.
    assert not [name for name in decision.headers if "credentials" in name]


def test_two_origins_or_no_host_are_refused():
    two = ((b"origin", APP.encode()), (b"origin", APP.encode()))
    assert not origin_allowed(two, LISTED, secure=False)
    assert not origin_allowed(((b"origin", b"http://"),), frozenset(), secure=False)
    assert not origin_allowed(((b"origin", b"http://"), (b"host", b"")), frozenset(), secure=False)
    hosts = ((b"host", b"a.test"), (b"host", b"b.test"), (b"origin", b"http://a.test"))
    assert not origin_allowed(hosts, frozenset(), secure=False)


def test_what_was_bound_to_an_origin_may_be_shown_from_there_only():
    assert origin_of(SAME) is None
    assert origin_of(from_page(APP)) == APP
    assert origins_of(from_page(APP), secure=False) == {APP}
    # An EventSource to its page's own origin names none.
    assert origins_of(SAME, secure=False) == {"http://gateway.test:8080", "https://gateway.test:8080"}
    assert origins_of(SAME, secure=True) == {"https://gateway.test:8080"}
    assert origins_of((), secure=False) == frozenset()


def test_a_preflight_is_told_methods_and_headers_and_nothing_of_the_route():
    asked = from_page(APP, (b"access-control-request-method", b"PUT"), (b"access-control-request-headers", b"x-evil"))
    assert is_preflight("OPTIONS", asked)
    assert not is_preflight("POST", asked)
    assert not is_preflight("OPTIONS", SAME)
    assert not is_preflight("OPTIONS", from_page(APP))
    answer = preflight(asked, LISTED, secure=True)
    assert answer.allowed
    assert answer.headers == {
        "vary": "origin",
        "access-control-allow-origin": APP,
        "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
        "access-control-allow-headers": "authorization, content-type, last-event-id, pushwire-session",
        "access-control-max-age": "600",
    }


def test_a_preflight_of_a_foreign_page_is_told_nothing():
    asked = from_page("https://evil.io", (b"access-control-request-method", b"PUT"))
    assert preflight(asked, LISTED, secure=True) == Cors(False, {"vary": "origin"})


def test_an_answer_lets_the_page_read_what_it_needs():
    assert cors(from_page(APP), LISTED, secure=True).headers["access-control-expose-headers"] == (
        "pushwire-session, retry-after"
    )


@pytest.mark.parametrize("origin", [APP, "*", "http://localhost:5173", "capacitor://localhost", "http://[::1]:8080"])
def test_a_list_takes_origins_as_browsers_send_them(origin):
    assert load(origins=(origin,)).origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    ["https://app.example.com/", "https://App.example.com", "app.example.com", "null", "", "https://*.example.com",
     "https://user@app.example.com", "https://app.example.com?x", "https://", "https://a.example\n", "**",
     "HTTPS://a.example"],
)  # fmt: skip
def test_a_list_refuses_what_could_never_match(origin):
    with pytest.raises(ConfigError, match="origins"):
        load(origins=(origin,))
