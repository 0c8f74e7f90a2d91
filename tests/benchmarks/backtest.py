"""The whole replay with a full record of every decision, and its fingerprint, beside other engines on the same candles.

Ours: five timeframes, every event rule, the guard and a record per decision; with BENCH_SYMBOLS=10 ten symbols of the
same candles on one account. The peer: a plain SMA 50/200 cross with a stop of 1.5 and a target of 3 ATR(14) and no
records in backtesting.py, which is in the lock. PEERS=1 runs the same cross in nautilus_trader 2 as well, in an
environment that uv makes for it from the package index (PEER_PYTHON is its interpreter, 3.12 or newer), and says what
keeps freqtrade from running here.
"""

import asyncio
import os
import resource
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import talib
from backtesting import Backtest as PeerBacktest
from backtesting import Strategy

from tasks.core.decision.baselines import HoldDecider
from tasks.core.decision.rules import RulesDecider
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tests.benchmarks.tapes import candles
from tests.core.replayed import strategy

SYMBOL = "BTC/USDT:USDT"


class SmaCross(Strategy):
    """Long above, short below, out at the stop or target."""

    def init(self) -> None:
        close, high, low = (self.data[name].astype(float) for name in ("Close", "High", "Low"))
        self.fast, self.slow = self.I(talib.SMA, close, 50), self.I(talib.SMA, close, 200)
        self.atr = self.I(talib.ATR, high, low, close, 14)

    def next(self) -> None:
        above, before = self.fast[-1] > self.slow[-1], self.fast[-2] > self.slow[-2]
        if self.position or above == before:
            return
        price, atr = self.data.Close[-1], self.atr[-1]
        enter, sign = (self.buy, 1) if above else (self.sell, -1)
        enter(size=0.2, sl=price - sign * 1.5 * atr, tp=price + sign * 3 * atr)


def measured(name: str, count: int, work: Callable[[], str]) -> float:
    """Print and return the CPU seconds of `work` over `count` candles."""
    cpu, wall = time.process_time(), time.perf_counter()
    said = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{name:24} cpu_s={cpu:.2f} wall_s={wall:.2f} candles_per_cpu_s={count / cpu:,.0f} {said}")
    return cpu


def ours(decider: HoldDecider | RulesDecider, bars: pd.DataFrame, symbols: int) -> str:
    names = [SYMBOL, *(f"C{n}/USDT:USDT" for n in range(1, symbols))]
    markets = {name: Market.from_base(name, bars) for name in names}
    result = asyncio.run(Backtest(markets, decider, strategy(*sorted(markets))).run())
    return f"calls={result.summary()['calls']} trades={len(result.outcomes)} fingerprint={result.fingerprint[:12]}"


def backtesting_py(bars: pd.DataFrame) -> str:
    frame = bars.rename(columns=str.capitalize).tz_localize(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stats = PeerBacktest(frame, SmaCross, cash=1_000_000, commission=0.00055).run()
    return f"trades={stats['# Trades']}"


def freqtrade() -> str:
    """Say why freqtrade is not measured: what does not install, or that it wants an exchange before any candle."""
    uvx = shutil.which("uvx")
    if uvx is None:
        return "skipped: there is no uvx to fetch it with"
    done = subprocess.run([uvx, "freqtrade", "--version"], capture_output=True, text=True, timeout=600, check=False)
    last = " ".join((done.stdout or done.stderr).strip().splitlines()[-1:])[:120]
    if done.returncode:
        return f"skipped: does not install ({last})"
    return f"skipped: {last} installs, but its backtest loads the markets of an exchange over the network first"


def nautilus(bars: pd.DataFrame) -> str:
    """Replay the candles in nautilus_trader, in an environment of its own; what it printed, or why it did not run."""
    uv = subprocess.run([".ci/find-uv"], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "candles.parquet"
        bars.assign(ts=bars.index.as_unit("ms").asi8).to_parquet(file, index=False)
        peer = ["tests/benchmarks/nautilus_peer.py", str(file)]
        packages = [f"--with={name}" for name in ("nautilus-trader==2.0.0rc6", "pandas", "pyarrow")]
        python = ["--no-python-downloads", "--python", os.environ.get("PEER_PYTHON", ">=3.12")]
        done = subprocess.run(
            [uv, "run", "--no-project", *python, "--prerelease=allow", *packages, "python", *peer],
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    last = " ".join((done.stderr if done.returncode else done.stdout).strip().splitlines()[-1:])
    return f"skipped: {last[:120]}" if done.returncode else last


def main() -> None:
    """Print CPU seconds for `hold`, `rules` and the peers, and the ratios."""
    what, bars = candles()
    symbols = int(os.environ.get("BENCH_SYMBOLS", "1"))
    print(f"{what} x {symbols}, one process, after imports")
    took = {d.name: measured(d.name, len(bars) * symbols, lambda d=d: ours(d, bars, symbols))
            for d in (HoldDecider(), RulesDecider())}  # fmt: skip
    print(f"most memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    peer = measured("backtesting.py SMA cross", len(bars), lambda: backtesting_py(bars))
    print(f"rules / backtesting.py   {took['rules'] / symbols / peer:.2f}")
    if os.environ.get("PEERS") == "1":
        print(f"nautilus_trader 2        {nautilus(bars)}")
        print(f"freqtrade                {freqtrade()}")


if __name__ == "__main__":
    main()
