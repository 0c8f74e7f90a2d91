"""`Quarterdeck-v0` is `backtest`, stepped: the same equity to the last digit, and rewards as the dataset has them."""

import asyncio
import gc
import math
import warnings
from collections import Counter
from datetime import timedelta
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from market_data import START, replace_after
from records_sample import BTC, bars

import tasks.adapters.rl
from tasks.adapters.rl.environment import TradingEnv
from tasks.core.decision.baselines import RandomDecider
from tasks.core.errors import InputError
from tasks.core.lab import rl
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tasks.core.types.record import CycleRecord

assert tasks.adapters.rl  # importing it registers the environment


@pytest.fixture(scope="module")
def env() -> TradingEnv:
    return TradingEnv(bars()[BTC], BTC)


@pytest.fixture(scope="module")
def replay(env: TradingEnv) -> tuple[Backtest, list[CycleRecord]]:
    """The same strategy over the same candles, by `backtest`'s own replay."""
    found: list[CycleRecord] = []
    market = {BTC: Market.from_base(BTC, bars()[BTC])}
    run = Backtest(market, RandomDecider("7"), env.strategy, on_record=found.append)
    return asyncio.run(run.run()), found


def episode(env: TradingEnv, decider: RandomDecider) -> list[tuple]:
    """Let a decider act through the environment; what every step gave."""
    seen, info = env.reset(seed=0)
    steps = []
    while env.question is not None:
        action = rl.ACTION_IDS[decider.choose(env.question).action]
        assert info["action_mask"][action]
        after, reward, terminated, truncated, info = env.step(action)
        steps.append((seen, action, reward, terminated, truncated, info))
        seen = after
    return steps


@pytest.fixture(scope="module")
def steps(env: TradingEnv) -> list[tuple]:
    return episode(env, RandomDecider("7"))


def test_gymnasiums_own_checker_finds_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("Quarterdeck-v0", candles=bars()[BTC], symbol=BTC, days=5)
        check_env(env.unwrapped)
    assert env.spec.id == "Quarterdeck-v0"


def test_a_policy_earns_in_it_what_it_earns_in_a_backtest_to_the_last_digit(env, steps, replay):
    run, records = replay
    assert len(steps) == len(records) > 100
    assert len(run.outcomes) > 20
    assert np.array_equal(env.replay.equity, run.equity)
    assert env.replay.account.dump() == run.account.dump()


def test_its_steps_are_the_datasets_transitions(steps, replay):
    _, records = replay
    plan = rl.SplitPlan(start=records[0].as_of, end=records[-1].as_of + timedelta(days=9000), embargo=timedelta(0))
    rows = [row for _, row in rl.transitions(records, plan, Counter())]
    assert len(rows) == len(steps) - 1, "the last one has no next decision"
    for row, (seen, action, reward, *_, info) in zip(rows, steps, strict=False):
        assert reward == row["reward"]
        assert action == row["asked_action_id"]
        assert (info["carried"], list(info["codes"])) == (row["action"], row["codes"])
        assert np.array_equal(seen, rl.policy_input(row["state"], row["state_unknown"])[0])


def test_rewards_add_up_to_what_the_account_grew(env, steps):
    *_, (_, _, _, terminated, truncated, info) = steps
    assert (terminated, truncated) == (False, True)
    assert info["equity"] == env.replay.equity[-1]
    assert sum(step[2] for step in steps) == pytest.approx(math.log(env.replay.equity[-1] / 10_000), abs=1e-12)


def test_what_the_guard_denies_is_hold_and_says_why(env):
    env.reset(seed=0)
    env.step(rl.ACTION_IDS["OPEN_LONG"])
    _, info = env.reset(seed=0)
    assert not info["action_mask"][rl.ACTION_IDS["CLOSE_ALL"]]
    *_, denied = env.step(rl.ACTION_IDS["CLOSE_ALL"])
    assert (denied["asked"], denied["carried"], denied["status"]) == ("CLOSE_ALL", "HOLD", "denied")
    assert denied["codes"]
    assert not env.replay.account.fills


