"""Tickets: used once, for 30 seconds, where they were asked for, and as long as their token at most."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from pushwire_gateway.auth import Unauthorized
from pushwire_gateway.refusal import Refusal
from pushwire_gateway.rights import Cap, Limits, Principal
from pushwire_gateway.tickets import TICKET_CHARS_MAX, Ticket, Tickets, ticket_from_query
from support.tokens import NOW, token

APP = "https://app.example.com"
ANYWHERE = frozenset({"https://elsewhere.example"})
ALICE = Principal(
    "acme", "alice", "issuer", "jti-1", NOW - 60, NOW + 840, 30,
    (Cap(("orders.*",), ("default",), frozenset({"consume"})),), Limits(prefetch=4),
)  # fmt: skip


def issued(tickets: Tickets, principal: Principal = ALICE, origin: str | None = None, now: float = NOW) -> str:
    ticket = tickets.issue(principal, origin, now)
    assert isinstance(ticket, Ticket)
    return ticket.text


def someone(number: int) -> Principal:
    return replace(ALICE, subject=f"user-{number}")


def test_a_ticket_is_256_bits_of_chance_behind_the_node_id():
    tickets = Tickets("n7")
    texts = {issued(tickets, someone(number)) for number in range(200)}
    assert len(texts) == 200
    for text in texts:
        assert re.fullmatch(r"n7\.[A-Za-z0-9_-]{43}", text)
        assert len(text) <= TICKET_CHARS_MAX - 6  # a node id may have eight characters


def test_a_ticket_gives_the_whole_principal_once():
    tickets = Tickets("n1")
    ticket = tickets.issue(ALICE, None, NOW)
    assert isinstance(ticket, Ticket)
    assert ticket.expires_in_ms == 30_000
    principal = tickets.take(ticket.text, ANYWHERE, NOW + 1)
    assert principal == ALICE
    assert (principal.valid_until, principal.limits) == (ALICE.valid_until, Limits(prefetch=4))
    assert principal.may("consume", "orders.eu", "default")
    assert not principal.may("publish", "orders.eu")
    assert tickets.take(ticket.text, ANYWHERE, NOW + 1) is None
    assert len(tickets) == 0


@pytest.mark.parametrize(("after_s", "good"), [(0, True), (29.999, True), (30, False), (30.001, False), (10**9, False)])
def test_a_ticket_lives_30_seconds(after_s, good):
    tickets = Tickets("n1")
    assert (tickets.take(issued(tickets), ANYWHERE, NOW + after_s) is not None) is good


def test_a_ticket_ends_with_its_token():
    tickets = Tickets("n1")
    late = ALICE.valid_until - 5
    ticket = tickets.issue(ALICE, None, late)
    assert isinstance(ticket, Ticket)
    assert ticket.expires_in_ms == 5000
    assert tickets.take(ticket.text, ANYWHERE, late + 5) is None
    again = issued(tickets, now=late)
    assert tickets.take(again, ANYWHERE, late + 4.999) == ALICE
    refusal = tickets.issue(ALICE, None, ALICE.valid_until)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "unauthorized"


async def test_of_100_parallel_uses_one_succeeds():
    tickets, begin = Tickets("n1"), asyncio.Event()
    text = issued(tickets)

    async def use() -> Principal | None:
        await begin.wait()
        return tickets.take(text, ANYWHERE, NOW)

    uses = [asyncio.create_task(use()) for _ in range(100)]
    begin.set()
    results = await asyncio.gather(*uses)
    assert [one for one in results if one is not None] == [ALICE]


def test_of_parallel_uses_in_threads_one_succeeds():
    tickets = Tickets("n1", per_subject_max=100)
    workers = 16
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(50):
            text, barrier = issued(tickets), Barrier(workers, timeout=10)

            def use(text: str = text, barrier: Barrier = barrier) -> Principal | None:
                barrier.wait()
                return tickets.take(text, ANYWHERE, NOW)

            results = [each.result() for each in [pool.submit(use) for _ in range(workers)]]
            assert results.count(None) == workers - 1


@pytest.mark.parametrize(
    "shown",
    [{"https://evil.io"}, {"http://app.example.com"}, {"https://app.example.com.evil.io"}, {"null"}, {""}, set(),
     {"https://APP.example.com"}, {"https://app.example.com:443"}],
    ids=str,
)  # fmt: skip
def test_a_ticket_shown_at_another_origin_is_refused_and_gone(shown):
    tickets = Tickets("n1")
    text = issued(tickets, origin=APP)
    assert tickets.take(text, shown, NOW) is None
    assert tickets.take(text, {APP}, NOW) is None


def test_a_ticket_is_good_at_its_own_origin_and_one_without_at_any():
    tickets = Tickets("n1")
    assert tickets.take(issued(tickets, origin=APP), {APP}, NOW) == ALICE
    assert tickets.take(issued(tickets, origin=APP), {APP, "http://app.example.com"}, NOW) == ALICE
    assert tickets.take(issued(tickets), frozenset(), NOW) == ALICE


def test_what_is_no_ticket_gets_nobody_in_and_uses_up_nothing():
    tickets = Tickets("n1")
    text = issued(tickets)
    hostile = [
        "", "n1.", ".", "n1", text[:-1], text + "A", text.upper(), f" {text}", f"{text}\n", text.replace("n1.", "n2."),
        text[3:], "n1." + "A" * 43, token(), "n1." + "\u0410" * 43, "\ud800" * 46, "\0" * 46, "x" * 10**7,
        "n1.%2e%2e%2f", "' OR 1=1 --",
    ]  # fmt: skip
    assert [one for one in hostile if one != text and tickets.take(one, ANYWHERE, NOW) is not None] == []
    assert tickets.take(text, ANYWHERE, NOW) == ALICE


def test_a_subject_may_have_so_many_unused_tickets():
    tickets = Tickets("n1", per_subject_max=3)
    held = [issued(tickets) for _ in range(3)]
    refusal = tickets.issue(ALICE, None, NOW + 1)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.retryable, refusal.retry_after_ms) == ("rate_limited", True, 30_000)
    # Others are not concerned: another subject, and the same name in another tenant.
    assert issued(tickets, someone(1))
    assert issued(tickets, replace(ALICE, tenant="other"))
    assert tickets.take(held[0], ANYWHERE, NOW) == ALICE
    held[0] = issued(tickets, now=NOW + 1)
    assert isinstance(tickets.issue(ALICE, None, NOW + 29), Refusal)
    assert issued(tickets, now=NOW + 30)  # two have expired


def test_the_oldest_ticket_makes_room():
    tickets = Tickets("n1", tickets_max=3)
    texts = [issued(tickets, someone(number)) for number in range(4)]
    assert len(tickets) == 3
    assert tickets.take(texts[0], ANYWHERE, NOW) is None
    assert all(tickets.take(text, ANYWHERE, NOW) for text in texts[1:])


def test_nothing_is_kept_of_what_is_over():
    tickets = Tickets("n1")
    for number in range(500):
        issued(tickets, someone(number), now=NOW + number)
    assert len(tickets) == 30
    assert len(tickets._by_subject) == 30
    issued(tickets, now=NOW + 800)
    assert len(tickets) == len(tickets._by_subject) == 1


def test_no_repr_and_no_memory_shows_a_ticket():
    tickets = Tickets("n1")
    ticket = tickets.issue(ALICE, APP, NOW)
    assert isinstance(ticket, Ticket)
    shown = repr(ticket) + str(ticket) + f"{ticket}" + repr(tickets._waiting) + repr(tickets._by_subject)
    assert "alice" in shown
    assert ticket.text[3:] not in shown
    assert ticket.text in ticket  # what is searched for is there to be found


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"", None),
        (b"a=b", None),
        (b"ticket=n1.abc", "n1.abc"),
        (b"a=b&ticket=n1.abc&c", "n1.abc"),
        (b"Ticket=n1.abc", None),
        (b"%74icket=n1.abc", None),
        (b"ticket", None),
        (b"xticket=n1.abc", None),
        (b"ticket=n1%2Eabc", "n1%2Eabc"),  # and so no ticket of ours
        (b"ticket=\xff", "\xff"),
        (b"token=n1.abc&access_token=n1.abc", None),
    ],
)
def test_where_a_url_holds_the_ticket(query, found):
    assert ticket_from_query(query) == found


@pytest.mark.parametrize("query", [b"ticket=", b"ticket=a&ticket=a", b"ticket=&ticket=a", b"ticket=a&b&ticket="])
def test_a_url_with_a_doubtful_ticket_is_refused(query):
    with pytest.raises(Unauthorized) as refused:
        ticket_from_query(query)
    assert refused.value.reason == "transport"
