"""Each day after midnight: the day before as one page, for people."""

from datetime import date

from prefect import flow

from flows.clock import run_name, to_the_end
from tasks import report as stage
from tasks import strategies


@flow(name="report", flow_run_name=run_name)
async def report(day: date | None = None) -> str:
    """Write each strategy's report of a UTC day; empty: yesterday's, by the venue's clock."""
    return await to_the_end(_write_all(day))


async def _write_all(day: date | None) -> str:
    return "\n".join([str(await stage.write_report(day)) for _ in strategies.each_in_turn()])
