"""The backtest command: interrupted, resumed, masked, with funding; a folder appears when it is whole."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from instrument_cases import linear

from deployments.cli import cli
from flows.commands.options import markets
from flows.commands.snapshot import _moment
from tasks.connections import store
from tasks.core.decision.memory import UNTRIED
from tasks.core.errors import InputError
from tasks.core.lab.masking import LOOK_UP
from tasks.core.lab.moments import flat_account, flat_question
from tasks.core.simulation.backtest_inputs import World
from tasks.core.types.record import CycleRecord
from tasks.core.types.strategy import Strategy
from tasks.settings import ROOT

SYMBOL = "X/USDT:USDT"


@pytest.fixture(scope="module")
def candles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12,000 candles of a seeded walk with drifts."""
    rng = np.random.default_rng(5)
    n = 12_000
    close = 60_000 * np.exp(np.cumsum(rng.normal(0, 1.5e-3, n) + np.repeat(rng.normal(0, 4e-4, n // 400), 400)))
    open_ = np.r_[60_000.0, close[:-1]]
    values = {"open": open_, "high": np.maximum(open_, close) * 1.001, "low": np.minimum(open_, close) * 0.999}
    frame = pd.DataFrame(values | {"close": close, "volume": rng.lognormal(3, 0.7, n)}).round(1)
    path = tmp_path_factory.mktemp("candles") / "x.parquet"
    frame.assign(ts=1_735_689_600_000 + np.arange(n) * 300_000).to_parquet(path)
    return path


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Each command gets a state of its own."""


def backtest(candles: Path, *options: object) -> dict[str, Any]:
    arguments = ["backtest", "--candles", f"{SYMBOL}={candles}", "--decider", "rules", "--json", *map(str, options)]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_ctrl_c_leaves_a_run_that_the_same_command_finishes(candles, tmp_path, home):
    straight = backtest(candles, "--out", tmp_path / "a")
    records = tmp_path / "b.partial" / "records.jsonl"
    options = ["--candles", f"{SYMBOL}={candles}", "--decider", "rules", "--out", str(tmp_path / "b")]
    run = subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", "backtest", *options], cwd=ROOT, stdout=subprocess.DEVNULL,
        env={**os.environ, "QUARTERDECK_HOME": str(home)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while run.poll() is None and not (records.exists() and records.stat().st_size):
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate()
    if run.returncode:  # 0: a machine so slow to wake us that all was done
        assert run.returncode == 130, said
        assert "the same command goes on" in said
        with records.open("ab") as file:
            file.write(b'{"half a rec')
        assert backtest(candles, "--out", tmp_path / "b")["fingerprint"] == straight["fingerprint"]
    written = [(tmp_path / name / "records.jsonl").read_bytes() for name in ("a", "b")]
    assert [hashlib.sha256(text).hexdigest() for text in written] == [straight["fingerprint"]] * 2
    assert not (tmp_path / "b.partial").exists()


def test_a_folder_of_another_run_is_not_gone_on_with(candles, tmp_path):
    backtest(candles, "--out", tmp_path / "a")
    (tmp_path / "b.partial").mkdir()
    lines = (tmp_path / "a" / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "b.partial" / "records.jsonl").write_bytes(lines[0].replace(b'"rules"', b'"hold"') + lines[1])
    with pytest.raises(InputError, match=r"cannot go on with .*b\.partial: its record 1 differs"):
        backtest(candles, "--out", tmp_path / "b")


def test_a_mask_hides_the_market_trades_the_same_and_says_how_to_undo_it(candles, tmp_path):
    window = ("--start", "2025-01-10", "--end", "2025-01-30")
    plain, masked = backtest(candles, *window), backtest(candles, *window, "--mask", "--out", tmp_path / "m")
    assert masked["by_action"] == plain["by_action"]
    assert masked["return_pct"] == pytest.approx(plain["return_pct"], abs=0.01)
    [(name, undone)] = masked["mask"]["symbols"].items()
    assert [name] == masked["symbols"] != plain["symbols"]
    assert undone["symbol"] == SYMBOL
    text = (tmp_path / "m" / "records.jsonl").read_text()
    assert SYMBOL not in text
    assert "2025-01-" not in text
    assert backtest(candles, *window, "--mask=other")["symbols"] != masked["symbols"]


@pytest.mark.parametrize("mask", ["--mask", "--mask=strong"])
def test_a_masked_run_replays_from_its_folder_and_the_true_candles(candles, tmp_path, mask):
    window = ("--start", "2025-01-15", "--end", "2025-01-20")
    made = backtest(candles, *window, mask, "--out", tmp_path / "m")
    assert made["mask"]["look_up"] == LOOK_UP
    records = ["--records", str(tmp_path / "m" / "records.jsonl"), "--candles", f"{SYMBOL}={candles}"]
    result = CliRunner().invoke(cli, ["replay", "--all", "--json", *records], catch_exceptions=False)
    told = json.loads(result.stdout)
    assert (result.exit_code, told["match"], told["differ"]) == (0, made["decisions"], 0)
    assert made["decisions"] > 5


def test_a_strong_mask_perturbs_the_candles(candles):
    window = ("--start", "2025-01-10", "--end", "2025-01-30")
    plain, strong = (backtest(candles, *window, f"--mask={key}") for key in ("other", "strong"))
    assert strong["mask"]["key"] == "strong"
    assert strong["decisions"] != plain["decisions"]
    assert strong["by_action"] != plain["by_action"]


def test_recorded_replies_are_not_looked_for_behind_a_mask(candles, tmp_path):
    arguments = ["backtest", "--candles", f"{SYMBOL}={candles}", "--decider", "recorded:x", "--mask"]
    with pytest.raises(InputError, match="answers by symbol and time"):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_funding_is_read_from_a_file_and_else_unknown(candles, tmp_path):
    rates = pd.DataFrame({"ts": 1_735_689_600_000 + np.arange(125) * 28_800_000, "rate": 1e-4})
    rates.to_csv(tmp_path / "f.csv", index=False)
    known = backtest(candles, "--funding", f"{SYMBOL}={tmp_path / 'f.csv'}", "--mask")
    assert (known["funding"], known["funding_coverage"], known["funding_unknown"]) == ("known", 1, [])
    assert known["funding_quote"] != 0
    without = backtest(candles)
    assert (without["funding"], without["funding_coverage"], without["funding_unknown"]) == ("unknown", 0, [SYMBOL])
    rates.assign(ts=rates["ts"] // 1000).to_csv(tmp_path / "s.csv", index=False)
    in_seconds = backtest(candles, "--funding", f"{SYMBOL}={tmp_path / 's.csv'}", "--mask")
    assert (in_seconds["funding"], in_seconds["funding_quote"]) == ("known", known["funding_quote"])


def test_funding_of_three_days_is_not_that_of_forty(candles, tmp_path):
    rates = pd.DataFrame({"ts": 1_735_689_600_000 + np.arange(9) * 28_800_000, "rate": 1e-4})
    rates.to_csv(tmp_path / "f.csv", index=False)
    partly = backtest(candles, "--funding", f"{SYMBOL}={tmp_path / 'f.csv'}")
    assert (partly["funding"], partly["funding_unknown"]) == ("partial", [])
    assert partly["funding_coverage"] == pytest.approx(3 / 41.67, abs=0.002)


def test_candles_without_volume_are_refused_and_missing_ones_are_named(candles, tmp_path):
    frame = pd.read_parquet(candles)
    frame.assign(volume=0.0).to_csv(tmp_path / "still.csv", index=False)
    with pytest.raises(InputError, match=r"still\.csv: every volume is 0"):
        backtest(tmp_path / "still.csv")
    frame.drop(index=range(4_000, 4_864)).to_parquet(tmp_path / "cut.parquet")
    command = ["--candles", f"{SYMBOL}={tmp_path / 'cut.parquet'}"]
    result = CliRunner().invoke(cli, ["backtest", *command, "--decider", "rules", "--json"], catch_exceptions=False)
    assert result.stderr.count("864 bars of 5m missing in 1 gaps, the longest 864 from 2025-01-14 21:20") == 1
    assert json.loads(result.stdout)["gaps"] == {
        SYMBOL: {
            "gaps": 1, "missing_bars": 864, "timeframe": "5m", "longest_bars": 864,
            "longest_from": "2025-01-14T21:20:00Z",
        }
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["events", "--start", "2030-01-01"],
        ["events", "--end", "2020-01-01", "--json"],
        ["backtest", "--end", "2020-01-01"],
        ["backtest", "--start", "2025-01-20", "--end", "2025-01-10"],
        ["compare", "--decider", "rules", "--end", "2020-01-01"],
    ],
)
def test_a_span_without_candles_is_named_with_where_they_are(candles, arguments):
    command, *options = arguments
    with pytest.raises(InputError, match=r"no candles between .*: these are from 2025-01-01 00:00 to 2025-02-11 16:00"):
        CliRunner().invoke(cli, [command, "--candles", f"{SYMBOL}={candles}", *options], catch_exceptions=False)


@pytest.mark.parametrize("command", [["snapshot"], ["question", "--decider", "llm:single"]])
def test_a_moment_is_from_the_first_close_to_the_last(candles, command):
    def asked(at: str) -> int:
        arguments = [*command, "--candles", f"{SYMBOL}={candles}", "--as-of", at]
        return CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code

    assert [asked(at) for at in ("2025-01-01T00:05Z", "2025-02-11T16:04:59Z")] == [0, 0]
    for outside in ("2025-01-01T00:04Z", "2025-02-11T16:05Z"):
        with pytest.raises(InputError, match=r"they close from 2025-01-01 00:05.* to 2025-02-11 16:00"):
            asked(outside)


@pytest.mark.parametrize("command", [["events"], ["backtest"], ["compare", "--decider", "rules"]])
def test_coarse_candles_are_refused_where_5m_closes_are_needed(tmp_path, command):
    walk = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close", "volume"), np.arange(1.0, 100)))
    walk.assign(ts=1_735_689_600 + np.arange(99) * 3600).to_parquet(tmp_path / "hours.parquet")
    with pytest.raises(InputError, match="candles of 5m or finer"):
        CliRunner().invoke(
            cli, [*command, "--candles", f"{SYMBOL}={tmp_path / 'hours.parquet'}"], catch_exceptions=False
        )


def test_events_are_json_lines_with_json_or_without(candles):
    both = [
        CliRunner().invoke(cli, ["events", "--candles", f"{SYMBOL}={candles}", *more], catch_exceptions=False).stdout
        for more in ((), ("--json",))
    ]
    assert both[0] == both[1]
    assert {tuple(json.loads(line)) for line in both[0].splitlines()} == {("at", "symbol", "reasons")}


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("Y/USDT:USDT=f.csv", "with a symbol of X/USDT:USDT"),
        (f"{SYMBOL}=/no.csv", "no such file"),
        ("f", "SYMBOL=FILE"),
    ],
)
def test_wrong_funding_is_named(option, named, candles):
    with pytest.raises(InputError, match=named):
        backtest(candles, "--funding", option)


def test_a_file_without_rates_is_named(candles, tmp_path):
    (tmp_path / "f.csv").write_text("ts,price\n1,2\n")
    with pytest.raises(InputError, match="needs time,rate, it lacks rate; it has ts, price"):
        backtest(candles, "--funding", f"{SYMBOL}={tmp_path / 'f.csv'}")


def test_instruments_come_from_a_file_or_from_the_candles_before_the_first_decision(candles, tmp_path):
    found = backtest(candles)["instruments"][SYMBOL]
    assert (found["tick"], found["shorting"], found["source"]) == (0.1, True, "inferred")
    terms = tmp_path / "terms.toml"
    terms.write_text(f'["{SYMBOL}"]\ntick = 0.5\nstep = 0.01\n')
    named = backtest(candles, "--instruments", terms)["instruments"][SYMBOL]
    assert (named["tick"], named["step"], named["source"]) == (0.5, 0.01, "file")
    cut = tmp_path / "cut.parquet"
    pd.read_parquet(candles).iloc[:6000].to_parquet(cut)
    assert backtest(cut)["instruments"][SYMBOL] == found


@pytest.mark.parametrize("venue", ["bybit-sandbox", "bybit-paper"])
def test_instruments_come_from_what_ingest_kept_under_its_venues_name(venue, candles):
    stored = linear(SYMBOL, tick=Decimal("0.7"), step=Decimal("0.03"))
    store().instruments.save(venue, stored)
    found = backtest(candles)["instruments"][SYMBOL]
    assert (found["tick"], found["step"], found["source"]) == (0.7, 0.03, "ingested")


def test_a_grid_is_found_in_32_bits_too(candles, tmp_path):
    short, frame = tmp_path / "short.parquet", pd.read_parquet(candles)
    frame.astype({name: "float32" for name in frame.columns if name != "ts"}).to_parquet(short)
    assert backtest(short)["instruments"] == backtest(candles)["instruments"]


def test_an_inverse_contract_is_refused_as_at_the_venue(candles):
    arguments = ["backtest", "--candles", str(candles), "--symbol", "BTC/USD:BTC", "--decider", "rules"]
    error = CliRunner().invoke(cli, arguments).exception
    assert isinstance(error, InputError)
    assert "BTC/USD:BTC is inverse" in str(error)


def test_a_tick_above_the_price_is_refused(candles, tmp_path):
    file = tmp_path / "terms.json"
    file.write_text(json.dumps({SYMBOL: {"tick": 1e9, "step": 0.001}}))
    arguments = ["backtest", "--candles", str(candles), "--symbol", SYMBOL, "--decider", "rules"]
    error = CliRunner().invoke(cli, [*arguments, "--instruments", str(file)]).exception
    assert isinstance(error, InputError)
    assert f"{SYMBOL}: its tick 1000000000.0 is above its price" in str(error)


def test_spot_is_never_sold_short(candles, tmp_path):
    out = tmp_path / "out"
    arguments = ["backtest", "--candles", str(candles), "--symbol", "X/USDT", "--decider", "rules", "--json"]
    done = json.loads(CliRunner().invoke(cli, [*arguments, "--out", str(out)]).stdout)
    assert (done["instruments"]["X/USDT"]["shorting"], done["instruments"]["X/USDT"]["max_leverage"]) == (False, 1)
    assert done["trades"] >= 3
    assert "OPEN_SHORT" not in done["by_action"]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ('{"at": "yesterday", "title": "x"}', "line 1: at"),
        ('{"title": "x"}', "line 1: at"),
        ("[]", "line 1"),
        ('{"at": "2025-01-02", "title": "x"}', "without a time"),
        ('{"at": "9999-12-31T23:59:59-05:00", "title": "x"}', "line 1: at"),
    ],
)
def test_a_news_file_that_cannot_be_read_is_named_with_its_line(lines, named, candles, tmp_path):
    news = tmp_path / "news.jsonl"
    news.write_text(lines)
    arguments = ["backtest", "--candles", str(candles), "--symbol", SYMBOL, "--news", str(news)]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, InputError)
    assert str(news) in str(result.exception)
    assert named in str(result.exception)


def test_records_name_their_strategy_which_stands_beside_them(candles, tmp_path):
    out = tmp_path / "out"
    backtest(candles, "--out", out)
    first = json.loads((out / "records.jsonl").open().readline())
    strategies = json.loads((out / "strategies.json").read_text())
    assert strategies[first["inputs"]["strategy"]]["instruments"][SYMBOL]["tick"] == "0.1"
    again = ["replay", "--all", "--records", str(out / "records.jsonl"), "--candles", str(candles), "--symbol", SYMBOL]
    done = json.loads(CliRunner().invoke(cli, [*again, "--json"]).stdout)
    assert (done["match"], done["differ"], done["not_replayable"]) == (done["records"], 0, {})
    text = (out / "strategies.json").read_text()
    (out / "strategies.json").write_text(text.replace('"tick": "0.1"', '"tick": "0.2"'))
    done = json.loads(CliRunner().invoke(cli, [*again, "--json"]).stdout)
    assert (done["match"], done["differ"]) == (0, 0)
    assert "changed since" in next(iter(done["not_replayable"]))
    (out / "strategies.json").unlink()
    (tmp_path / "limits.json").write_text('{"max_trade_risk_pct": 0.1}')
    for more in ([], ["--limits", str(tmp_path / "limits.json")]):
        done = json.loads(CliRunner().invoke(cli, [*again, *more, "--json"]).stdout)
        assert done["match"] == 0
        assert "strategies.json" in next(iter(done["not_replayable"]))


def test_records_of_one_call_for_all_symbols_without_their_strategy_say_so(candles, tmp_path):
    out = tmp_path / "out"
    backtest(candles, "--out", out, "--end", "2025-01-10")
    lines = [json.loads(line) | {"decider": "llm:portfolio"} for line in (out / "records.jsonl").open()]
    (out / "records.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (out / "strategies.json").unlink()
    again = ["replay", "--all", "--records", str(out / "records.jsonl"), "--candles", str(candles), "--symbol", SYMBOL]
    done = json.loads(CliRunner().invoke(cli, [*again, "--json"]).stdout)
    assert list(done["not_replayable"].values()) == [len(lines)]


def test_question_prints_the_very_messages_that_a_model_is_sent(candles, monkeypatch):
    at = pd.to_datetime(pd.read_parquet(candles)["ts"].iloc[6000], unit="ms", utc=True).isoformat()
    base = ["question", "--candles", str(candles), "--symbol", SYMBOL, "--as-of", at]
    [line] = CliRunner().invoke(cli, [*base, "--decider", "llm:single"]).stdout.splitlines()
    asked = json.loads(line)
    assert (asked["role"], [each["role"] for each in asked["messages"]]) == ("single", ["system", "user"])
    assert "unknown" not in asked["messages"][1]["content"].split("Account")[1]  # none, and that is known
    panel = CliRunner().invoke(cli, [*base, "--decider", "llm:panel"]).stdout.splitlines()
    assert [json.loads(each)["role"] for each in panel] == ["technical", "orderbook"]  # no news: no sentiment
    late = ["--as-of", "2099-01-01", "--decider", "llm:single"]
    for wrong, named in (
        (["--decider", "rules"], "asks no model"), (["--cycle", "c1"], "either --cycle"), (late, "no candle of"),
    ):  # fmt: skip
        assert named in str(CliRunner().invoke(cli, [*base, *wrong]).exception)


def test_question_is_the_first_one_of_a_replay(candles, tmp_path):
    """Its snapshot, byte for byte: what `question` prints is made of nothing else, and of an empty memory."""
    out = tmp_path / "out"
    backtest(candles, "--out", out, "--end", "2025-01-10")
    first = CycleRecord.model_validate_json((out / "records.jsonl").open().readline())
    strategy = next(iter(json.loads((out / "strategies.json").read_text()).values()))
    [market] = markets({SYMBOL: str(candles)}).values()
    chosen = Strategy.model_validate(strategy | {"told": {"memory": True, "news": True}})
    reasons = tuple(reason for reason in first.reasons if not reason.context)
    account = flat_account(market, chosen, first.as_of)
    asked = flat_question(market, account, chosen, World(), first.as_of, reasons)
    assert asked.snapshot.model_dump_json() == first.snapshot.model_dump_json()
    assert asked.memory == UNTRIED
    _, _, same, _ = _moment(market, first.as_of, "")
    assert same.model_copy(update={"instrument": account.instrument}) == account
