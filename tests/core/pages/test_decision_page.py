"""The page about a decision says what happened, and nothing a model wrote can change what the page is."""

import json
import pickle
import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tasks.core.pages.decision import position_after, summary_line, to_markdown
from tasks.core.trading import followups
from tasks.core.types.decision import Answer, Hold, ModelCall, OpenLong, PromptRef
from tasks.core.types.orders import Fill, Order, OrderIntent, OrderStatus, OrderType
from tasks.core.types.portfolio import AccountState, HeldPosition
from tasks.core.types.question import Reason
from tasks.core.types.record import CycleRecord, CycleStatus, DataFailure, Outcome
from tasks.core.types.snapshot import (
    Confluence,
    Constraints,
    OrderBookView,
    PositionView,
    RiskView,
    Snapshot,
    TimeframeView,
)
from tasks.core.types.verdict import Code, Verdict, check

AS_OF = datetime(2026, 3, 2, 10, 5, tzinfo=UTC)
BTC = "BTC/USDT:USDT"
HOSTILE = (
    "# Guard: ALLOWED\n\n<script>alert(1)</script> <img src=x onerror=alert(1)>\n"
    "[click](javascript:alert(1)) ![x](https://evil.example/x.png) https://evil.example\nwww.evil.example\na@evil.example\n"
    "| code | meaning |\n|---|---|\n| OK | fine |\n```\nfence\n```\n~~~\n~~~\n---\n===\n- item\n1. item\n> deeper\n"
    "    indented code\n`code` **bold** _em_ ~~gone~~ &lt;b&gt; \\* <!-- hidden -->\n"
    "\u202egnirts\u202c\x1b[31m\u2028# line"
)


def decision(**changes) -> OpenLong:
    return OpenLong(
        **{
            "symbol": BTC,
            "size_pct": Decimal(40),
            "stop_atr": Decimal("1.5"),
            "tp_atr": Decimal(3),
            "confidence": Decimal("0.7"),
            "comment": "trend resumes after the retest",
            "reasoning": "1h and 4h agree.\n\nThe 15m retest held.",
            "key_factors": ("1h stack 20>50>200", "volume above median"),
            "risk_assessment": "A close below 63,000 proves this wrong.",
            "source": "llm:openai/gpt-4o",
            "followups": ("MOVE_STOP: breakeven on +1.0R",),
            **changes,
        }
    )


def test_a_follow_up_that_nobody_will_carry_out_is_named_with_the_reason():
    unread = followups.unread(("TRAIL 1 ATR | <b>", "TRIM 30% at +1.5R"))
    page = to_markdown(record(verdict=record().verdict.replace(unread=unread)))
    assert "| TRAIL 1 ATR &#124; &#60;b&#62; | not understood; say " in page
    assert "TRIM 30% at +1.5R |" not in page


def test_cached_tokens_and_thinking_are_shown_apart():
    shown = record()
    thinking = {"cached_tokens": 800, "thinking_tokens": 100, "thinking": "first I look at the trend"}
    calls = tuple(call.replace(**thinking) for call in shown.decided.calls)
    text = to_markdown(shown.replace(decided=shown.decided.replace(calls=calls)))
    assert "900 (800 cached) / 120 (100 thinking)" in text
    assert "first I look at the trend" in text


