"""What a decider is handed about one symbol: the market's snapshot with our account's state in it."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal

from tasks.core.market import snapshot as snapshots
from tasks.core.market.snapshot import Market
from tasks.core.trading.checks import losing
from tasks.core.trading.guard import allowed_actions
from tasks.core.types.limits import Costs, Limits
from tasks.core.types.portfolio import AccountState, Position
from tasks.core.types.record import Reason
from tasks.core.types.snapshot import Constraints, OrderBookView, PositionView, Question, RiskView, TradeDigest


def make_question(
    market: Market,
    as_of: datetime,
    state: AccountState,
    limits: Limits,
    costs: Costs,
    symbols: tuple[str, ...] | None = None,
    *,
    reasons: Sequence[Reason] = (),
    position: Position | None = None,
    book: OrderBookView | None = None,
    digest: TradeDigest | None = None,
) -> Question:
    """Put together everything a decider may know about `market.symbol` at as_of."""
    risk = risk_view(state, limits, digest, as_of)
    offered = allowed_actions(
        state, market.symbol, limits, as_of, symbols=symbols, risk_mode=risk.risk_mode, costs=costs
    )
    snapshot = snapshots.build(
        market,
        as_of,
        reasons=reasons,
        book=book,
        position=position_view(position, state, market, as_of),
        risk=risk,
        constraints=Constraints(
            max_trade_risk_pct=float(limits.max_trade_risk_pct),
            max_total_risk_pct=float(limits.max_total_risk_pct),
            allowed_actions=offered,
        ),
        digest=digest,
    )
    return Question(
        snapshot=snapshot,
        role_inputs=snapshots.role_inputs(market, as_of),
        equity=float(state.equity),
        last_price=None if state.last_price is None else float(state.last_price),
        quantity=float(_signed(position)),
    )


def _signed(position: Position | None) -> Decimal:
    if position is None:
        return Decimal(0)
    return position.quantity if position.side == "long" else -position.quantity


def position_view(position: Position | None, state: AccountState, market: Market, as_of: datetime) -> PositionView:
    """Describe our position at the 5m close: size in percent of equity, distances in 15m ATR."""
    close, atr = market.value("5m", "close", as_of), market.value("15m", "atr", as_of)
    if position is None:
        return PositionView()
    price = None if close is None else Decimal(repr(close))
    notional = None if price is None else position.quantity * price
    r = None if price is None else position.unrealized_r(price)

    def distance(level: Decimal | None) -> float | None:
        return None if level is None or close is None or atr is None else abs(float(level) - close) / atr

    return PositionView(
        side=position.side,
        size_pct=None if notional is None or state.equity <= 0 else float(notional / state.equity * 100),
        avg_price=float(position.avg_price),
        unrealized_R=None if r is None else float(r),
        age_bars_5m=int((as_of - position.opened_at).total_seconds()) // 300,
        stop_atr=distance(position.stop),
        tp_atr=distance(position.target),
    )


def risk_view(state: AccountState, limits: Limits, digest: TradeDigest | None, as_of: datetime) -> RiskView:
    """Describe the day: PnL and drawdown since 00:00 UTC, and how careful the guard is."""
    start, peak = state.day_start_equity, state.day_peak_equity
    daily = None if not start else float((state.equity / start - 1) * 100)
    drawdown = None if not peak else float((1 - state.equity / max(peak, state.equity)) * 100)
    return RiskView(
        daily_pnl_pct=daily,
        max_drawdown_today_pct=drawdown,
        risk_mode=_risk_mode(state, limits, digest, as_of),
    )


def _risk_mode(
    state: AccountState, limits: Limits, digest: TradeDigest | None, as_of: datetime
) -> Literal["normal", "tighten", "pause"]:
    if state.halt or (state.paused_until is not None and state.paused_until > as_of):
        return "pause"
    score = None if digest is None else digest.recent_performance_score
    return "tighten" if losing(state, limits) or (score is not None and score < -0.5) else "normal"


def realized_today_pct(state: AccountState, as_of: datetime) -> float | None:
    """Return the day's realized PnL in percent of the equity at 00:00 UTC; None where that is unknown."""
    if not state.day_start_equity:
        return None
    midnight = as_of.replace(hour=0, minute=0, second=0, microsecond=0)
    pnl = sum((trade.pnl for trade in state.closed_trades if trade.closed_at > midnight), Decimal(0))
    return float(pnl / state.day_start_equity * 100)
