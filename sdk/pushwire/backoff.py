"""When to come back: the back-off of reconnects and retries, and the verdict on each lost connection.

Owns attempts, uptime, hints and the one token refresh after a rejection. Pure: `now` and the random numbers are handed
in, and nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .errors import PushwireError, Unauthorized, from_close
from .wire.codes import should_reconnect
from .wire.frames import Goodbye

Reason = Literal["connect", "expiring", "rejected"]
"""Why a token is asked for: for a new connection; because the current one is about to expire; because the gateway
did not accept the last one, so a cached token must not be given again."""

MIN_UPTIME_S = 5.0
"""A connection that lived this long was a good one: the next loss starts the back-off from the beginning. Shorter
lives do not, so a gateway that accepts and drops is not hammered."""

NO_CLOSE_FRAME = 1006
"""The code that stands for none (RFC 6455 §7.1.5)."""
REJECTED = 4401


HINT_S_MAX = 900.0
"""The longest wait that a gateway may ask for: as long as a nack may put a message off. What a gateway asks for is
seconds; a number that was mangled on its way must not keep a client away for good."""


def believed_s(hint_s: float | None) -> float | None:
    """How long the gateway asks to wait (seconds); None where it says nothing, or what is no time."""
    return min(hint_s, HINT_S_MAX) if hint_s is not None and hint_s >= 0 else None


@dataclass(frozen=True, slots=True)
class Backoff:
    """A random time from 0 up to a cap that starts at `base_s` and doubles to `cap_s` (seconds): full jitter, so that
    clients that lost the same gateway do not come back together."""

    base_s: float = 0.5
    cap_s: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.base_s <= self.cap_s:
            raise ValueError("a back-off needs 0 <= base_s <= cap_s")

    def delay_s(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait before retry number `attempt` (from 0). `random` gives numbers in [0, 1)."""
        return random() * min(self.cap_s, self.base_s * 2.0 ** min(attempt, 60))


class Loss(NamedTuple):
    """How a connection ended, or why none began."""

    code: int = NO_CLOSE_FRAME
    reason: str = ""
    retry_after_s: float | None = None
    fatal: PushwireError | None = None
    """Set when trying again cannot help."""


class Reconnector:
    """Decides after each loss: come back when, or stop with which error."""

    def __init__(self, backoff: Backoff, random: Callable[[], float], *, refreshable: bool) -> None:
        self._backoff = backoff
        self._random = random
        self._refreshable = refreshable
        """Whether asking for another token can give another one."""
        self._attempt = 0
        self._up_at: float | None = None
        self._rejected = False
        self.reason: Reason = "connect"
        """Why the next connection's token is asked for."""

    def up(self, now: float) -> None:
        """The gateway has said welcome."""
        self._up_at = now
        self.reason = "connect"

    def down(self, loss: Loss, goodbye: Goodbye | None, now: float) -> float | PushwireError:
        """When to connect again (on the clock of `now`), or why never. A hint of the gateway is a minimum; never
        sooner than it, never sooner than the jitter."""
        if self._up_at is not None and now - self._up_at >= MIN_UPTIME_S:
            self._attempt = 0
            self._rejected = False
        self._up_at = None
        error = self._final(loss, goodbye)
        if error is not None:
            return error
        wait_s = self._backoff.delay_s(self._attempt, self._random)
        self._attempt += 1
        hint_s = loss.retry_after_s
        if goodbye is not None and goodbye.retry_after_ms is not None:
            hint_s = goodbye.retry_after_ms / 1000
        return now + max(wait_s, believed_s(hint_s) or 0.0)

    def _final(self, loss: Loss, goodbye: Goodbye | None) -> PushwireError | None:
        if loss.fatal is not None:
            return loss.fatal
        # The close frame may not arrive (1006 then); goodbye came before it and says the same.
        code = goodbye.code if goodbye is not None else loss.code
        reason = goodbye.reason if goodbye is not None else loss.reason
        if code == REJECTED:
            if self._rejected or not self._refreshable:
                return Unauthorized(f"the gateway did not accept the token: {reason or 'unauthorized'}")
            self._rejected = True
            self.reason = "rejected"
            return None
        come_back = goodbye.reconnect if goodbye is not None else should_reconnect(code)
        return None if come_back else from_close(code, reason)
