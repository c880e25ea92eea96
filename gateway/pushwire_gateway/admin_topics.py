"""Topics and groups as an administrator manages them: list, show, create, configure, move, purge, delete.

Owns what may be asked of them and what they look like from outside. The changes themselves are topics.py's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pushwire.wire.decode import INACTIVE_TTL_MS_MAX, INACTIVE_TTL_MS_MIN
from pushwire.wire.frames import NAME, Start
from pushwire_storage.base import (
    CreateGroup,
    CreateTopic,
    Event,
    Group,
    PurgeTopic,
    StoreError,
    Topic,
    TopicConfig,
)

from . import topic_config
from .admin_base import AdminBase, done, message_shown, page
from .core.model import Subscription
from .refusal import Refusal, Refused
from .rights import Principal
from .sessions import Holder

PEEK_MAX = 100
"""Messages of one look into a topic: 6 MB of the largest by default."""


class TopicGone(StoreError):
    """To whoever follows a topic that is deleted."""

    code = "topic_not_found"
    definite = True


class Managed(AdminBase):
    """Topics and groups."""

    # --- topics ------------------------------------------------------------------------------------------------

    async def topics(self, principal: Principal, after: str = "", limit: int | None = None) -> dict[str, Any]:
        """The topics that this principal may look after, by name, from the one after `after` on."""
        most = page(limit)
        names = sorted(
            name for name in self._gateway.topics.of(principal.tenant) if name > after and principal.may("admin", name)
        )
        shown = [self._topic_shown(self._topic(principal, name)) for name in names[:most]]
        return {"topics": shown, "more": len(names) > most}

    async def topic(self, principal: Principal, name: str) -> dict[str, Any]:
        """One topic with its groups."""
        topic = self._topic(principal, name)
        groups = [self._group_shown(group) for group in topic.groups.values()]
        return {**self._topic_shown(topic), "groups": sorted(groups, key=lambda group: str(group["name"]))}

    async def create_topic(
        self, principal: Principal, name: str, config: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Make a topic. Needs `create`, and `admin` to configure it. Refused: `conflict` when it is there already,
        `bad_config`, `too_many_topics`."""
        if not NAME.fullmatch(name):
            raise Refused(Refusal("bad_topic"))
        if not principal.may("create", name) or (config and not principal.may("admin", name)):
            raise Refused(Refusal("forbidden"))
        made = topic_config.changed(TopicConfig(), config or {})
        topics, tenant = self._gateway.topics, principal.tenant
        if topics.find(tenant, name) is not None:
            raise Refused(Refusal("conflict", "the topic is there already"))
        if topics.count(tenant) >= self._gateway.settings.topics_per_tenant:
            raise Refused(Refusal("too_many_topics"))
        changes: list[CreateTopic] = []

        def begin(changed: Any) -> None:
            def ready(change: CreateTopic, error: StoreError | None) -> None:
                changes.append(change)
                changed(error)

            topics.create(tenant, name, made, ready)

        await done(begin)
        change = changes[0]
        if change.refused is not None:
            raise Refused(Refusal(change.refused.code, change.refused.detail))
        assert change.result is not None  # made, or found: somebody else was quicker
        if change.result.config != made:
            raise Refused(Refusal("conflict", "the topic was made by somebody else meanwhile"))
        return self._topic_shown(change.result)

    async def put_topic(
        self, principal: Principal, name: str, config: Mapping[str, Any], *, only_new: bool
    ) -> tuple[bool, dict[str, Any]]:
        """Make the topic so, or give it this configuration where it is there (unless `only_new`): whether it was made,
        and what it is. Refused as by the two."""
        if only_new or self._gateway.topics.find(principal.tenant, name) is None:
            try:
                return True, await self.create_topic(principal, name, config)
            except Refused as refused:
                if only_new or refused.refusal.code != "conflict":
                    raise  # else somebody else was quicker: it is there now
        return False, await self.configure_topic(principal, name, config, replace=True)

    async def configure_topic(
        self, principal: Principal, name: str, config: Mapping[str, Any], *, replace: bool = False
    ) -> dict[str, Any]:
        """Set these fields of a topic's configuration; with `replace` the others go back to their defaults."""
        topic = self._topic(principal, name)
        wanted = topic_config.changed(TopicConfig() if replace else topic.config, config)
        await done(lambda changed: self._gateway.topics.configure(topic, wanted, changed))
        return self._topic_shown(topic)

    async def delete_topic(self, principal: Principal, name: str) -> None:
        """Remove a topic with everything in it. Its subscriptions and tails end with an error."""
        topic = self._topic(principal, name)
        await done(lambda changed: self._gateway.topics.delete(topic, _dismiss, changed))
        for tail in self._gateway.engine.tails.end_topic(topic):  # not before it is certain: they are told for good
            tail.viewer.tail_failed(tail, TopicGone(name))
        self._gateway.engine.turn()

    async def purge_topic(self, principal: Principal, name: str, through_seq: int | None = None) -> dict[str, Any]:
        """Remove the messages of a topic, all or up to a seq, for all groups. Dead letters stay."""
        change = PurgeTopic(self._topic(principal, name), through_seq)
        await done(lambda changed: self._gateway.topics.purge(change, changed))
        return {"removed": change.removed}

    async def peek(
        self, principal: Principal, name: str, after_seq: int = 0, limit: int | None = None
    ) -> dict[str, Any]:
        """Look into a topic, without any effect: what is kept above a seq. The next page begins at `through`."""
        topic = self._topic(principal, name)
        most = page(limit, PEEK_MAX)
        try:
            found = await self._gateway.engine.store.read(topic, after_seq, most)
        except StoreError as error:
            raise Refused(Refusal(error.code, str(error))) from None
        return {
            "messages": [message_shown(message) for message in found.messages],
            "gaps": [{"from": first, "to": last} for first, last in found.gaps],
            "through": found.through,
        }

    async def history(self, principal: Principal, name: str, seq: int) -> dict[str, Any]:
        """Who was given a message when, and how it ended. Needs `admin` or `replay`. Empty where the topic keeps no
        ledger."""
        topic = self._topic(principal, name, "admin", "replay")
        try:
            events: Sequence[Event] = await self._catalog.history(topic, seq)
        except StoreError as error:
            raise Refused(Refusal(error.code, str(error))) from None
        return {"seq": seq, "ledger": topic.config.ledger, "events": [_event_shown(event) for event in events]}

    def _topic_shown(self, topic: Topic) -> dict[str, Any]:
        members = [member for group in topic.groups.values() for member in self._members_of(group)]
        return {
            "name": topic.name,
            "last_seq": topic.last_seq,
            "messages": topic.messages,
            "bytes": topic.bytes,
            "scheduled": topic.scheduled,
            "dead_letters": topic.dead_letters,
            "group_count": len(topic.groups),
            "member_count": len(members),
            "in_flight": sum(len(member.leases) for member in members),
            "config": topic_config.shown(topic.config),
        }

    # --- groups ------------------------------------------------------------------------------------------------

    async def groups(self, principal: Principal, topic: str) -> dict[str, Any]:
        """The groups of a topic, by name."""
        found = sorted(self._topic(principal, topic).groups.values(), key=lambda group: group.name)
        return {"groups": [self._group_shown(group) for group in found]}

    async def group(self, principal: Principal, topic: str, name: str) -> dict[str, Any]:
        """One group with its members."""
        group = self._group(principal, topic, name)
        return {**self._group_shown(group), "members": self._members_shown(group)}

    async def create_group(
        self,
        principal: Principal,
        topic: str,
        name: str,
        start: Start | None = None,
        inactive_ttl_ms: int | None = None,
    ) -> dict[str, Any]:
        """Make a group. Needs `create` on it. Refused: `conflict` when it is there already, `too_many_groups`."""
        if not NAME.fullmatch(name):
            raise Refused(Refusal("bad_group"))
        if not principal.may("create", topic, name):
            raise Refused(Refusal("forbidden" if NAME.fullmatch(topic) else "bad_topic"))
        if inactive_ttl_ms is not None and not INACTIVE_TTL_MS_MIN <= inactive_ttl_ms <= INACTIVE_TTL_MS_MAX:
            raise Refused(
                Refusal("bad_request", f"inactive_ttl_ms must be {INACTIVE_TTL_MS_MIN} to {INACTIVE_TTL_MS_MAX}")
            )
        topics = self._gateway.topics
        found = topics.find(principal.tenant, topic)
        if found is None:
            raise Refused(Refusal("topic_not_found"))
        if topics.find_group(found, name) is not None:
            raise Refused(Refusal("conflict", "the group is there already"))
        if not topics.may_add_group(found, name, self._gateway.settings.groups_per_topic):
            raise Refused(Refusal("too_many_groups"))
        change = CreateGroup(found, name, start, None, inactive_ttl_ms or 0)
        await done(lambda changed: topics.create_group(change, lambda _, error: changed(error)))
        if change.result is None or topics.find_group(found, name) is not change.result:
            raise Refused(Refusal("conflict", "the group was made or deleted by somebody else meanwhile"))
        return self._group_shown(change.result)

    async def put_group(
        self,
        principal: Principal,
        topic: str,
        name: str,
        start: Start | None,
        inactive_ttl_ms: int | None,
        *,
        only_new: bool,
    ) -> tuple[bool, dict[str, Any]]:
        """Make the group; where it is there it stays as it is (unless `only_new`): whether it was made, and what it
        is. Refused as by `create_group`."""
        try:
            return True, await self.create_group(principal, topic, name, start, inactive_ttl_ms)
        except Refused as refused:
            found = self._gateway.topics.find(principal.tenant, topic)
            there = None if found is None else self._gateway.topics.find_group(found, name)
            if only_new or refused.refusal.code != "conflict" or there is None:
                raise
            if there.owner is not None and not principal.may("admin", topic):
                raise Refused(Refusal("group_not_found")) from None  # as to who subscribes: whose it is tells on them
            return False, self._group_shown(there)

    async def delete_group(self, principal: Principal, topic: str, name: str) -> None:
        """Remove a group. Its subscriptions end with an error."""
        group = self._group(principal, topic, name)
        await done(lambda changed: self._gateway.topics.delete_group(group, _dismiss, changed))

    async def pause_group(self, principal: Principal, topic: str, name: str, paused: bool) -> dict[str, Any]:
        """Hand nothing out, or hand out again. Leases run on."""
        group = self._group(principal, topic, name)
        await done(lambda changed: self._gateway.topics.pause(group, paused, changed))
        return self._group_shown(group)

    async def seek_group(self, principal: Principal, topic: str, name: str, start: Start) -> dict[str, Any]:
        """Owe the group what is kept from `start` on, settled before or not. Its leases become stale."""
        group = self._group(principal, topic, name)
        await done(lambda changed: self._gateway.topics.seek(group, start, changed))
        return self._group_shown(group)

    def _members_of(self, group: Group) -> Collection[Subscription]:
        active = self._gateway.engine.core.group(group)
        return () if active is None else active.members

    def _group_shown(self, group: Group) -> dict[str, Any]:
        active = self._gateway.engine.core.group(group)
        members = () if active is None else active.members
        return {
            "name": group.name,
            "topic": group.topic.name,
            "start_seq": group.start_seq,
            "paused": group.paused,
            "owner": group.owner,
            "inactive_ttl_ms": group.inactive_ttl_ms,
            "member_count": len(members),
            "in_flight": sum(len(member.leases) for member in members),
            "ready": 0 if active is None else active.ready,
        }

    def _members_shown(self, group: Group) -> list[dict[str, Any]]:
        active = self._gateway.engine.core.group(group)
        if active is None:
            return []
        shown = [
            {
                "sub": sub.name,
                "subject": sub.session.subject,
                "connection": getattr(sub.session.link, "id", None),
                "prefetch": sub.prefetch,
                "in_flight": len(sub.leases),
                "ack_timeout_ms": int(sub.ack_timeout_s * 1000),
                "timeouts_in_a_row": sub.timeouts_in_a_row,
                "away": sub.session.away_until is not None,
            }
            for sub in active.members
        ]
        return sorted(shown, key=lambda member: (str(member["subject"]), str(member["connection"]), str(member["sub"])))


def _dismiss(subs: Sequence[Subscription]) -> None:
    """Tell the clients that their group is gone."""
    for sub in subs:
        holder: Holder = sub.session.link
        holder.dismissed(sub, "group_not_found")


def _event_shown(event: Event) -> dict[str, Any]:
    return {
        "at_ms": event.at_ms,
        "event": event.event,
        "group": event.group,
        "subject": event.subject,
        "attempt": event.attempt,
        "detail": event.detail,
    }
