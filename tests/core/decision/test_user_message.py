"""Every role's newest prompt: its user message stays within 6 KB whatever there is to tell, and holds all of it."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.adapters.files.prompts import list_prompts
from tasks.core.decision.decider import MAX_USER_BYTES, variables_of
from tasks.core.decision.kinds import KINDS, Means
from tasks.core.decision.llm.portfolio import portfolio_variables
from tasks.core.decision.llm.prompt import render
from tasks.core.decision.llm.role_texts import (
    OFFICER_READS,
    STRATEGISTS_READ,
    remembered,
    risk_table,
    variables_of_roles,
)
from tasks.core.decision.llm.roles import ANALYSTS, REPLIES, Analysis
from tasks.core.market import lean
from tasks.core.simulation.paid_replies import Probe
from tasks.core.types.decision import ACTIONS, OpenLong
from tasks.core.types.portfolio import ClosedTrade, Portfolio, PortfolioPosition, Refusal
from tasks.core.types.question import Question
from tasks.core.types.snapshot import (
    Confluence,
    Constraints,
    Headline,
    HtfAnchors,
    Memory,
    News,
    OrderBookView,
    Past,
    PositionView,
    RiskView,
    RoleInput,
    RoleInputs,
    Snapshot,
    Statistics,
    Swing,
    TimeframeView,
    TradeDigest,
)

AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
NEWEST = ROLES = ("single", "decision", "portfolio", *REPLIES)
PROMPTS = {prompt.name: prompt for prompt in list_prompts()}  # the newest of each role: it comes last


def full(model: type, x: float, **rest: object) -> object:
    return model(**dict.fromkeys(model.model_fields, x) | rest)


def question(x: float, pair: str = "1000000BABYDOGE/USDT:USDT", words: str = "because of it " * 20) -> Question:
    """A question with everything known, in numbers as long as `x`, and all there may be of it."""
    view = full(
        TimeframeView, x, macd_cross=-1, obv_dir=-1, vol_spike=False, ma_stack="200>50>20",
        swing=full(Swing, x, broke_high=False, broke_low=False), last3=((x,) * 5,) * 3,
    )  # fmt: skip
    snapshot = Snapshot(
        pair=pair, as_of=AT, reason_for_call=("x" * 477,),
        timeframes=dict.fromkeys(("1m", "5m", "15m", "1h", "4h", "1d"), view), htf_anchors=full(HtfAnchors, x),
        orderbook=full(OrderBookView, x), position=full(PositionView, x, side="short", age_bars_5m=10**6),
        risk=full(RiskView, x, risk_mode="tighten"),
        constraints=Constraints(max_trade_risk_pct=0.123456, max_total_risk_pct=1.23456, allowed_actions=ACTIONS),
        confluence=Confluence(score=5, direction=-1, alignment=-1, momentum=-1, volume=-1, vwap=-1, book=-1),
        digest=full(TradeDigest, x, trade_count=10**6, last_trade_ts=AT),
    )  # fmt: skip
    held = full(PortfolioPosition, x, symbol=pair, side="short", age_bars_5m=10**6, thesis=words[:100],
                followups=("MOVE_STOP: breakeven on +1.0R",) * 4, unread=("x" * 40,) * 4)  # fmt: skip
    refusals = (Refusal(as_of=AT, symbol=pair, action="OPEN_SHORT", codes=("REWARD_RISK_TOO_LOW",) * 6),) * 5
    past = Past(
        as_of=AT, action="CLOSE_PARTIAL", confidence=0.66, reasons=("VolRegime(15m up)",), status="denied",
        codes=("REWARD_RISK_TOO_LOW",), price=x, thesis=words[:100], unread=("x" * 40,), outcome_r=x, distance=x,
    )  # fmt: skip
    done = full(Statistics, x, names=("llm:single", "single/v002"), trades=10**6)
    return Question(
        snapshot=snapshot,
        portfolio=full(
            Portfolio, x, positions=(held,) * 5, pending=(held,) * 5, refusals=refusals, correlations={pair: x},
            by_hand=(ClosedTrade(closed_at=AT, pnl=Decimal("-1234.56"), symbol=pair, by_hand=True),) * 5,
        ),
        memory=Memory(
            days=30, recent=tuple(past.replace(as_of=AT - timedelta(hours=n)) for n in range(10)), similar=(past,) * 5,
            statistics=(done,) * 3,
        ),
        role_inputs=RoleInputs(
            timeframes=dict.fromkeys(("15m", "1h"), full(RoleInput, x, ema_cross=None)), volume_24h=x,
            recent_closes=(x,) * 10,
        ),
        news=News(headlines=(Headline(title="h" * 160, source="s" * 40, published_at=AT),) * 20, fear_greed=50),
        equity=x, last_price=x, quantity=x,
    )  # fmt: skip


def user(role: str, asked: Question, *more: Question) -> str:
    """Return the user message of a role's newest prompt; of a decision on tools without their answers."""
    prompt = PROMPTS[role]
    if role == "portfolio":
        told = portfolio_variables([asked, *more])
    else:
        told = variables_of_roles(asked) | {"state": "s" * 300, "answers": ""}
    return render(prompt, told)[1]["content"]


