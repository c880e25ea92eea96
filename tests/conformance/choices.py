"""What a seeded run may put into a batch: appends, changes and settlements, all of them likely to meet each other.

Owns randomness only; what becomes of it is the model's and the store's business.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from pushwire_storage.base import (
    Append,
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

if TYPE_CHECKING:
    from conformance.driver import Driver

TOPICS = ("one", "two")
GROUPS = ("a", "b", "c")


class Choices:
    """Everything here draws from one source, so that a seed says it all."""

    def __init__(self, random: Random, driver: Driver) -> None:
        self.random = random
        self._driver = driver
        self._sent: dict[str, list[Message]] = {name: [] for name in TOPICS}

    @property
    def _now_ms(self) -> int:
        return self._driver.world.now_ms

    # -- changes

    def changes(self) -> list[Change]:
        random, changes = self.random, list[Change]()
        topics = self._driver.topics()
        if random.random() < 0.2 or not topics:
            changes.append(CreateTopic("t", random.choice(TOPICS), random.choice([None, self._config()])))
        if topics and random.random() < 0.2:
            changes.append(CreateGroup(random.choice(topics), random.choice(GROUPS), self._start()))
        if topics and random.random() < 0.15:
            changes.append(self._to_topic(random.choice(topics)))
        # First, so that what it needs room for is known.
        changes = [
            *(self._to_letters(topic) for topic in topics if self._dead(topic) and random.random() < 0.4),
            *changes,
        ]
        groups = [group for topic in topics for group in topic.groups.values()]
        if groups and random.random() < 0.15:
            changes.append(self._to_group(random.choice(groups)))
        return changes

    def _start(self) -> str | int | None:
        by_time = -(self._now_ms - self.random.randrange(100))
        return self.random.choice(["earliest", "new", None, self.random.randrange(1, 30), by_time])

    def _config(self) -> TopicConfig:
        random = self.random
        return TopicConfig(
            retain_ms=random.choice([0, 0, 40, 100_000]),
            max_age_ms=random.choice([0, 0, 60, 900]),
            retain_bytes=random.choice([None, None, 0, 60]),
            quota_messages=random.choice([None, None, 20]),
            expired=random.choice(["dead", "drop"]),
        )

    def _to_topic(self, topic: Topic) -> Change:
        kind = self.random.random()
        if kind < 0.5:
            return ConfigureTopic(topic, self._config())
        if kind < 0.9:
            return PurgeTopic(topic, self.random.choice([None, self.random.randrange(1, 30)]))
        return DeleteTopic(topic)

    def _to_group(self, group: Group) -> Change:
        kind = self.random.random()
        if kind < 0.3:
            return ConfigureGroup(group, self.random.random() < 0.5)
        if kind < 0.8:
            start = self._start()
            return SeekGroup(group, "earliest" if start is None else start)
        return DeleteGroup(group)

    def _dead(self, topic: Topic) -> bool:
        return bool(self._driver.model.topics[topic.name].dead)

    def _to_letters(self, topic: Topic) -> Change:
        """One that is not there among them, and one twice, now and then. A full topic is tested elsewhere."""
        model = self._driver.model.topics[topic.name]
        numbers = [letter.number for letter in model.dead] + [10**9] * (self.random.random() < 0.2)
        ids = self.random.choices(numbers, k=self.random.randrange(1, 4))
        room = (topic.config.quota_messages or self._driver.model.quota_messages) - len(model.kept)
        return Redrive(topic, ids) if self.random.random() < 0.7 and len(ids) <= room else Discard(topic, ids)

    def concerns(self, change: Change) -> list[tuple[str, str]]:
        """(topic, group) whose lanes must be closed before the change."""
        if isinstance(change, PurgeTopic | DeleteTopic):
            return [(change.topic.name, name) for name in change.topic.groups]
        if isinstance(change, SeekGroup | DeleteGroup):
            return [(change.group.topic.name, change.group.name)]
        return []

    # -- appends

    def append(self, topic: Topic) -> Append:
        random, sent = self.random, self._sent[topic.name]
        messages = []
        for _ in range(random.randrange(1, 4)):
            if sent and random.random() < 0.15:
                first = random.choice(sent)
                data = first.data if random.random() < 0.8 else b"other"
                message = Message(first.id, data, self._now_ms, first.encoding, first.priority, first.key)
            else:
                message = self._message(len(sent))
                sent.append(message)
            messages.append(message)
        return Append(topic, messages)

    def _message(self, number: int) -> Message:
        random, now_ms = self.random, self._now_ms
        due_ms = now_ms + random.randrange(-20, 90) if random.random() < 0.2 else None
        expires_ms = (due_ms or now_ms) + random.randrange(1, 150) if random.random() < 0.2 else None
        return Message(
            f"{number}-{random.randrange(1000)}",
            b"x" * random.randrange(9),
            now_ms,
            1,
            random.choice([0, 1, 3]),
            random.choice([None, None, "k"]),
            due_ms=due_ms,
            expires_ms=expires_ms,
        )

    # -- settlements

    def settlements(self) -> list[Settlement]:
        count = self.random.randrange(4)
        return [self._settlement() for _ in range(count) if self._driver.hands]

    def _settlement(self) -> Settlement:
        random, hands = self.random, self._driver.hands
        (topic, name, seq), message = random.choice(list(hands.items()))
        group = self._driver.world.store.topics[("t", topic)].groups[name]
        attempts = random.randrange(1, 9)
        kind = random.random()
        if kind < 0.2:
            due_ms = self._now_ms + random.randrange(-20, 60)
            del hands[(topic, name, seq)]
            return Retry(group, message, due_ms, attempts, attempts // 2)
        if kind < 0.3:
            return Counted(group, message, attempts, attempts // 2)
        if kind < 0.4:
            return Dead(group, message, "rejected", None, attempts, 0, self._now_ms)
        several = [each for key, each in hands.items() if key[:2] == (topic, name)]
        return Done(group, several[: random.randrange(1, 6)] + [message] * random.randrange(2))
