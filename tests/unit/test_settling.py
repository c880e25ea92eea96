"""Settlements whose commit does not come: the client that sends more of them is not read, and is not blamed for it."""

from __future__ import annotations

import asyncio

from pushwire.wire.frames import Ack
from pushwire.wire.jsonv1 import JsonServerCodec
from pushwire_gateway.caps import Caps
from pushwire_gateway.engine import Engine
from pushwire_gateway.gateway import Gateway
from pushwire_gateway.outbox import Outbox
from pushwire_gateway.settings import load
from pushwire_gateway.settling import UNCONFIRMED_MAX
from pushwire_storage.base import Append, Message, Topic
from support.port import SmallGateway, SteppedClock


class StuckStore:
    """A store whose batches end when the test says so."""

    epoch = version = "stuck"

    def __init__(self):
        self.topics = {}
        self.ends = []

    def next_due_ms(self):
        return None

    def write(self, batch, done):
        def end(error=None):
            batch.error = error
            done(batch)

        self.ends.append(end)


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
    def __init__(self):
        self.clock = SteppedClock()
        self.loop = Loop()
        self.store = StuckStore()
        settings = load()
        self.engine = Engine(self.store, self.clock, self.loop, settings, lambda error: None)
        small = SmallGateway(settings, self.clock)
        gateway = Gateway(settings, self.clock, self.engine, small.throttle, small.verifier, Caps(settings, 4096))
        self.link = RecordingLink()
        codec = JsonServerCodec(Message)
        outbox = Outbox(codec, self.link, settings.outbox_bytes_max)
        principal = small.verifier.verify(small.token(), self.clock.now())
        self.session = gateway.make_session(self.link, codec, outbox, principal, self.clock.now())
        self.session.start(self.clock.now())
        # Something is on its way to the disk, so that whatever comes now has to wait.
        topic = Topic(1, "default", "t")
        self.engine.batcher.append(Append(topic, [Message("id", b"1", 0)]), 1, lambda error: None)
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
