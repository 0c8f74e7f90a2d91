"""Variants beside each other: what each earned, how sure the differences are, and how much of it luck explains.

A variant is a decider with its prompt version and model; it is replayed over each window from the same cash. Windows
are put together as returns between UTC midnights, and two variants are compared on the days both have, because their
decision times differ. Everything is per day; only Sharpe ratios in tables are annualised (365 days).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations, pairwise
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy import ndarray

from tasks.core.errors import InputError
from tasks.core.lab import random_traders, statistics
from tasks.core.lab.calibration import Calibration, Promise, calibration
from tasks.core.lab.moments import Evaluated
from tasks.core.lab.random_traders import Chance, Trade, TradedBars, returns_of, total_pct
from tasks.core.lab.statistics import Interval, Overfit
from tasks.core.simulation.sharpe import DAYS_PER_YEAR, daily_sharpe
from tasks.core.trading.portfolio import max_drawdown_pct
from tasks.core.types import Costs, Dto, Json, Pricing, PromptRef, Texts, Utc, day_start

YEAR = DAYS_PER_YEAR**0.5
BPS = 1e4

Treatment = Literal["raw", "masked", "strong", "perturbed"]  # strong: masked and perturbed


class Variant(Dto):
    """What is compared; `label` names it in tables."""

    label: str
    decider: str
    prompt: str = ""  # single/v001; a panel's, joined by +
    prompt_sha256: str = ""
    prompts: tuple[PromptRef, ...] = ()
    model: str = ""
    pricing: Pricing = ""
    cutoff: Utc | None = None
    baseline: bool = False


class BacktestWindow(Dto):
    """One stretch of time that is replayed from fresh cash."""

    index: int = 0
    start: Utc
    end: Utc


class Point(NamedTuple):
    """One decision of a replayed account."""

    at_s: int
    symbol: str
    action: str
    confidence: float
    model_calls: int
    errors: str


@dataclass(frozen=True)
class Trial:
    """One variant over one window, under one treatment."""

    label: str
    window: int
    treatment: Treatment
    days: ndarray
    equity: ndarray
    summary: Json
    trades: list[Trade]
    points: list[Point]
    complete: bool = True


class WindowRow(Dto):
    """A variant in one window."""

    window: int
    start: Utc
    end: Utc
    cutoff: str  # before, after, spans or unknown: the window against the model's stated cutoff
    return_pct: float
    sharpe: float | None
    max_drawdown_pct: float
    trades: int
    complete: bool
    fingerprint: str


class Row(Dto):
    """A variant over all windows. Interval `daily_bps` is of the mean daily return in basis points."""

    label: str
    baseline: bool
    return_pct: float
    sharpe: float | None
    max_drawdown_pct: float
    trades: int
    win_rate: float | None
    expectancy_r: Interval | None
    daily_bps: Interval
    psr: float | None
    dsr: float | None
    chance: Chance | None
    calibration: Calibration | None
    decisions: int
    model_calls: int
    invalid: int
    fees_quote: float
    llm_cost_usd: float  # of its answers when they were asked, kept ones too
    pricing: Pricing = ""
    cost_per_decision_usd: float
    complete: bool
    windows: tuple[WindowRow, ...]


class Pair(Dto):
    """`a` less `b` on the days both have: mean daily return in basis points, and annualised Sharpe ratio."""

    a: str
    b: str
    daily_bps: Interval
    sharpe: Interval

    def less(self, label: str) -> "Pair":
        """Return the pair as the other one less `label`."""
        if self.b == label:
            return self
        return Pair(a=self.b, b=self.a, daily_bps=self.daily_bps.scaled(-1), sharpe=self.sharpe.scaled(-1))


class Leakage(Dto):
    """What a variant may owe to memory: masked, perturbed or both, it sees the same market under another name."""

    label: str
    sharpe: float | None
    masked_sharpe: float | None = None
    masked_gap_bps: Interval | None = None
    masked_agreement: float | None = None  # share of common decision points with the same action
    strong_sharpe: float | None = None
    strong_gap_bps: Interval | None = None  # masked less strong: what noise in the candles takes from a masked variant
    perturbed_sharpe: float | None = None
    perturbed_gap_bps: Interval | None = None
    input_dependency: float | None = None  # share of common decision points whose action changed with the inputs
    before_sharpe: float | None = None
    after_sharpe: float | None = None


class Gate(Dto):
    """What asking only at events saves, and what sampled quiet bars would have earned, in percent of equity each."""

    label: str
    calls: int
    bars: int
    quiet_asked: int
    quiet_acted: int
    quiet_pct: Interval | None
    event_asked: int
    event_acted: int
    event_pct: Interval | None


class Comparison(Dto):
    """Everything a comparison shows: the document `compare --json` prints."""

    symbols: Texts
    asset_pct: dict[str, float]  # what the assets themselves did over the windows, without costs or limits
    data_sha256: str
    windows: tuple[BacktestWindow, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    overfit: Overfit | None
    tried: int  # variants ever compared on overlapping candles, each window and cost its own
    leakage: tuple[Leakage, ...]
    gate: tuple[Gate, ...]
    complete: bool
    funding: str
    funding_coverage: float  # the share of the windows that funding rates are known of


class VariantsTried(NamedTuple):
    """What was ever compared on overlapping candles: how many variants, and how their daily Sharpe ratios vary."""

    variants: int
    variance: float

    @classmethod
    def of(cls, sharpes: Sequence[float | None]) -> "VariantsTried":
        """Count all, those too that were tried over too few days to have a Sharpe ratio."""
        known = [sharpe for sharpe in sharpes if sharpe is not None]
        return cls(len(sharpes), float(np.var(known, ddof=1)) if len(known) > 1 else 0.0)


def split(start: datetime, end: datetime, count: int = 1, days: float = 0) -> tuple[BacktestWindow, ...]:
    """Cut [start, end] into `count` equal windows, or into whole ones of `days`, at UTC midnights."""
    if days:
        count = int((end - start) / timedelta(days=days))
        end = start + count * timedelta(days=days)
    span = (end - start) / max(count, 1)
    if count < 1 or span < timedelta(days=1):
        raise InputError(f"{start:%Y-%m-%d} to {end:%Y-%m-%d} has no {count or 'whole'} windows of a day or more")
    midnights = (day_start(start + k * span + timedelta(hours=12)) for k in range(1, count))
    return tuple(BacktestWindow(index=k, start=a, end=b) for k, (a, b) in enumerate(pairwise([start, *midnights, end])))


def daily(equity: ndarray, closes_s: ndarray, cash: float) -> tuple[ndarray, ndarray]:
    """Return the times (epoch s) and equity at the start, each UTC midnight and the end."""
    at = np.unique(np.r_[np.flatnonzero(closes_s % 86_400 == 0), len(equity) - 1])
    return np.r_[closes_s[0] - 300, closes_s[at]], np.r_[cash, equity[at]]


def series(trials: Sequence[Trial]) -> "pd.Series[float]":
    """Return a variant's daily returns over all windows, by the second each day ended."""
    parts = [pd.Series(returns_of(trial.equity), trial.days[1:]) for trial in trials]
    return pd.concat(parts) if parts else pd.Series(dtype=float)


