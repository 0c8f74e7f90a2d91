"""What the model sees: the Snapshot contract. Floats with 6 significant digits; unknown is null, never 0."""

from decimal import Decimal
from typing import Literal

from pydantic import AliasChoices, Field

from tasks.core.types.base import Dto, Sparse, Texts, Utc
from tasks.core.types.money import known

Number = float | None


class Swing(Dto):
    """Distances to the last and previous swing in this timeframe's ATR; breaks and wicks of the last bar.

    A distance is level - close: positive = the level is above the price. Wicks are in % of the bar's range.
    """

    to_last_high_atr: Number = None
    to_last_low_atr: Number = None
    to_prev_high_atr: Number = None
    to_prev_low_atr: Number = None
    broke_high: bool | None = None
    broke_low: bool | None = None
    upper_wick_pct: Number = None
    lower_wick_pct: Number = None


class TimeframeView(Dto):
    """One timeframe at its last closed bar; definitions in `core.market.features`."""

    close: Number = None
    rsi: Number = None
    rsi_slope: Number = None
    macd_hist: Number = None
    macd_cross: int | None = None
    macd_slope: Number = None
    price_z20: Number = None
    vwap_z: Number = None
    atr: Number = None
    atr_pct: Number = None
    atr_pctile: Number = None
    range_ratio: Number = None
    ma_stack: str | None = None
    cloud_atr: Number = None
    vol_z20: Number = None
    obv_dir: int | None = None
    vol_spike: bool | None = None
    delta20: Number = None
    swing: Swing = Swing()
    last3: tuple[tuple[float, float, float, float, float], ...] = Field((), max_length=3)


UNKNOWN = TimeframeView()


class HtfAnchors(Dto):
    """Where the price is against higher-timeframe levels.

    dist_*: level - close in 15m ATR, positive = the level is above; *_z: close - level in 15m standard deviations,
    positive = the price is above.
    """

    dist_to_prev_day_high_atr: Number = None
    dist_to_prev_day_low_atr: Number = None
    dist_to_prev_week_high_atr: Number = None
    dist_to_prev_week_low_atr: Number = None
    daily_open_z: Number = None
    weekly_open_z: Number = None
    session_vwap_z: Number = None
    rolling_vwap_1d_z: Number = None


class OrderBookView(Dto):
    """Top-5 imbalance in [-1, 1], spread and estimated slippage for our size, in bps; `modelled` if not recorded."""

    imbalance: Number = None
    spread_bps: Number = None
    slippage_bps_for_size: Number = None


class PositionView(Dto):
    side: Literal["flat", "long", "short"] = "flat"
    size_pct: Number = 0.0
    avg_price: Number = None
    unrealized_R: Number = None
    age_bars_5m: int | None = None
    stop_atr: Number = None
    tp_atr: Number = None


class RiskView(Dto):
    daily_pnl_pct: Number = None
    max_drawdown_today_pct: Number = None
    risk_mode: Literal["normal", "tighten", "pause"] = "normal"


class Constraints(Dto):
    max_trade_risk_pct: float
    max_total_risk_pct: float
    allowed_actions: Texts


class Confluence(Dto):
    """Five votes of -1, 0 or +1: score = |sum|, direction = its sign; a part that is unknown is null and votes 0."""

    score: int = 0
    direction: int = 0
    alignment: int | None = None  # SMA50 against SMA200
    momentum: int | None = None  # RSI side of 50 with the MACD sign
    volume: int | None = None  # OBV direction
    vwap: int | None = None  # VWAP z
    book: int | None = None  # book imbalance

    @property
    def signed(self) -> int:
        return self.score * self.direction


class TradeDigest(Dto):
    """What an instrument has done for us so far (closed trades known at as_of)."""

    trade_count: int = 0
    realized_pnl: Number = None
    win_rate: Number = None
    avg_holding_ms: Number = None
    last_trade_ts: Utc | None = None
    avg_entry_price: Number = None
    max_drawdown: Number = None
    recent_performance_score: Number = None


