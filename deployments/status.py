"""What `quarterdeck status` says: the processes by their state file, the trading by the store. Needs nothing to run."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psutil
from rich.table import Table
from rich.text import Text

from deployments import up_state
from deployments.services import answers
from deployments.silence import silent
from tasks.adapters.heartbeat import SAID
from tasks.adapters.store import exists
from tasks.adapters.store.store import Store
from tasks.adapters.venue.client import name_of
from tasks.core.errors import StoreError
from tasks.core.pages import inert
from tasks.core.pages.decision import summary_line, title
from tasks.core.pages.numbers import UNKNOWN, fixed, money, plain, price, usd
from tasks.core.types import ACCOUNT, Position, day_start, direction, duration, exact, exact_sum, quote_of, r_at
from tasks.settings import Settings, settings

LATEST = datetime.max.replace(tzinfo=UTC)  # a venue's clock may be ahead of ours


def status(settings: Settings) -> dict[str, Any]:
    """Return the whole status as plain values and DTOs."""
    now = up_state.state(settings.home)
    report = {
        "running": now is not None,
        "phase": now.phase if now else "down",
        "started_at": now and now.started_at,
        "services": {  # a worker has no address: it is healthy while it lives
            name: {
                "pid": service.pid,
                "healthy": answers(service.health) if service.health else psutil.pid_exists(service.pid),
                "url": service.url,
            }
            for name, service in (now.services if now else {}).items()
        },
        "silent": silent(settings),  # what must run each minute, and has not for three
        "profile": (now or settings).profile,
        "strategy": settings.strategy,
        "home": settings.home,
        "cycles": {"total": 0, "by_status": {}},
        "last_cycle": None,
        "open_positions": [],
        "currency": quote_of(settings.symbols[0]),
        "paused": {},  # by symbol: until when it gets no entries
        "marks": {},  # by symbol of an open position: the last 5m close, and when that was
        **dict.fromkeys(("database", "equity", "halt", "differences", "models", "store_error")),
    }
    if exists(settings.store_url):
        try:
            with closing(Store(settings.store_url)) as store:
                report |= _trading(store, settings)
        except StoreError as e:
            report["store_error"] = str(e)
    return report


def _trading(store: Store, settings: Settings) -> dict[str, Any]:
    strategy, budget = settings.strategy, settings.budget
    names = dict.fromkeys((*(each.strategy for each in settings.every()), *store.positions.strategies()))
    newest = [found for name in names if (found := store.cycles.last(name))]
    counts, last = Counter[str](), max(newest, key=lambda cycle: cycle.as_of, default=None)
    for name in names:
        counts.update(store.cycles.by_status(name))
    by_status, marks = dict(counts), {}
    positions = [position for name in names for position in store.positions.open(name)]
    for symbol in sorted({position.symbol for position in positions}):
        if len(bars := store.candles.load(name_of(settings), symbol, "5m", LATEST, 1)):
            at = bars.index[-1].to_pydatetime() + duration("5m")
            marks[symbol] = {"price": exact(float(bars["close"].iloc[-1])), "at": at}
    equity, now = store.equity.last(ACCOUNT if settings.strategies else strategy), datetime.now(UTC)
    uses, booked = store.decisions.model_use(day_start(now)), store.budget.spent(now, budget.purse)
    return {
        "database": store.place,
        "cycles": {"total": sum(by_status.values()), "by_status": by_status},
        "last_cycle": last
        and {name: getattr(last, name) for name in ("cycle_id", "symbol", "as_of", "status", "trigger")}
        | {
            "action": last.decided and last.decided.decision.action,
            "source": last.decided and last.decided.source,
            "summary": summary_line(last),
            "title": title(last),
        },
        "open_positions": positions,
        "marks": marks,
        "equity": equity and equity.equity,
        "halt": store.halts.newest(),
        "paused": store.pauses.in_force(now),
        "differences": [look.about for name in names for look in store.differences.all_of(name)],
        **({"strategies": [_own(store, each, now) for each in settings.every()]} if settings.strategies else {}),
        # of today (UTC), by the decisions made; booked on the day's budget: also calls that run now, at their worst
        # case, and those of `decide`
        "models": {
            "cost": usd(uses),
            "usd_today": exact_sum(use.cost_usd for use in uses),
            "usd_booked": booked.usd,
            "usd_per_day": budget.usd_per_day,
            "calls_today": sum(use.calls for use in uses),
            "calls_booked": booked.calls,
            "calls_per_day": budget.calls_per_day,
            "tokens_today": sum(use.tokens_in + use.tokens_out for use in uses),
        },
    }


def _own(store: Store, s: Settings, now: datetime) -> dict[str, Any]:
    """Return what is one strategy's own, where several share the account."""
    equity, booked = store.equity.last(s.strategy), store.budget.spent(now, s.budget.purse)
    return {
        "name": s.strategy, "decider": s.decider_name, "symbols": s.symbols, "equity": equity and equity.equity,
        "peak": equity and equity.peak, "cycles": store.cycles.by_status(s.strategy), "usd_booked": booked.usd,
        "usd_per_day": s.budget.usd_per_day, "calls_booked": booked.calls, "calls_per_day": s.budget.calls_per_day,
    }  # fmt: skip


