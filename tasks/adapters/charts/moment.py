"""The picture of a market moment, layer by layer: candles, averages, levels, swings, our position, events.

Nothing is computed here: every value is a row of the market's own features, anchors and events, cut at as_of, so the
picture shows what a decider could know and nothing that came later. Times are UTC.
"""

import html
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from tasks.adapters.charts import canvas
from tasks.adapters.charts.canvas import DOWN, INK, UP
from tasks.core.errors import DataError, InputError
from tasks.core.market.market import Market
from tasks.core.pages.numbers import plain
from tasks.core.types import HeldPosition, Json, Reason, duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDINGS = (".png", ".html")
EVENT_ROOM = 60  # pixels kept free above and below the bars
DAY, WEEK = "#8a5a00", "#7a3e9d"
AVERAGES = {
    "sma20": ("-", "#2f6fde"), "sma50": ("-", "#e08a00"), "sma200": ("-", "#8e44ad"), "vwap20": ("--", "#555555"),
}  # fmt: skip
LEVELS: dict[str, tuple[str, Any, str]] = {
    "prev_day_high": ("prev day high", "-.", DAY),
    "prev_day_low": ("prev day low", "-.", DAY),
    "weekly_open": ("week open", ":", WEEK),
}
SHORT = {
    "TrendFlip": "flip", "VolRegime": "vol", "RangeBreak": "range", "Confluence": "confl", "SweepReclaim": "sweep",
    "BreakHold": "hold", "StopRun": "stops",
}  # fmt: skip


class Label(NamedTuple):
    """A level that is named beside the right edge."""

    level: float
    text: str
    colour: str
    always: bool = False  # the price axis reaches it, however far away it is


def draw(
    market: Market,
    as_of: datetime,
    *,
    timeframe: str = "15m",
    bars: int = 120,
    reasons: Sequence[Reason] = (),
    position: HeldPosition | None = None,
    size: tuple[int, int] = (1200, 700),
) -> bytes:
    """Draw the market as it was known at as_of; return a PNG of `size` pixels.

    reasons: why a decider is asked, written under the title. position: what we hold, or are about to.
    """
    from matplotlib import dates
    from matplotlib.ticker import EngFormatter, FuncFormatter

    seen = visible(market, as_of, timeframe, bars)
    events = [each for each in market.events if seen.index[0].timestamp() < each[0] <= as_of.timestamp()]
    seen.index = dates.date2num(seen.index)
    bar = duration(timeframe).total_seconds() / 86_400  # in matplotlib's days
    figure = canvas.figure(*size, above=26)
    price, volume = figure.subplots(2, 1, sharex=True, height_ratios=(4.6, 1))

    colours = np.where(seen["close"] > seen["open"], UP, DOWN).tolist()
    price.vlines(seen.index, seen["low"], seen["high"], colors=colours, linewidth=0.8)
    price.bar(
        seen.index, seen["close"] - seen["open"], bar * 0.6, seen["open"], color=colours, edgecolor=colours, zorder=2
    )
    volume.bar(seen.index, seen["volume"], bar, color=colours, edgecolor="white", linewidth=0.3)
    for name, (style, colour) in AVERAGES.items():
        price.plot(seen[name], style, color=colour, linewidth=1.1, label=name.upper())
    labels = [*_levels(seen, bar, price), *_swings(seen, bar, price), *_position(position, price)]
    labels.append(Label(seen["close"].iloc[-1], "close", INK, always=True))
    _fit(seen, bar, price, labels)
    _events(seen, bar, price, events, timeframe)
    _name(price, labels)

    title = f"{market.symbol} {timeframe} as of {as_of:%Y-%m-%d %H:%M} UTC"
    why, room = ", ".join(str(reason) for reason in reasons if not reason.context), size[0] // 7 - 60
    shown = f"asked: {why if len(why) <= room else why[: room - 1] + '…'}" if why else ""
    look: Json = {"va": "top", "color": INK, "parse_math": False}
    figure.text(0.01, 0.985, title, fontsize=12, fontweight="bold", ha="left", **look)
    figure.text(0.99, 0.985, shown, fontsize=9, ha="right", **look)
    price.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=9, fontsize=8, frameon=False, columnspacing=1.2)
    price.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value, thousands=True)))
    volume.yaxis.set_major_formatter(EngFormatter(sep=""))
    volume.locator_params(axis="y", nbins=3)
    volume.set_ylabel("volume (base)", fontsize=8)
    volume.set_xlabel("open time of the bar, UTC", fontsize=8)
    ticks = dates.AutoDateLocator()
    volume.xaxis.set_major_locator(ticks)
    volume.xaxis.set_major_formatter(dates.ConciseDateFormatter(ticks))
    return canvas.png(figure)


