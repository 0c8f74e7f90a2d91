"""Bar after bar in one world: a decision, a fault, deaths and restarts, and a look at what is left."""

import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from tasks.core.types.bars import floor_time
from tasks.crash_points import STEPS
from tests.chaos import invariants
from tests.chaos.fork import (
    BROKEN,
    HANG_S,
    Plan,
    Run,
    Story,
    books,
    fork,
    halted,
    look,
    protected,
    take_stop_away,
    trade,
)
from tests.chaos.invariants import State
from tests.chaos.world import SYMBOLS, World

INSTANT = "(any instant)"
DEATHS = 3  # in one bar, at most
TRIES = 8
# what happens before a bar's fault, and where a process then dies that otherwise seldom comes there
SCENES: dict[str, tuple[str, ...]] = {
    "": (),
    "stop lost": ("before_stop", "stop_set"),
    "protection": ("protection_noted",),
    "follow-ups": ("protect_intent_saved", "followup_sent", "followup_noted"),
    "halted": ("before_cancel", "cancelled"),
    "restored": ("adopted", "fills_saved", "position_saved"),
}
HELD = ("stop lost", "protection", "follow-ups")  # where there must be a position
ORDER, STOP, ANY = "order/create", "position/trading-stop", ""
# kind -> how it is ordered; the path is drawn
FAULTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "none": ((), {}),
    "timeout_after_accept": ((ORDER, ORDER, STOP, "order/cancel", ANY), {}),
    "drop": ((ORDER, STOP, "order/realtime", ANY), {"times": 2}),
    "late": ((ORDER, ORDER, STOP), {"seconds": 0.05}),
    "http_500": ((ORDER, STOP, "execution/list", "position/list"), {"times": 2}),
    "rate_limit": ((ORDER, "order/", ANY), {"times": 3}),
    "ban": ((ORDER, "wallet", ANY), {"seconds": 0.15}),
    "html": ((ORDER, STOP, "execution/list"), {}),
    "latency": ((ORDER, STOP, ANY), {"seconds": 0.05, "times": 2}),
    "duplicate": ((ORDER, STOP, "order/cancel"), {"times": 3}),
    "reorder": ((ORDER, "position/list", "wallet"), {"seconds": 0.05, "times": 2}),
    "insufficient_margin": ((ORDER,), {}),
    "liquidation": ((ORDER, "position/list", "wallet", "execution/list"), {}),
    "clock_skew": ((ORDER, "/v5/position", "market/time"), {"times": 2}),
    "delisting": ((ORDER, ANY), {"times": 3}),
    "reject_stop": ((ORDER,), {}),
    "reject_stop_twice": (("order/create",), {}),
    "partial_fill": ((ORDER,), {"times": 2}),
    "partial_fill_cancel": ((ORDER,), {"times": 2}),
    "somehow": ((ANY,), {"share": 0.3, "times": 12}),
    "late_fills": ((ANY,), {"seconds": 55, "times": 20}),
    "late_orders": ((ANY,), {"seconds": 55, "times": 20}),
    "stale_positions": ((ANY,), {"seconds": 55, "times": 20}),
    "busy": ((ORDER, ORDER, STOP, "set-leverage"), {"kind": "refuse", "code": 429, "times": 4}),
    "expired": ((ORDER, STOP), {"kind": "refuse", "code": -1, "times": 2}),
    "partial_stop": ((ANY,), {"times": 2}),
    "person": ((), {}),
}
LATE = ("late_fills", "late_orders", "stale_positions")
REFUSED = ("reject_stop", "reject_stop_twice", "liquidation", "delisting")  # where a position may have to go
LOTS = {"BTC/USDT:USDT": Decimal("0.001"), "ETH/USDT:USDT": Decimal("0.01")}
# what is asked of a position, in a scene and in any other
ASKED_OF: dict[str, tuple[str, ...]] = {
    "": ("ADD", "ADD", "TRIM", "CLOSE_PARTIAL", "CLOSE_ALL", "MOVE_STOP", "SET_TP", "CANCEL_TP", "HOLD"),
    "protection": ("MOVE_STOP", "SET_TP", "SET_TP", "CANCEL_TP"),
    "follow-ups": ("HOLD",),
    "stop lost": ("HOLD", "ADD", "TRIM", "CLOSE_ALL"),
    "halted": ("ADD",),
}
FOLLOWUPS = ["TRIM 10% at +0.01R", "MOVE_STOP: -0.5R on +0.1R", "TRIM 10% at +0.2R", "MOVE_STOP: breakeven on +0.4R"]


