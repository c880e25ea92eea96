"""The token-bucket storage and strategy: bounded in keys, no fresh burst by eviction, at home in `limits`.

Also what the gateway's facade builds on them besides publishing: connects, control frames, settings.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable

import limits
import pytest
from limits.storage import MemoryStorage, Storage
from limits.strategies import FixedWindowRateLimiter, RateLimiter

from pushwire_gateway.throttle import (
    ALLOWED,
    EVICTION_PROBES_MAX,
    KEYS_MAX,
    TokenBucketRateLimiter,
    TokenBucketStorage,
    parse_rate,
)
from support.throttles import default_throttle

MIB = 1024 * 1024
MEMORY_BYTES_MAX = 50 * MIB  # the bar for 100,000 keys


class SteppedClock:
    """A monotonic clock that stands still until stepped."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


def limiter(clock: SteppedClock, *, burst: int | None = None, keys_max: int = 1000) -> TokenBucketRateLimiter:
    return TokenBucketRateLimiter(TokenBucketStorage(clock=clock, keys_max=keys_max), burst=burst)


# -- bounded in keys


def test_memory_of_100_000_publishers_and_of_any_number_more(clock):
    subjects = [f"user-{number:06}" for number in range(120_000)]
    gc.collect()
    tracemalloc.start()
    try:
        throttle = default_throttle(clock)
        for subject in subjects[:KEYS_MAX]:
            # A tenant string of its own, as tokens bring one each.
            throttle.publish(f"tenant-{subject[-3:]}", subject, 1, 100)
        assert throttle.keys_held == KEYS_MAX == 100_000
        held_bytes = tracemalloc.get_traced_memory()[0]
        assert held_bytes <= MEMORY_BYTES_MAX
        for subject in subjects[KEYS_MAX:]:
            throttle.publish("tenant", subject, 1, 100)
        assert throttle.keys_held == KEYS_MAX
        assert tracemalloc.get_traced_memory()[1] <= MEMORY_BYTES_MAX
    finally:
        tracemalloc.stop()


def work(call: Callable[[], object]) -> int:
    """Calls made, of Python and of C, while `call` runs."""
    events: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, arg: events.update((event,)))
    try:
        call()
    finally:
        sys.setprofile(None)
    return events["call"] + events["c_call"]


