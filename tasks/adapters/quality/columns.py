"""The columns that the suite looks at: what a bar's neighbours, the clock and the other timeframes say about it.

All frames stand under each other in one stack, so each column costs the same few array operations whether there is one
symbol or fifty. NaN means that a rule does not apply to a row.
"""

from collections.abc import Mapping
from datetime import datetime

import numpy as np
import pandas as pd

from tasks.core.market.bars import epoch_s, resample
from tasks.core.types.bars import COLUMNS, SECONDS, floor_time

SILENT_TAIL = 3  # newest bars that must have traded
JUDGED = 20  # newest bars in which a spike counts
HISTORY = 100  # bars before it that say what is usual
ENOUGH = 20  # of them must be there
LOUD = 3  # times the usual volume: that much trading confirms any move
BACK = 0.25  # of the excursion: a next bar that opens so near to where it began takes the move back
STILL_TIMEFRAME = "5m"
GAP_WINDOW = 300  # bars further back: a hole in the venue's own history must not quarantine a symbol for ever
AGREEMENT_WINDOW = 48  # a bar the venue revised keeps its first values here: that must not last for a day
_SECOND = 1_000_000_000  # nanoseconds
FrameKey = tuple[str, str]  # symbol, timeframe
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


def stack_frames(frames: Mapping[FrameKey, pd.DataFrame]) -> pd.DataFrame:
    """Put all frames under each other: a row number as index, open_time as a column, inf as missing."""
    parts = [frame[list(COLUMNS)].astype("float64") for frame in frames.values()]
    stack = pd.concat(parts, ignore_index=True).replace([np.inf, -np.inf], np.nan)
    lengths = [len(part) for part in parts]
    stack["symbol"] = np.repeat([symbol for symbol, _ in frames], lengths)
    stack["timeframe"] = np.repeat([timeframe for _, timeframe in frames], lengths)
    stack["frame"] = np.repeat(np.arange(len(parts)), lengths)
    opens = np.concatenate([_nanoseconds(part.index) for part in parts])
    stack["open_time"] = pd.to_datetime(opens, utc=True)
    return stack


def _nanoseconds(times: pd.Index) -> Ints:
    return np.asarray(pd.DatetimeIndex(times).as_unit("ns").asi8)


def add_columns(
    stack: pd.DataFrame,
    frames: Mapping[FrameKey, pd.DataFrame],
    as_of: datetime,
) -> pd.DataFrame:
    """Add every helper column to the stack of `frames`."""
    frame = stack["frame"].to_numpy()
    begins = np.searchsorted(frame, frame)
    ends = np.searchsorted(frame, frame, side="right")
    from_end = ends - np.arange(len(frame)) - 1
    _add_times(stack, frame, from_end, as_of)
    stack["top"] = stack[["open", "low", "close"]].max(axis=1)
    stack["bottom"] = stack[["open", "high", "close"]].min(axis=1)
    stack["silent"] = ((from_end < SILENT_TAIL) & (stack["volume"] == 0).to_numpy()).astype(int)
    values = {name: stack[name].to_numpy() for name in COLUMNS}
    judged = np.flatnonzero((from_end < JUDGED) & (np.arange(len(frame)) - begins > ENOUGH))
    stack["unconfirmed_ranges"] = np.nan
    stack.loc[judged, "unconfirmed_ranges"] = unconfirmed_moves(values, judged, begins[judged], ends[judged])
    _add_stale(stack, values, begins, from_end)
    stack["price_gap"], stack["volume_gap"] = _agreement(frames)
    return stack


def _add_times(stack: pd.DataFrame, frame: Ints, from_end: Ints, as_of: datetime) -> None:
    opens = _nanoseconds(pd.DatetimeIndex(stack["open_time"]))
    lasts = stack["timeframe"].map(SECONDS).to_numpy() * _SECOND
    closes = opens + lasts
    newest = stack["timeframe"].map({tf: floor_time(as_of, tf).timestamp() for tf in stack["timeframe"].unique()})
    step = np.where(np.diff(frame, prepend=-1) == 0, np.diff(opens, prepend=opens[0]), np.nan)
    stack["step_s"] = step / _SECOND
    stack["missing_before"] = np.where(from_end < GAP_WINDOW, np.ceil(step / lasts) - 1, np.nan)
    stack["offset_s"] = (opens % lasts) / _SECOND
    stack["open_for_s"] = np.maximum(closes / _SECOND - as_of.timestamp(), 0)
    stack["overdue_s"] = np.where(from_end == 0, np.maximum(newest.to_numpy() - closes / _SECOND, 0), np.nan)


