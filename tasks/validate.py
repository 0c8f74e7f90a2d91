"""Judge the market data before anything is computed from it."""

from datetime import datetime

from prefect.artifacts import create_table_artifact
from prefect.context import TaskRunContext

from tasks.connections import log
from tasks.core.market.bars import Frames
from tasks.core.pages import inert
from tasks.core.types import DataFailure
from tasks.stage import stage

ARTIFACT = "validation"


@stage
def validate_candles(frames: dict[str, Frames], as_of: datetime) -> list[DataFailure]:
    """Run the one suite over all symbols and timeframes; a symbol with failures is quarantined by the cycle.

    In a Prefect run the result is also a table artifact, one series for all runs.
    """
    from tasks.adapters.quality import suite

    failures = suite.validate(frames, as_of)
    for failure in failures:
        log().warning(
            "quarantine symbol=%s timeframe=%s expectation=%s count=%d rows=%s",
            failure.symbol, failure.timeframe, failure.expectation, failure.count, "; ".join(failure.rows),
        )  # fmt: skip
    if not failures:
        log().info("validate symbols=%d failures=0", len(frames))
    if TaskRunContext.get() is not None:
        create_table_artifact(
            key=ARTIFACT,
            table=artifact_table(frames, failures),
            description=f"as_of={as_of.isoformat()} symbols={len(frames)} failures={len(failures)}",
        )
    return failures


def artifact_table(frames: dict[str, Frames], failures: list[DataFailure]) -> list[dict[str, str | int]]:
    """Return one row per failure, or a single row that says what passed."""
    if not failures:
        timeframes = dict.fromkeys(tf for by_timeframe in frames.values() for tf in by_timeframe)
        passed = {"symbol": ", ".join(frames), "timeframe": ", ".join(timeframes), "expectation": "all passed"}
        return [{**passed, "count": 0, "rows": ""}]
    return [{**each.model_dump(exclude={"rows"}), "rows": inert.plain("; ".join(each.rows))} for each in failures]
