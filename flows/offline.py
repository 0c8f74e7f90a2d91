"""The commands that need no server: they read candle files, snapshots and replies, and print what the core says."""

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from flows.output import emit, read_json, read_text, utc_time
from tasks.core.errors import DataError, InputError
from tasks.settings import settings, strategy_of

candles_option = click.option("--candles", multiple=True, required=True, help="FILE, or SYMBOL=FILE, repeatable")
symbol_option = click.option("--symbol", "symbols", multiple=True, help="ccxt unified, e.g. BTC/USDT:USDT")
json_option = click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
start_option = click.option("--start", help="ISO time, UTC")
end_option = click.option("--end", help="ISO time, UTC")


def markets(candles: tuple[str, ...], symbols: tuple[str, ...]) -> dict[str, Any]:
    """Read candle files into markets, by symbol."""
    from tasks.adapters.files.candles import parse_candle_options, read_candles
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
    from tasks.core.trading.question import question as asked
    from tasks.core.types.bars import floor_time
    from tasks.core.types.snapshot import OrderBookView

    if len(symbols) != 1:
        raise InputError("snapshot needs exactly one --symbol")
    market = markets(candles, symbols)[symbols[0]]
    at = floor_time(utc_time(as_of, "--as-of") or _never(), "5m")
    reasons = market.reasons(at - timedelta(minutes=5), at)
    strategy = strategy_of(settings(), "")
    account = _flat_account(market, strategy, at)
    seen = asked(strategy, market, account, OrderBookView(), None, None, reasons, at).snapshot
    if plot is not None:
        from tasks.adapters.charts import moment as chart

        chart.write(plot, market, at, text=lean_encoding.encode(seen), reasons=reasons)
        click.echo(f"plot {plot}", err=True)
    if seen.timeframes["5m"].close is None and not as_json:
        click.echo(f"no 5m bar closed at {at.isoformat()}: everything of it is unknown", err=True)
    click.echo(lean_encoding.encode(seen) if lean else to_json(seen))


