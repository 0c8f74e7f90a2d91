"""Judge the market data before anything is computed from it."""

from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.connections import log
from tasks.core.market.bars import Frames
from tasks.core.types.record import DataFailure


@task(cache_policy=NO_CACHE)
def validate_candles(frames: dict[str, Frames], as_of: datetime) -> list[DataFailure]:
    """Run the one suite over all symbols and timeframes; a symbol with failures is quarantined by the cycle."""
    from tasks.adapters import quality

    failures = quality.validate(frames, as_of)
    for failure in failures:
        log().warning(
            "quarantine symbol=%s timeframe=%s expectation=%s count=%d rows=%s",
            failure.symbol, failure.timeframe, failure.expectation, failure.count, "; ".join(failure.rows),
        )  # fmt: skip
    if not failures:
        log().info("validate symbols=%d failures=0", len(frames))
    return failures
