"""What a test bench needs beside the exchange: state, clock and faults, as JSON under /__admin."""

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from infra.sandbox.api import rows
from infra.sandbox.api.answers import Json
from infra.sandbox.exchange import Exchange
from infra.sandbox.faults import Fault, FaultBench
from tasks.core.types import InputError, Order, OrderIntent, OrderStatus, VenuePosition


class Advance(BaseModel):
    advance_s: float


def admin_routes(ex: Exchange, bench: FaultBench) -> list[Route]:
    """Return the admin endpoints of one exchange."""

    async def state(_request: Request) -> JSONResponse:
        ex.catch_up()
        return JSONResponse(to_jsonable_python(exchange_state(ex)))

    async def clock(request: Request) -> JSONResponse:
        if request.method == "POST":
            ex.clock.step(round(Advance.model_validate_json(await request.body()).advance_s * 1000))
        ex.catch_up()
        pace = {"stepped": ex.clock.stepped, "speed": ex.clock.speed}
        return JSONResponse({"clock": ex.now.isoformat(), "now_ms": ex.now_ms, **pace})

    async def faults(request: Request) -> JSONResponse:
        if request.method == "POST":
            bench.order(Fault.model_validate_json(await request.body()))
        elif request.method == "DELETE":
            bench.clear()
        return JSONResponse({"faults": [fault.model_dump(mode="json") for fault in bench.pending]})

    async def trades(request: Request) -> JSONResponse:
        asked = await request.json()
        ex.catch_up()
        asked |= {"client_order_id": rows.own_id(ex), "quantity": asked.pop("qty", None)}
        order = ex.submit(OrderIntent(type="limit" if "price" in asked else "market", **asked))
        if order.status is OrderStatus.REJECTED:
            raise InputError(f"trade refused: {order.reason}")
        ex.settle(changed=True)
        return JSONResponse(to_jsonable_python(_order(order)))

    return [
        Route("/__admin/state", state),
        Route("/__admin/trades", trades, methods=["POST"]),
        Route("/__admin/clock", clock, methods=["GET", "POST"]),
        Route("/__admin/faults", faults, methods=["GET", "POST", "DELETE"]),
    ]


async def refuse(_request: Request, error: Exception) -> JSONResponse:
    """Answer wrong input to an admin endpoint with 400 and the one line that says what is wrong."""
    message = str(error)
    if isinstance(error, ValidationError):
        why = error.errors()[0]
        message = " ".join([error.title.lower(), *map(str, why["loc"]), f"is {why['input']}: {why['msg']}"])
    return JSONResponse({"error": message}, 400)


def exchange_state(ex: Exchange) -> Json:
    """Return everything that has happened at this exchange."""
    marks = ex.marks()
    balance = ex.account.balance(marks)
    return {
        "clock": ex.now.isoformat(),
        "orders": [_order(order) for order in ex.account.orders],
        "fills": [fill.model_dump() | rows.ids(fill) | {"qty": fill.quantity} for fill in ex.account.fills],
        "positions": [_position(ex, position) for position in ex.account.positions()],
        "unprotected_s": {symbol: ex.naked_ms[symbol] / 1000 for symbol in marks},
        "equity": balance.equity,
        "available": balance.available,
        "prices": {symbol: ex.price(symbol) for symbol in marks},
        "totals": {symbol: ex.account.totals(symbol) for symbol in marks},
        "requests": ex.requests,
    }


def _order(order: Order) -> Json:
    return {
        **order.model_dump(),
        **rows.ids(order),
        "qty": order.quantity,
        "resting": order.status is OrderStatus.OPEN,
        "protection": order.type in rows.STOP_TYPE,
        "created": order.created_at.isoformat(),
        "updated": order.updated_at.isoformat(),
    }


def _position(ex: Exchange, position: VenuePosition) -> Json:
    holding = ex.account.wallet.holdings[position.symbol]
    return {
        "symbol": position.symbol,
        "side": position.side,
        "size": position.quantity,
        "avg_price": position.avg_price,
        "stopLoss": position.stop,
        "takeProfit": position.target,
        "unrealized_pnl": holding.unrealized(ex.mark(position.symbol)),
        "unprotected_s": ex.naked_now_ms[position.symbol] / 1000,
    }
