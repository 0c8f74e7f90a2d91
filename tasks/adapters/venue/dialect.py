"""What an exchange's dialect is: our account there, in the words of `core.types.orders`. One subclass per exchange.

Here is what ccxt's unified calls do alike at every exchange. Choices: ccxt hands numbers on as the venue wrote them
(`as_written`); they become Decimal in `wire.exact`. Venues that count in contracts do so on the wire only: here alone a
quantity is multiplied or divided by the contract size. What the unified rows lose is read from the venue's own row
(`info`) by the dialect. Left out on purpose: hedge mode, streaming.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, Literal

from tasks import clock
from tasks.adapters.venue import trials
from tasks.adapters.venue.account import ArmingFacts, Permissions, accepted, check_key
from tasks.adapters.venue.client import translated, understood
from tasks.adapters.venue.market import MarketData
from tasks.adapters.venue.meaning import Meaning
from tasks.adapters.venue.wire import Row, at, contract_size, exact, ms, number, number_or_zero, price_or_none, wire
from tasks.core.types import (
    ZERO,
    Balance,
    Fill,
    InputError,
    JsonObject,
    Order,
    OrderGone,
    OrderIntent,
    OrderRejected,
    OrderStatus,
    OrderType,
    Side,
    TradingError,
    VenueError,
    VenuePosition,
    VenueUnavailable,
    exact_sum,
    floor_to_step,
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
LATE = timedelta(minutes=2)  # more than any position is listed late
_log = logging.getLogger(__name__)


class Dialect(ABC):
    """Our account at one exchange; see `ports.Venue` for what the methods of the same names promise.

    attaches: a contract's entry goes out with its stop and target, in one request; a recorded request shows it.
    keeps_ids: the id of an order that has ended is refused too. takes_spot: the dialect can trade spot too. quote:
    what it settles in. Quantities are base here, whatever the venue counts in.
    asked: what a call of that name is always asked with. finds, plain, exits: the parameters of each place where an
    order may be found, of each list of working orders, of stops and targets. cursor: the parameter that pages such a
    list by the last row's id; empty: it comes whole. page: rows of a full page. trade_time: the field of an execution's
    row, fills_span: the longest time one question about them may be about, fills_kept: how far back the venue
    remembers, newest_first: a full page leaves out older ones. leverage_as, leverage_texts: what leverage may be, and
    the parameters in which it is sent as text. flawed: the margin modes we cannot trade in, each with its remedy.
    moves: what rests is moved at once, and the position is never without. options: of the ccxt client.
    """

    attaches = True
    keeps_ids = False
    takes_spot = False
    quote = "USDT"
    asked: ClassVar[Mapping[str, JsonObject]] = {}
    finds: ClassVar[tuple[JsonObject, ...]] = ({},)
    plain: ClassVar[tuple[JsonObject, ...]] = ({},)
    exits: ClassVar[tuple[JsonObject, ...]] = ()
    cursor = ""
    page = 100
    trade_time = "time"
    fills_span = timedelta(days=7)
    fills_kept = timedelta(days=90)
    newest_first = True
    leverage_as: ClassVar[type[int] | type[Decimal]] = int
    leverage_texts: ClassVar[tuple[str, ...]] = ()
    flawed: ClassVar[Mapping[str, str]] = {}
    options: ClassVar[JsonObject] = {}
    moves = False

    def __init__(self, market: MarketData, settings: Settings) -> None:
        self.market, self.settings = market, settings
        self.spot = tuple(symbol for symbol in settings.symbols if ":" not in symbol)
        self._purposes: dict[tuple[str, str], tuple[str, str]] = {}  # our id and the reason of orders' fills
        market.client.options.update(self.options)
        if settings.profile != "paper":
            market.client.number = as_written
        if settings.profile == "live":
            market.check_key = self._check_key

    # --- what there is

    async def balance(self) -> Balance:
        """Return the account in our quote; a coin it does not hold is nothing, not an error."""
        doing, coin = "fetch the balance", self.quote
        answer = await self.call(doing, "fetch_balance")
        with understood(doing):
            equity, free = self.funds_of(answer, coin)
            held = {name: str(total) for name, total in answer["total"].items() if name != coin}
        other = {name: total for name, total in held.items() if total.strip("0.")}
        return Balance(equity=equity, available=max(min(free, equity), ZERO), currency=coin, other=other)

    def funds_of(self, answer: Row, coin: str) -> tuple[Decimal, Decimal]:
        """Return (equity, free for new margin)."""
        funds = answer.get(coin) or {"total": "0", "free": "0"}
        return number_or_zero(funds, "total"), number_or_zero(funds, "free")

    async def positions(self) -> list[VenuePosition]:
        """Return the open positions settled in our quote, each with the stop and target that cover all of it."""
        doing, found = "fetch the positions", list[VenuePosition]()
        rows = await self.position_rows(doing)
        with understood(doing):
            for row in rows:
                market = self.known(row)
                if market and (position := self.position_of(row, market)):
                    found.append(position)
        return [await self.guarded(position) for position in found]

    async def guarded(self, held: VenuePosition) -> VenuePosition:
        """Return a position with the stop and target that rest for it."""
        return protected(held, await self.protections(held.symbol))

    async def position_rows(self, doing: str) -> Any:
        return await self.call(doing, "fetch_positions")

    def known(self, row: Row) -> Row | None:
        """Return a row's market, None for one that is not settled in our quote.

        What is held of a contract that is listed no longer hides nothing else: its name is read from its id.
        """
        markets: Mapping[str, Row] = self.market.client.markets
        name, quote = str(row["symbol"]), self.quote
        market = markets.get(name)
        if market is None or market["spot"]:  # ids of contracts may be those of spot too
            base, _, rest = name.partition(quote)
            if rest in ("", "-SWAP", f":{quote}") and base != name:
                return {"symbol": f"{base.rstrip('-/')}/{quote}:{quote}", "spot": False, "contractSize": 1}
            if quote in name:
                raise KeyError(name)
        return market if market and market["linear"] and market["settle"] == quote else None

    def position_of(self, row: Row, market: Row) -> VenuePosition | None:
        """Read a unified position; None for a flat one, which a venue may list too."""
        quantity = abs(number_or_zero(row, "contracts")) * contract_size(market)
        if not quantity:
            return None
        side, price = POSITION_SIDES[row["side"]], number(row, "entryPrice")
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
        market, doing, found = await self.market.listing(symbol), f"fetch open {symbol} orders", list[Order]()
        for each in lists:
            rows = await self.paged(doing, partial(self.call, doing, "fetch_open_orders", symbol), each, self.next_page)
            with understood(doing):
                found += [order for row in rows for order in self.orders_of(row, market)]
        known = {(order.venue_order_id, order.type): order for order in found}
        return [order for order in known.values() if order.status is OrderStatus.OPEN]

    def next_page(self, rows: Sequence[Row], before: JsonObject) -> JsonObject:  # noqa: ARG002
        """Return what the page of orders after these is asked with, nothing after the last."""
        if not self.cursor or len(rows) < self.page:
            return {}
        return {self.cursor: min((len(str(row["id"])), str(row["id"])) for row in rows)[1]}

    async def find_order(self, symbol: str, client_order_id: str) -> Order | None:
        """Ask by our id. None only if the venue says there is no such order."""
        doing, market = f"look up order {client_order_id}", await self.market.listing(symbol)
        for place in self.finds:
            rows = await self.look_up(doing, symbol, client_order_id, place)
            with understood(doing):
                orders = [self.orders_of(row, market)[0] for row in rows]
                if strange := {order.client_order_id for order in orders} - {client_order_id}:
                    raise ValueError(f"answered with order {strange}")
                if orders:
                    return max(orders, key=lambda order: order.updated_at)
        return None

    async def look_up(self, doing: str, symbol: str, client_order_id: str, place: JsonObject) -> list[Any]:
        """Return what one place has by an id of ours: an order, or nothing."""
        asked = place | {"clientOrderId": self.wire_id(client_order_id)}
        row = await self.call(doing, "fetch_order", None, symbol, asked, fine=Meaning.GONE)
        return [] if row is None else [row]

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
        price = (exit_[1] or None) if exit_ else price_or_none(row, "price")
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
            updated_at=at(row["timestamp"] if row["lastUpdateTimestamp"] is None else row["lastUpdateTimestamp"]),
        )

    async def fills(self, symbol: str, since: datetime) -> list[Fill]:
        """Return executions since then, oldest first. Full pages are followed, so that none is left out."""
        market, now, rows = await self.market.listing(symbol), await self.market.now(), list[Row]()
        doing, start = f"fetch {symbol} fills", max(since, now - self.fills_kept)
        while start <= now:
            end = start + self.fills_span
            asked: JsonObject = {"startTime": ms(start)}
            if end < now:
                asked["endTime"] = ms(end)
            rows += await self.paged(doing, partial(self.trades, doing, market), asked, self.more_trades)
            start = end
        fills = self.fills_of(doing, rows, market)
        return sorted(await self.explained(fills, market), key=lambda fill: fill.at)

    @abstractmethod
    async def trades(self, doing: str, market: Row, asked: JsonObject) -> Sequence[Row]:
        """Return a page of our executions as the venue writes them; asked: startTime, endTime, and `more_trades`."""

    def more_trades(self, rows: Sequence[Row], before: JsonObject) -> JsonObject:
        """Return what the page of executions after these is asked with, nothing after the last."""
        if len(rows) < self.page:
            return {}
        times = [int(row[self.trade_time]) for row in rows]
        more: JsonObject = {"endTime": min(times)} if self.newest_first else {"startTime": max(times)}
        if more == before:
            raise ValueError(f"more than {self.page} in one millisecond")
        return more

    def fills_of(self, doing: str, rows: Iterable[Row], market: Row) -> list[Fill]:
        """Read executions, each once. One that cannot be read is told and set aside, unless none can be."""
        found, flaws, client = dict[str, Fill](), list[VenueUnavailable](), self.market.client
        for row in rows:
            try:
                with translated(client, doing), understood(doing):
                    trade = client.parse_trade(row, market)
                    if trade["symbol"] == market["symbol"]:
                        fill = self.fill_of(trade, market)
                        found[fill.fill_id] = fill
            except VenueUnavailable as e:
                flaws.append(e)
                _log.error("%s; set aside: %.300s", e, row)
        if flaws and not found:
            raise flaws[0]
        return list(found.values())[:: -1 if self.newest_first else 1]

    def fill_of(self, row: Row, market: Row) -> Fill:
        """Read a unified trade; a fee is positive when paid."""
        fee = row.get("fee") or {}
        return Fill(
            fill_id=str(row["id"]),
            venue_order_id=str(row["order"]),
            symbol=market["symbol"],
            side=SIDES[row["side"]],
            quantity=number(row, "amount") * contract_size(market),
            price=number(row, "price"),
            fee=exact(fee.get("cost") or 0, "fee"),
            fee_currency=fee.get("currency") or market["settle"],
            liquidity="maker" if row["takerOrMaker"] == "maker" else "taker",
            at=at(row["timestamp"]),
        )

    async def explained(self, fills: list[Fill], market: Row) -> list[Fill]:
        """Return fills with what their rows do not tell: our ids, and why they happened."""
        return [fill if fill.client_order_id or fill.reason else await self.named(fill, market) for fill in fills]

    async def named(self, fill: Fill, market: Row) -> Fill:
        """Return a fill whose row tells neither with our id and why it happened: its order is asked, once."""
        name, key = fill.venue_order_id, (fill.symbol, fill.venue_order_id)  # some venues count orders by symbol
        if key not in self._purposes:
            doing = f"look up order {name}"
            row = await self.call(doing, "fetch_order", name, fill.symbol, fine=Meaning.GONE)
            if row is None:
                return fill
            with understood(doing):
                order = self.orders_of(row, market)[0]
            self._purposes[key] = await self.purpose(order)
        client_order_id, reason = self._purposes[key]
        return fill.replace(client_order_id=client_order_id, reason=reason)

    async def purpose(self, order: Order) -> tuple[str, str]:
        """Return an order's id of ours and the reason of its fills."""
        return order.client_order_id, order.type if order.type in EXITS else ""

    # --- what is done

    async def prepare(self, market: Row) -> None:
        symbol = market["symbol"]
        leverage = await self.leverage(symbol, OrderRejected)
        limits, instrument = self.settings.limits, await self.market.instrument(symbol)
        wanted = self.leverage_as(min(limits.leverage_of(symbol), instrument.max_leverage))
        if leverage != wanted:
            doing, texts = f"set {symbol} leverage {wanted}", dict.fromkeys(self.leverage_texts, wire(Decimal(wanted)))
            await self.call(doing, "set_leverage", wanted, symbol, texts, order=True, fine=Meaning.NOT_MODIFIED)

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
        with understood(doing):
            when = at(answer["timestamp"]) if answer.get("timestamp") else clock.now()
            return accepted(intent, str(answer["id"]), when)

    async def send(self, doing: str, intent: OrderIntent, market: Row) -> Any:
        """Send a sound intent; return the venue's acknowledgement as ccxt reads it."""
        quantity, limit = wire(intent.quantity / contract_size(market)), intent.type is OrderType.LIMIT
        price = wire(intent.price) if limit and intent.price else None
        what = (intent.symbol, intent.type.value, intent.side, quantity, price)
        return await self.call(doing, "create_order", *what, self.order_asked(intent), order=True)

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
            raise OrderGone(f"{doing}: no position is open, nothing of it is held")
        if held:
            ours = min(quantity or held.quantity, held.quantity)
            part = ours < held.quantity or market["spot"]
            held = held.replace(quantity=ours, stop_quantity=ours if part else None)
        resting, gone = await self.protections(symbol), list[Order]()
        for kind, price in zip(EXITS, (stop, target), strict=True):
            if price is None:
                continue
            before = [order for order in resting if order.type == kind]
            if held and price:
                wrong = [order for order in before if order.price != price]
                if covered(before, held) and (self.moves or not wrong):
                    for order in wrong:
                        await self.move(market, order, price)
                    continue
                await self.rest(market, held, kind, price, client_order_id)
            gone += before
        await self.unrest(market, gone)

    async def move(self, market: Row, order: Order, trigger: Decimal) -> None:
        """Move a stop or target that rests, at once; only where the dialect `moves`."""
        raise NotImplementedError

    @abstractmethod
    async def rest(self, market: Row, held: VenuePosition, kind: Exit, trigger: Decimal, client_order_id: str) -> None:
        """Let a stop or target rest, at market, for all of a position.

        held.stop_quantity: only that much of the venue's position is ours; None: all of it.
        """

    @abstractmethod
    async def unrest(self, market: Row, orders: Sequence[Order]) -> None:
        """Take away resting stops or targets; what is already gone is fine."""

    async def cancel(self, market: Row, client_order_id: str) -> None:
        doing, asked = f"cancel order {client_order_id}", {"clientOrderId": self.wire_id(client_order_id)}
        await self.call(doing, "cancel_order", None, market["symbol"], asked, order=True, fine=Meaning.GONE)

    # --- whose it is

    @abstractmethod
    async def permissions(self) -> Permissions:
        """Return whose key this is and what it may do."""

    async def arming(self) -> ArmingFacts:
        """Return how the account is set and what keeps it from trading; raises InputError in hedge mode."""
        mode = await self.margin_mode()
        if mode in self.flawed:
            return ArmingFacts(margin_mode=mode, leverage={}, flaws=(self.flawed[mode],))
        contracts = [symbol for symbol in self.settings.symbols if symbol not in self.spot]
        leverage = {symbol: await self.leverage(symbol, InputError) for symbol in contracts}
        flaws = tuple(filter(None, [(await self.balance()).lack]))
        return ArmingFacts(margin_mode=mode, leverage=leverage, flaws=flaws, notes=await self.notes())

    @abstractmethod
    async def margin_mode(self) -> str:
        """Return how the account's margin is reckoned, in the venue's word."""

    async def notes(self) -> tuple[str, ...]:
        """Return what a person should know about the account."""
        return ()

    async def leverage(self, symbol: str, refusal: type[TradingError]) -> Decimal | None:
        """Return the leverage set for a contract, None where it is not told; raise `refusal` in hedge mode."""
        mode = await self.call(f"ask the position mode of {symbol}", "fetch_position_mode", symbol)
        self.one_way(symbol, bool(mode.get("hedged")), refusal)
        doing = f"ask the leverage of {symbol}"
        answer = await self.call(doing, "fetch_leverage", symbol)
        with understood(doing):
            return min(self.leverages_of(answer), default=None)

    def one_way(self, symbol: str, hedged: bool, refusal: type[TradingError]) -> None:
        if hedged:
            raise refusal(f"{symbol} is in hedge mode at {self.market.name}: switch the account to one-way mode")

    def leverages_of(self, answer: Row) -> list[Decimal]:
        return [exact(answer[side], side) for side in ("longLeverage", "shortLeverage") if answer[side] is not None]

    # --- underneath

    async def _check_key(self) -> None:
        trials.require(self.settings)
        check_key(await self.permissions(), self.settings)
        self.market.check_key = None

    async def tradable(self, symbol: str, doing: str) -> Row:
        market, settled = await self.market.listing(symbol), self.quote
        kind = market["linear"] or (self.takes_spot and market["spot"])
        if not kind or (market["settle"] or market["quote"]) != settled:
            spot = f" nor spot against {settled}" if self.takes_spot else ""
            raise OrderRejected(f"{doing}: {symbol} is no {settled}-settled linear contract{spot}")
        return market

    async def paged(
        self,
        doing: str,
        ask: Callable[[JsonObject], Awaitable[Sequence[Row]]],
        asked: JsonObject,
        more: Callable[[Sequence[Row], JsonObject], JsonObject],
    ) -> list[Row]:
        """Return the rows of all pages; more: what the one after these rows is asked with, nothing after the last."""
        rows, later = list[Row](), JsonObject()
        for _ in range(MAX_PAGES):
            page = await ask(asked | later)
            rows += page
            with understood(doing):
                later = more(page, later)
            if not later:
                return rows
        raise VenueUnavailable(f"{doing}: more than {MAX_PAGES} pages")

    async def call(
        self, doing: str, method: str, *given: Any, order: bool = False, ready: bool = True, fine: Meaning | None = None
    ) -> Any:
        """Make one signed call of ccxt; its parameters come last. fine: None for an error of this meaning.

        None goes out on paper. ready: load the markets first.
        """
        if self.settings.profile == "paper":
            raise InputError(f"{doing}: profile paper has no account at {self.market.client.id}")
        if ready:
            await self.market.ready()
        *first, params = given if given and isinstance(given[-1], dict) else (*given, {})
        answer: Any = None
        with translated(self.market.client, doing, order=order, fine=fine), understood(doing):
            call = getattr(self.market.client, method)
            answer = await call(*first, params={**self.asked.get(method, {}), **params})
        return answer  # noqa: RET504  (None after an error that is fine)


def as_written(value: object) -> str:
    """Return a number's text; raises ValueError for what is none, which ccxt then takes as not told."""
    float(text := str(value))
    return text


def covered(resting: Iterable[Order], held: VenuePosition) -> bool:
    """Return whether stops or targets together close all of a position, or what is ours of it; quantity 0: all."""
    resting = list(resting)
    whole, size = any(not o.quantity for o in resting), exact_sum(o.quantity - o.filled for o in resting)
    return whole or size >= held.quantity if held.stop_quantity is None else size == held.stop_quantity and not whole


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
