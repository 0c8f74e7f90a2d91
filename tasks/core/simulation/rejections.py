"""Why a venue refuses an order: one short code each, checked before anything changes.

`duplicate_id unknown_symbol step tick below_min_quantity below_min_notional no_position would_increase shorting
stop_wrong_side target_wrong_side insufficient_balance`
"""

from decimal import Decimal

from tasks.core.simulation.wallet import Holding, Wallet
from tasks.core.types import ZERO, Instrument, OrderIntent, OrderType, direction

PROTECTIVE = (OrderType.STOP, OrderType.TARGET, OrderType.CANCEL_TARGET)


def protection_refusal(sign: int, price: Decimal, stop: Decimal | None, target: Decimal | None) -> str:
    """Return why a position of direction `sign`, now at `price`, cannot have this stop or target; "" if it can."""
    if stop and sign * (price - stop) <= 0:
        return "stop_wrong_side"
    if target and sign * (target - price) <= 0:
        return "target_wrong_side"
    return ""


def leg_refusal(intent: OrderIntent, holding: Holding | None, price: Decimal) -> str:
    """Return why a stop, target or cancel_target intent cannot change the protection; "" if it can."""
    if holding is None:
        return "no_position"
    if intent.type is OrderType.CANCEL_TARGET:
        return ""
    if holding.sign == direction(intent.side):
        return "would_increase"
    if intent.price is None or intent.price <= 0:
        return "tick"
    is_stop = intent.type is OrderType.STOP
    stop, target = (intent.price, None) if is_stop else (None, intent.price)
    return protection_refusal(holding.sign, price, stop, target)


def size_refusal(intent: OrderIntent, instrument: Instrument, quantity: Decimal, price: Decimal, closes: bool) -> str:
    """Return why quantity or price are off the venue's grid or too small; `closes`: it ends the whole position."""
    if intent.type == OrderType.LIMIT and (intent.price is None or intent.price <= 0 or intent.price % instrument.tick):
        return "tick"
    if closes:
        return ""
    if quantity % instrument.step:
        return "step"
    if quantity <= 0 or quantity < instrument.min_quantity:
        return "below_min_quantity"
    if not intent.reduce_only and quantity * price < instrument.min_notional:
        return "below_min_notional"
    return ""


def exposure_refusal(intent: OrderIntent, instrument: Instrument, holding: Holding | None, selling: Decimal) -> str:
    """Return why the order may not change the position as it would; `selling`: base that resting sells already take."""
    sign = direction(intent.side)
    if intent.reduce_only:
        if holding is None:
            return "no_position"
        return "would_increase" if holding.sign == sign else ""
    if sign < 0 and (instrument.kind == "spot" or not instrument.shorting):
        free = holding.quantity - selling if holding is not None and holding.sign > 0 else ZERO
        return "shorting" if intent.quantity > free else ""
    return ""


def opening_quantity(holding: Holding | None, sign: int, quantity: Decimal) -> Decimal:
    """Return how much of an order of direction `sign` would open or increase rather than reduce."""
    if holding is None or holding.sign == sign:
        return quantity
    return max(quantity - holding.quantity, ZERO)


def margin_refusal(
    wallet: Wallet,
    intent: OrderIntent,
    quantity: Decimal,
    price: Decimal,
    taker_bps: Decimal,
    reserved: Decimal,
) -> str:
    """Return "insufficient_balance" if the part that opens needs more margin and fee than is free."""
    symbol = intent.symbol
    holding = wallet.holdings.get(symbol)
    opening = opening_quantity(holding, direction(intent.side), quantity)
    if intent.reduce_only or not opening:
        return ""
    released = wallet.margin(holding) if holding is not None and opening < quantity else ZERO
    need = opening * price * (1 / wallet.leverage(symbol) + taker_bps / 10_000)
    return "" if need <= wallet.available({}) - reserved + released else "insufficient_balance"
