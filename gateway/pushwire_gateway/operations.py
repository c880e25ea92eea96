"""What a client may ask for once it is known: publish, subscribe, settle.

Owns the order of checks of each operation (known, rate, rights, limits, then the engine) and its reply. Who the client
is and how its connection lives and dies is session.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

from pushwire.wire.codes import ERRORS
from pushwire.wire.frames import (
    STATS_TOPIC,
    Ack,
    Extend,
    Flow,
    Malformed,
    Nack,
    Ok,
    Ping,
    Pong,
    Publish,
    Ref,
    Reject,
    Release,
    Subscribe,
    SubscribeTail,
    Unsubscribe,
)
from pushwire_storage.base import Group, StoreError, Topic

from .clock import to_ms
from .refusal import Refusal
from .rights import Principal
from .speaker import BEHIND, BUSY, UNCONFIRMED, Speaker

UNCONFIRMED_MAX = 4096
"""Settlements of one client that wait for their commit before its socket is not read: as many as the largest
transaction has messages. A disk that is full makes them wait for as long as it is."""


class Operations(Speaker):
    """The operations of one WebSocket client."""

    __slots__ = ()

    # --- publish -----------------------------------------------------------------------------------------------

    def on_publish(self, frame: Publish, now: float) -> None:
        principal = self._known(frame.ref)
        if principal is None:
            return
        ref = frame.ref

        def done(refusal: Refusal | None) -> None:
            if self.ended:
                return
            if refusal is None:
                self.outbox.send(Ok(ref, frame.messages))
            else:
                self.refused += 1
                self._refuse(refusal, ref)
            self._gateway.engine.touch(self)

        refusal = self._gateway.publish(principal, frame.topic, frame.messages, frame.size_bytes, done)
        if refusal is not None:
            self.refused += 1
            self._refuse(refusal, ref)
            if refusal.code == "forbidden":
                self._fault(now)
            elif refusal.code == "busy":
                self._rest(BUSY)

    # --- subscribe ---------------------------------------------------------------------------------------------

    def on_subscribe(self, frame: Subscribe, now: float) -> None:
        principal = self._known(frame.ref)
        if principal is None or not self._controls_allowed(frame.ref):
            return
        name = self._new_name(frame.sub, frame.ref)
        if name is None:
            return
        if not principal.may("consume", frame.topic, frame.group):
            self._error("forbidden", frame.ref)
            self._fault(now)
            return
        self._coming[name] = []

        def ready(group: Group | None, refusal: Refusal | None) -> None:
            meanwhile = self._coming.pop(name)
            if self.ended:
                return
            if group is None:
                self._refuse(refusal or Refusal("internal"), frame.ref)
            else:
                self._join(group, name, frame)
            self._catch_up(meanwhile)

        self._gateway.find_group(principal, frame, ready)

    def _join(self, group: Group, name: str, frame: Subscribe) -> None:
        settings = self._gateway.settings
        principal = self._known(frame.ref)
        if principal is None or self._held is None:
            return
        if not principal.may("consume", frame.topic, frame.group):  # refreshed to less meanwhile
            self._error("forbidden", frame.ref)
            return
        prefetch_max = min(settings.prefetch_max, principal.limits.prefetch or settings.prefetch_max)
        prefetch = min(settings.prefetch if frame.prefetch is None else frame.prefetch, prefetch_max)
        usual_ms = group.topic.config.ack_timeout_ms or to_ms(settings.ack_timeout_s)
        ack_timeout_s = (frame.ack_timeout_ms or usual_ms) / 1000
        ack_timeout_s = min(ack_timeout_s, settings.ack_timeout_s_max)
        self.outbox.send(Ok(frame.ref, sub=name, prefetch=prefetch, ack_timeout_ms=to_ms(ack_timeout_s)))
        self._gateway.registry.join(self._held, name, group, prefetch, ack_timeout_s)

    def on_subscribe_tail(self, frame: SubscribeTail, now: float) -> None:
        principal = self._known(frame.ref)
        if principal is None or not self._controls_allowed(frame.ref):
            return
        name = self._new_name(frame.sub, frame.ref)
        if name is None:
            return
        stats = frame.topic == STATS_TOPIC
        if not (principal.may("admin", None) if stats else principal.may("replay", frame.topic)):
            self._error("forbidden", frame.ref)
            self._fault(now)
            return
        epoch = self._gateway.engine.store.epoch
        if stats:
            self.outbox.send(Ok(frame.ref, sub=name, epoch=epoch, seq=self._gateway.stats.seq))
            self._following.follow_stats(name, principal.tenant)
        elif frame.epoch not in (None, epoch):
            self._error("epoch_changed", frame.ref, detail=epoch)
        else:
            self._find_tail(principal, name, frame)

    def _find_tail(self, principal: Principal, name: str, frame: SubscribeTail) -> None:
        self._coming[name] = []

        def ready(topic: Topic | None, seq: int, refusal: Refusal | None) -> None:
            meanwhile = self._coming.pop(name)
            if self.ended:
                return
            if topic is None:
                self._refuse(refusal or Refusal("internal"), frame.ref)
            else:
                self._follow(topic, seq, name, frame.ref)
            self._catch_up(meanwhile)

        self._gateway.find_tail(principal, frame, ready)

    def _follow(self, topic: Topic, seq: int, name: str, ref: Ref | None) -> None:
        principal = self._known(ref)
        if principal is None:
            return
        if not principal.may("replay", topic.name):  # refreshed to less meanwhile
            self._error("forbidden", ref)
            return
        self.outbox.send(Ok(ref, sub=name, epoch=self._gateway.engine.store.epoch, seq=seq))
        self._following.follow(name, topic, seq)

    def _catch_up(self, meanwhile: Sequence[Unsubscribe | Flow]) -> None:
        """The subscription is there, or was refused: do what was asked of it since."""
        for later in meanwhile:
            self._change(later, self._gateway.clock.now())
        self._gateway.engine.touch(self)

    def on_unsubscribe(self, frame: Unsubscribe, now: float) -> None:
        self._on_change(frame, now)

    def on_flow(self, frame: Flow, now: float) -> None:
        self._on_change(frame, now)

    def _on_change(self, frame: Unsubscribe | Flow, now: float) -> None:
        if self._known(frame.ref) is None or not self._controls_allowed(frame.ref):
            return
        coming = self._coming.get(frame.sub)
        if coming is None:
            self._change(frame, now)
        else:  # asked in the right order, so it is also done in that
            coming.append(frame)

    def _change(self, frame: Unsubscribe | Flow, now: float) -> None:
        principal = self._known(frame.ref)
        sub = None if self._held is None else self._held.core.subs.get(frame.sub)
        if principal is None or self._held is None:
            return
        prefetch = None
        if type(frame) is Unsubscribe and frame.sub in self._following:
            self._following.stop(frame.sub)
        elif sub is None:
            self._error("unknown_subscription", frame.ref)
            return
        elif type(frame) is Flow:
            prefetch_max = self._gateway.settings.prefetch_max
            prefetch = min(frame.prefetch, prefetch_max, principal.limits.prefetch or prefetch_max)
            self._gateway.engine.core.flow(sub, prefetch, now)
        else:
            self._gateway.registry.part(self._held, [sub])
        if frame.ref is not None:
            self.outbox.send(Ok(frame.ref, prefetch=prefetch))

    # --- settle ------------------------------------------------------------------------------------------------

    def on_settle(self, frame: Ack | Nack | Reject | Release, now: float) -> None:
        stale, _ = self._gateway.settle(self._held, frame, now)
        self._confirm(frame.ref, stale)

    def on_extend(self, frame: Extend, now: float) -> None:
        stale, deadline = self._gateway.settle(self._held, frame, now)
        if stale:
            self._error("stale_lease", frame.ref, leases=stale)
        elif frame.ref is not None:
            self.outbox.send(Ok(frame.ref, expires_in_ms=max(0, to_ms(deadline - now))))

    def _confirm(self, ref: Ref | None, stale: Sequence[str]) -> None:
        """Without ref: only what had no effect is reported, at once. With ref: one reply, after the COMMIT."""
        if self._gateway.engine.batcher.behind:
            self._rest(BEHIND)
        if ref is None:
            if stale:
                self._error("stale_lease", None, leases=stale)
            return

        self._unconfirmed += 1
        if self._unconfirmed > UNCONFIRMED_MAX:
            self._pause(UNCONFIRMED)

        def committed(error: StoreError | None) -> None:
            if self.ended:
                return
            self._unconfirmed -= 1
            if self._unconfirmed <= UNCONFIRMED_MAX // 2:
                self._resume(UNCONFIRMED)
            if error is not None:
                self._error(error.code, ref)
            elif stale:
                self._error("stale_lease", ref, leases=stale)
            else:
                self.outbox.send(Ok(ref))
            self._gateway.engine.touch(self)

        self._gateway.engine.after_commit(committed)

    # --- the rest ----------------------------------------------------------------------------------------------

    def on_ping(self, frame: Ping, now: float) -> None:
        self.outbox.send(Pong(frame.ref))

    def on_pong(self, frame: Pong, now: float) -> None:
        """Anything heard is a sign of life; `receive` has noted it."""

    def on_malformed(self, frame: Malformed, now: float) -> None:
        assert frame.code in ERRORS
        self._error(frame.code, frame.ref, detail=frame.message)
        self._fault(now)

    def flush(self) -> None:
        self.outbox.flush()
