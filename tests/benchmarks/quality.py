"""The data suite over 50 symbols x 6 timeframes x 300 bars: CPU seconds after the import. Limit: 1 s."""

import time
from datetime import timedelta

from tasks.adapters.quality.suite import RULES, validate
from tasks.core.market.bars import WORKING_TIMEFRAMES, resample
from tests.benchmarks.tapes import candles

SYMBOLS = 50
BARS = 300


def main() -> None:
    """Print the first run (with the import of great_expectations) and the later ones."""
    what, five = candles()
    whole = five.iloc[-(BARS + 2) * 288 :]
    as_of = (whole.index[-1] + timedelta(minutes=5)).to_pydatetime()
    one = {tf: resample(whole, "5m", tf).iloc[-BARS:] for tf in WORKING_TIMEFRAMES}
    frames = {f"C{n}/USDT:USDT": one for n in range(SYMBOLS)}
    rows = sum(len(frame) for frame in one.values()) * SYMBOLS
    print(f"{what}: {SYMBOLS} symbols x {len(one)} timeframes, {rows:,} rows, {len(RULES)} rules")
    for run in ("first, with the import", "second", "third"):
        cpu = time.process_time()
        failures = validate(frames, as_of)
        print(f"{run:24} cpu_s={time.process_time() - cpu:.2f} failures={len(failures)}")


if __name__ == "__main__":
    main()
