"""Instruments for tests: all terms said, what matters to a test moved."""

from decimal import Decimal as D

from tasks.core.types.orders import Instrument

BTC = "BTC/USDT:USDT"


def linear(symbol: str = BTC, **changed: object) -> Instrument:
    """A perpetual: tick 0.1, step 0.001."""
    plain = {
        "symbol": symbol, "kind": "linear", "tick": D("0.1"), "step": D("0.001"), "min_quantity": D(0),
        "min_notional": D(5), "max_leverage": D(100), "shorting": True,
    }  # fmt: skip
    return Instrument(**{**plain, **changed})


def spot(symbol: str = "BTC/USDT", **changed: object) -> Instrument:
    """The same on spot: no leverage, nothing to sell short."""
    return linear(symbol, **{"kind": "spot", "max_leverage": D(1), "shorting": False, **changed})
