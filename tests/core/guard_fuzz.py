"""Random decisions on random accounts, and what must hold of every verdict, reckoned without the guard's own code.

`cases(seed, count)` gives the same cases for the same seed. Most of them are calm in all parts, so that many entries
pass and are looked at; the others mix in what is as bad as its type allows.
"""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Context, Decimal, localcontext
from random import Random
from typing import NamedTuple

from guard_cases import BTC, ETH, NOON
from guard_draws import ENTRIES, draw_decision, draw_limits, draw_snapshot, draw_state

from tasks.core.trading.guard import guard
from tasks.core.types.decision import (
    Add,
    CloseAll,
    Decision,
    Hold,
    MoveStop,
    OpenLong,
    OpenShort,
    Pause,
)
from tasks.core.types.limits import Costs, Limits, SymbolLimits
from tasks.core.types.portfolio import AccountState, HeldPosition, PendingEntry
from tasks.core.types.snapshot import (
    Snapshot,
)
from tasks.core.types.strategy import Strategy
from tasks.core.types.verdict import Verdict

COSTS = Costs()
PER_UNIT = Decimal("0.0006")  # fee and half spread of COSTS, one way
POOL, SHARED = 400, 20_000  # decisions, accounts and markets drawn at once, and cases made of them
EXACT = Context(prec=60)
SLACK = 1 + Decimal("1e-25")  # the guard divides with 34 digits


class FuzzCase(NamedTuple):
    decision: Decision
    snapshot: Snapshot
    state: AccountState
    limits: Limits
    late_s: int | None
    fallback: bool


def cases(seed: int, count: int) -> Iterator[FuzzCase]:
    """Make `count` cases: each a new combination of decision, market, account and limits."""
    rng = Random(seed)
    for start in range(0, count, SHARED):
        pools = [
            [draw(rng, i % 2 == 0) for i in range(POOL)]
            for draw in (draw_decision, draw_snapshot, draw_state, draw_limits)
        ]
        for _ in range(min(SHARED, count - start)):
            calm = rng.random() < 0.7
            decision, snapshot, state, limits = (rng.choice(pool[::2] if calm else pool) for pool in pools)
            late_s = rng.choice((None, 0, 60) if calm else (None, 0, 390, 391, -500))
            yield FuzzCase(decision, snapshot, state, limits, late_s, not calm and rng.random() < 0.2)


def judge(case: FuzzCase, decision: Decision | None = None) -> Verdict:
    now = None if case.late_s is None else case.snapshot.as_of + timedelta(seconds=case.late_s)
    return guard.judge(
        decision or case.decision, case.snapshot, case.state,
        Strategy(limits=case.limits, costs=COSTS, symbols=(BTC, ETH)), now=now, fallback=case.fallback,
    )  # fmt: skip


def breach(case: FuzzCase) -> tuple[str, Verdict]:
    """Judge a case, what is allowed twice; return the name of the invariant that does not hold, or nothing, and the
    verdict. A denial leaves the decision as it was: judged again, it would be the same question."""
    first = judge(case)
    return _broken(case, first, judge(case, first.decision) if first.allowed else first), first


def _broken(case: FuzzCase, first: Verdict, again: Verdict) -> str:
    if set(first.codes) != {c.code for c in first.checks if c.fired}:
        return "codes are what fired"
    if first.allowed != guard.ALLOWED_WITH.issuperset(first.codes):
        return "allowed unless denied"
    same = ("allowed", "decision", "quantity", "price", "stop", "target", "trade_risk_pct", "total_risk_pct")
    if any(getattr(first, name) != getattr(again, name) for name in same):
        return "idempotent"
    if not first.allowed:
        return _denied(case, first)
    with localcontext(EXACT):
        holds = _entry(case, first) if isinstance(case.decision, ENTRIES) else _exit(case, first)
    return next((name for name, does in holds.items() if not does), "")


def _denied(case: FuzzCase, verdict: Verdict) -> str:
    if verdict.quantity != 0 or verdict.decision != case.decision:
        return "a denial sends nothing"
    closing = isinstance(case.decision, CloseAll) and case.decision.symbol == case.snapshot.pair
    held = case.state.position(case.decision.symbol)
    return "a position may always be closed" if closing and held is not None else ""


def _loss(side: str, price: Decimal, stop: Decimal) -> Decimal:
    way = 1 if side == "long" else -1
    return max(way * (price - stop) + (price + max(price, stop)) * PER_UNIT, Decimal(0))


def _at_risk(p: HeldPosition | PendingEntry, last: Decimal) -> Decimal:
    if isinstance(p, PendingEntry):
        return p.quantity * (p.price if p.stop is None else _loss(p.side, p.price, p.stop))
    return p.quantity * (_mark(p, last) if p.stop is None else _loss(p.side, p.avg_price, p.stop))


def _mark(p: HeldPosition, last: Decimal) -> Decimal:
    return p.mark_price or (last if p.symbol == BTC else p.avg_price)