def together(returns: Iterable["pd.Series[float]"]) -> ndarray:
    """Return the returns of the days that all have, a column each."""
    return pd.concat(list(returns), axis=1, join="inner").to_numpy()


def of(trials: Sequence[Trial], label: str, treatment: Treatment = "raw") -> list[Trial]:
    """Return one variant's trials under one treatment, by window."""
    mine = [trial for trial in trials if trial.label == label and trial.treatment == treatment]
    return sorted(mine, key=lambda trial: trial.window)


def compare(
    variants: Sequence[Variant],
    windows: Sequence[BacktestWindow],
    trials: Sequence[Trial],
    bars: Mapping[str, TradedBars],
    tried: VariantsTried,
    data_sha256: str,
    cash: float,
    costs: Costs,
    seeds: int,
    evaluated: Mapping[str, Sequence[Evaluated]] = {},
) -> Comparison:
    """Put every variant beside every other. `tried` counts these variants too.

    evaluated: what each made of the same moments, by its label.
    """
    raw = {variant.label: of(trials, variant.label) for variant in variants}
    returns = {label: series(mine) for label, mine in raw.items()}
    luck = {}
    for label, mine in raw.items():
        if trades := sum(len(trial.trades) for trial in mine):
            drawn = [random_traders.random_returns(t.trades, bars, t.days, cash, costs, seeds) for t in mine]
            luck[label] = random_traders.standing(returns[label].to_numpy(), np.concatenate(drawn, axis=1), trades)
    leakage = (_leakage(variant, windows, trials) for variant in variants)
    gates = (_gate(label, mine, evaluated.get(label, ()), bars) for label, mine in raw.items())
    return Comparison(
        symbols=tuple(sorted(bars)),
        asset_pct={symbol: _moved(each, windows) for symbol, each in bars.items()},
        data_sha256=data_sha256,
        windows=tuple(windows),
        rows=tuple(_row(v, windows, raw[v.label], tried, luck.get(v.label)) for v in variants),
        pairs=tuple(_pair(a, b, returns) for a, b in combinations(returns, 2)),
        overfit=statistics.overfitting(together(returns.values())),
        tried=tried.variants,
        leakage=tuple(filter(None, leakage)),
        gate=tuple(filter(None, gates)),
        complete=all(trial.complete for trial in trials),
        funding=words.pop() if len(words := {trial.summary["funding"] for trial in trials}) == 1 else "partial",
        funding_coverage=np.mean([trial.summary["funding_coverage"] for trial in trials]),
    )


