"""Bitget's dialect (demo, live): USDT-settled futures of a classic account in one-way mode, on cross margin.

An entry's stop and target are preset in it and become plan orders of its size. A stop that is missing is placed for the
whole position; both are moved by modifying them. Fills carry no client id: their orders are looked up, once.
Left out on purpose: unified trading accounts, isolated margin, union margin, funding payments among the fills.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar

from tasks.adapters.venue import (
    Dialect,
    Exit,
    Meaning,
    Permissions,
    Row,
    exact,
    number,
    number_or_zero,
    understood,
    wire,
)
from tasks.core.types import ZERO, Fill, JsonObject, Order, TradingError, VenuePosition

WORDS: dict[str, str] = {"stop": "loss", "target": "profit"}
WHOLE = ("pos_loss", "pos_profit")
FORCED = ("burst", "reduce_", "offset", "adl", "liquidation")
FUTURES: JsonObject = {"productType": "USDT-FUTURES", "marginCoin": "USDT"}


class Bitget(Dialect):
    """Orders in Bitget's words; see `Dialect`."""

    asked: ClassVar = {
        "fetch_balance": {"type": "swap", "productType": "USDT-FUTURES"},
        "fetch_positions": FUTURES,
    }
    plain = ({}, {"trigger": True})
    exits = ({"trigger": True, "planType": "profit_loss"},)
    cursor = "idLessThan"
    trade_time = "cTime"
    moves = True
    flawed: ClassVar = {"isolated": "isolated margin: switch these contracts to cross margin at Bitget"}
    options: ClassVar = {"uta": False}  # else ccxt asks before every call, and takes any error for a no

    def funds_of(self, answer: Row, coin: str) -> tuple[Decimal, Decimal]:
        """ccxt takes what may be withdrawn for what is free, and an answer of another shape for an empty account."""
        if not answer["info"]:
            raise ValueError("no account is listed")
        for row in answer["info"]:
            if row["marginCoin"] == coin:
                return number_or_zero(row, "accountEquity"), number_or_zero(row, "crossedMaxAvailable")
        return ZERO, ZERO

    def position_of(self, row: Row, market: Row) -> VenuePosition | None:
        return super().position_of({**row, "contracts": row["info"]["total"]}, market)  # ccxt lacks the size of some

    # --- orders

    def orders_of(self, row: Row, market: Row) -> list[Order]:
        """Read an order, or a stop or target: a plan order, or the order that it became when it fired.

        One of the whole position has no size of its own.
        """
        info = row["info"]
        plan = str(info.get("planType") or info.get("orderSource") or "")
        kind: Exit | None = "stop" if "loss" in plan else "target" if "profit" in plan else None
        read = dict(row) | {"reduceOnly": bool(kind) or str(info.get("reduceOnly")).lower() == "yes"}
        read["average"] = info.get("priceAvg")  # ccxt divides where there is none
        read["status"] = {"executing": "open"}.get(row["status"], row["status"])
        if plan in WHOLE:
            read["amount"] = "0"
        trigger = exact(info.get("triggerPrice") or 0, "triggerPrice")
        return [self.order_of(read, market, (kind, trigger) if kind else None)]

    async def rest(self, market: Row, held: VenuePosition, kind: Exit, trigger: Decimal, client_order_id: str) -> None:
        whole, word = held.stop_quantity is None, WORDS[kind]
        body: JsonObject = (
            {"planType": f"pos_{word}"} if whole else {"planType": f"{word}_plan", "size": wire(held.quantity)}
        )
        body |= {"holdSide": "buy" if held.side == "long" else "sell"}
        body |= {"clientOid": client_order_id} if client_order_id else {}
        await self._set(market, kind, trigger, "private_mix_post_v2_mix_order_place_tpsl_order", body)

    async def move(self, market: Row, order: Order, trigger: Decimal) -> None:
        body: JsonObject = {"orderId": order.venue_order_id, "size": wire(order.quantity) if order.quantity else ""}
        await self._set(market, order.type, trigger, "private_mix_post_v2_mix_order_modify_tpsl_order", body)

    async def _set(self, market: Row, kind: str, trigger: Decimal, method: str, body: JsonObject) -> None:
        body |= FUTURES | {"symbol": market["id"], "triggerPrice": wire(trigger), "triggerType": "fill_price"}
        doing = f"set the {kind} of {market['symbol']} to {trigger}"
        await self.call(doing, method, body, order=True, fine=Meaning.NOT_MODIFIED)

    async def unrest(self, market: Row, orders: Sequence[Order]) -> None:
        for order in orders:
            word = WORDS[order.type]
            asked = {"trigger": True, "planType": f"{word}_plan" if order.quantity else f"pos_{word}"}
            doing, what = f"cancel the {order.type} of {market['symbol']}", (order.venue_order_id, market["symbol"])
            await self.call(doing, "cancel_order", *what, asked, order=True, fine=Meaning.GONE)

    # --- fills

    async def purpose(self, order: Order) -> tuple[str, str]:
        """The venue gives every order a client id; of a stop or target it is not ours."""
        return ("", order.type) if order.type in WORDS else (order.client_order_id, "")

    async def trades(self, doing: str, market: Row, asked: JsonObject) -> Sequence[Row]:
        """A fill that had no fee is one that ccxt cannot read."""
        asked |= {"productType": "USDT-FUTURES", "symbol": market["id"], "limit": self.page}
        answer = await self.call(doing, "private_mix_get_v2_mix_order_fills", asked)
        with understood(doing):
            return [row | {"feeDetail": row.get("feeDetail") or [{}]} for row in answer["data"]["fillList"] or ()]

    def fill_of(self, row: Row, market: Row) -> Fill:
        forced = any(word in str(row["info"].get("tradeSide")) for word in FORCED)
        return super().fill_of(row, market).replace(reason="liquidation" if forced else "")

    # --- whose it is

    async def leverage(self, symbol: str, refusal: type[TradingError]) -> Decimal | None:
        account = await self._account(symbol)
        with understood(f"the leverage of {symbol}"):
            self.one_way(symbol, account["posMode"] == "hedge_mode", refusal)
            return number(account, "crossedMarginLeverage")

    async def permissions(self) -> Permissions:
        doing = "ask what the key may do"
        answer = await self.call(doing, "private_spot_get_v2_spot_account_info", ready=False)
        with understood(doing):
            may = answer["data"].get("authorities")
            known = isinstance(may, list)
            return Permissions(
                account_id=str(answer["data"]["userId"]),
                withdraw="wwow" in may if known else None,
                read_only="coow" not in may if known else None,
            )

    async def margin_mode(self) -> str:
        contracts = [symbol for symbol in self.settings.symbols if ":" in symbol]
        return str((await self._account(contracts[0]))["marginMode"]) if contracts else "unknown"

    async def _account(self, symbol: str) -> Any:
        doing = f"ask how the account is set for {symbol}"
        answer = await self.call(doing, "fetch_leverage", symbol)
        with understood(doing):
            return answer["info"]
