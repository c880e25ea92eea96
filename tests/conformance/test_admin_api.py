"""One table of the admin API's requests, run by the SDK's Admin against the real gateway and against the small server
that the tests of SDK and CLI use: what that server says is what a gateway says.

The answers of both are checked by the schemas of the OpenAPI document, their refusals by code and status.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest

import pushwire
from pushwire.admin_shapes import Redriven
from support.admin_server import TOKEN, admin_server
from support.spec import check, errors
from support.whole_gateway import whole_gateway

TOPIC, GROUP, DEAD = "orders", "billing", 7


@dataclass
class Side:
    """One of the two, with the same things in it."""

    admin: pushwire.Admin
    ids: list[int]
    connection: str


@contextlib.asynccontextmanager
async def small(_tmp_path):
    with admin_server() as server:
        server.admin.add_topic(TOPIC)
        server.admin.add_group(TOPIC, GROUP)
        server.admin.add_dead(TOPIC, DEAD)
        server.admin.add_connection("n1.a")
        async with pushwire.Admin(server.url, TOKEN) as admin:
            yield Side(admin, list(range(1, DEAD + 1)), "n1.a")


@contextlib.asynccontextmanager
async def real(tmp_path):
    (tmp_path / "copies").mkdir()
    async with whole_gateway(tmp_path / "data", backup_dir=tmp_path / "copies") as gateway:
        client = pushwire.Client(gateway.url, token=gateway.token())
        async with pushwire.Admin(gateway.url, gateway.token("root")) as admin, client:
            await admin.create_topic(TOPIC, {"ledger": "full"})
            await admin.create_group(TOPIC, GROUP, start="earliest")
            for number in range(DEAD + 2):
                await client.publish(TOPIC, {"n": number}, key=f"k{number}")
            async with client.subscribe(TOPIC, group=GROUP, prefetch=DEAD) as subscription:
                taken = 0
                async for message in subscription:
                    message.reject("boom")
                    taken += 1
                    if taken == DEAD:
                        break
            topic = gateway.server.store.topics["default", TOPIC]
            await gateway.until(lambda: topic.dead_letters == DEAD)
            ids = [letter["id"] async for letter in admin.dead_letters(TOPIC)]
            (connection,) = [one["id"] async for one in admin.connections()]
            yield Side(admin, ids, connection)


async def rows(pages):
    return [row async for row in pages]


TABLE: list[tuple[str, Any, Any]] = [
    # what is asked, by which call, and what is answered: a schema's name, [one] for a list of such, or (status, code)
    ("topics", lambda s: rows(s.admin.topics()), ["TopicInfo"]),
    ("one topic", lambda s: s.admin.topic(TOPIC), "TopicDetail"),
    ("no topic", lambda s: s.admin.topic("nowhere"), (404, "topic_not_found")),
    ("make a topic", lambda s: s.admin.create_topic("made", {"strict": True}), "TopicInfo"),
    ("make it again", lambda s: s.admin.create_topic("made"), (412, "conflict")),
    ("a field that is none", lambda s: s.admin.configure_topic("made", {"typo": 1}), (400, "bad_config")),
    ("set a field", lambda s: s.admin.configure_topic("made", {"retain_ms": 5}), "TopicInfo"),
    ("set all of them", lambda s: s.admin.configure_topic("made", {"retain_ms": 6}, replace=True), "TopicInfo"),
    ("replace makes", lambda s: s.admin.configure_topic("made2", {}, replace=True), "TopicInfo"),
    ("set one of none", lambda s: s.admin.configure_topic("nowhere", {}), (404, "topic_not_found")),
    ("remove a topic", lambda s: s.admin.delete_topic("made2"), None),
    ("remove none", lambda s: s.admin.delete_topic("made2"), (404, "topic_not_found")),
    ("look into it", lambda s: s.admin.peek(TOPIC, 0, limit=1), "Peek"),
    ("look into none", lambda s: s.admin.peek("nowhere"), (404, "topic_not_found")),
    ("what became of it", lambda s: s.admin.history(TOPIC, 1), "History"),
    ("groups", lambda s: s.admin.groups(TOPIC), ["GroupInfo"]),
    ("groups of none", lambda s: s.admin.groups("nowhere"), (404, "topic_not_found")),
    ("one group", lambda s: s.admin.group(TOPIC, GROUP), "GroupDetail"),
    ("no group", lambda s: s.admin.group(TOPIC, "nobody"), (404, "group_not_found")),
    ("make a group", lambda s: s.admin.create_group(TOPIC, "g2", start=3, inactive_ttl_s=60), "GroupInfo"),
    ("make it again", lambda s: s.admin.create_group(TOPIC, "g2"), (412, "conflict")),
    ("make one of none", lambda s: s.admin.create_group("nowhere", "g"), (404, "topic_not_found")),
    ("pause", lambda s: s.admin.pause_group(TOPIC, "g2"), "GroupInfo"),
    ("resume", lambda s: s.admin.resume_group(TOPIC, "g2"), "GroupInfo"),
    ("pause none", lambda s: s.admin.pause_group(TOPIC, "nobody"), (404, "group_not_found")),
    ("seek", lambda s: s.admin.seek_group(TOPIC, "g2", "earliest"), "GroupInfo"),
    ("seek none", lambda s: s.admin.seek_group(TOPIC, "nobody", 1), (404, "group_not_found")),
    ("remove a group", lambda s: s.admin.delete_group(TOPIC, "g2"), None),
    ("remove none", lambda s: s.admin.delete_group(TOPIC, "g2"), (404, "group_not_found")),
    ("dead letters", lambda s: rows(s.admin.dead_letters(TOPIC)), ["DeadLetterInfo"]),
    ("of a group", lambda s: rows(s.admin.dead_letters(TOPIC, group="nobody")), []),
    ("one of them", lambda s: s.admin.dead_letter(TOPIC, s.ids[0]), "DeadLetterDetail"),
    ("none of them", lambda s: s.admin.dead_letter(TOPIC, 10**6), (404, "not_found")),
    ("put one back", lambda s: s.admin.redrive(TOPIC, [s.ids[0], 10**6]), Redriven(1, None)),
    ("throw two away", lambda s: s.admin.discard(TOPIC, s.ids[1:3]), 2),
    ("and the rest", lambda s: s.admin.discard(TOPIC), DEAD - 3),
    ("nothing is left", lambda s: s.admin.redrive(TOPIC), Redriven(0, None)),
    ("connections", lambda s: rows(s.admin.connections()), ["ConnectionInfo"]),
    ("end one", lambda s: s.admin.kick(s.connection), None),
    ("end it again", lambda s: s.admin.kick(s.connection), (404, "not_found")),
    ("stats", lambda s: s.admin.stats(), "Stats"),
    ("revoke a token", lambda s: s.admin.revoke(jti="j1"), "RevocationInfo"),
    ("revoke a subject", lambda s: s.admin.revoke(subject="eve", issued_before_s=5), "RevocationInfo"),
    ("revocations", lambda s: s.admin.revocations(), ["RevocationInfo"]),
    ("purge to a seq", lambda s: s.admin.purge_topic(TOPIC, through_seq=0), 0),
    ("purge", lambda s: s.admin.purge_topic(TOPIC), int),
    ("purge none", lambda s: s.admin.purge_topic("nowhere"), (404, "topic_not_found")),
    ("backup", lambda s: s.admin.backup("monday.db"), str),
    ("backup again", lambda s: s.admin.backup("monday.db"), (409, "conflict")),
]


@pytest.mark.parametrize("side", [small, real])
async def test_both_answer_the_same(side, tmp_path):
    async with side(tmp_path) as s:
        for what, call, wanted in TABLE:
            try:
                answer = await call(s)
            except pushwire.PushwireError as error:
                answer = (error.status, error.code) if isinstance(error, pushwire.AdminError) else error
            check_answer(what, wanted, answer)


def check_answer(what, wanted, answer):
    """Fails when it is not what is to be answered."""
    if isinstance(wanted, type):
        assert type(answer) is wanted, what
    elif isinstance(wanted, str):
        assert isinstance(answer, dict), (what, answer)
        check(wanted, answer)
    elif isinstance(wanted, list) and wanted:
        assert answer, what
        for row in answer:
            check(wanted[0], row)
    else:
        assert answer == wanted, what


def test_the_judge_is_none_that_lets_everything_pass():
    with pytest.raises(AssertionError):
        check_answer("x", "TopicInfo", {"name": "t"})
    with pytest.raises(AssertionError):
        check_answer("x", ["GroupInfo"], [])
    with pytest.raises(AssertionError):
        check_answer("x", (404, "not_found"), {"name": "t"})
    assert errors({"type": "string"}, 1)
