"""Buying and holding as a benchmark: what a replay may do, and nothing that trades ever may.

Only `Backtest`, and the replay of its records, judge by this module. Live, paper and shadow accounts are judged by
`trading.judge` whatever their decider is called, so that one named `buy-and-hold` has its stop and risk limit there.
"""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from tasks.core.decision.kinds import kind_of
from tasks.core.trading.judge import Judgement, judged, planned
from tasks.core.types import ZERO, AccountState, Answer, OpenLong, Question, Strategy, Verdict, floor_to_step

BENCHMARKS = 3  # the first rules of a strategy by which a benchmark is not guarded
SHARE = Decimal("0.99")  # of equity; the rest pays the way in and what the price does until then


def judge_of(decider: str) -> Callable[[Question, Answer, AccountState, Strategy, datetime | None], Judgement]:
    """Return what judges the answers of `decider` in a replay: the guard, but for a benchmark."""
    return _bought if kind_of(decider).benchmark else judged


def _bought(
    question: Question, answer: Answer, account: AccountState, strategy: Strategy, now: datetime | None
) -> Judgement:
    """Buy with the symbol's equal part of SHARE, at market, without stop, target or leverage; never clamped."""
    decision, price = answer.decision, account.last_price
    guarded = strategy.rules < BENCHMARKS or not isinstance(decision, OpenLong)
    if guarded or account.instrument is None or not price:
        return judged(question, answer, account, strategy, now)
    budget = account.equity * SHARE / len(strategy.instruments)
    quantity = floor_to_step(budget / price, account.instrument.step)
    verdict = Verdict(allowed=quantity > ZERO, decision=decision, quantity=quantity, price=price)
    return planned(verdict, question.snapshot, account, strategy)
