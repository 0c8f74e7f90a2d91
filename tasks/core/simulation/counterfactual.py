"""What a decision would have earned: the same account, the same market, other orders.

Champion and challenger are scored alike, from the account state at the decision over the bars that followed, by the
one fill engine; so a decision that was never sent is measured like one that was.
"""

from collections.abc import Sequence
from decimal import Decimal

import pandas as pd

from tasks.core.errors import DataError
from tasks.core.simulation.account import PriceBar, SimulatedAccount, price_bars
from tasks.core.types.bars import duration
from tasks.core.types.base import ZERO
from tasks.core.types.limits import Costs
from tasks.core.types.orders import OrderIntent, OrderType
from tasks.core.types.portfolio import AccountState

HORIZON_BARS = 288  # a day of 5m bars: what is still open then is valued at the last close
FREE = Costs(taker_bps=ZERO, maker_bps=ZERO, half_spread_bps=ZERO, impact_bps_per_million=ZERO)


def score(
    state: AccountState, symbol: str, intents: Sequence[OrderIntent], bars: pd.DataFrame, costs: Costs
) -> Decimal | None:
    """Carry `intents` out at the first bar's open; return what the account earned, in percent of its equity.

    bars: 5m bars that opened at or after the decision, oldest first; those of the first day are used. None without any.
    """
    if bars.empty:
        return None
    bars = bars.loc[: bars.index[0] + (HORIZON_BARS - 1) * duration("5m")]
    first = price_bars(bars.iloc[:1])[0]
    account = _account(state, symbol, costs, first)
    start = account.balance({}).equity
    account.pass_bars({symbol: bars}, duration("5m"), [(first.open_time, symbol, intents)])
    return (account.balance({}).equity / start - 1) * 100 if start > 0 else ZERO


def _account(state: AccountState, symbol: str, costs: Costs, first: PriceBar) -> SimulatedAccount:
    """Build an account that holds what `state` holds in `symbol`, taken over at the first open without cost."""
    if state.instrument is None:
        raise DataError(f"{symbol}: the account of this decision names no instrument to score it with")
    instrument = state.instrument.replace(symbol=symbol)
    account = SimulatedAccount(state.equity, {symbol: instrument}, FREE)
    position = state.position(symbol)
    if position is not None:
        entry = OrderIntent(
            client_order_id="held", symbol=symbol, side="buy" if position.side == "long" else "sell",
            type=OrderType.MARKET, quantity=position.quantity, stop=position.stop, target=position.target,
        )  # fmt: skip
        account.submit(entry, first.open, first.open_time)
    account.costs = costs
    return account
