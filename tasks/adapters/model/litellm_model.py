"""The one edge to language models: litellm over HTTP, in failover order, inside one total deadline.

The deadline is ours, outside the library: neither a socket that hangs nor a reply that drips may outlast it. A reply
is read to at most `max_reply_bytes`. Nothing a provider does raises: `ModelCall.error` is a short reason, and
provider messages are never copied into it, as they may echo a key. litellm is imported on the first call, before the
deadline starts (it takes seconds). The library's own retries are off: the next model is the retry.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from http import HTTPStatus
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import httpx

from tasks.adapters.model.reply_limit import RECEIVED, LimitedTransport, Received
from tasks.core.decision.decider import elapsed_ms, within
from tasks.core.errors import InputError, ModelError
from tasks.core.ports import Messages, Schema
from tasks.core.types.decision import ModelCall, PromptRef, Rung, Why

BLOCK_VARIABLE = "QUARTERDECK_NO_MODEL_CALLS"  # 1: only a model on this machine may be called; the tests set it
_CONVERSION_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RuntimeError)  # litellm, on odd bodies
SECRET_SUFFIXES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_AUTH_STRING")


@dataclass
class _Progress:
    """What is known so far, also when the deadline strikes; what failed attempts cost counts too."""

    model: str = ""
    attempts: list[str] = field(default_factory=list)
    received: Received = field(default_factory=lambda: Received(0))
    cost_usd: Decimal = Decimal(0)
    tokens_in: int = 0
    tokens_out: int = 0
    trail: list[Rung] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def passed(self, role: str, error: str = "") -> None:
        """Put what became of the model just asked into the trail, with what it took since the one before."""
        if error:
            self.attempts.append(f"{self.model}: {error}")
        failed = Why.LATE if error == "timeout" else Why.PROVIDER_ERROR
        source, took = f"llm:{self.model}", (time.monotonic() - self.started) * 1000
        rung = Rung(
            rung="failover" if self.trail else "primary", source=source, why=failed if error else Why.ANSWERED,
            role=role, retry=sum(each.source == source for each in self.trail),
            latency_ms=round(took - sum(each.latency_ms for each in self.trail), 1),
            cost_usd=self.cost_usd - sum((each.cost_usd for each in self.trail), Decimal(0)),
            tokens=self.tokens_in + self.tokens_out - sum(each.tokens for each in self.trail),
        )  # fmt: skip
        self.trail.append(rung)

    def spend(self, response: Any) -> None:  # litellm is untyped
        usage = getattr(response, "usage", None)
        self.tokens_in += max(0, getattr(usage, "prompt_tokens", 0) or 0)
        self.tokens_out += max(0, getattr(usage, "completion_tokens", 0) or 0)
        self.cost_usd += Decimal(str(getattr(response, "_hidden_params", {}).get("response_cost") or 0))

    def call(self, asked: ModelCall, text: str, error: str = "") -> ModelCall:
        update = {"model": self.model, "raw_reply": text, "error": error, "attempts": tuple(self.attempts)}
        spent = {"cost_usd": self.cost_usd, "tokens_in": self.tokens_in, "tokens_out": self.tokens_out}
        return asked.model_copy(update=update | spent | {"trail": tuple(self.trail)})


class _Failed(ModelError):
    """One model did not answer usably; `reason` is the short word for the record."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(reason)
        self.reason, self.text = reason, text


class LiteLLMModel:
    """Implements `ports.Model`. With `base_url` every model is asked there, in OpenAI's dialect."""

    def __init__(
        self,
        models: tuple[str, ...],
        base_url: str = "",
        provider_timeout_s: float = 30,
        deadline_s: float = 60,
        max_reply_bytes: int = 200_000,
    ) -> None:
        if not models:
            raise InputError("no model is configured: set QUARTERDECK_MODEL to litellm names such as openai/gpt-4o")
        self.models, self.base_url = models, base_url
        self.provider_timeout_s, self.deadline_s, self.max_reply_bytes = provider_timeout_s, deadline_s, max_reply_bytes

    async def ask(self, role: str, prompt: PromptRef, messages: Messages, schema: Schema) -> ModelCall:
        """Ask the models in order until one answers, within the deadline."""
        asked = ModelCall(role=role, model=self.models[0], prompt=prompt, messages=tuple(messages))
        local = urlsplit(self.base_url).hostname in ("127.0.0.1", "localhost")
        if os.environ.get(BLOCK_VARIABLE) == "1" and not local:
            return asked.model_copy(update={"error": "blocked"})
        await prepare()
        started, progress = time.monotonic(), _Progress()
        call = await within(self._failover(asked, schema, progress), self.deadline_s)
        if call is None:
            progress.passed(role, "timeout")
            call = progress.call(asked, self._received(progress.received), error="timeout")
        return call.model_copy(update={"latency_ms": elapsed_ms(started)})

    async def _failover(self, asked: ModelCall, schema: Schema, progress: _Progress) -> ModelCall:
        failed = _Failed("unavailable")
        for progress.model in self.models:
            try:
                text = await self._one(asked, schema, progress)
                progress.passed(asked.role)
                return progress.call(asked, text)
            except _Failed as e:
                failed = e
                progress.passed(asked.role, e.reason)
        return progress.call(asked, failed.text, error=failed.reason)

    async def _one(self, asked: ModelCall, schema: Schema, progress: _Progress) -> str:
        """Ask one model; when it refuses the request as such, once more without the optional parameters."""
        try:
            async with asyncio.timeout(self.provider_timeout_s):
                try:
                    return await self._request(asked, schema, progress)
                except _Failed as e:
                    if e.reason != "bad_request":
                        raise
                return await self._request(asked, None, progress)
        except TimeoutError:
            raise _Failed("timeout", self._received(progress.received)) from None

    async def _request(self, asked: ModelCall, schema: Schema | None, progress: _Progress) -> str:
        import openai  # litellm's exceptions are its subclasses

        # the envelope and JSON's escapes may double the size of what the model wrote
        received = progress.received = Received(2 * self.max_reply_bytes + 4096)
        RECEIVED.set(received)
        try:
            response = await _litellm().acompletion(
                messages=list(asked.messages),
                timeout=self.provider_timeout_s,
                max_retries=0,  # the next model is the retry
                **self._route(progress.model),
                **_sampling(asked.prompt, schema, progress.model, self.base_url),
            )
        except (openai.OpenAIError, httpx.HTTPError, OSError, *_CONVERSION_ERRORS) as e:
            raise _Failed(_reason(e, received), self._received(received)) from e
        progress.spend(response)
        return self._text(response, received)

    def _route(self, model: str) -> dict[str, Any]:
        if not self.base_url:
            return {"model": model} | _own_client(model)
        key = os.environ.get("OPENAI_API_KEY") or "unset"  # a local server needs none, the library insists
        name = model.removeprefix("openai/")
        return {"model": name, "custom_llm_provider": "openai", "base_url": self.base_url, "api_key": key}

    def _text(self, response: Any, received: Received) -> str:  # litellm is untyped
        """Return what the model wrote; raises _Failed when that is nothing, a refusal or too much."""
        choice = next(iter(response.choices or ()), None)
        message = getattr(choice, "message", None)
        text = getattr(message, "content", None) or ""
        refusal = (getattr(message, "provider_specific_fields", None) or {}).get("refusal")
        if refusal or getattr(choice, "finish_reason", "") == "content_filter":
            raise _Failed("refused", self._received(received))
        if not isinstance(text, str) or not text.strip():
            raise _Failed("empty", self._received(received))
        raw = text.encode("utf-8", "replace")
        if len(raw) > self.max_reply_bytes:
            raise _Failed("too_long", _redacted(raw[: self.max_reply_bytes].decode("utf-8", "ignore")))
        return _redacted(raw.decode().replace("\x00", "�"))

    def _received(self, received: Received) -> str:
        return _redacted(received.text(self.max_reply_bytes))


