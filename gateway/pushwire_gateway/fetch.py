"""One GET of one configured https address: bounded in time and size, and it goes nowhere else.

Owns the address rule and the exchange. No redirect is followed, no environment is read, nothing a client or a server
says changes where a request goes; a response is a body or a failure. Knows nothing of what is fetched.

Written on asyncio and the parser the listener has, because the library's own client blocks a thread, bounds only the
single read, not the whole exchange, and brings redirects, proxies of the environment and authentication, each of
which would have to be turned off.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from .settings import ConfigError

FETCH_TIMEOUT_S: Final = 5.0
"""From the look-up of the name to the last byte of the body."""

BODY_BYTES_MAX: Final = 1024 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
"""Bytes on the wire besides the body: head, sizes of chunks, trailer."""

READ_BYTES: Final = 64 * 1024


class FetchFailed(Exception):
    """No body. The text says why, for logs; it has nothing of what the server sent but its status."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        """For logs: without the query, which may be a secret."""
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.path.partition('?')[0]}"


def parse_address(url: str, *, allow_http_loopback: bool = False) -> Address:
    """The address of an https URL; of an http one if that is allowed and the host is this machine. Raises ConfigError.

    No names and passwords in it, no fragment, nothing but ASCII: what stands in a request line must not be ambiguous.
    """
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ConfigError("jwks_url: an URL has printable ASCII characters only, and no spaces or backslashes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("jwks_url: not a valid URL") from None
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise ConfigError("jwks_url: https://<host>[:<port>]/<path> is expected")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ConfigError("jwks_url: no user, no password and no fragment, please")
    secure = parts.scheme == "https"
    if not secure and not (allow_http_loopback and _is_loopback(host)):
        raise ConfigError(
            "jwks_url: only https: whoever can change the answer on its way can sign tokens "
            "(http to this machine itself: jwks_allow_http_loopback)"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(secure, host, port or (443 if secure else 80), path)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


async def fetch(address: Address, tls: ssl.SSLContext | None) -> bytes:
    """The body of a 200. Raises FetchFailed for everything else. `tls` is not used for http."""
    try:
        async with asyncio.timeout(FETCH_TIMEOUT_S):
            return await _exchange(address, tls)
    except TimeoutError:
        # Before OSError, of which it is one: the system's own time-out means the same.
        raise FetchFailed(f"no complete answer within {FETCH_TIMEOUT_S:g} s") from None
    except ssl.SSLError as error:
        raise FetchFailed(f"TLS failed ({error.reason or type(error).__name__})") from None
    except OSError as error:
        raise FetchFailed(f"no connection ({error.strerror or type(error).__name__})") from None


async def _exchange(address: Address, tls: ssl.SSLContext | None) -> bytes:
    if address.secure and tls is None:
        raise FetchFailed("https without TLS")  # asyncio would speak plain HTTP, and nobody would notice
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=tls if address.secure else None, limit=READ_BYTES
    )
    try:
        lines = (
            f"GET {address.path} HTTP/1.1",
            f"Host: {address.authority}",
            "Accept: application/jwk-set+json, application/json",
            "Accept-Encoding: identity",
            "Connection: close",
            "User-Agent: pushwire",
        )
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        answer = _Answer()
        while not answer.complete and (data := await reader.read(READ_BYTES)):
            answer.feed(data)
        return answer.at_end()
    finally:
        # Not `close`: nothing is to be said any more, and nobody is to be waited for.
        writer.transport.abort()


class _Answer:
    """A response as it comes in, refused as soon as it is not what was asked for. The methods without a docstring are
    the parser's callbacks; what they raise it would wrap, so they only note why they do not want more."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._raw_bytes = 0
        self._body = bytearray()
        self._fault = ""
        self._until_eof = True
        self._has_head = False
        self.complete = False

    def feed(self, data: bytes) -> None:
        self._raw_bytes += len(data)
        if self._raw_bytes > BODY_BYTES_MAX + HEAD_BYTES_MAX or (
            not self._has_head and self._raw_bytes > HEAD_BYTES_MAX + READ_BYTES
        ):
            raise FetchFailed("the answer is too large")
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            raise FetchFailed("the answer asks for another protocol") from None
        except HttpParserError:
            if not self._fault:
                raise FetchFailed("the answer is no HTTP") from None
        if self._fault:
            raise FetchFailed(self._fault)

    def at_end(self) -> bytes:
        """The body, once everything has come or the server has closed."""
        if not self._has_head:
            raise FetchFailed("the server closed without an answer")
        if not self.complete and not self._until_eof:
            raise FetchFailed("the answer ends before its end")
        return bytes(self._body)

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._until_eof = False  # RFC 9112 §6.3: without either, the body ends with the connection
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            self._fault = self._fault or "the answer is compressed, which it was asked not to be"

    def on_headers_complete(self) -> None:
        self._has_head = True
        status = self._parser.get_status_code()
        if status != 200:
            moved = ": redirects are not followed" if 300 <= status < 400 else ""
            self._fault = f"status {status}{moved}"

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > BODY_BYTES_MAX:
            self._fault = self._fault or "the answer is too large"

    def on_message_complete(self) -> None:
        self.complete = True
