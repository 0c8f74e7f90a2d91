"""What a policy would have earned in the place of the one that decided: off-policy evaluation, four ways.

Logged steps are cut into episodes of `horizon` decisions; the value is the mean of what an episode earns, undiscounted,
from states such as those the log came through. Per step one knows the action that was asked for, how likely the
behaviour was to ask for it, and how likely the policy is.

- **is**: importance sampling, per decision: unbiased, and wide.
- **wis**: the same with weights that add up to one: a little biased, narrower.
- **fqe**: fitted Q evaluation: the steps to go are regressed backwards on the state, one ridge per action. It needs no
  propensity, and is as right as a value that is linear in the state.
- **dr**: doubly robust: FQE, corrected by weighted residuals; right where either is. It is fitted on one half and
  used on the other.

Intervals are Student's t of the deviation over a bootstrap of blocks of consecutive episodes, since neighbours are
alike; FQE is fitted anew in each draw. Percentiles of the same draws held the truth less often than they said. Weights
are never clipped. Below `LEAST_ESS` effective episodes there is no answer: what is left is
the luck of a few.

Sources: Precup, Sutton and Singh, Eligibility Traces for Off-Policy Policy Evaluation (2000); Jiang and Li, Doubly
Robust Off-policy Value Evaluation (2016); Le, Voloshin and Yue, Batch Policy Learning under Constraints (2019), FQE;
Kong, A Note on Importance Sampling using Standardized Weights (1992), the effective sample size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from tasks.core.errors import InputError
from tasks.core.lab.statistics import Interval
from tasks.core.types import Dto

LEAST_ESS = 50.0
DRAWS = 200  # of the bootstrap
RIDGE = 1.0
METHODS = ("is", "wis", "dr", "fqe")


@dataclass(frozen=True)
class Episodes:
    """n episodes of h steps each, in order of time; steps after an end are padded, and not `alive`.

    states, next_states: (n, h, d). actions: (n, h), of A. propensity, rewards, ended, alive: (n, h). policy,
    next_policy: (n, h, A), how likely the evaluated policy is to ask for each action there.
    """

    states: ndarray
    next_states: ndarray
    actions: ndarray
    propensity: ndarray
    rewards: ndarray
    ended: ndarray
    alive: ndarray
    policy: ndarray
    next_policy: ndarray

    def __len__(self) -> int:
        return len(self.actions)

    def __getitem__(self, chosen: ndarray) -> "Episodes":
        return Episodes(*(getattr(self, each.name)[chosen] for each in fields(self)))

    @property
    def weights(self) -> ndarray:
        """Return how much likelier the policy is than the behaviour to have gone as far as each step, (n, h)."""
        chosen = np.take_along_axis(self.policy, self.actions[..., None], axis=2)[..., 0]
        return np.where(self.alive, chosen / self.propensity, 1.0).cumprod(axis=1)


class Overlap(Dto):
    """How much of what the policy does the behaviour did.

    by_step: the effective sample size up to each step of an episode. agreeing: share of logged actions that the policy
    would take too. largest_weight: of one episode, as a share of all.
    """

    episodes: int
    effective_n: float
    by_step: tuple[float, ...]
    agreeing: float
    largest_weight: float


class PolicyEvaluation(Dto):
    """A policy's value per episode by each method, beside what the behaviour earned in the same ones."""

    behaviour: Interval
    estimates: dict[str, Interval]
    overlap: Overlap


class _Fit(NamedTuple):
    """Values by steps to go, 0 to h: each (A, d)."""

    thetas: tuple[ndarray, ...]

    def q(self, to_go: int, states: ndarray) -> ndarray:
        """Return the value of each action, (..., A)."""
        return states @ self.thetas[to_go].T

    def v(self, to_go: int, states: ndarray, policy: ndarray) -> ndarray:
        return (self.q(to_go, states) * policy).sum(axis=-1)


