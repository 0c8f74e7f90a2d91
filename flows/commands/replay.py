"""`quarterdeck replay`: what cycles made, computed once more from their records and the candles, byte for byte."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from flows.commands.options import PLACE, candle_options, json_option, name_gaps
from flows.commands.output import echo, emit, stopwatch
from tasks.core.decision.kinds import kind_of
from tasks.core.pages import inert
from tasks.core.types import InputError, Json, read_dto

AHEAD = 256  # questions whose markets are read together
SHOWN = 20  # differing records that a person is shown


@click.command()
@click.argument("cycle_id", required=False)
@click.option("--all", "every", is_flag=True, help="every finished cycle of the store, or of --records")
@click.option("--records", type=PLACE, help="a records.jsonl of `backtest --out`, not the store")
@candle_options(required=False)
@click.option("--limits", type=PLACE, help="TOML or JSON of guard limits: what if they had held")
@json_option
def replay(
    cycle_id: str | None, every: bool, records: Path | None, files: dict[str, str], limits: Path | None, as_json: bool
) -> None:
    """Recompute stored cycles byte for byte; exit 1 when any comes out otherwise."""
    if bool(cycle_id) == every:
        raise InputError("replay needs a CYCLE_ID, or --all")
    if files and not records:
        raise InputError("--candles goes with --records; the store has its own")
    if records and not files:
        raise InputError("--records needs --candles: the files the backtest was made from")
    if records and not records.is_file():
        raise InputError(f"--records {records}: no such file")
    from tasks.adapters.files.dataset import read_records

    changed = _limits(limits) if limits else None
    took = stopwatch()
    stream = read_records(records) if records else _stored(cycle_id)
    if cycle_id:
        stream = (record for record in stream if record.cycle_id == cycle_id)
    from tasks.kept_history import file_replayer, store_replayer

    replayer = file_replayer(files, records, name_gaps) if records else store_replayer()
    summary = asyncio.run(_report(replayer, stream, changed))
    if cycle_id and not summary["records"]:
        raise InputError(f"no finished cycle {cycle_id} in {records or 'the store'}")
    summary |= took()
    summary["records_per_s"] = round(summary["records"] / max(summary["wall_s"], 0.001), 1)
    emit(summary, True) if as_json else _show(summary)
    if summary["differ"]:
        raise SystemExit(1)


async def asked_again(cycle_id: str) -> Any:
    """Return the answer of a stored cycle, made once more on what was recorded; its calls hold the messages."""
    from tasks.kept_history import store_replayer

    records = list(_stored(cycle_id))
    answers = await store_replayer().answers(records)
    return next(answer for record, answer in zip(records, answers, strict=True) if record.cycle_id == cycle_id)


async def _report(replayer: Any, records: Iterator[Any], changed: Json | None) -> Json:
    """Count what becomes of the records; keep those that differ, and the verdicts other limits would change."""
    from tasks.core.lab.recorded_replies import NotReplayable
    from tasks.core.lab.what_if import changed_verdict, total

    lacking, differing, verdicts = Counter[str](), [], []
    stream = replayer.questions(records)
    while batch := list(islice(stream, AHEAD)):
        replayer.read_ahead(chain.from_iterable(batch))
        for asked in batch:
            for result in await replayer.replay(asked):
                lacking[result.lacks] += 1
                differing += [result] if result.differences else []
            for record in asked if changed is not None else ():
                with suppress(NotReplayable):  # it is counted as such
                    strategy = replayer.strategy(record)
                    history = replayer.history(strategy.venue, record.symbol)
                    verdicts.append(changed_verdict(record, strategy, changed, history))
    summary = {
        "records": lacking.total(),
        "match": lacking.pop("", 0) - len(differing),
        "differ": len(differing),
        "not_replayable": {f"lacks {text}": n for text, n in lacking.most_common()},
        "differences": differing,
    }
    if changed is not None:
        verdicts = list(filter(None, verdicts))
        summary |= {"limits": changed, "changed_verdicts": verdicts, "what_if": total(verdicts)}
    return summary


def _show(summary: Json) -> None:
    head = {key: value for key, value in summary.items() if key not in ("differences", "changed_verdicts")}
    emit(head, as_json=False)
    for result in summary["differences"][:SHOWN]:
        echo(f"\n{result.cycle_id} {result.symbol} {result.as_of.isoformat()} differs:")
        for each in result.differences[:SHOWN]:
            echo(inert.line(f"  {each.path}: recorded {each.recorded}, replayed {each.replayed}"))
    for verdict in summary.get("changed_verdicts", ()):
        echo(str(verdict))


def _limits(path: Path) -> Json:
    """Read limits that differ; every one is checked as a setting is."""
    from tasks.adapters.files.document import read_document
    from tasks.core.types import Limits

    values = read_document(path, "--limits", '{"max_trade_risk_pct": 0.5}')
    values = values.get("limits", values)
    checked = read_dto(Limits, values, f"--limits {path}")
    return {name: getattr(checked, name) for name in checked.model_fields_set}


def _stored(cycle_id: str | None) -> Iterator[Any]:
    """Yield the store's finished cycles; with one cycle those that the same portfolio call answered for."""
    from tasks.connections import store

    if cycle_id is None:
        yield from store().cycles.oldest_first()
        return
    record = store().cycles.get(cycle_id)
    if record is None:
        raise InputError(f"no cycle {cycle_id} in the store")
    if not kind_of(record.decider).together:
        yield record
        return
    yield from store().cycles.at(record.strategy, record.as_of)


COMMANDS = (replay,)
