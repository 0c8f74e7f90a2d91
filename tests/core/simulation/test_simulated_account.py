"""The fill engine: scenarios computed by hand, and what must hold for any sequence of orders and bars."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instrument_cases import linear, spot

from tasks.core.simulation.account import AVERAGE, PriceBar, SimulatedAccount
from tasks.core.types.limits import Costs
from tasks.core.types.orders import MarginTier, OrderIntent, OrderStatus

PERP, OTHER, SPOT = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT"
START = datetime(2025, 3, 1, tzinfo=UTC)
FIVE = timedelta(minutes=5)
FREE = Costs(taker_bps=D(0), maker_bps=D(0), half_spread_bps=D(0), impact_bps_per_million=D(0))
FEES = Costs(half_spread_bps=D(0), impact_bps_per_million=D(0))


def an_account(costs: Costs = FREE, cash: str = "10000") -> SimulatedAccount:
    return SimulatedAccount(
        D(cash),
        {
            PERP: linear(PERP),
            OTHER: linear(OTHER),
            SPOT: spot(SPOT),
        },
        costs,
    )


def intent(side: str = "buy", quantity: object = 1, kind: str = "market", **more: object) -> OrderIntent:
    fields = {"client_order_id": f"{side}-{kind}-{quantity}", "symbol": PERP} | more
    return OrderIntent(side=side, type=kind, quantity=D(str(quantity)), **fields)


def bar(n: int, o: object, h: object, low: object, c: object) -> PriceBar:
    return PriceBar(START + n * FIVE, *(D(str(x)) for x in (o, h, low, c)))


def play(account: SimulatedAccount, n: int, *ohlc: object, symbol: str = PERP):
    return account.on_bar(symbol, bar(n, *ohlc), START + (n + 1) * FIVE)


def enter(account: SimulatedAccount, now: object = 100, /, depth: D | None = None, **more: object):
    return account.submit(intent(**more), D(str(now)), START, depth=depth)


# --- entries and costs --------------------------------------------------------------------------------------------


def test_a_market_order_pays_half_the_spread_its_impact_and_the_taker_fee_to_the_last_digit():
    costs = Costs(half_spread_bps=D("0.5"), impact_bps_per_million=D(5), taker_bps=D("5.5"))
    account = an_account(costs)
    order = enter(account, 50_000, quantity="0.1")
    # 5,000 of notional is 0.005 million: 0.025 bps of impact beside 0.5 bps of half spread
    assert order.avg_price == D("50000") * D("1.0000525") == D("50002.625")
    (fill,) = account.fills
    assert fill.fee == D("0.1") * D("50002.625") * D("0.00055") == D("2.750144375")
    assert (fill.liquidity, fill.reason, fill.fee_currency) == ("taker", "entry", "USDT")
    assert account.balance({PERP: D(50_000)}).equity == D(10_000) - D("0.2625") - D("2.750144375")


def test_a_modelled_spread_replaces_the_configured_one():
    order = an_account(Costs(impact_bps_per_million=D(0))).submit(
        intent("sell"), D(100), START, modelled_half_spread_bps=D(10)
    )
    assert order.avg_price == D("99.9")


def test_a_limit_that_is_touched_rests_and_one_traded_through_fills_at_its_price_as_maker():
    account = an_account(FEES)
    assert enter(account, kind="limit", price=D(98)).status is OrderStatus.OPEN
    assert play(account, 0, 100, 101, 98, 99) == []
    (fill,) = play(account, 1, 99, 99, "97.9", 98)
    assert (fill.price, fill.liquidity, fill.fee) == (D(98), "maker", D("0.0196"))
    assert account.open_orders() == []


def test_a_marketable_limit_fills_at_once_as_taker_and_never_beyond_its_price():
    account = an_account(Costs(half_spread_bps=D(1), impact_bps_per_million=D(100_000)))
    order = enter(account, kind="limit", price=D("100.5"), quantity=10)
    assert (order.status, order.avg_price) == (OrderStatus.FILLED, D("100.5"))
    assert account.fills[0].liquidity == "taker"


def test_a_limit_is_not_filled_by_a_bar_that_opened_before_it_was_placed():
    account = an_account()
    account.submit(intent(kind="limit", price=D(98)), D(100), START + timedelta(minutes=2))
    assert play(account, 0, 100, 101, 90, 99) == []
    assert len(play(account, 1, 99, 99, 97, 98)) == 1


def test_a_limit_ends_when_it_expires():
    account = an_account()
    enter(account, kind="limit", price=D(98), expires_at=START + 3 * FIVE)
    assert account.next_triggers(PERP) == (D(98), None, START + 3 * FIVE)
    play(account, 2, 100, 101, 99, 100)
    assert account.open_orders()
    assert play(account, 3, 100, 101, 90, 99) == []
    assert (account.orders[0].status, account.orders[0].reason) == (OrderStatus.CANCELLED, "expired")
    assert not account.has_work(PERP)


# --- stops and targets --------------------------------------------------------------------------------------------


def test_a_stop_fires_at_its_price_paying_spread_and_taker_fee():
    account = an_account(Costs(impact_bps_per_million=D(0), half_spread_bps=D(10)))
    enter(account, stop=D(95), target=D(110))
    (fill,) = play(account, 1, 100, 101, 95, 99)
    assert (fill.price, fill.reason, fill.liquidity) == (D("94.905"), "stop", "taker")
    assert fill.fee == D("94.905") * D("0.00055")
    assert account.position(PERP) is None


@pytest.mark.parametrize(("side", "stop", "opened", "filled"), [("buy", 95, 90, 90), ("sell", 105, 112, 112)])
def test_a_gap_through_the_stop_fills_at_the_open(side, stop, opened, filled):
    account = an_account()
    enter(account, side=side, stop=D(stop))
    (fill,) = play(account, 1, opened, 115, 85, 100)
    assert fill.price == D(filled)


def test_when_one_bar_touches_both_the_stop_fires():
    account = an_account()
    enter(account, stop=D(95), target=D(110))
    (fill,) = play(account, 1, 100, 120, 90, 115)
    assert (fill.reason, fill.price) == ("stop", D(95))


def test_a_target_that_is_touched_is_a_market_order():
    account = an_account(Costs(impact_bps_per_million=D(0)))
    enter(account, stop=D(95), target=D(110))
    assert play(account, 1, 100, "109.9", 99, 109) == []
    (fill,) = play(account, 2, 109, 110, 108, 110)
    assert (fill.reason, fill.price, fill.liquidity) == ("target", D("109.9945"), "taker")
    assert fill.fee == D("109.9945") * D("0.00055")


def test_on_the_entry_bar_the_target_cannot_fire_and_the_stop_can():
    account = an_account()
    enter(account, stop=D(95), target=D(110))
    assert play(account, 0, 100, 120, 96, 115) == []
    assert [f.reason for f in play(account, 1, 115, 116, 114, 115)] == ["target"]
    account = an_account()
    enter(account, stop=D(95), target=D(110))
    assert [f.reason for f in play(account, 0, 100, 120, 94, 115)] == ["stop"]


def test_a_limit_entry_can_be_stopped_on_the_bar_that_fills_it_and_takes_its_target_on_the_next():
    account = an_account()
    enter(account, kind="limit", price=D(98), stop=D(95), target=D(110))
    assert [f.reason for f in play(account, 0, 100, 120, 94, 110)] == ["entry", "stop"]
    account = an_account()
    enter(account, kind="limit", price=D(98), stop=D(95), target=D(110))
    assert [f.reason for f in play(account, 0, 100, 120, 96, 110)] == ["entry"]
    assert [f.reason for f in play(account, 1, 110, 111, 109, 110)] == ["target"]


def test_an_addition_above_the_stop_is_filled_before_the_stop_takes_it_all():
    account = an_account()
    enter(account, stop=D(95))
    enter(account, kind="limit", price=D(98), quantity=2)
    fills = play(account, 1, 100, 101, 94, 96)
    assert [(f.reason, f.quantity, f.price) for f in fills] == [("entry", 2, 98), ("stop", 3, 95)]


@pytest.mark.parametrize(("side", "way"), [("buy", 1), ("sell", -1)])
def test_what_is_added_never_loosens_a_stop_that_was_moved_since(side, way):
    account = an_account()
    entry, stop, target, moved, later, looser, newer = (D(100 + way * off) for off in (-1, -10, 20, -5, 30, -7, 40))
    enter(account, side=side, kind="limit", price=entry, quantity=8, stop=stop, target=target)
    bars = [PriceBar(START + n * FIVE, D(100), D(102), D(98), D(100), volume=D(40)) for n in (0, 1)]
    account.on_bar(PERP, bars[0], START + FIVE)
    assert (account.position(PERP).quantity, account.position(PERP).stop) == (4, stop)
    account.set_protection(PERP, moved, later, START + FIVE)
    account.on_bar(PERP, bars[1], START + 2 * FIVE)
    held = account.position(PERP)
    assert (held.quantity, held.stop, held.target) == (8, moved, later)
    enter(account, side=side, quantity=1, stop=looser, target=newer)
    held = account.position(PERP)
    assert (held.quantity, held.stop, held.target) == (9, moved, newer)


def test_protection_is_replaced_removed_and_left_alone():
    account = an_account()
    enter(account, stop=D(95), target=D(110))
    assert account.set_protection(PERP, D(99), None, START) == ""
    assert (account.position(PERP).stop, account.position(PERP).target) == (D(99), D(110))
    assert account.set_protection(PERP, None, D(0), START) == ""
    assert (account.position(PERP).stop, account.position(PERP).target) == (D(99), None)
    assert account.set_protection(OTHER, D(1), None, START) == "no_position"


def test_a_stop_intent_rests_under_its_own_id_until_it_fires_or_is_replaced():
    account = an_account()
    enter(account, stop=D(90))
    first = account.submit(intent("sell", kind="stop", price=D(95), client_order_id="s1"), D(100), START)
    assert first.status is OrderStatus.OPEN
    assert [o.client_order_id for o in account.open_orders(PERP)] == ["s1"]
    account.submit(intent("sell", kind="stop", price=D(96), client_order_id="s2"), D(100), START)
    assert account.order("s1").status is OrderStatus.CANCELLED
    (fill,) = play(account, 1, 100, 101, 95, 99)
    assert (fill.client_order_id, fill.price, account.order("s2").status) == ("s2", D(96), OrderStatus.FILLED)


def test_a_stop_intent_on_the_side_of_the_position_is_refused():
    account = an_account()
    enter(account)
    assert account.submit(intent("buy", kind="stop", price=D(95)), D(100), START).reason == "would_increase"


def test_cancel_target_removes_the_target_only():
    account = an_account()
    enter(account, stop=D(90), target=D(110))
    done = account.submit(intent("sell", 0, "cancel_target", client_order_id="c"), D(100), START)
    assert done.status is OrderStatus.FILLED
    assert (account.position(PERP).stop, account.position(PERP).target) == (D(90), None)


# --- reducing, flipping, shorting ---------------------------------------------------------------------------------


def test_a_partial_reduce_realizes_its_share_and_keeps_the_average_price():
    account = an_account(FEES)
    enter(account, 100, quantity=2)
    enter(account, 110, quantity=1)
    enter(account, 120, side="sell", quantity="1.5", reduce_only=True)
    # 310 for 3: half of them cost 155 and bring 180
    assert account.totals(PERP).realized == D(25)
    assert account.totals(PERP).fees == (D(200) + D(110) + D(180)) * D("0.00055")
    assert (account.position(PERP).quantity, account.position(PERP).avg_price) == (D("1.5"), D("103.3333333333333"))


def test_a_reduce_only_order_larger_than_the_position_closes_it_and_nothing_more():
    account = an_account()
    enter(account, quantity=2, stop=D(90))
    order = enter(account, side="sell", quantity=5, reduce_only=True)
    assert (order.status, order.filled, account.position(PERP)) == (OrderStatus.FILLED, D(2), None)


def test_a_plain_opposite_order_flips_in_two_fills():
    account = an_account()
    enter(account, quantity=2, stop=D(90))
    enter(account, 105, side="sell", quantity=5, stop=D(120))
    assert [(f.reason, f.quantity) for f in account.fills] == [("entry", 2), ("exit", 2), ("entry", 3)]
    position = account.position(PERP)
    assert (position.side, position.quantity, position.avg_price, position.stop) == ("short", 3, 105, 120)


def test_a_short_earns_when_the_price_falls_and_loses_at_its_stop():
    account = an_account()
    enter(account, side="sell", stop=D(105), target=D(90))
    assert [f.side for f in play(account, 1, 100, 101, 89, 92)] == ["buy"]
    assert account.totals(PERP).realized == D(10)
    enter(account, side="sell", stop=D(105), client_order_id="again")
    play(account, 2, 100, 106, 99, 100)
    assert account.totals(PERP).realized == D(5)


def test_resting_reduce_only_orders_end_with_the_position():
    account = an_account()
    enter(account, stop=D(95))
    enter(account, side="sell", kind="limit", price=D(108), reduce_only=True)
    assert [f.reason for f in play(account, 1, 100, 109, 94, 108)] == ["stop"]
    assert account.orders[1].status is OrderStatus.CANCELLED
    assert account.open_orders() == []


def test_a_partial_target_nearer_than_the_full_one_fills_first():
    account = an_account()
    enter(account, quantity=2, target=D(110))
    enter(account, side="sell", kind="limit", price=D(105), quantity=1, reduce_only=True)
    fills = play(account, 1, 100, 112, 99, 111)
    assert [(f.reason, f.price, f.quantity) for f in fills] == [("exit", 105, 1), ("target", 110, 1)]


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"quantity": "0.0005"}, "step"),
        ({"quantity": "0.01"}, "below_min_notional"),
        ({"quantity": "0"}, "below_min_quantity"),
        ({"kind": "limit", "price": D("99.95")}, "tick"),
        ({"quantity": 1100}, "insufficient_balance"),
        ({"side": "sell", "reduce_only": True}, "no_position"),
        ({"side": "sell", "kind": "stop", "price": D(90)}, "no_position"),
        ({"stop": D(101)}, "stop_wrong_side"),
        ({"side": "sell", "target": D(101)}, "target_wrong_side"),
        ({"side": "sell", "symbol": SPOT}, "shorting"),
        ({"symbol": "XRP/USDT:USDT"}, "unknown_symbol"),
    ],
)
def test_a_refused_order_says_why_and_leaves_no_trace(wanted, code):
    account = an_account()
    before = account.dump()
    order = enter(account, **wanted)
    assert (order.status, order.reason) == (OrderStatus.REJECTED, code)
    assert account.order(order.client_order_id) is None
    assert (account.fills, account.orders, account.has_work(PERP)) == ([], [], False)
    assert before.replace('"last":{}', "") == account.dump().replace(f'"last":{{"{order.symbol}":"100"}}', "").replace(
        '"last":{}', ""
    )


def test_a_client_order_id_works_once():
    account = an_account()
    enter(account)
    again = enter(account)
    assert (again.status, again.reason, len(account.fills)) == (OrderStatus.REJECTED, "duplicate_id", 1)
    assert account.order(again.client_order_id).status is OrderStatus.FILLED


def test_a_reduce_only_order_that_would_increase_is_refused():
    account = an_account()
    enter(account)
    assert enter(account, quantity=2, reduce_only=True).reason == "would_increase"


def test_margin_of_working_orders_is_not_available_twice():
    account = an_account()
    first = enter(account, kind="limit", price=D(90), quantity=600)  # 5,400 of margin at 10x
    assert first.status is OrderStatus.OPEN
    assert account.balance({}).available == D(4600)
    assert enter(account, kind="limit", price=D(90), quantity=550).reason == "insufficient_balance"
    account.cancel(first.client_order_id, START)
    assert enter(account, kind="limit", price=D(90), quantity=550).status is OrderStatus.OPEN


# --- spot, funding, liquidation -----------------------------------------------------------------------------------


def test_spot_turns_quote_into_base_and_back_without_leverage():
    account = an_account()
    assert enter(account, symbol=SPOT, quantity="100.1", client_order_id="big").reason == "insufficient_balance"
    enter(account, symbol=SPOT, quantity=50)
    assert account.balance({SPOT: D(120)}) == account.balance({SPOT: D(120)}).model_copy(
        update={"equity": D(11_000), "available": D(5000)}
    )
    assert enter(account, symbol=SPOT, side="sell", quantity=60).reason == "shorting"
    enter(account, 120, symbol=SPOT, side="sell", quantity=50)
    assert account.balance({}).available == D(11_000)


def test_spot_base_promised_to_one_sell_is_not_there_for_another():
    account = an_account()
    enter(account, symbol=SPOT, quantity=50)
    enter(account, symbol=SPOT, side="sell", kind="limit", price=D(110), quantity=40)
    assert enter(account, symbol=SPOT, side="sell", quantity=20).reason == "shorting"


def test_a_working_spot_sell_ends_with_the_holding_instead_of_going_short():
    account = an_account()
    enter(account, symbol=SPOT, quantity=50)
    enter(account, symbol=SPOT, side="sell", kind="limit", price=D(110), quantity=40)
    account.set_protection(SPOT, D(95), None, START)
    assert [f.quantity for f in play(account, 1, 100, 112, 94, 111, symbol=SPOT)] == [D(50)]
    assert play(account, 2, 111, 112, 110, 111, symbol=SPOT) == []
    assert account.orders[1].status is OrderStatus.CANCELLED


@pytest.mark.parametrize(("side", "paid"), [("buy", D("0.02")), ("sell", D("-0.02"))])
def test_a_long_pays_positive_funding_and_a_short_receives_it(side, paid):
    account = an_account()
    enter(account, side=side, quantity=2)
    account.apply_funding(PERP, D("0.0001"), D(100), START + 8 * timedelta(hours=1))
    fill = account.fills[-1]
    assert (fill.reason, fill.fee, fill.quantity) == ("funding", paid, D(2))
    assert account.balance({PERP: D(100)}).equity == D(10_000) - paid
    account.apply_funding(OTHER, D("0.0001"), D(100), START)
    assert account.fills[-1] is fill


def test_a_position_is_liquidated_where_equity_falls_to_its_maintenance_margin():
    account = an_account(cash="1000")
    enter(account, quantity=90)
    # 1000 + 90 (p - 100) = 0.005 x 90 p, so p = 8000 / 89.55
    assert account.next_triggers(PERP).below == account.wallet.liquidation_price(PERP) == D("89.33556672250140")
    (fill,) = play(account, 1, 100, 101, 80, 85)
    assert fill.reason == "liquidation"
    assert abs(account.balance({}).equity - D("0.005") * 90 * fill.price) < D("0.0001")


@pytest.mark.parametrize(("side", "sign"), [("buy", 1), ("sell", -1)])
def test_an_instruments_tiers_say_what_margin_a_large_position_needs(side: str, sign: int):
    tiers = (MarginTier(above=D(0), rate=D("0.005")), MarginTier(above=D(5000), rate=D("0.02")))
    account = SimulatedAccount(D(1000), {PERP: linear(PERP, maintenance=tiers)}, FREE)
    enter(account, side=side, quantity=90)
    price = account.wallet.liquidation_price(PERP)
    # of the part above 5,000 it is 2 %: 90 p x 0.02 - 75
    assert abs(1000 + sign * 90 * (price - 100) - (90 * price * D("0.02") - 75)) < D("1e-9")
    account.apply_funding(PERP, D("0.01"), D(100), START)  # 90 paid by the long, received by the short
    moved = account.wallet.liquidation_price(PERP)
    assert moved > price, "nearer for the long, further for the short"
    (fill,) = play(account, 1, 100, max(D(101), moved), min(D(99), moved), 100)
    assert (fill.reason, fill.price) == ("liquidation", AVERAGE.plus(moved))


def test_other_positions_need_their_margin_too():
    account = an_account(cash="1000")
    enter(account, quantity=50)
    enter(account, quantity=40, symbol=OTHER, client_order_id="other")
    # 1000 + 50 (p - 100) = 0.005 x (50 p + 4000), so p = 4020 / 49.75
    assert account.wallet.liquidation_price(PERP) == D("80.80402010050251")


def test_within_a_bar_nothing_takes_more_than_its_share_of_the_volume_all_orders_together():
    account = an_account()
    enter(account, depth=account.depth(PERP, D(100), START), quantity=7)
    enter(account, kind="limit", price=D(98), quantity=5, client_order_id="limit")
    fills = account.on_bar(PERP, PriceBar(START, D(100), D(101), D(97), D(98), D(100)), START + FIVE)
    assert [fill.quantity for fill in fills] == [3], "a tenth of 100, and 7 were taken at the open"
    fills = account.on_bar(PERP, PriceBar(START + FIVE, D(98), D(99), D(97), D(98), D(100)), START + 2 * FIVE)
    assert [fill.quantity for fill in fills] == [2]
    assert account.order("limit").status is OrderStatus.FILLED


# --- the sandbox's and the paper venue's needs --------------------------------------------------------------------


def test_a_venue_that_liquidates_closes_everything_at_its_price_and_takes_the_orders_along():
    account = an_account()
    enter(account, stop=D(90))
    account.submit(intent("sell", kind="limit", price=D(120), reduce_only=True), D(100), START)
    account.liquidate(PERP, D(80), START + FIVE)
    (_, fill) = account.fills
    assert (fill.reason, fill.side, fill.quantity, fill.price) == ("liquidation", "sell", D(1), D(80))
    assert (account.positions(), account.open_orders()) == ([], [])
    account.liquidate(PERP, D(80), START + FIVE)
    assert len(account.fills) == 2


def test_thin_depth_fills_part_of_a_market_order_and_cancels_the_rest():
    account = an_account()
    order = account.submit(intent(quantity=2, stop=D(90)), D(100), START, depth=D(1))
    assert (order.status, order.reason, order.filled) == (OrderStatus.CANCELLED, "partial", D(1))
    assert account.position(PERP).stop == D(90)


def test_thin_depth_fills_part_of_a_limit_order_and_rests_the_remainder():
    account = an_account()
    order = account.submit(intent(quantity=2, kind="limit", price=D(101)), D(100), START, depth=D("0.5"))
    assert (order.status, order.filled) == (OrderStatus.OPEN, D("0.5"))
    (fill,) = play(account, 1, 102, 103, 100, 100)
    assert (fill.quantity, fill.price, account.orders[0].avg_price) == (D("1.5"), D(101), D("100.75"))


def test_a_bar_over_an_idle_symbol_does_nothing():
    account = an_account()
    before = account.dump()
    assert account.on_bar(PERP, bar(0, 100, 101, 99, 100), START) == []
    assert account.dump() == before


def test_a_skipping_caller_gets_the_same_fills_as_one_who_plays_every_bar():
    bars = [bar(n, 100, 101, 99, 100) for n in range(1, 20)] + [bar(20, 100, 101, 94, 96)]
    every, skipping = an_account(), an_account()
    for account in (every, skipping):
        enter(account, stop=D(95), target=D(110))
    for each in bars:
        every.on_bar(PERP, each, each.open_time + FIVE)
        if each.low <= skipping.next_triggers(PERP).below:
            skipping.on_bar(PERP, each, each.open_time + FIVE)
    assert every.fills == skipping.fills
    assert len(every.fills) == 2


# --- for any sequence ---------------------------------------------------------------------------------------------

SYMBOLS = (PERP, OTHER, SPOT)


def busy_script(seed: int, length: int = 80) -> list[tuple]:
    """Return a random walk's bars with orders near its price: most are accepted, many fill."""
    rng, at, script = random.Random(seed), 1000, []
    for _ in range(length):
        at = max(300, at + rng.randint(-40, 40))
        kind = rng.choices(["order", "bar", "funding"], [5, 6, 1])[0]
        symbol = rng.choice(SYMBOLS)
        if kind == "order":
            script.append((kind, busy_order(rng, at) | {"symbol": symbol}, D(at) / 10))
        elif kind == "bar":
            low, a, b, high = sorted(at + rng.randint(-60, 60) for _ in range(4))
            o, c = rng.sample([a, b], 2)
            script.append((kind, symbol, tuple(D(x) / 10 for x in (o, high, low, c))))
        else:
            script.append((kind, symbol, D(at) / 10))
    return script


