"""What an order book says, and a modelled one for replays without a recorded book."""

from collections.abc import Sequence
from decimal import Decimal

from tasks.core.types import ZERO, OrderBookView, exact_sum

Levels = Sequence[tuple[Decimal, Decimal]]
TOP = 5


def view(bids: Levels, asks: Levels, notional: Decimal) -> OrderBookView:
    """Read a book. bids/asks: best first, (price, base quantity); notional: quote value of the order we may send."""
    if not bids or not asks or asks[0][0] <= bids[0][0]:
        return OrderBookView()
    bid, ask = (float(exact_sum(q for _, q in side[:TOP])) for side in (bids, asks))
    mid = (bids[0][0] + asks[0][0]) / 2
    walked = [slippage_bps(side, mid, notional) for side in (asks, bids)]
    known = [x for x in walked if x is not None]
    return OrderBookView(
        imbalance=(bid - ask) / (bid + ask) if bid + ask > 0 else None,
        spread_bps=float((asks[0][0] - bids[0][0]) / mid * 10_000),
        slippage_bps_for_size=max(known) if len(known) == 2 else None,
    )


def slippage_bps(side: Levels, mid: Decimal, notional: Decimal) -> float | None:
    """Walk one side with `notional` quote; return the average price's distance from mid in bps.

    None when the book is too thin for it: the guard must not take unknown for cheap.
    """
    left, base = notional, ZERO
    for price, quantity in side:
        taken = min(left, price * quantity)
        base += taken / price
        left -= taken
        if left <= 0:
            average = notional / base
            return float(abs(average - mid) / mid * 10_000)
    return None


def modelled(atr_pct: float | None, notional: float) -> OrderBookView:
    """Model spread and slippage from volatility (15m ATR in percent); imbalance stays unknown."""
    if atr_pct is None:
        return OrderBookView()
    spread = 1.0 + 2.0 * atr_pct
    return OrderBookView.trusted(spread_bps=spread, slippage_bps_for_size=spread / 2 + 5.0 * notional / 1_000_000)
