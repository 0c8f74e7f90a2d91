"""Market data of any venue through ccxt's unified calls: the clock, instruments, closed bars, the book."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from tasks import clock
from tasks.adapters.venue.client import EXCHANGES, reading, understood
from tasks.adapters.venue.wire import Row, at, contract_size, exact, figure, ms, number, told
from tasks.core.market.bars import bar_frame
from tasks.core.market.instruments import LEVERAGE
from tasks.core.ports import OrderBook
from tasks.core.trading.ledger import is_valued, money_of
from tasks.core.types import (
    COLUMNS,
    ONE,
    SECONDS,
    VASTEST,
    DataError,
    Fill,
    InputError,
    Instrument,
    TradingError,
    duration,
    floor_time,
)

BARS_PER_PAGE = 1000
SHORT = 100  # bars: where a venue gives as many, but fewer than asked for, the rest may lie before them or after
MARKETS_KEPT_S = 3600.0


class MarketData:
    """The public half of `ports.Venue` over a ccxt client; see that Protocol for what each method promises."""

    def __init__(self, client: Any, name: str) -> None:
        self.name = name
        self.client = client
        self._markets_at = float("-inf")
        self.check_key: Callable[[], Awaitable[None]] | None = None  # before anything is asked for a live account
        self._clock: datetime | None = None
        self._prices: dict[tuple[str, int], Decimal] = {}  # of a coin that fees are paid in, by pair and minute

    def has_timeframe(self, timeframe: str) -> bool:
        return timeframe in (self.client.timeframes or ())

    async def now(self) -> datetime:
        """Return the venue's clock; ours, where it has none to ask."""
        with reading(self.client, "the venue's clock"):
            asked = self.client.has.get("fetchTime")
            self._clock = at(await self.client.fetch_time()) if asked else clock.now()
        return self._clock

    async def instrument(self, symbol: str) -> Instrument:
        """Return what may be traded, in base; raises InputError for an unknown symbol, an inverse one and an option."""
        from ccxt.base.decimal_to_precision import TICK_SIZE

        market = await self._offered(symbol)
        if not (market["spot"] or market["linear"]) or market["option"]:
            raise InputError(f"{symbol} is neither spot nor a linear contract")
        with understood(f"instrument {symbol}", DataError):
            in_steps = self.client.precisionMode == TICK_SIZE
            return instrument_of(market, None if in_steps else (await self.fetch_book(symbol)).bids[0][0])

    async def fetch_bars(self, symbol: str, timeframe: str, since: datetime, until: datetime) -> pd.DataFrame:
        """Return closed bars by the venue's clock; empty if there are none. Raises DataError for garbled ones."""
        market = await self._offered(symbol, "fetchOHLCV")
        if timeframe not in SECONDS or not self.has_timeframe(timeframe):
            offered = ", ".join(self.client.timeframes or ()) or "none"
            raise InputError(f"timeframe {timeframe!r}: {self.client.id} has {offered}")
        clock = self._clock if self._clock and until <= self._clock else await self.now()
        last = ms(min(until, clock) - duration(timeframe))
        rows: dict[int, list[object]] = {}
        page = min(BARS_PER_PAGE, self.client.feature_value(symbol, "fetchOHLCV", "limit") or BARS_PER_PAGE)
        step = SECONDS[timeframe] * 1000
        for start in range(ms(since), last + 1, page * step):
            rows |= await self._bars_page(symbol, timeframe, start, min(start + page * step, last + step) - 1, page)
        ordered = sorted(t for t in rows if t <= last)
        values = np.array([rows[t] for t in ordered], dtype=float).reshape(len(ordered), len(COLUMNS))
        if EXCHANGES["bars_count"].get(self.client.id) == "contracts":
            values[:, -1] *= float(contract_size(market))
        return bar_frame(np.array(ordered, dtype="int64"), dict(zip(COLUMNS, values.T, strict=True)))

    async def _bars_page(self, symbol: str, timeframe: str, start: int, end: int, n: int) -> dict[int, list[object]]:
        with reading(self.client, f"{symbol} {timeframe} bars"):
            # until just before the next bar opens: some venues take the end itself in, some do not
            page = await self.client.fetch_ohlcv(symbol, timeframe, start, n, {"until": end})
            rows = {int(row[0]): list(row[1:6]) for row in page}
            for open_time, row in rows.items():
                if len(row) != len(COLUMNS) or not all(x is not None and abs(float(x)) <= VASTEST for x in row):
                    raise ValueError(f"the bar of {at(open_time):%Y-%m-%dT%H:%MZ} is {row}")
        told, step = {t: row for t, row in rows.items() if start <= t <= end}, SECONDS[timeframe] * 1000
        if told and SHORT <= len(page) < n:
            for first, last in ((start, min(told) - 1), (max(told) + step, end)):
                if last - first >= step:
                    told |= await self._bars_page(symbol, timeframe, first, last, n)
        return told

    async def valued(self, fill: Fill) -> Fill:
        """Return a fill with its fee in quote: one in a third coin at the coin's price as that minute began.

        Where the venue lists no such pair, or does not tell now, the fill stays as it is.
        """
        pair, minute = f"{fill.fee_currency}/{money_of(fill.symbol)[1]}", ms(floor_time(fill.at, "1m"))
        if is_valued(fill) or pair not in self.client.markets:
            return fill
        if (pair, minute) not in self._prices:
            with suppress(TradingError):
                for row in (await self._bars_page(pair, "1m", minute, minute + 59_999, 1)).values():
                    self._prices[pair, minute] = exact(row[0])
        price = self._prices.get((pair, minute))
        return fill.replace(fee=fill.fee * price, fee_currency=pair.partition("/")[2]) if price else fill

    async def fetch_book(self, symbol: str) -> OrderBook:
        unit = contract_size(await self._offered(symbol, "fetchOrderBook"))
        with reading(self.client, f"{symbol} book"):
            raw = await self.client.fetch_order_book(symbol, EXCHANGES["book_levels"].get(self.client.id, 50))
            bids, asks = ([(exact(p), exact(q) * unit) for p, q, *_ in raw[side]] for side in ("bids", "asks"))
            return OrderBook(bids, asks)

    async def fetch_trades(self, symbol: str, limit: int) -> list[tuple[datetime, str, float, float]]:
        """Return the last public trades, newest first: time, side of the taker, price, base."""
        unit = float(contract_size(await self._offered(symbol, "fetchTrades")))
        with reading(self.client, f"{symbol} trades"):
            raw = await self.client.fetch_trades(symbol, limit=limit)
            rows = [(at(t["timestamp"]), str(t["side"]), figure(t, "price"), figure(t, "amount") * unit) for t in raw]
        return sorted(rows, key=lambda row: row[0], reverse=True)[:limit]

    async def fetch_funding(self, symbol: str, limit: int) -> list[tuple[datetime, float]]:
        """Return funding rates with the time each is paid, newest first: the coming one, then past ones."""
        if (await self._offered(symbol, "fetchFundingRate", "fetchFundingRateHistory"))["spot"]:
            raise InputError(f"{symbol} is spot: it has no funding")
        with reading(self.client, f"{symbol} funding"):
            coming = await self.client.fetch_funding_rate(symbol)
            past = await self.client.fetch_funding_rate_history(symbol, limit=limit)
            rows = [(at(row["timestamp"]), figure(row, "fundingRate")) for row in past]
            rows.append((at(coming["fundingTimestamp"]), figure(coming, "fundingRate")))
        return sorted(rows, reverse=True)[:limit]

    async def funding_paid(
        self, symbols: Sequence[str], since: datetime, end: datetime
    ) -> list[tuple[datetime, str, Decimal]]:
        """Return the rates paid with since <= time < end, oldest first; none where the venue does not tell."""
        hour = duration("1h")
        first = floor_time(since + hour - timedelta(microseconds=1), "1h")
        if first >= end:
            return []
        found: list[tuple[datetime, str, Decimal]] = []
        for symbol in symbols:
            try:
                rates = await self.fetch_funding(symbol, min(200, int((end - since) / hour) + 2))
            except InputError:
                continue  # a spot market, or a venue without them
            found += [(paid, symbol, exact(rate)) for paid, rate in rates if since <= paid < end]
        return sorted(found)

    async def close(self) -> None:
        await self.client.close()

    async def ready(self) -> None:
        """Load the markets, and again after an hour: steps change. On live, also check once whose key this is."""
        if clock.monotonic() - self._markets_at > MARKETS_KEPT_S:
            with reading(self.client, "the list of markets"):
                await self.client.load_markets(self._markets_at > float("-inf"))
            self._markets_at = clock.monotonic()
        if self.check_key:
            await self.check_key()

    async def _offered(self, symbol: str, *capabilities: str) -> Row:
        """Return the market; raises InputError for what the venue does not have, or counts in units we cannot tell."""
        for name in capabilities:
            if not self.client.has.get(name):
                raise InputError(f"{self.client.id} has no {name} in ccxt: choose another QUARTERDECK_VENUE")
        market = await self.listing(symbol)
        if (unit := contract_size(market)) != ONE and self.client.id not in EXCHANGES["bars_count"]:
            raise InputError(
                f"{symbol} comes in contracts of {unit} at {self.client.id}, and whether its books and candles count "
                "these or coins is not known here: choose another QUARTERDECK_VENUE"
            )
        return market

    async def listing(self, symbol: str) -> Row:
        await self.ready()
        markets: Mapping[str, Row] = self.client.markets
        if symbol not in markets:
            if ":" in symbol and not any(market["contract"] for market in markets.values()):
                raise InputError(
                    f"{self.client.id} lists no contracts, so no {symbol}: set QUARTERDECK_SYMBOLS to spot such as "
                    f"{symbol.partition(':')[0]}, or choose another QUARTERDECK_VENUE"
                )
            near = ", ".join(get_close_matches(symbol.upper(), markets, n=3, cutoff=0.5)) or "nothing"
            raise InputError(f"unknown symbol {symbol!r} at {self.name}; near it: {near}")
        return markets[symbol]


