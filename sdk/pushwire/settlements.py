"""Settlements on their way: gathered over one turn of the event loop, sent as lists, confirmed where asked.

Owns every lease between a verb and its frame, and the confirmations under way. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

from .errors import LeaseLost, PushwireError, SettleError, again, from_reply
from .message import Message
from .publisher import Waiter
from .wire.frames import LEASES_PER_OP_MAX, Ack, Error, Extend, Nack, Ok, Reject, Release

Confirm = dict[str, Waiter]
"""Who waits for which lease's settlement."""
SENT_LEASES_MAX = 4096
"""Settlements remembered after they were sent, for a session that may be resumed: what a fast consumer says in about a
tenth of a second, which is longer than it takes to reach the gateway. One that is forgotten means one delivery more."""
Verb = Callable[[str], None]


class Owner(Protocol):
    """The subscription that holds a message."""

    def renewed(self, message: Message, now: float) -> bool: ...
    def lost(self, lease: str) -> None: ...


class Settlements:
    """All settlements of one client. A lease is in one list at most, for a verb ends it."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._dirty = False
        self._acks: list[str] = []
        self._confirmed: Confirm = {}
        self._nacks: dict[tuple[int | None, str | None], list[str]] = {}
        self._rejects: dict[str | None, list[str]] = {}
        self._releases: list[str] = []
        self._extends: dict[str, tuple[Message, Owner]] = {}
        self._awaited: dict[int, Confirm] = {}
        self._extending: dict[int, dict[str, Owner]] = {}
        self._unsure: Confirm = {}  # sent, and the connection was lost before the answer
        self._sent: dict[str, Verb] = {}  # how to say it again
        self.remembers = False
        """Whether what was sent may have to be said again: the session may be resumed."""
        self.confirming = 0
        """Drains under way: while there are any, every settlement is confirmed."""

    # --- verbs -------------------------------------------------------------------------------------------------

    def _touch(self) -> None:
        if not self._dirty:
            self._dirty = True
            self._wake()

    def ack(self, lease: str) -> None:
        self._acks.append(lease)
        if not self._dirty:  # inlined: once a message
            self._dirty = True
            self._wake()

    def ack_confirmed(self, lease: str, waiter: Waiter) -> None:
        self._confirmed[lease] = waiter
        self._touch()

    def nack(self, lease: str, delay_ms: int | None, error: str | None) -> None:
        self._nacks.setdefault((delay_ms, error), []).append(lease)
        self._touch()

    def reject(self, lease: str, error: str | None) -> None:
        self._rejects.setdefault(error, []).append(lease)
        self._touch()

    def release(self, leases: Sequence[str]) -> None:
        self._releases.extend(leases)
        self._touch()

    def extend(self, message: Message, owner: Owner) -> None:
        self._extends[message.lease] = (message, owner)
        self._touch()

    # --- out ---------------------------------------------------------------------------------------------------

    def frames(self, next_ref: Callable[[], int], now: float) -> list[Any]:
        """Everything gathered, as frames."""
        if not self._dirty:
            return []
        self._dirty = False
        frames: list[Any] = []
        # First, so that a lease extended and then settled in the same turn is still there to be extended.
        extends = [item for item in self._extends.values() if item[1].renewed(item[0], now)]
        for items in _parts(extends):
            ref = next_ref()
            self._extending[ref] = {message.lease: owner for message, owner in items}
            frames.append(Extend(list(self._extending[ref]), ref))
        frames += (Ack(part, None, self._maybe_ref(next_ref)) for part in _parts(self._acks))
        for leases in _parts(list(self._confirmed)):
            ref = next_ref()
            self._awaited[ref] = {lease: self._confirmed[lease] for lease in leases}
            frames.append(Ack(leases, None, ref))
        for (delay_ms, error), given in self._nacks.items():
            frames += (Nack(part, delay_ms, error, self._maybe_ref(next_ref)) for part in _parts(given))
        for error, given in self._rejects.items():
            frames += (Reject(part, error, self._maybe_ref(next_ref)) for part in _parts(given))
        frames += (Release(part, self._maybe_ref(next_ref)) for part in _parts(self._releases))
        if self.remembers:
            self._remember()
        self._clear()
        return frames

    def _maybe_ref(self, next_ref: Callable[[], int]) -> int | None:
        if not self.confirming:
            return None
        ref = next_ref()
        self._awaited[ref] = {}
        return ref

    def _remember(self) -> None:
        sent = self._sent
        sent.update(dict.fromkeys(self._acks, self.ack))
        for (delay_ms, error), leases in self._nacks.items():
            sent.update(dict.fromkeys(leases, partial(self.nack, delay_ms=delay_ms, error=error)))
        for error, leases in self._rejects.items():
            sent.update(dict.fromkeys(leases, partial(self.reject, error=error)))
        for lease in list(sent)[: max(0, len(sent) - SENT_LEASES_MAX)]:
            del sent[lease]

    def _clear(self) -> None:
        self._acks, self._releases = [], []
        self._confirmed, self._nacks, self._rejects, self._extends = {}, {}, {}, {}
        self._dirty = False

    # --- in ----------------------------------------------------------------------------------------------------

    def reply(self, ref: int, frame: Ok | Error) -> bool:
        """The gateway's answer. False when `ref` is none of ours."""
        extended = self._extending.pop(ref, None)
        if extended is not None:
            if isinstance(frame, Error) and frame.code == LeaseLost.code:
                for lease in extended if frame.leases is None else extended.keys() & set(frame.leases):
                    extended[lease].lost(lease)
            return True
        waiters = self._awaited.pop(ref, None)
        if waiters is None:
            return False
        if isinstance(frame, Ok):
            _resolve(waiters, None)
        else:
            # Without a list all of them had no effect; with one, only those listed.
            stale = waiters.keys() if frame.leases is None else waiters.keys() & set(frame.leases)
            _resolve({lease: waiter for lease, waiter in waiters.items() if lease not in stale}, None)
            _resolve({lease: waiters[lease] for lease in stale}, from_reply(frame, SettleError))
        return True

    def quiet(self) -> bool:
        """Nothing gathered, nothing unconfirmed that was to be confirmed."""
        return not self._dirty and not self._awaited and not self._unsure

    def hold(self) -> None:
        """The connection is gone, and the session may be resumed: what was gathered waits for that."""
        for waiters in self._awaited.values():
            self._unsure.update(waiters)
        self._awaited, self._extending = {}, {}

    def resumed(self, unknown: Iterable[str]) -> None:
        """The session was taken over, and still holds these leases, which no message holds here: what was said of them
        did not arrive and is said again; those that never arrived here are given back."""
        gathered = self._gathered()
        for lease in unknown:
            if lease in gathered:
                continue
            if lease in self._unsure:
                self._confirmed[lease] = self._unsure.pop(lease)
                self._touch()
            elif lease in self._sent:
                self._sent[lease](lease)
            else:
                self.release((lease,))
        # Gone at the gateway: most likely by our ack, but a lease that ran out looks the same.
        unsure, self._unsure = self._unsure, {}
        _resolve(unsure, LeaseLost("the connection was lost before the ack was confirmed: it may or may not count"))
        self._sent = {}
        if self._dirty:
            self._wake()

    def _gathered(self) -> set[str]:
        nacks, rejects = self._nacks.values(), self._rejects.values()
        return {*self._acks, *self._releases, *self._confirmed, *chain(*nacks), *chain(*rejects)}

    def void(self) -> int:
        """The connection is gone, and every lease with it. How many settlements were not even sent."""
        error = LeaseLost("the connection was lost before the ack was confirmed: the message may be delivered again")
        unsent = len(self._gathered()) - len(self._confirmed)
        for waiters in (self._confirmed, self._unsure, *self._awaited.values()):
            _resolve(waiters, error)
        self._awaited, self._extending, self._unsure, self._sent = {}, {}, {}, {}
        self._clear()
        return unsent


def _resolve(waiters: Confirm, error: PushwireError | None) -> None:
    for waiter in waiters.values():
        if not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(again(error))


def _parts(items: list[Any]) -> Iterator[list[Any]]:
    """Cut to what one operation may hold."""
    for start in range(0, len(items), LEASES_PER_OP_MAX):
        yield items[start : start + LEASES_PER_OP_MAX]