def _flat_account(market: Any, strategy: Any, at: datetime) -> Any:
    """Return an account that trades the market's symbol, as far as its last close, of any timeframe, tells."""
    from tasks.core.lab.gate_sampling import untraded
    from tasks.core.market.instruments import derived
    from tasks.core.trading.guard.sizing import known

    closes = (market.value(timeframe, "close", at) for timeframe in market.bars)
    found = derived(market.symbol, known(next((close for close in closes if close is not None), None)))
    return untraded(strategy.capital, found and found.instrument, known(market.value("5m", "close", at)))


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
    from tasks.core.types.question import Question

    chosen = build(decider or settings().decider_name, settings())
    seen = _snapshot(file)
    decided = asyncio.run(chosen.decide([Question(snapshot=seen, reasons=_reasons(seen))]))[0]
    emit(
        {
            "decision": reply_of(decided.decision), "source": decided.source, "rung": decided.rung,
            "model": decided.model, "latency_ms": decided.latency_ms, "cost_usd": decided.cost_usd,
            "tokens": decided.tokens, "errors": decided.errors,
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
    return _valid(Snapshot, document, f"--snapshot {file}")


def _valid(dto: Any, document: Any, what: str) -> Any:
    try:
        return dto.model_validate(document)
    except ValidationError as e:
        first = e.errors()[0]
        raise InputError(f"{what}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from e


@click.command()
@click.option("--snapshot", "file", required=True, help="a file of `quarterdeck snapshot --json`")
@click.option("--reply", required=True, help="a file with a model's raw reply, or -")
@click.option("--state", help="a JSON file with the account's state; default: flat, 10,000 quote")
@json_option
def guard(file: str, reply: str, state: str | None, as_json: bool) -> None:
    """Put a raw model reply through the parser and the guard."""
    from tasks.core.decision.actions import Unusable, parse_reply
    from tasks.core.trading.judge import judged
    from tasks.core.types.decision import Answer, hold
    from tasks.core.types.question import Question

    seen = _snapshot(file)
    account, source = _account(state, seen)
    parsed = parse_reply(read_text(reply, "--reply"), seen.pair, max_bytes=settings().max_reply_bytes)
    refused = parsed if isinstance(parsed, Unusable) else None
    decision = hold(seen.pair, f"reply refused: {parsed.reason}") if isinstance(parsed, Unusable) else parsed
    asked = Question(snapshot=seen, reasons=_reasons(seen))
    answer = Answer(decision=decision, source="", rung="primary")
    _, verdict, intents = judged(asked, answer, account, strategy_of(settings(), ""))
    emit(
        {
            "allowed": verdict.allowed and refused is None,
            "decision": reply_of(verdict.decision),
            "codes": [f"REPLY_{refused.reason.partition(':')[0].upper()}"] if refused else list(verdict.codes),
            "intents": [_shape(intent) for intent in intents],
            "trade_risk_pct": verdict.trade_risk_pct,
            "total_risk_pct": verdict.total_risk_pct,
            "errors": [refused.reason, refused.detail] if refused else [],
            "instrument": account.instrument and {**account.instrument.model_dump(), "source": source},
        },
        as_json,
    )


def _reasons(seen: Any) -> tuple[Any, ...]:
    """Read a snapshot file's reasons, `RangeBreak(15m up)`, as what they were before they were written down."""
    from tasks.core.types.question import Reason

    found = []
    for text in seen.reason_for_call:
        rule, _, inside = text.removesuffix(")").partition("(")
        timeframe, _, detail = inside.partition(" ")
        about = {"rule": rule, "timeframe": timeframe, "detail": detail, "fingerprint": text}
        found.append(Reason(symbol=seen.pair, as_of=seen.as_of, **about))
    return tuple(found)


@click.command()
@click.option("--cycle", "cycle_id", default="", help="of a cycle in the store: what its decider was sent")
@click.option("--candles", multiple=True, help="FILE, or SYMBOL=FILE, repeatable")
@symbol_option
@click.option("--as-of", help="ISO time, UTC; floored to 5 minutes")
@click.option("--decider", default="", help="llm:single, llm:panel, llm:single@v002; empty: the configured one")
@click.option("--news", default="", help='JSON lines {"at","title","source"}; without it news are unknown')
@click.option("--json", "as_json", is_flag=True, help="JSON lines; it prints nothing else anyway")
def question(
    cycle_id: str, candles: tuple[str, ...], symbols: tuple[str, ...], as_of: str | None, decider: str, news: str,
    as_json: bool,  # noqa: ARG001  (every command that prints takes it)
) -> None:  # fmt: skip
    """The very messages a model is sent: a line {"role","messages"} for each role that is asked."""
    if bool(cycle_id) == bool(candles):
        raise InputError("question needs either --cycle ID, or --candles with --symbol and --as-of")
    calls = _calls_of(cycle_id) if cycle_id else _calls_about(candles, symbols, as_of, decider, news)
    for role, messages in calls:
        emit({"role": role, "messages": messages}, as_json=True)


def _calls_of(cycle_id: str) -> list[tuple[str, Any]]:
    """Make a stored cycle's question again and let its decider ask it, on the replies that were recorded."""
    from flows.replay import asked_again

    answer = asyncio.run(asked_again(cycle_id))
    sent = [(call.role, call.messages) for call in answer.calls if call.messages]
    if not sent:
        raise InputError(f"cycle {cycle_id}: {answer.source} asked no model")
    return sent


def _calls_about(
    candles: tuple[str, ...], symbols: tuple[str, ...], as_of: str | None, decider: str, news: str
) -> list[tuple[str, Any]]:
    """Ask about a flat account at a moment of candle files, as a replay does."""
    from tasks.adapters.deciders import build
    from tasks.adapters.news import read_news
    from tasks.core.lab.gate_sampling import flat_question
    from tasks.core.simulation.paid_replies import Probe
    from tasks.core.simulation.world import World
    from tasks.core.types.bars import floor_time

    if len(symbols) != 1:
        raise InputError("question needs exactly one --symbol")
    symbol, name, probe = symbols[0], decider or settings().decider_name, Probe()
    chosen = build(name, settings(), model=probe)
    market = markets(candles, symbols)[symbol]
    at, bar = floor_time(utc_time(as_of, "--as-of") or _never(), "5m"), timedelta(minutes=5)
    first, last = market.bars["5m"].index[[0, -1]] + bar
    if not first <= at <= last:
        raise InputError(f"--as-of {as_of}: no candle of {symbol} closes then; they close from {first} to {last}")
    strategy = strategy_of(settings(), name, symbols=symbols)
    world = World(headlines=read_news(Path(news)) if news else None)
    reasons = market.reasons(at - bar, at)
    asyncio.run(
        chosen.decide([flat_question(market, _flat_account(market, strategy, at), strategy, world, at, reasons)])
    )
    if not probe.asked:
        raise InputError(f"--decider {name}: asks no model; name one that does, such as llm:single")
    return [(prompt.name, messages) for prompt, messages, _ in probe.asked]


def _account(file: str | None, seen: Any) -> tuple[Any, str]:
    """Read `--state`; what it leaves out of the instrument comes by the symbol's form and the price. Says so."""
    from tasks.core.market.instruments import derived
    from tasks.core.trading.guard.sizing import known
    from tasks.core.types.orders import InstrumentTerms
    from tasks.core.types.portfolio import AccountState

    document = read_json(file, "--state") if file else {}
    told = document.pop("instrument", None) or {} if isinstance(document, dict) else {}
    if isinstance(told, dict) and told.pop("symbol", "") not in ("", seen.pair):
        raise InputError(f"--state {file}: instrument: symbol: it is of another symbol than the snapshot's {seen.pair}")
    account = _valid(AccountState, document, f"--state {file}")
    terms = _valid(InstrumentTerms, told, f"--state {file}: instrument")
    close = seen.timeframes["5m"].close if "5m" in seen.timeframes else None
    held = account.position(seen.pair)
    prices = (account.last_price, known(close), held and held.mark_price, held and held.avg_price)
    found = derived(seen.pair, next((price for price in prices if price and price > 0), None), terms)
    if found is None:
        return account, ""
    return account.model_copy(update={"instrument": found.instrument}), found.source


def _shape(intent: Any) -> dict[str, Any]:
    names = ("symbol", "side", "type", "quantity", "price", "stop", "target", "reduce_only", "client_order_id")
    return {name: getattr(intent, name) for name in names}


COMMANDS = (snapshot, question, events, decide, guard)
