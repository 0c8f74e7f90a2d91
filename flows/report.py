"""Each day after midnight: the day before as one page, for people."""

from datetime import date, timedelta

from prefect import flow

from flows.clock import to_the_end
from tasks import fetch
from tasks import report as stage


@flow(name="report")
async def report(day: date | None = None) -> str:
    """Write the report of a UTC day; empty: yesterday's, by the venue's clock."""
    return await to_the_end(write(day))


async def write(day: date | None = None) -> str:
    """Write it and return the file's path."""
    if day is None:
        day = (await fetch.venue_now()).date() - timedelta(days=1)
    return str(await stage.write_report(day))
