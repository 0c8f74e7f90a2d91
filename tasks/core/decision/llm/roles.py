"""The panel's roles: what each may answer, what they are told, and the rules a proposal must keep.

Each strategist judges on its own timeframe: trend on 1h, reversion on 15m. What a role writes as text is kept for
people and never shown to another role: only its typed words and numbers are, so a headline that talks the sentiment
analyst into something moves one vote and nothing else.
"""

from collections.abc import Iterable, Mapping
from decimal import Context, Decimal
from math import ceil
from typing import Literal, NamedTuple

from pydantic import Field, StrictBool, ValidationError

from tasks.core.decision.actions import Unusable
from tasks.core.decision.decider import VARIABLES as SNAPSHOT_VARIABLES
from tasks.core.decision.decider import variables_of
from tasks.core.decision.plain_text import plain_text
from tasks.core.market.lean import cell
from tasks.core.market.snapshot import last_price
from tasks.core.types import (
    ZERO,
    Dto,
    Exact,
    News,
    OpenLong,
    OpenShort,
    PanelTerms,
    Question,
    RoleInput,
    Texts,
    TimeframeView,
    exact_sum,
)

VARIABLES = SNAPSHOT_VARIABLES | {"price", "indicators", "book", "news", "votes", "proposal"}
SLACK = Decimal("0.1")  # of a vote: a share of 0.67 is two of three
TREND_TF, REVERSION_TF = "1h", "15m"
ADX_LINE, RSI_LOW, RSI_HIGH = 25, 30, 70
INDICATORS = ("adx", "bb_upper", "bb_middle", "bb_lower", "bb_percent_b", "bb_width", "ema50", "ema200", "swing_low",
              "swing_high")  # fmt: skip
FLOW = ("vol_z20", "vol_spike", "obv_dir", "delta20", "range_ratio")
MAX_HEADLINES = 20
FENCE = ("<<<HEADLINES", "HEADLINES>>>")
_RATIO = Context(prec=6)  # six digits, and no price is too far to divide


class _Role(Dto):
    """What every role writes; the rest of its fields are typed, and are all that may travel on."""

    reasoning: str = Field("", description="for people, never parsed")
    key_factors: Texts = Field((), description="what weighed most, for people")

    def __str__(self) -> str:
        typed = self.model_dump(exclude={"reasoning", "key_factors"}, exclude_unset=True)
        return " ".join(f"{name}={value}" for name, value in typed.items())


class Analysis(_Role):
    signal: Literal["bullish", "bearish", "neutral"]
    risk_level: Literal["low", "medium", "high"] = "high"
    confidence: Exact = Field(ge=0, le=1)


class Proposal(_Role):
    """Prices are absolute, 0 where there is no signal."""

    signal: Literal["long", "short", "none"]
    target: Exact = Field(ZERO, ge=0, description="price")
    stop: Exact = Field(ZERO, ge=0, description="price")
    risk_reward: Exact = Field(ZERO, ge=0, description="your estimate; the code computes its own")
    size_pct: Exact = Field(ZERO, ge=0, le=100, description="notional, percent of equity")
    confidence: Exact = Field(ZERO, ge=0, le=1)


class TrendProposal(Proposal):
    trend_phase: str = Field("", description="early, middle or late")


class Review(_Role):
    """Without an adjusted size the proposal's stands."""

    warnings: Texts = ()
    risk_score: Exact = Field(Decimal(100), ge=0, le=100, description="0 harmless to 100 reckless")
    approved: StrictBool
    adjusted_size: Exact = Field(Decimal(100), ge=0, description="percent of equity, at most as proposed")
    confidence: Exact = Field(ZERO, ge=0, le=1)


ANALYSTS: dict[str, type[Analysis]] = dict.fromkeys(("technical", "orderbook", "sentiment"), Analysis)
STRATEGISTS: dict[str, type[Proposal]] = {"trend": TrendProposal, "reversion": Proposal}
OFFICER: dict[str, type[Review]] = {"risk": Review}
REPLIES: dict[str, type[Analysis | Proposal | Review]] = {**ANALYSTS, **STRATEGISTS, **OFFICER}


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


def checked_entry(role: str, p: Proposal, question: Question, way: int) -> OpenLong | OpenShort | Unusable:
    """Return the entry that `p` asks for, its distances in 15m ATR, or the rule it breaks."""
    last, atr = last_price(question.snapshot), _view(question, "15m").atr
    if last is None or not atr:
        return Unusable("unknown_numbers")
    if p.signal != ("long" if way > 0 else "short"):
        return Unusable("against_consensus")
    if p.stop <= 0 or p.target <= 0 or way * (last - p.stop) <= 0 or way * (p.target - last) <= 0:
        return Unusable("levels", f"stop {p.stop}, last {last}, target {p.target}")
    broken = _trend_rule(p, question, way) if role == "trend" else _reversion_rule(p, question, way, last)
    if broken:
        return Unusable(broken)
    stop_atr, tp_atr = (_RATIO.divide(abs(last - level), Decimal(repr(atr))) for level in (p.stop, p.target))
    try:
        return (OpenLong if way > 0 else OpenShort)(
            symbol=question.snapshot.pair, stop_atr=stop_atr, tp_atr=tp_atr,
            **p.model_dump(include={"size_pct", "confidence", "key_factors"}),
        )  # fmt: skip
    except ValidationError as e:
        return Unusable("out_of_range", str(e.errors()[0]["loc"][0]))


