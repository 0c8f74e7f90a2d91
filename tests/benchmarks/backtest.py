"""The whole replay with a full record of every decision, and its fingerprint, over 182,794 5m candles."""

import asyncio
import time

from tasks.core.decision.baselines import HoldDecider
from tasks.core.decision.rules import RulesDecider
from tasks.core.evaluation.backtest import Backtest, Plan
from tasks.core.market.snapshot import Market
from tests.benchmarks.tapes import candles

SYMBOL = "BTC/USDT:USDT"


def main() -> None:
    """Print CPU and wall seconds for `hold` and `rules`."""
    what, bars = candles()
    print(f"{what}, one process, after imports")
    for decider in (HoldDecider(), RulesDecider()):
        cpu, wall = time.process_time(), time.perf_counter()
        result = asyncio.run(Backtest({SYMBOL: Market.from_base(SYMBOL, bars)}, decider, Plan()).run())
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(
            f"{decider.name:6} cpu_s={cpu:.2f} wall_s={wall:.2f} candles_per_s={len(bars) / wall:,.0f} "
            f"calls={result.calls} trades={len(result.outcomes)} fingerprint={result.fingerprint[:12]}"
        )
