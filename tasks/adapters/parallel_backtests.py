"""Variants replayed side by side: features once per market, then one process per replay, forked with the markets in.

A job names everything a replay depends on, candle files included, so that a Dask worker elsewhere runs the same one;
there the markets are read once per worker. Replays that ask a model run in this process, where the spending is.
"""

import asyncio
import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from tasks.adapters.deciders import build
from tasks.adapters.files.calendar import read_calendar
from tasks.adapters.files.candles import read_candles
from tasks.adapters.files.funding import read_funding
from tasks.adapters.files.instruments import resolved
from tasks.adapters.venue.client import name_of
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError
from tasks.core.lab import compare, moments
from tasks.core.lab.compare import BacktestWindow, Point, Treatment, Trial
from tasks.core.lab.masking import STRONG, Mask, mask_bars, mask_instrument, perturbed
from tasks.core.lab.random_traders import Trade, TradedBars
from tasks.core.market.bars import epoch_s
from tasks.core.market.calendar import CalendarEvent, calendar_reasons
from tasks.core.market.market import Market
from tasks.core.ports import Decider
from tasks.core.simulation.backtest import Backtest
from tasks.core.simulation.backtest_inputs import World
from tasks.core.simulation.paid_replies import Spending
from tasks.core.simulation.symbol_backtest import make_grid
from tasks.core.types import CycleRecord, Dto, EventThresholds, Instrument, Json, Outcome, Strategy, Texts, Told
from tasks.settings import Settings, settings, strategy_of

NOISE_SEED = 1  # of what is perturbed
DASK_S = 10  # in which a scheduler answers


class ReplayFiles(Dto):
    """What a replay reads, by symbol or as one file; `instruments` names terms, the calendar may ask first."""

    candles: tuple[tuple[str, str], ...]
    funding: tuple[tuple[str, str], ...] = ()
    news: str = ""
    instruments: str = ""
    calendar: str = ""

    def events(self) -> tuple[CalendarEvent, ...]:
        """Return what the calendar knows beforehand."""
        return read_calendar(Path(self.calendar)) if self.calendar else ()


@dataclass(frozen=True)
class Treated:
    """Markets as a treatment shows them, and the way back: true symbols, and how far time was moved."""

    markets: dict[str, Market]
    names: dict[str, str]
    shift: timedelta


def treatment_of(mask_key: str | None) -> Treatment:
    """Return what a mask so named does to candles; None: there is none."""
    return "raw" if mask_key is None else "strong" if mask_key == STRONG else "masked"


@cache
def treated(
    candles: tuple[tuple[str, str], ...], treatment: Treatment, mask: Mask | None, thresholds: EventThresholds
) -> Treated:
    """Read candle files and compute everything a replay looks up; once per process and treatment."""
    markets, names, shift = {}, {}, timedelta(0)
    for symbol, path in candles:
        read = read_candles(Path(path))
        bars = perturbed(read, NOISE_SEED) if treatment in ("strong", "perturbed") else read
        shown, bars = (symbol, bars) if mask is None else mask_bars(bars, symbol, mask)
        market = Market.from_base(shown, bars, thresholds)
        if not bars["volume"].any():
            raise InputError(f"{path}: every volume is 0, so nothing would fill: bring candles with what was traded")
        for each in ("events", "event_closes", "tables", "anchor_table", "votes", "roles"):
            getattr(market, each)
        markets[shown], names[shown] = market, symbol
        shift = (bars.index[0] - read.index[0]).to_pytimedelta()
    return Treated(markets, names, shift)


class Job(Dto):
    """One replay: a strategy over one window under one treatment, and the files it reads."""

    label: str
    strategy: Strategy
    window: BacktestWindow
    treatment: Treatment = "raw"
    mask_key: str = ""  # of the masked treatments; empty: follows from the files' names
    files: ReplayFiles
    latency_s: float = 0.0

    @property
    def mask(self) -> Mask | None:
        """Return how symbols are disguised, if they are."""
        key = self.mask_key or hashlib.sha256(str(self.files.candles).encode()).hexdigest()
        return Mask(key) if self.treatment in ("masked", "strong") else None

    @property
    def seen(self) -> Treated:
        """Return the markets as the treatment shows them."""
        return treated(self.files.candles, self.treatment, self.mask, self.strategy.thresholds)

    @property
    def shown(self) -> Strategy:
        """Return the strategy as the treatment shows it: under a mask other instruments, and models told little."""
        if self.mask is None:
            return self.strategy
        hidden = [mask_instrument(each, self.mask) for each in self.strategy.instruments.values()]
        instruments = {each.symbol: each for each in hidden}
        told, symbols = self.strategy.told.replace(masked=True), tuple(instruments)
        tools = self.strategy.tools and self.strategy.tools.replace(symbols=symbols)
        return self.strategy.replace(symbols=symbols, instruments=instruments, told=told, tools=tools)

    @property
    def world(self) -> World:
        """Return the window and what the world says in it, in the treatment's own time."""
        names, shift, headlines = self.seen.names, self.seen.shift, None
        if self.files.news and not self.mask:  # they name names
            from tasks.adapters.news import read_news

            headlines = read_news(Path(self.files.news))
        paths = dict(self.files.funding)
        return World(
            start=self.window.start + shift,
            end=self.window.end + shift,
            latency_s=self.latency_s,
            funding={
                name: [rate._replace(at=rate.at + shift) for rate in read_funding(Path(paths[symbol]))]
                for name, symbol in names.items()
                if symbol in paths
            },
            calendar=tuple(event.replace(at=event.at + shift) for event in self.files.events()),
            headlines=headlines,
        )

    def backtest(self, decider: Decider, spending: Spending, **more: Any) -> Backtest:
        """Return the replay, which ends where the spending reaches its cap."""
        return Backtest(self.seen.markets, decider, self.shown, self.world, is_capped=lambda: spending.reached, **more)