def busy_order(rng: random.Random, at: int) -> dict:
    """Return an order around `at` tenths; its stop and target lie mostly on the right side."""
    side, kind = rng.choice(["buy", "sell"]), rng.choices(["market", "limit", "stop", "target"], [4, 4, 1, 1])[0]
    sign = 1 if side == "buy" else -1
    wanted = {"side": side, "kind": kind, "quantity": D(rng.randint(1, 30_000)) / 1000}
    wanted["reduce_only"] = rng.random() < 0.25
    worse = {"limit": -sign, "stop": sign, "target": -sign}.get(kind, 0)
    if worse:
        wanted["price"] = D(at + worse * rng.randint(-5, 40)) / 10
    if rng.random() < 0.6:
        wanted["stop"] = D(at - sign * rng.randint(-2, 80)) / 10
    if rng.random() < 0.5:
        wanted["target"] = D(at + sign * rng.randint(-2, 80)) / 10
    return wanted


steps = st.integers(0, 2**32).map(busy_script)


def test_the_scripts_below_exercise_every_way_to_trade():
    reasons = Counter()
    for seed in range(40):
        account = an_account(Costs())
        run(account, busy_script(seed))
        reasons.update(fill.reason for fill in account.fills)
    assert min(reasons[r] for r in ("entry", "exit", "stop", "target", "funding")) >= 20, reasons


