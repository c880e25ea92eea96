"""Nothing that a client sends may forge a line of the log, or leave a token in it."""

from __future__ import annotations

import io
import json
import logging
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog

from pushwire_gateway.log import configure, redact
from pushwire_gateway.settings import load

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.fixture
def lines():
    """What was logged, line by line, in the format that is for machines."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure(load(log_format="json"))
    stream = io.StringIO()
    root.handlers[0].stream = stream
    yield lambda: stream.getvalue().splitlines()
    root.handlers[:] = before
    root.setLevel(level)


def test_an_event_with_line_breaks_and_escapes_is_one_line(lines):
    logging.getLogger("pushwire").warning("a\r\n{}\x1b[2J\u2028b %s", TOKEN)
    (line,) = lines()
    assert json.loads(line)["event"] == "a\\x0d\\x0a{}\\x1b[2J\\x2028b [token]"


def test_a_token_in_an_exception_is_not_logged_and_the_traceback_stays_readable(lines):
    try:
        raise ValueError(f"cannot read {TOKEN}\nforged")
    except ValueError:
        logging.getLogger("pushwire").exception("failed")
    (line,) = lines()
    trace = json.loads(line)["exception"]
    assert TOKEN not in line
    assert "cannot read [token]" in trace
    assert "test_a_token_in_an_exception" in trace


TICKET = "n1." + "Ab3_" * 10 + "x-9"
SESSION = "gw2.4mYx0mJ0r3q7Gd2cXh9v1A"


@pytest.mark.parametrize(
    "text",
    [
        TICKET,
        SESSION,
        f"GET /v1/topics/t/tail?ticket={TICKET}&from=new",
        "GET /v1/topics/t/tail?from=new&ticket=short",
        f"pushwire-session: {SESSION}",
        f"'session': '{SESSION}'",
        "authorization: Bearer opaque-metrics-token",
        "Authorization: Basic YTpi",
        "metrics_token=opaque",
        f"[{SESSION}]",
        f"redirect to http://h/?x=1;access_token={TOKEN}",
    ],
)
def test_a_credential_is_in_no_line_however_it_got_there(text, lines):
    log = structlog.get_logger("pushwire.test")
    logging.getLogger("pushwire").warning("seen %s", text)
    log.warning("seen", path=text, inside={"deep": [text]}, thing=Path(text), raw=text.encode())
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
    for line in lines():
        for secret in (TICKET, SESSION, TOKEN, "opaque", "short", "YTpi"):
            assert secret not in line or secret not in text, line
        assert "[secret]" in line or "[token]" in line
    assert len(lines()) == 3


def test_what_is_no_credential_stays_readable(lines):
    words = "node n1 published to topic orders.eu.west, seq 42; session resumed, ticket issued; see gateway.session"
    logging.getLogger("pushwire").warning(words)
    (line,) = lines()
    assert json.loads(line)["event"] == words


def test_a_line_is_one_json_object_with_what_when_and_how_bad(lines):
    structlog.get_logger("pushwire.test").info("websocket opened", ip="192.0.2.1", seconds=1.5, known=True, code=None)
    logging.getLogger("pushwire.other").error("broken %d", 3)
    first, second = map(json.loads, lines())
    assert (first["event"], first["level"], first["logger"]) == ("websocket opened", "info", "pushwire.test")
    assert (first["ip"], first["seconds"], first["known"], first["code"]) == ("192.0.2.1", 1.5, True, None)
    assert (second["event"], second["level"], second["logger"]) == ("broken 3", "error", "pushwire.other")
    for one in (first, second):
        assert datetime.fromisoformat(one["ts"]).utcoffset() == timedelta(0)


def test_a_field_called_like_a_credential_is_not_shown(lines):
    structlog.get_logger("pushwire.test").warning("x", ticket="a", metrics_token="b", inside={"secret": "c"}, tokens=3)
    (line,) = map(json.loads, lines())
    assert (line["ticket"], line["metrics_token"], line["inside"]) == ("[secret]", "[secret]", {"secret": "[secret]"})
    assert line["tokens"] == 3


@pytest.mark.parametrize("text", ["a" * 100_000, "a-" * 50_000, "n1." * 30_000, "token" * 20_000, "token=" * 15_000])
def test_a_long_text_is_looked_through_in_bounded_time(text):
    # A quadratic search would look at 10^9 characters and more.
    assert redact(text)
