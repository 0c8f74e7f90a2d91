"""The account of a replay: what rests, what is open, what was earned, and the searches ahead for what comes next.

Fills are the one engine's. An order meets the first bar that trades after its decision and never takes more than that
bar's volume; where it arrives `latency_s` into the bar, the price has by then gone that share of the way from the open
to the worse extreme. Follow-ups are carried out at 5m closes, as `protect` does.
"""

from collections import deque
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from tasks.core.decision.memory import JUDGED, Remembered, performance
from tasks.core.errors import InputError, LedgerMismatch
from tasks.core.market import position_events
from tasks.core.market.market import Market
from tasks.core.simulation.account import SimulatedAccount
from tasks.core.simulation.symbol_state import SymbolState
from tasks.core.simulation.tape import STEP, make_grid
from tasks.core.simulation.world import World
from tasks.core.trading import booking, followups, ledger
from tasks.core.trading.guard import past
from tasks.core.trading.guard.past import Facts
from tasks.core.trading.money import exact
from tasks.core.types.orders import Fill, Order, OrderIntent, OrderStatus, OrderType
from tasks.core.types.portfolio import AccountState, ClosedTrade, PendingEntry, Position
from tasks.core.types.record import Outcome
from tasks.core.types.strategy import Strategy

RECENT = 50  # closed trades the guard looks back on


class Entry(NamedTuple):
    """An entry order of ours: its fills, at once or later, belong to the cycle that sent it."""

    cycle_id: str
    intent: OrderIntent
    followups: tuple[str, ...]


