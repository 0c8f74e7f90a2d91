"""`compare` as a user runs it: baselines among the variants, replies paid once, a cap that holds, a whole report."""

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from model_replies import asks, plan
from model_server import ModelServer, Reply

from deployments.cli import cli
from flows.evaluate import carry_out, evaluate, plan_work, spent_text
from flows.evaluate import rows as table
from tasks.adapters import parallel_backtests
from tasks.adapters.mlflow.evidence import read_evidence
from tasks.core.errors import InputError
from tasks.core.lab import compare
from tasks.core.lab.masking import LOOK_UP
from tasks.evaluate import ComparisonRequest
from tasks.settings import settings

SYMBOL = "BTC/USDT:USDT"
SPAN = ("--start", "2025-01-12", "--end", "2025-01-15")
OPEN = {
    "symbol": SYMBOL, "action": "OPEN_LONG", "size_pct": 20, "entry": {"type": "market", "offset_bps": 0},
    "stop_atr": 2, "tp_atr": 4, "followups": [], "confidence": 0.8, "comment": "up", "reasoning": "r",
    "key_factors": ["k"], "risk_assessment": "a",
}  # fmt: skip


@pytest.fixture(scope="module")
def candles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, n = np.random.default_rng(5), 5000
    close = np.round(60_000 * np.exp(np.cumsum(rng.normal(0, 1.5e-3, n))), 1)
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


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Each comparison gets a state of its own."""


def run(candles: Path, *arguments: str) -> Any:
    few = ("--seeds", "20", "--quiet", "0", "--events", "0")
    return CliRunner().invoke(
        cli, ["compare", "--candles", str(candles), "--symbol", SYMBOL, "--json", *few, *arguments]
    )


def compared(candles: Path, *arguments: str) -> dict[str, Any]:
    result = run(candles, *arguments)
    if result.exception is not None:
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in found["rows"]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    answers = Reply(json.dumps(OPEN), tokens_in=1000, tokens_out=100)
    with ModelServer(default=answers) as running:
        monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", running.url)
        settings.cache_clear()
        yield running


def test_a_person_is_told_the_run_and_where_a_prompt_is_among_them_how_it_is_promoted(
    candles, server, tmp_path, monkeypatch
):
    registry = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", registry)
    settings.cache_clear()
    few = ("--candles", str(candles), "--symbol", SYMBOL, "--seeds", "20", "--quiet", "0", "--events", "0", *SPAN)
    said = CliRunner().invoke(cli, ["compare", *few, "--decider", "hold"]).stdout.splitlines()[-1]
    run = said.removeprefix("MLflow run ")
    assert {each.label for each in read_evidence(run, registry).variants} == {"hold", "buy-and-hold", "rules"}
    model = ("--decider", "llm:single", "--model", "openai/test", "--max-cost", "5")
    told = CliRunner().invoke(cli, ["compare", *few, *model]).stdout.splitlines()[-1]
    assert re.fullmatch(r"MLflow run (\w+): quarterdeck prompts promote ROLE VERSION .*--evidence \1", told), told


def test_baselines_are_always_among_the_variants_and_the_report_needs_no_network(candles, tmp_path):
    out = tmp_path / "out"
    asked = ("--decider", "rules:stop_atr=3,tp_atr=6", "--windows", "2", "--mask", "--quiet", "20", "--events", "20")
    found = compared(candles, *asked, "--out", str(out))
    assert list(rows(found)) == ["rules:stop_atr=3,tp_atr=6", "hold", "buy-and-hold", "rules"]
    assert [row["baseline"] for row in found["rows"]] == [False, True, True, True]
    assert rows(found)["hold"]["return_pct"] == 0
    assert all(len(row["windows"]) == 2 for row in found["rows"])
    assert found["rows"][0]["chance"]["seeds"] == 20
    assert len(found["pairs"]) == 6
    assert {gate["label"] for gate in found["gate"]} == {"rules:stop_atr=3,tp_atr=6", "rules"}
    page = (out / "report.html").read_text()
    assert found["instruments"][SYMBOL]["tick"] == 0.1
    terms = rf"Instruments: {SYMBOL} linear, tick 0\.1, step [0-9.]+, least order 5 quote \(inferred\)"
    assert re.search(terms, page)
    assert len(page) < 1_000_000
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    names = {path.name for path in (out / "rules").iterdir()}
    assert names == {"calibration.png", "equity.png", "trades.csv"}
    mine = rows(found)["rules"]
    assert mine["calibration"]["entries"] == mine["trades"] > 0
    assert 0 < mine["calibration"]["brier"] < 1
    assert rows(found)["hold"]["calibration"] is None
    assert "What confidence is worth" in page


def test_on_a_random_walk_neither_of_two_stops_is_shown_to_be_better(candles, tmp_path):
    near, far = "rules:stop_atr=1.5,tp_atr=3", "rules:stop_atr=3,tp_atr=6"
    asked = ("--decider", near, "--decider", far, "--events", "150", "--out", str(tmp_path / "out"))
    found = compared(candles, *asked)
    verdict = found["verdict"]
    assert (verdict["a"], verdict["b"], verdict["rests_on"]) == (near, far, "moments")
    assert verdict["moments"]["low"] < 0 < verdict["moments"]["high"]
    assert verdict["ruling"] == "not shown to differ"
    assert len(found["differences"]) == 10
    alike = next(ruling for ruling in found["rulings"] if ruling["b"] == "rules")
    assert "both earned the same at each of" in alike["sentence"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{near} is not shown to differ from {far}: " in page
    assert "What the prompts differ in" not in page


def test_masked_rules_decide_as_unmasked(candles):
    found = compared(candles, "--decider", "rules", "--mask", "--perturb")
    [leak] = found["leakage"]
    assert leak["masked_agreement"] == 1.0
    assert leak["masked_gap_bps"]["estimate"] == pytest.approx(0, abs=0.05)
    assert leak["input_dependency"] is None or leak["input_dependency"] > 0


def test_a_strong_mask_also_perturbs_and_the_gap_is_a_figure(candles, tmp_path):
    found = compared(candles, "--decider", "rules", "--mask=strong", "--out", str(tmp_path / "out"))
    [leak] = found["leakage"]
    assert found["mask"] == "raw+masked+strong"
    assert leak["masked_agreement"] == 1.0
    assert leak["masked_gap_bps"]["estimate"] == pytest.approx(0, abs=0.05)
    assert abs(leak["strong_gap_bps"]["estimate"]) > 0.05
    assert leak["perturbed_gap_bps"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    assert "masked less strong" in page
    assert LOOK_UP in page


def test_under_a_mask_models_are_shown_little_and_their_answers_are_traded(candles, server):
    def answer(body: dict[str, Any]) -> Reply:
        [pair] = re.findall(r"Pair: (\S+)", body["messages"][1]["content"])
        return Reply(json.dumps(OPEN | {"symbol": pair}))

    server.default = answer
    asked = ("--decider", "llm:single", "--model", "openai/a", "--max-cost", "9", "--mask", *SPAN)
    [leak] = [each for each in compared(candles, *asked)["leakage"] if each["label"].startswith("llm")]
    assert leak["masked_agreement"] == 1.0
    prompts = [body["messages"][1]["content"] for body in server.requests]
    masked = [text for text in prompts if "As of: 2000-01-01T00:00:00+00:00" in text]
    plain = [text for text in prompts if text not in masked]
    assert masked
    assert all(re.search(r"5m ohlcv \d", text) for text in plain)
    assert not any(re.search(r"5m ohlcv \d|prev_day|2025|BTC", text) for text in masked)


@pytest.mark.parametrize("decider", ["llm:single", "llm:panel", "llm:portfolio"])
def test_a_masked_run_of_a_model_replays_byte_for_byte(candles, server, monkeypatch, tmp_path, decider):
    monkeypatch.setenv("QUARTERDECK_MODEL", "openai/a")
    settings.cache_clear()
    files = ("--candles", f"{SYMBOL}={candles}", "--json")
    asked = ("--decider", decider, "--mask=strong", "--max-cost", "9", *SPAN, "--out", str(tmp_path / "m"))
    made = CliRunner().invoke(cli, ["backtest", *files, *asked], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    records = str(tmp_path / "m" / "records.jsonl")
    told = json.loads(CliRunner().invoke(cli, ["replay", "--all", "--records", records, *files]).stdout)
    assert (told["match"], told["differ"]) == (told["records"], 0)
    assert told["records"] > 5
    assert "As of: 2000-01-01T00:00:00+00:00" in server.requests[-1]["messages"][1]["content"]


def test_a_job_names_the_model_it_asks_and_masked_ones_are_told_no_news(candles, tmp_path, caplog):
    news = tmp_path / "news.jsonl"
    news.write_text('{"at": "2025-01-12T00:00:00Z", "title": "x", "source": "y"}\n')
    models = ("openai/a", "openai/b")
    request = ComparisonRequest(
        candles={SYMBOL: str(candles)}, deciders=("llm:single",), models=models, mask=True, news=str(news)
    )
    work = plan_work(request)
    assert {(variant.model, job.strategy.models) for variant, job in work.paid} == {(each, (each,)) for each in models}
    assert "masked replays are told none" in caplog.text


def test_forked_processes_and_this_one_print_the_same_fingerprints(candles):
    work = plan_work(
        ComparisonRequest(candles={SYMBOL: str(candles)}, deciders=("rules", "random:1"), quiet=0, events=0)
    )
    here = {trial.label: trial.summary["fingerprint"] for trial in map(parallel_backtests.run_job, work.free)}
    forked = {trial.label: trial.summary["fingerprint"] for trial in parallel_backtests.run_all(work.free, processes=2)}
    assert here == forked
    assert len(set(here.values())) == len(work.variants)


def test_funding_of_a_symbol_without_candles_is_named(candles):
    with pytest.raises(InputError, match="funding of DOGE/USDT: give it for symbols of the candles"):
        plan_work(ComparisonRequest(candles={SYMBOL: str(candles)}, funding={"DOGE/USDT": "rates.csv"}))


@pytest.mark.slow
async def test_the_flow_leaves_the_table_and_a_link_as_artifacts(candles, prefect_server):
    from prefect.client.orchestration import get_client

    days = {"start": datetime(2025, 1, 12, tzinfo=UTC), "end": datetime(2025, 1, 17, tzinfo=UTC)}
    found = await asyncio.to_thread(
        evaluate, ComparisonRequest(candles={SYMBOL: str(candles)}, quiet=0, events=20, seeds=5, **days)
    )
    assert Path(found["report"]).is_file()
    async with get_client() as client:
        artifacts = {artifact.key: artifact for artifact in await client.read_artifacts()}
    table = artifacts["comparison"].data
    assert table.startswith("rules is not shown to differ from hold: too little to tell")
    assert "| moment | asked for | rules | hold | difference, R |" in table
    assert "| rules |" in table
    assert "report.html" in artifacts["comparison-report"].data


@pytest.mark.slow
def test_dask_workers_print_the_same_fingerprints(candles):
    distributed = pytest.importorskip("distributed")
    work = plan_work(ComparisonRequest(candles={SYMBOL: str(candles)}, deciders=("rules",), quiet=0, events=0))
    here = {trial.label: trial.summary["fingerprint"] for trial in map(parallel_backtests.run_job, work.free)}
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        there = list(parallel_backtests.run_all(work.free, dask=cluster.scheduler_address))
    assert {trial.label: trial.summary["fingerprint"] for trial in there} == here


@pytest.mark.slow
async def test_a_run_replays_on_dask_as_its_own_tasks(candles, prefect_server):
    import distributed
    from prefect.client.orchestration import get_client

    days = {"start": datetime(2025, 1, 12, tzinfo=UTC), "end": datetime(2025, 1, 17, tzinfo=UTC)}
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        request = ComparisonRequest(
            candles={SYMBOL: str(candles)}, quiet=0, events=0, seeds=5, dask=cluster.scheduler_address, **days
        )
        assert (await asyncio.to_thread(evaluate, request))["complete"]
    async with get_client() as client:
        names = {run.name for run in await client.read_task_runs()}
    assert "replay-rules-0-raw" in names


def test_a_second_run_asks_nothing_and_finds_the_same(candles, server):
    asked = ("--decider", "llm:single@v001", "--model", "openai/test", "--max-cost", "100", *SPAN)
    first = compared(candles, *asked)
    paid = len(server.requests)
    most = re.search(r"asked at most (\d+) times", run(candles, *asked).stderr)
    assert paid <= int(most[1]) < 6 * paid  # what it holds is reviewed each hour
    again = compared(candles, *asked)
    assert paid > 5
    assert len(server.requests) == paid
    assert first["rows"] == again["rows"]
    assert (again["spent"]["asked"], again["spent"]["usd"], again["spent"]["reused"]) == (0, 0, paid)
    assert spent_text(again["spent"]).startswith("0 asked now, 0 USD spent now (assumed), ")
    costs = {row[0]: row[-1] for row in table(again)}
    assert (costs["llm:single@v001 openai/test"], costs["hold"]) == (f"{paid * 0.011:.6g} assumed", "0")
    mine = rows(first)["llm:single@v001 openai/test"]
    assert mine["trades"] > 0
    assert mine["llm_cost_usd"] == pytest.approx(first["spent"]["usd"])
    assert mine["model_calls"] == mine["decisions"] == paid


def test_a_model_on_this_machine_is_free_in_the_table_and_above_it(candles, server, monkeypatch):
    monkeypatch.delenv("QUARTERDECK_BUDGET__USD_PER_1K_TOKENS")
    settings.cache_clear()
    asked = ("--decider", "llm:single@v001", "--model", "openai/test", "--start", "2025-01-12", "--end", "2025-01-13")
    found = compared(candles, *asked, "--max-cost", "0")
    assert found["complete"]
    assert spent_text(found["spent"]).startswith(
        f"{len(server.requests)} asked now, 0 USD spent now (free: served here)"
    )
    assert table(found)[0][-1] == "0 free: served here"


def test_the_cap_stops_with_what_there_is_and_says_so(candles, server, tmp_path):
    asked = ("--decider", "llm:single", "--model", "openai/test", "--max-cost", "0.10", "--start", "2025-01-08")
    found = compared(candles, *asked, "--out", str(tmp_path / "out"))
    assert 0 < found["spent"]["usd"] <= 0.10
    assert not found["complete"]
    mine = found["rows"][0]
    assert found["verdict"]["sentence"] == f"No verdict: {mine['label']} was cut short by its cost."
    page = (tmp_path / "out" / "report.html").read_text()
    assert [part.count(f"<td>{mine['label']}</td>") for part in page.split('<h2 id="partial">')] == [0, 2]
    assert (mine["complete"], mine["invalid"]) == (False, 0)
    assert 0 < mine["decisions"] == len(server.requests)
    assert mine["decisions"] < rows(found)["hold"]["decisions"]


def test_every_role_of_a_panel_is_asked_and_paid_for_once(candles, server):
    asked = ("--decider", "llm:panel@risk/v001", "--model", "openai/test", "--max-cost", "100", *SPAN)
    first = compared(candles, *asked)
    assert first["spent"]["asked"] == len(server.requests) >= 2 * first["rows"][0]["decisions"]
    assert compared(candles, *asked)["spent"]["asked"] == 0


def test_two_models_and_a_cutoff_are_variants_of_one_decider(candles, server):
    found = compared(
        candles, "--decider", "llm:single@v001", "--model", "openai/a", "--model", "openai/b", "--max-cost", "100",
        "--cutoff", "openai/a=2025-01-13", *SPAN, "--windows", "3",
    )  # fmt: skip
    assert list(rows(found))[:2] == ["llm:single@v001 openai/a", "llm:single@v001 openai/b"]
    assert {request["model"] for request in server.requests} == {"a", "b"}
    assert [w["cutoff"] for w in found["rows"][0]["windows"]] == ["before", "after", "after"]
    assert [w["cutoff"] for w in found["rows"][1]["windows"]] == ["unknown"] * 3


def looking_up(request: Any) -> Reply:
    """Plan once, then open: a planner's prompt is the one that names the tools."""
    if "requests" not in json.dumps(request["response_format"]):
        assert "modelled" in request["messages"][-1]["content"]
        return Reply(json.dumps(OPEN))
    seen = len(request["messages"]) > 2
    asked = asks("candles", timeframe="1h", limit=5), asks("order_book"), asks("digest"), asks("trades")
    return plan(done=True) if seen else plan(*asked)


