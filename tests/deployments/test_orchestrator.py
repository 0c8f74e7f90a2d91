"""What `up` asks of Prefect by its REST API, and which runs it ends there."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments import orchestrator

URL = "http://127.0.0.1:1/api/"
DEAD = str(2**22 + 1)  # more than Linux gives any process


def asked_of(answer: Callable[[httpx.Request], Awaitable[httpx.Response]], home: Path) -> orchestrator.Orchestrator:
    """The client of a Prefect that answers so."""
    prefect = orchestrator.Orchestrator(URL, home)
    prefect._http = httpx.AsyncClient(base_url=URL, transport=httpx.MockTransport(answer))
    return prefect


async def test_a_prefect_whose_database_was_locked_is_asked_once_more(monkeypatch):
    answers = [httpx.Response(503, json={"exception_message": "Service Unavailable"}), httpx.Response(200, json=[])]
    keys = []

    async def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.url.path)
        return answers.pop(0)

    monkeypatch.setattr(orchestrator, "PAUSES", (0.0, 0.0))
    prefect = asked_of(answer, Path("/nowhere"))
    assert await prefect.worker_is_online("worker", since=datetime.now(UTC)) is False
    assert len(keys) == 2


async def test_a_run_whose_end_prefect_never_heard_of_is_closed_at_the_second_look(tmp_path):
    state = {"timestamp": datetime.now(UTC).isoformat()}
    open_runs = {"PENDING": ["begun"], "RUNNING": ["lost"], "CANCELLING": ["unwanted"]}
    told = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        if request.url.path.endswith("set_state"):
            told.append((request.url.path.split("/")[-2], asked["state"]["type"]))
            return httpx.Response(200, json={})
        states = {name: state | {"type": kind} for kind, names in open_runs.items() for name in names}
        found = [{"id": name, "state": now, "infrastructure_pid": "1"} for name, now in states.items()]
        return httpx.Response(200, json=found[asked["offset"] :])

    (tmp_path / "runs").mkdir()
    notes = [tmp_path / "runs" / name for name in ("begun", "lost", "unwanted")]
    for note in notes:
        note.write_text(DEAD)
    prefect = asked_of(answer, tmp_path)
    assert await prefect.close_lost(patiently=True) == 0  # a worker may just be telling it
    assert all(note.exists() for note in notes)
    assert await prefect.close_lost(patiently=True) == 3
    assert told == [("begun", "CRASHED"), ("lost", "CRASHED"), ("unwanted", "CANCELLED")]
    assert not any(note.exists() for note in notes)


@pytest.mark.parametrize(
    ("kind", "age_s", "pid", "note", "other", "workless", "closed"),
    [
        ("PENDING", 90, DEAD, None, False, False, True),  # its process died before it could write a note
        ("PENDING", 90, DEAD, None, True, False, False),  # another machine has a worker too: it may be that one's
        ("PENDING", 90, None, None, True, False, True),  # nobody ever gave it a process
        ("PENDING", 20, DEAD, None, False, False, False),  # it may just be starting
        ("PENDING", 90, None, "", True, False, True),  # the worker here took it, and died
        ("PENDING", 20, None, "", False, False, False),
        ("RUNNING", 90, DEAD, None, False, False, True),
        ("RUNNING", 20, DEAD, DEAD, False, False, True),  # its process here is gone for sure
        ("PENDING", 1, DEAD, DEAD, True, False, True),
        ("RUNNING", 90, DEAD, None, True, False, False),
        ("PENDING", 1, None, None, False, True, True),  # no worker lives that could be about to start it
        ("PENDING", 1, None, "", True, True, True),
        ("PENDING", 1, None, None, True, True, False),  # the other machine's may
    ],
)  # fmt: skip
async def test_a_run_without_a_process_ends_note_or_not(tmp_path, kind, age_s, pid, note, other, workless, closed):
    told, began = [], (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    run = {"id": "r", "state": {"type": kind, "timestamp": began}, "infrastructure_pid": pid}
    workers = [{"name": orchestrator.prefect_name("worker"), "status": "ONLINE"}]
    workers += [{"name": "worker@elsewhere", "status": "ONLINE" if other else "OFFLINE"}]

    async def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        if request.url.path.endswith("set_state"):
            told.append(asked["state"]["type"])
            return httpx.Response(200, json={})
        return httpx.Response(200, json=workers if "workers" in request.url.path else [run][asked["offset"] :])

    (tmp_path / "runs").mkdir()
    if note is not None:
        (tmp_path / "runs" / "r").write_text(note)
    prefect = asked_of(answer, tmp_path)
    assert await prefect.close_lost(workless=workless) == closed
    assert told == ["CRASHED"] * closed


async def test_runs_that_would_find_themselves_too_late_are_skipped_before_they_take_a_slot(tmp_path):
    def late(name: str, seconds: float, by: str = "schedule", **parameters: object) -> dict[str, Any]:
        due = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
        its = {"deployment_id": name.partition(" ")[0], "auto_scheduled": by == "schedule"}
        return {"id": name, "expected_start_time": due, "parameters": parameters, **its}

    found = [
        late("protect", 90, max_age_s=60), late("cold", 90, max_age_s=300), late("trade", 9000, trigger="event"),
        late("watch", 30, max_age_s=60), late("watch asked for", 5, "person", max_age_s=60),
        late("watch newer", 20, max_age_s=60), late("watch newest", 10, max_age_s=60),
        late("watch otherwise", 25, max_age_s=60, symbols=["BTC/USDT:USDT"]),
    ]  # fmt: skip
    told = []

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("set_state"):
            state = json.loads(request.content)["state"]
            told.append((request.url.path.split("/")[-2], state["type"], state["name"]))
            return httpx.Response(200, json={})
        return httpx.Response(200, json=found[json.loads(request.content)["offset"] :])

    prefect = asked_of(answer, tmp_path)
    assert await prefect.skip_late() == 3
    assert told == [(name, "CANCELLED", "Skipped") for name in ("protect", "watch", "watch newer")]
