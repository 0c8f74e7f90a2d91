"""What the decider of a world says: every action and follow-up there is, and nonsense, drawn anew each time."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from tasks.core.decision.actions import parse_reply
from tasks.core.decision.baselines import PlainDecider
from tasks.core.decision.decider import decided_as
from tasks.core.decision.kinds import KINDS
from tasks.core.types import Answer, ModelCall, Question, Rung
from tests.simulation.aims import Aim
from tests.simulation.luck import Luck
from tests.simulation.process import CURRENT

FLAT = {"OPEN_LONG": 5.0, "OPEN_SHORT": 4.0, "HOLD": 1.5, "PAUSE": 0.3, "REDUCE": 0.2, "nonsense": 0.7}
HELD = {
    "HOLD": 2.0, "ADD": 2.5, "TRIM": 1.5, "CLOSE_PARTIAL": 1.0, "CLOSE_ALL": 1.5, "MOVE_STOP": 1.5, "SET_TP": 1.2,
    "CANCEL_TP": 0.7, "PAUSE": 0.2, "REDUCE": 0.2, "nonsense": 0.7, "OPEN_LONG": 0.3,
}  # fmt: skip
FOLLOWUPS = (
    "TRIM 10% at +0.05R", "MOVE_STOP: -0.5R on +0.1R", "TRIM 20% at +0.3R", "MOVE_STOP: breakeven on +0.6R",
    "TRAIL 1.5 ATR from +0.2R", "CLOSE after 60 bars below +0.1R", "TRAIL 1 ATR",
)  # fmt: skip
OFFSETS_BPS = (6, 6, 6, 60)  # the most of each: the guard takes up to three spreads
RESTS_BPS = 80, 300  # that seldom fills while it may rest
AT_ONCE = 4  # more are no decision
NONSENSE = (
    "", "I cannot help with that.", '{"action": "OPEN_LONG"', "null", '{"action": "BUY", "size_pct": "all"}', "[]",
    '{"symbol": "?", "action": "OPEN_LONG", "size_pct": -4, "stop_atr": 1, "confidence": 2}',
    '{"action": "OPEN_LONG", "size_pct": 1e9, "stop_atr": 0, "tp_atr": 1e9, "confidence": 1, "comment": "x"}',
)  # fmt: skip


class Scripted(PlainDecider):
    """Answers with what the seed makes of this very call; a process that asks twice may hear two answers."""

    name, kind = "rules", KINDS["rules"]

    def __init__(self, luck: Luck, aim: Aim, asked_to: str, note: Callable[[Question], None]) -> None:
        """asked_to: a small entry that it is to answer with where it is flat. note: told of every question."""
        self._luck, self._aim, self._asked_to, self._note = luck, aim, asked_to, note

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._answered(question) for question in questions]

    def _answered(self, question: Question) -> Answer:
        symbol, held = question.snapshot.pair, question.snapshot.position.side != "flat"
        self._note(question)
        place = CURRENT.get().place(f"decide {symbol}")
        reply = self.reply(place, symbol, held) if not self._asked_to else self._small(symbol, held)
        read = Rung(rung="primary", source="scripted", role="single")
        call = ModelCall(role="single", model="scripted", raw_reply=reply, trail=(read,))
        return decided_as(parse_reply(reply, symbol), call, symbol, "scripted")

    def reply(self, place: str, symbol: str, held: bool) -> str:
        """Return the raw reply drawn for this call."""
        luck = self._luck
        action = luck.weighted(f"{place}:action", (self._aim.says or HELD) if held else FLAT)
        if action == "nonsense":
            return luck.choice(f"{place}:nonsense", NONSENSE)
        limit, most = luck.draw(f"{place}:limit") < 0.5, luck.choice(f"{place}:most", OFFSETS_BPS)
        least = 0
        if self._aim.rests:
            limit, least, most = True, *RESTS_BPS
        entry = {"type": "limit", "offset_bps": round(luck.between(f"{place}:bps", least, most), 1)} if limit else None
        size: dict[str, Any] = {
            "size_pct": round(luck.between(f"{place}:size", 2, 60), 1), "entry": entry or {"type": "market"},
            "stop_atr": round(luck.between(f"{place}:stop", 0.4, 4), 2),
            "tp_atr": round(luck.between(f"{place}:target", 0.8, 8), 2),
        }  # fmt: skip
        if action.startswith("OPEN"):
            drawn = [each for each in FOLLOWUPS if luck.draw(f"{place}:{each}") < 0.7]
            size["followups"] = drawn[:AT_ONCE]
        more: dict[str, dict[str, Any]] = {
            "OPEN_LONG": size, "OPEN_SHORT": size, "ADD": size, "TRIM": {"size_pct": 30},
            "CLOSE_PARTIAL": {"size_pct": 50}, "SET_TP": {"tp_atr": size["tp_atr"]},
            "PAUSE": {"minutes": 30, "scope": luck.choice(f"{place}:scope", ("symbol", "symbol", "account"))},
            "MOVE_STOP": {"to": {"kind": "atr", "x": -round(luck.between(f"{place}:x", 0.2, 1.5), 2)}},
        }  # fmt: skip
        sure = luck.choice(f"{place}:confidence", (0.9, 90, "90%", None))
        said = {"symbol": symbol, "action": action, "confidence": sure, "comment": "simulated", **more.get(action, {})}
        return json.dumps(said)

    def _small(self, symbol: str, held: bool) -> str:
        entry = {"size_pct": 3, "entry": {"type": "market"}, "stop_atr": 2, "tp_atr": 6}
        said = {"symbol": symbol, "action": self._asked_to, "confidence": 1, **entry}
        return json.dumps({"symbol": symbol, "action": "HOLD", "confidence": 1} if held else said)
