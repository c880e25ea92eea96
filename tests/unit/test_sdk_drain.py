"""Drains through the session: credit stopped, the rest given back, handlers awaited, settlements confirmed."""

from __future__ import annotations

from pushwire import ClientClosed, State
from pushwire.wire import frames
from support.sdk_pair import Pair, Told


def test_a_drain_gives_back_finishes_confirms_and_then_is_done():
    pair = Pair()
    pair.peer.fill("orders", 5)
    consumer, _ = pair.subscribe(prefetch=3)
    first, second = pair.take(consumer, 2)
    told = Told()
    pair.session.drain(told)
    pair.pump()
    assert pair.session.state is State.DRAINING
    assert consumer.over()
    assert pair.link.of(frames.Flow)[-1].prefetch == 0
    assert pair.peer.settled == [("release", "default", 3)]
    assert not told.done()
    first.ack()
    pair.pump()
    assert not told.done()
    second.nack()
    pair.pump()
    assert told.done()
    assert all(op.ref is not None for op in pair.link.ops if type(op) in (frames.Ack, frames.Nack, frames.Release))


def test_a_drain_waits_for_the_confirmation():
    pair = Pair()
    pair.peer.fill("orders", 1)
    consumer, _ = pair.subscribe()
    (message,) = pair.take(consumer)
    told = Told()
    pair.session.drain(told)
    message.ack()
    pair.peer.answers = False
    pair.pump()
    assert pair.peer.acked() == [1]
    assert not told.done()


def test_a_drain_waits_for_publishes():
    pair = Pair()
    published = pair.publish()
    told = Told()
    pair.session.drain(told)
    assert not told.done()
    pair.pump()
    assert published.done()
    assert told.done()


def test_what_arrives_during_a_drain_goes_back():
    pair = Pair()
    consumer, _ = pair.subscribe()
    told = Told()
    pair.session.drain(told)
    pair.peer.fill("orders", 1)  # pushed before the window's change arrives
    pair.pump()
    assert ("release", "default", 1) in pair.peer.settled
    assert len(consumer.queue) == 0
    assert told.done()


def test_a_connection_lost_in_a_drain_ends_the_wait_for_handlers():
    pair = Pair()
    pair.peer.fill("orders", 1)
    consumer, _ = pair.subscribe()
    pair.take(consumer)
    told = Told()
    pair.session.drain(told)
    pair.cut()
    assert told.done()
    assert pair.session.state is State.DRAINING
    pair.connect()
    assert not pair.link.of(frames.Subscribe)


def test_one_subscription_can_be_drained_alone():
    pair = Pair()
    pair.peer.fill("orders", 2)
    drained, _ = pair.subscribe()
    other, _ = pair.subscribe(group="other")
    (message, _) = pair.take(drained, 2)
    told = Told()
    pair.session.drain_one(drained, told)
    pair.pump()
    assert not told.done()
    message.ack()
    pair.take(drained, 0)
    for held in list(drained.leases.values()):
        held.release()
    pair.pump()
    assert told.done()
    assert len(other.queue) == 2
    assert pair.session.state is State.CONNECTED
    pair.session.drained()
    assert pair.session.settlements.confirming == 0


def test_closed_while_waiting_to_subscribe():
    pair = Pair(connect=False)
    _, told = pair.subscribe()
    pair.session.close()
    assert type(told.error) is ClientClosed
