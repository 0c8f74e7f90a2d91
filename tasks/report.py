"""The day's report: one HTML page in HOME/reports, a page in Prefect, and its headline by alert."""

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pandas as pd
from prefect.artifacts import acreate_markdown_artifact
from prefect.runtime import flow_run

from tasks import alerts, desk
from tasks.connections import artifacts_url, store, venue
from tasks.core.pages import inert
from tasks.core.pages.desk import decisions_table, positions_table
from tasks.core.pages.markdown import table
from tasks.core.pages.numbers import usd
from tasks.core.types import Alert, AlertKind
from tasks.settings import settings
from tasks.stage import stage

ARTIFACT = "daily-report"
SHOWN = timedelta(days=30)
POINTS = 1000


@stage
async def write_report(day: date | None) -> Path:
    """Write the page about one UTC day, show it in Prefect and send its headline; again: the same files.

    day: by default yesterday, by the venue's clock.
    """
    from tasks.adapters.charts import canvas, comparison
    from tasks.adapters.charts.comparison_report import page_of

    kept, s = store(), settings()
    day = day or (await venue().now()).date() - timedelta(days=1)
    begin = datetime.combine(day, time(), UTC)
    end = begin + timedelta(days=1)
    shown_day, picture = desk.read_day(day, _baselines(end)), ""
    judged = [each for each in kept.decisions.judged(s.strategy, begin, artifacts_url()) if each.as_of < end]
    open_now = [each for each in await desk.positions() if each.position.strategy == s.strategy]
    held = positions_table(open_now, await desk.now())
    tables = [held, decisions_table(judged, whole=True)]
    points = kept.equity.since(s.strategy, end - SHOWN, end - timedelta.resolution)
    if len(points) > 1 and points[0].equity:
        shown = [*points[:: max(1, len(points) // POINTS)], points[-1]]
        worth = pd.Series([float(point.equity) for point in shown], [point.at.timestamp() for point in shown])
        picture = canvas.data_uri(comparison.equity({s.strategy: worth.pct_change().fillna(0)}))
    sent = {f"{at:%H:%M} {kind}": text for at, kind, text in kept.alerts.since(begin) if at < end}
    path = s.home / "reports" / f"{s.strategy}-{day}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page_of("daily.html.j2", day=shown_day, picture=picture, tables=tables, told=sent))
    if flow_run.id is not None:
        rows = [*shown_day.statuses.items(), *shown_day.actions.items()]
        rows += [(f"cost of {use.model}", usd([use])) for use in shown_day.models]
        headline, where = inert.markdown(shown_day.headline), inert.markdown(str(path))
        page = f"# {day}\n{headline}\n\n{table(('what', 'how many'), rows)}\n\nThe whole page: {where}"
        await acreate_markdown_artifact(key=ARTIFACT, markdown=page, description=headline)
    alerts.tell([Alert(kind=AlertKind.REPORT, key=str(day), text=f"{shown_day.headline}; {path}")])
    return path


def _baselines(end: datetime) -> dict[str, float]:
    """Return what holding each symbol would have brought in that day, in percent."""
    changes = {}
    for symbol in settings().symbols:
        closes = store().candles.load(venue().name, symbol, "1h", end, 25)["close"]
        if len(closes) == 25:
            changes[f"hold {symbol}"] = float(closes.iloc[-1] / closes.iloc[0] - 1) * 100
    return changes
