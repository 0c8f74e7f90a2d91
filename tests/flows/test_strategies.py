"""Two strategies on one account of the sandbox: books of their own, the account's limits over both."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sandbox_cycles import CLOSE, OPEN, START, SYMBOL, protect_once
from sandbox_positions import ETH
from sandbox_server import advance, running_sandbox, state
from store_samples import a_reason

from deployments.cli import cli
from flows import watch
from flows.cycle import Request
from flows.protect import protect
from flows.step import step
from flows.trade import run_cycles, trade
from tasks import by_hand, desk, fetch
from tasks.adapters.mlflow.comparison import server_of
from tasks.adapters.mlflow.datasets import read
from tasks.connections import store, venue
from tasks.core.lab import rl
from tasks.core.types import (
    ACCOUNT,
    ZERO,
    Code,
    CycleRecord,
    CycleStatus,
    InputError,
    direction,
    exact_sum,
    floor_to_step,
)
from tasks.settings import settings

pytestmark = pytest.mark.slow
TREND = f'symbols = ["{SYMBOL}"]\n[strategies.trend]\nsymbols = ["{ETH}"]\ndecider = "hold"\n'


@pytest.fixture
def shared(two_symbols: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The sandbox's URL; `default` has one of its symbols, `trend` the other."""
    monkeypatch.delenv("QUARTERDECK_SYMBOLS")
    monkeypatch.setenv("QUARTERDECK_TOML", str(tmp_path / "quarterdeck.toml"))
    table(tmp_path)
    return two_symbols


def table(home: Path, more: str = "", text: str = TREND) -> None:
    (home / "quarterdeck.toml").write_text(text + more)
    settings.cache_clear()


async def asked(home: Path, strategy: str, **changes: object) -> CycleRecord:
    """Run a cycle in which the strategy's one symbol is answered so."""
    [symbol] = settings.named(strategy).symbols
    now = await venue().now()
    reply = {"as_of": now.isoformat(), "symbol": symbol, "reply": json.dumps({**OPEN, "symbol": symbol, **changes})}
    (home / "replies.jsonl").write_text(json.dumps(reply))
    with settings.of(settings.named(strategy)):
        request = Request(symbols=(symbol,), decider=f"recorded:{home / 'replies.jsonl'}", reason="a test asks")
        [record] = await run_cycles(request)
    await venue().close()
    return record


async def told(*arguments: str) -> Any:
    result = await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--json"])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


async def test_each_has_its_own_books_and_takes_no_position_of_the_other_for_a_persons(home, shared):
    for name in ("default", "trend"):
        record = await asked(home, name)
        assert (record.status, record.strategy) == (CycleStatus.EXECUTED, name)
    advance(shared, 300)
    assert (await protect_once())["wrong"] == []
    assert {p.symbol: p.strategy for p in await open_now()} == {SYMBOL: "default", ETH: "trend"}
    assert store().halts.active() == []
    shown = await told("positions")
    assert {each["symbol"]: each["strategy"] for each in shown["positions"]} == {SYMBOL: "default", ETH: "trend"}
    status = await told("status")
    assert {p["symbol"] for p in status["open_positions"]} == {SYMBOL, ETH}
    assert [(each["name"], each["symbols"]) for each in status["strategies"]] == [
        ("default", [SYMBOL]),
        ("trend", [ETH]),
    ]
    seen = await desk.read(await desk.now())
    await venue().close()
    assert {each.position.symbol for each in seen.positions} == {SYMBOL, ETH}
    ranked = {each.name: each for each in seen.standings}
    assert ranked.keys() == {"default", "trend"}
    for held in seen.positions:
        assert ranked[held.position.strategy].unrealized == held.pnl
        assert ranked[held.position.strategy].status == "trading"
    assert dict(seen.figures)["equity"] != "unknown"


async def open_now() -> list[Any]:
    return [position for each in settings.account.every() for position in store().positions.open(each.strategy)]


