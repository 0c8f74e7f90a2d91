"""The lean encoding: the snapshot as a small table of text, which prompts send by default.

One header, one row per timeframe, 3-4 significant digits, `-` for unknown. What a row leaves out can be
derived from what it keeps (atr from atr_pct and close) or is in another row. At most 3,072 bytes.
"""

from tasks.core.types.snapshot import Snapshot, TimeframeView

MAX_BYTES = 3072
DIGITS = 4
COLUMNS: tuple[tuple[str, str], ...] = (
    ("close", "close"), ("rsi", "rsi"), ("rsi_slope", "rsi_d"), ("macd_hist", "macd"), ("macd_cross", "mx"),
    ("macd_slope", "macd_d"), ("price_z20", "z"), ("vwap_z", "vwz"), ("atr_pct", "atr%"), ("atr_pctile", "atrP"),
    ("range_ratio", "rng"), ("ma_stack", "stack"), ("cloud_atr", "cloud"), ("vol_z20", "vz"), ("obv_dir", "obv"),
    ("vol_spike", "spk"), ("delta20", "dlt"),
)  # fmt: skip
SWINGS = (("to_last_high_atr", "sh"), ("to_last_low_atr", "sl"), ("broke_high", "bh"), ("broke_low", "bl"))


def cell(value: object, digits: int = 3) -> str:
    """Write one value: short numbers, 1/0 for booleans, - for unknown."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        text = f"{value:.{digits}g}"
        return f"{float(text):.0f}" if "e+" in text else text.replace("0.", ".", 1) if abs(value) < 1 else text
    return str(value)


def encode(snapshot: Snapshot) -> str:
    """Encode `snapshot` as lean text."""
    lines = [" ".join(["tf", *(short for _, short in COLUMNS), *(short for _, short in SWINGS)])]
    lines += [_row(tf, view) for tf, view in snapshot.timeframes.items()]
    last = snapshot.timeframes.get("5m", TimeframeView()).last3
    lines.append("5m ohlc " + " ; ".join(" ".join(cell(x, 6) for x in bar[:4]) for bar in last))
    lines.append("anchors " + _pairs(snapshot.htf_anchors, ("dist_to_", ""), ("_atr", ""), ("rolling_", "")))
    lines.append("book " + _pairs(snapshot.orderbook, ("_for_size", "")))
    lines.append("position " + _pairs(snapshot.position))
    lines.append("risk " + _pairs(snapshot.risk))
    votes = snapshot.confluence
    lines.append(f"confluence {votes.signed:+d} " + _pairs(votes.model_copy(update={"score": None, "direction": None})))
    if snapshot.digest.trade_count:
        lines.append("digest " + _pairs(snapshot.digest))
    return "\n".join(lines)


def _row(timeframe: str, view: TimeframeView) -> str:
    cells = [cell(getattr(view, name), 6 if name == "close" else 3) for name, _ in COLUMNS]
    cells += [cell(getattr(view.swing, name)) for name, _ in SWINGS]
    return " ".join([timeframe, *cells])


def _pairs(view: object, *shorten: tuple[str, str]) -> str:
    """Write a view's known fields as name=value; unknown ones are left out."""
    out = []
    for name, value in view:  # type: ignore[attr-defined]  # every view is a pydantic model: it iterates as pairs
        if value is None:
            continue
        for old, new in shorten:
            name = name.replace(old, new)
        out.append(f"{name}={cell(value)}")
    return " ".join(out)
