"""A year of ten symbols as an RL dataset: CPU seconds and peak memory of a process of its own, after the imports.

The records are a seeded replay's, stamped anew: 12 decisions a day and symbol, as the whole year would have.
"""

import asyncio
import re
import tempfile
import time
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

from tasks.adapters.files import dataset
from tasks.core.decision.rules import RulesDecider
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tests.benchmarks.tapes import candles
from tests.core.replayed import strategy

DAYS, SYMBOLS, A_DAY = 365, 10, 12
SYMBOL = "BTC/USDT:USDT"
_STAMP = re.compile(r'"cycle_id":"[^"]*"(.*?)"as_of":"[^"]*"')


def main() -> None:
    """Print what a year, and a month of it, take: memory must not follow the number of records."""
    _, bars = candles()
    lines = list[str]()
    market = {SYMBOL: Market.from_base(SYMBOL, bars.iloc[:20_000])}
    asyncio.run(
        Backtest(market, RulesDecider(), strategy(SYMBOL), on_record=lambda r: lines.append(r.model_dump_json())).run()
    )
    with tempfile.TemporaryDirectory() as folder:
        for days in (DAYS // 12, DAYS):
            file = Path(folder) / f"{days}.jsonl"
            _write(file, lines[-400:], days)
            with get_context("spawn").Pool(1) as pool:
                print(pool.apply(_export, (file, Path(folder) / f"dataset{days}")))
            file.unlink()


def _write(file: Path, lines: list[str], days: int) -> None:
    start, gap = datetime(2025, 1, 1, tzinfo=UTC), timedelta(days=1) / A_DAY
    with file.open("w", encoding="utf-8") as out:
        for k in range(days * A_DAY):
            for n in range(SYMBOLS):
                stamp = rf'"cycle_id":"{k}-{n}"\1"as_of":"{(start + k * gap).isoformat()}"'
                line = _STAMP.sub(stamp, lines[k % len(lines)], count=1)
                out.write(line.replace(SYMBOL, f"C{n}/USDT:USDT") + "\n")


def _export(file: Path, out: Path) -> str:
    before, cpu = _peak_mb(), time.process_time()
    card = dataset.export(dataset.file_source(file), out)
    cpu = time.process_time() - cpu
    size = file.stat().st_size / 1e6
    return (
        f"{card['transitions']:,} transitions of {size:,.0f} MB of records: cpu_s={cpu:.1f} "
        f"({card['transitions'] / cpu:,.0f} a second) peak_mb={_peak_mb():.0f}, {before:.0f} of it the imports"
    )


def _peak_mb() -> float:
    """Return this process's peak; getrusage would tell that of the one it was forked from."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


if __name__ == "__main__":
    main()
