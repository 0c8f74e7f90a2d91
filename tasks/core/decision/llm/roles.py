"""The panel's roles: what each may answer, what they are told, and the rules a proposal must keep.

Each strategist judges on its own timeframe: trend on 1h, reversion on 15m. What a role writes as text is kept for
people and never shown to another role: only its typed words and numbers are, so a headline that talks the sentiment
analyst into something moves one vote and nothing else.
"""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Context, Decimal
from math import ceil
from typing import Literal, NamedTuple

from pydantic import Field, StrictBool, ValidationError

from tasks.core.decision.actions import Unusable
from tasks.core.decision.llm.prompt import Prompt
from tasks.core.types import (
    HUNDRED,
    ZERO,
    Add,
    AnyDto,
    CloseAll,
    Described,
    Exact,
    Hold,
    MoveStop,
    NonNegative,
    OpenLong,
    OpenShort,
    PanelTerms,
    Probability,
    Question,
    Texts,
    Trim,
    duration,
    exact,
    exact_sum,
)

SLACK = Decimal("0.1")  # of a vote: a share of 0.67 is two of three
TREND_TF, REVERSION_TF = "1h", "15m"
ADX_LINE, RSI_LOW, RSI_HIGH = 25, 30, 70
HORIZON_PCT = {"SHORT": Decimal("1.5"), "MEDIUM": Decimal(3)}  # the farthest target, of the price
Entering = OpenLong | OpenShort | Add
Changing = Hold | MoveStop | Trim | CloseAll
_RATIO = Context(prec=6)  # six digits, and no price is too far to divide


class _Role(Described):
    """What every role writes; the rest of its fields are typed, and are all that may travel on."""

    reasoning: str = ""
    """for people, never parsed"""
    key_factors: Texts = ()
    """what weighed most, for people"""
    read_as: Texts = ()  # what was written otherwise, and how it was read

    def __str__(self) -> str:
        typed = self.model_dump(exclude={"reasoning", "key_factors", "read_as"}, exclude_unset=True)
        return " ".join(f"{name}={value}" for name, value in typed.items())


class Analysis(_Role):
    signal: Literal["bullish", "bearish", "neutral"]
    risk_level: Literal["low", "medium", "high"] = "high"
    confidence: Probability


class StrategistPlan(_Role):
    """What a strategist wants done; prices are absolute, 0 where there is none."""

    signal: Literal["none", "long", "short", "add", "trim", "close", "move_stop"]
    target: NonNegative = ZERO
    """price"""
    stop: NonNegative = ZERO
    """price"""
    risk_reward: NonNegative = ZERO
    """your estimate; the code computes its own"""
    size_pct: Exact = Field(ZERO, ge=0, le=100)
    """notional in percent of equity; trim: of the position"""
    confidence: Probability = ZERO


class Proposal(StrategistPlan):
    """An entry, or none: all that a strategist who is shown no position may answer."""

    signal: Literal["long", "short", "none"]


class TrendProposal(Proposal):
    trend_phase: str = ""
    """early, middle or late"""


class ManagingPlan(StrategistPlan):
    """Of a strategist who is shown the position; the follow-ups are of the entry, or join those of the position."""

    followups: Texts = Field((), max_length=4, description='e.g. "TRAIL 2.0 ATR from +1.0R"')


class TrendPlan(ManagingPlan):
    """An exhausted trend is not entered, nor one whose phase is not told."""

    trend_phase: Literal["EMERGING", "ESTABLISHED", "MATURE", "EXHAUSTED"] = "EXHAUSTED"


class ReversionPlan(ManagingPlan):
    """The horizon bounds how far the target of an entry may be, see HORIZON_PCT."""

    horizon: Literal["SHORT", "MEDIUM"] = "SHORT"


class Review(_Role):
    """Without an adjusted size the proposal's stands."""

    warnings: Texts = ()
    risk_score: Exact = Field(Decimal(100), ge=0, le=100)
    """0 harmless to 100 reckless"""
    approved: StrictBool
    adjusted_size: NonNegative = HUNDRED
    """percent of equity, at most as proposed"""
    confidence: Probability = ZERO


