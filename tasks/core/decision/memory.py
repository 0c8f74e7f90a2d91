"""Memory: a snapshot as a vector, how far apart two moments are, and the past as text for a prompt.

A component is tanh((x - centre) / scale), so that no single number dominates; unknown is None. A spec never changes:
another choice of numbers is another spec, and vectors of different specs are not compared.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import inf, tanh
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.core.types import Dto, Memory, Past, Snapshot

SPEC = "v1"
LAST, COMPARED, JUDGED = 5, 2000, 1000  # decisions remembered, compared with, trades judged by
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


class Remembered(NamedTuple):
    """What may be remembered at one moment, newest first: the last decisions, those whose trade has ended since, and
    how the decider has done."""

    recent: Sequence[Earlier] = ()
    settled: Sequence[Earlier] = ()
    done: Memory = Memory()

    def at(self, snapshot: Snapshot) -> Memory:
        """Return the memory a decider has at `snapshot`: the last decisions, and the settled ones nearest to it."""
        far = distances(vector(snapshot), [one.vector for one in self.settled])
        near = [i for i in far.argsort(kind="stable")[:LAST] if far[i] != inf]
        nearest = ((self.settled[i].past, round(float(far[i]), 4)) for i in near)
        recent = tuple(one.past for one in self.recent[:LAST])
        similar = tuple(past.replace(distance=distance) for past, distance in nearest)
        return self.done.replace(recent=recent, similar=similar)


def performance(results: Sequence[tuple[Decimal, Decimal | None]]) -> Memory:
    """Return how a decider did over closed trades, given as (PnL in quote, `outcome_r` or None)."""
    rs = [float(r) for _, r in results if r is not None]
    return Memory(
        decider_trades=len(results),
        decider_win_rate=sum(pnl > 0 for pnl, _ in results) / len(results) if results else None,
        decider_mean_r=sum(rs) / len(rs) if rs else None,
    )


def memory_text(memory: Memory, max_bytes: int) -> str:
    """Write the most telling lines of `memory` that fit: how it went so far, similar moments, the last decisions."""
    win, mean = memory.decider_win_rate, memory.decider_mean_r
    won = "" if win is None else f", {win:.0%} won"
    rates = won + ("" if mean is None else f", mean {mean:+.2f}R")
    lines = [f"so far {memory.decider_trades} trades{rates}"] if memory.decider_trades else []
    lines += [f"similar {_line(one)}" for one in memory.similar] + [f"last {_line(one)}" for one in memory.recent]
    kept = ""
    for line in lines:
        longer = f"{kept}\n{line}" if kept else line
        if len(longer.encode()) > max_bytes:
            break
        kept = longer
    return kept


def _line(one: Past) -> str:
    said = f"{one.as_of:%Y-%m-%d %H:%M} {one.action} {one.confidence:.2f} {', '.join(one.reasons)}".rstrip()
    became = "" if one.outcome_r is None else f" -> {one.outcome_r:+.2f}R"
    return said + became + ("" if one.distance is None else f" (distance {one.distance:.2f})")
