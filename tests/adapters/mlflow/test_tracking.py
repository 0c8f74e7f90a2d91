"""The tracker against a real MLflow server: what a person will find there, and that sending twice changes nothing."""

from base64 import b64encode
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest
from free_ports import nobody
from sandbox_server import served
from starlette.applications import Starlette

from tasks.adapters.files.prompts import files_of
from tasks.adapters.mlflow.comparison import git_commit, server_of
from tasks.adapters.mlflow.evidence import read_evidence, signature, tag
from tasks.adapters.mlflow.trace import of_record
from tasks.adapters.mlflow.tracking import Tracker
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.core.types.decision import Answer, ModelCall, OpenLong, PromptRef, ToolCall
from tasks.core.types.orders import OrderIntent, OrderType
from tasks.core.types.question import Reason
from tasks.core.types.record import CycleRecord, CycleStatus, Outcome
from tasks.core.types.snapshot import Constraints, Snapshot, TimeframeView
from tasks.core.types.verdict import Code, Verdict, check

ROOT = Path(__file__).resolve().parents[3]
AS_OF = datetime(2026, 3, 2, 10, 5, tzinfo=UTC)
BTC = "BTC/USDT:USDT"


class File(NamedTuple):
    name: str
    version: str
    sha256: str
    text: str


def prompt_file(role: str, version: str, text: str) -> File:
    return File(role, version, sha256(text.encode()).hexdigest(), text)


TEXT = "---\nrole: single\n---\n## system\nHold the wheel.\n## user\nPair ${pair}: ${snapshot}\n"


@pytest.fixture
def tracker(url: str) -> Tracker:
    return Tracker(url, "test")


def track(tracker: Tracker, cycle: CycleRecord, profile: str = "sandbox") -> str:
    [trace_id] = tracker.track([cycle], profile)
    return trace_id


def call(role: str, prompt: File, error: str = "") -> ModelCall:
    return ModelCall(
        role=role,
        model="openai/gpt-4o",
        prompt=PromptRef(name=prompt.name, version=prompt.version, sha256=prompt.sha256),
        messages=({"role": "system", "content": "Hold the wheel."}, {"role": "user", "content": "Pair BTC"}),
        raw_reply="" if error else '{"action": "OPEN_LONG"}',
        error=error,
        latency_ms=1500,
        cost_usd=Decimal("0.0031"),
        tokens_in=900,
        tokens_out=120,
        cached_tokens=800,
    )


def record(cycle_id: str, prompt: File, calls: int = 2) -> CycleRecord:
    decision = OpenLong(
        symbol=BTC, size_pct=Decimal(40), stop_atr=Decimal("1.5"), tp_atr=Decimal(3), confidence=Decimal("0.7"),
        comment="trend resumes", source="llm:openai/gpt-4o",
    )  # fmt: skip
    verdict = Verdict(
        allowed=True,
        decision=decision.model_copy(update={"size_pct": Decimal(20)}),
        codes=(Code.SIZE_CLAMPED,),
        checks=(check(Code.SIZE_CLAMPED, True, **{"asked": "40", "allowed": "20"}),),
        quantity=Decimal("0.031"),
    )
    intent = OrderIntent(
        client_order_id=f"qd-{cycle_id}", symbol=BTC, side="buy", type=OrderType.MARKET, quantity=Decimal("0.031"),
        stop=Decimal(63000),
    )  # fmt: skip
    snapshot = Snapshot(
        pair=BTC,
        as_of=AS_OF,
        timeframes={"15m": TimeframeView(close=64000.0, rsi=58.1)},
        constraints=Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=("HOLD",)),
    )
    return CycleRecord(
        cycle_id=cycle_id,
        strategy="default",
        symbol=BTC,
        as_of=AS_OF,
        decider="llm:single",
        status=CycleStatus.EXECUTED,
        reasons=(Reason(rule="TrendFlip", symbol=BTC, timeframe="1h", as_of=AS_OF, fingerprint="f"),),
        snapshot=snapshot,
        decided=Answer(
            decision=decision,
            source=decision.source,
            rung="primary",
            model="openai/gpt-4o",
            latency_ms=3200,
            cost_usd=Decimal("0.0062"),
            calls=tuple(call("single", prompt, "timeout after 30 s" if n == 0 else "") for n in range(calls)),
        ),
        verdict=verdict,
        intents=(intent,),
    )