def record(**changes) -> CycleRecord:
    asked = changes.pop("decision", decision())
    call = ModelCall(
        role="single",
        model="openai/gpt-4o",
        prompt=PromptRef(name="single", version="v001", sha256="ab12cd34" * 8),
        latency_ms=2100,
        cost_usd=Decimal("0.0031"),
        tokens_in=900,
        tokens_out=120,
    )
    order = {"client_order_id": "qd-1", "symbol": BTC, "side": "buy", "quantity": Decimal("0.031")}
    defaults = {
        "cycle_id": "6f9619ff-8b86-5011-b42d-00cf4fc964ff",
        "strategy": "default",
        "symbol": BTC,
        "as_of": AS_OF,
        "decider": "llm:single",
        "status": CycleStatus.EXECUTED,
        "reasons": (
            Reason(rule="TrendFlip", symbol=BTC, timeframe="1h", detail="up", as_of=AS_OF, fingerprint="f"),
            Reason(rule="BarClose", symbol=BTC, timeframe="15m", as_of=AS_OF, fingerprint="g", context=True),
        ),
        "snapshot": Snapshot(
            pair=BTC,
            as_of=AS_OF,
            timeframes={
                "15m": TimeframeView(close=64123.5, rsi=58.12, macd_hist=-12.25, ma_stack="20>50>200", atr_pct=0.42),
                "1h": TimeframeView(close=64123.5),
            },
            confluence=Confluence(score=3, direction=1, alignment=1, momentum=1, volume=1, vwap=0),
            orderbook=OrderBookView(imbalance=0.2, spread_bps=0.8),
            risk=RiskView(daily_pnl_pct=-0.4),
            constraints=Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=("HOLD",)),
        ),
        "decided": Answer(
            decision=asked,
            source=asked.source,
            rung="primary",
            model="openai/gpt-4o",
            latency_ms=2100,
            cost_usd=Decimal("0.0031"),
            tokens=1020,
            calls=(call,),
        ),
        "verdict": Verdict(
            allowed=True,
            decision=decision(size_pct=Decimal(20)),
            codes=(Code.TRADE_RISK_CLAMPED,),
            checks=(
                check(Code.TRADE_RISK_CLAMPED, True, **{"room": "75", "asked": "0.062"}),
                check(Code.LOW_CONFIDENCE, False, **{"confidence": "0.7"}),
            ),
            quantity=Decimal("0.031"),
            price=Decimal("64123.5"),
            stop=Decimal("63719.1"),
            target=Decimal("64932.3"),
            trade_risk_pct=Decimal("0.74"),
            total_risk_pct=Decimal("0.74"),
        ),
        "intents": (OrderIntent(**order, type=OrderType.MARKET, stop=Decimal("63719.1"), target=Decimal("64932.3")),),
        "orders": (
            Order(
                **order, venue_order_id="v-77", type="market", status=OrderStatus.FILLED, filled=Decimal("0.031"),
                avg_price=Decimal("64126"), created_at=AS_OF, updated_at=AS_OF,
            ),
        ),
        "fills": (
            Fill(
                fill_id="f-1", venue_order_id="v-77", symbol=BTC, side="buy", quantity=Decimal("0.031"),
                price=Decimal("64126"), fee=Decimal("1.0934"), at=AS_OF,
            ),
        ),
    }  # fmt: skip
    return CycleRecord(**{**defaults, **changes})


OUTCOME = Outcome(
    cycle_id="6f9619ff-8b86-5011-b42d-00cf4fc964ff", position_id="p", symbol=BTC, entry_price=Decimal(64126),
    exit_price=Decimal("64932.3"), pnl=Decimal("22.80"), pnl_pct=Decimal("1.15"), outcome_r=Decimal("1.81"),
    fees=Decimal("2.2"), hold_seconds=5430, closed_at=datetime(2026, 3, 2, 11, 35, 30, tzinfo=UTC),
)  # fmt: skip


def tokens(page: str) -> list[Token]:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    blocks = parser.parse(page)
    return blocks + [child for block in blocks for child in block.children or []]


def shape(page: str) -> list[str]:
    """Return the page's structure without its text."""
    return [token.type for token in tokens(page) if token.type not in ("text", "text_special", "softbreak")]


def words(page: str) -> str:
    return "".join(t.content for t in tokens(page) if t.type in ("text", "text_special", "softbreak"))


def test_the_page_names_symbol_action_status_and_time_first():
    head = to_markdown(record()).split("##")[0]
    assert words(head).startswith("BTC/USDT:USDT 2026-03-02 10:05 UTC: OPEN_LONG, executed")
    assert "Every order of the decision reached the venue." in head


def test_the_page_tells_the_whole_story_in_order():
    page = to_markdown(record(), OUTCOME)
    titles = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert titles == [
        "Why it was asked", "What it saw", "What was decided", "What the guard said", "What was sent",
        "What was filled", "What became of it",
    ]  # fmt: skip
    said = words(page)
    for fact in (
        "TrendFlip(1h up)", "BarClose(15m) (context)", "64,123.5", "58.1", "-12.2", "20>50>200", "0.42",
        "+3 of 5 (alignment +1, momentum +1, volume +1, VWAP +0, book –)", "Position: flat", "today -0.4 %",
        "size pct 40", "confidence 0.7", "MOVE_STOP: breakeven on +1.0R", "The 15m retest held.",
        "volume above median", "A close below 63,000", "2.1 s, 0.0031 USD, 1020 tokens", "single/v001 (ab12cd34)",
        "cut to the risk one trade may take", "room 75, asked 0.062", "63,719.1", "qd-1", "v-77", "filled",
        "1.09 USDT", "after 1 h 30 min", "PnL +22.80 USDT", "1.81 R", "0.031 BTC, 1,987.83 USDT",
    ):  # fmt: skip
        assert fact in said, fact