@pytest.mark.parametrize("role", ROLES)
@given(x=st.floats(-1e99, 1e99), words=st.text(min_size=100, max_size=100))
def test_no_user_message_takes_more_than_6_kb(role, x, words):
    assert len(user(role, question(x, words=words)).encode()) <= MAX_USER_BYTES == 6144


@given(x=st.floats(-1e99, 1e99))
def test_with_votes_a_proposal_and_its_table_messages_stay_within_6_kb(x):
    asked = question(x)
    vote = Analysis(signal="bullish", risk_level="medium", confidence=Decimal("0.123456"))
    told = variables_of_roles(asked)
    told["votes"] = "\n".join(["consensus bullish 0.65", *(f"{role} {vote}" for role in ANALYSTS)])
    sizes = dict.fromkeys(("size_pct", "stop_atr", "tp_atr"), Decimal("12.3456"))
    entry = OpenLong(symbol=asked.snapshot.pair, confidence=Decimal("0.123456"), **sizes)
    told |= remembered(asked, told, *STRATEGISTS_READ)
    for role in ("trend", "reversion"):
        assert len(render(PROMPTS[role], told)[1]["content"].encode()) <= MAX_USER_BYTES
    told |= {"proposal": "p" * 200, "risk_table": risk_table(asked, entry, [vote])}
    told |= remembered(asked, told, *OFFICER_READS)
    assert len(render(PROMPTS["risk"], told)[1]["content"].encode()) <= MAX_USER_BYTES


@pytest.mark.parametrize("asked", [1, 2, 3, 8])
@pytest.mark.parametrize("others", [0, 3, 20])
def test_a_portfolio_of_several_stays_within_6_kb_and_names_every_symbol_it_asks_about(asked, others):
    x = -0.000123457 if asked > 1 else 0.5
    first, *rest = [question(x, f"C{n}/USDT:USDT") for n in range(asked)]
    shown = tuple(question(x, f"D{n}/USDT:USDT") for n in range(others))
    text = user("portfolio", first.replace(others=shown), *rest)
    for each in (first, *rest):
        assert text.count(f"### {each.snapshot.pair}") == 1
    if asked == 1 and others <= 3:
        assert lean.encode(first.snapshot) in text
        assert all(each.snapshot.pair in text for each in shown)
    more = re.search(r"and (\d+) more\n", text.partition("The other symbols")[2])
    told = text.partition("The other symbols")[2].count("/USDT:USDT ")
    assert told + (int(more[1]) if more else 0) >= others or "none" in text.partition("The other symbols")[2]
    assert len(text.encode()) <= MAX_USER_BYTES


@pytest.mark.parametrize("role", NEWEST)
def test_a_new_prompt_holds_no_answer_that_could_be_copied(role):
    """A model of 135M parameters sent an example back word by word, and it was a trade."""
    prompt = PROMPTS[role]
    assert prompt.version > "v001"
    assert not re.search(r'[{}]|"(action|signal|decisions|size_pct)"', prompt.system)


@pytest.mark.parametrize("role", ["single", "decision"])
def test_a_decider_of_one_symbol_reads_the_account_its_record_and_the_grammar_of_follow_ups(role):
    asked = question(0.5)
    told, prompt = variables_of(asked), PROMPTS[role]
    text = user(role, asked)
    assert told["portfolio"] in text
    assert told["memory"] in text
    for form in ("MOVE_STOP: breakeven on +1.0R", "TRIM 30% at +1.5R", "TRAIL 2.0 ATR from +1.0R",
                 "CLOSE after 96 bars below +0.5R", "scope: symbol or account"):  # fmt: skip
        assert form in prompt.system.replace("\n  ", " ")
    if role == "single":
        assert told["market"] in text


@pytest.mark.parametrize("kind", ["llm:single", "llm:portfolio", "llm:panel"])
def test_what_a_decider_really_sends_is_that_message(kind):
    probe = Probe()
    prompts = {role: PROMPTS[role] for role in KINDS[kind].roles}
    decider = KINDS[kind].make(probe, prompts, Means())
    asyncio.run(decider.decide([question(1.5)]))
    assert probe.asked
    for request in probe.asked:
        assert len(request.messages[-1]["content"].encode()) <= MAX_USER_BYTES
        assert json.dumps(request.messages)
