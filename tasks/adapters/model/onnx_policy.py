"""`model:FILE.onnx`: a small policy cloned from a dataset's behaviour, kept as ONNX with everything it needs to act.

What the network reads is `rl`'s spec, whose hash stands in the file beside the actions it knows and, for each,
the behaviour's usual numbers (medians, and the commonest words): the network says when, not how much.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray
from pydantic import ValidationError

from tasks.adapters.rl.logged import table_of
from tasks.core.decision.decider import PlainDecider
from tasks.core.decision.kinds import KINDS
from tasks.core.lab import rl
from tasks.core.types import DECISION, Answer, Dto, InputError, Json, Question, Texts, answered, hold

if TYPE_CHECKING:
    import pandas as pd

KEY = "quarterdeck"  # of the metadata in the file
LAYERS, EPOCHS, BATCH, SEED = (64, 32), 30, 64, 0


class PolicyCard(Dto):
    """What an ONNX file says of itself."""

    spec: str
    spec_sha256: str
    actions: Texts
    parameters: dict[str, Json]
    data_sha256: str
    rows: int


class OnnxDecider(PlainDecider):
    """Takes the likeliest action among the allowed; its confidence is that probability. One thread, no randomness."""

    kind = KINDS["model"]

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is said below, in one line
        try:
            content = path.read_bytes()
        except OSError as e:
            raise InputError(f"model:{path}: {e.strerror}") from e
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime's errors have no base of their own
            raise InputError(f"model:{path}: not an ONNX model that can be run: {e}") from e
        self.card = _card_of(path, self.session.get_modelmeta().custom_metadata_map)
        self.mark = f"{path.name}@{hashlib.sha256(content).hexdigest()[:8]}"
        self.name = f"model:{self.mark}"
        shape = self.session.get_inputs()[0].shape
        if shape[-1] != 2 * len(rl.COMPONENTS):
            raise InputError(f"model:{path}: reads {shape[-1]} numbers, {rl.SPEC} is another length")

    def answer(self, question: Question) -> Answer:
        snapshot = question.snapshot
        [odds] = self.probabilities(rl.policy_input(*rl.state(snapshot)))
        action, share = choose(self.card.actions, odds, rl.allowed_mask(snapshot))
        confidence, why = Decimal(str(round(share, 4))), f"{action} {share:.2f} of what is allowed"
        words = {"comment": why, "reasoning": why, "source": self.name}
        fields = {"action": action, "symbol": snapshot.pair, "confidence": confidence, **words}
        decision = DECISION.validate_python(fields | self.card.parameters.get(action, {}))
        return answered(decision, self.name).replace(model=self.mark)

    def probabilities(self, rows: ndarray) -> ndarray:
        """Return, for each row, the probability of each of the card's actions."""
        _, odds = self.session.run(None, {self.session.get_inputs()[0].name: rows})
        return np.asarray(odds)

    def choices(self, rows: ndarray, allowed: ndarray) -> ndarray:
        """Return, for each row and each of `rl.CHOICES`, 1 where that is what it would take, else 0."""
        taken = (choose(self.card.actions, *each)[0] for each in zip(self.probabilities(rows), allowed, strict=True))
        return np.eye(len(rl.CHOICES))[[rl.ACTION_IDS[action] for action in taken]]


def choose(actions: Sequence[str], odds: ndarray, allowed: Sequence[bool] | ndarray) -> tuple[str, float]:
    """Return the likeliest allowed action and its share of all that are allowed; HOLD where none of them is."""
    masked = np.where([allowed[rl.ACTION_IDS[action]] for action in actions], odds, 0.0)
    total = float(masked.sum())
    if not np.isfinite(total) or total <= 0:
        return "HOLD", 0.0
    best = int(masked.argmax())
    return actions[best], float(masked[best]) / total


def _card_of(path: Path, metadata: Mapping[str, str]) -> PolicyCard:
    try:
        card = PolicyCard.model_validate_json(metadata.get(KEY, ""))
        for action in card.actions:  # so that no decision can fail later
            DECISION.validate_python({"action": action, "symbol": "-", **card.parameters.get(action, {})})
    except ValidationError as e:
        raise InputError(f"model:{path}: not one of `quarterdeck train`'s: {e.errors()[0]['msg']}") from e
    if card.spec_sha256 != rl.SPEC_SHA256:
        ours, theirs = f"{rl.SPEC} {rl.SPEC_SHA256[:12]}", f"{card.spec} {card.spec_sha256[:12]}"
        raise InputError(f"model:{path}: was trained on state {theirs}, this is {ours}; train it on a new export")
    return card


def train(data: Path, out: Path, epochs: int = EPOCHS) -> Json:
    """Clone the behaviour in `data` (a folder of `export-rl`), write `out` and return how well it imitates.

    Learns from the train split alone. Figures: accuracy on train and validation beside the share of HOLD, which doing
    nothing would reach, and how often ONNX and scikit-learn choose alike.
    """
    from skl2onnx import to_onnx
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    columns = ["state", "state_unknown", *rl.parameters(hold("-", ""))]
    splits = {split: table_of(data, split, columns) for split in ("train", "validation")}
    rows, actions = _pair(splits["train"])
    if len(set(actions)) < 2:
        raise InputError(f"--records {data}: train knows {len(set(actions))} action(s) only: nothing to learn from")
    network = MLPClassifier(LAYERS, batch_size=BATCH, random_state=SEED, max_iter=epochs, n_iter_no_change=epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is the plan
        network.fit(rows, actions)
    model = to_onnx(network, rows[:1], options={id(network): {"zipmap": False}})
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, _policy_card(data, splits["train"], network.classes_).model_dump_json()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(model.SerializeToString())
    return _report(out, network, splits)


def _pair(table: Any) -> tuple[ndarray, ndarray]:
    from tasks.adapters.files.minari import column

    rows = rl.policy_input(column(table, "state"), column(table, "state_unknown"))
    return rows, np.array(table["action"].to_pylist())


def _policy_card(data: Path, table: Any, actions: Sequence[str]) -> PolicyCard:
    from tasks.adapters.files.dataset import sha256_of

    rows = table.drop_columns(["state", "state_unknown"]).to_pandas()
    return PolicyCard(
        spec=rl.SPEC, spec_sha256=rl.SPEC_SHA256, actions=tuple(actions), rows=len(table),
        data_sha256=sha256_of(data / "train.parquet"),
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


def _report(out: Path, network: Any, splits: Mapping[str, Any]) -> Json:
    policy = OnnxDecider(out)
    report: Json = {"model": str(out), "decider": policy.name, "actions": list(policy.card.actions)}
    for split, table in splits.items():
        rows, actions = _pair(table)
        if not len(rows):
            continue
        chosen = np.array(policy.card.actions)[policy.probabilities(rows).argmax(axis=1)]
        right, holds = chosen == actions, actions == "HOLD"
        figures = {
            "accuracy": right,
            "hold_share": holds,
            "acted_alike": right[~holds],
            "onnx_agrees": chosen == network.predict(rows),
        }
        shares = {name: round(float(each.mean()), 4) if each.size else None for name, each in figures.items()}
        report[split] = {"rows": len(rows), **shares}
    return report
