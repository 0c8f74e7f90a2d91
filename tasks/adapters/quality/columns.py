"""The columns that the suite looks at: what a bar's neighbours, the clock and the other timeframes say about it.

All frames stand under each other in one stack, so each column costs the same few operations whether there is one
symbol or fifty. NaN means that a rule does not apply to a row.
"""

from collections.abc import Mapping
from datetime import datetime

import numpy as np
import pandas as pd

from tasks.core.types import COLUMNS, SECONDS, floor_time

SILENT_TAIL = 3  # newest bars that must have traded
JUDGED = 20  # newest bars in which a spike counts
HISTORY = 100  # bars before it that say what is usual
ENOUGH = 20  # of them must be there
LOUD = 3  # times the usual volume: that much trading confirms any move
BACK = 0.25  # of the excursion: a next bar that opens so near to where it began takes the move back
STILL_TIMEFRAME = "5m"
GAP_WINDOW = 300  # bars further back: a hole in the venue's own history must not quarantine a symbol for ever
AGREEMENT_WINDOW = 48  # a bar the venue revised keeps its first values here: that must not last for a day
VALUES = list(COLUMNS)
BUILT = dict(zip(COLUMNS, ("first", "max", "min", "last", "sum"), strict=True))  # a bar of its 5m bars
EPOCH = pd.Timestamp(0, tz="UTC")
FrameKey = tuple[str, str]  # symbol, timeframe


def stacked(by_key: Mapping[FrameKey, pd.DataFrame], as_of: datetime) -> pd.DataFrame:
    """Put all frames under each other, a row number as index, inf as missing, with every column the suite looks at."""
    values = {key: frame[VALUES].astype("float64") for key, frame in by_key.items()}
    stack = pd.concat(values, names=["symbol", "timeframe", "open_time"]).reset_index()
    stack = stack.replace([np.inf, -np.inf], np.nan)
    stack["frame"] = stack.groupby(["symbol", "timeframe"], sort=False).ngroup()
    frames = stack.groupby("frame")
    from_end = frames.cumcount(ascending=False)
    _add_times(stack, from_end, as_of)
    stack["top"] = stack[["open", "low", "close"]].max(axis=1)
    stack["bottom"] = stack[["open", "high", "close"]].min(axis=1)
    stack["silent"] = ((from_end < SILENT_TAIL) & (stack["volume"] == 0)).astype(int)
    moves = unconfirmed_moves(stack, frames["open"].shift(-1))
    stack["unconfirmed_ranges"] = moves.where((from_end < JUDGED) & (frames.cumcount() > ENOUGH))
    _add_stale(stack, from_end)
    _add_agreement(stack, from_end)
    return stack


def _add_times(stack: pd.DataFrame, from_end: pd.Series, as_of: datetime) -> None:
    lasts = pd.to_timedelta(stack["timeframe"].map(SECONDS), unit="s")
    newest = stack["timeframe"].map({timeframe: floor_time(as_of, timeframe) for timeframe in SECONDS})
    closes, step = stack["open_time"] + lasts, stack.groupby("frame")["open_time"].diff()
    stack["step_s"] = step.dt.total_seconds()
    stack["missing_before"] = (-(-step // lasts) - 1).where(from_end < GAP_WINDOW)
    stack["offset_s"] = ((stack["open_time"] - EPOCH) % lasts).dt.total_seconds()
    stack["open_for_s"] = (closes - as_of).dt.total_seconds().clip(lower=0)
    stack["overdue_s"] = (newest - closes).dt.total_seconds().clip(lower=0).where(from_end == 0)


def unconfirmed_moves(stack: pd.DataFrame, following: pd.Series) -> pd.Series:
    """Return how far each bar strays from the close before it, in usual ranges; NaN where others confirm it.

    A usual range is the median true range of the 100 bars before. A move is confirmed by volume (more than 3 times
    its median over the same bars) or by the next bar, if that does not open back within a quarter of the move from
    where it began. The newest bar has no next one: until it comes, only volume can confirm. following: the opens of
    the next bars.
    """
    high, low, volume = stack["high"], stack["low"], stack["volume"]
    before = stack.groupby("frame")["close"].shift()
    ranges = np.maximum(high, before) - np.minimum(low, before)
    past = pd.DataFrame({"range": ranges, "volume": volume.where(before.notna())}).groupby(stack["frame"])
    usual = past.rolling(HISTORY, min_periods=ENOUGH, closed="left").median().droplevel(0)
    excursion = np.maximum(high - before, before - low)
    stayed = (following - before).abs() > BACK * excursion
    confirmed = stayed | (volume > LOUD * usual["volume"])
    moves: pd.Series = (excursion / usual["range"]).where(~confirmed & (usual["range"] > 0))
    return moves


def _add_stale(stack: pd.DataFrame, from_end: pd.Series) -> None:
    """Count, at each frame's newest bar, the bars up to it that stood still and those that were repeated."""
    same = stack[VALUES] == stack.groupby("frame")[VALUES].shift()
    again = same.all(axis=1) & (stack["volume"] > 0)
    moved = from_end.where(stack["high"] != stack["low"], (from_end + 1).where(~same["close"]))
    since = pd.DataFrame({"still_bars": moved, "repeats": from_end.where(~again)})
    stack[since.columns] = since.groupby(stack["frame"]).transform("min")[from_end == 0]
    stack["still_bars"] = stack["still_bars"].where(stack["timeframe"] == STILL_TIMEFRAME)


def _add_agreement(stack: pd.DataFrame, from_end: pd.Series) -> None:
    """Measure how far prices and volume of each bar are from those of its 5m bars, as a share; NaN where not known."""
    stack[["price_gap", "volume_gap"]] = np.nan
    recent = stack[from_end < AGREEMENT_WINDOW]
    fine = recent[(recent["timeframe"] == "5m") & (recent["offset_s"] == 0)].dropna(subset=VALUES)
    fine = fine.sort_values("open_time")
    for timeframe, seconds in SECONDS.items():
        native = recent[recent["timeframe"] == timeframe]
        parts = fine.groupby(["symbol", fine["open_time"].dt.floor(f"{seconds}s")])
        whole = parts.size() == seconds / SECONDS["5m"]
        built = parts.agg(BUILT)[whole].reindex(pd.MultiIndex.from_frame(native[["symbol", "open_time"]]))
        ours, theirs = built.to_numpy(), native[VALUES].to_numpy()
        scale = np.maximum(np.abs(ours), np.abs(theirs))
        apart = np.divide(np.abs(ours - theirs), scale, out=np.zeros_like(scale), where=scale != 0)
        stack.loc[native.index, ["price_gap", "volume_gap"]] = np.c_[apart[:, :4].max(axis=1), apart[:, 4]]
