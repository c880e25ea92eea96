"""Whole-state assertions: what must hold in the gateway's memory after every step, and against the disk at rest.

Owns no state of its own; looks into private fields on purpose and changes nothing. A failed assertion ends the
simulation with the seed that led to it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from pushwire_gateway.core import keys
from pushwire_gateway.core.model import OVERHEAD_BYTES, WAITING, Group, Lane, Pending, Session, Subscription
from pushwire_storage.base import Counted, Dead, Done, PurgeTopic, Retry, SeekGroup
from pushwire_storage.base import Group as StoreGroup
from pushwire_storage.planning import SCHEDULED, SEQ_BITS, SEQ_MAX, TOPIC_SHIFT, group_lane

from .node import Node

EARLY_S = 0.002
"""How late a timer may be armed: engine.TIMER_SLACK_S and the rounding of milliseconds."""


def check_memory(node: Node) -> None:
    """After every step."""
    core, settings = node.engine.core, node.settings
    ready_bytes = 0
    sessions: dict[Session, int] = {}
    for group in core._groups.values():
        ready_bytes += _check_group(group)
        for sub in group.members:
            assert sub.session.subs.get(sub.name) is sub, f"{sub.name} is a member, but not its session's"
            assert sub.timeouts_in_a_row < settings.unhealthy_timeouts, f"{sub.name} lets its leases run out, and stays"
            sessions[sub.session] = sessions.get(sub.session, 0) + _check_leases(sub)
    for session, held_bytes in sessions.items():
        held = sum(len(sub.leases) for sub in session.subs.values())
        assert session.bytes_in_flight == held_bytes, f"{session.bytes_in_flight} bytes in flight, holds {held_bytes}"
        assert held_bytes <= session.bytes_max or held == 1, f"{held_bytes} bytes in flight in {held} messages"
    assert core.ready_bytes() == ready_bytes, f"ready bytes are {ready_bytes}, counted {core.ready_bytes()}"
    for group in core._groups.values():
        if group.turn is None or not _is_read(node, group, group.turn):
            _check_nothing_idle(group)
    _check_timer(node)
    assert len(node.gateway.registry._away) <= settings.sessions_away_max, "more sessions are away than may be"


def _waiting(lane: Lane) -> list[Pending]:
    """What lies in the lane and may still be delivered: not an entry that its message has left."""
    found = {id(pending): pending for pending in (*lane.fresh, *lane.returned) if pending.place == WAITING}
    return [each for each in found.values() if not each.ghosts or lane.keys[each.message.key].head is each]


def _check_group(group: Group) -> int:
    """Each message in one place; returns the bytes ready."""
    ready: list[Pending] = []
    parked: list[Pending] = []
    for lane in group.lanes:
        if lane.fresh:
            fresh = [pending.message.seq for pending in lane.fresh]
            assert fresh == sorted(fresh), f"fresh messages out of order: {fresh}"
        ready += _waiting(lane)
        parked += _check_keys(lane)
    assert group.ready == len(ready), f"{group.ready} said to be ready, {len(ready)} are"
    leased = [pending for sub in group.members for pending in sub.leases.values()]
    everywhere = ready + parked + leased
    seqs = [pending.message.seq for pending in everywhere]
    assert len(set(seqs)) == len(seqs), f"{group.handle.name}: one message in two places among {sorted(seqs)}"
    retry = group.policy.retry
    for pending in everywhere:
        assert pending.deliveries <= retry.max_deliveries, f"seq {pending.message.seq}: {pending.deliveries} deliveries"
        assert pending.failures < retry.max_failures, f"seq {pending.message.seq}: {pending.failures} failures"
    return sum(pending.message.size_bytes + OVERHEAD_BYTES for pending in ready + parked)


def _check_keys(lane: Lane) -> list[Pending]:
    """Whoever waits for a key waits behind a lower one, or for an answer of the store; returns those that do."""
    parked: list[Pending] = []
    for key, queue in lane.keys.items():
        waiting = [pending for pending in queue.parked if pending.place == WAITING]
        parked += waiting
        assert len(queue.parked) <= 2 * keys.PARKED_MAX, f"{len(queue.parked)} wait for key {key}"
        assert queue.asking or not queue.over
        assert queue.holder or queue.asking, f"key {key} is held by nobody, and nobody is asked"
        lower = [pending.message.seq for pending in waiting if pending.message.seq < queue.holder]
        assert queue.out or not lower, f"key {key}: {lower} wait behind {queue.holder}"
    return parked


def _check_leases(sub: Subscription) -> int:
    """Leases in order of deadline, and under their own name; returns their bytes."""
    if not sub.leases:
        return 0
    deadlines = [pending.deadline for pending in sub.leases.values()]
    assert deadlines == sorted(deadlines), f"{sub.name}: leases out of order"
    assert all(pending.lease == lease for lease, pending in sub.leases.items())
    assert sub.armed, f"{sub.name} holds leases that will not expire"
    assert all(pending.deliveries >= 1 for pending in sub.leases.values())
    return sum(pending.message.size_bytes for pending in sub.leases.values())


def _check_nothing_idle(group: Group) -> None:
    """No message waits while a member may take it: the window is free, the bytes are, and it was not released by it."""
    if group.policy.paused:
        return
    ready = [pending for lane in group.lanes for pending in _waiting(lane) if _may_go(lane, pending)]
    for sub in group.members if ready else ():
        session = sub.session
        if session.away_until is not None or len(sub.leases) >= sub.prefetch:
            continue
        allowed = [pending for pending in ready if session not in (pending.held_for or ())]
        largest = max((pending.message.size_bytes for pending in allowed), default=0)
        room = session.bytes_max - session.bytes_in_flight
        # One that was once stopped by its bytes is asked again when some of them come free, not before.
        starved = session.bytes_in_flight and (largest > room or sub in session.starved)
        assert not allowed or starved, (
            f"{sub.name} holds {len(sub.leases)} of {sub.prefetch} and is offered none of {len(allowed)} ready"
        )


def _is_read(node: Node, group: Group, lane: Lane) -> bool:
    """Whether the lane that the group waits for is really on its way from the store."""
    known = node.store._feed._lanes.get(group_lane(group.handle.id, lane.priority))
    if group.handle not in node.engine._open or known is None:
        return group.handle in node.engine._opening
    return known.demand > 0 and (known.busy or known in node.store._feed._stalled)


def _may_go(lane: Lane, pending: Pending) -> bool:
    """Whether the message is not just about to be put beside its lane, to wait for its key."""
    queue = lane.keys.get(pending.message.key)
    return queue is None or queue.holder == pending.message.seq


def _check_timer(node: Node) -> None:
    """The engine will wake up for whatever is due first."""
    engine = node.engine
    deadlines = [
        pending.deadline for group in engine.core._groups.values() for sub in group.members
        for pending in sub.leases.values()
    ]  # fmt: skip
    tick_ms = None if engine.batcher.ticking else engine.store.next_tick_ms()
    deadlines += [at_ms / 1000 for at_ms in (engine.store.next_due_ms(), tick_ms) if at_ms is not None]
    deadlines += [session.away_until for session in _sessions(node) if session.away_until is not None]
    deadlines += [
        pending.message.expires_ms / 1000
        for group in engine.core._groups.values()
        for lane in group.lanes
        for pending in _waiting(lane)
        if pending.message.expires_ms is not None
    ]
    if deadlines:
        assert engine._timer_at <= min(deadlines) + EARLY_S, f"timer {engine._timer_at}, due {min(deadlines)}"


def _sessions(node: Node) -> set[Session]:
    return {sub.session for group in node.engine.core._groups.values() for sub in group.members}


def check_disk(node: Node) -> None:
    """With nothing under way between the store and the core: what is on disk and unsettled is, for each group with
    members, in exactly one place: ready, leased, waiting for its key in memory or on disk, given back with a settlement
    that waits, or still to come."""
    if node.store.pending() or node.store.broken is not None:
        return
    now_ms = int(node.now() * 1000)
    changing = _changing(node)
    assert node.store._writing is not None
    execute = node.store._writing.execute
    settled = set(execute("SELECT pos, group_id FROM settled"))
    retries = {(lane, pos): due for lane, pos, due in execute("SELECT lane, pos, due FROM retries")}
    stored = [
        (pos, pos >> TOPIC_SHIFT, expires is not None and expires <= now_ms)
        for pos, expires in execute("SELECT pos, expires FROM messages")
    ]
    floors = dict(execute("SELECT id, floor FROM topics"))
    leaving = _leaving(node)
    for handle, places in node.engine.core.census().items():
        if handle.id in changing:
            continue
        here = Counter(places["ready"] + places["leased"] + places["parked"])
        opened = handle in node.engine._open
        if opened:  # else the store reads the group afresh once those are written
            here.update(leaving.get(handle, ()))
        lanes = {lane.priority: lane for lane in node.engine.core._groups[handle].lanes}
        for pos, topic_id, expired in stored:
            seq = pos & SEQ_MAX
            if topic_id != handle.topic.id or seq <= handle.start_seq or seq <= floors[topic_id]:
                continue
            if (pos & ~SCHEDULED, handle.id) in settled:
                continue
            coming = not opened or bool(pos & SCHEDULED) or _to_come(node, handle, pos, retries)
            count = here.pop(seq, 0)
            dropped = not count and _dropped(lanes[pos >> SEQ_BITS & 3], seq)
            fine = count <= 1 if expired else count + coming == 1 or dropped
            assert fine, f"{handle.topic.name}/{handle.name} seq {seq} is in {count + coming} places"
        assert not here, f"{handle.topic.name}/{handle.name} holds {dict(here)}, which the disk does not owe"
    for topic in node.store.topics.values():
        count = sum(topic_id == topic.id and pos & SEQ_MAX > floors[topic_id] for pos, topic_id, _ in stored)
        assert topic.messages == count, f"topic {topic.name} counts {topic.messages} messages, keeps {count}"


def _dropped(lane: Lane, seq: int) -> bool:
    """Whether the body was let go of while it waits for its key; the store will be asked for it."""
    return any(
        queue.complete_through < seq <= queue.dropped_max and seq not in queue.seen for queue in lane.keys.values()
    )


def owed_count(node: Node) -> int:
    """Messages on disk that some group has not settled."""
    assert node.store._writing is not None
    (count,) = node.store._writing.execute(
        "SELECT count(*) FROM messages AS m JOIN groups AS g ON g.topic_id = m.pos >> ? AND g.start_seq < m.pos & ?"
        " JOIN topics AS t ON t.id = g.topic_id AND t.floor < m.pos & 4398046511103"
        " WHERE NOT EXISTS (SELECT 1 FROM settled AS s WHERE s.pos = m.pos AND s.group_id = g.id)",
        (TOPIC_SHIFT, SEQ_MAX),
    ).fetchone()
    return int(count)


def _changing(node: Node) -> set[int]:
    """Groups that are being moved or purged: the core has let go of them, the store not yet."""
    found: set[int] = set()
    for change, _ in node.engine.batcher._changes:
        groups = change.topic.groups.values() if isinstance(change, PurgeTopic) else ()
        found.update(group.id for group in groups)
        if isinstance(change, SeekGroup):
            found.add(change.group.id)
    return found


def _leaving(node: Node) -> dict[StoreGroup, list[int]]:
    """Messages that the core is done with, in settlements that are not written yet."""
    found: dict[StoreGroup, list[int]] = {}
    for settlement in node.engine.batcher._settlements:
        if isinstance(settlement, Done):
            found.setdefault(settlement.group, []).extend(message.seq for message in settlement.messages)
        elif isinstance(settlement, Retry | Dead):
            found.setdefault(settlement.group, []).append(settlement.message.seq)
        else:
            assert isinstance(settlement, Counted)
    return found


def _to_come(node: Node, group: StoreGroup, pos: int, retries: dict[tuple[int, int], int]) -> bool:
    """Whether the store has still to hand the message out."""
    seq, priority = pos & SEQ_MAX, pos >> SEQ_BITS & 3
    lane: Any = node.store._feed._lanes.get(group_lane(group.id, priority))
    if lane is None or seq > lane.cursor or seq in lane.waiting:
        return True
    due_ms = retries.get((group_lane(group.id, priority), pos))
    return due_ms is not None and (due_ms, seq) > lane.horizon