class Assessment(Review):
    """A review with advice, and a score that is a share."""

    risk_score: Exact = Field(Decimal(1), ge=0, le=1)
    """0 very safe to 1 very risky"""
    recommendations: Texts = ()
    """what would make the trade better, for people"""


ANALYSTS, STRATEGISTS = ("technical", "orderbook", "sentiment"), ("trend", "reversion")
REPLIES: dict[str, type[Analysis | StrategistPlan | Review]] = {
    **dict.fromkeys(ANALYSTS, Analysis), "trend": TrendProposal, "reversion": Proposal, "risk": Review,
}  # fmt: skip
# of prompt versions that ask for another reply
BY_SCHEMA: dict[tuple[str, str], type[Analysis | StrategistPlan | Review]] = {
    ("trend", "plan"): TrendPlan, ("reversion", "plan"): ReversionPlan, ("risk", "assessment"): Assessment,
}  # fmt: skip


def reply_of(prompt: Prompt) -> type[Analysis | StrategistPlan | Review]:
    """Return what a role answers to this version of its prompt."""
    return BY_SCHEMA.get((prompt.name, prompt.reply_schema), REPLIES[prompt.name])


class Consensus(NamedTuple):
    """A direction (+1 up, -1 down) that enough analysts share, and their average confidence."""

    way: int
    confidence: Decimal

    def __str__(self) -> str:
        return f"{'bullish' if self.way > 0 else 'bearish'} {self.confidence:.2f}"


def consensus(votes: Mapping[str, Analysis], asked: int, terms: PanelTerms) -> Consensus | None:
    """Return the direction that enough of the analysts asked share, and are confident enough of on average."""
    needed = ceil(asked * terms.consensus - SLACK)
    for way, signal in ((1, "bullish"), (-1, "bearish")):
        agreed = [vote.confidence for vote in votes.values() if vote.signal == signal]
        if len(agreed) >= needed and sum(agreed) >= terms.min_confidence * len(agreed):
            return Consensus(way, exact_sum(agreed) / len(agreed))
    return None


# --- what a proposal must keep


def checked_entry(role: str, p: StrategistPlan, question: Question, way: int) -> Entering | Unusable:
    """Return the entry or ADD that `p` asks for, its distances in 15m ATR, or the rule it breaks.

    way: of the consensus; 0 without one.
    """
    last, atr, held = question.snapshot.last_price, question.view("15m").atr, way_of(question)
    if last is None or not atr:
        return Unusable("unknown_numbers")
    if not held and p.signal not in ("long", "short"):
        return Unusable("flat")
    if p.signal != ("add" if held else "long" if way > 0 else "short") or (held or way) * way <= 0:
        return Unusable("against_consensus")
    if p.stop <= 0 or p.target <= 0 or way * (last - p.stop) <= 0 or way * (p.target - last) <= 0:
        return Unusable("levels", f"stop {p.stop}, last {last}, target {p.target}")
    broken = _trend_rule(p, question, way) if role == "trend" else _reversion_rule(p, question, way, last)
    if broken:
        return Unusable(broken)
    stop_atr, tp_atr = (_RATIO.divide(abs(last - level), exact(atr)) for level in (p.stop, p.target))
    cls: type[Entering] = Add if held else OpenLong if way > 0 else OpenShort
    return _made(cls, p, question, "size_pct", "followups", stop_atr=stop_atr, tp_atr=tp_atr)


def checked_change(p: StrategistPlan, question: Question) -> Changing | Unusable:
    """Return what `p` asks to be done with the position without adding to it, or why that cannot be."""
    match p.signal:
        case "none":
            return _made(Hold, p, question, "followups")
        case "close":
            return _made(CloseAll, p, question)
        case "trim":
            return _made(Trim, p, question, "followups", "size_pct")
        case "move_stop":
            return _moved_stop(p, question)
    return Unusable("held")


