"""`import quarterdeck` in a notebook: the one in docs runs, and what is asked wrong is one line."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import quarterdeck

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"
pytestmark = pytest.mark.slow


async def test_the_notebook_runs_in_a_loop_of_its_own(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    rules, both = names["rules"], names["both"]
    assert len(rules.equity) == rules.summary["candles"]
    assert isinstance(rules.equity.index, pd.DatetimeIndex)
    assert len(rules.decisions) == rules.summary["calls"] > 0
    assert len(names["entered"]) > 0
    assert {"rules", "hold"} <= set(both.table.index)
    assert both.verdict == both.document["verdict"]["sentence"]
    assert both.table.loc["rules", "return_pct"] == pytest.approx(rules.equity.iloc[-1] / 100 - 100, abs=1e-3)
    with pytest.raises(quarterdeck.InputError, match="decider 'nonsense' is unknown"):
        quarterdeck.backtest(names["candles"], "nonsense")
    with pytest.raises(quarterdeck.InputError, match="nowhere: No such file"):
        quarterdeck.records("nowhere")


def test_what_is_asked_at_once_comes_out_as_one_after_the_other_and_what_is_no_option_is_one_line(home, tmp_path):
    days = pd.date_range("2025-01-01", periods=288 * 6, freq="5min", tz="UTC")
    price = pd.Series(range(len(days)), dtype=float) % 97 + 1000
    candles = pd.DataFrame({"ts": days.as_unit("ms").astype("int64"), "open": price, "high": price + 2,
                            "low": price - 2, "close": price, "volume": 5.0})  # fmt: skip
    candles.to_parquet(tmp_path / "btc.parquet")
    files = {"BTC/USDT:USDT": tmp_path / "btc.parquet"}
    deciders = ["hold", "buy-and-hold", "rules"]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda decider: quarterdeck.backtest(files, decider), deciders))
    alone = [quarterdeck.backtest(files, decider).summary["fingerprint"] for decider in deciders]
    assert [each.summary["fingerprint"] for each in done] == alone
    assert len(set(alone)) > 1
    with pytest.raises(quarterdeck.InputError, match=r"No such option.*--strategy"):
        quarterdeck.backtest(files, strategy="mine")
    with pytest.raises(quarterdeck.InputError, match="--start"):
        quarterdeck.backtest(files, start="soon")


def test_without_a_system_there_are_no_records_to_read(home):
    with pytest.raises(quarterdeck.InputError, match="database"):
        quarterdeck.records()