def shown(report: dict[str, Any]) -> Iterator[Text | Table]:
    """Lay the status out for a person: what is wrong first, in red."""
    up = f"{report['phase']} since {report['started_at']:%Y-%m-%d %H:%M} UTC" if report["running"] else "not running"
    yield _text(f"{report['profile']}, strategy {report['strategy']}, HOME {report['home']}: {up}")
    if report["database"]:
        yield _text(f"kept in {report['database']}")
    halt, error = report["halt"], report["store_error"]
    _, long = SAID[settings().watch_every_s]
    alarms = [f"{name}: no completed run for {long}; `quarterdeck doctor`" for name in report["silent"]]
    alarms += [f"the database: {error}"] if error else []
    alarms += [f"halted by {halt.who} since {halt.since:%Y-%m-%d %H:%M} UTC: {halt.reason}"] if halt else []
    alarms += [f"venue and ledger differ: {about}" for about in report["differences"] or ()]
    yield from (_text(alarm, "red") for alarm in alarms)
    for symbol, until in report["paused"].items():
        yield _text(f"{symbol} paused until {until:%Y-%m-%d %H:%M} UTC: no entries")
    services = [
        (name, "healthy" if service["healthy"] else "down", service["pid"], service["url"])
        for name, service in report["services"].items()
    ]
    if services:
        yield _table(("service", "health", "pid", "address"), services)
    if several := report.get("strategies"):
        rows = [
            (each["name"], each["decider"], ", ".join(each["symbols"]), money(each["equity"], report["currency"]),
             f"{fixed(each['usd_booked'])} of {plain(each['usd_per_day'])} USD")
            for each in several
        ]  # fmt: skip
        yield _table(("strategy", "decider", "symbols", "worth alone", "models today"), rows)
    if positions := report["open_positions"]:
        head = ("position", "side", "quantity", "entry", "mark", "at", "PnL", "R", "stop", "target", "since")
        yield _table(head, [_row(position, report["marks"].get(position.symbol)) for position in positions])
    else:
        yield _text("no open positions")
    if (equity := report["equity"]) is not None:
        yield _text(f"equity {money(equity, report['currency'])}")
    if spent := report["models"]:
        booked = f"{money(spent['usd_booked'], 'USD')} and {spent['calls_booked']} calls"
        most = f"{plain(spent['usd_per_day'])} USD and {spent['calls_per_day']} calls"
        yield _text(f"models today: {spent['cost']}; booked are {booked} of {most}")
    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in report["cycles"]["by_status"].items())
    yield _text(f"cycles: {counts or 'none yet'}")
    if last := report["last_cycle"]:
        yield _text(f"last: {last['title']}")


def _row(position: Position, mark: dict[str, Any] | None) -> tuple[str, ...]:
    quote, pnl, r, at = quote_of(position.symbol), None, None, UNKNOWN
    if mark:
        moved = (mark["price"] - position.avg_price) * direction(position.side)
        pnl, r, at = moved * position.quantity, r_at(position, mark["price"]), f"{mark['at']:%d %H:%M}"
    levels = map(price, (position.stop, position.target))
    opened = f"{position.opened_at:%Y-%m-%d %H:%M}"
    return (
        position.symbol, position.side, plain(position.quantity), price(position.avg_price),
        price(mark and mark["price"]), at, money(pnl, quote, sign=True), fixed(r, sign=True), *levels, opened,
    )  # fmt: skip


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_text(str(cell)) for cell in row))
    return table


def _text(text: str, style: str = "") -> Text:
    return Text(inert.line(text), style)
