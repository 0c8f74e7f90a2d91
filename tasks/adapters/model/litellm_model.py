"""The one edge to language models: litellm over HTTP, in failover order, inside one total deadline.

The deadline is ours, outside the library: neither a socket that hangs nor a reply that drips may outlast it. A reply
is read to at most `max_reply_bytes`. Nothing a provider does raises: `ModelCall.error` is a short reason, with the
provider's `param` and `code`; its messages are never copied into it, as they may echo a key. litellm is imported on
the first call, before the deadline starts (it takes seconds). The library's own retries are off: what may pass is asked
again here, what was refused is put another way (`request_form`), then the next model has its turn. Each try is named.
"""

import asyncio
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

from tasks.adapters.model.reply_limit import RECEIVED, LimitedTransport, Received
from tasks.adapters.model.request_form import Form, Forms, RequestRefusal, refusal_of
from tasks.core.decision.decider import elapsed_ms, loop_time, within_deadline
from tasks.core.ports import ModelRequest
from tasks.core.types import Json, JsonObject, ModelCall, PromptRef, RungName, Texts
from tasks.redaction import redacted

BLOCK_VARIABLE = "QUARTERDECK_NO_MODEL_CALLS"  # 1: only a model on this machine may be called; the tests set it
RETRIES, PAUSE_S = 2, 1.0  # of the same model, when what went wrong may pass
RUNGS: tuple[RungName, RungName] = ("primary", "failover")  # of the first model, and of those after it
PASSING = ("timeout", "rate_limited", "unavailable")
THOUGHT = 20_000  # characters of a model's thinking that are kept
_CONVERSION_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RuntimeError)  # litellm, on odd bodies


@dataclass
class _Turn:
    """One try of one model, as far as it got when a deadline struck; what a failed one cost counts too."""

    model: str
    rung: RungName
    began: float
    received: Received
    response: Any = None  # litellm is untyped
    error: str = "timeout"
    text: str | None = None  # None: what was received
    note: str = ""  # how what was said is read, or what is tried instead

    def call(self, request: ModelRequest, end: float, max_bytes: int) -> ModelCall:
        """Return the turn, which ended then, as a call of its own."""
        usage = getattr(self.response, "usage", None)
        sent, wrote, both = (_count(usage, f"{name}_tokens") for name in ("prompt", "completion", "total"))
        cost = getattr(self.response, "_hidden_params", {}).get("response_cost") or 0
        text = self.received.text(max_bytes) if self.text is None else self.text
        return request.call(
            self.model, raw_reply=redacted(text), error=self.error, latency_ms=round((end - self.began) * 1000, 1),
            cost_usd=Decimal(str(cost)), tokens_in=sent,
            tokens_out=max(wrote, both - sent),  # some count thinking in the total alone
            cached_tokens=_count(getattr(usage, "prompt_tokens_details", None), "cached_tokens"),
            thinking_tokens=self.thinking_tokens, thinking=redacted(self.thinking[:THOUGHT]),
            unmetered=int(self.is_unmetered),
        )  # fmt: skip

    @property
    def is_unmetered(self) -> bool:
        """Return whether it may have cost something that nobody told."""
        answered = self.response is not None or self.received.status == HTTPStatus.OK
        usage = getattr(self.response, "usage", None)
        counted = _count(usage, "prompt_tokens") + _count(usage, "completion_tokens")
        errors = self.error.startswith("unavailable:")  # that came with 200
        return self.error == "timeout" or (answered and not counted and not errors)

    @property
    def message(self) -> Any:
        return getattr(self._choice, "message", None)

    @property
    def finish(self) -> str:
        return getattr(self._choice, "finish_reason", None) or "stop"

    @property
    def written(self) -> int:
        return _count(getattr(self.response, "usage", None), "completion_tokens")

    @property
    def _choice(self) -> Any:
        return next(iter(getattr(self.response, "choices", None) or ()), None)

    @property
    def thinking(self) -> str:
        thought = getattr(self.message, "reasoning_content", None)
        return thought.replace("\x00", "�") if isinstance(thought, str) else ""

    @property
    def thinking_tokens(self) -> int:
        details = getattr(getattr(self.response, "usage", None), "completion_tokens_details", None)
        return _count(details, "reasoning_tokens")


def _count(usage: Any, name: str) -> int:
    count = getattr(usage, name, 0)
    return max(0, count) if isinstance(count, int) else 0