def run(account: SimulatedAccount, script, begin: int = 0) -> None:
    for n, (kind, what, value) in enumerate(script, start=begin):
        at = START + n * FIVE
        if kind == "order":
            account.submit(intent(client_order_id=f"o{n}", **what), value, at)
        elif kind == "bar":
            account.on_bar(what, PriceBar(at, *value), at + FIVE)
        else:
            account.apply_funding(what, D("0.0001"), value, at)


def rebuilt_equity(account: SimulatedAccount, marks: dict[str, D]) -> D:
    """Work the account out again from its fills alone: cash flows and what is held, at market."""
    equity = D(10_000)
    for fill in account.fills:
        equity -= fill.fee
        if fill.reason != "funding":
            sign = 1 if fill.side == "buy" else -1
            equity += sign * fill.quantity * (marks[fill.symbol] - fill.price)
    return equity


@settings(max_examples=100, deadline=None)
@given(steps)
def test_equity_is_reproduced_by_the_fills_and_by_the_totals(script):
    account, marks = an_account(Costs()), {PERP: D(100), OTHER: D(90), SPOT: D(110)}
    run(account, script)
    equity = account.balance(marks).equity
    assert abs(equity - rebuilt_equity(account, marks)) < D("1e-12")
    totals = [account.totals(s) for s in marks]
    unrealized = sum(h.unrealized(marks[h.symbol]) for h in account.wallet.holdings.values())
    booked = D(10_000) + sum(t.realized - t.fees + t.funding for t in totals) + unrealized
    assert abs(equity - booked) < D("1e-12")


