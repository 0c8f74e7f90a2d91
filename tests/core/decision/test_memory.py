"""Memory: moments as vectors, their distance, and the past within a number of bytes."""

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moments_sample import AT, LIMITS, moment

from tasks.core.decision.memory import COMPONENTS, MAX_BYTES, SPEC, Vector, distances, joined, memory_text, vector
from tasks.core.types.snapshot import (
    Memory,
    Past,
    PositionView,
    Snapshot,
    Statistics,
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


def test_a_memory_of_a_record_of_before_is_told_as_it_was():
    assert memory_text(MEMORY).splitlines() == [
        "so far 12 trades, 58% won, mean +0.21R",
        "similar 2026-01-02 03:05 OPEN_LONG 0.62 TrendFlip(1h up) -> +0.96R (distance 0.08)",
        "last 2026-01-02 03:05 OPEN_LONG 0.62 TrendFlip(1h up) -> +0.96R",
        "last 2026-01-02 03:05 HOLD 0.50",
    ]
    assert (memory_text(None), memory_text(Memory())) == ("unknown", "none")
    long = memory_text(MEMORY.replace(similar=(PAST,) * 20))
    assert 500 < len(long.encode()) <= 600


WON = Statistics(
    names=("llm:single", "single/v001"), trades=12, win_rate=7 / 12, mean_confidence=0.66, mean_r=0.21, best_r=2.1,
    worst_r=-1.05, cost_usd=0.4312,
)  # fmt: skip
TOLD = PAST.replace(price=64123.45, thesis="pullback held", status="executed")
DENIED = TOLD.replace(
    outcome_r=None, distance=None, status="denied", codes=("LOW_CONFIDENCE", "CHASING"), unread=("TRAIL it",)
)


def test_the_text_says_how_it_went_then_what_is_similar_then_what_was_last():
    memory = Memory(days=30, statistics=(WON,), similar=(TOLD,), recent=(DENIED, DENIED.replace(symbol="BTC/USDT")))
    assert memory_text(memory).splitlines() == [
        "last 30 days llm:single, single/v001: 12 trades, 58% won, confidence 0.66, mean +0.21R, best +2.10R, "
        "worst -1.05R, cost 0.431 USD",
        'similar 01-02 03:05 OPEN_LONG 0.62 at 64123.4 executed -> +0.96R "pullback held" [TrendFlip(1h up)] '
        "(distance 0.08)",
        "last 01-02 03:05 OPEN_LONG 0.62 at 64123.4 denied by LOW_CONFIDENCE, CHASING not understood: "
        '"TRAIL it" "pullback held" [TrendFlip(1h up)]',
        "last 01-02 03:05 BTC/USDT OPEN_LONG 0.62 at 64123.4 denied by LOW_CONFIDENCE, CHASING not understood: "
        '"TRAIL it" "pullback held" [TrendFlip(1h up)]',
    ]
    assert memory_text(Memory(days=30)) == "none"
    assert memory_text(Memory(days=30, statistics=(Statistics(names=("llm:x",), cost_usd=0.5),))) == (
        "last 30 days llm:x: 0 trades, cost 0.5 USD"
    )


def test_what_does_not_fit_goes_shortest_thesis_first_then_the_oldest_and_the_least_similar():
    recent = tuple(
        TOLD.replace(thesis="because " * 12, as_of=AT - timedelta(hours=n), distance=None) for n in range(10)
    )
    similar = tuple(TOLD.replace(thesis="because " * 12, distance=n / 10) for n in range(5))
    text = memory_text(Memory(days=30, statistics=(WON,), recent=recent, similar=similar))
    assert 1300 < len(text.encode()) <= MAX_BYTES
    lines = text.splitlines()
    kept = [line for line in lines if line.startswith("last 0")]
    assert kept
    assert [line.split()[2] for line in kept] == [f"{each.as_of:%H:%M}" for each in recent[: len(kept)]]
    near = [line for line in lines if line.startswith("similar")]
    assert [line.rpartition("distance ")[2] for line in near] == [f"{n / 10:.2f})" for n in range(len(near))]
    assert 2 * len(near) >= len(kept)


words = st.text(max_size=100)
pasts = st.builds(
    Past, as_of=st.just(AT), action=st.just("CLOSE_PARTIAL"), confidence=st.floats(0, 1), thesis=words,
    reasons=st.lists(words, max_size=3).map(tuple), codes=st.lists(words, max_size=4).map(tuple), price=numbers,
    unread=st.lists(words, max_size=4).map(tuple), outcome_r=numbers, distance=numbers,
)  # fmt: skip


@given(st.lists(pasts, max_size=12), st.lists(pasts, max_size=12), st.integers(1, 8))
def test_no_memory_takes_more_than_its_bytes_and_it_ends_at_a_line(recent, similar, roles):
    memory = Memory(days=30, statistics=(WON,) * roles, recent=tuple(recent), similar=tuple(similar))
    assert len(memory_text(memory).encode()) <= MAX_BYTES == 1536


def test_what_is_remembered_of_several_symbols_is_told_newest_and_nearest_first():
    one = Memory(days=30, statistics=(WON,), recent=(TOLD,), similar=(TOLD.replace(distance=0.5),))
    later = Memory(days=30, statistics=(WON,), recent=(TOLD.replace(as_of=AT + timedelta(hours=1)),), similar=(TOLD,))
    both = joined({"A": one, "B": later, "C": None})
    assert [past.symbol for past in both.recent] == [past.symbol for past in both.similar] == ["B", "A"]
    assert both.statistics == (WON,)
    assert (joined({"A": one}), joined({"A": None})) == (one, None)
