"""One decision cycle for a set of symbols: fetch, validate, features, detect, decide, guard, execute, record.

At most one decision per strategy, symbol and 5m bar: the cycle's id derives from them, and the store's unique key
turns a retry, a second trigger or a restarted process into a no-op or into the rest of the same cycle.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from prefect import flow

from flows.clock import cycle_time, owner, run_name, to_the_end, too_old
from flows.cycle import Cycle, Request
from flows.forms import StrategyName
from tasks import account, decide, detect, features, fetch, mirror, record, shadow, validate
from tasks.connections import store
from tasks.core.decision.kinds import kind_of
from tasks.core.market.bars import Frames
from tasks.core.market.market import Market
from tasks.core.pages import decision
from tasks.core.types import CycleRecord, DataFailure, InputError, Question, Reason, Strategy, floor_time
from tasks.crash_points import reached
from tasks.features import TOGETHER
from tasks.leases import Leases
from tasks.settings import settings
from tasks.stage import Tried, result


@flow(name="trade", flow_run_name=run_name, retries=1, retry_delay_seconds=5)
async def trade(
    symbols: list[str] | str | None = None,
    decider: str | None = None,
    dry_run: bool = False,
    reason: str = "",
    as_of: datetime | None = None,
    trigger: Literal["schedule", "event", "adhoc"] = "adhoc",
    review_only: bool = False,
    max_age_s: int = 840,
    strategy: StrategyName = "",
) -> Any:
    """Run one cycle for each symbol.

    Args:
        symbols: ccxt unified names such as BTC/USDT:USDT, a list or comma-separated; empty: all of the strategy's.
        decider: rules, hold, llm:single, llm:single@v002 (a prompt version), recorded:FILE; empty: the configured one.
        dry_run: go as far as the guard, send nothing.
        reason: why you ask; with a reason an ad-hoc run always asks the decider.
        as_of: the 5m close the run is about (UTC); empty: the latest.
        trigger: what started the run.
        review_only: only symbols with an open position.
        max_age_s: a scheduled run that comes later than this ends at once: there is a newer one behind it.
        strategy: whose run it is, by the name of its table; empty: the top level's.
    """
    if trigger == "schedule" and (late := too_old(max_age_s)):
        return late
    names = symbols.split(",") if isinstance(symbols, str) else symbols or []
    with settings.of(settings.named(strategy)) as chosen:
        request = Request(
            symbols=tuple(filter(None, map(str.strip, names))) or chosen.symbols,
            decider=decider or chosen.decider_name,
            dry_run=dry_run,
            reason=reason,
            as_of=as_of,
            trigger=trigger,
            review_only=review_only,
        )
        records = await to_the_end(run_cycles(request))
    return [decision.summary_line(record) for record in records]


async def run_cycles(request: Request) -> list[CycleRecord]:
    """Run the story once: prepare every symbol, ask the decider about all at once, then act one after the other.

    The guard sees the risk of those acted on before.
    """
    symbols, ours = tuple(dict.fromkeys(request.symbols)), settings().symbols  # one cycle each, however often named
    if unknown := [name for name in symbols if name not in ours]:
        raise InputError(f"symbol {unknown[0]!r} is not the strategy's; QUARTERDECK_SYMBOLS has {', '.join(ours)}")
    as_of = floor_time(request.as_of or await cycle_time(), "5m")
    if request.review_only:
        open_ = {position.symbol for position in store().positions.open(settings().strategy)}
        symbols = tuple(symbol for symbol in symbols if symbol in open_)
    if request.trigger == "event" and kind_of(request.decider).together:  # one question about all that changed
        symbols = tuple(name for name in ours if name in symbols or detect.claimable(name, as_of))
    if not symbols:
        return []
    if request.trigger == "schedule" and not (request.review_only or request.dry_run):
        record.record_missed(symbols, as_of)
    strategy = await fetch.fetch_strategy(request.decider)
    if not request.dry_run:
        await account.begin_equity()
    async with Leases(owner()) as leases:
        cycles = [Cycle(request, strategy, symbol, as_of, leases) for symbol in symbols]
        return await _Run(request, strategy, as_of).carry_out(cycles)


@dataclass
class _Run:
    """One run of the story over its cycles."""

    request: Request
    strategy: Strategy
    as_of: datetime
    asked: list[tuple[Cycle, Question]] = field(default_factory=list)
    tried: Tried = field(default_factory=lambda: Tried("cycle"))

    async def carry_out(self, cycles: list[Cycle]) -> list[CycleRecord]:
        """Go through every stage; what broke is raised at the end."""
        symbols = tuple(cycle.symbol for cycle in cycles)
        sees_all = any(kind_of(name).together for name in (self.request.decider, *settings().shadow))
        held = (position.symbol for position in store().positions.open(self.strategy.name))
        told = dict.fromkeys((*symbols, *(self.strategy.instruments if sees_all else held)))
        unfetched = await fetch.fetch_candles(tuple(told), self.as_of)
        frames = features.load_candles(symbols, self.as_of, self.strategy.history_bars)
        failures = [*unfetched, *validate.validate_candles(frames, self.as_of)]
        for cycle in sorted(cycles, key=lambda cycle: cycle.symbol):  # one order for all, or two wait for each other
            await cycle.take_lease()
        for first in range(0, len(cycles), TOGETHER):
            await self._prepare(cycles[first : first + TOGETHER], frames, failures)
        if self.asked:
            if sees_all:
                with self.tried("the symbols that nothing is asked about"):
                    self._show_others()
            await self._decide_and_act()
            await self._afterwards()
        for error in self.tried.failed.values():
            raise error  # everything else is done: a retry takes up only the cycles that are not
        return [cycle.record for cycle in cycles]

    async def _prepare(self, cycles: list[Cycle], frames: dict[str, Frames], failures: list[DataFailure]) -> None:
        """Go through the stages up to the question; the cycles without one have ended then."""
        begun = []
        for cycle in cycles:
            with self.tried(cycle):
                if await cycle.begin(tuple(failure for failure in failures if failure.symbol == cycle.symbol)):
                    begun.append(cycle)
        if begun:
            with self.tried(*begun):
                await self._look(begun, frames)

    async def _look(self, begun: list[Cycle], frames: dict[str, Frames]) -> None:
        """Look for reasons, and make the questions; one symbol's trouble stays its own."""
        venue_time, cycles = await fetch.venue_now(), []
        for cycle in begun:
            with self.tried(cycle):
                if not cycle.ends_late(venue_time):
                    cycles.append(cycle)
        if not cycles:
            return
        chosen = {cycle.symbol: frames[cycle.symbol] for cycle in cycles}
        markets = features.build_markets(chosen, self.strategy.thresholds)
        reasons = self._reasons(cycles, markets)
        with_reason, quiet = [], []
        for cycle in cycles:
            with self.tried(cycle):
                (with_reason if cycle.has_reason(result(reasons[cycle.symbol])) else quiet).append(cycle)
        if quiet:
            with self.tried(*quiet):
                record.record_quiet([cycle.record for cycle in quiet])
                for cycle in quiet:
                    cycle.recorded()
        if with_reason:
            with self.tried(*with_reason):
                await self._ask(with_reason, markets)

    def _show_others(self) -> None:
        """Put the strategy's other symbols beside the questions; one without candles is not shown."""
        asked = {cycle.symbol for cycle, _ in self.asked}
        rest = [name for name in self.strategy.instruments if name not in asked]
        others = account.not_asked(self.strategy, rest, self.as_of)
        names = tuple(each.symbol for each in others)
        frames = features.load_candles(names, self.as_of, self.strategy.history_bars)
        built = features.build_markets(frames, self.strategy.thresholds)
        markets = {name: market for name, market in built.items() if isinstance(market, Market) and market.features}
        shown = tuple(each for each in others if each.symbol in markets)
        self.asked = [(cycle, cycle.beside(question, markets, shown)) for cycle, question in self.asked]

    async def _ask(self, cycles: list[Cycle], markets: dict[str, Market | Exception]) -> None:
        """Make the question of each, with what the world says and what may be remembered."""
        news = await fetch.fetch_headlines()
        minutes = await fetch.fetch_minutes(tuple(cycle.symbol for cycle in cycles), self.as_of)
        remembered = decide.recall(self.strategy, [cycle.symbol for cycle in cycles], self.as_of)
        known = account.known_ledger(self.strategy.name, self.as_of)
        for cycle in cycles:
            with self.tried(cycle):
                market = result(markets[cycle.symbol]).with_minutes(minutes[cycle.symbol])
                self.asked.append((cycle, await cycle.question(market, news, remembered[cycle.symbol], known)))

    def _reasons(
        self, cycles: list[Cycle], markets: dict[str, Market | Exception]
    ) -> dict[str, list[Reason] | Exception]:
        """Find what changed and claim it; a dry run claims nothing."""
        reasons = detect.detect_reasons(self.strategy, markets, self.as_of)
        if self.request.dry_run:
            return reasons
        ids = {cycle.symbol: cycle.record.cycle_id for cycle in cycles}
        failed = {symbol: e for symbol, e in reasons.items() if isinstance(e, Exception)}
        return detect.claim_reasons(ids | failed, self.as_of)

    async def _decide_and_act(self) -> None:
        questions = [question for _, question in self.asked]
        ids = [cycle.record.cycle_id for cycle, _ in self.asked]
        answers = await decide.decide(questions, ids, self.request.decider)
        reached("decided")
        acted = []
        for (cycle, question), answer in zip(self.asked, answers, strict=True):
            with self.tried(cycle):
                await cycle.act(question, answer)
                acted.append(cycle)
        traces = mirror.trace_links([cycle.record for cycle in acted])
        for cycle in acted:  # only now: no order waits for a picture
            with self.tried(cycle):
                await record.explain_decision(cycle.record, trace=traces.get(cycle.record.cycle_id, ""))

    async def _afterwards(self) -> None:
        """Ask the challengers, keep the equity, and show MLflow what was decided: nothing here can change an order."""
        questions, records = [question for _, question in self.asked], [cycle.record for cycle, _ in self.asked]
        await shadow.decide_shadows(self.strategy, questions, records)
        if not self.request.dry_run:
            await account.keep_equity(await fetch.venue_now())
        mirror.show_mlflow(self.as_of)
