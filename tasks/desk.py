"""Read what the desk shows: from the ledger, and where they answer from the venue and Prefect. Nothing is changed."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import httpx
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.runtime import flow_run

from tasks import account, alerts, clock, strategies
from tasks.adapters import certificates, secret
from tasks.connections import artifacts_url, log, store, venue
from tasks.core.pages import alerts as words
from tasks.core.pages import desk as page
from tasks.core.pages import inert
from tasks.core.pages.day import Day
from tasks.core.pages.desk import Desk, MarkedPosition, Ranked
from tasks.core.types import (
    ACCOUNT,
    EquityPoint,
    Opening,
    Position,
    Texts,
    TradingError,
    day_start,
    exact_sum,
    floor_time,
    quote_of,
)
from tasks.settings import Settings, settings

ARTIFACT = "desk"
PATIENCE_S = 5.0  # of a page for whoever does not answer
SHOWN, POINTS = timedelta(days=30), 720
NEWS, HOUR = timedelta(minutes=50), timedelta(hours=1)  # so old is no news; what was told is remembered for an hour


async def now() -> datetime:
    """Return the venue's time, else when it was last heard of, else this machine's."""
    client = venue()  # importing it takes seconds, which are not the venue's
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await client.now()
    except (TradingError, TimeoutError) as e:
        log().warning("desk time=unknown %s", str(e) or "no answer")
    last = store().equity.last(settings.account.strategy)
    return last.at if last else clock.now()


async def positions() -> list[MarkedPosition]:
    """Return every strategy's open positions at what they could be sold for now."""
    held = [position for each in strategies.at_work() for position in store().positions.open(each.strategy)]
    return [known._replace(mark=mark) for known, mark in zip(_known(held), await _marks(held), strict=True)]


def _known(held: Sequence[Position]) -> list[MarkedPosition]:
    """Return positions with why they were opened and where that is explained, at no mark."""
    names = {each.strategy for each in held}
    ours = [opening for name in names for opening in account.known_ledger(name, clock.now()).openings]
    openings, links = {each.symbol: each for each in ours}, _links([each.cycle_id for each in held])
    is_shared = bool(settings.account.strategies or names - {settings.account.strategy})
    return [
        MarkedPosition(
            each,
            openings.get(each.symbol) or Opening(symbol=each.symbol, opened_at=each.opened_at),
            link=links.get(each.cycle_id, ""),
            strategy=each.strategy if is_shared else "",
        )
        for each in held
    ]


def _links(cycle_ids: Sequence[str]) -> dict[str, str]:
    """Return where decisions are explained, by cycle."""
    pages = artifacts_url()
    return {cycle_id: f"{pages}/{page_id}" for cycle_id, page_id in store().decisions.pages(cycle_ids).items()}


def tell_news(at: datetime) -> None:
    """Tell what was opened and closed lately, and after each full hour what the guard refused in it.

    After an outage lately begins with it: a stop that the venue carried out meanwhile is news.
    """
    kept, strategy, hour = store(), settings().strategy, floor_time(at, "1h")
    seen = kept.equity.last(strategy, at - NEWS)
    since = seen.at if seen else at - NEWS
    opened = [each for each in kept.positions.open(strategy) if each.opened_at > since]
    closed = kept.outcomes.newest(strategy, since=since, limit=None)
    judged = kept.decisions.judged(strategy, hour - HOUR, artifacts_url()) if at - hour < NEWS else []
    alerts.tell([
        *words.of_opened(_known(opened)),
        *words.of_closed(closed, _links([each.cycle_id for each in closed])),
        *words.of_denied(judged, hour - HOUR, hour),
    ])  # fmt: skip


async def _marks(held: Sequence[Position]) -> list[Decimal | None]:
    """Return what each could be sold for; one that is late ends by itself, as clients share what they load."""
    if held:
        venue()  # imported, as in `now`
    asked = [asyncio.ensure_future(_mark(each)) for each in held]
    if asked:
        await asyncio.wait(asked, timeout=PATIENCE_S)
    return [each.result() if each.done() else None for each in asked]


async def _mark(position: Position) -> Decimal | None:
    try:
        book = await venue().fetch_book(position.symbol)
    except TradingError as e:
        log().warning("desk symbol=%s mark=unknown %s", position.symbol, e)
        return None
    out = book.bids if position.side == "long" else book.asks
    return out[0][0] if out else None


