"""The action space on the wire: the flat schema a model gets, and the parser that takes its reply apart.

`wire_schema` is generated from the DTOs, so the two cannot drift; `object_schema` and `parse_as` do the same for a
role whose reply is one DTO. The parsers never raise and never guess: one JSON object may stand in prose or code
fences; a list, two objects, an object keyed by symbol or a broken one is `Unusable` with a reason. Each character is
read a bounded number of times, so no reply can make them slow.

What can mean one thing only is read so, and the decision names it (`read_as`): an entry limit's offset below 0 is as
far in the trade's favour, a confidence in percent is that share, none at all is 0.5. Between 1 and 2 it could be
either, and is refused.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Literal, TypeVar, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from tasks.core.types import ACTIONS, CLASSES, MANAGES, Decision, Dto, JsonObject, Texts, first_error

MAX_REPLY_BYTES = 200_000
MAX_NUMBER_CHARS = 64
MAX_LISTS = 500  # a failed one costs a pass over the text: JSONDecodeError counts its lines
MAX_MAGNITUDE = 30  # powers of ten; no field needs more, and arithmetic on larger exponents is unbounded
# Thinking first: a model bound to the schema writes the fields in this order.
WIRE_FIELDS = (
    "reasoning", "key_factors", "risk_assessment", "symbol", "action", "size_pct", "entry", "stop_atr", "tp_atr", "to",
    "minutes", "scope", "followups", "confidence", "comment",
)  # fmt: skip

UNSURE = Decimal("0.5")  # the confidence of a reply that names none
PERCENT_FROM = 2  # up to here a confidence above 1 may be a share or percent
READ_AS = "read_as"  # ours: no reply may have it
_BOUNDS = {"gt": ">", "ge": ">=", "le": "<=", "max_length": "at most"}
_DECIMAL_LITERAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_SYMBOL_LIKE = re.compile(r"[A-Z0-9]{2,}([/:_-][A-Z0-9]+)*")
_OPENING = re.compile(r"[{\[]")
_OBJECT_START = re.compile(r'\{\s*["}]')


@dataclass(unsafe_hash=True)
class Unusable(ValueError):
    """Why a reply is not a decision: a reason for machines and what was seen, for people."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


Parsed = Decision | Unusable
Reply = TypeVar("Reply", bound=Dto)


def _unusable(reason: str, detail: str = "") -> Unusable:
    """Describe a failure; a model's own keys may stand in both: plain and short, whatever it wrote."""
    return Unusable(ascii(reason)[1:-1][:80], ascii(detail)[1:-1][:200])


# --- the schema ---------------------------------------------------------------------------------------------------


@cache
def wire_schema() -> JsonObject:
    """Return the flat JSON schema of one decision: every field required and nullable, nothing else allowed."""
    fields = {"action": _one_of(ACTIONS)}
    for name in WIRE_FIELDS:
        owners = {action: c.model_fields[name] for action, c in CLASSES.items() if name in c.model_fields}
        if name != "action":
            fields[name] = _nullable(next(iter(owners.values())).annotation) | _described(owners)
    return strict_object({name: fields[name] for name in WIRE_FIELDS})


@cache
def object_schema(cls: type[Dto]) -> JsonObject:
    """Return the flat JSON schema of `cls` in the same strict form."""
    return strict_object({n: _nullable(f.annotation) | _described({"": f}) for n, f in wire_fields(cls).items()})


def wire_fields(cls: type[Dto]) -> dict[str, FieldInfo]:
    """Return the fields of `cls` that a model writes."""
    return {name: field for name, field in cls.model_fields.items() if name != READ_AS}


def strict_object(properties: Mapping[str, object]) -> JsonObject:
    """Return the schema of an object that has all of these properties and no other."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _nullable(annotation: object) -> JsonObject:
    if isinstance(annotation, type) and issubclass(annotation, Dto):
        return {"anyOf": [object_schema(annotation), {"type": "null"}]}
    if get_origin(annotation) is Literal:
        return _one_of(get_args(annotation))
    if get_origin(annotation) is tuple:
        return {"type": ["array", "null"], "items": {"type": "string"}}
    if annotation is bool:
        return {"type": ["boolean", "null"]}
    return {"type": ["number" if annotation is Decimal else "string", "null"]}


def _one_of(words: Sequence[str]) -> JsonObject:
    """Return the form that every engine honours: an enum beside a list of types is dropped by llama-cpp-python's."""
    return {"anyOf": [{"type": "string", "enum": list(words)}, {"type": "null"}]}