def test_the_seed_picks_the_start_and_the_start_may_be_named():
    env = TradingEnv(bars()[BTC], BTC, days=4)
    starts = [env.reset(seed=seed)[1]["as_of"] for seed in (1, 1, 2, 3)]
    assert starts[0] == starts[1]
    assert len(set(starts)) == 3
    assert env.reset(options={"start": "2024-01-10"})[1]["as_of"] >= "2024-01-10"
    with pytest.raises(InputError, match="no decision falls between"):
        env.reset(options={"start": (env.end - timedelta(minutes=10)).isoformat()})


def test_after_one_seed_every_later_episode_follows_from_it():
    """Gymnasium's checker looked at the first reset alone."""
    envs = [TradingEnv(bars()[BTC], BTC, days=2) for _ in range(2)]
    starts = [[env.reset(seed=seed)[1]["as_of"] for seed in (5, None, None)] for env in envs]
    assert starts[0] == starts[1]
    assert len(set(starts[0])) == 3


def test_an_observation_stays_what_it_was(env):
    """One that is a view of a buffer passes any check that compares it with itself."""
    seen, _ = env.reset(seed=0)
    kept = seen.copy()
    env.step(1)
    assert np.array_equal(seen, kept)
    seen[:] = 0
    assert not np.array_equal(env.reset(seed=0)[0], seen)


def test_nothing_of_a_later_market_is_in_what_was_seen_or_earned_before_it(env):
    """Bars named by their start, and rewards of the step before, made agents see the future elsewhere."""
    cut = START + timedelta(days=12)
    other = TradingEnv(replace_after(bars()[BTC], cut, seed=8), BTC, strategy=env.strategy)
    found = []
    for each in (env, other):
        steps = episode(each, RandomDecider("7"))
        found.append([step for step in steps if step[5]["as_of"] and step[5]["as_of"] <= cut.isoformat()])
    assert len(found[0]) == len(found[1]) > 50
    for ours, theirs in zip(*found, strict=True):
        assert np.array_equal(ours[0], theirs[0])
        assert (ours[1], ours[2], ours[5]["equity"]) == (theirs[1], theirs[2], theirs[5]["equity"])


def test_several_run_side_by_side_and_leave_the_process_as_it_was():
    before = gc.get_threshold()
    some = gymnasium.make_vec("Quarterdeck-v0", 2, "sync", candles=bars()[BTC], symbol=BTC, days=2)
    seen, _ = some.reset(seed=1)
    alone = TradingEnv(bars()[BTC], BTC, days=2)
    assert np.array_equal(seen[0], alone.reset(seed=1)[0])
    for action in (1, 0, 0):
        after, rewards, *_ = some.step(np.array([action, 0]))
        one, reward, *_ = alone.step(action)
        assert (np.array_equal(after[0], one), rewards[0]) == (True, reward)
    some.close()
    alone.close()
    assert gc.get_threshold() == before


def test_an_account_that_is_ruined_terminates(env, monkeypatch):
    env.reset(seed=0)
    sent = env._sent
    monkeypatch.setattr(env, "_sent", lambda answers: sent(answers) and setattr(env, "_equity", -1.0) is None)
    _, reward, terminated, truncated, _ = env.step(0)
    assert (reward, terminated, truncated) == (rl.RUIN, True, False)
    with pytest.raises(InputError, match="reset the environment"):
        env.step(0)


def test_a_file_is_read_as_backtest_reads_it_and_what_does_not_fit_is_refused(tmp_path: Path):
    path = tmp_path / "btc.parquet"
    frame = bars()[BTC].reset_index(names="ts")
    frame.assign(ts=frame["ts"].astype("datetime64[ms, UTC]").astype("int64")).to_parquet(path)
    env = TradingEnv(path, BTC)
    assert env.strategy == TradingEnv(bars()[BTC], BTC).strategy
    env.reset(seed=0)
    env.step(1)
    with pytest.raises(InputError, match="days=4000: the candles are from 2024-01-01"):
        TradingEnv(path, BTC, days=4000).reset(seed=0)
