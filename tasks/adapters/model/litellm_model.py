"""The one edge to language models: litellm over HTTP, in failover order, inside one total deadline.

The deadline is ours, outside the library: neither a socket that hangs nor a reply that drips may outlast it. A reply
is read to at most `max_reply_bytes`. Nothing a provider does raises: `ModelCall.error` is a short reason, and
provider messages are never copied into it, as they may echo a key. litellm is imported on the first call, before the
deadline starts (it takes seconds). The library's own retries are off: the next model is the retry.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx

from tasks.adapters.model.reply_limit import RECEIVED, LimitedTransport, Received
from tasks.core.decision.decider import elapsed_ms, loop_time, within_deadline
from tasks.core.ports import ModelRequest, Schema
from tasks.core.types import Json, JsonObject, ModelCall, Texts
from tasks.redaction import redacted

BLOCK_VARIABLE = "QUARTERDECK_NO_MODEL_CALLS"  # 1: only a model on this machine may be called; the tests set it
_CONVERSION_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RuntimeError)  # litellm, on odd bodies


@dataclass
class _Turn:
    """One model's turn, as far as it got when a deadline struck; what a failed one cost counts too."""

    model: str
    began: float
    received: Received
    response: Any = None  # litellm is untyped
    error: str = "timeout"
    text: str | None = None  # None: what was received

    def call(self, request: ModelRequest, end: float, max_bytes: int) -> ModelCall:
        """Return the turn, which ended then, as a call of its own."""
        usage = getattr(self.response, "usage", None)
        tokens_in, tokens_out = (
            max(0, getattr(usage, name, 0) or 0) for name in ("prompt_tokens", "completion_tokens")
        )
        cost = getattr(self.response, "_hidden_params", {}).get("response_cost") or 0
        text = self.received.text(max_bytes) if self.text is None else self.text
        return request.call(
            self.model, raw_reply=redacted(text), error=self.error, latency_ms=round((end - self.began) * 1000, 1),
            cost_usd=Decimal(str(cost)), tokens_in=tokens_in, tokens_out=tokens_out,
        )  # fmt: skip


