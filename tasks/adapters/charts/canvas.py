"""What every picture shares: its colours, a figure without pyplot's global state (tasks draw side by side), its PNG."""

import base64
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UP, DOWN, INK = "#1b8a6b", "#d0453e", "#333333"
DPI = 100
PALETTE = 128  # colours: a third of the bytes, and no difference to see


def figure(width: int, height: int, above: int = 0) -> "Figure":
    """Return an empty figure of that many pixels, which fits its axes and the text around them below `above`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - above / height))
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout=layout)


def png(drawn: "Figure") -> bytes:
    """Give every panel the same grid and ticks, and return the picture."""
    from PIL import Image

    for axes in drawn.axes:
        axes.grid(linestyle=":", linewidth=0.7, color="#cccccc")
        axes.tick_params(labelsize=8, colors="#666666", length=2)
    raw, small = BytesIO(), BytesIO()
    drawn.savefig(raw, format="png")
    with Image.open(raw) as picture:
        picture.convert("RGB").quantize(PALETTE).save(small, format="png", optimize=True)
    return small.getvalue()


def data_uri(picture: bytes) -> str:
    """Return a PNG as the text that an image link can hold."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
