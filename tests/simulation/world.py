"""One world: a market, an account, a database and the processes that trade on it, all drawn from a seed."""

import asyncio
import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from flows.cycle import Request
from flows.protect import reconcile
from flows.settle import settle_all
from flows.trade import run_cycles
from flows.watch import look
from infra.sandbox.config import SandboxConfig
from infra.sandbox.exchange import Exchange
from tasks.adapters.store.store import Store
from tasks.core.errors import TradingError
from tasks.core.simulation.account import Execution
from tasks.core.trading.followups import pending
from tasks.core.trading.orders import is_ours
from tasks.core.types import (
    ZERO,
    CycleRecord,
    OrderIntent,
    OrderStatus,
    OrderType,
    Question,
    day_start,
    floor_time,
    floor_to_step,
)
from tasks.crash_points import STEPS
from tasks.settings import settings
from tests.simulation import aims, invariants
from tests.simulation.loop import VirtualLoop, WorldClock
from tests.simulation.luck import Luck
from tests.simulation.process import CURRENT, Killed, Process
from tests.simulation.stand_ins import DATABASE, WorldDatabase, installed
from tests.simulation.venue import CHANGES, READS, SimulatedVenue

LOTS = {"BTC/USDT:USDT": Decimal("0.001"), "ETH/USDT:USDT": Decimal("0.01")}
FIRST_DAY, DAYS = datetime(2024, 12, 1, tzinfo=UTC), 20  # a world begins on one of these
LIVED = 16.0  # days
MARKETS = 4  # seeds of markets; worlds share them, as making one takes a second
QUIET_S = (100, 100, 100, 900, 101)  # between looks: nothing is late any more, then patience and waiting are over
QUIET_EVERY = 12  # visits
DEATHS = 14  # of one story at one visit, at most
HOUR_S = 3600
GAPS_S = {  # from a visit to the next, by how often relative to each other
    300: 2.0, 900: 2.0, HOUR_S: 3.0, 4 * HOUR_S: 3.0, 12 * HOUR_S: 3.0, 36 * HOUR_S: 2.0, 96 * HOUR_S: 1.0,
    240 * HOUR_S: 1.0,
}  # fmt: skip
LONGEST = 0.625  # of them, as a share of the world's life
RATES = {0.0: 4.0, 0.01: 4.0, 0.05: 2.0, 0.2: 1.0}  # how often calls go wrong at a visit
KILLS = {0.0: 3.0, 0.02: 2.0, 0.1: 3.0, 0.4: 4.0}  # how often a process dies at a crash point, at a visit
# how often a step is deadly at a visit, where something is about to come to it, and where the world aims at others
DEADLY, NEAR, STRAY = 0.1, 0.5, 0.02
TWICE = 2  # so many die there
SENDING = STEPS[STEPS.index("guard_leased") : STEPS.index("cycle_ended")]
# what happens to the world at a visit, by how often relative to each other
EVENTS = {
    "late fills": 3.0, "late orders": 2.0, "stops refused": 1.5, "stops unanswered": 6.0, "half filled": 2.0,
    "stop taken away": 2.0, "person": 2.5, "restored": 1.5, "venue's clock": 1.0, "our clock": 1.0, "halted": 1.0,
    "halves of stops": 1.0,
    "limits changed": 1.0, "symbols changed": 0.7, "database": 3.0, "two workers": 8.0, "liquidated": 0.7,
    "venue away": 1.5, "positions unlisted": 1.0, "deleveraged": 0.7, "stop moved": 1.0, "order taken away": 1.0,
    "step changed": 0.7,
}  # fmt: skip
EVENT_RATE, EVENTS_AT_ONCE = 0.5, 3
WORST_RATE = 0.3  # how often a person, or a changed setting, comes just when it matters most
CALM = 0.3  # how often nothing goes wrong at the visit after one
CALM_GAPS_S = {300: 2.0, 900: 2.0, HOUR_S: 1.0}
FAVOURED_RATE = 0.03  # how often a transaction goes wrong at a visit that favours one of its faults
# Every visit favours one fault and some steps to die at: rare pairs meet so much oftener than by chance. Few calls
# change anything.
KINDS = {kind: 4.0 if kind in CHANGES.keys() - READS.keys() else 1.0 for kind in (*CHANGES, *READS, *DATABASE, *EVENTS)}
Story = Callable[[], Awaitable[Any]]


