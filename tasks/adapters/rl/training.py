"""`quarterdeck train`: a policy learnt from a dataset, as `model:FILE.onnx` takes it.

It learns from the train split alone. After each epoch it is looked at on the validation split, which ends it once
PATIENCE epochs brought nothing better; of several seeds the one that did best there is kept. What is looked at: of bc
how likely it is to do what was done, each action counting alike, as else holding always would do; of iql and cql what
fitted Q evaluation says HORIZON decisions are worth. That picks a policy and promises nothing: `compare`, over time it
has not learnt, and `ope` say what it is worth.
"""

import warnings
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray

from tasks.adapters.files.dataset import sha256_of
from tasks.adapters.model.onnx_policy import KEY, OnnxDecider, PolicyCard, choices
from tasks.adapters.rl import logged, off_policy
from tasks.adapters.rl.learners import Learner, learner
from tasks.adapters.rl.logged import Logged
from tasks.core.lab import ope, rl
from tasks.core.types import InputError, Json, hold

if TYPE_CHECKING:
    import pandas as pd

EPOCHS, PATIENCE, HORIZON = 60, 10, 10
SPLITS = ("train", "validation")


class Attempt(NamedTuple):
    """What one seed came to; `score` is None where validation has too little to look at."""

    seed: int
    epochs: int
    score: float | None
    learner: Learner
    kept: Any


def train(data: Path, out: Path, algo: str = "bc", seeds: int = 1, epochs: int = EPOCHS) -> Json:
    """Learn from `data` (a folder of `export-rl`), write `out` and return what came of it.

    Figures: how often it does what was done on train and validation, beside the share of HOLD, which doing nothing
    would reach, and how often ONNX chooses as the network that was trained.
    """
    logs = {split: logged.read(data, (split,)) for split in SPLITS}
    if (known := len(set(logs["train"].actions))) < 2:
        raise InputError(f"--records {data}: train knows {known} action(s) only: nothing to learn from")
    attempts = [_attempt(algo, seed, logs, epochs) for seed in range(seeds)]
    best = max(attempts, key=lambda each: -np.inf if each.score is None else each.score)
    model = best.learner.onnx(best.kept)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, _card(data, best, algo).model_dump_json()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(model.SerializeToString())
    policy = OnnxDecider(out)
    tried = [{"seed": each.seed, "epochs": each.epochs, "score": each.score} for each in attempts]
    return {
        "model": str(out), "decider": policy.name, "algo": algo, "actions": list(policy.card.actions),
        "reward": logs["train"].reward, "seed": best.seed, "seeds": tried,
        **{split: _imitated(policy, best, log) for split, log in logs.items() if len(log)},
    }  # fmt: skip


def _attempt(algo: str, seed: int, logs: dict[str, Logged], epochs: int) -> Attempt:
    from sklearn.exceptions import ConvergenceWarning

    trained = learner(algo, logs["train"], seed)
    best, score, kept = 0, None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # who trains decides when it is over
        for epoch in range(1, epochs + 1):
            trained.epoch()
            now = _score(algo, trained, logs["validation"])
            if now is None or score is None or now > score:
                best, score, kept = epoch, now, trained.kept()
            elif epoch - best >= PATIENCE:
                break
    return Attempt(seed, best, score, trained, kept)


def _score(algo: str, trained: Learner, log: Logged) -> float | None:
    """Return how good it is on a log; None where that has too little to say."""
    if not len(log):
        return None
    if algo == "bc":
        done = log.actions[:, None] == [rl.ACTION_IDS[action] for action in trained.actions]
        likely = np.where(done, trained.odds(log.observations), 0.0).sum(axis=1)
        means = [likely[log.actions == action].mean() for action in set(log.actions)]
        return float(np.mean(means))

    def policy(observations: ndarray, allowed: ndarray) -> ndarray:
        return choices(trained.actions, trained.odds(observations), allowed)

    episodes = off_policy.carried_out(log, policy, HORIZON)
    return ope.fqe(episodes) if len(episodes) > 1 else None


def _card(data: Path, best: Attempt, algo: str) -> PolicyCard:
    rows = logged.table_of(data, "train", [*rl.parameters(hold("-", ""))]).to_pandas()
    return PolicyCard(
        spec=rl.SPEC, spec_sha256=rl.SPEC_SHA256, actions=tuple(best.learner.actions), rows=len(rows),
        data_sha256=sha256_of(data / "train.parquet"), algo=algo, seed=best.seed,
        parameters={action: usual(alike) for action, alike in rows.groupby("action")},
    )  # fmt: skip


def usual(rows: "pd.DataFrame") -> Json:
    """Return an action's usual parameters as a decision takes them: medians, and the commonest words."""
    medians = {name: f"{value:.4g}" for name, value in rows.median(numeric_only=True).dropna().items()}
    parameters: Json = {n: medians[n] for n in ("size_pct", "stop_atr", "tp_atr", "minutes") if n in medians}
    if types := list(rows["entry_type"].dropna()):
        parameters["entry"] = {"type": mode(types), "offset_bps": medians.get("offset_bps", "0")}
    if kinds := list(rows["stop_to"].dropna()):
        parameters["to"] = {"kind": mode(kinds), "x": medians.get("stop_to_atr", "0")}
    if rules := mode(map(tuple, rows["followups"])):
        parameters["followups"] = rules
    return parameters


def _imitated(policy: OnnxDecider, best: Attempt, log: Logged) -> Json:
    names, done = np.array(policy.card.actions), np.array(rl.CHOICES)[log.actions]
    chosen = names[policy.probabilities(log.observations).argmax(axis=1)]
    right, holds = chosen == done, done == "HOLD"
    figures = {
        "accuracy": right,
        "hold_share": holds,
        "acted_alike": right[~holds],
        "onnx_agrees": chosen == names[best.learner.chosen(best.kept, log.observations)],
    }
    shares = {name: round(float(each.mean()), 4) if each.size else None for name, each in figures.items()}
    return {"rows": len(log), **shares}
