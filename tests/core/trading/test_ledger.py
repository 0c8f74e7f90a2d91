"""Fills, computed by hand to the last digit."""

from datetime import timedelta
from decimal import Decimal as D
from fractions import Fraction

import pytest
from equity_cases import equity_of_positions
from guard_cases import BTC, ETH, NOON
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import LedgerMismatch
from tasks.core.trading import ledger
from tasks.core.types.orders import Fill, OrderIntent, OrderType
from tasks.core.types.record import Outcome

ENTRY = "qd9c811fd942d357c6be1f65b6ef1535e0e0"
HOUR = timedelta(hours=1)


def fill(side, quantity, price, fee="0", *, hours=0, **changed):
    plain = {
        "fill_id": f"f{hours}", "venue_order_id": "v", "client_order_id": ENTRY, "symbol": BTC, "side": side,
        "quantity": D(quantity), "price": D(price), "fee": D(fee), "at": NOON + hours * HOUR,
    }  # fmt: skip
    return Fill(**{**plain, **changed})


def opened(side="buy", *fills, stop="98", target="104"):
    intent = OrderIntent(
        client_order_id=ENTRY, symbol=BTC, side=side, type=OrderType.MARKET, quantity=D(9),
        stop=D(stop) if stop else None, target=D(target),
    )  # fmt: skip
    first, *rest = fills
    return after(
        ledger.open_position(intent, first, "default", "c1", ledger.position_id(intent.client_order_id)), *rest
    )


def after(position, *fills):
    for each in fills:
        position = ledger.apply_fill(position, each)
    return position


def test_a_position_opens_from_the_fills_of_its_order():
    p = opened("buy", fill("buy", "1.5", "100", "0.0825"), fill("buy", "0.5", "101", "0.027775"))
    assert (p.side, p.quantity, p.entry_quantity, p.avg_price) == ("long", D(2), D(2), D("100.25"))
    assert (p.initial_stop, p.stop, p.target, p.fees) == (D(98), D(98), D(104), D("0.110275"))
    assert (p.opened_at, p.closed_at, p.cycle_id) == (NOON, None, "c1")


def test_a_position_id_derives_from_its_opening_order():
    assert opened("buy", fill("buy", "1", "100")).position_id == ledger.position_id(ENTRY)
    assert ledger.position_id(ENTRY) != ledger.position_id(ENTRY[:-1] + "1")


def test_a_long_round_trip():
    # 2 x (104.5 - 100) = 9; fees 0.11 + 0.11495; 2 x 2 at risk
    p = after(opened("buy", fill("buy", "2", "100", "0.11")), fill("sell", "2", "104.5", "0.11495", hours=3))
    o = ledger.outcome(p)
    assert (p.quantity, p.realized_pnl, p.closed_at) == (0, D("9.0"), NOON + 3 * HOUR)
    assert (o.entry_price, o.exit_price, o.fees) == (D(100), D("104.5"), D("0.22495"))
    assert (o.pnl, o.pnl_pct, o.outcome_r) == (D("8.77505"), D("4.387525"), D("2.1937625"))
    assert o.hold_seconds == 10_800


def test_a_short_that_is_stopped_out_loses_one_r_and_its_fees():
    p = opened("sell", fill("sell", "0.4", "2500", "0.55"), stop="2550", target="2400")
    o = ledger.outcome(after(p, fill("buy", "0.4", "2550", "0.561", client_order_id="", reason="stop", hours=1)))
    assert (o.pnl, o.outcome_r, o.pnl_pct) == (D("-21.111"), D("-1.05555"), D("-2.1111"))


def test_add_then_trim_then_close():
    # 1 @ 100 and 3 @ 104 average 103; trim 1 @ 107: +4; close 3 @ 101: -6
    p = opened("buy", fill("buy", "1", "100", "0.055"))
    add = fill("buy", "3", "104", "0.1716", client_order_id="another", hours=1)
    p = ledger.apply_fill(p, add, stop=D("99.7"))
    assert (p.quantity, p.entry_quantity, p.avg_price) == (D(4), D(4), D(103))
    p = after(p, fill("sell", "1", "107", "0.05885", hours=2))
    assert (p.quantity, p.avg_price, p.realized_pnl, p.exit_price) == (D(3), D(103), D(4), D(107))
    assert p.closed_at is None
    p = after(p, fill("sell", "3", "101", "0.16665", hours=3))
    assert (p.quantity, p.realized_pnl, p.exit_price, p.fees) == (0, D(-2), D("102.5"), D("0.4521"))
    o = ledger.outcome(p)
    assert (o.pnl, o.entry_price) == (D("-2.4521"), D(103))
    assert o.outcome_r == D("-2.4521") / D("14.9")  # 1 x 2 and 3 x 4.3 at risk


def test_trim_then_add_remembers_everything_bought():
    # in: 1 @ 100 and 0.5 @ 120 (60) = 160 over 1.5; out: 0.5 @ 110, then 1 @ 115
    p = opened("buy", fill("buy", "1", "100"))
    p = after(p, fill("sell", "0.5", "110", hours=1), fill("buy", "0.5", "120", hours=2))
    assert (p.avg_price, p.realized_pnl) == (D(110), D(5))
    o = ledger.outcome(after(p, fill("sell", "1", "115", hours=3)))
    assert o.pnl == D(10)  # 55 + 115 - 160
    assert abs(o.entry_price - D(160) / D("1.5")) < D("1e-20")
    assert abs(o.pnl_pct - D("6.25")) < D("1e-20")


