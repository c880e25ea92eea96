"""The peers' protocols as the load generator speaks them: what a broker says means the same wherever it is cut."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from bench import charts, document
from bench.dialects import HELLO, Answer, Delivered, Done, Plan, Receipt
from bench.links import LoadError
from bench.protocols.mqtt import Mqtt
from bench.protocols.nats import Nats
from bench.protocols.resp import Redis
from bench.protocols.stomp import Stomp

IDS = [f"0190f3c2-7abc-7def-8abc-{number:012x}" for number in range(3)]
PLAN = Plan("bench.t1", ("default",), 100)
BODY = 50
FILL = (b"The quick brown fox jumps over the lazy dog. " * 2)[: BODY - 36]


def nats(talk: Any) -> bytes:
    talk.hello()
    talk.publish("bench.t1", IDS[:2], 7)
    said = b'INFO {"a":1}\r\nPONG\r\nPING\r\n'
    for id_ in IDS[:2]:
        said += f'MSG _INBOX.1.P.7.{id_} 1 26\r\n{{"stream":"s","seq":12345}}\r\n'.encode()
    for id_ in IDS:
        said += f"MSG deliver.x 2 $JS.ACK.{id_[-1]} {BODY}\r\n{id_}".encode() + FILL + b"\r\n"
    return said


def stomp(talk: Any) -> bytes:
    said = b"CONNECTED\nversion:1.2\n\n\0\n"
    for id_ in IDS[:2]:
        said += f"RECEIPT\nreceipt-id:P.7.{id_}\n\n\0".encode()
    for id_ in IDS:
        said += f"MESSAGE\nack:$JS.ACK.{id_[-1]}\ncontent-length:{BODY}\n\n{id_}".encode() + FILL + b"\0\n"
    return said


def mqtt(talk: Any) -> bytes:
    talk.hello()
    talk.publish("bench.t1", IDS[:2], 7)  # packets 1 and 2
    said = b"\x20\x03\0\0\0" + b"\x40\x02\0\x01" + b"\x40\x04\0\x02\0\0"
    for number, id_ in enumerate(IDS):
        body = b"\0\x08bench.t1" + (300 + number).to_bytes(2, "big") + b"\0" + id_.encode() + FILL + b"y" * 100
        said += b"\x32" + bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) + body
    return said


def redis(talk: Any) -> bytes:
    talk.publish("bench.t1", IDS[:2], 7)
    talk.subscribe("bench.t1", "default", 100, 1)
    said = b"$3\r\n1-0\r\n$3\r\n1-1\r\n+PONG\r\n*1\r\n*2\r\n$8\r\nbench.t1\r\n*3\r\n"
    for number, id_ in enumerate(IDS):
        said += f"*2\r\n$3\r\n1-{number}\r\n*4\r\n$2\r\nid\r\n$36\r\n{id_}\r\n$1\r\nb\r\n${BODY - 36}\r\n".encode()
        said += FILL + b"\r\n"
    return said


CASES = [(Nats, nats), (Stomp, stomp), (Mqtt, mqtt), (Redis, redis)]


@pytest.mark.parametrize(("dialect", "said"), CASES, ids=["nats", "stomp", "mqtt", "resp"])
@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_a_stream_means_the_same_wherever_it_is_cut(dialect: Any, said: Any, cut: int) -> None:
    talk = dialect(BODY).talk(PLAN)
    data = said(talk)
    events = [event for at in range(0, len(data), cut) for event in talk.events(data[at : at + cut])]
    got = list(itertools.chain(*(event.ids for event in events if isinstance(event, Delivered))))
    leases = list(itertools.chain(*(event.leases for event in events if isinstance(event, Delivered))))
    confirmed = list(itertools.chain(*(event.ids for event in events if isinstance(event, Receipt))))
    assert (got, confirmed) == (IDS, IDS[:2])
    assert len(set(leases)) == 3
    assert {event.ref for event in events if isinstance(event, Receipt)} == {7}
    assert Done(1 if dialect is Redis else HELLO) in events
    assert (Answer(b"PONG\r\n") in events) == (dialect is Nats)


@pytest.mark.parametrize(
    ("dialect", "said"),
    [
        (Nats, b"-ERR 'Authorization Violation'\r\n"),
        (Nats, b'MSG _INBOX.1.P.7.x 1 22\r\n{"error":{"code":503}}\r\n'),
        (Stomp, b"ERROR\nmessage:no\n\nwhy\0"),
        (Mqtt, b"\x20\x03\0\x87\0"),
        (Redis, b"-ERR unasked\r\n"),
    ],
)
def test_a_refusal_voids_the_measurement(dialect: Any, said: bytes) -> None:
    with pytest.raises(LoadError):
        dialect(BODY).talk(PLAN).events(said)


def test_redis_asks_again_with_the_last_acknowledgement() -> None:
    talk = Redis(BODY).talk(PLAN)
    data = redis(talk)
    talk.events(data)
    first, last = talk.ack(["1-0", "1-1"], None), talk.ack(["1-2"], None)
    assert b"XREADGROUP" not in first
    assert b"XREADGROUP" in last


def test_the_page_quotes_only_what_may_be_quoted() -> None:
    good = {
        "system": "pushwire", "scenario": "throughput: 1P/1C", "metric": "messages", "value": 20.0, "unit": "1/s",
        "higher_is_better": True, "rounds": 3, "values": [10.0, 20.0, 30.0], "void": None, "failures": [],
        "versions": {"pushwire": "1"}, "limits_raised": {},
    }  # fmt: skip
    bad = {**good, "system": "nats", "value": None, "void": "not quoted: load generator at 97%"}
    slow = {**good, "system": "naive", "value": 2.0, "values": [2.0]}
    made = document.page(
        {
            "rows": [good, bad, slow], "durable": {"pushwire": "synced"}, "missing": {"redis": "no redis-server here"},
            "machine": {"quick": True, "cpu_share_of_others": 0.5},
        },
        [],
    )  # fmt: skip
    assert "| messages, 1/s | pushwire | 20.0 [10.0..30.0] | 3 |  |" in made
    assert "*not quoted: load generator at 97%*" in made
    assert "| naive | 2.00 | 3 | 10.00 |" in made
    assert "missing: no redis-server here" in made
    assert "quick run" in made
    assert "Other processes were busy" in made


def test_a_chart_draws_a_bar_for_each_value() -> None:
    drawn = charts.bars("a < b", "1/s", [("pushwire", 1000.0), ("naive", 10.0)], "pushwire", logarithmic=True)
    assert drawn.count("<rect") == 3  # and the ground
    assert "a &lt; b" in drawn
    assert "1,000" in drawn
