"""The one fill engine: backtest, paper venue and sandbox all trade through it.

Pure, exact and deterministic; it has no clock, times are passed in. Fill rules: a market order fills at the next
price plus half the spread and size impact; a limit only when traded through, at its price, as maker; a stop at the
stop or the gap's open, whichever is worse, paying spread, impact and the taker fee; a target is a limit. When one bar
touches both, the stop fires; on the bar that opened or increased the position only the stop can. Between known
prices the engine always assumes the order of events that is worse for the account.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from tasks.core.simulation.account import Account, Totals
from tasks.core.simulation.execution import ZERO, Executor, derived_id, limit_price, quote_of
from tasks.core.simulation.venue_rules import (
    PROTECTIVE,
    exposure_refusal,
    leg_refusal,
    margin_refusal,
    protection_refusal,
    sign_of,
    size_refusal,
)
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


class MatchingEngine(Executor):
    """An account at a simulated venue: orders in, fills out."""

    def __init__(
        self, cash: Decimal, instruments: Mapping[str, Instrument], costs: Costs, leverage: Decimal = Decimal(10)
    ) -> None:
        super().__init__(Account(cash, dict(instruments), leverage), costs)

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
        for holding in self.account.holdings.values():
            if symbol in (None, holding.symbol):
                ids += [key for key in (holding.stop_order, holding.target_order) if key]
        return [self._orders[key] for key in ids]

    def position(self, symbol: str) -> VenuePosition | None:
        return self.account.position(symbol, {})

    def positions(self) -> list[VenuePosition]:
        found = (self.position(symbol) for symbol in sorted(self.account.holdings))
        return [position for position in found if position is not None]

    def balance(self, marks: Mapping[str, Decimal]) -> Balance:
        return self.account.balance(marks, self._reserved())

    def totals(self, symbol: str) -> Totals:
        """Return realized PnL, fees and funding of `symbol` since the start."""
        return self.account.totals.get(symbol, Totals())

    def has_work(self, symbol: str) -> bool:
        """Say whether anything rests or is open, so that the next bar matters."""
        return symbol in self.account.holdings or bool(self._resting.get(symbol))

    def next_triggers(self, symbol: str) -> Triggers:
        """Return the nearest prices below and above at which anything could happen, liquidation included."""
        below: list[Decimal] = []
        above: list[Decimal] = []
        resting = [self._orders[key] for key in self._resting.get(symbol, ())]
        for order in resting:
            (below if order.side == "buy" else above).append(limit_price(order))
        holding = self.account.holdings.get(symbol)
        if holding is not None:
            adverse, kind = (below, above) if holding.sign > 0 else (above, below)
            adverse += [p for p in (holding.stop, self.account.liquidation_price(symbol)) if p is not None]
            kind += [holding.target] if holding.target is not None else []
        expiries = [self._expiries[o.venue_order_id] for o in resting if o.venue_order_id in self._expiries]
        return Triggers(max(below, default=None), min(above, default=None), min(expiries, default=None))

    # -- commands -----------------------------------------------------------------------------------------------

    def set_leverage(self, symbol: str, leverage: Decimal) -> None:
        self.account.leverages[symbol] = leverage

    def mark(self, symbol: str, price: Decimal) -> None:
        """Take note of the newest price, for margin and unrealized PnL between bars."""
        self.account.last[symbol] = price

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
        holding = self.account.holdings.get(order.symbol)
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
        instrument = self.account.instruments[order.symbol]
        wanted = order.model_copy(update={"quantity": quantity or order.quantity, "price": price or order.price})
        intent = _intent_of(wanted)
        refusal = size_refusal(intent, instrument, wanted.quantity, limit_price(wanted), closes=False)
        if not refusal and wanted.quantity <= order.filled:
            refusal = "below_filled"
        reserved = self._reserved(besides=order.venue_order_id)
        left = wanted.quantity - order.filled
        refusal = refusal or margin_refusal(
            self.account, intent, left, limit_price(wanted), self.costs.taker_bps, reserved
        )
        if refusal:
            return order.model_copy(update={"reason": refusal})
        self._keep(wanted.model_copy(update={"updated_at": at}))
        return self._orders[order.venue_order_id]

    def apply_funding(self, symbol: str, rate: Decimal, mark: Decimal, at: datetime) -> Fill | None:
        """Charge funding on the open position: a long pays a positive rate. The fill's fee is what was paid."""
        holding = self.account.holdings.get(symbol)
        if holding is None or self.account.instruments[symbol].kind != "linear":
            return None
        paid = holding.sign * holding.quantity * mark * rate
        self.account.fund(symbol, paid)
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
        holding = self.account.holdings.get(symbol)
        if holding is not None:
            paid = self._slipped(-holding.sign, price, holding.quantity, self.costs.half_spread_bps)
            self._close(holding, paid, "taker", "liquidation", at, at)

    def on_bar(self, symbol: str, bar: PriceBar, closes_at: datetime) -> list[Fill]:
        """Let one bar pass over what rests and what is open; returns the fills it caused, timed at its close."""
        resting = self._resting.get(symbol)
        if not resting and symbol not in self.account.holdings:
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
        self.account.last[symbol] = bar.close
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
            holding = self.account.holdings.get(symbol)
            if order.reduce_only or (holding is not None and holding.sign != sign_of(order.side)):
                continue
            if holding is not None and holding.stop and (limit_price(order) - holding.stop) * holding.sign <= 0:
                continue
            self._fill_limit(order, bar, at)

    def _stop_out(self, symbol: str, bar: PriceBar, at: datetime) -> None:
        """Close the position at its stop or, without one in the way, where equity is gone."""
        holding = self.account.holdings.get(symbol)
        if holding is None:
            return
        extreme = bar.low if holding.sign > 0 else bar.high
        worse = min if holding.sign > 0 else max
        ways_out = [(holding.stop, "stop"), (self.account.liquidation_price(symbol), "liquidation")]
        met = [(p, reason) for p, reason in ways_out if p is not None and holding.sign * (extreme - p) <= 0]
        if met:
            trigger, reason = max(met, key=lambda way: holding.sign * way[0])
            base = worse(trigger, bar.open)
            price = self._slipped(-holding.sign, base, holding.quantity, self.costs.half_spread_bps)
            self._close(holding, price, "taker", reason, bar.open_time, at)

    def _take_profit(self, symbol: str, bar: PriceBar, at: datetime) -> None:
        """Fill the remaining touched limits and the target in the order the price met them."""
        holding = self.account.holdings.get(symbol)
        if holding is not None and holding.entered_at >= bar.open_time:
            return
        for order in self._touched(symbol, bar):
            self._fire_target(symbol, bar, at, before=limit_price(order))
            if order.venue_order_id in self._resting.get(symbol, ()):
                self._fill_limit(order, bar, at)
        self._fire_target(symbol, bar, at, before=None)

    def _fire_target(self, symbol: str, bar: PriceBar, at: datetime, before: Decimal | None) -> None:
        holding = self.account.holdings.get(symbol)
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
        instrument = self.account.instruments.get(intent.symbol)
        if instrument is None:
            return "unknown_symbol"
        self.account.last[intent.symbol] = price
        if intent.client_order_id in self._ids:
            return "duplicate_id"
        holding = self.account.holdings.get(intent.symbol)
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
            or margin_refusal(self.account, intent, quantity, at_price, self.costs.taker_bps, self._reserved())
        )


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
