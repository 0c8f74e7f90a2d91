"""Our trades at zero cost, carried out once more by backtesting.py from the orders of our records."""

import asyncio
import warnings
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from instrument_cases import linear
from replayed import backtest

from tasks.core.decision.rules import RulesDecider
from tasks.core.market.bars import bar_frame
from tasks.core.market.market import Market
from tasks.core.types.bars import COLUMNS
from tasks.core.types.limits import Costs
from tasks.core.types.orders import Order

backtesting = pytest.importorskip("backtesting")

SYMBOL, FIVE, UNITS = "BTC/USDT:USDT", pd.Timedelta("5min"), 1000  # of our step
ZERO = Costs(taker_bps=0, maker_bps=0, half_spread_bps=0, impact_bps_per_million=0, participation_pct=100)
Ticks = set[tuple[pd.Timestamp, float]]


def candles(n: int = 45_000) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    close = 60_000 * np.exp(np.cumsum(rng.normal(0, 0.001, n) + 0.0004 * np.sin(np.arange(n) / 300)))
    opened = np.r_[close[:1], close[:-1]] * np.exp(rng.normal(0, 0.0003, n))
    high = np.maximum(opened, close) * np.exp(rng.exponential(0.0005, n))
    low = np.minimum(opened, close) * np.exp(-rng.exponential(0.0005, n))
    columns = [*np.round([opened, high, low, close], 1), np.full(n, 1000.0)]
    return bar_frame(1_735_689_600_000 + np.arange(n) * 300_000, dict(zip(COLUMNS, columns, strict=True)))


def peer(bars: pd.DataFrame, orders: list[Order]) -> pd.DataFrame:
    """Return the trades backtesting.py makes of the orders sent at each close."""
    sent = defaultdict(list)
    for order in orders:
        if order.client_order_id and order.type in ("market", "stop"):
            sent[pd.Timestamp(order.created_at)].append(order)

    class Follow(backtesting.Strategy):
        def init(self) -> None: ...

        def next(self) -> None:
            for order in sent[(self.data.index[-1] + FIVE).tz_localize("UTC")]:
                if order.type == "stop":
                    for trade in self.trades:
                        trade.sl = float(order.price)
                elif order.reduce_only:
                    self.position.close()
                else:
                    enter = self.buy if order.side == "buy" else self.sell
                    enter(size=int(order.quantity * UNITS), sl=float(order.stop), tp=float(order.target))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = bars.rename(columns=str.capitalize).tz_localize(None)
        return backtesting.Backtest(frame, Follow, cash=1e12).run()["_trades"]


@pytest.mark.slow
def test_backtesting_py_enters_and_leaves_where_we_do() -> None:
    bars = candles()
    run = backtest(
        {SYMBOL: Market.from_base(SYMBOL, bars)}, RulesDecider(), costs=ZERO, instruments={SYMBOL: linear(SYMBOL)}
    )
    asyncio.run(run.run())
    made = [(pd.Timestamp(f.at).floor(FIVE).tz_localize(None), float(f.price), f.reason) for f in run.account.fills]
    trades = peer(bars, run.account.orders)
    theirs: Ticks = set(zip(trades.EntryTime, trades.EntryPrice, strict=True))
    left: Ticks = set(zip(trades.ExitTime, trades.ExitPrice, strict=True))
    ended = [*made][:-1] if run.account.positions() else made
    assert {reason for *_, reason in made} >= {"entry", "stop", "target"}
    assert len(run.outcomes) > 30
    assert theirs == {(at, price) for at, price, reason in ended if reason == "entry"}
    assert left == {(at, price) for at, price, reason in made if reason != "entry"}
