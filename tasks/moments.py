"""Gather moments, from stored candles, candle files or live records, and keep them where MLflow's users find them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from tasks.adapters.files.candles import read_candles
from tasks.adapters.files.instruments import resolved
from tasks.adapters.mlflow import datasets
from tasks.adapters.mlflow.comparison import server_of
from tasks.adapters.mlflow.server import MlflowServer
from tasks.adapters.venue.client import name_of
from tasks.connections import log, store
from tasks.core.lab import moments
from tasks.core.lab.masking import Mask, mask_bars, mask_instrument
from tasks.core.lab.moments import Moment
from tasks.core.lab.recorded_replies import NotReplayable, replayable
from tasks.core.market.market import Market
from tasks.core.simulation.backtest_inputs import World
from tasks.core.simulation.counterfactual import HORIZON_BARS
from tasks.core.types import Dto, InputError, Texts, Told, Utc, duration
from tasks.kept_history import store_replayer
from tasks.settings import Settings, settings, strategy_of
from tasks.stage import stage

DAY = HORIZON_BARS * duration("5m")


class MomentsRequest(Dto):
    """Which moments to keep, and under which name.

    Of candles (stored ones of `symbols` at `venue`, or files) so many closes with an event, and quiet ones, per symbol.
    live: of the decisions of the last `days` instead, those that cost most against doing nothing, those on which
    champion and challenger disagreed, or the latest, `most` of them.
    """

    name: str
    symbols: Texts = ()  # none: those that are traded
    venue: str = ""  # as `ingest --venue` keeps them; none: the profile's own
    candles: dict[str, str] = {}
    instruments: str = ""
    start: Utc | None = None
    end: Utc | None = None
    events: int = Field(100, ge=0)
    quiet: int = Field(0, ge=0)
    live: Literal["", "worst", "disagreed", "latest"] = ""
    days: float = Field(30, gt=0)
    most: int = Field(50, gt=0)
    mask: bool | str | None = None  # or its key


def lab_server() -> MlflowServer:
    """Return the experiment that moments and comparisons are kept in; raises InputError where tracking is off."""
    if not settings().mlflow_url:
        raise InputError("QUARTERDECK_MLFLOW_URL is empty: moments are kept in MLflow, `quarterdeck up` starts one")
    return server_of(settings().mlflow_url)


@stage
def gather(request: MomentsRequest, now: datetime) -> list[Moment]:
    """Choose moments; raises InputError where there are none."""
    mask = Mask(request.mask if isinstance(request.mask, str) else request.name) if request.mask else None
    chosen = _of_records(request, mask, now) if request.live else _of_candles(request, mask)
    if not chosen:
        raise InputError(
            f"moments {request.name}: none in the {'records' if request.live else 'candles'} asked for; a moment needs "
            "the day that followed it, one of candles also 9 days before"
        )
    return chosen


@stage
def keep(request: MomentsRequest, chosen: Sequence[Moment]) -> str:
    """Keep them as the next version of their name, `NAME@VERSION`; the same ones stay the version they are."""
    source = f"live, {request.live}" if request.live else "files" if request.candles else "stored candles"
    symbols = ", ".join(sorted({each.symbol for each in chosen}))
    tags = {"source": f"{source}: {symbols}", "masked": str(bool(request.mask)).lower()}
    return str(datasets.create(lab_server(), request.name, chosen, tags).name)


def _of_candles(request: MomentsRequest, mask: Mask | None) -> list[Moment]:
    s, found = settings(), []
    venue = name_of(s.replace(venue=request.venue, profile="paper") if request.venue else s)
    for symbol, bars in (_files(request.candles) if request.candles else _stored(s, request.symbols, venue)).items():
        at = request.start or bars.index[0].to_pydatetime() + moments.WARM_UP
        file = Path(request.instruments) if request.instruments else None
        known = resolved({symbol: bars}, {symbol: at}, file, lambda each: store().instruments.get(venue, each))
        instrument, name, shift = known[symbol].instrument, symbol, timedelta(0)
        if mask is not None:
            instrument, shift = mask_instrument(instrument, mask), mask.shift
            name, bars = mask_bars(bars, symbol, mask)
        told = Told(memory=True, news=False, masked=mask is not None)
        strategy = strategy_of(s, s.decider_name, symbols=(name,), instruments={name: instrument}, told=told)
        world = World(request.start and request.start - shift, request.end and request.end - shift)
        market = Market.from_base(name, bars, s.events)
        found += moments.of_candles(market, strategy, world, request.quiet, request.events)
    return found


def _files(paths: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    return {symbol: read_candles(Path(path)) for symbol, path in paths.items()}


def _stored(s: Settings, symbols: Texts, venue: str) -> dict[str, pd.DataFrame]:
    kept = {symbol: store().candles.history(venue, symbol, "5m")[0] for symbol in symbols or s.symbols}
    for symbol, bars in kept.items():
        if bars.empty:
            raise InputError(
                f"{symbol}: no 5m candles of {venue} are stored; `quarterdeck ingest --venue {s.venue or 'bybit'} "
                f"--symbol {symbol} --timeframe 5m --since ...` fetches them"
            )
    return kept


def _of_records(request: MomentsRequest, mask: Mask | None, now: datetime) -> list[Moment]:
    """Take moments from decisions that were made live; what cannot be replayed, or has no day after it, is left out."""
    since, strategy, replayer = now - timedelta(days=request.days), settings().strategy, store_replayer()
    disagreed = _disagreed(strategy, since)
    scored: list[tuple[float, Moment]] = []
    left = 0
    for record in store().cycles.oldest_first(strategy):
        if record.decided is None or record.as_of < since or (request.symbols and record.symbol not in request.symbols):
            continue
        if request.live == "disagreed" and record.cycle_id not in disagreed:
            continue
        try:
            whole, mine = replayable(record), replayer.strategy(record)
            bars = replayer.history(mine.venue, record.symbol).frames["5m"]
            if bars.empty or bars.index[-1] < record.as_of + DAY - duration("5m"):
                raise NotReplayable("the candles of the day that followed")
            one = moments.moment(replayer.asked(record), whole.state, bars, cycle_id=record.cycle_id)
            scored.append((moments.evaluated(one, whole.decided, mine).value_r, one))
        except NotReplayable as e:
            log().info("moment symbol=%s as_of=%s left out: it lacks %s", record.symbol, record.as_of, e)
            left += 1
    if left:
        log().warning("moments left out: %d of %d decisions lack something", left, left + len(scored))
    scored.sort(key=lambda each: each[0] if request.live == "worst" else -each[1].as_of.timestamp())
    return [moments.disguised(one, mask) if mask else one for _, one in scored[: request.most]]


def _disagreed(strategy: str, since: datetime) -> set[str]:
    """Return the cycles in which champion and challengers did not all want the same."""
    wanted: dict[str, set[str]] = {}
    for shadow, _ in store().shadow.scored(strategy, since):
        wanted.setdefault(shadow.cycle_id, set()).add(shadow.decided.decision.action)
    return {cycle for cycle, actions in wanted.items() if len(actions) > 1}
