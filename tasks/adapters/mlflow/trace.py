"""A CycleRecord as an MLflow trace: what its spans, inputs, outputs and tags are. `tracking` sends it."""

from typing import Any

from tasks.adapters.mlflow.server import MlflowServer
from tasks.core.pages import inert
from tasks.core.types import CycleRecord, CycleStatus, PromptRef

_MILLI = 1_000_000  # nanoseconds


def write_trace(server: MlflowServer, record: CycleRecord, profile: str, run_id: str) -> str:
    """Write the trace into a session's run and return its id.

    It starts now, not at as_of, which in the sandbox may be any year; as_of is in its inputs and tags. Calls and tools
    start with the decision: a record holds how long they took, not when they began.
    """
    decided, verdict = record.decided, record.verdict
    dump = record.model_dump(mode="json")
    reasons = [str(reason) for reason in record.reasons]
    asked = {"pair": record.symbol, "reasons": reasons, "as_of": record.as_of.isoformat()}
    root = server.client.start_trace(
        "cycle",
        "AGENT",
        _inert(asked),
        tags=_inert(trace_tags(record, profile)),
        experiment_id=server.experiment_id,
        run_id=run_id,
    )
    at = int(root.start_time_ns)

    def span(
        name: str,
        kind: str,
        inputs: Any,
        outputs: Any,
        begin: int,
        ms: float = 0,
        parent: Any = root,
        attributes: Any = None,
        error: str = "",
    ) -> Any:
        made = server.mlflow.start_span_no_context(
            name,
            span_type=kind,
            parent_span=parent,
            start_time_ns=begin,
            inputs=_inert(inputs),
            attributes=_inert(attributes),
        )
        made.end(outputs=_inert(outputs), status="ERROR" if error else "OK", end_time_ns=begin + int(ms * _MILLI))
        return made

    if decided:
        took = max([decided.latency_ms, *(each.latency_ms for each in decided.calls + decided.tool_calls)])
        answer = decided.model_dump(mode="json", exclude={"calls", "tool_calls"})
        decide = span("decide", "CHAIN", dump["snapshot"], answer, at, took)
        for order, call in enumerate(decided.calls):
            tokens = {"input_tokens": call.tokens_in, "output_tokens": call.tokens_out}
            cached = {"cache_read_input_tokens": call.cached_tokens} if call.cached_tokens else {}
            attributes = {
                "mlflow.llm.model": call.model,
                "mlflow.chat.tokenUsage": {**tokens, "total_tokens": sum(tokens.values()), **cached},
                # Only the sum is known; without this MLflow would estimate a cost from a price list of its own.
                "mlflow.llm.cost": {"input_cost": 0.0, "output_cost": 0.0, "total_cost": float(call.cost_usd)},
                "prompt": f"{call.prompt.name}/{call.prompt.version}" if call.prompt else "",
                "error": call.error,
            }
            messages = {"model": call.model, "messages": list(call.messages)}
            reply = {"choices": [{"message": {"role": "assistant", "content": call.raw_reply}}]}
            span(call.role, "CHAT_MODEL", messages, reply, at + order, call.latency_ms, decide, attributes, call.error)
        for order, tool in enumerate(decided.tool_calls, start=len(decided.calls)):
            rest = tool.model_dump(mode="json", exclude={"tool", "parameters", "response", "latency_ms"})
            span(
                tool.tool, "TOOL", tool.parameters, tool.response, at + order, tool.latency_ms, decide, rest, tool.error
            )
        at += int(took * _MILLI)
    if verdict:
        judged = record.model_dump(mode="json", include={"state": True, "decided": {"decision"}})
        span("guard", "GUARDRAIL", judged, dump["verdict"], at)
    if record.intents:
        sent = {name: dump[name] for name in ("orders", "fills", "error")}
        span("execute", "TOOL", {"intents": dump["intents"]}, sent, at)
    outputs = {
        "action": decided and decided.decision.action,
        "status": record.status,
        "comment": decided and decided.decision.comment,
        "allowed": verdict and verdict.allowed,
        "codes": verdict.codes if verdict else (),
        "error": record.error or None,
    }
    status = "ERROR" if record.status == CycleStatus.FAILED else "OK"
    server.client.end_trace(root.trace_id, outputs=_inert(outputs), status=status, end_time_ns=at)
    return str(root.trace_id)


def _inert(value: Any) -> Any:
    """Return what MLflow's pages show as Markdown with nothing in it to follow or fetch."""
    if isinstance(value, dict):
        return {key: _inert(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_inert(each) for each in value]
    return inert.plain(value) if isinstance(value, str) else value


def prompts_sent(record: CycleRecord) -> list[PromptRef]:
    """Return each prompt version once, in the order of the calls."""
    calls = record.decided.calls if record.decided else ()
    return list(dict.fromkeys(call.prompt for call in calls if call.prompt))


def trace_tags(record: CycleRecord, profile: str) -> dict[str, str]:
    """Return what traces are found and filtered by."""
    prompts, decided = prompts_sent(record), record.decided
    return {
        **{name: getattr(record, name) for name in ("cycle_id", "strategy", "symbol", "decider")},
        **{name: getattr(decided, name, "") for name in ("source", "rung", "model")},
        "profile": profile,
        "as_of": record.as_of.isoformat(),
        "status": record.status,
        "action": decided.decision.action if decided else "",
        "flags": ", ".join(decided.flags) if decided else "",
        "prompt": ", ".join(f"{ref.name}/{ref.version}" for ref in prompts),
        "prompt_sha256": ", ".join(ref.sha256 for ref in prompts),
    }


def span_count(record: CycleRecord) -> int:
    """Return how many spans `write_trace` writes: fewer on the server are half a trace."""
    decide = 1 + len(record.decided.calls) + len(record.decided.tool_calls) if record.decided else 0
    return 1 + decide + bool(record.verdict) + bool(record.intents)
