"""Decisions as language models make them, with the guard and without: what the guard changed."""

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from market_data import walk
from recorded_llm import CANDLES, REPLIES, compared, run

from tasks.core.market.calendar import CalendarEvent
from tasks.core.market.market import Market

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
RECORDED = all(path.exists() for path in (REPLIES, *CANDLES.values()))
pytestmark = pytest.mark.slow


def reckless(folder: Path, bars: int = 8_000) -> tuple[dict[str, Market], Path, tuple[CalendarEvent, ...]]:
    """Two markets of our own and 120 openings like theirs: far too large, most with their stop on the wrong side."""
    rng = np.random.default_rng(12)
    candles = {BTC: walk(bars, 21, price=60_000.0), ETH: walk(bars, 22, price=3_000.0)}
    lines, times = [], []
    for n in np.sort(rng.choice(np.arange(2_000, bars - 300), 120, replace=False)):
        symbol, as_of = (BTC, ETH)[int(rng.integers(2))], candles[BTC].index[int(n)].to_pydatetime()
        stop = round(float(rng.uniform(0.25, 0.6)), 2) * (1 if rng.random() < 0.4 else -1)
        target = round(abs(stop) * float(rng.uniform(0.8, 3)), 2)
        reply = {
            "symbol": symbol, "action": ("OPEN_LONG", "OPEN_SHORT")[int(rng.integers(2))], "confidence": 0.8,
            "size_pct": round(float(rng.uniform(50, 500)), 1), "stop_atr": stop, "tp_atr": target,
        }  # fmt: skip
        lines.append(json.dumps({"as_of": as_of.isoformat(), "symbol": symbol, "reply": json.dumps(reply)}))
        times.append(as_of)
    path = folder / "replies.jsonl"
    path.write_text("\n".join(lines))
    calendar = tuple(CalendarEvent(at=at, title="asked") for at in times)
    return {symbol: Market.from_base(symbol, frame) for symbol, frame in candles.items()}, path, calendar


@pytest.mark.parametrize("source", ["own", "recorded"])
def test_the_guard_sends_less_risks_less_and_loses_less_of_what_models_asked_for(source, tmp_path):
    if source == "recorded" and not RECORDED:
        pytest.skip(f"needs the recorded replies in {REPLIES} and their candles")
    if source == "own":
        given = reckless(tmp_path)
        guarded, free = compared(*given, guarded=True), compared(*given, guarded=False)
    else:
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
