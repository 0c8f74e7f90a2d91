"""The one simulated exchange account: backtest, paper venue, counterfactuals and sandbox all trade through it.

Pure, exact and deterministic; it has no clock, times are passed in. Fill rules: a market order fills at the next
price plus half the spread and size impact; a limit that is marketable when it arrives likewise but never beyond its
price, one that rests only when traded through, at its price, as maker. Stops and targets are market orders on a
trigger: one that is touched fills at its trigger, or at the open of a bar that opens beyond it, and pays spread, impact
and the taker fee. When one bar touches both, the stop fires; on the bar that opened or
increased the position only the stop can. Of a bar's volume nothing takes more than `Costs.participation_pct`, and of a
bar without trades nothing: the rest of a market order is cancelled, that of a limit rests, and that of a stop, a target
or a liquidation goes on at the next bar's open. Between known prices the account always assumes the order of events
that is worse for it.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Context, Decimal
from itertools import takewhile
from typing import TYPE_CHECKING, Literal, NamedTuple

from tasks.core.simulation.rejections import (
    PROTECTIVE,
    exposure_refusal,
    leg_refusal,
    margin_refusal,
    opening_quantity,
    protection_refusal,
    size_refusal,
)
from tasks.core.simulation.wallet import Holding, Totals, Wallet
from tasks.core.types import (
    BPS,
    COLUMNS,
    ZERO,
    Balance,
    Costs,
    Fill,
    Instrument,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Side,
    VenuePosition,
    bps,
    direction,
    exact,
    exact_sum,
    floor_to_step,
    quote_of,
)

if TYPE_CHECKING:
    import pandas as pd

AVERAGE = Context(prec=12)  # a fill is an average over book levels: finer than the tick, still finite
IDS = uuid.UUID("6d0f6c1e-2f52-5d0b-9a53-0f3f6c1b7a10")
EVER = Decimal("Infinity")
INSIDE = timedelta(milliseconds=1)  # what fills within a bar has filled before its close


class Execution(NamedTuple):
    """At what price something trades, by whom; `entered_at`: from when on a position it opens can be stopped."""

    price: Decimal
    liquidity: Literal["maker", "taker"]
    entered_at: datetime
    at: datetime


class PriceBar(NamedTuple):
    """What the market did from `open_time` on; the caller says when it closed.

    volume: base that traded since `since`, by default `open_time`; None: it bounds nothing.
    """

    open_time: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal | None = None
    since: datetime | None = None


class Triggers(NamedTuple):
    """Nothing can happen while low > `below`, high < `above` and time < `expires_at`; None: nothing on that side."""

    below: Decimal | None = None
    above: Decimal | None = None
    expires_at: datetime | None = None


class _Stored(Wallet):
    """The state as it is stored; `wallet` is the cash in it."""

    orders: list[Order]
    fills: list[Fill]
    expiries: dict[str, datetime]


class SimulatedAccount:
    """An account at a simulated venue: orders in, fills out."""

    def __init__(self, cash: Decimal, instruments: Mapping[str, Instrument], costs: Costs) -> None:
        self.costs = costs
        self.wallet = Wallet(cash=cash, instruments=instruments)
        self.fills: list[Fill] = []
        self._orders: dict[str, Order] = {}  # by venue id, in the order they arrived
        self._ids: dict[str, str] = {}  # client id -> venue id
        self._resting: dict[str, datetime | None] = {}  # venue id of each working limit order -> when it expires
        self._room: Decimal | None = None  # what the bar that is passing has left; None: no bound

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
        holdings = self.wallet.holdings.values()
        keys = [*self._resting, *(key for h in holdings for key in (h.stop_order, h.target_order) if key)]
        return [order for key in keys if symbol in (None, (order := self._orders[key]).symbol)]

    def position(self, symbol: str) -> VenuePosition | None:
        """Return the open position as a venue reports it; None when flat."""
        if (holding := self._held(symbol)) is None:
            return None
        return VenuePosition.of(holding, side="long" if holding.sign > 0 else "short")

    def positions(self) -> list[VenuePosition]:
        return list(filter(None, map(self.position, sorted(self.wallet.holdings))))

    def _held(self, symbol: str) -> Holding | None:
        return self.wallet.holdings.get(symbol)

    def balance(self, marks: Mapping[str, Decimal]) -> Balance:
        free = self.wallet.available(marks) - self._reserved()
        return Balance.trusted(equity=self.wallet.equity(marks), available=max(free, ZERO))

    def totals(self, symbol: str) -> Totals:
        """Return realized PnL, fees and funding of `symbol` since the start."""
        return self.wallet.totals.get(symbol, Totals())

    def has_work(self, symbol: str) -> bool:
        """Return whether anything rests or is open, so that the next bar matters."""
        return symbol in self.wallet.holdings or bool(self._working(symbol))

    def next_triggers(self, symbol: str) -> Triggers:
        """Return the nearest prices below and above at which anything could happen, liquidation included."""
        resting = self._working(symbol)
        below = [limit_price(order) for order in resting if order.side == "buy"]
        above = [limit_price(order) for order in resting if order.side == "sell"]
        if (holding := self._held(symbol)) is not None:
            adverse, kind = (below, above) if holding.sign > 0 else (above, below)
            adverse += [p for p in (holding.stop, self.wallet.liquidation_price(symbol)) if p is not None]
            kind += [holding.target] if holding.target is not None else []
            below += [EVER] if holding.exiting else []
        expiries = [at for order in resting if (at := self._resting[order.venue_order_id])]
        return Triggers(max(below, default=None), min(above, default=None), min(expiries, default=None))

    # -- commands -----------------------------------------------------------------------------------------------

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
        key = derived_id(intent.client_order_id, str(len(self._orders)), at)
        instrument = self.wallet.instruments.get(intent.symbol)
        shortable = instrument is None or (instrument.shorting and instrument.kind != "spot")
        order = Order.of(
            intent,
            venue_order_id=key,
            type=intent.type.value,
            status=OrderStatus.REJECTED if refusal else OrderStatus.OPEN,
            quantity=self._clamped(intent),
            price=None if intent.type is OrderType.MARKET else intent.price,
            reduce_only=intent.reduce_only or (intent.side == "sell" and not shortable),
            reason=refusal,
            created_at=at,
            updated_at=at,
        )
        if refusal:
            return order
        self._orders[key], self._ids[intent.client_order_id] = order, key
        if intent.type in PROTECTIVE:
            self._change_protection(order, at)
        else:
            spread = self.costs.half_spread_bps if modelled_half_spread_bps is None else modelled_half_spread_bps
            if intent.expires_at is None or intent.expires_at > at:
                self._take(order, price, spread, depth, at)
            self._rest_or_end(key, intent.expires_at, at)
        return self._orders[key]

    def cancel(self, client_order_id: str, at: datetime) -> Order | None:
        """Cancel what still works; None if there is no such open order."""
        order = self.order(client_order_id)
        if order is None or order.status is not OrderStatus.OPEN:
            return None
        key, holding = order.venue_order_id, self._held(order.symbol)
        legs = {holding.stop_order: (ZERO, None), holding.target_order: (None, ZERO)} if holding is not None else {}
        if key in legs:
            self.set_protection(order.symbol, *legs[key], at)
        else:
            self._end(key, OrderStatus.CANCELLED, "cancelled", at)
        return self._orders[key]

    def set_protection(
        self, symbol: str, stop: Decimal | None, target: Decimal | None, at: datetime, quantity: Decimal | None = None
    ) -> str:
        """Set the position's resting stop and target; None leaves, 0 removes. Returns "" or the refusal's code.

        quantity: how much of the position they close; None: all.
        """
        holding = self._held(symbol)
        if holding is None:
            return "no_position"
        for leg, price in (("stop", stop), ("target", target)):
            if price is not None:
                if key := getattr(holding, f"{leg}_order"):
                    self._end(key, OrderStatus.CANCELLED, "replaced", at)
                setattr(holding, leg, price or None)
                setattr(holding, f"{leg}_order", "")
                holding.stop_quantity = quantity
        return ""

    def apply_funding(self, symbol: str, rate: Decimal, mark: Decimal, at: datetime) -> None:
        """Charge funding on the open position: a long pays a positive rate. The fill's fee is what was paid."""
        holding = self._held(symbol)
        if holding is None or self.wallet.instruments[symbol].kind != "linear":
            return
        paid = holding.sign * holding.quantity * mark * rate
        self.wallet.fund(symbol, paid)
        key = derived_id("funding", symbol, at)
        self.fills.append(
            Fill(
                fill_id=key,
                venue_order_id=key,
                symbol=symbol,
                side=side_of(holding.sign),
                quantity=holding.quantity,
                price=mark,
                fee=paid,
                fee_currency=quote_of(symbol),
                reason="funding",
                at=at,
            )
        )

    def liquidate(self, symbol: str, price: Decimal, at: datetime) -> None:
        """Close the position for the venue's own reasons, as a taker at `price` less spread and impact."""
        if (holding := self._held(symbol)) is not None:
            met = Execution(self._slipped_out(holding, price, holding.quantity), "taker", at, at)
            self._close(holding, holding.quantity, "liquidation", met)

    # -- the market passes over it --------------------------------------------------------------------------------

    def pass_bars(
        self,
        bars: Mapping[str, "pd.DataFrame"],
        step: timedelta,
        due: Iterable[tuple[datetime, str, Sequence[OrderIntent]]] = (),
        funding: Iterable[tuple[datetime, str, Decimal]] = (),
    ) -> None:
        """Pass bars over the account, oldest first; a decision's orders meet the first that opens at or after it.

        due: (as_of, symbol, intents), funding: (paid at, symbol, rate), both oldest first; step: the bars' length.
        """
        waiting, unpaid = list(due), list(funding)
        stream = ((bar.open_time, symbol, bar) for symbol, frame in bars.items() for bar in price_bars(frame))
        for opened, symbol, bar in sorted(stream, key=lambda each: each[:2]):
            for each in [each for each in waiting if each[1] == symbol and each[0] <= opened and bar.volume != 0]:
                waiting.remove(each)
                for intent in each[2]:
                    self.submit(intent, bar.open, opened, depth=self.depth(symbol, bar.volume, opened))
            while unpaid and unpaid[0][0] <= opened:
                at, payer, rate = unpaid.pop(0)
                if self._was_open(payer, at):
                    self.apply_funding(payer, rate, self.wallet.last.get(payer, bar.open), at)
            if self._was_open(symbol, opened + step):
                self.on_bar(symbol, bar, opened + step)
            self.wallet.last[symbol] = bar.close

    def _was_open(self, symbol: str, at: datetime) -> bool:
        """Return whether what is open in `symbol`, if anything, was open before `at`: no bar acts backwards."""
        holding = self._held(symbol)
        return holding is None or holding.opened_at < at

    def on_bar(self, symbol: str, bar: PriceBar, closes_at: datetime) -> list[Fill]:
        """Let one bar pass over what rests and what is open; returns the fills it caused, just before it closes."""
        if not self.has_work(symbol):
            return []
        first, at = len(self.fills), closes_at - INSIDE
        for order in self._working(symbol):
            if (expires_at := self._resting[order.venue_order_id]) is not None and expires_at <= bar.open_time:
                self._end(order.venue_order_id, OrderStatus.CANCELLED, "expired", bar.open_time)
        if bar.volume != 0:
            self._room = self.depth(symbol, bar.volume, bar.since or bar.open_time)
            if (holding := self._held(symbol)) is not None and holding.exiting:  # there was too little volume before
                self._leave(holding, holding.exiting, bar.open, bar, at)
            self._add(symbol, bar, at)
            self._stop_out(symbol, bar, at)
            before = len(self.fills)
            self._take_profit(symbol, bar, at)
            if len(self.fills) > before:
                self._stop_out(symbol, bar, at)  # what a deep limit opened on this bar can be stopped on it
            self._room = None
        self.wallet.last[symbol] = bar.close
        return self.fills[first:]

    def depth(self, symbol: str, volume: Decimal | None, since: datetime) -> Decimal | None:
        """Return how much of a bar's volume orders may take, less what they have since it began; None: no bound."""
        if volume is None:
            return None
        fills = takewhile(lambda fill: fill.at >= since, reversed(self.fills))
        taken = exact_sum(fill.quantity for fill in fills if fill.symbol == symbol and fill.reason != "funding")
        return max(volume * self.costs.participation_pct / 100 - taken, ZERO)

    def _touched(self, symbol: str, bar: PriceBar) -> list[Order]:
        """Return the working limits this bar traded through, nearest to its open first."""
        through = [
            order
            for order in self._working(symbol)
            if order.created_at <= bar.open_time
            and (bar.low < limit_price(order) if order.side == "buy" else bar.high > limit_price(order))
        ]
        return sorted(through, key=lambda order: abs(bar.open - limit_price(order)))

    def _add(self, symbol: str, bar: PriceBar, at: datetime) -> None:
        """Fill limits that open or increase before the price could have reached the stop."""
        for order in self._touched(symbol, bar):
            holding = self._held(symbol)
            if order.reduce_only or (holding is not None and holding.sign != direction(order.side)):
                continue
            if holding is not None and holding.stop and (limit_price(order) - holding.stop) * holding.sign <= 0:
                continue
            self._fill_limit(order, bar, at)

    def _stop_out(self, symbol: str, bar: PriceBar, at: datetime) -> None:
        """Close the position at its stop or, without one in the way, where equity is gone."""
        holding = self._held(symbol)
        if holding is None or holding.exiting:
            return
        extreme, worse = (bar.low, min) if holding.sign > 0 else (bar.high, max)
        ways_out = [(holding.stop, "stop"), (self.wallet.liquidation_price(symbol), "liquidation")]
        met = [(p, reason) for p, reason in ways_out if p is not None and holding.sign * (extreme - p) <= 0]
        if met:
            trigger, reason = max(met, key=lambda way: holding.sign * way[0])
            self._leave(holding, reason, worse(trigger, bar.open), bar, at)

    def _take_profit(self, symbol: str, bar: PriceBar, at: datetime) -> None:
        """Fill the remaining touched limits and the target in the order the price met them."""
        holding = self._held(symbol)
        if holding is not None and holding.entered_at >= bar.open_time:
            return
        for order in self._touched(symbol, bar):
            self._fire_target(symbol, bar, at, before=limit_price(order))
            if order.venue_order_id in self._resting:
                self._fill_limit(order, bar, at)
        self._fire_target(symbol, bar, at, before=None)

    def _fire_target(self, symbol: str, bar: PriceBar, at: datetime, before: Decimal | None) -> None:
        holding = self._held(symbol)
        if holding is None or holding.target is None or holding.exiting or holding.entered_at >= bar.open_time:
            return
        extreme, better = (bar.high, max) if holding.sign > 0 else (bar.low, min)
        nearer = before is None or holding.sign * (before - holding.target) > 0
        if nearer and holding.sign * (extreme - holding.target) >= 0:
            self._leave(holding, "target", better(holding.target, bar.open), bar, at)

    def _fill_limit(self, order: Order, bar: PriceBar, at: datetime) -> None:
        if quantity := self._fitting(order.symbol, order.quantity - order.filled, self._room):
            self._execute(order, quantity, Execution(limit_price(order), "maker", bar.open_time, at))
            self._rest_or_end(order.venue_order_id, None, at)

    def _leave(self, holding: Holding, reason: str, price: Decimal, bar: PriceBar, at: datetime) -> None:
        """Close what the bar has room for at `price`; the rest goes on with the next one."""
        holding.exiting = reason
        part = holding.stop_quantity if reason != "liquidation" else None
        if quantity := self._fitting(holding.symbol, min(part or holding.quantity, holding.quantity), self._room):
            met = Execution(self._slipped_out(holding, price, quantity), "taker", bar.open_time, at)
            self._close(holding, quantity, reason, met)
            if part == quantity:
                holding.stop, holding.target, holding.exiting, part = None, None, "", None
            holding.stop_quantity = part and part - quantity

    def _fitting(self, symbol: str, quantity: Decimal, room: Decimal | None) -> Decimal:
        """Return how much of `quantity` there is room for, in whole steps where that is not all of it."""
        if room is None or quantity <= room:
            return quantity
        return floor_to_step(room, self.wallet.instruments[symbol].step)

    # -- executing and booking ----------------------------------------------------------------------------------

    def _refusal(self, intent: OrderIntent, price: Decimal) -> str:
        instrument = self.wallet.instruments.get(intent.symbol)
        if instrument is None:
            return "unknown_symbol"
        self.wallet.last[intent.symbol] = price
        if intent.client_order_id in self._ids:
            return "duplicate_id"
        holding = self._held(intent.symbol)
        if intent.type in PROTECTIVE:
            return leg_refusal(intent, holding, price)
        at_price = intent.price if intent.type is OrderType.LIMIT and intent.price else price
        quantity = self._clamped(intent)
        closes = holding is not None and holding.sign != direction(intent.side) and quantity == holding.quantity
        selling = exact_sum(o.quantity - o.filled for o in self._working(intent.symbol) if o.side == "sell")
        return (
            exposure_refusal(intent, instrument, holding, selling)
            or size_refusal(intent, instrument, quantity, at_price, closes)
            or protection_refusal(direction(intent.side), at_price, intent.stop, intent.target)
            or margin_refusal(self.wallet, intent, quantity, at_price, self.costs.taker_bps, self._reserved())
        )

    def _clamped(self, intent: OrderIntent) -> Decimal:
        """Return the quantity, for reduce-only at most the position's."""
        holding = self._held(intent.symbol)
        if not intent.reduce_only or holding is None:
            return intent.quantity
        return min(intent.quantity, holding.quantity)

    def _reserved(self) -> Decimal:
        """Return the margin that working orders tie up; what only reduces ties up none."""
        opening = [order for key in self._resting if not (order := self._orders[key]).reduce_only]
        ties = [(o.quantity - o.filled) * limit_price(o) / self.wallet.leverage(o.symbol) for o in opening]
        return exact_sum(ties)

    def _working(self, symbol: str) -> list[Order]:
        return [order for key in self._resting if (order := self._orders[key]).symbol == symbol]

    def _fill_price(self, sign: int, price: Decimal, quantity: Decimal, half_spread_bps: Decimal) -> Decimal:
        impact = self.costs.impact_bps_per_million * quantity * price / 1_000_000
        return AVERAGE.multiply(price, 1 + sign * (half_spread_bps + impact) * BPS)

    def _slipped_out(self, holding: Holding, price: Decimal, quantity: Decimal) -> Decimal:
        return self._fill_price(-holding.sign, price, quantity, self.costs.half_spread_bps)

    def _take(self, order: Order, price: Decimal, spread: Decimal, depth: Decimal | None, at: datetime) -> None:
        """Trade at once what is marketable; a limit order never pays more than its price."""
        sign = direction(order.side)
        quantity = self._fitting(order.symbol, order.quantity, depth)
        fill_price = self._fill_price(sign, price, quantity, spread)
        if order.price is not None:
            touch = AVERAGE.multiply(price, 1 + sign * spread * BPS)
            if sign * (order.price - touch) < 0:
                return
            fill_price = min(fill_price, order.price) if sign > 0 else max(fill_price, order.price)
        if quantity > 0:
            self._execute(order, quantity, Execution(fill_price, "taker", at, at))

    def _execute(self, order: Order, quantity: Decimal, met: Execution) -> None:
        """Fill `quantity` of an order; one that flips the position fills in two parts, exit first.

        What is added to a position never loosens its stop; its target is replaced by an order's first fill alone.
        """
        sign, before = direction(order.side), self._held(order.symbol)
        opening = opening_quantity(before, sign, quantity)
        closing = quantity - opening
        if order.reduce_only:
            opening = ZERO
        for part, reason in ((closing, "exit"), (opening, "entry")):
            if part:
                self._book(order.venue_order_id, part, reason, met)
        stop, target = order.stop, order.target
        if before is not None and not closing:
            stop = stop if before.stop is None or (stop and sign * (stop - before.stop) > 0) else None
            target = None if order.filled and order.updated_at >= before.opened_at else target
        if opening:
            self.set_protection(order.symbol, stop, target, met.at)

    def _close(self, holding: Holding, quantity: Decimal, reason: str, met: Execution) -> None:
        """Close `quantity` of a position through its stop or target, or for the venue when equity is gone."""
        at, key = met.at, {"stop": holding.stop_order, "target": holding.target_order}.get(reason, "")
        if key:
            self._change(key, at, quantity=self._orders[key].filled + holding.quantity)
        else:
            key = derived_id(reason, holding.symbol, holding.opened_at, at, str(len(self.fills)))
            self._orders[key] = Order(
                client_order_id="",
                venue_order_id=key,
                symbol=holding.symbol,
                side=side_of(-holding.sign),
                type=reason,
                status=OrderStatus.OPEN,
                quantity=quantity,
                price=holding.target if reason == "target" else holding.stop,
                reduce_only=True,
                created_at=at,
                updated_at=at,
            )
        self._book(key, quantity, reason, met)
        if self._orders[key].filled == self._orders[key].quantity:
            self._change(key, at, status=OrderStatus.FILLED)

    def _book(self, key: str, quantity: Decimal, reason: str, met: Execution) -> None:
        """Book one execution: the fill, the wallet, the order; a position that ends takes its protection along."""
        order, (price, liquidity, entered_at, at) = self._orders[key], met
        symbol = order.symbol
        self._room = None if self._room is None else self._room - quantity
        fee = bps(quantity * price, self.costs.maker_bps if liquidity == "maker" else self.costs.taker_bps)
        before = self._held(symbol)
        self.wallet.trade(symbol, direction(order.side), quantity, price, fee, entered_at)
        self.fills.append(
            Fill.of(
                order,
                fill_id=derived_id(key, str(len(self.fills)), at),
                quantity=quantity,
                price=price,
                fee=fee,
                fee_currency=quote_of(symbol),
                liquidity=liquidity,
                reason=reason,
                at=at,
            )
        )
        filled = order.filled + quantity
        spent = (order.avg_price or ZERO) * order.filled + quantity * price
        self._change(key, at, filled=filled, avg_price=AVERAGE.divide(spent, filled))
        if before is not None and symbol not in self.wallet.holdings:
            # what only made sense with the position: its other leg and its reduce-only orders
            reducing = [o.venue_order_id for o in self._working(symbol) if o.reduce_only]
            for other in (before.stop_order, before.target_order, *reducing):
                if other and other != key:
                    self._end(other, OrderStatus.CANCELLED, "no_position", at)

    def _change(self, key: str, at: datetime, **changes: object) -> None:
        self._orders[key] = self._orders[key].replace(updated_at=at, **changes)

    def _rest_or_end(self, key: str, expires_at: datetime | None, at: datetime) -> None:
        """Put an order where it now belongs: done, in the book, or cancelled for want of a position or depth."""
        order = self._orders[key]
        if order.filled == order.quantity:
            self._end(key, OrderStatus.FILLED, "", at)
        elif order.type == OrderType.MARKET:
            self._end(key, OrderStatus.CANCELLED, "partial", at)
        elif order.reduce_only and order.symbol not in self.wallet.holdings:
            self._end(key, OrderStatus.CANCELLED, "no_position", at)
        else:
            self._resting.setdefault(key, expires_at)

    def _end(self, key: str, status: OrderStatus, reason: str, at: datetime) -> None:
        self._resting.pop(key, None)
        self._change(key, at, status=status, reason=reason)

    def _change_protection(self, order: Order, at: datetime) -> None:
        legs = {"stop": (order.price, None), "target": (None, order.price)}
        self.set_protection(order.symbol, *legs.get(order.type, (None, ZERO)), at)
        if order.type in legs:
            setattr(self.wallet.holdings[order.symbol], f"{order.type}_order", order.venue_order_id)
        else:
            self._end(order.venue_order_id, OrderStatus.FILLED, "", at)

    # -- storing it -----------------------------------------------------------------------------------------------

    def forget(self, before: datetime) -> None:
        """Drop fills, and orders that ended, before then; their client ids are free again."""
        self.fills = [fill for fill in self.fills if fill.at >= before]
        self._restore([o for o in self._orders.values() if o.status is OrderStatus.OPEN or o.updated_at >= before])

    def _restore(self, orders: list[Order]) -> None:
        self._orders = {order.venue_order_id: order for order in orders}
        self._ids = {order.client_order_id: order.venue_order_id for order in orders if order.client_order_id}

    def dump(self) -> str:
        """Return the whole state as JSON; `load` gives it back exactly."""
        expiries = {key: at for key, at in self._resting.items() if at is not None}
        state = _Stored(**dict(self.wallet), orders=self.orders, fills=self.fills, expiries=expiries)
        return state.model_dump_json(by_alias=True)

    def load(self, text: str) -> None:
        """Replace the state by a dumped one; instruments and costs stay this account's."""
        stored = _Stored.model_validate_json(text)
        self.wallet = Wallet(**dict(stored) | {"instruments": self.wallet.instruments})
        self.fills, self._resting = stored.fills, {}
        self._restore(stored.orders)
        legs = {key for h in stored.holdings.values() for key in (h.stop_order, h.target_order)}
        for key, order in self._orders.items():
            if order.status is OrderStatus.OPEN and key not in legs:
                self._resting[key] = stored.expiries.get(key)


def price_bars(bars: "pd.DataFrame") -> list[PriceBar]:
    """Cross bars from float to Decimal."""
    import pandas as pd

    columns = [map(exact, bars[name].tolist()) for name in COLUMNS]
    return list(map(PriceBar, pd.DatetimeIndex(bars.index).to_pydatetime(), *columns))


def limit_price(order: Order) -> Decimal:
    return order.price if order.price is not None else ZERO


def side_of(sign: int) -> Side:
    return "buy" if sign > 0 else "sell"


def derived_id(*parts: str | datetime) -> str:
    return str(uuid.uuid5(IDS, ":".join(p.isoformat() if isinstance(p, datetime) else p for p in parts)))
