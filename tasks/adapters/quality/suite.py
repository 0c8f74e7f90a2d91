"""Market data against its contract: one great-expectations suite over one stacked frame of every symbol and timeframe.

One pass for all, because a suite costs the same whether it sees 300 rows or 75,000. What compares a row with its
neighbours, with the clock or with another timeframe becomes a helper column first (see `columns`); the suite then
only ever looks at columns. Prices are compared exactly: the venue sends decimals, the same text gives the same
float64, so a high below the close by any amount is wrong data. A crash is a fact, not a fault of the feed: a move is
only suspect while neither its volume nor the next bar confirms it.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import pandas as pd
import yaml

from tasks.adapters.quality.columns import stacked
from tasks.core.types import COLUMNS, SECONDS, DataError, DataFailure

ROWS_SHOWN = 5

Frames = Mapping[str, Mapping[str, pd.DataFrame]]


RULES = yaml.safe_load(Path(__file__).with_name("suite.yaml").read_text(encoding="utf-8"))
PRESENT, SHAPE = "present", "shape"  # checked before stacking, because a frame like this cannot be stacked
_VALUE_OF = {"unique": "open_time", "high_is_highest": "high", "low_is_lowest": "low", "traded": "volume"}


def validate(frames: Frames, as_of: datetime) -> list[DataFailure]:
    """Check every frame of `frames[symbol][timeframe]`; return one failure per symbol, timeframe and broken rule.

    The newest bar that can have closed must be there. Columns beyond `bars.COLUMNS` are ignored.
    """
    failures = list(_unusable(frames))
    bad = {(failure.symbol, failure.timeframe) for failure in failures}
    good = {
        (symbol, timeframe): frame
        for symbol, by_timeframe in frames.items()
        for timeframe, frame in by_timeframe.items()
        if (symbol, timeframe) not in bad
    }
    if good:
        stack = stacked(good, as_of)
        for rule, column, rows in _run_suite(stack):
            failures.extend(_by_frame(rule, _VALUE_OF.get(rule, column), stack.iloc[rows]))
    return sorted(failures, key=lambda f: (f.symbol, SECONDS.get(f.timeframe, 0), f.expectation))


def _unusable(frames: Frames) -> Iterator[DataFailure]:
    for symbol, by_timeframe in frames.items():
        if not by_timeframe:
            yield DataFailure(symbol=symbol, timeframe="", expectation=PRESENT, count=1, rows=("no timeframe at all",))
        for timeframe, frame in by_timeframe.items():
            if fault := _shape_fault(timeframe, frame):
                name = PRESENT if fault == "no bars" else SHAPE
                yield DataFailure(symbol=symbol, timeframe=timeframe, expectation=name, count=1, rows=(fault,))


def _shape_fault(timeframe: str, frame: pd.DataFrame) -> str:
    if timeframe not in SECONDS:
        return f"timeframe {timeframe} is not one of {', '.join(SECONDS)}"
    if frame.empty:
        return "no bars"
    if missing := [column for column in COLUMNS if column not in frame.columns]:
        return f"columns missing: {', '.join(missing)}"
    if text := [column for column in COLUMNS if not pd.api.types.is_numeric_dtype(frame[column])]:
        return f"columns are not numbers: {', '.join(text)}"
    if not isinstance(frame.index, pd.DatetimeIndex) or str(frame.index.tz) != "UTC":
        return f"index is {frame.index.dtype}, must be UTC times"
    return "index holds NaT" if frame.index.hasnans else ""


def _run_suite(stack: pd.DataFrame) -> Iterator[tuple[str, str, list[int]]]:
    """Yield each rule that failed, with the column it looks at and the row numbers of its offenders."""
    # GX reads this before it builds its first context; a validation must not depend on a telemetry host.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    for name in ("great_expectations", "great_expectations.data_context.types.base"):  # the latter tells of its folder
        logging.getLogger(name).setLevel(logging.WARNING)

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("market").add_dataframe_asset("bars")
    batch = asset.add_batch_definition_whole_dataframe("stack").get_batch({"dataframe": stack})
    suite = gx.ExpectationSuite(name="bars", expectations=RULES)
    report = batch.validate(suite, result_format={"result_format": "COMPLETE", "include_unexpected_rows": False})
    for result in report.results:
        config = result.expectation_config
        rule = config.meta["rule"]
        if not result.success and "unexpected_index_list" not in result.result:
            raise DataError(f"the check {rule} could not run: {result.exception_info}")
        if not result.success:
            yield rule, config.kwargs.get("column", ""), result.result["unexpected_index_list"]


def _by_frame(rule: str, column: str, offenders: pd.DataFrame) -> Iterator[DataFailure]:
    for (symbol, timeframe), rows in offenders.groupby(["symbol", "timeframe"], sort=False):
        first = rows.head(ROWS_SHOWN)
        shown = tuple(_show(at, column, value) for at, value in zip(first["open_time"], first[column], strict=True))
        yield DataFailure(symbol=str(symbol), timeframe=str(timeframe), expectation=rule, count=len(rows), rows=shown)


def _show(at: pd.Timestamp, column: str, value: object) -> str:
    time = at.isoformat().replace("+00:00", "Z")
    return time if column == "open_time" else f"{time} {column}={value}"
