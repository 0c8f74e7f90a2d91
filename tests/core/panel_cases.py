"""One market in which both strategists may go long, and what each role of the panel would say about it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from tasks.adapters.files.prompts import list_prompts, load_prompt
from tasks.core.decision.llm.roles import REPLIES
from tasks.core.types.question import Question
from tasks.core.types.snapshot import (
    Constraints,
    Headline,
    News,
    PositionView,
    RoleInput,
    RoleInputs,
    Snapshot,
    TimeframeView,
)

SYMBOL = "BTC/USDT:USDT"
AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
NEWS = News(headlines=(Headline(title="Inflows return", source="a.example"),), fear_greed=40)
ALLOWED = ("HOLD", "OPEN_LONG", "OPEN_SHORT", "CLOSE_ALL")
PROMPTS = {role: load_prompt(role, "v001") for role in REPLIES}
MANAGING = {prompt.name: prompt for prompt in list_prompts() if prompt.name in REPLIES}  # the newest: it comes last
HOUR = {"adx": 30.0, "ema50": 99.0, "ema200": 97.0, "swing_low": 99.0, "swing_high": 101.0}
QUARTER = {"adx": 20.0, "bb_lower": 100.5, "bb_middle": 102.0, "bb_upper": 103.5}


def question(
    pair: str = SYMBOL,
    side: str = "flat",
    news: News | None = NEWS,
    hour: Mapping[str, float | None] = HOUR,
    quarter: Mapping[str, float | None] = QUARTER,
    rsi: float | None = 25.0,
    last: float | None = 100.0,
    atr: float | None = 0.5,
    allowed: tuple[str, ...] = ALLOWED,
    position: PositionView | None = None,
    **more: object,
) -> Question:
    views = {"5m": TimeframeView(close=last), "15m": TimeframeView(close=last, atr=atr, rsi=rsi), "1h": TimeframeView()}
    snapshot = Snapshot(
        pair=pair, as_of=AT, reason_for_call=("TrendFlip(1h up)",), timeframes=views,
        position=position or PositionView(side=side),
        constraints=Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=allowed),
    )  # fmt: skip
    inputs = RoleInputs(timeframes={"15m": RoleInput(**quarter), "1h": RoleInput(**hour)}, volume_24h=1234.5)
    return Question(snapshot=snapshot, role_inputs=inputs, news=news, **more)


def said(**fields: object) -> str:
    return json.dumps({"reasoning": "because", "key_factors": ["a", "b"], **fields})


def vote(signal: str = "bullish", confidence: float = 0.7) -> str:
    return said(signal=signal, risk_level="low", confidence=confidence)


def trend(**changed: object) -> str:
    plan = {"signal": "long", "target": 108, "stop": 96.5, "risk_reward": 2.3, "size_pct": 20, "confidence": 0.6}
    return said(**(plan | {"trend_phase": "ESTABLISHED"} | changed))


def reversion(**changed: object) -> str:
    plan = {"signal": "long", "target": 102, "stop": 99, "risk_reward": 2, "size_pct": 10, "confidence": 0.55}
    return said(**(plan | changed))


def review(**changed: object) -> str:
    answer = {"approved": True, "adjusted_size": None, "risk_score": 0.3, "warnings": ["thin"], "confidence": 0.8}
    return said(**(answer | changed))


NONE = said(signal="none", target=None, stop=None, risk_reward=None, size_pct=None, confidence=0.2)
ANSWERS = {
    "technical": vote(), "orderbook": vote(confidence=0.6), "sentiment": vote("neutral", 0.5),
    "trend": trend(), "reversion": NONE, "risk": review(),
}  # fmt: skip
