"""Decisions as MLflow traces: what their spans, inputs, outputs and tags are, and how they are sent.

A trace is collected in memory and sent with others in one request, which MLflow takes whole or not at all. Its id
derives from what it is about and those of its spans from their order, so that sending it again replaces it.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from tasks.adapters.mlflow.server import MlflowServer
from tasks.core.pages import inert
from tasks.core.types import Answer, CycleRecord, CycleStatus

TOGETHER = 50  # traces in one request
LINKED = "mlflow.linkedPrompts"
_MILLI = 1_000_000  # nanoseconds


def trace_id_of(*about: str) -> str:
    """Return the id that a trace about this always has."""
    return f"tr-{uuid5(NAMESPACE_URL, '/'.join(('quarterdeck', 'trace', *about))).hex}"


def linked(prompts: Iterable[Any]) -> str:
    """Return what MLflow's pages read as the prompt versions of a trace or a run; empty without any."""
    named = [{"name": prompt.name, "version": str(prompt.version)} for prompt in prompts]
    return json.dumps(named) if named else ""


class Trace:
    """One trace, from its root on; it ends with the last of its spans."""

    def __init__(
        self,
        trace_id: str,
        name: str,
        at: datetime,
        inputs: Any,
        outputs: Any,
        tags: Mapping[str, str] = {},
        session: str = "",
        failed: bool = False,
        prompts: Sequence[Any] = (),
        page: str = "",
    ) -> None:
        """Begin with the root.

        trace_id: see `trace_id_of`. session: what MLflow groups traces by. prompts: versions of MLflow's registry.
        page: a URL of ours, to be followed from the trace.
        """
        self.trace_id, self.at, self.prompts = trace_id, at, prompts
        self.spans: list[dict[str, Any]] = []
        labels = {**tags, "mlflow.traceName": name, LINKED: linked(prompts)}
        attributes = {f"mlflow.traceTag.{key}": value for key, value in labels.items() if value}
        if session:
            attributes["session.id"] = session
        self.span(name, "AGENT", inputs, outputs, parent=None, attributes=attributes, failed=failed)
        if page:  # nothing else in a trace is a link
            told = _inert(inputs) | {"page": f"[the decision's page in Prefect]({page})"}
            self.spans[0]["attributes"] |= {
                "mlflow.spanInputs": json.dumps(told), "mlflow.traceTag.page": json.dumps(page),
            }  # fmt: skip

    def span(
        self,
        name: str,
        kind: str,
        inputs: Any,
        outputs: Any,
        after_ms: float = 0,
        ms: float = 0,
        parent: int | None = 0,
        attributes: Mapping[str, Any] = {},
        failed: bool = False,
    ) -> int:
        """Add a span that begins `after_ms` after the trace and takes `ms`; returns its place, for spans inside it."""
        place = len(self.spans)
        begin = int(self.at.timestamp() * 1000) * _MILLI + int(after_ms * _MILLI) + place  # together: in this order
        known = {
            **attributes, "mlflow.traceRequestId": self.trace_id, "mlflow.spanType": kind,
            "mlflow.spanInputs": inputs, "mlflow.spanOutputs": outputs,
        }  # fmt: skip
        self.spans.append(
            {
                "name": _inert(name),
                "trace_id": b64encode(bytes.fromhex(self.trace_id.removeprefix("tr-"))).decode(),
                "span_id": _span_id(place),
                "parent_span_id": None if parent is None else _span_id(parent),
                "start_time_unix_nano": begin,
                "end_time_unix_nano": begin + int(ms * _MILLI),
                "status": {"code": "STATUS_CODE_ERROR" if failed else "STATUS_CODE_OK"},
                "attributes": {key: json.dumps(_inert(value)) for key, value in known.items()},
            }
        )
        self.spans[0]["end_time_unix_nano"] = max(each["end_time_unix_nano"] for each in self.spans)
        return place

    def answer(self, question: Any, answer: Answer) -> float:
        """Add the spans of one answered question, its calls and tools inside `decide`; returns how many ms it took.

        Calls and tools begin with the decision: an answer holds how long they took, not when they began.
        """
        took = max([answer.latency_ms, *(each.latency_ms for each in answer.calls + answer.tool_calls)])
        said = answer.model_dump(mode="json", exclude={"calls", "tool_calls"})
        decide = self.span("decide", "CHAIN", question, said, ms=took)
        for call in answer.calls:
            tokens = {"input_tokens": call.tokens_in, "output_tokens": call.tokens_out}
            cached = {"cache_read_input_tokens": call.cached_tokens} if call.cached_tokens else {}
            attributes = {
                "mlflow.llm.model": call.model,
                "mlflow.chat.tokenUsage": {**tokens, "total_tokens": sum(tokens.values()), **cached},
                # Only the sum is known; without this MLflow would estimate a cost from a price list of its own.
                "mlflow.llm.cost": {"input_cost": 0.0, "output_cost": 0.0, "total_cost": float(call.cost_usd)},
                "prompt": str(call.prompt or ""),
                "error": call.error,
            }
            asked = {"model": call.model, "messages": list(call.messages)}
            reply = {"choices": [{"message": {"role": "assistant", "content": call.raw_reply}}]}
            self.span(
                call.role, "CHAT_MODEL", asked, reply,
                ms=call.latency_ms, parent=decide, attributes=attributes, failed=bool(call.error),
            )  # fmt: skip
        for tool in answer.tool_calls:
            rest = tool.model_dump(mode="json", exclude={"tool", "parameters", "response", "latency_ms"})
            self.span(
                tool.tool, "TOOL", tool.parameters, tool.response,
                ms=tool.latency_ms, parent=decide, attributes=rest, failed=bool(tool.error),
            )  # fmt: skip
        return took


