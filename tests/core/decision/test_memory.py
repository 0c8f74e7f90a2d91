"""Memory: moments as vectors, their distance, and the past within a number of bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moments_sample import AT, LIMITS, moment

from tasks.core.decision.memory import COMPONENTS, SPEC, Vector, distances, memory_text, vector
from tasks.core.types.snapshot import (
    Memory,
    Past,
    PositionView,
    Snapshot,
)

NAMES = list(COMPONENTS)


def values(**known: float) -> Vector:
    return Vector(values=tuple(known.get(f"x{i}", 0.0) for i in range(24)))


def test_a_moment_is_24_named_numbers_and_every_name_is_one_of_the_snapshot():
    full = vector(moment().model_copy(update={"position": PositionView(side="short", unrealized_R=-1.5)}))
    assert (full.spec, len(full.values)) == (SPEC, 24)
    assert None not in full.values
    assert all(-1 <= value <= 1 for value in full.values)
    named = dict(zip(NAMES, full.values, strict=True))
    assert named["15m.rsi"] == 0
    assert named["confluence.signed"] == pytest.approx(np.tanh(-1), abs=1e-4)
    assert named["position.side"] < 0 > named["position.unrealized_R"]


def test_unknown_stays_unknown():
    empty = vector(Snapshot(pair="BTC", as_of=AT, timeframes={}, constraints=LIMITS))
    known = {name for name, value in zip(NAMES, empty.values, strict=True) if value is not None}
    assert known == {"confluence.signed", "position.side"}


def test_the_nearer_moment_is_nearer_and_the_same_one_is_at_zero():
    far = distances(vector(moment(50)), [vector(moment(rsi)) for rsi in (50, 55, 80, 20)])
    assert far[0] == 0
    assert far[0] < far[1] < far[2]
    assert far[2] == pytest.approx(far[3])


def test_what_one_side_does_not_know_does_not_count_and_too_little_is_no_likeness():
    here = values(x0=0.5, x1=0.5)
    partly = Vector(values=(0.5, None, *here.values[2:]))
    mostly_unknown = Vector(values=(*here.values[:11], *(None,) * 13))
    other_spec = Vector(spec="v0", values=here.values)
    far = distances(here, [partly, mostly_unknown, other_spec])
    assert far.tolist() == [0.0, np.inf, np.inf]
    assert distances(here, []).tolist() == []


numbers = st.none() | st.floats(-1, 1)
vectors = st.tuples(*[numbers] * 24).map(lambda v: Vector(values=v))


@given(vectors, vectors)
def test_distance_is_symmetric_where_it_exists_and_at_most_two(a, b):
    [there], [back] = distances(a, [b]), distances(b, [a])
    assert there == back
    assert there == np.inf or 0 <= there <= 2


PAST = Past(
    as_of=AT, action="OPEN_LONG", confidence=0.62, reasons=("TrendFlip(1h up)",), outcome_r=0.96, distance=0.081
)
MEMORY = Memory(
    recent=(PAST.model_copy(update={"distance": None}), Past(as_of=AT, action="HOLD", confidence=0.5)),
    similar=(PAST,), decider_trades=12, decider_win_rate=7 / 12, decider_mean_r=0.21,
)  # fmt: skip


def test_the_text_says_how_it_went_then_what_is_similar_then_what_was_last():
    assert memory_text(MEMORY, 1000).splitlines() == [
        "so far 12 trades, 58% won, mean +0.21R",
        "similar 2026-01-02 03:05 OPEN_LONG 0.62 TrendFlip(1h up) -> +0.96R (distance 0.08)",
        "last 2026-01-02 03:05 OPEN_LONG 0.62 TrendFlip(1h up) -> +0.96R",
        "last 2026-01-02 03:05 HOLD 0.50",
    ]
    assert memory_text(Memory(), 1000) == ""


@given(st.integers(0, 400), st.text(max_size=40))
def test_the_text_never_exceeds_its_bytes_and_ends_at_a_line(budget, odd):
    memory = MEMORY.model_copy(update={"similar": (PAST.model_copy(update={"reasons": (odd,)}),)})
    whole, text = memory_text(memory, 10_000), memory_text(memory, budget)
    assert len(text.encode()) <= budget
    assert whole.startswith(text)
    assert not text or whole[len(text) : len(text) + 1] in ("", "\n")
