"""Which account and case rule may deny which action: the whole table, written by hand and driven through the guard."""

from datetime import timedelta
from decimal import Decimal as D

import pytest
from guard_cases import (
    BTC,
    ETH,
    GRID,
    LATE,
    NOON,
    STEP,
    account,
    ago,
    asked,
    closed,
    judge,
    move,
    pending,
    position,
    seen,
)

from tasks.core.trading.guard import rules
from tasks.core.trading.guard.guard import ALLOWED_WITH, allowed_actions
from tasks.core.types.decision import (
    ACTIONS,
    Add,
    CancelTarget,
    CloseAll,
    ClosePartial,
    OpenLong,
    OpenShort,
    Pause,
    SetTarget,
    Trim,
    hold,
)
from tasks.core.types.limits import Limits
from tasks.core.types.strategy import Strategy
from tasks.core.types.verdict import Code

DECISIONS = {
    "HOLD": hold(BTC, "quiet"),
    "OPEN_LONG": asked(OpenLong),
    "OPEN_SHORT": asked(OpenShort),
    "ADD": asked(Add),
    "TRIM": Trim(symbol=BTC, confidence=D("0.7"), size_pct=D(30)),
    "CLOSE_PARTIAL": ClosePartial(symbol=BTC, confidence=D("0.7"), size_pct=D(30)),
    "CLOSE_ALL": CloseAll(symbol=BTC, confidence=D("0.7")),
    "MOVE_STOP": move(),
    "SET_TP": SetTarget(symbol=BTC, tp_atr=D(3)),
    "CANCEL_TP": CancelTarget(symbol=BTC),
    "PAUSE": Pause(symbol=BTC, minutes=D(30)),
}
HELD = position(avg_price=D("99.5"), stop=D(99))  # gaining at 100, so that its stop may go to breakeven
FLAT = ("HOLD", "OPEN_LONG", "OPEN_SHORT", "PAUSE")
OTHERS = tuple(position(symbol=f"X{i}/USDT:USDT", quantity=D("0.1")) for i in range(5))
RISKY, LARGE = (
    position(symbol=ETH, stop=D("83.5"), quantity=D(10)),
    position(symbol=ETH, stop=D("99.9"), quantity=D(120)),
)
LOSSES = tuple(closed(closed_at=ago(minutes=m), pnl=D(-1), symbol=ETH) for m in (1, 59))
NO_ROOM = {Code.BELOW_MIN_QUANTITY, Code.BELOW_MIN_NOTIONAL}  # what else is said where nothing is left to buy with

TABLED = tuple(action for action in ACTIONS if action != "REDUCE")  # no rule asks about it
# Columns in this order. x: the rule denies the action; a dot: it never may.
TABLE = """
                   HOLD LONG SHORT ADD  TRIM PART ALL  STOP TP   CNCL PAUSE
halted              .    x    x    x    .    .    .    .    .    .    .
paused              .    x    x    x    .    .    .    .    .    .    .
stale               .    x    x    x    .    .    .    .    .    .    .
price_stale         .    x    x    x    .    .    .    .    .    .    .
symbol_unlisted     .    x    x    x    .    .    .    .    .    .    .
venue_unlisted      .    x    x    x    .    .    .    .    .    .    .
equity_gone         .    x    x    x    .    .    .    .    .    .    .
shorting_off        .    .    x    .    .    .    .    .    .    .    .
not_ours            .    x    x    x    .    .    .    .    .    .    .
position_exists     .    x    x    .    .    .    .    .    .    .    .
no_position         .    .    .    x    x    x    x    x    x    x    .
positions_full      .    x    x    .    .    .    .    .    .    .    .
opens_in_hour       .    x    x    x    .    .    .    .    .    .    .
opens_in_day        .    x    x    x    .    .    .    .    .    .    .
cooling_down        .    x    x    .    .    .    .    .    .    .    .
cooled_off          .    x    x    x    .    .    .    .    .    .    .
rejection_streak    .    x    x    x    .    .    .    .    .    .    .
liquidated          .    x    x    x    .    .    .    .    .    .    .
daily_loss          .    x    x    x    .    .    .    .    .    .    .
drawdown            .    x    x    x    .    .    .    .    .    .    .
total_risk_used     .    x    x    x    .    .    .    .    .    .    .
gross_used          .    x    x    x    .    .    .    .    .    .    .
symbol_differs      .    x    x    x    x    x    x    x    x    x    .
action_not_offered  .    x    x    x    x    x    .    x    x    x    .
unsure              .    x    x    x    .    .    .    .    .    .    .
fallback_opens      .    x    x    x    .    .    .    .    x    x    .
prices_missing      .    x    x    x    .    .    .    .    x    .    .
"""  # the target is set in ATR: without one its own terms say so
_ROWS = {line.split()[0]: line.split()[1:] for line in TABLE.splitlines()[2:]}
DENIES = {rule: {a for a, mark in zip(TABLED, marks, strict=True) if mark == "x"} for rule, marks in _ROWS.items()}

