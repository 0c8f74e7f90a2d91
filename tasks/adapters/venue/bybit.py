"""Bybit's V5 dialect (sandbox, testnet, live), with the venue's own words where ccxt's are not exact.

Orders go out by signed calls of the venue's, so that quantities and prices keep their digits. USDT-settled linear
contracts, in one-way mode (positionIdx 0), take stop and target with the entry; these cover the whole position
(tpslMode Full) and fire at market on the last price, the venue's defaults. Where somebody else has a part of the
position they are Partial ones, as large as ours, which the venue only adds: older ones are cancelled. On spot a market
order can bring neither: the stop rests as an order of its own that does not tie up the coins (placed or replaced by
`protect`, and after every trade as large as what is held), and the target is not sent, the watchdog takes it. Left out
on purpose: hedge mode, spot's one-cancels-other orders (for limit entries only), streaming.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar

from tasks.adapters.venue import (
    Dialect,
    Exit,
    MarketData,
    Meaning,
    Permissions,
    Row,
    accepted,
    at,
    number,
    number_or_zero,
    price_or_none,
    told,
    understood,
    wire,
)
from tasks.core.types import (
    ZERO,
    Balance,
    Fill,
    JsonObject,
    Order,
    OrderIntent,
    OrderRejected,
    OrderType,
    TradingError,
    VenueError,
    VenuePosition,
    VenueUnavailable,
    direction,
    exact_sum,
    floor_to_step,
)
from tasks.settings import Settings

CREATE, CANCEL = "private_post_v5_order_create", "private_post_v5_order_cancel"
# by ccxt's words: states that it does not know or takes for filled, numbers as the venue wrote them
STATUS = {"Created": "open", "PartiallyFilledCanceled": "canceled"}
WRITTEN = {
    "amount": "qty",
    "filled": "cumExecQty",
    "price": "price",
    "timestamp": "createdTime",
    "lastUpdateTimestamp": "updatedTime",
}
MAY_BE = {"average": "avgPrice", "stopLossPrice": "stopLoss", "takeProfitPrice": "takeProfit"}
LEGS: dict[Exit, tuple[str, str]] = {"stop": ("stopLoss", "slSize"), "target": ("takeProfit", "tpSize")}
SIDES = {"Buy": "long", "Sell": "short"}  # of positions
FEE_SWITCHES = ("fmsef", "smsef")  # fees in MNT, on contracts and on spot
NO_REASON = ("", "EC_NoError")
FORCED = ("BustTrade", "AdlTrade")
TRADES = ("", "Trade", "Funding", *FORCED)  # execTypes; Settle, Delivery, MovePosition... are none
SPOT_STOPS = ("Stop", "tpslOrder")  # stopOrderType of resting spot orders: we place no others than stops


class Bybit(Dialect):
    """Orders in Bybit's words; see `Dialect`."""

    keeps_ids = takes_spot = True
    asked: ClassVar = {"fetch_open_orders": {"limit": 50}}
    finds = ({"in": "fetch_open_orders"}, {"in": "fetch_canceled_and_closed_orders"})
    fills_kept = timedelta(days=730)
    leverage_as = Decimal
    leverage_texts = ("buyLeverage", "sellLeverage")
    flawed: ClassVar = {
        "classic": "a classic account: upgrade it to a unified trading account at Bybit",
        "PORTFOLIO_MARGIN": "portfolio margin: switch the account to cross margin at Bybit",
    }

    def __init__(self, market: MarketData, settings: Settings) -> None:
        super().__init__(market, settings)
        market.client.add_pagination_cursor_to_result = rows_of

    # --- what there is

    async def balance(self) -> Balance:
        """Return the equity in quote, and what of it is free for new margin; coins traded on spot count at their value.

        Never more is available than the account has: other coins may be lent out or pledged against it.
        """
        account = await self._wallet()
        with understood("fetch the balance"):
            coin, bases = coin_of(account, self.quote), [symbol.partition("/")[0] for symbol in self.spot]
            equity = number(coin, "equity")
            used = [told(coin, name) or ZERO for name in ("totalPositionIM", "totalOrderIM", "locked")]
            available = equity - exact_sum(used)
            if account.get("totalAvailableBalance") not in (None, ""):
                available = min(available, number(account, "totalAvailableBalance"))
            equity += exact_sum(told(coin_of(account, base), "usdValue") or ZERO for base in bases)
            held = {str(row["coin"]): str(row.get("equity", "")) for row in account["coin"]}
        other = {name: text for name, text in held.items() if text.strip("0.") and name not in (self.quote, *bases)}
        return Balance(equity=equity, available=max(available, ZERO), currency=self.quote, other=other)

    async def _wallet(self) -> Any:
        doing = "fetch the balance"
        answer = await self.result(doing, "private_get_v5_account_wallet_balance", {"accountType": "UNIFIED"})
        with understood(doing):
            return answer["list"][0]

    async def positions(self) -> list[VenuePosition]:
        """Return the open USDT-settled linear positions, and what we hold of the coins we trade on spot."""
        coins = [await self.spot_position(symbol) for symbol in self.spot]
        return [*await super().positions(), *filter(None, coins)]

    async def position_rows(self, doing: str) -> list[Any]:
        return await self.paged(doing, partial(self.call, doing, "fetch_positions"), {}, self.next_page)

    def known(self, row: Row) -> Row:
        if market := super().known(row):
            return market
        raise KeyError(row["symbol"])  # we asked for what settles in our quote

    def position_of(self, row: Row, market: Row) -> VenuePosition | None:
        info = row["info"]
        read = {**row, "contracts": info["size"], "side": SIDES.get(info["side"]), "entryPrice": info.get("avgPrice")}
        position = super().position_of(read, market)
        return position and position.replace(
            stop=price_or_none(info, "stopLoss"), target=price_or_none(info, "takeProfit")
        )

    async def guarded(self, held: VenuePosition) -> VenuePosition:
        """The row tells what covers all; a stop for a part is among the orders, and missing until it is seen there."""
        if not held.stop:
            with suppress(VenueError):
                return await super().guarded(held)
        return held

    async def spot_position(self, symbol: str) -> VenuePosition | None:
        """Read a coin as a position: the venue has none on spot. Less than can be sold is flat."""
        instrument, account = await self.market.instrument(symbol), await self._wallet()
        with understood("fetch the balance"):
            coins = number(coin_of(account, symbol.partition("/")[0]), "equity")
        if coins < max(instrument.step, instrument.min_quantity):
            return None
        stop, covers = max(await self._stops(symbol), default=(None, None))
        recent = await self.fills(symbol, await self.market.now() - self.fills_span)
        bought = [fill.price for fill in recent if fill.side == "buy"]
        paid = bought[-1] if bought else (await self.market.fetch_book(symbol)).bids[0][0]
        return VenuePosition(
            symbol=symbol, side="long", quantity=coins, avg_price=paid, stop=stop, stop_quantity=covers
        )

    async def _listed(self, symbol: str, _lists: Iterable[JsonObject]) -> list[Order]:
        return await super()._listed(symbol, order_kinds(await self.market.listing(symbol)))

    def next_page(self, rows: Sequence[Row], before: JsonObject) -> JsonObject:
        known = [row.get("info", row).get("nextPageCursor") for row in rows]
        cursor = next(filter(None, known), None)
        return {"cursor": cursor} if cursor and cursor != before.get("cursor") else {}

    async def look_up(self, doing: str, symbol: str, client_order_id: str, place: JsonObject) -> Any:
        """First what is working and what ended just now, then the history (7 days back)."""
        return await self.call(doing, str(place["in"]), symbol, {"orderLinkId": client_order_id})

    def orders_of(self, row: Row, market: Row) -> list[Order]:
        info = row["info"]
        kind, reason = exit_reason(info.get("stopOrderType"), market), str(info.get("rejectReason") or "")
        read = {**row, "status": STATUS.get(info["orderStatus"], row["status"])}
        read |= {ours: info[theirs] for ours, theirs in WRITTEN.items()}
        read |= {ours: info.get(theirs, "") for ours, theirs in MAY_BE.items()}
        exit_ = (kind, number_or_zero(info, "triggerPrice")) if kind else None
        return [self.order_of(read, market, exit_).replace(reason="" if reason in NO_REASON else reason)]

    async def trades(self, doing: str, market: Row, asked: JsonObject) -> Sequence[Row]:
        asked |= category_of(market) | {"limit": self.page}
        answer = await self.call(doing, "private_get_v5_execution_list", asked)
        with understood(doing):
            return rows_of(answer)

    more_trades = next_page

    def fill_of(self, row: Row, market: Row) -> Fill:
        """Read an execution. A funding payment has a fee and moves no quantity.

        A spot buy whose fee is taken in base is told as what remains: less quantity, and the fee in quote. What is no
        trade has its type as reason, and may lack side, quantity and price.
        """
        info, kind, settle = row["info"], str(row["info"].get("execType") or ""), market["settle"] or market["quote"]
        quantity, price, fee = (number_or_zero(info, name) for name in ("execQty", "execPrice", "execFee"))
        if kind in TRADES and min(quantity, price) <= 0:
            raise ValueError(f"execution {row['id']} is of {quantity} at {price}, both must be above 0")
        currency = info.get("feeCurrency") or settle
        if market["spot"] and currency == market["base"] and row["side"] == "buy":
            quantity, fee, currency = quantity - fee, fee * price, settle
        read = {
            **row, "side": row["side"] or (None if kind in TRADES else "buy"),
            "fee": {"cost": fee, "currency": currency},
            "amount": ZERO if kind == "Funding" else quantity, "price": price, "timestamp": info["execTime"],
        }  # fmt: skip
        name, reason = info.get("orderLinkId") or "", fill_reason(info, kind, market)
        return super().fill_of(read, market).replace(client_order_id=name, reason=reason)

    async def named(self, fill: Fill, _market: Row) -> Fill:
        """The row has told all there is."""
        return fill

    # --- what is done

    async def create(self, intent: OrderIntent, market: Row) -> Order:
        doing = f"send order {intent.client_order_id}"
        answer = await self.result(doing, CREATE, order_request(intent, market), order=True)
        with understood(doing):
            return accepted(intent, answer["orderId"], at(answer["time"]))

    async def cancel(self, market: Row, client_order_id: str) -> None:
        for kind in order_kinds(market):
            body = category_of(market) | {"orderLinkId": client_order_id} | kind
            await self.call(f"cancel order {client_order_id}", CANCEL, body, fine=Meaning.GONE, order=True)

    async def protect(
        self, market: Row, stop: Decimal | None, target: Decimal | None, quantity: Decimal | None, client_order_id: str
    ) -> None:
        """Doing it twice is harmless. On contracts the venue keeps no client id for it."""
        prices, symbol, spot = protection(stop, target), market["symbol"], market["spot"]
        held = await self._held(symbol) if prices and quantity and not spot else None
        if spot or (held and quantity and quantity < held.quantity):
            await super().protect(market, stop, None if spot else target, quantity, client_order_id)
        elif prices:
            await self._trading_stop(market, prices)
            if held:
                with suppress(VenueError):  # the stop is set
                    await self._clear_parts(market, {"stop": stop, "target": target})

    async def _clear_parts(self, market: Row, given: Mapping[str, Decimal | None]) -> None:
        """Take away the Partial ones of before, which one for all leaves where they are."""
        doing, symbol = f"fetch open {market['symbol']} orders", market["symbol"]
        rows = await self.call(doing, "fetch_open_orders", symbol)
        with understood(doing):
            parts = [row for row in rows if str(row["info"].get("stopOrderType")).startswith("Partial")]
            orders = [order for row in parts for order in self.orders_of(row, market)]
        await self.unrest(market, [order for order in orders if given.get(order.type) is not None])

    async def _held(self, symbol: str) -> VenuePosition | None:
        """Of coins, as much as can be sold: a stop for more is refused when it fires."""
        held = await (super()._held(symbol) if ":" in symbol else self.spot_position(symbol))
        step = (await self.market.instrument(symbol)).step
        return held and held.replace(quantity=floor_to_step(held.quantity, step))

    async def _trading_stop(self, market: Row, prices: JsonObject) -> None:
        doing, method = f"set {market['symbol']} {prices}", "private_post_v5_position_trading_stop"
        body = category_of(market) | {"positionIdx": 0, **prices}
        await self.call(doing, method, body, fine=Meaning.NOT_MODIFIED, order=True)

    async def rest(self, market: Row, held: VenuePosition, kind: Exit, trigger: Decimal, client_order_id: str) -> None:
        if market["spot"]:
            await self._rest_spot(market, held, trigger, client_order_id)
        else:
            price, size = LEGS[kind]
            body: JsonObject = {price: wire(trigger), size: wire(held.quantity), "tpslMode": "Partial"}
            await self._trading_stop(market, body)

    async def _rest_spot(self, market: Row, held: VenuePosition, trigger: Decimal, client_order_id: str) -> None:
        """Let a stop rest as an order of the kind that does not tie up the coins."""
        doing, bid = f"set {held.symbol} stop={trigger}", (await self.market.fetch_book(held.symbol)).bids[0][0]
        if trigger >= bid:
            raise OrderRejected(f"{doing}: must be below the best bid {bid}")
        body = category_of(market) | {
            "side": "Sell", "orderType": "Market", "marketUnit": "baseCoin", "qty": wire(held.quantity),
            "triggerPrice": wire(trigger), "orderFilter": "StopOrder",
        }  # fmt: skip
        body |= {"orderLinkId": client_order_id} if client_order_id else {}
        await self.call(doing, CREATE, body, order=True)

    async def unrest(self, market: Row, orders: Sequence[Order]) -> None:
        for order in orders:
            doing, kind = f"cancel the {order.type} of {order.symbol}", {"orderFilter": "StopOrder"}
            body = category_of(market) | {"orderId": order.venue_order_id} | (kind if market["spot"] else {})
            await self.call(doing, CANCEL, body, fine=Meaning.GONE, order=True)

    async def traded(self, market: Row, order: Order) -> None:
        """On spot a stop that rests covers what it did and what came or went, and goes when nothing is left."""
        if market["spot"] and (stops := await self._stops(market["symbol"])):
            trigger, covers = max(stops)
            covers += direction(order.side) * order.filled
            left = covers > 0 and await self.spot_position(market["symbol"])
            await self.protect(market, trigger if left else ZERO, None, covers if left else None, "")

    async def _stops(self, symbol: str) -> list[tuple[Decimal, Decimal]]:
        """Return trigger and open quantity of the spot stops that rest."""
        return [(order.price, order.quantity - order.filled) for order in await self.protections(symbol) if order.price]

    # --- whose it is

    async def permissions(self) -> Permissions:
        """Demo accounts do not tell."""
        if self.settings.profile == "testnet" and self.settings.venue_demo:
            return Permissions(account_id="")
        doing = "ask what the key may do"
        answer = await self.result(doing, "private_get_v5_user_query_api", {}, ready=False)
        with understood(doing):
            contracts = len(self.spot) < len(self.settings.symbols)
            wanted = {
                "ContractTrade": ("Order", "Position") if contracts else (),
                "Spot": ("SpotTrade",) * bool(self.spot),
            }
            return permissions_of(answer, wanted)

    async def margin_mode(self) -> str:
        """The wallet of a classic account answers otherwise."""
        doing = "ask how the account is set"
        info = await self.result(doing, "private_get_v5_account_info", {})
        with understood(doing):
            return "classic" if str(info.get("unifiedMarginStatus")) == "1" else str(info["marginMode"])

    async def notes(self) -> tuple[str, ...]:
        with suppress(VenueError):  # demo accounts do not tell
            switches = await self.result("ask the fee coin", "private_get_v5_account_user_setting_config", {})
            if any(switches.get(name) for name in FEE_SWITCHES):
                return ("pays fees in MNT, which are booked at what they are worth: switch it off to pay USDT",)
        return ()

    async def leverage(self, symbol: str, refusal: type[TradingError]) -> Decimal | None:
        doing, asked = f"ask the position mode of {symbol}", category_of(await self.market.listing(symbol))
        answer = await self.call(doing, "private_get_v5_position_list", asked)
        with understood(doing):
            rows = rows_of(answer)
            self.one_way(symbol, any(int(row["positionIdx"]) for row in rows), refusal)
            return told(rows[0], "leverage") if rows else None

    # --- underneath

    async def result(self, doing: str, method: str, params: JsonObject, **terms: Any) -> Row:
        """Return the result of a call of the venue's own, and its time."""
        answer = await self.call(doing, method, params, **terms)
        if not isinstance(answer.get("result"), dict):
            raise VenueUnavailable(f"{doing}: the answer has no result")
        return {"time": answer.get("time"), **answer["result"]}


