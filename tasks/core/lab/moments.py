"""Moments: questions with what the market did in the day that followed, put alike to everybody who is compared.

A moment comes from a 5m close in candles, with a flat account, or from a live record, with the account it had. Whoever
is asked, its orders are followed for a day through the one fill engine, and so is doing nothing. Follow-ups are left
out: only entry, stop, target and the value at the end count.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from tasks.core.decision.llm.tools import DESK, ToolDesk
from tasks.core.decision.memory import Remembered
from tasks.core.lab.masking import Mask
from tasks.core.market.bars import epoch_s
from tasks.core.market.calendar import sample_reason, sampled
from tasks.core.market.market import Market, bar_closes
from tasks.core.ports import Decider
from tasks.core.simulation.backtest_inputs import World
from tasks.core.simulation.counterfactual import HORIZON_BARS, score
from tasks.core.simulation.replayed_tools import Known, ReplayedTools
from tasks.core.trading.judge import judged
from tasks.core.trading.orders import cycle_id
from tasks.core.trading.question import question
from tasks.core.types import (
    COLUMNS,
    ENTRIES,
    ZERO,
    AccountState,
    Answer,
    Costs,
    Dto,
    Ledger,
    OrderIntent,
    Question,
    Reason,
    Strategy,
    Utc,
    Verdict,
    duration,
    hash_of,
    known,
)

WARM_UP = timedelta(days=9)  # of the longest average that rules look at: 200 hours
AT_ONCE = 8  # moments that one decider is asked about side by side


class Moment(Dto):
    """One question, the account it was about, and the market's next day.

    opened_s: when each 5m bar with trades opened, seconds since 1970, from `as_of` on; after: its open, high, low,
    close and volume.
    """

    kind: Literal["event", "quiet", "record"] = "event"
    cycle_id: str = ""  # of the record it was taken from
    question: Question
    account: AccountState
    opened_s: tuple[int, ...]
    after: tuple[tuple[float, ...], ...]

    @property
    def symbol(self) -> str:
        return self.question.snapshot.pair

    @property
    def as_of(self) -> Utc:
        return self.question.snapshot.as_of

    @property
    def moment_id(self) -> str:
        """Return what names it wherever it is kept: a hash of question and account."""
        return hash_of(self.model_dump(mode="json", include={"question", "account"}))[:16]

    @property
    def bars(self) -> pd.DataFrame:
        """Return the bars that followed."""
        index = pd.DatetimeIndex(pd.to_datetime(self.opened_s, unit="s", utc=True), name="open_time")
        return pd.DataFrame(self.after, index, list(COLUMNS), dtype=float)

    @property
    def moved(self) -> dict[str, float]:
        """Return what the market did in the day that followed, in percent of the last price."""
        bars, last = self.bars, self.question.last_price
        if bars.empty or not last:
            return {}
        prices = {
            "moved_pct": bars["close"].iloc[-1], "highest_pct": bars["high"].max(), "lowest_pct": bars["low"].min()
        }  # fmt: skip
        return {name: round((float(price) / last - 1) * 100, 4) for name, price in prices.items()}


class Evaluated(NamedTuple):
    """What one decider made of one moment: percent of equity earned within a day after costs, by its orders and by
    doing nothing; `risk_pct` is 1 R: what an entry risks, and of a position that is held what it risked at first."""

    moment: Moment
    answer: Answer
    verdict: Verdict
    net_pct: Decimal
    hold_pct: Decimal
    risk_pct: Decimal

    @property
    def net_r(self) -> float:
        return float(self.net_pct / self.risk_pct)

    @property
    def value_r(self) -> float:
        """Return what it was worth over doing nothing, in R."""
        return float((self.net_pct - self.hold_pct) / self.risk_pct)

    @property
    def is_answered(self) -> bool:
        """Return whether anybody answered: of a provider that was away, or not paid for, nothing follows."""
        said = (not call.error or call.error.startswith("empty") for call in self.answer.calls)
        return self.is_valid or any(said)

    @property
    def is_valid(self) -> bool:
        """Return whether a reply could be read; who asks no model is always understood."""
        return not (self.answer.errors and self.answer.calls)

    @property
    def brier(self) -> float | None:
        """Return the squared error of an entry's confidence in a gain; None for what was no entry."""
        if not (self.verdict.allowed and isinstance(self.verdict.decision, ENTRIES)):
            return None
        return (float(self.answer.decision.confidence) - (self.net_pct > self.hold_pct)) ** 2


