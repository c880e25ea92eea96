"""Settlements whose commit does not come: the client that sends more of them is not read, and is not blamed for it."""

from __future__ import annotations

import asyncio

from pushwire.wire.codec import loads
from pushwire.wire.frames import Ack, Nack, Publish
from pushwire.wire.jsonv1 import JsonServerCodec
from pushwire_gateway.caps import Caps
from pushwire_gateway.engine import Engine
from pushwire_gateway.gateway import Gateway
from pushwire_gateway.operations import UNCONFIRMED_MAX
from pushwire_gateway.outbox import Outbox
from pushwire_gateway.revocation import Revocations
from pushwire_gateway.server import LateCatalog
from pushwire_gateway.settings import load
from pushwire_gateway.tickets import Tickets
from pushwire_gateway.tokens import Tokens
from pushwire_storage.base import Append, Done, Group, Message, Refused, Topic
from support.port import SmallGateway, SteppedClock


class StuckStore:
    """A store whose batches end when the test says so."""

    epoch = version = "stuck"
    broken = None

    def __init__(self):
        self.topics = {}
        self.ends = []
        self.batches = []

    def next_due_ms(self):
        return None

    def next_tick_ms(self):
        return None

    def write(self, batch, done):
        def end(error=None):
            batch.error = error
            done(batch)

        self.ends.append(end)
        self.batches.append(batch)


class RecordingLink:
    unsent_bytes = 0
    ip = "::1"

    def __init__(self):
        self.reading = True
        self.lines = []
        self.closed = None

    def write(self, parts):
        self.lines += parts

    def authenticated(self):
        pass

    def close(self, code, reason):
        self.closed = code

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


class Loop:
    """Deferred calls, made by `run`. Timers never ring."""

    def __init__(self):
        self.soon = []

    def call_soon(self, call):
        self.soon.append(call)

    def call_later(self, delay_s, call):
        return asyncio.TimerHandle(0, call, (), asyncio.get_running_loop())

    def run(self):
        while self.soon:
            self.soon.pop(0)()


class World:
    def __init__(self, *, known=True):
        self.clock = SteppedClock()
        self.loop = Loop()
        self.store = StuckStore()
        settings = load()
        self.engine = Engine(self.store, self.clock, self.loop, settings, lambda error: None)
        small = SmallGateway(settings, self.clock)
        revocations = Revocations(LateCatalog(self.store), "pushwire")
        tokens = Tokens(small.verifier, None, revocations, Tickets(settings.node), self.clock.now)
        self.gateway = gateway = Gateway(
            settings, self.clock, self.engine, small.throttle, tokens, Caps(settings, 4096)
        )
        self.link = RecordingLink()
        codec = JsonServerCodec(Message)
        outbox = Outbox(codec, self.link, settings.outbox_bytes_max)
        self.settings = settings
        principal = small.verifier.verify(small.token(allow=("publish:*", "create:*@*")), self.clock.now())
        self.session = gateway.make_session(self.link, codec, outbox, principal if known else None, self.clock.now())
        self.session.start(self.clock.now())
        # Something is on its way to the disk, so that whatever comes now has to wait.
        self.topic = Topic(1, "default", "t")
        self.engine.batcher.append(Append(self.topic, [Message("id", b"1", 0)]), 1, lambda error: None)
        self.loop.run()

    def ack(self, count):
        self.session.receive([Ack(("gone",), None, ref) for ref in range(count)], self.clock.now())


async def test_more_settlements_than_may_wait_stop_the_reading_until_they_are_confirmed():
    world = World()
    world.ack(UNCONFIRMED_MAX)
    assert world.link.reading
    world.ack(1)
    assert not world.link.reading
    world.store.ends.pop()()
    world.loop.run()
    assert world.link.reading
    assert sum(b"stale_lease" in line for line in world.link.lines) == UNCONFIRMED_MAX + 1


