"""`model:FILE.onnx`: a small policy that was learnt from a dataset, kept as ONNX with everything it needs to act.

What the network reads is `rl`'s spec, whose hash stands in the file beside the actions it knows and, for each,
the behaviour's usual numbers (medians, and the commonest words): the network says when, not how much.
"""

import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
from numpy import ndarray
from pydantic import ValidationError

from tasks.core.decision.decider import PlainDecider
from tasks.core.decision.kinds import KINDS
from tasks.core.lab import rl
from tasks.core.types import (
    DECISION,
    POLICY,
    Answer,
    Dto,
    InputError,
    Json,
    PromptRef,
    Question,
    Texts,
    answered,
)

KEY = "quarterdeck"  # of the metadata in the file


class PolicyCard(Dto):
    """What an ONNX file says of itself."""

    spec: str
    spec_sha256: str
    actions: Texts
    parameters: dict[str, Json]
    data_sha256: str
    rows: int
    algo: str = "bc"
    seed: int = 0


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
        sha256 = hashlib.sha256(content).hexdigest()
        self.mark = f"{path.name}@{sha256[:8]}"
        self.prompts = (PromptRef(name=POLICY, version=self.mark, sha256=sha256),)
        self.name = f"model:{self.mark}"
        shape = self.session.get_inputs()[0].shape
        if shape[-1] != 2 * len(rl.COMPONENTS):
            raise InputError(f"model:{path}: reads {shape[-1]} numbers, {rl.SPEC} is another length")

    def answer(self, question: Question) -> Answer:
        snapshot = question.snapshot
        action, share = choose(self.card.actions, self._odds(question), rl.allowed_mask(snapshot))
        confidence, why = Decimal(str(round(share, 4))), f"{action} {share:.2f} of what is allowed"
        words = {"comment": why, "reasoning": why, "source": self.name}
        fields = {"action": action, "symbol": snapshot.pair, "confidence": confidence, **words}
        decision = DECISION.validate_python(fields | self.card.parameters.get(action, {}))
        return answered(decision, self.name).replace(model=self.mark, policies=self.prompts)

    def rated(self, question: Question) -> dict[str, Decimal]:
        """Return the share of each action that is allowed and known to it, of them all."""
        allowed, odds = rl.allowed_mask(question.snapshot), self._odds(question)
        open_ = {a: float(p) for a, p in zip(self.card.actions, odds, strict=True) if allowed[rl.ACTION_IDS[a]]}
        total = sum(open_.values())
        if not 0 < total < float("inf"):
            return {}
        return {action: Decimal(str(round(share / total, 4))) for action, share in open_.items()}

    def _odds(self, question: Question) -> ndarray:
        [odds] = self.probabilities(rl.policy_input(*rl.state(question.snapshot)))
        return np.asarray(odds)

    def probabilities(self, rows: ndarray) -> ndarray:
        """Return, for each row, the probability of each of the card's actions."""
        _, odds = self.session.run(None, {self.session.get_inputs()[0].name: rows})
        return np.asarray(odds)

    def choices(self, rows: ndarray, allowed: ndarray) -> ndarray:
        """Return, for each row and each of `rl.CHOICES`, 1 where that is what it would take, else 0."""
        return choices(self.card.actions, self.probabilities(rows), allowed)


def choices(actions: Sequence[str], odds: ndarray, allowed: ndarray) -> ndarray:
    """Return, for each row and each of `rl.CHOICES`, 1 where `choose` would take it, else 0."""
    taken = (choose(actions, *each)[0] for each in zip(odds, allowed, strict=True))
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
