"""Closed bars: saved once, read fast; and what their symbols may be traded in.

A venue sometimes changes a bar after its close. What was decided on is the first version, so that one stays; the
later ones are kept beside it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import ColumnElement, Connection, Text, and_, bindparam, func, select, type_coerce, update

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import Candle, InstrumentRow
from tasks.adapters.store.types import document_of
from tasks.core.errors import DataError
from tasks.core.market.bars import bar_frame, check_frame
from tasks.core.types.bars import COLUMNS, duration, floor_time
from tasks.core.types.base import Dto
from tasks.core.types.orders import Instrument

VALUES = [getattr(Candle, name) for name in COLUMNS]
BATCH = 20_000
Series = tuple[str, str]  # symbol, timeframe
Row = tuple[str, datetime, list[float]]  # symbol, open time, values
Known = dict[tuple[str, datetime], list[float]]


class SavedBars(Dto):
    """How many bars were new, and how many known ones came with values not seen before."""

    new: int
    revised: int


class CandleStore(Database):
    """Candles by (venue, symbol, timeframe), instruments by (venue, symbol)."""

    def save_bars(
        self, venue: str, symbol: str, timeframe: str, frame: pd.DataFrame, recorded_at: datetime
    ) -> SavedBars:
        """Save closed bars; known ones keep their first values. Raises DataError if `frame` is no bar frame."""
        new, revised = self.save_frames(venue, {(symbol, timeframe): frame}, recorded_at)
        return SavedBars(new=new, revised=revised.total())

    def save_frames(
        self, venue: str, frames: Mapping[Series, pd.DataFrame], recorded_at: datetime
    ) -> tuple[int, Counter[Series]]:
        """Do what `save_bars` does for many series, `BATCH` bars of a timeframe at once.

        Returns how many bars were new in all, and how many of each series came with values not seen before.
        """
        new, revised = 0, Counter[Series]()
        for timeframe in sorted({timeframe for _, timeframe in frames}):
            # one order for all writers, or two could deadlock
            rows = [row for series in sorted(frames) if series[1] == timeframe for row in _rows(series, frames[series])]
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                with self._writing() as connection:
                    known = self._between(connection, venue, timeframe, part)
                    new += self._add(connection, venue, timeframe, part, known, recorded_at)
                    revised += _revise(connection, venue, timeframe, part, known, recorded_at)
        return new, revised

    def load_bars(self, venue: str, symbol: str, timeframe: str, until: datetime, limit: int) -> pd.DataFrame:
        """Return the last `limit` bars that had closed at `until`, ascending."""
        query = (
            select(self._open_ms(), *VALUES)
            .where(_series(venue, symbol, timeframe), Candle.open_time <= until - duration(timeframe))
            .order_by(Candle.open_time.desc())
            .limit(limit)
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return self._frame(rows[::-1])

    def load_frames(
        self, venue: str, symbols: Sequence[str], timeframe: str, until: datetime, limit: int
    ) -> dict[str, pd.DataFrame]:
        """Return by symbol what `load_bars` does; all that have no gap in one query."""
        begin = floor_time(until, timeframe) - limit * duration(timeframe)
        query = select(Candle.symbol, self._open_ms(), *VALUES).where(
            Candle.venue == venue, Candle.symbol.in_(symbols), Candle.timeframe == timeframe,
            Candle.open_time.between(begin, until - duration(timeframe)),
        )  # fmt: skip
        with self._reading() as connection:
            rows = connection.execute(query.order_by(Candle.symbol, Candle.open_time)).all()
        named, *columns = zip(*rows, strict=True) if rows else ((), *((),) * (1 + len(COLUMNS)))
        counts = Counter(named)
        whole, frames, end = self._columns(*columns), {}, 0
        for symbol, count in counts.items():  # in the order of the rows
            frames[symbol] = whole.iloc[end : (end := end + count)]
        short = (symbol for symbol in symbols if counts[symbol] < limit)  # a gap, or a history that is no longer
        return frames | {symbol: self.load_bars(venue, symbol, timeframe, until, limit) for symbol in short}

    def all_bars(self, venue: str, symbol: str, timeframe: str) -> tuple[pd.DataFrame, np.ndarray]:
        """Return every bar, ascending, and when each was stored, in seconds since 1970."""
        query = select(self._open_ms(), *VALUES, Candle.recorded_at).where(_series(venue, symbol, timeframe))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(Candle.open_time)).all()
        stored = np.array([row[-1].timestamp() for row in rows])
        return self._frame([row[:-1] for row in rows]), stored

    def last_open_time(self, venue: str, symbol: str, timeframe: str) -> datetime | None:
        """Return when the newest saved bar opened."""
        with self._reading() as connection:
            return connection.scalar(select(func.max(Candle.open_time)).where(_series(venue, symbol, timeframe)))

    def count_bars(self) -> int:
        """Return how many bars are saved, of all series."""
        with self._reading() as connection:
            return connection.scalar(select(func.count()).select_from(Candle)) or 0

    def save_instrument(self, venue: str, instrument: Instrument, stored_at: datetime) -> None:
        """Keep what the venue says of a symbol now, in place of what it said before."""
        row = {"venue": venue, "symbol": instrument.symbol, "document": document_of(instrument), "stored_at": stored_at}
        with self._writing() as connection:
            connection.execute(self._upsert(InstrumentRow, row, ["venue", "symbol"]))

    def instrument(self, venue: str, symbol: str) -> Instrument | None:
        """Return what the venue last said of a symbol; None if it was never asked."""
        query = select(InstrumentRow.document).where(InstrumentRow.venue == venue, InstrumentRow.symbol == symbol)
        with self._reading() as connection:
            document = connection.scalar(query)
        return None if document is None else Instrument.model_validate(document)

    def _add(
        self, connection: Connection, venue: str, timeframe: str, rows: list[Row], known: Known, recorded_at: datetime
    ) -> int:
        unknown = [
            {"venue": venue, "symbol": symbol, "timeframe": timeframe, "open_time": at, "recorded_at": recorded_at,
             **dict(zip(COLUMNS, values, strict=True))}
            for symbol, at, values in rows if (symbol, at) not in known
        ]  # fmt: skip
        if not unknown:
            return 0
        return connection.execute(
            self._insert(Candle).on_conflict_do_nothing(), unknown, execution_options={"preserve_rowcount": True}
        ).rowcount

    def _between(self, connection: Connection, venue: str, timeframe: str, rows: list[Row]) -> Known:
        """Return the bars already stored in the time and of the symbols of `rows`."""
        times = [at for _, at, _ in rows]
        symbols = {symbol for symbol, *_ in rows}
        query = select(Candle.symbol, Candle.open_time, *VALUES).where(
            Candle.venue == venue, Candle.symbol.in_(symbols), Candle.timeframe == timeframe,
            Candle.open_time.between(min(times), max(times)),
        )  # fmt: skip
        return {(symbol, at): values for symbol, at, *values in connection.execute(query)}

    def _open_ms(self) -> ColumnElement[Any]:
        """Select the open time in the form that numpy reads fastest: text on SQLite, milliseconds on PostgreSQL."""
        if self.is_postgres:
            return (func.extract("epoch", Candle.open_time) * 1000).cast(Candle.open.type)
        return type_coerce(Candle.open_time, Text)

    def _frame(self, rows: Any) -> pd.DataFrame:
        return self._columns(*(zip(*rows, strict=True) if rows else ((),) * (1 + len(COLUMNS))))

    def _columns(self, times: Sequence[Any], *values: Sequence[float]) -> pd.DataFrame:
        if self.is_postgres:
            open_ms = np.array(times, dtype=float).astype("int64")
        else:
            open_ms = np.array(times, dtype="datetime64[ms]").astype("int64")
        return bar_frame(open_ms, {name: np.array(v, dtype=float) for name, v in zip(COLUMNS, values, strict=True)})


def _series(venue: str, symbol: str, timeframe: str) -> ColumnElement[bool]:
    return and_(Candle.venue == venue, Candle.symbol == symbol, Candle.timeframe == timeframe)


def _rows(series: Series, bars: pd.DataFrame) -> Iterator[Row]:
    check_frame(bars)
    values = bars[list(COLUMNS)].to_numpy(dtype=float)
    if np.isnan(values).any():
        raise DataError(f"{' '.join(series)}: bars with missing values cannot be saved; drop or repair them")
    symbol, _ = series
    yield from zip(repeat(symbol), pd.DatetimeIndex(bars.index).to_pydatetime(), values.tolist())


def _revise(
    connection: Connection, venue: str, timeframe: str, rows: list[Row], known: Known, recorded_at: datetime
) -> Counter[Series]:
    """Keep beside the first values those of `rows` that differ from them and from their last revision."""
    count = Counter[Series]()
    for symbol, at, values in rows:
        if known.get((symbol, at), values) == values:
            continue
        here = and_(_series(venue, symbol, timeframe), Candle.open_time == at)
        revisions = connection.scalar(select(Candle.revisions).where(here)) or []
        later = dict(zip(COLUMNS, values, strict=True))
        if revisions and {name: revisions[-1][name] for name in COLUMNS} == later:
            continue
        revisions = [*revisions, {**later, "recorded_at": recorded_at.isoformat()}]
        connection.execute(update(Candle).where(here).values(revisions=bindparam("kept")), {"kept": revisions})
        count[symbol, timeframe] += 1
    return count
