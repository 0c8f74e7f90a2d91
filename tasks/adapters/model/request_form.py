"""How each model takes a request: what it refused is put another way, and the way that worked is kept.

OpenAI's dialect has many readers: one takes `max_completion_tokens` alone, one no temperature, one no system message;
one answers 500 to a JSON schema and takes it beside `json_object`. A refusal says what it is about in `param`, or in
its message; what was said is looked at, never kept. `Forms` remembers by model and address, for this process and, in
a file, for those that come.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import TypeAdapter

from tasks import clock
from tasks.core.ports import Messages, ModelRequest
from tasks.core.types import Dto, Json, JsonObject, Texts, Utc

Output = Literal["json_schema with lengths", "json_schema", "json_object with schema", "json_object", "none"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
LENGTHS, ITEMS, ITEM = {"reasoning": 600, "": 240}, 4, 80  # characters of a text, by its field; texts in a list
OPTIONS = ("temperature", "seed", "reasoning_effort", "tools")
KEPT_FOR = timedelta(days=7)  # then a server that was updated since is asked anew
CONTEXT = "context_length_exceeded"
REFUSING = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)
_ABOUT = {  # the part of a request that a refusal is about, by what its message says
    "max_tokens": r"max_tokens|max_completion_tokens",
    "tools": r"\btools?\b|tool_choice|function.calling",
    "response_format": r"response_format|json_schema|json_object|structured output|grammar|schema",
    "temperature": "temperature",
    "seed": r"\bseed\b",
    "reasoning_effort": "reasoning_effort|reasoning effort",
    "system": r"system (role|message|prompt|instruction)|developer instruction|roles must alternate",
}
_TOO_LONG = re.compile(
    r"context (length|window|size)|prompt is too long|too many (input )?tokens|exceed_context", re.IGNORECASE
)
_PLAIN = re.compile(r"[A-Za-z0-9_.\[\]-]{1,60}")


class RequestRefusal(NamedTuple):
    """What a provider said instead of an answer; only its plain words, `param` and `code`, may be told."""

    status: int
    param: str = ""
    code: str = ""
    message: str = ""

    @property
    def words(self) -> str:
        """Return what is told of it: `max_tokens unsupported_parameter`."""
        return CONTEXT if self.too_long else " ".join(filter(None, (self.param, self.code)))

    @property
    def too_long(self) -> bool:
        return self.status in REFUSING and (self.code == CONTEXT or self._says(_TOO_LONG))

    @property
    def final(self) -> bool:
        """Return whether no other form of the same request would be taken."""
        return self.too_long or self.code in ("model_not_found", "insufficient_quota")

    def about(self) -> str:
        """Return the part of the request that was refused; empty when nobody can tell."""
        if self.final:
            return ""
        if self.param.startswith("messages"):
            return "system" if self._says(re.compile("role|system")) else ""
        named = (part for part in _ABOUT if self.param.startswith(part))
        said = (part for part, words in _ABOUT.items() if self._says(re.compile(words, re.IGNORECASE)))
        return next(named, "") or next(said, "")

    def _says(self, words: re.Pattern[str]) -> bool:
        return bool(words.search(self.message))


def refusal_of(status: int, body: bytes) -> RequestRefusal:
    """Read an error's body; one that comes with 200 has the status its code names."""
    with suppress(ValueError, RecursionError):
        document = json.loads(body)
        document = document if isinstance(document, dict) else {}
        error = document.get("error", document)
        error = error if isinstance(error, dict) else {"message": error}
        told = error.get("message") or document.get("detail") or ""
        code = error.get("code") or error.get("type") or ""
        if status == HTTPStatus.OK and isinstance(code, int) and code >= HTTPStatus.BAD_REQUEST:
            status = code
        param, code = (_plain(value) for value in (error.get("param"), error.get("code")))
        return RequestRefusal(status, param, code, f"{told} {error.get('type') or ''}")
    return RequestRefusal(status, message=body.decode("utf-8", "replace"))


def _plain(value: object) -> str:
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else ""


def bounded(schema: Json, name: str = "") -> Json:
    """Return a schema whose texts end, for servers that hold a model to it: a small one that repeats itself in its
    reasoning comes to its action all the same. OpenAI's strict form does not allow these bounds.
    """
    types, bounds = schema.get("type") or (), Json()
    if "string" in types and "enum" not in schema:
        bounds = {"maxLength": LENGTHS.get(name, LENGTHS[""])}
    if "array" in types and "string" in schema["items"].get("type", ()):
        bounds = {"maxItems": ITEMS, "items": schema["items"] | {"maxLength": ITEM}}
    elif "items" in schema:
        bounds = {"items": bounded(schema["items"])}
    if "anyOf" in schema:
        bounds["anyOf"] = [bounded(each, name) for each in schema["anyOf"]]
    if "properties" in schema:
        bounds["properties"] = {name: bounded(each, name) for name, each in schema["properties"].items()}
    return {**schema, **bounds}


