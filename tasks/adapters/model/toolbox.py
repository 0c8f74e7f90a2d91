"""What the tools of `core.decision.llm.tools` answer with: stored candles, the venue's public data, our own ledger.

Reads only: it knows the market half of a venue, which has no orders, and the store, of which it only reads. Candles
and similar decisions are as known at as_of. The book, trades, funding, our position and digest are known only as they
are now; for another as_of, a replay's, they are refused.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import zip_longest

from tasks import clock
from tasks.adapters.store.store import Store
from tasks.adapters.venue import MarketData, client
from tasks.adapters.venue.ccxt_venue import connect
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
from tasks.core.market.bars import bars_of_trades
from tasks.core.trading import ledger
from tasks.core.types import DataError, JsonObject, Question, ToolLimits, ToolRates
from tasks.settings import Settings

Rows = list[list[object]]
TRADES = 1000  # the last ones, where candles are made of them
OURS = ("position", "digest")  # what our ledger tells of the present alone


@dataclass(eq=False)
class DataToolbox:
    """Implements `decision.llm.tools.Toolbox`. `question` is the decision it serves, with what was remembered for it.

    With `now` as_of is the present by definition (MCP); without, the venue's clock says whether it is.
    """

    store: Store
    market: Callable[[], MarketData]
    settings: Settings
    question: Question | None = None
    now: bool = False

    async def run(self, tool: str, parameters: Parameters, as_of: datetime) -> str:
        answer = getattr(self, f"_{tool}")
        if tool in OURS and not self.now:
            await self._observed(as_of)
        if tool in PRESENT:
            observed = await self._observed(as_of)
            found = {"observed_at": observed, "columns": PRESENT[tool], "rows": await answer(parameters)}
        else:
            found = await answer(parameters, as_of)
        return compact({"as_of": time_text(as_of), **found})

    async def _candles(self, asked: Candles, as_of: datetime) -> JsonObject:
        until = asked.until or as_of
        series = (self.market().name, asked.symbol, asked.timeframe)
        bars = await asyncio.to_thread(self.store.candles.load, *series, until, asked.limit)
        if bars.empty and not self.market().has_timeframe(asked.timeframe):
            return await self._candles_of_trades(asked, until)
        return candles_text(bars, asked, until)

    async def _candles_of_trades(self, asked: Candles, until: datetime) -> JsonObject:
        """Answer, where the venue has no such candles, with those that its last public trades make."""
        await self._observed(until)
        trades = await self.market().fetch_trades(asked.symbol, TRADES)
        told = candles_text(bars_of_trades(trades, asked.timeframe, until).tail(asked.limit), asked, until)
        return {"made_of": "trades", **told}

    async def _order_book(self, asked: Listed) -> Rows:
        book = await self.market().fetch_book(asked.symbol)
        levels = zip_longest(book.bids[: asked.limit], book.asks[: asked.limit], fillvalue=(None, None))
        return [[None if x is None else float(x) for x in (*bid, *ask)] for bid, ask in levels]

    async def _trades(self, asked: Listed) -> Rows:
        return [[time_text(at), *rest] for at, *rest in await self.market().fetch_trades(asked.symbol, asked.limit)]

    async def _funding(self, asked: Listed) -> Rows:
        return [[time_text(at), rate] for at, rate in await self.market().fetch_funding(asked.symbol, asked.limit)]

    async def _position(self, asked: Parameters, _: datetime) -> JsonObject:
        mine = await asyncio.to_thread(self.store.positions.open, self.settings.strategy, asked.symbol)
        return position_text(mine[0] if mine else None)

    async def _digest(self, asked: Parameters, as_of: datetime) -> JsonObject:
        outcomes = await asyncio.to_thread(
            self.store.outcomes.newest, self.settings.strategy, asked.symbol, as_of, None
        )
        return ledger.digest(outcomes).model_dump(mode="json")

    async def _similar_decisions(self, asked: Listed, as_of: datetime) -> JsonObject:
        """Answer with the nearest moments remembered for this decision; without, with the last whose R is known."""
        question = self.question
        if question and question.memory and question.snapshot.pair == asked.symbol:
            found = question.memory.similar
        else:
            known = await asyncio.to_thread(self.store.memory.remembered, self.settings.strategy, asked.symbol, as_of)
            found = tuple(one.past for one in known.settled)
        return {"rows": [past.model_dump(mode="json", exclude_none=True) for past in found[: asked.limit]]}

    async def _observed(self, as_of: datetime) -> str:
        """Return the venue's time; raises DataError if as_of is not the present."""
        now = await self.market().now()
        if not self.now and abs(now - as_of).total_seconds() > self.settings.limits.max_lateness_s:
            raise DataError(f"known only as of now, {time_text(now)}, not as of {time_text(as_of)}")
        return time_text(now)


@cache
def meter(rates: ToolRates) -> Meter:
    """Return this process's meter: decisions and MCP calls count together."""
    return Meter(rates, clock.monotonic)


readings = cache(Store)  # opened without migrating it: a reader changes nothing


def limits_of(settings: Settings) -> ToolLimits:
    return ToolLimits(
        symbols=settings.symbols, venue=client.exchange_of(settings), rounds=settings.tool_rounds,
        calls=settings.tool_calls, response_bytes=settings.tool_bytes, deadline_s=settings.decision_deadline_s,
    )  # fmt: skip


def public_market(settings: Settings) -> MarketData:
    """Make a client for public data alone: it has no key, whatever the profile. Opens no connection."""
    public = settings.profile in ("sandbox", "paper")
    exchange = client.build(settings if public else settings.replace(profile="paper"))
    return MarketData(exchange, client.name_of(settings))


def desk_of(settings: Settings, question: Question | None = None, market: MarketData | None = None) -> ToolDesk:
    """Return the tools of one decision, on the venue client of the running event loop; with `market` those of now."""
    toolbox = DataToolbox(
        readings(settings.store_url), lambda: market or connect(settings).market, settings, question, now=bool(market)
    )
    return ToolDesk(toolbox, limits_of(settings), meter(settings.tool_rates))
