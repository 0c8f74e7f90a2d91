"""Equity follows from the fills alone: the simulated account and the ledger agree with what fills moved in cash."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

from equity_cases import equity_of_fills, equity_of_positions
from hypothesis import given
from hypothesis import strategies as st
from instrument_cases import linear, spot

from tasks.core.simulation.wallet import Wallet
from tasks.core.trading.positions import positions_from_fills
from tasks.core.types.orders import Fill, OrderIntent, OrderType

BTC, ETH, SPOT = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT"
START = datetime(2026, 1, 2, tzinfo=UTC)
CASH = D(10_000)


def fill(number, side, quantity, price, fee="0", symbol=BTC, **fields):
    return Fill(
        fill_id=f"f{number}", venue_order_id="v", symbol=symbol, side=side, quantity=D(quantity), price=D(price),
        fee=D(fee), at=START + timedelta(minutes=number), **fields,
    )  # fmt: skip


prices = st.decimals(min_value=1, max_value=90_000, places=2)
sizes = st.decimals(min_value="0.001", max_value=5, places=3)
fees = st.decimals(min_value="-1", max_value=20, places=6)
trades = st.lists(
    st.tuples(st.sampled_from([BTC, ETH, SPOT]), st.sampled_from(["buy", "sell", "funding"]), sizes, prices, fees),
    max_size=25,
)


def made(drawn):
    """Fills of an account, and the account itself; nothing is sold on spot that is not held."""
    instruments = {symbol: spot(symbol) if symbol == SPOT else linear(symbol) for symbol in
                   (BTC, ETH, SPOT)}  # fmt: skip
    account, fills = Wallet(cash=CASH, instruments=instruments), []
    account.default_leverage = D(3)
    for number, (symbol, side, quantity, price, fee) in enumerate(drawn):
        held = account.holdings.get(symbol)
        if side == "funding":
            if held is not None and symbol != SPOT:
                account.fund(symbol, fee)
                fills.append(fill(number, "buy", 0, price, fee, symbol, reason="funding"))
            continue
        sign = 1 if side == "buy" else -1
        if held is not None and held.sign != sign:
            quantity = min(quantity, held.quantity)
        elif symbol == SPOT and sign < 0:
            continue
        account.trade(symbol, sign, quantity, price, fee, START)
        fills.append(fill(number, side, quantity, price, fee, symbol))
    return account, fills


@given(trades, prices)
def test_equity_of_the_fills_is_equity_by_marks(drawn, mark):
    account, fills = made(drawn)
    marks = dict.fromkeys((BTC, ETH, SPOT), mark)
    assert equity_of_fills(CASH, fills, marks) == account.equity(marks)


@given(st.lists(st.tuples(st.booleans(), sizes, prices, fees), min_size=1, max_size=12), st.booleans(), prices)
def test_positions_have_the_equity_of_their_fills(drawn, long, mark):
    """The ledger's positions average, so they agree up to the last digits of a division."""
    entry, out = ("qd" + "1" * 32 + "e0", "qd" + "2" * 32 + "x0")
    into, away = ("buy", "sell") if long else ("sell", "buy")
    fills, held = [], D(0)
    for number, (adds, quantity, price, fee) in enumerate(drawn):
        if adds or not held:
            fills.append(fill(number, into, quantity, price, fee, client_order_id=entry))
            held += quantity
        else:
            quantity = min(quantity, held)
            fills.append(fill(number, away, quantity, price, fee, client_order_id=out))
            held -= quantity
    ours = {
        key: ("c1", OrderIntent(client_order_id=key, symbol=BTC, side=side, type=OrderType.MARKET, quantity=D(1),
                                reduce_only=key == out))
        for key, side in ((entry, into), (out, away))
    }  # fmt: skip
    positions, fold = positions_from_fills(fills, ours, {}, "default")
    assert not fold.foreign
    difference = equity_of_positions(CASH, positions, {BTC: mark}) - equity_of_fills(CASH, fills, {BTC: mark})
    assert abs(difference) < D("1e-9")
