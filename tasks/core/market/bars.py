"""Bar frames: checking, cutting at `as_of`, resampling, gaps.

Left out on purpose: filling gaps. A bar that never traded is not invented; what spans a gap is null until warm. A gap
in a bar's own span is an hour without trades, as venues have it, unless it is as long as the bar: then that bar is part
of the gap.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy import ndarray

from tasks.core.types import COLUMNS, SECONDS, DataError, Json, Timeframe, duration

Frames = Mapping[str, pd.DataFrame]
PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
BAR_COLUMNS = pd.Index(COLUMNS)  # made once: finding out that these are text takes pandas longer than the bars
Columns = dict[str, ndarray]  # a frame's columns by name: what the arithmetic works on
SNAPSHOT_TIMEFRAMES: tuple[Timeframe, ...] = ("5m", "15m", "1h", "4h", "1d")
WORKING_TIMEFRAMES: tuple[Timeframe, ...] = ("5m", "15m", "30m", "1h", "4h", "1d")


MINUTES = 300  # bars of 1m that a live cycle sees: as many as their averages need, and no more than a page of a venue


def history_of(timeframe: str, bars: int) -> int:
    """Return how many bars of `timeframe` a live cycle sees, which sees `bars` of those it works with."""
    return min(bars, MINUTES) if timeframe == "1m" else bars


def bar_frame(open_ms: ndarray, values: Mapping[str, ndarray]) -> pd.DataFrame:
    """Build a bar frame from open times (UTC, ms) and the five columns."""
    times = np.asarray(open_ms).astype("int64").view("datetime64[ms]")
    block = np.array([values[name] for name in COLUMNS], dtype=float)
    return pd.DataFrame(block.T, pd.DatetimeIndex(times, tz="UTC", name="open_time"), BAR_COLUMNS, copy=False)


def columns_of(frame: pd.DataFrame) -> Columns:
    """Return the columns of a frame of floats as arrays, without a copy (a pandas column costs 10 us each time)."""
    return dict(zip(frame.columns, frame.to_numpy(dtype=float).T, strict=True))


def frame_of(columns: Columns, index: pd.Index) -> pd.DataFrame:
    """Build a frame of float columns in one block, so that `columns_of` costs nothing."""
    names = pd.Index(list(columns), dtype=object)  # pandas' own string type takes longer than the arithmetic
    return pd.DataFrame(np.array(list(columns.values()), dtype=float).T, index=index, columns=names, copy=False)


def check_frame(bars: pd.DataFrame) -> pd.DataFrame:
    """Return `bars` if it has the shape of a bar frame; raises DataError naming what is wrong."""
    missing = [name for name in COLUMNS if name not in bars.columns]
    if missing:
        raise DataError(f"bars lack the columns {', '.join(missing)}; they need {', '.join(COLUMNS)}")
    if not isinstance(bars.index, pd.DatetimeIndex) or bars.index.tz is None:
        raise DataError("bars need a UTC DatetimeIndex of open times")
    if not (bars.index.is_monotonic_increasing and bars.index.is_unique):
        raise DataError("open times must ascend without duplicates")
    return bars


def epoch_s(index: pd.Index) -> ndarray:
    """Return the index's times as whole seconds since 1970 (int64)."""
    times = index if isinstance(index, pd.DatetimeIndex) else pd.DatetimeIndex(index)
    return times.asi8 // PER_SECOND[times.unit]


def lookup(keys: ndarray, values: ndarray, wanted: ndarray) -> ndarray:
    """Return values[keys == wanted], NaN where there is none; keys ascend."""
    if not len(keys):
        return np.full(len(wanted), np.nan)
    at = np.clip(np.searchsorted(keys, wanted), 0, len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], np.nan)


def closed_by(bars: pd.DataFrame, timeframe: str, as_of: datetime) -> pd.DataFrame:
    """Return the bars that had closed at `as_of`."""
    last_open_s = int(as_of.timestamp()) - SECONDS[timeframe]
    return bars.iloc[: int(np.searchsorted(epoch_s(bars.index), last_open_s, side="right"))]


