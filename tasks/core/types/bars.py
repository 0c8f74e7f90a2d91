"""Timeframes and the shape of bar frames.

A bar frame is a DataFrame with a UTC DatetimeIndex named `open_time`, ascending and unique, and the float64
columns `COLUMNS`. It holds closed bars only: the bar that opens at t is closed, and known, at t + its timeframe.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

Timeframe = Literal["1m", "5m", "15m", "30m", "1h", "4h", "1d"]
TIMEFRAMES: tuple[Timeframe, ...] = get_args(Timeframe)
COLUMNS = ("open", "high", "low", "close", "volume")
SECONDS: dict[str, int] = {"1m": 60, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "4h": 14_400, "1d": 86_400}


def duration(timeframe: str) -> timedelta:
    """Return how long one bar of `timeframe` lasts."""
    return timedelta(seconds=SECONDS[timeframe])


def floor_time(at: datetime, timeframe: str) -> datetime:
    """Return the latest close of `timeframe` that is not after `at` (UTC; days start at 00:00)."""
    seconds = SECONDS[timeframe]
    return datetime.fromtimestamp(int(at.timestamp()) // seconds * seconds, UTC)


def day_start(at: datetime) -> datetime:
    """Return the midnight (UTC) that the day of `at` began with: a day is [00:00, 24:00), for everybody."""
    return floor_time(at, "1d")
