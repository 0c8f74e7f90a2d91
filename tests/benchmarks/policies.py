"""What agents learn from what `random` did: on markets with a planted edge, and on markets without one.

`python -m tests.benchmarks.policies --algos bc,iql,cql` (cql needs d3rlpy). The edge: prices drift one way for days,
then the other. Each of three seeds has a market of its own to learn from, and agents trade on another one that nobody
has seen. An edge is claimed where the 95 % interval of the mean daily return lies above what doing nothing earns: 0.
"""

import argparse
import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from tasks.adapters.files import dataset
from tasks.adapters.model.onnx_policy import OnnxDecider
from tasks.adapters.rl import training
from tasks.core.decision.baselines import RandomDecider
from tasks.core.lab.compare import daily
from tasks.core.lab.statistics import Interval, interval
from tasks.core.market.bars import bar_frame
from tasks.core.market.market import Market
from tasks.core.ports import Decider
from tasks.core.simulation.backtest import Backtest
from tasks.core.types import Limits
from tests.core.replayed import backtest

BTC = "BTC/USDT:USDT"
DRIFT, NOISE, STAY = 0.0003, 0.0015, 400  # log return of a 5m bar, its deviation, and bars that it lasts on average
LEARNT, TRADED = 100_000, 30_000  # bars
SEEDS = (11, 12, 13)


def candles(n: int, seed: int, drift: float) -> pd.DataFrame:
    """Return n 5m bars that drift up or down, by turns; without a drift a random walk."""
    rng = np.random.default_rng(seed)
    spells = np.repeat(rng.geometric(1 / STAY, n // STAY * 4), 2)  # up as long as down: no way to win by one side
    sides = np.repeat(np.where(np.arange(len(spells)) % 2, -1, 1), spells)[:n]
    close = 60_000 * np.exp(np.cumsum(sides * drift + rng.normal(0, NOISE, n)))
    opened = np.r_[60_000.0, close[:-1]]
    reach = np.abs(rng.normal(0, NOISE * 0.6, (2, n)))
    high, low = np.maximum(opened, close) * (1 + reach[0]), np.minimum(opened, close) * (1 - reach[1])
    values = {name: each.round(1) for name, each in (("open", opened), ("high", high), ("low", low), ("close", close))}
    start = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
    return bar_frame((start + 300 * np.arange(n)) * 1000, values | {"volume": rng.lognormal(6, 0.6, n).round(3)})


def traded(decider: Decider, bars: pd.DataFrame, **more: Any) -> Backtest:
    """Replay a decider over bars."""
    return asyncio.run(backtest({BTC: Market.from_base(BTC, bars)}, decider, **more).run())


def logged(folder: Path, seed: int, drift: float, n: int = LEARNT) -> Path:
    """Export what `random` did on a market."""
    folder.mkdir(parents=True)
    with (folder / "records.jsonl").open("wb") as file:
        no_halt = Limits(drawdown_halt_pct=Decimal(100))  # what random pays would end it before half of the year
        traded(RandomDecider(str(seed)), candles(n, seed, drift), on_line=file.write, limits=no_halt)
    dataset.export(dataset.file_source(folder), folder / "data")
    return folder / "data"


def earned(run: Backtest) -> Interval:
    """Return the mean daily return in basis points with its interval."""
    closes = int(run.grid.closes_at(0).timestamp()) + 300 * np.arange(len(run.equity))
    _, equity = daily(run.equity, closes, float(run.strategy.capital))
    return interval(np.diff(equity) / equity[:-1] * 1e4)


def agent(data: Path, algo: str, seed: int, drift: float, tries: int = 1, n: int = TRADED) -> dict[str, Any]:
    """Learn from a log and trade on a market that is in none."""
    began = time.monotonic()
    report = training.train(data, data.parent / f"{algo}.onnx", algo, tries)
    took = round(time.monotonic() - began, 1)
    run = traded(OnnxDecider(data.parent / f"{algo}.onnx"), candles(n, seed + 1000, drift))
    found, summary = earned(run), run.summary()
    return {
        "algo": algo, "seed": seed, "drift": drift, "return_pct": round(summary["return_pct"], 2),
        "trades": summary["trades"], "bps_a_day": [round(x, 2) if x is not None else None for x in (
            found.estimate, found.low, found.high)],
        "claimed": bool(found.low is not None and found.low > 0), "epochs": report["seeds"], "train_s": took,
        "refused": {str(code): count for code, count in summary["rejected_by_code"].items()},
    }  # fmt: skip


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--algos", default="bc,iql")
    parser.add_argument("--drifts", default=f"{DRIFT},0")
    parser.add_argument("--tries", type=int, default=3, help="seeds of a training")
    given = parser.parse_args(argv)
    with TemporaryDirectory() as folder:
        for drift in map(float, given.drifts.split(",")):
            for seed in SEEDS:
                data = logged(Path(folder) / f"{drift}-{seed}", seed, drift)
                for algo in given.algos.split(","):
                    print(json.dumps(agent(data, algo, seed, drift, given.tries)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
