"""Every error the SDK raises, and how a refusal or a close code of the gateway becomes one.

Owns the hierarchy; sends nothing and decides no retry. `code` is stable and is what programs compare; the text is for
people.

    PushwireError
    ├── NotConnected            no connection within the time allowed; nothing was sent
    │   └── ClientClosed        this client was closed, or the gateway ended it for good
    ├── RequestTimeout          no answer in time: the request may or may not have had its effect
    ├── AuthError
    │   ├── Unauthorized        the token was not accepted; a token callable raises it to stop the client
    │   └── Forbidden           the token does not allow this
    ├── RateLimited
    ├── PublishError            the message was refused
    │   ├── MessageTooLarge
    │   ├── IdConflict          the id was used for a message with other content
    │   ├── TopicFull
    │   └── BatchError          some messages of a publish_many were refused
    ├── SubscribeError          the subscription was refused, or ended by the gateway
    │   ├── ConsumerUnhealthy   it let lease after lease run out
    │   └── EpochChanged        the gateway's database was restored: the place in a tail means nothing any more
    ├── SettleError             a message could not be settled
    │   ├── LeaseLost           it is no longer ours, and will be delivered again
    │   └── AlreadySettled      it was settled before
    ├── AdminError              what an Admin asked for was refused
    │   ├── NotFound            no such topic, group, dead letter or connection
    │   ├── Conflict            it contradicts what is there
    │   └── BadConfig           a configuration that is none
    └── ProtocolError           the two sides do not understand each other
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from .wire.codes import CLOSES, ERRORS
from .wire.frames import Error, Receipt


class PushwireError(Exception):
    """Base of all. `code`: stable name. `retryable`: the same call may succeed later, not before `retry_after_s`."""

    code = "error"
    retryable = False

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message or self.__class__.__name__)
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable
        self.retry_after_s = retry_after_s


class NotConnected(PushwireError):
    """There was no connection in the time allowed, and nothing was sent. `__cause__`: why the last attempt failed."""

    code = "not_connected"
    retryable = True


class ClientClosed(NotConnected):
    """The client was closed, by this program or by the gateway, and will not connect again."""

    code = "closed"
    retryable = False


class RequestTimeout(PushwireError, TimeoutError):
    """No answer in time. The request may have had its effect: repeat a publish with the same id."""

    code = "timeout"
    retryable = True


class AuthError(PushwireError):
    """Who the client is, or what it may do."""


class Unauthorized(AuthError):
    """The token was not accepted. Raised by a token callable, it stops the client for good."""

    code = "unauthorized"


class Forbidden(AuthError):
    """The token does not allow this."""

    code = "forbidden"


class Kicked(Forbidden):
    """An operator ended this session."""

    code = "kicked"


class RateLimited(PushwireError):
    """Too many requests or bytes; `retry_after_s` says when to come back."""

    code = "rate_limited"
    retryable = True


class PublishError(PushwireError):
    """The message was refused and not stored. `code` is the gateway's (see PROTOCOL.md §6)."""

    code = "bad_request"


class MessageTooLarge(PublishError):
    """Larger than the gateway's limit; never sent, or refused."""

    code = "message_too_large"


class IdConflict(PublishError):
    """The id was used for a message with other content."""

    code = "id_conflict"


class TopicFull(PublishError):
    """The topic is at its quota; the text names the group that holds the oldest message."""

    code = "topic_full"
    retryable = True


class BatchError(PublishError):
    """Some messages of a `publish_many` failed. `outcomes` has, in order, each one's receipt or error; `code`,
    `retryable` and `retry_after_s` are the first error's."""

    def __init__(self, outcomes: Sequence[Receipt | PushwireError]) -> None:
        failed = [outcome for outcome in outcomes if isinstance(outcome, PushwireError)]
        first = failed[0]
        super().__init__(
            f"{len(failed)} of {len(outcomes)} messages failed, the first with: {first}",
            code=first.code,
            retryable=first.retryable,
            retry_after_s=first.retry_after_s,
        )
        self.outcomes = outcomes


class SubscribeError(PushwireError):
    """The subscription was refused, or ended by the gateway. `code` is the gateway's."""

    code = "bad_request"


class ConsumerUnhealthy(SubscribeError):
    """The gateway ended the subscription because its consumer let lease after lease run out. Subscribe again once the
    handler is well."""

    code = "consumer_unhealthy"