class Desk:
    """Money and positions of one replay."""

    def __init__(self, markets: Mapping[str, Market], strategy: Strategy, world: World) -> None:
        self.strategy, self.world = strategy, world
        self.grid = make_grid(markets, world.start, world.end)
        self.symbols = {symbol: SymbolState(market, self.grid, world) for symbol, market in sorted(markets.items())}
        if unknown := [symbol for symbol in self.symbols if symbol not in strategy.instruments]:
            raise InputError(f"{unknown[0]}: the strategy has no instrument for it; name its terms with --instruments")
        self.instruments = {symbol: strategy.instruments[symbol] for symbol in self.symbols}
        self.account = SimulatedAccount(strategy.capital, self.instruments, strategy.costs)
        self.latency = timedelta(seconds=world.latency_s)
        self.equity = np.full(self.grid.n, float(strategy.capital))
        self.filled_to = -1
        self.peak = float(strategy.capital)
        self.entries: dict[str, Entry] = {}
        self.booked = 0
        self.losses: set[int] = set()  # bars to come, or this one, on which a position was closed at a loss
        self.outcomes: list[Outcome] = []
        self.closed: deque[ClosedTrade] = deque(maxlen=RECENT)
        self.opens: deque[datetime] = deque(maxlen=RECENT)
        self.paused: dict[str, datetime] = {}
        self.decided: dict[str, datetime] = {}  # when a symbol was last decided on
        self.refused: list[tuple[datetime, bool]] = []  # entries since the last one that was taken
        self.liquidated: datetime | None = None
        self.net_rs: deque[Decimal | None] = deque(maxlen=past.KEPT)
        self.kelly: tuple[int, Decimal | None] = (0, None)  # the number of outcomes it was computed from, and it
        self.pairs: dict[tuple[date, str, str], dict[str, float]] = {}

    # the next thing that happens

    def next_bar(self, k: int) -> int | None:
        """Return the first bar after k on which anything may happen."""
        candidates = [bar for state in self.symbols.values() for bar in state.next_bars(k)]
        candidates += self.losses
        return min((bar for bar in candidates if k < bar < self.grid.n), default=None)

    def _look_ahead(self, symbol: str, k: int) -> None:
        """After anything changed: find the next touch of a resting price, and the position's coming reasons."""
        state = self.symbols[symbol]
        state.touch, state.ahead = None, {}
        if not self.account.has_work(symbol):
            return
        state.touch = state.tape.first_touch(k, self.account.next_triggers(symbol))
        if state.position is not None:
            self._position_ahead(state, state.position, k)

    def _position_ahead(self, state: SymbolState, position: Position, k: int) -> None:
        until = self.grid.closes_at(self.grid.n - 1 if state.touch is None else state.touch)
        closes = state.tape.closes_from(position.opened_at)
        for reason in position_events.reasons_at(position, closes, until, self.strategy.thresholds):
            bar = self.grid.index(int(reason.as_of.timestamp()))
            if bar >= k and reason.fingerprint not in state.said:
                state.ahead.setdefault(bar, []).append(reason)
        if rules := followups.pending(position):
            path = position_events.r_path(position, closes, until)
            later = path.at_s > self.grid.start_s + (k + 1) * STEP
            for rule in rules:
                reached = later & (path.r >= float(rule.at_r))
                if reached.any():
                    state.ahead.setdefault(self.grid.index(int(path.at_s[reached.argmax()])), [])

    # one bar

    def pass_bar(self, k: int) -> None:
        """Let bar k pass over what rests and is open; at its close come follow-ups, then funding."""
        for symbol, state in self.symbols.items():
            if state.touch == k:
                self.mark_equity(k - 1)
                self.account.on_bar(symbol, state.tape.bar(k), self.grid.closes_at(k))
                self._book(k)
                self._look_ahead(symbol, k)
            if state.position is not None and k in state.ahead:
                self.mark_equity(k - 1)
                self._follow_up(symbol, state.position, k)
            if state.position is not None and k in state.funding:
                self.mark_equity(k - 1)
                self.account.apply_funding(symbol, state.funding[k], state.tape.mark(k), self.grid.closes_at(k))
                self._book(k)
                self._look_ahead(symbol, k)
        self.mark_equity(k)

    def mark_equity(self, k: int) -> None:
        """Fill the equity curve up to bar k with the account as it stands."""
        if k <= self.filled_to:
            return
        part = slice(self.filled_to + 1, k + 1)
        held = self.account.wallet.holdings.values()
        curve = self.equity[part]
        curve[:] = float(self.account.wallet.cash - sum(h.sign * h.cost for h in held))
        for h in held:
            curve += h.sign * float(h.quantity) * self.symbols[h.symbol].tape.marks[part]
        self.peak = max(self.peak, float(curve.max()))
        self.filled_to = k

    def _book(self, bar: int) -> None:
        """Book every fill the engine has made since the last time; `bar`: the one they happened on."""
        fills = self.account.fills[self.booked :]
        self.booked += len(fills)
        for fill in fills:
            state = self.symbols[fill.symbol]
            state.position = self._booked(state.position, fill)
            self.liquidated = fill.at if fill.reason == "liquidation" else self.liquidated
            if state.position.closed_at is not None:
                self._close(state, ledger.outcome(state.position), bar)

    def _booked(self, position: Position | None, fill: Fill) -> Position:
        entry = self.entries.get(fill.client_order_id)
        if position is not None:
            position = ledger.apply_fill(position, fill)
            return booking.add_protection(position, entry.intent) if entry and fill.reason == "entry" else position
        if entry is None:
            raise LedgerMismatch(f"fill {fill.fill_id} ({fill.reason}) on {fill.symbol} is of no entry of this replay")
        position = ledger.open_position(entry.intent, [fill], self.strategy.name, entry.cycle_id)
        return position.model_copy(update={"followups": entry.followups})

    def _close(self, state: SymbolState, outcome: Outcome, bar: int) -> None:
        state.position = None
        if outcome.pnl < 0:
            self.losses.add(bar)
        self.outcomes.append(outcome)
        self.net_rs.append(past.net_r(outcome))
        state.settle(outcome)
        self.closed.append(
            ClosedTrade(
                closed_at=outcome.closed_at, pnl=outcome.pnl, symbol=outcome.symbol, r_multiple=outcome.r_multiple
            )
        )

    def _follow_up(self, symbol: str, position: Position, k: int) -> None:
        """Carry out what `protect` would at this close; what is refused is due again."""
        state = self.symbols[symbol]
        for rule in followups.due(position, state.tape.mark(k)):
            if state.position is None:
                break
            intent = followups.intent(rule, state.position, self.instruments[symbol])
            refusal = "" if intent is None else self._send(intent, k)
            if not refusal and state.position is not None:
                state.position = followups.mark_done(state.position, rule)
        self._look_ahead(symbol, k)

    def _send(self, intent: OrderIntent, k: int) -> str:
        """Send one intent at the close of bar k: it meets the next bar that trades. Returns the refusal."""
        state = self.symbols[intent.symbol]
        following = state.tape.next_traded(k)
        if following is None:
            return "no_market"
        opens_at = self.grid.closes_at(following - 1)
        at = max(opens_at, self.grid.closes_at(k) + self.latency)
        if intent.type in (OrderType.MARKET, OrderType.LIMIT):
            price = state.tape.price_in(following, (at - opens_at).total_seconds(), intent.side)
            order = self.account.submit(intent, price, at, depth=state.tape.depth(following))
        else:
            order = self.account.submit(intent, state.tape.mark(k), at)
        if order.status is OrderStatus.REJECTED:
            return order.reason
        self._book(following)
        if state.position is not None:
            state.position = booking.with_protection(state.position, intent)
        return ""

    # what the guard judges against

    def state(self, symbol: str, k: int) -> AccountState:
        """Build what the guard judges against, as the live cycle does from the venue and the store."""
        as_of = self.grid.closes_at(k)
        held = {*self.account.wallet.holdings, symbol}
        marks = {s: self.symbols[s].tape.mark(k) for s in held}
        balance = self.account.balance(marks)
        midnight = max(0, k - int(as_of.timestamp()) % 86_400 // STEP)
        since = as_of - timedelta(days=1)
        return AccountState(
            equity=balance.equity,
            available=balance.available,
            peak_equity=exact(self.peak),
            day_start_equity=exact(self.equity[midnight]),
            day_peak_equity=exact(self.equity[midnight : k + 1].max()),
            positions=tuple(p.marked(marks[p.symbol]) for p in self.open_positions()),
            pending=self._pending(as_of),
            instrument=self.instruments[symbol],
            closed_trades=past.recent_trades(self.closed, as_of, self.strategy.limits, self.decided.get(symbol)),
            opens=tuple(at for at in self.opens if at > since),
            paused_until=self.paused.get(symbol),
            last_price=marks[symbol],
            **self._facts(symbol, as_of),
        )

    def remembered(self, symbol: str) -> Remembered | None:
        """Return what may be remembered by now; None where the strategy is not told."""
        if not self.strategy.told.memory:
            return None
        lately = self.outcomes[: -JUDGED - 1 : -1]
        return self.symbols[symbol].remembered(performance([(each.pnl, each.r_multiple) for each in lately]))

    def _facts(self, symbol: str, as_of: datetime) -> Facts:
        """Work out what `facts.facts` does, each part only when something changed; see there."""
        limits = self.strategy.limits
        since = as_of - timedelta(minutes=limits.liquidation_cooldown_min)
        if self.kelly[0] != len(self.outcomes):
            known = [r for r in self.net_rs if r is not None]
            self.kelly = (len(self.outcomes), past.kelly_of(known, limits.kelly_min_outcomes))
        return Facts(
            correlations=self._correlations(symbol, as_of),
            kelly=self.kelly[1],
            rejections=past.rejections(self.refused, as_of - timedelta(minutes=limits.rejection_window_min)),
            last_liquidation=self.liquidated if self.liquidated and self.liquidated >= since else None,
        )

    def _correlations(self, symbol: str, as_of: datetime) -> dict[str, float]:
        """Look up how this symbol moves with those that are open or waiting; each pair is computed once a day."""
        others = {*self.account.wallet.holdings, *(order.symbol for order in self.account.open_orders())} - {symbol}
        found: dict[str, float] = {}
        for other in sorted(others):
            pair = (as_of.date(), symbol, other)
            if pair not in self.pairs:
                closes = {s: self.symbols[s].tape.series_before(as_of, past.DAYS + 1) for s in (symbol, other)}
                self.pairs[pair] = past.correlations(symbol, (other,), closes, as_of)
            found |= self.pairs[pair]
        return found

    def _pending(self, as_of: datetime) -> tuple[PendingEntry, ...]:
        return tuple(
            PendingEntry(
                symbol=order.symbol, side="long" if order.side == "buy" else "short",
                quantity=order.quantity - order.filled, price=order.price, stop=order.stop,
            )
            for order in self.account.open_orders()
            if order.type == "limit" and order.price is not None and self._works(order, as_of)
        )  # fmt: skip

    def _works(self, order: Order, as_of: datetime) -> bool:
        """Say whether an entry may still fill: over a gap the engine learns of its end only with the next bar."""
        entry = self.entries.get(order.client_order_id)
        return entry is not None and (entry.intent.expires_at is None or entry.intent.expires_at >= as_of)

    def open_positions(self) -> list[Position]:
        return [state.position for state in self.symbols.values() if state.position is not None]
