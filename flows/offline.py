"""The commands that need no server: they read candle files, snapshots and replies, and print what the core says."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from flows.output import emit, read_json, read_text, utc_time
from tasks.core.errors import DataError, InputError
from tasks.settings import settings

candles_option = click.option("--candles", multiple=True, required=True, help="FILE, or SYMBOL=FILE, repeatable")
symbol_option = click.option("--symbol", "symbols", multiple=True, help="ccxt unified, e.g. BTC/USDT:USDT")
json_option = click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
start_option = click.option("--start", help="ISO time, UTC")
end_option = click.option("--end", help="ISO time, UTC")


def markets(candles: tuple[str, ...], symbols: tuple[str, ...]) -> dict[str, Any]:
    """Read candle files into markets, by symbol."""
    from tasks.adapters.candles import parse_candle_options, read_candles
    from tasks.core.market.snapshot import Market

    for symbol in symbols:
        check_symbol(symbol)
    chosen = parse_candle_options(candles, symbols)
    return {s: Market.from_base(s, read_candles(path), settings().events) for s, path in chosen.items()}


def check_symbol(symbol: str) -> None:
    """Raise InputError unless `symbol` looks like ccxt's unified form."""
    base, slash, rest = symbol.partition("/")
    if not (base and slash and rest):
        raise InputError(f"--symbol {symbol!r}: not a ccxt unified symbol such as BTC/USDT:USDT or BTC/USDT")


@click.command()
@candles_option
@symbol_option
@click.option("--as-of", required=True, help="ISO time, UTC; floored to 5 minutes")
@click.option("--lean", is_flag=True, help="the small text that prompts send")
@click.option("--plot", type=click.Path(path_type=Path), help="a .png or .html to write the chart to")
@json_option
def snapshot(
    candles: tuple[str, ...], symbols: tuple[str, ...], as_of: str, lean: bool, plot: Path | None, as_json: bool
) -> None:
    """What a decider would see at a moment."""
    from tasks.core.market import lean as lean_encoding
    from tasks.core.market.snapshot import to_json
    from tasks.core.trading.question import make_question
    from tasks.core.types.bars import floor_time
    from tasks.core.types.portfolio import AccountState

    if len(symbols) != 1:
        raise InputError("snapshot needs exactly one --symbol")
    market = markets(candles, symbols)[symbols[0]]
    at = floor_time(utc_time(as_of, "--as-of") or _never(), "5m")
    reasons = market.reasons(at - timedelta(minutes=5), at)
    question = make_question(market, at, AccountState(), settings().limits, settings().costs, reasons=reasons)
    if plot is not None:
        from tasks.adapters import plot as chart

        chart.write(plot, market, at, text=lean_encoding.encode(question.snapshot), reasons=reasons)
        click.echo(f"plot {plot}", err=True)
    if question.snapshot.timeframes["5m"].close is None and not as_json:
        click.echo(f"no 5m bar closed at {at.isoformat()}: everything of it is unknown", err=True)
    click.echo(lean_encoding.encode(question.snapshot) if lean else to_json(question.snapshot))


def _never() -> Any:
    raise InputError("--as-of is empty")


@click.command()
@candles_option
@symbol_option
@start_option
@end_option
def events(candles: tuple[str, ...], symbols: tuple[str, ...], start: str | None, end: str | None) -> None:
    """When a decider would be asked, and why: one JSON line per 5m close with a reason."""
    from itertools import groupby

    first, last = utc_time(start, "--start"), utc_time(end, "--end")
    for symbol, market in markets(candles, symbols).items():
        opens = market.bars["5m"].index
        if not len(opens):
            raise DataError(f"{symbol}: events need candles of 5m or finer")
        found = market.reasons(
            first or opens[0].to_pydatetime(), last or opens[-1].to_pydatetime() + timedelta(minutes=5)
        )
        for at, group in groupby(found, key=lambda reason: reason.as_of):
            emit({"at": at, "symbol": symbol, "reasons": [str(reason) for reason in group]}, as_json=True)


@click.command()
@click.option("--snapshot", "file", required=True, help="a file of `quarterdeck snapshot --json`, or -")
@click.option("--decider", default="", help="rules, hold, llm:single, recorded:FILE")
@json_option
def decide(file: str, decider: str, as_json: bool) -> None:
    """Ask a decider about a snapshot."""
    from tasks.adapters.deciders import build
    from tasks.core.types.snapshot import Question

    chosen = build(decider or settings().decider_name, settings())
    seen = _snapshot(file)
    decided = asyncio.run(chosen.decide([Question(snapshot=seen)]))[0]
    emit(
        {
            "decision": reply_of(decided.decision), "source": decided.source, "rung": decided.rung,
            "model": decided.model, "latency_ms": decided.latency_ms, "cost_usd": decided.cost_usd,
            "tokens": decided.tokens, "errors": decided.errors, "trail": decided.trail,
        },
        as_json,
    )  # fmt: skip


def reply_of(decision: Any) -> dict[str, Any]:
    """Return a decision in the contract's shape."""
    from tasks.core.decision.actions import reply_of as shape

    return shape(decision)


def _snapshot(file: str) -> Any:
    from tasks.core.types.snapshot import Snapshot

    document = json.loads(json.dumps(read_json(file, "--snapshot"), default=float))
    try:
        return Snapshot.model_validate(document)
    except ValidationError as e:
        raise InputError(f"--snapshot {file}: {_first(e)}") from e


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


@click.command()
@click.option("--snapshot", "file", required=True, help="a file of `quarterdeck snapshot --json`")
@click.option("--reply", required=True, help="a file with a model's raw reply, or -")
@click.option("--state", help="a JSON file with the account's state; default: flat, 10,000 quote")
@json_option
def guard(file: str, reply: str, state: str | None, as_json: bool) -> None:
    """Put a raw model reply through the parser and the guard."""
    from tasks.core.decision.actions import Rejected, parse_reply
    from tasks.core.trading import guard as rules
    from tasks.core.trading import orders
    from tasks.core.types.decision import hold
    from tasks.core.types.portfolio import AccountState

    seen = _snapshot(file)
    try:
        account = AccountState.model_validate(read_json(state, "--state")) if state else AccountState()
    except ValidationError as e:
        raise InputError(f"--state {state}: {_first(e)}") from e
    parsed = parse_reply(read_text(reply, "--reply"), seen.pair, max_bytes=settings().max_reply_bytes)
    refused = parsed if isinstance(parsed, Rejected) else None
    decision = hold(seen.pair, f"reply refused: {parsed.reason}") if isinstance(parsed, Rejected) else parsed
    verdict = rules.judge(decision, seen, account, settings().limits, settings().costs)
    cycle_id = orders.cycle_id(settings().strategy, seen.pair, seen.as_of)
    emit(
        {
            "allowed": verdict.allowed and refused is None,
            "decision": reply_of(verdict.decision),
            "codes": [f"REPLY_{refused.reason.partition(':')[0].upper()}"] if refused else list(verdict.codes),
            "intents": [_shape(i) for i in orders.plan(verdict, cycle_id, account, seen.as_of, settings().limits)],
            "trade_risk_pct": verdict.trade_risk_pct,
            "total_risk_pct": verdict.total_risk_pct,
            "errors": [refused.reason, refused.detail] if refused else [],
        },
        as_json,
    )


def _shape(intent: Any) -> dict[str, Any]:
    names = ("symbol", "side", "type", "quantity", "price", "stop", "target", "reduce_only", "client_order_id")
    return {name: getattr(intent, name) for name in names}


COMMANDS = (snapshot, events, decide, guard)
