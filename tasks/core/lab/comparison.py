"""What is compared, what a replay of it leaves behind, and what a comparison finds; `compare` does the finding."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from tasks.core.lab.chance import Chance, Trade
from tasks.core.lab.gate_sampling import Sampled
from tasks.core.lab.statistics import Interval, Overfit
from tasks.core.types.base import Dto, Exact, Utc
from tasks.core.types.decision import PromptRef

Treatment = Literal["raw", "masked", "perturbed"]


class Variant(Dto):
    """What is compared; `label` names it in tables."""

    label: str
    decider: str
    prompt: str = ""  # single/v001; a panel's, joined by +
    prompt_sha256: str = ""
    prompts: tuple[PromptRef, ...] = ()
    model: str = ""
    cutoff: Utc | None = None
    baseline: bool = False


class Window(Dto):
    """One stretch of time that is replayed from fresh cash."""

    index: int
    start: Utc
    end: Utc


class Point(NamedTuple):
    """One decision, as the tables and charts show it."""

    at_s: int
    symbol: str
    action: str
    confidence: float
    status: str
    codes: str
    price: float | None
    reasons: str
    comment: str
    rung: str
    model_calls: int
    errors: str


@dataclass(frozen=True)
class Trial:
    """One variant over one window, under one treatment."""

    label: str
    window: int
    treatment: Treatment
    days: np.ndarray
    equity: np.ndarray
    summary: dict[str, Any]
    trades: list[Trade]
    points: list[Point]
    sampled: list[Sampled] = field(default_factory=list)
    event_closes: int = 0
    complete: bool = True

    @property
    def returns(self) -> np.ndarray:
        return np.asarray(self.equity[1:] / self.equity[:-1] - 1)


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
    decisions: int
    model_calls: int
    invalid: int
    fees_quote: float
    llm_cost_usd: float
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
        return self if self.b == label else Pair(a=self.b, b=self.a, daily_bps=-self.daily_bps, sharpe=-self.sharpe)


class Leakage(Dto):
    """What a variant may owe to memory: masked or perturbed, it sees the same market under another name."""

    label: str
    sharpe: float | None
    masked_sharpe: float | None = None
    masked_gap_bps: Interval | None = None
    masked_agreement: float | None = None  # share of common decision points with the same action
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
    """Everything a comparison found: the document `compare --json` prints."""

    symbols: tuple[str, ...]
    asset_pct: dict[str, float]  # what the assets themselves did over the windows, without costs or limits
    data_sha256: str
    windows: tuple[Window, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    overfit: Overfit | None
    tried: int  # distinct variants ever compared on this data
    leakage: tuple[Leakage, ...]
    gate: tuple[Gate, ...]
    complete: bool
    funding: str


class Tried(NamedTuple):
    """What was ever compared on the same candles: how many variants, and the variance of their daily Sharpe ratios."""

    variants: int
    variance: float


class Estimate(Dto):
    """What models will be asked, at most, where every decision point is an event known ahead."""

    variants: int
    calls: int
    usd: Exact
