"""`[strategies.NAME]`: what a table makes of the top level, what it may not say, and what it is in Prefect."""

from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
import yaml
from store_samples import AT, a_cycle, a_position, an_intent

from deployments import forms, schedules
from deployments.live_settings import LiveSettings
from deployments.open_positions import left_over, refuse
from deployments.supervisor import DEPLOYMENTS
from tasks.connections import store
from tasks.core.errors import InputError
from tasks.settings import load, settings

BTC, ETH, SOL = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"
TOP = f'symbols = ["{BTC}"]\ndecider = "rules"\n[limits]\nmax_trade_risk_pct = 0.5\nopens_per_day = 7\n'
TREND = f'[strategies.trend]\nsymbols = ["{ETH}"]\ndecider = "llm:single"\nmodel = ["openai/gpt-4o"]\n'


@pytest.fixture
def toml(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the settings are read from."""
    file = tmp_path / "quarterdeck.toml"
    monkeypatch.setenv("QUARTERDECK_TOML", str(file))
    file.write_text(TOP + TREND)
    settings.cache_clear()
    return file


def test_a_table_has_what_it_says_and_else_what_the_top_level_has(toml, monkeypatch):
    toml.write_text(TOP + TREND + "budget = {usd_per_day = 0.5}\nlimits = {max_trade_risk_pct = 0.25}\n")
    monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "400")
    monkeypatch.setenv("QUARTERDECK_STRATEGIES__TREND__APPROVE", "entries")
    top, trend = load().every()
    assert (top.strategy, top.symbols, top.decider_name, top.approve) == ("default", (BTC,), "rules", "never")
    assert (trend.strategy, trend.symbols, trend.decider_name, trend.model) == (
        "trend", (ETH,), "llm:single", ("openai/gpt-4o",),
    )  # fmt: skip
    assert (trend.approve, trend.history_bars, trend.home) == ("entries", 400, top.home)
    assert (trend.limits.max_trade_risk_pct, trend.limits.opens_per_day) == (D("0.25"), 7)
    assert trend.events == top.events
    assert (trend.budget.purse, trend.budget.usd_per_day) == ("trend", D("0.5"))
    assert (trend.shadow_budget.purse, top.budget.purse, top.shadow_budget.purse) == ("trend/shadow", "", "shadow")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TREND + 'profile = "live"\n', r"\[strategies.trend\] profile: the account has one; write it at the top"),
        (TREND + 'database_url = "sqlite:///x"\n', r"\[strategies.trend\] database_url: the account"),
        (TREND + "limits = {max_gross_pct = 50}\n", r"\[strategies.trend\] limits.max_gross_pct: the account"),
        (TREND + "limits = {max_loss = 50}\n", r"\[strategies.trend\] limits.max_loss: Extra"),
        (TREND + 'limits = {opens_per_day = "many"}\n', r"\[strategies.trend\] limits.opens_per_day='many': "),
        (TREND + "capital_pct = 0\n", r"\[strategies.trend\] capital_pct=0: "),
        (
            TREND + f'capital_pct = 70\n[strategies.slow]\nsymbols = ["{SOL}"]\ncapital_pct = "30.5"\n',
            "capital_pct: trend 70 %, slow 30.5 % make 100.5 % of the account, and 100 % is all; write less for one",
        ),
        (TREND + "budget = 3\n", r"\[strategies.trend\] budget=3: "),
        (TREND + 'decidr = "secret"\n', r"\[strategies.trend\] decidr: Extra"),
        (TREND + 'scorer = 3\nnews_feeds = ["https://u:secret@x"]\n', r"\[strategies.trend\] scorer=3: "),
        ('[strategies.trend]\ndecider = "hold"\n', r"\[strategies.trend\] symbols: there are none"),
        (TREND.replace("trend]", "default]"), r"\[strategies.default\]: default is what the top level is called"),
        (TREND.replace("trend]", "Tr end]").replace("Tr end", '"Tr end"'), "QUARTERDECK_STRATEGIES__TR END"),
        (
            TREND.replace(ETH, BTC),
            rf"\[strategies.trend\] symbols: {BTC} is default's, and a symbol has one strategy; take it out here, or "
            r"name another at the top of quarterdeck.toml",
        ),
        (
            f'[strategies.slow]\nsymbols = ["{SOL}", "{ETH}"]\n{TREND}',
            rf"\[strategies.trend\] symbols: {ETH} is slow's, .* write symbols = \[\"{SOL}\"\] under \[strategies.slow",
        ),
        (
            TREND + f'[strategies.slow]\nsymbols = ["{SOL}", "{ETH}"]\n',
            rf"\[strategies.slow\] symbols: {ETH} is trend's, .*under \[strategies.trend\]",
        ),
    ],
)
def test_what_a_table_may_not_say_is_one_line_that_names_it(toml, text, why):
    toml.write_text(TOP + text)
    with pytest.raises(InputError, match=why) as error:
        load()
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_shares_of_the_account_may_make_all_of_it_and_a_table_without_one_has_the_top_level_s(toml):
    toml.write_text(f"capital_pct = 40\n{TOP}{TREND}capital_pct = 60\n")
    assert [each.capital_pct for each in load().every()] == [40, 60]
    toml.write_text(f"capital_pct = 40\n{TOP}{TREND}")
    assert [each.capital_pct for each in load().every()] == [40, 40]
    toml.write_text(f"{TOP}{TREND}capital_pct = 60\n")
    assert [each.capital_pct for each in load().every()] == [None, 60]


def test_what_is_done_for_a_strategy_has_its_settings_and_no_other_s(toml):
    with settings.of(settings.named("trend")):
        assert settings().symbols == (ETH,)
        with settings.of(settings.named("")):
            assert settings().symbols == (BTC,)
        assert settings().strategy == "trend"
    assert settings().strategy == "default"
    with pytest.raises(InputError, match="'slow': there are default, trend"):
        settings.named("slow")


# --- while it runs


@pytest.fixture
def live(toml: Path, home: Path) -> LiveSettings:
    copy = home / "started.toml"
    copy.write_text(toml.read_text())
    return LiveSettings(toml, copy, refuse)


def written(live: LiveSettings, file: Path, text: str) -> list[str]:
    file.write_text(text)
    assert live.take() == []
    return live.take()


def test_a_table_that_comes_changes_or_goes_is_said(live, toml, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_PROFILE", "paper")
    assert written(live, toml, TOP + TREND.replace("llm:single", "hold")) == [
        "trend: decider is hold now, it was llm:single"
    ]
    slow = f'[strategies.slow]\nsymbols = ["{SOL}"]\n'
    assert written(live, toml, TOP + slow) == ["strategy trend is gone now", "strategy slow is there now"]
    assert [each.strategy for each in live.in_force().every()] == ["default", "slow"]


def test_no_strategy_goes_while_it_has_something_open_and_the_last_file_stays(live, toml, home):
    store().positions.save(a_position(strategy="trend", symbol=ETH))
    for text in (TOP, TOP.replace(f'"{BTC}"', f'"{BTC}", "{ETH}"')):
        with pytest.raises(InputError, match=f"trend has an open position in {ETH}.*quarterdeck close {ETH}"):
            written(live, toml, text)
    assert [each.strategy for each in live.in_force().every()] == ["default", "trend"]
    store().positions.save(a_position(strategy="trend", symbol=ETH, quantity=D(0), closed_at=AT))
    toml.write_text(TOP + TREND)
    assert live.take() == []
    assert written(live, toml, TOP) == ["strategy trend is gone now"]


def test_what_rests_keeps_its_strategy_too(toml):
    store().cycles.begin(a_cycle("c1", strategy="old", symbol=SOL), AT)
    store().intents.save("c1", (an_intent(symbol=SOL),), AT)
    [line] = left_over(load())
    assert line.startswith(f"strategy old has a resting order in {SOL}: put its table and symbol back")


# --- in Prefect


def released(**changes: Any) -> dict[str, dict[str, Any]]:
    document = schedules.arranged(yaml.safe_load(DEPLOYMENTS.read_text()), load(**changes))
    return {each["name"]: each for each in document["deployments"]}


def test_a_table_has_deployments_of_its_own_and_without_one_nothing_changes(toml):
    toml.write_text(TOP)
    alone = released()
    assert alone == {each["name"]: each for each in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]}
    toml.write_text(TOP + TREND)
    both = released(close_offset_s=8)
    assert both.keys() - alone.keys() == {f"trend-trade-{of}" for of in ("15m", "1h", "event", "adhoc")}
    own, top = both["trend-trade-15m"], both["trade-15m"]
    assert own["parameters"] == {**top["parameters"], "strategy": "trend"}
    assert own["schedules"] == top["schedules"]
    assert own["schedules"][0]["anchor_date"].endswith("00:13+00:00")
    match = {name: both[name]["triggers"][0]["match"] for name in ("trade-event", "trend-trade-event")}
    assert match == {
        "trade-event": {"quarterdeck.strategy": "default"},
        "trend-trade-event": {"quarterdeck.strategy": "trend"},
    }
    assert both["trend-trade-event"]["triggers"][0]["parameters"]["strategy"] == "trend"


def test_forms_offer_every_symbol_and_strategy(toml):
    form = forms.read(load())
    assert form["flows.trade.trade"].schema["properties"]["strategy"]["enum"] == ["", "default", "trend"]
    assert form["flows.by_hand.close"].schema["properties"]["symbol"]["enum"] == [BTC, ETH]
