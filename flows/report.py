"""Each day after midnight: the day before as one page, for people."""

from datetime import date

from prefect import flow

from flows.clock import run_name, to_the_end
from tasks import report as stage


@flow(name="report", flow_run_name=run_name)
async def report(day: date | None = None) -> str:
    """Write the report of a UTC day; empty: yesterday's, by the venue's clock."""
    return str(await to_the_end(stage.write_report(day)))
