"""One symbol's market: bars, features, anchors and market events, computed once.

A live cycle (the last 1,000 bars per timeframe) and a replay (all of history) go through the same code. A reader
names the time: only rows whose bar had closed, and could be known, at as_of are ever given.
"""

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import pandas as pd
from numpy import ndarray

from tasks.core.market import anchors, confluence, events, features, moments
from tasks.core.market.bars import (
    WORKING_TIMEFRAMES,
    Frames,
    bar_frame,
    check_frame,
    columns_of,
    epoch_s,
    gaps_in,
    infer_timeframe,
    timeframes_from,
)
from tasks.core.market.tables import Table
from tasks.core.types import COLUMNS, SECONDS, EventThresholds, Json, Reason

ROLE_TIMEFRAMES = ("15m", "1h")
MOST_READ = 2048


@dataclass(frozen=True)
class Market:
    """One symbol's bars per timeframe and everything computed from them.

    base: the timeframe that the others were built from; empty: each came by itself, those of 1m only now and then.
    """

    symbol: str
    bars: Frames
    thresholds: EventThresholds = EventThresholds()
    base: str = ""

    @classmethod
    def from_base(cls, symbol: str, bars: pd.DataFrame, thresholds: EventThresholds = EventThresholds()) -> "Market":
        """Build every timeframe from the bars of one (candle files, backtests); from 1m bars also the 1m view."""
        base = infer_timeframe(check_frame(bars))
        wanted = ("1m", *WORKING_TIMEFRAMES) if base == "1m" else WORKING_TIMEFRAMES
        return cls(symbol, timeframes_from(bars, base, wanted), thresholds, base)

    def with_minutes(self, bars: pd.DataFrame) -> "Market":
        """Return the market with its last 1m bars, and with what is computed already."""
        if bars.empty:
            return self
        whole = replace(self, bars={"1m": bars, **self.bars})
        features_1m = {"1m": features.compute(bars, "1m")}
        vars(whole).update(features=features_1m | self.features, anchors=self.anchors, events=self.events)
        return whole

    @property
    def finest(self) -> str:
        """Return the shortest timeframe that it has bars of all along."""
        apart = "" if self.base else "1m"
        return min((tf for tf, bars in self.bars.items() if len(bars) and tf != apart), key=SECONDS.__getitem__)

    @property
    def gaps(self) -> Json:
        return gaps_in(self.bars[self.finest].index, self.finest)

    @cached_property
    def features(self) -> dict[str, pd.DataFrame]:
        return {tf: features.compute(bars, tf) for tf, bars in self.bars.items() if len(bars)}

    @cached_property
    def anchors(self) -> pd.DataFrame:
        none = bar_frame(np.array([], dtype="int64"), dict.fromkeys(COLUMNS, np.array([])))
        return anchors.compute(self.bars.get("5m", none), self.bars.get("1d", none))

    @cached_property
    def events(self) -> list[tuple[int, str, str, str]]:
        return events.detect(self.features, self.anchors, self.thresholds)

    @cached_property
    def event_closes(self) -> ndarray:
        return np.array([at for at, *_ in self.events], dtype="int64")

    @cached_property
    def tables(self) -> dict[str, Table]:
        base = epoch_s(self.bars[self.finest].index) + SECONDS[self.finest] if self.features else None
        return {tf: Table(frame, tf, base) for tf, frame in self.features.items()}

    @cached_property
    def anchor_table(self) -> Table:
        return Table(self.anchors, "5m")

    @cached_property
    def votes(self) -> dict[str, ndarray]:
        return confluence.parts(self.tables["15m"].columns) if "15m" in self.tables else {}

    @cached_property
    def roles(self) -> dict[str, dict[str, ndarray]]:
        wanted = (tf for tf in ROLE_TIMEFRAMES if tf in self.tables)
        roles = {tf: columns_of(features.role_inputs(self.bars[tf], tf)) for tf in wanted}
        if "1h" in roles:
            roles["1h"] |= columns_of(features.crossings(self.bars["1h"], "1h"))
        return roles

    @cached_property
    def month_volatility(self) -> ndarray:
        return features.month_volatility(self.bars["1d"], "1d")["volatility_30d"].to_numpy()

    @cached_property
    def _read(self) -> dict[int, moments.MarketMoment]:
        """The moments read lately, by close in s since 1970; a year of them would not fit into memory."""
        return {}

    def read_ahead(self, closes: ndarray, *, beside: bool = False) -> None:
        """Read the moments at `closes` (s since 1970) at once, in place of those read before or `beside` them."""
        if not beside or len(self._read) >= MOST_READ:
            self._read.clear()
        self._read.update(zip(closes.tolist(), moments.read(self, closes), strict=True))

    def moment(self, as_of: datetime) -> moments.MarketMoment:
        """Return what the market alone says at as_of."""
        seconds = int(as_of.timestamp())
        if (moment := self._read.get(seconds)) is None:
            if len(self._read) >= MOST_READ:
                self._read.clear()
            moment = self._read[seconds] = moments.read(self, np.array([seconds]))[0]
        return moment

    def value(self, timeframe: str, name: str, as_of: datetime) -> float | None:
        """Return one feature at its last closed bar; None if unknown.

        A bar that is not the newest one due at as_of (a gap, an outage) does not count: its values are of the past.
        """
        i = self.moment(as_of).rows.get(timeframe, -1)
        value = math.nan if i < 0 else float(self.tables[timeframe].columns[name][i])
        return value if math.isfinite(value) else None

    def atr(self, closes: ndarray) -> ndarray:
        """Return ATR(14) of 15m, in price, by each of `closes` (s since 1970); NaN where it is unknown."""
        if (table := self.tables.get("15m")) is None:
            return np.full(len(closes), np.nan)
        rows = moments.due(table, "15m", closes)
        return np.where(rows >= 0, table.columns["atr"][rows], np.nan)

    def reasons(self, after: datetime, until: datetime) -> tuple[Reason, ...]:
        """Return the market's reasons of bars that closed in (after, until], with bar closes as context."""
        start, end = int(after.timestamp()), int(until.timestamp())
        low, high = np.searchsorted(self.event_closes, (start, end), side="right").tolist()
        return tuple(self._reason(*event) for event in self.events[low:high])

    def _reason(self, at_s: int, rule: str, timeframe: str, detail: str) -> Reason:
        at = datetime.fromtimestamp(at_s, UTC)
        mark = f"{rule}|{self.symbol}|{timeframe}|{detail}|{at:%Y-%m-%dT%H:%M}"
        return Reason.trusted(
            rule=rule, symbol=self.symbol, timeframe=timeframe, detail=detail, as_of=at, fingerprint=mark
        )


def bar_closes(symbol: str, as_of: datetime) -> tuple[Reason, ...]:
    """Return the higher bars that close at as_of: context for a decider, never a reason alone."""
    return tuple(
        Reason.trusted(
            rule="BarClose",
            symbol=symbol,
            timeframe=tf,
            as_of=as_of,
            fingerprint=f"BarClose|{symbol}|{tf}|{as_of:%Y-%m-%dT%H:%M}",
            context=True,
        )
        for tf in ("15m", "1h", "4h")
        if as_of.timestamp() % SECONDS[tf] == 0
    )
