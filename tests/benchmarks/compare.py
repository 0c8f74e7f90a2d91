"""Eight deciders on one year: the features once, not eight times; and 200 random traders of equal turnover."""

import resource
import time

import numpy as np
import pandas as pd

from tasks.adapters import parallel_backtests
from tasks.core.lab import compare, random_traders
from tasks.core.lab.compare import BacktestWindow
from tasks.core.market.market import Market
from tasks.core.types.limits import Costs
from tests.benchmarks.tapes import candles
from tests.core.replayed import strategy

SYMBOL = "BTC/USDT:USDT"
YEAR = 105_120
DECIDERS = ("hold", "buy-and-hold", "rules", "random:1", "random:2", "random:3", "rules:stop_atr=3,tp_atr=6",
            "rules:stop_atr=2,tp_atr=8")  # fmt: skip


def cpu() -> float:
    """Return the CPU seconds of this process and of its children that ended."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in spent)


def jobs(path: str, bars: pd.DataFrame, deciders: tuple[str, ...]) -> list[parallel_backtests.Job]:
    first, last = bars.index[0].to_pydatetime(), bars.index[-1].to_pydatetime()
    window = BacktestWindow(start=first, end=last)
    files = parallel_backtests.ReplayFiles(candles=((SYMBOL, path),))
    chosen = [strategy(SYMBOL, decider=decider) for decider in deciders]
    return [parallel_backtests.Job(label=each.decider, strategy=each, window=window, files=files) for each in chosen]


def main() -> None:
    """Print CPU seconds for the features, one decider, eight of them, and the random seeds."""
    from tempfile import TemporaryDirectory

    what, bars = candles()
    bars = bars.iloc[:YEAR]
    with TemporaryDirectory() as folder:
        path = f"{folder}/year.parquet"
        ts = bars.index.astype("datetime64[ms, UTC]").astype("int64")
        bars.assign(ts=np.asarray(ts)).to_parquet(path)
        begun, wall = cpu(), time.perf_counter()
        list(parallel_backtests.run_all(jobs(path, bars, DECIDERS)))
        took, wall = cpu() - begun, time.perf_counter() - wall
        print(f"{what}, {YEAR:,} bars; compare of {len(DECIDERS)}: cpu_s={took:.2f} wall_s={wall:.2f}")
        begun = cpu()
        market = Market.from_base(SYMBOL, bars)
        for each in ("events", "event_closes", "tables", "anchor_table", "votes", "roles"):
            getattr(market, each)
        features = cpu() - begun
        print(f"features and events once: cpu_s={features:.2f}; eight times would be {8 * features:.2f}")
        [trial] = [parallel_backtests.run_job(job) for job in jobs(path, bars, ("rules",))]
        begun = cpu()
        paths = parallel_backtests.bars_of(jobs(path, bars, ("rules",))[0].seen)
        drawn = random_traders.random_returns(trial.trades, paths, trial.days, 10_000.0, Costs())
        stands = random_traders.standing(compare.series([trial]).to_numpy(), drawn, len(trial.trades))
        took = cpu() - begun
        print(f"{stands.seeds} random traders of {stands.trades} trades each: cpu_s={took:.2f}")


if __name__ == "__main__":
    main()
