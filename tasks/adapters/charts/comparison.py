"""The figures of a comparison: growth and drawdown, a moment with both answers, what confidence is worth."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.adapters.charts import canvas
from tasks.adapters.charts.canvas import INK
from tasks.core.lab.calibration import Calibration
from tasks.core.lab.differences import Disagreement
from tasks.core.lab.random_traders import TradedBars

if TYPE_CHECKING:
    import pandas as pd

COLOURS = ("#2f6fde", "#e08a00", "#8e44ad", "#1b8a6b", "#d0453e", "#555555", "#00838f", "#b0689c", "#7a8b00", "#5d4037")
DASHED = {"hold": ":", "buy-and-hold": "--", "rules": "-."}
BEFORE_S, AFTER_S = 43_200, 86_400  # around a moment


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
    growth.legend(loc="lower left", fontsize=8, frameon=False, ncols=3, bbox_to_anchor=(0, 1.0))
    return canvas.png(figure)


def answers(at: Disagreement, bars: TradedBars) -> bytes:
    """Draw the price around a moment, with entry, stop and target of both answers over the day that followed."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.markers import CARETDOWN, CARETUP, MarkerStyle

    figure, start = canvas.figure(640, 280), int(at.as_of.timestamp())
    axes, (begin, end) = figure.subplots(), _times([start, start + AFTER_S])
    inside = (bars.close_s > start - BEFORE_S) & (bars.close_s <= start + AFTER_S)
    axes.axvspan(begin, end, color="#f5f4f0", linewidth=0)
    axes.plot(_times(bars.close_s[inside]), bars.closes[inside], color=INK, linewidth=1.0)
    for answer, colour in zip(at.answers, COLOURS, strict=False):
        for name, level in (("stop", answer.stop), ("target", answer.target)):
            if level is not None:
                axes.hlines(float(level), begin, end, colour, "--" if name == "stop" else "-", linewidth=1.2)
                axes.annotate(
                    name, (end, float(level)), (-2, 2), textcoords="offset points", ha="right", color=colour, fontsize=8
                )
        if answer.price is not None:
            caret = MarkerStyle(CARETUP if "LONG" in answer.action else CARETDOWN)  # its tip is the price
            axes.scatter([begin], [float(answer.price)], s=110, color=colour, marker=caret, zorder=3)
    axes.margins(x=0, y=0.1)
    ticks = AutoDateLocator()
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(ticks))
    axes.xaxis.get_offset_text().set_fontsize(8)
    return canvas.png(figure)


def calibration(found: Calibration) -> bytes:
    """Draw how often entries won beside the confidence they had."""
    figure = canvas.figure(480, 320)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), ":", color=INK, linewidth=0.8)
    bins = [(each.confidence, each.won, each.entries) for each in found.bins]
    axes.plot([said for said, *_ in bins], [won for _, won, _ in bins], "o-", color=COLOURS[0], linewidth=1.0)
    for said, won, entries in bins:
        axes.annotate(str(entries), (said, won), (3, 5), textcoords="offset points", fontsize=7)
    axes.set(xlabel="confidence", ylabel="share that won", xlim=(0, 1.04), ylim=(-0.04, 1.08))
    return canvas.png(figure)


def _times(seconds: "Sequence[int] | np.ndarray | pd.Index") -> np.ndarray:
    return np.asarray(seconds, dtype="int64").astype("datetime64[s]")
