"""From records to a policy that was compared where it had not learnt; and the dataset of the store."""

import json
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from records_sample import BTC, bars, records

from deployments.cli import cli
from tasks.connections import store


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_loop_ends_in_a_comparison_over_what_was_not_learnt(home: Path):
    candles, kept, out = home / "btc.parquet", home / "records.jsonl", home / "out"
    frame = bars()[BTC].reset_index(names="ts")
    frame.assign(ts=frame["ts"].astype("datetime64[ms, UTC]").astype("int64")).to_parquet(candles)
    kept.write_text("".join(r.model_dump_json() + "\n" for r in records() if r.symbol == BTC))
    said = run("loop", "--records", kept, "--candles", candles, "--symbol", BTC, "--out", out)
    labels = {row["label"] for row in said["compared"]["rows"]}
    assert {f"model:{out / 'policy.onnx'}", "rules", "hold", "buy-and-hold"} <= labels
    test = pq.read_table(out / "dataset" / "test.parquet", columns=["as_of"])["as_of"].to_pylist()
    assert datetime.fromisoformat(said["from"]) <= min(test)
    assert (out / "comparison" / "report.html").is_file()


def test_without_records_the_stores_cycles_are_exported(home: Path):
    for record in records()[:40]:
        store().cycles.begin(record, record.as_of)
        store().cycles.save(record, record.as_of)
    said = run("export-rl", "--out", home / "out")
    assert said["transitions"] + sum(said["left_out"].values()) == 40
    assert json.loads((home / "out" / "card.json").read_text())["source"] == "store: default"