def visible(market: Market, as_of: datetime, timeframe: str, bars: int) -> pd.DataFrame:
    """Return the last `bars` bars known at as_of, with their features and the levels known at the close of each.

    Raises DataError where there is no such bar.
    """
    if timeframe not in market.bars:
        raise InputError(f"timeframe {timeframe!r}: {market.symbol} has {', '.join(market.bars)}")
    table = market.tables.get(timeframe)
    end = 0 if table is None else int(table.at(int(as_of.timestamp()))) + 1
    if not end:
        raise DataError(
            f"{market.symbol}: no {timeframe} bar had closed by {as_of:%Y-%m-%d %H:%M} UTC: nothing to draw"
        )
    rows = market.features[timeframe].iloc[max(0, end - bars) : end]
    known = pd.DatetimeIndex(rows.index) + (duration(timeframe) - duration("5m"))
    return rows.join(market.anchors[list(LEVELS)].reindex(known, method="ffill").set_axis(rows.index))


def _levels(seen: pd.DataFrame, bar: float, price: "Axes") -> Iterator[Label]:
    """Draw the higher timeframes' levels as they were known at each bar."""
    for name, (text, style, colour) in LEVELS.items():
        for _, run in seen.groupby(name, sort=False):
            price.hlines(
                run[name].iloc[0], run.index[0] - bar / 2, run.index[-1] + bar / 2, colour, style, linewidth=1.2
            )
        if np.isfinite(last := seen[name].iloc[-1]):
            yield Label(last, text, colour)


def _swings(seen: pd.DataFrame, bar: float, price: "Axes") -> Iterator[Label]:
    """Mark every swing that became known within the window, and name the last two on either side."""
    for side, marker, colour in (("high", "v", DOWN), ("low", "^", UP)):
        levels = seen[f"last_{side}"]
        found = levels.notna() & levels.ne(levels.shift())
        marks = seen[side].iloc[:-2][found.to_numpy()[2:]]  # a swing is known two bars after it
        price.plot(marks, marker, label=f"swing {side}", markersize=4, color=colour, markerfacecolor="none", alpha=0.8)
        for which in ("last", "prev"):
            if np.isfinite(level := seen[f"{which}_{side}"].iloc[-1]):
                begin = max(marks.index[marks == level], default=seen.index[0])
                price.hlines(level, begin, seen.index[-1] + bar, colour, linewidth=0.7, alpha=0.6)
                yield Label(level, f"{which} {side}", colour)


def _position(position: HeldPosition | None, price: "Axes") -> Iterator[Label]:
    if position is None:
        return
    lines = (
        (position.side, position.avg_price, "#1f4fbf"),
        ("stop", position.stop, DOWN),
        ("target", position.target, UP),
    )
    for text, level, colour in lines:
        if level is not None:
            price.axhline(float(level), color=colour, linewidth=1.8, alpha=0.85)
            yield Label(float(level), text.upper(), colour, always=True)


def _fit(seen: pd.DataFrame, bar: float, price: "Axes", labels: Sequence[Label]) -> None:
    """Let the candles fill the price axis; a level further away than a third of their range is only named."""
    low, high = seen["low"].min(), seen["high"].max()
    tall = high - low or high * 0.001
    near = [x.level for x in labels if x.always or low - tall / 3 <= x.level <= high + tall / 3]
    room = EVENT_ROOM / price.bbox.height
    pad, edge = tall * room / (1 - 2 * room), tall * 0.04
    price.set_ylim(min([low - pad, *(x - edge for x in near)]), max([high + pad, *(x + edge for x in near)]))
    price.set_xlim(seen.index[0] - bar, seen.index[-1] + 1.5 * bar)


