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

from tasks.core.decision.memory import Remembered
from tasks.core.market.bars import epoch_s
from tasks.core.market.calendar import sample_reason, sampled
from tasks.core.market.market import bar_closes
from tasks.core.market.snapshot import Market
from tasks.core.ports import Decider
from tasks.core.simulation.counterfactual import HORIZON_BARS, score
from tasks.core.simulation.world import World
from tasks.core.trading import orders as order_plan
from tasks.core.trading.judge import judged
from tasks.core.trading.money import exact
from tasks.core.trading.question import question
from tasks.core.types.bars import duration
from tasks.core.types.orders import Instrument
from tasks.core.types.portfolio import AccountState
from tasks.core.types.question import Question, Reason
from tasks.core.types.strategy import Strategy

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
    market: Market, decider: Decider, strategy: Strategy, world: World, start: datetime, end: datetime, wanted: int
) -> list[Sampled]:
    """Put about `wanted` quiet closes and as many event closes of the window to `decider`."""
    opens = market.bars["5m"].index
    start = max(start, opens[0].to_pydatetime() + WARM_UP)
    until = min(end, opens[-1].to_pydatetime() - HORIZON_BARS * duration("5m"))
    found, named = closes(market, start, until), strategy.called("quiet", strategy.decider)
    return [
        await _one(market, decider, named, world, at, quiet=quiet)
        for quiet, seconds in ((True, found.quiet), (False, found.events))
        for at in _chosen(market.symbol, seconds, wanted)
    ]


def _chosen(symbol: str, seconds: np.ndarray, wanted: int) -> Iterable[datetime]:
    share = wanted / max(len(seconds), 1)
    times = (datetime.fromtimestamp(int(s), tz=UTC) for s in seconds)
    return (at for at in times if sampled(order_plan.cycle_id("quiet", symbol, at), share))


def flat_account(market: Market, strategy: Strategy, at: datetime) -> AccountState:
    """Return the strategy's account before its first trade."""
    price = market.value("5m", "close", at)
    last = None if price is None else exact(price)
    return untraded(strategy.capital, strategy.instruments[market.symbol], last)


def untraded(equity: Decimal, instrument: Instrument | None, last_price: Decimal | None) -> AccountState:
    """Return an account that has not traded: neither gain nor loss since midnight, as a replay begins."""
    return AccountState(
        equity=equity, available=equity, peak_equity=equity, day_start_equity=equity, day_peak_equity=equity,
        instrument=instrument, last_price=last_price,
    )  # fmt: skip


def flat_question(
    market: Market, account: AccountState, strategy: Strategy, world: World, at: datetime, reasons: tuple[Reason, ...]
) -> Question:
    """Return what a decider is asked at a close when the account is flat and nothing is remembered."""
    news = world.news(at) if strategy.told.news else None
    memory = Remembered() if strategy.told.memory else None
    return question(strategy, market, account, None, news, memory, (*reasons, *bar_closes(market.symbol, at)), at)


async def _one(
    market: Market, decider: Decider, strategy: Strategy, world: World, at: datetime, quiet: bool
) -> Sampled:
    cycle_id = order_plan.cycle_id(strategy.name, market.symbol, at)
    fired = market.reasons(at - duration("5m"), at)
    reasons = fired or (sample_reason(market.symbol, cycle_id, at, 1.0),)
    state = flat_account(market, strategy, at)
    asked = flat_question(market, state, strategy, world, at, reasons)
    [answer] = await decider.decide([asked])
    intents = judged(asked, answer, state, strategy, at).intents
    later = market.bars["5m"].loc[at : at + HORIZON_BARS * duration("5m")]
    found = score(state, market.symbol, intents, later, strategy.costs) if intents else None
    earned = Decimal(0) if found is None else found.return_pct
    return Sampled(market.symbol, int(at.timestamp()), quiet, answer.decision.action, float(earned), len(answer.calls))
