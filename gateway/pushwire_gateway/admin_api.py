"""HTTP: the routes of administrators, `/v1/admin/…`, as docs/http.md has them.

Owns what of a request is taken, in which form, and what an answer's status is. What is done, and whether it may be, is
admin*.py's. Order of checks: token, form of query and body, right, names, whether it is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pushwire.wire import decode
from pushwire.wire.codec import INTEGER_MAX
from pushwire.wire.frames import NAME, Start
from pushwire_storage.base import DeadFilter

from .admin import Admin
from .admin_base import PAGE_MAX
from .admin_dead import Wanted
from .admin_topics import PEEK_MAX
from .api_base import answer, body_of, check_rate, check_still, object_of, principal_of, problem
from .api_wait import Presence
from .gateway import Gateway
from .problems import SAFE_HEADERS
from .refusal import Refusal, Refused
from .rights import Principal

log = structlog.get_logger("pushwire.admin")

IDS_MAX: Final = 1000
"""Dead letters named by one request: as many as one transaction puts back."""
REASONS: Final = ("failures", "deliveries", "rejected", "expired", "corrupt")
MADE, GONE, PRECONDITION_FAILED = 201, 204, 412

Handler = Callable[[Request, Principal], Awaitable[Response]]


def admin_routes(gateway: Gateway) -> list[Route]:
    """Every route of the admin API."""
    api = _AdminApi(gateway)
    topics = "/v1/admin/topics"
    topic = topics + "/{topic}"
    group = topic + "/groups/{group}"
    table: list[tuple[str, str, Handler]] = [
        ("GET", topics, api.topics),
        ("GET", topic, api.topic),
        ("PUT", topic, api.put_topic),
        ("PATCH", topic, api.configure_topic),
        ("DELETE", topic, api.delete_topic),
        ("POST", topic + "/purge", api.purge),
        ("GET", topic + "/messages", api.peek),
        ("GET", topic + "/messages/{seq}/history", api.history),
        ("GET", topic + "/groups", api.groups),
        ("GET", group, api.group),
        ("PUT", group, api.put_group),
        ("DELETE", group, api.delete_group),
        ("POST", group + "/pause", api.pause),
        ("POST", group + "/resume", api.resume),
        ("POST", group + "/seek", api.seek),
        ("GET", topic + "/dead", api.dead_letters),
        ("POST", topic + "/dead/redrive", api.redrive),
        ("POST", topic + "/dead/discard", api.discard),
        ("GET", topic + "/dead/{id}", api.dead_letter),
        ("GET", "/v1/admin/connections", api.connections),
        ("DELETE", "/v1/admin/connections/{id}", api.kick),
        ("GET", "/v1/admin/stats", api.stats),
        ("GET", "/v1/admin/revocations", api.revocations),
        ("POST", "/v1/admin/revocations", api.revoke),
        ("POST", "/v1/admin/backup", api.backup),
    ]
    return _joined(gateway, table)


def _joined(gateway: Gateway, table: list[tuple[str, str, Handler]]) -> list[Route]:
    """One route a path, so that another method is answered 405 with all that are allowed."""
    by_path: dict[str, dict[str, Handler]] = {}
    for method, path, handler in table:
        by_path.setdefault(path, {})[method] = handler
    return [Route(path, _dispatch(gateway, methods), methods=list(methods)) for path, methods in by_path.items()]


def _dispatch(gateway: Gateway, methods: Mapping[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        principal = await principal_of(gateway, request)
        handler = methods["GET" if request.method == "HEAD" else request.method]
        if request.method in ("GET", "HEAD"):
            # Changes wait for their commit. And whoever floods with a stolen token must not keep it from being revoked.
            check_rate(gateway, principal)
            return await handler(request, principal)
        return await _noted(handler, request, principal)

    return endpoint


async def _noted(handler: Handler, request: Request, principal: Principal) -> Response:
    """Do it, and leave one line in the log: who did what to what, and how it ended. Never a body."""
    outcome = "failed"
    try:
        response = await handler(request, principal)
        outcome = str(response.status_code)
    except Refused as refused:
        outcome = refused.refusal.code
        raise
    finally:
        who = {"tenant": principal.tenant, "subject": principal.subject}
        log.info("admin action", method=request.method, path=request.url.path, outcome=outcome, **who)
    return response


class _AdminApi:
    """The handlers. Each is given who asks."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._settings = gateway.settings
        self._admin = Admin(gateway)

    async def _body(self, request: Request, who: Principal) -> dict[str, Any]:
        """The JSON object that came with the request; none at all is an empty one. Raises Refused, Gone."""
        if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
            return {}
        body = await body_of(request, self._settings.http_body_bytes_max)
        check_still(self._gateway, who)
        return object_of(body)

    # --- topics ------------------------------------------------------------------------------------------------

    async def topics(self, request: Request, who: Principal) -> Response:
        after = _mark(request)
        return answer(await self._admin.topics(who, after, _limit(request)))

    async def topic(self, request: Request, who: Principal) -> Response:
        return answer(await self._admin.topic(who, _topic(request)))

    async def put_topic(self, request: Request, who: Principal) -> Response:
        config, only_new = await self._body(request, who), _only_new(request)
        try:
            made, shown = await self._admin.put_topic(who, _topic(request), config, only_new=only_new)
        except Refused as refused:
            return _precondition(refused, only_new)
        return answer(shown, MADE if made else 200)

    async def configure_topic(self, request: Request, who: Principal) -> Response:
        config = await self._body(request, who)
        return answer(await self._admin.configure_topic(who, _topic(request), config))

    async def delete_topic(self, request: Request, who: Principal) -> Response:
        await self._admin.delete_topic(who, _topic(request))
        return _nothing()

    async def purge(self, request: Request, who: Principal) -> Response:
        body = await self._body(request, who)
        through_seq = _integer(body, "through_seq", 0)
        if through_seq is None and "through_seq" in body:
            # A null is more likely somebody's missing number than the wish to remove everything.
            raise Refused(Refusal("bad_request", "through_seq must be an integer, or not there at all"))
        if strange := sorted(set(body) - {"through_seq"}):
            # Likewise: everything would be gone before anybody saw that the name was mistyped.
            raise Refused(Refusal("bad_request", f"a purge has no field {strange[0]!r}"))
        return answer(await self._admin.purge_topic(who, _topic(request), through_seq))

    async def peek(self, request: Request, who: Principal) -> Response:
        after_seq, limit = _query_integer(request, "after_seq", 0), _limit(request, PEEK_MAX)
        with self._admin.long(who):
            return answer(await self._admin.peek(who, _topic(request), after_seq or 0, limit))

    async def history(self, request: Request, who: Principal) -> Response:
        return answer(await self._admin.history(who, _topic(request), _path_integer(request, "seq")))

    # --- groups ------------------------------------------------------------------------------------------------

    async def groups(self, request: Request, who: Principal) -> Response:
        return answer(await self._admin.groups(who, _topic(request)))

    async def group(self, request: Request, who: Principal) -> Response:
        return answer(await self._admin.group(who, _topic(request), _group(request)))

    async def put_group(self, request: Request, who: Principal) -> Response:
        body, only_new = await self._body(request, who), _only_new(request)
        start, ttl_ms = _start(body), _integer(body, "inactive_ttl_ms", 0)
        try:
            made, shown = await self._admin.put_group(
                who, _topic(request), _group(request), start, ttl_ms, only_new=only_new
            )
        except Refused as refused:
            return _precondition(refused, only_new)
        return answer(shown, MADE if made else 200)

    async def delete_group(self, request: Request, who: Principal) -> Response:
        await self._admin.delete_group(who, _topic(request), _group(request))
        return _nothing()

    async def pause(self, request: Request, who: Principal) -> Response:
        return await self._set_paused(request, who, paused=True)

    async def resume(self, request: Request, who: Principal) -> Response:
        return await self._set_paused(request, who, paused=False)

    async def _set_paused(self, request: Request, who: Principal, *, paused: bool) -> Response:
        await self._body(request, who)
        return answer(await self._admin.pause_group(who, _topic(request), _group(request), paused))

    async def seek(self, request: Request, who: Principal) -> Response:
        start = _start(await self._body(request, who))
        if start is None:
            raise Refused(Refusal("bad_request", "start is missing"))
        return answer(await self._admin.seek_group(who, _topic(request), _group(request), start))

    # --- dead letters ------------------------------------------------------------------------------------------

    async def dead_letters(self, request: Request, who: Principal) -> Response:
        query = request.query_params
        given = {name: query[name] for name in ("group", "reason", "key") if name in query}
        match = _match({**given, "after_id": _query_integer(request, "after_id", 0)})
        with self._admin.long(who):
            return answer(await self._admin.dead_letters(who, _topic(request), match, _limit(request)))

    async def dead_letter(self, request: Request, who: Principal) -> Response:
        return answer(await self._admin.dead_letter(who, _topic(request), _path_integer(request, "id")))

    async def redrive(self, request: Request, who: Principal) -> Response:
        wanted = _wanted(await self._body(request, who))
        with self._admin.long(who), Presence(request) as presence:
            return answer(await self._admin.redrive(who, _topic(request), wanted, lambda: not presence.gone))

    async def discard(self, request: Request, who: Principal) -> Response:
        wanted = _wanted(await self._body(request, who))
        with self._admin.long(who), Presence(request) as presence:
            return answer(await self._admin.discard(who, _topic(request), wanted, lambda: not presence.gone))

    # --- what goes on ------------------------------------------------------------------------------------------

    async def connections(self, request: Request, who: Principal) -> Response:
        return answer(await self._admin.connections(who, _mark(request), _limit(request)))

    async def kick(self, request: Request, who: Principal) -> Response:
        await self._admin.kick(who, request.path_params["id"])
        return _nothing()

    async def stats(self, request: Request, who: Principal) -> Response:
        return answer(await self._admin.stats(who))

    async def revocations(self, request: Request, who: Principal) -> Response:
        return answer(await self._admin.revocations(who))

    async def revoke(self, request: Request, who: Principal) -> Response:
        body = await self._body(request, who)
        jti, subject = _string(body, "jti"), _string(body, "subject")
        before_s = _integer(body, "issued_before_s", 0)
        return answer(await self._admin.revoke(who, jti=jti, subject=subject, issued_before_s=before_s), MADE)

    async def backup(self, request: Request, who: Principal) -> Response:
        name = _string(await self._body(request, who), "path")
        if name is None:
            raise Refused(Refusal("bad_request", "path is missing"))
        with self._admin.long(who):
            return answer(await self._admin.backup(who, name), MADE)


