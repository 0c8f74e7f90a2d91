"""Our account as the guard sees it: venue balance and ledger positions in one state."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.connections import store
from tasks.core.trading import ledger
from tasks.core.types.orders import Balance, Instrument
from tasks.core.types.portfolio import AccountState, ClosedTrade, HeldPosition, PendingEntry, Position
from tasks.core.types.record import EquityPoint
from tasks.core.types.snapshot import TradeDigest
from tasks.settings import settings

RECENT = 50


@task(task_run_name="account-{instrument.symbol}", cache_policy=NO_CACHE)
def account_state(
    balance: Balance, instrument: Instrument, last_price: Decimal | None, as_of: datetime
) -> AccountState:
    """Put together what the guard judges against; the equity points give the day's start and the peaks."""
    kept, strategy = store(), settings().strategy
    midnight = as_of.replace(hour=0, minute=0, second=0, microsecond=0)
    today = kept.equity_since(strategy, midnight)
    last = kept.last_equity(strategy)
    halt = kept.active_halt()
    return AccountState(
        equity=balance.equity,
        available=balance.available,
        peak_equity=max(balance.equity, last.peak) if last else balance.equity,
        day_start_equity=today[0].equity if today else balance.equity,
        day_peak_equity=max([balance.equity, *(point.equity for point in today)]),
        positions=tuple(_held(position) for position in kept.open_positions(strategy)),
        pending=_pending_entries(),
        instrument=instrument,
        closed_trades=tuple(_closed(position) for position in kept.closed_positions(strategy, limit=RECENT)),
        opens=tuple(kept.recent_opens(strategy, as_of - timedelta(days=1))),
        paused_until=kept.paused_until(strategy, instrument.symbol),
        halt=halt.reason if halt else None,
        last_price=last_price,
    )


def _held(position: Position) -> HeldPosition:
    return HeldPosition(
        symbol=position.symbol, side=position.side, quantity=position.quantity, avg_price=position.avg_price,
        stop=position.stop, tp=position.target, initial_stop=position.initial_stop,
    )  # fmt: skip


def _closed(position: Position) -> ClosedTrade:
    outcome = ledger.outcome(position)
    return ClosedTrade(
        closed_at=outcome.closed_at, pnl=outcome.pnl, symbol=position.symbol, r_multiple=outcome.r_multiple
    )


def _pending_entries() -> tuple[PendingEntry, ...]:
    """Return working entries: intents on their way or resting; their risk counts toward the total."""
    waiting = store().open_intents(settings().strategy)
    return tuple(
        PendingEntry(
            symbol=intent.symbol, side="long" if intent.side == "buy" else "short",
            quantity=intent.quantity, price=intent.price, stop=intent.stop,
        )
        for _, intent, _ in waiting
        if not intent.reduce_only and intent.price is not None and intent.type in ("market", "limit")
    )  # fmt: skip


def daily_pnl_pct(as_of: datetime) -> float | None:
    """Return today's realized PnL in percent of the equity at 00:00 UTC; None before today's first equity point."""
    kept, strategy = store(), settings().strategy
    midnight = as_of.replace(hour=0, minute=0, second=0, microsecond=0)
    first = kept.first_equity_of_day(strategy, as_of)
    if first is None or first.equity <= 0:
        return None
    pnl = sum((_closed(p).pnl for p in kept.closed_positions(strategy, since=midnight)), Decimal(0))
    return float(pnl / first.equity * 100)


def trade_digest(symbol: str, as_of: datetime) -> TradeDigest:
    """Return what `symbol` has done for us, known at as_of."""
    outcomes = store().outcomes(settings().strategy, symbol, until=as_of, limit=200)
    return ledger.digest(outcomes, as_of, symbol)


@task(cache_policy=NO_CACHE)
def keep_equity(balance: Balance, as_of: datetime) -> EquityPoint:
    """Keep one point of the equity curve, with the running peak."""
    kept, strategy = store(), settings().strategy
    last = kept.last_equity(strategy)
    peak = max(balance.equity, last.peak) if last else balance.equity
    point = EquityPoint(at=as_of.astimezone(UTC), strategy=strategy, equity=balance.equity, peak=peak)
    kept.save_equity(point)
    return point
