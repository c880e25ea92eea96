"""Rate limits: owns every token bucket of the gateway; says what a client may do now, and when to come back.

This is the only module that imports `limits`. It must not read a clock of its own (time comes from the
monotonic `clock` handed in), await, start a thread or timer, log, or know frames, sockets and settings. It is
called from the event-loop thread only, once per frame with the frame's count, never per message.

`limits` brings the vocabulary (rate strings, items, the strategy and storage interfaces) but no token bucket;
its in-memory storage sweeps all keys as it is used, keeps them without bound and runs on the wall clock. So
here are a strategy and a storage of our own on its interfaces, and `Throttle`, the limits the gateway asks.

A bucket is kept as one number: the time at which it will be full again. Serving n hits at r a second moves
that time n/r later, and is allowed while it stays within burst/r of now. That equals a token bucket (it is
the "virtual scheduling" form of the generic cell rate algorithm, ITU-T I.371), needs no refill and makes
"full" a comparison: a bucket whose time has passed is the same as a fresh one, and may be forgotten.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, NamedTuple

from limits import RateLimitItem, WindowStats, parse_many
from limits.storage import Storage
from limits.strategies import RateLimiter

KEYS_MAX: Final = 100_000
"""Buckets one storage holds. Ten times the connections of a gateway by default, since HTTP publishers keep none; at
about 350 bytes a key that is 35 MB, reached only if so many clients act within one burst time."""

EVICTION_PROBES_MAX: Final = 8
"""Buckets looked at when a full storage must give one up: enough to step over a few busy ones; a constant."""

EXPIRED_DROPS_MAX: Final = 2
"""Full buckets forgotten per new one. Two leave for one that comes, so memory falls without any sweep."""

ROUNDING_S: Final = 1e-6
"""A wait this short counts as none: it absorbs float rounding, so that whoever returns after exactly
`retry_after_ms` is let in. It is never added to a bucket, hence does not accumulate."""

TOKEN_BURST_S: Final = 2.0
"""A token's own publish rate comes with a burst of so many seconds of it (as the defaults': 200 to 100)."""

Code = Literal["rate_limited", "rate_limited_bytes", "batch_too_large"]


def parse_rate(text: str) -> float:
    """Events a second meant by a rate string: "100/second", "30 per minute", "10/5 seconds"; 0 is "off".

    Raises ValueError for anything else, and for several rates in one string, of which `limits.parse` would
    silently take the first.
    """
    items = parse_many(text)
    if len(items) != 1:
        raise ValueError(f"expected one rate, got {len(items)}: {text!r}")
    try:
        return items[0].amount / items[0].get_expiry()
    except OverflowError as error:
        raise ValueError("rate too large") from error


class SteadyClock:
    """A clock that never runs backwards, starting at 0, over one that may.

    A step back counts as no time at all: buckets do not freeze until the old reading is reached again. A step
    forward cannot be told from an idle spell and grants what one does, at most one burst.
    """

    __slots__ = ("_clock", "_last_s", "_offset_s")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_s = 0.0
        # Small numbers keep float steps fine. Changed by steps back only, so that no rounding piles up.
        self._offset_s = -clock()

    def now(self) -> float:
        now = self._clock() + self._offset_s
        if now < self._last_s:
            self._offset_s += self._last_s - now
            return self._last_s
        self._last_s = now
        return now

    def reading(self, at_s: float) -> float:
        """What the clock underneath shows at `at_s` of this one."""
        return at_s - self._offset_s


class Bucket:
    """The two buckets of one key, hits (requests, messages) and bytes: each as the time it is full again."""

    __slots__ = ("bytes_full_at_s", "hits_full_at_s")

    def __init__(self, hits_full_at_s: float, bytes_full_at_s: float) -> None:
        self.hits_full_at_s = hits_full_at_s
        self.bytes_full_at_s = bytes_full_at_s

    def full_at_s(self) -> float:
        return max(self.hits_full_at_s, self.bytes_full_at_s)


class TokenBucketStorage(Storage):
    """Token buckets in memory, at most `keys_max` of them, ordered by their last charge, oldest first.

    A bucket not charged for its burst time is full, and forgetting a full bucket changes nothing. So while
    fewer than `keys_max` keys act within one burst time, only full buckets are ever given up. Beyond that the
    one nearest to full among the `EVICTION_PROBES_MAX` oldest goes, and what it still owed becomes the floor:
    until that moment every key not held starts owing as much (at most its own burst). An evicted key thus
    never returns to more than it had; newcomers lose their burst for a few seconds, but not their rate; held
    keys notice nothing. To refuse newcomers outright would be as safe, but would let a crowd of keys shut
    everybody else out.

    Limits whose burst times differ by orders of magnitude belong in storages of their own: the floor is
    shared. Every operation costs the same however many keys are held.
    """

    STORAGE_SCHEME = None  # not to be had by address: it needs a clock

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        clock: Callable[[], float],
        keys_max: int = KEYS_MAX,
    ) -> None:
        """`clock` gives monotonic seconds. Raises ValueError if `keys_max` is below 1."""
        if keys_max < 1:
            raise ValueError("keys_max must be at least 1")
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._keys_max = keys_max
        self._steady = SteadyClock(clock)
        self._now = self._steady.now
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()
        # What keys given up before they were full may still owe; a time gone by when that is nothing.
        self._hits_floor_s = 0.0
        self._bytes_floor_s = 0.0

    def __len__(self) -> int:
        return len(self._buckets)

    def __bool__(self) -> bool:
        return True  # an empty storage is still a storage

    def take(
        self,
        key: Hashable,
        hits_s: float,
        hits_burst_s: float,
        bytes_s: float = 0.0,
        bytes_burst_s: float = math.inf,
    ) -> bool:
        """Charge both buckets of `key`, or neither. Costs and bursts are in seconds of the rate: n / rate."""
        now = self._now()
        held = bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._newcomer(now, hits_burst_s, bytes_burst_s)
        # max() would say it better but costs a third more per frame (0.85 us instead of 0.64).
        hits_full_at_s = bucket.hits_full_at_s
        hits_full_at_s = hits_s + (hits_full_at_s if hits_full_at_s > now else now)  # noqa: FURB136 - see above
        bytes_full_at_s = bucket.bytes_full_at_s
        bytes_full_at_s = bytes_s + (bytes_full_at_s if bytes_full_at_s > now else now)  # noqa: FURB136 - see above
        soon = now + ROUNDING_S
        if hits_full_at_s - hits_burst_s <= soon and bytes_full_at_s - bytes_burst_s <= soon:
            bucket.hits_full_at_s = hits_full_at_s
            bucket.bytes_full_at_s = bytes_full_at_s
            if held is None:
                self._insert(key, bucket, now)
            else:
                self._buckets.move_to_end(key)
            return True
        if held is None and bucket.full_at_s() > now:
            # Refused because of the floor: hold it, or its wait would start anew with every attempt.
            self._insert(key, bucket, now)
        return False

    def waits(
        self,
        key: Hashable,
        hits_s: float,
        hits_burst_s: float,
        bytes_s: float = 0.0,
        bytes_burst_s: float = math.inf,
    ) -> tuple[float, float]:
        """Seconds until `take` with these arguments finds enough hits, and enough bytes; 0 or less is now."""
        now = self._now()
        bucket = self._buckets.get(key) or self._newcomer(now, hits_burst_s, bytes_burst_s)
        hits_wait_s = max(bucket.hits_full_at_s - now, 0.0) + hits_s - hits_burst_s
        bytes_wait_s = max(bucket.bytes_full_at_s - now, 0.0) + bytes_s - bytes_burst_s
        return hits_wait_s - ROUNDING_S, bytes_wait_s - ROUNDING_S

    def _newcomer(self, now: float, hits_burst_s: float, bytes_burst_s: float) -> Bucket:
        """The bucket of a key not held: fresh, or as empty as the emptiest one given up and not yet full."""
        return Bucket(
            now if self._hits_floor_s <= now else min(self._hits_floor_s, now + hits_burst_s),
            now if self._bytes_floor_s <= now else min(self._bytes_floor_s, now + bytes_burst_s),
        )

    def _insert(self, key: Hashable, bucket: Bucket, now: float) -> None:
        buckets = self._buckets
        for _ in range(min(EXPIRED_DROPS_MAX, len(buckets))):
            oldest = next(iter(buckets))
            if buckets[oldest].full_at_s() > now:
                break
            del buckets[oldest]
        if len(buckets) >= self._keys_max:
            self._evict()
        buckets[key] = bucket

    def _evict(self) -> None:
        """Give up the bucket nearest to full among the oldest, and remember what it owed."""
        oldest = islice(self._buckets.items(), EVICTION_PROBES_MAX)
        key, bucket = min(oldest, key=lambda entry: entry[1].full_at_s())
        self._hits_floor_s = max(self._hits_floor_s, bucket.hits_full_at_s)
        self._bytes_floor_s = max(self._bytes_floor_s, bucket.bytes_full_at_s)
        del self._buckets[key]

    # The rest is the interface of `limits`.

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """None: there is no back end whose errors would need wrapping."""
        return ()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Raise NotImplementedError: a window's counter could not be evicted without a fresh window."""
        raise NotImplementedError("buckets, not counters, are kept here: use TokenBucketRateLimiter")

    def get(self, key: str) -> int:
        """Raise NotImplementedError, as `incr`."""
        raise NotImplementedError("buckets, not counters, are kept here: use TokenBucketRateLimiter")

    def get_expiry(self, key: Hashable) -> float:
        """When the hits bucket of `key` is full, at the latest: on the clock handed in, now if it is."""
        now = self._now()
        bucket = self._buckets.get(key)
        full_at_s = self._hits_floor_s if bucket is None else bucket.hits_full_at_s
        return self._steady.reading(max(full_at_s, now))

    def check(self) -> bool:
        """Memory is always there."""
        return True

    def reset(self) -> int:
        """Forget every bucket and all that evicted ones owed. Returns how many buckets there were."""
        count = len(self._buckets)
        self._buckets.clear()
        self._hits_floor_s = self._bytes_floor_s = 0.0
        return count

    def clear(self, key: Hashable) -> None:
        """Forget one bucket: its key is a newcomer again."""
        self._buckets.pop(key, None)


