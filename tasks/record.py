"""Keep what a cycle did: the record in the store, and a page in Prefect."""

import re
from datetime import datetime, timedelta

from prefect.artifacts import acreate_markdown_artifact
from prefect.runtime import flow_run

from tasks import clock
from tasks.adapters.store.cycles import BeginResult
from tasks.connections import log, store
from tasks.core.market.market import Market
from tasks.core.pages import decision, inert
from tasks.core.trading.orders import cycle_id
from tasks.core.types import CycleRecord, CycleStatus, Outcome, Texts, TradingError, duration, floor_time
from tasks.features import load_candles
from tasks.settings import settings
from tasks.stage import stage

SCHEDULE = "15m"  # every close of it is due a cycle
LOOKED_BACK = timedelta(days=1)  # for closes that were missed
CHART_SIZE = (900, 480)  # pixels: as wide as Prefect's page, and about 40 KB inside it
CHART_BARS = 96  # a day of 15m


@stage
def record_quiet(records: list[CycleRecord]) -> None:
    """Keep the records of cycles that ended without a question; running it again changes nothing."""
    store().cycles.save_all(records, clock.now())
    for record in records:
        log().info("cycle %s", decision.summary_line(record))


@stage(task_run_name="record-{record.symbol}")
def record_cycle(record: CycleRecord, first: bool = False) -> None:
    """Keep the record; running it again with the same record changes nothing. first: as in `CycleRepository.save`."""
    store().cycles.save(record, clock.now(), first=first)
    log().info("cycle %s", decision.summary_line(record))


@stage
def record_missed(symbols: Texts, as_of: datetime) -> int:
    """Keep a record of each scheduled close before as_of that no cycle was about, at most a day back; return how many.

    Whatever was down (worker, server, machine), what matters is that nothing was decided; a late run never does it.
    """
    kept, s, missed = store(), settings(), 0
    due = floor_time(as_of, SCHEDULE)
    begin = due - LOOKED_BACK
    known = kept.cycles.closes(s.strategy, begin, as_of)
    for symbol in symbols:
        last = kept.cycles.last(s.strategy, symbol)
        had = known.get(symbol) or ({last.as_of} if last else set())
        close = max(begin, floor_time(min(had), SCHEDULE)) if had else due  # one that has never run misses nothing
        while (close := close + duration(SCHEDULE)) < due:
            if close not in had:
                missed += _keep_missed(symbol, close)
    return missed


def _keep_missed(symbol: str, close: datetime) -> bool:
    s = settings()
    record = CycleRecord(
        cycle_id=cycle_id(s.strategy, symbol, close), strategy=s.strategy, symbol=symbol, as_of=close,
        decider=s.decider_name, status=CycleStatus.MISSED,
    )  # fmt: skip
    if store().cycles.begin(record, clock.now()) is not BeginResult.STARTED:
        return False
    log().warning("cycle %s", decision.summary_line(record))
    return True


@stage(task_run_name="explain-{record.symbol}")
async def explain_decision(record: CycleRecord, outcome: Outcome | None = None, trace: str = "") -> None:
    """Write the page that explains the decision to a person, with the chart as it was then: one series a symbol.

    Only a run of Prefect has a place for it. trace: the URL of its trace.
    """
    if flow_run.id is None:
        return
    page = await acreate_markdown_artifact(
        key="-".join(("decision", *re.findall("[a-z0-9]+", record.symbol.lower()))),
        markdown=decision.to_markdown(record, outcome, chart_of(record), trace),
        description=inert.markdown(decision.title(record)),
    )
    store().decisions.note_page(record.cycle_id, str(page))


def chart_of(record: CycleRecord) -> str:
    """Draw what was known at the record's close, as a URL that holds the picture; "" where it cannot be drawn."""
    from tasks.adapters.charts import canvas, moment

    try:
        frames = load_candles.fn((record.symbol,), record.as_of, settings().history_bars)[record.symbol]
        market = Market(record.symbol, frames, settings().events)
        position = decision.position_after(record)
        picture = moment.draw(
            market, record.as_of, bars=CHART_BARS, reasons=record.reasons, position=position, size=CHART_SIZE
        )
    except (TradingError, ImportError, OSError, ValueError) as e:  # no candles, or the drawing library's own
        log().warning("chart symbol=%s cycle_id=%s not drawn error=%s", record.symbol, record.cycle_id, e)
        return ""
    return canvas.data_uri(picture)
