"""HTTP for consumers: long polls with leases, and settling them.

Owns what such a request must look like and what it is answered. Who waits for what is polling.py's; rights, limits and
guarantees are those of the socket.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pushwire.wire import decode
from pushwire.wire.frames import NAME, Extend, Subscribe
from pushwire_storage.base import Group, StoreError

from .api_base import JSON_TYPE, answer, body_of, check_rate, check_still, object_of, principal_of
from .api_wait import Handed, Presence
from .clock import to_ms
from .polling import Poll, PollSession
from .problems import SAFE_HEADERS
from .refusal import Refusal, Refused
from .rights import Principal

if TYPE_CHECKING:
    from .gateway import Gateway

SESSION: Final = "pushwire-session"
WAIT_S_MAX: Final = 30.0
"""Shorter than what proxies wait for an answer (60 s, mostly)."""

MAX_DEFAULT: Final = 32
"""As the window of a subscription that names none."""

MAX_MAX: Final = decode.PREFETCH_MAX
"""As the largest window."""

SETTLEMENTS: Final = ("ack", "nack", "reject", "release", "extend")

_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_SECONDS: Final = re.compile(r"[0-9]{1,5}(?:\.[0-9]{1,3})?")


def consume_routes(gateway: Gateway) -> list[Route]:
    """The routes of this module."""
    consumer = _Consumer(gateway)
    routes = [Route("/v1/topics/{topic}/groups/{group}/messages", consumer.poll, methods=["GET"])]
    routes += [Route(f"/v1/leases/{name}", consumer.settling(name), methods=["POST"]) for name in SETTLEMENTS]
    return only_get(routes)


def only_get(routes: list[Route]) -> list[Route]:
    """A HEAD would do what the GET does: lease, or wait."""
    for route in routes:
        if route.methods is not None:
            route.methods.discard("HEAD")
    return routes


class _Consumer:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    # --- long polls --------------------------------------------------------------------------------------------

    async def poll(self, request: Request) -> Response:
        """Up to `max` messages, leased to the session; waits up to `wait` seconds for the first."""
        gateway = self._gateway
        principal = await principal_of(gateway, request)
        topic, group = request.path_params["topic"], request.path_params["group"]
        if not principal.may("consume", topic, group):
            raise Refused(Refusal(_why_not(topic, group)))
        wait_s = seconds(request, "wait", 0.0, 0.0, WAIT_S_MAX)
        count = integer(request, "max", MAX_DEFAULT, 1, MAX_MAX)
        timeout_s = seconds(
            request, "ack_timeout", None, decode.ACK_TIMEOUT_MS_MIN / 1000, decode.ACK_TIMEOUT_MS_MAX / 1000
        )
        secret = secret_of(request)
        self._may_ask(secret, principal)
        gateway.polls.take_place(principal)
        presence = Presence(request)
        try:
            found = await self._group(presence, principal, Subscribe(topic, group))
            check_still(gateway, principal)
            usual_s = (found.topic.config.ack_timeout_ms or to_ms(gateway.settings.ack_timeout_s)) / 1000
            ack_timeout_s = min(timeout_s or usual_s, gateway.settings.ack_timeout_s_max)
            session = gateway.polls.session(secret, principal)
            return await self._wait(presence, session, found, count, wait_s or 0.0, ack_timeout_s, principal)
        except BaseException:
            presence.close()
            gateway.polls.leave_place(principal)
            raise

    def _may_ask(self, secret: str | None, principal: Principal) -> None:
        gateway = self._gateway
        if gateway.draining:
            raise Refused(Refusal("going_away", retry_after_ms=1000))
        held = None if secret is None else gateway.registry.find(secret, principal)
        check_rate(gateway, principal, None if held is None else held.secret)

    async def _group(self, presence: Presence, principal: Principal, wanted: Subscribe) -> Group:
        found: asyncio.Future[Group | Refusal] = asyncio.get_running_loop().create_future()

        def ready(group: Group | None, refusal: Refusal | None) -> None:
            if not found.done():
                found.set_result(group if group is not None else refusal or Refusal("internal"))

        self._gateway.find_group(principal, wanted, ready)
        await presence.wait(found)
        group = found.result()
        if isinstance(group, Refusal):
            raise Refused(group)
        return group

    async def _wait(
        self,
        presence: Presence,
        session: PollSession,
        group: Group,
        count: int,
        wait_s: float,
        ack_timeout_s: float,
        principal: Principal,
    ) -> Response:
        held = session.held
        assert held is not None  # it has just been found or made
        secret, poll = held.secret, None
        session.admit(principal)
        try:
            poll = session.begin(group, count, wait_s, ack_timeout_s, principal)
            await presence.wait(poll.answered)
            body = b'{"messages":[%b]}' % poll.answered.result()
        except BaseException:
            if poll is not None:
                session.abandon(poll)
            session.leave()
            raise
        return self._handed(presence, session, poll, secret, body, principal)

    def _handed(
        self, presence: Presence, session: PollSession, poll: Poll, secret: str, body: bytes, principal: Principal
    ) -> Response:
        def lost() -> None:
            session.abandon(poll)

        def over() -> None:
            session.told = session.told or not presence.gone
            session.leave()
            self._gateway.polls.leave_place(principal)

        return Handed(body, {"content-type": JSON_TYPE, SESSION: secret, **SAFE_HEADERS}, presence, lost, over)

    # --- settle ------------------------------------------------------------------------------------------------

    def settling(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """The route of one settlement."""

        async def settle(request: Request) -> Response:
            return await self._settle(request, name)

        return settle

    async def _settle(self, request: Request, name: str) -> Response:
        """End these leases, or extend them. Answers when that is durable. Never refused for a rate."""
        gateway = self._gateway
        principal = await principal_of(gateway, request)
        body = object_of(await body_of(request, gateway.settings.http_body_bytes_max), 'an object: {"leases": [...]}')
        secret = secret_of(request)
        if secret is None:
            raise Refused(Refusal("bad_request", f"name the session in the header {SESSION}"))
        try:
            frame = decode.settlement(name, body)
        except decode.Invalid as exc:
            raise Refused(Refusal(exc.code, str(exc))) from None
        with Presence(request, half_closed=True) as presence:  # it is told what was done, whoever it is
            await self._relief(presence)
            check_still(gateway, principal)
            held, now = gateway.registry.find(secret, principal), gateway.clock.now()
            holder = None if held is None else held.holder
            session = holder if isinstance(holder, PollSession) else None
            if session is not None:
                session.admit(principal)
            try:
                stale, deadline = gateway.settle(held, frame, now)
                shown: dict[str, object] = {"settled": len(set(frame.leases)) - len(stale), "stale": list(stale)}
                if type(frame) is Extend:
                    shown["expires_in_ms"] = max(0, to_ms(deadline - now)) if shown["settled"] else 0
                    gateway.engine.turn()
                else:
                    await self._committed(presence)
            finally:
                if session is not None:
                    session.leave()
            return answer(shown)

    async def _relief(self, presence: Presence) -> None:
        """So much is settled and not durable that more may not be taken in: wait, as a socket would not be read."""
        batcher = self._gateway.engine.batcher
        while batcher.behind:
            relieved: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def relieve(relieved: asyncio.Future[None] = relieved) -> None:
                if not relieved.done():
                    relieved.set_result(None)

            batcher.when_relieved(relieve)
            try:
                await presence.wait(relieved)
            finally:
                batcher.forget_relief(relieve)

    async def _committed(self, presence: Presence) -> None:
        engine = self._gateway.engine
        over: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()

        def committed(error: StoreError | None) -> None:
            if not over.done():
                over.set_result(error)

        engine.after_commit(committed)
        engine.turn()
        await presence.wait(over)
        error = over.result()
        if error is not None:
            raise Refused(Refusal(error.code))


# ---- what a request says


def secret_of(request: Request) -> str | None:
    """The session that a request names. Raises Refused."""
    given = request.headers.getlist(SESSION)
    if not given:
        return None
    if len(given) > 1 or not 0 < len(given[0]) <= decode.SESSION_CHARS_MAX or not given[0].isascii():
        raise Refused(Refusal("bad_request", f"{SESSION} is one session of 1 to {decode.SESSION_CHARS_MAX} characters"))
    return given[0]


def one(request: Request, name: str) -> str | None:
    """A field of the query. Raises Refused."""
    given = request.query_params.getlist(name)
    if len(given) > 1:
        raise Refused(Refusal("bad_request", f"{name} stands there twice"))
    return given[0] if given else None


def seconds(request: Request, name: str, default: float | None, low: float, high: float) -> float | None:
    """A time in the query. Raises Refused."""
    text = one(request, name)
    if text is None:
        return default
    if not _SECONDS.fullmatch(text) or not low <= float(text) <= high:
        raise Refused(Refusal("bad_request", f"{name} is a number of seconds from {low:g} to {high:g}"))
    return float(text)


def integer(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A number in the query. Raises Refused."""
    text = one(request, name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise Refused(Refusal("bad_request", f"{name} is a number from {low} to {high}"))
    return int(text)


def _why_not(topic: str, group: str) -> str:
    if not NAME.fullmatch(topic):
        return "bad_topic"
    return "forbidden" if NAME.fullmatch(group) else "bad_group"