@settings(max_examples=100, deadline=None)
@given(steps)
def test_reduce_only_never_flips_spot_is_never_short_and_the_flat_have_no_protection(script):
    account = an_account(Costs())
    held = dict.fromkeys((PERP, OTHER, SPOT), D(0))
    run(account, script)
    reducing = {o.venue_order_id for o in account.orders if o.reduce_only}
    for fill in account.fills:
        if fill.reason == "funding":
            continue
        before = held[fill.symbol]
        held[fill.symbol] += fill.quantity if fill.side == "buy" else -fill.quantity
        after = held[fill.symbol]
        assert before * after >= 0  # a flip is two fills
        if fill.venue_order_id in reducing:
            assert abs(after) < abs(before)
    assert held[SPOT] >= 0
    signed = {p.symbol: p.quantity if p.side == "long" else -p.quantity for p in account.positions()}
    assert signed == {s: q for s, q in held.items() if q}
    for order in account.open_orders():
        assert not order.reduce_only or order.symbol in signed


@settings(max_examples=50, deadline=None)
@given(steps, steps)
def test_a_dumped_engine_goes_on_exactly_like_the_one_that_was_not(first, second):
    straight, restored = an_account(Costs()), an_account(Costs(), cash="1")
    run(straight, first)
    restored.load(straight.dump())
    assert restored.dump() == straight.dump()
    run(straight, second, begin=1000)
    run(restored, second, begin=1000)
    assert restored.dump() == straight.dump()
