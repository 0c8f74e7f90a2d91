"""The dataset on disk: whole or not at all, the same every time, and what others' libraries make of it."""

import gzip
import hashlib
import json
import math
import re
from datetime import datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from records_sample import BTC, ETH, bars, future, lines, records
from store_samples import AT, a_cycle

from deployments.cli import cli
from tasks.adapters.files import dataset
from tasks.adapters.files.conversations import head
from tasks.adapters.files.minari import episodes, reference_scores
from tasks.adapters.store.shadow import CHAMPION
from tasks.adapters.store.store import Store
from tasks.core.decision.actions import parse_reply
from tasks.core.errors import InputError
from tasks.core.lab import rl
from tasks.core.lab.action_values import HORIZON
from tasks.core.types.decision import ACTIONS, Answer, ModelCall, hold
from tasks.core.types.record import CycleRecord, CycleStatus, ShadowDecision


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "records.jsonl"
    path.write_text(lines())
    return path


@pytest.fixture(scope="module")
def exported(file: Path) -> Path:
    out = file.parent / "dataset"
    dataset.export(dataset.file_source(file.parent), out, ("minari", "d3rlpy"))
    return out


def table(folder: Path) -> pd.DataFrame:
    return pd.concat([pq.read_table(folder / f"{split}.parquet").to_pandas() for split in rl.SPLITS])


def test_every_decision_is_a_step_or_left_out_for_a_reason(exported):
    card = json.loads((exported / "card.json").read_text())
    assert card["transitions"] == len(table(exported)) > 200
    assert card["transitions"] + sum(card["left_out"].values()) == len(records())
    assert set(card["left_out"]) <= {"purged", "embargoed", "no_next"}
    assert set(card["symbol"]) == {BTC, ETH}


def test_the_symbols_rewards_add_up_to_the_accounts(file, tmp_path, monkeypatch):
    monkeypatch.setattr(rl.SplitPlan, "split_of", lambda *_: "train")
    dataset.export(dataset.file_source(file), tmp_path / "all")
    rows = table(tmp_path / "all")
    assert rows["reward_symbol"].notna().all()
    last = max(records(), key=lambda r: (r.as_of, r.symbol)).state.equity
    assert rows["reward_symbol"].sum() == pytest.approx(math.log(float(last) / 10_000), abs=1e-3)
    traded = rows[rows["entry_cycle_id"].notna()]
    assert len(traded) > 10
    assert set(traded["entry_cycle_id"]) <= {r.cycle_id for r in records() if any(not i.reduce_only for i in r.intents)}


def test_the_columns_say_which_spec_they_are_of(exported):
    schema = pq.read_schema(exported / "train.parquet")
    assert schema.metadata[b"spec_sha256"].decode() == rl.SPEC_SHA256
    assert schema.field("state").type.list_size == len(rl.COMPONENTS)
    rows = table(exported)
    allowed = np.stack(rows["allowed"])
    assert allowed[np.arange(len(rows)), rows["action_id"]].all(), "what the guard let through was allowed"


def test_the_card_is_for_people_too_and_knows_every_file(exported):
    card, text = json.loads((exported / "card.json").read_text()), (exported / "README.md").read_text()
    for name, digest in card["sha256"].items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest
        assert digest in text
    assert {"train.parquet", "validation.parquet", "test.parquet"} <= set(card["sha256"])
    assert rl.SPEC_SHA256 in text
    assert "What not to believe" in text


def test_the_same_records_make_the_same_bytes(file, tmp_path):
    packed = tmp_path / "records.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    first = dataset.export(dataset.file_source(file), tmp_path / "a")
    second = dataset.export(dataset.file_source(packed), tmp_path / "b")
    assert first["sha256"] == second["sha256"]


@pytest.mark.parametrize("folder", ["exported", "for_models"])
def test_the_cards_snippets_run_as_written_where_their_library_is_here(request, folder, monkeypatch):
    """Those of d3rlpy, datasets and TRL are run by hand: they bring torch."""
    where = request.getfixturevalue(folder)
    monkeypatch.chdir(where)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")  # to be as it was afterwards
    ran = []
    for code in re.findall(r"```python\n(.*?)```", (where / "README.md").read_text(), re.DOTALL):
        wanted = set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
        if all(map(find_spec, wanted)):
            exec(compile(code, "README.md", "exec"), {})
            ran += wanted
    assert "pandas" in ran
    assert ("minari" in ran) == (folder == "exported")


