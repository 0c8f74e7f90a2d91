"""What `train` learns: an edge where there is one, by a file that decides as the network that was trained."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest

from tasks.adapters.model.onnx_policy import OnnxDecider
from tasks.adapters.rl import learners, logged, training
from tasks.adapters.rl.learners import ConservativeQ, learner
from tasks.adapters.rl.logged import Logged
from tasks.core.errors import InputError
from tasks.core.lab import rl
from tests.benchmarks import policies


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `random` did on a market with an edge, over two months."""
    return policies.logged(tmp_path_factory.mktemp("learn") / "edge", 12, policies.DRIFT, 20_000)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_agent_finds_a_planted_edge_and_claims_none_where_there_is_none(tmp_path):
    """Three seeds, and cql, are the benchmark's: `python -m tests.benchmarks.policies --algos bc,iql,cql`."""
    seed, log = policies.SEEDS[0], policies.logged(tmp_path / "edge", policies.SEEDS[0], policies.DRIFT)
    clone, edge = (policies.agent(log, algo, seed, policies.DRIFT) for algo in ("bc", "iql"))
    none = policies.agent(policies.logged(tmp_path / "none", seed, 0.0, 40_000), "iql", seed, 0.0, n=20_000)
    assert edge["claimed"], edge
    assert edge["return_pct"] > max(3.0, clone["return_pct"]), edge
    assert not none["claimed"], none


def test_the_best_seed_by_validation_is_kept_and_said(data, tmp_path):
    report = training.train(data, tmp_path / "p.onnx", "iql", seeds=3, epochs=4)
    scores = {each["seed"]: each["score"] for each in report["seeds"]}
    assert len(scores) == 3
    assert report["seed"] == max(scores, key=scores.__getitem__)
    card = OnnxDecider(tmp_path / "p.onnx").card
    assert (card.algo, card.seed, card.rows) == ("iql", report["seed"], report["train"]["rows"])
    assert report["train"]["onnx_agrees"] == report["validation"]["onnx_agrees"] == 1
    assert card.parameters["OPEN_LONG"]["stop_atr"] == "1.5"


def test_it_stops_where_validation_gets_no_better(data, tmp_path, monkeypatch):
    seen = iter([1.0, 3.0, *[2.0] * 100])
    looked = []
    monkeypatch.setattr(training, "_score", lambda *_: looked.append(next(seen)) or looked[-1])
    report = training.train(data, tmp_path / "p.onnx", "bc", epochs=60)
    assert report["seeds"] == [{"seed": 0, "epochs": 2, "score": 3.0}]
    assert len(looked) == 2 + training.PATIENCE


def test_training_again_gives_the_same_file(data, tmp_path):
    for name in ("a", "b"):
        training.train(data, tmp_path / name, "iql", epochs=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_a_validation_it_learns_as_long_as_it_may(data, tmp_path):
    for split in rl.SPLITS:
        table = pq.read_table(data / f"{split}.parquet")
        pq.write_table(table if split == "train" else table.slice(0, 0), tmp_path / f"{split}.parquet")
    report = training.train(tmp_path, tmp_path / "p.onnx", "iql", epochs=3)
    assert report["seeds"] == [{"seed": 0, "epochs": 3, "score": None}]
    assert "validation" not in report


def test_rewards_count_in_deviations_and_none_counts_for_ever():
    assert np.array_equal(learners.scaled(np.zeros(3)), np.zeros(3))
    found = learners.scaled(np.r_[np.zeros(99), 1.0])
    assert found.max() == learners.FURTHEST


def test_an_unknown_algorithm_is_named(data):
    with pytest.raises(InputError, match="--algo dqn: there are bc, iql, cql"):
        learner("dqn", logged.read(data, ("train",)), 0)


@pytest.mark.skipif(find_spec("d3rlpy") is not None, reason="d3rlpy is here")
def test_without_d3rlpy_cql_says_in_a_line_what_to_install(data, tmp_path):
    needed = r"cql needs d3rlpy.*\$uv pip install torch && \$uv pip install --no-deps d3rlpy"
    with pytest.raises(InputError, match=needed):
        training.train(data, tmp_path / "p.onnx", "cql")
    assert not list(tmp_path.iterdir())


def by_hand(log: Logged) -> ConservativeQ:
    """A network of d3rlpy's form without d3rlpy: a state's first number is what OPEN_LONG is worth, less HOLD's."""
    made = object.__new__(ConservativeQ)
    made.log, made.heat, made.seen = log, 0.5, np.array([0, 1])
    made.actions = ["HOLD", "OPEN_LONG"]
    width = log.observations.shape[1]
    first, last = np.zeros((2, width), np.float32), np.zeros((len(rl.CHOICES), 2), np.float32)
    first[0, 0], first[1, 0] = 1, -1
    last[1] = [1, -1]
    last[5] = [9, 9]  # of an action that was never done
    made._layers = lambda: [(first, np.zeros(2, np.float32)), (last, np.zeros(len(rl.CHOICES), np.float32))]
    return made


def test_the_networks_of_cql_are_written_out_as_they_compute(data):
    log = logged.read(data, ("train",))
    made = by_hand(log)
    session = onnxruntime.InferenceSession(made.onnx(made.kept()).SerializeToString())
    label, odds = session.run(None, {"X": log.observations})
    gap = log.observations[:, 0] / made.heat
    assert np.allclose(odds[:, 1], 1 / (1 + np.exp(-gap)), atol=1e-5)
    assert np.allclose(odds, made.odds(log.observations), atol=1e-5)
    assert np.array_equal(label, made.chosen(made.kept(), log.observations))


def test_cql_is_usually_as_sure_of_its_choice_as_is_said(data):
    log = logged.read(data, ("train",))
    made = by_hand(log)
    made.epochs = iter([None])
    made.epoch()
    allowed = np.where(log.allowed[:, made.seen], made.odds(log.observations), 0.0)
    sure = np.median(allowed.max(axis=1) / allowed.sum(axis=1))
    assert sure == pytest.approx(learners.USUAL_SHARE, abs=0.05)


def test_states_in_which_nothing_it_knows_is_allowed_do_not_count(data):
    """A mask of minus infinities over all there is makes NaN of every share."""
    log = logged.read(data, ("train",))
    log.allowed[::3] = False
    made = by_hand(log)
    made.epochs = iter([None])
    made.epoch()
    assert 1e-3 < made.heat < 1e3


def test_a_file_of_the_last_release_without_an_algorithm_is_a_clone(data, tmp_path):
    import onnx

    training.train(data, tmp_path / "p.onnx", "iql", epochs=1)
    model = onnx.load(tmp_path / "p.onnx")
    [entry] = model.metadata_props
    card = json.loads(entry.value)
    entry.value = json.dumps({name: value for name, value in card.items() if name not in ("algo", "seed")})
    onnx.save(model, tmp_path / "old.onnx")
    assert OnnxDecider(tmp_path / "old.onnx").card.algo == "bc"
