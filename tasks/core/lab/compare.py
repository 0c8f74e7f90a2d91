"""Variants beside each other: what each earned, how sure the differences are, and how much of it luck explains.

A variant is a decider with its prompt version and model; it is replayed over each window from the same cash. Windows
are put together as returns between UTC midnights, and two variants are compared on the days both have, because their
decision times differ. Everything is per day; only Sharpe ratios in tables are annualised (365 days).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from tasks.core.errors import InputError
from tasks.core.lab import chance, statistics
from tasks.core.lab.chance import DAYS_PER_YEAR, Chance, Path
from tasks.core.lab.comparison import (
    Comparison,
    Gate,
    Leakage,
    Pair,
    Row,
    Treatment,
    Trial,
    Tried,
    Variant,
    Window,
    WindowRow,
)
from tasks.core.lab.statistics import Interval, Overfit
from tasks.core.simulation import performance
from tasks.core.types.bars import floor_time
from tasks.core.types.limits import Costs

YEAR = float(np.sqrt(DAYS_PER_YEAR))
BPS = 1e4


def split(start: datetime, end: datetime, count: int = 1, days: float = 0) -> tuple[Window, ...]:
    """Cut [start, end] into `count` equal windows, or into whole ones of `days`, at UTC midnights."""
    if days:
        count = int((end - start) / timedelta(days=days))
        end = start + count * timedelta(days=days)
    span = (end - start) / max(count, 1)
    if count < 1 or span < timedelta(days=1):
        raise InputError(f"{start:%Y-%m-%d} to {end:%Y-%m-%d} has no {count or 'whole'} windows of a day or more")
    cuts = [start, *(_midnight(start + k * span) for k in range(1, count)), end]
    return tuple(Window(index=k, start=a, end=b) for k, (a, b) in enumerate(pairwise(cuts)))


def _midnight(at: datetime) -> datetime:
    return floor_time(at + timedelta(hours=12), "1d")


def daily(equity: np.ndarray, closes_s: np.ndarray, cash: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the times (epoch s) and equity at the start, each UTC midnight and the end."""
    at = np.unique(np.r_[np.flatnonzero(closes_s % 86_400 == 0), len(equity) - 1])
    return np.r_[closes_s[0] - 300, closes_s[at]], np.r_[cash, equity[at]]


class Series(NamedTuple):
    """A variant's daily returns over all windows, and the second each day ended."""

    days: np.ndarray
    returns: np.ndarray


def series(trials: Sequence[Trial]) -> Series:
    """Put a variant's windows together."""
    ordered = sorted(trials, key=lambda trial: trial.window)
    if not ordered:
        return Series(np.array([], dtype=int), np.array([]))
    return Series(np.concatenate([t.days[1:] for t in ordered]), np.concatenate([t.returns for t in ordered]))


def of(trials: Sequence[Trial], label: str, treatment: Treatment = "raw") -> list[Trial]:
    """Return one variant's trials under one treatment, by window."""
    mine = [trial for trial in trials if trial.label == label and trial.treatment == treatment]
    return sorted(mine, key=lambda trial: trial.window)


def compare(
    variants: Sequence[Variant], windows: Sequence[Window], trials: Sequence[Trial], paths: Mapping[str, Path],
    tried: Tried, *, data_sha256: str = "", cash: float = 10_000.0, costs: Costs | None = None,
    seeds: int = chance.SEEDS, draws: int = statistics.DRAWS,
) -> Comparison:  # fmt: skip
    """Put every variant beside every other. `tried` counts these variants too."""
    costs = costs or Costs()
    rows = []
    for variant in variants:
        luck = _luck(of(trials, variant.label), paths, cash, costs, seeds)
        rows.append(_row(variant, windows, of(trials, variant.label), tried, luck, draws))
    found = {variant.label: series(of(trials, variant.label)) for variant in variants}
    return Comparison(
        symbols=tuple(sorted(paths)),
        asset_pct={symbol: _moved(path, windows) for symbol, path in paths.items()},
        data_sha256=data_sha256, windows=tuple(windows), rows=tuple(rows),
        pairs=tuple(_pair(a, b, found, draws) for a, b in combinations(found, 2)),
        overfit=_overfit(list(found.values())), tried=tried.variants,
        leakage=tuple(leak for v in variants if (leak := _leakage(v, windows, trials, draws)) is not None),
        gate=tuple(gate for v in variants if (gate := _gate(v, of(trials, v.label), paths)) is not None),
        complete=all(trial.complete for trial in trials),
        funding="known" if all(trial.summary["funding"] == "known" for trial in trials) else "unknown",
    )  # fmt: skip


