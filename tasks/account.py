"""Our account as the guard sees it: venue balance and ledger positions in one state."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

import numpy as np

from tasks import strategies
from tasks.connections import store, venue
from tasks.core.market.bars import epoch_s
from tasks.core.market.market import Market
from tasks.core.market.position_events import STEP, Closes, since_opened
from tasks.core.trading import followups, ledger
from tasks.core.trading.guard import track_record
from tasks.core.trading.portfolio import MONTH, max_drawdown_pct, opening
from tasks.core.trading.question import others_of
from tasks.core.trading.reconcile import foreign
from tasks.core.types import (
    ACCOUNT,
    HUNDRED,
    ZERO,
    AccountState,
    Balance,
    EquityPoint,
    Ledger,
    OrderStatus,
    Other,
    PendingEntry,
    Position,
    Strategy,
    TradeDigest,
    VenuePosition,
    day_start,
    direction,
    duration,
    exact,
    exact_sum,
    floor_time,
)
from tasks.halts import active_halt
from tasks.ledger import view
from tasks.settings import Settings, settings
from tasks.stage import stage

RECENT = 50
ATR_BARS = 300  # by then Wilder's average has forgotten where it began, to the ninth digit


@stage(task_run_name="account-{symbol}")
def account_state(
    strategy: Strategy, symbol: str, balance: Balance, at_venue: Sequence[VenuePosition], last_price: Decimal | None,
    as_of: datetime,
) -> AccountState:  # fmt: skip
    """Put together what the guard judges against; the equity points give the day's start and the peaks.

    The outcomes of the strategy's decider count for its size.
    """
    kept, name, limits = store(), strategy.name, strategy.limits
    every, is_shared = [each.strategy for each in strategies.at_work()], bool(settings.account.strategies)
    worth, share, outside = _worth(name, balance.equity, as_of), settings().capital_pct, not_at_stake(settings())
    today = kept.equity.since(name, day_start(as_of))
    last = kept.equity.last(name)
    halt = active_halt()
    held = [position for each in every for position in kept.positions.open(each)]
    positions = tuple(p.marked(last_close(p.symbol, as_of)) for p in held)
    pending = tuple(entry for each in every for entry in _pending_entries(each, as_of))
    entries = kept.intents.recent_entries(name, as_of - timedelta(days=1))
    compared = sorted({symbol, *(p.symbol for p in (*positions, *pending))})
    midnight, where = day_start(as_of), venue().name
    closes = {each: kept.candles.load(where, each, "5m", midnight, track_record.BARS)["close"] for each in compared}
    outcomes = kept.outcomes.newest(name, until=as_of, limit=track_record.KEPT, decider=strategy.decider)
    sent = [(own.persisted_at, own.order_status == OrderStatus.REJECTED) for own in entries if own.order_status]
    fills = kept.fills.since(as_of - timedelta(minutes=limits.liquidation_cooldown_min))
    day = kept.positions.closed(name, since=as_of - timedelta(days=1), limit=None)  # all: what they lost is added up
    lately = max(day, kept.positions.closed(name, limit=RECENT), key=len)
    decided_at = kept.cycles.decided_at(name, symbol, as_of)
    return AccountState.of(
        balance,
        peak_equity=(max(worth, last.peak) if last else worth) - outside,
        day_start_equity=(today[0].equity if today else worth) - outside,
        day_peak_equity=max([worth, *(point.equity for point in today)]) - outside,
        positions=positions,
        pending=pending,
        instrument=strategy.instruments[symbol],
        closed_trades=track_record.recent_trades([*map(ledger.outcome, lately)], as_of, limits, decided_at),
        opens=tuple(own.persisted_at for own in entries),
        paused_until=kept.pauses.until(name, symbol),
        reduced_until=until if (until := kept.pauses.reduced_until(name)) and until > as_of else None,
        halt=halt.reason if halt else None,
        last_price=last_price,
        last_price_at=None if last_price is None else as_of,
        venue=where,
        foreign=foreign(view(symbol), at_venue, symbol),
        correlations=track_record.correlations(symbol, closes, as_of),
        kelly=track_record.kelly(outcomes, limits.kelly_min_outcomes),
        rejections=track_record.rejections(sent, as_of - timedelta(minutes=limits.rejection_window_min)),
        last_liquidation=max((fill.at for fill in fills if fill.reason == "liquidation"), default=None),
        own_equity=worth - outside if is_shared or share else None,
        least_equity=_least(as_of) if is_shared else None,
        own_capital=balance.equity * share / HUNDRED if share else None,
    )


def _worth(strategy: str, equity: Decimal, as_of: datetime) -> Decimal:
    """Return what the account would be worth by one strategy's trades alone; all of it where there is one.

    One of a table began with all there was; the top level's has whatever is no other's.
    """
    if strategy == settings.account.strategy:
        return equity - exact_sum(_earned(other, as_of) for other in settings.account.strategies)
    first = store().equity.oldest(strategy)
    return first.equity + _earned(strategy, as_of) if first else equity


def not_at_stake(s: Settings) -> Decimal:
    """Return what of a strategy's curve, which begins with all of the account, is outside its share, in quote.

    It is fixed by the curve's first point: what others make later is no loss or gain of this one's.
    """
    first = store().equity.oldest(s.strategy)
    return first.equity * (1 - s.capital_pct / HUNDRED) if first and s.capital_pct else ZERO


def _earned(strategy: str, as_of: datetime) -> Decimal:
    """Return what a strategy has ever made, open positions valued at the newest stored close."""
    kept, made = store(), store().positions.earned(strategy)
    for p in kept.positions.open(strategy):
        bars = kept.candles.load(venue().name, p.symbol, "5m", as_of, 1)
        price = p.avg_price if bars.empty else exact(float(bars["close"].iloc[-1]))
        made += direction(p.side) * (price - p.avg_price) * p.quantity
    return made


def _least(as_of: datetime) -> Decimal | None:
    """Return what the account may fall to today; None before the day's first point."""
    today = store().equity.since(ACCOUNT, day_start(as_of))
    return today[0].equity * (1 - settings.account.limits.daily_loss_halt_pct / HUNDRED) if today else None


