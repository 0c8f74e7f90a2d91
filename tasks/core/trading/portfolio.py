"""The account and all its positions as a decider is told of them, whatever symbol it is asked about."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from numpy import ndarray

from tasks.core.decision.plain_text import rule_of, thesis_of
from tasks.core.trading import followups
from tasks.core.trading.guard.cases import Account
from tasks.core.trading.guard.guard import ALLOWED_WITH
from tasks.core.trading.ledger import realized_today_pct
from tasks.core.types import (
    HUNDRED,
    ZERO,
    AccountState,
    Answer,
    Decision,
    HeldPosition,
    Ledger,
    Opening,
    Past,
    Portfolio,
    PortfolioPosition,
    Position,
    Refusal,
    RiskView,
    Snapshot,
    Strategy,
    Texts,
    direction,
    exact_sum,
    r_at,
)

LATELY, MONTH = timedelta(days=1), timedelta(days=30)
REFUSALS = 5  # refusals so old, and so many, are told


def opening(position: Position, answer: Answer | None) -> Opening:
    """Return how a position came about; answer: the one that opened it, None where it is not known."""
    return Opening(
        symbol=position.symbol,
        opened_at=position.opened_at,
        thesis="" if answer is None else thesis_of(answer.decision),
        followups=tuple(map(str, followups.pending(position))),
        unread=_unread(position.followups),
    )


def _unread(texts: Texts) -> Texts:
    return tuple(rule_of(each.text) for each in followups.unread(texts))


def past_of(snapshot: Snapshot, decision: Decision, **became: Any) -> Past:
    """Return what later ones are told of a decision; became: how its cycle ended, where that is known."""
    return Past(
        as_of=snapshot.as_of,
        action=decision.action,
        confidence=float(decision.confidence),
        reasons=snapshot.reason_for_call,
        price=snapshot.view("5m").close,
        thesis=thesis_of(decision),
        unread=_unread(getattr(decision, "followups", ())),
        **became,
    )


def refusal(as_of: datetime, symbol: str, action: str, codes: Iterable[str]) -> Refusal:
    """Return what is told of a decision that the guard refused: the codes that denied it, none that only clamped."""
    denied = tuple(str(code) for code in codes if code not in ALLOWED_WITH)
    return Refusal(as_of=as_of, symbol=symbol, action=action, codes=denied)


def portfolio(account: AccountState, risk: RiskView, ledger: Ledger, strategy: Strategy, as_of: datetime) -> Portfolio:
    """Put together what a decider is told of the account at as_of; risk: its day, as the snapshot has it."""
    equity, worth, peak = account.capital, account.worth, account.peak_equity
    nets = (direction(each.side) * each.notional for each in account.exposures)
    return Portfolio.trusted(
        cash=None if account.available is None else float(account.available),
        equity=float(equity),
        of_account=None if equity == account.equity else float(equity / account.equity),
        gross_pct=_pct(exact_sum(each.notional for each in account.exposures), equity),
        net_pct=_pct(exact_sum(nets), equity),
        open_risk_pct=_pct(_open_risk(account, strategy, as_of), account.equity),
        max_total_risk_pct=float(strategy.limits.max_total_risk_pct),
        daily_pnl_pct=risk.daily_pnl_pct,
        realized_today_pct=realized_today_pct(account.closed_trades, account.day_start_equity, as_of),
        drawdown_today_pct=risk.max_drawdown_today_pct,
        drawdown_pct=None if peak is None else _pct(max(peak - worth, ZERO), max(peak, worth)),
        drawdown_30d_pct=ledger.drawdown_30d_pct,
        drawdown_halt_pct=float(strategy.limits.drawdown_halt_pct),
        max_symbol_pct=float(strategy.limits.max_symbol_pct),
        correlations=_correlations(account),
        kelly_pct=None if account.kelly is None else float(account.kelly * HUNDRED),
        positions=tuple(_told(each, account, ledger, as_of) for each in account.positions),
        pending=tuple(
            PortfolioPosition.trusted(
                symbol=each.symbol, side=each.side, size_pct=_pct(each.notional, equity), avg_price=float(each.price)
            )
            for each in account.pending
        ),
        refusals=tuple(each for each in ledger.refusals if as_of - LATELY <= each.as_of < as_of)[:REFUSALS],
        by_hand=tuple(each for each in account.closed_trades if each.by_hand and as_of - LATELY <= each.closed_at),
    )


def _open_risk(account: AccountState, strategy: Strategy, as_of: datetime) -> Decimal | None:
    if account.instrument is None:
        return None
    symbol = account.instrument.symbol
    return Account(account, account.instrument, symbol, strategy, as_of, "normal").open_risk


def _correlations(account: AccountState) -> dict[str, float | None]:
    asked, known = account.instrument and account.instrument.symbol, account.correlations or {}
    return {each.symbol: known.get(each.symbol) for each in account.exposures if each.symbol != asked}


def max_drawdown_pct(equity: ndarray) -> float:
    """Return the deepest fall from a running peak, in percent of that peak (positive)."""
    return float((1 - equity / np.maximum.accumulate(equity)).max() * 100)


def _told(position: HeldPosition, account: AccountState, ledger: Ledger, as_of: datetime) -> PortfolioPosition:
    opened = next((each for each in ledger.openings if each.symbol == position.symbol), None)
    mark = position.mark_price
    r = None if mark is None else r_at(position, mark)
    return PortfolioPosition.trusted(
        symbol=position.symbol,
        side=position.side,
        size_pct=_pct(position.notional, account.capital),
        avg_price=float(position.avg_price),
        r=None if r is None else float(r),
        stop=None if position.stop is None else float(position.stop),
        target=None if position.target is None else float(position.target),
        age_bars_5m=None if opened is None else int((as_of - opened.opened_at).total_seconds()) // 300,
        thesis="" if opened is None else opened.thesis,
        followups=() if opened is None else opened.followups,
        unread=() if opened is None else opened.unread,
    )


def _pct(part: Decimal | None, whole: Decimal) -> float | None:
    return None if part is None or whole <= 0 else float(part / whole * 100)
