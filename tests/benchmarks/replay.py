"""`replay` of a replay's own records: how many cycle records a second come out again, byte for byte."""

import asyncio
import time

from tasks.adapters.deciders import build
from tasks.adapters.files.prompts import load_prompt
from tasks.core.lab.replay import Replayer
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tasks.core.simulation.candle_history import History
from tasks.core.types.record import CycleRecord
from tasks.core.types.strategy import Strategy
from tasks.settings import settings
from tests.benchmarks.tapes import candles
from tests.core.replayed import strategy

SYMBOL = "BTC/USDT:USDT"
N = 3000
BATCH = 256


def main() -> None:
    """Print CPU and wall seconds for reading, features and recomputing."""
    what, bars = candles()
    lines: list[bytes] = []
    chosen = strategy(SYMBOL)
    run = Backtest({SYMBOL: Market.from_base(SYMBOL, bars)}, build("rules", settings()), chosen, on_line=lines.append)
    asyncio.run(run.run())
    kept = lines[:: max(1, len(lines) // N)]
    cpu, wall = time.process_time(), time.perf_counter()
    history = History(SYMBOL, Market.from_base(SYMBOL, bars).bars)
    _ = history.market(chosen.thresholds, 0).tables
    features, cpu, wall = time.process_time() - cpu, time.process_time(), time.perf_counter()
    records = [CycleRecord.model_validate_json(line) for line in kept]
    read = time.process_time() - cpu
    matched = asyncio.run(_replay(records, history, chosen))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{what}: {len(records)} records of {sum(map(len, kept)) // len(kept):,} bytes, {matched} match")
    print(
        f"cpu_s={cpu:.2f} (reading {read:.2f}) wall_s={wall:.2f} records_per_cpu_s={len(records) / cpu:,.0f} "
        f"after {features:.2f} cpu_s of features, once per symbol"
    )


async def _replay(records: list[CycleRecord], history: History, chosen: Strategy) -> int:
    replayer = Replayer(lambda *_: history, lambda _: chosen, load_prompt, lambda name: build(name, settings()))
    matched = 0
    for start in range(0, len(records), BATCH):
        batch = records[start : start + BATCH]
        replayer.read_ahead(batch)
        for asked in replayer.questions(batch):
            matched += sum(not each.differences and not each.lacks for each in await replayer.replay(asked))
    return matched


if __name__ == "__main__":
    main()
