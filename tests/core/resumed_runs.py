"""Two symbols replayed by a decider that counts how often it is asked; `python -m` prints the run's fingerprint."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from market_data import walk
from replayed import backtest

from tasks.core.decision.kinds import KINDS
from tasks.core.decision.rules import RulesDecider
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tasks.core.types.decision import Answer
from tasks.core.types.question import Question
from tasks.core.types.record import CycleRecord

X, Y = "X/USDT:USDT", "Y/USDT:USDT"
ROOT = Path(__file__).resolve().parents[2]


def markets() -> dict[str, Market]:
    return {X: Market.from_base(X, walk(4_000, seed=3)), Y: Market.from_base(Y, walk(4_000, seed=3).iloc[500:])}


class Counting:
    """Decides as `rules` does and counts how often it was asked."""

    name, kind, prompts = "rules", KINDS["rules"], ()

    def __init__(self) -> None:
        self.rules, self.asked, self.together = RulesDecider(), 0, 0

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked += len(questions)
        self.together = max(self.together, len(questions))
        return await self.rules.decide(questions)


def replay(decider: Any, **given: Any) -> tuple[Backtest, list[bytes], list[CycleRecord]]:
    lines: list[bytes] = []
    records: list[CycleRecord] = []
    run = backtest(markets(), decider, on_record=records.append, on_line=lines.append, **given)
    return asyncio.run(run.run()), lines, records


if __name__ == "__main__":
    print(replay(Counting())[0].fingerprint)
