"""`make soak ARGS="--words"`: days in which a scripted model, asked over HTTP, says all it may: no word may be lost.

Of what is allowed now it says what it has said least. After each of its cycles the exchange must show what the record
claims: an entry, a smaller position, a moved stop, nothing at all. Pauses and halved sizes must stand until their end,
every readable follow-up on its position and every other in the verdict; what is due is carried out. At the end every
cycle is replayed. No fault is in the way.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from tasks.connections import store
from tasks.core.trading import followups
from tasks.core.trading.orders import cycle_id
from tasks.core.types import CycleRecord, Position, Verdict, day_start
from tasks.core.types.decision import ACTIONS
from tasks.settings import settings
from tests.adapters.model_server import ModelServer, Reply
from tests.chaos.world import SYMBOLS, World
from tests.closing import close_stores
from tests.soak import week
from tests.soak.draws import Draws

ENVIRONMENT = {
    "QUARTERDECK_MODEL": "openai/test", "QUARTERDECK_SAMPLE_QUIET": "1", "QUARTERDECK_EVENTS__DRAWDOWN_PCT": "0.1",
    **{f"QUARTERDECK_BUDGET__{cap}_PER_DAY": "none" for cap in ("CALLS", "USD")},
}  # fmt: skip
SELDOM = {"CLOSE_ALL": 5, "PAUSE": 6, "CLOSE_PARTIAL": 2}  # so that positions live, and see their follow-ups
OF_ENTRIES = (
    ("MOVE_STOP: breakeven on +0.3R", "TRIM 30% at +0.2R"),
    ("TRAIL 0.8 ATR from +0.2R",),
    ("CLOSE after 12 bars below +0.5R", "trail it when it feels right"),
    ("MOVE_STOP: +0.1R on +0.4R", "CLOSE_ALL at +0.6R"),
)
OF_OTHERS = (
    (),
    ("CLOSE after 24 bars below +0.3R",),
    ("TRIM 20% at +0.4R", "sell some later"),
    ("TRAIL 1 ATR from +0.3R",),
)
MANAGES = ("HOLD", "TRIM", "CLOSE_PARTIAL", "MOVE_STOP")
PATIENCE = 3  # looks in a row at which a rule may be due: the venue may refuse a stop that the price has passed
Asked = tuple[str, datetime]


class Model:
    """What is said, and to whom."""

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self.replies: dict[Asked, dict[str, Any]] = {}
        self.twice: list[Asked] = []

    def __call__(self, request: dict[str, Any]) -> Reply:
        text = request["messages"][-1]["content"]
        symbol, as_of, allowed = (
            re.findall(rf"^{head}: (.*)$", text, re.M)[0] for head in ("Pair", "As of", "Allowed now")
        )
        asked = symbol, datetime.fromisoformat(as_of)
        action = min(re.findall(r"[A-Z_]+", allowed), key=lambda word: self.said[word] * SELDOM.get(word, 1))
        reply = {"symbol": symbol, "action": action, "confidence": 0.9, "comment": "soak", **self._terms(action)}
        self.twice += [asked] if asked in self.replies else []
        self.replies[asked] = reply
        self.said[action] += 1
        return Reply(json.dumps(reply))

    def _terms(self, action: str) -> dict[str, Any]:
        n = self.said[action]
        entry = ({"type": "market"}, {"type": "limit", "offset_bps": 1})[n % 3 == 2]
        entered = {"size_pct": 8 + n % 20, "entry": entry, "stop_atr": 1 + n % 3, "tp_atr": 3 + n % 4}
        managed = {"followups": OF_OTHERS[n % len(OF_OTHERS)]}
        return {
            "OPEN_LONG": entered | {"followups": OF_ENTRIES[n % len(OF_ENTRIES)]},
            "OPEN_SHORT": entered | {"followups": OF_ENTRIES[n % len(OF_ENTRIES)]},
            "ADD": entered | managed, "HOLD": managed, "TRIM": {"size_pct": 20} | managed,
            "CLOSE_PARTIAL": {"size_pct": 40} | managed, "SET_TP": {"tp_atr": 2 + n % 5},
            "MOVE_STOP": {"to": ({"kind": "breakeven"}, {"kind": "atr", "x": -0.8})[n % 2]} | managed,
            "PAUSE": {"minutes": 20, "scope": ("symbol", "account")[n % 2]},
        }.get(action, {})  # fmt: skip


class Calm(Draws):
    """The model decides at every close, and nothing goes wrong."""

    def decider(self, close: datetime) -> str:
        return "llm:single"

    def order_faults(self) -> str:
        return "none"

    def is_down(self, close: datetime) -> bool:
        return False


class Days(week.Week):
    """Simulated days, with a look at the exchange before and after each cycle."""

    model: Model

    def start(self, model: Model) -> "Days":
        self.model = model
        self.ends: Counter[str] = Counter()  # of what was said, by action and what the guard and the venue made of it
        self.done: Counter[str] = Counter()  # follow-ups carried out, by rule
        self.scopes: dict[str, datetime] = {}  # until when entries are paused, by symbol; "": halved
        self._due: Counter[tuple[str, str]] = Counter()
        return self

    def _trade(self, close: datetime, symbols: list[str], decider: str, trigger: str) -> None:
        before, known = self.world.state(), set(self.model.replies)
        super()._trade(close, symbols, decider, trigger)
        after = self.world.state()
        # of one question about two symbols the other's pause stands by now too
        for asked in sorted(
            set(self.model.replies) - known, key=lambda one: self.model.replies[one]["action"] != "PAUSE"
        ):
            self.seen.tell(self._kept(asked, before, after), close)

    def _kept(self, asked: Asked, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
        """Breaches: what was said and is not decided, or decided and is not seen at the exchange."""
        (symbol, at), said = asked, self.model.replies[asked]
        record = next((r for r in store().cycles.at(settings().strategy, at) if r.symbol == symbol), None)
        if record is None or record.decided is None or record.verdict is None:
            yield f"lost: {said} of {symbol} {at} is in no record"
            return
        decision, status = record.decided.decision, record.status.value
        if decision.action != said["action"] or record.decided.errors:
            yield f"lost: {said} became {decision.action} {record.decided.errors}"
        codes = " ".join(record.verdict.codes) if status == "denied" else ""
        self.ends[f"{said['action']} {status} {codes}".rstrip()] += 1
        texts = set(said.get("followups", ()))
        unread = {one.text for one in record.verdict.unread}
        if unread != {one.text for one in followups.unread(texts)}:
            yield f"lost: of {texts} unread are {unread}"
        old, new = _at(before, symbol), _at(after, symbol)
        acted = record.verdict.decision.action if status in ("executed", "held") else "nothing"
        if not _shows(acted, record.verdict, old, new, after, symbol):
            yield f"mismatch: {symbol} {at} {acted} {status}: {old} became {new}"
        if status in ("executed", "held"):
            yield from self._stands(record, said, texts - unread)

    def _stands(self, record: CycleRecord, said: dict[str, Any], texts: set[str]) -> Iterator[str]:
        if said["action"] == "PAUSE":
            paused = SYMBOLS if said["scope"] == "account" else (record.symbol,)
            self.scopes |= dict.fromkeys(paused, record.as_of + timedelta(minutes=said["minutes"]))
        if said["action"] == "REDUCE":
            self.scopes[""] = day_start(record.as_of) + timedelta(days=1)
        strategy = settings().strategy
        for symbol, until in self.scopes.items():
            found = store().pauses.until(strategy, symbol) if symbol else store().pauses.reduced_until(strategy)
            if found != until:
                yield f"lost: {symbol or 'sizes'} until {until}, but {found}"
        of_entry = said["action"] not in MANAGES  # these come with its fills
        for position in () if of_entry else store().positions.open(strategy, record.symbol):
            if lacks := texts - set(position.followups):
                yield f"lost: {lacks} of {said} are not on {position.position_id}"

    def _ask(self, story: str, **given: Any) -> dict[str, Any]:
        answer = super()._ask(story, **given)
        self.done.update(_form(rule) for rule in answer.get("followups", ()))
        return answer

    def _protect(self, minute: datetime) -> None:
        """Come at 5m closes alone, where follow-ups are judged: five times as many days in an hour."""
        if minute.minute % 5:
            return
        super()._protect(minute)
        self.seen.tell(self._overdue(minute), minute)
        self.seen.tell(_stops(self.world.state(), store().positions.open(settings().strategy)), minute)

    def _overdue(self, minute: datetime) -> Iterator[str]:
        due = Counter((position, rule) for position, rule in self.process.ask("due", as_of=minute)["due"])
        for position, rule in due:
            due[position, rule] += self._due[position, rule]
            if due[position, rule] == PATIENCE:
                yield f"lost: {rule} is due and not carried out on {position}"
        self._due = due


class Shown(NamedTuple):
    """What is open in a symbol at the exchange."""

    size: Decimal
    stop: Decimal | None
    target: Decimal | None


def _at(state: dict[str, Any], symbol: str) -> Shown:
    position = next((p for p in state["positions"] if p["symbol"] == symbol), {"size": "0"})
    stop, target = (Decimal(price) if (price := position.get(k)) else None for k in ("stopLoss", "takeProfit"))
    return Shown(Decimal(position["size"]), stop, target)


def _shows(acted: str, verdict: Verdict, old: Shown, new: Shown, state: dict[str, Any], symbol: str) -> bool:
    """Say whether the exchange shows what was done; a stop may be moved to where a follow-up has put it."""
    resting = any(o["symbol"] == symbol and o["resting"] and not o["protection"] for o in state["orders"])
    match acted:
        case "OPEN_LONG" | "OPEN_SHORT" | "ADD":
            return new.size > old.size or resting
        case "TRIM" | "CLOSE_PARTIAL":
            return new.size < old.size
        case "CLOSE_ALL":
            return new.size == 0 < old.size
        case "MOVE_STOP":
            return new == old._replace(stop=verdict.stop)
        case "SET_TP":
            return new == old._replace(target=verdict.target)
        case "CANCEL_TP":
            return new == old._replace(target=None)
        case _:
            return new == old


def _stops(state: dict[str, Any], ours: list[Position]) -> Iterator[str]:
    """Stop and target are the ledger's."""
    for position in ours:
        there, here = _at(state, position.symbol), Shown(position.quantity, position.stop, position.target)
        if there.size and there != here:
            yield f"mismatch: {position.symbol} is {there} at the venue, {here} in the ledger"