def replayed(s: Settings, decider: str, files: ReplayFiles, window: BacktestWindow) -> tuple[Strategy, dict[str, str]]:
    """Return the strategy that a replay of `decider` carries out, and where its instruments come from.

    They are read off nothing of after the first decision. Only who asks a model remembers: it costs time.
    """
    return strategy_over(s, decider, treated(files.candles, "raw", None, s.events).markets, files, window)


def strategy_over(
    s: Settings, decider: str, markets: Mapping[str, Market], files: ReplayFiles, window: BacktestWindow
) -> tuple[Strategy, dict[str, str]]:
    """Return what `replayed` does, over markets that need be in no file."""
    make_grid(markets, window.start, window.end)  # says it where the window is not theirs
    events = files.events()
    decisions = {
        symbol: min(
            (
                *moments.closes(market, window.start, window.end)[:1],
                *(reason.as_of for reason in calendar_reasons(events, symbol, window.start, window.end)),
            ),
            default=window.end,
        )
        for symbol, market in markets.items()
    }
    known = None
    if not s.store_url.startswith("sqlite") or Path(urlsplit(s.store_url).path[1:]).exists():
        from tasks.adapters.store.store import opened  # a quarter of a replay's start

        known = opened(s.store_url)
    # as `ingest` keeps them: under the profile's own name, and with --venue under that of paper
    venues = (name_of(s), name_of(s.replace(profile="paper")))

    def stored(symbol: str) -> Instrument | None:
        return next(filter(None, (known.instruments.get(venue, symbol) for venue in venues)), None) if known else None

    bars = {symbol: market.bars["5m"] for symbol, market in markets.items()}
    terms = resolved(bars, decisions, Path(files.instruments) if files.instruments else None, stored)
    instruments = {symbol: each.instrument for symbol, each in terms.items()}
    symbols = tuple(instruments)
    strategy = strategy_of(s, decider, symbols=symbols, instruments=instruments, **told_of(s, decider, symbols))
    return strategy, {symbol: each.source for symbol, each in terms.items()}


def told_of(s: Settings, decider: str, symbols: Texts) -> Json:
    """Return what a replay's strategy says of what its decider is told and may look up."""
    kind = kind_of(decider)
    told: Json = {"told": Told(memory=kind.asks_model)}
    if kind.looks_up:
        from tasks.adapters.model.toolbox import limits_of

        told |= {"tools": limits_of(s).replace(symbols=symbols), "tool_rates": s.tool_rates}
    return told


def terms_of(strategy: Strategy, sources: dict[str, str]) -> dict[str, Json]:
    """Return each symbol's terms and where they come from, for people."""
    return {
        symbol: {**instrument.model_dump(exclude={"symbol"}), "source": sources[symbol]}
        for symbol, instrument in strategy.instruments.items()
    }


def data_hash(seen: Treated) -> str:
    """Return the sha256 of every symbol's 5m candles."""
    bars = [(symbol.encode(), market.bars["5m"]) for symbol, market in sorted(seen.markets.items())]
    parts = (part for symbol, each in bars for part in (symbol, epoch_s(each.index), each.to_numpy()))
    return hashlib.sha256(b"".join(map(bytes, parts))).hexdigest()


def day_hashes(bars: Iterable[pd.DataFrame]) -> set[str]:
    """Return a hash of each UTC day's hourly returns in basis points, of every symbol's 5m bars.

    A symbol under another name or at another scale has the same days, and one candle more or less changes one of them.
    Days that did not move, or of less than six returns, are like too many others.
    """
    hashes = set()
    for each in bars:
        closes = each["close"].resample("1h").last().dropna()
        for _, hourly in closes.resample("1D"):
            moved = np.round(np.diff(np.log(hourly)) * 1e4).astype("int32")
            if len(moved) >= 6 and moved.any():
                hashes.add(hashlib.sha256(moved.tobytes()).hexdigest()[:16])
    return hashes


