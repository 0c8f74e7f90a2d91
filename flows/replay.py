"""`quarterdeck replay`: what cycles made, computed once more from their records and the candles, byte for byte."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from flows.output import emit, read_text
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import DataError, InputError
from tasks.settings import settings

AHEAD = 256  # questions whose markets are read together
SHOWN = 20  # differing records that a person is shown


@click.command()
@click.argument("cycle_id", required=False)
@click.option("--all", "every", is_flag=True, help="every finished cycle of the store, or of --records")
@click.option("--records", type=click.Path(path_type=Path), help="a records.jsonl of `backtest --out`, not the store")
@click.option("--candles", multiple=True, help="FILE, or SYMBOL=FILE, repeatable: what --records was made from")
@click.option("--symbol", "symbols", multiple=True, help="ccxt unified, e.g. BTC/USDT:USDT")
@click.option("--limits", type=click.Path(path_type=Path), help="TOML or JSON of guard limits: what if they had held")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def replay(
    cycle_id: str | None, every: bool, records: Path | None, candles: tuple[str, ...], symbols: tuple[str, ...],
    limits: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Recompute stored cycles byte for byte; exit 1 when any comes out otherwise."""
    if bool(cycle_id) == every:
        raise InputError("replay needs a CYCLE_ID, or --all")
    if candles and not records:
        raise InputError("--candles goes with --records; the store has its own")
    changed = _limits(limits) if limits else None
    began, cpu = time.perf_counter(), time.process_time()
    found = _read(records) if records else _stored(cycle_id)
    if cycle_id:
        found = (record for record in found if record.cycle_id == cycle_id)
    replayer = _file_replayer(records, candles, symbols) if records else _store_replayer()
    report = _Report(replayer, changed)
    asyncio.run(report.run(found))
    if cycle_id and not report.counts["records"]:
        raise InputError(f"no finished cycle {cycle_id} in {records or 'the store'}")
    wall = time.perf_counter() - began
    summary = report.summary() | {
        "wall_s": round(wall, 3), "cpu_s": round(time.process_time() - cpu, 3),
        "records_per_s": round(report.counts["records"] / wall, 1),
    }  # fmt: skip
    emit(summary, True) if as_json else _show(summary)
    if report.counts["differ"]:
        raise SystemExit(1)


def _store_replayer() -> Any:
    return _replayer(cache(_from_store), cache(_kept))


def _file_replayer(records: Path, candles: tuple[str, ...], symbols: tuple[str, ...]) -> Any:
    return _replayer(partial(_from_files, _files(candles, symbols)), _beside(records))


def _replayer(history: Any, strategies: Any) -> Any:
    from tasks.adapters.deciders import build
    from tasks.adapters.files.prompts import load_prompt
    from tasks.core.lab.replay import Replayer

    return Replayer(history, strategies, cache(load_prompt), cache(lambda name: build(name, settings())))


async def asked_again(cycle_id: str) -> Any:
    """Return the answer of a stored cycle, made once more on what was recorded; its calls hold the messages."""
    records = list(_stored(cycle_id))
    [answer] = [
        answer for record, answer in zip(records, await _store_replayer().answers(records), strict=True)
        if record.cycle_id == cycle_id
    ]  # fmt: skip
    return answer


class _Report:
    """Counts what became of the records; keeps the ones that differ, and the verdicts other limits would change."""

    def __init__(self, replayer: Any, changed: dict[str, Any] | None) -> None:
        self.replayer, self.changed = replayer, changed
        self.counts: Counter[str] = Counter()
        self.lacking: Counter[str] = Counter()
        self.differing: list[Any] = []
        self.verdicts: list[Any] = []

    async def run(self, records: Iterator[Any]) -> None:
        stream = self.replayer.questions(records)
        while batch := list(islice(stream, AHEAD)):
            self.replayer.read_ahead(chain.from_iterable(batch))
            for asked in batch:
                for result in await self.replayer.replay(asked):
                    self._count(result)
                for record in asked if self.changed is not None else ():
                    self._ask_what_if(record)

    def _count(self, result: Any) -> None:
        self.counts["records"] += 1
        if result.lacks:
            self.lacking[result.lacks] += 1
        elif result.differences:
            self.counts["differ"] += 1
            self.differing.append(result)
        else:
            self.counts["match"] += 1

    def _ask_what_if(self, record: Any) -> None:
        from tasks.core.lab.redecide import NotReplayable
        from tasks.core.lab.what_if import changed_verdict

        if record.inputs is None or self.changed is None:
            return
        with suppress(NotReplayable):  # the report has counted it as such
            strategy = self.replayer.strategy(record)
            history = self.replayer.history(strategy.venue, record.symbol)
            found = changed_verdict(record, strategy, self.changed, history)
            self.verdicts += [found] if found else []

    def summary(self) -> dict[str, Any]:
        from tasks.core.lab.what_if import total

        told = {
            "records": self.counts["records"], "match": self.counts["match"], "differ": self.counts["differ"],
            "not_replayable": {f"lacks {text}": n for text, n in self.lacking.most_common()},
            "differences": self.differing,
        }  # fmt: skip
        if self.changed is not None:
            told |= {"limits": self.changed, "changed_verdicts": self.verdicts, "what_if": total(self.verdicts)}
        return told


