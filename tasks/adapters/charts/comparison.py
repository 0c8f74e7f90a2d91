"""Charts of a comparison, twice each: a plotly figure (the JSON plotly.js takes) and a PNG for where no script runs.

plotly.js goes into a page once, compressed: 2 MB instead of 5, unpacked by the browser, no network needed.
"""

import base64
import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.adapters.charts.layers import DOWN, INK, UP
from tasks.core.lab.chance import Path, Trade
from tasks.core.lab.compare import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2f6fde", "#e08a00", "#8e44ad", "#1b8a6b", "#d0453e", "#555555", "#00838f", "#b0689c", "#7a8b00", "#5d4037")
DASHED = {"hold": "dot", "buy-and-hold": "dash", "rules": "dashdot"}
LINES = {"dot": ":", "dash": "--", "dashdot": "-.", "solid": "-"}
POINTS = 2000  # of a price line: more cannot be seen
PLOT = {"displaylogo": False, "responsive": True}
FRAME: dict[str, Any] = {
    "hovermode": "x unified", "margin": {"l": 60, "r": 20, "t": 30, "b": 40}, "paper_bgcolor": "white",
    "plot_bgcolor": "white", "font": {"family": "sans-serif", "size": 12, "color": INK},
    "legend": {"orientation": "h", "y": 1.12},
}  # fmt: skip
GRID = {"gridcolor": "#dddddd", "zerolinecolor": "#bbbbbb"}


@cache
def plotly_js() -> str:
    """Return plotly.js, gzipped, as base64."""
    source = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, 9, mtime=0)).decode()


def grown(found: Series) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the days, the growth in percent since the start, and the drawdown in percent."""
    worth = np.r_[1.0, np.cumprod(1 + found.returns)]
    drawdown = (worth / np.maximum.accumulate(worth) - 1) * 100
    return _days(found.days), (worth[1:] - 1) * 100, drawdown[1:]


def _days(seconds: np.ndarray) -> list[str]:
    return [str(at).replace("T", " ")[:16] for at in np.asarray(seconds, dtype="int64").astype("datetime64[s]")]


def equity(found: Mapping[str, Series]) -> dict[str, Any]:
    """Draw growth above drawdown, one line per variant; baselines are dashed."""
    lines = []
    for i, (label, one) in enumerate(found.items()):
        days, growth, drawdown = grown(one)
        look = {"color": COLOURS[i % len(COLOURS)], "dash": DASHED.get(label, "solid"), "width": 1.8}
        shared = {"x": days, "name": label, "legendgroup": label, "mode": "lines", "line": look}
        lines.append({**shared, "y": np.round(growth, 3).tolist(), "hovertemplate": "%{y:.2f} %"})
        lines.append({
            **shared, "y": np.round(drawdown, 3).tolist(), "yaxis": "y2", "showlegend": False,
            "hovertemplate": "%{y:.2f} %",
        })  # fmt: skip
    axes = {
        "xaxis": {**GRID, "anchor": "y2"}, "yaxis": {**GRID, "domain": [0.36, 1], "title": {"text": "growth, %"}},
        "yaxis2": {**GRID, "domain": [0, 0.3], "title": {"text": "drawdown, %"}},
    }  # fmt: skip
    return {"data": lines, "layout": {**FRAME, **axes, "height": 520}, "config": PLOT}


def equity_png(found: Mapping[str, Series]) -> bytes:
    """Draw the same as a picture."""
    figure = _figure(6.0)
    growth, drawdown = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    for i, (label, one) in enumerate(found.items()):
        _, grew, fell = grown(one)
        at = np.asarray(one.days, dtype="int64").astype("datetime64[s]")
        look = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[DASHED.get(label, "solid")], "linewidth": 1.3}
        growth.plot(at, grew, label=label, **look)
        drawdown.plot(at, fell, **look)
    growth.set_ylabel("growth, %")
    drawdown.set_ylabel("drawdown, %")
    growth.legend(loc="lower left", fontsize=8, frameon=False, ncols=3, bbox_to_anchor=(0, 1.0))
    return _png(figure)


def r_histogram(trades: Sequence[Trade]) -> dict[str, Any]:
    """Draw how the trades' R after fees are spread."""
    known = [round(trade.r, 3) for trade in trades if trade.r is not None]
    bars = {"type": "histogram", "x": known, "marker": {"color": COLOURS[0]}, "xbins": {"size": 0.25}, "name": "trades"}
    axes = {"xaxis": {**GRID, "title": {"text": "R after fees"}}, "yaxis": {**GRID, "title": {"text": "trades"}}}
    return {"data": [bars], "layout": {**FRAME, **axes, "height": 320, "hovermode": "closest"}, "config": PLOT}


