"""Double-entry: every fill's postings sum to zero, and equity comes out of the fills alone, to the last digit."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st
from instrument_cases import linear, spot

from tasks.core.simulation.account import Account
from tasks.core.trading import booking, ledger, postings
from tasks.core.trading.postings import Account as Books
from tasks.core.types.orders import Fill, OrderIntent, OrderType

BTC, ETH, SPOT = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT"
START = datetime(2026, 1, 2, tzinfo=UTC)
CASH = D(10_000)


def fill(number, side, quantity, price, fee="0", symbol=BTC, **fields):
    return Fill(
        fill_id=f"f{number}", venue_order_id="v", symbol=symbol, side=side, quantity=D(quantity), price=D(price),
        fee=D(fee), at=START + timedelta(minutes=number), **fields,
    )  # fmt: skip


def test_a_long_round_trip_with_funding_moves_cash_by_what_it_earned():
    fills = [
        fill(0, "buy", 2, 100, "0.11"), fill(1, "sell", 0, 101, "0.02", reason="funding"),
        fill(2, "sell", 2, "104.5", "0.11495"),
    ]  # fmt: skip
    assert postings.balances(postings.postings(fills)) == {
        Books.CASH: D("8.75505"), Books.POSITION: 0, Books.FEE: D("0.22495"), Books.FUNDING: D("0.02"),
        Books.REALIZED: D(-9),
    }  # fmt: skip


def test_a_short_that_is_turned_into_a_long_realizes_only_the_short():
    fills = [fill(0, "sell", 1, 100), fill(1, "buy", 3, 90)]
    assert postings.balances(postings.postings(fills))[Books.REALIZED] == -10
    assert postings.equity(CASH, fills, {BTC: D(95)}) == CASH + 10 + 2 * 5


def test_a_fee_in_base_is_less_held_and_worth_its_price():
    fills = [fill(0, "buy", 1, 100, "0.001", symbol=SPOT, fee_currency="BTC")]
    assert postings.equity(D(1000), fills, {SPOT: D(100)}) == D("999.9")
    assert sum(line.quantity for line in postings.postings(fills)) == D("0.999")


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
    account, fills = Account(CASH, instruments, D(3)), []
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


@given(trades)
def test_the_postings_of_every_fill_sum_to_zero(drawn):
    _, fills = made(drawn)
    for _, lines in groupby(postings.postings(fills), key=lambda line: line.fill_id):
        assert sum(line.amount for line in lines) == 0


@given(trades, prices)
def test_equity_of_the_fills_is_equity_by_marks(drawn, mark):
    account, fills = made(drawn)
    marks = dict.fromkeys((BTC, ETH, SPOT), mark)
    assert postings.equity(CASH, fills, marks) == account.equity(marks)
    sums = postings.balances(postings.postings(fills))
    open_gain = sum(held.unrealized(mark) for held in account.holdings.values())
    assert CASH - sums[Books.REALIZED] - sums[Books.FEE] - sums[Books.FUNDING] + open_gain == account.equity(marks)


@given(st.lists(st.tuples(st.booleans(), sizes, prices, fees), min_size=1, max_size=12), st.booleans(), prices)
def test_positions_and_postings_tell_the_same_equity(drawn, long, mark):
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
    positions, foreign = booking.project(fills, ours, {}, "default")
    assert not foreign
    difference = ledger.equity(CASH, positions, {BTC: mark}) - postings.equity(CASH, fills, {BTC: mark})
    assert abs(difference) < D("1e-9")
