"""The one fill engine: backtest, paper venue and sandbox all trade through it.

Pure, exact and deterministic; it has no clock, times are passed in. Fill rules: a market order fills at the next
price plus half the spread and size impact; a limit only when traded through, at its price, as maker; a stop at the
stop or the gap's open, whichever is worse, paying spread, impact and the taker fee; a target is a limit. When one bar
touches both, the stop fires; on the bar that opened or increased the position only the stop can. Between known
prices the engine always assumes the order of events that is worse for the wallet.
"""

import uuid
from collections.abc import Mapping
from datetime import datetime
from decimal import Context, Decimal
from typing import NamedTuple

from pydantic import BaseModel

from tasks.core.simulation.refusals import (
    PROTECTIVE,
    exposure_refusal,
    leg_refusal,
    margin_refusal,
    opening_quantity,
    protection_refusal,
    sign_of,
    size_refusal,
)
from tasks.core.simulation.wallet import Holding, Totals, Wallet
from tasks.core.trading.money import BPS, bps
from tasks.core.types.limits import Costs
from tasks.core.types.orders import (
    Balance,
    Fill,
    Instrument,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Side,
    VenuePosition,
)

ZERO = Decimal(0)
AVERAGE = Context(prec=12)  # a fill is an average over book levels: finer than the tick, still finite
IDS = uuid.UUID("6d0f6c1e-2f52-5d0b-9a53-0f3f6c1b7a10")


class _State(BaseModel):
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


class PriceBar(NamedTuple):
    """What the market did from `open_time` on; the caller says when it closed."""

    open_time: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal = ZERO


class Triggers(NamedTuple):
    """Nothing can happen while low > `below`, high < `above` and time < `expires_at`; None: nothing on that side."""

    below: Decimal | None
    above: Decimal | None
    expires_at: datetime | None


