"""What a store must hold, kept in plain dictionaries: its rules are those of `pushwire_storage.base`.

It owns no randomness and talks to no store. `listener.py` holds what a store says against it; `driver.py` does both.

What retention or an ended TTL may remove some time later is `loose`: it may still be there, or be gone already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pushwire_storage.base import (
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
    Group,
    Message,
    PurgeTopic,
    Redrive,
    Retry,
    SeekGroup,
    Settlement,
    Topic,
    TopicConfig,
)
from pushwire_storage.planning import ID_BYTES

Content = tuple[bytes, int, str | None]


def content(message: Message) -> Content:
    return message.data, message.priority, message.key


@dataclass
class Kept:
    """A stored message."""

    id: str
    content: Content
    size_bytes: int
    published_at_ms: int
    due_ms: int | None
    expires_ms: int | None
    scheduled: bool
    settled: set[str] = field(default_factory=set)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    retry_ms: dict[str, int] = field(default_factory=dict)
    """By group: it waits for its retry since the last `Retry`, or is in hand (0) since the last `Counted`."""
    redriven: bool = False
    promoted_ms: int | None = None
    looked_at: bool = False
    """Its TTL is over, and the store has seen to that once."""
    loose: bool = False
    spare: bool = False
    """The topic had too many bytes, and no group was owed it: the next batch may remove it."""

    @property
    def priority(self) -> int:
        return self.content[1]

    @property
    def key(self) -> str | None:
        return self.content[2]

    def deliverable_ms(self) -> int:
        return max(self.published_at_ms, self.due_ms or 0)


@dataclass
class Letter:
    """A dead letter."""

    group: str
    seq: int
    kept: Kept
    number: int = 0
    """Its id, once the store has told."""
    orphan: bool = False
    """Its group was deleted."""


@dataclass
class ModelTopic:
    """A topic as it must be after the last commit."""

    last_seq: int = 0
    kept: dict[int, Kept] = field(default_factory=dict)
    ids: dict[str, tuple[int, Content]] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    dead: list[Letter] = field(default_factory=list)
    floor: int = 0
    config: TopicConfig = field(default_factory=TopicConfig)
    paused: set[str] = field(default_factory=set)
    by_time: set[str] = field(default_factory=set)
    """Groups that started at a time."""
    before: tuple[int, int] = (0, 0)
    """When the last batch began: bytes of messages kept, and retained."""

    def owners(self, seq: int) -> set[str]:
        return {name for name, start in self.starts.items() if start < seq}

    def owed(self, group: str, seq: int) -> bool:
        kept = self.kept.get(seq)
        return kept is not None and seq > self.starts[group] and group not in kept.settled

    def unowed(self, seq: int) -> bool:
        return self.owners(seq) <= self.kept[seq].settled

    def retains(self, kept: Kept, now_ms: int) -> bool:
        return kept.published_at_ms + self.config.retain_ms > now_ms

    def firm(self) -> set[int]:
        return {seq for seq, kept in self.kept.items() if not kept.loose and not kept.spare}

    def payload_bytes(self) -> int:
        return sum(kept.size_bytes for kept in self.kept.values())

    def bytes(self) -> int:
        return self.payload_bytes() + ID_BYTES * len(self.ids)

    def too_large(self) -> bool:
        return self.config.retain_bytes is not None and self.payload_bytes() > self.config.retain_bytes

    def spared(self) -> set[int]:
        """What may go because of that."""
        return {seq for seq, kept in self.kept.items() if self.unowed(seq) and not kept.scheduled}

    def spare(self) -> None:
        """A batch begins."""
        self.before = (self.payload_bytes(), self.config.retain_bytes or 0)
        for seq in self.spared() if self.too_large() else ():
            self.kept[seq].spare = True

    def let_go(self, seqs: Sequence[int], now_ms: int) -> None:
        """Of these, what no group is owed goes, unless it is retained."""
        for seq in seqs:
            if seq in self.kept and self.unowed(seq):
                if self.retains(self.kept[seq], now_ms):
                    continue
                del self.kept[seq]


class Model:
    """The whole store."""

    def __init__(self, quota_messages: int) -> None:
        self.quota_messages = quota_messages
        self.now_ms = 0
        """Of the last batch."""
        self.topics: dict[str, ModelTopic] = {}
        self.deleted: dict[str, ModelTopic] = {}
        self.news: dict[str, list[int]] = {}
        """What the last batch stored, by topic."""
        self.settled: set[tuple[str, str, int]] = set()
        """(topic, group, seq) that the last batch settled or put off."""

    def committed(self, batch: Batch, *, receipts: bool = True) -> None:
        """The batch is durable; `receipts`: and its answers are to be checked."""
        self.now_ms = max(self.now_ms, batch.now_ms)
        self.news = {}
        self.settled = set()
        for topic in self.topics.values():
            for kept in topic.kept.values():
                if kept.scheduled and (kept.due_ms or 0) <= self.now_ms:
                    kept.scheduled, kept.promoted_ms = False, self.now_ms
            for seq, kept in topic.kept.items():
                self._retain(topic, seq, kept)
            topic.spare()
        moved = {each.group for each in batch.changes if isinstance(each, SeekGroup)}
        for change in batch.changes:
            self._change(change, receipts)
        for append in batch.appends:
            self._append(append, receipts)
        for settlement in batch.settlements:
            settled = self.topics.get(settlement.group.topic.name)
            if settled is not None and settlement.group.name in settled.starts and settlement.group not in moved:
                self._settle(settled, settlement)
        for topic in self.topics.values():
            self._pass(topic)

    # -- changes

    def _change(self, change: Change, receipts: bool) -> None:
        if isinstance(change, CreateTopic):
            self._create_topic(change)
            return
        group = getattr(change, "group", None)
        topic = self.topics.get(group.topic.name if group else change.topic.name)
        if topic is None or (group is not None and group.name not in topic.starts):
            return
        if isinstance(change, CreateGroup):
            if change.name not in topic.starts:
                topic.starts[change.name] = self._start(topic, change.start, change.name)
        elif isinstance(change, ConfigureTopic):
            self._configure(topic, change.config)
        elif isinstance(change, PurgeTopic):
            self._purge(topic, change, receipts)
        elif isinstance(change, DeleteTopic):
            self.deleted[change.topic.name] = self.topics.pop(change.topic.name)
        elif isinstance(change, SeekGroup):
            self._seek(topic, change)
        elif isinstance(change, DeleteGroup):
            before = topic.starts.pop(change.group.name)
            topic.paused.discard(change.group.name)
            for letter in topic.dead:
                letter.orphan = letter.orphan or letter.group == change.group.name
            self._leave(topic, change.group)
            topic.let_go([seq for seq in topic.kept if seq > before], self.now_ms)
        elif isinstance(change, Redrive):
            self._redrive(topic, change, receipts)
        elif isinstance(change, Discard):
            gone = [letter for letter in topic.dead if letter.number in change.ids]
            assert not receipts or change.removed == len(gone)
            topic.dead = [letter for letter in topic.dead if letter not in gone]
        elif isinstance(change, ConfigureGroup):
            (topic.paused.add if change.paused else topic.paused.discard)(change.group.name)

    def _create_topic(self, change: CreateTopic) -> None:
        if change.name not in self.topics:
            config = change.config or TopicConfig()
            before = self.deleted.pop(change.name, ModelTopic())
            self.topics[change.name] = ModelTopic(before.last_seq, ids=before.ids, floor=before.last_seq, config=config)

    @staticmethod
    def _start(topic: ModelTopic, start: str | int | None, name: str) -> int:
        topic.by_time.discard(name)
        if start is None:
            start = "new" if topic.starts else "earliest"
        if isinstance(start, str):
            return topic.floor if start == "earliest" else topic.last_seq
        if start < 0:
            topic.by_time.add(name)
            later = [seq for seq, kept in topic.kept.items() if kept.published_at_ms >= -start]
            start = min(later, default=topic.last_seq + 1)
        return max(topic.floor, min(start - 1, topic.last_seq))

    def _configure(self, topic: ModelTopic, config: TopicConfig) -> None:
        before, topic.config = topic.config, config
        if before.retain_ms and not config.retain_ms and topic.starts:
            topic.let_go(list(topic.kept), self.now_ms)
        old_ms, new_ms = before.max_age_ms, config.max_age_ms
        if old_ms == new_ms:
            return
        for kept in topic.kept.values():
            base_ms = kept.deliverable_ms()
            if kept.expires_ms is None or kept.expires_ms == base_ms + old_ms:
                kept.expires_ms = base_ms + new_ms if new_ms else None
            elif new_ms:
                kept.expires_ms = min(kept.expires_ms, base_ms + new_ms)
            if kept.expires_ms is None or kept.expires_ms > self.now_ms:
                kept.looked_at = False

    @staticmethod
    def _purge(topic: ModelTopic, change: PurgeTopic, receipts: bool) -> None:
        through = topic.last_seq if change.through_seq is None else min(change.through_seq, topic.last_seq)
        gone = [seq for seq in topic.kept if seq <= through]
        if receipts:
            assert len(topic.firm().intersection(gone)) <= change.removed <= len(gone)
        for seq in gone:
            del topic.kept[seq]
        topic.floor = max(topic.floor, through)
        topic.starts = {name: max(start, through) for name, start in topic.starts.items()}

    def _seek(self, topic: ModelTopic, change: SeekGroup) -> None:
        name = change.group.name
        before = topic.starts[name]
        start = topic.starts[name] = self._start(topic, change.start, name)
        self._leave(topic, change.group)
        topic.let_go([seq for seq in topic.kept if before < seq <= start], self.now_ms)

    @staticmethod
    def _leave(topic: ModelTopic, group: Group) -> None:
        """Nothing that the group did to the messages counts any more."""
        for kept in topic.kept.values():
            kept.settled.discard(group.name)
            kept.counts.pop(group.name, None)
            kept.retry_ms.pop(group.name, None)

    def _redrive(self, topic: ModelTopic, change: Redrive, receipts: bool) -> None:
        """Each is stored again, last, for the group that it died in alone."""
        seqs = []
        for number in change.ids:
            letter = next((each for each in topic.dead if each.number == number and not each.orphan), None)
            seqs.append(0)
            if letter is None:
                continue
            topic.dead.remove(letter)
            topic.last_seq += 1
            seqs[-1] = topic.last_seq
            age_ms = topic.config.max_age_ms
            again = topic.kept[topic.last_seq] = Kept(
                letter.kept.id,
                letter.kept.content,
                letter.kept.size_bytes,
                self.now_ms,
                None,
                self.now_ms + age_ms if age_ms else None,
                scheduled=False,
                redriven=True,
            )
            again.settled = topic.owners(topic.last_seq) - {letter.group}
            self.news.setdefault(change.topic.name, []).append(topic.last_seq)
        if receipts:
            assert change.refused is None
            assert change.seqs == seqs

    # -- appends

    def _append(self, append: Append, receipts: bool) -> None:
        topic = self.topics.get(append.topic.name)
        if topic is None:
            assert not receipts or (append.refused and append.refused.code == "topic_not_found")
            return
        fresh: dict[str, tuple[int, Content]] = {}
        answers: list[tuple[int, bool]] = []
        refused = None
        for message in append.messages:
            first = fresh.get(message.id) or topic.ids.get(message.id)
            if first is None:
                first = fresh[message.id] = (topic.last_seq + len(fresh) + 1, content(message))
                answers.append((first[0], False))
            elif first[1] == content(message):
                answers.append((first[0], True))
            else:
                refused = "id_conflict"
                break
        quota = topic.config.quota_messages or self.quota_messages
        if refused is None and fresh and len(topic.kept) + len(fresh) > quota:
            refused = "topic_full"
            if len(topic.firm()) + len(fresh) <= quota and append.refused is None:
                refused = None  # some of what may go had gone
        if receipts:
            assert (append.refused.code if append.refused else None) == refused
            got = [(message.seq, message.duplicate) for message in append.messages]
            assert got == (answers if refused is None else [(0, False)] * len(got))
        if refused is None:
            topic.ids.update(fresh)
            self._store(topic, append, fresh)

    def _store(self, topic: ModelTopic, append: Append, fresh: dict[str, tuple[int, Content]]) -> None:
        topic.last_seq += len(fresh)
        for message in append.messages:
            seq = fresh[message.id][0] if message.id in fresh else 0
            if not seq or seq in topic.kept:
                continue
            kept = topic.kept[seq] = Kept(
                message.id,
                content(message),
                message.size_bytes,
                message.published_at_ms,
                message.due_ms,
                message.expires_ms,
                scheduled=message.due_ms is not None and message.due_ms > self.now_ms,
            )
            if topic.config.max_age_ms:
                over_ms = kept.deliverable_ms() + topic.config.max_age_ms
                kept.expires_ms = min(over_ms, kept.expires_ms or over_ms)
            self.news.setdefault(append.topic.name, []).append(seq)

    # -- settlements

    def _settle(self, topic: ModelTopic, settlement: Settlement) -> None:
        name = settlement.group.name
        for message in settlement.messages if isinstance(settlement, Done) else [settlement.message]:
            if not topic.owed(name, message.seq):
                continue
            kept = topic.kept[message.seq]
            if isinstance(settlement, Retry | Counted):
                before = kept.counts.get(name, (0, 0))
                kept.counts[name] = (
                    max(before[0], settlement.deliveries),
                    max(before[1], settlement.failures),
                )
                kept.retry_ms[name] = settlement.due_ms if isinstance(settlement, Retry) else 0
                if isinstance(settlement, Retry):
                    self.settled.add((settlement.group.topic.name, name, message.seq))
                continue
            if isinstance(settlement, Dead):
                topic.dead.append(Letter(name, message.seq, kept))
            kept.settled.add(name)
            self.settled.add((settlement.group.topic.name, name, message.seq))
            if topic.unowed(message.seq) and not topic.retains(kept, self.now_ms):
                del topic.kept[message.seq]

    # -- time

    def _pass(self, topic: ModelTopic) -> None:
        """What retention and ended TTLs take, at the end of a batch."""
        for seq, kept in list(topic.kept.items()):
            over = kept.expires_ms is not None and kept.expires_ms <= self.now_ms
            unowed, retained = topic.unowed(seq), topic.retains(kept, self.now_ms)
            age_ms = topic.config.max_age_ms
            if over:
                if not kept.looked_at and not unowed:
                    kept.scheduled = False
                aged = bool(age_ms) and kept.deliverable_ms() + age_ms <= self.now_ms
                if unowed and (not topic.starts or not retained or aged):
                    if not kept.looked_at:
                        del topic.kept[seq]
                        continue
                    kept.loose = True
                kept.looked_at = True
            self._retain(topic, seq, kept)

    def _retain(self, topic: ModelTopic, seq: int, kept: Kept) -> None:
        retained = topic.retains(kept, self.now_ms) or kept.scheduled
        if topic.config.retain_ms and topic.starts and not retained and topic.unowed(seq):
            kept.loose = True

    def found(self, name: str, seqs: set[int], letters: Sequence[int]) -> None:
        """What the topic keeps in fact after the batch: everything that may not have gone, and nothing that must; and
        the ids of its dead letters."""
        topic = self.topics[name]
        for letter, number in zip(topic.dead, letters, strict=True):
            assert letter.number in {0, number}, "the id of a letter has changed"
            letter.number = number
        assert topic.firm() <= seqs <= topic.kept.keys(), f"{name}: lacks {topic.firm() - seqs}, has {seqs}"
        gone = [topic.kept.pop(seq) for seq in topic.kept.keys() - seqs]
        given_up = [kept.size_bytes for kept in gone if kept.spare and not kept.loose]
        if given_up:
            before_bytes, limit_bytes = topic.before
            left_bytes = before_bytes - sum(given_up) + max(given_up)
            assert left_bytes > limit_bytes, f"{name}: more has gone than was too much"
        for seq, kept in topic.kept.items():
            kept.loose = kept.loose and topic.unowed(seq)
            kept.spare = False

    def check_books(self, topic: Topic) -> None:
        model = self.topics[topic.name]
        assert topic.last_seq == model.last_seq
        assert topic.config == model.config
        assert topic.messages == len(model.kept)
        scheduled = [kept for kept in model.kept.values() if kept.scheduled]
        assert sum(not kept.looked_at for kept in scheduled) <= topic.scheduled <= len(scheduled)
        assert topic.bytes == model.bytes()
        assert topic.dead_letters == len(model.dead)
        assert topic.groups.keys() == model.starts.keys()
        for name, start in model.starts.items():
            # Nothing kept lies between: the first message of a time may have been one that retention took just before.
            low, high = sorted((start, topic.groups[name].start_seq))
            assert not model.kept.keys() & set(range(low + 1, high + 1))
            assert low == high or name in model.by_time
        assert {name for name, group in topic.groups.items() if group.paused} == model.paused
