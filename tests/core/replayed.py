"""Backtests of tests: a strategy over the given markets, each traded in terms of a BTC perpetual unless told."""

from collections.abc import Mapping
from typing import Any

from tasks.core.market.market import Market
from tasks.core.ports import Decider
from tasks.core.simulation.backtest import Backtest
from tasks.core.simulation.backtest_inputs import World
from tasks.core.types.strategy import Strategy, Told
from tests.core.instrument_cases import linear as perpetual

WORLD = ("start", "end", "latency_s", "calendar", "funding", "headlines")


def strategy(*symbols: str, **given: Any) -> Strategy:
    """Return a strategy on `symbols` that is not told what it remembers, unless it is given otherwise."""
    usual = {"symbols": symbols, "instruments": {each: perpetual(each) for each in symbols}, "told": Told(memory=False)}
    return Strategy(**{**usual, **given})


def backtest(
    markets: Mapping[str, Market], decider: Decider, kind: type[Backtest] = Backtest, *, on_record: Any = None,
    on_line: Any = None, progress: Any = None, **given: Any,
) -> Backtest:  # fmt: skip
    """Return a replay of `decider` over `markets`; given: fields of `World`, the rest of `Strategy`."""
    world = World(**{name: given.pop(name) for name in WORLD if name in given})
    chosen = strategy(*sorted(markets), **given)
    return kind(markets, decider, chosen, world, on_record=on_record, on_line=on_line, progress=progress)