def unconfirmed_moves(values: Mapping[str, np.ndarray], rows: Ints, begins: Ints, ends: Ints) -> Floats:
    """Return how far each of `rows` strays from the close before it, in usual ranges; NaN where others confirm it.

    A usual range is the median true range of the 100 bars before. A move is confirmed by volume (more than 3 times
    its median over the same bars) or by the next bar, if that does not open back within a quarter of the move from
    where it began. The newest bar has no next one: until it comes, only volume can confirm. begins, ends: where the
    row's own frame begins and ends.
    """
    before = np.r_[np.nan, values["close"][:-1]]
    true_range = np.maximum(values["high"], before) - np.minimum(values["low"], before)
    earlier = rows[:, None] + np.arange(-HISTORY, 0)
    inside = earlier > begins[:, None]  # the first bar of a frame has no true range
    usual_range, usual_volume = (
        _median(np.where(inside, column[earlier.clip(0)], np.nan)) for column in (true_range, values["volume"])
    )
    excursion = np.maximum(values["high"][rows] - before[rows], before[rows] - values["low"][rows])
    following = values["open"][np.minimum(rows + 1, len(before) - 1)]
    stayed = (rows + 1 < ends) & (np.abs(following - before[rows]) > BACK * excursion)
    loud = values["volume"][rows] > LOUD * usual_volume
    ranges = np.divide(excursion, usual_range, out=np.full(len(rows), np.nan), where=usual_range > 0)
    return np.where(loud | stayed, np.nan, ranges)


def _median(values: np.ndarray) -> Floats:
    """Return the median of each row's known values; NaN where fewer than `ENOUGH` are."""
    medians, enough = np.full(len(values), np.nan), np.isfinite(values).sum(axis=1) >= ENOUGH
    medians[enough] = np.nanmedian(values[enough], axis=1)
    return medians


def _add_stale(stack: pd.DataFrame, values: Mapping[str, np.ndarray], begins: Ints, from_end: Ints) -> None:
    """Count, at each frame's newest bar, the bars up to it that stood still and those that were repeated."""
    newest, first = from_end == 0, np.arange(len(begins)) == begins
    same = {name: np.r_[False, column[1:] == column[:-1]] & ~first for name, column in values.items()}
    flat = values["high"] == values["low"]
    again = np.logical_and.reduce(list(same.values())) & (values["volume"] > 0)
    at_one_price = _run_length(flat, ~same["close"] | first)
    watched = newest & (stack["timeframe"] == STILL_TIMEFRAME).to_numpy()
    stack["still_bars"] = np.where(watched, at_one_price, np.nan)
    stack["repeats"] = np.where(newest, _run_length(again, first), np.nan)


def _run_length(condition: np.ndarray, starts: np.ndarray) -> Floats:
    """Return for how many rows up to each one the condition has held without a break; a run restarts at `starts`."""
    rows = np.arange(len(condition))
    broken = np.maximum.accumulate(np.where(~condition, rows, np.where(starts, rows - 1, -1)))
    return np.where(condition, rows - broken, 0).astype("float64")


def _agreement(frames: Mapping[FrameKey, pd.DataFrame]) -> tuple[Floats, Floats]:
    """Return how far prices and volume of each bar are from those of its 5m bars, as a share; NaN where not known."""
    parts = [np.full((2, len(frame)), np.nan) for frame in frames.values()]
    fine = {symbol: _ascending(frame.iloc[-AGREEMENT_WINDOW:]) for (symbol, tf), frame in frames.items() if tf == "5m"}
    for part, ((symbol, timeframe), frame) in zip(parts, frames.items(), strict=True):
        five, native = fine.get(symbol), _ascending(frame.iloc[-AGREEMENT_WINDOW:])
        if SECONDS[timeframe] > SECONDS["5m"] and five is not None and native is not None:
            part[:, len(frame) - len(native) :] = _gaps(five, native, timeframe)
    prices, volumes = np.concatenate(parts, axis=1)
    return prices, volumes


def _ascending(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Return the five columns as floats; None if the bars are out of order, which is another rule's business."""
    in_order = frame.index.is_monotonic_increasing and frame.index.is_unique
    return frame[list(COLUMNS)].astype("float64") if in_order else None


def _gaps(five: pd.DataFrame, native: pd.DataFrame, timeframe: str) -> np.ndarray:
    """Compare `native` bars with those built from their 5m bars, where all of these are there."""
    out = np.full((2, len(native)), np.nan)
    built = resample(five, "5m", timeframe)
    opens, bins, native_opens = epoch_s(five.index), epoch_s(built.index), epoch_s(native.index)
    first = np.searchsorted(opens, bins)
    last = first + SECONDS[timeframe] // SECONDS["5m"] - 1
    whole = last < len(opens)
    whole[whole] = opens[last[whole]] - bins[whole] == SECONDS[timeframe] - SECONDS["5m"]
    _, ours, theirs = np.intersect1d(bins[whole], native_opens, assume_unique=True, return_indices=True)
    ours_values, values = built.to_numpy()[whole][ours], native.to_numpy()[theirs]
    with np.errstate(invalid="ignore"):  # what is infinite is another rule's business
        scale = np.maximum(np.abs(ours_values), np.abs(values))
        apart = np.divide(np.abs(ours_values - values), scale, out=np.zeros_like(scale), where=scale != 0)
    out[:, theirs] = apart[:, :4].max(axis=1), apart[:, 4]
    return out