@dataclass
class LiteLLMModel:
    """Implements `ports.Model`. With `base_url` every model is asked there, in OpenAI's dialect."""

    models: Texts
    base_url: str = ""
    provider_timeout_s: float = 30
    deadline_s: float = 60
    max_reply_bytes: int = 200_000

    async def ask(self, request: ModelRequest) -> ModelCall:
        """Ask the models in order until one answers, within the deadline."""
        local = urlsplit(self.base_url).hostname in ("127.0.0.1", "localhost")
        if os.environ.get(BLOCK_VARIABLE) == "1" and not local:
            return request.call(self.models[0], error="blocked")
        await prepare()
        started, turns = loop_time(), list[_Turn]()
        await within_deadline(self._failover(request, turns), self.deadline_s)
        ends = [*(turn.began for turn in turns[1:]), loop_time()]
        calls = [turn.call(request, end, self.max_reply_bytes) for turn, end in zip(turns, ends, strict=True)]
        models = [call.model for call in calls]
        trail = [
            call.tried()[0].replace(rung="failover" if i else "primary", retry=models[:i].count(call.model))
            for i, call in enumerate(calls)
        ]
        update = {
            "attempts": tuple(f"{call.model}: {call.error}" for call in calls if call.error), "trail": tuple(trail),
            **{name: sum(getattr(call, name) for call in calls) for name in ("cost_usd", "tokens_in", "tokens_out")},
        }  # fmt: skip
        return calls[-1].model_copy(update=update | {"latency_ms": elapsed_ms(started)})

    async def _failover(self, request: ModelRequest, turns: list[_Turn]) -> None:
        for model in self.models:
            # the envelope and JSON's escapes may double the size of what the model wrote
            turn = _Turn(model, loop_time(), Received(2 * self.max_reply_bytes + 4096))
            turns.append(turn)
            try:
                async with asyncio.timeout(self.provider_timeout_s):
                    await self._send(request, turn, request.schema)
                    if turn.error == "bad_request":  # once more without the optional parameters
                        turn.error, turn.received = "timeout", Received(turn.received.limit)
                        await self._send(request, turn, None)
            except TimeoutError:
                turn.error, turn.text = "timeout", None
            if not turn.error:
                return

    async def _send(self, request: ModelRequest, turn: _Turn, schema: Schema | None) -> None:
        import openai  # litellm's exceptions are its subclasses

        RECEIVED.set(turn.received)
        try:
            turn.response = await litellm().acompletion(
                messages=list(request.messages),
                timeout=self.provider_timeout_s,
                max_retries=0,  # the next model is the retry
                max_tokens=request.prompt.max_tokens,
                **self._route(turn.model),
                **self._options(request, turn.model, schema),
            )
        except (openai.OpenAIError, httpx.HTTPError, OSError, *_CONVERSION_ERRORS) as e:
            turn.error = _reason(e, turn.received)
        else:
            turn.error, turn.text = self._judged(turn.response)

    def _route(self, model: str) -> Json:
        if self.base_url:
            key = os.environ.get("OPENAI_API_KEY") or "unset"  # a local server needs none, the library insists
            name = model.removeprefix("openai/")
            return {"model": name, "custom_llm_provider": "openai", "base_url": self.base_url, "api_key": key}
        if not model.startswith("anthropic/"):
            return {"model": model}
        # Received Anthropic too: unlike OpenAI's dialect, its handler does not use litellm's `aclient_session`.
        from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

        return {"model": model, "client": AsyncHTTPHandler(transport=LimitedTransport())}

    def _options(self, request: ModelRequest, model: str, schema: Schema | None) -> Json:
        """Return the parameters that not every model takes, of which the library drops those; none without a schema."""
        if schema is None:
            return {}
        return {
            "response_format": response_format(schema, model, self.base_url),
            "temperature": request.prompt.temperature,
            "seed": request.prompt.seed,
        }

    def _judged(self, response: Any) -> tuple[str, str | None]:  # litellm is untyped
        """Return why the response is no reply, which it is when empty, a refusal or too much, and what it says."""
        choice = next(iter(response.choices or ()), None)
        message = getattr(choice, "message", None)
        text = getattr(message, "content", None) or ""
        refusal = (getattr(message, "provider_specific_fields", None) or {}).get("refusal")
        if refusal or getattr(choice, "finish_reason", "") == "content_filter":
            return "refused", None
        if not isinstance(text, str) or not text.strip():
            return "empty", None
        raw = text.encode("utf-8", "replace")
        if len(raw) > self.max_reply_bytes:
            return "too_long", raw[: self.max_reply_bytes].decode("utf-8", "ignore")
        return "", raw.decode().replace("\x00", "�")


async def prepare() -> None:
    """Import what a first call needs: seconds that must not count against a deadline around the call."""
    await asyncio.to_thread(litellm)


def response_format(schema: Mapping[str, object], model: str, base_url: str) -> JsonObject:
    """Return the strictest output format the model may take: a JSON schema, else any JSON object."""
    if base_url or litellm().supports_response_schema(model=model):
        return {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": dict(schema)}}
    return {"type": "json_object"}


def _reason(error: Exception, received: Received) -> str:
    """Return the short reason for what the library raised; the error's own text stays out of the record."""
    import openai

    if received.over:
        return "too_long"
    if received.complete and received.status == HTTPStatus.OK:
        return "malformed"
    # litellm calls a 403 an unavailable service; without a status nothing was sent: the client has no key
    refused = received.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    if refused or (received.status == 0 and "api_key" in str(error)):
        return "auth"
    reasons = {
        "refused": litellm().ContentPolicyViolationError,
        "timeout": openai.APITimeoutError | httpx.TimeoutException | TimeoutError,
        "rate_limited": openai.RateLimitError,
        "auth": openai.AuthenticationError | openai.PermissionDeniedError,
        "bad_request": openai.BadRequestError | openai.NotFoundError | openai.UnprocessableEntityError,
        "unavailable": openai.OpenAIError | httpx.HTTPError | OSError,
    }
    return next((reason for reason, classes in reasons.items() if isinstance(error, classes)), "malformed")


@cache
def litellm() -> Any:  # it is untyped
    """Import litellm once, quiet and off the network, with what its first call would import inside our deadline."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"] = "True"  # else the first call fetches them, blocking the loop
    import litellm.llms.openai.openai
    import openai.resources.chat.completions  # noqa: F401  (half a second on the first call)

    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = True
    litellm.aclient_session = httpx.AsyncClient(transport=LimitedTransport())
    return litellm