def _events(
    seen: pd.DataFrame, bar: float, price: "Axes", events: Sequence[tuple[int, str, str, str]], timeframe: str
) -> None:
    """Put one arrow per bar and direction: under the bar for up, above it for down, with what fired."""
    from matplotlib.patheffects import withStroke

    marks: dict[tuple[int, str], dict[str, None]] = {}
    closes = (seen.index.to_numpy() + bar) * 86_400
    for at, rule, of, direction in events:
        # what fired on a finer timeframe since the last bar stands just right of it
        row = int(np.searchsorted(closes, at - 1))
        name = SHORT.get(rule, rule) + ("" if of == timeframe else f" {of}")
        marks.setdefault((row, direction), {})[name] = None
    for (row, direction), names in marks.items():
        under, colour = direction == "up", UP if direction == "up" else DOWN
        level = seen["low" if under else "high"].iloc[min(row, len(seen) - 1)]
        x = seen.index[row] if row < len(seen) else seen.index[-1] + bar
        text = price.annotate(
            ", ".join(names),
            xy=(x, level),
            xytext=(0, -24 if under else 24),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="top" if under else "bottom",
            fontsize=8,
            color=colour,
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 0.9, "shrinkB": 3, "shrinkA": 0},
        )
        text.set(in_layout=False, path_effects=[withStroke(linewidth=2.5, foreground="white")])


def _name(price: "Axes", labels: Sequence[Label]) -> None:
    """Write each level's name and value right of the axis, pushed apart so that none covers another."""
    low, high = price.get_ylim()
    ordered = sorted(labels)
    inside = [min(max(label.level, low), high) for label in ordered]
    for label, y in zip(ordered, _spread(inside, (high - low) * 13 / price.bbox.height, low, high), strict=True):
        arrow = "↑ " if label.level > high else "↓ " if label.level < low else ""
        price.text(
            1.008,
            (y - low) / (high - low),
            f"{arrow}{label.text} {plain(label.level, thousands=True)}",
            transform=price.transAxes,
            va="center",
            fontsize=8,
            color=label.colour,
            fontweight="bold" if label.always else "normal",
        )


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending positions as little as it takes to keep them `gap` apart and below `high`."""
    steps = gap * np.arange(len(wanted))
    up = np.maximum.accumulate(np.maximum(wanted - steps, low)) + steps
    down = np.minimum.accumulate(np.minimum(up[::-1] + steps, high)) - steps
    return down[::-1].tolist()  # type: ignore[no-any-return]


def write(path: Path, market: Market, as_of: datetime, *, text: str = "", reasons: Sequence[Reason] = ()) -> None:
    """Write the picture to a .png, or to an .html page with `text` (the lean snapshot) below it.

    Raises InputError naming the path if it has another ending or cannot be written.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: a plot ends in {' or '.join(ENDINGS)}")
    timeframe = next((tf for tf in ("15m", *market.tables) if tf in market.tables), "15m")
    picture = draw(market, as_of, timeframe=timeframe, reasons=reasons)
    try:
        path.write_bytes(picture if path.suffix.lower() == ".png" else _page(market.symbol, as_of, picture, text))
    except OSError as e:
        raise InputError(f"{path}: cannot be written ({e.strerror})") from e


def _page(symbol: str, as_of: datetime, picture: bytes, text: str) -> bytes:
    name = html.escape(f"{symbol} as of {as_of:%Y-%m-%d %H:%M} UTC")
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{name}</title>\n'
        "<style>body{font-family:sans-serif;max-width:1200px;margin:1rem auto;color:#333}"
        "img{max-width:100%}pre{overflow-x:auto;font-size:12px}</style></head>\n"
        f'<body><img src="{canvas.data_uri(picture)}" alt="{name}">\n<pre>{html.escape(text)}</pre></body>\n</html>\n'
    ).encode()
