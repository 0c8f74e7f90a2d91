"""OKX's dialect (demo, live): USDT-settled swaps in net mode, on cross margin.

OKX counts in contracts. An entry's stop and target are attached to it and become algo orders of its size; once there,
they are moved by amending them. A stop that is missing is placed for the whole position (`closeFraction`), of which the
venue takes one, so that a target is placed with the position's size. Attached ones survive a close: `traded` cancels
them. Left out on purpose: isolated margin, funding payments among the fills (OKX lists them as bills), and orders
cancelled unfilled more than 2 hours ago, which OKX forgets.
"""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

from tasks.adapters.venue import (
    EXITS,
    Dialect,
    Exit,
    Meaning,
    Permissions,
    Row,
    contract_size,
    number,
    number_or_zero,
    price_or_none,
    understood,
    wire,
)
from tasks.core.types import ONE, ZERO, Fill, JsonObject, Order, OrderIntent, VenuePosition

LEGS: dict[Exit, str] = {"stop": "sl", "target": "tp"}
SIDES_OF_ALGOS: dict[str, Exit] = {leg: kind for kind, leg in LEGS.items()}
FORCED = frozenset(map(str, (*range(100, 108), *range(125, 129))))  # subType: liquidation, auto-deleveraging
ACCOUNTS = {"1": "spot mode", "2": "futures mode", "3": "multi-currency margin", "4": "portfolio margin"}
ALGOS = "conditional,oco"