class TokenBucketRateLimiter(RateLimiter):
    """A strategy of `limits`: an item of n per t is a bucket refilled at n/t; it accepts n/t * time + burst.

    `burst` is the bucket's size in hits, by default the item's amount. Times are on the storage's clock, not
    since the epoch. As everywhere in `limits`, "0 per second" lets nothing through.
    """

    storage: TokenBucketStorage

    def __init__(self, storage: TokenBucketStorage, *, burst: int | None = None) -> None:
        """Raises NotImplementedError for another kind of storage, ValueError for a burst below 1."""
        if not isinstance(storage, TokenBucketStorage):
            raise NotImplementedError(f"token buckets are not implemented for storage of {type(storage)}")
        if burst is not None and burst < 1:
            raise ValueError("burst must be at least 1")
        super().__init__(storage)
        self._burst = burst

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Take `cost` hits if all are there; a refusal takes none. Raises ValueError for a negative cost."""
        hit_s, burst = self._rate_of(item)
        _refuse_negative(cost)
        return cost <= burst and self.storage.take(_key(item, identifiers), cost * hit_s, burst * hit_s)

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """What `hit` would answer now; takes nothing. Raises ValueError for a negative cost."""
        hit_s, burst = self._rate_of(item)
        _refuse_negative(cost)
        if cost > burst:
            return False
        return self.storage.waits(_key(item, identifiers), cost * hit_s, burst * hit_s)[0] <= 0.0

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """When the bucket is full again, on the storage's clock; the whole hits that can be taken now."""
        hit_s, burst = self._rate_of(item)
        key = _key(item, identifiers)
        # A request of nothing waits for minus what is there.
        left_s = -self.storage.waits(key, 0.0, burst * hit_s)[0]
        remaining = min(burst, math.floor(left_s / hit_s)) if burst else 0
        return WindowStats(self.storage.get_expiry(key), remaining)

    def clear(self, item: RateLimitItem, *identifiers: str) -> None:
        """Forget what these identifiers have used of `item`."""
        self.storage.clear(_key(item, identifiers))

    def _rate_of(self, item: RateLimitItem) -> tuple[float, int]:
        """Seconds in which one hit comes back, and the bucket's size in hits."""
        if item.amount <= 0:
            return 0.0, 0
        return item.get_expiry() / item.amount, item.amount if self._burst is None else self._burst