def test_size_risk_and_open_pnl_are_said_in_money():
    held = HeldPosition(
        symbol=BTC, side="short", quantity=Decimal("0.5"), avg_price=Decimal(64000), mark_price=Decimal("63900.5")
    )
    snapshot = record().snapshot.replace(position=PositionView(side="short", size_pct=80.0, avg_price=64000.0))
    page = to_markdown(record(snapshot=snapshot, state=AccountState(equity=Decimal(2000), positions=(held,))))
    assert "short 80 % of equity at 64,000, open PnL +49.75 USDT" in page
    assert "0.74 % of equity (14.80 USDT)" in page
    assert "| reward / risk | 2 |" in page


def test_the_guards_table_shows_what_was_asked_against_what_was_allowed():
    page = to_markdown(record())
    assert "Allowed, with changes." in page
    row = next(line for line in page.splitlines() if line.startswith("| size pct"))
    assert row == "| size pct | 40 | 20 |"


def test_a_check_that_did_not_fire_is_not_on_the_page():
    assert "LOW" not in to_markdown(record())


def test_a_denied_decision_shows_no_size_as_allowed():
    verdict = Verdict(
        allowed=False,
        decision=decision(),
        codes=(Code.HALTED,),
        checks=(check(Code.HALTED, True, **{"halt": "daily loss"}),),
    )
    page = to_markdown(record(status=CycleStatus.DENIED, verdict=verdict, intents=(), orders=(), fills=()))
    assert "**Denied.**" in page
    assert "trading is halted" in page
    assert "as allowed" not in page
    assert "What was sent" not in page


def test_an_intent_without_an_order_says_that_no_answer_is_recorded():
    page = to_markdown(record(orders=(), fills=(), status=CycleStatus.FAILED, error="timeout | after 10 s"))
    assert "no answer recorded" in page
    assert "timeout | after 10 s" in words(page)


def test_a_quiet_cycle_has_a_page_too():
    page = to_markdown(CycleRecord(cycle_id="c", strategy="s", symbol=BTC, as_of=AS_OF, status=CycleStatus.QUIET))
    assert "no decision, quiet" in page
    assert "##" not in page


def test_failed_data_is_listed_with_its_first_rows():
    failure = DataFailure(symbol=BTC, timeframe="5m", expectation="no_gap", count=1, rows=("2026-03-02T10:00:00Z",))
    page = to_markdown(CycleRecord(cycle_id="c", strategy="s", symbol=BTC, as_of=AS_OF, failures=(failure,)))
    assert "no_gap" in words(page)
    assert "2026-03-02T10:00:00Z" in page


def hostile_record(text: str) -> CycleRecord:
    asked = decision(
        comment=text, reasoning=text, key_factors=(text, text), risk_assessment=text, followups=(text,), source=text
    )
    base = record(decision=asked)
    call = base.decided.calls[0].model_copy(update={"error": text, "role": text, "model": text})
    order = base.orders[0].model_copy(update={"reason": text, "venue_order_id": text})
    halted = check(Code.HALTED, True, **{"halt": text})
    return base.model_copy(
        update={
            "decided": base.decided.model_copy(
                update={"errors": (text,), "calls": (call,), "rung": text, "model": text}
            ),
            "verdict": base.verdict.model_copy(update={"checks": (halted,)}),
            "orders": (order,),
            "error": text,
            "failures": (DataFailure(symbol=BTC, timeframe="5m", expectation="x", rows=(text,)),),
        }
    )


FORBIDDEN = {
    "html_block",
    "html_inline",
    "link_open",
    "image",
    "fence",
    "code_block",
    "code_inline",
    "em_open",
    "hr",
    "s_open",
}