def r_histogram_png(trades: Sequence[Trade]) -> bytes:
    """Draw the same as a picture."""
    figure = _figure(3.2)
    axes = figure.subplots()
    known = np.array([trade.r for trade in trades if trade.r is not None])
    if len(known):
        first, last = np.floor(known.min() * 4) / 4, np.ceil(known.max() * 4) / 4
        axes.hist(known, bins=np.arange(first, last + 0.5, 0.25).tolist(), color=COLOURS[0])
        axes.axvline(known.mean(), color=DOWN, linestyle="--", label=f"mean {known.mean():+.3f} R")
        axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel("R after fees")
    axes.set_ylabel("trades")
    return _png(figure)


def _thinned(path: Path, first: float, last: float) -> tuple[np.ndarray, np.ndarray]:
    inside = np.flatnonzero((path.close_s >= first) & (path.close_s <= last))
    at = inside[:: max(1, len(inside) // POINTS)]
    return path.close_s[at], path.closes[at]


def _marks(trades: Sequence[Trade], path: Path) -> list[tuple[str, str, str, np.ndarray, np.ndarray]]:
    """Return name, colour, symbol, times and prices of entries and exits."""
    found = []
    for name, colour, shape, kept, when in (
        ("long", UP, "triangle-up", lambda t: t.side == "long", "opened_s"),
        ("short", DOWN, "triangle-down", lambda t: t.side == "short", "opened_s"),
        ("exit", INK, "x-thin-open", lambda _: True, "closed_s"),
    ):
        at = np.array([getattr(trade, when) for trade in trades if kept(trade)], dtype="int64")
        bar = np.clip(np.searchsorted(path.close_s, at), 0, len(path.closes) - 1)
        found.append((name, colour, shape, at, path.closes[bar]))
    return found


def decisions(trades: Sequence[Trade], paths: Mapping[str, Path], first: float, last: float) -> dict[str, Any]:
    """Draw where each variant entered and left on the price, one panel per symbol."""
    data, layout = [], {**FRAME, "height": 120 + 300 * len(paths), "hovermode": "closest"}
    for i, (symbol, path) in enumerate(sorted(paths.items())):
        axis = "" if i == 0 else str(i + 1)
        mine, (at, price) = [t for t in trades if t.symbol == symbol], _thinned(path, first, last)
        where = {"yaxis": f"y{axis}"}
        data.append({
            **where, "x": _days(at), "y": price.tolist(), "mode": "lines", "name": symbol, "showlegend": False,
            "line": {"color": "#888", "width": 1},
        })  # fmt: skip
        for name, colour, shape, when, level in _marks(mine, path):
            data.append({
                **where, "x": _days(when), "y": level.tolist(), "mode": "markers", "name": name, "showlegend": i == 0,
                "marker": {"color": colour, "symbol": shape, "size": 7},
            })  # fmt: skip
        low, high = 1 - (i + 1) / len(paths), 1 - i / len(paths)
        layout[f"yaxis{axis}"] = {**GRID, "domain": [low + 0.02, high - 0.02], "title": {"text": symbol}}
    layout["xaxis"] = {**GRID, "anchor": "free", "position": 0}
    return {"data": data, "layout": layout, "config": PLOT}


def decisions_png(trades: Sequence[Trade], paths: Mapping[str, Path], first: float, last: float) -> bytes:
    """Draw the same as a picture."""
    figure = _figure(1 + 3.0 * len(paths))
    shapes = {"triangle-up": "^", "triangle-down": "v", "x-thin-open": "x"}
    panels = np.atleast_1d(figure.subplots(len(paths), 1, sharex=True))
    for axes, (symbol, path) in zip(panels, sorted(paths.items()), strict=True):
        at, price = _thinned(path, first, last)
        axes.plot(at.astype("datetime64[s]"), price, color="#888888", linewidth=0.8)
        for name, colour, shape, when, level in _marks([t for t in trades if t.symbol == symbol], path):
            axes.scatter(when.astype("datetime64[s]"), level, s=14, marker=shapes[shape], color=colour, label=name)
        axes.set_ylabel(symbol)
    panels[0].legend(loc="lower left", fontsize=8, frameon=False, ncols=3, bbox_to_anchor=(0, 1.0))
    return _png(figure)


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(10, height), dpi=100, facecolor="white", layout="constrained")


def _png(figure: "Figure") -> bytes:
    for axes in figure.axes:
        axes.grid(visible=True, linestyle=":", linewidth=0.6, color="#cccccc")
        axes.tick_params(labelsize=8, colors=INK)
    raw = BytesIO()
    figure.savefig(raw, format="png")
    return raw.getvalue()
