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
from math import isfinite

from tasks.core.trading.guard import account_rules, caps, checks, entry_rules, sizing, terms
from tasks.core.trading.guard.caps import Cap, Shrink
from tasks.core.trading.guard.checks import AccountRule, Case, CaseRule, TicketRule, check, number
from tasks.core.trading.guard.terms import Terms
from tasks.core.trading.money import exact
from tasks.core.types.base import Quantity
from tasks.core.types.decision import (
    ACTIONS,
    Add,
    CloseAll,
    ClosePartial,
    Decision,
    Hold,
    MoveStop,
    OpenLong,
    OpenShort,
    Pause,
    SetTarget,
    Trim,
)
from tasks.core.types.limits import Costs, Limits
from tasks.core.types.orders import Instrument
from tasks.core.types.portfolio import AccountState, HeldPosition
from tasks.core.types.snapshot import Constraints, Snapshot
from tasks.core.types.verdict import Check, Code, Verdict

OPEN = frozenset({"OPEN_LONG", "OPEN_SHORT"})
ENTER = OPEN | {"ADD"}
EXIT = frozenset({"TRIM", "CLOSE_PARTIAL", "CLOSE_ALL"})
PROTECT = frozenset({"MOVE_STOP", "SET_TP", "CANCEL_TP"})
ACT = ENTER | EXIT | PROTECT  # HOLD and PAUSE are always allowed: no rule applies to them

ACCOUNT_RULES: tuple[tuple[AccountRule, frozenset[str]], ...] = (
    (account_rules.halted, ENTER),
    (account_rules.paused, ENTER),
    (account_rules.stale, ENTER),
    (account_rules.price_stale, ENTER),
    (account_rules.symbol_unlisted, ENTER),
    (account_rules.venue_unlisted, ENTER),
    (account_rules.equity_gone, ENTER),
    (account_rules.shorting_off, frozenset({"OPEN_SHORT"})),
    (account_rules.position_exists, OPEN),
    (account_rules.no_position, ACT - OPEN),
    (account_rules.positions_full, OPEN),
    (account_rules.opens_in_hour, ENTER),
    (account_rules.opens_in_day, ENTER),
    (account_rules.cooling_down, OPEN),
    (account_rules.cooled_off, ENTER),
    (account_rules.rejection_streak, ENTER),
    (account_rules.liquidated, ENTER),
    (account_rules.daily_loss, ENTER),
    (account_rules.drawdown, ENTER),
    (account_rules.total_risk_used, ENTER),
    (account_rules.gross_used, ENTER),
)
CASE_RULES: tuple[tuple[CaseRule, frozenset[str]], ...] = (
    (entry_rules.symbol_differs, ACT),
    (entry_rules.action_not_offered, ACT - {"CLOSE_ALL"}),
    (entry_rules.unsure, ENTER),
    (entry_rules.fallback_opens, ACT),
    (entry_rules.prices_missing, ENTER),
)
ENTRY_RULES: tuple[TicketRule, ...] = (
    entry_rules.stop_wrong_side,
    entry_rules.stop_too_close,
    entry_rules.stop_too_far,
    entry_rules.liquidation_near,
    entry_rules.target_wrong_side,
    entry_rules.reward_too_low,
    entry_rules.offset_too_far,
    entry_rules.slippage_too_high,
    entry_rules.chasing,
    entry_rules.stacked,
)
SHRINKS: tuple[Shrink, ...] = (caps.careful, caps.volatile, caps.cooled)
SIZE_CAPS: tuple[Cap, ...] = (
    caps.trade_risk,
    caps.total_risk,
    caps.correlation,
    caps.kelly,
    caps.gross,
    caps.symbol,
    caps.net,
    caps.slippage,
    caps.available,
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
    limits: Limits,
    costs: Costs,
    *,
    symbols: tuple[str, ...] | None = None,
    now: datetime | None = None,
    fallback: bool = False,
    breakouts: frozenset[int] = frozenset(),
) -> Verdict:
    """Judge `decision` against every rule of its action.

    symbols: what may be entered, None for any. now: None when lateness does not matter (replay, dry run).
    fallback: the decision comes from a rung below the chosen decider. breakouts: as in `Case`.
    """
    if isinstance(decision, Hold | Pause):
        return Verdict(allowed=True, decision=decision)
    if state.instrument is None:
        return _missing(decision, instrument=None)
    with localcontext(_ARITHMETIC):
        try:
            case = _case(decision, snapshot, state, state.instrument, limits, costs, symbols, now, fallback)
            return _judge(case._replace(breakouts=breakouts))
        except ArithmeticError as e:  # numbers too large or too small to compute with: decimal's own signals
            return _missing(decision, arithmetic=type(e).__name__)


