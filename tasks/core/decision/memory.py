"""Memory: a snapshot as a vector, how far apart two moments are, and the past as text for a prompt.

A component is tanh((x - centre) / scale), so that no single number dominates; unknown is None. A spec never changes:
another choice of numbers is another spec, and vectors of different specs are not compared.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from math import inf, tanh
from operator import attrgetter
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.core.decision.kinds import read
from tasks.core.decision.plain_text import not_understood
from tasks.core.market.lean import cell
from tasks.core.types import Dto, Memory, Past, Snapshot, Statistics, day_start

SPEC = "v1"
LAST, SIMILAR, COMPARED, JUDGED = 10, 5, 2000, 1000  # decisions remembered, compared with; trades judged by
DAYS = 30  # whole ones before today's, that statistics are over
MAX_BYTES, BYTES_BEFORE = 1536, 600
THESES = (80, 50, 30)  # characters of each, as there is room
SIDES: dict[Any, int] = {"flat": 0, "long": 1, "short": -1}
_RSI, _Z, _PCTILE, _ATR = (50, 20), (0, 2), (50, 30), (0, 5)
COMPONENTS: dict[str, tuple[float, float]] = {
    "5m.rsi": _RSI, "5m.price_z20": _Z, "5m.vol_z20": _Z,
    "15m.rsi": _RSI, "15m.price_z20": _Z, "15m.vwap_z": _Z, "15m.atr_pctile": _PCTILE, "15m.range_ratio": (1, 1),
    "15m.vol_z20": _Z, "15m.cloud_atr": _ATR, "15m.delta20": (0, 0.3),
    "1h.rsi": _RSI, "1h.price_z20": _Z, "1h.atr_pctile": _PCTILE, "1h.cloud_atr": _ATR,
    "4h.rsi": _RSI, "4h.cloud_atr": _ATR, "1d.rsi": _RSI,
    "htf_anchors.dist_to_prev_day_high_atr": _ATR, "htf_anchors.dist_to_prev_day_low_atr": _ATR,
    "htf_anchors.session_vwap_z": _Z,
    "confluence.signed": (0, 3), "position.side": (0, 1), "position.unrealized_R": (0, 1),
}  # fmt: skip
SIDE = list(COMPONENTS).index("position.side")


class Vector(Dto):
    """A moment in feature space; None: unknown then."""

    spec: str = SPEC
    values: tuple[float | None, ...]


def vector(snapshot: Snapshot) -> Vector:
    """Place `snapshot` in feature space."""
    return Vector(values=components(snapshot, COMPONENTS))


def components(snapshot: Snapshot, spec: Mapping[str, tuple[float, float]]) -> tuple[float | None, ...]:
    """Return the numbers of `snapshot` that `spec` names, by its centres and scales."""
    return tuple(_component(snapshot, name, *numbers) for name, numbers in spec.items())


def _component(snapshot: Snapshot, name: str, centre: float, scale: float) -> float | None:
    part, _, path = name.partition(".")
    owner = snapshot.timeframes.get(part) or getattr(snapshot, part, None)
    value = owner and attrgetter(path)(owner)
    value = SIDES.get(value, value)
    return None if value is None else round(tanh((value - centre) / scale), 4)


def distances(here: Vector, others: Sequence[Vector]) -> npt.NDArray[np.float64]:
    """Return the root mean square difference to each over what both know; infinite if that is less than half of it."""
    known = [other.values if other.spec == here.spec else (None,) * len(here.values) for other in others]
    gap = np.array(known, dtype=float).reshape(len(others), len(here.values)) - np.array(here.values, dtype=float)
    both = ~np.isnan(gap)
    count = both.sum(axis=1)
    mean = (np.where(both, gap, 0.0) ** 2).sum(axis=1) / np.maximum(count, 1)
    return np.where(2 * count >= len(here.values), np.sqrt(mean), np.inf)


class Earlier(NamedTuple):
    """One earlier decision, with its moment."""

    past: Past
    vector: Vector


UNTRIED = Memory(days=DAYS)  # a decider without trades, and without a call that was paid for


class Remembered(NamedTuple):
    """What may be remembered at one moment, newest first: the last decisions, those whose trade has ended since, and
    how the decider has done."""

    recent: Sequence[Earlier] = ()
    settled: Sequence[Earlier] = ()
    done: Memory = UNTRIED

    def at(self, snapshot: Snapshot) -> Memory:
        """Return the memory a decider has at `snapshot`: the last decisions, and the settled ones nearest to it."""
        far = distances(vector(snapshot), [one.vector for one in self.settled])
        near = [i for i in far.argsort(kind="stable")[:SIMILAR] if far[i] != inf]
        nearest = ((self.settled[i].past, round(float(far[i]), 4)) for i in near)
        recent = tuple(one.past for one in self.recent[:LAST])
        similar = tuple(past.replace(distance=distance) for past, distance in nearest)
        return self.done.replace(recent=recent, similar=similar)


class SettledTrade(NamedTuple):
    """A closed trade, with how sure the decision was that opened it, and the prompts that were asked for it."""

    pnl: Decimal  # quote
    outcome_r: Decimal | None
    confidence: float
    prompts: frozenset[str]  # role/version


def since(as_of: datetime) -> datetime:
    """Return when the days of the statistics begin."""
    return day_start(as_of) - timedelta(days=DAYS)


def performance(decider: str, trades: Sequence[SettledTrade], costs: Mapping[str, float]) -> Memory:
    """Return how a decider did, and each prompt version; those with the same trades together.

    costs: what was paid for asking, by role/version, in USD.
    """
    decider = read(decider).kind
    alike: dict[Statistics, list[str]] = {}
    for name in (decider, *sorted(costs)):
        alike.setdefault(_statistics([t for t in trades if name in (decider, *t.prompts)]), []).append(name)
    return Memory(
        days=DAYS,
        statistics=tuple(
            done.replace(names=tuple(names), cost_usd=sum(costs[n] for n in (costs if decider in names else names)))
            for done, names in alike.items()
            if done.trades or costs
        ),
    )


def _statistics(trades: Sequence[SettledTrade]) -> Statistics:
    rs = [float(trade.outcome_r) for trade in trades if trade.outcome_r is not None]
    return Statistics(
        trades=len(trades),
        win_rate=sum(trade.pnl > 0 for trade in trades) / len(trades) if trades else None,
        mean_confidence=fmean(trade.confidence for trade in trades) if trades else None,
        mean_r=fmean(rs) if rs else None,
        best_r=max(rs, default=None),
        worst_r=min(rs, default=None),
    )


def joined(memories: Mapping[str, Memory | None]) -> Memory | None:
    """Put what is remembered of several symbols together; None where it is of none."""
    known = {symbol: memory for symbol, memory in memories.items() if memory is not None}
    if len(known) < 2:
        return next(iter(known.values()), None)
    recent, similar = (
        [past.replace(symbol=symbol) for symbol, memory in known.items() for past in getattr(memory, part)]
        for part in ("recent", "similar")
    )
    recent.sort(key=lambda past: past.as_of, reverse=True)
    similar.sort(key=lambda past: past.distance or 0)
    return next(iter(known.values())).replace(recent=tuple(recent[:LAST]), similar=tuple(similar[:SIMILAR]))


def memory_text(memory: Memory | None, max_bytes: int = MAX_BYTES) -> str:
    """Write `memory` in at most `max_bytes`; shorter theses first, then the oldest and the least similar go."""
    if memory is None:
        return "unknown"
    if not memory.days:
        return _as_before(memory, min(max_bytes, BYTES_BEFORE)) or "none"
    fuller = [(LAST, chars) for chars in THESES] + [(last, THESES[-1]) for last in reversed(range(LAST))]
    texts = (_text(memory, *detail) for detail in fuller)
    return next((text for text in texts if len(text.encode()) <= max_bytes), "") or "none"


def _text(memory: Memory, last: int, thesis: int) -> str:
    lines = [f"last {memory.days} days {_done(each)}" for each in memory.statistics]
    lines += [f"similar {_line(one, thesis)}" for one in memory.similar[: -(-last * SIMILAR // LAST)]]
    return "\n".join(lines + [f"last {_line(one, thesis)}" for one in memory.recent[:last]])


def _done(done: Statistics) -> str:
    """Write one line of statistics; what is unknown is left out."""
    facts = (
        (done.win_rate, "{:.0%} won"), (done.mean_confidence, "confidence {:.2f}"), (done.mean_r, "mean {:+.2f}R"),
        (done.best_r, "best {:+.2f}R"), (done.worst_r, "worst {:+.2f}R"), (done.cost_usd or None, "cost {:.3g} USD"),
    )  # fmt: skip
    said = [f"{done.trades} trades", *(form.format(number) for number, form in facts if number is not None)]
    return f"{', '.join(done.names)}: {', '.join(said)}"


def _line(one: Past, thesis: int) -> str:
    words = [f"{one.as_of:%m-%d %H:%M}", one.symbol, f"{one.action} {one.confidence:.2f}"]
    words += [] if one.price is None else [f"at {cell(one.price, 6)}"]
    words += [f"denied by {', '.join(one.codes)}" if one.codes else one.status]
    words += [] if one.outcome_r is None else [f"-> {one.outcome_r:+.2f}R"]
    words += [not_understood(one.unread)] if one.unread else []
    words += [f'"{short}"'] if (short := one.thesis[:thesis].rstrip()) else []
    words += [f"[{one.reasons[0]}]"] if one.reasons else []
    words += [] if one.distance is None else [f"(distance {one.distance:.2f})"]
    return " ".join(filter(None, words))


def _as_before(memory: Memory, max_bytes: int) -> str:
    """Write a memory of a record of before: its lines as they were, as many as fit."""
    win, mean = memory.decider_win_rate, memory.decider_mean_r
    won = "" if win is None else f", {win:.0%} won"
    rates = won + ("" if mean is None else f", mean {mean:+.2f}R")
    lines = [f"so far {memory.decider_trades} trades{rates}"] if memory.decider_trades else []
    lines += [f"similar {_line_before(one)}" for one in memory.similar]
    lines += [f"last {_line_before(one)}" for one in memory.recent]
    kept = ""
    for line in lines:
        longer = f"{kept}\n{line}" if kept else line
        if len(longer.encode()) > max_bytes:
            break
        kept = longer
    return kept


def _line_before(one: Past) -> str:
    said = f"{one.as_of:%Y-%m-%d %H:%M} {one.action} {one.confidence:.2f} {', '.join(one.reasons)}".rstrip()
    became = "" if one.outcome_r is None else f" -> {one.outcome_r:+.2f}R"
    return said + became + ("" if one.distance is None else f" (distance {one.distance:.2f})")