def test_a_hit_costs_the_same_with_100_keys_and_with_100_000(clock):
    def most_work(keys: int) -> tuple[int, int, int]:
        """The dearest hit of a known key, of a newcomer to a table of busy keys, and to one of idle keys."""
        throttle = default_throttle(clock, keys_max=keys)
        for number in range(keys):
            throttle.publish("t", str(number), 100, 100)
        assert throttle.keys_held == keys
        known = max(work(lambda n=n: throttle.publish("t", str(n), 1, 1)) for n in range(0, keys, keys // 50))
        among_busy = max(work(lambda n=n: throttle.publish("t", f"new {n}", 1, 1)) for n in range(50))
        assert throttle.keys_held == keys
        clock.step(60)
        among_idle = max(work(lambda n=n: throttle.publish("t", f"late {n}", 1, 1)) for n in range(40))
        return known, among_busy, among_idle

    assert most_work(100) == most_work(100_000)


def test_idle_keys_leave_as_others_come_without_a_sweep(clock):
    bucket = limiter(clock, keys_max=10_000)
    item = limits.parse("10/second")
    for number in range(5000):
        bucket.hit(item, f"idle {number}")
    clock.step(1)
    assert len(bucket.storage) == 5000
    for number in range(5000):
        bucket.hit(item, f"new {number}")
    assert len(bucket.storage) == 5000  # all of the new ones, none of the idle
    clock.step(1)
    for number in range(5000):
        clock.step(1)
        bucket.hit(item, f"rare {number}")
    assert len(bucket.storage) <= 2


def test_keys_in_use_stay_when_idle_ones_can_go(clock):
    bucket = limiter(clock, keys_max=100)
    item = limits.parse("10/second")
    busy = [f"busy {number}" for number in range(2 * EVICTION_PROBES_MAX)]
    for key in [*busy, *(f"idle {number}" for number in range(84))]:
        assert bucket.hit(item, key)
    clock.step(1)
    for key in busy:
        assert bucket.hit(item, key, cost=10)
    for number in range(84):
        assert bucket.hit(item, f"new {number}", cost=10)  # with its whole burst: only full buckets made room
    assert len(bucket.storage) == 100
    assert not any(bucket.test(item, key) for key in busy)


def test_what_can_never_pass_is_not_held(clock):
    storage = TokenBucketStorage(clock=clock)
    assert not storage.take("a", hits_s=2.0, hits_burst_s=1.0)
    assert len(storage) == 0


# -- eviction gives nothing away


def test_an_evicted_key_gets_no_fresh_burst(clock):
    bucket = limiter(clock, keys_max=10)
    item = limits.parse("10/second")
    assert bucket.hit(item, "greedy", cost=10)
    for number in range(100):  # all in the same instant: none is full, so keys that are not must go
        bucket.hit(item, f"crowd {number}", cost=10)
    assert len(bucket.storage) == 10
    assert not bucket.hit(item, "greedy")
    clock.step(0.3)
    assert bucket.hit(item, "greedy", cost=3)
    assert not bucket.hit(item, "greedy")


def test_a_newcomer_to_an_overfull_table_has_its_rate_but_not_its_burst(clock):
    throttle = default_throttle(clock, keys_max=10)
    for number in range(20):
        throttle.publish("t", f"crowd {number}", 200, 4 * MIB)
    refusal = throttle.publish("t", "newcomer", 1, 1)
    assert (refusal.code, refusal.retry_after_ms) == ("rate_limited", 10)
    clock.step(0.009)
    assert not throttle.publish("t", "newcomer", 1, 1).allowed
    clock.step(0.001)
    assert throttle.publish("t", "newcomer", 1, 1).allowed
    clock.step(4)  # what was given up is full by now: nothing is owed any more
    assert throttle.publish("t", "another", 200, 4 * MIB) is ALLOWED


def test_bytes_owed_are_not_forgotten_with_messages_long_paid(clock):
    throttle = default_throttle(clock, keys_max=10)
    assert throttle.publish("t", "greedy", 1, 4 * MIB).allowed
    clock.step(1)
    for number in range(5):
        assert throttle.publish("t", f"crowd {number}", 1, 4 * MIB).allowed
    assert throttle.publish("t", "greedy", 1, MIB + 2).code == "rate_limited_bytes"
    for number in range(5, 40):
        throttle.publish("t", f"crowd {number}", 1, 4 * MIB)
    assert throttle.keys_held == 10
    refusal = throttle.publish("t", "newcomer", 1, 4 * MIB)
    assert (refusal.code, refusal.retry_after_ms) == ("rate_limited_bytes", 4000)


def test_an_evicted_key_of_a_long_limit_costs_a_short_one_no_more_than_its_burst(clock):
    bucket, long, short = limiter(clock, keys_max=1), limits.parse("5/minute"), limits.parse("10/second")
    assert bucket.hit(long, "a", cost=5)
    assert bucket.hit(short, "b")  # gives up a, which owes for a minute
    assert not bucket.hit(short, "c")
    clock.step(0.1)
    assert bucket.hit(short, "c")


def test_the_fullest_of_the_oldest_goes_first(clock):
    bucket = limiter(clock, keys_max=EVICTION_PROBES_MAX)
    item = limits.parse("10/second")
    for number in range(EVICTION_PROBES_MAX):
        bucket.hit(item, str(number), cost=1 if number == 5 else 9)
    assert bucket.hit(item, "new", cost=9)
    assert bucket.get_window_stats(item, "5").remaining == 9
    assert bucket.get_window_stats(item, "never seen").remaining == 9  # owes the one hit that 5 took along
    assert [bucket.get_window_stats(item, str(number)).remaining for number in (0, 1, 7)] == [1, 1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_no_key_ever_gets_more_than_rate_times_time_plus_burst(clock, seed):
    """12 to 40 keys through a table of 1 to 12: what is admitted must also fit the key's own exact bucket."""
    steps = random.Random(seed)
    bucket = limiter(clock, burst=15, keys_max=steps.randint(1, 12))
    item = limits.parse("10/second")
    keys = [str(number) for number in range(steps.randint(12, 40))]
    tokens, seen_at, admitted = dict.fromkeys(keys, 15.0), dict.fromkeys(keys, clock.now), 0
    for _ in range(2000):
        clock.step(steps.choice((0, 0, 0.001, 0.01, 0.1, 0.1, 2)))
        key = steps.choice(keys[:3] if steps.random() < 0.3 else keys)
        cost = steps.randint(0, 6)
        if bucket.hit(item, key, cost=cost):
            admitted += cost
            tokens[key] = min(15.0, tokens[key] + (clock.now - seen_at[key]) * 10) - cost
            seen_at[key] = clock.now
            assert tokens[key] >= -0.001
    assert admitted > 1000
    assert len(bucket.storage) <= 12


# -- the interface of limits


def test_is_a_strategy_and_a_storage_of_limits(clock):
    storage = TokenBucketStorage(clock=clock)
    assert isinstance(storage, Storage)
    assert isinstance(TokenBucketRateLimiter(storage), RateLimiter)
    assert storage.check() is True
    assert bool(storage) is True  # although it is empty


@pytest.mark.parametrize("rate", ["5/second", "5 per 2 seconds", "120/minute", "7/day"])
def test_hit_test_stats_clear_and_reset_work_with_an_item(clock, rate):
    bucket, item = limiter(clock), limits.parse(rate)
    hit_s = item.get_expiry() / item.amount
    assert bucket.get_window_stats(item, "a", "b") == limits.WindowStats(clock.now, item.amount)
    assert bucket.test(item, "a", "b", cost=item.amount)
    assert not bucket.test(item, "a", "b", cost=item.amount + 1)
    for used in range(item.amount):
        assert bucket.test(item, "a", "b")
        assert bucket.hit(item, "a", "b")
        reset_time, remaining = bucket.get_window_stats(item, "a", "b")
        assert reset_time == pytest.approx(clock.now + (used + 1) * hit_s)
        assert remaining == item.amount - used - 1
    assert not bucket.test(item, "a", "b")
    assert not bucket.hit(item, "a", "b")
    assert bucket.hit(item, "a")
    bucket.clear(item, "a", "b")
    assert bucket.hit(item, "a", "b", cost=item.amount)
    assert bucket.storage.reset() == 2
    assert bucket.hit(item, "a", "b", cost=item.amount)
    clock.step(hit_s)
    assert bucket.hit(item, "a", "b")


def test_reset_also_forgives_what_evicted_keys_owed(clock):
    bucket, item = limiter(clock, keys_max=1), limits.parse("5/second")
    for key in ("a", "b", "c"):
        bucket.hit(item, key, cost=5)
    assert not bucket.test(item, "d")
    assert bucket.storage.get_expiry("d") == pytest.approx(clock.now + 1)
    assert bucket.storage.reset() == 1
    assert bucket.hit(item, "d", cost=5)


def test_the_bucket_may_be_larger_than_the_amount(clock):
    bucket, item = limiter(clock, burst=20), limits.parse("5/second")
    assert bucket.hit(item, "a", cost=20)
    clock.step(1)
    assert bucket.get_window_stats(item, "a") == limits.WindowStats(pytest.approx(clock.now + 3), 5)


def test_identifiers_never_collide_as_they_do_in_limits(clock):
    bucket, item = limiter(clock), limits.parse("1/second")
    assert item.key_for("a/b", "c") == item.key_for("a", "b/c")
    for identifiers in [("a/b", "c"), ("a", "b/c"), ("a", "b", "c"), ("a/b/c",), ("a/b/c", ""), ()]:
        assert bucket.hit(item, *identifiers)
        assert not bucket.hit(item, *identifiers)
    other_namespace = limits.RateLimitItemPerSecond(1, namespace="other")
    assert bucket.hit(other_namespace, "a/b", "c")
    assert bucket.hit(limits.parse("1/minute"), "a/b", "c")


def test_nothing_passes_zero_per_second_and_no_cost_is_negative(clock):
    bucket, nothing, item = limiter(clock, burst=5), limits.parse("0/second"), limits.parse("5/second")
    assert not bucket.hit(nothing, "a")
    assert not bucket.test(nothing, "a")
    assert bucket.get_window_stats(nothing, "a") == limits.WindowStats(clock.now, 0)
    for refused in (bucket.hit, bucket.test):
        with pytest.raises(ValueError):
            refused(item, "a", cost=-1)


def test_what_it_does_not_do_it_says(clock):
    windows = FixedWindowRateLimiter(TokenBucketStorage(clock=clock))
    for unsupported in (windows.hit, windows.test):
        with pytest.raises(NotImplementedError, match="TokenBucketRateLimiter"):
            unsupported(limits.parse("1/second"), "a")
    with pytest.raises(NotImplementedError, match="MemoryStorage"):
        TokenBucketRateLimiter(MemoryStorage())
    with pytest.raises(ValueError):
        TokenBucketRateLimiter(TokenBucketStorage(clock=clock), burst=0)
    with pytest.raises(ValueError):
        TokenBucketStorage(clock=clock, keys_max=0)


def test_starts_no_thread(clock):
    before = set(threading.enumerate())
    bucket = limiter(clock, keys_max=10)
    for number in range(100):
        bucket.hit(limits.parse("1/second"), str(number))
    assert set(threading.enumerate()) <= before


# -- connects and control frames


def test_a_flood_from_one_address_takes_nothing_from_the_node(clock):
    throttle = default_throttle(clock, connects_burst=25, connects_burst_per_ip=20)
    assert sum(throttle.connect("192.0.2.1").allowed for _ in range(1000)) == 20
    assert sum(throttle.connect("192.0.2.2").allowed for _ in range(1000)) == 5


def test_a_crowd_of_addresses_is_held_to_the_nodes_rate_and_takes_no_memory(clock):
    throttle = default_throttle(clock)
    accepted = 0
    for number in range(10_000):  # 5 s at 2,000/s, each with a network of its own
        clock.step(1 / 2000)
        accepted += throttle.connect(number).allowed
    assert accepted == pytest.approx(200 * 5 + 400, rel=0.01)
    assert throttle.keys_held <= accepted + 1


def test_a_connect_refused_by_the_node_takes_nothing_from_the_address(clock):
    throttle = default_throttle(clock, connects_per_s=1, connects_burst=1, connects_burst_per_ip=2)
    assert throttle.connect("192.0.2.9").allowed
    for _ in range(10):
        assert throttle.connect("192.0.2.1").retry_after_ms == 1000
    for _ in range(2):
        clock.step(1)
        assert throttle.connect("192.0.2.1").allowed


def test_control_frames_are_limited_by_session(clock):
    throttle = default_throttle(clock)
    assert sum(throttle.control(("node", 1)).allowed for _ in range(1000)) == 128
    assert throttle.control(("node", 2)).allowed
    clock.step(1)
    assert sum(throttle.control(("node", 1)).allowed for _ in range(1000)) == 10


# -- settings


def test_a_rate_of_0_turns_a_limit_off(clock):
    throttle = default_throttle(
        clock,
        publish_per_s=0,
        publish_bytes_per_s=0,
        connects_per_s_per_ip=0,
        connects_per_s=0,
        controls_per_s=0,
    )
    for _ in range(3):
        assert throttle.publish("t", "s", 10**6, 10**12).allowed
    assert all(throttle.connect("192.0.2.1").allowed for _ in range(1000))
    assert all(throttle.control("session").allowed for _ in range(1000))


@pytest.mark.parametrize(
    "setting",
    [
        {"publish_per_s": -1},
        {"publish_burst": 0},
        {"publish_per_s_max": -1},
        {"publish_bytes_per_s": float("inf")},
        {"connects_per_s": float("nan")},
        {"controls_burst": -5},
        {"keys_max": 0},
    ],
)
def test_settings_that_make_no_limit_are_refused(clock, setting):
    with pytest.raises(ValueError):
        default_throttle(clock, **setting)


@pytest.mark.parametrize("arguments", [(-1, 0, None), (0, -1, None), (1, 1, -1)])
def test_negative_numbers_are_refused_rather_than_credited(clock, arguments):
    with pytest.raises(ValueError):
        default_throttle(clock).publish("t", "s", *arguments)


@pytest.mark.parametrize(
    ("text", "per_s"),
    [
        ("100/second", 100.0),
        ("30 per minute", 0.5),
        ("10/5 seconds", 2.0),
        ("0/hour", 0.0),
        (" 7 / DAY ", 7 / 86400),
    ],
)
def test_rates_are_read_as_people_write_them(text, per_s):
    assert parse_rate(text) == pytest.approx(per_s)


@pytest.mark.parametrize(
    "text",
    ["", "fast", "-1/second", "1.5/second", "5/fortnight", "1/second;5/minute", "9" * 400 + "/second", None],
)
def test_what_is_no_single_rate_is_refused(text):
    with pytest.raises(ValueError):
        parse_rate(text)