def allowed_actions(
    state: AccountState,
    symbol: str,
    limits: Limits,
    as_of: datetime,
    *,
    symbols: tuple[str, ...] | None = None,
    risk_mode: str = "normal",
    costs: Costs | None = None,
) -> tuple[str, ...]:
    """Return the actions the account leaves open at `as_of`, in the order of ACTIONS: the model is told these only."""
    if state.instrument is None:
        return tuple(action for action in ACTIONS if action not in ACT)
    with localcontext(_ARITHMETIC):
        try:
            account = checks.account(
                state, state.instrument, symbol, limits, costs or Costs(), as_of, risk_mode=risk_mode, symbols=symbols
            )  # fmt: skip
            denied = {action for rule, actions in ACCOUNT_RULES if rule(account).fired for action in actions}
        except ArithmeticError:
            denied = set(ENTER if state.position(symbol) else ACT)
    return tuple(action for action in ACTIONS if action not in denied)


def _missing(decision: Decision, **inputs: object) -> Verdict:
    missing = check(Code.DATA_MISSING, True, **inputs)
    return Verdict(allowed=False, decision=decision, codes=(Code.DATA_MISSING,), checks=(missing,))


def _case(
    decision: Decision,
    snapshot: Snapshot,
    state: AccountState,
    instrument: Instrument,
    limits: Limits,
    costs: Costs,
    symbols: tuple[str, ...] | None,
    now: datetime | None,
    fallback: bool,
) -> Case:
    views, symbol = snapshot.timeframes, decision.symbol
    last = state.last_price if state.last_price is not None else number(views["5m"].close if "5m" in views else None)
    last = last if last is not None and last > 0 else None
    state = _marked(state, symbol, last)
    account = checks.account(
        state, instrument, symbol, _as_told(limits, snapshot.constraints), costs,
        now if now is not None and now.tzinfo else snapshot.as_of,
        risk_mode=snapshot.risk.risk_mode, symbols=symbols, lateness_s=checks.lateness_s(now, snapshot.as_of),
        daily_pnl_pct=sizing.known(snapshot.risk.daily_pnl_pct),
    )  # fmt: skip
    atr = number(views["15m"].atr if "15m" in views else None)
    return Case(account, decision, snapshot, fallback, last, atr)


def _marked(state: AccountState, symbol: str, last: Decimal | None) -> AccountState:
    """Value the position in `symbol` at the last price where the account does not say its mark."""
    held = state.position(symbol)
    if held is None or last is None or held.mark_price is not None:
        return state
    marked = held.model_copy(update={"mark_price": last})
    return state.model_copy(update={"positions": tuple(marked if p is held else p for p in state.positions)})


def _as_told(limits: Limits, told: Constraints) -> Limits:
    """Keep to the smaller of the limits and what the model was told."""
    trade, total = told.max_trade_risk_pct, told.max_total_risk_pct
    smaller = {}
    if isfinite(trade) and trade < limits.max_trade_risk_pct:
        smaller["max_trade_risk_pct"] = exact(trade)
    if isfinite(total) and total < limits.max_total_risk_pct:
        smaller["max_total_risk_pct"] = exact(total)
    return limits.model_copy(update=smaller) if smaller else limits


def _judge(case: Case) -> Verdict:
    decision, account = case.decision, case.account
    first = [rule(account) for rule in _ACCOUNT_RULES_OF[decision.action]]
    first += [rule(case) for rule in _CASE_RULES_OF[decision.action]]
    return _verdict(case, first, _terms(case, decision, account.position))


def _terms(case: Case, decision: Decision, held: HeldPosition | None) -> Terms:
    """Ask the rules of this kind of action; without what they need, the rule that said so has fired already."""
    if isinstance(decision, OpenLong | OpenShort | Add):
        ticket = terms.ticket(case, decision, SHRINKS)
        return terms.enter(ticket, decision, ENTRY_RULES, SIZE_CAPS) if ticket else Terms((), decision)
    if held is None:
        return Terms((), decision)
    if isinstance(decision, Trim | ClosePartial):
        return terms.trim(case, decision, held)
    if isinstance(decision, CloseAll):
        return terms.close_all(case, decision, held)
    if isinstance(decision, MoveStop):
        return terms.move_stop(case, decision, held)
    if isinstance(decision, SetTarget):
        return terms.set_target(case, decision, held)
    return Terms((), decision, Quantity(held.quantity), case.last)


def _verdict(case: Case, first: list[Check], found: Terms) -> Verdict:
    done = (*first, *found.checks)
    codes = tuple(dict.fromkeys(c.code for c in done if c.fired))
    state, costs, held = case.account.state, case.account.costs, case.account.position
    before = checks.position_risk(held, costs) if held else checks.ZERO
    total = case.account.open_risk
    if not ALLOWED_WITH.issuperset(codes):
        return Verdict(
            allowed=False, decision=case.decision, codes=codes, checks=done, total_risk_pct=_pct(total, state.equity)
        )
    risk = before if found.risk is None else found.risk
    return Verdict(
        allowed=True,
        decision=found.decision,
        codes=codes,
        checks=done,
        quantity=found.quantity,
        price=found.price,
        stop=found.stop,
        target=found.target,
        trade_risk_pct=_pct(risk, state.equity),
        total_risk_pct=_pct(total - before + risk, state.equity),
    )


def _pct(part: Decimal, equity: Decimal) -> Decimal:
    if equity <= 0:
        return checks.ZERO
    return (part * sizing.HUNDRED / equity).quantize(_PCT, ROUND_CEILING)
