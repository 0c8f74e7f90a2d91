"""A trained policy trades only once it has passed the gate that prompts pass; the sandbox lets it try."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path

import numpy as np
import panel_cases
import pytest
from click.testing import CliRunner
from records_sample import lines
from store_samples import a_cycle, a_decision, a_position, a_verdict, an_outcome

from deployments import doctor
from deployments.cli import cli
from deployments.doctor import Health
from flows.promote import watch_champions
from tasks import connections, decide
from tasks.adapters.files import dataset
from tasks.adapters.mlflow.comparison import git_commit
from tasks.adapters.mlflow.evidence import signature
from tasks.adapters.model.onnx_policy import OnnxDecider
from tasks.adapters.rl import training
from tasks.adapters.store.shadow import CHAMPION
from tasks.connections import store
from tasks.core.errors import InputError
from tasks.core.lab.promotion_criteria import Measured
from tasks.core.types.decision import POLICY, Answer
from tasks.core.types.portfolio import AccountState
from tasks.core.types.record import ShadowDecision
from tasks.settings import settings

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two policies of one dataset."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "records.jsonl").write_text(lines())
    dataset.export(dataset.file_source(folder), folder / "data")
    for name, epochs in (("a.onnx", 3), ("b.onnx", 4)):
        training.train(folder / "data", folder / name, epochs=epochs)
    return folder / "a.onnx", folder / "b.onnx"


@pytest.fixture(autouse=True)
def paper(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUARTERDECK_PROFILE", "paper")
    monkeypatch.setenv("QUARTERDECK_PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("QUARTERDECK_PROMOTION__MIN_SHADOWS", "30")
    settings.cache_clear()
    return home


def promote(path: Path, *words: str) -> dict:
    command = ["prompts", "promote", "model", str(path), "--alias", "champion", *words, "--json"]
    result = CliRunner().invoke(cli, command)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def answer(path: Path) -> Answer:
    [decided] = asyncio.run(OnnxDecider(path).decide([panel_cases.question()]))
    return decided


MINUTES = count()


def trades(name: str) -> bool:
    """Whether a cycle may ask this decider; where not, nobody is asked."""
    cycle_id = kept_cycle(f"asked{next(MINUTES)}", NOW + timedelta(days=1, minutes=next(MINUTES)))
    try:
        asyncio.run(decide.decide([panel_cases.question()], [cycle_id], name))
    except InputError as e:
        return "is not promoted, so it trades in no profile but the sandbox" not in str(e)
    return True


def kept_cycle(name: str, at: datetime = NOW) -> str:
    cycle = a_cycle(name, as_of=at)
    store().cycles.begin(cycle, at)
    return cycle.cycle_id


@pytest.mark.parametrize("profile", ["paper", "testnet", "live"])
def test_an_ungated_policy_trades_nowhere_but_in_the_sandbox(trained, monkeypatch, profile):
    policy, _ = trained
    monkeypatch.setenv("QUARTERDECK_PROFILE", profile)
    settings.cache_clear()
    for name in (f"model:{policy}", f"ensemble:rules+model:{policy}", f"ensemble:pick:model:{policy},rules,hold"):
        assert not trades(name)
    assert trades("rules")
    assert connections.decider(f"model:{policy}", shadow=True).prompts[0].name == POLICY, "a shadow sends nothing"
    monkeypatch.setenv("QUARTERDECK_PROFILE", "sandbox")
    settings.cache_clear()
    assert trades(f"model:{policy}")


def test_doctor_says_so_before_anything_runs(trained, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_DECIDER", f"ensemble:rules+model:{trained[0]}")
    settings.cache_clear()
    [refused] = doctor._policy(settings())
    assert (refused.result, "is not promoted" in refused.detail) == (Health.FAIL, True)
    promote(trained[0], "--override", "--reason", "a test")
    [allowed] = doctor._policy(settings())
    assert allowed.result is Health.OK
    assert list(doctor._policy(settings().replace(decider="rules"))) == []


def test_the_promoted_file_trades_and_no_other_one_under_its_name(trained, tmp_path):
    policy, other = trained
    (tmp_path / "mine.onnx").write_bytes(policy.read_bytes())
    move = promote(tmp_path / "mine.onnx", "--override", "--reason", "seen for a month")
    assert (move["kind"], move["version"]) == ("overridden", OnnxDecider(tmp_path / "mine.onnx").mark)
    assert trades(f"model:{tmp_path / 'mine.onnx'}")
    assert trades(f"model:{policy}"), "the very same file"
    assert not trades(f"model:{other}")
    (tmp_path / "mine.onnx").write_bytes(other.read_bytes())
    assert not trades(f"model:{tmp_path / 'mine.onnx'}")


def test_without_evidence_it_is_refused_as_a_prompt_is(trained):
    with pytest.raises(InputError, match=r"model/a\.onnx@\w{8} is not promoted: evidence is none"):
        promote(trained[0])
    assert store().prompts.moves(POLICY)[0].kind == "refused"
    assert not trades(f"model:{trained[0]}")


def shadows(policy: Path, edge: float, n: int = 40) -> None:
    """Keep n settled cycles that `rules` and the policy answered."""
    rng, mine = np.random.default_rng(3), answer(policy)
    for i in range(n):
        at = NOW - timedelta(hours=i)
        cycle = a_cycle(f"s{i}", as_of=at)
        store().cycles.begin(cycle, at)
        for name, decided, mean in ((CHAMPION, a_decision(calls=0), 0.0), (f"model:{policy}", mine, edge)):
            shadow = ShadowDecision(
                cycle_id=cycle.cycle_id, strategy="default", decider=name, symbol=cycle.symbol, as_of=at,
                state=AccountState(), verdict=a_verdict(), decided=decided,
            )  # fmt: skip
            store().shadow.keep(shadow)
            store().shadow.score(shadow, Decimal(repr(float(rng.normal(mean, 0.1)))))


def evidence(home: Path, policy: Path, masked: float) -> str:
    [ref] = OnnxDecider(policy).prompts
    variants = [{"label": "mine", "prompt_sha256": ref.sha256}, {"label": "rules"}, {"label": "hold"}]
    sharpes = {"mine": masked, "rules": 1.0, "hold": 0.0}
    leakage = [{"label": label, "masked_sharpe": each} for label, each in sharpes.items()]
    found = [Measured(**v, masked_sharpe=leak["masked_sharpe"]) for v, leak in zip(variants, leakage, strict=True)]
    document = {"data_sha256": "d" * 64, "git_commit": git_commit(), "variants": variants, "leakage": leakage}
    signed = signature(document["data_sha256"], document["git_commit"], found)
    (home / "compare.json").write_text(json.dumps({"signature": signed} | document))
    return str(home / "compare.json")


def test_on_a_masked_comparison_and_better_shadows_it_may_trade(trained, home):
    policy, _ = trained
    shadows(policy, 0.3)
    with pytest.raises(InputError, match=r"masked replay is -0\.200 Sharpe"):
        promote(policy, "--evidence", evidence(home, policy, 0.8))
    move = promote(policy, "--evidence", evidence(home, policy, 1.2))
    assert move["kind"] == "promoted"
    assert all(each["passed"] for each in move["criteria"])
    assert len(move["criteria"]) == 9
    assert trades(f"model:{policy}")


def test_shadows_that_are_no_better_keep_it_out(trained, home):
    shadows(trained[0], 0.0)
    with pytest.raises(InputError, match="not promoted: shadow edge"):
        promote(trained[0], "--evidence", evidence(home, trained[0], 1.2))


@pytest.mark.parametrize("before", [True, False])
def test_one_that_loses_is_taken_back_to_the_one_before_it_or_to_none(trained, before):
    first, second = trained
    if before:
        promote(first, "--override", "--reason", "a test")
    promote(second, "--override", "--reason", "another")
    at = datetime.now(UTC) + timedelta(seconds=1)
    for i in range(20):
        cycle_id = kept_cycle(f"c{i}", at + timedelta(minutes=5 * i))
        store().decisions.keep(cycle_id, answer(second), at)
        store().positions.save(a_position(f"p{i}", cycle_id=cycle_id, closed_at=at))
        store().outcomes.save(an_outcome(f"p{i}", cycle_id=cycle_id, outcome_r=Decimal("-0.6")))
    [move] = watch_champions(datetime.now(UTC) + timedelta(seconds=2))
    assert (move.kind, move.version) == ("rolled_back", OnnxDecider(first).mark if before else "none")
    assert "mean R" in move.reason
    assert not trades(f"model:{second}")
    assert trades(f"model:{first}") is before
    assert watch_champions(datetime.now(UTC) + timedelta(seconds=3)) == []
