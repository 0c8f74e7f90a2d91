"""The snapshot of a market at a moment: the Snapshot contract, rounded, and its JSON.

Distances are level - close: positive = the level is above the price. The z of an anchor is close - level: positive
= the price is above it. Unknown is None, never 0.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from tasks.core.market import confluence
from tasks.core.market.bars import SNAPSHOT_TIMEFRAMES
from tasks.core.market.market import Market, bar_closes
from tasks.core.market.tables import Table
from tasks.core.types.bars import COLUMNS, SECONDS
from tasks.core.types.record import Reason
from tasks.core.types.snapshot import (
    Confluence,
    Constraints,
    HtfAnchors,
    OrderBookView,
    PositionView,
    RiskView,
    RoleInput,
    RoleInputs,
    Snapshot,
    Swing,
    TimeframeView,
    TradeDigest,
)

__all__ = [
    "NUMBERS",
    "Market",
    "bar_closes",
    "build",
    "last_price",
    "ma_stack",
    "role_inputs",
    "significant",
    "to_json",
]

MAX_BYTES = 6144
REASON_BYTES = 480
DAY = SECONDS["1d"]
View = TypeVar("View", OrderBookView, PositionView, RiskView, TradeDigest)
SWING_FIELDS = tuple(Swing.model_fields)
VIEW_FIELDS = tuple(name for name in TimeframeView.model_fields if name not in ("swing", "last3", "ma_stack"))
NUMBERS = (*VIEW_FIELDS, *SWING_FIELDS)
WHOLE = frozenset({"macd_cross", "obv_dir"})
YES_NO = frozenset({"vol_spike", "broke_high", "broke_low"})


def significant(value: float | None, digits: int = 6) -> float | None:
    """Round to significant digits; None for what is not a finite number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}") + 0.0  # + 0.0 turns -0.0 into 0.0


def build(
    market: Market,
    as_of: datetime,
    *,
    reasons: Sequence[Reason] = (),
    book: OrderBookView | None = None,
    position: PositionView | None = None,
    risk: RiskView | None = None,
    constraints: Constraints,
    digest: TradeDigest | None = None,
) -> Snapshot:
    """Build the snapshot of `market` at as_of: rounded to 6 significant digits, unknown is None."""
    book = _rounded(book or OrderBookView())
    return Snapshot(
        pair=market.symbol,
        as_of=as_of,
        reason_for_call=_texts(reasons),
        timeframes=_views(market, as_of),
        htf_anchors=_anchor_view(market, as_of),
        orderbook=book,
        position=_rounded(position or PositionView()),
        risk=_rounded(risk or RiskView()),
        constraints=constraints,
        confluence=_confluence(market, as_of, book.imbalance),
        digest=_rounded(digest or TradeDigest()),
    )


def _texts(reasons: Sequence[Reason]) -> tuple[str, ...]:
    """Say the reasons, newest last, within their share of the snapshot's bytes: the oldest are left out first.

    The record keeps them all; more than a dozen at once happen only after a long silence.
    """
    texts, room = [], REASON_BYTES
    for text in map(str, reversed(reasons)):
        size = len(_json(text).encode()) + 1
        if size <= room:
            texts.append(text)
            room -= size
    return tuple(reversed(texts))


def _views(market: Market, as_of: datetime) -> dict[str, TimeframeView]:
    views: dict[str, TimeframeView] = {tf: _view(market, tf, as_of) for tf in SNAPSHOT_TIMEFRAMES}
    if "1m" not in market.tables:
        return views
    return {"1m": _view(market, "1m", as_of).model_copy(update={"swing": Swing(), "last3": ()}), **views}


def _rounded(view: View) -> View:
    floats = {k: significant(v) for k, v in view if isinstance(v, float)}
    return view.model_copy(update=floats)


def _view(market: Market, timeframe: str, as_of: datetime) -> TimeframeView:
    """Return the view of the last closed bar; a replay asks for the same 1h, 4h and 1d bars many times over."""
    found = market.row(timeframe, as_of)
    if found is None:
        return TimeframeView()
    table, i = found
    if table.viewed is None or table.viewed[0] != i:
        table.viewed = (i, _read(table, i))
    return table.viewed[1]


def _read(table: Table, i: int) -> TimeframeView:
    values = {name: _typed(name, table.columns[name][i]) for name in NUMBERS}
    swing = {name: values.pop(name) for name in SWING_FIELDS}
    first = max(0, i - 2)
    last3 = zip(*(table.columns[name][first : i + 1].tolist() for name in COLUMNS), strict=True)
    return TimeframeView(
        **values,
        ma_stack=ma_stack(table.row(i, ("sma20", "sma50", "sma200"))),
        swing=Swing(**swing),
        last3=tuple(tuple(significant(x) for x in bar) for bar in last3),
    )


