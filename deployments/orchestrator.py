"""Prefect's REST API, the few calls `up` needs: importing Prefect's client would cost 2 s and 100 MB for them."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

from deployments.services import POOL, prefect_name
from tasks.core.errors import TradingError

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
MISSED_AFTER = timedelta(seconds=60)  # a run that is less late may still be worth it
PENDING_FOR = timedelta(minutes=1)  # a worker that lives gives a run its process within seconds
RUNNERS = ("deployments.warm.run", "prefect.engine")
Json = dict[str, Any]
_TEXT = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
# The process worker's job: our own defaults, so that no machine's path is written in prefect.yaml.
PROPERTIES: Json = {
    **dict.fromkeys(("name", "command"), _TEXT),
    **dict.fromkeys(("env", "labels"), _TEXTS),
    "stream_output": {"type": "boolean", "default": True},
}


class PrefectError(TradingError):
    """The Prefect server does not answer or refuses: `up` stops, or once it is up tries again."""


@dataclass(frozen=True)
class RunState:
    """Where a run is: Prefect's type and name of its state, and what it says about it."""

    type: str
    name: str
    message: str

    @property
    def is_final(self) -> bool:
        return self.type in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Orchestrator:
    """The Prefect server that `up` started."""

    def __init__(self, api_url: str, home: Path) -> None:
        self._notes = home / "runs"
        self._gone = set[str]()  # runs that were without a process at the last look
        user, colon, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
        auth = (user, password) if colon else None
        self._http = httpx.AsyncClient(base_url=api_url, timeout=30, trust_env=False, auth=auth)

    async def ensure_pool(self, working_dir: Path) -> None:
        """Create or refresh the process pool; runs start in `working_dir`, as commands given there would."""
        properties = PROPERTIES | {"working_dir": {"type": "string", "format": "path", "default": str(working_dir)}}
        template = {
            "job_configuration": {name: "{{ " + name + " }}" for name in properties},
            "variables": {"type": "object", "properties": properties},
        }
        if await self.call("POST", "work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}}):
            await self.call("PATCH", f"work_pools/{POOL}", {"base_job_template": template})
        else:
            await self.call("POST", "work_pools/", {"name": POOL, "type": "process", "base_job_template": template})

    async def close_lost(self, *, patiently: bool = False) -> int:
        """End runs of this HOME whose process is gone, which Prefect did not hear of; they would hold their slot.

        Runs of other machines' workers are theirs. One that is pending for long without a process never got one.
        patiently: only those that were lost at the last look too; a worker may just be telling Prefect of the others.
        """
        before, self._gone = self._gone, set()
        dead = {note.name for note in self._notes.glob("*") if not _alive(note)}

        def lost(run: Json) -> bool:
            if not _lost(self._notes, run):
                return False
            self._gone.add(run["id"])
            return not patiently or run["id"] in before

        closed, why = 0, "its process was gone and had not said how it ended"
        for types, to in ((["PENDING", "RUNNING"], "CRASHED"), (["CANCELLING"], "CANCELLED")):
            closed += await self._close({"state": {"type": {"any_": types}}}, to, why, lost)
        for name in dead - (self._gone - before if patiently else set()):
            (self._notes / name).unlink(missing_ok=True)
        return closed

    async def close_missed(self) -> int:
        """Cancel runs that were due while nothing ran; a worker would run them all (PrefectHQ/prefect#19313)."""
        return await self._close(_late(), "CANCELLED", "was due while nothing ran")

    async def skip_late(self) -> int:
        """End runs that would find themselves too late, by their parameter, as soon as they had a process.

        One of each minute of an outage, each in its turn for a few seconds, would keep the one of now from its slot.
        """
        return await self._close(_late(), "CANCELLED", "was due while nothing ran: skipped", _too_late, "Skipped")

    async def _close(
        self,
        runs: Json,
        to: str,
        why: str,
        only: Callable[[Json], bool] = lambda _: True,
        name: str | None = None,
    ) -> int:
        closed = set[str]()
        runs |= {"deployment_id": {"is_null_": False}}
        state = {"type": to, "name": name, "message": why}
        while found := await self.call("POST", "flow_runs/filter", {"flow_runs": runs}):
            fresh = {run["id"] for run in found if only(run)} - closed
            if not fresh:
                break
            for run_id in fresh:
                await self.call("POST", f"flow_runs/{run_id}/set_state", {"state": state, "force": True})
            closed |= fresh
        return len(closed)

    async def worker_is_online(self, name: str, since: datetime) -> bool:
        """Say whether the worker of this machine called `name` has reported since then."""
        return any(
            worker["name"] == prefect_name(name)
            and (beat := worker["last_heartbeat_time"])
            and datetime.fromisoformat(beat) >= since
            for worker in await self.call("POST", f"work_pools/{POOL}/workers/filter", {})
        )

    async def start_run(self, deployment: str, parameters: Json) -> str:
        """Create a run of `flow/deployment` that is due now and return its id."""
        found = await self.call("GET", f"deployments/name/{deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": str(uuid4())}
        created = await self.call("POST", f"deployments/{found['id']}/create_flow_run", body)
        return str(created["id"])

    async def run_state(self, run_id: str) -> RunState:
        state = (await self.call("GET", f"flow_runs/{run_id}"))["state"] or {}
        return RunState(state.get("type", ""), state.get("name", ""), state.get("message") or "")

    async def call(self, method: str, path: str, body: Json | None = None) -> Any:
        try:
            for pause in (*PAUSES, 0.0):
                answer = await self._http.request(method, path, json=body)
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    break
                await asyncio.sleep(pause)  # its SQLite was locked; it says 503 and means: once more
            answer.raise_for_status()
        except httpx.HTTPStatusError as e:
            raise PrefectError(f"Prefect refused {method} {path}: {e.response.text[:300]}") from e
        except httpx.HTTPError as e:
            raise PrefectError(f"Prefect does not answer {method} {path}: {e!r}; see logs/prefect.log in HOME") from e
        return answer.json() if answer.content else None


def _lost(notes: Path, run: Json) -> bool:
    """Say whether a run that Prefect takes for alive lost its process on this machine, or never got one anywhere."""
    note = notes / run["id"]
    if note.exists():
        return not _alive(note)
    since = datetime.fromisoformat(run["state"]["timestamp"])
    return not run.get("infrastructure_pid") and datetime.now(UTC) - since > PENDING_FOR


def _late() -> Json:
    due = {"before_": (datetime.now(UTC) - MISSED_AFTER).isoformat()}
    return {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": due}


def _too_late(run: Json) -> bool:
    most, due = run["parameters"].get("max_age_s"), datetime.fromisoformat(run["expected_start_time"])
    return most is not None and datetime.now(UTC) - due > timedelta(seconds=most)


def _alive(note: Path) -> bool:
    try:
        return any(part in RUNNERS for part in psutil.Process(int(note.read_text())).cmdline())
    except (psutil.Error, OSError, ValueError):
        return False
