"""Bars a second through the fill engine: idle, with a limit order resting, and with a position under its stop."""

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tasks.core.market.instruments import by_form
from tasks.core.simulation.account import PriceBar, SimulatedAccount
from tasks.core.types.limits import Costs
from tasks.core.types.orders import OrderIntent

SYMBOL = "BTC/USDT:USDT"
BEGIN = datetime(2025, 3, 1, tzinfo=UTC)
N = 200_000


def _account() -> SimulatedAccount:
    rules = by_form(SYMBOL, Decimal("0.1"), Decimal("0.001"))
    return SimulatedAccount(Decimal(10_000), {SYMBOL: rules}, Costs())


def _bars() -> list[PriceBar]:
    prices = [Decimal(p) for p in ("100", "101", "99", "100.5")]
    return [PriceBar(BEGIN + timedelta(minutes=5 * i), *prices) for i in range(1, N + 1)]


def _measure(name: str, account: SimulatedAccount, bars: list[PriceBar]) -> None:
    cpu = time.process_time()
    for bar in bars:
        account.on_bar(SYMBOL, bar, bar.open_time)
    cpu = time.process_time() - cpu
    print(f"{name:28} bars={len(bars):,} cpu_s={cpu:.2f} bars_per_s={len(bars) / cpu:,.0f} fills={len(account.fills)}")


def main() -> None:
    """Print bars per CPU second for each; what is measured is the engine, not the making of bars."""
    bars = _bars()
    _measure("idle", _account(), bars)
    resting = _account()
    order = {"side": "buy", "quantity": Decimal(1), "client_order_id": "a", "symbol": SYMBOL}
    resting.submit(OrderIntent(type="limit", price=Decimal(50), **order), Decimal(100), BEGIN)
    _measure("one limit order resting", resting, bars)
    holding = _account()
    holding.submit(OrderIntent(type="market", stop=Decimal(50), target=Decimal(200), **order), Decimal(100), BEGIN)
    _measure("a position, stop and target", holding, bars)