def outcome(cycle_id: str, r: str | None = "1.8") -> Outcome:
    return Outcome(
        cycle_id=cycle_id, position_id=f"p-{cycle_id}", symbol=BTC, entry_price=Decimal(64000),
        exit_price=Decimal(65000), pnl=Decimal("29.5"), pnl_pct=Decimal("1.49"),
        outcome_r=None if r is None else Decimal(r), fees=Decimal("1.5"), hold_seconds=5400,
        closed_at=datetime(2026, 3, 3, 1, 30, tzinfo=UTC),
    )  # fmt: skip


def test_an_unreachable_server_is_tracking_unavailable_and_does_not_show_its_password():
    with nobody() as address:
        tracker = Tracker(f"http://person:hunter2@{address}")
        with pytest.raises(TrackingUnavailable) as caught:
            tracker.log_session("default", "sandbox", date(2026, 3, 2), {"equity": 1.0}, 0)
    assert str(caught.value).startswith("MLflow at http://127.0.0.1:")
    assert str(caught.value).endswith(": it does not answer")
    assert "hunter2" not in str(caught.value)


def test_an_answer_that_https_does_not_trust_is_no_silence():
    with served(Starlette()) as url, pytest.raises(TrackingUnavailable, match="SSL"):
        Tracker(url.replace("http:", "https:")).log_session("default", "sandbox", date(2026, 3, 2), {"equity": 1.0}, 0)


@pytest.mark.slow
def test_a_decision_is_one_trace_that_a_person_can_read(tracker):
    prompt = files_of("single")[0]
    tracker.prompts.sync([prompt])
    trace_id = track(tracker, record("c1", prompt))
    trace = tracker.server.client.get_trace(trace_id, display=False)
    spans = {span.name: span for span in trace.data.spans}
    assert [(s.name, s.span_type) for s in trace.data.spans].count(("single", "CHAT_MODEL")) == 2
    assert trace.info.trace_metadata["mlflow.trace.session"] == "c1"
    assert set(spans) == {"cycle", "decide", "single", "guard", "execute"}
    assert spans["cycle"].inputs == {"pair": BTC, "as_of": AS_OF.isoformat(), "reasons": ["TrendFlip(1h)"]}
    assert spans["cycle"].outputs["codes"] == ["SIZE_CLAMPED"]
    assert spans["guard"].outputs["decision"]["size_pct"] == "20"
    assert spans["execute"].inputs["intents"][0]["client_order_id"] == "qd-c1"
    assert trace.info.execution_duration == 3200
    tags = trace.info.tags
    assert (tags["profile"], tags["strategy"], tags["action"]) == ("sandbox", "default", "OPEN_LONG")
    assert (tags["status"], tags["prompt"], tags["prompt_sha256"]) == ("executed", "single/v001", prompt.sha256)
    assert trace.info.token_usage["total_tokens"] == 2040
    assert trace.info.token_usage["cache_read_input_tokens"] == 1600
    by_prompt = tracker.server.client.search_traces(
        locations=[tracker.server.experiment_id], filter_string="prompt = 'quarterdeck.single/1'"
    )
    assert [t.info.trace_id for t in by_prompt] == [trace_id]


@pytest.mark.slow
def test_a_model_call_shows_messages_reply_tokens_cost_and_error(tracker):
    trace_id = track(tracker, record("c2", prompt_file("single", "v009", "never registered")))
    trace = tracker.server.client.get_trace(trace_id, display=False)
    failed, answered = sorted((s for s in trace.data.spans if s.name == "single"), key=lambda s: s.start_time_ns)
    assert failed.status.status_code == "ERROR"
    assert failed.attributes["error"] == "timeout after 30 s"
    assert answered.inputs["messages"][1] == {"role": "user", "content": "Pair BTC"}
    assert answered.outputs["choices"][0]["message"]["content"] == '{"action": "OPEN_LONG"}'
    assert answered.attributes["mlflow.llm.cost"]["total_cost"] == pytest.approx(0.0031)


ROLES = ("technical", "orderbook", "sentiment", "trend", "reversion", "risk")


