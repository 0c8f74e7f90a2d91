"""`doctor --trial` against a sandbox over HTTP: what it proves, keeps, and leaves behind when a step fails."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from sandbox_server import admin, fault, running_sandbox, state

from deployments.cli import cli
from tasks.adapters.venue import trial
from tasks.core.errors import InputError
from tasks.settings import settings

SYMBOL, SPOT = "BTC/USDT:USDT", "BTC/USDT"
START = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)
STEPS = ["entry", "stop", "moved", "found", "closed"]


@pytest.fixture(params=[SYMBOL])
def exchange(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(trial, "WAITS", (0.0, 0.0, 0.0))
    with running_sandbox(symbols=(request.param,), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", request.param)
        settings.cache_clear()
        yield url


def tried(*flags: str):
    return CliRunner().invoke(cli, ["doctor", "--trial", *flags], standalone_mode=False, catch_exceptions=False)


def is_flat(url: str) -> bool:
    now = state(url)
    return not now["positions"] and all(order["status"] != "open" for order in now["orders"])


@pytest.mark.parametrize("exchange", [SYMBOL, SPOT], indirect=True)
def test_a_trial_goes_through_every_step_in_the_smallest_size_and_is_kept(exchange, home):
    result = tried("--json")
    assert result.return_value == 0, result.output
    told = json.loads(result.output)
    assert [(each["name"], each["result"]) for each in told["checks"]] == [(name, "ok") for name in STEPS]
    assert is_flat(exchange)
    bought = [order for order in state(exchange)["orders"] if order["side"] == "buy"]
    assert [Decimal(order["quantity"]) <= Decimal("0.002") for order in bought] == [True]
    [(name, kept)] = json.loads((home / "trials.json").read_text()).items()
    assert name == "bybit-sandbox"
    assert list(kept["proved"]) == STEPS


@pytest.mark.parametrize(
    ("kind", "path", "step", "said"),
    [
        ({"kind": "refuse", "code": "110007"}, "order/create", "entry", "110007"),
        ({"kind": "timeout_after_accept"}, "order/create", "entry", "no usable answer"),
        ({"kind": "refuse", "code": "10001"}, "position/trading-stop", "moved", "10001"),
        ({"kind": "refuse", "code": "429"}, "position/trading-stop", "moved", "429"),
    ],
)
def test_a_step_that_fails_is_told_and_leaves_the_account_flat(exchange, home, kind, path, step, said):
    fault(exchange, path=path, **kind)
    result = tried()
    assert result.return_value == 1
    [failed] = [line for line in result.output.splitlines() if line.startswith("fail")]
    assert failed.split()[1] == step
    assert said in failed
    assert "ok    closed" in result.output
    assert is_flat(exchange)
    assert not (home / "trials.json").exists()


def test_nothing_begins_where_somebody_holds_something_or_waits_to(exchange):
    admin(exchange, "trades", {"symbol": SYMBOL, "side": "sell", "qty": "0.010"})
    with pytest.raises(
        InputError, match=r"bybit-sandbox has short 0\.01\d* in BTC/USDT:USDT: close and cancel them first"
    ):
        tried()
    admin(exchange, "trades", {"symbol": SYMBOL, "side": "buy", "qty": "0.010", "reduce_only": True})
    admin(exchange, "trades", {"symbol": SYMBOL, "side": "buy", "qty": "0.010", "price": "1000"})
    with pytest.raises(InputError, match=r"bybit-sandbox has 1 working orders in BTC/USDT:USDT: close"):
        tried()
    assert len(state(exchange)["orders"]) == 3


async def test_a_trial_is_never_tried_with_real_money(home):
    for profile in ("live", "paper"):
        with pytest.raises(InputError, match=f"for profile testnet or sandbox, not {profile}"):
            await trial.run(settings().replace(profile=profile), lambda *_: None)