class EpochChanged(SubscribeError):
    """The gateway's database was restored from a copy: a `seq` of before may name another message now. `epoch` is the
    new one. Begin again, at "earliest" or wherever fits."""

    code = "epoch_changed"
    epoch = ""


class SettleError(PushwireError):
    """A message could not be settled."""

    code = "settle_failed"


class LeaseLost(SettleError):
    """The lease timed out, or ended with its connection or subscription, or its settlement could not be confirmed.
    The message may be delivered again: to whoever is there, with a higher `attempt`."""

    code = "stale_lease"


class AlreadySettled(SettleError):
    """The message was acked, nacked, rejected or released before."""

    code = "already_settled"


class AdminError(PushwireError):
    """What an Admin asked for was refused, or failed. `code` is the gateway's; `status` the HTTP status."""

    code = "bad_request"
    status: int | None = None


class NotFound(AdminError):
    """There is no such topic, group, dead letter or connection."""

    code = "not_found"


class Conflict(AdminError):
    """It contradicts what is there: a topic that exists already, a redrive that runs."""

    code = "conflict"


class BadConfig(AdminError):
    """The configuration is not valid; the text says which field."""

    code = "bad_config"


class ProtocolError(PushwireError):
    """The two sides do not understand each other: a bug, or versions that do not fit."""

    code = "protocol_error"


_BY_CODE: dict[str, type[PushwireError]] = {
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "rate_limited": RateLimited,
    "rate_limited_bytes": RateLimited,
    "message_too_large": MessageTooLarge,
    "id_conflict": IdConflict,
    "topic_full": TopicFull,
    "stale_lease": LeaseLost,
    "consumer_unhealthy": ConsumerUnhealthy,
    "epoch_changed": EpochChanged,
}

_BY_ADMIN_CODE: dict[str, type[AdminError]] = {
    "topic_not_found": NotFound,
    "group_not_found": NotFound,
    "not_found": NotFound,
    "conflict": Conflict,
    "bad_config": BadConfig,
}

_BY_CLOSE: dict[int, type[PushwireError]] = {
    1000: ClientClosed,
    4401: Unauthorized,
    4403: Kicked,
    4409: ClientClosed,
    4429: RateLimited,
}

E = TypeVar("E", bound=PushwireError)


def from_reply(frame: Error, family: type[PushwireError]) -> PushwireError:
    """The error of a refusal; `family` where its code has no class of its own."""
    wait_s = None if frame.retry_after_ms is None else frame.retry_after_ms / 1000
    kind = _BY_CODE.get(frame.code, family)
    return kind(frame.message, code=frame.code, retryable=frame.retryable, retry_after_s=wait_s)


def from_problem(problem: Mapping[str, Any], status: int, retry_after_s: float | None) -> PushwireError:
    """The error of a problem document (RFC 9457); what is no document of the gateway's still has its status."""
    code, detail, wait_ms = problem.get("code"), problem.get("detail"), problem.get("retry_after_ms")
    title = problem.get("title") or f"HTTP {status}"
    code = code if isinstance(code, str) else ("rate_limited" if status == 429 else "internal")
    known = ERRORS.get(code)
    retryable = problem.get("retryable", status in (429, 502, 503, 504) or (known is not None and known.retryable))
    kind = _BY_CODE.get(code) or _BY_ADMIN_CODE.get(code, AdminError)
    error = kind(
        f"{title}: {detail}" if detail else str(title),
        code=code,
        retryable=retryable is True,
        retry_after_s=wait_ms / 1000 if isinstance(wait_ms, int) else retry_after_s,
    )
    if isinstance(error, AdminError):
        error.status = status
    return error


def refused(code: str, detail: str) -> PushwireError:
    """What the gateway would refuse, seen before it was sent."""
    return _BY_CODE.get(code, PublishError)(f"{ERRORS[code].message}: {detail}", code=code)


def from_close(code: int, reason: str = "") -> PushwireError:
    """The error of a close code after which a client must not come back (PROTOCOL.md §7)."""
    known = CLOSES.get(code)
    text = reason or (known.reason if known else "connection closed")
    return _BY_CLOSE.get(code, ProtocolError)(f"the gateway closed the connection: {text} ({code})")


def again(error: E) -> E:
    """A fresh copy: one error may be raised to many callers, and each raise writes a traceback into its instance."""
    copy = error.__class__.__new__(error.__class__, *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy
