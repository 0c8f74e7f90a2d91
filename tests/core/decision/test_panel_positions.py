"""`llm:panel` with a position: what strategists who are shown it may do, and what the officer is told of an ADD."""

import asyncio
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from panel_cases import (
    ALLOWED,
    ANSWERS,
    HOUR,
    MANAGING,
    NONE,
    PROMPTS,
    SYMBOL,
    question,
    reversion,
    review,
    said,
    trend,
    vote,
)
from test_panel import HANG, Cast, outcome

from tasks.adapters.files.prompts import load_prompt
from tasks.core.decision.actions import Unusable, object_schema, parse_as
from tasks.core.decision.kinds import Means
from tasks.core.decision.llm.panel import PanelDecider
from tasks.core.decision.llm.prompt import Prompt
from tasks.core.decision.llm.role_texts import risk_table, trend_text, variables_of_roles
from tasks.core.decision.llm.roles import Analysis, Assessment, ReversionPlan, Review, TrendPlan, reply_of
from tasks.core.lab.recorded_replies import RecordedReplies, _prompt
from tasks.core.trading import followups
from tasks.core.types.decision import MANAGES, Add, Answer, CloseAll, MoveStop, OpenLong, StopTarget, Trim
from tasks.core.types.limits import PanelTerms
from tasks.core.types.portfolio import Portfolio, PortfolioPosition
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Memory, PositionView, Statistics

OFFERED = (*ALLOWED, "ADD", "TRIM", "MOVE_STOP")
LONG = PositionView(
    side="long", size_pct=20.0, avg_price=98.0, unrealized_R=1.0, age_bars_5m=60, stop_atr=8.0, tp_atr=16.0
)
TRAIL = "TRAIL 2 ATR from +1R"


def held(position: PositionView = LONG, **more: object) -> Question:
    return question(position=position, **{"allowed": OFFERED, **more})


def plan(signal: str = "none", **fields: object) -> str:
    return said(signal=signal, **{"confidence": 0.6, **fields})


def decide(
    about: Question | None = None, /, prompts: dict[str, Prompt] = MANAGING, **answers: str
) -> tuple[Answer, Cast]:
    cast = Cast(ANSWERS | {"trend": NONE} | answers)
    decider = PanelDecider(cast, prompts, Means(30, panel=PanelTerms(stage_s=0.05)))
    [decided] = asyncio.run(decider.decide([about or held()]))
    return decided, cast


# --- what strategists do with it


def test_strategists_are_shown_the_position_the_account_and_what_crossed():
    own = PortfolioPosition(
        symbol=SYMBOL, side="long", size_pct=20, stop=96, target=108, thesis="pullback held", followups=(TRAIL,)
    )
    about = held(
        portfolio=Portfolio(equity=10_000, max_total_risk_pct=1.5, positions=(own,)),
        hour=HOUR | {"ema_cross": 3, "sma_cross": -12, "macd_cross": 1},
    )
    _, cast = decide(about)
    assert sorted(cast.roles) == ["orderbook", "reversion", "sentiment", "technical", "trend"]
    for role in ("trend", "reversion"):
        told = cast.told(role)
        assert (
            "Position: side=long size_pct=20 avg_price=98 unrealized_R=1 age_bars_5m=60 stop_atr=8 tp_atr=16 " in told
        )
        assert "pnl=2.04% stop=96 target=108\nfollow-ups: TRAIL 2 ATR from +1R\nopened because: pullback held" in told
        assert "crossed on 1h: ema50/200 up 2 bars ago, sma20/50 down 11 bars ago, macd up 0 bars ago" in told
        assert "1h: ema50 against ema200 bullish; trend strong (adx 30)" in told
        assert "equity 10000" in told


