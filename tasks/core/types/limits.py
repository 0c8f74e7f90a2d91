"""Typed limits and thresholds with their defaults; the environment and quarterdeck.toml may change them."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from pydantic_settings import NoDecode

from tasks.core.types.base import ZERO, Described, Dto, Exact, NonNegative, Positive, Probability, Sparse, Texts

Count = Annotated[int, Field(ge=1)]
Share = Annotated[Exact, Field(ge=Decimal("0.6"), le=1)]  # of votes: no less, or one of two would be a consensus


def _listed(value: object) -> object:
    """Return the parts of a text of the environment, such as 1.0,2.0."""
    return tuple(value.strip("[ ]").split(",")) if isinstance(value, str) else value


class SymbolLimits(Described):
    """What one symbol may take where it is less than the general limits."""

    leverage: Exact | None = Field(None, ge=1)
    max_pct: Exact | None = Field(None, gt=0)
    """notional in percent of equity"""


class Limits(Described):
    """The hard limits of the guard. Percentages are of equity unless the name says otherwise."""

    # risk and size
    max_trade_risk_pct: Exact = Field(Decimal("0.75"), gt=0, le=1)
    max_total_risk_pct: Exact = Field(Decimal("1.5"), gt=0, le=5)
    leverage: Exact = Field(Decimal(3), ge=1, le=20)
    max_gross_pct: Positive = Decimal(100)
    max_net_pct: Positive = Decimal(100)
    max_symbol_pct: Positive = Decimal(100)
    per_symbol: dict[str, SymbolLimits] = {}
    max_positions: Count = 5
    max_correlation: float = Field(0.8, gt=0, le=1)
    """above it two positions are one risk"""
    target_atr_pct: Positive = Decimal(1)
    """15m ATR in % of price; above it sizes shrink"""
    kelly_fraction: Exact = Field(Decimal("0.25"), ge=Decimal("0.25"), le=Decimal("0.5"))
    kelly_min_outcomes: int = Field(30, ge=30)
    kelly_floor_pct: Positive = Decimal("0.1")
    """risk left to a decider without an edge"""
    # the entry itself
    min_reward_risk: NonNegative = Decimal("1.5")
    min_confidence: Probability = Decimal("0.5")
    size_by_confidence: Sparse[bool] = False
    """an entry's size is multiplied by its confidence"""
    min_stop_atr: Positive = Decimal("0.25")
    """a closer stop is noise"""
    max_stop_pct: Exact = Field(Decimal(20), gt=0, le=100)
    """of the entry price"""
    maintenance_margin_pct: Exact = Field(Decimal("0.5"), ge=0, le=5)
    """of notional, at the venue"""
    liquidation_buffer_pct: Exact = Field(Decimal(20), ge=0, le=90)
    """of the way to liquidation"""
    stack_min_r: NonNegative = Decimal(1)
    """what a position earns before it is stacked on"""
    chase_rsi: float = Field(75, ge=50, le=100)
    """15m, mirrored at 100 - x"""
    chase_z: NonNegativeFloat = 1.5
    """15m price_z20, mirrored at -x"""
    max_offset_spreads: NonNegative = Decimal(3)
    """of the book's, at least the modelled one"""
    max_slippage_bps: Positive = Decimal(15)
    """estimated, and against the decision price"""
    limit_entry_minutes: Count = 15
    """an unfilled limit entry is cancelled after this"""
    # when to stay out
    max_lateness_s: NonNegativeInt = 390
    """one 5m bar and 90 s"""
    daily_loss_halt_pct: Positive = Decimal(3)
    drawdown_halt_pct: Positive = Decimal(15)
    opens_per_hour: NonNegativeInt = 3
    opens_per_day: NonNegativeInt = 12
    reentry_cooldown_min: NonNegativeInt = 60
    cool_off: Literal["half", "pause"] = "half"
    cool_off_losses: Count = 2
    cool_off_min: NonNegativeInt = 60
    cool_off_confluence: int = Field(4, ge=0, le=6)
    """at which half is not halved; 6 is never"""
    max_rejections: Count = 3
    """entries the venue refused in a row"""
    rejection_window_min: Count = 60
    """older refusals are forgotten"""
    liquidation_cooldown_min: NonNegativeInt = 1440
    venues: Texts = ()
    """where entries may go; empty: wherever the profile trades"""
    fallback_may_open: bool = False

    def leverage_of(self, symbol: str) -> Decimal:
        """Return the leverage `symbol` is traded with, unless the instrument takes less."""
        own = self.per_symbol.get(symbol)
        return min(self.leverage, (own and own.leverage) or self.leverage)


class PanelTerms(Dto):
    """How far the analysts of `llm:panel` must agree, and how long each of its stages may take."""

    consensus: Share = Decimal("0.67")
    min_confidence: Probability = Decimal("0.5")
    stage_s: PositiveFloat = 10


class Costs(Described):
    """What trading costs in the fill engine and in sizing, in basis points of notional."""

    taker_bps: NonNegative = Decimal("5.5")
    maker_bps: NonNegative = Decimal("2")
    half_spread_bps: NonNegative = Decimal("0.5")
    impact_bps_per_million: NonNegative = Decimal("5")
    """bps per million quote of size"""
    participation_pct: Exact = Field(Decimal(10), gt=0, le=100)
    """most of a bar's volume that orders take"""


