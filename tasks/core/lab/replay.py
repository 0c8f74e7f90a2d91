"""Compute what a cycle made once more, from its record and the candles, and say where the two differ byte for byte.

Features are computed once over all of a symbol's candles and read at each record's time; a live cycle saw only its
last 1,000 bars, so a record that then differs is computed again from exactly the bars that it saw. What was known
then counts: candles stored later, to fill a gap, are left out, and of a revised one the first values are kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError
from tasks.core.lab.recorded_replies import NotReplayable, PromptOf, Replayable, decide_again, lacks, replayable
from tasks.core.market.events import RULES
from tasks.core.market.market import Market
from tasks.core.ports import Decider
from tasks.core.simulation.benchmark import judge_of
from tasks.core.simulation.candle_history import History
from tasks.core.trading.judge import Judgement, judged, judged_as_said, refused
from tasks.core.trading.question import beside, question
from tasks.core.types import Answer, CycleRecord, Dto, EventThresholds, Question, Strategy, Utc

MADE = {"snapshot", "role_inputs", "decided", "verdict", "intents"}
MARKET_RULES = frozenset(name for name, *_ in RULES)


class Difference(Dto):
    """One value that came out otherwise, as JSON; "-" where there is none."""

    path: str
    recorded: str
    replayed: str


class Replayed(Dto):
    """What became of one record: it matched, differs, or lacks what replaying needs."""

    cycle_id: str
    strategy: str
    symbol: str
    as_of: Utc
    decided: bool = True
    lacks: str = ""
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Replayer:
    """Replays records; `history` gives a symbol's candles at a venue, "" for candle files; `strategies` what is kept
    under a hash, and raises InputError where nothing is."""

    history: Callable[[str, str], History]
    strategies: Callable[[str], Strategy]
    prompt_of: PromptOf
    plain: Callable[[str], Decider]

    def strategy(self, record: CycleRecord) -> Strategy:
        """Return the strategy in force when the cycle ran."""
        strategy = replayable(record).inputs.strategy
        try:
            strategy = strategy if isinstance(strategy, Strategy) else self.strategies(strategy)
        except InputError as e:
            raise NotReplayable(f"its strategy: {e}") from e
        return strategy.called(record.strategy, record.decider)

    def questions(self, records: Iterable[CycleRecord]) -> Iterator[tuple[CycleRecord, ...]]:
        """Yield records by question, oldest first: each alone, those of one portfolio call together, in its order."""
        for _, at_one_close in groupby(records, key=lambda record: record.as_of):
            together: dict[str, list[CycleRecord]] = {}
            for record in at_one_close:
                if kind_of(record.decider).together and not lacks(record):
                    together.setdefault(record.strategy, []).append(record)
                else:
                    yield (record,)
            yield from map(self._ordered, together.values())

    def _ordered(self, asked: Sequence[CycleRecord]) -> tuple[CycleRecord, ...]:
        with suppress(NotReplayable):  # it is named when its turn comes
            order = self.strategy(asked[0]).symbols
            return tuple(sorted(asked, key=lambda each: order.index(each.symbol)))
        return tuple(asked)

    def read_ahead(self, records: Iterable[CycleRecord]) -> None:
        """Read the markets at the records' times together, a tenth of the work."""
        closes: dict[tuple[str, str, EventThresholds, int], set[int]] = {}
        for record in records:
            with suppress(NotReplayable):  # it is named when its turn comes
                strategy = self.strategy(record)
                key = (strategy.venue, record.symbol, strategy.thresholds, strategy.history_bars)
                closes.setdefault(key, set()).add(int(record.as_of.timestamp()))
        for (venue, symbol, thresholds, limit), at in closes.items():
            self.history(venue, symbol).market(thresholds, limit).read_ahead(np.array(sorted(at)))

    async def replay(self, cycles: Sequence[CycleRecord]) -> list[Replayed]:
        """Replay records of one question: one, or those of one portfolio call.

        From all candles first; where that differs, from the very bars that were seen, if those were not all.
        """
        results = []
        try:
            records = [replayable(record) for record in cycles]
            strategies = [self.strategy(record) for record in records]
            if not any(
                self.history(strategy.venue, record.symbol).has_later(strategy, record.inputs.known_at, record.as_of)
                for record, strategy in zip(records, strategies, strict=True)
            ):
                results = await self._compared(records, exact=False)
            differs = not results or any(result.differences for result in results)
            if differs and all(strategy.history_bars for strategy in strategies):
                results = await self._compared(records, exact=True)
        except NotReplayable as e:
            return [_result(record, lacks=str(e)) for record in cycles]
        return results

    async def answers(self, records: Sequence[CycleRecord]) -> list[Answer]:
        """Return what the deciders of one question's records answer once more; raises InputError saying what lacks."""
        try:
            made = await self._made([replayable(record) for record in records], exact=True)
        except NotReplayable as e:
            raise InputError(f"cycle {records[0].cycle_id} lacks {e}") from e
        return [record.decided for _, record in made]

    def asked(self, record: CycleRecord) -> Question:
        """Return what the decider was handed; raises NotReplayable where something of it is missing."""
        whole, strategy = replayable(record), self.strategy(record)
        return self._question(whole, strategy, self._market(whole, strategy, exact=False), exact=False)

    async def _compared(self, records: Sequence[Replayable], exact: bool) -> list[Replayed]:
        return [
            _result(record, differences=(*_lost_reasons(record, market), *differences(record, made)))
            for record, (market, made) in zip(records, await self._made(records, exact), strict=True)
        ]

    async def _made(self, records: Sequence[Replayable], exact: bool) -> list[tuple[Market, Replayable]]:
        """Make each record once more: its question, what the decider answers to that, and what becomes of it."""
        strategies = [self.strategy(record) for record in records]
        markets = [self._market(*each, exact) for each in zip(records, strategies, strict=True)]
        asked = [self._question(*each, exact) for each in zip(records, strategies, markets, strict=True)]
        answers = await decide_again(records, asked, strategies[0], self.prompt_of, self.plain)
        made = [remake(*each) for each in zip(records, strategies, asked, answers, strict=True)]
        return list(zip(markets, made, strict=True))

    def _question(self, record: Replayable, strategy: Strategy, market: Market, exact: bool) -> Question:
        asked, others = remake_question(record, strategy, market), record.inputs.others
        if not others:
            return asked
        markets = {each.symbol: self._market(record, strategy, exact, each.symbol) for each in others}
        account = record.inputs.state or record.state
        return asked.replace(others=beside(strategy, markets, account, others, record.as_of))

    def _market(self, record: Replayable, strategy: Strategy, exact: bool, symbol: str = "") -> Market:
        history = self.history(strategy.venue, symbol or record.symbol)
        if exact:
            return history.seen(strategy, record.inputs.known_at, record.as_of)
        return history.market(strategy.thresholds, strategy.history_bars)