def _moved(path: Path, windows: Sequence[Window]) -> float:
    """Return by how many percent the price moved from the first open to the last close of all windows."""
    inside = (path.close_s > windows[0].start.timestamp()) & (path.close_s <= windows[-1].end.timestamp())
    opens, closes = path.opens[inside], path.closes[inside]
    return float((closes[-1] / opens[0] - 1) * 100) if len(closes) else 0.0


def daily_sharpe(trials: Sequence[Trial]) -> float | None:
    """Return a variant's Sharpe ratio per day over all windows; None without variation."""
    seen = statistics.moments(series(trials).returns)
    return None if seen is None else seen.sharpe


def _annual(sharpe: float | None) -> float | None:
    return None if sharpe is None else sharpe * YEAR


def _row(
    variant: Variant, windows: Sequence[Window], trials: Sequence[Trial], tried: Tried, luck: Chance | None, draws: int
) -> Row:
    returns = series(trials).returns
    seen = statistics.moments(returns)
    trades = [trade for trial in trials for trade in trial.trades]
    rs = np.array([trade.r for trade in trades if trade.r is not None])
    points = [point for trial in trials for point in trial.points]
    cost = float(sum((Decimal(str(trial.summary["llm_cost_usd"])) for trial in trials), Decimal(0)))
    return Row(
        label=variant.label, baseline=variant.baseline,
        return_pct=_total_pct(returns), sharpe=_annual(seen.sharpe if seen else None),
        max_drawdown_pct=max([_deepest(returns), *(t.summary["max_drawdown_pct"] for t in trials)]), trades=len(trades),
        win_rate=sum(trade.pnl > 0 for trade in trades) / len(trades) if trades else None,
        expectancy_r=statistics.interval(rs, draws=draws) if len(rs) else None,
        daily_bps=statistics.interval(returns * BPS, draws=draws) if len(returns) else Interval(estimate=0.0),
        psr=statistics.probabilistic_sharpe(seen) if seen else None,
        dsr=statistics.deflated_sharpe(seen, tried.variance, tried.variants) if seen else None,
        chance=luck, decisions=len(points), model_calls=sum(point.model_calls for point in points),
        invalid=sum(bool(point.errors) for point in points),
        fees_quote=float(sum(t.summary["fees_quote"] for t in trials)), llm_cost_usd=cost,
        cost_per_decision_usd=cost / len(points) if points else 0.0,
        complete=len(trials) == len(windows) and all(trial.complete for trial in trials),
        windows=tuple(_window_row(variant, windows[trial.window], trial) for trial in trials),
    )  # fmt: skip


def _window_row(variant: Variant, window: Window, trial: Trial) -> WindowRow:
    return WindowRow(
        window=window.index, start=window.start, end=window.end, cutoff=_side(window, variant.cutoff),
        return_pct=_total_pct(trial.returns), sharpe=_annual(daily_sharpe([trial])),
        max_drawdown_pct=trial.summary["max_drawdown_pct"], trades=len(trial.trades), complete=trial.complete,
        fingerprint=trial.summary["fingerprint"],
    )  # fmt: skip


def _side(window: Window, cutoff: datetime | None) -> str:
    if cutoff is None:
        return "unknown"
    if window.end <= cutoff:
        return "before"
    return "after" if window.start >= cutoff else "spans"


def _total_pct(returns: np.ndarray) -> float:
    return float((np.prod(1 + returns) - 1) * 100)


def _deepest(returns: np.ndarray) -> float:
    """Return the drawdown of the windows put together, which may span several of them."""
    return performance.max_drawdown_pct(np.r_[1.0, np.cumprod(1 + returns)])


def _luck(trials: Sequence[Trial], paths: Mapping[str, Path], cash: float, costs: Costs, seeds: int) -> Chance | None:
    trades = sum(len(trial.trades) for trial in trials)
    if not trades:
        return None
    drawn = [chance.random_returns(t.trades, paths, t.days, cash, costs, seeds) for t in trials]
    return chance.standing(series(trials).returns, np.concatenate(drawn, axis=1), trades)


