"""Memory: moments as vectors, their distance, and the past within a number of bytes."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.decision.memory import COMPONENTS, SPEC, Vector, distances, memory_text, vector
from tasks.core.types.snapshot import (
    Confluence,
    Constraints,
    HtfAnchors,
    Memory,
    Past,
    PositionView,
    Snapshot,
    TimeframeView,
)

AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
LIMITS = Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=("HOLD",))
NAMES = list(COMPONENTS)


def moment(rsi: float | None = 50.0, side: str = "flat", **fields) -> Snapshot:
    view = TimeframeView(rsi=rsi, price_z20=0.5, vwap_z=1.0, atr_pctile=80.0, range_ratio=1.0, vol_z20=0.1,
                         cloud_atr=2.0, delta20=0.1)  # fmt: skip
    views = dict.fromkeys(("5m", "15m", "1h", "4h", "1d"), view)
    return Snapshot(
        pair="BTC/USDT:USDT", as_of=AT, timeframes=views, constraints=LIMITS, position=PositionView(side=side),
        htf_anchors=HtfAnchors(dist_to_prev_day_high_atr=3, dist_to_prev_day_low_atr=-2, session_vwap_z=0.3),
        confluence=Confluence(score=3, direction=-1), **fields,
    )  # fmt: skip


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
    as_of=AT, action="OPEN_LONG", confidence=0.62, reasons=("TrendFlip(1h up)",), r_multiple=0.96, distance=0.081
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
