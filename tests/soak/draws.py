"""What is drawn for a bar: the decider, the replies it is given, the faults, and when the worker is down."""

import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from tests.chaos.bars import FAULTS, Person, order_fault
from tests.chaos.world import SYMBOLS, World

STANDING = 0.02  # of all requests, at any time
FAULTY = 0.25  # of the closes have a fault of their own beside
DOUBLED = 0.05  # of the triggers come twice
BAR = timedelta(minutes=15)


class Draws:
    """One seeded sequence of luck."""

    def __init__(self, seed: int, world: World, faults: Sequence[str] = ()) -> None:
        self.luck = random.Random(seed)
        self.world = world
        self._replies = world.home / "replies.jsonl"
        self.held: set[str] = set()  # symbols with a position, as last seen
        self.kinds, self._share = (faults, 1.0) if faults else (sorted(FAULTS), FAULTY)
        self.person: Person | None = None
        self.wrongs: list[str] = []
        self._down: tuple[datetime, datetime] | None = None

    def chance(self, share: float) -> bool:
        return self.luck.random() < share

    def decider(self, close: datetime) -> str:
        """Return who decides at a close: `rules`, one at random, or replies written for this bar."""
        kind = self.luck.choice(("rules", "random", "recorded"))
        if kind == "random":
            return f"random:{self.luck.randrange(1000)}"
        if kind == "recorded":
            lines = [{"as_of": close.isoformat(), "symbol": s, "reply": json.dumps(self._reply(s))} for s in SYMBOLS]
            self._replies.write_text("\n".join(json.dumps(line) for line in lines))
            return f"recorded:{self._replies}"
        return kind

    def _reply(self, symbol: str) -> dict[str, Any]:
        """Return an entry where there is no position, else what is done to one."""
        size = {
            "size_pct": round(self.luck.uniform(3, 40), 1), "stop_atr": round(self.luck.uniform(0.8, 3), 2),
            "tp_atr": round(self.luck.uniform(1, 6), 2),
            "entry": self.luck.choice(({"type": "market"}, {"type": "limit", "offset_bps": 2})),
        }  # fmt: skip
        entries: dict[str, dict[str, Any]] = {
            "OPEN_LONG": size | {"followups": ["MOVE_STOP: breakeven on +0.3R"]},
            "OPEN_SHORT": size | {"followups": ["TRIM 30% at +0.1R", "MOVE_STOP: breakeven on +0.3R"]},
        }  # fmt: skip
        others: dict[str, dict[str, Any]] = {
            "ADD": size, "TRIM": {"size_pct": 30}, "CLOSE_PARTIAL": {"size_pct": 50}, "SET_TP": {"tp_atr": 2},
            "MOVE_STOP": {"to": {"kind": "atr", "x": -0.7}}, "CLOSE_ALL": {}, "CANCEL_TP": {},
        }  # fmt: skip
        possible = others if symbol in self.held else entries
        action = self.luck.choice(sorted(possible))
        return {"symbol": symbol, "action": action, "confidence": 0.9, "comment": "drawn at random", **possible[action]}

    def order_faults(self) -> str:
        """Take the last close's fault back and draw this one's; returns its kind."""
        self.wrongs += self.calm()
        self.world.fault(kind="somehow", share=STANDING, times=10**9, seed=self.luck.randrange(10**6))
        kind = self.luck.choice(self.kinds) if self.chance(self._share) else "none"
        order_fault(self.world, kind, self.luck)
        if kind == "person":
            symbol = self.luck.choice(SYMBOLS)
            self.person = Person.appears(self.world, symbol, self.luck)
        return kind

    def state(self) -> dict[str, Any]:
        """Return what happened at the exchange, without what is a person's."""
        state = self.world.state()
        return self.person.apart(state) if self.person else state

    def calm(self) -> list[str]:
        """Take every fault back; a person leaves. Returns what was done to them that may not be."""
        self.world.clear_faults()
        person, self.person = self.person, None
        wrongs = list(person.wronged(self.world.state())) if person else []
        if person:
            person.leaves(self.world)
        return wrongs

    def is_down(self, close: datetime) -> bool:
        """Say whether the worker is down at a close: once a day, for two to five bars."""
        if self._down is None or close >= self._down[0] + timedelta(days=1):
            begin = close + self.luck.randrange(8, 80) * BAR
            self._down = begin, begin + self.luck.randrange(2, 6) * BAR
        return self._down[0] <= close < self._down[1]
