"""What ccxt's unified calls do alike at every exchange: the base of all dialects but Bybit's.

Choices: ccxt hands numbers on as the venue wrote them (`as_written`); they become Decimal in `wire.exact`. Venues that
count in contracts do so on the wire only: here alone a quantity is multiplied or divided by the contract size. What the
unified rows lose is read from the venue's own row (`info`) by the dialect. Left out on purpose: spot, hedge mode,
streaming.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Literal

from tasks import clock
from tasks.adapters.venue.account import Dialect, accepted
from tasks.adapters.venue.client import translated, understood
from tasks.adapters.venue.market import MarketData
from tasks.adapters.venue.meaning import Meaning
from tasks.adapters.venue.wire import Row, at, contract_size, exact, ms, number_or_zero, price_or_none, wire
from tasks.core.errors import OrderGone, OrderRejected, TradingError, VenueError, VenueUnavailable
from tasks.core.trading.money import floor_to_step
from tasks.core.types import (
    ZERO,
    Balance,
    Fill,
    JsonObject,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Side,
    VenuePosition,
    exact_sum,
)
from tasks.settings import Settings

Exit = Literal["stop", "target"]
STATUS = {
    "open": OrderStatus.OPEN,
    "closed": OrderStatus.FILLED,
    "canceled": OrderStatus.CANCELLED,
    "expired": OrderStatus.CANCELLED,
    "rejected": OrderStatus.REJECTED,
}
SIDES: dict[str, Side] = {"buy": "buy", "sell": "sell"}
POSITION_SIDES: dict[str, Literal["long", "short"]] = {"long": "long", "short": "short"}
EXITS: tuple[Exit, Exit] = ("stop", "target")
MAX_PAGES = 100
SAME = Meaning.NOT_MODIFIED
LATE = timedelta(minutes=2)  # more than any position is listed late


class Unified(Dialect):
    """Our account through ccxt's unified calls; see `Dialect`.

    asked: what a call of that name is always asked with. finds, plain, exits: the parameters of each place where an
    order may be found, of each list of working orders, of stops and targets. cursor: the parameter that pages such a
    list by the last row's id; empty: it comes whole. page: rows of a full page. fills_span: the longest time one
    question about fills may be about, fills_kept: how far back the venue remembers, newest_first: a full page leaves
    out older ones. leverage_text: the parameter in which leverage is sent as text.
    """

    asked: ClassVar[Mapping[str, JsonObject]] = {}
    finds: ClassVar[tuple[JsonObject, ...]] = ({},)
    plain: ClassVar[tuple[JsonObject, ...]] = ({},)
    exits: ClassVar[tuple[JsonObject, ...]] = ()
    cursor: ClassVar[str] = ""
    page: ClassVar[int] = 100
    fills_span: ClassVar[timedelta] = timedelta(days=7)
    fills_kept: ClassVar[timedelta] = timedelta(days=90)
    newest_first: ClassVar[bool] = True
    leverage_text: ClassVar[str] = ""

    def __init__(self, market: MarketData, settings: Settings) -> None:
        super().__init__(market, settings)
        self._purposes: dict[str, tuple[str, str]] = {}  # our id and the reason of orders' fills
        market.client.number = as_written

    # --- what there is

    async def balance(self) -> Balance:
        """Return the account in our quote; a coin it does not hold is nothing, not an error."""
        doing, coin = "fetch the balance", self.quotes[0]
        answer = await self.call(doing, "fetch_balance")
        with understood(doing, VenueUnavailable):
            equity, free = self.funds_of(answer, coin)
            held = {name: str(total) for name, total in answer["total"].items() if name != coin}
        other = {name: total for name, total in held.items() if total.strip("0.")}
        return Balance(equity=equity, available=max(min(free, equity), ZERO), currency=coin, other=other)

    def funds_of(self, answer: Row, coin: str) -> tuple[Decimal, Decimal]:
        """Return (equity, free for new margin)."""
        funds = answer.get(coin) or {"total": "0", "free": "0"}
        return number_or_zero(funds, "total"), number_or_zero(funds, "free")

    async def positions(self) -> list[VenuePosition]:
        """Return the open positions settled in our quotes, each with the stop and target that cover all of it."""
        doing, found = "fetch the positions", list[VenuePosition]()
        rows = await self.call(doing, "fetch_positions")
        with understood(doing, VenueUnavailable):
            for row in rows:
                market = self.known(row)
                if market and (position := self.position_of(row, market)):
                    found.append(position)
        return [protected(each, await self.protections(each.symbol)) for each in found]

    def known(self, row: Row) -> Row | None:
        """Return a row's market, None for one that is not settled in our quotes.

        Raises KeyError for one of ours that the venue no longer lists: how much of it is held cannot be told.
        """
        markets: Mapping[str, Row] = self.market.client.markets
        name = str(row["symbol"])
        if name not in markets and any(quote in name for quote in self.quotes):
            raise KeyError(name)
        market = markets.get(name)
        return market if market and market["linear"] and market["settle"] in self.quotes else None

    def position_of(self, row: Row, market: Row) -> VenuePosition | None:
        """Read a unified position; None for a flat one, which a venue may list too."""
        quantity = abs(number_or_zero(row, "contracts")) * contract_size(market)
        if not quantity:
            return None
        side, price = POSITION_SIDES[row["side"]], exact(row["entryPrice"], "entryPrice")
        return VenuePosition(symbol=market["symbol"], side=side, quantity=quantity, avg_price=price)

    async def protections(self, symbol: str) -> list[Order]:
        """Return the stops and targets that rest at the venue; none for a market it lists no longer."""
        if symbol not in self.market.client.markets:
            return []
        return [order for order in await self._listed(symbol, self.exits or self.plain) if order.type in EXITS]

    async def open_orders(self, symbol: str) -> list[Order]:
        """Return working orders, those that wait for a trigger among them; quantity 0: all of the position."""
        return await self._listed(symbol, (*self.plain, *self.exits))

    async def _listed(self, symbol: str, lists: Iterable[JsonObject]) -> list[Order]:
        market, found = await self.market.listing(symbol), dict[tuple[str, str], Order]()
        for each in lists:
            asked = dict(each)
            for _ in range(MAX_PAGES):
                doing = f"fetch open {symbol} orders"
                rows = await self.call(
                    doing, "fetch_open_orders", symbol, None, self.page if self.cursor else None, asked
                )
                with understood(doing, VenueUnavailable):
                    orders = [order for row in rows for order in self.orders_of(row, market)]
                    found |= {(order.venue_order_id, order.type): order for order in orders}
                    if not self.cursor or len(rows) < self.page:
                        break
                    oldest = min((len(str(row["id"])), str(row["id"])) for row in rows)
                    asked = each | {self.cursor: oldest[1]}
            else:
                raise VenueUnavailable(f"{doing}: more than {MAX_PAGES} pages")
        return [order for order in found.values() if order.status is OrderStatus.OPEN]

    async def find_order(self, symbol: str, client_order_id: str) -> Order | None:
        """Ask by our id. None only if the venue says there is no such order."""
        doing, market = f"look up order {client_order_id}", await self.market.listing(symbol)
        for place in self.finds:
            asked = place | {"clientOrderId": self.wire_id(client_order_id)}
            row = await self.call(doing, "fetch_order", None, symbol, asked, fine=Meaning.GONE)
            if row is not None:
                with understood(doing, VenueUnavailable):
                    order = self.orders_of(row, market)[0]
                    if order.client_order_id != client_order_id:
                        raise ValueError(f"answered with order {order.client_order_id!r}")
                    return order
        return None

    def wire_id(self, client_order_id: str) -> str:
        """Write our id as the venue takes it."""
        return client_order_id

    def orders_of(self, row: Row, market: Row) -> list[Order]:
        """Read a row of a list: one order, or the stop and the target that one row can be at some venues."""
        return [self.order_of(row, market)]

    def order_of(self, row: Row, market: Row, exit_: tuple[Exit, Decimal] | None = None) -> Order:
        """Read a unified order; exit_: it is a stop or target with this trigger.

        One rejected after a part of it was filled counts as cancelled: whoever sees "rejected" may forget the order.
        """
        size, status = contract_size(market), STATUS[row["status"]]
        quantity, filled = (number_or_zero(row, name) * size for name in ("amount", "filled"))
        type_ = exit_[0] if exit_ else "market" if row["type"] == "market" else "limit"
        price = exit_[1] if exit_ else price_or_none(row, "price")
        return Order(
            client_order_id=row["clientOrderId"] or "",
            venue_order_id=str(row["id"]),
            symbol=market["symbol"],
            side=SIDES[row["side"]],
            type=type_,
            status=OrderStatus.CANCELLED if status is OrderStatus.REJECTED and filled else status,
            quantity=quantity,
            filled=filled,
            price=None if type_ == "market" else price,
            avg_price=price_or_none(row, "average"),
            stop=price_or_none(row, "stopLossPrice"),
            target=price_or_none(row, "takeProfitPrice"),
            reduce_only=row["reduceOnly"] is True,
            created_at=at(row["timestamp"], "timestamp"),
            updated_at=at(row["lastUpdateTimestamp"] or row["timestamp"], "lastUpdateTimestamp"),
        )

    async def fills(self, symbol: str, since: datetime) -> list[Fill]:
        """Return executions since then, oldest first. Full pages are followed, so that none is left out."""
        market, now, found = await self.market.listing(symbol), await self.market.now(), dict[str, Fill]()
        start = max(since, now - self.fills_kept)
        while start <= now:
            end = start + self.fills_span
            found |= await self._fills_between(market, start, end if end < now else None)
            start = end
        return sorted(found.values(), key=lambda fill: fill.at)

    async def _fills_between(self, market: Row, start: datetime, end: datetime | None) -> dict[str, Fill]:
        doing, found, before = f"fetch {market['symbol']} fills", dict[str, Fill](), None
        while (start, end) != before:
            rows = await self.trades(doing, market, start, end)
            with understood(doing, VenueUnavailable):
                fills = [self.fill_of(row, market) for row in rows]
            found |= {fill.fill_id: fill for fill in fills}
            if len(rows) < self.page:
                return found
            times, before = [fill.at for fill in fills], (start, end)
            start, end = (start, min(times)) if self.newest_first else (max(times), end)
        raise VenueUnavailable(f"{doing}: more than {self.page} in one millisecond")

    async def trades(self, doing: str, market: Row, start: datetime, end: datetime | None) -> list[Any]:
        until = {"until": ms(end)} if end else {}
        trades: list[Any] = await self.call(doing, "fetch_my_trades", market["symbol"], ms(start), self.page, until)
        return trades

    def fill_of(self, row: Row, market: Row) -> Fill:
        """Read a unified trade; a fee is positive when paid."""
        fee = row.get("fee") or {}
        return Fill(
            fill_id=str(row["id"]),
            venue_order_id=str(row["order"]),
            symbol=market["symbol"],
            side=SIDES[row["side"]],
            quantity=exact(row["amount"], "amount") * contract_size(market),
            price=exact(row["price"], "price"),
            fee=exact(fee.get("cost") or 0, "fee"),
            fee_currency=fee.get("currency") or market["settle"],
            liquidity="maker" if row["takerOrMaker"] == "maker" else "taker",
            at=at(row["timestamp"]),
        )

    async def named(self, fill: Fill, market: Row) -> Fill:
        """Return a fill whose row tells neither with our id and why it happened: its order is asked, once."""
        name = fill.venue_order_id
        if name not in self._purposes:
            doing = f"look up order {name}"
            row = await self.call(doing, "fetch_order", name, fill.symbol, fine=Meaning.GONE)
            if row is None:
                return fill
            with understood(doing, VenueUnavailable):
                order = self.orders_of(row, market)[0]
            self._purposes[name] = await self.purpose(order)
        client_order_id, reason = self._purposes[name]
        return fill.replace(client_order_id=client_order_id, reason=reason)

    async def purpose(self, order: Order) -> tuple[str, str]:
        """Return an order's id of ours and the reason of its fills."""
        return order.client_order_id, order.type if order.type in EXITS else ""

    # --- what is done

    async def prepare(self, market: Row) -> None:
        symbol = market["symbol"]
        leverage = await self.leverage(symbol, OrderRejected)
        limits, instrument = self.settings.limits, await self.market.instrument(symbol)
        wanted = int(min(limits.leverage_of(symbol), instrument.max_leverage))
        if leverage != wanted:
            text = {self.leverage_text: str(wanted)} if self.leverage_text else {}
            await self.call(
                f"set {symbol} leverage {wanted}", "set_leverage", wanted, symbol, text, order=True, fine=SAME
            )

    async def create(self, intent: OrderIntent, market: Row) -> Order:
        doing, symbol = f"send order {intent.client_order_id}", intent.symbol
        step, limit = (await self.market.instrument(symbol)).step, intent.type is OrderType.LIMIT
        if not intent.quantity or floor_to_step(intent.quantity, step) != intent.quantity:
            raise OrderRejected(f"{doing}: quantity {intent.quantity} is no multiple of the step {step}")
        if limit and intent.price is None:
            raise OrderRejected(f"{doing}: a limit order needs a price")
        if not intent.reduce_only:
            await self._clear(market, await self.market.now() - LATE)
        answer = await self.send(doing, intent, market)
        with understood(doing, VenueUnavailable):
            when = at(answer["timestamp"]) if answer.get("timestamp") else clock.now()
            return accepted(intent, str(answer["id"]), when)

    async def send(self, doing: str, intent: OrderIntent, market: Row) -> Row:
        """Send a sound intent; return the venue's acknowledgement as ccxt reads it."""
        quantity, limit = wire(intent.quantity / contract_size(market)), intent.type is OrderType.LIMIT
        price = wire(intent.price) if limit and intent.price else None
        what = (intent.symbol, intent.type.value, intent.side, quantity, price)
        answer: Row = await self.call(doing, "create_order", *what, self.order_asked(intent), order=True)
        return answer

    def order_asked(self, intent: OrderIntent) -> JsonObject:
        """Write the parameters of an order: our id, reduce-only, and where the dialect `attaches`, stop and target."""
        asked: JsonObject = {"clientOrderId": self.wire_id(intent.client_order_id)}
        if intent.reduce_only:
            asked["reduceOnly"] = True
        for name, price in (("stopLoss", intent.stop), ("takeProfit", intent.target)):
            if price is not None and self.attaches:
                asked[name] = {"triggerPrice": wire(price)}
        return asked

    async def traded(self, market: Row, order: Order) -> None:
        """After an exit of ours, take away what outlived the position; what stays is found before the next entry."""
        if order.reduce_only:
            with suppress(VenueError):  # the exit is done, whatever becomes of this
                await self._clear(market, order.created_at)

    async def _clear(self, market: Row, since: datetime) -> None:
        """Take away stops and targets of then and before that outlived their position: they would close the next one.

        A position may be missing in one look, so two are taken.
        """
        symbol = market["symbol"]
        left = [each for each in await self.protections(symbol) if each.reduce_only and each.created_at <= since]
        if left and not await self._held(symbol) and not await self._held(symbol):
            await self.unrest(market, left)

    async def _held(self, symbol: str) -> VenuePosition | None:
        return next((position for position in await self.positions() if position.symbol == symbol), None)

    async def protect(
        self, market: Row, stop: Decimal | None, target: Decimal | None, quantity: Decimal | None, client_order_id: str
    ) -> None:
        """Let the new one rest before the old one goes; what rests already is left alone."""
        symbol, doing = market["symbol"], f"set {market['symbol']} stop={stop} target={target}"
        held = await self._held(symbol)
        if held is None and (stop or target):
            raise OrderGone(f"{doing}: no position is open")
        if held:
            ours = min(quantity or held.quantity, held.quantity)
            held = held.replace(quantity=ours, stop_quantity=ours if ours < held.quantity else None)
        resting, gone = await self.protections(symbol), list[Order]()
        for kind, price in zip(EXITS, (stop, target), strict=True):
            before: Sequence[Order] = [order for order in resting if order.type == kind]
            if price is None or (held and before and covered(before, held) and {o.price for o in before} == {price}):
                continue
            if held and price:
                before = await self.rest(market, held, kind, price, before, client_order_id)
            gone += before
        await self.unrest(market, gone)

    @abstractmethod
    async def rest(
        self,
        market: Row,
        held: VenuePosition,
        kind: Exit,
        trigger: Decimal,
        before: Sequence[Order],
        client_order_id: str,
    ) -> Sequence[Order]:
        """Let a stop or target rest, at market, for all of a position; return those of `before` that must go now.

        held.stop_quantity: only that much of the venue's position is ours; None: all of it.
        """

    @abstractmethod
    async def unrest(self, market: Row, orders: Sequence[Order]) -> None:
        """Take away resting stops or targets; what is already gone is fine."""

    async def cancel(self, market: Row, client_order_id: str) -> None:
        doing, asked = f"cancel order {client_order_id}", {"clientOrderId": self.wire_id(client_order_id)}
        await self.call(doing, "cancel_order", None, market["symbol"], asked, order=True, fine=Meaning.GONE)

    # --- whose it is

    async def leverage(self, symbol: str, refusal: type[TradingError]) -> Decimal | None:
        mode = await self.call(f"ask the position mode of {symbol}", "fetch_position_mode", symbol)
        self.one_way(symbol, bool(mode.get("hedged")), refusal)
        doing = f"ask the leverage of {symbol}"
        answer = await self.call(doing, "fetch_leverage", symbol)
        with understood(doing, VenueUnavailable):
            return min(self.leverages_of(answer), default=None)

    def one_way(self, symbol: str, hedged: bool, refusal: type[TradingError]) -> None:
        if hedged:
            raise refusal(f"{symbol} is in hedge mode at {self.market.name}: switch the account to one-way mode")

    def leverages_of(self, answer: Row) -> list[Decimal]:
        return [exact(answer[side], side) for side in ("longLeverage", "shortLeverage") if answer[side] is not None]

    # --- underneath

    async def call(
        self, doing: str, method: str, *given: Any, order: bool = False, ready: bool = True, fine: Meaning | None = None
    ) -> Any:
        """Make one signed call of ccxt; its parameters come last. fine: None for an error of this meaning."""
        await self.allowed(doing, ready)
        *first, params = given if given and isinstance(given[-1], dict) else (*given, {})
        answer: Any = None
        with translated(self.market.client, doing, order=order, fine=fine), understood(doing, VenueUnavailable):
            call = getattr(self.market.client, method)
            answer = await call(*first, params={**self.asked.get(method, {}), **params})
        return answer  # noqa: RET504  (None after an error that is fine)


