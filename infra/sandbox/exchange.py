"""The exchange: listed symbols, one account in the fill engine, and a clock that drags both along.

Nothing runs in the background. Every request first catches up: all legs of the path since the last one pass over
the account's orders and positions in order of time, funding is charged on its hours, and the seconds that a
position had no stop are counted. So the outcome depends on the market and the orders' times alone.

With a state file a venue does not forget orders and positions because a server stopped. Where the clock follows the
wall, the path since the last save passes over the account when it wakes: stops fire that should have fired.
"""

import json
import os
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from infra.sandbox.clock import DAY_MS, Clock
from infra.sandbox.config import SandboxConfig
from infra.sandbox.market import order_book
from infra.sandbox.market.candles import BaseCandles, file_candles
from infra.sandbox.market.crash import SPREAD_TIMES
from infra.sandbox.market.listing import Leg, Listing
from infra.sandbox.market.synthetic import synthetic_candles
from tasks.core.simulation.account import PriceBar, SimulatedAccount
from tasks.core.simulation.wallet import Holding
from tasks.core.types import Fill, InputError, Json, Order, OrderIntent, OrderStatus, exact

FUNDING_MS = 8 * 3_600_000
WARM_UP_MS = 250 * DAY_MS
ALIGN_MS = 300_000
FORGOTTEN = timedelta(hours=24)
REMEMBERED = 1000  # changes of what is held
AFTER = timedelta(microseconds=1)  # a leg begins after whatever happened at its first instant


