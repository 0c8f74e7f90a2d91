"""The lean encoding: the snapshot as a small table of text, which prompts send by default.

One header, one row per timeframe, 3-4 significant digits, `-` for unknown. What a row leaves out can be
derived from what it keeps (atr from atr_pct and close) or is in another row. At most 3,072 bytes.
"""

from tasks.core.types import PositionView, Snapshot, TimeframeView, TradeDigest

MAX_BYTES = 3072
COLUMNS: tuple[tuple[str, str], ...] = (
    ("close", "close"), ("rsi", "rsi"), ("rsi_slope", "rsi_d"), ("macd_hist", "macd"), ("macd_cross", "mx"),
    ("macd_slope", "macd_d"), ("price_z20", "z"), ("vwap_z", "vwz"), ("atr_pct", "atr%"), ("atr_pctile", "atrP"),
    ("range_ratio", "rng"), ("ma_stack", "stack"), ("cloud_atr", "cloud"), ("vol_z20", "vz"), ("obv_dir", "obv"),
    ("vol_spike", "spk"), ("delta20", "dlt"),
)  # fmt: skip
BRIEF = {
    "15m": {"rsi", "price_z20", "atr_pct", "vol_z20"}, "1h": {"rsi", "ma_stack", "cloud_atr"},
    "4h": {"rsi", "cloud_atr"},
}  # fmt: skip
WHOLE = frozenset({"atr_pctile"})  # of 90 values: the decimals say nothing
SWINGS = (("to_last_high_atr", "sh"), ("to_last_low_atr", "sl"), ("broke_high", "bh"), ("broke_low", "bl"))


def cell(value: object, digits: int = 3) -> str:
    """Write one value: short numbers, 1/0 for booleans, - for unknown."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        text = f"{value:.{digits}g}"
        if "e+" in text and abs(value) < 1e12:
            return f"{float(text):.0f}"
        return text.replace("0.", ".", 1) if abs(value) < 1 else text
    return str(value)


def encode(snapshot: Snapshot) -> str:
    """Encode `snapshot` as lean text."""
    lines = [" ".join(["tf", *(short for _, short in COLUMNS), *(short for _, short in SWINGS)])]
    lines += [_row(tf, view) for tf, view in snapshot.timeframes.items()]
    last = snapshot.timeframes.get("5m", TimeframeView()).last3
    lines.append("5m ohlc " + " ; ".join(" ".join(cell(x, 6) for x in bar[:4]) for bar in last))
    lines.append("anchors " + _pairs(snapshot.htf_anchors, ("dist_to_", ""), ("_atr", ""), ("rolling_", "")))
    lines.append("book " + _pairs(snapshot.orderbook, ("_for_size", "")))
    lines.append("position " + _position(snapshot.position))
    lines.append(f"risk {snapshot.risk.risk_mode} " + _pairs(snapshot.risk, ("risk_mode", "")))
    votes = snapshot.confluence
    lines.append(f"confluence {votes.signed:+d} " + _pairs(votes.replace(score=None, direction=None)))
    if snapshot.digest.trade_count:
        lines.append("digest " + _digest(snapshot.digest))
    return "\n".join(line.rstrip() for line in lines)


def brief(snapshot: Snapshot) -> str:
    """Encode the few numbers of `snapshot` that a symbol is compared with others by, as one line."""
    close = snapshot.timeframes.get("5m", TimeframeView()).close
    parts = [f"{snapshot.pair} {cell(close, 6)}"]
    for timeframe, columns in BRIEF.items():
        view = snapshot.timeframes.get(timeframe, TimeframeView())
        numbers = (f"{short}={cell(getattr(view, name))}" for name, short in COLUMNS if name in columns)
        parts.append(f"{timeframe} {' '.join(numbers)}")
    return "; ".join([*parts, f"confluence={snapshot.confluence.signed:+d}"])


def _row(timeframe: str, view: TimeframeView) -> str:
    values = [(name, getattr(view, name)) for name, _ in COLUMNS]
    cells = [
        cell(round(x) if name in WHOLE and x is not None else x, 6 if name == "close" else 3) for name, x in values
    ]
    cells += [cell(getattr(view.swing, name)) for name, _ in SWINGS]
    return " ".join([timeframe, *cells])


def _position(view: PositionView) -> str:
    if view.side == "flat":
        return "flat"
    return f"{view.side} avg_price={cell(view.avg_price, 6)} " + _pairs(view, ("side", ""), ("avg_price", ""))


def _digest(view: TradeDigest) -> str:
    """Write what matters of the past trades; times to the minute."""
    hold = None if view.avg_holding_ms is None else view.avg_holding_ms / 60_000
    last = None if view.last_trade_ts is None else f"{view.last_trade_ts:%Y-%m-%dT%H:%M}"
    known = {
        "trades": view.trade_count, "pnl": view.realized_pnl, "win_rate": view.win_rate, "hold_min": hold,
        "last": last, "avg_entry": view.avg_entry_price, "max_dd": view.max_drawdown,
        "score": view.recent_performance_score,
    }  # fmt: skip
    return " ".join(f"{name}={cell(value)}" for name, value in known.items() if value is not None)


def _pairs(view: object, *shorten: tuple[str, str]) -> str:
    """Write a view's known fields as name=value, shortened; unknown ones and those shortened to "" are left out."""
    out = []
    for name, value in view:  # type: ignore[attr-defined]  # every view is a pydantic model: it iterates as pairs
        if value is None:
            continue
        for old, new in shorten:
            name = name.replace(old, new)
        if name:
            out.append(f"{name}={cell(value)}")
    return " ".join(out)
