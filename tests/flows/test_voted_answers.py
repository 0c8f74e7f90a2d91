"""A model asked several times about one question: in a replay, live, and what a dataset has of it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from model_server import ModelServer, Reply
from records_sample import BTC, bars
from sandbox_server import running_sandbox

from deployments.cli import cli
from flows.trade import Request, run_cycles
from tasks.adapters.files import dataset
from tasks.adapters.store.shadow import CHAMPION
from tasks.connections import store, venue
from tasks.core.errors import InputError
from tasks.core.lab import rl
from tasks.core.lab.moments import closes
from tasks.core.market.market import Market
from tasks.settings import settings

OPEN = {"action": "OPEN_LONG", "size_pct": 10, "stop_atr": 2, "tp_atr": 4, "confidence": 0.7, "reasoning": "up"}
LONG, HOLD = (Reply(json.dumps(each), tokens_in=900) for each in (OPEN, {"action": "HOLD", "confidence": 0.5}))

pytestmark = pytest.mark.slow


def drawn(request: dict[str, Any]) -> Reply:
    """Answer each sample by its seed: the first goes long, and the prompt's is 7."""
    return LONG if request["seed"] % 3 == 1 else HOLD


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    with ModelServer(default=None) as running:
        running.default = drawn
        monkeypatch.setenv("QUARTERDECK_MODEL", "openai/test")
        monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", running.url)
        settings.cache_clear()
        yield running


def run(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) | {"said": result.stderr}


def test_a_replay_keeps_every_vote_comes_out_again_and_its_dataset_has_the_odds(home: Path, server: ModelServer):
    candles, out = home / "btc.parquet", home / "run"
    frame = bars()[BTC].reset_index(names="ts")
    frame.assign(ts=frame["ts"].astype("datetime64[ms, UTC]").astype("int64")).to_parquet(candles)
    data = ("--candles", candles, "--symbol", BTC)
    start, end = frame["ts"].iloc[4000], frame["ts"].iloc[4600]
    span = ("--start", start.isoformat(), "--end", end.isoformat())
    asked = ("backtest", *data, *span, "--decider", "llm:single@v003", "--votes", 3, "--max-cost", 9)
    first = run(*asked, "--out", out)
    events = closes(Market.from_base(BTC, bars()[BTC]), start, end)
    reviews = [at for at in frame["ts"] + timedelta(minutes=5) if start < at <= end and at.minute == 5]
    most = 3 * (len(events) + len(reviews))
    assert f"asked at most {most} times" in first["said"], "the votes are in the estimate"
    assert len(server.requests) == 3 * first["calls"]
    records = list(dataset.read_records(out / "records.jsonl"))
    assert {len(record.decided.votes) for record in records} == {3}
    assert run("replay", "--all", "--records", out / "records.jsonl", *data)["match"] == len(records) > 10
    before = len(server.requests)
    assert run(*asked)["fingerprint"] == first["fingerprint"]
    assert len(server.requests) == before, "each sample was kept, under a name of its own"

    told = run("export-rl", "--records", out, *data, "--out", home / "set", "--format", "dpo", "--format", "sft")
    rows = [row for split in rl.SPLITS for row in pq.read_table(home / "set" / f"{split}.parquet").to_pylist()]
    assert {row["behavior_propensity"] for row in rows} == {1 / 3}, "the first of three goes long, the others hold"
    assert {(row["votes"], row["behavior_propensity_kind"], row["asked_propensity_kind"]) for row in rows} == {
        (3, "vote_share", "vote_share")
    }
    assert all(row["propensity"] is not None for row in rows), "the guard's word on each vote is known"
    pairs = [json.loads(line) for file in (home / "set" / "dpo").glob("*.jsonl") for line in file.open()]
    assert sum(told["examples"]["dpo"].values()) == len(pairs) > 0
    assert all(pair["margin"] >= 0.2 for pair in pairs)
    assert {pair["chosen"][0]["content"] for pair in pairs} <= {LONG.content, HOLD.content}


@pytest.mark.parametrize("decider", ["rules", "ensemble:vote:rules=1,hold=1"])
def test_votes_of_who_asks_no_model_are_refused_in_a_line(home: Path, decider: str):
    arguments = ["backtest", "--candles", "none.parquet", "--symbol", BTC, "--decider", decider, "--votes", "3"]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, InputError)
    assert "--votes 3" in str(result.exception)


async def test_live_the_champion_decides_at_once_and_its_votes_come_after_by_the_shadows_purse(
    home: Path, server: ModelServer, monkeypatch: pytest.MonkeyPatch
):
    start = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)
    with running_sandbox(symbols=(BTC,), start=start, stepped=True, seed=3) as url:
        settled = {"SANDBOX_URL": url, "SYMBOLS": BTC, "HISTORY_BARS": "300", "VOTES": "3"}
        for name, value in (settled | {"SHADOW_BUDGET__CALLS_PER_DAY": "1"}).items():
            monkeypatch.setenv(f"QUARTERDECK_{name}", value)
        settings.cache_clear()
        request = Request(symbols=(BTC,), decider="llm:single@v003", reason="a test asks", as_of=start)
        [record] = await run_cycles(request)
        await venue().close()
    assert (len(record.decided.calls), record.decided.votes) == (1, ())
    [shadow] = store().shadow.between("default", CHAMPION, start - timedelta(minutes=5), start)
    assert [vote.action for vote in shadow.decided.votes] == ["OPEN_LONG", "HOLD"], (
        "a third was more than the purse has"
    )
    assert len(server.requests) == 2
    [kept] = dataset.store_source(store(), "default").records()
    assert kept.decided.votes == shadow.decided.votes
    assert kept.replace(decided=record.decided) == store().cycles.get(record.cycle_id)
