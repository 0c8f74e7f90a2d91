"""Prompts written by evidence, against a real MLflow and scripted models: what helps is found, and only that."""

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import model_replies
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow_server import running_mlflow
from model_server import ModelServer, Reply
from test_prompt_lab import PLAN, SYMBOL, lab

from deployments.cli import cli
from tasks.adapters.files.candles import read_candles
from tasks.adapters.files.prompts import aliases, files_of, list_prompts, load_prompt, save_prompt
from tasks.adapters.mlflow.comparison import server_of
from tasks.adapters.parallel_backtests import day_hashes
from tasks.connections import store
from tasks.core.decision.llm.prompt import parse_prompt
from tasks.core.errors import InputError
from tasks.optimize import OptimizationRequest, assign, estimated
from tasks.settings import settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # hundreds of moments: fewer say nothing

HELPS = "Trade with the side of the 15m rsi, and hold where it is 50."
NEVER = ("Be patient.", "Prefer small sizes.", "Costs matter.")


def tape(seed: int, drift: float, days: int = 80, regime: int = 3) -> pd.DataFrame:
    """Return candles whose drift, per bar, turns every `regime` days: RSI then says which way the next day goes."""
    rng, n = np.random.default_rng(seed), days * 288
    way = np.where((np.arange(n) // (288 * regime)) % 2 == 0, 1, -1)
    close = np.round(60_000 * np.exp(np.cumsum(rng.normal(0, 1e-3, n) + drift * way)), 1)
    open_ = np.r_[60_000.0, close[:-1]]
    return pd.DataFrame(
        {
            "ts": 1_735_689_600_000 + np.arange(n) * 300_000, "open": open_, "high": np.maximum(open_, close) + 20,
            "low": np.minimum(open_, close) - 20, "close": close, "volume": rng.lognormal(3, 0.5, n),
        }
    )  # fmt: skip


class InstructedModel(ModelServer):
    """Trades by the RSI where the instructions say so, else sells; `draws`: or buys, by instructions and question.

    Asked for new instructions it adds a sentence, each time the next one; the same question has the same answer.
    """

    def __init__(self, *sentences: str, draws: bool) -> None:
        super().__init__(default=self.answer)
        self.sentences, self.proposed, self.draws = cycle(sentences), dict[str, str](), draws

    def answer(self, request: dict[str, Any]) -> Reply:
        first, last = (request["messages"][end]["content"] for end in (0, -1))
        if found := re.search(r"<instructions>\n(.*)\n</instructions>", last, re.S):
            text = self.proposed.setdefault(last, f"{found[1]}\n{next(self.sentences)}")
            return Reply(json.dumps({"reasoning": "as scripted", "prompt": text}), tokens_in=3000, tokens_out=1500)
        [pair] = re.findall(r"^Pair: (.*)$", last, re.M)
        rsi = re.search(r"^15m - (\d+)", last, re.M)
        drawn = self.draws and hashlib.sha256(f"{first}{last}".encode()).digest()[0] % 2 * 100
        side = float(rsi[1]) - 50 if rsi and HELPS in first else drawn - 50
        action = "HOLD" if side == 0 else "OPEN_LONG" if side > 0 else "OPEN_SHORT"
        plan = {"confidence": 0.8, "comment": "as asked"} if action == "HOLD" else PLAN
        return Reply(json.dumps({**plan, "symbol": pair, "action": action}), tokens_in=900, tokens_out=80)


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture
def prompts(home: Path, mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prompt files of our own: the versions there are."""
    folder = home / "prompts"
    for prompt in list_prompts():
        (folder / prompt.name).mkdir(parents=True, exist_ok=True)
        (folder / prompt.name / f"{prompt.version}.md").write_text(prompt.text)
    for reads in (load_prompt, list_prompts, files_of, save_prompt):
        monkeypatch.setattr(reads, "__defaults__", (*reads.__defaults__[:-1], folder))
    monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", mlflow_url)
    return folder


def asking(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", server.url)
    settings.cache_clear()


OPTIMIZE = ("--model", "openai/test", "--reflection-model", "openai/writer", "--max-cost")


def test_what_helps_is_found_within_the_agreed_cost_and_becomes_a_challenger(
    prompts: Path, mlflow_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tape(8, 5e-4, days=60).to_parquet(tmp_path / "btc.parquet")
    with InstructedModel(NEVER[0], "Ask for ${more}.", HELPS, NEVER[1], draws=False) as server:
        asking(server, monkeypatch)
        made = ("--candles", str(tmp_path / "btc.parquet"), "--symbol", SYMBOL, "--events", "100", "--mask")
        lab("moments", "create", "turning", *made)
        search = ("prompts", "optimize", "single", "--moments", "turning", "--candidates", "4", *OPTIMIZE)
        with pytest.raises(InputError, match=r"--max-cost: 0\.9 USD are reached; the same command goes on from here"):
            lab(*search, "0.9")
        before = len(server.requests)
        found = lab(*search, "8")
        sent = [json.dumps(each["messages"]) for each in server.requests]
        assert before > 30
        assert set(sent[:before]).isdisjoint(sent[before:]), "what was answered is not asked again"
        assert found["spent"]["usd"] < 7
        assert all(each["passed"] for each in found["criteria"]), found["criteria"]
        assert [each["name"] for each in found["criteria"]][-2:] == ["version in use", "locked window"]
        assert (found["versions"], found["tried"]) == (["single/v004"], 3)
        again = lab(*search, "8")
        assert again["spent"]["asked"] == 0
        assert (again["versions"], again["locked_window_opened_before"]) == (["single/v004"], [3])
    made = parse_prompt((prompts / "single" / "v004.md").read_text(), "single/v004")
    assert made.system == f"{load_prompt('single', 'v003').system}\n{HELPS}"
    assert re.search(r"^\+\d\.\d+ R a moment on turning@1, single/v003 [-+]\d\.\d+; best of 3$", made.why)
    assert "lineage:\n  parents: [single/v003]\n  moments: turning@1\n  model: openai/test\n" in made.text
    named = aliases()["single"]
    assert (named["challenger"].version, named["champion"].version) == ("v004", "v003")
    assert load_prompt("single").version == "v003"

    server = server_of(mlflow_url)
    run = server.client.get_run(found["mlflow_run"])
    assert (run.info.run_name, run.data.tags["locked_window"]) == ("optimize single", "opened")
    assert run.data.params["minibatch"] == str(found["minibatch"])
    assert run.data.tags["mlflow.note.content"].startswith("single/v004 is challenger now, the best of 3 candidates")
    children = [server.client.get_run(each).data.tags for each in found["evaluations"].values()]
    assert {each["mlflow.parentRunId"] for each in children} == {found["mlflow_run"]}
    rows = server.mlflow.load_table("candidates.json", [found["mlflow_run"]])
    assert len(rows) == 5
    assert rows["refused"].str.contains("must be static").sum() == 1
    assert rows["validation_r"].idxmax() == rows["single"].str.contains(HELPS).idxmax()
    assert set(found["evaluations"]) == {"llm:single@v004 openai/test", "llm:single@v003 openai/test"}
    assert int(server.client.get_prompt_version_by_alias("quarterdeck.single", "challenger").version) == 4


def test_where_no_prompt_helps_there_is_no_challenger_and_every_candidate_counts(
    prompts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tape(3, 0.0, days=45).to_parquet(tmp_path / "btc.parquet")
    with InstructedModel(*NEVER, draws=True) as server:
        asking(server, monkeypatch)
        made = ("--candles", str(tmp_path / "btc.parquet"), "--symbol", SYMBOL, "--events", "100")
        lab("moments", "create", "aimless", *made)
        search = ("prompts", "optimize", "single", "--moments", "aimless", "--candidates", "3", *OPTIMIZE, "8")
        with pytest.raises(InputError, match="--moments aimless: not masked, and a model may remember"):
            lab(*search)
        found = lab(*search, "--unmasked")
        assert (found["versions"], found["tried"]) == ([], 3)
        assert "locked window" not in [each["name"] for each in found["criteria"]]
        days = day_hashes([read_candles(tmp_path / "btc.parquet")])
        assert len(store().trials.sharpes(days)) == 4, "a comparison over these candles counts them, and what is in use"
        work = assign(OptimizationRequest(role="risk", moments="aimless", unmasked=True, model="openai/test"))
        assert list(work.parents) == ["risk"]
        work = assign(OptimizationRequest(role="panel", moments="aimless", unmasked=True, model="openai/test"))
        assert len(work.parents) == 6
        assert estimated(work)[0] == 23 * 6 * len(work.moments) + 20
    assert not (prompts / "single" / "v004.md").exists()
    told = CliRunner().invoke(cli, ["prompts", "optimize", "planner", "--moments", "aimless", "--max-cost", "1"])
    assert "role 'planner' has no prompt that moments can be put to; there are technical" in str(told.exception)


class InstructedPanel(InstructedModel):
    """Answers as each role is asked; asked for new instructions, as its base does."""

    def answer(self, request: dict[str, Any]) -> Reply:
        asked = "<instructions>" in request["messages"][-1]["content"]
        return super().answer(request) if asked else model_replies.panel(request)


def test_a_panels_prompts_are_written_together(
    prompts: Path, mlflow_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tape(3, 2e-4, days=45).to_parquet(tmp_path / "btc.parquet")
    with InstructedPanel("Prefer small sizes.", draws=True) as server:
        asking(server, monkeypatch)
        made = ("--candles", str(tmp_path / "btc.parquet"), "--symbol", SYMBOL, "--events", "100", "--mask")
        lab("moments", "create", "panel", *made)
        found = lab("prompts", "optimize", "panel", "--moments", "panel", "--candidates", "6", *OPTIMIZE, "50")
    rows = server_of(mlflow_url).mlflow.load_table("candidates.json", [found["mlflow_run"]])
    roles = ["technical", "orderbook", "sentiment", "trend", "reversion", "risk"]
    added = rows[roles].apply(lambda texts: texts.str.endswith("Prefer small sizes."))
    assert added.iloc[0].sum() == 0
    assert set(added.columns[added.any()]) == set(roles), "each role has its turn"
    assert found["versions"] == []
