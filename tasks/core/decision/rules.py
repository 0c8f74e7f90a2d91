"""The `rules` decider: the deterministic baseline, and the rung below every model.

Flat: with the 1h trend (SMA50 against SMA200) when confluence agrees and price is not stretched; against a
stretched price when there is no trend (1h ADX < 25). In a position: out when confluence turns, or the 1h trend
flips against it. As a fallback rung the guard lets it only reduce risk.
"""

from decimal import Decimal

from pydantic import Field

from tasks.core.decision.decider import PlainDecider
from tasks.core.decision.kinds import KINDS
from tasks.core.types import CloseAll, Decision, Dto, Exact, OpenLong, OpenShort, Question, Snapshot, hold

SIZE_PCT, STOP_ATR, TP_ATR = Decimal(20), Decimal("1.5"), Decimal(3)
CONFIDENCE = Decimal("0.6")
BREAKEVEN = "MOVE_STOP: breakeven on +1.0R"


class Sizes(Dto):
    """How large an entry is and how far its stop and target are."""

    size_pct: Exact = Field(SIZE_PCT, gt=0, le=1000)
    stop_atr: Exact = Field(STOP_ATR, gt=0, le=20)
    tp_atr: Exact = Field(TP_ATR, gt=0, le=100)


class RulesDecider(PlainDecider):
    """The rules of the module's docstring; every unknown number means no."""

    name, kind = "rules", KINDS["rules"]

    def __init__(self, sizes: Sizes | None = None) -> None:
        self.sizes = sizes or Sizes()

    def choose(self, question: Question) -> Decision:
        snapshot = question.snapshot
        if snapshot.position.side != "flat":
            return _exit(question)
        for direction, action in ((1, "OPEN_LONG"), (-1, "OPEN_SHORT")):
            if action in snapshot.constraints.allowed_actions:
                why = _with_trend(snapshot, direction) or _reversion(question, direction)
                if why:
                    return entry(snapshot.pair, direction, why, self.sizes)
        return hold(snapshot.pair, "no rule applies", source="rules")


def _exit(question: Question) -> Decision:
    snapshot = question.snapshot
    direction = 1 if snapshot.position.side == "long" else -1
    flips = (reason for reason in question.reasons if (reason.rule, reason.timeframe) == ("TrendFlip", "1h"))
    if snapshot.confluence.signed * direction <= -2:
        why = f"confluence {snapshot.confluence.signed:+d} is against the {snapshot.position.side}"
    elif any(flip.way == -direction for flip in flips):
        why = f"the 1h trend flipped {'down' if direction > 0 else 'up'} against the {snapshot.position.side}"
    else:
        return hold(snapshot.pair, "the position stands", source="rules")
    return CloseAll(symbol=snapshot.pair, confidence=CONFIDENCE, comment=why, reasoning=why, source="rules")


def _with_trend(snapshot: Snapshot, direction: int) -> str:
    cloud, z = snapshot.timeframes["1h"].cloud_atr, snapshot.timeframes["15m"].price_z20
    if cloud is None or z is None:
        return ""
    if cloud * direction > 0 and snapshot.confluence.signed * direction >= 3 and z * direction <= 1.5:
        return f"1h trend {cloud:+.2f} ATR, confluence {snapshot.confluence.signed:+d}, 15m z {z:+.2f}"
    return ""


def _reversion(question: Question, direction: int) -> str:
    hour, quarter = (question.role_inputs.timeframes.get(tf) for tf in ("1h", "15m"))
    rsi = question.snapshot.timeframes["15m"].rsi
    if hour is None or quarter is None or hour.adx is None or quarter.bb_percent_b is None or rsi is None:
        return ""
    stretched = (rsi < 30 and quarter.bb_percent_b < 0) if direction > 0 else (rsi > 70 and quarter.bb_percent_b > 1)
    if hour.adx < 25 and stretched:
        return f"1h ADX {hour.adx:.1f}, 15m RSI {rsi:.1f} outside its Bollinger band"
    return ""


def entry(symbol: str, direction: int, why: str, sizes: Sizes) -> Decision:
    """Return a long (1) or a short (-1) as the rules enter."""
    return (OpenLong if direction > 0 else OpenShort)(
        symbol=symbol, **dict(sizes), followups=(BREAKEVEN,), confidence=CONFIDENCE, comment=why, reasoning=why,
        key_factors=tuple(part.strip() for part in why.split(",")), source="rules",
        risk_assessment=f"stop {sizes.stop_atr} ATR, target {sizes.tp_atr} ATR; a gap through the stop loses more",
    )  # fmt: skip
