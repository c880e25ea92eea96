"""Dead letters: look at them, put them back, throw them away.

Owns how many are put back at once and how fast, so that a great redrive does not push aside what is published
meanwhile. What a redriven message is, is the store's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pushwire_storage.base import REDRIVE_MAX, Attempt, DeadFilter, DeadLetter, Discard, Redrive, StoreError, Topic

from .admin_base import AdminBase, done, message_shown, page
from .clock import to_ms
from .refusal import Refusal, Refused
from .rights import Principal

if TYPE_CHECKING:
    from .gateway import Gateway

REDRIVE_S_MAX = 10.0
"""How long one request may take: well below what clients and proxies wait. Whoever wants more asks again."""


def always() -> bool:
    """Whoever asked cannot go away."""
    return True


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters: these, or all that match."""

    ids: Sequence[int] = ()
    match: DeadFilter = field(default_factory=DeadFilter)
    before_ms: int | None = None
    """Only what had died by then (default: by now), so that what is put back and dies again is not put back for ever.
    To go on with the same request, what its answer said."""


class DeadLetters(AdminBase):
    """The dead letters of topics."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self._redriving: set[Topic] = set()

    async def dead_letters(
        self, principal: Principal, name: str, match: DeadFilter, limit: int | None = None
    ) -> dict[str, Any]:
        """Dead letters of a topic without their bodies, oldest first, from the id after `match.after_id` on."""
        topic = self._topic(principal, name)
        most = page(limit)
        found = await self._find(topic, match, most)
        # The store gives fewer than it is asked for where they are large, so that their number says nothing.
        more = bool(found) and bool(await self._find(topic, replace(match, after_id=found[-1].id), 1))
        return {"dead_letters": [_letter_shown(letter) for letter in found], "more": more}

    async def dead_letter(self, principal: Principal, name: str, id: int) -> dict[str, Any]:
        """One dead letter, with its body and how its attempts ended. Refused: `not_found`."""
        topic = self._topic(principal, name)
        try:
            letter = await self._catalog.dead_letter(topic, id)
        except StoreError as error:
            raise Refused(Refusal(error.code, str(error))) from None
        if letter is None:
            raise Refused(Refusal("not_found"))
        return _letter_shown(letter, whole=True)

    async def redrive(
        self, principal: Principal, name: str, wanted: Wanted, there: Callable[[], bool] = always
    ) -> dict[str, Any]:
        """Put dead letters back into the groups they died in, at most so fast as the settings say, for at most
        REDRIVE_S_MAX, and for as long as who asked is `there`. With `more`, ask again with the `after_id` and
        `before_ms` of the answer.

        Refused: `conflict` while another redrive of the topic runs, `topic_full` when not one fitted.
        """
        topic = self._topic(principal, name)
        if topic in self._redriving:
            raise Refused(Refusal("conflict", "another redrive of this topic runs"))
        self._redriving.add(topic)
        try:
            return await self._redrive(topic, wanted, there)
        finally:
            self._redriving.discard(topic)

    async def discard(
        self, principal: Principal, name: str, wanted: Wanted, there: Callable[[], bool] = always
    ) -> dict[str, Any]:
        """Remove dead letters for good, a batch at a time, for at most REDRIVE_S_MAX; `there` and `more` as above."""
        topic = self._topic(principal, name)
        counted = _Counted(wanted, self._now_ms())
        end = self._now() + REDRIVE_S_MAX
        while (ids := await self._next(topic, counted, REDRIVE_MAX)) and self._now() < end and there():
            change = Discard(topic, ids)
            await done(partial(self._gateway.topics.discard, change))
            counted.advance(ids, change.removed)
        return {"discarded": counted.count, **counted.rest(more=bool(ids))}

    async def _redrive(self, topic: Topic, wanted: Wanted, there: Callable[[], bool]) -> dict[str, Any]:
        counted = _Counted(wanted, self._now_ms())
        per_s = self._gateway.settings.redrive_per_s
        batch = min(REDRIVE_MAX, per_s)
        next_at = self._now()
        end = next_at + REDRIVE_S_MAX
        while ids := await self._next(topic, counted, batch):
            if max(next_at, self._now()) >= end or not there():
                break
            if next_at > self._now():
                await self._pause(next_at - self._now())
            change = Redrive(topic, ids)
            await done(partial(self._gateway.topics.redrive, change))
            if change.refused is not None:
                refusal = Refusal(change.refused.code, change.refused.detail)
                if not counted.count:
                    raise Refused(refusal)
                return {"redriven": counted.count, **counted.rest(more=True), "stopped": refusal.code}
            # Fewer seqs than ids: the rest was too much for one transaction. A seq of 0: it cannot be put back.
            ids = ids[: len(change.seqs)]
            if not ids:
                break  # the topic is gone, and its dead letters with it
            put_back = sum(map(bool, change.seqs))
            # By what is put back, not by what was named: a request that goes on names what is done already, too.
            next_at = max(next_at, self._now()) + put_back / per_s
            counted.advance(ids, put_back)
        return {"redriven": counted.count, **counted.rest(more=bool(ids))}

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _next(self, topic: Topic, counted: _Counted, most: int) -> list[int]:
        """The next batch of ids."""
        if counted.ids is not None:
            return list(counted.ids[:most])
        found = await self._find(topic, counted.match, most)
        return [letter.id for letter in found if letter.at_ms <= counted.before_ms]

    async def _find(self, topic: Topic, match: DeadFilter, limit: int) -> Sequence[DeadLetter]:
        try:
            return await self._catalog.dead_letters(topic, match, limit)
        except StoreError as error:
            raise Refused(Refusal(error.code, str(error))) from None

    def _now(self) -> float:
        return self._gateway.clock.now()

    def _now_ms(self) -> int:
        return to_ms(self._now())


class _Counted:
    """How far a request over many has come."""

    def __init__(self, wanted: Wanted, now_ms: int) -> None:
        if len(wanted.ids) > REDRIVE_MAX:
            raise Refused(Refusal("batch_too_large", f"at most {REDRIVE_MAX} ids"))
        self.ids = list(wanted.ids) if wanted.ids else None
        self.match = wanted.match
        self.before_ms = now_ms if wanted.before_ms is None else wanted.before_ms
        self.count = 0

    def advance(self, ids: Sequence[int], count: int) -> None:
        self.count += count
        if self.ids is not None:
            self.ids = self.ids[len(ids) :]
        else:
            self.match = replace(self.match, after_id=ids[-1])

    def rest(self, *, more: bool) -> dict[str, Any]:
        return {"more": more, "after_id": self.match.after_id, "before_ms": self.before_ms}


def _letter_shown(letter: DeadLetter, *, whole: bool = False) -> dict[str, Any]:
    shown = {
        "id": letter.id,
        "topic": letter.topic,
        "group": letter.group,
        "reason": letter.reason,
        "error": letter.error,
        "deliveries": letter.deliveries,
        "failures": letter.failures,
        "at_ms": letter.at_ms,
        "message": message_shown(letter.message, body=whole),
    }
    if whole:
        shown["attempts"] = [_attempt_shown(attempt) for attempt in letter.attempts]
    return shown


def _attempt_shown(attempt: Attempt) -> dict[str, Any]:
    return {"at_ms": attempt.at_ms, "how": attempt.how, "subject": attempt.subject, "error": attempt.error}