def overlap(episodes: Episodes) -> Overlap:
    """Return how far the evidence of these episodes reaches."""
    weights = episodes.weights
    total = weights[:, -1].sum()
    chosen = np.take_along_axis(episodes.policy, episodes.actions[..., None], axis=2)[..., 0]
    return Overlap(
        episodes=len(episodes),
        effective_n=effective_n(weights[:, -1]),
        by_step=tuple(effective_n(each) for each in weights.T),
        agreeing=float(chosen[episodes.alive].mean()),
        largest_weight=float(weights[:, -1].max() / total) if total > 0 else 0.0,
    )


def effective_n(weights: ndarray) -> float:
    """Return how many equally weighted episodes would say as much (Kong 1992); 0 where no weight is left."""
    square = float((weights**2).sum())
    return float(weights.sum()) ** 2 / square if square > 0 else 0.0


def evaluate(
    episodes: Episodes, least_ess: float = LEAST_ESS, draws: int = DRAWS, level: float = 0.95, seed: int = 0
) -> PolicyEvaluation:
    """Estimate a policy's value per episode; raises InputError where too little of the log speaks of it."""
    found = overlap(episodes)
    if found.effective_n < least_ess:
        raise InputError(
            f"effective sample size {found.effective_n:.1f} of {found.episodes} episodes is below {least_ess:g}: the "
            "policy and what was logged rarely do the same; take a shorter --horizon, more records, or records whose "
            "decider tries more (`random`)"
        )
    standard = _standardised(episodes)
    values = {"is": _is(standard), "dr": _dr(standard)}
    estimates: dict[str, list[float]] = {method: [] for method in METHODS}
    rng, n = np.random.default_rng(seed), len(standard)
    earned = standard.rewards.sum(axis=1)
    logged: list[float] = []
    for counts in (np.ones(n), *(_blocks(rng, n) for _ in range(draws))):
        for method, each in values.items():
            estimates[method].append(float(each @ counts / n))
        estimates["wis"].append(_wis(standard, counts))
        fit = _fitted(standard, counts)
        first = fit.v(standard.actions.shape[1], standard.states[:, 0], standard.policy[:, 0])
        estimates["fqe"].append(float(first @ counts / n))
        logged.append(float(earned @ counts / n))
    return PolicyEvaluation(
        behaviour=_interval(logged, level, n, n),
        estimates={method: _interval(drawn, level, n, found.effective_n) for method, drawn in estimates.items()},
        overlap=found,
    )


def fqe(episodes: Episodes) -> float:
    """Return what fitted Q evaluation says an episode is worth; it needs no propensity."""
    standard = _standardised(episodes)
    fit = _fitted(standard, np.ones(len(standard)))
    return float(fit.v(standard.actions.shape[1], standard.states[:, 0], standard.policy[:, 0]).mean())


def _interval(values: list[float], level: float, n: int, effective: float) -> Interval:
    """Return the first of the values, as sure as the others lie close to each other."""
    from scipy.special import stdtrit  # slow to import

    estimate, *draws = values
    blocks = min(n / _length(n), effective)
    reach = float(stdtrit(max(1.0, blocks - 1), (1 + level) / 2)) * float(np.std(draws, ddof=1))
    return Interval(estimate=estimate, low=estimate - reach, high=estimate + reach, n=n, effective_n=effective)


def _length(n: int) -> int:
    """Return how many episodes a block has: about the cube root of all."""
    return max(1, round(float(n ** (1 / 3))))


