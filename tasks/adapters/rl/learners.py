"""How a policy is learnt from a log: behaviour cloning, implicit and conservative Q-learning.

- **bc** imitates what was carried out.
- **iql** asks only about actions that are in the log (Kostrikov, Nair and Levine, Offline Reinforcement Learning with
  Implicit Q-Learning, 2021): the value of a state is an expectile of what was done there, and the policy imitates what
  did better than that, the more the better it did. d3rlpy has it for continuous actions alone, so its three losses are
  minimised here, epoch by epoch, with scikit-learn's networks.
- **cql** is d3rlpy's DiscreteCQL (Kumar et al., Conservative Q-Learning, 2020): Q-learning that puts what was not done
  below what was. It knows no mask of actions: what is not allowed was never done, and is put down with it.

Rewards are divided by their deviation. Each epoch goes over the log once; whoever trains says when to stop.
"""

import copy
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from typing import Any, Protocol

import numpy as np
from numpy import ndarray

from tasks.adapters.rl.logged import Logged
from tasks.core.lab import rl
from tasks.core.types import InputError

LAYERS, BATCH, RATE = (64, 32), 64, 1e-3
GAMMA = 0.95  # per decision
EXPECTILE, SHARPNESS, MOST = (
    0.7,
    3.0,
    50.0,
)  # of iql: of what was done, of how much better weighs more, and that at most
ALPHA = 0.3  # of cql: how much less what was not done is worth
USUAL_SHARE = 0.75  # of cql: how sure it is of its choice in the middle one of the log's states
FURTHEST = 5.0  # deviations that one reward counts
NEEDED = (
    "uv=$(.ci/find-uv); $uv pip install torch && $uv pip install --no-deps d3rlpy==2.8.1 gym==0.26.2 gym-notices "
    "h5py structlog colorama dataclasses-json marshmallow typing-inspect mypy-extensions"
)  # with its dependencies it would put gymnasium back to 1.0
ALGOS = ("bc", "iql", "cql")


class Learner(Protocol):
    """One attempt at a policy."""

    actions: Sequence[str]

    def epoch(self) -> None:
        """Go over the log once more."""

    def odds(self, observations: ndarray) -> ndarray:
        """Return how likely each of `actions` is, by row."""

    def kept(self) -> Any:
        """Return what `onnx` makes a file of, as it is now."""

    def chosen(self, kept: Any, observations: ndarray) -> ndarray:
        """Return which of `actions` what was kept likes best, by row."""

    def onnx(self, kept: Any) -> Any:
        """Return an ONNX model of two outputs, the second of them `odds`."""


def learner(algo: str, log: Logged, seed: int) -> Learner:
    """Return an attempt to learn from a log by `algo`; raises InputError naming those there are."""
    made: dict[str, Any] = {"bc": Cloned, "iql": ImplicitQ, "cql": ConservativeQ}
    if algo not in made:
        raise InputError(f"--algo {algo}: there are {', '.join(ALGOS)}")
    attempt: Learner = made[algo](log, seed)
    return attempt


class Cloned:
    """bc."""

    def __init__(self, log: Logged, seed: int) -> None:
        from sklearn.neural_network import MLPClassifier

        self.log, self.names = log, np.array(rl.CHOICES)[log.actions]
        self.actions: list[str] = sorted(set(self.names))
        self.network = MLPClassifier(hidden_layer_sizes=LAYERS, batch_size=min(BATCH, len(log)), random_state=seed)

    def epoch(self) -> None:
        self._imitate(None)

    def _imitate(self, weights: ndarray | None) -> None:
        self.network.partial_fit(self.log.observations, self.names, sample_weight=weights, classes=self.actions)

    def odds(self, observations: ndarray) -> ndarray:
        return np.asarray(self.network.predict_proba(observations))

    def kept(self) -> Any:
        return copy.deepcopy(self.network)

    def chosen(self, kept: Any, observations: ndarray) -> ndarray:
        return np.asarray(kept.predict_proba(observations).argmax(axis=1))

    def onnx(self, kept: Any) -> Any:
        from skl2onnx import to_onnx

        return to_onnx(kept, self.log.observations[:1], options={id(kept): {"zipmap": False}})


class ImplicitQ(Cloned):
    """iql."""

    def __init__(self, log: Logged, seed: int) -> None:
        from sklearn.neural_network import MLPRegressor

        super().__init__(log, seed)
        self.rewards = scaled(log.rewards)
        self.pairs = np.concatenate([log.observations, np.eye(len(rl.CHOICES), dtype=np.float32)[log.actions]], axis=1)
        size = min(BATCH, len(log))
        self.q, self.v = (
            MLPRegressor(hidden_layer_sizes=LAYERS, batch_size=size, random_state=seed, alpha=1e-3) for _ in range(2)
        )
        self.q.partial_fit(self.pairs, self.rewards)

    def epoch(self) -> None:
        done = self.q.predict(self.pairs)
        usual = self.v.predict(self.log.observations) if hasattr(self.v, "coefs_") else np.zeros(len(done))
        self.v.partial_fit(self.log.observations, done, sample_weight=np.where(done > usual, EXPECTILE, 1 - EXPECTILE))
        later = self.v.predict(self.log.next_observations) * ~self.log.terminated
        self.q.partial_fit(self.pairs, self.rewards + GAMMA * later)
        better = self.q.predict(self.pairs) - self.v.predict(self.log.observations)
        self._imitate(np.minimum(np.exp(SHARPNESS * better / max(float(better.std()), 1e-9)), MOST))


