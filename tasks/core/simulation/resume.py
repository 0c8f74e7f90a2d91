"""Resume an interrupted backtest: rebuild its records from the stored answers, without asking again.

Everything but a decider's answer follows from the inputs, so the prefix is replayed with the answers that were kept,
at no model's cost, and each record is held against the one on disk: a run of other candles, limits or code is refused
at the first that differs. What comes out is what the run would have given had it never stopped.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import BaseModel

from tasks.core.ports import Decider
from tasks.core.types import Answer, InputError, Question, Utc, read_dto


class _Kept(BaseModel):
    """What is needed of a record."""

    as_of: Utc
    symbol: str
    decided: Answer


class EarlierRun:
    """What a run left behind: the hash of each record's line, and the decision in it; where: says who reads it."""

    def __init__(self, lines: Iterable[bytes] = (), where: str = "") -> None:
        self.where = where
        self.hashes: list[bytes] = []
        self.decided: dict[tuple[datetime, str], Answer] = {}
        self.seen = 0
        for line in lines:
            record = read_dto(_Kept, line, f"{where}its record {len(self.hashes) + 1}")
            self.hashes.append(hashlib.sha256(line).digest())
            self.decided[record.as_of, record.symbol] = record.decided

    def has(self, line: bytes) -> bool:
        """Take the run's next line; say whether it was kept before. Raises InputError where it was another one."""
        self.seen += 1
        if self.seen > len(self.hashes):
            return False
        if hashlib.sha256(line).digest() != self.hashes[self.seen - 1]:
            raise InputError(
                f"{self.where}its record {self.seen} differs: that run had other candles, options, settings or code"
            )
        return True


class ResumedDecider:
    """Gives the kept answers, and asks the decider where there is none."""

    def __init__(self, decider: Decider, earlier: EarlierRun) -> None:
        self.name, self.kind, self.prompts = decider.name, decider.kind, decider.prompts
        self.decider, self.earlier = decider, earlier

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer each question; a close of which any answer is missing is asked about as a whole, as it was then."""
        known = [self.earlier.decided.get((question.snapshot.as_of, question.snapshot.pair)) for question in questions]
        if None not in known:
            return [decided for decided in known if decided is not None]
        asked = await self.decider.decide(questions)
        return [old or new for old, new in zip(known, asked, strict=True)]
