"""What gating costs: decisions at bars on which nothing fired, scored like those on which something did.

A share of the quiet 5m closes, chosen by a hash as the live sampler does, is put to the decider with a flat account;
its orders are followed for a day through the fill engine. As many event bars are scored the same way. Follow-ups are
left out: only entry, stop, target and the value at the end count.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from tasks.core.evaluation.counterfactual import HORIZON_BARS, score
from tasks.core.evaluation.plan import Plan
from tasks.core.market import orderbook
from tasks.core.market.bars import epoch_s
from tasks.core.market.calendar import sample_reason, sampled
from tasks.core.market.instruments import by_first_close
from tasks.core.market.market import bar_closes
from tasks.core.market.snapshot import Market
from tasks.core.ports import Decider
from tasks.core.trading import guard
from tasks.core.trading import orders as order_plan
from tasks.core.trading.money import exact
from tasks.core.trading.question import make_question
from tasks.core.types.bars import duration
from tasks.core.types.portfolio import AccountState
from tasks.core.types.record import Reason
from tasks.core.types.snapshot import Question

WARM_UP = timedelta(days=9)  # of the longest average that rules look at: 200 hours


class Sampled(NamedTuple):
    """One sampled decision: whether its bar was quiet, what was decided and what it would have earned in percent."""

    symbol: str
    at_s: int
    quiet: bool
    action: str
    return_pct: float
    model_calls: int


class Closes(NamedTuple):
    """The 5m closes of a window in epoch seconds: those with an event and those without."""

    events: np.ndarray
    quiet: np.ndarray


def closes(market: Market, start: datetime, end: datetime) -> Closes:
    """Tell the window's event closes from its quiet ones."""
    seconds = epoch_s(market.bars["5m"].index) + 300
    seconds = seconds[(seconds > start.timestamp()) & (seconds <= end.timestamp())]
    is_event = np.isin(seconds, market.event_closes)
    return Closes(seconds[is_event], seconds[~is_event])


async def sample(
    market: Market, decider: Decider, plan: Plan, start: datetime, end: datetime, wanted: int
) -> list[Sampled]:
    """Put about `wanted` quiet closes and as many event closes of the window to `decider`."""
    opens = market.bars["5m"].index
    start = max(start, opens[0].to_pydatetime() + WARM_UP)
    until = min(end, opens[-1].to_pydatetime() - HORIZON_BARS * duration("5m"))
    found = closes(market, start, until)
    return [
        await _one(market, decider, plan, at, quiet=quiet)
        for quiet, seconds in ((True, found.quiet), (False, found.events))
        for at in _chosen(market.symbol, seconds, wanted)
    ]


def _chosen(symbol: str, seconds: np.ndarray, wanted: int) -> Iterable[datetime]:
    share = wanted / max(len(seconds), 1)
    times = (datetime.fromtimestamp(int(s), tz=UTC) for s in seconds)
    return (at for at in times if sampled(order_plan.cycle_id("quiet", symbol, at), share))


def flat_question(
    market: Market, plan: Plan, at: datetime, reasons: tuple[Reason, ...] = ()
) -> tuple[AccountState, Question]:
    """Return what a decider is told at a close when the account is flat, and that account."""
    price = market.value("5m", "close", at)
    instrument = plan.instruments.get(market.symbol) or by_first_close(market.symbol, market.bars["5m"])
    last = None if price is None else exact(price)
    state = AccountState(equity=plan.cash, instrument=instrument, last_price=last)
    book = orderbook.modelled(market.value("15m", "atr_pct", at), float(plan.cash) / 5)
    reasons = (*reasons, *bar_closes(market.symbol, at))
    return state, make_question(market, at, state, plan.limits, plan.costs, reasons=reasons, book=book)


async def _one(market: Market, decider: Decider, plan: Plan, at: datetime, quiet: bool) -> Sampled:
    cycle_id = order_plan.cycle_id("quiet", market.symbol, at)
    fired = market.reasons(at - duration("5m"), at)
    state, question = flat_question(market, plan, at, fired or (sample_reason(market.symbol, cycle_id, at, 1.0),))
    [decided] = await decider.decide([question])
    verdict = guard.judge(decided.decision, question.snapshot, state, plan.limits, plan.costs, now=at)
    intents = order_plan.plan(verdict, cycle_id, state, at, plan.limits)
    later = market.bars["5m"].loc[at : at + HORIZON_BARS * duration("5m")]
    found = score(state, market.symbol, intents, later, plan.costs) if intents else None
    earned = Decimal(0) if found is None else found.return_pct
    return Sampled(
        market.symbol, int(at.timestamp()), quiet, decided.decision.action, float(earned), len(decided.calls)
    )