def as_written(value: object) -> str:
    """Return a number's text; raises ValueError for what is none, which ccxt then takes as not told."""
    float(text := str(value))
    return text


def unlisted(symbol: str) -> Row:
    """Describe a market that is listed no longer where positions count in base: what is held there hides no other."""
    return {"symbol": symbol, "spot": False, "contractSize": 1}


def covered(resting: Iterable[Order], held: VenuePosition) -> bool:
    """Return whether stops or targets together close all of a position; quantity 0 is all of it."""
    resting = list(resting)
    return any(not o.quantity for o in resting) or exact_sum(o.quantity - o.filled for o in resting) >= held.quantity


def protected(held: VenuePosition, resting: Iterable[Order]) -> VenuePosition:
    """Return a position with the stop and target that together cover all of it: the last to be reached counts.

    A stop that covers a part is told with its quantity; such a target is none.
    """
    long, told = held.side == "long", dict[str, Decimal | None]()
    side = "sell" if long else "buy"
    closing = [order for order in resting if order.price and (order.reduce_only or order.side == side)]
    for kind in EXITS:
        falling = (kind == "stop") is long
        found = sorted((o for o in closing if o.type == kind), key=lambda o: o.price or ZERO, reverse=falling)
        if needed := next((n for n, _ in enumerate(found, 1) if covered(found[:n], held)), 0):
            told[kind] = found[needed - 1].price
        elif found and kind == "stop":
            told |= {"stop": found[-1].price, "stop_quantity": exact_sum(o.quantity - o.filled for o in found)}
    return held.replace(**told)
