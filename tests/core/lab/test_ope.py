"""Off-policy evaluation: estimators against values worked out by hand, and intervals that hold the truth."""

from collections.abc import Callable

import numpy as np
import pytest

from tasks.core.errors import InputError
from tasks.core.lab import ope
from tasks.core.lab.ope import Episodes, cut, evaluate, overlap

ACTIONS, HORIZON = 3, 3


class World:
    """A market of a few numbers that an action pushes: what a step earns is linear in them, for each action its own."""

    def __init__(self, seed: int = 0, mix: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.pays = rng.normal(0, 1, (ACTIONS, 4))
        self.moves = rng.normal(0, 0.3, (ACTIONS, 4, 4))
        self.likes = rng.normal(0, 0.3, (ACTIONS, 4))  # of the behaviour
        self.wants = rng.normal(0, 0.5, (ACTIONS, 4)) * (not mix)  # of the policy, in which it follows the state
        self.bias = np.array([1.0, 0.0, -1.0]) * mix

    def behaves(self, states: np.ndarray) -> np.ndarray:
        return self.softmax(states @ self.likes.T)

    def follows(self, states: np.ndarray) -> np.ndarray:
        return self.softmax(states @ self.wants.T + self.bias)

    @staticmethod
    def softmax(scores: np.ndarray) -> np.ndarray:
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def rolled(
        self, rng: np.random.Generator, n: int, acting: Callable[[np.ndarray], np.ndarray]
    ) -> dict[str, np.ndarray]:
        state, steps = rng.normal(0, 1, (n, 4)), []
        for _ in range(HORIZON):
            odds = acting(state)
            action = (odds.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
            reward = np.einsum("nd,nd->n", state, self.pays[action]) + rng.normal(0, 1, n)
            following = np.einsum("nij,nj->ni", self.moves[action], state) + rng.normal(0, 0.5, (n, 4))
            steps.append((state, following, action, odds[np.arange(n), action], reward))
            state = following
        names = ("states", "next_states", "actions", "propensity", "rewards")
        return {name: np.stack(part, axis=1) for name, part in zip(names, zip(*steps, strict=True), strict=True)}

    def logged(self, seed: int, n: int) -> Episodes:
        log = self.rolled(np.random.default_rng(seed), n, self.behaves)
        chances = {
            name: np.stack([self.follows(each) for each in log[states].swapaxes(0, 1)], axis=1)
            for name, states in (("policy", "states"), ("next_policy", "next_states"))
        }
        ended, alive = np.zeros((n, HORIZON), bool), np.ones((n, HORIZON), bool)
        return Episodes(**log, **chances, ended=ended, alive=alive)

    def value(self) -> float:
        return float(self.rolled(np.random.default_rng(99), 400_000, self.follows)["rewards"].sum(axis=1).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("wants", "methods"), [("state", ("is", "wis", "dr")), ("mix", ope.METHODS)])
def test_intervals_hold_the_truth_in_at_least_90_of_100_sets(wants, methods):
    """A policy that follows the state makes values that are not linear in it, and FQE promises nothing there."""
    world = World(mix=wants == "mix")
    truth, held, widths = world.value(), dict.fromkeys(methods, 0), dict.fromkeys(methods, 0.0)
    behaviour = float(world.rolled(np.random.default_rng(98), 400_000, world.behaves)["rewards"].sum(axis=1).mean())
    for seed in range(100):
        found = evaluate(world.logged(seed, 1000), draws=60)
        for method in methods:
            each = found.estimates[method]
            held[method] += each.low <= truth <= each.high
            widths[method] += (each.high - each.low) / 100
    assert min(held.values()) >= 90, (held, widths, truth)
    assert widths["dr"] < widths["is"]
    assert abs(truth - behaviour) > widths["dr"] / 2, "the log's own mean would have been outside"


def one(weight: float = 1.0, **changed: object) -> Episodes:
    """Two episodes of two steps, of two actions; the policy always takes the second."""
    states = np.array([[[0.0], [1.0]], [[2.0], [3.0]]])
    policy = np.tile([0.0, 1.0], (2, 2, 1))
    given: dict = {
        "states": states, "next_states": states + 1, "actions": np.array([[1, 1], [1, 0]]),
        "propensity": np.array([[0.5, 0.25], [0.5, 0.75]]), "rewards": np.array([[1.0, 2.0], [4.0, 8.0]]),
        "ended": np.zeros((2, 2), bool), "alive": np.ones((2, 2), bool), "policy": policy, "next_policy": policy,
    }  # fmt: skip
    return Episodes(**given | changed)


def test_weights_are_products_of_how_much_likelier_the_policy_is():
    assert one().weights.tolist() == [[2.0, 8.0], [2.0, 0.0]]
    # is: (2*1 + 8*2 + 2*4 + 0*8) / 2; wis: (2*1 + 2*4)/4 + (8*2)/8
    assert ope._is(one()).mean() == 13.0
    assert ope._wis(one(), np.ones(2)) == pytest.approx(4.5)


def test_the_effective_sample_size_is_what_is_left_of_the_episodes():
    found = overlap(one())
    assert (found.episodes, found.effective_n, found.by_step) == (2, 1.0, (2.0, 1.0))
    assert (found.agreeing, found.largest_weight) == (0.75, 1.0)
    assert ope.effective_n(np.zeros(3)) == 0.0


def test_thin_overlap_is_refused_with_its_size():
    with pytest.raises(InputError, match=r"effective sample size 1\.0 of 2 episodes is below 50.*--horizon"):
        evaluate(one())


def test_a_policy_that_the_behaviour_never_follows_has_no_evidence():
    world = World()
    log = world.logged(0, 200)
    never = np.zeros_like(log.policy)
    never[..., 2] = 1.0
    log = log[~(log.actions == 2).any(axis=1)]
    with pytest.raises(InputError, match=r"effective sample size 0\.0"):
        evaluate(Episodes(**vars(log) | {"policy": never[: len(log)], "next_policy": never[: len(log)]}))


def test_the_behaviour_evaluated_by_itself_is_what_it_earned():
    world = World()
    world.follows = world.behaves
    log = world.logged(1, 500)
    found = evaluate(log, draws=50)
    for method in ("is", "wis"):
        assert found.estimates[method].estimate == pytest.approx(found.behaviour.estimate)
    assert found.overlap.effective_n == pytest.approx(500)
    assert found.behaviour.estimate == pytest.approx(log.rewards.sum(axis=1).mean())


def test_dr_is_right_where_the_regression_is_not():
    """What pays is a square of the state: FQE, linear, misses what DR corrects."""
    rng = np.random.default_rng(3)
    n = 4000
    states = rng.normal(0, 1, (n, 1, 1))
    actions = rng.integers(0, 2, (n, 1))
    wants = (states[..., 0] > 1).astype(int)  # where it pays
    rewards = np.where(actions == 1, states[..., 0] ** 2 - 1, 0.0)
    policy = np.eye(2)[wants]
    flat = np.zeros((n, 1), bool)
    log = Episodes(states, states, actions, np.full((n, 1), 0.5), rewards, flat, ~flat, policy, policy)
    truth = float(np.where(wants == 1, states[..., 0] ** 2 - 1, 0.0).mean())
    found = evaluate(log, draws=50).estimates
    assert found["dr"].low <= truth <= found["dr"].high
    assert not found["fqe"].low <= truth <= found["fqe"].high


def test_runs_are_cut_into_episodes_and_a_ruin_is_kept():
    columns = dict.fromkeys(("states", "next_states", "policy", "next_policy"), np.arange(7)[:, None])
    log: dict = columns | {"actions": np.zeros(7, int), "propensity": np.ones(7), "rewards": np.arange(7.0)}
    starts = np.array([1, 0, 0, 1, 0, 0, 0], bool)
    ended = np.array([0, 0, 0, 0, 0, 0, 1], bool)
    found = cut(log | {"ended": ended}, starts, 3)
    assert found.states[..., 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert found.alive.tolist() == [[True] * 3, [True] * 3, [True, False, False]]
    assert found.rewards.tolist() == [[0, 1, 2], [3, 4, 5], [6, 0, 0]]
    assert len(cut(log | {"ended": np.zeros(7, bool)}, starts, 3)) == 2