def test_the_card_counts_what_was_open_asked_for_and_done(exported):
    card, rows = json.loads((exported / "card.json").read_text()), table(exported)
    allowed = np.stack(rows["allowed"]).sum(axis=0)
    for k, action in enumerate(rl.CHOICES):
        each = card["overlap"]["actions"].get(action, {"allowed": 0, "asked": 0, "taken": 0})
        counted = (allowed[k], (rows["asked_action"] == action).sum(), (rows["action"] == action).sum())
        assert (each["allowed"], each["asked"], each["taken"]) == counted
    assert card["overlap"]["kinds"] == {"deterministic": len(rows)}
    assert (card["overlap"]["drawn"], card["overlap"]["effective_n"]) == (0, 0.0), "rules leave nothing to chance"
    held = 100 * card["action"]["HOLD"] / len(rows)
    assert f"{held:.0f} % of the actions are HOLD" in (exported / "README.md").read_text()


def test_the_effective_sample_is_all_of_it_where_each_allowed_action_was_as_likely():
    """And next to nothing where one of them was one in a hundred and came up once."""
    overlap = dataset._Overlap()
    row = {"asked_action": "HOLD", "action": "HOLD", "asked_propensity_kind": "vote_share"}
    row |= {"allowed": [True, True, *[False] * 9], "action_value_r": [None] * 11}
    overlap.add([row | {"asked_propensity": 0.5}] * 10)
    assert overlap.summary()["effective_n"] == pytest.approx(10)
    overlap.add([row | {"asked_propensity": 0.01}])
    assert overlap.summary()["effective_n"] == pytest.approx(60**2 / (10 + 2500))


def test_rows_are_written_in_batches_however_many_there_are(file, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "BATCH", 50)
    waiting: list[int] = []
    add = dataset._Writer.add

    def watched(writer: dataset._Writer, split: str, row: dict[str, object]) -> None:
        add(writer, split, row)
        waiting.append(max(map(len, writer.waiting.values())))

    monkeypatch.setattr(dataset._Writer, "add", watched)
    dataset.export(dataset.file_source(file), tmp_path / "out")
    assert max(waiting) < 50
    groups = pq.ParquetFile(tmp_path / "out" / "train.parquet").metadata
    assert groups.num_row_groups == math.ceil(groups.num_rows / 50) > 2


# --- what language models are trained on


def spoken() -> tuple[CycleRecord, ...]:
    """The sample's decisions as if a model had been asked for them and said just that."""
    return tuple(map(_by_model, records()))


def _by_model(record: CycleRecord) -> CycleRecord:
    decision = record.decided.decision.replace(source="llm:m")
    reply = decision.model_dump_json(exclude={"source", "read_as"})
    asked = ({"role": "system", "content": "You trade."}, {"role": "user", "content": str(record.as_of)})
    call = ModelCall(role="single", model="m", messages=asked, raw_reply=reply)
    decided = Answer(decision=decision, source="llm:m", rung="primary", model="m", calls=(call,))
    return record.replace(decided=decided, decider="llm:single")


@pytest.fixture(scope="module")
def for_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoken")
    (folder / "records.jsonl").write_text("".join(record.model_dump_json() + "\n" for record in spoken()))
    source = dataset.file_source(folder)
    dataset.export(source._replace(future=future(bars())), folder / "out", ("sft", "dpo", "kto", "grpo"))
    return folder / "out"


def examples(folder: Path, name: str) -> dict[str, list[dict]]:
    found = {split: (folder / name / f"{split}.jsonl").read_text().splitlines() for split in rl.SPLITS}
    return {split: [json.loads(line) for line in lines] for split, lines in found.items()}


@pytest.mark.parametrize("name", ["sft", "kto", "grpo"])
def test_the_head_of_a_folder_names_the_files_that_have_examples_and_every_columns_type(for_models, name):
    """As `datasets` reads it, which guesses types by the first file and fails on empty ones."""
    kinds = {"string": str, "float64": float, "bool": bool}
    _, top, _ = (for_models / name / "README.md").read_text().split("---\n")
    told, found = yaml.safe_load(top), examples(for_models, name)
    [files], [types] = (part for part in (told["configs"], told["dataset_info"]))
    assert [each["path"] for each in files["data_files"]] == [f"{s}.jsonl" for s, rows in found.items() if rows]
    assert len(found["train"]) > 50
    for row in found["train"] + found["test"]:
        assert row.keys() == {each["name"] for each in types["features"]}
        for each in types["features"]:
            assert isinstance(row[each["name"]], kinds[each["dtype"]] if "dtype" in each else list)


