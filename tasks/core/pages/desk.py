"""The desk: what a person who runs the system looks at first, as tables that a page, Prefect and a terminal share."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from tasks.core.pages import inert, markdown
from tasks.core.pages.day import Day
from tasks.core.pages.numbers import UNKNOWN, amount, fixed, money, plain, price
from tasks.core.types import (
    HUNDRED,
    ZERO,
    CycleStatus,
    Halt,
    Opening,
    Outcome,
    OwnIntent,
    Position,
    Texts,
    direction,
    exact_sum,
    r_at,
)

BLOCKS, SPARKS = "▁▂▃▄▅▆▇█", 24
CURVE = (720, 160)  # in units of the drawing
STANDING = ("name", "decider", "model", "mode", "status", "realized", "unrealized", "PnL %", "value")


class MarkedPosition(NamedTuple):
    """A position at a mark (quote; None: unknown), why it was opened, and where that is explained."""

    position: Position
    opening: Opening
    mark: Decimal | None = None
    link: str = ""
    strategy: str = ""  # where there are several

    @property
    def pnl(self) -> Decimal | None:
        """Return what is unrealized, in quote before fees."""
        p = self.position
        return None if self.mark is None else direction(p.side) * (self.mark - p.avg_price) * p.quantity

    def document(self, now: datetime) -> dict[str, Any]:
        """Return what `positions --json` prints."""
        p, pnl = self.position, self.pnl
        return {
            "symbol": p.symbol, "side": p.side, "quantity": p.quantity, "entry": p.avg_price, "mark": self.mark,
            "pnl": pnl, "pnl_pct": None if pnl is None else pnl * HUNDRED / (p.avg_price * p.quantity),
            "r": None if self.mark is None else r_at(p, self.mark), "stop": p.stop, "target": p.target,
            "age_minutes": int((now - p.opened_at).total_seconds()) // 60, "opened_at": p.opened_at,
            "reason": self.opening.thesis, "link": self.link, "position_id": p.position_id,
            **({"strategy": self.strategy} if self.strategy else {}),
        }  # fmt: skip


class Judged(NamedTuple):
    """A decision of today: what it was, how its cycle ended, what the guard said, and where it is explained."""

    as_of: datetime
    symbol: str
    action: str
    confidence: Decimal
    source: str
    status: CycleStatus
    codes: Texts
    comment: str
    link: str
    prompt: str = ""
    rung: str = ""
    cost: str = ""


class Ranked(NamedTuple):
    """A strategy, or a challenger's paper book beside it, in the leaderboard; money in quote."""

    name: str
    decider: str
    model: str
    mode: str
    status: str
    realized: Decimal | None
    unrealized: Decimal | None
    pnl_pct: Decimal | None
    series: Sequence[float] = ()  # what it was worth, oldest first

    @property
    def sparkline(self) -> str:
        """Return the series as a line of blocks, its lowest value the lowest block."""
        some = self.series[:: len(self.series) // SPARKS + 1]
        low, high = min(some, default=0.0), max(some, default=0.0)
        span = (high - low) or 1
        return "".join(BLOCKS[int((worth - low) / span * (len(BLOCKS) - 1))] for worth in some)


class DeskTable(NamedTuple):
    """A table as it is shown: cells are text, or a text that leads somewhere; empty: what stands there without rows."""

    title: str
    head: Texts
    rows: Sequence[Sequence[str | markdown.Link]]
    empty: str = "none"


@dataclass(frozen=True)
class Desk:
    """One strategy at one moment of the venue's time. curve: equity, oldest first; closed: outcomes, newest first.

    prompts: which version each closed trade's decision came of, by cycle. runs: when what is due; None: not asked.
    """

    at: datetime
    strategy: str
    profile: str
    day: Day
    curve: Sequence[float]
    positions: Sequence[MarkedPosition]
    resting: Sequence[OwnIntent]
    judged: Sequence[Judged]
    spent: tuple[Decimal, Decimal | None, int, int | None]  # USD of how many, calls of how many
    halts: Sequence[Halt]
    closed: Sequence[Outcome]
    standings: Sequence[Ranked]
    prompts: Mapping[str, str] = field(default_factory=dict)
    runs: Sequence[tuple[datetime, str]] | None = None

    @property
    def figures(self) -> list[tuple[str, str]]:
        """Return what matters most, by name."""
        points, pnls = self.day.points, [each.pnl for each in self.positions]
        change = (points[-1].equity / points[0].equity - 1) * 100 if points and points[0].equity else None
        unrealized = None if None in pnls else exact_sum(pnl for pnl in pnls if pnl is not None)
        usd, most, calls, _ = self.spent
        return [
            ("entries", "halted" if self.halts else "allowed"),
            ("equity", money(points[-1].equity if points else None, self.day.currency)),
            ("today", f"{fixed(change, sign=True)} %"),
            ("realized today", amount(self.day.pnl, sign=True)),
            ("unrealized", amount(unrealized, sign=True)),
            ("below the peak", f"{fixed(self.day.drawdown_pct)} %"),
            ("models today", f"{amount(usd)} of {plain(most)} USD, {calls} calls"),
        ]

    @property
    def path(self) -> str:
        """Return the curve as points of an SVG polyline; empty where there is none."""
        low, high = (min(self.curve), max(self.curve)) if len(self.curve) > 1 else (0, 0)
        width, height = CURVE
        span, last = (high - low) or 1, len(self.curve) - 1
        points = ((n * width / last, height - (y - low) * height / span) for n, y in enumerate(self.curve) if last > 0)
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)

    @property
    def tables(self) -> list[DeskTable]:
        """Return every table of the page, in the order in which a person needs them."""
        halts = DeskTable("Halts", ("since", "by", "why"), [(_time(h.since), h.who, h.reason) for h in self.halts])
        return [
            *([halts] if self.halts else ()),
            positions_table(self.positions, self.at),
            DeskTable("Resting orders", ("symbol", "side", "type", "quantity", "price", "stop", "sent", "until"), [
                (own.intent.symbol, own.intent.side, own.intent.type, plain(own.intent.quantity),
                 price(own.intent.price), price(own.intent.stop), _time(own.persisted_at),
                 _time(own.intent.expires_at))
                for own in self.resting
            ]),
            *([DeskTable("Next runs", ("at", "deployment"), [(f"{at:%H:%M:%S}", name) for at, name in self.runs],
                         "Prefect does not answer, or has none")] if self.runs is not None else ()),
            decisions_table(self.judged, "Decisions today"),
            DeskTable("Leaderboard", STANDING, [
                (*each[:5], amount(each.realized, sign=True), amount(each.unrealized, sign=True),
                 fixed(each.pnl_pct, sign=True), each.sparkline)
                for each in self.standings
            ]),
            self._by("day", lambda one: f"{one.closed_at:%Y-%m-%d}"),
            self._by("symbol", lambda one: one.symbol),
            self._by("exit reason", lambda one: one.exit_reason or "not known"),
            self._by("prompt version", lambda one: self.prompts.get(one.cycle_id, "no model")),
        ]  # fmt: skip

    def _by(self, what: str, key: Callable[[Outcome], str]) -> DeskTable:
        """Sum up what closed, by `key`, in the order in which it comes up."""
        groups = defaultdict[str, list[Outcome]](list)
        for outcome in self.closed:
            groups[key(outcome)].append(outcome)
        rows = [
            (name, str(len(each)), amount(exact_sum(o.pnl for o in each), sign=True), fixed(_sum_r(each), sign=True))
            for name, each in groups.items()
        ]
        return DeskTable(f"PnL by {what}", (what, "trades", "PnL", "R"), rows)