def panel_record(cycle_id: str, files: dict[str, File]) -> CycleRecord:
    """A record of a panel that also asked tools, one of which was refused."""
    one = record(cycle_id, files["technical"])
    told = {
        "calls": tuple(call(role, file) for role, file in files.items()),
        "tool_calls": (
            ToolCall(trace_id="t1", tool="get_candles", parameters={"limit": "20"}, response="o h l c", latency_ms=40),
            ToolCall(trace_id="t2", tool="get_secrets", error="not on the list", flags=("dropped:get_secrets",)),
        ),
        "flags": ("no_consensus", "late:sentiment"),
    }
    return one.model_copy(update={"decider": "llm:panel", "decided": one.decided.model_copy(update=told)})


@pytest.mark.slow
def test_every_role_and_tool_of_a_decision_is_a_span_under_decide_with_its_prompt_linked(tracker):
    files = {role: files_of(role)[0] for role in ROLES}
    tracker.prompts.sync(list(files.values()))
    cycle = panel_record("p1", files)
    first = track(tracker, cycle)
    assert track(tracker, cycle) == first
    trace = tracker.server.client.get_trace(first, display=False)
    spans = {span.name: span for span in trace.data.spans}
    inside = [s for s in trace.data.spans if s.parent_id == spans["decide"].span_id]
    assert [s.name for s in inside if s.span_type == "CHAT_MODEL"] == list(ROLES)
    assert [s.name for s in inside if s.span_type == "TOOL"] == ["get_candles", "get_secrets"]
    assert (spans["get_candles"].inputs, spans["get_candles"].outputs) == ({"limit": "20"}, "o h l c")
    assert spans["get_candles"].status.status_code == "OK"
    assert (spans["get_candles"].end_time_ns - spans["get_candles"].start_time_ns) == 40_000_000
    assert spans["get_secrets"].status.status_code == "ERROR"
    assert spans["get_secrets"].attributes["error"] == "not on the list"
    assert "tool_calls" not in spans["decide"].outputs
    tags = trace.info.tags
    assert (tags["flags"], tags["rung"]) == ("no_consensus, late:sentiment", "primary")
    assert tags["prompt"] == ", ".join(f"{role}/v001" for role in ROLES)
    for role in files:
        named = f"prompt = 'quarterdeck.{role}/1'"
        linked = tracker.server.client.search_traces(locations=[tracker.server.experiment_id], filter_string=named)
        assert first in [t.info.trace_id for t in linked], role
    flagged = "tags.flags LIKE '%late:sentiment%'"
    found = tracker.server.client.search_traces(locations=[tracker.server.experiment_id], filter_string=flagged)
    assert [t.info.trace_id for t in found] == [first]


@pytest.mark.slow
def test_evidence_is_read_from_the_runs_of_a_comparison_and_tagged_with_what_it_was_for(url):
    server = server_of(url)
    tags = {"data_sha256": "d" * 64, "git_commit": f"{git_commit().removesuffix('-dirty')}-dirty"}
    parent = server.create_run("a comparison", {**tags, "kind": "comparison"}).info.run_id
    for label, sharpe in (("v001", 0.9), ("v002", 1.1)):
        child = {"kind": "variant", "mlflow.parentRunId": parent, "model": "m", "prompt_sha256": label * 16}
        server.log(server.create_run(label, {**tags, **child}).info.run_id, {"masked_sharpe": sharpe})
    found = read_evidence(parent, url)
    assert (found.data_sha256, found.commit_known) == ("d" * 64, bool(git_commit()))
    assert not found.signed, "anybody may write runs"
    good = signature(tags["data_sha256"], tags["git_commit"], found.variants)
    for run in server.runs({"mlflow.parentRunId": parent}, max_results=9):
        server.client.set_tag(run.info.run_id, "signature", good)
    assert read_evidence(parent, url).signed
    server.log(run.info.run_id, {"masked_sharpe": 9.9})
    assert not read_evidence(parent, url).signed, "a figure that is put better afterwards"
    assert {(v.label, v.model, v.prompt_sha256, v.masked_sharpe) for v in found.variants} == {
        ("v001", "m", "v001" * 16, 0.9), ("v002", "m", "v002" * 16, 1.1),
    }  # fmt: skip
    tag(url, parent, "promoted", "single/v002")
    assert server.client.get_run(parent).data.tags["promoted"] == "single/v002"
    with pytest.raises(InputError, match="no comparison of that id"):
        read_evidence("0" * 32, url)


@pytest.mark.slow
def test_a_decision_sent_twice_is_one_trace_and_other_profiles_have_their_own(tracker):
    prompt = prompt_file("single", "v001", TEXT)
    ids = [track(tracker, record("c3", prompt), profile) for profile in ("sandbox", "sandbox", "paper")]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.slow
