"""The guard: which rules apply to which action, and the verdict they add up to.

Pure and total: `judge` never raises; what it cannot judge it denies with a code. It clamps entries down and never
up; halt, pause, lateness, confidence and losses keep one from getting in, never from getting out. All rules of an
action are asked, so a verdict names every code that fired. Equal input gives an equal verdict, and guarding a
verdict's decision again changes nothing.
"""

from datetime import datetime
from decimal import (
    ROUND_CEILING,
    ROUND_FLOOR,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)
from math import inf, isfinite

from pydantic import ValidationError

from tasks.core.trading.guard.cases import Account, Case, positive
from tasks.core.trading.guard.rules import ACCOUNT_RULES, ACT, CASE_RULES, ENTER, not_ours
from tasks.core.trading.guard.terms import terms
from tasks.core.types import (
    ACTIONS,
    HUNDRED,
    ZERO,
    AccountState,
    Code,
    Constraints,
    Decision,
    Hold,
    Pause,
    Reduce,
    Snapshot,
    Strategy,
    Texts,
    Verdict,
    check,
    exact,
    known,
)

ALLOWED_WITH = frozenset({code for code in Code if code.endswith("_CLAMPED")} | {Code.REMAINDER_CLOSED})

_ACCOUNT_RULES_OF = {a: tuple(rule for rule, actions in ACCOUNT_RULES if a in actions) for a in ACTIONS}
_CASE_RULES_OF = {a: tuple(rule for rule, actions in CASE_RULES if a in actions) for a in ACTIONS}
# Divisions round down, so a budget is never exceeded by the last digit; what cannot be computed raises, see `judge`.
_ARITHMETIC = Context(prec=34, rounding=ROUND_FLOOR, traps=[InvalidOperation, DivisionByZero, Overflow])
_PCT = Decimal("0.000001")


def judge(
    decision: Decision,
    snapshot: Snapshot,
    state: AccountState,
    strategy: Strategy,
    *,
    now: datetime | None = None,
    fallback: bool = False,
    breakouts: frozenset[int] = frozenset(),
) -> Verdict:
    """Judge `decision` against every rule of its action.

    now: None when lateness does not matter (replay, dry run); without a timezone it is endless. fallback: the decision
    comes from a rung below the chosen decider. breakouts: as in `Case`.
    """
    if isinstance(decision, Hold | Pause):
        return Verdict.trusted(allowed=True, decision=decision)
    if isinstance(decision, Reduce):
        offered, code = decision.action in snapshot.constraints.allowed_actions, Code.ACTION_NOT_ALLOWED
        return Verdict(allowed=offered, decision=decision, codes=() if offered else (code,))
    if state.instrument is None:
        return _missing(decision, instrument=None)
    symbol = decision.symbol
    with localcontext(_ARITHMETIC):
        try:
            close = positive(snapshot.view("5m").close)
            last = close if state.last_price is None else state.last_price if state.last_price > 0 else None
            account = Account(
                _marked(state, symbol, last),
                state.instrument,
                symbol,
                _narrowed(strategy, snapshot.constraints),
                now if now is not None and now.tzinfo else snapshot.as_of,
                snapshot.risk.risk_mode,
                None if now is None else (now - snapshot.as_of).total_seconds() if now.tzinfo else inf,
                known(snapshot.risk.daily_pnl_pct),
            )
            atr = positive(snapshot.view("15m").atr)
            return _verdict(Case(account, decision, snapshot, fallback, last, atr, breakouts))
        except (ArithmeticError, ValidationError) as e:  # numbers too large or too small to compute with or to write
            return _missing(decision, arithmetic=type(e).__name__)


def allowed_actions(
    state: AccountState, symbol: str, strategy: Strategy, as_of: datetime, risk_mode: str, of_account: bool = False
) -> Texts:
    """Return the actions the account leaves open at `as_of`, in the order of ACTIONS: the model is told these only.

    of_account: whether the question is about the account.
    """
    offered = ACTIONS if of_account else tuple(action for action in ACTIONS if action != "REDUCE")
    if state.instrument is None:
        return tuple(action for action in offered if action not in ACT)
    with localcontext(_ARITHMETIC):
        try:
            account = Account(state, state.instrument, symbol, strategy, as_of, risk_mode)
            denied = {action for rule, actions in ACCOUNT_RULES if rule(account).fired for action in actions}
        except ArithmeticError:
            denied = set(ENTER if state.position(symbol) else ACT)
    return tuple(action for action in offered if action not in denied)


def _missing(decision: Decision, **inputs: object) -> Verdict:
    code = Code.DATA_MISSING
    return Verdict(allowed=False, decision=decision, codes=(code,), checks=(check(code, True, **inputs),))


def _marked(state: AccountState, symbol: str, last: Decimal | None) -> AccountState:
    """Value the position in `symbol` at the last price where the account does not say its mark."""
    position = state.position(symbol)
    if position is None or last is None or position.mark_price is not None:
        return state
    marked = position.replace(mark_price=last)
    return state.replace(positions=tuple(marked if p is position else p for p in state.positions))


def _narrowed(strategy: Strategy, constraints: Constraints) -> Strategy:
    """Keep to the smaller of the limits and what the model was told."""
    smaller = {
        name: exact(limit)
        for name in ("max_trade_risk_pct", "max_total_risk_pct")
        if isfinite(limit := getattr(constraints, name)) and limit < getattr(strategy.limits, name)
    }
    return strategy.replace(limits=strategy.limits.replace(**smaller)) if smaller else strategy


def _verdict(case: Case) -> Verdict:
    a, action = case.account, case.decision.action
    result = terms(case)
    done = (
        *(rule(a) for rule in _ACCOUNT_RULES_OF[action] if rule is not not_ours or a.state.foreign is not None),
        *(rule(case) for rule in _CASE_RULES_OF[action]),
        *result.checks,
    )
    codes = tuple(dict.fromkeys(c.code for c in done if c.fired))
    if not ALLOWED_WITH.issuperset(codes):
        return Verdict(
            allowed=False, decision=case.decision, codes=codes, checks=done, total_risk_pct=_pct(a, a.open_risk)
        )
    risk = a.position_risk if result.risk is None else result.risk
    return Verdict.of(
        result,
        allowed=True,
        codes=codes,
        checks=done,
        trade_risk_pct=_pct(a, risk),
        total_risk_pct=_pct(a, a.open_risk - a.position_risk + risk),
    )


def _pct(a: Account, part: Decimal) -> Decimal:
    equity = a.state.equity
    return (part * HUNDRED / equity).quantize(_PCT, ROUND_CEILING) if equity > 0 else ZERO
