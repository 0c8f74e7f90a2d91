"""What a replay tracks of one symbol: its tape, its events still to come, and our position in it."""

from bisect import bisect_right
from itertools import islice

import numpy as np

from tasks.core.decision.memory import COMPARED, LAST, Earlier, Performance, Remembered, vector
from tasks.core.market.calendar import CalendarEvent, calendar_reasons
from tasks.core.market.market import Market
from tasks.core.simulation.tape import STEP, Grid, Tape
from tasks.core.simulation.world import World
from tasks.core.trading import ledger
from tasks.core.types.decision import Answer
from tasks.core.types.portfolio import Position
from tasks.core.types.question import Question, Reason
from tasks.core.types.record import Outcome
from tasks.core.types.snapshot import TradeDigest

AHEAD = 512  # event closes whose moments are read at once


class SymbolState:
    """One symbol of a replay."""

    def __init__(self, market: Market, grid: Grid, world: World) -> None:
        self.market, self.tape, self.grid = market, Tape(market, grid), grid
        self.events = _events(market, grid, world.calendar)
        self.event_bars = sorted(self.events)
        self.position: Position | None = None
        self.ahead: dict[int, list[Reason]] = {}
        self.said: set[str] = set()
        self.touch: int | None = None
        self.outcomes: list[Outcome] = []
        self.digest = TradeDigest()
        self.made: dict[str, Earlier] = {}  # our decisions but those that nothing usable came of, by cycle
        self.settled: list[Earlier] = []  # those whose trade has ended
        rates = ((grid.index_after(funding.at), funding.rate) for funding in world.funding.get(market.symbol, ()))
        self.funding = {k: rate for k, rate in rates if 0 <= k < grid.n}
        self.funding_bars = sorted(self.funding)
        self.read_to = -1

    def next_bars(self, k: int) -> list[int]:
        """Return the next bar of each kind after k on which anything happens."""
        i = bisect_right(self.event_bars, k)
        bars = self.event_bars[i : i + 1] + [bar for bar in self.ahead if bar > k]
        if self.touch is not None:
            bars.append(self.touch)
        if self.funding_bars and self.position is not None:
            i = bisect_right(self.funding_bars, k)
            bars += self.funding_bars[i : i + 1]
        return bars

    def reasons_at(self, k: int) -> list[Reason]:
        found = (*self.events.get(k, ()), *self.ahead.get(k, ()))
        return [reason for reason in found if reason.fingerprint not in self.said]

    def remember(self, cycle_id: str, question: Question, answer: Answer) -> None:
        """Keep a decision for the memory of later ones."""
        if answer.rung != "hold":
            said, snapshot = answer.decision, question.snapshot
            earlier = Earlier(
                snapshot.as_of, said.action, float(said.confidence), snapshot.reason_for_call, vector(snapshot)
            )
            self.made[cycle_id] = earlier

    def remembered(self, done: Performance) -> Remembered:
        """Return what the store would remember of a live strategy: all that is decided, and ended, by now."""
        recent = tuple(islice(reversed(self.made.values()), LAST))
        return Remembered(recent, self.settled[: -COMPARED - 1 : -1], done)

    def settle(self, outcome: Outcome) -> None:
        """Take note of a trade that has ended."""
        self.outcomes.append(outcome)
        if (opened := self.made.get(outcome.cycle_id)) is not None:
            r = None if outcome.r_multiple is None else float(outcome.r_multiple)
            self.made[outcome.cycle_id] = opened._replace(r_multiple=r)
            self.settled.append(self.made[outcome.cycle_id])
        self.digest = ledger.digest_of(self.outcomes)

    def read_ahead(self, k: int) -> None:
        """Have the market's moments of the coming events read together."""
        if k > self.read_to:
            i = bisect_right(self.event_bars, k - 1)
            coming = self.event_bars[i : i + AHEAD]
            if coming:
                self.market.read_ahead(self.grid.start_s + (np.array(coming) + 1) * STEP)
                self.read_to = coming[-1]


def _events(market: Market, grid: Grid, calendar: tuple[CalendarEvent, ...]) -> dict[int, list[Reason]]:
    first, last = grid.closes_at(-1), grid.closes_at(grid.n - 1)
    found: dict[int, list[Reason]] = {}
    for reason in (*market.reasons(first, last), *calendar_reasons(calendar, market.symbol, first, last)):
        found.setdefault(grid.index(int(reason.as_of.timestamp())), []).append(reason)
    return found
