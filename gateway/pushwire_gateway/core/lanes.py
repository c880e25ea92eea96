"""What a group serves next, and how much of its backlog it holds in memory.

Owns the choice of the next message (the one place to change when lanes, keys or weights do) and the demand each lane
has towards the store. Knows no member, lease or time.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from . import keys
from .memory import Ready
from .model import ENDED, Effects, Group, Lane, Pending, Session

READY_MAX = 4096
"""Messages a lane holds while memory is plentiful: the largest transaction, so that a whole commit can be handed over
from memory instead of being read back."""
READY_MIN = 32
"""Messages a lane may always ask for, below which a round trip to the store per message would show."""


def insert(group: Group, lane: Lane, pending: Pending) -> None:
    """A message joins its lane at the position of its seq."""
    group.ready += 1
    if pending.message.seq > lane.tail_seq:
        lane.tail_seq = pending.message.seq
        lane.fresh.append(pending)
    else:
        heappush(lane.returned, pending)


def pop(lane: Lane) -> Pending:
    """The lowest seq of a lane that is not empty."""
    returned = lane.returned
    if returned and not (lane.fresh and lane.fresh[0].message.seq < returned[0].message.seq):
        return heappop(returned)
    return lane.fresh.popleft()


def coming(lane: Lane, ready: Ready) -> bool:
    """It has nothing here, but something is on its way, or will be asked for as soon as a member has room."""
    return lane.behind and (lane.wanted > 0 or ready.tight) and not lane.fresh and not lane.returned


def choose(group: Group, busy: list[Lane]) -> Lane:
    """The lane to serve next, of those that have something or will: smooth weighted round robin, so that each gets its
    share within every few messages and none ever starves (every busy lane earns credit every time). Strict: the
    highest."""
    if len(busy) == 1:
        return busy[0]
    if group.policy.strict:
        return busy[-1]
    weights = group.policy.weights
    best: Lane | None = None
    total = 0
    for lane in busy:
        weight = weights[lane.priority]
        lane.credit += weight
        total += weight
        if best is None or lane.credit > best.credit:
            best = lane
    assert best is not None
    best.credit -= total
    return best


def take(group: Group, count: int, session: Session, ready: Ready, contended: list[int]) -> list[Pending]:
    """Up to `count` messages in serving order that fit into the session's bytes. The first that does not fit stops
    the search and keeps its place; one message always fits into a session that holds none. Those the session has just
    released stay in the lane. `contended` counts, by priority, what was chosen while another lane had something too:
    the shares that the weights promise.

    A lane whose turn it is and whose messages are on their way from the store is waited for, as `group.turn`: served
    without it, a backlog on disk would lose its share to whatever lane was read first."""
    taken: list[Pending] = []
    skipped: list[tuple[Lane, Pending]] = []
    room = session.bytes_max - session.bytes_in_flight
    empty = session.bytes_in_flight == 0
    busy = [lane for lane in group.lanes if lane.fresh or lane.returned or coming(lane, ready)]
    turn, group.turn = group.turn, None
    while busy and len(taken) < count:
        alone = len(busy) == 1
        lane = turn if turn is not None and turn in busy else choose(group, busy)
        turn = None
        if not lane.fresh and not lane.returned:
            group.turn = lane
            break
        pending = pop(lane)
        message = pending.message
        if pending.ghosts:
            pending.ghosts -= 1  # left the counts when a lower one of its key became due
        elif pending.place == ENDED:
            pass  # left the counts when its TTL ended
        elif pending.held_for is not None and session in pending.held_for:
            skipped.append((lane, pending))
        else:
            room -= message.size_bytes
            if room < 0 and not (empty and not taken):
                heappush(lane.returned, pending)
                break
            taken.append(pending)
            if not alone:
                contended[lane.priority] += 1
            if message.key is not None:
                keys.handed_out(lane, pending)
        if lane.fresh or lane.returned:
            continue
        # A lane with messages that this session has just released is not waited for: they are there, for others.
        if not coming(lane, ready) or any(passed is lane for passed, _ in skipped):
            lane.credit = 0  # an idle lane saves nothing up
            busy.remove(lane)
    for lane, pending in skipped:
        heappush(lane.returned, pending)
    group.ready -= len(taken)
    return taken


def target(group: Group, lane: Lane, ready: Ready) -> int:
    """How many messages a lane may hold or ask for."""
    if group.policy.paused:
        return 0  # what is here waits; nothing more is needed
    if not ready.tight:
        return READY_MAX
    if group.ring and not len(lane) and (lane.behind or not group.ready):
        return min(group.prefetch_sum, READY_MIN)
    return 0


def replenish(group: Group, ready: Ready, effects: Effects) -> None:
    """Ask the store for more where a lane has fallen below half of its target, for less where memory is tight."""
    for lane in group.lanes:
        held = len(lane.fresh) + len(lane.returned)
        goal = target(group, lane, ready)
        if lane.wanted + held < goal // 2 or (ready.tight and lane.wanted > goal):
            _want(group, lane, max(0, goal - held), effects)
        elif goal and not lane.wanted and not held:
            _want(group, lane, goal, effects)
    if ready.tight:
        ready.dry[group] = None


def _want(group: Group, lane: Lane, count: int, effects: Effects) -> None:
    lane.wanted = count
    effects.wants[(group.handle, lane.priority)] = count


def served(group: Group, lane: Lane, count: int, effects: Effects) -> None:
    """So many have arrived of what was asked for; also of what the store is still to be told of."""
    lane.wanted = max(0, lane.wanted - count)
    if (group.handle, lane.priority) in effects.wants:
        effects.wants[group.handle, lane.priority] = lane.wanted


def regulate(ready: Ready, demanding: dict[Any, Group], effects: Effects) -> None:
    """Crossing the high mark cuts every group's demand once; falling below the low mark restores it once."""
    if not ready.tight and ready.bytes > ready.bytes_max:
        ready.tight = True
        for group in demanding.values():
            replenish(group, ready, effects)
    elif ready.tight and ready.bytes < ready.bytes_max - ready.bytes_max // 4:
        ready.tight = False
        groups, ready.dry = ready.dry, {}
        for group in groups:
            if group.members:
                replenish(group, ready, effects)
