"""The breaker opens after errors in a row, lets one through after its pause, and closes on a success."""

from datetime import timedelta
from itertools import pairwise

from fake_ladder import NOW
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.decision.ladder import Breaker, BreakerState

BREAKER = Breaker(errors=3, cooldown=timedelta(seconds=900))


def second(n: float):
    return NOW + timedelta(seconds=n)


def after_errors(count: int) -> BreakerState:
    state = BreakerState()
    for _ in range(count):
        state = BREAKER.failed(state, NOW)
    return state


def test_it_opens_at_the_last_error_and_not_before():
    assert not BREAKER.is_open(after_errors(2), NOW)
    assert BREAKER.is_open(after_errors(3), NOW)
    assert BREAKER.is_open(after_errors(3), second(899.9))
    assert not BREAKER.is_open(after_errors(3), second(900))


def test_half_open_one_tries_and_the_others_wait_for_what_it_finds():
    state = after_errors(3)
    assert BREAKER.tried(state, second(10)) == state
    taken = BREAKER.tried(state, second(900))
    assert BREAKER.is_open(taken, second(900))
    assert taken.retry_at == second(1800)
    assert not BREAKER.is_open(taken, second(1800)), "a try whose process died must not hold it open for ever"


def test_a_failed_try_opens_it_again_at_once():
    state = BREAKER.failed(BREAKER.tried(after_errors(3), second(900)), second(905))
    assert state.retry_at == second(1805)


def test_a_closed_breaker_lets_everybody_pass():
    assert BREAKER.tried(after_errors(2), NOW) == after_errors(2)


@given(st.lists(st.tuples(st.floats(0, 2000), st.booleans()), max_size=40))
def test_between_two_tries_of_an_open_breaker_lies_its_pause(steps):
    state, at, tries = BreakerState(), 0.0, []
    for wait, good in steps:
        at += wait
        before, state = state, BREAKER.tried(state, second(at))
        if BREAKER.is_open(before, second(at)):
            assert state == before
            continue
        if before.errors >= 3:
            tries.append(at)
        state = BreakerState() if good else BREAKER.failed(state, second(at))
        if good:
            tries = []
    assert all(b - a >= 899.999 for a, b in pairwise(tries))