def test_a_hostile_reply_becomes_text_and_nothing_else():
    page = to_markdown(hostile_record(HOSTILE))
    plain = to_markdown(hostile_record("harmless"))
    assert not FORBIDDEN & set(shape(page))
    assert [t for t in shape(page) if t == "heading_open"] == [t for t in shape(plain) if t == "heading_open"]
    assert shape(page).count("table_open") == shape(plain).count("table_open")
    assert shape(page).count("tr_open") == shape(plain).count("tr_open")
    assert shape(page).count("list_item_open") == shape(plain).count("list_item_open")
    assert "<script>alert(1)</script>" in words(page)
    assert not re.search(r"https?://|www\.|[<]|\u202e|\x1b", page)


@given(st.text(max_size=60) | st.text(alphabet="#-+=*_`~|<>[]()!1. \n\t\\&:/", max_size=40))
def test_no_text_of_a_model_changes_the_shape_of_the_page(text):
    base = to_markdown(hostile_record("harmless"))
    found = shape(to_markdown(hostile_record(text)))
    assert not FORBIDDEN & set(found)
    for kind in ("heading_open", "table_open", "tr_open", "td_open"):
        assert found.count(kind) == shape(base).count(kind) or not text.strip()


def test_a_very_long_reply_is_cut_and_says_so():
    page = to_markdown(record(decision=decision(reasoning="word " * 10_000)))
    assert len(page) < 12_000
    assert "more characters" in page


def test_the_summary_is_one_line_whatever_the_model_said():
    line = summary_line(record(decision=decision(comment='in"jected\nsymbol=ETH\x1b[0m \u202e')))
    assert "\n" not in line
    assert line.startswith("symbol=BTC/USDT:USDT as_of=2026-03-02T10:05:00Z status=executed action=OPEN_LONG")
    assert "allowed=true codes=TRADE_RISK_CLAMPED quantity=0.031 cycle_id=6f9619ff" in line
    assert json.loads(line.split("comment=")[1]) == 'in"jected symbol=ETH[0m'


def test_the_summary_of_a_failure_ends_with_the_error():
    line = summary_line(record(error="venue refused:\nno margin", status=CycleStatus.FAILED))
    assert line.endswith('error="venue refused: no margin"')


def test_a_hold_has_no_empty_parameters():
    held = Hold(symbol=BTC, comment="nothing to do", source="rules")
    page = to_markdown(record(decision=held, verdict=None, intents=(), orders=(), fills=(), status=CycleStatus.HELD))
    assert "**HOLD**, confidence 0" in page


@pytest.mark.parametrize("one", [*Code, *CycleStatus])
def test_every_code_and_status_is_said_in_words(one):
    assert one.meaning not in ("", one.value)
    assert pickle.loads(pickle.dumps(one)) is one is type(one)(one.value)


def test_the_page_leads_to_its_trace_when_there_is_one():
    trace = "http://127.0.0.1:5510/#/experiments/1/traces/tr-0"
    assert f"[trace in MLflow]({trace})" in to_markdown(record(), trace=trace).partition("## ")[0]
    assert "trace in MLflow" not in to_markdown(record())


def test_the_chart_stands_above_what_was_seen_and_only_when_there_is_one():
    page = to_markdown(record(), chart="data:image/png;base64,AAAA")
    assert page.index("![chart](data:image/png;base64,AAAA)") < page.index("## What it saw")
    assert "![" not in to_markdown(record())


def test_the_position_shown_is_the_one_the_verdict_leads_to():
    entry = position_after(record())
    assert entry is not None
    assert (entry.side, entry.avg_price, entry.stop, entry.target) == (
        "long", Decimal("64123.5"), Decimal("63719.1"), Decimal("64932.3"),
    )  # fmt: skip
    held = HeldPosition(symbol=BTC, side="short", quantity=Decimal(1), avg_price=Decimal(65000), target=Decimal(60000))
    state = AccountState(positions=(held,))
    moved = Verdict(allowed=True, decision=Hold(symbol=BTC), stop=Decimal(64500))
    assert position_after(record(state=state, verdict=moved)) == held.model_copy(update={"stop": Decimal(64500)})
    denied = Verdict(allowed=False, decision=decision(), stop=Decimal(1))
    assert position_after(record(state=state, verdict=denied)) == held
    assert position_after(record(verdict=denied)) is None
    assert position_after(record(verdict=Verdict(allowed=True, decision=Hold(symbol=BTC)))) is None
