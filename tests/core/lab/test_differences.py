"""The verdict of a comparison: what it rests on, when there is none, and the moments and figures shown with it."""

from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest
from moments_sample import AT, moment

from tasks.core.lab import differences, statistics
from tasks.core.lab.compare import Pair
from tasks.core.lab.differences import Competitor, Explanation
from tasks.core.lab.moments import Evaluated, Moment
from tasks.core.lab.statistics import Interval
from tasks.core.types.decision import Decision, Hold, ModelCall, OpenLong, OpenShort, answered
from tasks.core.types.question import Question, Reason
from tasks.core.types.verdict import Code, Verdict

BTC = "BTC/USDT:USDT"
RISK = Decimal("0.5")  # percent of equity: one R
FLIP = Reason(rule="TrendFlip", symbol=BTC, timeframe="1h", detail="up", as_of=AT, fingerprint="f")
UNKNOWN = Interval(estimate=0.0)


def entry(kind: type[OpenLong | OpenShort] = OpenLong) -> Decision:
    return kind(
        symbol=BTC, size_pct=Decimal(20), stop_atr=Decimal(2), tp_atr=Decimal(4), confidence=Decimal("0.8"),
        comment="as asked",
    )  # fmt: skip


def one(number: int, r: float, decision: Decision | None = None, hold_r: float = 0.0, **more: object) -> Evaluated:
    """The moment of so many hours after AT, at which a decision earned r and doing nothing hold_r."""
    snapshot = moment().replace(as_of=AT + timedelta(hours=number))
    asked = Moment.model_construct(question=Question(snapshot=snapshot, reasons=(FLIP,)), opened_s=(), after=())
    chosen = decision or entry()
    prices = {"price": Decimal(100), "stop": Decimal(98), "target": Decimal(104)}
    given = {"verdict": Verdict(allowed=True, decision=chosen, **prices), "answer": answered(chosen, "llm")} | more
    return Evaluated(
        asked, net_pct=Decimal(str(r)) * RISK, hold_pct=Decimal(str(hold_r)) * RISK, risk_pct=RISK, **given
    )


def explained(
    evaluated: dict[str, list[Evaluated]], days: dict[tuple[str, str], Interval] | None = None, partial: str = ""
) -> Explanation:
    labels = [*evaluated, "hold"]
    rows = [Competitor(each, each == "hold", each != partial) for each in labels]
    given = days or {}
    pairs = [
        Pair(a=a, b=b, daily_bps=given.get((a, b), UNKNOWN), sharpe=UNKNOWN)
        for at, a in enumerate(labels) for b in labels[at + 1 :]
    ]  # fmt: skip
    return differences.explain(rows, evaluated, pairs)


def alternating(first: float, second: float, n: int = 40) -> list[Evaluated]:
    return [one(at, second if at % 2 else first) for at in range(n)]


SURE = Interval(estimate=-9.0, low=-14.0, high=-4.0, p_value=0.01, n=60, effective_n=50.0)


def test_the_better_one_is_named_with_the_interval_of_the_common_moments():
    found = explained({"new": alternating(2, 1), "old": alternating(-1, 1)})
    verdict = found.verdict
    assert verdict == found.rulings[0]
    assert (verdict.a, verdict.b, verdict.ruling, verdict.rests_on) == ("new", "old", "better", "moments")
    wanted = statistics.interval(np.array([3.0, 0.0] * 20))
    assert wanted.estimate == 1.5
    assert verdict.moments == wanted
    low, high = (f"{bound:+.2f}" for bound in (wanted.low, wanted.high))
    assert verdict.sentence == (
        f"new is better than old: +1.50 R a moment [{low}, {high}] over 40 common moments (95 %, effective n 40)."
    )
    assert explained({"old": alternating(-1, 1), "new": alternating(2, 1)}).verdict.ruling == "worse"


def test_hold_earns_what_doing_nothing_does():
    found = explained({"new": [one(at, 1 + at % 2, hold_r=0.5) for at in range(40)]})
    [ruling] = found.rulings
    assert (ruling.b, ruling.ruling) == ("hold", "better")
    assert ruling.moments.estimate == pytest.approx(1.0)  # 0.5 and 1.5 over HOLD, by turns
    assert found.differences[0].answers[1].action == "HOLD"
    assert found.differences[0].answers[1].net_r == 0.5


def test_moments_alone_are_enough_for_a_verdict_and_hold_is_always_among_the_others():
    evaluated = {"new": alternating(2, 1), "old": alternating(-1, 1)}
    compared = [Competitor("new", baseline=False, complete=True), Competitor("old", baseline=False, complete=True)]
    found = differences.explain(compared, evaluated)
    assert [(each.b, each.ruling, each.days.n) for each in found.rulings] == [
        ("old", "better", 0),
        ("hold", "better", 0),
    ]


def test_two_that_earn_alike_are_not_shown_to_differ():
    found = explained({"new": alternating(2, -1), "old": alternating(2, -1)})
    assert found.verdict.ruling == "not shown to differ"
    assert "new is not shown to differ from old: both earned the same at each of 40 common moments" in (
        found.verdict.sentence
    )
    assert found.differences == ()