def is_local(base_url: str) -> bool:
    """Return whether models are asked on this machine."""
    host = urlsplit(base_url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


@dataclass
class LiteLLMModel:
    """Implements `ports.Model`. With `base_url` every model is asked there, in OpenAI's dialect.

    effort: how hard models that reason shall, empty for their own default; thinking_tokens: what such a model may write
    before its answer, beside the prompt's `max_tokens`. patient: a model that was late is asked again, if time is left.
    """

    models: Texts
    base_url: str = ""
    provider_timeout_s: float = 30
    deadline_s: float = 60
    max_reply_bytes: int = 200_000
    effort: str = ""
    thinking_tokens: int = 4000
    forms: Forms = field(default_factory=Forms)
    patient: bool = True

    async def ask(self, request: ModelRequest) -> ModelCall:
        """Ask the models in order until one answers, within the deadline."""
        if os.environ.get(BLOCK_VARIABLE) == "1" and not is_local(self.base_url):
            return request.call(self.models[0], error="blocked")
        await prepare()
        started, turns = loop_time(), list[_Turn]()
        await within_deadline(self._failover(request, turns), self.deadline_s)
        ends = [*(turn.began for turn in turns[1:]), loop_time()]
        calls = [turn.call(request, end, self.max_reply_bytes) for turn, end in zip(turns, ends, strict=True)]
        models = [call.model for call in calls]
        trail = [
            call.tried()[0].replace(rung=turn.rung, retry=models[:i].count(call.model))
            for i, (turn, call) in enumerate(zip(turns, calls, strict=True))
        ]
        summed = ("cost_usd", "tokens_in", "tokens_out", "cached_tokens", "thinking_tokens", "unmetered")
        update = {
            "attempts": tuple(_named(turn) for turn in turns if turn.error or turn.note), "trail": tuple(trail),
            **{name: sum(getattr(call, name) for call in calls) for name in summed},
        }  # fmt: skip
        return calls[-1].model_copy(update=update | {"latency_ms": elapsed_ms(started)})

    async def _failover(self, request: ModelRequest, turns: list[_Turn]) -> None:
        """Give each model its tries; `turns` has them all, the last one under way."""
        end = loop_time() + self.deadline_s
        for i, model in enumerate(self.models):
            others = len(self.models) - i - 1
            form, retries, rung = self._form(model), 0, RUNGS[min(i, 1)]
            while True:
                # the envelope and JSON's escapes may double the size of what the model wrote
                turn = _Turn(model, rung, loop_time(), Received(2 * self.max_reply_bytes + 4096))
                turns.append(turn)
                refusal, sent = await self._try(request, turn, form)
                if not turn.error:
                    self.forms.keep(self._name(model), form)
                    return
                if turn.error.partition(" ")[0].endswith(":length"):
                    self.forms.keep(self._name(model), form.replace(thinks=True))
                reason, known = turn.error.partition(":")[0], self.forms.find(self._name(model))
                other = form.after(refusal, sent) if refusal and reason in ("bad_request", "unavailable") else None
                broke = turn.error == "unavailable" and turn.received.status >= HTTPStatus.INTERNAL_SERVER_ERROR
                if other is None and retries == RETRIES and broke and not known:
                    other = form.bare(sent)  # an engine may break on what it does not know
                if other is not None:
                    form, turn.note = other
                    continue
                left = end - loop_time() - PAUSE_S
                late = reason == "timeout" and (not self.patient or left <= others * self.provider_timeout_s)
                if retries == RETRIES or late or left <= 0 or reason not in PASSING or (refusal and refusal.final):
                    break
                retries += 1
                await asyncio.sleep(PAUSE_S)

    async def _try(self, request: ModelRequest, turn: _Turn, form: Form) -> tuple[RequestRefusal | None, Sequence[str]]:
        """Ask once; return what was refused, if anything, and which parameters were sent."""
        if request.functions and not _knows(turn.model, "function_calling"):
            request = request._replace(functions=())
        parameters = form.parameters(request, self.effort, self.thinking(turn.model))
        try:
            async with asyncio.timeout(self.provider_timeout_s):
                refusal = await self._send(request, turn, form, parameters)
        except TimeoutError:
            turn.error, turn.text, refusal = "timeout", None, None
        return refusal, tuple(parameters)

    async def _send(self, request: ModelRequest, turn: _Turn, form: Form, parameters: Json) -> RequestRefusal | None:
        import openai  # litellm's exceptions are its subclasses

        RECEIVED.set(turn.received)
        try:
            turn.response = await litellm().acompletion(
                messages=form.messages(request.messages),
                timeout=self.provider_timeout_s,
                max_retries=0,  # we ask again ourselves
                **self._route(turn.model),
                **parameters,
            )
        except (openai.OpenAIError, httpx.HTTPError, OSError, *_CONVERSION_ERRORS) as e:
            refusal = refusal_of(turn.received.status, bytes(turn.received.body))
            turn.error = _reason(e, turn.received, refusal)
            return refusal
        turn.error, turn.text = self._judged(turn, bool(request.functions))
        if turn.text and not turn.error and turn.finish == "length":
            turn.note = f"cut off after {turn.written} tokens"
        if turn.is_unmetered and not turn.note:
            turn.note = "no usage told, booked at its worst case"
        return None

    def _name(self, model: str) -> str:
        return f"{model} {self.base_url}".strip()

    def _form(self, model: str) -> Form:
        """Return the form that worked, else the strictest that the model may take."""
        if (kept := self.forms.find(self._name(model))) is not None:
            return kept
        if self.base_url:
            return Form(output="json_schema with lengths")
        return Form(output="json_schema" if litellm().supports_response_schema(model=model) else "json_object")

    def thinking(self, model: str) -> int:
        """Return the tokens that this model may write before its answer."""
        return self.thinking_tokens if self.effort or self._form(model).thinks or _knows(model, "reasoning") else 0

    def parameters(self, prompt: PromptRef) -> Json:
        """Return the temperature and the most tokens that the first model is asked for by a prompt."""
        model = self.models[0]
        asked = ModelRequest(prompt.name, prompt, [], {})
        sent = self._form(model).parameters(asked, self.effort, self.thinking(model))
        limit = sent.get("max_completion_tokens") or sent["max_tokens"]
        return {"max_tokens": limit} | {name: sent[name] for name in ("temperature",) if name in sent}

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

    def _judged(self, turn: _Turn, may_call: bool) -> tuple[str, str | None]:
        """Return why the response is no reply, which it is when empty, a refusal or too much, and what it says."""
        message = turn.message
        text = getattr(message, "content", None) or ""
        refusal = (getattr(message, "provider_specific_fields", None) or {}).get("refusal")
        if refusal or turn.finish == "content_filter":
            return "refused", None
        if may_call and (called := getattr(message, "tool_calls", None)):
            text = json.dumps({"requests": [_requested(each.function) for each in called]})
        if not isinstance(text, str) or not text.strip():
            if turn.finish != "stop" or not _is_object(turn.thinking):
                return _empty(turn), None
            text, turn.note = turn.thinking, "the reply stood in reasoning_content"
        if turn.finish == "length" and not _is_framed(text):
            return f"unfinished:length {turn.written} tokens", text  # what stands in it may be a draft
        raw = text.encode("utf-8", "replace")
        if len(raw) > self.max_reply_bytes:
            return "too_long", raw[: self.max_reply_bytes].decode("utf-8", "ignore")
        return "", raw.decode().replace("\x00", "�")


def _named(turn: _Turn) -> str:
    """Name a try that failed and what is tried instead, or what was odd about it, for people."""
    return f"{turn.model}: {' -> '.join(filter(None, (turn.error, turn.note)))}"


def _empty(turn: _Turn) -> str:
    """Return why there is no text: `empty:length 1200 tokens, 1100 of them thinking`."""
    if turn.finish == "stop":
        return "empty"
    thought = f"{turn.thinking_tokens} of them" if turn.thinking_tokens else f"{len(turn.thinking)} characters of it"
    return f"empty:{turn.finish} {turn.written} tokens" + (f", {thought} thinking" if turn.thinking else "")


def _is_object(text: str) -> bool:
    """Return whether a text is one JSON object and nothing else; thinking with a draft in it is no answer."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_framed(text: str) -> bool:
    """Return whether a reply that was cut off began with its object, or got as far as its end."""
    text = text.strip("` \t\r\n").removeprefix("json").lstrip()
    return text.startswith("{") or text.endswith("}")


def _requested(function: Any) -> JsonObject:
    """Return the request that a function call is; arguments that are no object are for the tool to refuse.

    Some engines put them into JSON twice.
    """
    given = function.arguments or "{}"
    for _ in range(2):
        with suppress(ValueError):
            given = json.loads(given) if isinstance(given, str) else given
    return {
        **(given if isinstance(given, dict) else {"arguments": str(function.arguments)[:100]}),
        "tool": function.name,
    }


def _knows(model: str, what: str) -> bool:
    """Return whether the price list says that this model supports `reasoning`, `function_calling`."""
    try:
        return bool(getattr(litellm(), f"supports_{what}")(model=model))
    except _CONVERSION_ERRORS:
        return False


async def prepare() -> None:
    """Import what a first call needs: seconds that must not count against a deadline around the call."""
    await asyncio.to_thread(litellm)


def _reason(error: Exception, received: Received, refusal: RequestRefusal) -> str:
    """Return the short reason for what the library raised; the error's own text stays out of the record."""
    import openai

    if received.over:
        return "too_long"
    if received.complete and received.status == HTTPStatus.OK:
        return f"unavailable:{refusal.status}" if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "malformed"
    # litellm calls a 403 an unavailable service; without a status nothing was sent: the client has no key
    denied = received.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    if denied or (received.status == 0 and "api_key" in str(error)):
        return "auth"
    known = {
        "refused": litellm().ContentPolicyViolationError,
        "timeout": openai.APITimeoutError | httpx.TimeoutException | TimeoutError,
        "rate_limited": openai.RateLimitError,
        "auth": openai.AuthenticationError | openai.PermissionDeniedError,
        "bad_request": openai.BadRequestError | openai.NotFoundError | openai.UnprocessableEntityError,
        "unavailable": openai.OpenAIError | httpx.HTTPError | OSError,
    }
    reason = next((reason for reason, classes in known.items() if isinstance(error, classes)), "malformed")
    return f"{reason}:{refusal.words}" if refusal.words and reason != "timeout" else reason


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
