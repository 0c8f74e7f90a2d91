"""What a decider is handed about one symbol: the market's snapshot with our account's state in it."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from tasks.core.decision.memory import Remembered
from tasks.core.market import orderbook
from tasks.core.market import snapshot as snapshots
from tasks.core.market.market import Market
from tasks.core.trading.guard.cases import losing
from tasks.core.trading.guard.guard import allowed_actions
from tasks.core.trading.portfolio import portfolio
from tasks.core.types import (
    AccountState,
    Constraints,
    Ledger,
    Limits,
    Memory,
    News,
    OrderBookView,
    Other,
    Position,
    PositionView,
    Question,
    Reason,
    RiskView,
    RoleInputs,
    Strategy,
    TradeDigest,
    direction,
    known,
    r_at,
)

TOLD_CROSSES = 5  # the first rules of a strategy by which roles are told crossovers and the month's volatility
BESIDE = 20  # symbols without a reason that a decider of all is shown
ASKS_ACCOUNT = 5  # the first rules of a strategy by which a day's loss is one question, about the account
BOOK_SHARE = 500  # of equity x max_gross_pct: the order whose slippage is looked up before any is decided on


def question(
    strategy: Strategy,
    market: Market,
    account: AccountState,
    book: OrderBookView | None,
    news: News | None,
    memory: Memory | Remembered | None,
    reasons: Sequence[Reason],
    as_of: datetime,
    *,
    position: Position | None = None,
    digest: TradeDigest | None = None,
    ledger: Ledger | None = None,
) -> Question:
    """Put together everything a decider may know about `market.symbol` at as_of: the only one who does.

    book: None where none was recorded: a modelled one takes its place. news, memory: None is unknown, and told as
    such; `Remembered` is what may be remembered, of which the question takes what resembles this moment. ledger: None
    in records of before, whose portfolio is unknown.
    """
    limits = strategy.limits
    risk = risk_view(account, limits, digest, as_of)
    if book is None:
        atr_pct = market.value("15m", "atr_pct", as_of)
        book = orderbook.modelled(atr_pct, float(order_size(strategy, account.capital)))
    snapshot = snapshots.build(
        market,
        as_of,
        reasons=reasons,
        book=book,
        position=position_view(position, account, market, as_of),
        risk=risk,
        constraints=constraints(strategy, account, market.symbol, as_of, risk.risk_mode, reasons),
        digest=digest,
    )
    return Question.trusted(
        snapshot=snapshot,
        reasons=tuple(reasons),
        role_inputs=_roles(market.moment(as_of).roles, strategy),
        news=news,
        memory=memory.at(snapshot) if isinstance(memory, Remembered) else memory,
        portfolio=None if ledger is None else portfolio(account, risk, ledger, strategy, as_of),
        equity=float(account.capital),
        last_price=None if account.last_price is None else float(account.last_price),
        quantity=0.0 if position is None else float(direction(position.side) * position.quantity),
        masked=strategy.told.masked,
    )


def _roles(inputs: RoleInputs, strategy: Strategy) -> RoleInputs:
    """Return what roles are told; nothing that came later than the strategy's rules."""
    if strategy.rules >= TOLD_CROSSES:
        return inputs
    crosses = dict.fromkeys(("ema_cross", "sma_cross", "macd_cross"))
    rows = {tf: row.replace(**crosses) for tf, row in inputs.timeframes.items()}
    return inputs.replace(timeframes=rows, volatility_30d=None)


def others_of(held: Iterable[tuple[str, Position | None, TradeDigest]]) -> tuple[Other, ...]:
    """Choose which of the symbols that nothing is asked about are shown: those that are held, then in their order."""
    others = (Other.trusted(symbol=symbol, position=position, digest=digest) for symbol, position, digest in held)
    return tuple(sorted(others, key=lambda each: each.position is None)[:BESIDE])


def beside(
    strategy: Strategy, markets: Mapping[str, Market], account: AccountState, others: Sequence[Other], as_of: datetime
) -> tuple[Question, ...]:
    """Put together what a decider is shown of symbols that it is not asked about: `Question.others`."""
    return tuple(
        question(
            strategy, markets[each.symbol], _elsewhere(strategy, markets[each.symbol], account, as_of), None, None,
            None, (), as_of, position=each.position, digest=each.digest,
        )
        for each in others
    )  # fmt: skip


def _elsewhere(strategy: Strategy, market: Market, account: AccountState, as_of: datetime) -> AccountState:
    """Return the account as it stands to another symbol, as far as one is shown that."""
    last, instrument = known(market.value("5m", "close", as_of)), strategy.instruments.get(market.symbol)
    return account.replace(instrument=instrument, last_price=last)


def order_size(strategy: Strategy, equity: Decimal) -> Decimal:
    """Return the notional, in quote, whose slippage a decider is told."""
    return equity * strategy.limits.max_gross_pct / BOOK_SHARE


def constraints(
    strategy: Strategy, account: AccountState, symbol: str, as_of: datetime, risk_mode: str, reasons: Sequence[Reason]
) -> Constraints:
    """Return what the account leaves room for, as the model is told."""
    limits, of_account = strategy.limits, any(reason.is_about_account for reason in reasons)
    return Constraints.trusted(
        max_trade_risk_pct=float(limits.max_trade_risk_pct),
        max_total_risk_pct=float(limits.max_total_risk_pct),
        allowed_actions=allowed_actions(
            account, symbol, strategy, as_of, risk_mode, of_account and strategy.rules >= ASKS_ACCOUNT
        ),
    )


def position_view(position: Position | None, state: AccountState, market: Market, as_of: datetime) -> PositionView:
    """Describe our position at the 5m close: size in percent of the strategy's capital, distances in 15m ATR."""
    if position is None:
        return PositionView()
    close, atr = market.value("5m", "close", as_of), market.value("15m", "atr", as_of)
    price = known(close)
    notional = None if price is None else position.quantity * price
    r = None if price is None else r_at(position, price)

    def distance(level: Decimal | None) -> float | None:
        return None if level is None or close is None or atr is None else abs(float(level) - close) / atr

    return PositionView.trusted(
        side=position.side,
        size_pct=None if notional is None or state.capital <= 0 else float(notional / state.capital * 100),
        avg_price=float(position.avg_price),
        unrealized_R=None if r is None else float(r),
        age_bars_5m=int((as_of - position.opened_at).total_seconds()) // 300,
        stop_atr=distance(position.stop),
        tp_atr=distance(position.target),
    )


def risk_view(state: AccountState, limits: Limits, digest: TradeDigest | None, as_of: datetime) -> RiskView:
    """Describe the day: PnL and drawdown since 00:00 UTC, and how careful the guard is."""
    start, peak = state.day_start_equity, state.day_peak_equity
    daily = None if not start else float((state.worth / start - 1) * 100)
    drawdown = None if not peak else float((1 - state.worth / max(peak, state.worth)) * 100)
    score = None if digest is None else digest.recent_performance_score
    mode = "normal"
    if state.halt or (state.paused_until is not None and state.paused_until > as_of):
        mode = "pause"
    elif losing(state, limits) or (score is not None and score < -0.5):
        mode = "tighten"
    return RiskView.trusted(daily_pnl_pct=daily, max_drawdown_today_pct=drawdown, risk_mode=mode)
