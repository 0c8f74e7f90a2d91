"""Bybit's rows read by its dialect, without a server: what ccxt makes of a row goes through what reads its lists."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from tasks import settings as config
from tasks.adapters.venue import client
from tasks.adapters.venue.account import Permissions
from tasks.adapters.venue.bybit import Bybit, permissions_of
from tasks.adapters.venue.market import MarketData
from tasks.adapters.venue.wire import number
from tasks.core.types import Balance, Fill, Order, VenuePosition

Row = Mapping[str, Any]


def reader(*symbols: str) -> Bybit:
    settings = config.load(profile="sandbox", symbols=symbols or ("BTC/USDT:USDT",))
    real = client.build(settings)
    real.markets, real.markets_by_id = {}, {}
    return Bybit(MarketData(real, "bybit-sandbox"), settings)


def listed(symbol: str) -> dict[str, Any]:
    return {"symbol": symbol, "id": symbol,
            "spot": ":" not in symbol and symbol != "S",
            "type": "swap", "inverse": False, "linear": True, "contract": True,
            "settle": "USDT", "quote": "USDT", "base": "BTC", "contractSize": 1}  # fmt: skip


def order_of(row: Row, symbol: str) -> Order:
    dialect, market = reader(), listed(symbol)
    return dialect.orders_of(dialect.market.client.parse_order(dict(row), market), market)[0]


def fill_of(row: Row, market: Row) -> Fill:
    dialect, market = reader(), listed(market["symbol"]) | dict(market)
    return dialect.fill_of(dialect.market.client.parse_trade(dict(row), market), market)


def position_of(row: Row, symbol: str) -> VenuePosition | None:
    dialect, market = reader(), listed(symbol)
    return dialect.position_of(dialect.market.client.parse_position(dict(row), market), market)


def balance_of(account: Row, bases: Sequence[str] = ()) -> Balance:
    dialect = reader(*(f"{base}/USDT" for base in bases))

    async def wallet() -> Row:
        return account

    dialect._wallet = wallet
    return asyncio.run(dialect.balance())


__all__ = ["Permissions", "balance_of", "fill_of", "number", "order_of", "permissions_of", "position_of"]