def instrument_of(market: Row, price: Decimal | None = None) -> Instrument:
    """Read a ccxt market, its contracts as base. price: of now, where the venue tells digits in place of steps."""
    tick, step = (number(market["precision"], name) for name in ("price", "amount"))
    if price is not None:  # a price's significant digits, and a quantity's decimals
        tick, step = (ONE.scaleb(int(-digits)) for digits in (tick - 1 - price.adjusted(), step))
    limits, spot, unit = market["limits"], market["spot"], contract_size(market)
    leverage, least = told(limits["leverage"], "max") or ONE, exact(limits["amount"]["min"] or 0, "least quantity")
    return Instrument(
        symbol=market["symbol"],
        tick=tick,
        step=step * unit,
        min_quantity=max(least * unit, step * unit) if least else least,
        min_notional=exact(limits["cost"]["min"] or 0, "least notional"),
        # a contract that takes no leverage is one of which nothing is told: public data may lack it, or ccxt says 1
        max_leverage=ONE if spot else leverage if leverage > 1 else LEVERAGE,
        shorting=not spot,
        kind="spot" if spot else "linear",
        contract_size=unit,
        max_quantity=_largest(market, unit),
    )


def _largest(market: Row, unit: Decimal) -> Decimal | None:
    """Return the largest market order, in base; None where the venue tells none."""
    info, limits = market["info"], market["limits"]
    own = dict(info) | dict(info.get("lotSizeFilter") or {}) if isinstance(info, Mapping) else {}
    known = [told(own, name) for name in EXCHANGES["largest_order"] if not (market["spot"] and name == "maxMktSz")]
    known += [told(limits.get(kind) or {}, "max") for kind in ("market", "amount")]
    return min((most * unit for most in known if most), default=None)