# rule: (its code, what fires it: changes of the account and arguments of `judge`, codes that come with it)
FIRED_BY = {
    "halted": (Code.HALTED, {"halt": "ledger mismatch"}, {}, set()),
    "paused": (Code.PAUSED, {"paused_until": NOON + STEP}, {}, set()),
    "stale": (Code.STALE, {}, {"now": LATE + STEP}, set()),
    "price_stale": (Code.STALE_PRICE, {"last_price_at": ago(seconds=391)}, {}, set()),
    "symbol_unlisted": (Code.SYMBOL_NOT_ALLOWED, {}, {"symbols": (ETH,)}, set()),
    "venue_unlisted": (Code.VENUE_NOT_ALLOWED, {"venue": "paper"}, {"limits": {"venues": ("bybit",)}}, set()),
    "equity_gone": (
        Code.DATA_MISSING, {"equity": D(0)}, {}, {Code.DAILY_LOSS, Code.TOTAL_RISK_EXCEEDED, Code.GROSS_EXCEEDED},
    ),
    "shorting_off": (Code.SHORTING_NOT_ALLOWED, {"instrument": GRID.model_copy(update={"shorting": False})}, {}, set()),
    "not_ours": (Code.FOREIGN_POSITION, {"foreign": D(1)}, {}, set()),
    "position_exists": (Code.POSITION_EXISTS, {"pending": (pending(symbol=BTC, quantity=D(1)),)}, {}, set()),
    "no_position": (Code.NO_POSITION, {"positions": ()}, {}, set()),
    "positions_full": (Code.MAX_POSITIONS, {"others": OTHERS}, {}, set()),
    "opens_in_hour": (Code.OPENS_PER_HOUR, {"opens": (ago(minutes=59),) * 3}, {}, set()),
    "opens_in_day": (Code.OPENS_PER_DAY, {"opens": (ago(hours=23),) * 12}, {}, set()),
    "cooling_down": (Code.REENTRY_COOLDOWN, {"closed_trades": (closed(closed_at=ago(minutes=59)),)}, {}, set()),
    "cooled_off": (
        Code.COOL_OFF, {"closed_trades": LOSSES}, {"limits": {"cool_off": "pause", "cool_off_confluence": 0}}, set(),
    ),
    "rejection_streak": (Code.REJECTION_STREAK, {"rejections": 3}, {}, set()),
    "liquidated": (Code.LIQUIDATED, {"last_liquidation": ago(minutes=1439)}, {}, set()),
    "daily_loss": (Code.DAILY_LOSS, {}, {"snapshot": seen(daily=-3.0)}, set()),
    "drawdown": (Code.DRAWDOWN, {"peak_equity": D(12_000)}, {}, set()),
    "total_risk_used": (Code.TOTAL_RISK_EXCEEDED, {"others": (RISKY,)}, {}, NO_ROOM),
    "gross_used": (Code.GROSS_EXCEEDED, {"others": (LARGE,)}, {}, NO_ROOM),
    "symbol_differs": (Code.SYMBOL_MISMATCH, {}, {"snapshot": seen(pair=ETH)}, set()),
    "action_not_offered": (Code.ACTION_NOT_ALLOWED, {}, {"snapshot": seen(offered=("HOLD",))}, set()),
    "unsure": (Code.LOW_CONFIDENCE, {}, {"confidence": D("0.49")}, set()),
    "fallback_opens": (Code.FALLBACK_MAY_NOT_OPEN, {}, {"fallback": True}, set()),
    "prices_missing": (Code.DATA_MISSING, {}, {"snapshot": seen(atr=None)}, set()),
}  # fmt: skip


