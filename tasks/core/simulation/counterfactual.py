"""What a decision would have earned: the same account, the same market, other orders.

Champion and challenger are scored alike, from the account state at the decision over the bars that followed, by the
one fill engine; so a decision that was never sent is measured like one that was.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import pandas as pd

from tasks.core.errors import DataError
from tasks.core.simulation.account import PriceBar, SimulatedAccount
from tasks.core.trading.money import exact
from tasks.core.types.bars import duration
from tasks.core.types.base import Dto, Exact
from tasks.core.types.limits import Costs
from tasks.core.types.orders import Instrument, OrderIntent, OrderType
from tasks.core.types.portfolio import AccountState

HORIZON_BARS = 288  # a day of 5m bars: what is still open then is valued at the last close
FREE = Costs(taker_bps=Decimal(0), maker_bps=Decimal(0), half_spread_bps=Decimal(0), impact_bps_per_million=Decimal(0))


class Counterfactual(Dto):
    """The account's return over the horizon, in percent of the equity at the decision, and how many bars it took."""

    return_pct: Exact
    bars: int
    closed: bool


def score(
    state: AccountState, symbol: str, intents: Sequence[OrderIntent], bars: pd.DataFrame, costs: Costs
) -> Counterfactual | None:
    """Carry `intents` out at the first bar's open and follow the account; None without a bar to trade on.

    bars: 5m bars that opened at or after the decision, oldest first; at most HORIZON_BARS are used.
    """
    tape = price_bars(bars.iloc[:HORIZON_BARS])
    if not tape:
        return None
    account = _account(state, symbol, costs, tape[0])
    start = account.balance({symbol: tape[0].open}).equity
    for intent in intents:
        account.submit(intent, tape[0].open, tape[0].open_time)
    used = 0
    for bar in tape:
        used += 1
        account.on_bar(symbol, bar, bar.open_time + duration("5m"))
        if not account.has_work(symbol):
            break
    end = account.balance({symbol: tape[used - 1].close}).equity
    return Counterfactual(
        return_pct=(end / start - 1) * 100 if start > 0 else Decimal(0), bars=used, closed=not account.has_work(symbol)
    )


def _account(state: AccountState, symbol: str, costs: Costs, first: PriceBar) -> SimulatedAccount:
    """Build an account that holds what `state` holds in `symbol`, taken over at the first open without cost."""
    if state.instrument is None:
        raise DataError(f"{symbol}: the account of this decision names no instrument to score it with")
    instrument = state.instrument.model_copy(update={"symbol": symbol})
    account = SimulatedAccount(state.equity, {symbol: instrument}, FREE)
    held = state.position(symbol)
    if held is not None:
        entry = OrderIntent(
            client_order_id="held", symbol=symbol, side="buy" if held.side == "long" else "sell",
            type=OrderType.MARKET, quantity=held.quantity, stop=held.stop, target=held.tp,
        )  # fmt: skip
        account.submit(entry, first.open, first.open_time)
    account.costs = costs
    return account


def price_bars(bars: pd.DataFrame) -> list[PriceBar]:
    """Cross bars from float to Decimal."""
    columns = [bars[name].tolist() for name in ("open", "high", "low", "close", "volume")]
    times: Iterable[datetime] = pd.DatetimeIndex(bars.index).to_pydatetime()
    rows = zip(times, *columns, strict=True)
    return [PriceBar(at, *(exact(value) for value in values)) for at, *values in rows]


class PaperBook:
    """A challenger's own account, run over the market bar by bar; its whole state is one text."""

    def __init__(self, cash: Decimal, instruments: dict[str, Instrument], costs: Costs, state: str = "") -> None:
        self.account = SimulatedAccount(cash, instruments, costs)
        if state:
            self.account.load(state)

    def run(
        self,
        bars: Mapping[str, pd.DataFrame],
        due: Sequence[tuple[datetime, str, Sequence[OrderIntent]]] = (),
        funding: Sequence[tuple[datetime, str, Decimal]] = (),
        timeframe: str = "5m",
    ) -> Decimal:
        """Pass the bars over the account; each decision's orders meet the first bar that opens at or after it.

        due: (as_of, symbol, intents), funding: (paid at, symbol, rate), both oldest first; timeframe: the bars'.
        Returns the equity at the last closes.
        """
        waiting, unpaid, step = list(due), list(funding), duration(timeframe)
        stream = sorted(
            ((bar.open_time, symbol, bar) for symbol, frame in bars.items() for bar in price_bars(frame)),
            key=lambda each: each[:2],
        )
        marks: dict[str, Decimal] = {}
        for opened, symbol, bar in stream:
            while ready := [each for each in waiting if each[1] == symbol and each[0] <= opened]:
                waiting.remove(ready[0])
                for intent in ready[0][2]:
                    self.account.submit(intent, bar.open, opened)
            while unpaid and unpaid[0][0] <= opened:
                self._pay(*unpaid.pop(0), bar.open)
            if self._lived(symbol, opened + step):
                self.account.on_bar(symbol, bar, opened + step)
            self.account.mark(symbol, bar.close)
            marks[symbol] = bar.close
        return self.account.balance(marks).equity

    def _pay(self, at: datetime, symbol: str, rate: Decimal, price: Decimal) -> None:
        if self._lived(symbol, at):
            self.account.apply_funding(symbol, rate, self.account.wallet.last.get(symbol, price), at)

    def _lived(self, symbol: str, at: datetime) -> bool:
        """Say whether what is open in `symbol`, if anything, was open before `at`: no bar acts backwards."""
        holding = self.account.wallet.holdings.get(symbol)
        return holding is None or holding.opened_at < at
