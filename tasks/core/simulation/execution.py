"""Executing and booking: how a fill changes the order, the position and its protection.

The lower half of the fill engine; `matching` decides when and at what price.
"""

import uuid
from datetime import datetime
from decimal import Context, Decimal

from pydantic import BaseModel

from tasks.core.simulation.account import Account, Holding, Totals
from tasks.core.simulation.venue_rules import opening_quantity, sign_of
from tasks.core.trading.money import BPS, bps
from tasks.core.types.limits import Costs
from tasks.core.types.orders import Fill, Order, OrderIntent, OrderStatus, OrderType, Side

ZERO = Decimal(0)
AVERAGE = Context(prec=12)  # a fill is an average over book levels: finer than the tick, still finite
IDS = uuid.UUID("6d0f6c1e-2f52-5d0b-9a53-0f3f6c1b7a10")


class _State(BaseModel):
    cash: Decimal
    wallet: Decimal
    default_leverage: Decimal
    leverages: dict[str, Decimal]
    holdings: dict[str, Holding]
    totals: dict[str, Totals]
    last: dict[str, Decimal]
    orders: list[Order]
    fills: list[Fill]
    expiries: dict[str, datetime]
    protection: list[str]


class Executor:
    """Orders, fills and the account they change."""

    def __init__(self, account: Account, costs: Costs) -> None:
        self.costs = costs
        self.account = account
        self.fills: list[Fill] = []
        self._orders: dict[str, Order] = {}  # by venue id, in the order they arrived
        self._ids: dict[str, str] = {}  # client id -> venue id
        self._resting: dict[str, list[str]] = {}  # symbol -> venue ids of working limit orders
        self._expiries: dict[str, datetime] = {}

    def _slipped(self, sign: int, price: Decimal, quantity: Decimal, half_spread_bps: Decimal) -> Decimal:
        impact = self.costs.impact_bps_per_million * quantity * price / 1_000_000
        return AVERAGE.multiply(price, 1 + sign * (half_spread_bps + impact) * BPS)

    def _take(self, order: Order, price: Decimal, spread: Decimal, depth: Decimal | None, at: datetime) -> None:
        """Trade at once what is marketable; a limit order never pays more than its price."""
        sign = sign_of(order.side)
        quantity = order.quantity if depth is None else min(order.quantity, depth)
        fill_price = self._slipped(sign, price, quantity, spread)
        if order.price is not None:
            touch = AVERAGE.multiply(price, 1 + sign * spread * BPS)
            if sign * (order.price - touch) < 0:
                return
            fill_price = min(fill_price, order.price) if sign > 0 else max(fill_price, order.price)
        if quantity > 0:
            self._execute(order, quantity, fill_price, "taker", at, at)

    def _execute(
        self, order: Order, quantity: Decimal, price: Decimal, liquidity: str, entered_at: datetime, at: datetime
    ) -> None:
        """Fill `quantity` of an order; one that flips the position fills in two parts, exit first."""
        sign = sign_of(order.side)
        holding = self.account.holdings.get(order.symbol)
        opening = opening_quantity(holding, sign, quantity)
        closing = quantity - opening
        if order.reduce_only:
            opening = ZERO
        for part, reason in ((closing, "exit"), (opening, "entry")):
            if part:
                self._book(order.venue_order_id, part, price, liquidity, reason, entered_at, at)
        holding = self.account.holdings.get(order.symbol)
        if opening and holding is not None and (order.stop or order.target):
            self.set_protection(order.symbol, order.stop, order.target, at)

    def _close(
        self, holding: Holding, price: Decimal, liquidity: str, reason: str, entered_at: datetime, at: datetime
    ) -> None:
        """Close the whole position through its stop or target, or for the venue when equity is gone."""
        key = {"stop": holding.stop_order, "target": holding.target_order}.get(reason, "")
        if not key:
            key = derived_id(reason, holding.symbol, holding.opened_at, at, str(len(self.fills)))
            side: Side = "sell" if holding.sign > 0 else "buy"
            order = Order(
                client_order_id="",
                venue_order_id=key,
                symbol=holding.symbol,
                side=side,
                type=reason,
                status=OrderStatus.OPEN,
                quantity=holding.quantity,
                price=holding.target if reason == "target" else holding.stop,
                reduce_only=True,
                created_at=at,
                updated_at=at,
            )
            self._keep(order)
        else:
            self._keep(self._orders[key].model_copy(update={"quantity": holding.quantity}))
        self._book(key, holding.quantity, price, liquidity, reason, entered_at, at)
        self._keep(self._orders[key].model_copy(update={"status": OrderStatus.FILLED}))

    def _book(
        self,
        key: str,
        quantity: Decimal,
        price: Decimal,
        liquidity: str,
        reason: str,
        entered_at: datetime,
        at: datetime,
    ) -> None:
        """Book one execution: the fill, the account, the order; a position that ends takes its protection along."""
        order = self._orders[key]
        fee = bps(quantity * price, self.costs.maker_bps if liquidity == "maker" else self.costs.taker_bps)
        before = self.account.holdings.get(order.symbol)
        self.account.trade(order.symbol, sign_of(order.side), quantity, price, fee, entered_at)
        fill = Fill(
            fill_id=derived_id(key, str(len(self.fills)), at),
            venue_order_id=key,
            client_order_id=order.client_order_id,
            symbol=order.symbol,
            side=order.side,
            quantity=quantity,
            price=price,
            fee=fee,
            fee_currency=quote_of(order.symbol),
            liquidity="maker" if liquidity == "maker" else "taker",
            reason=reason,
            at=at,
        )
        self.fills.append(fill)
        filled = order.filled + quantity
        spent = (order.avg_price or ZERO) * order.filled + quantity * price
        self._keep(
            order.model_copy(update={"filled": filled, "avg_price": AVERAGE.divide(spent, filled), "updated_at": at})
        )
        if before is not None and order.symbol not in self.account.holdings:
            self._end_protection(before, key, at)

    def set_protection(self, symbol: str, stop: Decimal | None, target: Decimal | None, at: datetime) -> str:
        """Set the position's resting stop and target; None leaves, 0 removes. Returns "" or the refusal's code."""
        holding = self.account.holdings.get(symbol)
        if holding is None:
            return "no_position"
        if stop is not None:
            self._replace(holding.stop_order, at)
            holding.stop, holding.stop_order = stop or None, ""
        if target is not None:
            self._replace(holding.target_order, at)
            holding.target, holding.target_order = target or None, ""
        return ""

    def _clamped(self, intent: OrderIntent) -> Decimal:
        """Return the quantity, for reduce-only at most the position's."""
        holding = self.account.holdings.get(intent.symbol)
        if not intent.reduce_only or holding is None:
            return intent.quantity
        return min(intent.quantity, holding.quantity)

    def _reserved(self, besides: str = "") -> Decimal:
        """Return the margin that working orders tie up, `besides` one; what only reduces ties up none."""
        total = ZERO
        for symbol in self._resting:
            for order in self._working(symbol):
                if not order.reduce_only and order.venue_order_id != besides:
                    total += (order.quantity - order.filled) * limit_price(order) / self.account.leverage(symbol)
        return total

    def _working(self, symbol: str) -> list[Order]:
        return [self._orders[key] for key in self._resting.get(symbol, ())]

    def _new_order(self, intent: OrderIntent, at: datetime) -> Order:
        """Return the order an intent becomes; where nothing can be shorted every sell is reduce-only."""
        instrument = self.account.instruments.get(intent.symbol)
        shortable = instrument is None or (instrument.shorting and instrument.kind != "spot")
        return Order(
            client_order_id=intent.client_order_id,
            venue_order_id=derived_id(intent.client_order_id, str(len(self._orders)), at),
            symbol=intent.symbol,
            side=intent.side,
            type=intent.type.value,
            status=OrderStatus.OPEN,
            quantity=self._clamped(intent),
            price=None if intent.type is OrderType.MARKET else intent.price,
            stop=intent.stop,
            target=intent.target,
            reduce_only=intent.reduce_only or (intent.side == "sell" and not shortable),
            created_at=at,
            updated_at=at,
        )

    def _keep(self, order: Order) -> None:
        self._orders[order.venue_order_id] = order

    def _rest_or_end(self, key: str, expires_at: datetime | None, at: datetime) -> None:
        """Put an order where it now belongs: done, in the book, or cancelled for want of a position or depth."""
        order = self._orders[key]
        resting = self._resting.setdefault(order.symbol, [])
        if order.filled == order.quantity:
            self._end(key, OrderStatus.FILLED, "", at)
        elif order.type == OrderType.MARKET.value:
            self._end(key, OrderStatus.CANCELLED, "partial", at)
        elif order.reduce_only and order.symbol not in self.account.holdings:
            self._end(key, OrderStatus.CANCELLED, "no_position", at)
        elif key not in resting:
            resting.append(key)
            if expires_at is not None:
                self._expiries[key] = expires_at

    def _end(self, key: str, status: OrderStatus, reason: str, at: datetime) -> None:
        order = self._orders[key]
        if key in self._resting.get(order.symbol, ()):
            self._resting[order.symbol].remove(key)
        self._expiries.pop(key, None)
        self._keep(order.model_copy(update={"status": status, "reason": reason, "updated_at": at}))

    def _change_protection(self, order: Order, at: datetime) -> None:
        holding = self.account.holdings[order.symbol]
        if order.type == OrderType.STOP.value:
            self.set_protection(order.symbol, order.price, None, at)
            holding.stop_order = order.venue_order_id
        elif order.type == OrderType.TARGET.value:
            self.set_protection(order.symbol, None, order.price, at)
            holding.target_order = order.venue_order_id
        else:
            self.set_protection(order.symbol, None, ZERO, at)
            self._end(order.venue_order_id, OrderStatus.FILLED, "", at)

    def _replace(self, key: str, at: datetime) -> None:
        if key:
            self._end(key, OrderStatus.CANCELLED, "replaced", at)

    def _end_protection(self, holding: Holding, fired: str, at: datetime) -> None:
        """Cancel what only made sense with the position: its other leg and its reduce-only orders."""
        legs = [key for key in (holding.stop_order, holding.target_order) if key and key != fired]
        legs += [o.venue_order_id for o in self._working(holding.symbol) if o.reduce_only and o.venue_order_id != fired]
        for key in legs:
            self._end(key, OrderStatus.CANCELLED, "no_position", at)

    def forget(self, before: datetime) -> None:
        """Drop fills, and orders that ended, before then; their client ids are free again."""
        self.fills = [fill for fill in self.fills if fill.at >= before]
        kept = [o for o in self._orders.values() if o.status is OrderStatus.OPEN or o.updated_at >= before]
        self._orders = {order.venue_order_id: order for order in kept}
        self._ids = {order.client_order_id: order.venue_order_id for order in kept if order.client_order_id}

    def dump(self) -> str:
        """Return the whole state as JSON; `load` gives it back exactly."""
        account = self.account
        protection = [key for h in account.holdings.values() for key in (h.stop_order, h.target_order) if key]
        return _State(
            cash=account.cash,
            wallet=account.wallet,
            default_leverage=account.default_leverage,
            leverages=account.leverages,
            holdings=account.holdings,
            totals=account.totals,
            last=account.last,
            orders=list(self._orders.values()),
            fills=self.fills,
            expiries=self._expiries,
            protection=protection,
        ).model_dump_json()

    def load(self, text: str) -> None:
        """Replace the state by a dumped one; instruments and costs stay this engine's."""
        state = _State.model_validate_json(text)
        account = Account(state.cash, self.account.instruments, state.default_leverage)
        account.wallet, account.leverages, account.holdings = state.wallet, state.leverages, state.holdings
        account.totals, account.last = state.totals, state.last
        self.account, self.fills, self._expiries = account, state.fills, state.expiries
        self._orders = {order.venue_order_id: order for order in state.orders}
        self._ids = {o.client_order_id: o.venue_order_id for o in state.orders if o.client_order_id}
        self._resting = {}
        for order in state.orders:
            if order.status is OrderStatus.OPEN and order.venue_order_id not in state.protection:
                self._resting.setdefault(order.symbol, []).append(order.venue_order_id)


def limit_price(order: Order) -> Decimal:
    return order.price if order.price is not None else ZERO


def quote_of(symbol: str) -> str:
    """Return the quote currency of a ccxt unified symbol."""
    return symbol.partition("/")[2].partition(":")[0] or "USDT"


def derived_id(*parts: str | datetime) -> str:
    return str(uuid.uuid5(IDS, ":".join(p.isoformat() if isinstance(p, datetime) else p for p in parts)))