def test_other_files_have_another_name_or_a_cache_would_give_the_wrong_ones(for_models, tmp_path):
    """`datasets` keeps what it has read under the names of folder and configuration, whatever is in the files."""
    for folder, text in (("one", "a"), ("two", "b"), ("three", "a")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text(text)
    one, two, three = (head(tmp_path / each, "sft", {"train": "train.jsonl"}) for each in ("one", "two", "three"))
    assert one == three != two
    assert head(tmp_path, "sft", {}) == "", "there is nothing to load"
    assert (for_models / "README.md").read_text().startswith("---\nconfigs:\n- config_name: rows-")


def test_every_reply_reads_back_as_the_decision_of_its_cycle(for_models):
    wanted = {record.cycle_id: record.decided.decision for record in spoken()}
    rows = [row for split in examples(for_models, "sft").values() for row in split]
    for row in rows:
        read = parse_reply(row["completion"][0]["content"], row["symbol"])
        assert read.replace(source="") == wanted[row["cycle_id"]].replace(source="")
    assert len(rows) == len({row["cycle_id"] for row in rows}) > 100


def test_examples_are_split_by_time_as_rows_are_and_no_value_looks_across_a_cut(for_models):
    card = json.loads((for_models / "card.json").read_text())
    train, validation = (datetime.fromisoformat(cut) for cut in card["cuts"])
    times = {
        split: [datetime.fromisoformat(row["as_of"]) for row in rows]
        for split, rows in examples(for_models, "grpo").items()
    }
    assert max(times["train"]) + HORIZON <= train
    assert min(times["validation"]) >= train + timedelta(seconds=card["embargo_s"])
    assert min(times["test"]) >= validation + timedelta(seconds=card["embargo_s"])
    assert card["examples"]["grpo"] == {split: len(found) for split, found in times.items()}
    assert sum(card["examples"]["sft"].values()) + sum(card["examples_left_out"].values()) == len(records())


def test_the_embargo_is_as_long_as_the_longest_trade(for_models):
    card = json.loads((for_models / "card.json").read_text())
    assert card["embargo_s"] == rl.longest_trade(records()).total_seconds() > 3600


def test_no_pairs_are_an_empty_file(for_models):
    assert [(for_models / "dpo" / f"{split}.jsonl").read_text() for split in rl.SPLITS] == ["", "", ""]


def test_records_of_who_asks_no_model_have_no_examples_and_say_why(file, tmp_path):
    card = dataset.export(dataset.file_source(file), tmp_path / "out", ("sft",))
    assert card["examples"] == {"sft": dict.fromkeys(rl.SPLITS, 0)}
    told = (tmp_path / "out" / "README.md").read_text()
    assert "`sft/train.jsonl` is empty: there is nothing to train on." in told
    assert "SFTTrainer" not in told, "datasets reads no empty file"
    assert card["examples_left_out"] == {"no_model_asked": len(records())}


# --- from the store


def test_the_store_gives_what_the_file_gives(store: Store, file, tmp_path):
    kept = records()[:40]
    for record in reversed(kept):
        store.cycles.begin(record, record.as_of)
        store.cycles.save(record, record.as_of)
    store.cycles.begin(a_cycle("late", as_of=AT), AT)  # has not ended: not a step
    store.cycles.save(a_cycle("quiet", as_of=kept[0].as_of + timedelta(minutes=1), status=CycleStatus.QUIET), AT)
    read = list(store.cycles.oldest_first("default", batch=7))
    assert [r.cycle_id for r in read if r.cycle_id != "quiet"] == [
        r.cycle_id for r in sorted(kept, key=lambda r: (r.as_of, r.cycle_id))
    ]
    source = dataset.store_source(store, "default")
    assert source.span == (kept[0].as_of, AT)
    card = dataset.export(source, tmp_path / "out")
    assert card["left_out"]["no_state:quiet"] == 1
    assert card["transitions"] == 38


def test_a_challengers_better_reply_is_chosen_over_the_champions(store: Store, tmp_path):
    """Both were asked in the same cycles, and the store has what each would have earned."""
    kept = [record for record in spoken() if record.symbol == BTC][60:120]
    for record in kept:
        store.cycles.begin(record, record.as_of)
        store.cycles.save(record, record.as_of)
        for decider, answer in ((CHAMPION, record.decided), ("llm:single@v9", _held(record))):
            shadow = ShadowDecision.of(record, decider=decider, decided=answer)
            store.shadow.keep(shadow)
            store.shadow.score(shadow, Decimal("0.5"))
    source = dataset.store_source(store, "default")
    card = dataset.export(source._replace(future=future(bars())), tmp_path / "out", ("dpo",))
    pairs = [row for rows in examples(tmp_path / "out", "dpo").values() for row in rows]
    assert len(pairs) == sum(card["examples"]["dpo"].values()) > 0
    for pair in pairs:
        assert {pair["decider"], pair["rejected_decider"]} == {"llm:single", "llm:single@v9"}
        assert pair["chosen_r"] - pair["rejected_r"] == pair["margin"] >= 0.2
    rows = pq.read_table(tmp_path / "out" / "train.parquet", columns=["counterfactual"]).to_pylist()
    assert {each["decider"] for each in rows[0]["counterfactual"]} == {CHAMPION, "llm:single@v9"}


def _held(record: CycleRecord) -> Answer:
    held = hold(record.symbol, "", source="llm:m").replace(confidence=Decimal("0.5"))
    [call] = record.decided.calls
    reply = held.model_dump_json(exclude={"source", "read_as"})
    return record.decided.replace(decision=held, calls=(call.replace(raw_reply=reply),))


def test_a_store_without_cycles_says_what_to_do(store: Store):
    with pytest.raises(InputError, match="no cycle of strategy 'other' yet"):
        dataset.store_source(store, "other")


# --- what others make of it


def test_minari_loads_it_and_one_epoch_of_behaviour_cloning_trains_on_it(exported, monkeypatch):
    import minari
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import log_loss

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(exported / "minari"))
    data = minari.load_dataset("quarterdeck-train-v0")
    assert data.total_steps == pq.read_metadata(exported / "train.parquet").num_rows
    assert data.total_episodes == 2
    policy, classes, losses = SGDClassifier(loss="log_loss", random_state=0), np.arange(len(ACTIONS)), []
    for _ in range(2):
        for episode in data.iterate_episodes():
            seen = rl.policy_input(episode.observations["state"][:-1], episode.observations["unknown"][:-1])
            policy.partial_fit(seen, episode.actions, classes=classes)
            assert len(episode.observations["state"]) == len(episode.actions) + 1
            assert episode.truncations[-1]
            assert not episode.truncations[:-1].any()
        losses.append(log_loss(episode.actions, policy.predict_proba(seen), labels=classes))
    assert losses[0] < math.log(len(ACTIONS)), "one epoch is better than not knowing"