def test_a_fee_in_base_is_paid_out_of_what_was_bought():
    p = opened("buy", fill("buy", "1", "100", "0.001", fee_currency="BTC"))
    assert (p.quantity, p.avg_price, p.fees) == (D("0.999"), D(100), D("0.1"))
    assert equity_of_positions(D(1000), [p], {BTC: D(100)}) == D("999.9")  # 900 in cash and 0.999 x 100


def test_a_fee_in_a_third_currency_that_nobody_valued_takes_nothing_away_and_is_marked():
    paid = fill("buy", "1", "100", "0.01", fee_currency="BNB")
    p = opened("buy", paid)
    assert (p.quantity, p.fees, ledger.is_valued(paid)) == (D(1), D(0), False)
    funded = after(p, fill("sell", "1", "100", "0.02", fee_currency="BNB", reason="funding", hours=1))
    closed = after(funded, fill("sell", "1", "110", "0.5", hours=2))
    assert (closed.quantity, closed.fees, ledger.outcome(closed).pnl) == (0, D("0.5"), D("9.5"))


def test_funding_is_a_cost_and_changes_nothing_else():
    p = opened("buy", fill("buy", "1", "100", "0.05"))
    funded = after(p, fill("sell", "1", "100", "-0.02", reason="funding", hours=1))
    assert funded == p.model_copy(update={"fees": D("0.03")})


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (fill("sell", "2.001", "100"), "takes 2.001 out of 2"),
        (fill("sell", "1", "100", symbol=ETH), "is on ETH"),
    ],
)
def test_a_fill_the_position_cannot_have_had_is_a_mismatch(wrong, why):
    with pytest.raises(LedgerMismatch, match=why):
        after(opened("buy", fill("buy", "2", "100")), wrong)


def test_a_fill_after_the_close_is_a_mismatch():
    with pytest.raises(LedgerMismatch, match="closed"):
        after(opened("buy", fill("buy", "2", "100")), fill("sell", "2", "101"), fill("sell", "1", "101"))


@pytest.mark.parametrize("fills", [(fill("sell", "1", "100"),), (fill("buy", "1", "100", client_order_id="x"),)])
def test_only_the_entrys_own_fills_open_a_position(fills):
    with pytest.raises(LedgerMismatch):
        opened("buy", *fills)


def test_an_open_position_has_no_outcome_yet():
    p = opened("buy", fill("buy", "2", "100"))
    with pytest.raises(ValueError, match="still holds 2"):
        ledger.outcome(p)


def test_a_trade_without_stop_has_no_r():
    p = after(opened("buy", fill("buy", "1", "100"), stop=None), fill("sell", "1", "101"))
    assert ledger.outcome(p).outcome_r is None


tenths = st.integers(1, 5000).map(lambda n: D(n) / 10)


@given(st.booleans(), st.lists(st.tuples(tenths, tenths, st.booleans(), tenths), min_size=1, max_size=12), tenths)
def test_equity_is_what_the_fills_did_to_cash_and_holdings(long, trades, mark):
    into, out = ("buy", "sell") if long else ("sell", "buy")
    first = fill(into, "100", "50", "0.3")
    position, fills = opened(into, first, stop=None), [first]
    for price, quantity, adds, fee in trades:
        room = quantity if adds else min(quantity, position.quantity)
        if room > 0 and position.closed_at is None:
            fills.append(fill(into if adds else out, str(room), str(price), str(fee / 1000)))
            position = ledger.apply_fill(position, fills[-1])
    cash, held = Fraction(1_000), Fraction(0)
    for f in fills:
        sign = 1 if f.side == "buy" else -1
        cash -= sign * Fraction(f.quantity) * Fraction(f.price) + Fraction(f.fee)
        held += sign * Fraction(f.quantity)
    booked = equity_of_positions(D(1_000), [position], {BTC: mark})
    assert abs(Fraction(booked) - (cash + held * Fraction(mark))) < Fraction(1, 10**18)


# --- digest


def trade(pnl, r, hours):
    return Outcome(
        cycle_id="c", position_id=f"p{hours}", symbol=BTC, entry_price=D(100), exit_price=D(101), pnl=D(pnl),
        pnl_pct=D(pnl), outcome_r=None if r is None else D(r), fees=D(0), hold_seconds=60,
        closed_at=NOON + hours * HOUR,
    )  # fmt: skip


def test_a_digest_sums_up_trades_in_whatever_order_they_come():
    d = ledger.digest([trade("5", "1", 3), trade("-8", "-1", 2), trade("10", "2", 1)])
    assert (d.trade_count, d.realized_pnl, d.win_rate, d.max_drawdown) == (3, 7.0, 2 / 3, 8.0)
    assert (d.avg_holding_ms, d.avg_entry_price, d.last_trade_ts) == (60_000.0, 100.0, NOON + 3 * HOUR)


def test_without_trades_a_digest_knows_nothing():
    d = ledger.digest([])
    assert d.trade_count == 0
    assert (d.realized_pnl, d.win_rate, d.recent_performance_score) == (None, None, None)


def test_the_score_halves_a_trades_weight_every_ten_trades():
    r = [D(3), *[D(0)] * 10]
    weights = [0.5 ** (age / 10) for age in range(11)]
    assert ledger.performance_score(r) == pytest.approx(3 * 0.5 / sum(weights))
    assert ledger.performance_score([D(1)] * 7) == pytest.approx(1)
    assert ledger.performance_score([]) is None


def test_the_score_forgets_what_is_older_than_twenty_trades():
    assert ledger.performance_score([D(-100), *[D(1)] * 20]) == pytest.approx(1)
    assert ledger.performance_score([D(-100), *[D(1)] * 19]) < 0
