"""A restarted sandbox is the same venue: orders, positions and ids are still there, and stops fired meanwhile."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from sandbox_server import advance, running_sandbox, state

from infra.sandbox.app import SandboxApp
from infra.sandbox.config import SandboxConfig
from tasks.adapters.venue.ccxt_venue import connect
from tasks.core.errors import DuplicateOrder, InputError
from tasks.core.types.orders import OrderIntent, OrderType
from tasks.settings import load

SYMBOL = "BTC/USDT:USDT"
START = datetime(2025, 3, 10, 12, tzinfo=UTC)
ENTRY = OrderIntent(
    client_order_id="qd" + "a" * 32 + "e0", symbol=SYMBOL, side="buy", type=OrderType.MARKET, quantity=Decimal("0.01"),
    stop=Decimal(1000), target=Decimal(900_000),
)  # fmt: skip


def options(folder: Path) -> dict[str, object]:
    return {"symbols": (SYMBOL,), "start": START, "stepped": True, "state": folder / "sandbox.json"}


def send(url: str, intent: OrderIntent) -> None:
    async def once() -> None:
        venue = connect(load(sandbox_url=url, symbols=(SYMBOL,)))
        try:
            await venue.submit(intent)
        finally:
            await venue.close()

    asyncio.run(once())


def test_a_restart_keeps_orders_positions_and_the_clock(tmp_path):
    with running_sandbox(**options(tmp_path)) as url:
        send(url, ENTRY)
        advance(url, 600)
        send(url, ENTRY.model_copy(update={"client_order_id": "qd" + "b" * 32 + "e0"}))
        before = state(url)
    with running_sandbox(**options(tmp_path)) as url:
        after = state(url)
        with pytest.raises(DuplicateOrder):
            send(url, ENTRY)
    same = ("clock", "orders", "fills", "positions", "equity")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


def test_a_state_of_another_market_is_refused(tmp_path):
    with running_sandbox(**options(tmp_path)) as url:
        send(url, ENTRY)
    with pytest.raises(InputError, match="another file"):
        SandboxApp(SandboxConfig(**{**options(tmp_path), "seed": 8}))


def test_a_state_that_is_not_one_is_refused(tmp_path):
    (tmp_path / "sandbox.json").write_text("{}")
    with pytest.raises(InputError, match="remove it"):
        SandboxApp(SandboxConfig(**options(tmp_path)))