def rows_of(answer: Row) -> list[dict[str, Any]]:
    """Return a list's rows, the first with the cursor of the next page; ccxt's own takes no list for an empty one."""
    rows: list[dict[str, Any]] = answer["result"]["list"]
    for row in rows[:1]:
        row["nextPageCursor"] = answer["result"].get("nextPageCursor")
    return rows


def category_of(market: Row) -> JsonObject:
    """Name a market as every private request does."""
    return {"category": "spot" if market["spot"] else "linear", "symbol": market["id"]}


def order_kinds(market: Row) -> tuple[JsonObject, ...]:
    """Return the filters of all orders there may be: on spot, stops are listed apart."""
    return ({}, {"orderFilter": "StopOrder"}) if market["spot"] else ({},)


def order_request(intent: OrderIntent, market: Row) -> JsonObject:
    """Write the body of /v5/order/create for a market or limit intent: a contract's entry brings its protection.

    On spot the quantity is base also for a market buy, and neither protection nor reduce-only exist.
    """
    body = category_of(market) | {
        "side": intent.side.capitalize(),
        "orderType": intent.type.capitalize(),
        "qty": wire(intent.quantity),
        "orderLinkId": intent.client_order_id,
    }
    if intent.type is OrderType.LIMIT:
        if intent.price is None:
            raise OrderRejected(f"send order {intent.client_order_id}: a limit order needs a price")
        body |= {"price": wire(intent.price), "timeInForce": "GTC"}
    if market["spot"]:
        return body if intent.type is OrderType.LIMIT else body | {"marketUnit": "baseCoin"}
    if intent.reduce_only:
        body["reduceOnly"] = True
    return body | {"positionIdx": 0} | protection(intent.stop, intent.target)


