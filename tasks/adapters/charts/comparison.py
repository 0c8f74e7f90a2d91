"""The figures of a comparison: growth and drawdown, how R is spread, and where each variant traded on the price."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.adapters.charts import canvas
from tasks.adapters.charts.canvas import DOWN, INK, UP
from tasks.core.lab.calibration import Calibration
from tasks.core.lab.random_traders import Trade, TradedBars

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLOURS = ("#2f6fde", "#e08a00", "#8e44ad", "#1b8a6b", "#d0453e", "#555555", "#00838f", "#b0689c", "#7a8b00", "#5d4037")
DASHED = {"hold": ":", "buy-and-hold": "--", "rules": "-."}
POINTS = 2000  # of a price line: more cannot be seen
BIN = 0.25  # R


def equity(returns: "Mapping[str, pd.Series[float]]") -> bytes:
    """Draw growth above drawdown, one line per variant of daily returns by seconds since 1970; dash baselines."""
    figure = canvas.figure(1000, 600)
    growth, drawdown = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    for axes, name in ((growth, "growth, %"), (drawdown, "drawdown, %")):
        axes.set_prop_cycle(color=COLOURS)
        axes.set_ylabel(name)
    for label, daily in returns.items():
        times, worth, style = _times(daily.index), np.cumprod(1 + daily.to_numpy()), DASHED.get(label, "-")
        growth.plot(times, (worth - 1) * 100, style, label=label, linewidth=1.3)
        highest = np.maximum.accumulate(np.maximum(worth, 1))
        drawdown.plot(times, (worth / highest - 1) * 100, style, linewidth=1.3)
    _legend(growth)
    return canvas.png(figure)


def r_histogram(trades: Sequence[Trade]) -> bytes:
    """Draw how the trades' R after fees are spread."""
    figure = canvas.figure(1000, 320)
    axes = figure.subplots()
    known = np.array([trade.outcome_r for trade in trades if trade.outcome_r is not None])
    if len(known):
        first, last = np.floor(known.min() / BIN), np.ceil(known.max() / BIN)
        axes.hist(known, bins=(np.arange(first, last + 2) * BIN).tolist(), color=COLOURS[0])
        axes.axvline(known.mean(), color=DOWN, linestyle="--", label=f"mean {known.mean():+.3f} R")
        axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel("R after fees")
    axes.set_ylabel("trades")
    return canvas.png(figure)


def calibration(found: Calibration) -> bytes:
    """Draw how often entries won beside the confidence they had, and what they earned by deciles of it."""
    figure = canvas.figure(1000, 320)
    reliability, expectancy = figure.subplots(1, 2)
    reliability.plot((0, 1), (0, 1), ":", color=INK, linewidth=0.8)
    bins = [(each.confidence, each.won, each.entries) for each in found.bins]
    reliability.plot([said for said, *_ in bins], [won for _, won, _ in bins], "o-", color=COLOURS[0], linewidth=1.0)
    for said, won, entries in bins:
        reliability.annotate(str(entries), (said, won), (3, 5), textcoords="offset points", fontsize=7)
    reliability.set(xlabel="confidence", ylabel="share that won", xlim=(0, 1.04), ylim=(-0.04, 1.08))
    known = [(each, each.expectancy_r) for each in found.deciles if each.expectancy_r is not None]
    names = [f"{each.low:.2f}\nto {each.high:.2f}" if each.high > each.low else f"{each.low:.2f}" for each, _ in known]
    bars = expectancy.bar(names, [r for _, r in known], color=[UP if r > 0 else DOWN for _, r in known])
    expectancy.bar_label(bars, [str(each.entries) for each, _ in known], fontsize=7)
    expectancy.axhline(0, color=INK, linewidth=0.8)
    expectancy.margins(y=0.15)
    wide = max(len(known), 5) / 2
    expectancy.set(xlabel="confidence, by deciles of the entries", ylabel="mean R after fees")
    expectancy.set_xlim((len(known) - 1) / 2 - wide, (len(known) - 1) / 2 + wide)
    return canvas.png(figure)


def decisions(trades: Sequence[Trade], paths: Mapping[str, TradedBars], first: float, last: float) -> bytes:
    """Draw where a variant entered and left on the price, one panel per symbol."""
    figure = canvas.figure(1000, 100 + 300 * len(paths))
    panels = figure.subplots(len(paths), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (symbol, path) in zip(panels, sorted(paths.items()), strict=True):
        inside = np.flatnonzero((path.close_s >= first) & (path.close_s <= last))
        at = inside[:: max(1, len(inside) // POINTS)]
        axes.plot(_times(path.close_s[at]), path.closes[at], color="#888888", linewidth=0.8)
        mine = [trade for trade in trades if trade.symbol == symbol]
        for name, colour, marker, times in (
            ("long", UP, "^", [trade.opened_s for trade in mine if trade.side == "long"]),
            ("short", DOWN, "v", [trade.opened_s for trade in mine if trade.side == "short"]),
            ("exit", INK, "x", [trade.closed_s for trade in mine]),
        ):
            bar = np.clip(np.searchsorted(path.close_s, times), 0, len(path.closes) - 1).astype("int64")
            axes.scatter(_times(times), path.closes[bar], s=14, marker=marker, color=colour, label=name)
        axes.set_ylabel(symbol)
    _legend(panels[0])
    return canvas.png(figure)


def _times(seconds: "Sequence[int] | np.ndarray | pd.Index") -> np.ndarray:
    return np.asarray(seconds, dtype="int64").astype("datetime64[s]")


def _legend(axes: "Axes") -> None:
    axes.legend(loc="lower left", fontsize=8, frameon=False, ncols=3, bbox_to_anchor=(0, 1.0))