@dataclass
class Tally:
    """What has been seen so far, over all worlds."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    ran: Counter[str] = field(default_factory=Counter)  # by fault, as are its seconds
    seconds: Counter[str] = field(default_factory=Counter)
    bars: int = 0
    failed: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    scenes: Counter[str] = field(default_factory=Counter)
    orders: int = 0
    fills: int = 0
    breaches: list[str] = field(default_factory=list)
    naked_s: float = 0.0
    naked_attached_s: float = 0.0  # where the venue took the stops it was given
    risk_pct: float = 0.0
    run_s: float = 0.5

    def add(self, other: "Tally") -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            elif isinstance(mine, list):
                mine += value
            elif isinstance(mine, float):
                setattr(self, name, max(mine, value))
            else:
                setattr(self, name, mine + value)


def order_fault(world: World, kind: str, luck: random.Random) -> None:
    """Order one of FAULTS; its path is drawn."""
    paths, details = FAULTS[kind]
    if kind == "reject_stop_twice":  # nor can it be set afterwards: the position has to go
        world.fault(kind="reject_stop", path=ORDER, times=1)
        world.fault(kind="reject_stop", path=STOP, times=6)
    elif paths:
        path = luck.choice(paths) or ("position/list" if kind == "stale_positions" else "")
        world.fault(**{"kind": kind, "path": path, "seed": luck.randrange(10**6), **details})


@dataclass(frozen=True)
class Person:
    """Somebody who trades on our account.

    sign, quantity, stop: of what is theirs; held: what is ours on that side; known, seen: the orders and how many fills
    there were before them.
    """

    symbol: str
    sign: int
    quantity: Decimal
    stop: str
    held: Decimal
    known: frozenset[str]
    seen: int

    @classmethod
    def appears(cls, world: World, symbol: str, luck: random.Random) -> "Person | None":
        """Let a person open, add to what we hold, reduce it or turn it; not where an entry of ours may still fill."""
        state = world.state()
        if any(o["symbol"] == symbol and o["resting"] and not o["protection"] for o in state["orders"]):
            return None
        position = next((p for p in state["positions"] if p["symbol"] == symbol), None)
        held = Decimal(position["size"]) if position else Decimal(0)
        quantity, stop = LOTS[symbol] * luck.randint(5, 20), ""
        if position is None:
            side, sign = 0, luck.choice((1, -1))
            trade, theirs = sign * quantity, quantity
            stop = str((Decimal(state["prices"][symbol]) * (1 - sign * Decimal("0.2"))).quantize(Decimal(1)))
        else:
            side = 1 if position["side"] == "long" else -1
            act = luck.choice(("adds", "adds", "reduces", "turns"))
            quantity = min(quantity, held) if act == "reduces" else quantity
            trade = {"adds": side, "reduces": -side, "turns": -side}[act] * (held * (act == "turns") + quantity)
            sign, theirs = (-side if act == "turns" else side), quantity * (act != "reduces")
            held = {"adds": held, "reduces": held - quantity, "turns": Decimal(0)}[act]
        if not world.person(symbol, "buy" if trade > 0 else "sell", abs(trade), **({"stop": stop} if stop else {})):
            return None
        known = frozenset(order["venue_order_id"] for order in state["orders"])
        return cls(symbol, sign, theirs, stop, held, known, len(world.state()["fills"]))

    def parts(self, state: State) -> tuple[Decimal, Decimal, Decimal]:
        """Return what is ours there by now, what theirs, and what of theirs orders of ours have closed.

        An exit closes ours first: a stop or a liquidation of the whole position takes theirs along.
        """
        ours, theirs, wronged = self.held, self.quantity, Decimal(0)
        for fill in state["fills"][self.seen :]:
            if not theirs:
                break  # they are gone, and what is traded from here on is none of theirs
            if fill["symbol"] != self.symbol or fill["reason"] == "funding":
                continue
            if (fill["side"] == "buy") == (self.sign > 0):
                ours += Decimal(fill["qty"])
            else:
                beyond = max(Decimal(0), Decimal(fill["qty"]) - ours)
                ours, theirs = ours - (Decimal(fill["qty"]) - beyond), theirs - beyond
                wronged += beyond if fill["orderLinkId"] else 0
        return ours, theirs, wronged

    def apart(self, state: State) -> State:
        """Return the state as if what is theirs were not there."""
        ours, theirs, _ = self.parts(state)
        changed = [p | {"size": ours} if p["symbol"] == self.symbol and theirs else p for p in state["positions"]]
        return state | {"positions": [p for p in changed if Decimal(p["size"])]}

    def wronged(self, state: State) -> Iterator[str]:
        """Breaches: an entry of ours beside theirs; theirs closed by us, or its stop moved where it was alone."""
        _, theirs, wronged = self.parts(state)
        for order in filter(invariants.ours, state["orders"]):
            enters = order["venue_order_id"] not in self.known and not (order["reduce_only"] or order["protection"])
            if enters and order["symbol"] == self.symbol and theirs:
                yield f"beside: {order['orderLinkId']} entered {self.symbol} beside a person's position"
        if wronged:
            yield f"flattened: {wronged} of a person's {self.quantity} {self.symbol} beside {self.held} of ours"
        now = [
            (Decimal(p["size"]), Decimal(p["stopLoss"] or 0)) for p in state["positions"] if p["symbol"] == self.symbol
        ]
        if self.stop and theirs and now != [(theirs, Decimal(self.stop))]:
            yield f"flattened: a person's {theirs} {self.symbol} with stop {self.stop} is now {now}"

    def leaves(self, world: World) -> None:
        """Let the person take what is theirs off, a moment later: an instant has no order."""
        world.advance(1)
        if theirs := self.parts(world.state())[1]:
            world.person(self.symbol, "sell" if self.sign > 0 else "buy", theirs, reduce_only=True)


class Bars:
    """Everything that happens in one world."""

    def __init__(self, world: World, tally: Tally, luck: random.Random, name: str) -> None:
        self.world, self.tally, self.luck, self.name = world, tally, luck, name
        self.seen: set[str] = set()
        self.bared: set[str] = set()  # whose stop we took away
        self.replies = world.home / "replies.jsonl"
        self.lines: list[str] = []
        self.closing: set[str] = set()  # what was asked to be closed, and may be so at any later time
        self.person: Person | None = None

    def bar(self, kind: str) -> None:
        """Go to the next close, ask for something there, and die over it."""
        close = self._go_to_the_next_close(kind)
        state = self._state()
        scene = self._scene(state)
        symbol, reply = self._reply(state, scene)
        self._write(close, symbol, reply)
        first = self._begin(scene, symbol)
        self._order_fault(kind, symbol)
        self._until_done(first, kind, scene)
        if kind in LATE:
            self._while_late(kind)
        self._hear_the_person(kind)
        self.world.clear_faults()
        self._flattened(state, symbol, reply, kind, scene)
        self._look(f"{kind} {reply['action']} {symbol} {close:%m-%d %H:%M} {scene}".rstrip(), kind)
        self.tally.bars += 1
        self.tally.actions[reply["action"]] += 1
        self.tally.scenes[scene or "plain"] += 1

    def _while_late(self, kind: str) -> None:
        """Let the watchdog come while not all is told: nothing may be alarmed about."""
        for _ in range(3):
            self.world.advance(20)
            fork(protected(False))
            if halt := fork(books).said.get("halt"):
                self._tell(iter([f"halt: {halt}"]), f"while {kind}")

    def _hear_the_person(self, kind: str) -> None:
        """Let the watchdog come while the person is there; then the person may leave, or stay for more bars."""
        if self.person is not None:
            for _ in range(2):  # beyond its patience: what stays is a fact
                fork(protected(False))
                self._tell(self.person.wronged(self.world.state()), kind)
                self.world.advance(invariants.WATCHDOG_S)
            if self.luck.random() < 0.5 or not self.person.parts(self.world.state())[1]:
                self.person.leaves(self.world)
                self.person = None

    def _state(self) -> State:
        """Return what happened at the exchange, without what is a person's."""
        state = self.world.state()
        return self.person.apart(state) if self.person else state

    def _flattened(self, before: State, symbol: str, reply: dict[str, Any], kind: str, scene: str) -> None:
        """A position may go by a decision, its stop or target, or where its stop was refused or is passed."""
        if reply["action"] in ("CLOSE_ALL", "CLOSE_PARTIAL", "TRIM"):
            self.closing.add(symbol)
        state = self.world.state()
        held, known = {p["symbol"] for p in state["positions"]}, {o["venue_order_id"] for o in before["orders"]}
        for order in filter(invariants.ours, state["orders"]):
            new = order["venue_order_id"] not in known and order["reduce_only"] and not order["protection"]
            gone = Decimal(order["filled"]) > 0 and order["symbol"] not in held
            why = kind in REFUSED or scene in ("stop lost", "follow-ups")
            if new and gone and not why and order["symbol"] not in self.closing | self.bared:
                self._tell(iter([f"flattened: {order['orderLinkId']} closed {order['symbol']}"]), f"{kind} {scene}")
        self.closing &= held

    def _scene(self, state: State) -> str:
        earns = any(Decimal(p["unrealized_pnl"]) > 0 for p in state["positions"])
        possible = [s for s in SCENES if (state["positions"] or s not in HELD) and (earns or s != "follow-ups")]
        return self.luck.choice(["", *possible])

    def _begin(self, scene: str, symbol: str) -> Callable[[bool], Story]:
        """Bring about what a scene begins with; returns the story to be killed, given whether one died before."""
        story = partial(trade, symbol, f"recorded:{self.replies}")
        if scene == "stop lost":
            self.bared.add(symbol)
            fork(partial(take_stop_away, symbol))
        elif scene == "halted":
            fork(story(False))
            return halted
        elif scene == "restored":
            with self.world.restored():
                fork(story(False))
            return protected
        return story

    def _go_to_the_next_close(self, kind: str) -> datetime:
        """Minute by minute under the watchdog while an entry rests that the venue took without its stop."""
        state = self.world.state()
        now = datetime.fromisoformat(state["clock"])
        close = floor_time(now, "5m") + timedelta(minutes=5)
        while invariants.rests_without_a_stop(state) and (close - now).total_seconds() > invariants.WATCHDOG_S:
            self.world.advance(invariants.WATCHDOG_S)
            self._look("between closes", kind)
            state = self.world.state()
            now = datetime.fromisoformat(state["clock"])
        self.world.advance((close - now).total_seconds() + 5)
        return close

    def _until_done(self, story: Callable[[bool], Story], kind: str, scene: str) -> None:
        deaths = 0
        for _ in range(TRIES):
            plan = self._plan(kind, scene) if deaths < DEATHS else Plan()
            run = fork(story(deaths > 0), plan)
            self._count(run, plan, kind)
            if run.clean:
                return
            if run.killed:
                deaths += 1
                self._note(kind, f"after {plan.step or INSTANT}")
                self.world.advance(invariants.WATCHDOG_S)
                self._note(kind, f"a minute after {plan.step or INSTANT}")

    def _plan(self, kind: str, scene: str) -> Plan:
        """Draw where to die: where deaths are few for how often the place is come to, above all what a scene is for."""
        if self.luck.random() < 0.12:
            return Plan(after_s=self.luck.uniform(0.0, self.tally.run_s))
        tally, steps = self.tally, SCENES[scene] if self.luck.random() < 0.7 and scene else STEPS
        odds = [((tally.reached[s] + 1) / (tally.runs + 1)) ** 0.5 / (1 + tally.kills[s, kind]) for s in steps]
        step = self.luck.choices(steps, odds)[0]
        return Plan(step, self.luck.choice((1, 1, 1, 1, 2)))

    def _count(self, run: Run, plan: Plan, kind: str) -> None:
        self.tally.runs += 1
        self.tally.ran[kind] += 1
        self.tally.seconds[kind] += run.seconds
        self.tally.reached.update(set(run.reached))
        if run.killed and (plan.step or plan.after_s is not None):
            self.tally.kills[plan.step or INSTANT, kind] += 1
        elif run.killed or run.code == BROKEN:
            self.tally.breaches.append(f"{self.name} {kind}: a run broke off or hung for {HANG_S} s, see stderr")
        elif run.code:
            self.tally.failed += 1
        elif not plan.step:
            self.tally.run_s = 0.9 * self.tally.run_s + 0.1 * run.seconds

    def _note(self, kind: str, when: str) -> None:
        """Look at the venue alone."""
        state = self._state()
        naked = invariants.naked_s(state)
        self.tally.naked_s = max(self.tally.naked_s, naked)
        self.tally.naked_attached_s = max(
            self.tally.naked_attached_s, invariants.naked_s(state, self.bared, attached=True)
        )
        self.tally.risk_pct = max(self.tally.risk_pct, float(invariants.risk_pct(state)))
        self._tell(invariants.at_the_venue(state), f"{kind} {when}")

    def _look(self, what: str, kind: str) -> None:
        self._note(kind, what)
        run = fork(look)
        if not run.clean:
            self.tally.breaches.append(f"{self.name} {what}: protect failed without a fault: {run.said}")
            return
        state = self._state()
        self.bared -= {p["symbol"] for p in state["positions"] if p["stopLoss"]}
        self._tell(invariants.reconciled(state, run.said), what)
        if invariants.naked_s(state) > (DEATHS + 1) * invariants.WATCHDOG_S:
            self._tell(iter([f"naked for {invariants.naked_s(state)} s"]), what)
        self.tally.orders, self.tally.fills = len(state["orders"]), len(state["fills"])

    def _tell(self, breaches: Any, what: str) -> None:
        for breach in breaches:
            if breach not in self.seen:
                self.seen.add(breach)
                self.tally.breaches.append(f"{self.name} {what}: {breach}")
                print(f"BREACH {self.tally.breaches[-1]}", file=sys.stderr)

    # -- what is asked for --------------------------------------------------------------------------------------

    def _reply(self, state: State, scene: str) -> tuple[str, dict[str, Any]]:
        """Draw something the position allows, entries above all, and what the scene needs."""
        held = {p["symbol"]: Decimal(p["unrealized_pnl"]) for p in state["positions"]}
        symbol = self.luck.choice(sorted(held) if scene in HELD else SYMBOLS)
        if scene == "follow-ups":
            symbol = max(held, key=lambda symbol: held[symbol])
        draw = self.luck.uniform
        limit = {"type": "limit", "offset_bps": 1}
        entry = limit if scene == "halted" else self.luck.choice(({"type": "market"}, {"type": "market"}, limit))
        size = {"size_pct": round(draw(3, 40), 1), "entry": entry, "stop_atr": round(draw(0.5, 3), 2),
                "tp_atr": round(draw(1, 6), 2)}  # fmt: skip
        if symbol not in held:
            action, more = self.luck.choice(("OPEN_LONG", "OPEN_SHORT")), dict(size)
            more["followups"] = FOLLOWUPS
        else:
            action = self.luck.choice(ASKED_OF[scene] if scene in ASKED_OF else ASKED_OF[""])
            more = {
                "ADD": size, "TRIM": {"size_pct": 30}, "CLOSE_PARTIAL": {"size_pct": 50},
                "MOVE_STOP": {"to": {"kind": "atr", "x": -round(draw(0.3, 1.5), 2)}}, "SET_TP": {"tp_atr": 2},
            }.get(action, {})  # fmt: skip
        return symbol, {"symbol": symbol, "action": action, "confidence": 0.9, "comment": "chaos", **more}

    def _write(self, close: datetime, symbol: str, reply: dict[str, Any]) -> None:
        line = {"as_of": close.isoformat(), "symbol": symbol, "reply": json.dumps(reply)}
        self.lines.append(json.dumps(line))
        self.replies.write_text("\n".join(self.lines))

    def _order_fault(self, kind: str, symbol: str) -> None:
        order_fault(self.world, kind, self.luck)
        if kind == "person" and not self.person:
            self.person = Person.appears(self.world, symbol, self.luck)
