"""Market data against its contract: one great-expectations suite over one stacked frame of every symbol and timeframe.

One pass for all, because a suite costs the same whether it sees 300 rows or 75,000. What compares a row with its
neighbours, with the clock or with another timeframe becomes a helper column first (`quality_columns`); the suite then
only ever looks at columns. Prices are compared exactly: the venue sends decimals, the same text gives the same
float64, so a high below the close by any amount is wrong data. A crash is a fact, not a fault of the feed: a move is
only suspect while neither its volume nor the next bar confirms it. `rules_table` is the page people read.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import pandas as pd

from tasks.adapters.quality.columns import (
    AGREEMENT_WINDOW,
    BACK,
    HISTORY,
    JUDGED,
    LOUD,
    SILENT_TAIL,
    STILL_TIMEFRAME,
    add_columns,
    stack_frames,
)
from tasks.core.errors import DataError
from tasks.core.types.bars import COLUMNS, SECONDS
from tasks.core.types.record import DataFailure

GAP_WINDOW = 300
SPIKE = 20  # usual ranges; in 605,037 recorded 5m bars 114 moved more, all on 4x their volume or above
STILL = 12  # newest 5m bars at one price without a range: an hour
REPEATED = 3  # newest bars with the same five numbers
PRICE_TOLERANCE = 1e-9
VOLUME_TOLERANCE = 1e-6
ROWS_SHOWN = 5

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
    _between(
        "prices_agree",
        "price_gap",
        f"open, high, low and close equal those built from the 5m bars (where all are there, within the last "
        f"{AGREEMENT_WINDOW}), as a share of the price",
        max_value=PRICE_TOLERANCE,
    ),
    _between(
        "volume_agrees",
        "volume_gap",
        "volume equals the sum of the same 5m bars, as a share of it",
        max_value=VOLUME_TOLERANCE,
    ),
    _between(
        "confirmed",
        "unconfirmed_ranges",
        f"no spike among the last {JUDGED} bars: a move this many times the median true range of the {HISTORY} bars "
        f"before needs volume above {LOUD} times its median, or a next bar that does not open within {BACK:.0%} of "
        "the move from where it began",
        max_value=SPIKE,
    ),
    _between(
        "moving",
        "still_bars",
        f"the last {STILL} bars of {STILL_TIMEFRAME} are not all at one price without a range",
        max_value=STILL - 1,
    ),
    _between(
        "not_repeated",
        "repeats",
        f"the last {REPEATED} bars are not the same five numbers (bars without volume: see traded)",
        max_value=REPEATED - 2,
    ),
)
# Checked before stacking, because a frame like this cannot be stacked.
PRESENT = "present"
SHAPE = "shape"
UNSTACKED = {
    PRESENT: "every symbol has its timeframes, each with bars",
    SHAPE: "a known timeframe, UTC open times and the five columns as numbers",
}
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
        stack = add_columns(stack_frames(good), good, as_of, max_age or {}, gap_window)
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


def _run_suite(stack: pd.DataFrame) -> Iterator[tuple[Rule, list[int]]]:
    """Yield each rule that failed, with the row numbers of its offenders."""
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


def rules_table() -> str:
    """Write the rules as a markdown table, one row each: what `docs/validation.md` shows."""
    rows = [(name, "before the suite", "", meaning) for name, meaning in UNSTACKED.items()]
    rows += [(rule.name, rule.expectation, _arguments(rule), rule.meaning) for rule in RULES]
    lines = [f"| `{name}` | {kind} | {said} | {meaning} |" for name, kind, said, meaning in rows]
    return "\n".join(["| rule | expectation | on | what it says |", "|---|---|---|---|", *lines]) + "\n"


def _arguments(rule: Rule) -> str:
    """Say an expectation's columns and bounds in short."""
    said = {k: v for k, v in rule.arguments.items() if k not in ("strict_min", "ignore_row_if", "or_equal")}
    strict = bool(rule.arguments.get("strict_min"))
    names = {"min_value": ">" if strict else ">=", "max_value": "<="}
    parts = [
        f"{names[k]} {v}" if k in names else f"`{', '.join(v) if isinstance(v, list) else v}`" for k, v in said.items()
    ]
    return " ".join(parts)
