"""Deciders without a model: `hold`, `random[:SEED]`, `buy-and-hold`, and `recorded:FILE`, replies from disk.

The first three are what any other decider must beat. They answer as sure as can be, so that the guard's confidence
limit does not turn them into `hold`; its other limits hold for them as for all.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from pydantic import ConfigDict, ValidationError

from tasks.core.decision import rules
from tasks.core.decision.kinds import KINDS
from tasks.core.decision.single import decided_from
from tasks.core.errors import InputError
from tasks.core.types.base import Dto, Utc
from tasks.core.types.decision import (
    DECISION,
    HELD,
    Answer,
    Decision,
    ModelCall,
    OpenLong,
    PromptRef,
    Rung,
    answered,
    hold,
)
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Snapshot

HOLD_SHARE = 0.5  # of random decisions; the rest is shared equally by the other actions on offer
_ENTRY: dict[str, object] = {"size_pct": rules.SIZE_PCT, "stop_atr": rules.STOP_ATR, "tp_atr": rules.TP_ATR}
_PARAMETERS: dict[str, dict[str, object]] = {
    "OPEN_LONG": _ENTRY,
    "OPEN_SHORT": _ENTRY,
    "ADD": _ENTRY,
    "TRIM": {"size_pct": Decimal(50)},
    "CLOSE_PARTIAL": {"size_pct": Decimal(50)},
    "MOVE_STOP": {"to": {"kind": "breakeven"}},
    "SET_TP": {"tp_atr": rules.TP_ATR},
    "PAUSE": {"minutes": Decimal(60)},
}
# The most an action may say: 20 ATR away the stop hardly ever ends the holding, and 100 passes any reward/risk.
FAR_STOP_ATR, FAR_TP_ATR, ALL_PCT = Decimal(20), Decimal(100), Decimal(100)


class HoldDecider:
    """Does nothing, always."""

    name, kind = "hold", KINDS["hold"]
    prompts: tuple[PromptRef, ...] = ()

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return [answered(hold(b.snapshot.pair, "the hold decider holds"), "hold") for b in questions]


class RandomDecider:
    """Picks among the allowed actions, HOLD half of the time, entries with the size, stop and target of `rules`.

    The choice is a hash of (seed, symbol, as_of), not a generator's next number: the same in any order of calls.
    """

    kind = KINDS["random"]
    prompts: tuple[PromptRef, ...] = ()

    def __init__(self, seed: str = "0") -> None:
        self.seed = seed
        self.name = f"random:{seed}"

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return [answered(self._choose(b.snapshot), "random") for b in questions]

    def _choose(self, snapshot: Snapshot) -> Decision:
        key = f"{self.seed}|{snapshot.pair}|{snapshot.as_of.isoformat()}"
        share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48
        others = [action for action in snapshot.constraints.allowed_actions if action != "HOLD"]
        if share < HOLD_SHARE or not others:
            return hold(snapshot.pair, "random", source="random")
        action = others[int((share - HOLD_SHARE) / (1 - HOLD_SHARE) * len(others))]
        told = {"action": action, "symbol": snapshot.pair, "confidence": Decimal(1), "comment": "random"}
        return DECISION.validate_python(told | {"source": "random"} | _PARAMETERS.get(action, {}))


class BuyAndHoldDecider:
    """Goes long with all of equity when flat and free to, then holds; the stop and target are as far as allowed.

    The guard sizes it like any entry: what may be lost at the stop (0.75 % of equity by default) clamps it to a
    part of equity, the smaller the more volatile the market, so this is what the limits leave of buying and holding,
    not the asset's own return. Stopped out, it buys again once the guard lets it.
    """

    name, kind = "buy-and-hold", KINDS["buy-and-hold"]
    prompts: tuple[PromptRef, ...] = ()

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return [answered(self._choose(b.snapshot), self.name) for b in questions]

    def _choose(self, snapshot: Snapshot) -> Decision:
        if "OPEN_LONG" not in snapshot.constraints.allowed_actions or snapshot.position.side != "flat":
            return hold(snapshot.pair, "bought, or may not buy now", source=self.name)
        return OpenLong(
            symbol=snapshot.pair,
            size_pct=ALL_PCT,
            stop_atr=FAR_STOP_ATR,
            tp_atr=FAR_TP_ATR,
            confidence=Decimal(1),
            comment="buy and hold",
            source=self.name,
        )


class RecordedReply(Dto):
    """One line of a recording; whatever else was written down with it is not needed here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    as_of: Utc
    symbol: str
    reply: str


class RecordedDecider:
    """Answers each decision point with the raw reply recorded for it, through the same parser; none: it holds."""

    name, kind = "recorded", KINDS["recorded"]
    prompts: tuple[PromptRef, ...] = ()

    def __init__(self, lines: Iterable[str]) -> None:
        self.replies: dict[tuple[datetime, str], str] = {}
        for number, text in enumerate(lines, start=1):
            if text.strip():
                self._add(number, text)

    def _add(self, number: int, text: str) -> None:
        try:
            line = RecordedReply.model_validate_json(text)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"recorded replies, line {number}: {f'{where}: ' if where else ''}{first['msg']}") from e
        key = (line.as_of, line.symbol)
        if key in self.replies:
            raise InputError(f"recorded replies, line {number}: a second reply for {line.symbol} at {line.as_of}")
        self.replies[key] = line.reply.replace("\x00", "�")  # no database keeps NUL

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._decide(question) for question in questions]

    def _decide(self, question: Question) -> Answer:
        symbol = question.snapshot.pair
        reply = self.replies.get((question.snapshot.as_of, symbol))
        if reply is None:
            why = hold(symbol, "no recorded reply")
            return Answer(decision=why, source="hold", rung="hold", errors=("no_record",), trail=(HELD,))
        read = Rung(rung="primary", source="recorded", role="single")
        call = ModelCall(role="single", model="recorded", raw_reply=reply, trail=(read,))
        return decided_from(call, symbol, source="recorded")