def _described(owners: dict[str, FieldInfo]) -> JsonObject:
    """Describe a field and its bounds, which strict structured output does not allow as keywords."""
    meanings: dict[str, list[str]] = {}
    for action, field in owners.items():
        text = ", ".join(part for part in (field.description or "", *_bounds(field)) if part)
        meanings.setdefault(text, []).append(action)
    if len(owners) == len(CLASSES) or owners.keys() == {""}:
        text = next(iter(meanings))
    else:
        text = "; ".join(f"{'/'.join(actions)}: {meaning}".rstrip(": ") for meaning, actions in meanings.items())
    return {"description": text} if text else {}


def _bounds(field: FieldInfo) -> Iterator[str]:
    unit = " characters" if field.annotation is str else ""
    for bound in field.metadata:
        yield from (f"{words} {getattr(bound, name)}{unit}" for name, words in _BOUNDS.items() if hasattr(bound, name))


# --- the parser ---------------------------------------------------------------------------------------------------


def parse_reply(
    reply: str | JsonObject, symbol: str, *, max_bytes: int = MAX_REPLY_BYTES, literal: bool = False
) -> Parsed:
    """Return the one decision in a model's reply, or why there is none; never raises, whatever the reply is.

    literal: read it as a strategy of before did, nothing but what stands there.
    """

    def read() -> Decision:
        said = _only_object(reply, max_bytes)
        said, notes = (said, ()) if literal else as_meant(said)
        decision = _decision(said, symbol)
        if literal and isinstance(decision, MANAGES):
            return decision.replace(followups=()) if decision.followups else decision
        return decision.replace(read_as=notes) if notes else decision

    return _returned(read)


def parse_as(reply: str | JsonObject, cls: type[Reply]) -> Reply | Unusable:
    """Return the one `cls` in a reply, or in an object found inside one, or why there is none.

    Never raises, and refuses any other field.
    """
    return _returned(lambda: _filled(cls, _only_object(reply), wire_fields(cls)))


def as_meant(reply: JsonObject) -> tuple[JsonObject, Texts]:
    """Return the reply with what can mean one thing only read so, and a note of each; raises Unusable where it is
    ambiguous."""
    notes, said, entry = list[str](), reply.get("confidence"), reply.get("entry")
    share = UNSURE if said is None else _share(said)
    if share is not None:
        reply = reply | {"confidence": share}
        notes.append(f"confidence {'missing' if said is None else said} as {share}")
    offset = _plain_number(entry.get("offset_bps")) if isinstance(entry, dict) else None
    if isinstance(entry, dict) and offset is not None and offset < 0:
        reply = reply | {"entry": entry | {"offset_bps": -offset}}
        notes.append(f"offset_bps {offset} as {-offset}")
    return reply, tuple(notes)


def _share(said: object) -> Decimal | None:
    """Return a confidence in percent as a share; None where it is one already, or no number."""
    marked = isinstance(said, str) and said.rstrip().endswith("%")
    number = _plain_number(said.rstrip().removesuffix("%").rstrip() if isinstance(said, str) else said)
    if number is None or not (marked or 1 < number <= 100):
        return None
    if not marked and number <= PERCENT_FROM:
        raise _unusable("ambiguous:confidence", f"{number} is more than 1, and little for percent")
    return number / 100


def _plain_number(said: object) -> Decimal | None:
    if isinstance(said, str) and _DECIMAL_LITERAL.fullmatch(said):
        return _number(said)
    return said if isinstance(said, Decimal) else None


def _returned(read: Callable[[], Reply]) -> Reply | Unusable:
    try:
        return read()
    except Unusable as e:
        return e.with_traceback(None)
    except RecursionError:
        return Unusable("too_deep", "nested deeper than any decision")


def reply_of(decision: Decision) -> JsonObject:
    """Return the reply a model would have sent for `decision`; numbers are Decimal, other actions' fields absent."""
    return decision.model_dump(exclude={"source", READ_AS})


def _only_object(text: str | JsonObject, max_bytes: int = MAX_REPLY_BYTES) -> JsonObject:
    """Return the single top-level JSON object of `text`, skipping prose and lists without objects in it."""
    if isinstance(text, dict):
        return text
    if len(text) > max_bytes or len(text.encode("utf-8", "surrogatepass")) > max_bytes:
        raise _unusable("too_long", f"{len(text)} characters, at most {max_bytes} bytes are read")
    found = None
    at = lists = 0
    while opening := _OPENING.search(text, at):
        if opening[0] == "[":
            lists += 1
            if lists > MAX_LISTS:
                raise _unusable("invalid_json", f"more than {MAX_LISTS} brackets")
            at = _after_list(text, opening.start())
        elif _OBJECT_START.match(text, opening.start()):
            value, at = _object_at(text, opening.start())
            if found is not None:
                raise _unusable("two_objects", "the reply must be exactly one JSON object")
            found = value
        else:
            at = opening.end()  # a brace in prose
    if found is None:
        raise _unusable("no_json", text.strip()[:80])
    return found


