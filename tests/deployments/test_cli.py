"""The command: JSON on stdout, one line and exit code 2 for wrong input, nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from deployments.cli import cli, main
from tasks.settings import settings

SYMBOL = "BTC/USDT:USDT"
FILES = ["--candles", "{candles}", "--symbol", SYMBOL]
AS_OF = "2025-01-12T10:07:00Z"


@pytest.fixture(scope="module")
def candles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    n = 6000
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
    """Each command gets a state of its own."""


def said(*arguments: str, stdin: str | None = None) -> str:
    result = CliRunner().invoke(cli, arguments, input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def snapshot_file(candles: Path, folder: Path) -> Path:
    path = folder / "snapshot.json"
    path.write_text(said("snapshot", "--candles", str(candles), "--symbol", SYMBOL, "--as-of", AS_OF, "--json"))
    return path


def _without_json(command: click.Command, name: str = "") -> set[str]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        parts = [(command.get_command(context, part), part) for part in command.list_commands(context)]
        return set().union(*(_without_json(each, f"{name} {part}".strip()) for each, part in parts))
    return set() if any("--json" in option.opts for option in command.params) else {name}


def test_every_command_that_prints_takes_json():
    assert _without_json(cli) == {"deploy", "mcp", "metrics", "sandbox", "worker"}  # they log, or serve


def test_a_prompt_diff_and_a_migration_are_documents_with_json(home):
    told = json.loads(said("prompts", "diff", "single", "v001", "v001", "--json"))
    assert told == {"role": "single", "old": "v001", "new": "v001", "diff": ""}
    assert json.loads(said("migrate", "--json")) == {"migrated": True}
    assert "nothing runs" in json.loads(said("down", "--json"))["result"]


def test_snapshot_prints_the_contract_within_its_size(candles):
    text = said("snapshot", "--candles", str(candles), "--symbol", SYMBOL, "--as-of", AS_OF, "--json")
    document = json.loads(text)
    assert list(document) == [
        "pair", "as_of", "reason_for_call", "timeframes", "htf_anchors", "orderbook", "position", "risk",
        "constraints", "confluence", "digest",
    ]  # fmt: skip
    assert document["as_of"] == "2025-01-12T10:05:00Z"
    assert len(text.strip()) <= 6144
    lean = said("snapshot", "--candles", str(candles), "--symbol", SYMBOL, "--as-of", AS_OF, "--lean")
    assert len(lean.strip()) <= 3072


def test_events_are_json_lines_with_reasons(candles):
    lines = said("events", "--candles", f"{SYMBOL}={candles}").splitlines()
    assert lines
    first = json.loads(lines[0])
    assert set(first) == {"at", "symbol", "reasons"}
    assert first["reasons"]


def test_decide_and_guard_speak_the_contract(candles, tmp_path):
    file = snapshot_file(candles, tmp_path)
    decided = json.loads(said("decide", "--snapshot", str(file), "--decider", "rules", "--json"))
    assert set(decided) == {"decision", "source", "rung", "model", "latency_ms", "cost_usd", "tokens", "errors"}
    reply = {"symbol": SYMBOL, "action": "OPEN_LONG", "size_pct": 20, "entry": {"type": "market", "offset_bps": 0},
             "stop_atr": 1.5, "tp_atr": 3, "confidence": 0.8, "comment": "up"}  # fmt: skip
    (tmp_path / "reply.json").write_text(json.dumps(reply))
    verdict = json.loads(said("guard", "--snapshot", str(file), "--reply", str(tmp_path / "reply.json"), "--json"))
    assert verdict["allowed"] is True
    [intent] = verdict["intents"]
    assert intent["side"] == "buy"
    assert intent["stop"] < intent["target"]
    assert len(intent["client_order_id"]) <= 36
    assert 0 < verdict["trade_risk_pct"] <= 0.75
    assert (verdict["read_as"], verdict["unread"]) == ([], [])
    del reply["confidence"]
    (tmp_path / "reply.json").write_text(json.dumps(reply | {"followups": ["TRAIL 1 ATR"]}))
    verdict = json.loads(said("guard", "--snapshot", str(file), "--reply", str(tmp_path / "reply.json"), "--json"))
    assert verdict["read_as"] == ["confidence missing as 0.5"]
    assert [each["text"] for each in verdict["unread"]] == ["TRAIL 1 ATR"]


def test_guard_says_what_the_symbol_trades_in_and_where_that_comes_from(candles, tmp_path):
    file = snapshot_file(candles, tmp_path)
    (tmp_path / "reply.json").write_text('{"action":"OPEN_SHORT","size_pct":20,"stop_atr":1.5,"tp_atr":3}')
    options = ["--snapshot", str(file), "--reply", str(tmp_path / "reply.json"), "--state", str(tmp_path / "s.json")]

    def told(instrument) -> dict:
        (tmp_path / "s.json").write_text(json.dumps({} if instrument is None else {"instrument": instrument}))
        return json.loads(said("guard", *options, "--json"))["instrument"]

    derived = told(None)
    assert derived["source"] == "derived from the price"
    assert [derived[key] for key in ("symbol", "kind", "shorting", "max_leverage")] == [SYMBOL, "linear", True, 100]
    part = told({"tick": 0.5, "step": 0.01, "min_notional": 7})
    assert part == derived | {"tick": 0.5, "step": 0.01, "min_notional": 7, "source": "state"}
    assert told({"tick": 0.5}) == derived | {"tick": 0.5, "source": "state, the rest derived from the price"}


@pytest.mark.parametrize(
    ("instrument", "named"), [({"tick": 0}, "tick: "), ({"tik": 1}, "tik: "), ({"symbol": "X/Y"}, "symbol: "), (7, "")]
)
def test_a_wrong_instrument_in_the_state_is_named_in_one_line(
    instrument, named, candles, tmp_path, monkeypatch, capsys
):
    (tmp_path / "s.json").write_text(json.dumps({"instrument": instrument}))
    arguments = ["guard", "--snapshot", str(snapshot_file(candles, tmp_path)), "--reply", "-"]
    monkeypatch.setattr(sys, "argv", ["quarterdeck", *arguments, "--state", str(tmp_path / "s.json")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert f"--state {tmp_path / 's.json'}: instrument: {named}" in error
    assert len(error.strip().splitlines()) == 1


def test_a_position_can_be_closed_where_the_snapshot_has_no_price(candles, tmp_path):
    blind = json.loads(snapshot_file(candles, tmp_path).read_text())
    blind["timeframes"]["5m"]["close"] = None
    (tmp_path / "blind.json").write_text(json.dumps(blind))
    (tmp_path / "reply.json").write_text('{"action":"CLOSE_ALL","confidence":0.9}')
    held = {"symbol": SYMBOL, "side": "long", "quantity": 0.25, "avg_price": 60000}
    (tmp_path / "s.json").write_text(json.dumps({"positions": [held]}))
    options = ["--snapshot", str(tmp_path / "blind.json"), "--reply", str(tmp_path / "reply.json")]
    verdict = json.loads(said("guard", *options, "--state", str(tmp_path / "s.json"), "--json"))
    assert [intent["quantity"] for intent in verdict["intents"]] == [0.25]
    flat = json.loads(said("guard", *options, "--json"))
    assert (flat["allowed"], flat["instrument"]) == (False, None)


def test_spot_is_never_offered_nor_allowed_a_short(candles, tmp_path):
    options = ["--candles", str(candles), "--symbol", "BTC/USDT", "--as-of", AS_OF, "--json"]
    text = said("snapshot", *options)
    assert json.loads(text)["constraints"]["allowed_actions"] == ["HOLD", "OPEN_LONG", "PAUSE"]
    (tmp_path / "spot.json").write_text(text)
    (tmp_path / "reply.json").write_text('{"action":"OPEN_SHORT","size_pct":20,"stop_atr":1.5,"tp_atr":3}')
    told = {"tick": 0.1, "step": 0.001, "max_leverage": 100, "shorting": True}
    (tmp_path / "s.json").write_text(json.dumps({"instrument": told}))
    files = ["--snapshot", str(tmp_path / "spot.json"), "--reply", str(tmp_path / "reply.json")]
    for state in ([], ["--state", str(tmp_path / "s.json")]):
        verdict = json.loads(said("guard", *files, *state, "--json"))
        assert "SHORTING_NOT_ALLOWED" in verdict["codes"]
        assert (verdict["instrument"]["shorting"], verdict["instrument"]["max_leverage"]) == (False, 1)


def test_guard_turns_prose_into_a_refusal(candles, tmp_path):
    file = snapshot_file(candles, tmp_path)
    (tmp_path / "reply.txt").write_text("I think we should buy.")
    verdict = json.loads(said("guard", "--snapshot", str(file), "--reply", str(tmp_path / "reply.txt"), "--json"))
    assert verdict["allowed"] is False
    assert verdict["codes"] == ["REPLY_NO_JSON"]
    assert verdict["intents"] == []


def test_guard_reads_the_accounts_state(candles, tmp_path):
    file = snapshot_file(candles, tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"equity": 94.5, "halt": "by hand"}))
    (tmp_path / "reply.json").write_text('{"action":"CLOSE_ALL","confidence":0.9}')
    options = [
        "--snapshot",
        str(file),
        "--reply",
        str(tmp_path / "reply.json"),
        "--state",
        str(tmp_path / "state.json"),
    ]
    verdict = json.loads(said("guard", *options, "--json"))
    assert verdict["allowed"] is False
    assert "NO_POSITION" in verdict["codes"]


def test_backtest_prints_its_keys_and_writes_whole_folders(candles, tmp_path):
    out = tmp_path / "run"
    options = ["--candles", str(candles), "--symbol", SYMBOL, "--decider", "rules", "--out", str(out), "--json"]
    summary = json.loads(said("backtest", *options))
    wanted = {
        "candles", "cycles", "calls", "decisions", "by_action", "trades", "return_pct", "sharpe", "max_drawdown_pct",
        "win_rate", "expectancy_r", "fees_quote", "llm_cost_usd", "rejected_by_code", "wall_s", "candles_per_s",
        "fingerprint",
    }  # fmt: skip
    assert wanted <= set(summary)
    assert len((out / "records.jsonl").read_text().splitlines()) == summary["decisions"]
    assert not out.with_name("run.partial").exists()


def test_halt_and_resume_say_what_they_did():
    said("migrate")
    assert json.loads(said("halt", "--reason", "a test", "--json"))["reason"] == "a test"
    assert [halt["reason"] for halt in json.loads(said("resume", "--json"))["resumed"]] == ["a test"]


WRONG = {
    "missing file": (["backtest", "--candles", "/nope.parquet", "--symbol", SYMBOL], "no such candle file"),
    "wrong ending": (["backtest", "--candles", "/nope.json", "--symbol", SYMBOL], "ends in .parquet, .feather, .csv"),
    "symbol form": (["events", "--candles", "{candles}", "--symbol", "BTCUSDT"], "BTCUSDT"),
    "symbol without candles": (["events", "--candles", "{candles}"], "--symbol"),
    "time": (["snapshot", "--candles", "{candles}", "--symbol", SYMBOL, "--as-of", "noon"], "noon"),
    "decider": (["backtest", "--candles", "{candles}", "--symbol", SYMBOL, "--decider", "oracle"], "oracle"),
    "recorded file": (["decide", "--snapshot", "{snapshot}", "--decider", "recorded:/nope"], "/nope"),
    "snapshot": (["decide", "--snapshot", "{candles}"], "not JSON"),
    "timeframe": (["ingest", "--symbol", SYMBOL, "--timeframe", "7m", "--since", "2025-01-01"], "7m"),
    "own symbol": (["cycle", "--symbol", "XRP/USDT:USDT"], "XRP/USDT:USDT"),
    "option": (["backtest"], "--candles"),
    "time of no market": (
        ["snapshot", "--candles", "{candles}", "--symbol", SYMBOL, "--as-of", "9999-12-31T23:59-14:00"], "'9999-12-31"
    ),
    "two files of a symbol": (
        ["events", "--candles", SYMBOL + "={candles}", "--candles", SYMBOL + "={candles}"], "one SYMBOL=FILE for each"
    ),
    "a row that is no bar": (["events", "--candles", "{nulls}", "--symbol", SYMBOL], "row 6: close is missing"),
    "out below a file": (["backtest", *FILES, "--out", "{candles}/run"], "nothing can be written to"),
    "out of a comparison": (["compare", *FILES, "--decider", "hold", "--out", "{candles}/x"], "nothing can be written"),
    "out of a policy": (["train", "--records", "{home}", "--out", "{candles}/p.onnx"], "nothing can be written to"),
    "an earlier run that is none": (["backtest", *FILES, "--out", "{home}/run"], "run.partial: its record 1: Invalid"),
    "a paid decider": (
        ["loop", "--records", "/nope", *FILES, "--out", "{home}/l", "--decider", "llm:single"], "asks models"
    ),
    "a part of a snapshot": (["decide", "--snapshot", "{part}"], "timeframes.1h is missing"),
    "hours": (["step", "--hours", "-1"], "-1"),
    "hours that are no number": (["step", "--hours", "nan"], "nan is no finite number"),
    "days that are no number": (["compare", *FILES, "--window-days", "inf"], "inf is no finite number"),
    "home": (["halt"], "there is no database"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "named"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, named, candles, home, tmp_path, monkeypatch, capsys):
    snapshot, nulls = snapshot_file(candles, tmp_path), tmp_path / "nulls.parquet"
    (tmp_path / "part.json").write_text(snapshot.read_text().replace('"1h"', '"2h"'))
    frame = pd.read_parquet(candles)
    frame.assign(close=frame["close"].where(frame.index != 5)).to_parquet(nulls)
    places = {"candles": candles, "snapshot": snapshot, "part": tmp_path / "part.json", "nulls": nulls, "home": home}
    (home / "run.partial").mkdir()
    (home / "run.partial" / "records.jsonl").write_text("garbage\n")
    if arguments == ["halt"]:
        monkeypatch.setenv("QUARTERDECK_HOME", str(candles))
        settings.cache_clear()
    monkeypatch.setattr(sys, "argv", ["quarterdeck", *(a.format_map(places) for a in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert named in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMITS__MAX_TRADE_RISK_PCT", "7"),
        ("PROFILE", "casino"),
        ("DATABASE_URL", "foo"),
        ("STRATEGY", "A B"),
        ("LIMITS", "limits"),
        ("TOML", "can't decode byte 0xe9"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(name, value, tmp_path, monkeypatch, capsys):
    (tmp_path / "latin.toml").write_bytes(b'venue = "\xe9"')
    monkeypatch.setenv(f"QUARTERDECK_{name}", str(tmp_path / "latin.toml") if name == "TOML" else value)
    settings.cache_clear()
    monkeypatch.setattr(sys, "argv", ["quarterdeck", "halt"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert value in capsys.readouterr().err


@pytest.mark.parametrize("command", [(), ("prompts",)])
def test_a_command_alone_shows_its_help_as_it_is_laid_out(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quarterdeck", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "\nCommands:\n" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_starts_without_the_heavy_libraries():
    heavy = ("mlflow", "litellm", "great_expectations", "ccxt", "prefect", "pandas")
    code = f"import sys, deployments.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