def paired(a: Series, b: Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the returns of the days both have."""
    _, mine, theirs = np.intersect1d(a.days, b.days, return_indices=True)
    return a.returns[mine], b.returns[theirs]


def _pair(a: str, b: str, found: Mapping[str, Series], draws: int) -> Pair:
    mine, theirs = paired(found[a], found[b])
    return Pair(a=a, b=b, daily_bps=_gap(mine, theirs, draws), sharpe=_sharpe_gap(mine, theirs, draws))


def _gap(mine: np.ndarray, theirs: np.ndarray, draws: int) -> Interval:
    if not len(mine):
        return Interval(estimate=0.0)
    return statistics.interval(mine * BPS, theirs * BPS, draws=draws)


def _sharpe_gap(mine: np.ndarray, theirs: np.ndarray, draws: int) -> Interval:
    if len(mine) < 3:
        return Interval(estimate=0.0, n=len(mine))
    return statistics.interval(mine, theirs, lambda x: statistics.sharpe_of(x) * YEAR, draws=draws)


def _overfit(found: Sequence[Series]) -> Overfit | None:
    """PBO over the days all variants have; one that never moved (hold) is a choice like any."""
    common = found[0].days if found else np.array([])
    for one in found[1:]:
        common = np.intersect1d(common, one.days)
    columns = [one.returns[np.isin(one.days, common)] for one in found]
    return statistics.overfitting(np.array(columns).T) if columns else None


def _leakage(variant: Variant, windows: Sequence[Window], trials: Sequence[Trial], draws: int) -> Leakage | None:
    raw, masked, noisy = (of(trials, variant.label, each) for each in ("raw", "masked", "perturbed"))
    if not (masked or noisy or variant.cutoff):
        return None
    sides = {side: [t for t in raw if _side(windows[t.window], variant.cutoff) == side] for side in ("before", "after")}
    agreement, dependency = agreed(raw, masked), agreed(raw, noisy)
    return Leakage(
        label=variant.label, sharpe=_annual(daily_sharpe(raw)),
        masked_sharpe=_annual(daily_sharpe(masked)), masked_agreement=agreement,
        masked_gap_bps=_gap(*paired(series(raw), series(masked)), draws) if masked else None,
        perturbed_sharpe=_annual(daily_sharpe(noisy)),
        perturbed_gap_bps=_gap(*paired(series(raw), series(noisy)), draws) if noisy else None,
        input_dependency=None if dependency is None else 1 - dependency,
        before_sharpe=_annual(daily_sharpe(sides["before"])), after_sharpe=_annual(daily_sharpe(sides["after"])),
    )  # fmt: skip


def agreed(a: Sequence[Trial], b: Sequence[Trial]) -> float | None:
    """Return the share of common decision points (window, symbol, close) with the same action; None without any."""
    left, right = ({(t.window, p.symbol, p.at_s): p.action for t in trials for p in t.points} for trials in (a, b))
    common = left.keys() & right.keys()
    return sum(left[key] == right[key] for key in common) / len(common) if common else None


def _gate(variant: Variant, trials: Sequence[Trial], paths: Mapping[str, Path]) -> Gate | None:
    asked = [each for trial in trials for each in trial.sampled]
    if not asked:
        return None
    parts = {quiet: [each for each in asked if each.quiet is quiet] for quiet in (True, False)}
    earned = {quiet: np.array([each.return_pct for each in part]) for quiet, part in parts.items()}
    acted = {quiet: sum(each.action != "HOLD" for each in part) for quiet, part in parts.items()}
    inside = [((p.close_s > t.days[0]) & (p.close_s <= t.days[-1])).sum() for p in paths.values() for t in trials]
    return Gate(
        label=variant.label, calls=sum(len(trial.points) for trial in trials), bars=int(sum(inside)),
        quiet_asked=len(parts[True]), quiet_acted=acted[True],
        quiet_pct=statistics.interval(earned[True]) if parts[True] else None,
        event_asked=len(parts[False]), event_acted=acted[False],
        event_pct=statistics.interval(earned[False]) if parts[False] else None,
    )  # fmt: skip


def at(seconds: float) -> datetime:
    """Return an epoch second as aware UTC."""
    return datetime.fromtimestamp(seconds, tz=UTC)
