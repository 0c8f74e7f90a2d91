"""What a variant made of a set of moments, as an evaluation run of MLflow: a trace per moment, its scores beside it."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tasks import clock
from tasks.adapters.mlflow.datasets import inputs_of
from tasks.adapters.mlflow.server import MlflowServer
from tasks.adapters.mlflow.trace import Trace, send, trace_id_of
from tasks.core.errors import InputError
from tasks.core.lab.moments import Evaluated
from tasks.core.types import PromptRef

Scorer = Callable[..., Any]
AT_ONCE = 4  # requests side by side
EVALUATED_IN = "mlflow.prompt.run_ids"  # which runs MLflow's page of a prompt version leads to
SHOWN = 20  # of them, the newest


def own_scorer(named: str) -> Scorer | None:
    """Import what QUARTERDECK_SCORER names, `module:function`; raises InputError where it is not there."""
    if not named:
        return None
    module, _, function = named.partition(":")
    try:
        found: Scorer = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as e:
        raise InputError(f"QUARTERDECK_SCORER={named}: name a function as module:function ({e})") from e
    return found


def scores_of(one: Evaluated) -> dict[str, float | bool | str]:
    """Return what each moment is scored by; R is net of costs, over a day."""
    denied = "" if one.verdict.allowed else ", ".join(one.verdict.codes)
    scores: dict[str, float | bool | str | None] = {
        "net_r": one.net_r,
        "value_over_hold_r": one.value_r,
        "valid": one.is_valid,
        "denied": denied or None,
        "cost_usd": float(one.answer.cost_usd),
        "latency_ms": one.answer.latency_ms,
        "brier": one.brier,
    }
    return {name: value for name, value in scores.items() if value is not None}


def log_evaluation(
    server: MlflowServer,
    name: str,
    tags: Mapping[str, str],
    dataset: Any,
    found: Sequence[Evaluated],
    version_of: Callable[[PromptRef], Any],
    scorer: Scorer | None = None,
) -> str:
    """Write an evaluation run and return its id; version_of: the registered version of a prompt, or None."""
    with server.translated():
        entities = server.mlflow.entities
        run_id = str(
            server.create_run(name, {**tags, "mlflow.runType": "genai_evaluate", "kind": "evaluation"}).info.run_id
        )
        server.client.log_inputs(run_id, [entities.DatasetInput(dataset=dataset._to_mlflow_entity())])
        traces, scores, assessed = [], [], []
        for one in found:
            trace = _traced(one, tags, run_id, version_of)
            scores.append(_scored(one, scorer))
            feedback = [_assessed(entities.Feedback, *score, run_id) for score in scores[-1].items()]
            market = [_assessed(entities.Expectation, *each, run_id) for each in one.moment.moved.items()]
            traces.append(trace)
            assessed.append((trace, [*feedback, *market]))
        send(server, traces, run_id)
        _assess(server, assessed)
        for name, number in {(version.name, version.version) for trace in traces for version in trace.prompts}:
            version = server.client.get_prompt_version(name, number)
            before = filter(None, version.tags.get(EVALUATED_IN, "").split(","))
            server.client.set_prompt_version_tag(name, number, EVALUATED_IN, ",".join([*before, run_id][-SHOWN:]))
        server.log(run_id, {"moments": len(found), **_means(scores)})
        server.client.set_terminated(run_id)
        return run_id


def _traced(
    one: Evaluated, tags: Mapping[str, str], run_id: str, version_of: Callable[[PromptRef], Any]
) -> Trace:  # fmt: skip
    answer, moment = one.answer, one.moment
    labels = {
        **{key: tags[key] for key in ("variant", "decider", "model") if tags.get(key)},
        "symbol": moment.symbol, "as_of": moment.as_of.isoformat(), "moment": moment.moment_id,
        "action": answer.decision.action, "prompt": ", ".join(map(str, answer.prompts)),
    }  # fmt: skip
    versions = map(version_of, answer.prompts)
    trace = Trace(
        trace_id_of(run_id, moment.moment_id), "moment", clock.now(), inputs_of(moment), outputs_of(one), labels,
        prompts=[version for version in versions if version is not None],
    )  # fmt: skip
    at = trace.answer(inputs_of(moment), answer)
    trace.span("guard", "GUARDRAIL", {"decision": answer.decision.action}, one.verdict.model_dump(mode="json"), at)
    return trace


def _assess(server: MlflowServer, assessed: Sequence[tuple[Trace, Sequence[Any]]]) -> None:
    """Write all assessments of a trace in one request: one each would be ten times as many."""
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    client, place = server.tracing, TraceLocation.from_experiment_id(server.experiment_id)

    def write(one: tuple[Trace, Sequence[Any]]) -> None:
        trace, assessments = one
        at_ms = int(trace.at.timestamp() * 1000)
        client.start_trace(TraceInfo(trace.trace_id, place, at_ms, TraceState.OK, assessments=list(assessments)))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(write, assessed))


def outputs_of(one: Evaluated) -> dict[str, Any]:
    """Return what a person compares side by side."""
    decision, verdict = one.answer.decision, one.verdict
    return {
        "action": decision.action,
        "confidence": float(decision.confidence),
        "comment": decision.comment,
        "allowed": verdict.allowed,
        "codes": list(verdict.codes),
        "net_r": round(one.net_r, 4),
        "errors": list(one.answer.errors),
    }


def _scored(one: Evaluated, scorer: Scorer | None) -> dict[str, Any]:
    scores: dict[str, Any] = scores_of(one)
    if scorer is None:
        return scores
    from mlflow.genai.scorers import scorer as wrapped

    mine = wrapped(scorer)
    told = {"inputs": inputs_of(one.moment), "outputs": outputs_of(one), "expectations": one.moment.moved}
    return scores | {mine.name: mine.run(**told)}


def _assessed(kind: Any, name: str, value: Any, run_id: str) -> Any:
    from mlflow.entities import AssessmentSource

    return kind(
        name=name, value=value, source=AssessmentSource(source_type="CODE", source_id="quarterdeck"),
        metadata={"mlflow.assessment.sourceRunId": run_id},
    )  # fmt: skip


def _means(scores: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each numeric score, as MLflow's pages name it."""
    numbers: dict[str, list[float]] = {}
    for each in scores:
        for name, value in each.items():
            if isinstance(value, int | float):
                numbers.setdefault(f"{name}/mean", []).append(float(value))
    return {name: float(np.mean(values)) for name, values in numbers.items()}
