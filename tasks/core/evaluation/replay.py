"""Compute what a cycle made once more, from its record and the candles, and say where the two differ byte for byte.

Features are computed once over all of a symbol's candles and read at each record's time; a live cycle saw only its
last 1,000 bars, so a record that then differs is computed again from exactly the bars that it saw. What was known
then counts: candles stored later, to fill a gap, are left out, and of a revised one the first values are kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from tasks.core.decision.kinds import kind_of
from tasks.core.evaluation.history import History
from tasks.core.evaluation.rerun import NotReplayable, PromptOf, redecide
from tasks.core.market.events import RULES
from tasks.core.market.market import Market
from tasks.core.ports import Decider
from tasks.core.trading import guard, orders
from tasks.core.trading.question import make_question
from tasks.core.types.base import Dto, Utc
from tasks.core.types.decision import Answer
from tasks.core.types.limits import EventThresholds
from tasks.core.types.orders import OrderIntent
from tasks.core.types.portfolio import AccountState
from tasks.core.types.record import CycleRecord, Inputs
from tasks.core.types.snapshot import Question, Snapshot
from tasks.core.types.verdict import Verdict

MADE = ("snapshot", "role_inputs", "decided", "verdict", "intents")
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
    """Replays records; `history` gives a symbol's candles at a venue, "" for candle files."""

    history: Callable[[str, str], History]
    prompt_of: PromptOf
    plain: Callable[[str], Decider]

    def read_ahead(self, records: Iterable[CycleRecord]) -> None:
        """Read the markets at the records' times together, a tenth of the work."""
        closes: dict[tuple[str, str, EventThresholds, int], set[int]] = {}
        for record in records:
            if not lacks(record):
                terms = inputs_of(record).terms
                key = (terms.venue, record.symbol, terms.thresholds, terms.history_bars)
                closes.setdefault(key, set()).add(int(record.as_of.timestamp()))
        for (venue, symbol, thresholds, limit), at in closes.items():
            self.history(venue, symbol).market(thresholds, limit).read_ahead(np.array(sorted(at)))

    async def replay(self, records: Sequence[CycleRecord]) -> list[Replayed]:
        """Replay records of one question: one, or those of one portfolio call."""
        try:
            missing = next((text for text in map(lacks, records) if text), "")
            if missing:
                raise NotReplayable(missing)
            first = [] if any(map(self._needs_window, records)) else await self._again(records, exact=False)
            results = first if first and not any(r.differences for r in first) else await self._exactly(records, first)
        except NotReplayable as e:
            return [_result(record, lacks=str(e)) for record in records]
        return results

    async def _exactly(self, records: Sequence[CycleRecord], first: list[Replayed]) -> list[Replayed]:
        """Replay from the very bars that were seen; where those are all of history, the first result stands."""
        windowed = all(record.inputs and record.inputs.terms.history_bars for record in records)
        return await self._again(records, exact=True) if windowed else first

    def _needs_window(self, record: CycleRecord) -> bool:
        return self._history(record).has_later(inputs_of(record), record.as_of)

    def _history(self, record: CycleRecord) -> History:
        return self.history(inputs_of(record).terms.venue, record.symbol)

    async def _again(self, records: Sequence[CycleRecord], exact: bool) -> list[Replayed]:
        markets = [self._market(record, exact) for record in records]
        questions = [remake_question(record, market) for record, market in zip(records, markets, strict=True)]
        answers = await redecide(records, questions, self.prompt_of, self.plain)
        found = []
        for record, market, question, decided in zip(records, markets, questions, answers, strict=True):
            again = remake(record, question, decided)
            found.append(_result(record, (*_lost_reasons(record, market), *differences(record, again))))
        return found

    def _market(self, record: CycleRecord, exact: bool) -> Market:
        inputs, history = inputs_of(record), self._history(record)
        if exact:
            return history.seen(inputs, record.as_of)
        return history.market(inputs.terms.thresholds, inputs.terms.history_bars)


def _result(record: CycleRecord, found: tuple[Difference, ...] = (), lacks: str = "") -> Replayed:
    return Replayed(
        cycle_id=record.cycle_id, strategy=record.strategy, symbol=record.symbol, as_of=record.as_of,
        decided=record.decided is not None, lacks=lacks, differences=found,
    )  # fmt: skip