def test_a_decider_that_looks_things_up_is_compared_and_comes_out_the_same_again(candles, server, monkeypatch):
    server.default = looking_up
    span = ("--start", "2025-01-12", "--end", "2025-01-13", "--max-cost", "9")
    arguments = ("--decider", "llm:tools", "--decider", "rules", "--model", "openai/test", *span)
    found = [compared(candles, *arguments) for _ in range(2)]
    asked = len(server.requests)
    monkeypatch.setenv("QUARTERDECK_HOME", str(candles.parent / "elsewhere"))  # without kept replies
    settings.cache_clear()
    found.append(compared(candles, *arguments))
    assert len(server.requests) == 2 * asked
    first, kept, anew = (rows(each)["llm:tools openai/test"]["windows"][0] for each in found)
    assert first["fingerprint"] == kept["fingerprint"] == anew["fingerprint"]
    assert first["trades"] > 0


def test_what_will_be_asked_is_said_before_and_needs_a_yes(candles, server):
    result = run(candles, "--decider", "llm:single", "--model", "openai/test", *SPAN)
    assert "--max-cost" in str(result.exception)
    assert re.search(r"asked at most \d+ times, for at most [\d.]+ USD", result.stderr)
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--decider", "rulez"), "rulez"),
        (("--decider", "rules:stop=3"), "rules:stop=3"),
        (("--decider", "rules", "--decider", "rules"), "named twice"),
        (("--decider", "llm:single"), "--model"),
        (("--decider", "llm:single@v999", "--model", "openai/a"), "v999"),
        (("--decider", "llm:panel@cook/v001", "--model", "openai/a"), "no role cook"),
        (("--decider", "rules", "--cutoff", "gpt=2024-01-01"), "no variant asks"),
        (("--decider", "rules", "--cutoff", "gpt"), "MODEL=DATE"),
        (("--decider", "rules", "--max-cost", "lots"), "lots"),
        (("--decider", "rules", "--window-days", "400"), "windows of a day"),
        (("--decider", "rules", "--start", "2030-01-01"), "no candles between 2030"),
    ],
)
def test_wrong_input_is_named(candles, arguments, said):
    result = run(candles, *arguments)
    assert result.exit_code != 0
    assert said in str(result.exception)


