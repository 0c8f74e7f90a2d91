"""Market data against its contract: one great-expectations suite over one stacked frame of every symbol and timeframe.

One pass for all, because a suite costs the same whether it sees 300 rows or 75,000. What compares a row with its
neighbours or with the clock becomes a helper column first (`_helpers`); the suite then only ever looks at columns.
Prices are compared exactly: the venue sends decimals, the same text gives the same float64, so a high below the
close by any amount is wrong data. Left out on purpose: outliers. A crash is a fact, not a fault of the feed.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd

from tasks.core.errors import DataError
from tasks.core.types.bars import COLUMNS, SECONDS, floor_time
from tasks.core.types.record import DataFailure

GAP_WINDOW = 300
SILENT_TAIL = 3
ROWS_SHOWN = 5
_SECOND = 1_000_000_000  # nanoseconds

Frames = Mapping[str, Mapping[str, pd.DataFrame]]


class Rule(NamedTuple):
    """One line of the suite: its name in a DataFailure, the expectation's type and arguments, and what it means."""

    name: str
    expectation: str
    arguments: dict[str, object]
    meaning: str


def _between(name: str, column: str, meaning: str, **bounds: object) -> Rule:
    return Rule(name, "ExpectColumnValuesToBeBetween", {"column": column, **bounds}, meaning)


def _envelope(name: str, above: str, below: str, meaning: str) -> Rule:
    arguments = {"column_A": above, "column_B": below, "or_equal": True, "ignore_row_if": "either_value_is_missing"}
    return Rule(name, "ExpectColumnPairValuesAToBeGreaterThanB", arguments, meaning)


RULES: tuple[Rule, ...] = (
    *(
        Rule(f"{column}_not_null", "ExpectColumnValuesToNotBeNull", {"column": column}, f"{column} is a finite number")
        for column in COLUMNS
    ),
    *(
        _between(f"{column}_positive", column, f"{column} is above 0", min_value=0, strict_min=True)
        for column in COLUMNS[:4]
    ),
    _between("volume_not_negative", "volume", "volume is 0 or more", min_value=0),
    _envelope("high_is_highest", "high", "top", "high is at least open, low and close"),
    _envelope("low_is_lowest", "bottom", "low", "low is at most open, high and close"),
    Rule(
        "unique",
        "ExpectCompoundColumnsToBeUnique",
        {"column_list": ["symbol", "timeframe", "open_time"]},
        "one bar per symbol, timeframe and open time",
    ),
    _between("increasing", "step_s", "each bar opens after the one before it", min_value=0, strict_min=True),
    _between("no_gap", "missing_before", f"no bar is missing within the last {GAP_WINDOW}", max_value=0),
    _between("aligned", "offset_s", "bars open on a multiple of their timeframe", max_value=0),
    _between("closed", "open_for_s", "the bar was closed at as_of", max_value=0),
    _between("fresh", "overdue_s", "the newest bar is there (or is within max_age)", max_value=0),
    _between("traded", "silent", f"the last {SILENT_TAIL} bars have volume", max_value=0),
)
# Checked before stacking, because a frame like this cannot be stacked.
PRESENT = "present"
SHAPE = "shape"
_VALUE_OF = {"unique": "open_time", "high_is_highest": "high", "low_is_lowest": "low", "traded": "volume"}