def _moved_stop(p: StrategistPlan, question: Question) -> MoveStop | Unusable:
    """Put the stop where `p` says: between where it is and the price."""
    position, last, atr = question.snapshot.position, question.snapshot.last_price, question.view("15m").atr
    if last is None or not atr or position.avg_price is None:
        return Unusable("unknown_numbers")
    way, unit = way_of(question), exact(atr)
    if p.stop <= 0 or way * (last - p.stop) <= 0:
        return Unusable("levels", f"stop {p.stop}, last {last}")
    if position.stop_atr is not None and way * (last - p.stop) >= exact(position.stop_atr) * unit:
        return Unusable("loosens")
    x = _RATIO.divide(way * (p.stop - exact(position.avg_price)), unit)
    return _made(MoveStop, p, question, "followups", to={"kind": "atr" if x else "breakeven", "x": x})


def _made(cls: type[AnyDto], p: StrategistPlan, question: Question, *fields: str, **more: object) -> AnyDto | Unusable:
    given = p.model_dump(include={"confidence", "key_factors", *fields})
    try:
        return cls.model_validate({"symbol": question.snapshot.pair, **given, **more})
    except ValidationError as e:
        return Unusable("out_of_range", str(e.errors()[0]["loc"][0]))


def caution(change: Changing) -> tuple[int, Decimal]:
    """Return how much risk a change takes away: of two the greater one is heard."""
    by_what = (Hold, MoveStop, Trim, CloseAll).index(type(change))
    by_how_much = change.size_pct if isinstance(change, Trim) else change.to.x if isinstance(change, MoveStop) else ZERO
    return by_what, by_how_much


def way_of(question: Question) -> int:
    """Return the way of the position: +1 long, -1 short, 0 flat."""
    return {"long": 1, "short": -1}.get(question.snapshot.position.side, 0)


def crossed_against(question: Question) -> bool:
    """Return whether EMA50 has crossed EMA200 on 1h against the position since that was opened."""
    cross, age = question.inputs(TREND_TF).ema_cross, question.snapshot.position.age_bars_5m
    if not cross or age is None or cross * way_of(question) >= 0:
        return False
    as_of, hours = question.snapshot.as_of, timedelta(hours=abs(cross) - 1)
    return as_of.replace(minute=0, second=0, microsecond=0) - hours > as_of - age * duration("5m")


def _trend_rule(p: StrategistPlan, question: Question, way: int) -> str:
    """With EMA50 against EMA200 and ADX above 25, not exhausted; the stop 2 to 3 % beyond the last swing."""
    hour = question.inputs(TREND_TF)
    swing = hour.swing_low if way > 0 else hour.swing_high
    if hour.ema50 is None or hour.ema200 is None or hour.adx is None or not swing:
        return "unknown_numbers"
    if way * (hour.ema50 - hour.ema200) <= 0:
        return "ema"
    if hour.adx <= ADX_LINE:
        return "adx"
    if isinstance(p, TrendPlan) and p.trend_phase == "EXHAUSTED":
        return "phase"
    beyond_pct = way * (1 - p.stop / exact(swing)) * 100
    return "" if Decimal("1.995") <= beyond_pct <= Decimal("3.005") else "stop"  # prices are rounded


def _reversion_rule(p: StrategistPlan, question: Question, way: int, last: Decimal) -> str:
    """Without a trend, RSI beyond 30/70 and the price outside its band; the target is the middle band."""
    quarter, rsi = question.inputs(REVERSION_TF), question.view(REVERSION_TF).rsi
    band = quarter.bb_lower if way > 0 else quarter.bb_upper
    if quarter.adx is None or quarter.bb_middle is None or band is None or rsi is None:
        return "unknown_numbers"
    if quarter.adx >= ADX_LINE:
        return "adx"
    if not (rsi < RSI_LOW if way > 0 else rsi > RSI_HIGH):
        return "rsi"
    if way * (exact(band) - last) <= 0:
        return "band"
    middle = exact(quarter.bb_middle)
    if abs(p.target - middle) > abs(middle - last) / 20:
        return "target"
    most = HORIZON_PCT[p.horizon] if isinstance(p, ReversionPlan) else HUNDRED
    return "horizon" if abs(p.target - last) * HUNDRED > most * last else ""


def expected_r(entry: Entering) -> Decimal:
    """Return the mean R if the confidence is the chance to win; a target beyond 3 R adds nothing."""
    return entry.confidence * (1 + min(entry.tp_atr / entry.stop_atr, Decimal(3))) - 1