class ToolLimits(Dto):
    """What `llm:tools` may ask: the allowlists, and how much per decision."""

    symbols: Texts
    venue: str
    rounds: int = 3
    calls: int = 6
    response_bytes: int = 4000
    deadline_s: float = 60.0


class ToolRates(Dto):
    """How often a minute each tool of `llm:tools` and of the MCP server may run, in one process."""

    candles: NonNegativeInt = 60
    order_book: NonNegativeInt = 30
    trades: NonNegativeInt = 30
    funding: NonNegativeInt = 30
    position: NonNegativeInt = 60
    digest: NonNegativeInt = 60
    similar_decisions: NonNegativeInt = 60


_none = BeforeValidator(lambda value: None if value in ("none", "") else value)  # TOML and the environment lack null
UsdCap = Annotated[NonNegative | None, _none]
CallCap = Annotated[NonNegativeInt | None, _none]


class Budget(Described):
    """Caps on what models may cost and how often they are asked; None (in settings: "none") is unlimited.

    A day is a UTC day of the whole database for one purse, and so are the symbol's; a strategy of a table has its own.
    """

    session: str = ""
    """its name; empty: a strategy's UTC day is a session"""
    purse: str = ""
    """budgets of different purses never touch each other's days"""
    usd_per_day: UsdCap = Decimal(2)
    calls_per_day: CallCap = 100
    usd_per_session: UsdCap = None
    calls_per_session: CallCap = None
    usd_per_symbol_day: UsdCap = None
    calls_per_symbol_day: CallCap = None
    usd_per_decision: UsdCap = None
    calls_per_decision: CallCap = None
    usd_per_1k_tokens: UsdCap = None
    """assumed where a price is unknown; not set: 0.01, and nothing for models served on this machine"""


_LATER = {
    "hold_retest": True,
    "same_way_min": 0,
    "review_bars": 0,
}  # thresholds that older strategies lack, and what they mean there


class EventThresholds(Described):
    """When a rule of `core.market.events` fires; distances are in the timeframe's ATR(14)."""

    flip_confirm_bars: NonNegativeInt = 3
    """bars after the cross in which it may be confirmed"""
    flip_vwap_std: NonNegativeFloat = 0.5
    vol_high: float = Field(70, gt=0, lt=100)
    """percentile crossed upwards"""
    vol_low: float = Field(30, gt=0, lt=100)
    """percentile crossed downwards"""
    vol_hysteresis: NonNegativeFloat = 5
    """points back before it may fire again"""
    vol_z: float = 1.5
    """volume z that confirms the upward cross"""
    vol_agree: float = Field(10, ge=0, le=50)
    """points beyond 50 that the other percentile needs"""
    break_swings: PositiveFloat = 2
    """recent swing distances"""
    confluence_delta: Count = 2
    """move of the signed score since it last fired"""
    confluence_score: NonNegativeInt = 0
    """the least abs(score) it must move to, on that side; 0: any"""
    confluence_bars: Count = 6
    """bars on which it must hold there"""
    sweep_atr: PositiveFloat = 0.6
    sweep_vol_z: float = 1.8
    hold_atr: PositiveFloat = 0.3
    hold_bars: Count = 3
    hold_retest: bool = Field(False, exclude_if=bool)
    """only where the price comes back to the level"""
    run_vol_z: float = 3.0
    run_range: PositiveFloat = 2.0
    """median true ranges"""
    r_levels: Annotated[tuple[float, ...], NoDecode, BeforeValidator(_listed)] = (1.0, 2.0)
    drawdown_pct: PositiveFloat = 2.0
    """daily realized loss, then each further 1 %"""
    age_bars: Count = 96
    """5m bars open without reaching age_r"""
    age_r: PositiveFloat = 0.5
    same_way_min: Sparse[NonNegativeInt] = 60
    """minutes in which another market event the same way is no news"""

    review_bars: Sparse[NonNegativeInt] = 12
    """5m bars between reviews of an open position; 0: none"""

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, document: Any) -> Any:
        """Read a whole document that lacks what came later, as strategies of before have it: without its effects."""
        if isinstance(document, dict) and document.keys() >= cls.model_fields.keys() - _LATER.keys():
            return _LATER | document
        return document


class Promotion(Described):
    """What a prompt version must show before it becomes champion, and what a champion must keep to."""

    masked_loss_sharpe: NonNegativeFloat = 0
    """Sharpe ratio it may lack on masked candles"""
    shadow_days: Count = 90
    """older shadow decisions do not count"""
    min_shadows: int = Field(100, ge=2)
    """settled decisions beside the champion's"""
    min_edge_pct: Exact = ZERO
    """the interval of the mean difference per decision must lie above; % of equity"""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """of that interval"""
    max_invalid_rate: float = Field(0.05, ge=0, le=1)
    """decisions without a usable reply"""
    max_cost_usd: NonNegative = Decimal("0.05")
    """mean, per decision"""
    watched: Count = 20
    """last outcomes and decisions a champion is watched by"""
    min_mean_r: Exact = Decimal("-0.5")
    """of those outcomes; less rolls the champion back"""
