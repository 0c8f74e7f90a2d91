"""Binance USDⓈ-M's dialect (demo, live): USDT-settled perpetuals in one-way mode.

An entry takes no stop with it: what ccxt would send is a parameter nobody reads. The stop follows in the same task, as
a conditional order of its own at the algo endpoints, which know no other orders: for all of the position, reduce-only,
since of those that close a whole position the venue takes one, and a moved stop must rest before the old one goes.
Targets are the watchdog's. A fill does not tell our id, and a stop that fired is a plain order by then: both are asked
about by the order, once. The largest leverage is told to a key only. Left out on purpose: hedge mode, portfolio margin,
coins as margin, funding payments among the fills.
"""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar

from tasks.adapters.venue import Dialect, Exit, MarketData, Meaning, Permissions, Row, told, understood, wire
from tasks.core.types import JsonObject, Order, VenuePosition
from tasks.settings import Settings

ALGO: JsonObject = {"trigger": True}
FORCED = ("autoclose-", "adl_autoclose", "settlement_autoclose", "delivery_autoclose")  # client ids of the venue's own
EXITS: dict[str, Exit] = {"STOP": "stop", "TAKE_PROFIT": "target"}
ASKED: dict[Exit, str] = {"stop": "stopLossPrice", "target": "takeProfitPrice"}


class BinanceUsdm(Dialect):
    """Orders in Binance's words; see `Dialect`."""

    attaches = False
    finds = ({}, ALGO)
    exits = (ALGO,)
    newest_first = False
    options: ClassVar = {"leverageBrackets": {}}  # else ccxt asks for them before it reads positions
    flawed: ClassVar = {"multi-assets": "multi-assets mode: switch to single-asset mode at Binance"}

    def __init__(self, market: MarketData, settings: Settings) -> None:
        super().__init__(market, settings)
        if settings.profile != "paper":
            market.client.fetch_markets = partial(self._markets, market.client.fetch_markets)

    async def _markets(self, fetch: Callable[..., Awaitable[list[Any]]], *asked: Any, **terms: Any) -> list[Any]:
        """List the markets with their largest leverage."""
        markets, brackets = await fetch(*asked, **terms), await self.market.client.fapiPrivateGetLeverageBracket()
        most = {row["symbol"]: max(each["initialLeverage"] for each in row["brackets"]) for row in brackets}
        for each in markets:
            each["limits"]["leverage"]["max"] = most.get(each["id"])
        return markets

    # --- what there is

    def position_of(self, row: Row, market: Row) -> VenuePosition | None:
        side = "short" if str(row["info"]["positionAmt"]).startswith("-") else "long"
        return super().position_of({**row, "side": side}, market)

    def order_of(self, row: Row, market: Row, exit_: tuple[Exit, Decimal] | None = None) -> Order:
        raw = row["info"]
        closing = any(str(raw.get(name)).lower() == "true" for name in ("reduceOnly", "closePosition"))
        word = str(raw.get("orderType") or raw.get("origType") or raw["type"])
        kind = next((EXITS[start] for start in EXITS if word.startswith(start)), None)
        trigger = told(raw, "triggerPrice") or told(raw, "stopPrice")
        plain = {**row, "reduceOnly": closing, "takeProfitPrice": None}
        return super().order_of(plain, market, exit_ or ((kind, trigger) if kind and trigger and closing else None))

    async def trades(self, doing: str, market: Row, asked: JsonObject) -> Any:
        asked |= {"symbol": market["id"], "limit": self.page}
        return await self.call(doing, "fapiprivate_get_usertrades", asked)

    async def purpose(self, order: Order) -> tuple[str, str]:
        if order.client_order_id.startswith(FORCED):
            return "", "liquidation"
        if order.reduce_only and order.type not in ASKED:  # a stop that fired names the order it became
            asked = (f"fetch {order.symbol} stops", "fetch_orders", order.symbol, None, None, ALGO)
            fired = [
                row for row in await self.call(*asked) if str(row["info"].get("actualOrderId")) == order.venue_order_id
            ]
            if fired:
                stop = self.order_of(fired[0], await self.market.listing(order.symbol))
                return stop.client_order_id, stop.type
        return await super().purpose(order)

    # --- what is done

    async def protect(
        self,
        market: Row,
        stop: Decimal | None,
        target: Decimal | None,  # noqa: ARG002  (not sent)
        quantity: Decimal | None,
        client_order_id: str,
    ) -> None:
        await super().protect(market, stop, None, quantity, client_order_id)

    async def rest(self, market: Row, held: VenuePosition, kind: Exit, trigger: Decimal, client_order_id: str) -> None:
        asked: JsonObject = {ASKED[kind]: wire(trigger), "reduceOnly": True}
        if client_order_id:
            asked["clientOrderId"] = client_order_id
        side, symbol = "sell" if held.side == "long" else "buy", market["symbol"]
        what = (symbol, "market", side, wire(held.quantity), None, asked)
        await self.call(f"set {symbol} {kind}={trigger}", "create_order", *what, order=True)

    async def unrest(self, market: Row, orders: Sequence[Order]) -> None:
        for order in orders:
            where = ALGO if order.type in ASKED else {}
            what = ("cancel_order", order.venue_order_id, market["symbol"], where)
            await self.call(f"cancel {order.symbol} {order.type}", *what, order=True, fine=Meaning.GONE)

    # --- whose it is

    async def permissions(self) -> Permissions:
        """Demo accounts do not tell."""
        if self.settings.profile == "testnet":
            return Permissions(account_id="")
        doing = "ask what the key may do"
        account = await self.call(doing, "private_get_account", ready=False)
        may = await self.call(doing, "sapi_get_account_apirestrictions", ready=False)
        with understood(doing):
            lacks = () if may["enableFutures"] else ("Enable Futures",)
            return Permissions(account_id=str(account["uid"]), withdraw=may["enableWithdrawals"], lacks=lacks)

    async def notes(self) -> tuple[str, ...]:
        burns = await self.call("ask the fee coin", "fapiPrivateGetFeeBurn")
        return ("pays fees in BNB, which are booked at what they are worth",) if burns.get("feeBurn") else ()

    async def margin_mode(self) -> str:
        answer = await self.call("ask the margin mode", "fapiPrivateGetMultiAssetsMargin")
        with understood("the account's margin mode"):
            return "multi-assets" if answer["multiAssetsMargin"] else "single-asset"