def evaluated(moment: Moment, answer: Answer, strategy: Strategy, hold: Decimal | None = None) -> Evaluated:
    """Judge an answer and follow its orders; raises DataError where the account names no instrument.

    hold: what doing nothing earns, where that is known.
    """
    _, verdict, intents = judged(moment.question, answer, moment.account, strategy, moment.as_of)
    hold = _earned(moment, (), strategy.costs) if hold is None else hold
    # a stop that was moved leaves next to nothing at risk: what was earned is no multiple of that
    entered = verdict.trade_risk_pct if isinstance(verdict.decision, ENTRIES) else ZERO
    return Evaluated(
        moment, answer, verdict, _earned(moment, intents, strategy.costs) if intents else hold, hold,
        max(entered, _risk_pct(moment)) or strategy.limits.max_trade_risk_pct,
    )  # fmt: skip


def _earned(moment: Moment, intents: Sequence[OrderIntent], costs: Costs) -> Decimal:
    if not intents and moment.account.position(moment.symbol) is None:
        return ZERO
    return score(moment.account, moment.symbol, intents, moment.bars, costs) or ZERO


def _risk_pct(moment: Moment) -> Decimal:
    """Return what the position that is held risked at its first stop, in percent of equity; zero: unknown."""
    held, equity = moment.account.position(moment.symbol), moment.account.equity
    if held is None or held.initial_stop is None or equity <= 0:
        return ZERO
    return abs((held.first_price or held.avg_price) - held.initial_stop) * held.quantity / equity * 100


async def evaluate(
    moments: Sequence[Moment],
    decider: Decider,
    strategy: Strategy,
    desk_of: Callable[[Moment], Callable[[Question], ToolDesk]] | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[Evaluated]:
    """Put every moment to a decider, some side by side; desk_of: tools for a decider that looks things up."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(moment: Moment) -> Evaluated:
        async with turn:
            if desk_of is not None:
                DESK.set(desk_of(moment))
            [answer] = await decider.decide([moment.question])
            done()
            return evaluated(moment, answer, strategy)

    return list(await asyncio.gather(*(one(moment) for moment in moments)))


def closes(market: Market, start: datetime, end: datetime, at_event: bool = True) -> list[datetime]:
    """Return the window's 5m closes on which an event fired, or those on which nothing did."""
    seconds = epoch_s(market.bars["5m"].index) + 300
    inside = (seconds > start.timestamp()) & (seconds <= end.timestamp())
    chosen = seconds[inside & (np.isin(seconds, market.event_closes) == at_event)]
    return [datetime.fromtimestamp(at_s, UTC) for at_s in chosen.tolist()]


def of_candles(market: Market, strategy: Strategy, world: World, quiet: int, events: int) -> list[Moment]:
    """Choose about so many quiet closes and closes with an event of the world's window, by a hash, as live does."""
    bars, strategy = market.bars["5m"], strategy.called("quiet", strategy.decider)
    first, last = (bars.index[end].to_pydatetime() for end in (0, -1))
    start = max(world.start or first, first + WARM_UP)
    end = min(world.end or last, last - HORIZON_BARS * duration("5m"))
    chosen: list[Moment] = []
    for kind, wanted in (("quiet", quiet), ("event", events)):
        times = closes(market, start, end, at_event=kind == "event")
        share = wanted / max(len(times), 1)
        for at in times:
            cycle = cycle_id(strategy.name, market.symbol, at)
            if sampled(cycle, share):
                reasons = market.reasons(at - duration("5m"), at) or (sample_reason(market.symbol, cycle, at, 1.0),)
                account = flat_account(market, strategy, at)
                asked = flat_question(market, account, strategy, world, at, reasons)
                chosen.append(moment(asked, account, bars, kind=kind))
    return chosen


def moment(asked: Question, account: AccountState, bars: pd.DataFrame, **more: str) -> Moment:
    """Put a question together with the 5m bars of the day that followed."""
    at = asked.snapshot.as_of
    after = bars.loc[at : at + (HORIZON_BARS - 1) * duration("5m"), list(COLUMNS)].dropna()
    rows = tuple(map(tuple, after.to_numpy().tolist()))
    opened_s = tuple(epoch_s(after.index).tolist())
    return Moment.trusted(question=asked, account=account, opened_s=opened_s, after=rows, **more)


def disguised(moment: Moment, mask: Mask) -> Moment:
    """Return a live moment under another name, of which a model is told little: `decision.masked_question`."""
    names = {moment.symbol, *(each.symbol for each in moment.account.exposures)}
    names |= {each.snapshot.pair for each in moment.question.others}
    text = moment.model_dump_json()
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, mask.symbol(name))
    hidden = Moment.model_validate_json(text)
    return hidden.replace(question=hidden.question.replace(masked=True), cycle_id="")


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
