"""Closed bars: saved once, read fast.

A venue sometimes changes a bar after its close. What was decided on is the first version, so that one stays; the
later ones are kept beside it.
"""

from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import ColumnElement, Connection, Text, and_, bindparam, func, select, type_coerce, update

from tasks.adapters.store_database import Database
from tasks.adapters.store_models import Candle
from tasks.core.errors import DataError
from tasks.core.market.bars import bar_frame, check_frame
from tasks.core.types.bars import COLUMNS, duration
from tasks.core.types.base import Dto

VALUES = [getattr(Candle, name) for name in COLUMNS]
BATCH = 20_000


class SavedBars(Dto):
    """How many bars were new, and how many known ones came with values not seen before."""

    new: int
    revised: int


class CandleStore(Database):
    """Candles by (venue, symbol, timeframe)."""

    def save_bars(
        self, venue: str, symbol: str, timeframe: str, frame: pd.DataFrame, recorded_at: datetime
    ) -> SavedBars:
        """Save closed bars; known ones keep their first values. Raises DataError if `frame` is no bar frame."""
        check_frame(frame)
        if frame[list(COLUMNS)].isna().to_numpy().any():
            raise DataError(f"{symbol} {timeframe}: bars with missing values cannot be saved; drop or repair them")
        key = {"venue": venue, "symbol": symbol, "timeframe": timeframe}
        new = revised = 0
        for start in range(0, len(frame), BATCH):
            part = frame.iloc[start : start + BATCH]
            with self._writing() as connection:
                known = self._between(connection, key, part.index[0], part.index[-1])
                new += self._add(connection, key, part.loc[~part.index.isin(known.index)], recorded_at)
                revised += _revise(connection, key, part, known, recorded_at)
        return SavedBars(new=new, revised=revised)

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

    def _add(self, connection: Connection, key: dict[str, str], bars: pd.DataFrame, recorded_at: datetime) -> int:
        if bars.empty:
            return 0
        rows = [
            {**key, "open_time": at, **dict(zip(COLUMNS, values, strict=True)), "recorded_at": recorded_at}
            for at, values in _rows(bars)
        ]
        return connection.execute(
            self._insert(Candle).on_conflict_do_nothing(), rows, execution_options={"preserve_rowcount": True}
        ).rowcount

    def _between(self, connection: Connection, key: dict[str, str], first: datetime, last: datetime) -> pd.DataFrame:
        query = (
            select(self._open_ms(), *VALUES)
            .where(_series(**key), Candle.open_time.between(first, last))
            .order_by(Candle.open_time)
        )
        return self._frame(connection.execute(query).all())

    def _open_ms(self) -> ColumnElement[Any]:
        """Select the open time in the form that numpy reads fastest: text on SQLite, milliseconds on PostgreSQL."""
        if self.is_postgres:
            return (func.extract("epoch", Candle.open_time) * 1000).cast(Candle.open.type)
        return type_coerce(Candle.open_time, Text)

    def _frame(self, rows: Any) -> pd.DataFrame:
        times, *values = zip(*rows, strict=True) if rows else ((), *((),) * len(COLUMNS))
        if self.is_postgres:
            open_ms = np.array(times, dtype=float).astype("int64")
        else:
            open_ms = np.array(times, dtype="datetime64[ms]").astype("int64")
        return bar_frame(open_ms, {name: np.array(v, dtype=float) for name, v in zip(COLUMNS, values, strict=True)})


def _series(venue: str, symbol: str, timeframe: str) -> ColumnElement[bool]:
    return and_(Candle.venue == venue, Candle.symbol == symbol, Candle.timeframe == timeframe)


def _rows(bars: pd.DataFrame) -> list[tuple[datetime, list[float]]]:
    return list(zip(pd.DatetimeIndex(bars.index).to_pydatetime(), bars[list(COLUMNS)].to_numpy().tolist(), strict=True))


def _revise(
    connection: Connection, key: dict[str, str], bars: pd.DataFrame, known: pd.DataFrame, recorded_at: datetime
) -> int:
    """Keep beside the first values those of `bars` that differ from them and from their last revision."""
    again = bars.loc[bars.index.isin(known.index), list(COLUMNS)]
    changed = again.loc[(again.to_numpy() != known.loc[again.index].to_numpy()).any(axis=1)]
    count = 0
    for at, values in _rows(changed):
        here = and_(_series(**key), Candle.open_time == at)
        revisions = connection.scalar(select(Candle.revisions).where(here)) or []
        later = dict(zip(COLUMNS, values, strict=True))
        if revisions and {name: revisions[-1][name] for name in COLUMNS} == later:
            continue
        revisions = [*revisions, {**later, "recorded_at": recorded_at.isoformat()}]
        connection.execute(update(Candle).where(here).values(revisions=bindparam("kept")), {"kept": revisions})
        count += 1
    return count
