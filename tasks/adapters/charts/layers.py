"""What is drawn of a market moment, layer by layer: candles, averages, levels, swings, our position, events.

Nothing is computed here: every value is a row of the market's own features, anchors and events, cut at as_of, so the
picture shows what a decider could know and nothing that came later.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from tasks.core.errors import DataError, InputError
from tasks.core.market.market import Market
from tasks.core.types.bars import COLUMNS
from tasks.core.types.portfolio import HeldPosition

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVENT_ROOM = 60  # pixels kept free above and below the bars
UP, DOWN, DAY, WEEK, INK = "#1b8a6b", "#d0453e", "#8a5a00", "#7a3e9d", "#333333"
LINES = {"sma20": "#2f6fde", "sma50": "#e08a00", "sma200": "#8e44ad", "vwap20": "#555555"}
STEPS = {
    "prev_day_high": ("prev day high", DAY),
    "prev_day_low": ("prev day low", DAY),
    "weekly_open": ("week open", WEEK),
}
SHORT = {
    "TrendFlip": "flip", "VolRegime": "vol", "RangeBreak": "range", "Confluence": "confl", "SweepReclaim": "sweep",
    "BreakHold": "hold", "StopRun": "stops",
}  # fmt: skip


@dataclass(frozen=True)
class Label:
    """A level that is named beside the right edge."""

    level: float
    text: str
    colour: str
    always: bool = False  # the price axis reaches it, however far away it is


@dataclass(frozen=True)
class Window:
    """The bars shown, and what was known at the close of each."""

    symbol: str
    timeframe: str
    as_of: datetime
    closes: np.ndarray  # s since 1970
    columns: dict[str, np.ndarray]
    anchors: dict[str, np.ndarray]
    events: tuple[tuple[int, str, str, str], ...]

    def last(self, name: str) -> float:
        return float(self.columns[name][-1])


def window(market: Market, as_of: datetime, timeframe: str, bars: int) -> Window:
    """Cut the last `bars` bars known at as_of out of the market; raises DataError where there is none."""
    if timeframe not in market.bars:
        raise InputError(f"timeframe {timeframe!r}: {market.symbol} has {', '.join(market.bars)}")
    table, seconds = market.tables.get(timeframe), int(as_of.timestamp())
    end = 0 if table is None else table.at(seconds) + 1
    if table is None or end == 0:
        raise DataError(
            f"{market.symbol}: no {timeframe} bar had closed by {as_of:%Y-%m-%d %H:%M} UTC: nothing to draw"
        )
    shown = slice(max(0, end - bars), end)
    closes = table.closes[shown]
    at = np.array([market.anchor_table.at(int(close)) for close in closes])
    anchors = {
        name: np.where(at >= 0, column[at], np.nan) if len(column) else np.full(len(at), np.nan)
        for name, column in market.anchor_table.columns.items()
    }
    begin = int(closes[0]) - int(np.diff(closes).min(initial=86_400))
    events = tuple(event for event in market.events if begin < event[0] <= seconds)
    columns = {name: column[shown] for name, column in table.columns.items()}
    return Window(market.symbol, timeframe, as_of, closes, columns, anchors, events)


def candles(seen: Window, price: "Axes", volume: "Axes") -> None:
    import mplfinance as mpf  # type: ignore[import-untyped]  # it ships no types

    colours = mpf.make_marketcolors(up=UP, down=DOWN, edge="inherit", wick="inherit", volume="inherit")
    colours["vcedge"] = colours["volume"]
    style = mpf.make_mpf_style(marketcolors=colours, gridstyle=":", gridcolor="#d9d9d9", facecolor="white")
    index = pd.to_datetime(seen.closes, unit="s")
    frame = pd.DataFrame({name.title(): seen.columns[name] for name in COLUMNS}, index=index)
    mpf.plot(frame, type="candle", ax=price, volume=volume, style=style, warn_too_much_data=100_000)


def averages(seen: Window, price: "Axes") -> None:
    for name, colour in LINES.items():
        style = "--" if name == "vwap20" else "-"
        price.plot(seen.columns[name], color=colour, linestyle=style, linewidth=1.1, label=name.upper())


def steps(seen: Window, price: "Axes") -> Iterator[Label]:
    """Draw the higher timeframes' levels as they were known at each bar."""
    for name, (text, colour) in STEPS.items():
        levels = seen.anchors[name]
        starts = np.flatnonzero(np.diff(levels, prepend=np.nan) != 0)  # NaN differs from everything
        ends = np.append(starts[1:], len(levels))
        style: Literal[":", "-."] = ":" if name == "weekly_open" else "-."
        price.hlines(levels[starts], starts - 0.5, ends - 0.5, colors=colour, linestyles=style, linewidth=1.2)
        if np.isfinite(levels[-1]):
            yield Label(float(levels[-1]), text, colour)


