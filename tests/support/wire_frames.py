"""Hypothesis strategies for every frame of pushwire.v1, each within what the contract allows; it tests nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pushwire.wire import codes
from pushwire.wire.codec import INTEGER_MAX, dumps
from pushwire.wire.decode import SCHEDULE_MS_MAX
from pushwire.wire.frames import (
    BINARY,
    JSON,
    STATS_TOPIC,
    TEXT,
    Ack,
    Auth,
    Delivery,
    Draft,
    Error,
    Extend,
    Flow,
    Gap,
    Goodbye,
    Messages,
    Nack,
    Ok,
    Ping,
    Pong,
    Publish,
    Receipt,
    Reject,
    Release,
    Subscribe,
    SubscribeTail,
    TailBatch,
    Tailed,
    Unsubscribe,
    Welcome,
)

NAME_ALPHABET = "ABCXYZabcxyz0123456789_.:-"
# What breaks naive writers of JSON and of lines; U+2028 and U+2029 end a line in JavaScript, U+0085 in str.splitlines.
NASTY = '"\\/\b\f\n\r\t\0\x1b\x7f\x85\u2028\u2029\ufeff\U0001f600}{][,:'

names = st.text(NAME_ALPHABET, min_size=1, max_size=255).filter(lambda name: name not in {".", ".."})
ids = st.text(NAME_ALPHABET, min_size=1, max_size=128)
refs = st.none() | st.integers(0, INTEGER_MAX) | names
texts = st.text(max_size=60) | st.text(NASTY, max_size=20)
leases = st.text([chr(code) for code in range(128)], min_size=1, max_size=64)
made_leases = st.text(NAME_ALPHABET, min_size=1, max_size=64)  # the gateway's own need no escaping
naturals = st.integers(0, INTEGER_MAX)
integers = st.integers(-INTEGER_MAX, INTEGER_MAX)
json_values = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
bodies = (
    st.tuples(st.just(JSON), json_values.map(dumps))
    | st.tuples(st.just(TEXT), texts.map(str.encode))
    | st.tuples(st.just(BINARY), st.binary(max_size=60))
)
keys = texts.filter(lambda text: 1 <= len(text.encode()) <= 255)
headers = st.dictionaries(names, texts, min_size=1, max_size=5).map(dumps)
content_types = st.text([chr(code) for code in range(0x20, 0x7F)], min_size=1, max_size=127)


@st.composite
def drafts(draw: Any, id: st.SearchStrategy[str] = ids) -> Draft:
    encoding, data = draw(bodies)
    key, content_type = draw(st.none() | keys), draw(st.none() | content_types)
    return Draft(draw(id), data, 0, encoding, draw(st.integers(0, 3)), key, draw(st.none() | headers), content_type)


@st.composite
def scheduled(draw: Any) -> Draft:
    """As published: perhaps for later, perhaps with an end. Below 0 from now on."""
    draft: Draft = draw(drafts(ids | st.just("")))
    draft.due_ms = draw(st.none() | naturals | st.integers(-SCHEDULE_MS_MAX, -1))
    draft.expires_ms = draw(st.none() | st.integers(-SCHEDULE_MS_MAX, -1))
    return draft


@st.composite
def stored(draw: Any) -> Draft:
    draft: Draft = draw(drafts())
    draft.seq, draft.published_at_ms, draft.redriven = draw(naturals), draw(naturals), draw(st.booleans())
    return draft


@st.composite
def shown(draw: Any) -> Draft:
    """As a tail sees it: also what is not due yet."""
    draft: Draft = draw(stored())
    draft.due_ms = draw(st.none() | naturals)
    return draft


@st.composite
def deliveries(draw: Any) -> Delivery:
    return Delivery(draw(made_leases), draw(st.integers(1, 1000)), draw(stored()))


published = st.lists(scheduled(), min_size=1, max_size=4)
lease_lists = st.lists(leases, min_size=1, max_size=5)
error_texts = st.none() | texts
optional = st.none() | naturals
granted = st.builds(Ok, refs, st.none(), st.none() | names, optional, optional, optional, st.none() | texts, optional)
resumed = st.builds(
    Ok,
    refs,
    expires_in_ms=naturals,
    session=texts,
    resumed=st.booleans(),
    subs=st.none() | st.dictionaries(names, st.lists(made_leases, max_size=3), max_size=3),
)
starts = st.sampled_from(["earliest", "new"]) | st.integers(1, INTEGER_MAX) | st.integers(-INTEGER_MAX, -1)
secrets = st.text([chr(code) for code in range(1, 128)], min_size=1, max_size=64)
received = st.builds(Ok, refs, st.lists(st.builds(Receipt, ids, naturals, st.booleans()), max_size=4))

CLIENT_FRAMES: dict[type, st.SearchStrategy[Any]] = {
    Auth: st.builds(Auth, texts.filter(bool), refs, st.none() | secrets, st.none() | st.integers(0, 60_000)),
    Subscribe: st.builds(
        Subscribe,
        names,
        names,
        st.none() | names,
        st.none() | st.integers(0, 1000),
        st.none() | st.integers(100, 12 * 3600 * 1000),
        st.none() | starts,
        refs,
        st.none() | names,
        st.none() | st.integers(1000, SCHEDULE_MS_MAX),
    ),
    SubscribeTail: st.builds(SubscribeTail, names | st.just(STATS_TOPIC), st.none() | names, starts, ref=refs)
    | st.builds(SubscribeTail, names, st.none() | names, epoch=secrets, after_seq=naturals, ref=refs),
    Unsubscribe: st.builds(Unsubscribe, names, refs),
    Publish: st.builds(Publish, names, published, refs),
    Ack: st.builds(Ack, lease_lists, st.none(), refs) | st.builds(Ack, st.just(()), leases, refs),
    Nack: st.builds(Nack, lease_lists, st.none() | st.integers(0, 900_000), error_texts, refs),
    Reject: st.builds(Reject, lease_lists, error_texts, refs),
    Release: st.builds(Release, lease_lists, refs),
    Extend: st.builds(Extend, lease_lists, refs),
    Flow: st.builds(Flow, names, st.integers(0, 1000), refs),
    Ping: st.builds(Ping, refs),
    Pong: st.builds(Pong, refs),
}
"""Frame class -> frames that a client may send."""

SERVER_FRAMES: dict[type, st.SearchStrategy[Any]] = {
    Welcome: st.builds(
        Welcome, texts, texts, texts, naturals, naturals, naturals, st.dictionaries(texts, integers, max_size=4)
    ),
    Ok: granted | received | resumed,
    Error: st.builds(
        Error,
        st.sampled_from(sorted(codes.ERRORS)),
        texts,
        refs,
        st.booleans(),
        optional,
        st.none() | names,
        st.none() | st.lists(leases, max_size=5),
    ),
    Messages: st.builds(Messages, names, names, naturals, st.lists(deliveries(), min_size=1, max_size=4)),
    Tailed: st.builds(Tailed, names, st.builds(TailBatch, names, st.lists(shown(), min_size=1, max_size=4))),
    Gap: st.builds(Gap, names, naturals, naturals),
    Goodbye: st.builds(Goodbye, st.sampled_from(sorted(codes.CLOSES)), texts, st.booleans(), optional),
    Ping: st.builds(Ping, refs),
    Pong: st.builds(Pong, refs),
}
"""Frame class -> frames that a gateway may send."""