def bars_of(seen: Treated) -> dict[str, TradedBars]:
    """Return the bars that traded, as random trades need them."""
    traded = {symbol: market.bars["5m"].dropna() for symbol, market in seen.markets.items()}
    return {
        symbol: TradedBars(bars["open"].to_numpy(), bars["close"].to_numpy(), epoch_s(bars.index) + 300)
        for symbol, bars in traded.items()
    }


def run_job(job: Job) -> Trial:
    """Replay one job whose decider asks no model."""
    return asyncio.run(replay(job, build(job.strategy.decider, settings()), Spending()))


async def replay(job: Job, decider: Decider, spending: Spending) -> Trial:
    """Replay one job; when the spending reaches its cap, what was decided before that counts."""
    seen = job.seen
    points = []
    sides = {}
    back = round(seen.shift.total_seconds())

    def note(record: CycleRecord) -> None:
        points.append(_point(record, seen.names, back))
        for intent in record.intents:
            if not intent.reduce_only:
                sides[record.cycle_id] = ("long" if intent.side == "buy" else "short", points[-1].at_s)

    result = await job.backtest(decider, spending, on_record=note).run()
    trades = [_trade(outcome, seen.names, sides, back) for outcome in result.outcomes]
    closes = int(result.grid.closes_at(0).timestamp()) + 300 * np.arange(len(result.equity))
    days, equity = compare.daily(result.equity, closes, float(job.strategy.capital))
    return Trial(
        job.label,
        job.window.index,
        job.treatment,
        days - back,
        equity,
        result.summary(),
        trades,
        points,
        complete=result.complete,
    )


def _point(record: CycleRecord, names: dict[str, str], back: int) -> Point:
    decided = record.decided
    assert decided is not None
    return Point(
        at_s=int(record.as_of.timestamp()) - back, symbol=names[record.symbol], action=decided.decision.action,
        confidence=float(decided.decision.confidence), model_calls=len(decided.calls), errors="; ".join(decided.errors),
    )  # fmt: skip


def _trade(outcome: Outcome, names: dict[str, str], sides: dict[str, tuple[str, int]], back: int) -> Trade:
    closed = int(outcome.closed_at.timestamp()) - back
    side, decided_s = sides.get(outcome.cycle_id, ("long", closed))
    notional = abs(float(outcome.pnl / outcome.pnl_pct * 100)) if outcome.pnl_pct else float(outcome.entry_price)
    return Trade(
        symbol=names[outcome.symbol], side=side, notional=notional, opened_s=closed - outcome.hold_seconds,
        closed_s=closed, pnl=float(outcome.pnl), fees=float(outcome.fees),
        decided_s=decided_s,
        outcome_r=None if outcome.outcome_r is None else float(outcome.outcome_r),
    )  # fmt: skip


def run_all(
    jobs: Sequence[Job], dask: str = "", processes: int = 0, work: Callable[[Job], Trial] = run_job
) -> Iterator[Trial]:
    """Replay jobs that ask no model, each as soon as there is a process for it; in any order.

    dask: a scheduler's address; the candle files must be readable there, and `work` may be a task of Prefect's. Else
    processes of this machine.
    """
    if dask:
        from distributed import as_completed as finished
        from prefect_dask.client import PrefectDaskClient

        try:
            client = PrefectDaskClient(dask, timeout=DASK_S)  # type: ignore[no-untyped-call]  # dask has no types
        except (OSError, ValueError, TimeoutError) as e:
            raise InputError(f"--dask {dask}: no Dask scheduler answers there ({e})") from e
        with client:
            futures = client.map(work, jobs, pure=False)  # type: ignore[no-untyped-call]  # nor has prefect-dask
            yield from (future.result() for future in finished(futures))  # type: ignore[no-untyped-call]  # nor dask
        return
    for job in jobs:
        _ = job.seen  # before the fork: computed once, shared by every process
    count = min(processes or os.cpu_count() or 1, len(jobs))
    if count <= 1:
        yield from map(run_job, jobs)
        return
    with ProcessPoolExecutor(count, multiprocessing.get_context("fork")) as pool:
        for done in as_completed([pool.submit(run_job, job) for job in jobs]):
            yield done.result()


async def run_paid(
    jobs: Iterable[tuple[Job, Decider]], spending: Spending, done: Callable[[Trial], None]
) -> list[Trial]:
    """Replay jobs that ask models, side by side in this process: they wait for the network most of the time."""

    async def one(job: Job, decider: Decider) -> Trial:
        trial = await replay(job, decider, spending)
        done(trial)
        return trial

    return await asyncio.gather(*(one(*each) for each in jobs))
