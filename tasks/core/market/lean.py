"""The lean encoding: the snapshot as a small table of text, which prompts send by default.

One header, one row per timeframe, 3-4 significant digits, `-` for unknown. What a row leaves out can be
derived from what it keeps (atr from atr_pct and close) or is in another row. At most 3,072 bytes: where numbers are so
long that it does not fit, the older bars go. `encode_first` is what prompts published before the whole of it send.
"""

from typing import Any

from tasks.core.types import PositionView, Snapshot, TimeframeView, TradeDigest

MAX_BYTES = 3072
Columns = tuple[tuple[str, str], ...]
COLUMNS: Columns = (
    ("close", "close"), ("rsi", "rsi"), ("rsi_slope", "rsi_d"), ("macd_hist", "macd"), ("macd_cross", "mx"),
    ("macd_slope", "macd_d"), ("price_z20", "z"), ("vwap_z", "vwz"), ("atr_pct", "atr%"), ("atr_pctile", "atrP"),
    ("range_ratio", "rng"), ("ma_stack", "stack"), ("cloud_atr", "cloud"), ("vol_z20", "vz"), ("obv_dir", "obv"),
    ("vol_spike", "spk"), ("delta20", "dlt"),
)  # fmt: skip
BRIEF = {
    "15m": {"rsi", "price_z20", "atr_pct", "vol_z20"}, "1h": {"rsi", "ma_stack", "cloud_atr"},
    "4h": {"rsi", "cloud_atr"},
}  # fmt: skip
WHOLE = frozenset({"atr_pctile", "upper_wick_pct", "lower_wick_pct"})  # of percents the decimals say nothing
FIRST_SWINGS = (("to_last_high_atr", "sh"), ("to_last_low_atr", "sl"), ("broke_high", "bh"), ("broke_low", "bl"))
SWINGS = (
    *FIRST_SWINGS, ("to_prev_high_atr", "psh"), ("to_prev_low_atr", "psl"), ("upper_wick_pct", "uw"),
    ("lower_wick_pct", "lw"),
)  # fmt: skip
BARS = ("5m", "15m", "1h")  # whose last three are written


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
    """Encode `snapshot` as lean text; a 1m row only where that bar is known."""
    known = {tf: view for tf, view in snapshot.timeframes.items() if tf != "1m" or view.close is not None}
    rows = [_row(tf, view, SWINGS) for tf, view in known.items()]
    bars = [f"{tf} ohlcv {_bars(known[tf], 5)}" for tf in BARS if tf in known]
    texts = ("\n".join(_lines(snapshot, SWINGS, rows, bars[:n])) for n in reversed(range(len(bars) + 1)))
    return next((text for text in texts if len(text.encode()) <= MAX_BYTES), "\n".join(rows))


def encode_first(snapshot: Snapshot) -> str:
    """Encode `snapshot` as the variable `snapshot` of prompts has it: the last swing alone, the last bars of 5m."""
    rows = [_row(tf, view, FIRST_SWINGS) for tf, view in snapshot.timeframes.items()]
    last = f"5m ohlc {_bars(snapshot.view('5m'), 4)}"
    return "\n".join(_lines(snapshot, FIRST_SWINGS, rows, [last]))


def _lines(snapshot: Snapshot, swings: Columns, rows: list[str], bars: list[str]) -> list[str]:
    lines = [" ".join(["tf", *(short for _, short in COLUMNS), *(short for _, short in swings)]), *rows, *bars]
    lines.append("anchors " + _pairs(snapshot.htf_anchors, ("dist_to_", ""), ("_atr", ""), ("rolling_", "")))
    lines.append("book " + _pairs(snapshot.orderbook, ("_for_size", "")))
    lines.append("position " + _position(snapshot.position))
    lines.append(f"risk {snapshot.risk.risk_mode} " + _pairs(snapshot.risk, ("risk_mode", "")))
    votes = snapshot.confluence
    lines.append(f"confluence {votes.signed:+d} " + _pairs(votes.replace(score=None, direction=None)))
    if snapshot.digest.trade_count:
        lines.append("digest " + _digest(snapshot.digest))
    return [line.rstrip() for line in lines]


def _bars(view: TimeframeView, numbers: int) -> str:
    return " ; ".join(" ".join(cell(x, 6) for x in bar[:numbers]) for bar in view.last3)


def short(snapshot: Snapshot) -> str:
    """Encode the rows of 15m, 1h and 4h and the lines below, without bars and anchors: half of `encode`."""
    rows = [_row(tf, view, FIRST_SWINGS) for tf, view in snapshot.timeframes.items() if tf in BRIEF]
    return "\n".join(line for line in _lines(snapshot, FIRST_SWINGS, rows, []) if not line.startswith("anchors"))


def brief(snapshot: Snapshot) -> str:
    """Encode the few numbers of `snapshot` that a symbol is compared with others by, as one line."""
    close = snapshot.view("5m").close
    parts = [f"{snapshot.pair} {cell(close, 6)}"]
    for timeframe, columns in BRIEF.items():
        view = snapshot.view(timeframe)
        numbers = (f"{short}={cell(getattr(view, name))}" for name, short in COLUMNS if name in columns)
        parts.append(f"{timeframe} {' '.join(numbers)}")
    return "; ".join([*parts, f"confluence={snapshot.confluence.signed:+d}"])


def _row(timeframe: str, view: TimeframeView, swings: Columns) -> str:
    cells = [_cell(name, getattr(view, name)) for name, _ in COLUMNS]
    return " ".join([timeframe, *cells, *(_cell(name, getattr(view.swing, name)) for name, _ in swings)])


def _cell(name: str, value: Any) -> str:
    return cell(round(value) if name in WHOLE and value is not None else value, 6 if name == "close" else 3)


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