@pytest.mark.slow
def test_a_dask_scheduler_that_is_not_there_is_named(candles, monkeypatch):
    monkeypatch.setattr(parallel_backtests, "DASK_S", 1)
    assert "--dask tcp://127.0.0.1:1" in str(
        run(candles, "--decider", "rules", "--dask", "tcp://127.0.0.1:1").exception
    )


DAYS = {"start": datetime(2025, 1, 12, tzinfo=UTC), "end": datetime(2025, 1, 17, tzinfo=UTC)}


def tried(candles: Path, symbol: str = SYMBOL, **asked: Any) -> int:
    request = {"deciders": ("rules",), "quiet": 0, "events": 0, "seeds": 5, **DAYS, **asked}
    count: int = carry_out(plan_work(ComparisonRequest(candles={symbol: str(candles)}, **request)), None, None)["tried"]
    return count


def test_every_variant_ever_compared_on_this_data_counts(candles):
    """`hold` never trades: it is no trial."""
    assert tried(candles) == 2
    assert tried(candles, deciders=("rules:stop_atr=3,tp_atr=6", "random:1")) == 4
    assert tried(candles) == 4


def test_a_window_costs_a_name_and_a_candle_less_start_no_new_count(candles, tmp_path, monkeypatch):
    assert tried(candles) == 2
    assert tried(candles, start=datetime(2025, 1, 13, tzinfo=UTC)) == 4
    monkeypatch.setenv("QUARTERDECK_COSTS__TAKER_BPS", "9")
    settings.cache_clear()
    assert tried(candles) == 6
    monkeypatch.delenv("QUARTERDECK_COSTS__TAKER_BPS")
    settings.cache_clear()
    assert tried(candles, symbol="XBT/USDT:USDT") == 6, "the same trial under another name"
    whole = pd.read_parquet(candles)
    whole.iloc[:-1].to_parquet(tmp_path / "less.parquet")
    assert tried(tmp_path / "less.parquet") == 8
    prices = ["open", "high", "low", "close"]
    whole.assign(**whole[prices] * 10).to_parquet(tmp_path / "scaled.parquet")
    assert tried(tmp_path / "scaled.parquet", symbol="OTHER/USDT:USDT") >= 8
    other = whole.assign(
        **whole[prices].iloc[::-1].reset_index(drop=True)[["open", "low", "high", "close"]].set_axis(prices, axis=1)
    )
    other.assign(high=other[prices].max(axis=1), low=other[prices].min(axis=1)).to_parquet(tmp_path / "other.parquet")
    assert tried(tmp_path / "other.parquet") == 2, "other candles have their own"


def test_what_an_earlier_release_counted_in_home_still_counts(candles, home):
    work = plan_work(
        ComparisonRequest(candles={SYMBOL: str(candles)}, deciders=("rules",), quiet=0, events=0, seeds=5, **DAYS)
    )
    data = parallel_backtests.data_hash(work.job.seen)
    rows = [{"data": data, "variant": f"v{k}", "sharpe": 0.1 * k, "at": "2026-01-01T00:00:00Z"} for k in range(3)]
    rows.append({**rows[0], "data": "another"})
    (home / "evaluations").mkdir()
    (home / "evaluations" / "tried.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert [tried(candles), tried(candles)] == [5, 5]
    assert compare.VariantsTried.of([0.0, 0.1, 0.2, None]) == (4, pytest.approx(0.01))
