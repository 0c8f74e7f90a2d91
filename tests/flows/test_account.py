"""What the guard looks back on, read from the store of a live account."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from market_data import walk
from replayed import strategy
from store_samples import a_cycle, a_fill, a_position, an_intent, an_order, an_outcome

from tasks import account
from tasks.connections import store, venue
from tasks.core.types.orders import Balance, OrderStatus
from tasks.core.types.record import EquityPoint

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
NOON = datetime(2024, 1, 9, 12, tzinfo=UTC)


async def test_the_past_of_a_live_account_reaches_the_guard(home):
    kept, name = store(), venue().name
    bars = walk(8 * 288)
    for symbol in (BTC, ETH):
        kept.candles.save(name, {(symbol, "5m"): bars}, NOON)
    cycle = a_cycle("c1", strategy="default")
    kept.cycles.begin(cycle, NOON)
    kept.positions.save(a_position(symbol=ETH, strategy="default"))
    for minutes in (1, 2):
        sent = f"qd-{minutes}"
        kept.intents.save("c1", [an_intent(sent)], NOON - timedelta(minutes=minutes))
        kept.orders.save(an_order(sent, status=OrderStatus.REJECTED))
    kept.fills.save([a_fill(reason="liquidation", at=NOON - timedelta(hours=2))])
    balance = Balance(equity=Decimal(1000), available=Decimal(900))
    state = account.account_state.fn(strategy(BTC), BTC, balance, (), Decimal(100), NOON)
    assert state.correlations == {ETH: 1.0}
    assert (state.rejections, len(state.opens)) == (2, 2)
    assert state.last_liquidation == NOON - timedelta(hours=2)
    assert (state.kelly, state.last_price_at, state.venue) == (None, NOON, name)
    await venue().close()


async def test_size_is_judged_by_the_outcomes_of_the_decider_that_is_asked(home):
    kept = store()
    kept.cycles.begin(a_cycle("c1", decider="llm:single"), NOON)
    for n in range(30):
        kept.positions.save(a_position(f"p{n}", quantity=Decimal(0), exit_price=Decimal(64000), closed_at=NOON))
        kept.outcomes.save(an_outcome(f"p{n}", outcome_r=Decimal(-1), pnl=Decimal(-10), closed_at=NOON))
    balance = Balance(equity=Decimal(1000), available=Decimal(900))
    kellys = [
        account.account_state.fn(strategy(BTC, decider=decider), BTC, balance, (), Decimal(100), NOON).kelly
        for decider in ("llm:single", "rules")
    ]
    assert kellys == [-1, None]
    await venue().close()


async def test_all_of_a_days_losses_are_counted_however_many_there_are(home):
    kept = store()
    kept.equity.save(
        EquityPoint(at=NOON - timedelta(hours=1), strategy="default", equity=Decimal(100), peak=Decimal(100))
    )
    for n in range(220):
        lost = {"realized_pnl": Decimal("-0.01"), "fees": Decimal(0), "closed_at": NOON - timedelta(minutes=n)}
        kept.positions.save(a_position(f"p{n}", symbol=BTC, quantity=Decimal(0), exit_price=Decimal(64000), **lost))
    balance = Balance(equity=Decimal(1000), available=Decimal(900))
    state = account.account_state.fn(strategy(BTC), BTC, balance, (), Decimal(100), NOON)
    assert sum(trade.pnl for trade in state.closed_trades) == Decimal("-2.2")
    assert account.daily_pnl_pct("default", NOON) == pytest.approx(-2.2)
    assert account.trade_digest("default", BTC, NOON).trade_count == 220
    await venue().close()
