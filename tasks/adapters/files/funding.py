"""Funding rate files: parquet or CSV with `ts` (UTC ms) and `rate`, the share of notional that a long pays then."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from tasks.adapters.files.candles import READERS
from tasks.core.errors import InputError
from tasks.core.simulation.world import FundingRate
from tasks.core.trading.money import exact


def read_funding(path: Path) -> tuple[FundingRate, ...]:
    """Read a file of rates, oldest first; raises InputError naming the file and what is wrong with it."""
    reader = READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise InputError(f"--funding {path}: no such file ending in {' or '.join(READERS)}")
    try:
        raw = reader(path)
        rows = raw[["ts", "rate"]].astype({"ts": "int64", "rate": "float64"}).drop_duplicates("ts").sort_values("ts")
        rates = [exact(rate) for rate in rows["rate"]]
    except (OSError, ValueError, KeyError, TypeError, pd.errors.ParserError) as e:
        raise InputError(f"--funding {path}: needs numeric columns ts,rate ({str(e).splitlines()[0][:120]})") from e
    times = [datetime.fromtimestamp(ms / 1000, tz=UTC) for ms in rows["ts"].tolist()]
    return tuple(FundingRate(at, rate) for at, rate in zip(times, rates, strict=True))
