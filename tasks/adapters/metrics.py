"""Prometheus metrics, read from the store when they are scraped: nothing is counted in a process that may die.

What is of a strategy has the label `strategy`; halts, alerts and leases are the account's and have none. A `_total`
counts since 00:00 UTC of the day that the strategy's newest cycle is about, and so starts at 0 once a day, which
Prometheus takes for a restart (`increase` and `rate` stay right). Latencies are quantiles over the last hour's cycles.
Every query reads at most a day, through an index.
"""

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, and_, false, func, or_, select

from tasks import clock
from tasks.adapters.store import (
    AlertRow,
    CycleRow,
    DecisionRow,
    HaltRow,
    IntentRow,
    LeaseRow,
    ModelCallRow,
    VerdictRow,
    dto_of,
)
from tasks.adapters.store.store import Store
from tasks.core.types import Answer, Budget, CycleStatus, Texts, ToolCall, TradingError, day_start

LATENCIES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)  # upper bounds
QUANTILES = (0.5, 0.95, 1.0)
HOUR = timedelta(hours=1)
STRATEGY = "strategy"
EQUITY = "Equity in quote; where strategies share the account, what it would be worth by this one's trades alone"
Family = Counter | Gauge
Labelled = Mapping[Any, float]  # by the values of its labels


