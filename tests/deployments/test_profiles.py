"""Profiles as a user runs them: paper from candles to an outcome on the sandbox's public data, live only when armed."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from sandbox_server import advance, running_sandbox, state
from venue_stub import FLAT, Stub, ok, stub_venue

from deployments import up as upping
from deployments.cli import cli
from deployments.doctor import Health, diagnose
from deployments.supervisor import Supervisor
from flows.protect import reconcile
from flows.settle import settle_all
from flows.trade import Request, run_cycles
from tasks.adapters.venue import client, trials
from tasks.connections import store, venue
from tasks.core.errors import InputError
from tasks.core.types.record import CycleStatus
from tasks.settings import load, settings

SYMBOL = "BTC/USDT:USDT"
START = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)
OPEN = {
    "symbol": SYMBOL, "action": "OPEN_LONG", "size_pct": 20, "entry": {"type": "market"}, "stop_atr": 1.5,
    "tp_atr": 3, "confidence": 0.8, "comment": "a test opens",
}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture
def market(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A sandbox that profile paper takes its market data from."""
    with running_sandbox(symbols=(SYMBOL,), start=START, stepped=True, seed=3) as url:
        for name, value in (("PROFILE", "paper"), ("VENUE_URL", url), ("SYMBOLS", SYMBOL)):
            monkeypatch.setenv(f"QUARTERDECK_{name}", value)
        settings.cache_clear()
        yield url


async def test_a_paper_cycle_goes_from_candles_to_a_stopped_position_and_its_outcome(home, market):
    replies = home / "replies.jsonl"
    replies.write_text(json.dumps({"as_of": START.isoformat(), "symbol": SYMBOL, "reply": json.dumps(OPEN)}))
    request = Request(symbols=(SYMBOL,), decider=f"recorded:{replies}", reason="a test asks")
    [record] = await run_cycles(request)
    assert record.status is CycleStatus.EXECUTED, record.error
    [held] = await venue().positions()
    [position] = store().positions.open("default")
    assert (held.quantity, held.stop, held.target) == (position.quantity, position.stop, position.target)
    assert held.stop is not None
    for _ in range(48):
        advance(market, 1800)
        if not await venue().positions():
            break
    assert (await reconcile())["wrong"] == []
    assert store().positions.open("default") == []
    result = await settle_all()
    await venue().close()
    assert result["outcomes"] == 1
    [outcome] = store().outcomes.newest("default")
    assert outcome.cycle_id == record.cycle_id
    closing = [
        fill for fill in store().fills.since(START - timedelta(hours=1), SYMBOL) if fill.reason in ("stop", "target")
    ]
    assert [(fill.at + timedelta(milliseconds=1)).second for fill in closing] == [0], "just before a bar closes"
    assert store().halts.newest() is None
    last = store().equity.last("default")
    assert last.equity == Decimal(10_000) + outcome.pnl
    assert state(market)["orders"] == []  # not one order left for a venue


async def test_a_paper_cycle_that_runs_again_orders_once(home, market):
    replies = home / "replies.jsonl"
    replies.write_text(json.dumps({"as_of": START.isoformat(), "symbol": SYMBOL, "reply": json.dumps(OPEN)}))
    request = Request(symbols=(SYMBOL,), decider=f"recorded:{replies}", reason="a test asks")
    [first], [again] = await run_cycles(request), await run_cycles(request)
    assert first.model_dump_json() == again.model_dump_json()
    assert len(await venue().fills(SYMBOL, START - timedelta(hours=1))) == 1
    await venue().close()


# --- spot ---------------------------------------------------------------------------------------------------------