def test_minari_holds_the_same_steps_as_parquet(exported, monkeypatch):
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(exported / "minari"))
    rows = pq.read_table(exported / "test.parquet", filters=[("symbol", "=", BTC)]).to_pandas()
    episode = minari.load_dataset("quarterdeck-test-v0")[0]
    assert episode.rewards.tolist() == rows["reward"].tolist()
    assert episode.actions.tolist() == rows["action_id"].tolist()
    assert np.array_equal(episode.observations["state"][:-1], np.stack(rows["state"]))
    assert np.array_equal(episode.observations["state"][-1], rows["next_state"].iloc[-1])
    assert np.array_equal(episode.observations["allowed"][:-1].astype(bool), np.stack(rows["allowed"]))
    assert episode.infos["reward_r"][1:].tolist() == rows["reward_r"].tolist()


def test_the_flat_observations_are_the_environments_and_say_which_it_is(exported, monkeypatch):
    import gymnasium
    import minari

    from tasks.adapters.rl.environment import TradingEnv

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(exported / "minari"))
    data = minari.load_dataset("quarterdeck-test-v1")
    episode, rows = data[0], pq.read_table(exported / "test.parquet", filters=[("symbol", "=", BTC)]).to_pandas()
    assert np.array_equal(
        episode.observations[:-1], rl.policy_input(np.stack(rows["state"]), np.stack(rows["state_unknown"]))
    )
    assert np.array_equal(episode.infos["action_mask"][:-1].astype(bool), np.stack(rows["allowed"]))
    assert (data.env_spec.id, data.env_spec.entry_point) == (
        "Quarterdeck-v0", gymnasium.spec("Quarterdeck-v0").entry_point,
    )  # fmt: skip
    assert data.env_spec.max_episode_steps > len(episode), "d3rlpy takes none without"
    env = data.recover_environment(candles=bars()[BTC], symbol=BTC)
    assert isinstance(env.unwrapped, TradingEnv)
    assert (env.observation_space, env.action_space) == (data.observation_space, data.action_space)
    seen, info = env.reset(seed=1)
    assert data.observation_space.contains(seen)
    assert len(info["action_mask"]) == episode.infos["action_mask"].shape[1]