class Exporter(Collector):
    """What the strategies do, as metrics. A store that does not answer is a metric too, not a failed scrape.

    budgets: what each strategy's models may cost, by its name.
    """

    def __init__(self, url: str, budgets: Mapping[str, Budget]) -> None:
        self._url, self._budgets = url, budgets
        self._store: Store | None = None

    def describe(self) -> Iterable[Metric]:
        """Describe nothing beforehand: registering must not need a database."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            self._store = self._store or Store(self._url)
            found = list(self._read(self._store, clock.now()))
        except TradingError:
            found = []
        yield _metric(Gauge, "store_up", "1 when the database answered", {(): bool(found)})
        yield from found

    def _read(self, store: Store, now: datetime) -> Iterator[Metric]:
        today = day_start(now)
        names = [*self._budgets, *sorted({*store.positions.strategies()} - self._budgets.keys())]
        found = {name: store.value(select(func.max(CycleRow.as_of)).filter_by(strategy=name)) for name in names}
        newest = {name: at for name, at in found.items() if at is not None}
        about = _since({name: day_start(at) for name, at in newest.items()})
        of_cycle, strategy = DecisionRow.cycle_id == CycleRow.cycle_id, CycleRow.strategy
        decided = (strategy, DecisionRow.action, DecisionRow.rung, DecisionRow.source, CycleRow.status)
        counts = [
            (
                Counter,
                "cycles",
                "Cycles by how they ended and what started them",
                (strategy, CycleRow.status, CycleRow.trigger),
                (about,),
            ),
            (
                Counter,
                "cycle_errors",
                "Cycles with an error, such as a venue that refused",
                (strategy, CycleRow.symbol),
                (about, CycleRow.error != ""),
            ),
            (
                Counter,
                "decisions",
                "Decisions; rung cache is a hit",
                decided,
                (of_cycle, about),
            ),
            (Gauge, "halts", "Halts in force", (), (HaltRow.resumed_at.is_(None),)),
            (
                Counter,
                "intents",
                "Orders written down, by what became of them",
                (strategy, IntentRow.state),
                (IntentRow.cycle_id == CycleRow.cycle_id, IntentRow.persisted_at >= today),
            ),
            (
                Gauge,
                "alerts",
                "Things told to people that were so within the last hour",
                (AlertRow.kind,),
                (AlertRow.seen_at >= now - HOUR,),
            ),
            (
                Gauge,
                "lease_held",
                "Leases held now, and by which run",
                (LeaseRow.name, LeaseRow.holder),
                (LeaseRow.expires_at > now,),
            ),
        ]
        for kind, name, text, columns, where in counts:
            rows = store.rows(select(*columns, func.count()).where(*where).group_by(*columns))
            yield _metric(kind, name, text, {tuple(row[:-1]): row[-1] for row in rows}, [each.key for each in columns])
        refused = (VerdictRow.cycle_id == CycleRow.cycle_id, about, VerdictRow.allowed.is_(False))
        denied = store.rows(select(strategy, VerdictRow.codes).where(*refused))
        codes = Counts((name, code) for name, codes in denied for code in codes)
        yield _metric(Counter, "denials", "Decisions the guard refused, by code", codes, (STRATEGY, "code"))
        if newest:
            closes = {(name,): at.timestamp() for name, at in newest.items()}
            yield _metric(Gauge, "last_close_timestamp_seconds", "What the newest cycle is about", closes, (STRATEGY,))
            yield self._stages(store, _since({name: at - HOUR + timedelta.resolution for name, at in newest.items()}))
        yield from self._models(store, now, today)
        yield from self._account(store, names)

    def _stages(self, store: Store, lately: ColumnElement[bool]) -> Metric:
        query = (
            select(CycleRow.strategy, CycleRow.as_of, CycleRow.started_at, CycleRow.updated_at)
            .add_columns(DecisionRow.decided_at, DecisionRow.latency_ms, VerdictRow.judged_at)
            .outerjoin(DecisionRow, DecisionRow.cycle_id == CycleRow.cycle_id)
            .outerjoin(VerdictRow, VerdictRow.cycle_id == CycleRow.cycle_id)
            .where(lately, CycleRow.status.not_in((CycleStatus.STARTED, CycleStatus.MISSED)))
        )
        spans = defaultdict[Texts, list[float]](list)
        for row in store.rows(query):
            for stage, seconds in _spans(row):
                spans[row.strategy, stage].append(max(0.0, seconds))
        values = {(*of, str(q)): float(np.quantile(took, q)) for of, took in spans.items() for q in QUANTILES}
        return _metric(
            Gauge,
            "cycle_stage_seconds",
            "Time per stage, last hour; late: from the close to the cycle's begin",
            values,
            (STRATEGY, "stage", "quantile"),
        )

    def _models(self, store: Store, now: datetime, today: datetime) -> Iterator[Metric]:
        calls, usd, tokens = (defaultdict[Texts, float](float) for _ in range(3))
        seconds = defaultdict[Texts, list[float]](list)
        asked = select(CycleRow.strategy, ModelCallRow).join(CycleRow).where(ModelCallRow.called_at >= today)
        for row in store.rows(asked):
            provider, _, model = row.model.rpartition("/")
            who = (row.strategy, provider or "unknown", model, row.role)
            calls[*who, "error" if row.error else "ok"] += 1
            seconds[who].append(row.latency_ms / 1000)
            usd[who] += float(row.cost_usd)
            tokens[*who, "in"] += row.tokens_in
            tokens[*who, "out"] += row.tokens_out
        labels = (STRATEGY, "provider", "model", "role")
        yield _metric(Counter, "model_calls", "Requests to models", calls, (*labels, "result"))
        waited = Histogram("quarterdeck_model_seconds", "How long models took; since 00:00 UTC", labels=labels)
        for asked_of, took in sorted(seconds.items()):
            within = [(str(most), float(sum(each <= most for each in took))) for most in LATENCIES_S]
            waited.add_metric(list(asked_of), [*within, ("+Inf", float(len(took)))], sum(took))
        yield waited
        yield _metric(Counter, "model_cost_usd", "What models cost", usd, labels)
        yield _metric(Counter, "model_tokens", "Tokens sent and received", tokens, (*labels, "direction"))
        yield self._tools(store, today)
        shares: dict[Texts, float] = {}
        for name, budget in self._budgets.items():
            spent = store.budget.spent(now, budget.purse)
            uses = {"usd": (spent.usd, budget.usd_per_day), "calls": (Decimal(spent.calls), budget.calls_per_day)}
            shares |= {(name, unit): float(used / cap) for unit, (used, cap) in uses.items() if cap}
        yield _metric(Gauge, "budget_used_ratio", "Share of the day's budget that is used", shares, (STRATEGY, "unit"))

    def _tools(self, store: Store, today: datetime) -> Metric:
        """Count what planners asked; only decisions that a planner had a part in are read."""
        planned = select(ModelCallRow.cycle_id).where(ModelCallRow.role == "planner", ModelCallRow.called_at >= today)
        asked = select(CycleRow.strategy, DecisionRow.decided).join(CycleRow).where(DecisionRow.cycle_id.in_(planned))
        answers = [(strategy, dto_of(Answer, (decided,))) for strategy, decided in store.rows(asked)]
        results = Counts((name, call.tool, _result(call)) for name, answer in answers for call in answer.tool_calls)
        return _metric(Counter, "tool_calls", "Requests of planners for data", results, (STRATEGY, "tool", "result"))

    def _account(self, store: Store, names: Sequence[str]) -> Iterator[Metric]:
        last = {(name,): point for name in names if (point := store.equity.last(name)) is not None}
        equity = {name: float(point.equity) for name, point in last.items()}
        drawdown = {name: float(1 - point.equity / point.peak) if point.peak else 0.0 for name, point in last.items()}
        yield _metric(Gauge, "equity", EQUITY, equity, (STRATEGY,))
        yield _metric(Gauge, "drawdown_ratio", "Below the highest equity", drawdown, (STRATEGY,))
        held = {(name, p.symbol, p.side): p for name in names for p in store.positions.open(name)}
        at_entry = {of: float(p.quantity * p.avg_price) for of, p in held.items()}
        risks = {of: float(p.quantity * abs(p.avg_price - p.stop)) for of, p in held.items() if p.stop is not None}
        labels = (STRATEGY, "symbol", "side")
        yield _metric(Gauge, "exposure", "Open positions at their entry price, in quote", at_entry, labels)
        yield _metric(Gauge, "open_risk", "From entry to stop, in quote", risks, labels)


def _since(begins: Mapping[str, datetime]) -> ColumnElement[bool]:
    """Return the condition that a cycle is of one of these strategies, and about that time or later."""
    return or_(false(), *(and_(CycleRow.strategy == name, CycleRow.as_of >= at) for name, at in begins.items()))


def _result(call: ToolCall) -> str:
    named = {"dropped": call.dropped, "late": call.late, "refused": call.error, "cut": call.truncated}
    return next((name for name, is_so in named.items() if is_so), "answered")


def _spans(row: Any) -> Iterator[tuple[str, float]]:
    """Return the seconds of each stage that one cycle reached."""
    yield "late", (row.started_at - row.as_of).total_seconds()
    yield "cycle", (row.updated_at - row.started_at).total_seconds()
    if row.decided_at is not None:
        deciding = row.latency_ms / 1000
        yield "prepare", (row.decided_at - row.started_at).total_seconds() - deciding
        yield "decide", deciding
        if row.judged_at is not None:
            yield "guard", (row.judged_at - row.decided_at).total_seconds()
            yield "execute", (row.updated_at - row.judged_at).total_seconds()


def _metric(kind: type[Family], name: str, text: str, values: Labelled, labels: Sequence[str] = ()) -> Metric:
    since = "; since 00:00 UTC" if kind is Counter else ""
    family = kind(f"quarterdeck_{name}", text + since, labels=labels)
    for each, value in sorted(values.items()):
        family.add_metric(list(each), value)
    return family
