"""What each allowed action would have been worth at a decision point: the guard's word, then the market's next day.

The action that was asked for keeps its numbers; the others have those of `rules`, as a random decider's do. Each is
judged and followed as a moment is, on the account as it was then, by the one fill engine. Nothing is looked at of after
`HORIZON` or of after `until`: where that day is not over, or its candles are not all there, no value is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from tasks.core.decision.baselines import usual
from tasks.core.errors import DataError
from tasks.core.lab.moments import Evaluated, Moment, evaluated, moment
from tasks.core.lab.recorded_replies import NotReplayable, Replayable, replayable
from tasks.core.lab.replay import Replayer
from tasks.core.simulation.counterfactual import HORIZON_BARS
from tasks.core.trading.judge import judged
from tasks.core.types import Answer, CycleRecord, Question, Strategy, Verdict, answered, duration

BAR = duration("5m")
HORIZON = HORIZON_BARS * BAR


class ActionValue(NamedTuple):
    """What an action would have made within the horizon, after costs, in percent of equity and in R; carried: what the
    guard makes of it, HOLD where it denies."""

    pct: float
    r: float
    carried: str


class Foreseen(NamedTuple):
    """By allowed action what it would have been worth; votes: what the guard makes of each of them."""

    by_action: Mapping[str, ActionValue] = {}
    votes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Future:
    """What came after each decision, as far as records and candles reach; until: the records' end."""

    replayer: Replayer
    until: datetime

    def __call__(self, record: CycleRecord) -> Foreseen:
        """Return what is known of one decision point; nothing where its record is too old to say how it was judged."""
        try:
            whole = replayable(record)
            strategy = self.replayer.strategy(record)
        except NotReplayable:
            return Foreseen()
        votes = tuple(
            _carried(_judged(whole, answered(vote, "vote"), strategy)) for vote in whole.decided.votes if vote
        )
        one, values, hold_pct = self._moment(whole, strategy), {}, None
        if one is None:
            return Foreseen(votes=votes)
        for action in dict.fromkeys(("HOLD", *whole.snapshot.constraints.allowed_actions)):
            own = action == whole.decided.decision.action
            answer = whole.decided if own else answered(usual(action, record.symbol, "usual"), "usual")
            made = _worth(one, answer, strategy, hold_pct)
            if made is not None:
                hold_pct = made.hold_pct
                values[action] = ActionValue(float(made.net_pct), made.net_r, _carried(made.verdict))
        return Foreseen(values, votes)

    def worth(self, record: CycleRecord, answer: Answer) -> Evaluated | None:
        """Return what came of one answer; None where that is not known."""
        try:
            whole, strategy = replayable(record), self.replayer.strategy(record)
        except NotReplayable:
            return None
        one = self._moment(whole, strategy)
        return None if one is None else _worth(one, answer, strategy)

    def masked(self, record: CycleRecord) -> str:
        """Return whether a model was shown little of the question: `yes`, `no`, or `unknown` without its strategy."""
        try:
            return "yes" if self.replayer.strategy(record).told.masked else "no"
        except NotReplayable:
            return "unknown"

    def _moment(self, record: Replayable, strategy: Strategy) -> Moment | None:
        try:
            bars = self.replayer.history(strategy.venue, record.symbol).frames["5m"]
        except DataError:
            return None
        end = record.as_of + HORIZON
        if end > self.until or bars.empty or bars.index[-1] < end - BAR:
            return None
        return moment(Question(snapshot=record.snapshot, reasons=record.reasons), record.state, bars)


def _worth(one: Moment, answer: Answer, strategy: Strategy, hold_pct: Decimal | None = None) -> Evaluated | None:
    try:
        return evaluated(one, answer, strategy, hold_pct)
    except DataError:  # an account of before instruments were recorded
        return None


def _judged(record: Replayable, answer: Answer, strategy: Strategy) -> Verdict:
    asked = Question(snapshot=record.snapshot, reasons=record.reasons)
    return judged(asked, answer, record.state, strategy, record.as_of).verdict


def _carried(verdict: Verdict) -> str:
    return verdict.decision.action if verdict.allowed else "HOLD"
