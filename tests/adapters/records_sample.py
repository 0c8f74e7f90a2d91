"""A replay's records, small and real, to export from and to train on."""

import asyncio
from datetime import datetime
from functools import cache

import pandas as pd
from market_data import walk
from replayed import backtest, strategy

from tasks.core.decision.rules import RulesDecider
from tasks.core.lab.action_values import Future
from tasks.core.lab.replay import Replayer
from tasks.core.market.market import Market
from tasks.core.simulation.candle_history import History
from tasks.core.types.record import CycleRecord

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"


@cache
def bars() -> dict[str, pd.DataFrame]:
    return {BTC: walk(6000, seed=3, price=60_000), ETH: walk(6000, seed=4, price=3_000)}


def markets() -> dict[str, Market]:
    return {symbol: Market.from_base(symbol, frame) for symbol, frame in bars().items()}


@cache
def records() -> tuple[CycleRecord, ...]:
    """What `rules` decided about both, on one account."""
    found: list[CycleRecord] = []
    asyncio.run(backtest(markets(), RulesDecider(), on_record=found.append).run())
    return tuple(found)


@cache
def lines() -> str:
    """The same as `backtest --out` writes them."""
    return "".join(record.model_dump_json() + "\n" for record in records())


def future(frames: dict[str, pd.DataFrame], until: datetime | None = None) -> Future:
    """What these 5m candles tell of what came after the records."""
    known = strategy(*sorted(bars()))

    def history(_: str, symbol: str) -> History:
        return History(symbol, {"5m": frames[symbol]})

    return Future(Replayer(history, lambda _: known, lambda *_: None, lambda _: None), until or records()[-1].as_of)