def _after_list(text: str, start: int) -> int:
    """Return where to read on after a `[`; raises when objects stand in that list, complete or not."""
    try:
        _, end = _LIST.raw_decode(text, start)
    except json.JSONDecodeError as e:
        end = max(e.pos, start + 1)
    if "{" in text[start:end]:
        raise _unusable("array", "a list where one object was asked for")
    return end


def _object_at(text: str, start: int) -> tuple[JsonObject, int]:
    try:
        return cast("tuple[JsonObject, int]", _OBJECT.raw_decode(text, start))
    except json.JSONDecodeError as e:
        at_end = e.msg.startswith("Unterminated string") or e.pos >= len(text.rstrip("` \t\r\n"))
        raise _unusable("truncated_json" if at_end else "invalid_json", f"{e.msg} at {e.pos}") from e


def _number(literal: str) -> Decimal:
    if len(literal) > MAX_NUMBER_CHARS:
        raise _unusable("not_finite", f"a number of {len(literal)} characters")
    try:
        value = Decimal(literal)
    except InvalidOperation:
        raise _unusable("not_finite", literal) from None
    if not value.is_finite() or abs(value.adjusted()) > MAX_MAGNITUDE:
        raise _unusable("not_finite", literal)
    return value


def _unique(pairs: list[tuple[str, object]]) -> JsonObject:
    result = {}
    for key, value in pairs:
        if key in result:
            raise _unusable("duplicate_key", key[:80])
        result[key] = value
    return result


# strict=False: models put raw line breaks into their reasoning; that is not ambiguous.
_OBJECT = json.JSONDecoder(
    parse_float=_number, parse_int=_number, parse_constant=_number, object_pairs_hook=_unique, strict=False
)
_LIST = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str, strict=False)


def _decision(reply: JsonObject, symbol: str) -> Decision:
    cls = CLASSES[_action_of(reply)]
    if reply.get("symbol") not in (None, symbol):
        raise _unusable("symbol_mismatch", f"asked about {symbol}, answered about {reply['symbol']!s:.40}")
    return cast("Decision", _filled(cls, {**reply, "symbol": symbol}, WIRE_FIELDS))


def _filled(cls: type[Reply], reply: JsonObject, known: Collection[str]) -> Reply:
    """Read the fields of `cls`; other `known` ones are another action's and left out, any other is refused."""
    unknown = next((key for key in reply if key not in known), None)
    if unknown is not None:
        raise _unusable("invalid", f"unknown field {unknown[:80]}")
    given = {n: _clean(reply[n], f.annotation, n) for n, f in cls.model_fields.items() if reply.get(n) is not None}
    try:
        return cls.model_validate({name: value for name, value in given.items() if value != {}})
    except ValidationError as e:
        first, (name, why) = e.errors()[0], first_error(e)
        if first["type"] == "missing":
            raise _unusable(f"missing:{name}") from e
        raise _unusable(f"invalid:{name}", f"{why}, was {first['input']!s:.60}") from e


def _action_of(reply: JsonObject) -> str:
    action = reply.get("action")
    if action is None:
        if any(isinstance(value, dict) and _SYMBOL_LIKE.fullmatch(key) for key, value in reply.items()):
            raise _unusable("keyed_by_symbol", ", ".join(reply)[:80])
        raise _unusable("missing:action", ", ".join(reply)[:80])
    if not isinstance(action, str) or action not in ACTIONS:
        raise _unusable("unknown_action", f"{action!s:.40}")
    return action


def _clean(value: object, annotation: object, name: str) -> object:
    """Drop nulls, read decimal literals in strings, take out NUL and lone surrogates (no database keeps them)."""
    if isinstance(value, dict) and isinstance(annotation, type) and issubclass(annotation, Dto):
        types = {n: f.annotation for n, f in annotation.model_fields.items()}
        return {k: _clean(v, types.get(k), f"{name}.{k}") for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_clean(item, None, name) for item in value]
    if not isinstance(value, str):
        return value
    if annotation is Decimal:
        if not _DECIMAL_LITERAL.fullmatch(value):
            raise _unusable(f"invalid:{name}", f"{value[:40]!r} is not a number")
        return _number(value)
    return value.encode("utf-8", "replace").decode().replace("\x00", "")