@dataclass
class Told:
    """What became of a world."""

    seed: int
    lines: list[str] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)  # by where
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)  # (where a process died, what else went wrong)
    faults: dict[str, str] = field(default_factory=dict)
    cycles: Counter[str] = field(default_factory=Counter)
    days: float = 0.0
    orders: int = 0
    fills: int = 0
    naked_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def sha256(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()


class World:
    """Everything that happens under one seed."""

    def __init__(self, seed: int, days: float = LIVED, only: frozenset[str] | None = None) -> None:
        self.aim = aims.of(seed)
        self.luck, self.told, self.days = Luck(seed, only), Told(seed), min(days, self.aim.days)
        luck, self.symbols = self.luck, tuple(LOTS)
        self.start = FIRST_DAY + timedelta(days=int(luck.between("start", 0, DAYS)))
        self.loop = VirtualLoop()
        self.clock = WorldClock(self.loop, self.start, seed)
        market = int(luck.between("market", 0, MARKETS))
        self.exchange = Exchange(SandboxConfig(symbols=self.symbols, seed=market, start=self.start, stepped=True))
        self.exchange.clock.now_ms = lambda: round(self.clock.venue_time.timestamp() * 1000)  # type: ignore[method-assign]
        self.venue = SimulatedVenue(
            self.exchange,
            luck,
            self.tell,
            attaches=self.aim.rests or luck.draw("attaches") < 0.6,
            forgets_ids=luck.draw("forgets") < 0.6,
        )
        self.database = WorldDatabase()
        self.often = bool(self.aim.steps) or luck.draw("often") < 0.8
        self.deciding: dict[tuple[str, datetime], Process] = {}  # who was asked last about a symbol at a close
        self.ended: dict[str, str] = {}  # how a cycle ended, and what the guard said
        self.asked_to = ""  # what the decider is to answer; empty: what is drawn
        self.visit, self.visit_began = 0, self.start
        self.kill_rate = self.database_rate = 0.0
        self.happens: set[str] = set()  # what goes wrong at this visit
        self.is_calm = False  # nothing does
        self.deadly: dict[str, int] = {}  # steps at which processes die oftener at this visit, and how often still
        self.person: dict[str, Decimal] = {}  # what a person holds, signed, by symbol
        self.doubtful: set[str] = set()  # where ours had closed unheard when theirs was first seen
        self.beside: set[str] = set()  # where it is added to what is ours
        self.orders_seen = 0
        self._naked_since: dict[str, float] = {}
        self._backup: sqlite3.Connection | None = None
        self._restored_at = 0

    def run(self) -> Told:
        """Live through all of it, to the first breach."""
        with installed(self):
            try:
                self.loop.run_until_complete(self._live())
            finally:
                self.loop.close()
                self.database.close()
        told = self.told
        told.faults, told.days = self.luck.struck, self.loop.time() / 86_400
        told.orders, told.fills = len(self.exchange.account.orders), len(self.exchange.account.fills)
        return told

    def tell(self, line: str) -> None:
        """Add a line to the trace."""
        self.told.lines.append(f"{self.clock.venue_time:%d %H:%M:%S.%f} {line}")

    async def _live(self) -> None:
        for self.visit in count(1):
            await self._until_the_next_visit()
            self._begin_visit()
            await self._visit()
            self._end_visit()
            if self._breached(invariants.at_any_time(self)):
                return
            is_over = self.loop.time() > self.days * 86_400
            if (self.visit % QUIET_EVERY == 0 or is_over) and await self._quiet():
                return
            if is_over:
                return

    def note_question(self, question: Question) -> None:
        """Notice where two living processes decide on one symbol and close."""
        about, process = (question.snapshot.pair, question.snapshot.as_of), CURRENT.get()
        before = self.deciding.get(about, process)
        if before is not process and not before.dead:
            self._breached(iter([f"duplicate: {before.name} and {process.name} both decide on {about[0]}"]))
        self.deciding[about] = process

    def _breached(self, breaches: Iterator[str]) -> bool:
        for what in breaches:
            self.told.breaches.append(what)
            self.tell(f"BREACH {what}")
        return bool(self.told.breaches)

    # -- one visit -----------------------------------------------------------------------------------------------

    async def _until_the_next_visit(self) -> None:
        """A minute where something is not as it should be, else until after a 5m close; a long gap ends at midnight."""
        now, n = self.clock.venue_time, self.visit
        self.is_calm = not self.is_calm and self.luck.draw(f"{n}/calm") < CALM
        gaps = {
            gap: odds
            for gap, odds in (aims.GAPS_S if self.aim.steps else GAPS_S).items()
            if gap <= self.days * 86_400 * LONGEST
        }
        seconds = self.luck.weighted(f"{n}/gap", CALM_GAPS_S if self.is_calm else gaps)
        if "restored" in self.happens:  # what it lost is looked for over two days
            seconds = min(seconds, 12 * HOUR_S)
        if self.visit > 1 and invariants.is_exposed(self):
            await self._pass(60)
            return
        is_long = seconds >= 12 * HOUR_S
        begins = day_start(now) + timedelta(hours=12) if is_long else floor_time(now, "5m")
        close = begins + timedelta(seconds=seconds)
        await self._pass(max((close - now).total_seconds(), 0) + 5)

    async def _pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.exchange.catch_up()
        self.exchange.settle(changed=True)
        self._left_alone()
        now, naked = self.loop.time(), {p.symbol for p in invariants.ours(self) if p.stop is None}
        self._naked_since = {symbol: self._naked_since.get(symbol, now) for symbol in naked}
        self.told.naked_s = max([self.told.naked_s, *(now - since for since in self._naked_since.values())])

    def _begin_visit(self) -> None:
        n, luck, self.visit_began = self.visit, self.luck, self.exchange.now
        if self.is_calm:
            self._nothing_goes_wrong()
            return
        self.venue.rate = luck.weighted(f"{n}/rate", RATES)
        self.kill_rate = luck.weighted(f"{n}/kills", self.aim.kills or KILLS)
        self.happens = set()
        near, favoured = {*self._near()}, luck.weighted(f"{n}/favoured", KINDS)
        often = {step: NEAR if step in near else DEADLY for step in STEPS}
        if self.aim.steps:
            often = {step: float(step in self.aim.steps) or STRAY for step in STEPS}
        self.deadly = {step: TWICE for step in STEPS if luck.draw(f"{n}/deadly {step}") < often[step]}
        self.venue.favoured = favoured
        if favoured in DATABASE:
            self.database_rate = FAVOURED_RATE
        for k in range(EVENTS_AT_ONCE):
            name = f"{n}/event{k}"
            chosen = not k and favoured in EVENTS
            event = luck.fault(name, {favoured: 1.0} if chosen else EVENTS, 1.0 if chosen else EVENT_RATE)
            if event and event not in self.happens:
                self._begin_event(event, name, luck.choice(f"{name}/symbol", self.symbols))
        for event in self.aim.events:
            name = f"{n}/event aimed {event}"
            if event not in self.happens and luck.fault(name, {event: 1.0}, aims.RATE):
                self._begin_event(event, name, luck.choice(f"{name}/symbol", self.symbols))
        for event, symbol in self._worst():
            name = f"{n}/event {event} {symbol}"
            if event not in self.happens and luck.fault(name, {event: 1.0}, WORST_RATE):
                self._begin_event(event, name, symbol)

    def _nothing_goes_wrong(self) -> None:
        self.happens, self.kill_rate, self.venue.rate, self.venue.favoured, self.deadly = set(), 0.0, 0.0, "", {}

    def _near(self) -> Iterator[str]:
        """Yield steps that few runs come to, where this one may."""
        yield from SENDING
        if self.visit == self._restored_at + 1:
            yield "adopted"
        if any(is_ours(order.client_order_id) for order in self.exchange.account.open_orders()):
            yield from ("before_cancel", "cancelled")
        if any(pending(position) for position in self.store().positions.open(settings().strategy)):
            yield from ("followup_sent", "followup_noted", "protect_intent_saved", "protection_noted")
        if invariants.is_exposed(self):
            yield from ("before_stop", "stop_set")

    def _worst(self) -> Iterator[tuple[str, str]]:
        """Yield what would matter most now, with its symbol.

        A person who trades where ours closed unheard or an entry was never sent; a stop that is gone where none can be
        set; and a symbol that is traded no more where a restored ledger does not know what the venue holds.
        """
        store, strategy = self.store(), settings().strategy
        held = {position.symbol for position in self.exchange.account.positions()}
        known = {position.symbol for position in store.positions.open(strategy)}
        unsent = {own.intent.symbol for own in store.intents.open(strategy) if own.state == "persisted"}
        yield from (("person", symbol) for symbol in sorted((known | unsent) - held - self.person.keys()))
        if "stops unanswered" in self.happens:
            yield from (("stop taken away", symbol) for symbol in sorted(held & known))
        if self.visit == self._restored_at + 1:
            yield from (("symbols changed", symbol) for symbol in sorted(held - known - self.person.keys()))

    def _begin_event(self, event: str, name: str, symbol: str) -> None:
        self.happens.add(event)
        self.tell(f"event {event}")
        amount = self.luck.between(f"{name}/amount", 0, 1)
        if self.person and event == "positions unlisted":
            return  # nothing tells then what is theirs
        if event in LASTS_A_VISIT:
            where, attribute, value = LASTS_A_VISIT[event]
            setattr(getattr(self, where) if where else self, attribute, value(amount))
        elif event == "person" and not self.venue.lists_no_positions:
            self._person_trades(symbol, name)
        elif event == "limits changed":
            os.environ["QUARTERDECK_LIMITS__MAX_TRADE_RISK_PCT"] = f"{0.3 + 0.7 * amount:.2f}"
            os.environ["QUARTERDECK_LIMITS__MIN_CONFIDENCE"] = f"{0.3 + 0.65 * amount:.2f}"
            settings.cache_clear()
        elif event == "symbols changed":
            self._drop(symbol if amount < 0.5 or self.visit == self._restored_at + 1 else "")
        elif event == "halted":
            self.store().halts.add("a person halts", "person", self.clock.now())
        elif event == "restored":
            self._backup = sqlite3.connect(":memory:")
            self.database.raw.backup(self._backup)
        else:
            self._begin_at_venue(event, symbol, amount)

    def _begin_at_venue(self, event: str, symbol: str, amount: float) -> None:
        """Let the venue, or a person on its pages, act on what is ours."""
        account, now = self.exchange.account, self.exchange.now
        if event == "halves of stops":
            self.exchange.half_stops = 2
        elif event == "stop taken away" and any(p.symbol == symbol for p in invariants.ours(self)):
            account.set_protection(symbol, ZERO, None, now)
        elif event == "stop moved":
            self._stop_moved(symbol, amount)
        elif event == "step changed":
            self._step_is(symbol, LOTS[symbol] * (10 if amount < 0.7 else 1))
        elif event == "order taken away":
            for order in account.open_orders(symbol):
                account.cancel(order.client_order_id, now)
        elif event == "deleveraged" and symbol not in self.person:
            self._deleverage(symbol, amount)
        elif event == "liquidated" and not self.person:
            self.exchange.liquidate()
            self.venue.refuse(*self.symbols)

    def _end_visit(self) -> None:
        """What went wrong at this visit alone is over; what was late is told at the next look."""
        if self.venue.answers_no_stop:  # a visit may last half an hour: none could be set until now
            self._naked_since.clear()
        for where, attribute, value in LASTS_A_VISIT.values():
            setattr(getattr(self, where) if where else self, attribute, type(value(0.0))())
        self.exchange.half_stops, self.database_rate = 0, 0.0
        self.venue.learn_instruments()
        if self._backup is not None:
            self._backup.backup(self.database.raw)
            self._backup.close()
            self._backup = None
            self._restored_at = self.visit  # one run of the watchdog must know the symbols as they were
            self._trade_only(self.symbols)
        if "halted" in self.happens:
            self.store().halts.resume("person", self.clock.now(), whose="person")

    def _drop(self, symbol: str) -> None:
        """Trade all symbols but this from now on, as an edited file says for the next run.

        Right after a restore only one that the venue holds: what was there before nothing tells any more.
        """
        if self.visit > self._restored_at + 1 or self.exchange.account.position(symbol):
            self._trade_only(tuple(each for each in self.symbols if each != symbol))

    def _trade_only(self, symbols: tuple[str, ...]) -> None:
        os.environ["QUARTERDECK_SYMBOLS"] = ",".join(symbols)
        settings.cache_clear()

    def _deleverage(self, symbol: str, share: float) -> None:
        """Let the venue take a share of ours off by itself, as it does to the other side of a liquidation."""
        account, now = self.exchange.account, self.exchange.now
        if (held := account.wallet.holdings.get(symbol)) is not None:
            part = max(floor_to_step(held.quantity * Decimal(share), LOTS[symbol]), LOTS[symbol])
            met = Execution(self.exchange.price(symbol), "taker", now, now)
            account._close(held, min(part, held.quantity), "liquidation", met)

    def _step_is(self, symbol: str, step: Decimal) -> Decimal:
        """Let orders be in other steps from now on, also those for what was bought in finer ones; returns the step.

        Processes know of it from the next visit on.
        """
        market, before = self.exchange.markets[symbol], self.exchange.markets[symbol].instrument
        market.instrument = before.replace(step=step, min_quantity=step)
        self.exchange.account.wallet.instruments[symbol] = market.instrument  # type: ignore[index]
        return before.step

    def _stop_moved(self, symbol: str, amount: float) -> None:
        """Let a person move our stop: mostly further away, else half of the way to the price."""
        held, price = self.exchange.account.position(symbol), self.exchange.price(symbol)
        if held is None or held.stop is None or symbol in self.person:
            return
        share = Decimal(str(round(amount, 1))) if amount < 0.7 else Decimal("-0.5")
        tick = self.exchange.markets[symbol].instrument.tick
        stop = floor_to_step(held.stop + (held.stop - price) * share, tick)
        self.exchange.account.set_protection(symbol, stop, None, self.exchange.now)

    def _person_trades(self, symbol: str, name: str) -> None:
        """Let a person open where nothing of ours is, add to what is ours or reduce it, or take off what is theirs."""
        account, had = self.exchange.account, self.person.get(symbol)
        held, amount = account.position(symbol), LOTS[symbol] * int(self.luck.between(f"{name}/n", 5, 20))
        side = 1 if self.luck.draw(f"{name}/sign") < 0.5 else -1
        if had:
            self._person_leaves(symbol)
        elif held is not None and self.luck.draw(f"{name}/turn") < 0.2:  # ours goes, and theirs is the other way round
            sign = 1 if held.side == "long" else -1
            self._person_order(symbol, -sign * (held.quantity + amount))
            if symbol in self.person:  # it was not refused
                self.person[symbol] += sign * held.quantity
        elif held is not None:
            self._person_order(symbol, side * min(amount, held.quantity))
            if self.person.get(symbol, ZERO) * (1 if held.side == "long" else -1) < 0:
                del self.person[symbol]  # it was ours that they sold
            else:
                self.beside.add(symbol)
        elif not any(is_ours(order.client_order_id) for order in account.open_orders(symbol)):
            self._person_order(symbol, side * amount)

    def _left_alone(self) -> None:
        """Notice where what was ours beside a person's is gone; a stop for the whole position takes theirs along."""
        for symbol in sorted(self.beside):
            held, had = self.exchange.account.position(symbol), self.person[symbol]
            now = ZERO if held is None else held.quantity * (1 if held.side == "long" else -1)
            if now == 0 or (now * had > 0 and abs(now) <= abs(had)):
                self.beside.discard(symbol)
                self.person[symbol] = now
                if not now:
                    self.person.pop(symbol)

    def _person_leaves(self, symbol: str) -> None:
        """Take off what is theirs, as far as an exit of ours has not taken it along."""
        held, had = self.exchange.account.position(symbol), self.person[symbol]
        if held is not None and (held.side == "long") == (had > 0):
            self._person_order(symbol, -min(held.quantity, abs(had)) * (1 if had > 0 else -1))
        self.person.pop(symbol, None)
        self.beside.discard(symbol)
        self.doubtful.discard(symbol)

    def _person_order(self, symbol: str, quantity: Decimal) -> None:
        intent = OrderIntent(
            client_order_id=f"by-hand-{len(self.told.lines)}",
            symbol=symbol,
            type=OrderType.MARKET,
            side="buy" if quantity > 0 else "sell",
            quantity=abs(quantity),
        )
        step = self._step_is(symbol, LOTS[symbol])  # theirs are in whatever step they like
        order = self.exchange.submit(intent)
        self._step_is(symbol, step)
        if order.status is not OrderStatus.REJECTED and order.filled:
            now = self.person.get(symbol, ZERO) + (order.filled if quantity > 0 else -order.filled)
            self.person[symbol] = now
            self.tell(f"a person {intent.side}s {order.filled} {symbol}, has {now}")

    async def _visit(self) -> None:
        """Run what is due: the watchdog always, and at a close whatever the schedules would run."""
        n, luck, now = self.visit, self.luck, self.clock.venue_time
        stories: list[tuple[str, Story]] = [("protect", reconcile)]
        if now - floor_time(now, "5m") < timedelta(seconds=60):
            stories += [("trade", self._trade("schedule")), ("protect.after", reconcile)]
            if luck.draw(f"{n}/watch") < 0.15:
                stories = [("watch", look), ("trade", self._trade("event")), ("protect", reconcile)]
            if luck.draw(f"{n}/settle") < 0.1:
                stories += [("settle", settle_all)]
        workers = ("a", "b") if "two workers" in self.happens else ("a",)
        if len(workers) > 1 and len(stories) > 1 and luck.draw(f"{n}/meet") < 0.5:  # and live
            stories, self.kill_rate, self.deadly = stories[1:], 0.0, {}
        self.venue.unheard.clear()
        await asyncio.gather(*(self._to_the_end(worker, stories) for worker in workers))
        self.doubtful |= self.venue.unheard & self.person.keys()

    def _trade(self, trigger: str) -> Story:
        async def story() -> Any:
            request = Request(symbols=settings().symbols, decider="rules", trigger=trigger)  # type: ignore[arg-type]
            return await run_cycles(request)

        return story

    async def _to_the_end(self, worker: str, stories: list[tuple[str, Story]]) -> None:
        """Run the stories one after the other, each in a process of its own, and again where one died."""
        for name, story in stories:
            for attempt in range(DEATHS + 1):
                process = f"{self.visit}{worker}.{name}.{attempt}"
                if await self._run(process, story, mortal=attempt < DEATHS):
                    break
                await asyncio.sleep(self.luck.between(f"{process}/rest", 1, 30))
                self.exchange.catch_up()

    async def _run(self, name: str, story: Story, mortal: bool) -> bool:
        """Run one story in a process; returns whether it lived."""
        process, context = Process(name, self.database.store(), mortal=mortal), copy_context()
        context.run(CURRENT.set, process)
        struck_before = len(self.luck.struck)
        try:
            said = await self.loop.create_task(story(), context=context)  # type: ignore[arg-type]  # a coroutine
            self.tell(f"{name} {_short(said)}")
            if ".protect." in name and not self.happens and len(self.luck.struck) == struck_before:
                self._left_alone()
                self._breached(invariants.naked(self))
            if isinstance(said, list):
                self.told.cycles.update(record.status.value for record in said)
                self._breached(invariants.of_records(self, said))
        except Killed:
            where = process.steps[-1] if process.steps else "start"
            self.told.kills[where] += 1
            self.tell(f"{name} killed after {where}")
            self.told.pairs.update((where, kind) for kind in self._faults_lately())
            return False
        except TradingError as e:
            self.tell(f"{name} failed: {type(e).__name__} {str(e)[:200]}")
            if self.venue.is_sound and not (self.happens or self.kill_rate or self.person):
                self._breached(iter([f"progress: {name} failed though nothing went wrong: {e}"]))
        except Exception as e:  # noqa: BLE001  (what nobody raises on purpose)
            self._breached(iter([f"defect: {name} {e!r}"]))
        finally:
            process.dead = True
        return True

    def _faults_lately(self) -> set[str]:
        """Return what has gone wrong at this visit and the one before it."""
        places = tuple(f"{n}{what}" for n in (self.visit, self.visit - 1) for what in ("a.", "b.", "/event"))
        return {kind for place, kind in self.luck.struck.items() if place.startswith(places)}

    # -- quiet ---------------------------------------------------------------------------------------------------

    async def _quiet(self) -> bool:
        """Nothing goes wrong any more: the books must agree, and it must trade. Returns whether something is wrong."""
        self._nothing_goes_wrong()
        for symbol in list(self.person):
            self._person_leaves(symbol)
        for symbol in self.symbols:
            self._step_is(symbol, LOTS[symbol])
        self.venue.learn_instruments()
        for k, seconds in enumerate(QUIET_S):
            await self._pass(seconds)
            if seconds == QUIET_S[-1]:
                await self._run(f"{self.visit}q.watch.{k}", look, mortal=False)  # it fetches what protect goes by
            await self._run(f"{self.visit}q.protect.{k}", reconcile, mortal=False)
        self._trade_only(self.symbols)
        if self._breached(invariants.in_quiet(self, self.store())):
            return True
        return self.often and await self._trades_again()

    async def _trades_again(self) -> bool:
        """Ask for a small entry in each symbol that is flat: the guard may have reasons of its own, nothing else."""
        now = self.clock.venue_time
        at_midnight = self.luck.draw(f"{self.visit}q/midnight") < 0.5
        due = day_start(now) + timedelta(days=1) if at_midnight else floor_time(now, "15m") + timedelta(minutes=15)
        await self._pass((due - now).total_seconds() + 5)
        self.asked_to = "OPEN_LONG"
        await self._run(f"{self.visit}q.protect", reconcile, mortal=False)
        try:
            await self._run(f"{self.visit}q.trade", self._trade("schedule"), mortal=False)
        finally:
            self.asked_to = ""
        return bool(self.told.breaches)

    def store(self) -> Store:
        """Return the store to be looked at from outside, where nothing goes wrong."""
        process = Process("look", self.database.store(), mortal=False)
        CURRENT.set(process)
        return process.store


# what lasts for the visit it happens at: where, which attribute, and its value for an amount from 0 to 1
LASTS_A_VISIT: dict[str, tuple[str, str, Callable[[float], Any]]] = {
    "late fills": ("venue", "late_fills_s", lambda amount: 2 + 58 * amount),
    "late orders": ("venue", "late_orders_s", lambda amount: 2 + 58 * amount),
    "stops refused": ("venue", "refuses_stops", lambda amount: bool(amount + 1)),
    "stops unanswered": ("venue", "answers_no_stop", lambda amount: bool(amount + 1)),
    "half filled": ("venue", "shallow", lambda amount: bool(amount + 1)),
    "venue's clock": ("venue", "ahead_s", lambda amount: 40 * amount - 20),
    "our clock": ("clock", "skew", lambda amount: 90 * amount - 45),
    "venue away": ("venue", "rate", lambda amount: 0.5 + amount / 2),
    "positions unlisted": ("venue", "lists_no_positions", lambda amount: bool(amount + 1)),
    "database": ("", "database_rate", lambda amount: 0.005 + 0.045 * amount),
}


def _short(said: Any) -> str:
    if isinstance(said, list):
        return " ".join(map(_line, said))
    return str(said)[:300]


def _line(record: CycleRecord) -> str:
    action = record.verdict.decision.action if record.verdict else "-"
    return f"{record.symbol[:3]} {record.status} {action} {record.error[:80]}".rstrip() + ";"


def lived(seed: int, days: float = LIVED, only: frozenset[str] | None = None) -> Told:
    """Live through the world of a seed; only: the faults that may happen."""
    return World(seed, days, only).run()
