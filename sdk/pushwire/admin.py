"""Managing a gateway from Python: topics, groups, dead letters, connections, revocations, over its HTTP API.

Owns the routes of docs/http.md as methods. How requests travel is admin_http.py's; nothing here is retried that could
have its effect twice.
"""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self, cast

from .admin_http import Requester, agent_of, path_of
from .admin_shapes import (
    ConnectionInfo,
    DeadLetterDetail,
    DeadLetterInfo,
    GroupDetail,
    GroupInfo,
    History,
    Peek,
    Redriven,
    RevocationInfo,
    TopicConfig,
    TopicDetail,
    TopicInfo,
)
from .options import Start, check_name, inactive_ttl_ms, wire_start
from .token_source import TokenSource

_NEW_ONLY = {"if-none-match": "*"}


class Admin:
    """The admin API of one gateway, as far as the token's rights go: it sees its own tenant only. Use it as an async
    context manager, or call `close`.

    `url`, `token`, `name`, `ssl`: as for Client (a token function is asked again once the gateway refuses its last
    one). `timeout_s`: for each request. Methods raise NotFound, Conflict, BadConfig or AdminError with the gateway's
    code; Unauthorized, Forbidden, RateLimited; NotConnected when nothing was sent; RequestTimeout, or AdminError with
    code `unavailable`, when it may or may not have had its effect; ValueError for a name that is none.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource = None,
        *,
        name: str | None = None,
        timeout_s: float = 30.0,
        ssl: ssl_module.SSLContext | None = None,
    ) -> None:
        self._http = Requester(url, token, name=agent_of(name), timeout_s=timeout_s, ssl=ssl)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connections that are kept. The next request opens one again."""
        await self._http.close()

    # --- topics ------------------------------------------------------------------------------------------------

    async def topics(self) -> AsyncIterator[TopicInfo]:
        """Every topic that the token may look after, by name, fetched by the page."""
        async for topic in self._pages(path_of("admin", "topics"), "topics", "name"):
            yield cast("TopicInfo", topic)

    async def topic(self, topic: str) -> TopicDetail:
        """One topic with its groups."""
        return cast("TopicDetail", await self._http.request("GET", _topic(topic)))

    async def create_topic(self, topic: str, config: TopicConfig | None = None) -> TopicInfo:
        """Make a topic. Raises Conflict when it is there already."""
        made = await self._http.request("PUT", _topic(topic), dict(config or {}), headers=_NEW_ONLY)
        return cast("TopicInfo", made)

    async def configure_topic(self, topic: str, config: TopicConfig, *, replace: bool = False) -> TopicInfo:
        """Set these fields of its configuration. `replace`: the others go back to their defaults, and the topic is made
        if it is not there."""
        changed = await self._http.request("PUT" if replace else "PATCH", _topic(topic), dict(config))
        return cast("TopicInfo", changed)

    async def delete_topic(self, topic: str) -> None:
        """Remove a topic with its messages, groups, dead letters and ledger."""
        await self._http.request("DELETE", _topic(topic))

    async def purge_topic(self, topic: str, through_seq: int | None = None) -> int:
        """Remove its messages, all or up to a seq, for all groups; how many there were. Dead letters stay."""
        body = {} if through_seq is None else {"through_seq": through_seq}
        return int((await self._http.request("POST", _topic(topic, "purge"), body))["removed"])

    async def peek(self, topic: str, after_seq: int = 0, limit: int | None = None) -> Peek:
        """Look at what is kept above a seq, without any effect; at most 100 messages. The next page begins at
        `through`."""
        query = {"after_seq": after_seq, "limit": limit}
        return cast("Peek", await self._http.request("GET", _topic(topic, "messages"), query=query))

    async def history(self, topic: str, seq: int) -> History:
        """Who was given a message when, and how it ended, where the topic keeps a ledger."""
        return cast("History", await self._http.request("GET", _topic(topic, "messages", seq, "history")))

    # --- groups ------------------------------------------------------------------------------------------------

    async def groups(self, topic: str) -> list[GroupInfo]:
        """The groups of a topic, by name."""
        return cast("list[GroupInfo]", (await self._http.request("GET", _topic(topic, "groups")))["groups"])

    async def group(self, topic: str, group: str) -> GroupDetail:
        """One group with its members."""
        return cast("GroupDetail", await self._http.request("GET", _group(topic, group)))

    async def create_group(
        self, topic: str, group: str, *, start: Start | None = None, inactive_ttl_s: float | None = None
    ) -> GroupInfo:
        """Make a group of a topic that is there. Raises Conflict when it is there already."""
        body: dict[str, Any] = {}
        if start is not None:
            body["start"] = _start("start", start)
        if inactive_ttl_s is not None:
            body["inactive_ttl_ms"] = inactive_ttl_ms(inactive_ttl_s)
        made = await self._http.request("PUT", _group(topic, group), body, headers=_NEW_ONLY)
        return cast("GroupInfo", made)

    async def delete_group(self, topic: str, group: str) -> None:
        """Remove a group; messages that only it was owed go with it."""
        await self._http.request("DELETE", _group(topic, group))

    async def pause_group(self, topic: str, group: str) -> GroupInfo:
        """Hand nothing out any more. Leases run on."""
        return cast("GroupInfo", await self._http.request("POST", _group(topic, group, "pause")))

    async def resume_group(self, topic: str, group: str) -> GroupInfo:
        """Undo `pause_group`."""
        return cast("GroupInfo", await self._http.request("POST", _group(topic, group, "resume")))

    async def seek_group(self, topic: str, group: str, start: Start) -> GroupInfo:
        """Owe the group what is kept from `start` on, settled before or not, and nothing below it. Its leases become
        stale."""
        body = {"start": _start("start", start)}
        return cast("GroupInfo", await self._http.request("POST", _group(topic, group, "seek"), body))

    # --- dead letters ------------------------------------------------------------------------------------------

    async def dead_letters(
        self, topic: str, *, group: str | None = None, reason: str | None = None, key: str | None = None
    ) -> AsyncIterator[DeadLetterInfo]:
        """Dead letters, oldest first, without their bodies, fetched by the page. `reason`: "failures", "deliveries",
        "rejected", "expired" or "corrupt"."""
        match = {"group": group, "reason": reason, "key": key}
        async for letter in self._pages(_topic(topic, "dead"), "dead_letters", "id", "after_id", match):
            yield cast("DeadLetterInfo", letter)

    async def dead_letter(self, topic: str, id: int) -> DeadLetterDetail:
        """One dead letter, with its body and how its attempts ended."""
        return cast("DeadLetterDetail", await self._http.request("GET", _topic(topic, "dead", id)))

    async def redrive(
        self,
        topic: str,
        ids: Sequence[int] | None = None,
        *,
        group: str | None = None,
        reason: str | None = None,
        key: str | None = None,
    ) -> Redriven:
        """Put dead letters back into the groups they died in: these, at most 1000, or all that match and had died when
        the request came. Asks until it is done, at the pace the gateway allows; cancel it at will. Raises TopicFull
        when not one fitted."""
        return Redriven(*await self._work_off(topic, "redrive", "redriven", _wanted(ids, group, reason, key)))

    async def discard(
        self,
        topic: str,
        ids: Sequence[int] | None = None,
        *,
        group: str | None = None,
        reason: str | None = None,
        key: str | None = None,
    ) -> int:
        """Remove dead letters for good, chosen as for `redrive`; how many there were."""
        count, _ = await self._work_off(topic, "discard", "discarded", _wanted(ids, group, reason, key))
        return count

    async def _work_off(self, topic: str, verb: str, counted: str, body: dict[str, Any]) -> tuple[int, str | None]:
        """Ask again from where an answer left off, until all is done: how many, and what stopped it before the end."""
        count = 0
        while True:
            answer = await self._http.request("POST", _topic(topic, "dead", verb), body)
            count += int(answer[counted])
            stopped = answer.get("stopped")
            if not answer["more"] or stopped is not None:
                return count, stopped
            _go_on(body, answer)

    # --- what goes on ------------------------------------------------------------------------------------------

    async def connections(self) -> AsyncIterator[ConnectionInfo]:
        """The WebSockets of the tenant, fetched by the page."""
        async for connection in self._pages(path_of("admin", "connections"), "connections", "id"):
            yield cast("ConnectionInfo", connection)

    async def kick(self, connection: str) -> None:
        """End a connection, with a code that tells its client not to come back; its leases go back at once."""
        await self._http.request("DELETE", path_of("admin", "connections", connection))

    async def stats(self) -> dict[str, Any]:
        """The numbers of the tenant, as the tail of `$sys.stats` has them."""
        return cast("dict[str, Any]", await self._http.request("GET", path_of("admin", "stats")))

    async def revoke(
        self, *, jti: str | None = None, subject: str | None = None, issued_before_s: int | None = None
    ) -> RevocationInfo:
        """Accept one token no longer (`jti`), or none of a subject that was issued before a second (default: now). In
        force at once, on open connections too."""
        if (jti is None) == (subject is None) or (jti is not None and issued_before_s is not None):
            raise ValueError("give jti, or subject and perhaps issued_before_s")
        given = {"jti": jti, "subject": subject, "issued_before_s": issued_before_s}
        body = {name: value for name, value in given.items() if value is not None}
        made = await self._http.request("POST", path_of("admin", "revocations"), body)
        return cast("RevocationInfo", made)

    async def revocations(self) -> list[RevocationInfo]:
        """What is revoked in the tenant, oldest first."""
        found = await self._http.request("GET", path_of("admin", "revocations"))
        return cast("list[RevocationInfo]", found["revocations"])

    async def backup(self, path: str) -> str:
        """A copy of the whole database, as of one moment, to a new file on the gateway's machine; its path there."""
        return str((await self._http.request("POST", path_of("admin", "backup"), {"path": path}))["path"])

    async def _pages(
        self, path: str, field: str, mark: str, after: str = "after", match: dict[str, Any] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Every row, page by page; the next page begins after the last row's `mark`."""
        query = dict(match or {})
        while True:
            page = await self._http.request("GET", path, query=query)
            for row in page[field]:
                yield row
            if not page["more"] or not page[field]:
                return
            query[after] = page[field][-1][mark]


def _topic(topic: str, *below: str | int) -> str:
    return path_of("admin", "topics", check_name("topic", topic), *below)


def _group(topic: str, group: str, *below: str) -> str:
    return _topic(topic, "groups", check_name("group", group), *below)


def _start(name: str, start: Start) -> Any:
    """A place as JSON has it."""
    place = wire_start(name, start)
    if isinstance(place, str):
        return place
    return {"seq": place} if place > 0 else {"time_ms": -place}


def _wanted(ids: Sequence[int] | None, group: str | None, reason: str | None, key: str | None) -> dict[str, Any]:
    """Which dead letters, as the API takes it."""
    given = {"group": group, "reason": reason, "key": key}
    match = {name: value for name, value in given.items() if value is not None}
    if ids is None:
        return {"match": match}
    if match or not ids:
        raise ValueError("choose dead letters by their ids (one at least), or by group, reason and key")
    return {"ids": list(ids)}


def _go_on(body: dict[str, Any], answer: dict[str, Any]) -> None:
    """The same request, from where its answer left off. What was named by ids and is done has these ids no longer."""
    body["before_ms"] = answer["before_ms"]
    if "ids" not in body:
        body["match"]["after_id"] = answer["after_id"]
