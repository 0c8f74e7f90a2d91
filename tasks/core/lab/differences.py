"""What a comparison comes down to: who is better and how sure that is, and the moments that made the difference.

A verdict rests on the moments that both variants were put to: value over HOLD in R, paired, so that the market's luck
is in both. Where too few of them are independent it rests on the paired daily returns of the replayed accounts; which
of the two is settled by how much each has seen, never by what it says. Where both are sure and say the opposite,
nothing was shown. A replay that was cut short by its cost has no verdict.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from tasks.core.lab import statistics
from tasks.core.lab.compare import Pair, Row
from tasks.core.lab.moments import Evaluated
from tasks.core.lab.statistics import Interval
from tasks.core.pages import numbers
from tasks.core.types import ENTRIES, Dto, Exact, Texts, Utc, Verdict, answered, hold

LEAST = 20  # independent moments, or days, behind a verdict
SHOWN = 10  # moments
ROUNDED = 0.005  # R: less than this is written as 0.00
HOLDS = "hold"


class Ruling(Dto):
    """Whether `a` is better than `b`; moments: value over HOLD of a less b, R each; days: basis points a day."""

    a: str
    b: str
    ruling: Literal["better", "worse", "not shown to differ"]
    rests_on: Literal["moments", "days", "nothing"]
    moments: Interval
    days: Interval
    sentence: str


class MomentAnswer(Dto):
    """What a variant answered at a moment, the prices of its entry, and what came of it within a day, in R."""

    label: str
    action: str
    size_pct: float | None = None
    confidence: float
    comment: str
    codes: Texts
    price: Exact | None = None
    stop: Exact | None = None
    target: Exact | None = None
    net_r: float
    value_r: float


class Disagreement(Dto):
    """A moment at which `a` and `b` of the first ruling earned differently; difference_r: value of a less b."""

    symbol: str
    as_of: Utc
    reasons: Texts
    difference_r: float
    answers: tuple[MomentAnswer, MomentAnswer]


class MomentFigures(Dto):
    """A variant over all moments; denied: how often by code."""

    label: str
    net_r: Interval
    value_r: Interval
    valid_share: float
    denied: dict[str, int]
    cost_usd: float
    latency_ms: float
    brier: float | None


class Explanation(Dto):
    """`verdict` is the first of `rulings`."""

    verdict: Ruling
    rulings: tuple[Ruling, ...]
    differences: tuple[Disagreement, ...]
    moments_by_variant: tuple[MomentFigures, ...]


class Competitor(NamedTuple):
    """What is ruled on; not `complete` where the agreed cost cut it short."""

    label: str
    baseline: bool
    complete: bool


def explain(
    compared: Iterable[Row | Competitor], evaluated: Mapping[str, Sequence[Evaluated]], pairs: Iterable[Pair] = ()
) -> Explanation:
    """Rule on the first variant that is no baseline against every other one, the others that are none first, and HOLD.

    evaluated: what each made of the same moments, by its label. pairs: of the replayed accounts, where there are any.
    """
    first, *rest = sorted(compared, key=lambda each: (each.baseline, not each.complete))
    others = [each.label for each in rest if each.complete and first.complete]
    if not others or HOLDS not in (first.label, *others):
        others.append(HOLDS)
    mine = evaluated.get(first.label) or max(evaluated.values(), key=len, default=())
    asked = {HOLDS: [_held(one) for one in mine], **evaluated} if first.complete else {}
    common = {other: paired(asked.get(first.label, ()), asked.get(other, ())) for other in others}
    days = {frozenset((pair.a, pair.b)): pair for pair in pairs if first.complete}
    rulings = [
        _ruling(first.label, other, both, days.get(frozenset((first.label, other)))) for other, both in common.items()
    ]
    if not first.complete:
        rulings = [rulings[0].replace(sentence=f"No verdict: {first.label} was cut short by its cost.")]
    return Explanation(
        verdict=rulings[0],
        rulings=rulings,
        differences=_disagreements(first.label, others[0], common[others[0]]),
        moments_by_variant=[_figures(label, sorted(each, key=_when)) for label, each in evaluated.items() if each],
    )


def _when(one: Evaluated) -> tuple[Utc, str]:
    return one.moment.as_of, one.moment.symbol


def _held(one: Evaluated) -> Evaluated:
    """Return what doing nothing made of a moment."""
    nothing = hold(one.moment.symbol, "nothing is done")
    return one._replace(
        answer=answered(nothing, HOLDS), verdict=Verdict(allowed=True, decision=nothing), net_pct=one.hold_pct
    )


def paired(mine: Iterable[Evaluated], theirs: Iterable[Evaluated]) -> list[tuple[Evaluated, Evaluated]]:
    """Return what both made of the moments they have in common, in order of time."""
    other = {_when(one): one for one in theirs}
    return [(one, other[when]) for one in sorted(mine, key=_when) if (when := _when(one)) in other]


def _mean(values: Iterable[float]) -> Interval:
    return statistics.interval(np.array(list(values)))


def _sign(found: Interval) -> int | None:
    """Return which way an interval points, 0 where it contains 0; None where too little is independent."""
    if found.low is None or found.high is None or (found.effective_n or 0) < LEAST:
        return None
    return (found.low > 0) - (found.high < 0)


def _ruling(a: str, b: str, both: Sequence[tuple[Evaluated, Evaluated]], pair: Pair | None) -> Ruling:
    days = pair.less(b).daily_bps if pair else Interval(estimate=None)
    moments = _mean(mine.value_r - theirs.value_r for mine, theirs in both)
    signs = {"moments": _sign(moments), "days": _sign(days)}
    known = {name: sign for name, sign in signs.items() if sign is not None}
    rests_on, sign = next(iter(known.items()), ("nothing", 0))
    opposed = {-1, 1} <= set(known.values())
    ruling = "not shown to differ" if opposed or not sign else "better" if sign > 0 else "worse"
    of_moments, of_days = _written(moments, "R a moment", "moments"), _written(days, "bps a day", "days")
    is_alike = moments.n > 1 and moments.effective_n is None and not moments.estimate
    alike = f"both earned the same at each of {moments.n} common moments"
    if opposed:
        why = f"{of_moments} says one thing, {of_days} the opposite"
    elif is_alike and not sign:
        why = alike
    elif rests_on == "nothing":
        why = f"too little to tell, {of_moments} and {of_days}, where {LEAST} independent ones are the least"
    else:
        few = f"; {alike if is_alike else f'{moments.n} common moments are too few to tell'}" if moments.n else ""
        why = of_moments if rests_on == "moments" else of_days + few
    than = f"{ruling} than" if sign and not opposed else "not shown to differ from"
    return Ruling(
        a=a, b=b, ruling=ruling, rests_on=rests_on, moments=moments, days=days, sentence=f"{a} is {than} {b}: {why}."
    )


def _written(found: Interval, unit: str, common: str) -> str:
    if not found.n:
        return f"no common {common}"
    estimate, low, high = (numbers.fixed(bound, sign=True) for bound in (found.estimate, found.low, found.high))
    bounds, level = ("", "") if found.low is None else (f" [{low}, {high}]", "95 %, ")
    independent = "" if found.effective_n is None else f" ({level}effective n {found.effective_n:.0f})"
    return f"{estimate} {unit}{bounds} over {found.n} common {common}{independent}"


def _disagreements(a: str, b: str, pairs: Iterable[tuple[Evaluated, Evaluated]]) -> list[Disagreement]:
    """Return the moments that made most of the difference: who earned differently was told to do differently."""
    apart = [(mine.value_r - theirs.value_r, mine, theirs) for mine, theirs in pairs]
    apart.sort(key=lambda one: -abs(one[0]))
    return [
        Disagreement(
            symbol=mine.moment.symbol,
            as_of=mine.moment.as_of,
            reasons=[str(reason) for reason in mine.moment.question.reasons if not reason.context],
            difference_r=difference,
            answers=(_answer(a, mine), _answer(b, theirs)),
        )
        for difference, mine, theirs in apart[:SHOWN]
        if abs(difference) >= ROUNDED
    ]


def _answer(label: str, one: Evaluated) -> MomentAnswer:
    entered = one.verdict.allowed and isinstance(one.verdict.decision, ENTRIES)
    return MomentAnswer.of(
        one.answer.decision,
        label=label,
        codes=one.verdict.codes,
        **one.verdict.model_dump(include={"price", "stop", "target"} if entered else set()),
        net_r=one.net_r,
        value_r=one.value_r,
    )


def _figures(label: str, all_of: Sequence[Evaluated]) -> MomentFigures:
    briers = [one.brier for one in all_of if one.brier is not None]
    return MomentFigures(
        label=label,
        net_r=_mean(one.net_r for one in all_of),
        value_r=_mean(one.value_r for one in all_of),
        valid_share=np.mean([one.is_valid for one in all_of]),
        denied=Counter(code for one in all_of if not one.verdict.allowed for code in one.verdict.codes),
        cost_usd=np.mean([float(one.answer.cost_usd) for one in all_of]),
        latency_ms=np.mean([one.answer.latency_ms for one in all_of]),
        brier=np.mean(briers) if briers else None,
    )
