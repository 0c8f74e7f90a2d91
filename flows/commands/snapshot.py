"""`snapshot`, `events` and `question`: what a decider sees, when it is asked, and the messages it is sent."""

import asyncio
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from flows.commands.options import (
    PLACE,
    candle_options,
    decider_option,
    json_option,
    lines_option,
    markets,
    news_option,
    one_market,
    span_options,
    time_option,
)
from flows.commands.output import emit
from tasks.core.errors import InputError
from tasks.settings import settings, strategy_of

BAR = timedelta(minutes=5)


@click.command()
@candle_options()
@time_option("--as-of", required=True, help="ISO time, UTC; floored to 5 minutes")
@click.option("--lean", is_flag=True, help="the small text that prompts send")
@click.option("--plot", type=PLACE, help="a .png or .html to write the chart to")
@json_option
def snapshot(files: dict[str, str], as_of: datetime | None, lean: bool, plot: Path | None, as_json: bool) -> None:
    """What a decider would see at a moment."""
    from tasks.core.market import lean as lean_encoding
    from tasks.core.market.snapshot import to_json
    from tasks.core.trading.question import question as asked
    from tasks.core.types import OrderBookView

    market = one_market(files, "snapshot")
    at, strategy, account, reasons = _moment(market, as_of, "")
    seen = asked(strategy, market, account, OrderBookView(), None, None, reasons, at).snapshot
    if plot is not None:
        from tasks.adapters.charts import moment as chart

        chart.write(plot, market, at, text=lean_encoding.encode(seen), reasons=reasons)
        click.echo(f"plot {plot}", err=True)
    if seen.timeframes["5m"].close is None and not as_json:
        click.echo(f"no 5m bar closed at {at.isoformat()}: everything of it is unknown", err=True)
    click.echo(lean_encoding.encode(seen) if lean else to_json(seen))


def _moment(market: Any, as_of: datetime | None, decider: str) -> tuple[datetime, Any, Any, Any]:
    """Return a close, a strategy of the market's symbol, its account before it trades, and the reasons to ask.

    The instrument is the one that the last close, of any timeframe, tells.
    """
    from tasks.core.lab.moments import flat_account
    from tasks.core.market.instruments import derived
    from tasks.core.types import duration, floor_time, known

    if as_of is None:
        raise InputError("--as-of is empty")
    at, symbol = floor_time(as_of, "5m"), market.symbol
    first, last = market.bars[market.finest].index[[0, -1]] + duration(market.finest)
    if not first <= at <= last:
        raise InputError(
            f"--as-of {as_of.isoformat()}: no candle of {symbol} closes then; they close from {first} to {last}"
        )
    closes = (market.value(timeframe, "close", at) for timeframe in market.bars)
    resolved = derived(symbol, known(next((close for close in closes if close is not None), None)))
    instruments = {symbol: resolved.instrument} if resolved else {}
    strategy = strategy_of(settings(), decider, symbols=(symbol,), instruments=instruments)
    return at, strategy, flat_account(market, strategy, at), market.reasons(at - BAR, at)


@click.command()
@candle_options()
@span_options
@lines_option
def events(files: dict[str, str], start: datetime | None, end: datetime | None) -> None:
    """When a decider would be asked, and why: one JSON line per 5m close with a reason."""
    from tasks.core.simulation.symbol_backtest import make_grid

    for symbol, market in markets(files).items():
        grid = make_grid({symbol: market}, start, end)
        fired = market.reasons(grid.closes_at(-1), grid.closes_at(grid.n - 1))
        for at, group in groupby(fired, key=lambda reason: reason.as_of):
            emit({"at": at, "symbol": symbol, "reasons": [str(reason) for reason in group]}, as_json=True)


@click.command()
@click.option("--cycle", "cycle_id", default="", help="of a cycle in the store: what its decider was sent")
@candle_options(required=False)
@time_option("--as-of", help="ISO time, UTC; floored to 5 minutes")
@decider_option
@news_option
@lines_option
def question(cycle_id: str, files: dict[str, str], as_of: datetime | None, decider: str, news: str) -> None:
    """The very messages a model is sent: a line {"role","messages"} for each role that is asked."""
    if bool(cycle_id) == bool(files):
        raise InputError("question needs either --cycle ID, or --candles with --symbol and --as-of")
    if cycle_id:  # its decider asks again, on the replies that were recorded
        from flows.commands.replay import asked_again

        answer = asyncio.run(asked_again(cycle_id))
        calls = [(call.role, call.messages) for call in answer.calls if call.messages and not call.sample]
        if not calls:
            raise InputError(f"cycle {cycle_id}: {answer.source} asked no model")
    else:
        calls = _calls_about(files, as_of, decider, news)
    for role, messages in calls:
        emit({"role": role, "messages": messages}, as_json=True)


def _calls_about(files: dict[str, str], as_of: datetime | None, decider: str, news: str) -> list[tuple[str, Any]]:
    """Ask about a flat account at a moment of candle files, as a replay does."""
    from tasks.adapters.deciders import build
    from tasks.adapters.news import read_news
    from tasks.core.decision.llm.tools import DESK
    from tasks.core.lab.moments import flat_desk, flat_question
    from tasks.core.simulation.backtest_inputs import World
    from tasks.core.simulation.paid_replies import Probe

    probe, market = Probe(), one_market(files, "question")
    chosen = build(decider, settings(), model=probe)
    at, strategy, account, reasons = _moment(market, as_of, decider)
    world = World(headlines=read_news(Path(news)) if news else None)
    DESK.set(partial(flat_desk, market, account, strategy, world))
    asyncio.run(chosen.decide([flat_question(market, account, strategy, world, at, reasons)]))
    if not probe.asked:
        raise InputError(f"--decider {decider}: asks no model; name one that does, such as llm:single")
    return [(request.prompt.name, request.messages) for request in probe.asked]


COMMANDS = (snapshot, question, events)