def lacks(record: CycleRecord) -> str:
    """Return what the record lacks to be replayed; nothing when it can be."""
    if record.decided is None or record.snapshot is None or record.verdict is None or record.state is None:
        return f"a decision: it ended {record.status.value}"
    return "" if record.inputs is not None else "its inputs: it is older than they are recorded"


def inputs_of(record: CycleRecord) -> Inputs:
    if record.inputs is None:
        raise NotReplayable(lacks(record))
    return record.inputs


def state_of(record: CycleRecord) -> AccountState:
    """Return the account the guard judged on."""
    if record.state is None:
        raise NotReplayable(lacks(record))
    return record.state


def remake_question(record: CycleRecord, market: Market) -> Question:
    """Build what the decider was handed."""
    given = inputs_of(record)
    terms = given.terms
    question = make_question(
        market, record.as_of, given.state or state_of(record), terms.limits, terms.costs, terms.symbols,
        reasons=record.reasons, position=given.position, book=given.book, digest=given.digest,
    )  # fmt: skip
    return question.model_copy(update={"news": given.news, "memory": given.memory})


def rejudge(record: CycleRecord, snapshot: Snapshot, decided: Answer) -> tuple[Verdict, tuple[OrderIntent, ...]]:
    """Guard the decision, and plan its orders, as the cycle did."""
    given, state = inputs_of(record), state_of(record)
    terms = given.terms
    verdict = guard.judge(
        decided.decision, snapshot, state, terms.limits, terms.costs,
        symbols=terms.symbols, now=given.judged_at or record.as_of, fallback=decided.is_fallback,
    )  # fmt: skip
    return verdict, orders.plan(verdict, record.cycle_id, state, record.as_of, terms.limits)


def remake(record: CycleRecord, question: Question, decided: Answer) -> CycleRecord:
    """Put together the record as it comes out now."""
    verdict, intents = rejudge(record, question.snapshot, decided)
    made = {
        "snapshot": question.snapshot, "role_inputs": question.role_inputs, "decided": decided, "verdict": verdict,
        "intents": intents,
    }  # fmt: skip
    return record.model_copy(update=made)


def _lost_reasons(record: CycleRecord, market: Market) -> Iterator[Difference]:
    """Yield the market's reasons for the call that the candles no longer give; others come from elsewhere."""
    mine = [each for each in record.reasons if each.rule in MARKET_RULES]
    if mine:
        first = min(each.as_of for each in mine) - pd.Timedelta(seconds=1)
        given = {each.fingerprint for each in market.reasons(first, record.as_of)}
        lost = [each for each in mine if each.fingerprint not in given]
        yield from (Difference(path="reasons", recorded=str(each), replayed="-") for each in lost)


def differences(recorded: CycleRecord, replayed: CycleRecord) -> tuple[Difference, ...]:
    """Compare what the cycle made, byte for byte, and name every value that differs."""
    parts = set(MADE)
    if recorded.model_dump_json(include=parts) == replayed.model_dump_json(include=parts):
        return ()
    old, new = (each.model_dump(mode="json", include=parts) for each in (recorded, replayed))
    return tuple(_differing(old, new, ""))


def _differing(old: Any, new: Any, path: str) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _differing(old.get(key, _NONE), new.get(key, _NONE), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list):
        for i in range(max(len(old), len(new))):
            was, now = (each[i] if i < len(each) else _NONE for each in (old, new))
            yield from _differing(was, now, f"{path}[{i}]")
    elif old != new or type(old) is not type(new):
        yield Difference(path=path, recorded=_text(old), replayed=_text(new))


_NONE = object()


def _text(value: Any) -> str:
    return "-" if value is _NONE else str(value)[:400]


def questions(records: Iterable[CycleRecord]) -> Iterator[tuple[CycleRecord, ...]]:
    """Yield records by question, oldest first: each alone, those of one portfolio call together, in its order."""
    for _, at_one_close in groupby(records, key=lambda record: record.as_of):
        together: dict[str, list[CycleRecord]] = {}
        for record in at_one_close:
            if kind_of(record.decider).together and not lacks(record):
                together.setdefault(record.strategy, []).append(record)
            else:
                yield (record,)
        for asked in together.values():
            order = inputs_of(asked[0]).terms.symbols
            yield tuple(sorted(asked, key=lambda each: order.index(each.symbol)))
