"""What a test bench needs beside the exchange: state, clock and faults, as JSON under /__admin."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse

from infra.sandbox import views
from infra.sandbox.exchange import Exchange
from infra.sandbox.faults import Fault, FaultBench
from tasks.core.errors import InputError
from tasks.core.types.orders import Fill, Order, OrderStatus, VenuePosition

Json = dict[str, object]


def admin_router(ex: Exchange, bench: FaultBench) -> APIRouter:
    """Return the admin endpoints of one exchange."""
    router = APIRouter(prefix="/__admin")

    @router.get("/state")
    async def state() -> Json:
        ex.catch_up()
        return exchange_state(ex)

    @router.get("/clock")
    async def clock() -> Json:
        ex.catch_up()
        return _clock(ex)

    @router.post("/clock")
    async def advance(advance_s: Annotated[float, Body(embed=True)]) -> Json:
        ex.clock.step(round(advance_s * 1000))
        ex.catch_up()
        return _clock(ex)

    @router.get("/faults")
    async def faults() -> Json:
        return {"faults": bench.listed()}

    @router.post("/faults")
    async def add_fault(wanted: Annotated[Json, Body()]) -> Json:
        try:
            bench.pending.append(Fault(**wanted))  # type: ignore[arg-type]  # checked by Fault and by its names
        except TypeError as e:
            raise InputError(f"fault {wanted}: give kind, path, times, seconds, status, share, seed ({e})") from e
        return {"faults": bench.listed()}

    @router.delete("/faults")
    async def clear_faults() -> Json:
        bench.clear()
        return {"faults": []}

    return router


async def refuse(_request: Request, error: Exception) -> JSONResponse:
    """Answer wrong input to an admin endpoint with 400 and the one line that says what is wrong."""
    return JSONResponse({"error": str(error)}, status_code=400)


def _clock(ex: Exchange) -> Json:
    return {"clock": ex.now.isoformat(), "now_ms": ex.now_ms, "stepped": ex.clock.stepped, "speed": ex.clock.speed}


def exchange_state(ex: Exchange) -> Json:
    """Return everything that has happened at this exchange."""
    marks = ex.marks()
    totals = {s: ex.account.totals(s).model_dump(mode="json") for s in ex.markets}
    return {
        "clock": ex.now.isoformat(), "orders": [_order(order) for order in ex.account.orders],
        "fills": [_fill(fill) for fill in ex.account.fills],
        "positions": [_position(ex, position) for position in ex.account.positions()],
        "unprotected_s": {symbol: ex.naked_ms[symbol] / 1000 for symbol in ex.markets},
        "equity": str(ex.account.balance(marks).equity), "available": str(ex.account.balance(marks).available),
        "prices": {symbol: str(price) for symbol, price in marks.items()}, "totals": totals,
        "requests": dict(ex.requests),
    }  # fmt: skip


def _order(order: Order) -> Json:
    return order.model_dump(mode="json") | {
        "orderLinkId": views.link_id(order.client_order_id), "orderId": order.venue_order_id,
        "qty": str(order.quantity), "resting": order.status is OrderStatus.OPEN,
        "protection": order.type in views.STOP_TYPE, "created": order.created_at.isoformat(),
        "updated": order.updated_at.isoformat(),
    }  # fmt: skip


def _fill(fill: Fill) -> Json:
    return fill.model_dump(mode="json") | {
        "orderLinkId": views.link_id(fill.client_order_id), "orderId": fill.venue_order_id, "qty": str(fill.quantity),
    }  # fmt: skip


def _position(ex: Exchange, position: VenuePosition) -> Json:
    return {
        "symbol": position.symbol, "side": position.side, "size": str(position.quantity),
        "avg_price": str(position.avg_price), "stopLoss": None if position.stop is None else str(position.stop),
        "takeProfit": None if position.target is None else str(position.target),
        "unrealized_pnl": str(position.unrealized_pnl), "unprotected_s": ex.naked_now_ms[position.symbol] / 1000,
    }  # fmt: skip
