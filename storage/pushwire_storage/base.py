"""The contract between the gateway and whatever keeps its messages: `Store`, its records, its errors.

Owns words, not mechanics: every obligation a store takes on is stated here, and `tests/conformance` holds each
store to it. It must not import a driver, the gateway or the wire format.

Time: every `*_ms` stamp is milliseconds of the gateway's own anchored clock (wall clock read once at start, then
advanced by the monotonic clock), so a step of the machine's clock changes nothing until restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .batches import (
    DUE_MAX,
    REDRIVE_MAX,
    Append,
    Batch,
    Change,
    ConfigureGroup,
    ConfigureTopic,
    Counted,
    CreateGroup,
    CreateTopic,
    Dead,
    DeleteGroup,
    DeleteTopic,
    Discard,
    Done,
    PurgeTopic,
    Redrive,
    Refused,
    Retry,
    SeekGroup,
    Settlement,
)
from .errors import (
    StoreBroken,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreRefused,
)
from .records import (
    ATTEMPTS_KEPT,
    BINARY,
    JSON,
    PRIORITIES,
    READ_BYTES_MAX,
    TEXT,
    Attempt,
    Capabilities,
    Counts,
    DeadFilter,
    DeadLetter,
    Event,
    Group,
    Message,
    Page,
    Revocation,
    StoreStats,
    Topic,
    TopicConfig,
)

__all__ = [
    "ATTEMPTS_KEPT",
    "BINARY",
    "DUE_MAX",
    "JSON",
    "PRIORITIES",
    "READ_BYTES_MAX",
    "REDRIVE_MAX",
    "TEXT",
    "Append",
    "Attempt",
    "Batch",
    "Capabilities",
    "Catalog",
    "Change",
    "ConfigureGroup",
    "ConfigureTopic",
    "Consumer",
    "Counted",
    "Counts",
    "CreateGroup",
    "CreateTopic",
    "Dead",
    "DeadFilter",
    "DeadLetter",
    "DeleteGroup",
    "DeleteTopic",
    "Discard",
    "Done",
    "Event",
    "Group",
    "Message",
    "Page",
    "PurgeTopic",
    "Redrive",
    "Refused",
    "Retry",
    "Revocation",
    "SeekGroup",
    "Settlement",
    "Store",
    "StoreBroken",
    "StoreBusy",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreRefused",
    "StoreStats",
    "Topic",
    "TopicConfig",
]


class Consumer(Protocol):
    """What a store calls, on the loop. `turn_over` ends every series of calls of one turn."""

    def arrived(
        self,
        group: Group,
        priority: int,
        messages: Sequence[Message],
        counts: Counts | None,
        blocked: Sequence[tuple[int, str]],
    ) -> None:
        """Durable, unsettled, due and wanted. counts None: all zero. `blocked`: (seq, key) of keyed messages that the
        store passed over because they wait for their retry; until they arrive, later messages of that key wait."""

    def caught_up(self, group: Group, priority: int, yes: bool) -> None:
        """Whether all of an open lane that is due has been handed over, so that only what is new can follow. Said when
        it changes, after what led to it has arrived; and no, first, when a lane is opened that may have something."""

    def arrived_key(
        self, group: Group, priority: int, key: str, messages: Sequence[Message], counts: Counts | None, through: int
    ) -> None:
        """The answer to `want_key`: what is deliverable of that key, in seq order, and what of it has expired but was
        not told as `expired`; everything up to seq `through` was looked at."""

    def tailed(self, topic: Topic, messages: Sequence[Message]) -> None:
        """New messages of a watched topic, all priorities, in seq order."""

    def expired(self, group: Group, messages: Sequence[Message]) -> None:
        """The TTL of these is over, and nobody has them in hand: settle them (`Dead` or `Done`, as the topic says)."""

    def lapsed(self, group: Group, messages: Sequence[Message]) -> None:
        """The TTL of these is over, and they are in hand: settle them, if nothing else will. Said of messages with a
        key, because of those the gateway need not keep anything; once, until they are settled or the lane is closed."""

    def turn_over(self) -> None:
        """Nothing more comes in this turn."""


class Catalog(Protocol):
    """What is kept beside the messages: dead letters, ledger, revocations; and the care of the file."""

    async def dead_letters(self, topic: Topic, wanted: DeadFilter, limit: int) -> Sequence[DeadLetter]:
        """Oldest first, after `wanted.after_id`; fewer than `limit` when they are large, but none only at the end."""

    async def dead_letter(self, topic: Topic, id: int) -> DeadLetter | None: ...

    async def history(self, topic: Topic, seq: int) -> Sequence[Event]:
        """The ledger of one message, oldest first. Entries are kept 24 h, or as long as the message if longer."""

    async def revoke(self, revocation: Revocation) -> None:
        """Durable when it returns."""

    async def revocations(self) -> Sequence[Revocation]: ...

    async def find_seq(self, topic: Topic, published_at_ms: int) -> int:
        """The first kept seq published at or after this; the seq after the last if there is none."""

    async def backup(self, path: str) -> None:
        """A whole copy of the database as of one moment, under load, to a file that must not exist yet."""

    async def check(self) -> Sequence[str]:
        """What is wrong with the file: nothing is good."""


class Store(Protocol):
    """A durable set of topics. All methods are called from one event loop; none may be called before `open`.

    Obligations: a batch is durable before `done` is called (synchronous=FULL or the engine's equal); `done` and the
    consumer's methods run on the loop, from the writer's own callback, in the order in which the batches were given;
    within one turn a batch's `done` comes first, then what of it arrives, then `turn_over`. seq strictly increases
    within a topic and is never reused. The id of a message is remembered for at least `dedupe_window_s`.
    """

    capabilities: Capabilities
    epoch: str
    """Random per database; changes when a database is restored."""
    version: str
    """The engine and its version, for people."""
    topics: dict[tuple[str, str], Topic]
    """(tenant, name) -> topic, as of the last commit."""

    @property
    def broken(self) -> StoreError | None:
        """The I/O error or damage after which every batch fails, once there was one: in a batch, or in anything else
        that is done with the files. Whatever it was, `turn_over` is called in the turn of the loop that learns of it.
        A close alone breaks nothing."""

    async def open(self, consumer: Consumer, now_ms: int) -> None:
        """Take the files. Raises StoreLocked, StoreRefused, StoreBroken."""

    def write(self, batch: Batch, done: Callable[[Batch], None]) -> None:
        """Run the batch as one transaction. At most one batch may be outstanding. Never raises for what the disk
        does: the batch carries `error`, and after StoreBroken every later batch fails the same way."""

    def want(self, group: Group, priority: int, count: int) -> None:
        """Absolute demand of one lane: at most `count` more messages may arrive. Per lane each unsettled message
        arrives once per open, in seq order, from commit and backlog alike; retries come in seq order when due.
        The first `want` opens all lanes of the group; 0 stops one without forgetting what has arrived."""

    def forget(self, group: Group) -> None:
        """Close all lanes of the group: what had arrived and was not settled will arrive again after the next
        `want`, with the counts of the last Counted or Retry. Settlements given in earlier batches are honoured."""

    def want_key(self, group: Group, priority: int, key: str, after_seq: int, count: int) -> None:
        """Ask for up to `count` messages of one key above `after_seq` in an open lane, outside its demand. Answered
        once by `arrived_key`, unless the group is forgotten before."""

    def watch(self, topic: Topic, on: bool) -> None:
        """Whether `tailed` is called for the topic."""

    def next_due_ms(self) -> int | None:
        """When to call `due`: the earliest retry of a lane with demand; None if there is none."""

    def due(self, now_ms: int) -> None:
        """Let the retries that are due by now arrive, as far as they are wanted."""

    def next_tick_ms(self) -> int | None:
        """When a batch should be written even if it is empty: a scheduled message falls due, one expires, or
        retention has work. None if nothing waits for time."""

    async def read(self, topic: Topic, after_seq: int, limit: int, bytes_max: int = READ_BYTES_MAX) -> Page:
        """Kept messages of all priorities with seq above `after_seq`, in seq order: up to `limit`, and no more once
        they make `bytes_max`. Never leases."""

    def catalog(self) -> Catalog:
        """What is kept beside the messages."""

    async def stats(self) -> StoreStats: ...

    async def close(self) -> None:
        """Finish what was given, checkpoint, release the files. Harmless when repeated."""
