"""Nothing that a client sends may forge a line of the log, or leave a token in it."""

from __future__ import annotations

import io
import json
import logging

import pytest

from pushwire_gateway.log import configure
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
