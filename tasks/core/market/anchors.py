"""Levels from higher timeframes, known at each 5m close: previous day and week, opens, session and rolling VWAP.

A day starts at 00:00 UTC, a week on Monday. The previous day is the calendar day before, the previous week the
seven days before this week's Monday; where any of their daily bars is missing the level is unknown.
"""

from itertools import pairwise

import numpy as np
import pandas as pd
from numpy import ndarray

from tasks.core.market.bars import Columns, columns_of, epoch_s, frame_of, lookup, starts_of
from tasks.core.market.features import lag, ratio, rolling_sum, typical_value, windows
from tasks.core.types import SECONDS

DAY = 86_400
STEP = SECONDS["5m"]
BARS_PER_DAY = DAY // STEP
BARS_PER_HOUR = 12
MONDAY_OFFSET = 3  # 1970-01-01 was a Thursday


def compute(five: pd.DataFrame, days: pd.DataFrame) -> pd.DataFrame:
    """Compute the anchors at the close of each 5m bar.

    five: 5m bars; days: closed 1d bars. Returns one row per 5m bar with prev_day_high prev_day_low prev_week_high
    prev_week_low daily_open weekly_open session_vwap rolling_vwap_1d, in quote currency.
    """
    bars, seconds = columns_of(five), epoch_s(five.index)
    day = seconds // DAY  # the day the bar trades in, also for the bar that closes at midnight
    known = _higher(day, columns_of(days), epoch_s(days.index) // DAY)
    session = _session(bars, seconds, day)
    monday = (day + MONDAY_OFFSET) % 7 == 0
    known["daily_open"] = session["daily_open"]
    known["weekly_open"] = np.where(monday, session["daily_open"], known.pop("monday_open"))
    known["session_vwap"] = session["session_vwap"]
    known["rolling_vwap_1d"] = _rolling_vwap(bars, seconds)
    return frame_of(known, five.index)


def _higher(day: ndarray, days: Columns, keys: ndarray) -> Columns:
    """Look up yesterday's and last week's extremes (all seven days known) and the open of this week's Monday."""
    week = (day + MONDAY_OFFSET) // 7
    weeks, highs, lows = _weeks(days, (keys + MONDAY_OFFSET) // 7)
    return {
        "prev_day_high": lookup(keys, days["high"], day - 1),
        "prev_day_low": lookup(keys, days["low"], day - 1),
        "prev_week_high": lookup(weeks, highs, week - 1),
        "prev_week_low": lookup(weeks, lows, week - 1),
        "monday_open": lookup(keys, days["open"], week * 7 - MONDAY_OFFSET),
    }


def _weeks(days: Columns, week: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """Return the weeks all of whose seven days are known, with their highs and lows."""
    starts = starts_of(week)
    if not len(starts):
        return week, days["high"], days["low"]
    whole = np.diff(starts, append=len(week)) == 7
    highs, lows = np.maximum.reduceat(days["high"], starts), np.minimum.reduceat(days["low"], starts)
    return week[starts][whole], highs[whole], lows[whole]


def _session(bars: Columns, seconds: ndarray, day: ndarray) -> Columns:
    """Return today's open and the VWAP since 00:00: unknown without the day's first bar, the VWAP also after a gap."""
    value, volume = typical_value(bars), bars["volume"]
    out = {name: np.full(len(day), np.nan) for name in ("daily_open", "session_vwap")}
    for a, b in pairwise([*starts_of(day).tolist(), len(day)]):
        if seconds[a] % DAY == 0:
            out["daily_open"][a:b] = bars["open"][a]
            whole = seconds[a:b] - seconds[a] == np.arange(b - a) * STEP
            out["session_vwap"][a:b] = np.where(whole, ratio(np.cumsum(value[a:b]), np.cumsum(volume[a:b])), np.nan)
    return out


def _rolling_vwap(bars: Columns, seconds: ndarray) -> ndarray:
    """Return the VWAP of the last 24 hours; unknown while a bar of them is missing."""
    whole = seconds - lag(seconds, BARS_PER_DAY - 1) == (BARS_PER_DAY - 1) * STEP
    vwap = ratio(_day_sum(typical_value(bars)), _day_sum(bars["volume"]))
    return np.where(whole, vwap, np.nan)


def _day_sum(values: ndarray) -> ndarray:
    """Sum the last 288 bars by way of their 24 hours: each sum depends on its own window alone, and quickly."""
    out = np.full(len(values), np.nan)
    if len(values) >= BARS_PER_DAY:
        hours = rolling_sum(values, BARS_PER_HOUR)[BARS_PER_HOUR - 1 :]
        out[BARS_PER_DAY - 1 :] = windows(hours, BARS_PER_DAY - BARS_PER_HOUR + 1)[:, ::BARS_PER_HOUR].sum(axis=1)
    return out
