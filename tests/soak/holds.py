"""What must hold at the end: every close once, candles without a gap, nothing left undone."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from tasks.connections import store
from tasks.core.trading.orders import cycle_id
from tasks.core.types.bars import duration, floor_time
from tasks.core.types.record import CycleRecord, CycleStatus
from tasks.settings import settings
from tests.soak.draws import BAR

VENUE = "bybit-sandbox"
TIMEFRAMES = ("5m", "15m", "1h", "4h")
EVERYTHING = 10**7


@dataclass
class Closes:
    """What became of the closes of all symbols."""

    due: int = 0
    statuses: Counter[str] = field(default_factory=Counter)  # of the 15m closes
    between: Counter[str] = field(default_factory=Counter)  # of the 5m closes where an event asked
    actions: Counter[str] = field(default_factory=Counter)  # of what was decided, by decider and action
    candles: int = 0


def look(first: datetime, last: datetime, down: set[datetime], found: Closes) -> Iterator[str]:
    """Count what became of each close from first to last, and name what must not be.

    down: the closes at which nothing ran on purpose: a MISSED record is right there and nowhere else.
    """
    due = [first + n * BAR for n in range(int((last - first) / BAR) + 1)]
    for symbol in settings().symbols:
        records = store().cycles.newest(settings().strategy, symbol, limit=EVERYTHING)
        by_close = {record.as_of: record for record in records}
        if len(by_close) != len(records):
            yield f"doubled: {symbol} has {len(records)} cycles at {len(by_close)} closes"
        yield from (f"{symbol} {said}" for record in records for said in _wrong_with(record, down))
        yield from (f"missed: {symbol} {close} has no record" for close in due if close not in by_close)
        found.due += len(due)
        for close, record in by_close.items():
            (found.statuses if close in due else found.between)[record.status.value] += 1
            if record.decided is not None:
                found.actions[f"{record.decided.decision.source.split(':')[0]} {record.decided.decision.action}"] += 1
        yield from _gaps(symbol, first, last, found)


def _wrong_with(record: CycleRecord, down: set[datetime]) -> Iterator[str]:
    if record.cycle_id != cycle_id(record.strategy, record.symbol, record.as_of):
        yield f"doubled: {record.as_of} has the id {record.cycle_id}"
    if record.status is CycleStatus.STARTED:
        yield f"undone: {record.as_of} never ended"
    if (record.status is CycleStatus.MISSED) != (record.as_of in down):
        yield f"missed: {record.as_of} is {record.status} {record.error}"


def _gaps(symbol: str, first: datetime, last: datetime, found: Closes) -> Iterator[str]:
    """Every bar that opened and closed meanwhile is there, once by the table's key."""
    for timeframe in TIMEFRAMES:
        bars, _ = store().candles.history(VENUE, symbol, timeframe)
        step = duration(timeframe)
        opened, at = set(bars.index), floor_time(first, timeframe)
        while at + step <= last:
            found.candles += 1
            if at not in opened:
                yield f"missed: {symbol} has no {timeframe} bar of {at}"
            at += step
