"""Prefect's REST API, the few calls `up` needs: importing Prefect's client would cost 2 s and 100 MB for them."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

from deployments.services import POOL, prefect_name
from deployments.system import described, refuse_another
from tasks.adapters import certificates, secret
from tasks.core.errors import TradingError
from tasks.redaction import redacted

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
MISSED_AFTER = timedelta(seconds=60)  # a run that is less late may still be worth it
PENDING_FOR = timedelta(minutes=1)  # a worker that lives gives a run its process within seconds
RUNNERS = ("deployments.warm.run", "prefect.engine")
Json = dict[str, Any]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class PrefectError(TradingError):
    """The Prefect server does not answer or refuses: `up` stops, or once it is up tries again."""


class Orchestrator:
    """The Prefect server that `up` started. patience_s: how long it may take to answer."""

    def __init__(self, api_url: str, home: Path, patience_s: float = 30) -> None:
        self._home, self._notes = home, home / "runs"
        self._gone = set[str]()  # runs that were without a process at the last look
        self._http = httpx.AsyncClient(
            base_url=api_url, timeout=patience_s, trust_env=False, verify=certificates.prefects()
        )

    async def ensure_pool(self, system: str, *, take: bool = False) -> None:
        """Create the process pool; its first worker gives it the template of Prefect's own.

        take: whatever system it was of. Else raises InputError where it is another's.
        """
        ours = {"description": described(system)}
        if (pool := await self._pool()) is None:
            await self.call("POST", "work_pools/", {"name": POOL, "type": "process", **ours})
            return
        if not take:
            refuse_another(pool["description"], system)
        if pool["description"] != ours["description"]:
            await self.call("PATCH", f"work_pools/{POOL}", ours)

    async def refuse_another(self, system: str) -> None:
        """Raise InputError where the pool is another system's."""
        if pool := await self._pool():
            refuse_another(pool["description"], system)

    async def _pool(self) -> Json | None:
        found: list[Json] = await self.call("POST", "work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}})
        return next(iter(found), None)

    async def close_lost(self, *, patiently: bool = False, workless: bool = False) -> int:
        """End runs of this machine's worker whose process is gone, which Prefect did not hear of; they hold their slot.

        It notes in HOME/runs what it takes, the run's process its id: a note of a process that is gone leaves no doubt.
        Prefect tells no host with a process id: what has one and no note is another machine's, where one has a worker.
        What has neither is given a minute: a worker may have taken it a moment ago.
        patiently: only those that were lost at the last look too; a worker may just be telling Prefect.
        workless: no worker of this machine lives, so that none can be about to start what was taken.
        """
        before, self._gone, now = self._gone, set(), datetime.now(UTC)
        dead = {note.name for note in self._notes.glob("*") if _ended(note, now)}
        shared = await self._is_shared()

        def ended(run: Json) -> Json | None:
            note, pid = _read(self._notes / run["id"]), run.get("infrastructure_pid")
            fresh = now - datetime.fromisoformat(run["state"]["timestamp"]) <= PENDING_FOR
            if note:
                lives = _runs(note)
            elif note is None:
                lives = (pid and (shared or _runs(pid))) or (fresh and (shared or not workless))
            else:
                lives = fresh and not workless
            if lives:
                return None
            self._gone.add(run["id"])
            if patiently and run["id"] not in before:
                return None
            to = "CANCELLED" if run["state"]["type"] == "CANCELLING" else "CRASHED"
            return {"type": to, "message": "its process was gone and had not said how it ended"}

        held = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
        closed = await self._close(await self._listed(held), ended)
        for name in dead - (self._gone - before if patiently else set()):
            (self._notes / name).unlink(missing_ok=True)
        return closed

    async def _is_shared(self) -> bool:
        """Return whether another machine has a worker in the pool."""
        workers = await self.call("POST", f"work_pools/{POOL}/workers/filter", {"offset": 0})
        mine = prefect_name("")
        return any(not each.get("name", mine).endswith(mine) for each in workers if each.get("status") != "OFFLINE")

    async def skip_late(self, *, whatever: bool = False) -> int:
        """Cancel scheduled runs that are already older than their `max_age_s`, or that a newer one does the work of.

        After an outage there is one for each minute; each would hold the slot for seconds and delay the current run. On
        a machine that cannot keep up with a schedule each would be too late once its turn comes, and none completed.
        whatever: also those without that parameter; a worker would run them all (PrefectHQ/prefect#19313).
        """
        now, newest = datetime.now(UTC), dict[str, datetime]()
        waiting = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": now.isoformat()}}
        listed = await self._listed(waiting)
        for run in listed:
            if run["auto_scheduled"]:  # what a person asks for does another's work no more than its own
                newest[_asks(run)] = max(newest.get(_asks(run), _due(run)), _due(run))

        def ended(run: Json) -> Json | None:
            most, late = run["parameters"].get("max_age_s"), now - _due(run)
            why = f"no worker took it in time: {late.total_seconds():.0f} s late, at most {most} s"
            if whatever and late > MISSED_AFTER:
                why = f"was due {late.total_seconds():.0f} s before this system started"
            elif most is None:
                return None
            elif run["auto_scheduled"] and _due(run) < newest[_asks(run)]:
                why = f"{late.total_seconds():.0f} s late, and a newer one is due"
            elif late <= max(MISSED_AFTER, timedelta(seconds=most)):
                return None
            return {"type": "CANCELLED", "name": "Skipped", "message": why}

        return await self._close(listed, ended)

    async def _listed(self, runs: Json) -> list[Json]:
        """Return runs of the pool's deployments; others may have runs on that server, too."""
        asked = {"flow_runs": runs | {"deployment_id": {"is_null_": False}}, "work_pools": {"name": {"any_": [POOL]}}}
        return await self.listed("flow_runs/filter", asked)

    async def _close(self, listed: list[Json], ended: Callable[[Json], Json | None]) -> int:
        """Give every run the state it ended in, and return how many there are."""
        states = {run["id"]: state for run in listed if (state := ended(run))}
        for run_id, state in states.items():
            await self.call("POST", f"flow_runs/{run_id}/set_state", {"state": state, "force": True})
        return len(states)

    async def worker_is_online(self, name: str, since: datetime) -> bool:
        """Return whether the worker of this machine called `name` has reported since then."""
        reported = {"workers": {"last_heartbeat_time": {"after_": since.isoformat()}}}
        online = await self.call("POST", f"work_pools/{POOL}/workers/filter", reported)
        return prefect_name(name) in [worker["name"] for worker in online]

    async def start_run(self, flow_and_deployment: str, parameters: Json) -> Json:
        """Create a run of `flow/deployment` that is due now."""
        deployment = await self.call("GET", f"deployments/name/{flow_and_deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": str(uuid4())}
        return await self.call("POST", f"deployments/{deployment['id']}/create_flow_run", body)

    async def listed(self, path: str, asked: Json) -> list[Json]:
        """Return what a filter finds, page by page."""
        found: list[Json] = []
        while page := await self.call("POST", path, asked | {"offset": len(found)}):
            found += page
        return found

    async def call(self, method: str, path: str, body: Json | None = None) -> Any:
        try:
            for pause in (*PAUSES, 0.0):
                answer = await self._http.request(method, path, json=body, auth=secret.login(self._home))
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    break
                await asyncio.sleep(pause)  # its SQLite was locked; it says 503 and means: once more
            answer.raise_for_status()
        except httpx.HTTPStatusError as e:
            told = "; tell PREFECT_API_AUTH_STRING what HOME/secret of its `up` holds" * (e.response.status_code == 401)
            raise PrefectError(f"Prefect refused {method} {path}: {redacted(e.response.text)[:300]}{told}") from e
        except httpx.HTTPError as e:
            raise PrefectError(f"Prefect does not answer {method} {path}: {e!r}; see logs/prefect.log in HOME") from e
        return answer.json() if answer.content else None


def _due(run: Json) -> datetime:
    return datetime.fromisoformat(run["expected_start_time"])


def _asks(run: Json) -> str:
    """Return what a run is asked to do, the same for each of one schedule."""
    return f"{run['deployment_id']} {sorted(run['parameters'].items())}"


def _read(note: Path) -> str | None:
    """Return the process that a note names, nothing where a worker has only taken the run; None without a note."""
    try:
        return note.read_text()
    except OSError:
        return None


def _ended(note: Path, now: datetime) -> bool:
    """Return whether the process is gone; one that a worker has only taken has until then to get one."""
    try:
        began = note.stat()
    except OSError:
        return False
    return not _runs(_read(note) or "") and bool(
        began.st_size or now.timestamp() - began.st_mtime > PENDING_FOR.total_seconds()
    )


def _runs(pid: str) -> bool:
    try:
        return any(part in RUNNERS for part in psutil.Process(int(pid)).cmdline())
    except (psutil.Error, ValueError):
        return False
