"""Publishes on their way: gathered, sent, retried with the same ids, resolved.

Owns every message between the caller's `await` and its receipt: which share an operation, which wait, which time out,
and the window that bounds how many are unconfirmed. Pure: no I/O, no clock; `now` and randomness are handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from .backoff import Backoff, believed_s
from .errors import NotConnected, ProtocolError, PublishError, PushwireError, RequestTimeout, again, from_reply, refused
from .wire.frames import MESSAGES_PER_OP_MAX, Draft, Error, Ok, Publish

WINDOW_MESSAGES_MAX = 4096
"""Unconfirmed messages of one client. What a loop of `publish` on a fast link has under way in a commit's time, times
ten; a caller beyond it waits."""
WINDOW_BYTES_MAX = 8 * 1024 * 1024
"""Their bytes: eight full frames, so that large messages do not pile up in memory while the link is slow."""
RETRY = Backoff(0.1, 5.0)
"""After a retryable refusal without a hint. Shorter than a reconnect's: the gateway is there, and answers."""

_FOR_ALL = frozenset(
    {"unauthorized", "forbidden", "bad_topic", "topic_not_found", "too_many_topics", "unknown_op", "unsupported"}
)
"""Refusals of the topic or the client: true of every message of the operation, so asking again for each would only
count as more faults of ours."""
_BY_AMOUNT = frozenset({"batch_too_large", "topic_full", "insufficient_storage"})
"""Refusals of the amount: half of it may pass, and what is left of a quota is used."""
_BY_RATE = frozenset({"rate_limited", "rate_limited_bytes"})
"""Refusals of the moment: the whole will pass after the hint. Where it does not, half of it may."""
SPLIT_AFTER = 3
"""Refusals of the moment after which the amount is to blame."""