def last_close(symbol: str, as_of: datetime) -> Decimal | None:
    """Return the 5m close at as_of; None if that bar is not stored: an older price is not the price."""
    bars = store().candles.load(venue().name, symbol, "5m", as_of, 1)
    due = floor_time(as_of, "5m") - duration("5m")
    if bars.empty or bars.index[-1].to_pydatetime() != due:
        return None
    return exact(float(bars["close"].iloc[-1]))


def look(position: Position, as_of: datetime) -> followups.Look | None:
    """Return what the follow-ups of a position go by at the 5m close as_of; None before the first, or if not stored."""
    load, symbol = partial(store().candles.load, venue().name, position.symbol), position.symbol
    bars = load("5m", as_of, max(1, (as_of - position.opened_at) // duration("5m") + 1))
    closes = since_opened(position, Closes(epoch_s(bars.index) + STEP, bars["close"].to_numpy()), as_of)
    if not len(closes.at_s) or closes.at_s[-1] != as_of.timestamp():
        return None
    return followups.look(position, closes, lambda at: Market(symbol, {"15m": load("15m", as_of, ATR_BARS)}).atr(at))


def _pending_entries(strategy: str, as_of: datetime) -> tuple[PendingEntry, ...]:
    """Return working entries: intents on their way or resting; their risk counts toward the total."""
    entries = []
    for intent in (own.intent for own in store().intents.open(strategy)):
        price = intent.price or last_close(intent.symbol, as_of) or intent.stop
        if intent.reduce_only or intent.type not in ("market", "limit") or price is None:
            continue
        side = "long" if intent.side == "buy" else "short"
        entries.append(PendingEntry.of(intent, side=side, price=price))
    return tuple(entries)


def daily_pnl_pct(strategy: str, as_of: datetime) -> float | None:
    """Return today's realized PnL in percent of the equity at 00:00 UTC; None before today's first equity point."""
    midnight = day_start(as_of)
    points = store().equity.since(strategy, midnight, as_of)
    closed = store().positions.closed(strategy, midnight, limit=None)
    trades = [ledger.outcome(position).trade for position in closed]
    start = points[0].equity - not_at_stake(settings()) if points else None
    return ledger.realized_today_pct(trades, start, as_of)


def trade_digest(strategy: str, symbol: str, as_of: datetime) -> TradeDigest:
    """Return what `symbol` has done for us, known at as_of."""
    return ledger.digest(store().outcomes.newest(strategy, symbol, until=as_of, limit=None))


def known_ledger(strategy: str, as_of: datetime) -> Ledger:
    """Return what deciders are told of our ledger: how what is open came about, and what was refused."""
    kept = store()
    held = kept.positions.open(strategy)
    decided = kept.decisions.of([position.cycle_id for position in held])
    month = np.array(kept.equity.curve(strategy, as_of - MONTH, as_of)) - float(not_at_stake(settings()))
    return Ledger(
        openings=tuple(opening(position, decided.get(position.cycle_id)) for position in held),
        refusals=tuple(kept.cycles.refusals(strategy, as_of)),
        drawdown_30d_pct=max_drawdown_pct(month) if len(month) and month[0] > 0 else None,
    )


def not_asked(strategy: Strategy, symbols: Iterable[str], as_of: datetime) -> tuple[Other, ...]:
    """Return those symbols as a decider of all is shown them."""
    held = {position.symbol: position for position in store().positions.open(strategy.name)}
    return others_of((name, held.get(name), trade_digest(strategy.name, name, as_of)) for name in symbols)


@stage
async def keep_equity(as_of: datetime) -> None:
    """Keep one point of the strategy's equity curve, with the running peak; and of a shared account's."""
    name, equity = settings().strategy, (await venue().balance()).equity
    worth, at = {name: _worth(name, equity, as_of)}, as_of.astimezone(UTC)
    if settings.account.strategies:
        worth[ACCOUNT] = equity
        if store().equity.last(name) is None:  # what it began with: no later point may take its place
            at -= timedelta.resolution
    for curve, value in worth.items():
        last = store().equity.last(curve)
        peak = max(value, last.peak) if last else value
        store().equity.save(EquityPoint(at=at, strategy=curve, equity=value, peak=peak))


async def begin_equity() -> None:
    """Keep what a strategy that shares the account begins with, before its first trade."""
    if settings.account.strategies and store().equity.last(settings().strategy) is None:
        await keep_equity(await venue().now())
