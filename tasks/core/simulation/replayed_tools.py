"""What the tools of `llm:tools` answer with in a replay: its candles, its modelled book, its own ledger, as of then.

Nothing is asked of a venue or a store, and nothing of after the decision's close is read. Single trades are in no file
of candles, and under a mask there is nothing to look up: both are said, as an error that the model sees.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from tasks.core.decision.llm.tools import (
    PRESENT,
    Candles,
    Listed,
    Meter,
    Parameters,
    ToolDesk,
    candles_text,
    compact,
    position_text,
    time_text,
)
from tasks.core.decision.memory import Remembered
from tasks.core.market import orderbook
from tasks.core.market.bars import epoch_s
from tasks.core.market.market import Market
from tasks.core.simulation.backtest_inputs import World
from tasks.core.trading.question import order_size
from tasks.core.types import (
    SECONDS,
    AccountState,
    DataError,
    JsonObject,
    Position,
    Question,
    Strategy,
    ToolLimits,
    ToolRates,
    TradeDigest,
)


class Known(NamedTuple):
    """What a replay's ledger knows of one symbol at one close."""

    account: AccountState
    position: Position | None = None
    digest: TradeDigest = TradeDigest()
    remembered: Remembered | None = None


@dataclass(frozen=True)
class ReplayedTools:
    """Implements `decision.llm.tools.Toolbox` for one decision."""

    question: Question
    strategy: Strategy
    markets: Mapping[str, Market]
    world: World
    known: Callable[[str], Known]

    async def run(self, tool: str, parameters: Parameters, as_of: datetime) -> str:
        """Answer from what the replay knows at as_of; raises DataError for what it cannot know."""
        if self.strategy.told.masked:
            raise DataError("hidden: under a mask nothing is looked up")
        if parameters.symbol not in self.markets:
            raise DataError(f"no candles of {parameters.symbol} are replayed")
        found: JsonObject = getattr(self, f"_{tool}")(parameters, as_of)
        if tool in PRESENT:
            found = {"observed_at": time_text(as_of), "columns": PRESENT[tool], **found}
        return compact({"as_of": time_text(as_of), **found})

    def _candles(self, asked: Candles, as_of: datetime) -> JsonObject:
        until, bars = asked.until or as_of, self.markets[asked.symbol].bars[asked.timeframe]
        closed = bars[epoch_s(bars.index) + SECONDS[asked.timeframe] <= until.timestamp()].dropna()
        return candles_text(closed.tail(asked.limit), asked, until)

    def _order_book(self, asked: Parameters, as_of: datetime) -> JsonObject:
        """Answer with the one level that the model of the book has: prices, no sizes."""
        market, equity = self.markets[asked.symbol], self.known(asked.symbol).account.equity
        last, atr_pct = market.value("5m", "close", as_of), market.value("15m", "atr_pct", as_of)
        spread = orderbook.modelled(atr_pct, float(order_size(self.strategy, equity))).spread_bps
        if last is None or spread is None:
            raise DataError(f"no book of {asked.symbol} can be modelled yet")
        half = last * spread / 20_000
        return {"modelled": True, "rows": [[float(f"{last - half:.10g}"), None, float(f"{last + half:.10g}"), None]]}

    def _trades(self, asked: Parameters, _: datetime) -> JsonObject:
        raise DataError(f"a replay knows no single trades of {asked.symbol}; ask for candles")

    def _funding(self, asked: Listed, as_of: datetime) -> JsonObject:
        paid = [rate for rate in self.world.funding.get(asked.symbol, ()) if rate.at <= as_of]
        if not paid:
            raise DataError(f"funding of {asked.symbol} is unknown in this replay")
        return {"rows": [[time_text(each.at), float(each.rate)] for each in paid[: -asked.limit - 1 : -1]]}

    def _position(self, asked: Parameters, _: datetime) -> JsonObject:
        return position_text(self.known(asked.symbol).position)

    def _digest(self, asked: Parameters, _: datetime) -> JsonObject:
        return self.known(asked.symbol).digest.model_dump(mode="json")

    def _similar_decisions(self, asked: Listed, _: datetime) -> JsonObject:
        question, known = self.question, self.known(asked.symbol)
        if question.memory and question.snapshot.pair == asked.symbol:
            found = question.memory.similar
        else:
            found = tuple(one.past for one in known.remembered.settled) if known.remembered else ()
        return {"rows": [past.model_dump(mode="json", exclude_none=True) for past in found[: asked.limit]]}

    def desk(self) -> ToolDesk:
        """Return the tools behind what the strategy allows; no minute passes in a replay."""
        limits = self.strategy.tools or ToolLimits(symbols=tuple(self.markets), venue="")
        return ToolDesk(self, limits, Meter(self.strategy.tool_rates or ToolRates(), lambda: 0.0))
