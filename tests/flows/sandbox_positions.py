"""Positions on the sandbox of the fixtures `exchange` and `two_symbols`: opened by a cycle, or by a person's hand."""

import json
from decimal import Decimal
from pathlib import Path

from sandbox_cycles import OPEN, START, SYMBOL, recorded, run

from flows.trade import Request, run_cycles
from tasks.connections import store, venue
from tasks.core.trading.followups import Look
from tasks.core.types.orders import OrderIntent, OrderType
from tasks.core.types.portfolio import Position
from tasks.core.types.record import CycleStatus

ETH = "ETH/USDT:USDT"


async def opened(home: Path, **changes: object) -> list[Position]:
    """Open a position by a cycle whose decision has these fields."""
    record = await run(recorded(home, (START, {**OPEN, **changes})))
    assert record.status is CycleStatus.EXECUTED, record.error
    return store().positions.open("default")


def seen(price: Decimal) -> Look:
    """Return a close at that price, the best one since the position opened."""
    return Look(START, price, price)


async def both_opened(home: Path) -> None:
    """Open a position in each of two symbols by one run."""
    lines = [
        {"as_of": START.isoformat(), "symbol": s, "reply": json.dumps({**OPEN, "symbol": s})} for s in (SYMBOL, ETH)
    ]
    (home / "replies.jsonl").write_text("\n".join(map(json.dumps, lines)))
    decider = f"recorded:{home / 'replies.jsonl'}"
    try:
        await run_cycles(Request(symbols=(SYMBOL, ETH), decider=decider, reason="a test asks"))
    finally:
        await venue().close()


async def manual(side: str, quantity: Decimal, name: str = "manual-1") -> None:
    """Trade as a person does at the venue's own page."""
    order = OrderIntent(client_order_id=name, symbol=SYMBOL, side=side, type=OrderType.MARKET, quantity=quantity,
                        reduce_only=side == "sell")  # fmt: skip
    await venue().submit(order)


def limit_entry() -> OrderIntent:
    """Return an entry far from the market, in our own form."""
    return OrderIntent(client_order_id="qd" + "7" * 32 + "e0", symbol=SYMBOL, side="buy", type=OrderType.LIMIT,
                       quantity=Decimal("0.01"), price=Decimal(10_000), stop=Decimal(9_000))  # fmt: skip