def test_an_interval_with_zero_in_it_shows_nothing():
    found = explained({"new": alternating(2, -1), "old": alternating(-1, 1.9)})
    assert found.verdict.moments.low < 0 < found.verdict.moments.high
    assert found.verdict.ruling == "not shown to differ"
    assert found.verdict.rests_on == "moments"


def test_too_few_moments_say_so_however_large_the_difference():
    found = explained({"new": alternating(2, 3, 19), "old": alternating(-1, -1, 19)})
    assert (found.verdict.ruling, found.verdict.rests_on) == ("not shown to differ", "nothing")
    assert "too little to tell, +3.47 R a moment over 19 common moments" in found.verdict.sentence
    assert "where 20 independent ones are the least" in found.verdict.sentence


def test_moments_that_repeat_each_other_count_as_few():
    runs = [one(at, 2 + at // 5 % 2) for at in range(60)]  # twelve stretches of market, not 60
    found = explained({"new": runs, "old": alternating(-1, -1, 60)})
    assert found.verdict.moments.low > 0
    assert found.verdict.moments.effective_n == pytest.approx(14.2, abs=0.1)
    assert (found.verdict.ruling, found.verdict.rests_on) == ("not shown to differ", "nothing")


def test_where_moments_are_too_few_the_days_decide():
    found = explained({"new": alternating(2, 3, 9), "old": alternating(-1, -1, 9)}, {("new", "old"): SURE})
    assert (found.verdict.ruling, found.verdict.rests_on) == ("worse", "days")
    assert "worse than old: -9.00 bps a day [-14.00, -4.00] over 60 common days" in found.verdict.sentence


def test_where_moments_are_alike_and_the_days_decide_the_sentence_says_both():
    alike = {"new": alternating(2, -1), "old": alternating(2, -1)}
    verdict = explained(alike, {("new", "old"): SURE}).verdict
    assert (verdict.ruling, verdict.rests_on) == ("worse", "days")
    assert verdict.sentence == (
        "new is worse than old: -9.00 bps a day [-14.00, -4.00] over 60 common days (95 %, effective n 50); "
        "both earned the same at each of 40 common moments."
    )


def test_moments_and_days_that_contradict_each_other_show_nothing():
    evaluated = {"new": alternating(2, 1), "old": alternating(-1, 1)}
    found = explained(evaluated, {("new", "old"): SURE})
    assert found.verdict.ruling == "not shown to differ"
    assert "says one thing" in found.verdict.sentence
    same_way = SURE.scaled(-1)
    assert explained(evaluated, {("new", "old"): same_way}).verdict.ruling == "better"


def test_what_was_cut_short_has_no_verdict():
    evaluated = {"cut": alternating(9, 8), "new": alternating(2, 1), "old": alternating(-1, 1)}
    found = explained(evaluated, partial="cut")
    assert [(ruling.a, ruling.b) for ruling in found.rulings] == [("new", "old"), ("new", "hold")]
    alone = explained({"cut": alternating(9, 8)}, partial="cut")
    assert alone.verdict.sentence == "No verdict: cut was cut short by its cost."
    assert alone.verdict.ruling == "not shown to differ"
    assert alone.differences == ()


def test_the_ten_moments_that_made_most_of_the_difference_come_first():
    mine = [one(at, at / 10) for at in range(14)]
    theirs = [one(at, 0, Hold(symbol=BTC)) for at in range(14)]
    theirs[13] = one(13, -0.5, entry(OpenShort))
    found = explained({"new": mine, "old": theirs})
    assert [round(each.difference_r, 9) for each in found.differences] == [
        1.8, 1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4,
    ]  # fmt: skip
    first = found.differences[0]
    assert (first.as_of, first.reasons) == (AT + timedelta(hours=13), ("TrendFlip(1h up)",))
    long, short = first.answers
    assert (long.label, long.action, long.size_pct, long.comment) == ("new", "OPEN_LONG", 20, "as asked")
    assert (long.price, long.stop, long.target, long.net_r) == (100, 98, 104, 1.3)
    assert (short.action, short.value_r) == ("OPEN_SHORT", -0.5)
    assert found.differences[1].answers[1].price is None


def test_each_variant_has_its_figures_over_the_moments():
    denied = Verdict(allowed=False, decision=entry(), codes=(Code.LOW_CONFIDENCE, Code.CHASING))
    said = ModelCall(role="single", model="m", raw_reply="I would rather wait")
    unread = answered(Hold(symbol=BTC), "llm").replace(
        errors=("no json",), calls=(said,), cost_usd=Decimal("0.03"), latency_ms=90.0
    )
    mine = [one(0, 2), one(1, -1), one(2, 0, verdict=denied), one(3, 0, Hold(symbol=BTC), answer=unread)]
    [figures] = explained({"new": mine}).moments_by_variant
    assert (figures.net_r.n, figures.net_r.estimate, figures.valid_share) == (4, 0.25, 0.75)
    assert figures.denied == {"LOW_CONFIDENCE": 1, "CHASING": 1}
    assert figures.cost_usd == pytest.approx(0.0075)
    assert figures.latency_ms == 22.5
    assert figures.brier == pytest.approx((0.2**2 + 0.8**2) / 2)
