"""Candles come in incrementally, late ones fill gaps, and a revised one keeps its first values."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from sandbox_server import advance, running_sandbox, state

from flows.ingest import ingest
from tasks import fetch
from tasks.connections import store, venue
from tasks.core.errors import VenueError
from tasks.settings import settings
from tests.closing import close_stores

SYMBOL = "BTC/USDT:USDT"
VENUE = "bybit-sandbox"
START = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)

pytestmark = pytest.mark.slow


@pytest.fixture
def exchange(home: Path, monkeypatch: pytest.MonkeyPatch):
    with running_sandbox(symbols=(SYMBOL,), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", SYMBOL)
        settings.cache_clear()
        yield url


async def fetched(as_of: datetime) -> None:
    try:
        assert await fetch.fetch_candles.fn((SYMBOL,), as_of) == []
    finally:
        await venue().close()


def five(as_of: datetime):
    return store().candles.load(VENUE, SYMBOL, "5m", as_of, 1000)


async def test_a_second_fetch_asks_only_for_what_closed_since(home, exchange):
    await fetched(START)
    assert len(five(START)) == 1000
    asked = state(exchange)["requests"]["/v5/market/kline"]
    await fetched(START)
    assert state(exchange)["requests"]["/v5/market/kline"] == asked
    advance(exchange, 300)
    await fetched(START + timedelta(minutes=5))
    assert five(START + timedelta(minutes=5)).index[-1].to_pydatetime() == START
    assert state(exchange)["requests"]["/v5/market/kline"] == asked + 1


async def test_ingest_keeps_the_venues_instrument_beside_the_candles(home, exchange):
    assert store().instruments.get(VENUE, SYMBOL) is None
    result = await ingest.fn(SYMBOL, "5m", START - timedelta(hours=1))
    assert result["new"] == 12
    kept = store().instruments.get(VENUE, SYMBOL)
    assert kept == await venue().instrument(SYMBOL)
    assert (kept.tick, kept.shorting, kept.max_leverage) == (Decimal("0.1"), True, 100)
    await venue().close()


async def test_a_bar_that_came_late_fills_its_gap(home, exchange):
    await fetched(START)
    whole = five(START)
    with_gap = whole.drop(whole.index[-40:-37])
    store().close()
    (home / "quarterdeck.db").unlink()
    for leftover in home.glob("quarterdeck.db-*"):
        leftover.unlink()

    close_stores()
    store().candles.save(VENUE, {(SYMBOL, "5m"): with_gap}, START)
    advance(exchange, 300)
    await fetched(START + timedelta(minutes=5))
    assert five(START).equals(whole)


async def test_a_revised_bar_keeps_its_first_values(home, exchange):
    await fetched(START)
    first = five(START)
    changed = first.iloc[[-1]] * 1.01
    assert store().candles.save(VENUE, {(SYMBOL, "5m"): changed}, START)[1].total() == 1
    assert five(START).equals(first)


async def test_the_last_1m_bars_come_for_a_question_alone_and_what_lacks_them_goes_on(home, exchange, monkeypatch):
    await fetched(START)
    assert store().candles.load(VENUE, SYMBOL, "1m", START, 1000).empty
    minutes = await fetch.fetch_minutes.fn((SYMBOL,), START)
    assert (len(minutes[SYMBOL]), minutes[SYMBOL].index[-1].to_pydatetime()) == (300, START - timedelta(minutes=1))
    later = START + timedelta(minutes=20)
    advance(exchange, 1200)
    again = (await fetch.fetch_minutes.fn((SYMBOL,), later))[SYMBOL]
    assert (len(again), again.index[-1].to_pydatetime()) == (300, later - timedelta(minutes=1))

    async def refuse(*_: object) -> None:
        raise VenueError("no such timeframe")

    await venue().close()
    monkeypatch.setattr(fetch, "venue", lambda: SimpleNamespace(name=VENUE, fetch_bars=refuse))
    assert len((await fetch.fetch_minutes.fn((SYMBOL,), later))[SYMBOL]) == 300  # what is kept
    assert (await fetch.fetch_minutes.fn(("ETH/USDT:USDT",), later))["ETH/USDT:USDT"].empty
