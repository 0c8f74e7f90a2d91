"""A replay's records, small and real, to export from and to train on."""

import asyncio
from functools import cache

import pandas as pd
from market_data import walk
from replayed import backtest

from tasks.core.decision.rules import RulesDecider
from tasks.core.market.market import Market
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
