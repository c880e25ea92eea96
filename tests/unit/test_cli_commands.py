"""The client commands in this process, against an admin API and a peer on loopback: output, exit codes, questions."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import threading

import pytest
from click.testing import CliRunner

from pushwire.wire import frames
from pushwire_gateway.cli import main
from pushwire_storage.base import TopicConfig
from support.admin_server import TOKEN, Refused, admin_server
from support.sdk_peer import Peer
from support.sdk_server import serving

OK, FAILED, USAGE, CONFIG, AUTH, NOT_FOUND = 0, 1, 2, 3, 4, 5


def _run(url, *args, token=TOKEN, stdin=""):
    return CliRunner(env={"PUSHWIRE_URL": url, "PUSHWIRE_TOKEN": token}).invoke(main, args, input=stdin)


class Runner:
    """Runs commands against one address, whose other side a test may look at."""

    def __init__(self, url, other):
        self.url = url
        self.admin = self.peer = other

    def __call__(self, *args, **options):
        return _run(self.url, *args, **options)


@pytest.fixture
def api():
    with admin_server() as server:
        server.admin.add_topic("orders")
        server.admin.add_group("orders", "billing", member_count=2)
        yield Runner(server.url, server.admin)


def _done(result, code=OK):
    assert result.exit_code == code, result.output
    return result.stdout


# --- topics and groups -----------------------------------------------------------------------------------------


def test_topics_as_a_table_and_as_json(api):
    api.admin.add_topic("a.long.name", messages=12)
    header, *rows = _done(api("topic", "ls")).splitlines()
    assert header.split() == ["TOPIC", "MESSAGES", "BYTES", "SCHEDULED", "DEAD", "GROUPS", "LAST", "SEQ"]
    assert [row.split()[:2] for row in rows] == [["a.long.name", "12"], ["orders", "5"]]
    assert header.index("MESSAGES") == rows[0].index("12")
    assert [topic["name"] for topic in json.loads(_done(api("topic", "ls", "-o", "json")))] == ["a.long.name", "orders"]


def test_a_topic_is_made_with_a_configuration_as_people_write_it(api):
    words = ("retain_ms=1h", "max_age_ms=2d", "strict=true", "weights=1,1,2,2", "ledger=full", "quota_bytes=default")
    _done(api("topic", "create", "new", *words))
    (_, _, _, body) = api.admin.requests[-1]
    assert body == {
        "retain_ms": 3_600_000, "max_age_ms": 172_800_000, "strict": True, "weights": [1, 1, 2, 2], "ledger": "full",
        "quota_bytes": None,
    }  # fmt: skip
    assert "is there already" in api("topic", "create", "new").stderr
    assert _done(api("topic", "create", "new"), FAILED) == ""


def test_a_new_topic_is_shown_as_it_is_configured(api):
    lines = _done(api("topic", "create", "new", "max_failures=3")).splitlines()
    assert {line.split()[0] for line in lines} == {field.name for field in dataclasses.fields(TopicConfig)}
    assert ["max_failures", "3"] in [line.split() for line in lines]
    assert json.loads(_done(api("topic", "create", "other", "-o", "json")))["name"] == "other"


def test_the_help_of_topic_create_names_every_field(api):
    text = _done(api("topic", "create", "--help"))
    assert [field.name for field in dataclasses.fields(TopicConfig) if field.name not in text] == []


def test_fields_of_a_topic_are_set(api):
    shown = json.loads(_done(api("topic", "set", "orders", "max_failures=3", "-o", "json")))
    assert (shown["max_failures"], shown["retain_ms"]) == (3, 0)
    assert [request[:2] for request in api.admin.requests] == [("PATCH", "/v1/admin/topics/orders")]
    _done(api("topic", "set", "orders"), USAGE)
    _done(api("topic", "set", "orders", "strict"), USAGE)
    _done(api("topic", "set", "orders", "typo=1"), FAILED)


def test_a_topic_is_shown_with_its_groups(api):
    text = _done(api("topic", "info", "orders"))
    assert "last_seq" in text
    assert "weights" in text
    assert "billing" in text
    assert json.loads(_done(api("topic", "info", "orders", "-o", "json")))["groups"][0]["name"] == "billing"
    _done(api("topic", "info", "nowhere"), NOT_FOUND)
    _done(api("topic", "info", "a/b"), USAGE)


@pytest.mark.parametrize(
    "args",
    [("topic", "rm", "orders"), ("topic", "purge", "orders"), ("group", "rm", "orders", "billing"),
     ("group", "seek", "orders", "billing", "earliest"), ("dead", "discard", "orders", "--all")],
)  # fmt: skip
def test_what_destroys_is_not_done_without_a_word(api, args):
    result = api(*args)
    assert result.exit_code == USAGE
    assert "--yes" in result.stderr
    assert not api.admin.requests
    _done(api(*args, "--yes"))
    assert len(api.admin.requests) == 1


@pytest.mark.parametrize(("word", "code", "requests"), [("y\n", OK, 1), ("n\n", FAILED, 0)])
def test_on_a_terminal_the_user_is_asked(api, monkeypatch, word, code, requests):
    monkeypatch.setattr("pushwire_gateway.commands.base.sys", _Terminal())
    result = api("topic", "rm", "orders", stdin=word)
    assert result.exit_code == code
    assert "remove topic orders" in result.stderr
    assert len(api.admin.requests) == requests


class _Terminal:
    """A `sys` whose input is one."""

    class stdin:  # noqa: N801 - as sys has it
        isatty = staticmethod(lambda: True)


def test_a_purge_says_how_many(api):
    assert _done(api("topic", "purge", "orders", "--through", "2", "--yes")) == "2 messages removed\n"


def test_what_is_ready_is_said_to_be_what_is_in_memory(api):
    for command in (("info",), ("seek", "--yes")):
        to = ["earliest"] if command[0] == "seek" else []
        lines = _done(api("group", *command, "orders", "billing", *to)).splitlines()
        assert [line.split()[:3] for line in lines if line.startswith("ready")] == [["ready", "in", "memory"]]
        shown = _done(api("group", *command, "orders", "billing", *to, "-o", "json"))
        assert "ready" in json.loads(shown)


def test_groups_are_listed_made_paused_moved_and_removed(api):
    assert _done(api("group", "ls", "orders")).splitlines()[1].split()[:3] == ["billing", "no", "2"]
    _done(api("group", "create", "orders", "audit", "--from", "2026-01-31T12:00:00Z", "--inactive-ttl", "7d"))
    assert api.admin.requests[-1][3] == {"start": {"time_ms": 1_769_860_800_000}, "inactive_ttl_ms": 604_800_000}
    assert "paused" in _done(api("group", "pause", "orders", "audit"))
    assert api.admin.groups["orders"]["audit"]["paused"]
    _done(api("group", "resume", "orders", "audit"))
    assert not api.admin.groups["orders"]["audit"]["paused"]
    assert json.loads(_done(api("group", "seek", "orders", "audit", "8", "--yes", "-o", "json")))["start_seq"] == 7
    assert "ann" in _done(api("group", "info", "orders", "audit"))
    _done(api("group", "rm", "orders", "audit", "--yes"))
    _done(api("group", "pause", "orders", "audit"), NOT_FOUND)
    _done(api("group", "create", "orders", "x", "--from", "yesterday"), USAGE)


# --- dead letters ----------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_and_shown(api):
    api.admin.add_dead("orders", 3)
    api.admin.add_dead("orders", 1, reason="expired", error="a\x1b[31m" + "b" * 100)
    lines = _done(api("dead", "ls", "orders")).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    assert "\x1b" not in lines[-1]
    assert lines[-1].endswith("…")
    assert "1970-01-01T00:00:02.000+00:00" in lines[1]
    assert len(_done(api("dead", "ls", "orders", "-n", "3")).splitlines()) == 4
    (letter,) = json.loads(_done(api("dead", "ls", "orders", "--reason", "expired", "-o", "json")))
    assert letter["id"] == 4
    shown = _done(api("dead", "show", "orders", "2"))
    assert '{"n":1}' in shown
    assert "nacked" in shown
    _done(api("dead", "show", "orders", "9"), NOT_FOUND)


def test_dead_letters_are_put_back(api):
    api.admin.add_dead("orders", 7)
    assert _done(api("dead", "redrive", "orders", "1", "2")) == "2 dead letters put back\n"
    assert _done(api("dead", "redrive", "orders", "3")) == "1 dead letter put back\n"
    assert _done(api("dead", "redrive", "orders", "--group", "billing")) == "4 dead letters put back\n"
    assert _done(api("dead", "discard", "orders", "--all", "--yes")) == "0 dead letters removed\n"


@pytest.mark.parametrize("choice", [(), ("1", "--all"), ("--all", "--group", "billing"), ("1", "--reason", "expired")])
def test_dead_letters_are_chosen_in_exactly_one_way(api, choice):
    _done(api("dead", "redrive", "orders", *choice), USAGE)
    _done(api("dead", "discard", "orders", "--yes", *choice), USAGE)
    assert not api.admin.requests


# --- connections, tokens, files --------------------------------------------------------------------------------


def test_connections_are_listed_and_ended(api):
    api.admin.add_connection("n1.a")
    assert _done(api("conn", "ls")).splitlines()[1].split()[:3] == ["n1.a", "ann", "127.0.0.1"]
    _done(api("conn", "kick", "n1.a"))
    _done(api("conn", "kick", "n1.a"), NOT_FOUND)


def test_tokens_are_revoked(api):
    assert "expires_at_ms" in _done(api("revoke", "--sub", "ann", "--before", "7"))
    assert api.admin.requests[-1][3] == {"subject": "ann", "issued_before_s": 7}
    _done(api("revoke", "--jti", "j"))
    for args in ((), ("--jti", "j", "--sub", "s"), ("--jti", "j", "--before", "1")):
        _done(api("revoke", *args), USAGE)


def test_a_backup_says_where_it_is(api):
    assert _done(api("backup", "monday.db")) == "backups/monday.db\n"


def test_exit_codes_say_who_is_to_blame(api):
    _done(api("topic", "ls", token="stale"), AUTH)

    def refuse(**_):
        raise Refused(403, "forbidden")

    api.admin.get_connections = refuse
    result = api("conn", "ls")
    _done(result, AUTH)
    assert result.stdout == ""
    assert result.stderr.startswith("pushwire: ")


def test_nobody_there_is_a_failure():
    with admin_server() as server:
        url = server.url
    assert _run(url, "topic", "ls").exit_code == FAILED


@pytest.mark.parametrize(
    ("faults", "code", "text"), [([], OK, "no faults found"), (["row 1 is damaged"], FAILED, "row 1 is damaged")]
)
def test_a_database_is_looked_at(tmp_path, monkeypatch, faults, code, text):
    asked = []

    def looked(path):
        asked.append(path)
        return faults

    monkeypatch.setattr("pushwire_storage.offline.open_for_check", looked)
    result = CliRunner().invoke(main, ["db", "check", str(tmp_path)])
    assert text in _done(result, code)
    assert asked == [str(tmp_path)]


def test_what_is_no_database_is_refused(tmp_path):
    result = CliRunner().invoke(main, ["db", "check", str(tmp_path)])
    _done(result, CONFIG)
    assert "no database" in result.stderr


# --- messages --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _peer_elsewhere():
    """A peer served by a loop in another thread: the commands bring a loop of their own."""
    peer = Peer()
    ready, over = threading.Event(), []

    async def serve():
        async with serving(peer) as server:
            stop = asyncio.Event()
            over.append((asyncio.get_running_loop(), stop, server.url))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(5)
    loop, stop, url = over[0]
    try:
        yield peer, url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)


@pytest.fixture
def peer():
    with _peer_elsewhere() as (peer, url):
        yield Runner(url, peer)


def _drafts(peer):
    return [draft for link in peer.links for op in link.of(frames.Publish) for draft in op.messages]


def test_a_message_is_published_with_its_schedule(peer):
    receipt = json.loads(_done(peer("publish", "orders", '{"n": 1}', "--delay", "250ms", "--ttl", "1d")))
    assert (receipt["seq"], receipt["duplicate"]) == (1, False)
    _done(peer("publish", "orders", "text", "--at", "2026-01-31T12:00:00+00:00", "--key", "k"))
    first, second = _drafts(peer.peer)
    assert (first.due_ms, first.expires_ms, first.data) == (-250, -86_400_000, b'{"n":1}')
    assert (second.due_ms, second.key, second.data) == (1_769_860_800_000, "k", b'"text"')


def test_many_are_published_in_order(peer):
    out = _done(peer("publish", "orders", "-", "--count", "2", stdin="1\n2\n3\n"))
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2, 3, 4, 5, 6]
    assert [draft.data for draft in _drafts(peer.peer)] == [b"1", b"1", b"2", b"2", b"3", b"3"]


@pytest.mark.parametrize(
    "args", [("--id", "a", "--count", "2"), ("--delay", "1s", "--at", "2026-01-31T12:00:00Z"), ("--delay", "soon"),
             ("-H", "nothing")],
)  # fmt: skip
def test_a_publish_that_cannot_be_meant(peer, args):
    _done(peer("publish", "orders", "1", *args), USAGE)
    assert not peer.peer.stored


def test_a_refused_message_has_its_exit_code(peer):
    peer.peer.refuse = lambda op: (
        frames.Error("topic_not_found", "no such topic") if type(op) is frames.Publish else None
    )
    result = peer("publish", "orders", "1")
    assert result.exit_code == NOT_FOUND
    assert "no such topic" in result.stderr
    assert "1 of 1" not in result.stderr


def test_a_tail_prints_messages_and_gaps_and_says_where_it_stopped(peer):
    peer.peer.fill("orders", 5)
    peer.peer.dropped["orders"] = 2
    result = peer("tail", "orders", "--from", "1", "-n", "2")
    lines = [json.loads(line) for line in _done(result).splitlines()]
    assert lines[0] == {"gap": {"topic": "orders", "from": 1, "to": 2}}
    assert [(line["seq"], line["data"]) for line in lines[1:]] == [(3, {"n": 3}), (4, {"n": 4})]
    assert "--after e1:4" in result.stderr
    result = peer("tail", "orders", "--after", "e1:4", "-n", "1")
    assert [json.loads(line)["seq"] for line in _done(result).splitlines()] == [5]


def test_a_tail_of_another_database_fails(peer):
    result = peer("tail", "orders", "--after", "e0:4")
    assert result.exit_code == FAILED
    assert "restored" in result.stderr
    _done(peer("tail", "orders", "--after", "4"), USAGE)
    _done(peer("tail", "orders", "--after", "e1:4", "--from", "new"), USAGE)


def test_consume_says_where_a_new_group_begins(peer):
    peer.peer.fill("orders", 2)
    lines = [
        json.loads(line) for line in _done(peer("consume", "orders", "--from", "earliest", "-n", "2")).splitlines()
    ]
    assert [line["seq"] for line in lines] == [1, 2]
    assert [op.start for link in peer.peer.links for op in link.of(frames.Subscribe)] == ["earliest"]


def test_a_line_shows_what_was_chosen_for_a_message(peer):
    _done(peer("publish", "orders", "1", "--priority", "3", "--key", "k", "-H", "trace:7"))
    _done(peer("publish", "orders", "2"))
    result = peer("consume", "orders", "-n", "2")
    chosen, plain = (json.loads(line) for line in _done(result).splitlines())
    assert (chosen["priority"], chosen["key"], chosen["headers"], chosen["data"]) == (3, "k", {"trace": "7"}, 1)
    assert plain.keys() == {"topic", "seq", "id", "attempt", "redelivered", "data"}
