"""A simulated tail client: keeps `epoch` and `seq`, comes back with them, and writes down all it is shown.

Owns where one client stands in one topic. Judges nothing.
"""

from __future__ import annotations

from typing import Any

from pushwire.wire.frames import Error, Gap, Ok, SubscribeTail, Tailed, Unsubscribe

from .node import Node
from .peer import Answer, Peer
from .producer import sha
from .world import World


class Follower(Peer):
    """Follows one topic from `start`, through every connection it has."""

    def __init__(self, world: World, node: Node, tenant: str, name: str, topic: str, start: str | int) -> None:
        super().__init__(world, node, tenant, name)
        self.topics = (topic,)
        self.shown = 0
        self.seq = -1
        self.epoch: str | None = None
        self.gaps: list[tuple[int, int]] = []
        self.resumed = 0
        self._topic = topic
        self._start = start
        self._state = "away"  # away, asking, following

    @property
    def following(self) -> bool:
        return self._state == "following"

    def on_welcome(self) -> None:
        self._ask()

    def on_tick(self) -> None:
        if self._state == "away":
            self._ask()
        elif not self.calm and self._state == "following" and self.world.chance(0.02):
            self._state = "asking"
            self.request(Unsubscribe("t"), self._left_tail)

    def on_lost(self) -> None:
        self._state = "away"

    def _left_tail(self, answer: Answer) -> None:
        self._state = "away" if isinstance(answer, Ok) or answer is None else "following"

    def _ask(self) -> None:
        self._state = "asking"
        resumed = self.epoch is not None
        frame: Any = SubscribeTail(self._topic, "t", self._start)
        if resumed:
            frame = SubscribeTail(self._topic, "t", epoch=self.epoch, after_seq=self.seq)

        def then(answer: Answer) -> None:
            if not isinstance(answer, Ok):
                self._state = "away"
                return
            assert answer.seq is not None, "a tail is told where it stands"
            self._state, self.epoch, self.seq = "following", answer.epoch, answer.seq
            self.resumed += resumed
            self._record("ok", seq=answer.seq, resumed=resumed)

        self.request(frame, then)

    def on_error(self, cid: str, frame: Error) -> None:
        if frame.sub == "t":
            self._state = "away"

    def on_tailed(self, frame: Tailed) -> None:
        for draft in frame.batch.messages:
            self._record("shown", seq=draft.seq, mid=draft.id, sha=sha(draft), key=draft.key, redriven=draft.redriven)
            self.seq = draft.seq
            self.shown += 1

    def on_gap(self, frame: Gap) -> None:
        self._record("gap", **{"from": frame.from_seq, "to": frame.to_seq})
        self.gaps.append((frame.from_seq, frame.to_seq))
        self.seq = frame.to_seq

    def _record(self, step: str, **fields: Any) -> None:
        self.world.record(f"tail_{step}", tid=self.name, q=self.q(self._topic), **fields)
