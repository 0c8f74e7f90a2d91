"""What a prompt version must show before it becomes champion, and when a champion has to go.

Evidence is checked, not believed: a comparison counts only where it replayed these very prompts, by hash, over masked
candles that it names, at a commit that is known here; shadow decisions only where both answered the same cycle, each
with its own version. Pure: the numbers come from `tasks.promotion`.
"""

from collections.abc import Sequence
from decimal import Decimal
from itertools import product
from typing import NamedTuple

import numpy as np

from tasks.core.lab.moments import Evaluated
from tasks.core.lab.statistics import interval
from tasks.core.pages import numbers
from tasks.core.types import Answer, Criterion, Dto, Promotion, exact_sum


class Measured(Dto):
    """One variant of a comparison, named by the prompts it sent."""

    label: str
    model: str = ""
    prompt_sha256: str = ""
    masked_sharpe: float | None = None


class Evidence(Dto):
    """What a comparison found; `name` is its run in MLflow, or its file."""

    name: str
    data_sha256: str = ""
    git_commit: str = ""
    commit_known: bool = False
    signed: bool = False  # by whoever has this HOME
    variants: tuple[Measured, ...] = ()


class Use(NamedTuple):
    """How a prompt version has done in decisions: how many, how many without a usable reply, what they cost."""

    decisions: int
    invalid: int
    cost_usd: Decimal


class Shadows(NamedTuple):
    """Returns of candidate and champion in the cycles both answered, oldest first; the candidate's use in all."""

    pairs_pct: Sequence[tuple[Decimal, Decimal]]
    use: Use


def used(decided: Answer, sha256: str) -> bool:
    """Return whether a decision sent this prompt, or was this policy's; empty: whether it came of neither."""
    return sha256 in ([prompt.sha256 for prompt in decided.prompts] or [""])


def use_of(decisions: Sequence[Answer], sha256: str) -> Use:
    """Sum up the decisions that sent this prompt."""
    mine = [each for each in decisions if used(each, sha256)]
    return Use(len(mine), sum(each.is_invalid for each in mine), exact_sum(each.cost_usd for each in mine))


def criteria(
    candidate: str, champion: str, evidence: Evidence | None, shadows: Shadows, terms: Promotion
) -> tuple[Criterion, ...]:
    """Judge a candidate against the champion, both named by the sha256 of their files; only if all passed it may go.

    A champion without a name is one that sends no prompt: the best of those in the comparison counts.
    """
    settled = len(shadows.pairs_pct)
    ours, theirs = np.array(shadows.pairs_pct, dtype=float).reshape(-1, 2).T
    gap = interval(ours - theirs, terms.confidence) if settled > 1 else None
    low = gap.low if gap else None
    edge = f"{numbers.interval(gap.model_dump(), 4)} %" if gap else "unknown"
    bar = f"its {terms.confidence:.0%} interval above {terms.min_edge_pct} %"
    enough = f"{terms.min_shadows} settled beside the champion's"
    return (
        *_replay(candidate, champion, evidence, terms),
        *_criteria(
            ("shadow decisions", str(settled), enough, settled >= terms.min_shadows),
            ("shadow edge", edge, bar, None if low is None else low > terms.min_edge_pct),
        ),
        *_limits(shadows.use, terms),
    )