def test_reference_scores_are_of_doing_nothing_and_of_the_behaviour(exported, monkeypatch):
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(exported / "minari"))
    data = minari.load_dataset("quarterdeck-train-v1")
    behaviour = np.mean([episode.rewards.sum() for episode in data])
    assert behaviour < 0, "the rules lose: so doing nothing is the better of the two"
    assert minari.get_normalized_score(data, np.array([behaviour, 0.0])) == pytest.approx([0, 1])
    assert reference_scores([0.0, 0.0]) == {}


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_d3rlpy_reads_has_as_many_steps_as_rows(exported, split):
    """By its own format: of an episode that did not terminate the last observation begins no step."""
    import h5py

    rows = pq.read_table(exported / f"{split}.parquet").to_pandas()
    with h5py.File(exported / "d3rlpy" / f"{split}.h5") as file:
        assert file["version"][()] == b"2.1"
        assert [name.decode() for name in file["columns"]] == ["observations", "actions", "rewards", "terminated"]
        count = file["num_episodes"][()]
        parts = [{name.decode(): file[f"{name.decode()}_{k}"][()] for name in file["columns"]} for k in range(count)]
    assert count == 2
    for each, (_, alike) in zip(parts, rows.groupby("symbol"), strict=True):
        assert len(each["observations"]) == len(each["actions"]) == len(alike) + 1
        assert (each["observations"].dtype, each["actions"].shape[1], each["rewards"].shape[1]) == ("float32", 1, 1)
        assert each["actions"][:-1, 0].tolist() == alike["action_id"].tolist()
        assert each["actions"].max() == len(rl.CHOICES) - 1, "which is how many actions d3rlpy counts"
        assert each["rewards"].sum() == pytest.approx(alike["reward"].sum(), abs=1e-6)
        assert np.array_equal(each["observations"][-1][: len(rl.COMPONENTS)], alike["next_state"].iloc[-1])


def test_a_gap_between_two_steps_ends_an_episode(exported, tmp_path):
    whole = pq.read_table(exported / "train.parquet", filters=[("symbol", "=", BTC)])
    done = [k in (9, len(whole) - 1) for k in range(len(whole))]
    pq.write_table(whole.set_column(whole.column_names.index("done"), "done", [done]), tmp_path / "train.parquet")
    assert [len(each) for each in episodes(tmp_path / "train.parquet")] == [10, len(whole) - 10]


# --- the command, and what is wrong with its input


def test_the_command_writes_it_and_says_what_is_in_it(file, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, ["export-rl", "--records", str(file), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["transitions"] == sum(said["splits"].values())
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "card.json", "test.parquet", "train.parquet", "validation.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no cycle record in it"),
        ('{"as_of": "yesterday"}\n', "Invalid isoformat"),
        ('{"as_of": "2025-01-01T00:00:00Z"}\n', "line 1: cycle_id: Field required"),
    ],
)
def test_what_is_no_record_is_named_and_nothing_is_left(tmp_path, text, said):
    path, out = tmp_path / "records.jsonl", tmp_path / "out"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        dataset.export(dataset.file_source(path), out)
    assert list(tmp_path.iterdir()) == [path]


def test_a_relative_folder_is_written_to_where_it_is(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["export-rl", "--records", str(file), "--out", "some/where", "--format", "minari", "--format", "d3rlpy"]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "some/where/minari/quarterdeck-train-v1/data/metadata.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["some"]
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["where"]


def test_a_folder_in_use_is_not_written_to(file, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="not empty"):
        dataset.export(dataset.file_source(file), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_records_without_a_single_step_say_so(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(lines().split("\n")[0] + "\n")
    with pytest.raises(InputError, match="no transition in it; left out: no_next 1; one goes from a decision to"):
        dataset.export(dataset.file_source(path), tmp_path / "out")