@pytest.mark.parametrize(
    ("adx", "word"), [(None, "unknown"), (19, "none"), (20.5, "weak"), (25, "weak"), (25.5, "strong")]
)
def test_the_strength_of_a_trend_is_a_word(adx, word):
    assert f"trend {word} (adx" in trend_text(question(hour={"adx": adx})).splitlines()[0]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"trend": plan("close")}, CloseAll(symbol=SYMBOL)),
        ({"trend": plan("trim", size_pct=40)}, Trim(symbol=SYMBOL, size_pct=Decimal(40))),
        ({"trend": plan("move_stop", stop=98)}, MoveStop(symbol=SYMBOL, to=StopTarget(kind="breakeven"))),
        (
            {"reversion": plan("move_stop", stop=99)},
            MoveStop(symbol=SYMBOL, to=StopTarget(kind="atr", x=Decimal(2))),
        ),
    ],
)
def test_what_reduces_risk_is_done_without_the_officer(answers, expected):
    decided, cast = decide(**answers)
    d = decided.decision
    assert type(d) is type(expected)
    assert (getattr(d, "size_pct", None), getattr(d, "to", None)) == (
        getattr(expected, "size_pct", None), getattr(expected, "to", None),
    )  # fmt: skip
    assert (decided.rung, decided.flags, d.source, d.confidence) == ("primary", (), "llm:panel", Decimal("0.6"))
    assert "risk" not in cast.roles
    assert d.comment == f"{next(iter(answers))} {'trim' if isinstance(d, Trim) else d.comment.split()[1]}"


@pytest.mark.parametrize(("signal", "fields"), [("none", {}), ("trim", {"size_pct": 30}), ("move_stop", {"stop": 97})])
def test_followups_may_be_set_on_what_is_held(signal, fields):
    decided, _ = decide(trend=plan(signal, followups=[TRAIL], **fields))
    assert isinstance(decided.decision, MANAGES)
    assert decided.decision.followups == (TRAIL,)


def test_what_takes_most_risk_away_is_heard_and_the_other_is_named():
    decided, _ = decide(trend=plan("trim", size_pct=20), reversion=plan("close"))
    assert outcome(decided) == ("CLOSE_ALL", "primary", ("trend:outvoted",))
    decided, _ = decide(trend=plan("trim", size_pct=20), reversion=plan("trim", size_pct=60))
    assert (decided.decision.size_pct, decided.flags) == (60, ("trend:outvoted",))
    decided, _ = decide(trend=trend(signal="add"), reversion=plan("move_stop", stop=97))
    assert outcome(decided) == ("MOVE_STOP", "primary", ())


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (plan("trim", size_pct=0), "out_of_range"),
        (plan("move_stop", stop=101), "levels"),
        (plan("move_stop", stop=95), "loosens"),
        (plan("move_stop"), "levels"),
        (trend(), "held"),
        (trend(signal="short"), "held"),
    ],
)
def test_what_makes_no_sense_of_a_position_is_named_and_leaves_it(reply, reason):
    decided, _ = decide(trend=reply)
    assert outcome(decided) == ("HOLD", "primary", (f"trend:{reason}",))
    assert decided.decision.comment == "consensus bullish 0.65: the long stands"


def test_a_position_that_cannot_be_known_moves_no_stop():
    for about in (held(last=None), held(atr=None), held(LONG.replace(avg_price=None))):
        assert decide(about, trend=plan("move_stop", stop=99))[0].flags == ("trend:unknown_numbers",)


def test_what_is_not_offered_now_is_not_done():
    decided, _ = decide(held(allowed=ALLOWED), trend=plan("trim", size_pct=20))
    assert outcome(decided) == ("HOLD", "primary", ("trend:not_allowed",))


@pytest.mark.parametrize("signal", ["add", "trim", "close", "move_stop"])
def test_flat_there_is_nothing_to_manage(signal):
    decided, _ = decide(question(allowed=OFFERED), trend=trend(signal=signal))
    assert outcome(decided) == ("HOLD", "primary", ("trend:flat", "no_proposal"))


# --- the analysts' say


AGAINST = {"technical": vote("bearish"), "orderbook": vote("bearish")}


@pytest.mark.parametrize("answer", [NONE, HANG, "no JSON", plan("move_stop", stop=95), plan("none", followups=[TRAIL])])
def test_a_consensus_against_it_closes_it_where_no_strategist_reduces_it(answer):
    decided, _ = decide(**AGAINST, trend=answer)
    assert (decided.decision.action, decided.rung) == ("CLOSE_ALL", "primary")
    assert decided.decision.comment == "consensus bearish 0.70 is against the long"


def test_a_strategist_who_reduces_it_is_heard_before_a_consensus_against_it():
    decided, _ = decide(**AGAINST, trend=plan("trim", size_pct=50))
    assert outcome(decided) == ("TRIM", "primary", ())