def infer_timeframe(bars: pd.DataFrame) -> Timeframe:
    """Return the timeframe whose length is the commonest step between open times; raises DataError if none is."""
    if len(bars) < 2:
        raise DataError(f"{len(bars)} bars are too few to tell their timeframe")
    steps, counts = np.unique(np.diff(epoch_s(bars.index)), return_counts=True)
    step = int(steps[counts.argmax()])
    for timeframe, seconds in SECONDS.items():
        if seconds == step:
            return timeframe  # type: ignore[return-value]  # SECONDS is keyed by Timeframe
    raise DataError(f"bars {step} s apart are of no known timeframe ({', '.join(SECONDS)})")


def starts_of(keys: ndarray) -> ndarray:
    """Return where each run of equal keys starts."""
    return np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))


def resample(bars: pd.DataFrame, base: str, timeframe: str) -> pd.DataFrame:
    """Build `timeframe` bars from closed `base` bars.

    A bar is built once the base bars reach its close, even if some inside it never traded, as venues do;
    a bar none of whose base bars traded does not exist, nor does one that a gap as long as itself begins or ends in.
    The last one is left out while it is still open, the first one when the base bars begin in the middle of it.
    """
    if base == timeframe or bars.empty:
        return bars
    opens, length = epoch_s(bars.index), SECONDS[timeframe]
    begins = int(np.searchsorted(opens, -(-opens[0] // length) * length))
    bars, opens = bars.iloc[begins:], opens[begins:]
    if bars.empty:
        return bars
    bins = opens // length
    starts = starts_of(bins)
    columns = columns_of(bars)
    last = np.r_[starts[1:], len(bins)] - 1
    built = {
        "open": columns["open"][starts],
        "high": np.maximum.reduceat(columns["high"], starts),
        "low": np.minimum.reduceat(columns["low"], starts),
        "close": columns["close"][last],
        "volume": np.add.reduceat(columns["volume"], starts),
    }
    frame = bar_frame(bins[starts] * length * 1000, built)
    after = np.flatnonzero(np.diff(opens) >= length + SECONDS[base]) + 1
    edges = np.r_[opens[after - 1] + SECONDS[base], opens[after]]
    torn = edges[edges % length != 0] // length
    known_until = bars.index[-1] + duration(base)
    return closed_by(frame[~np.isin(bins[starts], torn)], timeframe, known_until.to_pydatetime())


def bars_of_trades(
    trades: Iterable[tuple[datetime, str, float, float]], timeframe: str, until: datetime
) -> pd.DataFrame:
    """Build the bars that had closed at `until` of trades (time, side, price, base), in any order.

    The first one is left out, as trades that are not told may belong to it; a bar without trades does not exist.
    """
    told = pd.DataFrame(sorted(trades), columns=["at", "side", "price", "size"])
    told.index = pd.DatetimeIndex(pd.to_datetime(told["at"], utc=True), name="open_time").floor(duration(timeframe))
    bars = told["price"].groupby(level=0).agg(["first", "max", "min", "last"])
    bars = bars.assign(volume=told["size"].groupby(level=0).sum()).set_axis(list(COLUMNS), axis=1)
    return bars[1:][bars.index[1:] <= until - duration(timeframe)]


def timeframes_from(bars: pd.DataFrame, base: str, wanted: tuple[Timeframe, ...] = WORKING_TIMEFRAMES) -> Frames:
    """Build every wanted timeframe that `base` bars can give; coarser than 5m base leaves the finer ones empty."""
    return {tf: resample(bars, base, tf) if SECONDS[tf] >= SECONDS[base] else bars.iloc[:0] for tf in wanted}


def gaps_in(index: pd.Index, timeframe: str) -> Json:
    """Return what a frame lacks: gaps, missing_bars, timeframe, longest_bars and longest_from; nothing without gaps."""
    opens, length = epoch_s(index), SECONDS[timeframe]
    missing = np.diff(opens) // length - 1
    if not missing.any():
        return {}
    longest = int(missing.argmax())
    begins = datetime.fromtimestamp(opens[longest] + length, UTC)
    counts = {"gaps": int(np.count_nonzero(missing)), "missing_bars": int(missing.sum()), "timeframe": timeframe}
    return counts | {"longest_bars": int(missing[longest]), "longest_from": begins}


def segments(index: pd.Index, timeframe: str) -> Iterator[slice]:
    """Yield the runs of bars between which none is missing."""
    gaps = np.flatnonzero(np.diff(epoch_s(index)) != SECONDS[timeframe]) + 1
    for a, b in pairwise([0, *gaps.tolist(), len(index)]):
        yield slice(a, b)