def _refuse_negative(cost: int) -> None:
    if cost < 0:
        raise ValueError("cost must not be negative")


def _key(item: RateLimitItem, identifiers: tuple[str, ...]) -> tuple[Hashable, ...]:
    """A tuple, as `item.key_for` joins ("a/b", "c") and ("a", "b/c") to the same text."""
    return (item.namespace, item.amount, item.multiples, item.GRANULARITY.name, *identifiers)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one request. A refusal took nothing."""

    allowed: bool
    code: Code | None = None  # the wire's error code; None if allowed
    retryable: bool = True  # False: the same request can never pass
    retry_after_ms: int | None = None  # until the same request would pass, at least 1; else None


ALLOWED: Final = Verdict(allowed=True)
BATCH_TOO_LARGE: Final = Verdict(allowed=False, code="batch_too_large", retryable=False)


def _refused(code: Code, wait_s: float) -> Verdict:
    return Verdict(allowed=False, code=code, retry_after_ms=max(1, math.ceil(wait_s * 1000)))


class _Limit(NamedTuple):
    """One limit, ready to charge: seconds per unit, and the bucket's size in units and in seconds."""

    unit_s: float
    burst: float
    burst_s: float


_OFF: Final = _Limit(0.0, math.inf, math.inf)


def _limit(name: str, per_s: float, burst: float) -> _Limit:
    if per_s == 0:
        return _OFF
    if not (0 < per_s < math.inf and 1 <= burst < math.inf):
        raise ValueError(f"{name}: a rate is 0 (off) or more, a burst at least 1; got {per_s}, {burst}")
    return _Limit(1 / per_s, burst, burst / per_s)


