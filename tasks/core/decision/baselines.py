"""Deciders without a model: `hold`, and `recorded:FILE`, which answers with replies from disk."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import ConfigDict, ValidationError

from tasks.core.decision.single import decided_from
from tasks.core.errors import InputError
from tasks.core.types.base import Dto, Utc
from tasks.core.types.decision import Decided, ModelCall, hold
from tasks.core.types.snapshot import Brief


class HoldDecider:
    """Does nothing, always."""

    name = "hold"

    async def decide(self, briefs: Sequence[Brief]) -> list[Decided]:
        return [
            Decided(decision=hold(b.snapshot.pair, "the hold decider holds"), source="hold", rung="primary")
            for b in briefs
        ]


class _Line(Dto):
    """One line of a recording; whatever else was written down with it is not needed here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    as_of: Utc
    symbol: str
    reply: str


class RecordedDecider:
    """Answers each decision point with the raw reply recorded for it, through the same parser; none: it holds."""

    name = "recorded"

    def __init__(self, lines: Iterable[str]) -> None:
        self.replies: dict[tuple[datetime, str], str] = {}
        for number, text in enumerate(lines, start=1):
            if text.strip():
                self._add(number, text)

    def _add(self, number: int, text: str) -> None:
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"recorded replies, line {number}: {f'{where}: ' if where else ''}{first['msg']}") from e
        key = (line.as_of, line.symbol)
        if key in self.replies:
            raise InputError(f"recorded replies, line {number}: a second reply for {line.symbol} at {line.as_of}")
        self.replies[key] = line.reply.replace("\x00", "�")  # no database keeps NUL

    async def decide(self, briefs: Sequence[Brief]) -> list[Decided]:
        return [self._decide(brief) for brief in briefs]

    def _decide(self, brief: Brief) -> Decided:
        symbol = brief.snapshot.pair
        reply = self.replies.get((brief.snapshot.as_of, symbol))
        if reply is None:
            return Decided(
                decision=hold(symbol, "no recorded reply"), source="hold", rung="hold", errors=("no_record",)
            )
        call = ModelCall(role="single", model="recorded", raw_reply=reply)
        return decided_from(call, symbol, source="recorded")
