"""Prefect's server is killed and its port taken, in the midst of an order and of a watch, as reasons fire."""

import asyncio
import os
import signal
import socket
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from sqlalchemy import select

from deployments.services import answers
from tasks.adapters.store.tables import EventRow
from tasks.connections import store
from tasks.core.market.calendar import CalendarEvent, calendar_reasons
from tasks.core.types.bars import floor_time
from tasks.core.types.record import CycleStatus
from tasks.settings import settings
from tests.chaos.world import SYMBOLS
from tests.drills.seen import Seen, Stuck, until
from tests.drills.system import BAR, PROTECT, UNDER_WAY, WATCH, System, now, prepare, told, up, write_play

DOWN_S = 75.0
SPEED = 3  # a 5m bar in 100 s; a reason is news for three of them
ORDER_HELD_S, BARS_HELD_S = 9.5, 7.0  # a client waits 10 s


async def drill(seen: Seen, folder: Path) -> None:
    prepare(folder)
    events = _write_calendar(folder / "calendar.csv", now())
    os.environ["QUARTERDECK_CALENDAR"] = str(folder / "calendar.csv")
    os.environ["QUARTERDECK_DECIDER"] = write_play(folder / "replies.jsonl", SYMBOLS, now())
    settings.cache_clear()
    async with up(seen, "--speed", str(SPEED)) as system:
        begin = floor_time(system.exchange.now, "5m")
        await _amid_an_order_and_a_watch(system)
        running = [run["id"] for run in await system.runs.of(state={"type": {"any_": list(UNDER_WAY)}})]
        had = system.exchange.now
        back = await _outage(system)
        fired = _fired(events, had, system.exchange.now)
        seen.say(f"{len(fired)} reasons fired while it was down, {len(running)} runs were under way when it died")
        took = await asyncio.gather(*(system.runs.completed_after(name, back) for name in (WATCH, PROTECT)))
        seen.must(
            True, f"first Completed without a hand after it answered: watch {took[0]:.0f} s, protect {took[1]:.0f} s"
        )
        ends = [await system.runs.ended(run, 200) for run in running]
        seen.say(f"the runs under way when it died ended: {told(Counter(ends))}")
        waited = await until(lambda: not _unclaimed(fired), "every reason of the outage to be claimed", 150)
        seen.say(f"every reason of the outage was claimed {waited:.0f} s later")
        await system.must_agree()
        _must_be_claimed_once(seen, _fired(events, begin, had) | fired, fired)


def _write_calendar(path: Path, begin: datetime) -> list[CalendarEvent]:
    """Let something be known for every close: each symbol has reasons at each."""
    first = floor_time(begin, "5m")
    events = [CalendarEvent(at=first + n * BAR, title=f"drill {n}") for n in range(12 * 8)]
    path.write_text("at,title\n" + "".join(f"{event.at.isoformat()},{event.title}\n" for event in events))
    return events


def _fired(events: list[CalendarEvent], after: datetime, to: datetime) -> set[str]:
    return {r.fingerprint for symbol in SYMBOLS for r in calendar_reasons(events, symbol, after, to)}


async def _amid_an_order_and_a_watch(system: System) -> None:
    system.exchange.hold("order/create", ORDER_HELD_S, kind="timeout_after_accept")
    await system.exchange.holds(240)
    system.exchange.hold("market/kline", BARS_HELD_S)
    await system.runs.start(WATCH)
    with suppress(Stuck):  # a busy machine does not start it in time: then it is the order alone
        await system.exchange.holds(BARS_HELD_S)


async def _outage(system: System) -> datetime:
    """Kill the server and take its port, so that the supervisor's new ones cannot have it; returns when one answers."""
    nanny = psutil.Process(system.pids()["prefect"])
    family = nanny.children(recursive=True)
    port = urlsplit(settings().prefect_api_url).port
    for process in family:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # nobody else may have it, not even to listen there
        system.seen.say("Prefect's server is killed, its port taken")
        await asyncio.sleep(DOWN_S)
        system.seen.must(not answers(f"{settings().prefect_api_url}/health"), "no server answered all the while")
    freed = now()
    await until(lambda: system.runs.of(), "the server to answer", 240)
    system.seen.say(
        f"its port was free after {DOWN_S:.0f} s, it answered {(now() - freed).total_seconds():.0f} s later"
    )
    return now()


def _rows(fingerprints: set[str]) -> list[tuple[str, str | None]]:
    query = select(EventRow.fingerprint, EventRow.cycle_id).where(EventRow.fingerprint.in_(fingerprints))
    return [(row.fingerprint, row.cycle_id) for row in store().rows(query)]


def _unclaimed(fingerprints: set[str]) -> set[str]:
    return fingerprints - {name for name, cycle in _rows(fingerprints) if cycle}


def _must_be_claimed_once(seen: Seen, known: set[str], fired: set[str]) -> None:
    records = list(store().cycles.oldest_first(settings().strategy))
    used = Counter(reason.fingerprint for record in records for reason in record.reasons)
    lost = sorted(name for name in fired if not used[name])
    twice = sorted(name for name in known if used[name] > 1)
    seen.must(not lost, f"each of the {len(fired)} was answered by a cycle {'; '.join(lost)}".rstrip())
    seen.must(not twice, f"none of {len(known)} since the start was answered twice {'; '.join(twice)}".rstrip())
    counts = Counter(record.status.value for record in records)
    seen.must(not counts[CycleStatus.STARTED.value], f"every cycle has ended: {told(counts)}")