# --- what requests carry -------------------------------------------------------------------------------------------


def _topic(request: Request) -> str:
    return str(request.path_params["topic"])


def _group(request: Request) -> str:
    return str(request.path_params["group"])


def _only_new(request: Request) -> bool:
    return request.headers.get("if-none-match", "").strip() == "*"


def _precondition(refused: Refused, only_new: bool) -> Response:
    """RFC 9110 §13.1.2: 412, where the request itself said that nothing may be there."""
    if not (only_new and refused.refusal.code == "conflict"):
        raise refused
    return problem(refused.refusal, PRECONDITION_FAILED)


def _nothing() -> Response:
    return Response(status_code=GONE, headers=SAFE_HEADERS)


def _mark(request: Request) -> str:
    """The mark of the last row of the page before."""
    return request.query_params.get("after", "")


def _limit(request: Request, most: int = PAGE_MAX) -> int | None:
    limit = _query_integer(request, "limit", 1)
    if limit is not None and limit > most:
        raise Refused(Refusal("bad_request", f"limit must be 1 to {most}"))
    return limit


def _decimal(text: str, name: str, low: int) -> int:
    # Not int(): it takes signs, blanks, underscores and other scripts' digits.
    if text.isascii() and text.isdecimal() and len(text) <= 16 and low <= int(text) <= INTEGER_MAX:
        return int(text)
    raise Refused(Refusal("bad_request", f"{name} must be an integer from {low} to {INTEGER_MAX}"))