def _typed(name: str, value: float) -> float | int | bool | None:
    rounded = significant(float(value))
    if rounded is None:
        return None
    if name in YES_NO:
        return bool(rounded)
    return int(rounded) if name in WHOLE else rounded


def ma_stack(averages: Mapping[str, float]) -> str | None:
    """Return the order of the averages from high to low, such as "20>50>200"; None until all are known."""
    if not all(math.isfinite(value) for value in averages.values()):
        return None
    ordered = sorted(averages, key=lambda name: -averages[name])
    return ">".join(name.removeprefix("sma") for name in ordered)


def _anchor_view(market: Market, as_of: datetime) -> HtfAnchors:
    table, close = market.anchor_table, market.value("5m", "close", as_of)
    atr, std = (market.value("15m", name, as_of) for name in ("atr", "std20"))
    i = table.at(int(as_of.timestamp()))
    if close is None:
        return HtfAnchors()
    level = {name: float(column[i]) for name, column in table.columns.items()}

    def scaled(distance: float, unit: float | None) -> float | None:
        return significant(distance / unit) if unit else None

    levels = ("prev_day_high", "prev_day_low", "prev_week_high", "prev_week_low")
    means = ("daily_open", "weekly_open", "session_vwap", "rolling_vwap_1d")
    return HtfAnchors(
        **{f"dist_to_{name}_atr": scaled(level[name] - close, atr) for name in levels},
        **{f"{name}_z": scaled(close - level[name], std) for name in means},
    )


def _confluence(market: Market, as_of: datetime, imbalance: float | None) -> Confluence:
    found = market.row("15m", as_of)
    if found is None:
        return confluence.confluence(dict.fromkeys(("alignment", "momentum", "volume", "vwap")), imbalance)
    row = {name: significant(float(column[found[1]])) for name, column in market.votes.items()}
    return confluence.confluence(row, imbalance)


def role_inputs(market: Market, as_of: datetime) -> RoleInputs:
    """Build what roles get beyond the snapshot: 15m and 1h indicators, recent closes, swing prices, 24h volume."""
    views = {}
    for tf, columns in market.roles.items():
        found = market.row(tf, as_of)
        if found is None:
            continue
        table, i = found
        row = {name: significant(float(column[i])) for name, column in columns.items()}
        swings = {f"swing_{s}": significant(float(table.columns[f"last_{s}"][i])) for s in ("low", "high")}
        views[tf] = RoleInput(**row, **swings)
    five = market.row("5m", as_of)
    if five is None:
        return RoleInputs(timeframes=views)
    table, i = five
    first = i + 1 - DAY // SECONDS["5m"]
    whole = first >= 0 and int(table.closes[i] - table.closes[first]) == DAY - SECONDS["5m"]
    closes = [significant(x) for x in table.columns["close"][max(0, i - 9) : i + 1].tolist()]
    return RoleInputs(
        timeframes=views,
        volume_24h=significant(float(table.columns["volume"][first : i + 1].sum())) if whole else None,
        recent_closes=tuple(x for x in closes if x is not None),
    )


def to_json(snapshot: Snapshot) -> str:
    """Encode as compact JSON, at most MAX_BYTES.

    The 1m view goes without swings and bars, and goes altogether where the numbers of the others are so long that
    it does not fit: without it the limit holds whatever they are (two-digit exponents).
    """
    document = snapshot.model_dump(mode="json")
    for part in ("swing", "last3"):
        document["timeframes"].get("1m", {}).pop(part, None)
    text = _json(document)
    if len(text.encode()) > MAX_BYTES and document["timeframes"].pop("1m", None):
        return _json(document)
    return text


def _json(value: object) -> str:
    """Write one value with its numbers as short as they go: 25811 for 25811.0, 1.2e+15 for 1200000000000000.0."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json(key)}:{_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    if isinstance(value, float) and math.isfinite(value):
        exact, short = repr(value).removesuffix(".0"), f"{value:.6g}"
        return short if len(short) < len(exact) and float(short) == value else exact
    return "null" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def last_price(snapshot: Snapshot) -> Decimal | None:
    """Return the 5m close at as_of, crossing from float to Decimal by its shortest text."""
    close = snapshot.timeframes["5m"].close if "5m" in snapshot.timeframes else None
    return None if close is None else Decimal(repr(close))
