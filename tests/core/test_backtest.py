"""The replay: the same functions as live, the same figures every time, money that adds up."""

import asyncio
from decimal import Decimal

import numpy as np
import pytest

from tasks.core.decision.baselines import HoldDecider
from tasks.core.decision.rules import RulesDecider
from tasks.core.errors import DataError
from tasks.core.evaluation.backtest import Backtest, Plan, Result
from tasks.core.market.bars import bar_frame
from tasks.core.market.snapshot import Market
from tasks.core.types.record import CycleRecord, CycleStatus

SYMBOL = "BTC/USDT:USDT"


def walk(seed: int, n: int = 8000, start_ms: int = 1_735_689_600_000, minutes: int = 5) -> Market:
    """A seeded market with drifting regimes, 5m bars."""
    rng = np.random.default_rng(seed)
    drift = np.repeat(rng.normal(0, 4e-4, n // 400 + 1), 400)[:n]
    close = 60_000 * np.exp(np.cumsum(drift + rng.normal(0, 1.5e-3, n)))
    open_ = np.r_[60_000.0, close[:-1]]
    reach = np.abs(rng.normal(0, 1e-3, (2, n)))
    values = {
        "open": open_, "close": close, "volume": rng.lognormal(3, 0.7, n),
        "high": np.maximum(open_, close) * (1 + reach[0]), "low": np.minimum(open_, close) * (1 - reach[1]),
    }  # fmt: skip
    ts = start_ms + np.arange(n) * minutes * 60_000
    return Market.from_base(SYMBOL, bar_frame(ts, {k: np.round(v, 1) for k, v in values.items()}))


def replay(market: Market, decider: object, **plan: object) -> tuple[Result, list[CycleRecord]]:
    records: list[CycleRecord] = []
    run = Backtest({SYMBOL: market}, decider, Plan(**plan), on_record=records.append)
    return asyncio.run(run.run()), records


@pytest.fixture(scope="module")
def market() -> Market:
    return walk(7)


def test_two_replays_print_the_same_fingerprint(market):
    first, _ = replay(market, RulesDecider())
    second, _ = replay(walk(7), RulesDecider())
    assert first.fingerprint == second.fingerprint
    assert first.summary() == second.summary()


def test_another_market_prints_another_fingerprint(market):
    assert replay(market, RulesDecider())[0].fingerprint != replay(walk(8), RulesDecider())[0].fingerprint


def test_hold_is_asked_as_often_and_trades_nothing(market):
    held, records = replay(market, HoldDecider())
    assert held.calls > 0
    assert held.summary()["by_action"] == {"HOLD": held.calls}
    assert set(held.equity) == {10_000.0}
    assert {record.status for record in records} == {CycleStatus.HELD}


def test_equity_is_cash_plus_every_outcome_when_flat_at_the_end(market):
    result, _ = replay(market, RulesDecider())
    assert len(result.outcomes) > 5
    run = Backtest({SYMBOL: market}, RulesDecider(), Plan())
    asyncio.run(run.run())
    unrealized = run.engine.balance({SYMBOL: Decimal(repr(float(run.symbols[SYMBOL].tape.marks[-1])))}).equity
    realized = Decimal(10_000) + sum((o.pnl for o in run.outcomes), Decimal(0))
    if run.symbols[SYMBOL].position is None:
        assert unrealized == realized
    assert float(unrealized) == pytest.approx(result.equity[-1], rel=1e-12)


def test_every_entry_sends_its_stop_and_target_with_it(market):
    _, records = replay(market, RulesDecider())
    entries = [i for record in records for i in record.intents if not i.reduce_only]
    assert entries
    assert all(i.stop is not None and i.target is not None for i in entries)


def test_no_trade_risks_more_than_the_limit(market):
    _, records = replay(market, RulesDecider())
    assert max(record.verdict.trade_risk_pct for record in records) <= Decimal("0.75")


def test_a_decision_is_filled_at_the_next_bar_and_never_before(market):
    _, records = replay(market, RulesDecider())
    for record in records:
        assert all(fill.at >= record.as_of for fill in record.fills)


def test_the_window_bounds_every_decision(market):
    bars = market.bars["5m"].index
    start, end = bars[4000].to_pydatetime(), bars[6000].to_pydatetime()
    result, records = replay(market, RulesDecider(), start=start, end=end)
    assert result.candles == 2000
    assert all(start < record.as_of <= end for record in records)


def test_an_empty_window_says_so(market):
    after = market.bars["5m"].index[-1].to_pydatetime().replace(year=2030)
    with pytest.raises(DataError, match="no candles between"):
        Backtest({SYMBOL: market}, HoldDecider(), Plan(start=after))
