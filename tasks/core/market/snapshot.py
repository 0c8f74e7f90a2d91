"""One symbol's market, and the snapshot of it at a moment.

`Market` holds bars, features, anchors and market events, computed once; `snapshot` reads one row of each, so a
live cycle (1,000 bars) and a replay (all of history) go through the same code. Only rows whose bar had closed at
as_of are ever read.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import TypeVar

import numpy as np
import pandas as pd

from tasks.core.market import anchors, confluence, events, features
from tasks.core.market.bars import SNAPSHOT_TIMEFRAMES, epoch_s, infer_timeframe, timeframes_from
from tasks.core.types.bars import COLUMNS, SECONDS
from tasks.core.types.limits import EventThresholds
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

MAX_BYTES = 6144
View = TypeVar("View", OrderBookView, PositionView, RiskView, TradeDigest)
SWING_FIELDS = tuple(Swing.model_fields)
VIEW_FIELDS = tuple(name for name in TimeframeView.model_fields if name not in ("swing", "last3", "ma_stack"))
WHOLE = frozenset({"macd_cross", "obv_dir"})
YES_NO = frozenset({"vol_spike", "broke_high", "broke_low"})


def significant(value: float | None, digits: int = 6) -> float | None:
    """Round to significant digits; None for what is not a finite number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}") + 0.0  # + 0.0 turns -0.0 into 0.0


class Table:
    """A feature frame as plain arrays with the bars' close times, for quick reads of one row."""

    def __init__(self, frame: pd.DataFrame, timeframe: str) -> None:
        self.closes = epoch_s(frame.index) + SECONDS[timeframe]
        self.columns = {name: frame[name].to_numpy() for name in frame.columns}

    def at(self, as_of_s: int) -> int:
        """Return the row of the last bar closed at `as_of_s`; -1 if there is none."""
        return int(np.searchsorted(self.closes, as_of_s, side="right")) - 1

    def row(self, i: int, names: Sequence[str]) -> dict[str, float]:
        return {name: float(self.columns[name][i]) for name in names}


@dataclass(frozen=True)
class Market:
    """One symbol's bars per timeframe and everything computed from them."""

    symbol: str
    bars: Mapping[str, pd.DataFrame]
    thresholds: EventThresholds = field(default_factory=EventThresholds)

    @classmethod
    def from_base(cls, symbol: str, bars: pd.DataFrame, thresholds: EventThresholds | None = None) -> "Market":
        """Build every timeframe from the bars of one (candle files, backtests)."""
        frames = timeframes_from(bars, infer_timeframe(bars))
        return cls(symbol, frames, thresholds or EventThresholds())

    @cached_property
    def features(self) -> dict[str, pd.DataFrame]:
        return {tf: features.compute(bars, tf) for tf, bars in self.bars.items() if len(bars)}

    @cached_property
    def anchors(self) -> pd.DataFrame:
        return anchors.compute(self.bars["5m"], self.bars["1d"])

    @cached_property
    def events(self) -> list[tuple[int, str, str, str]]:
        return events.detect(self.features, self.anchors, self.thresholds)

    @cached_property
    def tables(self) -> dict[str, Table]:
        return {tf: Table(frame, tf) for tf, frame in self.features.items()}

    @cached_property
    def anchor_table(self) -> Table:
        return Table(self.anchors, "5m")

    @cached_property
    def votes(self) -> dict[str, np.ndarray]:
        return confluence.parts(self.features["15m"]) if "15m" in self.features else {}

    @cached_property
    def roles(self) -> dict[str, Table]:
        return {tf: Table(features.role_inputs(self.bars[tf]), tf) for tf in ("15m", "1h") if len(self.bars[tf])}

    def row(self, timeframe: str, as_of: datetime) -> tuple[Table, int] | None:
        """Return the table and row of the last closed bar, or None.

        A row that is not the newest bar due at as_of (a gap, an outage) does not count: its values are of the past.
        """
        table = self.tables.get(timeframe)
        if table is None:
            return None
        seconds = int(as_of.timestamp())
        i = table.at(seconds)
        due = seconds // SECONDS[timeframe] * SECONDS[timeframe]
        return (table, i) if i >= 0 and int(table.closes[i]) == due else None

    def value(self, timeframe: str, name: str, as_of: datetime) -> float | None:
        """Return one feature at its last closed bar; None if unknown."""
        found = self.row(timeframe, as_of)
        if found is None:
            return None
        value = float(found[0].columns[name][found[1]])
        return value if math.isfinite(value) else None

    def reasons(self, after: datetime, until: datetime) -> tuple[Reason, ...]:
        """Return the market's reasons of bars that closed in (after, until], with bar closes as context."""
        start, end = int(after.timestamp()), int(until.timestamp())
        closes = [at for at, *_ in self.events]
        low, high = (int(np.searchsorted(closes, x, side="right")) for x in (start, end))
        return tuple(self._reason(*event) for event in self.events[low:high])

    def _reason(self, at_s: int, rule: str, timeframe: str, detail: str) -> Reason:
        at = datetime.fromtimestamp(at_s, tz=UTC)
        return Reason(
            rule=rule,
            symbol=self.symbol,
            timeframe=timeframe,
            detail=detail,
            as_of=at,
            fingerprint=f"{rule}|{self.symbol}|{timeframe}|{detail}|{at:%Y-%m-%dT%H:%M}",
        )


