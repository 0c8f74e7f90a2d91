"""Memory by process and simulated hour, and databases by table: least-squares slopes and bytes a day."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import psutil
import psycopg

MB = 1_000_000
FLAT_MB_A_DAY = 5.0  # more is a leak: 1.8 GB in a year
ENOUGH = 12  # samples, hours apart; a slope through fewer says nothing
OURS = ("trader", "sandbox", "warm", "worker")  # Prefect's server and MLflow's are stated only


@dataclass
class Memory:
    """Resident memory of each process, in MB."""

    hours: dict[str, list[float]] = field(default_factory=dict)
    megabytes: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, hour: float, megabytes: float) -> None:
        self.hours.setdefault(name, []).append(hour)
        self.megabytes.setdefault(name, []).append(megabytes)

    def slope(self, name: str, after: float) -> float:
        """Return MB per simulated day by least squares over the samples after that many hours; NaN for too few."""
        hours, sizes = np.array(self.hours[name]), np.array(self.megabytes[name])
        late = hours >= after
        return float(np.polyfit(hours[late] / 24, sizes[late], 1)[0]) if late.sum() > 2 else float("nan")

    def warm_up(self) -> float:
        """Return how many of the hours seen do not count: a quarter, at most a day."""
        return min(24.0, max((hours[-1] for hours in self.hours.values()), default=0.0) / 4)

    def growing(self) -> Iterator[str]:
        after = self.warm_up()
        for name in filter(self.hours.__contains__, OURS):
            enough = sum(hour >= after for hour in self.hours[name]) >= ENOUGH
            if enough and (slope := self.slope(name, after)) > FLAT_MB_A_DAY:
                yield f"memory: {name} grows by {slope:.1f} MB a day"

    def table(self) -> list[str]:
        after = self.warm_up()
        head = (
            f"{'process':10}{'samples':>8}{'first MB':>10}{f'at {after:.0f} h':>10}{'last':>8}{'most':>8}{'MB/day':>9}"
        )
        return [head, *(self._row(name, after) for name in self.hours)]

    def _row(self, name: str, after: float) -> str:
        sizes = self.megabytes[name]
        late = next((s for h, s in zip(self.hours[name], sizes, strict=True) if h >= after), sizes[-1])
        return (
            f"{name:10}{len(sizes):8}{sizes[0]:10.1f}{late:10.1f}{sizes[-1]:8.1f}{max(sizes):8.1f}"
            f"{self.slope(name, after):9.2f}"
        )


def resident(process: psutil.Process, *, alone: bool = False) -> float:
    """Return what a process holds, in MB, and with it its children unless `alone`."""
    total = 0
    for each in (process, *(() if alone else process.children(recursive=True))):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / MB


@dataclass(frozen=True)
class Table:
    rows: int
    size: int  # bytes of its pages and those of its indexes


def tables(url: str) -> dict[str, Table]:
    """Return rows and bytes of each table of a database; PostgreSQL's rows are what it reckons."""
    if not url.startswith("sqlite"):
        query = "SELECT relname, n_live_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables"
        with psycopg.connect(re.sub(r"\+\w+:", ":", url)) as connection:
            return {name: Table(rows, size) for name, rows, size in connection.execute(query)}
    with closing(sqlite3.connect(url.partition(":///")[2], timeout=60)) as found:
        found.execute("PRAGMA wal_checkpoint(PASSIVE)")
        owner = dict(found.execute("SELECT name, tbl_name FROM sqlite_master WHERE type IN ('table', 'index')"))
        sizes = dict.fromkeys(owner.values(), 0)
        for name, size in found.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"):
            if name in owner:
                sizes[owner[name]] += size
        count = {name: found.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in sizes}
    return {name: Table(count[name], size) for name, size in sizes.items()}


@dataclass
class Files:
    """One database over the days, from when the history of bars was in it."""

    hours: list[float] = field(default_factory=list)
    days: list[dict[str, Table]] = field(default_factory=list)

    def note(self, hour: float, url: str) -> None:
        self.hours.append(hour)
        self.days.append(tables(url))

    def per_day(self) -> dict[str, tuple[float, float]]:
        """Return rows and bytes a day by table, the largest first; nothing before there are two looks an hour apart."""
        if len(set(self.hours)) < 2:
            return {}
        first, last, days = self.days[0], self.days[-1], (self.hours[-1] - self.hours[0]) / 24
        grown = {
            name: ((last[name].rows - first[name].rows) / days, (last[name].size - first[name].size) / days)
            for name in last
            if name in first
        }
        return dict(sorted(grown.items(), key=lambda item: -item[1][1]))

    def table(self, what: str) -> list[str]:
        """Return growth by table, without those that stayed as they were."""
        sizes = " -> ".join(f"{sum(t.size for t in day.values()) / MB:.2f}" for day in self.days)
        grown = self.per_day()
        lines = [f"{what}: {sizes} MB, {sum(size for _, size in grown.values()) / MB:.2f} MB a day"]
        return lines + [
            f"  {name:24}{rows:10.0f} rows{size / 1000:10.1f} kB" for name, (rows, size) in grown.items() if size
        ]
