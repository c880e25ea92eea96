"""Requests to a gateway's HTTP API: a small pool of connections, the token, and problem documents as errors.

Owns when a request may be sent again: never when it could have had its effect twice. Knows no route.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from .address import http_address
from .backoff import Reason
from .errors import AdminError, NotConnected, ProtocolError, RequestTimeout, Unauthorized, from_problem
from .http_link import BadHttp, Dropped, HttpLink, Response
from .token_source import TokenSource, fetch_token
from .version import __version__
from .wire.codec import BadJson, dumps, loads

CONNECTIONS_MAX = 4
"""Requests at once of one Admin; more wait. As many as an operator's script or a dashboard's backend needs."""
_IDEMPOTENT = frozenset({"GET", "PUT", "PATCH", "DELETE"})
"""May be sent twice (RFC 9110 §9.2.2; ours sets fields to values, so PATCH is one too)."""


def path_of(*parts: str | int) -> str:
    """A path of the API."""
    return "/v1/" + "/".join(quote(str(part), safe=":") for part in parts)


class Requester:
    """Sends requests to one gateway. For one event loop."""

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        name: str,
        timeout_s: float,
        ssl: ssl_module.SSLContext | None,
    ) -> None:
        self._address = http_address(url)
        self._source = token
        self._token: str | None = None
        self._agent = name
        self._timeout_s = timeout_s
        self._ssl = ssl
        self._idle: list[HttpLink] = []
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer's JSON; None where it has no body. `query`: without those that are None. Raises NotConnected
        (nothing was sent), RequestTimeout and AdminError `unavailable` (it may or may not have had its effect),
        ProtocolError, and the error of what the gateway refused."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = path + ("?" + urlencode(given) if given else "")
        content = None if body is None else dumps(body)
        try:
            async with asyncio.timeout(self._timeout_s), self._slots:
                response = await self._authorised(method, target, headers or {}, content)
        except TimeoutError:
            raise RequestTimeout(
                f"no answer within {self._timeout_s} s; it may or may not have had its effect"
            ) from None
        return _answer(response)

    async def _authorised(
        self, method: str, target: str, headers: Mapping[str, str], content: bytes | None
    ) -> Response:
        reason: Reason = "connect"
        while True:
            if self._token is None:
                self._token = await fetch_token(self._source, reason)
            shown = self._token
            fields = {"user-agent": self._agent, "accept": "application/json", **headers}
            if shown is not None:
                fields["authorization"] = f"Bearer {shown}"
            response = await self._exchange(method, target, fields, content)
            if response.status != 401 or reason == "rejected" or not callable(self._source):
                return response
            reason = "rejected"  # refused before anything was done: with another token it may be asked again
            if self._token == shown:
                self._token = None

    async def _exchange(self, method: str, target: str, fields: Mapping[str, str], content: bytes | None) -> Response:
        link = await self._link()
        try:
            try:
                response = await link.request(method, target, fields, content)
            except Dropped as exc:
                if not link.used or exc.begun or method not in _IDEMPOTENT:
                    raise
                # It had been dropped while it rested; that is no verdict on the gateway.
                link.abort()
                link = await self._connect()
                response = await link.request(method, target, fields, content)
        except Dropped:
            link.abort()
            raise AdminError(
                "the connection ended before the answer; the request may or may not have had its effect",
                code="unavailable",
                retryable=True,
            ) from None
        except BadHttp as exc:
            link.abort()
            raise ProtocolError(f"no gateway to be had there: {exc}") from None
        except BaseException:
            link.abort()
            raise
        now = asyncio.get_running_loop().time()
        link.rest(now)
        if link.usable(now):
            self._idle.append(link)
        else:
            link.abort()
        return response

    async def _link(self) -> HttpLink:
        now = asyncio.get_running_loop().time()
        while self._idle:
            link = self._idle.pop()
            if link.usable(now):
                return link
            link.abort()
        return await self._connect()

    async def _connect(self) -> HttpLink:
        try:
            return await HttpLink.open(self._address, self._ssl)
        except OSError as exc:
            raise NotConnected(f"no connection to the gateway: {exc}") from exc

    async def close(self) -> None:
        """End the connections that rest."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(link.close() for link in idle))


def agent_of(name: str | None) -> str:
    """The User-Agent."""
    return f"pushwire/{__version__}" + (f" ({name})" if name else "")


def _answer(response: Response) -> Any:
    try:
        value = loads(response.body) if response.body else None
    except BadJson:
        value = None
        if 200 <= response.status < 300:
            raise ProtocolError("no gateway to be had there: the answer is not JSON") from None
    if 200 <= response.status < 300:
        return value
    if 300 <= response.status < 400:  # followed, it would carry the token to an address the user did not name
        raise ProtocolError(f"no gateway to be had there: HTTP {response.status}")
    after = response.headers.get("retry-after", "")
    problem = value if isinstance(value, dict) else {}
    if response.status == 401 and not problem:
        raise Unauthorized("the gateway did not accept the token")
    raise from_problem(problem, response.status, float(after) if after.isdecimal() else None)