class Snapshot(Dto):
    """Everything a decider may know about one symbol at `as_of`, the 5m close the cycle is about."""

    pair: str
    as_of: Utc
    reason_for_call: Texts = ()
    timeframes: dict[str, TimeframeView]
    htf_anchors: HtfAnchors = HtfAnchors()
    orderbook: OrderBookView = OrderBookView()
    position: PositionView = PositionView()
    risk: RiskView = RiskView()
    constraints: Constraints
    confluence: Confluence = Confluence()
    digest: TradeDigest = TradeDigest()

    def view(self, timeframe: str) -> TimeframeView:
        """Return one timeframe's view; where there is none, all of it is unknown."""
        return self.timeframes.get(timeframe, UNKNOWN)

    @property
    def last_price(self) -> Decimal | None:
        """Return the 5m close at as_of."""
        return known(self.view("5m").close)


class RoleInput(Dto):
    """One timeframe's extra numbers for roles that need more than the snapshot."""

    adx: Number = None
    bb_upper: Number = None
    bb_middle: Number = None
    bb_lower: Number = None
    bb_percent_b: Number = None
    bb_width: Number = None
    ema50: Number = None
    ema200: Number = None
    swing_low: Number = None
    swing_high: Number = None
    # 1h alone: bars since EMA50 and EMA200, SMA20 and SMA50, MACD and its signal crossed, the last one 1; below 0:
    # downwards; None: not lately. Records of before have none
    ema_cross: Sparse[Number] = None
    sma_cross: Sparse[Number] = None
    macd_cross: Sparse[Number] = None


class RoleInputs(Dto):
    """What `role_inputs` adds, outside the snapshot and its byte budget."""

    timeframes: dict[str, RoleInput] = {}
    volume_24h: Number = None
    recent_closes: tuple[float, ...] = ()
    volatility_30d: Sparse[Number] = None  # of daily returns, percent


class Headline(Dto):
    """One line of a feed: somebody else's words, hostile until fenced."""

    title: str
    source: str = ""
    published_at: Utc | None = None


class News(Dto):
    """What the world says, as fetched before the decision: headlines and a fear-and-greed index of 0-100."""

    headlines: tuple[Headline, ...] = ()
    fear_greed: int | None = Field(None, ge=0, le=100)


class Past(Dto):
    """One earlier decision with what became of it; `distance` in feature space of one that resembles this moment."""

    as_of: Utc
    action: str
    confidence: float
    reasons: Texts = ()
    status: str = ""  # how its cycle ended; "" in records of before
    codes: Texts = ()  # of the guard, where it refused
    price: Number = None  # the 5m close then
    thesis: str = ""
    unread: Sparse[Texts] = ()  # follow-ups that nobody will carry out
    outcome_r: Number = Field(None, validation_alias=AliasChoices("outcome_r", "r_multiple"))  # the latter of before
    distance: Number = None
    symbol: Sparse[str] = ""  # where those of several are together


class Statistics(Dto):
    """How trades did that were opened by a decider, or with a role's prompt version, and what asking cost."""

    names: Texts = ()  # a decider, and role/version: several with the same trades
    trades: int = 0
    win_rate: Number = None
    mean_confidence: Number = None  # of the decisions that opened them
    mean_r: Number = None
    best_r: Number = None
    worst_r: Number = None
    cost_usd: float = 0.0


class Memory(Dto):
    """What may be remembered at as_of: the last decisions, similar ones, and how the decider has done.

    days: of the statistics, whole ones before today's; 0 in records of before, which have the `decider_` fields.
    """

    recent: tuple[Past, ...] = ()
    similar: tuple[Past, ...] = ()
    days: int = 0
    statistics: tuple[Statistics, ...] = ()
    decider_trades: int = 0
    decider_win_rate: Number = None
    decider_mean_r: Number = None