def _blocks(rng: np.random.Generator, n: int) -> ndarray:
    """Draw how often each of n episodes counts: in blocks, around the end."""
    length = _length(n)
    starts = rng.integers(0, n, -(-n // length))
    drawn = (starts[:, None] + np.arange(length)).ravel()[:n] % n
    return np.bincount(drawn, minlength=n).astype(float)


def _standardised(episodes: Episodes) -> Episodes:
    """Return the episodes with states of mean 0 and deviation 1 and an intercept; what never varies is left out."""
    known = episodes.states[episodes.alive].astype(float)
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    varies = deviation > 1e-9

    def shown(states: ndarray) -> ndarray:
        scaled = (states[..., varies] - mean[varies]) / deviation[varies]
        return np.concatenate([scaled, np.ones((*states.shape[:-1], 1))], axis=-1)

    parts = {each.name: getattr(episodes, each.name) for each in fields(episodes)}
    return Episodes(**parts | {name: shown(parts[name]) for name in ("states", "next_states")})


def _is(episodes: Episodes) -> ndarray:
    return np.asarray((episodes.weights * episodes.rewards).sum(axis=1))


def _wis(episodes: Episodes, counts: ndarray) -> float:
    weights = episodes.weights * counts[:, None]
    total = weights.sum(axis=0)
    means = np.divide((weights * episodes.rewards).sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
    return float(means.sum())


def _fitted(episodes: Episodes, counts: ndarray) -> _Fit:
    """Regress what is earned with 1, 2, ... h steps to go; counts: how often each episode is in the sample."""
    horizon, actions = episodes.actions.shape[1], episodes.policy.shape[2]
    alive = episodes.alive.ravel()
    states, following = (part.reshape(len(alive), -1)[alive] for part in (episodes.states, episodes.next_states))
    policy = episodes.next_policy.reshape(len(alive), -1)[alive]
    taken, rewards, ended = (p.ravel()[alive] for p in (episodes.actions, episodes.rewards, episodes.ended))
    sample = np.repeat(counts, horizon)[alive]
    penalty = np.full(states.shape[1], RIDGE)
    penalty[-1] = 1e-6  # the intercept
    solved: dict[int, tuple[ndarray, ndarray]] = {}
    for action in range(actions):
        rows = np.flatnonzero((taken == action) & (sample > 0))
        if len(rows):
            weighted = states[rows].T * sample[rows]
            solved[action] = rows, np.linalg.solve(weighted @ states[rows] + np.diag(penalty), weighted)
    thetas = [np.zeros((actions, states.shape[1]))]
    for _ in range(horizon):
        later = (following @ thetas[-1].T * policy).sum(axis=1) * ~ended
        theta = np.zeros_like(thetas[0])
        for action, (rows, solver) in solved.items():
            theta[action] = solver @ (rewards + later)[rows]
        thetas.append(theta)
    return _Fit(tuple(thetas))


def _dr(episodes: Episodes) -> ndarray:
    """Return the doubly robust value of each episode, fitted on the half that it is not in."""
    n, horizon = episodes.actions.shape
    first, values = np.arange(n) < n // 2, np.zeros(n)
    weights = episodes.weights
    for mine in (first, ~first):
        fit, part = _fitted(episodes, (~mine).astype(float)), episodes[mine]
        value = fit.v(horizon, part.states[:, 0], part.policy[:, 0])
        for t in range(horizon):
            to_go = horizon - t
            q = np.take_along_axis(fit.q(to_go, part.states[:, t]), part.actions[:, t, None], axis=1)[:, 0]
            later = fit.v(to_go - 1, part.next_states[:, t], part.next_policy[:, t]) * ~part.ended[:, t]
            value = value + weights[mine, t] * part.alive[:, t] * (part.rewards[:, t] + later - q)
        values[mine] = value
    return values


def cut(runs: Mapping[str, ndarray], starts: ndarray, horizon: int) -> Episodes:
    """Cut logged steps into episodes of `horizon`.

    runs: columns of the log, by the names of `Episodes` but `alive`; rows in order. starts: whether a row is the first
    of a run of consecutive decisions. A run's rest that is too short is left out, unless the account ended in it.
    """
    chosen, alive = [], []
    edges = [*np.flatnonzero(starts).tolist(), len(starts)]
    for begin, end in pairwise(edges):
        for at in range(begin, end, horizon):
            length = min(horizon, end - at)
            if length < horizon and not runs["ended"][at + length - 1]:
                continue
            padding = horizon - length
            chosen.append([*range(at, at + length), *[at + length - 1] * padding])
            alive.append([True] * length + [False] * padding)
    index, lives = np.array(chosen, dtype=int).reshape(-1, horizon), np.array(alive, dtype=bool).reshape(-1, horizon)
    parts = {name: column[index] for name, column in runs.items()}
    return Episodes(**parts | {"rewards": np.where(lives, parts["rewards"], 0.0), "alive": lives})
