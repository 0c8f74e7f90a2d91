"""Funding rate files: parquet or CSV with `ts` (UTC ms) and `rate`, the share of notional that a long pays then."""

from datetime import UTC, datetime
from pathlib import Path

from tasks.adapters.files.table import read_table
from tasks.core.errors import InputError
from tasks.core.simulation.backtest_inputs import FundingRate
from tasks.core.trading.money import exact


def read_funding(path: Path) -> tuple[FundingRate, ...]:
    """Read a file of rates, oldest first; raises InputError naming the file and what is wrong with it."""
    rows = read_table(path, "file of funding rates", {"ts": "int64", "rate": "float64"})
    try:
        return tuple(
            FundingRate(datetime.fromtimestamp(ms / 1000, tz=UTC), exact(rate))
            for ms, rate in zip(rows["ts"].tolist(), rows["rate"], strict=True)
        )
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e