class Form(Dto):
    """One way to put a request."""

    output: Output = "json_schema"
    left_out: Texts = ()  # of OPTIONS
    completion_tokens: bool = False  # the limit is called max_completion_tokens
    merged: bool = False  # no system message: its text begins the user's
    thinks: bool = False  # an answer's tokens were used up by thinking: there must be more of them

    def parameters(self, request: ModelRequest, effort: str, thinking: int) -> Json:
        """Return what is sent beside the messages; thinking: tokens allowed for that, on top of the answer's."""
        seed = request.prompt.seed
        options: Json = {
            "temperature": request.prompt.temperature,
            "seed": None if seed is None else seed + request.sample,  # else every sample is the same
            "reasoning_effort": effort or None,
            "tools": list(request.functions) or None,
        }  # fmt: skip
        limit = "max_completion_tokens" if self.completion_tokens else "max_tokens"
        asked: Json = {limit: request.prompt.max_tokens + thinking, "response_format": self._output(request)}
        asked |= {name: value for name, value in options.items() if name not in self.left_out}
        return {name: value for name, value in asked.items() if value is not None}

    def _output(self, request: ModelRequest) -> JsonObject | None:
        schema = dict(request.schema)
        formats: dict[Output, JsonObject] = {
            "json_schema with lengths": {"json_schema": {"name": "reply", "strict": True, "schema": bounded(schema)}},
            "json_schema": {"json_schema": {"name": "reply", "strict": True, "schema": schema}},
            "json_object with schema": {"schema": schema},
            "json_object": {},
        }
        kind = self.output.partition(" ")[0]
        return {"type": kind, **formats[self.output]} if self.output in formats else None

    def messages(self, messages: Messages) -> list[dict[str, str]]:
        """Return the messages as this model takes them."""
        first, *rest = messages
        if not self.merged or first["role"] != "system" or not rest:
            return list(messages)
        return [{"role": rest[0]["role"], "content": f"{first['content']}\n\n{rest[0]['content']}"}, *rest[1:]]

    def after(self, refusal: RequestRefusal, sent: Sequence[str]) -> "tuple[Form, str] | None":
        """Return the form to try after a refusal of one with these parameters, and what is other about it."""
        broke = refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if refusal.status not in REFUSING and not broke:
            return None
        about = refusal.about()
        if about == "system" and not self.merged:
            return self.replace(merged=True), "system merged into user"
        if about == "max_tokens" and not self.completion_tokens:
            return self.replace(completion_tokens=True), "max_completion_tokens"
        if about == "response_format" and about in sent:
            output = OUTPUTS[OUTPUTS.index(self.output) + 1]
            return self.replace(output=output), f"response_format {output}"
        if about in OPTIONS and about in sent:
            return self.replace(left_out=(*self.left_out, about)), f"no {about}"
        return None if about or broke or refusal.final else self.bare(sent)

    def bare(self, sent: Sequence[str]) -> "tuple[Form, str] | None":
        """Return the form without anything optional, for refusals that say nothing; None: it was sent."""
        if not {"response_format", *OPTIONS} & set(sent):
            return None
        return self.replace(output="none", left_out=OPTIONS), "no options"


class _Kept(Dto):
    form: Form
    at: Utc


_KEPT = TypeAdapter(dict[str, _Kept])


class Forms:
    """The forms that worked, by model and address; with a file across processes, without in this one."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.kept = self._read()

    def find(self, name: str) -> Form | None:
        kept = self.kept.get(name)
        return kept.form if kept and clock.now() - kept.at < KEPT_FOR else None

    def keep(self, name: str, form: Form) -> None:
        """Keep a form that worked; the file is written only when it says something else."""
        if self.find(name) == form:
            return
        self.kept[name] = _Kept(form=form, at=clock.now())
        if self.file:
            whole = _KEPT.dump_json(self._read() | {name: self.kept[name]}, indent=1, exclude_defaults=True)
            with suppress(OSError):  # a place that cannot be written costs each process one refusal
                self.file.parent.mkdir(parents=True, exist_ok=True)
                written = self.file.with_suffix(f".{clock.new_name()}")
                written.write_bytes(whole)
                written.replace(self.file)

    def _read(self) -> dict[str, _Kept]:
        try:
            return _KEPT.validate_json(self.file.read_bytes()) if self.file else {}
        except (OSError, ValueError):  # none yet, or another release's
            return {}


@cache
def forms_in(home: Path) -> Forms:
    """Return this process's forms, which HOME keeps."""
    return Forms(home / "model_forms.json")
