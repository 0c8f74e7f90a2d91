"""`quarterdeck ope`: on records of a decider that tries things; what cannot be answered is refused in a line."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from market_data import walk
from records_sample import BTC, lines
from replayed import backtest

from deployments.cli import cli
from tasks.adapters.files import dataset
from tasks.adapters.rl import logged, off_policy
from tasks.core.decision.baselines import RandomDecider
from tasks.core.errors import InputError
from tasks.core.lab import ope, rl
from tasks.core.market.market import Market


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `random` did on half a year of candles."""
    folder = tmp_path_factory.mktemp("ope")
    market = {BTC: Market.from_base(BTC, walk(24_000, seed=5, price=60_000))}
    with (folder / "records.jsonl").open("wb") as file:
        asyncio.run(backtest(market, RandomDecider("1"), on_line=file.write).run())
    dataset.export(dataset.file_source(folder), folder / "data")
    return folder / "data"


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["ope", *map(str, words)])


def refusal(*words: object) -> str:
    """What the command refuses, in one line."""
    failed = run(*words).exception
    assert isinstance(failed, InputError)
    assert "\n" not in str(failed)
    return str(failed)


def test_four_estimates_with_intervals_and_a_picture(data, tmp_path):
    picture = tmp_path / "overlap.png"
    result = run("--records", data, "--policy", "hold", "--split", "train", "--horizon", 2, "--plot", picture, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert set(said["estimates"]) == set(ope.METHODS)
    for each in said["estimates"].values():
        assert each["low"] < each["estimate"] < each["high"]
    assert said["overlap"]["effective_n"] > 50
    assert said["overlap"]["agreeing"] == pytest.approx(0.5, abs=0.05), "`random` holds half of the time"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(
        run("--records", data, "--policy", "hold", "--split", "train", "--horizon", 2).stdout.splitlines()
    ) == len(said)


def test_the_behaviour_itself_has_what_it_earned(data):
    found = off_policy.evaluate(data, "random", ("train",), 3, 50)
    assert found["overlap"]["agreeing"] == pytest.approx(0.35, abs=0.1)
    assert found["overlap"]["effective_n"] == pytest.approx(found["overlap"]["episodes"])
    assert found["estimates"]["is"]["estimate"] == pytest.approx(found["behaviour"]["estimate"])


def test_thin_overlap_is_refused_but_drawn(data, tmp_path):
    picture = tmp_path / "new" / "overlap.png"
    assert "episodes is below 50" in refusal("--records", data, "--policy", "hold", "--horizon", 9, "--plot", picture)
    assert picture.is_file()


def test_a_behaviour_that_never_tries_anything_is_refused_with_the_way_to_propensities(tmp_path):
    (tmp_path / "records.jsonl").write_text(lines())
    dataset.export(dataset.file_source(tmp_path), tmp_path / "data")
    said = refusal("--records", tmp_path / "data", "--policy", "hold")
    assert all(words in said for words in ("always does the same", "`random`", "--votes K"))


def test_a_policy_that_a_row_cannot_ask_is_refused(data):
    for name in ("rules", "llm:single", "model:"):
        assert "quarterdeck compare" in refusal("--records", data, "--policy", name)


def test_steps_whose_propensity_nobody_knows_are_in_no_episode(data, tmp_path):
    table = pq.read_table(data / "train.parquet")
    kinds = table["asked_propensity_kind"].to_pylist()
    kinds[6] = None
    shares = table["asked_propensity"].to_pylist()
    shares[6] = None
    for name, values in (("asked_propensity_kind", kinds), ("asked_propensity", shares)):
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    pq.write_table(table, tmp_path / "train.parquet")
    log = logged.read(tmp_path, ("train",))
    episodes, unknown = off_policy.episodes_of(log, off_policy.policy_of("hold"), 3)
    assert unknown == 1
    assert np.array_equal(episodes.actions[:3], [log.asked[0:3], log.asked[3:6], log.asked[7:10]])


def test_a_log_is_read_in_order_and_knows_where_it_breaks(data):
    log = logged.read(data, rl.SPLITS)
    assert log.starts.sum() == 3, "one run in each split"
    assert np.array_equal(log.observations[1], log.next_observations[0])
    assert log.reward == "reward_symbol"
    assert log.allowed[:, off_policy.HOLD].all()
    assert not log.deterministic
