"""One subscription as a state machine: what it holds, hands out, gives back and loses.

Owns the local queue and the leases. Pure: no I/O; the session feeds it frames and time, the subscription of the user
takes messages out of it. The clock it is given is for what user code asks of a message between two turns.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from .errors import PushwireError, again
from .message import Message, lose, renew, take_back
from .publisher import Waiter
from .settlements import Settlements
from .wire.decode import PREFETCH_MAX
from .wire.frames import Messages, Ok, Start, Subscribe

HELD_MESSAGES_MAX = 2 * PREFETCH_MAX
"""Messages one subscription holds at most, handed out or not; what comes above is given back. The gateway keeps to the
window by itself; twice the largest leaves room for one that was just made smaller. For a gateway gone mad."""


PREFETCH_DEFAULT, ACK_TIMEOUT_MS_DEFAULT = 32, 30_000
"""What a gateway grants that is asked for nothing (PROTOCOL.md §8); replaced by what it says."""


class Phase(enum.Enum):
    """Where a subscription is in its life."""

    NEW = "new"
    OPENING = "opening"
    """The gateway has not granted it on this connection yet."""
    ACTIVE = "active"
    DRAINING = "draining"
    """No more credit; what was not handed out was given back."""
    ENDED = "ended"


class Consumer:
    """State of one subscription. Is the `Holder` of its messages."""

    def __init__(  # noqa: PLR0913 - what a subscribe may say, by name
        self,
        settlements: Settlements,
        name: str,
        topic: str,
        group: str,
        *,
        clock: Callable[[], float],
        prefetch: int | None = None,
        ack_timeout_ms: int | None = None,
        start: Start | None = None,
        client_id: str | None = None,
        inactive_ttl_ms: int | None = None,
        extend: bool = False,
        request_timeout_s: float = 30.0,
    ) -> None:
        self._settlements = settlements
        self.name = name
        self.topic = topic
        self.group = group
        self.now = clock
        self.asked = Subscribe(
            topic,
            group,
            name,
            prefetch,
            ack_timeout_ms,
            start,
            None,
            client_id=client_id,
            inactive_ttl_ms=inactive_ttl_ms,
        )
        self.extends = extend
        self.request_timeout_s = request_timeout_s
        self.phase = Phase.NEW
        self.error: PushwireError | None = None
        """Why it ended; None after a drain."""
        self.prefetch = prefetch or PREFETCH_DEFAULT
        """As granted (messages)."""
        self.ack_timeout_s = (ack_timeout_ms or ACK_TIMEOUT_MS_DEFAULT) / 1000
        """As granted."""
        self.paused = False
        self.away = False
        """The connection is gone, and its leases may still be reclaimed."""
        self.opening: Waiter | None = None
        """Who waits for the first grant."""
        self.queue: deque[Message] = deque()
        """Arrived and not handed out. At most what the window allows."""
        self.leases: dict[str, Message] = {}
        """Queued or handed out, by lease; in the order in which they expire, as one subscription has one timeout and
        an extension moves a lease to the end."""
        self.on_ready: Callable[[int], None] = lambda _count: None
        """So many messages more, or the end: called to wake whoever waits for them."""

    # --- the gateway -------------------------------------------------------------------------------------------

    def subscribe_frame(self, ref: int) -> Subscribe:
        return replace(self.asked, ref=ref, prefetch=0 if self.paused else self.asked.prefetch)

    def granted(self, ok: Ok) -> None:
        if self.phase is Phase.OPENING:
            self.phase = Phase.ACTIVE
        prefetch, ack_timeout_ms = ok.prefetch, ok.ack_timeout_ms
        if prefetch:  # 0 is what a paused one asked for
            self.prefetch = prefetch
        if ack_timeout_ms:
            self.ack_timeout_s = ack_timeout_ms / 1000

    def deliver(self, frame: Messages, now: float) -> None:
        """Deliveries of one push, leased at one moment."""
        deliveries = frame.deliveries
        leases = self.leases
        if self.phase is not Phase.ACTIVE or len(leases) + len(deliveries) > HELD_MESSAGES_MAX:
            self._settlements.release([delivery.lease for delivery in deliveries])
            return
        expires_at = now + frame.expires_in_ms / 1000
        append, before = self.queue.append, len(leases)
        for delivery in deliveries:
            if delivery.lease in leases:
                continue  # said twice, it is one delivery, which is here
            message = Message(self, delivery, expires_at)
            leases[delivery.lease] = message
            append(message)
        self.on_ready(len(leases) - before)

    def void(self) -> None:
        """The connection is gone: what was not handed out will come again; what was is lost to its handler."""
        self.away = False
        self.queue.clear()
        leases, self.leases = self.leases, {}
        for message in leases.values():
            lose(message)
        if self.phase is Phase.ACTIVE:
            self.phase = Phase.OPENING

    def hold(self) -> None:
        """The connection is gone, and all that is held may still be reclaimed: it stays as it is."""
        if self.phase is Phase.ACTIVE:
            self.away = True
            self.phase = Phase.OPENING
        elif self.phase is Phase.DRAINING:
            self.away = True

    def resumed(self, leases: Sequence[str]) -> list[str]:
        """These were reclaimed; whatever else was held is lost. Returns those that are not known here."""
        self.away = False
        if self.phase is Phase.OPENING:
            self.phase = Phase.ACTIVE
        held = set(leases)
        for lease in [lease for lease in self.leases if lease not in held]:
            self.lost(lease)
        return [lease for lease in leases if lease not in self.leases]

    def drain(self) -> None:
        """No message is handed out any more, and those not handed out go back; iteration ends."""
        if self.phase in (Phase.DRAINING, Phase.ENDED):
            return
        self.phase = Phase.DRAINING
        self._give_back(len(self.queue))
        self.on_ready(0)

    def end(self, error: PushwireError | None) -> None:
        """Over: by the user, or by the gateway with `error`."""
        if self.phase is Phase.ENDED:
            return
        self.void()
        self.phase = Phase.ENDED
        self.error = error
        self.on_ready(0)

    def lost(self, lease: str) -> None:
        """The gateway says that this lease is none any more."""
        message = self.leases.pop(lease, None)
        if message is not None:
            lose(message)
            if message in self.queue:
                self.queue.remove(message)

    # --- the user ----------------------------------------------------------------------------------------------

    def over(self) -> bool:
        """Whether iteration has ended. Raises the error that ended it, if one did."""
        if self.error is not None:
            raise again(self.error)
        return self.phase is Phase.DRAINING or self.phase is Phase.ENDED

    def handed(self) -> int:
        """Messages in the user's hands, unsettled."""
        return len(self.leases) - len(self.queue)

    # --- Holder ------------------------------------------------------------------------------------------------

    def ack(self, lease: str) -> None:
        del self.leases[lease]
        self._settlements.ack(lease)

    def ack_confirmed(self, lease: str, waiter: Waiter) -> None:
        del self.leases[lease]
        self._settlements.ack_confirmed(lease, waiter)

    def nack(self, lease: str, delay_ms: int | None, error: str | None) -> None:
        del self.leases[lease]
        self._settlements.nack(lease, delay_ms, error)

    def reject(self, lease: str, error: str | None) -> None:
        del self.leases[lease]
        self._settlements.reject(lease, error)

    def release(self, lease: str) -> None:
        del self.leases[lease]
        self._settlements.release((lease,))

    def extend(self, message: Message) -> None:
        self._settlements.extend(message, self)

    # --- time --------------------------------------------------------------------------------------------------

    def renewed(self, message: Message, now: float) -> bool:
        """An extension is being sent; False when the message is not held any more."""
        if not renew(message, now + self.ack_timeout_s):
            return False
        self.leases[message.lease] = self.leases.pop(message.lease)
        return True

    def tick(self, now: float) -> None:
        """What is due: lose what has run out, extend what is held, give back what has waited too long."""
        for message in self._expiring(now):
            self.lost(message.lease)
        if self.extends and not self.away:
            for message in self._expiring(now + self.ack_timeout_s * 2 / 3):
                self.renewed(message, now)
                self._settlements.extend(message, self)
        elif not self.extends:
            # Two thirds of its time spent in the local queue: given back, it goes to whoever is free, and nobody
            # counts a failure. Left to run out, it would count one, and ten such waits make a dead letter.
            late = now + self.ack_timeout_s / 3
            count = 0
            while count < len(self.queue) and self.queue[count].expires_at <= late:
                count += 1
            self._give_back(count)

    def due_at(self) -> float:
        """When `tick` has something to do."""
        if not self.leases:
            return float("inf")
        first = next(iter(self.leases.values())).expires_at
        if self.extends:
            if self.away:
                return first
            return first - self.ack_timeout_s * 2 / 3
        head = self.queue[0].expires_at - self.ack_timeout_s / 3 if self.queue else float("inf")
        return min(first, head)

    def _expiring(self, until: float) -> list[Message]:
        found = []
        for message in self.leases.values():
            if message.expires_at > until:
                break
            found.append(message)
        return found

    def _give_back(self, count: int) -> None:
        if not count:
            return
        given = [self.queue.popleft() for _ in range(count)]
        for message in given:
            take_back(message)
            del self.leases[message.lease]
        self._settlements.release([message.lease for message in given])