class SimulatedAccount:
    """An account at a simulated venue: orders in, fills out."""

    def __init__(
        self, cash: Decimal, instruments: Mapping[str, Instrument], costs: Costs, leverage: Decimal = Decimal(10)
    ) -> None:
        self.costs = costs
        self.wallet = Wallet(cash, dict(instruments), leverage)
        self.fills: list[Fill] = []
        self._orders: dict[str, Order] = {}  # by venue id, in the order they arrived
        self._ids: dict[str, str] = {}  # client id -> venue id
        self._resting: dict[str, list[str]] = {}  # symbol -> venue ids of working limit orders
        self._expiries: dict[str, datetime] = {}

    # -- what is there ------------------------------------------------------------------------------------------

    @property
    def orders(self) -> list[Order]:
        """Return every order accepted so far, oldest first, with the stops and targets that fired."""
        return list(self._orders.values())

    def order(self, client_order_id: str) -> Order | None:
        """Return the order with this client id, open or closed; a refused one never existed."""
        return self._orders.get(self._ids.get(client_order_id, ""))

    def order_by_venue_id(self, venue_order_id: str) -> Order | None:
        return self._orders.get(venue_order_id)

    def open_orders(self, symbol: str | None = None) -> list[Order]:
        """Return working limits, and stops and targets sent under a client id of their own; attached ones are not."""
        ids = [key for name, keys in self._resting.items() if symbol in (None, name) for key in keys]
        for holding in self.wallet.holdings.values():
            if symbol in (None, holding.symbol):
                ids += [key for key in (holding.stop_order, holding.target_order) if key]
        return [self._orders[key] for key in ids]

    def position(self, symbol: str) -> VenuePosition | None:
        return self.wallet.position(symbol, {})

    def positions(self) -> list[VenuePosition]:
        found = (self.position(symbol) for symbol in sorted(self.wallet.holdings))
        return [position for position in found if position is not None]

    def balance(self, marks: Mapping[str, Decimal]) -> Balance:
        return self.wallet.balance(marks, self._reserved())

    def totals(self, symbol: str) -> Totals:
        """Return realized PnL, fees and funding of `symbol` since the start."""
        return self.wallet.totals.get(symbol, Totals())

    def has_work(self, symbol: str) -> bool:
        """Say whether anything rests or is open, so that the next bar matters."""
        return symbol in self.wallet.holdings or bool(self._resting.get(symbol))

    def next_triggers(self, symbol: str) -> Triggers:
        """Return the nearest prices below and above at which anything could happen, liquidation included."""
        below: list[Decimal] = []
        above: list[Decimal] = []
        resting = [self._orders[key] for key in self._resting.get(symbol, ())]
        for order in resting:
            (below if order.side == "buy" else above).append(limit_price(order))
        holding = self.wallet.holdings.get(symbol)
        if holding is not None:
            adverse, kind = (below, above) if holding.sign > 0 else (above, below)
            adverse += [p for p in (holding.stop, self.wallet.liquidation_price(symbol)) if p is not None]
            kind += [holding.target] if holding.target is not None else []
        expiries = [self._expiries[o.venue_order_id] for o in resting if o.venue_order_id in self._expiries]
        return Triggers(max(below, default=None), min(above, default=None), min(expiries, default=None))

    # -- commands -----------------------------------------------------------------------------------------------

    def set_leverage(self, symbol: str, leverage: Decimal) -> None:
        self.wallet.leverages[symbol] = leverage

    def mark(self, symbol: str, price: Decimal) -> None:
        """Take note of the newest price, for margin and unrealized PnL between bars."""
        self.wallet.last[symbol] = price

    def submit(
        self,
        intent: OrderIntent,
        price: Decimal,
        at: datetime,
        *,
        modelled_half_spread_bps: Decimal | None = None,
        depth: Decimal | None = None,
    ) -> Order:
        """Carry out one intent at `price`, the next one the market offers.

        depth: the most that can be taken at once; the rest of a market order is cancelled, of a limit order rests.
        A stop, target or cancel_target changes the protection of the position; the first two rest until they fire or
        are replaced, the last is filled at once with quantity 0. A refusal comes back rejected with its code and
        leaves no trace: the id may be used again.
        """
        refusal = self._refusal(intent, price)
        order = self._new_order(intent, at)
        if refusal:
            return order.model_copy(update={"status": OrderStatus.REJECTED, "reason": refusal})
        self._keep(order)
        self._ids[intent.client_order_id] = order.venue_order_id
        if intent.type in PROTECTIVE:
            self._change_protection(order, at)
        else:
            spread = self.costs.half_spread_bps if modelled_half_spread_bps is None else modelled_half_spread_bps
            self._take(order, price, spread, depth, at)
            self._rest_or_end(order.venue_order_id, intent.expires_at, at)
        return self._orders[order.venue_order_id]

    def cancel(self, client_order_id: str, at: datetime) -> Order | None:
        """Cancel what still works; None if there is no such open order."""
        order = self.order(client_order_id)
        if order is None or order.status is not OrderStatus.OPEN:
            return None
        holding = self.wallet.holdings.get(order.symbol)
        if holding is not None and order.venue_order_id == holding.stop_order:
            self.set_protection(order.symbol, ZERO, None, at)
        elif holding is not None and order.venue_order_id == holding.target_order:
            self.set_protection(order.symbol, None, ZERO, at)
        else:
            self._end(order.venue_order_id, OrderStatus.CANCELLED, "cancelled", at)
        return self._orders[order.venue_order_id]

    def amend(
        self, client_order_id: str, quantity: Decimal | None, price: Decimal | None, at: datetime
    ) -> Order | None:
        """Change a working limit order's quantity or price, without it trading at once; None if there is none.

        A refusal comes back as the order as it was, with the code in `reason`.
        """
        order = self.order(client_order_id)
        if order is None or order.venue_order_id not in self._resting.get(order.symbol, ()):
            return None
        instrument = self.wallet.instruments[order.symbol]
        wanted = order.model_copy(update={"quantity": quantity or order.quantity, "price": price or order.price})
        intent = _intent_of(wanted)
        refusal = size_refusal(intent, instrument, wanted.quantity, limit_price(wanted), closes=False)
        if not refusal and wanted.quantity <= order.filled:
            refusal = "below_filled"
        reserved = self._reserved(besides=order.venue_order_id)
        left = wanted.quantity - order.filled
        refusal = refusal or margin_refusal(
            self.wallet, intent, left, limit_price(wanted), self.costs.taker_bps, reserved
        )
        if refusal:
            return order.model_copy(update={"reason": refusal})
        self._keep(wanted.model_copy(update={"updated_at": at}))
        return self._orders[order.venue_order_id]

    def apply_funding(self, symbol: str, rate: Decimal, mark: Decimal, at: datetime) -> Fill | None:
        """Charge funding on the open position: a long pays a positive rate. The fill's fee is what was paid."""
        holding = self.wallet.holdings.get(symbol)
        if holding is None or self.wallet.instruments[symbol].kind != "linear":
            return None
        paid = holding.sign * holding.quantity * mark * rate
        self.wallet.fund(symbol, paid)
        key = derived_id("funding", symbol, at)
        side: Side = "buy" if holding.sign > 0 else "sell"
        fill = Fill(
            fill_id=key,
            venue_order_id=key,
            symbol=symbol,
            side=side,
            quantity=holding.quantity,
            price=mark,
            fee=paid,
            fee_currency=quote_of(symbol),
            reason="funding",
            at=at,
        )
        self.fills.append(fill)
        return fill

    def liquidate(self, symbol: str, price: Decimal, at: datetime) -> None:
        """Close the position for the venue's own reasons, as a taker at `price` less spread and impact."""
        holding = self.wallet.holdings.get(symbol)
        if holding is not None:
            paid = self._slipped(-holding.sign, price, holding.quantity, self.costs.half_spread_bps)
            self._close(holding, paid, "taker", "liquidation", at, at)

    def on_bar(self, symbol: str, bar: PriceBar, closes_at: datetime) -> list[Fill]:
        """Let one bar pass over what rests and what is open; returns the fills it caused, timed at its close."""
        resting = self._resting.get(symbol)
        if not resting and symbol not in self.wallet.holdings:
            return []
        first = len(self.fills)
        if resting:
            self._expire(symbol, bar.open_time)
            self._add(symbol, bar, closes_at)
        self._stop_out(symbol, bar, closes_at)
        before = len(self.fills)
        self._take_profit(symbol, bar, closes_at)
        if len(self.fills) > before:
            self._stop_out(symbol, bar, closes_at)  # what a deep limit opened on this bar can be stopped on it
        self.wallet.last[symbol] = bar.close
        return self.fills[first:]

    # -- one bar ------------------------------------------------------------------------------------------------

    def _expire(self, symbol: str, now: datetime) -> None:
        for key in tuple(self._resting.get(symbol, ())):
            if key in self._expiries and self._expiries[key] <= now:
                self._end(key, OrderStatus.CANCELLED, "expired", now)

    def _touched(self, symbol: str, bar: PriceBar) -> list[Order]:
        """Return the working limits this bar traded through, nearest to its open first."""
        found = []
        for key in self._resting.get(symbol, ()):
            order = self._orders[key]
            limit = limit_price(order)
            through = bar.low < limit if order.side == "buy" else bar.high > limit
            if through and order.created_at <= bar.open_time:
                found.append(order)
        return sorted(found, key=lambda order: abs(bar.open - limit_price(order)))

    def _add(self, symbol: str, bar: PriceBar, at: datetime) -> None:
        """Fill limits that open or increase before the price could have reached the stop."""
        for order in self._touched(symbol, bar):
            holding = self.wallet.holdings.get(symbol)
            if order.reduce_only or (holding is not None and holding.sign != sign_of(order.side)):
                continue
            if holding is not None and holding.stop and (limit_price(order) - holding.stop) * holding.sign <= 0:
                continue
            self._fill_limit(order, bar, at)

    def _stop_out(self, symbol: str, bar: PriceBar, at: datetime) -> None:
        """Close the position at its stop or, without one in the way, where equity is gone."""
        holding = self.wallet.holdings.get(symbol)
        if holding is None:
            return
        extreme = bar.low if holding.sign > 0 else bar.high
        worse = min if holding.sign > 0 else max
        ways_out = [(holding.stop, "stop"), (self.wallet.liquidation_price(symbol), "liquidation")]
        met = [(p, reason) for p, reason in ways_out if p is not None and holding.sign * (extreme - p) <= 0]
        if met:
            trigger, reason = max(met, key=lambda way: holding.sign * way[0])
            base = worse(trigger, bar.open)
            price = self._slipped(-holding.sign, base, holding.quantity, self.costs.half_spread_bps)
            self._close(holding, price, "taker", reason, bar.open_time, at)

    def _take_profit(self, symbol: str, bar: PriceBar, at: datetime) -> None:
        """Fill the remaining touched limits and the target in the order the price met them."""
        holding = self.wallet.holdings.get(symbol)
        if holding is not None and holding.entered_at >= bar.open_time:
            return
        for order in self._touched(symbol, bar):
            self._fire_target(symbol, bar, at, before=limit_price(order))
            if order.venue_order_id in self._resting.get(symbol, ()):
                self._fill_limit(order, bar, at)
        self._fire_target(symbol, bar, at, before=None)

    def _fire_target(self, symbol: str, bar: PriceBar, at: datetime, before: Decimal | None) -> None:
        holding = self.wallet.holdings.get(symbol)
        if holding is None or holding.target is None or holding.entered_at >= bar.open_time:
            return
        extreme = bar.high if holding.sign > 0 else bar.low
        nearer = before is None or holding.sign * (before - holding.target) > 0
        if nearer and holding.sign * (extreme - holding.target) > 0:
            self._close(holding, holding.target, "maker", "target", bar.open_time, at)

    def _fill_limit(self, order: Order, bar: PriceBar, at: datetime) -> None:
        self._execute(order, order.quantity - order.filled, limit_price(order), "maker", bar.open_time, at)
        self._rest_or_end(order.venue_order_id, None, at)

    def _refusal(self, intent: OrderIntent, price: Decimal) -> str:
        instrument = self.wallet.instruments.get(intent.symbol)
        if instrument is None:
            return "unknown_symbol"
        self.wallet.last[intent.symbol] = price
        if intent.client_order_id in self._ids:
            return "duplicate_id"
        holding = self.wallet.holdings.get(intent.symbol)
        if intent.type in PROTECTIVE:
            return leg_refusal(intent, holding, price)
        at_price = intent.price if intent.type is OrderType.LIMIT and intent.price else price
        quantity = self._clamped(intent)
        closes = holding is not None and holding.sign != sign_of(intent.side) and quantity == holding.quantity
        selling = sum((o.quantity - o.filled for o in self._working(intent.symbol) if o.side == "sell"), ZERO)
        return (
            exposure_refusal(intent, instrument, holding, selling)
            or size_refusal(intent, instrument, quantity, at_price, closes)
            or protection_refusal(sign_of(intent.side), at_price, intent.stop, intent.target)
            or margin_refusal(self.wallet, intent, quantity, at_price, self.costs.taker_bps, self._reserved())
        )

    # -- executing and booking ----------------------------------------------------------------------------------

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
        holding = self.wallet.holdings.get(order.symbol)
        opening = opening_quantity(holding, sign, quantity)
        closing = quantity - opening
        if order.reduce_only:
            opening = ZERO
        for part, reason in ((closing, "exit"), (opening, "entry")):
            if part:
                self._book(order.venue_order_id, part, price, liquidity, reason, entered_at, at)
        holding = self.wallet.holdings.get(order.symbol)
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
        before = self.wallet.holdings.get(order.symbol)
        self.wallet.trade(order.symbol, sign_of(order.side), quantity, price, fee, entered_at)
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
        if before is not None and order.symbol not in self.wallet.holdings:
            self._end_protection(before, key, at)

    def set_protection(self, symbol: str, stop: Decimal | None, target: Decimal | None, at: datetime) -> str:
        """Set the position's resting stop and target; None leaves, 0 removes. Returns "" or the refusal's code."""
        holding = self.wallet.holdings.get(symbol)
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
        holding = self.wallet.holdings.get(intent.symbol)
        if not intent.reduce_only or holding is None:
            return intent.quantity
        return min(intent.quantity, holding.quantity)

    def _reserved(self, besides: str = "") -> Decimal:
        """Return the margin that working orders tie up, `besides` one; what only reduces ties up none."""
        total = ZERO
        for symbol in self._resting:
            for order in self._working(symbol):
                if not order.reduce_only and order.venue_order_id != besides:
                    total += (order.quantity - order.filled) * limit_price(order) / self.wallet.leverage(symbol)
        return total

    def _working(self, symbol: str) -> list[Order]:
        return [self._orders[key] for key in self._resting.get(symbol, ())]

    def _new_order(self, intent: OrderIntent, at: datetime) -> Order:
        """Return the order an intent becomes; where nothing can be shorted every sell is reduce-only."""
        instrument = self.wallet.instruments.get(intent.symbol)
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
        elif order.reduce_only and order.symbol not in self.wallet.holdings:
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
        holding = self.wallet.holdings[order.symbol]
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
        wallet = self.wallet
        protection = [key for h in wallet.holdings.values() for key in (h.stop_order, h.target_order) if key]
        return _State(
            wallet=wallet.cash,
            default_leverage=wallet.default_leverage,
            leverages=wallet.leverages,
            holdings=wallet.holdings,
            totals=wallet.totals,
            last=wallet.last,
            orders=list(self._orders.values()),
            fills=self.fills,
            expiries=self._expiries,
            protection=protection,
        ).model_dump_json()

    def load(self, text: str) -> None:
        """Replace the state by a dumped one; instruments and costs stay this engine's."""
        state = _State.model_validate_json(text)
        wallet = Wallet(state.wallet, self.wallet.instruments, state.default_leverage)
        wallet.leverages, wallet.holdings = state.leverages, state.holdings
        wallet.totals, wallet.last = state.totals, state.last
        self.wallet, self.fills, self._expiries = wallet, state.fills, state.expiries
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


def _intent_of(order: Order) -> OrderIntent:
    return OrderIntent(
        client_order_id=order.client_order_id,
        symbol=order.symbol,
        side=order.side,
        type=OrderType.LIMIT,
        quantity=order.quantity,
        price=order.price,
        reduce_only=order.reduce_only,
    )
