"""The prompt lab against a real MLflow: one prompt better by construction, and what a person finds of that there."""

import html
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow_server import running_mlflow
from model_server import Fault, ModelServer, Reply

from deployments.cli import cli
from flows.evaluate import evaluate
from tasks.adapters.files.prompts import load_prompt
from tasks.adapters.mlflow.comparison import server_of
from tasks.adapters.mlflow.datasets import listed, read
from tasks.core.errors import InputError
from tasks.evaluate import ComparisonRequest
from tasks.settings import settings

SYMBOL = "BTC/USDT:USDT"
BETTER = "with its own fields"  # words that only v003 of the prompt has
PLAN = {
    "size_pct": 20, "entry": {"type": "market", "offset_bps": 0}, "stop_atr": 2, "tp_atr": 4,
    "followups": [], "confidence": 0.8, "comment": "as asked",
}  # fmt: skip


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture(scope="module")
def rising(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Candles that rise: who buys is right, whatever the moment."""
    rng, n = np.random.default_rng(8), 5000
    close = np.round(60_000 * np.exp(np.cumsum(rng.normal(1e-4, 1e-3, n))), 1)
    open_ = np.r_[60_000.0, close[:-1]]
    frame = pd.DataFrame(
        {
            "ts": 1_735_689_600_000 + np.arange(n) * 300_000, "open": open_, "high": np.maximum(open_, close) + 20,
            "low": np.minimum(open_, close) - 20, "close": close, "volume": rng.lognormal(3, 0.5, n),
        }
    )  # fmt: skip
    path = tmp_path_factory.mktemp("candles") / "btc.parquet"
    frame.to_parquet(path)
    return path


@pytest.fixture
def model(home: Path, mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    """A model that buys when it is asked by the better prompt, and sells when by the other."""

    def answer(request: dict[str, Any]) -> Reply:
        text = json.dumps(request["messages"])
        action = "OPEN_LONG" if BETTER in text else "OPEN_SHORT"
        [pair] = re.findall(r"^Pair: (.*)$", request["messages"][-1]["content"], re.M)
        return Reply(json.dumps({**PLAN, "symbol": pair, "action": action}), tokens_in=900, tokens_out=80)

    with ModelServer(default=answer) as running:
        monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", running.url)
        monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", mlflow_url)
        settings.cache_clear()
        yield running


def lab(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    if result.exception is not None:
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_each_variant_is_an_evaluation_of_the_same_moments(rising, model, mlflow_url):
    found = lab(
        "compare", "--candles", str(rising), "--symbol", SYMBOL, "--start", "2025-01-12", "--end", "2025-01-15",
        "--decider", "llm:single@v003", "--decider", "llm:single@v002", "--model", "openai/test", "--seeds", "5",
        "--max-cost", "100", "--events", "6",
    )  # fmt: skip
    worse, better = "llm:single@v002 openai/test", "llm:single@v003 openai/test"
    assert set(found["evaluations"]) == {worse, better}
    server = server_of(mlflow_url)
    dataset, moments = read(server, found["moments"])
    assert [each.name for each in listed(server)] == [found["moments"].partition("@")[0]]
    assert len(moments) >= 3
    means = {}
    for label, run_id in found["evaluations"].items():
        run = server.client.get_run(run_id)
        assert run.data.tags["mlflow.runType"] == "genai_evaluate"
        assert run.data.tags["comparison"] == found["mlflow_run"]
        [used] = run.inputs.dataset_inputs
        assert used.dataset.name == dataset.name
        traces = server.mlflow.search_traces(locations=[server.experiment_id], run_id=run_id, return_type="list")
        assert {each.info.tags["moment"] for each in traces} == {each.moment_id for each in moments}
        assert all(each.info.tags["variant"] == label for each in traces)
        scores = [{a.name: a.value for a in each.info.assessments} for each in traces]
        assert all({"net_r", "value_over_hold_r", "valid", "moved_pct"} <= set(each) for each in scores)
        means[label] = float(np.mean([each["net_r"] for each in scores]))
        assert run.data.metrics["net_r/mean"] == pytest.approx(means[label])
        [version] = {each.info.tags["prompt"] for each in traces}
        assert version == label.split()[0].replace("llm:", "").replace("@", "/")
        registered = server.client.search_prompt_versions("quarterdeck.single")
        [mine] = [each for each in registered if each.tags["file_version"] == version.split("/")[1]]
        assert mine.tags["mlflow.prompt.run_ids"].split(",") == [run_id], "its page leads to where it was evaluated"
        wanted = f"prompt = 'quarterdeck.single/{mine.version}'"
        linked = server.client.search_traces(locations=[server.experiment_id], filter_string=wanted)
        assert {each.info.trace_id for each in traces} <= {each.info.trace_id for each in linked}
        calls = [span for each in traces for span in each.data.spans if span.span_type == "CHAT_MODEL"]
        assert len(calls) == len(moments)
        assert all(call.inputs["messages"] and call.outputs for call in calls)
    assert means[better] > 0 > means[worse]

    again = lab(
        "compare", "--candles", str(rising), "--symbol", SYMBOL, "--start", "2025-01-12", "--end", "2025-01-15",
        "--decider", "llm:single@v003", "--model", "openai/test", "--seeds", "5", "--max-cost", "0", "--events", "6",
    )  # fmt: skip
    assert again["moments"] == found["moments"]  # the same moments are the same dataset
    assert again["spent"]["asked"] == 0
    runs = server.client.get_prompt_version("quarterdeck.single", "3").tags["mlflow.prompt.run_ids"].split(",")
    assert runs == [found["evaluations"][better], again["evaluations"][better]]


def test_moments_are_kept_by_name_masked_and_put_to_prompt_versions(rising, model, mlflow_url):
    from_file = ("--candles", str(rising), "--symbol", SYMBOL, "--events", "8")
    first = lab("moments", "create", "rising", *from_file)
    assert (first["moments"], first["masked"]) == ("rising@1", False)
    assert lab("moments", "create", "rising", *from_file)["moments"] == "rising@1"  # nothing new is no new version
    more = lab("moments", "create", "rising", *from_file, "--quiet", "4", "--mask")
    assert (more["moments"], more["masked"]) == ("rising@2", True)
    assert more["quiet"] > 0
    told = CliRunner().invoke(cli, ["moments", "list"]).stdout
    assert re.search(r"^rising@1  \d+ moments, 2025-01-\d\d to 2025-01-\d\d  files: BTC/USDT:USDT$", told, re.M)
    assert re.search(r"^rising@2  \d+ moments, .*, masked  files: [A-Z]{4}/USDT:USDT$", told, re.M)

    asked = len(model.requests)
    found = lab(
        "compare", "--moments", "rising", "--decider", "llm:single@v003", "--decider", "llm:single@v002",
        "--model", "openai/test", "--max-cost", "100",
    )  # fmt: skip
    assert found["moments"] == "rising@2"
    assert found["count"] == more["count"]
    assert 2 < len(model.requests) - asked <= 2 * found["count"]  # two that look the same under a mask are asked once
    assert not any("BTC" in json.dumps(request["messages"]) for request in model.requests[asked:])
    worse, better = (found["net_r"][f"llm:single@{version} openai/test"]["estimate"] for version in ("v002", "v003"))
    assert better > 0 > worse
    assert found["verdict"]["sentence"].startswith("llm:single@v003 openai/test is ")
    assert found["verdict"]["moments"]["n"] == found["count"]
    assert found["differences"]
    assert {ruling["b"] for ruling in found["rulings"]} == {"llm:single@v002 openai/test", "hold"}
    _, kept = read(server_of(mlflow_url), "rising@1")
    assert [each.symbol for each in kept] == [SYMBOL] * first["count"]
    assert all(len(each.bars) == 288 for each in kept)


def test_a_version_that_does_worse_than_the_one_in_use_fails_the_check(rising, model, monkeypatch):
    lab("moments", "create", "checked", "--candles", str(rising), "--symbol", SYMBOL, "--events", "30")
    check = ("--moments", "checked", "--model", "openai/test", "--max-cost", "100")
    worse = CliRunner().invoke(cli, ["prompts", "check", "single/v002", *check])  # the latest, v003, is in use
    assert worse.exit_code == 1
    assert re.search(r"^FAIL +net R: -\d\.\d+ a moment \(needs at least \+\d", worse.stdout, re.M)
    assert re.search(r"^pass +invalid replies: 0 of \d+ \(needs at most \d+\)$", worse.stdout, re.M)
    with monkeypatch.context() as patched:
        patched.setattr("flows.moments.load_prompt", lambda role, version="v002": load_prompt(role, version))
        better = lab("prompts", "check", "single/v003", *check)
    assert better["passed"]
    assert (better["version"], better["against"]) == ("v003", "v002")
    with pytest.raises(InputError, match="single/v003 is the version in use"):
        lab("prompts", "check", "single/v003", *check)
    lab("moments", "create", "few", "--candles", str(rising), "--symbol", SYMBOL, "--events", "6")
    with pytest.raises(InputError, match=r"--moments few: \d+ moments are too few to judge net R by; keep more"):
        lab("prompts", "check", "single/v002", "--moments", "few", *check[2:])


def test_a_provider_that_is_away_is_no_regression_and_no_pass(rising, model):
    lab("moments", "create", "away", "--candles", str(rising), "--symbol", SYMBOL, "--events", "30")
    check = ("prompts", "check", "single/v002", "--moments", "away", "--model", "openai/test", "--max-cost", "100")
    usual = model.default

    def sometimes(request: dict[str, Any]) -> Reply | Fault:
        text = json.dumps(request["messages"])
        return usual(request) if BETTER in text or sum(map(ord, text)) % 3 == 0 else Fault("status", status=503)

    model.default = Fault("status", status=401)
    with pytest.raises(InputError, match=r"--model: none answered any of the \d+ moments \(auth\)"):
        lab(*check)
    model.default = sometimes  # two of three questions of the version that is checked get no answer
    with pytest.raises(InputError, match=r"both versions were answered at \d+ of \d+ moments \(.*nothing is known"):
        lab(*check)
    model.default = usual  # what was answered is kept; only the rest is asked
    again = CliRunner().invoke(cli, [*check, "--json"])
    assert again.exit_code == 1
    found = json.loads(again.stdout)
    assert found["first_error"] is None
    assert 0 < found["spent"]["asked"] < found["spent"]["reused"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("moments", "create", "a b", "--candles", "{file}", "--symbol", SYMBOL), "moments 'a b': a name is letters"),
        (("moments", "create", "x", "--symbol", SYMBOL), "no 5m candles of bybit-sandbox are stored"),
        (("moments", "create", "x", "--live", "worst"), "none in the records asked for"),
        (("compare", "--moments", "nobody", "--decider", "rules"), "--moments nobody: there are none of that name"),
        (("compare", "--decider", "rules"), "compare needs --candles, or --moments NAME"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(rising, model, arguments, says):
    with pytest.raises(InputError, match=re.escape(says)):
        lab(*(each.format(file=rising) for each in arguments))


def test_the_report_opens_with_the_better_prompt_what_it_says_and_where_that_mattered(
    rising, model, mlflow_url, tmp_path
):
    found = lab(
        "compare", "--candles", str(rising), "--symbol", SYMBOL, "--start", "2025-01-10", "--end", "2025-01-18",
        "--decider", "llm:single@v003", "--decider", "llm:single@v002", "--model", "openai/test", "--seeds", "5",
        "--max-cost", "100", "--events", "30",
    )  # fmt: skip
    worse, better = "llm:single@v002 openai/test", "llm:single@v003 openai/test"
    verdict = found["verdict"]
    assert (verdict["a"], verdict["b"], verdict["ruling"], verdict["rests_on"]) == (better, worse, "better", "moments")
    assert verdict["moments"]["low"] > 0
    assert f"{better} is better than {worse}: +" in verdict["sentence"]
    assert f"[{verdict['moments']['low']:+.2f}, {verdict['moments']['high']:+.2f}]" in verdict["sentence"]
    assert len(found["differences"]) == 10
    first = found["differences"][0]
    assert [answer["action"] for answer in first["answers"]] == ["OPEN_LONG", "OPEN_SHORT"]
    assert first["answers"][0]["stop"] < first["answers"][0]["price"] < first["answers"][0]["target"]
    assert {each["label"] for each in found["moments_by_variant"]} == {better, worse, "rules"}

    server = server_of(mlflow_url)
    kept = server.client.download_artifacts(found["mlflow_run"], "report.html", str(tmp_path))
    page = html.unescape(Path(kept).read_text())
    assert len(page) < 1_500_000
    order = [verdict["sentence"], "What the prompts differ in", "The moments that made the difference", "The accounts"]
    places = [page.index(each) for each in order]
    assert places == sorted(places)
    assert page.count('class="add"') > 3 < page.count('class="cut"')
    assert BETTER in page
    assert page.count("OPEN_LONG") >= 10 <= page.count("OPEN_SHORT")
    assert page.count('<article class="card">') == 10 == page.count("price around")
    note = server.client.get_run(found["mlflow_run"]).data.tags["mlflow.note.content"]
    assert "is better than" in note


def surprise(inputs: dict[str, Any], outputs: dict[str, Any], expectations: dict[str, Any]) -> float:
    """Score a moment by what is no score of ours: how far the market moved while nothing was done."""
    assert inputs["symbol"] == SYMBOL
    return abs(expectations["moved_pct"]) if outputs["action"] == "HOLD" else 0.0


def test_recorded_replies_are_a_variant_and_a_score_of_ones_own_stands_beside_ours(
    rising, model, mlflow_url, tmp_path, monkeypatch
):
    kept = lab("moments", "create", "own", "--candles", str(rising), "--symbol", SYMBOL, "--events", "8")
    server = server_of(mlflow_url)
    _, chosen = read(server, kept["moments"])
    first = chosen[0].as_of.isoformat()
    replies = tmp_path / "replies.jsonl"
    replies.write_text(json.dumps({"as_of": first, "symbol": SYMBOL, "reply": json.dumps(PLAN | {"action": "HOLD"})}))
    monkeypatch.setenv("QUARTERDECK_SCORER", f"{__name__}:surprise")
    settings.cache_clear()
    found = lab("compare", "--moments", "own", "--decider", f"recorded:{replies}", "--decider", "rules")
    for label, run_id in found["evaluations"].items():
        traces = server.mlflow.search_traces(locations=[server.experiment_id], run_id=run_id, return_type="list")
        scores = [{a.name: a.value for a in each.info.assessments} for each in traces]
        assert len(scores) == kept["count"]
        moved = [abs(each["moved_pct"]) if each["value_over_hold_r"] == 0 else 0.0 for each in scores]
        if label.startswith("recorded"):
            assert [each["surprise"] for each in scores] == moved
        assert "surprise/mean" in server.client.get_run(run_id).data.metrics
    monkeypatch.setenv("QUARTERDECK_SCORER", "no.such.module:score")
    settings.cache_clear()
    with pytest.raises(InputError, match=r"QUARTERDECK_SCORER=no\.such\.module:score: name a function"):
        lab("compare", "--moments", "own", "--decider", "rules")


@pytest.mark.slow
def test_kept_moments_are_compared_from_the_form_by_name(rising, model, prefect_server):
    lab("moments", "create", "form", "--candles", str(rising), "--symbol", SYMBOL, "--events", "30")
    asked = {"moments": "form", "deciders": ("llm:single@v003", "llm:single@v002"), "models": ("openai/test",)}
    found = evaluate(ComparisonRequest(**asked, max_cost=Decimal(100)))
    assert found["verdict"].startswith("llm:single@v003 openai/test is better than llm:single@v002 openai/test: +")
    assert (found["moments"], len(found["evaluations"]), found["complete"]) == ("form@1", 2, True)
    with pytest.raises(InputError, match="max_cost: a comparison over moments must say what it may cost"):
        evaluate(ComparisonRequest(**asked))