async def prepare() -> None:
    """Import what a first call needs: seconds that must not count against a deadline around the call."""
    await asyncio.to_thread(_litellm)


def _own_client(model: str) -> dict[str, Any]:
    """Received Anthropic too: unlike OpenAI's dialect, its handler does not use litellm's `aclient_session`."""
    if not model.startswith("anthropic/"):
        return {}
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    return {"client": AsyncHTTPHandler(transport=LimitedTransport())}


def _sampling(prompt: PromptRef | None, schema: Schema | None, model: str, base_url: str) -> dict[str, Any]:
    """Return the request's parameters; without a schema only those that every model takes."""
    options: dict[str, Any] = {"max_tokens": prompt.max_tokens} if prompt else {}
    if schema is None:
        return options
    options["response_format"] = response_format(schema, model, base_url)
    if prompt:
        options |= {"temperature": prompt.temperature, "seed": prompt.seed}
    return {name: value for name, value in options.items() if value is not None}


def response_format(schema: Mapping[str, object], model: str, base_url: str) -> dict[str, object] | None:
    """Return the strictest output format the model takes: a JSON schema, any JSON object, or none."""
    litellm = _litellm()
    if base_url or litellm.supports_response_schema(model=model):
        wrapped = {"name": "reply", "strict": True, "schema": dict(schema)}
        return {"type": "json_schema", "json_schema": wrapped}
    supported = litellm.get_supported_openai_params(model=model) or []
    return {"type": "json_object"} if "response_format" in supported else None


def _reason(error: Exception, received: Received) -> str:
    """Return the short reason for what the library raised; the error's own text stays out of the record."""
    if received.over:
        return "too_long"
    if received.complete and received.status == HTTPStatus.OK:
        return "malformed"
    if received.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return "auth"  # litellm calls a 403 an unavailable service
    if received.status == 0 and "api_key" in str(error):  # nothing was sent: the client has no key
        return "auth"
    return next((reason for classes, reason in _reasons() if isinstance(error, classes)), "malformed")


@cache
def _reasons() -> tuple[tuple[tuple[type[Exception], ...], str], ...]:
    import openai

    return (
        ((_litellm().ContentPolicyViolationError,), "refused"),
        ((openai.APITimeoutError, httpx.TimeoutException, TimeoutError), "timeout"),
        ((openai.RateLimitError,), "rate_limited"),
        ((openai.AuthenticationError, openai.PermissionDeniedError), "auth"),
        ((openai.BadRequestError, openai.NotFoundError, openai.UnprocessableEntityError), "bad_request"),
        ((openai.OpenAIError, httpx.HTTPError, OSError), "unavailable"),
    )


def _redacted(text: str) -> str:
    """Return a reply without this process's secrets: some providers echo the key they were given."""
    for secret in _secrets():
        text = text.replace(secret, "***")
    return text


def _secrets() -> Iterator[str]:
    return (v for name, v in os.environ.items() if name.upper().endswith(SECRET_SUFFIXES) and len(v) >= 8)


@cache
def _litellm() -> ModuleType:
    """Import litellm once, quiet and off the network, with what its first call would import inside our deadline."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"] = "True"  # else the first call fetches them, blocking the loop
    import litellm
    import litellm.llms.openai.openai
    import openai.resources.chat.completions  # noqa: F401  (half a second on the first call)

    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = True
    litellm.aclient_session = httpx.AsyncClient(transport=LimitedTransport())
    module: ModuleType = litellm
    return module