def _result(record: CycleRecord, **outcome: Any) -> Replayed:
    return Replayed.of(record, decided=record.decided is not None, **outcome)


def remake_question(record: Replayable, strategy: Strategy, market: Market) -> Question:
    """Build what the decider was handed."""
    inputs = record.inputs
    return question(
        strategy, market, inputs.state or record.state, inputs.book, inputs.news, inputs.memory, record.reasons,
        record.as_of, position=inputs.position, digest=inputs.digest, ledger=inputs.ledger,
    )  # fmt: skip


def remake(record: Replayable, strategy: Strategy, asked: Question, answer: Answer) -> Replayable:
    """Put together the record as it comes out now."""
    now = record.inputs.judged_at or record.as_of
    judge = judge_of(record.decider) if record.trigger == "backtest" else judged

    def by_the_guard(said: Answer) -> Judgement:
        return judge(asked, said, record.state, strategy, now)

    _, verdict, intents = judged_as_said(by_the_guard, answer, record.approval)
    if record.approval is not None and not record.approval.share:
        verdict, intents = refused(verdict), ()
    made = {"decided": answer, "verdict": verdict, "intents": intents}
    return record.replace(snapshot=asked.snapshot, role_inputs=asked.role_inputs, **made)


def _lost_reasons(record: CycleRecord, market: Market) -> Iterator[Difference]:
    """Yield the market's reasons for the call that the candles no longer give; others come from elsewhere."""
    mine = [each for each in record.reasons if each.rule in MARKET_RULES]
    if mine:
        first = min(each.as_of for each in mine) - pd.Timedelta(seconds=1)
        fired = {each.fingerprint for each in market.reasons(first, record.as_of)}
        lost = [each for each in mine if each.fingerprint not in fired]
        yield from (Difference(path="reasons", recorded=str(each), replayed="-") for each in lost)


def differences(recorded: CycleRecord, replayed: CycleRecord) -> tuple[Difference, ...]:
    """Compare what the cycle made, byte for byte, and name every value that differs."""
    if recorded.model_dump_json(include=MADE) == replayed.model_dump_json(include=MADE):
        return ()
    old, new = (dict(_values(each.model_dump(mode="json", include=MADE))) for each in (recorded, replayed))
    return tuple(
        Difference(path=path, recorded=str(old.get(path, "-"))[:400], replayed=str(new.get(path, "-"))[:400])
        for path in dict.fromkeys((*old, *new))
        if repr(old.get(path, ...)) != repr(new.get(path, ...))
    )


def _values(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value in a JSON document with its path; an empty list or object is one."""
    if isinstance(value, dict | list) and value:
        inner = value.items() if isinstance(value, dict) else ((f"[{i}]", each) for i, each in enumerate(value))
        for key, each in inner:
            yield from _values(each, f"{path}{'.' if path and isinstance(value, dict) else ''}{key}")
    else:
        yield path, value
