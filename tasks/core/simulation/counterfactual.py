"""What a decision would have earned: the same account, the same market, other orders.

Champion and challenger are scored alike, from the account state at the decision over the bars that followed, by the
one fill engine; so a decision that was never sent is measured like one that was.
"""

from collections.abc import Sequence
from decimal import Decimal

import pandas as pd

from tasks.core.simulation.account import INSIDE, PriceBar, SimulatedAccount, price_bars
from tasks.core.types import ZERO, AccountState, Costs, DataError, OrderIntent, direction, duration

HORIZON_BARS = 288  # a day of 5m bars: what is still open then is valued at the last close


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
    account = SimulatedAccount(state.equity, {symbol: instrument}, costs)
    position, before = state.position(symbol), first.open_time - INSIDE
    if position is not None:  # booked, not sent: however small it is, and no trade of this bar
        sign = direction(position.side)
        account.wallet.trade(symbol, sign, position.quantity, first.open, ZERO, before)
        account.set_protection(symbol, position.stop, position.target, before)
    return account