class Okx(Dialect):
    """Orders in OKX's words; see `Dialect`."""

    asked: ClassVar = {
        "fetch_balance": {"ccy": "USDT"},
        "fetch_positions": {"instType": "SWAP"},
        "fetch_leverage": {"mgnMode": "cross"},
        "set_leverage": {"mgnMode": "cross"},
    }
    finds = ({}, {"trigger": True})
    plain = ({}, {"trigger": True})
    exits = ({"trigger": True, "ordType": ALGOS},)
    cursor = "after"
    leverage_texts = ("lever",)
    fills_span = timedelta(days=91)  # all that is kept: they are paged by bill
    moves = True
    flawed: ClassVar = {
        mode: f"{mode}: switch the account to futures or multi-currency margin mode at OKX"
        for mode in ("spot mode", "portfolio margin")
    }
    options: ClassVar = {"createOrder": "privatePostTradeOrder"}  # ccxt's batch of one has no field of its own

    def funds_of(self, answer: Row, coin: str) -> tuple[Decimal, Decimal]:
        """Where all coins are margin, what the account has free bounds what is free."""
        equity, free = super().funds_of(answer, coin)
        accounts = answer["info"]["data"]
        account_free = price_or_none(accounts[0], "availEq") if accounts and accounts[0].get("availEq") else None
        return equity, free if account_free is None else min(free, account_free)

    def known(self, row: Row) -> Row | None:
        """A contract is some power of ten of a coin; one that is listed no longer tells which by its worth."""
        market, info = super().known(row), row["info"]
        if market and "id" not in market and (contracts := number_or_zero(info, "pos")):
            size = number(info, "notionalUsd") / abs(contracts) / number(info, "markPx")
            market = {**market, "contractSize": ONE.scaleb(round(size.log10()))}
        return market

    # --- orders

    def orders_of(self, row: Row, market: Row) -> list[Order]:
        """Read a plain order by its own id (ccxt prefers the one of the algo order that sent it), or an algo's legs."""
        info = row["info"]
        if "actualSz" not in info:
            return [self.order_of({**row, "id": info["ordId"]}, market)]
        triggers = {
            kind: price_or_none(info, f"{leg}TriggerPx") for kind, leg in LEGS.items() if f"{leg}TriggerPx" in info
        }
        algo = {
            **row, "clientOrderId": info.get("algoClOrdId"), "filled": info["actualSz"], "average": info["actualPx"],
            "stopLossPrice": triggers.get("stop"), "takeProfitPrice": triggers.get("target"),
        }  # fmt: skip
        legs = [self.order_of(algo, market, (kind, trigger)) for kind, trigger in triggers.items() if trigger]
        return legs or [self.order_of(algo, market)]

    def order_asked(self, intent: OrderIntent) -> JsonObject:
        asked = super().order_asked(intent)
        return asked | {"reduceOnly": "true"} if intent.reduce_only else asked

    async def rest(self, market: Row, held: VenuePosition, kind: Exit, trigger: Decimal, client_order_id: str) -> None:
        whole = kind == "stop" and held.stop_quantity is None
        size = {"closeFraction": "1"} if whole else {"sz": wire(held.quantity / contract_size(market))}
        named = {"algoClOrdId": client_order_id} if client_order_id else {}
        body = {
            "instId": market["id"], "tdMode": "cross", "side": "sell" if held.side == "long" else "buy",
            "ordType": "conditional", "reduceOnly": "true", f"{LEGS[kind]}TriggerPx": wire(trigger),
            f"{LEGS[kind]}OrdPx": "-1", f"{LEGS[kind]}TriggerPxType": "last", **size, **named,
        }  # fmt: skip
        await self.call(f"place a {kind} of {market['symbol']}", "private_post_trade_order_algo", body, order=True)

    async def move(self, market: Row, order: Order, trigger: Decimal) -> None:
        """Move one leg of an algo order; 0 takes it away."""
        leg = f"new{LEGS[order.type].capitalize()}"  # type: ignore[index]  # one of the exits
        body = {
            "instId": market["id"], "algoId": order.venue_order_id, f"{leg}TriggerPx": wire(trigger),
            f"{leg}OrdPx": "-1" if trigger else "0", f"{leg}TriggerPxType": "last",
        }  # fmt: skip
        doing = f"move the {order.type} of {market['symbol']} to {trigger}"
        await self.call(doing, "private_post_trade_amend_algos", body, order=True, fine=Meaning.NOT_MODIFIED)

    async def unrest(self, market: Row, orders: Sequence[Order]) -> None:
        ids = [order.venue_order_id for order in orders]
        for order in {order.venue_order_id: order for order in orders}.values():
            if order.stop and order.target and ids.count(order.venue_order_id) < len(EXITS):
                await self.move(market, order, ZERO)
            else:
                doing, asked = f"cancel the {order.type} of {market['symbol']}", {"trigger": True}
                algo = [order.venue_order_id]
                await self.call(doing, "cancel_orders", algo, market["symbol"], asked, order=True, fine=Meaning.GONE)

    # --- fills

    async def trades(self, doing: str, market: Row, asked: JsonObject) -> Sequence[Row]:
        since = int(str(asked.pop("startTime")))
        asked |= {"instType": "SWAP", "instId": market["id"]}
        answer = await self.call(doing, "private_get_trade_fills_history", asked)
        with understood(doing):
            return [row for row in answer["data"] if int(row["ts"]) >= since]

    def more_trades(self, rows: Sequence[Row], _before: JsonObject) -> JsonObject:
        """Page by bill id, which leaves nothing out."""
        return {"after": str(min(int(row["billId"]) for row in rows))} if len(rows) == self.page else {}

    async def explained(self, fills: list[Fill], market: Row) -> list[Fill]:
        """What an algo order did is named by that order."""
        triggered = await self._triggered(market) if any(not (f.client_order_id or f.reason) for f in fills) else {}
        return [fill.replace(reason=triggered.get(fill.venue_order_id, fill.reason)) for fill in fills]

    def fill_of(self, row: Row, market: Row) -> Fill:
        info = row["info"]
        return (
            super()
            .fill_of(row, market)
            .replace(
                fill_id=str(info.get("billId") or row["id"]),
                client_order_id=info.get("clOrdId") or "",
                reason="liquidation" if info.get("subType") in FORCED else "",
            )
        )

    async def _triggered(self, market: Row) -> dict[str, Exit]:
        """Return which orders were sent by stops and targets that fired."""
        doing, found = f"ask which {market['symbol']} stops fired", dict[str, Exit]()
        for kind in ALGOS.split(","):
            asked = {"instType": "SWAP", "instId": market["id"], "ordType": kind, "state": "effective"}
            answer = await self.call(doing, "private_get_trade_orders_algo_history", asked)
            with understood(doing):
                for row in answer["data"]:
                    exit_ = SIDES_OF_ALGOS.get(row["actualSide"]) or (
                        "stop" if price_or_none(row, "slTriggerPx") else "target"
                    )
                    found |= dict.fromkeys([row["ordId"], *(row.get("ordIdList") or ())], exit_)
        return found

    # --- whose it is

    def leverages_of(self, answer: Row) -> list[Decimal]:
        return [number(row, "lever") for row in answer["info"]]

    async def permissions(self) -> Permissions:
        config = await self._config(ready=False)
        with understood("what the key may do"):
            may = config["perm"].split(",") if config.get("perm") else None
            return Permissions(
                account_id=str(config["uid"]),
                withdraw=may and "withdraw" in may,
                read_only=may and "trade" not in may,
            )

    async def margin_mode(self) -> str:
        return ACCOUNTS.get((await self._config())["acctLv"], "unknown")

    async def _config(self, ready: bool = True) -> Any:
        doing = "ask how the account is set"
        answer = await self.call(doing, "private_get_account_config", ready=ready)
        with understood(doing):
            return answer["data"][0]