class Waiter(Protocol):
    """Who waits for an outcome; an asyncio future is one."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, error: BaseException, /) -> None: ...


class Outgoing:
    """One message between its caller and its receipt."""

    __slots__ = ("deadline", "draft", "error", "finished", "sent", "size_bytes", "topic", "waiter")

    def __init__(self, topic: str, draft: Draft, size_bytes: int, deadline: float, waiter: Waiter) -> None:
        self.topic = topic
        self.draft = draft
        self.size_bytes = size_bytes
        self.deadline = deadline
        self.waiter = waiter
        self.sent = False
        self.finished = False
        self.error: PushwireError | None = None  # the last refusal: says more than a timeout


class Batch:
    """Messages of one topic that travel in one operation."""

    __slots__ = ("attempt", "entries", "not_before")

    def __init__(self, entries: list[Outgoing], not_before: float = 0.0, attempt: int = 0) -> None:
        self.entries = entries
        self.not_before = not_before
        self.attempt = attempt


class Publisher:
    """All publishes of one client."""

    def __init__(
        self,
        random: Callable[[], float],
        on_room: Callable[[], None],
        window_messages_max: int = WINDOW_MESSAGES_MAX,
        window_bytes_max: int = WINDOW_BYTES_MAX,
    ) -> None:
        self._random = random
        self._on_room = on_room
        self._window_messages_max = window_messages_max
        self._window_bytes_max = window_bytes_max
        self.messages = 0
        """Unconfirmed, sent or not."""
        self.size_bytes = 0
        self.last_failure: PushwireError | None = None
        """Why there is no connection; the cause of a NotConnected."""
        self._op_messages_max = MESSAGES_PER_OP_MAX  # less, once the gateway has said so
        self._fresh: list[Outgoing] = []  # since the last flush
        self._ready: deque[Batch] = deque()
        self._delayed: list[Batch] = []
        self._inflight: dict[int, Batch] = {}

    def room(self) -> bool:
        """Whether one more message may come in now. The last to come in may overshoot the bytes by its own size."""
        return self.messages < self._window_messages_max and self.size_bytes < self._window_bytes_max

    def add(self, entry: Outgoing) -> None:
        self.messages += 1
        self.size_bytes += entry.size_bytes
        self._fresh.append(entry)

    # --- out ---------------------------------------------------------------------------------------------------

    def frames(self, now: float, next_ref: Callable[[], int], frame_max: int, message_max: int) -> list[Publish]:
        """What may be sent now. `frame_max`: bytes of an operation; `message_max`: bytes of one message's data."""
        if self._delayed:
            due = [batch for batch in self._delayed if batch.not_before <= now]
            self._delayed = [batch for batch in self._delayed if batch.not_before > now]
            self._ready.extend(due)
        if self._fresh:
            self._gather(frame_max)
        frames = []
        while self._ready:
            batch = self._ready.popleft()
            batch.entries = self._sendable(batch.entries, frame_max, message_max)
            if batch.entries:
                ref = next_ref()
                self._inflight[ref] = batch
                frames.append(Publish(batch.entries[0].topic, [entry.draft for entry in batch.entries], ref))
        return frames

    def _gather(self, frame_max: int) -> None:
        """Fresh messages of one topic share operations, in the order of their calls."""
        fresh, self._fresh = self._fresh, []
        topics: dict[str, list[Outgoing]] = {}
        for entry in fresh:
            topics.setdefault(entry.topic, []).append(entry)
        for entries in topics.values():
            self._ready.extend(Batch(part) for part in _chunks(entries, self._op_messages_max, frame_max))

    def _sendable(self, entries: list[Outgoing], frame_max: int, message_max: int) -> list[Outgoing]:
        """Without those whose caller has gone, and those too large: sent, one would end the whole connection."""
        kept = []
        for entry in entries:
            if entry.waiter.done():
                self._finish(entry)
            elif entry.size_bytes > frame_max or len(entry.draft.data) > message_max:
                detail = f"{len(entry.draft.data)} bytes, at most {message_max}"
                self._finish(entry, refused("message_too_large", detail))
            else:
                entry.sent = True
                kept.append(entry)
        return kept

    # --- in ----------------------------------------------------------------------------------------------------

    def reply(self, ref: int, frame: Ok | Error, now: float) -> bool:
        """The gateway's answer. False when `ref` is none of ours."""
        batch = self._inflight.pop(ref, None)
        if batch is None:
            return False
        if isinstance(frame, Error):
            self._refused(batch, frame, now)
        elif frame.receipts is None or len(frame.receipts) != len(batch.entries):
            for entry in batch.entries:
                self._finish(entry, ProtocolError("the gateway's receipts do not fit what was published"))
        else:
            for entry, receipt in zip(batch.entries, frame.receipts, strict=True):
                self._finish(entry, None, receipt)
        return True

    def hold_back(self, ref: int) -> bool:
        """Not answered for good: once the client is authorised again, send it again."""
        batch = self._inflight.pop(ref, None)
        if batch is not None:
            self._ready.append(batch)
        return batch is not None

    def link_lost(self) -> None:
        """What was sent and not answered may or may not be stored: it is sent again, before what is new, with the same
        ids. (What was refused and is ready again is older still.)"""
        self._ready.extend(self._inflight.values())
        self._inflight = {}
        self._op_messages_max = MESSAGES_PER_OP_MAX

    def _refused(self, batch: Batch, frame: Error, now: float) -> None:
        """A shared operation was refused as a whole; see that each message gets the outcome it deserves."""
        live = []
        for entry in batch.entries:
            if entry.waiter.done():
                self._finish(entry)
            else:
                live.append(entry)
        if not live:
            return
        error = from_reply(frame, PublishError)
        if not frame.retryable and (len(live) == 1 or frame.code in _FOR_ALL):
            for entry in live:
                self._finish(entry, again(error))
        elif not frame.retryable and frame.code not in _BY_AMOUNT:
            # One of them is guilty. Alone, each gets its own answer: with fewer refusals than any search would cost.
            self._ready.extend(Batch([entry]) for entry in live)
        else:
            self._retry(batch, live, error, now)

    def _retry(self, batch: Batch, live: list[Outgoing], error: PushwireError, now: float) -> None:
        wait_s = believed_s(error.retry_after_s)
        if wait_s is None:
            wait_s = RETRY.delay_s(batch.attempt, self._random) if error.retryable else 0.0
        kept = []
        for entry in live:
            entry.error = error
            if now + wait_s >= entry.deadline:
                self._finish(entry, again(error))
            else:
                kept.append(entry)
        half = len(kept)
        if error.code in _BY_AMOUNT or (error.code in _BY_RATE and batch.attempt >= SPLIT_AFTER):
            half = (len(kept) + 1) // 2
        if error.code == "batch_too_large":
            self._op_messages_max = max(1, min(self._op_messages_max, half))
        for part in (kept[:half], kept[half:]):
            if part:
                self._delayed.append(Batch(part, now + wait_s, batch.attempt + 1))

    # --- ends --------------------------------------------------------------------------------------------------

    def _finish(self, entry: Outgoing, error: PushwireError | None = None, receipt: Any = None) -> None:
        """Out of the window, and its caller is told. An entry that timed out may still be answered later."""
        if entry.finished:
            return
        entry.finished = True
        self.messages -= 1
        self.size_bytes -= entry.size_bytes
        if not entry.waiter.done():
            if error is None:
                entry.waiter.set_result(receipt)
            else:
                entry.waiter.set_exception(error)
        self._on_room()

    def _entries(self) -> Iterable[Outgoing]:
        yield from self._fresh
        for batches in (self._ready, self._delayed, self._inflight.values()):
            for batch in batches:
                yield from batch.entries

    def expire(self, now: float, *, connected: bool) -> float:
        """Fail what has run out of time; when to look again. Looks at the whole window, but only when the oldest
        deadline known has passed: cheaper than a timer for each message, which would almost always be cancelled."""
        soonest = float("inf")
        for entry in self._entries():
            if entry.finished:
                continue
            if entry.waiter.done() and not entry.sent:
                self._finish(entry)
            elif entry.deadline <= now:
                self._finish(entry, self._timed_out(entry, connected=connected))
            else:
                soonest = min(soonest, entry.deadline)
        # Of a gateway that never answers, nothing must be left to pile up.
        self._inflight = {
            ref: batch for ref, batch in self._inflight.items() if not all(entry.finished for entry in batch.entries)
        }
        return soonest

    def due_at(self) -> float:
        """When the next delayed batch may be sent."""
        return min((batch.not_before for batch in self._delayed), default=float("inf"))

    def _timed_out(self, entry: Outgoing, *, connected: bool) -> PushwireError:
        if entry.error is not None:
            return again(entry.error)
        if entry.sent or connected:
            return RequestTimeout("no receipt in time: it may or may not be stored; repeat it with the same id")
        error = NotConnected("no connection in time; the message was not sent")
        error.__cause__ = self.last_failure
        return error

    def fail(self, error: PushwireError) -> None:
        """The client is closed for good."""
        entries = list(self._entries())
        self._fresh, self._delayed = [], []
        self._ready.clear()
        self._inflight.clear()
        for entry in entries:
            self._finish(entry, again(error))


def _chunks(entries: list[Outgoing], messages_max: int, frame_max: int) -> Iterable[list[Outgoing]]:
    """Cut to what one operation may hold. A message that is too large alone is left to be refused alone."""
    part: list[Outgoing] = []
    size_bytes = 0
    for entry in entries:
        if part and (len(part) == messages_max or size_bytes + entry.size_bytes > frame_max):
            yield part
            part, size_bytes = [], 0
        part.append(entry)
        size_bytes += entry.size_bytes
    yield part