def _entry(case: FuzzCase, v: Verdict) -> dict[str, bool]:
    """Name every invariant of an allowed entry with whether it holds."""
    state, limits, decision, snapshot = case.state, case.limits, case.decision, case.snapshot
    instrument, equity, quantity = state.instrument, state.equity, v.quantity
    held = state.position(decision.symbol)
    side = held.side if held else "long" if isinstance(decision, OpenLong) else "short"
    way = 1 if side == "long" else -1
    last = state.last_price if state.last_price is not None else Decimal(repr(snapshot.timeframes["5m"].close))
    new = quantity * _loss(side, v.price, v.stop)
    own = _at_risk(held, last) if held else Decimal(0)
    total = new + sum(_at_risk(p, last) for p in (*state.positions, *state.pending))
    notional = quantity * v.price
    marked = {p: p.quantity * _mark(p, last) for p in state.positions}
    waiting = {p: p.quantity * p.price for p in state.pending}
    gross = notional + sum(marked.values()) + sum(waiting.values())
    net = notional + sum(m if p.side == side else -m for p, m in marked.items())
    net += sum(w for p, w in waiting.items() if p.side == side)
    one = notional + sum(m for p, m in (*marked.items(), *waiting.items()) if p.symbol == decision.symbol)
    joint = own + new + sum(_at_risk(p, last) for p in (*state.positions, *state.pending) if _alike(p, case, way))
    others = any(_alike(p, case, way) for p in (*state.positions, *state.pending))
    kelly = state.kelly
    share = 1 if kelly is None else max(kelly * limits.kelly_fraction, limits.kelly_floor_pct / 100)
    mine = limits.per_symbol.get(decision.symbol, SymbolLimits())
    leverage = min(limits.leverage, instrument.max_leverage, mine.leverage or limits.leverage)
    leverage = Decimal(1) if instrument.kind == "spot" else leverage
    most = limits.max_symbol_pct if mine.max_pct is None else min(mine.max_pct, limits.max_symbol_pct)
    trade_pct = _least(limits.max_trade_risk_pct, snapshot.constraints.max_trade_risk_pct)
    total_pct = _least(limits.max_total_risk_pct, snapshot.constraints.max_total_risk_pct)
    free = equity if state.available is None else state.available
    taken = {p.symbol for p in (*state.positions, *state.pending)}
    opening = not isinstance(decision, Add)
    start, peak = state.day_start_equity, state.peak_equity
    worse = v.price if held is None else way * max(way * v.price, way * held.avg_price)
    return {
        "something on the grid": quantity > 0 and quantity % instrument.step == 0 and v.stop % instrument.tick == 0,
        "not below the venue's least": quantity >= instrument.min_quantity and notional >= instrument.min_notional,
        "never larger than asked": v.decision.size_pct <= decision.size_pct
        and notional * 100 <= equity * decision.size_pct * SLACK,
        "stop and target on their sides": way * (v.price - v.stop) > 0 and way * (v.target - v.price) > 0,
        "reward per risk": abs(v.target - v.price) >= limits.min_reward_risk * abs(v.price - v.stop),
        "risk of the trade": (own + new) * 100 <= equity * trade_pct * SLACK,
        "risk of all": total * 100 <= equity * total_pct * SLACK,
        "risk of what moves alike": not others or joint * 100 <= equity * trade_pct * SLACK,
        "kelly": own + new <= equity * share * SLACK or kelly is None,
        "gross": gross * 100 <= equity * min(limits.max_gross_pct, leverage * 100) * SLACK,
        "net": net * 100 <= equity * limits.max_net_pct * SLACK,
        "symbol": one * 100 <= equity * most * SLACK,
        "free balance": notional / leverage + notional * PER_UNIT <= free * SLACK,
        "before liquidation": instrument.kind == "spot" or way * (worse - v.stop) * leverage < worse,
        "told of the risk": v.trade_risk_pct * equity >= (own + new) * 100 / SLACK
        and v.total_risk_pct * equity >= total * 100 / SLACK,
        "not while halted or paused": not state.halt
        and snapshot.risk.risk_mode != "pause"
        and (state.paused_until is None or state.paused_until <= NOON + timedelta(seconds=case.late_s or 0)),
        "not too late": case.late_s is None or abs(case.late_s) <= limits.max_lateness_s,
        "not beyond the day's loss": not start or (start - equity) * 100 < limits.daily_loss_halt_pct * start,
        "not beyond the drawdown": not peak or (peak - equity) * 100 < limits.drawdown_halt_pct * peak,
        "not after refusals": state.rejections < limits.max_rejections,
        "not by a fallback": not case.fallback or limits.fallback_may_open,
        "offered": decision.action in snapshot.constraints.allowed_actions,
        "sure": decision.confidence >= limits.min_confidence,
        "of this symbol": decision.symbol == snapshot.pair and decision.symbol in (BTC, ETH),
        "one position a symbol": not opening or decision.symbol not in taken,
        "positions": not opening or len(taken) < limits.max_positions,
        "shorting": not isinstance(decision, OpenShort) or (instrument.shorting and instrument.kind == "linear"),
    }  # fmt: skip


def _alike(p: HeldPosition | PendingEntry, case: FuzzCase, way: int) -> bool:
    known, same = case.state.correlations, way * (1 if p.side == "long" else -1)
    if known is None or p.symbol == case.decision.symbol:
        return False
    return same > 0 if p.symbol not in known else same * known[p.symbol] > case.limits.max_correlation


def _least(limit: Decimal, told: float) -> Decimal:
    return min(limit, Decimal(repr(told))) if told == told and abs(told) != float("inf") else limit


def _exit(case: FuzzCase, v: Verdict) -> dict[str, bool]:
    decision, held = case.decision, case.state.position(case.decision.symbol)
    if isinstance(decision, Hold | Pause):
        return {"unchanged": v.decision == decision and v.quantity == 0}
    if held is None:
        return {"nothing to act on": False}
    way = 1 if held.side == "long" else -1
    tighter = not isinstance(decision, MoveStop) or held.stop is None or way * (v.stop - held.stop) >= 0
    return {"no more than is held": v.quantity <= held.quantity, "a stop only tightens": tighter}
