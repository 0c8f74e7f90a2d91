"""Funding rate files: when each was paid, and the rate, the share of notional that a long pays then."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tasks.adapters.files.table import TIME, read_table
from tasks.core.simulation.backtest_inputs import FundingRate
from tasks.core.types import exact

PAID = ("calctime|funding(rate)?time(stamp)?", *TIME)
RATE = ("(lastsettled|last|realized|settled)?(funding)?rate",)


def read_funding(path: Path) -> tuple[FundingRate, ...]:
    """Read a file of rates, oldest first; raises InputError naming the file and what is wrong with it."""
    table = read_table(path, "file of funding rates", {"rate": RATE}, PAID)
    table.refuse(
        np.abs(table.numbers["rate"]) >= 1, lambda i: f"{table.shown(i)} is no share of notional: 0.0001 is 0.01 %"
    )
    rows = table.ascending()
    return tuple(
        FundingRate(datetime.fromtimestamp(ms / 1000, UTC), exact(rate))
        for ms, rate in zip(rows.times.tolist(), rows.numbers["rate"].tolist(), strict=True)
    )
