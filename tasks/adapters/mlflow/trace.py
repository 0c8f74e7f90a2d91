"""A CycleRecord as an MLflow trace: what its spans, inputs, outputs and tags are. `adapters.tracking` sends it."""

from functools import partial
from typing import Any

from tasks.core.types.decision import Answer, ModelCall, PromptRef, ToolCall
from tasks.core.types.record import CycleRecord, CycleStatus

_MILLI = 1_000_000  # nanoseconds


def write_trace(client: Any, mlflow: Any, record: CycleRecord, tags: dict[str, str], home: dict[str, str]) -> str:
    """Write the trace and return its id; `home` is the experiment and run it belongs to.

    It starts now, not at as_of, which in the sandbox may be any year; as_of is in its inputs and tags.
    """
    root = client.start_trace(
        "cycle",
        span_type="AGENT",
        inputs={
            "pair": record.symbol,
            "reasons": [str(reason) for reason in record.reasons],
            "as_of": record.as_of.isoformat(),
        },
        tags=tags,
        **home,
    )
    end = _write_spans(mlflow, record, root)
    status = "ERROR" if record.status == CycleStatus.FAILED else "OK"
    client.end_trace(root.trace_id, outputs=_root_outputs(record), status=status, end_time_ns=end)
    return str(root.trace_id)


def prompts_sent(record: CycleRecord) -> list[PromptRef]:
    """Return each prompt version once, in the order of the calls."""
    calls = record.decided.calls if record.decided else ()
    return list(dict.fromkeys(call.prompt for call in calls if call.prompt))


def trace_tags(record: CycleRecord, profile: str) -> dict[str, str]:
    """Return what traces are found and filtered by."""
    prompts, decided = prompts_sent(record), record.decided
    return {
        "cycle_id": record.cycle_id,
        "profile": profile,
        "strategy": record.strategy,
        "symbol": record.symbol,
        "as_of": record.as_of.isoformat(),
        "decider": record.decider,
        "status": record.status.value,
        "action": decided.decision.action if decided else "",
        "source": decided.source if decided else "",
        "rung": decided.rung if decided else "",
        "model": decided.model if decided else "",
        "flags": ", ".join(decided.flags) if decided else "",
        "prompt": ", ".join(f"{ref.name}/{ref.version}" for ref in prompts),
        "prompt_sha256": ", ".join(ref.sha256 for ref in prompts),
    }


def span_count(record: CycleRecord) -> int:
    """Return how many spans `write_trace` writes: fewer on the server are half a trace."""
    decide = 1 + len(record.decided.calls) + len(record.decided.tool_calls) if record.decided else 0
    return 1 + decide + bool(record.verdict) + bool(record.intents)


def _root_outputs(record: CycleRecord) -> dict[str, object]:
    decided, verdict = record.decided, record.verdict
    return {
        "action": decided.decision.action if decided else None,
        "status": record.status.value,
        "comment": decided.decision.comment if decided else None,
        "allowed": verdict.allowed if verdict else None,
        "codes": [code.value for code in verdict.codes] if verdict else [],
        "error": record.error or None,
    }


def _write_spans(mlflow: Any, record: CycleRecord, root: Any) -> int:
    """Write the stages that happened under `root`; return when they ended, in nanoseconds."""
    at = int(root.start_time_ns)
    stage = partial(mlflow.start_span_no_context, parent_span=root)
    if decided := record.decided:
        snapshot = record.snapshot.model_dump(mode="json") if record.snapshot else None
        span = stage("decide", span_type="CHAIN", inputs=snapshot, start_time_ns=at)
        for order, call in enumerate(decided.calls):
            _write_call(mlflow, call, span, at + order)
        for order, tool in enumerate(decided.tool_calls, start=len(decided.calls)):
            _write_tool(mlflow, tool, span, at + order)
        at += int(_decide_ms(decided) * _MILLI)
        span.end(outputs=decided.model_dump(mode="json", exclude={"calls", "tool_calls"}), end_time_ns=at)
    if verdict := record.verdict:
        asked = record.model_dump(mode="json", include={"state": True, "decided": {"decision"}})
        span = stage("guard", span_type="GUARDRAIL", inputs=asked, start_time_ns=at)
        span.end(outputs=verdict.model_dump(mode="json"), end_time_ns=at)
    if record.intents:
        intents = record.model_dump(mode="json", include={"intents"})
        span = stage("execute", span_type="TOOL", inputs=intents, start_time_ns=at)
        span.end(outputs=record.model_dump(mode="json", include={"orders", "fills", "error"}), end_time_ns=at)
    return at


def _decide_ms(decided: Answer) -> float:
    calls = [call.latency_ms for call in decided.calls]
    return max([decided.latency_ms, *calls, *(tool.latency_ms for tool in decided.tool_calls)])


def _write_call(mlflow: Any, call: ModelCall, parent: Any, at: int) -> None:
    """Write one model call. All start with their parent: a record holds how long calls took, not when they began."""
    span = mlflow.start_span_no_context(
        call.role,
        span_type="CHAT_MODEL",
        parent_span=parent,
        start_time_ns=at,
        inputs={"model": call.model, "messages": list(call.messages)},
        attributes={
            "mlflow.llm.model": call.model,
            "mlflow.chat.tokenUsage": {
                "input_tokens": call.tokens_in,
                "output_tokens": call.tokens_out,
                "total_tokens": call.tokens_in + call.tokens_out,
            },
            # Only the sum is known; without this MLflow would estimate a cost from a price list of its own.
            "mlflow.llm.cost": {"input_cost": 0.0, "output_cost": 0.0, "total_cost": float(call.cost_usd)},
            "prompt": f"{call.prompt.name}/{call.prompt.version}" if call.prompt else "",
            "error": call.error,
        },
    )
    reply = {"choices": [{"message": {"role": "assistant", "content": call.raw_reply}}]}
    status = "ERROR" if call.error else "OK"
    span.end(outputs=reply, status=status, end_time_ns=at + int(call.latency_ms * _MILLI))


def _write_tool(mlflow: Any, tool: ToolCall, parent: Any, at: int) -> None:
    """Write one tool request of a model, and the answer it was given or why there was none."""
    span = mlflow.start_span_no_context(
        tool.tool,
        span_type="TOOL",
        parent_span=parent,
        start_time_ns=at,
        inputs=tool.parameters,
        attributes=tool.model_dump(mode="json", exclude={"tool", "parameters", "response", "latency_ms"}),
    )
    status = "ERROR" if tool.error else "OK"
    span.end(outputs=tool.response, status=status, end_time_ns=at + int(tool.latency_ms * _MILLI))