def test_a_decision_of_which_more_is_known_later_replaces_its_trace(tracker):
    prompt = prompt_file("single", "v001", TEXT)
    first = track(tracker, record("c4", prompt, calls=1))
    assert track(tracker, record("c4", prompt, calls=2)) == first
    found = tracker.server.client.search_traces(
        locations=[tracker.server.experiment_id], filter_string="tags.cycle_id = 'c4'"
    )
    assert [(t.info.trace_id, len(t.data.spans), t.info.token_usage["total_tokens"]) for t in found] == [
        (first, 6, 2040)
    ]


@pytest.mark.slow
def test_what_the_server_refuses_is_not_reported_as_sent_and_none_of_its_batch_is_there(tracker, monkeypatch):
    prompt = prompt_file("x", "v001", "unregistered")
    refused = of_record(record("c5", prompt), "sandbox", ())
    refused.spans[1]["trace_id"] = b64encode(b"x" * 24).decode()  # too long for an id
    monkeypatch.setattr(
        "tasks.adapters.mlflow.tracking.of_record",
        lambda one, *more: refused if one.cycle_id == "c5" else of_record(one, *more),
    )
    with pytest.raises(TrackingUnavailable, match="OpenTelemetry"):
        tracker.track([record("c51", prompt), record("c5", prompt)], "sandbox")
    wanted = "tags.cycle_id = 'c51'"
    assert not tracker.server.client.search_traces(locations=[tracker.server.experiment_id], filter_string=wanted)


@pytest.mark.slow
def test_a_quiet_cycle_without_any_stage_is_still_a_trace(tracker):
    quiet = CycleRecord(cycle_id="c6", strategy="default", symbol=BTC, as_of=AS_OF, status=CycleStatus.QUIET)
    trace = tracker.server.client.get_trace(track(tracker, quiet), display=False)
    assert [span.name for span in trace.data.spans] == ["cycle"]


@pytest.mark.slow
def test_a_session_is_one_run_per_profile_strategy_and_day(tracker):
    day = date(2026, 3, 4)
    first = tracker.log_session(
        "default", "sandbox", day, {"equity": 10_000.0, "by_action.HOLD": 3}, 0, {"decider": "a"}
    )
    again = tracker.log_session("default", "sandbox", day, {"equity": 10_050.0}, 1, {"decider": "b", "models": "m"})
    other = tracker.log_session("default", "paper", day, {"equity": 1.0}, 0)
    assert first == again != other
    run = tracker.server.client.get_run(first)
    assert run.data.metrics == {"equity": 10_050.0, "by_action.HOLD": 3}
    assert run.data.params == {"decider": "a", "models": "m"}
    assert run.data.tags["decider"] == "b"
    assert [m.value for m in tracker.server.client.get_metric_history(first, "equity")] == [10_000.0, 10_050.0]
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_nothing_is_printed_on_stdout(tracker, capfd):
    tracker.log_session("default", "sandbox", date(2026, 3, 5), {"equity": 1.0}, 0)
    track(tracker, record("c8", prompt_file("single", "v001", TEXT)))
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("r", ["1.8", None])
def test_an_outcome_sent_twice_is_on_its_trace_and_session_once(tracker, r):
    cycle = f"c7{r}"
    trace_id = track(tracker, record(cycle, prompt_file("single", "v001", TEXT)))
    for _ in range(2):
        tracker.attach_outcome(trace_id, outcome(cycle, r))
    assessments = tracker.server.client.get_trace(trace_id, display=False).info.assessments
    expected = {"pnl": 29.5, "pnl_pct": 1.49, "hold_seconds": 5400} | ({} if r is None else {"outcome_r": 1.8})
    assert sorted((a.name, a.value) for a in assessments) == sorted(expected.items())
    assert {a.source.source_type for a in assessments} == {"CODE"}
    session = tracker._session_run("default", "sandbox", date(2026, 3, 3))
    assert session.data.metrics["outcome.pnl"] == 29.5
    assert len(tracker.server.client.get_metric_history(session.info.run_id, "outcome.hold_seconds")) == 1


@pytest.mark.slow
def test_an_outcome_for_a_trace_that_is_gone_is_tracking_unavailable(tracker):
    with pytest.raises(TrackingUnavailable, match="tr-"):
        tracker.attach_outcome("tr-00000000000000000000000000000000", outcome("x"))
