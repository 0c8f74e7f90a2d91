"""Typed limits and thresholds with their defaults; the environment and quarterdeck.toml may change them."""

from decimal import Decimal

from pydantic import Field

from tasks.core.types.base import Dto, Exact


class Limits(Dto):
    """The hard limits of the guard. Percentages are of equity unless the name says otherwise."""

    max_trade_risk_pct: Exact = Field(default=Decimal("0.75"), gt=0, le=1)
    max_total_risk_pct: Exact = Field(default=Decimal("1.5"), gt=0, le=5)
    min_reward_risk: Exact = Field(default=Decimal("1.5"), ge=0)
    min_confidence: Exact = Field(default=Decimal("0.5"), ge=0, le=1)
    min_stop_atr: Exact = Field(default=Decimal("0.25"), gt=0, description="a closer stop is noise")
    max_positions: int = Field(default=5, ge=1)
    leverage: Exact = Field(default=Decimal(3), ge=1, le=20)
    max_gross_pct: Exact = Field(default=Decimal(100), gt=0)
    max_net_pct: Exact = Field(default=Decimal(100), gt=0)
    max_lateness_s: int = Field(default=390, ge=0, description="one 5m bar and 90 s")
    daily_loss_halt_pct: Exact = Field(default=Decimal(3), gt=0)
    drawdown_halt_pct: Exact = Field(default=Decimal(15), gt=0)
    opens_per_hour: int = Field(default=3, ge=0)
    opens_per_day: int = Field(default=12, ge=0)
    reentry_cooldown_min: int = Field(default=60, ge=0)
    max_slippage_bps: Exact = Field(default=Decimal(15), gt=0, description="against the decision price")
    limit_entry_minutes: int = Field(default=15, ge=1, description="an unfilled limit entry is cancelled after this")
    fallback_may_open: bool = False


class Costs(Dto):
    """What trading costs in the fill engine and in sizing, in basis points of notional."""

    taker_bps: Exact = Field(default=Decimal("5.5"), ge=0)
    maker_bps: Exact = Field(default=Decimal("2"), ge=0)
    half_spread_bps: Exact = Field(default=Decimal("0.5"), ge=0)
    impact_bps_per_million: Exact = Field(default=Decimal("5"), ge=0, description="bps per million quote of size")


class EventThresholds(Dto):
    """When a rule of `core.market.events` fires."""

    flip_confirm_bars: int = Field(default=3, ge=1)
    flip_vwap_std: float = 0.5
    confluence_delta: int = Field(default=2, ge=1)
    r_levels: tuple[float, ...] = (1.0, 2.0)