async def test_a_person_reaches_either_by_its_symbol_and_a_halt_stops_and_closes_both(home, shared):
    for name in ("default", "trend"):
        await asked(home, name)
    half = await told("close", ETH, "--share", "50")
    assert half["left"] > 0
    paused = await told("pause", ETH, "--minutes", "30")
    assert (half["strategy"], paused["symbol"], paused["strategy"]) == ("trend", ETH, "trend")
    assert (store().pauses.until("trend", ETH), store().pauses.until("default", ETH)) != (None, None)
    assert store().pauses.until("default", ETH) is None
    await told("halt", "--flatten")
    await protect_once()
    assert state(shared)["positions"] == []
    assert await open_now() == []
    advance(shared, 300)
    for name in ("default", "trend"):
        assert Code.HALTED in (await asked(home, name)).verdict.codes


async def test_the_account_s_limits_count_what_both_have_open(home, shared, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_LIMITS__MAX_POSITIONS", "1")
    settings.cache_clear()
    first = await asked(home, "default")
    second = await asked(home, "trend")
    assert (first.status, second.status) == (CycleStatus.EXECUTED, CycleStatus.DENIED)
    assert Code.MAX_POSITIONS in second.verdict.codes
    monkeypatch.setenv("QUARTERDECK_LIMITS__MAX_POSITIONS", "2")
    monkeypatch.setenv("QUARTERDECK_LIMITS__MAX_GROSS_PCT", "25")
    settings.cache_clear()
    advance(shared, 300)
    third = await asked(home, "trend")
    assert third.status is CycleStatus.EXECUTED
    gross = exact_sum(p.quantity * p.avg_price for p in await open_now())
    assert D(23) < gross / third.state.equity * 100 <= D("25.1"), "of the 20 % asked for there was room for some 5"
    assert {p.symbol for p in third.state.positions} == {SYMBOL}


async def test_an_entry_of_the_other_that_rests_counts_as_well(home, shared, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_LIMITS__MAX_POSITIONS", "1")
    settings.cache_clear()
    first = await asked(home, "default", entry={"type": "limit", "offset_bps": 2})
    assert [order.status for order in first.orders] == ["open"]
    second = await asked(home, "trend")
    assert Code.MAX_POSITIONS in second.verdict.codes
    assert [each.symbol for each in second.state.pending] == [SYMBOL]


async def test_one_is_halted_by_its_own_drawdown_and_the_other_goes_on(home, shared):
    table(home, "limits = {drawdown_halt_pct = 0.01}\n")
    await asked(home, "trend")
    await by_hand.close(ETH, "100", "ann")  # for the fees alone
    await venue().close()
    assert store().outcomes.newest("trend")[0].pnl < 0
    advance(shared, 300)
    trend, other = await asked(home, "trend"), await asked(home, "default")
    assert trend.status is CycleStatus.DENIED
    assert Code.DRAWDOWN in trend.verdict.codes
    assert other.status is CycleStatus.EXECUTED
    assert other.state.own_equity == D(10_000), "the other's loss is not its own"
    assert trend.state.own_equity == D(10_000) + store().outcomes.newest("trend")[0].pnl
    await protect_once()
    status = {each.name: each.status for each in (await desk.read(await desk.now())).standings}
    await venue().close()
    assert status == {"default": "trading", "trend": "halted by its drawdown"}


async def test_one_with_a_share_sizes_on_it_and_its_drawdown_is_of_it(home, shared):
    table(home, "capital_pct = 30\nlimits = {drawdown_halt_pct = 0.015}\n")
    other, first = await asked(home, "default"), await asked(home, "trend")
    account_equity = first.state.equity
    share = account_equity * D("0.3")
    assert (first.state.own_capital, first.state.own_equity, first.state.peak_equity) == (share, share, share)
    [entry] = first.intents
    price, step = first.verdict.price, first.state.instrument.step
    assert entry.quantity == floor_to_step(share / 5 / price, step), "20 % of it"
    assert other.state.own_capital is None
    assert other.verdict.quantity * other.verdict.price > 1_900, "20 % of all"
    await by_hand.close(ETH, "100", "ann")
    await venue().close()
    advance(shared, 300)
    pnl = store().outcomes.newest("trend")[0].pnl
    assert D("0.00015") * share <= -pnl < D("0.00015") * account_equity
    last = await asked(home, "trend")
    assert (last.state.peak_equity, last.state.own_equity) == (share, share + pnl)
    assert last.state.own_capital == last.state.equity * D("0.3")
    assert Code.DRAWDOWN in last.verdict.codes
    await protect_once()
    ranked = {each.name: each for each in (await desk.read(await desk.now())).standings}
    await venue().close()
    status = {name: each.status for name, each in ranked.items()}
    assert status == {"default": "trading", "trend": "halted by its drawdown"}
    assert ranked["trend"].pnl_pct == pytest.approx(pnl * 100 / share)


async def test_what_both_lose_in_a_day_is_the_account_s_loss(home, shared, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_LIMITS__DAILY_LOSS_HALT_PCT", "0.01")
    table(home, "limits = {daily_loss_halt_pct = 3}\n")
    await protect_once()
    await asked(home, "default")
    await by_hand.close(SYMBOL, "100", "ann")
    await venue().close()
    advance(shared, 300)
    record = await asked(home, "trend")
    assert Code.DAILY_LOSS in record.verdict.codes
    assert record.state.own_equity == record.state.day_start_equity
    assert record.state.equity <= record.state.least_equity


async def test_what_has_lost_its_table_is_protected_and_can_be_closed(home, shared):
    await asked(home, "trend")
    [position] = store().positions.open("trend")
    table(home, text=f'symbols = ["{SYMBOL}", "{ETH}"]\n')
    await venue().set_protection(ETH, ZERO, None)
    await venue().close()
    [wrong] = (await protect_once())["wrong"]
    assert f"{ETH}: stop {position.stop} restored" in wrong
    settings.cache_clear()
    [symbol] = (ETH,)
    assert store().halts.active() == []
    with settings.of(settings.account.replace(symbols=(symbol,))):
        record = await asked_of_top(home, symbol)
    assert Code.FOREIGN_POSITION in record.verdict.codes, "the top level adds nothing to it"
    done = await told("close", ETH)
    assert done["left"] == 0
    assert store().positions.open("trend") == []


async def asked_of_top(home: Path, symbol: str) -> CycleRecord:
    reply = {
        "as_of": (await venue().now()).isoformat(),
        "symbol": symbol,
        "reply": json.dumps({**OPEN, "symbol": symbol}),
    }
    (home / "replies.jsonl").write_text(json.dumps(reply))
    request = Request(symbols=(symbol,), decider=f"recorded:{home / 'replies.jsonl'}", reason="a test asks")
    [record] = await run_cycles(request)
    await venue().close()
    return record


async def test_watch_rings_for_the_strategy_whose_symbol_has_a_reason(home, shared, monkeypatch):
    rung = list[dict[str, Any]]()
    monkeypatch.setattr(watch, "emit_event", lambda **event: rung.append(event))
    for name, symbol in (("default", SYMBOL), ("trend", ETH)):
        store().events.add(name, [a_reason(symbol=symbol, as_of=START, fingerprint=f"{symbol} now")])
    await watch._look_and_ring()
    await venue().close()
    whose = {event["payload"]["symbols"][0]: event["resource"]["quarterdeck.strategy"] for event in rung}
    assert whose == {SYMBOL: "default", ETH: "trend"}


async def test_a_run_and_each_task_in_it_is_the_strategy_s_that_its_parameter_names(home, shared, prefect_server):
    advance(shared, 300)
    [line] = await trade(trigger="adhoc", reason="a test", strategy="trend")
    assert ETH in line
    [record] = store().cycles.newest("trend")
    assert (record.symbol, record.decider, record.status) == (ETH, "hold", CycleStatus.HELD)
    assert store().strategies.get(record.inputs.strategy).symbols == (ETH,)
    assert store().cycles.newest("default") == []
    assert (await protect())["wrong"] == []
    assert {*store().equity.strategies()} == {"default", "trend", ACCOUNT}


LOOSE = {
    "SAMPLE_QUIET": "1",  # every quarter of an hour is asked about
    "LIMITS__REENTRY_COOLDOWN_MIN": "0",
    "LIMITS__OPENS_PER_HOUR": "9",
    "LIMITS__OPENS_PER_DAY": "99",
    "LIMITS__MAX_CORRELATION": "1",
}


def planned(home: Path, start: datetime) -> str:
    """Return a decider that buys one symbol and sells the other each half hour, for a quarter of an hour."""
    lines = []
    for n in range(1, 25):
        for symbol, action in ((SYMBOL, "OPEN_LONG"), (ETH, "OPEN_SHORT")):
            reply = {**(CLOSE if n % 2 else OPEN | {"action": action}), "symbol": symbol}
            at = start + n * timedelta(minutes=15)
            lines.append(json.dumps({"as_of": at.isoformat(), "symbol": symbol, "reply": json.dumps(reply)}))
    (home / "plan.jsonl").write_text("\n".join(lines))
    return f"recorded:{home / 'plan.jsonl'}"


@pytest.mark.timeout(900)
async def test_books_add_up_for_six_hours_while_one_is_halted_by_its_drawdown(home, tmp_path, monkeypatch):
    start = datetime(2025, 1, 23, 4, 0, tzinfo=UTC)
    with running_sandbox(symbols=(SYMBOL, ETH), start=start, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_TOML", str(tmp_path / "quarterdeck.toml"))
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "300")
        for name, value in LOOSE.items():
            monkeypatch.setenv(f"QUARTERDECK_{name}", value)
        monkeypatch.setenv("QUARTERDECK_DECIDER", planned(home, start))
        table(home, "limits = {drawdown_halt_pct = 0.12}\n", TREND.replace("hold", planned(home, start)))
        for _ in range(6):
            await step(hours=1)
            await protect_once()
            seen, every = state(url), ("default", "trend")
            held = [position for name in every for position in store().positions.open(name)]
            at_venue = {each["symbol"]: (each["side"], D(str(each["size"]))) for each in seen["positions"]}
            assert {each.symbol: (each.side, each.quantity) for each in held} == at_venue
            marks = {symbol: D(str(price)) for symbol, price in seen["prices"].items()}
            open_pnl = exact_sum(direction(p.side) * (marks[p.symbol] - p.avg_price) * p.quantity for p in held)
            made = exact_sum(store().positions.earned(name) for name in every)
            assert 10_000 + made + open_pnl == D(str(seen["equity"]))
            newest = {name: store().equity.last(name) for name in (*every, ACCOUNT)}
            assert newest["default"].equity + newest["trend"].equity - 10_000 == newest[ACCOUNT].equity
            assert newest[ACCOUNT].equity == D(str(seen["equity"]))
        await venue().close()
    assert store().halts.active() == []
    refused = [r for r in store().cycles.newest("trend", limit=None) if r.verdict and Code.DRAWDOWN in r.verdict.codes]
    halted_at = min(record.as_of for record in refused)
    sent = {name: [r for r in store().cycles.newest(name, limit=None) if r.fills] for name in every}
    assert start + timedelta(hours=1) < halted_at < start + timedelta(hours=5)
    assert any(record.as_of < halted_at for record in sent["trend"])
    assert not any(
        record.intents and not record.intents[0].reduce_only for record in sent["trend"] if record.as_of > halted_at
    )
    assert any(record.as_of > halted_at for record in sent["default"]), "the other goes on"


async def test_a_dataset_is_of_one_strategy(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(rl.SplitPlan, "split_of", lambda *_: "train")
    for _ in range(2):
        for strategy in ("default", "trend"):
            await asked(tmp_path, strategy)
        advance(shared, 300)
    assert (await told("export-rl", "--strategy", "trend", "--out", str(tmp_path / "data")))["transitions"] == 1
    [row] = pq.read_table(tmp_path / "data" / "train.parquet", columns=["strategy", "symbol"]).to_pylist()
    assert row == {"strategy": "trend", "symbol": ETH}
    with pytest.raises(InputError, match="strategy 'tend': there are default, trend"):
        settings.named("tend")


async def test_moments_are_of_one_strategy(shared, tmp_path, monkeypatch):
    registry = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", registry)
    settings.cache_clear()
    for strategy in ("default", "trend"):
        await asked(tmp_path, strategy)
    advance(shared, 25 * 3600)
    await fetch.fetch_candles.fn((SYMBOL, ETH), await venue().now())
    await venue().close()
    live = ("moments", "create", "--live", "latest", "--days", "10000")
    assert (await told(*live, "theirs", "--strategy", "trend"))["count"] == 1
    assert (await told(*live, "ours"))["count"] == 1
    kept = {name: read(server_of(registry), name)[1] for name in ("theirs", "ours")}
    assert {name: [each.symbol for each in chosen] for name, chosen in kept.items()} == {
        "theirs": [ETH],
        "ours": [SYMBOL],
    }