def protection(stop: Decimal | None, target: Decimal | None) -> JsonObject:
    """Write stop and target; None says nothing about it, 0 removes it (the venue's rule too)."""
    given = {name: wire(price) for name, price in (("stopLoss", stop), ("takeProfit", target)) if price is not None}
    return {"tpslMode": "Full", **given} if given else {}


def exit_reason(name: object, market: Row) -> Exit | None:
    kind = str(name or "")
    if "TakeProfit" in kind:
        return "target"
    spot = market["spot"] and kind in SPOT_STOPS
    return "stop" if spot or "StopLoss" in kind or "TrailingStop" in kind else None


def coin_of(account: Row, currency: str) -> Row:
    """Return the wallet's row of one coin; an empty one where it holds none."""
    return next((coin for coin in account["coin"] if coin["coin"] == currency), {"equity": "0"})


def permissions_of(result: Row, wanted: Mapping[str, Sequence[str]]) -> Permissions:
    """Read the result of /v5/user/query-api; wanted: the rights that trading takes, by group."""
    given, read_only = result.get("permissions") or {}, result.get("readOnly")
    rights = [str(right).lower() for group in given.values() for right in group or ()]
    return Permissions(
        account_id=str(result["userID"]),
        withdraw=any("withdraw" in right for right in rights) if "Wallet" in given else None,
        read_only=None if read_only is None else str(read_only) == "1",
        lacks=tuple(f"{of}: {name}" for of, names in wanted.items() for name in names if name not in given.get(of, ())),
    )


def fill_reason(info: Row, kind: str, market: Row) -> str:
    """Return why a fill happened, as far as the venue reports it; plain orders are named by our ledger, not here."""
    created = str(info.get("createType") or "")
    if kind == "Funding":
        return "funding"
    if kind not in TRADES:
        return kind
    if kind in FORCED or "Liq" in created or "Adl" in created:
        return "liquidation"
    return exit_reason(info.get("stopOrderType"), market) or exit_reason(created, market) or ""