async def test_a_spot_entry_is_under_a_resting_stop_and_sold_by_it(home, monkeypatch):
    spot, replies = "BTC/USDT", home / "replies.jsonl"
    reply = json.dumps({**OPEN, "symbol": spot})
    replies.write_text(json.dumps({"as_of": START.isoformat(), "symbol": spot, "reply": reply}))
    with running_sandbox(symbols=(spot,), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", spot)
        settings.cache_clear()
        [record] = await run_cycles(
            Request(symbols=(spot,), decider=f"recorded:{replies}", reason="a test asks", as_of=START)
        )
        assert record.status is CycleStatus.EXECUTED, record.error
        await reconcile()
        [position] = store().positions.open("default")
        [held] = await venue().positions()
        assert (held.quantity, held.stop, held.target) == (position.quantity, position.stop, None)
        await venue().set_protection(spot, (await venue().fetch_book(spot)).bids[3][0], None)
        for _ in range(48):
            advance(url, 300)
            if not await venue().positions():
                break
        assert (await reconcile())["wrong"] == []
        assert store().positions.open("default") == []
        assert store().halts.newest() is None
        reasons = [fill.reason for fill in store().fills.since(START - timedelta(hours=1), spot)]
        assert reasons == ["", "stop"]
        await venue().close()


# --- live ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def live(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """Profile live with keys, its real addresses replaced by a scripted server; nothing is started."""
    with stub_venue() as stub:
        to_account = client._to_account

        def to_stub(opened: object, chosen: object) -> None:
            to_account(opened, chosen)
            client._to_server(opened, stub.url)

        monkeypatch.setattr(client, "_to_account", to_stub)
        values = {"PROFILE": "live", "LIVE_ACCOUNT": "24600000", "VENUE_KEY": "K3Y", "VENUE_SECRET": "S3CRET"}
        for name, value in (values | {"SYMBOLS": SYMBOL}).items():
            monkeypatch.setenv(f"QUARTERDECK_{name}", value)
        monkeypatch.delenv("QUARTERDECK_YES_LIVE", raising=False)
        settings.cache_clear()
        trials.keep(load(profile="testnet"), START, {})
        key = {"userID": 24600000, "readOnly": 0, "permissions": {"Wallet": [], "ContractTrade": ["Order", "Position"]}}
        stub.answers["/v5/user/query-api"] = ok(**key)
        stub.answers["/v5/account/info"] = ok(marginMode="REGULAR_MARGIN", unifiedMarginStatus=6)
        stub.answers["/v5/account/wallet-balance"] = ok(list=[{"coin": [{"coin": "USDT", "equity": "500"}]}])
        yield stub


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `up` would have started."""
    calls: list[str] = []

    async def note(supervisor: Supervisor, *_: object) -> int:
        calls.append(supervisor.settings.profile)
        return 0

    monkeypatch.setattr(upping, "_up", note)
    return calls


def up(*flags: str, typed: str | None = None):
    return CliRunner().invoke(cli, ["up", *flags], input=typed)


def test_up_on_live_shows_account_and_limits_and_starts_nothing_unconfirmed(live, started):
    result = up()
    assert isinstance(result.exception, InputError)
    assert "add --yes-live" in str(result.exception)
    assert "account 24600000 at bybit-live: may not withdraw, one-way mode, margin REGULAR_MARGIN" in result.output
    assert "risk per trade 0.75 % of equity" in result.output
    assert started == []
    assert "K3Y" not in result.output
    assert "S3CRET" not in result.output


def test_up_on_live_starts_when_it_was_confirmed_beforehand(live, started):
    up("--yes-live")
    assert started == ["live"]


@pytest.mark.parametrize(("typed", "expected"), [("y\n", ["live"]), ("n\n", []), ("\n", []), ("", [])])
def test_up_on_live_asks_and_takes_only_yes_for_yes(live, started, monkeypatch, typed, expected):
    class Terminal:
        """sys, in a terminal."""

        stdin = type("In", (), {"isatty": staticmethod(lambda: True)})()
        executable, argv = sys.executable, sys.argv

    monkeypatch.setattr(upping, "sys", Terminal)
    up(typed=typed)
    assert started == expected


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"/v5/user/query-api": {"userID": 13, "readOnly": 0, "permissions": {"Wallet": []}}}, "belongs to account 13"),
        (
            {"/v5/user/query-api": {"userID": 24600000, "readOnly": 0, "permissions": {"Wallet": ["Withdraw"]}}},
            "may withdraw",
        ),
        ({"/v5/position/list": {"list": [FLAT | {"positionIdx": 1}]}}, "hedge mode"),
        (
            {"/v5/user/query-api": {"userID": 24600000, "readOnly": 0, "permissions": {"Wallet": []}}},
            "lacks ContractTrade: Order, ContractTrade: Position: give it these rights",
        ),
        (
            {"/v5/account/info": {"unifiedMarginStatus": 1}, "/v5/account/wallet-balance": {}},
            "bybit-live cannot be traded on: a classic account: upgrade it to a unified trading account",
        ),
        ({"/v5/account/info": {"marginMode": "PORTFOLIO_MARGIN", "unifiedMarginStatus": 6}}, "switch the account to"),
        (
            {"/v5/account/wallet-balance": {"list": [{"coin": [{"coin": "BTC", "equity": "0.5"}]}]}},
            "the wallet holds no USDT (equity 0) but 0.5 BTC: convert or deposit some",
        ),
    ],
)
def test_up_on_live_refuses_with_the_remedy_what_cannot_be_traded_on(live, started, answers, said):
    for path, result in answers.items():
        live.answers[path] = ok(**result)
    result = up("--yes-live")
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)
    assert started == []


def test_up_on_live_refuses_without_a_trial_from_this_home(live, started, home):
    (home / "trials.json").unlink()
    result = up("--yes-live")
    assert isinstance(result.exception, InputError)
    assert "no trial on bybit from HOME" in str(result.exception)
    assert "QUARTERDECK_PROFILE=testnet" in str(result.exception)
    assert started == []


def test_the_doctor_reports_the_account_and_what_is_wrong_with_it(live):
    [account] = [check for check in diagnose(load()) if check.name == "account"]
    assert (account.result, account.remedy) == (Health.OK, "")
    assert "margin REGULAR_MARGIN, leverage BTC/USDT:USDT 3x" in account.detail
    assert "MNT" not in account.detail
    live.answers["/v5/account/user-setting-config"] = ok(fmsef=True, smsef=False)
    [account] = [check for check in diagnose(load()) if check.name == "account"]
    assert (account.result, "pays fees in MNT" in account.detail) == (Health.OK, True)
    live.answers["/v5/user/query-api"] = ok(userID=24600000, readOnly=1, permissions={"Wallet": []})
    [account] = [check for check in diagnose(load()) if check.name == "account"]
    assert account.result is Health.FAIL
    assert "read-only" in account.detail
