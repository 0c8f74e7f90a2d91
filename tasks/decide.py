"""Ask the decider; the first answer of a cycle is its only one."""

from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import connections
from tasks.connections import log, store
from tasks.core.decision.memory import Remembered
from tasks.core.types.decision import Answer
from tasks.core.types.question import Question
from tasks.core.types.strategy import Strategy


@task(cache_policy=NO_CACHE)
def recall(strategy: Strategy, symbols: list[str], as_of: datetime) -> dict[str, Remembered]:
    """Return what may be remembered of each symbol at as_of."""
    sent = connections.decider(strategy.decider).prompts
    prompt = sent[0] if len(sent) == 1 else None  # of several no one version has traded
    remembered = store().remembered
    return {symbol: remembered(strategy.name, strategy.decider, prompt, symbol, as_of) for symbol in symbols}


@task(cache_policy=NO_CACHE)
async def decide(questions: list[Question], cycle_ids: list[str], decider_name: str) -> list[Answer]:
    """Ask about every symbol at once; a retried or doubled run of a cycle gets the answer that was kept first."""
    answers = await connections.decider(decider_name).decide(questions)
    return [_keep(*each) for each in zip(questions, cycle_ids, answers, strict=True)]


def _keep(question: Question, cycle_id: str, decided: Answer) -> Answer:
    kept = store().keep_decision(cycle_id, decided, datetime.now(UTC))
    store().keep_vector(cycle_id, question.snapshot)
    failed = kept.rung == "hold" and kept.errors
    level = log().error if failed else log().warning if kept.errors else log().info
    level(
        "decide symbol=%s cycle_id=%s action=%s confidence=%s source=%s rung=%s cost_usd=%s calls=%d errors=%s",
        question.snapshot.pair, cycle_id, kept.decision.action, kept.decision.confidence,
        kept.source, kept.rung, kept.cost_usd, len(kept.calls), ",".join(kept.errors) or "-",
    )  # fmt: skip
    return kept