def _show(summary: dict[str, Any]) -> None:
    head = {key: value for key, value in summary.items() if key not in ("differences", "changed_verdicts")}
    emit(head, as_json=False)
    for result in summary["differences"][:SHOWN]:
        click.echo(f"\n{result.cycle_id} {result.symbol} {result.as_of.isoformat()} differs:")
        for each in result.differences[:SHOWN]:
            click.echo(f"  {each.path}: recorded {each.recorded}, replayed {each.replayed}")
    for verdict in summary.get("changed_verdicts", ()):
        click.echo(str(verdict))


def _limits(path: Path) -> dict[str, Any]:
    """Read limits that differ; every one is checked as a setting is."""
    import json
    import tomllib
    from decimal import Decimal

    from tasks.core.types.limits import Limits

    text = read_text(str(path), "--limits")
    try:
        load = json.loads if path.suffix == ".json" else tomllib.loads
        values: dict[str, Any] = load(text, parse_float=Decimal)
        checked = Limits.model_validate(values.get("limits", values))
    except (ValueError, AttributeError) as e:
        why = e.errors()[0] if isinstance(e, ValidationError) else {"loc": (), "msg": str(e)}
        raise InputError(f"--limits {path}: {'.'.join(map(str, why['loc']))} {why['msg']}") from e
    return {name: getattr(checked, name) for name in checked.model_fields_set}


def _read(path: Path) -> Iterator[Any]:
    from tasks.core.types.record import CycleRecord

    if not path.is_file():
        raise InputError(f"--records {path}: no such file")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield CycleRecord.model_validate_json(line)
            except ValidationError as e:
                raise InputError(f"--records {path}, line {number}: {e.errors()[0]['msg']}") from e


def _kept(sha256: str) -> Any:
    from tasks.connections import store

    return store().strategies.get(sha256)


def _beside(records: Path) -> Any:
    """Return what finds a strategy by its hash in the file that `backtest --out` writes beside its records."""
    import json

    from flows.backtest import STRATEGIES
    from tasks.core.types.strategy import Strategy, hash_of

    path = records.with_name(STRATEGIES)
    try:
        documents = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known = {name: Strategy.model_validate(document) for name, document in documents.items()}
        edited = [name for name, document in documents.items() if hash_of(document) != name]
    except (ValueError, AttributeError) as e:
        raise InputError(f"{path}: not the strategies of a backtest ({str(e).splitlines()[0][:120]})") from e

    def find(name: str) -> Strategy:
        if name not in known:
            raise InputError(f"{name[:12]}... is not in {path}, which `backtest --out` writes beside its records")
        if name in edited:
            raise InputError(f"{name[:12]}... in {path} was changed since: its hash is another")
        return known[name]

    return find


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
    yield from store().cycles.newest(record.strategy, since=record.as_of, until=record.as_of, limit=None)


def _files(candles: tuple[str, ...], symbols: tuple[str, ...]) -> dict[str, Any]:
    from flows.offline import markets
    from tasks.core.simulation.candle_history import History

    if not candles:
        raise InputError("--records needs --candles: the files the backtest was made from")
    return {symbol: History(symbol, market.bars) for symbol, market in markets(candles, symbols).items()}


def _from_files(files: dict[str, Any], _venue: str, symbol: str) -> Any:
    if symbol not in files:
        raise InputError(f"--candles: there are none for {symbol}, which --records has")
    return files[symbol]


def _from_store(venue: str, symbol: str) -> Any:
    from tasks.connections import store
    from tasks.core.market.bars import WORKING_TIMEFRAMES
    from tasks.core.simulation.candle_history import History

    if not venue:
        raise DataError(f"a cycle of {symbol} names no venue: it is of a backtest, use --records and --candles")
    series = {tf: store().candles.all(venue, symbol, tf) for tf in WORKING_TIMEFRAMES}
    return History(symbol, {tf: each[0] for tf, each in series.items()}, {tf: each[1] for tf, each in series.items()})


COMMANDS = (replay,)