def _form(rule: str) -> str:
    """Return a follow-up without its numbers."""
    return re.sub(r"[+-]?[\d.]+", "n", rule)


def _of_entries(model: Model) -> Iterator[str]:
    """Breaches: follow-ups of an entry that filled and on no position of its time."""
    strategy = settings().strategy
    positions = [*store().positions.open(strategy), *store().positions.closed(strategy, limit=None)]
    for (symbol, at), said in model.replies.items():
        texts = {text for text in said.get("followups", ()) if not followups.unread([text])}
        fills = store().fills.of_cycle(cycle_id(strategy, symbol, at)) if said["action"] not in MANAGES else ()
        if fills and not any(
            texts <= set(p.followups) and p.opened_at <= fills[-1].at <= (p.closed_at or fills[-1].at)
            for p in positions
            if p.symbol == symbol
        ):
            yield f"lost: {said} of {symbol} {at} filled, and its follow-ups are on no position"


def _replayed() -> Iterator[str]:
    command = (sys.executable, "-m", "deployments.cli", "replay", "--all", "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"replay --all: {done.stdout.strip()[:600]}")
    if done.returncode:
        yield f"replay: exit code {done.returncode} {done.stderr[-500:]}"


def soak(world: World, hours: float, seed: int, until: float) -> week.Soaked:
    """Go through so many hours, or until the monotonic clock says so; prints what was said and what became of it."""
    model = Model()
    with ModelServer(default=model) as server:
        os.environ.update(ENVIRONMENT, QUARTERDECK_MODEL_BASE_URL=server.url)
        settings.cache_clear()
        try:
            with week.trader(world.home / "trader.log") as process:
                days = Days(world, process, Calm(seed, world)).start(model)
                seen = days.run(hours, until)
            end = datetime.fromisoformat(world.state()["clock"])
            seen.tell((f"asked twice: {symbol} {at}" for symbol, at in model.twice), end)
            seen.tell(_of_entries(model), end)
            seen.tell(_replayed(), end)
        finally:
            close_stores()
    print("said:", *(f"\n  {what} {n}" for what, n in sorted(days.ends.items())))
    print("follow-ups carried out:", *(f"\n  {rule} {n}" for rule, n in sorted(days.done.items())))
    carried = {what.split()[0] for what in days.ends if what.endswith((" executed", " held"))}
    print(f"said and without an end: {model.said.total() - days.ends.total()}; "
          f"never carried out: {' '.join(sorted({*ACTIONS} - carried)) or 'none'}")  # fmt: skip
    return seen
