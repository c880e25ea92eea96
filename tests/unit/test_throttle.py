"""The token buckets: exact under overload, bounded in keys without a fresh burst, deaf to clock steps.

Overfull tables and the interface of `limits` are the matter of test_throttle_storage.py. Time is stepped,
never waited for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from fractions import Fraction

import limits
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushwire_gateway.clock import AnchoredClock
from pushwire_gateway.server import make_throttle
from pushwire_gateway.settings import load
from pushwire_gateway.throttle import (
    ALLOWED,
    BATCH_TOO_LARGE,
    SteadyClock,
    Throttle,
    TokenBucketRateLimiter,
    TokenBucketStorage,
    Verdict,
)
from support.throttles import default_throttle

MIB = 1024 * 1024


class SteppedClock:
    """A monotonic clock that stands still until stepped; at first, that of a machine long up."""

    def __init__(self, now: float = 1_234_567.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


def limiter(clock: SteppedClock, *, burst: int | None = None, keys_max: int = 1000) -> TokenBucketRateLimiter:
    return TokenBucketRateLimiter(TokenBucketStorage(clock=clock, keys_max=keys_max), burst=burst)


def admitted(clock: SteppedClock, hit: Callable[[], bool], offered_per_s: float, seconds: float) -> int:
    """How many hits pass when they are offered evenly over a time."""
    count = 0
    for _ in range(round(offered_per_s * seconds)):
        clock.step(1 / offered_per_s)
        count += hit()
    return count


# -- rate x time + burst


@pytest.mark.parametrize(("rate", "burst"), [(1, 5), (10, 10), (100, 200), (333, 50), (2000, 4000)])
@pytest.mark.parametrize("overload", [10, 3.7])
def test_accepts_rate_times_time_plus_burst_at_any_overload(clock, rate, burst, overload):
    bucket = limiter(clock, burst=burst)
    item = limits.RateLimitItemPerSecond(rate)
    seconds = max(5, 100 / rate)
    accepted = admitted(clock, lambda: bucket.hit(item, "a"), rate * overload, seconds)
    assert accepted == pytest.approx(rate * seconds + burst, rel=0.01, abs=1)


def test_an_underloaded_key_is_never_refused(clock):
    bucket = limiter(clock, burst=1)
    assert admitted(clock, lambda: bucket.hit(limits.parse("50/second"), "a"), 49.9, 10) == 499


@pytest.mark.parametrize("rate_per_s", [None, 20, 100, 1000])
def test_callers_of_one_subject_share_its_rate_and_leave_others_alone(clock, rate_per_s):
    """20 connections of one subject, interleaved, 5 s at 10 times its limit; another within its own."""
    throttle = default_throttle(clock, publish_bytes_per_s=0)
    rate, burst = rate_per_s or 100, 2 * (rate_per_s or 100)
    offered_per_s, accepted, refused_to_other = rate * 10, [0] * 20, 0
    for turn in range(offered_per_s * 5):
        clock.step(1 / offered_per_s)
        accepted[turn % 20] += throttle.publish("t", "greedy", 1, 100, rate_per_s).allowed
        if turn % 11 == 0:
            refused_to_other += not throttle.publish("t", "modest", 1, 100, rate_per_s).allowed
    assert sum(accepted) == pytest.approx(rate * 5 + burst, rel=0.01)
    assert refused_to_other == 0


@given(
    rate=st.integers(1, 500),
    burst=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 1200)), max_size=60),
)
@example(rate=3, burst=1, steps=[(0, 1), (333, 1), (1, 1)])
def test_every_decision_is_that_of_an_exact_token_bucket(rate, burst, steps):
    clock = SteppedClock()
    bucket = limiter(clock, burst=burst)
    item = limits.RateLimitItemPerSecond(rate)
    start, now_ms, tokens = clock.now, 0, Fraction(burst)
    for step_ms, cost in steps:
        now_ms += step_ms
        clock.now = start + now_ms / 1000
        tokens = min(Fraction(burst), tokens + Fraction(step_ms * rate, 1000))
        expected = cost <= tokens
        assert bucket.test(item, "a", cost=cost) is expected
        assert bucket.hit(item, "a", cost=cost) is expected
        tokens -= cost if expected else 0
        assert bucket.get_window_stats(item, "a").remaining == int(tokens)


def test_a_batch_of_n_costs_n(clock):
    throttle = default_throttle(clock, publish_per_s=100, publish_burst=200)
    assert throttle.publish("t", "s", 150, 0).allowed
    assert not throttle.publish("t", "s", 51, 0).allowed
    assert throttle.publish("t", "s", 50, 0).allowed
    clock.step(0.5)
    assert not throttle.publish("t", "s", 51, 0).allowed
    assert throttle.publish("t", "s", 50, 0).allowed


# -- publish: count and bytes


def test_a_refusal_for_bytes_takes_no_messages_and_the_other_way_round(clock):
    throttle = default_throttle(clock, publish_burst=10, publish_bytes_burst=1000)
    assert throttle.publish("t", "s", 1, 900).allowed
    for _ in range(50):
        assert throttle.publish("t", "s", 1, 200).code == "rate_limited_bytes"
    assert throttle.publish("t", "s", 9, 0).allowed  # none of the 50 took a message
    for _ in range(50):
        assert throttle.publish("t", "s", 1, 1).code == "rate_limited"
    clock.step(0.01)  # one message comes back, and all bytes long since
    assert throttle.publish("t", "s", 1, 1000).allowed  # none of the 50 took a byte


def test_bytes_are_limited_to_rate_times_time_plus_burst(clock):
    throttle = default_throttle(clock, publish_per_s=0)
    size = 64 * 1024
    accepted = admitted(clock, lambda: throttle.publish("t", "s", 1, size).allowed, 160, 20)
    assert accepted * size == pytest.approx(20 * MIB + 4 * MIB, rel=0.01)


def test_single_bytes_add_up_on_a_clock_that_has_run_for_years(clock):
    clock.now = 1e8
    throttle = default_throttle(clock, publish_per_s=0, publish_bytes_per_s=1000, publish_bytes_burst=100)
    accepted = admitted(clock, lambda: throttle.publish("t", "s", 1, 1).allowed, 10_000, 3)
    assert accepted == pytest.approx(3100, rel=0.01)


@pytest.mark.parametrize(("count", "size_bytes", "rate_per_s"), [(201, 0, None), (1, 4 * MIB + 1, None), (21, 0, 10)])
def test_a_batch_beyond_the_burst_can_never_pass(clock, count, size_bytes, rate_per_s):
    throttle = default_throttle(clock)
    verdict = throttle.publish("t", "s", count, size_bytes, rate_per_s)
    assert verdict == Verdict(allowed=False, code="batch_too_large", retryable=False, retry_after_ms=None)
    assert throttle.keys_held == 0
    assert throttle.publish("t", "s", min(count, 200 if rate_per_s is None else 20), 4 * MIB, rate_per_s).allowed


def test_the_limit_that_lasts_longer_names_the_refusal(clock):
    throttle = default_throttle(
        clock, publish_per_s=1, publish_burst=1, publish_bytes_per_s=10, publish_bytes_burst=100
    )
    assert throttle.publish("t", "s", 1, 100).allowed
    assert throttle.publish("t", "s", 1, 5) == Verdict(allowed=False, code="rate_limited", retry_after_ms=1000)
    assert throttle.publish("t", "s", 1, 50) == Verdict(allowed=False, code="rate_limited_bytes", retry_after_ms=5000)


def test_tenants_and_subjects_do_not_collide(clock):
    throttle = default_throttle(clock, publish_burst=1)
    for tenant, subject in [
        ("a/b", "c"),
        ("a", "b/c"),
        ("a", "bc"),
        ("ab", "c"),
        ("", "a/b/c"),
        ("c", "a/b"),
    ]:
        assert throttle.publish(tenant, subject, 1, 1).allowed
        assert not throttle.publish(tenant, subject, 1, 1).allowed


# -- a token's own rate


def test_a_tokens_rate_counts_up_to_the_cap_with_twice_itself_as_burst(clock):
    throttle = default_throttle(clock, publish_per_s=100, publish_burst=500, publish_per_s_max=1000)
    for subject, rate_per_s, burst in [
        ("low", 5, 10),
        ("high", 400, 800),
        ("greedy", 10**9, 2000),
        ("0", 0, 2000),
    ]:
        assert throttle.publish_limit(rate_per_s) == (burst // 2, burst)
        assert throttle.publish("t", subject, burst + 1, 0, rate_per_s) is BATCH_TOO_LARGE
        assert throttle.publish("t", subject, burst, 0, rate_per_s) is ALLOWED
        clock.step(0.5)
        assert not throttle.publish("t", subject, burst // 4 + 1, 0, rate_per_s).allowed
        assert throttle.publish("t", subject, burst // 4, 0, rate_per_s).allowed
    assert throttle.publish("t", "unnamed", 500, 0).allowed
    assert throttle.publish_limit(None) == (100, 500)


def test_the_cap_never_cuts_below_the_setting_and_goes_with_the_limit(clock):
    generous = default_throttle(clock, publish_per_s=50_000, publish_burst=100_000, publish_per_s_max=10)
    assert generous.publish("t", "s", 100_000, 0, 10**6).allowed
    assert default_throttle(clock, publish_per_s=0).publish_limit(None) == (0, 0)
    for off in (default_throttle(clock, publish_per_s=0), default_throttle(clock, publish_per_s_max=0)):
        assert off.publish_limit(0) == (0, 0)
        assert off.publish("t", "s", 2 * 10**6, 0, 10**6).allowed
        assert off.publish("t", "s", 1, 0, 10**6).code == "rate_limited"  # but what the token says holds
        assert off.publish("t", "s", 10**9, 0, 0).allowed


@pytest.mark.parametrize(("settings", "limit"), [({}, (10_000, 20_000)), ({"publish_per_s_max": 700}, (700, 1400))])
def test_what_a_token_may_claim_is_a_setting(settings, limit):
    assert make_throttle(load(**settings), AnchoredClock()).publish_limit(10**9) == limit


def test_several_tokens_of_a_subject_do_not_add_up(clock):
    throttle = default_throttle(clock)
    turns = iter(range(10**6))

    def hit() -> bool:
        return throttle.publish("t", "s", 1, 0, (100, 50)[next(turns) % 2]).allowed

    assert admitted(clock, hit, 1000, 10) <= 100 * 10 + 200


# -- retry_after_ms


def drained_publish(throttle: Throttle) -> Callable[[], Verdict]:
    assert throttle.publish("t", "s", 200, 0).allowed
    return lambda: throttle.publish("t", "s", 7, 0)


def drained_bytes(throttle: Throttle) -> Callable[[], Verdict]:
    assert throttle.publish("t", "s", 1, 4 * MIB).allowed
    return lambda: throttle.publish("t", "s", 1, 12_345)


def drained_control(throttle: Throttle) -> Callable[[], Verdict]:
    for _ in range(128):
        assert throttle.control("session").allowed
    return lambda: throttle.control("session")


def drained_ip(throttle: Throttle) -> Callable[[], Verdict]:
    for _ in range(20):
        assert throttle.connect("192.0.2.1").allowed
    return lambda: throttle.connect("192.0.2.1")


def drained_node(throttle: Throttle) -> Callable[[], Verdict]:
    for host in range(400):
        assert throttle.connect(f"10.0.{host // 200}.{host % 200}").allowed
    return lambda: throttle.connect("192.0.2.1")


@pytest.mark.parametrize(
    ("drain", "wait_ms"),
    [
        (drained_publish, 70),
        (drained_bytes, 12),
        (drained_control, 100),
        (drained_ip, 200),
        (drained_node, 5),
    ],
)
def test_retry_after_is_exact_to_the_millisecond(clock, drain, wait_ms):
    attempt = drain(default_throttle(clock))
    clock.step(0.0004)  # so that waits are no whole milliseconds; announced ones are rounded up
    refusal = attempt()
    assert not refusal.allowed
    assert refusal.retryable
    assert refusal.retry_after_ms == wait_ms
    clock.step((wait_ms - 1) / 1000)
    assert attempt().retry_after_ms == 1
    clock.step(1 / 1000)
    assert attempt() is ALLOWED


@given(
    rate=st.integers(1, 500),
    byte_rate=st.integers(1, 500),
    history=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 99), st.integers(0, 99)), max_size=20),
    count=st.integers(0, 99),
    size_bytes=st.integers(0, 99),
)
def test_whoever_waits_as_told_passes_and_one_millisecond_earlier_does_not(rate, byte_rate, history, count, size_bytes):
    clock = SteppedClock(now=1e7)
    throttle = default_throttle(
        clock, publish_per_s=rate, publish_burst=99, publish_bytes_per_s=byte_rate, publish_bytes_burst=99
    )
    for step_ms, history_count, history_bytes in [*history, (0, 99, 99)]:
        clock.step(step_ms / 1000)
        throttle.publish("t", "s", history_count, history_bytes)
    refusal = throttle.publish("t", "s", count, size_bytes)
    if refusal.allowed:
        return
    refused_at = clock.now
    clock.now = refused_at + (refusal.retry_after_ms - 1) / 1000
    assert not throttle.publish("t", "s", count, size_bytes).allowed
    clock.now = refused_at + refusal.retry_after_ms / 1000
    assert throttle.publish("t", "s", count, size_bytes).allowed


# -- clocks


def test_steps_of_the_wall_clock_change_nothing(clock, monkeypatch):
    def trace() -> list[Verdict]:
        throttle = default_throttle(SteppedClock())
        steps = random.Random(7)
        verdicts = []
        for turn in range(300):
            throttle_clock.step(steps.random() / 50)
            wall.step((3600, -7200, 3600)[turn % 3] if leaping else 0.01)
            verdicts.append(throttle.publish("t", "s", 5, 10_000))
            verdicts.append(throttle.connect("192.0.2.1"))
        return verdicts

    throttle_clock, wall, leaping = clock, SteppedClock(1.7e9), False
    monkeypatch.setattr(time, "time", wall)
    steady = trace()
    leaping = True
    assert trace() == steady
    assert {verdict.allowed for verdict in steady} == {True, False}


def test_a_clock_that_steps_back_neither_freezes_nor_refills(clock):
    throttle = default_throttle(clock, publish_bytes_per_s=0)

    def hit() -> bool:
        return throttle.publish("t", "s", 1, 0).allowed

    accepted = admitted(clock, hit, 1000, 5)
    for step_s in (-3600, -0.5, -1e6):
        clock.step(step_s)
        accepted += admitted(clock, hit, 1000, 5)
    assert accepted == pytest.approx(100 * 20 + 200, rel=0.01)


def test_a_clock_that_steps_forward_grants_one_burst_and_no_more(clock):
    throttle = default_throttle(clock, publish_bytes_per_s=0)

    def hit() -> bool:
        return throttle.publish("t", "s", 1, 0).allowed

    accepted = admitted(clock, hit, 1000, 5)
    clock.step(3600)
    accepted += admitted(clock, hit, 1000, 5)
    assert accepted == pytest.approx(100 * 10 + 2 * 200, rel=0.01)


@given(steps=st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_the_steady_clock_counts_forward_time_only(steps):
    clock = SteppedClock(0.0)
    steady = SteadyClock(clock)
    shown = steady.now()
    for step_s in steps:
        clock.step(step_s)
        now = steady.now()
        assert now - shown == pytest.approx(max(step_s, 0.0), abs=1e-6)
        assert now >= shown
        assert steady.reading(now) == pytest.approx(clock.now, abs=1e-6)
        shown = now
