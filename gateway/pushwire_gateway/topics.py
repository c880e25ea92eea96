"""Topics and groups as things one manages: create, configure, move, purge, delete; and groups that expire.

Owns the order of such a change against delivery: what moves or removes messages under a group first makes the core and
the store let go of them, is committed, and only then are they handed out again. Knows no right and no transport.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush
from typing import Any, TypeVar

from pushwire_storage.base import (
    Change,
    ConfigureGroup,
    ConfigureTopic,
    CreateGroup,
    CreateTopic,
    DeleteGroup,
    DeleteTopic,
    Discard,
    Group,
    PurgeTopic,
    Redrive,
    SeekGroup,
    StoreError,
    Topic,
    TopicConfig,
)

from .core.model import Subscription
from .engine import Engine

T = TypeVar("T")
TopicReady = Callable[[CreateTopic, StoreError | None], None]
GroupReady = Callable[[Group | None, StoreError | None], None]
Changed = Callable[[StoreError | None], None]
Ended = Callable[[Sequence[Subscription]], None]


class Topics:
    """The register of topics and groups of one gateway."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._topics_coming: dict[tuple[str, str], list[TopicReady]] = {}
        self._groups_coming: dict[tuple[int, str], list[GroupReady]] = {}
        # How many of those, by tenant and by topic id: counted at every creation, and a disk may make thousands wait.
        self._topics_coming_of: Counter[str] = Counter()
        self._groups_coming_of: Counter[int] = Counter()
        self._by_tenant: dict[str, dict[str, Topic]] = {}
        self._going: set[Group] = set()  # being deleted: as good as gone
        self._idle: list[tuple[float, int, Group]] = []  # heap: groups without members, by when they expire
        self._idle_since: dict[Group, float] = {}
        self._serial = 0

    def opened(self) -> None:
        """The store is open: count what is there, and let unattended groups expire from now on."""
        for topic in self._engine.store.topics.values():
            self._by_tenant.setdefault(topic.tenant, {})[topic.name] = topic
            for group in topic.groups.values():
                self.left(group)

    def find(self, tenant: str, name: str) -> Topic | None:
        """The topic of that name in the tenant, unless it is being deleted."""
        return self._by_tenant.get(tenant, {}).get(name)

    def find_group(self, topic: Topic, name: str) -> Group | None:
        """The group of that name, unless it is being deleted."""
        group = topic.groups.get(name)
        return None if group in self._going else group

    def of(self, tenant: str) -> Mapping[str, Topic]:
        """The tenant's topics by name, without those being deleted. Not to be kept: it changes."""
        return self._by_tenant.get(tenant, {})

    def count(self, tenant: str) -> int:
        """Topics the tenant has, those being created included."""
        return len(self.of(tenant)) + self._topics_coming_of[tenant]

    def may_add_group(self, topic: Topic, name: str, groups_max: int) -> bool:
        """Whether the topic may have one group more, those being created included; or is being given this one."""
        if (topic.id, name) in self._groups_coming:
            return True
        return len(topic.groups) + self._groups_coming_of[topic.id] < groups_max

    # --- create ------------------------------------------------------------------------------------------------

    def create(self, tenant: str, name: str, config: TopicConfig | None, ready: TopicReady) -> None:
        """Call `ready` with the change, done: its `result` is the topic, made or found. In order for one topic."""
        coming = self._topics_coming.get((tenant, name))
        if coming is not None:
            coming.append(ready)
            return
        change = CreateTopic(tenant, name, config, self.find(tenant, name))
        if change.result is not None:
            ready(change, None)
            return
        self._topics_coming[(tenant, name)] = [ready]
        self._topics_coming_of[tenant] += 1

        def done(error: StoreError | None) -> None:
            _one_less(self._topics_coming_of, tenant)
            if change.result is not None:
                self._by_tenant.setdefault(tenant, {})[name] = change.result
            for waiting in self._topics_coming.pop((tenant, name)):
                waiting(change, error)

        self._engine.batcher.change(change, done)

    def create_group(self, change: CreateGroup, ready: GroupReady) -> None:
        """Call `ready` with the group, made or found."""
        topic, name = change.topic, change.name
        coming = self._groups_coming.get((topic.id, name))
        if coming is not None:
            coming.append(ready)
            return
        group = self.find_group(topic, name)
        if group is not None:
            ready(group, None)
            return
        self._groups_coming[(topic.id, name)] = [ready]
        self._groups_coming_of[topic.id] += 1

        def done(error: StoreError | None) -> None:
            _one_less(self._groups_coming_of, topic.id)
            for waiting in self._groups_coming.pop((topic.id, name)):
                waiting(change.result, error)
            if change.result is not None:
                self.left(change.result)

        self._engine.batcher.change(change, done)

    # --- change ------------------------------------------------------------------------------------------------

    def configure(self, topic: Topic, config: TopicConfig, changed: Changed) -> None:
        """Replace a topic's configuration; in force for its groups when `changed` is called."""
        self._change(ConfigureTopic(topic, config), topic.groups.values(), changed, reset=False)

    def pause(self, group: Group, paused: bool, changed: Changed) -> None:
        """Pause or resume a group: nothing new is handed out; leases run on."""
        self._change(ConfigureGroup(group, paused), [group], changed, reset=False)

    def seek(self, group: Group, start: str | int, changed: Changed) -> None:
        """Move a group. Its leases become stale."""
        self._change(SeekGroup(group, start), [group], changed, reset=True)

    def purge(self, change: PurgeTopic, changed: Changed) -> None:
        """Remove messages of a topic for all groups. Their leases become stale."""
        self._change(change, change.topic.groups.values(), changed, reset=True)

    def redrive(self, change: Redrive, changed: Changed) -> None:
        """Put dead letters back into their groups."""
        self._change(change, [], changed, reset=False)

    def discard(self, change: Discard, changed: Changed) -> None:
        """Remove dead letters for good."""
        self._change(change, [], changed, reset=False)

    def delete(self, topic: Topic, ended: Ended, changed: Changed) -> None:
        """Remove a topic with all that belongs to it. `ended` is told of the subscriptions that end with it."""
        for group in topic.groups.values():
            self._dismiss(group, ended)
        del self._by_tenant[topic.tenant][topic.name]
        if not self._by_tenant[topic.tenant]:
            del self._by_tenant[topic.tenant]

        def done(error: StoreError | None) -> None:
            if error is not None:  # still there
                self._by_tenant.setdefault(topic.tenant, {}).setdefault(topic.name, topic)
            changed(error)

        self._change(DeleteTopic(topic), [], done, reset=False)

    def delete_group(self, group: Group, ended: Ended, changed: Changed) -> None:
        """Remove a group. `ended` is told of the subscriptions that end with it."""
        self._dismiss(group, ended)
        self._going.add(group)

        def done(error: StoreError | None) -> None:
            self._going.discard(group)
            changed(error)

        self._change(DeleteGroup(group), [], done, reset=False)

    def _change(self, change: Change, groups: Collection[Group], changed: Changed, *, reset: bool) -> None:
        """`groups`: those concerned. Of a topic it is a view: one that is made before the commit is concerned too."""
        engine = self._engine

        def let_go() -> None:
            for group in groups if reset else ():
                engine.core.reset(group, engine.clock.now())

        def done(error: StoreError | None) -> None:
            let_go()  # of what members that came meanwhile were given: the store hands it out afresh
            for group in groups:
                engine.reconfigure(group)
            changed(error)

        let_go()
        engine.batcher.change(change, done)
        engine.turn()

    def _dismiss(self, group: Group, ended: Ended) -> None:
        active = self._engine.core.group(group)
        if active is None:
            return
        subs = sorted(active.members, key=lambda sub: sub.prefix)
        for sub in subs:
            self._engine.unsubscribe(sub.session, [sub])
        ended(subs)

    # --- groups without members --------------------------------------------------------------------------------

    def joined(self, group: Group) -> None:
        """The group has a member."""
        self._idle_since.pop(group, None)

    def left(self, group: Group) -> None:
        """The group may have no member any more."""
        if group.inactive_ttl_ms and self._engine.core.group(group) is None and group not in self._idle_since:
            now = self._engine.clock.now()
            self._idle_since[group] = now
            self._serial += 1
            heappush(self._idle, (now + group.inactive_ttl_ms / 1000, self._serial, group))

    def expire_groups(self, now: float) -> None:
        """Delete the groups whose `inactive_ttl_ms` is over. Called about once a second."""
        while self._idle and self._idle[0][0] <= now:
            at, _, group = heappop(self._idle)
            since = self._idle_since.get(group)
            if since is None:
                continue
            if since + group.inactive_ttl_ms / 1000 > at or self._engine.core.group(group) is not None:
                continue  # it had a member meanwhile; its later entry counts
            del self._idle_since[group]
            if (
                self.find(group.topic.tenant, group.topic.name) is group.topic
                and self.find_group(group.topic, group.name) is group
            ):
                self.delete_group(group, _nobody, partial(self._expired, group))

    def _expired(self, group: Group, error: StoreError | None) -> None:
        if error is not None:
            self.left(group)  # it could not be deleted now; again when as much time has passed


def _nobody(_subs: Sequence[Any]) -> None:
    """A group without members ends no subscription."""


def _one_less(counter: Counter[T], key: T) -> None:
    """Nothing is kept of what is not there any more."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