def when(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


class Exchange:
    """Everything behind the HTTP endpoints."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.markets = {symbol: Listing(symbol, _candles(symbol, config)) for symbol in config.traded()}
        saved = self._saved()
        start_ms = _start_ms(config, self.markets)
        self.clock = Clock(start_ms and saved.get("now_ms", start_ms), config.speed, config.stepped)
        self.now_ms: int = saved.get("now_ms") or self.clock.now_ms()
        for market in self.markets.values():
            market.candles.ensure(self.clock.now_ms())
            if not (market.candles.ts[:1] <= self.now_ms).any():
                raise InputError(f"start {when(self.now_ms)} is before the first candle of {market.symbol}")
        instruments = {symbol: market.instrument for symbol, market in self.markets.items()}
        self.account = SimulatedAccount(config.cash, instruments, config.costs)
        if saved:
            self.account.load(saved["engine"])
        self._saved_fills = len(self.account.fills)
        self.requests: Counter[str] = Counter()
        self.naked_ms: Counter[str] = Counter(saved.get("naked_ms"))
        self.naked_now_ms: Counter[str] = Counter(saved.get("naked_now_ms"))  # of the position that is open
        self.hidden_until: dict[str, int] = {}  # ms, by the id of an execution or order that is told late
        self._told_as: dict[str, dict[str, str]] = {}  # fields of an execution's or order's row, by its id
        self.half_stops = 0  # how many stops and targets will find room for half of the position
        self._held = deque([(0, self._holdings())], maxlen=REMEMBERED)  # from when on, in ms, and what

    def _market(self) -> Json:
        """Return the market's identity; a saved account loads only into the same market."""
        files = {symbol: str(path.resolve()) for symbol, path in sorted(self.config.candles.items())}
        return {"symbols": sorted(self.markets), "seed": self.config.seed, "candles": files}

    def _saved(self) -> Json:
        """Read the saved account, empty if there is none; raises InputError for a broken file or another market."""
        path, market = self.config.state, self._market()
        if path is None or not path.exists():
            return {}
        try:
            saved = json.loads(path.read_text())
            of = saved["market"]
            known = of["candles"].items() <= market["candles"].items() and {*of["symbols"]} <= {*market["symbols"]}
            if known and of["seed"] == market["seed"]:
                return saved
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(f"--state {path}: not a sandbox's state ({e}); remove it to start anew") from e
        raise InputError(f"--state {path}: is of {of}, not {market}; remove it, or choose another file")

    def settle(self, changed: bool) -> None:
        """Put down what a request has left behind: changed, or where an order has filled, the account is saved.

        Unprotected seconds are counted afresh for symbols that are flat.
        """
        self._remember(self.now_ms)
        path, fills = self.config.state, len(self.account.fills)
        if path and (changed or fills != self._saved_fills):
            self._saved_fills = fills
            state = {name: getattr(self, name) for name in ("now_ms", "naked_ms", "naked_now_ms")}
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps({"market": self._market(), "engine": self.account.dump(), **state}))
            os.replace(partial, path)
        for symbol in self.markets.keys() - self.account.wallet.holdings.keys():
            self.naked_now_ms.pop(symbol, None)

    @property
    def now(self) -> datetime:
        return when(self.now_ms)

    def price(self, symbol: str) -> Decimal:
        market = self.markets[symbol]
        return market.decimal(market.price_at(self.now_ms))

    def mark(self, symbol: str) -> Decimal:
        market, basis = self.markets[symbol], self.account.wallet.basis
        return market.decimal(market.price_at(self.now_ms) * float(basis if market.category == "linear" else 1))

    def marks(self) -> dict[str, Decimal]:
        return {symbol: self.mark(symbol) for symbol in self.markets}

    def tells(self, of: Order | Fill) -> bool:
        """Return whether the venue lists an order or execution by now, and still: unfilled orders are kept a day."""
        empty = isinstance(of, Order) and of.status is OrderStatus.CANCELLED and not of.filled
        if empty and self.now - of.updated_at > FORGOTTEN:  # type: ignore[union-attr]  # an order
            return False
        return self.hidden_until.get(_key(of), 0) <= self.now_ms

    def tell(self, of: Order | Fill, seconds: float, row: dict[str, str]) -> None:
        """List it only once it is so old, and from now on with these fields."""
        made_at = of.at if isinstance(of, Fill) else of.created_at
        if seconds:
            self.hidden_until[_key(of)] = round((made_at.timestamp() + seconds) * 1000)
        self._told_as[_key(of)] = self.told_as(of) | row

    def told_as(self, of: Order | Fill) -> dict[str, str]:
        """Return the fields that its row has in place of its own."""
        return self._told_as.get(_key(of), {})

    def held(self, seconds: float) -> dict[str, Holding]:
        """Return the open positions as they were some seconds ago, the oldest known at most."""
        self._remember(self.now_ms)
        at_ms = self.now_ms - seconds * 1000
        return next((held for since, held in reversed(self._held) if since <= at_ms), self._held[0][1])

    def _holdings(self) -> dict[str, Holding]:
        return {symbol: holding.model_copy() for symbol, holding in self.account.wallet.holdings.items()}

    def _remember(self, at_ms: int) -> None:
        if (held := self._holdings()) != self._held[-1][1]:
            self._held.append((at_ms, held))

    def submit(self, intent: OrderIntent, depth: Decimal | None = None) -> Order:
        """Send one intent to the fill engine at the present price, spread as the book shows it."""
        spread = order_book.conditions(self.markets[intent.symbol], self.now_ms).half_spread_bps
        price, spread_bps = self.price(intent.symbol), exact(round(spread, 4))
        return self.account.submit(intent, price, self.now, modelled_half_spread_bps=spread_bps, depth=depth)

    def liquidate(self) -> None:
        """Let the venue's risk engine close every position now."""
        self.catch_up()
        for position in self.account.positions():
            self.account.liquidate(position.symbol, self.price(position.symbol), self.now)

    def catch_up(self) -> None:
        self.advance_to(self.clock.now_ms())

    def advance_to(self, until_ms: int) -> None:
        """Let the market run to `until_ms`, one base candle of the finest market at a time."""
        window = min(market.candles.base_ms for market in self.markets.values())
        while self.now_ms < until_ms and any(self.account.has_work(symbol) for symbol in self.markets):
            begin, self.now_ms = self.now_ms, min((self.now_ms // window + 1) * window, until_ms)
            for market in self.markets.values():
                if self.account.has_work(market.symbol):
                    self._pass(market, begin, self.now_ms)
            if self.now_ms % FUNDING_MS == 0:
                for symbol, price in self.marks().items():
                    self.account.apply_funding(symbol, self.config.funding_rate, price, self.now)
        self.now_ms = max(self.now_ms, until_ms)
        for symbol in self.markets:
            self.account.wallet.last[symbol] = self.price(symbol)

    def _pass(self, market: Listing, start_ms: int, end_ms: int) -> None:
        """Pass a market's path over the account, bar by bar where anything could happen."""
        costs, symbol = self.config.costs, market.symbol
        if market.candles.crashing(start_ms):
            costs = costs.replace(half_spread_bps=costs.half_spread_bps * SPREAD_TIMES)
        self.account.costs = costs
        legs, (below, above, _) = market.legs(start_ms, end_ms), self.account.next_triggers(symbol)
        ends = [price for leg in legs for price in (leg.start, leg.end)]
        idle = not legs or ((below is None or min(ends) > float(below)) and (above is None or max(ends) < float(above)))
        for leg in [Leg(start_ms, end_ms)] if idle else legs:
            position = self.account.position(symbol)
            if position and position.stop is None:
                for counter in (self.naked_ms, self.naked_now_ms):
                    counter[symbol] += leg.end_ms - leg.start_ms
            if not idle:
                start, end = market.decimal(leg.start), market.decimal(leg.end)
                prices = start, max(start, end), min(start, end), end
                volume = exact(leg.volume)
                if self.half_stops and position:
                    half = max(position.quantity / 2, market.instrument.step)
                    volume = min(volume, half * 100 / costs.participation_pct)
                bar = PriceBar(when(leg.start_ms) + AFTER, *prices, volume, when(leg.candle_ms))
                if fills := self.account.on_bar(symbol, bar, when(leg.end_ms)):
                    self.half_stops -= any(fill.reason in ("stop", "target") for fill in fills) and self.half_stops > 0
                    self._remember(leg.end_ms)


def _key(of: Order | Fill) -> str:
    return of.fill_id if isinstance(of, Fill) else of.venue_order_id


def _candles(symbol: str, config: SandboxConfig) -> BaseCandles:
    path = config.candles.get(symbol)
    return file_candles(path, config.crash) if path else synthetic_candles(symbol, config.seed, config.crash)


def _start_ms(config: SandboxConfig, markets: dict[str, Listing]) -> int | None:
    """Return when the clock starts; None: now, following the wall. Candle files begin 250 days or a third in."""
    if config.start is not None:
        return int(config.start.timestamp() * 1000)
    if not config.candles:
        return None
    firsts, lasts = zip(*(market.candles.ts[[0, -1]].tolist() for market in markets.values()), strict=True)
    first, last = max(firsts), min(lasts)
    if first >= last:
        raise InputError(f"the candle files have no time in common ({when(first)} to {when(last)})")
    warm_up = WARM_UP_MS if first + WARM_UP_MS < last else (last - first) // 3
    return (first + warm_up) // ALIGN_MS * ALIGN_MS
