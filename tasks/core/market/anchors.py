"""Levels from higher timeframes, known at each 5m close: previous day and week, opens, session and rolling VWAP.

A day starts at 00:00 UTC, a week on Monday. The previous day is the calendar day before, the previous week the
seven days before this week's Monday; where any of their daily bars is missing the level is unknown.
"""

import numpy as np
import pandas as pd

from tasks.core.market.bars import epoch_s
from tasks.core.market.features import ratio

DAY = 86_400
BARS_PER_DAY = 288
MONDAY_OFFSET = 3  # 1970-01-01 was a Thursday


def compute(five: pd.DataFrame, days: pd.DataFrame) -> pd.DataFrame:
    """Compute the anchors at the close of each 5m bar.

    five: 5m bars; days: closed 1d bars. Returns one row per 5m bar with prev_day_high prev_day_low prev_week_high
    prev_week_low daily_open weekly_open session_vwap rolling_vwap_1d, in quote currency.
    """
    day = epoch_s(five.index) // DAY  # the day the bar trades in, also for the bar that closes at midnight
    out = {**_previous_day(day, days), **_weeks(day, days)}
    session = _session(five, day)
    out["daily_open"] = session["daily_open"]
    monday = day - (day + MONDAY_OFFSET) % 7
    out["weekly_open"] = np.where(day == monday, session["daily_open"], out.pop("monday_open"))
    out["session_vwap"] = session["session_vwap"]
    out["rolling_vwap_1d"] = _rolling_vwap(five)
    return pd.DataFrame(out, index=five.index)


def _lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return values[keys == wanted], NaN where there is none; keys ascend."""
    if not len(keys):
        return np.full(len(wanted), np.nan)
    at = np.clip(np.searchsorted(keys, wanted), 0, len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], np.nan)


def _previous_day(day: np.ndarray, days: pd.DataFrame) -> dict[str, np.ndarray]:
    keys = epoch_s(days.index) // DAY
    return {f"prev_day_{side}": _lookup(keys, days[side].to_numpy(), day - 1) for side in ("high", "low")}


def _weeks(day: np.ndarray, days: pd.DataFrame) -> dict[str, np.ndarray]:
    """Look up last week's extremes (all seven days known) and the open of this week's Monday."""
    keys = epoch_s(days.index) // DAY
    weeks = pd.DataFrame({"week": (keys + MONDAY_OFFSET) // 7, "high": days["high"], "low": days["low"]})
    grouped = weeks.groupby("week").agg(high=("high", "max"), low=("low", "min"), n=("high", "size"))
    whole = grouped[grouped["n"] == 7]
    week = (day + MONDAY_OFFSET) // 7
    monday = day - (day + MONDAY_OFFSET) % 7
    return {
        "prev_week_high": _lookup(whole.index.to_numpy(), whole["high"].to_numpy(), week - 1),
        "prev_week_low": _lookup(whole.index.to_numpy(), whole["low"].to_numpy(), week - 1),
        "monday_open": _lookup(keys, days["open"].to_numpy(), monday),
    }


def _typical(five: pd.DataFrame) -> pd.Series:
    return (five["high"] + five["low"] + five["close"]) / 3 * five["volume"]


def _session(five: pd.DataFrame, day: np.ndarray) -> dict[str, np.ndarray]:
    """Return today's open and the VWAP since 00:00; unknown if the day's first bar is not there."""
    starts_at_midnight = pd.Series(epoch_s(five.index) % DAY == 0).groupby(day).transform("first").to_numpy()
    opens = pd.Series(five["open"].to_numpy()).groupby(day).transform("first").to_numpy()
    value = pd.Series(_typical(five).to_numpy()).groupby(day).cumsum().to_numpy()
    volume = pd.Series(five["volume"].to_numpy()).groupby(day).cumsum().to_numpy()
    known = starts_at_midnight.astype(bool)
    return {
        "daily_open": np.where(known, opens, np.nan),
        "session_vwap": np.where(known, ratio(value, volume), np.nan),
    }


def _rolling_vwap(five: pd.DataFrame) -> np.ndarray:
    """Return the VWAP of the last 24 hours; unknown while a bar of them is missing."""
    seconds = epoch_s(five.index)
    span = np.full(len(five), np.nan)
    if len(five) >= BARS_PER_DAY:
        span[BARS_PER_DAY - 1 :] = seconds[BARS_PER_DAY - 1 :] - seconds[: len(seconds) - BARS_PER_DAY + 1]
    value = _typical(five).rolling(BARS_PER_DAY).sum().to_numpy()
    volume = five["volume"].rolling(BARS_PER_DAY).sum().to_numpy()
    return np.where(span == (BARS_PER_DAY - 1) * 300, ratio(value, volume), np.nan)