def _trend_rule(p: Proposal, question: Question, way: int) -> str:
    """With EMA50 against EMA200 and ADX above 25; the stop 2 to 3 % beyond the last swing."""
    hour = _inputs(question, TREND_TF)
    swing = hour.swing_low if way > 0 else hour.swing_high
    if hour.ema50 is None or hour.ema200 is None or hour.adx is None or not swing:
        return "unknown_numbers"
    if way * (hour.ema50 - hour.ema200) <= 0:
        return "ema"
    if hour.adx <= ADX_LINE:
        return "adx"
    beyond_pct = way * (1 - p.stop / Decimal(repr(swing))) * 100
    return "" if Decimal("1.995") <= beyond_pct <= Decimal("3.005") else "stop"  # prices are rounded


def _reversion_rule(p: Proposal, question: Question, way: int, last: Decimal) -> str:
    """Without a trend, RSI beyond 30/70 and the price outside its band; the target is the middle band."""
    quarter, rsi = _inputs(question, REVERSION_TF), _view(question, REVERSION_TF).rsi
    band = quarter.bb_lower if way > 0 else quarter.bb_upper
    if quarter.adx is None or quarter.bb_middle is None or band is None or rsi is None:
        return "unknown_numbers"
    if quarter.adx >= ADX_LINE:
        return "adx"
    if not (rsi < RSI_LOW if way > 0 else rsi > RSI_HIGH):
        return "rsi"
    if way * (Decimal(repr(band)) - last) <= 0:
        return "band"
    middle = Decimal(repr(quarter.bb_middle))
    return "" if abs(p.target - middle) <= abs(middle - last) / 20 else "target"


def expected_r(entry: OpenLong | OpenShort) -> Decimal:
    """Return the mean R if the confidence is the chance to win; a target beyond 3 R adds nothing."""
    return entry.confidence * (1 + min(entry.tp_atr / entry.stop_atr, Decimal(3))) - 1


# --- what the roles are told


def variables_of_roles(question: Question) -> dict[str, str]:
    """Return every variable a role's prompt may use; votes and proposal are filled in as the panel goes on."""
    indicators = [f"{tf} {_pairs(row, INDICATORS)}" for tf, row in question.role_inputs.timeframes.items()]
    flow = [f"{tf} {_pairs(_view(question, tf), FLOW)}" for tf in ("5m", "15m", "1h")]
    closes = " ".join(cell(close, 6) for close in question.role_inputs.recent_closes) or "-"
    volume = cell(question.role_inputs.volume_24h, 4)
    about = {
        "price": f"last={last_price(question.snapshot) or '-'} {_pairs(_view(question, '15m'), ('atr', 'rsi'))} (15m)",
        "indicators": "\n".join(indicators) or "none known",
        "book": "\n".join([f"{_pairs(question.snapshot.orderbook)} volume_24h={volume}", *flow, f"5m closes {closes}"]),
        "news": "unknown" if question.news is None else fenced(known_news(question)),
    }
    return variables_of(question) | about | {"votes": "none", "proposal": "none"}


def _pairs(view: Dto, names: Iterable[str] = ()) -> str:
    return " ".join(f"{name}={cell(getattr(view, name), 6)}" for name in names or type(view).model_fields)


def known_news(question: Question) -> News | None:
    """Return the news that was out at as_of, at most 20 headlines as plain text; None where nothing is left."""
    news, as_of = question.news or News(), question.snapshot.as_of
    out = (h for h in news.headlines if h.published_at is None or h.published_at <= as_of)
    plain = (h.replace(title=plain_text(h.title), source=plain_text(h.source, 40)) for h in out)
    kept = tuple(h for h in plain if h.title)[:MAX_HEADLINES]
    return news.replace(headlines=kept) if kept or news.fear_greed is not None else None


def fenced(news: News | None) -> str:
    """Write the news for a prompt: somebody else's words, one line each, between markers that no line can contain."""
    if news is None:
        return "no news"
    lines = [f"- {str(h.published_at or '?')[:16]} | {h.source} | {h.title}" for h in news.headlines]
    return "\n".join([f"fear_greed={cell(news.fear_greed)} (0 fear, 100 greed)", FENCE[0], *lines, FENCE[1]])


def _inputs(question: Question, timeframe: str) -> RoleInput:
    return question.role_inputs.timeframes.get(timeframe, RoleInput())


def _view(question: Question, timeframe: str) -> TimeframeView:
    return question.snapshot.timeframes.get(timeframe, TimeframeView())
