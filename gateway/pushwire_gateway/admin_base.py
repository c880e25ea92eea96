"""What every part of the admin API needs: rights, names, and changes as something one awaits.

Owns the checks before anything is done. Does nothing itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pushwire.wire.codec import b64encode, loads
from pushwire.wire.frames import NAME
from pushwire_storage.base import JSON, TEXT, Catalog, Group, Message, StoreError, Topic

from .refusal import Refusal, Refused
from .rights import Principal, Verb

if TYPE_CHECKING:
    from .gateway import Gateway

PAGE_MAX = 1000
"""Entries of one answer, whatever they are."""
BUSY_RETRY_MS = 1000
"""When to come back after too many long operations at once: most take less."""


class AdminBase:
    """The part that checks."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._long: Counter[str] = Counter()  # long operations that run, by tenant

    @contextmanager
    def long(self, principal: Principal) -> Iterator[None]:
        """Around what takes long or much memory: so many run at once and no more, of one tenant half of them, so that
        one tenant's administrators do not keep the others out. Raises Refused, `busy`."""
        most, tenant = self._gateway.settings.admin_long_max, principal.tenant
        if self._long.total() >= most or self._long[tenant] >= (most + 1) // 2:
            raise Refused(Refusal("busy", "too many long operations of administrators at once", BUSY_RETRY_MS))
        self._long[tenant] += 1
        try:
            yield
        finally:
            self._long[tenant] -= 1
            if not self._long[tenant]:
                del self._long[tenant]

    def _topic(self, principal: Principal, name: str, *verbs: Verb) -> Topic:
        """The topic, for a principal that has one of these rights on it (default: admin)."""
        if not any(principal.may(verb, name) for verb in verbs or ("admin",)):
            raise Refused(Refusal("forbidden" if NAME.fullmatch(name) else "bad_topic"))
        topic = self._gateway.topics.find(principal.tenant, name)
        if topic is None:
            raise Refused(Refusal("topic_not_found"))
        return topic

    def _group(self, principal: Principal, topic: str, name: str) -> Group:
        group = self._gateway.topics.find_group(self._topic(principal, topic), name)
        if group is None:
            raise Refused(Refusal("group_not_found" if NAME.fullmatch(name) else "bad_group"))
        return group

    def _of_tenant(self, principal: Principal) -> str:
        """The tenant, for a principal that may look after all of it."""
        if not principal.may("admin", None):
            raise Refused(Refusal("forbidden"))
        return principal.tenant

    @property
    def _catalog(self) -> Catalog:
        return self._gateway.engine.store.catalog()


async def done(begin: Callable[[Callable[[StoreError | None], None]], None]) -> None:
    """Begin a change, and wait until it is durable. Raises Refused with the store's code."""
    over: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()

    def changed(error: StoreError | None) -> None:
        if not over.done():  # cancelled: who asked is gone, the change is not
            over.set_result(error)

    begin(changed)
    error = await over
    if error is not None:
        raise Refused(Refusal(error.code, str(error)))


def page(limit: int | None, most: int = PAGE_MAX) -> int:
    """How many entries to give."""
    wanted = most if limit is None else limit
    if not 1 <= wanted <= most:
        raise Refused(Refusal("bad_request", f"limit must be 1 to {most}"))
    return wanted


def message_shown(message: Message, *, body: bool = True) -> dict[str, Any]:
    """A message for people, with the names of the wire."""
    shown: dict[str, Any] = {
        "seq": message.seq,
        "id": message.id,
        "priority": message.priority,
        "published_at_ms": message.published_at_ms,
        "size_bytes": message.size_bytes,
    }
    for name in ("key", "content_type", "due_ms", "expires_ms"):
        value = getattr(message, name)
        if value is not None:
            shown[name] = value
    if message.redriven:
        shown["redriven"] = True
    if message.headers is not None:
        shown["headers"] = loads(message.headers)
    if body:
        if message.encoding == JSON:
            shown["data"] = loads(message.data)
        elif message.encoding == TEXT:
            shown["data_text"] = message.data.decode()
        else:
            shown["data_b64"] = b64encode(message.data)
    return shown