def held_for(action, others=(), **changed):
    """An account on which `action` is allowed, unless `changed` says otherwise."""
    positions = () if action in FLAT else (HELD,)
    return account(**{"positions": (*positions, *others), **changed})


def ruled(rule, action):
    code, changed, arguments, also = FIRED_BY[rule]
    arguments = dict(arguments)
    decision = DECISIONS[action]
    if confidence := arguments.pop("confidence", None):
        decision = decision.model_copy(update={"confidence": confidence})
    return code, judge(decision, held_for(action, **changed), **arguments), also


@pytest.mark.parametrize("action", TABLED)
def test_nothing_denies_the_decisions_of_the_table_when_no_rule_fires(action):
    verdict = judge(DECISIONS[action], held_for(action))
    assert verdict.allowed
    assert verdict.codes == ()


@pytest.mark.parametrize("action", TABLED)
@pytest.mark.parametrize("rule", DENIES)
def test_a_rule_denies_the_actions_of_its_row_and_no_others(rule, action):
    code, verdict, also = ruled(rule, action)
    denials = set(verdict.codes) - ALLOWED_WITH
    if action in DENIES[rule]:
        assert code in denials
        assert denials <= {code} | also
        assert not verdict.allowed
    else:
        assert not denials
        assert verdict.allowed


@pytest.mark.parametrize("rule", [rule.__name__ for rule, _ in rules.ACCOUNT_RULES if rule.__name__ != "stale"])
def test_what_an_account_rule_denies_is_not_offered_either(rule):
    """How late a decision is nobody knows before it is made: `stale` alone is not told."""
    _, changed, arguments, _ = FIRED_BY[rule]
    strategy = Strategy(limits=Limits(**arguments.get("limits", {})), symbols=arguments.get("symbols", ()))
    for action in TABLED:
        state = held_for(action, **changed)
        if rule == "daily_loss":  # the snapshot's own view is not made yet
            state = state.model_copy(update={"day_start_equity": D("10309.3")})
        offered = allowed_actions(state, BTC, strategy, NOON, "normal")
        assert (action in offered) is (action not in DENIES[rule]), action


def test_the_table_has_every_rule_and_every_action():
    assert set(DENIES) == set(FIRED_BY) == {rule.__name__ for rule, _ in (*rules.ACCOUNT_RULES, *rules.CASE_RULES)}
    assert set(DECISIONS) == set(TABLED)
    assert all(action == decision.action for action, decision in DECISIONS.items())


@pytest.mark.parametrize("action", ["OPEN_LONG", "OPEN_SHORT", "ADD"])
def test_every_rule_cap_and_shrink_of_an_entry_is_asked_of_all_three(action):
    verdict = judge(DECISIONS[action], held_for(action))
    assert {c.code for c in verdict.checks} >= {
        Code.STOP_WRONG_SIDE, Code.STOP_TOO_CLOSE, Code.STOP_TOO_FAR, Code.LIQUIDATION_NEAR, Code.TARGET_WRONG_SIDE,
        Code.REWARD_RISK_TOO_LOW, Code.OFFSET_TOO_FAR, Code.SLIPPAGE_TOO_HIGH, Code.CHASING, Code.STACKED,
        Code.SIZE_CLAMPED, Code.VOLATILITY_CLAMPED, Code.COOL_OFF_CLAMPED, Code.TRADE_RISK_CLAMPED,
        Code.TOTAL_RISK_CLAMPED, Code.CORRELATION_CLAMPED, Code.KELLY_CLAMPED, Code.GROSS_CLAMPED, Code.SYMBOL_CLAMPED,
        Code.NET_CLAMPED, Code.SLIPPAGE_CLAMPED, Code.AVAILABLE_CLAMPED, Code.BELOW_MIN_QUANTITY,
        Code.BELOW_MIN_NOTIONAL,
    }  # fmt: skip


@pytest.mark.parametrize("action", ["OPEN_LONG", "OPEN_SHORT", "ADD"])
def test_a_halt_a_pause_and_a_cool_off_bind_an_add_like_an_open(action):
    paused = {"paused_until": NOON + timedelta(hours=1)}
    assert judge(DECISIONS[action], held_for(action, halt=True)).codes == (Code.HALTED,)
    assert judge(DECISIONS[action], held_for(action, **paused)).codes == (Code.PAUSED,)
    assert judge(DECISIONS[action], held_for(action), seen(mode="pause")).codes == (Code.PAUSED,)
