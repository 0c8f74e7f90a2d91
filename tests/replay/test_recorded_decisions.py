"""Decisions that language models really made, with the guard and without: what the guard changed."""

from decimal import Decimal

import pytest
from recorded_llm import CANDLES, REPLIES, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(path.exists() for path in (REPLIES, *CANDLES.values())),
        reason=f"needs the recorded replies in {REPLIES} and their candles",
    ),
]


def test_the_guard_sends_less_risks_less_and_loses_less_of_what_models_asked_for():
    guarded, free = run(guarded=True), run(guarded=False)
    assert guarded["recorded"] == free["recorded"] > 40
    assert guarded["parsed"] == free["parsed"] < guarded["recorded"] / 2  # most stops lie on the wrong side, or nowhere
    assert 0 < guarded["sent"] < free["sent"]
    assert guarded["fees"] < free["fees"] / 2
    assert guarded["worst_trade"] > free["worst_trade"]
    assert guarded["max_drawdown_pct"] < free["max_drawdown_pct"]
    judged = [record.verdict for record in guarded["records"] if record.verdict.allowed]
    assert max(verdict.trade_risk_pct for verdict in judged) <= Decimal("0.75")
    assert {"REWARD_RISK_TOO_LOW", "POSITION_EXISTS", "TRADE_RISK_CLAMPED"} <= set(guarded["codes"])
