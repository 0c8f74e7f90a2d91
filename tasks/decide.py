"""Ask the decider; the first answer of a cycle is its only one."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from weakref import WeakKeyDictionary

from tasks import clock, connections
from tasks.adapters.store.store import Store
from tasks.connections import log, store
from tasks.core.decision.memory import Remembered
from tasks.core.ports import Decider
from tasks.core.types import Answer, Question, Strategy
from tasks.stage import stage

Asked = tuple[str, str]  # who was asked, and in which cycle
_unkept: WeakKeyDictionary[Store, dict[Asked, Answer]] = WeakKeyDictionary()  # paid for, not in the store yet


@stage
def recall(strategy: Strategy, symbols: list[str], as_of: datetime) -> dict[str, Remembered]:
    """Return what may be remembered of each symbol at as_of."""
    kept = store().memory
    done = kept.performance(strategy.name, strategy.decider, as_of)
    return {symbol: kept.remembered(strategy.name, symbol, as_of, done) for symbol in symbols}


@stage
async def decide(questions: list[Question], cycle_ids: list[str], decider_name: str) -> list[Answer]:
    """Ask about every symbol at once; a retried or doubled run of a cycle gets the answer that came first."""
    kept = store().decisions.of(cycle_ids)
    answers = await first_answers("champion", connections.decider(decider_name), questions, cycle_ids, kept)
    first = [_keep(*each) for each in zip(questions, cycle_ids, answers, strict=True)]
    forget("champion", cycle_ids)
    return first


async def first_answers(
    who: str, decider: Decider, questions: Sequence[Question], cycle_ids: Sequence[str], kept: Mapping[str, Answer]
) -> list[Answer]:
    """Return the first answer about each cycle: a kept one, one that an earlier try could not keep, else a new one.

    What one question broke costs no other its answer: a second try pays only for what has none. A decider that takes
    all symbols together is asked as a whole.
    """
    had = _unkept.setdefault(store(), {})
    first = {cycle_id: had[who, cycle_id] for cycle_id in cycle_ids if (who, cycle_id) in had} | dict(kept)
    asked = list(zip(cycle_ids, questions, strict=True))
    new = [[each] for each in asked if each[0] not in first]
    groups = [asked] if new and decider.kind.together else new

    async def ask(group: list[tuple[str, Question]]) -> None:
        answers = await decider.decide([question for _, question in group])
        had.update({(who, cycle_id): answer for (cycle_id, _), answer in zip(group, answers, strict=True)})

    for failed in await asyncio.gather(*map(ask, groups), return_exceptions=True):
        if failed is not None:
            raise failed
    return [first.get(cycle_id) or had[who, cycle_id] for cycle_id in cycle_ids]


def forget(who: str, cycle_ids: Sequence[str]) -> None:
    """Let go of answers that are in the store by now."""
    for cycle_id in cycle_ids:
        _unkept[store()].pop((who, cycle_id), None)


def _keep(question: Question, cycle_id: str, decided: Answer) -> Answer:
    kept = store().decisions.keep(cycle_id, decided, clock.now())
    store().memory.keep(cycle_id, question.snapshot, kept.decision)
    failed = kept.rung == "hold" and kept.errors
    level = log().error if failed else log().warning if kept.errors else log().info
    level(
        "decide symbol=%s cycle_id=%s action=%s confidence=%s source=%s rung=%s cost_usd=%s calls=%d errors=%s",
        question.snapshot.pair, cycle_id, kept.decision.action, kept.decision.confidence,
        kept.source, kept.rung, kept.cost_usd, len(kept.calls), ",".join(kept.errors) or "-",
    )  # fmt: skip
    for call in kept.tool_calls:
        if call.error:
            log().warning(
                "tool symbol=%s cycle_id=%s tool=%s dropped=%s late=%s error=%s",
                question.snapshot.pair, cycle_id, call.tool, call.dropped, call.late, call.error,
            )  # fmt: skip
    return kept
