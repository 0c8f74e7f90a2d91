"""What gating costs: decisions at bars on which nothing fired, scored like those on which something did.

A share of the quiet 5m closes, chosen by a hash as the live sampler does, is put to the decider with a flat account;
its orders are followed for a day through the fill engine. As many event bars are scored the same way. Follow-ups are
left out: only entry, stop, target and the value at the end count.
"""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

import numpy as np

from tasks.core.decision.llm.tools import DESK, ToolDesk
from tasks.core.decision.memory import Remembered
from tasks.core.market.bars import epoch_s
from tasks.core.market.calendar import sample_reason, sampled
from tasks.core.market.market import Market, bar_closes
from tasks.core.ports import Decider
from tasks.core.simulation.backtest_inputs import World
from tasks.core.simulation.counterfactual import HORIZON_BARS, score
from tasks.core.simulation.replayed_tools import Known, ReplayedTools
from tasks.core.trading.guard.sizing import known
from tasks.core.trading.judge import judged
from tasks.core.trading.orders import cycle_id
from tasks.core.trading.question import question
from tasks.core.types import AccountState, Ledger, Question, Reason, Strategy, duration

WARM_UP = timedelta(days=9)  # of the longest average that rules look at: 200 hours


class Sampled(NamedTuple):
    """One sampled decision: whether its bar had an event, what was decided, what it would have earned in percent."""

    at_s: int
    at_event: bool
    action: str
    return_pct: float


def closes(market: Market, start: datetime, end: datetime, at_event: bool = True) -> list[datetime]:
    """Return the window's 5m closes on which an event fired, or those on which nothing did."""
    seconds = epoch_s(market.bars["5m"].index) + 300
    inside = (seconds > start.timestamp()) & (seconds <= end.timestamp())
    chosen = seconds[inside & (np.isin(seconds, market.event_closes) == at_event)]
    return [datetime.fromtimestamp(at_s, UTC) for at_s in chosen.tolist()]


async def sample(market: Market, decider: Decider, strategy: Strategy, world: World, wanted: int) -> list[Sampled]:
    """Put about `wanted` quiet closes and as many event closes of the world's window to `decider`."""
    opens, strategy = market.bars["5m"].index, strategy.called("quiet", strategy.decider)
    first, last = opens[0].to_pydatetime() + WARM_UP, opens[-1].to_pydatetime() - HORIZON_BARS * duration("5m")
    start, end = max(world.start or first, first), min(world.end or last, last)
    samples = []
    for at_event in (False, True):
        times = closes(market, start, end, at_event)
        share = wanted / max(len(times), 1)
        for at in times:
            cycle = cycle_id(strategy.name, market.symbol, at)
            if sampled(cycle, share):
                reasons = market.reasons(at - duration("5m"), at) or (sample_reason(market.symbol, cycle, at, 1.0),)
                account = flat_account(market, strategy, at)
                asked = flat_question(market, account, strategy, world, at, reasons)
                DESK.set(partial(flat_desk, market, account, strategy, world))
                [answer] = await decider.decide([asked])
                intents = judged(asked, answer, account, strategy, at).intents
                day = market.bars["5m"].loc[at : at + (HORIZON_BARS - 1) * duration("5m")]
                earned = score(account, market.symbol, intents, day, strategy.costs) if intents else None
                samples.append(Sampled(int(at.timestamp()), at_event, answer.decision.action, float(earned or 0)))
    return samples


def flat_account(market: Market, strategy: Strategy, at: datetime) -> AccountState:
    """Return the strategy's account before its first trade: neither gain nor loss since midnight."""
    equity = strategy.capital
    return AccountState(
        equity=equity,
        available=equity,
        peak_equity=equity,
        day_start_equity=equity,
        day_peak_equity=equity,
        instrument=strategy.instruments.get(market.symbol),
        last_price=known(market.value("5m", "close", at)),
    )


def flat_desk(market: Market, account: AccountState, strategy: Strategy, world: World, question: Question) -> ToolDesk:
    """Return the tools of a decider that is asked before the account's first trade."""
    return ReplayedTools(question, strategy, {market.symbol: market}, world, lambda _: Known(account)).desk()


def flat_question(
    market: Market, account: AccountState, strategy: Strategy, world: World, at: datetime, reasons: tuple[Reason, ...]
) -> Question:
    """Return what a decider is asked at a close when the account is flat and nothing is remembered."""
    news = world.news(at) if strategy.told.news else None
    memory = Remembered() if strategy.told.memory else None
    reasons = (*reasons, *bar_closes(market.symbol, at))
    return question(strategy, market, account, None, news, memory, reasons, at, ledger=Ledger())
