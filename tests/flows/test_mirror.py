"""What MLflow shows of live cycles: champion and challengers side by side, from their page and back to it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from mlflow_server import running_mlflow
from store_samples import a_decision, a_full_cycle, a_hold, a_verdict

from tasks import connections, mirror
from tasks.adapters.files.prompts import load_prompt
from tasks.connections import store
from tasks.core.types import CycleStatus, PromptRef, ShadowDecision
from tasks.core.types.record import Inputs
from tasks.settings import settings

AT = datetime(2024, 1, 9, 10, 5, tzinfo=UTC)
DAY, CHALLENGER = AT.date(), "llm:single@v002"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture
def live(home, url, monkeypatch):
    """A HOME that is mirrored, in which a champion and a challenger have answered; returns MLflow's client."""
    monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", url)
    monkeypatch.setenv("QUARTERDECK_DECIDER", "llm:single")
    monkeypatch.setenv("QUARTERDECK_SHADOW", CHALLENGER)
    monkeypatch.setenv("QUARTERDECK_PREFECT_UI_URL", "https://person:hunter2@prefect.example")
    settings.cache_clear()
    cycle = a_full_cycle(
        "c1", as_of=AT, inputs=Inputs(strategy="", known_at=AT), decided=answered("v001"), decider="llm:single"
    )
    store().cycles.save(cycle, AT)
    store().decisions.note_page("c1", "a-page")
    about = {"strategy": "default", "symbol": cycle.symbol, "as_of": AT, "state": {}, "cycle_id": "c1"}
    refused = {"decided": answered("v002"), "verdict": a_verdict().replace(allowed=False)}
    store().shadow.keep(ShadowDecision(decider=CHALLENGER, **about, **refused))
    store().shadow.keep(ShadowDecision(decider="champion", **about, decided=cycle.decided, verdict=cycle.verdict))
    return connections.tracker().server


def answered(version: str):
    """An answer that sent a version of the single prompt."""
    prompt, decided = load_prompt("single", version), a_decision()
    ref = PromptRef(name=prompt.name, version=prompt.version, sha256=prompt.sha256)
    return decided.replace(calls=tuple(call.replace(prompt=ref) for call in decided.calls))


def traces(server):
    found = server.client.search_traces(
        locations=[server.experiment_id], filter_string="metadata.`mlflow.trace.session` = 'c1'"
    )
    return {trace.info.tags["decider"]: trace for trace in found}


@pytest.mark.slow
def test_champion_and_challenger_are_one_session_with_their_prompts_outcomes_and_the_page(live, monkeypatch):
    assert mirror.show_mlflow.fn(AT)["tracked"] == 2
    champion, challenger = (traces(live)[name] for name in ("llm:single", CHALLENGER))
    page = "https://prefect.example/artifacts/artifact/a-page"
    for trace, version, status in ((champion, "v001", "executed"), (challenger, "v002", "denied")):
        assert (trace.info.tags["prompt"], trace.info.tags["status"]) == (f"single/{version}", status)
        assert trace.info.tags["page"] == page
        assert f"]({page})" in trace.data.spans[0].inputs["page"]
        [linked] = json.loads(trace.info.tags["mlflow.linkedPrompts"])
        wanted = f"prompt = '{linked['name']}/{linked['version']}'"
        by_prompt = live.client.search_traces(locations=[live.experiment_id], filter_string=wanted)
        assert [each.info.trace_id for each in by_prompt] == [trace.info.trace_id]
    assert "hunter2" not in str([trace.to_dict() for trace in (champion, challenger)])
    assert "execute" not in {span.name for span in challenger.data.spans}, "nothing of it was sent"
    assert mirror.trace_links.fn([store().cycles.get("c1")])["c1"].endswith(f"/traces/{champion.info.trace_id}")

    for decider, pct in ((CHALLENGER, "1.5"), ("champion", "-0.75")):
        [shadow] = store().shadow.between("default", decider, AT - timedelta(minutes=5), AT)
        store().shadow.score(shadow, Decimal(pct))
    monkeypatch.setenv("QUARTERDECK_DECIDER", "hold")
    settings.cache_clear()
    for _ in range(2):
        assert mirror.show_mlflow.fn(AT + timedelta(days=2))["tracked"] == 0
    scores = {name: {a.name: a.value for a in trace.info.assessments} for name, trace in traces(live).items()}
    risk = float(a_verdict().trade_risk_pct)
    assert scores == {
        "llm:single": {"net_pct": -0.75, "net_r": pytest.approx(-0.75 / risk)},
        CHALLENGER: {"net_pct": 1.5, "net_r": pytest.approx(1.5 / risk)},
    }
    days = {
        strategy: live.runs({"strategy": strategy, "day": str(DAY)})[0].data
        for strategy in ("default", f"default/{CHALLENGER}")
    }
    compared = {name: (data.params["prompt.single"], data.metrics) for name, data in days.items()}
    assert {name: prompt for name, (prompt, _) in compared.items()} == {
        "default": "v001", f"default/{CHALLENGER}": "v002"
    }  # fmt: skip
    for (_, metrics), denied, pct in zip(compared.values(), (0, 1), (-0.75, 1.5), strict=True):
        assert {
            "decisions": 1,
            "invalid": 0,
            "denied": denied,
            "scored": 1,
            "mean_net_pct": pct,
        }.items() <= metrics.items()
        assert metrics["mean_net_r"] == pytest.approx(pct / risk)
        assert metrics["cost_usd"] == float(a_decision().cost_usd)
    assert days["default"].tags["decider"] == "llm:single", "a day that is over keeps what was in force then"


@pytest.mark.slow
def test_a_page_written_anew_is_named_by_the_same_trace_and_a_trace_that_waited_is_grouped_all_the_same(live):
    mirror.show_mlflow.fn(AT)
    before = traces(live)["llm:single"].info
    store().decisions.note_page("c1", "with-the-outcome")
    store().cycles.save(
        a_full_cycle("c2", as_of=AT + timedelta(minutes=5), decided=a_hold(), status=CycleStatus.HELD), AT
    )
    assert mirror.show_mlflow.fn(AT)["tracked"] == 2
    after = traces(live)["llm:single"].info
    assert (after.trace_id, after.execution_duration) == (before.trace_id, before.execution_duration)
    assert after.tags["page"].endswith("/with-the-outcome")
    assert "/with-the-outcome" in traces(live)["llm:single"].data.spans[0].inputs["page"]
    assert len(traces(live)) == 2