def validate(
    frames: Frames,
    as_of: datetime,
    *,
    max_age: Mapping[str, timedelta] | None = None,
    gap_window: int = GAP_WINDOW,
) -> list[DataFailure]:
    """Check every frame of `frames[symbol][timeframe]`; return one failure per symbol, timeframe and broken rule.

    max_age: how long before as_of the last bar of a timeframe may have closed; by default the newest bar that can
    have closed must be there. gap_window: a gap further back than this many bars no longer counts, so that a hole
    in the venue's own history does not quarantine a symbol for ever. Columns beyond `bars.COLUMNS` are ignored.
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
        stack = _helpers(_stack(good), as_of, max_age or {}, gap_window)
        for rule, rows in _run_suite(stack):
            failures.extend(_by_frame(rule, stack.iloc[rows]))
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


def _stack(frames: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """Put all frames under each other: a row number as index, open_time as a column, inf as missing."""
    parts = [frame.loc[:, list(COLUMNS)].astype("float64") for frame in frames.values()]
    stack = pd.concat(parts, ignore_index=True).replace([np.inf, -np.inf], np.nan)
    lengths = [len(part) for part in parts]
    stack["symbol"] = np.repeat([symbol for symbol, _ in frames], lengths)
    stack["timeframe"] = np.repeat([timeframe for _, timeframe in frames], lengths)
    stack["frame"] = np.repeat(np.arange(len(parts)), lengths)
    opens = np.concatenate([_nanoseconds(part.index) for part in parts])
    stack["open_time"] = pd.to_datetime(opens, utc=True)
    return stack


def _nanoseconds(times: pd.Index) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(pd.DatetimeIndex(times).as_unit("ns").asi8)


def _helpers(stack: pd.DataFrame, as_of: datetime, max_age: Mapping[str, timedelta], gap_window: int) -> pd.DataFrame:
    """Add what a rule needs of a bar's neighbours and of the clock; NaN where a rule does not apply to a row."""
    opens = _nanoseconds(pd.DatetimeIndex(stack["open_time"]))
    lasts = stack["timeframe"].map(SECONDS).to_numpy() * _SECOND
    closes = opens + lasts
    frame = stack["frame"]
    from_end = (frame.groupby(frame).transform("size") - frame.groupby(frame).cumcount() - 1).to_numpy()
    newest = stack["timeframe"].map({tf: _must_have_closed(tf, as_of, max_age) for tf in stack["timeframe"].unique()})
    step = np.where(frame.diff().to_numpy() == 0, np.diff(opens, prepend=opens[0]), np.nan)
    stack["top"] = stack[["open", "low", "close"]].max(axis=1)
    stack["bottom"] = stack[["open", "high", "close"]].min(axis=1)
    stack["step_s"] = step / _SECOND
    stack["missing_before"] = np.where(from_end < gap_window, np.ceil(step / lasts) - 1, np.nan)
    stack["offset_s"] = (opens % lasts) / _SECOND
    stack["open_for_s"] = np.maximum(closes / _SECOND - as_of.timestamp(), 0)
    stack["overdue_s"] = np.where(from_end == 0, np.maximum(newest.to_numpy() - closes / _SECOND, 0), np.nan)
    stack["silent"] = ((from_end < SILENT_TAIL) & (stack["volume"] == 0).to_numpy()).astype(int)
    return stack


def _must_have_closed(timeframe: str, as_of: datetime, max_age: Mapping[str, timedelta]) -> float:
    """Return the Unix time before which the last bar of `timeframe` may not have closed."""
    oldest = as_of - max_age[timeframe] if timeframe in max_age else floor_time(as_of, timeframe)
    return oldest.timestamp()


def _run_suite(stack: pd.DataFrame) -> Iterator[tuple[Rule, list[int]]]:
    """Yield each rule that failed, with the row numbers of its offenders."""
    # GX reads this before it builds its first context; a validation must not depend on a telemetry host.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("market").add_dataframe_asset("bars")
    batch = asset.add_batch_definition_whole_dataframe("stack").get_batch({"dataframe": stack})
    rules = {rule.name: rule for rule in RULES}
    expectations = [
        getattr(gx.expectations, rule.expectation)(**rule.arguments, meta={"rule": rule.name}) for rule in RULES
    ]
    suite = gx.ExpectationSuite(name="bars", expectations=expectations)
    report = batch.validate(suite, result_format={"result_format": "COMPLETE", "include_unexpected_rows": False})
    for result in report.results:
        rule = rules[result.expectation_config.meta["rule"]]
        if not result.success and "unexpected_index_list" not in result.result:
            raise DataError(f"the check {rule.name} could not run: {result.exception_info}")
        if not result.success:
            yield rule, result.result["unexpected_index_list"]


def _by_frame(rule: Rule, offenders: pd.DataFrame) -> Iterator[DataFailure]:
    column = _VALUE_OF.get(rule.name) or str(rule.arguments["column"])
    for (symbol, timeframe), rows in offenders.groupby(["symbol", "timeframe"], sort=False):
        first = rows.head(ROWS_SHOWN)
        shown = tuple(_show(at, column, value) for at, value in zip(first["open_time"], first[column], strict=True))
        yield DataFailure(
            symbol=str(symbol), timeframe=str(timeframe), expectation=rule.name, count=len(rows), rows=shown
        )


def _show(at: pd.Timestamp, column: str, value: object) -> str:
    time = at.isoformat().replace("+00:00", "Z")
    return time if column == "open_time" else f"{time} {column}={value}"