def _moved(bars: TradedBars, windows: Sequence[BacktestWindow]) -> float:
    """Return by how many percent the price moved from the first open to the last close of all windows."""
    inside = (bars.close_s > windows[0].start.timestamp()) & (bars.close_s <= windows[-1].end.timestamp())
    return float((bars.closes[inside][-1] / bars.opens[inside][0] - 1) * 100) if inside.any() else 0.0


def _annual_sharpe(trials: Sequence[Trial]) -> float | None:
    sharpe = daily_sharpe(series(trials).to_numpy())
    return None if sharpe is None else sharpe * YEAR


def _row(
    variant: Variant,
    windows: Sequence[BacktestWindow],
    trials: Sequence[Trial],
    tried: VariantsTried,
    luck: Chance | None,
) -> Row:
    returns = series(trials).to_numpy()
    moments = statistics.moments(returns)
    trades = [trade for trial in trials for trade in trial.trades]
    rs = np.array([trade.outcome_r for trade in trades if trade.outcome_r is not None])
    points = [point for trial in trials for point in trial.points]
    cost = float(sum(trial.summary["llm_cost_usd"] for trial in trials))
    deepest = max_drawdown_pct(np.r_[1.0, np.cumprod(1 + returns)])  # it may span windows
    return Row.of(
        variant,
        return_pct=total_pct(returns),
        sharpe=_annual_sharpe(trials),
        max_drawdown_pct=max([deepest, *(t.summary["max_drawdown_pct"] for t in trials)]),
        trades=len(trades),
        win_rate=sum(trade.pnl > 0 for trade in trades) / len(trades) if trades else None,
        expectancy_r=statistics.interval(rs) if len(rs) else None,
        daily_bps=statistics.interval(returns * BPS),
        psr=statistics.probabilistic_sharpe(moments) if moments else None,
        dsr=statistics.deflated_sharpe(moments, tried.variance, tried.variants) if moments else None,
        chance=luck,
        calibration=calibration([promise for trial in trials for promise in _promises(trial)]),
        decisions=len(points),
        model_calls=sum(point.model_calls for point in points),
        invalid=sum(bool(point.errors) for point in points),
        fees_quote=float(sum(t.summary["fees_quote"] for t in trials)),
        llm_cost_usd=cost,
        cost_per_decision_usd=cost / len(points) if points else 0.0,
        complete=len(trials) == len(windows) and all(trial.complete for trial in trials),
        windows=tuple(
            WindowRow.of(
                window,
                window=window.index,
                cutoff=_side(window, variant.cutoff),
                return_pct=total_pct(returns_of(trial.equity)),
                sharpe=_annual_sharpe([trial]),
                max_drawdown_pct=trial.summary["max_drawdown_pct"],
                trades=len(trial.trades),
                complete=trial.complete,
                fingerprint=trial.summary["fingerprint"],
            )
            for trial in trials
            for window in [windows[trial.window]]
        ),
    )


