"""The exchange: markets, one account in the fill engine, and a clock that drags both along.

Nothing runs in the background. Every request first catches up: all segments of the path since the last one pass over
the account's orders and positions in order of time, funding is charged on its hours, and the seconds that a
position had no stop are counted. So the outcome depends on the market and the orders' times alone.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from infra.sandbox import keep, quotes
from infra.sandbox.candles import Candles, read_candles
from infra.sandbox.clock import Clock, default_start
from infra.sandbox.config import SandboxConfig
from infra.sandbox.market import Market, Segment
from infra.sandbox.scenario import SPREAD_TIMES, CrashingCandles
from infra.sandbox.synthetic import EPOCH_MS, SyntheticCandles, synthetic_candles
from tasks.core.errors import InputError
from tasks.core.simulation.account import PriceBar, SimulatedAccount
from tasks.core.trading.money import exact, floor_to_step
from tasks.core.types.orders import Order, OrderIntent

FUNDING_MS = 8 * 3_600_000
AFTER = timedelta(microseconds=1)  # a segment begins after whatever happened at its first instant


def when(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, tz=UTC) + timedelta(milliseconds=ms % 1000)


class Exchange:
    """Everything behind the HTTP endpoints."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.markets = {s: Market(s, _candles(s, config)) for s in config.traded()}
        kept = keep.load(config.state, self._market())
        start_ms = _start_ms(config, self.markets)
        if kept is not None and start_ms is not None:
            start_ms = int(kept["now_ms"])
        self.clock = Clock(start_ms, config.speed, config.stepped)
        self.now_ms = self.clock.now_ms()
        for market in self.markets.values():
            market.candles.ensure(self.now_ms)
            if market.candles.ts[0] > self.now_ms:
                raise InputError(f"start {when(self.now_ms)} is before the first candle of {market.symbol}")
        self.instruments = {s: m.instrument(_reference(m.candles)) for s, m in self.markets.items()}
        self.account = SimulatedAccount(config.cash, self.instruments, config.costs)
        half_spread = config.costs.half_spread_bps * SPREAD_TIMES
        self._in_a_crash = config.costs.model_copy(update={"half_spread_bps": half_spread})
        self.requests: Counter[str] = Counter()
        self.quirks: dict[str, float] = {}  # venue misbehaviours the fault bench has ordered for the current request
        self.skew_ms = 0  # how far ahead the venue's clock is for the current request
        self.time_in_force: dict[str, str] = {}  # by venue order id
        self.naked_ms: Counter[str] = Counter()
        self.naked_now_ms: Counter[str] = Counter()  # of the position that is open
        self._saved_fills = 0
        if kept is not None:
            self._wake(kept)

    def _market(self) -> dict[str, Any]:
        """Return what makes this market another than another: a kept account fits no other."""
        files = {symbol: str(path.resolve()) for symbol, path in sorted(self.config.candles.items())}
        return {"symbols": sorted(self.markets), "seed": self.config.seed, "candles": files}

    def _wake(self, kept: dict[str, Any]) -> None:
        self.account.load(kept["engine"])
        self.now_ms = int(kept["now_ms"])
        self.time_in_force = dict(kept["time_in_force"])
        self.naked_ms.update(kept["naked_ms"])
        self.naked_now_ms.update(kept["naked_now_ms"])
        self._saved_fills = len(self.account.fills)

    def save(self, changed: bool) -> None:
        """Keep the account if a request changed it, or if an order filled since the last time."""
        path, fills = self.config.state, len(self.account.fills)
        if path is None or not (changed or fills != self._saved_fills):
            return
        self._saved_fills = fills
        document = {
            "market": self._market(), "now_ms": self.now_ms, "engine": self.account.dump(),
            "time_in_force": self.time_in_force, "naked_ms": self.naked_ms, "naked_now_ms": self.naked_now_ms,
        }  # fmt: skip
        keep.save(path, document)

    @property
    def now(self) -> datetime:
        return when(self.now_ms)

    def price(self, symbol: str) -> Decimal:
        market = self.markets[symbol]
        return market.decimal(market.price_at(self.now_ms))

    def marks(self) -> dict[str, Decimal]:
        return {symbol: self.price(symbol) for symbol in self.markets}

    def submit(self, intent: OrderIntent, post_only: bool = False) -> Order:
        """Send one intent to the fill engine at the present price, spread as the book shows it."""
        market = self.markets[intent.symbol]
        spread = exact(round(quotes.conditions(market, self.now_ms).half_spread_bps, 4))
        depth = Decimal(0) if post_only else None
        if "partial_fill" in self.quirks or "partial_fill_cancel" in self.quirks:
            depth = floor_to_step(intent.quantity / 2, self.instruments[intent.symbol].step)
        return self.account.submit(
            intent, self.price(intent.symbol), self.now, modelled_half_spread_bps=spread, depth=depth
        )

    def crashing(self, at_ms: int) -> bool:
        return self.config.crash is not None and self.config.crash.lasts(at_ms)

    def liquidate(self) -> None:
        """Let the venue's risk engine close every position now."""
        self.catch_up()
        for position in self.account.positions():
            self.account.liquidate(position.symbol, self.price(position.symbol), self.now)

    def catch_up(self) -> None:
        self.advance_to(self.clock.now_ms())

    def advance_to(self, until_ms: int) -> None:
        """Let the market run to `until_ms`."""
        while self.now_ms < until_ms and any(self.account.has_work(s) for s in self.markets):
            stop = min(until_ms, (self.now_ms // FUNDING_MS + 1) * FUNDING_MS)
            self._match(self.now_ms, stop)
            self.now_ms = stop
            if stop % FUNDING_MS == 0:
                self._charge_funding()
        self.now_ms = max(self.now_ms, until_ms)
        for symbol, price in self.marks().items():
            self.account.wallet.last[symbol] = price

    def _match(self, start_ms: int, end_ms: int) -> None:
        """Pass the path over the account, one base candle of the finest market at a time."""
        window = min(market.base_ms for market in self.markets.values())
        while start_ms < end_ms:
            stop = min((start_ms // window + 1) * window, end_ms)
            for symbol, market in self.markets.items():
                if self.account.has_work(symbol):
                    self._match_window(market, start_ms, stop)
            start_ms = stop

    def _match_window(self, market: Market, start_ms: int, end_ms: int) -> None:
        self.account.costs = self._in_a_crash if self.crashing(start_ms) else self.config.costs
        segments = market.segments(start_ms, end_ms)
        if self._could_trigger(market.symbol, segments):
            for segment in segments:
                self._count_naked(market.symbol, segment.end_ms - segment.start_ms)
                self.account.on_bar(market.symbol, _bar(market, segment), when(segment.end_ms))
        else:
            self._count_naked(market.symbol, end_ms - start_ms)

    def _could_trigger(self, symbol: str, segments: list[Segment]) -> bool:
        triggers = self.account.next_triggers(symbol)
        low = min((min(s.start, s.end) for s in segments), default=np.inf)
        high = max((max(s.start, s.end) for s in segments), default=-np.inf)
        below, above = triggers.below, triggers.above
        return (below is not None and low <= float(below)) or (above is not None and high >= float(above))

    def _count_naked(self, symbol: str, milliseconds: int) -> None:
        position = self.account.position(symbol)
        if position is None or position.stop is not None:
            return
        self.naked_ms[symbol] += milliseconds
        self.naked_now_ms[symbol] += milliseconds

    def forget_closed(self) -> None:
        """Start counting unprotected seconds afresh for symbols that are flat."""
        for symbol in self.markets:
            if self.account.position(symbol) is None:
                self.naked_now_ms.pop(symbol, None)

    def _charge_funding(self) -> None:
        for symbol in self.markets:
            self.account.apply_funding(symbol, self.config.funding_rate, self.price(symbol), self.now)


def _bar(market: Market, segment: Segment) -> PriceBar:
    start, end = market.decimal(segment.start), market.decimal(segment.end)
    return PriceBar(when(segment.start_ms) + AFTER, start, max(start, end), min(start, end), end)


def _candles(symbol: str, config: SandboxConfig) -> Candles:
    given = config.candles.get(symbol)
    calm = read_candles(given) if given else synthetic_candles(symbol, config.seed)
    return CrashingCandles(calm, config.crash) if config.crash else calm


def _reference(candles: Candles) -> float:
    candles = candles.calm if isinstance(candles, CrashingCandles) else candles
    return candles.usual if isinstance(candles, SyntheticCandles) else float(np.median(candles.close))


def _start_ms(config: SandboxConfig, markets: dict[str, Market]) -> int | None:
    """Return when the clock starts; None: now, following the wall."""
    if config.start is not None:
        start = int(config.start.timestamp() * 1000)
        if not config.candles and start < EPOCH_MS:
            raise InputError(f"start {config.start} is before {when(EPOCH_MS)}, where the synthetic market begins")
        return start
    if not config.candles:
        return None
    first = max(int(m.candles.ts[0]) for m in markets.values())
    last = min(int(m.candles.ts[-1]) for m in markets.values())
    if first >= last:
        raise InputError(f"the candle files have no time in common ({when(first)} to {when(last)})")
    return default_start(first, last)
