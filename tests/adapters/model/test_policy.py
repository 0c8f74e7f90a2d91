"""A policy cloned from a dataset: what it learns, what it refuses, and that a replay with it is the same every time."""

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import panel_cases
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from model_server import ModelServer, Reply
from records_sample import BTC, bars, lines

from deployments.cli import cli
from flows.export import train as train_flow
from tasks.adapters.deciders import build
from tasks.adapters.files import dataset
from tasks.adapters.model.onnx_policy import OnnxDecider, choose
from tasks.adapters.rl import training
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError
from tasks.core.lab import rl
from tasks.core.simulation.paid_replies import Probe
from tasks.core.types.question import Question
from tasks.settings import load


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    (folder / "records.jsonl").write_text(lines())
    dataset.export(dataset.file_source(folder), folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def policy(data: Path) -> Path:
    training.train(data, data.parent / "policy.onnx")
    return data.parent / "policy.onnx"


@pytest.fixture(scope="module")
def candles(data: Path) -> Path:
    path = data.parent / "btc.parquet"
    frame = bars()[BTC].reset_index(names="ts")
    frame.assign(ts=frame["ts"].astype("datetime64[ms, UTC]").astype("int64")).to_parquet(path)
    return path


def question(**fields: object) -> Question:
    one = panel_cases.question()
    limits = one.snapshot.constraints.model_copy(update=fields)
    return one.model_copy(update={"snapshot": one.snapshot.model_copy(update={"constraints": limits})})


def decided(decider: object, about: Question):
    [answer] = asyncio.run(decider.decide([about]))
    return answer


def edited(policy: Path, folder: Path, **changes: object) -> Path:
    """A copy of the policy whose card says otherwise."""
    import onnx

    model = onnx.load(policy)
    [entry] = model.metadata_props
    entry.value = json.dumps(json.loads(entry.value) | changes)
    onnx.save(model, folder / "edited.onnx")
    return folder / "edited.onnx"


def test_it_imitates_better_than_doing_nothing_and_is_what_was_trained(data, tmp_path):
    report = training.train(data, tmp_path / "p.onnx", epochs=100)
    assert report["train"]["acted_alike"] > 0.5
    assert report["train"]["accuracy"] > report["train"]["hold_share"]
    assert report["train"]["onnx_agrees"] == report["validation"]["onnx_agrees"] == 1


def test_the_form_trains_on_the_newest_dataset_in_home(data, home):
    with pytest.raises(InputError, match="exports: no dataset is there; run `export` first"):
        train_flow.fn()
    for name in ("2026-01-01_000000", "2026-01-02_000000"):
        shutil.copytree(data, home / "exports" / name)
    (home / "exports" / "2026-01-01_000000" / "train.parquet").unlink()
    shown = train_flow.fn()
    [written] = (home / "policies").glob("*.onnx")
    assert written.name in json.dumps(shown, default=str)


def test_training_again_makes_the_same_file(data, policy, tmp_path):
    training.train(data, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == policy.read_bytes()


def test_it_acts_with_the_behaviours_usual_numbers(policy):
    told = OnnxDecider(policy).card.parameters["OPEN_LONG"]
    assert (told["size_pct"], told["stop_atr"], told["tp_atr"]) == ("20", "1.5", "3")
    assert told["followups"] == ["MOVE_STOP: breakeven on +1.0R"]
    assert told["entry"] == {"type": "market", "offset_bps": "0"}


def test_what_is_not_allowed_is_never_chosen(policy):
    decider = OnnxDecider(policy)
    rng = np.random.default_rng(0)
    rows = rl.policy_input(rng.uniform(-1, 1, (500, len(rl.COMPONENTS))), np.zeros((500, 55)))
    odds = decider.probabilities(rows)
    assert {decider.card.actions[best] for best in odds.argmax(axis=1)} & {"OPEN_LONG", "OPEN_SHORT"}
    nothing = [action == "HOLD" for action in rl.ACTION_IDS]
    assert {choose(decider.card.actions, each, nothing)[0] for each in odds} == {"HOLD"}
    assert decided(decider, question(allowed_actions=())).decision.action == "HOLD"


@pytest.mark.parametrize(
    ("odds", "chosen"),
    [
        ((0.7, 0.2, 0.1), ("HOLD", pytest.approx(2 / 3))),
        ((1.0, 0.0, 0.0), ("HOLD", 0.0)),
        ((float("nan"), 0.5, 0.5), ("HOLD", 0.5)),
        ((0.1, float("nan"), 0.5), ("HOLD", 0.0)),
    ],
)
def test_confidence_is_the_share_of_what_is_allowed(odds, chosen):
    only_hold_and_close = [action in ("HOLD", "CLOSE_ALL") for action in rl.ACTION_IDS]
    assert choose(("OPEN_LONG", "HOLD", "CLOSE_ALL"), np.array(odds), only_hold_and_close) == chosen


def test_an_answer_says_which_file_gave_it(policy):
    answer = decided(build(f"model:{policy}", load()), question())
    assert answer.model == OnnxDecider(policy).mark
    assert answer.model.startswith("policy.onnx@")
    assert (answer.source, answer.decision.source, answer.rung) == (f"model:{answer.model}",) * 2 + ("primary",)


def test_a_policy_of_another_spec_is_refused_with_both_names(policy, tmp_path):
    path = edited(policy, tmp_path, spec="state-v0", spec_sha256="ab" * 32)
    with pytest.raises(InputError, match=f"state state-v0 abababababab, this is state-v1 {rl.SPEC_SHA256[:12]}"):
        OnnxDecider(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"actions": ["LEVERAGE_UP"]}, "not one of `quarterdeck train`'s"), ({"rows": "many"}, "not one of"),
     ({"parameters": {}}, "not one of")],
)  # fmt: skip
def test_a_card_that_cannot_be_acted_on_is_refused(policy, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        OnnxDecider(edited(policy, tmp_path, **changes))


def test_what_is_no_policy_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(InputError, match="not an ONNX model that can be run"):
        build(f"model:{tmp_path / 'text.onnx'}", load())
    with pytest.raises(InputError, match="No such file"):
        build("model:/nowhere.onnx", load())


def test_data_of_another_spec_or_without_an_action_is_refused(data, tmp_path):
    table = pq.read_table(data / "train.parquet")
    pq.write_table(table.replace_schema_metadata({"spec_sha256": "cd" * 32}), tmp_path / "train.parquet")
    with pytest.raises(InputError, match="its state is cdcdcdcdcdcd, this is state-v1"):
        training.train(tmp_path, tmp_path / "p.onnx")
    held = table.filter(np.array(table["action"].to_pylist()) == "HOLD")
    for split in ("train", "validation"):
        pq.write_table(held, tmp_path / f"{split}.parquet")
    with pytest.raises(InputError, match=r"knows 1 action\(s\) only"):
        training.train(tmp_path, tmp_path / "p.onnx")
    with pytest.raises(InputError, match=r"has no train.parquet"):
        training.train(tmp_path / "nothing", tmp_path / "p.onnx")


# --- through the replay


def fingerprint(candles: Path, decider: str) -> str:
    arguments = ["backtest", "--candles", str(candles), "--symbol", BTC, "--decider", decider, "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["calls"] > 100
    return said["fingerprint"]


def test_a_replay_of_the_policy_has_the_same_fingerprint_again(candles, policy):
    assert fingerprint(candles, f"model:{policy}") == fingerprint(candles, f"model:{policy}")


@pytest.mark.parametrize(
    "name",
    ["ensemble:rules+model:{}", "ensemble:vote:rules=1,hold=0.5,model:{}=1", "ensemble:pick:model:{},rules,random:3"],
)
def test_an_ensemble_with_the_policy_replays(candles, policy, name):
    assert fingerprint(candles, name.format(policy)) != fingerprint(candles, "rules")


def test_the_model_is_asked_only_when_the_policy_would_act(policy, tmp_path, sqlite_template):
    with ModelServer(default=Reply("not even JSON")) as server:
        settings = load(model=("openai/test",), model_base_url=server.url, home=tmp_path)
        decider = build(f"ensemble:llm:single+model:{policy}", settings)
        assert decided(decider, question(allowed_actions=("HOLD",))).decision.action == "HOLD"
        assert server.requests == []
        assert [prompt.name for prompt in decider.prompts] == ["single", "model"], "through its ladder"


@pytest.mark.parametrize(
    "name",
    ["rules", "rules+", "+rules", "vote:rules=1", "vote:rules=1,hold", "vote:rules=1,hold=0", "vote:rules=1,hold=NaN",
     "vote:rules=1,ensemble:rules+hold=1", "rules+nobody", "pick:rules,hold,random", "pick:model:x.onnx,rules"],
)  # fmt: skip
def test_a_name_of_no_ensemble_says_how_to_write_one(name):
    with pytest.raises(InputError, match=r"write CHOOSER|weight|unknown|picks among"):
        build(f"ensemble:{name}", load())


def test_train_is_a_command(data, tmp_path, home):
    out = tmp_path / "p.onnx"
    result = CliRunner().invoke(cli, ["train", "--records", str(data), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["decider"] == OnnxDecider(out).name


def test_an_ensemble_that_asks_a_model_costs_money_and_names_its_prompts(policy):
    name = f"ensemble:llm:single@v001+model:{policy}"
    assert kind_of(name).asks_model
    assert not kind_of(f"ensemble:rules+model:{policy}").asks_model
    assert [prompt.name for prompt in build(name, load(), model=Probe()).prompts] == ["single", "model"]
