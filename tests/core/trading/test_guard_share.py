"""A strategy with a share of the account: it sizes on it, and its own limits are of it; the account's are of all."""

from decimal import Decimal as D

import pytest
from guard_cases import ETH, account, ago, asked, closed, judge, position

from tasks.core.types import AccountState, Code


def sharing(**changed: object) -> AccountState:
    """An account of 10,000 of which the strategy has 3,000."""
    return account(own_capital=D(3000), own_equity=D(3000), peak_equity=D(3000), **changed)


def test_size_is_of_the_share():
    assert judge(asked(size_pct=D(10))).quantity == 10
    verdict = judge(asked(size_pct=D(10)), sharing())
    assert (verdict.quantity, verdict.codes) == (3, ())


@pytest.mark.parametrize(
    ("limits", "code", "notional"),
    [
        (
            {"max_trade_risk_pct": D("0.37337")},
            Code.TRADE_RISK_CLAMPED,
            1000,
        ),  # 11.201 at the stop: 1.12 a unit, and impact
        ({"max_symbol_pct": D(40)}, Code.SYMBOL_CLAMPED, 1200),
    ],
)
def test_its_own_limits_are_of_the_share(limits, code, notional):
    verdict = judge(asked(size_pct=D(100), stop_atr=D("0.5"), tp_atr=D(2)), sharing(), limits=limits)
    assert code in verdict.codes
    assert verdict.quantity * 100 == notional


def test_the_account_s_limits_are_of_all_of_it():
    others = position(symbol=ETH, quantity=D(99), stop=D("99.99"))
    state = sharing(positions=(others,), correlations={ETH: 0.0})
    verdict = judge(asked(size_pct=D(20)), state, limits={"max_total_risk_pct": D(5)})
    assert verdict.quantity == 1, "9,900 of 10,000 is open"
    assert Code.GROSS_CLAMPED in verdict.codes


@pytest.mark.parametrize(("lost", "is_denied"), [(D("89.99"), False), (D(90), True)])
def test_a_day_s_loss_is_of_the_share(lost, is_denied):
    state = sharing(closed_trades=(closed(pnl=-lost, closed_at=ago(minutes=90)),), day_start_equity=D(3000))
    assert (Code.DAILY_LOSS in judge(state=state, limits={"reentry_cooldown_min": 0}).codes) is is_denied


@pytest.mark.parametrize(("equity", "is_denied"), [(D("2550.01"), False), (D(2550), True)])
def test_its_drawdown_is_of_the_share(equity, is_denied):
    assert (Code.DRAWDOWN in judge(state=sharing().replace(own_equity=equity)).codes) is is_denied
