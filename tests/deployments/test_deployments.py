"""deployments/prefect.yaml: every entrypoint loads, its parameters validate, and nothing in it is of one machine."""

import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prefect.events import DeploymentEventTrigger
from prefect.events.schemas.events import Event
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from deployments import schedules
from tasks.settings import Settings

FILE = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
TEXT = FILE.read_text()
SPEC = yaml.safe_load(TEXT)
DEPLOYMENTS = {spec["name"]: spec for spec in SPEC["deployments"]}
every = pytest.mark.parametrize("spec", DEPLOYMENTS.values(), ids=DEPLOYMENTS)


def loaded(spec: dict[str, Any]) -> Flow[..., Any]:
    return load_flow_from_entrypoint(spec["entrypoint"], use_placeholder_flow=False)


@every
def test_entrypoint_is_a_module_and_loads(spec):
    module, name = spec["entrypoint"].rsplit(".", 1)
    assert "/" not in module
    assert loaded(spec).name == name.replace("_", "-")


@every
def test_parameters_fit_the_flow(spec):
    flow, set_here = loaded(spec), spec.get("parameters", {})
    form = parameter_schema(flow)
    assert set_here.keys() <= form.properties.keys()
    if {"schedules", "triggers"} & spec.keys() or not form.required:  # nobody fills in a form
        flow.validate_parameters(set_here)


@every
def test_runs_wait_their_turn_instead_of_being_cancelled(spec):
    limit = spec.get("concurrency_limit")
    if spec["name"] == "approve":  # it pauses, which takes its slot away: Prefect would end it after four minutes
        assert limit is None
    else:
        assert limit["collision_strategy"] == "ENQUEUE"


@every
def test_schedule_falls_shortly_after_a_close(spec):
    for schedule in spec.get("schedules", []):
        anchor = datetime.fromisoformat(schedule["anchor_date"])
        assert anchor.tzinfo is not None
        assert schedule["interval"] % 300 == 0 or schedule["interval"] == 60
        assert 0 < anchor.timestamp() % 300 <= 120 or spec["name"] == "report"


def test_schedules_are_moved_by_the_offset_and_cold_runs_watch_each_5_minutes():
    chosen = Settings(close_offset_s=20, watch_every_s=300)
    arranged = {d["name"]: d for d in schedules.arranged(yaml.safe_load(TEXT), chosen)["deployments"]}
    assert arranged["watch"]["schedules"] == [{"interval": 300, "anchor_date": "2024-01-01T00:00:20+00:00"}]
    assert arranged["protect"]["parameters"] == {"max_age_s": 300}
    assert arranged["trade-15m"]["schedules"] == [{"interval": 900, "anchor_date": "2024-01-01T00:00:25+00:00"}]


def test_as_it_is_the_file_has_the_default_schedules():
    assert schedules.arranged(yaml.safe_load(TEXT), Settings()) == yaml.safe_load(TEXT)


def test_scheduled_trades_say_that_a_schedule_started_them():
    trades = [spec for spec in DEPLOYMENTS.values() if spec["entrypoint"] == "flows.trade.trade"]
    assert {spec["name"]: spec["parameters"]["trigger"] for spec in trades} == {
        "trade-15m": "schedule", "trade-1h": "schedule", "trade-event": "event", "trade-adhoc": "adhoc",
    }  # fmt: skip
    assert DEPLOYMENTS["trade-1h"]["parameters"]["review_only"] is True
    [schedule] = DEPLOYMENTS["trade-1h"]["schedules"]  # five past: no 15m close, whose cycle would be the same
    assert (schedule["interval"], schedule["anchor_date"][14:16]) == (3600, "05")


def test_nothing_is_pulled_and_no_path_of_a_machine_is_named():
    assert SPEC["pull"] == []
    assert not re.search(r"(?<![\w.:/])/\w+/", re.sub(r"#.*", "", TEXT))


def test_no_secret_is_passed():
    assert not re.search(r"(?i)(key|secret|token|password)\s*:", TEXT)


async def test_event_trigger_hands_the_payload_s_symbols_over_as_a_list():
    parameters = await rendered_for({"symbols": ["BTC/USDT:USDT"], "reasons": ["TrendFlip(1h)"]})
    assert parameters == {"trigger": "event", "symbols": ["BTC/USDT:USDT"]}
    loaded(DEPLOYMENTS["trade-event"]).validate_parameters(parameters)


def test_event_trigger_fires_for_each_event_of_each_resource():
    trigger = DeploymentEventTrigger.model_validate(DEPLOYMENTS["trade-event"]["triggers"][0])
    assert (trigger.threshold, trigger.within.total_seconds()) == (1, 0)
    assert trigger.for_each == {"prefect.resource.id"}
    assert trigger.expect == {"quarterdeck.reasons"}


async def rendered_for(payload: dict[str, Any]) -> dict[str, Any]:
    """Render the trigger's parameters with the server's own code."""
    from prefect.server.events.actions import RunDeployment

    event = Event(
        event="quarterdeck.reasons",
        resource={"prefect.resource.id": "quarterdeck.symbol.BTC"},
        payload=payload,
        occurred=datetime.now(UTC),
    )
    triggered = SimpleNamespace(
        automation=None, triggering_event=event, triggering_labels={}, firing=None,
        all_firings=list, all_events=list,
    )  # fmt: skip
    action = RunDeployment(source="inferred", parameters=DEPLOYMENTS["trade-event"]["triggers"][0]["parameters"])
    return await action.render_parameters(triggered)