def test_without_consensus_strategists_may_still_reduce():
    apart = {"technical": vote("bearish")}
    assert outcome(decide(**apart)[0]) == ("HOLD", "primary", ("no_consensus",))
    assert outcome(decide(**apart, trend=plan("close"))[0]) == ("CLOSE_ALL", "primary", ())
    assert outcome(decide(**apart, trend=trend(signal="add"))[0]) == (
        "HOLD", "primary", ("trend:against_consensus", "no_consensus"),
    )  # fmt: skip


def test_strategists_who_are_late_leave_a_failure_and_the_position():
    decided, _ = decide(technical=vote("neutral"), trend=HANG, reversion=HANG)
    assert outcome(decided) == ("HOLD", "hold", ("late:trend", "late:reversion", "no_consensus"))


def test_prompts_that_show_no_position_are_not_sent_with_one():
    decided, cast = decide(prompts=PROMPTS)
    assert outcome(decided) == ("HOLD", "primary", ())
    assert sorted(cast.roles) == ["orderbook", "sentiment", "technical"]
    decided, cast = decide(prompts=PROMPTS | {"reversion": MANAGING["reversion"]}, reversion=plan("close"))
    assert (decided.decision.action, "trend" in cast.roles) == ("CLOSE_ALL", False)


# --- EMA50 over EMA200


@pytest.mark.parametrize(
    ("side", "cross", "age", "closed"),
    [
        ("long", -1, 60, True),
        ("short", 1, 60, True),
        ("long", 1, 60, False),
        ("long", None, 60, False),
        ("long", -5, 60, True),  # AT is five past three: it closed at 23:00, and the position opened at 22:05
        ("long", -6, 60, False),
        ("long", -1, 1, False),
        ("long", -1, None, False),
        ("flat", -1, None, False),
    ],
)
def test_a_cross_against_the_position_since_it_opened_closes_it_and_nobody_is_asked(side, cross, age, closed):
    about = held(LONG.replace(side=side, age_bars_5m=age), hour=HOUR | {"ema_cross": cross})
    for prompts in (MANAGING, PROMPTS):
        decided, cast = decide(about, prompts=prompts)
        assert (decided.flags == ("ema_cross",)) == closed == (not cast.asked)
        if closed:
            assert (decided.decision.action, decided.rung, decided.source) == ("CLOSE_ALL", "primary", "llm:panel")
            assert (decided.calls, decided.model, decided.decision.confidence) == ((), "", 1)


# --- entries and the officer


def test_an_add_keeps_the_rules_of_an_entry_and_goes_to_the_officer():
    decided, cast = decide(trend=trend(signal="add", followups=[TRAIL]))
    d = decided.decision
    assert isinstance(d, Add)
    assert (d.size_pct, d.stop_atr, d.tp_atr, d.followups) == (20, 7, 16, (TRAIL,))
    assert "Proposal: trend ADD size_pct=20 stop=96.5" in cast.told("risk")
    assert decide(trend=trend(signal="add"), risk=review(approved=False))[0].flags == ("rejected",)
    assert decide(trend=trend(signal="add", stop=99))[0].flags == ("trend:stop",)
    assert decide(held(allowed=ALLOWED), trend=trend(signal="add"))[0].flags == ("trend:not_allowed",)


def test_an_entry_may_carry_followups():
    decided, _ = decide(question(), trend=trend(followups=[TRAIL, "CLOSE after 96 bars below +0.5R"]))
    assert isinstance(decided.decision, OpenLong)
    assert decided.decision.followups == (TRAIL, "CLOSE after 96 bars below +0.5R")


def test_an_exhausted_trend_is_not_entered_nor_one_without_a_phase():
    for phase in ("EXHAUSTED", None):
        assert decide(question(), trend=trend(trend_phase=phase))[0].flags == ("trend:phase", "no_proposal")
    for phase in ("EMERGING", "ESTABLISHED", "MATURE"):
        assert decide(question(), trend=trend(trend_phase=phase))[0].decision.action == "OPEN_LONG"