def swings(seen: Window, price: "Axes") -> Iterator[Label]:
    """Mark every swing that became known within the window, and name the last two on either side."""
    for side, marker, colour in (("high", "v", DOWN), ("low", "^", UP)):
        levels = seen.columns[f"last_{side}"]
        known = np.flatnonzero(np.isfinite(levels[1:]) & (levels[1:] != levels[:-1])) + 1
        at = known[known >= 2] - 2  # a swing is known two bars after it
        price.plot(at, seen.columns[side][at], marker, markersize=4, color=colour, markerfacecolor="none", alpha=0.8)
        for which in ("last", "prev"):
            level = seen.last(f"{which}_{side}")
            if np.isfinite(level):
                found = at[seen.columns[side][at] == level]
                begin = found[-1] if len(found) else 0
                price.plot([begin, len(levels)], [level, level], color=colour, linewidth=0.7, alpha=0.6)
                yield Label(level, f"{which} {side}", colour)


def position_lines(position: HeldPosition | None, price: "Axes") -> Iterator[Label]:
    if position is None:
        return
    lines = ((position.side, position.avg_price, "#1f4fbf"), ("stop", position.stop, DOWN), ("target", position.tp, UP))
    for text, level, colour in lines:
        if level is not None:
            price.axhline(float(level), color=colour, linewidth=1.8, alpha=0.85)
            yield Label(float(level), text.upper(), colour, always=True)


def fit(seen: Window, price: "Axes", labels: Sequence[Label]) -> None:
    """Let the candles fill the price axis; a level further away than a third of their range is only named."""
    low, high = float(seen.columns["low"].min()), float(seen.columns["high"].max())
    tall = high - low or high * 0.001
    near = [x.level for x in labels if x.always or low - tall / 3 <= x.level <= high + tall / 3]
    room = EVENT_ROOM / price.bbox.height
    pad, edge = tall * room / (1 - 2 * room), tall * 0.04
    price.set_ylim(min([low - pad, *(x - edge for x in near)]), max([high + pad, *(x + edge for x in near)]))
    price.set_xlim(-1, len(seen.closes) + 0.5)


def events(seen: Window, price: "Axes") -> None:
    """Put one arrow per bar and direction: under the bar for up, above it for down, with what fired."""
    marks: dict[tuple[int, str], list[str]] = {}
    for at, rule, timeframe, direction in seen.events:
        # what fired on a finer timeframe since the last bar stands just right of it
        bar = int(np.searchsorted(seen.closes, at))
        suffix = "" if timeframe == seen.timeframe else f" {timeframe}"
        names = marks.setdefault((bar, direction), [])
        name = SHORT.get(rule, rule) + suffix
        if name not in names:
            names.append(name)
    for (bar, direction), names in marks.items():
        _arrow(seen, price, bar, direction == "up", names)


def _arrow(seen: Window, price: "Axes", bar: int, up: bool, names: Sequence[str]) -> None:
    from matplotlib.patheffects import withStroke

    row, colour = min(bar, len(seen.closes) - 1), UP if up else DOWN
    text = price.annotate(
        ", ".join(names), xy=(bar, seen.columns["low" if up else "high"][row]), xytext=(0, -24 if up else 24),
        textcoords="offset points", rotation=90, ha="center", va="top" if up else "bottom", fontsize=8, color=colour,
        arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 0.9, "shrinkB": 3, "shrinkA": 0},
    )  # fmt: skip
    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def name_levels(price: "Axes", labels: Sequence[Label]) -> None:
    """Write each level's name and value right of the axis, pushed apart so that none covers another."""
    low, high = price.get_ylim()
    ordered = sorted(labels, key=lambda label: label.level)
    inside = [min(max(label.level, low), high) for label in ordered]
    for label, y in zip(ordered, _spread(inside, (high - low) * 13 / price.bbox.height, low, high), strict=True):
        arrow = "↑ " if label.level > high else "↓ " if label.level < low else ""
        price.text(
            1.008, (y - low) / (high - low), f"{arrow}{label.text} {number(label.level)}",
            transform=price.transAxes, va="center", fontsize=8, color=label.colour,
            fontweight="bold" if label.always or label.text == "close" else "normal",
        )  # fmt: skip


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending positions as little as it takes to keep them `gap` apart and below `high`."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + gap) if placed else max(y, low))
    ceiling = high
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def number(value: float) -> str:
    """Write a price for a person: six significant digits, thousands apart, no exponent."""
    digits = max(0, 5 - int(np.floor(np.log10(abs(value))))) if value else 0
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
