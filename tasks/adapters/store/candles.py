"""Closed bars: saved once, read fast; and what a venue lets one trade on a symbol, as `ingest` last read it.

A venue sometimes changes a bar after its close. What was decided on is the first version, so that one stays; the
later ones are kept beside it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, extract, select, update

from tasks.adapters.store import CandleRow, InstrumentRow, Repository
from tasks.core.types import COLUMNS, DataError, Instrument, duration, floor_time

if TYPE_CHECKING:  # the supervisor and most commands read no bars, and pandas weighs as much as they do
    import numpy as np
    import pandas as pd

VALUES = [getattr(CandleRow, name) for name in COLUMNS]
OPEN_S = extract("epoch", CandleRow.open_time)
BATCH = 20_000
Series = tuple[str, str]  # symbol, timeframe
Row = tuple[str, datetime, list[float]]  # symbol, open time, values


class CandleRepository(Repository):
    """Candles by (venue, symbol, timeframe)."""

    def save(
        self, venue: str, frames: Mapping[Series, "pd.DataFrame"], recorded_at: datetime
    ) -> tuple[int, Counter[Series]]:
        """Save closed bars, `BATCH` of a timeframe at once; known ones keep their first values.

        Raises DataError if a frame is no bar frame. Returns how many bars were new in all, and how many of each series
        came with values not seen before.
        """
        new, revised = 0, Counter[Series]()
        for timeframe in sorted({timeframe for _, timeframe in frames}):
            # one order for all writers, or two could deadlock
            rows = [row for series in sorted(frames) if series[1] == timeframe for row in _rows(series, frames[series])]
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                bars = [
                    {"venue": venue, "symbol": symbol, "timeframe": timeframe, "open_time": at,
                     "recorded_at": recorded_at, **dict(zip(COLUMNS, values, strict=True))}
                    for symbol, at, values in part
                ]  # fmt: skip
                with self.database.writing() as connection:
                    new += connection.execute(
                        self.insert(CandleRow), bars, execution_options={"preserve_rowcount": True}
                    ).rowcount
                    revised += _revise(connection, venue, timeframe, part, recorded_at)
        return new, revised

    def load(self, venue: str, symbol: str, timeframe: str, until: datetime, limit: int) -> "pd.DataFrame":
        """Return the last `limit` bars that had closed at `until`, ascending."""
        query = _series(venue, symbol, timeframe).where(CandleRow.open_time <= until - duration(timeframe))
        return _frame(self.rows(query.order_by(CandleRow.open_time.desc()).limit(limit))[::-1])

    def load_frames(
        self, venue: str, symbols: Sequence[str], timeframe: str, until: datetime, limit: int
    ) -> "dict[str, pd.DataFrame]":
        """Return by symbol what `load` does; all that have no gap in one query."""
        begin = floor_time(until, timeframe) - limit * duration(timeframe)
        query = select(CandleRow.symbol, OPEN_S, *VALUES).filter_by(venue=venue, timeframe=timeframe)
        bars = (CandleRow.symbol.in_(symbols), CandleRow.open_time.between(begin, until - duration(timeframe)))
        rows = self.rows(query.where(*bars).order_by(CandleRow.symbol, CandleRow.open_time))
        found = {symbol: [row[1:] for row in mine] for symbol, mine in groupby(rows, itemgetter(0))}
        whole = {symbol: _frame(mine) for symbol, mine in found.items() if len(mine) == limit}
        short = (symbol for symbol in symbols if symbol not in whole)  # a gap, or a history that is no longer
        return whole | {symbol: self.load(venue, symbol, timeframe, until, limit) for symbol in short}

    def history(self, venue: str, symbol: str, timeframe: str) -> "tuple[pd.DataFrame, np.ndarray]":
        """Return every bar, ascending, and when each was stored, in seconds since 1970."""
        import numpy as np

        query = _series(venue, symbol, timeframe).add_columns(CandleRow.recorded_at)
        rows = self.rows(query.order_by(CandleRow.open_time))
        return _frame([row[:-1] for row in rows]), np.array([row[-1].timestamp() for row in rows])


def _series(venue: str, symbol: str, timeframe: str) -> Select[Any]:
    return select(OPEN_S, *VALUES).filter_by(venue=venue, symbol=symbol, timeframe=timeframe)


def _frame(rows: Sequence[Sequence[Any]]) -> "pd.DataFrame":
    """Build a bar frame of rows of an open time in seconds and the values."""
    import numpy as np

    from tasks.core.market.bars import bar_frame

    open_s, *values = np.array([tuple(row) for row in rows], dtype=float).reshape(-1, 1 + len(COLUMNS)).T
    return bar_frame(open_s * 1000, dict(zip(COLUMNS, values, strict=True)))


def _rows(series: Series, bars: "pd.DataFrame") -> Iterator[Row]:
    import numpy as np
    import pandas as pd

    from tasks.core.market.bars import check_frame

    check_frame(bars)
    values = bars[list(COLUMNS)].to_numpy(dtype=float)
    if np.isnan(values).any():
        raise DataError(f"{' '.join(series)}: bars with missing values cannot be saved; drop or repair them")
    symbol, _ = series
    yield from zip(repeat(symbol), pd.DatetimeIndex(bars.index).to_pydatetime(), values.tolist())


def _revise(
    connection: Connection, venue: str, timeframe: str, rows: Sequence[Row], recorded_at: datetime
) -> Counter[Series]:
    """Keep beside the first values those of `rows` that differ from them and from their last revision."""
    came, count = {(symbol, at): values for symbol, at, values in rows}, Counter[Series]()
    symbols, times = zip(*came, strict=True)
    query = select(CandleRow.symbol, CandleRow.open_time, CandleRow.revisions, *VALUES)
    query = query.filter_by(venue=venue, timeframe=timeframe).where(CandleRow.symbol.in_(set(symbols)))
    query = query.where(CandleRow.open_time.between(min(times), max(times)))
    for symbol, at, revisions, *first in connection.execute(query).all():
        values, earlier = came.get((symbol, at), first), revisions or []
        if values in (first, *([last[name] for name in COLUMNS] for last in earlier[-1:])):
            continue
        later = {**dict(zip(COLUMNS, values, strict=True)), "recorded_at": recorded_at.isoformat()}
        bar = update(CandleRow).filter_by(venue=venue, symbol=symbol, timeframe=timeframe, open_time=at)
        connection.execute(bar.values(revisions=[*earlier, later]))
        count[symbol, timeframe] += 1
    return count


class InstrumentRepository(Repository):
    """Instruments by venue and symbol."""

    def save(self, venue: str, instrument: Instrument) -> None:
        """Keep what the venue says of a symbol now, in place of what it said before."""
        row = {"venue": venue, "symbol": instrument.symbol, "document": instrument.model_dump(mode="json")}
        self.put(InstrumentRow, row)

    def get(self, venue: str, symbol: str) -> Instrument | None:
        """Return what the venue last said of a symbol; None if it was never asked."""
        query = select(InstrumentRow.document).filter_by(venue=venue, symbol=symbol)
        return self.first(Instrument, query)