def test_the_horizon_bounds_how_far_a_reversion_may_go():
    far = reversion()  # 2 % away
    assert decide(question(), reversion=far)[0].flags == ("reversion:horizon", "no_proposal")
    assert decide(question(), reversion=reversion(horizon="MEDIUM"))[0].decision.action == "OPEN_LONG"
    wide = {"adx": 20.0, "bb_lower": 100.5, "bb_middle": 103.5, "bb_upper": 106.0}
    reply = reversion(horizon="MEDIUM", target=103.5)
    assert decide(question(quarter=wide), reversion=reply)[0].flags == ("reversion:horizon", "no_proposal")


@pytest.mark.parametrize(
    ("text", "cls", "reason"),
    [
        (trend(trend_phase="BANANA"), TrendPlan, "invalid:trend_phase"),
        (reversion(horizon="BANANA"), ReversionPlan, "invalid:horizon"),
        (vote().replace('"low"', '"BANANA"'), Analysis, "invalid:risk_level"),
        (plan("hold"), TrendPlan, "invalid:signal"),
        (plan(followups=["a", "b", "c", "d", "e"]), TrendPlan, "invalid:followups"),
        (review(risk_score=30), Assessment, "invalid:risk_score"),
    ],
)
def test_a_word_that_is_none_makes_the_reply_unusable(text, cls, reason):
    assert isinstance(said := parse_as(text, cls), Unusable)
    assert said.reason == reason


def test_each_version_of_a_prompt_has_its_reply():
    assert [reply_of(MANAGING[role]) for role in ("trend", "reversion", "risk")] == [
        TrendPlan,
        ReversionPlan,
        Assessment,
    ]
    assert reply_of(PROMPTS["risk"]) is Review
    assert parse_as(review(risk_score=30), Review).risk_score == 30
    schema = object_schema(Assessment)["properties"]
    assert list(schema)[-1] == "recommendations"
    decided, _ = decide(question(), trend=trend(), risk=review(recommendations=["wait for the retest"]))
    assert "recommendations=('wait for the retest',)" in decided.decision.risk_assessment


def test_the_officer_gets_the_whole_table():
    portfolio = Portfolio(
        equity=10_000, cash=8_000, gross_pct=40, net_pct=-20, open_risk_pct=0.6, max_total_risk_pct=1.5,
        daily_pnl_pct=-0.5, realized_today_pct=-0.2, drawdown_today_pct=0.7, drawdown_pct=3, drawdown_30d_pct=11,
        drawdown_halt_pct=15, max_symbol_pct=100, correlations={"ETH/USDT:USDT": 0.83}, kelly_pct=4,
        positions=(PortfolioPosition(symbol="ETH/USDT:USDT", side="short"),),
    )  # fmt: skip
    memory = Memory(days=30, statistics=(Statistics(names=("llm:panel",), trades=20, win_rate=0.55, mean_r=0.21),))
    about = question(portfolio=portfolio, memory=memory)
    about = about.replace(role_inputs=about.role_inputs.replace(volatility_30d=2.94))
    _, cast = decide(about, trend=trend(), orderbook=vote().replace('"low"', '"high"'))
    told = cast.told("risk")
    for line in (
        "capital: 10000 available 8000",
        "positions: 1 exposure gross 40% net -20%",
        "today: pnl -.5% realized -.2% drawdown .7%",
        "drawdown: peak 3% month 11% halt 15%",
        "volatility of 30 days: 2.94% a day",
        "trend on 1h: strong (adx 30)",
        "correlation: ETH/USDT:USDT .83",
        "record: 20 trades, 55% won, .21R each",
        "kelly: 4% of capital at risk",
        "risk the analysts see: .333 (0 low to 1 high)",
        "this trade: size 20%, loss at its stop .7% of 0.75%",
        "all open risk: .6%, with it 1.3% of 1.5%",
        "largest position: 100% of capital",
    ):
        assert line in told.splitlines()


def test_what_a_trade_of_a_share_adds_to_the_risk_of_the_account_is_reckoned_on_the_account():
    entry = OpenLong(symbol=SYMBOL, size_pct=Decimal(20), stop_atr=Decimal(7), tp_atr=Decimal(16))
    share = Portfolio(equity=3_000, of_account=0.3, open_risk_pct=0.6, max_total_risk_pct=1.5)
    rows = risk_table(question(portfolio=share), entry, ()).splitlines()
    assert "this trade: size 20%, loss at its stop .7% of 0.75%" in rows
    assert "all open risk: .6%, with it .81% of 1.5%" in rows