def positions_table(positions: Iterable[MarkedPosition], now: datetime) -> DeskTable:
    """Lay out the open positions; a mark nobody told is unknown."""
    head = ("symbol", "side", "quantity", "entry", "mark", "PnL", "%", "R", "stop", "target", "age", "opened because")
    rows = list[Sequence[str | markdown.Link]]()
    for each in positions:
        d, p = each.document(now), each.position
        signed = (amount(d["pnl"], sign=True), fixed(d["pnl_pct"], sign=True), fixed(d["r"], sign=True))
        mark = "unknown" if each.mark is None else price(each.mark)
        levels = map(price, (p.stop, p.target))
        age = f"{d['age_minutes'] // 60} h {d['age_minutes'] % 60} min"
        thesis = each.opening.thesis or "the decision"
        why = markdown.Link(f"{each.strategy}: {thesis}" if each.strategy else thesis, each.link)
        rows.append((p.symbol, p.side, plain(p.quantity), price(p.avg_price), mark, *signed, *levels, age, why))
    return DeskTable("Open positions", head, rows)


def decisions_table(judged: Iterable[Judged], title: str = "Decisions", whole: bool = False) -> DeskTable:
    """Lay out decisions, each with the way to its page; whole: with who answered and what that cost."""
    head = ("at", "symbol", "action", "confidence", "ended", "guard", "comment")
    rows = [
        (markdown.Link(_time(each.as_of), each.link), each.symbol, each.action, fixed(each.confidence),
         each.status.value, ", ".join(each.codes), each.comment,
         *((each.source, each.prompt, each.rung, each.cost) if whole else ()))
        for each in judged
    ]  # fmt: skip
    return DeskTable(title, (*head, *(("by", "prompt", "rung", "cost") if whole else ())), rows)


def to_markdown(desk: Desk) -> str:
    """Return the page as Prefect shows it."""
    parts = [markdown.table([name for name, _ in desk.figures], [[value for _, value in desk.figures]])]
    for each in desk.tables:
        parts += [f"## {each.title}", markdown.table(each.head, each.rows) if each.rows else each.empty]
    return "\n\n".join([f"# {inert.markdown(desk.strategy)}, {desk.profile}, {_time(desk.at)} UTC", *parts])


def _sum_r(outcomes: Iterable[Outcome]) -> Decimal | None:
    rs = [each.outcome_r for each in outcomes if each.outcome_r is not None]
    return sum(rs, ZERO) if rs else None


def _time(at: datetime | None) -> str:
    return UNKNOWN if at is None else f"{at:%m-%d %H:%M}"