async def read(at: datetime, plan: bool = True) -> Desk:
    """Read the desk of the account, all strategies'; at: the venue's time, plan: with what Prefect starts next."""
    kept, s, every = store(), settings.account, strategies.at_work()
    names = tuple(each.strategy for each in every)
    closed = [outcome for name in names for outcome in kept.outcomes.newest(name, since=at - SHOWN, limit=None)]
    judged = [each for name in names for each in kept.decisions.judged(name, day_start(at), artifacts_url())]
    held, curve = await positions(), kept.equity.curve(_curve(s), at - SHOWN, at)
    return Desk(
        at=at, strategy=" ".join(names), profile=s.profile, day=read_day(at.date(), names=names),
        curve=curve[:: len(curve) // POINTS + 1], positions=held,
        resting=[own for name in names for own in kept.intents.open(name)],
        judged=sorted(judged, key=lambda each: each.as_of, reverse=True),
        spent=_spent(every), halts=kept.halts.active(),
        closed=sorted(closed, key=lambda each: each.closed_at, reverse=True),
        standings=_standings(held, at), prompts=kept.decisions.prompts([each.cycle_id for each in closed]),
        runs=await _next_runs() if plan else None,
    )  # fmt: skip


def _curve(s: Settings) -> str:
    """Return whose curve is that of the whole account."""
    return ACCOUNT if s.strategies else s.strategy


def _spent(every: Iterable[Settings]) -> tuple[Decimal, Decimal | None, int, int | None]:
    """Return what models cost today of what they may, and their calls likewise, over all budgets; None: unlimited."""
    budgets = [each.budget for each in every if each.symbols]
    spent = [store().budget.spent(clock.now(), budget.purse) for budget in budgets]
    usd, calls = [each.usd_per_day for each in budgets], [each.calls_per_day for each in budgets]
    return (
        exact_sum(each.usd for each in spent), None if None in usd else exact_sum(most for most in usd if most),
        sum(each.calls for each in spent), None if None in calls else sum(most for most in calls if most),
    )  # fmt: skip


def read_day(day: date, baselines: Mapping[str, float] = {}, names: Texts = ()) -> Day:
    """Read what a UTC day of the strategy came to so far; names: of the strategies with these, together."""
    kept, strategy, begin = store(), settings().strategy, datetime.combine(day, time(), UTC)
    end = begin + timedelta(days=1)
    last, names = end - timedelta.resolution, names or (strategy,)
    statuses = Counter[str]()
    for name in names:
        statuses.update(kept.cycles.by_status(name, begin, end))
    outcomes = [each for name in names for each in kept.outcomes.newest(name, since=begin, until=last, limit=None)]
    return Day(
        day=day,
        strategy=strategy,
        currency=quote_of(settings().symbols[0]),
        points=kept.equity.since(strategy if len(names) == 1 else _curve(settings.account), begin, last),
        statuses=dict(sorted(statuses.items())),
        decided=[each for name in names for each in kept.decisions.between(name, begin, end)],
        outcomes=outcomes,
        baselines=baselines,
        models=[each for name in names for each in kept.decisions.model_use(begin, end, name)],
    )


def _standings(held: Iterable[MarkedPosition], at: datetime) -> list[Ranked]:
    """Return every strategy of the database, then the paper books of the challengers, the best first."""
    kept, rows, every = store(), [], {each.strategy: each for each in strategies.at_work()}
    for name in kept.equity.strategies():
        if name == ACCOUNT:
            continue
        first, last = kept.equity.oldest(name), kept.equity.last(name)
        mine, cycle = [each.pnl for each in held if each.position.strategy == name], kept.cycles.last(name)
        source = cycle.decided.source if cycle and cycle.decided else ""
        rows.append(Ranked(
            name, cycle.decider if cycle else "", source, settings.account.profile, _standing(every.get(name), last),
            kept.positions.earned(name),
            None if None in mine or name not in every else exact_sum(pnl for pnl in mine if pnl is not None),
            _gained(first, last, every.get(name)),
            kept.equity.curve(name, at - SHOWN, at),
        ))  # fmt: skip
    cash = settings.account.paper_cash
    for name in every:
        for decider, equity in kept.paper_books.equities(name):
            pct = (equity / cash - 1) * 100
            called = decider if name == settings.account.strategy else f"{name}/{decider}"
            rows.append(Ranked(called, decider, "", "shadow", "on paper", equity - cash, None, pct))
    return sorted(rows, key=lambda each: -(each.pnl_pct or 0))


def _gained(first: EquityPoint | None, last: EquityPoint | None, s: Settings | None) -> Decimal | None:
    """Return what a curve has made, in percent of the share that its strategy has of the account; s: None for all."""
    if first is None or last is None or not first.equity:
        return None
    return (last.equity - first.equity) * 100 / (first.equity - (account.not_at_stake(s) if s else 0))


def _standing(s: Settings | None, last: EquityPoint | None) -> str:
    """Return whether a strategy trades; s: None where it is none of ours any more."""
    if s is None:
        return f"last seen {last.at:%m-%d %H:%M}" if last else ""
    if store().halts.newest():
        return "halted"
    if last and (last.peak - last.equity) * 100 >= s.limits.drawdown_halt_pct * (last.peak - account.not_at_stake(s)):
        return "halted by its drawdown"
    return "trading" if s.symbols else "winding up"


async def _next_runs() -> list[tuple[datetime, str]]:
    """Return what Prefect starts next, each deployment once; none where it does not answer."""
    s = settings()
    wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "sort": "EXPECTED_START_TIME_ASC"}
    try:
        login, trusted = secret.login(s.home), certificates.prefects()
        async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False, verify=trusted, auth=login) as http:
            runs = (await http.post(f"{s.prefect_api_url}/flow_runs/filter", json=wanted)).raise_for_status().json()
            named = (await http.post(f"{s.prefect_api_url}/deployments/filter", json={})).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as e:
        log().info("desk next runs not read: %r", e)
        return []
    names, due = {each["id"]: each["name"] for each in named}, dict[str, datetime]()
    for run in runs:
        if run["deployment_id"] in names:
            due.setdefault(names[run["deployment_id"]], datetime.fromisoformat(run["expected_start_time"]))
    return [(at.astimezone(UTC), name) for name, at in due.items()]


async def show(at: datetime) -> None:
    """Renew the desk in Prefect: one artifact that is written over, not a version each minute; it may fail.

    No task of its own, and without the next runs: what is asked of the server each minute is kept small.
    """
    if flow_run.id is None:
        return
    try:
        text = page.to_markdown(await read(at, plan=False))
        async with get_client() as client:
            mine = ArtifactFilter(key=ArtifactFilterKey(any_=[ARTIFACT]))
            if found := await client.read_artifacts(artifact_filter=mine, limit=1):
                await client.update_artifact(found[0].id, ArtifactUpdate(data=text))
                return
        about = inert.markdown(f"{settings().strategy}: what is open, and what was decided today")
        await acreate_markdown_artifact(key=ARTIFACT, markdown=text, description=about)
    except (TradingError, httpx.HTTPError) as e:
        log().warning("desk not renewed: %r", e)