async def test_a_client_that_is_not_read_is_not_missed():
    world = World()
    world.ack(UNCONFIRMED_MAX + 1)
    for _ in range(400):
        world.clock.step(0.4)
        world.session.check(world.clock.now())
    assert world.link.closed is None
    assert b'{"op":"ping"}' not in world.link.lines


async def test_a_client_that_is_read_and_silent_is_missed():
    world = World()
    for _ in range(100):
        world.clock.step(0.4)
        world.session.check(world.clock.now())
    assert world.link.closed == 4001


async def test_who_settles_while_too_much_is_settled_and_not_durable_is_not_read():
    world = World()
    batcher = world.engine.batcher
    batcher.settle([Done(Group(1, world.topic, "g", 0), [])], world.settings.batcher_bytes_max)
    assert world.link.reading, "it has not settled anything"
    world.session.receive([Ack(("gone",), None, None)], world.clock.now())
    assert not world.link.reading
    world.store.ends.pop()()
    assert not world.link.reading, "that was the batch before"
    world.store.ends.pop()()
    assert world.link.reading


async def test_a_client_that_left_is_not_kept_until_there_is_room():
    world = World()
    batcher = world.engine.batcher
    batcher.settle([Done(Group(1, world.topic, "g", 0), [])], world.settings.batcher_bytes_max)
    world.session.receive([Ack(("gone",), None, None)], world.clock.now())
    world.session.closed(world.clock.now())
    for _ in range(2):
        world.store.ends.pop()()
    assert not world.link.reading


def publish(ref, size_bytes=1):
    return Publish("new", [Message("", b"1", 0)], ref, size_bytes)


async def test_a_publish_that_waits_for_its_topic_takes_room():
    world = World()
    waiting = world.engine.batcher.waiting_messages
    world.session.receive([publish(1), publish(2)], world.clock.now())
    assert world.engine.batcher.waiting_messages == waiting + 2
    world.store.ends.pop()()
    change = world.store.batches[-1].changes[0]
    change.result = Topic(2, change.tenant, change.name)
    world.store.ends.pop()()
    world.loop.run()
    assert len(world.store.batches[-1].appends) == 2
    assert world.engine.batcher.waiting_messages == 2
    world.store.ends.pop()()
    assert world.engine.batcher.waiting_messages == world.engine.batcher.waiting_bytes == 0


async def test_a_topic_that_the_store_refuses_is_answered_with_its_reason():
    world = World()
    world.session.receive([publish(7)], world.clock.now())
    world.store.ends.pop()()
    world.store.batches[-1].changes[0].refused = Refused("too_many_topics", "no number is left")
    world.store.ends.pop()()
    (line,) = [line for line in world.link.lines if b'"ref":7' in line]
    assert b'"code":"too_many_topics"' in line
    assert b"no number is left" in line
    assert world.engine.batcher.waiting_messages == world.engine.batcher.waiting_bytes == 0


async def test_acks_in_a_row_that_need_no_answer_are_one_and_keep_their_place():
    world = World()
    acks = [Ack(("a",)), Ack(("b", "c"))]
    later = [Nack(("d",), None, None), Ack(("e",)), Ack(("f",), None, 7)]
    world.session.receive([*acks, *later, *acks], world.clock.now())
    world.store.ends.pop()()
    world.loop.run()
    errors = [error for error in map(loads, world.link.lines) if error.get("code") == "stale_lease"]
    unasked = [error["leases"] for error in errors if "ref" not in error]
    assert unasked == [["a", "b", "c"], ["d"], ["e"], ["a", "b", "c"]]
    assert [error["leases"] for error in errors if error.get("ref") == 7] == [["f"]]


async def test_each_ack_of_a_stranger_counts_as_a_fault():
    world = World(known=False)
    world.session.receive([Ack(("a",))] * (world.settings.malformed_per_minute + 1), world.clock.now())
    world.loop.run()
    assert world.link.closed == 4400
