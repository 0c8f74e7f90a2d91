"""The picture of a market moment, as PNG or as one HTML page: what `plot_layers` draws, framed and written.

Figures are made without pyplot's global state, so that tasks may draw side by side. Times are UTC.
"""

import base64
import html
from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.adapters.charts import layers as layers
from tasks.adapters.charts.layers import DAY, DOWN, INK, UP, WEEK, Window, number
from tasks.core.errors import InputError
from tasks.core.market.market import Market
from tasks.core.types.bars import SECONDS
from tasks.core.types.portfolio import HeldPosition
from tasks.core.types.question import Reason

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".html")
DPI = 100
WIDE = 1100  # pixels that hold the legend in one row
PALETTE = 128  # colours: a third of the bytes, and no difference to see
ROUND = tuple(60 * m for m in (5, 15, 30, 60, 120, 180, 240, 360, 720, 1440, 7200, 14_400, 43_200))  # s between labels


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
    from matplotlib.figure import Figure

    seen = layers.window(market, as_of, timeframe, bars)
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, facecolor="white")
    price, volume = figure.subplots(2, 1, sharex=True, height_ratios=(4.6, 1))
    _margins(figure)
    layers.candles(seen, price, volume)
    layers.averages(seen, price)
    labels = [*layers.steps(seen, price), *layers.swings(seen, price), *layers.position_lines(position, price)]
    labels.append(layers.Label(seen.last("close"), "close", INK))
    layers.fit(seen, price, labels)
    layers.events(seen, price)
    layers.name_levels(price, labels)
    _frame(figure, seen, price, volume, reasons)
    return _png(figure)


def _margins(figure: "Figure") -> None:
    """Leave room for the text around the axes: in pixels, as text does not shrink with the picture."""
    width, height = figure.bbox.width, figure.bbox.height
    top = 58 if width >= WIDE else 78
    figure.subplots_adjust(
        left=62 / width, right=1 - 158 / width, top=1 - top / height, bottom=52 / height, hspace=0.04
    )


def _frame(figure: "Figure", seen: Window, price: "Axes", volume: "Axes", reasons: Sequence[Reason]) -> None:
    """Put title, reasons, legend and axes around what was drawn."""
    from matplotlib.ticker import EngFormatter, FuncFormatter

    width, height = figure.bbox.width, figure.bbox.height
    figure.text(
        14 / width,
        1 - 20 / height,
        title(seen),
        fontsize=12,
        fontweight="bold",
        color=INK,
        va="center",
        parse_math=False,
    )
    why = ", ".join(str(reason) for reason in reasons if not reason.context)
    shown = f"asked: {_clipped(why, int(width / 7) - 60)}" if why else ""
    figure.text(
        1 - 14 / width, 1 - 20 / height, shown, fontsize=9, color=INK, va="center", ha="right", parse_math=False
    )
    _legend(price, 10 if width >= WIDE else 6)
    for axes in (price, volume):
        axes.yaxis.tick_left()
        axes.tick_params(labelsize=8, colors="#666666", length=2)
        axes.set_ylabel("")
        axes.set_axisbelow(True)
        axes.grid(visible=True, linestyle=":", linewidth=0.7, color="#cccccc")
    price.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    volume.yaxis.set_major_formatter(EngFormatter(sep=""))
    volume.locator_params(axis="y", nbins=3)
    price.tick_params(axis="x", labelbottom=False)
    _time_axis(seen, volume)
    volume.text(1.008, 0.5, "volume\n(base)", transform=volume.transAxes, fontsize=8, color=INK, va="center")


def title(seen: Window) -> str:
    return f"{seen.symbol} {seen.timeframe} as of {seen.as_of:%Y-%m-%d %H:%M} UTC"


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _legend(price: "Axes", columns: int) -> None:
    from matplotlib.lines import Line2D

    def sign(marker: str, colour: str, text: str, fill: str) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, linestyle="", markerfacecolor=fill, label=text)

    extra = [
        Line2D([], [], color=DAY, linestyle="-.", label="prev day high/low"),
        Line2D([], [], color=WEEK, linestyle=":", label="week open"),
        sign("v", DOWN, "swing high", "none"),
        sign("^", UP, "swing low", "none"),
        sign("$\\uparrow$", UP, "event up", UP),
        sign("$\\downarrow$", DOWN, "event down", DOWN),
    ]
    drawn, _ = price.get_legend_handles_labels()
    price.legend(
        handles=[*drawn, *extra], loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, fontsize=8, frameon=False,
        borderaxespad=0.2, handlelength=1.6, handletextpad=0.5, columnspacing=1.2, labelcolor=INK,
    )  # fmt: skip


def _time_axis(seen: Window, volume: "Axes") -> None:
    """Label the bars that open on round times, with the date where it changes."""
    opens = seen.closes - SECONDS[seen.timeframe]
    every = next((s for s in ROUND if (opens[-1] - opens[0]) / s <= 10), ROUND[-1])
    at = np.flatnonzero(opens % every == 0)
    times = [datetime.fromtimestamp(int(opens[i]), tz=UTC) for i in at]
    days = [None, *(time.date() for time in times)]
    texts = [
        f"{t:%H:%M}\n{t:%Y-%m-%d}" if t.date() != before else f"{t:%H:%M}"
        for t, before in zip(times, days, strict=False)
    ]
    volume.set_xticks(at, texts, fontsize=8, rotation=0, ha="center", color=INK)
    volume.set_xlabel("open time of the bar, UTC", fontsize=8, color=INK, loc="right", labelpad=-8)


def _png(figure: "Figure") -> bytes:
    from PIL import Image

    raw, small = BytesIO(), BytesIO()
    figure.savefig(raw, format="png", dpi=DPI)
    with Image.open(raw) as picture:
        picture.convert("RGB").quantize(PALETTE).save(small, format="png", optimize=True)
    return small.getvalue()


def write(path: Path, market: Market, as_of: datetime, *, text: str = "", reasons: Sequence[Reason] = ()) -> None:
    """Write the picture to a .png, or to an .html page with `text` (the lean snapshot) below it.

    Raises InputError naming the path if it has another ending or cannot be written.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: a plot ends in {' or '.join(ENDINGS)}")
    timeframe = next((tf for tf in ("15m", *market.tables) if tf in market.tables), "15m")
    picture = draw(market, as_of, timeframe=timeframe, reasons=reasons)
    whole = picture if path.suffix.lower() == ".png" else _page(market.symbol, as_of, picture, text).encode()
    try:
        path.write_bytes(whole)
    except OSError as e:
        raise InputError(f"{path}: cannot be written ({e.strerror})") from e


def data_uri(picture: bytes) -> str:
    """Return a PNG as the text that an image link can hold."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _page(symbol: str, as_of: datetime, picture: bytes, text: str) -> str:
    name = html.escape(f"{symbol} as of {as_of:%Y-%m-%d %H:%M} UTC")
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{name}</title>\n'
        "<style>body{font-family:sans-serif;max-width:1200px;margin:1rem auto;color:#333}"
        "img{max-width:100%}pre{overflow-x:auto;font-size:12px}</style></head>\n"
        f'<body><img src="{data_uri(picture)}" alt="{name}">\n<pre>{html.escape(text)}</pre></body>\n</html>\n'
    )