def test_what_nobody_knows_of_the_account_says_so():
    entry = OpenLong(symbol=SYMBOL, size_pct=Decimal(20), stop_atr=Decimal(7), tp_atr=Decimal(16))
    rows = risk_table(question(last=None), entry, ()).splitlines()
    assert rows[:2] == ["capital: - available -", "positions: - exposure gross -% net -%"]
    assert "this trade: size 20%, loss at its stop -% of 0.75%" in rows
    assert variables_of_roles(question())["position"] == "flat"


@pytest.mark.parametrize("prompts", [PROMPTS, MANAGING], ids=["first", "newest"])
def test_both_versions_of_the_prompts_open_shrink_and_reject(prompts):
    def flat(**answers: str) -> Answer:
        return decide(question(), prompts=prompts, **{"trend": trend()} | answers)[0]

    assert flat().decision.size_pct == 20
    assert flat(risk=review(adjusted_size=5)).decision.size_pct == 5
    assert outcome(flat(risk=review(approved=False))) == ("HOLD", "primary", ("rejected",))
    assert outcome(flat(trend=trend(stop=99))) == ("HOLD", "primary", ("trend:stop", "no_proposal"))
    assert outcome(flat(trend=HANG, risk=HANG)) == ("HOLD", "hold", ("late:trend", "no_proposal"))
    assert outcome(flat(risk=HANG)) == ("HOLD", "hold", ("late:risk", "rejected"))


def test_no_prompt_that_manages_positions_holds_an_answer_that_could_trade():
    for role in ("trend", "reversion", "risk"):
        prompt = MANAGING[role]
        assert "{" not in prompt.system
        assert isinstance(parse_as(prompt.system, reply_of(prompt)), Unusable)
        assert not followups.parse(re.findall(r'"([^"]*)"', prompt.system))


@pytest.mark.parametrize(
    ("about", "prompts", "answers"),
    [
        (held(), PROMPTS, {}),
        (held(), MANAGING, {"trend": plan("trim", size_pct=20)}),
        (held(), PROMPTS | {"reversion": MANAGING["reversion"]}, {"reversion": plan("close")}),
        (held(hour=HOUR | {"ema_cross": -1}), MANAGING, {}),
        (question(), MANAGING, {"trend": trend()}),
        (question(), MANAGING, {"technical": vote("neutral")}),
    ],
)
def test_what_was_recorded_is_decided_again_whichever_versions_were_asked(about, prompts, answers):
    decided, _ = decide(about, prompts=prompts, **answers)
    replies = RecordedReplies(decided)
    sent = {role: _prompt(role, decided, load_prompt) for role in PROMPTS}
    again = asyncio.run(PanelDecider(replies, sent, Means(3600)).decide([about]))[0]
    assert again.replace(latency_ms=decided.latency_ms) == decided
    assert replies.calls == []


# --- whatever they say


SIGNALS = st.sampled_from(["none", "long", "short", "add", "trim", "close", "move_stop", "buy"])
PLANS = st.builds(
    lambda signal, stop, target, size: plan(signal, stop=stop, target=target, size_pct=size, trend_phase="MATURE"),
    SIGNALS, st.integers(0, 120), st.integers(0, 120), st.integers(0, 120),
)  # fmt: skip


@given(PLANS, PLANS, st.sampled_from(["bullish", "bearish", "neutral"]), st.booleans())
def test_with_a_position_risk_is_added_only_with_the_analysts_and_the_officer(one, other, signal, approved):
    answers = {"technical": vote(signal), "orderbook": vote(signal), "risk": review(approved=approved)}
    decided, cast = decide(trend=one, reversion=other, **answers)
    d = decided.decision
    assert d.action in ("HOLD", "ADD", "TRIM", "CLOSE_ALL", "MOVE_STOP")
    if isinstance(d, Add):
        assert (signal, approved, "risk" in cast.roles) == ("bullish", True, True)
    if isinstance(d, MoveStop):
        assert Decimal(96) < 98 + d.to.x * Decimal("0.5") < 100
