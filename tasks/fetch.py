"""Fetch what the venue knows: its clock, closed candles, books, and our account there."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import pandas as pd

from tasks import alerts, clock, connections
from tasks.connections import answered, log, store, venue
from tasks.core.market import orderbook
from tasks.core.market.bars import MINUTES, WORKING_TIMEFRAMES, segments
from tasks.core.types import (
    Alert,
    AlertKind,
    Balance,
    DataError,
    DataFailure,
    InputError,
    News,
    OrderBookView,
    Strategy,
    Texts,
    TradingError,
    VenueError,
    VenueUnavailable,
    duration,
    floor_time,
)
from tasks.settings import settings
from tasks.stage import is_tried_again, stage

PAUSES = (0.5, 2.0)  # seconds before a failed fetch is tried again
REPAIRED = 300  # newest stored bars in which a gap is asked for again
MOST_SKEW = timedelta(minutes=1)
KEPT_AT_ONCE = 50  # symbols whose bars are saved together
Due = dict[tuple[str, str], datetime]  # by symbol and timeframe, from when on
PARALLEL = 8  # requests under way at once; ccxt's own limiter keeps the venue's rate


@stage(retries=3, retry_delay_seconds=[1, 3, 10])
async def venue_now() -> datetime:
    """Return the venue's clock: cycles take it, never the wall's; raises VenueError for one that is not of our time."""
    theirs, ours, s = await venue().now(), clock.now(), settings()
    replays = s.profile == "sandbox" or s.venue_url  # a server on this machine may be at any time
    if not replays and abs(theirs - ours) > MOST_SKEW:
        text = f"the venue says it is {theirs:%Y-%m-%d %H:%M:%S}, we {ours:%Y-%m-%d %H:%M:%S} UTC: nothing is decided"
        alerts.tell([Alert(kind=AlertKind.CLOCK, key=venue().name, text=text)])
        raise VenueError(f"{text}; set this machine's clock (NTP), or wait for the venue's")
    return theirs


@stage
async def fetch_candles(symbols: Texts, as_of: datetime) -> list[DataFailure]:
    """Bring the store's candles up to as_of: only bars that closed since.

    Returns what could not be fetched: those symbols are quarantined, the others go on.
    """
    failures, new = [], 0
    for first in range(0, len(symbols), KEPT_AT_ONCE):
        count, failed = await _fetched(_due(symbols[first : first + KEPT_AT_ONCE], as_of), as_of, PAUSES)
        failures, new = failures + failed, new + count
    log().info("fetch as_of=%s symbols=%d new_bars=%d failures=%d", as_of.isoformat(), len(symbols), new, len(failures))
    return failures


def _due(symbols: Texts, as_of: datetime) -> Due:
    """Return from where on each series lacks what has closed.

    The newest two bars are asked for again, and everything from the first recent gap on: a bar that comes late is
    kept, one that comes back different is kept with its first values and flagged.
    """
    due: Due = {}
    for timeframe in WORKING_TIMEFRAMES:
        step = duration(timeframe)
        for symbol, bars in store().candles.load_frames(venue().name, symbols, timeframe, as_of, REPAIRED).items():
            since = _since(bars, timeframe)
            if since is None:
                due[symbol, timeframe] = floor_time(as_of, timeframe) - step * settings().history_bars
            elif since + 3 * step <= as_of:
                due[symbol, timeframe] = since
    return due


async def _fetched(due: Due, as_of: datetime, pauses: Sequence[float] = ()) -> tuple[int, list[DataFailure]]:
    """Fetch and keep what is due, and say of what that failed; returns how many bars are new."""
    gate = asyncio.Semaphore(PARALLEL)

    async def one(symbol: str, timeframe: str, since: datetime) -> pd.DataFrame | DataFailure:
        what, trouble = f"fetch symbol={symbol} timeframe={timeframe}", (VenueError, DataError, InputError)
        async with gate:
            try:
                return await answered(lambda: _fetch(symbol, timeframe, since, as_of), what, pauses, trouble)
            except trouble as e:
                log().warning("%s error=%s", what, e)
                rows = (str(e)[:200],)
                return DataFailure(symbol=symbol, timeframe=timeframe, expectation="fetched", count=1, rows=rows)

    results = await asyncio.gather(*(one(*series, since) for series, since in due.items()))
    bars = {series: each for series, each in zip(due, results, strict=True) if isinstance(each, pd.DataFrame)}
    new, revised = store().candles.save(venue().name, bars, clock.now())
    for (symbol, timeframe), count in revised.items():
        log().warning("fetch symbol=%s timeframe=%s revised=%d: first values kept", symbol, timeframe, count)
    return new, [each for each in results if isinstance(each, DataFailure)]


async def _fetch(symbol: str, timeframe: str, since: datetime, as_of: datetime) -> pd.DataFrame:
    """Fetch closed bars; the venue may need a moment after a close to serve the newest."""
    client, step = venue(), duration(timeframe)
    bars = await client.fetch_bars(symbol, timeframe, since, as_of)
    if timeframe == "5m" and (bars.empty or bars.index[-1] + step < floor_time(as_of, timeframe)):
        await asyncio.sleep(1)
        bars = await client.fetch_bars(symbol, timeframe, since, as_of)
    return bars


@stage
async def fetch_minutes(symbols: Texts, as_of: datetime) -> dict[str, pd.DataFrame]:
    """Fetch, keep and return the last 1m bars of symbols that a question is asked about; none where there are none.

    They are context: what cannot be fetched is left out.
    """
    await _fetched({(symbol, "1m"): as_of - MINUTES * duration("1m") for symbol in symbols}, as_of)
    return store().candles.load_frames(venue().name, symbols, "1m", as_of, MINUTES)


def _since(bars: pd.DataFrame, timeframe: str) -> datetime | None:
    """Return from where on to ask: the last but one stored bar, or the bar before the first recent gap."""
    if bars.empty:
        return None
    first, *gaps = [bars.index[part.stop - 1] for part in segments(bars.index, timeframe)]
    before_gap = first if gaps else bars.index[max(0, len(bars) - 2)]
    return before_gap.to_pydatetime()


@stage
async def fetch_balance() -> Balance:
    """Fetch what our account is worth."""
    return await venue().balance()


@stage
async def fetch_strategy(decider: str = "") -> Strategy:
    """Put together the strategy in force, with its instruments as the venue has them, and keep it under its hash.

    A symbol for which the venue has none is left out: its cycles fail, the others go on.
    """
    names, client = settings().symbols, venue()
    answers = await asyncio.gather(*map(client.instrument, names), return_exceptions=True)
    instruments = {}
    for symbol, instrument in zip(names, answers, strict=True):
        if isinstance(instrument, TradingError) and not isinstance(instrument, VenueUnavailable):
            log().error("instrument symbol=%s unknown: %s", symbol, instrument)
        elif isinstance(instrument, BaseException):
            raise instrument
        else:
            instruments[symbol] = instrument
    strategy = connections.strategy(decider or settings().decider_name, instruments)
    store().strategies.keep(strategy)
    return strategy


@stage
async def fetch_book(symbol: str, notional: Decimal) -> OrderBookView:
    """Read the order book for an order of `notional` quote; unknown if the venue does not answer."""
    try:
        book = await venue().fetch_book(symbol)
    except VenueUnavailable as e:
        if is_tried_again(e):
            raise
        log().warning("book symbol=%s unknown error=%s", symbol, e)
        return OrderBookView()
    return orderbook.view(book.bids, book.asks, notional)


@stage
async def fetch_headlines() -> News | None:
    """Fetch the configured feeds, for the deciders that read them; None where none are configured."""
    s = settings()
    if not s.news_feeds and not s.fear_greed_url:
        return None
    from tasks.adapters.news import fetch_news

    return await fetch_news(s.news_feeds, s.fear_greed_url)