def _replay(candidate: str, champion: str, evidence: Evidence | None, terms: Promotion) -> tuple[Criterion, ...]:
    if evidence is None:
        return _criteria(("evidence", "none", "a comparison: --evidence", None))
    ours, theirs = (
        [each for each in evidence.variants if sha256 in each.prompt_sha256.split("+")]
        for sha256 in (candidate, champion)
    )
    gaps = [
        a.masked_sharpe - b.masked_sharpe
        for a, b in product(ours, theirs)
        if a.model in ("", b.model) and a.masked_sharpe is not None and b.masked_sharpe is not None
    ]
    gap, commit, data = min(gaps, default=None), evidence.git_commit, evidence.data_sha256
    least, known = -terms.masked_loss_sharpe, evidence.commit_known if commit else None
    signed = "good" if evidence.signed else "none or wrong"
    variants = f"{len(ours)} of the candidate, {len(theirs)} of the champion"
    shown = "no masked Sharpe ratio" if gap is None else f"{gap:+.3f} Sharpe"
    bar = f"at least {least:+.3f} against the champion"
    return _criteria(
        ("evidence data", data[:12] or "unknown", "a hash of the candles", len(data) == 64 if data else None),
        ("evidence commit", commit[:18] or "unknown", "known in this checkout", known),
        ("evidence signature", signed, "this HOME's: compare here", evidence.signed),
        ("evidence prompts", variants, "variants of both, by sha256", bool(ours and theirs)),
        ("masked replay", shown, bar, None if gap is None else gap >= least),
    )


def _criteria(*rows: tuple[str, str, str, bool | None]) -> tuple[Criterion, ...]:
    """Name what was asked for; None: nothing was measured."""
    return tuple(
        Criterion(name=name, value=value, threshold=threshold, passed=bool(result), unknown=result is None)
        for name, value, threshold, result in rows
    )


def _limits(use: Use, terms: Promotion) -> tuple[Criterion, ...]:
    most, dearest = terms.max_invalid_rate, terms.max_cost_usd
    bars = f"at most {most:.1%}", f"at most {dearest} USD"
    if not use.decisions:
        none = "no decision of this version"
        return _criteria(("invalid replies", none, bars[0], None), ("cost", none, bars[1], None))
    invalid, cost = use.invalid / use.decisions, use.cost_usd / use.decisions
    return _criteria(
        ("invalid replies", f"{invalid:.1%} of {use.decisions}", bars[0], invalid <= most),
        ("cost", f"{cost:.5f} USD a decision", bars[1], cost <= dearest),
    )


def regressions(ours: Sequence[Evaluated], theirs: Sequence[Evaluated], terms: Promotion) -> tuple[Criterion, ...]:
    """Return what a version must not do worse than the one in use on the same moments, and whether it does.

    ours, theirs: of the same moments, in the same order. More denials are worse where chance does not explain them.
    """
    n, sure = len(ours), f"{terms.confidence:.0%} interval"
    invalid, least = (sum(not each.is_valid for each in found) for found in (ours, theirs))
    allowed = max(least, int(terms.max_invalid_rate * n))
    denied, before = (np.array([not each.verdict.allowed for each in found], float) for found in (ours, theirs))
    more, low = (interval(values, terms.confidence).low for values in (denied - before, _net(theirs)))
    bar = "more moments, for an interval of the one in use"
    if low is not None:
        bar = f"at least {low:+.4f}, where the {sure} of the one in use begins"
    usual = f"{before.sum():.0f} of the one in use, or not surely more ({sure})"
    return _criteria(
        ("invalid replies", f"{invalid} of {n}", f"at most {allowed}", invalid <= allowed),
        ("denied by the guard", f"{denied.sum():.0f} of {n}", usual, more is None or more <= 0),
        ("net R", f"{_net(ours).mean():+.4f} a moment", bar, None if low is None else bool(_net(ours).mean() >= low)),
    )


def _net(found: Sequence[Evaluated]) -> np.ndarray:
    return np.array([each.net_r for each in found])


def breaches(use: Use, rs: Sequence[Decimal], terms: Promotion) -> tuple[Criterion, ...]:
    """Return the limits that a live champion breaks over its last decisions and outcomes, once it has them."""
    limits = list(_limits(use, terms)) if use.decisions >= terms.watched else []
    if len(rs) >= terms.watched:
        mean = exact_sum(rs) / len(rs)
        least = terms.min_mean_r
        limits += _criteria(("mean R", f"{mean:+.3f} over {len(rs)}", f"at least {least}", mean >= least))
    return tuple(each for each in limits if not each.passed and not each.unknown)
