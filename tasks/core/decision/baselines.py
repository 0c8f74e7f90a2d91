"""Deciders without a model: `hold`, `random[:SEED]`, `buy-and-hold`, and `recorded:FILE`, replies from disk.

The first three are what any other decider must beat. They answer as sure as can be, so that the guard's confidence
limit does not turn them into `hold`; its other limits hold for them as for all.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal

from pydantic import ConfigDict

from tasks.core.decision import rules
from tasks.core.decision.actions import parse_reply
from tasks.core.decision.decider import PlainDecider, decided_as
from tasks.core.decision.kinds import KINDS
from tasks.core.types import (
    DECISION,
    HELD,
    Answer,
    Decision,
    Dto,
    InputError,
    Json,
    ModelCall,
    OpenLong,
    Question,
    Rung,
    Utc,
    hold,
    read_dto,
)

HOLD_SHARE = 0.5  # of random decisions; the rest is shared equally by the other actions on offer
USUAL: Mapping[str, Json] = {  # the numbers of an action that nobody gave any
    **{action: dict(rules.Sizes()) for action in ("OPEN_LONG", "OPEN_SHORT", "ADD")},
    **{action: {"size_pct": Decimal(50)} for action in ("TRIM", "CLOSE_PARTIAL")},
    "MOVE_STOP": {"to": {"kind": "breakeven"}},
    "SET_TP": {"tp_atr": rules.TP_ATR},
    "PAUSE": {"minutes": Decimal(60)},
}


def usual(action: str, symbol: str, source: str, numbers: Mapping[str, Json] = USUAL) -> Decision:
    """Return an action as sure as can be, with its usual numbers: entries have the size, stop and target of `rules`."""
    chosen = {"action": action, "symbol": symbol, "confidence": Decimal(1), "comment": source, "source": source}
    return DECISION.validate_python(chosen | numbers.get(action, {}))


class HoldDecider(PlainDecider):
    """Does nothing, always."""

    name, kind = "hold", KINDS["hold"]

    def choose(self, question: Question) -> Decision:
        return hold(question.snapshot.pair, "the hold decider holds")


class RandomDecider(PlainDecider):
    """Picks among the allowed actions, HOLD half of the time, entries with the size, stop and target of `rules`.

    The choice is a hash of (seed, symbol, as_of), not a generator's next number: the same in any order of calls.
    """

    kind = KINDS["random"]

    def __init__(self, seed: str = "0") -> None:
        self.seed = seed
        self.name = f"random:{seed}"

    def choose(self, question: Question) -> Decision:
        snapshot = question.snapshot
        key = f"{self.seed}|{snapshot.pair}|{snapshot.as_of.isoformat()}"
        share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48
        others = [action for action in snapshot.constraints.allowed_actions if action != "HOLD"]
        if share < HOLD_SHARE or not others:
            return hold(snapshot.pair, "random", source="random")
        return usual(others[int((share - HOLD_SHARE) / (1 - HOLD_SHARE) * len(others))], snapshot.pair, "random")


class BuyAndHoldDecider(PlainDecider):
    """Goes long when flat and free to, then holds.

    A replay buys with 99 % of equity, in equal parts, at the window's first close, and holds to its end
    (`simulation.benchmark`). Wherever else it trades the guard sizes it like any entry: what may be lost at the stop
    clamps it to a small part of equity, and stopped out it buys again once the guard lets it.
    """

    name, kind = "buy-and-hold", KINDS["buy-and-hold"]

    def choose(self, question: Question) -> Decision:
        snapshot = question.snapshot
        if "OPEN_LONG" not in snapshot.constraints.allowed_actions or snapshot.position.side != "flat":
            return hold(snapshot.pair, "bought, or may not buy now", source=self.name)
        return OpenLong(
            symbol=snapshot.pair,
            # The most an action may say, for the guard: 100 passes any reward/risk.
            size_pct=Decimal(100),
            stop_atr=Decimal(20),
            tp_atr=Decimal(100),
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


class RecordedDecider(PlainDecider):
    """Answers each decision point with the raw reply recorded for it, through the same parser; none: it holds."""

    name, kind = "recorded", KINDS["recorded"]

    def __init__(self, lines: Iterable[str], literal: bool = False) -> None:
        """literal: read replies as strategies of before did."""
        self.literal = literal
        self.replies: dict[tuple[datetime, str], str] = {}
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            line = read_dto(RecordedReply, text, f"recorded replies, line {number}")
            key = (line.as_of, line.symbol)
            if key in self.replies:
                raise InputError(f"recorded replies, line {number}: a second reply for {line.symbol} at {line.as_of}")
            self.replies[key] = line.reply.replace("\x00", "�")  # no database keeps NUL

    def answer(self, question: Question) -> Answer:
        symbol = question.snapshot.pair
        reply = self.replies.get((question.snapshot.as_of, symbol))
        if reply is None:
            why = hold(symbol, "no recorded reply")
            return Answer(decision=why, source="hold", rung="hold", errors=("no_record",), trail=(HELD,))
        read = Rung(rung="primary", source="recorded", role="single")
        call = ModelCall(role="single", model="recorded", raw_reply=reply, trail=(read,))
        return decided_as(parse_reply(reply, symbol, literal=self.literal), call, symbol, "recorded")
