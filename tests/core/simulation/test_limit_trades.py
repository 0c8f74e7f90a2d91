"""Six hundred limit trades held against the documented fill rules, told once more in plain words and numbers.

The rules are those of `simulation.account` and `simulation.backtest`; nothing of theirs is called here. One symbol, one
trade at a time: an entry that rests for 15 minutes, a stop, a target, a stop moved to breakeven and a trim.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR
from decimal import Decimal as D

import numpy as np
import pytest
from instrument_cases import linear
from replayed import backtest

from tasks.core.market.bars import bar_frame
from tasks.core.market.market import Market
from tasks.core.types.bars import COLUMNS
from tasks.core.types.decision import DECISION, Answer, hold
from tasks.core.types.limits import Costs, Limits
from tasks.core.types.orders import OrderIntent
from tasks.core.types.question import Question
from tasks.core.types.record import CycleRecord

SYMBOL, FIVE, WITHIN = "BTC/USDT:USDT", timedelta(minutes=5), timedelta(milliseconds=1)
COSTS, TICK, STEP = Costs(), D("0.1"), D("0.001")
LIMITS = Limits(
    target_atr_pct=100, reentry_cooldown_min=0, cool_off_min=0, min_reward_risk=0, opens_per_day=1000,
    opens_per_hour=100, daily_loss_halt_pct=100, drawdown_halt_pct=100, max_offset_spreads=1000, chase_rsi=100,
    chase_z=100, max_positions=100, min_stop_atr=D("0.01"), kelly_min_outcomes=100_000,
)  # fmt: skip
Trade = tuple[datetime, D, D]  # at, signed quantity, price


class Limiter:
    """Opens with a limit order whenever it is asked and flat."""

    name = "limiter"

    def __init__(self) -> None:
        self.rng = random.Random(7)

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._one(question) for question in questions]

    def _one(self, question: Question) -> Answer:
        decision, draw = hold(SYMBOL, "busy"), self.rng.uniform
        if question.snapshot.position.side in (None, "flat"):
            offset = str(round(draw(2, 12), 1))
            told = {
                "symbol": SYMBOL, "action": self.rng.choice(["OPEN_LONG", "OPEN_SHORT"]), "size_pct": D(20),
                "entry": {"type": "limit", "offset_bps": offset}, "stop_atr": str(round(draw(0.3, 1.2), 2)),
                "tp_atr": str(round(draw(0.5, 2), 2)), "confidence": D(1),
                "followups": ["MOVE_STOP: breakeven on +0.5R", "TRIM 50% at +0.8R"],
            }  # fmt: skip
            decision = DECISION.validate_python(told)
        return Answer(decision=decision, source="limiter", rung="primary")


@dataclass
class Tape:
    """The documented rules over candles, for the entries of `records`."""

    rows: list[tuple[datetime, D, D, D, D, D]]
    sent: dict[datetime, OrderIntent]
    trades: list[Trade] = field(default_factory=list)
    entry: OrderIntent | None = None
    rest = quantity = stop = target = room = D(0)
    opened: int = -1  # the bar of the last entry
    leaving: str = ""
    parts: list[tuple[D, D]] = field(default_factory=list)
    arrives: bool = False
    moved: bool = False
    trimmed: bool = False
    trim: D = D(0)

    @property
    def sign(self) -> int:
        assert self.entry is not None
        return 1 if self.entry.side == "buy" else -1

    def run(self) -> list[Trade]:
        for k, (opens_at, o, high, low, c, volume) in enumerate(self.rows):
            self.room = volume * COSTS.participation_pct / 100
            if self.trim and volume:
                self.out(min(self.trim, self.quantity), o, opens_at)
                self.trim, self.trimmed = D(0), True
            if self.entry is not None and self.entry.expires_at <= opens_at:
                self.rest = D(0)
            if self.arrives and volume:
                self.arrive(k, o, opens_at)
            if volume and self.entry is not None:
                self.bar(k, o, high, low, opens_at + FIVE - WITHIN)
            if self.entry is not None and not self.quantity and self.rest < self.entry.quantity:
                self.rest = D(0)  # it ends with its position
            if self.quantity:
                self.follow_up(c)
            elif not self.rest and (entry := self.sent.get(opens_at + FIVE)):
                self.entry, self.rest, self.arrives = entry, entry.quantity, True
        return self.trades

    def bar(self, k: int, o: D, high: D, low: D, at: datetime) -> None:
        assert self.entry is not None
        long, limit = self.sign > 0, self.entry.price
        through = low < limit if long else high > limit
        if self.leaving:
            self.out(self.quantity, o, at)
        if self.rest and through and not (self.quantity and self.sign * (limit - self.stop) <= 0):
            self.enter(k, at, limit)
        self.stop_out(o, high, low, at)
        reached = high >= self.target if long else low <= self.target
        if self.quantity and not self.leaving and self.opened < k and reached:
            self.leaving = "target"
            self.out(self.quantity, max(self.target, o) if long else min(self.target, o), at)
        if self.rest and through and self.opened < k:  # the price met the stop first
            self.enter(k, at, limit)
            self.stop_out(o, high, low, at)

    def stop_out(self, o: D, high: D, low: D, at: datetime) -> None:
        long = self.sign > 0
        if self.quantity and not self.leaving and (low <= self.stop if long else high >= self.stop):
            self.leaving = "stop"
            self.out(self.quantity, min(self.stop, o) if long else max(self.stop, o), at)

    def arrive(self, k: int, o: D, at: datetime) -> None:
        """Take at once where the market has come beyond the limit meanwhile, but pay no more than it."""
        assert self.entry is not None
        self.arrives, limit = False, self.entry.price
        if self.sign * (limit - o * (1 + self.sign * COSTS.half_spread_bps / 10_000)) >= 0:
            slipped = COSTS.half_spread_bps + COSTS.impact_bps_per_million * self.fitting(self.rest) * o / 1_000_000
            price = o * (1 + self.sign * slipped / 10_000)
            self.enter(k, at, min(price, limit) if self.sign > 0 else max(price, limit))

    def enter(self, k: int, at: datetime, price: D) -> None:
        assert self.entry is not None
        if part := self.fitting(self.rest):
            self.moved, self.trimmed = self.moved and self.quantity > 0, self.trimmed and self.quantity > 0
            self.parts = [*(self.parts if self.quantity else []), (part, price)]
            self.trades.append((at, self.sign * part, price))
            if not self.quantity:  # a later part neither loosens the stop nor touches the target
                self.stop, self.target = self.entry.stop, self.entry.target
            self.rest, self.quantity, self.opened = self.rest - part, self.quantity + part, k
            self.room -= part

    def out(self, quantity: D, price: D, at: datetime) -> None:
        if part := self.fitting(quantity):
            slipped = COSTS.half_spread_bps + COSTS.impact_bps_per_million * part * price / 1_000_000
            self.trades.append((at, -self.sign * part, price * (1 - self.sign * slipped / 10_000)))
            self.quantity, self.room = self.quantity - part, self.room - part
            self.leaving = self.leaving if self.quantity else ""

    def fitting(self, quantity: D) -> D:
        return quantity if quantity <= self.room else self.room // STEP * STEP

    def follow_up(self, close: D) -> None:
        assert self.entry is not None
        entered, stop = sum(q * p for q, p in self.parts) / sum(q for q, _ in self.parts), self.entry.stop
        r = self.sign * (close - entered) / abs(entered - stop)
        if r >= D("0.5") and not self.moved:
            self.moved, rounding = True, ROUND_CEILING if self.sign > 0 else ROUND_FLOOR
            breakeven = (entered / TICK).to_integral_value(rounding) * TICK
            self.stop = max(self.stop, breakeven) if self.sign > 0 else min(self.stop, breakeven)
        if r >= D("0.8") and not self.trimmed:
            self.trim = self.quantity / 2 // STEP * STEP


def tape(n: int) -> Market:
    """A wild walk in thin air: some bars trade nothing, some less than an order asks for."""
    rng = np.random.default_rng(11)
    close = 50_000 * np.exp(np.cumsum(rng.normal(0, 0.0012, n)))
    opened = np.r_[close[:1], close[:-1]] * np.exp(rng.normal(0, 0.0002, n))
    high = np.maximum(opened, close) * np.exp(rng.exponential(0.0006, n))
    low = np.minimum(opened, close) * np.exp(-rng.exponential(0.0006, n))
    prices = np.round([opened, high, low, close], 1)
    volume = np.round(np.where(rng.random(n) < 0.03, 0, rng.lognormal(0, 1.2, n)), 3)
    start = 1_735_689_600_000
    frame = bar_frame(start + np.arange(n) * 300_000, dict(zip(COLUMNS, [*prices, volume], strict=True)))
    return Market.from_base(SYMBOL, frame)


def rows(market: Market) -> Iterator[tuple[datetime, D, D, D, D, D]]:
    for at, *values in market.bars["5m"].itertuples():
        yield at.to_pydatetime(), *(D(repr(value)) for value in values)  # type: ignore[misc]  # five of them


@pytest.mark.slow
def test_six_hundred_limit_trades_fill_as_the_rules_say() -> None:
    market, records = tape(28_000), []
    run = backtest(
        {SYMBOL: market}, Limiter(), costs=COSTS, limits=LIMITS, instruments={SYMBOL: linear(SYMBOL)},
        on_record=records.append,
    )  # fmt: skip
    asyncio.run(run.run())
    expected = Tape(list(rows(market)), _entries(records)).run()
    made = [(f.at, f.quantity if f.side == "buy" else -f.quantity, f.price) for f in run.account.fills]
    assert len(run.outcomes) >= 600
    assert [(at, quantity) for at, quantity, _ in made] == [(at, quantity) for at, quantity, _ in expected]
    assert [float(p) for *_, p in made] == pytest.approx([float(p) for *_, p in expected], rel=1e-10)
    partly = {order.client_order_id for order in run.account.orders if 0 < order.filled < order.quantity}
    assert partly, "some found less volume than they asked for"


def _entries(records: Sequence[CycleRecord]) -> dict[datetime, OrderIntent]:
    return {record.as_of: record.intents[0] for record in records if record.intents}