def _query_integer(request: Request, name: str, low: int) -> int | None:
    text = request.query_params.get(name)
    return None if text is None else _decimal(text, name, low)


def _path_integer(request: Request, name: str) -> int:
    return _decimal(request.path_params[name], name, 1)


def _integer(body: Mapping[str, Any], name: str, low: int) -> int | None:
    value = body.get(name)
    if value is None or (type(value) is int and low <= value <= INTEGER_MAX):
        return value
    raise Refused(Refusal("bad_request", f"{name} must be an integer from {low} to {INTEGER_MAX}"))


def _string(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None or type(value) is str:
        return value
    raise Refused(Refusal("bad_request", f"{name} must be a string"))


def _start(body: dict[str, Any]) -> Start | None:
    try:
        return decode.start(body, "start")
    except decode.Invalid as exc:
        raise Refused(Refusal(exc.code, str(exc))) from None


def _match(given: Mapping[str, Any]) -> DeadFilter:
    """Which dead letters, by what they have in common. Unknown fields are refused: one that is mistyped must not make
    the match wider."""
    unknown = given.keys() - {"group", "reason", "key", "after_id"}
    if unknown:
        raise Refused(Refusal("bad_request", f"match has no field {min(unknown)[:64]!r}"))
    group, reason, key = _string(given, "group"), _string(given, "reason"), _string(given, "key")
    if group is not None and not NAME.fullmatch(group):
        raise Refused(Refusal("bad_group"))
    if reason is not None and reason not in REASONS:
        raise Refused(Refusal("bad_request", f"reason must be one of {', '.join(REASONS)}"))
    if key is not None and not 1 <= len(key.encode()) <= decode.KEY_BYTES_MAX:
        raise Refused(Refusal("bad_request", f"key must be 1 to {decode.KEY_BYTES_MAX} bytes of UTF-8"))
    return DeadFilter(group, reason, key, _integer(given, "after_id", 0) or 0)


def _wanted(body: Mapping[str, Any]) -> Wanted:
    ids, match, before_ms = body.get("ids"), body.get("match"), _integer(body, "before_ms", 0)
    if (ids is None) == (match is None):
        raise Refused(Refusal("bad_request", "give ids or match: one of the two"))
    if ids is None:
        if type(match) is not dict:
            raise Refused(Refusal("bad_request", "match must be an object"))
        return Wanted(match=_match(match), before_ms=before_ms)
    if type(ids) is not list or not ids or not all(type(id) is int and 1 <= id <= INTEGER_MAX for id in ids):
        raise Refused(Refusal("bad_request", "ids must be a non-empty list of positive integers"))
    if len(ids) > IDS_MAX:
        raise Refused(Refusal("batch_too_large", f"at most {IDS_MAX} ids"))
    return Wanted(ids=ids, before_ms=before_ms)