def _span_id(place: int) -> str:
    return b64encode((place + 1).to_bytes(8, "big")).decode()


def send(server: MlflowServer, traces: Sequence[Trace], run_id: str) -> None:
    """Write traces into a run, each linked to its prompt versions; again: the same ones. Raises MlflowException."""
    from mlflow.entities import Span

    tracing = server.tracing
    for first in range(0, len(traces), TOGETHER):
        some = traces[first : first + TOGETHER]
        tracing.log_spans(server.experiment_id, [Span.from_dict(span) for trace in some for span in trace.spans])
        server.client.link_traces_to_run([trace.trace_id for trace in some], run_id)
        for trace in some:
            if trace.prompts:
                tracing.store.link_prompts_to_trace(trace.trace_id, trace.prompts)


def cycle_trace(record: CycleRecord, profile: str) -> str:
    """Return the id of the trace of one decider's cycle."""
    return trace_id_of(profile, record.strategy, record.cycle_id)


def of_record(record: CycleRecord, profile: str, prompts: Sequence[Any], page: str = "") -> Trace:
    """Collect the trace of one decider's cycle, grouped with those of the others who were asked in it.

    It begins when the cycle read its candles, by the wall clock; as_of, which in the sandbox may be any year, is in its
    inputs and tags. A record of before that was kept begins at as_of.
    """
    decided, verdict = record.decided, record.verdict
    dump = record.model_dump(mode="json")
    outputs = {
        "action": decided and decided.decision.action,
        "decider": record.decider,
        "status": record.status,
        "comment": decided and decided.decision.comment,
        "allowed": verdict and verdict.allowed,
        "codes": verdict.codes if verdict else (),
        "error": record.error or None,
    }
    trace = Trace(
        cycle_trace(record, profile),
        "cycle",
        (record.inputs and record.inputs.known_at) or record.as_of,
        {"pair": record.symbol, "reasons": [*map(str, record.reasons)], "as_of": record.as_of.isoformat()},
        outputs,
        trace_tags(record, profile),
        session=record.cycle_id,
        failed=record.status == CycleStatus.FAILED,
        prompts=prompts,
        page=page,
    )
    at = trace.answer(dump["snapshot"], decided) if decided else 0
    if verdict:
        judged = record.model_dump(mode="json", include={"state": True, "decided": {"decision"}})
        trace.span("guard", "GUARDRAIL", judged, dump["verdict"], at)
    if record.intents:
        sent = {name: dump[name] for name in ("orders", "fills", "error")}
        trace.span("execute", "TOOL", {"intents": dump["intents"]}, sent, at)
    return trace


def _inert(value: Any) -> Any:
    """Return what MLflow's pages show as Markdown with nothing in it to follow or fetch."""
    if isinstance(value, dict):
        return {key: _inert(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_inert(each) for each in value]
    return inert.plain(value) if isinstance(value, str) else value


def trace_tags(record: CycleRecord, profile: str) -> dict[str, str]:
    """Return what traces are found and filtered by."""
    decided = record.decided
    prompts = decided.prompts if decided else ()
    return {
        **{name: getattr(record, name) for name in ("cycle_id", "strategy", "symbol", "decider")},
        **{name: getattr(decided, name, "") for name in ("source", "rung", "model")},
        "profile": profile,
        "as_of": record.as_of.isoformat(),
        "status": record.status,
        "action": decided.decision.action if decided else "",
        "flags": ", ".join(decided.flags) if decided else "",
        "prompt": ", ".join(map(str, prompts)),
        "prompt_sha256": ", ".join(ref.sha256 for ref in prompts),
    }
