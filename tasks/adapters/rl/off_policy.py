"""`quarterdeck ope`: a policy evaluated on a dataset that another one made, with a picture of how far both overlap.

The action is the one that was asked for, as the guard is part of the world: what it denied had its reward. How much is
traded is the log's: a policy's own sizes are not what was tried.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy import ndarray

from tasks.adapters.charts import overlap as chart
from tasks.adapters.rl import logged
from tasks.adapters.rl.logged import Logged
from tasks.core.decision import kinds
from tasks.core.decision.baselines import HOLD_SHARE
from tasks.core.lab import ope, rl
from tasks.core.types import InputError, Json

HOLD = rl.CHOICES.index("HOLD")
Policy = Callable[[ndarray, ndarray], ndarray]  # what it reads, and what is allowed -> how likely each action is


def evaluate(
    data: Path, policy: str, splits: tuple[str, ...], horizon: int, least_ess: float, picture: Path | None = None
) -> Json:
    """Estimate what `policy` would have earned an episode; raises InputError where the log says too little of it.

    picture: a PNG of the overlap, which is also drawn where the answer is refused.
    """
    chosen, log = policy_of(policy), logged.read(data, splits)
    if log.deterministic:
        raise InputError(
            f"--records {data}: its behaviour always does the same in one state, so what else could be worth is in no "
            "row; export records of the `random` decider, or of a model asked several times (`--votes K`)"
        )
    episodes, unknown = episodes_of(log, chosen, horizon)
    if not len(episodes):
        raise InputError(f"--records {data}: has no {horizon} decisions in a row whose propensities are known")
    found = ope.overlap(episodes)
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(chart.picture(found, episodes.weights[:, -1], least_ess))
    evaluated = ope.evaluate(episodes, least_ess)
    return {
        "policy": policy, "records": str(data), "splits": splits, "horizon": horizon, "reward": log.reward,
        "steps": len(log), "propensity_unknown": unknown, **evaluated.model_dump(mode="json"),
        "picture": str(picture or ""),
    }  # fmt: skip


def episodes_of(log: Logged, policy: Policy, horizon: int) -> tuple[ope.Episodes, int]:
    """Cut a log into episodes of which all is known; and how many steps were left out as their propensity is not."""
    known = np.isfinite(log.propensity) & (log.propensity > 0)
    return _cut(log, policy, horizon, known, log.asked, log.propensity), int((~known).sum())


def carried_out(log: Logged, policy: Policy, horizon: int) -> ope.Episodes:
    """Cut a log into episodes of what was carried out, for FQE, which asks nobody how likely that was."""
    everything = np.ones(len(log), dtype=bool)
    return _cut(log, policy, horizon, everything, log.actions, np.ones(len(log)))


def _cut(
    log: Logged, policy: Policy, horizon: int, known: ndarray, actions: ndarray, propensity: ndarray
) -> ope.Episodes:
    columns = {
        "states": log.observations[known],
        "next_states": log.next_observations[known],
        "actions": actions[known],
        "propensity": propensity[known],
        "rewards": log.rewards[known],
        "ended": log.terminated[known],
        "policy": policy(log.observations[known], log.allowed[known]),
        "next_policy": policy(log.next_observations[known], log.next_allowed[known]),
    }
    return ope.cut(columns, (log.starts | ~np.r_[True, known[:-1]])[known], horizon)


def policy_of(name: str) -> Policy:
    """Return a policy that decides by the dataset's state alone; raises InputError for one that needs more."""
    named = kinds.read(name)
    if named.kind == "model" and named.argument:
        from tasks.adapters.model.onnx_policy import OnnxDecider

        return OnnxDecider(Path(named.argument)).choices
    known: dict[str, Policy] = {"hold": _holds, "random": _random}
    if named.kind not in known:
        raise InputError(
            f"--policy {name}: decides by more than a row of the dataset has; there are model:FILE.onnx, "
            f"{' and '.join(known)}, and `quarterdeck compare` replays any other"
        )
    return known[named.kind]


def _holds(observations: ndarray, allowed: ndarray) -> ndarray:
    return np.tile(np.arange(allowed.shape[1]) == HOLD, (len(observations), 1)).astype(float)


def _random(_: ndarray, allowed: ndarray) -> ndarray:
    """Return the odds of the `random` decider."""
    others = allowed.copy()
    others[:, HOLD] = False
    count = others.sum(axis=1, keepdims=True)
    odds = np.where(others, (1 - HOLD_SHARE) / np.maximum(count, 1), 0.0)
    odds[:, HOLD] = np.where(count[:, 0] > 0, HOLD_SHARE, 1.0)
    return odds