class Throttle:
    """Every rate limit of a gateway: publishes by subject, connects by address and in all, control frames.

    A rate of 0 turns that limit off. Each kind has its own storage of `keys_max` keys, so that a crowd of
    addresses, which anybody can have, does not push out publishers, who had to show a token. What the limits are by
    default is the settings' to say: a limit that nobody gives here is an error, not a second default.
    """

    def __init__(  # noqa: PLR0913 - one keyword per setting, each with its unit in its name
        self,
        clock: Callable[[], float],
        *,
        publish_per_s: float,
        publish_burst: int,
        publish_per_s_max: float,
        publish_bytes_per_s: float,
        publish_bytes_burst: int,
        connects_per_s_per_ip: float,
        connects_burst_per_ip: int,
        connects_per_s: float,
        connects_burst: int,
        controls_per_s: float,
        controls_burst: int,
        keys_max: int = KEYS_MAX,
    ) -> None:
        """`clock` gives monotonic seconds. `publish_per_s_max` caps what a token may claim for itself (0: no
        cap) and never cuts below `publish_per_s`. Raises ValueError for a negative rate or a burst below 1.
        """
        if publish_per_s_max < 0:
            raise ValueError("publish_per_s_max must not be negative")
        self._messages = _limit("publish", publish_per_s, publish_burst)
        self._bytes = _limit("publish_bytes", publish_bytes_per_s, publish_bytes_burst)
        self._connects_per_ip = _limit("connects_per_ip", connects_per_s_per_ip, connects_burst_per_ip)
        self._connects_total = _limit("connects", connects_per_s, connects_burst)
        self._controls = _limit("controls", controls_per_s, controls_burst)
        capped = publish_per_s > 0 and publish_per_s_max > 0
        self._publish_per_s_max = max(publish_per_s, publish_per_s_max) if capped else math.inf
        self._publishers = TokenBucketStorage(clock=clock, keys_max=keys_max)
        self._addresses = TokenBucketStorage(clock=clock, keys_max=keys_max)
        self._node = TokenBucketStorage(clock=clock, keys_max=1)
        self._sessions = TokenBucketStorage(clock=clock, keys_max=keys_max)
        self.refused: Counter[str] = Counter()
        """Refusals by scope: publish, publish_bytes, connect, control."""

    @property
    def keys_held(self) -> int:
        """Buckets in memory."""
        return len(self._publishers) + len(self._addresses) + len(self._node) + len(self._sessions)

    def publish(self, tenant: str, subject: str, count: int, size_bytes: int, rate_per_s: int | None = None) -> Verdict:
        """May `subject` publish a frame of `count` messages, `size_bytes` together? Charges both or neither.

        `rate_per_s` is the token's own limit, if it has one: it replaces `publish_per_s`, up to
        `publish_per_s_max`, with a burst of twice itself; 0 asks for as much as the cap gives. The tokens of
        one subject share its bucket, each charging the part of its own rate that it uses.

        A frame larger than a burst gets `batch_too_large`. Raises ValueError for a negative number.
        """
        message_s, burst, burst_s = self._messages if rate_per_s is None else self._claimed(rate_per_s)
        byte_s, bytes_burst, bytes_burst_s = self._bytes
        if not (0 <= count <= burst and 0 <= size_bytes <= bytes_burst):
            if count < 0 or size_bytes < 0:
                raise ValueError("count and size_bytes must not be negative")
            return BATCH_TOO_LARGE
        key = (tenant, subject)
        hits_s, bytes_s = count * message_s, size_bytes * byte_s
        if self._publishers.take(key, hits_s, burst_s, bytes_s, bytes_burst_s):
            return ALLOWED
        hits_wait_s, bytes_wait_s = self._publishers.waits(key, hits_s, burst_s, bytes_s, bytes_burst_s)
        # The longer wait names the limit: the other will be over by then.
        self.refused["publish_bytes" if bytes_wait_s > hits_wait_s else "publish"] += 1
        if bytes_wait_s > hits_wait_s:
            return _refused("rate_limited_bytes", bytes_wait_s)
        return _refused("rate_limited", hits_wait_s)

    def publish_limit(self, rate_per_s: int | None) -> tuple[int, int]:
        """Messages a second and at once that `publish` lets pass for a token with this limit of its own, for people;
        0: no limit."""
        unit_s, burst, _ = self._messages if rate_per_s is None else self._claimed(rate_per_s)
        return (0, 0) if unit_s == 0.0 else (round(1 / unit_s), int(burst))

    def connect(self, network: Hashable) -> Verdict:
        """May there be one more connection of the address that counts as `network` (`Admission.network`)?

        Charges the address and the node, or neither: a flood from one address cannot use up what all others
        share.
        """
        per_ip, total = self._connects_per_ip, self._connects_total
        node_wait_s = self._node.waits(None, total.unit_s, total.burst_s)[0]
        # The node is asked first, so that addresses it refuses take no memory.
        if node_wait_s <= 0.0 and self._addresses.take(network, per_ip.unit_s, per_ip.burst_s):
            self._node.take(None, total.unit_s, total.burst_s)
            return ALLOWED
        ip_wait_s = self._addresses.waits(network, per_ip.unit_s, per_ip.burst_s)[0]
        self.refused["connect"] += 1
        return _refused("rate_limited", max(ip_wait_s, node_wait_s))

    def control(self, session_key: Hashable) -> Verdict:
        """May this session send one more control frame (auth, subscribe, flow)? Settlements never ask."""
        unit_s, _, burst_s = self._controls
        if self._sessions.take(session_key, unit_s, burst_s):
            return ALLOWED
        self.refused["control"] += 1
        return _refused("rate_limited", self._sessions.waits(session_key, unit_s, burst_s)[0])

    def _claimed(self, rate_per_s: int) -> _Limit:
        if rate_per_s < 0:
            raise ValueError("rate_per_s must not be negative")
        per_s = min(rate_per_s or math.inf, self._publish_per_s_max)
        return _OFF if per_s == math.inf else _Limit(1 / per_s, TOKEN_BURST_S * per_s, TOKEN_BURST_S)
