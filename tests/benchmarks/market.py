"""CPU time of the market room on recorded candles: `python tests/benchmarks/market.py`. Never a timed test.

One process, after imports. Wanted: all of history <= 1 s, one live snapshot <= 15 ms, 50 symbols <= 0.5 s.
"""

import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

from tasks.adapters.files.candles import read_candles
from tasks.core.market.bars import Frames, closed_by
from tasks.core.market.lean import encode
from tasks.core.market.market import Market
from tasks.core.market.snapshot import build, to_json
from tasks.core.types.snapshot import Constraints, Snapshot

CANDLES = Path(__file__).resolve().parents[3] / "shared/data/ohlcv/BTC-USDT_5m_binance_2022-01_2023-09.parquet"
LIVE_BARS = 1_000
SYMBOLS = 50
CONSTRAINTS = Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=("HOLD",))


def cpu_s(work: Callable[[], object], repeat: int) -> tuple[float, float, float]:
    """Return the first, least and median CPU seconds of `work`."""
    taken = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return taken[0], min(taken), median(taken)


def live_cycle(frames: Frames, as_of: datetime) -> Snapshot:
    """Do what a live cycle does with one symbol's stored bars: features, events, reasons, snapshot."""
    market = Market("BTC/USDT", frames)
    reasons = market.reasons(as_of - timedelta(minutes=15), as_of)
    return build(market, as_of, reasons=reasons, constraints=CONSTRAINTS)


def main() -> None:
    if not CANDLES.exists():
        sys.exit(f"needs the recorded candles {CANDLES}")
    bars = read_candles(CANDLES)
    as_of = bars.index[150_000].to_pydatetime()
    whole = Market.from_base("BTC/USDT", bars)
    frames = {tf: closed_by(frame, tf, as_of).iloc[-LIVE_BARS:] for tf, frame in whole.bars.items()}
    snapshot, market = live_cycle(frames, as_of), Market("BTC/USDT", frames)
    rows: list[tuple[str, Callable[[], object], int]] = [
        (f"resample + features, {len(bars):,} 5m bars", lambda: Market.from_base("X", bars).features, 3),
        ("the same + anchors + events", lambda: Market.from_base("X", bars).events, 3),
        ("live snapshot from 1,000 bars per timeframe", lambda: live_cycle(frames, as_of), 30),
        (f"the same for {SYMBOLS} symbols", lambda: [live_cycle(frames, as_of) for _ in range(SYMBOLS)], 3),
        ("build alone (a replay's cycle)", lambda: build(market, as_of, constraints=CONSTRAINTS), 200),
        ("role inputs alone", lambda: market.moment(as_of).roles, 200),
        (f"JSON ({len(to_json(snapshot)):,} bytes)", lambda: to_json(snapshot), 200),
        (f"lean ({len(encode(snapshot)):,} bytes)", lambda: encode(snapshot), 200),
    ]
    print(f"{'CPU ms':<48}{'first':>10}{'least':>10}{'median':>10}")
    for name, work, repeat in rows:
        print(f"{name:<48}" + "".join(f"{x * 1000:>10.2f}" for x in cpu_s(work, repeat)))


if __name__ == "__main__":
    main()