def _promises(trial: Trial) -> list[Promise]:
    """Return the confidence of the decision that each ended trade began with, and what came of it."""
    said = {(point.symbol, point.at_s): point.confidence for point in trial.points}
    ended = ((said.get((trade.symbol, trade.decided_s)), trade) for trade in trial.trades)
    return [
        Promise(confidence, trade.pnl > 0, trade.outcome_r) for confidence, trade in ended if confidence is not None
    ]


def _side(window: BacktestWindow, cutoff: datetime | None) -> str:
    if cutoff is None:
        return "unknown"
    if window.end <= cutoff:
        return "before"
    return "after" if window.start >= cutoff else "spans"


def _pair(a: str, b: str, returns: Mapping[str, "pd.Series[float]"]) -> Pair:
    mine, theirs = together([returns[a], returns[b]]).T
    sharpe = statistics.sharpe_gap(mine, theirs).scaled(YEAR)
    return Pair(a=a, b=b, daily_bps=statistics.interval((mine - theirs) * BPS), sharpe=sharpe)


def _leakage(variant: Variant, windows: Sequence[BacktestWindow], trials: Sequence[Trial]) -> Leakage | None:
    kinds: tuple[Treatment, ...] = ("raw", "masked", "strong", "perturbed")
    raw, masked, strong, noisy = (of(trials, variant.label, each) for each in kinds)
    if not (masked or noisy or variant.cutoff):
        return None
    figures: Json = {"masked_agreement": _agreement(raw, masked)}
    for name, known, shown in (("masked", raw, masked), ("strong", masked, strong), ("perturbed", raw, noisy)):
        figures[f"{name}_sharpe"] = _annual_sharpe(shown)
        mine, theirs = together([series(known), series(shown)]).T
        figures[f"{name}_gap_bps"] = statistics.interval((mine - theirs) * BPS) if shown else None
    for side in ("before", "after"):
        figures[f"{side}_sharpe"] = _annual_sharpe([t for t in raw if _side(windows[t.window], variant.cutoff) == side])
    same = _agreement(raw, noisy)
    figures["input_dependency"] = None if same is None else 1 - same
    return Leakage(label=variant.label, sharpe=_annual_sharpe(raw), **figures)


def _agreement(a: Sequence[Trial], b: Sequence[Trial]) -> float | None:
    """Return the share of common decision points (window, symbol, close) with the same action; None without any."""
    left, right = ({(t.window, p.symbol, p.at_s): p.action for t in trials for p in t.points} for trials in (a, b))
    common = left.keys() & right.keys()
    return sum(left[key] == right[key] for key in common) / len(common) if common else None


def _gate(
    label: str, trials: Sequence[Trial], evaluated: Sequence[Evaluated], bars: Mapping[str, TradedBars]
) -> Gate | None:
    if not evaluated:
        return None
    figures: Json = {}
    for name in ("quiet", "event"):
        part = [each for each in evaluated if each.moment.kind == name]
        figures[f"{name}_asked"] = len(part)
        figures[f"{name}_acted"] = sum(each.answer.decision.action != "HOLD" for each in part)
        figures[f"{name}_pct"] = statistics.interval(np.array([float(each.net_pct) for each in part])) if part else None
    inside = [((b.close_s > t.days[0]) & (b.close_s <= t.days[-1])).sum() for b in bars.values() for t in trials]
    return Gate(label=label, calls=sum(len(trial.points) for trial in trials), bars=int(sum(inside)), **figures)