def bar_closes(symbol: str, as_of: datetime) -> tuple[Reason, ...]:
    """Return the higher bars that close at as_of: context for a decider, never a reason alone."""
    return tuple(
        Reason(
            rule="BarClose",
            symbol=symbol,
            timeframe=tf,
            as_of=as_of,
            fingerprint=f"BarClose|{symbol}|{tf}|{as_of:%Y-%m-%dT%H:%M}",
            context=True,
        )
        for tf in ("15m", "1h", "4h")
        if int(as_of.timestamp()) % SECONDS[tf] == 0
    )


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
        reason_for_call=tuple(str(reason) for reason in reasons),
        timeframes={tf: _view(market, tf, as_of) for tf in SNAPSHOT_TIMEFRAMES},
        htf_anchors=_anchor_view(market, as_of),
        orderbook=book,
        position=_rounded(position or PositionView()),
        risk=_rounded(risk or RiskView()),
        constraints=constraints,
        confluence=_confluence(market, as_of, book.imbalance),
        digest=_rounded(digest or TradeDigest()),
    )


def _rounded(view: View) -> View:
    floats = {k: significant(v) for k, v in view if isinstance(v, float)}
    return view.model_copy(update=floats)


def _view(market: Market, timeframe: str, as_of: datetime) -> TimeframeView:
    found = market.row(timeframe, as_of)
    if found is None:
        return TimeframeView()
    table, i = found
    values = {name: _typed(name, table.columns[name][i]) for name in VIEW_FIELDS}
    swing = {name: _typed(name, table.columns[name][i]) for name in SWING_FIELDS}
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
    means = {"daily_open": "daily_open", "weekly_open": "weekly_open", "session_vwap": "session_vwap"}
    return HtfAnchors(
        **{f"dist_to_{name}_atr": scaled(level[name] - close, atr) for name in levels},
        **{f"{name}_z": scaled(close - level[name], std) for name in (*means, "rolling_vwap_1d")},
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
    for tf, table in market.roles.items():
        found = market.row(tf, as_of)
        if found is None:
            continue
        features_table, i = found
        row = {name: significant(float(table.columns[name][i])) for name in table.columns}
        swings = {f"swing_{s}": significant(float(features_table.columns[f"last_{s}"][i])) for s in ("low", "high")}
        views[tf] = RoleInput(**row, **swings)
    five = market.row("5m", as_of)
    if five is None:
        return RoleInputs(timeframes=views)
    table, i = five
    day = table.columns["volume"][max(0, i - 287) : i + 1]
    closes = table.columns["close"][max(0, i - 9) : i + 1]
    return RoleInputs(
        timeframes=views,
        volume_24h=significant(float(day.sum())) if len(day) == 288 else None,
        recent_closes=tuple(significant(x) or 0.0 for x in closes.tolist()),
    )


def to_json(snapshot: Snapshot) -> str:
    """Encode as compact JSON, at most MAX_BYTES."""
    return json.dumps(snapshot.model_dump(mode="json"), separators=(",", ":"))


def last_price(snapshot: Snapshot) -> Decimal | None:
    """Return the 5m close at as_of, crossing from float to Decimal by its shortest text."""
    close = snapshot.timeframes["5m"].close if "5m" in snapshot.timeframes else None
    return None if close is None else Decimal(repr(close))