class ConservativeQ:
    """cql."""

    def __init__(self, log: Logged, seed: int) -> None:
        d3rlpy, torch = _d3rlpy()
        torch.set_num_threads(1)
        d3rlpy.seed(seed)
        self.log, self.seen = log, np.unique(log.actions)
        self.actions = [rl.CHOICES[each] for each in self.seen]
        self.algo = d3rlpy.algos.DiscreteCQLConfig(
            batch_size=BATCH, learning_rate=RATE, gamma=GAMMA, target_update_interval=100, alpha=ALPHA,
            encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden_units=list(LAYERS)),
        ).create(device="cpu:0")  # fmt: skip
        ends = np.r_[log.starts[1:], True] & ~log.terminated
        data = d3rlpy.dataset.MDPDataset(
            log.observations, log.actions.reshape(-1, 1), scaled(log.rewards).astype(np.float32),
            log.terminated.astype(np.float32), ends.astype(np.float32),
            action_space=d3rlpy.ActionSpace.DISCRETE, action_size=len(rl.CHOICES),
        )  # fmt: skip
        each = max(1, len(log) // BATCH)
        self.epochs: Iterator[Any] = self.algo.fitter(
            data, n_steps=each * 10_000, n_steps_per_epoch=each, show_progress=False,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(), save_interval=10_001,
        )  # fmt: skip

    def epoch(self) -> None:
        next(self.epochs)
        self.heat = 1.0
        values = _forward(self._layers(), self.log.observations)[:, self.seen]
        open_ = self.log.allowed[:, self.seen]
        allowed = np.where(open_, values, -np.inf)[open_.any(axis=1)]
        low, high = 1e-4, 1e4
        for _ in range(40):  # the heat at which the middle state's best choice has its share
            self.heat = float(np.sqrt(low * high))
            sure = float(np.median(_softmax(allowed / self.heat).max(axis=1)))
            low, high = (self.heat, high) if sure > USUAL_SHARE else (low, self.heat)

    def odds(self, observations: ndarray) -> ndarray:
        return _softmax(_forward(self._layers(), observations)[:, self.seen] / self.heat)

    def _layers(self) -> list[tuple[ndarray, ndarray]]:
        import torch

        linear = [m for m in self.algo.impl.q_function[0].modules() if isinstance(m, torch.nn.Linear)]
        return [(m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in linear]

    def kept(self) -> list[tuple[ndarray, ndarray]]:
        """Return weights and biases of the layers, the last one's for `actions` alone and divided by the heat."""
        *hidden, (weight, bias) = self._layers()
        return [*hidden, (weight[self.seen] / np.float32(self.heat), bias[self.seen] / np.float32(self.heat))]

    def chosen(self, kept: Any, observations: ndarray) -> ndarray:
        return np.asarray(_forward(kept, observations).argmax(axis=1))

    def onnx(self, kept: Any) -> Any:
        """Write the layers out: torch's own export would need another package."""
        from onnx import TensorProto, checker, helper, numpy_helper

        nodes, given, at = [], [], "X"
        for n, layer in enumerate(kept):
            names = [f"weight{n}", f"bias{n}"]
            given += [numpy_helper.from_array(each, name) for each, name in zip(layer, names, strict=True)]
            nodes.append(helper.make_node("Gemm", [at, *names], [f"sum{n}"], transB=1))
            if n < len(kept) - 1:
                nodes.append(helper.make_node("Relu", [f"sum{n}"], [f"out{n}"]))
            at = f"out{n}" if n < len(kept) - 1 else f"sum{n}"
        nodes.append(helper.make_node("ArgMax", [at], ["label"], axis=1, keepdims=0))
        nodes.append(helper.make_node("Softmax", [at], ["probabilities"], axis=1))
        read = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, self.log.observations.shape[1]])]
        told = [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, len(self.actions)]),
        ]
        graph = helper.make_graph(nodes, "cql", read, told, given)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        checker.check_model(model)
        return model


def _forward(layers: list[tuple[ndarray, ndarray]], rows: ndarray) -> ndarray:
    *hidden, (weight, bias) = layers
    for each, more in hidden:
        rows = np.maximum(rows @ each.T + more, 0)
    return np.asarray(rows @ weight.T + bias)


def _softmax(values: ndarray) -> ndarray:
    odds = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def scaled(rewards: ndarray) -> ndarray:
    """Return rewards in their own deviations, none more than FURTHEST."""
    deviation = float(rewards.std())
    return np.clip(rewards / deviation, -FURTHEST, FURTHEST) if deviation > 0 else rewards


def _d3rlpy() -> tuple[Any, Any]:
    try:
        import structlog

        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))  # stdout is --json's
        with redirect_stderr(io.StringIO()):  # gym says on every import that it is old
            import d3rlpy
        import torch
    except ImportError as e:
        raise InputError(f"--algo cql needs d3rlpy, which is not installed ({e}): {NEEDED}") from e
    return d3rlpy, torch
