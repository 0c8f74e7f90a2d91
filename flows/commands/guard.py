"""`decide` and `guard`: a snapshot file put to a decider, and a model's raw reply put through parser and guard."""

import asyncio
import json
from typing import Any

import click

from flows.commands.options import decider_option, json_option
from flows.commands.output import emit, read_json, read_text
from tasks.core.types import InputError, read_dto
from tasks.settings import settings, strategy_of

INTENT = ("symbol", "side", "type", "quantity", "price", "stop", "target", "reduce_only", "client_order_id")


@click.command()
@click.option("--snapshot", "file", required=True, help="a file of `quarterdeck snapshot --json`, or -")
@decider_option
@json_option
def decide(file: str, decider: str, as_json: bool) -> None:
    """Ask a decider about a snapshot."""
    from tasks.adapters.deciders import build
    from tasks.core.decision.actions import reply_of
    from tasks.core.market.bars import SNAPSHOT_TIMEFRAMES

    chosen, asked = build(decider, settings()), _question(file)
    if lacking := [tf for tf in SNAPSHOT_TIMEFRAMES if tf not in asked.snapshot.timeframes]:
        raise InputError(f"--snapshot {file}: timeframes.{lacking[0]} is missing")
    [decided] = asyncio.run(chosen.decide([asked]))
    names = ("source", "rung", "model", "latency_ms", "cost_usd", "tokens", "errors")
    read_as = {"read_as": notes} if (notes := decided.decision.read_as) else {}
    emit(
        {"decision": reply_of(decided.decision), **read_as, **{name: getattr(decided, name) for name in names}}, as_json
    )


def _question(file: str) -> Any:
    """Read a snapshot file; its reasons, `RangeBreak(15m up)`, are what they were before they were written down."""
    from tasks.core.types import Question, Reason, Snapshot

    document = json.loads(json.dumps(read_json(file, "--snapshot"), default=float))
    seen = read_dto(Snapshot, document, f"--snapshot {file}")
    reasons = []
    for text in seen.reason_for_call:
        rule, _, inside = text.removesuffix(")").partition("(")
        timeframe, _, detail = inside.partition(" ")
        reasons.append(
            Reason(symbol=seen.pair, as_of=seen.as_of, rule=rule, timeframe=timeframe, detail=detail, fingerprint=text)
        )
    return Question(snapshot=seen, reasons=tuple(reasons))


@click.command()
@click.option("--snapshot", "file", required=True, help="a file of `quarterdeck snapshot --json`")
@click.option("--reply", required=True, help="a file with a model's raw reply, or -")
@click.option("--state", help="a JSON file with the account's state; default: flat, 10,000 quote")
@json_option
def guard(file: str, reply: str, state: str | None, as_json: bool) -> None:
    """Put a raw model reply through the parser and the guard."""
    from tasks.core.decision.actions import Unusable, parse_reply, reply_of
    from tasks.core.trading.judge import judged
    from tasks.core.types import Answer, hold

    asked = _question(file)
    symbol = asked.snapshot.pair
    account, source = _account(state, asked.snapshot)
    parsed = parse_reply(read_text(reply, "--reply"), symbol, max_bytes=settings().max_reply_bytes)
    refused = parsed if isinstance(parsed, Unusable) else None
    decision = hold(symbol, f"reply refused: {refused.reason}") if refused else parsed
    answer = Answer(decision=decision, source="", rung="primary")
    _, verdict, intents = judged(asked, answer, account, strategy_of(settings(), ""))
    emit(
        {
            "allowed": verdict.allowed and refused is None,
            "decision": reply_of(verdict.decision),
            "codes": [f"REPLY_{refused.reason.partition(':')[0].upper()}"] if refused else list(verdict.codes),
            "intents": [{name: getattr(intent, name) for name in INTENT} for intent in intents],
            "trade_risk_pct": verdict.trade_risk_pct,
            "total_risk_pct": verdict.total_risk_pct,
            "errors": [refused.reason, refused.detail] if refused else [],
            "read_as": decision.read_as,
            "unread": [each.model_dump() for each in verdict.unread],
            "instrument": account.instrument and {**account.instrument.model_dump(), "source": source},
        },
        as_json,
    )


def _account(file: str | None, seen: Any) -> tuple[Any, str]:
    """Read `--state`; what it leaves out of the instrument comes by the symbol's form and the price. Says so."""
    from tasks.core.market.instruments import derived
    from tasks.core.types import AccountState, InstrumentTerms

    document = read_json(file, "--state") if file else {}
    named = document.pop("instrument", None) or {} if isinstance(document, dict) else {}
    if isinstance(named, dict) and named.pop("symbol", "") not in ("", seen.pair):
        raise InputError(f"--state {file}: instrument: symbol: it is of another symbol than the snapshot's {seen.pair}")
    account = read_dto(AccountState, document, f"--state {file}")
    terms = read_dto(InstrumentTerms, named, f"--state {file}: instrument")
    position = account.position(seen.pair)
    prices = (account.last_price, seen.last_price, position and position.mark_price, position and position.avg_price)
    resolved = derived(seen.pair, next((price for price in prices if price and price > 0), None), terms)
    if resolved is None:
        return account, ""
    return account.replace(instrument=resolved.instrument), resolved.source


COMMANDS = (decide, guard)
